#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/prefix_hash.hpp"

namespace starr {

using PageId = std::int32_t;

// Page 0 is never allocated, so it doubles as "no page".
inline constexpr PageId kReservedPage = 0;

inline constexpr std::size_t kLineTokens = 16;  // in one cache line

enum class PageState : std::uint8_t { kFree, kPrivate, kSealed };

// All that is known of a page but its tokens, in one cache line: what finding, sharing, evicting
// and freeing a page touch is fetched at once.
struct alignas(64) PageEntry {
  static constexpr std::int32_t kNowhere = -1;

  // The index's: name of the prefix that the page ends, and of the prefix before it.
  PrefixKey key{};
  PrefixKey parent{};
  // The pool's.
  std::int32_t place = kNowhere;  // among the pages that nobody holds
  std::int32_t ref_count = 0;
  PageState state = PageState::kFree;
  bool is_indexed = false;  // the index's again
};

// Flat hash map from prefix key to the page that holds the prefix's last rows.
//
// Open addressing with linear probing over at least twice as many buckets as there are pages,
// so it never grows. The page's tokens and its parent's key are stored and compared on every
// lookup: two contents under one key cost a miss, never a wrong page.
class PrefixIndex {
 public:
  PrefixIndex(std::int32_t num_pages, std::int32_t page_size);

  // Enters `page` under `key` and returns the canonical page of that content: `page`, or the
  // one that was entered first. Returns kReservedPage, and enters nothing, when the key is
  // taken by another content. Throws std::invalid_argument when `page` is out of range or
  // already entered, or `tokens` is not one page long.
  PageId insert(PageId page, const PrefixKey& key, const PrefixKey& parent,
                std::span<const std::int32_t> tokens);

  // Canonical page of this content, or kReservedPage.
  PageId find(const PrefixKey& key, const PrefixKey& parent,
              std::span<const std::int32_t> tokens) const noexcept;

  // Forgets `page`. Throws std::invalid_argument when it is not entered.
  void erase(PageId page);

  // Pages of the longest chain of whole pages that starts `tokens` under `root`.
  std::vector<PageId> match(const PrefixKey& root, std::span<const std::int32_t> tokens) const;

  // As match, behind what `pages` holds already.
  void match_into(std::vector<PageId>& pages, const PrefixKey& root,
                  std::span<const std::int32_t> tokens) const;

  // Asks for the memory that erasing a page will touch, besides its entry.
  void prefetch_bucket(PageId page) const noexcept {
    __builtin_prefetch(&buckets_[home(low_of(entry(page).key))], 1);
  }

  // `page` must be one of the pages; the pool keeps its own fields up to date.
  PageEntry& entry(PageId page) noexcept { return entries_[static_cast<std::size_t>(page)]; }
  const PageEntry& entry(PageId page) const noexcept {
    return entries_[static_cast<std::size_t>(page)];
  }
  std::int32_t num_pages() const noexcept { return static_cast<std::int32_t>(entries_.size()); }

  bool contains(PageId page) const noexcept;
  std::int32_t size() const noexcept { return size_; }

  // Throws std::logic_error naming the first broken invariant.
  void check_invariants() const;

 private:
  struct alignas(64) TokenLine {
    std::array<std::int32_t, kLineTokens> tokens;
  };

  // The key's low half stands in the bucket too: probing and erasing stay within one array.
  struct Bucket {
    PageId page = kReservedPage;  // which marks an empty bucket
    std::uint32_t low = 0;
  };

  static std::uint32_t low_of(const PrefixKey& key) noexcept {
    return static_cast<std::uint32_t>(key.low);
  }
  std::size_t home(std::uint32_t low) const noexcept;
  std::size_t next(std::size_t bucket) const noexcept;
  std::size_t locate(const PrefixKey& key) const noexcept;
  bool holds(PageId page, const PrefixKey& parent,
             std::span<const std::int32_t> tokens) const noexcept;

  // Writes the keys of the first pages of `tokens` behind keys[0], their root's, as far as there is
  // room and the index may know them; returns of how many pages, whose memory it has asked for.
  std::size_t look_ahead(std::span<PrefixKey> keys,
                         std::span<const std::int32_t> tokens) const noexcept;

  // Asks for the memory that comparing this page will touch.
  void prefetch(PageId page) const noexcept;

  std::int32_t* tokens_of(PageId page) noexcept {
    return tokens_[static_cast<std::size_t>(page) * page_lines_].tokens.data();
  }
  const std::int32_t* tokens_of(PageId page) const noexcept {
    return tokens_[static_cast<std::size_t>(page) * page_lines_].tokens.data();
  }

  std::size_t page_size_;
  std::size_t page_lines_;          // of tokens
  std::vector<Bucket> buckets_;     // power of two
  std::vector<PageEntry> entries_;  // by page
  std::vector<TokenLine> tokens_;   // [num_pages, page_lines]
  std::int32_t size_ = 0;
};

}  // namespace starr
