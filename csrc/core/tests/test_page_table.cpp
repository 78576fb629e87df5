#include <memory>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "check.hpp"
#include "core/page_table.hpp"

namespace {

using starr::PageId;
using starr::PagePool;
using starr::PageTable;
using starr::PrefixKey;
using starr::RowRange;
using starr::RowRanges;

using Bad = std::invalid_argument;
using Pages = std::vector<PageId>;
using Rows = std::vector<std::int32_t>;

constexpr std::int32_t kMask = 99;
const PrefixKey kRoot = starr::root_key("test");

RowRanges rows(std::int32_t start, std::int32_t stop) {
  const RowRange range{start, stop};
  return RowRanges(std::span(&range, 1));
}

Rows counting(std::int32_t count) {
  Rows tokens(static_cast<std::size_t>(count));
  std::iota(tokens.begin(), tokens.end(), 10);
  return tokens;
}

Pages pages_of(const PageTable& table) { return {table.pages().begin(), table.pages().end()}; }

void a_table_takes_whole_pages_or_nothing() {
  const auto pool = std::make_shared<PagePool>(4, 4);
  CHECK(!PageTable::try_create(pool, 13));
  CHECK(pool->num_free() == 3);
  auto table = PageTable::try_create(pool, 9);
  CHECK(pages_of(*table) == (Pages{1, 2, 3}));
  // Row 6 is offset 2 of the second page, page 2: 2 * 4 + 2.
  CHECK(table->slot(6) == 10);
  CHECK(contains(message_of<std::out_of_range>([&] { table->slot(9); }), "row 9"));
  CHECK(contains(message_of<std::out_of_range>([&] { table->slot(-1); }), "row -1"));
  CHECK(table->num_cached() == 0);
  table->release();
  table->release();
  CHECK(pool->num_free() == 3 && table->num_rows() == 0);
  table->check_invariants();
}

void a_destroyed_or_overwritten_table_returns_its_pages() {
  const auto pool = std::make_shared<PagePool>(8, 4);
  {
    auto first = PageTable::try_create(pool, 8).value();
    auto second = PageTable::try_create(pool, 4).value();
    CHECK(pool->num_free() == 4);
    first = std::move(second);
    CHECK(pool->num_free() == 6);
    PageTable moved(std::move(first));
    CHECK(pages_of(moved) == (Pages{3}));
  }
  CHECK(pool->num_free() == 7);
  pool->check_invariants();
}

void only_cached_rows_become_dirty_and_a_write_cleans_them() {
  const auto pool = std::make_shared<PagePool>(8, 4);
  auto table = PageTable::try_create(pool, 8).value();
  table.mark_written(rows(0, 5));
  table.mark_dirty(Rows{4, 6, 1});
  CHECK(table.num_cached() == 5 && table.num_dirty() == 2);
  CHECK(table.dirty().test(4) && table.dirty().test(1) && !table.dirty().test(6));
  table.mark_written(rows(4, 8));
  CHECK(table.num_cached() == 8 && table.num_dirty() == 1);
  CHECK(contains(message_of<std::out_of_range>([&] { table.mark_dirty(Rows{0, 8}); }), "row 8"));
  CHECK(contains(message_of<Bad>([&] { table.mark_written(rows(7, 9)); }), "8 rows"));
  CHECK(table.num_dirty() == 1);
  table.check_invariants();
}

void sealing_refuses_uncached_dirty_and_masked_rows() {
  const auto pool = std::make_shared<PagePool>(8, 4);
  auto table = PageTable::try_create(pool, 10).value();
  Rows tokens = counting(10);
  const auto refuse = [&] {
    return message_of<Bad>([&] { table.seal_prefix(8, tokens, kMask, kRoot); });
  };
  table.mark_written(rows(0, 7));
  CHECK(contains(refuse(), "row 7 has no KV"));
  table.mark_written(rows(7, 10));
  table.mark_dirty(Rows{5});
  CHECK(contains(refuse(), "row 5 is dirty"));
  table.mark_written(rows(5, 6));
  tokens[6] = kMask;
  CHECK(contains(refuse(), "row 6 holds the mask token"));
  CHECK(!table.is_sealed(0));
  tokens[6] = 16;
  CHECK(contains(
      message_of<Bad>([&] { table.seal_prefix(10, std::span(tokens).first(9), kMask, kRoot); }),
      "9 tokens"));
  // Rows 8 and 9 do not fill a page, so two of three pages are sealed.
  CHECK(table.seal_prefix(10, tokens, kMask, kRoot) == 2);
  CHECK(table.seal_prefix(10, tokens, kMask, kRoot) == 0);
  CHECK(table.is_sealed(7) && !table.is_sealed(8));
  CHECK(contains(message_of<Bad>([&] { table.mark_written(rows(6, 9)); }), "row 6"));
  CHECK(contains(message_of<Bad>([&] { table.mark_dirty(Rows{8, 7}); }), "row 7"));
  CHECK(table.num_dirty() == 0);
  table.check_invariants();
}

void an_adopted_prefix_is_cached_and_continues_the_chain() {
  const auto pool = std::make_shared<PagePool>(8, 4);
  const Rows tokens = counting(12);
  auto first = PageTable::try_create(pool, 8).value();
  first.mark_written(rows(0, 8));
  first.seal_prefix(8, tokens, kMask, kRoot);
  const Pages hit = pool->match(kRoot, tokens);
  CHECK(hit == (Pages{1, 2}));
  CHECK(contains(message_of<Bad>([&] { PageTable::try_create(pool, 7, hit); }), "8 rows"));
  CHECK(!PageTable::try_create(pool, 36, hit));
  CHECK(pool->ref_count(1) == 2);
  auto second = PageTable::try_create(pool, 12, hit).value();
  CHECK(second.num_cached() == 8 && pages_of(second) == (Pages{1, 2, 3}));
  second.mark_written(rows(8, 12));
  CHECK(second.seal_prefix(12, tokens, kMask, kRoot) == 1);
  first.release();
  second.release();
  CHECK(pool->match(kRoot, tokens) == (Pages{1, 2, 3}));
  CHECK(contains(message_of<Bad>([&] { PageTable::try_create(pool, 8, Pages{5}); }), "page 5"));
  pool->check_invariants();
}

void copy_on_write_replaces_only_sealed_pages_under_the_rows() {
  const auto pool = std::make_shared<PagePool>(8, 4);
  const Rows tokens = counting(12);
  auto table = PageTable::try_create(pool, 12).value();
  table.mark_written(rows(0, 12));
  table.seal_prefix(8, tokens, kMask, kRoot);
  using Copies = std::vector<std::pair<PageId, PageId>>;
  CHECK(table.copy_on_write({8, 8}) == Copies{});
  CHECK(table.copy_on_write({7, 12}) == (Copies{{2, 4}}));
  CHECK(pages_of(table) == (Pages{1, 4, 3}));
  CHECK(table.num_cached() == 12);
  // The content stays findable in page 2.
  CHECK(pool->free_order() == (Pages{5, 6, 7, 2}));
  const Pages rest = pool->try_allocate(4).value();
  CHECK(!table.copy_on_write({0, 1}));
  CHECK(pages_of(table) == (Pages{1, 4, 3}));
  CHECK(contains(message_of<Bad>([&] { table.copy_on_write({0, 13}); }), "[0,13)"));
  pool->release(rest);
  table.check_invariants();
}

void a_page_sealed_under_another_prefix_is_not_chained() {
  const auto pool = std::make_shared<PagePool>(8, 4);
  Rows tokens = counting(8);
  auto table = PageTable::try_create(pool, 8).value();
  table.mark_written(rows(0, 8));
  table.seal_prefix(8, tokens, kMask, kRoot);
  CHECK(table.copy_on_write({0, 4}));
  tokens[0] = 1;
  table.mark_written(rows(0, 4));
  const auto message = message_of<Bad>([&] { table.seal_prefix(8, tokens, kMask, kRoot); });
  CHECK(contains(message, "rows from 4 were sealed under another prefix"));
  CHECK(!table.is_sealed(0));
}

void growing_appends_uncached_rows_or_nothing() {
  const auto pool = std::make_shared<PagePool>(4, 4);
  auto table = PageTable::try_create(pool, 3).value();
  table.mark_written(rows(0, 3));
  CHECK(table.try_grow(4) && pages_of(table) == (Pages{1}));
  CHECK(table.try_grow(12) && pages_of(table) == (Pages{1, 2, 3}));
  CHECK(table.num_cached() == 3 && table.num_rows() == 12);
  CHECK(!table.try_grow(13));
  CHECK(table.num_rows() == 12);
  CHECK(contains(message_of<Bad>([&] { table.try_grow(11); }), "does not shrink"));
  table.check_invariants();
}

}  // namespace

int main() {
  a_table_takes_whole_pages_or_nothing();
  a_destroyed_or_overwritten_table_returns_its_pages();
  only_cached_rows_become_dirty_and_a_write_cleans_them();
  sealing_refuses_uncached_dirty_and_masked_rows();
  an_adopted_prefix_is_cached_and_continues_the_chain();
  copy_on_write_replaces_only_sealed_pages_under_the_rows();
  a_page_sealed_under_another_prefix_is_not_chained();
  growing_appends_uncached_rows_or_nothing();
}
