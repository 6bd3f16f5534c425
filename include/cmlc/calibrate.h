// Statistics of the values inside a model, over samples of data: what activations are quantized by.
//
//   data ---> samples ---> the program, run once for each ---> statistics ---> a file
//
// For every floating-point value of the program, inputs included: range, histogram, mean, mean
// square, share of zeros, greatest magnitude of each channel; for every conv, linear and matmul
// with a constant weight: the mean square of each input channel. Nothing grows with the number of
// samples. Statistics of parts of the data can be merged: the result is that of all of it, to the
// bit.
#ifndef CMLC_CALIBRATE_H_
#define CMLC_CALIBRATE_H_

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "cmlc/diagnostics.h"
#include "cmlc/predict.h"
#include "cmlc/status.h"

namespace cmlc {

struct CalibrateOptions {
  std::filesystem::path model;
  DataOptions data;
  ExecutionSettings execution;
  std::filesystem::path output;
};

struct CalibrateReport {
  std::string function;
  std::string data;  // "given", or "random, seed 0"
  uint64_t samples = 0;
  uint64_t steps = 0;
  uint64_t resumed = 0;  // of the samples: done by an earlier run that was interrupted
  uint64_t values = 0;   // with statistics
  uint64_t inputs = 0;   // of ops with weights
  // Values that hold something that is not finite: "'y' (conv): 3 of 64 elements are infinite ..."
  std::vector<std::string> problems;
  uint64_t peak_bytes = 0;  // of values, see PredictReport
  double seconds = 0;
};

// Runs a model over all samples and writes a file of statistics. While it runs, what is there so
// far lies beside it ("OUTPUT.partial"); if it is interrupted, a run of the same model over the
// same number of samples goes on from there. Errors are those of Predict.
Result<CalibrateReport> Calibrate(const CalibrateOptions& options, Diagnostics& diagnostics);

// Merges files of statistics of one model, in their order. kUsage if they are of several.
Status MergeStatistics(std::span<const std::filesystem::path> files,
                       const std::filesystem::path& output);

struct StatisticsSummary {
  struct Value {
    std::string name;
    std::string op_type;  // empty: an input
    std::string dtype;
    uint64_t runs = 0;
    uint64_t elements = 0;
    uint64_t not_finite = 0;
    double least = 0, greatest = 0;
    double mean = 0, deviation = 0;
    double zeros = 0;  // share
    // The shares 0.0001 and 0.9999 of the elements are below these, to a 256th.
    double low = 0, high = 0;
    double widest_channel = 0;  // greatest magnitude of a channel : their median; 0: no channels
  };
  std::string model;
  std::string function;
  std::string data;
  uint64_t samples = 0;
  uint64_t steps = 0;
  std::vector<Value> values;  // by name
  uint64_t inputs = 0;
};
Result<StatisticsSummary> ShowStatistics(const std::filesystem::path& file);

}  // namespace cmlc

#endif  // CMLC_CALIBRATE_H_
