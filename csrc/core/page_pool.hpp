#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/idle_queue.hpp"
#include "core/prefix_hash.hpp"
#include "core/prefix_index.hpp"

namespace starr {

// FREE    -> no content; unreferenced.
// PRIVATE -> writable, exactly one owner, in no index.
// SEALED  -> immutable, shareable, reference counted; while the index knows it, it keeps its
//            content at count 0 too, until an allocation needs the page.
// Counted in pages since construction.
struct PoolStats {
  std::int64_t allocations = 0;
  std::int64_t evictions = 0;  // sealed pages whose content an allocation took
  std::int64_t hits = 0;       // whole pages found by match()
  std::int64_t misses = 0;     // whole pages asked of match() and not found
};

// Who owns which page of KV memory; the tensors themselves live elsewhere.
//
// Page 0 is reserved: padding rows write to it. Every call that throws, or that reports a
// shortage, changes nothing. Not thread safe: one engine thread owns a pool.
class PagePool : public std::enable_shared_from_this<PagePool> {
 public:
  // Throws std::invalid_argument unless num_pages >= 2 and page_size >= 1 (rows).
  PagePool(std::int32_t num_pages, std::int32_t page_size);

  // Takes `count` pages, each PRIVATE with one reference. FREE pages go first, latest freed
  // first; then unreferenced SEALED pages, least recently used first, which leave the index.
  // Returns nothing when fewer than `count` are unreferenced.
  std::optional<std::vector<PageId>> try_allocate(std::int32_t count);

  // The same, appended to `pages`; false when fewer are unreferenced.
  bool try_allocate(std::int32_t count, std::vector<PageId>& pages);

  // As match and try_allocate in one: appends the pages of the longest chain that starts `tokens`,
  // and fresh ones up to `count` in all, to `pages`; returns how many were found. Nothing happens,
  // and nothing is returned, when `reserve` pages would not be left.
  std::optional<std::int32_t> try_admit(std::vector<PageId>& pages, std::int32_t count,
                                        const PrefixKey& root, std::span<const std::int32_t> tokens,
                                        std::int32_t reserve);

  // Adds one reference to each page. Throws std::invalid_argument when one is not SEALED.
  void add_ref(std::span<const PageId> pages);

  // Drops one reference from each page, last page first, so that the tail of a prefix is
  // evicted before its head. Throws std::invalid_argument when a page lacks a reference.
  void release(std::span<const PageId> pages);

  // Makes a PRIVATE page SEALED and enters it in the index under extend(parent, tokens). The
  // page that was sealed first with a content stays canonical; a later one serves its own
  // holders only and is FREE at count 0. Returns the key. Throws std::invalid_argument when
  // the page is not PRIVATE or `tokens` is not page_size long.
  PrefixKey seal(PageId page, const PrefixKey& parent, std::span<const std::int32_t> tokens);

  // The same where extend(parent, tokens) is known already: it is `key`.
  void seal_as(PageId page, const PrefixKey& key, const PrefixKey& parent,
               std::span<const std::int32_t> tokens);

  // Longest chain of whole sealed pages that starts `tokens`; one reference added to each.
  std::vector<PageId> match(const PrefixKey& root, std::span<const std::int32_t> tokens);

  // Copy on write: a PRIVATE page is returned as it is. For a SEALED one the caller's reference
  // moves to a fresh PRIVATE page, into which the caller copies the rows before the next
  // allocation's rows are written. Returns nothing when no page is free; throws
  // std::invalid_argument when the page is not held.
  std::optional<PageId> make_private(PageId page);

  std::int32_t num_pages() const noexcept { return index_.num_pages(); }
  std::int32_t page_size() const noexcept { return page_size_; }
  // Pages that try_allocate can hand out: FREE ones and unreferenced SEALED ones.
  std::int32_t num_free() const noexcept {
    return static_cast<std::int32_t>(free_.size()) + idle_.size();
  }
  // Pages whose content match() can find, in use or not.
  std::int32_t num_indexed() const noexcept { return index_.size(); }
  const PoolStats& stats() const noexcept { return stats_; }

  // These throw std::invalid_argument for a page outside [0, num_pages).
  PageState state(PageId page) const { return at(page).state; }
  std::int32_t ref_count(PageId page) const { return at(page).ref_count; }
  bool is_indexed(PageId page) const { return at(page), index_.contains(page); }
  // Key of a SEALED page; throws std::invalid_argument for any other.
  const PrefixKey& key(PageId page) const;

  // Pages in the order in which allocations would take them.
  std::vector<PageId> free_order() const;

  // Throws std::logic_error naming the first broken invariant.
  void check_invariants() const;

 private:
  const PageEntry& at(PageId page) const {
    if (page < 0 || page >= num_pages()) throw_outside(page);
    return index_.entry(page);
  }
  [[noreturn]] void throw_outside(PageId page) const;
  PageEntry& slot(PageId page) noexcept { return index_.entry(page); }
  void reference(PageId page) noexcept;
  void take(std::vector<PageId>& pages, std::int32_t count);
  void park(PageId page) noexcept;
  std::int32_t page_size_;
  PrefixIndex index_;
  std::vector<PageId> free_;  // FREE pages; the next to hand out is last
  IdleQueue idle_;
  PoolStats stats_;
};

}  // namespace starr
