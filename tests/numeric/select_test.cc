#include "numeric/select.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace cmlc::numeric {
namespace {

// Intervals that ascend, of unequal widths, some of them touching.
struct Intervals {
  std::vector<float> middles, radii;
};

Intervals Ascending(size_t count, std::mt19937& random) {
  Intervals intervals;
  std::uniform_real_distribution<float> width(0.01f, 0.2f);
  float at = -static_cast<float>(count) / 4;
  for (size_t i = 0; i < count; ++i) {
    const float radius = width(random);
    intervals.middles.push_back(at + radius);
    intervals.radii.push_back(radius * 1.01f);
    at += 2 * radius + (i % 3 == 0 ? 0.0f : width(random));
  }
  return intervals;
}

TEST(SelectNear, SelectsWhatIsInAnyInterval) {
  std::mt19937 random(1);
  for (size_t count = 1; count <= 24; ++count)
    for (const size_t length : {0u, 1u, 7u, 64u, 3001u}) {
      const Intervals intervals = Ascending(count, random);
      std::uniform_real_distribution<float> value(-static_cast<float>(count) / 2,
                                                  static_cast<float>(count) / 2);
      std::vector<float> values(length), expected;
      for (float& v : values) {
        v = value(random);
        for (size_t j = 0; j < count; ++j)
          if (std::fabs(v - intervals.middles[j]) <= intervals.radii[j]) {
            expected.push_back(v);
            break;
          }
      }
      std::vector<float> out(length + kSelectSlack);
      out.resize(SelectNear(values, intervals.middles, intervals.radii, out.data()));
      EXPECT_EQ(out, expected) << count << " intervals, " << length << " values";
    }
}

TEST(SelectNear, SelectsNothingWithoutIntervals) {
  const std::vector<float> values(100, 1.0f);
  std::vector<float> out(values.size() + kSelectSlack);
  EXPECT_EQ(SelectNear(values, {}, {}, out.data()), 0u);
}

TEST(SelectNear, TakesIntervalsAtTheEndsOfTheRange) {
  const float most = std::numeric_limits<float>::max();
  const std::vector<float> middles = {-most, -1, 0, 1, most},
                           radii = {most / 2, 0.5f, 0.1f, 0.5f, most / 2};
  std::vector<float> values(64, 2.0f);
  values[3] = most;
  values[10] = -most;
  values[63] = -1.25f;
  std::vector<float> out(values.size() + kSelectSlack);
  out.resize(SelectNear(values, middles, radii, out.data()));
  EXPECT_EQ(out, (std::vector<float>{most, -most, -1.25f}));
}

}  // namespace
}  // namespace cmlc::numeric
