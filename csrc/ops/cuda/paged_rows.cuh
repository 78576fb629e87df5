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

struct StoreRowsParams {
  const void* rows;           // [num_rows, row_bytes], rows row_stride apart
  void* pages;                // [num_slots, row_bytes]
  const std::int64_t* slots;  // [num_rows], negative = not written
  std::int64_t num_rows;
  std::int64_t row_bytes;
  std::int64_t row_stride;
};

struct GatherRowsParams {
  const void* pages;          // [num_slots, row_bytes]
  void* rows;                 // [num_rows, row_bytes]
  const std::int64_t* slots;  // [num_rows], each a valid slot
  std::int64_t num_rows;
  std::int64_t row_bytes;
};

struct CopyPagesParams {
  void* pages;                 // [num_slabs, num_pages, page_bytes]
  const std::int64_t* source;  // [num_copies], on the host: they travel in the kernel's arguments
  const std::int64_t* target;  // [num_copies], on the host; distinct, and none of them a source
  std::int64_t num_copies;
  std::int64_t num_slabs;  // keys and values of each layer
  std::int64_t num_pages;  // below 2^31
  std::int64_t page_bytes;
};

cudaError_t launch_store_kv(const StoreKvParams& params, cudaStream_t stream);
cudaError_t launch_gather_kv(const GatherKvParams& params, cudaStream_t stream);
cudaError_t launch_store_rows(const StoreRowsParams& params, cudaStream_t stream);
cudaError_t launch_gather_rows(const GatherRowsParams& params, cudaStream_t stream);
cudaError_t launch_copy_pages(const CopyPagesParams& params, cudaStream_t stream);

}  // namespace starr::cuda
