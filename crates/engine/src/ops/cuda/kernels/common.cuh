// What the kernels share: bf16 in accesses of 16 bytes, sums over warps and blocks, rows that stay in registers.
//
// Memory is what these kernels wait for, so numbers are bf16 in memory, f32 in registers, and each kernel's comment says how many
// bytes it moves. No sum depends on the order in which threads run: the same input gives the same bits.
#pragma once

#include <cuda_bf16.h>

using bf16 = __nv_bfloat16;

// Threads of a block in all kernels that do not say otherwise.
constexpr int BLOCK = 256;
constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// Most negative finite float: where a running maximum begins. Infinity would turn "no difference" into NaN.
constexpr float LOWEST = -3.402823466e38f;

// ---- Packs: WIDTH numbers that one access moves, 8 bf16 in 16 bytes, or a single one where a row's width is odd. ----

template <int WIDTH>
struct Floats {
    float v[WIDTH];
};

template <int WIDTH>
struct Pack;

template <>
struct Pack<8> {
    uint4 bits;
};

template <>
struct Pack<1> {
    bf16 bits;
};

template <int WIDTH>
__device__ __forceinline__ Pack<WIDTH> load_pack(const bf16* from);

template <>
__device__ __forceinline__ Pack<8> load_pack<8>(const bf16* from) {
    return {*reinterpret_cast<const uint4*>(from)};
}

template <>
__device__ __forceinline__ Pack<1> load_pack<1>(const bf16* from) {
    return {*from};
}

// Stores go through intrinsics: an assignment of 16 bytes may be taken apart by the compiler into four of 4.
__device__ __forceinline__ void store_pack(bf16* to, Pack<8> pack) { __stcg(reinterpret_cast<uint4*>(to), pack.bits); }
__device__ __forceinline__ void store_pack(bf16* to, Pack<1> pack) { *to = pack.bits; }

// A bf16 is the upper half of the float of the same value.
__device__ __forceinline__ float low_half(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_half(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

// Two floats rounded to the nearest bf16 (ties to even), the first in the lower half.
__device__ __forceinline__ unsigned pair_of(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    unsigned bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

__device__ __forceinline__ Floats<8> widen(Pack<8> pack) {
    const uint4 b = pack.bits;
    return {{low_half(b.x), high_half(b.x), low_half(b.y), high_half(b.y), low_half(b.z), high_half(b.z), low_half(b.w), high_half(b.w)}};
}

__device__ __forceinline__ Floats<1> widen(Pack<1> pack) { return {{__bfloat162float(pack.bits)}}; }

__device__ __forceinline__ Pack<8> narrow(const Floats<8>& x) {
    return {make_uint4(pair_of(x.v[0], x.v[1]), pair_of(x.v[2], x.v[3]), pair_of(x.v[4], x.v[5]), pair_of(x.v[6], x.v[7]))};
}

__device__ __forceinline__ Pack<1> narrow(const Floats<1>& x) { return {__float2bfloat16_rn(x.v[0])}; }

template <int WIDTH>
__device__ __forceinline__ Floats<WIDTH> load(const bf16* from) {
    return widen(load_pack<WIDTH>(from));
}

template <int WIDTH>
__device__ __forceinline__ void store(bf16* to, const Floats<WIDTH>& x) {
    store_pack(to, narrow(x));
}

// The same of f32: two accesses of 16 bytes, or one of 4.
template <int WIDTH>
__device__ __forceinline__ Floats<WIDTH> load(const float* from);

template <>
__device__ __forceinline__ Floats<8> load<8>(const float* from) {
    const float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
    return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

template <>
__device__ __forceinline__ Floats<1> load<1>(const float* from) {
    return {{*from}};
}

__device__ __forceinline__ void store(float* to, const Floats<8>& x) {
    __stcg(reinterpret_cast<float4*>(to), make_float4(x.v[0], x.v[1], x.v[2], x.v[3]));
    __stcg(reinterpret_cast<float4*>(to) + 1, make_float4(x.v[4], x.v[5], x.v[6], x.v[7]));
}

__device__ __forceinline__ void store(float* to, const Floats<1>& x) { *to = x.v[0]; }

// Whether rows of `width` numbers behind these pointers can be moved in packs of eight.
template <class... Pointers>
__device__ __forceinline__ bool in_packs(long long width, Pointers... pointers) {
    return width % 8 == 0 && ((reinterpret_cast<size_t>(pointers) % 16 == 0) && ...);
}

// ---- Sums and maxima. Every lane, and every thread of the block, gets the same bits. ----

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}

// Sum over a block of THREADS threads (in x); all of them must call it.
template <int THREADS, class T>
__device__ __forceinline__ T block_sum(T value) {
    __shared__ T of_warps[THREADS / WARP];
    value = warp_sum(value);
    __syncthreads(); // A former sum may still be read.
    if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = value;
    __syncthreads();
    T sum = of_warps[0];
#pragma unroll
    for (int warp = 1; warp < THREADS / WARP; warp++) sum += of_warps[warp];
    return sum;
}

// Two sums for the price of one pair of barriers.
template <int THREADS>
__device__ __forceinline__ float2 block_sum2(float a, float b) {
    __shared__ float2 of_warps[THREADS / WARP];
    a = warp_sum(a);
    b = warp_sum(b);
    __syncthreads(); // A former sum may still be read.
    if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = make_float2(a, b);
    __syncthreads();
    float2 sum = of_warps[0];
#pragma unroll
    for (int warp = 1; warp < THREADS / WARP; warp++) {
        const float2 more = of_warps[warp];
        sum = make_float2(sum.x + more.x, sum.y + more.y);
    }
    return sum;
}

// Maximum over a block, blind to NaN as fmaxf is: what comes of it must see NaN otherwise.
template <int THREADS>
__device__ __forceinline__ float block_max(float value) {
    __shared__ float of_warps[THREADS / WARP];
    value = warp_max(value);
    __syncthreads(); // A former maximum may still be read.
    if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = value;
    __syncthreads();
    float most = of_warps[0];
#pragma unroll
    for (int warp = 1; warp < THREADS / WARP; warp++) most = fmaxf(most, of_warps[warp]);
    return most;
}

// ---- Rows: a block walks over one row, each thread over packs that lie BLOCK packs apart. ----

// Packs of a thread that stay in registers: rows of up to 8 * BLOCK * KEPT = 8192 numbers are read from memory once.
constexpr int KEPT = 4;

// How a row is walked over: in packs of WIDTH; its first IN_REGISTERS packs of each thread are all there are, or it is any length.
template <int WIDTH_, int IN_REGISTERS_>
struct Walk {
    static constexpr int WIDTH = WIDTH_;
    static constexpr int IN_REGISTERS = IN_REGISTERS_;

    // Calls body(pack of this thread, column) for each pack.
    template <class Body>
    __device__ static __forceinline__ void each(int width, Body body) {
        const int first = WIDTH * static_cast<int>(threadIdx.x);
        if constexpr (IN_REGISTERS > 0) {
#pragma unroll
            for (int i = 0; i < IN_REGISTERS; i++) {
                const int column = first + i * WIDTH * BLOCK;
                if (column < width) body(i, column);
            }
        } else {
            for (int column = first; column < width; column += WIDTH * BLOCK) body(0, column);
        }
    }
};

using ShortRow = Walk<8, KEPT>;
using LongRow = Walk<8, 0>;
using OddRow = Walk<1, 0>;

// A row of bf16 that is read when it is made and kept, where the walk says that it fits; otherwise read whenever it is asked.
template <class W>
struct Row {
    const bf16* from;
    Pack<W::WIDTH> kept[W::IN_REGISTERS > 0 ? W::IN_REGISTERS : 1];

    __device__ __forceinline__ Row(const bf16* from_, int width) : from(from_) {
        if constexpr (W::IN_REGISTERS > 0) {
            W::each(width, [&](int i, int column) { kept[i] = load_pack<W::WIDTH>(from + column); });
        }
    }

    __device__ __forceinline__ Pack<W::WIDTH> pack(int i, int column) const {
        if constexpr (W::IN_REGISTERS > 0) {
            return kept[i];
        } else {
            return load_pack<W::WIDTH>(from + column);
        }
    }

    __device__ __forceinline__ Floats<W::WIDTH> at(int i, int column) const { return widen(pack(i, column)); }
};

// Copies a row, bit for bit.
template <class W>
__device__ __forceinline__ void copy_row(bf16* to, const bf16* from, int width) {
    const Row<W> row(from, width);
    W::each(width, [&](int i, int column) { store_pack(to + column, row.pack(i, column)); });
}

// Runs the last arguments, a statement, with W bound to the walk for rows of this width; a block takes one way as a whole.
#define WITH_WALK(width, is_in_packs, ...)           \
    do {                                             \
        if (!(is_in_packs)) {                        \
            using W = OddRow;                        \
            __VA_ARGS__;                             \
        } else if ((width) <= 8 * BLOCK * KEPT) {    \
            using W = ShortRow;                      \
            __VA_ARGS__;                             \
        } else {                                     \
            using W = LongRow;                       \
            __VA_ARGS__;                             \
        }                                            \
    } while (0)

// ---- Stretches: passes that see no rows, eight numbers a thread. ----

// Numbers of a block.
constexpr int STRETCH = 8 * BLOCK;

template <int N>
struct Width {
    static constexpr int VALUE = N;
};

// Calls body(index, Width<8> or Width<1>) for this thread's share of stretch number `stretch` of `count` numbers.
template <class Body>
__device__ __forceinline__ void each_of_stretch(long long stretch, long long count, bool is_in_packs, Body body) {
    const long long first = stretch * STRETCH + 8 * static_cast<int>(threadIdx.x);
    if (is_in_packs && first + 8 <= count) {
        body(first, Width<8>{});
    } else {
        const long long end = first + 8 < count ? first + 8 : count;
        for (long long at = first; at < end; at++) body(at, Width<1>{});
    }
}

// The same of the block's own stretch.
template <class Body>
__device__ __forceinline__ void each_of_stretch(long long count, bool is_in_packs, Body body) {
    each_of_stretch(blockIdx.x, count, is_in_packs, body);
}

// ---- Randomness: the counter hash of src/seed.rs. ----

// The finaliser of SplitMix64 (Steele, Lea and Flood 2014; constants of Stafford's variant 13).
__device__ __forceinline__ unsigned long long mix(unsigned long long z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

// 64 random bits at a position of a key's stream: Key::bits.
__device__ __forceinline__ unsigned long long random_bits(unsigned long long key, unsigned long long position) {
    return mix(key + position * 0x9e3779b97f4a7c15ull);
}
