#include <algorithm>

#include "ops/cuda/paged_rows.cuh"

namespace starr::cuda {
namespace {

// One warp can hold 512 bytes in flight, so that a row of K * D = 1024 bfloat16 takes one
// round of 128 threads at 16 bytes each.
constexpr int kThreads = 128;

template <typename Vector>
__device__ void copy_row(const char* from, char* to, std::int64_t row_bytes) {
  const auto* source = reinterpret_cast<const Vector*>(from);
  auto* target = reinterpret_cast<Vector*>(to);
  const std::int64_t count = row_bytes / static_cast<std::int64_t>(sizeof(Vector));
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) target[i] = source[i];
}

// Grid: x = one thread block per token, y = 0 for keys, 1 for values. Bound by memory.
template <typename Vector>
__global__ __launch_bounds__(kThreads) void store_kv_kernel(const StoreKvParams p) {
  const std::int64_t token = blockIdx.x;
  const std::int64_t slot = p.slots[token];
  if (slot < 0) return;
  const bool is_key = blockIdx.y == 0;
  const auto* from = static_cast<const char*>(is_key ? p.key : p.value);
  auto* to = static_cast<char*>(is_key ? p.k_cache : p.v_cache);
  const std::int64_t stride = is_key ? p.key_stride : p.value_stride;
  copy_row<Vector>(from + token * stride, to + slot * p.row_bytes, p.row_bytes);
}

// Grid: x = one thread block per row, y = 0 for keys, 1 for values. Bound by memory.
template <typename Vector>
__global__ __launch_bounds__(kThreads) void gather_kv_kernel(const GatherKvParams p) {
  const std::int64_t row = blockIdx.x;
  const bool is_key = blockIdx.y == 0;
  const auto* from = static_cast<const char*>(is_key ? p.k_cache : p.v_cache);
  auto* to = static_cast<char*>(is_key ? p.key : p.value);
  copy_row<Vector>(from + p.slots[row] * p.row_bytes, to + row * p.row_bytes, p.row_bytes);
}

// Grid: one thread block per row. Bound by memory.
template <typename Vector>
__global__ __launch_bounds__(kThreads) void store_rows_kernel(const StoreRowsParams p) {
  const std::int64_t row = blockIdx.x;
  const std::int64_t slot = p.slots[row];
  if (slot < 0) return;
  copy_row<Vector>(static_cast<const char*>(p.rows) + row * p.row_stride,
                   static_cast<char*>(p.pages) + slot * p.row_bytes, p.row_bytes);
}

// Grid: one thread block per row. Bound by memory.
template <typename Vector>
__global__ __launch_bounds__(kThreads) void gather_rows_kernel(const GatherRowsParams p) {
  const std::int64_t row = blockIdx.x;
  copy_row<Vector>(static_cast<const char*>(p.pages) + p.slots[row] * p.row_bytes,
                   static_cast<char*>(p.rows) + row * p.row_bytes, p.row_bytes);
}

// The arguments of a kernel may take 4 KiB.
constexpr std::int64_t kCopiesPerLaunch = 256;
struct PageCopies {
  std::int32_t source[kCopiesPerLaunch];
  std::int32_t target[kCopiesPerLaunch];
};

// A thread block has at least this much to copy, if the page does: four rounds of 16-byte loads.
constexpr std::int64_t kPagePartBytes = 4 * kThreads * sizeof(uint4);
constexpr std::int64_t kMaxPageParts = 64;

// Grid: x = keys or values of a layer, y = one copy, z = parts of the page, which thread blocks
// take in turns. Bound by memory.
template <typename Vector>
__global__ __launch_bounds__(kThreads) void copy_pages_kernel(char* pages, std::int64_t num_pages,
                                                              std::int64_t page_bytes,
                                                              const PageCopies copies) {
  const std::int64_t first_page = blockIdx.x * num_pages;
  const auto at = [&](std::int32_t page) { return pages + (first_page + page) * page_bytes; };
  const auto* source = reinterpret_cast<const Vector*>(at(copies.source[blockIdx.y]));
  auto* target = reinterpret_cast<Vector*>(at(copies.target[blockIdx.y]));
  const std::int64_t count = page_bytes / static_cast<std::int64_t>(sizeof(Vector));
  const std::int64_t step = static_cast<std::int64_t>(gridDim.z) * kThreads;
  for (std::int64_t i = blockIdx.z * kThreads + threadIdx.x; i < count; i += step) {
    target[i] = source[i];
  }
}

// Calls run(Vector{}) with the widest type to which every address and step is aligned.
template <typename Run>
void with_widest_vector(std::uintptr_t all_addresses_and_steps, const Run& run) {
  if (all_addresses_and_steps % sizeof(uint4) == 0) return run(uint4{});
  if (all_addresses_and_steps % sizeof(uint32_t) == 0) return run(uint32_t{});
  if (all_addresses_and_steps % sizeof(uint16_t) == 0) return run(uint16_t{});
  return run(uint8_t{});
}

std::uintptr_t bits(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }
std::uintptr_t bits(std::int64_t step) { return static_cast<std::uintptr_t>(step); }

}  // namespace

cudaError_t launch_store_kv(const StoreKvParams& p, cudaStream_t stream) {
  if (p.num_tokens == 0 || p.row_bytes == 0) return cudaSuccess;  // an empty grid is an error
  const dim3 grid(static_cast<unsigned>(p.num_tokens), 2);
  with_widest_vector(
      bits(p.key) | bits(p.value) | bits(p.k_cache) | bits(p.v_cache) | bits(p.row_bytes) |
          bits(p.key_stride) | bits(p.value_stride),
      [&](auto vector) { store_kv_kernel<decltype(vector)><<<grid, kThreads, 0, stream>>>(p); });
  return cudaGetLastError();
}

cudaError_t launch_gather_kv(const GatherKvParams& p, cudaStream_t stream) {
  if (p.num_rows == 0 || p.row_bytes == 0) return cudaSuccess;  // an empty grid is an error
  const dim3 grid(static_cast<unsigned>(p.num_rows), 2);
  with_widest_vector(
      bits(p.k_cache) | bits(p.v_cache) | bits(p.key) | bits(p.value) | bits(p.row_bytes),
      [&](auto vector) { gather_kv_kernel<decltype(vector)><<<grid, kThreads, 0, stream>>>(p); });
  return cudaGetLastError();
}

cudaError_t launch_store_rows(const StoreRowsParams& p, cudaStream_t stream) {
  if (p.num_rows == 0 || p.row_bytes == 0) return cudaSuccess;  // an empty grid is an error
  const auto grid = static_cast<unsigned>(p.num_rows);
  with_widest_vector(
      bits(p.rows) | bits(p.pages) | bits(p.row_bytes) | bits(p.row_stride),
      [&](auto vector) { store_rows_kernel<decltype(vector)><<<grid, kThreads, 0, stream>>>(p); });
  return cudaGetLastError();
}

cudaError_t launch_gather_rows(const GatherRowsParams& p, cudaStream_t stream) {
  if (p.num_rows == 0 || p.row_bytes == 0) return cudaSuccess;  // an empty grid is an error
  const auto grid = static_cast<unsigned>(p.num_rows);
  with_widest_vector(bits(p.pages) | bits(p.rows) | bits(p.row_bytes), [&](auto vector) {
    gather_rows_kernel<decltype(vector)><<<grid, kThreads, 0, stream>>>(p);
  });
  return cudaGetLastError();
}

cudaError_t launch_copy_pages(const CopyPagesParams& p, cudaStream_t stream) {
  if (p.num_slabs == 0 || p.page_bytes == 0) return cudaSuccess;  // an empty grid is an error
  const std::int64_t parts = std::min((p.page_bytes - 1) / kPagePartBytes + 1, kMaxPageParts);
  for (std::int64_t begin = 0; begin < p.num_copies; begin += kCopiesPerLaunch) {
    const std::int64_t count = std::min(p.num_copies - begin, kCopiesPerLaunch);
    PageCopies copies;
    for (std::int64_t i = 0; i < count; ++i) {
      copies.source[i] = static_cast<std::int32_t>(p.source[begin + i]);
      copies.target[i] = static_cast<std::int32_t>(p.target[begin + i]);
    }
    const dim3 grid(static_cast<unsigned>(p.num_slabs), static_cast<unsigned>(count),
                    static_cast<unsigned>(parts));
    with_widest_vector(bits(p.pages) | bits(p.page_bytes), [&](auto vector) {
      copy_pages_kernel<decltype(vector)><<<grid, kThreads, 0, stream>>>(
          static_cast<char*>(p.pages), p.num_pages, p.page_bytes, copies);
    });
    if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace starr::cuda
