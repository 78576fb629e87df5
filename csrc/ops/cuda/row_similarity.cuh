#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace starr::cuda {

enum class RowDtype { kFloat32, kBFloat16, kFloat16 };

// Raw pointers and a stream: no torch type crosses this line. Sizes and strides in elements.
struct RowSimilarityParams {
  const void* rows;           // [num_rows, row_size], rows row_stride apart
  const void* cache;          // [num_slots, row_size]
  const std::int64_t* slots;  // [num_rows], negative = nothing to compare with
  float* similarity;          // [num_rows]
  RowDtype dtype;             // of rows and cache
  std::int64_t num_rows;
  std::int64_t row_size;
  std::int64_t row_stride;
};

cudaError_t launch_row_similarity(const RowSimilarityParams& params, cudaStream_t stream);

}  // namespace starr::cuda
