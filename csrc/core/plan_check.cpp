#include "core/plan_check.hpp"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>

namespace starr {
namespace {

class PlanCheck {
 public:
  PlanCheck(const PlanRows& plan, const PageTable* table, std::int32_t num_rows,
            const RowRange& active_block)
      : plan_(plan), table_(table), num_rows_(num_rows), active_block_(active_block) {}

  void check_bounds() const {
    if (num_rows_ < 0 || active_block_.start < 0 || active_block_.stop < active_block_.start ||
        active_block_.stop > num_rows_) {
      refuse("active_block must lie in [0, num_rows)");
    }
    if (table_ != nullptr && table_->num_rows() < num_rows_) {
      refuse("the page table must have every live row, it has " +
             std::to_string(table_->num_rows()));
    }
    const std::initializer_list<std::pair<const char*, const RowRanges*>> sets = {
        {"query", &plan_.query}, {"write", &plan_.write},   {"read", &plan_.read},
        {"score", &plan_.score}, {"shadow", &plan_.shadow}, {"shadow_score", &plan_.shadow_score}};
    for (const auto& [name, rows] : sets) {
      if (rows->stop() > num_rows_) {
        refuse(std::string(name) + " must lie in [0, num_rows)", first_beyond(*rows));
      }
    }
  }

  void check_subsets() const {
    if (const auto row = first_outside(plan_.write, plan_.query)) {
      refuse("write must be a subset of query", *row);
    }
    if (const auto row = first_outside(plan_.score, plan_.query)) {
      refuse("score must be a subset of query", *row);
    }
    if (plan_.read.empty() && !plan_.query.empty()) {
      refuse("read must not be empty while query is not", plan_.query.ranges().front().start);
    }
  }

  void check_shadow() const {
    if (const auto row = first_outside(plan_.shadow_score, plan_.shadow)) {
      refuse("shadow_score must be a subset of shadow", *row);
    }
    if (plan_.shadow.empty()) return;
    const RowRanges block(std::span(&active_block_, 1));
    if (const auto row = first_outside(plan_.shadow, block)) {
      refuse("shadow must lie in the active block", *row);
    }
    if (const auto row = first_outside(block, plan_.shadow)) {
      refuse("shadow must be empty or all of the active block", *row);
    }
    if (const auto row = first_outside(block, plan_.read)) {
      refuse("the active block must be read when it has shadow rows", *row);
    }
  }

  void check_without_table() const {
    if (!plan_.write.empty()) {
      refuse("write must be empty without a page table", plan_.write.ranges().front().start);
    }
    if (const auto row = first_outside(plan_.read, plan_.query)) {
      refuse("read must be a subset of query without a page table", *row);
    }
  }

  void check_fresh() const {
    if (const auto row = first_outside(plan_.query, plan_.read)) {
      refuse("without pages every row computed is read, so read must equal query", *row);
    }
  }

  void check_paged(const RowRanges& reused, bool dirty_allowed) const {
    for (const RowRange& range : reused.ranges()) {
      const std::int32_t row = table_->cached().find(range, false);
      if (row < range.stop) refuse("a row read must be in query or cached", row);
    }
    // Computed and not written: what the pages hold is read, so it must be there and current.
    const RowRanges kept = subtract(intersect(plan_.query, plan_.read), plan_.write);
    for (const RowRange& range : kept.ranges()) {
      const std::int32_t stale = dirty_allowed ? range.stop : table_->dirty().find(range, true);
      const std::int32_t row = std::min(table_->cached().find(range, false), stale);
      if (row < range.stop) {
        refuse(
            "rows read must be all fresh (write empty, read in query) or all from pages "
            "(every row of query and read in write, or cached and clean)",
            row);
      }
    }
    if (const auto row = table_->first_sealed(plan_.write)) {
      refuse("a SEALED page must not be written; copy_on_write it first", *row);
    }
  }

  void check_dirty(const RowRanges& reused) const {
    const RowRanges context = subtract(reused, RowRanges(std::span(&active_block_, 1)));
    for (const RowRange& range : context.ranges()) {
      const std::int32_t row = table_->dirty().find(range, true);
      if (row < range.stop) {
        refuse(
            "a dirty row outside the active block must be in query to be read; recompute it, "
            "or set dirty_allowed if the policy accepts its stale KV",
            row);
      }
    }
  }

 private:
  std::int32_t first_beyond(const RowRanges& rows) const noexcept {
    for (const RowRange& range : rows.ranges()) {
      if (range.stop > num_rows_) return std::max(range.start, num_rows_);
    }
    return num_rows_;
  }

  [[noreturn]] void refuse(const std::string& rule, std::int32_t row) const {
    refuse(rule + "; first row " + std::to_string(row));
  }

  [[noreturn]] void refuse(const std::string& what) const {
    throw PlanError("plan refused: " + what + " (query=" + to_string(plan_.query) +
                    ", write=" + to_string(plan_.write) + ", read=" + to_string(plan_.read) +
                    ", score=" + to_string(plan_.score) + shadows() + ", num_rows=" +
                    std::to_string(num_rows_) + ", active_block=" + to_string(active_block_) + ")");
  }

  // Named only where there are any: most plans have none.
  std::string shadows() const {
    if (plan_.shadow.empty() && plan_.shadow_score.empty()) return "";
    return ", shadow=" + to_string(plan_.shadow) +
           ", shadow_score=" + to_string(plan_.shadow_score);
  }

  const PlanRows& plan_;
  const PageTable* table_;
  std::int32_t num_rows_;
  const RowRange& active_block_;
};

}  // namespace

ReadSource validate_plan(const PlanRows& plan, const PageTable* table, std::int32_t num_rows,
                         const RowRange& active_block, bool dirty_allowed) {
  const PlanCheck check(plan, table, num_rows, active_block);
  check.check_bounds();
  check.check_subsets();
  check.check_shadow();
  if (table == nullptr) {
    check.check_without_table();
    check.check_fresh();
    return ReadSource::kFresh;
  }
  const RowRanges reused = subtract(plan.read, plan.query);
  if (plan.write.empty() && reused.empty() && subtract(plan.query, plan.read).empty()) {
    return ReadSource::kFresh;
  }
  check.check_paged(reused, dirty_allowed);
  if (!dirty_allowed) check.check_dirty(reused);
  return ReadSource::kPages;
}

}  // namespace starr
