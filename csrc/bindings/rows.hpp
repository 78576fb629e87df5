#pragma once

// Rows as Python writes them: sequences of (start, stop).

#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "core/row_ranges.hpp"

namespace starr {

using Bounds = std::pair<std::int32_t, std::int32_t>;

inline RowRange to_range(const Bounds& bounds) { return {bounds.first, bounds.second}; }

inline RowRanges to_ranges(const std::vector<Bounds>& bounds) {
  std::vector<RowRange> ranges;
  ranges.reserve(bounds.size());
  for (const Bounds& pair : bounds) ranges.push_back(to_range(pair));
  return RowRanges(ranges);
}

}  // namespace starr
