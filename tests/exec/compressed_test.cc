// Programs with compressed weights of every form give what they give with the weights that those
// stand for.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cmlc/predict.h"
#include "support/pass_run.h"

namespace cmlc::test {
namespace {

std::string Outputs(const fs::path& model) {
  PredictOptions options;
  options.model = model;
  options.data.random_samples = 2;
  TestDiagnostics diagnostics;
  const Result<PredictReport> report = Predict(options, diagnostics);
  EXPECT_TRUE(Succeeds(report));
  return report.ok() ? report->json : "";
}

PassSpec Pass(const std::string& name, OptionValues options) {
  return {.pass = name, .options = std::move(options)};
}

class Compressed : public ::testing::TestWithParam<std::vector<PassSpec>> {};

TEST_P(Compressed, RunsAsItsWeightsSay) {
  for (const DataType dtype : {DataType::kFloat16, DataType::kFloat32})
    for (PackageBuilder package : {OneLinear(dtype, 32, 96, 9), OneConv(dtype, 32, 16, 3, 9)}) {
      const TempDir dir;
      RunOptions options;
      options.input = package.Write(dir / "in.mlpackage");
      options.output = dir / "out.mlpackage";
      TestDiagnostics diagnostics;
      const auto reports = RunAll(GetParam(), options, diagnostics);
      ASSERT_TRUE(Succeeds(reports));
      ASSERT_EQ(reports->back().weights.at(0).fate, WeightReport::Fate::kDone);
      const PassRun plain(options.output, Decompress());
      ASSERT_TRUE(plain.ok()) << plain.error();
      const std::string outputs = Outputs(options.output);
      EXPECT_FALSE(outputs.empty());
      EXPECT_EQ(outputs, Outputs(plain.output()));
    }
}

const OptionValues kHalf = {{"target_sparsity", "0.5"}};
const OptionValues kFour = {{"nbits", "4"}, {"joint", "true"}};

INSTANTIATE_TEST_SUITE_P(
    Forms, Compressed,
    ::testing::Values(
        std::vector{Pass("quantize", {})}, std::vector{Pass("palettize", {{"nbits", "4"}})},
        std::vector{Pass("palettize", {{"nbits", "4"}, {"lut_dtype", "int8"}})},
        std::vector{Pass("palettize", {{"nbits", "4"}, {"cluster_dim", "2"}})},
        std::vector{Pass("palettize", {{"nbits", "4"}, {"per_channel_scale", "true"}})},
        std::vector{Pass("prune", kHalf)},
        std::vector{Pass("prune", kHalf), Pass("quantize", {{"joint", "true"}})},
        std::vector{Pass("prune", kHalf), Pass("palettize", kFour)},
        std::vector{Pass("prune", kHalf), Pass("palettize", kFour),
                    Pass("quantize", {{"joint", "true"}})},
        std::vector{Pass("palettize", {{"nbits", "4"}}),
                    Pass("prune", {{"target_sparsity", "0.5"}, {"joint", "true"}})},
        std::vector{Pass("quantize", {}), Pass("palettize", {{"nbits", "2"}, {"joint", "true"}})}));

}  // namespace
}  // namespace cmlc::test
