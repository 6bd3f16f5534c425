// Picking the few values out of many that lie in narrow intervals.
#ifndef CMLC_NUMERIC_SELECT_H_
#define CMLC_NUMERIC_SELECT_H_

#include <cstddef>
#include <span>

namespace cmlc::numeric {

// Values that SelectNear may write behind the last one it selects.
constexpr size_t kSelectSlack = 64;

// Writes those of `values` to `out` that are within radii[j] of middles[j] for any j, in order, and
// returns how many they are. The intervals ascend, their lower ends and their upper ends: they may
// overlap, but none lies inside another. At their very ends rounding decides. `out` has room for
// values.size() + kSelectSlack. Costs about one comparison for each interval and vector, and half
// of that for 5 to 16 intervals, so it is meant for a few dozen intervals at most.
size_t SelectNear(std::span<const float> values, std::span<const float> middles,
                  std::span<const float> radii, float* out);

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_SELECT_H_
