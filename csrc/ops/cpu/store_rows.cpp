#include <torch/csrc/stable/library.h>

#include <cstring>

#include "ops/cpu/paged_rows.hpp"
#include "ops/page_arguments.hpp"

namespace starr::cpu {
namespace {

void store_rows(const Tensor& rows, Tensor& pages, const Tensor& slots) {
  const auto args = StoreRowsArguments::check_arguments(rows, pages, slots);
  check_optional_slots("store_rows", "slots", slots, args.pages.num_slots);
  const auto* slot = slots.const_data_ptr<std::int64_t>();
  const auto* from = static_cast<const char*>(rows.const_data_ptr());
  auto* to = static_cast<char*>(pages.mutable_data_ptr());
  const std::int64_t row_bytes = args.pages.row_bytes;
  for_each_row(args.num_rows, row_bytes, [&](std::int64_t begin, std::int64_t end) {
    const auto bytes = static_cast<std::size_t>(row_bytes);
    for (std::int64_t row = begin; row < end; ++row) {
      if (slot[row] < 0) continue;
      std::memcpy(to + slot[row] * row_bytes, from + row * args.row_stride_bytes, bytes);
    }
  });
}

}  // namespace
}  // namespace starr::cpu

STABLE_TORCH_LIBRARY_IMPL(starr_engine, CPU, ops) {
  ops.impl("store_rows", TORCH_BOX(&starr::cpu::store_rows));
}
