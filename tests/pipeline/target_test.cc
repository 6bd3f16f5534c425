// The target: what the result may need, and what it needs at least.
#include <cmath>

#include "support/pass_run.h"

namespace cmlc::test {
namespace {

constexpr DataType kHalf = DataType::kFloat16;

PassRun WithTarget(const std::string& target, int32_t version, OptionValues options = {}) {
  if (options.empty()) options = {{"nbits", "4"}};
  return PassRun(OneLinear(kHalf, 16, 256, version), Palettize(options), {.target = target});
}

TEST(Target, RaisesTheModelTheFunctionAndItsKey) {
  const std::tuple<const char*, int32_t, const char*> targets[] = {{"iOS16", 7, "CoreML6"},
                                                                   {"iOS17", 8, "CoreML7"},
                                                                   {"iOS18", 9, "CoreML8"},
                                                                   {"iOS26", 10, "CoreML9"}};
  for (const auto& [target, version, opset] : targets) {
    const PassRun run = WithTarget(target, 7);
    ASSERT_TRUE(IsDone(run)) << target;
    const Model& model = run.after().model();
    EXPECT_EQ(model.specification_version, version);
    const Function& function = model.program->functions.at("main");
    EXPECT_EQ(function.opset, opset);
    EXPECT_EQ(function.specializations.size(), 1u);
    EXPECT_TRUE(function.specializations.contains(opset));
    EXPECT_EQ(run.after().Find("weight")->inputs.empty(), version < 9) << target;
    EXPECT_EQ(run.report().version_before, 7);
    EXPECT_EQ(run.report().version_after, version);
  }
}

TEST(Target, IsNotRaisedWithoutNeed) {
  for (const int32_t version : {7, 8, 9, 10})
    EXPECT_EQ(WithTarget("", version).report().version_after, version);
}

TEST(Target, OfIos15BecomesThatOfIos16) {
  const PassRun run = WithTarget("", 6);
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.report().version_before, 6);
  EXPECT_EQ(run.report().version_after, 7);
  EXPECT_EQ(run.after().model().program->functions.at("main").opset, "CoreML6");
}

TEST(Target, OfIos15StaysIfNothingIsDone) {
  const PassRun run(OneLinear(kHalf, 16, 16, 6), Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(run.report().version_after, 6);
  EXPECT_TRUE(SamePackage(run.output(), run.input(), /*manifest=*/false));
}

TEST(Target, IsNeverLowered) {
  const PassRun run = WithTarget("iOS17", 9);
  EXPECT_TRUE(Fails(run.result(), ErrorKind::kUsage,
                    {"--target iOS17: ", "in.mlpackage", "already needs iOS18"}));
  EXPECT_TRUE(run.wrote_nothing());
}

TEST(Target, TooLowForTheOptionsIsRefusedByNameOfTheWeight) {
  const PassRun bits = WithTarget("iOS17", 7, {{"nbits", "3"}});
  EXPECT_TRUE(Fails(bits.result(), ErrorKind::kUsage,
                    {"--target iOS17: 'weight' needs iOS18 for 3-bit indices",
                     "choose --target iOS18 or options that iOS17 can hold"}));
  EXPECT_TRUE(bits.wrote_nothing());
  const PassRun groups = WithTarget("iOS16", 7, {{"nbits", "4"}, {"group_size", "4"}});
  EXPECT_TRUE(Fails(groups.result(), ErrorKind::kUsage, {"'weight' needs iOS18 for 4 LUTs"}));
}

TEST(Target, MustBeKnown) {
  for (const char* target : {"iOS15", "ios18", "macOS15", "9"}) {
    const PassRun run = WithTarget(target, 7);
    EXPECT_TRUE(Fails(run.result(), ErrorKind::kUsage,
                      {std::string("--target '") + target + "'", "iOS16, iOS17, iOS18, iOS26"}));
    EXPECT_TRUE(run.wrote_nothing());
  }
}

TEST(Target, IsNotRaisedForAWeightThatIsNotFinite) {
  for (const DataType dtype : {kHalf, DataType::kFloat32}) {
    std::vector<float> values = Gaussian(4096, 1);
    values[99] = INFINITY;
    for (const std::string target : {"", "iOS16"}) {
      const PassRun run(LinearOf(dtype, {16, 256}, values), Palettize({{"nbits", "3"}}),
                        {.target = target});
      EXPECT_TRUE(Left(run, "weight", "element 99 "));
      EXPECT_EQ(run.report().version_after, 7);
    }
  }
}

TEST(Target, IsNotRaisedForWhatARuleOrTheThresholdLeaves) {
  const PassRun ruled(OneLinear(kHalf, 16, 256), Palettize({{"nbits", "3"}}, {LeaveName("y")}));
  ASSERT_TRUE(ruled.ok()) << ruled.error();
  EXPECT_EQ(ruled.report().version_after, 7);
  const PassRun small(OneLinear(kHalf, 16, 16), Palettize({{"nbits", "3"}}));
  ASSERT_TRUE(small.ok()) << small.error();
  EXPECT_EQ(small.report().version_after, 7);
}

TEST(Target, ThatCannotBeReachedIsRefusedByNameOfTheOp) {
  PackageBuilder package = OneLinear(kHalf, 16, 256);
  BlockBuilder main = package.Function("main");
  main.Op("made_up_op", "odd", {{"x", "x"}}, TensorType(kHalf, {1, 256}));
  main.Output("odd");
  EXPECT_TRUE(IsDone(PassRun(package, Palettize({{"nbits", "4"}}))));
  const PassRun run(package, Palettize({{"nbits", "3"}}));
  EXPECT_TRUE(Fails(run.result(), ErrorKind::kUsage, {"made_up_op", "'odd'"}));
  EXPECT_TRUE(run.wrote_nothing());
}

}  // namespace
}  // namespace cmlc::test
