#include <cpu/grouped_tables.h>

#include <cpu/bags.h>
#include <cpu/parallel.h>
#include <cpu/tensors.h>
#include <ops/types.h>
#include <ops/views.h>

#include <algorithm>
#include <atomic>
#include <numeric>

namespace myemb {
namespace {

// A lookup costs about as much as four elements of a row (parts_for).
constexpr int64_t kElementsPerLookup = 4;

constexpr auto kOp = "embedding_bag_tables_backward";

at::ScalarType accumulator_of(const BatchTable& table) { return accumulator_type(table.type); }

bool has_mean(const TableLayout& layout, at::ScalarType accumulator) {
  return std::any_of(layout.features.begin(), layout.features.end(), [&](const auto& feature) {
    const BatchTable& table = layout.table_of(feature);
    return table.mode == BagMode::Mean && accumulator_of(table) == accumulator;
  });
}

// The first of the lookups [begin, end) whose index is no row, or end.
template <typename Index>
int64_t first_bad_index(const Index* indices, int64_t begin, int64_t end, int64_t num_rows) {
  const auto is_bad = [&](int64_t i) {
    return static_cast<uint64_t>(int64_t{indices[i]}) >= static_cast<uint64_t>(num_rows);
  };
  bool any = false;
  for (int64_t i = begin; i < end; ++i) any |= is_bad(i);  // without a branch, in vectors
  if (!any) return end;
  while (!is_bad(begin)) ++begin;
  return begin;
}

// The lookups [begin, begin + count) of a call.
Indices range_of(const Indices& indices, int64_t begin, int64_t count) {
  const int64_t size = indices.is_int64 ? sizeof(int64_t) : sizeof(int32_t);
  return {static_cast<const char*>(indices.data) + begin * size, indices.is_int64, count};
}

// An array over all lookups in the order of a table's groups.
template <typename V>
const V* grouped_array(const RowGroups& groups, const V* from, Scratch& memory) {
  V* const to = memory.take<V>(groups.lookups);
  in_group_order(groups, from, to);
  return to;
}

}  // namespace

TableSources::TableSources(const TableLayout& layout, const TableBags& bags,
                           const TableGrads& grads)
    : layout_(layout),
      bags_(bags),
      row_stride_(grads.row_stride()),
      positions_stride_(grads.positions_stride()),
      memory_(4 * Scratch::bytes_for<int64_t>(bags.num_lookups())) {
  const int64_t count = bags.num_lookups();
  starts_ = memory_.take<int64_t>(count);
  if (layout.has_max()) position_starts_ = memory_.take<int64_t>(count);
  if (has_mean(layout, at::kFloat)) floats_ = memory_.take<float>(count);
  if (has_mean(layout, at::kDouble)) doubles_ = memory_.take<double>(count);
}

bool TableSources::fill(size_t f, bool want_starts, BadIndex& bad) const {
  const BatchFeature& feature = layout_.features[f];
  const BatchTable& table = layout_.table_of(feature);
  const Segments segments = bags_.segments(f);
  const int64_t begin = bags_.first_lookup(f), end = bags_.first_lookup(f + 1);
  const int64_t first_bad = visit_indices(bags_.indices(f), [&](const auto* indices) {
    return first_bad_index(indices, begin, end, table.num_weights.expect_int());
  });
  if (first_bad < end) {
    bad.note(first_bad);
    return false;
  }
  const bool is_mean = table.mode == BagMode::Mean;
  const SourceFill of_bags{
      .segments = segments,
      .indices = bags_.indices(f),
      .padding_idx = table.padding_idx.expect_int(),
      .per_sample_weights = bags_.weights_data(),
      .average = is_mean,
      .first_source = feature.column.expect_int(),
      .source_stride = row_stride_,
      .sources = want_starts ? starts_ : nullptr,
      .weights = is_mean ? const_cast<void*>(weights(feature)) : nullptr,
  };
  SourceFill of_maxima = of_bags;
  of_maxima.first_source = feature.positions_column.expect_int();
  of_maxima.source_stride = positions_stride_;
  of_maxima.sources = position_starts_;
  parallel_segments(segments, 1, [&](int64_t first, int64_t last) {
    fill_sources(of_bags, accumulator_of(table), first, last);
    if (layout_.is_max(feature)) fill_sources(of_maxima, accumulator_of(table), first, last);
  });
  return true;
}

const void* TableSources::weights(const BatchFeature& feature) const {
  const BatchTable& table = layout_.table_of(feature);
  if (table.mode != BagMode::Mean) return bags_.weights_data();
  if (accumulator_of(table) == at::kDouble) return doubles_;
  return floats_;
}

GroupedTables::GroupedTables(const TableLayout& layout, const TableBags& bags, TableGrads& grads,
                             at::IntArrayRef grouped, at::IntArrayRef filled)
    : layout_(layout),
      bags_(bags),
      positions_(grads.positions()),
      positions_stride_(grads.positions_stride()),
      sources_(layout, bags, grads),
      tables_(grouped.size()) {
  BadIndex bad;
  run(tasks(grads, grouped, filled), bad);
  bags.check(bad, layout);
}

std::vector<GroupedTables::Task> GroupedTables::tasks(TableGrads& grads, at::IntArrayRef grouped,
                                                      at::IntArrayRef filled) {
  std::vector<std::vector<size_t>> features(layout_.tables.size());
  for (size_t f = 0; f < layout_.features.size(); ++f) {
    features[layout_.features[f].table].push_back(f);
  }
  std::vector<Task> tasks;
  tasks.reserve(grouped.size() + filled.size());
  const auto add = [&](int64_t table, std::optional<GroupedTable>* result) {
    const BatchTable& of_table = layout_.tables[table];
    Task task{table, features[table], 0, grads.numbers(of_table), {}, result};
    for (const size_t f : task.features) {
      task.lookups += bags_.num_lookups(f);
      task.rows.push_back(grads.rows(layout_.features[f], of_table, bags_.num_bags));
    }
    tasks.push_back(std::move(task));
  };
  for (size_t i = 0; i < grouped.size(); ++i) add(grouped[i], &tables_[i]);
  for (const int64_t table : filled) add(table, nullptr);
  std::sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) {
    return std::pair(b.lookups, a.table) < std::pair(a.lookups, b.table);
  });
  return tasks;
}

// A table of more lookups than a thread's share is a matter for all threads; the others are taken
// by the threads as they come, the largest first.
void GroupedTables::run(const std::vector<Task>& tasks, BadIndex& bad) {
  int64_t lookups = 0;
  for (const Task& task : tasks) lookups += task.lookups;
  const int64_t parts = parts_for(lookups * kElementsPerLookup);
  std::atomic<size_t> next{0};
  while (next < tasks.size() && (parts == 1 || tasks[next].lookups > lookups / parts)) {
    run(tasks[next++], bad);
  }
  if (next == tasks.size()) return;
  parallel_parts(parts, [&](int64_t) {
    for (size_t i = next++; i < tasks.size(); i = next++) run(tasks[i], bad);
  });
}

void GroupedTables::run(const Task& task, BadIndex& bad) {
  bool good = true;
  for (const size_t f : task.features) good &= sources_.fill(f, task.result != nullptr, bad);
  if (good && task.result) task.result->emplace(grouped(task));
}

// By where a lookup's gradient begins, if nothing else is wanted of it; else by its position.
RowGroups GroupedTables::group(const Task& task) const {
  const BatchTable& table = layout_.tables[task.table];
  const bool by_start = is_by_start(task);
  const int64_t num_rows = table.num_weights.expect_int(), padding = table.padding_idx.expect_int();
  const int64_t num_sources = by_start ? task.numbers.count : bags_.num_lookups();
  const auto& features = task.features;
  const Indices all = bags_.all_indices();
  const bool adjacent = std::adjacent_find(features.begin(), features.end(), [](auto a, auto b) {
                          return b != a + 1;
                        }) == features.end();
  if (adjacent) {
    const int64_t begin = features.empty() ? 0 : bags_.first_lookup(features[0]);
    const Indices indices = range_of(all, begin, task.lookups);
    const int64_t* const starts = by_start ? sources_.starts() + begin : nullptr;
    return group_by_row({indices, num_rows, std::max<int64_t>(padding, -1), starts, num_sources,
                         by_start ? 0 : begin},
                        kOp);
  }
  Scratch memory(2 * Scratch::bytes_for<int64_t>(task.lookups));
  auto* const rows = memory.take<int64_t>(task.lookups);
  auto* const sources = memory.take<int64_t>(task.lookups);
  int64_t joined = 0;
  for (const size_t f : features) {
    const int64_t begin = bags_.first_lookup(f), end = bags_.first_lookup(f + 1);
    visit_indices(all,
                  [&](const auto* data) { std::copy(data + begin, data + end, rows + joined); });
    if (by_start) {
      std::copy(sources_.starts() + begin, sources_.starts() + end, sources + joined);
    } else {
      std::iota(sources + joined, sources + joined + (end - begin), begin);
    }
    joined += end - begin;
  }
  const Indices indices{rows, /*is_int64=*/true, task.lookups};
  return group_by_row({indices, num_rows, std::max<int64_t>(padding, -1), sources, num_sources},
                      kOp);
}

bool GroupedTables::is_by_start(const Task& task) const {
  if (layout_.tables[task.table].mode == BagMode::Max) return false;
  return task.features.empty() || !sources_.weights(layout_.features[task.features[0]]);
}

GroupedTable GroupedTables::grouped(const Task& task) {
  const bool by_start = is_by_start(task), is_max = layout_.tables[task.table].mode == BagMode::Max;
  RowGroups groups = group(task);
  Scratch memory(by_start ? 0 : 3 * Scratch::bytes_for<int64_t>(groups.lookups));
  SegmentSum sums{
      .rows = task.numbers,
      .indices = {groups.sources, /*is_int64=*/true, groups.lookups},
      .segments = groups.segments(),
      .out_rows = groups.rows,
      .out = nullptr,
      .bad = &no_bad_index_,
  };
  if (!by_start) sums.indices.data = grouped_array(groups, sources_.starts(), memory);
  const void* const weights =
      task.features.empty() ? nullptr : sources_.weights(layout_.features[task.features[0]]);
  if (weights && task.numbers.dtype == Dtype::Double) {
    sums.weights = grouped_array(groups, static_cast<const double*>(weights), memory);
  } else if (weights) {
    sums.weights = grouped_array(groups, static_cast<const float*>(weights), memory);
  }
  if (is_max) {
    sums.positions = positions_;
    sums.position_starts = grouped_array(groups, sources_.position_starts(), memory);
    sums.lookups = groups.sources;
  }
  return {std::move(groups), sums, is_max ? maxima(task) : std::vector<MaxScatter>(),
          std::move(memory)};
}

std::vector<MaxScatter> GroupedTables::maxima(const Task& task) const {
  std::vector<MaxScatter> scatters;
  for (size_t i = 0; i < task.features.size(); ++i) {
    const size_t f = task.features[i];
    const BatchFeature& feature = layout_.features[f];
    scatters.push_back({
        .grad = task.rows[i],
        .segments = bags_.segments(f),
        .positions = positions_ + feature.positions_column.expect_int(),
        .positions_stride = positions_stride_,
        .sum_rows = nullptr,
        .weights = sources_.weights(feature),
        .sums = nullptr,
    });
  }
  return scatters;
}

}  // namespace myemb
