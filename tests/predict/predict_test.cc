// Whole models through the library: the digits example, a classifier, a model with a state.
#include "cmlc/predict.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/npy.h"
#include "base/zip.h"
#include "cmlc/compare.h"
#include "cmlc/pipeline.h"
#include "predict/metrics.h"
#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

const fs::path kDigits = fs::path(CMLC_SOURCE_DIR) / "examples/digits";

DataOptions Digits() {
  return {.inputs = {(kDigits / "samples/images.npy").string()}, .batched = true};
}

std::vector<float> Floats(const fs::path& path) {
  const auto array = ReadNpy(path);
  if (!array.ok()) {
    ADD_FAILURE() << array.error().message;
    return {};
  }
  return {array->values.begin(), array->values.end()};
}

// An entry of an .npz file, as it would lie alone.
std::string Entry(const fs::path& path, const std::string& name) {
  const auto zip = ZipReader::Open(path);
  if (!zip.ok()) return "";
  for (const ZipEntry& entry : zip->entries()) {
    if (entry.name != name) continue;
    auto source = zip->OpenEntry(entry);
    std::string bytes(static_cast<size_t>(entry.size_bytes), '\0');
    if (!source.ok() || !(*source)->Read(0, bytes).ok()) return "";
    return bytes;
  }
  return "";
}

TEST(Predict, DigitsAreWhatTheirAuthorComputed) {
  const TempDir dir;
  TestDiagnostics diagnostics;
  PredictOptions options;
  options.model = kDigits / "digits.mlpackage";
  options.data = Digits();
  options.output = dir / "out.npz";
  const auto report = Predict(options, diagnostics);
  ASSERT_TRUE(Succeeds(report));
  EXPECT_EQ(report->samples, 450u);
  ASSERT_EQ(report->outputs.size(), 1u);
  EXPECT_EQ(report->outputs[0].stored, "fp32 [450, 10]");
  WriteFile(dir / "y.npy", Entry(dir / "out.npz", "probabilities.npy"));
  const std::vector<float> y = Floats(kDigits / "samples/expected.npy");
  const std::vector<float> x = Floats(dir / "y.npy");
  ASSERT_EQ(x.size(), y.size());
  EXPECT_GT(predict::Measure(y, x).snr_db, 50);
  EXPECT_EQ(predict::Top1(y, x, 10), 1);
}

TEST(Compare, DigitsKeepTheirAccuracyWithFourBits) {
  const TempDir dir;
  TestDiagnostics diagnostics;
  RunOptions run;
  run.input = kDigits / "digits.mlpackage";
  run.output = dir / "small.mlpackage";
  ASSERT_TRUE(Succeeds(
      cmlc::Run(PassSpec{.pass = "palettize", .options = {{"nbits", "4"}}}, run, diagnostics)));
  CompareOptions options;
  options.model_a = run.input;
  options.model_b = run.output;
  options.data = Digits();
  options.labels = (kDigits / "samples/labels.npy").string();
  options.per_op = true;
  const auto report = Compare(options, diagnostics);
  ASSERT_TRUE(Succeeds(report));
  ASSERT_EQ(report->outputs.size(), 1u);
  const OutputComparison& output = report->outputs[0];
  EXPECT_DOUBLE_EQ(*output.accuracy_a, 448.0 / 450);  // as examples/digits/README.md says
  EXPECT_GT(*output.accuracy_b, 0.97);
  EXPECT_GT(output.top1->mean, 0.97);
  EXPECT_TRUE(output.kl.has_value());
  // The first convolution is too small to be compressed: error enters with the second. The first
  // linear layer's own is less than what comes with its input.
  const auto losses = [&](const std::string& type) {
    std::vector<bool> lossy;
    for (const OpComparison& op : report->ops)
      if (op.type == type) lossy.push_back(op.loss > 1);
    return lossy;
  };
  EXPECT_EQ(losses("conv"), (std::vector<bool>{false, true, true}));
  EXPECT_EQ(losses("linear"), (std::vector<bool>{false, false}));
}

TEST(Predict, AClassifierGivesLabelsAndProbabilities) {
  const TempDir dir;
  PackageBuilder package(7);
  package.DescribeInput("x", DataType::kFloat32, {1, 3});
  package.FunctionInput("main", "x", TensorType(DataType::kFloat32, {1, 3}));
  BlockBuilder main = package.Function("main");
  main.Const("classes", StringsValue({3}, {"cat", "dög", "cow"}));
  main.Op("classify", {{"probabilities", "x"}, {"classes", "classes"}},
          Outputs{{"label", TensorType(DataType::kString, {})},
                  {"scores", DictionaryType(TensorType(DataType::kString, {}),
                                            TensorType(DataType::kFloat32, {}))}});
  main.Output("label");
  main.Output("scores");
  package.Write(dir / "c.mlpackage");
  WriteFile(dir / "x.jsonl", "{\"x\": [[0.25, 0.5, 0.25]]}\n{\"x\": [[0.75, 0, 0.25]]}\n");
  PredictOptions options;
  options.model = dir / "c.mlpackage";
  options.data.inputs = {(dir / "x.jsonl").string()};
  TestDiagnostics diagnostics;
  auto report = Predict(options, diagnostics);
  ASSERT_TRUE(Succeeds(report));
  const auto json = nlohmann::json::parse(report->json);
  EXPECT_EQ(json["samples"][0]["label"], "dög");
  EXPECT_EQ(json["samples"][1]["scores"],
            (nlohmann::json{{"cat", 0.75}, {"dög", 0.0}, {"cow", 0.25}}));
  options.output = dir / "out.npz";
  report = Predict(options, diagnostics);
  ASSERT_TRUE(Succeeds(report));
  EXPECT_EQ(report->outputs[0].stored, "string [2]");
  EXPECT_EQ(report->outputs[1].stored, "fp32 [2, 3]");
  const std::string labels = Entry(dir / "out.npz", "scores.labels.npy");
  EXPECT_NE(labels.find("'<U3'"), std::string::npos);
  EXPECT_NE(labels.find("(3,)"), std::string::npos);
  const std::u32string text(reinterpret_cast<const char32_t*>(labels.data() + labels.size() - 36),
                            9);
  EXPECT_EQ(text, U"catdögcow");
}

TEST(Predict, StatesAreKeptBetweenStepsAndResetBetweenSamples) {
  const TempDir dir;
  PackageBuilder package(9);
  package.DescribeInput("x", DataType::kFloat16, {1});
  package.FunctionInput("main", "x", TensorType(DataType::kFloat16, {1}));
  package.FunctionInput("main", "s", StateType(TensorType(DataType::kFloat16, {1})));
  BlockBuilder main = package.Function("main");
  main.Op("read_state", "old", {{"input", "s"}}, TensorType(DataType::kFloat16, {1}));
  main.Op("add", "new", {{"x", "old"}, {"y", "x"}}, TensorType(DataType::kFloat16, {1}));
  main.Op("write_state", {{"input", "s"}, {"data", "new"}}, Outputs{});
  main.Output("new");
  package.Write(dir / "s.mlpackage");
  WriteFile(dir / "x.json",
            R"([[{"x": [1]}, {"x": [2]}, {"x": [3]}], [{"x": [10]}, {"x": [20]}]])");
  PredictOptions options;
  options.model = dir / "s.mlpackage";
  options.data.inputs = {(dir / "x.json").string()};
  TestDiagnostics diagnostics;
  auto report = Predict(options, diagnostics);
  ASSERT_TRUE(Succeeds(report));
  EXPECT_EQ(report->samples, 2u);
  EXPECT_EQ(report->steps, 5u);
  const auto sums = [&] {
    std::vector<std::vector<double>> all;
    const auto json = nlohmann::json::parse(report->json);
    for (const auto& sample : json["samples"]) {
      all.emplace_back();
      for (const auto& step : sample) all.back().push_back(step["new"][0]);
    }
    return all;
  };
  EXPECT_EQ(sums(), (std::vector<std::vector<double>>{{1, 3, 6}, {10, 30}}));
  // Samples of one file as one sequence.
  WriteFile(dir / "x.npy", NpyHeader("<f4", {3, 1}) + BytesOf<float>({1, 2, 3}));
  options.data = {.inputs = {(dir / "x.npy").string()}, .batched = true, .sequence = true};
  report = Predict(options, diagnostics);
  ASSERT_TRUE(Succeeds(report));
  EXPECT_EQ(sums(), (std::vector<std::vector<double>>{{1, 3, 6}}));
  options.data.sequence = false;
  report = Predict(options, diagnostics);
  ASSERT_TRUE(Succeeds(report));
  EXPECT_EQ(sums(), (std::vector<std::vector<double>>{{1}, {2}, {3}}));
  options.data.sequence = true;
  options.output = dir / "out.npz";
  report = Predict(options, diagnostics);
  ASSERT_TRUE(Succeeds(report));
  EXPECT_EQ(report->outputs[0].stored, "fp16 [3, 1]");
}

}  // namespace
}  // namespace cmlc::test
