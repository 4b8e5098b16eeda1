// Cross-entropy of rows of logits, with the gradient of the logits.
#include "common.cuh"

namespace losses {

constexpr int THREADS = 512;

// What a pass over the row finds: the largest logit, the sum of exp(logit - largest), the sum of the logits.
struct Found {
    float most, exponentials, logits;
};

// One pass: whenever the maximum grows, what was summed is scaled down. NaN and infinity reach the sums, the maximum ignores NaN.
template <int N>
__device__ __forceinline__ Found look(const float* logits, int vocab) {
    Found found = {LOWEST, 0.0f, 0.0f};
#pragma unroll 2
    for (int column = N * threadIdx.x; column < vocab; column += N * THREADS) {
        const Floats<N> x = load<N>(logits + column);
        float most = x.v[0];
#pragma unroll
        for (int j = 1; j < N; j++) most = fmaxf(most, x.v[j]);
        if (most > found.most) {
            found.exponentials *= __expf(found.most - most);
            found.most = most;
        }
        float exponentials = 0.0f, sum = 0.0f;
#pragma unroll
        for (int j = 0; j < N; j++) {
            exponentials += __expf(x.v[j] - found.most);
            sum += x.v[j];
        }
        found.exponentials += exponentials;
        found.logits += sum;
    }
    const float most = block_max<THREADS>(found.most);
    const float2 sums = block_sum2<THREADS>(found.exponentials * __expf(found.most - most), found.logits);
    return {most, sums.x, sums.y};
}

template <int N>
__device__ __forceinline__ void gradient(bf16* d_logits, const float* logits, int vocab, float most, float factor, float even, int target, float at_target) {
#pragma unroll 2
    for (int column = N * threadIdx.x; column < vocab; column += N * THREADS) {
        Floats<N> x = load<N>(logits + column);
#pragma unroll
        for (int j = 0; j < N; j++) {
            x.v[j] = __expf(x.v[j] - most) * factor - even;
            if (column + j == target) x.v[j] -= at_target;
        }
        store(d_logits + column, x);
    }
}

template <int N>
__device__ __forceinline__ void row_loss(float* loss, float* log_probability, bf16* d_logits, const float* logits, int target, float weight, float smoothing,
                                         int vocab) {
    const Found found = look<N>(logits, vocab);
    if (threadIdx.x == 0) {
        const float log_sum = logf(found.exponentials);
        const float of_target = logits[target] - found.most - log_sum;
        const float spread = smoothing > 0.0f ? smoothing * (log_sum - (found.logits / vocab - found.most)) : 0.0f;
        *loss = spread - (1.0f - smoothing) * of_target;
        *log_probability = of_target;
    }
    if (d_logits != nullptr) {
        gradient<N>(d_logits, logits, vocab, found.most, weight / found.exponentials, weight * smoothing / vocab, target, weight * (1.0f - smoothing));
    }
}

} // namespace losses

// Per row: the negative log-likelihood of the target, `smoothing` of its probability spread evenly over the vocabulary (Szegedy et
// al. 2016); the target's log-probability, not smoothed; weight times the gradient of the loss. Neither of the first two is weighted.
//
// logits, d_logits (null where no gradient is wanted): [rows, vocab]; the others: [rows]. Grid (rows), block 512.
// Bytes: 4 vocab + 16 a row; 10 vocab + 16 with a gradient (the second reading comes from the cache where that holds the rows at work).
extern "C" __global__ void __launch_bounds__(losses::THREADS)
    cross_entropy(float* __restrict__ loss, float* __restrict__ log_probability, bf16* __restrict__ d_logits, const float* __restrict__ logits,
                  const unsigned* __restrict__ targets, const double* __restrict__ weights, float smoothing, int vocab) {
    const size_t row = blockIdx.x, start = row * vocab;
    bf16* gradient = d_logits == nullptr ? nullptr : d_logits + start;
    const int target = static_cast<int>(targets[row]);
    const float weight = static_cast<float>(weights[row]);
    if (in_packs(vocab, logits, d_logits)) {
        losses::row_loss<8>(loss + row, log_probability + row, gradient, logits + start, target, weight, smoothing, vocab);
    } else {
        losses::row_loss<1>(loss + row, log_probability + row, gradient, logits + start, target, weight, smoothing, vocab);
    }
}

// out = the sum of weights times x, both [count], in f64 and in a fixed order. Grid 1, block 256. Bytes: 12 count.
extern "C" __global__ void __launch_bounds__(BLOCK) weighted_sum(double* __restrict__ out, const float* __restrict__ x, const double* __restrict__ weights, int count) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += BLOCK) sum += weights[i] * x[i];
    sum = block_sum<BLOCK>(sum);
    if (threadIdx.x == 0) *out = sum;
}
