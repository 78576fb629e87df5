#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "ops/cpu/softmax_row.hpp"
#include "ops/gumbel.hpp"
#include "ops/gumbel_arguments.hpp"

namespace starr::cpu {
namespace {

// Logits a thread should have before another is woken: some 10 us of work.
constexpr std::int64_t kLogitsPerThread = 1 << 12;

// A row of logits, as draw_token sees it.
template <typename Logit>
class Row {
 public:
  Row(const Logit* logits, std::int64_t size, std::int64_t forbidden)
      : logits_(logits), size_(static_cast<int>(size)), forbidden_(static_cast<int>(forbidden)) {}

  int size() const { return size_; }

  double largest() const {
    double top = -std::numeric_limits<double>::infinity();
    visit([&](double logit, int) { top = logit > top ? logit : top; });
    return top;
  }

  double largest(int count) const {
    std::vector<float> numbers;
    numbers.reserve(static_cast<std::size_t>(size_));
    visit([&](double logit, int) {
      if (logit == logit) numbers.push_back(static_cast<float>(logit));
    });
    if (count > static_cast<int>(numbers.size())) return -std::numeric_limits<double>::infinity();
    const auto last = numbers.begin() + count - 1;
    std::nth_element(numbers.begin(), last, numbers.end(), std::greater<>());
    return *last;
  }

  double mass(const DrawRule& rule, double top, const Ranked& end) const {
    double sum = 0.0;
    visit([&](double logit, int token) {
      if (Ranked{logit, token}.is_before(end)) sum += rule.weight(logit, top);
    });
    return sum;
  }

  Best best(const DrawRule& rule, const Ranked& end) const {
    Best found = Best::of_nothing();
    visit([&](double logit, int token) {
      if (Ranked{logit, token}.is_before(end)) found.add(rule, logit, token);
    });
    return found;
  }

 private:
  template <typename Visit>
  void visit(const Visit& visit_token) const {
    for (int token = 0; token < size_; ++token) {
      if (token != forbidden_) visit_token(static_cast<double>(widen(logits_[token])), token);
    }
  }

  const Logit* logits_;
  int size_, forbidden_;
};

template <typename Logit>
void run(const Tensor& logits, const GumbelArguments& args, std::int64_t forbidden_token,
         const Tensor& rows, const Tensor& keys, const Tensor& options, Tensor& tokens) {
  const auto* data = static_cast<const Logit*>(logits.const_data_ptr());
  const auto* row_of = rows.const_data_ptr<std::int64_t>();
  const auto* key_of = keys.const_data_ptr<std::int64_t>();
  const auto* options_of = options.const_data_ptr<double>();
  auto* token_of = tokens.mutable_data_ptr<std::int64_t>();
  const LogitsRows& shape = args.logits;
  for (std::int64_t i = 0; i < args.num_draws; ++i) {
    check(row_of[i] >= 0 && row_of[i] < shape.num_rows, "gumbel_argmax: rows must lie in [0, ",
          shape.num_rows, "), got ", row_of[i]);
  }
  torch::stable::parallel_for(0, args.num_draws, kLogitsPerThread / shape.vocab_size + 1,
                              [&](std::int64_t begin, std::int64_t end) {
                                for (std::int64_t i = begin; i < end; ++i) {
                                  const Row<Logit> row(data + row_of[i] * shape.row_stride,
                                                       shape.vocab_size, forbidden_token);
                                  token_of[i] = draw_token(
                                      row, DrawRule::of(key_of[i], options_of + i * kDrawOptions));
                                }
                              });
}

Tensor gumbel_argmax(const Tensor& logits, std::int64_t forbidden_token, const Tensor& rows,
                     const Tensor& keys, const Tensor& options) {
  const auto args = GumbelArguments::check_arguments(logits, forbidden_token, rows, keys, options);
  Tensor tokens = torch::stable::new_empty(rows, {args.num_draws}, ScalarType::Long);
  if (logits.scalar_type() == ScalarType::Float) {
    run<float>(logits, args, forbidden_token, rows, keys, options, tokens);
  } else {
    run<std::uint16_t>(logits, args, forbidden_token, rows, keys, options, tokens);
  }
  return tokens;
}

}  // namespace
}  // namespace starr::cpu

STABLE_TORCH_LIBRARY_IMPL(starr_engine, CPU, ops) {
  ops.impl("gumbel_argmax", TORCH_BOX(&starr::cpu::gumbel_argmax));
}
