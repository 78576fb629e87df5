#pragma once

#include <bit>
#include <cstdint>

// Stands in for CUDA's header of this name, as far as the product uses it.

struct __nv_bfloat16 {
  std::uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 value) {
  return std::bit_cast<float>(std::uint32_t{value.bits} << 16);
}
