// A fuzzer that runs with the tests, of .mlmodel files with NeuralNetworks: damaged in ways that a
// seed decides, a file is refused with a proper message, or what is made of it can be read again.
// CMLC_FUZZ_ITERATIONS sets how many times.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "support/damage.h"
#include "support/exercise.h"
#include "support/network_builder.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

using format::WireMessage;

std::string Floats(size_t count, uint32_t seed) { return FloatWeights(RandomFloats(count, seed)); }

// Weights in every form.
NetworkBuilder EveryForm() {
  const std::string codes(24, '\x5a');
  const std::vector<float> scale = {0.5f}, scales = {1, 2, 3, 4}, biases = {4, 3, 2, 1};
  WireMessage int8;
  int8.AddVarint(1, 6);
  int8.AddVarint(2, 4);
  int8.AddBytes(20, Int8Weights(codes, 0.1f));
  int8.AddVarint(22, 1);
  NetworkBuilder network;
  network.InnerProduct("fp32", 4, 6, Floats(24, 1), Floats(4, 2))
      .InnerProduct("pieces", 4, 6, UnpackedWeights(RandomFloats(24, 3)))
      .InnerProduct("fp16", 4, 6, HalfWeights(RandomFloats(24, 4)), HalfWeights(RandomFloats(4, 5)))
      .InnerProduct("lut", 4, 6, TableWeights(3, codes.substr(0, 9), RandomFloats(8, 6)))
      .InnerProduct("linear", 4, 6, LinearWeights(5, codes.substr(0, 15), scales, biases),
                    LinearWeights(8, "abcd", scale, {}))
      .Layer(140, "int8", int8);
  return network;
}

// Layers of every kind that has sizes of its own, nested and with unknown fields.
NetworkBuilder EveryLayer() {
  const auto sized = [](std::vector<std::pair<uint32_t, uint64_t>> numbers,
                        const std::vector<std::pair<uint32_t, size_t>>& weights) {
    WireMessage out;
    for (const auto& [field, number] : numbers) out.AddVarint(field, number);
    for (const auto& [field, count] : weights) out.AddBytes(field, Floats(count, field));
    return out;
  };
  WireMessage lstm = sized({{1, 3}, {2, 2}}, {});
  for (int d = 0; d < 2; ++d)
    lstm.AddMessage(20, sized({}, {{1, 6}, {2, 6}, {20, 4}, {43, 2}, {62, 2}}));
  WireMessage activation, branch, loop;
  activation.AddMessage(25, sized({}, {{1, 5}}));
  branch.AddBytes(1, NetworkBuilder().InnerProduct("yes", 4, 4, Floats(16, 1)).message());
  branch.AddBytes(2, NetworkBuilder().InnerProduct("no", 4, 4, Floats(16, 2)).message());
  loop.AddBytes(3, NetworkBuilder().Layer(680, "sign", {}).message());
  loop.AddBytes(4, NetworkBuilder().Layer(605, "choice", branch).message());
  NetworkBuilder network;
  network
      .Convolution("conv", {.outputs = 4, .inputs = 3, .height = 2, .width = 2, .groups = 2},
                   Floats(48, 1), Floats(4, 2))
      .Convolution(
          "up",
          {.outputs = 4, .inputs = 4, .height = 2, .width = 2, .groups = 2, .deconvolution = true},
          LinearWeights(8, std::string(32, 'x'), {{1.0f, 2.0f}}, {}))
      .Layer(160, "batchnorm", sized({{1, 4}}, {{15, 4}, {16, 4}, {17, 4}, {18, 4}}))
      .Layer(245, "scale", sized({{1, 4}, {1, 2}, {1, 2}, {4, 4}}, {{2, 16}, {5, 4}}))
      .Layer(1070, "constant", sized({{1, 4}, {1, 3}}, {{2, 12}}))
      .Layer(430, "lstm", lstm)
      .Layer(130, "relu", activation)
      .Layer(500, "custom", sized({}, {{20, 5}, {20, 6}}))
      .Layer(1045, "matmul", sized({{5, 4}, {6, 3}}, {{8, 12}, {9, 3}}))
      .Layer(1471, "conv3d",
             sized({{1, 2}, {2, 2}, {10, 1}, {20, 2}, {21, 1}, {22, 2}}, {{60, 16}, {61, 2}}))
      .Layer(615, "loop", loop)
      .Layer(9999, "unknown", sized({{7, 7}}, {{8, 2}}));
  return network;
}

class FuzzNetwork : public ::testing::Test {
 protected:
  FuzzNetwork() {
    // protobuf prints to stderr what is not UTF-8.
    ::testing::internal::CaptureStderr();
  }
  ~FuzzNetwork() override { ::testing::internal::GetCapturedStderr(); }

  void Run(const std::string& model, uint64_t first_seed, int iterations = 600) {
    const fs::path path = dir_ / "in.mlmodel", output = dir_ / "out.mlmodel";
    const std::vector<PassSpec> passes = {
        {"palettize", {{"nbits", "1"}, {"weight_threshold", "0"}}, {}},
        {"quantize", {{"nbits", "3"}, {"mode", "linear"}, {"weight_threshold", "0"}}, {}},
        {"quantize", {{"dtype", "fp16"}}, {}},
        {"decompress", {}, {}}};
    WriteFile(path, model);
    for (const PassSpec& spec : passes) {
      const Exercise whole = ExercisePackage(path, output, 2, spec);
      ASSERT_EQ(whole.broken, "");
      ASSERT_TRUE(whole.opened && whole.inspected && whole.written);
    }
    int opened = 0;
    const char* wanted = std::getenv("CMLC_FUZZ_ITERATIONS");
    if (wanted != nullptr) iterations = std::atoi(wanted);
    for (int i = 0; i < iterations; ++i) {
      const uint64_t seed = first_seed + static_cast<uint64_t>(i);
      Random random(seed);
      std::string bytes = model;
      const uint64_t times = 1 + random() % 3;
      for (uint64_t j = 0; j < times; ++j) Damage(bytes, model, random);
      WriteFile(path, bytes);
      const auto start = std::chrono::steady_clock::now();
      const Exercise result = ExercisePackage(path, output, 1 + static_cast<int>(seed % 2),
                                              passes[seed / 2 % passes.size()]);
      ASSERT_EQ(result.broken, "") << "seed " << seed;
      ASSERT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20))
          << "seed " << seed;
      ASSERT_TRUE(ReadFile(path) == bytes) << "seed " << seed << ": the input was changed";
      opened += result.opened ? 1 : 0;
    }
    // Damage that nothing survives would test the first check only.
    EXPECT_GT(opened, iterations / 20);
    // Nothing may be left of all that.
    EXPECT_EQ(std::distance(fs::directory_iterator(dir_.path()), {}), 1);
  }

  TempDir dir_{FolderInMemory()};
};

TEST_F(FuzzNetwork, EveryForm) { Run(EveryForm().Model(5), 11'000'000); }
TEST_F(FuzzNetwork, EveryLayer) { Run(EveryLayer().Model(4), 12'000'000); }
TEST_F(FuzzNetwork, Updatable) { Run(EveryForm().Model(5, 403, true), 13'000'000, 200); }
TEST_F(FuzzNetwork, Pipeline) {
  const std::string inner = PipelineOf({EveryForm().Model(5, 303), EveryLayer().Model(4)}, 5, 201);
  Run(PipelineOf({inner, EveryForm().Model(5)}, 5, 200), 14'000'000);
}

}  // namespace
}  // namespace cmlc::test
