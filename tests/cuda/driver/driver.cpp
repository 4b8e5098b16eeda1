// An emulated `libcuda.so.1`: a GPU made of host memory, whose kernels are those of `emulated.cpp`. Everything happens at once, in
// the order in which it is asked for, so streams and events have nothing to do; but what is copied into page-locked memory is seen
// there after a wait alone.
//
// Settings, all of them variables of the environment:
//   MAQAM_EMULATED_REPORT      memory, waits, launches and time by kernel, on stderr at exit
//   MAQAM_EMULATED_REVERSED    blocks and threads in descending order: a run must give the same bits
//   MAQAM_EMULATED_MEMORY_GIB  memory of the GPU, 8 otherwise
//   MAQAM_EMULATED_CAPABILITY  compute capability, 90 otherwise
//   MAQAM_EMULATED_FAULT       name of a kernel, or `product` for those of cuBLASLt: its first launch is accepted and then reads an
//                              illegal address. As on a GPU, the launch itself succeeds and every later call of the process fails
//                              with CUDA_ERROR_ILLEGAL_ADDRESS
//   MAQAM_EMULATED_FULL        number of an allocation, from 1: it and all later ones find no memory until the pool is trimmed
//   MAQAM_EMULATED_TAKEN       the same, and trimming does not help: another program has taken what was free
//   MAQAM_EMULATED_DRIVER      CUDA that the driver knows, 13000 otherwise

#include <atomic>
#include <ctime>
#include <dlfcn.h>
#include <set>
#include <string>
#include <vector>

#include "candle.h"
#include "memory.h"

using Result = int;
using Pointer = unsigned long long;

namespace {

constexpr Result SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719;
constexpr size_t SHARED_WITHOUT_ASKING = 48 * 1024;
constexpr size_t MAX_SHARED = 163 * 1024;

struct Function {
    std::string name;
    candle::Kernel of_candle;  // empty for our kernels
    size_t shared_limit = SHARED_WITHOUT_ASKING;
};

// A module is our kernels (machine code, of which nothing is read) or some of candle's (PTX, a text).
struct Module {
    std::string ptx;
    std::map<std::string, Function> functions;
};

struct Account {
    size_t launches = 0;
    double seconds = 0.0;
};

std::mutex lock;
std::map<std::string, Account>* accounts = new std::map<std::string, Account>();
// What was copied into page-locked memory and is not seen there yet; and that memory, with its sizes.
struct Copy {
    void* to;
    std::vector<unsigned char> bytes;
};
std::vector<Copy>* copies = new std::vector<Copy>();
std::map<unsigned char*, size_t>* page_locked = new std::map<unsigned char*, size_t>();
// Whether a launch has faulted: nothing works in a context after that.
std::atomic<bool> is_dead{false};
// Whether allocations find nothing until the pool is trimmed, and whether they find nothing from now on.
std::atomic<bool> is_full{false}, is_taken{false};
thread_local void* current_context;
int primary_context, the_pool;

void complain(const char* function, const std::string& what) { fprintf(stderr, "emulated GPU: %s: %s\n", function, what.c_str()); }

// Time that products pretend to have taken on top, in nanoseconds.
std::atomic<int64_t> pretended{0};

// Processor time of this process, so that other programs do not change what is fast. Threads of the process begin and end events.
double now() {
    timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec + pretended);
}

__attribute__((destructor)) void report() {
    if (getenv("MAQAM_EMULATED_REPORT") == nullptr) return;
    gpu::memory().report();
    for (const auto& [name, account] : *accounts) {
        fprintf(stderr, "emulated GPU: %8zu x %-32s %9.3f s\n", account.launches, name.c_str(), account.seconds);
    }
}

}  // namespace

extern "C" {
int maqam_emulate(const char*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, size_t, void**);
int maqam_emulate_reversed(const char*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, size_t, void**);
const char* maqam_emulate_error();
long maqam_emulate_parameters(const char*, const char**, const size_t**);
}

#define EXPORTED extern "C" __attribute__((visibility("default")))

// For the emulated libraries beside this one.
EXPORTED void maqam_gpu_require(const char* what, const void* pointer, size_t bytes) { gpu::memory().require(what, pointer, bytes); }
EXPORTED double maqam_gpu_now() { return now(); }

EXPORTED void maqam_gpu_pretend(double seconds) { pretended += static_cast<int64_t>(1e9 * seconds); }

EXPORTED void maqam_gpu_account(const char* name, double seconds) {
    std::lock_guard<std::mutex> held(lock);
    Account& account = (*accounts)[name];
    account.launches++;
    account.seconds += seconds;
}

// Before a launch or a product of that name: 0 where it is to run, 1 where it faults now and is accepted all the same, 2 where the context
// is dead already.
EXPORTED int maqam_gpu_fault(const char* name) {
    static const char* faulting = getenv("MAQAM_EMULATED_FAULT");
    if (is_dead) return 2;
    if (faulting == nullptr || strcmp(faulting, name) != 0) return 0;
    fprintf(stderr, "emulated GPU: %s reads an illegal address, as MAQAM_EMULATED_FAULT asks\n", name);
    is_dead = true;
    return 1;
}

// The first line of every call that fails in a dead context.
#define LIVING \
    if (is_dead) return ILLEGAL_ADDRESS

namespace {

// What every wait does.
Result settle() {
    std::lock_guard<std::mutex> held(lock);
    for (const Copy& copy : *copies) memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
    return copies->clear(), SUCCESS;
}

Result wait(const char* name) {
    LIVING;
    gpu::memory().trim();
    maqam_gpu_account(name, 0.0);
    return settle();
}

}  // namespace

// ---- The device and its context ----

EXPORTED Result cuInit(unsigned) { return SUCCESS; }
EXPORTED Result cuDriverGetVersion(int* version) { return *version = static_cast<int>(gpu::setting("MAQAM_EMULATED_DRIVER", 13000)), SUCCESS; }
EXPORTED Result cuDeviceGetCount(int* count) { return *count = 1, SUCCESS; }
EXPORTED Result cuDeviceGet(int* device, int ordinal) { return *device = 0, ordinal == 0 ? SUCCESS : INVALID_DEVICE; }
EXPORTED Result cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = gpu::memory().total, SUCCESS; }
EXPORTED Result cuDeviceGetName(char* name, int length, int) { return snprintf(name, length, "emulated GPU"), SUCCESS; }

EXPORTED Result cuDeviceGetAttribute(int* value, int attribute, int) {
    int capability = static_cast<int>(gpu::setting("MAQAM_EMULATED_CAPABILITY", 90));
    switch (attribute) {
        case 1: return *value = 1024, SUCCESS;                  // MAX_THREADS_PER_BLOCK
        case 8: return *value = SHARED_WITHOUT_ASKING, SUCCESS;  // MAX_SHARED_MEMORY_PER_BLOCK
        case 10: return *value = 32, SUCCESS;                   // WARP_SIZE
        case 16: return *value = 132, SUCCESS;                  // MULTIPROCESSOR_COUNT
        case 75: return *value = capability / 10, SUCCESS;      // COMPUTE_CAPABILITY_MAJOR
        case 76: return *value = capability % 10, SUCCESS;      // COMPUTE_CAPABILITY_MINOR
        case 97: return *value = MAX_SHARED, SUCCESS;           // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        case 115: return *value = 1, SUCCESS;                   // MEMORY_POOLS_SUPPORTED
    }
    complain("cuDeviceGetAttribute", "attribute " + std::to_string(attribute) + " is not emulated");
    return INVALID_VALUE;
}

EXPORTED Result cuDevicePrimaryCtxRetain(void** context, int) { return *context = &primary_context, SUCCESS; }
EXPORTED Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
EXPORTED Result cuCtxGetCurrent(void** context) { return *context = current_context, SUCCESS; }
EXPORTED Result cuCtxSetCurrent(void* context) { return current_context = context, SUCCESS; }
EXPORTED Result cuCtxSynchronize() { return wait("cuCtxSynchronize"); }

EXPORTED Result cuGetErrorName(Result error, const char** name) {
    switch (error) {
        case SUCCESS: return *name = "CUDA_SUCCESS", SUCCESS;
        case INVALID_VALUE: return *name = "CUDA_ERROR_INVALID_VALUE", SUCCESS;
        case OUT_OF_MEMORY: return *name = "CUDA_ERROR_OUT_OF_MEMORY", SUCCESS;
        case INVALID_DEVICE: return *name = "CUDA_ERROR_INVALID_DEVICE", SUCCESS;
        case NOT_FOUND: return *name = "CUDA_ERROR_NOT_FOUND", SUCCESS;
        case ILLEGAL_ADDRESS: return *name = "CUDA_ERROR_ILLEGAL_ADDRESS", SUCCESS;
        case LAUNCH_FAILED: return *name = "CUDA_ERROR_LAUNCH_FAILED", SUCCESS;
    }
    return *name = "an error that is not emulated", SUCCESS;
}
EXPORTED Result cuGetErrorString(Result error, const char** text) { return cuGetErrorName(error, text); }

EXPORTED Result cuGetProcAddress_v2(const char* symbol, void** function, int, uint64_t, int* status) {
    *function = dlsym(RTLD_DEFAULT, symbol);
    if (status != nullptr) *status = *function ? 0 : 1;
    if (*function == nullptr) complain("cuGetProcAddress", std::string(symbol) + " is not emulated");
    return *function ? SUCCESS : NOT_FOUND;
}

// ---- Streams and events: all that they order is done already, but for copies that are not seen yet ----

EXPORTED Result cuStreamCreate(void** stream, unsigned) { return *stream = new char, SUCCESS; }
EXPORTED Result cuStreamDestroy_v2(void* stream) { return delete static_cast<char*>(stream), SUCCESS; }
EXPORTED Result cuStreamSynchronize(void*) { return wait("cuStreamSynchronize"); }
EXPORTED Result cuStreamWaitEvent(void*, void*, unsigned) { return SUCCESS; }
EXPORTED Result cuStreamIsCapturing(void*, int* status) { return *status = 0, SUCCESS; }

EXPORTED Result cuEventCreate(void** event, unsigned) { LIVING; return *event = new double(0.0), SUCCESS; }
EXPORTED Result cuEventDestroy_v2(void* event) { return delete static_cast<double*>(event), SUCCESS; }
EXPORTED Result cuEventRecord(void* event, void*) { LIVING; return *static_cast<double*>(event) = now(), SUCCESS; }
EXPORTED Result cuEventQuery(void*) { LIVING; return settle(); }
EXPORTED Result cuEventSynchronize(void*) { return wait("cuEventSynchronize"); }
EXPORTED Result cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
    LIVING;
    *milliseconds = static_cast<float>(1e3 * (*static_cast<double*>(end) - *static_cast<double*>(start)));
    return SUCCESS;
}
EXPORTED Result cuEventElapsedTime(float* milliseconds, void* start, void* end) { return cuEventElapsedTime_v2(milliseconds, start, end); }

// ---- Memory ----

EXPORTED Result cuMemAllocAsync(Pointer* pointer, size_t bytes, void*) {
    LIVING;
    if (bytes == 0) {
        complain("cuMemAllocAsync", "a driver refuses to allocate no bytes");
        return INVALID_VALUE;
    }
    // A driver's pool finds no memory for a large tensor where what was freed lies in pieces; trimming gives it back.
    static std::atomic<size_t> num_allocations{0};
    size_t number = ++num_allocations;
    if (number == gpu::setting("MAQAM_EMULATED_FULL", 0)) is_full = true;
    if (number == gpu::setting("MAQAM_EMULATED_TAKEN", 0)) is_taken = true;
    if (is_full || is_taken) return OUT_OF_MEMORY;
    *pointer = reinterpret_cast<Pointer>(gpu::memory().allocate(bytes));
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
}
EXPORTED Result cuMemAlloc_v2(Pointer* pointer, size_t bytes) { return cuMemAllocAsync(pointer, bytes, nullptr); }
EXPORTED Result cuMemFreeAsync(Pointer pointer, void*) { LIVING; return gpu::memory().release(reinterpret_cast<void*>(pointer)), SUCCESS; }
EXPORTED Result cuMemFree_v2(Pointer pointer) { return cuMemFreeAsync(pointer, nullptr); }
EXPORTED Result cuMemGetInfo_v2(size_t* free, size_t* total) {
    LIVING;
    *total = gpu::memory().total;
    *free = is_taken ? 0 : *total - gpu::memory().reserved;
    return SUCCESS;
}

EXPORTED Result cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    LIVING;
    *pointer = aligned_alloc(gpu::PAGE, (bytes + gpu::PAGE) / gpu::PAGE * gpu::PAGE);
    std::lock_guard<std::mutex> held(lock);
    return (*page_locked)[static_cast<unsigned char*>(*pointer)] = bytes, SUCCESS;
}
EXPORTED Result cuMemFreeHost(void* pointer) {
    LIVING;
    settle();
    std::lock_guard<std::mutex> held(lock);
    if (page_locked->erase(static_cast<unsigned char*>(pointer)) == 0) gpu::stop("memory is freed that is not page-locked", pointer, 0);
    return free(pointer), SUCCESS;
}

EXPORTED Result cuDeviceGetMemPool(void** pool, int) { return *pool = &the_pool, SUCCESS; }
EXPORTED Result cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = &the_pool, SUCCESS; }

// Attributes of pools: 4 release threshold, 5 and 6 reserved now and at most, 7 and 8 used now and at most.
EXPORTED Result cuMemPoolGetAttribute(void*, int attribute, void* value) {
    gpu::Memory& memory = gpu::memory();
    uint64_t values[] = {memory.threshold, memory.reserved, memory.most_reserved, memory.used, memory.peak};
    if (attribute < 4 || attribute > 8) {
        complain("cuMemPoolGetAttribute", "attribute " + std::to_string(attribute) + " is not emulated");
        return INVALID_VALUE;
    }
    return *static_cast<uint64_t*>(value) = values[attribute - 4], SUCCESS;
}

EXPORTED Result cuMemPoolSetAttribute(void*, int attribute, void* value) {
    gpu::Memory& memory = gpu::memory();
    uint64_t set = *static_cast<uint64_t*>(value);
    if (attribute == 4) return memory.threshold = set, SUCCESS;
    // A driver resets its high-water marks to what is there, and takes only zero for it.
    if (attribute == 6 && set == 0) return memory.most_reserved = memory.reserved, SUCCESS;
    if (attribute == 8 && set == 0) return memory.peak = memory.used, SUCCESS;
    complain("cuMemPoolSetAttribute", "attribute " + std::to_string(attribute) + " is not emulated");
    return INVALID_VALUE;
}

EXPORTED Result cuMemPoolTrimTo(void*, size_t) {
    LIVING;
    is_full = false;
    gpu::memory().give_back();
    return SUCCESS;
}

EXPORTED Result cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void*) {
    LIVING;
    gpu::memory().require("cuMemcpyHtoD writes outside of an allocation", reinterpret_cast<void*>(to), bytes);
    return memcpy(reinterpret_cast<void*>(to), from, bytes), SUCCESS;
}
EXPORTED Result cuMemcpyHtoD_v2(Pointer to, const void* from, size_t bytes) { return cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr); }

EXPORTED Result cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void*) {
    LIVING;
    gpu::memory().require("cuMemcpyDtoH reads outside of an allocation", reinterpret_cast<void*>(from), bytes);
    auto* source = reinterpret_cast<const unsigned char*>(from);
    std::lock_guard<std::mutex> held(lock);
    auto next = page_locked->upper_bound(static_cast<unsigned char*>(to));
    if (next == page_locked->begin() || to >= std::prev(next)->first + std::prev(next)->second) return memcpy(to, source, bytes), SUCCESS;
    copies->push_back({to, std::vector<unsigned char>(source, source + bytes)});
    return memset(to, gpu::POISON, bytes), SUCCESS;
}
EXPORTED Result cuMemcpyDtoH_v2(void* to, Pointer from, size_t bytes) { return cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr); }

EXPORTED Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void*) {
    LIVING;
    gpu::memory().require("cuMemcpyDtoD reads outside of an allocation", reinterpret_cast<void*>(from), bytes);
    gpu::memory().require("cuMemcpyDtoD writes outside of an allocation", reinterpret_cast<void*>(to), bytes);
    if (to < from + bytes && from < to + bytes) gpu::stop("cuMemcpyDtoD between places that overlap", reinterpret_cast<void*>(to), bytes);
    return memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes), SUCCESS;
}
EXPORTED Result cuMemcpyDtoD_v2(Pointer to, Pointer from, size_t bytes) { return cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr); }

EXPORTED Result cuMemsetD8Async(Pointer at, unsigned char value, size_t bytes, void*) {
    LIVING;
    gpu::memory().require("cuMemsetD8 writes outside of an allocation", reinterpret_cast<void*>(at), bytes);
    return memset(reinterpret_cast<void*>(at), value, bytes), SUCCESS;
}
EXPORTED Result cuMemsetD8_v2(Pointer at, unsigned char value, size_t bytes) { return cuMemsetD8Async(at, value, bytes, nullptr); }

// ---- Modules and launches ----

EXPORTED Result cuModuleLoadData(void** module, const void* image) {
    LIVING;
    auto* made = new Module();
    const char* text = static_cast<const char*>(image);
    // A PTX file begins with a comment or a directive.
    if (*text == '/' || *text == '.') made->ptx = text;
    return *module = made, SUCCESS;
}

EXPORTED Result cuModuleUnload(void* module) { return delete static_cast<Module*>(module), SUCCESS; }

EXPORTED Result cuModuleGetFunction(void** function, void* of, const char* name) {
    auto* module = static_cast<Module*>(of);
    std::lock_guard<std::mutex> held(lock);
    auto found = module->functions.find(name);
    if (found == module->functions.end()) {
        Function made{name, nullptr};
        if (!module->ptx.empty()) {
            if (module->ptx.find(".entry " + made.name + "(") == std::string::npos) return NOT_FOUND;
            made.of_candle = candle::find(made.name);
            if (!made.of_candle) {
                complain("cuModuleGetFunction", "candle's kernel `" + made.name + "` is not emulated");
                return NOT_FOUND;
            }
        } else {
            const char* kinds;
            const size_t* sizes;
            if (maqam_emulate_parameters(name, &kinds, &sizes) < 0) {
                complain("cuModuleGetFunction", "the kernel `" + made.name + "` is not in tests/cuda/registry.inc");
                return NOT_FOUND;
            }
        }
        found = module->functions.emplace(name, made).first;
    }
    return *function = &found->second, SUCCESS;
}

EXPORTED Result cuFuncSetAttribute(void* function, int attribute, int value) {
    constexpr int MAX_DYNAMIC_SHARED = 8;
    if (attribute != MAX_DYNAMIC_SHARED || value < 0 || size_t(value) > MAX_SHARED) {
        complain("cuFuncSetAttribute", "attribute " + std::to_string(attribute) + " cannot be " + std::to_string(value));
        return INVALID_VALUE;
    }
    return static_cast<Function*>(function)->shared_limit = value, SUCCESS;
}

EXPORTED Result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void*, void** arguments,
                               void**) {
    static const bool is_reversed = getenv("MAQAM_EMULATED_REVERSED") != nullptr;
    auto& launched = *static_cast<Function*>(function);
    if (current_context == nullptr) {
        complain("cuLaunchKernel", launched.name + " is launched by a thread without a context");
        return INVALID_VALUE;
    }
    if (shared > launched.shared_limit) {
        complain("cuLaunchKernel", launched.name + " has more dynamic shared memory than it was allowed");
        return INVALID_VALUE;
    }
    switch (maqam_gpu_fault(launched.name.c_str())) {
        case 1: return SUCCESS;
        case 2: return ILLEGAL_ADDRESS;
    }
    double start = now();
    if (launched.of_candle) {
        std::lock_guard<std::mutex> held(lock);
        launched.of_candle(arguments);
    } else {
        auto run = is_reversed ? maqam_emulate_reversed : maqam_emulate;
        if (run(launched.name.c_str(), gx, gy, gz, bx, by, bz, shared, arguments) != 0) {
            complain("cuLaunchKernel", maqam_emulate_error());
            return LAUNCH_FAILED;
        }
    }
    maqam_gpu_account(launched.name.c_str(), now() - start);
    return SUCCESS;
}
