#include "numeric/histogram.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "numeric/half.h"

namespace cmlc::numeric {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(CountHalves, CountsEveryLength) {
  std::mt19937 random(1);
  for (size_t length = 0; length <= 100; ++length) {
    std::vector<uint16_t> values(length);
    std::vector<uint32_t> expected(kHalfPatterns, 0);
    for (uint16_t& value : values) {
      value = static_cast<uint16_t>(random() % 2 == 0 ? random() % 4 : random());
      ++expected[value];
    }
    std::vector<uint32_t> counts(kHalfPatterns, 0);
    CountHalves(values, counts.data());
    ASSERT_EQ(counts, expected) << length;
  }
}

TEST(CountHalves, AddsToWhatIsThere) {
  std::vector<uint16_t> values(kHalfPatterns);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(i);
  std::vector<uint32_t> counts(kHalfPatterns, 0);
  CountHalves(values, counts.data());
  EXPECT_EQ(counts, std::vector<uint32_t>(kHalfPatterns, 1));
  CountHalves(values, counts.data());
  EXPECT_EQ(counts, std::vector<uint32_t>(kHalfPatterns, 2));
}

TEST(CountFloats, CountsEveryLength) {
  std::mt19937 random(2);
  for (size_t length = 0; length <= 50; ++length) {
    std::vector<float> values(length);
    for (float& value : values) value = static_cast<float>(random() % 1000) * 0.01f - 5;
    std::vector<uint32_t> counts(kFloatBins, 0);
    CountFloats(values, counts.data());
    for (const float value : values) {
      ASSERT_GT(counts[FloatBin(value)], 0u);
      --counts[FloatBin(value)];
    }
    ASSERT_EQ(counts, std::vector<uint32_t>(kFloatBins, 0)) << length;
  }
}

TEST(FloatBin, RisesWithTheValueAndStartsWithItsLeast) {
  const uint32_t first = FloatBin(std::numeric_limits<float>::lowest());
  const uint32_t last = FloatBin(std::numeric_limits<float>::max());
  for (uint32_t bin = first; bin <= last; ++bin) {
    const float start = FloatBinStart(bin);
    ASSERT_EQ(FloatBin(start), bin);
    if (bin == first) continue;
    // -0 is the last value of its bin, and no value compares between it and +0.
    const float before = start == 0.0f ? -0.0f : std::nextafter(start, -kInfinity);
    ASSERT_EQ(FloatBin(before), bin - 1) << start;
  }
}

TEST(FloatBin, HoldsOneHalf) {
  // 10 bits of mantissa: halves of the normal range are in different bins.
  for (uint32_t pattern = 0x400; pattern < 0x7bff; ++pattern) {
    const float value = HalfToFloat(static_cast<uint16_t>(pattern));
    const float next = HalfToFloat(static_cast<uint16_t>(pattern + 1));
    ASSERT_EQ(FloatBin(next), FloatBin(value) + 1);
    ASSERT_EQ(FloatBin(-next), FloatBin(-value) - 1);
  }
}

}  // namespace
}  // namespace cmlc::numeric
