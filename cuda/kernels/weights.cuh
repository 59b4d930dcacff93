#pragma once

// The weights of a table (table_state.cuh) that a kernel changes in place, N of a row at a time.

#include <cuda/launch.h>
#include <policies/rounding.h>
#include <cuda/kernels/pack.cuh>

namespace myemb::cuda {

// Not through the read-only path: the kernel writes there.
template <int N, typename T>
__device__ __forceinline__ Word<T, N> load_in_place(const T* from) {
  return __ldca(reinterpret_cast<const Word<T, N>*>(from));
}

// fp32 and fp64.
template <typename T>
class PlainWeights {
 public:
  template <int N>
  using Loaded = Word<T, N>;

  explicit PlainWeights(const UpdateOptions& /*options*/) {}

  template <int N, typename Table>
  __device__ Loaded<N> read(const Table& table, int64_t row, int64_t column) const {
    return load_in_place<N>(table.weights(row) + table.begin(row) + column);
  }

  template <int N, typename Table>
  __device__ void widen(const Table& /*table*/, const Loaded<N>& loaded, T (&values)[N]) const {
    widen_all<T, N>(loaded, values);
  }

  template <int N, typename Table>
  __device__ void write(const Table& table, int64_t row, int64_t column,
                        const T (&values)[N]) const {
    store_narrowed<T>(table.weights(row) + table.begin(row) + column, values);
  }
};

// The 16 random bits of N neighbouring columns. A column's word is chosen and not indexed, which
// would put all of them into memory.
template <int N>
__device__ __forceinline__ void random_bits(const RandomBits& random, int64_t row, int64_t column,
                                            uint32_t (&bits)[N]) {
  static_assert(RandomBits::kBlock == 8 && (N == 1 || N == 4));
  const PhiloxWords block = random.block(row, column);
  const auto at = static_cast<int>(column % RandomBits::kBlock);
  PhiloxWords mine = block;
  if (at >= 4) {
    mine.words[0] = block.words[2];
    mine.words[1] = block.words[3];
  }
  if constexpr (N == 1) {
    mine.words[0] = at & 2 ? mine.words[1] : mine.words[0];
    bits[0] = RandomBits::of_column(mine, at & 1);
  } else {
#pragma unroll
    for (int n = 0; n < N; ++n) bits[n] = RandomBits::of_column(mine, n);
  }
}

// fp16 and bf16. How they are rounded is asked for each row and not compiled in: it is the same for
// the whole launch, and there would be twice as many kernels.
template <typename T>
class RoundedWeights {
 public:
  template <int N>
  struct Loaded {
    Word<T, N> high;
    Word<int16_t, N> low;  // if the weights are split
  };

  explicit RoundedWeights(const UpdateOptions& options)
      : random_{options.seed, options.step}, is_random_(options.rounding == Rounding::Stochastic) {}

  template <int N, typename Table>
  __device__ Loaded<N> read(const Table& table, int64_t row, int64_t column) const {
    Loaded<N> loaded;
    const int64_t at = table.begin(row) + column;
    loaded.high = load_in_place<N>(table.weights(row) + at);
    if (is_split(table)) loaded.low = load_in_place<N>(table.low_halves(row) + at);
    return loaded;
  }

  template <int N, typename Table>
  __device__ void widen(const Table& table, const Loaded<N>& loaded, float (&values)[N]) const {
    if constexpr (kCanSplit) {
      if (is_split(table)) {
        const auto high = unpack<T, N>(loaded.high);
        const auto low = unpack<int16_t, N>(loaded.low);
#pragma unroll
        for (int n = 0; n < N; ++n) values[n] = join_halves(high.values[n], low.values[n]);
        return;
      }
    }
    widen_all<T, N>(loaded.high, values);
  }

  template <int N, typename Table>
  __device__ void write(const Table& table, int64_t row, int64_t column,
                        const float (&values)[N]) const {
    const int64_t at = table.begin(row) + column;
    if (is_random_) {
      uint32_t bits[N];
      random_bits(random_, table.number(row), column, bits);
      Pack<T, N> pack;
#pragma unroll
      for (int n = 0; n < N; ++n) pack.values[n] = round_stochastic(values[n], bits[n], T{});
      store_pack(table.weights(row) + at, pack);
      return;
    }
    if constexpr (kCanSplit) {
      if (is_split(table)) {
        Pack<T, N> high;
        Pack<int16_t, N> low;
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const SplitFloat split = split_halves(values[n]);
          high.values[n] = split.high;
          low.values[n] = split.low;
        }
        store_pack(table.weights(row) + at, high);
        store_pack(table.low_halves(row) + at, low);
        return;
      }
    }
    store_narrowed<T>(table.weights(row) + at, values);
  }

 private:
  static constexpr bool kCanSplit = std::is_same_v<T, BFloat16>;

  template <typename Table>
  __device__ static bool is_split(const Table& table) {
    return kCanSplit && table.is_split();
  }

  RandomBits random_;
  bool is_random_;
};

template <typename T>
using Weights = std::conditional_t<sizeof(T) == 2, RoundedWeights<T>, PlainWeights<T>>;

}  // namespace myemb::cuda
