// The loops of the limit, on plain pointers. Nothing is checked, no width below a vector's is
// served, and whoever calls has sorted already.
#pragma once

#include <cstdint>

namespace limit {

enum class Type : int64_t { kFloat, kDouble, kBFloat16, kHalf };

// How a loop is run: the caller tries a few and keeps the fastest.
struct Tuning {
  int64_t ahead;  // bytes of rows that are asked for before they are needed
  bool stream;    // write past the caches
  int threads;
};

// out[i] = table[indices[i]]
void gather(const char* table, const int64_t* indices, int64_t count, int64_t row_bytes, char* out,
            Tuning tuning);

// What becomes of the sum of a segment.
enum class Sink : int64_t {
  kStore,  // out[row] = sum
  kDense,  // the same, and zeros in the rows between: a gradient as large as the table
  // Steps of optimizers, on float32 (updates.h):
  kSgd,
  kAdagrad,
  kRowWiseAdagrad,
  kAdam,
};

// Segment s is the lookups offsets[s] to offsets[s + 1], each a row of the table.
struct Reduction {
  Type type;
  const char* table;
  int64_t width;
  const int64_t* indices;
  const int64_t* offsets;
  int64_t segments;
  const void* factors;  // one for each lookup, in the accumulator's type; or null
  bool mean;            // divide by the number of lookups
  int64_t padding;      // this row does not count; -1: none
  char* out;
  const int64_t* out_rows;  // ascending; null: segment s is row s
  int64_t num_out_rows;     // for kDense
  Sink sink;
  float rate;        // of learning; with the bias corrections in Adam
  float* states[2];  // of the optimizer, as many as it has
};
void reduce_sum(const Reduction& args, Tuning tuning);

// The same with the maximum; positions (or null) gets the lookup that has it, for each column.
void reduce_max(const Reduction& args, int64_t* positions, Tuning tuning);

// The gradient of reduce_max: out[indices[positions[s][d]]][d] += gradient[s][d], of float32.
void scatter_max(const Reduction& args, const int64_t* positions, Tuning tuning);

// Scales these rows, each of which occurs once, down to max_norm in the 2-norm, of float32.
void renorm(float* table, const int64_t* rows, int64_t count, int64_t width, float max_norm,
            Tuning tuning);

// Where the lookups of each row are.
struct Groups {
  int64_t* rows;       // the distinct rows, ascending
  int64_t* starts;     // of their lookups in positions; one more than there are rows
  int64_t* positions;  // lookups in the order of rows
};
// Radix sort; scratch: 4 * count numbers of 32 bits. Returns the number of distinct rows.
int64_t group(const int64_t* indices, int64_t count, int64_t num_rows, const Groups& groups,
              uint32_t* scratch, int threads);

// Arithmetic in registers alone, which other work on the machine slows down: nothing else does.
double spin(int64_t steps);

}  // namespace limit
