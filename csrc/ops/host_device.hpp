#pragma once

// Marks functions that CPU code and kernels share.
#if defined(__CUDACC__)
#define STARR_HOST_DEVICE __host__ __device__
#else
#define STARR_HOST_DEVICE
#endif
