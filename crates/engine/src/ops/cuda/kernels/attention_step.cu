// Attention of one new token of each sequence over its cache of keys and values.
//
// A block serves one key head of one sequence: up to 16 query heads of its group are the rows of one left factor. Its four warps take
// turns at tiles of 16 keys, each with a softmax of its own (as attention_forward.cu's) and stages of its own in shared memory, so that
// no warp waits for another until their parts are put together at the end, in one order.
//
// The caches are read once: 4 * head_dim bytes a key. Two tiles of each warp are on their way while one is worked on, 64 KB for each
// multiprocessor, which hides the latency of memory at full bandwidth; the products are few.
#include "attention_softmax.cuh"
#include "attention_tile.cuh"

namespace {

using namespace attention;

constexpr int STEP_DIM = 128;
constexpr int STEP_KEYS = 16;
constexpr int STEP_STAGES = 3;
constexpr int STEP_TILE_BYTES = STEP_KEYS * ROW_BYTES<STEP_DIM>;
constexpr int STEP_WARP_BYTES = STEP_STAGES * 2 * STEP_TILE_BYTES;
// A warp's part of the result: outputs [16, STEP_DIM], then maxima and sums of the 16 rows, all f32.
constexpr int PART_FLOATS = WARP_ROWS * STEP_DIM;
static_assert((PART_FLOATS + 2 * WARP_ROWS) * int(sizeof(float)) <= STEP_WARP_BYTES, "a part takes the place of its warp's stages");

__device__ __forceinline__ void step_tile(float (&o)[STEP_DIM / 8][4], OnlineSoftmax& state, const unsigned (&q)[STEP_DIM / 16][4], SharedAddress keys,
                                          SharedAddress values, float log2_scale, int visible) {
    float s[STEP_KEYS / 8][4] = {};
    add_scores<STEP_DIM, STEP_KEYS>(s, q, keys, Groups<true>{});
    hide<STEP_KEYS>(s, {visible, visible});
    add_exponentials<STEP_KEYS, STEP_DIM>(state, s, o, log2_scale);
    unsigned p[STEP_KEYS / 16][4];
    round_to_left<STEP_KEYS>(p, s);
    add_mixture<STEP_DIM, STEP_KEYS>(o, p, values, Groups<true>{});
}

// The warps' parts, weighted by how far their maxima lie below the largest; a warp that saw no tile has weight 0.
__device__ __forceinline__ void put_together(bf16* out, const float* parts, int num_rows, int head_dim, float log2_scale) {
    constexpr int STRIDE = STEP_WARP_BYTES / int(sizeof(float));
    for (int i = threadIdx.x; i < num_rows * head_dim; i += THREADS) {
        int row = i / head_dim, column = i % head_dim;
        float max = -INFINITY, sum = 0.0f, mixture = 0.0f;
#pragma unroll
        for (int warp = 0; warp < WARPS; warp++) max = fmaxf(max, parts[warp * STRIDE + PART_FLOATS + row]);
#pragma unroll
        for (int warp = 0; warp < WARPS; warp++) {
            const float* part = parts + warp * STRIDE;
            float weight = power_of_two((part[PART_FLOATS + row] - max) * log2_scale);
            sum += weight * part[PART_FLOATS + WARP_ROWS + row];
            mixture += weight * part[row * STEP_DIM + column];
        }
        out[i] = __float2bfloat16_rn(mixture / sum);
    }
}

}  // namespace

// out, queries [sequences, num_heads * head_dim]; keys[i], values[i] [capacity, num_kv_heads * head_dim], rotated keys, of which the
// first lengths[i] >= 1 rows are filled, the new token's included. scale is above zero.
// Grid (sequences, num_kv_heads, ceil(num_heads / num_kv_heads / 16)), block 128, dynamic shared memory 98,304 bytes.
// head_dim: a multiple of 8 up to 128.
extern "C" __global__ void __launch_bounds__(128, 2)
    attention_step(bf16* __restrict__ out, const bf16* __restrict__ queries, const bf16* const* __restrict__ keys, const bf16* const* __restrict__ values,
                   const int* __restrict__ lengths, int num_heads, int num_kv_heads, int head_dim, float scale) {
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    const int sequence = blockIdx.x, kv_head = blockIdx.y, group = num_heads / num_kv_heads, first_row = blockIdx.z * WARP_ROWS;
    const int num_rows = min(group - first_row, WARP_ROWS), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int length = lengths[sequence], num_tiles = (length + STEP_KEYS - 1) / STEP_KEYS;
    const size_t kv_width = size_t(num_kv_heads) * head_dim;
    const bf16 *of_keys = keys[sequence] + size_t(kv_head) * head_dim, *of_values = values[sequence] + size_t(kv_head) * head_dim;
    const size_t rows_at = size_t(sequence) * num_heads * head_dim + size_t(kv_head * group + first_row) * head_dim;
    const SharedAddress stages = shared_address(dynamic_shared) + warp * STEP_WARP_BYTES;
    // The warp's i-th tile, into stage i % 3; a group of copies in any case, so that they can be counted.
    auto begin_stage = [&](int i) {
        int t = warp + i * WARPS;
        if (t < num_tiles) {
            SharedAddress stage = stages + i % STEP_STAGES * 2 * STEP_TILE_BYTES;
            size_t offset = size_t(t) * STEP_KEYS * kv_width;
            begin_tile<STEP_DIM, STEP_KEYS, 32>(stage, of_keys + offset, kv_width, length - t * STEP_KEYS, head_dim, lane);
            begin_tile<STEP_DIM, STEP_KEYS, 32>(stage + STEP_TILE_BYTES, of_values + offset, kv_width, length - t * STEP_KEYS, head_dim, lane);
        }
        commit_copies();
    };

    // Queries pass through the third stage, which is filled only after the first barrier of the loop.
    const SharedAddress third = stages + 2 * 2 * STEP_TILE_BYTES;
    begin_tile<STEP_DIM, WARP_ROWS, 32>(third, queries + rows_at, head_dim, num_rows, head_dim, lane);
    commit_copies();
    begin_stage(0);
    begin_stage(1);
    wait_for_copies<2>();
    __syncwarp();
    unsigned q[STEP_DIM / 16][4];
    load_left<STEP_DIM>(q, third);

    float o[STEP_DIM / 8][4] = {};
    OnlineSoftmax state;
    const float log2_scale = scale * LOG2_E;
#pragma unroll 1
    for (int i = 0; warp + i * WARPS < num_tiles; i++) {
        // All but the newest group: tile i is there for this lane, behind the barrier for its warp; and the warp has read tile i - 1,
        // whose stage tile i + 2 takes.
        wait_for_copies<1>();
        __syncwarp();
        begin_stage(i + 2);
        SharedAddress stage = stages + i % STEP_STAGES * 2 * STEP_TILE_BYTES;
        step_tile(o, state, q, stage, stage + STEP_TILE_BYTES, log2_scale, length - (warp + i * WARPS) * STEP_KEYS);
    }

    // Groups that are still open are empty, or hold nothing of this warp's: the stages are free.
    wait_for_copies<0>();
    __syncwarp();
    float* own = reinterpret_cast<float*>(dynamic_shared + warp * STEP_WARP_BYTES);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = lane / 4 + 8 * half;
        float sum = sum_of_row(state.sum[half]);
        if (lane % 4 == 0) {
            own[PART_FLOATS + row] = state.max[half];
            own[PART_FLOATS + WARP_ROWS + row] = sum;
        }
#pragma unroll
        for (int n = 0; n < STEP_DIM / 8; n++) {
            *reinterpret_cast<float2*>(own + row * STEP_DIM + n * 8 + lane % 4 * 2) = make_float2(o[n][2 * half], o[n][2 * half + 1]);
        }
    }
    __syncthreads();
    put_together(out + rows_at, reinterpret_cast<const float*>(dynamic_shared), num_rows, head_dim, log2_scale);
}
