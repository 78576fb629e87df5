#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/page_table.hpp"
#include "core/plan_check.hpp"
#include "core/row_ranges.hpp"

namespace starr {

// What fill() writes. R requests, T query rows, M score rows, all requests in add() order and
// the rows of each in position order, its shadow rows behind the others. Of the score rows the
// shadow rows of all requests come last.
struct BatchBuffers {
  std::span<std::int64_t> input_ids;        // [T]
  std::span<std::int64_t> positions;        // [T] row of its request
  std::span<std::int64_t> slot_mapping;     // [T] slot to write, -1 for a row that is not written
  std::span<std::int32_t> cu_query;         // [R+1] cumulative query rows
  std::span<std::int32_t> cu_read;          // [R+1] cumulative read_slots
  std::span<std::int64_t> read_slots;       // [num_read_rows]
  std::span<std::int32_t> page_table;       // [R, max_pages] row major, padded with page 0
  std::span<std::int64_t> logits_rows;      // [M] index into the T query rows
  std::span<std::int32_t> score_request;    // [M] index of the request in the batch
  std::span<std::int32_t> score_positions;  // [M] row of its request
  std::span<std::int32_t> shadow_lens;      // [R] shadow rows, the last of its query rows
  std::span<std::int32_t> shadow_columns;   // [R] where the active block begins among the rows
                                            //     attended to; 0 without shadow rows
  std::span<std::int32_t> visible;          // [T] how many of the rows attended to, in position
                                            //     order, the row sees
  std::span<std::int32_t> limited;          // [R] whether a row of the request sees fewer than all
};

// Collects the checked plans of one denoising step and lays them out as flat arrays.
//
// A request whose reads are all fresh (ReadSource::kFresh) has no read_slots and a page_table
// row of zeros: its keys are its own query rows, its shadow rows aside. The builder copies what
// it needs, so tables and token arrays may change after add().
//
// Under a block-causal mask a row sees the rows up to the end of its own mask block, and an
// isolated row those in front of a limit; these are always the first of those attended to, so the
// mask is one number per row. With an open block the rows of the active block see whatever their
// request attends to, and the mask is that of the rows in front of it. Shadow rows always do:
// nothing lies behind the active block.
class BatchBuilder {
 public:
  // `mask_block` is the block length of the attention mask, 0 for a bidirectional one. Throws
  // std::invalid_argument unless page_size >= 1 and mask_block >= 0.
  explicit BatchBuilder(std::int32_t page_size, std::int32_t mask_block = 0,
                        bool opens_block = false);

  // Appends a request with live rows [0, token_ids.size()), of which the first `isolated` see each
  // other and no others. Shadow rows hold `mask_token_id`, which is needed for nothing else. Throws
  // PlanError for a plan that breaks a rule and std::invalid_argument for a table of another page
  // size, isolated rows that are no live rows, or shadow rows without a mask; a refused request
  // leaves the builder as it was.
  void add(const PageTable* table, std::span<const std::int32_t> token_ids, const PlanRows& plan,
           const RowRange& active_block, bool dirty_allowed = false,
           std::int32_t mask_token_id = -1, std::int32_t isolated = 0);

  // Forgets all requests and keeps the memory.
  void clear() noexcept;

  std::int32_t num_requests() const noexcept { return static_cast<std::int32_t>(requests_.size()); }
  std::int64_t num_query_rows() const noexcept { return std::ssize(query_tokens_); }
  std::int64_t num_read_rows() const noexcept { return num_read_rows_; }
  std::int64_t num_score_rows() const noexcept { return num_score_rows_; }
  // Pages of the longest table that is read from; 0 when every request is fresh.
  std::int32_t max_pages() const noexcept { return max_pages_; }

  // Throws std::invalid_argument naming a buffer of wrong length, before writing anything.
  void fill(const BatchBuffers& out) const;

 private:
  // How many entries of the flat arrays below belong to one request.
  struct Request {
    std::int32_t query_ranges;
    std::int32_t write_ranges;
    std::int32_t read_ranges;  // 0 for a fresh request
    std::int32_t score_ranges;
    std::int32_t shadow_ranges;  // 0 or 1
    std::int32_t shadow_score_ranges;
    std::int32_t shadow_column;
    std::int32_t pages;  // 0 for a fresh request
    std::int32_t isolated;
    std::int32_t open_from;
  };

  void check_sizes(const BatchBuffers& out) const;

  std::int32_t page_size_;
  std::int32_t mask_block_;
  bool opens_block_;
  std::vector<Request> requests_;
  std::vector<RowRange> ranges_;  // per request: query, write, read, score, both of the shadow
  std::vector<PageId> pages_;
  std::vector<std::int32_t> query_tokens_;  // [T]
  std::int64_t num_read_rows_ = 0;
  std::int64_t num_score_rows_ = 0;  // M
  std::int64_t num_shadow_score_rows_ = 0;
  std::int32_t max_pages_ = 0;
};

}  // namespace starr
