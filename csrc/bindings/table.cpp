#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/array.hpp"
#include "bindings/bind.hpp"
#include "bindings/rows.hpp"
#include "core/page_table.hpp"

namespace starr {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

std::vector<Bounds> to_bounds(const std::vector<RowRange>& ranges) {
  std::vector<Bounds> bounds;
  bounds.reserve(ranges.size());
  for (const RowRange& range : ranges) bounds.emplace_back(range.start, range.stop);
  return bounds;
}

}  // namespace

void bind_table(nb::module_& m) {
  nb::class_<PageTable>(m, "PageTable",
                        "Pages of one request, and per row whether a KV is cached and whether it\n"
                        "is dirty (older than the row's token). Keeps its pool alive.",
                        nb::pooled(), nb::is_final())
      .def_static(
          "try_create",
          [](std::shared_ptr<PagePool> pool, std::int32_t num_rows,
             const std::vector<PageId>& adopted) {
            return PageTable::try_create(std::move(pool), num_rows, adopted);
          },
          "pool"_a, "num_rows"_a, "adopted"_a = std::vector<PageId>{},
          "A table of `num_rows` rows that starts with `adopted` sealed pages, as match()\n"
          "returned them, and takes over their references. None when the pool is short; the\n"
          "caller then still owns the references.")
      .def_static(
          "try_admit",
          [](std::shared_ptr<PagePool> pool, std::int32_t num_rows, const PrefixKey& root,
             const Tokens& tokens, std::int32_t reserve) {
            return PageTable::try_admit(std::move(pool), num_rows, root, tokens.span(), reserve);
          },
          "pool"_a, "num_rows"_a, "root"_a, "tokens"_a, "reserve"_a = 0,
          "A table of `num_rows` rows that starts with the sealed pages that hold the whole pages\n"
          "of `tokens` (int32 [n]) under `root`, as far as there are such; None, and nothing\n"
          "happens, when fewer than `reserve` pages would be left. match() and try_create() in "
          "one.")
      .def_prop_ro("num_adopted", &PageTable::num_adopted,
                   "Pages at the front that were taken over when the table was made.")
      .def("try_grow", &PageTable::try_grow, "num_rows"_a,
           "Append uncached rows up to `num_rows`; False when the pool is short.")
      .def(
          "mark_written",
          [](PageTable& table, const std::vector<Bounds>& rows) {
            table.mark_written(to_ranges(rows));
          },
          "ranges"_a, "The KV of these (start, stop) rows is that of their present tokens.")
      .def(
          "mark_dirty", [](PageTable& table, const Tokens& rows) { table.mark_dirty(rows.span()); },
          "rows"_a,
          "The tokens of these rows (int32 [n]) changed; rows without a KV are left alone.")
      .def(
          "seal_prefix",
          [](PageTable& table, std::int32_t num_rows, const Tokens& tokens,
             std::int32_t mask_token_id, const PrefixKey& root) {
            return table.seal_prefix(num_rows, tokens.span(), mask_token_id, root);
          },
          "num_rows"_a, "tokens"_a, "mask_token_id"_a, "root"_a,
          "Seal the whole pages of rows [0, num_rows), whose ids start `tokens` (int32); returns\n"
          "how many were sealed now. ValueError for an uncached, dirty or masked row.")
      .def(
          "copy_on_write",
          [](PageTable& table, const Bounds& rows) { return table.copy_on_write(to_range(rows)); },
          "row_range"_a,
          "Make the pages under rows (start, stop) writable. Returns the (source, target) pages\n"
          "to copy before any other row is written, or None when the pool is short.")
      .def("release", &PageTable::release, "Give all pages back; repeating it does nothing.")
      .def("slot", &PageTable::slot, "row"_a, "page * page_size + offset of a row.")
      .def("is_sealed", &PageTable::is_sealed, "row"_a)
      .def(
          "cached_ranges",
          [](const PageTable& table) {
            return to_bounds(to_ranges(table.cached(), table.num_rows()));
          },
          "Rows that have a KV, as ascending (start, stop).")
      .def(
          "dirty_ranges",
          [](const PageTable& table) {
            return to_bounds(to_ranges(table.dirty(), table.num_rows()));
          },
          "Rows whose KV is older than their token, as ascending (start, stop).")
      .def_prop_ro("num_clean", &PageTable::num_clean,
                   "Rows in front of the first one that has no KV or is dirty.")
      .def("cached_rows",
           [](const PageTable& table) { return to_rows(table.cached(), table.num_rows()); })
      .def("dirty_rows",
           [](const PageTable& table) { return to_rows(table.dirty(), table.num_rows()); })
      .def_prop_ro("pages",
                   [](const PageTable& table) {
                     return std::vector<PageId>(table.pages().begin(), table.pages().end());
                   })
      .def_prop_ro("num_rows", &PageTable::num_rows)
      .def_prop_ro("num_cached", &PageTable::num_cached, "Rows that have a KV.")
      .def_prop_ro("num_dirty", &PageTable::num_dirty, "Rows whose KV is older than their token.")
      .def("check_invariants", &PageTable::check_invariants,
           "Raise RuntimeError naming the first broken invariant.");
}

}  // namespace starr
