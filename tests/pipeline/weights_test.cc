// Which constants are weights, and why the others are left.
#include <cmath>
#include <limits>

#include "support/pass_run.h"

namespace cmlc::test {
namespace {

constexpr DataType kHalf = DataType::kFloat16;

// A package with a plain weight of 4096 elements, to which tests add something odd.
class Weights : public ::testing::Test {
 protected:
  Weights() : package_(OneLinear(kHalf, 16, 256)), main_(package_.Function("main")) {}

  // Runs with 4 bits, and checks that the plain weight is done whatever else there is.
  PassRun Run(OptionValues options = {}) {
    options.emplace_back("nbits", "4");
    return PassRun(package_, Palettize(options));
  }
  void Read(const std::string& weight, const std::string& op = "add") {
    main_.Op(op, "read_" + weight, {{"x", "x"}, {"y", weight}}, TensorType(kHalf, {16, 256}));
    main_.Output("read_" + weight);
  }

  PackageBuilder package_;
  BlockBuilder main_;
};

TEST_F(Weights, OfOneDimensionAreLeft) {
  main_.BlobConst("bias", kHalf, {4096}, RandomWeights(kHalf, 4096, 2));
  Read("bias");
  const PassRun run = Run();
  EXPECT_TRUE(Left(run, "bias", "has shape [4096]"));
  EXPECT_EQ(run.weight("bias").category, "of fewer than two dimensions");
  EXPECT_TRUE(IsDone(run));
}

TEST_F(Weights, AreLeftUpToTheThreshold) {
  main_.BlobConst("small", kHalf, {2, 1024}, RandomWeights(kHalf, 2048, 2));
  main_.BlobConst("large", kHalf, {3, 683}, RandomWeights(kHalf, 2049, 2));
  Read("small");
  Read("large");
  const PassRun run = Run();
  EXPECT_TRUE(Left(run, "small", "2048 elements, weight_threshold is 2048"));
  EXPECT_TRUE(IsDone(run, "large"));
  const PassRun lower = Run({{"weight_threshold", "2047"}});
  EXPECT_TRUE(IsDone(lower, "small"));
  const PassRun higher = Run({{"weight_threshold", "4096"}});
  EXPECT_TRUE(Left(higher, "weight", "4096 elements, weight_threshold is 4096"));
}

TEST_F(Weights, OfIntegersAreLeftAndOnlyListedWhenLarge) {
  main_.BlobConst("table", DataType::kInt8, {64, 64}, std::string(4096, '\7'));
  main_.BlobConst("axes", DataType::kInt8, {4, 4}, std::string(16, '\1'));
  Read("table");
  Read("axes");
  const PassRun run = Run();
  EXPECT_TRUE(Left(run, "table", "is int8, expected fp16 or fp32"));
  EXPECT_FALSE(run.lists("axes"));
}

TEST_F(Weights, OfOtherFloatsAreLeft) {
  package_.message().set_specificationversion(9);
  main_.Const("double", DoublesValue({64, 64}, std::vector<double>(4096, 0.5)));
  main_.Const("brain", BytesValue(DataType::kBFloat16, {64, 64}, std::string(8192, '\0')));
  main_.Const("eighth", BytesValue(DataType::kFloat8E4M3FN, {64, 64}, std::string(4096, '\0')));
  for (const char* name : {"double", "brain", "eighth"}) Read(name);
  const PassRun run(package_, NullPass());
  EXPECT_TRUE(Left(run, "double", "is fp64, expected fp16 or fp32"));
  EXPECT_TRUE(Left(run, "brain", "is bf16, expected fp16 or fp32"));
  EXPECT_TRUE(Left(run, "eighth", "expected fp16 or fp32"));
}

TEST_F(Weights, ThatAreNotFiniteAreLeftByNameOfTheElement) {
  for (const DataType dtype : {kHalf, DataType::kFloat32}) {
    std::vector<std::string> weights;
    const std::pair<float, size_t> cases[] = {
        {INFINITY, 0}, {-INFINITY, 777}, {std::nanf(""), 4095}, {std::nanf(""), 0}};
    for (const auto& [bad, at] : cases) {
      std::vector<float> values = Gaussian(4096, weights.size());
      values[at] = bad;
      weights.push_back(FloatBytes(dtype, values));
    }
    const PassRun run(Linears(dtype, {16, 256}, weights), Palettize({{"nbits", "4"}}));
    for (size_t i = 0; i < weights.size(); ++i) {
      const std::string name = "w" + std::to_string(i);
      EXPECT_TRUE(
          Left(run, name,
               "element " + std::to_string(cases[i].second) + " is infinite or not a number"));
      EXPECT_EQ(run.weight(name).category, "not finite");
    }
    EXPECT_TRUE(SamePackage(run.output(), run.input(), /*manifest=*/false));
  }
}

TEST_F(Weights, ThatOnlyABlockOutputReadsAreLeft) {
  main_.BlobConst("out", kHalf, {16, 256}, RandomWeights(kHalf, 4096, 2));
  main_.Output("out");
  const PassRun run = Run();
  EXPECT_TRUE(Left(run, "out", "a compressed weight may not be an output of a block"));
}

TEST_F(Weights, ThatABlockOutputReadsTooAreDone) {
  main_.BlobConst("out", kHalf, {16, 256}, RandomWeights(kHalf, 4096, 2));
  main_.Output("out");
  Read("out");
  EXPECT_TRUE(IsDone(Run(), "out"));
}

TEST_F(Weights, ThatNothingReadsAreLeft) {
  main_.BlobConst("idle", kHalf, {16, 256}, RandomWeights(kHalf, 4096, 2));
  EXPECT_TRUE(Left(Run(), "idle", "no op reads it"));
}

TEST_F(Weights, ThatAConstexprReadsTooAreLeft) {
  main_.BlobConst("lut", kHalf, {1, 1, 256, 16}, RandomWeights(kHalf, 4096, 2));
  main_.Op("constexpr_lut_to_dense", "vectors",
           {{"indices", BytesValue(DataType::kUInt8, {2, 2}, std::string(4, '\3'))},
            {"lut", "lut"},
            {"vector_axis", Int32Value(0)}},
           TensorType(kHalf, {32, 2}));
  Read("vectors");
  Read("lut");
  EXPECT_TRUE(Left(Run(), "lut", "a constexpr reads it too"));
}

TEST_F(Weights, ThatAreCompressedAreKeptAsTheyAre) {
  const PassRun first(package_, Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(IsDone(first));
  const PassRun second(first.output(), Palettize({{"nbits", "2"}}));
  ASSERT_TRUE(second.ok()) << second.error();
  EXPECT_EQ(second.weight().fate, WeightReport::Fate::kAlreadyCompressed);
  EXPECT_EQ(second.weight().reason, "4-bit LUT");
  EXPECT_EQ(second.weight().bytes_after, second.weight().bytes_before);
  EXPECT_TRUE(SamePackage(second.output(), first.output()));
}

TEST_F(Weights, MayLieInTheModelMessage) {
  const std::vector<float> values = Gaussian(4096, 5);
  main_.Const("halves", BytesValue(kHalf, {16, 256}, Fp16Bytes(values)));
  main_.Const("floats", FloatsValue({16, 256}, values));
  Read("halves");
  Read("floats");
  const PassRun run = Run();
  for (const char* name : {"halves", "floats"}) {
    ASSERT_TRUE(IsDone(run, name));
    EXPECT_TRUE(QualityAgrees(run, name));
    EXPECT_TRUE(run.after().Print(name).starts_with(
        "constexpr_lut_to_dense[indices: uint8 [2048] file, lut: "))
        << run.after().Print(name);
  }
}

TEST_F(Weights, OfNoOrOneElementAreNotListed) {
  main_.Const("scalar", FloatsValue({}, {1.5f}));
  main_.Const("one", FloatsValue({1, 1}, {1.5f}));
  main_.Const("none", FloatsValue({0, 16}, {}));
  for (const char* name : {"scalar", "one", "none"}) Read(name);
  const PassRun run = Run({{"weight_threshold", "0"}});
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.report().weights.size(), 1u);
  for (const char* name : {"scalar", "one", "none"})
    EXPECT_EQ(run.after().Print(name), run.before().Print(name));
}

TEST_F(Weights, InNestedBlocksAreDone) {
  main_.BlobConst("outer", kHalf, {16, 256}, RandomWeights(kHalf, 4096, 2));
  main_.Const("flag", BoolValue(true));
  const auto type = TensorType(kHalf, {1, 16});
  wire::Operation& cond = main_.Op("cond", "c", {{"pred", "flag"}}, type);
  for (const char* branch : {"then", "else"}) {
    BlockBuilder block = main_.Nested(cond);
    const std::string name = branch;
    block.BlobConst(name + "_w", kHalf, {16, 256}, RandomWeights(kHalf, 4096, 3));
    AddLinear(block, name + "_y", name + "_w", kHalf, {16, 256});
    AddLinear(block, name + "_z", "outer", kHalf, {16, 256});
    block.Output(name + "_y");
  }
  main_.Output("c");
  const PassRun run = Run();
  for (const char* name : {"weight", "outer", "then_w", "else_w"}) {
    ASSERT_TRUE(IsDone(run, name)) << name;
    EXPECT_TRUE(QualityAgrees(run, name));
  }
  EXPECT_EQ(run.weight("outer").consumers,
            (std::vector<std::string>{"linear 'then_z' weight", "linear 'else_z' weight"}));
}

TEST_F(Weights, InLoopsAreDone) {
  wire::Operation& loop =
      main_.Op("while_loop", "l", {{"loop_vars", "x"}}, TensorType(kHalf, {1, 256}));
  BlockBuilder condition = main_.Nested(loop);
  condition.BlockInput("i", TensorType(kHalf, {1, 256}));
  condition.Const("go", BoolValue(false));
  condition.Output("go");
  BlockBuilder body = main_.Nested(loop);
  body.BlockInput("j", TensorType(kHalf, {1, 256}));
  body.BlobConst("w", kHalf, {256, 256}, RandomWeights(kHalf, 65536, 3));
  body.Op("linear", "next", {{"x", "j"}, {"weight", "w"}}, TensorType(kHalf, {1, 256}));
  body.Output("next");
  main_.Output("l");
  const PassRun run = Run();
  ASSERT_TRUE(IsDone(run, "w"));
  EXPECT_EQ(run.after().Ops().size(), run.before().Ops().size());
}

}  // namespace
}  // namespace cmlc::test
