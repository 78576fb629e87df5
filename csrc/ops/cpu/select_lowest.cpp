#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "ops/order_key.hpp"
#include "ops/page_arguments.hpp"

namespace starr::cpu {
namespace {

// Values a thread should have before another is woken: some 20 us of work.
constexpr std::int64_t kValuesPerThread = 1 << 12;

// Key and, below it, index: no two are equal, and the order breaks ties as it should.
std::uint64_t rank(const float* values, std::int64_t index) {
  return static_cast<std::uint64_t>(order_key(values[index])) << 32 |
         static_cast<std::uint64_t>(index);
}

void select(const float* values, std::int64_t begin, std::int64_t end, std::int64_t count,
            std::vector<std::uint64_t>& ranks, std::int64_t* selected) {
  if (count == 0) return;
  ranks.clear();
  for (std::int64_t i = begin; i < end; ++i) ranks.push_back(rank(values, i));
  const auto last = ranks.begin() + count - 1;
  std::nth_element(ranks.begin(), last, ranks.end());
  const std::uint64_t largest = *last;
  for (std::int64_t i = begin; i < end; ++i) {
    if (rank(values, i) <= largest) *selected++ = i;
  }
}

Tensor select_lowest(const Tensor& values, const std::vector<std::int64_t>& cu_rows,
                     const std::vector<std::int64_t>& counts) {
  const auto args = SelectLowestArguments::check_arguments(values, cu_rows, counts);
  Tensor selected = torch::stable::new_empty(values, {args.num_selected}, ScalarType::Long);
  const auto* from = values.const_data_ptr<float>();
  auto* to = selected.mutable_data_ptr<std::int64_t>();
  std::vector<std::int64_t> offsets(counts.size() + 1, 0);
  for (std::size_t r = 0; r < counts.size(); ++r) offsets[r + 1] = offsets[r] + counts[r];
  const std::int64_t mean_length = cu_rows.back() / std::max<std::int64_t>(args.num_segments, 1);
  const std::int64_t grain = kValuesPerThread / std::max<std::int64_t>(mean_length, 1) + 1;
  torch::stable::parallel_for(
      0, args.num_segments, grain, [&](std::int64_t first, std::int64_t stop) {
        std::vector<std::uint64_t> ranks;
        for (auto r = static_cast<std::size_t>(first); r < static_cast<std::size_t>(stop); ++r) {
          select(from, cu_rows[r], cu_rows[r + 1], counts[r], ranks, to + offsets[r]);
        }
      });
  return selected;
}

}  // namespace
}  // namespace starr::cpu

STABLE_TORCH_LIBRARY_IMPL(starr_engine, CPU, ops) {
  ops.impl("select_lowest", TORCH_BOX(&starr::cpu::select_lowest));
}
