#include "numeric/coded_lut.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "numeric/half.h"
#include "numeric/kmeans1d.h"
#include "support/test_util.h"

namespace cmlc::numeric {
namespace {

using test::Gaussian;
using test::StudentT;

std::vector<CodeType> AllTypes() {
  std::vector<CodeType> types;
  for (const int bits : {4, 8})
    for (const bool is_signed : {false, true})
      for (const EntryType scale : {EntryType::kHalf, EntryType::kFloat})
        types.push_back({bits, is_signed, scale});
  return types;
}
std::string Describe(const CodeType& type) {
  return std::string(type.is_signed ? "int" : "uint") + std::to_string(type.bits) +
         (type.scale_type == EntryType::kHalf ? " fp16" : " fp32");
}

Points PointsOf(const std::vector<float>& values) {
  std::map<double, double> counts;
  for (const float value : values) counts[value == 0 ? 0.0 : value] += 1;
  Points points;
  for (const auto& [value, count] : counts) points.Add(value, count);
  return points;
}
// The best entries without codes.
std::vector<float> Start(const Points& points, size_t entries) {
  KMeans1d solver;
  const Clustering& found = solver.Solve(points.values, points.weights, static_cast<int>(entries));
  return {found.centroids.begin(), found.centroids.end()};
}

// One value after the other, to the nearest of any entries.
template <typename Entries>
double ErrorOf(const Points& points, const Entries& entries) {
  double error = 0;
  for (size_t i = 0; i < points.values.size(); ++i) {
    double nearest = std::numeric_limits<double>::infinity();
    for (const auto entry : entries)
      nearest = std::min(nearest, std::abs(points.values[i] - static_cast<double>(entry)));
    error += points.weights[i] * nearest * nearest;
  }
  return error;
}

// What coremltools does: the best entries, each rounded to a code of the widest scale.
double RoundedAfterwards(const Points& points, const std::vector<float>& start,
                         const CodeType& type) {
  double least = std::min(0.0, static_cast<double>(start.front()));
  double greatest = std::max(0.0, static_cast<double>(start.back()));
  double scale = (greatest - least) / type.high();
  int zero_point = 0;
  if (type.is_signed)
    scale = std::max(-least, greatest) / type.high();
  else
    zero_point = static_cast<int>(std::nearbyint(-least / scale));
  scale = static_cast<double>(RoundEntry(scale, type.scale_type));
  std::vector<double> entries;
  for (const float entry : start) {
    const double code =
        std::clamp(std::nearbyint(static_cast<double>(entry) / scale) + zero_point,
                   static_cast<double>(type.low()), static_cast<double>(type.high()));
    entries.push_back(scale * (code - zero_point));
  }
  return ErrorOf(points, entries);
}

void ExpectWellFormed(const CodedLut& lut, size_t most, const CodeType& type) {
  EXPECT_GT(lut.parameters.scale, 0);
  EXPECT_TRUE(std::isfinite(lut.parameters.scale));
  EXPECT_EQ(lut.parameters.scale,
            RoundEntry(static_cast<double>(lut.parameters.scale), type.scale_type));
  if (type.is_signed) {
    EXPECT_EQ(lut.parameters.zero_point, 0);
  }
  EXPECT_GE(lut.parameters.zero_point, type.low());
  EXPECT_LE(lut.parameters.zero_point, type.high());
  ASSERT_GE(lut.codes.size(), 1u);
  EXPECT_LE(lut.codes.size(), most);
  ASSERT_EQ(lut.entries.size(), lut.codes.size());
  for (size_t e = 0; e < lut.codes.size(); ++e) {
    EXPECT_GE(lut.codes[e], type.low());
    EXPECT_LE(lut.codes[e], type.high());
    if (e > 0) {
      EXPECT_GT(lut.codes[e], lut.codes[e - 1]);
    }
    EXPECT_EQ(lut.entries[e], RoundEntry(static_cast<double>(lut.parameters.scale) *
                                             (lut.codes[e] - lut.parameters.zero_point),
                                         type.scale_type));
    EXPECT_TRUE(std::isfinite(lut.entries[e]));
  }
}

constexpr size_t kTiny = 2;  // of the samples: most are subnormal in fp16
std::vector<std::vector<float>> Samples() {
  std::vector<std::vector<float>> samples = {Gaussian(2000, 1, 0.02f), StudentT(2000, 2, 3),
                                             Gaussian(2000, 3, 3e-6f), Gaussian(300, 4, 5000)};
  std::vector<float> one_sided = Gaussian(2000, 5), shifted = Gaussian(2000, 6),
                     outlier = Gaussian(2000, 7);
  for (float& value : one_sided) value = std::fabs(value);
  for (float& value : shifted) value -= 5;
  outlier[11] = 40;
  samples.push_back(one_sided);
  samples.push_back(shifted);
  samples.push_back(outlier);
  for (auto& sample : samples)
    for (float& value : sample) value = HalfToFloat(FloatToHalf(value));
  return samples;
}

// Signed codes are never worse; with unsigned ones the zero point moves as the scale does, which
// may cost a percent where zero is far from the values.
TEST(CodedLut, IsWellFormedAndNoWorseThanRoundingAfterwards) {
  const auto samples = Samples();
  for (const CodeType& type : AllTypes())
    for (size_t s = 0; s < samples.size(); ++s)
      for (const size_t entries : {2, 4, 8, 16, 64, 256}) {
        SCOPED_TRACE(Describe(type) + " sample " + std::to_string(s) + ", " +
                     std::to_string(entries));
        const Points points = PointsOf(samples[s]);
        const std::vector<float> start = Start(points, entries);
        const CodedLut lut = FitCodedLut(points, start, entries, type);
        ExpectWellFormed(lut, entries, type);
        // Entries are rounded to fp16 in the end: by the triangle inequality of norms.
        double signal = 0;
        for (size_t i = 0; i < points.values.size(); ++i)
          signal += points.weights[i] * points.values[i] * points.values[i];
        const double rounding =
            type.scale_type == EntryType::kHalf ? 0x1p-11 * std::sqrt(signal) : 0;
        const double before = std::sqrt(RoundedAfterwards(points, start, type));
        if (s == kTiny) continue;
        EXPECT_LE(std::sqrt(ErrorOf(points, lut.entries)),
                  before * (type.is_signed ? 1 + 1e-9 : 1.005) + rounding);
      }
}

// The least scale of fp16 is not that of fp32, which holds much smaller weights.
TEST(CodedLut, TinyValuesOfFp32) {
  for (const float deviation : {3e-6f, 1e-9f}) {
    const Points points = PointsOf(Gaussian(2000, 3, deviation));
    const std::vector<float> start = Start(points, 16);
    for (const bool is_signed : {true, false}) {
      const CodedLut lut = FitCodedLut(points, start, 16, {8, is_signed, EntryType::kFloat});
      EXPECT_LE(ErrorOf(points, lut.entries), 1.05 * ErrorOf(points, start)) << deviation;
    }
  }
}

// Values that are subnormal in fp16 leave few scales to choose from.
TEST(CodedLut, TinyValuesOfFp16InUnsignedCodes) {
  const Points points = PointsOf(Samples()[kTiny]);
  const CodeType type{8, false, EntryType::kHalf};
  for (const size_t entries : {64, 256}) {
    const std::vector<float> start = Start(points, entries);
    const CodedLut lut = FitCodedLut(points, start, entries, type);
    EXPECT_LE(ErrorOf(points, lut.entries), RoundedAfterwards(points, start, type) * 1.01);
  }
}

// All scales of a grid, all zero points and all sets of codes, for few points.
TEST(CodedLut, IsNearTheBestThereIs) {
  for (const bool is_signed : {true, false})
    for (const uint64_t seed : {1, 2, 3, 4}) {
      const CodeType type{4, is_signed, EntryType::kFloat};
      const Points points = PointsOf(StudentT(40, seed, 4));
      const CodedLut lut = FitCodedLut(points, Start(points, 3), 3, type);
      double widest = 0;
      for (const double value : points.values) widest = std::max(widest, std::abs(value));
      double best = std::numeric_limits<double>::infinity();
      for (int step = 1; step <= 120; ++step) {
        const double scale = widest / 4 * step / 120;
        for (int zero = is_signed ? 0 : 2; zero <= (is_signed ? 0 : 13); ++zero)
          for (int a = type.low(); a <= type.high(); ++a)
            for (int b = a + 1; b <= type.high(); ++b)
              for (int c = b + 1; c <= type.high(); ++c)
                best = std::min(best, ErrorOf(points, std::vector<double>{scale * (a - zero),
                                                                          scale * (b - zero),
                                                                          scale * (c - zero)}));
      }
      EXPECT_LE(ErrorOf(points, lut.entries), 1.1 * best) << seed << (is_signed ? " signed" : "");
    }
}

TEST(CodedLut, EightBitsCostNextToNothing) {
  for (const bool is_signed : {true, false}) {
    const Points points = PointsOf(Gaussian(5000, 8));
    const std::vector<float> start = Start(points, 16);
    const CodedLut lut = FitCodedLut(points, start, 16, {8, is_signed, EntryType::kFloat});
    EXPECT_LE(ErrorOf(points, lut.entries), 1.01 * ErrorOf(points, start));
  }
}

// Thirteen values a quarter apart.
Points OnAGrid() {
  std::vector<float> values;
  for (int i = 0; i < 100; ++i) values.push_back(0.25f * static_cast<float>(i * 7 % 13 - 6));
  return PointsOf(values);
}

TEST(CodedLut, ValuesOnAGridAreNearlyExact) {
  const Points points = OnAGrid();
  for (const bool is_signed : {true, false})
    for (const EntryType scale : {EntryType::kHalf, EntryType::kFloat}) {
      const CodedLut lut = FitCodedLut(points, Start(points, 16), 16, {8, is_signed, scale});
      EXPECT_LE(ErrorOf(points, lut.entries), 0.002);  // of 87
    }
}

// Sixteen codes a quarter apart hold them all, though the outermost ones are not needed.
TEST(CodedLut, ValuesOnACoarseGridAreExact) {
  const Points points = OnAGrid();
  for (const CodeType& type : AllTypes()) {
    const CodedLut lut = FitCodedLut(points, Start(points, 16), 16, type);
    EXPECT_LE(ErrorOf(points, lut.entries), 1e-5) << Describe(type);
  }
}

void ExpectHoldsOneValue(float value, const CodeType& type) {
  SCOPED_TRACE(Describe(type) + " " + std::to_string(value));
  Points points;
  points.Add(static_cast<double>(value), 5);
  const CodedLut lut = FitCodedLut(points, std::vector<float>{value}, 4, type);
  ExpectWellFormed(lut, 4, type);
  const double tolerance = type.scale_type == EntryType::kHalf ? 0x1p-10 : 1e-6;
  double nearest = std::numeric_limits<double>::infinity();
  for (const float entry : lut.entries)
    nearest = std::min(nearest, std::abs(static_cast<double>(entry) - static_cast<double>(value)));
  EXPECT_LE(nearest, tolerance * std::abs(static_cast<double>(value)));
}

TEST(CodedLut, OneValueAndZeros) {
  for (const CodeType& type : AllTypes())
    for (const float value : {0.0f, 1.5f, -0.3f, 50000.0f, -50000.0f, 0x1p-24f})
      ExpectHoldsOneValue(value, type);
}

// scale * code must be a number in fp16.
TEST(CodedLut, TheEndsOfFp16) {
  for (const CodeType& type : AllTypes())
    for (const float value : {65504.0f, -65504.0f}) ExpectHoldsOneValue(value, type);
}

// As many entries as there are codes: all of them, a linear quantization.
TEST(CodedLut, AllCodesAreTakenIfTheyFit) {
  for (const CodeType& type : AllTypes()) {
    const size_t all = size_t{1} << type.bits;
    const Points points = PointsOf(Gaussian(5000, 9));
    const CodedLut lut = FitCodedLut(points, Start(points, all), all, type);
    ASSERT_EQ(lut.codes.size(), all) << Describe(type);
    EXPECT_EQ(lut.codes.front(), type.low());
    EXPECT_EQ(lut.codes.back(), type.high());
  }
}

TEST(CodedLut, FixedParametersStay) {
  const Points points = PointsOf(Gaussian(3000, 10, 0.5f));
  for (const CodeType& type : AllTypes())
    for (const size_t entries : {2, 4, 16}) {
      const LinearParameters fixed{.scale = type.bits == 4 ? 0.25f : 0x1p-6f,
                                   .zero_point = type.is_signed   ? 0
                                                 : type.bits == 4 ? 7
                                                                  : 120};
      const std::vector<float> start = Start(points, entries);
      const CodedLut lut = FitCodedLut(points, start, entries, type, fixed);
      SCOPED_TRACE(Describe(type) + " " + std::to_string(entries));
      ExpectWellFormed(lut, entries, type);
      EXPECT_EQ(lut.parameters.scale, fixed.scale);
      EXPECT_EQ(lut.parameters.zero_point, fixed.zero_point);
      std::vector<double> rounded;
      for (const float entry : start)
        rounded.push_back(
            static_cast<double>(fixed.scale) *
            (std::clamp(static_cast<int>(std::nearbyint(entry / fixed.scale)) + fixed.zero_point,
                        type.low(), type.high()) -
             fixed.zero_point));
      EXPECT_LE(ErrorOf(points, lut.entries), ErrorOf(points, rounded) * (1 + 1e-9));
    }
}

// Signed zero points are there in quantized weights: a fixed one is kept, too.
TEST(CodedLut, AFixedZeroPointOfSignedCodesIsKept) {
  const Points points = PointsOf(Gaussian(3000, 11, 0.5f));
  const LinearParameters fixed{.scale = 0x1p-6f, .zero_point = -26};
  const CodedLut lut = FitCodedLut(points, Start(points, 4), 4, {8, true, EntryType::kHalf}, fixed);
  EXPECT_EQ(lut.parameters.zero_point, -26);
  for (size_t e = 0; e < lut.codes.size(); ++e)
    EXPECT_EQ(lut.entries[e], 0x1p-6f * static_cast<float>(lut.codes[e] + 26));
}

// Values 0 to 7, of which 3 and 4 are there a thousand times.
Points WithFrequentOnes() {
  Points points;
  for (int i = 0; i < 8; ++i) points.Add(i, i == 3 || i == 4 ? 1000 : 1);
  return points;
}

TEST(CodedLut, HowOftenAValueOccursCounts) {
  const Points points = WithFrequentOnes();
  const CodedLut lut = FitCodedLut(points, Start(points, 4), 4, {8, true, EntryType::kFloat});
  EXPECT_LE(ErrorOf(points, lut.entries), 5);  // that of 1, 3, 4 and 6 is 4
}

// Codes 1, 3, 4 and 6 with a scale of 1 are as good, and that scale is a sixth above the one at
// which the outermost entry has the outermost code.
TEST(CodedLut, ScalesMayLeaveTheOutermostCodesFree) {
  const Points points = WithFrequentOnes();
  const CodedLut lut = FitCodedLut(points, Start(points, 4), 4, {4, true, EntryType::kFloat});
  EXPECT_LE(ErrorOf(points, lut.entries), 5);
}

TEST(CodedLut, IsTheSameEachTime) {
  const Points points = PointsOf(StudentT(2000, 12, 3));
  const std::vector<float> start = Start(points, 16);
  for (const CodeType& type : AllTypes()) {
    const CodedLut a = FitCodedLut(points, start, 16, type);
    const CodedLut b = FitCodedLut(points, start, 16, type);
    EXPECT_EQ(a.codes, b.codes);
    EXPECT_EQ(a.parameters.scale, b.parameters.scale);
  }
}

}  // namespace
}  // namespace cmlc::numeric
