#include <algorithm>

#include "ops/cuda/select_lowest.cuh"
#include "ops/cuda/widen.cuh"
#include "ops/order_key.hpp"

namespace starr::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;
static_assert(kDigits == kThreads, "each thread clears one counter");

// The arguments of a kernel may take 4 KiB.
constexpr std::int64_t kSegmentsPerLaunch = 192;
struct Segments {
  std::int32_t begin[kSegmentsPerLaunch];
  std::int32_t length[kSegmentsPerLaunch];
  std::int32_t count[kSegmentsPerLaunch];   // how many to select
  std::int32_t output[kSegmentsPerLaunch];  // where they go
};

// The largest key that is selected, and how many that have it are.
struct Threshold {
  std::uint32_t key;
  int num_equal;
};

// The digit of the count-th smallest key, given how many keys have which, and how many of the
// count have this digit; by the first warp alone, each lane for its share of the digits.
__device__ void find_digit(const int* histogram, int count, int* digit_found, int* count_in_digit) {
  constexpr int kShare = kDigits / kWarp;
  const int lane = static_cast<int>(threadIdx.x), first = lane * kShare;
  int mine = 0;
  for (int digit = first; digit < first + kShare; ++digit) mine += histogram[digit];
  int through = mine;
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int lower = __shfl_up_sync(kAllLanes, through, distance);
    if (lane >= distance) through += lower;
  }
  int before = through - mine;
  if (before >= count || through < count) return;  // true in all lanes but one
  int digit = first;
  while (before + histogram[digit] < count) before += histogram[digit++];
  *digit_found = digit;
  *count_in_digit = count - before;
}

// The count-th smallest key, 8 bits at a time from the top: only keys with the digits found so far
// are counted.
__device__ Threshold find_threshold(const float* values, int length, int count) {
  __shared__ int histogram[kDigits];
  __shared__ int digit, count_in_digit;
  std::uint32_t found = 0, found_mask = 0;
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < length; i += kThreads) {
      const std::uint32_t key = order_key(values[i]);
      if ((key & found_mask) == found) atomicAdd(&histogram[key >> shift & (kDigits - 1)], 1);
    }
    __syncthreads();
    if (threadIdx.x < kWarp) find_digit(histogram, count, &digit, &count_in_digit);
    __syncthreads();
    found |= static_cast<std::uint32_t>(digit) << shift;
    found_mask |= static_cast<std::uint32_t>(kDigits - 1) << shift;
    count = count_in_digit;
  }
  return {found, count};
}

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
  const Threshold threshold = find_threshold(values, length, count);

  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
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
