#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace starr::cuda {

// Raw pointers and a stream: no torch type crosses this line. All strides in bytes.
struct StoreKvParams {
  const void* key;            // [num_tokens, row_bytes], rows key_stride apart
  const void* value;          // [num_tokens, row_bytes], rows value_stride apart
  void* k_cache;              // [num_slots, row_bytes]
  void* v_cache;              // [num_slots, row_bytes]
  const std::int64_t* slots;  // [num_tokens], negative = not written
  std::int64_t num_tokens;
  std::int64_t row_bytes;
  std::int64_t key_stride;
  std::int64_t value_stride;
};

struct GatherKvParams {
  const void* k_cache;        // [num_slots, row_bytes]
  const void* v_cache;        // [num_slots, row_bytes]
  void* key;                  // [num_rows, row_bytes]
  void* value;                // [num_rows, row_bytes]
  const std::int64_t* slots;  // [num_rows], each a valid slot
  std::int64_t num_rows;
  std::int64_t row_bytes;
};

cudaError_t launch_store_kv(const StoreKvParams& params, cudaStream_t stream);
cudaError_t launch_gather_kv(const GatherKvParams& params, cudaStream_t stream);

}  // namespace starr::cuda
