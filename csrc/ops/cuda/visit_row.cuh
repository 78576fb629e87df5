#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>

namespace starr::cuda {

// Calls visit(logit, index) for the calling thread's share of a row of `size` logits, ascending,
// `forbidden` left out; the kThreads threads of a block together see all of it, each logit read
// once: single ones up to the first 16-byte boundary, then vectors, then the rest.
template <int kThreads, typename Logit, typename Visit>
__device__ void visit_row(const Logit* logits, int size, int forbidden, const Visit& visit) {
  constexpr int kWidth = sizeof(uint4) / sizeof(Logit);
  const auto visit_allowed = [&](Logit logit, int index) {
    if (index != forbidden) visit(logit, index);
  };
  const auto misaligned = reinterpret_cast<std::uintptr_t>(logits) % sizeof(uint4) / sizeof(Logit);
  const int head = min(size, static_cast<int>((kWidth - misaligned) % kWidth));
  const int num_vectors = (size - head) / kWidth;
  const int tail = head + num_vectors * kWidth;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < head) visit_allowed(logits[thread], thread);
  for (int vector = thread; vector < num_vectors; vector += kThreads) {
    const int begin = head + vector * kWidth;
    const uint4 packed = *reinterpret_cast<const uint4*>(logits + begin);
    Logit lanes[kWidth];
    memcpy(lanes, &packed, sizeof packed);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) visit_allowed(lanes[i], begin + i);
  }
  if (thread < size - tail) visit_allowed(logits[tail + thread], tail + thread);
}

}  // namespace starr::cuda
