#include "ir/layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace cmlc {
namespace {

struct LayerType {
  uint32_t number;
  std::string_view name;
};

constexpr std::array kTypes = {
#define CMLC_LAYER(number, type) LayerType{number, #type},
#include "ir/layers.def"
#undef CMLC_LAYER
};

constexpr uint32_t kConvolution = 100;
constexpr uint32_t kActivation = 130;
constexpr uint32_t kInnerProduct = 140;
constexpr uint32_t kEmbedding = 150;
constexpr uint32_t kBatchnorm = 160;
constexpr uint32_t kScale = 245;
constexpr uint32_t kBias = 250;
constexpr uint32_t kLoadConstant = 290;
constexpr uint32_t kSimpleRecurrent = 400;
constexpr uint32_t kGru = 410;
constexpr uint32_t kUniDirectionalLstm = 420;
constexpr uint32_t kBiDirectionalLstm = 430;
constexpr uint32_t kCustom = 500;
constexpr uint32_t kBranch = 605;
constexpr uint32_t kLoop = 615;
constexpr uint32_t kEmbeddingNd = 1040;
constexpr uint32_t kBatchedMatmul = 1045;
constexpr uint32_t kLoadConstantNd = 1070;
constexpr uint32_t kLayerNormalization = 1350;
constexpr uint32_t kConvolution3d = 1471;

constexpr std::array kFields = {
    LayerFields{.layer = kConvolution,
                .output_channels = 1,
                .input_channels = 2,
                .groups = 10,
                .kernel = {20},
                .deconvolution = 60},
    LayerFields{
        .layer = kInnerProduct, .output_channels = 2, .input_channels = 1, .dynamic_int8 = 22},
    LayerFields{.layer = kEmbedding, .output_channels = 2, .input_channels = 1},
    LayerFields{.layer = kBatchnorm, .output_channels = 1},
    LayerFields{.layer = kSimpleRecurrent, .output_channels = 2, .input_channels = 1},
    LayerFields{.layer = kGru, .output_channels = 2, .input_channels = 1},
    LayerFields{
        .layer = kUniDirectionalLstm, .output_channels = 2, .input_channels = 1, .directions = 20},
    LayerFields{
        .layer = kBiDirectionalLstm, .output_channels = 2, .input_channels = 1, .directions = 20},
    LayerFields{.layer = kEmbeddingNd, .output_channels = 2, .input_channels = 1},
    // Its weights lie column by column, which is row by row with the second dimension first.
    LayerFields{
        .layer = kBatchedMatmul, .output_channels = 6, .input_channels = 5, .dynamic_int8 = 10},
    LayerFields{.layer = kConvolution3d,
                .output_channels = 1,
                .input_channels = 2,
                .groups = 10,
                .kernel = {20, 21, 22},
                .deconvolution = 86,
                .input_is_of_all_groups = true},
};

using enum LayerDims;
using enum LayerStorage;

// In the order of layers, so that those of one follow each other.
constexpr std::array kWeights = {
    LayerWeight{kConvolution, 0, 90, "weights", LayerDims::kKernel},
    LayerWeight{kConvolution, 0, 91, "bias"},
    LayerWeight{kActivation, 25, 1, "alpha", kAsMany, kUntouched},
    LayerWeight{kActivation, 71, 1, "alpha", kAsMany, kUntouched},
    LayerWeight{kActivation, 71, 2, "beta", kAsMany, kUntouched},
    LayerWeight{kInnerProduct, 0, 20, "weights", kOutputInput},
    LayerWeight{kInnerProduct, 0, 21, "bias"},
    LayerWeight{kEmbedding, 0, 20, "weights", kOutputInput},
    LayerWeight{kEmbedding, 0, 21, "bias"},
    LayerWeight{kBatchnorm, 0, 15, "gamma"},
    LayerWeight{kBatchnorm, 0, 16, "beta"},
    LayerWeight{kBatchnorm, 0, 17, "mean"},
    LayerWeight{kBatchnorm, 0, 18, "variance"},
    LayerWeight{kScale, 0, 2, "scale", kShape, kAny, 1},
    LayerWeight{kScale, 0, 5, "bias", kShape, kAny, 4},
    LayerWeight{kBias, 0, 2, "bias", kShape, kAny, 1},
    LayerWeight{kLoadConstant, 0, 2, "data", kShape, kAny, 1},
    LayerWeight{kSimpleRecurrent, 0, 30, "weightMatrix", kOutputInput},
    LayerWeight{kSimpleRecurrent, 0, 31, "recursionMatrix", kOutputOutput},
    LayerWeight{kSimpleRecurrent, 0, 32, "biasVector"},
    LayerWeight{kGru, 0, 30, "updateGateWeightMatrix", kOutputInput},
    LayerWeight{kGru, 0, 31, "resetGateWeightMatrix", kOutputInput},
    LayerWeight{kGru, 0, 32, "outputGateWeightMatrix", kOutputInput},
    LayerWeight{kGru, 0, 50, "updateGateRecursionMatrix", kOutputOutput},
    LayerWeight{kGru, 0, 51, "resetGateRecursionMatrix", kOutputOutput},
    LayerWeight{kGru, 0, 52, "outputGateRecursionMatrix", kOutputOutput},
    LayerWeight{kGru, 0, 70, "updateGateBiasVector"},
    LayerWeight{kGru, 0, 71, "resetGateBiasVector"},
    LayerWeight{kGru, 0, 72, "outputGateBiasVector"},
#define CMLC_LSTM_WEIGHTS(layer)                                              \
  LayerWeight{layer, 20, 1, "inputGateWeightMatrix", kOutputInput},           \
      LayerWeight{layer, 20, 2, "forgetGateWeightMatrix", kOutputInput},      \
      LayerWeight{layer, 20, 3, "blockInputWeightMatrix", kOutputInput},      \
      LayerWeight{layer, 20, 4, "outputGateWeightMatrix", kOutputInput},      \
      LayerWeight{layer, 20, 20, "inputGateRecursionMatrix", kOutputOutput},  \
      LayerWeight{layer, 20, 21, "forgetGateRecursionMatrix", kOutputOutput}, \
      LayerWeight{layer, 20, 22, "blockInputRecursionMatrix", kOutputOutput}, \
      LayerWeight{layer, 20, 23, "outputGateRecursionMatrix", kOutputOutput}, \
      LayerWeight{layer, 20, 40, "inputGateBiasVector"},                      \
      LayerWeight{layer, 20, 41, "forgetGateBiasVector"},                     \
      LayerWeight{layer, 20, 42, "blockInputBiasVector"},                     \
      LayerWeight{layer, 20, 43, "outputGateBiasVector"},                     \
      LayerWeight{layer, 20, 60, "inputGatePeepholeVector"},                  \
      LayerWeight{layer, 20, 61, "forgetGatePeepholeVector"}, LayerWeight {   \
    layer, 20, 62, "outputGatePeepholeVector"                                 \
  }
    CMLC_LSTM_WEIGHTS(kUniDirectionalLstm),
    CMLC_LSTM_WEIGHTS(kBiDirectionalLstm),
#undef CMLC_LSTM_WEIGHTS
    LayerWeight{kCustom, 0, 20, "weights", kAsMany, kUntouched, 0, true},
    LayerWeight{kEmbeddingNd, 0, 20, "weights", kOutputInput},
    LayerWeight{kEmbeddingNd, 0, 21, "bias"},
    LayerWeight{kBatchedMatmul, 0, 8, "weights", kOutputInput},
    LayerWeight{kBatchedMatmul, 0, 9, "bias"},
    LayerWeight{kLoadConstantNd, 0, 2, "data", kShape, kAny, 1},
    LayerWeight{kLayerNormalization, 0, 3, "gamma", kShape, kFp32, 1},
    LayerWeight{kLayerNormalization, 0, 4, "beta", kShape, kFp32, 1},
    LayerWeight{kConvolution3d, 0, 60, "weights", LayerDims::kKernel, kFloat},
    LayerWeight{kConvolution3d, 0, 61, "bias", kOutput, kFloat},
};

constexpr std::array<uint32_t, 2> kInBranch = {1, 2};
constexpr std::array<uint32_t, 2> kInLoop = {3, 4};

}  // namespace

std::string LayerTypeOf(uint32_t number) {
  for (const LayerType& type : kTypes)
    if (type.number == number) return std::string(type.name);
  return fmt::format("layer {}", number);
}

bool IsLayerType(uint32_t number) {
  return std::any_of(kTypes.begin(), kTypes.end(),
                     [&](const LayerType& type) { return type.number == number; });
}

int32_t LayerVersion(std::string_view type) {
  constexpr uint32_t kAnyRank = 600, kNewest = 1450;
  for (const LayerType& row : kTypes)
    if (row.name == type) return row.number >= kNewest ? 5 : row.number >= kAnyRank ? 4 : 1;
  return 1;
}

bool IsLayerType(std::string_view type) {
  return std::any_of(kTypes.begin(), kTypes.end(),
                     [&](const LayerType& row) { return row.name == type; });
}

const LayerFields& FieldsOf(uint32_t layer) {
  static constexpr LayerFields kNone;
  for (const LayerFields& fields : kFields)
    if (fields.layer == layer) return fields;
  return kNone;
}

std::span<const LayerWeight> WeightsOf(uint32_t layer) {
  const auto is_ours = [&](const LayerWeight& weight) { return weight.layer == layer; };
  const auto* begin = std::find_if(kWeights.begin(), kWeights.end(), is_ours);
  const auto* end = std::find_if_not(begin, kWeights.end(), is_ours);
  return {begin, end};
}

const LayerWeight* FindLayerWeight(std::string_view type, std::string_view parameter) {
  const std::string_view name = parameter.substr(parameter.rfind('.') + 1);  // npos + 1 is 0
  for (const LayerType& row : kTypes) {
    if (row.name != type) continue;
    for (const LayerWeight& weight : WeightsOf(row.number))
      if (weight.name == name.substr(0, name.find('['))) return &weight;
  }
  return nullptr;
}

std::span<const uint32_t> NetworksIn(uint32_t layer) {
  if (layer == kBranch) return kInBranch;
  if (layer == kLoop) return kInLoop;
  return {};
}

std::optional<int64_t> LayerNumber(const Operation& layer, const std::string& attribute) {
  const auto found = layer.attributes.find(attribute);
  if (found == layer.attributes.end()) return std::nullopt;
  const auto numbers = ImmediateInts(found->second);
  if (!numbers || numbers->size() != 1) return std::nullopt;
  return numbers->front();
}

Consumer LayerConsumer(const Operation& layer, const std::string& parameter, const Shape& shape) {
  Consumer consumer{.op_type = layer.type,
                    .op_name = NameOf(layer),
                    .output_name = layer.outputs.empty() ? "" : layer.outputs[0].name,
                    .parameter = parameter,
                    .output_axis = std::nullopt,
                    .input_axis = std::nullopt,
                    .groups = LayerNumber(layer, kGroups).value_or(1),
                    .output_channels = LayerNumber(layer, kOutputChannels),
                    .input_channels = LayerNumber(layer, kInputChannels)};
  const LayerWeight* weight = FindLayerWeight(layer.type, parameter);
  if (weight == nullptr) return consumer;
  switch (weight->dims) {
    case LayerDims::kKernel:
      if (LayerNumber(layer, kDeconvolution).value_or(0) == 0) {
        consumer.output_axis = 0;
        consumer.input_axis = 1;
      } else if (consumer.groups == 1) {
        // With groups the validator wants one scale for each output channel, and none of the
        // weight's axes is that long.
        consumer.output_axis = 1;
        consumer.input_axis = 0;
      }
      break;
    case kOutputInput:
    case kOutputOutput:
      consumer.output_axis = 0;
      consumer.input_axis = 1;
      break;
    case kShape:
      // The validator takes several scales for [channels, height, width] alone.
      if (weight->layer != kLoadConstantNd && weight->layer != kLayerNormalization &&
          shape.size() == 3 && shape[0] > 1)
        consumer.output_axis = 0;
      break;
    case kOutput:
    case kAsMany:
      break;  // one scale
  }
  return consumer;
}

LayerLimits LimitsOf(const Operation& layer, const std::string& parameter, bool updatable_model) {
  const LayerWeight* weight = FindLayerWeight(layer.type, parameter);
  if (LayerNumber(layer, kUpdatable).value_or(0) != 0)
    return {.halves = false,
            .codes = false,
            .category = "in an updatable layer",
            .reason = "what is trained on a device stays in fp32"};
  const LayerStorage storage = weight == nullptr ? kUntouched : weight->storage;
  switch (storage) {
    case kUntouched:
      return {.floats = false,
              .halves = false,
              .codes = false,
              .category = fmt::format("of a layer of type {}", layer.type),
              .reason = "nothing says that Core ML takes it in another form"};
    case kFp32:
      return {.halves = false,
              .codes = false,
              .category = fmt::format("of a layer of type {}", layer.type),
              .reason = "Core ML takes it in fp32 only"};
    case kFloat:
      return {.halves = !updatable_model,
              .codes = false,
              .category = fmt::format("of a layer of type {}", layer.type),
              .reason = "Core ML takes it in fp32 and fp16 only"};
    case kAny:
      break;
  }
  if (updatable_model)
    return {.halves = false,
            .category = "of an updatable model",
            .reason = "such a model may not hold fp16 weights"};
  return {};
}

}  // namespace cmlc
