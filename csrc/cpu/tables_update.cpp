#include <cpu/grouped_tables.h>
#include <cpu/parallel.h>
#include <cpu/tables.h>
#include <cpu/update.h>
#include <ops/tables_update.h>

#include <torch/library.h>

namespace myemb {
namespace {

void tables_update_cpu(const TablesUpdate& call) {
  check_tables_update(call);
  const TableBags bags(call.lookups, call.layout);
  TableGrads grads(call.grad_output, call.positions, call.layout);
  const GroupedTables grouped(call.layout, bags, grads, call.updated_tables, {});
  const std::vector<TableUpdate> updates = call.of_tables();
  std::vector<ContiguousUpdate> tables(updates.begin(), updates.end());
  std::vector<SegmentWork> works;
  works.reserve(tables.size());
  for (size_t i = 0; i < tables.size(); ++i) {
    SegmentUpdate work{grouped[i].sums, row_update_of(tables[i], call.options)};
    work.update.rows = grouped[i].groups.rows;
    works.push_back(work);
  }
  run_segments(works);
  for (const ContiguousUpdate& table : tables) table.copy_back();
}

}  // namespace

TORCH_LIBRARY_IMPL(myemb, CPU, m) {
  m.impl("embedding_bag_tables_update_", &embedding_bag_tables_update_kernel<tables_update_cpu>);
}

}  // namespace myemb
