// A step of an optimizer on rows whose gradients are summed up.

#include <cpu/kernels/kernels.h>
#include <cpu/kernels/lanes.h>
#include <cpu/kernels/row_access.h>
#include <policies/optimizers.h>
#include <policies/rounding.h>

#include <algorithm>
#include <cmath>
#include <memory>

namespace myemb::MYEMB_ISA {
namespace {

// Calls f.operator()<L>(column) for vectors that cover [0, dim), each column once: an update may
// not be made twice.
template <int L, typename F>
MYEMB_INLINE void for_rest(int64_t column, int64_t dim, const F& f) {
  if (column + L <= dim) {
    f.template operator()<L>(column);
    column += L;
  }
  if constexpr (L > 1) for_rest<L / 2>(column, dim, f);
}

template <typename A, typename F>
MYEMB_INLINE void for_vectors(int64_t dim, const F& f) {
  constexpr int L = kWidestLanes<A>;
  int64_t column = 0;
  for (; column + L <= dim; column += L) f.template operator()<L>(column);
  if constexpr (L > 1) for_rest<L / 2>(column, dim, f);
}

// For the rules of policies/optimizers.h, which know no vectors.
struct SquareRoot {
  template <typename V>
  MYEMB_INLINE V operator()(const V& x) const {
    return square_root(x);
  }
};

// How weights are stored: row(i) is one with load<L>(column) and store<L>(column, values).
template <typename T>
struct NearestStorage {
  explicit NearestStorage(const RowUpdate& args) : data(static_cast<T*>(args.weight)) {}

  struct Row {
    T* row;
    template <int L>
    MYEMB_INLINE auto load(int64_t column) const {
      return MYEMB_ISA::load<L>(row + column);
    }
    template <int L>
    MYEMB_INLINE void store(int64_t column, const Vector<Accumulator<T>, L>& values) const {
      MYEMB_ISA::store<L>(row + column, values);
    }
  };

  MYEMB_INLINE Row row(int64_t index, int64_t dim) const { return {data + index * dim}; }

  T* data;
};

template <int L>
MYEMB_INLINE float lane_of(const Vector<float, L>& values, int lane) {
  if constexpr (L == 1) {
    return values;
  } else {
    return values[lane];
  }
}

template <typename T>
struct StochasticStorage {
  explicit StochasticStorage(const RowUpdate& args)
      : data(static_cast<T*>(args.weight)), random{args.options.seed, args.options.step} {}

  struct Row {
    T* row;
    int64_t index;
    RandomBits random;
    template <int L>
    MYEMB_INLINE auto load(int64_t column) const {
      return MYEMB_ISA::load<L>(row + column);
    }
    template <int L>
    MYEMB_INLINE void store(int64_t column, const Vector<float, L>& values) const {
      PhiloxWords block{};
      for (int lane = 0; lane < L; ++lane) {
        const int64_t at = column + lane;
        if (lane == 0 || at % RandomBits::kBlock == 0) block = random.block(index, at);
        row[at] = round_stochastic(lane_of<L>(values, lane), RandomBits::of_column(block, at), T{});
      }
    }
  };

  MYEMB_INLINE Row row(int64_t index, int64_t dim) const {
    return {data + index * dim, index, random};
  }

  T* data;
  RandomBits random;
};

struct SplitStorage {
  explicit SplitStorage(const RowUpdate& args)
      : data(static_cast<BFloat16*>(args.weight)), low_halves(args.low_halves) {}

  struct Row {
    BFloat16* high;
    int16_t* low;
    template <int L>
    MYEMB_INLINE Vector<float, L> load(int64_t column) const {
      float values[L];
      for (int lane = 0; lane < L; ++lane) {
        values[lane] = join_halves(high[column + lane], low[column + lane]);
      }
      return load_raw<Vector<float, L>>(values);
    }
    template <int L>
    MYEMB_INLINE void store(int64_t column, const Vector<float, L>& values) const {
      for (int lane = 0; lane < L; ++lane) {
        const SplitFloat split = split_halves(lane_of<L>(values, lane));
        high[column + lane] = split.high;
        low[column + lane] = split.low;
      }
    }
  };

  MYEMB_INLINE Row row(int64_t index, int64_t dim) const {
    return {data + index * dim, low_halves + index * dim};
  }

  BFloat16* data;
  int16_t* low_halves;
};

// How many rows before its update a row is asked for, and asking for all of it.
MYEMB_INLINE int64_t rows_ahead(const RowUpdate& args) {
  return kPrefetchBytes / (args.dim * size_of(args.dtype) + 1) + 1;
}

MYEMB_INLINE void prefetch_tables(const RowUpdate& args, int64_t row) {
  const int64_t accumulator_size = args.dtype == Dtype::Double ? sizeof(double) : sizeof(float);
  const int64_t bytes = args.dim * size_of(args.dtype), state_bytes = args.dim * accumulator_size;
  prefetch_row(args.weight, row, bytes, bytes);
  for (const void* const states : args.states) {
    if (states) prefetch_row(states, row, state_bytes, state_bytes);
  }
  if (args.row_state) prefetch_row(args.row_state, row, accumulator_size, 1);
  if (args.low_halves) prefetch_row(args.low_halves, row, bytes, bytes);
}

// Updates rows by their gradients, which are G.
template <typename G, typename Storage, typename Rule>
class RowUpdater {
 public:
  using A = Accumulator<G>;

  RowUpdater(const RowUpdate& args, const Rule& rule)
      : args_(args), storage_(args), rule_(rule), gradient_(args.options) {
    for (int s = 0; s < Rule::kStates; ++s) states_[s] = static_cast<A*>(args.states[s]);
  }

  void update(int64_t begin, int64_t end) const {
    if (!args_.rows) {  // the processor sees itself where this goes
      for (int64_t i = begin; i < end; ++i) update_row(i, i);
      return;
    }
    const int64_t ahead = rows_ahead(args_);
    for (int64_t i = begin; i < end; ++i) {
      if (i + ahead < args_.rows_end) prefetch_tables(args_, args_.rows[i + ahead]);
      update_row(i, args_.rows[i]);
    }
  }

 private:
  MYEMB_INLINE void update_row(int64_t i, int64_t row) const {
    const int64_t dim = args_.dim, start = row * dim;
    const G* const grad = static_cast<const G*>(args_.grads) + i * dim;
    const auto weights = storage_.row(row, dim);
    A row_factor = 0;
    if constexpr (Rule::kRowWise) {
      A& state = static_cast<A*>(args_.row_state)[row];
      state = rule_.updated_row(state, mean_square(grad, weights));
      row_factor = rule_.row_factor(state);
    }
    for_vectors<A>(dim, [&]<int L>(int64_t column) {
      using V = Vector<A, L>;
      V w = weights.template load<L>(column);
      const V g = gradient_.prepare(w, load<L>(grad + column));
      w = gradient_.shrunk(w);
      V states[Rule::kStates + 1];
      for (int s = 0; s < Rule::kStates; ++s) states[s] = load<L>(states_[s] + start + column);
      rule_.apply(w, g, states, row_factor, SquareRoot{});
      for (int s = 0; s < Rule::kStates; ++s) store<L>(states_[s] + start + column, states[s]);
      weights.template store<L>(column, w);
    });
  }

  template <typename Row>
  MYEMB_INLINE A mean_square(const G* grad, const Row& weights) const {
    const auto mean = [&](const auto& gradient) MYEMB_INLINE_LAMBDA {
      const auto fold = [&](A lane, int64_t d) MYEMB_INLINE_LAMBDA {
        const A g = gradient(d);
        return lane + g * g;
      };
      const A sum = reduce_lanes(args_.dim, A(0), fold, [](A a, A b) { return a + b; });
      return sum / static_cast<A>(args_.dim);
    };
    if (gradient_.weight_decay == 0) {  // apart, so that the compiler has no condition in the loop
      return mean([&](int64_t d) MYEMB_INLINE_LAMBDA { return load<1>(grad + d); });
    }
    return mean([&](int64_t d) MYEMB_INLINE_LAMBDA {
      return gradient_.prepare(weights.template load<1>(d), load<1>(grad + d));
    });
  }

  const RowUpdate& args_;
  const Storage storage_;
  const Rule rule_;
  const Gradient<A> gradient_;
  A* states_[Rule::kStates + 1];
};

// Calls f with the type of the storage as a pointer to it.
template <typename T, typename F>
void visit_storage(Rounding rounding, const F& f) {
  if constexpr (sizeof(T) == 2) {
    if (rounding == Rounding::Stochastic) return f(static_cast<StochasticStorage<T>*>(nullptr));
  }
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (rounding == Rounding::Split) return f(static_cast<SplitStorage*>(nullptr));
  }
  f(static_cast<NearestStorage<T>*>(nullptr));
}

// Sums of this many bytes are made before the weights are updated by them: what L1 holds beside the
// rows that are read.
constexpr int64_t kBlockBytes = 8192;

// The segments [begin, begin + count) as segments of their own, summed up into `out`.
SegmentSum block_of(SegmentSum sums, int64_t begin, int64_t count, void* out) {
  sums.segments.starts += begin;
  sums.segments.starts_count = count + 1;
  sums.segments.count = count;
  sums.out_rows = nullptr;
  sums.exact = true;
  sums.out = out;
  return sums;
}

}  // namespace

void segment_update(const SegmentSum& sums, const RowUpdate& args, int64_t begin, int64_t end) {
  const int64_t size = args.dtype == Dtype::Double ? sizeof(double) : sizeof(float);
  const int64_t row_bytes = args.dim * size;
  const int64_t block = kBlockBytes / (row_bytes + 1) + 1;
  const std::unique_ptr<char[]> buffer(new char[block * row_bytes]);
  RowUpdate update = args;
  update.exact = true;
  update.rows_end = end;
  for (int64_t row = begin; row < std::min(begin + rows_ahead(args), end); ++row) {
    prefetch_tables(args, args.rows[row]);
  }
  for (int64_t first = begin; first < end; first += block) {
    const int64_t count = std::min(block, end - first);
    segment_sum(block_of(sums, first, count, buffer.get()), 0, count);
    // Rows are numbered as segments are, the buffer's from `first` on.
    update.grads = reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(buffer.get()) -
                                                 static_cast<uintptr_t>(first * row_bytes));
    row_update(update, first, first + count);
  }
}

void row_update(const RowUpdate& args, int64_t begin, int64_t end) {
  if (args.dim == 0) return;
  visit(args.dtype, [&]<typename T>(T) {
    using A = Accumulator<T>;
    visit_storage<T>(args.options.rounding, [&]<typename Storage>(Storage*) {
      visit_rule<A>(args.options, [&]<typename Rule>(const Rule& rule) {
        if (args.exact) return RowUpdater<A, Storage, Rule>(args, rule).update(begin, end);
        RowUpdater<T, Storage, Rule>(args, rule).update(begin, end);
      });
    });
  });
}

}  // namespace myemb::MYEMB_ISA
