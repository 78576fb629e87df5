#include "core/batch_builder.hpp"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>

namespace starr {
namespace {

// Room for `count` more entries, growing geometrically as push_back does.
template <typename T>
void make_room(std::vector<T>& values, std::size_t count) {
  if (values.capacity() - values.size() >= count) return;
  values.reserve(std::max(values.size() + count, 2 * values.capacity()));
}

std::int32_t size_of(const RowRanges& rows) noexcept {
  return static_cast<std::int32_t>(rows.ranges().size());
}

// Rows of `rows` in front of `row`.
std::int32_t rows_before(const RowRanges& rows, std::int32_t row) noexcept {
  std::int32_t count = 0;
  for (const RowRange& range : rows.ranges()) {
    count += std::max(0, std::min(range.stop, row) - range.start);
  }
  return count;
}

// Which rows a row sees: those in front of `end_of(row)`.
struct VisibleRows {
  std::int32_t mask_block = 0;  // block length of the mask, 0 for a bidirectional one
  std::int32_t isolated = 0;    // rows in front of this one see no others
  std::int32_t open_from = std::numeric_limits<std::int32_t>::max();  // rows from here on see all

  std::int32_t end_of(std::int32_t row) const noexcept {
    if (row < isolated) return isolated;
    if (mask_block == 0 || row >= open_from) return std::numeric_limits<std::int32_t>::max();
    return row - row % mask_block + mask_block;
  }
};

// Fills in how many of the rows `attended` each row of `rows` sees, and says whether one of them
// sees fewer than all.
bool append_visible(const RowRange& rows, std::span<const RowRange> attended,
                    const VisibleRows& rule, std::int32_t*& out) noexcept {
  std::int32_t total = 0;
  for (const RowRange& range : attended) total += range.stop - range.start;
  bool limited = false;
  for (std::int32_t row = rows.start; row < rows.stop;) {
    const std::int32_t end = rule.end_of(row);
    const std::int32_t stop = std::min(end, rows.stop);
    std::int32_t seen = 0;
    for (const RowRange& range : attended) {
      seen += std::max(0, std::min(range.stop, end) - range.start);
    }
    out = std::fill_n(out, stop - row, seen);
    limited = limited || seen < total;
    row = stop;
  }
  return limited;
}

// Takes the next `count` entries off the front of `rest`.
template <typename T>
std::span<const T> take(std::span<const T>& rest, std::int32_t count) noexcept {
  const auto taken = rest.first(static_cast<std::size_t>(count));
  rest = rest.subspan(taken.size());
  return taken;
}

// Slots of rows [start, stop) of a table, in row order.
void append_slots(const RowRange& range, std::span<const PageId> pages, std::int32_t page_size,
                  std::int64_t*& out) noexcept {
  for (std::int32_t row = range.start; row < range.stop;) {
    const std::int32_t offset = row % page_size;
    const std::int32_t count = std::min(page_size - offset, range.stop - row);
    const auto page = static_cast<std::int64_t>(pages[static_cast<std::size_t>(row / page_size)]);
    for (std::int32_t i = 0; i < count; ++i) *out++ = page * page_size + offset + i;
    row += count;
  }
}

void require_size(const char* name, std::size_t found, std::int64_t expected) {
  if (static_cast<std::int64_t>(found) == expected) return;
  throw std::invalid_argument(std::string(name) + " must have " + std::to_string(expected) +
                              " elements for this batch, got " + std::to_string(found));
}

}  // namespace

BatchBuilder::BatchBuilder(std::int32_t page_size, std::int32_t mask_block, bool opens_block)
    : page_size_(page_size), mask_block_(mask_block), opens_block_(opens_block) {
  if (page_size < 1) {
    throw std::invalid_argument("page_size must be at least 1 row, got " +
                                std::to_string(page_size));
  }
  if (mask_block < 0) {
    throw std::invalid_argument("mask_block must not be negative, got " +
                                std::to_string(mask_block));
  }
}

void BatchBuilder::add(const PageTable* table, std::span<const std::int32_t> token_ids,
                       const PlanRows& plan, const RowRange& active_block, bool dirty_allowed,
                       std::int32_t mask_token_id, std::int32_t isolated) {
  constexpr std::int64_t kMaxRows = std::numeric_limits<std::int32_t>::max();
  if (table != nullptr && table->page_size() != page_size_) {
    throw std::invalid_argument("the table's page_size is " + std::to_string(table->page_size()) +
                                ", the builder's is " + std::to_string(page_size_));
  }
  if (static_cast<std::int64_t>(token_ids.size()) > kMaxRows) {
    throw std::invalid_argument("token_ids has more than 2**31 - 1 rows");
  }
  if (isolated < 0 || static_cast<std::size_t>(isolated) > token_ids.size()) {
    throw std::invalid_argument("isolated must lie in [0, " + std::to_string(token_ids.size()) +
                                "], got " + std::to_string(isolated));
  }
  if (!plan.shadow.empty() && mask_token_id < 0) {
    throw std::invalid_argument("shadow rows need a mask_token_id, got " +
                                std::to_string(mask_token_id));
  }
  const ReadSource source = validate_plan(plan, table, static_cast<std::int32_t>(token_ids.size()),
                                          active_block, dirty_allowed);
  const bool paged = source == ReadSource::kPages;
  // cu_query and cu_read are int32.
  const std::int64_t num_shadow = plan.shadow.num_rows();
  if (num_query_rows() + plan.query.num_rows() + num_shadow > kMaxRows ||
      num_read_rows_ + (paged ? plan.read.num_rows() : 0) > kMaxRows) {
    throw std::invalid_argument("a batch holds at most 2**31 - 1 rows");
  }
  const RowRanges& attended = paged ? plan.read : plan.query;
  const Request request{
      .query_ranges = size_of(plan.query),
      .write_ranges = size_of(plan.write),
      .read_ranges = paged ? size_of(plan.read) : 0,
      .score_ranges = size_of(plan.score),
      .shadow_ranges = size_of(plan.shadow),
      .shadow_score_ranges = size_of(plan.shadow_score),
      .shadow_column = plan.shadow.empty() ? 0 : rows_before(attended, active_block.start),
      .pages = paged ? static_cast<std::int32_t>(table->pages().size()) : 0,
      .isolated = isolated,
      .open_from = opens_block_ ? active_block.start : std::numeric_limits<std::int32_t>::max()};
  const std::initializer_list<const RowRanges*> sets = {
      &plan.query, &plan.write, &plan.read, &plan.score, &plan.shadow, &plan.shadow_score};
  std::size_t num_ranges = 0;
  for (const RowRanges* rows : sets) num_ranges += rows->ranges().size();
  make_room(requests_, 1);
  make_room(ranges_, num_ranges);
  make_room(pages_, static_cast<std::size_t>(request.pages));
  make_room(query_tokens_, static_cast<std::size_t>(plan.query.num_rows() + num_shadow));
  // Nothing below allocates, so nothing below can throw.
  requests_.push_back(request);
  for (const RowRanges* rows : sets) {
    if (rows == &plan.read && !paged) continue;
    ranges_.insert(ranges_.end(), rows->ranges().begin(), rows->ranges().end());
  }
  if (paged) pages_.insert(pages_.end(), table->pages().begin(), table->pages().end());
  for (const RowRange& range : plan.query.ranges()) {
    query_tokens_.insert(query_tokens_.end(), token_ids.begin() + range.start,
                         token_ids.begin() + range.stop);
  }
  query_tokens_.insert(query_tokens_.end(), static_cast<std::size_t>(num_shadow), mask_token_id);
  num_read_rows_ += paged ? plan.read.num_rows() : 0;
  num_score_rows_ += plan.score.num_rows() + plan.shadow_score.num_rows();
  num_shadow_score_rows_ += plan.shadow_score.num_rows();
  max_pages_ = std::max(max_pages_, request.pages);
}

void BatchBuilder::clear() noexcept {
  requests_.clear();
  ranges_.clear();
  pages_.clear();
  query_tokens_.clear();
  num_read_rows_ = num_score_rows_ = num_shadow_score_rows_ = 0;
  max_pages_ = 0;
}

void BatchBuilder::check_sizes(const BatchBuffers& out) const {
  const std::int64_t num_cumulative = num_requests() + std::int64_t{1};
  require_size("input_ids", out.input_ids.size(), num_query_rows());
  require_size("positions", out.positions.size(), num_query_rows());
  require_size("slot_mapping", out.slot_mapping.size(), num_query_rows());
  require_size("cu_query", out.cu_query.size(), num_cumulative);
  require_size("cu_read", out.cu_read.size(), num_cumulative);
  require_size("read_slots", out.read_slots.size(), num_read_rows_);
  require_size("page_table", out.page_table.size(),
               static_cast<std::int64_t>(num_requests()) * max_pages_);
  require_size("logits_rows", out.logits_rows.size(), num_score_rows_);
  require_size("score_request", out.score_request.size(), num_score_rows_);
  require_size("score_positions", out.score_positions.size(), num_score_rows_);
  require_size("shadow_lens", out.shadow_lens.size(), num_requests());
  require_size("shadow_columns", out.shadow_columns.size(), num_requests());
  require_size("visible", out.visible.size(), num_query_rows());
  require_size("limited", out.limited.size(), num_requests());
}

void BatchBuilder::fill(const BatchBuffers& out) const {
  check_sizes(out);
  std::copy(query_tokens_.begin(), query_tokens_.end(), out.input_ids.begin());
  std::fill(out.slot_mapping.begin(), out.slot_mapping.end(), -1);
  std::fill(out.page_table.begin(), out.page_table.end(), kReservedPage);
  std::span<const RowRange> ranges = ranges_;
  std::span<const PageId> pages = pages_;
  std::int64_t num_query = 0;
  std::int64_t num_score = 0;
  std::int64_t num_shadow_score = num_score_rows_ - num_shadow_score_rows_;
  std::int64_t* read_slot = out.read_slots.data();
  std::int32_t* visible = out.visible.data();
  out.cu_query[0] = out.cu_read[0] = 0;
  const auto append_scores = [&](const RowRange& range, std::int64_t shift, std::size_t request,
                                 std::int64_t& count) {
    for (std::int32_t row = range.start; row < range.stop; ++row) {
      const auto i = static_cast<std::size_t>(count++);
      out.logits_rows[i] = row + shift;
      out.score_request[i] = static_cast<std::int32_t>(request);
      out.score_positions[i] = row;
    }
  };
  const auto append_positions = [&](const RowRange& range, std::int64_t shift) {
    for (std::int64_t row = range.start; row < range.stop; ++row) {
      out.positions[static_cast<std::size_t>(row + shift)] = row;
    }
  };
  for (std::size_t r = 0; r < requests_.size(); ++r) {
    const Request& request = requests_[r];
    const auto query = take(ranges, request.query_ranges);
    auto write = take(ranges, request.write_ranges);
    const auto read = take(ranges, request.read_ranges);
    auto score = take(ranges, request.score_ranges);
    const auto shadow = take(ranges, request.shadow_ranges);
    const auto shadow_score = take(ranges, request.shadow_score_ranges);
    const auto table = take(pages, request.pages);
    const auto attended = request.read_ranges == 0 ? query : read;
    out.limited[r] = 0;
    for (const RowRange& range : query) {
      const VisibleRows rule{mask_block_, request.isolated, request.open_from};
      if (append_visible(range, attended, rule, visible)) out.limited[r] = 1;
      // Row numbers become batch indices by adding this; ranges of W and D never cross a range
      // of A, because ranges do not touch and both are subsets of A.
      const std::int64_t shift = num_query - range.start;
      append_positions(range, shift);
      for (; !write.empty() && write.front().start < range.stop; write = write.subspan(1)) {
        std::int64_t* slot = out.slot_mapping.data() + write.front().start + shift;
        append_slots(write.front(), table, page_size_, slot);
      }
      for (; !score.empty() && score.front().start < range.stop; score = score.subspan(1)) {
        append_scores(score.front(), shift, r, num_score);
      }
      num_query += range.stop - range.start;
    }
    out.shadow_lens[r] = 0;
    out.shadow_columns[r] = request.shadow_column;
    for (const RowRange& range : shadow) {
      const std::int64_t shift = num_query - range.start;
      append_positions(range, shift);
      append_visible(range, attended, VisibleRows{}, visible);
      for (const RowRange& scored : shadow_score) {
        append_scores(scored, shift, r, num_shadow_score);
      }
      out.shadow_lens[r] += range.stop - range.start;
      num_query += range.stop - range.start;
    }
    for (const RowRange& range : read) append_slots(range, table, page_size_, read_slot);
    std::copy(table.begin(), table.end(),
              out.page_table.begin() +
                  static_cast<std::ptrdiff_t>(r * static_cast<std::size_t>(max_pages_)));
    out.cu_query[r + 1] = static_cast<std::int32_t>(num_query);
    out.cu_read[r + 1] = static_cast<std::int32_t>(read_slot - out.read_slots.data());
  }
}

}  // namespace starr
