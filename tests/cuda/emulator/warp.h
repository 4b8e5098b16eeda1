// What the lanes of a warp do together: shuffles, votes, tensor-core products, matrix loads; asynchronous copies.
#pragma once

#include "block.h"

namespace emulated {

template <class T>
struct Shuffled {
    T value;
    unsigned source;
};

template <class T>
void shuffle_all(void** operands, unsigned present) {
    T values[WARP_SIZE];
    for (unsigned lane = 0; lane < WARP_SIZE; lane++) {
        if (present >> lane & 1) values[lane] = static_cast<Shuffled<T>*>(operands[lane])->value;
    }
    for (unsigned lane = 0; lane < WARP_SIZE; lane++) {
        if (!(present >> lane & 1)) continue;
        Shuffled<T>& shuffled = *static_cast<Shuffled<T>*>(operands[lane]);
        if (present >> shuffled.source & 1) {
            shuffled.value = values[shuffled.source];
        } else {
            memset(&shuffled.value, 0xff, sizeof(T));  // what an inactive lane holds is undefined
        }
    }
}

template <class T>
inline T shuffle(const char* name, unsigned mask, T value, unsigned source) {
    Shuffled<T> shuffled{value, source};
    meet(name, mask, &shuffled, shuffle_all<T>);
    return shuffled.value;
}

inline void ballot_all(void** operands, unsigned present) {
    unsigned ballot = 0;
    for (unsigned lane = 0; lane < WARP_SIZE; lane++) {
        if (present >> lane & 1 && *static_cast<unsigned*>(operands[lane])) ballot |= 1u << lane;
    }
    for (unsigned lane = 0; lane < WARP_SIZE; lane++) {
        if (present >> lane & 1) *static_cast<unsigned*>(operands[lane]) = ballot;
    }
}

inline void require_all(const char* name, unsigned present) {
    if (present != ~0u) fail("%s needs all 32 lanes, only %08x are there", name, present);
}

struct Product {
    float* d;
    const unsigned *a, *b;
};

inline void unpack(float* pair, unsigned bits) {
    pair[0] = float_of_bf16(static_cast<unsigned short>(bits));
    pair[1] = float_of_bf16(static_cast<unsigned short>(bits >> 16));
}

// Fragments as in PTX ISA, "Matrix fragments for mma.m16n8k16 with .bf16 type".
inline void mma_all(void** operands, unsigned present) {
    require_all("mma", present);
    float a[16][16], b[16][8], column[2];
    for (unsigned lane = 0; lane < WARP_SIZE; lane++) {
        const Product& of = *static_cast<Product*>(operands[lane]);
        unsigned group = lane / 4, pair = lane % 4 * 2;
        unpack(&a[group][pair], of.a[0]);
        unpack(&a[group + 8][pair], of.a[1]);
        unpack(&a[group][pair + 8], of.a[2]);
        unpack(&a[group + 8][pair + 8], of.a[3]);
        for (unsigned half = 0; half < 2; half++) {
            unpack(column, of.b[half]);
            b[pair + 8 * half][group] = column[0];
            b[pair + 8 * half + 1][group] = column[1];
        }
    }
    float d[16][8] = {};
    for (unsigned row = 0; row < 16; row++) {
        for (unsigned k = 0; k < 16; k++) {
            for (unsigned n = 0; n < 8; n++) d[row][n] += a[row][k] * b[k][n];
        }
    }
    for (unsigned lane = 0; lane < WARP_SIZE; lane++) {
        float* to = static_cast<Product*>(operands[lane])->d;
        unsigned group = lane / 4, pair = lane % 4 * 2;
        for (unsigned i = 0; i < 4; i++) to[i] += d[group + i / 2 * 8][pair + i % 2];
    }
}

// d += a b of one warp: a [16, 16] in 4 registers, b [16, 8] in 2, d [16, 8] in 4 floats of each lane.
inline void mma_m16n8k16_bf16(float* d, const unsigned* a, const unsigned* b) {
    Product of{d, a, b};
    meet("mma", ~0u, &of, mma_all);
}

inline void* shared_begin;
inline void* shared_end;

inline void require_shared(const char* name, const void* at, size_t bytes) {
    const char* from = static_cast<const char*>(at);
    if (reinterpret_cast<uintptr_t>(at) % bytes) fail("%s: shared address not aligned to %zu bytes", name, bytes);
    if (shared_begin && (from < shared_begin || from + bytes > shared_end)) fail("%s: an address outside shared memory", name);
}

struct MatrixLoad {
    const void* row;
    unsigned* registers;
};

// Lane 8 i + r gives the address of row r of matrix i; register i of lane l is row l / 4, columns l % 4 * 2 and the next.
template <unsigned COUNT, bool TRANSPOSED>
void load_all(void** operands, unsigned present) {
    require_all("ldmatrix", present);
    for (unsigned matrix = 0; matrix < COUNT; matrix++) {
        unsigned short rows[8][8];
        for (unsigned row = 0; row < 8; row++) {
            const void* from = static_cast<MatrixLoad*>(operands[matrix * 8 + row])->row;
            require_shared("ldmatrix", from, 16);
            memcpy(rows[row], from, 16);
        }
        for (unsigned lane = 0; lane < WARP_SIZE; lane++) {
            unsigned major = lane / 4, minor = lane % 4 * 2;
            unsigned low = TRANSPOSED ? rows[minor][major] : rows[major][minor];
            unsigned high = TRANSPOSED ? rows[minor + 1][major] : rows[major][minor + 1];
            static_cast<MatrixLoad*>(operands[lane])->registers[matrix] = low | high << 16;
        }
    }
}

// ldmatrix.sync.aligned.m8n8.x{1,2,4}[.trans].shared.b16
template <unsigned COUNT, bool TRANSPOSED>
inline void ldmatrix(unsigned* registers, const void* row) {
    static_assert(COUNT == 1 || COUNT == 2 || COUNT == 4);
    MatrixLoad of{row, registers};
    meet("ldmatrix", ~0u, &of, load_all<COUNT, TRANSPOSED>);
}

// cp.async of 4, 8 or 16 bytes, of which the first `bytes_read` are read and the rest are zeros. Until it is waited for, what is
// read from the target is NaN; the source is read as late as the device may read it.
template <unsigned BYTES>
inline void cp_async(void* shared, const void* global, unsigned bytes_read = BYTES) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
    require_shared("cp.async", shared, BYTES);
    if (reinterpret_cast<uintptr_t>(global) % BYTES && bytes_read) fail("cp.async: global address not aligned to %u bytes", BYTES);
    memset(shared, 0xff, BYTES);
    self->copies.push_back({shared, global, BYTES, bytes_read, self->copy_groups});
}

inline void cp_async_commit() { self->copy_groups++; }

// Waits until at most `open` of the newest groups are not complete.
template <unsigned OPEN>
inline void cp_async_wait() {
    finish_copies(OPEN);
}

inline void cp_async_wait_all() {
    self->copy_groups++;
    finish_copies(0);
}

}  // namespace emulated

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    unsigned first = emulated::self->lane & ~(width - 1);
    return emulated::shuffle("__shfl_sync", mask, value, first + (source & (width - 1)));
}

template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    unsigned lane = emulated::self->lane, source = lane ^ lanes;
    return emulated::shuffle("__shfl_xor_sync", mask, value, source >= (lane & ~(width - 1)) + width ? lane : source);
}

template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned lane = emulated::self->lane, source = lane + delta;
    return emulated::shuffle("__shfl_down_sync", mask, value, source >= (lane & ~(width - 1)) + width ? lane : source);
}

template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned lane = emulated::self->lane;
    return emulated::shuffle("__shfl_up_sync", mask, value, (lane & (width - 1)) < delta ? lane : lane - delta);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    unsigned vote = predicate != 0;
    emulated::meet("__ballot_sync", mask, &vote, emulated::ballot_all);
    return vote;
}

inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
inline void __syncwarp(unsigned mask = ~0u) { emulated::meet("__syncwarp", mask, nullptr, nullptr); }

inline void __syncthreads() { emulated::barrier(0); }
inline int __syncthreads_count(int predicate) { return static_cast<int>(emulated::barrier(predicate != 0)); }
inline int __syncthreads_or(int predicate) { return emulated::barrier(predicate != 0) != 0; }
inline int __syncthreads_and(int predicate) { return emulated::barrier(predicate == 0) == 0; }
