#include "core/prefix_hash.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <random>

#include "core/nh.hpp"

namespace starr {
namespace {

// Keys are compared only inside one process, but tests hold them to the published vectors.
static_assert(std::endian::native == std::endian::little, "words are read in memory order");

// Separates root keys from page keys; any constant does.
constexpr PrefixKey kRootDomain{0x7374617272726f6fULL, 0x745f6b65795f7631ULL};

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
    for (int i = 0; i < 2; ++i) round();
    v0 ^= word;
  }

  std::uint64_t squeeze() noexcept {
    for (int i = 0; i < 4; ++i) round();
    return v0 ^ v1 ^ v2 ^ v3;
  }
};

}  // namespace

PrefixKey siphash_128(const PrefixKey& key, std::span<const std::byte> message) noexcept {
  // The four constants spell "somepseudorandomlygeneratedbytes"; 0xee marks 128-bit output.
  SipState state{0x736f6d6570736575ULL ^ key.low, 0x646f72616e646f6dULL ^ key.high ^ 0xee,
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
  PrefixKey hash{};
  hash.low = state.squeeze();
  state.v1 ^= 0xdd;
  hash.high = state.squeeze();
  return hash;
}

namespace {

__extension__ using Wide = unsigned __int128;

constexpr std::uint64_t kPrime = (std::uint64_t{1} << 61) - 1;

// Of a number below 2^124.
inline std::uint64_t reduce(Wide value) noexcept {
  std::uint64_t folded =
      (static_cast<std::uint64_t>(value) & kPrime) + static_cast<std::uint64_t>(value >> 61);
  folded = (folded & kPrime) + (folded >> 61);
  return folded >= kPrime ? folded - kPrime : folded;
}

struct Secrets {
  NhWords words;
  std::array<std::array<std::uint64_t, 2>, 2> powers;  // of each half: x, x^2 modulo the prime
};

Secrets draw_secrets() {
  std::random_device source;
  Secrets secrets;
  for (auto& words : secrets.words) {
    for (std::uint32_t& word : words) word = source();
  }
  for (auto& powers : secrets.powers) {
    const std::uint64_t x = reduce((std::uint64_t{source()} << 32) | source());
    powers = {x, reduce(Wide{x} * x)};
  }
  return secrets;
}

const Secrets kSecrets = draw_secrets();

// Below 2^61 + 8, and equal to `value` modulo the prime.
inline std::uint64_t fold(std::uint64_t value) noexcept { return (value & kPrime) + (value >> 61); }

// Two steps of Horner's rule at once. The sum stays below 2^124.
inline std::uint64_t append(const std::array<std::uint64_t, 2>& powers, std::uint64_t half,
                            std::uint64_t first, std::uint64_t second) noexcept {
  return reduce(Wide{half} * powers[1] + Wide{fold(first)} * powers[0] + fold(second));
}

// Chunks that are not full are padded with zeros: their number must tell them apart.
inline PrefixKey append_sums(const PrefixKey& parent, const NhHash& sums,
                             std::uint64_t num_tokens) noexcept {
  return {append(kSecrets.powers[0], parent.low, sums[0], fold(sums[1]) + num_tokens),
          append(kSecrets.powers[1], parent.high, sums[2], fold(sums[3]) + num_tokens)};
}

// Keys of the prefixes that grow by `key_chunks` chunks each. Chunks hold `num_tokens` tokens.
void extend_chunks(PrefixKey key, const std::int32_t* tokens, std::size_t key_chunks,
                   std::uint64_t num_tokens, std::span<PrefixKey> keys) noexcept {
  for (PrefixKey& extended : keys) {
    for (std::size_t i = 0; i < key_chunks; ++i, tokens += kNhTokens) {
      key = append_sums(key, nh_scalar(kSecrets.words, tokens), num_tokens);
    }
    extended = key;
  }
}

#ifdef STARR_NH_AVX2

STARR_AVX2 void extend_chunks_avx2(PrefixKey key, const std::int32_t* tokens,
                                   std::size_t key_chunks, std::uint64_t num_tokens,
                                   std::span<PrefixKey> keys) noexcept {
  for (PrefixKey& extended : keys) {
    for (std::size_t i = 0; i < key_chunks; ++i, tokens += kNhTokens) {
      key = append_sums(key, nh_avx2(kSecrets.words, tokens), num_tokens);
    }
    extended = key;
  }
}

const auto kExtendChunks = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")
                               ? extend_chunks_avx2
                               : extend_chunks;

#else

constexpr auto kExtendChunks = extend_chunks;

#endif

}  // namespace

PrefixKey root_key(std::string_view identity) noexcept {
  const PrefixKey key =
      siphash_128(kRootDomain, std::as_bytes(std::span(identity.data(), identity.size())));
  return {reduce(key.low), reduce(key.high)};
}

PrefixKey extend(const PrefixKey& parent, std::span<const std::int32_t> tokens) noexcept {
  PrefixKey key = parent;
  const std::size_t rest = tokens.size() % kNhTokens;
  const std::size_t whole = tokens.size() - rest;
  if (whole != 0) {
    kExtendChunks(key, tokens.data(), whole / kNhTokens, kNhTokens, std::span(&key, 1));
  }
  if (rest != 0) {
    std::array<std::int32_t, kNhTokens> padded{};
    std::copy_n(tokens.data() + whole, rest, padded.begin());
    kExtendChunks(key, padded.data(), 1, rest, std::span(&key, 1));
  }
  return key;
}

void extend_pages(const PrefixKey& parent, std::span<const std::int32_t> tokens,
                  std::size_t page_size, std::span<PrefixKey> keys) noexcept {
  if (page_size % kNhTokens == 0) {
    kExtendChunks(parent, tokens.data(), page_size / kNhTokens, kNhTokens, keys);
    return;
  }
  PrefixKey key = parent;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    key = keys[i] = extend(key, tokens.subspan(i * page_size, page_size));
  }
}

}  // namespace starr
