// NeuralNetworks, read and written: a model that nothing changes comes out as it went in, values
// are what the format says, and what is wrong is refused with its place.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "cmlc/package.h"
#include "ir/layers.h"
#include "numeric/half.h"
#include "support/network_builder.h"
#include "support/network_reader.h"
#include "support/pass_run.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

using format::ToBytes;
using format::WireMessage;

// The message's bytes; it holds no tensor of a store.
std::string BytesOfMessage(const WireMessage& message) { return *ToBytes(message, TensorStore()); }

std::string Packed(const std::vector<uint64_t>& numbers) {  // that are small
  return {numbers.begin(), numbers.end()};
}

std::string RawFloats(const std::vector<float>& values) { return Fp32Bytes(values); }

// Packs codes from the high bit of a byte down, one bit at a time.
std::string HighFirst(const std::vector<uint8_t>& codes, int bits) {
  std::string bytes((codes.size() * static_cast<size_t>(bits) + 7) / 8, '\0');
  for (size_t i = 0; i < codes.size(); ++i)
    for (int bit = 0; bit < bits; ++bit) {
      const size_t at = i * static_cast<size_t>(bits) + static_cast<size_t>(bit);
      if (((codes[i] >> (bits - 1 - bit)) & 1) != 0)
        bytes[at / 8] = static_cast<char>(bytes[at / 8] | (0x80 >> (at % 8)));
    }
  return bytes;
}

class NetworkTest : public ::testing::Test {
 protected:
  fs::path Write(const std::string& model) {
    const fs::path path = dir_ / fmt::format("m{}.mlmodel", files_++);
    WriteFile(path, model);
    return path;
  }
  // What is written if nothing is changed.
  std::string Again(const std::string& model) {
    const auto package = Package::Open(Write(model));
    EXPECT_TRUE(Succeeds(package));
    if (!package.ok()) return "";
    const auto bytes = SerializedModel(**package);
    EXPECT_TRUE(Succeeds(bytes));
    return bytes.ok() ? *bytes : "";
  }
  Opened Open(const std::string& model) { return Opened(Write(model)); }
  ::testing::AssertionResult Refused(const std::string& model,
                                     std::initializer_list<std::string_view> fragments) {
    return Fails(Package::Open(Write(model)), ErrorKind::kBadInput, fragments);
  }
  ::testing::AssertionResult Refused(const NetworkBuilder& network,
                                     std::initializer_list<std::string_view> fragments) {
    return Refused(network.Model(), fragments);
  }
  const TempDir dir_;
  int files_ = 0;
};

// --- Every weight of every layer ----------------------------------------------------------------

struct WeightCase {
  uint32_t outer;  // the field of the message that holds it; 0: none
  int direction;   // which of several such messages
  uint32_t field;
  std::string name;  // of the layer's parameter
  Shape shape;
};

struct LayerCase {
  uint32_t kind;
  const char* type;
  WireMessage sizes;
  std::vector<WeightCase> weights;
};

WireMessage Sizes(const std::vector<std::pair<uint32_t, uint64_t>>& numbers,
                  const std::vector<std::pair<uint32_t, std::vector<uint64_t>>>& lists = {}) {
  WireMessage out;
  for (const auto& [field, number] : numbers) out.AddVarint(field, number);
  for (const auto& [field, list] : lists) out.AddBytes(field, Packed(list));
  return out;
}

std::vector<WeightCase> Lstm(int directions) {
  std::vector<WeightCase> weights;
  for (int d = 0; d < directions; ++d) {
    const auto add = [&](uint32_t field, const std::string& name, Shape shape) {
      weights.push_back(
          {20, d, field, fmt::format("weightParams[{}].{}", d, name), std::move(shape)});
    };
    add(1, "inputGateWeightMatrix", {4, 6});
    add(2, "forgetGateWeightMatrix", {4, 6});
    add(3, "blockInputWeightMatrix", {4, 6});
    add(4, "outputGateWeightMatrix", {4, 6});
    add(20, "inputGateRecursionMatrix", {4, 4});
    add(21, "forgetGateRecursionMatrix", {4, 4});
    add(22, "blockInputRecursionMatrix", {4, 4});
    add(23, "outputGateRecursionMatrix", {4, 4});
    add(40, "inputGateBiasVector", {4});
    add(41, "forgetGateBiasVector", {4});
    add(42, "blockInputBiasVector", {4});
    add(43, "outputGateBiasVector", {4});
    add(60, "inputGatePeepholeVector", {4});
    add(61, "forgetGatePeepholeVector", {4});
    add(62, "outputGatePeepholeVector", {4});
  }
  return weights;
}

// All layers that have weights, as the format's description lists them. Those of custom layers and
// of activations may have any number of values.
std::vector<LayerCase> LayersWithWeights() {
  const auto io = [](uint32_t in, uint32_t out) { return Sizes({{in, 6}, {out, 4}}); };
  return {
      {100,
       "convolution",
       Sizes({{1, 4}, {2, 3}, {10, 2}}, {{20, {3, 2}}}),
       {{0, 0, 90, "weights", {4, 3, 3, 2}}, {0, 0, 91, "bias", {4}}}},
      {100,
       "convolution",
       Sizes({{1, 4}, {2, 3}}, {}),  // 3 x 3 if nobody says
       {{0, 0, 90, "weights", {4, 3, 3, 3}}}},
      {100,
       "convolution",
       Sizes({{1, 4}, {2, 6}, {10, 2}, {60, 1}}, {{20, {3, 2}}}),
       {{0, 0, 90, "weights", {6, 2, 3, 2}}, {0, 0, 91, "bias", {4}}}},
      {130, "activation", {}, {{25, 0, 1, "alpha", {5}}}},
      {130, "activation", {}, {{71, 0, 1, "alpha", {5}}, {71, 0, 2, "beta", {7}}}},
      {140, "innerProduct", io(1, 2), {{0, 0, 20, "weights", {4, 6}}, {0, 0, 21, "bias", {4}}}},
      {150, "embedding", io(1, 2), {{0, 0, 20, "weights", {4, 6}}, {0, 0, 21, "bias", {4}}}},
      {160,
       "batchnorm",
       Sizes({{1, 4}}),
       {{0, 0, 15, "gamma", {4}},
        {0, 0, 16, "beta", {4}},
        {0, 0, 17, "mean", {4}},
        {0, 0, 18, "variance", {4}}}},
      {245,
       "scale",
       Sizes({}, {{1, {4, 2, 3}}, {4, {4}}}),
       {{0, 0, 2, "scale", {4, 2, 3}}, {0, 0, 5, "bias", {4}}}},
      {250, "bias", Sizes({}, {{1, {4, 2, 3}}}), {{0, 0, 2, "bias", {4, 2, 3}}}},
      {290, "loadConstant", Sizes({}, {{1, {2, 3, 4}}}), {{0, 0, 2, "data", {2, 3, 4}}}},
      {400,
       "simpleRecurrent",
       io(1, 2),
       {{0, 0, 30, "weightMatrix", {4, 6}},
        {0, 0, 31, "recursionMatrix", {4, 4}},
        {0, 0, 32, "biasVector", {4}}}},
      {410,
       "gru",
       io(1, 2),
       {{0, 0, 30, "updateGateWeightMatrix", {4, 6}},
        {0, 0, 31, "resetGateWeightMatrix", {4, 6}},
        {0, 0, 32, "outputGateWeightMatrix", {4, 6}},
        {0, 0, 50, "updateGateRecursionMatrix", {4, 4}},
        {0, 0, 51, "resetGateRecursionMatrix", {4, 4}},
        {0, 0, 52, "outputGateRecursionMatrix", {4, 4}},
        {0, 0, 70, "updateGateBiasVector", {4}},
        {0, 0, 71, "resetGateBiasVector", {4}},
        {0, 0, 72, "outputGateBiasVector", {4}}}},
      {420, "uniDirectionalLSTM", io(1, 2), Lstm(1)},
      {430, "biDirectionalLSTM", io(1, 2), Lstm(2)},
      {500, "custom", {}, {{0, 0, 20, "weights[0]", {5}}, {0, 1, 20, "weights[1]", {7}}}},
      {1040, "embeddingND", io(1, 2), {{0, 0, 20, "weights", {4, 6}}, {0, 0, 21, "bias", {4}}}},
      // Its columns are the output channels.
      {1045, "batchedMatmul", io(5, 6), {{0, 0, 8, "weights", {4, 6}}, {0, 0, 9, "bias", {4}}}},
      {1070, "loadConstantND", Sizes({}, {{1, {2, 3, 2}}}), {{0, 0, 2, "data", {2, 3, 2}}}},
      {1350,
       "layerNormalization",
       Sizes({}, {{1, {2, 3}}}),
       {{0, 0, 3, "gamma", {2, 3}}, {0, 0, 4, "beta", {2, 3}}}},
      {1471,
       "convolution3d",
       Sizes({{1, 4}, {2, 6}, {10, 2}, {20, 2}, {21, 3}, {22, 1}}),
       {{0, 0, 60, "weights", {4, 3, 2, 3, 1}}, {0, 0, 61, "bias", {4}}}},
  };
}

// The layer's parameters; `stored(i, count)` makes the i-th weight.
WireMessage ParametersOf(const LayerCase& layer,
                         const std::function<std::string(size_t, size_t)>& stored) {
  WireMessage out = layer.sizes;
  for (size_t i = 0; i < layer.weights.size();) {
    const WeightCase& first = layer.weights[i];
    const auto weight = [&](size_t at) {
      return stored(at, static_cast<size_t>(*ElementCount(layer.weights[at].shape)));
    };
    if (first.outer == 0) {
      out.AddBytes(first.field, weight(i++));
      continue;
    }
    WireMessage holder;
    for (; i < layer.weights.size() && layer.weights[i].outer == first.outer &&
           layer.weights[i].direction == first.direction;
         ++i)
      holder.AddBytes(layer.weights[i].field, weight(i));
    out.AddMessage(first.outer, std::move(holder));
  }
  return out;
}

// A way to store weights, and what the values are then.
struct Form {
  std::string name;
  int bits = 0;
  std::string type;  // of the constant
};

std::vector<Form> Forms() {
  std::vector<Form> forms = {{"fp32", 0, "const"}, {"fp16", 0, "const"}};
  for (int bits = 1; bits <= 8; ++bits) {
    forms.push_back({"linear", bits, "constexpr_scale_bias"});
    forms.push_back({"lut", bits, "constexpr_lut_to_dense"});
  }
  return forms;
}

std::string Stored(const Form& form, size_t seed, size_t count, std::vector<float>* values) {
  const std::vector<float> floats = RandomFloats(count, static_cast<uint32_t>(seed));
  if (form.name == "fp32") {
    *values = floats;
    return FloatWeights(floats);
  }
  if (form.name == "fp16") {
    for (const float value : floats)
      values->push_back(numeric::HalfToFloat(numeric::FloatToHalf(value)));
    return HalfWeights(floats);
  }
  const auto codes = RandomCodes(count, seed, 1 << form.bits);
  const std::string packed = HighFirst(codes, form.bits);
  if (form.name == "lut") {
    const std::vector<float> table =
        RandomFloats(size_t{1} << form.bits, static_cast<uint32_t>(seed + 1));
    for (const uint8_t code : codes) values->push_back(table[code]);
    return TableWeights(form.bits, packed, table);
  }
  const float scale = 0.37f, bias = -1.25f;
  for (const uint8_t code : codes)
    values->push_back(
        static_cast<float>(code * static_cast<double>(scale) + static_cast<double>(bias)));
  return LinearWeights(form.bits, packed, {&scale, 1}, {&bias, 1});
}

// The table of this test has all that the program's own has.
TEST_F(NetworkTest, EveryLayerWithWeightsIsTested) {
  std::set<std::pair<uint32_t, std::string>> tested, known;
  for (const LayerCase& layer : LayersWithWeights())
    for (const WeightCase& weight : layer.weights) {
      const std::string name = weight.name.substr(weight.name.rfind('.') + 1);
      tested.emplace(layer.kind, name.substr(0, name.find('[')));
    }
  for (uint32_t kind = 1; kind < 2000; ++kind)
    for (const LayerWeight& weight : WeightsOf(kind)) known.emplace(kind, weight.name);
  EXPECT_EQ(tested, known);
}

TEST_F(NetworkTest, EveryWeightInEveryFormIsKeptAndDecoded) {
  for (const LayerCase& layer : LayersWithWeights())
    for (const Form& form : Forms()) {
      SCOPED_TRACE(fmt::format("{} {} {}", layer.type, form.name, form.bits));
      std::vector<std::vector<float>> values(layer.weights.size());
      NetworkBuilder network;
      network.Layer(layer.kind, "it", ParametersOf(layer, [&](size_t i, size_t count) {
                      return Stored(form, i, count, &values[i]);
                    }));
      const std::string model = network.Model(4);
      EXPECT_TRUE(Again(model) == model);
      const Opened opened = Open(model);
      std::vector<std::string> ops;
      const bool counted = layer.kind == 130 || layer.kind == 500;
      for (size_t i = 0; i < layer.weights.size(); ++i) {
        // How many codes there are is not said in layers that nobody knows.
        if (counted && form.bits != 0) continue;
        const std::string name = "it." + layer.weights[i].name;
        ops.push_back(form.type + " " + name);
        const Operation* op = opened.Find(name, "network");
        ASSERT_NE(op, nullptr) << name;
        EXPECT_EQ(StaticShape(*op->outputs[0].type), layer.weights[i].shape) << name;
        EXPECT_EQ(opened.Values(name, "network"), values[i]) << name;
      }
      ops.push_back(std::string(layer.type) + " it");
      EXPECT_EQ(opened.Ops("network"), ops);
    }
}

TEST_F(NetworkTest, EveryKindOfModelWithANetworkIsKept) {
  for (const uint32_t kind : {500u, 403u, 303u}) {
    const std::string model = SmallNetwork().Model(1, kind);
    EXPECT_TRUE(Again(model) == model) << kind;
    EXPECT_EQ(Open(model).Values("second.bias", "network"), RandomFloats(10, 4));
  }
}

// --- Codes --------------------------------------------------------------------------------------

struct Packing {
  int bits;
  std::vector<int> codes;
  const char* network;  // as they lie in a network
  const char* program;  // and in an ML Program
};

// What the format's description works out by hand.
const std::vector<Packing> kPackings = {
    {4, {1, 2, 3, 4, 5}, "12 34 50", "21 43 05"},
    {3, {1, 2, 3, 4, 5, 6, 7, 0, 5}, "29 cb b8 a0", "d1 58 1f 05"},
    {6, {1, 2, 63, 32, 5}, "04 2f e0 14", "81 f0 83 05"},
    {2, {0, 3, 2, 1, 3}, "39 c0", "6c 03"},
    {8, {1, 255, 2}, "01 ff 02", "01 ff 02"},
};

TEST_F(NetworkTest, CodesAreReadAndWrittenFromTheHighBit) {
  for (const Packing& packing : kPackings) {
    const std::vector<float> scale = {2}, bias = {-3};
    NetworkBuilder network;
    network.InnerProduct("fc", 1, packing.codes.size(),
                         LinearWeights(packing.bits, FromHex(packing.network), scale, bias));
    const std::string model = network.Model(3);
    EXPECT_EQ(Again(model), model);
    const Opened opened = Open(model);
    const Value& data = opened.Operand("fc.weights", "data", "network");
    EXPECT_EQ(opened.Bytes(data), FromHex(packing.program));
    EXPECT_EQ(opened.Codes(data, packing.codes.size(), packing.bits), packing.codes);
    std::vector<float> values;
    for (const int code : packing.codes) values.push_back(static_cast<float>(2 * code - 3));
    EXPECT_EQ(opened.Values("fc.weights", "network"), values);
    const StoredWeight stored = NetworkOf(model).Weight("fc", "20", packing.codes.size());
    EXPECT_EQ(stored.codes, packing.codes);
  }
}

// More bytes than the codes take are legal.
TEST_F(NetworkTest, BytesBehindTheCodesDoNotMatter) {
  const std::vector<float> scale = {1};
  const std::string model =
      NetworkBuilder()
          .InnerProduct("fc", 1, 3, LinearWeights(4, FromHex("12 30 ff"), scale, {}))
          .Model(3);
  EXPECT_EQ(Open(model).Values("fc.weights", "network"), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(NetworkOf(Again(model)).Weight("fc", "20", 3).codes, (std::vector<int>{1, 2, 3}));
}

TEST_F(NetworkTest, AScaleWithoutABiasIsKept) {
  const std::vector<float> scale = {0.5f};
  const std::string model =
      NetworkBuilder()
          .InnerProduct("fc", 1, 3, LinearWeights(8, "\x01\x02\xff", scale, {}))
          .Model(3);
  EXPECT_EQ(Again(model), model);
  EXPECT_EQ(Open(model).Values("fc.weights", "network"), (std::vector<float>{0.5f, 1, 127.5f}));
}

// Scales of channels, along the axis on which each layer has them.
TEST_F(NetworkTest, ScalesBelongToOutputChannels) {
  struct Case {
    LayerCase layer;
    size_t channels, inner;
  };
  const auto of = [](uint32_t kind, WireMessage sizes, uint32_t field, Shape shape) {
    return LayerCase{kind, "", std::move(sizes), {{0, 0, field, "", std::move(shape)}}};
  };
  const std::vector<Case> cases = {
      {of(100, Sizes({{1, 3}, {2, 2}}, {{20, {2, 1}}}), 90, {3, 2, 2, 1}), 3, 4},
      {of(100, Sizes({{1, 3}, {2, 2}, {60, 1}}, {{20, {2, 1}}}), 90, {2, 3, 2, 1}), 3, 2},
      {of(140, Sizes({{1, 5}, {2, 3}}), 20, {3, 5}), 3, 5},
      {of(1045, Sizes({{5, 5}, {6, 3}}), 8, {3, 5}), 3, 5},
      {of(1040, Sizes({{1, 5}, {2, 3}}), 20, {3, 5}), 3, 5},
      {of(400, Sizes({{1, 5}, {2, 3}}), 31, {3, 3}), 3, 3},
      {of(245, Sizes({}, {{1, {3, 2, 2}}}), 2, {3, 2, 2}), 3, 4},
      {of(290, Sizes({}, {{1, {3, 1, 2}}}), 2, {3, 1, 2}), 3, 2},
      // A grouped deconvolution, as the validator wants it and as coremltools writes it.
      {of(100, Sizes({{1, 6}, {2, 4}, {10, 2}, {60, 1}}, {{20, {1, 2}}}), 90, {4, 3, 1, 2}), 3, 2},
  };
  for (const auto& [layer, channels, inner] : cases) {
    SCOPED_TRACE(fmt::format("layer {}", layer.kind));
    const auto count = static_cast<size_t>(*ElementCount(layer.weights[0].shape));
    const auto codes = RandomCodes(count, layer.kind, 32);
    const std::vector<float> scale = {1, 2, 4}, bias = {-1, 5, 100};
    NetworkBuilder network;
    network.Layer(layer.kind, "it", ParametersOf(layer, [&](size_t, size_t) {
                    return LinearWeights(5, HighFirst(codes, 5), scale, bias);
                  }));
    const std::string model = network.Model(3);
    EXPECT_EQ(Again(model), model);
    const StoredWeight stored =
        NetworkOf(model).Weight("it", std::to_string(layer.weights[0].field), count);
    std::vector<float> expected;
    for (size_t i = 0; i < count; ++i)
      expected.push_back(static_cast<float>(codes[i]) * scale[i / inner % channels] +
                         bias[i / inner % channels]);
    EXPECT_EQ(stored.Values(inner), expected);
    const Opened opened = Open(model);
    const std::string name = opened.Ops("network").at(0);
    EXPECT_EQ(opened.Values(name.substr(name.find(' ') + 1), "network"), expected);
  }
}

TEST_F(NetworkTest, GroupedDeconvolutionsMayHaveAScaleForEachOutputChannel) {
  // [in 4, out / groups 3] of 2 groups: rows 0 and 1 make channels 0 to 2, the others 3 to 5.
  const std::vector<float> scale = {1, 2, 3, 4, 5, 6};
  const std::string model =
      NetworkBuilder()
          .Convolution("up", {.outputs = 6, .inputs = 4, .groups = 2, .deconvolution = true},
                       LinearWeights(8, std::string(12, '\1'), scale, {}))
          .Model(3);
  EXPECT_EQ(Again(model), model);
  EXPECT_EQ(Open(model).Values("up.weights", "network"),
            (std::vector<float>{1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6}));
}

TEST_F(NetworkTest, DynamicInt8IsKept) {
  for (const uint32_t kind : {140u, 1045u}) {
    WireMessage parameters;
    parameters.AddVarint(kind == 140 ? 1 : 5, 3);
    parameters.AddVarint(kind == 140 ? 2 : 6, 1);
    parameters.AddBytes(kind == 140 ? 20 : 8, Int8Weights("\x01\xff\x80", 0.5f));
    parameters.AddVarint(kind == 140 ? 22 : 10, 1);
    const std::string model = NetworkBuilder().Layer(kind, "fc", parameters).Model(5);
    EXPECT_EQ(Again(model), model);
    const Opened opened = Open(model);
    EXPECT_EQ(opened.Values("fc.weights", "network"), (std::vector<float>{0.5f, -0.5f, -64}));
    EXPECT_EQ(opened.Find("fc.weights", "network")->type, "constexpr_blockwise_shift_scale");
  }
}

// --- What is kept -------------------------------------------------------------------------------

NetworkBuilder OneProduct(const std::string& name, float value) {
  const std::vector<float> weights(6, value);
  NetworkBuilder network;
  network.InnerProduct(name, 2, 3, FloatWeights(weights));
  return network;
}

TEST_F(NetworkTest, NetworksInsideLayersAreRead) {
  WireMessage branch, loop, outer_branch;
  branch.AddBytes(1, OneProduct("yes", 1).message());
  branch.AddBytes(2, OneProduct("no", 2).message());
  loop.AddVarint(1, 7);
  loop.AddBytes(2, "condition");
  loop.AddBytes(3, OneProduct("check", 3).message());
  loop.AddBytes(4, NetworkBuilder().Layer(605, "inner", branch).message());
  outer_branch.AddBytes(1, NetworkBuilder().Layer(615, "loop", loop).message());
  NetworkBuilder network = OneProduct("before", 4);
  network.Layer(605, "choice", outer_branch).InnerProduct("after", 1, 1, FloatWeights({{5.0f}}));
  const std::string model = network.Model(4);
  EXPECT_EQ(Again(model), model);
  const Opened opened = Open(model);
  EXPECT_EQ(opened.Ops("network"),
            (std::vector<std::string>{"const before.weights", "innerProduct before",
                                      "branch choice", "loop loop", "const check.weights",
                                      "innerProduct check", "branch inner", "const yes.weights",
                                      "innerProduct yes", "const no.weights", "innerProduct no",
                                      "const after.weights", "innerProduct after"}));
  EXPECT_EQ(opened.Values("no.weights", "network"), std::vector<float>(6, 2));
  EXPECT_EQ(opened.Values("after.weights", "network"), std::vector<float>{5});
}

// Layers of one name, and weights that are called like what a layer makes or reads.
TEST_F(NetworkTest, NamesOfWeightsAreTheirOwn) {
  NetworkBuilder network = OneProduct("same", 1);
  network.InnerProduct("same", 2, 3, FloatWeights(std::vector<float>(6, 2)));
  network.InnerProduct("", 1, 1, FloatWeights({{3.0f}}));
  WireMessage branch;
  branch.AddBytes(1, OneProduct("same", 4).message());
  network.Layer(605, "branch", branch);
  // "y0" is what the first layer makes.
  network.Layer(140, "y0.weights", {});
  WireMessage layer;
  layer.AddBytes(1, "more");
  layer.AddBytes(2, "other.weights");
  layer.AddBytes(3, "made");
  layer.AddBytes(140, BytesOfMessage(Sizes({{1, 1}, {2, 1}})));
  WireMessage other;
  other.AddBytes(1, "other");
  other.AddBytes(2, "x");
  other.AddBytes(3, "other.weights");
  WireMessage parameters = Sizes({{1, 1}, {2, 1}});
  parameters.AddBytes(20, FloatWeights({{6.0f}}));
  other.AddMessage(140, parameters);
  WireMessage model;
  model.AddVarint(1, 4);
  WireMessage all;
  all.AddRaw(network.message());
  all.AddMessage(1, other);
  all.AddMessage(1, layer);
  model.AddMessage(500, all);
  const std::string bytes = BytesOfMessage(model);
  EXPECT_EQ(Again(bytes), bytes);
  const Opened opened = Open(bytes);
  const auto ops = opened.Ops("network");
  std::set<std::string> names;
  int weights = 0;
  for (const std::string& op : ops)
    if (op.starts_with("const ")) {
      EXPECT_TRUE(names.insert(op).second) << op;
      ++weights;
    }
  EXPECT_EQ(weights, 5);
  EXPECT_EQ(opened.Values("same.weights", "network"), std::vector<float>(6, 1));
  EXPECT_EQ(opened.Values("same.weights#2", "network"), std::vector<float>(6, 2));
  EXPECT_EQ(opened.Values("same.weights#3", "network"), std::vector<float>(6, 4));
  EXPECT_EQ(opened.Values("other.weights#2", "network"), std::vector<float>{6});
}

TEST_F(NetworkTest, WhatNobodyKnowsIsKept) {
  const std::string floats = FloatWeights(RandomFloats(6, 1));
  WireMessage weight;
  weight.AddRaw(floats);
  weight.AddVarint(50, 1);
  weight.AddBytes(77, "from the future");
  WireMessage parameters = Sizes({{1, 3}, {2, 2}});
  parameters.AddBytes(20, BytesOfMessage(weight));
  parameters.AddVarint(998, 5);
  parameters.AddRaw(FromHex("fb3e fc3e"));  // a group, 1007
  WireMessage layer;
  layer.AddBytes(1, "fc");
  layer.AddVarint(4, 9);
  layer.AddBytes(2, "x");
  layer.AddBytes(99, "new");
  layer.AddMessage(140, parameters);
  layer.AddBytes(5000, FromHex("0801"));
  WireMessage strange;
  strange.AddBytes(1, "strange");
  strange.AddBytes(3, "y");
  strange.AddBytes(4321, FromHex("0a0361626310 05"));
  WireMessage network;
  network.AddMessage(1, layer);
  network.AddMessage(1, strange);
  network.AddBytes(1, "");  // a layer of which nothing is said
  network.AddBytes(2, "preprocessing");
  network.AddVarint(5, 1);
  network.AddBytes(777, "more");
  WireMessage model;
  model.AddVarint(1, 4);
  model.AddBytes(2, FromHex("a20600"));
  model.AddMessage(500, network);
  model.AddBytes(4000, "at the end");
  const std::string bytes = BytesOfMessage(model);
  EXPECT_EQ(Again(bytes), bytes);
  const Opened opened = Open(bytes);
  EXPECT_EQ(opened.Ops("network"), (std::vector<std::string>{"const fc.weights", "innerProduct fc",
                                                             "layer 4321 strange", "layer 0 "}));
  EXPECT_EQ(opened.Values("fc.weights", "network"), RandomFloats(6, 1));
}

// Other writers may put fields in another order.
TEST_F(NetworkTest, FieldsInDescendingOrderAreKept) {
  WireMessage parameters;
  parameters.AddBytes(91, FloatWeights(RandomFloats(2, 2)));
  parameters.AddBytes(90, FloatWeights(RandomFloats(12, 1)));
  parameters.AddVarint(70, 1);
  parameters.AddVarint(20, 1);
  parameters.AddVarint(20, 2);
  parameters.AddVarint(2, 3);
  parameters.AddVarint(1, 2);
  WireMessage layer;
  layer.AddMessage(100, parameters);
  layer.AddBytes(3, "y");
  layer.AddBytes(2, "x");
  layer.AddBytes(1, "conv");
  WireMessage network;
  network.AddVarint(5, 1);
  network.AddMessage(1, layer);
  WireMessage model;
  model.AddMessage(500, network);
  model.AddVarint(1, 4);
  const std::string bytes = BytesOfMessage(model);
  EXPECT_EQ(NetworkOf(Again(bytes)).Weight("conv", "91", 2).numbers, RandomFloats(2, 2));
  const Opened opened = Open(bytes);
  EXPECT_EQ(opened.Values("conv.weights", "network"), RandomFloats(12, 1));
  EXPECT_EQ(opened.Values("conv.bias", "network"), RandomFloats(2, 2));
  EXPECT_EQ(StaticShape(*opened.Find("conv.weights", "network")->outputs[0].type),
            (Shape{2, 3, 1, 2}));
  EXPECT_EQ(opened.model().specification_version, 4);
  // Within a weight, too: codes behind their parameters.
  const std::string codes = FromHex("c2020b 08 04 aa0606 0a04 00000040  f20102 1230");
  const std::string small = NetworkBuilder().InnerProduct("fc", 1, 3, codes).Model(3);
  EXPECT_EQ(Open(small).Values("fc.weights", "network"), (std::vector<float>{2, 4, 6}));
  EXPECT_EQ(NetworkOf(Again(small)).Weight("fc", "20", 3).Values(), (std::vector<float>{2, 4, 6}));
}

// Repeated numbers may lie in any number of pieces, each packed or not.
TEST_F(NetworkTest, FloatsInPiecesAreTheSameFloats) {
  const std::vector<float> values = RandomFloats(6, 1);
  const std::vector<float> head(values.begin(), values.begin() + 2);
  const std::vector<float> middle(values.begin() + 2, values.begin() + 3);
  const std::vector<float> tail(values.begin() + 3, values.end());
  for (const std::string& weights :
       {UnpackedWeights(values), FloatWeights(head) + FloatWeights(middle) + FloatWeights(tail),
        FloatWeights(head) + UnpackedWeights(middle) + FloatWeights(tail),
        FloatWeights({}) + FloatWeights(values) + FloatWeights({})}) {
    const std::string model = NetworkBuilder().InnerProduct("fc", 2, 3, weights).Model();
    EXPECT_EQ(Open(model).Values("fc.weights", "network"), values);
    EXPECT_EQ(NetworkOf(Again(model)).Weight("fc", "20", 6).numbers, values);
  }
  // Scales and tables, too.
  WireMessage linear, quantization, weight;
  linear.AddRaw(UnpackedWeights({{2.0f}}) + UnpackedWeights({{3.0f}}));
  linear.AddBytes(2, RawFloats({1}));
  linear.AddBytes(2, RawFloats({-1}));
  quantization.AddVarint(1, 8);
  quantization.AddMessage(101, linear);
  weight.AddBytes(30, std::string("\1\2\3\1\2\3", 6));
  weight.AddMessage(40, quantization);
  const std::string model =
      NetworkBuilder().InnerProduct("fc", 2, 3, BytesOfMessage(weight)).Model();
  EXPECT_EQ(Open(model).Values("fc.weights", "network"), (std::vector<float>{3, 5, 7, 2, 5, 8}));
  EXPECT_EQ(NetworkOf(Again(model)).Weight("fc", "20", 6).Values(3),
            (std::vector<float>{3, 5, 7, 2, 5, 8}));
}

TEST_F(NetworkTest, WeightsWithoutValuesStayAsTheyAre) {
  const std::string looks_like_bias = "b" + std::string(1, 'i') + std::string("as\0", 3) +
                                      std::string(105 - 3, 'z');  // an unknown field, 12
  for (const std::string& empty : {std::string(), FromHex("90 03 01"), FromHex("90 03 00"),
                                   FromHex("0a 00 12 00 f2 01 00"), looks_like_bias}) {
    NetworkBuilder network;
    network.InnerProduct("fc", 2, 3, empty, FloatWeights(RandomFloats(2, 1)));
    const std::string model = network.Model();
    EXPECT_EQ(Again(model), model);
    EXPECT_EQ(Open(model).Ops("network"),
              (std::vector<std::string>{"const fc.bias", "innerProduct fc"}));
  }
}

TEST_F(NetworkTest, AnEmptyNetworkIsKept) {
  const std::string model = NetworkBuilder().Model();
  EXPECT_EQ(Again(model), model);
  EXPECT_TRUE(Open(model).Ops("network").empty());
}

// --- Pipelines ----------------------------------------------------------------------------------

TEST_F(NetworkTest, PipelinesOfAllKindsAreKept) {
  const std::string first = OneProduct("first", 1).Model(1);
  const std::string second = OneProduct("second", 2).Model(3, 403);
  for (const uint32_t kind : {202u, 200u, 201u}) {
    const std::string inner = PipelineOf({first, second}, 3, kind);
    EXPECT_EQ(Again(inner), inner);
    const std::string outer = PipelineOf({second, inner}, 3, kind);
    EXPECT_EQ(Again(outer), outer);
    const Opened opened = Open(outer);
    EXPECT_EQ(opened.Values("second.weights", "0:network"), std::vector<float>(6, 2));
    EXPECT_EQ(opened.Values("first.weights", "1:0:network"), std::vector<float>(6, 1));
    EXPECT_EQ(opened.model().members.at(1).members.at(1).specification_version, 3);
  }
}

// --- What is refused ----------------------------------------------------------------------------

NetworkBuilder Product(const std::string& weights, const std::string& bias = {}) {
  NetworkBuilder network;
  network.InnerProduct("fc", 2, 3, weights, bias);
  return network;
}

TEST_F(NetworkTest, WrongNumbersOfValuesAreRefused) {
  for (const size_t count : {1, 5, 7}) {
    const std::vector<float> values(count, 1);
    for (const std::string& weights :
         {FloatWeights(values), UnpackedWeights(values), HalfWeights(values)})
      EXPECT_TRUE(Refused(Product(weights), {"mlmodel: layer 'fc', weights: has ",
                                             fmt::format("{} values", count), "expected 6"}));
    EXPECT_TRUE(Refused(Product(FloatWeights(std::vector<float>(6)), FloatWeights(values)),
                        {"layer 'fc', bias: ", "expected 2"}));
  }
  WireMessage odd;
  odd.AddBytes(1, "12345");
  EXPECT_TRUE(Refused(Product(BytesOfMessage(odd)), {"layer 'fc', weights: ", "corrupt"}));
  WireMessage halves;
  halves.AddBytes(2, std::string(13, 'x'));
  EXPECT_TRUE(Refused(Product(BytesOfMessage(halves)), {"layer 'fc', weights: "}));
}

TEST_F(NetworkTest, TwoStoragesAtOnceAreRefused) {
  const std::vector<float> values(6, 1);
  const std::vector<float> one = {1};
  const std::string forms[] = {FloatWeights(values), HalfWeights(values),
                               LinearWeights(8, "123456", one, {}), Int8Weights("123456", 1)};
  for (const std::string& a : forms)
    for (const std::string& b : forms)
      if (a != b) {
        EXPECT_TRUE(Refused(Product(a + b), {"layer 'fc', weights: "})) << a.size() << b.size();
      }
  EXPECT_TRUE(Refused(Product(forms[0] + forms[1]), {"stored in several ways at once"}));
  // Bytes, unlike repeated numbers, come in one piece.
  EXPECT_TRUE(Refused(Product(forms[1] + forms[1]), {"layer 'fc', weights: ", "corrupt"}));
}

TEST_F(NetworkTest, WrongCodesAreRefused) {
  const std::vector<float> one = {1}, two = {1, 2}, three = {1, 2, 3}, four = {1, 2, 3, 4};
  const auto refused = [&](const std::string& weights, std::string_view what) {
    return Refused(Product(weights), {"mlmodel: layer 'fc', weights: ", what});
  };
  EXPECT_TRUE(refused(LinearWeights(0, "123456", one, {}), "of 0 bits, expected 1 to 8"));
  EXPECT_TRUE(refused(LinearWeights(9, "123456789", one, {}), "of 9 bits, expected 1 to 8"));
  EXPECT_TRUE(refused(TableWeights(16, "123456789012", four), "of 16 bits"));
  EXPECT_TRUE(refused(LinearWeights(8, "12345", one, {}), "5 bytes of 8-bit codes, expected 6"));
  EXPECT_TRUE(refused(LinearWeights(3, "12", one, {}), "2 bytes of 3-bit codes, expected 3"));
  EXPECT_TRUE(refused(LinearWeights(8, "123456", {}, {}), "has 0 scales"));
  EXPECT_TRUE(refused(LinearWeights(8, "123456", three, {}), "has 3 scales"));
  EXPECT_TRUE(refused(LinearWeights(8, "123456", one, two), "1 scales and 2 biases"));
  EXPECT_TRUE(refused(LinearWeights(8, "123456", two, one), "2 scales and 1 biases"));
  EXPECT_TRUE(refused(TableWeights(2, "12", three), "LUT of 3 entries for 2 bits, expected 4"));
  EXPECT_TRUE(refused(TableWeights(1, "1", four), "LUT of 4 entries for 1 bits, expected 2"));
  EXPECT_TRUE(refused(TableWeights(1, "1", {}), "LUT of 0 entries"));
  // A bias of a layer has one scale.
  EXPECT_TRUE(Refused(Product(FloatWeights(std::vector<float>(6)), LinearWeights(8, "12", two, {})),
                      {"layer 'fc', bias: has 2 scales"}));
  // Codes of which nothing more is said, or too much.
  WireMessage bare;
  bare.AddBytes(30, "123456");
  EXPECT_TRUE(refused(BytesOfMessage(bare), "of 0 bits"));
  WireMessage nothing;
  nothing.AddVarint(1, 8);
  bare.AddMessage(40, nothing);
  EXPECT_TRUE(refused(BytesOfMessage(bare), "neither scales nor a LUT"));
  WireMessage both, linear, table, codes;
  linear.AddBytes(1, RawFloats({1}));
  table.AddBytes(1, RawFloats({1, 2}));
  both.AddVarint(1, 1);
  both.AddMessage(101, linear);
  both.AddMessage(102, table);
  codes.AddBytes(30, "1");
  codes.AddMessage(40, both);
  EXPECT_TRUE(refused(BytesOfMessage(codes), "or both"));
}

TEST_F(NetworkTest, WrongInt8CodesAreRefused) {
  const auto refused = [&](int bits, const std::vector<float>& scale,
                           const std::vector<float>& bias, bool table, std::string_view what) {
    WireMessage inner, quantization, weight;
    inner.AddBytes(1, RawFloats(scale));
    if (!bias.empty()) inner.AddBytes(2, RawFloats(bias));
    quantization.AddVarint(1, static_cast<uint64_t>(bits));
    quantization.AddMessage(table ? 102 : 101, inner);
    weight.AddBytes(31, "123456");
    weight.AddMessage(40, quantization);
    return Refused(Product(BytesOfMessage(weight)), {"layer 'fc', weights: ", what});
  };
  EXPECT_TRUE(refused(7, {1}, {}, false, "int8 codes"));
  EXPECT_TRUE(refused(8, {1, 2}, {}, false, "int8 codes"));
  EXPECT_TRUE(refused(8, {1}, {1}, false, "int8 codes"));
  EXPECT_TRUE(refused(1, {1, 2}, {}, true, "int8 codes"));
}

TEST_F(NetworkTest, WrongSizesAreRefused) {
  const auto with = [](WireMessage sizes, uint32_t kind, uint32_t field) {
    sizes.AddBytes(field, FloatWeights(std::vector<float>(6)));
    return NetworkBuilder().Layer(kind, "it", std::move(sizes));
  };
  EXPECT_TRUE(Refused(with(Sizes({{1, UINT64_MAX}, {2, 2}}), 140, 20), {"layer 'it', weights: "}));
  EXPECT_TRUE(Refused(with(Sizes({{1, uint64_t{1} << 33}, {2, uint64_t{1} << 33}}), 140, 20),
                      {"layer 'it', weights: ", "out of range"}));
  EXPECT_TRUE(Refused(with(Sizes({{1, uint64_t{1} << 62}, {2, 2}}), 140, 20),
                      {"layer 'it', weights: ", "out of range"}));
  EXPECT_TRUE(Refused(with({}, 140, 20), {"layer 'it', weights: has 6 values, expected 0"}));
  WireMessage shape;
  shape.AddBytes(1, FromHex("ff"));
  EXPECT_TRUE(Refused(with(shape, 1070, 2), {"layer 'it': its shape is corrupt"}));
  WireMessage kernel = Sizes({{1, 1}, {2, 1}});
  kernel.AddBytes(20, FromHex("0380"));
  EXPECT_TRUE(Refused(with(kernel, 100, 90), {"layer 'it': its kernel size is corrupt"}));
}

TEST_F(NetworkTest, LayersInPiecesAreRefused) {
  WireMessage parameters = Sizes({{1, 3}, {2, 2}});
  parameters.AddBytes(20, FloatWeights(std::vector<float>(6)));
  const auto model_of = [](const WireMessage& layer) {
    WireMessage network, model;
    network.AddMessage(1, layer);
    model.AddVarint(1, 4);
    model.AddMessage(500, network);
    return BytesOfMessage(model);
  };
  WireMessage pieces;
  pieces.AddBytes(1, "fc");
  pieces.AddMessage(140, parameters);
  WireMessage two_kinds = pieces;
  pieces.AddMessage(140, {});
  EXPECT_TRUE(Refused(model_of(pieces), {"layer 'fc': its parameters come in pieces"}));
  two_kinds.AddMessage(150, {});
  EXPECT_TRUE(Refused(model_of(two_kinds), {"layer 'fc': its message is of two kinds"}));

  parameters.AddBytes(20, FloatWeights(std::vector<float>(6)));
  EXPECT_TRUE(Refused(NetworkBuilder().Layer(140, "fc", parameters),
                      {"layer 'fc': weights is there twice"}));
  WireMessage branch;
  branch.AddBytes(1, "");
  branch.AddBytes(1, "");
  EXPECT_TRUE(
      Refused(NetworkBuilder().Layer(605, "choice", branch), {"layer 'choice': ", "twice"}));
  WireMessage relu, activation;
  relu.AddBytes(1, FloatWeights({{1.0f}}));
  activation.AddMessage(25, relu);
  WireMessage other_kind = activation;
  activation.AddMessage(25, relu);
  EXPECT_TRUE(
      Refused(NetworkBuilder().Layer(130, "relu", activation), {"layer 'relu': ", "twice"}));
  other_kind.AddMessage(71, relu);
  EXPECT_TRUE(
      Refused(NetworkBuilder().Layer(130, "relu", other_kind), {"layer 'relu', alpha: ", "twice"}));
}

// Of a weight's fields, those with the wire type of another.
TEST_F(NetworkTest, FieldsOfAnotherWireTypeAreRefused) {
  for (const char* field : {"08 8180808008",        // floatValue as a number of 5 bytes
                            "09 0000803f0000803f",  // as 8 bytes
                            "0b 15 0000803f 0c",    // as a group
                            "10 01", "f001 01", "f801 01", "c002 01"})
    EXPECT_TRUE(Refused(Product(FromHex(field)), {"layer 'fc', weights: ", "corrupt"})) << field;
}

TEST_F(NetworkTest, TruncatedAnywhereIsRefused) {
  WireMessage branch;
  branch.AddBytes(1, OneProduct("yes", 1).message());
  NetworkBuilder network = Product(HalfWeights(RandomFloats(6, 1)));
  network.Layer(605, "choice", branch);
  const std::string message = network.message();
  for (size_t size = 0; size < message.size(); ++size) {
    WireMessage model;
    model.AddVarint(1, 4);
    model.AddBytes(500, message.substr(0, size));
    const std::string bytes = BytesOfMessage(model);
    // Between two layers a network may end.
    const bool whole =
        size == 0 || size == Product(HalfWeights(RandomFloats(6, 1))).message().size();
    const auto package = Package::Open(Write(bytes));
    if (whole)
      EXPECT_TRUE(Succeeds(package));
    else
      EXPECT_TRUE(Fails(package, ErrorKind::kBadInput, {"mlmodel: ", "truncated or corrupt"}));
  }
  // And the file itself.
  const std::string file = network.Model();
  for (size_t size = 2; size < file.size(); ++size)
    EXPECT_TRUE(Refused(file.substr(0, size) == FromHex("0801") ? "\x08" : file.substr(0, size),
                        {"mlmodel: "}))
        << size;
}

TEST_F(NetworkTest, TooDeepNetworksAreRefused) {
  const auto nested = [](int levels) {
    std::string message = OneProduct("innermost", 1).message();
    for (int i = 0; i < levels; ++i) {
      WireMessage branch;
      branch.AddBytes(1, message);
      message = NetworkBuilder().Layer(605, fmt::format("level{}", i), branch).message();
    }
    WireMessage model;
    model.AddVarint(1, 4);
    model.AddBytes(500, message);
    return BytesOfMessage(model);
  };
  const std::string deep = nested(50);
  EXPECT_EQ(Again(deep), deep);
  EXPECT_EQ(Open(deep).Values("innermost.weights", "network"), std::vector<float>(6, 1));
  EXPECT_TRUE(Refused(nested(51), {"layer 'level0'", "more than 50 deep"}));
  EXPECT_TRUE(Refused(nested(5000), {"more than 50 deep"}));
}

TEST_F(NetworkTest, SeveralModelsInOneAreRefused) {
  const std::string model = SmallNetwork().Model();
  WireMessage two;
  two.AddRaw(model);
  two.AddBytes(500, "");
  EXPECT_TRUE(Refused(BytesOfMessage(two), {"several models in one"}));
  WireMessage mixed;
  mixed.AddRaw(model);
  mixed.AddBytes(300, "");  // glmRegressor
  EXPECT_TRUE(Refused(BytesOfMessage(mixed), {"several models in one"}));
}

// What is wrong deep inside is said with the layer that holds it.
TEST_F(NetworkTest, ErrorsInNestedNetworksNameTheLayer) {
  WireMessage loop;
  loop.AddBytes(4, Product(FloatWeights({{1.0f}})).message());
  EXPECT_TRUE(Refused(NetworkBuilder().Layer(615, "loop", loop),
                      {"layer 'fc', weights: has 1 values, expected 6"}));
  const std::string pipeline = PipelineOf(
      {SmallNetwork().Model(), NetworkBuilder().Layer(615, "loop", loop).Model()}, 4, 200);
  EXPECT_TRUE(Refused(pipeline, {"layer 'fc', weights: has 1 values, expected 6"}));
  WireMessage lstm = Sizes({{1, 2}, {2, 2}}), forward, backward;
  forward.AddBytes(1, FloatWeights(std::vector<float>(4)));
  backward.AddBytes(43, FloatWeights(std::vector<float>(3)));
  lstm.AddMessage(20, forward);
  lstm.AddMessage(20, backward);
  EXPECT_TRUE(Refused(NetworkBuilder().Layer(430, "lstm", lstm),
                      {"layer 'lstm', weightParams[1].outputGateBiasVector: has 3 values"}));
}

}  // namespace
}  // namespace cmlc::test
