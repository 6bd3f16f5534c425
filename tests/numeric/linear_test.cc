#include "numeric/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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

constexpr float kMost = std::numeric_limits<float>::max();
constexpr float kTiniest = std::numeric_limits<float>::denorm_min();

std::vector<LinearFormat> AllFormats(bool search) {
  std::vector<LinearFormat> formats;
  for (const int bits : {4, 8})
    for (const bool is_signed : {false, true})
      for (const bool symmetric : {false, true})
        for (const EntryType type : {EntryType::kHalf, EntryType::kFloat})
          formats.push_back({bits, is_signed, symmetric, type, search});
  return formats;
}

std::string Describe(const LinearFormat& format) {
  return std::string(format.is_signed ? "int" : "uint") + std::to_string(format.bits) +
         (format.symmetric ? " symmetric" : " linear") +
         (format.scale_type == EntryType::kHalf ? " fp16" : " fp32") +
         (format.search ? " search" : " min-max");
}

struct Range {
  int low, high;
};

// The table in linear.h, written out.
Range CodesOf(const LinearFormat& format) {
  const int q = format.bits == 4 ? 7 : 127;
  const bool all = !format.symmetric || format.search;
  if (format.is_signed) return {all ? -q - 1 : -q, q};
  return {0, all ? 2 * q + 1 : 2 * q};
}

int FixedZero(const LinearFormat& format) {
  if (format.is_signed) return 0;
  return (format.bits == 4 ? 7 : 127) + (format.search ? 1 : 0);
}

int CodeValue(uint8_t code, const LinearFormat& format) {
  const int top = 1 << (format.bits - 1);
  return format.is_signed && code >= top ? code - 2 * top : code;
}

std::vector<float> ToHalves(std::vector<float> values) {
  for (float& value : values) value = HalfToFloat(FloatToHalf(value));
  return values;
}

// Box-Muller: the distributions of the standard library differ between implementations.
class Source {
 public:
  explicit Source(unsigned seed) : random_(seed) {}
  double Uniform() { return (static_cast<double>(random_()) + 0.5) / 4294967296.0; }
  double Normal() {
    return std::sqrt(-2 * std::log(Uniform())) * std::cos(2 * 3.14159265358979 * Uniform());
  }

 private:
  std::mt19937 random_;
};

enum class Shape { kNormal, kLongTailed, kOneSided, kOutlier };
constexpr Shape kShapes[] = {Shape::kNormal, Shape::kLongTailed, Shape::kOneSided, Shape::kOutlier};

// Standard deviations around 0.02; the last shape has one value 1000 times the others in each 32.
std::vector<float> Weights(Shape shape, size_t count, unsigned seed) {
  Source source(seed);
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    double x = source.Normal();
    if (shape == Shape::kLongTailed) x *= std::exp(0.7 * source.Normal());
    if (shape == Shape::kOneSided) x = std::fabs(x);
    if (shape == Shape::kOutlier && i % 32 == 7) x = 1000;
    values[i] = static_cast<float>(0.02 * x);
  }
  return ToHalves(values);
}

// Blocks with something awkward in them.
std::vector<std::vector<float>> AwkwardBlocks() {
  std::vector<std::vector<float>> blocks = {
      {0.0f},
      {-0.0f, 0.0f, -0.0f},
      {1.0f},
      {-1.0f},
      {kMaxHalf},
      {-kMaxHalf},
      {kMaxHalf, -kMaxHalf, 1.0f},
      {0x1p-24f},
      {-0x1p-24f, 0.0f},
      {0x1p-24f, -0x1p-23f, 0x1.8p-23f},
      {kTiniest},
      {-kTiniest, kTiniest, 0.0f, 3 * kTiniest},
      {kMost, -kMost, 1.0f},
      {kMost, kMost, kMost},
      {-kMost},
      {kMost, kTiniest},
      {-kMost / 2, kMost / 3, 1e30f},
      {1e-30f, -3e-30f, 2e-30f},
      {0x1p-126f, -0x1p-127f},
      {0.0f, 0.0f, 5.0f, 0.0f},
      {2.0f, 2.0f, 2.0f, 2.0f, 2.0f},
      {-3.0f, -3.0f},
      {1.0f, 2.0f, 3.0f, 4.0f},
  };
  for (const size_t size : {31, 65, 129, 300}) {
    blocks.push_back(std::vector<float>(size, 0.0f));
    blocks.push_back(std::vector<float>(size, -0.25f));
    blocks.push_back(std::vector<float>(size, kTiniest));
    blocks.push_back(std::vector<float>(size, kMost));
    blocks.push_back(Weights(Shape::kLongTailed, size, 3));
    std::vector<float> outlier(size, 1e-3f);
    outlier[size / 2] = -1e3f;
    blocks.push_back(outlier);
    for (size_t i = 0; i < size; ++i)
      outlier[i] = std::ldexp(i % 2 == 0 ? 1.0f : -1.0f, static_cast<int>(i % 250) - 126);
    blocks.push_back(outlier);
  }
  return blocks;
}

struct Quantized {
  std::vector<uint8_t> codes;
  double error = 0;
};

Quantized Quantize(const std::vector<float>& values, const LinearParameters& parameters,
                   const LinearFormat& format) {
  Quantized result;
  result.codes.assign(values.size() + 1, 0xee);
  result.error = QuantizeLinear(values, parameters, format, result.codes.data());
  EXPECT_EQ(result.codes.back(), 0xee) << "wrote behind the end";
  result.codes.pop_back();
  return result;
}

double Error(const std::vector<float>& values, const LinearParameters& parameters,
             const LinearFormat& format) {
  return QuantizeLinear(values, parameters, format, nullptr);
}

// The formulas of the header, a value at a time.
Quantized PlainQuantize(const std::vector<float>& values, const LinearParameters& parameters,
                        const LinearFormat& format) {
  Quantized result;
  const Range range = CodesOf(format);
  for (const float value : values) {
    const float rounded = std::nearbyint(value / parameters.scale);
    const float code = std::clamp(rounded + static_cast<float>(parameters.zero_point),
                                  static_cast<float>(range.low), static_cast<float>(range.high));
    const auto integer = static_cast<int>(code);
    result.codes.push_back(static_cast<uint8_t>(integer & ((1 << format.bits) - 1)));
    float decoded = parameters.scale * static_cast<float>(integer - parameters.zero_point);
    decoded = format.scale_type == EntryType::kHalf ? HalfToFloat(FloatToHalf(decoded))
                                                    : std::clamp(decoded, -kMost, kMost);
    const auto error = static_cast<double>(value - decoded);
    result.error += error * error;
  }
  return result;
}

// Up to the order of a sum; both may be infinite.
void ExpectSameSum(double found, double expected) {
  if (found != expected) {
    EXPECT_NEAR(found, expected, 1e-12 * expected);
  }
}

// Least error of sum (x - s k)^2 over all s > 0 and integers k from `low` to `high`. With the best
// s every k is the nearest; as 1/s grows from 0, |x| passes (c + 1/2) s for c = 0, 1, ... At each
// passing <x, k> and <k, k> change by known amounts, and <x, k>^2 / <k, k> is what is explained.
double LeastError(const std::vector<float>& values, int low, int high) {
  struct Passing {
    double at, first, second;
  };
  std::vector<Passing> passings;
  double power = 0;
  for (const float value : values) {
    const double magnitude = std::fabs(static_cast<double>(value));
    power += magnitude * magnitude;
    const int steps = value > 0 ? high : -low;
    for (int c = 0; magnitude > 0 && c < steps; ++c)
      passings.push_back({(c + 0.5) / magnitude, magnitude, 2.0 * c + 1});
  }
  std::sort(passings.begin(), passings.end(),
            [](const Passing& a, const Passing& b) { return a.at < b.at; });
  double first = 0, second = 0, explained = 0;
  for (const Passing& passing : passings) {
    first += passing.first;
    second += passing.second;
    explained = std::max(explained, first * first / second);
  }
  return power - explained;
}

double LeastError(const std::vector<float>& values, const LinearFormat& format) {
  const Range range = CodesOf(format);
  const int fixed = FixedZero(format);
  double least = std::numeric_limits<double>::infinity();
  for (int zero = range.low; zero <= range.high; ++zero)
    if (!format.symmetric || zero == fixed)
      least = std::min(least, LeastError(values, range.low - zero, range.high - zero));
  return least;
}

void ExpectValid(const LinearParameters& parameters, const LinearFormat& format) {
  const Range range = CodesOf(format);
  EXPECT_TRUE(std::isfinite(parameters.scale) && parameters.scale > 0) << parameters.scale;
  if (format.scale_type == EntryType::kHalf) {
    EXPECT_EQ(parameters.scale, HalfToFloat(FloatToHalf(parameters.scale)));
  }
  EXPECT_GE(parameters.zero_point, range.low);
  EXPECT_LE(parameters.zero_point, range.high);
  if (format.symmetric) {
    EXPECT_EQ(parameters.zero_point, FixedZero(format));
  }
}

class Linear : public test::InstructionSets {};

CMLC_FOR_INSTRUCTION_SETS(Linear);

TEST_P(Linear, RangeIsThatOfAPlainLoop) {
  const std::vector<float> values = Weights(Shape::kLongTailed, 200, 1);
  EXPECT_EQ(RangeOf(std::span<const float>()), std::make_pair(0.0f, 0.0f));
  for (size_t begin = 0; begin < 5; ++begin) {
    for (size_t count = 1; begin + count <= values.size(); ++count) {
      const auto [least, greatest] =
          std::minmax_element(values.begin() + static_cast<std::ptrdiff_t>(begin),
                              values.begin() + static_cast<std::ptrdiff_t>(begin + count));
      ASSERT_EQ(RangeOf(std::span(values).subspan(begin, count)), std::make_pair(*least, *greatest))
          << count << " from " << begin;
    }
  }
}

TEST_P(Linear, RangeFindsAnExtremeAtEveryPlace) {
  for (size_t count = 1; count < 90; ++count) {
    for (size_t at = 0; at < count; ++at) {
      std::vector<float> values(count, 1.0f);
      values[at] = 7.0f;
      ASSERT_EQ(RangeOf(values).second, 7.0f) << at << " of " << count;
      values[at] = -7.0f;
      ASSERT_EQ(RangeOf(values).first, -7.0f) << at << " of " << count;
    }
  }
}

TEST_P(Linear, ZerosOfTheRangeArePositive) {
  for (const size_t count : {1, 16, 33}) {
    const auto [least, greatest] = RangeOf(std::vector<float>(count, -0.0f));
    EXPECT_FALSE(std::signbit(least) || std::signbit(greatest));
  }
}

TEST_P(Linear, CodesAreThoseOfThePlainFormula) {
  for (const bool search : {false, true}) {
    for (const LinearFormat& format : AllFormats(search)) {
      for (size_t count = 0; count < 70; ++count) {
        const std::vector<float> values =
            Weights(Shape::kNormal, count, static_cast<unsigned>(count));
        // A scale that clips some values, and makes others ties.
        LinearParameters parameters = {format.bits == 4 ? 0x1p-7f : 0x1p-12f, FixedZero(format)};
        if (!format.symmetric) parameters.zero_point = CodesOf(format).low + 3;
        const Quantized result = Quantize(values, parameters, format);
        const Quantized expected = PlainQuantize(values, parameters, format);
        ASSERT_EQ(result.codes, expected.codes) << Describe(format) << ", " << count;
        ExpectSameSum(result.error, expected.error);
        ASSERT_EQ(result.error, Error(values, parameters, format));
      }
    }
  }
}

TEST_P(Linear, TiesGoToEvenBeforeTheZeroPointIsAdded) {
  // From the tests of coremltools: with ties rounded after the addition the first would be -2.
  const LinearFormat format = {.bits = 4, .symmetric = false, .search = false};
  const std::vector<float> values = {-2, -10, 6, -3};
  const LinearParameters parameters = FitLinear(values, format);
  std::vector<int> codes;
  for (const uint8_t code : Quantize(values, parameters, format).codes)
    codes.push_back(CodeValue(code, format));
  EXPECT_EQ(codes, (std::vector<int>{-1, -8, 7, -2}));

  const LinearFormat odd = {.bits = 8, .is_signed = false, .symmetric = false};
  EXPECT_EQ(Quantize({0.5f, 1.5f, 2.5f, -0.5f, -1.5f}, {1.0f, 101}, odd).codes,
            (std::vector<uint8_t>{101, 103, 103, 101, 99}));
}

TEST_P(Linear, AwkwardBlocksGiveValidParametersAndTheCodesOfThePlainFormula) {
  for (const bool search : {false, true}) {
    for (const LinearFormat& format : AllFormats(search)) {
      LinearFormat plain = format;
      plain.search = false;
      for (const std::vector<float>& block : AwkwardBlocks()) {
        SCOPED_TRACE(Describe(format) + testing::PrintToString(block));
        const LinearParameters parameters = FitLinear(block, format);
        ExpectValid(parameters, format);
        const Quantized result = Quantize(block, parameters, format);
        const Quantized expected = PlainQuantize(block, parameters, format);
        ASSERT_EQ(result.codes, expected.codes);
        ExpectSameSum(result.error, expected.error);
        ASSERT_LE(result.error, Error(block, FitLinear(block, plain), plain));
        if (testing::Test::HasFailure()) return;
      }
    }
  }
}

TEST_P(Linear, ResultsDoNotDependOnTheWidth) {
  const int64_t widest = GetParam();
  for (const LinearFormat& format : AllFormats(true)) {
    for (const size_t size : {1, 5, 32, 64, 65, 128, 200, 515}) {
      for (const Shape shape : {Shape::kLongTailed, Shape::kOneSided}) {
        const std::vector<float> values = Weights(shape, 4 * size, 5);
        std::vector<LinearParameters> parameters(4), reference(4);
        Choose(widest);
        FitLinearBlocks(values.data(), size, 4, format, parameters.data());
        const double error =
            QuantizeLinearBlocks(values.data(), size, 4, parameters.data(), format, nullptr).noise;
        Choose(hwy::SupportedAndGeneratedTargets().back());
        FitLinearBlocks(values.data(), size, 4, format, reference.data());
        for (size_t b = 0; b < 4; ++b) {
          ASSERT_EQ(parameters[b].scale, reference[b].scale) << Describe(format) << ", " << size;
          ASSERT_EQ(parameters[b].zero_point, reference[b].zero_point) << Describe(format);
        }
        ASSERT_EQ(
            error,
            QuantizeLinearBlocks(values.data(), size, 4, reference.data(), format, nullptr).noise);
      }
    }
  }
}

TEST_P(Linear, ManyBlocksAreOneAfterTheOther) {
  for (const bool search : {false, true}) {
    for (const size_t size : {1, 7, 32, 100}) {
      const LinearFormat format = {.bits = 4, .symmetric = false, .search = search};
      const std::vector<float> values = Weights(Shape::kNormal, 9 * size, 2);
      std::vector<LinearParameters> parameters(9);
      std::vector<uint8_t> codes(values.size());
      FitLinearBlocks(values.data(), size, 9, format, parameters.data());
      const double error =
          QuantizeLinearBlocks(values.data(), size, 9, parameters.data(), format, codes.data())
              .noise;
      double sum = 0;
      for (size_t b = 0; b < 9; ++b) {
        const auto begin = values.begin() + static_cast<std::ptrdiff_t>(b * size);
        const std::vector<float> block(begin, begin + static_cast<std::ptrdiff_t>(size));
        const LinearParameters alone = FitLinear(block, format);
        ASSERT_EQ(parameters[b].scale, alone.scale);
        ASSERT_EQ(parameters[b].zero_point, alone.zero_point);
        const Quantized result = Quantize(block, alone, format);
        ASSERT_TRUE(std::equal(result.codes.begin(), result.codes.end(),
                               codes.begin() + static_cast<std::ptrdiff_t>(b * size)));
        sum += result.error;
      }
      ExpectSameSum(error, sum);
    }
  }
}

std::vector<uint16_t> Patterns(const std::vector<float>& values) {
  std::vector<uint16_t> halves;
  for (const float value : values) halves.push_back(FloatToHalf(value));
  return halves;
}

TEST_P(Linear, HalvesAreTreatedAsTheirValues) {
  for (const bool search : {false, true}) {
    for (LinearFormat format : AllFormats(search)) {
      format.scale_type = EntryType::kHalf;
      for (const size_t size : {1, 7, 15, 16, 31, 32, 33, 64, 100, 513, 1100, 5000}) {
        if (search && size > 1100) continue;
        std::vector<float> values = Weights(Shape::kLongTailed, 5 * size, 4);
        // Subnormals, zeros of both signs, and the ends of the type.
        values[0] = 0x1p-24f;
        values[size / 2] = -0x1.8p-23f;
        values[2 * size] = -0.0f;
        values[3 * size] = size % 2 == 0 ? kMaxHalf : -kMaxHalf;
        std::fill_n(values.begin() + static_cast<std::ptrdiff_t>(4 * size), size, 0.0f);
        const std::vector<uint16_t> halves = Patterns(values);
        std::vector<LinearParameters> of_values(5), of_halves(5);
        ASSERT_TRUE(FitLinearBlocks(values.data(), size, 5, format, of_values.data()));
        ASSERT_TRUE(FitLinearBlocks(halves.data(), size, 5, format, of_halves.data()));
        for (size_t b = 0; b < 5; ++b) {
          ASSERT_EQ(of_values[b].scale, of_halves[b].scale) << Describe(format) << ", " << size;
          ASSERT_EQ(of_values[b].zero_point, of_halves[b].zero_point);
        }
        std::vector<uint8_t> codes(values.size() + 1, 0xee), expected(values.size());
        const LinearError found =
            QuantizeLinearBlocks(halves.data(), size, 5, of_halves.data(), format, codes.data());
        const LinearError error =
            QuantizeLinearBlocks(values.data(), size, 5, of_values.data(), format, expected.data());
        ASSERT_EQ(codes.back(), 0xee) << "wrote behind the end";
        codes.pop_back();
        ASSERT_EQ(codes, expected) << Describe(format) << ", " << size;
        ASSERT_EQ(found.noise, error.noise);
        double signal = 0;
        for (const float value : values)
          signal += static_cast<double>(value) * static_cast<double>(value);
        ASSERT_NEAR(error.signal, signal, 1e-12 * signal);
        ASSERT_NEAR(found.signal, signal, 1e-5 * signal);
      }
    }
  }
}

TEST_P(Linear, ErrorsOfHalvesDoNotDependOnTheWidth) {
  const LinearFormat format = {.bits = 8, .search = false};
  for (const size_t size : {1, 9, 32, 100, 700}) {
    const std::vector<uint16_t> halves = Patterns(Weights(Shape::kLongTailed, 6 * size, 9));
    std::vector<LinearParameters> parameters(6);
    Choose(GetParam());
    ASSERT_TRUE(FitLinearBlocks(halves.data(), size, 6, format, parameters.data()));
    const LinearError found =
        QuantizeLinearBlocks(halves.data(), size, 6, parameters.data(), format, nullptr);
    Choose(hwy::SupportedAndGeneratedTargets().back());
    const LinearError expected =
        QuantizeLinearBlocks(halves.data(), size, 6, parameters.data(), format, nullptr);
    ASSERT_EQ(found.noise, expected.noise) << size;
    ASSERT_EQ(found.signal, expected.signal) << size;
  }
}

TEST_P(Linear, RoundsWhatIsDecodedToEveryHalf) {
  // Scale 1 and codes up to 255 are exact; a scale of 11 bits times a code often is not.
  const LinearFormat format = {.bits = 8, .is_signed = false, .symmetric = false};
  for (const float scale : {1.0f, 0x1.554p-3f, 0x1.ffcp-15f, 0x1p-24f, 0x1.8p-23f, 0x1.ffcp7f}) {
    std::vector<float> values;
    for (int code = 0; code < 256; ++code)
      values.push_back(HalfToFloat(FloatToHalf(scale * static_cast<float>(code))));
    std::vector<uint8_t> codes(values.size());
    const std::vector<uint16_t> halves = Patterns(values);
    const LinearParameters parameters = {scale, 0};
    const LinearError error =
        QuantizeLinearBlocks(halves.data(), halves.size(), 1, &parameters, format, codes.data());
    for (size_t i = 0; i < codes.size(); ++i) ASSERT_EQ(codes[i], i) << scale;
    EXPECT_EQ(error.noise, 0) << scale;
  }
}

TEST_P(Linear, FindsWhatIsNotFinite) {
  const float bad[] = {INFINITY, -INFINITY, NAN};
  for (const bool search : {false, true}) {
    for (const bool symmetric : {false, true}) {
      const LinearFormat format = {.symmetric = symmetric, .search = search};
      for (const size_t size : {1, 5, 32, 33, 70}) {
        std::vector<LinearParameters> parameters(3);
        for (size_t at = 0; at < 3 * size; ++at) {
          std::vector<float> values(3 * size, 0.5f);
          values[at] = bad[at % 3];
          EXPECT_FALSE(FitLinearBlocks(values.data(), size, 3, format, parameters.data()));
          const std::vector<uint16_t> halves = Patterns(values);
          EXPECT_FALSE(FitLinearBlocks(halves.data(), size, 3, format, parameters.data()));
          EXPECT_FALSE(RangeOf(std::span<const uint16_t>(halves)).has_value());
        }
      }
    }
  }
}

TEST_P(Linear, RangeOfHalvesHoldsZero) {
  for (size_t count = 1; count < 90; ++count) {
    for (size_t at = 0; at < count; ++at) {
      std::vector<float> values(count, 1.0f);
      values[at] = 7.0f;
      ASSERT_EQ(RangeOf(std::span<const uint16_t>(Patterns(values))), std::make_pair(0.0f, 7.0f));
      for (float& value : values) value = -value;
      ASSERT_EQ(RangeOf(std::span<const uint16_t>(Patterns(values))), std::make_pair(-7.0f, 0.0f));
    }
  }
  EXPECT_EQ(RangeOf(std::span<const uint16_t>()), std::make_pair(0.0f, 0.0f));
}

// Rows of the behaviour reference: data, and for each format the codes, scale and zero point that
// coremltools gives for fp32 and for fp16. In four rows the scale is one step of fp16 above its:
// there the difference of the extremes is rounded to fp16 before it is divided.
struct Vector {
  std::vector<float> data;
  LinearFormat format;
  std::vector<int> codes;
  int zero_point;
  float scale;
};

TEST(LinearVectors, MinMaxGivesWhatCoremltoolsGives) {
  constexpr EntryType kHalf = EntryType::kHalf, kFloat = EntryType::kFloat;
  const auto format = [](int bits, bool is_signed, bool symmetric, EntryType type) {
    return LinearFormat{bits, is_signed, symmetric, type, false};
  };
  const std::vector<float> a = {1, -2, 3, 0.5f}, b = {1, 2, 3, 4};
  const std::vector<float> c = ToHalves({0.1f, 0.2f, -0.3f, 0.37f});
  const std::vector<Vector> vectors = {
      {a, format(8, true, true, kHalf), {42, -85, 127, 21}, 0, 0.02362060546875f},
      {a, format(8, true, false, kHalf), {25, -128, 127, 0}, -26, 0.0196075439453125f},
      {a, format(8, false, true, kHalf), {169, 42, 254, 148}, 127, 0.02362060546875f},
      {a, format(8, false, false, kHalf), {153, 0, 255, 128}, 102, 0.0196075439453125f},
      {a, format(4, true, true, kHalf), {2, -5, 7, 1}, 0, 0.428466796875f},
      {a, format(4, true, false, kHalf), {1, -8, 7, 0}, -2, 0.333251953125f},
      {a, format(4, false, true, kHalf), {9, 2, 14, 8}, 7, 0.428466796875f},
      {a, format(4, false, false, kHalf), {9, 0, 15, 8}, 6, 0.333251953125f},
      {a, format(8, true, true, kFloat), {42, -85, 127, 21}, 0, 0.0236220472f},
      {a, format(8, true, false, kFloat), {25, -128, 127, 0}, -26, 0.0196078438f},
      {a, format(4, true, true, kFloat), {2, -5, 7, 1}, 0, 0.4285714328f},
      {a, format(4, true, false, kFloat), {1, -8, 7, 0}, -2, 0.3333333433f},
      {b, format(8, true, true, kFloat), {32, 64, 95, 127}, 0, 4.0f / 127},
      {b, format(8, true, false, kFloat), {-64, -1, 63, 127}, -128, 4.0f / 255},
      {b, format(8, false, true, kFloat), {159, 191, 222, 254}, 127, 4.0f / 127},
      {b, format(8, false, false, kFloat), {64, 127, 191, 255}, 0, 4.0f / 255},
      {b, format(4, true, true, kFloat), {2, 3, 5, 7}, 0, 4.0f / 7},
      {b, format(4, true, false, kFloat), {-4, -1, 3, 7}, -8, 4.0f / 15},
      {b, format(4, false, true, kFloat), {9, 10, 12, 14}, 7, 4.0f / 7},
      {b, format(4, false, false, kFloat), {4, 7, 11, 15}, 0, 4.0f / 15},
      {c, format(8, true, true, kHalf), {34, 69, -103, 127}, 0, 0.0029144287109375f},
      {c, format(8, true, false, kHalf), {24, 62, -128, 127}, -14, 0.002628326416015625f},
      {c, format(8, false, true, kHalf), {161, 196, 24, 254}, 127, 0.0029144287109375f},
      {c, format(8, false, false, kHalf), {152, 190, 0, 255}, 114, 0.002628326416015625f},
      {c, format(4, true, true, kHalf), {2, 4, -6, 7}, 0, 0.052886962890625f},
      {c, format(4, true, false, kHalf), {1, 3, -8, 7}, -1, 0.044677734375f},
      {c, format(4, false, true, kHalf), {9, 11, 1, 14}, 7, 0.052886962890625f},
      {c, format(4, false, false, kHalf), {9, 11, 0, 15}, 7, 0.044677734375f},
      // Here fp16 arithmetic loses everything in mode linear; ours does not.
      {{600, -600, 10, 0}, format(8, true, true, kHalf), {127, -127, 2, 0}, 0, 4.7226562500f},
  };
  for (const Vector& vector : vectors) {
    SCOPED_TRACE(Describe(vector.format) + testing::PrintToString(vector.data));
    const LinearParameters parameters = FitLinear(vector.data, vector.format);
    EXPECT_EQ(parameters.scale, vector.scale);
    EXPECT_EQ(parameters.zero_point, vector.zero_point);
    std::vector<int> codes;
    for (const uint8_t code : Quantize(vector.data, parameters, vector.format).codes)
      codes.push_back(CodeValue(code, vector.format));
    EXPECT_EQ(codes, vector.codes);
  }
}

TEST(LinearMinMax, ServesRangesThatOverflowFp16Arithmetic) {
  for (const LinearFormat& format : AllFormats(false)) {
    for (const std::vector<float>& block :
         {std::vector<float>{600, -600, 10, 0}, {40000, -40000, 3}, {kMost, -kMost / 2}}) {
      if (format.scale_type == EntryType::kHalf && block[0] > kMaxHalf) continue;
      const Range range = CodesOf(format);
      const LinearParameters parameters = FitLinear(block, format);
      const double step = (static_cast<double>(block[0]) - static_cast<double>(block[1])) /
                          (range.high - range.low);
      const std::vector<uint8_t> codes = Quantize(block, parameters, format).codes;
      for (size_t i = 0; i < block.size(); ++i) {
        const double decoded = static_cast<double>(parameters.scale) *
                               (CodeValue(codes[i], format) - parameters.zero_point);
        EXPECT_NEAR(decoded / step, static_cast<double>(block[i]) / step, 0.76)
            << Describe(format) << " " << block[i];
      }
    }
  }
}

TEST(LinearMinMax, ScalesAtTheEndsOfTheTypes) {
  LinearFormat format = {.bits = 8, .scale_type = EntryType::kHalf, .search = false};
  EXPECT_EQ(FitMinMax(0, 0, format).scale, 1.0f);
  EXPECT_EQ(FitMinMax(-0x1p-24f, 0, format).scale, 0x1p-24f);
  EXPECT_EQ(FitMinMax(0, kMost, format).scale, kMaxHalf);
  format.scale_type = EntryType::kFloat;
  EXPECT_EQ(FitMinMax(0, kTiniest, format).scale, kTiniest);
  EXPECT_EQ(FitMinMax(-kMost, kMost, format).scale,
            static_cast<float>(static_cast<double>(kMost) * 2 / 254));
  format.is_signed = false;
  EXPECT_EQ(FitMinMax(0, 0, format).zero_point, 127);
  format.symmetric = false;
  EXPECT_EQ(FitMinMax(0, 0, format).zero_point, 0);
  EXPECT_EQ(FitMinMax(-kMost, kMost, format).zero_point, 128);
  EXPECT_EQ(FitMinMax(-kMost, 0, format).zero_point, 255);
}

TEST(LinearSearch, ZerosHaveScaleOneAndNoError) {
  for (const LinearFormat& format : AllFormats(true)) {
    const std::vector<float> zeros(40, 0.0f);
    const LinearParameters parameters = FitLinear(zeros, format);
    EXPECT_EQ(parameters.scale, 1.0f);
    EXPECT_EQ(Error(zeros, parameters, format), 0.0);
    ExpectValid(parameters, format);
  }
}

TEST(LinearSearch, IsNeverWorseThanMinMax) {
  for (const LinearFormat& format : AllFormats(true)) {
    LinearFormat plain = format;
    plain.search = false;
    for (const Shape shape : kShapes) {
      for (const size_t size : {1, 2, 3, 4, 8, 31, 32, 64, 65, 128, 513}) {
        for (unsigned seed = 0; seed < 4; ++seed) {
          const std::vector<float> block = Weights(shape, size, seed);
          ASSERT_LE(Error(block, FitLinear(block, format), format),
                    Error(block, FitLinear(block, plain), plain))
              << Describe(format) << ", " << size;
        }
      }
    }
  }
}

TEST(LinearSearch, IsNeverWorseThanMinMaxOrItsNeighboursAtEightBits) {
  // What coremltools stores for fp16 is now and then one step beside the scale of the rule.
  for (const bool is_signed : {false, true}) {
    for (const bool symmetric : {false, true}) {
      const LinearFormat format = {.bits = 8, .is_signed = is_signed, .symmetric = symmetric};
      LinearFormat plain = format;
      plain.search = false;
      for (unsigned seed = 0; seed < 6; ++seed) {
        const std::vector<float> block = Weights(Shape::kNormal, 5000 + 100 * seed, 40 + seed);
        const double error = Error(block, FitLinear(block, format), format);
        LinearParameters rule = FitLinear(block, plain);
        ASSERT_LE(error, Error(block, rule, plain)) << Describe(format);
        rule.scale = HalfToFloat(static_cast<uint16_t>(FloatToHalf(rule.scale) + 1));
        ASSERT_LE(error, Error(block, rule, plain)) << Describe(format);
      }
    }
  }
}

TEST(LinearSearch, IsNeverWorseWhereMinMaxIsExact) {
  // Weights that were quantized before, with a scale that only min-max finds to the last bit.
  for (const int bits : {4, 8}) {
    for (const size_t size : {32, 200}) {
      const LinearFormat format = {.bits = bits, .scale_type = EntryType::kFloat};
      std::vector<float> block(size);
      const int most = bits == 4 ? 7 : 127;
      std::mt19937 random(9);
      for (float& value : block)
        value = 0.0123456f * static_cast<float>(static_cast<int>(random() % 15) - 7);
      block[0] = 0.0123456f * static_cast<float>(most);
      LinearFormat plain = format;
      plain.search = false;
      EXPECT_LE(Error(block, FitLinear(block, format), format),
                Error(block, FitLinear(block, plain), plain));
    }
  }
}

TEST(LinearSearch, GainsATenthAtFourBitsPerBlockOf32) {
  for (const Shape shape : {Shape::kNormal, Shape::kLongTailed}) {
    const size_t blocks = 1000;
    const std::vector<float> values = Weights(shape, 32 * blocks, 11);
    const auto error = [&](bool search) {
      const LinearFormat format = {.bits = 4, .search = search};
      std::vector<LinearParameters> parameters(blocks);
      FitLinearBlocks(values.data(), 32, blocks, format, parameters.data());
      return QuantizeLinearBlocks(values.data(), 32, blocks, parameters.data(), format, nullptr)
          .noise;
    };
    EXPECT_LT(error(true), 0.9 * error(false));
  }
}

// How much more than the exact optimum, over the blocks together. The type is fp32, as the optimum
// knows no rounding.
double Excess(const LinearFormat& format, size_t size, size_t blocks, Shape shape) {
  double found = 0, least = 0;
  for (unsigned b = 0; b < blocks; ++b) {
    const std::vector<float> block = Weights(shape, size, 100 + b);
    const double error = Error(block, FitLinear(block, format), format);
    const double optimum = LeastError(block, format);
    EXPECT_GE(error, optimum * (1 - 1e-6) - 1e-12) << "below the optimum";
    found += error;
    least += optimum;
  }
  return found / least - 1;
}

TEST(LinearSearch, ComesCloseToTheExactOptimum) {
  for (const Shape shape : {Shape::kNormal, Shape::kLongTailed, Shape::kOneSided}) {
    const LinearFormat int4 = {.bits = 4, .scale_type = EntryType::kFloat};
    EXPECT_LT(Excess(int4, 32, 60, shape), 0.01);
    EXPECT_LT(Excess(int4, 64, 30, shape), 0.01);
    EXPECT_LT(Excess(int4, 128, 20, shape), 0.01);
    EXPECT_LT(Excess(int4, 1000, 4, shape), 0.005);
    LinearFormat linear = int4;
    linear.symmetric = false;
    EXPECT_LT(Excess(linear, 32, 40, shape), 0.04);
    EXPECT_LT(Excess(linear, 128, 10, shape), 0.02);
    EXPECT_LT(Excess(linear, 1000, 2, shape), 0.02);
    const LinearFormat int8 = {.bits = 8, .scale_type = EntryType::kFloat};
    EXPECT_LT(Excess(int8, 32, 10, shape), 0.2);  // many shallow minima
    EXPECT_LT(Excess(int8, 700, 2, shape), 0.04);
  }
}

TEST(LinearSearch, ClipsFarOutliersOfLongRows) {
  // Two outliers at 1000 standard deviations in a row that is long enough for clipping to pay: no
  // step between them and the rest serves both.
  for (const bool symmetric : {true, false}) {
    for (const float sign : {1.0f, -1.0f}) {
      const size_t size = 400000;
      Points points;
      // Evenly spaced values stand for the bulk: nothing to sort.
      for (int i = -300; i <= 300; ++i) points.Add(i * 0.01, static_cast<double>(size) * 50 / 601);
      if (sign > 0)
        points.Add(1000, 1);
      else
        points.values.insert(points.values.begin(), -1000),
            points.weights.insert(points.weights.begin(), 1);
      const LinearFormat format = {
          .bits = 4, .symmetric = symmetric, .scale_type = EntryType::kFloat};
      const LinearParameters parameters = FitLinear(points, format);
      // 16 levels over [-3, 3] and a little.
      EXPECT_GT(parameters.scale, 0.3f) << symmetric << sign;
      EXPECT_LT(parameters.scale, 0.6f) << symmetric << sign;
    }
  }
}

TEST(LinearPoints, MinMaxIsThatOfTheValues) {
  SortScratch scratch;
  Points points;
  for (const LinearFormat& format : AllFormats(false)) {
    for (const Shape shape : kShapes) {
      const std::vector<float> values = Weights(shape, 100, 6);
      PointsOf(std::span<const float>(values), scratch, points);
      const LinearParameters a = FitLinear(values, format), b = FitLinear(points, format);
      EXPECT_EQ(a.scale, b.scale);
      EXPECT_EQ(a.zero_point, b.zero_point);
    }
    const LinearParameters none = FitLinear(Points(), format);
    EXPECT_EQ(none.scale, 1.0f);
  }
}

TEST(LinearPoints, SearchIsAsGoodAsOverTheValues) {
  SortScratch scratch;
  Points points;
  for (const LinearFormat& format : AllFormats(true)) {
    LinearFormat plain = format;
    plain.search = false;
    for (const Shape shape : kShapes) {
      for (const size_t size : {50, 3000}) {
        // Coarse, so that many values repeat.
        std::vector<float> values = Weights(shape, size, 8);
        for (float& value : values) value = std::round(value * 4096) / 4096;
        PointsOf(std::span<const float>(values), scratch, points);
        const LinearParameters parameters = FitLinear(points, format);
        ExpectValid(parameters, format);
        const double error = Error(values, parameters, format);
        EXPECT_LE(error, Error(values, FitLinear(values, plain), plain) * (1 + 1e-12));
        // At 8 bits the levels are about as dense as the values: minima are many and shallow.
        EXPECT_LE(error, Error(values, FitLinear(values, format), format) *
                             (format.bits == 4 ? 1.05 : 1.5))
            << Describe(format) << ", " << size;
      }
    }
  }
}

}  // namespace
}  // namespace cmlc::numeric
