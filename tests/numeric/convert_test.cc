#include "numeric/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "numeric/half.h"
#include "support/instruction_sets.h"

namespace cmlc::numeric {
namespace {

constexpr size_t kMostLanes = 16;  // of fp32 in the widest vectors
constexpr size_t kMostLength = 4 * kMostLanes + 3;

class Convert : public test::InstructionSets {};

CMLC_FOR_INSTRUCTION_SETS(Convert);

uint32_t Bits(float value) { return std::bit_cast<uint32_t>(value); }

// NaNs need not keep their payload, only their nature.
void ExpectSame(float actual, float expected) {
  if (std::isnan(expected))
    ASSERT_TRUE(std::isnan(actual));
  else
    ASSERT_EQ(Bits(actual), Bits(expected));
}

void ExpectSameHalf(uint16_t actual, uint16_t expected) {
  if (std::isnan(HalfToFloat(expected)))
    ASSERT_TRUE(std::isnan(HalfToFloat(actual)));
  else
    ASSERT_EQ(actual, expected);
}

TEST_P(Convert, WidensEveryPattern) {
  std::vector<uint16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  std::vector<float> floats(halves.size());
  HalvesToFloats(halves.data(), halves.size(), floats.data());
  for (size_t i = 0; i < halves.size(); ++i) ExpectSame(floats[i], HalfToFloat(halves[i]));
}

TEST_P(Convert, NarrowsFloatsOfAllMagnitudes) {
  std::vector<float> floats;
  for (uint64_t bits = 0; bits <= 0xffffffffu; bits += 4093)
    floats.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  std::vector<uint16_t> halves(floats.size());
  FloatsToHalves(floats.data(), floats.size(), halves.data());
  for (size_t i = 0; i < floats.size(); ++i) ExpectSameHalf(halves[i], FloatToHalf(floats[i]));
}

TEST_P(Convert, NarrowsEveryTieAndItsNeighbours) {
  std::vector<float> floats;
  for (uint32_t pattern = 0; pattern < 0x7c00; ++pattern) {
    const float tie = pattern == 0x7bff ? 65520.0f
                                        : (HalfToFloat(static_cast<uint16_t>(pattern)) +
                                           HalfToFloat(static_cast<uint16_t>(pattern + 1))) /
                                              2;
    for (const float value : {std::nextafter(tie, 0.0f), tie, std::nextafter(tie, 1e9f)}) {
      floats.push_back(value);
      floats.push_back(-value);
    }
  }
  std::vector<uint16_t> halves(floats.size());
  FloatsToHalves(floats.data(), floats.size(), halves.data());
  for (size_t i = 0; i < floats.size(); ++i)
    ASSERT_EQ(halves[i], FloatToHalf(floats[i])) << floats[i];
}

TEST_P(Convert, WidensEveryLengthFromAnyAddress) {
  for (size_t length = 0; length <= kMostLength; ++length) {
    for (const size_t offset : {0, 1, 3}) {
      // Of exactly the size that is needed, so that a sanitizer sees a step too far.
      std::vector<uint16_t> halves(offset + length);
      for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(0x3c00 + 7 * i);
      std::vector<float> floats(offset + length + 1, -1.0f);
      HalvesToFloats(halves.data() + offset, length, floats.data() + offset);
      for (size_t i = 0; i < length; ++i)
        ASSERT_EQ(floats[offset + i], HalfToFloat(halves[offset + i])) << length << " at " << i;
      EXPECT_EQ(floats[offset + length], -1.0f) << "wrote behind the end";
    }
  }
}

TEST_P(Convert, NarrowsEveryLengthFromAnyAddress) {
  for (size_t length = 0; length <= kMostLength; ++length) {
    for (const size_t offset : {0, 1, 3}) {
      std::vector<float> floats(offset + length);
      for (size_t i = 0; i < floats.size(); ++i) floats[i] = 0.1f * static_cast<float>(i);
      std::vector<uint16_t> halves(offset + length + 1, 0x1234);
      FloatsToHalves(floats.data() + offset, length, halves.data() + offset);
      for (size_t i = 0; i < length; ++i)
        ASSERT_EQ(halves[offset + i], FloatToHalf(floats[offset + i])) << length << " at " << i;
      EXPECT_EQ(halves[offset + length], 0x1234) << "wrote behind the end";
    }
  }
}

}  // namespace
}  // namespace cmlc::numeric
