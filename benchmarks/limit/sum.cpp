// Sums of rows: bags going forward, the lookups of a row going backward.
#include "updates.h"

namespace limit {
namespace {

template <typename E, bool Weighted, bool Padded>
class SumSegments {
  using Acc = typename E::Acc;
  using Scalar = typename E::Scalar;

 public:
  static constexpr int kWide = kBytes == 64 ? 2 * kBlock : kBlock;  // of 32 registers, or of 16

  SumSegments(const Reduction& args, Tuning tuning)
      : a_(args),
        row_bytes_(args.width * E::size),
        distance_(distance_for(tuning.ahead, row_bytes_)),
        total_(args.offsets[args.segments]),
        streamed_(tuning.stream &&
                  can_be_streamed(args.out, row_bytes_, sizeof(typename E::Packed))) {}

  template <int NV>
  void run(int64_t s, int64_t first) const {
    const Columns<E, NV> columns{first, a_.width};
    Acc sum[NV] = {};
    if (first == 0) ask_for_updated(s + distance_);
    const int64_t begin = a_.offsets[s], end = a_.offsets[s + 1];
    const int64_t asking = first == 0 ? std::clamp(total_ - distance_, begin, end) : begin;
    int64_t counted = add<NV, true>(columns, begin, asking, sum);
    counted += add<NV, false>(columns, asking, end, sum);
    if (a_.mean && counted > 1) {
      for (int v = 0; v < NV; ++v) sum[v] /= static_cast<Scalar>(counted);
    }
    const int64_t out = out_row(a_, s);
    if constexpr (std::is_same_v<E, Float>) {
      if (is_update(a_.sink)) return update<NV>(a_, out, columns, sum);
    }
    for (int v = 0; v < NV; ++v) put(out, columns[v], sum[v]);
  }

 private:
  // Adds the rows of these lookups; returns how many count. Ahead: asks for those of later ones.
  template <int NV, bool Ahead>
  int64_t add(Columns<E, NV> columns, int64_t begin, int64_t end, Acc* sum) const {
    const int64_t row_bytes = row_bytes_, distance = distance_, padding = a_.padding;
    const int64_t rest = row_bytes - NV * static_cast<int64_t>(sizeof(typename E::Packed));
    const int64_t* const indices = a_.indices;
    const char* const table = a_.table;
    int64_t counted = end - begin;
    for (int64_t i = begin; i < end; ++i) {
      if (Ahead) {
        const char* later = table + indices[i + distance] * row_bytes;
        for (int v = 0; v < NV; ++v) __builtin_prefetch(later + columns[v] * E::size);
        prefetch(later + NV * sizeof(typename E::Packed), rest);  // other blocks' columns
      }
      if (Padded && indices[i] == padding) {
        --counted;
        continue;
      }
      const char* row = table + indices[i] * row_bytes;
      for (int v = 0; v < NV; ++v) {
        Acc value = E::widen(load<typename E::Packed>(row + columns[v] * E::size));
        if (Weighted) value *= static_cast<const Scalar*>(a_.factors)[i];
        sum[v] += value;
      }
    }
    return counted;
  }

  void ask_for_updated(int64_t segment) const {
    if constexpr (std::is_same_v<E, Float>) {
      if (is_update(a_.sink) && segment < a_.segments) prefetch_updated(a_, segment);
    }
  }

  void put(int64_t out, int64_t column, Acc sum) const {
    char* to = a_.out + out * row_bytes_ + column * E::size;
    streamed_ ? stream(to, E::narrow(sum)) : store(to, E::narrow(sum));
  }

  const Reduction& a_;
  int64_t row_bytes_, distance_, total_;
  bool streamed_;
};

}  // namespace

void reduce_sum(const Reduction& args, Tuning tuning) {
  with_type(args, [&]<typename E, int Last>() {
    if (args.factors != nullptr) {
      for_segments<E, Last>(args, tuning, SumSegments<E, true, false>(args, tuning));
    } else if (args.padding >= 0) {
      for_segments<E, Last>(args, tuning, SumSegments<E, false, true>(args, tuning));
    } else {
      for_segments<E, Last>(args, tuning, SumSegments<E, false, false>(args, tuning));
    }
  });
}

}  // namespace limit
