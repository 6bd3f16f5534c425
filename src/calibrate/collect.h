// Running a model over samples for its statistics.
#ifndef CMLC_CALIBRATE_COLLECT_H_
#define CMLC_CALIBRATE_COLLECT_H_

#include <cstdint>
#include <filesystem>

#include "calibrate/statistics.h"
#include "cmlc/diagnostics.h"
#include "cmlc/package.h"
#include "cmlc/predict.h"
#include "cmlc/status.h"

namespace cmlc::calibrate {

struct Collected {
  Statistics statistics;
  uint64_t resumed = 0;     // of the samples: found in `partial`
  uint64_t peak_bytes = 0;  // of values
};

// Statistics of all values of the function that `execution` names, over all samples. If `partial`
// is not empty, what is there so far is written to it now and then; if it is there already, of the
// same model and data, the run goes on from it. Errors are those of Predict.
Result<Collected> Collect(Package& package, const DataOptions& data_options,
                          const ExecutionSettings& execution, const std::filesystem::path& partial,
                          Diagnostics& diagnostics);

}  // namespace cmlc::calibrate

#endif  // CMLC_CALIBRATE_COLLECT_H_
