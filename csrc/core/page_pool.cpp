#include "core/page_pool.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace starr {
namespace {

std::int32_t checked_num_pages(std::int32_t num_pages) {
  if (num_pages < 2) {
    throw std::invalid_argument("num_pages must be at least 2 (page 0 is reserved), got " +
                                std::to_string(num_pages));
  }
  return num_pages;
}

std::int32_t checked_page_size(std::int32_t page_size) {
  if (page_size < 1) {
    throw std::invalid_argument("page_size must be at least 1 row, got " +
                                std::to_string(page_size));
  }
  return page_size;
}

const char* name_of(PageState state) noexcept {
  switch (state) {
    case PageState::kFree:
      return "FREE";
    case PageState::kPrivate:
      return "PRIVATE";
    case PageState::kSealed:
      return "SEALED";
  }
  return "?";
}

std::string describe(PageId page) { return "page " + std::to_string(page); }

}  // namespace

PagePool::PagePool(std::int32_t num_pages, std::int32_t page_size)
    : page_size_(checked_page_size(page_size)),
      index_(checked_num_pages(num_pages), page_size),
      idle_(num_pages) {
  slot(kReservedPage).state = PageState::kPrivate;
  slot(kReservedPage).ref_count = 1;
  free_.reserve(static_cast<std::size_t>(num_pages));
  for (PageId page = num_pages; --page > kReservedPage;) free_.push_back(page);
}

void PagePool::throw_outside(PageId page) const {
  throw std::invalid_argument(describe(page) + " is outside [0, " + std::to_string(num_pages()) +
                              ")");
}

const PrefixKey& PagePool::key(PageId page) const {
  const PageEntry& held = at(page);
  if (held.state != PageState::kSealed) {
    throw std::invalid_argument(describe(page) + " is " + name_of(held.state) +
                                ", only a SEALED page has a key");
  }
  return held.key;
}

std::optional<std::vector<PageId>> PagePool::try_allocate(std::int32_t count) {
  std::vector<PageId> taken;
  if (!try_allocate(count, taken)) return std::nullopt;
  return taken;
}

bool PagePool::try_allocate(std::int32_t count, std::vector<PageId>& pages) {
  if (count < 0) {
    throw std::invalid_argument("count must not be negative, got " + std::to_string(count));
  }
  if (count > num_free()) return false;
  // Before anything changes: there may be no memory.
  pages.reserve(pages.size() + static_cast<std::size_t>(count));
  take(pages, count);
  return true;
}

// Appends `count` pages, of which there are so many.
void PagePool::take(std::vector<PageId>& pages, std::int32_t count) {
  stats_.allocations += count;
  const auto hand_out = [&](PageId page) {
    slot(page).state = PageState::kPrivate;
    slot(page).ref_count = 1;
  };
  for (; count > 0 && !free_.empty(); --count) {
    pages.push_back(free_.back());
    free_.pop_back();
    hand_out(pages.back());
  }
  if (count == 0) return;
  stats_.evictions += count;
  // The pages to evict are known at once: what erasing them touches is fetched beforehand.
  const std::size_t first = pages.size();
  for (; count > 0; --count) {
    pages.push_back(idle_.pop_front());
    __builtin_prefetch(&slot(pages.back()), 1);
  }
  const auto evicted = std::span(pages).subspan(first);
  for (const PageId page : evicted) index_.prefetch_bucket(page);
  for (const PageId page : evicted) {
    index_.erase(page);
    slot(page).place = PageEntry::kNowhere;
    hand_out(page);
  }
}

std::optional<std::int32_t> PagePool::try_admit(std::vector<PageId>& pages, std::int32_t count,
                                                const PrefixKey& root,
                                                std::span<const std::int32_t> tokens,
                                                std::int32_t reserve) {
  if (count < 0 || reserve < 0) {
    throw std::invalid_argument("count and reserve must not be negative, got " +
                                std::to_string(count) + " and " + std::to_string(reserve));
  }
  const auto size = static_cast<std::size_t>(page_size_);
  const std::size_t most = std::min(tokens.size() / size, static_cast<std::size_t>(count));
  const std::size_t first = pages.size();
  index_.match_into(pages, root, tokens.first(most * size));
  const auto found = static_cast<std::int32_t>(pages.size() - first);
  // A page that nobody uses is no free one any more once it is shared.
  std::int32_t idle = 0;
  const auto shared = std::span(pages).subspan(first);
  for (const PageId page : shared) idle += slot(page).ref_count == 0 ? 1 : 0;
  if (count - found + reserve > num_free() - idle) {
    pages.resize(first);
    return std::nullopt;
  }
  for (const PageId page : shared) reference(page);
  take(pages, count - found);
  stats_.hits += found;
  stats_.misses += static_cast<std::int64_t>(most) - found;
  return found;
}

void PagePool::add_ref(std::span<const PageId> pages) {
  for (const PageId page : pages) {
    if (at(page).state != PageState::kSealed) {
      throw std::invalid_argument(describe(page) + " is " + name_of(at(page).state) +
                                  ", only SEALED pages can be shared");
    }
  }
  for (const PageId page : pages) reference(page);
}

void PagePool::release(std::span<const PageId> pages) {
  for (std::size_t i = 0; i < pages.size(); ++i) {
    const bool known = pages[i] > kReservedPage && pages[i] < num_pages();
    if (known && slot(pages[i]).ref_count > 0) {
      --slot(pages[i]).ref_count;
      continue;
    }
    for (const PageId undo : pages.first(i)) ++slot(undo).ref_count;
    throw std::invalid_argument(describe(pages[i]) + " (entry " + std::to_string(i) +
                                " of the release) has no reference to drop");
  }
  for (std::size_t i = pages.size(); i-- > 0;) {
    if (slot(pages[i]).ref_count == 0) park(pages[i]);
  }
}

PrefixKey PagePool::seal(PageId page, const PrefixKey& parent,
                         std::span<const std::int32_t> tokens) {
  const PrefixKey key = extend(parent, tokens);
  seal_as(page, key, parent, tokens);
  return key;
}

void PagePool::seal_as(PageId page, const PrefixKey& key, const PrefixKey& parent,
                       std::span<const std::int32_t> tokens) {
  if (page == kReservedPage || at(page).state != PageState::kPrivate) {
    throw std::invalid_argument(describe(page) + " is " +
                                (page == kReservedPage ? "reserved" : name_of(at(page).state)) +
                                ", only a PRIVATE page can be sealed");
  }
  index_.insert(page, key, parent, tokens);
  slot(page).key = key;
  slot(page).state = PageState::kSealed;
}

std::vector<PageId> PagePool::match(const PrefixKey& root, std::span<const std::int32_t> tokens) {
  std::vector<PageId> pages = index_.match(root, tokens);
  for (const PageId page : pages) reference(page);
  const auto asked = static_cast<std::int64_t>(tokens.size()) / page_size_;
  stats_.hits += static_cast<std::int64_t>(pages.size());
  stats_.misses += asked - static_cast<std::int64_t>(pages.size());
  return pages;
}

std::optional<PageId> PagePool::make_private(PageId page) {
  if (page == kReservedPage || at(page).ref_count == 0) {
    throw std::invalid_argument(describe(page) +
                                (page == kReservedPage ? " is reserved" : " is not held"));
  }
  if (at(page).state == PageState::kPrivate) return page;
  // Allocated before the old page is let go, so that the copy never has source == target.
  const auto fresh = try_allocate(1);
  if (!fresh) return std::nullopt;
  release(std::span(&page, 1));
  return fresh->front();
}

std::vector<PageId> PagePool::free_order() const {
  std::vector<PageId> order(free_.rbegin(), free_.rend());
  const std::vector<PageId> idle = idle_.in_order();
  order.insert(order.end(), idle.begin(), idle.end());
  return order;
}

void PagePool::reference(PageId page) noexcept {
  if (slot(page).ref_count++ == 0) idle_.remove(slot(page));
}

// Puts a page without references where an allocation will find it, unless it is there.
void PagePool::park(PageId page) noexcept {
  PageEntry& entry = slot(page);
  if (entry.state == PageState::kFree || entry.place != PageEntry::kNowhere) return;
  if (entry.is_indexed) {
    idle_.push_back(page, index_);
  } else {
    entry.state = PageState::kFree;
    free_.push_back(page);
  }
}

void PagePool::check_invariants() const {
  index_.check_invariants();
  std::vector<std::int32_t> seen(static_cast<std::size_t>(num_pages()), 0);
  const auto check = [&](const std::vector<PageId>& pages, PageState state, const char* name) {
    for (const PageId page : pages) {
      const PageEntry& entry = at(page);
      if (++seen[static_cast<std::size_t>(page)] > 1) {
        throw std::logic_error(describe(page) + " can be handed out twice");
      }
      if (entry.state != state || entry.ref_count != 0) {
        throw std::logic_error(describe(page) + " among the " + name + " pages is " +
                               name_of(entry.state) + " with count " +
                               std::to_string(entry.ref_count));
      }
    }
  };
  const std::vector<PageId> idle = idle_.in_order();
  check(free_, PageState::kFree, "free");
  check(idle, PageState::kSealed, "idle");
  std::int32_t indexed = 0;
  for (PageId page = 0; page < num_pages(); ++page) {
    const PageEntry& entry = at(page);
    const bool parked = seen[static_cast<std::size_t>(page)] != 0;
    const bool known = index_.contains(page);
    indexed += known ? 1 : 0;
    const auto fail = [&](const char* what) {
      throw std::logic_error(describe(page) + " is " + name_of(entry.state) + " with count " +
                             std::to_string(entry.ref_count) + what);
    };
    if (entry.state == PageState::kPrivate && entry.ref_count != 1) {
      fail(": a PRIVATE page has exactly one owner");
    }
    if (!parked && entry.ref_count == 0) fail(" but nowhere to be handed out: it is leaked");
    if ((entry.place != PageEntry::kNowhere) != (parked && entry.state == PageState::kSealed)) {
      fail(" and its place among the idle pages is wrong");
    }
    if (known && entry.state != PageState::kSealed) fail(" and in the prefix index");
    if (!known && entry.state == PageState::kSealed && entry.ref_count == 0) {
      fail(" but not in the prefix index: nothing can find it");
    }
  }
  if (idle.size() != static_cast<std::size_t>(idle_.size()) || indexed != index_.size()) {
    throw std::logic_error("pool counts " + std::to_string(idle_.size()) + " idle and " +
                           std::to_string(index_.size()) + " indexed pages, found " +
                           std::to_string(idle.size()) + " and " + std::to_string(indexed));
  }
}

}  // namespace starr
