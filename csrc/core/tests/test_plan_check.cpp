#include <memory>
#include <vector>

#include "check.hpp"
#include "core/plan_check.hpp"

namespace {

using starr::PagePool;
using starr::PageTable;
using starr::PlanError;
using starr::PlanRows;
using starr::ReadSource;
using starr::RowRange;
using starr::RowRanges;

RowRanges of(std::vector<RowRange> ranges) { return RowRanges(ranges); }

// Twelve live rows in pages of four; the active block is the middle page.
constexpr std::int32_t kRows = 12;
constexpr RowRange kBlock{4, 8};

ReadSource check(const PlanRows& plan, const PageTable* table, bool dirty_allowed = false) {
  return starr::validate_plan(plan, table, kRows, kBlock, dirty_allowed);
}

std::string refusal(const PlanRows& plan, const PageTable* table) {
  return message_of<PlanError>([&] { check(plan, table); });
}

PageTable table_with(const std::shared_ptr<PagePool>& pool, const RowRanges& written) {
  auto table = PageTable::try_create(pool, kRows).value();
  table.mark_written(written);
  return table;
}

const RowRanges kAll = of({{0, kRows}});
const RowRanges kNone;

void the_plans_of_each_cache_policy_are_accepted() {
  const auto pool = std::make_shared<PagePool>(16, 4);
  const PageTable empty = table_with(pool, kNone);
  const PageTable full = table_with(pool, kAll);
  const RowRanges block = of({kBlock});
  const RowRanges from_block = of({{4, kRows}});
  CHECK(check({kAll, kNone, kAll, block}, nullptr) == ReadSource::kFresh);  // none
  CHECK(check({kAll, kNone, kAll, block}, &full) == ReadSource::kFresh);
  CHECK(check({kAll, kAll, kAll, block}, &empty) == ReadSource::kPages);             // refresh
  CHECK(check({from_block, from_block, kAll, block}, &full) == ReadSource::kPages);  // prefix
  CHECK(check({block, block, kAll, block}, &full) == ReadSource::kPages);            // dual
  CHECK(check({of({{2, 10}}), of({{2, 10}}), kAll, block}, &full) == ReadSource::kPages);
  const RowRanges picked = of({{1, 2}, {5, 7}});
  CHECK(check({picked, picked, kAll, of({{5, 6}})}, &full) == ReadSource::kPages);  // delayed
  CHECK(check({kNone, kNone, kNone, kNone}, nullptr) == ReadSource::kFresh);
}

void every_set_must_lie_in_the_live_rows() {
  const auto pool = std::make_shared<PagePool>(16, 4);
  const PageTable full = table_with(pool, kAll);
  const RowRanges beyond = of({{0, 2}, {10, 14}});
  CHECK(contains(refusal({beyond, kNone, kAll, kNone}, &full), "query must lie in"));
  CHECK(contains(refusal({beyond, kNone, kAll, kNone}, &full), "first row 12"));
  CHECK(contains(refusal({kAll, beyond, kAll, kNone}, &full), "write must lie in"));
  CHECK(contains(refusal({kAll, kNone, beyond, kNone}, &full), "read must lie in"));
  CHECK(contains(refusal({kAll, kNone, kAll, of({{20, 21}})}, &full), "first row 20"));
  const PlanRows fine{kAll, kNone, kAll, kNone};
  const auto with_block = [&](RowRange block, std::int32_t num_rows) {
    return message_of<PlanError>(
        [&] { starr::validate_plan(fine, &full, num_rows, block, false); });
  };
  CHECK(contains(with_block({4, 13}, kRows), "active_block=[4,13)"));
  CHECK(contains(with_block({5, 4}, kRows), "active_block=[5,4)"));
  CHECK(contains(with_block({4, 8}, 13), "every live row, it has 12"));
}

void write_and_score_must_be_computed() {
  const auto pool = std::make_shared<PagePool>(16, 4);
  const PageTable full = table_with(pool, kAll);
  const RowRanges query = of({{0, 6}});
  const auto write = refusal({query, of({{4, 8}}), kAll, kNone}, &full);
  CHECK(contains(write, "write must be a subset of query; first row 6"));
  CHECK(contains(write, "query=[0,6), write=[4,8), read=[0,12), score=empty"));
  CHECK(contains(refusal({query, query, kAll, of({{5, 9}})}, &full),
                 "score must be a subset of query; first row 6"));
}

void a_read_must_be_computed_or_cached() {
  const auto pool = std::make_shared<PagePool>(16, 4);
  const PageTable half = table_with(pool, of({{0, 7}}));
  const RowRanges block = of({kBlock});
  CHECK(contains(refusal({block, block, kAll, block}, &half),
                 "a row read must be in query or cached; first row 8"));
  CHECK(contains(refusal({block, kNone, kNone, block}, &half), "read must not be empty"));
}

void reads_never_mix_pages_and_fresh_rows() {
  const auto pool = std::make_shared<PagePool>(16, 4);
  const PageTable full = table_with(pool, kAll);
  const RowRanges block = of({kBlock});
  const PageTable bare = table_with(pool, of({{8, 12}}));
  CHECK(contains(refusal({kAll, of({{0, 6}}), kAll, block}, &bare), "first row 6"));
  CHECK(contains(refusal({kAll, block, kAll, block}, &bare), "first row 0"));
  // A row computed for its logits alone is read as its page holds it.
  CHECK(check({block, of({{4, 6}}), kAll, block}, &full) == ReadSource::kPages);
  // A row that is computed and not read needs pages: fresh rows are all read.
  CHECK(contains(refusal({block, kNone, of({{4, 6}}), block}, nullptr), "first row 6"));
  CHECK(contains(refusal({block, kNone, of({{4, 6}}), block}, &bare), "first row 4"));
  // Then it need not be written.
  CHECK(check({block, of({{4, 6}}), of({{0, 6}}), block}, &full) == ReadSource::kPages);
}

void shadow_rows_are_those_of_the_whole_active_block_or_none() {
  const auto pool = std::make_shared<PagePool>(16, 4);
  const PageTable full = table_with(pool, kAll);
  const RowRanges block = of({kBlock});
  const RowRanges some = of({{5, 7}});
  CHECK(check({block, block, kAll, block, block, some}, &full) == ReadSource::kPages);
  CHECK(check({kAll, kNone, kAll, block, block, block}, nullptr) == ReadSource::kFresh);
  CHECK(contains(refusal({kAll, kNone, kAll, block, of({{3, 8}}), kNone}, nullptr),
                 "shadow must lie in the active block; first row 3"));
  CHECK(contains(refusal({kAll, kNone, kAll, block, of({{4, 7}}), kNone}, nullptr),
                 "shadow must be empty or all of the active block; first row 7"));
  CHECK(contains(refusal({kAll, kNone, kAll, block, of({{4, 20}}), kNone}, nullptr),
                 "shadow must lie in [0, num_rows); first row 12"));
  CHECK(contains(refusal({kAll, kNone, kAll, block, kNone, some}, nullptr),
                 "shadow_score must be a subset of shadow; first row 5"));
  // What a shadow row hides must be there to be hidden.
  const auto unread = refusal({block, block, of({{0, 6}}), block, block, some}, &full);
  CHECK(contains(unread, "must be read when it has shadow rows; first row 6"));
  CHECK(contains(unread, "score=[4,8), shadow=[4,8), shadow_score=[5,7), num_rows=12"));
}

void a_sealed_page_is_never_written() {
  const auto pool = std::make_shared<PagePool>(16, 4);
  PageTable table = table_with(pool, kAll);
  const std::vector<std::int32_t> tokens(kRows, 1);
  table.seal_prefix(4, tokens, 99, starr::root_key("test"));
  CHECK(contains(refusal({kAll, kAll, kAll, kNone}, &table), "SEALED page must not be written"));
  const RowRanges rest = of({{4, kRows}});
  CHECK(check({rest, rest, kAll, kNone}, &table) == ReadSource::kPages);
  CHECK(check({kAll, kNone, kAll, kNone}, &table) == ReadSource::kFresh);
}

void without_a_table_nothing_is_written_or_reused() {
  const RowRanges block = of({kBlock});
  CHECK(contains(refusal({kAll, block, kAll, block}, nullptr), "write must be empty"));
  CHECK(contains(refusal({block, kNone, kAll, block}, nullptr), "read must be a subset of query"));
}

void dirty_rows_are_context_only_inside_the_active_block() {
  const auto pool = std::make_shared<PagePool>(16, 4);
  PageTable table = table_with(pool, kAll);
  const RowRanges part = of({{4, 6}});
  const PlanRows plan{part, part, kAll, part};
  table.mark_dirty(std::vector<std::int32_t>{7});
  CHECK(check(plan, &table) == ReadSource::kPages);
  table.mark_dirty(std::vector<std::int32_t>{9});
  CHECK(contains(refusal(plan, &table), "a dirty row outside the active block"));
  CHECK(contains(refusal(plan, &table), "first row 9"));
  CHECK(check(plan, &table, true) == ReadSource::kPages);
  const RowRanges with_dirty = of({{4, 6}, {9, 10}});
  CHECK(check({with_dirty, with_dirty, kAll, part}, &table) == ReadSource::kPages);
  CHECK(check({part, part, of({{0, 9}}), part}, &table) == ReadSource::kPages);
}

}  // namespace

int main() {
  the_plans_of_each_cache_policy_are_accepted();
  every_set_must_lie_in_the_live_rows();
  write_and_score_must_be_computed();
  a_read_must_be_computed_or_cached();
  reads_never_mix_pages_and_fresh_rows();
  shadow_rows_are_those_of_the_whole_active_block_or_none();
  a_sealed_page_is_never_written();
  without_a_table_nothing_is_written_or_reused();
  dirty_rows_are_context_only_inside_the_active_block();
}
