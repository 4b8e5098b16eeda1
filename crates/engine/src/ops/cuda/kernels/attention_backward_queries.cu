// Gradient of attention's queries: the first of two passes that share nothing but `dots`, and so add in one order.
//
// With P the probabilities, computed again from scores and log-sum-exps, and D the row sums of dO * O, dS = P * (dO V^T - D) and
// dQ = dS K * scale (Dao et al. 2022, algorithm 4). A block makes dQ for 64 queries of one head as the forward makes their output:
// queries and dO in registers, keys and values in tiles of 64 through two stages. D is made here, while dO is at hand, and written
// for the pass over keys. dS is rounded to bf16 for the product.
//
// Arithmetic intensity: 6 * 64 * 64 * DIM operations for each 4 * 64 * DIM bytes of keys and values, 96 a byte of L2.
#include "attention_tile.cuh"

namespace {

using namespace attention;

constexpr int QUERIES_PASS_KEYS = 64;

// What a lane knows of its two rows.
struct Rows {
    float log2_sum[2];  // log-sum-exp of the scaled scores, in powers of two
    float dot[2];       // D
};

template <int DIM, bool IS_WHOLE>
__device__ __forceinline__ void queries_tile(float (&dq)[DIM / 8][4], const unsigned (&q)[DIM / 16][4], const unsigned (&d_out)[DIM / 16][4], const Rows& rows,
                                             SharedAddress keys, SharedAddress values, float log2_scale, const int (&visible)[2], Groups<IS_WHOLE> groups) {
    float s[QUERIES_PASS_KEYS / 8][4] = {};
    add_scores<DIM, QUERIES_PASS_KEYS>(s, q, keys, groups);
    int column = threadIdx.x % 4 * 2;
    // dP of half a tile at a time: all of it would not fit beside the rest.
    constexpr int HALF = QUERIES_PASS_KEYS / 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float dp[HALF / 8][4] = {};
        Groups<IS_WHOLE> of_half{groups.from - half * HALF / 16, groups.to - half * HALF / 16};
        add_scores<DIM, HALF>(dp, d_out, values + half * HALF * ROW_BYTES<DIM>, of_half);
#pragma unroll
        for (int n = 0; n < HALF / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float& ds = s[half * HALF / 8 + n][i];
                float p = power_of_two(fmaf(ds, log2_scale, -rows.log2_sum[i / 2]));
                if (!IS_WHOLE && half * HALF + n * 8 + column + i % 2 >= visible[i / 2]) p = 0.0f;
                ds = p * (dp[n][i] - rows.dot[i / 2]);
            }
        }
    }
    unsigned ds[QUERIES_PASS_KEYS / 16][4];
    round_to_left<QUERIES_PASS_KEYS>(ds, s);
    add_mixture<DIM, QUERIES_PASS_KEYS>(dq, ds, keys, groups);
}

// Row sums of dO * O for the lane's two rows. O is read once, straight into the layout of left factors.
template <int DIM>
__device__ __forceinline__ void row_dots(float (&dots)[2], const unsigned (&d_out)[DIM / 16][4], const bf16* out, size_t row_stride, int num_rows,
                                         int head_dim) {
    int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = 0.0f;
        const bf16* from = out + size_t(row + 8 * half) * row_stride + column;
#pragma unroll
        for (int k = 0; k < DIM / 8; k++) {
            if (row + 8 * half < num_rows && k * 8 < head_dim) {
                unsigned o = *reinterpret_cast<const unsigned*>(from + k * 8), d = d_out[k / 2][half + k % 2 * 2];
                sum = fmaf(low_half(o), low_half(d), fmaf(high_half(o), high_half(d), sum));
            }
        }
        dots[half] = sum_of_row(sum);
    }
}

template <int DIM>
__device__ __forceinline__ void backward_queries(bf16* d_qkv, float* dots, const bf16* d_out, const bf16* out, const bf16* qkv,
                                                 const float* log_sums, const int4* tiles, int tokens, Layout layout, bool is_causal, float scale,
                                                 unsigned char* shared) {
    constexpr int TILE_BYTES = QUERIES_PASS_KEYS * ROW_BYTES<DIM>;
    constexpr int STAGE_BYTES = 2 * TILE_BYTES;
    static_assert(QUERIES_PASS_KEYS == BLOCK_ROWS, "queries pass through a stage of keys, and the mask is needed in the last tile alone");
    const int4 tile = tiles[blockIdx.y];
    const size_t start = tile.x;
    const int length = tile.y, first = tile.z, head = blockIdx.x, warp = threadIdx.x / 32;
    const int num_keys = is_causal ? min(first + BLOCK_ROWS, length) : length;
    const int num_tiles = (num_keys + QUERIES_PASS_KEYS - 1) / QUERIES_PASS_KEYS;
    const bf16* keys = qkv + layout.key(start, head / layout.group());
    const SharedAddress stages = shared_address(shared);
    auto begin_stage = [&](int t) {
        SharedAddress stage = stages + t % 2 * STAGE_BYTES;
        // One pointer is kept and the other made of it: registers are scarce.
        const bf16 *from = keys + size_t(t) * QUERIES_PASS_KEYS * layout.width(), *values = from + layout.num_kv_heads * layout.head_dim;
        int num_rows = num_keys - t * QUERIES_PASS_KEYS;
        begin_tile<DIM, QUERIES_PASS_KEYS, THREADS>(stage, from, layout.width(), num_rows, layout.head_dim, threadIdx.x);
        begin_tile<DIM, QUERIES_PASS_KEYS, THREADS>(stage + TILE_BYTES, values, layout.width(), num_rows, layout.head_dim, threadIdx.x);
    };

    // Queries and dO pass through the second stage while the first fills; the loop's first barrier stands between reading them and
    // the copies that overwrite them.
    const size_t block_at = (start + first) * layout.out_width() + size_t(head) * layout.head_dim;
    const SharedAddress second = stages + STAGE_BYTES;
    begin_tile<DIM, BLOCK_ROWS, THREADS>(second, qkv + layout.query(start + first, head), layout.width(), length - first, layout.head_dim, threadIdx.x);
    begin_tile<DIM, BLOCK_ROWS, THREADS>(second + TILE_BYTES, d_out + block_at, layout.out_width(), length - first, layout.head_dim, threadIdx.x);
    commit_copies();
    begin_stage(0);
    commit_copies();
    wait_for_copies<1>();
    __syncthreads();
    unsigned q[DIM / 16][4], d_rows[DIM / 16][4];
    load_left<DIM>(q, second + warp * WARP_ROWS * ROW_BYTES<DIM>);
    load_left<DIM>(d_rows, second + TILE_BYTES + warp * WARP_ROWS * ROW_BYTES<DIM>);

    const int row = warp * WARP_ROWS + threadIdx.x % 32 / 4, num_rows = length - first - warp * WARP_ROWS;
    const size_t warp_at = block_at + size_t(warp) * WARP_ROWS * layout.out_width();
    Rows rows;
    row_dots<DIM>(rows.dot, d_rows, out + warp_at, layout.out_width(), num_rows, layout.head_dim);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        // Rows behind the sequence's end have zeros for queries and dO; with a sum of zero nothing of theirs overflows.
        bool is_there = first + row + 8 * half < length;
        size_t at = size_t(head) * tokens + start + first + row + 8 * half;
        rows.log2_sum[half] = is_there ? log_sums[at] * LOG2_E : 0.0f;
        if (is_there && threadIdx.x % 4 == 0) dots[at] = rows.dot[half];
    }

    float dq[DIM / 8][4] = {};
    const float log2_scale = scale * LOG2_E;
    // Copies and barriers follow each other as in the forward: a stage is filled after the barrier behind its last reading, and each
    // thread waits for its copies before the barrier in front of its first.
#pragma unroll 1
    for (int t = 0; t + 1 < num_tiles; t++) {
        wait_for_copies<0>();
        __syncthreads();
        begin_stage(t + 1);
        commit_copies();
        SharedAddress stage = stages + t % 2 * STAGE_BYTES;
        const int all[2] = {QUERIES_PASS_KEYS, QUERIES_PASS_KEYS};
        queries_tile<DIM>(dq, q, d_rows, rows, stage, stage + TILE_BYTES, log2_scale, all, Groups<true>{});
    }
    wait_for_copies<0>();
    __syncthreads();
    const int last = num_tiles - 1, left = num_keys - last * QUERIES_PASS_KEYS;
    const int visible[2] = {is_causal ? min(row + 1, left) : left, is_causal ? min(row + 9, left) : left};
    const int seen_by_warp = is_causal ? min((warp + 1) * WARP_ROWS, left) : left;
    SharedAddress stage = stages + last % 2 * STAGE_BYTES;
    queries_tile<DIM>(dq, q, d_rows, rows, stage, stage + TILE_BYTES, log2_scale, visible, Groups<false>{0, (seen_by_warp + 15) / 16});

    // The stage that the last tile does not lie in was read before the last barrier, and nothing is being copied there.
    unsigned char* staging = shared + (last + 1) % 2 * STAGE_BYTES + warp * WARP_ROWS * ROW_BYTES<DIM>;
    store_rows<DIM>(d_qkv + layout.query(start + first + warp * WARP_ROWS, head), layout.width(), num_rows, layout.head_dim, dq, scale, scale, staging);
}

}  // namespace

// Writes dQ, the first num_heads * head_dim columns of d_qkv [tokens, (num_heads + 2 num_kv_heads) * head_dim], and
// dots [num_heads, tokens] = row sums of dO * O, which attention_backward_keys reads: run this first.
// d_out, out [tokens, num_heads * head_dim]; qkv, log_sums, tiles, their best order, is_causal, scale: as in attention_forward.
// Grid (num_heads, tiles), block 128, dynamic shared memory 4 * 64 * 2 * DIM bytes: 32 KB (64), 64 KB (128).
extern "C" __global__ void __launch_bounds__(128, 3)
    attention_backward_queries_64(bf16* __restrict__ d_qkv, float* __restrict__ dots, const bf16* __restrict__ d_out,
                                  const bf16* __restrict__ out, const bf16* __restrict__ qkv, const float* __restrict__ log_sums,
                                  const int4* __restrict__ tiles, int tokens, int num_heads, int num_kv_heads, int head_dim, int is_causal, float scale) {
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    backward_queries<64>(d_qkv, dots, d_out, out, qkv, log_sums, tiles, tokens, {num_heads, num_kv_heads, head_dim}, is_causal != 0, scale, dynamic_shared);
}

extern "C" __global__ void __launch_bounds__(128, 2)
    attention_backward_queries_128(bf16* __restrict__ d_qkv, float* __restrict__ dots, const bf16* __restrict__ d_out,
                                   const bf16* __restrict__ out, const bf16* __restrict__ qkv, const float* __restrict__ log_sums,
                                   const int4* __restrict__ tiles, int tokens, int num_heads, int num_kv_heads, int head_dim, int is_causal, float scale) {
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    backward_queries<128>(d_qkv, dots, d_out, out, qkv, log_sums, tiles, tokens, {num_heads, num_kv_heads, head_dim}, is_causal != 0, scale, dynamic_shared);
}
