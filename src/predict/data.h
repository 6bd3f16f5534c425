// Samples for a model's inputs, from files or random numbers.
#ifndef CMLC_PREDICT_DATA_H_
#define CMLC_PREDICT_DATA_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/npy.h"
#include "cmlc/diagnostics.h"
#include "cmlc/predict.h"
#include "cmlc/status.h"
#include "predict/target.h"

namespace cmlc::predict {

using Arrays = std::map<std::string, Array>;  // by input

struct Sample {
  std::string name;           // for messages: "a.npy" or "a.npy, sample 3"
  std::vector<Arrays> steps;  // one for models without states
  bool continues = false;     // states are kept from the sample before
};

// Where the values of some inputs come from.
class Provider {
 public:
  virtual ~Provider() = default;
  virtual uint64_t count() const = 0;
  virtual std::string Name(uint64_t sample) const = 0;
  // The steps of a sample. Asked for in rising order, most sources being files.
  virtual Result<std::vector<Arrays>> Read(uint64_t sample) = 0;
};

class DataReader {
 public:
  // Opens all files and looks at them as far as it takes to count samples. `target` must outlive
  // the reader.
  static Result<std::unique_ptr<DataReader>> Open(const Target& target, const DataOptions& options,
                                                  Diagnostics& diagnostics);

  uint64_t sample_count() const { return count_; }
  const std::string& origin() const { return origin_; }  // "given", "random, seed 0"
  // The next sample, of those that are left (see sample_count).
  Result<Sample> Next();

 private:
  std::vector<std::unique_ptr<Provider>> providers_;
  uint64_t count_ = 0;
  uint64_t next_ = 0;
  bool sequence_ = false;
  std::string origin_;
};

// Nested lists as an array: of 64-bit integers if all elements are whole, else fp64. `name` is what
// messages start with. For tests; the elements "nan", "inf" and "-inf" are numbers, too.
Result<Array> ParseJsonArray(const std::string& text, const std::string& name);

}  // namespace cmlc::predict

#endif  // CMLC_PREDICT_DATA_H_
