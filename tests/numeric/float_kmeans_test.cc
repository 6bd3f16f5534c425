// FloatKMeans on fine counts alone; with a second pass over the values it is tested through
// FitValues. The oracle is KMeans1d on all values.
#include "numeric/float_kmeans.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "numeric/half.h"

namespace cmlc::numeric {
namespace {

constexpr size_t kCount = 1'000'000;
// Of the squared error, against the optimum. In clusters of few values one more or less is seen.
constexpr double kTolerance = 3e-7;

struct Distribution {
  std::string name;
  std::function<double(std::mt19937&)> draw;
};

void PrintTo(const Distribution& distribution, std::ostream* out) { *out << distribution.name; }

double Uniform(std::mt19937& random) { return (static_cast<double>(random()) + 0.5) * 0x1p-32; }
double Normal(std::mt19937& random) {
  const double radius = std::sqrt(-2 * std::log(Uniform(random)));
  return radius * std::cos(6.283185307179586 * Uniform(random));
}

std::vector<float> Generate(const Distribution& distribution) {
  std::mt19937 random(1);
  std::vector<float> values(kCount);
  for (float& value : values) value = static_cast<float>(distribution.draw(random));
  return values;
}

std::optional<std::vector<double>> Solve(const std::vector<float>& values, size_t entries) {
  FineCounts counts;
  counts.Add(values);
  FloatKMeans solver;
  KMeans1d kmeans;
  return solver.Solve(counts, entries, kmeans);
}

double SquaredError(const Points& points, const std::vector<double>& entries) {
  long double total = 0;
  size_t entry = 0;
  for (size_t i = 0; i < points.values.size(); ++i) {
    const auto distance = [&](size_t e) { return std::fabs(points.values[i] - entries[e]); };
    while (entry + 1 < entries.size() && distance(entry + 1) <= distance(entry)) ++entry;
    total += static_cast<long double>(points.weights[i] * distance(entry) * distance(entry));
  }
  return static_cast<double>(total);
}

class FineKMeansOf : public testing::TestWithParam<Distribution> {};

INSTANTIATE_TEST_SUITE_P(
    , FineKMeansOf,
    testing::Values(
        Distribution{"Gaussian", [](auto& r) { return 0.02 * Normal(r); }},
        Distribution{"JustAboveAPowerOfTwo", [](auto& r) { return 0.41 * Normal(r); }},
        Distribution{"HeavyTailed",
                     [](auto& r) { return 0.02 * Normal(r) / std::sqrt(0.1 + Uniform(r)); }},
        Distribution{"Uniform", [](auto& r) { return Uniform(r) - 0.5; }},
        Distribution{"OneSided", [](auto& r) { return std::fabs(Normal(r)); }},
        Distribution{"MostlyZero", [](auto& r) { return r() % 10 != 0 ? -0.0 : Normal(r); }},
        Distribution{"WithSubnormals",
                     [](auto& r) {
                       return r() % 10 == 0 ? std::floor(5000 * Normal(r)) * 0x1p-149 : Normal(r);
                     }},
        Distribution{"Clipped", [](auto& r) { return std::clamp(Normal(r), -1.3, 1.7); }},
        Distribution{"Lopsided", [](auto& r) { return std::exp(Normal(r)) - 0.5; }},
        Distribution{"Halves",
                     [](auto& r) {
                       return static_cast<double>(HalfToFloat(DoubleToHalf(0.3 * Normal(r))));
                     }}),
    [](const auto& test) { return test.param.name; });

TEST_P(FineKMeansOf, IsNearTheOptimum) {
  const std::vector<float> values = Generate(GetParam());
  SortScratch scratch;
  Points points;
  PointsOf(values, scratch, points);
  for (const size_t k : {2u, 3u, 4u, 8u, 16u}) {
    const std::optional<std::vector<double>> entries = Solve(values, k);
    ASSERT_TRUE(entries.has_value()) << k;
    ASSERT_EQ(entries->size(), k);
    EXPECT_TRUE(std::is_sorted(entries->begin(), entries->end()));
    KMeans1d kmeans;
    const double optimum = kmeans.Solve(points.values, points.weights, static_cast<int>(k)).sse;
    EXPECT_LE(SquaredError(points, *entries), optimum * (1 + kTolerance))
        << k << ", worse by a factor of 1 + " << SquaredError(points, *entries) / optimum - 1;
  }
}

TEST(FineKMeans, IsExactForValuesThatHalvesHave) {
  std::mt19937 random(3);
  std::vector<float> values(kCount);
  for (float& value : values) value = HalfToFloat(DoubleToHalf(0.3 * Normal(random)));
  values[5] = 0;
  // Subnormal halves are no first values of a slot.
  for (float& value : values)
    if (std::fabs(value) < 0x1p-14f) value = 0;
  SortScratch scratch;
  Points points;
  PointsOf(values, scratch, points);
  KMeans1d kmeans;
  for (const size_t k : {2u, 16u}) {
    const std::optional<std::vector<double>> entries = Solve(values, k);
    ASSERT_TRUE(entries.has_value());
    const double optimum = kmeans.Solve(points.values, points.weights, static_cast<int>(k)).sse;
    EXPECT_LE(SquaredError(points, *entries), optimum * (1 + 1e-12)) << k;
  }
}

TEST(FineKMeans, GivesZerosAnEntryThatIsZero) {
  std::mt19937 random(4);
  std::vector<float> values(kCount);
  for (float& value : values) {
    const double other = (0.5 + std::fabs(Normal(random))) * (random() % 2 == 0 ? 1 : -1);
    value = random() % 20 != 0 ? 0 : static_cast<float>(other);
  }
  const std::optional<std::vector<double>> entries = Solve(values, 8);
  ASSERT_TRUE(entries.has_value());
  EXPECT_EQ(std::count(entries->begin(), entries->end(), 0.0), 1);
}

TEST(FineKMeans, SaysWhereCountsAreTooCoarse) {
  const auto solves = [](const std::function<double(std::mt19937&)>& draw, size_t entries) {
    return Solve(Generate({"", draw}), entries).has_value();
  };
  // Close together, far from zero.
  EXPECT_FALSE(solves([](auto& r) { return 1 + 0.0001 * Normal(r); }, 16));
  EXPECT_FALSE(solves([](auto& r) { return 1 + 0.02 * Normal(r); }, 16));
  EXPECT_FALSE(
      solves([](auto& r) { return r() % 2 == 0 ? 1 + 1e-4 * Normal(r) : Normal(r) - 9; }, 16));
  // Hardly any error.
  EXPECT_FALSE(solves([](auto& r) { return static_cast<double>(r() % 16) * 0.1; }, 16));
  EXPECT_FALSE(solves([](auto& r) { return static_cast<double>(r() % 17) * 0.1; }, 16));
  EXPECT_FALSE(solves([](auto&) { return -0.3; }, 2));
  // Nothing but zeros and subnormal numbers, and what is not finite.
  EXPECT_FALSE(solves([](auto&) { return 0.0; }, 2));
  EXPECT_FALSE(solves([](auto& r) { return std::floor(5000 * Normal(r)) * 0x1p-149; }, 16));
  for (const float value : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    std::vector<float> values = Generate({"", [](auto& r) { return Normal(r); }});
    EXPECT_TRUE(Solve(values, 16).has_value());
    values[77] = value;
    EXPECT_FALSE(Solve(values, 16).has_value());
  }
}

TEST(FineKMeans, DoesNotDependOnWhatWasSolvedBefore) {
  const std::vector<float> first = Generate({"", [](auto& r) { return std::exp(5 * Normal(r)); }});
  const std::vector<float> second = Generate({"", [](auto& r) { return 0.02 * Normal(r); }});
  FineCounts counts;
  FloatKMeans solver;
  KMeans1d kmeans;
  counts.Add(first);
  solver.Solve(counts, 16, kmeans);
  counts.Clear();
  counts.Add(second);
  EXPECT_EQ(solver.Solve(counts, 16, kmeans), Solve(second, 16));
}

}  // namespace
}  // namespace cmlc::numeric
