#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/cuda/widen.cuh"

namespace starr::cuda {

inline constexpr int kDigitBits = 8;
inline constexpr int kDigits = 1 << kDigitBits;

// The largest key that is selected, and how many that have it are.
struct Threshold {
  std::uint32_t key;
  int num_equal;
};

// The digit of the count-th smallest key, given how many keys have which, and how many of the
// count have this digit; by the first warp alone, each lane for its share of the digits.
inline __device__ void find_digit(const int* histogram, int count, int* digit_found,
                                  int* count_in_digit) {
  constexpr int kShare = kDigits / kWarp;
  const int lane = static_cast<int>(threadIdx.x), first = lane * kShare;
  int mine = 0;
  for (int digit = first; digit < first + kShare; ++digit) mine += histogram[digit];
  int through = mine;
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int lower = __shfl_up_sync(kAllLanes, through, distance);
    if (lane >= distance) through += lower;
  }
  int before = through - mine;
  if (before >= count || through < count) return;  // true in all lanes but one
  int digit = first;
  while (before + histogram[digit] < count) before += histogram[digit++];
  *digit_found = digit;
  *count_in_digit = count - before;
}

// The count-th smallest of the keys that visit(add) hands to add(key), each thread its share; 8
// bits at a time from the top: only keys with the digits found so far are counted. There are at
// least `count` keys, and at least kDigits threads.
template <typename Visit>
__device__ Threshold find_threshold(int count, const Visit& visit) {
  __shared__ int histogram[kDigits];
  __shared__ int digit, count_in_digit;
  const int thread = static_cast<int>(threadIdx.x);
  std::uint32_t found = 0, found_mask = 0;
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    if (thread < kDigits) histogram[thread] = 0;
    __syncthreads();
    visit([&](std::uint32_t key) {
      if ((key & found_mask) == found) atomicAdd(&histogram[key >> shift & (kDigits - 1)], 1);
    });
    __syncthreads();
    if (thread < kWarp) find_digit(histogram, count, &digit, &count_in_digit);
    __syncthreads();
    found |= static_cast<std::uint32_t>(digit) << shift;
    found_mask |= static_cast<std::uint32_t>(kDigits - 1) << shift;
    count = count_in_digit;
  }
  return {found, count};
}

}  // namespace starr::cuda
