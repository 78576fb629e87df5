#include "core/nh.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#define STARR_NH_AVX2 1
#include <immintrin.h>
#endif

namespace starr {
namespace {

constexpr std::size_t kPairs = kNhTokens / 2;

#ifdef STARR_NH_AVX2

// Compilers make several times as many instructions of the plain loop.
#define STARR_AVX2 __attribute__((target("avx2")))

STARR_AVX2 inline __attribute__((always_inline)) __m256i load(const void* eight) noexcept {
  return _mm256_loadu_si256(static_cast<const __m256i*>(eight));
}

// Sums of the four products of the even lanes and the four of the odd ones.
STARR_AVX2 inline __attribute__((always_inline)) __m256i products(__m256i a, __m256i b) noexcept {
  return _mm256_add_epi64(_mm256_mul_epu32(a, b),
                          _mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32)));
}

STARR_AVX2 inline __attribute__((always_inline)) __m256i pair_sums(__m256i a, __m256i b) noexcept {
  return _mm256_add_epi64(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

STARR_AVX2 NhHash nh_avx2(const NhWords& words, const std::int32_t* tokens) noexcept {
  // Not in an array: GCC 12 would fill it through memory, in halves.
  const __m256i t0 = load(tokens);
  const __m256i t1 = load(tokens + 8);
  const __m256i t2 = load(tokens + 16);
  const __m256i t3 = load(tokens + 24);
  __m256i sums[kNhSums];
  for (std::size_t lane = 0; lane < kNhSums; ++lane) {
    const std::uint32_t* w = words[lane].data();
    sums[lane] = _mm256_add_epi64(
        products(_mm256_add_epi32(t0, load(w)), _mm256_add_epi32(t2, load(w + 16))),
        products(_mm256_add_epi32(t1, load(w + 8)), _mm256_add_epi32(t3, load(w + 24))));
  }
  const __m256i low = pair_sums(sums[0], sums[1]);
  const __m256i high = pair_sums(sums[2], sums[3]);
  NhHash hash;
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(hash.data()),
                      _mm256_add_epi64(_mm256_permute2x128_si256(low, high, 0x20),
                                       _mm256_permute2x128_si256(low, high, 0x31)));
  return hash;
}

const bool kHasAvx2 = __builtin_cpu_supports("avx2");

#endif

}  // namespace

NhHash nh_scalar(const NhWords& words, const std::int32_t* tokens) noexcept {
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

NhHash nh(const NhWords& words, const std::int32_t* tokens) noexcept {
#ifdef STARR_NH_AVX2
  if (kHasAvx2) return nh_avx2(words, tokens);
#endif
  return nh_scalar(words, tokens);
}

}  // namespace starr
