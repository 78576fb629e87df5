#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace starr::cpu {

// What one pass over a row of logits leaves; probabilities follow from it.
struct RowStatistics {
  std::int64_t argmax;  // lowest index of the largest logit, or of a NaN
  double max;           // largest logit
  double second;        // second largest, equal to max on a tie
  double sum;           // of exp(logit - max)
  double weighted_sum;  // of (logit - max) * exp(logit - max)

  float top1() const { return static_cast<float>(1.0 / sum); }
  float top2() const { return static_cast<float>(std::exp(second - max) / sum); }
  float probability(double logit) const { return static_cast<float>(std::exp(logit - max) / sum); }
  // In nats. That of a sharp row can round to a tiny negative number; NaN stays.
  float entropy() const {
    const double nats = std::log(sum) - weighted_sum / sum;
    return static_cast<float>(nats < 0 ? 0.0 : nats);
  }
};

// A float32 logit, or a bfloat16 one given as its bits.
inline float widen(float value) { return value; }
inline float widen(std::uint16_t bfloat16_bits) {
  const std::uint32_t bits = static_cast<std::uint32_t>(bfloat16_bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// A row of `size` logits, `forbidden` (an index, or -1) read as -inf.
RowStatistics row_statistics(const float* row, std::int64_t size, std::int64_t forbidden);

// The same for bfloat16, given as its bits.
RowStatistics row_statistics(const std::uint16_t* row, std::int64_t size, std::int64_t forbidden);

}  // namespace starr::cpu
