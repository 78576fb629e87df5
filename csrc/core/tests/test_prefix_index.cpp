#include <cstdint>
#include <map>
#include <random>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "core/prefix_index.hpp"

namespace {

using starr::kReservedPage;
using starr::PageId;
using starr::PrefixIndex;
using starr::PrefixKey;

using Tokens = std::vector<std::int32_t>;

void the_first_page_of_a_content_stays_canonical() {
  PrefixIndex index(8, 2);
  const PrefixKey root = starr::root_key("r");
  const Tokens tokens = {5, 6};
  const PrefixKey key = starr::extend(root, tokens);
  CHECK(index.insert(3, key, root, tokens) == 3);
  CHECK(index.insert(4, key, root, tokens) == 3);
  CHECK(index.find(key, root, tokens) == 3);
  CHECK(!index.contains(4) && index.size() == 1);
  index.erase(3);
  CHECK(index.find(key, root, tokens) == kReservedPage);
  CHECK(index.insert(4, key, root, tokens) == 4);
  index.check_invariants();
}

// Keys are given by hand here, so that two contents share one.
void a_key_collision_is_a_miss_and_never_a_wrong_page() {
  PrefixIndex index(8, 2);
  const PrefixKey root = starr::root_key("r");
  const PrefixKey other = starr::root_key("other");
  const PrefixKey key{7, 7};
  const Tokens tokens = {5, 6};
  const Tokens impostor = {5, 7};
  CHECK(index.insert(3, key, root, tokens) == 3);
  CHECK(index.insert(4, key, root, impostor) == kReservedPage);
  CHECK(index.insert(4, key, other, tokens) == kReservedPage);
  CHECK(index.find(key, root, impostor) == kReservedPage);
  CHECK(index.find(key, other, tokens) == kReservedPage);
  CHECK(index.find(key, root, tokens) == 3);
  CHECK(index.find(key, root, Tokens{5}) == kReservedPage);
  CHECK(index.size() == 1);
}

// Four low values over 16 buckets: long probe runs that wrap around the end of the table.
void erasing_keeps_every_other_page_reachable() {
  std::mt19937 random(0);
  PrefixIndex index(8, 1);
  std::map<PageId, PrefixKey> model;
  const PrefixKey root{};
  for (int step = 0; step < 20000; ++step) {
    const auto page = static_cast<PageId>(1 + random() % 7);
    const Tokens tokens = {page};
    if (model.contains(page)) {
      index.erase(page);
      model.erase(page);
    } else {
      const PrefixKey key{14 + random() % 4, static_cast<std::uint64_t>(page)};
      CHECK(index.insert(page, key, root, tokens) == page);
      model[page] = key;
    }
    index.check_invariants();
    for (const auto& [held, key] : model) CHECK(index.find(key, root, Tokens{held}) == held);
    CHECK(index.size() == static_cast<std::int32_t>(model.size()));
  }
}

void a_match_stops_at_the_first_missing_page() {
  PrefixIndex index(8, 2);
  const PrefixKey root = starr::root_key("r");
  const Tokens tokens = {1, 2, 3, 4, 5, 6, 7};
  PrefixKey parent = root;
  for (PageId page = 1; page <= 3; ++page) {
    const auto chunk =
        std::span<const std::int32_t>(tokens).subspan(2 * static_cast<std::size_t>(page - 1), 2);
    const PrefixKey key = starr::extend(parent, chunk);
    CHECK(index.insert(page, key, parent, chunk) == page);
    parent = key;
  }
  CHECK(index.match(root, tokens) == (std::vector<PageId>{1, 2, 3}));
  CHECK(index.match(root, std::span(tokens).first(5)) == (std::vector<PageId>{1, 2}));
  CHECK(index.match(starr::root_key("other"), tokens).empty());
  index.erase(2);
  CHECK(index.match(root, tokens) == (std::vector<PageId>{1}));
}

// Pages are looked for in groups: a chain may end anywhere in one, and a page may miss in one.
void a_chain_of_any_length_is_found_whole() {
  constexpr PageId kPages = 40;
  PrefixIndex index(kPages + 1, 2);
  const PrefixKey root = starr::root_key("r");
  Tokens tokens;
  std::vector<PageId> chain;
  std::vector<PrefixKey> keys = {root};
  for (PageId page = 1; page <= kPages; ++page) {
    CHECK(index.match(root, tokens) == chain);
    tokens.insert(tokens.end(), {page, -page});
    CHECK(index.match(root, tokens) == chain);
    const auto content = std::span<const std::int32_t>(tokens).last(2);
    keys.push_back(starr::extend(keys.back(), content));
    CHECK(index.insert(page, keys.back(), keys[keys.size() - 2], content) == page);
    chain.push_back(page);
  }
  CHECK(index.match(root, tokens) == chain);
  for (PageId page = kPages; page > 0; --page) {
    const auto at = static_cast<std::size_t>(page);
    index.erase(page);
    CHECK(index.match(root, tokens).size() == at - 1);
    // Another content under this page's key.
    CHECK(index.insert(page, keys[at], keys[at - 1], Tokens{0, 0}) == page);
    CHECK(index.match(root, tokens).size() == at - 1);
  }
}

void bad_calls_change_nothing() {
  PrefixIndex index(4, 2);
  const PrefixKey root{};
  const Tokens tokens = {1, 2};
  CHECK(index.insert(1, {1, 1}, root, tokens) == 1);
  using Bad = std::invalid_argument;
  CHECK(contains(message_of<Bad>([&] { index.insert(0, {2, 2}, root, tokens); }), "[1, 4)"));
  CHECK(contains(message_of<Bad>([&] { index.insert(4, {2, 2}, root, tokens); }), "page 4"));
  CHECK(contains(message_of<Bad>([&] { index.insert(1, {2, 2}, root, tokens); }), "already"));
  CHECK(contains(message_of<Bad>([&] { index.insert(2, {2, 2}, root, Tokens{1}); }), "got 1"));
  CHECK(contains(message_of<Bad>([&] { index.erase(2); }), "page 2 is not in the index"));
  CHECK(index.size() == 1);
  index.check_invariants();
}

}  // namespace

int main() {
  the_first_page_of_a_content_stays_canonical();
  a_key_collision_is_a_miss_and_never_a_wrong_page();
  erasing_keeps_every_other_page_reachable();
  a_match_stops_at_the_first_missing_page();
  a_chain_of_any_length_is_found_whole();
  bad_calls_change_nothing();
}
