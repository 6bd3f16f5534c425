// NeuralNetworks on the command line: what users see, to the letter.
#include <gtest/gtest.h>

#include "support/cli.h"
#include "support/network_builder.h"
#include "support/package_builder.h"

namespace cmlc::test {
namespace {

using Strings = std::vector<std::string>;

class CliNetwork : public ::testing::Test {
 protected:
  CliNetwork() { SmallNetwork().Write(dir_ / "in.mlmodel"); }
  // The output of a run without errors.
  std::string Out(const Strings& arguments) {
    const Outcome run = RunCmlc(dir_.path(), arguments);
    EXPECT_EQ(run.exit_code, 0);
    EXPECT_EQ(run.err, "");
    return run.out;
  }
  const TempDir dir_;
};

TEST_F(CliNetwork, InfoListsLayersAndTheirWeights) {
  EXPECT_EQ(Out({"info", "in.mlmodel"}), R"(in.mlmodel
  kind: neuralNetwork
  specification version: 1 (iOS 11, macOS 10.13)
  size: 19,333 bytes
ops: innerProduct 2
weights:
  first.weights  fp32 [64, 64]  as fp32, 16,384 bytes, 32.00 bits per weight, 0.0 % zeros, 4,096 distinct, -0.1717 .. 0.1875
    innerProduct 'first' weights
  first.bias  fp32 [64]  as fp32, 256 bytes, 32.00 bits per weight, 0.0 % zeros, 64 distinct, -0.1267 .. 0.1409
    innerProduct 'first' bias
  second.weights  fp32 [10, 64]  as fp32, 2,560 bytes, 32.00 bits per weight, 0.0 % zeros, 640 distinct, -0.1654 .. 0.173
    innerProduct 'second' weights
  second.bias  fp32 [10]  as fp32, 40 bytes, 32.00 bits per weight, 0.0 % zeros, 10 distinct, -0.07254 .. 0.1152
    innerProduct 'second' bias
total: 4 weights, 4,810 elements, 19,240 bytes, 32.00 bits per weight
)");
}

TEST_F(CliNetwork, PassesSayWhatTheyDid) {
  EXPECT_EQ(Out({"palettize", "--nbits", "5", "in.mlmodel"}),
            "palettize: 1 weight done, 16,384 -> 2,688 bytes, 5.25 bits per weight, SNR 26.93 dB\n"
            "left alone: 3 weights: 3 with no more elements than weight_threshold 2048\n"
            "package: 19,333 -> 5,646 bytes (3.42 times smaller), T\n"
            "needs: iOS 12, macOS 10.14 or later (raised)\n"
            "wrote: in-palettized.mlmodel\n");
  EXPECT_NE(Out({"info", "in-palettized.mlmodel"})
                .find("  first.weights  fp32 [64, 64]  as 5-bit LUT, 2,688 bytes, 5.25 bits per "
                      "weight, 0.0 % zeros, 32 distinct, "),
            std::string::npos);
  EXPECT_EQ(Out({"quantize", "--dtype", "fp16", "in.mlmodel"}),
            "quantize: 4 weights done, 19,240 -> 9,620 bytes, 16.00 bits per weight, SNR 73.72 dB\n"
            "package: 19,333 -> 9,708 bytes (1.99 times smaller), T\n"
            "needs: iOS 11.2, macOS 10.13.2 or later (raised)\n"
            "wrote: in-quantized.mlmodel\n");
  EXPECT_EQ(Out({"quantize", "--nbits", "3", "in.mlmodel", "-o", "three.mlmodel"}),
            "quantize: 1 weight done, 16,384 -> 2,048 bytes, 4.00 bits per weight, SNR 14.76 dB\n"
            "left alone: 3 weights: 3 with no more elements than weight_threshold 2048\n"
            "package: 19,333 -> 5,009 bytes (3.86 times smaller), T\n"
            "needs: iOS 12, macOS 10.14 or later (raised)\n"
            "wrote: three.mlmodel\n");
  EXPECT_NE(Out({"info", "three.mlmodel"}).find("as 3-bit linear, 64 scales, 2,048 bytes, 4.00 "),
            std::string::npos);
  EXPECT_EQ(Out({"decompress", "three.mlmodel", "-o", "back.mlmodel"}),
            "decompress: 1 weight done, 2,048 -> 16,384 bytes, 32.00 bits per weight\n"
            "package: 5,009 -> 19,333 bytes (0.26 times smaller), T\n"
            "needs: iOS 12, macOS 10.14 or later\n"
            "wrote: back.mlmodel\n");
}

TEST_F(CliNetwork, ADryRunWritesNothing) {
  EXPECT_NE(Out({"palettize", "--nbits", "4", "--dry-run", "in.mlmodel"}).find("first.weights"),
            std::string::npos);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_.path()), {}), 1);
}

TEST_F(CliNetwork, ErrorsAreOneLineAndWriteNothing) {
  WriteFile(dir_ / "cut.mlmodel", SmallNetwork().Model().substr(0, 10'000));
  NetworkBuilder wrong;
  wrong.InnerProduct("fc", 2, 3, FloatWeights({{1.0f}}));
  wrong.Write(dir_ / "wrong.mlmodel");
  OneLinear(DataType::kFloat32, 64, 64).Write(dir_ / "program.mlpackage");
  struct Bad {
    Strings arguments;
    int exit_code;
    const char* message;
  };
  const Bad bad[] = {
      {{"palettize", "--nbits", "4", "--group-size", "4", "in.mlmodel"},
       2,
       "palettize: group_size: a NeuralNetwork holds one LUT of fp32 entries for each weight; "
       "leave it out (per_tensor)"},
      {{"quantize", "--nbits", "9", "in.mlmodel"},
       2,
       "quantize: nbits: expected one of 1, 2, 3, 4, 5, 6, 7, 8, 16, got '9'"},
      {{"quantize", "--nbits", "5", "program.mlpackage"},
       2,
       "quantize: nbits: is 5, which NeuralNetworks alone can hold; an ML Program takes 4 or 8 "
       "(`palettize` takes 1, 2, 3 and 6 as well)"},
      {{"prune", "--target-sparsity", "0.5", "in.mlmodel"},
       2,
       "prune: a NeuralNetwork has no sparse weights; `palettize` and `quantize` make it smaller"},
      {{"palettize", "--nbits", "4", "in.mlmodel", "-o", "out.mlpackage"},
       2,
       "out.mlpackage: the input is an .mlmodel file, so its output is named *.mlmodel"},
      {{"palettize", "--nbits", "4", "in.mlmodel", "-o", "in.mlmodel"},
       2,
       "in.mlmodel: is the input itself; say --in-place to replace it, or name another output"},
      {{"palettize", "--nbits", "4", "--strict", "--op-name", "second=nbits:3", "in.mlmodel"},
       6,
       "palettize: --strict: 1 of the weights asked for by name would be left alone: "
       "'second.weights' (640 elements, weight_threshold is 2048)"},
      {{"activations", "in.mlmodel"},
       3,
       "in.mlmodel: holds a model of type neuralNetwork and no ML Program; activations works on ML "
       "Programs, alone or inside pipelines"},
      {{"info", "wrong.mlmodel"},
       3,
       "wrong.mlmodel: layer 'fc', weights: has 1 values, expected 6 ([2, 3])"},
      {{"decompress", "cut.mlmodel"},
       3,
       "cut.mlmodel: is not a valid model message (truncated or corrupt near byte 2 of 10000)"},
  };
  const auto before = ReadTree(dir_.path());
  for (const auto& [arguments, exit_code, message] : bad) {
    const Outcome run = RunCmlc(dir_.path(), arguments);
    EXPECT_EQ(run.exit_code, exit_code);
    EXPECT_EQ(run.out, "");
    EXPECT_EQ(run.err, "error: " + std::string(message) + "\n");
  }
  EXPECT_TRUE(ReadTree(dir_.path()) == before);
}

}  // namespace
}  // namespace cmlc::test
