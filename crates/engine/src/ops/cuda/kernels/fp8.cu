// Activations in 8 bits for the tensor cores: e4m3 (Micikevicius et al. 2022) with one scale a row.
#include <cuda_fp8.h>

#include "common.cuh"

namespace quantisation {

// The largest number of e4m3.
constexpr float MOST = 448.0f;

using fp8_e4m3 = __nv_fp8_storage_t;

__device__ __forceinline__ unsigned code_pair(float low, float high) {
    return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}

__device__ __forceinline__ void store_codes(fp8_e4m3* to, const Floats<8>& x) {
    const unsigned low = code_pair(x.v[0], x.v[1]) | code_pair(x.v[2], x.v[3]) << 16;
    const unsigned high = code_pair(x.v[4], x.v[5]) | code_pair(x.v[6], x.v[7]) << 16;
    __stcg(reinterpret_cast<uint2*>(to), make_uint2(low, high));
}

__device__ __forceinline__ void store_codes(fp8_e4m3* to, const Floats<1>& x) { *to = __nv_cvt_float_to_fp8(x.v[0], __NV_SATFINITE, __NV_E4M3); }

template <class W>
__device__ __forceinline__ void quantise(fp8_e4m3* q, float* scale, const bf16* x, int width) {
    constexpr int N = W::WIDTH;
    const Row<W> row(x, width);
    float most = 0.0f;
    W::each(width, [&](int i, int column) {
        const Floats<N> a = row.at(i, column);
#pragma unroll
        for (int j = 0; j < N; j++) most = fmaxf(most, fabsf(a.v[j]));
    });
    most = block_max<BLOCK>(most);
    const float step = most > 0.0f ? most / MOST : 1.0f;
    if (threadIdx.x == 0) *scale = step;
    W::each(width, [&](int i, int column) {
        Floats<N> a = row.at(i, column);
#pragma unroll
        for (int j = 0; j < N; j++) a.v[j] /= step;
        store_codes(q + column, a);
    });
}

} // namespace quantisation

// scale = max |x| / 448 of each row (1 where the row is of zeros), q = x / scale rounded to nearest even, never beyond 448.
//
// NaN stays NaN; infinity makes its row's scale infinite and itself NaN. x, q: [rows, width]; scale: [rows]. Grid (rows), block 256.
// Bytes: 3 width + 4 a row.
extern "C" __global__ void __launch_bounds__(BLOCK)
    quantise_rows(quantisation::fp8_e4m3* __restrict__ q, float* __restrict__ scale, const bf16* __restrict__ x, int width) {
    const size_t start = static_cast<size_t>(blockIdx.x) * width;
    WITH_WALK(width, in_packs(width, q, x), quantisation::quantise<W>(q + start, scale + blockIdx.x, x + start, width));
}
