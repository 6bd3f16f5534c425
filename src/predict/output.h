// Outputs of a run as an .npz file or as JSON.
#ifndef CMLC_PREDICT_OUTPUT_H_
#define CMLC_PREDICT_OUTPUT_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "cmlc/predict.h"
#include "cmlc/status.h"
#include "exec/value.h"

namespace cmlc::predict {

// "nan", "inf" and "-inf" stand for what JSON has no numbers for; a dictionary is an object, a
// number as a key its digits. fp32 and fp16 numbers have the fewest digits that tell them apart.
std::string ToJson(const exec::Value& value);

// Takes the outputs of every step of every sample, in order. Nothing but the finished file is left
// by Finish, and nothing at all without it.
class OutputWriter {
 public:
  virtual ~OutputWriter() = default;
  // `continues`: the sample goes on with the sequence of the one before.
  virtual Status StartSample(bool continues) = 0;
  // One step: a value for each name, each a tensor, strings or a dictionary.
  virtual Status Add(const std::vector<exec::Value>& values) = 0;
  // Fills in `stored` of the report's outputs, and its `json` where there is no file.
  virtual Status Finish(PredictReport& report) = 0;
};

// `sequences`: samples may have several steps. kUsage if the name of `path` ends in neither .npz
// nor .json; an empty one is JSON for the report.
Result<std::unique_ptr<OutputWriter>> MakeOutputWriter(const std::filesystem::path& path,
                                                       std::vector<std::string> names,
                                                       bool sequences, const PredictReport& report);

}  // namespace cmlc::predict

#endif  // CMLC_PREDICT_OUTPUT_H_
