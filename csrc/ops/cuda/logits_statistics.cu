#include "ops/cuda/logits_statistics.cuh"
#include "ops/cuda/softmax_row.cuh"

namespace starr::cuda {
namespace {

// Grid: one thread block per row.
template <typename Logit>
__global__ __launch_bounds__(kThreads) void logits_statistics_kernel(
    const LogitsStatisticsParams p) {
  const std::int64_t row = blockIdx.x;
  const Partial partial =
      block_statistics(static_cast<const Logit*>(p.logits) + row * p.row_stride,
                       static_cast<int>(p.vocab_size), static_cast<int>(p.forbidden_token));
  if (threadIdx.x != 0) return;
  p.candidate[row] = partial.candidate();
  p.top1[row] = partial.top1();
  p.top2[row] = partial.top2();
  p.entropy[row] = partial.entropy();
  p.log_normalizer[row] = partial.log_normalizer();
}

}  // namespace

cudaError_t launch_logits_statistics(const LogitsStatisticsParams& p, cudaStream_t stream) {
  if (p.num_rows == 0) return cudaSuccess;  // an empty grid is a launch error
  const auto grid = static_cast<unsigned>(p.num_rows);
  if (p.is_bfloat16) {
    logits_statistics_kernel<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(p);
  } else {
    logits_statistics_kernel<float><<<grid, kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

}  // namespace starr::cuda
