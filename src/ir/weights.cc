#include "ir/weights.h"

#include <fmt/format.h>

#include <algorithm>

#include "ir/decode.h"
#include "ir/layers.h"

namespace cmlc {
namespace {

// The value of an integer or boolean parameter of an op, bound by name or literally; nothing if it
// is absent.
std::optional<int64_t> NumberOf(const Operation& op, const std::string& parameter,
                                const GraphIndex& index) {
  const auto found = op.inputs.find(parameter);
  if (found == op.inputs.end() || found->second.bindings.size() != 1) return std::nullopt;
  const Value* value = std::get_if<Value>(&found->second.bindings[0].target);
  if (const auto* name = std::get_if<std::string>(&found->second.bindings[0].target)) {
    const Definition* source = index.Find(&op, *name);
    if (source == nullptr || !IsConst(*source->op)) return std::nullopt;
    const auto val = source->op->attributes.find("val");
    if (val == source->op->attributes.end()) return std::nullopt;
    value = &val->second;
  }
  if (value == nullptr) return std::nullopt;
  const auto numbers = ImmediateInts(*value);
  if (!numbers || numbers->size() != 1) return std::nullopt;
  return numbers->front();
}

// Axes of output and input channels for the op that reads a weight, as Core ML lays weights out:
// (output, input), negative from the end.
std::pair<int64_t, int64_t> ChannelAxes(const Operation& op, const std::string& parameter,
                                        const GraphIndex& index) {
  if (op.type == "conv_transpose" && parameter == "weight") return {1, 0};
  if (op.type == "matmul" && parameter == "y")
    return NumberOf(op, "transpose_y", index).value_or(0) != 0 ? std::pair{-2, -1}
                                                               : std::pair{-1, -2};
  if (op.type == "matmul" && parameter == "x")
    return NumberOf(op, "transpose_x", index).value_or(0) != 0 ? std::pair{-1, -2}
                                                               : std::pair{-2, -1};
  return {0, 1};  // conv, linear, gather and everything else
}

std::optional<int64_t> Positive(int64_t axis, size_t rank) {
  if (axis < 0) axis += static_cast<int64_t>(rank);
  if (axis < 0 || axis >= static_cast<int64_t>(rank)) return std::nullopt;
  return axis;
}

Consumer ConsumerOf(const Use& use, const Shape& shape, const GraphIndex& index) {
  const auto [output, input] = ChannelAxes(*use.op, use.parameter, index);
  Consumer consumer{.op_type = use.op->type,
                    .op_name = NameOf(*use.op),
                    .output_name = use.op->outputs.empty() ? "" : use.op->outputs[0].name,
                    .parameter = use.parameter,
                    .output_axis = Positive(output, shape.size()),
                    .input_axis = Positive(input, shape.size()),
                    .groups = NumberOf(*use.op, "groups", index).value_or(1),
                    .output_channels = std::nullopt,
                    .input_channels = std::nullopt};
  if (consumer.output_axis)
    consumer.output_channels = shape[static_cast<size_t>(*consumer.output_axis)];
  if (consumer.input_axis)
    consumer.input_channels = shape[static_cast<size_t>(*consumer.input_axis)];
  return consumer;
}

std::string LinkText(const Operation& op, const GraphIndex& index) {
  const auto type_of = [&](const std::string& parameter) -> const ValueType* {
    if (const Value* value = FindOperand(op, parameter)) return &value->type;
    const auto found = op.inputs.find(parameter);
    if (found == op.inputs.end() || found->second.bindings.size() != 1) return nullptr;
    const auto* name = std::get_if<std::string>(&found->second.bindings[0].target);
    const Definition* source = name == nullptr ? nullptr : index.Find(&op, *name);
    if (source == nullptr || !source->op->outputs[source->output].type) return nullptr;
    return &*source->op->outputs[source->output].type;
  };
  const auto dtype_of = [&](const std::string& parameter) {
    const ValueType* type = type_of(parameter);
    return type == nullptr ? std::string("?") : NameOf(type->tensor.dtype);
  };
  const auto blocks_of = [&](const std::string& parameter) -> uint64_t {
    const ValueType* type = type_of(parameter);
    const std::optional<Shape> shape = type == nullptr ? std::nullopt : StaticShape(*type);
    return shape ? ElementCount(*shape).value_or(0) : 0;
  };
  const auto lut_text = [&](const std::string& indices) {
    const ValueType* lut = type_of("lut");
    const std::optional<Shape> shape = lut == nullptr ? std::nullopt : StaticShape(*lut);
    int bits = 0;
    uint64_t tables = 1, width = 1;
    if (shape && shape->size() == 1) {
      for (int64_t entries = 1; entries < shape->front(); entries *= 2) ++bits;
    } else if (shape && shape->size() >= 2) {
      const ValueType* type = type_of(indices);
      bits = type == nullptr ? 0 : BitsOf(type->tensor.dtype);
      width = static_cast<uint64_t>(shape->back());
      tables = ElementCount(*shape).value_or(0) /
               std::max<uint64_t>(1, static_cast<uint64_t>((*shape)[shape->size() - 2]) * width);
    }
    std::string text = fmt::format("{}-bit LUT", bits);
    if (width > 1) text += fmt::format(" of {}-vectors", width);
    if (tables != 1) text += fmt::format(", {} tables", tables);
    return text;
  };
  const auto scales = [&]() {
    const uint64_t count = blocks_of("scale");
    return count == 1 ? std::string(" per tensor") : fmt::format(", {} scales", count);
  };
  if (op.type == "constexpr_affine_dequantize")
    return fmt::format("{} linear{}", dtype_of("quantized_data"), scales());
  if (op.type == "constexpr_scale_bias")
    return fmt::format("{}-bit linear{}",
                       type_of("data") == nullptr ? 0 : BitsOf(type_of("data")->tensor.dtype),
                       scales());
  if (op.type == "constexpr_blockwise_shift_scale")
    return fmt::format("{} linear{}", dtype_of("data"), scales());
  if (op.type == "constexpr_sparse_blockwise_shift_scale")
    return fmt::format("{} linear{}", dtype_of("nonzero_data"), scales());
  if (op.type == "constexpr_lut_to_dense") return lut_text("indices");
  if (op.type == "constexpr_lut_to_sparse") return lut_text("indices_nonzero_data");
  if (op.type == "constexpr_sparse_to_dense") return "sparse";
  if (op.type == "constexpr_cast") return "fp16, cast";
  return op.type;
}

void Collect(const Operation& op, const GraphIndex& index, int depth,
             std::vector<std::string>& links, std::set<const Operation*>& seen, StoredForm& form) {
  if (depth > 16 || !seen.insert(&op).second) return;
  const auto take = [&](const Value& value) {
    if (const auto* id = std::get_if<TensorId>(&value.content)) {
      form.tensors.insert(*id);
    } else if (const auto bytes = ImmediateBytes(value)) {
      form.immediate_bytes += bytes->size();
    }
  };
  if (IsConst(op)) {
    if (const auto value = op.attributes.find("val"); value != op.attributes.end()) {
      if (links.empty()) links.push_back(NameOf(value->second.type.tensor.dtype));
      take(value->second);
    }
    return;
  }
  links.push_back(LinkText(op, index));
  for (const auto& [name, value] : op.attributes)
    if (name != "name" && name != "axis" && name != "shape" && name != "output_dtype") take(value);
  for (const auto& [name, argument] : op.inputs) {
    if (name == "vector_axis" || name == "output_dtype") continue;
    for (const Binding& binding : argument.bindings) {
      if (const auto* value = std::get_if<Value>(&binding.target)) {
        take(*value);
      } else if (const auto* source_name = std::get_if<std::string>(&binding.target)) {
        const Definition* source = index.Find(&op, *source_name);
        if (source != nullptr && (IsConst(*source->op) || IsConstexpr(*source->op)))
          Collect(*source->op, index, depth + 1, links, seen, form);
      }
    }
  }
}

}  // namespace

std::vector<ProgramBlock> BlocksOf(Model& model, const std::string& prefix) {
  std::vector<ProgramBlock> blocks;
  if (model.network) blocks.push_back({prefix + "network", &model.network->block, &*model.network});
  if (!model.program) return blocks;
  for (auto& [name, function] : model.program->functions)
    for (auto& [opset, block] : function.specializations) {
      std::string label = prefix + name;
      if (function.specializations.size() > 1) label += "@" + opset;
      blocks.push_back({std::move(label), &block, nullptr});
    }
  return blocks;
}

std::vector<WeightSite> FindWeights(GraphIndex& index, const Network* network) {
  std::vector<WeightSite> sites;
  for (const Definition& definition : index.definitions()) {
    const Operation& op = *definition.op;
    const bool compressed = IsConstexpr(op);
    if (!compressed && !IsConst(op)) continue;
    WeightSite site;
    site.definition = &definition;
    site.compressed = compressed;
    site.weight.name = op.outputs[definition.output].name;
    const ValueType* type = nullptr;
    if (op.outputs[definition.output].type) type = &*op.outputs[definition.output].type;
    if (!compressed) {
      const auto value = op.attributes.find("val");
      if (value == op.attributes.end()) continue;
      type = &value->second.type;
    }
    const std::optional<Shape> shape = type == nullptr ? std::nullopt : StaticShape(*type);
    if (shape && ElementCount(*shape)) {
      site.has_type = true;
      site.weight.dtype = type->tensor.dtype;
      site.weight.shape = *shape;
      site.weight.element_count = *ElementCount(*shape);
    }
    if (!site.has_type || BitsOf(site.weight.dtype) == 0) continue;
    for (const Use& use : definition.uses) {
      if (use.op == nullptr) {
        site.feeds_output = true;
      } else if (IsConstexpr(*use.op)) {
        site.feeds_constexpr = true;
      } else {
        site.weight.consumers.push_back(
            network != nullptr ? LayerConsumer(*use.op, use.parameter, site.weight.shape)
                               : ConsumerOf(use, site.weight.shape, index));
        if (network != nullptr)
          site.weight.limits = LimitsOf(*use.op, use.parameter, network->updatable);
      }
    }
    site.weight.stored_dtype = site.weight.dtype;
    if (network != nullptr) {
      site.weight.format = ModelFormat::kNetwork;
      site.weight.dtype = DataType::kFloat32;
    }
    // An inner link of a chain is no weight of its own.
    if (site.weight.consumers.empty() && site.feeds_constexpr && !site.feeds_output) continue;
    if (!site.weight.consumers.empty()) {
      site.weight.output_axis = site.weight.consumers.front().output_axis;
      site.weight.input_axis = site.weight.consumers.front().input_axis;
      for (const Consumer& consumer : site.weight.consumers) {
        if (consumer.output_axis != site.weight.output_axis) site.weight.output_axis.reset();
        if (consumer.input_axis != site.weight.input_axis) site.weight.input_axis.reset();
      }
    }
    sites.push_back(std::move(site));
  }
  return sites;
}

StoredForm FormOf(const Operation& op, const GraphIndex& index) {
  StoredForm form;
  std::vector<std::string> links;
  std::set<const Operation*> seen;
  Collect(op, index, 0, links, seen, form);
  for (const std::string& link : links) form.text += (form.text.empty() ? "" : " of ") + link;
  return form;
}

uint64_t StoredBytes(const StoredForm& form, const TensorStore& tensors) {
  uint64_t bytes = form.immediate_bytes;
  for (const TensorId id : form.tensors) bytes += tensors.info(id).size_bytes;
  return bytes;
}

std::string ToString(const Consumer& consumer) {
  return fmt::format("{} '{}' {}", consumer.op_type, consumer.op_name, consumer.parameter);
}

}  // namespace cmlc
