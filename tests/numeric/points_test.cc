#include "numeric/points.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <random>
#include <span>
#include <vector>

#include "numeric/half.h"

namespace cmlc::numeric {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<uint16_t> RandomHalves(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<uint16_t> halves;
  while (halves.size() < count) {
    const auto half = static_cast<uint16_t>(random());
    if (IsFiniteHalf(half)) halves.push_back(half);
    if (random() % 8 == 0) halves.push_back(random() % 2 == 0 ? 0x8000 : 0x0000);
  }
  halves.resize(count);
  return halves;
}

// All magnitudes and signs, many values repeated.
std::vector<float> RandomFloats(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> floats(count);
  for (float& value : floats) {
    const auto mantissa = static_cast<float>(static_cast<int>(random() % 2001) - 1000);
    value = std::ldexp(mantissa, static_cast<int>(random() % 40) - 30);
    if (random() % 16 == 0) value = -0.0f;
  }
  return floats;
}

double ValueOf(float value) { return static_cast<double>(value) + 0.0; }
double ValueOf(uint16_t half) { return static_cast<double>(HalfToFloat(half)) + 0.0; }

template <typename T>
void ExpectExact(const Points& points, const std::vector<T>& values) {
  std::map<double, double> expected;
  for (const T value : values) ++expected[ValueOf(value)];
  ASSERT_EQ(points.values.size(), expected.size());
  ASSERT_EQ(points.weights.size(), expected.size());
  size_t i = 0;
  for (const auto& [value, weight] : expected) {
    ASSERT_EQ(points.values[i], value) << "at " << i;
    ASSERT_EQ(points.weights[i], weight) << "at " << i;
    ASSERT_FALSE(std::signbit(points.values[i]) && points.values[i] == 0);
    ++i;
  }
}

TEST(PointsOf, SortsHalvesOfAnyNumber) {
  SortScratch scratch;
  Points points;
  for (const size_t count : {0u, 1u, 2u, 17u, 255u, 256u, 257u, 1000u, 20'000u}) {
    const std::vector<uint16_t> halves = RandomHalves(count, 1);
    PointsOf(halves, scratch, points);
    ExpectExact(points, halves);
  }
}

TEST(PointsOf, SortsFloatsOfAnyNumber) {
  SortScratch scratch;
  Points points;
  for (const size_t count : {0u, 1u, 2u, 17u, 255u, 256u, 257u, 1000u, 20'000u}) {
    const std::vector<float> floats = RandomFloats(count, 2);
    PointsOf(floats, scratch, points);
    ExpectExact(points, floats);
  }
}

TEST(PointsOf, ReusesScratchOfALargerCall) {
  SortScratch scratch;
  Points points;
  PointsOf(RandomFloats(5000, 3), scratch, points);
  const std::vector<float> few = RandomFloats(300, 4);
  PointsOf(few, scratch, points);
  ExpectExact(points, few);
}

TEST(PointsOf, SkipsBytesThatAllShare) {
  SortScratch scratch;
  Points points;
  const std::vector<float> equal(1000, -0.75f);
  PointsOf(equal, scratch, points);
  ExpectExact(points, equal);
  std::vector<float> close;
  for (int i = 0; i < 1000; ++i) close.push_back(1 + 0x1p-23f * static_cast<float>(i * 37 % 251));
  PointsOf(close, scratch, points);
  ExpectExact(points, close);
}

TEST(PointsOf, KeepsTheEndsOfTheRange) {
  SortScratch scratch;
  Points points;
  const float most = std::numeric_limits<float>::max();
  const float least = std::numeric_limits<float>::denorm_min();
  const std::vector<float> floats = {most, -most, least, -least, 0.0f, -0.0f, most};
  PointsOf(floats, scratch, points);
  ExpectExact(points, floats);
}

TEST(HalfCounts, GivesExactPoints) {
  const std::vector<uint16_t> halves = RandomHalves(100'000, 5);
  HalfCounts counts;
  counts.Add(halves);
  Points points;
  counts.ToPoints(points);
  ExpectExact(points, halves);
  EXPECT_EQ(counts.not_finite(), 0u);
}

TEST(HalfCounts, AreEmptyAtFirstAndOnceCleared) {
  HalfCounts counts;
  Points points;
  points.Add(1, 1);
  counts.ToPoints(points);
  EXPECT_TRUE(points.values.empty());
  counts.Add(RandomHalves(1000, 6));
  counts.Merge(counts);
  counts.Clear();
  counts.ToPoints(points);
  EXPECT_TRUE(points.values.empty());
}

TEST(HalfCounts, MergesZeros) {
  HalfCounts counts;
  counts.Add(std::vector<uint16_t>{0x8000, 0x0000, 0x8000});
  Points points;
  counts.ToPoints(points);
  EXPECT_EQ(points.values, std::vector<double>{0});
  EXPECT_EQ(points.weights, std::vector<double>{3});
}

TEST(HalfCounts, CountsWhatIsNotFinite) {
  HalfCounts counts;
  counts.Add(std::vector<uint16_t>{0x7c00, 0xfc00, 0x7e01, 0xffff, 0x7bff, 0xfbff, 0x3c00});
  EXPECT_EQ(counts.not_finite(), 4u);
  Points points;
  counts.ToPoints(points);
  EXPECT_EQ(points.values, (std::vector<double>{-65504, 1, 65504}));
}

TEST(HalfCounts, MergesWhatOthersCounted) {
  const std::vector<uint16_t> halves = RandomHalves(10'000, 7);
  HalfCounts left, right;
  left.Add(std::span(halves).first(3000));
  right.Add(std::span(halves).subspan(3000));
  left.Merge(right);
  Points points;
  left.ToPoints(points);
  ExpectExact(points, halves);
}

TEST(HalfCounts, CountsMoreThan32BitsHold) {
  HalfCounts counts;
  counts.Add(std::vector<uint16_t>{0x3c00, 0x4000, 0x4000});
  HalfCounts doubled;
  for (int i = 0; i < 40; ++i) {
    doubled.Clear();
    doubled.Merge(counts);
    doubled.Merge(counts);
    counts.Clear();
    counts.Merge(doubled);
  }
  EXPECT_EQ(counts.count(0x3c00), uint64_t{1} << 40);
  EXPECT_EQ(counts.count(0x4000), uint64_t{1} << 41);
}

// Bins as they should be: the exact sum of each bin's values.
struct Bin {
  uint64_t count = 0;
  long double sum = 0;
};

std::map<uint32_t, Bin> BinsOf(const std::vector<float>& floats) {
  std::map<uint32_t, Bin> bins;
  for (const float value : floats) {
    Bin& bin = bins[FloatBin(value)];
    ++bin.count;
    bin.sum += static_cast<long double>(value);
  }
  return bins;
}

void ExpectCounts(const FloatCounts& counts, const std::vector<float>& floats, uint64_t times = 1) {
  for (const auto& [bin, expected] : BinsOf(floats)) {
    ASSERT_EQ(counts.count(bin), expected.count * times) << bin;
    const auto mean = static_cast<double>(expected.sum / static_cast<long double>(expected.count));
    ASSERT_NEAR(counts.mean(bin), mean, 4e-16 * std::fabs(mean) + 1e-60) << bin;
  }
}

TEST(FloatCounts, KnowTheMeanOfEveryBin) {
  std::vector<float> floats = RandomFloats(20'000, 8);
  std::mt19937 random(9);
  for (int i = 0; i < 20'000; ++i)  // crowded bins of both signs
    floats.push_back((1 + 0x1p-23f * static_cast<float>(random() % 65536)) *
                     (random() % 2 == 0 ? 0.01f : -0.01f));
  FloatCounts counts;
  counts.Add(floats);
  ExpectCounts(counts, floats);
}

TEST(FloatCounts, KnowTheMeanOfSubnormalsAndExtremes) {
  std::vector<float> floats;
  for (uint32_t i = 0; i < 20'000; ++i) {
    floats.push_back(FloatOfKey(FloatKey(0.0f) + i));
    floats.push_back(FloatOfKey(FloatKey(0.0f) - i));
    floats.push_back(FloatOfKey(FloatKey(std::numeric_limits<float>::max()) - i));
    floats.push_back(FloatOfKey(FloatKey(std::numeric_limits<float>::lowest()) + i));
  }
  FloatCounts counts;
  counts.Add(floats);
  EXPECT_EQ(counts.not_finite(), 0u);
  ExpectCounts(counts, floats);
}

TEST(FloatCounts, KeepValuesOfHalvesExact) {
  std::vector<float> floats;
  for (uint32_t pattern = 0; pattern < 0x10000; ++pattern)
    if (IsFiniteHalf(static_cast<uint16_t>(pattern)))
      for (uint32_t i = 0; i <= pattern % 3; ++i)
        floats.push_back(HalfToFloat(static_cast<uint16_t>(pattern)));
  FloatCounts counts;
  counts.Add(floats);
  Points points;
  counts.ToPoints(points);
  ExpectExact(points, floats);
}

TEST(FloatCounts, MergeZeros) {
  FloatCounts counts;
  counts.Add(std::vector<float>{-0.0f, 0.0f, -0.0f, 1.0f});
  Points points;
  counts.ToPoints(points);
  EXPECT_EQ(points.values, (std::vector<double>{0, 1}));
  EXPECT_EQ(points.weights, (std::vector<double>{3, 1}));
}

TEST(FloatCounts, GiveOneAscendingPointForEveryBin) {
  const std::vector<float> floats = RandomFloats(50'000, 10);
  FloatCounts counts;
  counts.Add(floats);
  Points points;
  counts.ToPoints(points);
  double weight = 0;
  for (size_t i = 0; i < points.values.size(); ++i) {
    weight += points.weights[i];
    if (i > 0) {
      ASSERT_LT(points.values[i - 1], points.values[i]);
    }
  }
  EXPECT_EQ(weight, 50'000);
}

TEST(FloatCounts, VisitTheBinsThatHoldFiniteValues) {
  std::vector<float> floats = RandomFloats(3000, 13);
  const float least = std::numeric_limits<float>::denorm_min();
  const float most = std::numeric_limits<float>::max();
  for (const float value : {-0.0f, 0.0f, least, -least, most, -most}) floats.push_back(value);
  FloatCounts counts, merged;
  counts.Add(floats);
  merged.Merge(counts);
  counts.Add(std::vector<float>{kInfinity, -kInfinity, std::nanf("")});
  std::vector<uint32_t> expected;
  for (const auto& [bin, content] : BinsOf(floats)) expected.push_back(bin);
  for (const FloatCounts* some : {&counts, &merged}) {
    std::vector<uint32_t> bins;
    some->ForEachBin([&](uint32_t bin) { bins.push_back(bin); });
    EXPECT_EQ(bins, expected);
  }
}

TEST(FloatCounts, CountWhatIsNotFinite) {
  const float most = std::numeric_limits<float>::max();
  FloatCounts counts;
  counts.Add(std::vector<float>{kInfinity, -kInfinity, std::nanf(""), -std::nanf(""), most, -most});
  EXPECT_EQ(counts.not_finite(), 4u);
  Points points;
  counts.ToPoints(points);
  EXPECT_EQ(points.values,
            (std::vector<double>{-static_cast<double>(most), static_cast<double>(most)}));
}

TEST(FloatCounts, MergeWhatOthersCounted) {
  const std::vector<float> floats = RandomFloats(10'000, 11);
  FloatCounts left, right;
  left.Add(std::span(floats).first(3000));
  right.Add(std::span(floats).subspan(3000));
  left.Merge(right);
  ExpectCounts(left, floats);
  left.Add(floats);
  ExpectCounts(left, floats, 2);
}

TEST(FloatCounts, AreEmptyOnceCleared) {
  const std::vector<float> floats = RandomFloats(1000, 12);
  FloatCounts counts, other;
  other.Add(floats);
  counts.Add(floats);
  counts.Merge(other);
  counts.Clear();
  Points points;
  counts.ToPoints(points);
  EXPECT_TRUE(points.values.empty());
  counts.Add(floats);
  ExpectCounts(counts, floats);
}

// The packed counts move to wider ones every 2^24 values, and the last position takes most room.
TEST(FloatCounts, SurviveMoreValuesThanAPackedCountHolds) {
  const float last = FloatOfKey((FloatBin(1.0f) << kFloatBinShift) + (1u << kFloatBinShift) - 1);
  const std::vector<float> floats(1 << 20, last);
  FloatCounts counts;
  for (int i = 0; i < 17; ++i) counts.Add(floats);
  ExpectCounts(counts, floats, 17);
  FloatCounts doubled;
  doubled.Merge(counts);
  doubled.Merge(counts);
  ExpectCounts(doubled, floats, 34);
}

}  // namespace
}  // namespace cmlc::numeric
