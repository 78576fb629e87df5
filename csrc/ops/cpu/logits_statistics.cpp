#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "ops/checks.hpp"
#include "ops/cpu/softmax_row.hpp"

namespace starr::cpu {
namespace {

// Logits a thread should have before another is woken: some 10 us of work.
constexpr std::int64_t kLogitsPerThread = 1 << 15;

struct Outputs {
  std::int64_t* candidate;
  float *top1, *top2, *entropy, *log_normalizer;

  void write(std::int64_t row, const RowStatistics& s) const {
    candidate[row] = s.argmax;
    top1[row] = s.top1();
    top2[row] = s.top2();
    entropy[row] = s.entropy();
    log_normalizer[row] = static_cast<float>(s.max + std::log(s.sum));
  }
};

template <typename Logit>
void run(const Tensor& logits, const LogitsRows& shape, std::int64_t forbidden_token,
         const Outputs& outputs) {
  const auto* data = static_cast<const Logit*>(logits.const_data_ptr());
  torch::stable::parallel_for(0, shape.num_rows, kLogitsPerThread / shape.vocab_size + 1,
                              [&](std::int64_t begin, std::int64_t end) {
                                for (std::int64_t row = begin; row < end; ++row) {
                                  outputs.write(row,
                                                row_statistics(data + row * shape.row_stride,
                                                               shape.vocab_size, forbidden_token));
                                }
                              });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> logits_statistics(const Tensor& logits,
                                                                     std::int64_t forbidden_token) {
  const auto shape = LogitsRows::check_arguments("logits_statistics", logits, forbidden_token);
  const auto vector = [&](ScalarType dtype) {
    return torch::stable::new_empty(logits, {shape.num_rows}, dtype);
  };
  Tensor candidate = vector(ScalarType::Long);
  Tensor top1 = vector(ScalarType::Float), top2 = vector(ScalarType::Float);
  Tensor entropy = vector(ScalarType::Float), log_normalizer = vector(ScalarType::Float);
  const Outputs outputs{candidate.mutable_data_ptr<std::int64_t>(), top1.mutable_data_ptr<float>(),
                        top2.mutable_data_ptr<float>(), entropy.mutable_data_ptr<float>(),
                        log_normalizer.mutable_data_ptr<float>()};
  if (logits.scalar_type() == ScalarType::Float) {
    run<float>(logits, shape, forbidden_token, outputs);
  } else {
    run<std::uint16_t>(logits, shape, forbidden_token, outputs);
  }
  return {candidate, top1, top2, entropy, log_normalizer};
}

}  // namespace
}  // namespace starr::cpu

STABLE_TORCH_LIBRARY_IMPL(starr_engine, CPU, ops) {
  ops.impl("logits_statistics", TORCH_BOX(&starr::cpu::logits_statistics));
}
