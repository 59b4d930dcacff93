// Walking the segments of a reduction: by threads, by segments, by blocks of columns.
#pragma once

#include "parallel.h"

namespace limit {

inline constexpr int kBlock = 8;  // vectors of columns that stay in registers, at least

// NV vectors of columns from `first` on. The last one ends with the row, and so may overlap the one
// before it: the columns that both have get the same values twice.
template <typename E, int NV>
struct Columns {
  int64_t first, width;
  int64_t operator[](int v) const {
    const int64_t column = first + v * kLanes<E>;
    return v == NV - 1 ? std::min(column, width - kLanes<E>) : column;
  }
};

inline int64_t out_row(const Reduction& args, int64_t segment) {
  return args.out_rows == nullptr ? segment : args.out_rows[segment];
}

// The first segment of a thread: each has about as many rows to read and to write.
inline int64_t border(const Reduction& args, int thread, int threads) {
  const auto cost = [&](int64_t s) {
    if (s < args.segments) {
      return args.offsets[s] + (args.sink == Sink::kDense ? args.out_rows[s] : s);
    }
    const int64_t written = args.sink == Sink::kDense ? args.num_out_rows : args.segments;
    return args.offsets[args.segments] + written;
  };
  if (thread == threads) return args.segments;
  const int64_t wanted = cost(args.segments) * thread / threads;
  int64_t low = 0, high = args.segments;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    cost(middle) < wanted ? low = middle + 1 : high = middle;
  }
  return low;
}

inline void zero_rows(char* out, int64_t row_bytes, int64_t begin, int64_t end, bool streamed) {
  char* p = out + begin * row_bytes;
  char* const last = out + end * row_bytes;
  if (!streamed) return void(std::memset(p, 0, last - p));
  for (; p < last; p += 32) stream(p, __m256i{});
}

// Calls segment(s, block's first column, its number of vectors) for all, with that number as a
// compile-time constant; Last is that of the last block.
template <typename E, int Last, typename F>
void for_segments(const Reduction& args, Tuning tuning, const F& segment) {
  const int64_t row_bytes = args.width * E::size;
  const int64_t vectors = (args.width + kLanes<E> - 1) / kLanes<E>;
  const bool streamed = tuning.stream && row_bytes % 32 == 0;
  parallel(tuning.threads, [&](int thread, int threads) {
    const int64_t begin = border(args, thread, threads), end = border(args, thread + 1, threads);
    int64_t written = begin == 0 ? 0 : out_row(args, begin - 1) + 1;
    for (int64_t s = begin; s < end; ++s) {
      if (args.sink == Sink::kDense) {
        zero_rows(args.out, row_bytes, written, args.out_rows[s], streamed);
        written = args.out_rows[s] + 1;
      }
      int64_t v = 0;
      for (; v + F::kWide <= vectors; v += F::kWide) {
        segment.template run<F::kWide>(s, v * kLanes<E>);
      }
      for (; v + kBlock < vectors; v += kBlock) segment.template run<kBlock>(s, v * kLanes<E>);
      if (v < vectors) segment.template run<Last>(s, v * kLanes<E>);
    }
    if (args.sink == Sink::kDense && thread == threads - 1) {
      zero_rows(args.out, row_bytes, written, args.num_out_rows, streamed);
    }
    if (tuning.stream) _mm_sfence();
  });
}

// f.operator()<E, Last>() for the type and the width of the call.
template <typename E, typename F>
void with_width(int64_t width, const F& f) {
  const int64_t vectors = (width + kLanes<E> - 1) / kLanes<E>;
  switch ((vectors - 1) % kBlock + 1) {
    case 1:
      return f.template operator()<E, 1>();
    case 2:
      return f.template operator()<E, 2>();
    case 3:
      return f.template operator()<E, 3>();
    case 4:
      return f.template operator()<E, 4>();
    case 5:
      return f.template operator()<E, 5>();
    case 6:
      return f.template operator()<E, 6>();
    case 7:
      return f.template operator()<E, 7>();
    default:
      return f.template operator()<E, 8>();
  }
}

template <typename F>
void with_type(const Reduction& args, const F& f) {
  switch (args.type) {
    case Type::kFloat:
      return with_width<Float>(args.width, f);
    case Type::kDouble:
      return with_width<Double>(args.width, f);
    case Type::kBFloat16:
      return with_width<BFloat16>(args.width, f);
    case Type::kHalf:
      return with_width<Half>(args.width, f);
  }
}

}  // namespace limit
