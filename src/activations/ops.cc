#include "activations/ops.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>

namespace cmlc::activations {
namespace {

std::vector<std::string_view> Words(std::string_view text) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    words.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return words;
}

template <size_t N>
bool Has(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

constexpr auto kFused = std::to_array<std::string_view>(
    {"leaky_relu", "tanh", "scaled_tanh", "sigmoid", "sigmoid_hard", "relu", "relu6"});

constexpr auto kMoves = std::to_array<std::string_view>({"batch_to_space",
                                                         "concat",
                                                         "crop",
                                                         "depth_to_space",
                                                         "expand_dims",
                                                         "flatten2d",
                                                         "identity",
                                                         "max_pool",
                                                         "pixel_shuffle",
                                                         "pixel_unshuffle",
                                                         "reshape",
                                                         "reshape_like",
                                                         "resize_nearest_neighbor",
                                                         "reverse",
                                                         "slice_by_index",
                                                         "slice_by_size",
                                                         "sliding_windows",
                                                         "space_to_batch",
                                                         "space_to_depth",
                                                         "split",
                                                         "squeeze",
                                                         "stack",
                                                         "tile",
                                                         "transpose",
                                                         "upsample_nearest_neighbor"});

constexpr auto kLayers = std::to_array<std::string_view>(
    {"conv", "conv_transpose", "linear", "matmul", "lstm", "gru", "rnn"});

// Whether a small constant is zero.
bool IsZero(const Value& value) {
  const std::optional<std::string> bytes = ImmediateBytes(value);
  return bytes && std::all_of(bytes->begin(), bytes->end(), [](char c) { return c == 0; });
}

}  // namespace

std::span<const QuantizableOp> QuantizableOps() {
#define CMLC_QUANTIZABLE(op, by_default, rule, parameters) \
  QuantizableOp{#op, by_default, QuantizableOp::Rule::rule, Words(parameters)},
  static const std::vector<QuantizableOp> ops = {
#include "activations/ops.def"
  };
#undef CMLC_QUANTIZABLE
  return ops;
}

const QuantizableOp* FindQuantizable(std::string_view type) {
  for (const QuantizableOp& op : QuantizableOps())
    if (op.type == type) return &op;
  return nullptr;
}

bool IsFusedActivation(std::string_view type) { return Has(kFused, type); }

bool OnlyMoves(const Operation& op, const Value* pad_mode, const Value* pad_constant) {
  if (op.type != "pad") return Has(kMoves, op.type);
  if (pad_mode != nullptr) {
    const std::optional<std::string> mode = ImmediateString(*pad_mode);
    if (mode && *mode != "constant") return true;
  }
  return pad_constant == nullptr || IsZero(*pad_constant);
}

const Value* ConstantArgument(const GraphIndex& index, const Operation& op,
                              const std::string& parameter) {
  const auto found = op.inputs.find(parameter);
  if (found == op.inputs.end() || found->second.bindings.size() != 1) return nullptr;
  if (const auto* value = std::get_if<Value>(&found->second.bindings[0].target)) return value;
  const auto* name = std::get_if<std::string>(&found->second.bindings[0].target);
  const Definition* source = name == nullptr ? nullptr : index.Find(&op, *name);
  if (source == nullptr || !IsConst(*source->op)) return nullptr;
  const auto value = source->op->attributes.find("val");
  return value == source->op->attributes.end() ? nullptr : &value->second;
}

bool IsLayer(std::string_view type) { return Has(kLayers, type); }

}  // namespace cmlc::activations
