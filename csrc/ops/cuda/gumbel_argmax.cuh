#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace starr::cuda {

// Raw pointers and a stream: no torch type crosses this line.
struct GumbelArgmaxParams {
  const void* logits;       // [num_rows, vocab_size], rows row_stride elements apart
  bool is_bfloat16;         // else float32
  std::int64_t vocab_size;  // below 2^31 - 1
  std::int64_t row_stride;
  std::int64_t forbidden_token;  // -1 = none
  std::int64_t num_draws;
  const std::int64_t* rows;  // [num_draws], as all that follows
  const std::int64_t* keys;
  const double* options;  // [num_draws, 4]: temperature, top_p, top_k, min_p
  std::int64_t* tokens;
};

cudaError_t launch_gumbel_argmax(const GumbelArgmaxParams& params, cudaStream_t stream);

}  // namespace starr::cuda
