// The threads of one block: who runs next, barriers, and meetings of a warp's lanes.
#pragma once

#include <cstdarg>
#include <cstring>
#include <vector>

#include "fiber.h"
#include "types.h"

namespace emulated {

constexpr unsigned WARP_SIZE = 32;
constexpr unsigned MAX_THREADS = 1024;

// Lanes of one warp that come together: each hands in an operand, the last to come computes for all.
struct Meeting {
    void (*compute)(void** operands, unsigned present);
    const char* name;
    unsigned mask;
    unsigned arrived;
    void* operands[WARP_SIZE];
};

struct Warp {
    unsigned live;      // lanes that exist and have not returned
    unsigned runnable;  // lanes that may go on
    unsigned fresh;     // of these, lanes that have not begun
    unsigned at_barrier;
    Meeting meetings[WARP_SIZE];  // by the lowest lane of their mask
};

struct Copy {
    void* to;
    const void* from;
    unsigned bytes, bytes_read;
    unsigned group;
};

struct Thread {
    uint3 index;
    unsigned lane, warp;
    Context context;
    char* stack;
    unsigned copy_groups;  // committed so far
    std::vector<Copy> copies;
};

struct Block {
    uint3 index;
    dim3 dim, grid;
    unsigned num_threads, num_warps;
    unsigned num_done;
    unsigned num_at_barrier;
    unsigned barriers;      // passed so far
    unsigned votes[2];      // of `__syncthreads_count` and its kin, of this barrier and of the next
    Thread threads[MAX_THREADS];
    Warp warps[MAX_THREADS / WARP_SIZE];
};

// What runs now. One launch at a time: the entry points hold a lock.
inline Block block;
inline Thread* self;
inline Context main_context;
inline bool is_reversed;
inline const char* kernel_name = "";
inline char error[1024];
inline void (*kernel_body)(void**);
inline void** kernel_arguments;
inline std::vector<char*> stacks, free_stacks;

// Leaves the launch from any of its fibers, or from a signal's handler.
[[noreturn]] inline void leave() {
    Context abandoned;
    switch_to(abandoned, main_context);
    __builtin_unreachable();
}

[[noreturn]] inline void fail(const char* format, ...) {
    int length = snprintf(error, sizeof error, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u): ", kernel_name, block.index.x, block.index.y, block.index.z,
                          self->index.x, self->index.y, self->index.z);
    va_list rest;
    va_start(rest, format);
    vsnprintf(error + length, sizeof error - length, format, rest);
    va_end(rest);
    leave();
}

// The thread to go on: of this warp before others, in ascending or descending order. Null where all wait or have returned.
inline Thread* pick() {
    unsigned at = self->warp;
    for (unsigned i = 0; i < block.num_warps; i++) {
        Warp& warp = block.warps[at];
        if (warp.runnable) {
            unsigned lane = is_reversed ? 31 - __builtin_clz(warp.runnable) : __builtin_ctz(warp.runnable);
            warp.runnable &= ~(1u << lane);
            return &block.threads[at * WARP_SIZE + lane];
        }
        at = is_reversed ? (at == 0 ? block.num_warps : at) - 1 : (at + 1 == block.num_warps ? 0 : at + 1);
    }
    return nullptr;
}

[[noreturn]] inline void fail_stuck() {
    unsigned meeting = 0;
    const Meeting* shown = nullptr;
    for (unsigned i = 0; i < block.num_warps; i++) {
        for (const Meeting& candidate : block.warps[i].meetings) {
            if (candidate.arrived) shown = &candidate, meeting = i;
        }
    }
    if (shown == nullptr) fail("a barrier is not reached by all: %u of %u threads wait", block.num_at_barrier, block.num_threads);
    fail("%s of warp %u waits for ever: mask %08x, arrived %08x; %u threads are at a barrier, %u have returned", shown->name, meeting, shown->mask, shown->arrived,
         block.num_at_barrier, block.num_done);
}

void fiber_main();

inline bool take_fresh(const Thread* thread) {
    unsigned bit = 1u << thread->lane;
    bool is_fresh = block.warps[thread->warp].fresh & bit;
    block.warps[thread->warp].fresh &= ~bit;
    return is_fresh;
}

inline void give_stack(Thread* thread) {
    if (free_stacks.empty()) {
        stacks.push_back(new_stack());
        free_stacks.push_back(stacks.back());
    }
    thread->stack = free_stacks.back();
    free_stacks.pop_back();
    prepare(thread->context, thread->stack, fiber_main);
}

// Lets others run until this thread is made runnable and picked.
inline void pause() {
    Thread* paused = self;
    Thread* next = pick();
    if (next == nullptr) fail_stuck();
    if (take_fresh(next)) give_stack(next);
    self = next;
    if (next != paused) switch_to(paused->context, next->context);
}

// Makes every lane but this one runnable and the meeting ready for the next time.
inline void conclude(Warp& warp, Meeting& meeting, unsigned own) {
    if (meeting.compute) meeting.compute(meeting.operands, meeting.arrived);
    warp.runnable |= meeting.arrived & ~own;
    meeting.arrived = 0;
}

// `compute` sees every lane's operand; who has not arrived because it returned is missing in `present`.
inline void meet(const char* name, unsigned mask, void* operand, void (*compute)(void**, unsigned)) {
    Warp& warp = block.warps[self->warp];
    unsigned own = 1u << self->lane;
    if (!(mask & own)) fail("%s: mask %08x lacks the calling lane %u", name, mask, self->lane);
    Meeting& meeting = warp.meetings[__builtin_ctz(mask)];
    if (meeting.arrived && (meeting.mask != mask || meeting.compute != compute)) {
        fail("lanes of warp %u diverge: %s with mask %08x meets %s with mask %08x", self->warp, name, mask, meeting.name, meeting.mask);
    }
    meeting.compute = compute;
    meeting.name = name;
    meeting.mask = mask;
    meeting.operands[self->lane] = operand;
    meeting.arrived |= own;
    if (meeting.arrived == (mask & warp.live)) {
        conclude(warp, meeting, own);
    } else {
        pause();
    }
}

// Waits for the whole block; the sum of all threads' votes.
inline unsigned barrier(unsigned vote) {
    if (block.num_done) fail("a barrier is not reached by all: %u threads have returned before it", block.num_done);
    unsigned slot = block.barriers % 2;
    block.votes[slot] += vote;
    if (++block.num_at_barrier < block.num_threads) {
        block.warps[self->warp].at_barrier |= 1u << self->lane;
        pause();
    } else {
        for (unsigned i = 0; i < block.num_warps; i++) {
            block.warps[i].runnable |= block.warps[i].at_barrier;
            block.warps[i].at_barrier = 0;
        }
        block.num_at_barrier = 0;
        block.barriers++;
        block.votes[1 - slot] = 0;
    }
    return block.votes[slot];
}

// Carries out asynchronous copies of all but the newest `open` groups.
inline void finish_copies(unsigned open) {
    size_t kept = 0;
    for (Copy& copy : self->copies) {
        if (copy.group + open >= self->copy_groups) {
            self->copies[kept++] = copy;
            continue;
        }
        memcpy(copy.to, copy.from, copy.bytes_read);
        memset(static_cast<char*>(copy.to) + copy.bytes_read, 0, copy.bytes - copy.bytes_read);
    }
    self->copies.resize(kept);
}

// After a thread's last statement.
inline void finish_thread() {
    self->copy_groups++;
    finish_copies(0);
    if (block.num_at_barrier) fail("a barrier is not reached by all: this thread returns while %u threads wait", block.num_at_barrier);
    Warp& warp = block.warps[self->warp];
    warp.live &= ~(1u << self->lane);
    block.num_done++;
    for (Meeting& meeting : warp.meetings) {
        if (meeting.arrived && meeting.arrived == (meeting.mask & warp.live)) conclude(warp, meeting, 0);
    }
}

// The body of every fiber: threads that have not begun follow each other on one stack until one of them has to wait.
inline void fiber_main() {
    for (;;) {
        kernel_body(kernel_arguments);
        finish_thread();
        if (block.num_done == block.num_threads) leave();
        Thread* next = pick();
        if (next == nullptr) fail_stuck();
        char* stack = self->stack;
        self = next;
        if (take_fresh(next)) {
            next->stack = stack;
            continue;
        }
        free_stacks.push_back(stack);
        Context abandoned;
        switch_to(abandoned, next->context);
    }
}

// Runs one block; false where it failed.
inline bool run_block() {
    block.num_done = block.num_at_barrier = block.barriers = block.votes[0] = block.votes[1] = 0;
    for (unsigned i = 0; i < block.num_warps; i++) {
        unsigned lanes = block.num_threads - i * WARP_SIZE;
        Warp& warp = block.warps[i];
        warp.live = warp.runnable = warp.fresh = lanes >= WARP_SIZE ? ~0u : (1u << lanes) - 1;
        warp.at_barrier = 0;
        for (Meeting& meeting : warp.meetings) meeting.arrived = 0;
    }
    for (unsigned i = 0; i < block.num_threads; i++) {
        Thread& thread = block.threads[i];
        thread.index = {i % block.dim.x, i / block.dim.x % block.dim.y, i / block.dim.x / block.dim.y};
        thread.lane = i % WARP_SIZE;
        thread.warp = i / WARP_SIZE;
        thread.copy_groups = 0;
        thread.copies.clear();
    }
    free_stacks = stacks;
    self = &block.threads[is_reversed ? block.num_threads - 1 : 0];
    self = pick();
    take_fresh(self);
    give_stack(self);
    switch_to(main_context, self->context);
    return error[0] == '\0';
}

}  // namespace emulated
