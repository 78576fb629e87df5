#include <torch/csrc/stable/library.h>

#include <cstring>

#include "ops/checks.hpp"
#include "ops/cpu/paged_rows.hpp"

namespace starr::cpu {
namespace {

void store_kv(const Tensor& key, const Tensor& value, Tensor& k_cache, Tensor& v_cache,
              const Tensor& slot_mapping) {
  const auto args = StoreKvArguments::check_arguments(key, value, k_cache, v_cache, slot_mapping);
  const auto* slots = slot_mapping.const_data_ptr<std::int64_t>();
  check_optional_slots("store_kv", "slot_mapping", slot_mapping, args.cache.num_slots);
  const std::int64_t row_bytes = args.cache.row_bytes;
  const auto* k_from = static_cast<const char*>(key.const_data_ptr());
  const auto* v_from = static_cast<const char*>(value.const_data_ptr());
  auto* k_to = static_cast<char*>(k_cache.mutable_data_ptr());
  auto* v_to = static_cast<char*>(v_cache.mutable_data_ptr());
  for_each_row(args.num_tokens, 2 * row_bytes, [&](std::int64_t begin, std::int64_t end) {
    const auto bytes = static_cast<std::size_t>(row_bytes);
    for (std::int64_t token = begin; token < end; ++token) {
      if (slots[token] < 0) continue;
      const std::int64_t offset = slots[token] * row_bytes;
      std::memcpy(k_to + offset, k_from + token * args.key_stride_bytes, bytes);
      std::memcpy(v_to + offset, v_from + token * args.value_stride_bytes, bytes);
    }
  });
}

}  // namespace
}  // namespace starr::cpu

STABLE_TORCH_LIBRARY_IMPL(starr_engine, CPU, ops) {
  ops.impl("store_kv", TORCH_BOX(&starr::cpu::store_kv));
}
