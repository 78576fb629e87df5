#include <cuda_runtime_api.h>

#include <string>
#include <utility>

namespace {

std::string& last_failure() {
  static std::string text;
  return text;
}

}  // namespace

cudaError_t cudaGetLastError() {
  std::string failure = simt::take_failure();
  if (failure.empty()) return cudaSuccess;
  last_failure() = std::move(failure);
  return cudaErrorLaunchFailure;
}

const char* cudaGetErrorString(cudaError_t) { return last_failure().c_str(); }
