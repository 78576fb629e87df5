#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#define STARR_NH_AVX2 1
#include <immintrin.h>
// For functions that call nh_avx2(), so that it becomes part of them.
#define STARR_AVX2 __attribute__((target("avx2,bmi2")))
#endif

namespace starr {

inline constexpr std::size_t kNhTokens = 32;  // hashed at once
inline constexpr std::size_t kNhSums = 4;

using NhWords = std::array<std::array<std::uint32_t, kNhTokens>, kNhSums>;
using NhHash = std::array<std::uint64_t, kNhSums>;

// NH (Black, Halevi, Krawczyk, Krovetz, Rogaway, "UMAC", 1999) of kNhTokens tokens under each of
// the secret words: sum over j < 16 of (t[j] + w[j]) * (t[j + 16] + w[j + 16]), where the brackets
// are taken modulo 2^32 and the sum modulo 2^64. Whoever does not know the words finds two contents
// whose sums differ by a given number with a chance of at most 2^-32.
inline NhHash nh_scalar(const NhWords& words, const std::int32_t* tokens) noexcept {
  constexpr std::size_t kPairs = kNhTokens / 2;
  NhHash hash{};
  for (std::size_t lane = 0; lane < kNhSums; ++lane) {
    const std::uint32_t* w = words[lane].data();
    for (std::size_t j = 0; j < kPairs; ++j) {
      const std::uint32_t first = static_cast<std::uint32_t>(tokens[j]) + w[j];
      const std::uint32_t second = static_cast<std::uint32_t>(tokens[j + kPairs]) + w[j + kPairs];
      hash[lane] += std::uint64_t{first} * second;
    }
  }
  return hash;
}

#ifdef STARR_NH_AVX2

STARR_AVX2 [[gnu::always_inline]] inline __m256i nh_load(const void* eight) noexcept {
  return _mm256_loadu_si256(static_cast<const __m256i*>(eight));
}

// Sums of the four products of the even lanes and the four of the odd ones.
STARR_AVX2 [[gnu::always_inline]] inline __m256i nh_products(__m256i a, __m256i b) noexcept {
  return _mm256_add_epi64(_mm256_mul_epu32(a, b),
                          _mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32)));
}

STARR_AVX2 [[gnu::always_inline]] inline __m256i nh_pair_sums(__m256i a, __m256i b) noexcept {
  return _mm256_add_epi64(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

// The same in vector instructions; compilers make several times as many of the plain loop.
STARR_AVX2 [[gnu::always_inline]] inline NhHash nh_avx2(const NhWords& words,
                                                        const std::int32_t* tokens) noexcept {
  // Not in an array: GCC 12 would fill it through memory, in halves.
  const __m256i t0 = nh_load(tokens);
  const __m256i t1 = nh_load(tokens + 8);
  const __m256i t2 = nh_load(tokens + 16);
  const __m256i t3 = nh_load(tokens + 24);
  __m256i sums[kNhSums];
  for (std::size_t lane = 0; lane < kNhSums; ++lane) {
    const std::uint32_t* w = words[lane].data();
    sums[lane] = _mm256_add_epi64(
        nh_products(_mm256_add_epi32(t0, nh_load(w)), _mm256_add_epi32(t2, nh_load(w + 16))),
        nh_products(_mm256_add_epi32(t1, nh_load(w + 8)), _mm256_add_epi32(t3, nh_load(w + 24))));
  }
  const __m256i low = nh_pair_sums(sums[0], sums[1]);
  const __m256i high = nh_pair_sums(sums[2], sums[3]);
  NhHash hash;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(hash.data()),
                      _mm256_add_epi64(_mm256_permute2x128_si256(low, high, 0x20),
                                       _mm256_permute2x128_si256(low, high, 0x31)));
  return hash;
}

#endif

}  // namespace starr
