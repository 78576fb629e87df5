#include <algorithm>

#include "ops/cuda/softmax_row.cuh"
#include "ops/cuda/starr.cuh"

namespace starr::cuda {
namespace {

// Grid: one thread block per position of a block. Those without logits leave at once.
template <typename Logit>
__global__ __launch_bounds__(kThreads) void starr_scores_kernel(const StarrScoresParams p) {
  const StarrScores& s = p.scores;
  const std::int64_t at = blockIdx.x;
  const std::int64_t row = s.row_of[at];
  if (row < 0) {
    if (threadIdx.x != 0) return;
    s.candidates[at] = s.present[at];
    s.confidence[at] = s.top1[at] = 1.0f;
    s.logit[at] = s.top2[at] = s.entropy[at] = 0.0f;
    return;
  }
  const Logit* logits = static_cast<const Logit*>(p.logits) + row * p.row_stride;
  const Partial partial =
      block_statistics(logits, static_cast<int>(p.vocab_size), static_cast<int>(p.forbidden_token));
  if (threadIdx.x != 0) return;
  // A position that holds a token keeps it, with its recomputed probability.
  const std::int64_t token = s.masked[at] ? partial.candidate() : s.present[at];
  const float logit = widen(logits[token]);
  s.candidates[at] = token;
  s.logit[at] = logit;
  s.top1[at] = partial.top1();
  s.top2[at] = partial.top2();
  s.entropy[at] = partial.entropy();
  s.confidence[at] = token == partial.candidate() ? partial.top1() : partial.probability(logit);
}

// Grid: one thread block per request. Its scores are a few kB, so the order statistics of the
// quantile are found by counting, each thread for its own positions.
__global__ void starr_decide_kernel(const StarrRule rule, const StarrBlocks b) {
  __shared__ int num_ranked;
  __shared__ float low, high;
  const std::int64_t row = blockIdx.x;
  const std::int64_t begin = row * b.length, end = begin + b.length;
  if (threadIdx.x == 0) num_ranked = 0;
  __syncthreads();
  for (std::int64_t at = begin + threadIdx.x; at < end; at += blockDim.x) {
    if (is_ranked(b, at)) atomicAdd(&num_ranked, 1);
  }
  __syncthreads();
  float threshold = rule.tau_max;
  if (num_ranked > 0) {
    const QuantilePlace place = quantile_place(rule.quantile, num_ranked);
    for (std::int64_t at = begin + threadIdx.x; at < end; at += blockDim.x) {
      if (!is_ranked(b, at)) continue;
      const float mine = b.confidence[at];
      std::int64_t rank = 0;  // of equal ones the first comes first
      for (std::int64_t other = begin; other < end; ++other) {
        const float its = b.confidence[other];
        rank += is_ranked(b, other) && (its < mine || (its == mine && other < at));
      }
      if (rank == place.low) low = mine;
      if (rank == place.high) high = mine;
    }
    __syncthreads();
    threshold = interpolate(low, high, place.weight);
  }
  threshold = clamp(threshold, rule.tau_min, rule.tau_max);
  for (std::int64_t i = threadIdx.x; i < b.length; i += blockDim.x) {
    decide_position(rule, b, row, i, threshold);
  }
}

}  // namespace

cudaError_t launch_starr_scores(const StarrScoresParams& p, cudaStream_t stream) {
  if (p.scores.num_positions == 0) return cudaSuccess;  // an empty grid is a launch error
  const auto grid = static_cast<unsigned>(p.scores.num_positions);
  if (p.is_bfloat16) {
    starr_scores_kernel<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(p);
  } else {
    starr_scores_kernel<float><<<grid, kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

cudaError_t launch_starr_decide(const StarrRule& rule, const StarrBlocks& blocks,
                                cudaStream_t stream) {
  if (blocks.num_rows == 0 || blocks.length == 0) return cudaSuccess;
  constexpr std::int64_t kMaxThreads = 256;
  const std::int64_t warps = (blocks.length + kWarp - 1) / kWarp;
  const auto threads = static_cast<unsigned>(std::min(warps * kWarp, kMaxThreads));
  starr_decide_kernel<<<static_cast<unsigned>(blocks.num_rows), threads, 0, stream>>>(rule, blocks);
  return cudaGetLastError();
}

}  // namespace starr::cuda
