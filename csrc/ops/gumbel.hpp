#pragma once

#include <cmath>
#include <cstdint>

#include "ops/host_device.hpp"

// Gumbel noise that CPU code and kernels share: a hash, so that who asks for a token's noise needs
// no other's, and every device has the same.
namespace starr {

// Output number `token` of SplitMix64 (Steele, Lea, Flood 2014) with this state.
STARR_HOST_DEVICE inline std::uint64_t random_bits(std::uint64_t key, std::int64_t token) {
  std::uint64_t x = key + (static_cast<std::uint64_t>(token) + 1) * 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

inline constexpr int kUniformBits = 52;

// -log(-log u) with u in (0, 1), halfway between neighbours of a grid of 2^-52: finite.
STARR_HOST_DEVICE inline double gumbel(std::uint64_t bits) {
  constexpr double kStep = 1.0 / (std::uint64_t{1} << kUniformBits);
  const double u = (static_cast<double>(bits >> (64 - kUniformBits)) + 0.5) * kStep;
  return -std::log(-std::log(u));
}

// At least gumbel(bits), without a logarithm: -log u >= 1 - u, which with n leading ones in `bits`
// is at least 2^-(n + 1). Above by a little, because logarithms are rounded.
STARR_HOST_DEVICE inline double gumbel_bound(std::uint64_t bits) {
  constexpr double kLog2 = 0.6931471805599453 * (1.0 + 1e-12);
  const std::uint64_t zeros = ~bits | std::uint64_t{1} << (63 - kUniformBits);
#if defined(__CUDA_ARCH__)
  return (__clzll(static_cast<long long>(zeros)) + 1) * kLog2;
#else
  return (__builtin_clzll(zeros) + 1) * kLog2;
#endif
}

}  // namespace starr
