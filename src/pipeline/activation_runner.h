// Runs the pass that quantizes activations: finds the statistics of each function, decides which
// values are quantized, raises the target if it has to be, and puts the pairs into the graph.
#ifndef CMLC_PIPELINE_ACTIVATION_RUNNER_H_
#define CMLC_PIPELINE_ACTIVATION_RUNNER_H_

#include <map>
#include <string>
#include <utility>

#include "calibrate/statistics.h"
#include "cmlc/pass.h"
#include "cmlc/pipeline.h"
#include "cmlc/status.h"
#include "ir/opset.h"
#include "pipeline/parts.h"
#include "pipeline/rules.h"

namespace cmlc {

// Statistics of the functions of a package's programs.
using StatisticsOf = std::map<std::pair<const Model*, std::string>, calibrate::Statistics>;

// Reads the files of statistics, or runs the package over data, as the options say. To be called
// before any pass has changed the package. kUsage if there is neither, or a file is of another
// model.
Result<StatisticsOf> FindStatistics(const RunOptions& options, const RunContext& context);

// `info` is of a pass of kind kActivations, `target` may be null. Adds to the report what became of
// every value that the pass is for.
Status RunActivationPass(const PassInfo& info, const RuleSet& rules, const OpsetInfo* target,
                         const StatisticsOf& statistics, const RunContext& context,
                         RunReport& report);

}  // namespace cmlc

#endif  // CMLC_PIPELINE_ACTIVATION_RUNNER_H_
