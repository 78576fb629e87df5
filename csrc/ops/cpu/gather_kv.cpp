#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstring>
#include <tuple>

#include "ops/checks.hpp"
#include "ops/cpu/paged_rows.hpp"

namespace starr::cpu {
namespace {

std::tuple<Tensor, Tensor> gather_kv(const Tensor& k_cache, const Tensor& v_cache,
                                     const Tensor& slots) {
  const auto cache = PagedCache::check_arguments("gather_kv", k_cache, v_cache, slots, "slots");
  const std::int64_t num_rows = slots.size(0);
  const auto* slot = slots.const_data_ptr<std::int64_t>();
  check_read_slots("gather_kv", slots, cache.num_slots);
  const auto shape = {num_rows, cache.num_heads, cache.head_dim};
  Tensor key = torch::stable::new_empty(k_cache, shape);
  Tensor value = torch::stable::new_empty(v_cache, shape);
  const auto* k_from = static_cast<const char*>(k_cache.const_data_ptr());
  const auto* v_from = static_cast<const char*>(v_cache.const_data_ptr());
  auto* k_to = static_cast<char*>(key.mutable_data_ptr());
  auto* v_to = static_cast<char*>(value.mutable_data_ptr());
  for_each_row(num_rows, 2 * cache.row_bytes, [&](std::int64_t begin, std::int64_t end) {
    const auto bytes = static_cast<std::size_t>(cache.row_bytes);
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t from = slot[row] * cache.row_bytes;
      std::memcpy(k_to + row * cache.row_bytes, k_from + from, bytes);
      std::memcpy(v_to + row * cache.row_bytes, v_from + from, bytes);
    }
  });
  return {key, value};
}

}  // namespace
}  // namespace starr::cpu

STABLE_TORCH_LIBRARY_IMPL(starr_engine, CPU, ops) {
  ops.impl("gather_kv", TORCH_BOX(&starr::cpu::gather_kv));
}
