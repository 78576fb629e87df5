#pragma once

#include <climits>
#include <cstdint>

#include "ops/cuda/visit_row.cuh"
#include "ops/cuda/widen.cuh"

// One pass of a thread block over a row of logits, for the kernels that need its softmax.
namespace starr::cuda {

// 512 threads keep a row of 126,464 logits at 31 loads of 16 bytes a thread (bfloat16), with four
// such blocks on one multiprocessor.
inline constexpr int kThreads = 512;
inline constexpr float kInfinity = __builtin_huge_valf();

// Online softmax of the logits one thread, then one warp, then the block has seen.
struct Partial {
  float max;
  float second;        // equal to max on a tie
  float sum;           // of exp(logit - max)
  float weighted_sum;  // of (logit - max) * exp(logit - max)
  int argmax;          // lowest index of max
  int first_nan;       // lowest index of a NaN, INT_MAX if there is none

  // Not default member values: shared memory takes no constructor.
  __device__ static Partial of_nothing() {
    return {-kInfinity, -kInfinity, 0.0f, 0.0f, INT_MAX, INT_MAX};
  }

  __device__ void add(float logit, int index) {
    if (logit != logit) {
      first_nan = min(first_nan, index);
      return;
    }
    if (logit > max) {
      rescale(logit);
      second = max;
      max = logit;
      argmax = index;
      sum += 1.0f;
      return;
    }
    second = fmaxf(second, logit);
    if (max == -kInfinity) {  // the row so far is -inf: nothing to add
      argmax = min(argmax, index);
      return;
    }
    accumulate(logit - max);
  }

  __device__ void merge(const Partial& other) {
    first_nan = min(first_nan, other.first_nan);
    const float top = fmaxf(max, other.max);
    second = fmaxf(fminf(max, other.max), fmaxf(second, other.second));
    if (max == other.max) {
      argmax = min(argmax, other.argmax);
    } else if (other.max > max) {
      argmax = other.argmax;
    }
    Partial scaled = other;
    scaled.rescale(top);
    rescale(top);
    max = top;
    sum += scaled.sum;
    weighted_sum += scaled.weighted_sum;
  }

  // Brings the sums to another maximum, at least as large.
  __device__ void rescale(float new_max) {
    if (sum == 0.0f || new_max == max) return;
    const float shift = max - new_max;
    const float scale = expf(shift);
    // scale == 0 where shift may be -inf, and 0 * inf is no number.
    weighted_sum = scale == 0.0f ? 0.0f : (weighted_sum + shift * sum) * scale;
    sum *= scale;
  }

  __device__ void accumulate(float shift) {
    const float e = expf(shift);
    sum += e;
    weighted_sum += e == 0.0f ? 0.0f : shift * e;
  }

  __device__ Partial from_lane(int distance) const {
    Partial other;
    other.max = __shfl_down_sync(kAllLanes, max, distance);
    other.second = __shfl_down_sync(kAllLanes, second, distance);
    other.sum = __shfl_down_sync(kAllLanes, sum, distance);
    other.weighted_sum = __shfl_down_sync(kAllLanes, weighted_sum, distance);
    other.argmax = __shfl_down_sync(kAllLanes, argmax, distance);
    other.first_nan = __shfl_down_sync(kAllLanes, first_nan, distance);
    return other;
  }

  __device__ void merge_warp() {
    for (int distance = kWarp / 2; distance > 0; distance /= 2) merge(from_lane(distance));
  }

  // NaN, +inf (inf - inf) or nothing but -inf: no probabilities.
  __device__ bool is_undefined() const { return first_nan != INT_MAX || isinf(max); }
  __device__ float or_nan(float value) const {
    return is_undefined() ? __int_as_float(0x7fc00000) : value;
  }

  __device__ std::int64_t candidate() const {
    const int index = first_nan != INT_MAX ? first_nan : argmax;
    return index == INT_MAX ? 0 : index;
  }
  __device__ float top1() const { return or_nan(1.0f / sum); }
  __device__ float top2() const { return or_nan(expf(second - max) / sum); }
  __device__ float probability(float logit) const { return or_nan(expf(logit - max) / sum); }
  __device__ float entropy() const { return or_nan(fmaxf(logf(sum) - weighted_sum / sum, 0.0f)); }
  __device__ float log_normalizer() const { return or_nan(max + logf(sum)); }
};

// What the kThreads threads of a block together saw of a row of `size` logits, `forbidden` left
// out; complete in thread 0. Bound by memory: each logit is read once, nothing is stored.
template <typename Logit>
__device__ Partial block_statistics(const Logit* logits, int size, int forbidden) {
  Partial partial = Partial::of_nothing();
  visit_row<kThreads>(logits, size, forbidden,
                      [&](Logit logit, int index) { partial.add(widen(logit), index); });

  __shared__ Partial warps[kThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  partial.merge_warp();
  if (thread % kWarp == 0) warps[thread / kWarp] = partial;
  __syncthreads();
  if (thread >= kWarp) return partial;
  partial = thread < kThreads / kWarp ? warps[thread] : Partial::of_nothing();
  partial.merge_warp();
  return partial;
}

}  // namespace starr::cuda
