#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/array.hpp"
#include "bindings/bind.hpp"
#include "bindings/rows.hpp"
#include "core/batch_builder.hpp"
#include "core/page_table.hpp"
#include "core/plan_check.hpp"

namespace starr {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

// What `make` returns, or the PlanError that says which of the sets is no set of rows.
template <typename Make>
RowRanges named(const char* name, Make make) {
  try {
    return make();
  } catch (const std::invalid_argument& error) {
    throw PlanError("plan refused: " + std::string(name) + ": " + error.what());
  }
}

RowRanges named(const char* name, const std::vector<Bounds>& bounds) {
  return named(name, [&] { return to_ranges(bounds); });
}

}  // namespace

void bind_batch(nb::module_& m) {
  nb::exception<PlanError>(m, "PlanError", PyExc_ValueError);
  m.def(
      "validate_plan",
      [](const std::vector<Bounds>& query, const std::vector<Bounds>& write,
         const std::vector<Bounds>& read, const std::vector<Bounds>& score, const PageTable* table,
         std::int32_t num_rows, const Bounds& active_block, bool dirty_allowed,
         const std::vector<Bounds>& shadow, const std::vector<Bounds>& shadow_score) {
        const PlanRows plan{named("query", query),   named("write", write),
                            named("read", read),     named("score", score),
                            named("shadow", shadow), named("shadow_score", shadow_score)};
        const auto source =
            validate_plan(plan, table, num_rows, to_range(active_block), dirty_allowed);
        return source == ReadSource::kPages;
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
              return named(name, [&] { return RowRanges::of_rows(rows.span()); });
            };
            builder.add(table, token_ids.span(),
                        {named("query", query), named("write", write), named("read", read),
                         set_of("score", score), named("shadow", shadow),
                         shadow_score ? set_of("shadow_score", *shadow_score) : RowRanges()},
                        to_range(active_block), dirty_allowed, mask_token_id, isolated);
          },
          "table"_a.none(), "token_ids"_a, "query"_a, "write"_a, "read"_a, "score"_a,
          "active_block"_a, "dirty_allowed"_a = false, "shadow"_a = std::vector<Bounds>{},
          "shadow_score"_a = nb::none(), "mask_token_id"_a = -1, "isolated"_a = 0,
          "Append a request with live rows [0, len(token_ids)), of which the first `isolated` see\n"
          "each other and no others; token_ids int32, the sets as in\n"
          "validate_plan but the scores, which are ascending rows (int32 [d]). Shadow rows hold\n"
          "`mask_token_id`. PlanError leaves the builder as it was.")
      .def(
          "fill",
          [](const BatchBuilder& builder, const Array<std::int64_t>& input_ids,
             const Array<std::int64_t>& positions, const Array<std::int64_t>& slot_mapping,
             const Array<std::int32_t>& cu_query, const Array<std::int32_t>& cu_read,
             const Array<std::int64_t>& read_slots, const Array<std::int32_t, 2>& page_table,
             const Array<std::int64_t>& logits_rows, const Array<std::int32_t>& score_request,
             const Array<std::int32_t>& score_positions, const Array<std::int32_t>& shadow_lens,
             const Array<std::int32_t>& shadow_columns, const Array<std::int32_t>& visible,
             const Array<std::int32_t>& limited) {
            const auto rows = static_cast<std::size_t>(builder.num_requests());
            const auto columns = static_cast<std::size_t>(builder.max_pages());
            if (page_table.shape[0] != rows || page_table.shape[1] != columns) {
              throw std::invalid_argument("page_table must have shape [" + std::to_string(rows) +
                                          ", " + std::to_string(columns) + "], got [" +
                                          std::to_string(page_table.shape[0]) + ", " +
                                          std::to_string(page_table.shape[1]) + "]");
            }
            const BatchBuffers buffers{
                input_ids.span(),       positions.span(),   slot_mapping.span(),
                cu_query.span(),        cu_read.span(),     read_slots.span(),
                page_table.span(),      logits_rows.span(), score_request.span(),
                score_positions.span(), shadow_lens.span(), shadow_columns.span(),
                visible.span(),         limited.span()};
            const nb::gil_scoped_release unlocked;
            builder.fill(buffers);
          },
          "input_ids"_a, "positions"_a, "slot_mapping"_a, "cu_query"_a, "cu_read"_a, "read_slots"_a,
          "page_table"_a, "logits_rows"_a, "score_request"_a, "score_positions"_a, "shadow_lens"_a,
          "shadow_columns"_a, "visible"_a, "limited"_a,
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

}  // namespace starr
