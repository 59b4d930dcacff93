#pragma once

// How launches cover their work.

#include <cuda/kernels/thread_group.cuh>

#include <algorithm>

namespace myemb::cuda {

// A group of threads for each item and tile of columns, a tile being what a group reads at once.
// Kernels have no loop over either: it would cost them registers that rows in flight need. The
// tiles of an item are neighbours in a block: its indices are then read once, and so is a sector in
// which one tile ends and the next begins.
struct Shape {
  int group_size;
  int tiles;       // of an item in a block; several only if a group is a warp
  int reciprocal;  // of tiles, times 256, rounded up: exact for the groups of a block
  int items_per_block;
  int64_t first_item;
  int64_t items;
  int64_t first_column;
  int64_t dim;

  // The items of a block are numbered from 0 on.
  __device__ int item_in_block(const ThreadGroup& group) const {
    return (group.in_block() * reciprocal) >> 8;
  }

  __device__ int64_t item_of_block(int item) const {
    return first_item + int64_t{blockIdx.x} * items_per_block + item;
  }

  __device__ int64_t item(const ThreadGroup& group) const {
    return item_of_block(item_in_block(group));
  }

  // The first of this thread's `width` columns.
  __device__ int64_t column(const ThreadGroup& group, int width) const {
    const int tile = group.in_block() - item_in_block(group) * tiles;
    const int64_t tiles_before = int64_t{blockIdx.y} * tiles + tile;
    return first_column + (tiles_before * group.size() + group.lane()) * width;
  }
};

inline constexpr int64_t kMaxBlocksX = 0x7fffffff, kMaxBlocksY = 65535;  // of a grid

// A block for each kThreads / group_size items, up to what a grid can have; the loops of those
// kernels that have some do the rest.
inline dim3 grid_for(int64_t items, int group_size, int64_t rows = 1) {
  const int64_t groups = kThreads / group_size;
  const int64_t blocks = (items + groups - 1) / groups;
  return dim3(static_cast<unsigned>(std::clamp<int64_t>(blocks, 1, kMaxBlocksX)),
              static_cast<unsigned>(std::clamp<int64_t>(rows, 1, kMaxBlocksY)));
}

// Calls launch(grid, threads of a block, shape) for all items and columns: once, unless that is too
// much for a grid.
template <typename Launch>
int launch_shapes(int group_size, int64_t items, int64_t dim, int width, const Launch& launch) {
  const auto parts = [](int64_t of, int64_t size) { return (of + size - 1) / size; };
  const int64_t tile = int64_t{group_size} * width;
  const int groups = kThreads / group_size;
  const auto tiles = static_cast<int>(std::clamp<int64_t>(parts(dim, tile), 1, groups));
  const int items_per_block = groups / tiles;
  const int64_t most_items = kMaxBlocksX * items_per_block;
  const int64_t most_columns = kMaxBlocksY * tiles * tile;
  for (int64_t item = 0; item < items; item += most_items) {
    for (int64_t column = 0; column < dim; column += most_columns) {
      const dim3 grid(
          static_cast<unsigned>(parts(std::min(items - item, most_items), items_per_block)),
          static_cast<unsigned>(parts(std::min(dim - column, most_columns), tiles * tile)));
      launch(grid, static_cast<unsigned>(items_per_block * tiles * group_size),
             Shape{group_size, tiles, 256 / tiles + 1, items_per_block, item, items, column, dim});
      if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

}  // namespace myemb::cuda
