#include "simt/fiber.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {
namespace {

Fiber* entering = nullptr;

// The address sanitizer must know on which stack the program runs.
void leave([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* next_stack,
           [[maybe_unused]] std::size_t next_stack_bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fake_stack, next_stack, next_stack_bytes);
#endif
}

}  // namespace

void Fiber::arrive([[maybe_unused]] void* fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, &outer_stack_, &outer_stack_bytes_);
#endif
}

void Fiber::start(std::byte* stack, std::size_t stack_bytes, void (*body)()) {
  stack_ = stack;
  stack_bytes_ = stack_bytes;
  body_ = body;
  has_run_ = false;
  getcontext(&first_);
  first_.uc_stack.ss_sp = stack;
  first_.uc_stack.ss_size = stack_bytes;
  first_.uc_link = nullptr;
  makecontext(&first_, &Fiber::enter, 0);
}

void Fiber::enter() {
  entering->arrive(nullptr);
  entering->body_();
}

void Fiber::resume() {
  void* fake_stack = nullptr;
  leave(&fake_stack, stack_, stack_bytes_);
  if (_setjmp(outside_) == 0) {
    if (has_run_) _longjmp(inside_, 1);
    has_run_ = true;
    entering = this;
    setcontext(&first_);
  }
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
  void* fake_stack = nullptr;
  leave(&fake_stack, outer_stack_, outer_stack_bytes_);
  if (_setjmp(inside_) == 0) _longjmp(outside_, 1);
  arrive(fake_stack);
}

}  // namespace simt
