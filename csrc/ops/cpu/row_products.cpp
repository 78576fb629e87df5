#include "ops/cpu/row_products.hpp"

#include <cstring>

#include "ops/cpu/vectors.hpp"

namespace starr::cpu {
namespace {

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

using cpu::load;  // of float32

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

template <typename Value>
STARR_INLINE RowProducts products(const Value* first, const Value* second, std::int64_t size) {
  Floats mixed{}, first_square{}, second_square{};
  const auto add = [&](const Value* a, const Value* b) __attribute__((always_inline)) {
    const Floats x = load(a), y = load(b);
    mixed += x * y;
    first_square += x * x;
    second_square += y * y;
  };
  std::int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) add(first + i, second + i);
  if (i < size) {  // zeros add nothing
    Value a[kLanes] = {}, b[kLanes] = {};
    std::memcpy(a, first + i, static_cast<std::size_t>(size - i) * sizeof(Value));
    std::memcpy(b, second + i, static_cast<std::size_t>(size - i) * sizeof(Value));
    add(a, b);
  }
  return {sum(mixed), sum(first_square), sum(second_square)};
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
