// What passes of every kind share: the programs of a package, and the target of a result.
#ifndef CMLC_PIPELINE_PARTS_H_
#define CMLC_PIPELINE_PARTS_H_

#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "cmlc/diagnostics.h"
#include "cmlc/package.h"
#include "cmlc/pipeline.h"
#include "cmlc/status.h"
#include "ir/opset.h"

namespace cmlc {

// What a pass runs with.
struct RunContext {
  Package& package;
  ThreadPool& pool;
  Diagnostics& diagnostics;
};

// One ML Program or NeuralNetwork: the model itself, or a member of a pipeline.
struct Part {
  Model* model = nullptr;
  std::string prefix;  // of the labels of its functions: "1:"
  ModelFormat format() const {
    return model->network ? ModelFormat::kNetwork : ModelFormat::kProgram;
  }
};

// All of them, in order; or the ML Programs alone.
std::vector<Part> PartsOf(Model& model);
std::vector<Part> ProgramsOf(Model& model);

// kUsage if a target (null: none) is lower than what the program needs already.
Status CheckTarget(const Part& part, const OpsetInfo* target, const Package& package);

// kUsage: the result needs `version` for `what`, which the target does not allow.
Error BeyondTarget(const OpsetInfo& target, int32_t version, std::string_view name,
                   std::string_view what);

// Raises a program to a specification version, and writes down what that rewrote.
Status Raise(const Part& part, int32_t version, Package& package, RunReport& report);

}  // namespace cmlc

#endif  // CMLC_PIPELINE_PARTS_H_
