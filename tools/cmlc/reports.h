// Reports as text and as JSON.
#ifndef CMLC_TOOLS_REPORTS_H_
#define CMLC_TOOLS_REPORTS_H_

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "cmlc/inspect.h"
#include "cmlc/lint.h"
#include "cmlc/pipeline.h"
#include "console.h"

namespace cmlc::tool {

// The summary of a run: what was done, what was left alone, sizes, SNR, the system it needs.
std::string RunText(std::span<const RunReport> reports, const RunOptions& options);
std::string RunJson(std::span<const RunReport> reports, const RunOptions& options);
// What happens to every weight, a line each.
std::string PlanText(std::span<const RunReport> reports);
// Every weight that was left alone, a line each.
void ListLeft(const RunReport& report, Console& console);

// Names, types, shapes and readers of weights, a line each.
std::string WeightList(const PackageInfo& info);

std::string LintText(const std::vector<Finding>& findings);
std::string LintJson(const std::vector<Finding>& findings);

std::string InfoText(const PackageInfo& info, const std::filesystem::path& path);
std::string InfoJson(const PackageInfo& info, const std::filesystem::path& path);

}  // namespace cmlc::tool

#endif  // CMLC_TOOLS_REPORTS_H_
