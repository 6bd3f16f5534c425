#include "cmlc/lint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "ir/decode.h"
#include "ir/encoding.h"
#include "ir/graph_index.h"
#include "ir/layers.h"
#include "ir/weights.h"

namespace cmlc {
namespace {

constexpr int64_t kFewChannels = 8;
constexpr uint64_t kStateMultiple = 32;
constexpr size_t kShownNames = 3;

// What a row of the table looks like.
enum class Look {
  kScaledLut,
  kManyLuts,
  kInt4Blocks,
  kInt8Blocks,
  kBlockScaledLut,
  kQuantizedMatmul,
  kSparseQuantizedRecurrent,
  kRecurrent,
  kOddState,
  kStatefulLut,
  // Of NeuralNetworks.
  kNetworkVersion,
  kNetworkMixedFloats,
  kNetworkFloatLayer,
  kNetworkUpdatable,
  kNetworkGroupedDeconvolution,
  kNetworkInt8,
};

struct Known {
  std::string_view id;
  Look look;
  unsigned devices;
  std::string_view what;
  std::string_view source;
};

using enum Look;
constexpr std::array kKnown = {
#define CMLC_KNOWN(id, look, devices, what, source) Known{id, look, devices, what, source},
#include "lint/known_forms.def"
#undef CMLC_KNOWN
};

bool IsRecurrent(std::string_view op_type) {
  return op_type == "lstm" || op_type == "gru" || op_type == "rnn";
}

// Axes along which a tensor of scales or LUTs has several.
size_t CutAxes(const Shape& blocks, size_t rank) {
  size_t cut = 0;
  for (size_t d = 0; d < std::min(rank, blocks.size()); ++d) cut += blocks[d] > 1 ? 1 : 0;
  return cut;
}

bool LooksLike(Look look, const Encoding& encoding, const Weight& weight) {
  const size_t rank = encoding.shape.size();
  const bool in_blocks =
      encoding.quantized() && encoding.scale->shape.size() == rank &&
      (CutAxes(encoding.scale->shape, rank) > 1 || [&] {
        for (size_t d = 0; d < rank; ++d)
          if (encoding.scale->shape[d] > 1 && encoding.scale->shape[d] != encoding.shape[d])
            return true;
        return false;
      }());
  const auto read_by = [&](const auto& is_type) {
    return std::any_of(weight.consumers.begin(), weight.consumers.end(),
                       [&](const Consumer& consumer) { return is_type(consumer.op_type); });
  };
  switch (look) {
    case kScaledLut:
      return encoding.palettized() && encoding.scale && FindDataType(encoding.lut->dtype)->is_float;
    case kManyLuts: {
      if (!encoding.palettized() || encoding.lut->shape.size() != rank + 2) return false;
      for (size_t d = 0; d < rank; ++d)
        if (encoding.lut->shape[d] > 1 && encoding.shape[d] / encoding.lut->shape[d] < kFewChannels)
          return true;
      return false;
    }
    case kInt4Blocks:
      return in_blocks && BitsOf(encoding.data.dtype) == 4;
    case kInt8Blocks:
      return in_blocks && BitsOf(encoding.data.dtype) == 8;
    case kBlockScaledLut:
      return encoding.palettized() && encoding.scale &&
             CutAxes(encoding.scale->shape, encoding.scale->shape.size()) > 1;
    case kQuantizedMatmul:
      return encoding.quantized() &&
             read_by([](const std::string& type) { return type == "matmul"; });
    case kSparseQuantizedRecurrent:
      return encoding.sparse() && encoding.quantized() &&
             read_by([](const std::string& type) { return IsRecurrent(type); });
    default:
      return false;
  }
}

bool IsOddState(const NamedValueType& input) {
  if (!input.type || input.type->kind != ValueType::Kind::kState || input.type->elements.empty())
    return false;
  const std::optional<Shape> shape = StaticShape(input.type->elements.front());
  return shape && !shape->empty() && static_cast<uint64_t>(shape->back()) % kStateMultiple != 0;
}

template <typename Visit>
void ForEachOperation(const Block& block, const Visit& visit) {
  for (const Operation& op : block.operations) {
    visit(op);
    for (const Block& inner : op.blocks) ForEachOperation(inner, visit);
  }
}

// What a layer's weights are stored as, all together.
struct LayerForms {
  bool floats = false, halves = false, codes = false, int8 = false;
  bool group_scales = false;  // codes of a grouped deconvolution with the wrong number of scales
};

int32_t VersionOf(const Operation& layer, const LayerForms& forms) {
  const int32_t of_layer = LayerVersion(layer.type);
  if (forms.int8) return std::max(5, of_layer);
  const bool is_updatable = LayerNumber(layer, kUpdatable).value_or(0) != 0;
  return std::max({of_layer, is_updatable ? 4 : 0, forms.codes ? 3 : 0, forms.halves ? 2 : 0});
}

template <typename Add>
void LintNetwork(Network& network, int32_t version, const Add& add) {
  GraphIndex index(network.block);
  std::map<const Operation*, LayerForms> layers;
  for (const WeightSite& site : FindWeights(index, &network)) {
    if (site.weight.consumers.empty()) continue;
    const Operation& layer = *site.definition->uses[0].op;
    LayerForms& forms = layers[&layer];
    const Operation& op = *site.definition->op;
    if (!site.compressed) {
      (site.weight.stored_dtype == DataType::kFloat16 ? forms.halves : forms.floats) = true;
      continue;
    }
    forms.int8 = forms.int8 || op.type == "constexpr_blockwise_shift_scale";
    forms.codes = true;
    const Value* scale = FindOperand(op, "scale");
    const std::optional<Shape> blocks = scale == nullptr ? std::nullopt : StaticShape(scale->type);
    if (blocks && *ElementCount(*blocks) > 1 && !site.weight.output_axis &&
        static_cast<int64_t>(*ElementCount(*blocks)) !=
            LayerNumber(layer, kOutputChannels).value_or(0))
      forms.group_scales = true;
  }
  ForEachOperation(network.block, [&](const Operation& layer) {
    if (IsConst(layer) || IsConstexpr(layer)) return;
    const LayerForms& forms = layers[&layer];
    const std::string name = NameOf(layer);
    if (VersionOf(layer, forms) > version) add(kNetworkVersion, name);
    // Nobody looks into custom layers.
    if (forms.floats && forms.halves && layer.type != "custom") add(kNetworkMixedFloats, name);
    if ((layer.type == "convolution3d" && forms.codes) ||
        (layer.type == "layerNormalization" && (forms.codes || forms.halves)))
      add(kNetworkFloatLayer, name);
    if (LayerNumber(layer, kUpdatable).value_or(0) != 0 && forms.codes)
      add(kNetworkUpdatable, name);
    if (forms.group_scales) add(kNetworkGroupedDeconvolution, name);
    const bool is_dynamic = LayerNumber(layer, kDynamicInt8).value_or(0) != 0;
    if (forms.int8 != is_dynamic) add(kNetworkInt8, name);
  });
}

}  // namespace

std::optional<unsigned> DevicesOf(std::string_view name) {
  if (name == "cpu") return kCpu;
  if (name == "gpu") return kGpu;
  if (name == "ane") return kAne;
  if (name == "all") return kAll;
  return std::nullopt;
}

std::string NamesOf(unsigned devices) {
  if (devices == kAll) return "all devices";
  std::vector<std::string_view> names;
  if ((devices & kCpu) != 0) names.push_back("cpu");
  if ((devices & kGpu) != 0) names.push_back("gpu");
  if ((devices & kAne) != 0) names.push_back("ane");
  return fmt::format("{}", fmt::join(names, ", "));
}

std::vector<Finding> Lint(Package& package) {
  std::vector<Finding> found;
  for (const Known& known : kKnown)
    found.push_back({.id = std::string(known.id),
                     .devices = known.devices,
                     .what = std::string(known.what),
                     .source = std::string(known.source),
                     .names = {}});
  const auto add = [&](Look look, const std::string& name) {
    for (size_t i = 0; i < kKnown.size(); ++i)
      if (kKnown[i].look == look &&
          std::find(found[i].names.begin(), found[i].names.end(), name) == found[i].names.end())
        found[i].names.push_back(name);
  };
  ForEachModel(package.model(), [&](Model& model) {
    if (model.network) LintNetwork(*model.network, model.specification_version, add);
    for (size_t i = 0; i < model.members.size(); ++i)
      if (model.members[i].network &&
          model.members[i].specification_version > model.specification_version)
        add(kNetworkVersion,
            i < model.member_names.size() ? model.member_names[i] : fmt::format("member {}", i));
    if (!model.program) return;
    for (auto& [function_name, function] : model.program->functions) {
      bool stateful = false;
      for (const NamedValueType& input : function.inputs) {
        stateful = stateful || (input.type && input.type->kind == ValueType::Kind::kState);
        if (IsOddState(input)) add(kOddState, input.name);
      }
      for (auto& [opset, block] : function.specializations) {
        ForEachOperation(block, [&](const Operation& op) {
          if (IsRecurrent(op.type)) add(kRecurrent, NameOf(op));
        });
        GraphIndex index(block);
        for (const WeightSite& site : FindWeights(index)) {
          if (!site.compressed) continue;
          const std::optional<Encoding> encoding =
              ParseEncoding(*site.definition, index, package.tensors());
          if (!encoding) continue;
          for (const Known& known : kKnown)
            if (LooksLike(known.look, *encoding, site.weight)) add(known.look, site.weight.name);
          if (stateful && encoding->palettized()) add(kStatefulLut, site.weight.name);
        }
      }
    }
  });
  std::erase_if(found, [](const Finding& finding) { return finding.names.empty(); });
  return found;
}

std::vector<Finding> NewFindings(std::vector<Finding> after, const std::vector<Finding>& before) {
  for (Finding& finding : after)
    for (const Finding& old : before)
      if (old.id == finding.id) {
        const std::set<std::string> known(old.names.begin(), old.names.end());
        std::erase_if(finding.names, [&](const std::string& name) { return known.contains(name); });
      }
  std::erase_if(after, [](const Finding& finding) { return finding.names.empty(); });
  return after;
}

std::string ToString(const Finding& finding) {
  std::vector<std::string> names;
  for (size_t i = 0; i < std::min(kShownNames, finding.names.size()); ++i)
    names.push_back(fmt::format("'{}'", finding.names[i]));
  std::string text = fmt::format("{}", fmt::join(names, ", "));
  if (finding.names.size() > names.size())
    text += fmt::format(" and {} more", finding.names.size() - names.size());
  return fmt::format("{}: {}: {} ({}; {})", finding.id, text, finding.what,
                     NamesOf(finding.devices), finding.source);
}

}  // namespace cmlc
