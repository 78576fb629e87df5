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

}  // namespace starr::cuda
