// The reference knows nothing of bit tricks: it looks for the nearest of all finite halves.

#include "numeric/half.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace cmlc::numeric {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The value of a pattern, from the definition of the format.
double Decode(uint32_t pattern) {
  const int exponent = static_cast<int>(pattern >> 10) & 31;
  const double fraction = static_cast<double>(pattern & 1023) / 1024;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -14) : std::ldexp(1 + fraction, exponent - 15);
  return (pattern & 0x8000) != 0 ? -magnitude : magnitude;
}

// Magnitudes of the patterns 0 .. 0x7c00, the last being where infinity starts to be nearer.
const std::vector<double>& Magnitudes() {
  static const std::vector<double> all = [] {
    std::vector<double> magnitudes;
    for (uint32_t pattern = 0; pattern <= 0x7c00; ++pattern) magnitudes.push_back(Decode(pattern));
    return magnitudes;
  }();
  return all;
}

// Nearest, ties to the even pattern. `value` is no NaN.
uint16_t Encode(double value) {
  const uint32_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  const std::vector<double>& all = Magnitudes();
  const auto at = std::lower_bound(all.begin(), all.end(), magnitude);
  if (at == all.end()) return static_cast<uint16_t>(sign | 0x7c00);
  auto pattern = static_cast<uint32_t>(at - all.begin());
  if (pattern > 0) {
    // Neighbours are within a factor of two or subnormal, so both distances are exact.
    const double up = all[pattern] - magnitude;
    const double down = magnitude - all[pattern - 1];
    if (down < up || (down == up && pattern % 2 == 1)) --pattern;
  }
  return static_cast<uint16_t>(sign | pattern);
}

TEST(Half, DecodesEveryFinitePattern) {
  for (uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    const auto half = static_cast<uint16_t>(pattern);
    if (!IsFiniteHalf(half)) continue;
    ASSERT_EQ(static_cast<double>(HalfToFloat(half)), Decode(pattern)) << pattern;
    ASSERT_EQ(std::signbit(HalfToFloat(half)), pattern >= 0x8000) << pattern;
  }
}

TEST(Half, RoundTripsEveryPattern) {
  for (uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    const auto half = static_cast<uint16_t>(pattern);
    const float value = HalfToFloat(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value)))) << pattern;
      EXPECT_EQ(FloatToHalf(value) & 0x8000, half & 0x8000) << pattern;
    } else {
      ASSERT_EQ(FloatToHalf(value), half);
      ASSERT_EQ(DoubleToHalf(static_cast<double>(value)), half);
    }
  }
}

TEST(Half, KnowsWhatIsFinite) {
  for (uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    const auto half = static_cast<uint16_t>(pattern);
    ASSERT_EQ(IsFiniteHalf(half), std::isfinite(HalfToFloat(half))) << pattern;
  }
}

TEST(Half, KeepsInfinitiesAndNans) {
  EXPECT_EQ(HalfToFloat(0x7c00), kInfinity);
  EXPECT_EQ(HalfToFloat(0xfc00), -kInfinity);
  EXPECT_EQ(FloatToHalf(kInfinity), 0x7c00);
  EXPECT_EQ(FloatToHalf(-kInfinity), 0xfc00);
  EXPECT_EQ(DoubleToHalf(-std::numeric_limits<double>::infinity()), 0xfc00);
  // A NaN whose payload is in the bits that fp16 lacks must not turn into an infinity.
  EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(std::bit_cast<float>(0xffffffffu)))));
  EXPECT_TRUE(std::isnan(HalfToFloat(DoubleToHalf(std::numeric_limits<double>::quiet_NaN()))));
}

TEST(Half, RoundsFloatsAroundEveryTie) {
  for (uint32_t pattern = 0; pattern < 0x7c00; ++pattern) {
    const auto tie = static_cast<float>((Decode(pattern) + Decode(pattern + 1)) / 2);
    for (const float value : {std::nextafter(tie, 0.0f), tie, std::nextafter(tie, kInfinity)}) {
      ASSERT_EQ(FloatToHalf(value), Encode(static_cast<double>(value))) << value;
      ASSERT_EQ(FloatToHalf(-value), Encode(static_cast<double>(-value))) << -value;
    }
  }
}

TEST(Half, RoundsFloatsOfAllMagnitudes) {
  // A step that is odd, so that all low bits occur.
  for (uint64_t bits = 0; bits < 0x7f800000u; bits += 2477) {
    const auto value = std::bit_cast<float>(static_cast<uint32_t>(bits));
    ASSERT_EQ(FloatToHalf(value), Encode(static_cast<double>(value))) << value;
    ASSERT_EQ(FloatToHalf(-value), Encode(static_cast<double>(-value))) << -value;
  }
}

TEST(Half, RoundsTheEndsOfTheRange) {
  EXPECT_EQ(FloatToHalf(kMaxHalf), 0x7bff);
  EXPECT_EQ(FloatToHalf(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(std::numeric_limits<float>::max()), 0x7c00);
  EXPECT_EQ(FloatToHalf(0x1p-24f), 0x0001);
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0x0000);
  EXPECT_EQ(FloatToHalf(std::nextafter(0x1p-25f, 1.0f)), 0x0001);
  EXPECT_EQ(FloatToHalf(std::numeric_limits<float>::denorm_min()), 0x0000);
  EXPECT_EQ(FloatToHalf(-std::numeric_limits<float>::denorm_min()), 0x8000);
}

// Beside a tie by less than fp32 can tell: rounding to fp32 first lands on the tie.
TEST(Half, RoundsDoublesOnce) {
  int differ = 0;
  for (uint32_t pattern = 0; pattern < 0x7c00; ++pattern) {
    const double tie = (Decode(pattern) + Decode(pattern + 1)) / 2;
    for (const double value : {std::nextafter(tie, 0.0), tie * (1 - 0x1p-30), tie,
                               tie * (1 + 0x1p-30), std::nextafter(tie, 1e9)}) {
      ASSERT_EQ(DoubleToHalf(value), Encode(value)) << value;
      ASSERT_EQ(DoubleToHalf(-value), Encode(-value)) << -value;
      differ += FloatToHalf(static_cast<float>(value)) != Encode(value);
    }
  }
  EXPECT_GT(differ, 0x7c00);  // the cases are the ones that matter
}

TEST(Half, RoundsDoublesOfAllMagnitudes) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 200'000; ++i) {
    const double mantissa = static_cast<double>(random() >> 11) * 0x1p-53 + 1;
    const double value = std::ldexp(mantissa, static_cast<int>(random() % 60) - 40);
    ASSERT_EQ(DoubleToHalf(value), Encode(value)) << value;
    ASSERT_EQ(DoubleToHalf(-value), Encode(-value)) << -value;
  }
  EXPECT_EQ(DoubleToHalf(1e300), 0x7c00);
  EXPECT_EQ(DoubleToHalf(-1e300), 0xfc00);
  EXPECT_EQ(DoubleToHalf(1e-300), 0x0000);
  EXPECT_EQ(DoubleToHalf(-1e-300), 0x8000);
  EXPECT_EQ(DoubleToHalf(0x1p-25 * (1 + 0x1p-52)), 0x0001);
}

TEST(HalfKey, OrdersHalvesLikeTheirValues) {
  for (uint32_t key = 0; key < 0x10000; ++key) {
    const uint16_t half = HalfOfKey(static_cast<uint16_t>(key));
    ASSERT_EQ(HalfKey(half), key);
    if (key == 0) continue;
    const uint16_t before = HalfOfKey(static_cast<uint16_t>(key - 1));
    if (!IsFiniteHalf(half) || !IsFiniteHalf(before)) continue;
    ASSERT_LE(HalfToFloat(before), HalfToFloat(half)) << key;
    if (half != 0) {
      ASSERT_LT(HalfToFloat(before), HalfToFloat(half)) << key;
    }
  }
  EXPECT_EQ(HalfKey(0x8000) + 1, HalfKey(0x0000));
}

TEST(FloatKey, OrdersFloatsLikeTheirValues) {
  float before = -std::numeric_limits<float>::max();
  for (uint64_t key = FloatKey(before) + 1009; key <= FloatKey(-before); key += 1009) {
    const float value = FloatOfKey(static_cast<uint32_t>(key));
    ASSERT_EQ(FloatKey(value), key);
    ASSERT_LT(before, value);
    before = value;
  }
  EXPECT_EQ(FloatKey(-0.0f) + 1, FloatKey(0.0f));
  EXPECT_EQ(FloatKey(0.0f) + 1, FloatKey(std::numeric_limits<float>::denorm_min()));
  EXPECT_TRUE(std::signbit(FloatOfKey(FloatKey(-0.0f))));
}

}  // namespace
}  // namespace cmlc::numeric
