#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/starr_rule.hpp"

namespace starr::cuda {

// Raw pointers and a stream: no torch type crosses this line.
struct StarrScoresParams {
  const void* logits;       // [num_rows, vocab_size], rows row_stride elements apart
  bool is_bfloat16;         // else float32
  std::int64_t vocab_size;  // below 2^31 - 1
  std::int64_t row_stride;
  std::int64_t forbidden_token;  // -1 = none
  StarrScores scores;
};

cudaError_t launch_starr_scores(const StarrScoresParams& params, cudaStream_t stream);

cudaError_t launch_starr_decide(const StarrRule& rule, const StarrBlocks& blocks,
                                cudaStream_t stream);

}  // namespace starr::cuda
