// What is in a package, for `cmlc info`.
#ifndef CMLC_INSPECT_H_
#define CMLC_INSPECT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cmlc/package.h"
#include "cmlc/status.h"

namespace cmlc {

struct WeightInfo {
  std::string function;
  std::string name;
  std::vector<std::string> consumers;
  std::string dtype;  // of its values
  std::vector<int64_t> shape;
  uint64_t element_count = 0;
  std::string form;  // how it is stored
  bool compressed = false;
  bool shared = false;  // its bytes are counted with an earlier weight
  uint64_t bytes = 0;
  // Of the values, decoded. Least and greatest are of the finite ones.
  uint64_t zeros = 0;
  uint64_t distinct = 0;
  uint64_t not_finite = 0;
  double least = 0;
  double greatest = 0;
};

struct ProgramInfo {
  std::string label;  // "" or the member's place in a pipeline, "0"
  std::string kind;
  int32_t specification_version = 0;
  std::map<std::string, std::string> opsets;  // by function
  std::map<std::string, uint64_t> op_counts;  // by type
};

struct PackageInfo {
  std::string kind;
  int32_t specification_version = 0;
  std::string systems;
  uint64_t package_bytes = 0;
  std::vector<FunctionInterface> functions;
  std::vector<ProgramInfo> programs;
  std::vector<WeightInfo> weights;  // in program order
  uint64_t weight_elements = 0;     // each stored tensor once
  uint64_t weight_bytes = 0;
};

// Looks at every value of every weight, or without `values` at names, types and shapes alone.
// `threads` as in RunOptions.
Result<PackageInfo> Inspect(Package& package, int threads, bool values = true);

}  // namespace cmlc

#endif  // CMLC_INSPECT_H_
