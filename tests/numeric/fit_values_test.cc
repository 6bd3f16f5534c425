// The oracle sorts every value with std::sort and hands the distinct ones to KMeans1d, whose own
// tests compare it with the textbook dynamic program.

#include "numeric/fit_values.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <ostream>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "numeric/half.h"
#include "numeric/kmeans1d.h"
#include "numeric/lut_fit.h"
#include "numeric/points.h"

namespace cmlc::numeric {
namespace {

constexpr size_t kSmall = 3000;      // sorted, whatever the type
constexpr size_t kLarge = 100'000;   // counted
constexpr double kTolerance = 1e-7;  // of the squared error, against the optimum
// The same where fine counts are used. Values that repeat, as they do here, are the hard case: one
// more or less in a cluster is seen.
constexpr double kFineTolerance = 3e-7;
const std::vector<size_t> kEntryCounts = {2, 4, 8, 16, 64, 256};

// Seeded numbers that are the same with every standard library.
class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  size_t Below(size_t end) { return engine_() % end; }
  // In (0, 1).
  double Uniform() { return (static_cast<double>(engine_()) + 0.5) * 0x1p-32; }
  double Normal() {
    return std::sqrt(-2 * std::log(Uniform())) * std::cos(6.283185307179586 * Uniform());
  }
  double Student3() {
    double squares = 0;
    for (int i = 0; i < 3; ++i) {
      const double x = Normal();
      squares += x * x;
    }
    return Normal() / std::sqrt(squares / 3);
  }

 private:
  std::mt19937 engine_;
};

// `values` cut into pieces of nearly equal size, the whole of it `repeats` times over: large
// sources whose optimum is cheap to know.
template <typename T>
class PieceSource final : public ValueSource<T> {
 public:
  PieceSource(std::span<const T> values, size_t pieces, size_t repeats = 1)
      : values_(values), pieces_(pieces), repeats_(repeats) {}
  uint64_t count() const override { return values_.size() * repeats_; }
  size_t pieces() const override { return pieces_ * repeats_; }
  Status Visit(size_t piece, const typename ValueSource<T>::Visitor& visit) const override {
    const size_t part = piece % pieces_;
    const size_t begin = values_.size() * part / pieces_;
    const size_t end = values_.size() * (part + 1) / pieces_;
    visit(piece / pieces_ * values_.size() + begin, values_.subspan(begin, end - begin));
    return Ok();
  }

 private:
  std::span<const T> values_;
  size_t pieces_;
  size_t repeats_;
};

// A source whose last piece cannot be read.
class BrokenSource final : public ValueSource<float> {
 public:
  uint64_t count() const override { return 2 * kLarge; }
  size_t pieces() const override { return 2; }
  Status Visit(size_t piece, const Visitor& visit) const override {
    if (piece == 1) return Error{ErrorKind::kBadInput, "weight.bin: is cut short"};
    visit(0, values_);
    return Ok();
  }

 private:
  std::vector<float> values_ = std::vector<float>(kLarge, 1.0f);
};

double ValueOf(float value) { return static_cast<double>(value); }
double ValueOf(uint16_t half) { return static_cast<double>(HalfToFloat(half)); }

template <typename T>
Points Sorted(const std::vector<T>& values) {
  std::vector<double> all;
  for (const T value : values) all.push_back(ValueOf(value) + 0.0);
  std::sort(all.begin(), all.end());
  Points points;
  for (const double value : all) {
    if (!points.values.empty() && points.values.back() == value)
      points.weights.back() += 1;
    else
      points.Add(value, 1);
  }
  return points;
}

// Of the nearest entries, in long double.
double SquaredErrorOf(const Points& points, const std::vector<float>& lut) {
  long double total = 0;
  size_t entry = 0;
  for (size_t i = 0; i < points.values.size(); ++i) {
    const auto distance = [&](size_t e) {
      return std::fabs(static_cast<long double>(points.values[i]) -
                       static_cast<long double>(lut[e]));
    };
    while (entry + 1 < lut.size() && distance(entry + 1) <= distance(entry)) ++entry;
    total += static_cast<long double>(points.weights[i]) * distance(entry) * distance(entry);
  }
  return static_cast<double>(total);
}

std::vector<float> ExactEntries(const Points& points, size_t k, EntryType type) {
  KMeans1d solver;
  std::vector<float> entries;
  for (const double value :
       solver.Solve(points.values, points.weights, static_cast<int>(k)).centroids)
    entries.push_back(RoundEntry(value, type));
  return entries;
}

template <typename T>
FitResult Fit(const ValueSource<T>& source, const FitRequest& request, int threads = 1) {
  ThreadPool pool(threads);
  FitWorkspace workspace;
  Result<FitResult> result = FitValues(source, request, pool, workspace);
  EXPECT_TRUE(result.ok()) << result.error().message;
  return result.ok() ? *result : FitResult{};
}

template <typename T>
FitResult FitAll(const std::vector<T>& values, const FitRequest& request) {
  return Fit<T>(SpanSource<T>(values), request);
}

FitRequest KMeans(size_t entries) { return {.mode = FitMode::kKMeans, .entries = entries}; }
FitRequest Unique(size_t entries) { return {.mode = FitMode::kUnique, .entries = entries}; }

std::vector<float> Generate(size_t count, unsigned seed,
                            const std::function<double(Random&)>& draw) {
  Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(draw(random));
  return values;
}

struct Distribution {
  std::string name;
  std::function<double(Random&)> draw;
};

void PrintTo(const Distribution& distribution, std::ostream* out) { *out << distribution.name; }

const std::vector<Distribution>& Distributions() {
  static const std::vector<Distribution> all = {
      {"Gaussian", [](Random& r) { return 0.02 * r.Normal(); }},
      {"Shifted", [](Random& r) { return 1 + 0.02 * r.Normal(); }},
      {"HeavyTailed", [](Random& r) { return 0.02 * r.Student3(); }},
      {"Uniform", [](Random& r) { return r.Uniform() - 0.5; }},
      {"HalfGrid",
       [](Random& r) { return static_cast<double>(HalfToFloat(DoubleToHalf(0.02 * r.Normal()))); }},
      {"FewBins", [](Random& r) { return 1 + 0.002 * r.Uniform(); }},
      {"AFewHundredBins", [](Random& r) { return 1 + 0.4 * r.Uniform(); }},
      {"AllEqual", [](Random&) { return -0.3; }},
      {"TwoClusters", [](Random& r) { return (r.Below(2) == 0 ? -1 : 3) + 1e-4 * r.Normal(); }},
      {"ClusterInABin",
       [](Random& r) { return r.Below(10) == 0 ? 1e-4 * r.Normal() : 1 + 0.0009 * r.Uniform(); }},
      {"Outliers",
       [](Random& r) {
         return r.Below(10'000) == 0 ? 1e30 * (r.Uniform() - 0.5) : 0.02 * r.Normal();
       }},
      {"OneSided", [](Random& r) { return std::fabs(r.Normal()); }},
      {"MostlyZero", [](Random& r) { return r.Below(10) != 0 ? -0.0 : r.Normal(); }},
      {"LogUniform", [](Random& r) { return std::exp(40 * r.Uniform() - 20); }},
      {"Subnormal", [](Random& r) { return std::floor(5000 * r.Normal()) * 0x1p-149; }},
  };
  return all;
}

class FitKMeans : public testing::TestWithParam<Distribution> {};

INSTANTIATE_TEST_SUITE_P(, FitKMeans, testing::ValuesIn(Distributions()),
                         [](const auto& test) { return test.param.name; });

void ExpectNearOptimum(const std::vector<float>& values, size_t repeats, const Points& points,
                       size_t k, double tolerance = kTolerance) {
  const double optimum = SquaredErrorOf(points, ExactEntries(points, k, EntryType::kFloat));
  const FitResult result = Fit<float>(PieceSource<float>(values, 3, repeats), KMeans(k), 2);
  EXPECT_TRUE(std::is_sorted(result.entries.begin(), result.entries.end()));
  EXPECT_LE(result.entries.size(), k);
  const double error = SquaredErrorOf(points, result.entries);
  EXPECT_LE(error, optimum * (1 + tolerance))
      << "k = " << k << ", worse by a factor of 1 + " << error / optimum - 1;
}

TEST_P(FitKMeans, IsOptimalForManyFloats) {
  const std::vector<float> values = Generate(kLarge, 1, GetParam().draw);
  const Points points = Sorted(values);
  for (const size_t k : kEntryCounts) ExpectNearOptimum(values, 1, points, k);
}

TEST_P(FitKMeans, IsOptimalForMillionsOfFloats) {
  const std::vector<float> values = Generate(kLarge, 2, GetParam().draw);
  const Points points = Sorted(values);
  for (const size_t k : {2, 16, 256}) ExpectNearOptimum(values, 45, points, k, kFineTolerance);
}

template <typename T>
std::vector<T> ValuesOf(const Distribution& distribution, size_t count, unsigned seed);

template <>
std::vector<float> ValuesOf(const Distribution& distribution, size_t count, unsigned seed) {
  return Generate(count, seed, distribution.draw);
}

// Halves as big as the type allows.
template <>
std::vector<uint16_t> ValuesOf(const Distribution& distribution, size_t count, unsigned seed) {
  std::vector<uint16_t> halves;
  for (const float value : Generate(count, seed, distribution.draw))
    halves.push_back(FloatToHalf(std::clamp(value, -kMaxHalf, kMaxHalf)));
  return halves;
}

TEST_P(FitKMeans, IsOptimalForFewFloats) {
  const std::vector<float> values = ValuesOf<float>(GetParam(), kSmall, 3);
  const Points points = Sorted(values);
  for (const size_t k : kEntryCounts) {
    const double error = SquaredErrorOf(points, FitAll(values, KMeans(k)).entries);
    const double optimum = SquaredErrorOf(points, ExactEntries(points, k, EntryType::kFloat));
    EXPECT_LE(error, optimum * (1 + 1e-12)) << k;
  }
}

TEST_P(FitKMeans, IsOptimalForHalves) {
  for (const size_t count : {kSmall, kLarge}) {
    const std::vector<uint16_t> values = ValuesOf<uint16_t>(GetParam(), count, 4);
    const Points points = Sorted(values);
    for (const size_t k : kEntryCounts) {
      const FitResult result = FitAll(values, KMeans(k));
      EXPECT_TRUE(std::is_sorted(result.entries.begin(), result.entries.end()));
      const double error = SquaredErrorOf(points, result.entries);
      const double optimum = SquaredErrorOf(points, ExactEntries(points, k, EntryType::kHalf));
      EXPECT_LE(error, optimum * (1 + 1e-12)) << k;
      EXPECT_NEAR(result.noise, error, 1e-9 * error) << k;
      EXPECT_NEAR(result.signal, Signal(points), 1e-9 * Signal(points)) << k;
    }
  }
}

TEST_P(FitKMeans, DoesNotDependOnPiecesOrThreads) {
  const std::vector<float> values = ValuesOf<float>(GetParam(), kLarge, 5);
  const std::vector<uint16_t> halves = ValuesOf<uint16_t>(GetParam(), kLarge, 5);
  for (const size_t k : {16u, 256u}) {
    const FitResult floats_result = FitAll(values, KMeans(k));
    const FitResult halves_result = FitAll(halves, KMeans(k));
    for (const int threads : {1, 2, 3}) {
      EXPECT_EQ(Fit<float>(PieceSource<float>(values, 7), KMeans(k), threads).entries,
                floats_result.entries);
      const FitResult result = Fit<uint16_t>(PieceSource<uint16_t>(halves, 7), KMeans(k), threads);
      EXPECT_EQ(result.entries, halves_result.entries);
      EXPECT_EQ(result.noise, halves_result.noise);
    }
  }
}

// As many different values as wanted, each several times, in no order.
template <typename T>
std::vector<T> Distinct(size_t distinct, size_t count) {
  std::vector<T> values;
  for (size_t i = 0; i < count; ++i) {
    const auto value = static_cast<float>(i * 7919 % distinct) * 0.125f - 16;
    if constexpr (std::is_same_v<T, uint16_t>)
      values.push_back(FloatToHalf(value));
    else
      values.push_back(value);
  }
  return values;
}

template <typename T>
class FitEither : public testing::Test {};
using Types = testing::Types<uint16_t, float>;
TYPED_TEST_SUITE(FitEither, Types);

TYPED_TEST(FitEither, FindsTheDistinctValues) {
  for (const size_t count : {kSmall, kLarge}) {
    const std::vector<TypeParam> values = Distinct<TypeParam>(256, count);
    const FitResult result = FitAll(values, Unique(256));
    ASSERT_EQ(result.entries.size(), 256u);
    EXPECT_FALSE(result.too_many);
    for (size_t i = 0; i < 256; ++i)
      EXPECT_EQ(result.entries[i], static_cast<float>(i) * 0.125f - 16);
  }
}

TYPED_TEST(FitEither, SaysWhenThereAreTooMany) {
  for (const size_t count : {kSmall, kLarge}) {
    const FitResult result = FitAll(Distinct<TypeParam>(257, count), Unique(256));
    EXPECT_TRUE(result.too_many);
    EXPECT_TRUE(result.entries.empty());
    EXPECT_TRUE(FitAll(Distinct<TypeParam>(17, count), Unique(16)).too_many);
    EXPECT_FALSE(FitAll(Distinct<TypeParam>(16, count), Unique(16)).too_many);
  }
}

TYPED_TEST(FitEither, TakesBothZerosForOne) {
  std::vector<TypeParam> values(kLarge, TypeParam{0});
  values[7] = std::is_same_v<TypeParam, uint16_t> ? static_cast<TypeParam>(0x8000)
                                                  : static_cast<TypeParam>(-0.0f);
  EXPECT_EQ(FitAll(values, Unique(2)).entries, std::vector<float>{0});
}

TEST(FitUniqueFloats, TellsValuesOfOneBinApart) {
  for (const size_t distinct : {200u, 257u}) {
    std::vector<float> values(kLarge);
    for (size_t i = 0; i < kLarge; ++i) values[i] = 1 + 0x1p-23f * static_cast<float>(i % distinct);
    for (const size_t repeats : {1u, 50u}) {  // few and many millions
      const FitResult result = Fit<float>(PieceSource<float>(values, 2, repeats), Unique(256), 2);
      EXPECT_EQ(result.too_many, distinct > 256);
      EXPECT_EQ(result.entries.size(), distinct > 256 ? 0 : distinct);
    }
  }
}

TYPED_TEST(FitEither, CanBeUniform) {
  const std::vector<TypeParam> values = Distinct<TypeParam>(64, kLarge);
  const FitResult result = FitAll(values, FitRequest{.mode = FitMode::kUniform, .entries = 64});
  ASSERT_EQ(result.entries.size(), 64u);
  for (size_t i = 0; i < 64; ++i) EXPECT_EQ(result.entries[i], static_cast<float>(i) * 0.125f - 16);
}

TYPED_TEST(FitEither, CanBeGiven) {
  const std::vector<float> given = {-1, 0, 0.5f};
  const FitResult result =
      FitAll(Distinct<TypeParam>(64, kSmall), FitRequest{.mode = FitMode::kGiven, .given = given});
  EXPECT_EQ(result.entries, given);
}

TYPED_TEST(FitEither, ReportsTheFirstValueThatIsNotFinite) {
  for (const size_t count : {kSmall, kLarge}) {
    std::vector<TypeParam> values = Distinct<TypeParam>(64, count);
    for (const size_t at : {count - 1, count / 2 + 1, count / 2, size_t{3}}) {
      values[at] = std::is_same_v<TypeParam, uint16_t>
                       ? static_cast<TypeParam>(at % 2 == 0 ? 0x7c00 : 0xfe00)
                       : static_cast<TypeParam>(at % 2 == 0 ? std::numeric_limits<float>::infinity()
                                                            : std::nanf(""));
      for (const int threads : {1, 3}) {
        const FitResult result =
            Fit<TypeParam>(PieceSource<TypeParam>(values, 5), KMeans(16), threads);
        EXPECT_EQ(result.not_finite, at);
        EXPECT_TRUE(result.entries.empty());
      }
    }
  }
}

TEST(FitValues, ReusesAWorkspace) {
  ThreadPool pool(2);
  FitWorkspace workspace;
  for (const size_t count : {kLarge, kSmall, kLarge / 2, kLarge}) {
    const std::vector<float> values = ValuesOf<float>(Distributions()[0], count, 6);
    const SpanSource<float> source(values);
    const Result<FitResult> result = FitValues(source, KMeans(16), pool, workspace);
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(result->entries, FitAll(values, KMeans(16)).entries);
  }
}

TEST(FitValues, HandsUpWhatASourceSays) {
  ThreadPool pool(2);
  FitWorkspace workspace;
  const Result<FitResult> result = FitValues(BrokenSource(), KMeans(16), pool, workspace);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message, "weight.bin: is cut short");
}

}  // namespace
}  // namespace cmlc::numeric
