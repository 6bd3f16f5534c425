// Reports as text and as JSON.
#ifndef CMLC_TOOLS_REPORTS_H_
#define CMLC_TOOLS_REPORTS_H_

#include <filesystem>
#include <string>

#include "cmlc/inspect.h"
#include "cmlc/pipeline.h"
#include "console.h"

namespace cmlc::tool {

// The summary of a run: what was done, what was left alone, sizes, SNR, the system it needs.
std::string RunText(const RunReport& report, const RunOptions& options);
std::string RunJson(const RunReport& report, const RunOptions& options);
// Every weight that was left alone, a line each.
void ListLeft(const RunReport& report, Console& console);

std::string InfoText(const PackageInfo& info, const std::filesystem::path& path);
std::string InfoJson(const PackageInfo& info, const std::filesystem::path& path);

}  // namespace cmlc::tool

#endif  // CMLC_TOOLS_REPORTS_H_
