#include <cstddef>
#include <cstdint>
#include <string>

#include "simt/gpu.hpp"
#include "simt/text.hpp"

// What a compiler calls before each access to memory under -fsanitize=thread, and where
// -fsanitize=alignment,bounds finds something. Kernels are compiled with these, and linked to this
// file instead of the sanitizers' own libraries.

using simt::Access;
using simt::note_access;

namespace {

struct SourcePlace {
  const char* file;
  std::uint32_t line, column;
};

// As the compilers lay it out; what follows it is not needed.
struct Finding {
  SourcePlace place;
};

void report(const Finding& finding, const char* what) {
  const std::string file = finding.place.file;
  simt::fail(
      simt::text(what, " in line ", finding.place.line, " of ", file.substr(file.rfind('/') + 1)));
}

}  // namespace

#define STARR_SIMT_SIZE(size)                                                          \
  void __tsan_read##size(void* at) { note_access(at, size, Access::kRead); }           \
  void __tsan_write##size(void* at) { note_access(at, size, Access::kWrite); }         \
  void __tsan_unaligned_read##size(void* at) { note_access(at, size, Access::kRead); } \
  void __tsan_unaligned_write##size(void* at) { note_access(at, size, Access::kWrite); }

extern "C" {
STARR_SIMT_SIZE(1)
STARR_SIMT_SIZE(2)
STARR_SIMT_SIZE(4)
STARR_SIMT_SIZE(8)
STARR_SIMT_SIZE(16)
void __tsan_read_range(void* at, std::size_t size) { note_access(at, size, Access::kRead); }
void __tsan_write_range(void* at, std::size_t size) { note_access(at, size, Access::kWrite); }
void __tsan_vptr_update(void** at, void*) { note_access(at, sizeof *at, Access::kWrite); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

int __tsan_atomic32_fetch_add(volatile int* at, int value, int) {
  note_access(const_cast<const int*>(at), sizeof *at, Access::kAtomic);
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

void __ubsan_handle_type_mismatch_v1(const Finding* finding, void*) {
  report(*finding, "an address is not aligned");
}
void __ubsan_handle_out_of_bounds(const Finding* finding, void*) {
  report(*finding, "an index is beyond its array");
}
}
