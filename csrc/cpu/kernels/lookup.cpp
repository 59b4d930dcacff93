// The lookup itself: rows are copied as bytes, whatever their dtype.

#include <cpu/kernels/kernels.h>
#include <cpu/kernels/row_access.h>
#include <cpu/kernels/simd.h>

namespace myemb::MYEMB_ISA {
namespace {

// A copy needs no register for long: a tile of it may be wider than one of sums.
inline constexpr int kCopyVectors = 16;

// The last cache has to hold as much of the table as of the result, and gives up earlier.
inline constexpr int64_t kStreamCopyBytes = int64_t{24} << 20;

// Copies rows of bytes whose columns are next to each other.
template <typename Index>
class RowCopies {
 public:
  explicit RowCopies(const Lookup& args)
      : args_(args),
        bytes_(args.dim * args.element_size),
        stride_(args.row_stride * args.element_size),
        ahead_(kPrefetchBytes / bytes_ + 1) {}

  void copy(int64_t begin, int64_t end) const {
    if (is_streamed(args_.out, args_.indices.count, bytes_, kStreamCopyBytes))
      return stream_rows(begin, end);
    for_tiles<uint8_t, kCopyVectors>(
        bytes_, begin, end,
        [&](auto columns, int64_t first, int64_t last) { copy_tile(columns, first, last); });
  }

 private:
  template <int L, int V>
  [[gnu::noinline]] void copy_tile(Columns<L, V> columns, int64_t begin, int64_t end) const {
    const Lookups<Index> lookups(args_.indices, ahead_);
    const Tile<const uint8_t, L, V> table(static_cast<const uint8_t*>(args_.table), columns);
    const Tile<uint8_t, L, V> out(static_cast<uint8_t*>(args_.out), columns);
    const TilePrefetch<uint8_t, L, V> prefetch(static_cast<const uint8_t*>(args_.table), columns,
                                               stride_);
    const int64_t num_rows = args_.num_rows, bytes = bytes_, stride = stride_;
    BadIndex* const bad = args_.bad;
    lookups.each(begin, end, [&](int64_t i, int64_t index, int64_t later) {
      prefetch.ask(later);
      if (!is_row(index, num_rows)) [[unlikely]] {
        return bad->note(i);
      }
      const auto from = table.at(index * stride);
      const auto to = out.at(i * bytes);
      for (int v = 0; v < V; ++v) {
        const auto block = load_raw<Vector<uint8_t, L>>(from[v]);
        std::memcpy(to[v], &block, L);
      }
    });
  }

  void stream_rows(int64_t begin, int64_t end) const {
    const Lookups<Index> lookups(args_.indices, ahead_);
    const int64_t bytes = bytes_;
    lookups.each(begin, end, [&](int64_t i, int64_t index, int64_t later) {
      prefetch_row(args_.table, later, stride_, bytes);
      if (!is_row(index, args_.num_rows)) [[unlikely]] {
        return args_.bad->note(i);
      }
      const char* const from = static_cast<const char*>(args_.table) + index * stride_;
      char* const to = static_cast<char*>(args_.out) + i * bytes;
      for (int64_t at = 0; at < bytes; at += kVectorBytes) {
        stream_bytes(to + at, load_raw<Vector<char, kVectorBytes>>(from + at));
      }
    });
    finish_streaming();
  }

  const Lookup& args_;
  const int64_t bytes_;
  const int64_t stride_;
  const int64_t ahead_;  // of a whole row, whose tiles are copied one after another
};

// A table whose columns are not next to each other, or that has none: element by element.
template <typename Index>
void copy_strided_rows(const Lookup& args, const Index* indices, int64_t begin, int64_t end) {
  const int64_t size = args.element_size;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t index = indices[i];
    if (!is_row(index, args.num_rows)) {
      args.bad->note(i);
      continue;
    }
    const char* from = static_cast<const char*>(args.table) + index * args.row_stride * size;
    char* to = static_cast<char*>(args.out) + i * args.dim * size;
    for (int64_t d = 0; d < args.dim; ++d) {
      std::memcpy(to + d * size, from + d * args.column_stride * size, size);
    }
  }
}

}  // namespace

void lookup(const Lookup& args, int64_t begin, int64_t end) {
  const auto copy = [&]<typename Index>(const Index* indices) {
    if (args.column_stride == 1 && args.dim > 0) {
      RowCopies<Index>(args).copy(begin, end);
    } else {
      copy_strided_rows(args, indices, begin, end);
    }
  };
  if (args.indices.is_int64) {
    copy(static_cast<const int64_t*>(args.indices.data));
  } else {
    copy(static_cast<const int32_t*>(args.indices.data));
  }
}

}  // namespace myemb::MYEMB_ISA
