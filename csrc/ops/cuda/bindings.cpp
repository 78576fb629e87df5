#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "ops/checks.hpp"
#include "ops/cuda/logits_statistics.cuh"
#include "ops/cuda/paged_rows.cuh"
#include "ops/cuda/stream.hpp"

namespace starr::cuda {
namespace {

using torch::stable::accelerator::DeviceGuard;

void store_kv(const Tensor& key, const Tensor& value, Tensor& k_cache, Tensor& v_cache,
              const Tensor& slot_mapping) {
  const auto args = StoreKvArguments::check_arguments(key, value, k_cache, v_cache, slot_mapping);
  const DeviceGuard guard(k_cache.get_device_index());
  check_launch("store_kv", launch_store_kv({.key = key.const_data_ptr(),
                                            .value = value.const_data_ptr(),
                                            .k_cache = k_cache.mutable_data_ptr(),
                                            .v_cache = v_cache.mutable_data_ptr(),
                                            .slots = slot_mapping.const_data_ptr<std::int64_t>(),
                                            .num_tokens = args.num_tokens,
                                            .row_bytes = args.cache.row_bytes,
                                            .key_stride = args.key_stride_bytes,
                                            .value_stride = args.value_stride_bytes},
                                           current_stream(k_cache.get_device_index())));
}

std::tuple<Tensor, Tensor> gather_kv(const Tensor& k_cache, const Tensor& v_cache,
                                     const Tensor& slots) {
  const auto cache = PagedCache::check_arguments("gather_kv", k_cache, v_cache, slots, "slots");
  const auto shape = {slots.size(0), cache.num_heads, cache.head_dim};
  const DeviceGuard guard(k_cache.get_device_index());
  Tensor key = torch::stable::new_empty(k_cache, shape);
  Tensor value = torch::stable::new_empty(v_cache, shape);
  check_launch("gather_kv", launch_gather_kv({.k_cache = k_cache.const_data_ptr(),
                                              .v_cache = v_cache.const_data_ptr(),
                                              .key = key.mutable_data_ptr(),
                                              .value = value.mutable_data_ptr(),
                                              .slots = slots.const_data_ptr<std::int64_t>(),
                                              .num_rows = slots.size(0),
                                              .row_bytes = cache.row_bytes},
                                             current_stream(k_cache.get_device_index())));
  return {key, value};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> logits_statistics(const Tensor& logits,
                                                                     std::int64_t forbidden_token) {
  const auto shape = LogitsRows::check_arguments("logits_statistics", logits, forbidden_token);
  const DeviceGuard guard(logits.get_device_index());
  const auto vector = [&](ScalarType dtype) {
    return torch::stable::new_empty(logits, {shape.num_rows}, dtype);
  };
  Tensor candidate = vector(ScalarType::Long);
  Tensor top1 = vector(ScalarType::Float), top2 = vector(ScalarType::Float);
  Tensor entropy = vector(ScalarType::Float), log_normalizer = vector(ScalarType::Float);
  check_launch(
      "logits_statistics",
      launch_logits_statistics({.logits = logits.const_data_ptr(),
                                .is_bfloat16 = logits.scalar_type() == ScalarType::BFloat16,
                                .num_rows = shape.num_rows,
                                .vocab_size = shape.vocab_size,
                                .row_stride = shape.row_stride,
                                .forbidden_token = forbidden_token,
                                .candidate = candidate.mutable_data_ptr<std::int64_t>(),
                                .top1 = top1.mutable_data_ptr<float>(),
                                .top2 = top2.mutable_data_ptr<float>(),
                                .entropy = entropy.mutable_data_ptr<float>(),
                                .log_normalizer = log_normalizer.mutable_data_ptr<float>()},
                               current_stream(logits.get_device_index())));
  return {candidate, top1, top2, entropy, log_normalizer};
}

}  // namespace
}  // namespace starr::cuda

STABLE_TORCH_LIBRARY_IMPL(starr_engine, CUDA, ops) {
  ops.impl("store_kv", TORCH_BOX(&starr::cuda::store_kv));
  ops.impl("gather_kv", TORCH_BOX(&starr::cuda::gather_kv));
  ops.impl("logits_statistics", TORCH_BOX(&starr::cuda::logits_statistics));
}
