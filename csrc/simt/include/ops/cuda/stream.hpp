#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/checks.hpp"

// In place of the product's header of this name: there is no CUDA to ask for a stream.

namespace simt {

// Of torch::stable::accelerator, whose own needs an accelerator.
struct DeviceGuard {
  explicit DeviceGuard(std::int32_t) {}
};

}  // namespace simt

namespace starr::cuda {

inline cudaStream_t current_stream(std::int32_t) { return nullptr; }

inline void check_launch(const char* op, cudaError_t status) {
  check(status == cudaSuccess, op, ": ", cudaGetErrorString(status));
}

}  // namespace starr::cuda
