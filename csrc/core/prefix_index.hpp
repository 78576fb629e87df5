#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/prefix_hash.hpp"

namespace starr {

using PageId = std::int32_t;

// Page 0 is never allocated, so it doubles as "no page".
inline constexpr PageId kReservedPage = 0;

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

  // Asks for the memory that erasing a page will touch: first its entry, then its bucket.
  void prefetch_entry(PageId page) const noexcept {
    __builtin_prefetch(&entries_[static_cast<std::size_t>(page)], 1);
  }
  void prefetch_bucket(PageId page) const noexcept {
    const Entry& entry = entries_[static_cast<std::size_t>(page)];
    __builtin_prefetch(&buckets_[home(low_of(entry.key))], 1);
  }

  bool contains(PageId page) const noexcept;
  std::int32_t size() const noexcept { return size_; }

  // Throws std::logic_error naming the first broken invariant.
  void check_invariants() const;

 private:
  struct Entry {
    PrefixKey key;
    PrefixKey parent;
    bool used = false;
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

  // Asks for the memory that comparing this page will touch.
  void prefetch(PageId page) const noexcept;

  std::size_t page_size_;
  std::vector<Bucket> buckets_;       // power of two
  std::vector<Entry> entries_;        // by page
  std::vector<std::int32_t> tokens_;  // [num_pages, page_size]
  std::int32_t size_ = 0;
};

}  // namespace starr
