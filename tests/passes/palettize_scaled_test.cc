// Palettize with per_channel_scale: value = scale of the output channel * LUT entry.
#include <algorithm>
#include <cmath>

#include "numeric/half.h"
#include "support/pass_run.h"

namespace cmlc::test {
namespace {

constexpr DataType kHalf = DataType::kFloat16;
constexpr DataType kFloat = DataType::kFloat32;

OptionValues Scaled(const std::string& nbits, OptionValues more = {}) {
  more.insert(more.begin(), {{"nbits", nbits}, {"per_channel_scale", "true"}});
  return more;
}

float Rounded(DataType dtype, double value) {
  const auto narrow = static_cast<float>(value);
  return dtype == kHalf ? numeric::HalfToFloat(numeric::FloatToHalf(narrow)) : narrow;
}

// The channel of an element along an axis.
size_t ChannelOf(const Shape& shape, size_t axis, size_t position) {
  size_t inner = 1;
  for (size_t d = axis + 1; d < shape.size(); ++d) inner *= static_cast<size_t>(shape[d]);
  return position / inner % static_cast<size_t>(shape[axis]);
}

// Scales and tables as they lie in the file give the values that the library decodes, every value
// has an entry that is nearest to it once scaled, and the report knows the error.
void ExpectScaled(const PassRun& run, size_t axis, int64_t groups, int nbits) {
  ASSERT_TRUE(IsDone(run));
  const Shape shape = run.weight().shape;
  const DataType dtype = run.weight().dtype == "fp16" ? kHalf : kFloat;
  const Value& lut_value = run.after().Operand("weight_looked_up", "lut");
  const Value& scale_value = run.after().Operand("weight", "scale");
  const size_t entries = size_t{1} << nbits;
  Shape lut_shape(shape.size(), 1), scale_shape(shape.size(), 1);
  lut_shape[axis] = groups;
  lut_shape.insert(lut_shape.end(), {static_cast<int64_t>(entries), 1});
  scale_shape[axis] = shape[axis];
  EXPECT_EQ(StaticShape(lut_value.type), lut_shape);
  EXPECT_EQ(StaticShape(scale_value.type), scale_shape);
  EXPECT_EQ(lut_value.type.tensor.dtype, dtype);
  EXPECT_EQ(scale_value.type.tensor.dtype, dtype);
  const std::vector<float> lut = run.after().Floats(lut_value);
  const std::vector<float> scales = run.after().Floats(scale_value);
  const std::vector<float> before = run.before().Values("weight");
  const std::vector<float> after = run.after().Values("weight");
  const std::vector<int> indices =
      run.after().Codes(run.after().Operand("weight_looked_up", "indices"), before.size(), nbits);
  for (const float scale : scales) EXPECT_GT(scale, 0);
  for (int64_t g = 0; g < groups; ++g)
    EXPECT_TRUE(std::is_sorted(lut.begin() + g * static_cast<int64_t>(entries),
                               lut.begin() + (g + 1) * static_cast<int64_t>(entries)));
  for (size_t i = 0; i < before.size(); ++i) {
    const size_t channel = ChannelOf(shape, axis, i);
    const size_t group = channel * static_cast<size_t>(groups) / static_cast<size_t>(shape[axis]);
    const float* table = lut.data() + group * entries;
    const double scale = scales[channel];
    ASSERT_EQ(after[i], Rounded(dtype, scale * table[indices[i]])) << "at " << i;
    const double distance = std::abs(before[i] - scale * table[indices[i]]);
    for (size_t e = 0; e < entries; ++e)
      ASSERT_LE(distance, std::abs(before[i] - scale * table[e]) + 1e-5 * scale) << "at " << i;
  }
  EXPECT_TRUE(QualityAgrees(run));
}

struct LayoutCase {
  const char* name;
  PackageBuilder (*make)(DataType dtype);
  size_t axis;  // of 24 output channels
  friend void PrintTo(const LayoutCase& layout, std::ostream* out) { *out << layout.name; }
};

const LayoutCase kLayouts[] = {
    {"conv", [](DataType t) { return OneConv(t, 24, 10, 3, 9); }, 0},
    {"convTranspose", [](DataType t) { return OneConvTranspose(t, 24, 10, 3, 9); }, 1},
    {"linear", [](DataType t) { return OneLinear(t, 24, 90, 9); }, 0},
    {"matmulY", [](DataType t) { return OneMatmul(t, 24, 90, false, 9); }, 1},
    {"matmulYTransposed", [](DataType t) { return OneMatmul(t, 24, 90, true, 9); }, 0},
    {"matmulX", [](DataType t) { return OneMatmulX(t, 24, 90, false, 9); }, 0},
    {"matmulXTransposed", [](DataType t) { return OneMatmulX(t, 24, 90, true, 9); }, 1},
    {"gather", [](DataType t) { return OneGather(t, 24, 90, 9); }, 0},
};

class PalettizeScaled : public ::testing::TestWithParam<LayoutCase> {};

TEST_P(PalettizeScaled, EachOutputChannelHasItsScale) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const int nbits : {1, 2, 3, 4, 6, 8}) {
      const PassRun run(GetParam().make(dtype), Palettize(Scaled(std::to_string(nbits))));
      SCOPED_TRACE(NameOf(dtype) + " " + std::to_string(nbits));
      ExpectScaled(run, GetParam().axis, 1, nbits);
      EXPECT_EQ(run.weight().form,
                std::to_string(nbits) + "-bit LUT, a scale for each output channel");
    }
}

TEST_P(PalettizeScaled, WithTablesForGroups) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const int group : {2, 8}) {
      const PassRun run(GetParam().make(dtype),
                        Palettize(Scaled("3", {{"group_size", std::to_string(group)}})));
      SCOPED_TRACE(NameOf(dtype) + " " + std::to_string(group));
      ExpectScaled(run, GetParam().axis, 24 / group, 3);
      EXPECT_EQ(run.weight().form, "3-bit LUT for each " + std::to_string(group) +
                                       " channels of axis " + std::to_string(GetParam().axis) +
                                       ", a scale for each output channel");
    }
}

INSTANTIATE_TEST_SUITE_P(Ops, PalettizeScaled, ::testing::ValuesIn(kLayouts),
                         [](const auto& layout) { return layout.param.name; });

// --- Forms ---------------------------------------------------------------------------------------

TEST(PalettizeScale, IsAppliedToWhatIsLookedUp) {
  for (const int32_t version : {7, 9, 10}) {
    const PassRun run(OneConv(kHalf, 16, 16, 3, version), Palettize(Scaled("4")));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(run.report().version_after, std::max(version, 9));
    EXPECT_EQ(run.after().Print("weight_looked_up"),
              "constexpr_lut_to_dense(indices: uint4 [16, 16, 3, 3] file, lut: fp16 [1, 1, 1, 1, "
              "16, 1] file) -> fp16 [16, 16, 3, 3]");
    EXPECT_EQ(run.after().Print("weight"),
              "constexpr_blockwise_shift_scale(data: weight_looked_up, scale: fp16 [16, 1, 1, 1] "
              "file) -> fp16 [16, 16, 3, 3]");
    EXPECT_EQ(NameOf(*run.after().Find("weight")), "weight");
  }
  const PassRun refused(OneConv(kHalf, 16, 16, 3), Palettize(Scaled("4")), {.target = "iOS16"});
  EXPECT_TRUE(Fails(refused.result(), ErrorKind::kUsage,
                    {"'weight' needs iOS18 for a scale for each channel (per_channel_scale)"}));
}

// A table of its own holds a channel's scale already.
TEST(PalettizeScale, OfGroupsOfOneChannelIsLeftOut) {
  const PassRun run(OneLinear(kHalf, 16, 256, 9), Palettize(Scaled("2", {{"group_size", "1"}})));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.after().Find("weight")->type, "constexpr_lut_to_dense");
  const PassRun without(OneLinear(kHalf, 16, 256, 9),
                        Palettize({{"nbits", "2"}, {"group_size", "1"}}));
  EXPECT_EQ(run.after().Values("weight"), without.after().Values("weight"));
}

// --- How good it is ------------------------------------------------------------------------------

TEST(PalettizeScale, IsNeverWorseThanWithout) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const char* nbits : {"1", "2", "3", "4", "6", "8"})
      for (const bool heavy : {false, true}) {
        const std::vector<float> values = heavy ? StudentT(64 * 96, 3, 3) : Gaussian(64 * 96, 3);
        const PassRun run(LinearOf(dtype, {64, 96}, values, 9), Palettize(Scaled(nbits)));
        const PassRun without(LinearOf(dtype, {64, 96}, values, 9), Palettize({{"nbits", nbits}}));
        ASSERT_TRUE(IsDone(run) && IsDone(without));
        // Scales round in fp16, and so does what comes out.
        EXPECT_LE(run.weight().quality.noise,
                  1.0005 * without.weight().quality.noise +
                      (dtype == kHalf ? 0x1p-22 * run.weight().quality.signal : 0))
            << NameOf(dtype) << nbits << heavy;
      }
}

// Channels that differ by a factor alone lose nothing: one table has them all.
TEST(PalettizeScale, FindsFactors) {
  for (const DataType dtype : {kHalf, kFloat}) {
    std::vector<float> values;
    for (int row = 0; row < 64; ++row)
      for (int i = 0; i < 96; ++i)
        values.push_back(
            std::ldexp(static_cast<float>((row * 5 + i * 7) % 15 - 7) / 8, row % 9 - 4));
    const PassRun run(LinearOf(dtype, {64, 96}, values, 9), Palettize(Scaled("4")));
    ASSERT_TRUE(IsDone(run));
    EXPECT_LT(run.weight().quality.noise, 1e-6 * run.weight().quality.signal);
    const PassRun without(LinearOf(dtype, {64, 96}, values, 9), Palettize({{"nbits", "4"}}));
    EXPECT_GT(without.weight().quality.noise, 1e-4 * run.weight().quality.signal);
  }
}

TEST(PalettizeScale, GainsWhereChannelsDiffer) {
  std::vector<float> values = Gaussian(64 * 256, 5);
  const std::vector<float> sizes = Gaussian(64, 6);
  for (size_t i = 0; i < values.size(); ++i) values[i] *= std::exp(sizes[i / 256]);
  for (const char* nbits : {"2", "3", "4"}) {
    const PassRun run(LinearOf(kHalf, {64, 256}, values, 9), Palettize(Scaled(nbits)));
    const PassRun without(LinearOf(kHalf, {64, 256}, values, 9), Palettize({{"nbits", nbits}}));
    ASSERT_TRUE(IsDone(run) && IsDone(without));
    EXPECT_GT(SnrDb(run.weight().quality), SnrDb(without.weight().quality) + 1) << nbits;
  }
}

// --- Values that are awkward ---------------------------------------------------------------------

TEST(PalettizeScale, HoldsConstantsAndZeros) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const float value : {0.0f, 1.5f, -0.25f}) {
      const PassRun run(LinearOf(dtype, {64, 64}, std::vector<float>(4096, value), 9),
                        Palettize(Scaled("2")));
      ASSERT_TRUE(IsDone(run));
      EXPECT_EQ(run.after().Values("weight"), std::vector<float>(4096, value));
      EXPECT_EQ(run.weight().quality.noise, 0);
    }
}

// A channel of zeros beside others: with entries to spare one of them is zero.
std::vector<float> BesideZeros(DataType dtype, const std::string& nbits) {
  std::vector<float> values(64 * 64);
  for (size_t i = 0; i < values.size(); ++i) values[i] = i % 2 == 0 ? 0.001f : -0.001f;
  std::fill(values.begin() + 640, values.begin() + 704, 0.0f);
  const PassRun run(LinearOf(dtype, {64, 64}, values, 9), Palettize(Scaled(nbits)));
  EXPECT_TRUE(IsDone(run));
  const std::vector<float> after = run.after().Values("weight");
  return {after.begin() + 640, after.begin() + 704};
}

TEST(PalettizeScale, ChannelsOfZerosStayZero) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const char* nbits : {"2", "4"})
      for (const float value : BesideZeros(dtype, nbits)) ASSERT_NEAR(value, 0, 2e-6) << nbits;
}

// Without an entry to spare it is the scale that can make them small.
TEST(PalettizeScale, ChannelsOfZerosHaveASmallScale) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const float value : BesideZeros(dtype, "1")) ASSERT_NEAR(value, 0, 2e-6);
}

TEST(PalettizeScale, ReachesTheEndsOfTheRange) {
  for (const float largest : {60000.0f, 65504.0f}) {
    std::vector<float> values = Gaussian(64 * 64, 3);
    for (size_t r = 0; r < 64; ++r)
      for (size_t c = 0; c < 64; ++c) values[r * 64 + c] *= r % 3 == 0 ? 1e-6f : 1;
    for (size_t c = 0; c < 64; ++c)
      values[5 * 64 + c] = c % 2 == 0 ? largest : -largest * static_cast<float>(c) / 64;
    for (const char* nbits : {"2", "4"}) {
      const PassRun run(LinearOf(kHalf, {64, 64}, values, 9), Palettize(Scaled(nbits)));
      ASSERT_TRUE(IsDone(run));
      for (const float value : run.after().Values("weight")) ASSERT_TRUE(std::isfinite(value));
      EXPECT_GT(SnrDb(run.weight().quality), *nbits == '4' ? 18 : 6);
    }
  }
}

TEST(PalettizeScale, OddSizes) {
  for (const Shape& shape : {Shape{1, 13}, Shape{3, 7}, Shape{2, 3, 5, 7}, Shape{33, 65}}) {
    const auto count = static_cast<size_t>(*ElementCount(shape));
    for (const DataType dtype : {kHalf, kFloat}) {
      const PassRun run(LinearOf(dtype, shape, Gaussian(count, 4), 9),
                        Palettize(Scaled("3", {{"weight_threshold", "0"}})));
      ASSERT_TRUE(IsDone(run));
      if (shape[0] > 1) ExpectScaled(run, 0, 1, 3);
    }
  }
}

// --- What is left alone --------------------------------------------------------------------------

TEST(PalettizeScale, LeavesWhatIsNotFinite) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const float bad : {std::nanf(""), INFINITY}) {
      std::vector<float> values = Gaussian(4096, 1);
      values[1234] = bad;
      const PassRun run(LinearOf(dtype, {64, 64}, values), Palettize(Scaled("4")));
      EXPECT_TRUE(Left(run, "weight", "an element is infinite or not a number"));
      EXPECT_EQ(run.weight().category, "not finite");
      EXPECT_EQ(run.report().version_after, 7);
    }
}

// The values that a weight has are never touched on the way.
TEST(PalettizeScale, AWeightThatIsLeftIsAsItWas) {
  const PassRun run(OneLinear(kHalf, 60, 64, 9), Palettize(Scaled("4", {{"group_size", "16"}})));
  EXPECT_TRUE(Left(run, "weight", "group_size 16 does not divide 60 channels"));
  EXPECT_TRUE(SamePackage(run.input(), run.output(), /*manifest=*/false));
}

TEST(PalettizeScale, GroupsOfInputChannelsHaveNoScales) {
  const PassRun run(OneLinear(kHalf, 64, 64, 9),
                    Palettize(Scaled("4", {{"group_size", "16"}, {"channel_axis", "1"}})));
  EXPECT_TRUE(Left(run, "weight", "channel_axis is 1, output channels are axis 0"));
  EXPECT_EQ(run.weight().category, "with groups along another axis than its scales");
}

TEST(PalettizeScale, NeedsReadersThatAgree) {
  PackageBuilder package = OneLinear(kHalf, 64, 64, 9);
  BlockBuilder main = package.Function("main");
  main.Op("matmul", "z", {{"x", "x"}, {"y", "weight"}}, TensorType(kHalf, {1, 64}));
  main.Output("z");
  const PassRun run(package, Palettize(Scaled("4")));
  EXPECT_TRUE(Left(run, "weight", "linear 'y' axis 0, matmul 'z' axis 1"));
}

TEST(PalettizeScale, FallsBackWithItsGroups) {
  const PassRun nearest(OneLinear(kHalf, 60, 64, 9),
                        Palettize(Scaled("2", {{"group_size", "16"}, {"fallback", "nearest"}})));
  ExpectScaled(nearest, 0, 4, 2);
  const PassRun channels(
      OneLinear(kHalf, 60, 64, 9),
      Palettize(Scaled("2", {{"group_size", "16"}, {"fallback", "per_channel"}})));
  ASSERT_TRUE(IsDone(channels));
  EXPECT_EQ(StaticShape(channels.after().Operand("weight", "lut").type), (Shape{60, 1, 4, 1}));
}

TEST(PalettizeScale, OptionsThatDoNotGoTogether) {
  const std::pair<OptionValues, const char*> cases[] = {
      {{{"nbits", "4"}, {"mode", "uniform"}, {"per_channel_scale", "true"}},
       "palettize: per_channel_scale: is fitted by mode kmeans, and the mode is uniform"},
      {{{"mode", "unique"}, {"per_channel_scale", "true"}},
       "palettize: per_channel_scale: is fitted by mode kmeans, and the mode is unique"},
      {{{"nbits", "4"}, {"per_channel_scale", "1"}},
       "palettize: per_channel_scale: expected true or false, got '1'"},
  };
  for (const auto& [options, message] : cases) {
    const PassRun run(OneLinear(kHalf, 16, 256), Palettize(options));
    EXPECT_TRUE(Fails(run.result(), ErrorKind::kUsage, {message}));
    EXPECT_TRUE(run.wrote_nothing());
  }
}

// --- Large weights and threads -------------------------------------------------------------------

TEST(PalettizeScale, LargeWeightsAreStreamed) {
  static_assert(2080 * 2048 > kLargeWeight);
  const PassRun rows(OneLinear(kHalf, 2080, 2048, 9), Palettize(Scaled("2")), {.threads = 3});
  ExpectScaled(rows, 0, 1, 2);
  // Channels and groups that alternate in memory.
  const PassRun columns(OneMatmul(kFloat, 2080, 2048, false, 9),
                        Palettize(Scaled("2", {{"group_size", "520"}})), {.threads = 3});
  ExpectScaled(columns, 1, 4, 2);
}

TEST(PalettizeScale, ThreadsDoNotChangeTheResult) {
  PackageBuilder package = OneConvTranspose(kHalf, 24, 40, 3, 9);
  BlockBuilder main = package.Function("main");
  main.BlobConst("second", kFloat, {600, 512}, RandomWeights(kFloat, 512 * 600, 5));
  AddLinear(main, "z", "second", kFloat, {600, 512});
  main.BlobConst("large", kHalf, {2080, 2048}, RandomWeights(kHalf, 2080 * 2048, 6));
  AddLinear(main, "u", "large", kHalf, {2080, 2048});
  main.Output("z");
  main.Output("u");
  for (const char* groups : {"0", "8"}) {
    const PassSpec spec = Palettize(Scaled("3", {{"group_size", groups}}));
    const PassRun one(package, spec, {.threads = 1});
    const PassRun three(package, spec, {.threads = 3});
    ASSERT_TRUE(IsDone(one) && IsDone(three));
    EXPECT_TRUE(SamePackage(one.output(), three.output()));
    EXPECT_EQ(one.weight("large").quality.noise, three.weight("large").quality.noise);
  }
}

}  // namespace
}  // namespace cmlc::test
