#include <myemb/nn.h>
#include <nn/padding_idx.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include <array>
#include <ostream>
#include <utility>
#include <variant>

namespace myemb::nn {
namespace {

// The parameter of a module under construction: the table it was given, or a new one.
template <typename Module>
void register_table(Module& module) {
  auto& options = module.options;
  if (module.weight.defined()) {
    // clone() copies the members, calls reset() and then puts copied data into the parameter: it
    // has to be another tensor than the original's, or the original would get the data and be
    // unfrozen.
    module.weight =
        module.register_parameter("weight", module.weight.detach(), module.weight.requires_grad());
    return;
  }
  const std::array<int64_t, 2> shape{options.num_embeddings(), options.embedding_dim()};
  const at::Tensor given = std::exchange(options._weight(), at::Tensor());
  if (!given.defined()) {
    module.weight = module.register_parameter("weight", at::empty(shape));
    module.reset_parameters();
    return;
  }
  TORCH_CHECK_VALUE(given.sizes() == at::IntArrayRef(shape),
                    "Shape of weight does not match num_embeddings and embedding_dim: ",
                    given.sizes(), " is not ", at::IntArrayRef(shape));
  const auto dtype = given.scalar_type();
  module.weight = module.register_parameter(
      "weight", given, c10::isFloatingType(dtype) || c10::isComplexType(dtype));
}

template <typename Module>
void fill_table(Module& module) {
  const at::NoGradGuard no_grad;
  module.weight.normal_();
  if (const auto padding_idx = module.options.padding_idx()) {
    module.weight.select(0, *padding_idx).zero_();
  }
}

template <typename Options, typename PretrainedOptions>
Options options_for(const at::Tensor& embeddings, const PretrainedOptions& options) {
  TORCH_CHECK_VALUE(embeddings.dim() == 2,
                    "Embeddings parameter is expected to be 2-dimensional, but has ",
                    embeddings.dim(), " dimensions");
  return Options(embeddings.size(0), embeddings.size(1))
      ._weight(embeddings.detach())
      .padding_idx(options.padding_idx())
      .max_norm(options.max_norm())
      .norm_type(options.norm_type())
      .scale_grad_by_freq(options.scale_grad_by_freq())
      .sparse(options.sparse());
}

template <typename Options>
void print_size(std::ostream& stream, const Options& options) {
  stream << "(num_embeddings=" << options.num_embeddings()
         << ", embedding_dim=" << options.embedding_dim();
}

template <typename Options>
void print_padding(std::ostream& stream, const Options& options) {
  if (options.padding_idx()) stream << ", padding_idx=" << *options.padding_idx();
}

template <typename Options>
void print_norm_and_gradient(std::ostream& stream, const Options& options) {
  if (options.max_norm()) stream << ", max_norm=" << *options.max_norm();
  if (options.norm_type() != 2) stream << ", norm_type=" << options.norm_type();
  if (options.scale_grad_by_freq()) stream << ", scale_grad_by_freq=true";
  if (options.sparse()) stream << ", sparse=true";
}

}  // namespace

EmbeddingImpl::EmbeddingImpl(int64_t num_embeddings, int64_t embedding_dim)
    : EmbeddingImpl(EmbeddingOptions(num_embeddings, embedding_dim)) {}

EmbeddingImpl::EmbeddingImpl(EmbeddingOptions options) : options(std::move(options)) {
  EmbeddingImpl::reset();
}

void EmbeddingImpl::reset() {
  options.padding_idx(wrap_padding_idx(options.padding_idx(), options.num_embeddings()));
  register_table(*this);
}

void EmbeddingImpl::reset_parameters() { fill_table(*this); }

void EmbeddingImpl::pretty_print(std::ostream& stream) const {
  stream << "myemb::nn::Embedding";
  print_size(stream, options);
  print_padding(stream, options);
  print_norm_and_gradient(stream, options);
  stream << ")";
}

torch::Tensor EmbeddingImpl::forward(const torch::Tensor& indices) {
  return functional::embedding(indices, weight,
                               functional::EmbeddingFuncOptions()
                                   .padding_idx(options.padding_idx())
                                   .max_norm(options.max_norm())
                                   .norm_type(options.norm_type())
                                   .scale_grad_by_freq(options.scale_grad_by_freq())
                                   .sparse(options.sparse()));
}

Embedding Embedding::from_pretrained(const torch::Tensor& embeddings,
                                     const EmbeddingFromPretrainedOptions& options) {
  Embedding module(options_for<EmbeddingOptions>(embeddings, options));
  module->weight.set_requires_grad(!options.freeze());
  return module;
}

EmbeddingBagImpl::EmbeddingBagImpl(int64_t num_embeddings, int64_t embedding_dim)
    : EmbeddingBagImpl(EmbeddingBagOptions(num_embeddings, embedding_dim)) {}

EmbeddingBagImpl::EmbeddingBagImpl(EmbeddingBagOptions options) : options(std::move(options)) {
  EmbeddingBagImpl::reset();
}

void EmbeddingBagImpl::reset() {
  options.padding_idx(wrap_padding_idx(options.padding_idx(), options.num_embeddings()));
  register_table(*this);
}

void EmbeddingBagImpl::reset_parameters() { fill_table(*this); }

void EmbeddingBagImpl::pretty_print(std::ostream& stream) const {
  stream << "myemb::nn::EmbeddingBag";
  print_size(stream, options);
  print_norm_and_gradient(stream, options);
  if (!std::holds_alternative<torch::enumtype::kMean>(options.mode())) {
    stream << ", mode=" << torch::enumtype::get_enum_name(options.mode());
  }
  if (options.include_last_offset()) stream << ", include_last_offset=true";
  print_padding(stream, options);
  stream << ")";
}

torch::Tensor EmbeddingBagImpl::forward(const torch::Tensor& input, const torch::Tensor& offsets,
                                        const torch::Tensor& per_sample_weights) {
  return functional::embedding_bag(input, weight,
                                   functional::EmbeddingBagFuncOptions()
                                       .offsets(offsets)
                                       .max_norm(options.max_norm())
                                       .norm_type(options.norm_type())
                                       .scale_grad_by_freq(options.scale_grad_by_freq())
                                       .mode(options.mode())
                                       .sparse(options.sparse())
                                       .per_sample_weights(per_sample_weights)
                                       .include_last_offset(options.include_last_offset())
                                       .padding_idx(options.padding_idx()));
}

EmbeddingBag EmbeddingBag::from_pretrained(const torch::Tensor& embeddings,
                                           const EmbeddingBagFromPretrainedOptions& options) {
  EmbeddingBag module(options_for<EmbeddingBagOptions>(embeddings, options)
                          .mode(options.mode())
                          .include_last_offset(options.include_last_offset()));
  module->weight.set_requires_grad(!options.freeze());
  return module;
}

}  // namespace myemb::nn
