#pragma once

// NumPy arrays as arguments, read where they lie.
//
// nanobind's own nb::ndarray takes arrays of any library, by DLPack: a Python call, a capsule and
// an allocation per argument, as long as the rest of a small call. Bookkeeping is done in NumPy
// alone, so its C API is asked: a few loads.

#include <nanobind/nanobind.h>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>

namespace starr {

// C-contiguous elements of an array that the caller holds on to during the call. `const` elements
// may be read-only.
template <typename T, std::size_t N = 1>
struct Array {
  T* data = nullptr;
  std::array<std::size_t, N> shape{};

  std::span<T> span() const noexcept {
    std::size_t size = 1;
    for (const std::size_t length : shape) size *= length;
    return {data, size};
  }
};

using Tokens = Array<const std::int32_t>;

// Loads NumPy's C API; once, before any array is taken. Throws nanobind::python_error when NumPy
// cannot be imported.
void import_numpy();

// Address of the first element of `object`, whose lengths go to `shape`, if it is a NumPy array of
// shape.size() dimensions and signed integers of `item_size` bytes in native order, C-contiguous,
// aligned and, where asked for, writeable; nothing if it is anything else.
std::optional<void*> integers_of(PyObject* object, std::size_t item_size, bool writeable,
                                 std::span<std::size_t> shape) noexcept;

}  // namespace starr

namespace nanobind::detail {

template <std::signed_integral T>
constexpr auto kArrayName = const_name<sizeof(T) == 4>("numpy.typing.NDArray[numpy.int32]",
                                                       "numpy.typing.NDArray[numpy.int64]");

// Never converts: a copy would hide that the caller's array has the wrong type.
template <typename T, std::size_t N>
struct type_caster<starr::Array<T, N>> {
  using Element = std::remove_const_t<T>;
  using ArrayOf = starr::Array<T, N>;
  NB_TYPE_CASTER(ArrayOf, kArrayName<Element>)

  bool from_python(handle source, std::uint32_t, cleanup_list*) noexcept {
    const auto first =
        starr::integers_of(source.ptr(), sizeof(T), !std::is_const_v<T>, value.shape);
    if (!first) return false;
    value.data = static_cast<T*>(*first);
    return true;
  }
};

}  // namespace nanobind::detail
