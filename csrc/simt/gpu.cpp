#include "simt/gpu.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <new>
#include <numeric>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "simt/accesses.hpp"
#include "simt/fiber.hpp"
#include "simt/text.hpp"

namespace simt {
namespace {

// CUDA's limits on every architecture that the kernels are compiled for.
constexpr unsigned kMaxThreads = 1024, kMaxBlockDepth = 64;
constexpr unsigned kMaxGridX = (1u << 31) - 1, kMaxGridYZ = 65535;
constexpr std::size_t kMaxArgumentBytes = 4096, kMaxSharedBytes = 48 << 10;
constexpr unsigned kWarp = 32;
constexpr std::size_t kStackBytes = 128 << 10;

enum class State : std::uint8_t { kReady, kAtBarrier, kInExchange, kExited };

struct Thread {
  Fiber fiber;
  uint3 index{};
  State state = State::kExited;
  Place place;
  // In an exchange: what it gave, and what it gets.
  unsigned lanes = 0;
  int source = 0;
  std::uint32_t given = 0, received = 0;
};

struct Gpu {
  std::mutex one_launch;
  int order = kForward;
  std::int64_t num_launches = 0;
  std::string failure;

  const Launch* launch = nullptr;  // while one runs
  uint3 block{};
  Accesses accesses;
  std::vector<Thread> threads{kMaxThreads};
  std::array<unsigned, kMaxThreads / kWarp> in_exchange{};  // lanes of each warp
  unsigned num_threads = 0, running = 0;
  bool is_in_thread = false, has_started_fibers = false;
  std::byte* stacks = nullptr;

  void start_fibers();
  void run_block(const std::vector<std::vector<unsigned>>& warps);
  bool resume_ready(const std::vector<std::vector<unsigned>>& warps);
  void open_barrier();
  std::string waiting() const;
  bool is_one_exchange(unsigned first, unsigned lanes, const Place& place) const;
  void complete_exchange(unsigned first, unsigned lanes);
};

Gpu& gpu() {
  static Gpu instance;
  return instance;
}

Thread& self() { return gpu().threads[gpu().running]; }

bool is_same(const Place& a, const Place& b) {
  return a.line() == b.line() && a.column() == b.column() && a.file_name() == b.file_name();
}

std::string sizes(uint3 v) { return text("(", v.x, ", ", v.y, ", ", v.z, ")"); }

std::vector<unsigned> ordered(std::size_t count, int order) {
  std::vector<unsigned> indices(count);
  std::iota(indices.begin(), indices.end(), 0u);
  if (order == kBackward) std::reverse(indices.begin(), indices.end());
  if (order > kBackward) {
    std::shuffle(indices.begin(), indices.end(), std::mt19937(static_cast<unsigned>(order)));
  }
  return indices;
}

// The threads of a block by warps.
std::vector<std::vector<unsigned>> ordered_warps(unsigned num_threads, int order) {
  std::vector<std::vector<unsigned>> warps;
  for (const unsigned warp : ordered((num_threads + kWarp - 1) / kWarp, order)) {
    const unsigned first = warp * kWarp;
    warps.push_back(ordered(std::min(kWarp, num_threads - first), order));
    for (unsigned& thread : warps.back()) thread += first;
  }
  return warps;
}

std::string broken_limit(const Launch& launch) {
  const dim3 grid = launch.grid, block = launch.block;
  const auto one = std::uint64_t{1};
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return text("the grid ", sizes(grid), " is empty");
  if (grid.x > kMaxGridX || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ) {
    return text("the grid ", sizes(grid), " is larger than (2^31 - 1, 65535, 65535)");
  }
  const auto num_threads = one * block.x * block.y * block.z;
  if (num_threads == 0 || block.x > kMaxThreads || block.y > kMaxThreads ||
      block.z > kMaxBlockDepth || num_threads > kMaxThreads) {
    return text("a block must have 1 to 1024 threads, at most 64 deep, got ", sizes(block));
  }
  if (launch.argument_bytes > kMaxArgumentBytes) {
    return text("the arguments take ", launch.argument_bytes, " bytes, 4096 may be");
  }
  return launch.dynamic_shared_bytes == 0 ? "" : "dynamic shared memory is not simulated";
}

void run_fiber() {
  for (;;) {
    gpu().launch->run_thread();
    self().state = State::kExited;
    self().fiber.suspend();
  }
}

// Anew after a failure, which leaves threads in the middle of a kernel.
void Gpu::start_fibers() {
  constexpr std::size_t kAllStacks = kMaxThreads * kStackBytes;
  if (stacks == nullptr) {
    void* memory = mmap(nullptr, kAllStacks, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stacks = static_cast<std::byte*>(memory);
  }
  for (std::size_t i = 0; i < kMaxThreads; ++i) {
    // Stacks that all begin at the same place of a page would share the same lines of the cache.
    const std::size_t size = kStackBytes - i % 64 * 256;
    threads[i].fiber.start(stacks + i * kStackBytes, size, run_fiber);
  }
  has_started_fibers = true;
}

void Gpu::run_block(const std::vector<std::vector<unsigned>>& warps) {
  accesses.start_block();
  in_exchange.fill(0);
  for (unsigned i = 0; i < num_threads; ++i) {
    const dim3 size = launch->block;
    threads[i].index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    threads[i].state = State::kReady;
  }
  const auto is_exited = [](const Thread& thread) { return thread.state == State::kExited; };
  while (failure.empty()) {
    if (resume_ready(warps)) continue;
    if (std::all_of(threads.begin(), threads.begin() + num_threads, is_exited)) return;
    open_barrier();
  }
}

// Turns for all threads that wait for nothing, warp by warp. Returns whether there was any.
bool Gpu::resume_ready(const std::vector<std::vector<unsigned>>& warps) {
  bool has_run = false;
  for (const auto& warp : warps) {
    for (bool is_done = false; !is_done;) {
      is_done = true;
      for (const unsigned i : warp) {
        if (threads[i].state != State::kReady) continue;
        has_run = true;
        is_done = false;
        running = i;
        is_in_thread = true;
        threads[i].fiber.resume();
        is_in_thread = false;
        if (!failure.empty()) return true;
      }
    }
  }
  return has_run;
}

// All threads wait or have exited: they must wait at one and the same barrier.
void Gpu::open_barrier() {
  const Place place = threads[0].place;
  for (unsigned i = 0; i < num_threads; ++i) {
    const Thread& thread = threads[i];
    if (thread.state != State::kAtBarrier || !is_same(thread.place, place)) {
      fail("threads wait for each other for ever: " + waiting());
      return;
    }
  }
  for (unsigned i = 0; i < num_threads; ++i) threads[i].state = State::kReady;
  accesses.pass_barrier();
}

// Which threads are where: "threads 0-31 at a barrier in line 7 of a.cu, threads 32-63 exited".
std::string Gpu::waiting() const {
  const auto where = [](const Thread& thread) -> std::string {
    if (thread.state == State::kExited) return "exited";
    const std::string_view file = thread.place.file_name();
    const std::string at =
        text(" in line ", thread.place.line(), " of ", file.substr(file.rfind('/') + 1));
    if (thread.state == State::kAtBarrier) return "at a barrier" + at;
    return text("in an exchange of lanes 0x", std::hex, thread.lanes, at);
  };
  std::string list;
  for (unsigned first = 0, end = 0; first < num_threads; first = end) {
    const std::string here = where(threads[first]);
    while (end < num_threads && where(threads[end]) == here) ++end;
    list += first == 0 ? "" : ", ";
    list += end - first == 1 ? text("thread ", first) : text("threads ", first, "-", end - 1);
    list += " " + here;
  }
  return list;
}

// Whether the lanes of the warp that begins with thread `first` are where one of them is.
bool Gpu::is_one_exchange(unsigned first, unsigned lanes, const Place& place) const {
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const Thread& thread = threads[first + lane];
    if ((lanes >> lane & 1) != 0 && !(thread.lanes == lanes && is_same(thread.place, place))) {
      return false;
    }
  }
  return true;
}

void Gpu::complete_exchange(unsigned first, unsigned lanes) {
  std::uint32_t votes = 0;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if ((lanes >> lane & 1) != 0 && threads[first + lane].given != 0) votes |= 1u << lane;
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if ((lanes >> lane & 1) == 0) continue;
    Thread& thread = threads[first + lane];
    thread.state = State::kReady;
    if (thread.source == kVote) {
      thread.received = votes;
    } else if ((lanes >> thread.source & 1) == 0) {
      fail(
          text("lane ", lane, " reads lane ", thread.source, ", which the exchange does not name"));
    } else {
      thread.received = threads[first + static_cast<unsigned>(thread.source)].given;
    }
  }
}

}  // namespace

void launch(const Launch& launch) {
  Gpu& g = gpu();
  const std::lock_guard lock(g.one_launch);
  if (!g.failure.empty()) return;  // an error stays until it is asked for
  ++g.num_launches;
  if (const std::string broken = broken_limit(launch); !broken.empty()) {
    g.failure = text(launch.kernel, ": ", broken);
    return;
  }
  if (!g.has_started_fibers) g.start_fibers();
  const dim3 grid = launch.grid;
  g.launch = &launch;
  g.num_threads = launch.block.x * launch.block.y * launch.block.z;
  g.accesses.start_launch();
  const auto warps = ordered_warps(g.num_threads, g.order);
  for (const unsigned i : ordered(std::size_t{1} * grid.x * grid.y * grid.z, g.order)) {
    g.block = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
    g.run_block(warps);
    if (!g.failure.empty()) break;
  }
  g.launch = nullptr;
}

std::string take_failure() { return std::exchange(gpu().failure, ""); }
void set_order(int order) { gpu().order = order; }
std::int64_t num_launches() { return gpu().num_launches; }

uint3 thread_index() { return self().index; }
uint3 block_index() { return gpu().block; }
dim3 block_size() { return gpu().launch->block; }
dim3 grid_size() { return gpu().launch->grid; }
int lane_index() { return static_cast<int>(gpu().running % kWarp); }

void wait_for_block(Place place) {
  self().place = place;
  self().state = State::kAtBarrier;
  self().fiber.suspend();
}

std::uint32_t exchange(unsigned lanes, std::uint32_t value, int source, Place place) {
  Gpu& g = gpu();
  Thread& me = self();
  const unsigned lane = g.running % kWarp, first = g.running - lane;
  if ((lanes >> lane & 1) == 0) fail(text("lane ", lane, " does not name itself"));
  me.lanes = lanes;
  me.source = source;
  me.given = value;
  me.place = place;
  me.state = State::kInExchange;
  unsigned& waiting = g.in_exchange[g.running / kWarp];
  waiting |= 1u << lane;
  if ((waiting & lanes) == lanes && g.is_one_exchange(first, lanes, place)) {
    waiting &= ~lanes;
    g.complete_exchange(first, lanes);
  } else {
    me.fiber.suspend();
  }
  return me.received;
}

void declare_shared(const char* name, void* address, std::size_t size) {
  Gpu& g = gpu();
  g.accesses.declare_shared(name, address, size);
  if (const std::size_t all = g.accesses.shared_bytes(); all > kMaxSharedBytes) {
    fail(text("shared memory takes ", all, " bytes, 49152 may be"));
  }
}

void note_access(const void* address, std::size_t size, Access access) {
  Gpu& g = gpu();
  if (g.launch == nullptr) return;
  const auto* byte = static_cast<const std::byte*>(address);
  if (byte >= g.stacks && byte < g.stacks + kMaxThreads * kStackBytes) {
    const auto owner = static_cast<unsigned>((byte - g.stacks) / kStackBytes);
    if (owner != g.running) fail(text("a thread touches local memory of thread ", owner));
    return;
  }
  const auto begin = reinterpret_cast<std::uintptr_t>(address);
  if (const std::string wrong = g.accesses.note(g.running, begin, size, access); !wrong.empty()) {
    fail(wrong);
  }
}

void fail(const std::string& what) {
  Gpu& g = gpu();
  if (g.launch == nullptr) return;
  g.failure = text(g.launch->kernel, ", block ", sizes(g.block), ": ", what);
  g.has_started_fibers = false;
  if (g.is_in_thread) self().fiber.suspend();
}

}  // namespace simt
