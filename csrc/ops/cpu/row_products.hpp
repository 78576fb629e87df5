#pragma once

#include <cstdint>

#include "ops/row_products.hpp"

namespace starr::cpu {

// 16-bit values as they lie in memory.
struct BFloat16Bits {
  std::uint16_t bits;
};
struct Float16Bits {
  std::uint16_t bits;
};

// Products of two rows of `size` values.
RowProducts row_products(const float* first, const float* second, std::int64_t size);
RowProducts row_products(const BFloat16Bits* first, const BFloat16Bits* second, std::int64_t size);
RowProducts row_products(const Float16Bits* first, const Float16Bits* second, std::int64_t size);

}  // namespace starr::cpu
