// The emulated GPU's memory: host memory between closed pages, poisoned when it is given out, its surroundings checked when it is freed.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sys/mman.h>

namespace gpu {

constexpr size_t PAGE = 4096;
constexpr size_t ALIGNMENT = 16;
constexpr unsigned char GUARD = 0xa5;
// All bits set: what was never written is NaN.
constexpr unsigned char POISON = 0xff;
constexpr size_t GIB = size_t(1) << 30;

[[noreturn]] inline void stop(const char* what, const void* at, size_t bytes) {
    fprintf(stderr, "emulated GPU: %s: %zu bytes at %p\n", what, bytes, at);
    abort();
}

// A number that a variable of the environment gives, or a default.
inline size_t setting(const char* name, size_t otherwise) {
    const char* text = getenv(name);
    return text == nullptr || *text == '\0' ? otherwise : strtoull(text, nullptr, 10);
}

// One allocation: it ends up to 15 bytes before a closed page, and another closed page lies before its first.
struct Allocation {
    unsigned char* pages;
    size_t mapped, bytes;

    unsigned char* open() const { return pages + PAGE; }
    unsigned char* closed() const { return pages + mapped - PAGE; }
};

class Memory {
public:
    const size_t total = setting("MAQAM_EMULATED_MEMORY_GIB", 8) * GIB;
    // Freed memory stays reserved up to this, as in a driver's pool.
    uint64_t threshold = 0;
    uint64_t used = 0, peak = 0, reserved = 0, most_reserved = 0;

    // Null where the GPU is full.
    void* allocate(size_t bytes) {
        std::lock_guard<std::mutex> held(lock);
        if (used + bytes > total) return nullptr;
        size_t room = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        Allocation made;
        made.bytes = bytes;
        made.mapped = (room + PAGE - 1) / PAGE * PAGE + 2 * PAGE;
        void* pages = mmap(nullptr, made.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED) return nullptr;
        made.pages = static_cast<unsigned char*>(pages);
        mprotect(made.pages, PAGE, PROT_NONE);
        mprotect(made.closed(), PAGE, PROT_NONE);
        unsigned char* start = made.closed() - room;
        memset(made.open(), GUARD, start - made.open());
        memset(start, POISON, bytes);
        memset(start + bytes, GUARD, room - bytes);
        live[start] = made;
        used += bytes;
        peak = used > peak ? used : peak;
        reserved = used > reserved ? used : reserved;
        most_reserved = reserved > most_reserved ? reserved : most_reserved;
        num_allocations++;
        return start;
    }

    void release(void* pointer) {
        std::lock_guard<std::mutex> held(lock);
        auto found = live.find(static_cast<unsigned char*>(pointer));
        if (found == live.end()) stop("memory is freed that was not allocated, or is freed twice", pointer, 0);
        const Allocation& freed = found->second;
        for (unsigned char* at = freed.open(); at < freed.closed(); at++) {
            if ((at < found->first || at >= found->first + freed.bytes) && *at != GUARD) stop("something was written just outside of an allocation", pointer, freed.bytes);
        }
        used -= freed.bytes;
        munmap(freed.pages, freed.mapped);
        live.erase(found);
    }

    // What a synchronisation does: memory beyond the threshold goes back.
    void trim() {
        std::lock_guard<std::mutex> held(lock);
        if (reserved > threshold) reserved = used > threshold ? used : threshold;
    }

    // What trimming the pool to nothing does: all that is not used goes back.
    void give_back() {
        std::lock_guard<std::mutex> held(lock);
        reserved = used;
    }

    // Ends the process unless the bytes lie in one allocation.
    void require(const char* what, const void* pointer, size_t bytes) {
        if (bytes == 0) return;
        std::lock_guard<std::mutex> held(lock);
        auto* at = static_cast<unsigned char*>(const_cast<void*>(pointer));
        auto next = live.upper_bound(at);
        if (next == live.begin()) stop(what, pointer, bytes);
        auto found = std::prev(next);
        if (at + bytes > found->first + found->second.bytes) stop(what, pointer, bytes);
    }

    void report() {
        std::lock_guard<std::mutex> held(lock);
        fprintf(stderr, "emulated GPU: %zu allocations, at most %.1f MiB at once\n", num_allocations, double(peak) / (1 << 20));
        fprintf(stderr, "emulated GPU: %zu allocations (%.1f MiB) were never freed\n", live.size(), double(used) / (1 << 20));
    }

private:
    std::mutex lock;
    std::map<unsigned char*, Allocation> live;
    size_t num_allocations = 0;
};

// Never destroyed: destructors of the program under test may come later than ours.
inline Memory& memory() {
    static Memory* memory = new Memory();
    return *memory;
}

}  // namespace gpu
