#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>

#include "ops/cuda/widen.cuh"

namespace starr::cuda {

// The value of the lane `distance` above, of any type made of whole 4-byte words.
template <typename Value>
__device__ Value from_lane(const Value& mine, int distance) {
  static_assert(sizeof(Value) % sizeof(std::uint32_t) == 0);
  std::uint32_t words[sizeof(Value) / sizeof(std::uint32_t)];
  memcpy(words, &mine, sizeof mine);
  for (auto& word : words) word = __shfl_down_sync(kAllLanes, word, distance);
  Value other;
  memcpy(&other, words, sizeof other);
  return other;
}

// What value.merge(other) makes of the values of all kThreads threads of the block, in all of them.
template <int kThreads, typename Value>
__device__ Value block_reduce(Value value, const Value& nothing) {
  __shared__ Value warps[kThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  const auto merge_warp = [&] {
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      value.merge(from_lane(value, distance));
    }
  };
  merge_warp();
  if (thread % kWarp == 0) warps[thread / kWarp] = value;
  __syncthreads();
  if (thread < kWarp) {
    value = thread < kThreads / kWarp ? warps[thread] : nothing;
    merge_warp();
  }
  __syncthreads();  // all have read before the first value is replaced
  if (thread == 0) warps[0] = value;
  __syncthreads();
  value = warps[0];
  __syncthreads();  // and before the next reduction writes
  return value;
}

}  // namespace starr::cuda
