// Recipes: our own and coremltools' configurations, what is wrong with them, and what they do.
#include "cmlc/recipe.h"

#include <gtest/gtest.h>

#include "cmlc/pipeline.h"
#include "support/model_compare.h"
#include "support/package_builder.h"
#include "support/pass_run.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

class RecipeTest : public ::testing::Test {
 protected:
  Result<std::vector<PassSpec>> Read(const std::string& text) {
    WriteFile(file_, text);
    notes_.clear();
    return ReadRecipe(file_, notes_);
  }
  std::string ErrorOf(const std::string& text) {
    const auto result = Read(text);
    if (result.ok()) return "";
    EXPECT_EQ(result.error().kind, ErrorKind::kUsage);
    const std::string& message = result.error().message;
    EXPECT_TRUE(message.starts_with(file_.string())) << message;
    return message.substr(std::min(message.size(), file_.string().size()));
  }
  // Runs on two linears and a gather: "w0" [64, 64] and "w1" [64, 64].
  Result<std::vector<RunReport>> Run(const std::string& text, RunOptions options = {}) {
    const auto specs = Read(text);
    if (!specs.ok()) return specs.error();
    std::error_code code;
    fs::remove_all(input_, code);
    fs::remove_all(output_, code);
    Linears(DataType::kFloat16, {64, 64},
            {Fp16Bytes(Gaussian(4096, 1)), Fp16Bytes(Gaussian(4096, 2))})
        .Write(input_);
    options.input = input_;
    options.output = output_;
    return RunAll(*specs, options, diagnostics_);
  }
  static std::string FormOf(const RunReport& report, const std::string& name) {
    for (const WeightReport& weight : report.weights)
      if (weight.name == name)
        return weight.fate == WeightReport::Fate::kDone ? weight.form : "left: " + weight.reason;
    return "not there";
  }

  TempDir dir_;
  fs::path file_ = dir_ / "recipe.yaml";
  fs::path input_ = dir_ / "in.mlpackage";
  fs::path output_ = dir_ / "out.mlpackage";
  std::vector<std::string> notes_;
  TestDiagnostics diagnostics_;
};

TEST_F(RecipeTest, PassesRunInTheirOrder) {
  const auto reports =
      Run("passes:\n"
          "  - prune: {target_sparsity: 0.5}\n"
          "  - palettize:\n"
          "      nbits: 2\n"
          "      joint: true\n"
          "      op_names: {w1: {nbits: 4}}\n"
          "  - quantize: {joint: true}\n"
          "  - decompress\n");
  ASSERT_TRUE(Succeeds(reports));
  ASSERT_EQ(reports->size(), 4u);
  EXPECT_EQ(FormOf((*reports)[0], "w0"), "sparse, 50.00 % zeros");
  EXPECT_EQ(FormOf((*reports)[1], "w0"), "sparse, 2-bit LUT");
  EXPECT_EQ(FormOf((*reports)[1], "w1"), "sparse, 4-bit LUT");
  EXPECT_EQ(FormOf((*reports)[2], "w1"), "sparse, 4-bit LUT of int8 entries");
  EXPECT_EQ(FormOf((*reports)[3], "w1"), "plain");
  // Half of the values are zero, and no more than 16 others are left.
  const Opened opened(output_);
  const std::vector<float> values = opened.Values("w1");
  EXPECT_EQ(std::count(values.begin(), values.end(), 0.0f), 2048);
  EXPECT_LE(std::set<float>(values.begin(), values.end()).size(), 17u);
}

TEST_F(RecipeTest, EqualsTheSameCommandsOneByOne) {
  ASSERT_TRUE(
      Succeeds(Run("passes:\n"
                   "  - prune: {target_sparsity: 0.5}\n"
                   "  - palettize: {nbits: 4, joint: true}\n")));
  PassSpec prune{.pass = "prune", .options = {{"target_sparsity", "0.5"}}};
  PassSpec palettize{.pass = "palettize", .options = {{"nbits", "4"}, {"joint", "true"}}};
  const PassRun first(input_, prune);
  ASSERT_TRUE(first.ok()) << first.error();
  const PassRun second(first.output(), palettize);
  ASSERT_TRUE(second.ok()) << second.error();
  // Tensors that the first pass made and the second one took over were written for iOS 16 and are
  // for iOS 18 now.
  EXPECT_TRUE(SamePackageContents(output_, second.output()));
}

TEST_F(RecipeTest, RulesByWhatAWeightIsLike) {
  const auto reports =
      Run("passes:\n"
          "  - palettize:\n"
          "      nbits: 4\n"
          "      rules:\n"
          "        - where: {op_type: linear, shape: [64, '*']}\n"
          "          options: {nbits: 2}\n"
          "        - where: {op_name: y1, parameter: weight, min_elements: 4096}\n"
          "          options: null\n");
  ASSERT_TRUE(Succeeds(reports));
  EXPECT_EQ(FormOf(reports->front(), "w0"), "2-bit LUT");
  EXPECT_TRUE(FormOf(reports->front(), "w1").starts_with("left: "))
      << FormOf(reports->front(), "w1");
  EXPECT_TRUE(Fails(Run("passes:\n"
                        "  - palettize:\n"
                        "      nbits: 4\n"
                        "      rules:\n"
                        "        - where: {shape: '[64, 3]'}\n"
                        "          options: {nbits: 2}\n"),
                    ErrorKind::kUsage, {"recipe.yaml:5: rule: no weight of this model fits"}));
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(RecipeTest, RulesThatMatchNothingAreErrorsWithTheirLine) {
  EXPECT_TRUE(Fails(Run("passes:\n"
                        "  - palettize:\n"
                        "      nbits: 4\n"
                        "      op_names:\n"
                        "        y7: null\n"),
                    ErrorKind::kUsage, {"recipe.yaml:5: op_names 'y7'", "did you mean 'y0'"}));
}

TEST_F(RecipeTest, MistakesAreFoundWhereTheyStand) {
  EXPECT_EQ(ErrorOf("passes: [palettize"), ":1: is no YAML: end of sequence flow not found");
  EXPECT_EQ(ErrorOf("- palettize\n"), ":1: the recipe is a list, expected a map");
  EXPECT_EQ(ErrorOf("pases: []\n"), ":1: unknown key 'pases', did you mean 'passes'?");
  EXPECT_EQ(ErrorOf("passes: []\n"), ":1: 'passes' is empty");
  EXPECT_EQ(ErrorOf("passes:\n- pallettize: {nbits: 4}\n"),
            ":2: unknown pass 'pallettize', did you mean 'palettize'?");
  EXPECT_EQ(ErrorOf("passes:\n- palettize: {nbits: 4}\n  prune: {}\n"),
            ":2: a pass is a map with its name as the only key, got 2 keys");
  EXPECT_EQ(ErrorOf("passes:\n- palettize:\n    nbits: 9\n"),
            ":3: palettize: nbits: expected one of 1, 2, 3, 4, 5, 6, 7, 8, got '9'");
  EXPECT_EQ(ErrorOf("passes:\n- palettize:\n    nbits: 4\n    group: 5\n").substr(0, 37),
            ":4: palettize: unknown option 'group'");
  EXPECT_EQ(ErrorOf("passes:\n- palettize:\n    nbits: {a: 4}\n"),
            ":3: 'nbits' is a map, expected a single value");
  EXPECT_EQ(ErrorOf("passes:\n- palettize:\n    nbits: 4\n    op_types:\n      conv: 4\n"),
            ":5: the options of a rule (or null) is a single value, expected a map");
  EXPECT_EQ(
      ErrorOf("passes:\n- palettize:\n    nbits: 4\n    op_types:\n      conv: {mode: best}\n"),
      ":5: palettize: mode: expected one of kmeans, uniform, unique, custom, got 'best'");
  EXPECT_EQ(ErrorOf("passes:\n- palettize:\n    nbits: 4\n    rules:\n    - where: {type: conv}\n"
                    "      options: null\n"),
            ":5: unknown key 'type', expected one of name, op_type, op_name, parameter, shape, "
            "min_elements");
  EXPECT_EQ(ErrorOf("passes:\n- palettize:\n    nbits: 4\n    rules:\n    - where: {name: w}\n"),
            ":5: a rule has no 'options' (null: leave alone)");
  // Options that do not go together are found when the passes are made.
  EXPECT_TRUE(Fails(Run("passes:\n- palettize: {mode: unique, nbits: 4}\n"), ErrorKind::kUsage,
                    {"recipe.yaml:2: palettize: nbits: is 4, but mode unique"}));
}

TEST_F(RecipeTest, ReadsWhatItPrints) {
  const std::string text =
      "passes:\n"
      "  - prune:\n"
      "      n_m_ratio: 2,4\n"
      "      otherwise: ~\n"
      "      op_types:\n"
      "        linear: {reset: true, target_sparsity: 0.5}\n"
      "        conv: ~\n"
      "  - palettize:\n"
      "      nbits: 4\n"
      "      op_names:\n"
      "        \"*\": {nbits: 2}\n"
      "      rules:\n"
      "        - where: {name: w*, op_type: linear, shape: \"[64, *]\", min_elements: 10}\n"
      "          options: {group_size: 8}\n"
      "  - decompress\n";
  const auto specs = Read(text);
  ASSERT_TRUE(Succeeds(specs));
  EXPECT_EQ(PrintRecipe(*specs), text);
}

TEST_F(RecipeTest, PassesAsOnACommandLine) {
  const auto spec = ParsePass("quantize:dtype=int4,block_size=0x64");
  ASSERT_TRUE(Succeeds(spec));
  EXPECT_EQ(spec->pass, "quantize");
  EXPECT_EQ(spec->options, (OptionValues{{"dtype", "int4"}, {"block_size", "0x64"}}));
  EXPECT_TRUE(Succeeds(ParsePass("decompress")));
  EXPECT_TRUE(Fails(ParsePass("shrink:nbits=4"), ErrorKind::kUsage, {"unknown pass 'shrink'"}));
  EXPECT_TRUE(Fails(ParsePass("palettize:nbits"), ErrorKind::kUsage,
                    {"--pass palettize:nbits: 'nbits' is not option=value"}));
}

// --- coremltools' configurations (item 13 of its conformance list) -------------------------------

TEST_F(RecipeTest, Item13_ReadsAPalettizerConfiguration) {
  const auto reports =
      Run("config_type: OpPalettizerConfig\n"
          "global_config:\n"
          "  mode: KMeans\n"
          "  nbits: 4\n"
          "  granularity: per_grouped_channel\n"
          "  group_size: 16\n"
          "  channel_axis: null\n"
          "  cluster_dim: 1\n"
          "  enable_per_channel_scale: False\n"
          "  num_kmeans_workers: 4\n"
          "  weight_threshold: 2048\n"
          "op_name_configs:\n"
          "  y1: {nbits: 8, group_size: 4}\n");
  ASSERT_TRUE(Succeeds(reports));
  EXPECT_EQ(FormOf(reports->front(), "w0"), "4-bit LUT for each 16 channels of axis 0");
  // Levels never merge: granularity is the class's default again, which ignores group_size.
  EXPECT_EQ(FormOf(reports->front(), "w1"), "8-bit LUT");
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_NE(notes_[0].find(":10: num_kmeans_workers has no effect"), std::string::npos)
      << notes_[0];
}

TEST_F(RecipeTest, Item13_WithoutAGlobalConfigurationNothingElseIsDone) {
  const auto reports =
      Run("{\"config_type\": \"OpLinearQuantizerConfig\", \"global_config\": null,\n"
          " \"op_name_configs\": {\"y0\": {\"dtype\": \"uint8\", \"mode\": \"linear\", "
          "\"block_size\": 8}}}");
  ASSERT_TRUE(Succeeds(reports));
  EXPECT_EQ(FormOf(reports->front(), "w0"), "uint8 affine, 64 scales");
  EXPECT_TRUE(FormOf(reports->front(), "w1").starts_with("left: no rule asks for it"));
}

TEST_F(RecipeTest, Item13_NullLeavesAloneAndEntriesMayHaveTheirOwnClass) {
  auto reports =
      Run("config_type: OpMagnitudePrunerConfig\n"
          "global_config: {target_sparsity: 1}\n"
          "op_name_configs:\n"
          "  y0: {config_type: OpThresholdPrunerConfig, threshold: 0.5, "
          "minimum_sparsity_percentile: 0.2}\n"
          "  y1: null\n");
  ASSERT_TRUE(Succeeds(reports));
  EXPECT_EQ(FormOf(reports->front(), "w0").substr(0, 6), "sparse");
  EXPECT_NE(FormOf(reports->front(), "w1").find("op_name_configs 'y1'"), std::string::npos);
  // Of another family: coremltools refuses this, here it makes another pass.
  reports =
      Run("config_type: OpPalettizerConfig\n"
          "global_config: {nbits: 4}\n"
          "op_name_configs:\n"
          "  y1: {config_type: OpLinearQuantizerConfig}\n");
  ASSERT_TRUE(Succeeds(reports));
  ASSERT_EQ(reports->size(), 2u);
  EXPECT_EQ(FormOf((*reports)[0], "w0"), "4-bit LUT");
  EXPECT_EQ(FormOf((*reports)[1], "w1"), "int8 symmetric, 64 scales");
}

TEST_F(RecipeTest, Item13_MistakesInAConfiguration) {
  EXPECT_EQ(ErrorOf("global_config: {nbits: 4}\n"), ":1: has no 'config_type'");
  EXPECT_EQ(ErrorOf("config_type: [a]\nglobal_config: null\n"),
            ":1: 'config_type' is a list, expected a single value");
  EXPECT_EQ(ErrorOf("config_type: OpPalettizerConfig\nop_name_config: {}\nglobal_config: null\n"),
            ":2: unknown key 'op_name_config', did you mean 'op_name_configs'?");
  EXPECT_EQ(ErrorOf("config_type: OpPalettizerConfig\nop_type_configs: 4\n"),
            ":2: 'op_type_configs' is a single value, expected a map");
  EXPECT_EQ(ErrorOf("config_type: OpPalettiser\nglobal_config: {}\n").substr(0, 31),
            ":2: config_type 'OpPalettiser':");
  EXPECT_EQ(
      ErrorOf("config_type: OpPalettizerConfig\nglobal_config:\n  nbits: 4\n  block_size: 4\n")
          .substr(0, 28),
      ":4: unknown key 'block_size'");
  EXPECT_EQ(
      ErrorOf("config_type: OpPalettizerConfig\nglobal_config: {mode: kmeans}\n").substr(0, 38),
      ":2: palettize: nbits: is needed by mod");
  EXPECT_EQ(ErrorOf("config_type: OpPalettizerConfig\nglobal_config:\n  nbits: 4\n"
                    "  weight_threshold: null\n"),
            ":4: weight_threshold is null, expected a number of elements");
  EXPECT_EQ(ErrorOf("config_type: OpPalettizerConfig\nglobal_config:\n  mode: custom\n"
                    "  lut_function: f\n"),
            ":4: lut_function is Python code; mode custom takes its entries from --lut-file");
}

// --- Running several passes ----------------------------------------------------------------------

TEST_F(RecipeTest, ADryRunSaysTheSameAndWritesNothing) {
  const std::string text =
      "passes:\n"
      "  - prune: {target_sparsity: 0.75}\n"
      "  - palettize: {nbits: 4, joint: true}\n";
  const auto done = Run(text);
  ASSERT_TRUE(Succeeds(done));
  RunOptions options;
  options.dry_run = true;
  const auto planned = Run(text, options);
  ASSERT_TRUE(Succeeds(planned));
  EXPECT_FALSE(fs::exists(output_));
  ASSERT_EQ(planned->size(), done->size());
  for (size_t i = 0; i < done->size(); ++i) {
    EXPECT_EQ((*planned)[i].package_bytes_after, (*done)[i].package_bytes_after);
    EXPECT_EQ(FormOf((*planned)[i], "w0"), FormOf((*done)[i], "w0"));
  }
}

TEST_F(RecipeTest, ADryRunInPlaceLeavesTheInput) {
  RunOptions options;
  options.dry_run = true;
  options.in_place = true;
  ASSERT_TRUE(Succeeds(Run("passes: [{palettize: {nbits: 4}}]", options)));
  const auto before = ReadTree(input_);
  ASSERT_TRUE(Succeeds(Run("passes: [{palettize: {nbits: 4}}]", options)));
  EXPECT_EQ(ReadTree(input_), before);
}

TEST_F(RecipeTest, AnErrorInALaterPassLeavesNothing) {
  RunOptions options;
  options.target = "iOS16";
  EXPECT_TRUE(Fails(Run("passes:\n  - prune: {target_sparsity: 0.5}\n"
                        "  - palettize: {nbits: 4, joint: true}\n",
                        options),
                    ErrorKind::kUsage, {"--target iOS16", "needs iOS18", "joint compression"}));
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(RecipeTest, NamesOfInnerOperationsStayApart) {
  // A value of the program has the name that the dequantized LUT would get.
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  package.FunctionInput("main", "x", TensorType(DataType::kFloat16, {1, 64}));
  main.BlobConst("w", DataType::kFloat16, {64, 64}, Fp16Bytes(Gaussian(4096, 3)));
  AddLinear(main, "w_lut", "w", DataType::kFloat16, {64, 64});
  main.Output("w_lut");
  fs::remove_all(input_);
  package.Write(input_);
  const PassRun run(
      input_, PassSpec{.pass = "palettize", .options = {{"nbits", "4"}, {"lut_dtype", "int8"}}});
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_NE(run.after().Find("w_lut_1"), nullptr);
  EXPECT_EQ(run.after().Find("w_lut")->type, "linear");
  EXPECT_EQ(run.after().Values("w").size(), 4096u);
}

}  // namespace
}  // namespace cmlc::test
