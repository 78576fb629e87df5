#pragma once

// Three copies of each function that carries this are compiled, and the loader picks the one for
// the machine: AVX-512, AVX2 with FMA, or plain SSE2. Wheels need no -march.
#if defined(__x86_64__) && defined(__linux__) && !defined(__clang__) && __GNUC__ >= 12
#define STARR_FOR_EACH_CPU \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define STARR_FOR_EACH_CPU
#endif

#define STARR_INLINE inline __attribute__((always_inline))
