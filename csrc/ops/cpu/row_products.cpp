#include "ops/cpu/row_products.hpp"

#include <cstring>

#include "ops/cpu/for_each_cpu.hpp"

namespace starr::cpu {
namespace {

// The registers of AVX2: of wider vectors the compiler keeps running sums in memory there.
constexpr int kLanes = 8;
using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));
using Shorts = std::uint16_t __attribute__((vector_size(kLanes * sizeof(std::uint16_t))));
using Words = std::uint32_t __attribute__((vector_size(kLanes * sizeof(std::uint32_t))));

STARR_INLINE Words load_shorts(const void* from) {
  Shorts lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return __builtin_convertvector(lanes, Words);
}

STARR_INLINE Floats as_floats(Words bits) {
  Floats values;
  std::memcpy(&values, &bits, sizeof values);
  return values;
}

STARR_INLINE Floats load(const float* from) {
  Floats lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

STARR_INLINE Floats load(const BFloat16Bits* from) { return as_floats(load_shorts(from) << 16); }

STARR_INLINE Floats load(const Float16Bits* from) {
  const Words half = load_shorts(from);
  // Exponent and mantissa at the places of float32 are the value times 2^(15 - 127), subnormal
  // numbers included; what is infinite or NaN needs all bits of the exponent.
  const Floats value = as_floats((half & 0x7fff) << 13) * 0x1p112f;
  Words bits;
  std::memcpy(&bits, &value, sizeof bits);
  const Words is_special = (half & 0x7c00) == 0x7c00;
  return as_floats(bits | (is_special & 0x7f800000) | (half & 0x8000) << 16);
}

STARR_INLINE float sum(Floats lanes) {
  float total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += lanes[lane];
  return total;
}

struct Sums {
  Floats mixed{}, first{}, second{};

  template <typename Value>
  STARR_INLINE void add(const Value* a, const Value* b) {
    const Floats x = load(a), y = load(b);
    mixed += x * y;
    first += x * x;
    second += y * y;
  }
};

template <typename Value>
STARR_INLINE RowProducts products(const Value* first, const Value* second, std::int64_t size) {
  Sums even, odd;  // two, so that no sum waits for the one before
  std::int64_t i = 0;
  for (; i + 2 * kLanes <= size; i += 2 * kLanes) {
    even.add(first + i, second + i);
    odd.add(first + i + kLanes, second + i + kLanes);
  }
  if (i < size) {  // zeros add nothing
    Value a[2 * kLanes] = {}, b[2 * kLanes] = {};
    std::memcpy(a, first + i, static_cast<std::size_t>(size - i) * sizeof(Value));
    std::memcpy(b, second + i, static_cast<std::size_t>(size - i) * sizeof(Value));
    even.add(a, b);
    odd.add(a + kLanes, b + kLanes);
  }
  return {sum(even.mixed + odd.mixed), sum(even.first + odd.first), sum(even.second + odd.second)};
}

}  // namespace

STARR_FOR_EACH_CPU
RowProducts row_products(const float* first, const float* second, std::int64_t size) {
  return products(first, second, size);
}

STARR_FOR_EACH_CPU
RowProducts row_products(const BFloat16Bits* first, const BFloat16Bits* second, std::int64_t size) {
  return products(first, second, size);
}

STARR_FOR_EACH_CPU
RowProducts row_products(const Float16Bits* first, const Float16Bits* second, std::int64_t size) {
  return products(first, second, size);
}

}  // namespace starr::cpu
