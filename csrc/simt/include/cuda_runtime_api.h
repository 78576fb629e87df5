#pragma once

#include "simt/gpu.hpp"

// Stands in for CUDA's header of this name, as far as the product uses it.

using simt::dim3;
using simt::uint3;

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

using cudaStream_t = struct CUstream_st*;  // no work is ever left on one

enum cudaError_t { cudaSuccess, cudaErrorLaunchFailure };

cudaError_t cudaGetLastError();               // as CUDA's, it forgets what it tells
const char* cudaGetErrorString(cudaError_t);  // of the last failure
