// The states of parameters in archives: torch's entries, and others beside them that torch ignores.

#include <myemb/optim.h>

#include <ATen/core/ivalue.h>
#include <torch/serialize/archive.h>

#include <memory>

namespace myemb::optim {

template <typename TorchState>
void ParamState<TorchState>::serialize(torch::serialize::OutputArchive& archive) const {
  TorchState::serialize(archive);
  if (low_halves_.defined()) archive.write("low_halves", c10::IValue(low_halves_));
}

template <typename TorchState>
void ParamState<TorchState>::serialize(torch::serialize::InputArchive& archive) {
  TorchState::serialize(archive);
  c10::IValue saved;
  if (archive.try_read("low_halves", saved)) low_halves_ = saved.toTensor();
}

template <typename TorchState>
std::unique_ptr<torch::optim::OptimizerParamState> ParamState<TorchState>::clone() const {
  return std::make_unique<ParamState>(*this);
}

void SGDParamState::serialize(torch::serialize::OutputArchive& archive) const {
  ParamState::serialize(archive);
  archive.write("step", c10::IValue(step_));
}

void SGDParamState::serialize(torch::serialize::InputArchive& archive) {
  ParamState::serialize(archive);
  c10::IValue saved;
  if (archive.try_read("step", saved)) step_ = saved.toInt();
}

std::unique_ptr<torch::optim::OptimizerParamState> SGDParamState::clone() const {
  return std::make_unique<SGDParamState>(*this);
}

template class ParamState<torch::optim::SGDParamState>;
template class ParamState<torch::optim::AdagradParamState>;
template class ParamState<torch::optim::AdamParamState>;
template class ParamState<torch::optim::AdamWParamState>;

}  // namespace myemb::optim
