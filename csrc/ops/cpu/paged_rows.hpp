#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

#include "ops/checks.hpp"

namespace starr::cpu {

// Runs body(begin, end) over [0, num_rows) on torch's threads, each with at least 64 kB to
// copy: below that, waking a thread costs more than the copy.
template <typename Body>
void for_each_row(std::int64_t num_rows, std::int64_t row_bytes, const Body& body) {
  const std::int64_t grain = (1 << 16) / std::max<std::int64_t>(row_bytes, 1) + 1;
  torch::stable::parallel_for(0, num_rows, grain, body);
}

// Slots that are read: each inside the pages.
inline void check_read_slots(const char* op, const Tensor& slots, std::int64_t num_slots) {
  const auto* slot = slots.const_data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < slots.size(0); ++row) {
    check(slot[row] >= 0 && slot[row] < num_slots, op, ": slots[", row, "] is ", slot[row],
          ", the cache has ", num_slots, " slots");
  }
}

// Slots of which negative ones are passed over. All are checked before the first row is written:
// a call that fails changes nothing.
inline void check_optional_slots(const char* op, const char* name, const Tensor& slots,
                                 std::int64_t num_slots) {
  const auto* slot = slots.const_data_ptr<std::int64_t>();
  for (std::int64_t row = 0; row < slots.size(0); ++row) {
    check(slot[row] < num_slots, op, ": ", name, "[", row, "] is ", slot[row], ", the cache has ",
          num_slots, " slots");
  }
}

}  // namespace starr::cpu
