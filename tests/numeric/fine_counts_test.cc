#include "numeric/fine_counts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
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
constexpr float kLeastNormal = std::numeric_limits<float>::min();

class FineCountsOn : public test::InstructionSets {};

CMLC_FOR_INSTRUCTION_SETS(FineCountsOn);

// Both signs, many magnitudes, crowded slots, and zeros.
std::vector<float> RandomFloats(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> floats(count);
  for (float& value : floats) {
    const float mantissa = 1 + 0x1p-23f * static_cast<float>(random() % (1u << 23));
    const float crowded = 1 + 0x1p-23f * static_cast<float>(random() % 5000);
    value = std::ldexp(random() % 2 == 0 ? mantissa : crowded, static_cast<int>(random() % 8) - 6);
    if (random() % 2 == 0) value = -value;
    if (random() % 16 == 0) value = random() % 2 == 0 ? 0.0f : -0.0f;
  }
  return floats;
}

// All parts of all rows as they should be, from a count of slots by key.
void ExpectSums(const FineCounts& counts, const std::vector<float>& floats, uint64_t times = 1) {
  std::map<uint32_t, uint64_t> slots;
  uint64_t zeros = 0;
  for (const float value : floats) {
    if (value == 0.0f)
      zeros += times;
    else
      slots[FloatKey(value) >> FineCounts::kSlotShift] += times;
  }
  EXPECT_EQ(counts.zeros(), zeros);
  for (const int shift : {10, 11, 12, 15, 16, 18, 22, 23}) {
    std::map<uint32_t, FineCounts::Part> expected;
    for (const auto& [slot, count] : slots) {
      const uint32_t first = (slot << FineCounts::kSlotShift) >> shift << shift;
      expected[first].count += count;
      expected[first].slots += count * (slot - (first >> FineCounts::kSlotShift));
    }
    uint64_t total = 0;
    for (int e = counts.least_exponent(); e <= counts.greatest_exponent(); ++e)
      for (const float sign : {-1.0f, 1.0f}) {
        const uint32_t key = FloatKey(std::copysign(std::ldexp(1.0f, e - 127), sign));
        const uint32_t row = key >> FineCounts::kRowShift << FineCounts::kRowShift;
        for (uint32_t i = 0; i < 1u << (FineCounts::kRowShift - shift); ++i) {
          const FineCounts::Part part = counts.Sum(row + (i << shift), shift);
          const auto& wanted = expected[row + (i << shift)];
          ASSERT_EQ(part.count, wanted.count) << "shift " << shift << ", exponent " << e;
          ASSERT_EQ(part.slots, wanted.slots) << "shift " << shift << ", exponent " << e;
          total += part.count;
        }
      }
    EXPECT_EQ(total + zeros, floats.size() * times);
  }
}

TEST_P(FineCountsOn, SumWhatIsInAnyPart) {
  for (const size_t count : {1u, 3u, 17u, 2047u, 2048u, 2049u, 20'001u}) {
    const std::vector<float> floats = RandomFloats(count, static_cast<unsigned>(count));
    FineCounts counts;
    counts.Add(floats);
    if (counts.any()) ExpectSums(counts, floats);
  }
}

TEST_P(FineCountsOn, KnowTheExponents) {
  for (const size_t at : {0u, 5u, 31u, 99u})
    for (const float sign : {-1.0f, 1.0f}) {
      std::vector<float> floats(100, sign * 1.5f);
      floats[at] = -0.0f;
      floats[(at + 1) % 100] = sign * 0.3f;
      floats[(at + 50) % 100] = -sign * 7;
      FineCounts counts;
      counts.Add(floats);
      EXPECT_EQ(counts.least_exponent(), 125);
      EXPECT_EQ(counts.greatest_exponent(), 129);
      EXPECT_EQ(counts.zeros(), 1u);
    }
}

TEST_P(FineCountsOn, KnowWhetherValuesAreTheFirstOfTheirSlots) {
  std::vector<float> halves;
  for (uint32_t pattern = 0x0400; pattern < 0x7c00; ++pattern) {
    halves.push_back(HalfToFloat(static_cast<uint16_t>(pattern)));
    halves.push_back(-halves.back());
  }
  FineCounts counts;
  counts.Add(halves);
  EXPECT_TRUE(counts.exact());
  for (const size_t at : {size_t{0}, size_t{31}, halves.size() - 1}) {
    std::vector<float> others = halves;
    others[at] = std::nextafter(others[at], kInfinity);
    counts.Clear();
    counts.Add(others);
    EXPECT_FALSE(counts.exact()) << at;
  }
}

TEST_P(FineCountsOn, SumAsManyValuesAsThereMayBe) {
  // As many equal values as tables of counts can be doubled to.
  const float last = std::nextafter(2.0f, 0.0f);
  const std::vector<float> floats(1 << 10, last);
  FineCounts counts;
  counts.Add(floats);
  for (uint64_t times = 1; times < FineCounts::kMostValues >> 10; times *= 2) {
    FineCounts copy;
    copy.Merge(counts);
    counts.Merge(copy);
  }
  ExpectSums(counts, floats, FineCounts::kMostValues >> 10);
}

TEST(FineCounts, SeeWhatIsNotFinite) {
  for (const float value : {kInfinity, -kInfinity, std::nanf(""), -std::nanf("")}) {
    FineCounts counts;
    counts.Add(std::vector<float>{1, -kMost});
    EXPECT_TRUE(counts.finite());
    counts.Add(std::vector<float>{2, value, 0});
    EXPECT_FALSE(counts.finite()) << value;
    counts.Clear();
    EXPECT_TRUE(counts.finite());
  }
}

TEST(FineCounts, ReachFromTheLeastToTheGreatestExponent) {
  FineCounts counts;
  EXPECT_FALSE(counts.any());
  counts.Add(std::vector<float>{0.0f, -0.0f});
  EXPECT_FALSE(counts.any());
  EXPECT_EQ(counts.zeros(), 2u);
  counts.Add(std::vector<float>{kLeastNormal, -kMost, kMost});
  EXPECT_TRUE(counts.any());
  EXPECT_EQ(counts.least_exponent(), 1);
  EXPECT_EQ(counts.greatest_exponent(), 254);
  EXPECT_EQ(counts.Sum(FloatKey(kMost) >> 10 << 10, 10).count, 1u);
  EXPECT_EQ(counts.Sum(FloatKey(-kMost) >> 10 << 10, 10).count, 1u);
  counts.Add(std::vector<float>{std::numeric_limits<float>::denorm_min()});
  EXPECT_EQ(counts.least_exponent(), 0);
}

TEST(FineCounts, MergeWhatOthersCounted) {
  const std::vector<float> floats = RandomFloats(10'000, 1);
  for (const size_t part : {0u, 1u, 3000u}) {
    FineCounts left, right;
    left.Add(std::span(floats).first(part));
    right.Add(std::span(floats).subspan(part));
    left.Merge(right);
    ExpectSums(left, floats);
  }
}

TEST(FineCounts, MergeZerosWhateverElseThereIs) {
  for (const float other : {0.0f, 1.0f, std::numeric_limits<float>::denorm_min()}) {
    FineCounts counts, more;
    counts.Add(std::vector<float>{0, -0.0f, 0});
    more.Add(std::vector<float>{-0.0f, other});
    counts.Merge(more);
    EXPECT_EQ(counts.zeros(), other == 1 ? 4u : 5u) << other;
    counts.Clear();
    EXPECT_EQ(counts.zeros(), 0u) << other;
  }
}

TEST(FineCounts, AreEmptyOnceCleared) {
  const std::vector<float> floats = RandomFloats(5000, 2);
  FineCounts counts, other;
  counts.Add(std::vector<float>{kMost, -kMost, kLeastNormal, -kLeastNormal, 0, 3});
  other.Add(floats);
  counts.Merge(other);
  counts.Clear();
  EXPECT_FALSE(counts.any());
  EXPECT_EQ(counts.zeros(), 0u);
  EXPECT_TRUE(counts.exact());
  counts.Add(floats);
  ExpectSums(counts, floats);
}

}  // namespace
}  // namespace cmlc::numeric
