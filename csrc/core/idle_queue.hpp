#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/prefix_index.hpp"

namespace starr {

// SEALED pages that nobody holds, least recently used first.
//
// A ring of page ids in which a page that is taken out of the middle leaves a hole. Unlike links
// from page to page, it is read in memory order, so that the pages to evict are known without
// waiting for one page's memory to learn the next. Twice as long as there are pages: when it is
// full, at least half are holes, and closing them costs each of them once.
class IdleQueue {
 public:
  explicit IdleQueue(std::int32_t num_pages)
      : ring_(std::bit_ceil(2 * static_cast<std::size_t>(num_pages)), kReservedPage) {}

  std::int32_t size() const noexcept { return size_; }

  void push_back(PageId page, PrefixIndex& index) noexcept {
    if (tail_ - head_ == ring_.size()) close_holes(index);
    index.entry(page).place = static_cast<std::int32_t>(at(tail_));
    ring_[at(tail_++)] = page;
    ++size_;
  }

  // Takes out the page of `entry`, which must be in the queue.
  void remove(PageEntry& entry) noexcept {
    ring_[static_cast<std::size_t>(entry.place)] = kReservedPage;
    entry.place = PageEntry::kNowhere;
    --size_;
  }

  // The least recently used page; its entry still says that it is in the queue. The queue must
  // not be empty.
  PageId pop_front() noexcept {
    while (ring_[at(head_)] == kReservedPage) ++head_;
    --size_;
    return ring_[at(head_++)];
  }

  std::vector<PageId> in_order() const {
    std::vector<PageId> pages;
    for (std::size_t i = head_; i != tail_; ++i) {
      if (ring_[at(i)] != kReservedPage) pages.push_back(ring_[at(i)]);
    }
    return pages;
  }

 private:
  std::size_t at(std::size_t i) const noexcept { return i & (ring_.size() - 1); }

  void close_holes(PrefixIndex& index) noexcept {
    std::size_t to = head_;
    for (std::size_t from = head_; from != tail_; ++from) {
      const PageId page = ring_[at(from)];
      if (page == kReservedPage) continue;
      index.entry(page).place = static_cast<std::int32_t>(at(to));
      ring_[at(to++)] = page;
    }
    tail_ = to;
  }

  std::vector<PageId> ring_;  // power of two
  std::size_t head_ = 0;      // both grow for ever, and are cut to the ring where they are used
  std::size_t tail_ = 0;
  std::int32_t size_ = 0;
};

}  // namespace starr
