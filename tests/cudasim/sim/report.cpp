#include "report.h"

#include <cxxabi.h>

#include <cstdlib>

#include "cudasim.h"

namespace cudasim {

std::vector<std::string>& reports() {
  static auto* const log = new std::vector<std::string>;
  return *log;
}

void add_report(const std::string& text) {
  if (reports().size() < settings().max_reports) reports().push_back(text);
}

std::string brief_name(const std::string& mangled) {
  int status = 0;
  char* const demangled = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  std::string name = status == 0 ? demangled : mangled;
  std::free(demangled);
  const std::string anonymous = "(anonymous namespace)::";
  for (size_t at; (at = name.find(anonymous)) != std::string::npos;)
    name.erase(at, anonymous.size());
  std::string brief;
  int depth = 0;
  for (const char c : name) {
    if (c == '<') ++depth;
    if (depth == 0 && c == '(') break;
    if (depth == 0) brief += c;
    if (c == '>') --depth;
  }
  return brief.substr(brief.find_last_of(" :") + 1);
}

}  // namespace cudasim
