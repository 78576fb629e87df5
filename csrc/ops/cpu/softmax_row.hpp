#pragma once

#include <cstdint>

namespace starr::cpu {

// What one pass over a row of logits leaves; probabilities follow from it.
struct RowStatistics {
  std::int64_t argmax;  // lowest index of the largest logit, or of a NaN
  double max;           // largest logit
  double second;        // second largest, equal to max on a tie
  double sum;           // of exp(logit - max)
  double weighted_sum;  // of (logit - max) * exp(logit - max)
};

// A row of `size` logits, `forbidden` (an index, or -1) read as -inf.
RowStatistics row_statistics(const float* row, std::int64_t size, std::int64_t forbidden);

// The same for bfloat16, given as its bits.
RowStatistics row_statistics(const std::uint16_t* row, std::int64_t size, std::int64_t forbidden);

}  // namespace starr::cpu
