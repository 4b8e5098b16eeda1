//! Notes on what the engine falls back to.

use std::sync::OnceLock;

/// The function that notes go to.
static NOTES: OnceLock<fn(&str)> = OnceLock::new();

/// Sends notes on fallbacks, such as a matrix product that the library refuses, to `tell`. Without
/// it there are none.
pub fn tell_notes(tell: fn(&str)) {
    // The first one stays.
    let _ = NOTES.set(tell);
}

/// Tells of a fallback.
pub(crate) fn note(text: &str) {
    if let Some(tell) = NOTES.get() {
        tell(text);
    }
}
