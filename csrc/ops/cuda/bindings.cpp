#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>
#include <vector>

#include "ops/checks.hpp"
#include "ops/cuda/gumbel_argmax.cuh"
#include "ops/cuda/logits_statistics.cuh"
#include "ops/cuda/paged_rows.cuh"
#include "ops/cuda/row_similarity.cuh"
#include "ops/cuda/select_lowest.cuh"
#include "ops/cuda/stream.hpp"
#include "ops/gumbel_arguments.hpp"
#include "ops/page_arguments.hpp"

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

void store_rows(const Tensor& rows, Tensor& pages, const Tensor& slots) {
  const auto args = StoreRowsArguments::check_arguments(rows, pages, slots);
  const DeviceGuard guard(pages.get_device_index());
  check_launch("store_rows", launch_store_rows({.rows = rows.const_data_ptr(),
                                                .pages = pages.mutable_data_ptr(),
                                                .slots = slots.const_data_ptr<std::int64_t>(),
                                                .num_rows = args.num_rows,
                                                .row_bytes = args.pages.row_bytes,
                                                .row_stride = args.row_stride_bytes},
                                               current_stream(pages.get_device_index())));
}

Tensor gather_rows(const Tensor& pages, const Tensor& slots) {
  const auto args = FeaturePages::check_arguments("gather_rows", pages, slots);
  const DeviceGuard guard(pages.get_device_index());
  Tensor rows = torch::stable::new_empty(pages, {slots.size(0), args.width});
  check_launch("gather_rows", launch_gather_rows({.pages = pages.const_data_ptr(),
                                                  .rows = rows.mutable_data_ptr(),
                                                  .slots = slots.const_data_ptr<std::int64_t>(),
                                                  .num_rows = slots.size(0),
                                                  .row_bytes = args.row_bytes},
                                                 current_stream(pages.get_device_index())));
  return rows;
}

void copy_pages(Tensor& pages, const std::vector<std::int64_t>& source,
                const std::vector<std::int64_t>& target) {
  const auto args = CopyPagesArguments::check_arguments(pages, source, target);
  const DeviceGuard guard(pages.get_device_index());
  check_launch("copy_pages",
               launch_copy_pages({.pages = pages.mutable_data_ptr(),
                                  .source = source.data(),
                                  .target = target.data(),
                                  .num_copies = static_cast<std::int64_t>(source.size()),
                                  .num_slabs = args.num_slabs,
                                  .num_pages = args.num_pages,
                                  .page_bytes = args.page_bytes},
                                 current_stream(pages.get_device_index())));
}

RowDtype row_dtype(ScalarType dtype) {
  if (dtype == ScalarType::BFloat16) return RowDtype::kBFloat16;
  return dtype == ScalarType::Half ? RowDtype::kFloat16 : RowDtype::kFloat32;
}

Tensor row_similarity(const Tensor& rows, const Tensor& cache, const Tensor& slots) {
  const auto args = RowSimilarityArguments::check_arguments(rows, cache, slots);
  const DeviceGuard guard(cache.get_device_index());
  Tensor similarity = torch::stable::new_empty(rows, {args.num_rows}, ScalarType::Float);
  check_launch("row_similarity",
               launch_row_similarity({.rows = rows.const_data_ptr(),
                                      .cache = cache.const_data_ptr(),
                                      .slots = slots.const_data_ptr<std::int64_t>(),
                                      .similarity = similarity.mutable_data_ptr<float>(),
                                      .dtype = row_dtype(cache.scalar_type()),
                                      .num_rows = args.num_rows,
                                      .row_size = args.row_size,
                                      .row_stride = args.row_stride},
                                     current_stream(cache.get_device_index())));
  return similarity;
}

Tensor select_lowest(const Tensor& values, const std::vector<std::int64_t>& cu_rows,
                     const std::vector<std::int64_t>& counts) {
  const auto args = SelectLowestArguments::check_arguments(values, cu_rows, counts);
  const DeviceGuard guard(values.get_device_index());
  Tensor selected = torch::stable::new_empty(values, {args.num_selected}, ScalarType::Long);
  check_launch("select_lowest",
               launch_select_lowest({.values = values.const_data_ptr<float>(),
                                     .cu_rows = cu_rows.data(),
                                     .counts = counts.data(),
                                     .num_segments = args.num_segments,
                                     .selected = selected.mutable_data_ptr<std::int64_t>()},
                                    current_stream(values.get_device_index())));
  return selected;
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

Tensor gumbel_argmax(const Tensor& logits, std::int64_t forbidden_token, const Tensor& rows,
                     const Tensor& keys, const Tensor& options) {
  const auto args = GumbelArguments::check_arguments(logits, forbidden_token, rows, keys, options);
  const DeviceGuard guard(logits.get_device_index());
  Tensor tokens = torch::stable::new_empty(rows, {args.num_draws}, ScalarType::Long);
  check_launch("gumbel_argmax",
               launch_gumbel_argmax({.logits = logits.const_data_ptr(),
                                     .is_bfloat16 = logits.scalar_type() == ScalarType::BFloat16,
                                     .vocab_size = args.logits.vocab_size,
                                     .row_stride = args.logits.row_stride,
                                     .forbidden_token = forbidden_token,
                                     .num_draws = args.num_draws,
                                     .rows = rows.const_data_ptr<std::int64_t>(),
                                     .keys = keys.const_data_ptr<std::int64_t>(),
                                     .options = options.const_data_ptr<double>(),
                                     .tokens = tokens.mutable_data_ptr<std::int64_t>()},
                                    current_stream(logits.get_device_index())));
  return tokens;
}

}  // namespace
}  // namespace starr::cuda

STABLE_TORCH_LIBRARY_IMPL(starr_engine, CUDA, ops) {
  ops.impl("store_kv", TORCH_BOX(&starr::cuda::store_kv));
  ops.impl("gather_kv", TORCH_BOX(&starr::cuda::gather_kv));
  ops.impl("store_rows", TORCH_BOX(&starr::cuda::store_rows));
  ops.impl("gather_rows", TORCH_BOX(&starr::cuda::gather_rows));
  ops.impl("copy_pages", TORCH_BOX(&starr::cuda::copy_pages));
  ops.impl("row_similarity", TORCH_BOX(&starr::cuda::row_similarity));
  ops.impl("select_lowest", TORCH_BOX(&starr::cuda::select_lowest));
  ops.impl("logits_statistics", TORCH_BOX(&starr::cuda::logits_statistics));
  ops.impl("gumbel_argmax", TORCH_BOX(&starr::cuda::gumbel_argmax));
}
