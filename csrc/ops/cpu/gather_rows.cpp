#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstring>

#include "ops/cpu/paged_rows.hpp"
#include "ops/page_arguments.hpp"

namespace starr::cpu {
namespace {

Tensor gather_rows(const Tensor& pages, const Tensor& slots) {
  const auto args = FeaturePages::check_arguments("gather_rows", pages, slots);
  check_read_slots("gather_rows", slots, args.num_slots);
  const std::int64_t num_rows = slots.size(0);
  Tensor rows = torch::stable::new_empty(pages, {num_rows, args.width});
  const auto* slot = slots.const_data_ptr<std::int64_t>();
  const auto* from = static_cast<const char*>(pages.const_data_ptr());
  auto* to = static_cast<char*>(rows.mutable_data_ptr());
  for_each_row(num_rows, args.row_bytes, [&](std::int64_t begin, std::int64_t end) {
    const auto bytes = static_cast<std::size_t>(args.row_bytes);
    for (std::int64_t row = begin; row < end; ++row) {
      std::memcpy(to + row * args.row_bytes, from + slot[row] * args.row_bytes, bytes);
    }
  });
  return rows;
}

}  // namespace
}  // namespace starr::cpu

STABLE_TORCH_LIBRARY_IMPL(starr_engine, CPU, ops) {
  ops.impl("gather_rows", TORCH_BOX(&starr::cpu::gather_rows));
}
