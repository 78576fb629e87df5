#pragma once

#include "ops/checks.hpp"

namespace starr {

// gumbel_argmax: logits [M, V], and of each of D draws the row, the key and the temperature.
struct GumbelArguments {
  LogitsRows logits;
  std::int64_t num_draws;  // D

  static GumbelArguments check_arguments(const Tensor& logits, std::int64_t forbidden_token,
                                         const Tensor& rows, const Tensor& keys,
                                         const Tensor& temperatures) {
    constexpr const char* kOp = "gumbel_argmax";
    const auto shape = LogitsRows::check_arguments(kOp, logits, forbidden_token);
    const auto vector = [&](const char* name, const Tensor& tensor, ScalarType dtype) {
      check(tensor.dim() == 1 && tensor.is_contiguous() && tensor.size(0) == rows.size(0), kOp,
            ": rows, keys and temperatures must be contiguous vectors of one length; ", name,
            " is not");
      check(tensor.scalar_type() == dtype, kOp, ": ", name, " must be ", dtype, ", got ",
            tensor.scalar_type());
      check_same_device(kOp, logits, tensor, name);
    };
    vector("rows", rows, ScalarType::Long);
    vector("keys", keys, ScalarType::Long);
    vector("temperatures", temperatures, ScalarType::Double);
    return {shape, rows.size(0)};
  }
};

}  // namespace starr
