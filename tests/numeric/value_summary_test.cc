#include "numeric/value_summary.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <span>
#include <vector>

#include "numeric/half.h"

namespace cmlc::numeric {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One value after the other.
ValueSummary Expected(std::span<const float> values) {
  ValueSummary summary;
  std::set<uint32_t> patterns;
  for (const float value : values) {
    patterns.insert(std::bit_cast<uint32_t>(value == 0 ? 0.0f : value));
    if (!std::isfinite(value)) {
      ++summary.not_finite;
      continue;
    }
    if (value == 0) ++summary.zeros;
    summary.least = std::min(summary.least, static_cast<double>(value));
    summary.greatest = std::max(summary.greatest, static_cast<double>(value));
  }
  summary.distinct = patterns.size();
  return summary;
}

void ExpectEqual(const ValueSummary& summary, const ValueSummary& expected) {
  EXPECT_EQ(summary.zeros, expected.zeros);
  EXPECT_EQ(summary.distinct, expected.distinct);
  EXPECT_EQ(summary.not_finite, expected.not_finite);
  EXPECT_EQ(summary.least, expected.least);
  EXPECT_EQ(summary.greatest, expected.greatest);
  EXPECT_FALSE(std::signbit(summary.least) && summary.least == 0);
  EXPECT_FALSE(std::signbit(summary.greatest) && summary.greatest == 0);
}

// All magnitudes and signs, some values again and again, and what is not finite on demand.
std::vector<float> RandomFloats(size_t count, unsigned seed, bool finite) {
  std::mt19937 random(seed);
  std::vector<float> floats(count);
  for (float& value : floats) {
    value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (random() % 2 == 0) value = static_cast<float>(static_cast<int>(random() % 2001)) - 1000;
    if (random() % 16 == 0) value = random() % 2 == 0 ? 0.0f : -0.0f;
    if (finite && !std::isfinite(value)) value = 1;
  }
  return floats;
}

TEST(FloatSummary, SumsUpAnyValues) {
  for (const bool finite : {false, true})
    for (const size_t count : {0u, 1u, 2u, 1000u, 100'000u}) {
      const std::vector<float> values = RandomFloats(count, 1, finite);
      FloatSummary summary;
      summary.Add(values);
      ExpectEqual(summary.Summary(), Expected(values));
    }
}

TEST(FloatSummary, AddsUpParts) {
  const std::vector<float> values = RandomFloats(50'000, 2, false);
  FloatSummary summary;
  for (size_t begin = 0; begin < values.size(); begin += 7001)
    summary.Add(std::span(values).subspan(begin, std::min<size_t>(7001, values.size() - begin)));
  ExpectEqual(summary.Summary(), Expected(values));
}

TEST(FloatSummary, ForgetsWhatWasClearedOnly) {
  const std::vector<float> first = RandomFloats(20'000, 3, false);
  const std::vector<float> second = RandomFloats(5000, 4, true);
  FloatSummary summary;
  summary.Add(first);
  summary.Clear();
  ExpectEqual(summary.Summary(), {});
  summary.Add(second);
  ExpectEqual(summary.Summary(), Expected(second));
  summary.Add(second);
  EXPECT_EQ(summary.Summary().distinct, Expected(second).distinct);
  EXPECT_EQ(summary.Summary().zeros, 2 * Expected(second).zeros);
}

TEST(FloatSummary, TakesBothZerosForOne) {
  FloatSummary summary;
  summary.Add(std::vector<float>{-0.0f});
  ExpectEqual(summary.Summary(), {.zeros = 1, .distinct = 1, .least = 0, .greatest = 0});
  summary.Add(std::vector<float>{0.0f, -0.0f});
  ExpectEqual(summary.Summary(), {.zeros = 3, .distinct = 1, .least = 0, .greatest = 0});
}

TEST(FloatSummary, HasNoRangeWithoutFiniteValues) {
  FloatSummary summary;
  summary.Add(std::vector<float>{INFINITY, -INFINITY, std::nanf("")});
  ExpectEqual(summary.Summary(),
              {.distinct = 3, .not_finite = 3, .least = kInfinity, .greatest = -kInfinity});
}

TEST(HalfSummary, SumsUpAllPatterns) {
  std::vector<uint16_t> halves;
  std::vector<float> floats;
  for (uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    if (pattern % 3 == 0) continue;
    for (uint32_t i = 0; i <= pattern % 4; ++i) {
      halves.push_back(static_cast<uint16_t>(pattern));
      floats.push_back(HalfToFloat(halves.back()));
    }
  }
  HalfCounts counts;
  counts.Add(halves);
  ExpectEqual(SummaryOf(counts), Expected(floats));
  counts.Add(std::vector<uint16_t>{0x0000, 0x8000, 0x8000});
  for (const float zero : {0.0f, -0.0f, -0.0f}) floats.push_back(zero);
  ExpectEqual(SummaryOf(counts), Expected(floats));
}

TEST(HalfSummary, IsEmptyWithoutValues) { ExpectEqual(SummaryOf(HalfCounts()), {}); }

}  // namespace
}  // namespace cmlc::numeric
