// Maxima of rows and their gradient.
#include "segments.h"

#include <limits>

namespace limit {
namespace {

template <typename E, bool Positions>
class MaxSegments {
  using Acc = typename E::Acc;
  using Places = decltype(Acc{} > Acc{});  // integers as wide as the accumulators
  using Wide [[gnu::vector_size(8 * kLanes<E>)]] = int64_t;

 public:
  static constexpr int kWide = kBlock;  // maxima and their places: two registers each

  MaxSegments(const Reduction& args, int64_t* positions, Tuning tuning)
      : a_(args),
        positions_(positions),
        row_bytes_(args.width * E::size),
        distance_(distance_for(tuning.ahead, row_bytes_)),
        total_(args.offsets[args.segments]) {}

  template <int NV>
  void run(int64_t s, int64_t first) const {
    const Columns<E, NV> columns{first, a_.width};
    Acc most[NV];
    Places place[NV];
    for (int v = 0; v < NV; ++v) {
      most[v] = Acc{} - std::numeric_limits<typename E::Scalar>::infinity();
      place[v] = Places{} - 1;
    }
    const int64_t last_asked = first == 0 ? total_ - distance_ : 0;
    for (int64_t i = a_.offsets[s]; i < a_.offsets[s + 1]; ++i) {
      if (i < last_asked) prefetch(row(i + distance_), row_bytes_);
      if (a_.indices[i] == a_.padding) continue;
      for (int v = 0; v < NV; ++v) {
        const Acc value = E::widen(load<typename E::Packed>(row(i) + columns[v] * E::size));
        const auto larger = value > most[v];
        most[v] = larger ? value : most[v];
        if (Positions) place[v] = larger ? Places{} + static_cast<int>(i) : place[v];
      }
    }
    for (int v = 0; v < NV; ++v) put(s, columns[v], most[v], place[v]);
  }

 private:
  const char* row(int64_t lookup) const { return a_.table + a_.indices[lookup] * row_bytes_; }

  void put(int64_t s, int64_t column, Acc most, Places place) const {
    const auto none = most == Acc{} - std::numeric_limits<typename E::Scalar>::infinity();
    most = none ? Acc{} : most;
    store(a_.out + s * row_bytes_ + column * E::size, E::narrow(most));
    if (Positions) {
      const Wide wide = __builtin_convertvector(place, Wide);
      std::memcpy(positions_ + s * a_.width + column, &wide, sizeof wide);
    }
  }

  const Reduction& a_;
  int64_t* positions_;
  int64_t row_bytes_, distance_, total_;
};

}  // namespace

void reduce_max(const Reduction& args, int64_t* positions, Tuning tuning) {
  with_type(args, [&]<typename E, int Last>() {
    if (positions == nullptr) {
      for_segments<E, Last>(args, tuning, MaxSegments<E, false>(args, positions, tuning));
    } else {
      for_segments<E, Last>(args, tuning, MaxSegments<E, true>(args, positions, tuning));
    }
  });
}

// Threads share the columns: every sum is one thread's.
void scatter_max(const Reduction& args, const int64_t* positions, Tuning tuning) {
  const auto* gradient = reinterpret_cast<const float*>(args.table);
  auto* out = reinterpret_cast<float*>(args.out);
  const int64_t row_bytes = args.width * 4;
  parallel(tuning.threads, [&](int thread, int threads) {
    const Range rows = share(args.num_out_rows, thread, threads);
    zero_rows(args.out, row_bytes, rows.begin, rows.end, tuning.stream && row_bytes % 32 == 0);
    _mm_sfence();
  });
  parallel(tuning.threads, [&](int thread, int threads) {
    const Range columns = share(args.width, thread, threads);
    for (int64_t s = 0; s < args.segments; ++s) {
      for (int64_t d = columns.begin; d < columns.end; ++d) {
        const int64_t lookup = positions[s * args.width + d];
        if (lookup >= 0) out[args.indices[lookup] * args.width + d] += gradient[s * args.width + d];
      }
    }
  });
}

}  // namespace limit
