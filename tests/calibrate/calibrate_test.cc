// Calibrating whole models through the library.
#include "cmlc/calibrate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/npy.h"
#include "calibrate/statistics.h"
#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

const fs::path kDigits = fs::path(CMLC_SOURCE_DIR) / "examples/digits";
constexpr DataType kFloat = DataType::kFloat32;

std::string NpyOf(const Shape& shape, const std::vector<float>& numbers) {
  return NpyHeader("<f4", shape) +
         std::string(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float));
}

// y = linear(x) with weights 1 and 2, z = relu(y); x has two channels.
void WriteModel(const fs::path& path, float second = 2) {
  PackageBuilder package(7);
  package.DescribeInput("x", kFloat, {1, 2});
  package.DescribeOutput("z", kFloat);
  package.FunctionInput("main", "x", TensorType(kFloat, {1, 2}));
  BlockBuilder main = package.Function("main");
  main.BlobConst("w", kFloat, {1, 2}, FloatBytes(kFloat, {1, second}));
  main.Op("linear", "y", {{"x", "x"}, {"weight", "w"}}, TensorType(kFloat, {1, 1}));
  main.Op("relu", "z", {{"x", "y"}}, TensorType(kFloat, {1, 1}));
  main.Output("z");
  package.Write(path);
}

class CalibrateTest : public ::testing::Test {
 protected:
  CalibrateTest() { WriteModel(dir_ / "model.mlpackage"); }

  // Statistics of the samples in `numbers`, two of which make one.
  Result<CalibrateReport> Run(const std::vector<float>& numbers, const std::string& name,
                              int threads = 2) {
    const auto count = static_cast<int64_t>(numbers.size() / 2);
    WriteFile(dir_ / "data.npy", NpyOf({count, 2}, numbers));
    CalibrateOptions options;
    options.model = dir_ / "model.mlpackage";
    options.data = {.inputs = {(dir_ / "data.npy").string()}, .batched = true};
    options.execution.threads = threads;
    options.output = dir_ / name;
    return Calibrate(options, diagnostics_);
  }
  calibrate::Statistics Read(const std::string& name) {
    Result<calibrate::Statistics> statistics = calibrate::ReadStatistics(dir_ / name);
    EXPECT_TRUE(Succeeds(statistics));
    return statistics.ok() ? std::move(*statistics) : calibrate::Statistics();
  }

  TempDir dir_;
  TestDiagnostics diagnostics_;
};

TEST_F(CalibrateTest, SamplesOfDifferentRangesGiveTheUnion) {
  const Result<CalibrateReport> report = Run({-1, 0.5, 3, 1}, "a.stats");
  ASSERT_TRUE(Succeeds(report));
  EXPECT_EQ(report->samples, 2u);
  EXPECT_EQ(report->values, 3u);
  EXPECT_EQ(report->inputs, 1u);
  const calibrate::Statistics statistics = Read("a.stats");
  const calibrate::ValueStatistics& x = statistics.values.at("x");
  EXPECT_EQ(x.least, -1);
  EXPECT_EQ(x.greatest, 3);
  EXPECT_EQ(x.channels, (std::vector<float>{3, 1}));
  const std::vector<std::pair<float, float>> ranges = {{-1.0f, 0.5f}, {1.0f, 3.0f}};
  EXPECT_EQ(x.ranges, ranges);
  // y is -1 + 1 and 3 + 2.
  const calibrate::ValueStatistics& y = statistics.values.at("y");
  EXPECT_EQ(y.least, 0);
  EXPECT_EQ(y.greatest, 5);
  EXPECT_EQ(y.zeros, 1u);
  EXPECT_EQ(y.op_type, "linear");
  EXPECT_EQ(y.mean(), 2.5);
  EXPECT_EQ(y.mean_square(), 12.5);
  const calibrate::InputMoments& moments = statistics.inputs.at("y");
  EXPECT_EQ(moments.count, 2u);
  ASSERT_EQ(moments.squares.size(), 2u);
  EXPECT_EQ(moments.squares[0].value(), 1 + 9);
  EXPECT_EQ(moments.squares[1].value(), 0.25 + 1);
}

TEST_F(CalibrateTest, HalvesMergeToTheWholeForAnyNumberOfThreads) {
  const std::vector<float> numbers = {-1, 0.5, 3, 1, 0.1f, 0.2f, 7, -9};
  ASSERT_TRUE(Succeeds(Run(numbers, "whole.stats", 1)));
  ASSERT_TRUE(Succeeds(Run(numbers, "threads.stats", 3)));
  ASSERT_TRUE(Succeeds(Run({numbers.begin(), numbers.begin() + 4}, "first.stats", 3)));
  ASSERT_TRUE(Succeeds(Run({numbers.begin() + 4, numbers.end()}, "second.stats", 1)));
  const std::vector<fs::path> halves = {dir_ / "first.stats", dir_ / "second.stats"};
  ASSERT_TRUE(Succeeds(MergeStatistics(halves, dir_ / "merged.stats")));
  const std::string whole = ReadFile(dir_ / "whole.stats");
  EXPECT_EQ(ReadFile(dir_ / "threads.stats"), whole);
  EXPECT_EQ(ReadFile(dir_ / "merged.stats"), whole);
}

TEST_F(CalibrateTest, AnInterruptedRunGoesOn) {
  const std::vector<float> numbers = {-1, 0.5, 3, 1, 0.1f, 0.2f, 7, -9};
  ASSERT_TRUE(Succeeds(Run(numbers, "whole.stats")));
  // What an interrupted run leaves: the first two samples.
  ASSERT_TRUE(Succeeds(Run({numbers.begin(), numbers.begin() + 4}, "a.stats")));
  fs::rename(dir_ / "a.stats", dir_ / "a.stats.partial");
  const Result<CalibrateReport> report = Run(numbers, "a.stats");
  ASSERT_TRUE(Succeeds(report));
  EXPECT_EQ(report->resumed, 2u);
  EXPECT_EQ(report->samples, 4u);
  EXPECT_EQ(ReadFile(dir_ / "a.stats"), ReadFile(dir_ / "whole.stats"));
  EXPECT_FALSE(fs::exists(dir_ / "a.stats.partial"));
}

TEST_F(CalibrateTest, WhatIsLeftOfAnotherModelIsNotUsed) {
  ASSERT_TRUE(Succeeds(Run({1, 2}, "a.stats")));
  fs::rename(dir_ / "a.stats", dir_ / "a.stats.partial");
  fs::remove_all(dir_ / "model.mlpackage");
  WriteModel(dir_ / "model.mlpackage", 5);
  const Result<CalibrateReport> report = Run({1, 2, 3, 4}, "a.stats");
  ASSERT_TRUE(Succeeds(report));
  EXPECT_EQ(report->resumed, 0u);
  EXPECT_EQ(Read("a.stats").values.at("y").greatest, 3 + 5 * 4);
}

TEST_F(CalibrateTest, StatisticsOfOtherWeightsAreOfAnotherModel) {
  ASSERT_TRUE(Succeeds(Run({1, 2}, "a.stats")));
  fs::remove_all(dir_ / "model.mlpackage");
  WriteModel(dir_ / "model.mlpackage", 5);
  ASSERT_TRUE(Succeeds(Run({1, 2}, "b.stats")));
  EXPECT_NE(Read("a.stats").model, Read("b.stats").model);
  const std::vector<fs::path> both = {dir_ / "a.stats", dir_ / "b.stats"};
  const Status merged = MergeStatistics(both, dir_ / "c.stats");
  ASSERT_FALSE(merged.ok());
  EXPECT_EQ(merged.error().kind, ErrorKind::kUsage);
  EXPECT_FALSE(fs::exists(dir_ / "c.stats"));
}

TEST_F(CalibrateTest, TellsOfWhatIsNotFinite) {
  const Result<CalibrateReport> report = Run({1, INFINITY, 2, 3}, "a.stats");
  ASSERT_TRUE(Succeeds(report));
  ASSERT_EQ(report->problems.size(), 3u);
  EXPECT_EQ(report->problems[0], "'x' (input): 1 of 4 elements are infinite or not a number");
  EXPECT_EQ(Read("a.stats").values.at("x").greatest, 3);
}

TEST_F(CalibrateTest, KeepsToTheMemoryThatItMayTake) {
  WriteFile(dir_ / "data.npy", NpyOf({1, 2}, {1, 2}));
  CalibrateOptions options;
  options.model = dir_ / "model.mlpackage";
  options.data = {.inputs = {(dir_ / "data.npy").string()}, .batched = true};
  options.output = dir_ / "a.stats";
  options.execution.max_memory_bytes = 1 << 20;
  EXPECT_TRUE(Succeeds(Calibrate(options, diagnostics_)));
  options.output = dir_ / "b.stats";
  options.execution.max_memory_bytes = 4096;  // values take less, their histograms more
  const Result<CalibrateReport> report = Calibrate(options, diagnostics_);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().kind, ErrorKind::kUsage);
  EXPECT_TRUE(report.error().message.starts_with("--max-memory 4096: at 'x' statistics take "))
      << report.error().message;
  EXPECT_FALSE(fs::exists(dir_ / "b.stats"));
}

// What one more sample would change is worth knowing.
TEST_F(CalibrateTest, TellsOfRangesThatStillGrow) {
  std::vector<float> numbers(32, 1);
  ASSERT_TRUE(Succeeds(Run(numbers, "a.stats")));
  const auto tells = [&] {
    return std::any_of(
        diagnostics_.notes.begin(), diagnostics_.notes.end(), [](const std::string& note) {
          return note.find("widened the ranges of 3 of 3 values") != std::string::npos;
        });
  };
  EXPECT_FALSE(tells());
  numbers.back() = 5;
  ASSERT_TRUE(Succeeds(Run(numbers, "b.stats")));
  EXPECT_TRUE(tells());
}

// Large enough for several threads, with channels next to each other and apart.
TEST(Calibrate, OfTheDigitsIsTheSameForAnyNumberOfThreads) {
  const TempDir dir;
  TestDiagnostics diagnostics;
  CalibrateOptions options;
  options.model = kDigits / "digits.mlpackage";
  options.data = {.inputs = {(kDigits / "samples/images.npy").string()}, .batched = true};
  for (const int threads : {1, 3}) {
    options.execution.threads = threads;
    options.output = dir / (std::to_string(threads) + ".stats");
    const Result<CalibrateReport> report = Calibrate(options, diagnostics);
    ASSERT_TRUE(Succeeds(report));
    EXPECT_EQ(report->samples, 450u);
    EXPECT_TRUE(report->problems.empty());
  }
  EXPECT_EQ(ReadFile(dir / "1.stats"), ReadFile(dir / "3.stats"));
  const Result<StatisticsSummary> summary = ShowStatistics(dir / "1.stats");
  ASSERT_TRUE(Succeeds(summary));
  EXPECT_EQ(summary->samples, 450u);
  for (const StatisticsSummary::Value& value : summary->values) {
    EXPECT_LE(value.least, value.low) << value.name;
    EXPECT_LE(value.low, value.high) << value.name;
    EXPECT_LE(value.high, value.greatest) << value.name;
    if (value.op_type == "relu") {
      EXPECT_GE(value.least, 0) << value.name;
    }
  }
}

}  // namespace
}  // namespace cmlc::test
