#include "numeric/select.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "support/instruction_sets.h"

namespace cmlc::numeric {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Intervals that ascend, of unequal widths; some begin right behind the one before, and some hold a
// single value.
struct Intervals {
  std::vector<float> lows, highs;
};

Intervals Ascending(size_t count, std::mt19937& random) {
  Intervals intervals;
  std::uniform_real_distribution<float> width(0.01f, 0.4f);
  float at = -static_cast<float>(count) / 4;
  for (size_t i = 0; i < count; ++i) {
    intervals.lows.push_back(at);
    if (i % 5 != 4) at += width(random);
    intervals.highs.push_back(at);
    at = i % 3 == 0 ? std::nextafter(at, kInfinity) : at + width(random);
  }
  return intervals;
}

std::vector<float> Selected(const std::vector<float>& values, const Intervals& intervals) {
  std::vector<float> out(values.size() + kSelectSlack);
  out.resize(SelectWithin(values, intervals.lows, intervals.highs, out.data()));
  return out;
}

std::vector<float> Expected(const std::vector<float>& values, const Intervals& intervals) {
  std::vector<float> expected;
  for (const float value : values)
    for (size_t j = 0; j < intervals.lows.size(); ++j)
      if (value >= intervals.lows[j] && value <= intervals.highs[j]) expected.push_back(value);
  return expected;
}

class Select : public test::InstructionSets {};

CMLC_FOR_INSTRUCTION_SETS(Select);

TEST_P(Select, SelectsWhatIsInAnyInterval) {
  std::mt19937 random(1);
  for (size_t count = 1; count <= 50; ++count)
    for (const size_t length : {0u, 1u, 7u, 8u, 9u, 64u, 3001u}) {
      const Intervals intervals = Ascending(count, random);
      std::uniform_real_distribution<float> value(-static_cast<float>(count) / 2,
                                                  static_cast<float>(count) / 2);
      std::vector<float> values(length);
      for (float& v : values) v = value(random);
      EXPECT_EQ(Selected(values, intervals), Expected(values, intervals))
          << count << " intervals, " << length << " values";
    }
}

TEST_P(Select, TakesTheEndsAndNothingBesideThem) {
  std::mt19937 random(2);
  for (size_t count = 1; count <= 50; ++count) {
    const Intervals intervals = Ascending(count, random);
    std::vector<float> values;
    for (const auto& ends : {intervals.lows, intervals.highs})
      for (const float end : ends) {
        values.push_back(std::nextafter(end, -kInfinity));
        values.push_back(end);
        values.push_back(std::nextafter(end, kInfinity));
      }
    EXPECT_EQ(Selected(values, intervals), Expected(values, intervals)) << count << " intervals";
  }
}

TEST_P(Select, SelectsNothingWithoutIntervals) {
  EXPECT_TRUE(Selected(std::vector<float>(100, 1.0f), {}).empty());
}

TEST_P(Select, TakesAllOrNothing) {
  const std::vector<float> values(1001, 0.5f);
  for (size_t count = 1; count <= 40; ++count) {
    Intervals intervals;
    for (size_t j = 0; j < count; ++j) {
      intervals.lows.push_back(static_cast<float>(j));
      intervals.highs.push_back(static_cast<float>(j) + 0.25f);
    }
    EXPECT_TRUE(Selected(values, intervals).empty()) << count;
    intervals.highs.front() = 0.75f;
    EXPECT_EQ(Selected(values, intervals), values) << count;
  }
}

TEST_P(Select, TakesIntervalsAtTheEndsOfTheRange) {
  const float most = std::numeric_limits<float>::max();
  const float least = std::numeric_limits<float>::denorm_min();
  const Intervals intervals{.lows = {-most, -1.5f, -0.0f, 0.5f, most / 2},
                            .highs = {-most / 2, -0.5f, 3 * least, 1.5f, most}};
  std::vector<float> values(64, 2.0f);
  values[3] = most;
  values[10] = -most;
  values[11] = 0.0f;
  values[12] = -least;
  values[20] = -0.0f;
  values[21] = 3 * least;
  values[22] = 4 * least;
  values[63] = -1.25f;
  EXPECT_EQ(Selected(values, intervals),
            (std::vector<float>{most, -most, 0.0f, -0.0f, 3 * least, -1.25f}));
}

}  // namespace
}  // namespace cmlc::numeric
