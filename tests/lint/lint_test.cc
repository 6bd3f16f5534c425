// Known forms: found where they are, nowhere else, and reported by runs that make them.
#include "cmlc/lint.h"

#include <gtest/gtest.h>

#include <set>

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

}  // namespace
}  // namespace cmlc::test
