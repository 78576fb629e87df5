#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace starr::cuda {

// Raw pointers and a stream: no torch type crosses this line.
struct SelectLowestParams {
  const float* values;          // [cu_rows[num_segments]], less than 2^31 - 1
  const std::int64_t* cu_rows;  // [num_segments + 1], on the host, as counts is: both travel in
  const std::int64_t* counts;   // [num_segments]      the kernel's arguments
  std::int64_t num_segments;
  std::int64_t* selected;  // [sum of counts]
};

cudaError_t launch_select_lowest(const SelectLowestParams& params, cudaStream_t stream);

}  // namespace starr::cuda
