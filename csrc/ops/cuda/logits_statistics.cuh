#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace starr::cuda {

// Raw pointers and a stream: no torch type crosses this line.
struct LogitsStatisticsParams {
  const void* logits;  // [num_rows, vocab_size], rows row_stride elements apart
  bool is_bfloat16;    // else float32
  std::int64_t num_rows;
  std::int64_t vocab_size;  // below 2^31 - 1
  std::int64_t row_stride;
  std::int64_t forbidden_token;  // -1 = none
  std::int64_t* candidate;       // [num_rows], as the other results
  float* top1;
  float* top2;
  float* entropy;
  float* log_normalizer;
};

cudaError_t launch_logits_statistics(const LogitsStatisticsParams& params, cudaStream_t stream);

}  // namespace starr::cuda
