#pragma once

#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "ops/checks.hpp"
#include "ops/starr_rule.hpp"

namespace starr {

// The order of ops.StarrRule.
inline StarrRule starr_rule(const char* op, const std::vector<double>& numbers) {
  check(numbers.size() == 15, op, ": rule must have 15 numbers, got ", numbers.size());
  std::size_t next = 0;
  const auto real = [&] { return static_cast<float>(numbers[next++]); };
  const auto count = [&] { return static_cast<std::int64_t>(numbers[next++]); };
  StarrRule rule;
  rule.neighbour_window = count();
  rule.quantile = real();
  rule.tau_min = real();
  rule.tau_max = real();
  rule.sigma = real();
  rule.alpha = real();
  rule.beta = real();
  rule.support = real();
  rule.gamma = real();
  rule.c_fast = real();
  rule.c_slow = real();
  rule.patience = count();
  rule.relax = real();
  rule.restart_on_flip = numbers[next++] != 0.0;
  rule.revoke_below = real();
  // Outside it the quantile would be read beyond the confidences.
  check(rule.quantile >= 0 && rule.quantile <= 1, op, ": quantile must be in [0, 1], got ",
        rule.quantile);
  check(rule.sigma > 0, op, ": sigma must be above 0, got ", rule.sigma);
  return rule;
}

// n rows of L positions, and the checks that every tensor over them has in common.
struct StarrGrid {
  const char* op;
  Tensor first;
  std::int64_t num_rows, length;

  static StarrGrid of(const char* op, const char* name, const Tensor& first) {
    check(first.dim() == 2, op, ": ", name, " must be [n, L], got ", first.dim(), " dimensions");
    const StarrGrid grid{op, first, first.size(0), first.size(1)};
    grid.check_tensor(name, first, ScalarType::Long);
    return grid;
  }

  void check_tensor(const char* name, const Tensor& tensor, ScalarType dtype) const {
    check(tensor.dim() == 2 && tensor.size(1) == length, op, ": ", name, " must be [", num_rows,
          ", ", length, "], as the first of these tensors");
    check_rest(name, tensor, dtype);
  }

  // What does not depend on the number of dimensions.
  void check_rest(const char* name, const Tensor& tensor, ScalarType dtype) const {
    check(tensor.size(0) == num_rows, op, ": ", name, " must have ", num_rows, " rows, got ",
          tensor.size(0));
    const char* wanted = dtype == ScalarType::Long    ? "int64"
                         : dtype == ScalarType::Float ? "float32"
                                                      : "bool";
    check(tensor.scalar_type() == dtype, op, ": ", name, " must be ", wanted, ", got ",
          tensor.scalar_type());
    check(tensor.is_contiguous(), op, ": ", name, " must be contiguous");
    check_same_device(op, first, tensor, name);
  }

  Tensor empty(ScalarType dtype) const {
    return torch::stable::new_empty(first, {num_rows, length}, dtype);
  }
};

using StarrDecision =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// The checked arguments of a decision, and its results, not yet computed.
struct StarrCall {
  StarrBlocks blocks;
  StarrDecision results;

  // `candidates`, `confidence` and `signal` are given to `blocks` by the caller.
  static StarrCall check_arguments(const StarrGrid& grid, const Tensor& masked,
                                   const Tensor& num_left, const Tensor& ring, const Tensor& seen,
                                   const Tensor& run, const Tensor& last_candidate,
                                   const Tensor& revoked) {
    const char* op = grid.op;
    check(num_left.dim() == 1, op, ": num_left must be a vector, got ", num_left.dim(),
          " dimensions");
    check(ring.dim() == 3 && ring.size(1) == grid.length && ring.size(2) >= 1, op,
          ": ring must be [", grid.num_rows, ", ", grid.length, ", temporal window]");
    grid.check_rest("num_left", num_left, ScalarType::Long);
    grid.check_rest("ring", ring, ScalarType::Float);
    grid.check_tensor("masked", masked, ScalarType::Bool);
    grid.check_tensor("seen", seen, ScalarType::Long);
    grid.check_tensor("run", run, ScalarType::Long);
    grid.check_tensor("last_candidate", last_candidate, ScalarType::Long);
    grid.check_tensor("revoked", revoked, ScalarType::Bool);

    const std::int64_t window = ring.size(2);
    Tensor unmask = grid.empty(ScalarType::Bool), revoke = grid.empty(ScalarType::Bool);
    Tensor new_ring =
        torch::stable::new_empty(ring, {grid.num_rows, grid.length, window}, ScalarType::Float);
    Tensor new_seen = grid.empty(ScalarType::Long), new_run = grid.empty(ScalarType::Long);
    Tensor new_revoked = grid.empty(ScalarType::Bool);
    Tensor threshold = grid.empty(ScalarType::Float), variance = grid.empty(ScalarType::Float);
    Tensor deviance = grid.empty(ScalarType::Float), stability = grid.empty(ScalarType::Float);
    StarrBlocks blocks{};
    blocks.num_rows = grid.num_rows;
    blocks.length = grid.length;
    blocks.temporal_window = window;
    blocks.masked = masked.const_data_ptr<bool>();
    blocks.num_left = num_left.const_data_ptr<std::int64_t>();
    blocks.ring = ring.const_data_ptr<float>();
    blocks.seen = seen.const_data_ptr<std::int64_t>();
    blocks.run = run.const_data_ptr<std::int64_t>();
    blocks.last_candidate = last_candidate.const_data_ptr<std::int64_t>();
    blocks.revoked = revoked.const_data_ptr<bool>();
    blocks.unmask = unmask.mutable_data_ptr<bool>();
    blocks.revoke = revoke.mutable_data_ptr<bool>();
    blocks.new_ring = new_ring.mutable_data_ptr<float>();
    blocks.new_seen = new_seen.mutable_data_ptr<std::int64_t>();
    blocks.new_run = new_run.mutable_data_ptr<std::int64_t>();
    blocks.new_revoked = new_revoked.mutable_data_ptr<bool>();
    blocks.threshold = threshold.mutable_data_ptr<float>();
    blocks.variance = variance.mutable_data_ptr<float>();
    blocks.new_deviance = deviance.mutable_data_ptr<float>();
    blocks.stability = stability.mutable_data_ptr<float>();
    return {blocks,
            {unmask, revoke, new_ring, new_seen, new_run, new_revoked, threshold, variance,
             deviance, stability}};
  }
};

// starr_decide: scores that are there already.
inline StarrCall check_starr_decide(const Tensor& candidates, const Tensor& confidence,
                                    const std::optional<Tensor>& signal,
                                    const std::optional<Tensor>& deviance, const Tensor& masked,
                                    const Tensor& num_left, const Tensor& ring, const Tensor& seen,
                                    const Tensor& run, const Tensor& last_candidate,
                                    const Tensor& revoked) {
  const auto grid = StarrGrid::of("starr_decide", "candidates", candidates);
  grid.check_tensor("confidence", confidence, ScalarType::Float);
  if (signal) grid.check_tensor("signal", *signal, ScalarType::Float);
  if (deviance) grid.check_tensor("deviance", *deviance, ScalarType::Float);
  auto call =
      StarrCall::check_arguments(grid, masked, num_left, ring, seen, run, last_candidate, revoked);
  call.blocks.candidates = candidates.const_data_ptr<std::int64_t>();
  call.blocks.confidence = confidence.const_data_ptr<float>();
  call.blocks.signal = signal ? signal->const_data_ptr<float>() : call.blocks.confidence;
  call.blocks.deviance = deviance ? deviance->const_data_ptr<float>() : nullptr;
  return call;
}

using StarrStep = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                             Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// starr_step: scores still to be computed, then the decision.
struct StarrStepCall {
  LogitsRows rows;
  StarrScores scores;
  StarrBlocks blocks;
  StarrStep results;

  static StarrStepCall check_arguments(const Tensor& logits, std::int64_t forbidden_token,
                                       const Tensor& row_of, const Tensor& present,
                                       const Tensor& masked, const Tensor& num_left,
                                       const Tensor& ring, const Tensor& seen, const Tensor& run,
                                       const Tensor& last_candidate, const Tensor& revoked,
                                       bool logit_signal) {
    constexpr const char* op = "starr_step";
    const auto rows = LogitsRows::check_arguments(op, logits, forbidden_token);
    const auto grid = StarrGrid::of(op, "row_of", row_of);
    grid.check_tensor("present", present, ScalarType::Long);
    check_same_device(op, logits, row_of, "row_of");
    auto call = StarrCall::check_arguments(grid, masked, num_left, ring, seen, run, last_candidate,
                                           revoked);
    Tensor candidates = grid.empty(ScalarType::Long), confidence = grid.empty(ScalarType::Float);
    Tensor logit = grid.empty(ScalarType::Float), top1 = grid.empty(ScalarType::Float);
    Tensor top2 = grid.empty(ScalarType::Float), entropy = grid.empty(ScalarType::Float);
    const StarrScores scores{grid.num_rows * grid.length,
                             row_of.const_data_ptr<std::int64_t>(),
                             present.const_data_ptr<std::int64_t>(),
                             call.blocks.masked,
                             candidates.mutable_data_ptr<std::int64_t>(),
                             confidence.mutable_data_ptr<float>(),
                             logit.mutable_data_ptr<float>(),
                             top1.mutable_data_ptr<float>(),
                             top2.mutable_data_ptr<float>(),
                             entropy.mutable_data_ptr<float>()};
    call.blocks.candidates = scores.candidates;
    call.blocks.confidence = scores.confidence;
    call.blocks.signal = logit_signal ? scores.logit : scores.confidence;
    return {rows, scores, call.blocks,
            std::tuple_cat(std::make_tuple(candidates, confidence, logit, top1, top2, entropy),
                           call.results)};
  }
};

}  // namespace starr
