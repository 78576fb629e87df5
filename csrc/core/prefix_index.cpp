#include "core/prefix_index.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

namespace starr {
namespace {

// Pages looked for together, so that the memory of one is fetched while others are hashed; and of
// those, pages hashed at once, some of them in vain where the chain ends.
constexpr std::size_t kGroup = 16;
constexpr std::size_t kHashed = 4;
static_assert(kGroup % kHashed == 0);

void prefetch_tokens(std::span<const std::int32_t> tokens) noexcept {
  for (std::size_t i = 0; i < tokens.size(); i += kLineTokens) __builtin_prefetch(&tokens[i]);
}

std::size_t index_of(PageId page) noexcept { return static_cast<std::size_t>(page); }

}  // namespace

PrefixIndex::PrefixIndex(std::int32_t num_pages, std::int32_t page_size) {
  if (num_pages < 1 || page_size < 1) {
    throw std::invalid_argument("num_pages and page_size must be positive, got " +
                                std::to_string(num_pages) + " and " + std::to_string(page_size));
  }
  page_size_ = static_cast<std::size_t>(page_size);
  buckets_.resize(std::bit_ceil(4 * index_of(num_pages)));
  entries_.resize(index_of(num_pages));
  page_lines_ = (page_size_ + kLineTokens - 1) / kLineTokens;
  tokens_.resize(index_of(num_pages) * page_lines_);
}

std::size_t PrefixIndex::home(std::uint32_t low) const noexcept {
  return low & (buckets_.size() - 1);
}

std::size_t PrefixIndex::next(std::size_t bucket) const noexcept {
  return (bucket + 1) & (buckets_.size() - 1);
}

// Bucket that holds `key`, or the empty one where it would go.
std::size_t PrefixIndex::locate(const PrefixKey& key) const noexcept {
  const std::uint32_t low = low_of(key);
  for (std::size_t at = home(low);; at = next(at)) {
    const Bucket& bucket = buckets_[at];
    if (bucket.page == kReservedPage) return at;
    if (bucket.low == low && entry(bucket.page).key == key) return at;
  }
}

void PrefixIndex::prefetch(PageId page) const noexcept {
  __builtin_prefetch(&entry(page), 1);
  prefetch_tokens({tokens_of(page), page_size_});
}

bool PrefixIndex::holds(PageId page, const PrefixKey& parent,
                        std::span<const std::int32_t> tokens) const noexcept {
  if (entry(page).parent != parent || tokens.size() != page_size_) return false;
  return std::memcmp(tokens_of(page), tokens.data(), tokens.size_bytes()) == 0;
}

PageId PrefixIndex::insert(PageId page, const PrefixKey& key, const PrefixKey& parent,
                           std::span<const std::int32_t> tokens) {
  if (page <= kReservedPage || index_of(page) >= entries_.size()) {
    throw std::invalid_argument("page " + std::to_string(page) + " is outside [1, " +
                                std::to_string(entries_.size()) + ")");
  }
  if (entry(page).is_indexed) {
    throw std::invalid_argument("page " + std::to_string(page) + " is already in the index");
  }
  if (tokens.size() != page_size_) {
    throw std::invalid_argument("tokens must fill one page: expected " +
                                std::to_string(page_size_) + ", got " +
                                std::to_string(tokens.size()));
  }
  const std::size_t bucket = locate(key);
  if (const PageId present = buckets_[bucket].page; present != kReservedPage) {
    return holds(present, parent, tokens) ? present : kReservedPage;
  }
  buckets_[bucket] = {page, low_of(key)};
  entry(page).key = key;
  entry(page).parent = parent;
  entry(page).is_indexed = true;
  std::copy(tokens.begin(), tokens.end(), tokens_of(page));
  ++size_;
  return page;
}

PageId PrefixIndex::find(const PrefixKey& key, const PrefixKey& parent,
                         std::span<const std::int32_t> tokens) const noexcept {
  const PageId page = buckets_[locate(key)].page;
  return page != kReservedPage && holds(page, parent, tokens) ? page : kReservedPage;
}

void PrefixIndex::erase(PageId page) {
  if (!contains(page)) {
    throw std::invalid_argument("page " + std::to_string(page) + " is not in the index");
  }
  std::size_t hole = home(low_of(entry(page).key));
  while (buckets_[hole].page != page) hole = next(hole);
  entry(page).is_indexed = false;
  buckets_[hole] = Bucket{};
  --size_;
  // Backward shift instead of tombstones: an entry moves into the hole unless its home lies
  // cyclically after the hole, so every probe still ends at the first empty bucket.
  const std::size_t mask = buckets_.size() - 1;
  for (std::size_t probe = next(hole); buckets_[probe].page != kReservedPage; probe = next(probe)) {
    const std::size_t wanted = home(buckets_[probe].low);
    if (((probe - wanted) & mask) < ((probe - hole) & mask)) continue;
    buckets_[hole] = buckets_[probe];
    buckets_[probe] = Bucket{};
    hole = probe;
  }
}

std::vector<PageId> PrefixIndex::match(const PrefixKey& root,
                                       std::span<const std::int32_t> tokens) const {
  std::vector<PageId> pages;
  pages.reserve(tokens.size() / page_size_);
  match_into(pages, root, tokens);
  return pages;
}

void PrefixIndex::match_into(std::vector<PageId>& pages, const PrefixKey& root,
                             std::span<const std::int32_t> tokens) const {
  std::array<PrefixKey, kGroup + 1> keys;  // of a page's parent and, behind it, of the page
  keys[0] = root;
  for (std::size_t count = kGroup; count == kGroup; tokens = tokens.subspan(count * page_size_)) {
    count = look_ahead(keys, tokens);
    for (std::size_t i = 0; i < count; ++i) {
      const PageId page = find(keys[i + 1], keys[i], tokens.subspan(i * page_size_, page_size_));
      if (page == kReservedPage) return;
      pages.push_back(page);
    }
    keys[0] = keys[count];
  }
}

std::size_t PrefixIndex::look_ahead(std::span<PrefixKey> keys,
                                    std::span<const std::int32_t> tokens) const noexcept {
  const std::size_t most = std::min(keys.size() - 1, tokens.size() / page_size_);
  prefetch_tokens(tokens.first(most * page_size_));
  for (std::size_t start = 0; start < most; start += kHashed) {
    const std::size_t stop = std::min(start + kHashed, most);
    extend_pages(keys[start], tokens.subspan(start * page_size_), page_size_,
                 keys.subspan(start + 1, stop - start));
    for (std::size_t i = start; i < stop; ++i) {
      // What stands at home is mostly the page looked for; nothing there ends the chain.
      const PageId page = buckets_[home(low_of(keys[i + 1]))].page;
      if (page == kReservedPage) return i;
      prefetch(page);
    }
  }
  return most;
}

bool PrefixIndex::contains(PageId page) const noexcept {
  return page > kReservedPage && index_of(page) < entries_.size() && entry(page).is_indexed;
}

void PrefixIndex::check_invariants() const {
  const auto filled = std::count_if(buckets_.begin(), buckets_.end(),
                                    [](Bucket bucket) { return bucket.page != kReservedPage; });
  if (filled != size_) {
    throw std::logic_error("prefix index: " + std::to_string(filled) + " buckets are filled, " +
                           std::to_string(size_) + " pages are counted");
  }
  std::int32_t used = 0;
  for (std::size_t page = 0; page < entries_.size(); ++page) {
    if (!entries_[page].is_indexed) continue;
    ++used;
    if (index_of(buckets_[locate(entries_[page].key)].page) != page) {
      throw std::logic_error("prefix index: page " + std::to_string(page) +
                             " cannot be reached from its key");
    }
  }
  if (used != size_) {
    throw std::logic_error("prefix index: " + std::to_string(used) + " entries are used, " +
                           std::to_string(size_) + " pages are counted");
  }
}

}  // namespace starr
