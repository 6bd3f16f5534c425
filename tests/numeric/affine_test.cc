#include "numeric/affine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "numeric/convert.h"
#include "numeric/half.h"
#include "support/instruction_sets.h"

namespace cmlc::numeric {
namespace {

constexpr float kMost = std::numeric_limits<float>::max();
constexpr float kTiniest = std::numeric_limits<float>::denorm_min();

std::vector<AffineFormat> AllFormats(bool search) {
  std::vector<AffineFormat> formats;
  for (int bits = 1; bits <= 8; ++bits)
    for (const bool symmetric : {false, true}) formats.push_back({bits, symmetric, search});
  return formats;
}

AffineFormat WithoutSearch(AffineFormat format) {
  format.search = false;
  return format;
}

std::string Describe(const AffineFormat& format) {
  return std::to_string(format.bits) + " bits" + (format.symmetric ? ", symmetric" : "") +
         (format.search ? ", search" : "");
}

int Levels(const AffineFormat& format) { return (1 << format.bits) - 1; }

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

enum class Shape { kNormal, kLongTailed, kOneSided, kOutliers, kTwoHumps };
constexpr Shape kShapes[] = {Shape::kNormal, Shape::kLongTailed, Shape::kOneSided, Shape::kOutliers,
                             Shape::kTwoHumps};

// The values are those of fp16.
std::vector<float> Weights(Shape shape, size_t count, unsigned seed) {
  Source source(seed);
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    double x = source.Normal();
    if (shape == Shape::kLongTailed) x *= std::exp(0.7 * source.Normal());
    if (shape == Shape::kOneSided) x = 0.5 + std::fabs(x);
    if (shape == Shape::kOutliers && i % 64 == 7) x *= 20;
    if (shape == Shape::kTwoHumps) x = 0.3 * x + (i % 2 == 0 ? 1 : -1);
    values[i] = HalfToFloat(FloatToHalf(static_cast<float>(0.02 * x)));
  }
  return values;
}

std::vector<uint16_t> Patterns(const std::vector<float>& values) {
  std::vector<uint16_t> halves(values.size());
  FloatsToHalves(values.data(), values.size(), halves.data());
  return halves;
}

std::vector<std::vector<float>> AwkwardBlocks() {
  std::vector<std::vector<float>> blocks = {
      {},
      {0.0f},
      {-0.0f, 0.0f, -0.0f},
      {1.0f},
      {-3.0f, -3.0f},
      {kMost},
      {-kMost, -kMost},
      {kMost, -kMost},
      {kMost, -kMost, 1.0f, -2.0f},
      {kMost, kMost / 100},
      {-kMost, -kMost / 100, -kMost / 3},
      {kMost, kTiniest},
      {kTiniest},
      {kTiniest, -kTiniest},
      {kTiniest, 0.0f, 2 * kTiniest, 900 * kTiniest},
      {0x1p-126f, -0x1p-127f, 0x1.8p-126f},
      {1e-30f, -3e-30f, 2e-30f, 0.0f},
      {1e-7f, 2e-7f, -1e-7f},
      {1.0f, std::nextafter(1.0f, 2.0f), 1.0f},
      {1e6f, 1e6f + 1, 1e6f + 2, 1e6f + 5},
      {1.0f, 2.0f, 3.0f, 4.0f},
  };
  for (const size_t size : {31, 65, 129, 300}) {
    blocks.push_back(std::vector<float>(size, 0.0f));
    blocks.push_back(std::vector<float>(size, -0.3f));
    std::vector<float> block(size, 1e-3f);
    block[size / 2] = -1e3f;
    blocks.push_back(block);
    for (size_t i = 0; i < size; ++i)
      block[i] = std::ldexp(i % 2 == 0 ? 1.0f : -1.0f, static_cast<int>(i % 250) - 126);
    blocks.push_back(block);
  }
  return blocks;
}

AffineParameters Fit(const std::vector<float>& block, const AffineFormat& format) {
  AffineParameters parameters;
  EXPECT_TRUE(FitAffineBlocks(block.data(), block.size(), 1, format, &parameters));
  return parameters;
}

float Decode(int code, const AffineParameters& parameters) {
  return static_cast<float>(code) * parameters.scale + parameters.bias;
}

struct Quantized {
  std::vector<uint8_t> codes;
  LinearError error;
};

Quantized Quantize(const std::vector<float>& block, const AffineParameters& parameters,
                   const AffineFormat& format) {
  Quantized result;
  result.codes.assign(block.size() + 1, 0xee);
  result.error =
      QuantizeAffineBlocks(block.data(), block.size(), 1, &parameters, format, result.codes.data());
  EXPECT_EQ(result.codes.back(), 0xee) << "wrote behind the end";
  result.codes.pop_back();
  return result;
}

double Noise(const std::vector<float>& block, const AffineParameters& parameters,
             const AffineFormat& format) {
  return QuantizeAffineBlocks(block.data(), block.size(), 1, &parameters, format, nullptr).noise;
}

// The formulas of the header, a value at a time.
Quantized PlainQuantize(const std::vector<float>& block, const AffineParameters& parameters,
                        const AffineFormat& format) {
  Quantized result;
  const float divisor = parameters.scale > 0 ? parameters.scale : 1.0f;
  for (const float value : block) {
    const float code = std::clamp(std::nearbyint((value - parameters.bias) / divisor), 0.0f,
                                  static_cast<float>(Levels(format)));
    result.codes.push_back(static_cast<uint8_t>(code));
    const auto difference = static_cast<double>(value - Decode(result.codes.back(), parameters));
    result.error.noise += difference * difference;
    result.error.signal += static_cast<double>(value) * static_cast<double>(value);
  }
  return result;
}

// Up to the order of the sum.
void ExpectSame(const LinearError& found, const LinearError& expected) {
  EXPECT_NEAR(found.noise, expected.noise, 1e-12 * expected.noise);
  EXPECT_NEAR(found.signal, expected.signal, 1e-12 * expected.signal);
}

void ExpectValid(const AffineParameters& parameters, const AffineFormat& format) {
  EXPECT_GE(parameters.scale, 0.0f);
  for (int code = 0; code <= Levels(format); ++code)
    EXPECT_TRUE(std::isfinite(Decode(code, parameters))) << code;
  if (!format.symmetric) return;
  EXPECT_EQ(parameters.bias, format.bits == 1 ? -parameters.scale / 2
                                              : -std::ldexp(parameters.scale, format.bits - 1));
}

// The least error that codes and parameters improved in turns reach, in double, from `scale` and
// `bias` on.
double ErrorInTurns(const std::vector<float>& block, const AffineFormat& format, double scale,
                    double bias) {
  const double half = std::ldexp(1.0, format.bits - 1);
  const auto n = static_cast<double>(block.size());
  double least = std::numeric_limits<double>::infinity();
  while (scale > 0) {
    double error = 0, sum_x = 0, sum_k = 0, sum_xk = 0, sum_kk = 0;
    for (const float value : block) {
      const auto x = static_cast<double>(value);
      const double code = std::clamp<double>(std::nearbyint((x - bias) / scale), 0, Levels(format));
      const double k = code - (format.symmetric ? half : 0);
      error += (x - code * scale - bias) * (x - code * scale - bias);
      sum_x += x;
      sum_k += k;
      sum_xk += x * k;
      sum_kk += k * k;
    }
    if (error >= least * (1 - 1e-9)) break;
    least = error;
    if (format.symmetric) {
      scale = sum_xk / sum_kk;
      bias = -half * scale;
    } else {
      scale = (n * sum_xk - sum_x * sum_k) / (n * sum_kk - sum_k * sum_k);
      bias = (sum_x - scale * sum_k) / n;
    }
  }
  return least;
}

// The same from a fine grid of ranges.
double LeastError(const std::vector<float>& block, const AffineFormat& format) {
  const auto [least, greatest] = std::minmax_element(block.begin(), block.end());
  const auto low = static_cast<double>(*least), high = static_cast<double>(*greatest);
  double found = std::numeric_limits<double>::infinity();
  if (format.symmetric) {
    const double half = std::ldexp(1.0, format.bits - 1);
    double scale = std::max(-low, high) / (half - 1) * 1.1;
    for (int i = 0; i < 300; ++i, scale *= 0.988)
      found = std::min(found, ErrorInTurns(block, format, scale, -half * scale));
    return found;
  }
  double mean = 0;
  for (const float value : block) mean += static_cast<double>(value);
  mean /= static_cast<double>(block.size());
  double below = (mean - low) * 1.1;
  for (int i = 0; i < 24; ++i, below *= 0.88) {
    double above = (high - mean) * 1.1;
    for (int j = 0; j < 24; ++j, above *= 0.88)
      found = std::min(found,
                       ErrorInTurns(block, format, (below + above) / Levels(format), mean - below));
  }
  return found;
}

class Affine : public test::InstructionSets {};

CMLC_FOR_INSTRUCTION_SETS(Affine);

TEST_P(Affine, CodesAreThoseOfThePlainFormula) {
  for (const AffineFormat& format : AllFormats(false)) {
    for (size_t count = 0; count < 70; ++count) {
      const std::vector<float> block = Weights(Shape::kNormal, count, static_cast<unsigned>(count));
      // Some values are clipped, others are ties.
      const AffineParameters parameters = {0x1p-10f, -0x1p-6f};
      const Quantized result = Quantize(block, parameters, format);
      const Quantized expected = PlainQuantize(block, parameters, format);
      ASSERT_EQ(result.codes, expected.codes) << Describe(format) << ", " << count;
      ExpectSame(result.error, expected.error);
      ASSERT_EQ(result.error.noise, Noise(block, parameters, format));
    }
  }
}

TEST_P(Affine, CodesAreTheNearest) {
  for (const AffineFormat& format : AllFormats(true)) {
    const std::vector<float> block = Weights(Shape::kLongTailed, 301, 2);
    const AffineParameters parameters = Fit(block, format);
    const std::vector<uint8_t> codes = Quantize(block, parameters, format).codes;
    const auto scale = static_cast<double>(parameters.scale);
    for (size_t i = 0; i < block.size(); ++i) {
      const double exact =
          (static_cast<double>(block[i]) - static_cast<double>(parameters.bias)) / scale;
      EXPECT_NEAR(codes[i], std::clamp<double>(exact, 0, Levels(format)), 0.5001);
    }
  }
}

TEST_P(Affine, AwkwardBlocksGiveValidParametersAndTheCodesOfThePlainFormula) {
  for (const bool search : {false, true}) {
    for (const AffineFormat& format : AllFormats(search)) {
      for (const std::vector<float>& block : AwkwardBlocks()) {
        SCOPED_TRACE(Describe(format) + testing::PrintToString(block));
        const AffineParameters parameters = Fit(block, format);
        ExpectValid(parameters, format);
        const Quantized result = Quantize(block, parameters, format);
        const Quantized expected = PlainQuantize(block, parameters, format);
        ASSERT_EQ(result.codes, expected.codes);
        ExpectSame(result.error, expected.error);
        const AffineFormat plain = WithoutSearch(format);
        ASSERT_LE(result.error.noise, Noise(block, Fit(block, plain), plain));
        if (testing::Test::HasFailure()) return;
      }
    }
  }
}

TEST_P(Affine, ResultsDoNotDependOnTheWidth) {
  for (const AffineFormat& format : AllFormats(true)) {
    for (const size_t size : {1, 5, 64, 129, 515}) {
      for (const Shape shape : {Shape::kLongTailed, Shape::kOneSided}) {
        const std::vector<float> block = Weights(shape, size, 5);
        Choose(GetParam());
        const AffineParameters parameters = Fit(block, format);
        const double noise = Noise(block, parameters, format);
        Choose(hwy::SupportedAndGeneratedTargets().back());
        const AffineParameters reference = Fit(block, format);
        ASSERT_EQ(parameters.scale, reference.scale) << Describe(format) << ", " << size;
        ASSERT_EQ(parameters.bias, reference.bias) << Describe(format) << ", " << size;
        ASSERT_EQ(noise, Noise(block, reference, format));
      }
    }
  }
}

TEST_P(Affine, ManyBlocksAreOneAfterTheOther) {
  for (const bool search : {false, true}) {
    for (const AffineFormat& format : AllFormats(search)) {
      for (const size_t size : {1, 7, 32, 100, 515}) {
        const size_t count = 9;
        const std::vector<float> values = Weights(Shape::kNormal, count * size, 2);
        std::vector<AffineParameters> parameters(count);
        std::vector<uint8_t> codes(values.size());
        ASSERT_TRUE(FitAffineBlocks(values.data(), size, count, format, parameters.data()));
        const LinearError error = QuantizeAffineBlocks(values.data(), size, count,
                                                       parameters.data(), format, codes.data());
        LinearError sum;
        for (size_t b = 0; b < count; ++b) {
          const auto begin = values.begin() + static_cast<std::ptrdiff_t>(b * size);
          const std::vector<float> block(begin, begin + static_cast<std::ptrdiff_t>(size));
          const AffineParameters alone = Fit(block, format);
          ASSERT_EQ(parameters[b].scale, alone.scale);
          ASSERT_EQ(parameters[b].bias, alone.bias);
          const Quantized result = Quantize(block, alone, format);
          ASSERT_TRUE(std::equal(result.codes.begin(), result.codes.end(),
                                 codes.begin() + static_cast<std::ptrdiff_t>(b * size)));
          sum.noise += result.error.noise;
          sum.signal += result.error.signal;
        }
        ExpectSame(error, sum);
      }
    }
  }
}

TEST_P(Affine, HalvesAreTreatedAsTheirValues) {
  for (const bool search : {false, true}) {
    for (const AffineFormat& format : AllFormats(search)) {
      for (const size_t size : {1, 7, 16, 33, 100, 513}) {
        const size_t count = 20;
        std::vector<float> values = Weights(Shape::kLongTailed, count * size, 4);
        // Subnormals, a zero with a sign, and the ends of the type.
        values[0] = 0x1p-24f;
        values[size / 2] = -0x1.8p-23f;
        values[2 * size] = -0.0f;
        values[3 * size] = size % 2 == 0 ? kMaxHalf : -kMaxHalf;
        const std::vector<uint16_t> halves = Patterns(values);
        std::vector<AffineParameters> of_values(count), of_halves(count);
        ASSERT_TRUE(FitAffineBlocks(values.data(), size, count, format, of_values.data()));
        ASSERT_TRUE(FitAffineBlocks(halves.data(), size, count, format, of_halves.data()));
        for (size_t b = 0; b < count; ++b) {
          ASSERT_EQ(of_values[b].scale, of_halves[b].scale) << Describe(format) << ", " << size;
          ASSERT_EQ(of_values[b].bias, of_halves[b].bias) << Describe(format) << ", " << size;
        }
        std::vector<uint8_t> codes(values.size()), codes_of_halves(values.size());
        const LinearError error = QuantizeAffineBlocks(values.data(), size, count, of_values.data(),
                                                       format, codes.data());
        const LinearError error_of_halves = QuantizeAffineBlocks(
            halves.data(), size, count, of_values.data(), format, codes_of_halves.data());
        ASSERT_EQ(error_of_halves.noise, error.noise);
        // Some of these sums are those of fp32.
        ASSERT_NEAR(error_of_halves.signal, error.signal, 1e-6 * error.signal);
        ASSERT_EQ(codes, codes_of_halves);
      }
    }
  }
}

TEST_P(Affine, FindsWhatIsNotFinite) {
  const float bad[] = {INFINITY, -INFINITY, NAN};
  for (const AffineFormat& format : {AffineFormat{4, false, false}, AffineFormat{4, false, true}}) {
    for (const size_t size : {1, 5, 33}) {
      std::vector<AffineParameters> parameters(3);
      for (size_t at = 0; at < 3 * size; ++at) {
        std::vector<float> values(3 * size, 0.5f);
        values[at] = bad[at % 3];
        EXPECT_FALSE(FitAffineBlocks(values.data(), size, 3, format, parameters.data()));
        EXPECT_FALSE(FitAffineBlocks(Patterns(values).data(), size, 3, format, parameters.data()));
      }
    }
  }
}

TEST_P(Affine, SearchIsNeverWorse) {
  for (const AffineFormat& format : AllFormats(true)) {
    const AffineFormat plain = WithoutSearch(format);
    for (const Shape shape : kShapes) {
      for (const size_t size : {1, 2, 3, 4, 9, 32, 65, 513}) {
        for (unsigned seed = 0; seed < 4; ++seed) {
          const std::vector<float> block = Weights(shape, size, seed);
          const AffineParameters parameters = Fit(block, format);
          ExpectValid(parameters, format);
          ASSERT_LE(Noise(block, parameters, format), Noise(block, Fit(block, plain), plain))
              << Describe(format) << ", " << size;
        }
      }
    }
  }
}

TEST(AffineOfRange, IsTheRuleOfTheTable) {
  const auto expect = [](float least, float greatest, const AffineFormat& format, float scale,
                         float bias) {
    const AffineParameters parameters = AffineOfRange(least, greatest, format);
    EXPECT_EQ(parameters.scale, scale) << Describe(format);
    EXPECT_EQ(parameters.bias, bias) << Describe(format);
  };
  expect(1, 4, {2, false, false}, 1, 1);
  expect(-2, 3, {8, false, false}, static_cast<float>(5.0 / 255), -2);
  expect(-1, 0, {1, false, false}, 1, -1);
  expect(-3, 2, {1, true, false}, 6, -3);
  expect(-1, 3, {2, true, false}, 3, -6);
  expect(-127, 100, {8, true, false}, 1, -128);
  // Scales of any size.
  expect(1e-30f, 3e-30f, {1, false, false}, static_cast<float>(3e-30 - 1e-30), 1e-30f);
  expect(0, kTiniest, {8, false, false}, kTiniest, 0);
  expect(0, kTiniest, {8, true, false}, kTiniest, -128 * kTiniest);
  expect(-kMost, kMost, {8, false, false}, 0x1p120f, -0x1.fep126f);
  expect(-kMost, kMost, {1, false, false}, 0x1p127f, -0x1p126f);
  expect(-kMost, kMost, {2, true, false}, 0x1p126f, -0x1p127f);
  // Nothing to tell apart.
  for (const int bits : {1, 2, 8}) {
    expect(0.3f, 0.3f, {bits, false, false}, 0, 0.3f);
    expect(0, 0, {bits, false, false}, 0, 0);
    expect(0, 0, {bits, true, false}, 0, 0);
  }
}

TEST(AffineEqualValues, AreDecodedExactly) {
  for (const bool search : {false, true}) {
    for (const AffineFormat& format : AllFormats(search)) {
      for (const float value : {0.0f, 0.3f, -1e-20f, -kTiniest, kMost}) {
        const std::vector<float> block(37, value);
        const AffineParameters parameters = Fit(block, format);
        if (format.symmetric && value != 0) {
          // As far as fp32 goes; kMost may be too much for -H * scale.
          if (value == kMost) continue;
          for (const uint8_t code : Quantize(block, parameters, format).codes)
            EXPECT_NEAR(Decode(code, parameters), value, 1e-6f * std::fabs(value));
        } else {
          EXPECT_EQ(Noise(block, parameters, format), 0) << Describe(format) << ", " << value;
        }
      }
    }
  }
}

TEST(AffineSymmetric, ZeroHasItsCode) {
  for (const bool search : {false, true}) {
    for (const AffineFormat& format : AllFormats(search)) {
      if (!format.symmetric || format.bits == 1) continue;
      std::vector<float> block = Weights(Shape::kNormal, 50, 3);
      block[20] = 0;
      const AffineParameters parameters = Fit(block, format);
      const std::vector<uint8_t> codes = Quantize(block, parameters, format).codes;
      EXPECT_EQ(codes[20], 1 << (format.bits - 1));
      EXPECT_EQ(Decode(codes[20], parameters), 0);
      if (!search) {
        EXPECT_GT(*std::min_element(codes.begin(), codes.end()), 0) << Describe(format);
      }
    }
  }
}

TEST(AffineSearch, OneBitIsExact) {
  for (const Shape shape : kShapes) {
    for (const size_t size : {2, 3, 9, 64, 301}) {
      const std::vector<float> block = Weights(shape, size, 9);
      const auto n = static_cast<double>(size);
      std::vector<float> sorted = block;
      std::sort(sorted.begin(), sorted.end());
      double sum = 0, power = 0, magnitude = 0;
      for (const float value : block) {
        sum += static_cast<double>(value);
        power += static_cast<double>(value) * static_cast<double>(value);
        magnitude += static_cast<double>(std::fabs(value));
      }
      double explained = sum * sum / n, below = 0;
      for (size_t i = 1; i < size; ++i) {
        below += static_cast<double>(sorted[i - 1]);
        const auto k = static_cast<double>(i);
        explained =
            std::max(explained, below * below / k + (sum - below) * (sum - below) / (n - k));
      }
      const AffineFormat free = {1, false, true}, symmetric = {1, true, true};
      EXPECT_NEAR(Noise(block, Fit(block, free), free), power - explained, 1e-6 * power);
      EXPECT_NEAR(Noise(block, Fit(block, symmetric), symmetric), power - magnitude * magnitude / n,
                  1e-6 * power);
    }
  }
}

TEST(AffineSearch, ComesCloseToAFineGrid) {
  struct Case {
    int bits;
    size_t size;
    double excess;
  };
  // At more bits minima are many and shallow, and blocks with few values may hit a good one by
  // luck.
  for (const Case& test : {Case{2, 8, 0.01},
                           {2, 64, 0.01},
                           {3, 32, 0.02},
                           {4, 16, 0.08},
                           {4, 64, 0.02},
                           {4, 300, 0.01},
                           {6, 64, 0.04},
                           {8, 64, 0.1}}) {
    for (const bool symmetric : {false, true}) {
      const AffineFormat format = {test.bits, symmetric, true};
      double found = 0, least = 0;
      for (const Shape shape : kShapes) {
        for (unsigned seed = 0; seed < 4; ++seed) {
          const std::vector<float> block = Weights(shape, test.size, 100 + seed);
          double power = 0;
          for (const float value : block)
            power += static_cast<double>(value) * static_cast<double>(value);
          found += Noise(block, Fit(block, format), format) / power;
          least += LeastError(block, format) / power;
        }
      }
      EXPECT_LT(found, least * (1 + test.excess)) << Describe(format) << ", " << test.size;
    }
  }
}

TEST(AffineSearch, KeepsWhatWasQuantizedBefore) {
  for (const AffineFormat& format : AllFormats(true)) {
    if (format.symmetric && format.bits == 1) continue;
    std::vector<float> block;
    const int first = format.symmetric ? 1 : 0;  // the codes that the rule uses
    for (int i = 0; i < 300; ++i)
      block.push_back(Decode(first + i % (Levels(format) + 1 - first),
                             {0x1p-7f, -std::ldexp(0x1p-7f, format.bits - 1)}));
    EXPECT_LT(Noise(block, Fit(block, format), format), 1e-11) << Describe(format);
  }
}

TEST(AffinePoints, AreAsGoodAsTheirValues) {
  SortScratch scratch;
  Points points;
  EXPECT_EQ(FitAffine(points, {}).scale, 0);
  for (const bool search : {false, true}) {
    for (const AffineFormat& format : AllFormats(search)) {
      for (const Shape shape : kShapes) {
        // Coarse, so that many values repeat.
        std::vector<float> block = Weights(shape, 3000, 8);
        for (float& value : block) value = std::round(value * 8192) / 8192;
        PointsOf(std::span<const float>(block), scratch, points);
        const AffineParameters parameters = FitAffine(points, format);
        ExpectValid(parameters, format);
        const double noise = Noise(block, parameters, format);
        const double of_values = Noise(block, Fit(block, format), format);
        EXPECT_NEAR(noise, of_values, (search ? 0.02 : 0) * of_values) << Describe(format);
      }
    }
  }
}

TEST(AffinePoints, CountAsRounded) {
  Points points;
  for (const double value : {1.0, 1.0 + 1e-12, 2.0, 2.0 + 1e-12}) points.Add(value, 3);
  for (int bits = 1; bits <= 8; ++bits) {
    const AffineParameters parameters = FitAffine(points, {bits, false, true});
    EXPECT_NEAR(Decode(0, parameters), 1, 1e-6);
    EXPECT_NEAR(Decode((1 << bits) - 1, parameters), 2, 1e-6);
  }
}

TEST(AffinePoints, FarOutliersAreCutOff) {
  // Among so many values one at 1000 standard deviations is worth no step of any other.
  for (const bool symmetric : {false, true}) {
    for (const double sign : {1.0, -1.0}) {
      Points points;
      if (sign < 0) points.Add(-1000, 1);
      for (int i = -300; i <= 300; ++i) points.Add(i * 0.01, 5e4);
      if (sign > 0) points.Add(1000, 1);
      const AffineParameters parameters = FitAffine(points, {4, symmetric, true});
      EXPECT_NEAR(parameters.scale, 0.4, 0.05) << symmetric << sign;
      EXPECT_NEAR(parameters.bias, -3, 0.3) << symmetric << sign;
    }
  }
}

TEST(AffineDeathTest, RefusesOtherWidths) {
  EXPECT_DEATH(AffineOfRange(0, 1, {0, false, false}), "");
  EXPECT_DEATH(AffineOfRange(0, 1, {9, false, false}), "");
}

}  // namespace
}  // namespace cmlc::numeric
