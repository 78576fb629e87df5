#pragma once

#include "ops/checks.hpp"

namespace starr {

inline constexpr std::int64_t kDrawOptions = 4;  // temperature, top_p, top_k, min_p

// gumbel_argmax: logits [M, V], and of each of D draws the row, the key and the options.
struct GumbelArguments {
  LogitsRows logits;
  std::int64_t num_draws;  // D

  static GumbelArguments check_arguments(const Tensor& logits, std::int64_t forbidden_token,
                                         const Tensor& rows, const Tensor& keys,
                                         const Tensor& options) {
    constexpr const char* kOp = "gumbel_argmax";
    const auto shape = LogitsRows::check_arguments(kOp, logits, forbidden_token);
    const auto vector = [&](const char* name, const Tensor& tensor, std::int64_t width,
                            ScalarType dtype) {
      const bool is_shaped = tensor.dim() == (width == 1 ? 1 : 2) && tensor.is_contiguous() &&
                             tensor.size(0) == rows.size(0) &&
                             (width == 1 || tensor.size(1) == width);
      check(is_shaped, kOp,
            ": rows and keys must be contiguous vectors of one length D, options [D, ",
            kDrawOptions, "]; ", name, " is not");
      check(tensor.scalar_type() == dtype, kOp, ": ", name, " must be ", dtype, ", got ",
            tensor.scalar_type());
      check_same_device(kOp, logits, tensor, name);
    };
    vector("rows", rows, 1, ScalarType::Long);
    vector("keys", keys, 1, ScalarType::Long);
    vector("options", options, kDrawOptions, ScalarType::Double);
    return {shape, rows.size(0)};
  }
};

}  // namespace starr
