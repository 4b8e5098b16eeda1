// SwiGLU and GELU, forward and backward.
//
// SwiGLU: grid (ceil(dim / 2048), tokens), block 256; a grid has at most 65535 tokens. Rows of its outputs are `stride` apart, which may
// be more than their width: what lies between is not written. GELU: grid ceil(count / 2048), block 256.
#include "common.cuh"

namespace activations {

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

constexpr float SQRT_HALF = 0.70710678118654752f;
// 1 / sqrt(2 pi): the normal density at 0.
constexpr float DENSITY = 0.39894228040143268f;

// The normal distribution's cumulative probability, precise in its lower tail as well.
__device__ __forceinline__ float normal(float x) { return 0.5f * erfcf(-x * SQRT_HALF); }

} // namespace activations

// silu(gate) * up (Shazeer 2020), gate and up side by side.
//
// gate_up: [tokens, 2 dim]; y: [tokens, dim]. Bytes: 6 dim a token.
extern "C" __global__ void __launch_bounds__(BLOCK) swiglu(bf16* __restrict__ y, const bf16* __restrict__ gate_up, int dim, int stride) {
    const size_t row = blockIdx.y;
    const bf16* gates = gate_up + row * 2 * dim;
    each_of_stretch(dim, in_packs(dim, y, gate_up) && stride % 8 == 0, [&](long long at, auto width) {
        constexpr int N = decltype(width)::VALUE;
        const Floats<N> gate = load<N>(gates + at), up = load<N>(gates + dim + at);
        Floats<N> out;
#pragma unroll
        for (int j = 0; j < N; j++) out.v[j] = gate.v[j] * activations::sigmoid(gate.v[j]) * up.v[j];
        store(y + row * stride + at, out);
    });
}

// With s = sigmoid(gate): d gate = dy up s (1 + gate (1 - s)), d up = dy gate s.
//
// dy: [tokens, dim]; gate_up, d_gate_up: [tokens, 2 dim]. Bytes: 10 dim a token.
extern "C" __global__ void __launch_bounds__(BLOCK)
    swiglu_backward(bf16* __restrict__ d_gate_up, const bf16* __restrict__ dy, const bf16* __restrict__ gate_up, int dim, int stride) {
    const size_t row = blockIdx.y;
    const bf16* gates = gate_up + row * 2 * dim;
    bf16* d_gates = d_gate_up + row * stride;
    each_of_stretch(dim, in_packs(dim, d_gate_up, dy, gate_up) && stride % 8 == 0, [&](long long at, auto width) {
        constexpr int N = decltype(width)::VALUE;
        const Floats<N> gate = load<N>(gates + at), up = load<N>(gates + dim + at), d = load<N>(dy + row * dim + at);
        Floats<N> d_gate, d_up;
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float s = activations::sigmoid(gate.v[j]);
            d_gate.v[j] = d.v[j] * up.v[j] * s * (1.0f + gate.v[j] * (1.0f - s));
            d_up.v[j] = d.v[j] * gate.v[j] * s;
        }
        store(d_gates + at, d_gate);
        store(d_gates + dim + at, d_up);
    });
}

// The exact GELU, x Phi(x) (Hendrycks and Gimpel 2016). Bytes: 4 count.
extern "C" __global__ void __launch_bounds__(BLOCK) gelu(bf16* __restrict__ y, const bf16* __restrict__ x, long long count) {
    each_of_stretch(count, in_packs(8, y, x), [&](long long at, auto width) {
        constexpr int N = decltype(width)::VALUE;
        Floats<N> a = load<N>(x + at);
#pragma unroll
        for (int j = 0; j < N; j++) a.v[j] *= activations::normal(a.v[j]);
        store(y + at, a);
    });
}

// dx = dy (Phi(x) + x phi(x)). Bytes: 6 count.
extern "C" __global__ void __launch_bounds__(BLOCK)
    gelu_backward(bf16* __restrict__ dx, const bf16* __restrict__ dy, const bf16* __restrict__ x, long long count) {
    each_of_stretch(count, in_packs(8, dx, dy, x), [&](long long at, auto width) {
        constexpr int N = decltype(width)::VALUE;
        const Floats<N> a = load<N>(x + at);
        Floats<N> d = load<N>(dy + at);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float density = activations::DENSITY * __expf(-0.5f * a.v[j] * a.v[j]);
            d.v[j] *= activations::normal(a.v[j]) + a.v[j] * density;
        }
        store(dx + at, d);
    });
}
