#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "bindings/array.hpp"
#include "bindings/bind.hpp"
#include "core/prefix_hash.hpp"
#include "core/prefix_index.hpp"

namespace starr {

namespace nb = nanobind;
using namespace nb::literals;

namespace {

nb::bytes to_bytes(const PrefixKey& key) {
  const std::uint64_t words[2] = {key.low, key.high};
  return nb::bytes(reinterpret_cast<const char*>(words), sizeof(words));
}

std::optional<PageId> page_or_none(PageId page) {
  return page == kReservedPage ? std::nullopt : std::optional<PageId>(page);
}

}  // namespace

void bind_prefix(nb::module_& m) {
  nb::class_<PrefixKey>(m, "PrefixKey", "128-bit name of a token prefix under one configuration.")
      .def("__bytes__", &to_bytes)
      .def(
          "__eq__", [](const PrefixKey& a, const PrefixKey& b) { return a == b; },
          nb::is_operator(), nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__", [](const PrefixKey& key) { return key.low; })
      .def("__repr__", [](const PrefixKey& key) {
        return "PrefixKey(" + nb::cast<std::string>(to_bytes(key).attr("hex")()) + ")";
      });
  m.def(
      "root_key",
      [](const nb::bytes& identity) {
        return root_key(std::string_view(identity.c_str(), identity.size()));
      },
      "identity"_a,
      "Start of a prefix chain. `identity` must differ whenever the KV of equal tokens may\n"
      "differ: salt, model and revision, dtype, mask kind, block length, rope.");
  m.def(
      "extend",
      [](const PrefixKey& parent, const Tokens& tokens) { return extend(parent, tokens.span()); },
      "parent"_a, "tokens"_a, "Key of the prefix `parent` followed by `tokens` (int32 [n]).");
  nb::class_<PrefixIndex>(m, "PrefixIndex",
                          "Hash map from prefix key to page; compares stored tokens on every hit.\n"
                          "A PagePool has its own; this class serves tests and tools.")
      .def(nb::init<std::int32_t, std::int32_t>(), "num_pages"_a, "page_size"_a)
      .def(
          "insert",
          [](PrefixIndex& index, PageId page, const PrefixKey& key, const PrefixKey& parent,
             const Tokens& tokens) {
            return page_or_none(index.insert(page, key, parent, tokens.span()));
          },
          "page"_a, "key"_a, "parent"_a, "tokens"_a,
          "Enter `page` under `key` for `tokens` (int32 [page_size]). Returns the canonical page\n"
          "of that content (the first entered), or None when another content has the key.")
      .def(
          "find",
          [](const PrefixIndex& index, const PrefixKey& key, const PrefixKey& parent,
             const Tokens& tokens) { return page_or_none(index.find(key, parent, tokens.span())); },
          "key"_a, "parent"_a, "tokens"_a, "Canonical page of this content, or None.")
      .def(
          "match",
          [](const PrefixIndex& index, const PrefixKey& root, const Tokens& tokens) {
            return index.match(root, tokens.span());
          },
          "root"_a, "tokens"_a,
          "Pages of the longest chain of whole pages that starts `tokens` (int32 [n]).")
      .def("erase", &PrefixIndex::erase, "page"_a, "Forget `page`; ValueError when not entered.")
      .def("__contains__", &PrefixIndex::contains, "page"_a)
      .def("__len__", &PrefixIndex::size)
      .def("check_invariants", &PrefixIndex::check_invariants,
           "Raise RuntimeError naming the first broken invariant.");
}

}  // namespace starr
