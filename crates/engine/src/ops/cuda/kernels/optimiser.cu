// AdamW (Loshchilov and Hutter 2019) over one flat buffer, the norm of a flat gradient, and the running sum of a step's losses.
#include "common.cuh"

// A stretch of the flat buffer that is updated alike; stretches are sorted, disjoint, and may have gaps between them.
struct Segment {
    long long start, end;
    float rate; // learning rate over 1 - beta1^step
    float keep; // 1 - learning rate times weight decay
    float root; // 1 / sqrt(1 - beta2^step)
};

namespace updates {

struct Settings {
    float beta1, beta2, rest1, rest2, eps, scale;
};

// Index of the first segment that ends after `at`; num_segments where there is none.
__device__ __forceinline__ int find(const Segment* segments, int num_segments, long long at) {
    int low = 0, high = num_segments;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (segments[middle].end > at) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

template <int N>
__device__ __forceinline__ void update(float* values, float* first, float* second, bf16* copy, const float* gradients, const Segment& segment,
                                       const Settings& with, long long at) {
    Floats<N> p = load<N>(values + at), m = load<N>(first + at), v = load<N>(second + at);
    const Floats<N> d = load<N>(gradients + at);
#pragma unroll
    for (int j = 0; j < N; j++) {
        const float g = d.v[j] * with.scale;
        m.v[j] = m.v[j] * with.beta1 + g * with.rest1;
        v.v[j] = v.v[j] * with.beta2 + g * g * with.rest2;
        p.v[j] = p.v[j] * segment.keep - segment.rate * m.v[j] / (sqrtf(v.v[j]) * segment.root + with.eps);
    }
    store(values + at, p);
    store(first + at, m);
    store(second + at, v);
    if (copy != nullptr) store(copy + at, p);
}

__device__ __forceinline__ bool is_finite(double x) { return x - x == 0.0; }

} // namespace updates

// partial[block] = the sum of the squares of every 1024th stretch of x, in f64. Grid 1024, block 256, whatever the count: so the
// order of the sum depends on the count alone. Bytes: 4 count.
extern "C" __global__ void __launch_bounds__(BLOCK) sum_of_squares(double* __restrict__ partial, const float* __restrict__ x, long long count) {
    double sum = 0.0;
    const long long stride = static_cast<long long>(gridDim.x) * STRETCH;
    const bool is_in_packs = in_packs(8, x);
    for (long long first = static_cast<long long>(blockIdx.x) * STRETCH + 8 * threadIdx.x; first < count; first += stride) {
        if (is_in_packs && first + 8 <= count) {
            const Floats<8> a = load<8>(x + first);
#pragma unroll
            for (int j = 0; j < 8; j++) sum += static_cast<double>(a.v[j]) * a.v[j];
        } else {
            for (long long at = first; at < count && at < first + 8; at++) sum += static_cast<double>(x[at]) * x[at];
        }
    }
    sum = block_sum<BLOCK>(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// out = the root of the sum of partial [count], in a fixed order. Grid 1, block 256. Bytes: 8 count.
extern "C" __global__ void __launch_bounds__(BLOCK) root_of_sum(double* __restrict__ out, const double* __restrict__ partial, int count) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += BLOCK) sum += partial[i];
    sum = block_sum<BLOCK>(sum);
    if (threadIdx.x == 0) *out = sqrt(sum);
}

// sum += term, one number each. Grid 1, block 1.
extern "C" __global__ void add_scalar(double* __restrict__ sum, const double* __restrict__ term) { *sum += *term; }

// One update of a gradient that is multiplied by min(1, max_norm / (norm + 1e-6)) first, by 1 where max_norm is 0; numbers outside of
// all segments stay. Where the norm or the loss is not finite, all of them do.
//
// values, first, second, gradients: flat f32; copy (null where there is none): the values in bf16; the end of the last segment is
// where the buffers may end. rest1, rest2: 1 - beta, of a beta that is not rounded yet. norm, loss: one number each.
// Grid ceil(that end / 2048), block 256. Bytes: 28 a number, 30 with a copy.
extern "C" __global__ void __launch_bounds__(BLOCK)
    adamw(float* __restrict__ values, float* __restrict__ first, float* __restrict__ second, bf16* __restrict__ copy, const float* __restrict__ gradients,
          const Segment* __restrict__ segments, int num_segments, float beta1, float beta2, float rest1, float rest2, float eps, double max_norm,
          const double* __restrict__ norm, const double* __restrict__ loss) {
    const double length = *norm;
    if (!updates::is_finite(length) || !updates::is_finite(*loss)) return;
    // As the CPU does, in f64; PyTorch's clip_grad_norm_ adds the 1e-6.
    const float scale = max_norm > 0.0 ? static_cast<float>(fmin(max_norm / (length + 1e-6), 1.0)) : 1.0f;
    const updates::Settings with = {beta1, beta2, rest1, rest2, eps, scale};
    const long long begin = static_cast<long long>(blockIdx.x) * STRETCH + 8 * threadIdx.x;
    int place = updates::find(segments, num_segments, begin);
    if (place == num_segments) return;
    Segment segment = segments[place];
    if (segment.start <= begin && begin + 8 <= segment.end && in_packs(8, values, first, second, copy, gradients)) {
        updates::update<8>(values, first, second, copy, gradients, segment, with, begin);
        return;
    }
    for (long long at = begin; at < begin + 8; at++) {
        while (segment.end <= at) {
            if (++place == num_segments) return;
            segment = segments[place];
        }
        if (segment.start <= at) updates::update<1>(values, first, second, copy, gradients, segment, with, at);
    }
}
