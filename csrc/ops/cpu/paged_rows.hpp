#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

namespace starr::cpu {

// Runs body(begin, end) over [0, num_rows) on torch's threads, each with at least 64 kB to
// copy: below that, waking a thread costs more than the copy.
template <typename Body>
void for_each_row(std::int64_t num_rows, std::int64_t row_bytes, const Body& body) {
  const std::int64_t grain = (1 << 16) / std::max<std::int64_t>(row_bytes, 1) + 1;
  torch::stable::parallel_for(0, num_rows, grain, body);
}

}  // namespace starr::cpu
