// Gradient of attention's keys and values: the second pass, over the keys, after attention_backward_queries.
//
// A block makes dK and dV for 64 keys of one key head, each of its four warps 16 of them, and adds up over all queries of some query
// heads of the group, in one order. Where these are all of the group, the sums are the result. Otherwise the group's blocks write f32,
// each to its own part of a buffer, and sum_attention_parts adds the parts up in their order: a pack of few tiles has work for every
// multiprocessor then, and its bits do not depend on which block ends first. Scores are computed transposed, S^T = K Q^T and dP^T = V dO^T, so that P^T and
// dS^T = P^T * (dP^T - D) come out as left factors of dV = P^T dO and dK = dS^T Q * scale, without leaving registers.
// Keys and values stay in shared memory; queries, dO, log-sum-exps and D pass by in tiles of 32 queries through two stages.
// P and dS are rounded to bf16 for the products; D is used unrounded.
//
// Arithmetic intensity: 8 * 64 * 32 * DIM operations for each 4 * 32 * DIM bytes of queries and dO, 128 a byte of L2; from shared
// memory a warp reads 256 bytes of right factors, and 64 of left ones, for the 4096 operations of each mma.
#include "attention_tile.cuh"

namespace {

using namespace attention;

constexpr int KEYS_PASS_QUERIES = 32;

// Keys and values, then the stages: queries, dO, and the two numbers of each query.
template <int DIM>
struct KeysPass {
    static constexpr int BLOCK_BYTES = BLOCK_ROWS * ROW_BYTES<DIM>;
    static constexpr int TILE_BYTES = KEYS_PASS_QUERIES * ROW_BYTES<DIM>;
    static constexpr int STAGES = 2 * BLOCK_BYTES;
    static constexpr int STAGE_BYTES = 2 * TILE_BYTES + 2 * KEYS_PASS_QUERIES * int(sizeof(float));
};

// One tile of queries. `hidden`: number of the tile's queries that each of the lane's two keys is not seen by, if not `IS_WHOLE`.
template <int DIM, bool IS_WHOLE>
__device__ __forceinline__ void keys_tile(float (&dk)[DIM / 8][4], float (&dv)[DIM / 8][4], SharedAddress keys, SharedAddress values, SharedAddress queries,
                                          SharedAddress d_out, const float* log_sums, const float* dots, float log2_scale, const int (&hidden)[2],
                                          Groups<IS_WHOLE> groups) {
    float s[KEYS_PASS_QUERIES / 8][4] = {}, dp[KEYS_PASS_QUERIES / 8][4] = {};
    add_scores<DIM, KEYS_PASS_QUERIES>(s, keys, queries, groups);
    add_scores<DIM, KEYS_PASS_QUERIES>(dp, values, d_out, groups);
    int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < KEYS_PASS_QUERIES / 8; n++) {
        float2 sums = *reinterpret_cast<const float2*>(log_sums + n * 8 + column), dot = *reinterpret_cast<const float2*>(dots + n * 8 + column);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float p = power_of_two(fmaf(s[n][i], log2_scale, -LOG2_E * (i % 2 ? sums.y : sums.x)));
            if (!IS_WHOLE && n * 8 + column + i % 2 < hidden[i / 2]) p = 0.0f;
            s[n][i] = p;
            dp[n][i] = p * (dp[n][i] - (i % 2 ? dot.y : dot.x));
        }
    }
    unsigned p[KEYS_PASS_QUERIES / 16][4], ds[KEYS_PASS_QUERIES / 16][4];
    round_to_left<KEYS_PASS_QUERIES>(p, s);
    round_to_left<KEYS_PASS_QUERIES>(ds, dp);
    add_mixture<DIM, KEYS_PASS_QUERIES>(dv, p, d_out, groups);
    add_mixture<DIM, KEYS_PASS_QUERIES>(dk, ds, queries, groups);
}

template <int DIM>
__device__ __forceinline__ void backward_keys(bf16* d_qkv, float* partial, const bf16* d_out, const bf16* qkv, const float* log_sums, const float* dots,
                                              const int4* tiles, int tokens, Layout layout, int heads_of_block, bool is_causal, float scale,
                                              unsigned char* shared) {
    using Pass = KeysPass<DIM>;
    const int4 tile = tiles[blockIdx.y];
    const size_t start = tile.x;
    const int length = tile.y, first = tile.z, warp = threadIdx.x / 32;
    const int num_parts = (layout.group() + heads_of_block - 1) / heads_of_block;
    const int kv_head = blockIdx.x / num_parts, part = blockIdx.x % num_parts;
    // With a causal mask queries before the block's first key see none of it.
    const int first_query = is_causal ? first : 0;
    const int tiles_per_head = (length - first_query + KEYS_PASS_QUERIES - 1) / KEYS_PASS_QUERIES;
    const SharedAddress keys = shared_address(shared), values = keys + Pass::BLOCK_BYTES;
    auto begin_stage = [&](int i, int head, int query) {
        SharedAddress stage = keys + Pass::STAGES + i % 2 * Pass::STAGE_BYTES;
        size_t token = start + query;
        begin_tile<DIM, KEYS_PASS_QUERIES, THREADS>(stage, qkv + layout.query(token, head), layout.width(), length - query, layout.head_dim, threadIdx.x);
        begin_tile<DIM, KEYS_PASS_QUERIES, THREADS>(stage + Pass::TILE_BYTES, d_out + token * layout.out_width() + size_t(head) * layout.head_dim, layout.out_width(),
                                                    length - query, layout.head_dim, threadIdx.x);
        // Queries behind the sequence's end are zeros in all four: P = 2^(0 - 0) = 1 meets dO = 0, and dS = 1 * (0 - 0) = 0.
        if (threadIdx.x < 2 * KEYS_PASS_QUERIES) {
            int column = threadIdx.x % KEYS_PASS_QUERIES;
            const float* from = (threadIdx.x < KEYS_PASS_QUERIES ? log_sums : dots) + size_t(head) * tokens + token;
            bool is_there = query + column < length;
            begin_copy_4(stage + 2 * Pass::TILE_BYTES + threadIdx.x * int(sizeof(float)), is_there ? from + column : from, is_there);
        }
    };

    begin_tile<DIM, BLOCK_ROWS, THREADS>(keys, qkv + layout.key(start + first, kv_head), layout.width(), length - first, layout.head_dim, threadIdx.x);
    begin_tile<DIM, BLOCK_ROWS, THREADS>(values, qkv + layout.value(start + first, kv_head), layout.width(), length - first, layout.head_dim, threadIdx.x);
    int head = kv_head * layout.group() + part * heads_of_block, query = first_query;
    begin_stage(0, head, query);
    commit_copies();

    float dk[DIM / 8][4] = {}, dv[DIM / 8][4] = {};
    const float log2_scale = scale * LOG2_E;
    const int num_tiles = min(heads_of_block, layout.group() - part * heads_of_block) * tiles_per_head;
    const SharedAddress warp_keys = keys + warp * WARP_ROWS * ROW_BYTES<DIM>, warp_values = values + warp * WARP_ROWS * ROW_BYTES<DIM>;
#pragma unroll 1
    for (int i = 0; i < num_tiles; i++) {
        // Each thread's copies of this stage, then by the barrier everyone's; behind it also, nobody reads the other stage any more.
        wait_for_copies<0>();
        __syncthreads();
        const int behind_first_key = query - first;
        query += KEYS_PASS_QUERIES;
        if (query >= length) {
            query = first_query;
            head++;
        }
        if (i + 1 < num_tiles) {
            begin_stage(i + 1, head, query);
            commit_copies();
        }
        const int stage_at = Pass::STAGES + i % 2 * Pass::STAGE_BYTES;
        const SharedAddress queries = keys + stage_at, d_rows = queries + Pass::TILE_BYTES;
        const float* sums = reinterpret_cast<const float*>(shared + stage_at + 2 * Pass::TILE_BYTES);
        if (is_causal && behind_first_key < BLOCK_ROWS) {
            // On the diagonal: key `row` of the block is not seen by the queries before it.
            const int row = warp * WARP_ROWS + threadIdx.x % 32 / 4 - behind_first_key;
            const int hidden[2] = {row, row + 8};
            const Groups<false> groups{max(warp - behind_first_key / WARP_ROWS, 0), KEYS_PASS_QUERIES / WARP_ROWS};
            keys_tile<DIM>(dk, dv, warp_keys, warp_values, queries, d_rows, sums, sums + KEYS_PASS_QUERIES, log2_scale, hidden, groups);
        } else {
            const int none[2] = {0, 0};
            keys_tile<DIM>(dk, dv, warp_keys, warp_values, queries, d_rows, sums, sums + KEYS_PASS_QUERIES, log2_scale, none, Groups<true>{});
        }
    }

    const size_t token = start + first + warp * WARP_ROWS;
    const int num_rows = length - first - warp * WARP_ROWS;
    if (num_parts > 1) {
        const size_t width = 2 * size_t(layout.num_kv_heads) * layout.head_dim;
        float* sums = partial + (size_t(part) * tokens + token) * width + size_t(kv_head) * layout.head_dim;
        store_sums<DIM>(sums, width, num_rows, layout.head_dim, dk, scale);
        store_sums<DIM>(sums + width / 2, width, num_rows, layout.head_dim, dv, 1.0f);
        return;
    }
    // A warp's own keys and values were read by that warp alone, and nothing is being copied there: they make room for the results.
    __syncwarp();
    unsigned char* staging = shared + warp * WARP_ROWS * ROW_BYTES<DIM>;
    store_rows<DIM>(d_qkv + layout.key(token, kv_head), layout.width(), num_rows, layout.head_dim, dk, scale, scale, staging);
    store_rows<DIM>(d_qkv + layout.value(token, kv_head), layout.width(), num_rows, layout.head_dim, dv, 1.0f, 1.0f, staging + Pass::BLOCK_BYTES);
}

}  // namespace

// Writes dK and dV, the last 2 num_kv_heads * head_dim columns of d_qkv [tokens, (num_heads + 2 num_kv_heads) * head_dim].
// d_out [tokens, num_heads * head_dim]; dots [num_heads, tokens] from attention_backward_queries; qkv, log_sums, tiles, is_causal,
// scale: as in attention_forward, but the tiles stand for blocks of 64 keys. Best order: most queries first (causal: descending
// length less first key, so the beginnings of sequences; full: descending length).
// heads_of_block: query heads that a block adds up over, of which parts = ceil(group / heads_of_block) make a group, none of them empty. Of
// more than one part the results go to `partial` [parts, tokens, 2 num_kv_heads * head_dim] instead, each number of which is written.
// Grid (num_kv_heads * parts, tiles), block 128, dynamic shared memory as KeysPass lays it out: 33,280 bytes (64), 66,048 bytes (128).
extern "C" __global__ void __launch_bounds__(128, 3)
    attention_backward_keys_64(bf16* __restrict__ d_qkv, float* __restrict__ partial, const bf16* __restrict__ d_out, const bf16* __restrict__ qkv,
                               const float* __restrict__ log_sums, const float* __restrict__ dots, const int4* __restrict__ tiles, int tokens, int num_heads,
                               int num_kv_heads, int head_dim, int heads_of_block, int is_causal, float scale) {
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    backward_keys<64>(d_qkv, partial, d_out, qkv, log_sums, dots, tiles, tokens, {num_heads, num_kv_heads, head_dim}, heads_of_block, is_causal != 0, scale,
                      dynamic_shared);
}

extern "C" __global__ void __launch_bounds__(128, 2)
    attention_backward_keys_128(bf16* __restrict__ d_qkv, float* __restrict__ partial, const bf16* __restrict__ d_out, const bf16* __restrict__ qkv,
                                const float* __restrict__ log_sums, const float* __restrict__ dots, const int4* __restrict__ tiles, int tokens, int num_heads,
                                int num_kv_heads, int head_dim, int heads_of_block, int is_causal, float scale) {
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    backward_keys<128>(d_qkv, partial, d_out, qkv, log_sums, dots, tiles, tokens, {num_heads, num_kv_heads, head_dim}, heads_of_block, is_causal != 0, scale,
                       dynamic_shared);
}

// d_qkv[token * stride + start + i] = the sum over parts, in their order, of partial[part, token, i], for i < width, rounded once.
//
// partial: [parts, tokens, width] of attention_backward_keys. Width, start and stride are multiples of 8, as heads are.
// Grid (tokens), block 128. Bytes: 4 parts + 2 a number.
extern "C" __global__ void __launch_bounds__(128)
    sum_attention_parts(bf16* __restrict__ d_qkv, const float* __restrict__ partial, int tokens, int width, int parts, int start, int stride) {
    const size_t token = blockIdx.x, size_of_part = size_t(tokens) * width;
    for (int column = 8 * static_cast<int>(threadIdx.x); column < width; column += 8 * 128) {
        const float* from = partial + token * width + column;
        Floats<8> sum = load<8>(from);
#pragma unroll 1
        for (int part = 1; part < parts; part++) {
            from += size_of_part;
            const Floats<8> more = load<8>(from);
#pragma unroll
            for (int j = 0; j < 8; j++) sum.v[j] += more.v[j];
        }
        store(d_qkv + token * stride + start + column, sum);
    }
}
