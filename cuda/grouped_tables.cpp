#include <cuda/grouped_tables.h>

#include <ops/types.h>

#include <algorithm>

namespace myemb::cuda {
namespace {

constexpr int64_t kBytes = sizeof(int64_t);

bool is_double(const BatchTable& table) { return table.type == at::kDouble; }

int64_t* numbers(const at::Tensor& memory) {
  return memory.defined() ? static_cast<int64_t*>(memory.mutable_data_ptr()) : nullptr;
}

void* data_or_null(const at::Tensor& memory) {
  return memory.defined() ? memory.mutable_data_ptr() : nullptr;
}

// Features whose lookups are all left out.
std::vector<GroupedFeature> all_features(const TableLayout& layout) {
  std::vector<GroupedFeature> features;
  for (size_t f = 0; f < layout.features.size(); ++f) {
    const BatchTable& table = layout.table_of(layout.features[f]);
    features.push_back({
        .rows = {static_cast<int64_t>(f), table.num_weights.expect_int(),
                 table.padding_idx.expect_int(), nullptr, 0},
        .first_row = -1,
        .payload = Payload::Start,
        .average = table.mode == BagMode::Mean,
        .start = 0,
        .step = 0,
        .position_start = layout.features[f].positions_column.expect_int(),
    });
  }
  return features;
}

}  // namespace

GradientPlaces::GradientPlaces(const TableLayout& layout, at::IntArrayRef features,
                               int64_t row_stride)
    : unit(kLargestUnit) {
  const auto column = [&](int64_t f) { return layout.features[f].column.expect_int(); };
  int64_t all = row_stride;  // a power of two divides all if it divides this
  for (const int64_t f : features) all |= column(f);
  while (all % unit != 0) unit /= 2;
  step = row_stride / unit;
  for (const int64_t f : features) starts.push_back(column(f) / unit);
}

at::Tensor mean_divisors(const DeviceCall& call, const CudaTableBags& bags,
                         const std::vector<GroupedFeature>& features, Dtype dtype, bool inverse,
                         int64_t* bag_starts) {
  const int64_t last = features.back().rows.feature;
  const int64_t size = dtype == Dtype::Double ? sizeof(double) : sizeof(float);
  const at::Tensor divisors = call.scratch((last + 1) * bags.num_bags() * size);
  const at::Tensor windows = call.scratch((bags.num_lookups() / kChunk + 1) * sizeof(int32_t));
  call.check(
      launch_feature_divisors({.lookups = bags.lookups,
                               .features = features,
                               .dtype = dtype,
                               .inverse = inverse,
                               .divisors = divisors.mutable_data_ptr(),
                               .bag_starts = bag_starts,
                               .window_counts = static_cast<int32_t*>(windows.mutable_data_ptr())},
                              call.stream()));
  return divisors;
}

GroupedTables::GroupedTables(const DeviceCall& call, const TableLayout& layout,
                             const CudaTableBags& bags, TableGrads& grads, at::IntArrayRef tables,
                             Op op)
    : call_(call),
      layout_(layout),
      bags_(bags),
      grads_(grads),
      largest_payload_(static_cast<int64_t>(layout.features.size()) * bags.num_bags()) {
  std::vector<GroupedFeature> features = all_features(layout);
  for (size_t place = 0; place < tables.size(); ++place) add_to_group(tables[place], place);
  for (Group& group : groups) number_rows(group, tables, features);
  if (groups.empty() || bags.num_lookups() == 0) return;
  count_means(features);
  sort(features, op);
  mark_maxima(features);
  for (Group& group : groups) set_sum(group);
}

void GroupedTables::add_to_group(int64_t index, size_t place) {
  const BatchTable& table = layout_.tables[index];
  std::vector<int64_t> features;
  for (size_t f = 0; f < layout_.features.size(); ++f) {
    if (layout_.features[f].table == index) features.push_back(static_cast<int64_t>(f));
  }
  if (features.empty() || table.dim == 0) return;
  auto group = std::find_if(groups.begin(), groups.end(), [&](const Group& group) {
    return group.table->type == table.type && group.table->dim == table.dim &&
           group.table->mode == table.mode;
  });
  if (group == groups.end()) {
    groups.push_back({&table, {}, {}, {}, {}});
    group = groups.end() - 1;
  }
  group->places.push_back(place);
  group->features.insert(group->features.end(), features.begin(), features.end());
}

Payload GroupedTables::payload_of(const Group& group) const {
  if (is_weighted() || group.table->mode == BagMode::Max) return Payload::Position;
  return group.table->mode == BagMode::Mean ? Payload::Bag : Payload::Start;
}

// The rows of a group follow those of the groups before.
void GroupedTables::number_rows(Group& group, at::IntArrayRef tables,
                                std::vector<GroupedFeature>& features) {
  const GradientPlaces places(layout_, group.features, grads_.row_stride());
  for (size_t i = 0; i < group.features.size(); ++i) {
    GroupedFeature& feature = features[group.features[i]];
    feature.payload = payload_of(group);
    feature.start = places.starts[i];
    feature.step = places.step;
    largest_payload_ = std::max(largest_payload_, feature.start + bags_.num_bags() * feature.step);
  }
  group.sum.rows.row_stride = places.unit;
  for (const size_t place : group.places) {
    const int64_t num_rows = layout_.tables[tables[place]].num_weights.expect_int();
    for (const int64_t f : group.features) {
      if (layout_.features[f].table == tables[place]) features[f].first_row = num_rows_;
    }
    group.tables.push_back({num_rows_, num_rows, nullptr});
    num_rows_ += num_rows;
  }
}

// Without weights a mean bag's share is all that differs from lookup to lookup.
void GroupedTables::count_means(const std::vector<GroupedFeature>& features) {
  std::vector<GroupedFeature> of_floats, of_doubles;
  for (const GroupedFeature& feature : features) {
    if (!feature.average || feature.first_row < 0) continue;
    const BatchTable& table = layout_.table_of(layout_.features[feature.rows.feature]);
    (is_double(table) ? of_doubles : of_floats).push_back(feature);
  }
  if (of_floats.empty() && of_doubles.empty()) return;
  if (!is_weighted()) {
    const auto bags = static_cast<int64_t>(features.size()) * bags_.num_bags();
    bag_starts_ = call_.scratch(bags * kBytes);
  }
  int64_t* const starts = numbers(bag_starts_);
  if (!of_floats.empty()) {
    floats_ = mean_divisors(call_, bags_, of_floats, Dtype::Float, !is_weighted(), starts);
  }
  if (!of_doubles.empty()) {
    doubles_ = mean_divisors(call_, bags_, of_doubles, Dtype::Double, !is_weighted(), starts);
  }
}

void GroupedTables::sort(const std::vector<GroupedFeature>& features, Op op) {
  const auto any = [&](const auto& is) { return std::any_of(groups.begin(), groups.end(), is); };
  const int64_t count = bags_.num_lookups();
  if (any([&](const Group& group) { return payload_of(group) == Payload::Position; })) {
    starts_ = call_.scratch(count * kBytes);
  }
  const bool weights_are_double = layout_.type == at::kDouble;
  if (is_weighted() && any([](const Group& group) { return group.table->mode == BagMode::Mean; })) {
    weights_ = call_.scratch(count * (weights_are_double ? sizeof(double) : sizeof(float)));
  }
  GroupTables args{
      .lookups = bags_.lookups,
      .features = features,
      .dtype = weights_are_double ? Dtype::Double : Dtype::Float,
      .num_rows = num_rows_,
      .largest_payload = largest_payload_,
      .divisors = data_or_null(weights_are_double ? doubles_ : floats_),
      .starts = numbers(starts_),
      .weights = data_or_null(weights_),
      .op = op,
      .scratch = nullptr,
  };
  memory_ = call_.scratch(static_cast<int64_t>(groups_bytes(args)));
  args.scratch = memory_.mutable_data_ptr();
  call_.check(launch_group_tables(args, &sorted_, call_.stream()));
}

void GroupedTables::mark_maxima(const std::vector<GroupedFeature>& features) {
  for (const Group& group : groups) {
    if (group.table->mode != BagMode::Max) continue;
    maxima_.stride = std::max(maxima_.stride, Maxima::words_for(group.table->dim.expect_int()));
  }
  if (maxima_.stride == 0) return;
  marks_ =
      call_.scratch(bags_.num_lookups() * maxima_.stride * static_cast<int64_t>(sizeof(uint32_t)));
  maxima_.words = static_cast<uint32_t*>(marks_.mutable_data_ptr());
  call_.check(launch_zero(maxima_.words, marks_.nbytes(), call_.stream()));
  for (const Group& group : groups) {
    if (group.table->mode != BagMode::Max) continue;
    std::vector<GroupedFeature> of_group;
    of_group.reserve(group.features.size());
    for (const int64_t f : group.features) of_group.push_back(features[f]);
    call_.check(launch_feature_bag_maxima({.lookups = bags_.lookups,
                                           .features = of_group,
                                           .positions = grads_.positions(),
                                           .position_step = grads_.positions_stride(),
                                           .dim = group.table->dim.expect_int(),
                                           .maxima = maxima_},
                                          call_.stream()));
  }
}

void GroupedTables::set_sum(Group& group) const {
  const int64_t unit = group.sum.rows.row_stride;
  GradientSum& sum = group.sum;
  sum.rows = grads_.numbers(*group.table);
  sum.rows.row_stride = unit;
  sum.groups = sorted_;
  switch (payload_of(group)) {
    case Payload::Start:
      break;
    case Payload::Bag:
      sum.bag_of = numbers(bag_starts_);
      sum.weights = data_or_null(is_double(*group.table) ? doubles_ : floats_);
      break;
    case Payload::Position:
      sum.bag_of = numbers(starts_);
      sum.weights =
          group.table->mode == BagMode::Mean ? data_or_null(weights_) : bags_.lookups.weights;
      break;
  }
  if (group.table->mode == BagMode::Max) sum.maxima = maxima_;
}

at::Tensor GroupedTables::partials(const Group& group) const {
  const Rows& rows = group.sum.rows;
  return call_.scratch(
      static_cast<int64_t>(sum_partials_bytes(sorted_.count, rows.dim, rows.dtype)));
}

}  // namespace myemb::cuda
