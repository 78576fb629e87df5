#pragma once

#include <nanobind/nanobind.h>

namespace starr {

// The objects of csrc/core for Python, by topic. No logic lives in any of these: names, defaults,
// docstrings, conversions, and the release of the GIL around the one long call.
void bind_prefix(nanobind::module_& m);
void bind_pool(nanobind::module_& m);
void bind_table(nanobind::module_& m);
void bind_batch(nanobind::module_& m);

}  // namespace starr
