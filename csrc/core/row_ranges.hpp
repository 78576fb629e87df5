#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace starr {

// Rows [start, stop) of one request; row 0 is the first token of the prompt.
struct RowRange {
  std::int32_t start = 0;
  std::int32_t stop = 0;

  friend bool operator==(const RowRange&, const RowRange&) = default;
};

// A set of rows as sorted, disjoint, non-empty and non-touching half-open ranges.
class RowRanges {
 public:
  RowRanges() = default;

  // `ranges` must ascend without overlap; empty ones are dropped and touching ones joined.
  // Throws std::invalid_argument naming the range that is negative, reversed or out of order.
  explicit RowRanges(std::span<const RowRange> ranges);

  // The set of single `rows`, which must be non-negative and strictly ascending. Throws
  // std::invalid_argument naming the row that is not.
  static RowRanges of_rows(std::span<const std::int32_t> rows);

  std::span<const RowRange> ranges() const noexcept { return ranges_; }
  std::int32_t num_rows() const noexcept { return num_rows_; }
  bool empty() const noexcept { return ranges_.empty(); }
  // One past the last row; 0 when empty.
  std::int32_t stop() const noexcept { return ranges_.empty() ? 0 : ranges_.back().stop; }

 private:
  std::vector<RowRange> ranges_;
  std::int32_t num_rows_ = 0;
};

// First row of `rows` that is not in `within`, or nothing when rows is a subset.
std::optional<std::int32_t> first_outside(const RowRanges& rows, const RowRanges& within) noexcept;

RowRanges intersect(const RowRanges& a, const RowRanges& b);
RowRanges subtract(const RowRanges& a, const RowRanges& b);

std::string to_string(const RowRange& range);  // "[0,4)"

// "[0,4) [8,9)", at most six ranges and then a count; "empty" for the empty set.
std::string to_string(const RowRanges& rows);

}  // namespace starr
