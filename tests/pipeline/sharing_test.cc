// Weights that share their bytes: compressed once, stored once.
#include "support/pass_run.h"

namespace cmlc::test {
namespace {

constexpr DataType kHalf = DataType::kFloat16;

std::string Random(uint64_t seed) { return RandomWeights(kHalf, 4096, seed); }

// The tensors of indices and of the LUT.
std::pair<TensorId, TensorId> Tensors(const PassRun& run, const std::string& name,
                                      const std::string& program = "main") {
  const Opened& after = run.after();
  return {after.Tensor(after.Operand(name, "indices", program)),
          after.Tensor(after.Operand(name, "lut", program))};
}

uint32_t BlobCount(const fs::path& package, const std::string& file = "weight.bin") {
  const std::string bytes = ReadFile(package / "Data/com.apple.CoreML/weights" / file);
  return static_cast<uint8_t>(bytes.at(0));
}

TEST(Sharing, AConstWithTwoReadersIsOneWeight) {
  PackageBuilder package = OneLinear(kHalf, 16, 256);
  BlockBuilder main = package.Function("main");
  AddLinear(main, "z", "weight", kHalf, {16, 256});
  main.Output("z");
  const PassRun run(package, Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.report().weights.size(), 1u);
  EXPECT_EQ(run.weight().consumers,
            (std::vector<std::string>{"linear 'y' weight", "linear 'z' weight"}));
  EXPECT_EQ(BlobCount(run.output()), 2u);
}

TEST(Sharing, TwoConstsWithOneBlobAreCompressedOnce) {
  PackageBuilder package(7);
  BlockBuilder main = package.Function("main");
  const wire::Value blob = main.Blob(kHalf, {16, 256}, Random(1));
  for (const char* name : {"a", "b"}) {
    main.Const(name, blob);
    AddLinear(main, std::string("y_") + name, name, kHalf, {16, 256});
    main.Output(std::string("y_") + name);
  }
  const PassRun run(package, Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(IsDone(run, "a"));
  ASSERT_TRUE(IsDone(run, "b"));
  EXPECT_EQ(Tensors(run, "a"), Tensors(run, "b"));
  EXPECT_EQ(BlobCount(run.output()), 2u);
  EXPECT_FALSE(run.weight("a").shared);
  EXPECT_TRUE(run.weight("b").shared);
  EXPECT_EQ(run.weight("a").bytes_before, 8192u);
  EXPECT_EQ(run.weight("b").bytes_before, 0u);
  EXPECT_GE(run.weight("a").bytes_after, 2048u + 32u);
  EXPECT_LE(run.weight("b").bytes_after, 8u);
  EXPECT_EQ(run.diagnostics().steps.back().weights_total, 1);
}

TEST(Sharing, OneBlobSeenWithTwoShapesIsStoredOnce) {
  PackageBuilder package(7);
  BlockBuilder main = package.Function("main");
  const wire::Value blob = main.Blob(kHalf, {16, 256}, Random(1));
  wire::Value other = blob;
  *other.mutable_type() = TensorType(kHalf, {64, 64});
  main.Const("a", blob);
  main.Const("b", other);
  AddLinear(main, "y_a", "a", kHalf, {16, 256});
  AddLinear(main, "y_b", "b", kHalf, {64, 64});
  const PassRun run(package, Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(IsDone(run, "a"));
  ASSERT_TRUE(IsDone(run, "b"));
  EXPECT_EQ(run.after().Values("a"), run.after().Values("b"));
  EXPECT_EQ(BlobCount(run.output()), 2u);
}

PackageBuilder TwoFunctions(int32_t version) {
  PackageBuilder package(version);
  std::optional<wire::Value> blob;
  for (const char* function : {"encode", "decode"}) {
    package.FunctionInput(function, "x", TensorType(kHalf, {1, 256}));
    BlockBuilder block = package.Function(function);
    if (!blob) blob = block.Blob(kHalf, {16, 256}, Random(1));
    block.Const("w", *blob);
    AddLinear(block, "y", "w", kHalf, {16, 256});
    block.Output("y");
  }
  return package;
}

TEST(Sharing, FunctionsOfOneModelShareWhatTheySharedBefore) {
  for (const char* group_size : {"0", "4"}) {
    const PassRun run(TwoFunctions(9), Palettize({{"nbits", "4"}, {"group_size", group_size}}));
    ASSERT_TRUE(IsDone(run, "w", "encode"));
    ASSERT_TRUE(IsDone(run, "w", "decode"));
    EXPECT_EQ(Tensors(run, "w", "encode"), Tensors(run, "w", "decode"));
    EXPECT_EQ(BlobCount(run.output()), 2u);
    // Functions go by name: "decode" is first.
    EXPECT_FALSE(run.weight("w", "decode").shared);
    EXPECT_TRUE(run.weight("w", "encode").shared);
    EXPECT_EQ(run.weight("w", "encode").bytes_after, 0u);
  }
}

TEST(Sharing, FunctionsThatDisagreeEachGetTheirOwn) {
  const PassRun run(TwoFunctions(9), Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(run.ok());
  PackageBuilder package = TwoFunctions(9);
  BlockBuilder decode = package.Function("decode");
  decode.block().mutable_operations(0)->mutable_outputs(0)->set_name("v");
  (*(*decode.block().mutable_operations(1)->mutable_inputs())["weight"].mutable_arguments(0))
      .set_name("v");
  const PassRun apart(package, Palettize({{"nbits", "4"}}, {ByName("v", {{"nbits", "6"}})}));
  ASSERT_TRUE(IsDone(apart, "v", "decode"));
  ASSERT_TRUE(IsDone(apart, "w", "encode"));
  EXPECT_EQ(apart.weight("v", "decode").form, "6-bit LUT");
  EXPECT_EQ(apart.weight("w", "encode").form, "4-bit LUT");
  EXPECT_EQ(BlobCount(apart.output()), 4u);
  EXPECT_TRUE(QualityAgrees(apart, "v", "decode"));
  EXPECT_TRUE(QualityAgrees(apart, "w", "encode"));
}

TEST(Sharing, EqualBlobsBecomeOne) {
  const PassRun run(Linears(kHalf, {16, 256}, {Random(1), Random(1), Random(2)}),
                    Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(IsDone(run, "w0"));
  EXPECT_EQ(BlobCount(run.input()), 3u);
  EXPECT_EQ(Tensors(run, "w0"), Tensors(run, "w1"));
  EXPECT_NE(Tensors(run, "w0"), Tensors(run, "w2"));
  EXPECT_EQ(BlobCount(run.output()), 4u);
}

TEST(Sharing, AWeightAndItsDoubleShareTheirIndices) {
  std::vector<float> values = Gaussian(4096, 1), twice = values;
  for (float& value : twice) value *= 2;
  const PassRun run(Linears(kHalf, {16, 256}, {Fp16Bytes(values), Fp16Bytes(twice)}),
                    Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(IsDone(run, "w0"));
  EXPECT_EQ(Tensors(run, "w0").first, Tensors(run, "w1").first);
  EXPECT_NE(Tensors(run, "w0").second, Tensors(run, "w1").second);
  EXPECT_EQ(BlobCount(run.output()), 3u);
}

PackageBuilder Pipeline(int32_t first_version, int32_t second_version) {
  PackageBuilder package(std::max(first_version, second_version));
  for (const int32_t version : {first_version, second_version}) {
    const bool first = package.Finished().pipeline().models_size() == 0;
    ModelBuilder& member = package.AddMember(version, first ? "first" : "second");
    member.FunctionInput("main", "x", TensorType(kHalf, {1, 256}));
    BlockBuilder main = member.Function("main");
    main.BlobConst("w", kHalf, {16, 256}, Random(first ? 1 : 2));
    AddLinear(main, "y", "w", kHalf, {16, 256});
    main.Output("y");
  }
  return package;
}

TEST(Sharing, WeightsStayInTheFilesOfTheirMembers) {
  const PassRun run(Pipeline(9, 9), Palettize({{"nbits", "4"}}));
  for (const std::string program : {"0:main", "1:main"}) {
    ASSERT_TRUE(IsDone(run, "w", program));
    const TensorStore& store = run.after().package().tensors();
    const auto& indices =
        store.info(run.after().Tensor(run.after().Operand("w", "indices", program)));
    EXPECT_NE(store.FileName(indices.file).find(program.substr(0, 1) + "-weight.bin"),
              std::string::npos);
    EXPECT_TRUE(QualityAgrees(run, "w", program));
    EXPECT_EQ(BlobCount(run.output(), program.substr(0, 1) + "-weight.bin"), 2u);
  }
}

TEST(Sharing, ReportsOfMembersAreNumbered) {
  const PassRun run(Pipeline(7, 7), Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(run.ok()) << run.error();
  ASSERT_EQ(run.report().weights.size(), 2u);
  EXPECT_EQ(run.report().weights[0].function, "0:main");
  EXPECT_EQ(run.report().weights[1].function, "1:main");
}

// Only what needs a newer system is raised, and the outer model with it.
TEST(Sharing, RaisesOnlyTheMembersThatNeedIt) {
  PackageBuilder package = Pipeline(7, 7);
  const PassRun none(package, Palettize({{"nbits", "4"}}));
  ASSERT_TRUE(none.ok()) << none.error();
  EXPECT_EQ(none.after().model().specification_version, 7);

  PackageBuilder mixed(7);
  for (const char* name : {"small", "large"}) {
    ModelBuilder& member = mixed.AddMember(7, name);
    member.FunctionInput("main", "x", TensorType(kHalf, {1, 256}));
    BlockBuilder main = member.Function("main");
    const int64_t rows = name[0] == 's' ? 4 : 16;
    main.BlobConst(name, kHalf, {rows, 256},
                   RandomWeights(kHalf, static_cast<uint64_t>(rows) * 256, 1));
    AddLinear(main, "y", name, kHalf, {rows, 256});
    main.Output("y");
  }
  const PassRun run(mixed, Palettize({{"nbits", "3"}}));
  ASSERT_TRUE(IsDone(run, "large", "1:main"));
  const Model& model = run.after().model();
  EXPECT_EQ(model.specification_version, 9);
  EXPECT_EQ(model.members[0].specification_version, 7);
  EXPECT_EQ(model.members[1].specification_version, 9);
  EXPECT_EQ(run.report().version_after, 9);
}

TEST(Sharing, UnreferencedBlobsAreDropped) {
  PackageBuilder package = OneLinear(kHalf, 16, 256);
  package.Function("main").Blob(kHalf, {64, 64}, Random(9));
  EXPECT_EQ(BlobCount(PassRun(package, Palettize({{"nbits", "4"}})).output()), 2u);
}

}  // namespace
}  // namespace cmlc::test
