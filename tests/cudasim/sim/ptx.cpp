#include "ptx.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "text.h"

namespace cudasim::ptx {
namespace {

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }
bool is_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%';
}

int type_bits(const std::string& type) {
  if (type == ".pred") return 1;
  const size_t digits = type.find_first_of("0123456789");
  if (digits == std::string::npos || type.size() < 3) throw Error("unknown PTX type " + type);
  return std::atoi(type.c_str() + digits);
}

void append_element(Variable& variable, const std::string& value, int bits) {
  const size_t offset = variable.initial.size();
  variable.initial.resize(offset + static_cast<size_t>(bits) / 8);
  uint64_t raw = 0;
  if (value.size() > 2 && value[0] == '0' && std::strchr("fFdD", value[1])) {
    raw = std::strtoull(value.c_str() + 2, nullptr, 16);
  } else if (std::isdigit(static_cast<unsigned char>(value[0])) || value[0] == '-') {
    raw = value[0] == '-' ? static_cast<uint64_t>(std::strtoll(value.c_str(), nullptr, 0))
                          : std::strtoull(value.c_str(), nullptr, 0);
  } else {
    variable.addresses.emplace_back(offset, value);
  }
  std::memcpy(variable.initial.data() + offset, &raw, static_cast<size_t>(bits) / 8);
}

// ".global .align 4 .b8 table[16] = {0, 1}" and the like; also one kernel parameter.
Variable parse_variable(const std::string& declaration) {
  Variable variable;
  const size_t equals = declaration.find('=');
  std::istringstream words(declaration.substr(0, equals));
  int bits = 0;
  std::string name;
  for (std::string word; words >> word;) {
    if (word == ".align") {
      words >> variable.alignment;
    } else if (word == ".extern") {
      variable.external = true;
    } else if (word == ".shared" || word == ".local" || word == ".global" || word == ".const" ||
               word == ".param") {
      variable.space = word.substr(1);
    } else if (word == ".ptr") {  // ".ptr [.space] .align n": about what the parameter points to
      while (words >> word && word != ".align") {
        if (word[0] != '.') break;
      }
      if (word == ".align")
        words >> word;
      else
        name += word;
    } else if (word[0] != '.') {
      name += word;
    } else if (word != ".visible" && word != ".weak" && word != ".common" && word != ".managed") {
      bits = type_bits(word);
    }
  }
  if (bits == 0 || name.empty()) throw Error("cannot read the declaration `" + declaration + "`");
  size_t elements = 1;
  variable.name = name.substr(0, name.find('['));
  for (size_t at = name.find('['); at != std::string::npos; at = name.find('[', at + 1)) {
    elements *= std::strtoull(name.c_str() + at + 1, nullptr, 0);
  }
  variable.bytes = elements * static_cast<size_t>(bits) / 8;
  variable.alignment = std::max<size_t>(variable.alignment, static_cast<size_t>(bits) / 8);
  if (equals != std::string::npos) {
    std::string values = trim(declaration.substr(equals + 1));
    values.erase(
        std::remove_if(values.begin(), values.end(), [](char c) { return c == '{' || c == '}'; }),
        values.end());
    for (const std::string& value : split_list(values)) append_element(variable, value, bits);
    variable.initial.resize(variable.bytes);
  }
  return variable;
}

// Source positions. What the toolkit's headers inlined into the user's code is charged to the
// user's line.
class Locations {
 public:
  explicit Locations(const std::map<int, std::string>& files) : files_(files) {}

  // ".loc file line column[, function_name label, inlined_at file line column]"
  void enter(const std::string& directive) {
    Position position{}, caller{};
    std::sscanf(directive.c_str(), ".loc %d %d %d", &position[0], &position[1], &position[2]);
    callers_.erase(position);
    const size_t inlined = directive.find("inlined_at");
    if (inlined != std::string::npos) {
      std::sscanf(directive.c_str() + inlined, "inlined_at %d %d %d", &caller[0], &caller[1],
                  &caller[2]);
      callers_[position] = caller;
    }
    auto up = callers_.find(position);
    for (int depth = 0; depth < 64 && up != callers_.end() && in_toolkit(position); ++depth) {
      position = up->second;
      up = callers_.find(position);
    }
    current_ = {file(position), position[1]};
  }
  const Location& current() const { return current_; }

 private:
  using Position = std::array<int, 3>;  // file, line, column

  std::string file(const Position& position) const {
    const auto found = files_.find(position[0]);
    return found == files_.end() ? "" : found->second;
  }
  bool in_toolkit(const Position& position) const {
    const std::string path = file(position);
    return path.find("/cuda") != std::string::npos && path.find("/include/") != std::string::npos;
  }

  const std::map<int, std::string>& files_;
  std::map<Position, Position> callers_;
  Location current_;
};

// Reads one function: header, then the body statement by statement.
class FunctionParser {
 public:
  FunctionParser(const std::string& text, const std::map<int, std::string>& files)
      : text_(text), locations_(files) {}

  Function parse() {
    header();
    function_.scopes.emplace_back();
    do {
      skip_space();
      if (at_ >= text_.size()) throw Error(function_.name + ": the body does not end");
    } while (next());
    return std::move(function_);
  }

 private:
  void header() {
    const size_t body = text_.find('{');
    if (body == std::string::npos) throw Error("a function without a body");
    const std::string head = text_.substr(0, body);
    size_t at = head.find(".entry");
    if (at != std::string::npos) {
      at += 6;
    } else if ((at = head.find(".func")) != std::string::npos) {
      at = head.find_first_not_of(" \t\r\n", at + 5);
      if (at != std::string::npos && head[at] == '(') {
        const size_t close = head.find(')', at);
        for (const std::string& result : split_list(head.substr(at + 1, close - at - 1))) {
          function_.results.push_back(parse_variable(result));
        }
        at = close + 1;
      }
    } else {
      throw Error("neither .entry nor .func: " + head.substr(0, 80));
    }
    const size_t open = head.find('(', at);
    const size_t close = head.find(')', at);
    function_.name = trim(head.substr(at, std::min(open, head.find_first_of("\n.", at)) - at));
    if (open != std::string::npos && close != std::string::npos) {
      for (const std::string& parameter : split_list(head.substr(open + 1, close - open - 1))) {
        function_.parameters.push_back(parse_variable(parameter));
      }
    }
    for (const char* limit : {".maxntid", ".reqntid"}) {
      unsigned x = 1, y = 1, z = 1;
      at = head.find(limit);
      if (at == std::string::npos) continue;
      std::sscanf(head.c_str() + at + std::strlen(limit), "%u , %u , %u", &x, &y, &z);
      function_.max_threads = x * y * z;
    }
    at_ = body + 1;
  }

  void skip_space() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  }

  // False at the closing brace of the function.
  bool next() {
    if (text_[at_] == '{') {
      ++at_;
      function_.scopes.push_back(
          {.parent = scope_, .registers = {}, .labels = {}, .branch_targets = {}, .variables = {}});
      scope_ = static_cast<int>(function_.scopes.size()) - 1;
      return true;
    }
    if (text_[at_] == '}') {
      ++at_;
      if (scope_ == 0) return false;
      scope_ = function_.scopes[static_cast<size_t>(scope_)].parent;
      return true;
    }
    if (text_.compare(at_, 4, ".loc") == 0 && is_space(text_[at_ + 4])) {
      const size_t end = std::min(text_.find('\n', at_), text_.size());
      locations_.enter(text_.substr(at_, end - at_));
      at_ = end;
      return true;
    }
    if (label()) return true;
    const size_t end = text_.find(';', at_);
    if (end == std::string::npos) throw Error(function_.name + ": a statement without `;`");
    const std::string statement = trim(text_.substr(at_, end - at_));
    at_ = end + 1;
    if (statement.empty()) return true;
    if (statement[0] == '.') {
      directive(statement);
    } else {
      instruction(statement);
    }
    return true;
  }

  bool label() {
    size_t end = at_;
    while (end < text_.size() && is_name(text_[end])) ++end;
    if (end == at_ || end >= text_.size() || text_[end] != ':' || text_[end + 1] == ':')
      return false;
    const std::string name = text_.substr(at_, end - at_);
    at_ = end + 1;
    skip_space();
    Scope& scope = function_.scopes[static_cast<size_t>(scope_)];
    if (text_.compare(at_, 14, ".branchtargets") == 0) {
      const size_t stop = text_.find(';', at_);
      scope.branch_targets[name] = split_list(text_.substr(at_ + 14, stop - at_ - 14));
      at_ = stop + 1;
    } else if (!scope.labels.emplace(name, function_.body.size()).second) {
      throw Error(function_.name + ": label " + name + " twice");
    }
    return true;
  }

  void directive(const std::string& statement) {
    if (statement.compare(0, 4, ".reg") == 0) {
      declare_registers(statement);
    } else if (statement.compare(0, 7, ".pragma") == 0) {
      const size_t mask = statement.find("used_bytes_mask");
      if (mask != std::string::npos)
        used_bytes_ = std::strtoull(statement.c_str() + mask + 15, nullptr, 0);
    } else {
      function_.scopes[static_cast<size_t>(scope_)].variables.push_back(parse_variable(statement));
    }
  }

  // ".reg .b32 %r<10>, %tmp"
  void declare_registers(const std::string& statement) {
    std::istringstream words(statement.substr(4));
    std::string type, names;
    words >> type;
    std::getline(words, names, '\0');
    auto& registers = function_.scopes[static_cast<size_t>(scope_)].registers;
    const int bits = type_bits(type);
    for (const std::string& name : split_list(names)) {
      const size_t angle = name.find('<');
      if (angle == std::string::npos) {
        registers[name] = bits;
        continue;
      }
      const std::string prefix = name.substr(0, angle);
      const int count = std::atoi(name.c_str() + angle + 1);
      for (int i = 0; i < count; ++i) registers[prefix + std::to_string(i)] = bits;
    }
  }

  void instruction(std::string text) {
    for (char& c : text) {
      if (is_space(c)) c = ' ';
    }
    text.erase(
        std::unique(text.begin(), text.end(), [](char a, char b) { return a == ' ' && b == ' '; }),
        text.end());
    Statement statement;
    statement.text = text;
    statement.location = locations_.current();
    statement.scope = scope_;
    statement.used_bytes = std::exchange(used_bytes_, ~uint64_t{0});
    if (text[0] == '@') {
      const size_t end = text.find(' ');
      if (end == std::string::npos) throw Error("a guard without an instruction: " + text);
      statement.guard = text.substr(1, end - 1);
      text = trim(text.substr(end));
    }
    const size_t end = std::min(text.find(' '), text.size());
    statement.opcode = text.substr(0, end);
    statement.operands = split_list(text.substr(end));
    function_.body.push_back(std::move(statement));
  }

  const std::string& text_;
  size_t at_ = 0;
  int scope_ = 0;
  uint64_t used_bytes_ = ~uint64_t{0};  // of the next instruction
  Function function_;
  Locations locations_;
};

// The position after the brace that closes the one at `open`.
size_t after_braces(const std::string& text, size_t open) {
  int depth = 0;
  for (size_t at = open; at < text.size(); ++at) {
    if (text[at] == '{') ++depth;
    if (text[at] == '}' && --depth == 0) return at + 1;
  }
  throw Error("PTX module: a brace that is not closed");
}

std::string function_name(const std::string& head) {
  size_t at = head.find(".entry");
  if (at == std::string::npos) {
    at = head.find_first_not_of(" \t\r\n", head.find(".func") + 5);
    if (at != std::string::npos && head[at] == '(') at = head.find(')', at) + 1;
  } else {
    at += 6;
  }
  const size_t begin = head.find_first_not_of(" \t\r\n", at);
  return head.substr(begin, head.find_first_of(" \t\r\n(", begin) - begin);
}

}  // namespace

Module::Module(std::string text) : text_(without_comments(std::move(text))) {
  for (size_t at = 0; (at = text_.find_first_not_of(" \t\r\n", at)) != std::string::npos;) {
    const size_t line_end = std::min(text_.find('\n', at), text_.size());
    const std::string line = text_.substr(at, line_end - at);
    const auto starts_with = [&](const char* word) {
      return line.compare(0, std::strlen(word), word) == 0;
    };
    if (starts_with(".version") || starts_with(".target") || starts_with(".address_size")) {
      at = line_end;
    } else if (starts_with(".file")) {
      const size_t open = line.find('"');
      files_[std::atoi(line.c_str() + 5)] =
          line.substr(open + 1, line.find('"', open + 1) - open - 1);
      at = line_end;
    } else if (starts_with(".section")) {
      at = after_braces(text_, at);
    } else {
      at = top_level(at);
    }
  }
}

// A function or a variable that starts at `at`; returns where the next thing may start.
size_t Module::top_level(size_t at) {
  const size_t semicolon = text_.find(';', at);
  const size_t brace = text_.find('{', at);
  const std::string head = text_.substr(at, std::min({semicolon, brace, text_.size()}) - at);
  if (head.find(".entry") == std::string::npos && head.find(".func") == std::string::npos) {
    if (semicolon == std::string::npos)
      throw Error("PTX module: cannot read `" + head.substr(0, 80) + "`");
    variables_.push_back(parse_variable(trim(text_.substr(at, semicolon - at))));
    return semicolon + 1;
  }
  const std::string name = function_name(head);
  if (semicolon < brace) return semicolon + 1;  // a declaration
  const size_t end = after_braces(text_, brace);
  if (head.find(".entry") != std::string::npos) entries_.push_back(name);
  bodies_[name] = {at, end};
  return end;
}

std::string Module::text(const std::string& name) const {
  const Span span = bodies_.at(name);
  return text_.substr(span.begin, span.end - span.begin);
}

Function Module::parse(const std::string& name) const { return parse_text(text(name)); }

Function Module::parse_text(const std::string& function) const {
  const std::string text = without_comments(function);
  return FunctionParser(text, files_).parse();
}

}  // namespace cudasim::ptx
