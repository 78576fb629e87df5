#include <climits>

#include "ops/cuda/gumbel_argmax.cuh"
#include "ops/cuda/visit_row.cuh"
#include "ops/cuda/widen.cuh"
#include "ops/gumbel.hpp"

namespace starr::cuda {
namespace {

constexpr int kThreads = 512;  // as where the same rows are read for their statistics

// The best of what one thread, then one warp, then the block has seen.
struct Best {
  double value;
  int token;

  // Not default member values: shared memory takes no constructor.
  __device__ static Best of_nothing() { return {-__builtin_huge_val(), INT_MAX}; }

  __device__ void merge(const Best& other) {
    const bool is_first = other.value == value && other.token < token;
    if (other.value > value || is_first) *this = other;
  }

  __device__ void merge_warp() {
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      merge({__shfl_down_sync(kAllLanes, value, distance),
             __shfl_down_sync(kAllLanes, token, distance)});
    }
  }
};

// Grid: one thread block per draw. Bound by memory and by the hash of each token; logarithms are
// taken of the few that may still win.
template <typename Logit>
__global__ __launch_bounds__(kThreads) void gumbel_argmax_kernel(const GumbelArgmaxParams p) {
  const std::int64_t draw = blockIdx.x;
  const Logit* logits = static_cast<const Logit*>(p.logits) + p.rows[draw] * p.row_stride;
  const auto key = static_cast<std::uint64_t>(p.keys[draw]);
  const double temperature = p.temperatures[draw];
  Best best = Best::of_nothing();
  visit_row<kThreads>(logits, static_cast<int>(p.vocab_size), static_cast<int>(p.forbidden_token),
                      [&](Logit narrow, int token) {
                        const double logit = widen(narrow);
                        const std::uint64_t bits = random_bits(key, token);
                        if (logit + temperature * gumbel_bound(bits) < best.value) return;
                        const double value = logit + temperature * gumbel(bits);
                        if (value > best.value) best = {value, token};
                      });

  __shared__ Best warps[kThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  best.merge_warp();
  if (thread % kWarp == 0) warps[thread / kWarp] = best;
  __syncthreads();
  if (thread >= kWarp) return;
  best = thread < kThreads / kWarp ? warps[thread] : Best::of_nothing();
  best.merge_warp();
  if (thread == 0) p.tokens[draw] = best.token == INT_MAX ? 0 : best.token;
}

}  // namespace

cudaError_t launch_gumbel_argmax(const GumbelArgmaxParams& p, cudaStream_t stream) {
  if (p.num_draws == 0) return cudaSuccess;  // an empty grid is a launch error
  const auto grid = static_cast<unsigned>(p.num_draws);
  if (p.is_bfloat16) {
    gumbel_argmax_kernel<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(p);
  } else {
    gumbel_argmax_kernel<float><<<grid, kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

}  // namespace starr::cuda
