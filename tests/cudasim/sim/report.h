#pragma once

#include <string>

namespace cudasim {

void add_report(const std::string& text);

// "row_sum" of "_ZN5myemb4cuda7row_sumIfEEvPKT_": without parameters and template arguments.
std::string brief_name(const std::string& mangled);

}  // namespace cudasim
