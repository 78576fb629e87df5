#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <limits>
#include <sstream>
#include <stdexcept>

namespace starr {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Like STD_TORCH_CHECK, but without file and line in front: users read these messages.
template <typename... Args>
void check(bool condition, const Args&... message) {
  if (condition) return;
  std::ostringstream text;
  (text << ... << message);
  throw std::runtime_error(text.str());
}

inline void check_same_device(const char* op, const Tensor& first, const Tensor& other,
                              const char* other_name) {
  check(other.device() == first.device(), op, ": ", other_name,
        " is on another device than the first argument");
}

inline void check_slots(const char* op, const Tensor& pages, const Tensor& slots,
                        const char* slots_name) {
  check(slots.dim() == 1 && slots.is_contiguous(), op, ": ", slots_name,
        " must be a contiguous vector, got ", slots.dim(), " dimensions");
  check(slots.scalar_type() == ScalarType::Long, op, ": ", slots_name, " must be int64, got ",
        slots.scalar_type());
  check_same_device(op, pages, slots, slots_name);
}

// Rows [T, K, D] that may be views of a fused projection, one for each of num_tokens slots of a
// cache [P, G, K, D]. Returns the elements from one token's row to the next.
inline std::int64_t check_head_rows(const char* op, const char* name, const Tensor& rows,
                                    const Tensor& cache, std::int64_t num_tokens,
                                    const char* slots_name) {
  const std::int64_t num_heads = cache.size(2), head_dim = cache.size(3);
  check(rows.dim() == 3, op, ": ", name, " must be [T, K, D], got ", rows.dim(), " dimensions");
  check(rows.size(0) == num_tokens && rows.size(1) == num_heads && rows.size(2) == head_dim, op,
        ": ", name, " must be [", num_tokens, ", ", num_heads, ", ", head_dim, "] for this ",
        slots_name, " and cache, got [", rows.size(0), ", ", rows.size(1), ", ", rows.size(2), "]");
  check(rows.scalar_type() == cache.scalar_type(), op, ": ", name, " is ", rows.scalar_type(),
        ", the cache is ", cache.scalar_type());
  // A stride means nothing where there is one element at most.
  check((rows.size(2) <= 1 || rows.stride(2) == 1) &&
            (rows.size(1) <= 1 || rows.stride(1) == head_dim),
        op, ": the last two dimensions of ", name, " must be contiguous, got strides ",
        rows.stride(1), " and ", rows.stride(2));
  check_same_device(op, cache, rows, name);
  return rows.stride(0);
}

// What every op on the paged cache needs of it: k_cache and v_cache [P, G, K, D], each
// contiguous, of one shape, dtype and device, and an int64 vector of slots into them.
struct PagedCache {
  std::int64_t num_slots;  // P * G
  std::int64_t num_heads;  // K
  std::int64_t head_dim;   // D
  std::int64_t row_bytes;  // one slot of one cache

  static PagedCache check_arguments(const char* op, const Tensor& k_cache, const Tensor& v_cache,
                                    const Tensor& slots, const char* slots_name) {
    check(k_cache.dim() == 4, op, ": k_cache must be [P, G, K, D], got ", k_cache.dim(),
          " dimensions");
    check(v_cache.dim() == 4, op, ": v_cache must be [P, G, K, D], got ", v_cache.dim(),
          " dimensions");
    for (std::int64_t d = 0; d < 4; ++d) {
      check(v_cache.size(d) == k_cache.size(d), op, ": k_cache and v_cache must have one shape; ",
            "dimension ", d, " is ", k_cache.size(d), " and ", v_cache.size(d));
    }
    check(v_cache.scalar_type() == k_cache.scalar_type(), op,
          ": k_cache and v_cache must have one dtype, got ", k_cache.scalar_type(), " and ",
          v_cache.scalar_type());
    check(k_cache.is_contiguous() && v_cache.is_contiguous(), op,
          ": k_cache and v_cache must each be contiguous");
    check_same_device(op, k_cache, v_cache, "v_cache");
    check_slots(op, k_cache, slots, slots_name);
    const std::int64_t row = k_cache.size(2) * k_cache.size(3);
    return {k_cache.size(0) * k_cache.size(1), k_cache.size(2), k_cache.size(3),
            row * static_cast<std::int64_t>(k_cache.element_size())};
  }
};

// store_kv: rows [T, K, D] that may be views of a fused projection, one slot for each.
struct StoreKvArguments {
  PagedCache cache;
  std::int64_t num_tokens;        // T
  std::int64_t key_stride_bytes;  // from one token's row to the next
  std::int64_t value_stride_bytes;

  static StoreKvArguments check_arguments(const Tensor& key, const Tensor& value,
                                          const Tensor& k_cache, const Tensor& v_cache,
                                          const Tensor& slot_mapping) {
    const auto cache =
        PagedCache::check_arguments("store_kv", k_cache, v_cache, slot_mapping, "slot_mapping");
    const std::int64_t num_tokens = slot_mapping.size(0);
    const auto stride_bytes = [&](const char* name, const Tensor& rows) {
      const std::int64_t stride =
          check_head_rows("store_kv", name, rows, k_cache, num_tokens, "slot_mapping");
      return stride * static_cast<std::int64_t>(rows.element_size());
    };
    return {cache, num_tokens, stride_bytes("key", key), stride_bytes("value", value)};
  }
};

// One row of logits for each position, rows possibly strided.
struct LogitsRows {
  std::int64_t num_rows, vocab_size;  // M, V
  std::int64_t row_stride;            // elements

  static LogitsRows check_arguments(const char* op, const Tensor& logits,
                                    std::int64_t forbidden_token) {
    check(logits.dim() == 2, op, ": logits must be [M, V], got ", logits.dim(), " dimensions");
    const auto dtype = logits.scalar_type();
    check(dtype == ScalarType::Float || dtype == ScalarType::BFloat16, op,
          ": logits must be float32 or bfloat16, got ", dtype);
    const std::int64_t vocab_size = logits.size(1);
    check(vocab_size >= 1 && vocab_size < std::numeric_limits<std::int32_t>::max(), op,
          ": the vocabulary must have 1 to 2^31 - 2 entries, got ", vocab_size);
    check(vocab_size == 1 || logits.stride(1) == 1, op,
          ": each row of logits must be contiguous, got stride ", logits.stride(1));
    check(forbidden_token >= -1 && forbidden_token < vocab_size, op,
          ": forbidden_token must be -1 (none) or an index below ", vocab_size, ", got ",
          forbidden_token);
    return {logits.size(0), vocab_size, logits.stride(0)};
  }
};

}  // namespace starr
