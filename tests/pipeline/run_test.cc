// A run as a whole: the same bytes however many threads, in place, progress, names of outputs.
#include <cmath>

#include "support/pass_run.h"

namespace cmlc::test {
namespace {

constexpr DataType kHalf = DataType::kFloat16;

PackageBuilder ManySizes() {
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  const Shape shapes[] = {{3, 700}, {1500, 1100}, {16, 256}, {2100, 2000}, {64, 33}, {5, 5000}};
  uint64_t seed = 1;
  for (const Shape& shape : shapes) {
    const DataType dtype = seed % 3 == 0 ? DataType::kFloat32 : kHalf;
    const std::string name = "w" + std::to_string(seed);
    main.BlobConst(name, dtype, shape, RandomWeights(dtype, *ElementCount(shape), seed));
    AddLinear(main, "y" + std::to_string(seed), name, dtype, shape);
    ++seed;
  }
  return package;
}

TEST(Run, GivesTheSameBytesWhateverTheThreads) {
  TempDir dir;
  const fs::path input = ManySizes().Write(dir / "in.mlpackage");
  for (const OptionValues& options :
       {OptionValues{{"nbits", "4"}},
        OptionValues{{"nbits", "6"}, {"group_size", "0"}, {"channel_axis", "1"}}}) {
    const PassRun one(input, Palettize(options), {.threads = 1});
    ASSERT_TRUE(IsDone(one, "w4"));
    for (const int threads : {2, 5}) {
      const PassRun many(input, Palettize(options), {.threads = threads});
      ASSERT_TRUE(many.ok()) << many.error();
      EXPECT_TRUE(SamePackage(one.output(), many.output())) << threads << " threads";
      for (size_t i = 0; i < one.report().weights.size(); ++i) {
        EXPECT_EQ(one.report().weights[i].quality.noise, many.report().weights[i].quality.noise);
        EXPECT_EQ(one.report().weights[i].quality.signal, many.report().weights[i].quality.signal);
      }
    }
  }
}

// Weights of some million elements go through beside others or with all threads on each, whatever
// suits the number of threads: alone with one or five threads, all together with two.
TEST(Run, GivesTheSameBytesForWeightsOfMediumSize) {
  static_assert(2112 * 2048 > kLargeWeight);
  TempDir dir;
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  for (const int i : {1, 2, 3}) {
    const std::string name = "w" + std::to_string(i);
    const Shape shape = i == 2 ? Shape{40, 100} : Shape{2112, 2048};
    const auto values = StudentT(*ElementCount(shape), static_cast<uint64_t>(i), 9);
    main.BlobConst(name, DataType::kFloat32, shape, FloatBytes(DataType::kFloat32, values));
    AddLinear(main, "y" + name, name, DataType::kFloat32, shape);
  }
  const fs::path input = package.Write(dir / "in.mlpackage");
  const PassRun one(input, Palettize({{"nbits", "4"}}), {.threads = 1});
  ASSERT_TRUE(IsDone(one, "w1"));
  EXPECT_TRUE(QualityAgrees(one, "w3"));
  for (const int threads : {2, 5}) {
    const PassRun many(input, Palettize({{"nbits", "4"}}), {.threads = threads});
    ASSERT_TRUE(many.ok()) << many.error();
    EXPECT_TRUE(SamePackage(one.output(), many.output())) << threads << " threads";
    for (size_t i = 0; i < one.report().weights.size(); ++i)
      EXPECT_EQ(one.report().weights[i].quality.noise, many.report().weights[i].quality.noise);
  }
}

// Weights are written in their order, and equal ones once, however long each of them takes.
TEST(Run, WritesInOrderWhateverTheThreads) {
  TempDir dir;
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  for (int i = 0; i < 40; ++i) {
    const std::string name = "w" + std::to_string(i);
    // Large ones between small ones, one that a thread alone makes while it is written, and some
    // that are equal to an earlier one.
    const Shape shape = i == 7 || i == 27 ? Shape{1040, 1024} : Shape{i % 5 == 0 ? 640 : 16, 160};
    const int seed = i >= 20 ? i - 20 : i;
    const auto values = StudentT(*ElementCount(shape), static_cast<uint64_t>(seed), 5);
    main.BlobConst(name, kHalf, shape, FloatBytes(kHalf, values));
    AddLinear(main, "y" + name, name, kHalf, shape);
  }
  const fs::path input = package.Write(dir / "in.mlpackage");
  const std::vector<PassSpec> specs = {Palettize({{"nbits", "4"}}),
                                       {"prune", {{"target_sparsity", "0.6"}}}};
  for (const PassSpec& spec : specs) {
    const PassRun one(input, spec, {.threads = 1});
    ASSERT_TRUE(IsDone(one, "w27"));
    for (const int threads : {2, 3, 5}) {
      const PassRun many(input, spec, {.threads = threads});
      ASSERT_TRUE(many.ok()) << many.error();
      EXPECT_TRUE(SamePackage(one.output(), many.output())) << threads << " threads";
    }
  }
}

TEST(Run, TwiceIsLikeOnce) {
  for (const char* group_size : {"0", "4"}) {
    const PassRun once(OneConv(kHalf, 16, 16, 3),
                       Palettize({{"nbits", "4"}, {"group_size", group_size}}));
    ASSERT_TRUE(IsDone(once));
    const PassRun twice(once.output(), Palettize({{"nbits", "4"}, {"group_size", group_size}}));
    ASSERT_TRUE(twice.ok()) << twice.error();
    EXPECT_TRUE(SamePackage(once.output(), twice.output()));
  }
}

TEST(Run, InPlaceGivesTheSamePackage) {
  TempDir dir;
  const fs::path input = OneConv(kHalf, 16, 16, 3).Write(dir / "in.mlpackage");
  const PassRun beside(input, Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(IsDone(beside));
  TestDiagnostics diagnostics;
  const auto report =
      cmlc::Run(Palettize({{"nbits", "4"}}),
                {.input = input, .output = input, .in_place = true, .threads = 2}, diagnostics);
  ASSERT_TRUE(Succeeds(report));
  EXPECT_TRUE(SamePackage(input, beside.output()));
  EXPECT_LT(report->package_bytes_after, report->package_bytes_before);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
}

TEST(Run, OntoTheInputIsRefusedUnlessInPlace) {
  TempDir dir;
  const fs::path input = OneConv(kHalf, 16, 16, 3).Write(dir / "in.mlpackage");
  const auto before = ReadTree(input);
  TestDiagnostics diagnostics;
  EXPECT_TRUE(Fails(cmlc::Run(Palettize({{"nbits", "4"}}),
                              {.input = input, .output = input, .threads = 2}, diagnostics),
                    ErrorKind::kUsage));
  EXPECT_TRUE(ReadTree(input) == before);
}

TEST(Run, NothingToCompressIsSaid) {
  PackageBuilder package(7);
  package.message().set_treeensembleclassifier("a tree");
  const PassRun run(package, Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(Succeeds(run.result()));
  EXPECT_TRUE(run.report().weights.empty());
  const PassRun strict(package, Palettize({{"nbits", "4"}}), {.strict = true});
  EXPECT_TRUE(Fails(strict.result(), ErrorKind::kStrict,
                    {"in.mlpackage", "nothing to compress", "treeEnsembleClassifier"}));
  EXPECT_TRUE(strict.wrote_nothing());
}

TEST(Run, WithoutAModelIsRefused) {
  const PassRun run(PackageBuilder(7), Palettize({{"nbits", "4"}}));
  EXPECT_TRUE(Fails(run.result(), ErrorKind::kBadInput, {"in.mlpackage", "holds no model"}));
  EXPECT_TRUE(run.wrote_nothing());
}

TEST(Run, OfAMissingInputIsRefused) {
  TempDir dir;
  const PassRun run(dir / "none.mlpackage", Palettize({{"nbits", "4"}}));
  EXPECT_TRUE(Fails(run.result(), ErrorKind::kBadInput, {"none.mlpackage"}));
}

TEST(Run, ReportsProgressThatOnlyGrowsAndEndsAtTheTotal) {
  const PassRun run(ManySizes(), Palettize({{"nbits", "2"}}));
  ASSERT_TRUE(run.ok()) << run.error();
  const auto& steps = run.diagnostics().steps;
  ASSERT_GE(steps.size(), 2u);
  for (size_t i = 1; i < steps.size(); ++i) {
    EXPECT_GE(steps[i].weights_done, steps[i - 1].weights_done);
    EXPECT_GE(steps[i].bytes_done, steps[i - 1].bytes_done);
    EXPECT_LE(steps[i].weights_done, steps[i].weights_total);
    EXPECT_LE(steps[i].bytes_done, steps[i].bytes_total);
    EXPECT_EQ(steps[i].stage, "palettize");
  }
  EXPECT_EQ(steps.front().weights_done, 0);
  EXPECT_EQ(steps.back().weights_done, 6);
  EXPECT_EQ(steps.back().weights_total, 6);
  EXPECT_EQ(steps.back().bytes_done, steps.back().bytes_total);
  uint64_t bytes = 0;
  for (const WeightReport& weight : run.report().weights) bytes += weight.bytes_before;
  EXPECT_EQ(steps.back().bytes_total, bytes);
}

TEST(Run, ReportsWeightsInProgramOrder) {
  const PassRun run(ManySizes(), Palettize({{"nbits", "2"}}));
  ASSERT_TRUE(run.ok()) << run.error();
  ASSERT_EQ(run.report().weights.size(), 6u);
  for (size_t i = 0; i < 6; ++i)
    EXPECT_EQ(run.report().weights[i].name, "w" + std::to_string(i + 1));
}

TEST(DefaultOutput, LiesBesideTheInput) {
  const std::string_view pass = FindPass("palettize")->suffix;
  EXPECT_EQ(DefaultOutput("a/model.mlpackage", pass), "a/model-palettized.mlpackage");
  EXPECT_EQ(DefaultOutput("a/model.mlpackage/", pass), "a/model-palettized.mlpackage");
  EXPECT_EQ(DefaultOutput("model.mlpackage", pass), "model-palettized.mlpackage");
  EXPECT_EQ(DefaultOutput("/m.v2.mlpackage", FindPass("decompress")->suffix),
            "/m.v2-decompressed.mlpackage");
  EXPECT_EQ(DefaultOutput("m.mlpackage", FindPass("null")->suffix), "m-copy.mlpackage");
}

TEST(SnrDb, IsTenTimesTheLogarithmOfTheRatio) {
  EXPECT_DOUBLE_EQ(SnrDb({.signal = 100, .noise = 1}), 20);
  EXPECT_DOUBLE_EQ(SnrDb({.signal = 1, .noise = 1}), 0);
  EXPECT_TRUE(std::isinf(SnrDb({.signal = 1, .noise = 0})));
  EXPECT_TRUE(std::isinf(SnrDb({.signal = 0, .noise = 0})));
}

TEST(Passes, AreFoundByName) {
  for (const char* name : {"palettize", "decompress", "null"}) {
    const PassInfo* info = FindPass(name);
    ASSERT_NE(info, nullptr);
    EXPECT_EQ(info->name, name);
    EXPECT_NE(info->make(), nullptr);
    EXPECT_FALSE(info->summary.ends_with("."));
  }
  EXPECT_EQ(FindPass("palletize"), nullptr);
}

TEST(Passes, DescribeTheirOptions) {
  const auto pass = FindPass("palettize")->make();
  const auto options = DescribeOptions(*pass);
  ASSERT_FALSE(options.empty());
  EXPECT_EQ(options.front().name, "nbits");
  EXPECT_EQ(options.front().kind, "INT");
  EXPECT_EQ(options.front().allowed,
            (std::vector<std::string>{"1", "2", "3", "4", "5", "6", "7", "8"}));
  EXPECT_EQ(options.front().value, "");
  EXPECT_EQ(options.back().name, "weight_threshold");
  EXPECT_EQ(options.back().value, "2048");
  ASSERT_TRUE(Succeeds(SetOptions(*pass, "palettize", {{"nbits", "6"}, {"mode", "uniform"}})));
  EXPECT_EQ(DescribeOptions(*pass)[0].value, "6");
  EXPECT_EQ(DescribeOptions(*pass)[1].value, "uniform");
}

}  // namespace
}  // namespace cmlc::test
