#pragma once

#include <cmath>

#include "ops/host_device.hpp"

namespace starr {

// What a cosine needs of two rows, in float32.
struct RowProducts {
  float mixed;          // of one with the other
  float first, second;  // of each with itself

  // Two rows of zeros are the same row, one of them has no direction. The last steps are float64,
  // so that the product does not overflow and equal rows give 1 exactly.
  STARR_HOST_DEVICE float cosine() const {
    const bool has_nan = first != first || second != second;
    if (!has_nan && (first == 0.0f || second == 0.0f)) return first == second ? 1.0f : 0.0f;
    const double norms = std::sqrt(static_cast<double>(first) * static_cast<double>(second));
    const auto cosine = static_cast<float>(static_cast<double>(mixed) / norms);
    return cosine > 1.0f ? 1.0f : cosine < -1.0f ? -1.0f : cosine;  // NaN stays
  }
};

}  // namespace starr
