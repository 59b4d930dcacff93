#pragma once

// The CUDA implementations of the ops, one function a family, in the file of that name.

#include <torch/library.h>

namespace myemb::cuda {

void register_coalesce(torch::Library& m);
void register_embedding(torch::Library& m);
void register_embedding_bag(torch::Library& m);
void register_embedding_bag_backward(torch::Library& m);
void register_renorm(torch::Library& m);
void register_tables(torch::Library& m);
void register_tables_backward(torch::Library& m);
void register_tables_update(torch::Library& m);
void register_update(torch::Library& m);

inline void register_ops(torch::Library& m) {
  register_embedding(m);
  register_embedding_bag(m);
  register_embedding_bag_backward(m);
  register_renorm(m);
  register_tables(m);
  register_tables_backward(m);
  register_tables_update(m);
  register_update(m);
}

// The ops that take sparse tensors, for their dispatch key.
inline void register_sparse_ops(torch::Library& m) {
  register_coalesce(m);
  register_update(m);
}

}  // namespace myemb::cuda
