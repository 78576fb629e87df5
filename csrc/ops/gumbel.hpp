#pragma once

#include <climits>
#include <cmath>
#include <cstdint>

#include "ops/host_device.hpp"

// Drawing tokens by the Gumbel-max trick, as CPU code and kernels share it. The noise is a hash, so
// that who asks for a token's needs no other's, and every device has the same.
namespace starr {

// Output number `token` of SplitMix64 (Steele, Lea, Flood 2014) with this state.
STARR_HOST_DEVICE inline std::uint64_t random_bits(std::uint64_t key, std::int64_t token) {
  std::uint64_t x = key + (static_cast<std::uint64_t>(token) + 1) * 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

inline constexpr int kUniformBits = 52;

// -log(-log u) with u in (0, 1), halfway between neighbours of a grid of 2^-52: finite.
STARR_HOST_DEVICE inline double gumbel(std::uint64_t bits) {
  constexpr double kStep = 1.0 / (std::uint64_t{1} << kUniformBits);
  const double u = (static_cast<double>(bits >> (64 - kUniformBits)) + 0.5) * kStep;
  return -std::log(-std::log(u));
}

// At least gumbel(bits), without a logarithm: -log u >= 1 - u, which with n leading ones in `bits`
// is at least 2^-(n + 1). Above by a little, because logarithms are rounded.
STARR_HOST_DEVICE inline double gumbel_bound(std::uint64_t bits) {
  constexpr double kLog2 = 0.6931471805599453 * (1.0 + 1e-12);
  const std::uint64_t zeros = ~bits | std::uint64_t{1} << (63 - kUniformBits);
#if defined(__CUDA_ARCH__)
  return (__clzll(static_cast<long long>(zeros)) + 1) * kLog2;
#else
  return (__builtin_clzll(zeros) + 1) * kLog2;
#endif
}

// A token as truncation orders them: larger logits first, and of equals the lower index.
struct Ranked {
  double logit;
  int token;

  STARR_HOST_DEVICE bool is_before(const Ranked& other) const {
    return logit > other.logit || (logit == other.logit && token < other.token);
  }
};

// How one token is drawn, and what of a row may be drawn at all.
struct DrawRule {
  std::uint64_t key;
  double temperature;
  double top_p;  // at least 1 = all
  double top_k;  // 0 = all
  double min_p;  // 0 = all

  // From a row of `options`.
  STARR_HOST_DEVICE static DrawRule of(std::int64_t key, const double* options) {
    return {static_cast<std::uint64_t>(key), options[0], options[1], options[2], options[3]};
  }

  // Share of a token next to that of the largest logit.
  STARR_HOST_DEVICE double weight(double logit, double top) const {
    const double exponent = (logit - top) / temperature;
    // All tokens together would not change a sum of float64 by so little.
    return exponent < -80.0 ? 0.0 : std::exp(exponent);
  }
};

// The best token so far.
struct Best {
  double value;
  Ranked found;

  // Not default member values: shared memory takes no constructor.
  STARR_HOST_DEVICE static Best of_nothing() {
    return {-__builtin_huge_val(), {-__builtin_huge_val(), INT_MAX}};
  }

  // A token that is later in the row than all before.
  STARR_HOST_DEVICE void add(const DrawRule& rule, double logit, int token) {
    const std::uint64_t bits = random_bits(rule.key, token);
    // Two logarithms a token would take most of the time; nearly none can win.
    if (logit + rule.temperature * gumbel_bound(bits) < value) return;
    const double its = logit + rule.temperature * gumbel(bits);
    if (its > value) *this = {its, {logit, token}};
  }

  STARR_HOST_DEVICE void merge(const Best& other) {
    const bool is_first = other.value == value && other.found.token < found.token;
    if (other.value > value || is_first) *this = other;
  }
};

// The token of a row, 0 if it has none. min_p and top_k leave all logits from a number on. Of these
// the nucleus of top_p is a first part, as Ranked orders them: while the largest noisy logit is
// outside of it, it and all behind it are cut off, which leaves the nucleus whole.
//
// Row: size(), largest() logit, largest(n)-th logit, mass(rule, top, end) of the tokens before
// `end`, and best(rule, end) of them.
template <typename Row>
STARR_HOST_DEVICE int draw_token(const Row& row, const DrawRule& rule) {
  Ranked end = {-__builtin_huge_val(), INT_MAX};
  bool has_nucleus = rule.top_p < 1.0;
  double top = 0.0, mass = 0.0;
  if (has_nucleus || rule.min_p > 0.0) top = row.largest();
  if (rule.min_p > 0.0) end.logit = top + rule.temperature * std::log(rule.min_p);
  if (rule.top_k > 0.0 && rule.top_k < row.size()) {
    const double last = row.largest(static_cast<int>(rule.top_k));
    if (last > end.logit) end.logit = last;
  }
  if (has_nucleus) {
    mass = row.mass(rule, top, end);
    has_nucleus = mass > 0.0 && mass <= 1.7976931348623157e308;  // not if logits are no numbers
  }
  for (;;) {
    const Best best = row.best(rule, end);
    if (best.found.token == INT_MAX) return 0;
    if (!has_nucleus) return best.found.token;
    if (row.mass(rule, top, best.found) < rule.top_p * mass) return best.found.token;
    end = best.found;
  }
}

}  // namespace starr
