// The arithmetic of PTX: one handler per opcode, found by the opcode as it is written,
// "add.rn.ftz.f32". What is not in the table is not known, down to the last modifier.
#pragma once

#include <string>
#include <unordered_map>
#include <utility>

#include "machine.h"
#include "scalar.h"

namespace cudasim {

struct Operation {
  Handler handler = nullptr;
  uint8_t inputs = 0;
  uint8_t variant = 0;
};

class OperationTable {
 public:
  void add(const std::string& opcode, Operation operation) { table_[opcode] = operation; }

  // The same operation on one, two or three values of type T; Op is a stateless lambda.
  template <class T, class Op>
  void unary(const std::string& opcode, Op);
  template <class T, class Op>
  void binary(const std::string& opcode, Op);
  template <class T, class Op>
  void ternary(const std::string& opcode, Op);

  const Operation* find(const std::string& opcode) const {
    const auto found = table_.find(opcode);
    return found == table_.end() ? nullptr : &found->second;
  }

 private:
  std::unordered_map<std::string, Operation> table_;
};

const OperationTable& operations();

// What operations() is made of.
void add_integer_operations(OperationTable& table);
void add_bit_operations(OperationTable& table);
void add_float_operations(OperationTable& table);
void add_comparisons(OperationTable& table);
void add_conversions(OperationTable& table);
void add_warp_operations(OperationTable& table);

// out[lane] = value(lane) for the active lanes. A full warp is a plain loop, for the compiler to
// vectorise: rows are the same row or do not overlap.
template <class F>
void write_lanes(uint64_t* out, uint32_t active, F value) {
  if (active == kAllLanes) {
#pragma GCC ivdep
    for (int lane = 0; lane < kLanes; ++lane) out[lane] = value(lane);
  } else {
    for_each_lane(active, [&](int lane) { out[lane] = value(lane); });
  }
}

template <class T, class Op>
void OperationTable::unary(const std::string& opcode, Op) {
  const Handler handler = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint64_t* a = warp.row(instruction.in[0]);
    write_lanes(warp.row(instruction.out), active,
                [=](int lane) { return to_word(Op()(from_word<T>(a[lane]))); });
  };
  add(opcode, {handler, 1});
}

template <class T, class Op>
void OperationTable::binary(const std::string& opcode, Op) {
  const Handler handler = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint64_t* a = warp.row(instruction.in[0]);
    const uint64_t* b = warp.row(instruction.in[1]);
    write_lanes(warp.row(instruction.out), active, [=](int lane) {
      return to_word(Op()(from_word<T>(a[lane]), from_word<T>(b[lane])));
    });
  };
  add(opcode, {handler, 2});
}

template <class T, class Op>
void OperationTable::ternary(const std::string& opcode, Op) {
  const Handler handler = [](const Instruction& instruction, Warp& warp, uint32_t active) {
    const uint64_t* a = warp.row(instruction.in[0]);
    const uint64_t* b = warp.row(instruction.in[1]);
    const uint64_t* c = warp.row(instruction.in[2]);
    write_lanes(warp.row(instruction.out), active, [=](int lane) {
      return to_word(Op()(from_word<T>(a[lane]), from_word<T>(b[lane]), from_word<T>(c[lane])));
    });
  };
  add(opcode, {handler, 3});
}

}  // namespace cudasim
