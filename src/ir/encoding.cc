#include "ir/encoding.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "ir/decode.h"
#include "numeric/bit_pack.h"
#include "numeric/half.h"

namespace cmlc {
namespace {

constexpr int32_t kSpecIos18 = 9;
constexpr int32_t kSpecIos26 = 10;

// --- From a chain to an encoding -----------------------------------------------------------------

class Parser {
 public:
  Parser(const GraphIndex& index, const TensorStore& store) : index_(index), store_(store) {}

  std::optional<Encoding> Parse(const Definition& definition) const;

 private:
  // What an operand is bound to: a literal or const, or an output of a constexpr.
  struct Bound {
    const Value* value = nullptr;
    const Definition* source = nullptr;
  };
  Bound Find(const Operation& op, const std::string& parameter) const;
  std::optional<Operand> Literal(const Operation& op, const std::string& parameter) const;
  bool TakeScale(const Operation& op, std::optional<Operand>& scale,
                 std::optional<Operand>& offset) const;
  bool TakeAffine(const Operation& op, Encoding& encoding) const;
  bool TakeLut(const Operation& op, Encoding& encoding) const;
  bool ParseDense(const Operation& op, Encoding& encoding) const;
  bool ParseSparse(const Operation& op, Encoding& encoding) const;

  const GraphIndex& index_;
  const TensorStore& store_;
};

Parser::Bound Parser::Find(const Operation& op, const std::string& parameter) const {
  if (const Value* value = FindOperand(op, parameter)) return {.value = value};
  const auto found = op.inputs.find(parameter);
  if (found == op.inputs.end() || found->second.bindings.size() != 1) return {};
  const auto* name = std::get_if<std::string>(&found->second.bindings[0].target);
  const Definition* source = name == nullptr ? nullptr : index_.Find(&op, *name);
  if (source == nullptr) return {};
  if (!IsConst(*source->op)) return {.source = source};
  const auto value = source->op->attributes.find("val");
  return {.value = value == source->op->attributes.end() ? nullptr : &value->second};
}

std::optional<Operand> Parser::Literal(const Operation& op, const std::string& parameter) const {
  const Value* value = Find(op, parameter).value;
  if (value == nullptr) return std::nullopt;
  const std::optional<Shape> shape = StaticShape(value->type);
  if (!shape || !ElementCount(*shape)) return std::nullopt;
  if (const auto* id = std::get_if<TensorId>(&value->content); id == nullptr) {
    if (!ImmediateBytes(*value)) return std::nullopt;
  } else if (store_.info(*id).missing) {
    return std::nullopt;
  }
  return Operand{.dtype = value->type.tensor.dtype, .shape = *shape, .content = *value};
}

bool Parser::TakeScale(const Operation& op, std::optional<Operand>& scale,
                       std::optional<Operand>& offset) const {
  scale = Literal(op, "scale");
  if (!scale) return false;
  if (!op.inputs.contains("offset")) return true;
  offset = Literal(op, "offset");
  return offset.has_value();
}

// The older form has scales and zero points of rank 0 or 1, each as it likes.
bool Parser::TakeAffine(const Operation& op, Encoding& encoding) const {
  const auto scale = Literal(op, "scale");
  const auto zero_point = Literal(op, "zero_point");
  const Value* axis_value = Find(op, "axis").value;
  const auto axis = axis_value == nullptr ? std::nullopt : ImmediateInts(*axis_value);
  if (!scale || !zero_point || !axis || axis->size() != 1) return false;
  if (zero_point->dtype != encoding.data.dtype) return false;
  const size_t rank = encoding.data.shape.size();
  const auto at = static_cast<size_t>(axis->front() < 0 ? axis->front() + static_cast<int64_t>(rank)
                                                        : axis->front());
  if (at >= rank) return false;
  const uint64_t count = std::max(*ElementCount(scale->shape), *ElementCount(zero_point->shape));
  if (count != 1 && count != static_cast<uint64_t>(encoding.data.shape[at])) return false;
  Shape shape(rank, 1);
  shape[at] = static_cast<int64_t>(count);
  const auto spread = [&](const Operand& operand) -> std::optional<Operand> {
    const auto width = static_cast<size_t>(BitsOf(operand.dtype)) / 8;
    const uint64_t own = *ElementCount(operand.shape);
    const Result<TensorView> view = ViewOperand(operand, store_, 0, own * width);
    if (!view.ok() || own == 0) return std::nullopt;
    std::string bytes;
    for (uint64_t i = 0; i < count; ++i)
      bytes.append(reinterpret_cast<const char*>(view->bytes().data()) + (own == 1 ? 0 : i * width),
                   width);
    return Operand{.dtype = operand.dtype, .shape = shape, .content = std::move(bytes)};
  };
  encoding.scale = spread(*scale);
  encoding.offset = spread(*zero_point);
  if (!encoding.scale || !encoding.offset) return false;
  // A zero point of zero is the same as none.
  const auto& zeros = std::get<std::string>(encoding.offset->content);
  if (zeros.find_first_not_of('\0') == std::string::npos) encoding.offset.reset();
  return true;
}

bool Parser::TakeLut(const Operation& op, Encoding& encoding) const {
  const Bound lut = Find(op, "lut");
  if (lut.source != nullptr) {
    const Operation& inner = *lut.source->op;
    if (inner.type != "constexpr_blockwise_shift_scale") return false;
    encoding.lut = Literal(inner, "data");
    if (!encoding.lut || !TakeScale(inner, encoding.lut_scale, encoding.lut_offset)) return false;
  } else {
    encoding.lut = Literal(op, "lut");
  }
  if (!encoding.lut) return false;
  if (const Bound axis = Find(op, "vector_axis"); axis.value != nullptr) {
    const auto number = ImmediateInts(*axis.value);
    if (!number || number->size() != 1) return false;
    encoding.vector_axis = number->front();
    if (encoding.vector_axis < 0)
      encoding.vector_axis += static_cast<int64_t>(encoding.lut->shape.size()) - 2;
  }
  return true;
}

bool Parser::ParseSparse(const Operation& op, Encoding& encoding) const {
  if (op.type == "constexpr_lut_to_sparse") {
    const auto mask = Literal(op, "indices_mask");
    const auto indices = Literal(op, "indices_nonzero_data");
    if (!mask || !indices || !TakeLut(op, encoding)) return false;
    encoding.mask = mask;
    encoding.data = *indices;
    return true;
  }
  if (op.type != "constexpr_sparse_blockwise_shift_scale") return false;
  if (!TakeScale(op, encoding.scale, encoding.offset)) return false;
  const Bound values = Find(op, "nonzero_data");
  if (values.source != nullptr)
    return values.source->output == 1 && values.source->op->type == "constexpr_lut_to_sparse" &&
           ParseSparse(*values.source->op, encoding);
  const auto mask = Literal(op, "data_mask");
  const auto data = Literal(op, "nonzero_data");
  if (!mask || !data) return false;
  encoding.mask = mask;
  encoding.data = *data;
  return true;
}

bool Parser::ParseDense(const Operation& op, Encoding& encoding) const {
  if (op.type == "constexpr_affine_dequantize") {
    const auto data = Literal(op, "quantized_data");
    if (!data) return false;
    encoding.data = *data;
    return TakeAffine(op, encoding);
  }
  if (op.type == "constexpr_lut_to_dense") {
    const auto indices = Literal(op, "indices");
    if (!indices || !TakeLut(op, encoding)) return false;
    encoding.data = *indices;
    return true;
  }
  if (op.type == "constexpr_blockwise_shift_scale") {
    if (!TakeScale(op, encoding.scale, encoding.offset)) return false;
    const Bound data = Find(op, "data");
    if (data.source != nullptr)
      return data.source->op->type == "constexpr_lut_to_dense" &&
             ParseDense(*data.source->op, encoding);
    const auto literal = Literal(op, "data");
    if (!literal) return false;
    encoding.data = *literal;
    return true;
  }
  if (op.type == "constexpr_sparse_to_dense") {
    const Bound values = Find(op, "nonzero_data");
    if (values.source != nullptr)
      return values.source->output == 1 && ParseSparse(*values.source->op, encoding);
    const auto mask = Literal(op, "mask");
    const auto data = Literal(op, "nonzero_data");
    if (!mask || !data) return false;
    encoding.mask = mask;
    encoding.data = *data;
    return true;
  }
  return false;
}

std::optional<Encoding> Parser::Parse(const Definition& definition) const {
  const Operation& op = *definition.op;
  if (definition.output != 0 || op.outputs.empty() || !op.outputs[0].type) return std::nullopt;
  const std::optional<Shape> shape = StaticShape(*op.outputs[0].type);
  if (!shape) return std::nullopt;
  Encoding encoding;
  encoding.dtype = op.outputs[0].type->tensor.dtype;
  encoding.shape = *shape;
  if (!ParseDense(op, encoding)) return std::nullopt;
  if (encoding.mask) encoding.kept = *ElementCount(encoding.data.shape);
  return encoding;
}

// --- From an encoding to a chain -----------------------------------------------------------------

// An operand of an operation to be built: the value at an index of those that the driver makes, one
// that is there already, or the output of an operation before.
struct Source {
  std::variant<size_t, Value, std::string> from;
};

struct PlannedOp {
  std::string type;
  std::vector<std::pair<std::string, Source>> inputs;      // iOS 18: inputs; iOS 16: attributes
  std::vector<std::pair<std::string, ValueType>> outputs;  // suffix of the name, type; "": its own
};

std::vector<Operation> Build(const std::vector<PlannedOp>& plan, bool old_form, const Operation& op,
                             const std::vector<Value>& values) {
  const std::string& name = op.outputs[0].name;
  std::vector<Operation> built;
  for (const PlannedOp& planned : plan) {
    Operation next;
    next.type = planned.type;
    const bool last = &planned == &plan.back();
    if (last) {
      next.outputs = op.outputs;
      next.attributes["name"] = MakeString(NameOf(op));
    } else {
      for (const auto& [suffix, type] : planned.outputs)
        next.outputs.push_back({.name = name + suffix, .type = type, .opaque = {}});
      next.attributes["name"] = MakeString(name + planned.outputs.back().first);
    }
    for (const auto& [parameter, source] : planned.inputs) {
      if (const auto* before = std::get_if<std::string>(&source.from)) {
        next.inputs[parameter].bindings.push_back({.target = name + *before, .opaque = {}});
        continue;
      }
      const auto* made = std::get_if<size_t>(&source.from);
      const Value& value = made != nullptr ? values[*made] : std::get<Value>(source.from);
      if (old_form)
        next.attributes[parameter] = value;
      else
        next.inputs[parameter].bindings.push_back({.target = value, .opaque = {}});
    }
    built.push_back(std::move(next));
  }
  return built;
}

class Planner {
 public:
  explicit Planner(Replacement& replacement) : replacement_(replacement) {}

  Source Take(Operand operand) {
    if (auto* value = std::get_if<Value>(&operand.content)) return {std::move(*value)};
    NewTensor tensor{.dtype = operand.dtype, .shape = std::move(operand.shape), .content = {}};
    if (auto* bytes = std::get_if<std::string>(&operand.content))
      tensor.content = std::move(*bytes);
    else
      tensor.content = std::move(std::get<TensorSource>(operand.content));
    replacement_.tensors.push_back(std::move(tensor));
    return {replacement_.tensors.size() - 1};
  }

  // The same bytes as a vector of uint8, as iOS 16 keeps indices and masks.
  Source TakePacked(Operand operand) {
    CMLC_CHECK(!std::holds_alternative<Value>(operand.content));
    const uint64_t bytes = *PackedBytes(*ElementCount(operand.shape), BitsOf(operand.dtype));
    operand.dtype = DataType::kUInt8;
    operand.shape = {static_cast<int64_t>(bytes)};
    if (auto* source = std::get_if<TensorSource>(&operand.content)) {
      source->dtype = DataType::kUInt8;
      source->element_count = bytes;
    }
    return Take(std::move(operand));
  }

  Source TakeShape(const Shape& shape) {
    const std::vector<uint32_t> sizes(shape.begin(), shape.end());
    return Take({.dtype = DataType::kUInt32,
                 .shape = {static_cast<int64_t>(sizes.size())},
                 .content = std::string(reinterpret_cast<const char*>(sizes.data()),
                                        sizes.size() * sizeof(uint32_t))});
  }

 private:
  Replacement& replacement_;
};

// A vector or scalar of what an iOS 16 scale or zero point holds, and the axis that it is for.
std::pair<Operand, int32_t> AlongAxis(Operand operand) {
  int32_t axis = 0;
  for (size_t d = 0; d < operand.shape.size(); ++d)
    if (operand.shape[d] > 1) axis = static_cast<int32_t>(d);
  const uint64_t count = *ElementCount(operand.shape);
  operand.shape = count == 1 ? Shape{} : Shape{static_cast<int64_t>(count)};
  return {std::move(operand), axis};
}

std::vector<PlannedOp> PlanOldForm(Encoding encoding, Planner& planner) {
  PlannedOp op;
  if (encoding.palettized()) {
    op.type = "constexpr_lut_to_dense";
    op.inputs.emplace_back("indices", planner.TakePacked(std::move(encoding.data)));
    encoding.lut->shape = {encoding.lut->shape[encoding.lut->shape.size() - 2]};
    op.inputs.emplace_back("lut", planner.Take(std::move(*encoding.lut)));
    op.inputs.emplace_back("shape", planner.TakeShape(encoding.shape));
  } else if (encoding.sparse()) {
    op.type = "constexpr_sparse_to_dense";
    op.inputs.emplace_back("nonzero_data", planner.Take(std::move(encoding.data)));
    op.inputs.emplace_back("mask", planner.TakePacked(std::move(*encoding.mask)));
    op.inputs.emplace_back("shape", planner.TakeShape(encoding.shape));
  } else {
    op.type = "constexpr_affine_dequantize";
    const DataType codes = encoding.data.dtype;
    op.inputs.emplace_back("quantized_data", planner.Take(std::move(encoding.data)));
    if (!encoding.offset)  // the operand is mandatory
      encoding.offset = Operand{
          .dtype = codes,
          .shape = encoding.scale->shape,
          .content = std::string(static_cast<size_t>(*ElementCount(encoding.scale->shape)), '\0')};
    auto [scale, axis] = AlongAxis(std::move(*encoding.scale));
    op.inputs.emplace_back("scale", planner.Take(std::move(scale)));
    op.inputs.emplace_back("zero_point",
                           planner.Take(AlongAxis(std::move(*encoding.offset)).first));
    op.inputs.emplace_back("axis", Source{MakeInt32(axis)});
  }
  return {std::move(op)};
}

// A LUT's scale or offset as that of what is looked up.
Operand WithoutEntryAxes(Operand operand) {
  operand.shape.resize(operand.shape.size() - 2);
  if (auto* value = std::get_if<Value>(&operand.content)) {
    ValueType type = MakeTensorType(operand.dtype, operand.shape);
    value->type = std::move(type);
  }
  return operand;
}

std::vector<PlannedOp> Plan(Encoding encoding, int32_t version, Planner& planner) {
  std::vector<PlannedOp> plan;
  const auto scale_inputs = [&](PlannedOp& op, std::optional<Operand>& scale,
                                std::optional<Operand>& offset) {
    op.inputs.emplace_back("scale", planner.Take(std::move(*scale)));
    if (offset) op.inputs.emplace_back("offset", planner.Take(std::move(*offset)));
  };
  // A look-up gives 8-bit integers or floating-point numbers: 4-bit entries are dequantized first.
  if (encoding.lut_scale && version >= kSpecIos26 && !encoding.scale &&
      BitsOf(encoding.lut->dtype) == 8) {
    encoding.scale = WithoutEntryAxes(std::move(*encoding.lut_scale));
    if (encoding.lut_offset) encoding.offset = WithoutEntryAxes(std::move(*encoding.lut_offset));
    encoding.lut_scale.reset();
    encoding.lut_offset.reset();
  }
  DataType lut_dtype = encoding.palettized() ? encoding.lut->dtype : encoding.dtype;
  const Shape mask_shape = encoding.sparse() ? encoding.mask->shape : Shape{};
  const auto width = static_cast<uint64_t>(encoding.width());
  const Shape kept_shape = {static_cast<int64_t>(encoding.kept * width)};

  std::optional<Source> lut;
  if (encoding.palettized()) {
    const Shape lut_shape = encoding.lut->shape;
    lut = planner.Take(std::move(*encoding.lut));
    if (encoding.lut_scale) {
      lut_dtype = encoding.lut_scale->dtype;
      PlannedOp op{.type = "constexpr_blockwise_shift_scale",
                   .inputs = {{"data", std::move(*lut)}},
                   .outputs = {{"_lut", MakeTensorType(lut_dtype, lut_shape)}}};
      scale_inputs(op, encoding.lut_scale, encoding.lut_offset);
      plan.push_back(std::move(op));
      lut = Source{std::string("_lut")};
    }
  }
  const auto lut_inputs = [&](PlannedOp& op) {
    op.inputs.emplace_back("lut", std::move(*lut));
    if (width > 1)
      op.inputs.emplace_back("vector_axis",
                             Source{MakeInt32(static_cast<int32_t>(encoding.vector_axis))});
  };

  if (!encoding.sparse()) {
    if (!encoding.palettized() && !encoding.scale) {
      plan.push_back({.type = "const",
                      .inputs = {{"val", planner.Take(std::move(encoding.data))}},
                      .outputs = {}});
      return plan;
    }
    if (encoding.palettized()) {
      PlannedOp op{.type = "constexpr_lut_to_dense",
                   .inputs = {{"indices", planner.Take(std::move(encoding.data))}},
                   .outputs = {{"_looked_up", MakeTensorType(lut_dtype, encoding.shape)}}};
      lut_inputs(op);
      plan.push_back(std::move(op));
      if (!encoding.scale) return plan;
    }
    PlannedOp op{.type = encoding.bias ? "constexpr_scale_bias" : "constexpr_blockwise_shift_scale",
                 .inputs = {},
                 .outputs = {}};
    op.inputs.emplace_back("data", encoding.palettized() ? Source{std::string("_looked_up")}
                                                         : planner.Take(std::move(encoding.data)));
    scale_inputs(op, encoding.scale, encoding.offset);
    if (encoding.bias) op.inputs.emplace_back("bias", planner.Take(std::move(*encoding.bias)));
    plan.push_back(std::move(op));
    return plan;
  }

  Source mask = planner.Take(std::move(*encoding.mask));
  Source values = planner.Take(std::move(encoding.data));
  if (encoding.palettized()) {
    PlannedOp op{
        .type = "constexpr_lut_to_sparse",
        .inputs = {{"indices_mask", std::move(mask)}, {"indices_nonzero_data", std::move(values)}},
        .outputs = {
            {"_mask", MakeTensorType(DataType::kUInt1, width > 1 ? encoding.shape : mask_shape)},
            {"_kept", MakeTensorType(lut_dtype, kept_shape)}}};
    lut_inputs(op);
    plan.push_back(std::move(op));
    mask = Source{std::string("_mask")};
    values = Source{std::string("_kept")};
  }
  if (encoding.scale) {
    PlannedOp op{.type = "constexpr_sparse_blockwise_shift_scale",
                 .inputs = {{"data_mask", std::move(mask)}, {"nonzero_data", std::move(values)}},
                 .outputs = {{"_scaled_mask", MakeTensorType(DataType::kUInt1, encoding.shape)},
                             {"_scaled", MakeTensorType(encoding.dtype, kept_shape)}}};
    scale_inputs(op, encoding.scale, encoding.offset);
    plan.push_back(std::move(op));
    mask = Source{std::string("_scaled_mask")};
    values = Source{std::string("_scaled")};
  }
  plan.push_back({.type = "constexpr_sparse_to_dense",
                  .inputs = {{"nonzero_data", std::move(values)}, {"mask", std::move(mask)}},
                  .outputs = {}});
  return plan;
}

}  // namespace

std::optional<Encoding> ParseEncoding(const Definition& definition, const GraphIndex& index,
                                      const TensorStore& store) {
  return Parser(index, store).Parse(definition);
}

Replacement MakeReplacement(Encoding encoding, int32_t specification_version, std::string form,
                            std::function<Quality()> quality, ModelFormat format) {
  Replacement replacement;
  replacement.form = std::move(form);
  replacement.quality = std::move(quality);
  Planner planner(replacement);
  const bool plain = !encoding.sparse() && !encoding.palettized() && !encoding.scale;
  const bool is_network = format == ModelFormat::kNetwork;
  const bool old_form = !is_network && specification_version < kSpecIos18;
  // A layer takes weights of any type, and codes stand for fp32.
  std::optional<ValueType> type;
  if (is_network) type = MakeTensorType(encoding.dtype, encoding.shape);
  std::vector<PlannedOp> plan = old_form && !plain
                                    ? PlanOldForm(std::move(encoding), planner)
                                    : Plan(std::move(encoding), specification_version, planner);
  // A const has its value as an attribute on every system.
  replacement.build = [plan = std::move(plan), attributes = old_form || plain,
                       type = std::move(type)](const Operation& op,
                                               const std::vector<Value>& values) {
    std::vector<Operation> built = Build(plan, attributes, op, values);
    if (type) built.back().outputs[0].type = type;
    return built;
  };
  return replacement;
}

Replacement MakeHalfReplacement(TensorSource halves, const Shape& shape, ModelFormat format,
                                std::function<Quality()> quality) {
  Replacement replacement;
  replacement.form = "fp16";
  replacement.quality = std::move(quality);
  replacement.tensors.push_back(
      {.dtype = DataType::kFloat16, .shape = shape, .content = std::move(halves)});
  replacement.build = [format](const Operation& op, const std::vector<Value>& values) {
    Operation made;
    made.outputs = op.outputs;
    made.attributes["name"] = MakeString(NameOf(op));
    if (format == ModelFormat::kNetwork) {
      made.type = "const";
      made.outputs[0].type = values[0].type;
      made.attributes["val"] = values[0];
    } else {
      made.type = "constexpr_cast";
      made.attributes["source_val"] = values[0];
      made.attributes["output_dtype"] = MakeString("fp32");
    }
    return std::vector<Operation>{std::move(made)};
  };
  return replacement;
}

Result<TensorView> ViewOperand(const Operand& operand, const TensorStore& store, uint64_t begin,
                               uint64_t size) {
  if (const auto* bytes = std::get_if<std::string>(&operand.content))
    return TensorView::Copy(std::as_bytes(std::span(*bytes)).subspan(begin, size));
  const auto& value = std::get<Value>(operand.content);
  if (const auto* id = std::get_if<TensorId>(&value.content)) return store.View(*id, begin, size);
  const std::string bytes = *ImmediateBytes(value);
  return TensorView::Copy(std::as_bytes(std::span(bytes)).subspan(begin, size));
}

Result<std::vector<float>> ReadOperand(const Operand& operand, const TensorStore& store) {
  const uint64_t count = *ElementCount(operand.shape);
  const int bits = BitsOf(operand.dtype);
  const bool is_signed = FindDataType(operand.dtype)->is_signed;
  CMLC_ASSIGN_OR_RETURN(const TensorView view,
                        ViewOperand(operand, store, 0, *PackedBytes(count, bits)));
  const std::byte* at = view.bytes().data();
  std::vector<float> values(static_cast<size_t>(count));
  if (operand.dtype == DataType::kFloat32) {
    if (count > 0) std::memcpy(values.data(), at, values.size() * sizeof(float));
  } else if (operand.dtype == DataType::kFloat16) {
    for (size_t i = 0; i < values.size(); ++i) {
      uint16_t half = 0;
      std::memcpy(&half, at + 2 * i, 2);
      values[i] = numeric::HalfToFloat(half);
    }
  } else {
    CMLC_CHECK(bits <= 8 && !FindDataType(operand.dtype)->is_float);
    std::vector<uint8_t> codes(values.size());
    numeric::UnpackBits(view.bytes(), bits, 0, codes);
    for (size_t i = 0; i < values.size(); ++i) {
      const int code = codes[i];
      values[i] =
          static_cast<float>(is_signed && code >= 1 << (bits - 1) ? code - (1 << bits) : code);
    }
  }
  return values;
}

}  // namespace cmlc
