// The part of CUDA C++ that the kernels use, for a host compiler: every thread of a block is a fiber, blocks run one by one.
//
// Inline PTX cannot be compiled here; where a kernel has some, `#ifdef MAQAM_EMULATED` calls instead
//   emulated::mma_m16n8k16_bf16(float d[4], const unsigned a[4], const unsigned b[2])     d += a b
//   emulated::ldmatrix<1 | 2 | 4, is_transposed>(unsigned* registers, const void* row)    16 aligned bytes of shared memory
//   emulated::cp_async<4 | 8 | 16>(void* shared, const void* global, unsigned bytes_read) the rest is zeros
//   emulated::cp_async_commit(), emulated::cp_async_wait<N>(), emulated::cp_async_wait_all()
// Dynamic shared memory is `extern __shared__ unsigned char dynamic_shared[];`, aligned to 128 bytes.
//
// Found: barriers and warp operations that not all threads reach, reads and writes outside of buffers (those of the harness lie
// between closed pages), addresses not aligned to their type, indices outside of arrays, shared memory read before it is written
// (NaN), dynamic shared memory overrun, launches that a driver refuses. Run in both orders, results that differ show a race.
// Not found: races that neither order shows, registers spilt, anything of time.
#pragma once

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __constant__ static const
#define __shared__ thread_local
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__

#include "emulator/launch.h"
#include "emulator/math.h"

#define threadIdx (emulated::self->index)
#define blockIdx (emulated::block.index)
#define blockDim (emulated::block.dim)
#define gridDim (emulated::block.grid)
constexpr int warpSize = 32;
