#include <random>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "core/page_pool.hpp"

namespace {

using starr::PageId;
using starr::PagePool;
using starr::PageState;
using starr::PrefixKey;

using Bad = std::invalid_argument;
using Pages = std::vector<PageId>;
using Tokens = std::vector<std::int32_t>;

const PrefixKey kRoot = starr::root_key("test");

// Allocates and seals one page per token; the pages form one chain.
Pages seal_chain(PagePool& pool, const Tokens& tokens) {
  const Pages pages = pool.try_allocate(static_cast<std::int32_t>(tokens.size())).value();
  PrefixKey parent = kRoot;
  for (std::size_t i = 0; i < pages.size(); ++i) {
    parent = pool.seal(pages[i], parent, std::span(tokens).subspan(i, 1));
  }
  return pages;
}

void allocation_is_all_or_nothing() {
  PagePool pool(4, 2);
  CHECK(pool.num_free() == 3);
  CHECK(pool.try_allocate(2) == (Pages{1, 2}));
  CHECK(!pool.try_allocate(2));
  CHECK(pool.free_order() == (Pages{3}));
  CHECK(pool.try_allocate(0) == Pages{});
  CHECK(pool.stats().allocations == 2);
  pool.check_invariants();
}

void released_private_pages_come_back_in_their_own_order() {
  PagePool pool(6, 2);
  const Pages pages = pool.try_allocate(3).value();
  pool.release(pages);
  CHECK(pool.free_order() == (Pages{1, 2, 3, 4, 5}));
  CHECK(pool.state(1) == PageState::kFree);
  pool.check_invariants();
}

void sealed_pages_are_evicted_after_free_ones_tail_first() {
  PagePool pool(6, 1);
  const Pages chain = seal_chain(pool, {10, 11, 12});  // pages 1, 2, 3
  pool.release(chain);
  CHECK(pool.free_order() == (Pages{4, 5, 3, 2, 1}));
  CHECK(pool.try_allocate(3) == (Pages{4, 5, 3}));
  CHECK(pool.stats().evictions == 1);
  // Page 3 is gone, the head of the chain is still found.
  CHECK(pool.match(kRoot, Tokens{10, 11, 12}) == (Pages{1, 2}));
  CHECK(pool.stats().hits == 2 && pool.stats().misses == 1);
  CHECK(pool.num_free() == 0);
  pool.check_invariants();
}

void a_match_protects_its_pages_and_counts_them() {
  PagePool pool(4, 1);
  const Pages chain = seal_chain(pool, {10, 11});
  CHECK(pool.match(kRoot, Tokens{10, 11}) == chain);
  CHECK(pool.ref_count(1) == 2 && pool.ref_count(2) == 2);
  pool.release(chain);
  CHECK(!pool.try_allocate(2));
  pool.release(chain);
  CHECK(pool.free_order() == (Pages{3, 2, 1}));
  pool.check_invariants();
}

void a_duplicate_serves_its_holders_and_then_is_free() {
  PagePool pool(4, 1);
  const Pages first = seal_chain(pool, {10});
  const Pages second = seal_chain(pool, {10});
  CHECK(pool.is_indexed(1) && !pool.is_indexed(2));
  CHECK(pool.key(1) == pool.key(2));
  CHECK(pool.match(kRoot, Tokens{10}) == first);
  pool.release(second);
  CHECK(pool.state(2) == PageState::kFree);
  pool.check_invariants();
}

void copy_on_write_moves_the_reference() {
  PagePool pool(4, 1);
  const Pages chain = seal_chain(pool, {10});
  CHECK(pool.match(kRoot, Tokens{10}) == chain);
  const PageId copy = pool.make_private(1).value();
  CHECK(copy == 2 && pool.state(2) == PageState::kPrivate);
  CHECK(pool.ref_count(1) == 1);
  CHECK(pool.make_private(2) == 2);
  CHECK(pool.try_allocate(1));
  CHECK(!pool.make_private(1));
  CHECK(pool.ref_count(1) == 1);
  pool.check_invariants();
}

void refused_calls_change_nothing() {
  PagePool pool(5, 1);
  const Pages chain = seal_chain(pool, {10, 11});
  const Pages own = pool.try_allocate(1).value();  // page 3
  const auto before = pool.free_order();
  CHECK(contains(message_of<Bad>([&] { pool.release(Pages{1, 3, 3}); }), "page 3 (entry 2"));
  CHECK(contains(message_of<Bad>([&] { pool.release(Pages{1, 4}); }), "page 4"));
  CHECK(contains(message_of<Bad>([&] { pool.release(Pages{1, 0}); }), "page 0"));
  CHECK(contains(message_of<Bad>([&] { pool.release(Pages{1, 99}); }), "page 99"));
  CHECK(contains(message_of<Bad>([&] { pool.add_ref(Pages{1, 3}); }), "PRIVATE"));
  CHECK(contains(message_of<Bad>([&] { pool.seal(1, kRoot, Tokens{1}); }), "SEALED"));
  CHECK(contains(message_of<Bad>([&] { pool.seal(0, kRoot, Tokens{1}); }), "reserved"));
  CHECK(contains(message_of<Bad>([&] { pool.seal(3, kRoot, Tokens{1, 2}); }), "got 2"));
  CHECK(contains(message_of<Bad>([&] { pool.make_private(4); }), "not held"));
  CHECK(contains(message_of<Bad>([&] { pool.make_private(0); }), "reserved"));
  CHECK(contains(message_of<Bad>([&] { pool.try_allocate(-1); }), "-1"));
  CHECK(contains(message_of<Bad>([&] { pool.key(3); }), "PRIVATE"));
  CHECK(contains(message_of<Bad>([&] { pool.state(-1); }), "page -1"));
  CHECK(pool.free_order() == before);
  CHECK(pool.ref_count(1) == 1 && pool.ref_count(2) == 1 && pool.ref_count(3) == 1);
  pool.check_invariants();
}

void a_pool_needs_a_page_beside_the_reserved_one() {
  CHECK(contains(message_of<Bad>([] { PagePool(1, 4); }), "num_pages"));
  CHECK(contains(message_of<Bad>([] { PagePool(2, 0); }), "page_size"));
  CHECK(contains(message_of<Bad>([] { PagePool(-5, 4); }), "num_pages"));
}

// Under the sanitizers this is the memory check; the meaning is fuzzed from Python.
void random_use_keeps_the_invariants() {
  std::mt19937 random(1);
  PagePool pool(9, 1);
  std::vector<PageId> held;
  for (int step = 0; step < 30000; ++step) {
    const auto token = static_cast<std::int32_t>(random() % 4);
    const std::size_t pick = held.empty() ? 0 : random() % held.size();
    switch (random() % 5) {
      case 0:
        if (const auto got = pool.try_allocate(1)) held.push_back(got->front());
        break;
      case 1:
        for (const PageId page : pool.match(kRoot, Tokens{token})) held.push_back(page);
        break;
      case 2:
        if (held.empty() || pool.state(held[pick]) != PageState::kPrivate) break;
        pool.seal(held[pick], kRoot, Tokens{token});
        break;
      case 3:
        if (held.empty()) break;
        if (const auto page = pool.make_private(held[pick])) held[pick] = *page;
        break;
      default:
        if (held.empty()) break;
        pool.release(std::span(held).subspan(pick, 1));
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(pick));
    }
    pool.check_invariants();
  }
  pool.release(held);
  CHECK(pool.num_free() == 8);
}

}  // namespace

int main() {
  allocation_is_all_or_nothing();
  released_private_pages_come_back_in_their_own_order();
  sealed_pages_are_evicted_after_free_ones_tail_first();
  a_match_protects_its_pages_and_counts_them();
  a_duplicate_serves_its_holders_and_then_is_free();
  copy_on_write_moves_the_reference();
  refused_calls_change_nothing();
  a_pool_needs_a_page_beside_the_reserved_one();
  random_use_keeps_the_invariants();
}
