#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "ops/cuda/starr.cuh"
#include "ops/cuda/stream.hpp"
#include "ops/starr_arguments.hpp"

namespace starr::cuda {
namespace {

using torch::stable::accelerator::DeviceGuard;

StarrDecision starr_decide(const Tensor& candidates, const Tensor& confidence,
                           const std::optional<Tensor>& signal,
                           const std::optional<Tensor>& deviance, const Tensor& masked,
                           const Tensor& num_left, const Tensor& ring, const Tensor& seen,
                           const Tensor& run, const Tensor& last_candidate, const Tensor& revoked,
                           const std::vector<double>& rule) {
  const DeviceGuard guard(candidates.get_device_index());
  const auto call = check_starr_decide(candidates, confidence, signal, deviance, masked, num_left,
                                       ring, seen, run, last_candidate, revoked);
  check_launch("starr_decide", launch_starr_decide(starr_rule("starr_decide", rule), call.blocks,
                                                   current_stream(candidates.get_device_index())));
  return call.results;
}

StarrStep starr_step(const Tensor& logits, std::int64_t forbidden_token, const Tensor& row_of,
                     const Tensor& present, const Tensor& masked, const Tensor& num_left,
                     const Tensor& ring, const Tensor& seen, const Tensor& run,
                     const Tensor& last_candidate, const Tensor& revoked,
                     const std::vector<double>& rule_numbers, bool logit_signal) {
  const auto rule = starr_rule("starr_step", rule_numbers);
  const DeviceGuard guard(logits.get_device_index());
  const auto call =
      StarrStepCall::check_arguments(logits, forbidden_token, row_of, present, masked, num_left,
                                     ring, seen, run, last_candidate, revoked, logit_signal);
  const auto stream = current_stream(logits.get_device_index());
  check_launch("starr_step",
               launch_starr_scores({.logits = logits.const_data_ptr(),
                                    .is_bfloat16 = logits.scalar_type() == ScalarType::BFloat16,
                                    .vocab_size = call.rows.vocab_size,
                                    .row_stride = call.rows.row_stride,
                                    .forbidden_token = forbidden_token,
                                    .scores = call.scores},
                                   stream));
  check_launch("starr_step", launch_starr_decide(rule, call.blocks, stream));
  return call.results;
}

}  // namespace
}  // namespace starr::cuda

STABLE_TORCH_LIBRARY_IMPL(starr_engine, CUDA, ops) {
  ops.impl("starr_decide", TORCH_BOX(&starr::cuda::starr_decide));
  ops.impl("starr_step", TORCH_BOX(&starr::cuda::starr_step));
}
