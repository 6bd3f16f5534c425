#include "format/network.h"

#include <fmt/format.h>
#include <google/protobuf/io/coded_stream.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/check.h"
#include "ir/decode.h"
#include "ir/encoding.h"
#include "ir/layers.h"
#include "numeric/bit_pack.h"

namespace cmlc::format {
namespace {

// Field numbers of NeuralNetwork.proto.
enum NetworkField : uint32_t { kLayers = 1 };
enum LayerField : uint32_t { kName = 1, kInput = 2, kOutput = 3, kIsUpdatable = 10 };
enum WeightField : uint32_t {
  kFloatValue = 1,
  kFloat16Value = 2,
  kRawValue = 30,
  kInt8RawValue = 31,
  kQuantization = 40,
  kWeightIsUpdatable = 50,
};
enum QuantizationField : uint32_t { kNumberOfBits = 1, kLinear = 101, kLookUpTable = 102 };
enum LinearField : uint32_t { kScale = 1, kBias = 2 };
enum TableField : uint32_t { kTableValue = 1 };
constexpr uint32_t kFirstLayerKind = 100;

// Constants that codes are held by (struct Network in cmlc/model.h).
constexpr std::string_view kTableCodes = "constexpr_lut_to_dense";
constexpr std::string_view kLinearCodes = "constexpr_scale_bias";
constexpr std::string_view kInt8Codes = "constexpr_blockwise_shift_scale";

// What the fields of a layer's parameters are, or (`outer` being its number) of a message in them.
class FieldRoles {
 public:
  FieldRoles(uint32_t kind, uint32_t outer)
      : weights_(WeightsOf(kind)), fields_(FieldsOf(kind)), outer_(outer) {
    if (outer == 0) networks_ = NetworksIn(kind);
  }
  const LayerWeight* WeightOf(const WireField& field) const {
    for (const LayerWeight& weight : weights_)
      if (field.is_bytes && weight.outer == outer_ && weight.field == field.number) return &weight;
    return nullptr;
  }
  bool HoldsWeights(const WireField& field) const {
    return field.is_bytes && outer_ == 0 &&
           std::any_of(weights_.begin(), weights_.end(),
                       [&](const LayerWeight& weight) { return weight.outer == field.number; });
  }
  bool IsNetwork(const WireField& field) const {
    return field.is_bytes &&
           std::find(networks_.begin(), networks_.end(), field.number) != networks_.end();
  }
  bool IsDynamicInt8(const WireField& field) const {
    return outer_ == 0 && fields_.dynamic_int8 != 0 && field.number == fields_.dynamic_int8;
  }

 private:
  std::span<const LayerWeight> weights_;
  const LayerFields& fields_;
  std::span<const uint32_t> networks_;
  uint32_t outer_;
};

// A network may hold networks, and their messages may be nested as deep as a file likes.
constexpr int kMostNestedNetworks = 50;

// --- Reading ------------------------------------------------------------------------------------

// The values of a repeated float, packed or not, in as many pieces as a writer likes.
struct FloatRuns {
  std::vector<std::string_view> runs;  // little-endian
  uint64_t bytes = 0;

  bool Add(const WireField& field) {
    std::string_view run = field.payload;
    if (!field.is_bytes) {
      constexpr int kFixed32 = 5;  // the wire type of a single float
      if ((field.raw[0] & 7) != kFixed32) return false;
      run = field.raw.substr(field.raw.size() - sizeof(float));
    }
    if (run.size() % sizeof(float) != 0) return false;
    if (!run.empty()) runs.push_back(run);
    bytes += run.size();
    return true;
  }
  uint64_t count() const { return bytes / sizeof(float); }
  std::string Joined() const {
    std::string out;
    for (const std::string_view run : runs) out += run;
    return out;
  }
};

// The integers of a repeated field, packed or not.
bool AddNumbers(const WireField& field, std::vector<int64_t>& numbers) {
  if (!field.is_bytes) {
    numbers.push_back(static_cast<int64_t>(field.value));
    return true;
  }
  google::protobuf::io::CodedInputStream stream(
      reinterpret_cast<const uint8_t*>(field.payload.data()),
      static_cast<int>(field.payload.size()));
  while (stream.CurrentPosition() < static_cast<int>(field.payload.size())) {
    uint64_t number = 0;
    if (!stream.ReadVarint64(&number)) return false;
    numbers.push_back(static_cast<int64_t>(number));
  }
  return true;
}

class Reader {
 public:
  Reader(const MessageFile& from, TensorStore& store) : from_(from), store_(store) {}

  Status ReadNetwork(std::string_view message, int depth, Block& block);

 private:
  struct Sizes {
    int64_t output = 0, input = 0, groups = 1;
    std::vector<int64_t> kernel;
    bool deconvolution = false, dynamic_int8 = false;
    std::map<uint32_t, std::vector<int64_t>> shapes;  // by field
  };
  struct Stored {
    FloatRuns floats;
    std::string_view halves, codes, int8_codes, quantization;
    std::string rest;  // fields that are not values
    bool updatable = false;
    int filled = 0;  // storages that have values
  };

  Error Bad(std::string_view what) const {
    return {ErrorKind::kBadInput,
            fmt::format("{}: layer '{}'{}: {}", from_.path, layer_,
                        weight_.empty() ? "" : fmt::format(", {}", weight_), what)};
  }
  Error Corrupt(const WireReader& reader) const {
    const auto at = reader.rest().empty()
                        ? from_.bytes.size()
                        : static_cast<size_t>(reader.rest().data() - from_.bytes.data());
    return {ErrorKind::kBadInput,
            fmt::format("{}: is not a valid model message (truncated or corrupt near byte {} of "
                        "{})",
                        from_.path, at, from_.bytes.size())};
  }

  Status TakeNames(std::string_view message);
  Status ReadLayer(std::string_view message, int depth, Block& block);
  Result<Sizes> ReadSizes(uint32_t kind, std::string_view message) const;
  Status ReadParameters(uint32_t kind, uint32_t outer, std::string_view message,
                        const std::string& prefix, const Sizes& sizes, int depth, Block& block,
                        Operation& layer, WireMessage& out);
  Result<bool> ReadWeight(const LayerWeight& weight, std::string_view message, const Sizes& sizes,
                          const std::string& parameter, Block& block, Operation& layer,
                          WireMessage& out);
  Result<Stored> ReadStored(std::string_view message) const;
  Result<Shape> ShapeOf(const LayerWeight& weight, const Sizes& sizes, uint64_t count) const;
  Result<Operation> MakeWeight(const Stored& stored, const Shape& shape,
                               std::optional<int64_t> axis, int64_t groups);
  Result<TensorId> Range(std::string_view bytes, DataType dtype, uint64_t count, BitOrder order);
  Result<Value> Floats(const FloatRuns& floats, const Shape& shape);
  std::string FreeName(const std::string& wanted);

  const MessageFile& from_;
  TensorStore& store_;
  std::set<std::string, std::less<>> taken_;  // names of values
  std::map<std::string, int> used_;           // how often a name had to be made different
  std::string layer_, weight_;                // being read, for messages
};

// Names of what layers read and make, so that those of weights are different.
Status Reader::TakeNames(std::string_view message) {
  WireReader layers(message);
  while (const auto field = layers.Next()) {
    if (field->number != kLayers || !field->is_bytes) continue;
    WireReader layer(field->payload);
    while (const auto part = layer.Next())
      if (part->number == kInput || part->number == kOutput)
        taken_.insert(std::string(part->payload));
    if (layer.malformed()) return Corrupt(layer);
  }
  return layers.malformed() ? Status(Corrupt(layers)) : Ok();
}

std::string Reader::FreeName(const std::string& wanted) {
  if (taken_.insert(wanted).second) return wanted;
  int& number = used_[wanted];  // many layers may have one name, or none
  std::string name;
  do name = fmt::format("{}#{}", wanted, ++number + 1);
  while (!taken_.insert(name).second);
  return name;
}

Status Reader::ReadNetwork(std::string_view message, int depth, Block& block) {
  if (depth > kMostNestedNetworks)
    return Bad(fmt::format("networks are nested more than {} deep", kMostNestedNetworks));
  CMLC_RETURN_IF_ERROR(TakeNames(message));
  WireReader fields(message);
  while (const auto field = fields.Next()) {
    if (field->number == kLayers && field->is_bytes)
      CMLC_RETURN_IF_ERROR(ReadLayer(field->payload, depth, block));
    else
      block.opaque += field->raw;
  }
  return fields.malformed() ? Status(Corrupt(fields)) : Ok();
}

Status Reader::ReadLayer(std::string_view message, int depth, Block& block) {
  Operation layer;
  std::string_view parameters;
  uint32_t kind = 0;
  std::string name;
  bool updatable = false;
  WireReader fields(message);
  while (const auto field = fields.Next()) {
    switch (field->number) {
      case kName:
        name = field->payload;
        break;
      case kInput:
        layer.inputs["x"].bindings.push_back({.target = std::string(field->payload), .opaque = {}});
        break;
      case kOutput:
        layer.outputs.push_back({.name = std::string(field->payload), .type = {}, .opaque = {}});
        break;
      case kIsUpdatable:
        updatable = field->value != 0;
        break;
      default:
        // A number that nobody knows is the layer's kind if there is no other, else what else a
        // newer writer has to say.
        if (field->number < kFirstLayerKind || !field->is_bytes) break;
        if (kind != 0 && !IsLayerType(field->number)) break;
        layer_ = name;
        if (kind == field->number)
          return Bad("its parameters come in pieces, expected one message");
        if (IsLayerType(kind)) return Bad("its message is of two kinds at once");
        kind = field->number;
        parameters = field->payload;
    }
  }
  if (fields.malformed()) return Corrupt(fields);
  layer_ = name;
  layer.type = LayerTypeOf(kind);
  layer.attributes["name"] = MakeString(name);
  if (updatable) layer.attributes[kUpdatable] = MakeBool(true);

  CMLC_ASSIGN_OR_RETURN(const Sizes sizes, ReadSizes(kind, parameters));
  const auto put = [&](const char* attribute, int64_t number) {
    if (number > 0 && number <= INT32_MAX)
      layer.attributes[attribute] = MakeInt32(static_cast<int32_t>(number));
  };
  put(kOutputChannels, sizes.output);
  put(kInputChannels, sizes.input);
  if (sizes.groups > 1) put(kGroups, sizes.groups);
  if (sizes.deconvolution) layer.attributes[kDeconvolution] = MakeBool(true);
  if (sizes.dynamic_int8) layer.attributes[kDynamicInt8] = MakeBool(true);

  WireMessage out;
  WireReader again(message);
  while (const auto field = again.Next()) {
    if (kind == 0 || field->number != kind || !field->is_bytes) {
      out.AddRaw(field->raw);
      continue;
    }
    WireMessage inner;
    CMLC_RETURN_IF_ERROR(
        ReadParameters(kind, 0, field->payload, "", sizes, depth, block, layer, inner));
    out.AddMessage(kind, std::move(inner));
  }
  CMLC_ASSIGN_OR_RETURN(layer.opaque, ToBytes(out, store_));
  block.operations.push_back(std::move(layer));
  return Ok();
}

Result<Reader::Sizes> Reader::ReadSizes(uint32_t kind, std::string_view message) const {
  const LayerFields& numbers = FieldsOf(kind);
  Sizes sizes;
  std::map<uint32_t, int64_t> single;
  WireReader fields(message);
  while (const auto field = fields.Next()) {
    for (const LayerWeight& weight : WeightsOf(kind))
      if (weight.shape_field != 0 && weight.outer == 0 && field->number == weight.shape_field) {
        if (!AddNumbers(*field, sizes.shapes[field->number])) return Bad("its shape is corrupt");
        break;
      }
    if (field->number == numbers.kernel[0] && numbers.kernel[0] != 0 && numbers.kernel[1] == 0) {
      if (!AddNumbers(*field, sizes.kernel)) return Bad("its kernel size is corrupt");
    } else if (!field->is_bytes) {
      single[field->number] = static_cast<int64_t>(field->value);
    }
  }
  if (fields.malformed()) return Corrupt(fields);
  const auto number = [&](uint32_t field) { return field == 0 ? 0 : single[field]; };
  sizes.output = number(numbers.output_channels);
  sizes.input = number(numbers.input_channels);
  sizes.groups = std::max<int64_t>(1, number(numbers.groups));
  sizes.deconvolution = number(numbers.deconvolution) != 0;
  sizes.dynamic_int8 = number(numbers.dynamic_int8) != 0;
  if (numbers.kernel[1] != 0)
    for (const uint32_t field : numbers.kernel) sizes.kernel.push_back(number(field));
  else if (sizes.kernel.empty())
    sizes.kernel = {3, 3};
  return sizes;
}

Status Reader::ReadParameters(uint32_t kind, uint32_t outer, std::string_view message,
                              const std::string& prefix, const Sizes& sizes, int depth,
                              Block& block, Operation& layer, WireMessage& out) {
  const FieldRoles roles(kind, outer);
  std::map<uint32_t, int> seen;
  WireReader fields(message);
  while (const auto field = fields.Next()) {
    const int number = seen[field->number]++;
    if (const LayerWeight* weight = roles.WeightOf(*field)) {
      std::string parameter = prefix + std::string(weight->name);
      if (weight->repeats)
        parameter += fmt::format("[{}]", number);
      else if (number > 0)
        return Bad(fmt::format("{} is there twice", parameter));
      CMLC_ASSIGN_OR_RETURN(const bool has_values, ReadWeight(*weight, field->payload, sizes,
                                                              parameter, block, layer, out));
      if (!has_values) out.AddRaw(field->raw);
    } else if (roles.HoldsWeights(*field)) {
      const bool repeats = FieldsOf(kind).directions == field->number;
      if (!repeats && number > 0) return Bad("its parameters are there twice");
      WireMessage nested;
      CMLC_RETURN_IF_ERROR(
          ReadParameters(kind, field->number, field->payload,
                         repeats ? fmt::format("weightParams[{}].", number) : std::string(), sizes,
                         depth, block, layer, nested));
      out.AddMessage(field->number, std::move(nested));
    } else if (roles.IsNetwork(*field)) {
      if (number > 0) return Bad("holds the same inner network twice");
      Block nested;
      CMLC_RETURN_IF_ERROR(ReadNetwork(field->payload, depth + 1, nested));
      layer_ = NameOf(layer);
      out.AddBytes(field->number, std::to_string(layer.blocks.size()));
      layer.blocks.push_back(std::move(nested));
    } else {
      out.AddRaw(field->raw);
    }
  }
  return fields.malformed() ? Status(Corrupt(fields)) : Ok();
}

Result<Reader::Stored> Reader::ReadStored(std::string_view message) const {
  Stored stored;
  const auto take = [](const WireField& field, std::string_view& into) {
    if (!field.is_bytes || (!into.empty() && !field.payload.empty())) return false;
    if (!field.payload.empty()) into = field.payload;
    return true;
  };
  WireReader fields(message);
  while (const auto field = fields.Next()) {
    bool fits = true;
    switch (field->number) {
      case kFloatValue:
        fits = stored.floats.Add(*field);
        break;
      case kFloat16Value:
        fits = take(*field, stored.halves);
        break;
      case kRawValue:
        fits = take(*field, stored.codes);
        break;
      case kInt8RawValue:
        fits = take(*field, stored.int8_codes);
        break;
      case kQuantization:
        fits = take(*field, stored.quantization);
        break;
      case kWeightIsUpdatable:
        stored.updatable = field->value != 0;
        [[fallthrough]];
      default:
        stored.rest += field->raw;
    }
    if (!fits) return Bad(fmt::format("field {} of its message is corrupt", field->number));
  }
  if (fields.malformed()) return Corrupt(fields);
  stored.filled = (stored.floats.bytes > 0 ? 1 : 0) + (stored.halves.empty() ? 0 : 1) +
                  (stored.codes.empty() ? 0 : 1) + (stored.int8_codes.empty() ? 0 : 1);
  return stored;
}

Result<Shape> Reader::ShapeOf(const LayerWeight& weight, const Sizes& sizes, uint64_t count) const {
  Shape shape;
  switch (weight.dims) {
    case LayerDims::kKernel:
      shape = {sizes.output, sizes.input};
      if (FieldsOf(weight.layer).input_is_of_all_groups) shape[1] /= sizes.groups;
      if (sizes.deconvolution) shape = {sizes.input, sizes.output / sizes.groups};
      shape.insert(shape.end(), sizes.kernel.begin(), sizes.kernel.end());
      break;
    case LayerDims::kOutputInput:
      shape = {sizes.output, sizes.input};
      break;
    case LayerDims::kOutputOutput:
      shape = {sizes.output, sizes.output};
      break;
    case LayerDims::kOutput:
      shape = {sizes.output};
      break;
    case LayerDims::kShape:
      if (const auto found = sizes.shapes.find(weight.shape_field); found != sizes.shapes.end())
        shape = found->second;
      break;
    case LayerDims::kAsMany:
      shape = {static_cast<int64_t>(count)};
      break;
  }
  const std::optional<uint64_t> elements = ElementCount(shape);
  if (!elements || *elements > kMostMessageBytes * 8)
    return Bad(fmt::format("its shape {} is out of range", ToString(shape)));
  return shape;
}

Result<TensorId> Reader::Range(std::string_view bytes, DataType dtype, uint64_t count,
                               BitOrder order) {
  CMLC_ASSIGN_OR_RETURN(const WeightsFile file, from_.file());
  const auto offset = static_cast<uint64_t>(bytes.data() - from_.bytes.data());
  return store_.AddRange(file, offset, dtype, count, order);
}

Result<Value> Reader::Floats(const FloatRuns& floats, const Shape& shape) {
  if (floats.runs.size() == 1) {
    CMLC_ASSIGN_OR_RETURN(const TensorId id, Range(floats.runs[0], DataType::kFloat32,
                                                   floats.count(), BitOrder::kLowFirst));
    return MakeBlobValue(DataType::kFloat32, shape, id);
  }
  CMLC_ASSIGN_OR_RETURN(const WeightsFile file, from_.file());
  return MakeBlobValue(DataType::kFloat32, shape,
                       store_.AddInline(DataType::kFloat32, floats.count(), floats.Joined(), file));
}

Operation Constant(std::string_view type, const Shape& shape, DataType dtype) {
  Operation op;
  op.type = type;
  op.outputs.push_back({.name = {}, .type = MakeTensorType(dtype, shape), .opaque = {}});
  return op;
}

void Bind(Operation& op, const std::string& parameter, Value value) {
  op.inputs[parameter].bindings.push_back({.target = std::move(value), .opaque = {}});
}

// A weight as a constant; without a name yet.
Result<Operation> Reader::MakeWeight(const Stored& stored, const Shape& shape,
                                     std::optional<int64_t> axis, int64_t groups) {
  const uint64_t count = *ElementCount(shape);
  const auto wrong_count = [&](uint64_t found) {
    return Bad(fmt::format("has {} values, expected {} ({})", found, count, ToString(shape)));
  };
  if (stored.floats.bytes > 0) {
    if (stored.floats.count() != count) return wrong_count(stored.floats.count());
    Operation op = Constant("const", shape, DataType::kFloat32);
    CMLC_ASSIGN_OR_RETURN(op.attributes["val"], Floats(stored.floats, shape));
    return op;
  }
  if (!stored.halves.empty()) {
    if (stored.halves.size() != count * 2) return wrong_count(stored.halves.size() / 2);
    Operation op = Constant("const", shape, DataType::kFloat16);
    CMLC_ASSIGN_OR_RETURN(const TensorId id,
                          Range(stored.halves, DataType::kFloat16, count, BitOrder::kLowFirst));
    op.attributes["val"] = MakeBlobValue(DataType::kFloat16, shape, id);
    return op;
  }

  uint64_t bits = 0;
  FloatRuns scale, bias, table;
  bool is_linear = false, is_table = false;
  WireReader fields(stored.quantization);
  while (const auto field = fields.Next()) {
    if (field->number == kNumberOfBits && !field->is_bytes) bits = field->value;
    if (!field->is_bytes || (field->number != kLinear && field->number != kLookUpTable)) continue;
    (field->number == kLinear ? is_linear : is_table) = true;
    WireReader parameters(field->payload);
    while (const auto values = parameters.Next()) {
      FloatRuns* into = nullptr;
      if (field->number == kLookUpTable && values->number == kTableValue) into = &table;
      if (field->number == kLinear && values->number == kScale) into = &scale;
      if (field->number == kLinear && values->number == kBias) into = &bias;
      if (into != nullptr && !into->Add(*values)) return Bad("its quantization is corrupt");
    }
    if (parameters.malformed()) return Corrupt(parameters);
  }
  if (fields.malformed()) return Corrupt(fields);
  if (bits < 1 || bits > 8) return Bad(fmt::format("has codes of {} bits, expected 1 to 8", bits));
  if (is_linear == is_table)
    return Bad("has codes, and neither scales nor a LUT for them (or both)");

  const bool is_int8 = !stored.int8_codes.empty();
  const std::string_view codes = is_int8 ? stored.int8_codes : stored.codes;
  const int width = static_cast<int>(bits);
  const uint64_t needed = *PackedBytes(count, width);
  if (codes.size() < needed)
    return Bad(fmt::format("has {} bytes of {}-bit codes, expected {} for {} values", codes.size(),
                           bits, needed, count));
  const DataType dtype = is_int8 ? DataType::kInt8 : UnsignedOfBits(width);
  CMLC_ASSIGN_OR_RETURN(const TensorId id,
                        Range(codes.substr(0, needed), dtype, count,
                              bits < 8 ? BitOrder::kHighFirst : BitOrder::kLowFirst));
  const Value data = MakeBlobValue(dtype, shape, id);
  const auto small = [](const FloatRuns& floats, const Shape& at) {
    return MakeImmediate(DataType::kFloat32, at, floats.Joined());
  };
  if (is_table) {
    if (is_int8) return Bad("has int8 codes with a LUT, expected one scale");
    if (table.count() != uint64_t{1} << bits)
      return Bad(fmt::format("has a LUT of {} entries for {} bits, expected {}", table.count(),
                             bits, uint64_t{1} << bits));
    Operation op = Constant(kTableCodes, shape, DataType::kFloat32);
    Shape lut_shape(shape.size(), 1);
    lut_shape.insert(lut_shape.end(), {static_cast<int64_t>(table.count()), 1});
    Bind(op, "indices", data);
    Bind(op, "lut", small(table, lut_shape));
    return op;
  }
  Shape blocks(shape.size(), 1);
  const auto scales = static_cast<int64_t>(scale.count());
  bool fits = scales == 1;
  if (axis && scales == shape[static_cast<size_t>(*axis)]) {
    blocks[static_cast<size_t>(*axis)] = scales;
    fits = true;
  } else if (!axis && groups > 1 && shape.size() == 4 && shape[0] % groups == 0) {
    // A grouped deconvolution: the validator wants a scale for each output channel, coremltools
    // writes one for each of the weight's second axis.
    if (scales == shape[1] * groups) blocks = {groups, shape[1], 1, 1};
    if (scales == shape[1]) blocks = {1, shape[1], 1, 1};
    fits = fits || *ElementCount(blocks) == scale.count();
  }
  if (!fits || (bias.count() != 0 && bias.count() != scale.count()))
    return Bad(fmt::format("has {} scales and {} biases, expected one{}", scale.count(),
                           bias.count(),
                           axis ? fmt::format(" or {}", shape[static_cast<size_t>(*axis)]) : ""));
  if (is_int8) {
    if (bits != 8 || scales != 1 || bias.count() != 0)
      return Bad("has int8 codes, which take 8 bits, one scale and no bias");
    Operation op = Constant(kInt8Codes, shape, DataType::kFloat32);
    Bind(op, "data", data);
    Bind(op, "scale", small(scale, blocks));
    return op;
  }
  Operation op = Constant(kLinearCodes, shape, DataType::kFloat32);
  Bind(op, "data", data);
  Bind(op, "scale", small(scale, blocks));
  if (bias.count() > 0) Bind(op, "bias", small(bias, blocks));
  return op;
}

// Turns a WeightParams into a constant and leaves a placeholder; false if it has no values.
Result<bool> Reader::ReadWeight(const LayerWeight& weight, std::string_view message,
                                const Sizes& sizes, const std::string& parameter, Block& block,
                                Operation& layer, WireMessage& out) {
  weight_ = parameter;
  CMLC_ASSIGN_OR_RETURN(const Stored stored, ReadStored(message));
  if (stored.filled > 1) return Bad("is stored in several ways at once, expected one");
  if (stored.filled == 0) {
    weight_.clear();
    return false;
  }
  uint64_t as_many = stored.floats.count() + stored.halves.size() / 2;
  if (weight.dims == LayerDims::kAsMany && as_many == 0) {
    // How many codes there are is not said, and nobody needs to know.
    weight_.clear();
    return false;
  }
  // A layer says so itself, or by its weights.
  if (stored.updatable) layer.attributes[kUpdatable] = MakeBool(true);
  // Of two messages that exclude each other, as those of two activations, both may have one.
  if (layer.inputs.contains(parameter)) return Bad("is there twice");
  CMLC_ASSIGN_OR_RETURN(const Shape shape, ShapeOf(weight, sizes, as_many));
  const Consumer consumer = LayerConsumer(layer, parameter, shape);
  CMLC_ASSIGN_OR_RETURN(Operation op,
                        MakeWeight(stored, shape, consumer.output_axis, consumer.groups));
  const std::string name = FreeName(layer_ + "." + parameter);
  op.outputs[0].name = name;
  op.attributes["name"] = MakeString(name);
  block.operations.push_back(std::move(op));
  layer.inputs[parameter].bindings.push_back({.target = name, .opaque = {}});
  out.AddBytes(weight.field, parameter + '\0' + stored.rest);
  weight_.clear();
  return true;
}

// --- Writing ------------------------------------------------------------------------------------

class Writer {
 public:
  explicit Writer(const TensorStore& store) : store_(store) {}

  Result<WireMessage> WriteNetwork(const Block& block) const;

 private:
  using Constants = std::map<std::string, const Operation*, std::less<>>;
  Result<WireMessage> WriteLayer(const Operation& layer, const Constants& constants) const;
  Result<WireMessage> WriteParameters(uint32_t kind, uint32_t outer, std::string_view message,
                                      const Operation& layer, const Constants& constants) const;
  Result<WireMessage> WriteWeight(const Operation& op, std::string_view rest) const;
  void AddValue(uint32_t number, const Value& value, BitOrder order, WireMessage& out) const;
  Status AddFloats(uint32_t number, const Value& value, WireMessage& out) const;

  const TensorStore& store_;
};

Result<WireMessage> Writer::WriteNetwork(const Block& block) const {
  WireMessage out;
  Constants constants;
  for (const Operation& op : block.operations) {
    if (IsConst(op) || IsConstexpr(op)) {
      constants[op.outputs[0].name] = &op;
      continue;
    }
    CMLC_ASSIGN_OR_RETURN(WireMessage layer, WriteLayer(op, constants));
    out.AddMessage(kLayers, std::move(layer));
  }
  out.AddRaw(block.opaque);
  return out;
}

Result<WireMessage> Writer::WriteLayer(const Operation& layer, const Constants& constants) const {
  WireMessage out;
  WireReader fields(layer.opaque);
  while (const auto field = fields.Next()) {
    if (!field->is_bytes || LayerTypeOf(field->number) != layer.type) {
      out.AddRaw(field->raw);
      continue;
    }
    CMLC_ASSIGN_OR_RETURN(WireMessage parameters,
                          WriteParameters(field->number, 0, field->payload, layer, constants));
    out.AddMessage(field->number, std::move(parameters));
  }
  CMLC_CHECK(!fields.malformed());
  return out;
}

// The constant that a parameter of a layer is bound to; null if it has none.
const Operation* ConstantOf(const Operation& layer, std::string_view parameter,
                            const std::map<std::string, const Operation*, std::less<>>& constants) {
  const auto input = layer.inputs.find(std::string(parameter));
  if (input == layer.inputs.end()) return nullptr;
  return constants.at(std::get<std::string>(input->second.bindings.at(0).target));
}

Result<WireMessage> Writer::WriteParameters(uint32_t kind, uint32_t outer, std::string_view message,
                                            const Operation& layer,
                                            const Constants& constants) const {
  WireMessage out;
  const FieldRoles roles(kind, outer);
  WireReader fields(message);
  while (const auto field = fields.Next()) {
    WireMessage inner;
    if (roles.IsDynamicInt8(*field) && field->value != 0) {
      // The flag goes with int8 codes, and with no others.
      const Operation* weights = ConstantOf(layer, "weights", constants);
      if (weights == nullptr || weights->type == kInt8Codes) out.AddRaw(field->raw);
      continue;
    }
    if (const LayerWeight* weight = roles.WeightOf(*field)) {
      // One without values is no placeholder, even if it looks like one of another weight.
      const size_t end = field->payload.find('\0');
      const std::string_view parameter = field->payload.substr(0, end);
      const LayerWeight* named = FindLayerWeight(layer.type, parameter);
      const Operation* constant =
          end == std::string_view::npos || named == nullptr || named->name != weight->name
              ? nullptr
              : ConstantOf(layer, parameter, constants);
      if (constant == nullptr) {
        out.AddRaw(field->raw);
        continue;
      }
      CMLC_ASSIGN_OR_RETURN(inner, WriteWeight(*constant, field->payload.substr(end + 1)));
    } else if (roles.HoldsWeights(*field)) {
      CMLC_ASSIGN_OR_RETURN(inner,
                            WriteParameters(kind, field->number, field->payload, layer, constants));
    } else if (roles.IsNetwork(*field)) {
      CMLC_ASSIGN_OR_RETURN(inner,
                            WriteNetwork(layer.blocks.at(std::stoul(std::string(field->payload)))));
    } else {
      out.AddRaw(field->raw);
      continue;
    }
    out.AddMessage(field->number, std::move(inner));
  }
  CMLC_CHECK(!fields.malformed());
  return out;
}

void Writer::AddValue(uint32_t number, const Value& value, BitOrder order, WireMessage& out) const {
  if (const auto* id = std::get_if<TensorId>(&value.content)) {
    out.AddTensor(number, {.id = *id, .size_bytes = store_.info(*id).size_bytes, .order = order});
    return;
  }
  const std::string bytes = *ImmediateBytes(value);
  const int bits = BitsOf(value.type.tensor.dtype);
  if (bits >= 8 || order == BitOrder::kLowFirst) {
    out.AddBytes(number, bytes);
    return;
  }
  std::string turned(bytes.size(), '\0');
  numeric::LowToHighFirst(std::as_bytes(std::span(bytes)), bits,
                          static_cast<size_t>(*ElementCount(*StaticShape(value.type))),
                          std::as_writable_bytes(std::span(turned)));
  out.AddBytes(number, turned);
}

// Scales, biases and LUTs are fp32 in the message, whatever a pass made them in.
Status Writer::AddFloats(uint32_t number, const Value& value, WireMessage& out) const {
  CMLC_ASSIGN_OR_RETURN(
      const std::vector<float> floats,
      ReadOperand(
          {.dtype = value.type.tensor.dtype, .shape = *StaticShape(value.type), .content = value},
          store_));
  out.AddBytes(number,
               {reinterpret_cast<const char*>(floats.data()), floats.size() * sizeof(float)});
  return Ok();
}

Result<WireMessage> Writer::WriteWeight(const Operation& op, std::string_view rest) const {
  WireMessage out;
  const auto operand = [&](const char* parameter) -> const Value& {
    const Value* value = FindOperand(op, parameter);
    CMLC_CHECK(value != nullptr);
    return *value;
  };
  if (IsConst(op)) {
    const Value& value = op.attributes.at("val");
    const bool is_half = value.type.tensor.dtype == DataType::kFloat16;
    AddValue(is_half ? kFloat16Value : kFloatValue, value, BitOrder::kLowFirst, out);
    out.AddRaw(rest);
    return out;
  }
  WireMessage parameters;
  const bool is_table = op.type == kTableCodes;
  const Value& codes = operand(is_table ? "indices" : "data");
  if (is_table) {
    CMLC_RETURN_IF_ERROR(AddFloats(kTableValue, operand("lut"), parameters));
  } else {
    CMLC_CHECK(op.type == kLinearCodes || op.type == kInt8Codes);
    CMLC_RETURN_IF_ERROR(AddFloats(kScale, operand("scale"), parameters));
    if (op.inputs.contains("bias"))
      CMLC_RETURN_IF_ERROR(AddFloats(kBias, operand("bias"), parameters));
  }
  WireMessage quantization;
  quantization.AddVarint(kNumberOfBits, static_cast<uint64_t>(BitsOf(codes.type.tensor.dtype)));
  quantization.AddMessage(is_table ? kLookUpTable : kLinear, std::move(parameters));
  AddValue(op.type == kInt8Codes ? kInt8RawValue : kRawValue, codes, BitOrder::kHighFirst, out);
  out.AddMessage(kQuantization, std::move(quantization));
  out.AddRaw(rest);
  return out;
}

}  // namespace

Result<Network> ParseNetwork(std::string_view message, const MessageFile& from,
                             TensorStore& store) {
  Network network;
  CMLC_RETURN_IF_ERROR(Reader(from, store).ReadNetwork(message, 0, network.block));
  return network;
}

Result<WireMessage> SerializeNetwork(const Network& network, const TensorStore& store) {
  return Writer(store).WriteNetwork(network.block);
}

}  // namespace cmlc::format
