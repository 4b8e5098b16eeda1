// Convolution of kernel 3 over time as unfold + matrix product, inside each window of a packed batch.
#include "common.cuh"

namespace taps {

constexpr int KERNEL = 3;

template <int N>
__device__ __forceinline__ void unfold_row(bf16* y, const bf16* x, const int* centre, int dim) {
    const int row = centre[0], start = centre[1], end = centre[2];
    Walk<N, 0>::each(KERNEL * dim, [&](int, int column) {
        const int tap = column / dim, from = row + tap - 1;
        Pack<N> pack = {};
        if (start <= from && from < end) pack = load_pack<N>(x + static_cast<size_t>(from) * dim + (column - tap * dim));
        store_pack(y + column, pack);
    });
}

template <int N>
__device__ __forceinline__ void fold_row(bf16* dx, const bf16* dy, const int* readers, int dim) {
    Walk<N, 0>::each(dim, [&](int, int column) {
        Floats<N> sum = {};
#pragma unroll
        for (int tap = 0; tap < KERNEL; tap++) {
            if (readers[tap] < 0) continue;
            const Floats<N> more = load<N>(dy + (static_cast<size_t>(readers[tap]) * KERNEL + tap) * dim + column);
#pragma unroll
            for (int j = 0; j < N; j++) sum.v[j] += more.v[j];
        }
        store(dx + column, sum);
    });
}

} // namespace taps

// For every output row, the three input rows that it sees side by side, zeros outside of its window.
//
// x: [rows, dim]; y: [outputs, 3 dim], taps outermost; centres: [outputs, 3], the row in the middle, the window's first row and its
// end. Grid (outputs), block 256. Bytes: 6 dim + 12 an output, and the rows of x: 2 dim each.
extern "C" __global__ void __launch_bounds__(BLOCK) unfold(bf16* __restrict__ y, const bf16* __restrict__ x, const int* __restrict__ centres, int dim) {
    const size_t output = blockIdx.x;
    bf16* to = y + output * taps::KERNEL * dim;
    if (in_packs(dim, y, x)) {
        taps::unfold_row<8>(to, x, centres + 3 * output, dim);
    } else {
        taps::unfold_row<1>(to, x, centres + 3 * output, dim);
    }
}

// dx[row] = the sum over taps of what that tap of an output row read from it.
//
// dx: [rows, dim]; dy: [outputs, 3 dim]; readers: [rows, 3], the output row whose tap 0, 1, 2 reads this row, or -1. Grid (rows),
// block 256. Bytes: 2 dim + 12 a row, and 2 dim for each reader.
extern "C" __global__ void __launch_bounds__(BLOCK)
    unfold_backward(bf16* __restrict__ dx, const bf16* __restrict__ dy, const int* __restrict__ readers, int dim) {
    const size_t row = blockIdx.x;
    if (in_packs(dim, dx, dy)) {
        taps::fold_row<8>(dx + row * dim, dy, readers + 3 * row, dim);
    } else {
        taps::fold_row<1>(dx + row * dim, dy, readers + 3 * row, dim);
    }
}
