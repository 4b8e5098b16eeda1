// Fibers: stacks of their own for the threads of a block, switched by saving what a call preserves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulated {

// A kernel's local arrays lie on the stack; the page below each stack is closed, so an overflow is an error, not damage.
constexpr size_t STACK_BYTES = 128 * 1024;
constexpr size_t PAGE_BYTES = 4096;

#if defined(__x86_64__)

struct Context {
    void* stack_pointer = nullptr;
};

extern "C" __attribute__((visibility("hidden"))) void maqam_switch(void** from, void* to);
asm(R"(
    .text
    .p2align 4
    .hidden maqam_switch
    .globl maqam_switch
    .type maqam_switch, @function
maqam_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size maqam_switch, . - maqam_switch
)");

inline void switch_to(Context& from, const Context& to) { maqam_switch(&from.stack_pointer, to.stack_pointer); }

// A context that begins `entry` when it is switched to: six registers to restore, then the address that `ret` jumps to.
inline void prepare(Context& context, char* stack, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + STACK_BYTES);
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void*>(entry);
    for (int i = 3; i <= 8; i++) top[-i] = nullptr;
    context.stack_pointer = top - 8;
}

#else

struct Context {
    ucontext_t state;
};

inline void switch_to(Context& from, const Context& to) { swapcontext(&from.state, &to.state); }

inline void prepare(Context& context, char* stack, void (*entry)()) {
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = stack;
    context.state.uc_stack.ss_size = STACK_BYTES;
    context.state.uc_link = nullptr;
    makecontext(&context.state, entry, 0);
}

#endif

// One more stack; stacks are used again by later blocks and never returned.
inline char* new_stack() {
    void* pages = mmap(nullptr, STACK_BYTES + PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages, PAGE_BYTES, PROT_NONE) != 0) {
        perror("the emulator's stacks");
        abort();
    }
    return static_cast<char*>(pages) + PAGE_BYTES;
}

}  // namespace emulated
