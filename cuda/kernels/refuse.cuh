#pragma once

// Stops the kernel because of an index out of range, in the name of the op.

#include <cuda/launch.h>

#undef NDEBUG  // in release builds, too
#include <cassert>

namespace myemb::cuda {

__device__ __forceinline__ void refuse_index(Op op) {
  switch (op) {
    case Op::EmbeddingDenseBackward:
      assert(false && "myemb::embedding_dense_backward: index out of range");
      break;
    case Op::EmbeddingRenorm:
      assert(false && "myemb::embedding_renorm_: index out of range");
      break;
    case Op::EmbeddingBagDenseBackward:
      assert(false && "myemb::embedding_bag_dense_backward: index out of range");
      break;
    case Op::EmbeddingBagSparseBackward:
      assert(false && "myemb::embedding_bag_sparse_backward: index out of range");
      break;
    case Op::EmbeddingBagPerSampleWeightsBackward:
      assert(false && "myemb::embedding_bag_per_sample_weights_backward: index out of range");
      break;
    case Op::EmbeddingUpdate:
      assert(false && "myemb::embedding_update_: index out of range");
      break;
    case Op::EmbeddingBagTablesBackward:
      assert(false && "myemb::embedding_bag_tables_backward: index out of range");
      break;
    case Op::EmbeddingBagTablesPerSampleWeightsBackward:
      assert(false &&
             "myemb::embedding_bag_tables_per_sample_weights_backward: index out of range");
      break;
    case Op::EmbeddingBagTablesUpdate:
      assert(false && "myemb::embedding_bag_tables_update_: index out of range");
      break;
    case Op::Coalesce:
      assert(false && "myemb::coalesce: index out of range");
      break;
    default:
      assert(false && "myemb: index out of range");
  }
}

}  // namespace myemb::cuda
