// Small things that PTX text is read with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace cudasim {

std::vector<std::string> split(const std::string& text, char separator);
std::string trim(const std::string& text);

// Splits at commas that are outside of brackets.
std::vector<std::string> split_list(const std::string& text);

// Comments become spaces, so that offsets and lines stay what they are.
std::string without_comments(std::string text);

bool starts_with(const std::string& text, const char* prefix);
bool ends_with(const std::string& text, const std::string& suffix);

// "42", "-7", "0x1F", "0f3F800000", "0d3FF0000000000000", "10U"
std::optional<uint64_t> parse_immediate(const std::string& text);

inline size_t align_up(size_t value, size_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

}  // namespace cudasim
