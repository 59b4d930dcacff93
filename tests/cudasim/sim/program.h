// A kernel in the form that runs: every name is a row, every instruction a function pointer.
//
// A register is a row of 32 words of 64 bits, one per lane; bits above the register's width are
// ignored by readers. Immediates and special registers are rows too (of other banks), so that an
// instruction never asks what its operand is. Predicates are bit masks over the lanes.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ptx.h"

namespace cudasim {

inline constexpr int kLanes = 32;
inline constexpr uint32_t kAllLanes = ~0u;

// Windows of the generic address space. No host pointer looks like these.
inline constexpr uint64_t kSharedWindow = uint64_t{1} << 56;
inline constexpr uint64_t kLocalWindow = uint64_t{2} << 56;
inline constexpr uint64_t kParamWindow = uint64_t{3} << 56;
inline constexpr uint64_t kWindowMask = uint64_t{0xff} << 56;

class Warp;
struct Instruction;
using Handler = void (*)(const Instruction&, Warp&, uint32_t active);

enum class Bank : uint8_t { kRegister, kConstant, kSpecial, kPredicate };

struct Operand {
  uint32_t row = 0;
  Bank bank = Bank::kRegister;
  bool negated = false;  // predicates: !%p
  uint8_t bits = 0;      // declared width of a register
};

// Rows and masks that exist in every program.
inline constexpr uint32_t kSinkRegister = 0;    // `_`
inline constexpr uint32_t kFalsePredicate = 0;  // never written
inline constexpr uint32_t kTruePredicate = 1;   // never written
inline constexpr uint32_t kSinkPredicate = 2;

enum class Special : uint32_t {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLaneId,
  kWarpId,
  kWarps,
  kLanemaskEq,
  kLanemaskLt,
  kLanemaskLe,
  kLanemaskGt,
  kLanemaskGe,
  kDynamicShared,
  kTotalShared,
  kClock,
  kZero,
  kCount
};

// How the interpreter goes on after an instruction.
enum class Flow : uint8_t {
  kNext,           // just execute it
  kBranch,         // to `target`
  kIndexedBranch,  // to targets[in[0]]
  kExit,           // the lanes are done
  kBarrier,        // the lanes wait for the block
  kCollective,     // the lanes wait for the lanes that in[mask_operand] names
};

// Instruction::variant of a collective whose copies in different branches are one (__syncwarp).
inline constexpr uint8_t kMeetsAnywhere = 1;

enum class Space : uint8_t { kGeneric, kGlobal, kConst, kShared, kLocal, kParam };

struct MemoryAccess {
  Space space = Space::kGeneric;
  bool write = false, atomic = false;
  bool synchronising = false;  // volatile, relaxed, acquire, release, atomic
  bool acquire = false, release = false;
  bool non_coherent = false;  // .nc
  uint8_t element_bytes = 4, elements = 1;
  Operand address;
  int64_t offset = 0;
  uint64_t used_bytes = ~uint64_t{0};  // a bit per byte; nobody looks at the others
  std::array<Operand, 8> values;

  unsigned bytes() const { return unsigned{element_bytes} * elements; }
};

struct Barrier {
  enum class Reduction : uint8_t { kNone, kAnd, kOr, kPopc };
  Reduction reduction = Reduction::kNone;
  bool arrive_only = false, has_count = false;
  Operand id, count, predicate;
};

struct Instruction {
  Handler execute = nullptr;
  Operand out, out2;
  std::array<Operand, 4> in;
  uint32_t guard = kTruePredicate;
  bool guard_negated = false;
  Flow flow = Flow::kNext;
  uint8_t inputs = 0;
  uint8_t variant = 0;  // whatever the handler makes of it
  int target = -1;
  uint32_t source = 0;  // index into Program::sources
  const MemoryAccess* memory = nullptr;
  const Barrier* barrier = nullptr;
  std::vector<int> targets;
  std::vector<Operand> parts;  // of a `{...}` operand
};

struct Source {
  std::string text;
  ptx::Location location;
};

struct Parameter {
  size_t offset = 0, bytes = 0;
};

// Bytes [begin, end) of static shared memory that belong to one array.
struct SharedArray {
  std::string name;
  size_t begin = 0, end = 0;
};

struct Program {
  std::string name;        // mangled
  std::string brief_name;  // for reports
  std::vector<Instruction> code;
  std::vector<Source> sources;
  std::vector<Parameter> parameters;
  size_t parameter_bytes = 0;
  uint32_t registers = 1, predicates = 3;
  std::vector<uint64_t> constants;  // rows of 32
  std::vector<SharedArray> shared_arrays;
  size_t static_shared = 0;  // what CUDA would count: without our red zones
  size_t dynamic_shared_begin = 0;
  bool uses_dynamic_shared = false;
  size_t local_bytes = 0;  // per lane
  unsigned max_threads = 1024;
  std::vector<std::unique_ptr<MemoryAccess>> accesses;
  std::vector<std::unique_ptr<Barrier>> barriers;
};

}  // namespace cudasim
