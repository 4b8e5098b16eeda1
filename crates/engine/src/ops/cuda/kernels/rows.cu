// Moving rows and numbers: looking up, picking, pooling, adding, converting, filling.
//
// Unless said, one block of 256 threads per row of the output. `dim` and `width` are widths of rows.
#include "common.cuh"

namespace moves {

constexpr int TILE = 32;
constexpr int TILE_ROWS = 8;

template <int N, class Body>
__device__ __forceinline__ void each_pack(int width, Body body) {
    Walk<N, 0>::each(width, [&](int, int column) { body(column); });
}

template <int N>
__device__ __forceinline__ void add_in_order(float* sums, const unsigned* first, const unsigned* end, const bf16* d_rows, int dim) {
    each_pack<N>(dim, [&](int column) {
        Floats<N> sum = load<N>(sums + column);
        for (const unsigned* row = first; row < end; row++) {
            const Floats<N> more = load<N>(d_rows + static_cast<size_t>(*row) * dim + column);
#pragma unroll
            for (int j = 0; j < N; j++) sum.v[j] += more.v[j];
        }
        store(sums + column, sum);
    });
}

template <int N>
__device__ __forceinline__ void mean_of_two(bf16* y, const bf16* a, const bf16* b, int dim) {
    each_pack<N>(dim, [&](int column) {
        const Floats<N> low = load<N>(a + column), high = load<N>(b + column);
        Floats<N> mean;
#pragma unroll
        for (int j = 0; j < N; j++) mean.v[j] = (low.v[j] + high.v[j]) * 0.5f;
        store(y + column, mean);
    });
}

template <int N>
__device__ __forceinline__ void half_to_two(bf16* a, bf16* b, const bf16* dy, int dim) {
    each_pack<N>(dim, [&](int column) {
        Floats<N> half = load<N>(dy + column);
#pragma unroll
        for (int j = 0; j < N; j++) half.v[j] *= 0.5f;
        store(a + column, half);
        store(b + column, half);
    });
}

template <int N, class To, class From>
__device__ __forceinline__ void add(To* to, const To* a, const From* b) {
    Floats<N> sum = load<N>(a);
    const Floats<N> more = load<N>(b);
#pragma unroll
    for (int j = 0; j < N; j++) sum.v[j] += more.v[j];
    store(to, sum);
}

template <class T>
__device__ __forceinline__ void add_row(T* to, const T* from, bool is_in_packs, int width) {
    if (is_in_packs) {
        each_pack<8>(width, [&](int column) { add<8>(to + column, to + column, from + column); });
    } else {
        each_pack<1>(width, [&](int column) { add<1>(to + column, to + column, from + column); });
    }
}

template <class To>
__device__ __forceinline__ void fill(To* y, float value, long long count) {
    each_of_stretch(count, in_packs(8, y), [&](long long at, auto width) {
        constexpr int N = decltype(width)::VALUE;
        Floats<N> same;
#pragma unroll
        for (int j = 0; j < N; j++) same.v[j] = value;
        store(y + at, same);
    });
}

// A normally distributed number of 64 random bits (Box and Muller 1958): radius of the upper half, angle of the lower.
__device__ __forceinline__ float normal(unsigned long long bits) {
    constexpr float UNIT = 1.0f / 4294967296.0f;
    const float radius = (static_cast<float>(static_cast<unsigned>(bits >> 32)) + 0.5f) * UNIT;
    const float turns = static_cast<float>(static_cast<unsigned>(bits)) * UNIT;
    return sqrtf(-2.0f * logf(radius)) * cospif(2.0f * turns);
}

} // namespace moves

// y[i] = table[ids[i]]. Grid (ids), block 256. Bytes: 4 dim + 4 an id.
extern "C" __global__ void __launch_bounds__(BLOCK) gather(bf16* __restrict__ y, const bf16* __restrict__ table, const unsigned* __restrict__ ids, int dim) {
    bf16* to = y + static_cast<size_t>(blockIdx.x) * dim;
    const bf16* from = table + static_cast<size_t>(ids[blockIdx.x]) * dim;
    WITH_WALK(dim, in_packs(dim, y, table), copy_row<W>(to, from, dim));
}

// d_table[ids[i]] += the sum of d_rows[rows[j]] for j in starts[i] .. starts[i + 1], added one after the other: gather's backward.
//
// ids: [distinct], all different; starts: [distinct + 1]; rows: [rows of d_rows] in ascending order inside each group.
// Grid (distinct), block 256. Bytes: 2 dim + 4 a row, and 8 dim + 8 an id.
extern "C" __global__ void __launch_bounds__(BLOCK)
    scatter_add(float* __restrict__ d_table, const unsigned* __restrict__ ids, const unsigned* __restrict__ starts, const unsigned* __restrict__ rows,
                const bf16* __restrict__ d_rows, int dim) {
    float* sums = d_table + static_cast<size_t>(ids[blockIdx.x]) * dim;
    const unsigned *first = rows + starts[blockIdx.x], *end = rows + starts[blockIdx.x + 1];
    if (in_packs(dim, d_table, d_rows)) {
        moves::add_in_order<8>(sums, first, end, d_rows, dim);
    } else {
        moves::add_in_order<1>(sums, first, end, d_rows, dim);
    }
}

// target[ids[i]] = source[i], ids all different. Grid (ids), block 256. Bytes: 4 dim + 4 an id.
extern "C" __global__ void __launch_bounds__(BLOCK)
    overwrite(bf16* __restrict__ target, const unsigned* __restrict__ ids, const bf16* __restrict__ source, int dim) {
    bf16* to = target + static_cast<size_t>(ids[blockIdx.x]) * dim;
    const bf16* from = source + static_cast<size_t>(blockIdx.x) * dim;
    WITH_WALK(dim, in_packs(dim, target, source), copy_row<W>(to, from, dim));
}

// y[i] = (x[firsts[i]] + x[firsts[i] + 1]) / 2. Grid (outputs), block 256. Bytes: 6 dim + 4 an output.
extern "C" __global__ void __launch_bounds__(BLOCK) pool_pairs(bf16* __restrict__ y, const unsigned* __restrict__ firsts, const bf16* __restrict__ x, int dim) {
    bf16* to = y + static_cast<size_t>(blockIdx.x) * dim;
    const bf16* from = x + static_cast<size_t>(firsts[blockIdx.x]) * dim;
    if (in_packs(dim, y, x)) {
        moves::mean_of_two<8>(to, from, from + dim, dim);
    } else {
        moves::mean_of_two<1>(to, from, from + dim, dim);
    }
}

// dx[firsts[i]] = dx[firsts[i] + 1] = dy[i] / 2; rows that no pair holds stay, so dx is of zeros before.
//
// Grid (rows of dy), block 256. Bytes: 6 dim + 4 a row of dy.
extern "C" __global__ void __launch_bounds__(BLOCK)
    pool_pairs_backward(bf16* __restrict__ dx, const unsigned* __restrict__ firsts, const bf16* __restrict__ dy, int dim) {
    bf16* to = dx + static_cast<size_t>(firsts[blockIdx.x]) * dim;
    const bf16* from = dy + static_cast<size_t>(blockIdx.x) * dim;
    if (in_packs(dim, dx, dy)) {
        moves::half_to_two<8>(to, to + dim, from, dim);
    } else {
        moves::half_to_two<1>(to, to + dim, from, dim);
    }
}

// a += b. Grid ceil(count / 2048), block 256. Bytes: 6 count.
extern "C" __global__ void __launch_bounds__(BLOCK) add_to(bf16* __restrict__ a, const bf16* __restrict__ b, long long count) {
    each_of_stretch(count, in_packs(8, a, b), [&](long long at, auto width) { moves::add<decltype(width)::VALUE>(a + at, a + at, b + at); });
}

// y = x, rounded to nearest even. Grid ceil(count / 2048), block 256. Bytes: 6 count.
extern "C" __global__ void __launch_bounds__(BLOCK) to_bf16(bf16* __restrict__ y, const float* __restrict__ x, long long count) {
    each_of_stretch(count, in_packs(8, y, x), [&](long long at, auto width) { store(y + at, load<decltype(width)::VALUE>(x + at)); });
}

// y = x, exactly. Grid ceil(count / 2048), block 256. Bytes: 6 count.
extern "C" __global__ void __launch_bounds__(BLOCK) to_f32(float* __restrict__ y, const bf16* __restrict__ x, long long count) {
    each_of_stretch(count, in_packs(8, y, x), [&](long long at, auto width) { store(y + at, load<decltype(width)::VALUE>(x + at)); });
}

// y[row] += bias. y: [rows, width]; bias: [width]. Grid (rows), block 256. Bytes: 4 width a row.
extern "C" __global__ void __launch_bounds__(BLOCK) add_bias(bf16* __restrict__ y, const bf16* __restrict__ bias, int width) {
    bf16* row = y + static_cast<size_t>(blockIdx.x) * width;
    if (in_packs(width, y, bias)) {
        moves::each_pack<8>(width, [&](int column) { moves::add<8>(row + column, row + column, bias + column); });
    } else {
        moves::each_pack<1>(width, [&](int column) { moves::add<1>(row + column, row + column, bias + column); });
    }
}

// y[row * stride + i] += x[row * width + i] for i < width. Grid (rows), block 256. Bytes: 6 width a row.
extern "C" __global__ void __launch_bounds__(BLOCK) add_rows_bf16(bf16* __restrict__ y, long long stride, const bf16* __restrict__ x, int width) {
    moves::add_row(y + blockIdx.x * stride, x + static_cast<size_t>(blockIdx.x) * width, in_packs(width, y, x) && stride % 8 == 0, width);
}

// The same of f32. Bytes: 12 width a row.
extern "C" __global__ void __launch_bounds__(BLOCK) add_rows_f32(float* __restrict__ y, long long stride, const float* __restrict__ x, int width) {
    moves::add_row(y + blockIdx.x * stride, x + static_cast<size_t>(blockIdx.x) * width, in_packs(width, y, x) && stride % 8 == 0, width);
}

// y [cols, rows] = the transpose of x [rows, cols]. Grid (ceil(cols / 32), ceil(rows / 32)), block (32, 8). Bytes: 4 rows cols.
extern "C" __global__ void __launch_bounds__(BLOCK) transpose(bf16* __restrict__ y, const bf16* __restrict__ x, int rows, int cols) {
    __shared__ bf16 tile[moves::TILE][moves::TILE + 2]; // An odd number of words a row: columns lie in different banks.
    const int first_row = blockIdx.y * moves::TILE, first_col = blockIdx.x * moves::TILE;
    for (int i = threadIdx.y; i < moves::TILE; i += moves::TILE_ROWS) {
        const int row = first_row + i, col = first_col + threadIdx.x;
        if (row < rows && col < cols) tile[i][threadIdx.x] = x[static_cast<size_t>(row) * cols + col];
    }
    __syncthreads();
    for (int i = threadIdx.y; i < moves::TILE; i += moves::TILE_ROWS) {
        const int row = first_row + threadIdx.x, col = first_col + i;
        if (row < rows && col < cols) y[static_cast<size_t>(col) * rows + row] = tile[threadIdx.x][i];
    }
}

// y[row * y_row_stride + i] = x[row * x_row_stride + i] for i < width. Grid (rows), block 256. Bytes: 4 width a row.
extern "C" __global__ void __launch_bounds__(BLOCK)
    copy_columns(bf16* __restrict__ y, long long y_row_stride, const bf16* __restrict__ x, long long x_row_stride, int width) {
    const long long row = blockIdx.x;
    bf16* to = y + row * y_row_stride;
    const bf16* from = x + row * x_row_stride;
    const bool is_in_packs = in_packs(width, y, x) && y_row_stride % 8 == 0 && x_row_stride % 8 == 0;
    WITH_WALK(width, is_in_packs, copy_row<W>(to, from, width));
}

// y[i] = deviation times a standard normal number, made of the bits at position i of the key's stream. The same on every GPU of a
// kind. Grid ceil(count / 2048), block 256. Bytes: 2 count.
extern "C" __global__ void __launch_bounds__(BLOCK) random_normal(bf16* __restrict__ y, long long count, unsigned long long key, float deviation) {
    each_of_stretch(count, in_packs(8, y), [&](long long at, auto width) {
        constexpr int N = decltype(width)::VALUE;
        Floats<N> drawn;
#pragma unroll
        for (int j = 0; j < N; j++) drawn.v[j] = deviation * moves::normal(random_bits(key, at + j));
        store(y + at, drawn);
    });
}

// y = value everywhere. Grid ceil(count / 2048), block 256. Bytes: 2 count.
extern "C" __global__ void __launch_bounds__(BLOCK) fill_bf16(bf16* __restrict__ y, float value, long long count) { moves::fill(y, value, count); }

// The same of f32. Bytes: 4 count.
extern "C" __global__ void __launch_bounds__(BLOCK) fill_f32(float* __restrict__ y, float value, long long count) { moves::fill(y, value, count); }
