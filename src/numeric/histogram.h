// Histograms of floating-point values: almost everything that compression decides about a tensor
// (LUTs, range, distinct values, finiteness) is a function of how often each value occurs.
//
// fp16 has 65,536 bit patterns, so its histogram is exact and small. fp32 is counted by the top 19
// bits of its ordered bit pattern: sign, exponent and 10 bits of mantissa, the resolution of fp16
// over the whole range of fp32. Only the few tens of thousands of bins near the magnitude of the
// weights are touched, so the table lives in the second-level cache for all its 2 MB.
#ifndef CMLC_NUMERIC_HISTOGRAM_H_
#define CMLC_NUMERIC_HISTOGRAM_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "numeric/half.h"

namespace cmlc::numeric {

constexpr size_t kHalfPatterns = 65536;
constexpr int kFloatBinShift = 13;
constexpr size_t kFloatBins = size_t{1} << (32 - kFloatBinShift);

// Counts [pattern] += 1 for every value. A count must not reach 2^32: no more than 2^32 - 1 values
// between clearings. `counts` has kHalfPatterns entries.
void CountHalves(std::span<const uint16_t> values, uint32_t* counts);

// Counts [FloatKey(value) >> kFloatBinShift] += 1. `counts` has kFloatBins entries.
void CountFloats(std::span<const float> values, uint32_t* counts);

inline uint32_t FloatBin(float value) { return FloatKey(value) >> kFloatBinShift; }
// The smallest value of a bin.
inline float FloatBinStart(uint32_t bin) { return FloatOfKey(bin << kFloatBinShift); }

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_HISTOGRAM_H_
