#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// What the kernels share that read numbers.
namespace starr::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

inline __device__ float widen(float value) { return value; }
inline __device__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
inline __device__ float widen(__half value) { return __half2float(value); }

}  // namespace starr::cuda
