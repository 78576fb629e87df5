#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "ops/checks.hpp"

namespace starr {

// store_rows and gather_rows: pages [P, G, F] of one feature and a vector of slots into them.
struct FeaturePages {
  std::int64_t num_slots;  // P * G
  std::int64_t width;      // F
  std::int64_t row_bytes;

  static FeaturePages check_arguments(const char* op, const Tensor& pages, const Tensor& slots) {
    check(pages.dim() == 3, op, ": pages must be [P, G, F], got ", pages.dim(), " dimensions");
    check(pages.is_contiguous(), op, ": pages must be contiguous");
    check_slots(op, pages, slots, "slots");
    const std::int64_t width = pages.size(2);
    return {pages.size(0) * pages.size(1), width,
            width * static_cast<std::int64_t>(pages.element_size())};
  }
};

// store_rows: rows [T, F] that may lie apart, one slot for each.
struct StoreRowsArguments {
  FeaturePages pages;
  std::int64_t num_rows;  // T
  std::int64_t row_stride_bytes;

  static StoreRowsArguments check_arguments(const Tensor& rows, const Tensor& pages,
                                            const Tensor& slots) {
    const auto to = FeaturePages::check_arguments("store_rows", pages, slots);
    const std::int64_t num_rows = slots.size(0);
    check(rows.dim() == 2, "store_rows: rows must be [T, F], got ", rows.dim(), " dimensions");
    check(rows.size(0) == num_rows && rows.size(1) == to.width, "store_rows: rows must be [",
          num_rows, ", ", to.width, "] for these slots and pages, got [", rows.size(0), ", ",
          rows.size(1), "]");
    check(rows.scalar_type() == pages.scalar_type(), "store_rows: rows are ", rows.scalar_type(),
          ", the pages are ", pages.scalar_type());
    check(to.width <= 1 || rows.stride(1) == 1,
          "store_rows: each row must be contiguous, got stride ", rows.stride(1));
    check_same_device("store_rows", pages, rows, "rows");
    return {to, num_rows, rows.stride(0) * static_cast<std::int64_t>(rows.element_size())};
  }
};

// copy_pages: pages [L, C, P, G, K, D], and page numbers that the host decided on.
struct CopyPagesArguments {
  std::int64_t num_slabs;  // L * C
  std::int64_t num_pages;  // P
  std::int64_t page_bytes;

  static CopyPagesArguments check_arguments(const Tensor& pages,
                                            const std::vector<std::int64_t>& source,
                                            const std::vector<std::int64_t>& target) {
    check(pages.dim() == 6, "copy_pages: pages must be [L, C, P, G, K, D], got ", pages.dim(),
          " dimensions");
    check(pages.is_contiguous(), "copy_pages: pages must be contiguous");
    check(source.size() == target.size(), "copy_pages: source has ", source.size(),
          " pages, target has ", target.size());
    const std::int64_t num_pages = pages.size(2);
    check_inside("source", source, num_pages);
    check_inside("target", target, num_pages);
    auto written = target;
    std::sort(written.begin(), written.end());
    const auto twice = std::adjacent_find(written.begin(), written.end());
    check(twice == written.end(), "copy_pages: page ", twice == written.end() ? 0 : *twice,
          " is a target twice");
    for (const std::int64_t page : source) {
      check(!std::binary_search(written.begin(), written.end(), page), "copy_pages: page ", page,
            " is a source and a target");
    }
    return {pages.size(0) * pages.size(1), num_pages,
            pages.size(3) * pages.size(4) * pages.size(5) *
                static_cast<std::int64_t>(pages.element_size())};
  }

 private:
  static void check_inside(const char* name, const std::vector<std::int64_t>& pages,
                           std::int64_t num_pages) {
    for (std::size_t i = 0; i < pages.size(); ++i) {
      check(pages[i] >= 0 && pages[i] < num_pages, "copy_pages: ", name, "[", i, "] is ", pages[i],
            ", there are ", num_pages, " pages");
    }
  }
};

// row_similarity: rows [T, K, D] against the rows of cache [P, G, K, D] at slots [T].
struct RowSimilarityArguments {
  std::int64_t num_rows;    // T
  std::int64_t num_slots;   // P * G
  std::int64_t row_size;    // K * D
  std::int64_t row_stride;  // elements

  static RowSimilarityArguments check_arguments(const Tensor& rows, const Tensor& cache,
                                                const Tensor& slots) {
    constexpr auto kOp = "row_similarity";
    check(cache.dim() == 4, kOp, ": cache must be [P, G, K, D], got ", cache.dim(), " dimensions");
    check(cache.is_contiguous(), kOp, ": cache must be contiguous");
    const auto dtype = cache.scalar_type();
    check(dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
          kOp, ": cache must be float32, bfloat16 or float16, got ", dtype);
    check_slots(kOp, cache, slots, "slots");
    const std::int64_t row_stride =
        check_head_rows(kOp, "rows", rows, cache, slots.size(0), "slots");
    return {slots.size(0), cache.size(0) * cache.size(1), cache.size(2) * cache.size(3),
            row_stride};
  }
};

// select_lowest: values [T] in R segments, whose bounds and counts the host knows.
struct SelectLowestArguments {
  std::int64_t num_segments;  // R
  std::int64_t num_selected;  // sum of the counts

  static SelectLowestArguments check_arguments(const Tensor& values,
                                               const std::vector<std::int64_t>& cu_rows,
                                               const std::vector<std::int64_t>& counts) {
    check(values.dim() == 1 && values.is_contiguous(),
          "select_lowest: values must be a contiguous vector, got ", values.dim(), " dimensions");
    check(values.scalar_type() == ScalarType::Float, "select_lowest: values must be float32, got ",
          values.scalar_type());
    const std::int64_t size = values.size(0);
    check(size < std::numeric_limits<std::int32_t>::max(),
          "select_lowest: there must be less than 2^31 - 1 values, got ", size);
    check(cu_rows.size() == counts.size() + 1, "select_lowest: cu_rows must have ",
          counts.size() + 1, " entries for ", counts.size(), " counts, got ", cu_rows.size());
    check(cu_rows.front() == 0 && cu_rows.back() == size, "select_lowest: cu_rows must go from 0 ",
          "to the number of values, ", size, ", got ", cu_rows.front(), " to ", cu_rows.back());
    std::int64_t num_selected = 0;
    for (std::size_t r = 0; r < counts.size(); ++r) {
      const std::int64_t length = cu_rows[r + 1] - cu_rows[r];
      check(length >= 0, "select_lowest: cu_rows must not decrease, got ", cu_rows[r], " before ",
            cu_rows[r + 1]);
      check(counts[r] >= 0 && counts[r] <= length, "select_lowest: counts[", r, "] is ", counts[r],
            ", the segment has ", length, " values");
      num_selected += counts[r];
    }
    return {static_cast<std::int64_t>(counts.size()), num_selected};
  }
};

}  // namespace starr
