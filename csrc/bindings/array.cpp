#include "bindings/array.hpp"

#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#include <numpy/arrayobject.h>

#include <algorithm>

namespace starr {

void import_numpy() {
  if (_import_array() < 0) throw nanobind::python_error();
}

std::optional<void*> integers_of(PyObject* object, std::size_t item_size, bool writeable,
                                 std::span<std::size_t> shape) noexcept {
  if (!PyArray_Check(object)) return std::nullopt;
  const auto* array = reinterpret_cast<PyArrayObject*>(object);
  // Elements, lengths and type are three places; the first is needed most.
  __builtin_prefetch(PyArray_DATA(array));
  const PyArray_Descr* type = PyArray_DESCR(array);
  const bool is_wanted =
      type->kind == 'i' && PyArray_ISNBO(type->byteorder) &&
      static_cast<std::size_t>(PyArray_ITEMSIZE(array)) == item_size &&
      static_cast<std::size_t>(PyArray_NDIM(array)) == shape.size() &&
      PyArray_CHKFLAGS(array, writeable ? NPY_ARRAY_CARRAY : NPY_ARRAY_CARRAY_RO);
  if (!is_wanted) return std::nullopt;
  std::copy_n(PyArray_DIMS(array), shape.size(), shape.begin());
  return PyArray_DATA(array);
}

}  // namespace starr
