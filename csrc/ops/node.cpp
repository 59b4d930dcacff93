#include <ops/node.h>

namespace myemb {

// As torch::autograd::Function does it. The call is not traced, it runs as it is when the graph
// does: a sparse gradient has no form in a graph.
torch::autograd::variable_list record_gradients(const torch::autograd::Node& node,
                                                BoxedGradients* gradients,
                                                const torch::autograd::variable_list& grads,
                                                const torch::dynamo::autograd::PackedArgs& kept,
                                                torch::autograd::SwapSavedVariables& swapped) {
  namespace compiled = torch::dynamo::autograd;
  std::vector<at::TypePtr> schema;
  schema.reserve(kept.vec().size());
  for (const c10::IValue& value : kept.vec()) schema.push_back(value.type());
  const auto& compiler = compiled::getPyCompilerInterface();
  const std::string name =
      compiler->bind_function(swapped.get_py_compiler(), node.name(), gradients, std::move(schema),
                              /*is_custom_function=*/true, /*is_traceable=*/false);
  const auto metadata =
      compiled::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
          compiled::get_input_metadata(node.next_edges()));
  return compiler->call_function(swapped.get_py_compiler(), "apply_functional", name, grads,
                                 kept.vec(), metadata);
}

}  // namespace myemb
