// Rotary position embedding over the two halves of a head (Su et al. 2021; the layout of GPT-NeoX).
#include "common.cuh"

namespace rotations {

template <int N>
__device__ __forceinline__ void rotate_token(bf16* x, const float* cos, const float* sin, int num_heads, int half, float direction) {
    const int packs = half / N; // of half a head
    for (int i = threadIdx.x; i < num_heads * packs; i += BLOCK) {
        const int column = i % packs * N;
        bf16* low = x + static_cast<size_t>(i / packs) * 2 * half + column;
        const Floats<N> a = load<N>(low), b = load<N>(low + half), c = load<N>(cos + column), s = load<N>(sin + column);
        Floats<N> first, second;
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float turn = s.v[j] * direction;
            first.v[j] = a.v[j] * c.v[j] - b.v[j] * turn;
            second.v[j] = b.v[j] * c.v[j] + a.v[j] * turn;
        }
        store(low, first);
        store(low + half, second);
    }
}

} // namespace rotations

// Rotates the first num_heads heads of every token in place, by the angles (direction 1) or back (direction -1: the backward).
//
// x: [tokens, width], width >= 2 half num_heads, the rest stays; cos, sin: [tokens, half]. Grid (tokens), block 256.
// Bytes: 8 half num_heads + 8 half a token.
extern "C" __global__ void __launch_bounds__(BLOCK)
    rotate(bf16* __restrict__ x, const float* __restrict__ cos, const float* __restrict__ sin, int width, int num_heads, int half, float direction) {
    const size_t token = blockIdx.x;
    bf16* row = x + token * width;
    if (width % 8 == 0 && in_packs(half, x, cos, sin)) {
        rotations::rotate_token<8>(row, cos + token * half, sin + token * half, num_heads, half, direction);
    } else {
        rotations::rotate_token<1>(row, cos + token * half, sin + token * half, num_heads, half, direction);
    }
}
