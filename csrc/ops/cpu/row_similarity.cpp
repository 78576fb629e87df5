#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "ops/cpu/paged_rows.hpp"
#include "ops/cpu/row_products.hpp"
#include "ops/page_arguments.hpp"

namespace starr::cpu {
namespace {

template <typename Value>
void run(const RowSimilarityArguments& args, const Tensor& rows, const Tensor& cache,
         const std::int64_t* slots, float* similarity) {
  const auto* fresh = static_cast<const Value*>(rows.const_data_ptr());
  const auto* cached = static_cast<const Value*>(cache.const_data_ptr());
  const auto read_bytes = 2 * args.row_size * static_cast<std::int64_t>(sizeof(Value));
  for_each_row(args.num_rows, read_bytes, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      similarity[row] = slots[row] < 0
                            ? 1.0f
                            : row_products(fresh + row * args.row_stride,
                                           cached + slots[row] * args.row_size, args.row_size)
                                  .cosine();
    }
  });
}

Tensor row_similarity(const Tensor& rows, const Tensor& cache, const Tensor& slots) {
  const auto args = RowSimilarityArguments::check_arguments(rows, cache, slots);
  check_optional_slots("row_similarity", "slots", slots, args.num_slots);
  Tensor similarity = torch::stable::new_empty(rows, {args.num_rows}, ScalarType::Float);
  const auto* slot = slots.const_data_ptr<std::int64_t>();
  auto* to = similarity.mutable_data_ptr<float>();
  switch (cache.scalar_type()) {
    case ScalarType::BFloat16:
      run<BFloat16Bits>(args, rows, cache, slot, to);
      break;
    case ScalarType::Half:
      run<Float16Bits>(args, rows, cache, slot, to);
      break;
    default:
      run<float>(args, rows, cache, slot, to);
  }
  return similarity;
}

}  // namespace
}  // namespace starr::cpu

STABLE_TORCH_LIBRARY_IMPL(starr_engine, CPU, ops) {
  ops.impl("row_similarity", TORCH_BOX(&starr::cpu::row_similarity));
}
