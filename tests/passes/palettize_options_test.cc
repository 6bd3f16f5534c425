// What palettize says of options that it cannot meet.
#include "support/pass_run.h"

namespace cmlc::test {
namespace {

struct OptionCase {
  const char* name;
  OptionValues options;
  const char* message;
  friend void PrintTo(const OptionCase& option, std::ostream* out) { *out << option.name; }
};

class PalettizeOptions : public ::testing::TestWithParam<OptionCase> {};

TEST_P(PalettizeOptions, AreRefused) {
  const PassRun run(OneLinear(DataType::kFloat16, 16, 256), Palettize(GetParam().options));
  EXPECT_TRUE(Fails(run.result(), ErrorKind::kUsage, {GetParam().message}));
  EXPECT_TRUE(run.wrote_nothing());
}

const OptionCase kOptionCases[] = {
    {"Misspelled", {{"nbit", "4"}}, "palettize: unknown option 'nbit', did you mean 'nbits'?"},
    {"MisspelledWithAHyphen",
     {{"group-sizes", "4"}},
     "palettize: unknown option 'group_sizes', did you mean 'group_size'?"},
    {"Unknown",
     {{"sparsity", "4"}},
     "palettize: unknown option 'sparsity', expected one of nbits, mode, granularity, group_size, "
     "channel_axis, cluster_dim, per_channel_scale, lut_dtype, lut_file, fallback, joint, "
     "skip_layer_types, "},
    {"BitsMissing", {}, "palettize: nbits: is needed by mode kmeans: one of 1, 2, 3, 4, 6, 8"},
    {"BitsMissingForUniform", {{"mode", "uniform"}}, "palettize: nbits: is needed by mode uniform"},
    {"BitsTakenBack",
     {{"nbits", "4"}, {"nbits", "none"}},
     "palettize: nbits: is needed by mode kmeans"},
    {"Bits5", {{"nbits", "5"}}, "palettize: nbits: is 5, which NeuralNetworks alone can hold"},
    {"BitsNegative", {{"nbits", "-1"}}, "expected one of 1, 2, 3, 4, 5, 6, 7, 8, got '-1'"},
    {"BitsNoNumber", {{"nbits", "wide"}}, "palettize: nbits: expected an integer, got 'wide'"},
    {"BitsEmpty", {{"nbits", ""}}, "palettize: nbits: expected an integer, got ''"},
    {"BitsWithUnit", {{"nbits", "4bit"}}, "palettize: nbits: expected an integer, got '4bit'"},
    {"BitsFraction", {{"nbits", "4.0"}}, "palettize: nbits: expected an integer, got '4.0'"},
    {"BitsTooLong",
     {{"nbits", "99999999999999999999"}},
     "palettize: nbits: expected an integer, got '99999999999999999999'"},
    {"BitsForUnique",
     {{"mode", "unique"}, {"nbits", "4"}},
     "palettize: nbits: is 4, but mode unique takes it from the entries"},
    {"BitsForCustom",
     {{"mode", "custom"}, {"nbits", "4"}, {"lut_file", "x.json"}},
     "palettize: nbits: is 4, but mode custom takes it from the entries"},
    {"Mode",
     {{"nbits", "4"}, {"mode", "kmean"}},
     "palettize: mode: expected one of kmeans, uniform, unique, custom"},
    {"ModeFarFromAll",
     {{"nbits", "4"}, {"mode", "neighbours"}},
     "palettize: mode: expected one of kmeans, uniform, unique, custom, got 'neighbours'"},
    {"FileMissing", {{"mode", "custom"}}, "palettize: lut_file: is needed by mode custom"},
    {"FileWithoutCustom",
     {{"nbits", "4"}, {"lut_file", "x.json"}},
     "palettize: lut_file: is only used by mode custom, and the mode is kmeans"},
    {"Granularity",
     {{"nbits", "4"}, {"granularity", "per_channel"}},
     "palettize: granularity: expected one of per_tensor, per_grouped_channel"},
    {"GroupSizeWithoutGroups",
     {{"nbits", "4"}, {"granularity", "per_tensor"}, {"group_size", "4"}},
     "palettize: group_size: has no meaning with granularity per_tensor"},
    {"AxisWithoutGroups",
     {{"nbits", "4"}, {"granularity", "per_tensor"}, {"channel_axis", "0"}},
     "palettize: channel_axis: has no meaning with granularity per_tensor"},
    {"GroupSizeNegative",
     {{"nbits", "4"}, {"group_size", "-4"}},
     "palettize: group_size: expected 0 or more, got '-4'"},
    {"ThresholdNegative",
     {{"nbits", "4"}, {"weight_threshold", "-1"}},
     "palettize: weight_threshold: expected 0 or more, got '-1'"},
};

INSTANTIATE_TEST_SUITE_P(All, PalettizeOptions, ::testing::ValuesIn(kOptionCases),
                         [](const auto& option) { return option.param.name; });

TEST(PalettizeOptions, TheLastOfOneNameHolds) {
  const PassRun run(OneLinear(DataType::kFloat16, 16, 256),
                    Palettize({{"nbits", "8"}, {"nbits", "2"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.weight().form, "2-bit LUT");
}

TEST(PalettizeOptions, NoneTakesAnOptionBack) {
  const PassRun run(OneLinear(DataType::kFloat16, 16, 256),
                    Palettize({{"nbits", "4"}, {"group-size", "4"}, {"group-size", "none"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.report().version_after, 7);
  const PassRun unique(
      OneLinear(DataType::kFloat16, 16, 16),
      Palettize(
          {{"nbits", "4"}, {"nbits", "none"}, {"mode", "unique"}, {"weight_threshold", "none"}}));
  EXPECT_TRUE(IsDone(unique));
}

TEST(PalettizeOptions, HyphensAreUnderscores) {
  const PassRun run(OneLinear(DataType::kFloat16, 16, 16),
                    Palettize({{"nbits", "4"}, {"weight-threshold", "255"}}));
  EXPECT_TRUE(IsDone(run));
}

}  // namespace
}  // namespace cmlc::test
