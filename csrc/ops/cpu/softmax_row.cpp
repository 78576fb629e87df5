#include "ops/cpu/softmax_row.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops/cpu/for_each_cpu.hpp"

namespace starr::cpu {
namespace {

// The compiler's vector types: one, two or four machine vectors each, whatever the machine.
constexpr int kLanes = 16;
using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));
using Ints = std::int32_t __attribute__((vector_size(kLanes * sizeof(std::int32_t))));

// 4 kB: stays in the first-level cache between its two readings, and is short enough for
// float32 partial sums (64 terms a lane) before they go into a double.
constexpr std::int64_t kChunk = 1024;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

STARR_INLINE Floats load(const float* from) {
  Floats lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

STARR_INLINE Floats all_lanes(float value) { return Floats{} + value; }

// exp(x) for -87 <= x <= 0, relative error about 1e-7, exactly 1 at 0. NaN stays NaN.
STARR_INLINE Floats exp_not_positive(Floats x) {
  // x = n * ln 2 + r with |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer that then
  // stands in the low bits; ln 2 is split so that n times its first part is exact.
  const Floats rounded = x * 1.44269504f + 12582912.0f;
  const Floats n = rounded - 12582912.0f;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  // Taylor series to r^7, remainder below 1e-8.
  Floats p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  Ints bits;
  std::memcpy(&bits, &rounded, sizeof bits);
  const Ints exponent = (bits << 23) + (127 << 23);
  Floats power_of_two;
  std::memcpy(&power_of_two, &exponent, sizeof power_of_two);
  return p * power_of_two;
}

// The chunk as float32, padded to whole vectors with -inf and without the forbidden token: in
// `buffer`, or where it already stands.
template <typename Logit>
STARR_INLINE const float* read_chunk(const Logit* row, std::int64_t begin, std::int64_t end,
                                     std::int64_t padded, std::int64_t forbidden, float* buffer) {
  const bool holds_forbidden = begin <= forbidden && forbidden < end;
  if constexpr (sizeof(Logit) == sizeof(float)) {
    if (!holds_forbidden && padded == end - begin) return row + begin;
  }
  for (std::int64_t i = 0; i < end - begin; ++i) buffer[i] = widen(row[begin + i]);
  for (std::int64_t i = end - begin; i < padded; ++i) buffer[i] = -kInfinity;
  if (holds_forbidden) buffer[forbidden - begin] = -kInfinity;
  return buffer;
}

// Lowest allowed index at or after `begin` whose logit satisfies `wanted`, or -1.
template <typename Logit, typename Wanted>
STARR_INLINE std::int64_t find(const Logit* row, std::int64_t begin, std::int64_t size,
                               std::int64_t forbidden, const Wanted& wanted) {
  for (std::int64_t i = begin; i < size; ++i) {
    if (i != forbidden && wanted(widen(row[i]))) return i;
  }
  return -1;
}

// Online softmax: when a larger maximum turns up, the sums so far are brought to it by
//   sum'          = sum * exp(old - new)
//   weighted_sum' = (weighted_sum + (old - new) * sum) * exp(old - new)
template <typename Logit>
STARR_INLINE RowStatistics one_pass(const Logit* row, std::int64_t size, std::int64_t forbidden) {
  float buffer[kChunk];
  float max = -kInfinity;
  std::int64_t max_chunk = 0;  // where the maximum was first seen
  double sum = 0, weighted_sum = 0;
  bool has_nan = false;
  Floats largest = all_lanes(-kInfinity), second_largest = largest;

  for (std::int64_t begin = 0; begin < size; begin += kChunk) {
    const std::int64_t end = std::min(begin + kChunk, size);
    const std::int64_t padded = (end - begin + kLanes - 1) / kLanes * kLanes;
    const float* chunk = read_chunk(row, begin, end, padded, forbidden, buffer);

    for (std::int64_t i = 0; i < padded; i += kLanes) {
      const Floats x = load(chunk + i);
      const Floats smaller = x < largest ? x : largest;
      largest = x > largest ? x : largest;
      second_largest = smaller > second_largest ? smaller : second_largest;
    }
    float new_max = max;
    for (int lane = 0; lane < kLanes; ++lane) new_max = std::max(new_max, largest[lane]);
    if (new_max > max) {
      const double shift = static_cast<double>(max) - new_max;
      if (sum > 0) {
        const double scale = std::exp(shift);
        weighted_sum = (weighted_sum + shift * sum) * scale;
        sum *= scale;
      }
      max = new_max;
      max_chunk = begin;
    }
    // While all is -inf there is nothing to add, and -inf - -inf would look like a NaN logit.
    const float reference = std::max(max, std::numeric_limits<float>::lowest());
    Floats chunk_sum{}, chunk_weighted{};
    Ints num_largest{};
    for (std::int64_t i = 0; i < padded; i += kLanes) {
      Floats x = load(chunk + i) - reference;
      // exp(-87) = 1e-38 is nothing beside the exp(0) = 1 in the sum, and no denormal.
      x = x < -87.0f ? all_lanes(-87.0f) : x;
      const Floats e = exp_not_positive(x);
      // The largest are counted apart: a lane that holds a 1 would lose what is below 6e-8, and
      // with it the difference between a confidence of 1 and one just below.
      const Ints is_largest = x == 0.0f;
      num_largest -= is_largest;
      chunk_sum += is_largest ? Floats{} : e;
      chunk_weighted += x * e;
    }
    double chunk_total = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      chunk_total += static_cast<double>(chunk_sum[lane]) + num_largest[lane];
    }
    if (std::isnan(chunk_total)) has_nan = true;
    if (max == -kInfinity) continue;
    sum += chunk_total;
    for (int lane = 0; lane < kLanes; ++lane) weighted_sum += chunk_weighted[lane];
  }

  // A NaN, or +inf (inf - inf), leaves no probabilities; so does a row of -inf.
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  if (has_nan || std::isinf(max)) {
    std::int64_t index = find(row, 0, size, forbidden, [](float x) { return std::isnan(x); });
    if (index < 0) index = find(row, 0, size, forbidden, [&](float x) { return x == max; });
    return {std::max<std::int64_t>(index, 0), kNan, kNan, kNan, kNan};
  }
  // The second largest is the best of: every lane's second, every lane's first but one.
  float first = -kInfinity, second = -kInfinity;
  for (int lane = 0; lane < kLanes; ++lane) {
    for (const float x : {largest[lane], second_largest[lane]}) {
      second = std::max(second, std::min(first, x));
      first = std::max(first, x);
    }
  }
  const std::int64_t argmax =
      find(row, max_chunk, size, forbidden, [&](float x) { return x == max; });
  return {argmax, max, second, sum, weighted_sum};
}

}  // namespace

STARR_FOR_EACH_CPU
RowStatistics row_statistics(const float* row, std::int64_t size, std::int64_t forbidden) {
  return one_pass(row, size, forbidden);
}

STARR_FOR_EACH_CPU
RowStatistics row_statistics(const std::uint16_t* row, std::int64_t size, std::int64_t forbidden) {
  return one_pass(row, size, forbidden);
}

}  // namespace starr::cpu
