#include "operations.h"

namespace cudasim {

const OperationTable& operations() {
  static const OperationTable table = [] {
    OperationTable all;
    add_integer_operations(all);
    add_bit_operations(all);
    add_float_operations(all);
    add_comparisons(all);
    add_conversions(all);
    add_warp_operations(all);
    return all;
  }();
  return table;
}

}  // namespace cudasim
