#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <vector>

#include "bindings/array.hpp"
#include "bindings/bind.hpp"
#include "core/page_pool.hpp"

namespace starr {

namespace nb = nanobind;
using namespace nb::literals;

void bind_pool(nb::module_& m) {
  nb::enum_<PageState>(m, "PageState", "What may be done with a page.")
      .value("FREE", PageState::kFree, "No content.")
      .value("PRIVATE", PageState::kPrivate, "Writable, exactly one owner.")
      .value("SEALED", PageState::kSealed, "Immutable, shareable, found by its prefix.");
  nb::class_<PoolStats>(m, "PoolStats", "Counts of pages since the pool was made.")
      .def_ro("allocations", &PoolStats::allocations, "Pages handed out.")
      .def_ro("evictions", &PoolStats::evictions, "Sealed pages whose content was given up.")
      .def_ro("hits", &PoolStats::hits, "Whole pages that match() found.")
      .def_ro("misses", &PoolStats::misses, "Whole pages that match() was asked for in vain.");
  nb::class_<PagePool>(m, "PagePool",
                       "Who owns which page of KV memory; page 0 is reserved for padding rows.\n"
                       "A call that raises, or returns None for shortage, changes nothing.\n"
                       "Not thread safe.")
      .def(nb::init<std::int32_t, std::int32_t>(), "num_pages"_a, "page_size"_a,
           "`num_pages` includes page 0; `page_size` in rows.")
      .def("try_allocate", nb::overload_cast<std::int32_t>(&PagePool::try_allocate), "count"_a,
           "`count` PRIVATE pages with one reference each, or None when fewer are free.")
      .def(
          "add_ref", [](PagePool& pool, const std::vector<PageId>& pages) { pool.add_ref(pages); },
          "pages"_a, "Add one reference to each SEALED page.")
      .def(
          "release", [](PagePool& pool, const std::vector<PageId>& pages) { pool.release(pages); },
          "pages"_a, "Drop one reference from each page, last page first.")
      .def(
          "seal",
          [](PagePool& pool, PageId page, const PrefixKey& parent, const Tokens& tokens) {
            return pool.seal(page, parent, tokens.span());
          },
          "page"_a, "parent"_a, "tokens"_a,
          "Seal a PRIVATE page that holds the KV of `tokens` (int32 [page_size]); its key.")
      .def(
          "match",
          [](PagePool& pool, const PrefixKey& root, const Tokens& tokens) {
            return pool.match(root, tokens.span());
          },
          "root"_a, "tokens"_a,
          "Longest chain of whole sealed pages that starts `tokens` (int32 [n]); one reference\n"
          "is added to each page and belongs to the caller.")
      .def("make_private", &PagePool::make_private, "page"_a,
           "A PRIVATE page as it is; for a SEALED one a fresh PRIVATE page, to which the caller's\n"
           "reference moves and into which the caller copies the rows. None when none is free.")
      .def("state", &PagePool::state, "page"_a)
      .def("ref_count", &PagePool::ref_count, "page"_a)
      .def("key", &PagePool::key, "page"_a, "Key of a SEALED page.")
      .def("is_indexed", &PagePool::is_indexed, "page"_a,
           "Whether match() can find the page: it is the canonical one of its content.")
      .def("free_order", &PagePool::free_order, "Pages in the order allocations would take them.")
      .def_prop_ro("num_pages", &PagePool::num_pages, "Pages, page 0 included.")
      .def_prop_ro("page_size", &PagePool::page_size, "Rows of a page.")
      .def_prop_ro("num_free", &PagePool::num_free, "Pages that try_allocate can hand out now.")
      .def_prop_ro("num_indexed", &PagePool::num_indexed,
                   "Pages whose content match() can find, in use or not.")
      .def_prop_ro("stats", [](const PagePool& pool) { return pool.stats(); })
      .def("check_invariants", &PagePool::check_invariants,
           "Raise RuntimeError naming the first broken invariant.");
}

}  // namespace starr
