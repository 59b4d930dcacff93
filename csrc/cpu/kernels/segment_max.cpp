// gather-reduce by maximum, with where each maximum came from.

#include <cpu/kernels/row_list.h>

#include <algorithm>
#include <limits>

namespace myemb::MYEMB_ISA {
namespace {

// The integer of the width of A, so that values and list slots share a vector's lanes.
template <typename A>
using Slot = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;

// best = max_i weight_i * row_i over one list, and the slot that gave it. Only a greater value
// replaces one, so the first of equals wins and NaN counts only if the bag starts with it. A list
// that starts a bag starts from its first row; any other from -inf and slot -1, which never
// replaces what came before.
template <bool kWeighted, typename T>
void max_list(const RowList<T>& list, int64_t dim, bool starts_bag, Accumulator<T>* best,
              Slot<Accumulator<T>>* slots) {
  using A = Accumulator<T>;
  cover_columns<A>(dim, [&]<int L, int V>(Columns<L, V> columns) {
    using Values = Vector<A, L>;
    using SlotsOf = Vector<Slot<A>, L>;
    const auto value = [&](int i, int v) {
      Values x = load<L>(list.rows[i] + columns[v]);
      if constexpr (kWeighted) x = x * list.weights[i];
      return x;
    };
    Values top[V];
    SlotsOf slot[V];
    for (int v = 0; v < V; ++v) {
      top[v] = starts_bag ? value(0, v) : Values{} - std::numeric_limits<A>::infinity();
      slot[v] = starts_bag ? SlotsOf{} : SlotsOf{} - 1;
    }
    for (int i = starts_bag; i < list.count; ++i) {
      for (int v = 0; v < V; ++v) {
        const Values x = value(i, v);
        slot[v] = x > top[v] ? SlotsOf{} + i : slot[v];
        top[v] = x > top[v] ? x : top[v];
      }
    }
    for (int v = 0; v < V; ++v) {
      store<L>(best + columns[v], top[v]);
      std::memcpy(slots + columns[v], &slot[v], sizeof(SlotsOf));
    }
  });
}

template <typename T>
class SegmentMaximizer {
 public:
  using A = Accumulator<T>;

  explicit SegmentMaximizer(const SegmentMax& args)
      : args_(args),
        dim_(args.rows.dim),
        gatherer_(args.rows, args.indices, args.weights, args.padding_idx, args.bad),
        best_(new A[dim_]),
        candidate_(new A[dim_]),
        slots_(new Slot<A>[dim_]),
        positions_(new int64_t[dim_]) {}

  void max_segment(int64_t segment) {
    const int64_t begin = args_.segments.begin(segment), end = args_.segments.end(segment);
    bool started = false;
    for (int64_t chunk = begin; chunk < end; chunk += kChunk) {
      gatherer_.gather(chunk, std::min(end, chunk + kChunk), list_);
      if (list_.count == 0) continue;
      max_gathered(!started, started ? candidate_.get() : best_.get());
      for (int64_t d = 0; d < dim_; ++d) {
        if (started && !(candidate_[d] > best_[d])) continue;
        if (started) best_[d] = candidate_[d];
        positions_[d] = list_.lookups[slots_[d]];
      }
      started = true;
    }
    if (!started) {
      std::fill_n(best_.get(), dim_, A(0));
      std::fill_n(positions_.get(), dim_, -1);
    }
    write(segment);
  }

 private:
  void max_gathered(bool starts_bag, A* best) {
    if (args_.weights) {
      max_list<true>(list_, dim_, starts_bag, best, slots_.get());
    } else {
      max_list<false>(list_, dim_, starts_bag, best, slots_.get());
    }
  }

  void write(int64_t segment) const {
    T* out = static_cast<T*>(args_.out) + segment * dim_;
    cover_columns<A>(dim_, [&]<int L, int V>(Columns<L, V> columns) {
      for (int v = 0; v < V; ++v) {
        store<L>(out + columns[v], load<L>(best_.get() + columns[v]));
      }
    });
    if (args_.positions) {
      std::copy_n(positions_.get(), dim_, args_.positions + segment * dim_);
    }
  }

  const SegmentMax& args_;
  const int64_t dim_;
  RowGatherer<T> gatherer_;
  RowList<T> list_;
  std::unique_ptr<A[]> best_;
  std::unique_ptr<A[]> candidate_;
  std::unique_ptr<Slot<A>[]> slots_;
  std::unique_ptr<int64_t[]> positions_;
};

}  // namespace

void segment_max(const SegmentMax& args, int64_t begin, int64_t end) {
  visit(args.rows.dtype, [&]<typename T>(T) {
    SegmentMaximizer<T> maximizer(args);
    for (int64_t s = begin; s < end; ++s) maximizer.max_segment(s);
  });
}

}  // namespace myemb::MYEMB_ISA
