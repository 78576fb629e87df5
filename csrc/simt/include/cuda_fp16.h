#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

// Stands in for CUDA's header of this name, as far as the product uses it.

struct __half {
  std::uint16_t bits;
};

inline float __half2float(__half value) {
  const int exponent = value.bits >> 10 & 31, mantissa = value.bits & 1023;
  float size = std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  if (exponent == 0) size = std::ldexp(static_cast<float>(mantissa), -24);
  if (exponent == 31) {
    using Limits = std::numeric_limits<float>;
    size = mantissa == 0 ? Limits::infinity() : Limits::quiet_NaN();
  }
  return (value.bits >> 15) != 0 ? -size : size;
}
