#include "numeric/lut_fit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "numeric/half.h"
#include "numeric/kmeans1d.h"
#include "numeric/points.h"

namespace cmlc::numeric {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double Normal(std::mt19937& random) {
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += static_cast<double>(random()) * 0x1p-32;
  return sum;
}

// Distinct values of the type with their counts.
Points PointsOfValues(const std::vector<double>& values, EntryType type) {
  std::map<double, double> counts;
  for (const double value : values) ++counts[static_cast<double>(RoundEntry(value, type)) + 0.0];
  Points points;
  for (const auto& [value, count] : counts) points.Add(value, count);
  return points;
}

Points Gaussian(size_t count, double sigma, EntryType type, unsigned seed, double center = 0) {
  std::mt19937 random(seed);
  std::vector<double> values(count);
  for (double& value : values) value = center + sigma * Normal(random);
  return PointsOfValues(values, type);
}

double BruteForceError(const Points& points, std::span<const float> lut) {
  double total = 0;
  for (size_t i = 0; i < points.values.size(); ++i) {
    double least = kInfinity;
    for (const float entry : lut)
      least = std::min(least, std::fabs(points.values[i] - static_cast<double>(entry)));
    total += points.weights[i] * least * least;
  }
  return total;
}

std::vector<float> Uniform(const Points& points, EntryType type, size_t entries) {
  std::vector<float> lut(entries, std::nanf(""));
  FitUniform(points, type, lut);
  return lut;
}

// From the least to the greatest value, computed in double.
std::vector<float> MinMaxGrid(const Points& points, EntryType type, size_t entries) {
  const double least = points.values.front();
  const double step = (points.values.back() - least) / static_cast<double>(entries - 1);
  std::vector<float> lut;
  for (size_t i = 0; i < entries; ++i)
    lut.push_back(RoundEntry(least + static_cast<double>(i) * step, type));
  return lut;
}

// As coremltools computes it: range and scale in the type of the weights.
std::vector<float> CoremltoolsGrid(const Points& points, EntryType type, size_t entries) {
  const auto least = static_cast<float>(points.values.front());
  const auto greatest = static_cast<float>(points.values.back());
  const auto rounded = [type](float value) {
    return type == EntryType::kHalf ? HalfToFloat(FloatToHalf(value)) : value;
  };
  const float scale = rounded(rounded(greatest - least) / static_cast<float>(entries - 1));
  std::vector<float> lut;
  for (size_t i = 0; i < entries; ++i)
    lut.push_back(RoundEntry(
        static_cast<double>(i) * static_cast<double>(scale) + static_cast<double>(least), type));
  return lut;
}

TEST(RoundEntry, RoundsToTheType) {
  EXPECT_EQ(RoundEntry(1.0 / 3, EntryType::kFloat), 1.0f / 3);
  EXPECT_EQ(RoundEntry(1.0 / 3, EntryType::kHalf), 0.333251953125f);
  EXPECT_EQ(RoundEntry(2049, EntryType::kHalf), 2048.0f);  // a tie, to even
  EXPECT_EQ(RoundEntry(2051, EntryType::kHalf), 2052.0f);
  EXPECT_EQ(RoundEntry(2049.0000001, EntryType::kHalf), 2050.0f);  // fp32 would make it a tie
  EXPECT_EQ(RoundEntry(0x1.000001p0, EntryType::kFloat), 1.0f);
  EXPECT_EQ(RoundEntry(0x1.000003p0, EntryType::kFloat), 0x1.000004p0f);
}

TEST(FinishLut, RepeatsTheLastEntry) {
  std::vector<float> lut(4);
  FinishLut(std::vector<double>{-1, 1.0 / 3}, EntryType::kHalf, lut);
  EXPECT_EQ(lut, (std::vector<float>{-1, 0.333251953125f, 0.333251953125f, 0.333251953125f}));
  FinishLut(std::vector<double>{-1, 0, 1.0 / 3, 2}, EntryType::kFloat, lut);
  EXPECT_EQ(lut, (std::vector<float>{-1, 0, 1.0f / 3, 2}));
}

TEST(FinishLutDeathTest, RefusesNoValuesOrTooMany) {
  std::vector<float> lut(2);
  EXPECT_DEATH(FinishLut({}, EntryType::kHalf, lut), "");
  EXPECT_DEATH(FinishLut(std::vector<double>{1, 2, 3}, EntryType::kHalf, lut), "");
}

TEST(LutError, AgreesWithTryingEveryEntry) {
  std::mt19937 random(1);
  for (unsigned round = 0; round < 200; ++round) {
    const Points points = Gaussian(1 + random() % 300, 1, EntryType::kHalf, round);
    std::vector<float> lut(1 + random() % 40);
    for (float& entry : lut)
      entry = static_cast<float>(static_cast<int>(random() % 60) - 30) * 0.1f;
    std::sort(lut.begin(), lut.end());
    const double expected = BruteForceError(points, lut);
    ASSERT_NEAR(LutError(points, lut), expected, 1e-13 * expected);
  }
}

TEST(LutError, IsZeroWhereEveryPointHasAnEntry) {
  Points points;
  for (const double value : {-2.0, 0.0, 0.5}) points.Add(value, 7);
  EXPECT_EQ(LutError(points, std::vector<float>{-2, -2, 0, 0.5f, 0.5f}), 0);
  EXPECT_EQ(Signal(points), 7 * 4.25);
}

// Sums of squares would cancel to nothing.
TEST(LutError, KeepsSmallErrorsFarFromZero) {
  Points points;
  points.Add(1000, 1);
  points.Add(1000 + 0x1p-13, 1);
  EXPECT_EQ(LutError(points, std::vector<float>{1000}), 0x1p-26);
}

class FitUniformTest : public testing::TestWithParam<EntryType> {};

INSTANTIATE_TEST_SUITE_P(, FitUniformTest, testing::Values(EntryType::kHalf, EntryType::kFloat),
                         [](const auto& test) {
                           return test.param == EntryType::kHalf ? "Half" : "Float";
                         });

TEST_P(FitUniformTest, IsNeverWorseThanTheUsualGrids) {
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    const double sigma = std::ldexp(1.0, static_cast<int>(random() % 24) - 16);
    const double center = seed % 3 == 0 ? 0 : sigma * static_cast<double>(random() % 100);
    const Points points = Gaussian(10 + random() % 3000, sigma, GetParam(), seed, center);
    if (!std::isfinite(points.values.back())) continue;
    for (const size_t entries : {2u, 4u, 8u, 16u, 64u, 256u}) {
      const std::vector<float> lut = Uniform(points, GetParam(), entries);
      ASSERT_TRUE(std::is_sorted(lut.begin(), lut.end()));
      const double error = LutError(points, lut);
      ASSERT_LE(error,
                BruteForceError(points, MinMaxGrid(points, GetParam(), entries)) * (1 + 1e-12));
      ASSERT_LE(error,
                BruteForceError(points, CoremltoolsGrid(points, GetParam(), entries)) * (1 + 1e-12))
          << "seed " << seed << ", " << entries << " entries";
    }
  }
}

TEST_P(FitUniformTest, IsMuchBetterWithOutliers) {
  Points points = Gaussian(20'000, 0.02, GetParam(), 3);
  points.Add(4, 1);
  for (const size_t entries : {16u, 64u}) {
    const double error = LutError(points, Uniform(points, GetParam(), entries));
    const double usual = LutError(points, MinMaxGrid(points, GetParam(), entries));
    // The outlier alone costs up to 16, more than all others on the usual grid of 64; with 16 the
    // others dominate.
    EXPECT_LE(error, usual);
  }
  // Many values, so that cutting off a single one is worth it.
  for (double& weight : points.weights) weight *= 1e4;
  points.weights.back() = 1;
  for (const size_t entries : {4u, 16u, 64u})
    EXPECT_LT(LutError(points, Uniform(points, GetParam(), entries)),
              LutError(points, MinMaxGrid(points, GetParam(), entries)) / 10)
        << entries;
}

TEST_P(FitUniformTest, IsEvenlySpaced) {
  const Points points = Gaussian(5000, 1, GetParam(), 4);
  const std::vector<float> lut = Uniform(points, GetParam(), 16);
  const double step = (static_cast<double>(lut.back()) - static_cast<double>(lut.front())) / 15;
  const double rounding = GetParam() == EntryType::kHalf ? 0x1p-9 : 0x1p-21;
  for (size_t i = 0; i < lut.size(); ++i)
    EXPECT_NEAR(static_cast<double>(lut[i]),
                static_cast<double>(lut.front()) + static_cast<double>(i) * step, 2 * rounding);
}

TEST_P(FitUniformTest, RepeatsTheOnlyValue) {
  Points points;
  points.Add(-0.75, 100);
  EXPECT_EQ(Uniform(points, GetParam(), 16), std::vector<float>(16, -0.75f));
}

TEST_P(FitUniformTest, HitsTwoValuesExactly) {
  Points points;
  points.Add(-0.75, 100);
  points.Add(2, 1);
  for (const size_t entries : {2u, 16u, 256u})
    EXPECT_EQ(LutError(points, Uniform(points, GetParam(), entries)), 0) << entries;
}

TEST_P(FitUniformTest, StaysFiniteOverTheWholeRange) {
  const double most = GetParam() == EntryType::kHalf
                          ? 65504
                          : static_cast<double>(std::numeric_limits<float>::max());
  Points points;
  for (const double value : {-most, -1.0, 0.0, 1.0, most}) points.Add(value, 3);
  for (const size_t entries : {2u, 4u, 256u}) {
    const std::vector<float> lut = Uniform(points, GetParam(), entries);
    EXPECT_TRUE(std::is_sorted(lut.begin(), lut.end()));
    for (const float entry : lut) EXPECT_TRUE(std::isfinite(entry));
  }
}

}  // namespace
}  // namespace cmlc::numeric
