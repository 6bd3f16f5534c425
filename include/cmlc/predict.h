// Running a model on the CPU.
//
//   data ---> samples, one at a time ---> the program ---> outputs ---> .npz, JSON
//
// A sample has a value for each input; for models with states it is a list of steps, between which
// states are kept (they are zero at the start of each sample). Only one sample is in memory.
//
// Values are computed as the program says, fp16 ones with one rounding for each op; nothing is
// scaled or normalized beforehand: an image is given to the program as its pixels, 0 to 255.
#ifndef CMLC_PREDICT_H_
#define CMLC_PREDICT_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cmlc/diagnostics.h"
#include "cmlc/status.h"

namespace cmlc {

// What becomes of an image that has not a size the model takes.
enum class Resize { kNone, kStretch, kCrop, kPad };
enum class Interpolation { kNearest, kBilinear, kBicubic };

// Where samples come from: files, or random numbers.
struct DataOptions {
  // "NAME=FILE", or "FILE" where the model has one input or the file names its arrays. By the end
  // of FILE:
  //   .npy           one array
  //   .npz           arrays by the names of inputs
  //   .json          an object of arrays (nested lists) by the names of inputs: one sample; a list
  //                  of objects: samples, or for a model with states the steps of one; a list of
  //                  lists of objects: samples with their steps; nested lists: one array
  //   .jsonl         such a sample on each line
  //   .png .jpg      an image, for an input that is one
  //   a folder       its images, sorted by name: one sample each
  //   anything else  raw elements, see `raw`
  // An input that is given several times has several samples. An input with one sample goes with
  // each sample of the others.
  std::vector<std::string> inputs;
  // "NAME=DTYPE:SIZES", as "x=f32:1x3x224x224": how the raw file of an input lies, row-major and
  // little-endian. The name may be left out where there is one raw file.
  std::vector<std::string> raw;
  // The first size of arrays is the number of samples.
  bool batched = false;
  // All samples are steps of one sequence: states are kept from one to the next.
  bool sequence = false;
  Resize resize = Resize::kNone;
  Interpolation interpolation = Interpolation::kBilinear;
  // Instead of files so many samples of random numbers, from the inputs' own types: images get
  // 0 to 255, floating-point arrays normally distributed numbers, integers the indices of the table
  // that they look up (0 and 1 where they look up none).
  uint64_t random_samples = 0;
  uint64_t seed = 0;
};

// How a model is run.
struct ExecutionSettings {
  std::string function;           // empty: the default one
  int threads = 0;                // 0: one for each processor
  uint64_t max_memory_bytes = 0;  // for values and statistics of them; 0: no limit
  uint64_t max_steps = 0;         // operations for each run; 0: no limit
  // Indices out of range (of gather and its like) are cut to it and counted, instead of ending the
  // run.
  bool lenient_indices = false;
  // The instruction set of inner loops: "v1", "v3" (levels of x86-64); empty: the best that the
  // processor has. Sums are made in another order by each, so last bits differ.
  std::string isa;
};

struct PredictOptions {
  std::filesystem::path model;
  DataOptions data;
  ExecutionSettings execution;
  // .npz, .json; empty: the outputs are in the report, as JSON.
  std::filesystem::path output;
};

struct PredictReport {
  struct Output {
    std::string name;
    std::string type;    // of the first sample: "fp32 [1, 10]", "dictionary of 10"
    std::string stored;  // in an .npz file: "fp32 [450, 10]", "450 entries"
  };
  std::string function;
  std::string data;  // "given", or "random, seed 0"
  std::string isa;   // of inner loops, see ExecutionSettings
  uint64_t samples = 0;
  uint64_t steps = 0;
  std::vector<Output> outputs;
  uint64_t peak_bytes = 0;  // the most that values took at a time
  double seconds = 0;       // for reading data, running, and writing
  std::string json;         // all outputs, if no file was asked for
};

// Runs a model over all samples. With several of them an .npz file has the outputs stacked: joined
// along their first axis where it has size 1, else with a new first axis (for sequences always: one
// for samples, if there are several, and one for steps); outputs whose shapes differ between
// samples have an entry for each, "NAME.0". A dictionary (of a classifier) is stored as its
// numbers, with its labels in "NAME.labels".
//
// Of a pipeline its ML Program runs, if it has exactly one; a note names what does not run.
// kUsage if options do not go with the model or an input is not given, kBadInput if the model or a
// data file is malformed or holds something else than the input takes. On an error there is no
// output.
Result<PredictReport> Predict(const PredictOptions& options, Diagnostics& diagnostics);

}  // namespace cmlc

#endif  // CMLC_PREDICT_H_
