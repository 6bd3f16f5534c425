// Ranges from statistics, and scales and zero points from ranges.
#include "activations/range.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "numeric/half.h"
#include "support/test_util.h"

namespace cmlc::activations {
namespace {

using calibrate::ValueStatistics;

constexpr DataType kHalf = DataType::kFloat16;
constexpr DataType kFloat = DataType::kFloat32;

Settings With(Method method, bool symmetric = true, DataType dtype = DataType::kInt8) {
  Settings settings;
  settings.method = method;
  settings.symmetric = symmetric;
  settings.dtype = dtype;
  return settings;
}

// Statistics of runs, each of some numbers.
ValueStatistics StatisticsOf(const std::vector<std::vector<float>>& runs) {
  ValueStatistics statistics;
  for (const std::vector<float>& run : runs) {
    ValueStatistics part;
    part.AddNumbers(run);
    statistics.AddCounts(part);
    statistics.AddRun(part.least, part.greatest);
  }
  return statistics;
}

Range Find(const ValueStatistics& value, const Settings& settings, DataType dtype = kFloat) {
  const ValueStatistics* const values[] = {&value};
  return FindRange(values, settings, dtype);
}

double ErrorOf(const ValueStatistics& value, Range range, const Settings& settings) {
  const ValueStatistics* const values[] = {&value};
  return MeanSquaredError(values, ParametersFor(range, settings, kFloat));
}

double Dequantized(double x, const Parameters& parameters) {
  const double least = parameters.dtype == DataType::kInt8 ? -128 : 0;
  const double code =
      std::clamp(std::nearbyint(x / parameters.scale) + parameters.zero_point, least, least + 255);
  return parameters.scale * (code - parameters.zero_point);
}

TEST(Parameters, OfARangeAreThoseOfCoremltools) {
  // Its documented example: -1 ... 3.
  const Range range{-1, 3};
  const Parameters symmetric = ParametersFor(range, With(Method::kMinMax), kFloat);
  EXPECT_FLOAT_EQ(static_cast<float>(symmetric.scale), 3.0f / 127);
  EXPECT_EQ(symmetric.zero_point, 0);
  const Parameters affine = ParametersFor(range, With(Method::kMinMax, false), kFloat);
  EXPECT_FLOAT_EQ(static_cast<float>(affine.scale), 4.0f / 255);
  EXPECT_EQ(affine.zero_point, -64);
  const Parameters unsigned_symmetric =
      ParametersFor(range, With(Method::kMinMax, true, DataType::kUInt8), kFloat);
  EXPECT_FLOAT_EQ(static_cast<float>(unsigned_symmetric.scale), 3.0f / 127);
  EXPECT_EQ(unsigned_symmetric.zero_point, 127);
  const Parameters unsigned_affine =
      ParametersFor(range, With(Method::kMinMax, false, DataType::kUInt8), kFloat);
  EXPECT_FLOAT_EQ(static_cast<float>(unsigned_affine.scale), 4.0f / 255);
  EXPECT_EQ(unsigned_affine.zero_point, 64);
}

TEST(Parameters, AlwaysHaveZero) {
  const Parameters above = ParametersFor({2, 6}, With(Method::kMinMax, false), kFloat);
  EXPECT_FLOAT_EQ(static_cast<float>(above.scale), 6.0f / 255);
  EXPECT_EQ(above.zero_point, -128);
  const Parameters below = ParametersFor({-6, -2}, With(Method::kMinMax, false), kFloat);
  EXPECT_FLOAT_EQ(static_cast<float>(below.scale), 6.0f / 255);
  EXPECT_EQ(below.zero_point, 127);
}

TEST(Parameters, NeverHaveAScaleOfZeroOrInfinity) {
  for (const bool symmetric : {true, false})
    for (const DataType dtype : {kHalf, kFloat}) {
      const Settings settings = With(Method::kMinMax, symmetric);
      const double most =
          dtype == kHalf ? 65504 : static_cast<double>(std::numeric_limits<float>::max());
      const Parameters huge = ParametersFor({-most, most}, settings, dtype);
      EXPECT_TRUE(std::isfinite(huge.scale));
      EXPECT_NEAR(Dequantized(most, huge) / most, 1, 0.005);
      EXPECT_FALSE(huge.raised);
      // Where coremltools' fp16 arithmetic fails.
      const Parameters wide = ParametersFor({-1000, 1000}, settings, dtype);
      EXPECT_NEAR(wide.zero_point, symmetric ? 0 : -0.5, 0.5);
      EXPECT_NEAR(wide.scale, 1000.0 / 127.25, 0.04);
      const Parameters zero = ParametersFor({0, 0}, settings, dtype);
      EXPECT_EQ(zero.scale, 1);
      EXPECT_EQ(Dequantized(0, zero), 0);
      const Parameters tiny = ParametersFor({0, 1e-40}, settings, dtype);
      EXPECT_EQ(tiny.scale, dtype == kHalf ? 0x1p-14 : 0x1p-126);
      EXPECT_TRUE(tiny.raised);
    }
}

// Within the range the error is at most half a step, zero is kept, and a scale is a number of its
// type.
TEST(Parameters, RoundWithinHalfAStep) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> exponent(-3, 4), unit(-1, 1);
  for (int i = 0; i < 2000; ++i) {
    const double size = std::pow(10, exponent(random));
    const Range range{-size * std::fabs(unit(random)), size * std::fabs(unit(random))};
    for (const bool symmetric : {true, false})
      for (const DataType codes : {DataType::kInt8, DataType::kUInt8})
        for (const DataType dtype : {kHalf, kFloat}) {
          const Parameters p = ParametersFor(range, With(Method::kMinMax, symmetric, codes), dtype);
          ASSERT_GT(p.scale, 0);
          const auto stored = static_cast<float>(p.scale);
          ASSERT_EQ(static_cast<double>(stored), p.scale);
          if (dtype == kHalf) {
            ASSERT_EQ(numeric::HalfToFloat(numeric::FloatToHalf(stored)), stored);
          }
          ASSERT_EQ(Dequantized(0, p), 0);
          for (const double x : {range.low, range.high, range.low * 0.37, range.high * 0.71})
            // An end may lie a little outside, as scale and zero point are rounded.
            ASSERT_NEAR(Dequantized(x, p), x, p.scale * (0.5 + 0.5 + 128 * 0x1p-11));
        }
  }
}

TEST(FindRange, OfTheFirstThreeMethods) {
  const ValueStatistics statistics = StatisticsOf({{-1, 0, 2}, {-3, 0.5, 1}, {0, 0, 10}});
  Range range = Find(statistics, With(Method::kMinMax));
  EXPECT_EQ(range.low, -3);
  EXPECT_EQ(range.high, 10);
  Settings settings = With(Method::kEma);
  settings.ema_weight = 0.5;
  range = Find(statistics, settings);
  EXPECT_DOUBLE_EQ(range.low, 0.5 * (0.5 * (-1 - 3) + 0));
  EXPECT_DOUBLE_EQ(range.high, 0.5 * (0.5 * (2 + 1) + 10));
  settings = With(Method::kPercentile);
  settings.percentile = 100;
  range = Find(statistics, settings);
  EXPECT_EQ(range.low, -3);
  EXPECT_EQ(range.high, 10);

  std::vector<float> even;
  for (int i = -1000; i <= 1000; ++i) even.push_back(static_cast<float>(i));
  settings.percentile = 90;
  range = Find(StatisticsOf({even}), settings);
  EXPECT_NEAR(range.low, -800, 4);
  EXPECT_NEAR(range.high, 800, 4);
}

TEST(FindRange, WhereNumbersAreEvenNoneIsCutOff) {
  std::vector<float> even;
  for (int i = 0; i <= 10000; ++i) even.push_back(static_cast<float>(i));
  for (const Method method : {Method::kMse, Method::kKl}) {
    const Range range = Find(StatisticsOf({even}), With(method));
    EXPECT_EQ(range.low, 0);
    EXPECT_NEAR(range.high, 10000, method == Method::kMse ? 0 : 100);
  }
}

// Two million Gaussian numbers and a far one: the least error is where a grid search finds it.
TEST(FindRange, ByLeastSquaredErrorIsTheBestOfAGrid) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(2000000);
  for (float& number : numbers) number = normal(random);
  numbers.push_back(150);
  const ValueStatistics statistics = StatisticsOf({numbers});
  for (const bool symmetric : {true, false}) {
    const Settings settings = With(Method::kMse, symmetric);
    const Range found = Find(statistics, settings);
    EXPECT_LT(found.high, 120);
    const double error = ErrorOf(statistics, found, settings);
    double best = std::numeric_limits<double>::infinity();
    for (double high = 2; high <= 150; high *= 1.06)
      for (double low = symmetric ? -high : -5; low <= -2 || low == -high; low += 0.5) {
        best = std::min(best, ErrorOf(statistics, {low, high}, settings));
        if (symmetric) break;
      }
    EXPECT_LE(error, best * 1.01) << symmetric;
    EXPECT_LT(error * 2, ErrorOf(statistics, {-5, 150}, settings));
    // The error that is minimized is that of the numbers themselves.
    const Parameters parameters = ParametersFor(found, settings, kFloat);
    double direct = 0;
    for (const float number : numbers) {
      const double x = static_cast<double>(number);
      direct += (x - Dequantized(x, parameters)) * (x - Dequantized(x, parameters));
    }
    direct /= static_cast<double>(numbers.size());
    EXPECT_NEAR(error / direct, 1, 0.02);
  }
}

// What makes the error a little smaller only is not worth losing the greatest numbers.
TEST(FindRange, CutsOffOnlyWhereThatPays) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(100000);
  for (float& number : numbers) number = normal(random);
  const ValueStatistics statistics = StatisticsOf({numbers});
  const Range all = Find(statistics, With(Method::kMinMax));
  const Range found = Find(statistics, With(Method::kMse));
  EXPECT_EQ(found.low, all.low);
  EXPECT_EQ(found.high, all.high);
}

TEST(FindRange, ByDivergenceCutsOffFarNumbers) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(200000);
  for (float& number : numbers) number = std::fabs(normal(random));
  numbers.push_back(20);
  for (const bool symmetric : {true, false}) {
    const Range range = Find(StatisticsOf({numbers}), With(Method::kKl, symmetric));
    EXPECT_EQ(range.low, 0);
    EXPECT_GT(range.high, 2);
    EXPECT_LT(range.high, 12);
  }
}

// Of grey levels, say: the least of them alone has no divergence at all.
TEST(FindRange, ByDivergenceKeepsFewDistinctNumbers) {
  std::vector<float> numbers;
  for (int i = 0; i < 1700; ++i) numbers.push_back(static_cast<float>(i % 17) / 16);
  EXPECT_EQ(Find(StatisticsOf({numbers}), With(Method::kKl)).high, 1);
}

TEST(FindRange, OfSeveralValuesIsForAllOfThem) {
  const ValueStatistics a = StatisticsOf({{-1, 2}}), b = StatisticsOf({{0, 5}, {1, 4}});
  const ValueStatistics* const both[] = {&a, &b};
  for (const Method method : {Method::kMinMax, Method::kEma, Method::kPercentile, Method::kMse}) {
    const Range range = FindRange(both, With(method), kFloat);
    EXPECT_LE(range.low, -0.9) << static_cast<int>(method);
    EXPECT_GE(range.high, method == Method::kEma ? 4.8 : 3.9) << static_cast<int>(method);
  }
}

TEST(FindRange, OfZerosIsEmpty) {
  const ValueStatistics zeros = StatisticsOf({{0, 0, 0}, {0}});
  for (const Method method :
       {Method::kMinMax, Method::kEma, Method::kPercentile, Method::kMse, Method::kKl}) {
    const Range range = Find(zeros, With(method));
    EXPECT_EQ(range.low, 0);
    EXPECT_EQ(range.high, 0);
    EXPECT_EQ(ParametersFor(range, With(method), kHalf).scale, 1);
  }
}

}  // namespace
}  // namespace cmlc::activations
