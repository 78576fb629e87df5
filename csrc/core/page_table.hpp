#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "core/page_pool.hpp"
#include "core/row_bitmap.hpp"
#include "core/row_ranges.hpp"

namespace starr {

// The pages of one request and what is known about each of their rows.
//
//   rows    0                                             num_rows
//   pages   | sealed prefix ......... | private ............... |
//   cached  a KV row was written since the table got the page
//   dirty   cached, but the token changed after that write
//
// Every call that throws, or that reports a shortage, changes nothing.
class PageTable {
 public:
  // A table of `num_rows` rows whose first pages are `adopted`: SEALED pages, as match()
  // returned them, whose references the table takes over; their rows are cached. Returns
  // nothing, and leaves the references with the caller, when the pool is short of pages.
  // Throws std::invalid_argument when an adopted page is not SEALED and held, or more rows are
  // adopted than the table has.
  static std::optional<PageTable> try_create(std::shared_ptr<PagePool> pool, std::int32_t num_rows,
                                             std::span<const PageId> adopted = {});

  // A table of `num_rows` rows that starts with the sealed pages that hold the whole pages of
  // `tokens` under `root`, as far as there are such, and goes on with fresh ones. Returns nothing,
  // and changes nothing, when fewer than `reserve` pages would be left in the pool.
  static std::optional<PageTable> try_admit(std::shared_ptr<PagePool> pool, std::int32_t num_rows,
                                            const PrefixKey& root,
                                            std::span<const std::int32_t> tokens,
                                            std::int32_t reserve);

  PageTable(PageTable&& other) noexcept;
  PageTable& operator=(PageTable&& other) noexcept;
  PageTable(const PageTable&) = delete;
  PageTable& operator=(const PageTable&) = delete;
  ~PageTable();

  // Appends uncached rows; false when the pool is short. Throws std::invalid_argument when
  // `num_rows` is smaller than it is now.
  bool try_grow(std::int32_t num_rows);

  // The KV of these rows is that of their present tokens. Throws std::invalid_argument for a
  // row outside the table or in a SEALED page.
  void mark_written(const RowRanges& rows);

  // The tokens of these rows changed. Rows without a KV stay as they are: nothing is stale.
  // Throws std::invalid_argument for a row outside the table or in a SEALED page.
  void mark_dirty(std::span<const std::int32_t> rows);

  // Seals the whole pages inside rows [0, num_rows) in one chain from `root`; returns how many
  // were sealed now. `tokens` are the ids of (at least) these rows. Throws
  // std::invalid_argument when a row is uncached, dirty or holds the mask token, or when a
  // page that is already sealed belongs to another prefix.
  std::int32_t seal_prefix(std::int32_t num_rows, std::span<const std::int32_t> tokens,
                           std::int32_t mask_token_id, const PrefixKey& root);

  // Makes every page under `rows` writable. Returns the (source, target) pages whose rows the
  // caller copies before any other row is written, or nothing when the pool is short.
  std::optional<std::vector<std::pair<PageId, PageId>>> copy_on_write(const RowRange& rows);

  // Gives all references back; the table is then empty. Repeating it does nothing.
  void release() noexcept;

  const std::shared_ptr<PagePool>& pool() const noexcept { return pool_; }
  std::int32_t page_size() const noexcept { return page_size_; }
  std::int32_t num_rows() const noexcept { return num_rows_; }
  std::span<const PageId> pages() const noexcept { return pages_; }
  // Pages at the front that were taken over when the table was made.
  std::int32_t num_adopted() const noexcept { return num_adopted_; }
  std::int32_t num_cached() const noexcept { return cached_.count(); }
  std::int32_t num_dirty() const noexcept { return dirty_.count(); }
  // Rows in front of the first one that is uncached or dirty.
  std::int32_t num_clean() const noexcept;
  const RowBitmap& cached() const noexcept { return cached_; }
  const RowBitmap& dirty() const noexcept { return dirty_; }

  // page * page_size + offset. Throws std::out_of_range, as is_sealed does.
  std::int64_t slot(std::int32_t row) const;
  bool is_sealed(std::int32_t row) const;

  // First row of `rows` that lies in a SEALED page. `rows` must be inside the table.
  std::optional<std::int32_t> first_sealed(const RowRanges& rows) const;

  // Throws std::logic_error naming the first broken invariant.
  void check_invariants() const;

 private:
  PageTable(std::shared_ptr<PagePool> pool, std::vector<PageId> pages, std::int32_t num_rows);

  std::int32_t num_pages_for(std::int32_t num_rows) const noexcept;
  PageId page_of(std::int32_t row) const noexcept;
  void require_row(std::int32_t row) const;
  void require_writable(const RowRanges& rows, const char* action) const;

  std::shared_ptr<PagePool> pool_;
  std::vector<PageId> pages_;
  RowBitmap cached_;
  RowBitmap dirty_;
  std::int32_t page_size_;
  std::int32_t num_rows_ = 0;
  std::int32_t num_adopted_ = 0;
};

}  // namespace starr
