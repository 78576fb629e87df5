#include "core/prefix_hash.hpp"

#include <bit>
#include <cstring>

namespace starr {
namespace {

// Keys are compared only inside one process, but tests hold them to the published vectors.
static_assert(std::endian::native == std::endian::little, "words are read in memory order");

// Separates root keys from page keys; any constant does.
constexpr PrefixKey kRootDomain{0x7374617272726f6fULL, 0x745f6b65795f7631ULL};

template <int kPerWord, int kAtEnd>
struct SipState {
  std::uint64_t v0, v1, v2, v3;

  void round() noexcept {
    v0 += v1;
    v1 = std::rotl(v1, 13) ^ v0;
    v0 = std::rotl(v0, 32);
    v2 += v3;
    v3 = std::rotl(v3, 16) ^ v2;
    v0 += v3;
    v3 = std::rotl(v3, 21) ^ v0;
    v2 += v1;
    v1 = std::rotl(v1, 17) ^ v2;
    v2 = std::rotl(v2, 32);
  }

  void absorb(std::uint64_t word) noexcept {
    v3 ^= word;
    for (int i = 0; i < kPerWord; ++i) round();
    v0 ^= word;
  }

  std::uint64_t squeeze() noexcept {
    for (int i = 0; i < kAtEnd; ++i) round();
    return v0 ^ v1 ^ v2 ^ v3;
  }
};

template <int kPerWord, int kAtEnd>
PrefixKey hash_128(const PrefixKey& key, std::span<const std::byte> message) noexcept {
  // The four constants spell "somepseudorandomlygeneratedbytes"; 0xee marks 128-bit output.
  SipState<kPerWord, kAtEnd> state{
      0x736f6d6570736575ULL ^ key.low, 0x646f72616e646f6dULL ^ key.high ^ 0xee,
      0x6c7967656e657261ULL ^ key.low, 0x7465646279746573ULL ^ key.high};
  const std::size_t whole = message.size() / 8 * 8;
  for (std::size_t i = 0; i < whole; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, message.data() + i, 8);
    state.absorb(word);
  }
  std::uint64_t last = static_cast<std::uint64_t>(message.size()) << 56;
  for (std::size_t i = whole; i < message.size(); ++i) {
    last |= std::to_integer<std::uint64_t>(message[i]) << (8 * (i - whole));
  }
  state.absorb(last);
  state.v2 ^= 0xee;
  PrefixKey hash;
  hash.low = state.squeeze();
  state.v1 ^= 0xdd;
  hash.high = state.squeeze();
  return hash;
}

}  // namespace

PrefixKey siphash_128(const PrefixKey& key, std::span<const std::byte> message,
                      SipRounds rounds) noexcept {
  return rounds == SipRounds::k2And4 ? hash_128<2, 4>(key, message) : hash_128<1, 3>(key, message);
}

PrefixKey root_key(std::string_view identity) noexcept {
  return siphash_128(kRootDomain, std::as_bytes(std::span(identity.data(), identity.size())),
                     SipRounds::k1And3);
}

PrefixKey extend(const PrefixKey& parent, std::span<const std::int32_t> tokens) noexcept {
  // Every hit compares tokens too, so that the hash only has to spread and to keep its secret.
  return siphash_128(parent, std::as_bytes(tokens), SipRounds::k1And3);
}

}  // namespace starr
