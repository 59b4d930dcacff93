// Copying rows and zeros: no arithmetic.
#include "parallel.h"

namespace limit {
namespace {

// Rows of a number of vectors that is known to the compiler, or of any number if Fixed is 0.
template <int Fixed, bool Stream>
void copy_rows(const char* table, const int64_t* indices, Range range, int64_t count,
               int64_t row_bytes, char* out, int64_t distance) {
  const int64_t vectors = Fixed ? Fixed : row_bytes / kBytes;
  const int64_t bytes = Fixed ? Fixed * kBytes : row_bytes;
  for (int64_t i = range.begin; i < range.end; ++i) {
    if (i + distance < count) prefetch(table + indices[i + distance] * bytes, bytes);
    const char* from = table + indices[i] * bytes;
    char* to = out + i * bytes;
    for (int64_t v = 0; v < vectors; ++v) {
      const Bytes row = load<Bytes>(from + v * kBytes);
      Stream ? stream(to + v * kBytes, row) : store(to + v * kBytes, row);
    }
    if constexpr (Fixed == 0) {
      if (const int64_t rest = bytes % kBytes) {
        std::memcpy(to + bytes - rest, from + bytes - rest, rest);
      }
    }
  }
  if (Stream) _mm_sfence();
}

template <bool Stream>
auto copy_rows_of(int64_t row_bytes) {
  switch (row_bytes % kBytes ? 0 : row_bytes / kBytes) {
    case 1:
      return &copy_rows<1, Stream>;
    case 2:
      return &copy_rows<2, Stream>;
    case 4:
      return &copy_rows<4, Stream>;
    case 8:
      return &copy_rows<8, Stream>;
    default:
      return &copy_rows<0, Stream>;
  }
}

}  // namespace

void gather(const char* table, const int64_t* indices, int64_t count, int64_t row_bytes, char* out,
            Tuning tuning) {
  const bool can_stream = can_be_streamed(out, row_bytes);
  const auto copy =
      tuning.stream && can_stream ? copy_rows_of<true>(row_bytes) : copy_rows_of<false>(row_bytes);
  parallel(tuning.threads, [&](int thread, int threads) {
    copy(table, indices, share(count, thread, threads), count, row_bytes, out,
         distance_for(tuning.ahead, row_bytes));
  });
}

double spin(int64_t steps) {
  double value = 1.0;
  for (int64_t i = 0; i < steps; ++i) value = value * 1.0000001 + 1e-9;
  return value;
}

}  // namespace limit
