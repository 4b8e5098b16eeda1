// In place of the toolkit's header: its types are the emulator's.
#include "../emulator.h"
