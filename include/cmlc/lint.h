// What is known of forms that a model holds: reported failures, slow forms, and forms that keep a
// layer off the Neural Engine.
#ifndef CMLC_LINT_H_
#define CMLC_LINT_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cmlc/package.h"

namespace cmlc {

// Sets of devices.
enum Devices : unsigned { kCpu = 1, kGpu = 2, kAne = 4, kAll = 7 };

// "cpu", "gpu", "ane" or "all"; nothing for anything else.
std::optional<unsigned> DevicesOf(std::string_view name);
std::string NamesOf(unsigned devices);

// One known form and where it occurs.
struct Finding {
  std::string id;
  unsigned devices = 0;
  std::string what;                // happens
  std::string source;              // an address where that is said
  std::vector<std::string> names;  // of weights, ops or states, in program order
};

// In the order of the table (src/lint/known_forms.def). Looks at types and shapes only.
std::vector<Finding> Lint(Package& package);

// The findings, less the names that `before` has them for already.
std::vector<Finding> NewFindings(std::vector<Finding> after, const std::vector<Finding>& before);

// "scaled_lut: 'a', 'b' and 3 more: ... (ane; source)"
std::string ToString(const Finding& finding);

}  // namespace cmlc

#endif  // CMLC_LINT_H_
