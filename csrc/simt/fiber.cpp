#include "simt/fiber.hpp"

#include <ucontext.h>

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
}

void Fiber::enter() {
  entering->arrive(nullptr);
  entering->body_();
}

// By a context: later turns do without, since each change of contexts asks the kernel. This frame
// is never left, so that the address sanitizer would go on guarding it.
__attribute__((no_sanitize_address)) void Fiber::take_first_turn() {
  has_run_ = true;
  entering = this;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stack_;
  context.uc_stack.ss_size = stack_bytes_;
  context.uc_link = nullptr;
  makecontext(&context, &Fiber::enter, 0);
  setcontext(&context);
}

void Fiber::resume() {
  void* fake_stack = nullptr;
  leave(&fake_stack, stack_, stack_bytes_);
  if (_setjmp(outside_) == 0) {
    if (has_run_) _longjmp(inside_, 1);
    take_first_turn();
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
