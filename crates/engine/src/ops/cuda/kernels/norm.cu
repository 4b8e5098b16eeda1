// Root-mean-square norm and layer norm over the last dimension, forward and backward.
//
// Statistics are f32 and are saved; a mean square that overflows makes its row NaN rather than zero. Unless said, one block of 256
// threads per token: grid (tokens), block 256. `dim` is the row's width; bytes are those of `tokens` rows. A `stride` is the distance of
// two rows where that may be more than their width: what lies between is neither read nor written.
#include "common.cuh"

namespace norms {

// 1 / sqrt(mean + eps), NaN where the mean is infinite: rsqrt would give 0, and hide it.
__device__ __forceinline__ float inverse_root(float mean, float eps) { return rsqrtf(mean + eps) + (mean - mean); }

// A norm's number from its statistics. A layer that computes its norms again must get the bits it had, so the compiler is not left
// to choose whether product and sum are one rounding or two.
__device__ __forceinline__ float scaled(float x, float mean, float r, float weight) { return (x - mean) * r * weight; }
__device__ __forceinline__ float scaled(float x, float mean, float r, float weight, float bias) { return fmaf((x - mean) * r, weight, bias); }

template <class W>
__device__ __forceinline__ void rms_forward(bf16* y, float* inverse, const bf16* x, const bf16* weight, int dim, float eps) {
    constexpr int N = W::WIDTH;
    const Row<W> row(x, dim);
    float sum = 0.0f;
    W::each(dim, [&](int i, int column) {
        const Floats<N> a = row.at(i, column);
#pragma unroll
        for (int j = 0; j < N; j++) sum += a.v[j] * a.v[j];
    });
    const float r = inverse_root(block_sum<BLOCK>(sum) / dim, eps);
    if (threadIdx.x == 0) *inverse = r;
    W::each(dim, [&](int i, int column) {
        Floats<N> a = row.at(i, column);
        const Floats<N> w = load<N>(weight + column);
#pragma unroll
        for (int j = 0; j < N; j++) a.v[j] = scaled(a.v[j], 0.0f, r, w.v[j]);
        store(y + column, a);
    });
}

// dx = r (g - mean(g) [of a layer norm alone] - h mean(g h)) + residual, with g = weight dy and h = (x - mean) r.
template <class W, bool CENTRED>
__device__ __forceinline__ void backward(bf16* dx, const bf16* dy, const bf16* x, const bf16* weight, float mean, float r, const bf16* residual, int dim) {
    constexpr int N = W::WIDTH;
    const Row<W> dy_row(dy, dim), x_row(x, dim);
    // Asked for before the sums, so that it arrives while they are made.
    const Row<W> past(residual, residual == nullptr ? 0 : dim);
    float level = 0.0f, along = 0.0f;
    W::each(dim, [&](int i, int column) {
        const Floats<N> d = dy_row.at(i, column), a = x_row.at(i, column), w = load<N>(weight + column);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float g = d.v[j] * w.v[j];
            level += g;
            along += g * (a.v[j] - mean);
        }
    });
    if constexpr (CENTRED) {
        const float2 sums = block_sum2<BLOCK>(level, along);
        level = sums.x / dim;
        along = sums.y * r / dim;
    } else {
        level = 0.0f;
        along = block_sum<BLOCK>(along) * r / dim;
    }
    W::each(dim, [&](int i, int column) {
        const Floats<N> d = dy_row.at(i, column), a = x_row.at(i, column), w = load<N>(weight + column);
        Floats<N> out;
#pragma unroll
        for (int j = 0; j < N; j++) out.v[j] = r * (d.v[j] * w.v[j] - level - (a.v[j] - mean) * r * along);
        if (residual != nullptr) {
            const Floats<N> more = past.at(i, column);
#pragma unroll
            for (int j = 0; j < N; j++) out.v[j] += more.v[j];
        }
        store(dx + column, out);
    });
}

template <class W>
__device__ __forceinline__ void layer_forward(bf16* y, float* mean, float* inverse, const bf16* x, const bf16* weight, const bf16* bias, int dim, float eps) {
    constexpr int N = W::WIDTH;
    const Row<W> row(x, dim);
    float sum = 0.0f;
    W::each(dim, [&](int i, int column) {
        const Floats<N> a = row.at(i, column);
#pragma unroll
        for (int j = 0; j < N; j++) sum += a.v[j];
    });
    const float centre = block_sum<BLOCK>(sum) / dim;
    float square = 0.0f;
    W::each(dim, [&](int i, int column) {
        const Floats<N> a = row.at(i, column);
#pragma unroll
        for (int j = 0; j < N; j++) square += (a.v[j] - centre) * (a.v[j] - centre);
    });
    const float r = inverse_root(block_sum<BLOCK>(square) / dim, eps);
    if (threadIdx.x == 0) {
        *mean = centre;
        *inverse = r;
    }
    W::each(dim, [&](int i, int column) {
        Floats<N> a = row.at(i, column);
        const Floats<N> w = load<N>(weight + column), b = load<N>(bias + column);
#pragma unroll
        for (int j = 0; j < N; j++) a.v[j] = scaled(a.v[j], centre, r, w.v[j], b.v[j]);
        store(y + column, a);
    });
}

// The output once more; no bias where it is null.
template <int N>
__device__ __forceinline__ void again(bf16* y, const bf16* x, const bf16* weight, const bf16* bias, float mean, float r, int dim) {
    Walk<N, 0>::each(dim, [&](int, int column) {
        Floats<N> a = load<N>(x + column);
        const Floats<N> w = load<N>(weight + column);
        if (bias == nullptr) {
#pragma unroll
            for (int j = 0; j < N; j++) a.v[j] = scaled(a.v[j], mean, r, w.v[j]);
        } else {
            const Floats<N> b = load<N>(bias + column);
#pragma unroll
            for (int j = 0; j < N; j++) a.v[j] = scaled(a.v[j], mean, r, w.v[j], b.v[j]);
        }
        store(y + column, a);
    });
}

// Columns of a block, and rows that its threads sum apart before their sums are added in order.
constexpr int COLUMNS = 32;
constexpr int LANES = 8;
// Rows whose loads a thread has under way together.
constexpr int AHEAD = 8;

// Adds to out[column] the sum over tokens of term(token, column): each of LANES rows of threads sums every LANES-th token.
template <class Term>
__device__ __forceinline__ void column_sum(float* out, int tokens, int dim, Term term) {
    __shared__ float of_lanes[LANES][COLUMNS];
    const int column = blockIdx.x * COLUMNS + threadIdx.x;
    float sum = 0.0f;
    if (column < dim) {
        int token = threadIdx.y;
        for (; token + (AHEAD - 1) * LANES < tokens; token += AHEAD * LANES) {
            float terms[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++) terms[i] = term(token + i * LANES, column);
#pragma unroll
            for (int i = 0; i < AHEAD; i++) sum += terms[i];
        }
        for (; token < tokens; token += LANES) sum += term(token, column);
    }
    __syncthreads(); // Former sums may still be read.
    of_lanes[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < dim) {
#pragma unroll
        for (int lane = 1; lane < LANES; lane++) sum += of_lanes[lane][threadIdx.x];
        out[column] += sum;
    }
}

} // namespace norms

// y = x r weight with r = 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019, equation 4); inverse = r.
//
// y: [tokens, dim], `stride` apart; x: [tokens, dim]; weight: [dim]; inverse: [tokens]. Bytes: 4 dim + 4 a token.
extern "C" __global__ void __launch_bounds__(BLOCK)
    rms_norm(bf16* __restrict__ y, float* __restrict__ inverse, const bf16* __restrict__ x, const bf16* __restrict__ weight, int dim, int stride, float eps) {
    const size_t token = blockIdx.x;
    const bool is_in_packs = in_packs(dim, y, x, weight) && stride % 8 == 0;
    WITH_WALK(dim, is_in_packs, norms::rms_forward<W>(y + token * stride, inverse + token, x + token * dim, weight, dim, eps));
}

// rms_norm's output once more, from its statistics, its rows `stride` apart. Bytes: 4 dim + 4 a token.
extern "C" __global__ void __launch_bounds__(BLOCK)
    rms_norm_again(bf16* __restrict__ y, const bf16* __restrict__ x, const bf16* __restrict__ weight, const float* __restrict__ inverse, int dim,
                   int stride) {
    const size_t token = blockIdx.x;
    const float r = inverse[token];
    bf16* to = y + token * stride;
    const bf16* from = x + token * dim;
    if (in_packs(dim, y, x, weight) && stride % 8 == 0) {
        norms::again<8>(to, from, weight, nullptr, 0.0f, r, dim);
    } else {
        norms::again<1>(to, from, weight, nullptr, 0.0f, r, dim);
    }
}

// dx = r weight dy - x r^3 mean(weight dy x) + residual; no residual where it is null.
//
// dx, dy, x, residual: [tokens, dim], dx `stride` and the residual `residual_stride` apart. dx may not be one of the others.
// Bytes: 6 dim + 4 a token, 8 dim + 4 with a residual.
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    rms_norm_backward(bf16* __restrict__ dx, const bf16* __restrict__ dy, const bf16* __restrict__ x, const bf16* __restrict__ weight,
                      const float* __restrict__ inverse, const bf16* __restrict__ residual, int dim, int stride, int residual_stride) {
    const size_t token = blockIdx.x, start = token * dim;
    const bf16* past = residual == nullptr ? nullptr : residual + token * residual_stride;
    const bool is_in_packs = in_packs(dim, dx, dy, x, weight, residual) && stride % 8 == 0 && residual_stride % 8 == 0;
    WITH_WALK(dim, is_in_packs, norms::backward<W, false>(dx + token * stride, dy + start, x + start, weight, 0.0f, inverse[token], past, dim));
}

// d_weight += sum over tokens of dy x r. Grid ceil(dim / 32), block (32, 8). Bytes: 4 dim + 4 a token, and 8 dim.
extern "C" __global__ void __launch_bounds__(BLOCK)
    rms_norm_weight_backward(float* __restrict__ d_weight, const bf16* __restrict__ dy, const bf16* __restrict__ x, const float* __restrict__ inverse,
                             int tokens, int dim) {
    norms::column_sum(d_weight, tokens, dim, [&](int token, int column) {
        const size_t at = static_cast<size_t>(token) * dim + column;
        return __bfloat162float(dy[at]) * __bfloat162float(x[at]) * inverse[token];
    });
}

// y = (x - mean) r weight + bias with r = 1 / sqrt(variance + eps) (Ba et al. 2016), the variance without Bessel's correction.
//
// y, x: [tokens, dim]; weight, bias: [dim]; mean, inverse (r): [tokens]. Bytes: 4 dim + 8 a token.
extern "C" __global__ void __launch_bounds__(BLOCK)
    layer_norm(bf16* __restrict__ y, float* __restrict__ mean, float* __restrict__ inverse, const bf16* __restrict__ x, const bf16* __restrict__ weight,
               const bf16* __restrict__ bias, int dim, float eps) {
    const size_t start = static_cast<size_t>(blockIdx.x) * dim;
    WITH_WALK(dim, in_packs(dim, y, x, weight, bias),
              norms::layer_forward<W>(y + start, mean + blockIdx.x, inverse + blockIdx.x, x + start, weight, bias, dim, eps));
}

// layer_norm's output once more, from its statistics. Bytes: 4 dim + 8 a token.
extern "C" __global__ void __launch_bounds__(BLOCK)
    layer_norm_again(bf16* __restrict__ y, const bf16* __restrict__ x, const bf16* __restrict__ weight, const bf16* __restrict__ bias,
                     const float* __restrict__ mean, const float* __restrict__ inverse, int dim) {
    const size_t start = static_cast<size_t>(blockIdx.x) * dim;
    const float centre = mean[blockIdx.x], r = inverse[blockIdx.x];
    if (in_packs(dim, y, x, weight, bias)) {
        norms::again<8>(y + start, x + start, weight, bias, centre, r, dim);
    } else {
        norms::again<1>(y + start, x + start, weight, bias, centre, r, dim);
    }
}

// dx = r (g - mean(g) - h mean(g h)) + residual with g = weight dy and h = (x - mean) r; no residual where it is null.
//
// dx, dy, x, residual: [tokens, dim]. dx may not be one of the others. Bytes: 6 dim + 8 a token, 8 dim + 8 with a residual.
extern "C" __global__ void __launch_bounds__(BLOCK, 4)
    layer_norm_backward(bf16* __restrict__ dx, const bf16* __restrict__ dy, const bf16* __restrict__ x, const bf16* __restrict__ weight,
                        const float* __restrict__ mean, const float* __restrict__ inverse, const bf16* __restrict__ residual, int dim) {
    const size_t start = static_cast<size_t>(blockIdx.x) * dim;
    const bf16* past = residual == nullptr ? nullptr : residual + start;
    WITH_WALK(dim, in_packs(dim, dx, dy, x, weight, residual),
              norms::backward<W, true>(dx + start, dy + start, x + start, weight, mean[blockIdx.x], inverse[blockIdx.x], past, dim));
}

// d_weight += sum over tokens of dy (x - mean) r, d_bias += sum over tokens of dy. Grid ceil(dim / 32), block (32, 8).
//
// Bytes: 6 dim + 8 a token (dy is read twice, the second time from the cache where it fits), and 16 dim.
extern "C" __global__ void __launch_bounds__(BLOCK)
    layer_norm_weight_backward(float* __restrict__ d_weight, float* __restrict__ d_bias, const bf16* __restrict__ dy, const bf16* __restrict__ x,
                               const float* __restrict__ mean, const float* __restrict__ inverse, int tokens, int dim) {
    norms::column_sum(d_weight, tokens, dim, [&](int token, int column) {
        const size_t at = static_cast<size_t>(token) * dim + column;
        return __bfloat162float(dy[at]) * (__bfloat162float(x[at]) - mean[token]) * inverse[token];
    });
    norms::column_sum(d_bias, tokens, dim, [&](int token, int column) { return __bfloat162float(dy[static_cast<size_t>(token) * dim + column]); });
}

// out += sum over tokens of rows: a bias's gradient. Grid ceil(width / 32), block (32, 8). Bytes: 2 width a token, and 8 width.
extern "C" __global__ void __launch_bounds__(BLOCK) column_sums(float* __restrict__ out, const bf16* __restrict__ rows, int tokens, int width) {
    norms::column_sum(out, tokens, width, [&](int token, int column) { return __bfloat162float(rows[static_cast<size_t>(token) * width + column]); });
}
