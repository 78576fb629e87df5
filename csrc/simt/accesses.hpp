#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "simt/gpu.hpp"

namespace simt {

// Who touched which byte of memory in a launch. Two accesses are in order if one thread makes both,
// or if the threads of one block do and __syncthreads() lies between them: nothing else orders
// them, neither being in one warp nor a shuffle.
class Accesses {
 public:
  void start_launch();
  void start_block();
  void pass_barrier() { ++epoch_; }

  // The block has this much shared memory more, if it did not know of it; garbage is put there.
  void declare_shared(const char* name, void* address, std::size_t size);
  std::size_t shared_bytes() const;

  // What is wrong with this access, or nothing.
  std::string note(unsigned thread, std::uintptr_t address, std::size_t size, Access access);

 private:
  struct Stamp {
    std::uint32_t epoch = 0;  // 0 = never
    std::uint16_t thread = 0;
    bool is_atomic = false;
  };
  struct Cell {
    Stamp write, read;
  };
  struct Shared {
    const char* name;
    std::uintptr_t begin, end;
  };
  static constexpr std::uint16_t kSeveral = 0xffff;
  static constexpr std::uintptr_t kLine = 256;

  const Shared* shared_at(std::uintptr_t address) const;
  bool unordered(const Stamp& other, unsigned thread, bool is_shared) const;
  std::string conflict(const Stamp& other, const char* did, unsigned thread, const char* does,
                       const Shared* shared, std::uintptr_t address) const;

  std::unordered_map<std::uintptr_t, std::array<Cell, kLine>> lines_;
  std::vector<Shared> shared_;
  std::uint32_t epoch_ = 0;        // one more with each block and each barrier
  std::uint32_t block_epoch_ = 0;  // in which this block began
};

}  // namespace simt
