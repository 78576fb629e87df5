#include "ops/cuda/row_similarity.cuh"
#include "ops/cuda/widen.cuh"
#include "ops/row_products.hpp"

namespace starr::cuda {
namespace {

// A row of K * D = 1024 bfloat16 takes one round of 16-byte loads.
constexpr int kThreads = 128;

template <typename Value, int kWidth>
struct alignas(sizeof(Value) * kWidth) Pack {
  Value lanes[kWidth];
};

__device__ RowProducts sum_over_warp(RowProducts products) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    products.mixed += __shfl_down_sync(kAllLanes, products.mixed, distance);
    products.first += __shfl_down_sync(kAllLanes, products.first, distance);
    products.second += __shfl_down_sync(kAllLanes, products.second, distance);
  }
  return products;
}

// Grid: one thread block per row. Bound by memory: each value is read once.
template <typename Value, int kWidth>
__global__ __launch_bounds__(kThreads) void row_similarity_kernel(const RowSimilarityParams p) {
  const std::int64_t row = blockIdx.x;
  const std::int64_t slot = p.slots[row];
  if (slot < 0) {
    if (threadIdx.x == 0) p.similarity[row] = 1.0f;
    return;
  }
  using Values = Pack<Value, kWidth>;
  const auto* fresh =
      reinterpret_cast<const Values*>(static_cast<const Value*>(p.rows) + row * p.row_stride);
  const auto* cached =
      reinterpret_cast<const Values*>(static_cast<const Value*>(p.cache) + slot * p.row_size);
  RowProducts products{0.0f, 0.0f, 0.0f};
  for (std::int64_t i = threadIdx.x; i < p.row_size / kWidth; i += kThreads) {
    const Values a = fresh[i], b = cached[i];
#pragma unroll
    for (int lane = 0; lane < kWidth; ++lane) {
      const float x = widen(a.lanes[lane]), y = widen(b.lanes[lane]);
      products.mixed += x * y;
      products.first += x * x;
      products.second += y * y;
    }
  }

  __shared__ RowProducts warps[kThreads / kWarp];
  products = sum_over_warp(products);
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = products;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kThreads / kWarp; ++warp) {
    products.mixed += warps[warp].mixed;
    products.first += warps[warp].first;
    products.second += warps[warp].second;
  }
  p.similarity[row] = products.cosine();
}

// 16-byte loads where every row is aligned to them, or else value by value.
template <typename Value>
void launch(const RowSimilarityParams& p, cudaStream_t stream) {
  constexpr int kWidth = sizeof(uint4) / sizeof(Value);
  const auto grid = static_cast<unsigned>(p.num_rows);
  const bool is_aligned =
      (reinterpret_cast<std::uintptr_t>(p.rows) | reinterpret_cast<std::uintptr_t>(p.cache)) %
              sizeof(uint4) ==
          0 &&
      p.row_size % kWidth == 0 && p.row_stride % kWidth == 0;
  if (is_aligned) {
    row_similarity_kernel<Value, kWidth><<<grid, kThreads, 0, stream>>>(p);
  } else {
    row_similarity_kernel<Value, 1><<<grid, kThreads, 0, stream>>>(p);
  }
}

}  // namespace

cudaError_t launch_row_similarity(const RowSimilarityParams& p, cudaStream_t stream) {
  if (p.num_rows == 0) return cudaSuccess;  // an empty grid is a launch error
  switch (p.dtype) {
    case RowDtype::kFloat32:
      launch<float>(p, stream);
      break;
    case RowDtype::kBFloat16:
      launch<__nv_bfloat16>(p, stream);
      break;
    case RowDtype::kFloat16:
      launch<__half>(p, stream);
      break;
  }
  return cudaGetLastError();
}

}  // namespace starr::cuda
