// starr_engine._core.

#include <nanobind/nanobind.h>

#include "bindings/array.hpp"
#include "bindings/bind.hpp"

NB_MODULE(_core, m) {
  // Ray keeps objects until the interpreter is gone, and a user cannot mend what is reported then.
  nanobind::set_leak_warnings(false);
  starr::import_numpy();
  m.doc() = "Bookkeeping of KV pages, step plans and batches (see csrc/core).";
  starr::bind_prefix(m);
  starr::bind_pool(m);
  starr::bind_table(m);
  starr::bind_batch(m);
}
