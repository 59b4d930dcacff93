#include "access.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>

#include "access_errors.h"
#include "machine.h"
#include "race.h"
#include "scalar.h"

namespace cudasim {
namespace {

// ---- Initialisation.

void check_written(const Instruction& instruction, Warp& warp, Region& region, bool shared,
                   const Addresses& addresses, uint32_t active) {
  const unsigned bytes = instruction.memory->bytes();
  for_each_lane(active, [&](int lane) {
    const uint64_t address = addresses[static_cast<size_t>(lane)];
    if (region.written().all_set_of(region.flag(address), bytes, instruction.memory->used_bytes))
      return;
    std::string where = shared ? "shared memory" : "global memory";
    if (!shared) {
      where += ", at byte " + std::to_string(address - region.begin()) + " of a " +
               std::to_string(region.bytes()) + "-byte allocation";
    }
    warp.grid().report(Finding::kUninitialised, instruction, "read of uninitialised " + where, warp,
                       lane);
  });
}

void note_written(Region& region, const Addresses& addresses, uint32_t active, unsigned bytes) {
  ByteFlags& written = region.written();
  for_each_lane(active, [&](int lane) {
    const size_t flag = region.flag(addresses[static_cast<size_t>(lane)]);
    if (!written.all_set(flag, bytes)) written.set_aligned(flag, bytes);
  });
}

// The lanes all of whose bytes are in the region.
uint32_t lanes_in_region(const Region& region, const Addresses& addresses, uint32_t active,
                         unsigned bytes) {
  uint32_t inside = 0;
  for_each_lane(active, [&](int lane) {
    inside |= uint32_t{region.contains(addresses[static_cast<size_t>(lane)], bytes)} << lane;
  });
  return inside;
}

// What global and shared accesses have in common, once the region is known.
template <class Transfer>
void access_region(const Instruction& instruction, Warp& warp, Region& region, bool shared,
                   const Addresses& addresses, uint32_t active, Transfer& transfer) {
  const MemoryAccess& memory = *instruction.memory;
  if (settings().check) {
    if (!memory.write || memory.atomic)
      check_written(instruction, warp, region, shared, addresses, active);
    note_access(instruction, warp, region, shared, addresses, active);
  }
  if (memory.write) note_written(region, addresses, active, memory.bytes());
  std::array<unsigned char*, kLanes> bytes;
  for_each_lane(active, [&](int lane) {
    bytes[static_cast<size_t>(lane)] = region.data(addresses[static_cast<size_t>(lane)]);
  });
  transfer(bytes, active);
  if (settings().trace) {
    const auto index = static_cast<size_t>(&instruction - warp.grid().program().code.data());
    warp.grid().sites.count(instruction, index, addresses, active, shared, warp.block().caches);
  }
}

template <class Transfer>
void access_global(const Instruction& instruction, Warp& warp, const Addresses& addresses,
                   uint32_t active, Transfer& transfer) {
  while (active != 0) {
    const int first = std::countr_zero(active);
    const uint64_t address = addresses[static_cast<size_t>(first)];
    Region* region = global_memory().find(address);
    const uint32_t inside = region == nullptr ? 0
                                              : lanes_in_region(*region, addresses, active,
                                                                instruction.memory->bytes());
    if ((inside >> first & 1) == 0)
      return fail_out_of_bounds(instruction, warp, first, address, "global");
    if (instruction.memory->synchronising && !instruction.memory->write) ++warp.block().polls;
    access_region(instruction, warp, *region, false, addresses, inside, transfer);
    active &= ~inside;
  }
}

template <class Transfer>
void access_shared(const Instruction& instruction, Warp& warp, const Addresses& addresses,
                   uint32_t active, Transfer& transfer) {
  Region& region = warp.block().shared();
  const unsigned bytes = instruction.memory->bytes();
  const ByteFlags& addressable = warp.grid().shared_addressable();
  uint32_t inside = lanes_in_region(region, addresses, active, bytes);
  for_each_lane(inside, [&](int lane) {
    if (!addressable.all_set(addresses[static_cast<size_t>(lane)], bytes)) inside &= ~(1u << lane);
  });
  if (inside != active) {
    const int lane = std::countr_zero(active & ~inside);
    return fail_out_of_bounds(instruction, warp, lane, addresses[static_cast<size_t>(lane)],
                              "shared");
  }
  access_region(instruction, warp, region, true, addresses, active, transfer);
}

// Local memory and parameters: private, or never written; there is nothing to check but the bounds.
template <class Transfer, class Bytes>
void access_private(const Instruction& instruction, Warp& warp, const Addresses& addresses,
                    uint32_t active, size_t size, const char* space, Bytes bytes_of,
                    Transfer& transfer) {
  std::array<unsigned char*, kLanes> bytes{};
  bool inside = true;
  for_each_lane(active, [&](int lane) {
    const uint64_t address = addresses[static_cast<size_t>(lane)];
    if (!inside) return;
    if (address > size || address + instruction.memory->bytes() > size) {
      inside = false;
      fail_out_of_bounds(instruction, warp, lane, address, space);
      return;
    }
    bytes[static_cast<size_t>(lane)] = bytes_of(lane) + address;
  });
  if (inside) transfer(bytes, active);
}

template <class Transfer>
void access_space(const Instruction& instruction, Warp& warp, Space space,
                  const Addresses& addresses, uint32_t active, Transfer& transfer) {
  if (!aligned(instruction, warp, addresses, active)) return;
  switch (space) {
    case Space::kShared:
      return access_shared(instruction, warp, addresses, active, transfer);
    case Space::kLocal:
      return access_private(
          instruction, warp, addresses, active, warp.grid().program().local_bytes, "local",
          [&](int lane) { return warp.local(lane); }, transfer);
    case Space::kParam:
      return access_private(
          instruction, warp, addresses, active, warp.grid().parameters().size(), "parameter",
          [&](int) { return warp.grid().parameters().data(); }, transfer);
    default:
      return access_global(instruction, warp, addresses, active, transfer);
  }
}

Space space_of(uint64_t window) {
  switch (window) {
    case kSharedWindow:
      return Space::kShared;
    case kLocalWindow:
      return Space::kLocal;
    case kParamWindow:
      return Space::kParam;
    default:
      return Space::kGlobal;
  }
}

// Generic addresses: one pass per space that the lanes point to.
template <class Transfer>
void access_generic(const Instruction& instruction, Warp& warp, Addresses& addresses,
                    uint32_t active, Transfer& transfer) {
  while (active != 0 && !warp.grid().failed()) {
    const uint64_t window = addresses[static_cast<size_t>(std::countr_zero(active))] & kWindowMask;
    uint32_t same = 0;
    for_each_lane(active, [&](int lane) {
      same |= uint32_t{(addresses[static_cast<size_t>(lane)] & kWindowMask) == window} << lane;
    });
    const Space space = space_of(window);
    if (space != Space::kGlobal) {
      for_each_lane(same, [&](int lane) { addresses[static_cast<size_t>(lane)] &= ~kWindowMask; });
    }
    access_space(instruction, warp, space, addresses, same, transfer);
    active &= ~same;
  }
}

template <class Transfer>
void access_memory(const Instruction& instruction, Warp& warp, uint32_t active, Transfer transfer) {
  const MemoryAccess& memory = *instruction.memory;
  Addresses addresses{};
  const uint64_t* base = warp.row(memory.address);
  const uint64_t mask = memory.address.bits == 32 ? 0xffffffffu : ~uint64_t{0};
  const auto offset = static_cast<uint64_t>(memory.offset);
  for (size_t lane = 0; lane < kLanes; ++lane) addresses[lane] = (base[lane] + offset) & mask;
  if (memory.space == Space::kGeneric) {
    access_generic(instruction, warp, addresses, active, transfer);
  } else {
    access_space(instruction, warp, memory.space, addresses, active, transfer);
  }
}

// ---- Loads and stores of values of type T; a signed T extends its sign.

template <class T>
void load(const Instruction& instruction, Warp& warp, uint32_t active) {
  const MemoryAccess& memory = *instruction.memory;
  access_memory(instruction, warp, active, [&](const auto& bytes, uint32_t lanes) {
    for (unsigned element = 0; element < memory.elements; ++element) {
      uint64_t* out = warp.row(memory.values[element]);
      for_each_lane(lanes, [&](int lane) {
        T value;
        std::memcpy(&value, bytes[static_cast<size_t>(lane)] + element * sizeof(T), sizeof(T));
        out[lane] = static_cast<uint64_t>(value);
      });
    }
  });
}

template <class T>
void store(const Instruction& instruction, Warp& warp, uint32_t active) {
  const MemoryAccess& memory = *instruction.memory;
  access_memory(instruction, warp, active, [&](const auto& bytes, uint32_t lanes) {
    for (unsigned element = 0; element < memory.elements; ++element) {
      const uint64_t* in = warp.row(memory.values[element]);
      for_each_lane(lanes, [&](int lane) {
        const T value = static_cast<T>(in[lane]);
        std::memcpy(bytes[static_cast<size_t>(lane)] + element * sizeof(T), &value, sizeof(T));
      });
    }
  });
}

template <class T, class Op>
void atomic(const Instruction& instruction, Warp& warp, uint32_t active) {
  const MemoryAccess& memory = *instruction.memory;
  access_memory(instruction, warp, active, [&](const auto& bytes, uint32_t lanes) {
    for (unsigned element = 0; element < memory.elements; ++element) {
      const uint64_t* in = warp.row(memory.values[element]);
      const uint64_t* other = warp.row(instruction.in[0]);  // of cas: the new value
      uint64_t* out =
          warp.row(instruction.parts.empty() ? instruction.out : instruction.parts[element]);
      for_each_lane(lanes, [&](int lane) {
        T old, operand = from_word<T>(in[lane]);
        unsigned char* at = bytes[static_cast<size_t>(lane)] + element * sizeof(T);
        std::memcpy(&old, at, sizeof(T));
        const T next = Op()(old, operand, from_word<T>(other[lane]));
        std::memcpy(at, &next, sizeof(T));
        out[lane] = to_word(old);
      });
    }
  });
}

using HandlerTable = std::map<std::string, Handler>;

template <class T, class Op>
void add(HandlerTable& table, const std::string& name, Op) {
  table[name] = atomic<T, Op>;
}

template <class T>
void add_integer_atomics(HandlerTable& table, const std::string& type) {
  add<T>(table, "add." + type, [](T old, T x, T) {
    return static_cast<T>(static_cast<uint64_t>(old) + static_cast<uint64_t>(x));
  });
  add<T>(table, "min." + type, [](T old, T x, T) { return std::min(old, x); });
  add<T>(table, "max." + type, [](T old, T x, T) { return std::max(old, x); });
}

template <class T>
void add_bit_atomics(HandlerTable& table, const std::string& type) {
  add<T>(table, "and." + type, [](T old, T x, T) { return static_cast<T>(old & x); });
  add<T>(table, "or." + type, [](T old, T x, T) { return static_cast<T>(old | x); });
  add<T>(table, "xor." + type, [](T old, T x, T) { return static_cast<T>(old ^ x); });
  add<T>(table, "exch." + type, [](T, T x, T) { return x; });
  add<T>(table, "cas." + type,
         [](T old, T expected, T next) { return old == expected ? next : old; });
}

HandlerTable make_atomics() {
  HandlerTable table;
  add_integer_atomics<uint32_t>(table, "u32");
  add_integer_atomics<int32_t>(table, "s32");
  add_integer_atomics<uint64_t>(table, "u64");
  add_integer_atomics<int64_t>(table, "s64");
  add_bit_atomics<uint32_t>(table, "b32");
  add_bit_atomics<uint64_t>(table, "b64");
  add<uint16_t>(table, "cas.b16", [](uint16_t old, uint16_t expected, uint16_t next) {
    return old == expected ? next : old;
  });
  using U = uint32_t;
  add<U>(table, "inc.u32", [](U old, U x, U) { return old >= x ? 0 : old + 1; });
  add<U>(table, "dec.u32", [](U old, U x, U) { return old == 0 || old > x ? x : old - 1; });
  add<float>(table, "add.f32", [](float old, float x, float) { return canonical(old + x); });
  add<double>(table, "add.f64", [](double old, double x, double) { return old + x; });
  const auto add_short = [](auto old, auto x, auto) {
    return decltype(old)(static_cast<float>(old) + static_cast<float>(x));
  };
  const auto add_pair = [](auto old, auto x, auto) {
    using T = decltype(old.low);
    return decltype(old){T(static_cast<float>(old.low) + static_cast<float>(x.low)),
                         T(static_cast<float>(old.high) + static_cast<float>(x.high))};
  };
  add<F16>(table, "add.noftz.f16", add_short);
  add<BF16>(table, "add.noftz.bf16", add_short);
  add<Pair<F16>>(table, "add.noftz.f16x2", add_pair);
  add<Pair<BF16>>(table, "add.noftz.bf16x2", add_pair);
  return table;
}

Handler find(const HandlerTable& table, const std::string& name) {
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

}  // namespace

Handler load_handler(const std::string& type) {
  static const HandlerTable table = {
      {"b8", load<uint8_t>},   {"u8", load<uint8_t>},   {"s8", load<int8_t>},
      {"b16", load<uint16_t>}, {"u16", load<uint16_t>}, {"s16", load<int16_t>},
      {"b32", load<uint32_t>}, {"u32", load<uint32_t>}, {"s32", load<int32_t>},
      {"f32", load<uint32_t>}, {"b64", load<uint64_t>}, {"u64", load<uint64_t>},
      {"s64", load<uint64_t>}, {"f64", load<uint64_t>}};
  return find(table, type);
}

Handler store_handler(const std::string& type) {
  static const HandlerTable table = {
      {"b8", store<uint8_t>},   {"u8", store<uint8_t>},   {"s8", store<uint8_t>},
      {"b16", store<uint16_t>}, {"u16", store<uint16_t>}, {"s16", store<uint16_t>},
      {"b32", store<uint32_t>}, {"u32", store<uint32_t>}, {"s32", store<uint32_t>},
      {"f32", store<uint32_t>}, {"b64", store<uint64_t>}, {"u64", store<uint64_t>},
      {"s64", store<uint64_t>}, {"f64", store<uint64_t>}};
  return find(table, type);
}

Handler atomic_handler(const std::string& operation, const std::string& type) {
  static const HandlerTable table = make_atomics();
  return find(table, operation + "." + type);
}

}  // namespace cudasim
