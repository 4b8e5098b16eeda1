// The softmax of rows of scores that come tile by tile (Milakov and Gimelshein 2018; Dao et al. 2022).
#pragma once

#include "attention_tile.cuh"

namespace attention {

// Of the two rows, lane / 4 and lane / 4 + 8, that a lane holds a part of.
struct OnlineSoftmax {
    float max[2] = {-INFINITY, -INFINITY};  // of the scores before scaling
    float sum[2] = {0.0f, 0.0f};            // of exponentials relative to it, in this lane's columns
};

// Leaves scores out, in columns from visible[0] (rows below 8) and visible[1] (the others) on.
template <int COLUMNS>
__device__ __forceinline__ void hide(float (&s)[COLUMNS / 8][4], const int (&visible)[2]) {
    int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (n * 8 + column + i % 2 >= visible[i / 2]) s[n][i] = -INFINITY;
        }
    }
}

// Makes of scores [16, COLUMNS] exponentials relative to the largest score so far, to which the mixture `o` [16, DIM] is brought as
// well. Every row has a finite score in every tile, so the new maximum is finite, and 2^(-inf - finite) = 0 begins a row.
template <int COLUMNS, int DIM>
__device__ __forceinline__ void add_exponentials(OnlineSoftmax& state, float (&s)[COLUMNS / 8][4], float (&o)[DIM / 8][4], float log2_scale) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float max = state.max[half];
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) max = fmaxf(max, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        max = max_of_row(max);
        float shrink = power_of_two((state.max[half] - max) * log2_scale), shift = max * log2_scale, sum = 0.0f;
        state.max[half] = max;
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                s[n][i] = power_of_two(fmaf(s[n][i], log2_scale, -shift));
                sum += s[n][i];
            }
        }
        state.sum[half] = state.sum[half] * shrink + sum;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            o[n][2 * half] *= shrink;
            o[n][2 * half + 1] *= shrink;
        }
    }
}

}  // namespace attention
