#include <algorithm>

#include "ops/cuda/radix_select.cuh"
#include "ops/cuda/select_lowest.cuh"
#include "ops/cuda/widen.cuh"
#include "ops/order_key.hpp"

namespace starr::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
static_assert(kThreads >= kDigits, "each digit has a thread");

// The arguments of a kernel may take 4 KiB.
constexpr std::int64_t kSegmentsPerLaunch = 192;
struct Segments {
  std::int32_t begin[kSegmentsPerLaunch];
  std::int32_t length[kSegmentsPerLaunch];
  std::int32_t count[kSegmentsPerLaunch];   // how many to select
  std::int32_t output[kSegmentsPerLaunch];  // where they go
};

// Grid: one thread block per segment. A segment is a few kB and stays in the cache between its
// readings. Indices come out in order, so that a run repeats.
__global__ __launch_bounds__(kThreads) void select_lowest_kernel(const float* all_values,
                                                                 const Segments segments,
                                                                 std::int64_t* all_selected) {
  __shared__ int lower_in_warp[kWarps], equal_in_warp[kWarps];
  const int begin = segments.begin[blockIdx.x], length = segments.length[blockIdx.x];
  const int count = segments.count[blockIdx.x];
  if (count == 0) return;
  const float* values = all_values + begin;
  std::int64_t* selected = all_selected + segments.output[blockIdx.x];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const Threshold threshold = find_threshold(count, [&](const auto& add) {
    for (int i = thread; i < length; i += kThreads) add(order_key(values[i]));
  });
  const unsigned lanes_before = (1u << lane) - 1;
  int num_lower = 0, num_equal = 0;  // in the rounds before this one
  for (int first = 0; first < length; first += kThreads) {
    const int i = first + thread;
    const std::uint32_t key = i < length ? order_key(values[i]) : ~0u;  // that no value has
    const bool is_lower = key < threshold.key, is_equal = key == threshold.key;
    const unsigned lower = __ballot_sync(kAllLanes, is_lower);
    const unsigned equal = __ballot_sync(kAllLanes, is_equal);
    if (lane == 0) {
      lower_in_warp[warp] = __popc(lower);
      equal_in_warp[warp] = __popc(equal);
    }
    __syncthreads();
    int lower_before = num_lower + __popc(lower & lanes_before);
    int equal_before = num_equal + __popc(equal & lanes_before);
    for (int other = 0; other < kWarps; ++other) {
      lower_before += other < warp ? lower_in_warp[other] : 0;
      equal_before += other < warp ? equal_in_warp[other] : 0;
      num_lower += lower_in_warp[other];
      num_equal += equal_in_warp[other];
    }
    if (is_lower || (is_equal && equal_before < threshold.num_equal)) {
      selected[lower_before + min(equal_before, threshold.num_equal)] = begin + i;
    }
    __syncthreads();  // the counts are read before the next round writes them
  }
}

}  // namespace

cudaError_t launch_select_lowest(const SelectLowestParams& p, cudaStream_t stream) {
  std::int64_t output = 0;
  for (std::int64_t first = 0; first < p.num_segments; first += kSegmentsPerLaunch) {
    const std::int64_t size = std::min(p.num_segments - first, kSegmentsPerLaunch);
    Segments segments;
    for (std::int64_t i = 0; i < size; ++i) {
      const std::int64_t r = first + i;
      segments.begin[i] = static_cast<std::int32_t>(p.cu_rows[r]);
      segments.length[i] = static_cast<std::int32_t>(p.cu_rows[r + 1] - p.cu_rows[r]);
      segments.count[i] = static_cast<std::int32_t>(p.counts[r]);
      segments.output[i] = static_cast<std::int32_t>(output);
      output += p.counts[r];
    }
    select_lowest_kernel<<<static_cast<unsigned>(size), kThreads, 0, stream>>>(p.values, segments,
                                                                               p.selected);
    if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace starr::cuda
