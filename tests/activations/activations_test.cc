// The pass over activations on tiny graphs: which values are quantized, who reads what, what is
// left and why.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/npy.h"
#include "calibrate/statistics.h"
#include "cmlc/calibrate.h"
#include "cmlc/predict.h"
#include "support/pass_run.h"

namespace cmlc::test {
namespace {

constexpr DataType kHalf = DataType::kFloat16;
constexpr DataType kFloat = DataType::kFloat32;

PassSpec Activations(OptionValues options = {}, std::vector<Rule> rules = {}) {
  return {.pass = "activations", .options = std::move(options), .rules = std::move(rules)};
}

RunOptions Random(uint64_t samples = 3) {
  RunOptions options;
  options.calibration.emplace();
  options.calibration->data.random_samples = samples;
  return options;
}

// A program whose values all have the same shape, so that a graph is what matters.
class Net {
 public:
  explicit Net(DataType dtype = kHalf, int32_t version = 8)
      : package_(version), dtype_(dtype), main_(package_.Function("main")) {
    package_.DescribeInput("x", kFloat, {1, 2, 4, 4});
    package_.FunctionInput("main", "x", Type(kFloat));
    main_.BlobConst("w", dtype, {2, 2, 1, 1}, FloatBytes(dtype, {0.5, -1, 2, 0.25}));
    if (dtype == kHalf) {
      main_.Const("half", StringValue("fp16"));
      Op("cast", "h", {{"x", "x"}, {"dtype", "half"}});
    }
  }
  const std::string& input() const { return dtype_ == kHalf ? half_ : full_; }
  wire::ValueType Type(DataType dtype) const { return TensorType(dtype, {1, 2, 4, 4}); }
  Net& Op(const std::string& type, const std::string& name, const Inputs& inputs) {
    main_.Op(type, name, inputs, Type(dtype_));
    return *this;
  }
  Net& Conv(const std::string& name, const std::string& x) {
    return Op("conv", name, {{"x", x}, {"weight", "w"}});
  }
  Net& Output(const std::string& name) {
    package_.DescribeOutput(name, dtype_);
    main_.Output(name);
    return *this;
  }
  BlockBuilder& main() { return main_; }
  PackageBuilder& package() { return package_; }

 private:
  PackageBuilder package_;
  DataType dtype_;
  BlockBuilder main_;
  const std::string half_ = "h", full_ = "x";
};

// Whether a value that an op reads comes out of a pair for `value`: "value" or "~value".
std::string Read(const Opened& opened, const std::string& op, const std::string& parameter = "x") {
  const Operation* reader = opened.Find(op);
  if (reader == nullptr) return "no op " + op;
  std::string name = std::get<std::string>(reader->inputs.at(parameter).bindings.at(0).target);
  const Operation* source = opened.Find(name);
  if (source == nullptr || source->type != "dequantize") return name;
  const Operation* quantize =
      opened.Find(std::get<std::string>(source->inputs.at("input").bindings.at(0).target));
  if (quantize->type != "quantize") return "~" + quantize->type;
  return "~" + std::get<std::string>(quantize->inputs.at("input").bindings.at(0).target);
}

const ActivationReport& Report(const PassRun& run, const std::string& name) {
  static const ActivationReport none;
  for (const ActivationReport& report : run.report().activations)
    if (report.name == name) return report;
  ADD_FAILURE() << "no report on '" << name << "'";
  return none;
}

int Count(const PassRun& run, const std::string& type) {
  int count = 0;
  for (const std::string& op : run.after().Ops()) count += op.starts_with(type + " ") ? 1 : 0;
  return count;
}

TEST(Activations, ConvIsQuantizedInFrontAndBehind) {
  Net net;
  net.Conv("c", "h").Op("softmax", "y", {{"x", "c"}}).Output("y");
  const PassRun run(net.package(), Activations(), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(Read(run.after(), "c"), "~h");
  EXPECT_EQ(Read(run.after(), "y"), "~c");
  EXPECT_EQ(Count(run, "quantize"), 2);
  EXPECT_EQ(Count(run, "dequantize"), 2);
  EXPECT_EQ(Report(run, "h").readers, std::vector<std::string>{"conv 'c' x"});
  EXPECT_EQ(Report(run, "c").readers, std::vector<std::string>{"conv 'c' result"});
  EXPECT_EQ(run.report().float_ops, (std::map<std::string, size_t>{{"cast", 1}, {"softmax", 1}}));
  EXPECT_EQ(run.after().Print("h_quantized"),
            "quantize(input: h, output_dtype: h_quantized_dtype, scale: h_quantized_scale) -> int8 "
            "[1, 2, 4, 4]");
}

TEST(Activations, ActivationsBehindAnOpGoWithIt) {
  for (const char* type : {"relu", "relu6", "tanh", "sigmoid"}) {
    Net net;
    net.Conv("c", "h").Op(type, "a", {{"x", "c"}}).Op("softmax", "y", {{"x", "a"}}).Output("y");
    const PassRun run(net.package(), Activations(), Random());
    ASSERT_TRUE(run.ok()) << run.error();
    EXPECT_EQ(Read(run.after(), "a"), "c") << type;
    EXPECT_EQ(Read(run.after(), "y"), "~a") << type;
  }
  Net net;  // of which that is not so
  net.Conv("c", "h").Op("silu", "a", {{"x", "c"}}).Op("softmax", "y", {{"x", "a"}}).Output("y");
  const PassRun run(net.package(), Activations(), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(Read(run.after(), "a"), "~c");
  EXPECT_EQ(Read(run.after(), "y"), "a");
}

TEST(Activations, OutputsStayAsTheyAre) {
  Net net;
  net.Conv("c", "h").Conv("d", "c").Output("c").Output("d");
  const PassRun run(net.package(), Activations(), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(Read(run.after(), "d"), "~c");
  EXPECT_EQ(ActiveBlock(run.after().model().program->functions.at("main"))->outputs,
            (std::vector<std::string>{"c", "d"}));
  EXPECT_EQ(run.after().Find("d")->type, "conv");
}

TEST(Activations, OnePairServesAllReaders) {
  Net net;
  net.Conv("c", "h").Conv("d", "h").Op("exp", "e", {{"x", "h"}});
  net.Op("add", "y", {{"x", "c"}, {"y", "d"}}).Output("y").Output("e");
  const PassRun run(net.package(), Activations({{"normalize_scales", "false"}}), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(Read(run.after(), "c"), "~h");
  EXPECT_EQ(Read(run.after(), "d"), "~h");
  EXPECT_EQ(Read(run.after(), "e"), "h");  // in front of ops a pair is for those only
  EXPECT_EQ(Read(run.after(), "y", "x"), "~c");
  EXPECT_EQ(Read(run.after(), "y", "y"), "~d");
  EXPECT_EQ(Count(run, "quantize"), 3);
  EXPECT_EQ(Report(run, "h").readers.size(), 2u);
}

TEST(Activations, AddNeedsBothOperands) {
  Net net;
  net.main().BlobConst("b", kHalf, {1, 2, 4, 4}, RandomWeights(kHalf, 32, 1));
  net.Op("add", "y", {{"x", "h"}, {"y", "b"}}).Output("y");
  const PassRun run(net.package(), Activations(), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(Read(run.after(), "y"), "h");
  EXPECT_EQ(Report(run, "h").category, "beside a constant");
  EXPECT_EQ(run.report().version_after, 8);
}

TEST(Activations, ConstantsStayAndAreListed) {
  Net net;
  net.main().BlobConst("b", kHalf, {1, 2, 4, 4}, RandomWeights(kHalf, 32, 1));
  net.Conv("c", "b").Op("mul", "y", {{"x", "c"}, {"y", "h"}}).Output("y");
  const PassRun run(net.package(), Activations(), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(Read(run.after(), "c"), "b");
  EXPECT_EQ(Report(run, "b").category, "constant");
}

TEST(Activations, MoreOpsAreDoneWhenTheyAreAskedFor) {
  Net net;
  net.Op("softmax", "s", {{"x", "h"}}).Op("mul", "m", {{"x", "s"}, {"y", "h"}});
  net.Op("exp", "y", {{"x", "m"}}).Output("y");
  const PassRun none(net.package(), Activations(), Random());
  ASSERT_TRUE(none.ok()) << none.error();
  EXPECT_EQ(Count(none, "quantize"), 0);
  const PassRun run(net.package(), Activations({{"ops", "softmax,mul"}}), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(Read(run.after(), "s"), "~h");
  EXPECT_EQ(Read(run.after(), "m", "x"), "~s");
  EXPECT_EQ(Read(run.after(), "m", "y"), "~h");
  EXPECT_EQ(Read(run.after(), "y"), "~m");
}

TEST(Activations, RulesLeaveOpsAlone) {
  Net net;
  net.Conv("c", "h").Conv("d", "c").Conv("e", "d").Op("softmax", "y", {{"x", "e"}}).Output("y");
  const PassRun run(net.package(), Activations({}, {LeaveName("d")}), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(Read(run.after(), "c"), "~h");
  EXPECT_EQ(Read(run.after(), "d"), "c");
  EXPECT_EQ(Read(run.after(), "e"), "~d");
  EXPECT_EQ(Report(run, "c").category, "left alone by a rule");
  const PassRun types(net.package(), Activations({}, {LeaveType("conv")}), Random());
  ASSERT_TRUE(types.ok()) << types.error();
  EXPECT_EQ(Count(types, "quantize"), 0);
  const PassRun wrong(net.package(), Activations({}, {LeaveName("nothing*")}), Random());
  EXPECT_FALSE(wrong.ok());
}

TEST(Activations, RulesHaveOptionsOfTheirOwn) {
  Net net;
  net.Conv("c", "h").Op("exp", "e", {{"x", "c"}}).Conv("d", "e").Output("d");
  const PassRun run(net.package(), Activations({}, {ByName("d", {{"mode", "linear"}})}), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(Report(run, "e").zero_point, -128);  // never negative
  EXPECT_EQ(run.after().Find("e_quantized")->inputs.count("zero_point"), 0u);
  EXPECT_EQ(run.after().Find("e_quantized")->outputs[0].type->tensor.dtype, DataType::kUInt8);
  EXPECT_EQ(run.after().Find("c_quantized")->outputs[0].type->tensor.dtype, DataType::kInt8);
  const PassRun whole(net.package(), Activations({}, {ByName("d", {{"keep_io", "true"}})}),
                      Random());
  ASSERT_FALSE(whole.ok());
  EXPECT_NE(whole.error().find("options of the whole pass"), std::string::npos);
}

TEST(Activations, RulesForOpsThatAreNotDoneAreToldOf) {
  Net net;
  net.Conv("c", "h").Op("softmax", "s", {{"x", "c"}}).Op("exp", "y", {{"x", "s"}}).Output("y");
  const PassRun run(
      net.package(),
      Activations({}, {ByType("softmax", {{"dtype", "uint8"}}), ByName("y", {{"dtype", "uint8"}})}),
      Random());
  ASSERT_TRUE(run.ok()) << run.error();
  std::vector<std::string> reasons;
  for (const ActivationReport& report : run.report().activations)
    if (report.category == "of ops that are not quantized") reasons.push_back(report.reason);
  EXPECT_EQ(reasons, (std::vector<std::string>{
                         "a rule has options for it, but softmax is quantized with --ops softmax "
                         "only",
                         "a rule has options for it, but exp is never quantized"}));
}

TEST(Activations, KeepIoLeavesTheFirstAndTheLastLayers) {
  Net net;
  net.Conv("c", "h").Op("relu", "r", {{"x", "c"}}).Conv("d", "r").Conv("e", "d").Output("e");
  const PassRun run(net.package(), Activations({{"keep_io", "true"}}), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(Read(run.after(), "c"), "h");
  EXPECT_EQ(Read(run.after(), "d"), "~r");
  EXPECT_EQ(Read(run.after(), "e"), "d");
  EXPECT_EQ(Report(run, "h").category, "of first and last layers");
}

TEST(Activations, TiedValuesShareARange) {
  Net net;
  net.Op("relu", "a", {{"x", "h"}}).Conv("c", "h").Conv("d", "a");
  net.main().Const("axis", Int32Value(1));
  net.main().Const("no", BoolValue(false));
  net.main().Op(
      "concat", "j",
      {{"values", std::vector<Input::One>{"c", "d"}}, {"axis", "axis"}, {"interleave", "no"}},
      TensorType(kHalf, {1, 4, 4, 4}));
  net.main().BlobConst("w4", kHalf, {2, 4, 1, 1}, RandomWeights(kHalf, 8, 1));
  net.Op("conv", "y", {{"x", "j"}, {"weight", "w4"}}).Output("y");
  const PassRun tied(net.package(), Activations({{"ranges", "minmax"}}), Random());
  ASSERT_TRUE(tied.ok()) << tied.error();
  EXPECT_EQ(Report(tied, "c").scale, Report(tied, "d").scale);
  EXPECT_EQ(Report(tied, "c").scale, Report(tied, "j").scale);
  EXPECT_EQ(Report(tied, "j").low, std::min(Report(tied, "c").least, Report(tied, "d").least));
  const PassRun each(net.package(), Activations({{"ranges", "minmax"}, {"tied", "none"}}),
                     Random());
  ASSERT_TRUE(each.ok()) << each.error();
  EXPECT_NE(Report(each, "c").scale, Report(each, "d").scale);
}

TEST(Activations, TheTargetIsRaisedForThemAndOnlyThen) {
  Net net(kHalf, 7);
  net.Conv("c", "h").Conv("y", "c").Output("y");
  const PassRun run(net.package(), Activations(), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(run.report().version_after, 8);
  RunOptions low = Random();
  low.target = "iOS16";
  const PassRun refused(net.package(), Activations(), low);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error(),
            "--target iOS16: 'h' needs iOS17 for quantize; choose --target iOS17 or options that "
            "iOS16 can hold");
  EXPECT_TRUE(refused.wrote_nothing());
  Net plain(kHalf, 7);
  plain.Op("exp", "y", {{"x", "h"}}).Output("y");
  const PassRun nothing(plain.package(), Activations(), Random());
  ASSERT_TRUE(nothing.ok()) << nothing.error();
  EXPECT_EQ(nothing.report().version_after, 7);
}

TEST(Activations, InFp32ScalesAreFp32) {
  Net net(kFloat);
  net.Conv("c", "x").Op("softmax", "y", {{"x", "c"}}).Output("y");
  const PassRun run(net.package(), Activations(), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(run.after().Find("x_quantized_scale")->outputs[0].type->tensor.dtype, kFloat);
  EXPECT_EQ(run.after().Find("c_dequantized")->outputs[0].type->tensor.dtype, kFloat);
}

TEST(Activations, WhatIsNotFiniteStaysInFloat) {
  Net net;
  net.main().Const("big", BytesValue(kHalf, {}, FloatBytes(kHalf, {60000})));
  net.Op("mul", "m", {{"x", "h"}, {"y", "big"}}).Op("square", "s", {{"x", "m"}});
  net.Conv("c", "s").Output("c");
  const PassRun run(net.package(), Activations(), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(Read(run.after(), "c"), "s");
  EXPECT_EQ(Report(run, "s").category, "not finite");
  RunOptions strict = Random();
  strict.strict = true;
  const PassRun missed(net.package(), Activations({}, {ByName("c", {{"dtype", "uint8"}})}), strict);
  ASSERT_FALSE(missed.ok());
  EXPECT_EQ(missed.result().error().kind, ErrorKind::kStrict);
}

// What a branch that no sample took holds has no statistics.
TEST(Activations, BranchesAreDoneWhereSamplesWent) {
  Net net(kFloat);
  net.main().Const("yes", BoolValue(true));
  wire::Operation& cond = net.main().Op("cond", "y", {{"pred", "yes"}}, net.Type(kFloat));
  const auto branch = [&](const std::string& name) {
    BlockBuilder block = net.main().Nested(cond);
    block.Op("exp", name + "_e", {{"x", "x"}}, net.Type(kFloat));
    block.Op("conv", name, {{"x", name + "_e"}, {"weight", "w"}}, net.Type(kFloat));
    block.Op("abs", name + "_out", {{"x", name}}, net.Type(kFloat));
    block.Output(name + "_out");
  };
  branch("taken");
  branch("other");
  net.Output("y");
  const PassRun run(net.package(), Activations(), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(Read(run.after(), "taken"), "~taken_e");
  EXPECT_EQ(Read(run.after(), "taken_out"), "~taken");
  EXPECT_EQ(Read(run.after(), "other"), "other_e");
  EXPECT_EQ(Report(run, "other_e").category, "without statistics");
  // The pair is in the branch, not in front of it.
  EXPECT_EQ(run.after().Find("taken_e_quantized")->type, "quantize");
}

TEST(Activations, DoneTwiceIsDoneOnce) {
  Net net;
  net.Conv("c", "h").Op("relu", "r", {{"x", "c"}}).Conv("d", "r");
  net.Op("add", "s", {{"x", "d"}, {"y", "r"}}).Conv("y", "s").Output("y");
  const PassRun once(net.package(), Activations(), Random());
  ASSERT_TRUE(once.ok()) << once.error();
  const PassRun twice(once.output(), Activations(), Random());
  ASSERT_TRUE(twice.ok()) << twice.error();
  EXPECT_EQ(twice.after().Ops(), once.after().Ops());
  EXPECT_TRUE(SamePackage(once.output(), twice.output()));
}

TEST(Activations, TheSameBytesForAnyNumberOfThreads) {
  Net net;
  net.Conv("c", "h").Op("relu", "r", {{"x", "c"}}).Conv("d", "r");
  net.Op("add", "s", {{"x", "d"}, {"y", "r"}}).Conv("y", "s").Output("y");
  RunOptions one = Random();
  one.threads = 1;
  RunOptions three = Random();
  three.threads = 3;
  const PassRun a(net.package(), Activations(), one);
  const PassRun b(net.package(), Activations(), three);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_TRUE(SamePackage(a.output(), b.output()));
}

// --- Statistics ---------------------------------------------------------------------------------

class WithStatistics : public ::testing::Test {
 protected:
  WithStatistics() {
    net_.Conv("c", "h").Op("softmax", "y", {{"x", "c"}}).Output("y");
    net_.package().Write(dir_ / "in.mlpackage");
  }
  Result<CalibrateReport> Calibrated(const fs::path& model, const std::string& name) {
    CalibrateOptions options;
    options.model = model;
    options.data.random_samples = 3;
    options.output = dir_ / name;
    return Calibrate(options, diagnostics_);
  }
  static RunOptions From(const fs::path& file) {
    RunOptions options;
    options.statistics = {file};
    return options;
  }

  TempDir dir_;
  TestDiagnostics diagnostics_;
  Net net_;
};

TEST_F(WithStatistics, AFileIsAsGoodAsItsData) {
  ASSERT_TRUE(Succeeds(Calibrated(dir_ / "in.mlpackage", "a.stats")));
  const PassRun file(dir_ / "in.mlpackage", Activations(), From(dir_ / "a.stats"));
  const PassRun data(dir_ / "in.mlpackage", Activations(), Random());
  ASSERT_TRUE(file.ok()) << file.error();
  ASSERT_TRUE(data.ok()) << data.error();
  EXPECT_TRUE(SamePackage(file.output(), data.output()));
}

TEST_F(WithStatistics, OfAnotherModelAreRefused) {
  Net other;
  other.Conv("c", "h").Op("exp", "y", {{"x", "c"}}).Output("y");
  other.package().Write(dir_ / "other.mlpackage");
  ASSERT_TRUE(Succeeds(Calibrated(dir_ / "other.mlpackage", "b.stats")));
  const PassRun run(dir_ / "in.mlpackage", Activations(), From(dir_ / "b.stats"));
  ASSERT_FALSE(run.ok());
  EXPECT_EQ(run.result().error().kind, ErrorKind::kUsage);
  EXPECT_NE(run.error().find("b.stats: is of another model (hash "), std::string::npos)
      << run.error();
  EXPECT_TRUE(run.wrote_nothing());
}

TEST_F(WithStatistics, AreNeededAndOnlyWhereTheyAre) {
  const PassRun none(dir_ / "in.mlpackage", Activations());
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error(),
            "activations: expected --data DATA to run the model over, or --stats FILE of `cmlc "
            "calibrate`, got neither");
  const PassRun weights(dir_ / "in.mlpackage", Palettize({{"nbits", "4"}}), Random());
  ASSERT_FALSE(weights.ok());
  EXPECT_EQ(weights.error(), "palettize: --data: no pass of this run goes by data");
}

// Item 63 (chains of pairs for every pattern, mode and type) is in tests/coremltools/
// activation_checks.py, next to coremltools' own passes. Item 64, of calibration:
//   - ranges of samples merge: CalibrateTest.SamplesOfDifferentRangesGiveTheUnion;
//   - values that are no floats have no statistics, and are no reason to fail;
//   - values around a concat share a range, also where a third concat bridges two;
//   - coremltools has no statistics of outputs, and fails where an op reads one: here they have,
//   and
//     OutputsStayAsTheyAre.
TEST(Item64, ValuesThatAreNoFloatsAreIgnored) {
  Net net;
  net.main().Op("greater", "g", {{"x", "h"}, {"y", "h"}},
                TensorType(DataType::kBool, {1, 2, 4, 4}));
  net.Op("select", "s", {{"cond", "g"}, {"a", "h"}, {"b", "h"}}).Conv("c", "s").Output("c");
  const PassRun run(net.package(), Activations(), Random());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(Read(run.after(), "c"), "~s");
  for (const ActivationReport& report : run.report().activations) EXPECT_NE(report.name, "g");
}

TEST(Item64, ConcatsThatABridgeJoinsShareOneRange) {
  Net net;
  net.main().Const("axis", Int32Value(1));
  net.main().Const("no", BoolValue(false));
  net.main().BlobConst("w4", kHalf, {2, 4, 1, 1}, RandomWeights(kHalf, 8, 1));
  const auto concat = [&](const std::string& name, const std::string& a, const std::string& b) {
    net.main().Op(
        "concat", name,
        {{"values", std::vector<Input::One>{a, b}}, {"axis", "axis"}, {"interleave", "no"}},
        TensorType(kHalf, {1, 4, 4, 4}));
    net.Op("conv", name + "_c", {{"x", name}, {"weight", "w4"}});
    net.Op("softmax", name + "_out", {{"x", name + "_c"}});
    net.Output(name + "_out");
  };
  net.Conv("a", "h").Conv("b", "a").Conv("c", "b").Conv("d", "c");
  concat("ab", "a", "b");
  concat("cd", "c", "d");
  concat("bc", "b", "c");  // last, so that two groups are there before
  for (const char* tied : {"all", "concat"}) {
    const PassRun run(net.package(), Activations({{"ranges", "minmax"}, {"tied", tied}}), Random());
    ASSERT_TRUE(run.ok()) << run.error();
    for (const char* name : {"b", "c", "d", "ab", "cd", "bc"})
      EXPECT_EQ(Report(run, name).scale, Report(run, "a").scale) << name;
  }
}

// The order of passes makes no difference to what is quantized, nor how.
TEST(ActivationRecipes, ComeFirstOrLast) {
  PackageBuilder package(9);
  package.DescribeInput("x", kFloat, {4, 64});
  package.DescribeOutput("y", kFloat);
  package.FunctionInput("main", "x", TensorType(kFloat, {4, 64}));
  BlockBuilder main = package.Function("main");
  main.BlobConst("w", kFloat, {64, 64}, RandomWeights(kFloat, 64 * 64, 1));
  main.BlobConst("v", kFloat, {64, 64}, RandomWeights(kFloat, 64 * 64, 2));
  main.Op("linear", "a", {{"x", "x"}, {"weight", "w"}}, TensorType(kFloat, {4, 64}));
  main.Op("relu", "r", {{"x", "a"}}, TensorType(kFloat, {4, 64}));
  main.Op("linear", "y", {{"x", "r"}, {"weight", "v"}}, TensorType(kFloat, {4, 64}));
  main.Output("y");
  const TempDir dir;
  package.Write(dir / "in.mlpackage");
  TestDiagnostics diagnostics;
  const PassSpec activations = Activations();
  const PassSpec weights = Palettize({{"nbits", "4"}, {"lut_dtype", "int8"}});
  const auto run = [&](const std::vector<PassSpec>& specs, const std::string& name) {
    RunOptions options = Random();
    options.input = dir / "in.mlpackage";
    options.output = dir / name;
    const auto reports = RunAll(specs, options, diagnostics);
    EXPECT_TRUE(Succeeds(reports));
  };
  run({activations, weights}, "first.mlpackage");
  run({weights, activations}, "last.mlpackage");
  EXPECT_TRUE(SamePackage(dir / "first.mlpackage", dir / "last.mlpackage"));
  const Opened opened(dir / "first.mlpackage");
  EXPECT_EQ(Read(opened, "y"), "~r");
  EXPECT_TRUE(IsConstexpr(*opened.Find("w")));
}

TEST(ActivationRecipes, FunctionsWithoutStatisticsStayAsTheyAre) {
  PackageBuilder package(9);
  for (const char* name : {"main", "other"}) {
    BlockBuilder block = package.Function(name);
    package.FunctionInput(name, "x", TensorType(kFloat, {4, 8}));
    block.BlobConst("w", kFloat, {8, 8}, RandomWeights(kFloat, 64, 1));
    block.Op("linear", "y", {{"x", "x"}, {"weight", "w"}}, TensorType(kFloat, {4, 8}));
    block.Output("y");
  }
  package.DescribeInput("x", kFloat, {4, 8});
  package.DescribeOutput("y", kFloat);
  RunOptions options = Random();
  options.calibration->execution.function = "main";
  const PassRun run(package, Activations(), options);
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(run.after().Find("y", "main")->inputs.at("x").bindings.size(), 1u);
  EXPECT_NE(run.after().Find("x_quantized", "main"), nullptr);
  EXPECT_EQ(run.after().Find("x_quantized", "other"), nullptr);
}

}  // namespace
}  // namespace cmlc::test
