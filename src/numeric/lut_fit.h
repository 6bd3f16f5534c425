// Choosing the entries of a LUT for given points.
#ifndef CMLC_NUMERIC_LUT_FIT_H_
#define CMLC_NUMERIC_LUT_FIT_H_

#include <cstdint>
#include <span>
#include <vector>

#include "numeric/kmeans1d.h"
#include "numeric/points.h"

namespace cmlc::numeric {

// The type that entries are stored in.
enum class EntryType { kHalf, kFloat };

// `value` rounded to the nearest that the type can store, ties to even.
float RoundEntry(double value, EntryType type);

// `entries` values of the type, ascending: `values` rounded, the last one repeated to fill up.
// There is at least one value and at most `entries`.
void FinishLut(std::span<const double> values, EntryType type, std::span<float> lut);

// Sum of weight * (value - nearest entry)^2 for an ascending LUT, in two passes free of
// cancellation. Entries may repeat.
double LutError(const Points& points, std::span<const float> lut);
double Signal(const Points& points);

// Moves entries that were rounded to the type so that the error is least under the rounding. On a
// coarse grid (weights that are subnormal in fp16) rounding the entries of the best clustering one
// by one can cost half a decibel. For few points (entries * points^2 up to kMostGridWork) the
// result is optimal: every cluster is costed with the entry that the type can store. Else entries
// and clusters are improved in turns. The error never rises. `entries` ascend before and after;
// there may be fewer afterwards if some coincide.
constexpr size_t kMostGridWork = size_t{1} << 22;
void RefineOnGrid(const Points& points, EntryType type, std::vector<float>& entries);

// The least squared error that `lut.size()` evenly spaced entries reach, as far as a search over
// both ends of the grid finds it. Two grids are always among the candidates, so that the result is
// never worse than theirs: from the least to the greatest value, computed in double, and the same
// computed in steps of fp16 arithmetic as coremltools does for fp16 weights.
void FitUniform(const Points& points, EntryType type, std::span<float> lut);

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_LUT_FIT_H_
