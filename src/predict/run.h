// One step of a sample, as `predict` and `compare` both run it.
#ifndef CMLC_PREDICT_RUN_H_
#define CMLC_PREDICT_RUN_H_

#include <cstdint>
#include <vector>

#include "cmlc/predict.h"
#include "cmlc/status.h"
#include "exec/executable.h"
#include "predict/data.h"
#include "predict/target.h"

namespace cmlc::predict {

// The outputs, in the order of Executable::outputs: tensors with storage, strings, dictionaries.
Result<std::vector<exec::Value>> RunStep(exec::Runner& runner, const exec::Executable& executable,
                                         const Target& target, const Sample& sample, size_t step);

// Sets the instruction set that is asked for, until another is. kUsage if the processor has it not.
Status ChooseIsa(const ExecutionSettings& settings);

exec::ExecutionOptions OptionsOf(const ExecutionSettings& settings, uint64_t seed);

}  // namespace cmlc::predict

#endif  // CMLC_PREDICT_RUN_H_
