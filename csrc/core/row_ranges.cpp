#include "core/row_ranges.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace starr {
RowRanges::RowRanges(std::span<const RowRange> ranges) {
  ranges_.reserve(ranges.size());
  std::int32_t previous_stop = 0;
  for (const RowRange& range : ranges) {
    if (range.start < 0 || range.stop < range.start) {
      throw std::invalid_argument("a range needs 0 <= start <= stop, got " + to_string(range));
    }
    if (range.start < previous_stop) {
      throw std::invalid_argument("ranges must ascend without overlap: " + to_string(range) +
                                  " starts before row " + std::to_string(previous_stop) +
                                  ", where the one before stops");
    }
    previous_stop = range.stop;
    if (range.start == range.stop) continue;
    num_rows_ += range.stop - range.start;
    if (!ranges_.empty() && ranges_.back().stop == range.start) {
      ranges_.back().stop = range.stop;
    } else {
      ranges_.push_back(range);
    }
  }
}

RowRanges RowRanges::of_rows(std::span<const std::int32_t> rows) {
  RowRanges set;
  std::int32_t previous = -1;
  for (const std::int32_t row : rows) {
    if (row <= previous || row == std::numeric_limits<std::int32_t>::max()) {
      throw std::invalid_argument("rows must ascend from 0 without repetition: row " +
                                  std::to_string(row) + " follows " + std::to_string(previous));
    }
    if (!set.empty() && row == previous + 1) {
      set.ranges_.back().stop = row + 1;
    } else {
      set.ranges_.push_back({row, row + 1});
    }
    previous = row;
  }
  set.num_rows_ = static_cast<std::int32_t>(rows.size());
  return set;
}

std::optional<std::int32_t> first_outside(const RowRanges& rows, const RowRanges& within) noexcept {
  auto cover = within.ranges().begin();
  const auto end = within.ranges().end();
  for (const RowRange& range : rows.ranges()) {
    while (cover != end && cover->stop <= range.start) ++cover;
    if (cover == end || cover->start > range.start) return range.start;
    // Ranges of `within` do not touch, so one of them must hold the whole range.
    if (cover->stop < range.stop) return cover->stop;
  }
  return std::nullopt;
}

RowRanges intersect(const RowRanges& a, const RowRanges& b) {
  std::vector<RowRange> common;
  auto left = a.ranges().begin();
  auto right = b.ranges().begin();
  while (left != a.ranges().end() && right != b.ranges().end()) {
    const RowRange overlap{std::max(left->start, right->start), std::min(left->stop, right->stop)};
    if (overlap.start < overlap.stop) common.push_back(overlap);
    if (left->stop < right->stop) {
      ++left;
    } else {
      ++right;
    }
  }
  return RowRanges(common);
}

RowRanges subtract(const RowRanges& a, const RowRanges& b) {
  std::vector<RowRange> rest;
  auto hole = b.ranges().begin();
  for (RowRange range : a.ranges()) {
    while (hole != b.ranges().end() && hole->stop <= range.start) ++hole;
    // A hole can reach into the next range of `a`, so it is not consumed here.
    for (auto cut = hole; cut != b.ranges().end() && cut->start < range.stop; ++cut) {
      if (cut->start > range.start) rest.push_back({range.start, cut->start});
      range.start = std::min(cut->stop, range.stop);
    }
    if (range.start < range.stop) rest.push_back(range);
  }
  return RowRanges(rest);
}

std::string to_string(const RowRange& range) {
  // Appended, because GCC 12 warns wrongly about `"[" + std::string` (its bug 105651).
  std::string text = "[";
  text += std::to_string(range.start) + "," + std::to_string(range.stop) + ")";
  return text;
}

std::string to_string(const RowRanges& rows) {
  constexpr std::size_t kShown = 6;
  if (rows.empty()) return "empty";
  std::string text;
  for (const RowRange& range : rows.ranges().first(std::min(kShown, rows.ranges().size()))) {
    if (!text.empty()) text += ' ';
    text += to_string(range);
  }
  if (rows.ranges().size() > kShown) {
    text += " and " + std::to_string(rows.ranges().size() - kShown) + " more";
  }
  return text;
}

}  // namespace starr
