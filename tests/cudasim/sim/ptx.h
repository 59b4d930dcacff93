// The text of a PTX module, taken apart: variables, functions, and the statements of a function.
// Names stay names; decode.h resolves them.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cudasim::ptx {

// The text is not PTX, or is PTX that the simulator does not know.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// .shared, .local, .global, .const and .param declarations.
struct Variable {
  std::string name, space;
  size_t alignment = 1, bytes = 0;
  bool external = false;  // `extern .shared`: its size comes with the launch
  std::vector<uint8_t> initial;
  std::vector<std::pair<size_t, std::string>>
      addresses;  // `{ ..., symbol + 8 }`: byte offset, symbol expression
};

struct Location {
  std::string file;
  int line = 0;
};

struct Statement {
  std::string guard;                  // "", "%p1" or "!%p1"
  std::string opcode;                 // "ld.global.nc.v4.u32"
  std::vector<std::string> operands;  // "%r1", "{%r1, %r2}", "[%rd1+16]", "%r1|%p2", ...
  std::string text;                   // as written, on one line
  uint64_t used_bytes =
      ~uint64_t{0};  // of a vector load: the compiler says that it ignores the others
  Location location;
  int scope = 0;
};

// A pair of braces: registers, labels and variables are visible inside.
struct Scope {
  int parent = -1;
  std::unordered_map<std::string, int> registers;  // bits; a predicate has 1
  std::unordered_map<std::string, size_t> labels;  // index of the statement that follows
  std::unordered_map<std::string, std::vector<std::string>> branch_targets;
  std::vector<Variable> variables;
};

struct Function {
  std::string name;
  std::vector<Variable> results, parameters;
  unsigned max_threads = 1024;  // .maxntid, .reqntid
  std::vector<Scope> scopes;
  std::vector<Statement> body;
};

class Module {
 public:
  explicit Module(std::string text);

  const std::vector<Variable>& variables() const { return variables_; }
  const std::vector<std::string>& entries() const { return entries_; }
  bool has(const std::string& name) const { return bodies_.contains(name); }
  std::string text(const std::string& name) const;
  Function parse(const std::string& name) const;  // an entry or a .func
  Function parse_text(
      const std::string& function) const;  // another body, with this module's file table

 private:
  struct Span {
    size_t begin, end;
  };
  size_t top_level(size_t at);

  std::string text_;
  std::map<int, std::string> files_;
  std::vector<Variable> variables_;
  std::vector<std::string> entries_;
  std::unordered_map<std::string, Span> bodies_;
};

}  // namespace cudasim::ptx
