#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "ops/cpu/softmax_row.hpp"
#include "ops/starr_arguments.hpp"

namespace starr::cpu {
namespace {

// Work a thread should have before another is woken: some 10 us.
constexpr std::int64_t kLogitsPerThread = 1 << 15;
constexpr std::int64_t kNeighboursPerThread = 1 << 13;

float row_threshold(const StarrRule& rule, const StarrBlocks& b, std::int64_t row,
                    std::vector<float>& ranked) {
  ranked.clear();
  for (std::int64_t at = row * b.length; at < (row + 1) * b.length; ++at) {
    if (is_ranked(b, at)) ranked.push_back(b.confidence[at]);
  }
  if (ranked.empty()) return clamp(rule.tau_max, rule.tau_min, rule.tau_max);
  const auto place = quantile_place(rule.quantile, static_cast<std::int64_t>(ranked.size()));
  const auto lower = ranked.begin() + place.low;
  std::nth_element(ranked.begin(), lower, ranked.end());
  const float high = place.high == place.low ? *lower : *std::min_element(lower + 1, ranked.end());
  return clamp(interpolate(*lower, high, place.weight), rule.tau_min, rule.tau_max);
}

void decide(const StarrRule& rule, const StarrBlocks& b) {
  const std::int64_t work = b.length * (2 * rule.neighbour_window + b.temporal_window + 16);
  torch::stable::parallel_for(0, b.num_rows, kNeighboursPerThread / (work + 1) + 1,
                              [&](std::int64_t begin, std::int64_t end) {
                                std::vector<float> ranked;
                                for (std::int64_t row = begin; row < end; ++row) {
                                  const float threshold = row_threshold(rule, b, row, ranked);
                                  for (std::int64_t i = 0; i < b.length; ++i)
                                    decide_position(rule, b, row, i, threshold);
                                }
                              });
}

// Positions that have logits, so that threads share these evenly; the others get their defaults.
std::vector<std::int64_t> scored_positions(const StarrScores& s, const LogitsRows& rows) {
  std::vector<std::int64_t> scored;
  for (std::int64_t at = 0; at < s.num_positions; ++at) {
    const std::int64_t row = s.row_of[at];
    check(row >= -1 && row < rows.num_rows, "starr_step: row_of has ", row, ", there are ",
          rows.num_rows, " rows of logits");
    check(row >= 0 || !s.masked[at], "starr_step: position ", at,
          " is masked and has no row of logits");
    check(row < 0 || s.masked[at] || (s.present[at] >= 0 && s.present[at] < rows.vocab_size),
          "starr_step: present has ", s.present[at], ", the vocabulary has ", rows.vocab_size,
          " entries");
    if (row >= 0) {
      scored.push_back(at);
      continue;
    }
    s.candidates[at] = s.present[at];
    s.confidence[at] = s.top1[at] = 1.0f;
    s.logit[at] = s.top2[at] = s.entropy[at] = 0.0f;
  }
  return scored;
}

template <typename Logit>
void score(const Tensor& logits, const LogitsRows& rows, std::int64_t forbidden_token,
           const StarrScores& s) {
  const auto* data = static_cast<const Logit*>(logits.const_data_ptr());
  const auto scored = scored_positions(s, rows);
  torch::stable::parallel_for(
      0, static_cast<std::int64_t>(scored.size()), kLogitsPerThread / rows.vocab_size + 1,
      [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t k = begin; k < end; ++k) {
          const std::int64_t at = scored[static_cast<std::size_t>(k)];
          const Logit* row = data + s.row_of[at] * rows.row_stride;
          const auto statistics = row_statistics(row, rows.vocab_size, forbidden_token);
          // A position that holds a token keeps it, with its recomputed probability.
          const std::int64_t token = s.masked[at] ? statistics.argmax : s.present[at];
          const float logit = widen(row[token]);
          s.candidates[at] = token;
          s.logit[at] = logit;
          s.top1[at] = statistics.top1();
          s.top2[at] = statistics.top2();
          s.entropy[at] = statistics.entropy();
          s.confidence[at] =
              token == statistics.argmax ? s.top1[at] : statistics.probability(logit);
        }
      });
}

StarrDecision starr_decide(const Tensor& candidates, const Tensor& confidence,
                           const std::optional<Tensor>& signal,
                           const std::optional<Tensor>& deviance, const Tensor& masked,
                           const Tensor& num_left, const Tensor& ring, const Tensor& seen,
                           const Tensor& run, const Tensor& last_candidate, const Tensor& revoked,
                           const std::vector<double>& rule) {
  const auto call = check_starr_decide(candidates, confidence, signal, deviance, masked, num_left,
                                       ring, seen, run, last_candidate, revoked);
  decide(starr_rule("starr_decide", rule), call.blocks);
  return call.results;
}

StarrStep starr_step(const Tensor& logits, std::int64_t forbidden_token, const Tensor& row_of,
                     const Tensor& present, const Tensor& masked, const Tensor& num_left,
                     const Tensor& ring, const Tensor& seen, const Tensor& run,
                     const Tensor& last_candidate, const Tensor& revoked,
                     const std::vector<double>& rule_numbers, bool logit_signal) {
  const auto rule = starr_rule("starr_step", rule_numbers);
  const auto call =
      StarrStepCall::check_arguments(logits, forbidden_token, row_of, present, masked, num_left,
                                     ring, seen, run, last_candidate, revoked, logit_signal);
  if (logits.scalar_type() == ScalarType::Float) {
    score<float>(logits, call.rows, forbidden_token, call.scores);
  } else {
    score<std::uint16_t>(logits, call.rows, forbidden_token, call.scores);
  }
  decide(rule, call.blocks);
  return call.results;
}

}  // namespace
}  // namespace starr::cpu

STABLE_TORCH_LIBRARY_IMPL(starr_engine, CPU, ops) {
  ops.impl("starr_decide", TORCH_BOX(&starr::cpu::starr_decide));
  ops.impl("starr_step", TORCH_BOX(&starr::cpu::starr_step));
}
