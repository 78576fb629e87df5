#include <algorithm>
#include <string>
#include <vector>

#include "core/tests/check.hpp"

// Small kernels, most of them wrong: the simulated GPU must say what is wrong with each.
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kThreads = 64;

__global__ void sum_kernel(const int* values, int* sum, bool has_barrier) {
  __shared__ int copies[kThreads], unused;
  copies[threadIdx.x] = values[threadIdx.x];
  if (has_barrier) __syncthreads();
  if (threadIdx.x != 0) return;
  *sum = 0;
  for (int i = 0; i < kThreads; ++i) *sum += copies[i];
}

__global__ void overtaking_kernel(int* out) {
  __shared__ int round;
  for (int i = 0; i < 2; ++i) {
    if (threadIdx.x == 0) round = i;
    __syncthreads();
    out[threadIdx.x] = round;  // thread 0 may be one round ahead
  }
}

__global__ void barrier_for_some_kernel(unsigned count) {
  if (threadIdx.x < count) __syncthreads();
}

__global__ void two_barriers_kernel() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void missing_lanes_kernel(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(kAllLanes, 1, 1);
}

__global__ void ballot_of_others_kernel(int* out) {
  out[threadIdx.x] = static_cast<int>(__ballot_sync(0xffffu, 1));
}

__global__ void unnamed_source_kernel(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0xffffu, 1, 8);
}

__global__ void exchange_and_barrier_kernel(int* out) {
  if (threadIdx.x < 32) {
    out[threadIdx.x] = __shfl_up_sync(kAllLanes, 1, 1);
  } else if (threadIdx.x == 32) {
    out[threadIdx.x] = __shfl_up_sync(kAllLanes, 1, 1);
  } else {
    __syncthreads();
  }
}

__global__ void shuffles_kernel(int* down, float* up, unsigned* votes) {
  const int thread = static_cast<int>(threadIdx.x);
  down[thread] = __shfl_down_sync(kAllLanes, thread, 3);
  up[thread] = __shfl_up_sync(kAllLanes, 0.5f * static_cast<float>(thread), 1);
  votes[thread] = __ballot_sync(kAllLanes, thread % 3 == 0);
}

__global__ void unwritten_kernel(int* out) {
  __shared__ int value;
  if (blockIdx.x == 0 && threadIdx.x == 0) value = 7;
  __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = value;  // what another block left there
}

__global__ void no_order_in_a_warp_kernel(int* out) {
  __shared__ int value;
  if (threadIdx.x == 0) value = 7;
  const int zero = __shfl_down_sync(kAllLanes, 0, 1);
  if (threadIdx.x == 1) *out = value + zero;
}

__global__ void count_kernel(int* count, bool is_plain) {
  __shared__ int number;
  if (threadIdx.x == 0) number = 0;
  __syncthreads();
  atomicAdd(&number, 1);
  if (is_plain && threadIdx.x == 5) number = 0;
  __syncthreads();
  if (threadIdx.x == 0) *count = number;
}

__global__ void beyond_kernel(int index) {
  __shared__ int values[kThreads];
  values[static_cast<int>(threadIdx.x) + index] = 0;
}

__global__ void vector_kernel(const char* from, uint4* to) {
  *to = *reinterpret_cast<const uint4*>(from);
}

__global__ void same_target_kernel(int* out, unsigned divisor) {
  out[(blockIdx.x * kThreads + threadIdx.x) / divisor] = 1;
}

__global__ void stale_read_kernel(int* values) {
  const int mine = values[threadIdx.x + 1];
  values[threadIdx.x] = mine;
}

__global__ void foreign_local_kernel(int* out) {
  __shared__ int* address;
  int local = 1;
  if (threadIdx.x == 0) address = &local;
  __syncthreads();
  if (threadIdx.x == 1) *out = *address;
  __syncthreads();
  if (threadIdx.x == 0) out[1] = local;
}

__global__ void large_shared_kernel() {
  __shared__ int first[12 << 10];
  first[threadIdx.x] = 0;
  __shared__ int one_more;
  one_more = 0;
}

struct Large {
  char bytes[4097];
};
__global__ void large_argument_kernel(Large) {}

__global__ void order_kernel(int* next, unsigned* threads) {
  threads[atomicAdd(next, 1)] = blockIdx.x * kThreads + threadIdx.x;
}

// Runs `call` with the threads in several orders; each of them must end with this failure.
template <typename Call>
void expect(const char* failure, const Call& call) {
  for (const int order : {simt::kForward, simt::kBackward, 7, 8}) {
    simt::set_order(order);
    call();
    const std::string got = simt::take_failure();
    if (contains(got, failure) && got.empty() == (*failure == '\0')) continue;
    std::fprintf(stderr, "order %d: expected '%s', got '%s'\n", order, failure, got.c_str());
    std::exit(1);
  }
  simt::set_order(simt::kForward);
}

void test_shared_memory() {
  std::vector<int> values(kThreads, 2), out(2 * kThreads);
  int sum = 0;
  expect("", [&] {
    sum_kernel<<<1, kThreads, 0, nullptr>>>(values.data(), &sum, true);
    CHECK(sum == 2 * kThreads);
  });
  // Which of the two it is depends on the order.
  const auto no_barrier = [&] {
    sum_kernel<<<1, kThreads, 0, nullptr>>>(values.data(), &sum, false);
  };
  no_barrier();
  const std::string unwritten = simt::take_failure();
  CHECK(unwritten ==
        "sum_kernel, block (0, 0, 0): thread 0 reads shared copies, which nobody has "
        "written yet");
  simt::set_order(simt::kBackward);
  no_barrier();
  CHECK(contains(simt::take_failure(), "of shared copies that thread 1 wrote without barrier"));
  expect("of shared round that", [&] { overtaking_kernel<<<1, 64, 0, nullptr>>>(out.data()); });
  expect("block (1, 0, 0): thread 0 reads shared value, which nobody has written yet", [&] {
    simt::set_order(simt::kForward);
    unwritten_kernel<<<2, kThreads, 0, nullptr>>>(out.data());
  });
  no_order_in_a_warp_kernel<<<1, 32, 0, nullptr>>>(out.data());
  CHECK(contains(simt::take_failure(), "reads byte 0 of shared value that thread 0 wrote"));
  expect("", [&] {
    int count = 0;
    count_kernel<<<1, kThreads, 0, nullptr>>>(&count, false);
    CHECK(count == kThreads);
  });
  int count = 0;
  expect("of shared number that", [&] { count_kernel<<<1, 64, 0, nullptr>>>(&count, true); });
  expect("an index is beyond its array in line ",
         [&] { beyond_kernel<<<1, kThreads, 0, nullptr>>>(1); });
  expect("", [&] { beyond_kernel<<<1, kThreads, 0, nullptr>>>(0); });
  expect("shared memory takes 49156 bytes", [] { large_shared_kernel<<<1, 1, 0, nullptr>>>(); });
}

void test_waiting() {
  std::vector<int> out(kThreads);
  expect("", [] { barrier_for_some_kernel<<<3, kThreads, 0, nullptr>>>(kThreads); });
  expect("threads 0-6 at a barrier in line ",
         [] { barrier_for_some_kernel<<<1, kThreads, 0, nullptr>>>(7); });
  expect(", threads 32-63 exited",
         [] { barrier_for_some_kernel<<<1, kThreads, 0, nullptr>>>(32); });
  expect("threads wait for each other for ever",
         [] { two_barriers_kernel<<<1, 64, 0, nullptr>>>(); });
  expect("threads 0-15 in an exchange of lanes 0xffffffff",
         [&] { missing_lanes_kernel<<<1, kThreads, 0, nullptr>>>(out.data()); });
  expect("does not name itself",
         [&] { ballot_of_others_kernel<<<1, kThreads, 0, nullptr>>>(out.data()); });
  expect("lane 8 reads lane 16, which the exchange does not name",
         [&] { unnamed_source_kernel<<<1, kThreads, 0, nullptr>>>(out.data()); });
  expect("threads 0-31 exited, thread 32 in an exchange",
         [&] { exchange_and_barrier_kernel<<<1, kThreads, 0, nullptr>>>(out.data()); });
}

void test_exchanges() {
  std::vector<int> down(kThreads);
  std::vector<float> up(kThreads);
  std::vector<unsigned> votes(kThreads);
  expect("", [&] {
    shuffles_kernel<<<1, kThreads, 0, nullptr>>>(down.data(), up.data(), votes.data());
    for (int i = 0; i < kThreads; ++i) {
      const int lane = i % 32;
      CHECK(down[i] == (lane < 29 ? i + 3 : i));
      CHECK(up[i] == 0.5f * static_cast<float>(lane > 0 ? i - 1 : i));
      CHECK(votes[i] == (i < 32 ? 0x49249249u : 0x92492492u));
    }
  });
}

void test_global_memory() {
  std::vector<int> out(4 * kThreads);
  alignas(16) char bytes[32] = {};
  uint4 vector;
  expect("", [&] { vector_kernel<<<1, 1, 0, nullptr>>>(bytes + 16, &vector); });
  expect("an address is not aligned in line ",
         [&] { vector_kernel<<<1, 1, 0, nullptr>>>(bytes + 8, &vector); });
  expect("", [&] { same_target_kernel<<<2, kThreads, 0, nullptr>>>(out.data(), 1); });
  expect("writes global memory that thread ",
         [&] { same_target_kernel<<<1, kThreads, 0, nullptr>>>(out.data(), 2); });
  expect(" wrote in another block",
         [&] { same_target_kernel<<<2, 1, 0, nullptr>>>(out.data(), 2 * kThreads); });
  expect("race: thread ", [&] { stale_read_kernel<<<1, kThreads, 0, nullptr>>>(out.data()); });
  expect("touches local memory of thread 0",
         [&] { foreign_local_kernel<<<1, kThreads, 0, nullptr>>>(out.data()); });
}

void test_limits() {
  const auto launch = [](dim3 grid, dim3 block) {
    return [=] { barrier_for_some_kernel<<<grid, block, 0, nullptr>>>(0); };
  };
  expect("barrier_for_some_kernel: the grid (0, 1, 1) is empty", launch(0, 32));
  expect("is larger than", launch({1, 65536}, 32));
  expect("is larger than", launch({1, 1, 65536}, 32));
  expect("is larger than", launch(1u << 31, 32));
  expect("", launch({1, 2, 3}, {1024}));
  expect("", launch(1, {4, 4, 64}));
  for (const dim3 block : {dim3(1025), dim3(0), dim3(32, 33), dim3(1, 1, 65)}) {
    expect("a block must have 1 to 1024 threads", launch(1, block));
  }
  expect("the arguments take 4097 bytes",
         [] { large_argument_kernel<<<1, 1, 0, nullptr>>>(Large{}); });
  expect("dynamic shared memory", [] { barrier_for_some_kernel<<<1, 32, 16, nullptr>>>(0); });
}

void test_orders() {
  std::vector<std::vector<unsigned>> seen;
  for (const int order : {simt::kForward, simt::kBackward, 7, 8, 7}) {
    simt::set_order(order);
    int next = 0;
    std::vector<unsigned> threads(2 * kThreads);
    order_kernel<<<2, kThreads, 0, nullptr>>>(&next, threads.data());
    CHECK(simt::take_failure().empty());
    seen.push_back(threads);
  }
  CHECK(std::is_sorted(seen[0].begin(), seen[0].end()));
  CHECK(std::is_sorted(seen[1].rbegin(), seen[1].rend()));
  CHECK(seen[2] == seen[4]);
  CHECK(seen[2] != seen[3]);
  for (auto& threads : seen) {
    std::sort(threads.begin(), threads.end());
    CHECK(threads == seen[0]);
  }
}

}  // namespace

int main() {
  test_shared_memory();
  test_waiting();
  test_exchanges();
  test_global_memory();
  test_limits();
  test_orders();
}
