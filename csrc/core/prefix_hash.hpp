#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace starr {

// 128-bit name of "these tokens, under this configuration, from position 0 on".
struct PrefixKey {
  std::uint64_t low;
  std::uint64_t high;

  friend bool operator==(const PrefixKey&, const PrefixKey&) = default;
};

// SipHash-2-4 with 128-bit output, written from its specification (Aumasson, Bernstein,
// "SipHash: a fast short-input PRF", 2012, and the 128-bit variant of the same authors).
PrefixKey siphash_128(const PrefixKey& key, std::span<const std::byte> message) noexcept;

// Start of a chain. `identity` is a byte string that must differ whenever KV rows of equal
// tokens may differ: salt of the tenant, model and revision, dtype, mask kind, block length, rope.
PrefixKey root_key(std::string_view identity) noexcept;

// Key of the prefix that is `parent`'s prefix followed by `tokens`.
//
// Keys are compared inside one process only, under secrets that it draws when it starts. Each half
// of a key is a polynomial modulo 2^61 - 1 whose first coefficient is the root and whose others are
// two sums of NH of 32 tokens each (after Krovetz, Dai, "VHASH", 2007: NH, then a polynomial). Sums
// are 64 bits long: 17 differences of them are nothing modulo the prime. Whoever has not seen the
// secrets finds two prefixes of n tokens with one key with a chance below
// ((17 * 2^-32)^2 + n * 2^-65)^2, and the index compares tokens besides.
PrefixKey extend(const PrefixKey& parent, std::span<const std::int32_t> tokens) noexcept;

// The same for as many prefixes as `keys` has room for, each `page_size` tokens longer than the one
// before; the first extends `parent`. `tokens` are (at least) those of all of them.
void extend_pages(const PrefixKey& parent, std::span<const std::int32_t> tokens,
                  std::size_t page_size, std::span<PrefixKey> keys) noexcept;

}  // namespace starr
