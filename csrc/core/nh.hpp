#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace starr {

inline constexpr std::size_t kNhTokens = 32;  // hashed at once
inline constexpr std::size_t kNhSums = 4;

using NhWords = std::array<std::array<std::uint32_t, kNhTokens>, kNhSums>;
using NhHash = std::array<std::uint64_t, kNhSums>;

// NH (Black, Halevi, Krawczyk, Krovetz, Rogaway, "UMAC", 1999) of kNhTokens tokens under each of
// the secret words: sum over j < 16 of (t[j] + w[j]) * (t[j + 16] + w[j + 16]), where the brackets
// are taken modulo 2^32 and the sum modulo 2^64. Whoever does not know the words finds two contents
// whose sums differ by a given number with a chance of at most 2^-32.
NhHash nh(const NhWords& words, const std::int32_t* tokens) noexcept;

// The same without vector instructions; what nh() calls where there are none that it knows.
NhHash nh_scalar(const NhWords& words, const std::int32_t* tokens) noexcept;

}  // namespace starr
