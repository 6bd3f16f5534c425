// Small pieces of what commands print.
#ifndef CMLC_TOOLS_TEXT_H_
#define CMLC_TOOLS_TEXT_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace cmlc::tool {

// "1,234,567"
std::string Thousands(uint64_t number);
// "1 weight", "1,234 weights"
std::string Plural(uint64_t count, std::string_view noun);

// Indented, with a newline at the end; what is no UTF-8 is replaced.
std::string Dump(const nlohmann::ordered_json& json);

// To stdout.
void Print(const std::string& text);

}  // namespace cmlc::tool

#endif  // CMLC_TOOLS_TEXT_H_
