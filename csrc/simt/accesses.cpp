#include "simt/accesses.hpp"

#include <cstring>

#include "simt/text.hpp"

namespace simt {
namespace {

// As a float a NaN, as an int a large negative number.
constexpr int kGarbage = 0xff;

}  // namespace

void Accesses::start_launch() {
  lines_.clear();
  epoch_ = 0;
}

void Accesses::start_block() {
  shared_.clear();
  block_epoch_ = ++epoch_;
}

void Accesses::declare_shared(const char* name, void* address, std::size_t size) {
  const auto begin = reinterpret_cast<std::uintptr_t>(address);
  if (shared_at(begin) != nullptr) return;
  shared_.push_back({name, begin, begin + size});
  std::memset(address, kGarbage, size);
}

std::size_t Accesses::shared_bytes() const {
  std::size_t sum = 0;
  for (const Shared& variable : shared_) sum += variable.end - variable.begin;
  return sum;
}

const Accesses::Shared* Accesses::shared_at(std::uintptr_t address) const {
  for (const Shared& variable : shared_) {
    if (address >= variable.begin && address < variable.end) return &variable;
  }
  return nullptr;
}

// Whether nothing orders `other` before what the thread does now. Blocks are never in order; each
// has its own shared memory, which here lies at the same place.
bool Accesses::unordered(const Stamp& other, unsigned thread, bool is_shared) const {
  if (other.epoch == 0) return false;
  if (other.epoch < block_epoch_) return !is_shared;
  return other.epoch == epoch_ && other.thread != thread;
}

std::string Accesses::conflict(const Stamp& other, const char* did, unsigned thread,
                               const char* does, const Shared* shared,
                               std::uintptr_t address) const {
  const std::string where =
      shared == nullptr ? "global memory"
                        : text("byte ", address - shared->begin, " of shared ", shared->name);
  const std::string who =
      other.thread == kSeveral ? "other threads" : text("thread ", other.thread);
  return text("race: thread ", thread, " ", does, " ", where, " that ", who, " ", did,
              other.epoch < block_epoch_ ? " in another block" : " without barrier in between");
}

std::string Accesses::note(unsigned thread, std::uintptr_t address, std::size_t size,
                           Access access) {
  const Shared* shared = shared_at(address);
  const bool is_shared = shared != nullptr;
  const Stamp now{epoch_, static_cast<std::uint16_t>(thread), access == Access::kAtomic};
  const char* does = access == Access::kRead ? "reads" : "writes";
  Cell* line = nullptr;
  for (const std::uintptr_t end = address + size; address < end; ++address) {
    if (line == nullptr || address % kLine == 0) line = lines_[address / kLine].data();
    Cell& cell = line[address % kLine];
    if (is_shared && access != Access::kWrite && cell.write.epoch < block_epoch_) {
      return text("thread ", thread, " reads shared ", shared->name,
                  ", which nobody has written yet");
    }
    if (unordered(cell.write, thread, is_shared) &&
        !(access == Access::kAtomic && cell.write.is_atomic)) {
      return conflict(cell.write, "wrote", thread, does, shared, address);
    }
    if (access != Access::kRead) {
      if (unordered(cell.read, thread, is_shared)) {
        return conflict(cell.read, "read", thread, does, shared, address);
      }
      const bool are_several =
          cell.write.epoch == epoch_ && cell.write.is_atomic && cell.write.thread != now.thread;
      cell.write = now;
      if (are_several) cell.write.thread = kSeveral;
      continue;
    }
    // Of several readers the first of an earlier block, or that there are several.
    if (!is_shared && cell.read.epoch != 0 && cell.read.epoch < block_epoch_) continue;
    const bool is_first = cell.read.epoch != epoch_ || cell.read.thread == thread;
    cell.read = now;
    if (!is_first) cell.read.thread = kSeveral;
  }
  return "";
}

}  // namespace simt
