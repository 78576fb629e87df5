#pragma once

#include <cmath>
#include <cstdint>

#include "ops/host_device.hpp"

// The STaRR rule, once for CPU and CUDA: what happens at one position of one block. The formula is
// in words in starr_engine/decoding/policies/starr.py, in PyTorch in starr_engine/ops_reference.py.

namespace starr {

// The policy's arguments; the temporal window is the last size of the ring.
struct StarrRule {
  std::int64_t neighbour_window;
  float quantile, tau_min, tau_max;
  float sigma, alpha, support, beta, gamma;
  float c_fast, c_slow;
  std::int64_t patience;  // negative = never
  float relax;
  bool restart_on_flip;
  float revoke_below;  // negative = never
};

// All rows of a step: [num_rows, length] unless noted; results do not overlap arguments.
struct StarrBlocks {
  std::int64_t num_rows, length, temporal_window;
  const std::int64_t* candidates;
  const float* confidence;
  const float* signal;    // what enters the ring
  const float* deviance;  // positive where a token is at odds; nullptr = from the confidences
  const bool* masked;
  const std::int64_t* num_left;  // [num_rows]
  const float* ring;             // [num_rows, length, temporal_window]
  const std::int64_t *seen, *run, *last_candidate;
  const bool* revoked;
  bool *unmask, *revoke;
  float* new_ring;  // [num_rows, length, temporal_window]
  std::int64_t *new_seen, *new_run;
  bool* new_revoked;
  float *threshold, *variance, *new_deviance, *stability;
};

// What scoring writes, [num_positions]; positions without a row of logits get the defaults of
// BlockView.
struct StarrScores {
  std::int64_t num_positions;
  const std::int64_t* row_of;   // -1 = not scored
  const std::int64_t* present;  // the mask token where masked
  const bool* masked;
  std::int64_t* candidates;
  float *confidence, *logit, *top1, *top2, *entropy;
};

// The two order statistics between which a quantile lies, and how far from the lower one.
struct QuantilePlace {
  std::int64_t low, high;
  float weight;
};

// As torch.nanquantile, "linear": in float32, from the first of the two or back from the second;
// exact where the quantile is one of the numbers, else equal but for the rounding of one product.
STARR_HOST_DEVICE inline QuantilePlace quantile_place(float quantile, std::int64_t count) {
  const float place = quantile * static_cast<float>(count - 1);
  const auto low = static_cast<std::int64_t>(place);
  return {low, static_cast<std::int64_t>(ceilf(place)), place - static_cast<float>(low)};
}

STARR_HOST_DEVICE inline float interpolate(float low, float high, float weight) {
  return weight < 0.5f ? low + weight * (high - low) : high - (high - low) * (1.0f - weight);
}

// Unlike fminf and fmaxf these keep a NaN, as torch does.
STARR_HOST_DEVICE inline float clamp(float x, float low, float high) {
  return x < low ? low : x > high ? high : x;
}
STARR_HOST_DEVICE inline float at_least(float x, float low) { return x < low ? low : x; }

// Whether a position's confidence counts for the quantile.
STARR_HOST_DEVICE inline bool is_ranked(const StarrBlocks& b, std::int64_t at) {
  return b.masked[at] && b.confidence[at] == b.confidence[at];
}

// Mean confidence of the neighbours of position i; NaN where it has none. Tokens of the block and
// tokens in front of it count as 1, masks behind the block not at all.
STARR_HOST_DEVICE inline float neighbourhood(const StarrRule& rule, const StarrBlocks& b,
                                             std::int64_t row, std::int64_t i) {
  const std::int64_t begin = row * b.length;
  const auto settled = [&](std::int64_t j) {
    return b.masked[begin + j] ? b.confidence[begin + j] : 1.0f;
  };
  float total = 0.0f, count = 0.0f;
  for (std::int64_t distance = 1; distance <= rule.neighbour_window; ++distance) {
    if (distance <= i) {
      total += settled(i - distance);
      count += 1.0f;
    }
    if (distance < b.length - i) {
      total += settled(i + distance);
      count += 1.0f;
    }
    if (distance > i && distance - i <= b.num_left[row]) {
      total += 1.0f;
      count += 1.0f;
    }
  }
  return total / count;
}

// Population standard deviation of the first `count` entries of a window.
STARR_HOST_DEVICE inline float deviation_over_time(const float* window, std::int64_t count) {
  float mean = 0.0f, square = 0.0f;
  for (std::int64_t k = 0; k < count; ++k) mean += window[k];
  mean /= static_cast<float>(count);
  for (std::int64_t k = 0; k < count; ++k) square += (window[k] - mean) * (window[k] - mean);
  return sqrtf(square / static_cast<float>(count));
}

// Everything at position i of a row whose masks have the threshold `step_threshold`.
STARR_HOST_DEVICE inline void decide_position(const StarrRule& rule, const StarrBlocks& b,
                                              std::int64_t row, std::int64_t i,
                                              float step_threshold) {
  const std::int64_t at = row * b.length + i;
  const float confidence = b.confidence[at];

  // History: the window is filled from its start after each restart.
  const bool same = b.candidates[at] == b.last_candidate[at];
  const std::int64_t seen_before = same || !rule.restart_on_flip ? b.seen[at] : 0;
  const float* ring = b.ring + at * b.temporal_window;
  float* window = b.new_ring + at * b.temporal_window;
  for (std::int64_t k = 0; k < b.temporal_window; ++k) window[k] = ring[k];
  window[seen_before % b.temporal_window] = b.signal[at];
  std::int64_t seen = seen_before + 1;
  std::int64_t run = (same ? b.run[at] : 0) + 1;
  const std::int64_t filled = seen < b.temporal_window ? seen : b.temporal_window;
  const float variance = deviation_over_time(window, filled);
  const float share = static_cast<float>(filled) / static_cast<float>(b.temporal_window);
  const float stability = filled < 2 ? 0.0f : expf(-variance / rule.sigma) * share;

  // Neighbourhood.
  float support = neighbourhood(rule, b, row, i);
  float deviance = confidence - support;
  if (support != support) support = deviance = 0.0f;
  float odds = -deviance;  // how far the token is at odds with its neighbours
  if (b.deviance != nullptr) odds = deviance = b.deviance[at];

  float threshold = step_threshold - rule.alpha * stability;
  threshold -= rule.beta * at_least(support - rule.support, 0.0f);
  threshold += rule.gamma * at_least(odds, 0.0f) * (1.0f - stability);
  threshold = clamp(threshold, rule.c_slow, rule.c_fast);
  if (rule.patience >= 0) {
    const std::int64_t overdue = run > rule.patience ? run - rule.patience : 0;
    threshold = at_least(threshold - rule.relax * static_cast<float>(overdue), rule.c_slow);
  }

  // A comparison with NaN is false: what has no number is neither unmasked nor revoked.
  const bool revoke = !b.masked[at] && !b.revoked[at] && confidence < rule.revoke_below;
  if (revoke) seen = run = 0;
  b.unmask[at] = b.masked[at] && confidence >= threshold;
  b.revoke[at] = revoke;
  b.new_revoked[at] = b.revoked[at] || revoke;
  b.new_seen[at] = seen;
  b.new_run[at] = run;
  b.threshold[at] = threshold;
  b.variance[at] = variance;
  b.new_deviance[at] = deviance;
  b.stability[at] = stability;
}

}  // namespace starr
