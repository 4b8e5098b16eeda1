// What lets one product compute a frozen weight and the adapter beside it: copies of the adapter's matrices beside the weight, and of
// what its first product found beside that product's input.
#include "common.cuh"

// One matrix that is copied into another.
struct Copy {
    const bf16* from;   // [rows, columns]
    bf16* to;           // the same, `stride` apart
    long long stride;
    int rows, columns;
    int first_block;    // number of the first block of threads that copies it
    int unused;
};

namespace adapters {

// Number of the copy that a block works on: the last whose first block is not behind it.
__device__ __forceinline__ int find(const Copy* copies, int num_copies, int block) {
    int low = 0, high = num_copies - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (copies[middle].first_block <= block) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

} // namespace adapters

// Copies some matrices, each in ceil(rows columns / 2048) blocks, which follow each other in the order of the copies.
//
// Grid (all blocks), block 256. Bytes: 4 a number, and a copy's 40 for each block.
extern "C" __global__ void __launch_bounds__(BLOCK) copy_matrices(const Copy* __restrict__ copies, int num_copies) {
    const int block = blockIdx.x;
    const Copy copy = copies[adapters::find(copies, num_copies, block)];
    const bool is_in_packs = in_packs(copy.columns, copy.from, copy.to) && copy.stride % 8 == 0;
    each_of_stretch(block - copy.first_block, static_cast<long long>(copy.rows) * copy.columns, is_in_packs, [&](long long at, auto width) {
        constexpr int N = decltype(width)::VALUE;
        const long long row = at / copy.columns, column = at % copy.columns;
        store_pack(copy.to + row * copy.stride + column, load_pack<N>(copy.from + at));
    });
}

// beside[row * stride + i] = scales[i] hidden[row, i] for i < ranks, and 0 from there to `padding`; a factor of 1 where scales is null.
//
// hidden: [rows, ranks]; scales: [ranks]. Grid ceil(rows padding / 2048), block 256. Bytes: 2 (ranks + padding) a row.
extern "C" __global__ void __launch_bounds__(BLOCK)
    write_beside(bf16* __restrict__ beside, const bf16* __restrict__ hidden, const float* __restrict__ scales, int rows, int ranks, int padding, int stride) {
    const bool is_in_packs = in_packs(ranks, beside, hidden, scales) && padding % 8 == 0 && stride % 8 == 0;
    each_of_stretch(static_cast<long long>(rows) * padding, is_in_packs, [&](long long at, auto width) {
        constexpr int N = decltype(width)::VALUE;
        const long long row = at / padding;
        const int column = static_cast<int>(at % padding);
        Floats<N> x = {};
        if (column < ranks) {
            x = load<N>(hidden + row * ranks + column);
            if (scales != nullptr) {
                const Floats<N> factor = load<N>(scales + column);
#pragma unroll
                for (int j = 0; j < N; j++) x.v[j] *= factor.v[j];
            }
        }
        store(beside + row * stride + column, x);
    });
}
