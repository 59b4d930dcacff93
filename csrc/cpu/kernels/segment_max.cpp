// gather-reduce by maximum, with where each maximum came from.
//
// Only a greater value replaces one, so the first of equals wins and NaN counts only if the segment
// starts with it.

#include <cpu/kernels/row_tiles.h>

#include <algorithm>
#include <limits>
#include <memory>

namespace myemb::MYEMB_ISA {
namespace {

template <typename A>
inline constexpr A kLeast = -std::numeric_limits<A>::infinity();

// The integer of the width of A, so that values and places share a vector's lanes. A place is
// counted from the first lookup on.
template <typename A>
using Place = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;

// The maxima of a tile of columns. Without places, half of the registers and instructions.
template <typename T, typename Index, bool kPlaces, int L, int V>
class TileMaxima {
 public:
  using A = Accumulator<T>;
  using Places = Vector<Place<A>, L>;
  using Maxima = Vector<A, L>[V];
  using AllPlaces = Places[V];

  MYEMB_INLINE TileMaxima(const SegmentMax& args, Columns<L, V> columns)
      : rows_(args, columns), weights_(static_cast<const A*>(args.weights)) {}

  // The lookups [begin, end), as segment_max_part has them; returns whether any was not left out.
  MYEMB_INLINE bool add_segment(int64_t begin, int64_t end, bool starts, Maxima& best,
                                AllPlaces& places) {
    for (int v = 0; v < V; ++v) {
      best[v] = Vector<A, L>{} + kLeast<A>;
      if constexpr (kPlaces) places[v] = Places{} - 1;
    }
    int64_t left_out = 0;
    for (int64_t i = begin; i < end;) {
      const int64_t stop = rows_.lookups().step_end(i, end);
      rows_.lookups().step(i, stop, [&](int64_t at, int64_t index, int64_t later) {
        if (!rows_.counts(at, index, later, left_out)) return;
        const auto row = rows_.row(index);
        const auto place = static_cast<Place<A>>(at - begin);
        for (int v = 0; v < V; ++v) {
          Vector<A, L> x = rows_.value(row, v, at);
          if (weights_) x = x * weights_[at];
          if (starts) {  // as a branch it is not on the way from one maximum to the next
            best[v] = x;
            if constexpr (kPlaces) places[v] = Places{} + place;
          } else {
            if constexpr (kPlaces) places[v] = x > best[v] ? Places{} + place : places[v];
            best[v] = x > best[v] ? x : best[v];
          }
        }
        starts = false;
      });
      i = stop;
    }
    return left_out < end - begin;
  }

  MYEMB_INLINE void note_bad_index() const { rows_.note_bad_index(); }

 private:
  TileRows<T, Index, /*kWeighted=*/false, L, V> rows_;
  const A* const weights_;  // not known to the compiler: a rare case, and half of the code
};

// Places as positions: -1 stays.
template <int L, typename P>
MYEMB_INLINE void store_positions(int64_t* to, Vector<P, L> places, int64_t begin) {
  if constexpr (L == 1) {
    *to = places < 0 ? -1 : begin + places;
  } else {
    const auto wide = __builtin_convertvector(places, Vector<int64_t, L>);
    const auto positions = wide + ((wide >= 0) & begin);
    std::memcpy(to, &positions, sizeof(positions));
  }
}

// Where a segment's maxima go: a row of the output, or a part of a shared segment.
template <typename A>
struct Part {
  bool starts;
  A* best;  // null: not a part
  int64_t* positions;
};

// Elements from one row of an output to the next.
int64_t out_stride(const SegmentMax& args) {
  return args.out_stride ? args.out_stride : args.rows.dim;
}

int64_t positions_stride_of(const SegmentMax& args) {
  return args.positions_stride ? args.positions_stride : args.rows.dim;
}

// Maxima of a table whose columns are next to each other.
template <typename T, typename Index, bool kPlaces>
class RowMaxima {
 public:
  using A = Accumulator<T>;

  RowMaxima(const SegmentMax& args, Part<A> part) : args_(args), part_(part) {}

  void max(int64_t begin, int64_t end) const {
    for_tiles<A, kVectors>(
        args_.rows.dim, begin, end,
        [&](auto columns, int64_t first, int64_t last) { max_tile(columns, first, last); });
  }

 private:
  static constexpr int kVectors = kPlaces ? kTileVectors / 2 : kTileVectors;

  template <int L, int V>
  [[gnu::noinline]] void max_tile(Columns<L, V> columns, int64_t begin, int64_t end) const {
    using Tile = TileMaxima<T, Index, kPlaces, L, V>;
    Tile tile(args_, columns);
    const Segments segments = args_.segments;
    const int64_t stride = out_stride(args_), positions_stride = positions_stride_of(args_);
    const Part<A> part = part_;
    T* const out = static_cast<T*>(args_.out);
    int64_t* const positions = part.best ? part.positions : args_.positions;
    for (int64_t s = begin; s < end; ++s) {
      const int64_t first = segments.begin(s), row = s * stride;
      typename Tile::Maxima best;
      typename Tile::AllPlaces places;
      const bool any = tile.add_segment(first, segments.end(s), part.starts, best, places);
      for (int v = 0; v < V; ++v) {
        if (part.best) {
          store<L>(part.best + columns[v], best[v]);
        } else {
          store<L>(out + row + columns[v], any ? best[v] : Vector<A, L>{});
        }
        if constexpr (kPlaces) {
          store_positions<L, Place<A>>(positions + s * positions_stride + columns[v], places[v],
                                       first);
        }
      }
    }
    tile.note_bad_index();
  }

  const SegmentMax& args_;
  const Part<A> part_;
};

template <typename T>
void max_rows(const SegmentMax& args, int64_t begin, int64_t end, Part<Accumulator<T>> part) {
  const auto with_places = [&]<typename Index>(Index) {
    if (args.positions || part.best) return RowMaxima<T, Index, true>(args, part).max(begin, end);
    RowMaxima<T, Index, false>(args, part).max(begin, end);
  };
  args.indices.is_int64 ? with_places(int64_t{}) : with_places(int32_t{});
}

// What RowMaxima does not do, element by element: tables with strided columns or with none.
template <typename T>
void max_elements(const SegmentMax& args, int64_t begin, int64_t end, Part<Accumulator<T>> part) {
  using A = Accumulator<T>;
  const int64_t dim = args.rows.dim;
  std::fill_n(part.best, dim, kLeast<A>);
  std::fill_n(part.positions, dim, -1);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t index = args.indices.is_int64 ? static_cast<const int64_t*>(args.indices.data)[i]
                                                : static_cast<const int32_t*>(args.indices.data)[i];
    if (!is_row(index, args.rows.count)) {
      args.bad->note(i);
    } else if (index != args.padding_idx) {
      const T* row = static_cast<const T*>(args.rows.data) + index * args.rows.row_stride;
      for (int64_t d = 0; d < dim; ++d) {
        A x = load<1>(row + d * args.rows.column_stride);
        if (args.weights) x = x * static_cast<const A*>(args.weights)[i];
        if (!part.starts && !(x > part.best[d])) continue;
        part.best[d] = x;
        part.positions[d] = i;
      }
      part.starts = false;
    }
  }
}

// Joins parts and stores a segment's row.
template <typename T>
void store_maxima(const SegmentMax& args, int64_t segment, const Accumulator<T>* best,
                  const int64_t* positions, int64_t first, int64_t parts) {
  const int64_t dim = args.rows.dim;
  for (int64_t d = 0; d < dim; ++d) {
    int64_t from = first;  // the part that has the maximum, or -1
    for (int64_t part = first + 1; first >= 0 && part < parts; ++part) {
      if (best[part * dim + d] > best[from * dim + d]) from = part;
    }
    const int64_t at = from * dim + d;
    store<1>(static_cast<T*>(args.out) + segment * out_stride(args) + d, first < 0 ? 0 : best[at]);
    if (!args.positions) continue;
    args.positions[segment * positions_stride_of(args) + d] = first < 0 ? -1 : positions[at];
  }
}

bool by_element(const SegmentMax& args) {
  return args.rows.column_stride != 1 || args.rows.dim == 0;
}

// The same as segment_max, by element.
template <typename T>
void max_segments_by_element(const SegmentMax& args, int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  const int64_t dim = args.rows.dim;
  const std::unique_ptr<A[]> best(new A[dim]);
  const std::unique_ptr<int64_t[]> positions(new int64_t[dim]);
  for (int64_t s = begin; s < end; ++s) {
    max_elements<T>(args, args.segments.begin(s), args.segments.end(s),
                    {/*starts=*/true, best.get(), positions.get()});
    const bool any = dim > 0 && positions[0] >= 0;
    store_maxima<T>(args, s, best.get(), positions.get(), any ? 0 : -1, 1);
  }
}

}  // namespace

void segment_max(const SegmentMax& args, int64_t begin, int64_t end) {
  visit(args.rows.dtype, [&]<typename T>(T) {
    if (by_element(args)) return max_segments_by_element<T>(args, begin, end);
    max_rows<T>(args, begin, end, {/*starts=*/true, nullptr, nullptr});
  });
}

void segment_max_part(const SegmentMax& args, int64_t begin, int64_t end, bool starts, void* best,
                      int64_t* positions) {
  visit(args.rows.dtype, [&]<typename T>(T) {
    const Part<Accumulator<T>> part{starts, static_cast<Accumulator<T>*>(best), positions};
    if (by_element(args)) return max_elements<T>(args, begin, end, part);
    const int64_t borders[] = {begin, end};
    SegmentMax of_part = args;
    of_part.segments = {
        .starts = borders, .starts_count = 2, .length = 0, .count = 1, .total = end};
    max_rows<T>(of_part, 0, 1, part);
  });
}

void segment_max_combine(const SegmentMax& args, int64_t segment, const void* best,
                         const int64_t* positions, int64_t first, int64_t parts) {
  visit(args.rows.dtype, [&]<typename T>(T) {
    store_maxima<T>(args, segment, static_cast<const Accumulator<T>*>(best), positions, first,
                    parts);
  });
}

}  // namespace myemb::MYEMB_ISA
