#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "cuda_runtime_api.h"

// What nvcc knows in a .cu file without any include, as far as the kernels use it. What is not here
// does not compile.

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(threads)
#define __shared__ static  // rewrite.py declares it to the block as well

#define threadIdx (::simt::thread_index())
#define blockIdx (::simt::block_index())
#define blockDim (::simt::block_size())
#define gridDim (::simt::grid_size())

using std::isinf;

inline int min(int a, int b) { return a < b ? a : b; }
inline int __popc(unsigned bits) { return std::popcount(bits); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline int atomicAdd(int* target, int value) {
  return __atomic_fetch_add(target, value, __ATOMIC_RELAXED);
}

inline void __syncthreads(simt::Place place = simt::Place::current()) {
  simt::wait_for_block(place);
}

inline unsigned __ballot_sync(unsigned lanes, int predicate,
                              simt::Place place = simt::Place::current()) {
  return simt::exchange(lanes, predicate != 0, simt::kVote, place);
}

// A lane that would read beyond the warp gets its own value.
template <typename Value>
Value __shfl_down_sync(unsigned lanes, Value value, int distance,
                       simt::Place place = simt::Place::current()) {
  const int lane = simt::lane_index(), source = lane + distance < 32 ? lane + distance : lane;
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return std::bit_cast<Value>(simt::exchange(lanes, bits, source, place));
}

template <typename Value>
Value __shfl_up_sync(unsigned lanes, Value value, int distance,
                     simt::Place place = simt::Place::current()) {
  const int lane = simt::lane_index(), source = lane >= distance ? lane - distance : lane;
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return std::bit_cast<Value>(simt::exchange(lanes, bits, source, place));
}

namespace simt {

// nvcc refuses shared variables with a constructor.
template <typename Variable>
void declare_shared(const char* name, Variable& variable) {
  static_assert(std::is_trivially_default_constructible_v<Variable>);
  declare_shared(name, &variable, sizeof variable);
}

// What rewrite.py makes of kernel<<<grid, block, shared, stream>>>.
template <typename... Parameters>
auto launcher(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
              std::size_t dynamic_shared_bytes, cudaStream_t) {
  return [=](const Parameters&... arguments) {
    const auto run_thread = [&] { kernel(arguments...); };
    launch(
        {name, grid, block, dynamic_shared_bytes, sizeof(std::tuple<Parameters...>), run_thread});
  };
}

}  // namespace simt
