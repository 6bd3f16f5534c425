#include "activations/quantization.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "activations/ops.h"
#include "ir/encoding.h"
#include "numeric/half.h"

namespace cmlc::activations {
namespace {

Operation MakeConst(std::string name, Value value) {
  Operation op;
  op.type = "const";
  op.outputs.push_back({.name = name, .type = value.type, .opaque = {}});
  op.attributes["name"] = MakeString(std::move(name));
  op.attributes["val"] = std::move(value);
  return op;
}

// A number as it lies in a file: fp16, fp32, int8 or uint8.
std::string PackedNumber(DataType dtype, double number) {
  const auto pack = [](auto plain) {
    return std::string(reinterpret_cast<const char*>(&plain), sizeof plain);
  };
  switch (dtype) {
    case DataType::kFloat16:
      return pack(numeric::FloatToHalf(static_cast<float>(number)));
    case DataType::kFloat32:
      return pack(static_cast<float>(number));
    default:
      return std::string(1, static_cast<char>(static_cast<int>(number)));
  }
}

Value MakeNumber(DataType dtype, double number) {
  return MakeImmediate(dtype, {}, PackedNumber(dtype, number));
}

Value MakeNumbers(DataType dtype, const Shape& shape, const std::vector<double>& numbers) {
  std::string bytes;
  for (const double number : numbers) bytes += PackedNumber(dtype, number);
  return MakeImmediate(dtype, shape, std::move(bytes));
}

Argument Named(std::string name) {
  Argument argument;
  argument.bindings.push_back({.target = std::move(name), .opaque = {}});
  return argument;
}

ValueType WithType(ValueType type, DataType dtype) {
  type.tensor.dtype = dtype;
  return type;
}

void Name(Operation& op, std::string name, ValueType type) {
  op.attributes["name"] = MakeString(name);
  op.outputs.push_back({.name = std::move(name), .type = std::move(type), .opaque = {}});
}

}  // namespace

std::vector<Operation> MakePair(const std::string& name, const ValueType& type,
                                const Parameters& given, const NameMaker& new_name) {
  Parameters parameters = given;
  if (given.zero_point == (given.dtype == DataType::kInt8 ? -128 : 128)) {
    parameters.zero_point = 0;
    parameters.dtype = given.dtype == DataType::kInt8 ? DataType::kUInt8 : DataType::kInt8;
  }
  const std::string quantized = new_name(name + "_quantized");
  const std::string dequantized = new_name(name + "_dequantized");
  const std::string scale = new_name(quantized + "_scale");
  const std::string code_type = new_name(quantized + "_dtype");
  std::vector<Operation> ops;
  ops.push_back(MakeConst(scale, MakeNumber(type.tensor.dtype, parameters.scale)));
  Operation quantize, dequantize;
  quantize.type = "quantize";
  dequantize.type = "dequantize";
  for (Operation* op : {&quantize, &dequantize}) op->inputs["scale"] = Named(scale);
  if (parameters.zero_point != 0) {
    const std::string zero_point = new_name(quantized + "_zero_point");
    ops.push_back(MakeConst(zero_point, MakeNumber(parameters.dtype, parameters.zero_point)));
    for (Operation* op : {&quantize, &dequantize}) op->inputs["zero_point"] = Named(zero_point);
  }
  ops.push_back(
      MakeConst(code_type, MakeString(parameters.dtype == DataType::kInt8 ? "int8" : "uint8")));
  quantize.inputs["output_dtype"] = Named(code_type);
  quantize.inputs["input"] = Named(name);
  Name(quantize, quantized, WithType(type, parameters.dtype));
  dequantize.inputs["input"] = Named(quantized);
  Name(dequantize, dequantized, type);
  ops.push_back(std::move(quantize));
  ops.push_back(std::move(dequantize));
  return ops;
}

// --- Clean-up -----------------------------------------------------------------------------------

namespace {

// Scale, zero point and axis of a quantize or dequantize.
struct Quantization {
  DataType scale_type = DataType::kUnused;
  Shape shape;                            // of the scale
  std::vector<double> scale, zero_point;  // zero_point: empty if there is none
  std::optional<int64_t> axis;

  bool operator==(const Quantization& other) const {
    const auto plain = [](const std::vector<double>& zero_points) {
      return std::all_of(zero_points.begin(), zero_points.end(), [](double z) { return z == 0; })
                 ? std::vector<double>()
                 : zero_points;
    };
    return scale == other.scale && plain(zero_point) == plain(other.zero_point) &&
           axis == other.axis;
  }
  bool all_zero_points(double number) const {
    return !zero_point.empty() &&
           std::all_of(zero_point.begin(), zero_point.end(), [&](double z) { return z == number; });
  }
};

class Cleaner {
 public:
  Cleaner(Block& block, const std::vector<NamedValueType>& inputs, int32_t version,
          TensorStore& tensors, const NameMaker& new_name, std::vector<std::string>& notes)
      : block_(block),
        inputs_(inputs),
        version_(version),
        tensors_(tensors),
        new_name_(new_name),
        notes_(notes) {}

  Status Run(bool normalize_scales);

 private:
  // One rule, at one op; says whether it changed anything that the index knows of.
  using Rule = Result<bool> (Cleaner::*)(const Definition& definition);
  Status Apply(Rule rule);
  Result<bool> Cancel(const Definition& dequantize);
  Result<bool> DropZeroPoint(const Definition& definition);
  Result<bool> MoveReshape(const Definition& quantize);
  Result<bool> NormalizeScales(const Definition& definition);
  Result<bool> FoldConstant(const Definition& dequantize);

  const Value* Constant(const Operation& op, const std::string& parameter) const;
  const Definition* Source(const Operation& op, const std::string& parameter) const;
  Result<std::optional<Quantization>> Read(const Operation& op) const;
  // The only reader of a value, if that is an op; null otherwise.
  static const Use* OnlyUse(const Definition& definition);
  static bool FeedsOutput(const Definition& definition);
  const Definition* OutputOf(const Operation* op) const;
  bool Ambiguous(const std::string& name) const { return definitions_.at(name) > 1; }
  static void Redirect(const Definition& from, const std::string& to);
  void Remove(const Operation* op) { dead_.insert(op); }
  void Insert(const Definition& before, Operation op) {
    inserted_[{before.block, before.index}].push_back(std::move(op));
  }
  std::string AddConst(const Definition& before, const std::string& name, Value value);
  void CountDefinitions(const Block& block);
  void Rebuild(Block& block);
  void Sweep();

  Block& block_;
  const std::vector<NamedValueType>& inputs_;
  int32_t version_;
  TensorStore& tensors_;
  const NameMaker& new_name_;
  std::vector<std::string>& notes_;
  std::optional<GraphIndex> index_;
  std::map<std::string, int> definitions_;  // how many values have a name
  std::map<const Operation*, const Definition*> outputs_;
  std::set<std::string> unread_;  // values that nothing read before
  std::set<const Operation*> dead_;
  std::map<std::pair<Block*, size_t>, std::vector<Operation>> inserted_;
};

void Cleaner::CountDefinitions(const Block& block) {
  for (const NamedValueType& input : block.inputs) ++definitions_[input.name];
  for (const Operation& op : block.operations) {
    for (const NamedValueType& output : op.outputs) ++definitions_[output.name];
    for (const Block& inner : op.blocks) CountDefinitions(inner);
  }
}

const Definition* Cleaner::Source(const Operation& op, const std::string& parameter) const {
  const auto found = op.inputs.find(parameter);
  if (found == op.inputs.end() || found->second.bindings.size() != 1) return nullptr;
  const auto* name = std::get_if<std::string>(&found->second.bindings[0].target);
  return name == nullptr ? nullptr : index_->FindValue(&op, *name);
}

const Value* Cleaner::Constant(const Operation& op, const std::string& parameter) const {
  return ConstantArgument(*index_, op, parameter);
}

// Nothing if it is not known: then the op is left alone.
Result<std::optional<Quantization>> Cleaner::Read(const Operation& op) const {
  Quantization q;
  const auto numbers = [&](const Value& value, Shape* shape) -> Result<std::vector<double>> {
    const std::optional<Shape> sizes = StaticShape(value.type);
    if (!sizes) return std::vector<double>();
    if (shape != nullptr) *shape = *sizes;
    CMLC_ASSIGN_OR_RETURN(
        const std::vector<float> read,
        ReadOperand({.dtype = value.type.tensor.dtype, .shape = *sizes, .content = value},
                    tensors_));
    return std::vector<double>(read.begin(), read.end());
  };
  const Value* scale = Constant(op, "scale");
  if (scale == nullptr) return std::optional<Quantization>();
  q.scale_type = scale->type.tensor.dtype;
  CMLC_ASSIGN_OR_RETURN(q.scale, numbers(*scale, &q.shape));
  if (q.scale.empty()) return std::optional<Quantization>();
  if (op.inputs.contains("zero_point")) {
    const Value* zero_point = Constant(op, "zero_point");
    if (zero_point == nullptr) return std::optional<Quantization>();
    CMLC_ASSIGN_OR_RETURN(q.zero_point, numbers(*zero_point, nullptr));
    if (q.zero_point.empty()) return std::optional<Quantization>();
  }
  if (op.inputs.contains("axis")) {
    const Value* axis = Constant(op, "axis");
    const auto read = axis == nullptr ? std::nullopt : ImmediateInts(*axis);
    if (!read || read->size() != 1) return std::optional<Quantization>();
    q.axis = read->front();
  }
  return std::optional(std::move(q));
}

const Use* Cleaner::OnlyUse(const Definition& definition) {
  return definition.uses.size() == 1 && definition.uses[0].op != nullptr ? &definition.uses[0]
                                                                         : nullptr;
}

bool Cleaner::FeedsOutput(const Definition& definition) {
  return std::any_of(definition.uses.begin(), definition.uses.end(),
                     [](const Use& use) { return use.op == nullptr; });
}

const Definition* Cleaner::OutputOf(const Operation* op) const {
  const auto found = outputs_.find(op);
  return found == outputs_.end() ? nullptr : found->second;
}

void Cleaner::Redirect(const Definition& from, const std::string& to) {
  for (const Use& use : from.uses)
    if (use.op != nullptr) use.op->inputs.at(use.parameter).bindings[use.position].target = to;
}

std::string Cleaner::AddConst(const Definition& before, const std::string& name, Value value) {
  std::string unique = new_name_(name);
  Insert(before, MakeConst(unique, std::move(value)));
  return unique;
}

Result<bool> Cleaner::Cancel(const Definition& dequantize) {
  if (dequantize.op->type != "dequantize") return false;
  const Definition* codes = Source(*dequantize.op, "input");
  if (codes == nullptr) return false;
  CMLC_ASSIGN_OR_RETURN(const std::optional<Quantization> first, Read(*dequantize.op));
  if (!first) return false;
  size_t cancelled = 0;
  for (const Use& use : dequantize.uses) {
    if (use.op == nullptr || use.op->type != "quantize" || use.parameter != "input") continue;
    CMLC_ASSIGN_OR_RETURN(const std::optional<Quantization> second, Read(*use.op));
    const Definition* output = OutputOf(use.op);
    if (!second || !(*first == *second) || output == nullptr || FeedsOutput(*output)) continue;
    // The same codes only if they are of the same type.
    if (!codes->value->type || !output->value->type ||
        codes->value->type->tensor.dtype != output->value->type->tensor.dtype)
      continue;
    if (Ambiguous(codes->value->name)) continue;
    Redirect(*output, codes->value->name);
    Remove(use.op);
    ++cancelled;
    notes_.push_back(fmt::format("'{}' cancels '{}'", output->value->name, dequantize.value->name));
  }
  if (cancelled == dequantize.uses.size()) Remove(dequantize.op);
  return cancelled > 0;
}

Result<bool> Cleaner::DropZeroPoint(const Definition& definition) {
  Operation& op = *definition.op;
  const bool quantize = op.type == "quantize";
  if ((!quantize && op.type != "dequantize") || !op.inputs.contains("zero_point")) return false;
  CMLC_ASSIGN_OR_RETURN(const std::optional<Quantization> q, Read(op));
  if (!q) return false;
  if (q->all_zero_points(0)) {
    op.inputs.erase("zero_point");
    notes_.push_back(fmt::format("'{}': its zero point is 0 and goes", definition.value->name));
    return true;
  }
  const bool from_signed = q->all_zero_points(-128);
  if (!quantize || (!from_signed && !q->all_zero_points(128)) || definition.uses.empty())
    return false;
  for (const Use& use : definition.uses) {
    if (use.op == nullptr || use.op->type != "dequantize" || use.parameter != "input") return false;
    CMLC_ASSIGN_OR_RETURN(const std::optional<Quantization> other, Read(*use.op));
    if (!other || !other->all_zero_points(from_signed ? -128 : 128)) return false;
  }
  const DataType dtype = from_signed ? DataType::kUInt8 : DataType::kInt8;
  op.inputs["output_dtype"] = Named(AddConst(definition, definition.value->name + "_dtype",
                                             MakeString(from_signed ? "uint8" : "int8")));
  op.inputs.erase("zero_point");
  if (op.outputs[0].type) op.outputs[0].type->tensor.dtype = dtype;
  for (const Use& use : definition.uses) use.op->inputs.erase("zero_point");
  notes_.push_back(fmt::format("'{}': {} with zero point {} is {} with none",
                               definition.value->name, from_signed ? "int8" : "uint8",
                               from_signed ? -128 : 128, from_signed ? "uint8" : "int8"));
  return true;
}

Result<bool> Cleaner::MoveReshape(const Definition& quantize) {
  if (quantize.op->type != "quantize") return false;
  const Definition* reshaped = Source(*quantize.op, "input");
  if (reshaped == nullptr || reshaped->op == nullptr || reshaped->op->type != "reshape" ||
      OnlyUse(*reshaped) == nullptr || reshaped->block != quantize.block)
    return false;
  const Definition* dequantized = Source(*reshaped->op, "x");
  if (dequantized == nullptr || dequantized->op == nullptr || dequantized->op->type != "dequantize")
    return false;
  const Definition* codes = Source(*dequantized->op, "input");
  CMLC_ASSIGN_OR_RETURN(const std::optional<Quantization> first, Read(*dequantized->op));
  CMLC_ASSIGN_OR_RETURN(const std::optional<Quantization> second, Read(*quantize.op));
  if (codes == nullptr || !first || !second || first->axis || !(*first == *second) ||
      !codes->value->type || !quantize.value->type || FeedsOutput(quantize) ||
      Ambiguous(codes->value->name) || Ambiguous(reshaped->value->name) ||
      codes->value->type->tensor.dtype != quantize.value->type->tensor.dtype)
    return false;
  // The reshape keeps its name, and what it makes is codes now.
  Operation& reshape = *reshaped->op;
  notes_.push_back(fmt::format("'{}' reshapes codes", reshaped->value->name));
  reshape.inputs["x"] = Named(codes->value->name);
  reshape.outputs[0].type = quantize.value->type;
  Redirect(quantize, reshaped->value->name);
  Remove(quantize.op);
  if (dequantized->uses.size() == 1) Remove(dequantized->op);
  return true;
}

// A quotient as the type of a scale holds it; nothing if it cannot hold it as a normal number.
std::optional<std::vector<double>> Divide(const std::vector<double>& scales, double by,
                                          DataType dtype) {
  const bool half = dtype == DataType::kFloat16;
  const double least = half ? 0x1p-14 : static_cast<double>(std::numeric_limits<float>::min());
  std::vector<double> quotients;
  for (const double scale : scales) {
    const auto quotient = static_cast<float>(scale / by);
    const double stored =
        static_cast<double>(half ? numeric::HalfToFloat(numeric::FloatToHalf(quotient)) : quotient);
    if (!std::isfinite(stored) || std::fabs(stored) < least) return std::nullopt;
    quotients.push_back(stored);
  }
  return quotients;
}

Result<bool> Cleaner::NormalizeScales(const Definition& definition) {
  Operation& op = *definition.op;
  if (op.type != "add" && op.type != "sub") return false;
  const Definition* operands[2] = {Source(op, "x"), Source(op, "y")};
  for (const Definition* operand : operands)
    if (operand == nullptr || operand->op == nullptr || operand->op->type != "dequantize" ||
        FeedsOutput(*operand))
      return false;
  const Use* next = OnlyUse(definition);
  if (next == nullptr) return false;
  const Definition* tail = OutputOf(next->op);
  if (next->op->type == "relu" && tail != nullptr) {
    next = OnlyUse(*tail);
    if (next == nullptr) return false;
  }
  if (next->op->type != "quantize" || next->parameter != "input") return false;
  const Definition* result = OutputOf(next->op);
  if (result == nullptr || FeedsOutput(*result)) return false;
  CMLC_ASSIGN_OR_RETURN(const std::optional<Quantization> x, Read(*operands[0]->op));
  CMLC_ASSIGN_OR_RETURN(const std::optional<Quantization> y, Read(*operands[1]->op));
  CMLC_ASSIGN_OR_RETURN(const std::optional<Quantization> z, Read(*next->op));
  if (!x || !y || !z) return false;
  for (const Quantization* operand : {&*x, &*y})
    if (operand->scale.size() == 1 && operand->scale[0] == 1) return false;  // it is done already
  // The second operand's scale becomes 1 if that is possible, else the first one's.
  for (const size_t unit : {1, 0}) {
    const Quantization& one = unit == 1 ? *y : *x;
    const Quantization& other = unit == 1 ? *x : *y;
    if (one.axis || one.scale.size() != 1 || !(one.scale[0] > 0)) continue;
    const auto other_scale = Divide(other.scale, one.scale[0], other.scale_type);
    const auto result_scale = Divide(z->scale, one.scale[0], z->scale_type);
    if (!other_scale || !result_scale) continue;
    notes_.push_back(fmt::format("'{}': the scale of '{}' becomes 1", definition.value->name,
                                 operands[unit]->value->name));
    const auto rescaled = [&](const Definition& of, const Quantization& q,
                              const std::vector<double>& scale, const Definition& before) {
      const std::string name =
          AddConst(before, of.value->name + "_scale", MakeNumbers(q.scale_type, q.shape, scale));
      Operation copy = *of.op;
      copy.inputs["scale"] = Named(name);
      copy.outputs[0].name = new_name_(of.value->name + "_normalized");
      copy.attributes["name"] = MakeString(copy.outputs[0].name);
      std::string output = copy.outputs[0].name;
      Insert(before, std::move(copy));
      return output;
    };
    const std::string unit_name = rescaled(*operands[unit], one, {1.0}, definition);
    const std::string other_name = rescaled(*operands[1 - unit], other, *other_scale, definition);
    op.inputs[unit == 1 ? "y" : "x"] = Named(unit_name);
    op.inputs[unit == 1 ? "x" : "y"] = Named(other_name);
    next->op->inputs["scale"] =
        Named(AddConst(*result, result->value->name + "_scale",
                       MakeNumbers(z->scale_type, z->shape, *result_scale)));
    // What these ops make is something else now, so it gets another name.
    for (const Definition* changed : {&definition, tail != result ? tail : nullptr}) {
      if (changed == nullptr) continue;
      const std::string name = new_name_(changed->value->name + "_normalized");
      Redirect(*changed, name);
      changed->op->outputs[0].name = name;
    }
    // What nothing reads any more goes.
    for (const Definition* operand : operands)
      if (std::all_of(operand->uses.begin(), operand->uses.end(),
                      [&](const Use& use) { return use.op == &op; }))
        Remove(operand->op);
    return true;
  }
  return false;
}

Result<bool> Cleaner::FoldConstant(const Definition& dequantize) {
  Operation& op = *dequantize.op;
  if (op.type != "dequantize") return false;
  const Value* codes = Constant(op, "input");
  CMLC_ASSIGN_OR_RETURN(const std::optional<Quantization> q, Read(op));
  const std::optional<Shape> shape = codes == nullptr ? std::nullopt : StaticShape(codes->type);
  // A constexpr may not be an output of a block, and has at least one axis.
  if (!shape || !q || shape->empty() || FeedsOutput(dequantize)) return false;
  if (const auto* id = std::get_if<TensorId>(&codes->content);
      id != nullptr && tensors_.info(*id).missing)
    return false;
  Shape sizes(shape->size(), 1);
  if (q->axis) {
    const int64_t axis = *q->axis < 0 ? *q->axis + static_cast<int64_t>(shape->size()) : *q->axis;
    if (axis < 0 || axis >= static_cast<int64_t>(shape->size())) return false;
    sizes[static_cast<size_t>(axis)] = static_cast<int64_t>(q->scale.size());
  }
  const auto packed = [](DataType dtype, const std::vector<double>& numbers) {
    std::string bytes;
    for (const double number : numbers) bytes += PackedNumber(dtype, number);
    return bytes;
  };
  const DataType code_type = codes->type.tensor.dtype;
  Encoding encoding;
  encoding.dtype = q->scale_type;
  encoding.shape = *shape;
  encoding.data = {.dtype = code_type, .shape = *shape, .content = *codes};
  encoding.scale =
      Operand{.dtype = q->scale_type, .shape = sizes, .content = packed(q->scale_type, q->scale)};
  if (!q->zero_point.empty())
    encoding.offset =
        Operand{.dtype = code_type, .shape = sizes, .content = packed(code_type, q->zero_point)};
  const Replacement replacement = MakeReplacement(std::move(encoding), version_, {}, {});
  std::vector<Value> values;
  for (const NewTensor& tensor : replacement.tensors) {
    const auto* bytes = std::get_if<std::string>(&tensor.content);
    if (bytes == nullptr) return false;
    values.push_back(MakeImmediate(tensor.dtype, tensor.shape, *bytes));
  }
  std::vector<Operation> ops = replacement.build(op, values);
  notes_.push_back(
      fmt::format("'{}' dequantizes a constant: it is a constexpr now", dequantize.value->name));
  for (Operation& made : ops) Insert(dequantize, std::move(made));
  Remove(&op);
  return true;
}

void Cleaner::Rebuild(Block& block) {
  for (Operation& op : block.operations)
    for (Block& inner : op.blocks) Rebuild(inner);
  std::vector<Operation> operations;
  operations.reserve(block.operations.size());
  for (size_t i = 0; i < block.operations.size(); ++i) {
    if (const auto found = inserted_.find({&block, i}); found != inserted_.end())
      for (Operation& op : found->second) operations.push_back(std::move(op));
    if (!dead_.contains(&block.operations[i])) operations.push_back(std::move(block.operations[i]));
  }
  block.operations = std::move(operations);
}

// Applies a rule wherever it fits, until it fits nowhere. Each time one op is changed, and the
// index made anew: there are few such ops.
Status Cleaner::Apply(Rule rule) {
  bool changed = true;
  while (changed) {
    changed = false;
    index_.emplace(block_, inputs_);
    definitions_.clear();
    for (const NamedValueType& input : inputs_) ++definitions_[input.name];
    CountDefinitions(block_);
    outputs_.clear();
    for (const Definition& definition : index_->definitions())
      if (definition.output == 0) outputs_[definition.op] = &definition;
    for (const Definition& definition : index_->definitions()) {
      if (definition.output != 0 || definition.op->outputs.size() != 1) continue;
      CMLC_ASSIGN_OR_RETURN(changed, (this->*rule)(definition));
      if (changed) break;
    }
    if (changed) {
      Rebuild(block_);
      dead_.clear();
      inserted_.clear();
    }
  }
  return Ok();
}

// Takes out constants that only ops which are gone did read.
void Cleaner::Sweep() {
  index_.emplace(block_, inputs_);
  for (const Definition& definition : index_->definitions())
    if (IsConst(*definition.op) && definition.uses.empty() && definition.op->outputs.size() == 1 &&
        !unread_.contains(definition.value->name))
      Remove(definition.op);
  Rebuild(block_);
  dead_.clear();
}

Status Cleaner::Run(bool normalize_scales) {
  index_.emplace(block_, inputs_);
  for (const Definition& definition : index_->definitions())
    if (definition.uses.empty()) unread_.insert(definition.value->name);
  CMLC_RETURN_IF_ERROR(Apply(&Cleaner::Cancel));
  CMLC_RETURN_IF_ERROR(Apply(&Cleaner::FoldConstant));
  CMLC_RETURN_IF_ERROR(Apply(&Cleaner::MoveReshape));
  CMLC_RETURN_IF_ERROR(Apply(&Cleaner::DropZeroPoint));
  if (normalize_scales) CMLC_RETURN_IF_ERROR(Apply(&Cleaner::NormalizeScales));
  Sweep();
  return Ok();
}

}  // namespace

Status CleanUp(Block& block, const std::vector<NamedValueType>& inputs,
               int32_t specification_version, bool normalize_scales, TensorStore& tensors,
               const NameMaker& new_name, std::vector<std::string>& notes) {
  return Cleaner(block, inputs, specification_version, tensors, new_name, notes)
      .Run(normalize_scales);
}

}  // namespace cmlc::activations
