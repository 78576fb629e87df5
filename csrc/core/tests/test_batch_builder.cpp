#include <memory>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "core/batch_builder.hpp"

namespace {

using starr::BatchBuffers;
using starr::BatchBuilder;
using starr::PagePool;
using starr::PageTable;
using starr::PlanError;
using starr::RowRange;
using starr::RowRanges;

using I32 = std::vector<std::int32_t>;
using I64 = std::vector<std::int64_t>;

RowRanges of(std::vector<RowRange> ranges) { return RowRanges(ranges); }

// Owns arrays of the lengths that a builder asks for, filled with a value that is not valid.
struct Arrays {
  explicit Arrays(const BatchBuilder& builder)
      : input_ids(size(builder.num_query_rows()), -7),
        positions(input_ids),
        slot_mapping(input_ids),
        cu_query(size(builder.num_requests()) + 1, -7),
        cu_read(cu_query),
        read_slots(size(builder.num_read_rows()), -7),
        page_table(size(builder.num_requests() * builder.max_pages()), -7),
        logits_rows(size(builder.num_score_rows()), -7),
        score_request(size(builder.num_score_rows()), -7),
        score_positions(score_request),
        shadow_lens(size(builder.num_requests()), -7),
        shadow_columns(shadow_lens),
        visible(size(builder.num_query_rows()), -7),
        limited(shadow_lens) {}

  static std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }

  BatchBuffers buffers() {
    return {input_ids,   positions,      slot_mapping, cu_query,      cu_read,
            read_slots,  page_table,     logits_rows,  score_request, score_positions,
            shadow_lens, shadow_columns, visible,      limited};
  }

  I64 input_ids, positions, slot_mapping;
  I32 cu_query, cu_read;
  I64 read_slots;
  I32 page_table;
  I64 logits_rows;
  I32 score_request, score_positions;
  I32 shadow_lens, shadow_columns;
  I32 visible, limited;
};

void a_mixed_batch_is_laid_out_as_drawn() {
  const auto pool = std::make_shared<PagePool>(16, 4);
  auto dual = PageTable::try_create(pool, 6).value();     // pages 1, 2
  auto refresh = PageTable::try_create(pool, 9).value();  // pages 3, 4, 5
  const RowRange all{0, 6};
  dual.mark_written(of({all}));
  const I32 a = {10, 11, 12, 13, 14, 15};
  const I32 b = {20, 21, 22, 23, 24, 25, 26, 27, 28};
  const I32 c = {30, 31, 32};
  BatchBuilder builder(4);
  // 0: rows 1 and 3..4 are computed and written, all six are read, rows 3 and 4 are scored.
  const RowRanges picked = of({{1, 2}, {3, 5}});
  builder.add(&dual, a, {picked, picked, of({all}), of({{3, 5}})}, {2, 6});
  // 1: no pages; three rows, the outer two scored.
  builder.add(nullptr, c, {of({{0, 3}}), {}, of({{0, 3}}), of({{0, 1}, {2, 3}})}, {0, 3});
  // 2: all nine rows written and read.
  const RowRanges nine = of({{0, 9}});
  builder.add(&refresh, b, {nine, nine, nine, of({{8, 9}})}, {8, 9});

  CHECK(builder.num_requests() == 3 && builder.num_query_rows() == 3 + 3 + 9);
  CHECK(builder.num_read_rows() == 6 + 0 + 9 && builder.num_score_rows() == 2 + 2 + 1);
  CHECK(builder.max_pages() == 3);
  Arrays out(builder);
  builder.fill(out.buffers());
  CHECK(out.input_ids == (I64{11, 13, 14, 30, 31, 32, 20, 21, 22, 23, 24, 25, 26, 27, 28}));
  CHECK(out.positions == (I64{1, 3, 4, 0, 1, 2, 0, 1, 2, 3, 4, 5, 6, 7, 8}));
  // Request 0: row 1 -> 1*4+1, row 3 -> 1*4+3, row 4 -> 2*4. Request 2: pages 3, 4, 5.
  CHECK(out.slot_mapping == (I64{5, 7, 8, -1, -1, -1, 12, 13, 14, 15, 16, 17, 18, 19, 20}));
  CHECK(out.cu_query == (I32{0, 3, 6, 15}));
  CHECK(out.cu_read == (I32{0, 6, 6, 15}));
  CHECK(out.read_slots == (I64{4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 18, 19, 20}));
  CHECK(out.page_table == (I32{1, 2, 0, 0, 0, 0, 3, 4, 5}));
  CHECK(out.logits_rows == (I64{1, 2, 3, 5, 14}));
  CHECK(out.score_request == (I32{0, 0, 1, 1, 2}));
  CHECK(out.score_positions == (I32{3, 4, 0, 2, 8}));
  CHECK(out.shadow_lens == I32(3, 0) && out.shadow_columns == I32(3, 0));
  CHECK(out.visible == (I32{6, 6, 6, 3, 3, 3, 9, 9, 9, 9, 9, 9, 9, 9, 9}));
  CHECK(out.limited == I32(3, 0));
}

void shadow_rows_come_behind_their_request_and_have_no_slot() {
  const auto pool = std::make_shared<PagePool>(8, 4);
  auto table = PageTable::try_create(pool, 8).value();  // pages 1, 2
  table.mark_written(of({{0, 8}}));
  const I32 a = {10, 11, 12, 13, 14, 15, 16, 17};
  const I32 b = {30, 31, 32, 33, 34};
  BatchBuilder builder(4);
  // 0: from pages. Rows 4..6 are computed and written, all but row 1 are read.
  const RowRanges block = of({{4, 7}});
  const RowRanges read = of({{0, 1}, {2, 8}});
  builder.add(&table, a, {block, block, read, of({{6, 7}}), block, of({{4, 6}})}, {4, 7}, false,
              99);
  // 1: fresh. Rows 1..4 are computed, two of them are the block; shadow row 2 is scored.
  const RowRanges own = of({{1, 5}});
  builder.add(nullptr, b, {own, {}, own, of({{3, 4}}), of({{2, 4}}), of({{2, 3}})}, {2, 4}, false,
              98);
  // 2: without shadow rows.
  builder.add(nullptr, b, {of({{0, 1}}), {}, of({{0, 1}}), of({{0, 1}})}, {0, 1});

  CHECK(builder.num_query_rows() == (3 + 3) + (4 + 2) + 1);
  CHECK(builder.num_score_rows() == (1 + 2) + (1 + 1) + 1 && builder.num_read_rows() == 7);
  Arrays out(builder);
  builder.fill(out.buffers());
  CHECK(out.input_ids == (I64{14, 15, 16, 99, 99, 99, 31, 32, 33, 34, 98, 98, 30}));
  CHECK(out.positions == (I64{4, 5, 6, 4, 5, 6, 1, 2, 3, 4, 2, 3, 0}));
  CHECK(out.slot_mapping == (I64{8, 9, 10, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1}));
  CHECK(out.cu_query == (I32{0, 6, 12, 13}) && out.cu_read == (I32{0, 7, 7, 7}));
  CHECK(out.read_slots == (I64{4, 6, 7, 8, 9, 10, 11}));
  // First what each request scores, then the shadow rows of all: 4 and 5 of one, 2 of the other.
  CHECK(out.logits_rows == (I64{2, 8, 12, 3, 4, 10}));
  CHECK(out.score_request == (I32{0, 1, 2, 0, 0, 1}));
  CHECK(out.score_positions == (I32{6, 3, 0, 4, 5, 2}));
  CHECK(out.shadow_lens == (I32{3, 2, 0}));
  // Rows 0, 2 and 3 are read in front of the block; row 1 is computed in front of it.
  CHECK(out.shadow_columns == (I32{3, 1, 0}));
  CHECK(out.visible == (I32{7, 7, 7, 7, 7, 7, 4, 4, 4, 4, 4, 4, 1}));
}

void a_row_sees_up_to_the_end_of_its_mask_block() {
  const auto pool = std::make_shared<PagePool>(8, 4);
  auto table = PageTable::try_create(pool, 10).value();
  table.mark_written(of({{0, 10}}));
  const I32 tokens(10, 1);
  BatchBuilder builder(4, 4);
  // Fresh: blocks [0,4) [4,8) [8,10).
  const RowRanges all = of({{0, 10}});
  builder.add(nullptr, tokens, {all, {}, all, {}}, {8, 10});
  // The last block alone sees all that is read.
  const RowRanges last = of({{8, 10}});
  builder.add(&table, tokens, {last, last, all, {}}, {8, 10});
  // Two blocks from pages, of which rows 1 and 2 are not read.
  const RowRanges two = of({{4, 10}});
  builder.add(&table, tokens, {two, two, of({{0, 1}, {3, 10}}), {}}, {8, 10});
  // Shadow rows see everything.
  builder.add(&table, tokens, {two, two, all, {}, last, last}, {8, 10}, false, 9);
  Arrays out(builder);
  builder.fill(out.buffers());
  CHECK(out.visible == (I32{4, 4, 4, 4, 8, 8, 8, 8, 10, 10, 10, 10, 6,
                            6, 6, 6, 8, 8, 8, 8, 8, 8,  10, 10, 10, 10}));
  CHECK(out.limited == (I32{1, 0, 1, 1}));
  // Isolated rows see each other alone, and the others all that is read.
  BatchBuilder bidirectional(4);
  bidirectional.add(nullptr, tokens, {all, {}, all, {}}, {8, 10}, false, -1, 7);
  bidirectional.add(&table, tokens, {last, last, all, {}}, {8, 10}, false, -1, 7);
  Arrays isolated(bidirectional);
  bidirectional.fill(isolated.buffers());
  CHECK(isolated.visible == (I32{7, 7, 7, 7, 7, 7, 7, 10, 10, 10, 10, 10}));
  CHECK(isolated.limited == (I32{1, 0}));
  CHECK(contains(message_of<std::invalid_argument>([&] {
                   bidirectional.add(nullptr, tokens, {all, {}, all, {}}, {8, 10}, false, -1, 11);
                 }),
                 "isolated must lie in [0, 10], got 11"));
  CHECK(contains(message_of<std::invalid_argument>([] { BatchBuilder(4, -1); }), "mask_block"));
}

void shadow_rows_without_a_mask_are_refused() {
  const I32 tokens(4, 1);
  const RowRanges all = of({{0, 4}});
  const RowRanges block = of({{2, 4}});
  BatchBuilder builder(4);
  const auto refused = message_of<std::invalid_argument>(
      [&] { builder.add(nullptr, tokens, {all, {}, all, block, block, block}, {2, 4}); });
  CHECK(contains(refused, "shadow rows need a mask_token_id, got -1"));
  CHECK(builder.num_requests() == 0 && builder.num_query_rows() == 0);
  builder.add(nullptr, tokens, {all, {}, all, block, block, block}, {2, 4}, false, 0);
  CHECK(builder.num_query_rows() == 6 && builder.num_score_rows() == 4);
}

void computed_rows_outside_write_get_no_slot() {
  const auto pool = std::make_shared<PagePool>(4, 4);
  auto table = PageTable::try_create(pool, 8).value();
  table.mark_written(of({{0, 8}}));
  BatchBuilder builder(4);
  const I32 tokens(8, 1);
  builder.add(&table, tokens, {of({{2, 8}}), of({{3, 4}, {6, 7}}), of({{0, 2}, {6, 7}}), {}},
              {0, 8});
  Arrays out(builder);
  builder.fill(out.buffers());
  // Row 3 is slot 1*4+3, row 6 is slot 2*4+2.
  CHECK(out.slot_mapping == (I64{-1, 7, -1, -1, 10, -1}));
  CHECK(out.read_slots == (I64{4, 5, 10}));
}

void a_refused_plan_leaves_the_builder_unchanged() {
  const auto pool = std::make_shared<PagePool>(16, 4);
  const auto wrong_pool = std::make_shared<PagePool>(16, 8);
  auto table = PageTable::try_create(pool, 8).value();
  auto wrong = PageTable::try_create(wrong_pool, 8).value();
  const I32 tokens(8, 1);
  const RowRanges all = of({{0, 8}});
  BatchBuilder builder(4);
  builder.add(&table, tokens, {all, all, all, all}, {0, 8});
  message_of<PlanError>([&] { builder.add(&table, tokens, {of({{0, 4}}), {}, all, {}}, {0, 8}); });
  CHECK(contains(message_of<std::invalid_argument>(
                     [&] { builder.add(&wrong, tokens, {all, all, all, all}, {0, 8}); }),
                 "page_size is 8"));
  CHECK(builder.num_requests() == 1 && builder.num_query_rows() == 8);
  CHECK(builder.num_read_rows() == 8 && builder.num_score_rows() == 8 && builder.max_pages() == 2);
  Arrays out(builder);
  builder.fill(out.buffers());
  CHECK(out.cu_query == (I32{0, 8}));
}

void a_wrong_length_is_refused_before_anything_is_written() {
  BatchBuilder builder(4);
  const I32 tokens(3, 1);
  const RowRanges all = of({{0, 3}});
  builder.add(nullptr, tokens, {all, {}, all, all}, {0, 3});
  Arrays few(builder);
  few.shadow_columns.clear();
  CHECK(contains(message_of<std::invalid_argument>([&] { builder.fill(few.buffers()); }),
                 "shadow_columns must have 1 elements for this batch, got 0"));
  CHECK(few.input_ids == I64(3, -7));
  Arrays out(builder);
  out.score_positions.resize(2);
  CHECK(contains(message_of<std::invalid_argument>([&] { builder.fill(out.buffers()); }),
                 "score_positions must have 3 elements for this batch, got 2"));
  CHECK(out.input_ids == I64(3, -7) && out.cu_query == I32(2, -7));
}

void an_empty_batch_and_a_cleared_builder_are_filled() {
  BatchBuilder builder(4);
  const I32 tokens(3, 1);
  const RowRanges all = of({{0, 3}});
  builder.add(nullptr, tokens, {all, {}, all, all}, {0, 3});
  builder.clear();
  CHECK(builder.num_requests() == 0 && builder.num_query_rows() == 0 && builder.max_pages() == 0);
  Arrays out(builder);
  builder.fill(out.buffers());
  CHECK(out.cu_query == (I32{0}) && out.cu_read == (I32{0}));
  CHECK(contains(message_of<std::invalid_argument>([] { BatchBuilder(0); }), "page_size"));
}

}  // namespace

int main() {
  a_mixed_batch_is_laid_out_as_drawn();
  shadow_rows_come_behind_their_request_and_have_no_slot();
  a_row_sees_up_to_the_end_of_its_mask_block();
  shadow_rows_without_a_mask_are_refused();
  computed_rows_outside_write_get_no_slot();
  a_refused_plan_leaves_the_builder_unchanged();
  a_wrong_length_is_refused_before_anything_is_written();
  an_empty_batch_and_a_cleared_builder_are_filled();
}
