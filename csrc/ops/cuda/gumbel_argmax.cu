#include "ops/cuda/block_reduce.cuh"
#include "ops/cuda/gumbel_argmax.cuh"
#include "ops/cuda/radix_select.cuh"
#include "ops/cuda/visit_row.cuh"
#include "ops/cuda/widen.cuh"
#include "ops/gumbel.hpp"
#include "ops/order_key.hpp"

namespace starr::cuda {
namespace {

constexpr int kThreads = 512;  // as where the same rows are read for their statistics
constexpr int kOptions = 4;

struct Largest {
  double value;
  __device__ void merge(const Largest& other) { value = fmax(value, other.value); }
};

struct Sum {
  double value;
  __device__ void merge(const Sum& other) { value += other.value; }
};

// A row of logits, as draw_token sees it: all threads of a block call every function together, and
// all have its result.
template <typename Logit>
struct Row {
  const Logit* logits;
  int num_tokens;
  int forbidden;

  __device__ int size() const { return num_tokens; }

  __device__ double largest() const {
    Largest top = {-__builtin_huge_val()};
    visit([&](double logit, int) { top.value = fmax(top.value, logit); });
    return block_reduce<kThreads>(top, Largest{-__builtin_huge_val()}).value;
  }

  __device__ double largest(int count) const {
    // What is forbidden, and what is no number, counts as the smallest. Keys ascend as logits fall.
    const auto key_of = [&](float logit, int token) {
      const bool is_allowed = token != forbidden && logit == logit;
      return ~order_key(is_allowed ? logit : -__builtin_huge_valf());
    };
    const auto threshold = find_threshold(count, [&](const auto& add) {
      visit_row<kThreads>(logits, num_tokens, -1,
                          [&](Logit logit, int token) { add(key_of(widen(logit), token)); });
    });
    return value_of_key(~threshold.key);
  }

  __device__ double mass(const DrawRule& rule, double top, const Ranked& end) const {
    Sum sum = {0.0};
    visit([&](double logit, int token) {
      if (Ranked{logit, token}.is_before(end)) sum.value += rule.weight(logit, top);
    });
    return block_reduce<kThreads>(sum, Sum{0.0}).value;
  }

  __device__ Best best(const DrawRule& rule, const Ranked& end) const {
    Best found = Best::of_nothing();
    visit([&](double logit, int token) {
      if (Ranked{logit, token}.is_before(end)) found.add(rule, logit, token);
    });
    return block_reduce<kThreads>(found, Best::of_nothing());
  }

  template <typename Visit>
  __device__ void visit(const Visit& visit_token) const {
    visit_row<kThreads>(logits, num_tokens, forbidden, [&](Logit logit, int token) {
      visit_token(static_cast<double>(widen(logit)), token);
    });
  }
};

// Grid: one thread block per draw. Without truncation bound by memory and by the hash of each
// token; with it a few passes more over a row that stays in the cache.
template <typename Logit>
__global__ __launch_bounds__(kThreads) void gumbel_argmax_kernel(const GumbelArgmaxParams p) {
  const std::int64_t draw = blockIdx.x;
  const Row<Logit> row = {static_cast<const Logit*>(p.logits) + p.rows[draw] * p.row_stride,
                          static_cast<int>(p.vocab_size), static_cast<int>(p.forbidden_token)};
  const int token = draw_token(row, DrawRule::of(p.keys[draw], p.options + draw * kOptions));
  if (threadIdx.x == 0) p.tokens[draw] = token;
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
