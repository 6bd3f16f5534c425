// Picking the few values out of many that lie in narrow intervals.
#ifndef CMLC_NUMERIC_SELECT_H_
#define CMLC_NUMERIC_SELECT_H_

#include <cstddef>
#include <span>

namespace cmlc::numeric {

// Values that SelectWithin may write behind the last one it selects.
constexpr size_t kSelectSlack = 64;

// Writes those of `values` to `out` that are in lows[j] .. highs[j], ends included, for any j, in
// order, and returns how many they are. The intervals ascend and have no value in common. `out` has
// room for values.size() + kSelectSlack. From 4 to 15 intervals (31 where vectors have 8 lanes or
// more) cost about as much as 4 do, more of them two comparisons each.
size_t SelectWithin(std::span<const float> values, std::span<const float> lows,
                    std::span<const float> highs, float* out);

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_SELECT_H_
