// Passes over NeuralNetworks: what users of .mlmodel files ask for, what they get, and what is left
// alone or refused. Results are read by protobuf alone (support/network_reader.h) and compared with
// what the program itself makes of them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "numeric/half.h"
#include "support/network_builder.h"
#include "support/network_reader.h"
#include "support/pass_run.h"
#include "support/sample_models.h"

namespace cmlc::test {
namespace {

using format::ToBytes;
using format::WireMessage;

constexpr char kNet[] = "network";

PassSpec Quantize(OptionValues options, std::vector<Rule> rules = {}) {
  return {"quantize", std::move(options), std::move(rules)};
}

OptionValues Bits(int bits, OptionValues more = {}) {
  more.emplace_back("nbits", std::to_string(bits));
  return more;
}

WireMessage Sizes(const std::vector<std::pair<uint32_t, uint64_t>>& numbers) {
  WireMessage out;
  for (const auto& [field, number] : numbers) out.AddVarint(field, number);
  return out;
}

std::string Floats(size_t count, uint32_t seed) { return FloatWeights(RandomFloats(count, seed)); }

std::vector<float> Halves(std::vector<float> values) {
  for (float& value : values) value = numeric::HalfToFloat(numeric::FloatToHalf(value));
  return values;
}

NetworkMessage Written(const PassRun& run, const std::vector<int>& members = {}) {
  return NetworkOf(ReadFile(run.output()), members);
}
int Version(const PassRun& run, const std::vector<int>& members = {}) {
  return VersionOf(ReadFile(run.output()), members);
}

// What lies in the result's file, decoded here, is what the program reads from it.
::testing::AssertionResult Decodes(const PassRun& run, const std::string& name,
                                   const StoredWeight& stored, size_t inner,
                                   const std::string& program = kNet) {
  const std::vector<float> here = stored.Values(inner);
  if (here == run.after().Values(name, program)) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << name << " is decoded to something else";
}

::testing::AssertionResult NothingChanged(const PassRun& run) {
  if (!run.ok()) return ::testing::AssertionFailure() << run.error();
  if (ReadFile(run.input()) == ReadFile(run.output())) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "the result is not the input";
}

::testing::AssertionResult IsAlreadyCompressed(const PassRun& run, const std::string& name) {
  if (!run.ok()) return ::testing::AssertionFailure() << run.error();
  if (run.weight(name, kNet).fate == WeightReport::Fate::kAlreadyCompressed)
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << name << ": " << run.weight(name, kNet).reason;
}

// --- palettize ----------------------------------------------------------------------------------

TEST(NetworkPalettize, TakesEveryNumberOfBits) {
  const ModelBytes model{SmallNetwork().Model()};
  double last = INFINITY;
  for (int bits = 1; bits <= 8; ++bits) {
    SCOPED_TRACE(bits);
    const PassRun run(model, Palettize(Bits(bits)));
    ASSERT_TRUE(IsDone(run, "first.weights", kNet));
    EXPECT_EQ(run.weight("first.weights", kNet).form, fmt::format("{}-bit LUT", bits));
    EXPECT_EQ(Version(run), 3);
    const StoredWeight stored = Written(run).Weight("first", "20", 4096);
    EXPECT_EQ(stored.form, "lut");
    EXPECT_EQ(stored.bits, bits);
    ASSERT_EQ(stored.numbers.size(), size_t{1} << bits);
    EXPECT_TRUE(std::is_sorted(stored.numbers.begin(), stored.numbers.end()));
    EXPECT_EQ(stored.code_bytes, 4096u * static_cast<size_t>(bits) / 8);
    EXPECT_TRUE(Decodes(run, "first.weights", stored, 1));
    EXPECT_TRUE(QualityAgrees(run, "first.weights", kNet));
    // Every value has the nearest entry.
    const std::vector<float> before = RandomFloats(4096, 1), after = stored.Values();
    for (size_t i = 0; i < before.size(); ++i) {
      float nearest = INFINITY;
      for (const float entry : stored.numbers)
        nearest = std::min(nearest, std::fabs(entry - before[i]));
      ASSERT_LE(std::fabs(after[i] - before[i]), nearest * 1.000001f) << i;
    }
    EXPECT_LT(SquaredDistance(before, after), last);
    last = SquaredDistance(before, after);
    // What is small stays as it was.
    EXPECT_TRUE(Left(run, "second.weights", "640 elements", kNet));
    EXPECT_EQ(Written(run).Weight("first", "21", 64).numbers, RandomFloats(64, 2));
    EXPECT_EQ(Written(run).Weight("second", "20", 640).numbers, RandomFloats(640, 3));
    EXPECT_EQ(run.report().package_bytes_after, fs::file_size(run.output()));
  }
}

TEST(NetworkPalettize, UniformEntriesAreEvenlySpaced) {
  for (const int bits : {1, 3, 5, 7, 8}) {
    const PassRun run(ModelBytes{SmallNetwork().Model()},
                      Palettize(Bits(bits, {{"mode", "uniform"}})));
    ASSERT_TRUE(IsDone(run, "first.weights", kNet));
    const StoredWeight stored = Written(run).Weight("first", "20", 4096);
    const std::vector<float> values = RandomFloats(4096, 1);
    const auto [least, greatest] = std::minmax_element(values.begin(), values.end());
    EXPECT_GE(stored.numbers.front(), *least);
    EXPECT_LE(stored.numbers.back(), *greatest);
    const float step =
        (stored.numbers.back() - stored.numbers.front()) / static_cast<float>((1 << bits) - 1);
    EXPECT_GT(step, 0);
    for (size_t i = 1; i < stored.numbers.size(); ++i)
      EXPECT_NEAR(stored.numbers[i] - stored.numbers[i - 1], step, 1e-6);
    EXPECT_TRUE(Decodes(run, "first.weights", stored, 1));
  }
}

TEST(NetworkPalettize, UniqueKeepsEveryValue) {
  std::vector<float> values;
  for (size_t i = 0; i < 4096; ++i) values.push_back(static_cast<float>(i * 7 % 19) - 9.5f);
  const PassRun run(
      ModelBytes{NetworkBuilder().InnerProduct("fc", 64, 64, FloatWeights(values)).Model()},
      Palettize({{"mode", "unique"}}));
  ASSERT_TRUE(IsDone(run, "fc.weights", kNet));
  const StoredWeight stored = Written(run).Weight("fc", "20", 4096);
  EXPECT_EQ(stored.bits, 5);  // 19 values
  EXPECT_EQ(stored.Values(), values);
  const PassRun many(ModelBytes{SmallNetwork().Model()}, Palettize({{"mode", "unique"}}));
  EXPECT_TRUE(Left(many, "first.weights", "", kNet));
  EXPECT_TRUE(NothingChanged(many));
}

TEST(NetworkPalettize, EntriesMayBeGiven) {
  const TempDir dir;
  WriteFile(dir / "luts.json", R"({"first.weights": [-0.2, 0.1, 0, -0.1, 0.2]})");
  const PassRun run(ModelBytes{SmallNetwork().Model()},
                    Palettize({{"mode", "custom"},
                               {"lut_file", (dir / "luts.json").string()},
                               {"weight_threshold", "0"}}));
  ASSERT_TRUE(IsDone(run, "first.weights", kNet));
  const StoredWeight stored = Written(run).Weight("first", "20", 4096);
  EXPECT_EQ(stored.bits, 3);
  const std::set<float> used = [&] {
    const std::vector<float> values = stored.Values();
    return std::set<float>(values.begin(), values.end());
  }();
  EXPECT_EQ(used, (std::set<float>{-0.2f, -0.1f, 0, 0.1f, 0.2f}));
  EXPECT_TRUE(Left(run, "second.weights", "no list of this name", kNet));
}

TEST(NetworkPalettize, TakesFp16Weights) {
  NetworkBuilder network;
  network.InnerProduct("fc", 64, 64, HalfWeights(RandomFloats(4096, 1)),
                       HalfWeights(RandomFloats(64, 2)));
  const PassRun run(ModelBytes{network.Model(2)}, Palettize(Bits(4)));
  ASSERT_TRUE(IsDone(run, "fc.weights", kNet));
  const StoredWeight stored = Written(run).Weight("fc", "20", 4096);
  EXPECT_EQ(stored.form, "lut");
  EXPECT_TRUE(Decodes(run, "fc.weights", stored, 1));
  EXPECT_TRUE(QualityAgrees(run, "fc.weights", kNet));
  // The same table as for the same values in fp32.
  const PassRun plain(
      ModelBytes{NetworkBuilder()
                     .InnerProduct("fc", 64, 64, FloatWeights(Halves(RandomFloats(4096, 1))))
                     .Model()},
      Palettize(Bits(4)));
  ASSERT_TRUE(plain.ok()) << plain.error();
  EXPECT_EQ(stored.Values(), Written(plain).Weight("fc", "20", 4096).Values());
  EXPECT_EQ(Written(run).Weight("fc", "21", 64).form, "fp16");
}

TEST(NetworkQuantize, TakesFp16Weights) {
  const PassRun run(
      ModelBytes{
          NetworkBuilder().InnerProduct("fc", 64, 64, HalfWeights(RandomFloats(4096, 1))).Model(2)},
      Quantize(Bits(6, {{"mode", "linear"}})));
  const PassRun plain(
      ModelBytes{NetworkBuilder()
                     .InnerProduct("fc", 64, 64, FloatWeights(Halves(RandomFloats(4096, 1))))
                     .Model(2)},
      Quantize(Bits(6, {{"mode", "linear"}})));
  ASSERT_TRUE(IsDone(run, "fc.weights", kNet));
  EXPECT_TRUE(ReadFile(run.output()) == ReadFile(plain.output()));
  EXPECT_TRUE(QualityAgrees(run, "fc.weights", kNet));
}

// A LUT may take more bytes than the weight.
TEST(NetworkPalettize, WhatWouldNotGetSmallerIsLeft) {
  const ModelBytes model{
      NetworkBuilder().InnerProduct("fc", 4, 64, Floats(256, 1), Floats(4, 2)).Model()};
  const PassRun run(model, Palettize(Bits(8, {{"weight_threshold", "0"}})));
  EXPECT_TRUE(Left(run, "fc.weights", "has 1024 bytes", kNet));
  EXPECT_TRUE(Left(run, "fc.bias", "has 16 bytes", kNet));
  EXPECT_TRUE(NothingChanged(run));  // and nothing is needed for it
  const PassRun fewer(model, Palettize(Bits(6, {{"weight_threshold", "0"}})));
  EXPECT_TRUE(IsDone(fewer, "fc.weights", kNet));
}

// Weights so small that nothing of them is worth a place in a file.
TEST(NetworkPalettize, TinyWeightsAreWritten) {
  const std::vector<float> values = {1, 2, 2, 1, 1, 1, 2, 2, 1};
  const ModelBytes model{NetworkBuilder().InnerProduct("fc", 3, 3, FloatWeights(values)).Model()};
  const PassRun run(model, Palettize(Bits(1, {{"weight_threshold", "0"}})));
  ASSERT_TRUE(IsDone(run, "fc.weights", kNet));
  EXPECT_EQ(Written(run).Weight("fc", "20", 9).Values(), values);
}

// --- quantize -----------------------------------------------------------------------------------

struct Parameters {
  float scale, bias;
};

// coremltools' formulas, and what one bit makes of the symmetric one.
Parameters Expected(const std::vector<float>& values, int bits, bool symmetric) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const double least = *low, greatest = *high;
  if (!symmetric)
    return {static_cast<float>((greatest - least) / ((1 << bits) - 1)), static_cast<float>(least)};
  const double reach = std::max(std::fabs(least), std::fabs(greatest));
  const double half = std::ldexp(1.0, bits - 1);
  const double scale = bits == 1 ? 2 * reach : reach / (half - 1);
  return {static_cast<float>(scale), static_cast<float>(bits == 1 ? -reach : -half * scale)};
}

TEST(NetworkQuantize, MinmaxFollowsTheFormulas) {
  const ModelBytes model{SmallNetwork().Model()};
  const std::vector<float> values = RandomFloats(4096, 1);
  for (int bits = 1; bits <= 8; ++bits)
    for (const bool symmetric : {false, true}) {
      SCOPED_TRACE(fmt::format("{} bits, symmetric {}", bits, symmetric));
      const PassRun run(model,
                        Quantize(Bits(bits, {{"mode", symmetric ? "linear_symmetric" : "linear"},
                                             {"scales", "minmax"}})));
      ASSERT_TRUE(IsDone(run, "first.weights", kNet));
      EXPECT_EQ(Version(run), 3);
      const StoredWeight stored = Written(run).Weight("first", "20", 4096);
      EXPECT_EQ(stored.form, "linear");
      EXPECT_EQ(stored.bits, bits);
      ASSERT_EQ(stored.numbers.size(), 64u);
      ASSERT_EQ(stored.bias.size(), 64u);
      for (size_t c = 0; c < 64; ++c) {
        const std::vector<float> row(values.begin() + static_cast<std::ptrdiff_t>(c * 64),
                                     values.begin() + static_cast<std::ptrdiff_t>(c * 64 + 64));
        const Parameters expected = Expected(row, bits, symmetric);
        EXPECT_NEAR(stored.numbers[c], expected.scale, 1e-6f * expected.scale) << c;
        EXPECT_NEAR(stored.bias[c], expected.bias, 1e-6f * std::fabs(expected.bias)) << c;
        for (size_t i = 0; i < 64; ++i) {
          const double code = std::clamp(
              std::nearbyint((static_cast<double>(row[i]) - stored.bias[c]) / stored.numbers[c]),
              0.0, std::ldexp(1.0, bits) - 1);
          // In the middle between two codes either is right.
          const double place = (static_cast<double>(row[i]) - stored.bias[c]) / stored.numbers[c];
          if (std::fabs(place - std::floor(place) - 0.5) < 1e-4) continue;
          ASSERT_EQ(stored.codes[c * 64 + i], static_cast<int>(code)) << c << " " << i;
        }
      }
      EXPECT_TRUE(Decodes(run, "first.weights", stored, 64));
      EXPECT_TRUE(QualityAgrees(run, "first.weights", kNet));
    }
}

TEST(NetworkQuantize, ASearchIsNeverWorse) {
  const ModelBytes model{SmallNetwork().Model()};
  for (int bits = 1; bits <= 8; ++bits)
    for (const char* mode : {"linear", "linear_symmetric"}) {
      const PassRun search(model, Quantize(Bits(bits, {{"mode", mode}})));
      const PassRun range(model, Quantize(Bits(bits, {{"mode", mode}, {"scales", "minmax"}})));
      ASSERT_TRUE(IsDone(search, "first.weights", kNet));
      const StoredWeight stored = Written(search).Weight("first", "20", 4096);
      EXPECT_TRUE(Decodes(search, "first.weights", stored, 64));
      EXPECT_TRUE(QualityAgrees(search, "first.weights", kNet));
      EXPECT_LE(search.weight("first.weights", kNet).quality.noise,
                range.weight("first.weights", kNet).quality.noise * (1 + 1e-9))
          << bits << mode;
      if (bits <= 4) {
        EXPECT_LT(search.weight("first.weights", kNet).quality.noise,
                  range.weight("first.weights", kNet).quality.noise * 0.99)
            << bits << mode;
      }
    }
}

// int8 and int4 are the same as 8 and 4 bits, and 16 is fp16.
TEST(NetworkQuantize, BitsMayBeGivenAsTypes) {
  const ModelBytes model{SmallNetwork().Model()};
  const std::tuple<int, const char*> same[] = {
      {8, "int8"}, {8, "uint8"}, {4, "int4"}, {16, "fp16"}};
  for (const auto& [bits, dtype] : same) {
    const PassRun by_bits(model, Quantize(Bits(bits))),
        by_type(model, Quantize({{"dtype", dtype}}));
    ASSERT_TRUE(by_bits.ok() && by_type.ok()) << by_bits.error() << by_type.error();
    EXPECT_TRUE(ReadFile(by_bits.output()) == ReadFile(by_type.output())) << dtype;
    EXPECT_FALSE(ReadFile(by_bits.output()) == ReadFile(by_bits.input()));
  }
  const PassRun both(model, Quantize(Bits(8, {{"dtype", "int8"}})));
  EXPECT_TRUE(Fails(both.result(), ErrorKind::kUsage, {"quantize: nbits"}));
}

// Weights of every kind of layer, with as many scales as Core ML's validator takes.
TEST(NetworkQuantize, ScalesAreThoseThatTheValidatorTakes) {
  const auto conv = [](uint64_t outputs, uint64_t inputs, uint64_t groups, bool up) {
    const uint64_t count = 9 * inputs * (up ? outputs / groups : outputs);
    return NetworkBuilder().Convolution("it",
                                        {.outputs = outputs,
                                         .inputs = inputs,
                                         .height = 3,
                                         .width = 3,
                                         .groups = groups,
                                         .deconvolution = up},
                                        Floats(count, 1), Floats(outputs, 2));
  };
  const auto layer = [](uint32_t kind, WireMessage sizes,
                        const std::vector<std::pair<uint32_t, size_t>>& weights) {
    uint32_t seed = 1;
    for (const auto& [field, count] : weights) sizes.AddBytes(field, Floats(count, seed++));
    return NetworkBuilder().Layer(kind, "it", std::move(sizes));
  };
  const auto shaped = [&](uint32_t kind, std::vector<uint64_t> shape, uint32_t field) {
    WireMessage sizes;
    size_t count = 1;
    for (const uint64_t size : shape) {
      sizes.AddVarint(1, size);
      count *= size;
    }
    return layer(kind, std::move(sizes), {{field, count}});
  };
  struct Case {
    const char* what;
    NetworkBuilder network;
    std::string path;
    const char* name;
    size_t count, scales, inner;
  };
  const std::vector<Case> cases = {
      {"conv", conv(16, 8, 1, false), "90", "weights", 1152, 16, 72},
      {"grouped conv", conv(16, 8, 2, false), "90", "weights", 1152, 16, 72},
      {"conv bias", conv(64, 8, 1, false), "91", "bias", 64, 1, 1},
      {"deconv", conv(16, 8, 1, true), "90", "weights", 1152, 16, 9},
      {"grouped deconv", conv(16, 8, 2, true), "90", "weights", 576, 1, 1},
      {"product", layer(140, Sizes({{1, 64}, {2, 16}}), {{20, 1024}}), "20", "weights", 1024, 16,
       64},
      {"embedding", layer(150, Sizes({{1, 64}, {2, 16}}), {{20, 1024}}), "20", "weights", 1024, 16,
       64},
      {"embeddingND", layer(1040, Sizes({{1, 64}, {2, 16}}), {{20, 1024}}), "20", "weights", 1024,
       16, 64},
      {"matmul", layer(1045, Sizes({{5, 64}, {6, 16}}), {{8, 1024}}), "8", "weights", 1024, 16, 64},
      {"batchnorm", layer(160, Sizes({{1, 64}}), {{15, 64}, {16, 64}, {17, 64}, {18, 64}}), "17",
       "mean", 64, 1, 1},
      {"scale", shaped(245, {16, 4, 4}, 2), "2", "scale", 256, 16, 16},
      {"bias", shaped(250, {16, 4, 4}, 2), "2", "bias", 256, 16, 16},
      {"bias of one channel", shaped(250, {1, 16, 16}, 2), "2", "bias", 256, 1, 1},
      {"vector of biases", shaped(250, {256}, 2), "2", "bias", 256, 1, 1},
      {"constant", shaped(290, {16, 4, 4}, 2), "2", "data", 256, 16, 16},
      {"constantND", shaped(1070, {16, 4, 4}, 2), "2", "data", 256, 1, 1},
      {"recurrent", layer(400, Sizes({{1, 64}, {2, 16}}), {{30, 1024}, {31, 256}}), "30",
       "weightMatrix", 1024, 16, 64},
      {"recursion", layer(400, Sizes({{1, 64}, {2, 16}}), {{30, 1024}, {31, 256}}), "31",
       "recursionMatrix", 256, 16, 16},
      {"gru bias", layer(410, Sizes({{1, 4}, {2, 64}}), {{71, 64}}), "71", "resetGateBiasVector",
       64, 1, 1},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    const ModelBytes model{c.network.Model(4)};
    const std::string name = fmt::format("it.{}", c.name);
    const PassRun run(model, Quantize(Bits(4, {{"mode", "linear"}, {"weight_threshold", "0"}})));
    ASSERT_TRUE(IsDone(run, name, kNet));
    const StoredWeight stored = Written(run).Weight("it", c.path, c.count);
    EXPECT_EQ(stored.numbers.size(), c.scales);
    EXPECT_EQ(stored.bias.size(), c.scales);
    EXPECT_TRUE(Decodes(run, name, stored, c.inner));
    EXPECT_TRUE(QualityAgrees(run, name, kNet));
    // Every scale is that of its own channel: no value is further than half a step away.
    const std::vector<float> before = run.before().Values(name, kNet),
                             after = stored.Values(c.inner);
    const PassRun range(
        model,
        Quantize(Bits(4, {{"mode", "linear"}, {"scales", "minmax"}, {"weight_threshold", "0"}})));
    const StoredWeight plain = Written(range).Weight("it", c.path, c.count);
    const std::vector<float> ranged = plain.Values(c.inner);
    for (size_t i = 0; i < before.size(); ++i)
      ASSERT_LE(std::fabs(ranged[i] - before[i]), 0.5001f * plain.numbers[i / c.inner % c.scales])
          << i;
    const PassRun whole(
        model, Quantize(Bits(4, {{"granularity", "per_tensor"}, {"weight_threshold", "0"}})));
    EXPECT_EQ(Written(whole).Weight("it", c.path, c.count).numbers.size(), 1u);
  }
}

TEST(NetworkQuantize, BothDirectionsOfAnLstmAreDone) {
  WireMessage lstm = Sizes({{1, 32}, {2, 16}});
  for (uint32_t d = 0; d < 2; ++d) {
    WireMessage weights;
    for (const uint32_t field : {1u, 2u, 3u, 4u})
      weights.AddBytes(field, Floats(512, 100 * d + field));
    for (const uint32_t field : {20u, 21u, 22u, 23u})
      weights.AddBytes(field, Floats(256, 100 * d + field));
    for (const uint32_t field : {40u, 41u, 42u, 43u, 60u, 61u, 62u})
      weights.AddBytes(field, Floats(16, 100 * d + field));
    lstm.AddMessage(20, std::move(weights));
  }
  const ModelBytes model{NetworkBuilder().Layer(430, "lstm", std::move(lstm)).Model()};
  const PassRun run(model, Quantize(Bits(6, {{"weight_threshold", "0"}})));
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(run.report().weights.size(), 30u);
  for (size_t d = 0; d < 2; ++d) {
    const std::pair<int, const char*> some[] = {{3, "blockInputWeightMatrix"},
                                                {23, "outputGateRecursionMatrix"},
                                                {61, "forgetGatePeepholeVector"}};
    for (const auto& [field, parameter] : some) {
      const std::string name = fmt::format("lstm.weightParams[{}].{}", d, parameter);
      ASSERT_TRUE(IsDone(run, name, kNet)) << name;
      const size_t count = field == 3 ? 512 : field == 23 ? 256 : 16;
      const StoredWeight stored =
          Written(run).Weight("lstm", fmt::format("20[{}].{}", d, field), count);
      EXPECT_EQ(stored.numbers.size(), field == 61 ? 1u : 16u);
      EXPECT_TRUE(Decodes(run, name, stored, field == 3 ? 32 : field == 23 ? 16 : 1));
      EXPECT_LT(SquaredDistance(stored.Values(field == 3    ? 32
                                              : field == 23 ? 16
                                                            : 1),
                                RandomFloats(count, static_cast<uint32_t>(100 * d) +
                                                        static_cast<uint32_t>(field))),
                0.01 * SumOfSquares(stored.Values()));
    }
  }
}

TEST(NetworkQuantize, ValuesThatAreNotFiniteAreLeft) {
  std::vector<float> values = RandomFloats(4096, 1);
  values[100] = INFINITY;
  const ModelBytes model{NetworkBuilder().InnerProduct("fc", 64, 64, FloatWeights(values)).Model()};
  for (const PassSpec& spec : {Quantize(Bits(8)), Quantize(Bits(16)), Palettize(Bits(4))}) {
    const PassRun run(model, spec);
    EXPECT_TRUE(Left(run, "fc.weights", "", kNet));
    EXPECT_TRUE(NothingChanged(run));
  }
}

// --- fp16 ---------------------------------------------------------------------------------------

TEST(NetworkHalves, LayersBecomeFp16) {
  const PassRun run(ModelBytes{SmallNetwork().Model()}, Quantize({{"dtype", "fp16"}}));
  EXPECT_EQ(Version(run), 2);
  const std::tuple<const char*, const char*, const char*, size_t, uint32_t> weights[] = {
      {"first.weights", "first", "20", 4096, 1},
      {"first.bias", "first", "21", 64, 2},
      {"second.weights", "second", "20", 640, 3},
      {"second.bias", "second", "21", 10, 4}};
  for (const auto& [name, layer, path, count, seed] : weights) {
    ASSERT_TRUE(IsDone(run, name, kNet));
    const StoredWeight stored = Written(run).Weight(layer, path, count);
    EXPECT_EQ(stored.form, "fp16");
    EXPECT_EQ(stored.numbers, Halves(RandomFloats(count, seed)));
    EXPECT_TRUE(Decodes(run, name, stored, 1));
    EXPECT_TRUE(QualityAgrees(run, name, kNet));
    EXPECT_EQ(run.weight(name, kNet).bytes_after, count * 2);
  }
  const PassRun again(run.output(), Quantize({{"dtype", "fp16"}}));
  EXPECT_TRUE(Left(again, "first.weights", "", kNet));
  EXPECT_TRUE(NothingChanged(again));
}

NetworkBuilder TwoProducts(const std::vector<float>& bias) {
  NetworkBuilder network;
  network.InnerProduct("first", 64, 64, Floats(4096, 1), FloatWeights(bias))
      .InnerProduct("second", 10, 64, Floats(640, 3), Floats(10, 4));
  return network;
}

// Core ML takes no layer with fp32 here and fp16 there.
TEST(NetworkHalves, ALayerWithAValueBeyondFp16StaysWhole) {
  std::vector<float> bias = RandomFloats(64, 2);
  for (const float largest : {65519.0f, -65519.0f, 65520.0f, -1e30f, NAN}) {
    bias[7] = largest;
    const PassRun run(ModelBytes{TwoProducts(bias).Model()}, Quantize({{"dtype", "fp16"}}));
    EXPECT_TRUE(IsDone(run, "second.weights", kNet));
    if (std::fabs(largest) < 65520) {
      EXPECT_TRUE(IsDone(run, "first.bias", kNet));
      EXPECT_EQ(std::fabs(Written(run).Weight("first", "21", 64).numbers[7]), 65504);
      continue;
    }
    for (const char* name : {"first.weights", "first.bias"})
      EXPECT_TRUE(Left(run, name, "'first.bias' stays fp32 (element 7 is 65520 or more", kNet));
    EXPECT_EQ(Written(run).Weight("first", "20", 4096).form, "fp32");
    EXPECT_EQ(Written(run).Weight("first", "21", 64).form, "fp32");
    EXPECT_EQ(Written(run).Weight("second", "20", 640).form, "fp16");
  }
}

TEST(NetworkHalves, ALayerOfWhichAPartIsLeftOutStaysWhole) {
  const ModelBytes model{SmallNetwork().Model()};
  const std::pair<OptionValues, std::vector<Rule>> ways[] = {
      {{{"dtype", "fp16"}, {"weight_threshold", "64"}}, {}},
      {{{"dtype", "fp16"}}, {LeaveName("*.bias")}},
      {{{"dtype", "fp16"}, {"skip_layer_types", "bias"}}, {}}};
  for (const auto& [options, rules] : ways) {
    const PassRun run(model, Quantize(options, rules));
    EXPECT_TRUE(Left(run, "first.weights", "'first.bias' stays fp32", kNet));
    EXPECT_TRUE(Left(run, "second.weights", "'second.bias' stays fp32", kNet));
    EXPECT_TRUE(NothingChanged(run));
  }
  // Codes go with either.
  const PassRun codes(model,
                      Quantize({{"dtype", "fp16"}},
                               {ByName("*.bias", {{"dtype", "int8"}, {"weight_threshold", "0"}}),
                                LeaveName("second.*")}));
  EXPECT_TRUE(IsDone(codes, "first.weights", kNet));
  EXPECT_EQ(Written(codes).Weight("first", "20", 4096).form, "fp16");
  EXPECT_EQ(Written(codes).Weight("first", "21", 64).form, "linear");
  EXPECT_EQ(Version(codes), 3);
  EXPECT_EQ(Written(codes).Weight("second", "20", 640).form, "fp32");
  // But only if there are any.
  const PassRun none(
      model, Quantize({{"dtype", "fp16"}}, {ByName("second.bias", {{"dtype", "int8"},
                                                                   {"granularity", "per_tensor"},
                                                                   {"weight_threshold", "10"}})}));
  EXPECT_TRUE(Left(none, "second.weights", "'second.bias' stays fp32", kNet));
  EXPECT_TRUE(IsDone(none, "first.weights", kNet));
}

// Where one part is fp16 already the other part follows.
TEST(NetworkHalves, ALayerThatIsMixedIsMended) {
  NetworkBuilder network;
  network.InnerProduct("fc", 64, 64, HalfWeights(RandomFloats(4096, 1)), Floats(64, 2));
  const PassRun run(ModelBytes{network.Model()}, Quantize({{"dtype", "fp16"}}));
  EXPECT_TRUE(IsDone(run, "fc.bias", kNet));
  EXPECT_EQ(Written(run).Weight("fc", "21", 64).form, "fp16");
  EXPECT_EQ(Written(run).Weight("fc", "20", 4096).form, "fp16");
}

// --- What layers do not take --------------------------------------------------------------------

TEST(NetworkLimits, UpdatableLayersStayAsTheyAre) {
  NetworkBuilder network;
  network.InnerProduct("trained", 64, 64, Floats(4096, 1), Floats(64, 2), true)
      .InnerProduct("fixed", 64, 64, Floats(4096, 3), Floats(64, 4));
  const ModelBytes model{network.Model(4, 500, true)};
  for (const PassSpec& spec : {Palettize(Bits(4)), Quantize(Bits(8))}) {
    const PassRun run(model, spec);
    EXPECT_TRUE(Left(run, "trained.weights", "trained on a device stays in fp32", kNet));
    EXPECT_TRUE(IsDone(run, "fixed.weights", kNet));
    EXPECT_EQ(Written(run).Weight("trained", "20", 4096).numbers, RandomFloats(4096, 1));
    EXPECT_TRUE(run.after().model().network->updatable);
  }
  const PassRun halves(model, Quantize({{"dtype", "fp16"}}));
  EXPECT_TRUE(Left(halves, "fixed.weights", "may not hold fp16 weights", kNet));
  EXPECT_TRUE(Left(halves, "trained.weights", "trained on a device", kNet));
  EXPECT_TRUE(NothingChanged(halves));
}

TEST(NetworkLimits, WeightsMaySayThatTheyAreUpdatable) {
  NetworkBuilder network;
  const std::string is_updatable = "\x90\x03\x01";  // field 50
  network.InnerProduct("trained", 64, 64, Floats(4096, 1) + is_updatable, Floats(64, 2));
  const PassRun run(ModelBytes{network.Model(4, 500, true)}, Palettize(Bits(4)));
  EXPECT_TRUE(Left(run, "trained.weights", "trained on a device stays in fp32", kNet));
  EXPECT_TRUE(NothingChanged(run));
}

NetworkBuilder LayersWithLimits() {
  WireMessage custom, norm = Sizes({{1, 4096}}),
                      conv = Sizes({{1, 8}, {2, 64}, {20, 2}, {21, 2}, {22, 2}});
  custom.AddBytes(20, Floats(4096, 1));
  norm.AddBytes(3, Floats(4096, 2));
  norm.AddBytes(4, Floats(4096, 3));
  conv.AddBytes(60, Floats(4096, 4));
  conv.AddBytes(61, Floats(8, 5));
  WireMessage relu, activation;
  relu.AddBytes(1, Floats(4096, 6));
  activation.AddMessage(25, relu);
  NetworkBuilder network;
  network.Layer(500, "custom", custom)
      .Layer(1350, "norm", norm)
      .Layer(1471, "conv", conv)
      .Layer(130, "relu", activation);
  return network;
}

TEST(NetworkLimits, SomeLayersTakeNoCodes) {
  const ModelBytes model{LayersWithLimits().Model(5)};
  for (const PassSpec& spec : {Palettize(Bits(4)), Quantize(Bits(8))}) {
    const PassRun run(model, spec);
    EXPECT_TRUE(Left(run, "custom.weights[0]", "nothing says", kNet));
    EXPECT_TRUE(Left(run, "relu.alpha", "nothing says", kNet));
    EXPECT_TRUE(Left(run, "norm.gamma", "in fp32 only", kNet));
    EXPECT_TRUE(Left(run, "conv.weights", "in fp32 and fp16 only", kNet));
    EXPECT_TRUE(NothingChanged(run));
  }
}

TEST(NetworkLimits, SomeLayersTakeNoFp16) {
  const PassRun run(ModelBytes{LayersWithLimits().Model(5)}, Quantize({{"dtype", "fp16"}}));
  EXPECT_TRUE(Left(run, "custom.weights[0]", "nothing says", kNet));
  EXPECT_TRUE(Left(run, "norm.beta", "in fp32 only", kNet));
  EXPECT_TRUE(IsDone(run, "conv.weights", kNet));
  EXPECT_TRUE(IsDone(run, "conv.bias", kNet));
  EXPECT_EQ(Written(run).Weight("conv", "60", 4096).form, "fp16");
  EXPECT_EQ(Version(run), 5);
}

NetworkBuilder DynamicInt8() {
  std::string codes;
  for (const uint8_t code : RandomCodes(4096, 1, 256)) codes.push_back(static_cast<char>(code));
  WireMessage parameters = Sizes({{1, 64}, {2, 64}});
  parameters.AddBytes(20, Int8Weights(codes, 0.01f));
  parameters.AddVarint(22, 1);
  return NetworkBuilder().Layer(140, "fc", std::move(parameters));
}

TEST(NetworkLimits, DynamicInt8IsLeftAndDecompressed) {
  const ModelBytes model{DynamicInt8().Model(5)};
  for (const PassSpec& spec : {Palettize(Bits(4)), Quantize(Bits(8)), Quantize(Bits(16))}) {
    const PassRun run(model, spec);
    EXPECT_TRUE(IsAlreadyCompressed(run, "fc.weights"));
    EXPECT_TRUE(NothingChanged(run));
  }
  const PassRun run(model, Decompress());
  ASSERT_TRUE(IsDone(run, "fc.weights", kNet));
  EXPECT_EQ(Written(run).Weight("fc", "20", 4096).form, "fp32");
  EXPECT_EQ(Written(run).Weight("fc", "20", 4096).numbers, run.before().Values("fc.weights", kNet));
  // Without int8 codes the flag would make the layer invalid.
  EXPECT_FALSE(Written(run).Has("fc", "22"));
  EXPECT_TRUE(NetworkOf(model.bytes).Has("fc", "22"));
}

NetworkBuilder AlreadyCompressed() {
  std::string codes;
  for (const uint8_t code : RandomCodes(4096, 1, 256)) codes.push_back(static_cast<char>(code));
  const std::vector<float> scale = RandomFloats(64, 1), bias = RandomFloats(64, 2);
  NetworkBuilder network;
  network.InnerProduct("table", 64, 64, TableWeights(4, codes.substr(0, 2048), RandomFloats(16, 3)))
      .InnerProduct("linear", 64, 64, LinearWeights(8, codes, scale, bias), Floats(64, 4))
      .InnerProduct("odd", 64, 64, LinearWeights(5, codes.substr(0, 2560), scale, {}));
  return network;
}

TEST(NetworkLimits, CompressedWeightsAreLeftAlone) {
  const ModelBytes model{AlreadyCompressed().Model(3)};
  for (const PassSpec& spec : {Palettize(Bits(2)), Quantize(Bits(4)), Quantize(Bits(16))}) {
    const PassRun run(model, spec);
    for (const char* name : {"table.weights", "linear.weights", "odd.weights"})
      EXPECT_TRUE(IsAlreadyCompressed(run, name));
    if (spec.options[0].second != "16") {
      EXPECT_TRUE(NothingChanged(run));
    }
  }
}

// --- decompress ---------------------------------------------------------------------------------

TEST(NetworkDecompress, EverythingBecomesFp32) {
  NetworkBuilder network = AlreadyCompressed();
  network.InnerProduct("half", 64, 64, HalfWeights(RandomFloats(4096, 5)),
                       HalfWeights(RandomFloats(64, 6)));
  const PassRun run(ModelBytes{network.Model(3)}, Decompress());
  const NetworkMessage before = NetworkOf(ReadFile(run.input())), after = Written(run);
  const std::tuple<const char*, const char*, size_t, size_t> weights[] = {
      {"table", "20", 4096, 1},
      {"linear", "20", 4096, 64},
      {"odd", "20", 4096, 64},
      {"half", "20", 4096, 1},
      {"half", "21", 64, 1}};
  for (const auto& [layer, path, count, inner] : weights) {
    const std::string name =
        fmt::format("{}.{}", layer, std::string(path) == "20" ? "weights" : "bias");
    ASSERT_TRUE(IsDone(run, name, kNet));
    const StoredWeight stored = after.Weight(layer, path, count);
    EXPECT_EQ(stored.form, "fp32") << name;
    EXPECT_EQ(stored.numbers, before.Weight(layer, path, count).Values(inner)) << name;
    EXPECT_EQ(run.weight(name, kNet).bytes_after, count * 4);
  }
  EXPECT_EQ(after.Weight("linear", "21", 64).numbers, RandomFloats(64, 4));
  EXPECT_EQ(Version(run), 3);  // never lowered
  const PassRun again(run.output(), Decompress());
  EXPECT_TRUE(NothingChanged(again));
}

TEST(NetworkDecompress, UndoesPassesOverAll) {
  const ModelBytes model{SmallNetwork().Model()};
  for (const PassSpec& spec :
       {Palettize(Bits(5, {{"weight_threshold", "0"}})),
        Quantize(Bits(3, {{"weight_threshold", "0"}})), Quantize(Bits(16))}) {
    const PassRun compressed(model, spec);
    ASSERT_TRUE(IsDone(compressed, "second.weights", kNet));
    const PassRun run(compressed.output(), Decompress());
    ASSERT_TRUE(run.ok()) << run.error();
    for (const char* name : {"first.weights", "first.bias", "second.weights", "second.bias"}) {
      EXPECT_EQ(run.after().Values(name, kNet), compressed.after().Values(name, kNet)) << name;
      EXPECT_EQ(run.after().Find(name, kNet)->type, "const");
    }
    EXPECT_EQ(fs::file_size(run.output()), model.bytes.size());
  }
}

// Codes become fp32, and beside them fp16 may not stay.
TEST(NetworkDecompress, ALayerOfWhichAPartIsLeftOutStaysWhole) {
  const std::vector<float> scale = {0.01f};
  NetworkBuilder network;
  network.InnerProduct("fc", 64, 64, LinearWeights(8, std::string(4096, 'x'), scale, {}),
                       HalfWeights(RandomFloats(64, 1)));
  const ModelBytes model{network.Model(3)};
  const PassRun run(model, Decompress({{"skip_layer_types", "bias"}}));
  EXPECT_TRUE(Left(run, "fc.weights", "'fc.bias' stays fp16", kNet));
  EXPECT_TRUE(NothingChanged(run));
  EXPECT_TRUE(IsDone(PassRun(model, Decompress()), "fc.bias", kNet));
}

// The message holds the weights, and has no more than 2 GiB.
TEST(NetworkDecompress, BeyondTwoGigabytesIsRefused) {
  const std::vector<float> table = {-1, 1};
  const uint64_t rows = 32768, columns = 16385;
  const PassRun run(
      ModelBytes{NetworkBuilder()
                     .InnerProduct("huge", rows, columns,
                                   TableWeights(1, std::string(rows * columns / 8, '\x55'), table))
                     .Model(3)},
      Decompress());
  EXPECT_TRUE(Fails(run.result(), ErrorKind::kUsage,
                    {"decompress: ", "in.mlmodel' would have ", "at most 2147483647"}));
  EXPECT_TRUE(run.wrote_nothing());
}

// --- Several passes -----------------------------------------------------------------------------

NetworkBuilder TinyBiases() {
  NetworkBuilder network;
  network.InnerProduct("fc", 4, 64, Floats(256, 1), Floats(4, 2));
  return network;
}

// What a pass made may be so small that it is held in memory, and the next one takes it from there.
TEST(NetworkRecipe, PassesFollowEachOther) {
  const std::vector<std::vector<PassSpec>> recipes = {
      {Quantize({{"dtype", "fp16"}}), Decompress()},
      {Quantize({{"dtype", "fp16"}}), Palettize(Bits(2, {{"weight_threshold", "0"}}))},
      {Quantize(Bits(4, {{"weight_threshold", "0"}})), Decompress(),
       Palettize(Bits(1, {{"weight_threshold", "0"}})), Decompress(),
       Quantize({{"dtype", "fp16"}})}};
  for (const auto& recipe : recipes) {
    const TempDir dir;
    fs::path input = TinyBiases().Write(dir / "in.mlmodel");
    TestDiagnostics diagnostics;
    const auto reports = cmlc::RunAll(
        recipe, {.input = input, .output = dir / "all.mlmodel", .threads = 2}, diagnostics);
    ASSERT_TRUE(Succeeds(reports));
    // One by one, with a file after each.
    for (size_t i = 0; i < recipe.size(); ++i) {
      const fs::path output = dir / fmt::format("step{}.mlmodel", i);
      ASSERT_TRUE(Succeeds(
          cmlc::Run(recipe[i], {.input = input, .output = output, .threads = 2}, diagnostics)));
      input = output;
    }
    EXPECT_TRUE(ReadFile(dir / "all.mlmodel") == ReadFile(input));
  }
}

TEST(NetworkRecipe, PackagesKeepToTheirFiles) {
  const TempDir dir;
  PackageBuilder package(4);
  package.message().set_neuralnetwork(TinyBiases().message());
  const fs::path input = package.Write(dir / "in.mlpackage");
  TestDiagnostics diagnostics;
  const std::vector<PassSpec> recipe = {Quantize({{"dtype", "fp16"}}), Decompress(),
                                        Palettize(Bits(2, {{"weight_threshold", "0"}}))};
  ASSERT_TRUE(Succeeds(cmlc::RunAll(
      recipe, {.input = input, .output = dir / "out.mlpackage", .threads = 2}, diagnostics)));
  std::vector<std::string> before, after;
  for (const auto& [name, bytes] : ReadTree(input)) before.push_back(name);
  for (const auto& [name, bytes] : ReadTree(dir / "out.mlpackage")) after.push_back(name);
  EXPECT_EQ(after, before);
}

// --- Which weights ------------------------------------------------------------------------------

TEST(NetworkSelection, TheThresholdIsExclusive) {
  const ModelBytes model{SmallNetwork().Model()};
  const PassRun at(model, Palettize(Bits(2, {{"weight_threshold", "640"}})));
  EXPECT_TRUE(Left(at, "second.weights", "640 elements, weight_threshold is 640", kNet));
  const PassRun below(model, Palettize(Bits(2, {{"weight_threshold", "639"}})));
  EXPECT_TRUE(IsDone(below, "second.weights", kNet));
  EXPECT_TRUE(Left(below, "first.bias", "64 elements", kNet));
  const PassRun zero(model, Palettize(Bits(2, {{"weight_threshold", "0"}})));
  EXPECT_TRUE(IsDone(zero, "first.bias", kNet));
  EXPECT_TRUE(IsDone(zero, "second.bias", kNet));
}

NetworkBuilder Variety() {
  NetworkBuilder network;
  network
      .Convolution("depthwise", {.outputs = 64, .inputs = 1, .height = 8, .width = 8, .groups = 64},
                   Floats(4096, 1), Floats(64, 2))
      .Convolution("wide", {.outputs = 16, .inputs = 64, .height = 2, .width = 2}, Floats(4096, 3),
                   Floats(16, 4))
      .Convolution("thin", {.outputs = 256, .inputs = 3, .height = 2, .width = 2}, Floats(3072, 5),
                   Floats(256, 6))
      .InnerProduct("dense", 128, 32, Floats(4096, 7), Floats(128, 8));
  return network;
}

// The names of the weights that are done.
std::set<std::string> Done(const OptionValues& options, std::vector<Rule> rules = {},
                           const char* threshold = "300") {
  OptionValues all = Bits(2, options);
  all.emplace_back("weight_threshold", threshold);
  const PassRun run(ModelBytes{Variety().Model()}, Palettize(all, std::move(rules)));
  EXPECT_TRUE(run.ok()) << run.error();
  std::set<std::string> done;
  if (!run.ok()) return done;
  for (const WeightReport& weight : run.report().weights) {
    if (weight.fate == WeightReport::Fate::kDone) {
      done.insert(weight.name);
    } else if (options.size() == 1 && weight.element_count > 300) {  // says who left it out
      EXPECT_EQ(weight.category, "left alone by " + options[0].first) << weight.name;
    }
  }
  return done;
}

TEST(NetworkSelection, WordsThatNoLayerHasAreErrors) {
  const auto run = [](OptionValues options) {
    return PassRun(ModelBytes{Variety().Model()}, Palettize(Bits(2, std::move(options))));
  };
  const PassRun type = run({{"skip_layer_types", "bias,convolutoin"}});
  EXPECT_TRUE(Fails(type.result(), ErrorKind::kUsage,
                    {"skip_layer_types", "'convolutoin'", "did you mean 'convolution'?"}));
  EXPECT_TRUE(type.wrote_nothing());
  const PassRun name = run({{"include_layers_with_names", "wide,tin"}});
  EXPECT_TRUE(Fails(name.result(), ErrorKind::kUsage,
                    {"include_layers_with_names", "'tin'", "did you mean 'thin'"}));
  EXPECT_TRUE(name.wrote_nothing());
  // A type that other models have is none.
  EXPECT_TRUE(run({{"skip_layer_types", "embedding"}}).ok());
}

TEST(NetworkSelection, SelectorsLeaveLayersOut) {
  using Names = std::set<std::string>;
  const std::string depthwise = "depthwise.weights", wide = "wide.weights", thin = "thin.weights",
                    dense = "dense.weights";
  EXPECT_EQ(Done({}), (Names{depthwise, wide, thin, dense}));
  EXPECT_EQ(Done({{"skip_layer_types", "convolution"}}), Names{dense});
  EXPECT_EQ(Done({{"skip_layer_types", "innerProduct,depthwiseConv"}}), (Names{wide, thin}));
  EXPECT_EQ(Done({{"skip_layer_types", "depthwiseConv"}}), (Names{wide, thin, dense}));
  EXPECT_EQ(Done({{"include_layers_with_names", "wide,dense"}}), (Names{wide, dense}));
  EXPECT_EQ(Done({{"minimum_input_channels", "32"}}), (Names{wide, dense}));
  EXPECT_EQ(Done({{"minimum_input_channels", "33"}}), Names{wide});
  EXPECT_EQ(Done({{"maximum_input_channels", "3"}}), (Names{depthwise, thin}));
  EXPECT_EQ(Done({{"minimum_output_channels", "128"}}), (Names{thin, dense}));
  EXPECT_EQ(Done({{"maximum_output_channels", "64"}}), (Names{depthwise, wide}));
  EXPECT_EQ(Done({{"minimum_conv_kernel_channels", "4"}}), (Names{wide, dense}));
  EXPECT_EQ(Done({{"minimum_conv_kernel_channels", "3"}}), (Names{wide, thin, dense}));
  EXPECT_EQ(Done({{"minimum_conv_weight_count", "4096"}}), (Names{depthwise, wide, dense}));
  // Of several one is enough to leave a layer out.
  EXPECT_EQ(Done({{"maximum_input_channels", "3"}, {"minimum_output_channels", "65"}}).size(), 1u);
}

TEST(NetworkSelection, BiasesCanBeLeftOut) {
  const auto done = [](OptionValues options) {
    options.emplace_back("weight_threshold", "0");
    const PassRun run(ModelBytes{Variety().Model()}, Palettize(Bits(2, options)));
    EXPECT_TRUE(run.ok()) << run.error();
    size_t biases = 0, weights = 0;
    for (const WeightReport& weight : run.report().weights)
      if (weight.fate == WeightReport::Fate::kDone)
        ++(weight.name.ends_with(".bias") ? biases : weights);
    return std::pair(weights, biases);
  };
  EXPECT_EQ(done({}), (std::pair<size_t, size_t>(4, 4)));
  EXPECT_EQ(done({{"skip_layer_types", "bias"}}), (std::pair<size_t, size_t>(4, 0)));
  // The weights of a depthwise convolution, but not its bias.
  EXPECT_EQ(done({{"skip_layer_types", "depthwiseConv"}}), (std::pair<size_t, size_t>(3, 4)));
}

TEST(NetworkSelection, RulesGoByLayersAndWeights) {
  const PassRun run(
      ModelBytes{Variety().Model()},
      Palettize(Bits(4, {{"weight_threshold", "100"}}),
                {ByType("convolution", {{"nbits", "2"}}), ByName("thin", {{"nbits", "7"}}),
                 LeaveName("thin.bias"), LeaveType("innerProduct")}));
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(Written(run).Weight("wide", "90", 4096).bits, 2);
  EXPECT_EQ(Written(run).Weight("depthwise", "90", 4096).bits, 2);
  EXPECT_EQ(Written(run).Weight("thin", "90", 3072).bits, 7);
  EXPECT_TRUE(Left(run, "thin.bias", "thin.bias", kNet));
  EXPECT_TRUE(Left(run, "dense.weights", "innerProduct", kNet));
  const PassRun unknown(ModelBytes{Variety().Model()},
                        Palettize(Bits(4), {ByType("conv", {{"nbits", "2"}})}));
  EXPECT_TRUE(Fails(unknown.result(), ErrorKind::kUsage, {"conv"}));
  EXPECT_TRUE(unknown.wrote_nothing());
}

// --- Versions -----------------------------------------------------------------------------------

TEST(NetworkVersion, IsWhatTheResultNeeds) {
  for (const int version : {1, 2, 3, 4, 5, 9}) {
    const ModelBytes model{SmallNetwork().Model(version)};
    EXPECT_EQ(Version(PassRun(model, Quantize({{"dtype", "fp16"}}))), std::max(version, 2));
    EXPECT_EQ(Version(PassRun(model, Palettize(Bits(4)))), std::max(version, 3));
    EXPECT_EQ(Version(PassRun(model, Quantize(Bits(8)))), std::max(version, 3));
    EXPECT_EQ(Version(PassRun(model, Decompress())), version);
    EXPECT_EQ(Version(PassRun(model, NullPass())), version);
    // Nothing done, nothing needed.
    EXPECT_TRUE(NothingChanged(PassRun(model, Palettize(Bits(4, {{"weight_threshold", "5000"}})))));
  }
  // A layer that turns out to be left does not raise anything.
  std::vector<float> values = RandomFloats(4096, 1);
  values[0] = 1e6f;
  const ModelBytes model{NetworkBuilder().InnerProduct("fc", 64, 64, FloatWeights(values)).Model()};
  EXPECT_TRUE(NothingChanged(PassRun(model, Quantize({{"dtype", "fp16"}}))));
}

TEST(NetworkVersion, ATargetIsCheckedAndRaisesNothing) {
  const ModelBytes model{SmallNetwork().Model()};
  for (const char* target : {"iOS16", "iOS18", "iOS26"}) {
    const PassRun run(model, Palettize(Bits(4)), {.target = target});
    ASSERT_TRUE(IsDone(run, "first.weights", kNet));
    EXPECT_EQ(Version(run), 3);
  }
  const PassRun newer(ModelBytes{SmallNetwork().Model(9)}, Palettize(Bits(4)), {.target = "iOS17"});
  EXPECT_TRUE(Fails(newer.result(), ErrorKind::kUsage, {"--target iOS17", "already needs iOS18"}));
  EXPECT_TRUE(newer.wrote_nothing());
}

// --- Pipelines and nested networks --------------------------------------------------------------

TEST(NetworkPipeline, MembersOfAllKindsOfPipelinesAreDone) {
  const std::string large = SmallNetwork().Model(1), small = TinyBiases().Model(1, 403);
  for (const uint32_t kind : {202u, 200u, 201u}) {
    SCOPED_TRACE(kind);
    const PassRun run(ModelBytes{PipelineOf({small, large, small}, 1, kind)},
                      Quantize(Bits(5, {{"mode", "linear"}})));
    ASSERT_TRUE(IsDone(run, "first.weights", "1:network"));
    EXPECT_TRUE(Left(run, "fc.weights", "256 elements", "0:network"));
    EXPECT_EQ(Version(run), 3);
    EXPECT_EQ(Version(run, {0}), 1);
    EXPECT_EQ(Version(run, {1}), 3);
    EXPECT_EQ(Version(run, {2}), 1);
    const StoredWeight stored = Written(run, {1}).Weight("first", "20", 4096);
    EXPECT_EQ(stored.bits, 5);
    EXPECT_TRUE(Decodes(run, "first.weights", stored, 64, "1:network"));
    EXPECT_EQ(Written(run, {2}).Weight("fc", "20", 256).numbers, RandomFloats(256, 1));
  }
}

TEST(NetworkPipeline, PipelinesInPipelinesAreDone) {
  const std::string inner = PipelineOf({TinyBiases().Model(1), SmallNetwork().Model(1)}, 1, 200);
  const PassRun run(ModelBytes{PipelineOf({inner, SmallNetwork().Model(2)}, 2, 201)},
                    Palettize(Bits(7)));
  ASSERT_TRUE(IsDone(run, "first.weights", "0:1:network"));
  ASSERT_TRUE(IsDone(run, "first.weights", "1:network"));
  EXPECT_EQ(Version(run), 3);
  EXPECT_EQ(Version(run, {0}), 3);
  EXPECT_EQ(Version(run, {0, 0}), 1);
  EXPECT_EQ(Version(run, {0, 1}), 3);
  const PassRun back(run.output(), Decompress());
  ASSERT_TRUE(IsDone(back, "first.weights", "0:1:network"));
  EXPECT_EQ(Written(back, {0, 1}).Weight("first", "20", 4096).numbers,
            Written(run, {0, 1}).Weight("first", "20", 4096).Values());
}

// A version that was never written down is when there is one to write.
TEST(NetworkPipeline, AMemberWithoutAVersionGetsOne) {
  WireMessage member;
  member.AddBytes(500, SmallNetwork().message());
  const std::string bytes = *ToBytes(member, TensorStore());
  const PassRun run(ModelBytes{PipelineOf({bytes}, 3)}, Palettize(Bits(4)));
  ASSERT_TRUE(IsDone(run, "first.weights", "0:network"));
  EXPECT_EQ(Version(run, {0}), 3);
  EXPECT_TRUE(NothingChanged(PassRun(ModelBytes{PipelineOf({bytes}, 3)}, NullPass())));
}

TEST(NetworkPipeline, NetworksBetweenMlProgramsAreDone) {
  const PassRun run(SmallPipeline(), Palettize(Bits(4)));
  ASSERT_TRUE(IsDone(run, "weight", "0:main"));
  ASSERT_TRUE(IsDone(run, "first.weights", "1:network"));
  ASSERT_TRUE(IsDone(run, "weight", "2:main"));
  EXPECT_TRUE(QualityAgrees(run, "first.weights", "1:network"));
  EXPECT_EQ(run.after().model().specification_version, 7);
  EXPECT_EQ(run.after().model().members.at(1).specification_version, 4);
  // No file but those that a package has.
  std::set<std::string> before, after;
  for (const auto& [name, bytes] : ReadTree(run.input())) before.insert(name);
  for (const auto& [name, bytes] : ReadTree(run.output())) after.insert(name);
  EXPECT_EQ(after, before);
  const PassRun back(run.output(), Decompress());
  ASSERT_TRUE(IsDone(back, "weight", "2:main"));
  EXPECT_EQ(back.after().Values("first.weights", "1:network"),
            run.after().Values("first.weights", "1:network"));
}

TEST(NetworkPipeline, OptionsMustSuitWhatTheyAreFor) {
  // Five bits are nothing for the ML Programs, a group size is nothing for the network.
  const PassRun five(SmallPipeline(), Palettize(Bits(5)));
  EXPECT_TRUE(Fails(five.result(), ErrorKind::kUsage, {"palettize: nbits: is 5"}));
  EXPECT_TRUE(five.wrote_nothing());
  const PassRun grouped(SmallPipeline(), Palettize(Bits(4, {{"group_size", "16"}})));
  EXPECT_TRUE(
      Fails(grouped.result(), ErrorKind::kUsage, {"palettize: group_size: ", "NeuralNetwork"}));
  EXPECT_TRUE(grouped.wrote_nothing());
  // A rule settles it.
  const PassRun rule(SmallPipeline(),
                     Palettize(Bits(4, {{"group_size", "16"}}), {LeaveType("innerProduct")}));
  EXPECT_TRUE(IsDone(rule, "weight", "2:main"));
  EXPECT_TRUE(Left(rule, "first.weights", "innerProduct", "1:network"));
  const PassRun other(SmallPipeline(), Palettize(Bits(4), {ByType("innerProduct", Bits(7))}));
  EXPECT_TRUE(IsDone(other, "first.weights", "1:network"));
}

TEST(NetworkNested, WeightsInsideLayersAreDone) {
  WireMessage branch, loop;
  branch.AddBytes(1, NetworkBuilder().InnerProduct("yes", 64, 64, Floats(4096, 1)).message());
  branch.AddBytes(2, NetworkBuilder().InnerProduct("no", 64, 64, Floats(4096, 2)).message());
  loop.AddBytes(3, NetworkBuilder().Layer(680, "sign", {}).message());
  loop.AddBytes(4, NetworkBuilder().Layer(605, "choice", branch).message());
  NetworkBuilder network;
  network.Layer(615, "loop", loop).InnerProduct("after", 64, 64, Floats(4096, 3));
  const ModelBytes model{network.Model(4)};
  for (const PassSpec& spec : {Palettize(Bits(3)), Quantize(Bits(3)), Quantize(Bits(16))}) {
    const PassRun run(model, spec);
    const NetworkMessage choice = Written(run).Inner("loop", "4");
    const std::tuple<const char*, StoredWeight> weights[] = {
        {"yes", choice.Inner("choice", "1").Weight("yes", "20", 4096)},
        {"no", choice.Inner("choice", "2").Weight("no", "20", 4096)},
        {"after", Written(run).Weight("after", "20", 4096)}};
    for (const auto& [name, stored] : weights) {
      const std::string weight = fmt::format("{}.weights", name);
      ASSERT_TRUE(IsDone(run, weight, kNet));
      EXPECT_NE(stored.form, "fp32") << name;
      EXPECT_TRUE(Decodes(run, weight, stored, 64));
      EXPECT_TRUE(QualityAgrees(run, weight, kNet));
    }
    const PassRun back(run.output(), Decompress());
    ASSERT_TRUE(IsDone(back, "no.weights", kNet));
    EXPECT_EQ(back.after().Values("no.weights", kNet), run.after().Values("no.weights", kNet));
  }
}

// --- Options ------------------------------------------------------------------------------------

TEST(NetworkOptions, WhatANetworkCannotHoldIsRefused) {
  const TempDir dir;
  const ModelBytes model{SmallNetwork().Model()};
  const std::pair<PassSpec, const char*> refused[] = {
      {Palettize(Bits(4, {{"group_size", "16"}})), "palettize: group_size: "},
      {Palettize(Bits(4, {{"granularity", "per_grouped_channel"}})), "palettize: granularity: "},
      {Palettize(Bits(4, {{"channel_axis", "0"}})), "palettize: channel_axis: "},
      {Palettize(Bits(4, {{"cluster_dim", "2"}})), "palettize: cluster_dim: "},
      {Palettize(Bits(4, {{"per_channel_scale", "true"}})), "palettize: per_channel_scale: "},
      {Palettize(Bits(4, {{"lut_dtype", "int8"}})), "palettize: lut_dtype: "},
      {Palettize(Bits(4, {{"joint", "true"}})), "palettize: joint: "},
      {Quantize(Bits(4, {{"block_size", "32"}})), "quantize: block_size: "},
      {Quantize(Bits(4, {{"granularity", "per_block"}})), "quantize: "},
      {Quantize(Bits(4, {{"joint", "true"}})), "quantize: joint: "},
      {{"prune", {{"target_sparsity", "0.5"}}, {}}, "prune: "}};
  for (const auto& [spec, message] : refused) {
    const PassRun run(model, spec);
    EXPECT_TRUE(Fails(run.result(), ErrorKind::kUsage, {message, "NeuralNetwork"})) << message;
    EXPECT_TRUE(run.wrote_nothing()) << message;
  }
  const PassRun activations(model, {"activations", {}, {}});
  EXPECT_FALSE(activations.ok());
  EXPECT_TRUE(activations.wrote_nothing());
}

TEST(NetworkOptions, AnMlProgramTakesFewerNumbersOfBits) {
  const PackageBuilder program = LinearOf(DataType::kFloat32, {64, 64}, RandomFloats(4096, 1));
  for (const int bits : {5, 7}) {
    const PassRun run(program, Palettize(Bits(bits)));
    EXPECT_TRUE(
        Fails(run.result(), ErrorKind::kUsage, {fmt::format("palettize: nbits: is {}", bits)}));
    EXPECT_TRUE(run.wrote_nothing());
  }
  for (const int bits : {1, 2, 3, 5, 6, 7}) {
    const PassRun run(program, Quantize(Bits(bits)));
    EXPECT_TRUE(
        Fails(run.result(), ErrorKind::kUsage, {fmt::format("quantize: nbits: is {}", bits)}));
    EXPECT_TRUE(run.wrote_nothing());
  }
  EXPECT_TRUE(IsDone(PassRun(program, Quantize(Bits(4)))));
  EXPECT_TRUE(IsDone(PassRun(program, Quantize(Bits(8)))));
}

// --- Threads ------------------------------------------------------------------------------------

TEST(NetworkThreads, GiveTheSameBytes) {
  NetworkBuilder network = Variety();
  for (uint32_t i = 0; i < 12; ++i)
    network.InnerProduct(fmt::format("more{}", i), 64, i % 5 == 0 ? 1024 : 64,
                         Floats(64 * (i % 5 == 0 ? 1024 : 64), 100 + i), Floats(64, 200 + i));
  const ModelBytes model{network.Model()};
  for (const PassSpec& spec : {Palettize(Bits(3, {{"weight_threshold", "0"}})),
                               Quantize(Bits(5, {{"mode", "linear"}})), Quantize(Bits(16))}) {
    const PassRun one(model, spec, {.threads = 1});
    ASSERT_TRUE(IsDone(one, "more11.weights", kNet));
    for (const int threads : {2, 3}) {
      const PassRun many(model, spec, {.threads = threads});
      ASSERT_TRUE(many.ok()) << many.error();
      EXPECT_TRUE(ReadFile(one.output()) == ReadFile(many.output())) << threads << " threads";
    }
  }
}

// A weight of several chunks, which all threads work on together or one makes while it is written.
TEST(NetworkThreads, LargeWeightsAreTheSame) {
  const uint64_t rows = 1024, columns = 4200;
  NetworkBuilder network;
  network.InnerProduct("large", rows, columns, Floats(rows * columns, 1))
      .InnerProduct("half", rows, columns, HalfWeights(RandomFloats(rows * columns, 2)));
  const ModelBytes model{network.Model()};
  for (const PassSpec& spec : {Quantize(Bits(3, {{"scales", "minmax"}})), Quantize(Bits(16)),
                               Palettize(Bits(5, {{"mode", "uniform"}}))}) {
    const PassRun one(model, spec, {.threads = 1});
    ASSERT_TRUE(IsDone(one, "large.weights", kNet));
    const PassRun many(model, spec, {.threads = 3});
    ASSERT_TRUE(many.ok()) << many.error();
    EXPECT_TRUE(ReadFile(one.output()) == ReadFile(many.output()));
    for (const char* layer : {"large", "half"}) {
      const StoredWeight stored = Written(one).Weight(layer, "20", rows * columns);
      EXPECT_NE(stored.form, "fp32");
      EXPECT_TRUE(Decodes(one, fmt::format("{}.weights", layer), stored, columns));
    }
  }
}

// --- fp16 weights of ML Programs ----------------------------------------------------------------

TEST(ProgramHalves, WeightsAreCast) {
  const std::vector<float> values = RandomFloats(4096, 1);
  for (const int32_t version : {6, 7, 9}) {
    const PassRun run(LinearOf(DataType::kFloat32, {64, 64}, values, version),
                      Quantize({{"dtype", "fp16"}}));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(run.report().version_after, std::max(version, 7));
    EXPECT_EQ(run.after().Print("weight"),
              "constexpr_cast[output_dtype: string spec, source_val: fp16 [64, 64] file] -> "
              "fp32 [64, 64]");
    EXPECT_EQ(run.after().Values("weight"), Halves(values));
    EXPECT_TRUE(QualityAgrees(run));
    EXPECT_EQ(run.weight().bytes_after, 8192u);
    const PassRun back(run.output(), Decompress());
    ASSERT_TRUE(IsDone(back));
    EXPECT_EQ(back.after().Print("weight"), "const[val: fp32 [64, 64] file] -> fp32 [64, 64]");
    EXPECT_EQ(back.after().Values("weight"), Halves(values));
    const PassRun again(run.output(), Quantize({{"dtype", "fp16"}}));
    ASSERT_TRUE(again.ok()) << again.error();
    EXPECT_EQ(again.weight().fate, WeightReport::Fate::kAlreadyCompressed);
  }
}

TEST(ProgramHalves, WhatIsFp16OrBeyondItIsLeft) {
  const PassRun half(LinearOf(DataType::kFloat16, {64, 64}, RandomFloats(4096, 1)),
                     Quantize({{"dtype", "fp16"}}));
  EXPECT_TRUE(Left(half, "weight", ""));
  EXPECT_TRUE(SamePackage(half.input(), half.output(), /*manifest=*/false));
  std::vector<float> values = RandomFloats(4096, 1);
  values[17] = -65520;
  const PassRun beyond(LinearOf(DataType::kFloat32, {64, 64}, values, 6),
                       Quantize({{"dtype", "fp16"}}));
  EXPECT_TRUE(Left(beyond, "weight", "element 17 is 65520 or more"));
  EXPECT_EQ(beyond.report().version_after, 6);
  values[17] = -65519;
  EXPECT_TRUE(IsDone(
      PassRun(LinearOf(DataType::kFloat32, {64, 64}, values), Quantize({{"dtype", "fp16"}}))));
}

}  // namespace
}  // namespace cmlc::test
