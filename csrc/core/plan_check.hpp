#pragma once

#include <cstdint>
#include <stdexcept>

#include "core/page_table.hpp"
#include "core/row_ranges.hpp"

namespace starr {

// The row sets of one request's denoising step (DESIGN.md section 3).
//
// A shadow row is a second query row at the position of a row of the active block. It holds the
// mask and attends to everything its request reads except that row, and to the other shadow rows;
// only shadow rows attend to it, and it is never written.
struct PlanRows {
  RowRanges query;           // A: rows computed
  RowRanges write;           // W: rows whose KV goes to pages
  RowRanges read;            // R: rows attended
  RowRanges score;           // D: rows that need logits
  RowRanges shadow{};        // rows that get a shadow row
  RowRanges shadow_score{};  // shadow rows that need logits
};

// A plan that would read or write KV wrongly; the message names the rule, the first row that
// breaks it and the sets.
class PlanError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// Where attention takes the keys and values of the rows read.
enum class ReadSource : std::uint8_t {
  kFresh,  // from this step's own rows: W is empty and R equals A
  kPages,  // from the pages, into which this step first writes A's part of R
};

// Checks a plan over live rows [0, num_rows) and says where its reads come from.
//
//   bounds   every set and `active_block` lie in [0, num_rows), and num_rows <= table rows
//   subsets  W in A; D in A; R in A or cached
//   source   W is empty and R equals A (kFresh), or A's part of R is in W or cached and clean
//            (kPages): a row computed for its logits alone leaves its page as it is
//   reads    R is not empty while A is not: attention over nothing has no value
//   sealed   no row of W lies in a SEALED page
//   shadow   the shadow rows are none or those of all of `active_block`, which then lies in R;
//            shadow_score is a subset of shadow
//   dirty    a row of R outside A and outside `active_block` is not dirty, unless
//            `dirty_allowed`: a policy that reuses such rows must say so
//
// Without a table (nullptr) nothing is cached and nothing can be written. Throws PlanError.
ReadSource validate_plan(const PlanRows& plan, const PageTable* table, std::int32_t num_rows,
                         const RowRange& active_block, bool dirty_allowed);

}  // namespace starr
