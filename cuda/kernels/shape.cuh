#pragma once

// How launches cover their work.

#include <cuda/kernels/thread_group.cuh>

#include <algorithm>

namespace myemb::cuda {

// A group of threads for each item in x, and in y for each tile of as many columns as a group reads
// at once. Kernels have no loop over either: it would cost them registers that rows in flight need.
struct Shape {
  int group_size;
  int64_t first_item;
  int64_t items;
  int64_t first_column;
  int64_t dim;

  __device__ int64_t item(const ThreadGroup& group) const { return first_item + group.index(); }

  // The first of this thread's `width` columns.
  __device__ int64_t column(const ThreadGroup& group, int width) const {
    return first_column + (int64_t{blockIdx.y} * group.size() + group.lane()) * width;
  }
};

inline constexpr int64_t kMaxBlocksX = 0x7fffffff, kMaxBlocksY = 65535;  // of a grid

// A block for each kThreads / group_size items, up to what a grid can have; the loops of those
// kernels that have some do the rest.
inline dim3 grid_for(int64_t items, int group_size, int64_t tiles = 1) {
  const int64_t groups = kThreads / group_size;
  const int64_t blocks = (items + groups - 1) / groups;
  return dim3(static_cast<unsigned>(std::clamp<int64_t>(blocks, 1, kMaxBlocksX)),
              static_cast<unsigned>(std::clamp<int64_t>(tiles, 1, kMaxBlocksY)));
}

// Calls launch(grid, shape) for all items and columns: once, unless that is too much for a grid.
template <typename Launch>
int launch_shapes(int group_size, int64_t items, int64_t dim, int width, const Launch& launch) {
  const int64_t tile = int64_t{group_size} * width;
  const int64_t most_items = kMaxBlocksX * (kThreads / group_size);
  const int64_t most_columns = kMaxBlocksY * tile;
  for (int64_t item = 0; item < items; item += most_items) {
    for (int64_t column = 0; column < dim; column += most_columns) {
      const int64_t columns = std::min(dim - column, most_columns);
      launch(grid_for(items - item, group_size, (columns + tile - 1) / tile),
             Shape{group_size, item, items, column, dim});
      if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

}  // namespace myemb::cuda
