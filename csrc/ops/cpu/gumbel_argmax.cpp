#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <limits>

#include "ops/cpu/softmax_row.hpp"
#include "ops/gumbel.hpp"
#include "ops/gumbel_arguments.hpp"

namespace starr::cpu {
namespace {

// Logits a thread should have before another is woken: some 10 us of work.
constexpr std::int64_t kLogitsPerThread = 1 << 12;

template <typename Logit>
std::int64_t draw(const Logit* row, std::int64_t size, std::int64_t forbidden, std::uint64_t key,
                  double temperature) {
  double best = -std::numeric_limits<double>::infinity();
  std::int64_t found = 0;
  for (std::int64_t token = 0; token < size; ++token) {
    const double logit = widen(row[token]);
    const std::uint64_t bits = random_bits(key, token);
    // Two logarithms a token would take most of the time; nearly none can win.
    if (logit + temperature * gumbel_bound(bits) < best || token == forbidden) continue;
    const double value = logit + temperature * gumbel(bits);
    if (!(value > best)) continue;
    best = value;
    found = token;
  }
  return found;
}

template <typename Logit>
void run(const Tensor& logits, const GumbelArguments& args, std::int64_t forbidden_token,
         const Tensor& rows, const Tensor& keys, const Tensor& temperatures, Tensor& tokens) {
  const auto* data = static_cast<const Logit*>(logits.const_data_ptr());
  const auto* row_of = rows.const_data_ptr<std::int64_t>();
  const auto* key_of = keys.const_data_ptr<std::int64_t>();
  const auto* temperature_of = temperatures.const_data_ptr<double>();
  auto* token_of = tokens.mutable_data_ptr<std::int64_t>();
  const LogitsRows& shape = args.logits;
  for (std::int64_t i = 0; i < args.num_draws; ++i) {
    check(row_of[i] >= 0 && row_of[i] < shape.num_rows, "gumbel_argmax: rows must lie in [0, ",
          shape.num_rows, "), got ", row_of[i]);
  }
  torch::stable::parallel_for(
      0, args.num_draws, kLogitsPerThread / shape.vocab_size + 1,
      [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          token_of[i] = draw(data + row_of[i] * shape.row_stride, shape.vocab_size, forbidden_token,
                             static_cast<std::uint64_t>(key_of[i]), temperature_of[i]);
        }
      });
}

Tensor gumbel_argmax(const Tensor& logits, std::int64_t forbidden_token, const Tensor& rows,
                     const Tensor& keys, const Tensor& temperatures) {
  const auto args =
      GumbelArguments::check_arguments(logits, forbidden_token, rows, keys, temperatures);
  Tensor tokens = torch::stable::new_empty(rows, {args.num_draws}, ScalarType::Long);
  if (logits.scalar_type() == ScalarType::Float) {
    run<float>(logits, args, forbidden_token, rows, keys, temperatures, tokens);
  } else {
    run<std::uint16_t>(logits, args, forbidden_token, rows, keys, temperatures, tokens);
  }
  return tokens;
}

}  // namespace
}  // namespace starr::cpu

STABLE_TORCH_LIBRARY_IMPL(starr_engine, CPU, ops) {
  ops.impl("gumbel_argmax", TORCH_BOX(&starr::cpu::gumbel_argmax));
}
