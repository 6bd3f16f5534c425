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
// room for values.size() + kSelectSlack. Where vectors have eight lanes, up to 31 intervals cost
// four compares and one more, with a shuffle, for every four of them; otherwise, and beyond, an
// interval costs two compares.
size_t SelectWithin(std::span<const float> values, std::span<const float> lows,
                    std::span<const float> highs, float* out);

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_SELECT_H_
