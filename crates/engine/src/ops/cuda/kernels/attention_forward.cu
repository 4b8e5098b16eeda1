// Attention inside packed sequences: softmax(Q K^T * scale) V by an online softmax, as in FlashAttention (Dao et al. 2022; Dao 2023).
//
// A block makes 64 queries of one head, each of its four warps 16 of them, which stay in registers; keys and values pass by in tiles
// of 64 through two stages of shared memory. Of a row, the largest score so far, the sum of exponentials and the output relative to
// that largest score are kept in f32; probabilities are rounded to bf16 for the product with the values and not for their sum.
//
// Arithmetic intensity: 4 * 64 * 64 * DIM operations for each tile of 4 * 64 * DIM bytes of keys and values read from L2, 64 a byte;
// from shared memory a warp reads 256 bytes (one right factor, 16 x 8) for the 4096 operations of each mma.
#include "attention_softmax.cuh"
#include "attention_tile.cuh"

namespace {

using namespace attention;

constexpr int FORWARD_KEYS = 64;

// One tile of keys and values. `visible`: number of the tile's keys that each of the two rows sees, if not `IS_WHOLE`.
template <int DIM, bool IS_WHOLE>
__device__ __forceinline__ void forward_tile(float (&o)[DIM / 8][4], OnlineSoftmax& state, const unsigned (&q)[DIM / 16][4], SharedAddress keys,
                                             SharedAddress values, float log2_scale, const int (&visible)[2], Groups<IS_WHOLE> groups) {
    float s[FORWARD_KEYS / 8][4] = {};
    add_scores<DIM, FORWARD_KEYS>(s, q, keys, groups);
    if (!IS_WHOLE) hide<FORWARD_KEYS>(s, visible);
    add_exponentials<FORWARD_KEYS, DIM>(state, s, o, log2_scale);
    unsigned p[FORWARD_KEYS / 16][4];
    round_to_left<FORWARD_KEYS>(p, s);
    add_mixture<DIM, FORWARD_KEYS>(o, p, values, groups);
}

template <int DIM>
__device__ __forceinline__ void forward(bf16* out, float* log_sums, const bf16* qkv, const int4* tiles, int tokens, Layout layout, bool is_causal,
                                        float scale, unsigned char* shared) {
    constexpr int TILE_BYTES = FORWARD_KEYS * ROW_BYTES<DIM>;
    constexpr int STAGE_BYTES = 2 * TILE_BYTES;
    static_assert(FORWARD_KEYS == BLOCK_ROWS, "queries pass through a stage of keys, and the mask is needed in the last tile alone");
    const int4 tile = tiles[blockIdx.y];
    const size_t start = tile.x;
    const int length = tile.y, first = tile.z, head = blockIdx.x, warp = threadIdx.x / 32;
    const int num_keys = is_causal ? min(first + BLOCK_ROWS, length) : length;
    const int num_tiles = (num_keys + FORWARD_KEYS - 1) / FORWARD_KEYS;
    const bf16* keys = qkv + layout.key(start, head / layout.group());
    const bf16* values = qkv + layout.value(start, head / layout.group());
    const SharedAddress stages = shared_address(shared);
    auto begin_stage = [&](int t) {
        SharedAddress stage = stages + t % 2 * STAGE_BYTES;
        size_t offset = size_t(t) * FORWARD_KEYS * layout.width();
        begin_tile<DIM, FORWARD_KEYS, THREADS>(stage, keys + offset, layout.width(), num_keys - t * FORWARD_KEYS, layout.head_dim, threadIdx.x);
        begin_tile<DIM, FORWARD_KEYS, THREADS>(stage + TILE_BYTES, values + offset, layout.width(), num_keys - t * FORWARD_KEYS, layout.head_dim, threadIdx.x);
    };

    // Queries pass through the second stage while the first fills. The loop's first barrier stands between reading them and the
    // copies that overwrite them.
    begin_tile<DIM, BLOCK_ROWS, THREADS>(stages + STAGE_BYTES, qkv + layout.query(start + first, head), layout.width(), length - first, layout.head_dim, threadIdx.x);
    commit_copies();
    begin_stage(0);
    commit_copies();
    wait_for_copies<1>();
    __syncthreads();
    unsigned q[DIM / 16][4];
    load_left<DIM>(q, stages + STAGE_BYTES + warp * WARP_ROWS * ROW_BYTES<DIM>);

    float o[DIM / 8][4] = {};
    OnlineSoftmax state;
    const float log2_scale = scale * LOG2_E;
    const int row = warp * WARP_ROWS + threadIdx.x % 32 / 4;
    // A stage's copies are begun after the barrier that follows the last reading of it (the tile before), and waited for by each
    // thread before the barrier that precedes the first reading: so none is read early and none overwritten while it is read.
#pragma unroll 1
    for (int t = 0; t + 1 < num_tiles; t++) {
        wait_for_copies<0>();
        __syncthreads();
        begin_stage(t + 1);
        commit_copies();
        SharedAddress stage = stages + t % 2 * STAGE_BYTES;
        const int all[2] = {FORWARD_KEYS, FORWARD_KEYS};
        forward_tile<DIM>(o, state, q, stage, stage + TILE_BYTES, log2_scale, all, Groups<true>{});
    }
    // The last tile: with a causal mask the one on the diagonal, otherwise the one that may end early.
    wait_for_copies<0>();
    __syncthreads();
    const int last = num_tiles - 1, left = num_keys - last * FORWARD_KEYS;
    const int visible[2] = {is_causal ? min(row + 1, left) : left, is_causal ? min(row + 9, left) : left};
    const int seen_by_warp = is_causal ? min((warp + 1) * WARP_ROWS, left) : left;
    SharedAddress stage = stages + last % 2 * STAGE_BYTES;
    forward_tile<DIM>(o, state, q, stage, stage + TILE_BYTES, log2_scale, visible, Groups<false>{0, (seen_by_warp + 15) / 16});

    const float sums[2] = {sum_of_row(state.sum[0]), sum_of_row(state.sum[1])};
    if (threadIdx.x % 4 == 0) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int query = first + row + 8 * half;
            if (query < length) log_sums[size_t(head) * tokens + start + query] = state.max[half] * scale + logf(sums[half]);
        }
    }
    // The stage that the last tile does not lie in was read before the last barrier, and nothing is being copied there.
    unsigned char* staging = shared + (last + 1) % 2 * STAGE_BYTES + warp * WARP_ROWS * ROW_BYTES<DIM>;
    const size_t at = (start + first + warp * WARP_ROWS) * layout.out_width() + size_t(head) * layout.head_dim;
    store_rows<DIM>(out + at, layout.out_width(), length - first - warp * WARP_ROWS, layout.head_dim, o, 1.0f / sums[0], 1.0f / sums[1], staging);
}

}  // namespace

// out [tokens, num_heads * head_dim]; log_sums [num_heads, tokens]: the log-sum-exp of every row of scaled scores.
// qkv [tokens, (num_heads + 2 num_kv_heads) * head_dim], queries and keys rotated; scale is above zero.
// tiles: (first token of the sequence, its length, first query of the block inside the sequence: a multiple of 64, unused), for all
// blocks of 64 queries of all sequences; none for an empty sequence. Best order: most keys first (causal: descending first query;
// full: descending length), since blocks start in this order and the last to start should be short.
// Grid (num_heads, tiles), block 128, dynamic shared memory 4 * 64 * 2 * DIM bytes: 32 KB (64), 64 KB (128).
// At most 65535 tiles, the limit of a grid's y. head_dim: a multiple of 8 up to the DIM in the name.
// is_causal: nonzero where a query sees itself and those before it alone.
extern "C" __global__ void __launch_bounds__(128, 4)
    attention_forward_64(bf16* __restrict__ out, float* __restrict__ log_sums, const bf16* __restrict__ qkv, const int4* __restrict__ tiles,
                         int tokens, int num_heads, int num_kv_heads, int head_dim, int is_causal, float scale) {
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    forward<64>(out, log_sums, qkv, tiles, tokens, {num_heads, num_kv_heads, head_dim}, is_causal != 0, scale, dynamic_shared);
}

extern "C" __global__ void __launch_bounds__(128, 3)
    attention_forward_128(bf16* __restrict__ out, float* __restrict__ log_sums, const bf16* __restrict__ qkv, const int4* __restrict__ tiles,
                          int tokens, int num_heads, int num_kv_heads, int head_dim, int is_causal, float scale) {
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    forward<128>(out, log_sums, qkv, tiles, tokens, {num_heads, num_kv_heads, head_dim}, is_causal != 0, scale, dynamic_shared);
}
