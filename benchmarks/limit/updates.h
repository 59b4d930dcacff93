// Steps of optimizers: what becomes of a row of float32 when the sum of its gradients is known.
#pragma once

#include "segments.h"

#include <cmath>

namespace limit {

constexpr float kEpsilon = 1e-15f;

inline bool is_update(Sink sink) { return sink >= Sink::kSgd; }

inline Floats root(Floats x) {
#ifdef __AVX512F__
  return (Floats)_mm512_sqrt_ps((__m512)x);
#else
  return (Floats)_mm256_sqrt_ps((__m256)x);
#endif
}

// Asks for what the update of a segment reads and writes.
inline void prefetch_updated(const Reduction& a, int64_t segment) {
  const int64_t row = a.out_rows[segment], start = row * a.width, bytes = a.width * 4;
  prefetch(a.out + start * 4, bytes);
  if (a.sink == Sink::kAdagrad || a.sink == Sink::kAdam) {
    prefetch(reinterpret_cast<const char*>(a.states[0] + start), bytes);
  }
  if (a.sink == Sink::kAdam) prefetch(reinterpret_cast<const char*>(a.states[1] + start), bytes);
  if (a.sink == Sink::kRowWiseAdagrad) __builtin_prefetch(a.states[0] + row);
}

// state += mean of the sums' squares; weight -= rate * sum / (sqrt(state) + epsilon). What the
// factor of a row is, its last block says: the sums of those before wait.
template <int NV>
void update_row_wise(const Reduction& a, int64_t row, Columns<Float, NV> columns,
                     const Floats* sum) {
  constexpr int64_t kMostColumns = 4096;
  alignas(kBytes) static thread_local float waiting[kMostColumns];
  static thread_local Floats squares_before;
  const bool is_first = columns.first == 0, is_last = columns[NV - 1] + kLanes<Float> == a.width;
  Floats squares = {};
  if (!is_first) squares = squares_before;
  for (int v = 0; v < NV; ++v) squares += sum[v] * sum[v];
  if (!is_last) {
    for (int v = 0; v < NV; ++v) store(waiting + columns[v], sum[v]);
    squares_before = squares;
    return;
  }
  float all = 0;
  for (int lane = 0; lane < kLanes<Float>; ++lane) all += squares[lane];
  const float state = a.states[0][row] += all / static_cast<float>(a.width);
  const float factor = a.rate / (std::sqrt(state) + kEpsilon);
  float* const weight = reinterpret_cast<float*>(a.out) + row * a.width;
  for (int64_t d = 0; d < columns.first; d += kLanes<Float>) {
    store(weight + d, load<Floats>(weight + d) - load<Floats>(waiting + d) * factor);
  }
  for (int v = 0; v < NV; ++v) {
    float* const to = weight + columns[v];
    store(to, load<Floats>(to) - sum[v] * factor);
  }
}

// A step on some columns of a row. Where the last two vectors of a row overlap, a column would be
// updated twice: the widths of training steps are multiples of a vector's.
template <int NV>
void update(const Reduction& a, int64_t row, Columns<Float, NV> columns, const Floats* sum) {
  if (a.sink == Sink::kRowWiseAdagrad) return update_row_wise<NV>(a, row, columns, sum);
  const Sink sink = a.sink;
  const float rate = a.rate;
  const int64_t start = row * a.width;
  float* const weight = reinterpret_cast<float*>(a.out) + start;
  for (int v = 0; v < NV; ++v) {
    const int64_t d = columns[v];
    Floats step = sum[v];
    if (sink == Sink::kAdagrad) {
      float* const state = a.states[0] + start + d;
      const Floats squares = load<Floats>(state) + sum[v] * sum[v];
      store(state, squares);
      step /= root(squares) + kEpsilon;
    } else if (sink == Sink::kAdam) {
      float* const first = a.states[0] + start + d;
      float* const second = a.states[1] + start + d;
      step = load<Floats>(first) * 0.9f + sum[v] * (1 - 0.9f);
      const Floats squares = load<Floats>(second) * 0.999f + sum[v] * sum[v] * (1 - 0.999f);
      store(first, step);
      store(second, squares);
      step /= root(squares) + kEpsilon;
    }
    store(weight + d, load<Floats>(weight + d) - rate * step);
  }
}

}  // namespace limit
