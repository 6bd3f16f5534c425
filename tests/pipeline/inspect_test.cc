// Inspect: what is in a package, value by value.
#include "cmlc/inspect.h"

#include <cmath>

#include "support/pass_run.h"

namespace cmlc::test {
namespace {

constexpr DataType kHalf = DataType::kFloat16;

PackageInfo InspectAt(const fs::path& path) {
  auto package = Package::Open(path);
  EXPECT_TRUE(Succeeds(package));
  if (!package.ok()) return {};
  auto info = Inspect(**package, 2);
  EXPECT_TRUE(Succeeds(info));
  return info.ok() ? std::move(*info) : PackageInfo();
}

PackageInfo InspectOf(PackageBuilder package) {
  TempDir dir;
  return InspectAt(package.Write(dir / "in.mlpackage"));
}

TEST(Inspect, LooksAtEveryValue) {
  std::vector<float> values(4096);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7) - 2;
  values[5] = -0.0f;
  values[6] = INFINITY;
  values[7] = -INFINITY;
  values[8] = std::nanf("");
  for (const DataType dtype : {kHalf, DataType::kFloat32}) {
    const PackageInfo info = InspectOf(LinearOf(dtype, {16, 256}, values));
    ASSERT_EQ(info.weights.size(), 1u);
    const WeightInfo& weight = info.weights[0];
    EXPECT_EQ(weight.function, "main");
    EXPECT_EQ(weight.name, "weight");
    EXPECT_EQ(weight.consumers, std::vector<std::string>{"linear 'y' weight"});
    EXPECT_EQ(weight.dtype, NameOf(dtype));
    EXPECT_EQ(weight.form, NameOf(dtype));
    EXPECT_EQ(weight.shape, (Shape{16, 256}));
    EXPECT_EQ(weight.element_count, 4096u);
    EXPECT_EQ(weight.bytes, 4096u * static_cast<uint64_t>(BitsOf(dtype)) / 8);
    EXPECT_FALSE(weight.compressed);
    EXPECT_FALSE(weight.shared);
    EXPECT_EQ(weight.not_finite, 3u);
    EXPECT_EQ(weight.distinct, 10u);  // 7 and the three that are not finite; -0 is 0
    EXPECT_EQ(weight.zeros, static_cast<uint64_t>(std::count(values.begin(), values.end(), 0.0f)));
    EXPECT_EQ(weight.least, -2);
    EXPECT_EQ(weight.greatest, 4);
  }
}

TEST(Inspect, AgreesWithTheReportOfARun) {
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {"4", "0", "4-bit LUT"}, {"3", "0", "3-bit LUT"}, {"2", "4", "2-bit LUT, 4 tables"}};
  for (const auto& [nbits, group_size, form] : cases) {
    const PassRun run(OneLinear(kHalf, 16, 256),
                      Palettize({{"nbits", nbits}, {"group_size", group_size}}));
    ASSERT_TRUE(IsDone(run));
    const PackageInfo info = InspectAt(run.output());
    ASSERT_EQ(info.weights.size(), 1u);
    EXPECT_TRUE(info.weights[0].compressed);
    EXPECT_EQ(info.weights[0].form, form);
    EXPECT_EQ(info.weights[0].dtype, "fp16");
    EXPECT_LE(info.weights[0].distinct, 4u << std::stoi(nbits));
    EXPECT_LE(info.weights[0].bytes, run.weight().bytes_after);
    EXPECT_GE(info.weights[0].bytes + 8, run.weight().bytes_after);
    EXPECT_EQ(info.package_bytes, run.report().package_bytes_after);
    EXPECT_EQ(info.specification_version, run.report().version_after);
    EXPECT_EQ(info.systems, run.report().systems);
  }
}

TEST(Inspect, CountsOpsOfNestedBlocksToo) {
  PackageBuilder package = OneLinear(kHalf, 16, 256);
  BlockBuilder main = package.Function("main");
  main.Const("flag", BoolValue(true));
  wire::Operation& cond = main.Op("cond", "c", {{"pred", "flag"}}, TensorType(kHalf, {1, 16}));
  for (const char* branch : {"then", "else"}) {
    BlockBuilder block = main.Nested(cond);
    block.Op("relu", branch, {{"x", "y"}}, TensorType(kHalf, {1, 16}));
    block.Output(branch);
  }
  const PackageInfo info = InspectOf(package);
  ASSERT_EQ(info.programs.size(), 1u);
  EXPECT_EQ(
      info.programs[0].op_counts,
      (std::map<std::string, uint64_t>{{"const", 2}, {"linear", 1}, {"cond", 1}, {"relu", 2}}));
  EXPECT_EQ(info.programs[0].label, "");
  EXPECT_EQ(info.programs[0].kind, "mlProgram");
  EXPECT_EQ(info.programs[0].opsets, (std::map<std::string, std::string>{{"main", "CoreML6"}}));
  EXPECT_EQ(info.kind, "mlProgram");
  ASSERT_EQ(info.functions.size(), 1u);
  EXPECT_EQ(info.functions[0].inputs.size(), 1u);
}

TEST(Inspect, CountsSharedBytesOnce) {
  PackageBuilder package(9);
  std::optional<wire::Value> blob;
  for (const char* function : {"a", "b"}) {
    BlockBuilder block = package.Function(function);
    if (!blob) blob = block.Blob(kHalf, {16, 256}, RandomWeights(kHalf, 4096, 1));
    block.Const("w", *blob);
    AddLinear(block, "y", "w", kHalf, {16, 256});
  }
  const PackageInfo info = InspectOf(package);
  ASSERT_EQ(info.weights.size(), 2u);
  EXPECT_EQ(info.weights[0].function, "a");
  EXPECT_EQ(info.weights[1].function, "b");
  EXPECT_EQ(info.weights[0].bytes, 8192u);
  EXPECT_EQ(info.weights[1].bytes, 0u);
  EXPECT_FALSE(info.weights[0].shared);
  EXPECT_TRUE(info.weights[1].shared);
  EXPECT_EQ(info.weight_bytes, 8192u);
  EXPECT_EQ(info.weight_elements, 4096u);
  EXPECT_EQ(info.weights[1].distinct, info.weights[0].distinct);
}

TEST(Inspect, NumbersTheMembersOfAPipeline) {
  PackageBuilder package(9);
  for (const int32_t version : {7, 9}) {
    ModelBuilder& member = package.AddMember(version, "m");
    BlockBuilder main = member.Function("main");
    main.BlobConst("w", kHalf, {16, 256},
                   RandomWeights(kHalf, 4096, static_cast<uint64_t>(version)));
    AddLinear(main, "y", "w", kHalf, {16, 256});
  }
  const PackageInfo info = InspectOf(package);
  EXPECT_EQ(info.kind, "pipeline");
  EXPECT_EQ(info.specification_version, 9);
  ASSERT_EQ(info.programs.size(), 2u);
  EXPECT_EQ(info.programs[0].label, "0");
  EXPECT_EQ(info.programs[1].label, "1");
  EXPECT_EQ(info.programs[0].specification_version, 7);
  EXPECT_EQ(info.programs[1].specification_version, 9);
  ASSERT_EQ(info.weights.size(), 2u);
  EXPECT_EQ(info.weights[0].function, "0:main");
  EXPECT_EQ(info.weights[1].function, "1:main");
  EXPECT_EQ(info.weight_bytes, 16384u);
}

TEST(Inspect, NamesTheFormsOfChains) {
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  main.Op("constexpr_blockwise_shift_scale", "lut",
          {{"data", BytesValue(DataType::kInt8, {1, 1, 4, 1}, std::string("\1\2\3\4"))},
           {"scale", BytesValue(kHalf, {1, 1, 1, 1}, Fp16Bytes({0.5f}))}},
          TensorType(kHalf, {1, 1, 4, 1}));
  main.Op(
      "constexpr_lut_to_dense", "w",
      {{"indices", main.Blob(DataType::kUInt2, {4, 8}, std::string(8, '\xe4'))}, {"lut", "lut"}},
      TensorType(kHalf, {4, 8}));
  main.Op("constexpr_blockwise_shift_scale", "v",
          {{"data", main.Blob(DataType::kInt4, {4, 8}, std::string(16, '\x21'))},
           {"scale", BytesValue(kHalf, {4, 2}, Fp16Bytes(std::vector<float>(8, 0.5f)))}},
          TensorType(kHalf, {4, 8}));
  AddLinear(main, "y", "w", kHalf, {4, 8});
  AddLinear(main, "z", "v", kHalf, {4, 8});
  const PackageInfo info = InspectOf(package);
  ASSERT_EQ(info.weights.size(), 2u);
  EXPECT_EQ(info.weights[0].form, "2-bit LUT of int8 linear per tensor");
  EXPECT_EQ(info.weights[0].distinct, 4u);
  EXPECT_EQ(info.weights[0].least, 0.5);
  EXPECT_EQ(info.weights[0].greatest, 2);
  EXPECT_EQ(info.weights[1].form, "int4 linear, 8 scales");
  EXPECT_EQ(info.weights[1].distinct, 2u);
  EXPECT_TRUE(info.weights[0].compressed);
}

TEST(Inspect, ListsVectorsAndLargeIntegersButNoParameters) {
  PackageBuilder package = OneConv(kHalf, 16, 16, 3);
  BlockBuilder main = package.Function("main");
  main.BlobConst("bias", kHalf, {16}, RandomWeights(kHalf, 16, 2));
  main.BlobConst("table", DataType::kInt8, {4, 8}, std::string(32, '\x81'));
  main.Op("add", "z", {{"x", "bias"}, {"y", "table"}}, TensorType(kHalf, {16}));
  main.Output("bias");
  const PackageInfo info = InspectOf(package);
  std::vector<std::string> names;
  for (const WeightInfo& weight : info.weights) names.push_back(weight.name);
  EXPECT_EQ(names, (std::vector<std::string>{"weight", "bias", "table"}));
  EXPECT_EQ(info.weights[1].consumers, (std::vector<std::string>{"add 'z' x", "block output"}));
  EXPECT_EQ(info.weights[2].least, -127);
  EXPECT_EQ(info.weights[2].distinct, 1u);
}

}  // namespace
}  // namespace cmlc::test
