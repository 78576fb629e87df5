// Without this a CPU build of torch refuses copies to a tensor that says it is on CUDA, and a
// device "cuda" without an index: it asks which device is the current one. Here it is always 0.
#include <c10/core/impl/DeviceGuardImplInterface.h>

C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>);
