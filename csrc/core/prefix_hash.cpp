#include "core/prefix_hash.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <random>

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
  PrefixKey hash;
  hash.low = state.squeeze();
  state.v1 ^= 0xdd;
  hash.high = state.squeeze();
  return hash;
}

namespace {

__extension__ using Wide = unsigned __int128;

constexpr std::uint64_t kPrime = (std::uint64_t{1} << 61) - 1;

// Of a number below 2^124.
std::uint64_t reduce(Wide value) noexcept {
  std::uint64_t folded =
      (static_cast<std::uint64_t>(value) & kPrime) + static_cast<std::uint64_t>(value >> 61);
  folded = (folded & kPrime) + (folded >> 61);
  return folded >= kPrime ? folded - kPrime : folded;
}

constexpr std::size_t kChunk = 32;  // tokens that become coefficients at once
constexpr std::size_t kWords = kChunk / 2;

// Secrets of one half of a key.
struct Lane {
  std::array<std::uint64_t, kWords> words;  // of NH
  std::array<std::uint64_t, 3> powers;      // x, x^2, x^3 modulo the prime
};

Lane draw_lane() {
  std::random_device source;
  const auto draw = [&] { return (std::uint64_t{source()} << 32) | source(); };
  Lane lane;
  for (std::uint64_t& word : lane.words) word = draw();
  const std::uint64_t x = reduce(draw());
  const std::uint64_t square = reduce(Wide{x} * x);
  lane.powers = {x, square, reduce(Wide{square} * x)};
  return lane;
}

const std::array<Lane, 2> kLanes = {draw_lane(), draw_lane()};

// NH of a chunk of tokens.
Wide nh(const Lane& lane, const std::int32_t* tokens) noexcept {
  const auto word = [&](std::size_t i) {
    std::uint64_t pair;
    std::memcpy(&pair, tokens + 2 * i, sizeof(pair));
    return pair + lane.words[i];
  };
  Wide sum = 0;
  for (std::size_t i = 0; i < kWords; i += 2) sum += Wide{word(i)} * word(i + 1);
  return sum;
}

// Three steps of Horner's rule at once. The sum stays below 2^124: three products of numbers below
// 2^61, and one such number.
std::uint64_t append(const Lane& lane, std::uint64_t half, Wide sum,
                     std::uint64_t num_tokens) noexcept {
  const auto low = static_cast<std::uint64_t>(sum) & kPrime;
  const auto middle = static_cast<std::uint64_t>(sum >> 61) & kPrime;
  // Chunks that are not full are padded with zeros: their number must tell them apart.
  const std::uint64_t high = static_cast<std::uint64_t>(sum >> 122) + (num_tokens << 6);
  return reduce(Wide{half} * lane.powers[2] + Wide{high} * lane.powers[1] +
                Wide{middle} * lane.powers[0] + low);
}

PrefixKey extend_chunk(const PrefixKey& parent, const std::int32_t* tokens,
                       std::uint64_t num_tokens) noexcept {
  const Wide first = nh(kLanes[0], tokens);
  const Wide second = nh(kLanes[1], tokens);
  return {append(kLanes[0], parent.low, first, num_tokens),
          append(kLanes[1], parent.high, second, num_tokens)};
}

}  // namespace

PrefixKey root_key(std::string_view identity) noexcept {
  const PrefixKey key =
      siphash_128(kRootDomain, std::as_bytes(std::span(identity.data(), identity.size())));
  return {reduce(key.low), reduce(key.high)};
}

PrefixKey extend(const PrefixKey& parent, std::span<const std::int32_t> tokens) noexcept {
  PrefixKey key = parent;
  std::array<std::int32_t, kChunk> padded;
  for (std::size_t at = 0; at < tokens.size(); at += kChunk) {
    const std::size_t count = std::min(kChunk, tokens.size() - at);
    const std::int32_t* chunk = tokens.data() + at;
    if (count < kChunk) {
      padded.fill(0);
      std::copy_n(chunk, count, padded.begin());
      chunk = padded.data();
    }
    key = extend_chunk(key, chunk, count);
  }
  return key;
}

}  // namespace starr
