// Dropout whose mask is a hash of what is dropped, so that it is never stored and never depends on the packing.
#include "common.cuh"

namespace masks {

// Of the 64 bits at a position, those that a share of 2^53 is compared with.
constexpr int UNUSED_BITS = 11;

template <class W>
__device__ __forceinline__ void drop(bf16* y, const bf16* x, unsigned long long key, unsigned long long dropped, float kept, int dim) {
    constexpr int N = W::WIDTH;
    const Row<W> row(x, dim);
    W::each(dim, [&](int i, int column) {
        Floats<N> a = row.at(i, column);
#pragma unroll
        for (int j = 0; j < N; j++) a.v[j] = random_bits(key, column + j) >> UNUSED_BITS >= dropped ? a.v[j] * kept : 0.0f;
        store(y + column, a);
    });
}

} // namespace masks

// y = x `kept` where the 53 bits at (token's key, column) are at least `dropped`, else 0; of a gradient, the backward.
//
// x: [tokens, dim], `stride` apart; y: [tokens, dim]; token_keys: [tokens], with the site; dropped: the share times 2^53, rounded up;
// kept: 1 / (1 - share). Grid (tokens), block 256. Bytes: 4 dim + 8 a token.
extern "C" __global__ void __launch_bounds__(BLOCK)
    dropout(bf16* __restrict__ y, const bf16* __restrict__ x, const unsigned long long* __restrict__ token_keys, unsigned long long dropped, float kept, int dim,
            int stride) {
    const size_t token = blockIdx.x;
    const unsigned long long key = token_keys[blockIdx.x];
    WITH_WALK(dim, in_packs(dim, y, x) && stride % 8 == 0, masks::drop<W>(y + token * dim, x + token * stride, key, dropped, kept, dim));
}
