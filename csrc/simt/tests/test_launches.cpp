#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "core/tests/check.hpp"
#include "ops/cuda/logits_statistics.cuh"
#include "ops/cuda/paged_rows.cuh"
#include "ops/cuda/row_similarity.cuh"
#include "ops/cuda/select_lowest.cuh"
#include "ops/cuda/starr.cuh"
#include "simt/gpu.hpp"

// Every launch on buffers that end where the data ends, so that an address sanitizer sees each
// access beyond them. Results are held to references by the tests in Python.
namespace {

using namespace starr;
using namespace starr::cuda;

// `size` bytes from `offset` on, at the very end of an allocation of their own: what comes after
// them is nobody's, and before them are no more than `offset`.
struct Buffer {
  std::unique_ptr<char[]> all;
  char* data;

  explicit Buffer(std::size_t size, std::size_t offset = 0, int fill = 0)
      : all(new char[offset + size]), data(all.get() + offset) {
    std::memset(all.get(), fill, offset + size);
  }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data);
  }
};

template <typename T>
Buffer copy(const std::vector<T>& values) {
  Buffer buffer(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(buffer.data, values.data(), values.size() * sizeof(T));
  return buffer;
}

void check_launched(cudaError_t status) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(status));
  std::exit(1);
}

// Row sizes for each width of vector and with many rounds, addresses aligned to each of them.
constexpr std::int64_t kRowBytes[] = {0, 1, 2, 12, 16, 48, 2064, 4096};
constexpr std::size_t kOffsets[] = {0, 1, 2, 4, 8};

// One address or step at a time off by `offset`: that of keys, of values, of their caches, or the
// step from one row to the next.
void test_paged_rows(std::int64_t row, std::size_t offset, int which,
                     const std::vector<std::int64_t>& chosen) {
  const std::int64_t num_slots = 5, stride = row + (which == 4 ? std::int64_t(offset) : 0);
  const auto count = static_cast<std::int64_t>(chosen.size());
  const auto size = static_cast<std::size_t>(count == 0 ? 0 : (count - 1) * stride + row);
  const auto dense = static_cast<std::size_t>(count * row);
  const auto cache = static_cast<std::size_t>(num_slots * row);
  const auto off = [&](int tensor) { return which == tensor ? offset : 0; };
  Buffer key(size, off(0), 1), value(size, off(1), 2), slots = copy(chosen);
  Buffer k_cache(cache, off(2)), v_cache(cache, off(3));
  auto* slot = slots.as<std::int64_t>();
  check_launched(launch_store_kv(
      {key.data, value.data, k_cache.data, v_cache.data, slot, count, row, stride, stride},
      nullptr));
  check_launched(launch_store_rows({key.data, k_cache.data, slot, count, row, stride}, nullptr));
  for (std::int64_t i = 0; i < count; ++i) slot[i] = slot[i] < 0 ? num_slots - 1 : slot[i];
  Buffer read_key(dense, off(0)), read_value(dense, off(1)), read_rows(dense, off(0));
  check_launched(launch_gather_kv(
      {k_cache.data, v_cache.data, read_key.data, read_value.data, slot, count, row}, nullptr));
  check_launched(launch_gather_rows({k_cache.data, read_rows.data, slot, count, row}, nullptr));
  for (std::size_t i = 0; i < dense; ++i) {
    CHECK(read_key.data[i] == 1 && read_value.data[i] == 2 && read_rows.data[i] == 1);
  }
}

void test_paged_rows() {
  for (const std::int64_t row : kRowBytes) {
    for (const std::size_t offset : kOffsets) {
      for (int which = 0; which < (offset == 0 ? 1 : 5); ++which) {
        for (const auto& chosen : {std::vector<std::int64_t>{}, {4, -1, 0}, {3}}) {
          test_paged_rows(row, offset, which, chosen);
        }
      }
    }
  }
}

void test_copy_pages() {
  // Bytes of a page; the last ones take several thread blocks, and many rounds of the most.
  for (const std::int64_t page : {0, 1, 6, 16, 8192 + 16, 70 * 8192}) {
    const std::int64_t num_slabs = 2, num_pages = 4;
    Buffer pages(static_cast<std::size_t>(num_slabs * num_pages * page));
    if (page > 0) pages.data[2 * num_pages * page - 1] = 7;
    const std::vector<std::int64_t> source{3, 0}, target{1, 2};
    Buffer from = copy(source), to = copy(target);
    for (const std::int64_t count : {0, 1, 2}) {
      check_launched(launch_copy_pages({pages.data, from.as<std::int64_t>(), to.as<std::int64_t>(),
                                        count, num_slabs, num_pages, page},
                                       nullptr));
    }
    if (page > 0) CHECK(pages.data[(num_pages + 2) * page - 1] == 7);
  }
  const std::int64_t many = 513;  // more than two launches
  std::vector<std::int64_t> source(many), target(many);
  std::iota(source.begin(), source.end(), 0);
  std::iota(target.begin(), target.end(), many);
  Buffer pages(2 * many * 4), from = copy(source), to = copy(target);
  std::memset(pages.data, 5, many * 4);
  check_launched(launch_copy_pages(
      {pages.data, from.as<std::int64_t>(), to.as<std::int64_t>(), many, 1, 2 * many, 4}, nullptr));
  CHECK(std::memcmp(pages.data, pages.data + many * 4, many * 4) == 0);
}

// Rows or their cache lie off an aligned address, or the rows `gap` values apart.
void test_row_similarity(RowDtype dtype, std::int64_t size, std::size_t rows_offset,
                         std::size_t cache_offset, std::int64_t gap) {
  const std::int64_t bytes = dtype == RowDtype::kFloat32 ? 4 : 2;
  const std::int64_t stride = size + gap, num_rows = 3;
  Buffer rows(static_cast<std::size_t>(((num_rows - 1) * stride + size) * bytes), rows_offset);
  Buffer cache(static_cast<std::size_t>(2 * size * bytes), cache_offset);
  Buffer slots = copy(std::vector<std::int64_t>{1, -1, 0});
  Buffer similarity(3 * sizeof(float));
  check_launched(launch_row_similarity({rows.data, cache.data, slots.as<std::int64_t>(),
                                        similarity.as<float>(), dtype, num_rows, size, stride},
                                       nullptr));
  for (int i = 0; i < 3; ++i) CHECK(similarity.as<float>()[i] == 1.0f);  // all are zeros
}

void test_row_similarity() {
  for (const auto dtype : {RowDtype::kFloat32, RowDtype::kBFloat16, RowDtype::kFloat16}) {
    for (const std::int64_t size : {0, 1, 8, 9, 1032}) {
      test_row_similarity(dtype, size, 0, 0, 8);
      test_row_similarity(dtype, size, 0, 0, 1);
      test_row_similarity(dtype, size, 4, 0, 0);
      test_row_similarity(dtype, size, 0, 4, 0);
    }
  }
}

void test_select_lowest() {
  for (const std::int64_t length : {0, 1, 255, 256, 257, 600}) {
    for (const std::int64_t count : {std::int64_t{0}, length / 2, length}) {
      const std::vector<std::int64_t> bounds{0, length, length + 3};
      const std::vector<std::int64_t> counts{count, 1};
      std::vector<float> numbers(static_cast<std::size_t>(length + 3));
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        numbers[i] = -static_cast<float>(i * i % 101);
      }
      Buffer values = copy(numbers);
      Buffer selected(static_cast<std::size_t>(count + 1) * sizeof(std::int64_t));
      check_launched(launch_select_lowest(
          {values.as<float>(), bounds.data(), counts.data(), 2, selected.as<std::int64_t>()},
          nullptr));
      const std::int64_t last = selected.as<std::int64_t>()[count];
      CHECK(last >= length && last < length + 3);
    }
  }
}

void test_logits() {
  for (const bool is_bfloat16 : {false, true}) {
    const std::int64_t bytes = is_bfloat16 ? 2 : 4;
    for (const std::int64_t vocab : {1, 3, 8, 517, 4103}) {
      for (const std::int64_t first : {0, 1, 3}) {  // of the logits, from an aligned address
        const std::int64_t stride = vocab + first, num_rows = 2;
        Buffer logits(static_cast<std::size_t>((stride + vocab) * bytes),
                      static_cast<std::size_t>(first * bytes));
        Buffer candidate(2 * sizeof(std::int64_t));
        std::vector<Buffer> numbers;
        for (int i = 0; i < 5; ++i) numbers.emplace_back(2 * sizeof(float));
        const auto number = [&](std::size_t i) { return numbers[i].as<float>(); };
        check_launched(launch_logits_statistics(
            {logits.data, is_bfloat16, num_rows, vocab, stride, vocab - 1,
             candidate.as<std::int64_t>(), number(0), number(1), number(2), number(3)},
            nullptr));
        CHECK(candidate.as<std::int64_t>()[0] == 0);

        // Two positions: one masked, one that has no logits.
        Buffer row_of = copy(std::vector<std::int64_t>{1, -1});
        Buffer present = copy(std::vector<std::int64_t>{vocab - 1, 0});
        Buffer masked = copy(std::vector<char>{1, 0});
        const StarrScores scores{2,
                                 row_of.as<std::int64_t>(),
                                 present.as<std::int64_t>(),
                                 masked.as<bool>(),
                                 candidate.as<std::int64_t>(),
                                 number(0),
                                 number(1),
                                 number(2),
                                 number(3),
                                 number(4)};
        check_launched(launch_starr_scores(
            {logits.data, is_bfloat16, vocab, stride, vocab - 1, scores}, nullptr));
        CHECK(candidate.as<std::int64_t>()[1] == 0 && number(0)[1] == 1.0f);
      }
    }
  }
}

void test_decide() {
  StarrRule rule{};
  rule.neighbour_window = 40;
  rule.quantile = 0.3f;
  rule.tau_max = rule.c_fast = rule.sigma = 1.0f;
  rule.patience = 1;
  for (const std::int64_t num_rows : {0, 1, 3}) {
    for (const std::int64_t length : {0, 1, 31, 33, 256, 300}) {
      const auto size = static_cast<std::size_t>(num_rows * length);
      const std::int64_t window = 3;
      std::vector<Buffer> longs, floats, bools;
      for (int i = 0; i < 6; ++i) longs.emplace_back(size * sizeof(std::int64_t));
      for (int i = 0; i < 6; ++i) floats.emplace_back(size * sizeof(float));
      for (int i = 0; i < 5; ++i) bools.emplace_back(size, 0, 1);
      Buffer ring(3 * size * sizeof(float)), new_ring(3 * size * sizeof(float));
      Buffer num_left(static_cast<std::size_t>(num_rows) * sizeof(std::int64_t));
      const auto number = [&](std::size_t i) { return longs[i].as<std::int64_t>(); };
      const auto real = [&](std::size_t i) { return floats[i].as<float>(); };
      const auto flag = [&](std::size_t i) { return bools[i].as<bool>(); };
      for (std::size_t i = 0; i < size; ++i) real(0)[i] = static_cast<float>(i % 10) / 10.0f;
      StarrBlocks b{};
      b.num_rows = num_rows;
      b.length = length;
      b.temporal_window = window;
      b.candidates = number(0);
      b.confidence = b.signal = real(0);
      b.deviance = length % 2 == 0 ? real(1) : nullptr;
      b.masked = flag(0);
      b.num_left = num_left.as<std::int64_t>();
      b.ring = ring.as<float>();
      b.seen = number(1);
      b.run = number(2);
      b.last_candidate = number(3);
      b.revoked = flag(1);
      b.unmask = flag(2);
      b.revoke = flag(3);
      b.new_ring = new_ring.as<float>();
      b.new_seen = number(4);
      b.new_run = number(5);
      b.new_revoked = flag(4);
      b.threshold = real(2);
      b.variance = real(3);
      b.new_deviance = real(4);
      b.stability = real(5);
      check_launched(launch_starr_decide(rule, b, nullptr));
      for (std::size_t i = 0; i < size; ++i) CHECK(number(4)[i] == 1);
    }
  }
}

}  // namespace

int main() {
  for (const int order : {simt::kForward, simt::kBackward, 2}) {
    simt::set_order(order);
    test_paged_rows();
    test_copy_pages();
    test_row_similarity();
    test_select_lowest();
    test_logits();
    test_decide();
  }
  CHECK(simt::num_launches() > 1000);
}
