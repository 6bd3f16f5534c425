// Runs a pass over the weights of all programs of a package: picks the weights, raises the target
// if the result needs it, makes the replacements and puts them into the graph.
#ifndef CMLC_PIPELINE_WEIGHT_RUNNER_H_
#define CMLC_PIPELINE_WEIGHT_RUNNER_H_

#include "cmlc/pass.h"
#include "cmlc/pipeline.h"
#include "cmlc/status.h"
#include "ir/opset.h"
#include "pipeline/parts.h"
#include "pipeline/rules.h"

namespace cmlc {

// `info` is of a pass of kind kWeights, `target` may be null. Adds to the report what became of
// every weight.
Status RunWeightPass(const PassInfo& info, const RuleSet& rules, const OpsetInfo* target,
                     const RunContext& context, RunReport& report);

}  // namespace cmlc

#endif  // CMLC_PIPELINE_WEIGHT_RUNNER_H_
