#pragma once

// torch::nn::Embedding and torch::nn::EmbeddingBag on the operators of myemb.
//
// The modules take torch's option types, have torch's members and work wherever a torch::nn module
// does: Sequential, clone, torch::save and torch::load, pretty printing (as myemb::nn::Embedding).
// Where torch's own modules go wrong, they do not:
//   - EmbeddingBag::from_pretrained keeps include_last_offset.
//   - The clone of a module with a given table has a table of its own, and stays frozen if it was.
//   - from_pretrained shares the memory of the given tensor and leaves its requires_grad alone.
//   (The
//     option _weight registers the given tensor itself, as in torch: so do modules share a table.)
//   - from_pretrained takes a table of integers, which stays frozen.
//
// V rows and D columns of the table, N lookups, B bags.

#include <myemb/export.h>
#include <myemb/functional.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/common.h>
#include <torch/nn/options/embedding.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <iosfwd>

namespace myemb::nn {

using torch::nn::EmbeddingBagFromPretrainedOptions;
using torch::nn::EmbeddingBagOptions;
using torch::nn::EmbeddingFromPretrainedOptions;
using torch::nn::EmbeddingOptions;

// A table of V rows of D columns that is looked up by index.
class MYEMB_API EmbeddingImpl : public torch::nn::Cloneable<EmbeddingImpl> {
 public:
  EmbeddingImpl(int64_t num_embeddings, int64_t embedding_dim);

  // Throws c10::ValueError if padding_idx is outside [-V, V), or if _weight is given and not (V,
  // D).
  explicit EmbeddingImpl(EmbeddingOptions options);

  // Registers `weight`. For the constructor and for clone().
  void reset() override;

  // Draws weight from N(0, 1) and zeroes its row padding_idx.
  void reset_parameters();

  void pretty_print(std::ostream& stream) const override;

  // myemb::functional::embedding with the options of this module: indices of shape S give S + (D,).
  torch::Tensor forward(const torch::Tensor& indices);

  // As given, with padding_idx counted from the start and without _weight, which `weight` takes
  // over.
  EmbeddingOptions options;

  // (V, D); a parameter.
  torch::Tensor weight;
};

// A shared reference to an EmbeddingImpl, as every torch::nn module has one.
class Embedding : public torch::nn::ModuleHolder<EmbeddingImpl> {
 public:
  using torch::nn::ModuleHolder<EmbeddingImpl>::ModuleHolder;

  // A module around embeddings (V, D), whose memory it shares. Frozen unless options say otherwise.
  // Throws c10::ValueError if embeddings are not 2-D.
  MYEMB_API static Embedding from_pretrained(const torch::Tensor& embeddings,
                                             const EmbeddingFromPretrainedOptions& options = {});
};

// A table of V rows of D columns of which bags of rows are summed, averaged or maximized.
class MYEMB_API EmbeddingBagImpl : public torch::nn::Cloneable<EmbeddingBagImpl> {
 public:
  EmbeddingBagImpl(int64_t num_embeddings, int64_t embedding_dim);

  // Throws c10::ValueError if padding_idx is outside [-V, V), or if _weight is given and not (V,
  // D).
  explicit EmbeddingBagImpl(EmbeddingBagOptions options);

  // Registers `weight`. For the constructor and for clone().
  void reset() override;

  // Draws weight from N(0, 1) and zeroes its row padding_idx.
  void reset_parameters();

  void pretty_print(std::ostream& stream) const override;

  // myemb::functional::embedding_bag with the options of this module; gives (B, D).
  // input is (N,) with offsets, or (B, L) without; per_sample_weights have the shape of input.
  torch::Tensor forward(const torch::Tensor& input, const torch::Tensor& offsets = {},
                        const torch::Tensor& per_sample_weights = {});

  // As given, with padding_idx counted from the start and without _weight, which `weight` takes
  // over.
  EmbeddingBagOptions options;

  // (V, D); a parameter.
  torch::Tensor weight;

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(torch::Tensor())},
                           {2, torch::nn::AnyValue(torch::Tensor())})
};

// A shared reference to an EmbeddingBagImpl, as every torch::nn module has one.
class EmbeddingBag : public torch::nn::ModuleHolder<EmbeddingBagImpl> {
 public:
  using torch::nn::ModuleHolder<EmbeddingBagImpl>::ModuleHolder;

  // A module around embeddings (V, D), whose memory it shares. Frozen unless options say otherwise.
  // Throws c10::ValueError if embeddings are not 2-D.
  MYEMB_API static EmbeddingBag from_pretrained(
      const torch::Tensor& embeddings, const EmbeddingBagFromPretrainedOptions& options = {});
};

}  // namespace myemb::nn
