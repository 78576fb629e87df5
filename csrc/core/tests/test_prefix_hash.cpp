#include <array>
#include <cstring>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "check.hpp"
#include "core/nh.hpp"
#include "core/prefix_hash.hpp"

namespace {

using starr::PrefixKey;

// Published vectors of SipHash-2-4-128: key 00 01 .. 0f, message 00 01 .. (n - 1).
void siphash_equals_the_published_vectors() {
  const std::array<unsigned char, 16> empty = {0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6,
                                               0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93};
  const std::array<unsigned char, 16> one = {0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44,
                                             0x34, 0x76, 0x59, 0x11, 0x9b, 0x22, 0xfc, 0x45};
  PrefixKey key{};
  std::array<std::byte, 16> counting;
  for (std::size_t i = 0; i < 16; ++i) counting[i] = static_cast<std::byte>(i);
  std::memcpy(&key, counting.data(), sizeof(key));
  const PrefixKey of_empty = starr::siphash_128(key, {});
  const PrefixKey of_one = starr::siphash_128(key, std::span(counting).first(1));
  CHECK(std::memcmp(&of_empty, empty.data(), 16) == 0);
  CHECK(std::memcmp(&of_one, one.data(), 16) == 0);
}

void every_message_length_and_bit_changes_the_hash() {
  std::set<std::pair<std::uint64_t, std::uint64_t>> seen;
  std::vector<std::byte> message;
  for (std::size_t length = 0; length < 40; ++length) {
    const PrefixKey zeros = starr::siphash_128({1, 2}, message);
    CHECK(seen.emplace(zeros.low, zeros.high).second);
    for (std::size_t bit = 0; bit < 8 * length; ++bit) {
      const auto flip = static_cast<std::byte>(1U << (bit % 8));
      message[bit / 8] ^= flip;
      const PrefixKey flipped = starr::siphash_128({1, 2}, message);
      CHECK(seen.emplace(flipped.low, flipped.high).second);
      message[bit / 8] ^= flip;
    }
    message.push_back(std::byte{0});
  }
}

#ifdef STARR_NH_AVX2
STARR_AVX2 void vectors_and_scalars_make_the_same_sums() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2")) return;
  std::mt19937 draw(0);
  starr::NhWords words;
  std::array<std::int32_t, starr::kNhTokens + 1> tokens;
  for (int round = 0; round < 1000; ++round) {
    for (auto& lane : words) {
      for (std::uint32_t& word : lane) word = round == 0 ? ~0U : static_cast<std::uint32_t>(draw());
    }
    for (std::int32_t& token : tokens) token = round < 2 ? -1 : static_cast<std::int32_t>(draw());
    const std::int32_t* start = tokens.data() + round % 2;  // at any alignment
    CHECK(starr::nh_avx2(words, start) == starr::nh_scalar(words, start));
  }
}
#else
void vectors_and_scalars_make_the_same_sums() {}
#endif

void a_chain_depends_on_identity_order_and_every_page() {
  const std::vector<std::int32_t> first = {1, 2};
  const std::vector<std::int32_t> second = {3, 4};
  const PrefixKey root = starr::root_key("model-a");
  CHECK(root == starr::root_key("model-a"));
  CHECK(root != starr::root_key("model-b"));
  const PrefixKey chain = starr::extend(starr::extend(root, first), second);
  CHECK(chain == starr::extend(starr::extend(root, first), second));
  CHECK(chain != starr::extend(starr::extend(root, second), first));
  CHECK(chain != starr::extend(root, second));
  CHECK(chain != starr::extend(starr::extend(starr::root_key("model-b"), first), second));
}

void keys_of_many_pages_are_those_of_one_after_the_other() {
  std::vector<std::int32_t> tokens(5 * 96);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int32_t>(i * i);
  const PrefixKey root = starr::root_key("r");
  for (const std::size_t page_size : {1, 7, 32, 48, 64, 96}) {
    std::array<PrefixKey, 5> keys;
    starr::extend_pages(root, tokens, page_size, keys);
    PrefixKey key = root;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      key = starr::extend(key, std::span(tokens).subspan(i * page_size, page_size));
      CHECK(keys[i] == key);
    }
  }
  starr::extend_pages(root, {}, 32, {});
}

}  // namespace

int main() {
  siphash_equals_the_published_vectors();
  every_message_length_and_bit_changes_the_hash();
  vectors_and_scalars_make_the_same_sums();
  a_chain_depends_on_identity_order_and_every_page();
  keys_of_many_pages_are_those_of_one_after_the_other();
}
