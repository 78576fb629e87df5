#include "simt/gpu.hpp"

// For tests in Python, by ctypes.
#define STARR_SIMT_EXPORT extern "C" __attribute__((visibility("default")))

STARR_SIMT_EXPORT void simt_set_order(int order) { simt::set_order(order); }
STARR_SIMT_EXPORT std::int64_t simt_num_launches() { return simt::num_launches(); }
