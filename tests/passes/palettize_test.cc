// Palettize with one LUT for a weight: what is stored, and how good it is.
#include <algorithm>
#include <cmath>

#include "numeric/half.h"
#include "support/pass_run.h"

namespace cmlc::test {
namespace {

std::string Place(uint64_t count) { return count >= 10 ? " file" : " spec"; }

uint64_t CountOf(const Shape& shape) { return *ElementCount(shape); }

std::string Sizes(const Shape& shape) { return ToString(std::span<const int64_t>(shape)); }

// What constexpr_lut_to_dense looks like on iOS 16 and 17 (version 7, 8), and from iOS 18 (9) on.
std::string OldForm(DataType dtype, const Shape& shape, int nbits) {
  const uint64_t bytes = *PackedBytes(CountOf(shape), nbits);
  const int64_t entries = int64_t{1} << nbits;
  return "constexpr_lut_to_dense[indices: uint8 [" + std::to_string(bytes) + "]" + Place(bytes) +
         ", lut: " + NameOf(dtype) + " [" + std::to_string(entries) + "]" +
         Place(static_cast<uint64_t>(entries)) + ", shape: uint32 [" +
         std::to_string(shape.size()) + "] spec] -> " + NameOf(dtype) + " " + Sizes(shape);
}

std::string NewForm(DataType dtype, const Shape& shape, int nbits) {
  Shape lut(shape.size(), 1);
  lut.push_back(int64_t{1} << nbits);
  lut.push_back(1);
  return "constexpr_lut_to_dense(indices: uint" + std::to_string(nbits) + " " + Sizes(shape) +
         Place(CountOf(shape)) + ", lut: " + NameOf(dtype) + " " + Sizes(lut) +
         Place(CountOf(lut)) + ") -> " + NameOf(dtype) + " " + Sizes(shape);
}

const std::vector<Shape> kOddShapes = {{1, 13}, {3, 7}, {2, 3, 5, 7}, {33, 65}};

std::string WeightName(size_t i) { return "w" + std::to_string(i); }

class PalettizeWidth : public ::testing::TestWithParam<std::tuple<int, DataType>> {
 protected:
  int nbits() const { return std::get<0>(GetParam()); }
  DataType dtype() const { return std::get<1>(GetParam()); }
  // A weight "w0", "w1", ... of each of the shapes.
  PackageBuilder Model(int32_t version) const {
    PackageBuilder package(version);
    BlockBuilder main = package.Function("main");
    for (size_t i = 0; i < kOddShapes.size(); ++i) {
      const Shape& shape = kOddShapes[i];
      main.BlobConst(WeightName(i), dtype(), shape,
                     FloatBytes(dtype(), Gaussian(CountOf(shape), /*seed=*/i, 0.1f)));
      AddLinear(main, "y" + std::to_string(i), WeightName(i), dtype(), shape);
      main.Output("y" + std::to_string(i));
    }
    return package;
  }
  PassSpec Spec(const std::string& mode) const {
    return Palettize(
        {{"nbits", std::to_string(nbits())}, {"mode", mode}, {"weight_threshold", "0"}});
  }
};

// Whether every value has the nearest of ascending entries, as its index says.
void ExpectNearestEntries(const PassRun& run, const std::string& name, int nbits) {
  const std::vector<float> before = run.before().Values(name);
  const std::vector<float> after = run.after().Values(name);
  const std::vector<float> lut = run.after().Floats(run.after().Operand(name, "lut"));
  const std::vector<int> codes =
      run.after().Codes(run.after().Operand(name, "indices"), before.size(), nbits);
  ASSERT_EQ(lut.size(), size_t{1} << nbits);
  EXPECT_TRUE(std::is_sorted(lut.begin(), lut.end()));
  for (size_t i = 0; i < before.size(); ++i) {
    ASSERT_EQ(after[i], lut[static_cast<size_t>(codes[i])]) << "at " << i;
    const double value = before[i], distance = std::abs(value - after[i]);
    for (const float entry : lut) ASSERT_LE(distance, std::abs(value - entry)) << "at " << i;
  }
  EXPECT_TRUE(QualityAgrees(run, name));
}

TEST_P(PalettizeWidth, StoresTheOlderFormBelowIos18) {
  const PassRun run(Model(7), Spec("kmeans"));
  const bool raised = nbits() == 3;  // the older form has no 3-bit indices
  for (size_t i = 0; i < kOddShapes.size(); ++i) {
    const std::string name = WeightName(i);
    const Shape& shape = kOddShapes[i];
    ASSERT_TRUE(IsDone(run, name));
    EXPECT_EQ(run.after().Print(name),
              raised ? NewForm(dtype(), shape, 3) : OldForm(dtype(), shape, nbits()));
    EXPECT_EQ(NameOf(*run.after().Find(name)), name);
    ExpectNearestEntries(run, name, nbits());
    if (raised) continue;
    EXPECT_EQ(ImmediateInts(run.after().Operand(name, "shape")), shape);
  }
  EXPECT_EQ(run.after().model().specification_version, raised ? 9 : 7);
}

TEST_P(PalettizeWidth, StoresTheNewerFormFromIos18On) {
  const int32_t version = dtype() == DataType::kFloat16 ? 9 : 10;
  const PassRun run(Model(version), Spec("uniform"));
  for (size_t i = 0; i < kOddShapes.size(); ++i) {
    ASSERT_TRUE(IsDone(run, WeightName(i)));
    EXPECT_EQ(run.after().Print(WeightName(i)), NewForm(dtype(), kOddShapes[i], nbits()));
    ExpectNearestEntries(run, WeightName(i), nbits());
  }
  EXPECT_EQ(run.after().model().specification_version, version);
}

TEST_P(PalettizeWidth, LosesNothingOfAsManyValuesAsThereAreEntries) {
  std::vector<float> values;
  for (int i = 0; i < 600; ++i)
    values.push_back(0.25f * static_cast<float>(i * 7 % (1 << nbits())) - 3.0f);
  const std::string bytes = FloatBytes(dtype(), values);
  PassSpec spec = Spec("kmeans");
  spec.rules = {ByName("w1", {{"mode", "uniform"}})};
  const PassRun run(Linears(dtype(), {20, 30}, {bytes, bytes}), spec);
  for (const char* name : {"w0", "w1"}) {
    ASSERT_TRUE(IsDone(run, name));
    EXPECT_EQ(run.after().Values(name), values) << name;
    EXPECT_EQ(run.weight(name).quality.noise, 0) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(AllWidths, PalettizeWidth,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4, 6, 8),
                                            ::testing::Values(DataType::kFloat16,
                                                              DataType::kFloat32)),
                         [](const auto& width) {
                           return "Bits" + std::to_string(std::get<0>(width.param)) +
                                  NameOf(std::get<1>(width.param));
                         });

class PalettizeDtype : public ::testing::TestWithParam<DataType> {};
INSTANTIATE_TEST_SUITE_P(Floats, PalettizeDtype,
                         ::testing::Values(DataType::kFloat16, DataType::kFloat32),
                         [](const auto& dtype) { return NameOf(dtype.param); });

TEST_P(PalettizeDtype, ReportsWhatItDid) {
  const PassRun run(OneLinear(GetParam(), 16, 256), Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(IsDone(run));
  const WeightReport& report = run.weight();
  EXPECT_EQ(report.function, "main");
  EXPECT_EQ(report.consumers, std::vector<std::string>{"linear 'y' weight"});
  EXPECT_EQ(report.dtype, NameOf(GetParam()));
  EXPECT_EQ(report.shape, (Shape{16, 256}));
  EXPECT_EQ(report.element_count, 4096u);
  EXPECT_EQ(report.form, "4-bit LUT");
  EXPECT_FALSE(report.shared);
  EXPECT_FALSE(report.asked_for);
  const uint64_t width = static_cast<uint64_t>(BitsOf(GetParam())) / 8;
  EXPECT_EQ(report.bytes_before, 4096 * width);
  EXPECT_GE(report.bytes_after, 2048 + 16 * width);
  EXPECT_LE(report.bytes_after, 2048 + 16 * width + 8);  // with the sizes of the shape
  EXPECT_EQ(run.report().pass, "palettize");
  EXPECT_EQ(run.report().version_before, 7);
  EXPECT_EQ(run.report().version_after, 7);
  EXPECT_TRUE(run.report().rewrites.empty());
  EXPECT_LT(run.report().package_bytes_after, run.report().package_bytes_before);
  uint64_t bytes = 0;
  for (const auto& [name, content] : ReadTree(run.output())) bytes += content.size();
  EXPECT_EQ(run.report().package_bytes_after, bytes);
}

TEST_P(PalettizeDtype, FillsTheTableWhereThereAreFewerValuesThanEntries) {
  const PassRun run(LinearOf(GetParam(), {3, 4}, {1, 2, 2, 1, -4, 1, 2, -4, 1, 1, 2, 2}),
                    Palettize({{"nbits", "4"}, {"weight_threshold", "0"}}));
  ASSERT_TRUE(IsDone(run));
  const std::vector<float> lut = run.after().Floats(run.after().Operand("weight", "lut"));
  ASSERT_EQ(lut.size(), 16u);
  EXPECT_EQ(std::vector<float>(lut.begin(), lut.begin() + 3), (std::vector<float>{-4, 1, 2}));
  EXPECT_EQ(std::count(lut.begin(), lut.end(), 2.0f), 14);
  EXPECT_EQ(run.weight().quality.noise, 0);
}

TEST_P(PalettizeDtype, HoldsConstantsAndZeros) {
  std::vector<std::string> weights;
  const std::vector<float> constants = {0.0f, -0.0f, 1.5f, -65504.0f};
  for (const float value : constants)
    weights.push_back(FloatBytes(GetParam(), std::vector<float>(4096, value)));
  for (const char* mode : {"kmeans", "uniform", "unique"}) {
    OptionValues options = {{"mode", mode}};
    if (std::string(mode) != "unique") options.emplace_back("nbits", "2");
    const PassRun run(Linears(GetParam(), {64, 64}, weights), Palettize(options));
    for (size_t i = 0; i < constants.size(); ++i) {
      ASSERT_TRUE(IsDone(run, WeightName(i))) << constants[i] << mode;
      EXPECT_EQ(run.after().Values(WeightName(i)), std::vector<float>(4096, constants[i]));
      EXPECT_EQ(run.weight(WeightName(i)).quality.noise, 0);
    }
  }
}

TEST_P(PalettizeDtype, ReachesTheEndsOfTheRange) {
  std::vector<float> values = Gaussian(4096, 3, 1e-5f);  // most are subnormal in fp16
  values[17] = 65504.0f;
  values[18] = -65504.0f;
  for (const char* mode : {"kmeans", "uniform"}) {
    const PassRun run(LinearOf(GetParam(), {64, 64}, values),
                      Palettize({{"nbits", "4"}, {"mode", mode}}));
    ASSERT_TRUE(IsDone(run));
    EXPECT_TRUE(QualityAgrees(run)) << mode;
    if (std::string(mode) != "kmeans") continue;
    EXPECT_EQ(run.after().Values("weight")[17], 65504.0f);
    EXPECT_EQ(run.after().Values("weight")[18], -65504.0f);
  }
}

// Indices that fill more than one chunk of a tensor that is still worked on by one thread.
TEST_P(PalettizeDtype, IsExactAcrossChunks) {
  static_assert(900'007 > TensorSource::kChunkBytes);
  const PassRun run(LinearOf(GetParam(), {1, 900'007}, StudentT(900'007, 5), 9),
                    Palettize({{"nbits", "8"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_TRUE(QualityAgrees(run));
}

// A weight that all threads work on together.
TEST_P(PalettizeDtype, IsExactOnLargeWeights) {
  static_assert(2'240 * 2'240 > kLargeWeight);
  const PassRun run(OneLinear(GetParam(), 2240, 2240), Palettize({{"nbits", "4"}}), {.threads = 3});
  ASSERT_TRUE(IsDone(run));
  EXPECT_TRUE(QualityAgrees(run));
  EXPECT_GT(SnrDb(run.weight().quality), 20.2);  // the optimum for a Gaussian is 20.22 dB
}

TEST_P(PalettizeDtype, KMeansIsNeverWorseThanUniform) {
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  std::vector<Rule> rules;
  std::vector<std::string> cases;
  for (const char* nbits : {"1", "2", "3", "4", "6", "8"}) {
    for (const int degrees : {2, 3, 4}) {
      const std::string name = std::string(nbits) + "_" + std::to_string(degrees);
      const auto values = StudentT(6000, static_cast<uint64_t>(degrees), degrees);
      for (const char* mode : {"kmeans", "uniform"}) {
        const std::string weight = mode + ("_" + name);
        main.BlobConst(weight, GetParam(), {60, 100}, FloatBytes(GetParam(), values));
        AddLinear(main, "y_" + weight, weight, GetParam(), {60, 100});
        rules.push_back(ByName(weight, {{"nbits", nbits}, {"mode", mode}}));
      }
      cases.push_back(name);
    }
  }
  const PassRun run(package, Palettize({{"nbits", "4"}}, rules));
  for (const std::string& name : cases) {
    ASSERT_TRUE(IsDone(run, "kmeans_" + name));
    ASSERT_TRUE(IsDone(run, "uniform_" + name));
    EXPECT_GE(SnrDb(run.weight("kmeans_" + name).quality),
              SnrDb(run.weight("uniform_" + name).quality))
        << name << " (bits, degrees of freedom)";
  }
}

TEST_P(PalettizeDtype, GroupsAreNeverWorseThanOneTable) {
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  std::vector<Rule> rules;
  const auto values = StudentT(6400, 11, 3);
  const std::vector<std::string> widths = {"1", "2", "3", "4", "6", "8"};
  const std::vector<std::string> groups = {"0", "32", "8", "2", "1"};  // each splits the one before
  for (const std::string& nbits : widths) {
    for (const std::string& group : groups) {
      const std::string weight = nbits + "_" + group;
      main.BlobConst(weight, GetParam(), {64, 100}, FloatBytes(GetParam(), values));
      AddLinear(main, "y_" + weight, weight, GetParam(), {64, 100});
      rules.push_back(ByName(weight, {{"nbits", nbits}, {"group_size", group}}));
    }
  }
  const PassRun run(package, Palettize({{"nbits", "4"}}, rules));
  for (const std::string& nbits : widths) {
    double last = -1e300;
    for (const std::string& group : groups) {
      ASSERT_TRUE(IsDone(run, nbits + "_" + group));
      const double snr = SnrDb(run.weight(nbits + "_" + group).quality);
      EXPECT_GE(snr, last - 1e-3) << nbits << " bits, groups of " << group;
      last = snr;
    }
  }
}

TEST(Palettize, ThreeBitsRaiseTheWholeModel) {
  PackageBuilder package = OneLinear(DataType::kFloat16, 16, 256);
  BlockBuilder main = package.Function("main");
  main.BlobConst("second", DataType::kFloat16, {16, 256},
                 RandomWeights(DataType::kFloat16, 4096, 2));
  AddLinear(main, "z", "second", DataType::kFloat16, {16, 256});
  main.Output("z");
  const PassRun run(package, Palettize({{"nbits", "4"}}, {ByName("z", {{"nbits", "3"}})}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.after().Print("weight"), NewForm(DataType::kFloat16, {16, 256}, 4));
  EXPECT_EQ(run.after().Print("second"), NewForm(DataType::kFloat16, {16, 256}, 3));
  const Model& model = run.after().model();
  EXPECT_EQ(model.specification_version, 9);
  EXPECT_EQ(model.program->functions.at("main").opset, "CoreML8");
  EXPECT_TRUE(model.program->functions.at("main").specializations.contains("CoreML8"));
  EXPECT_EQ(run.report().version_after, 9);
  EXPECT_NE(run.report().systems.find("iOS 18"), std::string::npos);
}

TEST(Palettize, KeepsEverythingElse) {
  PackageBuilder package = OneConv(DataType::kFloat16, 16, 16, 3);
  const PassRun run(package, Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(IsDone(run));
  std::vector<std::string> expected = run.before().Ops();
  ASSERT_EQ(expected.front(), "const weight");
  expected.front() = "constexpr_lut_to_dense weight";
  EXPECT_EQ(run.after().Ops(), expected);
  for (const char* name : {"y", "strides", "pad_type", "groups"})
    EXPECT_EQ(run.after().Print(name), run.before().Print(name));
  EXPECT_EQ(run.after().model().interface.inputs.size(), 1u);
}

// The operation's own name and the name of its output differ in some models.
TEST(Palettize, KeepsTheConstsOwnName) {
  PackageBuilder package = OneLinear(DataType::kFloat16, 16, 256);
  (*package.Function("main").block().mutable_operations(0)->mutable_attributes())["name"] =
      StringValue("layers/0/weight");
  const PassRun run(package, Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(NameOf(*run.after().Find("weight")), "layers/0/weight");
}

}  // namespace
}  // namespace cmlc::test
