#include <random>
#include <set>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "core/row_bitmap.hpp"
#include "core/row_ranges.hpp"

namespace {

using starr::RowRange;
using starr::RowRanges;

RowRanges of(std::vector<RowRange> ranges) { return RowRanges(ranges); }

std::vector<RowRange> as_vector(const RowRanges& rows) {
  return {rows.ranges().begin(), rows.ranges().end()};
}

void touching_ranges_join_and_empty_ones_vanish() {
  const RowRanges rows = of({{0, 2}, {2, 2}, {2, 5}, {7, 8}});
  CHECK(as_vector(rows) == (std::vector<RowRange>{{0, 5}, {7, 8}}));
  CHECK(rows.num_rows() == 6 && rows.stop() == 8);
  CHECK(of({}).empty() && of({}).stop() == 0);
  CHECK(starr::to_string(rows) == "[0,5) [7,8)");
  CHECK(starr::to_string(of({})) == "empty");
  CHECK(starr::to_string(
            of({{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}, {10, 11}, {12, 13}, {14, 15}})) ==
        "[0,1) [2,3) [4,5) [6,7) [8,9) [10,11) and 2 more");
}

void bad_ranges_are_named() {
  using Bad = std::invalid_argument;
  CHECK(contains(message_of<Bad>([] { of({{-1, 2}}); }), "[-1,2)"));
  CHECK(contains(message_of<Bad>([] { of({{3, 2}}); }), "[3,2)"));
  CHECK(contains(message_of<Bad>([] { of({{0, 4}, {3, 6}}); }), "before row 4"));
  CHECK(contains(message_of<Bad>([] { of({{4, 6}, {0, 2}}); }), "before row 6"));
}

void single_rows_make_the_same_set() {
  using Rows = std::vector<std::int32_t>;
  CHECK(as_vector(RowRanges::of_rows(Rows{0, 1, 2, 7, 9, 10})) ==
        (std::vector<RowRange>{{0, 3}, {7, 8}, {9, 11}}));
  CHECK(RowRanges::of_rows(Rows{3, 5}).num_rows() == 2);
  CHECK(RowRanges::of_rows(Rows{}).empty());
  using Bad = std::invalid_argument;
  CHECK(contains(message_of<Bad>([] { RowRanges::of_rows(Rows{-1}); }), "row -1"));
  CHECK(contains(message_of<Bad>([] { RowRanges::of_rows(Rows{4, 4}); }), "row 4 follows 4"));
  CHECK(contains(message_of<Bad>([] { RowRanges::of_rows(Rows{4, 2}); }), "row 2 follows 4"));
  CHECK(contains(message_of<Bad>([] { RowRanges::of_rows(Rows{2147483647}); }), "2147483647"));
}

// Set algebra and word searches against std::set over 150 rows (three words of the bitmap).
void set_operations_equal_those_of_plain_sets() {
  constexpr std::int32_t kRows = 150;
  std::mt19937 random(2);
  const auto draw = [&] {
    std::vector<RowRange> ranges;
    std::int32_t row = 0;
    while ((row += static_cast<std::int32_t>(random() % 40)) < kRows) {
      const auto stop = std::min(kRows, row + static_cast<std::int32_t>(random() % 70));
      ranges.push_back({row, stop});
      row = stop;
    }
    return RowRanges(ranges);
  };
  const auto members = [](const RowRanges& rows) {
    std::set<std::int32_t> set;
    for (const RowRange& range : rows.ranges()) {
      for (std::int32_t row = range.start; row < range.stop; ++row) set.insert(row);
    }
    return set;
  };
  for (int round = 0; round < 2000; ++round) {
    const RowRanges a = draw();
    const RowRanges b = draw();
    const auto in_a = members(a);
    const auto in_b = members(b);
    std::set<std::int32_t> both;
    std::set<std::int32_t> only_a;
    for (const std::int32_t row : in_a) (in_b.contains(row) ? both : only_a).insert(row);
    CHECK(members(intersect(a, b)) == both);
    CHECK(members(subtract(a, b)) == only_a);
    const auto outside = first_outside(a, b);
    CHECK(outside.has_value() == !only_a.empty());
    CHECK(!outside || *outside == *only_a.begin());

    starr::RowBitmap bitmap;
    bitmap.resize(kRows);
    for (const RowRange& range : a.ranges()) bitmap.assign(range, true);
    for (const RowRange& range : b.ranges()) bitmap.assign(range, false);
    CHECK(bitmap.count() == static_cast<std::int32_t>(only_a.size()));
    const auto rows = to_rows(bitmap, kRows);
    CHECK(std::set<std::int32_t>(rows.begin(), rows.end()) == only_a);
    const auto start = static_cast<std::int32_t>(random() % kRows);
    const auto stop = start + static_cast<std::int32_t>(random() % (kRows - start + 1));
    std::int32_t set_row = start;
    while (set_row < stop && !only_a.contains(set_row)) ++set_row;
    std::int32_t clear_row = start;
    while (clear_row < stop && only_a.contains(clear_row)) ++clear_row;
    CHECK(bitmap.find({start, stop}, true) == set_row);
    CHECK(bitmap.find({start, stop}, false) == clear_row);
  }
}

}  // namespace

int main() {
  touching_ranges_join_and_empty_ones_vanish();
  bad_ranges_are_named();
  single_rows_make_the_same_set();
  set_operations_equal_those_of_plain_sets();
}
