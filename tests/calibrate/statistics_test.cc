#include "calibrate/statistics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "calibrate/accumulator.h"
#include "support/test_util.h"

namespace cmlc::calibrate {
namespace {

using test::Succeeds;
using test::TempDir;

std::vector<float> Numbers(size_t count, uint64_t seed, double scale = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal(0.25, 1);
  std::vector<float> numbers(count);
  for (float& number : numbers) {
    number = static_cast<float>(scale * normal(random));
    if (random() % 8 == 0) number = random() % 2 == 0 ? 0.0f : -0.0f;
  }
  return numbers;
}

// --- Sums ---------------------------------------------------------------------------------------

TEST(ExactSum, IsExactWhereDoublesAreNot) {
  ExactSum sum;
  for (const double number : {1e20, 1.0, -1e20, 0x1p-150, 0x1p-100}) sum.Add(number);
  EXPECT_EQ(sum.value(), 1.0);
  sum.Add(-1.0);
  EXPECT_EQ(sum.value(), 0x1p-100 + 0x1p-150);
  sum.Add(-0x1p-100);
  EXPECT_EQ(sum.value(), 0x1p-150);
  sum.Add(-0x1p-149);
  EXPECT_EQ(sum.value(), -0x1p-150);
  EXPECT_FALSE(sum.overflowed());
}

TEST(ExactSum, DoesNotDependOnTheOrder) {
  std::mt19937_64 random(3);
  std::vector<double> numbers(5000);
  for (double& number : numbers)
    number = std::ldexp(static_cast<double>(static_cast<int64_t>(random())),
                        static_cast<int>(random() % 140) - 120);
  ExactSum forwards, backwards, halves[2];
  for (size_t i = 0; i < numbers.size(); ++i) {
    forwards.Add(numbers[i]);
    backwards.Add(numbers[numbers.size() - 1 - i]);
    halves[i % 2].Add(numbers[i]);
  }
  halves[1].Add(halves[0]);
  EXPECT_EQ(forwards, backwards);
  EXPECT_EQ(forwards, halves[1]);
  // And it is the sum: what is left is nothing.
  for (const double number : numbers) forwards.Add(-number);
  EXPECT_EQ(forwards.value(), 0);
}

TEST(ExactSum, SaysWhatIsTooLarge) {
  ExactSum sum;
  sum.Add(0x1p93);
  EXPECT_EQ(sum.value(), 0x1p93);
  sum.Add(0x1p100);
  EXPECT_TRUE(sum.overflowed());
  EXPECT_TRUE(std::isinf(sum.value()));
}

// --- Histogram ----------------------------------------------------------------------------------

TEST(Histogram, HasNarrowBinsAroundEveryNumber) {
  for (const float number : {1.0f, -1.0f, 1e-30f, -3.7e20f, 0x1p-149f, 65504.0f, 0.3333f}) {
    const uint32_t bin = Histogram::BinOf(number);
    const float low = std::fabs(Histogram::LowOf(bin)), high = std::fabs(Histogram::HighOf(bin));
    EXPECT_LE(low, std::fabs(number));
    EXPECT_GT(high, std::fabs(number));
    EXPECT_EQ(std::signbit(Histogram::LowOf(bin)), std::signbit(number));
    // Denormal numbers have fewer bits than bins want.
    if (std::fabs(number) > 1e-37f) {
      EXPECT_LE(high - low, std::fabs(number) / 256);
    }
  }
}

TEST(Histogram, GoesUpwards) {
  Histogram histogram;
  for (const float number : {3.0f, -2.0f, 0.5f, -0.25f, 3.0f}) histogram.Add(number);
  std::vector<std::pair<float, uint64_t>> found;
  histogram.ForEach(
      [&](uint32_t bin, uint64_t count) { found.emplace_back(Histogram::LowOf(bin), count); });
  const std::vector<std::pair<float, uint64_t>> expected = {
      {-2.0f, 1}, {-0.25f, 1}, {0.5f, 1}, {3.0f, 2}};
  EXPECT_EQ(found, expected);
}

// --- Values -------------------------------------------------------------------------------------

TEST(ValueStatistics, CountsWhatAPlainLoopCounts) {
  for (const size_t count : {1u, 7u, 4096u, 5000u, 20011u}) {
    const std::vector<float> numbers = Numbers(count, count);
    ValueStatistics value;
    value.AddNumbers(numbers);
    EXPECT_EQ(value.count, count);
    EXPECT_EQ(value.zeros, static_cast<uint64_t>(std::count(numbers.begin(), numbers.end(), 0.0f)));
    EXPECT_EQ(value.least, *std::min_element(numbers.begin(), numbers.end()));
    EXPECT_EQ(value.greatest, *std::max_element(numbers.begin(), numbers.end()));
    long double sum = 0, squares = 0;
    for (const float number : numbers) {
      sum += static_cast<long double>(number);
      squares += static_cast<long double>(number) * static_cast<long double>(number);
    }
    EXPECT_NEAR(value.sum.value(), static_cast<double>(sum), 1e-9 * static_cast<double>(count));
    EXPECT_NEAR(value.squares.value(), static_cast<double>(squares),
                1e-9 * static_cast<double>(count));
    uint64_t in_bins = 0;
    value.histogram.ForEach([&](uint32_t, uint64_t number) { in_bins += number; });
    EXPECT_EQ(in_bins, count - value.zeros);
  }
}

// Numbers of all kinds in pieces, by one and by several: the same as one by one.
TEST(Accumulator, CountsWhatIsThere) {
  std::mt19937 random(5);
  std::vector<float> numbers(3 * Accumulator::kPart + 17);
  for (float& number : numbers) number = std::bit_cast<float>(static_cast<uint32_t>(random()));
  for (size_t i = Accumulator::kPart; i < 2 * Accumulator::kPart; ++i)  // a part of usual ones
    numbers[i] = i % 3 == 0 ? 0.0f : (i % 7 == 0 ? -0.0f : static_cast<float>(i % 100) - 50);
  ValueStatistics plain;
  for (const float number : numbers) {
    if (!std::isfinite(number)) {
      ++plain.not_finite;
      continue;
    }
    ++plain.count;
    plain.least = std::min(plain.least, number);
    plain.greatest = std::max(plain.greatest, number);
    if (number == 0)
      ++plain.zeros;
    else
      plain.histogram.Add(number);
  }
  ValueStatistics one, several;
  Accumulator accumulator, other;
  accumulator.Add(numbers);
  accumulator.MoveTo(one);
  EXPECT_EQ(one.count, plain.count);
  EXPECT_EQ(one.zeros, plain.zeros);
  EXPECT_EQ(one.not_finite, plain.not_finite);
  EXPECT_EQ(one.least, plain.least);
  EXPECT_EQ(one.greatest, plain.greatest);
  EXPECT_TRUE(one.histogram == plain.histogram);
  for (size_t part = 4; part-- > 0;)
    (part % 2 == 0 ? accumulator : other)
        .Add(std::span(numbers).subspan(
            part * Accumulator::kPart,
            std::min(Accumulator::kPart, numbers.size() - part * Accumulator::kPart)));
  other.MoveTo(several);
  accumulator.MoveTo(several);
  EXPECT_TRUE(several == one);
}

TEST(ValueStatistics, LeavesOutWhatIsNotFinite) {
  std::vector<float> numbers = Numbers(100, 1);
  numbers[3] = std::numeric_limits<float>::infinity();
  numbers[50] = -std::numeric_limits<float>::infinity();
  numbers[99] = std::numeric_limits<float>::quiet_NaN();
  ValueStatistics value, rest;
  value.AddNumbers(numbers);
  EXPECT_EQ(value.not_finite, 3u);
  EXPECT_EQ(value.count, 97u);
  EXPECT_TRUE(std::isfinite(value.least) && std::isfinite(value.greatest));
  EXPECT_TRUE(std::isfinite(value.mean_square()));
}

TEST(ValueStatistics, QuantilesAreThoseOfTheNumbers) {
  std::vector<float> numbers = Numbers(100000, 5);
  ValueStatistics value;
  value.AddNumbers(numbers);
  std::sort(numbers.begin(), numbers.end());
  for (const double share : {0.0001, 0.01, 0.25, 0.5, 0.9, 0.9999}) {
    const double below = std::ceil(share * static_cast<double>(numbers.size()));
    const auto exact = static_cast<double>(numbers[static_cast<size_t>(below) - 1]);
    EXPECT_NEAR(value.Quantile(share), exact, 0.004 * std::fabs(exact) + 1e-3) << share;
  }
  EXPECT_EQ(value.Quantile(0), static_cast<double>(numbers.front()));
  EXPECT_EQ(value.Quantile(1), static_cast<double>(numbers.back()));
}

// --- Files --------------------------------------------------------------------------------------

Statistics Some(uint64_t seed, size_t runs = 3) {
  Statistics statistics{.model = "abc", .function = "main", .data = "given"};
  for (size_t run = 0; run < runs; ++run) {
    ++statistics.samples;
    ++statistics.steps;
    for (const char* name : {"x", "y"}) {
      ValueStatistics& value = statistics.values[name];
      value.op_type = *name == 'x' ? "" : "conv";
      value.dtype = "fp16";
      const std::vector<float> numbers = Numbers(5000, seed + run, *name == 'x' ? 1 : 1e-3);
      value.AddNumbers(numbers);
      value.AddChannels(std::vector<float>{static_cast<float>(seed), 2.0f, 3.0f});
      value.AddRun(*std::min_element(numbers.begin(), numbers.end()),
                   *std::max_element(numbers.begin(), numbers.end()));
    }
    InputMoments& moments = statistics.inputs["y"];
    moments.op_type = "conv";
    moments.Add(std::vector<double>{0.1 * static_cast<double>(seed + run), 1e-9, 3e7}, 100);
  }
  return statistics;
}

TEST(Statistics, AreReadAsTheyWereWritten) {
  const Statistics statistics = Some(1);
  const std::string bytes = Serialize(statistics);
  const Result<Statistics> read = Parse(bytes, "file");
  ASSERT_TRUE(Succeeds(read));
  EXPECT_TRUE(*read == statistics);
  EXPECT_EQ(Serialize(*read), bytes);
  const TempDir dir;
  ASSERT_TRUE(Succeeds(WriteStatistics(statistics, dir / "a.stats")));
  EXPECT_EQ(test::ReadFile(dir / "a.stats"), bytes);
  const Result<Statistics> again = ReadStatistics(dir / "a.stats");
  ASSERT_TRUE(Succeeds(again));
  EXPECT_TRUE(*again == statistics);
}

TEST(Statistics, OfPartsMergeToThoseOfTheWhole) {
  // Runs 10 to 14, whole and cut after the second.
  const Statistics whole = Some(10, 5);
  Statistics first = Some(10, 2);
  const Statistics second = Some(12, 3);
  // The channels hold the seed.
  Statistics expected = Some(10, 5);
  for (auto& [name, value] : expected.values) value.channels[0] = 12;
  ASSERT_TRUE(Succeeds(first.Merge(second, "second")));
  EXPECT_EQ(Serialize(first), Serialize(expected));
  EXPECT_NE(Serialize(first), Serialize(whole));
}

TEST(Statistics, OfOtherModelsDoNotMerge) {
  Statistics a = Some(1), b = Some(2);
  b.model = "def";
  const Status other = a.Merge(b, "b.stats");
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().kind, ErrorKind::kUsage);
  EXPECT_EQ(other.error().message, "b.stats: is of another model (def, expected abc)");
  b.model = "abc";
  b.function = "second";
  EXPECT_EQ(a.Merge(b, "b.stats").error().message,
            "b.stats: is of function 'second', expected 'main'");
}

TEST(Statistics, ThatAreDamagedAreRefused) {
  const std::string bytes = Serialize(Some(1, 1));
  for (size_t length = 0; length < bytes.size(); length += 1 + length / 7) {
    const Result<Statistics> read = Parse(std::string_view(bytes).substr(0, length), "file");
    ASSERT_FALSE(read.ok()) << length;
    EXPECT_EQ(read.error().kind, ErrorKind::kBadInput);
    EXPECT_TRUE(read.error().message.starts_with("file: ")) << read.error().message;
  }
  for (size_t at = 0; at < bytes.size(); at += 1 + at / 50) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x20);
    EXPECT_FALSE(Parse(damaged, "file").ok()) << at;
  }
  std::string newer = bytes;
  newer[8] = 2;
  EXPECT_EQ(Parse(newer, "file").error().message,
            "file: has version 2, expected 1: calibrate again");
}

}  // namespace
}  // namespace cmlc::calibrate
