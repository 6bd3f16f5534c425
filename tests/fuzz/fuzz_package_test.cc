// A fuzzer that runs with the tests: tiny packages, damaged in ways that a seed decides. The same
// seed does the same damage everywhere, so a failure names all that is needed to see it again.
// CMLC_FUZZ_ITERATIONS sets how many times. fuzz_package.cc has the entry points for libFuzzer,
// which also follows coverage.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "support/damage.h"
#include "support/exercise.h"
#include "support/model_compare.h"
#include "support/package_builder.h"
#include "support/sample_models.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

// Weights in the compressed forms of both encodings, chained and not.
PackageBuilder Compressed() {
  PackageBuilder package(9);
  const wire::ValueType fp16 = TensorType(DataType::kFloat16, {16, 24});
  package.FunctionInput("main", "x", TensorType(DataType::kFloat16, {1, 24}));
  BlockBuilder main = package.Function("main");
  const auto use = [&](const std::string& weight) {
    main.Op("linear", weight + "_y", {{"x", "x"}, {"weight", weight}},
            TensorType(DataType::kFloat16, {1, 16}));
  };
  main.Op("constexpr_affine_dequantize", "affine", {}, fp16,
          {{"quantized_data", main.Blob(DataType::kInt8, {16, 24}, std::string(384, '\5'))},
           {"scale", main.Blob(DataType::kFloat16, {16}, RandomWeights(DataType::kFloat16, 16, 1))},
           {"zero_point", main.Blob(DataType::kInt8, {16}, std::string(16, '\2'))},
           {"axis", Int32Value(0)}});
  use("affine");
  main.Op("constexpr_lut_to_dense", "lut",
          {{"indices", main.Blob(DataType::kUInt3, {16, 24}, std::string(144, '\x5A'))},
           {"lut",
            main.Blob(DataType::kFloat16, {4, 1, 8, 1}, RandomWeights(DataType::kFloat16, 32, 2))}},
          fp16);
  use("lut");
  main.Op("constexpr_lut_to_dense", "vectors",
          {{"indices", main.Blob(DataType::kUInt2, {8, 24}, std::string(48, '\x1B'))},
           {"lut",
            main.Blob(DataType::kFloat16, {1, 1, 4, 2}, RandomWeights(DataType::kFloat16, 8, 3))},
           {"vector_axis", Int32Value(0)}},
          fp16);
  use("vectors");
  const wire::Value mask = main.Blob(DataType::kUInt1, {16, 24}, std::string(48, '\x0F'));
  main.Op(
      "constexpr_sparse_blockwise_shift_scale",
      {{"data_mask", mask},
       {"nonzero_data", main.Blob(DataType::kInt8, {192}, std::string(192, '\3'))},
       {"scale", main.Blob(DataType::kFloat16, {16, 2}, RandomWeights(DataType::kFloat16, 32, 4))}},
      Outputs{{"q_0", TensorType(DataType::kUInt1, {16, 24})},
              {"q_1", TensorType(DataType::kFloat16, {192})}});
  main.Op("constexpr_sparse_to_dense", "sparse", {{"mask", "q_0"}, {"nonzero_data", "q_1"}}, fp16);
  use("sparse");
  main.Op("constexpr_lut_to_sparse",
          {{"indices_mask", mask},
           {"indices_nonzero_data", main.Blob(DataType::kUInt1, {192}, std::string(24, '\x33'))},
           {"lut", BytesValue(DataType::kFloat16, {1, 1, 2, 1}, FromHex("003c 0040"))}},
          Outputs{{"s_0", TensorType(DataType::kUInt1, {16, 24})},
                  {"s_1", TensorType(DataType::kFloat16, {192})}});
  main.Op("constexpr_sparse_to_dense", "sparse_lut", {{"mask", "s_0"}, {"nonzero_data", "s_1"}},
          fp16);
  use("sparse_lut");
  main.Output("affine_y");
  return package;
}

// The iOS 16 forms of a LUT and a mask, as operands that are attributes.
PackageBuilder CompressedOld() {
  PackageBuilder package(7);
  const wire::ValueType fp16 = TensorType(DataType::kFloat16, {16, 24});
  package.FunctionInput("main", "x", TensorType(DataType::kFloat16, {1, 24}));
  BlockBuilder main = package.Function("main");
  const wire::Value shape = BytesValue(DataType::kUInt32, {2}, BytesOf<uint32_t>({16, 24}));
  main.Op("constexpr_lut_to_dense", "lut", {}, fp16,
          {{"indices", main.Blob(DataType::kUInt8, {192}, std::string(192, '\x5A'))},
           {"lut", main.Blob(DataType::kFloat16, {16}, RandomWeights(DataType::kFloat16, 16, 1))},
           {"shape", shape}});
  main.Op("constexpr_sparse_to_dense", "sparse", {}, fp16,
          {{"nonzero_data",
            main.Blob(DataType::kFloat16, {192}, RandomWeights(DataType::kFloat16, 192, 2))},
           {"mask", main.Blob(DataType::kUInt8, {48}, std::string(48, '\x0F'))},
           {"shape", shape}});
  for (const char* weight : {"lut", "sparse"})
    main.Op("linear", std::string(weight) + "_y", {{"x", "x"}, {"weight", weight}},
            TensorType(DataType::kFloat16, {1, 16}));
  main.Output("lut_y");
  return package;
}

class FuzzPackage : public ::testing::Test {
 protected:
  FuzzPackage() {
    // protobuf prints to stderr what is not UTF-8.
    ::testing::internal::CaptureStderr();
  }
  ~FuzzPackage() override { ::testing::internal::GetCapturedStderr(); }

  void Run(PackageBuilder package, uint64_t first_seed, int iterations = 400) {
    const fs::path path = package.Write(dir_ / "in.mlpackage");
    const Exercise whole = ExercisePackage(path, dir_ / "out.mlpackage", 2);
    ASSERT_EQ(whole.broken, "");
    ASSERT_TRUE(whole.opened && whole.inspected && whole.written);

    std::vector<fs::path> files = {path / "Manifest.json", ModelFile(path), ModelFile(path)};
    for (const auto& entry : fs::recursive_directory_iterator(path))
      if (entry.path().extension() == ".bin") files.push_back(entry.path());
    std::sort(files.begin(), files.end());  // a folder's order is its own
    std::vector<std::string> contents;
    for (const fs::path& file : files) contents.push_back(ReadFile(file));

    int opened = 0;
    const char* wanted = std::getenv("CMLC_FUZZ_ITERATIONS");
    if (wanted != nullptr) iterations = std::atoi(wanted);
    for (int i = 0; i < iterations; ++i) {
      const uint64_t seed = first_seed + static_cast<uint64_t>(i);
      Random random(seed);
      const size_t which = random() % files.size();
      std::string bytes = contents[which];
      const uint64_t times = 1 + random() % 3;
      for (uint64_t j = 0; j < times; ++j)
        Damage(bytes, contents[random() % contents.size()], random);
      WriteFile(files[which], bytes);
      const auto start = std::chrono::steady_clock::now();
      const Exercise result =
          ExercisePackage(path, dir_ / "out.mlpackage", 1 + static_cast<int>(seed % 2));
      const std::string where = fmt::format("seed {}, {}", seed, files[which].filename().string());
      ASSERT_EQ(result.broken, "") << where;
      ASSERT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20)) << where;
      ASSERT_TRUE(ReadFile(files[which]) == bytes) << where << ": the input was changed";
      WriteFile(files[which], contents[which]);
      opened += result.opened ? 1 : 0;
    }
    // Damage that nothing survives would test the first check only.
    EXPECT_GT(opened, iterations / 20);
    // Nothing may be left of all that.
    std::vector<std::string> left;
    for (const auto& entry : fs::directory_iterator(dir_.path()))
      left.push_back(entry.path().filename().string());
    EXPECT_EQ(left, std::vector<std::string>{"in.mlpackage"});
  }

  TempDir dir_{FolderInMemory()};
};

TEST_F(FuzzPackage, Linear) { Run(OneLinear(DataType::kFloat16, 16, 24), 1'000'000); }
TEST_F(FuzzPackage, Conv) { Run(OneConv(DataType::kFloat32, 8, 4, 3), 2'000'000); }
TEST_F(FuzzPackage, CompressedWeights) { Run(Compressed(), 3'000'000); }
TEST_F(FuzzPackage, OldCompressedWeights) { Run(CompressedOld(), 4'000'000); }
TEST_F(FuzzPackage, OneOfEverything) { Run(test::OneOfEverything(), 5'000'000); }
TEST_F(FuzzPackage, Pipeline) { Run(SmallPipeline(), 6'000'000, 200); }
TEST_F(FuzzPackage, Functions) { Run(TwoFunctions(), 7'000'000, 200); }
TEST_F(FuzzPackage, NestedBlocks) { Run(test::NestedBlocks(), 8'000'000, 200); }

}  // namespace
}  // namespace cmlc::test
