// Kernels that prove the emulator itself: what it computes, and the faults it has to find.

#include <cuda_bf16.h>
#include <cuda_fp8.h>

// Sums of 256 numbers a block, through shuffles and shared memory. Grid ceil(count / 256), block 256.
extern "C" __global__ void sample_block_sum(float* sums, const float* x, int count) {
    __shared__ float partial[8];
    int i = blockIdx.x * 256 + threadIdx.x;
    float sum = i < count ? x[i] : 0.0f;
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < 8; warp++) sum += partial[warp];
        sums[blockIdx.x] = sum;
    }
}

// y [16, 8] = a [16, 16] b [16, 8], fragments loaded by their definition. One warp.
extern "C" __global__ void sample_product(float* y, const __nv_bfloat16* a, const __nv_bfloat16* b) {
    unsigned from_a[4], from_b[2];
    float sums[4] = {};
    int group = threadIdx.x / 4, pair = threadIdx.x % 4 * 2;
    for (int i = 0; i < 4; i++) {
        from_a[i] = *reinterpret_cast<const unsigned*>(a + (group + i % 2 * 8) * 16 + pair + i / 2 * 8);
    }
    for (int i = 0; i < 2; i++) {
        unsigned low = __bfloat16_as_ushort(b[(pair + i * 8) * 8 + group]), high = __bfloat16_as_ushort(b[(pair + i * 8 + 1) * 8 + group]);
        from_b[i] = low | high << 16;
    }
    emulated::mma_m16n8k16_bf16(sums, from_a, from_b);
    for (int i = 0; i < 4; i++) y[(group + i / 2 * 8) * 8 + pair + i % 2] = sums[i];
}

// The same product from shared memory: a through ldmatrix.x4, b through ldmatrix.x2.trans. One warp, 768 bytes.
extern "C" __global__ void sample_transposed(float* y, const __nv_bfloat16* a, const __nv_bfloat16* b) {
    extern __shared__ unsigned char dynamic_shared[];
    __nv_bfloat16* tile_a = reinterpret_cast<__nv_bfloat16*>(dynamic_shared);
    __nv_bfloat16* tile_b = tile_a + 16 * 16;
    for (int i = threadIdx.x; i < 16 * 16; i += 32) tile_a[i] = a[i];
    for (int i = threadIdx.x; i < 16 * 8; i += 32) tile_b[i] = b[i];
    __syncwarp();
    unsigned from_a[4], from_b[2];
    float sums[4] = {};
    int lane = threadIdx.x;
    emulated::ldmatrix<4, false>(from_a, tile_a + lane % 16 * 16 + lane / 16 * 8);
    emulated::ldmatrix<2, true>(from_b, tile_b + lane % 16 * 8);
    emulated::mma_m16n8k16_bf16(sums, from_a, from_b);
    for (int i = 0; i < 4; i++) y[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

// Copies 4 numbers a thread in two groups, the last `missing` numbers of a thread's second copy as zeros. Writes what each saw
// before waiting, with the first group there, and with both. Block 32; y [3, 32, 8].
extern "C" __global__ void sample_copies(float* y, const float* x, int missing) {
    __shared__ __align__(16) float tile[32][8];
    int lane = threadIdx.x;
    auto write = [&](int row) {
        for (int i = 0; i < 8; i++) y[(row * 32 + lane) * 8 + i] = tile[lane][i];
    };
    emulated::cp_async<16>(tile[lane], x + lane * 8);
    emulated::cp_async_commit();
    emulated::cp_async<16>(tile[lane] + 4, x + lane * 8 + 4, 16 - 4 * missing);
    emulated::cp_async_commit();
    write(0);
    emulated::cp_async_wait<1>();
    write(1);
    emulated::cp_async_wait<0>();
    write(2);
}

// One row of 40 numbers for each operation between lanes. Block 40: the second warp has eight lanes.
extern "C" __global__ void sample_lanes(int* y) {
    int thread = threadIdx.x, lane = thread % 32;
    unsigned all = thread < 32 ? ~0u : 0xffu;
    int row = 0;
    auto write = [&](int value) { y[row++ * 40 + thread] = value; };
    write(__shfl_sync(all, thread, 3));
    write(__shfl_sync(all, thread, 5, 8));
    write(__shfl_xor_sync(all, thread, 5));
    write(__shfl_down_sync(all, thread, 2, 8));
    write(__shfl_up_sync(all, thread, 3, 8));
    write(static_cast<int>(__ballot_sync(all, thread % 3 == 0)));
    write(__any_sync(all, thread == 35) + 2 * __all_sync(all, thread < 34));
    write(__syncthreads_count(thread % 5 == 0));
    write(__syncthreads_or(thread == 17) + 2 * __syncthreads_and(thread != 17));
    unsigned half = lane < 16 ? all & 0xffffu : all & 0xffff0000u;
    write(__shfl_xor_sync(half, thread, 1));
}

// Each number rounded to bf16 and to fp8, and back. Grid ceil(count / 256), block 256.
extern "C" __global__ void sample_roundings(__nv_bfloat16* bf16, float* fp8, const float* x, int count) {
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    bf16[i] = __float2bfloat16(x[i]);
    fp8[i] = float(__nv_fp8_e4m3(x[i]));
}

// One fault of each kind; `x` holds 64 numbers. One block of 64, 64 bytes of dynamic shared memory.
extern "C" __global__ void sample_fault(float* y, const float* x, int kind) {
    extern __shared__ unsigned char dynamic_shared[];
    __shared__ float cell[64];
    int thread = threadIdx.x;
    y[thread] = 0.0f;
    if (kind == 1 && thread < 63) __syncthreads();                              // a barrier not for all
    if (kind == 2) y[thread] = x[thread + 1];                                   // a read past the end
    if (kind == 3) y[thread - 1] = 1.0f;                                        // a write before the beginning
    if (kind == 4) const_cast<float*>(x)[thread] = 1.0f;                        // a write into an input
    if (kind == 5) y[thread] = cell[thread];                                    // shared memory never written
    if (kind == 6) y[thread] = thread == 7 ? float(__any_sync(~0u, 1)) : __shfl_xor_sync(~0u, 1.0f, 1);  // lanes that diverge
    if (kind == 7) y[0] += float(thread) * 0.1f;                                // a sum whose order is nobody's
    if (kind == 8) cell[thread] = x[thread], y[thread] = cell[63 - thread];     // a barrier left out
    if (kind == 9) dynamic_shared[thread * 2] = 1;                              // more dynamic shared memory than asked for
    if (kind == 10) y[thread] = reinterpret_cast<const float2*>(x + 1)[thread / 4].x;  // a pair at an odd address
    if (kind == 11) cell[thread + 1 + int(x[0])] = 1.0f;                        // an index past an array
    if (kind == 12) thread % 2 ? y[thread] = float(__any_sync(~0u, 1)) : (__syncthreads(), 0.0f);  // lanes that never come
    if (kind == 13) y[64] = 1.0f;                                               // a write just past the end
}
