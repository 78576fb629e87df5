#pragma once

#include <cstdint>
#include <cstring>

// Three copies of each function that carries this are compiled, and the loader picks the one for
// the machine: AVX-512, AVX2 with FMA, or plain SSE2. Wheels need no -march.
#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && __GNUC__ >= 12
#define STARR_FOR_EACH_CPU \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define STARR_FOR_EACH_CPU
#endif

#define STARR_INLINE inline __attribute__((always_inline))

namespace starr::cpu {

// The compiler's vector types: one, two or four machine vectors each, whatever the machine.
constexpr int kLanes = 16;
using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));
using Ints = std::int32_t __attribute__((vector_size(kLanes * sizeof(std::int32_t))));

STARR_INLINE Floats load(const float* from) {
  Floats lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

}  // namespace starr::cpu
