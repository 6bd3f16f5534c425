// From statistics of a value to the scale and zero point that it is quantized with.
#ifndef CMLC_ACTIVATIONS_RANGE_H_
#define CMLC_ACTIVATIONS_RANGE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "calibrate/statistics.h"
#include "cmlc/tensor.h"

namespace cmlc::activations {

// How a range is chosen: what is beyond it is cut off, what is within is rounded to 255 or 256
// steps.
enum class Method {
  kMinMax,      // all that was seen
  kEma,         // moving averages of the least and greatest numbers of the runs, in their order
  kPercentile,  // all but a share at each end
  kMse,         // least mean squared error, of rounding and cutting off together; all that was
                // seen, unless that makes it half as large
  kKl,          // least Kullback-Leibler divergence of the distributions before and after
};

struct Settings {
  Method method = Method::kMse;
  bool symmetric = true;             // [-m, m]; else any range with zero in it
  DataType dtype = DataType::kInt8;  // or kUInt8
  double percentile = 99.99;         // of kPercentile: kept at each end
  double ema_weight = 0.1;           // of kEma: that a run has
  bool operator==(const Settings&) const = default;
};

struct Range {
  double low = 0, high = 0;
};

// q = clip(rint(x / scale) + zero_point), x = scale * (q - zero_point); in int8 or uint8.
struct Parameters {
  double scale = 1;  // a number of the value's own type
  int zero_point = 0;
  DataType dtype = DataType::kInt8;
  bool raised = false;  // the scale was raised to the least normal number of the type
  bool operator==(const Parameters&) const = default;
};

// The parameters of a range, which zero is added to if it has it not: as coremltools has them, but
// computed in fp64 and with the zero point from the scale as it is stored.
//   symmetric: scale = max(|low|, |high|) / 127, zero point 0 (int8) or 127 (uint8);
//   affine:    scale = (high - low) / 255, zero point = rint(-low / scale) + least code.
// The scale is never below the least normal number of `float_type` (fp16 or fp32), nor infinite; of
// an empty range it is 1.
Parameters ParametersFor(Range range, const Settings& settings, DataType float_type);

// The range of values that share one: the union of theirs, or for kMse and kKl the best for all
// their numbers. Each has to have numbers, all of them finite. `float_type` is that of the scale.
Range FindRange(std::span<const calibrate::ValueStatistics* const> values, const Settings& settings,
                DataType float_type);

// Mean squared error of quantizing all numbers of the values, as far as their histograms tell.
double MeanSquaredError(std::span<const calibrate::ValueStatistics* const> values,
                        const Parameters& parameters);

}  // namespace cmlc::activations

#endif  // CMLC_ACTIVATIONS_RANGE_H_
