// Quantize: codes, scales and zero points of plain weights, against the formulas written out.
#include <algorithm>
#include <cmath>
#include <limits>

#include "numeric/half.h"
#include "support/pass_run.h"

namespace cmlc::test {
namespace {

constexpr DataType kHalf = DataType::kFloat16;
constexpr DataType kFloat = DataType::kFloat32;

PassSpec Quantize(OptionValues options, std::vector<Rule> rules = {}) {
  PassSpec spec;
  spec.pass = "quantize";
  spec.options = std::move(options);
  spec.rules = std::move(rules);
  return spec;
}

float Rounded(DataType dtype, float value) {
  return dtype == kHalf ? numeric::HalfToFloat(numeric::FloatToHalf(value)) : value;
}

// --- What is stored ------------------------------------------------------------------------------

// A quantized weight of either form, taken apart without the library's decoder.
struct Stored {
  DataType dtype;  // of the values
  Shape shape;     // of the weight
  Shape blocks;    // scales along each axis
  DataType code_dtype;
  std::vector<int> codes;
  std::vector<float> scales;
  std::vector<int> zero_points;  // one for each scale; zeros if there is no operand
  bool has_zero_points;

  size_t BlockOf(size_t position) const {
    size_t block = 0, stride = 1;
    for (size_t d = shape.size(); d-- > 0;) {
      const auto size = static_cast<size_t>(shape[d]), count = static_cast<size_t>(blocks[d]);
      block += position % size / (size / count) * stride;
      position /= size;
      stride *= count;
    }
    return block;
  }
  // scale * (code - zero point), in the product's own precision.
  double Exact(size_t position) const {
    const size_t block = BlockOf(position);
    return static_cast<double>(scales[block]) * (codes[position] - zero_points[block]);
  }
};

std::vector<int> Integers(const Opened& model, const Value& value) {
  const DataType dtype = value.type.tensor.dtype;
  const int bits = BitsOf(dtype);
  std::vector<int> codes = model.Codes(value, *ElementCount(*StaticShape(value.type)), bits);
  if (FindDataType(dtype)->is_signed)
    for (int& code : codes)
      if (code >= 1 << (bits - 1)) code -= 1 << bits;
  return codes;
}

Stored Take(const PassRun& run, const std::string& name = "weight") {
  const Opened& model = run.after();
  const Operation* op = model.Find(name);
  Stored stored;
  const bool old_form = op->type == "constexpr_affine_dequantize";
  EXPECT_TRUE(old_form || op->type == "constexpr_blockwise_shift_scale") << op->type;
  const Value& data = model.Operand(name, old_form ? "quantized_data" : "data");
  const Value& scale = model.Operand(name, "scale");
  stored.dtype = scale.type.tensor.dtype;
  stored.code_dtype = data.type.tensor.dtype;
  stored.shape = *StaticShape(data.type);
  stored.codes = Integers(model, data);
  stored.scales = model.Floats(scale);
  stored.blocks = *StaticShape(scale.type);
  if (old_form) {
    const auto axis = ImmediateInts(model.Operand(name, "axis"))->front();
    stored.blocks.assign(stored.shape.size(), 1);
    stored.blocks[static_cast<size_t>(axis)] = static_cast<int64_t>(stored.scales.size());
  }
  const std::string offset = old_form ? "zero_point" : "offset";
  stored.has_zero_points = op->attributes.contains(offset) || op->inputs.contains(offset);
  stored.zero_points.assign(stored.scales.size(), 0);
  if (stored.has_zero_points) {
    const Value& value = model.Operand(name, offset);
    EXPECT_EQ(value.type.tensor.dtype, stored.code_dtype);
    EXPECT_EQ(StaticShape(value.type), StaticShape(scale.type));
    stored.zero_points = Integers(model, value);
  }
  return stored;
}

// The values that the library decodes are those of the formula, rounded once to the weight's type;
// and the error in the report is that of what is decoded.
void ExpectDecodes(const PassRun& run, const Stored& stored, const std::string& name = "weight") {
  const std::vector<float> before = run.before().Values(name);
  const std::vector<float> after = run.after().Values(name);
  ASSERT_EQ(after.size(), stored.codes.size());
  ASSERT_EQ(before.size(), after.size());
  double signal = 0, noise = 0;
  for (size_t i = 0; i < after.size(); ++i) {
    const double exact = stored.Exact(i);
    ASSERT_EQ(after[i], Rounded(stored.dtype, static_cast<float>(exact))) << "at " << i;
    signal += static_cast<double>(before[i]) * before[i];
    const double error = static_cast<double>(before[i]) - after[i];
    noise += error * error;
  }
  EXPECT_NEAR(run.weight(name).quality.signal, signal, 1e-6 * signal);
  EXPECT_NEAR(run.weight(name).quality.noise, noise, 1e-6 * noise + 1e-30);
}

// The parameters of coremltools for the values of a block, in fp32.
struct Reference {
  float scale;
  int zero_point, low, high;
  int Code(float value) const {
    const auto code = static_cast<int>(std::nearbyint(value / scale)) + zero_point;
    return std::clamp(code, low, high);
  }
};
Reference MinMax(const std::vector<float>& values, const std::string& dtype, bool symmetric,
                 DataType scale_dtype) {
  const int q = dtype.back() == '4' ? 7 : 127;
  const bool is_signed = dtype[0] == 'i';
  Reference reference{};
  reference.low = is_signed ? (symmetric ? -q : -q - 1) : 0;
  reference.high = is_signed ? q : symmetric ? 2 * q : 2 * q + 1;
  const auto [least, greatest] = std::minmax_element(values.begin(), values.end());
  float low = std::min(0.0f, *least), high = std::max(0.0f, *greatest);
  if (symmetric) {
    high = std::max(std::fabs(*least), std::fabs(*greatest));
    low = -high;
  }
  reference.scale =
      Rounded(scale_dtype, (high - low) / static_cast<float>(reference.high - reference.low));
  if (!symmetric) {
    const float zero =
        (static_cast<float>(reference.low) * high - static_cast<float>(reference.high) * low) /
        (high - low);
    reference.zero_point =
        std::clamp(static_cast<int>(std::nearbyint(zero)), reference.low, reference.high);
  } else if (!is_signed) {
    reference.zero_point = q;
  }
  return reference;
}

void ExpectMinMax(const PassRun& run, const Stored& stored, const std::string& dtype,
                  bool symmetric) {
  const std::vector<float> values = run.before().Values("weight");
  std::vector<std::vector<float>> blocks(stored.scales.size());
  for (size_t i = 0; i < values.size(); ++i) blocks[stored.BlockOf(i)].push_back(values[i]);
  std::vector<Reference> references;
  for (size_t b = 0; b < blocks.size(); ++b) {
    references.push_back(MinMax(blocks[b], dtype, symmetric, stored.dtype));
    ASSERT_EQ(stored.scales[b], references[b].scale) << "block " << b;
    ASSERT_EQ(stored.zero_points[b], references[b].zero_point) << "block " << b;
  }
  for (size_t i = 0; i < values.size(); ++i)
    ASSERT_EQ(stored.codes[i], references[stored.BlockOf(i)].Code(values[i])) << "at " << i;
}

// --- Every layout --------------------------------------------------------------------------------

struct LayoutCase {
  const char* name;
  PackageBuilder (*make)(DataType dtype, int32_t version);
  size_t output, input;  // axes
  friend void PrintTo(const LayoutCase& layout, std::ostream* out) { *out << layout.name; }
};

const LayoutCase kLayouts[] = {
    {"conv", [](DataType t, int32_t v) { return OneConv(t, 6, 12, 3, v); }, 0, 1},
    {"convTranspose", [](DataType t, int32_t v) { return OneConvTranspose(t, 6, 12, 3, v); }, 1, 0},
    {"linear", [](DataType t, int32_t v) { return OneLinear(t, 6, 60, v); }, 0, 1},
    {"matmulY", [](DataType t, int32_t v) { return OneMatmul(t, 6, 60, false, v); }, 1, 0},
    {"matmulYTransposed", [](DataType t, int32_t v) { return OneMatmul(t, 6, 60, true, v); }, 0, 1},
    {"matmulX", [](DataType t, int32_t v) { return OneMatmulX(t, 6, 60, false, v); }, 0, 1},
    {"matmulXTransposed", [](DataType t, int32_t v) { return OneMatmulX(t, 6, 60, true, v); }, 1,
     0},
    {"gather", [](DataType t, int32_t v) { return OneGather(t, 6, 60, v); }, 0, 1},
};

class QuantizeLayouts : public ::testing::TestWithParam<LayoutCase> {
 protected:
  PassRun Run(DataType dtype, int32_t version, OptionValues options) const {
    options.emplace_back("weight_threshold", "0");
    return PassRun(GetParam().make(dtype, version), Quantize(options));
  }
};

TEST_P(QuantizeLayouts, ScaleOfTheWeight) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const int32_t version : {7, 9}) {
      const PassRun run = Run(dtype, version, {{"granularity", "per_tensor"}});
      ASSERT_TRUE(IsDone(run));
      const Stored stored = Take(run);
      EXPECT_EQ(stored.scales.size(), 1u);
      EXPECT_EQ(stored.dtype, dtype);
      ExpectDecodes(run, stored);
      EXPECT_EQ(run.weight().form, "int8 symmetric per tensor");
      EXPECT_EQ(run.report().version_after, version);
    }
}

TEST_P(QuantizeLayouts, ScalesOfOutputChannelsAreTheDefault) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const int32_t version : {7, 9}) {
      const PassRun run = Run(dtype, version, {});
      ASSERT_TRUE(IsDone(run));
      const Stored stored = Take(run);
      Shape blocks(stored.shape.size(), 1);
      blocks[GetParam().output] = 6;
      EXPECT_EQ(stored.blocks, blocks);
      ExpectDecodes(run, stored);
      EXPECT_EQ(run.weight().form, "int8 symmetric, 6 scales");
      EXPECT_EQ(run.report().version_after, version);
    }
}

TEST_P(QuantizeLayouts, ScalesOfBlocksOfInputChannels) {
  for (const DataType dtype : {kHalf, kFloat}) {
    const PassRun run = Run(dtype, 7, {{"block_size", "4"}, {"dtype", "int4"}});
    ASSERT_TRUE(IsDone(run));
    const Stored stored = Take(run);
    Shape blocks(stored.shape.size(), 1);
    blocks[GetParam().output] = 6;
    blocks[GetParam().input] = stored.shape[GetParam().input] / 4;
    EXPECT_EQ(stored.blocks, blocks);
    ExpectDecodes(run, stored);
    EXPECT_EQ(run.report().version_after, 9);
  }
}

// Every format in every granularity, by coremltools' rule: exact codes.
TEST_P(QuantizeLayouts, MinMaxIsTheRuleOfTheRange) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const char* codes : {"int8", "uint8", "int4", "uint4"})
      for (const char* mode : {"linear", "linear_symmetric"})
        for (const char* granularity : {"per_tensor", "per_channel", "per_block"}) {
          OptionValues options = {
              {"dtype", codes}, {"mode", mode}, {"granularity", granularity}, {"scales", "minmax"}};
          if (std::string(granularity) == "per_block") options.emplace_back("block_size", "6");
          const PassRun run = Run(dtype, 9, options);
          SCOPED_TRACE(std::string(codes) + " " + mode + " " + granularity);
          ASSERT_TRUE(IsDone(run));
          const Stored stored = Take(run);
          const bool symmetric = std::string(mode) == "linear_symmetric";
          EXPECT_EQ(NameOf(stored.code_dtype), codes);
          EXPECT_EQ(stored.has_zero_points, !symmetric || codes[0] == 'u');
          ExpectMinMax(run, stored, codes, symmetric);
          ExpectDecodes(run, stored);
        }
}

INSTANTIATE_TEST_SUITE_P(Ops, QuantizeLayouts, ::testing::ValuesIn(kLayouts),
                         [](const auto& layout) { return layout.param.name; });

// --- Forms ---------------------------------------------------------------------------------------

std::string Printed(PackageBuilder package, OptionValues options) {
  const PassRun run(std::move(package), Quantize(std::move(options)));
  EXPECT_TRUE(IsDone(run));
  return run.ok() ? run.after().Print("weight") : run.error();
}

TEST(Quantize, StoresTheOlderFormBelowIos18) {
  EXPECT_EQ(Printed(OneLinear(kHalf, 16, 256), {}),
            "constexpr_affine_dequantize[axis: int32 spec, quantized_data: int8 [16, 256] file, "
            "scale: fp16 [16] file, zero_point: int8 [16] file] -> fp16 [16, 256]");
  EXPECT_EQ(Printed(OneConvTranspose(kFloat, 16, 32, 3, 8), {{"dtype", "uint8"}}),
            "constexpr_affine_dequantize[axis: int32 spec, quantized_data: uint8 [32, 16, 3, 3] "
            "file, scale: fp32 [16] file, zero_point: uint8 [16] file] -> fp32 [32, 16, 3, 3]");
  // A scale of the whole weight is a scalar, and so is that of a single channel.
  for (const int64_t channels : {16, 1})
    EXPECT_EQ(Printed(OneLinear(kHalf, channels, 4096),
                      {{"granularity", channels == 1 ? "per_channel" : "per_tensor"},
                       {"mode", "linear"}}),
              "constexpr_affine_dequantize[axis: int32 spec, quantized_data: int8 [" +
                  std::to_string(channels) +
                  ", 4096] file, scale: fp16 spec, zero_point: int8 spec] -> fp16 [" +
                  std::to_string(channels) + ", 4096]");
}

TEST(Quantize, TheAxisOfTheOlderFormIsThatOfItsScales) {
  const PassRun conv(OneConv(kHalf, 16, 32, 3), Quantize({}));
  const PassRun transpose(OneConvTranspose(kHalf, 16, 32, 3), Quantize({}));
  const PassRun matmul(OneMatmul(kHalf, 16, 256, false), Quantize({}));
  ASSERT_TRUE(IsDone(conv) && IsDone(transpose) && IsDone(matmul));
  EXPECT_EQ(ImmediateInts(conv.after().Operand("weight", "axis")), std::vector<int64_t>{0});
  EXPECT_EQ(ImmediateInts(transpose.after().Operand("weight", "axis")), std::vector<int64_t>{1});
  EXPECT_EQ(ImmediateInts(matmul.after().Operand("weight", "axis")), std::vector<int64_t>{1});
}

TEST(Quantize, StoresTheNewerFormFromIos18On) {
  for (const int32_t version : {9, 10}) {
    EXPECT_EQ(Printed(OneLinear(kHalf, 16, 256, version), {}),
              "constexpr_blockwise_shift_scale(data: int8 [16, 256] file, scale: fp16 [16, 1] "
              "file) -> fp16 [16, 256]");
    EXPECT_EQ(
        Printed(OneConv(kFloat, 8, 64, 3, version), {{"dtype", "uint4"}, {"block_size", "32"}}),
        "constexpr_blockwise_shift_scale(data: uint4 [8, 64, 3, 3] file, offset: uint4 [8, "
        "2, 1, 1] file, scale: fp32 [8, 2, 1, 1] file) -> fp32 [8, 64, 3, 3]");
    EXPECT_EQ(Printed(OneLinear(kHalf, 16, 256, version),
                      {{"granularity", "per_tensor"}, {"mode", "linear"}}),
              "constexpr_blockwise_shift_scale(data: int8 [16, 256] file, offset: int8 [1, 1] "
              "spec, scale: fp16 [1, 1] spec) -> fp16 [16, 256]");
  }
}

TEST(Quantize, ReportsBytesAndKeepsEverythingElse) {
  const PassRun run(OneConv(kHalf, 16, 16, 3), Quantize({}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.weight().bytes_before, 2304u * 2);
  EXPECT_EQ(run.weight().bytes_after, 2304u + 16 * 2 + 16);
  EXPECT_EQ(run.weight().dtype, "fp16");
  EXPECT_EQ(run.weight().consumers, std::vector<std::string>{"conv 'y' weight"});
  EXPECT_EQ(run.report().pass, "quantize");
  std::vector<std::string> expected = run.before().Ops();
  ASSERT_EQ(expected.front(), "const weight");
  expected.front() = "constexpr_affine_dequantize weight";
  EXPECT_EQ(run.after().Ops(), expected);
}

// --- Blocks --------------------------------------------------------------------------------------

Shape ScaleShape(const PassRun& run) {
  return *StaticShape(run.after().Operand("weight", "scale").type);
}

TEST(QuantizeBlocks, ASizeForEveryAxisIsTakenLiterally) {
  const std::tuple<const char*, Shape> cases[] = {{"4,8,3,1", {8, 2, 1, 3}},
                                                  {"0,0,0,0", {1, 1, 1, 1}},
                                                  {"1x1x1x1", {32, 16, 3, 3}},
                                                  {"0:2:0:0", {1, 8, 1, 1}},
                                                  {"0,0,1,0", {1, 1, 3, 1}}};
  for (const auto& [sizes, scales] : cases) {
    const PassRun run(OneConv(kHalf, 32, 16, 3, 9), Quantize({{"block_size", sizes}}));
    ASSERT_TRUE(IsDone(run)) << sizes;
    EXPECT_EQ(ScaleShape(run), scales);
    ExpectDecodes(run, Take(run));
  }
}

TEST(QuantizeBlocks, OfZeroAreWholeChannelsAndRaiseNothing) {
  const PassRun run(OneLinear(kHalf, 16, 256), Quantize({{"block_size", "0"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.report().version_after, 7);
  EXPECT_EQ(Take(run).blocks, (Shape{16, 1}));
}

TEST(QuantizeBlocks, OfOneGiveEveryPairOfChannelsAScale) {
  const PassRun run(OneConv(kHalf, 16, 32, 3, 9), Quantize({{"block_size", "1"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(ScaleShape(run), (Shape{16, 32, 1, 1}));
}

TEST(QuantizeBlocks, HaveThirtyTwoChannelsUnlessSaidOtherwise) {
  const PassRun run(OneLinear(kHalf, 16, 256, 9), Quantize({{"granularity", "per_block"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(ScaleShape(run), (Shape{16, 8}));
}

// A scale for each channel of one axis is what iOS 16 has, however it is asked for.
TEST(QuantizeBlocks, AlongOneAxisIntoSingleChannelsRaiseNothing) {
  const PassRun run(OneLinear(kHalf, 16, 256), Quantize({{"block_size", "0,1"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.report().version_after, 7);
  EXPECT_EQ(Take(run).blocks, (Shape{1, 256}));
  ExpectDecodes(run, Take(run));
}

TEST(QuantizeBlocks, OfOneAxisAreStillBlocks) {
  const PassRun run(OneLinear(kHalf, 16, 256), Quantize({{"block_size", "0,2"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.report().version_after, 9);
  EXPECT_EQ(ScaleShape(run), (Shape{1, 128}));
}

TEST(QuantizeBlocks, ThatDoNotDivideLeaveTheWeight) {
  const PassRun run(OneLinear(kHalf, 16, 200), Quantize({{"block_size", "32"}}));
  EXPECT_TRUE(Left(run, "weight",
                   "block size 32 does not divide 200 (axis 1 of [16, 200]); --fallback nearest or "
                   "per_channel would do it"));
  EXPECT_EQ(run.weight().category, "with an axis that block_size does not divide");
  EXPECT_EQ(run.report().version_after, 7);
  const PassRun larger(OneConv(kHalf, 64, 3, 7), Quantize({{"granularity", "per_block"}}));
  EXPECT_TRUE(Left(larger, "weight", "block size 32 does not divide 3 (axis 1 of [64, 3, 7, 7])"));
}

TEST(QuantizeBlocks, FallBackToTheNearestDivisor) {
  const std::tuple<int64_t, const char*, int64_t> cases[] = {
      {200, "32", 5},    // 40, which is 1.25 times as much; 25 would be 1.28 times less
      {3, "32", 1},      // all three
      {96, "36", 3},     // 32
      {210, "11", 21}};  // 10, and not 14
  for (const auto& [channels, size, blocks] : cases) {
    const PassRun run(
        OneLinear(kHalf, 16, channels, 9),
        Quantize({{"block_size", size}, {"fallback", "nearest"}, {"weight_threshold", "0"}}));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(ScaleShape(run), (Shape{16, blocks})) << channels;
    EXPECT_EQ(run.weight().form, "int8 symmetric, " + std::to_string(16 * blocks) +
                                     " scales, block size " + std::to_string(channels / blocks) +
                                     " for " + size + " that does not divide " +
                                     std::to_string(channels));
    ExpectDecodes(run, Take(run));
  }
}

TEST(QuantizeBlocks, FallBackToChannelsAndRaiseNothing) {
  const PassRun run(OneConv(kHalf, 64, 3, 7),
                    Quantize({{"granularity", "per_block"}, {"fallback", "per_channel"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.report().version_after, 7);
  EXPECT_EQ(Take(run).blocks, (Shape{64, 1, 1, 1}));
  EXPECT_EQ(run.weight().form,
            "int8 symmetric, 64 scales, per channel: block size 32 does not divide 3 (axis 1 of "
            "[64, 3, 7, 7])");
}

TEST(QuantizeBlocks, AFallbackDoesNothingWhereSizesDivide) {
  for (const char* fallback : {"skip", "nearest", "per_channel"}) {
    const PassRun run(OneLinear(kHalf, 16, 256, 9),
                      Quantize({{"block_size", "64"}, {"fallback", fallback}}));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(ScaleShape(run), (Shape{16, 4})) << fallback;
    EXPECT_EQ(run.weight().form, "int8 symmetric, 64 scales");
  }
}

TEST(QuantizeBlocks, OfAnotherRankLeaveTheWeight) {
  const PassRun run(OneLinear(kHalf, 16, 256), Quantize({{"block_size", "1,32,0,0"}}));
  EXPECT_TRUE(Left(run, "weight", "block_size has 4 sizes, shape is [16, 256]"));
}

// --- Readers that disagree -----------------------------------------------------------------------

PackageBuilder ReadAlongTwoAxes() {
  PackageBuilder package = OneLinear(kHalf, 64, 64, 9);
  BlockBuilder main = package.Function("main");
  main.Const("no", BoolValue(false));
  main.Op("matmul", "z",
          {{"x", "x"}, {"y", "weight"}, {"transpose_x", "no"}, {"transpose_y", "no"}},
          TensorType(kHalf, {1, 64}));
  main.Output("z");
  return package;
}

TEST(Quantize, LeavesAWeightWhoseReadersDisagreeOnTheAxis) {
  for (const char* granularity : {"per_channel", "per_block"}) {
    const PassRun run(ReadAlongTwoAxes(), Quantize({{"granularity", granularity}}));
    EXPECT_TRUE(Left(run, "weight", "linear 'y' axis 0, matmul 'z' axis 1"));
    EXPECT_TRUE(Left(run, "weight", "granularity per_tensor, or a block size for every axis"));
    EXPECT_EQ(run.weight().category, "read along different axes");
  }
}

TEST(Quantize, AxesDoNotMatterForOneScaleOrLiteralBlocks) {
  const PassRun tensor(ReadAlongTwoAxes(), Quantize({{"granularity", "per_tensor"}}));
  ASSERT_TRUE(IsDone(tensor));
  EXPECT_EQ(ScaleShape(tensor), (Shape{1, 1}));
  const PassRun blocks(ReadAlongTwoAxes(), Quantize({{"block_size", "16,0"}}));
  ASSERT_TRUE(IsDone(blocks));
  EXPECT_EQ(ScaleShape(blocks), (Shape{4, 1}));
}

// --- Values that are awkward ---------------------------------------------------------------------

struct RowCase {
  const char* name;
  std::vector<float> row;  // repeated in a weight of [4, n], between rows of other values
  friend void PrintTo(const RowCase& row, std::ostream* out) { *out << row.name; }
};

class QuantizeAwkward : public ::testing::TestWithParam<RowCase> {};

// No value ends up further off than a step, and zeros stay zeros, in every format.
TEST_P(QuantizeAwkward, RowsComeOutRight) {
  const std::vector<float>& row = GetParam().row;
  const auto width = static_cast<int64_t>(row.size());
  std::vector<float> values;
  for (const bool mine : {false, true, false, true})
    for (size_t i = 0; i < row.size(); ++i)
      values.push_back(mine ? row[i] : 0.5f - static_cast<float>(i % 7));
  for (const DataType dtype : {kHalf, kFloat})
    for (const char* codes : {"int8", "uint8", "int4", "uint4"})
      for (const char* mode : {"linear", "linear_symmetric"})
        for (const char* scales : {"search", "minmax"}) {
          SCOPED_TRACE(NameOf(dtype) + " " + codes + " " + mode + " " + scales);
          const PassRun run(LinearOf(dtype, {4, width}, values, 9),
                            Quantize({{"dtype", codes},
                                      {"mode", mode},
                                      {"scales", scales},
                                      {"weight_threshold", "0"}}));
          ASSERT_TRUE(IsDone(run));
          const Stored stored = Take(run);
          ExpectDecodes(run, stored);
          const std::vector<float> before = run.before().Values("weight");
          const std::vector<float> after = run.after().Values("weight");
          for (size_t i = row.size(); i < 2 * row.size(); ++i) {
            ASSERT_TRUE(std::isfinite(after[i])) << "at " << i;
            if (before[i] == 0) {
              ASSERT_EQ(after[i], 0) << "at " << i;
            }
            // The search may cut off what is far out, min-max may not. Half a step, the rounding of
            // the scale over all codes, and that of the result.
            if (std::string(scales) == "minmax") {
              const double scale = stored.scales[stored.BlockOf(i)];
              const double rounding = dtype == kHalf ? 0x1p-10 : 0x1p-22;
              ASSERT_LE(std::abs(before[i] - after[i]), scale * 1.01 +
                                                            rounding * std::abs(before[i]) +
                                                            (dtype == kHalf ? 128 * 0x1p-25 : 0))
                  << "at " << i;
            }
          }
        }
}

std::vector<float> Row(size_t count, float value) { return std::vector<float>(count, value); }
std::vector<float> WithTwo(float a, float b) {
  std::vector<float> row = Gaussian(40, 9, 0.5f);
  row[3] = a;
  row[4] = b;
  return row;
}

const RowCase kRows[] = {
    {"Zeros", Row(40, 0)},
    {"NegativeZeros", Row(40, -0.0f)},
    {"Ones", Row(40, 1)},
    {"MinusOnes", Row(40, -1)},
    {"AllPositive", {3, 1, 2, 2.5f, 1.25f, 3, 3, 1}},
    {"AllNegative", {-3, -1, -2, -2.5f, -1.25f, -3, -3, -1}},
    {"Large", WithTwo(60000, -60000)},
    {"Beyond512", WithTwo(600, -600)},
    {"SpanBeyondFp16", WithTwo(40000, -40000)},
    {"Tiny", Gaussian(40, 4, 2e-6f)},
    {"Subnormal", WithTwo(0x1p-24f, 0)},
    {"OneValue", Row(1, 0.7f)},
};

INSTANTIATE_TEST_SUITE_P(Rows, QuantizeAwkward, ::testing::ValuesIn(kRows),
                         [](const auto& row) { return row.param.name; });

// A scale that is rounded up, or searched, may reach beyond the range: scale * code must still be a
// number in fp16, where everything from 65520 on is infinite.
TEST(Quantize, ValuesNearTheEndOfFp16StayFinite) {
  for (const float end : {65504.0f, 65280.0f, 64256.0f})
    for (const char* codes : {"int8", "uint8", "int4", "uint4"})
      for (const char* mode : {"linear", "linear_symmetric"})
        for (const char* scales : {"search", "minmax"}) {
          const std::vector<float> values = {end, -end, end / 2, 3000, -end / 3, end / 7};
          const PassRun run(LinearOf(kHalf, {1, 6}, values, 9),
                            Quantize({{"dtype", codes},
                                      {"mode", mode},
                                      {"scales", scales},
                                      {"weight_threshold", "0"}}));
          ASSERT_TRUE(IsDone(run));
          for (const float value : run.after().Values("weight"))
            EXPECT_TRUE(std::isfinite(value)) << end << codes << mode << scales;
        }
}

TEST(Quantize, NamesTheElementThatIsNotFinite) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
      std::vector<float> values = Gaussian(4096, 1);
      values[1234] = bad;
      values[3000] = INFINITY;
      for (OptionValues options : {OptionValues{},
                                   {{"granularity", "per_tensor"}},
                                   {{"block_size", "16"}, {"dtype", "int4"}}}) {
        const PassRun run(LinearOf(dtype, {64, 64}, values), Quantize(options));
        EXPECT_TRUE(Left(run, "weight", "element 1234 is infinite or not a number"));
        EXPECT_EQ(run.weight().category, "not finite");
        EXPECT_EQ(run.report().version_after, 7);
      }
    }
}

// Blocks that alternate in memory are gathered first; the place is not known then.
TEST(Quantize, LeavesWhatIsNotFiniteInBlocksThatAlternate) {
  std::vector<float> values = Gaussian(4096, 1);
  values[1234] = std::nanf("");
  const PassRun run(LinearOf(kHalf, {64, 64}, values, 9), Quantize({{"block_size", "0,8"}}));
  EXPECT_TRUE(Left(run, "weight", "an element is infinite or not a number"));
}

TEST(Quantize, OddSizes) {
  for (const Shape& shape : {Shape{1, 13}, Shape{3, 7}, Shape{2, 3, 5, 7}, Shape{33, 65}})
    for (const DataType dtype : {kHalf, kFloat})
      for (const char* codes : {"int8", "uint4"})
        for (const char* granularity : {"per_tensor", "per_channel"}) {
          const auto count = static_cast<size_t>(*ElementCount(shape));
          const PassRun run(LinearOf(dtype, shape, Gaussian(count, 7, 0.1f), 9),
                            Quantize({{"dtype", codes},
                                      {"mode", "linear"},
                                      {"granularity", granularity},
                                      {"scales", "minmax"},
                                      {"weight_threshold", "0"}}));
          ASSERT_TRUE(IsDone(run));
          const Stored stored = Take(run);
          EXPECT_EQ(stored.shape, shape);
          ExpectMinMax(run, stored, codes, false);
          ExpectDecodes(run, stored);
        }
}

// --- Search --------------------------------------------------------------------------------------

TEST(QuantizeSearch, IsNeverWorseThanTheRange) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const char* codes : {"int8", "uint8", "int4", "uint4"})
      for (const char* mode : {"linear", "linear_symmetric"})
        for (const char* granularity : {"per_tensor", "per_channel", "per_block"}) {
          double noise[2];
          for (const bool search : {false, true}) {
            const PassRun run(LinearOf(dtype, {32, 96}, StudentT(32 * 96, 5, 3), 9),
                              Quantize({{"dtype", codes},
                                        {"mode", mode},
                                        {"granularity", granularity},
                                        {"scales", search ? "search" : "minmax"}}));
            ASSERT_TRUE(IsDone(run));
            noise[search] = run.weight().quality.noise;
          }
          EXPECT_LE(noise[1], noise[0]) << codes << mode << granularity;
          // 4 bits over heavy tails are where a search is for.
          if (codes[std::string(codes).size() - 1] == '4' &&
              std::string(granularity) == "per_tensor") {
            EXPECT_LT(noise[1], 0.7 * noise[0]) << codes << mode;
          }
        }
}

// All scales of a fine grid, one after the other.
TEST(QuantizeSearch, FindsWhatAGridOfScalesFinds) {
  const std::vector<float> values = StudentT(2100, 6, 4);
  const PassRun run(LinearOf(kFloat, {1, 2100}, values, 9), Quantize({{"dtype", "int4"}}));
  ASSERT_TRUE(IsDone(run));
  double greatest = 0;
  for (const float value : values) greatest = std::max(greatest, std::abs(double{value}));
  double best = std::numeric_limits<double>::infinity();
  for (int i = 1; i <= 4000; ++i) {
    const double scale = greatest / 7 * i / 4000;
    double noise = 0;
    for (const float value : values) {
      const double code = std::clamp(std::nearbyint(value / scale), -8.0, 7.0);
      noise += (value - scale * code) * (value - scale * code);
    }
    best = std::min(best, noise);
  }
  EXPECT_LE(run.weight().quality.noise, 1.002 * best);
}

TEST(QuantizeSearch, UsesAllSixteenLevels) {
  const PassRun run(OneLinear(kHalf, 16, 1024, 9), Quantize({{"dtype", "int4"}}));
  ASSERT_TRUE(IsDone(run));
  const std::vector<int> codes = Take(run).codes;
  EXPECT_EQ(*std::min_element(codes.begin(), codes.end()), -8);
  EXPECT_EQ(*std::max_element(codes.begin(), codes.end()), 7);
  const PassRun range(OneLinear(kHalf, 16, 1024, 9),
                      Quantize({{"dtype", "int4"}, {"scales", "minmax"}}));
  ASSERT_TRUE(IsDone(range));
  const std::vector<int> fewer = Take(range).codes;
  EXPECT_EQ(*std::min_element(fewer.begin(), fewer.end()), -7);
}

TEST(QuantizeSearch, UnsignedSymmetricCodesHaveTheirZeroInTheMiddle) {
  for (const auto& [codes, zero] : {std::pair{"uint8", 128}, {"uint4", 8}}) {
    const PassRun run(OneLinear(kHalf, 16, 1024, 9), Quantize({{"dtype", codes}}));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(Take(run).zero_points, std::vector<int>(16, zero));
  }
}

// --- The system that is needed -------------------------------------------------------------------

TEST(QuantizeTarget, IsRaisedByFourBitsAndByBlocks) {
  for (OptionValues options :
       {OptionValues{{"dtype", "int4"}}, {{"dtype", "uint4"}}, {{"granularity", "per_block"}}}) {
    const PassRun run(OneLinear(kHalf, 16, 256), Quantize(options));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(run.report().version_before, 7);
    EXPECT_EQ(run.report().version_after, 9);
    EXPECT_NE(run.report().systems.find("iOS 18"), std::string::npos);
    EXPECT_EQ(run.after().model().program->functions.at("main").opset, "CoreML8");
  }
}

TEST(QuantizeTarget, TooLowForTheOptionsIsRefused) {
  const std::pair<OptionValues, const char*> cases[] = {
      {{{"dtype", "int4"}}, "--target iOS16: 'weight' needs iOS18 for int4 codes"},
      {{{"dtype", "uint4"}}, "'weight' needs iOS18 for uint4 codes"},
      {{{"block_size", "32"}}, "'weight' needs iOS18 for scales for blocks"}};
  for (const auto& [options, message] : cases) {
    const PassRun run(OneLinear(kHalf, 16, 256), Quantize(options), {.target = "iOS16"});
    EXPECT_TRUE(Fails(run.result(), ErrorKind::kUsage, {message}));
    EXPECT_TRUE(run.wrote_nothing());
  }
}

TEST(QuantizeTarget, AskedForGivesItsForm) {
  const PassRun run(OneLinear(kHalf, 16, 256), Quantize({}), {.target = "iOS18"});
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.report().version_after, 9);
  EXPECT_EQ(run.after().Find("weight")->type, "constexpr_blockwise_shift_scale");
}

// --- Large weights -------------------------------------------------------------------------------

// Worked on by all threads, and streamed: the result must be that of the formulas all the same.
TEST(QuantizeLarge, OneScaleIsThatOfAllValues) {
  static_assert(2240 * 2240 > kLargeWeight);
  for (const DataType dtype : {kHalf, kFloat})
    for (const char* mode : {"linear", "linear_symmetric"}) {
      double noise[2];
      for (const bool search : {false, true}) {
        const PassRun run(OneLinear(dtype, 2240, 2240),
                          Quantize({{"granularity", "per_tensor"},
                                    {"mode", mode},
                                    {"scales", search ? "search" : "minmax"}}),
                          {.threads = 3});
        ASSERT_TRUE(IsDone(run));
        const Stored stored = Take(run);
        ExpectDecodes(run, stored);
        if (!search) ExpectMinMax(run, stored, "int8", mode[6] != '\0');
        noise[search] = run.weight().quality.noise;
      }
      EXPECT_LE(noise[1], noise[0]);
    }
}

TEST(QuantizeLarge, BlocksThatAlternateAreGathered) {
  const PassRun run(
      OneMatmul(kHalf, 2080, 2048, false, 9),
      Quantize(
          {{"dtype", "uint4"}, {"mode", "linear"}, {"block_size", "32"}, {"scales", "minmax"}}),
      {.threads = 3});
  static_assert(2080 * 2048 > kLargeWeight);
  ASSERT_TRUE(IsDone(run));
  const Stored stored = Take(run);
  EXPECT_EQ(stored.blocks, (Shape{64, 2080}));
  ExpectMinMax(run, stored, "uint4", false);
  ExpectDecodes(run, stored);
}

TEST(QuantizeLarge, NameTheElementThatIsNotFinite) {
  std::vector<float> values(2100 * 2100, 0.25f);
  values[4'300'000] = INFINITY;
  values[4'400'000] = std::nanf("");
  for (const DataType dtype : {kHalf, kFloat}) {
    const PassRun run(LinearOf(dtype, {2100, 2100}, values),
                      Quantize({{"granularity", "per_tensor"}}), {.threads = 3});
    EXPECT_TRUE(Left(run, "weight", "element 4300000 "));
  }
}

TEST(Quantize, ThreadsDoNotChangeTheResult) {
  PackageBuilder package = OneConvTranspose(kHalf, 24, 40, 3, 9);
  BlockBuilder main = package.Function("main");
  main.BlobConst("large", kFloat, {2080, 2048}, RandomWeights(kFloat, 2080 * 2048, 5));
  AddLinear(main, "z", "large", kFloat, {2080, 2048});
  main.Output("z");
  for (OptionValues options : {OptionValues{{"granularity", "per_tensor"}},
                               {{"dtype", "int4"}, {"block_size", "8"}},
                               {{"block_size", "8,2,1,1"}, {"mode", "linear"}}}) {
    const std::vector<Rule> rules = {ByName("large", {{"block_size", "none"}})};
    const PassSpec spec = options.size() == 2 && options[0].first == "block_size"
                              ? Quantize(options, rules)
                              : Quantize(options);
    const PassRun one(package, spec, {.threads = 1});
    const PassRun three(package, spec, {.threads = 3});
    ASSERT_TRUE(IsDone(one) && IsDone(three));
    EXPECT_TRUE(SamePackage(one.output(), three.output()));
    EXPECT_EQ(one.weight("large").quality.noise, three.weight("large").quality.noise);
  }
}

// --- Options -------------------------------------------------------------------------------------

struct OptionCase {
  const char* name;
  OptionValues options;
  const char* message;
  friend void PrintTo(const OptionCase& option, std::ostream* out) { *out << option.name; }
};

class QuantizeOptions : public ::testing::TestWithParam<OptionCase> {};

TEST_P(QuantizeOptions, AreRefused) {
  const PassRun run(OneLinear(kHalf, 16, 256), Quantize(GetParam().options));
  EXPECT_TRUE(Fails(run.result(), ErrorKind::kUsage, {GetParam().message}));
  EXPECT_TRUE(run.wrote_nothing());
}

const OptionCase kOptionCases[] = {
    {"Mode",
     {{"mode", "affine"}},
     "quantize: mode: expected one of linear_symmetric, linear, got 'affine'"},
    {"Dtype",
     {{"dtype", "int2"}},
     "quantize: dtype: expected one of int8, uint8, int4, uint4, fp16, got 'int2'"},
    {"DtypeOf32Bits",
     {{"dtype", "int32"}},
     "quantize: dtype: expected one of int8, uint8, int4, uint4, fp16, got 'int32'"},
    {"Granularity",
     {{"granularity", "per_group"}},
     "quantize: granularity: expected one of per_tensor, per_channel, per_block, got 'per_group'"},
    {"Scales", {{"scales", "mse"}}, "quantize: scales: expected one of search, minmax, got 'mse'"},
    {"Fallback",
     {{"fallback", "pad"}},
     "quantize: fallback: expected one of skip, nearest, per_channel, got 'pad'"},
    {"Joint", {{"joint", "yes"}}, "quantize: joint: expected true or false, got 'yes'"},
    {"BlockSizeNegative",
     {{"block_size", "-1"}},
     "quantize: block_size: expected 0 or more, got '-1'"},
    {"BlockSizeNoNumber",
     {{"block_size", "32,wide"}},
     "quantize: block_size: expected an integer, or several joined by commas, got '32,wide'"},
    {"BlockSizeEndsInAComma", {{"block_size", "32,"}}, "quantize: block_size: expected an integer"},
    {"BlockSizeOfChannels",
     {{"granularity", "per_channel"}, {"block_size", "32"}},
     "quantize: block_size: has no meaning with granularity per_channel"},
    {"BlockSizeOfTheTensor",
     {{"granularity", "per_tensor"}, {"block_size", "32"}},
     "quantize: block_size: has no meaning with granularity per_tensor"},
    {"Misspelled",
     {{"block_sizes", "32"}},
     "quantize: unknown option 'block_sizes', did you mean 'block_size'?"},
    {"Unknown",
     {{"sparsity", "4"}},
     "quantize: unknown option 'sparsity', expected one of mode, dtype, nbits, granularity, "
     "block_size, scales, fallback, joint, skip_layer_types, "},
    {"ThresholdNegative",
     {{"weight_threshold", "-1"}},
     "quantize: weight_threshold: expected 0 or more, got '-1'"},
};

INSTANTIATE_TEST_SUITE_P(All, QuantizeOptions, ::testing::ValuesIn(kOptionCases),
                         [](const auto& option) { return option.param.name; });

// A rule adds to the options of the command: a block size takes the granularity with it.
TEST(QuantizeOptions, ARuleIsSetOnTop) {
  PackageBuilder package = OneLinear(kHalf, 16, 256, 9);
  BlockBuilder main = package.Function("main");
  main.BlobConst("second", kHalf, {16, 256}, RandomWeights(kHalf, 4096, 2));
  AddLinear(main, "z", "second", kHalf, {16, 256});
  main.Output("z");
  const PassRun run(package, Quantize({{"mode", "linear"}},
                                      {ByName("z", {{"dtype", "int4"}, {"block_size", "64"}})}));
  ASSERT_TRUE(IsDone(run) && IsDone(run, "second"));
  EXPECT_EQ(run.weight().form, "int8 affine, 16 scales");
  EXPECT_EQ(run.weight("second").form, "int4 affine, 64 scales");
}

TEST(QuantizeOptions, TheThresholdIsStrict) {
  for (const auto& [threshold, done] : {std::pair{"4095", true}, {"4096", false}}) {
    const PassRun run(OneLinear(kHalf, 16, 256), Quantize({{"weight_threshold", threshold}}));
    ASSERT_TRUE(run.ok()) << run.error();
    EXPECT_EQ(run.weight().fate == WeightReport::Fate::kDone, done) << threshold;
  }
}

}  // namespace
}  // namespace cmlc::test
