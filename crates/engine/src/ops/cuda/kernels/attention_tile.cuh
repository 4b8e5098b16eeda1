// Tiles of queries, keys and values in shared memory, and the products of one warp with them on tensor cores.
//
// A tile is [rows, DIM] of bf16, row-major, in chunks of 16 bytes; chunk c of row r lies where chunk c ^ (r % 8) would lie. So the
// eight rows that one phase of ldmatrix reads at one column, the eight chunks of a row that cp.async writes at a time and the
// eight rows that a warp writes in the layout of accumulators each lie in 32 different banks.
//
// Fragments are those of mma.sync.m16n8k16 (PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type"). With g = lane / 4
// and c = lane % 4 * 2, a lane holds of the left factor [16, 16] the pairs (g, c), (g + 8, c), (g, c + 8), (g + 8, c + 8), of the
// right factor [16, 8] (c, g), (c + 8, g), and of accumulators [16, 8] (g, c), (g, c + 1), (g + 8, c), (g + 8, c + 1). So two
// neighbouring accumulators, rounded and paired, are one left factor: probabilities never leave registers.
#pragma once

#include "common.cuh"

namespace attention {

// Queries of a block: 16 for each of its warps.
constexpr int WARPS = 4;
constexpr int THREADS = 32 * WARPS;
constexpr int WARP_ROWS = 16;
constexpr int BLOCK_ROWS = WARPS * WARP_ROWS;

constexpr float LOG2_E = 1.4426950408889634f;

#ifdef MAQAM_EMULATED
using SharedAddress = unsigned char*;
__device__ __forceinline__ SharedAddress shared_address(unsigned char* at) { return at; }
#else
using SharedAddress = unsigned;
__device__ __forceinline__ SharedAddress shared_address(unsigned char* at) { return static_cast<unsigned>(__cvta_generic_to_shared(at)); }
#endif

// d += a b.
__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned* b) {
#ifdef MAQAM_EMULATED
    emulated::mma_m16n8k16_bf16(d, a, b);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Four matrices of 8 rows of 16 bytes, whose addresses lanes 8 i to 8 i + 7 give.
__device__ __forceinline__ void load_matrices(unsigned (&to)[4], SharedAddress row) {
#ifdef MAQAM_EMULATED
    emulated::ldmatrix<4, false>(to, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
#endif
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_transposed(unsigned (&to)[4], SharedAddress row) {
#ifdef MAQAM_EMULATED
    emulated::ldmatrix<4, true>(to, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
#endif
}

// Begins to copy 16 bytes, or to write zeros where `is_there` is false; then nothing is read.
__device__ __forceinline__ void begin_copy_16(SharedAddress to, const void* from, bool is_there) {
#ifdef MAQAM_EMULATED
    emulated::cp_async<16>(to, from, is_there ? 16 : 0);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(is_there ? 16 : 0) : "memory");
#endif
}

// The same for one float.
__device__ __forceinline__ void begin_copy_4(SharedAddress to, const void* from, bool is_there) {
#ifdef MAQAM_EMULATED
    emulated::cp_async<4>(to, from, is_there ? 4 : 0);
#else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(is_there ? 4 : 0) : "memory");
#endif
}

// Closes the group of copies begun since the last one; an empty group is a group too.
__device__ __forceinline__ void commit_copies() {
#ifdef MAQAM_EMULATED
    emulated::cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all this thread's groups but the newest `OPEN` have arrived. Other threads' copies are seen after a barrier alone.
template <int OPEN>
__device__ __forceinline__ void wait_for_copies() {
#ifdef MAQAM_EMULATED
    emulated::cp_async_wait<OPEN>();
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
#endif
}

// 2^x; 0 for minus infinity. One instruction, with an error below 2^-22 of the result.
__device__ __forceinline__ float power_of_two(float x) {
#ifdef MAQAM_EMULATED
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// Over the four lanes that hold one row of accumulators.
__device__ __forceinline__ float sum_of_row(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

__device__ __forceinline__ float max_of_row(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

template <int DIM>
constexpr int ROW_BYTES = 2 * DIM;

// Begins to copy `ROWS` rows of `head_dim` numbers by `COPIERS` threads. Rows from `num_rows` on and numbers from `head_dim` on
// become zeros, so that products need no bounds: a zero adds nothing, whereas what lay there might be NaN.
template <int DIM, int ROWS, int COPIERS>
__device__ __forceinline__ void begin_tile(SharedAddress tile, const bf16* source, size_t row_stride, int num_rows, int head_dim, int copier) {
    constexpr int CHUNKS = DIM / 8;
    static_assert(COPIERS % CHUNKS == 0 && ROWS * CHUNKS % COPIERS == 0);
    int row = copier / CHUNKS, chunk = copier % CHUNKS;
    bool is_in_head = chunk * 8 < head_dim;
    const bf16* from = source + row * row_stride + chunk * 8;
#pragma unroll
    for (int i = 0; i < ROWS * CHUNKS / COPIERS; i++) {
        bool is_there = is_in_head && row < num_rows;
        begin_copy_16(tile + row * ROW_BYTES<DIM> + (chunk ^ (row & 7)) * 16, is_there ? from : source, is_there);
        row += COPIERS / CHUNKS;
        from += COPIERS / CHUNKS * row_stride;
    }
}

// Where a lane's row begins for ldmatrix, in bytes from a tile's start. The chunk that a step adds is an even number below the
// width, so it is added by exclusive or: (2 k + bit) ^ (row % 8) = 2 k ^ (bit ^ (row % 8)).
// `LeftOrTransposed`: matrices (rows 0-7, chunk 0), (8-15, 0), (0-7, 1), (8-15, 1).
// `Right`: (0-7, 0), (0-7, 1), (8-15, 0), (8-15, 1).
enum class Order { LeftOrTransposed, Right };

template <int DIM>
__device__ __forceinline__ int lane_offset(Order order) {
    int lane = threadIdx.x % 32, low = lane / 8 % 2, high = lane / 16;
    int row = lane % 8 + 8 * (order == Order::Right ? high : low);
    int chunk = order == Order::Right ? low : high;
    return row * ROW_BYTES<DIM> + (chunk ^ (row & 7)) * 16;
}

// A warp's 16 rows of a tile as left factors.
template <int DIM>
__device__ __forceinline__ void load_left(unsigned (&a)[DIM / 16][4], SharedAddress rows) {
    int at = lane_offset<DIM>(Order::LeftOrTransposed);
#pragma unroll
    for (int k = 0; k < DIM / 16; k++) load_matrices(a[k], rows + (at ^ (k * 32)));
}

// The groups of 16 rows of a tile that a warp's product runs over, [from, to); all of them where `IS_WHOLE`.
template <bool IS_WHOLE>
struct Groups {
    int from, to;
    __device__ __forceinline__ bool have(int group) const { return IS_WHOLE || (from <= group && group < to); }
};

// s += a tile^T, the left factor in registers: [16, DIM] times [COLUMNS, DIM]^T -> [16, COLUMNS]. Only columns of `groups`.
template <int DIM, int COLUMNS, bool IS_WHOLE>
__device__ __forceinline__ void add_scores(float (&s)[COLUMNS / 8][4], const unsigned (&a)[DIM / 16][4], SharedAddress tile, Groups<IS_WHOLE> groups) {
    int at = lane_offset<DIM>(Order::Right);
#pragma unroll
    for (int k = 0; k < DIM / 16; k++) {
#pragma unroll
        for (int n = 0; n < COLUMNS / 16; n++) {
            if (groups.have(n)) {
                unsigned b[4];
                load_matrices(b, tile + n * 16 * ROW_BYTES<DIM> + (at ^ (k * 32)));
                multiply(s[2 * n], a[k], b);
                multiply(s[2 * n + 1], a[k], b + 2);
            }
        }
    }
}

// The same with the left factor in shared memory.
template <int DIM, int COLUMNS, bool IS_WHOLE>
__device__ __forceinline__ void add_scores(float (&s)[COLUMNS / 8][4], SharedAddress rows, SharedAddress tile, Groups<IS_WHOLE> groups) {
    int at_left = lane_offset<DIM>(Order::LeftOrTransposed), at = lane_offset<DIM>(Order::Right);
#pragma unroll
    for (int k = 0; k < DIM / 16; k++) {
        unsigned a[4];
        load_matrices(a, rows + (at_left ^ (k * 32)));
#pragma unroll
        for (int n = 0; n < COLUMNS / 16; n++) {
            if (groups.have(n)) {
                unsigned b[4];
                load_matrices(b, tile + n * 16 * ROW_BYTES<DIM> + (at ^ (k * 32)));
                multiply(s[2 * n], a, b);
                multiply(s[2 * n + 1], a, b + 2);
            }
        }
    }
}

// o += p tile: [16, ROWS] times [ROWS, DIM] -> [16, DIM]. Only rows of `groups`.
template <int DIM, int ROWS, bool IS_WHOLE>
__device__ __forceinline__ void add_mixture(float (&o)[DIM / 8][4], const unsigned (&p)[ROWS / 16][4], SharedAddress tile, Groups<IS_WHOLE> groups) {
    int at = lane_offset<DIM>(Order::LeftOrTransposed);
#pragma unroll
    for (int k = 0; k < ROWS / 16; k++) {
        if (groups.have(k)) {
#pragma unroll
            for (int n = 0; n < DIM / 16; n++) {
                unsigned b[4];
                load_transposed(b, tile + k * 16 * ROW_BYTES<DIM> + (at ^ (n * 32)));
                multiply(o[2 * n], p[k], b);
                multiply(o[2 * n + 1], p[k], b + 2);
            }
        }
    }
}

// Accumulators [16, COLUMNS], rounded, as left factors.
template <int COLUMNS>
__device__ __forceinline__ void round_to_left(unsigned (&a)[COLUMNS / 16][4], const float (&s)[COLUMNS / 8][4]) {
#pragma unroll
    for (int k = 0; k < COLUMNS / 16; k++) {
        a[k][0] = pair_of(s[2 * k][0], s[2 * k][1]);
        a[k][1] = pair_of(s[2 * k][2], s[2 * k][3]);
        a[k][2] = pair_of(s[2 * k + 1][0], s[2 * k + 1][1]);
        a[k][3] = pair_of(s[2 * k + 1][2], s[2 * k + 1][3]);
    }
}

// Writes a warp's accumulators [16, DIM], times `low` in rows below 8 and `high` in the others, as bf16: first to `staging`
// (16 rows of a tile, this warp's alone), from there in whole rows. Rows from `num_rows` and numbers from `head_dim` on are left out.
template <int DIM>
__device__ __forceinline__ void store_rows(bf16* target, size_t row_stride, int num_rows, int head_dim, const float (&o)[DIM / 8][4], float low, float high,
                                           unsigned char* staging) {
    constexpr int CHUNKS = DIM / 8;
    int lane = threadIdx.x % 32, row = lane / 4;
#pragma unroll
    for (int n = 0; n < CHUNKS; n++) {
        unsigned char* to = staging + row * ROW_BYTES<DIM> + (n ^ row) * 16 + lane % 4 * 4;
        *reinterpret_cast<unsigned*>(to) = pair_of(o[n][0] * low, o[n][1] * low);
        *reinterpret_cast<unsigned*>(to + 8 * ROW_BYTES<DIM>) = pair_of(o[n][2] * high, o[n][3] * high);
    }
    __syncwarp();
#pragma unroll
    for (int i = lane; i < WARP_ROWS * CHUNKS; i += 32) {
        int row = i / CHUNKS, chunk = i % CHUNKS;
        if (row < num_rows && chunk * 8 < head_dim) {
            uint4 numbers = *reinterpret_cast<const uint4*>(staging + row * ROW_BYTES<DIM> + (chunk ^ (row & 7)) * 16);
            *reinterpret_cast<uint4*>(target + row * row_stride + chunk * 8) = numbers;
        }
    }
}

// Writes a warp's accumulators [16, DIM], times `factor`, as they are. Rows from `num_rows` and numbers from `head_dim` on are left out.
template <int DIM>
__device__ __forceinline__ void store_sums(float* target, size_t row_stride, int num_rows, int head_dim, const float (&o)[DIM / 8][4], float factor) {
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < DIM / 8; n++) {
        if (n * 8 < head_dim) {
            float* to = target + row * row_stride + n * 8 + column;
            if (row < num_rows) *reinterpret_cast<float2*>(to) = make_float2(o[n][0] * factor, o[n][1] * factor);
            if (row + 8 < num_rows) *reinterpret_cast<float2*>(to + 8 * row_stride) = make_float2(o[n][2] * factor, o[n][3] * factor);
        }
    }
}

// Where one head's queries, keys and values lie: qkv is [tokens, (num_heads + 2 num_kv_heads) * head_dim].
struct Layout {
    int num_heads, num_kv_heads, head_dim;
    __device__ __forceinline__ size_t width() const { return size_t(num_heads + 2 * num_kv_heads) * head_dim; }
    __device__ __forceinline__ size_t out_width() const { return size_t(num_heads) * head_dim; }
    __device__ __forceinline__ int group() const { return num_heads / num_kv_heads; }
    __device__ __forceinline__ size_t query(size_t token, int head) const { return token * width() + size_t(head) * head_dim; }
    __device__ __forceinline__ size_t key(size_t token, int kv_head) const { return query(token, num_heads + kv_head); }
    __device__ __forceinline__ size_t value(size_t token, int kv_head) const { return key(token, num_kv_heads + kv_head); }
};

}  // namespace attention
