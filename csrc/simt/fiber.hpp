#pragma once

#include <csetjmp>
#include <cstddef>

namespace simt {

// A function with a stack of its own that takes turns with whoever resumes it.
class Fiber {
 public:
  // `body` must not return. What ran on the stack before is forgotten.
  void start(std::byte* stack, std::size_t stack_bytes, void (*body)());
  void resume();   // until the fiber suspends itself
  void suspend();  // by the fiber itself

 private:
  static void enter();
  void take_first_turn();
  void arrive(void* fake_stack);

  bool has_run_ = false;
  void (*body_)() = nullptr;
  std::jmp_buf inside_, outside_;
  std::byte* stack_ = nullptr;
  std::size_t stack_bytes_ = 0;
  const void* outer_stack_ = nullptr;  // of whoever resumed it, for the address sanitizer
  std::size_t outer_stack_bytes_ = 0;
};

}  // namespace simt
