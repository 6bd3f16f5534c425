// Known forms: found where they are, nowhere else, and reported by runs that make them.
#include "cmlc/lint.h"

#include <gtest/gtest.h>

#include <set>

#include "support/network_builder.h"
#include "support/package_builder.h"
#include "support/pass_run.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

std::vector<Finding> LintOf(const fs::path& path) {
  auto package = Package::Open(path);
  EXPECT_TRUE(Succeeds(package));
  return Lint(**package);
}

std::set<std::string> Ids(const std::vector<Finding>& findings) {
  std::set<std::string> ids;
  for (const Finding& finding : findings) ids.insert(finding.id);
  return ids;
}

// The ids that a pass's result has.
std::set<std::string> IdsAfter(PackageBuilder package, const std::string& pass,
                               OptionValues options) {
  const PassRun run(std::move(package), PassSpec{.pass = pass, .options = std::move(options)});
  EXPECT_TRUE(run.ok()) << run.error();
  return run.ok() ? Ids(LintOf(run.output())) : std::set<std::string>();
}

using Set = std::set<std::string>;

TEST(Lint, KnowsFormsOfWeights) {
  const auto linear = [] { return OneLinear(DataType::kFloat16, 64, 64, 9); };
  EXPECT_EQ(IdsAfter(linear(), "palettize", {{"nbits", "4"}}), Set{});
  EXPECT_EQ(IdsAfter(linear(), "palettize", {{"nbits", "4"}, {"per_channel_scale", "true"}}),
            Set{"scaled_lut"});
  EXPECT_EQ(IdsAfter(linear(), "palettize", {{"nbits", "4"}, {"lut_dtype", "int8"}}), Set{});
  EXPECT_EQ(IdsAfter(linear(), "palettize", {{"nbits", "2"}, {"group_size", "4"}}),
            Set{"many_luts"});
  EXPECT_EQ(IdsAfter(linear(), "palettize", {{"nbits", "2"}, {"group_size", "8"}}), Set{});
  EXPECT_EQ(IdsAfter(linear(), "quantize", {}), Set{});
  EXPECT_EQ(IdsAfter(linear(), "quantize", {{"dtype", "int4"}}), Set{});
  EXPECT_EQ(IdsAfter(linear(), "quantize", {{"dtype", "int4"}, {"block_size", "16"}}),
            Set{"int4_blocks"});
  EXPECT_EQ(IdsAfter(linear(), "quantize", {{"block_size", "16"}}), Set{"int8_blocks"});
  EXPECT_EQ(IdsAfter(OneMatmul(DataType::kFloat16, 64, 64, false), "quantize", {}),
            Set{"int8_matmul"});
}

TEST(Lint, KnowsOpsAndStates) {
  const TempDir dir;
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  package.FunctionInput("main", "x", TensorType(DataType::kFloat16, {1, 64}));
  package.FunctionInput("main", "odd", StateType(TensorType(DataType::kFloat16, {1, 270})));
  package.FunctionInput("main", "even", StateType(TensorType(DataType::kFloat16, {1, 256})));
  main.Op("lstm", "h", {{"x", "x"}}, TensorType(DataType::kFloat16, {1, 64}));
  main.Output("h");
  const std::vector<Finding> findings = LintOf(package.Write(dir / "in.mlpackage"));
  ASSERT_EQ(Ids(findings), (Set{"recurrent", "state_not_32"}));
  for (const Finding& finding : findings) {
    EXPECT_EQ(finding.names, std::vector<std::string>{finding.id == "recurrent" ? "h" : "odd"});
    EXPECT_EQ(finding.devices, kAne);
    EXPECT_TRUE(finding.source.starts_with("https://")) << finding.source;
  }
}

TEST(Lint, OnlyWhatIsNewIsReportedByARun) {
  RunOptions options;
  const PassSpec blocks{.pass = "quantize", .options = {{"dtype", "int4"}, {"block_size", "16"}}};
  const PassRun first(OneLinear(DataType::kFloat16, 64, 64, 9), blocks);
  ASSERT_TRUE(first.ok()) << first.error();
  ASSERT_EQ(first.diagnostics().notes.size(), 1u);
  EXPECT_TRUE(first.diagnostics().notes[0].starts_with("int4_blocks: 'weight': "))
      << first.diagnostics().notes[0];
  EXPECT_EQ(Ids(first.report().findings), Set{"int4_blocks"});
  const PassRun again(first.output(), blocks);
  ASSERT_TRUE(again.ok()) << again.error();
  EXPECT_TRUE(again.diagnostics().notes.empty());
}

TEST(Lint, ADeviceMakesWarningsAndStrictErrors) {
  const PassSpec blocks{.pass = "quantize", .options = {{"dtype", "int4"}, {"block_size", "16"}}};
  RunOptions options;
  options.devices = kAne;
  const PassRun warned(OneLinear(DataType::kFloat16, 64, 64, 9), blocks, options);
  ASSERT_TRUE(warned.ok()) << warned.error();
  EXPECT_EQ(warned.diagnostics().warnings.size(), 1u);
  options.devices = kCpu | kGpu;
  const PassRun elsewhere(OneLinear(DataType::kFloat16, 64, 64, 9), blocks, options);
  ASSERT_TRUE(elsewhere.ok()) << elsewhere.error();
  EXPECT_TRUE(elsewhere.diagnostics().warnings.empty());
  options.devices = kAne;
  options.strict = true;
  const PassRun refused(OneLinear(DataType::kFloat16, 64, 64, 9), blocks, options);
  EXPECT_TRUE(Fails(refused.result(), ErrorKind::kStrict, {"--strict: int4_blocks: 'weight'"}));
  EXPECT_TRUE(refused.wrote_nothing());
}

TEST(Lint, NamesOfDevices) {
  EXPECT_EQ(DevicesOf("ane"), kAne);
  EXPECT_EQ(DevicesOf("all"), kAll);
  EXPECT_EQ(DevicesOf("npu"), std::nullopt);
  EXPECT_EQ(NamesOf(kCpu | kAne), "cpu, ane");
  EXPECT_EQ(NamesOf(kAll), "all devices");
}

// --- NeuralNetworks: what Core ML's validator would refuse -------------------------------------

Set IdsOf(const NetworkBuilder& network, int version) {
  const TempDir dir;
  return Ids(LintOf(network.Write(dir / "a.mlmodel", version)));
}

const std::vector<float> kSixteen = RandomFloats(16, 1);
const std::vector<float> kFour = RandomFloats(4, 2);
const std::string kCodes = std::string("\x12\x34\x56\x78\x9a\xbc\xde\xf0", 8);  // 16 of 4 bits
const std::vector<float> kOne = {0.5f};

TEST(LintNetwork, KnowsVersionsThatAreTooLow) {
  const auto with = [](const std::string& weights) {
    return NetworkBuilder().InnerProduct("a", 4, 4, weights);
  };
  EXPECT_EQ(IdsOf(with(FloatWeights(kSixteen)), 1), Set{});
  EXPECT_EQ(IdsOf(with(HalfWeights(kSixteen)), 1), Set{"network_version"});
  EXPECT_EQ(IdsOf(with(HalfWeights(kSixteen)), 2), Set{});
  EXPECT_EQ(IdsOf(with(LinearWeights(4, kCodes, kOne, {})), 2), Set{"network_version"});
  EXPECT_EQ(IdsOf(with(LinearWeights(4, kCodes, kOne, {})), 3), Set{});
  const auto updatable = NetworkBuilder().InnerProduct("a", 4, 4, FloatWeights(kSixteen), "", true);
  EXPECT_EQ(IdsOf(updatable, 3), Set{"network_version"});
  EXPECT_EQ(IdsOf(updatable, 4), Set{});
  // Layers of any rank, and the newest ones.
  EXPECT_EQ(IdsOf(NetworkBuilder().Layer(985, "transpose", {}), 3), Set{"network_version"});
  EXPECT_EQ(IdsOf(NetworkBuilder().Layer(985, "transpose", {}), 4), Set{});
  EXPECT_EQ(IdsOf(NetworkBuilder().Layer(1450, "one_hot", {}), 4), Set{"network_version"});
  EXPECT_EQ(IdsOf(NetworkBuilder().Layer(1450, "one_hot", {}), 5), Set{});
}

TEST(LintNetwork, KnowsPipelinesBelowTheirMembers) {
  const TempDir dir;
  const auto ids = [&](int version) {
    WriteFile(dir / "a.mlmodel", PipelineOf({SmallNetwork().Model(3)}, version, 200));
    return Ids(LintOf(dir / "a.mlmodel"));
  };
  EXPECT_EQ(ids(2), Set{"network_version"});
  EXPECT_EQ(ids(3), Set{});
}

TEST(LintNetwork, KnowsLayersThatMixFloats) {
  const auto with = [](const std::string& weights, const std::string& bias) {
    return NetworkBuilder().InnerProduct("a", 4, 4, weights, bias);
  };
  EXPECT_EQ(IdsOf(with(FloatWeights(kSixteen), HalfWeights(kFour)), 3),
            Set{"network_mixed_floats"});
  EXPECT_EQ(IdsOf(with(HalfWeights(kSixteen), HalfWeights(kFour)), 3), Set{});
  EXPECT_EQ(IdsOf(with(LinearWeights(4, kCodes, kOne, {}), HalfWeights(kFour)), 3), Set{});
}

TEST(LintNetwork, KnowsLayersThatTakeFloatsOnly) {
  const auto normalization = [](const std::string& gamma) {
    format::WireMessage parameters;
    parameters.AddVarint(1, 16);
    parameters.AddBytes(3, gamma);
    return NetworkBuilder().Layer(1350, "norm", std::move(parameters));
  };
  EXPECT_EQ(IdsOf(normalization(FloatWeights(kSixteen)), 4), Set{});
  EXPECT_EQ(IdsOf(normalization(HalfWeights(kSixteen)), 4), Set{"network_float_layer"});
  const auto volumes = [](const std::string& weights) {
    format::WireMessage parameters;
    parameters.AddVarint(1, 4);
    parameters.AddVarint(2, 4);
    for (const uint32_t kernel : {20, 21, 22}) parameters.AddVarint(kernel, 1);
    parameters.AddBytes(60, weights);
    return NetworkBuilder().Layer(1471, "volumes", std::move(parameters));
  };
  EXPECT_EQ(IdsOf(volumes(HalfWeights(kSixteen)), 5), Set{});
  EXPECT_EQ(IdsOf(volumes(LinearWeights(4, kCodes, kOne, {})), 5), Set{"network_float_layer"});
}

TEST(LintNetwork, KnowsCodesThatLayersDoNotTake) {
  const std::string codes = LinearWeights(4, kCodes, kOne, {});
  EXPECT_EQ(IdsOf(NetworkBuilder().InnerProduct("a", 4, 4, codes, "", true), 4),
            Set{"network_updatable"});
  // 4 input and 4 output channels in 2 groups: weights of [4, 2, 1, 2].
  const NetworkBuilder::Kernel grouped = {
      .outputs = 4, .inputs = 4, .height = 1, .width = 2, .groups = 2, .deconvolution = true};
  const auto scaled = [&](size_t scales) {
    return NetworkBuilder().Convolution(
        "a", grouped, LinearWeights(4, kCodes, std::vector<float>(scales, 1.0f), {}));
  };
  EXPECT_EQ(IdsOf(scaled(1), 3), Set{});
  EXPECT_EQ(IdsOf(scaled(2), 3), Set{"network_grouped_deconvolution"});
  EXPECT_EQ(IdsOf(scaled(4), 3), Set{});
  // int8 codes without their flag.
  EXPECT_EQ(IdsOf(NetworkBuilder().InnerProduct("a", 4, 4, Int8Weights(kCodes + kCodes, 1)), 5),
            Set{"network_int8"});
}

}  // namespace
}  // namespace cmlc::test
