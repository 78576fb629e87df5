// starr_engine._core: the objects of csrc/core for Python. No logic lives here: names,
// defaults, docstrings, conversions, and the release of the GIL around the one long call.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/batch_builder.hpp"
#include "core/page_pool.hpp"
#include "core/page_table.hpp"
#include "core/plan_check.hpp"
#include "core/prefix_hash.hpp"
#include "core/prefix_index.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using starr::BatchBuilder;
using starr::PageId;
using starr::PagePool;
using starr::PageState;
using starr::PageTable;
using starr::PoolStats;
using starr::PrefixIndex;
using starr::PrefixKey;
using starr::RowRange;
using starr::RowRanges;

using Tokens = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bounds = std::pair<std::int32_t, std::int32_t>;

template <typename Array>
auto span_of(const Array& array) {
  return std::span(array.data(), array.size());
}

RowRange to_range(const Bounds& bounds) { return {bounds.first, bounds.second}; }

RowRanges to_ranges(const std::vector<Bounds>& bounds) {
  std::vector<RowRange> ranges;
  ranges.reserve(bounds.size());
  for (const Bounds& pair : bounds) ranges.push_back(to_range(pair));
  return RowRanges(ranges);
}

// What `make` returns, or the PlanError that says which of the sets is no set of rows.
template <typename Make>
RowRanges named(const char* name, Make make) {
  try {
    return make();
  } catch (const std::invalid_argument& error) {
    throw starr::PlanError("plan refused: " + std::string(name) + ": " + error.what());
  }
}

RowRanges named(const char* name, const std::vector<Bounds>& bounds) {
  return named(name, [&] { return to_ranges(bounds); });
}

std::vector<Bounds> to_bounds(const std::vector<RowRange>& ranges) {
  std::vector<Bounds> bounds;
  bounds.reserve(ranges.size());
  for (const RowRange& range : ranges) bounds.emplace_back(range.start, range.stop);
  return bounds;
}

nb::bytes to_bytes(const PrefixKey& key) {
  const std::uint64_t words[2] = {key.low, key.high};
  return nb::bytes(reinterpret_cast<const char*>(words), sizeof(words));
}

std::optional<PageId> page_or_none(PageId page) {
  return page == starr::kReservedPage ? std::nullopt : std::optional<PageId>(page);
}

void bind_prefix(nb::module_& m) {
  nb::class_<PrefixKey>(m, "PrefixKey", "128-bit name of a token prefix under one configuration.")
      .def("__bytes__", &to_bytes)
      .def(
          "__eq__", [](const PrefixKey& a, const PrefixKey& b) { return a == b; },
          nb::is_operator(), nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__", [](const PrefixKey& key) { return key.low; })
      .def("__repr__", [](const PrefixKey& key) {
        return "PrefixKey(" + nb::cast<std::string>(to_bytes(key).attr("hex")()) + ")";
      });
  m.def(
      "root_key",
      [](const nb::bytes& identity) {
        return starr::root_key(std::string_view(identity.c_str(), identity.size()));
      },
      "identity"_a,
      "Start of a prefix chain. `identity` must differ whenever the KV of equal tokens may\n"
      "differ: salt, model and revision, dtype, mask kind, block length, rope.");
  m.def(
      "extend",
      [](const PrefixKey& parent, const Tokens& tokens) {
        return starr::extend(parent, span_of(tokens));
      },
      "parent"_a, "tokens"_a.noconvert(),
      "Key of the prefix `parent` followed by `tokens` (int32 [n]).");
  nb::class_<PrefixIndex>(m, "PrefixIndex",
                          "Hash map from prefix key to page; compares stored tokens on every hit.\n"
                          "A PagePool has its own; this class serves tests and tools.")
      .def(nb::init<std::int32_t, std::int32_t>(), "num_pages"_a, "page_size"_a)
      .def(
          "insert",
          [](PrefixIndex& index, PageId page, const PrefixKey& key, const PrefixKey& parent,
             const Tokens& tokens) {
            return page_or_none(index.insert(page, key, parent, span_of(tokens)));
          },
          "page"_a, "key"_a, "parent"_a, "tokens"_a.noconvert(),
          "Enter `page` under `key` for `tokens` (int32 [page_size]). Returns the canonical page\n"
          "of that content (the first entered), or None when another content has the key.")
      .def(
          "find",
          [](const PrefixIndex& index, const PrefixKey& key, const PrefixKey& parent,
             const Tokens& tokens) {
            return page_or_none(index.find(key, parent, span_of(tokens)));
          },
          "key"_a, "parent"_a, "tokens"_a.noconvert(), "Canonical page of this content, or None.")
      .def(
          "match",
          [](const PrefixIndex& index, const PrefixKey& root, const Tokens& tokens) {
            return index.match(root, span_of(tokens));
          },
          "root"_a, "tokens"_a.noconvert(),
          "Pages of the longest chain of whole pages that starts `tokens` (int32 [n]).")
      .def("erase", &PrefixIndex::erase, "page"_a, "Forget `page`; ValueError when not entered.")
      .def("__contains__", &PrefixIndex::contains, "page"_a)
      .def("__len__", &PrefixIndex::size)
      .def("check_invariants", &PrefixIndex::check_invariants,
           "Raise RuntimeError naming the first broken invariant.");
}

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
      .def("try_allocate", &PagePool::try_allocate, "count"_a,
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
            return pool.seal(page, parent, span_of(tokens));
          },
          "page"_a, "parent"_a, "tokens"_a.noconvert(),
          "Seal a PRIVATE page that holds the KV of `tokens` (int32 [page_size]); its key.")
      .def(
          "match",
          [](PagePool& pool, const PrefixKey& root, const Tokens& tokens) {
            return pool.match(root, span_of(tokens));
          },
          "root"_a, "tokens"_a.noconvert(),
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

void bind_table(nb::module_& m) {
  nb::class_<PageTable>(m, "PageTable",
                        "Pages of one request, and per row whether a KV is cached and whether it\n"
                        "is dirty (older than the row's token). Keeps its pool alive.")
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
            return PageTable::try_admit(std::move(pool), num_rows, root, span_of(tokens), reserve);
          },
          "pool"_a, "num_rows"_a, "root"_a, "tokens"_a.noconvert(), "reserve"_a = 0,
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
          "mark_dirty",
          [](PageTable& table, const Tokens& rows) { table.mark_dirty(span_of(rows)); },
          "rows"_a.noconvert(),
          "The tokens of these rows (int32 [n]) changed; rows without a KV are left alone.")
      .def(
          "seal_prefix",
          [](PageTable& table, std::int32_t num_rows, const Tokens& tokens,
             std::int32_t mask_token_id, const PrefixKey& root) {
            return table.seal_prefix(num_rows, span_of(tokens), mask_token_id, root);
          },
          "num_rows"_a, "tokens"_a.noconvert(), "mask_token_id"_a, "root"_a,
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
            return to_bounds(starr::to_ranges(table.cached(), table.num_rows()));
          },
          "Rows that have a KV, as ascending (start, stop).")
      .def(
          "dirty_ranges",
          [](const PageTable& table) {
            return to_bounds(starr::to_ranges(table.dirty(), table.num_rows()));
          },
          "Rows whose KV is older than their token, as ascending (start, stop).")
      .def_prop_ro("num_clean", &PageTable::num_clean,
                   "Rows in front of the first one that has no KV or is dirty.")
      .def("cached_rows",
           [](const PageTable& table) { return starr::to_rows(table.cached(), table.num_rows()); })
      .def("dirty_rows",
           [](const PageTable& table) { return starr::to_rows(table.dirty(), table.num_rows()); })
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

void bind_batch(nb::module_& m) {
  nb::exception<starr::PlanError>(m, "PlanError", PyExc_ValueError);
  m.def(
      "validate_plan",
      [](const std::vector<Bounds>& query, const std::vector<Bounds>& write,
         const std::vector<Bounds>& read, const std::vector<Bounds>& score, const PageTable* table,
         std::int32_t num_rows, const Bounds& active_block, bool dirty_allowed,
         const std::vector<Bounds>& shadow, const std::vector<Bounds>& shadow_score) {
        const starr::PlanRows plan{named("query", query),   named("write", write),
                                   named("read", read),     named("score", score),
                                   named("shadow", shadow), named("shadow_score", shadow_score)};
        const auto source =
            starr::validate_plan(plan, table, num_rows, to_range(active_block), dirty_allowed);
        return source == starr::ReadSource::kPages;
      },
      "query"_a, "write"_a, "read"_a, "score"_a, "table"_a.none(), "num_rows"_a, "active_block"_a,
      "dirty_allowed"_a = false, "shadow"_a = std::vector<Bounds>{},
      "shadow_score"_a = std::vector<Bounds>{},
      "Check one request's plan, sequences of ascending (start, stop) rows. Returns True\n"
      "when keys and values are read from pages, False when they are this step's own rows.\n"
      "Raises PlanError naming the rule, the first row that breaks it and the sets.");
  nb::class_<BatchBuilder>(m, "BatchBuilder",
                           "Checks the plans of one denoising step and lays them out as flat\n"
                           "arrays. R requests, T query rows, M score rows.")
      .def(nb::init<std::int32_t, std::int32_t, bool>(), "page_size"_a, "mask_block"_a = 0,
           "opens_block"_a = false,
           "`mask_block`: block length of the attention mask, 0 for a bidirectional one.\n"
           "`opens_block`: rows of the active block see all that is read all the same.")
      .def(
          "add",
          [](BatchBuilder& builder, const PageTable* table, const Tokens& token_ids,
             const std::vector<Bounds>& query, const std::vector<Bounds>& write,
             const std::vector<Bounds>& read, const Tokens& score, const Bounds& active_block,
             bool dirty_allowed, const std::vector<Bounds>& shadow,
             const std::optional<Tokens>& shadow_score, std::int32_t mask_token_id,
             std::int32_t isolated) {
            const auto set_of = [](const char* name, const Tokens& rows) {
              return named(name, [&] { return RowRanges::of_rows(span_of(rows)); });
            };
            builder.add(table, span_of(token_ids),
                        {named("query", query), named("write", write), named("read", read),
                         set_of("score", score), named("shadow", shadow),
                         shadow_score ? set_of("shadow_score", *shadow_score) : RowRanges()},
                        to_range(active_block), dirty_allowed, mask_token_id, isolated);
          },
          "table"_a.none(), "token_ids"_a.noconvert(), "query"_a, "write"_a, "read"_a,
          "score"_a.noconvert(), "active_block"_a, "dirty_allowed"_a = false,
          "shadow"_a = std::vector<Bounds>{}, "shadow_score"_a.noconvert() = nb::none(),
          "mask_token_id"_a = -1, "isolated"_a = 0,
          "Append a request with live rows [0, len(token_ids)), of which the first `isolated` see\n"
          "each other and no others; token_ids int32, the sets as in\n"
          "validate_plan but the scores, which are ascending rows (int32 [d]). Shadow rows hold\n"
          "`mask_token_id`. PlanError leaves the builder as it was.")
      .def(
          "fill",
          [](const BatchBuilder& builder, const Vector<std::int64_t>& input_ids,
             const Vector<std::int64_t>& positions, const Vector<std::int64_t>& slot_mapping,
             const Vector<std::int32_t>& cu_query, const Vector<std::int32_t>& cu_read,
             const Vector<std::int64_t>& read_slots, const Matrix<std::int32_t>& page_table,
             const Vector<std::int64_t>& logits_rows, const Vector<std::int32_t>& score_request,
             const Vector<std::int32_t>& score_positions, const Vector<std::int32_t>& shadow_lens,
             const Vector<std::int32_t>& shadow_columns, const Vector<std::int32_t>& visible,
             const Vector<std::int32_t>& limited) {
            const auto rows = static_cast<std::size_t>(builder.num_requests());
            const auto columns = static_cast<std::size_t>(builder.max_pages());
            if (page_table.shape(0) != rows || page_table.shape(1) != columns) {
              throw std::invalid_argument("page_table must have shape [" + std::to_string(rows) +
                                          ", " + std::to_string(columns) + "], got [" +
                                          std::to_string(page_table.shape(0)) + ", " +
                                          std::to_string(page_table.shape(1)) + "]");
            }
            const starr::BatchBuffers buffers{
                span_of(input_ids),       span_of(positions),   span_of(slot_mapping),
                span_of(cu_query),        span_of(cu_read),     span_of(read_slots),
                span_of(page_table),      span_of(logits_rows), span_of(score_request),
                span_of(score_positions), span_of(shadow_lens), span_of(shadow_columns),
                span_of(visible),         span_of(limited)};
            const nb::gil_scoped_release unlocked;
            builder.fill(buffers);
          },
          "input_ids"_a.noconvert(), "positions"_a.noconvert(), "slot_mapping"_a.noconvert(),
          "cu_query"_a.noconvert(), "cu_read"_a.noconvert(), "read_slots"_a.noconvert(),
          "page_table"_a.noconvert(), "logits_rows"_a.noconvert(), "score_request"_a.noconvert(),
          "score_positions"_a.noconvert(), "shadow_lens"_a.noconvert(),
          "shadow_columns"_a.noconvert(), "visible"_a.noconvert(), "limited"_a.noconvert(),
          "Write the batch into numpy arrays, requests in add() order and rows ascending, the\n"
          "shadow rows of a request behind its others; of the scored rows (M) the shadow rows of\n"
          "all requests come last:\n"
          "input_ids, positions, slot_mapping int64 [T] (slot -1: the row is not written);\n"
          "cu_query, cu_read int32 [R + 1]; read_slots int64 [num_read_rows];\n"
          "page_table int32 [R, max_pages], zeros where there is no page;\n"
          "logits_rows int64 [M] into the T rows; score_request, score_positions int32 [M];\n"
          "shadow_lens int32 [R]; shadow_columns int32 [R], where the active block begins among\n"
          "the rows attended to; visible int32 [T], how many of the rows attended to, in position\n"
          "order, a row sees; limited int32 [R], whether a row sees fewer than all.\n"
          "A request whose reads are all fresh has no read_slots and no pages.\n"
          "An array of wrong dtype, shape or layout is an error before anything is written.")
      .def("clear", &BatchBuilder::clear, "Forget all requests and keep the memory.")
      .def_prop_ro("num_requests", &BatchBuilder::num_requests, "R")
      .def_prop_ro("num_query_rows", &BatchBuilder::num_query_rows, "T")
      .def_prop_ro("num_read_rows", &BatchBuilder::num_read_rows,
                   "Rows read from pages, over all requests that read from pages.")
      .def_prop_ro("num_score_rows", &BatchBuilder::num_score_rows, "M")
      .def_prop_ro("max_pages", &BatchBuilder::max_pages,
                   "Pages of the longest table that is read from; 0 when there is none.");
}

}  // namespace

NB_MODULE(_core, m) {
  // Ray keeps objects until the interpreter is gone, and a user cannot mend what is reported then.
  nb::set_leak_warnings(false);
  m.doc() = "Bookkeeping of KV pages, step plans and batches (see csrc/core).";
  bind_prefix(m);
  bind_pool(m);
  bind_table(m);
  bind_batch(m);
}
