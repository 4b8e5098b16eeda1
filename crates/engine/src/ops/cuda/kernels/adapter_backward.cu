// Gradients of an adapter's up-projection B from one reading of the output's gradient: dB = scale dY^T h and dh = scale dY B.
//
// A block has 512 columns of dY, in four pieces of 128, and some of its tokens, which pass by in tiles of 64 through two stages. A piece
// of a tile is a left factor twice: as it lies for dh, of which each of the four warps makes 16 tokens, and transposed for dB, of which
// each warp makes 32 columns. dh of a tile is added up over the block's columns, dB over its tokens, in registers. Both go to buffers in
// f32, a part for each block, whose sums the two kernels below make in one order: the same input gives the same bits.
//
// dY is all that is long: 2 bytes a number, read once. Parts cost RANK / 64 bytes a number of dY, written and read.
#include "attention_tile.cuh"

namespace {

using namespace attention;

constexpr int PIECES = 4;
constexpr int PIECE = 128;
constexpr int COLUMNS = PIECES * PIECE;
constexpr int TOKENS = 64;

// Rows of B, then two stages of rows of h, then two of pieces of dY.
template <int RANK>
struct AdapterPass {
    // From one row of B or h to the next: the eight rows that one phase of ldmatrix reads lie in 32 different banks.
    static constexpr int ROW = 2 * (RANK + 8);
    static constexpr int HIDDEN_BYTES = TOKENS * ROW;
    static constexpr int PIECE_BYTES = TOKENS * ROW_BYTES<PIECE>;
    static constexpr int HIDDEN = COLUMNS * ROW;
    static constexpr int STAGES = HIDDEN + 2 * HIDDEN_BYTES;
};

// Begins to copy `ROWS` rows of RANK numbers; rows from `num_rows` on become zeros.
template <int RANK, int ROWS>
__device__ __forceinline__ void begin_rows(SharedAddress to, const bf16* from, size_t stride, int num_rows) {
    constexpr int CHUNKS = RANK / 8;
    static_assert(ROWS * CHUNKS % THREADS == 0);
#pragma unroll
    for (int i = 0; i < ROWS * CHUNKS / THREADS; i++) {
        const int row = (i * THREADS + static_cast<int>(threadIdx.x)) / CHUNKS, chunk = threadIdx.x % CHUNKS;
        const bool is_there = row < num_rows;
        begin_copy_16(to + row * AdapterPass<RANK>::ROW + chunk * 16, is_there ? from + row * stride + chunk * 8 : from, is_there);
    }
}

template <int RANK>
__device__ __forceinline__ void adapter_backward(float* d_hidden, float* d_up, const bf16* d_out, const bf16* hidden, const bf16* up, int tokens,
                                                 int columns, int stride, int hidden_stride, int tokens_of_block, unsigned char* shared) {
    using Pass = AdapterPass<RANK>;
    const int first_column = blockIdx.x * COLUMNS, num_columns = columns - first_column;
    const int first = blockIdx.y * tokens_of_block, end = min(tokens, first + tokens_of_block);
    const int num_pieces = min(PIECES, (num_columns + PIECE - 1) / PIECE), num_tiles = (end - first + TOKENS - 1) / TOKENS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const SharedAddress ups = shared_address(shared), hiddens = ups + Pass::HIDDEN, stages = ups + Pass::STAGES;

    auto begin_stage = [&](int i, int tile, int piece) {
        const size_t token = first + tile * TOKENS;
        const int num_rows = end - first - tile * TOKENS;
        if (piece == 0) begin_rows<RANK, TOKENS>(hiddens + tile % 2 * Pass::HIDDEN_BYTES, hidden + token * hidden_stride, hidden_stride, num_rows);
        begin_tile<PIECE, TOKENS, THREADS>(stages + i % 2 * Pass::PIECE_BYTES, d_out + token * stride + first_column + piece * PIECE, stride, num_rows,
                                           num_columns - piece * PIECE, threadIdx.x);
    };
    begin_rows<RANK, COLUMNS>(ups, up + size_t(first_column) * RANK, RANK, num_columns);
    begin_stage(0, 0, 0);
    commit_copies();

    const int at_left = lane_offset<PIECE>(Order::LeftOrTransposed), at_columns = lane_offset<PIECE>(Order::Right);
    const int at_rank = (lane % 8 + 8 * (lane / 8 % 2)) * Pass::ROW + lane / 16 * 16;
    float db[PIECES][2][RANK / 8][4] = {};
    int i = 0;
#pragma unroll 1
    for (int tile = 0; tile < num_tiles; tile++) {
        float dh[RANK / 8][4] = {};
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            if (piece < num_pieces) {
                // Each thread's copies of this stage, then by the barrier everyone's; behind it also, nobody reads the other stage any more.
                wait_for_copies<0>();
                __syncthreads();
                const bool is_last = piece + 1 == num_pieces;
                if (!is_last || tile + 1 < num_tiles) {
                    begin_stage(i + 1, is_last ? tile + 1 : tile, is_last ? 0 : piece + 1);
                    commit_copies();
                }
                const SharedAddress d_rows = stages + i % 2 * Pass::PIECE_BYTES, h_rows = hiddens + tile % 2 * Pass::HIDDEN_BYTES + at_rank;
                const SharedAddress warp_rows = d_rows + warp * WARP_ROWS * ROW_BYTES<PIECE>, up_rows = ups + piece * PIECE * Pass::ROW + at_rank;
                i++;
#pragma unroll
                for (int k = 0; k < PIECE / 16; k++) {
                    unsigned a[4];
                    load_matrices(a, warp_rows + (at_left ^ (k * 32)));
#pragma unroll
                    for (int n = 0; n < RANK / 16; n++) {
                        unsigned b[4];
                        load_transposed(b, up_rows + k * 16 * Pass::ROW + n * 32);
                        multiply(dh[2 * n], a, b);
                        multiply(dh[2 * n + 1], a, b + 2);
                    }
                }
#pragma unroll
                for (int k = 0; k < TOKENS / 16; k++) {
                    unsigned b[RANK / 16][4];
#pragma unroll
                    for (int n = 0; n < RANK / 16; n++) load_transposed(b[n], h_rows + k * 16 * Pass::ROW + n * 32);
#pragma unroll
                    for (int m = 0; m < 2; m++) {
                        unsigned a[4];
                        load_transposed(a, d_rows + k * 16 * ROW_BYTES<PIECE> + (at_columns ^ ((warp * 2 + m) * 32)));
#pragma unroll
                        for (int n = 0; n < RANK / 16; n++) {
                            multiply(db[piece][m][2 * n], a, b[n]);
                            multiply(db[piece][m][2 * n + 1], a, b[n] + 2);
                        }
                    }
                }
            }
        }
        const int token = first + tile * TOKENS + warp * WARP_ROWS;
        store_sums<RANK>(d_hidden + (size_t(blockIdx.x) * tokens + token) * RANK, RANK, end - token, RANK, dh, 1.0f);
    }
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++) {
#pragma unroll
        for (int m = 0; m < 2; m++) {
            const int column = first_column + piece * PIECE + (warp * 2 + m) * WARP_ROWS;
            store_sums<RANK>(d_up + (size_t(blockIdx.y) * columns + column) * RANK, RANK, columns - column, RANK, db[piece][m], 1.0f);
        }
    }
}

// The sum of eight numbers over parts that lie `size` numbers apart, in their order.
__device__ __forceinline__ Floats<8> sum_of_parts(const float* from, size_t size, int parts) {
    Floats<8> sum = load<8>(from);
#pragma unroll 1
    for (int part = 1; part < parts; part++) {
        from += size;
        const Floats<8> more = load<8>(from);
#pragma unroll
        for (int j = 0; j < 8; j++) sum.v[j] += more.v[j];
    }
    return sum;
}

}  // namespace

// Writes the parts d_hidden [ceil(columns / 512), tokens, RANK] and d_up [ceil(tokens / tokens_of_block), columns, RANK], every number.
//
// d_out [tokens, columns], rows `stride` apart; hidden [tokens, RANK], rows `hidden_stride` apart; up [columns, RANK]; tokens_of_block: a
// multiple of 64. Columns and strides are multiples of 8, and every pointer one of 16 bytes.
// Grid (ceil(columns / 512), ceil(tokens / tokens_of_block)), block 128, dynamic shared memory as AdapterPass lays it out: 63,488 bytes
// (16), 83,968 bytes (32).
extern "C" __global__ void __launch_bounds__(128, 3)
    adapter_backward_16(float* __restrict__ d_hidden, float* __restrict__ d_up, const bf16* __restrict__ d_out, const bf16* __restrict__ hidden,
                        const bf16* __restrict__ up, int tokens, int columns, int stride, int hidden_stride, int tokens_of_block) {
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    adapter_backward<16>(d_hidden, d_up, d_out, hidden, up, tokens, columns, stride, hidden_stride, tokens_of_block, dynamic_shared);
}

extern "C" __global__ void __launch_bounds__(128, 2)
    adapter_backward_32(float* __restrict__ d_hidden, float* __restrict__ d_up, const bf16* __restrict__ d_out, const bf16* __restrict__ hidden,
                        const bf16* __restrict__ up, int tokens, int columns, int stride, int hidden_stride, int tokens_of_block) {
    extern __shared__ __align__(128) unsigned char dynamic_shared[];
    adapter_backward<32>(d_hidden, d_up, d_out, hidden, up, tokens, columns, stride, hidden_stride, tokens_of_block, dynamic_shared);
}

// d_hidden[row * stride + i] = scale times the sum over parts of partial[part, row, i], for i < rank, rounded once.
//
// partial: [parts, rows, rank]. Rank and stride are multiples of 8. Grid ceil(rows rank / 2048), block 256. Bytes: 4 parts + 2 a number.
extern "C" __global__ void __launch_bounds__(BLOCK)
    sum_adapter_hidden(bf16* __restrict__ d_hidden, const float* __restrict__ partial, int rows, int rank, int parts, int stride, float scale) {
    const int at = blockIdx.x * BLOCK + threadIdx.x, packs = rank / 8;
    if (at >= rows * packs) return;
    Floats<8> sum = sum_of_parts(partial + 8 * size_t(at), size_t(rows) * rank, parts);
#pragma unroll
    for (int j = 0; j < 8; j++) sum.v[j] *= scale;
    store(d_hidden + size_t(at / packs) * stride + at % packs * 8, sum);
}

// gradient[i] += scale times the sum over parts of partial[part, i], for i < count, a multiple of 8.
//
// partial: [parts, count]. Grid ceil(count / 2048), block 256. Bytes: 4 parts + 8 a number.
extern "C" __global__ void __launch_bounds__(BLOCK)
    sum_adapter_gradient(float* __restrict__ gradient, const float* __restrict__ partial, int count, int parts, float scale) {
    const int at = 8 * (blockIdx.x * BLOCK + threadIdx.x);
    if (at >= count) return;
    const Floats<8> sum = sum_of_parts(partial + at, count, parts);
    Floats<8> total = load<8>(gradient + at);
#pragma unroll
    for (int j = 0; j < 8; j++) total.v[j] = fmaf(scale, sum.v[j], total.v[j]);
    store(gradient + at, total);
}
