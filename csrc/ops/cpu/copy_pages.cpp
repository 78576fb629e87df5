#include <torch/csrc/stable/library.h>

#include <cstring>

#include "ops/cpu/paged_rows.hpp"
#include "ops/page_arguments.hpp"

namespace starr::cpu {
namespace {

void copy_pages(Tensor& pages, const std::vector<std::int64_t>& source,
                const std::vector<std::int64_t>& target) {
  const auto args = CopyPagesArguments::check_arguments(pages, source, target);
  auto* data = static_cast<char*>(pages.mutable_data_ptr());
  const auto num_copies = static_cast<std::int64_t>(source.size());
  // One item is one page of keys or values of one layer.
  for_each_row(args.num_slabs * num_copies, args.page_bytes,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t item = begin; item < end; ++item) {
                   const auto pair = static_cast<std::size_t>(item % num_copies);
                   const std::int64_t first_page = item / num_copies * args.num_pages;
                   std::memcpy(data + (first_page + target[pair]) * args.page_bytes,
                               data + (first_page + source[pair]) * args.page_bytes,
                               static_cast<std::size_t>(args.page_bytes));
                 }
               });
}

}  // namespace
}  // namespace starr::cpu

STABLE_TORCH_LIBRARY_IMPL(starr_engine, CPU, ops) {
  ops.impl("copy_pages", TORCH_BOX(&starr::cpu::copy_pages));
}
