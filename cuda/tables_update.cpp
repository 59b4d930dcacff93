#include <cuda/grouped_tables.h>
#include <cuda/ops.h>
#include <cuda/update.h>
#include <ops/tables_update.h>

namespace myemb::cuda {
namespace {

void tables_update_cuda(const TablesUpdate& update) {
  check_tables_update(update);
  const DeviceCall call(update.grad_output, "embedding_bag_tables_update_");
  const CudaTableBags bags(call, update.lookups, update.layout);
  TableGrads grads(update.grad_output, update.positions, update.layout);
  GroupedTables grouped(call, update.layout, bags, grads, update.updated_tables,
                        Op::EmbeddingBagTablesUpdate);
  const std::vector<TableUpdate> updates = update.of_tables();
  const std::vector<ContiguousUpdate> tables(updates.begin(), updates.end());
  for (GroupedTables::Group& group : grouped.groups) {
    std::vector<TableState> states;
    states.reserve(group.places.size());
    for (const size_t place : group.places) {
      states.push_back(table_state(tables[place], update.options));
    }
    const at::Tensor partials = grouped.partials(group);
    group.sum.partials = partials.mutable_data_ptr();
    call.check(launch_tables_update({group.sums(), states, update.options}, call.stream()));
  }
  for (const ContiguousUpdate& table : tables) table.copy_back();
}

}  // namespace

void register_tables_update(torch::Library& m) {
  m.impl("embedding_bag_tables_update_", &embedding_bag_tables_update_kernel<tables_update_cuda>);
}

}  // namespace myemb::cuda
