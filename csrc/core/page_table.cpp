#include "core/page_table.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace starr {
namespace {

std::string row_name(std::int32_t row) { return "row " + std::to_string(row); }

std::int32_t pages_for(std::int32_t num_rows, std::int32_t page_size) noexcept {
  return num_rows / page_size + (num_rows % page_size != 0 ? 1 : 0);
}

}  // namespace

std::optional<PageTable> PageTable::try_create(std::shared_ptr<PagePool> pool,
                                               std::int32_t num_rows,
                                               std::span<const PageId> adopted) {
  if (pool == nullptr) throw std::invalid_argument("a page table needs a pool");
  if (num_rows < 0) {
    throw std::invalid_argument("num_rows must not be negative, got " + std::to_string(num_rows));
  }
  const std::int64_t adopted_rows = static_cast<std::int64_t>(adopted.size()) * pool->page_size();
  if (adopted_rows > num_rows) {
    throw std::invalid_argument("adopted pages hold " + std::to_string(adopted_rows) +
                                " rows, the table has only " + std::to_string(num_rows));
  }
  for (const PageId page : adopted) {
    if (pool->state(page) != PageState::kSealed || pool->ref_count(page) == 0) {
      throw std::invalid_argument("page " + std::to_string(page) +
                                  " cannot be adopted: it must be SEALED and referenced");
    }
  }
  const std::int32_t wanted = pages_for(num_rows, pool->page_size());
  std::vector<PageId> pages;
  pages.reserve(static_cast<std::size_t>(wanted));
  pages.assign(adopted.begin(), adopted.end());
  const auto fresh = wanted - static_cast<std::int32_t>(adopted.size());
  if (!pool->try_allocate(fresh, pages)) return std::nullopt;
  PageTable table(std::move(pool), std::move(pages), num_rows);
  table.cached_.assign({0, static_cast<std::int32_t>(adopted_rows)}, true);
  table.num_adopted_ = static_cast<std::int32_t>(adopted.size());
  return table;
}

std::optional<PageTable> PageTable::try_admit(std::shared_ptr<PagePool> pool, std::int32_t num_rows,
                                              const PrefixKey& root,
                                              std::span<const std::int32_t> tokens,
                                              std::int32_t reserve) {
  if (pool == nullptr) throw std::invalid_argument("a page table needs a pool");
  if (num_rows < 0 || tokens.size() > static_cast<std::size_t>(num_rows)) {
    throw std::invalid_argument("a table of " + std::to_string(num_rows) + " rows cannot hold " +
                                std::to_string(tokens.size()) + " tokens");
  }
  const std::int32_t wanted = pages_for(num_rows, pool->page_size());
  std::vector<PageId> pages;
  pages.reserve(static_cast<std::size_t>(wanted));
  const auto found = pool->try_admit(pages, wanted, root, tokens, reserve);
  if (!found) return std::nullopt;
  PageTable table(std::move(pool), std::move(pages), num_rows);
  table.cached_.assign({0, *found * table.page_size_}, true);
  table.num_adopted_ = *found;
  return table;
}

PageTable::PageTable(std::shared_ptr<PagePool> pool, std::vector<PageId> pages,
                     std::int32_t num_rows)
    : pool_(std::move(pool)),
      pages_(std::move(pages)),
      page_size_(pool_->page_size()),
      num_rows_(num_rows) {
  cached_.resize(num_rows);
  dirty_.resize(num_rows);
}

PageTable::PageTable(PageTable&& other) noexcept
    : pool_(std::move(other.pool_)),
      pages_(std::exchange(other.pages_, {})),
      cached_(std::exchange(other.cached_, {})),
      dirty_(std::exchange(other.dirty_, {})),
      page_size_(other.page_size_),
      num_rows_(std::exchange(other.num_rows_, 0)),
      num_adopted_(std::exchange(other.num_adopted_, 0)) {}

PageTable& PageTable::operator=(PageTable&& other) noexcept {
  if (this == &other) return *this;
  release();
  pool_ = std::move(other.pool_);
  pages_ = std::exchange(other.pages_, {});
  cached_ = std::exchange(other.cached_, {});
  dirty_ = std::exchange(other.dirty_, {});
  page_size_ = other.page_size_;
  num_rows_ = std::exchange(other.num_rows_, 0);
  num_adopted_ = std::exchange(other.num_adopted_, 0);
  return *this;
}

PageTable::~PageTable() { release(); }

void PageTable::release() noexcept {
  // The pool cannot refuse: the table held one reference on each of its pages.
  if (!pages_.empty()) pool_->release(pages_);
  pages_.clear();
  cached_.clear();
  dirty_.clear();
  num_rows_ = num_adopted_ = 0;
}

bool PageTable::try_grow(std::int32_t num_rows) {
  if (num_rows < num_rows_) {
    throw std::invalid_argument("a table does not shrink: it has " + std::to_string(num_rows_) +
                                " rows, asked for " + std::to_string(num_rows));
  }
  const std::int32_t wanted = num_pages_for(num_rows);
  const auto present = static_cast<std::int32_t>(pages_.size());
  cached_.resize(num_rows);
  dirty_.resize(num_rows);
  // Bits beyond num_rows_ stay clear, so bitmaps that are too long need not shrink again.
  if (!pool_->try_allocate(wanted - present, pages_)) return false;
  num_rows_ = num_rows;
  return true;
}

void PageTable::mark_written(const RowRanges& rows) {
  require_writable(rows, "written");
  for (const RowRange& range : rows.ranges()) {
    cached_.assign(range, true);
    dirty_.assign(range, false);
  }
}

void PageTable::mark_dirty(std::span<const std::int32_t> rows) {
  for (const std::int32_t row : rows) {
    require_row(row);
    if (pool_->state(page_of(row)) == PageState::kSealed) {
      throw std::invalid_argument(row_name(row) + " cannot be marked dirty: page " +
                                  std::to_string(page_of(row)) + " is SEALED");
    }
  }
  for (const std::int32_t row : rows) {
    if (cached_.test(row)) dirty_.set(row);
  }
}

std::int32_t PageTable::seal_prefix(std::int32_t num_rows, std::span<const std::int32_t> tokens,
                                    std::int32_t mask_token_id, const PrefixKey& root) {
  if (num_rows < 0 || num_rows > num_rows_ || tokens.size() < static_cast<std::size_t>(num_rows)) {
    throw std::invalid_argument("seal_prefix of " + std::to_string(num_rows) + " rows with " +
                                std::to_string(tokens.size()) + " tokens in a table of " +
                                std::to_string(num_rows_) + " rows");
  }
  const auto page_rows = static_cast<std::size_t>(page_size_);
  const std::size_t whole = static_cast<std::size_t>(num_rows) / page_rows;
  std::vector<PrefixKey> keys(whole + 1);  // of a page's parent and, behind it, of the page
  keys[0] = root;
  extend_pages(root, tokens, page_rows, std::span(keys).subspan(1));
  for (std::size_t i = 0; i < whole; ++i) {
    const auto chunk = tokens.subspan(i * page_rows, page_rows);
    const auto start = static_cast<std::int32_t>(i * page_rows);
    const RowRange rows{start, start + page_size_};
    if (pool_->state(pages_[i]) == PageState::kSealed && pool_->key(pages_[i]) != keys[i + 1]) {
      throw std::invalid_argument("rows from " + std::to_string(start) +
                                  " were sealed under another prefix; copy_on_write and "
                                  "recompute them before sealing again");
    }
    const auto mask = std::find(chunk.begin(), chunk.end(), mask_token_id);
    if (mask != chunk.end()) {
      throw std::invalid_argument(
          row_name(start + static_cast<std::int32_t>(mask - chunk.begin())) +
          " holds the mask token; only final tokens can be sealed");
    }
    if (const std::int32_t row = cached_.find(rows, false); row < rows.stop) {
      throw std::invalid_argument(row_name(row) + " has no KV; it cannot be sealed");
    }
    if (const std::int32_t row = dirty_.find(rows, true); row < rows.stop) {
      throw std::invalid_argument(row_name(row) +
                                  " is dirty: its token changed after its KV was written");
    }
  }
  std::int32_t sealed = 0;
  for (std::size_t i = 0; i < whole; ++i) {
    if (pool_->state(pages_[i]) == PageState::kSealed) continue;
    pool_->seal_as(pages_[i], keys[i + 1], keys[i], tokens.subspan(i * page_rows, page_rows));
    ++sealed;
  }
  return sealed;
}

std::optional<std::vector<std::pair<PageId, PageId>>> PageTable::copy_on_write(
    const RowRange& rows) {
  if (rows.start < 0 || rows.start > rows.stop || rows.stop > num_rows_) {
    throw std::invalid_argument("copy_on_write of rows " + to_string(rows) + " in a table of " +
                                std::to_string(num_rows_) + " rows");
  }
  std::vector<std::pair<PageId, PageId>> copies;
  if (rows.start == rows.stop) return copies;
  const auto first = static_cast<std::size_t>(rows.start / page_size_);
  const auto last = static_cast<std::size_t>(num_pages_for(rows.stop));
  std::vector<PageId> sources;
  for (std::size_t i = first; i < last; ++i) {
    if (pool_->state(pages_[i]) == PageState::kSealed) sources.push_back(pages_[i]);
  }
  copies.reserve(sources.size());
  // All targets are taken before any source is let go: no target can be another's source.
  const auto fresh = pool_->try_allocate(static_cast<std::int32_t>(sources.size()));
  if (!fresh) return std::nullopt;
  for (std::size_t i = first; i < last; ++i) {
    if (pool_->state(pages_[i]) != PageState::kSealed) continue;
    const PageId target = (*fresh)[copies.size()];
    copies.emplace_back(pages_[i], target);
    pages_[i] = target;
  }
  pool_->release(sources);
  return copies;
}

std::int32_t PageTable::num_clean() const noexcept {
  const std::int32_t cached = cached_.find({0, num_rows_}, false);
  return dirty_.find({0, cached}, true);
}

std::int64_t PageTable::slot(std::int32_t row) const {
  require_row(row);
  return static_cast<std::int64_t>(page_of(row)) * page_size_ + row % page_size_;
}

bool PageTable::is_sealed(std::int32_t row) const {
  require_row(row);
  return pool_->state(page_of(row)) == PageState::kSealed;
}

std::optional<std::int32_t> PageTable::first_sealed(const RowRanges& rows) const {
  for (const RowRange& range : rows.ranges()) {
    for (std::int32_t row = range.start; row < range.stop; row += page_size_ - row % page_size_) {
      if (pool_->state(page_of(row)) == PageState::kSealed) return row;
    }
  }
  return std::nullopt;
}

void PageTable::check_invariants() const {
  if (static_cast<std::int32_t>(pages_.size()) != num_pages_for(num_rows_)) {
    throw std::logic_error("table has " + std::to_string(pages_.size()) + " pages for " +
                           std::to_string(num_rows_) + " rows of " + std::to_string(page_size_));
  }
  for (const PageId page : pages_) {
    if (page <= kReservedPage || pool_->ref_count(page) < 1) {
      throw std::logic_error("table holds page " + std::to_string(page) + " without a reference");
    }
  }
  for (std::int32_t row = 0; row < num_rows_; ++row) {
    if (dirty_.test(row) && !cached_.test(row)) {
      throw std::logic_error(row_name(row) + " is dirty but not cached");
    }
    if (is_sealed(row) && (dirty_.test(row) || !cached_.test(row))) {
      throw std::logic_error(row_name(row) + " lies in a SEALED page but is dirty or uncached");
    }
  }
}

std::int32_t PageTable::num_pages_for(std::int32_t num_rows) const noexcept {
  return pages_for(num_rows, page_size_);
}

PageId PageTable::page_of(std::int32_t row) const noexcept {
  return pages_[static_cast<std::size_t>(row / page_size_)];
}

void PageTable::require_row(std::int32_t row) const {
  if (row >= 0 && row < num_rows_) return;
  throw std::out_of_range(row_name(row) + " is outside the table of " + std::to_string(num_rows_) +
                          " rows");
}

void PageTable::require_writable(const RowRanges& rows, const char* action) const {
  if (rows.stop() > num_rows_) {
    throw std::invalid_argument("rows " + to_string(rows) + " cannot be marked " + action +
                                ": the table has " + std::to_string(num_rows_) + " rows");
  }
  if (const auto row = first_sealed(rows)) {
    throw std::invalid_argument(row_name(*row) + " cannot be marked " + action + ": page " +
                                std::to_string(page_of(*row)) + " is SEALED");
  }
}

}  // namespace starr
