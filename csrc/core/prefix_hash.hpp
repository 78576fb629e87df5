#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace starr {

// 128-bit name of "these tokens, under this configuration, from position 0 on".
struct PrefixKey {
  std::uint64_t low = 0;
  std::uint64_t high = 0;

  friend bool operator==(const PrefixKey&, const PrefixKey&) = default;
};

// Rounds per word and at the end: 2 and 4 are those of the published test vectors, 1 and 3 those
// that hash tables use, in half the time.
enum class SipRounds { k2And4, k1And3 };

// SipHash with 128-bit output, written from its specification (Aumasson, Bernstein,
// "SipHash: a fast short-input PRF", 2012, and the 128-bit variant of the same authors).
PrefixKey siphash_128(const PrefixKey& key, std::span<const std::byte> message,
                      SipRounds rounds) noexcept;

// Start of a chain. `identity` is a byte string that must differ whenever KV rows of equal
// tokens may differ: salt of the tenant, model and revision, dtype, mask kind, block length, rope.
PrefixKey root_key(std::string_view identity) noexcept;

// Key of the prefix that is `parent`'s prefix followed by `tokens`.
//
// The parent is the hash's secret key, so whoever does not know the salt in the root can
// neither predict a key nor search for a collision.
PrefixKey extend(const PrefixKey& parent, std::span<const std::int32_t> tokens) noexcept;

}  // namespace starr
