#include "builtins.h"

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <unordered_map>

#include "machine.h"

namespace cudasim {
namespace {

constexpr int kErrorAssert = 710, kErrorLaunchFailure = 719;

uint64_t argument(const Instruction& instruction, Warp& warp, int lane, size_t which,
                  unsigned bytes) {
  const uint64_t offset = warp.row(instruction.parts.at(which))[0];
  uint64_t value = 0;
  std::memcpy(&value, warp.local(lane) + offset, bytes);
  return value;
}

// The host bytes behind a generic pointer; null if there are none.
const char* host_pointer(Warp& warp, int lane, uint64_t address) {
  if ((address & kWindowMask) == kLocalWindow) {
    const uint64_t offset = address & ~kWindowMask;
    return offset < warp.grid().program().local_bytes
               ? reinterpret_cast<const char*>(warp.local(lane)) + offset
               : nullptr;
  }
  return global_memory().find(address) == nullptr ? nullptr
                                                  : reinterpret_cast<const char*>(address);
}

std::string text_at(Warp& warp, int lane, uint64_t address) {
  const char* text = host_pointer(warp, lane, address);
  return text == nullptr ? "?" : text;
}

// __assertfail(message, file, line, function, char size)
void assert_fail(const Instruction& instruction, Warp& warp, uint32_t active) {
  if (active == 0) return;
  const int lane = std::countr_zero(active);
  const auto text = [&](size_t which) {
    return text_at(warp, lane, argument(instruction, warp, lane, which, 8));
  };
  warp.grid().report(Finding::kFatal, instruction,
                     "device assertion `" + text(0) + "` failed in " + text(3) + " (" + text(1) +
                         ":" + std::to_string(argument(instruction, warp, lane, 2, 4)) + ")",
                     warp, lane);
  warp.grid().fail(kErrorAssert);
}

// The promoted arguments follow one another, each aligned to its size: int, or 8 bytes.
class PrintArguments {
 public:
  explicit PrintArguments(const char* bytes) : bytes_(bytes) {}
  template <class T>
  T next() {
    at_ = (at_ + sizeof(T) - 1) / sizeof(T) * sizeof(T);
    T value{};
    if (bytes_ != nullptr) std::memcpy(&value, bytes_ + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

 private:
  const char* bytes_;
  size_t at_ = 0;
};

void print_conversion(Warp& warp, int lane, std::string conversion, PrintArguments& arguments) {
  const char kind = conversion.back();
  const bool wide = conversion.find('l') != std::string::npos ||
                    conversion.find('z') != std::string::npos ||
                    conversion.find('j') != std::string::npos;
  std::erase_if(conversion, [](char c) { return std::strchr("lhzjt", c) != nullptr; });
  if (std::strchr("eEfFgGaA", kind) != nullptr) {
    std::fprintf(stderr, conversion.c_str(), arguments.next<double>());
  } else if (kind == 's') {
    std::fprintf(stderr, conversion.c_str(),
                 text_at(warp, lane, arguments.next<uint64_t>()).c_str());
  } else if (kind == 'p') {
    std::fprintf(stderr, "0x%" PRIx64, arguments.next<uint64_t>());
  } else if (wide) {
    conversion.insert(conversion.size() - 1, "ll");
    std::fprintf(stderr, conversion.c_str(), arguments.next<long long>());
  } else {
    std::fprintf(stderr, conversion.c_str(), arguments.next<int>());
  }
}

// vprintf(format, arguments)
void print(const Instruction& instruction, Warp& warp, uint32_t active) {
  for_each_lane(active, [&](int lane) {
    const std::string format = text_at(warp, lane, argument(instruction, warp, lane, 0, 8));
    PrintArguments arguments(host_pointer(warp, lane, argument(instruction, warp, lane, 1, 8)));
    for (size_t at = 0; at < format.size(); ++at) {
      if (format[at] != '%') {
        std::fputc(format[at], stderr);
      } else if (at + 1 < format.size() && format[at + 1] == '%') {
        std::fputc('%', stderr);
        ++at;
      } else {
        const size_t end = format.find_first_of("diouxXeEfFgGaAcsp", at);
        if (end == std::string::npos) break;
        print_conversion(warp, lane, format.substr(at, end - at + 1), arguments);
        at = end;
      }
    }
  });
}

void trap(const Instruction& instruction, Warp& warp, uint32_t active) {
  if (active == 0) return;
  warp.grid().report(Finding::kFatal, instruction, "trap", warp, std::countr_zero(active));
  warp.grid().fail(kErrorLaunchFailure);
}

void fence(const Instruction&, Warp& warp, uint32_t) { warp.block().fence(); }

// Somebody waits for another block: let it run.
void sleep(const Instruction&, Warp& warp, uint32_t) { warp.block().polls += 16; }

}  // namespace

Handler find_builtin(const std::string& name) {
  static const std::unordered_map<std::string, Handler> table = {{"__assertfail", assert_fail},
                                                                 {"vprintf", print},
                                                                 {"trap", trap},
                                                                 {"nanosleep", sleep},
                                                                 {"fence", fence}};
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

}  // namespace cudasim
