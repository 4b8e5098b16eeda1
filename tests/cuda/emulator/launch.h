// A launch: limits, shared memory poisoned before each block and guarded behind, faults turned into messages.
#pragma once

#include <array>
#include <csignal>
#include <mutex>
#include <tuple>
#include <utility>
#if defined(__linux__)
#include <dlfcn.h>
#include <link.h>
#endif

#include "warp.h"

namespace emulated {

// Dynamic shared memory that a block of compute capability 8.0 may ask for; 9.0 has more.
constexpr size_t MAX_SHARED_BYTES = 163 * 1024;
constexpr size_t GUARD_BYTES = 1024;
constexpr unsigned MAX_GRID_YZ = 65535;
// All bits set: NaN in every floating-point type, -1 as a signed index.
constexpr int POISON = 0xff;

}  // namespace emulated

// Block-scope `__shared__` variables are thread-local: static, and together in one stretch of memory that can be poisoned.
// `extern __shared__ unsigned char dynamic_shared[];` in a kernel names this array.
inline thread_local __attribute__((aligned(128))) unsigned char dynamic_shared[emulated::MAX_SHARED_BYTES + emulated::GUARD_BYTES];

namespace emulated {

#if defined(__linux__)
// Where this library's thread-local memory lies for the calling thread.
inline void find_shared() {
    dynamic_shared[0] = POISON;
    shared_begin = shared_end = nullptr;
    auto look = [](dl_phdr_info* info, size_t, void*) {
        bool is_own = false;
        const ElfW(Phdr)* local = nullptr;
        for (int i = 0; i < info->dlpi_phnum; i++) {
            const ElfW(Phdr)& part = info->dlpi_phdr[i];
            uintptr_t start = info->dlpi_addr + part.p_vaddr, own = reinterpret_cast<uintptr_t>(&find_shared);
            if (part.p_type == PT_LOAD && own >= start && own < start + part.p_memsz) is_own = true;
            if (part.p_type == PT_TLS) local = &part;
        }
        if (!is_own || local == nullptr) return 0;
        shared_begin = info->dlpi_tls_data;
        shared_end = static_cast<char*>(shared_begin) + local->p_memsz;
        return 1;
    };
    dl_iterate_phdr(look, nullptr);
}
#else
inline void find_shared() { shared_begin = shared_end = nullptr; }
#endif

inline void poison_shared(size_t dynamic_bytes) {
    unsigned char* guarded_end = dynamic_shared + dynamic_bytes + GUARD_BYTES;
    memset(dynamic_shared, POISON, guarded_end - dynamic_shared);
    if (shared_begin == nullptr) return;
    unsigned char *begin = static_cast<unsigned char*>(shared_begin), *end = static_cast<unsigned char*>(shared_end);
    unsigned char* behind = dynamic_shared + sizeof dynamic_shared;
    memset(begin, POISON, dynamic_shared - begin);
    memset(behind, POISON, end - behind);
}

inline bool is_guard_whole(size_t dynamic_bytes) {
    for (size_t i = 0; i < GUARD_BYTES; i++) {
        if (dynamic_shared[dynamic_bytes + i] != POISON) return false;
    }
    return true;
}

// Where in the library an instruction lies, for `addr2line -Cfie LIBRARY OFFSET`.
inline void describe_instruction(char* text, size_t bytes, void* signal_context) {
    text[0] = '\0';
#if defined(__linux__) && defined(__x86_64__)
    uintptr_t at = static_cast<ucontext_t*>(signal_context)->uc_mcontext.gregs[REG_RIP];
    Dl_info found;
    if (dladdr(reinterpret_cast<void*>(at), &found)) snprintf(text, bytes, " @%#zx", static_cast<size_t>(at - reinterpret_cast<uintptr_t>(found.dli_fbase)));
#endif
}

inline volatile bool is_inside;
inline pthread_t inside;
inline struct sigaction before[3];
constexpr std::array<int, 3> FAULTS = {SIGSEGV, SIGBUS, SIGILL};

inline void on_fault(int signal, siginfo_t* info, void* signal_context) {
    if (!is_inside || !pthread_equal(inside, pthread_self())) {
        ::signal(signal, SIG_DFL);
        return;
    }
    char place[64];
    describe_instruction(place, sizeof place, signal_context);
    if (signal == SIGILL) fail("an address that is not aligned to its type, an index outside an array, or a shift too far%s", place);
    const char* action = "reads or writes";
#if defined(__linux__) && defined(__x86_64__)
    action = static_cast<ucontext_t*>(signal_context)->uc_mcontext.gregs[REG_ERR] & 2 ? "writes" : "reads";
    // A general protection fault has no address: a vector instruction on an address that is not aligned.
    if (static_cast<ucontext_t*>(signal_context)->uc_mcontext.gregs[REG_TRAPNO] == 13) fail("an address that is not aligned%s", place);
#endif
    const char *address = static_cast<char*>(info->si_addr), *stack = self->stack;
    if (address >= stack - PAGE_BYTES && address < stack) fail("the stack overflows: too many local variables%s", place);
    fail("%s %p, outside of any buffer that it may%s", action, info->si_addr, place);
}

struct Watch {
    Watch() {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        stack_t own = {}, theirs = {};
        static char stack[64 * 1024];
        sigaltstack(nullptr, &theirs);
        own.ss_sp = stack;
        own.ss_size = sizeof stack;
        if (theirs.ss_flags & SS_DISABLE) sigaltstack(&own, nullptr), has_stack = true;
        for (size_t i = 0; i < FAULTS.size(); i++) sigaction(FAULTS[i], &action, &before[i]);
        inside = pthread_self();
        is_inside = true;
    }
    ~Watch() {
        is_inside = false;
        for (size_t i = 0; i < FAULTS.size(); i++) sigaction(FAULTS[i], &before[i], nullptr);
        stack_t none = {};
        none.ss_flags = SS_DISABLE;
        if (has_stack) sigaltstack(&none, nullptr);
    }
    bool has_stack = false;
};

// What the driver would refuse.
inline const char* refusal(dim3 grid, dim3 dim, size_t shared_bytes) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || dim.x == 0 || dim.y == 0 || dim.z == 0) return "an empty grid or block";
    if (grid.x > 0x7fffffff || grid.y > MAX_GRID_YZ || grid.z > MAX_GRID_YZ) return "a grid beyond 2147483647 x 65535 x 65535 blocks";
    if (size_t(dim.x) * dim.y * dim.z > MAX_THREADS || dim.z > 64) return "a block beyond 1024 threads";
    if (shared_bytes > MAX_SHARED_BYTES) return "more dynamic shared memory than compute capability 8.0 has";
    return nullptr;
}

// Runs a kernel; false, with `error` set, where it failed.
inline bool launch(const char* name, void (*body)(void**), void** arguments, dim3 grid, dim3 dim, size_t shared_bytes, bool reversed) {
    error[0] = '\0';
    kernel_name = name;
    if (const char* refused = refusal(grid, dim, shared_bytes)) {
        snprintf(error, sizeof error, "kernel %s: %s: grid (%u, %u, %u), block (%u, %u, %u), %zu bytes of dynamic shared memory", name, refused, grid.x, grid.y,
                 grid.z, dim.x, dim.y, dim.z, shared_bytes);
        return false;
    }
    kernel_body = body;
    kernel_arguments = arguments;
    is_reversed = reversed;
    block.grid = grid;
    block.dim = dim;
    block.num_threads = dim.x * dim.y * dim.z;
    block.num_warps = (block.num_threads + WARP_SIZE - 1) / WARP_SIZE;
    find_shared();
    Watch watch;
    size_t num_blocks = size_t(grid.x) * grid.y * grid.z;
    for (size_t i = 0; i < num_blocks; i++) {
        size_t at = reversed ? num_blocks - 1 - i : i;
        block.index = {unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y)};
        poison_shared(shared_bytes);
        if (!run_block()) return false;
        if (!is_guard_whole(shared_bytes)) {
            snprintf(error, sizeof error, "kernel %s, block (%u, %u, %u): writes behind its %zu bytes of dynamic shared memory", name, block.index.x, block.index.y,
                     block.index.z, shared_bytes);
            return false;
        }
    }
    return true;
}

// One letter and the size in bytes of each parameter of a kernel: p pointer, f floating point, i integer, s anything else.
template <class T>
constexpr char KIND = std::is_pointer_v<T> ? 'p' : std::is_floating_point_v<T> ? 'f' : std::is_integral_v<T> ? 'i' : 's';

template <auto KERNEL>
struct Entry;

template <class... Parameters, void (*KERNEL)(Parameters...)>
struct Entry<KERNEL> {
    static void run(void** arguments) { run_with(arguments, std::index_sequence_for<Parameters...>()); }

    template <size_t... I>
    static void run_with([[maybe_unused]] void** arguments, std::index_sequence<I...>) {
        KERNEL(*static_cast<std::remove_const_t<Parameters>*>(arguments[I])...);
    }

    static constexpr size_t COUNT = sizeof...(Parameters);
    static constexpr std::array<char, COUNT> KINDS = {KIND<Parameters>...};
    static constexpr std::array<size_t, COUNT> SIZES = {sizeof(Parameters)...};
};

struct Kernel {
    const char* name;
    void (*run)(void**);
    size_t num_parameters;
    const char* kinds;
    const size_t* sizes;
};

}  // namespace emulated
