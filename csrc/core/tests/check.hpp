#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

// Ends the test program when a condition does not hold.
#define CHECK(...)                                                                   \
  do {                                                                               \
    if (!(__VA_ARGS__)) {                                                            \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #__VA_ARGS__); \
      std::exit(1);                                                                  \
    }                                                                                \
  } while (0)

// The message of the `Error` that `call` throws; ends the program when it throws none.
template <typename Error, typename Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  std::fprintf(stderr, "expected an exception\n");
  std::exit(1);
}

inline bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}
