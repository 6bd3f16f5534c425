// Fitting a LUT to the values of a tensor or of a group of its channels, however many they are.
#ifndef CMLC_NUMERIC_FIT_VALUES_H_
#define CMLC_NUMERIC_FIT_VALUES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "cmlc/status.h"
#include "numeric/coded_lut.h"
#include "numeric/kmeans1d.h"
#include "numeric/lut_fit.h"
#include "numeric/points.h"
#include "numeric/value_source.h"

namespace cmlc::numeric {

enum class FitMode {
  kKMeans,   // least squared error
  kUniform,  // evenly spaced
  kUnique,   // the distinct values themselves
  kGiven,    // entries that the caller has
};

struct FitRequest {
  FitMode mode = FitMode::kKMeans;
  size_t entries = 0;            // kKMeans, kUniform; kUnique: at most
  std::span<const float> given;  // kGiven: ascending
  // Entries are stored as codes of this type; with this scale and zero point if they are given.
  std::optional<CodeType> codes;
  std::optional<LinearParameters> fixed;
};

struct FitResult {
  std::vector<float> entries;          // ascending, in the type of the values; 1 to `entries`
  std::optional<uint64_t> not_finite;  // index of a value that is infinite or NaN; then no entries
  CodedLut coded;                      // if codes were asked for; `entries` are its entries
  bool too_many = false;  // kUnique: more distinct values than allowed; then no entries
  // Sums of squares of the values and of their distances to the nearest entries. For fp32 they are
  // left to whoever assigns the values, since it sees them all anyway.
  double signal = 0;
  double noise = 0;
};

// Scratch memory of one thread.
class FitWorkspace {
 public:
  FitWorkspace();
  ~FitWorkspace();
  struct Impl;
  Impl& impl() { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// Fits. Large sources are counted by all threads of `pool`; the result does not depend on their
// number. `workspace` belongs to the calling thread.
Result<FitResult> FitValues(const ValueSource<uint16_t>& source, const FitRequest& request,
                            ThreadPool& pool, FitWorkspace& workspace);
Result<FitResult> FitValues(const ValueSource<float>& source, const FitRequest& request,
                            ThreadPool& pool, FitWorkspace& workspace);

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_FIT_VALUES_H_
