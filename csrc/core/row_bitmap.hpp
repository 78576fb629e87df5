#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "core/row_ranges.hpp"

namespace starr {

// One bit per row, with searches that take a word of 64 rows at a time. Rows are not checked:
// callers hold them to the table's length first.
class RowBitmap {
 public:
  void resize(std::int32_t num_rows) { words_.resize((index(num_rows) + 63) / 64, 0); }
  void clear() noexcept { words_.clear(); }

  bool test(std::int32_t row) const noexcept {
    return (words_[index(row) / 64] >> (index(row) % 64) & 1) != 0;
  }
  void set(std::int32_t row) noexcept { words_[index(row) / 64] |= bit(row); }

  void assign(const RowRange& range, bool value) noexcept {
    for (std::int32_t row = range.start; row < range.stop; row = next_word(row)) {
      std::uint64_t& word = words_[index(row) / 64];
      const std::uint64_t mask = mask_of(row, range.stop);
      word = value ? word | mask : word & ~mask;
    }
  }

  // First row of `range` whose bit equals `value`; range.stop when there is none.
  std::int32_t find(const RowRange& range, bool value) const noexcept {
    for (std::int32_t row = range.start; row < range.stop; row = next_word(row)) {
      const std::uint64_t word = words_[index(row) / 64];
      const std::uint64_t hits = (value ? word : ~word) & mask_of(row, range.stop);
      if (hits != 0) return row - row % 64 + std::countr_zero(hits);
    }
    return range.stop;
  }

  std::int32_t count() const noexcept {
    std::int32_t total = 0;
    for (const std::uint64_t word : words_) total += std::popcount(word);
    return total;
  }

 private:
  static std::size_t index(std::int32_t row) noexcept { return static_cast<std::size_t>(row); }
  static std::uint64_t bit(std::int32_t row) noexcept { return 1ULL << (index(row) % 64); }
  static std::int32_t next_word(std::int32_t row) noexcept { return row - row % 64 + 64; }

  // Bits of [row, stop) inside the word of `row`.
  static std::uint64_t mask_of(std::int32_t row, std::int32_t stop) noexcept {
    const std::uint64_t from = ~0ULL << (index(row) % 64);
    return stop >= next_word(row) ? from : from & (bit(stop) - 1);
  }

  std::vector<std::uint64_t> words_;
};

// The rows below `num_rows` whose bit is set, ascending.
inline std::vector<std::int32_t> to_rows(const RowBitmap& bitmap, std::int32_t num_rows) {
  std::vector<std::int32_t> rows;
  for (std::int32_t row = 0; (row = bitmap.find({row, num_rows}, true)) < num_rows; ++row) {
    rows.push_back(row);
  }
  return rows;
}

// The same as ascending, non-touching ranges.
inline std::vector<RowRange> to_ranges(const RowBitmap& bitmap, std::int32_t num_rows) {
  std::vector<RowRange> ranges;
  for (std::int32_t row = 0; (row = bitmap.find({row, num_rows}, true)) < num_rows;) {
    const std::int32_t stop = bitmap.find({row, num_rows}, false);
    ranges.push_back({row, stop});
    row = stop;
  }
  return ranges;
}

}  // namespace starr
