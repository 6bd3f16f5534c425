#include "numeric/lut.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "numeric/half.h"
#include "support/instruction_sets.h"

namespace cmlc::numeric {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMost = std::numeric_limits<float>::max();
constexpr uint64_t kFew = 0;
constexpr uint64_t kMany = uint64_t{1} << 30;  // a table pays for sure

std::vector<size_t> EntryCounts() {
  std::vector<size_t> counts;
  for (size_t k = 1; k <= 20; ++k) counts.push_back(k);
  counts.insert(counts.end(), {64, 255, 256});
  return counts;
}

const std::vector<uint16_t>& FiniteHalves() {
  static const std::vector<uint16_t> all = [] {
    std::vector<uint16_t> halves;
    for (uint32_t pattern = 0; pattern < 0x10000; ++pattern)
      if (IsFiniteHalf(static_cast<uint16_t>(pattern)))
        halves.push_back(static_cast<uint16_t>(pattern));
    return halves;
  }();
  return all;
}

// |a - b| without rounding: a double and what it lacks.
struct Distance {
  Distance(float a, float b) {
    const auto x = static_cast<double>(std::max(a, b)), y = static_cast<double>(std::min(a, b));
    high = x - y;
    const double minus_y = high - x;
    low = (x - (high - minus_y)) - (y + minus_y);
  }
  auto operator<=>(const Distance&) const = default;
  double high, low;
};

// The first of the nearest entries.
size_t Nearest(const std::vector<float>& lut, float value) {
  size_t best = 0;
  for (size_t i = 1; i < lut.size(); ++i)
    if (Distance(value, lut[i]) < Distance(value, lut[best])) best = i;
  return best;
}

// The same for ascending values, whose codes ascend; much faster than one by one.
std::vector<uint8_t> NearestOfAscending(const std::vector<float>& lut,
                                        const std::vector<float>& values) {
  std::vector<uint8_t> codes;
  size_t code = 0;
  for (const float value : values) {
    for (size_t next = code + 1; next < lut.size(); ++next) {
      if (Distance(value, lut[next]) > Distance(value, lut[code])) break;
      if (Distance(value, lut[next]) < Distance(value, lut[code])) code = next;
    }
    codes.push_back(static_cast<uint8_t>(code));
  }
  return codes;
}

std::vector<float> Ascending(std::vector<float> values) {
  std::sort(values.begin(), values.end());
  return values;
}

std::vector<float> RandomLut(size_t entries, unsigned seed, bool repeat) {
  std::mt19937 random(seed);
  std::vector<float> lut(entries);
  for (float& entry : lut) {
    const auto mantissa = static_cast<float>(static_cast<int>(random() % 4001) - 2000);
    entry = HalfToFloat(FloatToHalf(std::ldexp(mantissa, static_cast<int>(random() % 12) - 16)));
  }
  if (repeat)
    for (size_t i = 1; i < entries; ++i)
      if (random() % 3 == 0) lut[i] = lut[i - 1];
  return Ascending(lut);
}

// LUTs with something awkward in them, the values of halves.
std::vector<std::vector<float>> AwkwardLuts() {
  std::vector<std::vector<float>> luts = {
      {-kMaxHalf, kMaxHalf},
      {-kMaxHalf, 0.0f, kMaxHalf},
      {-kMaxHalf, -kMaxHalf, kMaxHalf, kMaxHalf},
      {0.0f, 0.0f},
      {-0.0f, 0.0f},
      {-1.0f, -0.0f, 0.0f, 1.0f},
      {-0x1p-24f, 0.0f, 0x1p-24f},
      {-0x1p-24f, 0x1p-24f},
      {0.0f, 0x1p-24f},
      {-0x1p-24f, -0.0f},
      {0x1p-24f, 0x1p-23f, 0x1.8p-23f, 0x1p-14f},
      {-3.0f, 1.0f, 1.0f, 1.0f, 1.0f},
      {2.0f, 2.0f, 2.0f},
      {1.0f, 1.0009765625f, 1.001953125f},
      {65472.0f, kMaxHalf},
  };
  std::vector<float> subnormals(256), equal(256, -0.5f), ends(40, kMaxHalf);
  for (size_t i = 0; i < 256; ++i) subnormals[i] = (static_cast<float>(i) - 128) * 0x1p-24f;
  std::fill(ends.begin(), ends.begin() + 20, -kMaxHalf);
  luts.insert(luts.end(), {subnormals, equal, ends});
  return luts;
}

std::vector<std::vector<float>> AllLuts() {
  std::vector<std::vector<float>> luts = AwkwardLuts();
  for (const size_t k : EntryCounts())
    for (const bool repeat : {false, true}) luts.push_back(RandomLut(k, 7, repeat));
  return luts;
}

std::vector<uint16_t> Halves(const std::vector<float>& values) {
  std::vector<uint16_t> halves;
  for (const float value : values) halves.push_back(FloatToHalf(value));
  return halves;
}

std::vector<uint8_t> Assigned(const HalfAssigner& assigner, std::span<const uint16_t> values) {
  std::vector<uint8_t> codes(values.size() + 1, 0xee);
  assigner.Assign(values, codes.data());
  EXPECT_EQ(codes.back(), 0xee) << "wrote behind the end";
  codes.pop_back();
  return codes;
}

std::vector<uint8_t> Assigned(const FloatAssigner& assigner, std::span<const float> values) {
  std::vector<uint8_t> codes(values.size() + 1, 0xee);
  assigner.Assign(values, codes.data());
  EXPECT_EQ(codes.back(), 0xee) << "wrote behind the end";
  codes.pop_back();
  return codes;
}

// Every midpoint with the floats around it, every entry with the floats around it, and the ends.
std::vector<float> CriticalValues(const std::vector<float>& lut) {
  std::vector<float> values = {-kMost, -1.0f, -0.0f, 0.0f, 1.0f, kMost};
  const auto around = [&](double middle) {
    float value = static_cast<float>(middle);
    for (int i = 0; i < 3; ++i) value = std::nextafter(value, -kInfinity);
    for (int i = 0; i < 7; ++i, value = std::nextafter(value, kInfinity))
      if (std::isfinite(value)) values.push_back(value);
  };
  for (size_t i = 0; i < lut.size(); ++i) {
    around(static_cast<double>(lut[i]));
    if (i > 0) around((static_cast<double>(lut[i - 1]) + static_cast<double>(lut[i])) / 2);
  }
  return Ascending(values);
}

class Lut : public test::InstructionSets {};

CMLC_FOR_INSTRUCTION_SETS(Lut);

TEST_P(Lut, AssignsEveryHalfToTheNearestEntry) {
  std::vector<float> values;
  std::vector<uint16_t> ascending;
  for (uint32_t key = 0; key < 0x10000; ++key) {
    const uint16_t half = HalfOfKey(static_cast<uint16_t>(key));
    if (!IsFiniteHalf(half)) continue;
    ascending.push_back(half);
    values.push_back(HalfToFloat(half));
  }
  for (const std::vector<float>& lut : AllLuts()) {
    const std::vector<uint8_t> expected = NearestOfAscending(lut, values);
    for (const uint64_t count : {kFew, kMany})
      ASSERT_EQ(Assigned(HalfAssigner(Halves(lut), count), ascending), expected)
          << testing::PrintToString(lut);
  }
}

TEST_P(Lut, AssignsFloatsAroundEveryThreshold) {
  for (const std::vector<float>& lut : AllLuts()) {
    const std::vector<float> values = CriticalValues(lut);
    const std::vector<uint8_t> expected = NearestOfAscending(lut, values);
    for (const uint64_t count : {kFew, kMany})
      ASSERT_EQ(Assigned(FloatAssigner(lut, count), values), expected)
          << testing::PrintToString(lut);
  }
}

TEST_P(Lut, AssignsShortRuns) {
  const std::vector<uint16_t>& halves = FiniteHalves();
  for (const size_t k : {1, 2, 4, 16, 17, 64}) {
    const std::vector<float> lut = RandomLut(k, 3, false);
    const HalfAssigner by_half(Halves(lut), kFew);
    const FloatAssigner by_float(lut, kFew);
    for (size_t length = 0; length <= 70; ++length) {
      std::vector<uint16_t> values(length);
      std::vector<float> floats(length);
      std::vector<uint8_t> expected(length);
      for (size_t i = 0; i < length; ++i) {
        values[i] = halves[(i * 911 + length) % halves.size()];
        floats[i] = HalfToFloat(values[i]);
        expected[i] = static_cast<uint8_t>(Nearest(lut, floats[i]));
      }
      ASSERT_EQ(Assigned(by_half, values), expected) << k << " entries, " << length << " values";
      ASSERT_EQ(Assigned(by_float, floats), expected) << k << " entries, " << length << " values";
    }
  }
}

TEST_P(Lut, FindsTheFirstValueThatIsNotFinite) {
  for (size_t length = 0; length <= 70; ++length) {
    std::vector<float> floats(length, -kMost);
    std::vector<uint16_t> halves(length, 0xfbff);
    ASSERT_EQ(FirstNotFinite(floats), length);
    ASSERT_EQ(FirstNotFinite(halves), length);
    for (size_t i = length; i-- > 0;) {
      floats[i] = i % 3 == 0 ? kInfinity : i % 3 == 1 ? -kInfinity : std::nanf("");
      halves[i] = i % 3 == 0 ? 0x7c00 : i % 3 == 1 ? 0xfc00 : 0x7c01;
      ASSERT_EQ(FirstNotFinite(floats), i) << "of " << length;
      ASSERT_EQ(FirstNotFinite(halves), i) << "of " << length;
    }
  }
}

TEST_P(Lut, AddsUpSquares) {
  std::mt19937 random(5);
  const std::vector<float> lut = RandomLut(256, 6, false);
  for (const size_t length : {0u, 1u, 7u, 16u, 33u, 255u, 256u, 257u, 1000u, 100'003u}) {
    std::vector<float> values(length);
    std::vector<uint8_t> codes(length);
    double squares = 0, errors = 0;
    for (size_t i = 0; i < length; ++i) {
      values[i] = static_cast<float>(random() % 10007) * 1e-4f - 0.5f;
      codes[i] = static_cast<uint8_t>(random());
      const auto value = static_cast<double>(values[i]);
      const double error = value - static_cast<double>(lut[codes[i]]);
      squares += value * value;
      errors += error * error;
    }
    EXPECT_NEAR(SumOfSquares(values), squares, 2e-6 * squares) << length;
    EXPECT_NEAR(SquaredError(values, codes.data(), lut), errors, 2e-6 * errors) << length;
  }
}

// Squares beyond the range of fp32.
TEST_P(Lut, AddsUpSquaresOfHugeValues) {
  const std::vector<float> lut = {0.0f};
  for (const size_t length : {1u, 40u, 1000u}) {
    std::vector<float> values(length, 0.5f);
    values[length / 2] = -1e30f;
    const std::vector<uint8_t> codes(length, 0);
    const double expected = static_cast<double>(1e30f) * static_cast<double>(1e30f);
    EXPECT_NEAR(SumOfSquares(values) / expected, 1, 1e-6) << length;
    EXPECT_NEAR(SquaredError(values, codes.data(), lut) / expected, 1, 1e-6) << length;
  }
}

// One kernel does the work of three where a LUT is small.
TEST_P(Lut, AssignsAndMeasuresAtOnce) {
  std::mt19937 random(10);
  std::vector<std::vector<float>> luts = AllLuts();
  luts.push_back({-1e30f, -1.0f, 1e-42f, 1e30f});
  for (const std::vector<float>& lut : luts) {
    std::vector<float> critical = CriticalValues(lut);
    std::shuffle(critical.begin(), critical.end(), random);
    for (const size_t length :
         {0u, 1u, 7u, 8u, 9u, 15u, 16u, 17u, 31u, 100u, 255u, 256u, 257u, 511u, 512u, 1003u}) {
      std::vector<float> values(length);
      for (size_t i = 0; i < length; ++i) {
        values[i] = critical[random() % critical.size()];
        // Mostly small ones, since one large square hides all others.
        if (i % 64 != 5) values[i] = std::ldexp(values[i], -std::max(0, std::ilogb(values[i]) + 3));
      }
      for (const uint64_t expected : {kFew, kMany}) {
        const FloatAssigner assigner(lut, expected);
        std::vector<uint8_t> codes(length + 1, 0xee);
        const Squares squares = assigner.AssignAndMeasure(values, codes.data(), lut);
        EXPECT_EQ(codes.back(), 0xee) << "wrote behind the end";
        codes.pop_back();
        ASSERT_EQ(codes, Assigned(assigner, values)) << testing::PrintToString(lut);
        EXPECT_EQ(squares.signal, SumOfSquares(values)) << length;
        EXPECT_EQ(squares.noise, SquaredError(values, codes.data(), lut)) << length;
      }
    }
  }
}

TEST(LutTable, AgreesWithSearchOnRandomFloats) {
  std::mt19937 random(8);
  std::vector<float> values(50'000);
  for (float& value : values) {
    const auto mantissa = static_cast<float>(static_cast<int>(random() >> 8) - (1 << 23));
    value = std::ldexp(mantissa, static_cast<int>(random() % 40) - 50);
  }
  values.push_back(-0.0f);
  for (const std::vector<float>& lut : AllLuts())
    ASSERT_EQ(Assigned(FloatAssigner(lut, kFew), values),
              Assigned(FloatAssigner(lut, kMany), values))
        << testing::PrintToString(lut);
}

// Entries that only fp32 has: crowded into one bin of the table, or far out.
TEST(LutTable, AssignsFloatsToEntriesThatHalvesLack) {
  std::vector<std::vector<float>> luts = {
      {-kMost, kMost},
      {-kMost, -1e38f, 0.0f, 1e38f, kMost},
      {-1e30f, -1e-30f, 1e-30f, 1e30f},
      {-std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::denorm_min()},
      {0.0f, std::numeric_limits<float>::denorm_min()},
      {-std::numeric_limits<float>::denorm_min(), 0.0f},
  };
  for (const size_t k : {16u, 17u, 256u}) {
    std::vector<float> crowded(k), negative(k), spread(k);
    for (size_t i = 0; i < k; ++i) {
      crowded[i] = 1 + static_cast<float>(i) * 0x1p-23f;
      negative[k - 1 - i] = -crowded[i] * 0.3f;
      spread[i] = std::ldexp(1.0f, static_cast<int>(i) - 140);
    }
    if (k < 256) luts.push_back(spread);
    luts.push_back(crowded);
    luts.push_back(negative);
  }
  for (const std::vector<float>& lut : luts) {
    const std::vector<float> values = CriticalValues(lut);
    const std::vector<uint8_t> expected = NearestOfAscending(lut, values);
    for (const uint64_t count : {kFew, kMany})
      ASSERT_EQ(Assigned(FloatAssigner(lut, count), values), expected)
          << testing::PrintToString(lut);
  }
}

TEST(LutOracle, AgreesWithTryingEveryEntry) {
  for (const std::vector<float>& lut : AllLuts()) {
    const std::vector<float> values = CriticalValues(lut);
    const std::vector<uint8_t> codes = NearestOfAscending(lut, values);
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(codes[i], Nearest(lut, values[i]));
  }
}

}  // namespace
}  // namespace cmlc::numeric
