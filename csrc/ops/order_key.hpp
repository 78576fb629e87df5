#pragma once

#include <cstdint>
#include <cstring>

#include "ops/host_device.hpp"

namespace starr {

// An integer that sorts as select_lowest wants the values: NaN, then ascending, -0 as 0. No value
// has the largest one.
STARR_HOST_DEVICE inline std::uint32_t order_key(float value) {
  if (value != value) return 0;
  const float unsigned_zero = value + 0.0f;
  std::uint32_t bits;
  memcpy(&bits, &unsigned_zero, sizeof bits);
  constexpr std::uint32_t kSign = 1u << 31;
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

// The number, not a NaN, that has this key.
STARR_HOST_DEVICE inline float value_of_key(std::uint32_t key) {
  constexpr std::uint32_t kSign = 1u << 31;
  const std::uint32_t bits = (key & kSign) != 0 ? key & ~kSign : ~key;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace starr
