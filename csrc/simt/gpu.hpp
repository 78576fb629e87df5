#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>

// A CUDA device that runs one thread at a time, and refuses what CUDA leaves undefined.
namespace simt {

struct uint3 {
  unsigned x, y, z;
};

struct dim3 : uint3 {
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : uint3{x, y, z} {}
};

struct Launch {
  const char* kernel;
  dim3 grid, block;
  std::size_t dynamic_shared_bytes, argument_bytes;
  std::function<void()> run_thread;
};

using Place = std::source_location;

// For the host. A launch has ended when it returns; what went wrong is kept for take_failure().
void launch(const Launch& launch);
std::string take_failure();  // kernel, block and what happened; empty = nothing

// In which order blocks and the threads between two barriers run.
inline constexpr int kForward = 0, kBackward = 1;  // others are seeds of random orders
void set_order(int order);
std::int64_t num_launches();

// For the thread that runs.
uint3 thread_index();
uint3 block_index();
dim3 block_size();
dim3 grid_size();
void wait_for_block(Place place);

// Each of the named lanes of the warp gives a value and gets that of lane `source` or, if that is
// kVote, one bit for each lane whose value is not 0. Returns when all have come.
inline constexpr int kVote = -1;
std::uint32_t exchange(unsigned lanes, std::uint32_t value, int source, Place place);
int lane_index();

// The block has this much shared memory more, if it did not know of it.
void declare_shared(const char* name, void* address, std::size_t size);

// Every access of a kernel to memory, if it was compiled to tell (hooks.cpp).
enum class Access : std::uint8_t { kRead, kWrite, kAtomic };
void note_access(const void* address, std::size_t size, Access access);

// Ends the launch: a thread that calls it never runs again. Outside a launch it does nothing.
void fail(const std::string& what);

}  // namespace simt
