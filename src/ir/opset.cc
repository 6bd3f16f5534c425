// How raising works: one walk over each function in order, which moves every operation to the new
// list of its block and puts what a rewrite needs in front of it. A rewritten operation keeps its
// output names, so that no consumer and no block output has to change; a const is never edited,
// because others may use it, but joined by a new one.
//
// The change that costs most thought is that of indices. Up to CoreML6 an index of -1 means the
// last element; from CoreML7 on negative indices are undefined. The reference reader of coremltools
// does not notice (numpy wraps them for every version), only the device does. So every index that
// is not certain to be positive gets what coremltools itself writes for newer targets:
// select(i >= 0, i, i + size).
#include "ir/opset.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <deque>
#include <iterator>
#include <map>
#include <optional>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "numeric/half.h"

namespace cmlc {
namespace {

// --- The opsets ---------------------------------------------------------------------------------

constexpr std::array kOpsets = {
    OpsetInfo{6, "CoreML5", "iOS15", "iOS 15, macOS 12, tvOS 15, watchOS 8"},
    OpsetInfo{7, "CoreML6", "iOS16", "iOS 16, macOS 13, tvOS 16, watchOS 9"},
    OpsetInfo{8, "CoreML7", "iOS17", "iOS 17, macOS 14, tvOS 17, watchOS 10, visionOS 1"},
    OpsetInfo{9, "CoreML8", "iOS18", "iOS 18, macOS 15, tvOS 18, watchOS 11, visionOS 2"},
    OpsetInfo{10, "CoreML9", "iOS26", "iOS 26, macOS 26, tvOS 26, watchOS 26, visionOS 26"},
};

// --- The table ----------------------------------------------------------------------------------

enum class Rewrite {
  kNone,        // the new definition includes the old one
  kIndices,     // negative indices become positive
  kClip,        // bounds that cross become maximum and minimum
  kReshape,     // zeros in the shape are checked
  kCropResize,  // regions become boxes
  kLut,         // constexpr operands: from attributes to inputs, in their real shape
  kSparse,
  kCast,
  kRefuse,  // the reason is the message
};

struct Row {
  std::string_view op;
  int32_t spec_version;  // with which the definition changes
  Rewrite rewrite;
  std::string_view reason;
};

constexpr std::string_view kSameType = "parameters may now differ in type, the result may not";
constexpr std::string_view kWider = "takes more types";
constexpr std::string_view kIndexReason = "negative indices are undefined";
constexpr std::string_view kOperandReason = "operands are inputs, in their real shape";

// Every operation whose definition differs between two opsets, by operation and version.
constexpr std::array kRows = {
    Row{"batch_norm", 8, Rewrite::kNone, kSameType},
    Row{"cast", 8, Rewrite::kNone, kWider},
    Row{"clamped_relu", 8, Rewrite::kNone, kSameType},
    Row{"clip", 8, Rewrite::kClip, "alpha must be less than beta"},
    Row{"constexpr_cast", 9, Rewrite::kCast, "operands are inputs"},
    Row{"constexpr_lut_to_dense", 9, Rewrite::kLut, kOperandReason},
    Row{"constexpr_sparse_to_dense", 9, Rewrite::kSparse, kOperandReason},
    Row{"conv", 8, Rewrite::kNone, kSameType},
    Row{"conv_transpose", 8, Rewrite::kNone, kSameType},
    Row{"crop_resize", 7, Rewrite::kNone, "pad_value is 0 if absent, as before"},
    Row{"crop_resize", 8, Rewrite::kCropResize, "roi is replaced by boxes and box_indices"},
    Row{"elu", 8, Rewrite::kNone, kSameType},
    Row{"expand_dims", 8, Rewrite::kNone, kWider},
    Row{"gather", 7, Rewrite::kNone, "batch_dims is 0 if absent"},
    Row{"gather", 8, Rewrite::kIndices, kIndexReason},
    Row{"gather_along_axis", 7, Rewrite::kNone, kWider},
    Row{"gather_along_axis", 8, Rewrite::kIndices, kIndexReason},
    Row{"gather_nd", 7, Rewrite::kNone, "batch_dims is 0 if absent"},
    Row{"gather_nd", 8, Rewrite::kIndices, kIndexReason},
    Row{"gru", 8, Rewrite::kNone, kWider},
    Row{"gru", 9, Rewrite::kNone, "reset_after is false if absent, as before"},
    Row{"instance_norm", 8, Rewrite::kNone, kSameType},
    Row{"inverse", 8, Rewrite::kNone, kSameType},
    Row{"l2_norm", 8, Rewrite::kNone, kSameType},
    Row{"layer_norm", 8, Rewrite::kNone, kSameType},
    Row{"leaky_relu", 8, Rewrite::kNone, kSameType},
    Row{"linear", 8, Rewrite::kNone, kSameType},
    Row{"linear_activation", 8, Rewrite::kNone, kSameType},
    Row{"local_response_norm", 8, Rewrite::kNone, kSameType},
    Row{"log", 8, Rewrite::kNone, kSameType},
    Row{"lstm", 8, Rewrite::kNone, kWider},
    Row{"matmul", 8, Rewrite::kNone, kSameType},
    Row{"non_maximum_suppression", 8, Rewrite::kRefuse,
        "its score_threshold and its output of counts are gone and cannot be rebuilt exactly"},
    Row{"prelu", 8, Rewrite::kNone, kSameType},
    Row{"reduce_argmax", 8, Rewrite::kNone, "output_dtype is int32 if absent"},
    Row{"reduce_argmin", 8, Rewrite::kNone, "output_dtype is int32 if absent"},
    Row{"resample", 7, Rewrite::kNone, kWider},
    Row{"resample", 8, Rewrite::kNone, kWider},
    Row{"reshape", 8, Rewrite::kReshape, "zeros in the shape count from the right"},
    Row{"reshape_like", 8, Rewrite::kNone, kWider},
    Row{"reverse", 8, Rewrite::kNone, kWider},
    Row{"reverse_sequence", 8, Rewrite::kNone, kWider},
    Row{"rnn", 8, Rewrite::kNone, kWider},
    Row{"rsqrt", 8, Rewrite::kNone, kSameType},
    Row{"scaled_tanh", 8, Rewrite::kNone, kSameType},
    Row{"scatter", 8, Rewrite::kIndices, kIndexReason},
    Row{"scatter_along_axis", 8, Rewrite::kIndices, kIndexReason},
    Row{"scatter_nd", 8, Rewrite::kIndices, kIndexReason},
    Row{"sigmoid_hard", 8, Rewrite::kNone, kSameType},
    Row{"slice_by_index", 8, Rewrite::kNone, kWider},
    Row{"slice_by_size", 8, Rewrite::kNone, kWider},
    Row{"sliding_windows", 8, Rewrite::kNone, kWider},
    Row{"softplus_parametric", 8, Rewrite::kNone, kSameType},
    Row{"squeeze", 8, Rewrite::kNone, kWider},
    Row{"thresholded_relu", 8, Rewrite::kNone, kSameType},
    Row{"topk", 7, Rewrite::kNone, "sort and return_indices are true if absent"},
    Row{"topk", 8, Rewrite::kNone, "output_indices_dtype is int32 if absent"},
    Row{"transpose", 8, Rewrite::kNone, kWider},
    Row{"upsample_bilinear", 7, Rewrite::kNone, "half_pixel_centers is !align_corners if absent"},
};

// Every operation that is the same in all opsets that have it. A constexpr_affine_dequantize keeps
// its operands in attributes for good. A custom_layer is the app's own code and has no opset.
// clang-format off
constexpr std::array<std::string_view, 117> kUnchanged = {
    "abs", "acos", "add", "affine", "argsort", "asin", "atan", "atanh", "avg_pool", "band_part",
    "batch_to_space", "ceil", "classify", "concat", "cond", "const", "constexpr_affine_dequantize",
    "constexpr_blockwise_shift_scale", "constexpr_lut_to_sparse",
    "constexpr_sparse_blockwise_shift_scale", "conv_quantized", "cos", "cosh", "crop", "cumsum",
    "custom_layer", "depth_to_space", "dequantize", "einsum", "equal", "erf", "exp", "exp2", "fill",
    "fill_like", "flatten2d", "floor", "floor_div", "gelu", "greater", "greater_equal", "identity",
    "l2_pool", "less", "less_equal", "list_gather", "list_length", "list_read", "list_scatter",
    "list_write", "logical_and", "logical_not", "logical_or", "logical_xor", "make_list",
    "max_pool", "maximum", "minimum", "mod", "mul", "non_zero", "not_equal", "one_hot", "pad",
    "pixel_shuffle", "pixel_unshuffle", "pow", "quantize", "random_bernoulli", "random_categorical",
    "random_normal", "random_uniform", "range_1d", "read_state", "real_div", "reduce_l1_norm",
    "reduce_l2_norm", "reduce_log_sum", "reduce_log_sum_exp", "reduce_max", "reduce_mean",
    "reduce_min", "reduce_prod", "reduce_sum", "reduce_sum_square", "relu", "relu6", "resize",
    "resize_bilinear", "resize_nearest_neighbor", "round", "scaled_dot_product_attention", "select",
    "shape", "sigmoid", "sign", "silu", "sin", "sinh", "slice_update", "softmax", "softplus",
    "softsign", "space_to_batch", "space_to_depth", "split", "sqrt", "square", "stack", "sub",
    "tan", "tanh", "threshold", "tile", "upsample_nearest_neighbor", "while_loop", "write_state"};
// clang-format on

constexpr bool kSorted =
    std::is_sorted(kRows.begin(), kRows.end(),
                   [](const Row& a, const Row& b) {
                     return a.op < b.op || (a.op == b.op && a.spec_version < b.spec_version);
                   }) &&
    std::is_sorted(kUnchanged.begin(), kUnchanged.end());
static_assert(kSorted, "the tables are searched by halving");

std::span<const Row> RowsOf(std::string_view op) {
  const auto begin =
      std::partition_point(kRows.begin(), kRows.end(), [&](const Row& row) { return row.op < op; });
  const auto end = std::find_if(begin, kRows.end(), [&](const Row& row) { return row.op != op; });
  return {begin, end};
}

bool IsKnown(std::string_view op) {
  return !RowsOf(op).empty() || std::binary_search(kUnchanged.begin(), kUnchanged.end(), op);
}

// --- Small helpers ------------------------------------------------------------------------------

bool IsUnsigned(DataType dtype) {
  const DataTypeInfo* info = FindDataType(dtype);
  return dtype == DataType::kBool ||
         (info != nullptr && info->bits > 0 && !info->is_float && !info->is_signed);
}

// The integers in packed bytes, or nothing for a type that holds none.
std::optional<std::vector<int64_t>> Integers(DataType dtype, std::string_view bytes) {
  const auto widened = [&]<typename T>(T) {
    std::vector<T> narrow(bytes.size() / sizeof(T));
    if (!narrow.empty()) std::memcpy(narrow.data(), bytes.data(), narrow.size() * sizeof(T));
    return std::vector<int64_t>(narrow.begin(), narrow.end());
  };
  switch (dtype) {
    case DataType::kBool:
    case DataType::kUInt8:
      return widened(uint8_t{});
    case DataType::kInt8:
      return widened(int8_t{});
    case DataType::kUInt16:
      return widened(uint16_t{});
    case DataType::kInt16:
      return widened(int16_t{});
    case DataType::kUInt32:
      return widened(uint32_t{});
    case DataType::kInt32:
      return widened(int32_t{});
    case DataType::kInt64:
      return widened(int64_t{});
    default:
      return std::nullopt;
  }
}

// Clears the bits of the last byte that no element uses; says whether there were any.
bool ClearPadding(std::string& bytes, uint64_t element_count, int bits) {
  const uint64_t used = element_count % 8 * static_cast<uint64_t>(bits) % 8;
  if (used == 0 || bytes.empty()) return false;
  const auto kept = static_cast<char>(bytes.back() & ((1 << used) - 1));
  const bool dirty = kept != bytes.back();
  bytes.back() = kept;
  return dirty;
}

// --- The walk -----------------------------------------------------------------------------------

// What is known of a value in scope.
struct Definition {
  ValueType type;
  const Value* constant = nullptr;   // if a const makes it
  std::optional<bool> non_negative;  // unset: not asked yet
  // The pieces of select(x >= 0, x, x + size), by which a guarded index is recognized.
  const Definition* tested = nullptr;                       // this is tested >= 0
  std::pair<const Definition*, const Definition*> terms{};  // this is the sum of these
  const Definition* size = nullptr;  // this is an index guarded with that size
};

// What is bound to a parameter: a value in scope, or a literal.
struct Operand {
  std::string name;  // empty for a literal
  Definition* definition = nullptr;
  const Value* constant = nullptr;
  const ValueType* type = nullptr;
};

using NamedInputs = std::vector<std::pair<std::string, std::string>>;

class Raiser {
 public:
  Raiser(TensorStore& tensors, const OpsetInfo& from, const OpsetInfo& to,
         std::vector<RaiseNote>& notes)
      : tensors_(tensors), from_(from), to_(to), notes_(notes) {
    for (const Row& row : kRows) {
      any_row_ = any_row_ || Applies(row);
      tracks_indices_ = tracks_indices_ || (Applies(row) && row.rewrite == Rewrite::kIndices);
    }
  }

  Status RaiseFunction(const std::string& name, Function& function);

 private:
  bool Applies(const Row& row) const {
    return from_.spec_version < row.spec_version && row.spec_version <= to_.spec_version;
  }

  // The walk.
  void CollectNames(const Block& block);
  Status RaiseBlock(Block& block);
  Status RaiseOperation(Operation& op);

  // One rewrite each.
  Status RaiseIndices(Operation& op, const Row& row);
  Status RaiseClip(Operation& op, const Row& row);
  Status CheckReshape(const Operation& op, const Row& row);
  Status RaiseCropResize(Operation& op, const Row& row);
  Status RaiseLut(Operation& op, const Row& row);
  Status RaiseSparse(Operation& op, const Row& row);
  Status RaiseCast(Operation& op);

  // Names and what they stand for.
  Definition* Find(const std::string& name) const;
  void Define(const std::string& name, Definition definition);
  void DefineInputs(const std::vector<NamedValueType>& inputs);
  void DefineOutputs(const Operation& op);
  bool OutputIsNonNegative(const Operation& op, size_t index);
  bool IsNonNegative(Definition& definition);
  Definition* Bound(const Operation& op, const std::string& parameter) const;
  Result<std::optional<Operand>> FindOperand(const Operation& op,
                                             const std::string& parameter) const;
  Result<Operand> NeedOperand(const Operation& op, const std::string& parameter) const;
  // The value of a scalar parameter, `absent` without one.
  Result<int64_t> ConstInt(const Operation& op, const std::string& parameter, int64_t absent,
                           const Row& row) const;
  Result<double> ConstFloat(const Operation& op, const std::string& parameter,
                            const Row& row) const;

  // Contents.
  Result<std::string> ReadBytes(const Operation& op, const Value& value) const;
  Result<std::vector<int64_t>> ReadInts(const Operation& op, const Value& value) const;

  // Puts operations in front of the one being raised.
  std::string Fresh(std::string_view wish);
  void Emit(Operation op);
  std::string EmitConst(const std::string& wish, Value value);
  std::string EmitOp(const std::string& type, const std::string& wish, const NamedInputs& inputs,
                     ValueType output);
  std::string NameOfOperand(const Operand& operand, const std::string& wish);

  // The axes of a tensor that the indices of an operation run over.
  struct Axes {
    Operand data;
    int64_t first = 0;
    int64_t count = 1;
    bool is_vector = false;  // the last axis of the indices names one index for each of them
    std::optional<std::vector<int32_t>> sizes;  // if all are fixed
  };
  Result<Axes> AxesOfIndices(const Operation& op, const Operand& indices, const Row& row);
  bool IsGuarded(const Operation& op, const Operand& indices, const Axes& axes) const;
  Result<std::string> EmitSizes(const Operation& op, const Axes& axes, const std::string& prefix,
                                const Row& row);

  // constexpr operations.
  Result<Value*> NeedAttribute(Operation& op, const std::string& name) const;
  Result<Shape> DenseShape(Operation& op, const Row& row) const;
  Status Unpack(const Operation& op, const std::string& name, Value& value, int bits,
                const Shape& shape);
  Result<uint64_t> CountOnes(const Operation& op, const Value& mask) const;
  void MoveToInputs(Operation& op, std::span<const std::string_view> names) const;

  void Note(const Operation& op, std::string_view what) {
    notes_.push_back({NameOf(op), fmt::format("{}: {}", op.type, what)});
  }
  std::string Where(const Operation& op) const {
    return fmt::format("function '{}': {} '{}'", function_name_, op.type, NameOf(op));
  }
  Error Bad(const Operation& op, std::string_view what) const {
    return {ErrorKind::kBadInput, fmt::format("{}: {}", Where(op), what)};
  }
  // `spec_version`: the first one that the operation is in the way of.
  Error Refused(const Operation& op, int32_t spec_version, std::string_view what) const {
    return {ErrorKind::kUsage,
            fmt::format("{}: cannot be raised from {} to {}: {}; re-convert the model for {}, or "
                        "choose --target {}",
                        Where(op), from_.target, to_.target, what, to_.target,
                        FindOpset(spec_version - 1)->target)};
  }
  Error Refused(const Operation& op, const Row& row, std::string_view what) const {
    return Refused(op, row.spec_version, what);
  }

  TensorStore& tensors_;
  const OpsetInfo& from_;
  const OpsetInfo& to_;
  std::vector<RaiseNote>& notes_;
  bool any_row_ = false;         // some definition changes on the way
  bool tracks_indices_ = false;  // whether values are negative matters
  // A blob that several values share stays shared.
  std::map<std::tuple<TensorId, DataType, uint64_t>, TensorId> unpacked_;

  // Of the function at hand.
  std::string function_name_;
  std::unordered_set<std::string> names_;
  std::deque<Definition> definitions_;
  std::vector<std::unordered_map<std::string, Definition*>> scopes_;
  std::deque<Operation>* block_ = nullptr;  // the new list of the block at hand
};

Status Raiser::RaiseFunction(const std::string& name, Function& function) {
  function_name_ = name;
  if (function.opset != from_.opset)
    return Error{ErrorKind::kBadInput,
                 fmt::format("function '{}': its opset is '{}', expected '{}' in a model of "
                             "specification version {}",
                             name, function.opset, from_.opset, from_.spec_version)};
  for (const auto& [key, block] : function.specializations)
    if (key != function.opset)
      return Error{ErrorKind::kUsage,
                   fmt::format("function '{}': cannot be raised from {} to {}: besides '{}' it has "
                               "a specialization '{}', and only one can be raised; re-convert the "
                               "model for {}, or choose --target {}",
                               name, from_.target, to_.target, function.opset, key, to_.target,
                               from_.target)};
  auto active = function.specializations.extract(function.opset);
  if (active.empty())
    return Error{ErrorKind::kBadInput, fmt::format("function '{}': has no block for its opset '{}'",
                                                   name, function.opset)};
  if (any_row_) {
    names_.clear();
    definitions_.clear();
    scopes_.clear();
    for (const NamedValueType& input : function.inputs) names_.insert(input.name);
    CollectNames(active.mapped());
    scopes_.emplace_back();
    DefineInputs(function.inputs);
    CMLC_RETURN_IF_ERROR(RaiseBlock(active.mapped()));
  }
  function.opset = to_.opset;
  active.key() = to_.opset;
  function.specializations.insert(std::move(active));
  return Ok();
}

void Raiser::CollectNames(const Block& block) {
  for (const NamedValueType& input : block.inputs) names_.insert(input.name);
  for (const Operation& op : block.operations) {
    names_.insert(NameOf(op));
    for (const NamedValueType& output : op.outputs) names_.insert(output.name);
    for (const Block& inner : op.blocks) CollectNames(inner);
  }
}

Status Raiser::RaiseBlock(Block& block) {
  std::deque<Operation> raised;  // a deque, because definitions point into it
  std::deque<Operation>* outer = std::exchange(block_, &raised);
  scopes_.emplace_back();
  DefineInputs(block.inputs);
  for (Operation& op : block.operations) {
    for (Block& inner : op.blocks) CMLC_RETURN_IF_ERROR(RaiseBlock(inner));
    CMLC_RETURN_IF_ERROR(RaiseOperation(op));
    Emit(std::move(op));
  }
  block.operations.assign(std::make_move_iterator(raised.begin()),
                          std::make_move_iterator(raised.end()));
  scopes_.pop_back();
  block_ = outer;
  return Ok();
}

Status Raiser::RaiseOperation(Operation& op) {
  if (!IsKnown(op.type))
    return Refused(op, from_.spec_version + 1,
                   "cmlc does not know this operation and cannot tell whether it stays the same");
  for (const Row& row : RowsOf(op.type)) {
    if (!Applies(row)) continue;
    switch (row.rewrite) {
      case Rewrite::kNone:
        break;
      case Rewrite::kIndices:
        CMLC_RETURN_IF_ERROR(RaiseIndices(op, row));
        break;
      case Rewrite::kClip:
        CMLC_RETURN_IF_ERROR(RaiseClip(op, row));
        break;
      case Rewrite::kReshape:
        CMLC_RETURN_IF_ERROR(CheckReshape(op, row));
        break;
      case Rewrite::kCropResize:
        CMLC_RETURN_IF_ERROR(RaiseCropResize(op, row));
        break;
      case Rewrite::kLut:
        CMLC_RETURN_IF_ERROR(RaiseLut(op, row));
        break;
      case Rewrite::kSparse:
        CMLC_RETURN_IF_ERROR(RaiseSparse(op, row));
        break;
      case Rewrite::kCast:
        CMLC_RETURN_IF_ERROR(RaiseCast(op));
        break;
      case Rewrite::kRefuse:
        return Refused(op, row, row.reason);
    }
  }
  return Ok();
}

// --- Names and what they stand for --------------------------------------------------------------

Definition* Raiser::Find(const std::string& name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
    if (const auto found = scope->find(name); found != scope->end()) return found->second;
  return nullptr;
}

void Raiser::Define(const std::string& name, Definition definition) {
  definitions_.push_back(std::move(definition));
  scopes_.back()[name] = &definitions_.back();
}

void Raiser::DefineInputs(const std::vector<NamedValueType>& inputs) {
  for (const NamedValueType& input : inputs)
    Define(input.name, {.type = input.type.value_or(ValueType()), .non_negative = false});
}

void Raiser::DefineOutputs(const Operation& op) {
  for (size_t i = 0; i < op.outputs.size(); ++i) {
    Definition definition;
    definition.type = op.outputs[i].type.value_or(ValueType());
    if (IsConst(op)) {
      const auto value = op.attributes.find("val");
      if (value != op.attributes.end()) definition.constant = &value->second;
    }
    if (tracks_indices_ && definition.constant == nullptr) {
      definition.non_negative = OutputIsNonNegative(op, i);
      if (op.type == "add") {
        definition.terms = {Bound(op, "x"), Bound(op, "y")};
      } else if (op.type == "greater_equal") {
        const Definition* zero = Bound(op, "y");
        if (zero != nullptr && zero->constant != nullptr) {
          const auto values = ReadInts(op, *zero->constant);
          if (values.ok() &&
              std::all_of(values->begin(), values->end(), [](int64_t value) { return value == 0; }))
            definition.tested = Bound(op, "x");
        }
      } else if (op.type == "select") {
        const Definition* condition = Bound(op, "cond");
        const Definition* index = Bound(op, "a");
        const Definition* sum = Bound(op, "b");
        if (index != nullptr && condition != nullptr && condition->tested == index &&
            sum != nullptr) {
          if (sum->terms.first == index) definition.size = sum->terms.second;
          if (sum->terms.second == index) definition.size = sum->terms.first;
        }
      }
    }
    Define(op.outputs[i].name, std::move(definition));
  }
}

// Whether an output is certain to hold no negative number. The list is short on purpose: each of
// these is certain by its definition, and a guard too many is only three cheap operations.
bool Raiser::OutputIsNonNegative(const Operation& op, size_t index) {
  constexpr std::array<std::string_view, 6> kAlways = {"argsort",       "list_length",   "non_zero",
                                                       "reduce_argmax", "reduce_argmin", "shape"};
  constexpr std::array<std::string_view, 10> kSameAsX = {
      "expand_dims",   "gather", "identity", "reshape", "slice_by_index",
      "slice_by_size", "split",  "squeeze",  "tile",    "transpose"};
  const auto is_one_of = [&](const auto& list) {
    return std::find(list.begin(), list.end(), op.type) != list.end();
  };
  if (is_one_of(kAlways)) return true;
  if (op.type == "topk") return index == 1;
  if (is_one_of(kSameAsX)) {
    Definition* x = Bound(op, "x");
    return x != nullptr && IsNonNegative(*x);
  }
  if (op.type == "cast") {
    // Only to int32, into which every narrower type fits.
    Definition* x = Bound(op, "x");
    return x != nullptr && op.outputs[index].type &&
           op.outputs[index].type->tensor.dtype == DataType::kInt32 && IsNonNegative(*x) &&
           BitsOf(x->type.tensor.dtype) <= (IsUnsigned(x->type.tensor.dtype) ? 16 : 32);
  }
  if (op.type == "concat" || op.type == "stack") {
    const auto values = op.inputs.find("values");
    if (values == op.inputs.end()) return false;
    return std::all_of(values->second.bindings.begin(), values->second.bindings.end(),
                       [&](const Binding& binding) {
                         const auto* name = std::get_if<std::string>(&binding.target);
                         Definition* value = name != nullptr ? Find(*name) : nullptr;
                         return value != nullptr && IsNonNegative(*value);
                       });
  }
  if (op.type == "range_1d") {
    const Definition* start = Bound(op, "start");
    const Definition* step = Bound(op, "step");
    if (start == nullptr || start->constant == nullptr || step == nullptr ||
        step->constant == nullptr)
      return false;
    const auto first = ReadInts(op, *start->constant);
    const auto stride = ReadInts(op, *step->constant);
    return first.ok() && first->size() == 1 && (*first)[0] >= 0 && stride.ok() &&
           stride->size() == 1 && (*stride)[0] > 0;
  }
  return false;
}

bool Raiser::IsNonNegative(Definition& definition) {
  if (definition.type.kind != ValueType::Kind::kTensor) return false;
  const DataType dtype = definition.type.tensor.dtype;
  if (IsUnsigned(dtype)) return true;
  if (!definition.non_negative) {
    definition.non_negative = false;
    // What cannot be read is not certain; whoever needs the values will say so.
    if (definition.constant != nullptr) {
      const auto values = ReadInts(Operation(), *definition.constant);
      definition.non_negative =
          values.ok() &&
          std::all_of(values->begin(), values->end(), [](int64_t value) { return value >= 0; });
    }
  }
  return *definition.non_negative;
}

// The value in scope that a parameter is bound to; null if there is none.
Definition* Raiser::Bound(const Operation& op, const std::string& parameter) const {
  const auto input = op.inputs.find(parameter);
  if (input == op.inputs.end() || input->second.bindings.size() != 1) return nullptr;
  const auto* name = std::get_if<std::string>(&input->second.bindings[0].target);
  return name != nullptr ? Find(*name) : nullptr;
}

Result<std::optional<Operand>> Raiser::FindOperand(const Operation& op,
                                                   const std::string& parameter) const {
  const auto input = op.inputs.find(parameter);
  if (input == op.inputs.end()) return std::optional<Operand>();
  if (input->second.bindings.size() != 1)
    return Bad(op, fmt::format("{} values are bound to '{}', expected 1",
                               input->second.bindings.size(), parameter));
  const Binding& binding = input->second.bindings[0];
  Operand operand;
  if (const auto* name = std::get_if<std::string>(&binding.target)) {
    operand.name = *name;
    operand.definition = Find(*name);
    if (operand.definition == nullptr)
      return Bad(
          op, fmt::format("its '{}' is '{}', which nothing before it defines", parameter, *name));
    operand.constant = operand.definition->constant;
    operand.type = &operand.definition->type;
  } else if (const auto* literal = std::get_if<Value>(&binding.target)) {
    operand.constant = literal;
    operand.type = &literal->type;
  } else {
    return Bad(op, fmt::format("nothing is bound to '{}'", parameter));
  }
  if (operand.type->kind != ValueType::Kind::kTensor)
    return Bad(
        op, fmt::format("its '{}' is {}, expected a tensor", parameter, ToString(*operand.type)));
  return std::optional<Operand>(std::move(operand));
}

Result<Operand> Raiser::NeedOperand(const Operation& op, const std::string& parameter) const {
  CMLC_ASSIGN_OR_RETURN(std::optional<Operand> operand, FindOperand(op, parameter));
  if (!operand) return Bad(op, fmt::format("has no input '{}'", parameter));
  return std::move(*operand);
}

Result<int64_t> Raiser::ConstInt(const Operation& op, const std::string& parameter, int64_t absent,
                                 const Row& row) const {
  CMLC_ASSIGN_OR_RETURN(const std::optional<Operand> operand, FindOperand(op, parameter));
  if (!operand) return absent;
  if (operand->constant == nullptr)
    return Refused(op, row, fmt::format("its '{}' is not a constant", parameter));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> values, ReadInts(op, *operand->constant));
  if (values.size() != 1)
    return Bad(op, fmt::format("its '{}' has {} values, expected 1", parameter, values.size()));
  return values[0];
}

Result<double> Raiser::ConstFloat(const Operation& op, const std::string& parameter,
                                  const Row& row) const {
  CMLC_ASSIGN_OR_RETURN(const Operand operand, NeedOperand(op, parameter));
  if (operand.constant == nullptr)
    return Refused(op, row, fmt::format("its '{}' is not a constant", parameter));
  const Value& value = *operand.constant;
  CMLC_ASSIGN_OR_RETURN(const std::string bytes, ReadBytes(op, value));
  if (value.type.tensor.dtype == DataType::kFloat32 && bytes.size() == sizeof(float)) {
    float number;
    std::memcpy(&number, bytes.data(), sizeof(number));
    return number;
  }
  if (value.type.tensor.dtype == DataType::kFloat16 && bytes.size() == sizeof(uint16_t)) {
    uint16_t half;
    std::memcpy(&half, bytes.data(), sizeof(half));
    return numeric::HalfToFloat(half);
  }
  return Bad(op, fmt::format("its '{}' is {}, expected one fp16 or fp32", parameter,
                             ToString(value.type)));
}

// --- Contents -----------------------------------------------------------------------------------

// All bytes of a constant; for the small ones that rewrites look into.
Result<std::string> Raiser::ReadBytes(const Operation& op, const Value& value) const {
  const auto* id = std::get_if<TensorId>(&value.content);
  if (id == nullptr) {
    std::optional<std::string> bytes = ImmediateBytes(value);
    if (!bytes)
      return Bad(op,
                 fmt::format("a constant of type {} holds something else", ToString(value.type)));
    return std::move(*bytes);
  }
  const TensorInfo& info = tensors_.info(*id);
  const std::optional<Shape> shape = StaticShape(value.type);
  if (info.missing)
    return Bad(op, fmt::format("a constant of type {} lies in a weights file that is missing",
                               ToString(value.type)));
  if (!shape || ElementCount(*shape) != info.element_count || value.type.tensor.dtype != info.dtype)
    return Bad(op, fmt::format("a constant of type {} has {} elements of {} in the weights file",
                               ToString(value.type), info.element_count, NameOf(info.dtype)));
  CMLC_ASSIGN_OR_RETURN(const TensorView view, tensors_.View(*id, 0, info.size_bytes));
  return std::string(reinterpret_cast<const char*>(view.bytes().data()), view.bytes().size());
}

Result<std::vector<int64_t>> Raiser::ReadInts(const Operation& op, const Value& value) const {
  // Asked first, so that no large weight is read in vain.
  if (!Integers(value.type.tensor.dtype, ""))
    return Bad(op, fmt::format("a constant is {}, expected integers", ToString(value.type)));
  CMLC_ASSIGN_OR_RETURN(const std::string bytes, ReadBytes(op, value));
  return *Integers(value.type.tensor.dtype, bytes);
}

// --- New operations -----------------------------------------------------------------------------

// An identifier that nothing in the function has, close to the wish.
std::string Raiser::Fresh(std::string_view wish) {
  std::string base;
  for (const char c : wish) {
    const bool is_digit = c >= '0' && c <= '9';
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    if (base.empty() && !is_letter) base = '_';
    if (is_letter || is_digit)
      base += c;
    else if (base != "_")
      base += '_';
  }
  std::string name = base;
  for (int i = 1; !names_.insert(name).second; ++i) name = fmt::format("{}_{}", base, i);
  return name;
}

void Raiser::Emit(Operation op) {
  block_->push_back(std::move(op));
  DefineOutputs(block_->back());
}

std::string Raiser::EmitOp(const std::string& type, const std::string& wish,
                           const NamedInputs& inputs, ValueType output) {
  std::string name = Fresh(wish);
  Operation op;
  op.type = type;
  for (const auto& [parameter, value] : inputs) op.inputs[parameter].bindings.push_back({value});
  op.outputs.push_back({.name = name, .type = std::move(output)});
  op.attributes["name"] = MakeString(name);
  Emit(std::move(op));
  return name;
}

std::string Raiser::EmitConst(const std::string& wish, Value value) {
  std::string name = Fresh(wish);
  Operation op;
  op.type = "const";
  op.outputs.push_back({.name = name, .type = value.type});
  op.attributes["name"] = MakeString(name);
  op.attributes["val"] = std::move(value);
  Emit(std::move(op));
  return name;
}

// Ordinary operations take names, so a literal gets a const of its own.
std::string Raiser::NameOfOperand(const Operand& operand, const std::string& wish) {
  return operand.name.empty() ? EmitConst(wish, *operand.constant) : operand.name;
}

void Bind(Operation& op, const std::string& parameter, std::string name) {
  op.inputs[parameter] = {.bindings = {{.target = std::move(name)}}};
}

// --- Indices ------------------------------------------------------------------------------------

Result<Raiser::Axes> Raiser::AxesOfIndices(const Operation& op, const Operand& indices,
                                           const Row& row) {
  Axes axes;
  CMLC_ASSIGN_OR_RETURN(axes.data, NeedOperand(op, op.type.starts_with("gather") ? "x" : "data"));
  const TensorType& data = axes.data.type->tensor;
  const auto rank = static_cast<int64_t>(data.dimensions.size());
  if (data.rank != rank)
    return Refused(op, row,
                   "its indices may be negative, and the rank of what they index is not known");
  if (op.type.ends_with("_nd")) {
    const TensorType& type = indices.type->tensor;
    if (type.rank < 1 || type.dimensions.empty() ||
        type.dimensions.back().kind != Dimension::Kind::kConstant)
      return Refused(op, row,
                     fmt::format("its indices may be negative, and the last size of "
                                 "their type {} is not known",
                                 ToString(*indices.type)));
    if (op.type == "gather_nd") {
      CMLC_ASSIGN_OR_RETURN(axes.first, ConstInt(op, "batch_dims", 0, row));
    }
    axes.is_vector = true;
    const uint64_t count = type.dimensions.back().size;
    if (axes.first < 0 || axes.first > rank || count > static_cast<uint64_t>(rank - axes.first))
      return Bad(op, fmt::format("its indices of type {} name {} axes from axis {} on, but there "
                                 "are only {}",
                                 ToString(*indices.type), count, axes.first, rank));
    axes.count = static_cast<int64_t>(count);
  } else {
    CMLC_ASSIGN_OR_RETURN(const int64_t axis, ConstInt(op, "axis", 0, row));
    if (axis < -rank || axis >= rank)
      return Bad(op, fmt::format("its axis is {}, expected one of {} axes", axis, rank));
    axes.first = axis < 0 ? axis + rank : axis;
  }
  axes.sizes.emplace();
  for (int64_t i = 0; i < axes.count; ++i) {
    const Dimension& dimension = data.dimensions[static_cast<size_t>(axes.first + i)];
    if (dimension.kind != Dimension::Kind::kConstant) {
      axes.sizes.reset();
      break;
    }
    if (dimension.size > INT32_MAX)
      return Bad(op,
                 fmt::format("indexes an axis of size {}, which no index reaches", dimension.size));
    axes.sizes->push_back(static_cast<int32_t>(dimension.size));
  }
  return axes;
}

// Whether the indices already are select(i >= 0, i, i + size) with the size of the axis. (A size
// that is only known while the model runs is guarded again, which does no harm.)
bool Raiser::IsGuarded(const Operation& op, const Operand& indices, const Axes& axes) const {
  if (indices.definition == nullptr || indices.definition->size == nullptr) return false;
  const Value* size = indices.definition->size->constant;
  if (size == nullptr || !axes.sizes) return false;
  const auto values = ReadInts(op, *size);
  if (!values.ok() || (values->size() != 1 && values->size() != axes.sizes->size())) return false;
  for (size_t i = 0; i < axes.sizes->size(); ++i)
    if ((*values)[values->size() == 1 ? 0 : i] != (*axes.sizes)[i]) return false;
  return true;
}

// The sizes of the axes as a value: int32, a vector if the indices name several axes.
Result<std::string> Raiser::EmitSizes(const Operation& op, const Axes& axes,
                                      const std::string& prefix, const Row& row) {
  const std::string wish = prefix + "_size";
  if (axes.sizes)
    return EmitConst(wish, axes.is_vector ? MakeInts(*axes.sizes) : MakeInt32(axes.sizes->at(0)));

  const TensorType& data = axes.data.type->tensor;
  constexpr std::array kShapeTakes = {DataType::kFloat16, DataType::kFloat32, DataType::kInt32,
                                      DataType::kBool};
  if (std::find(kShapeTakes.begin(), kShapeTakes.end(), data.dtype) == kShapeTakes.end())
    return Refused(op, row,
                   fmt::format("its indices may be negative, and the size of {} cannot "
                               "be asked for while the model runs",
                               ToString(*axes.data.type)));
  const std::string x = NameOfOperand(axes.data, prefix + "_data");
  const std::string shape =
      EmitOp("shape", prefix + "_shape", {{"x", x}}, MakeTensorType(DataType::kInt32, {data.rank}));
  const auto first = static_cast<int32_t>(axes.first);
  const std::string begin = EmitConst(prefix + "_begin", MakeInts({first}));
  if (axes.is_vector) {
    const std::string count =
        EmitConst(prefix + "_count", MakeInts({static_cast<int32_t>(axes.count)}));
    return EmitOp("slice_by_size", wish, {{"x", shape}, {"begin", begin}, {"size", count}},
                  MakeTensorType(DataType::kInt32, {axes.count}));
  }
  const std::string end = EmitConst(prefix + "_end", MakeInts({first + 1}));
  const std::string squeeze =
      EmitConst(prefix + "_squeeze_mask", MakeImmediate(DataType::kBool, {1}, std::string(1, 1)));
  return EmitOp("slice_by_index", wish,
                {{"x", shape}, {"begin", begin}, {"end", end}, {"squeeze_mask", squeeze}},
                MakeTensorType(DataType::kInt32, {}));
}

Status Raiser::RaiseIndices(Operation& op, const Row& row) {
  CMLC_ASSIGN_OR_RETURN(const Operand indices, NeedOperand(op, "indices"));
  const DataType dtype = indices.type->tensor.dtype;
  if (IsUnsigned(dtype)) return Ok();
  if (dtype != DataType::kInt8 && dtype != DataType::kInt16 && dtype != DataType::kInt32)
    return Bad(op, fmt::format("its indices are {}, expected integers of at most 32 bits",
                               ToString(*indices.type)));
  if (indices.definition != nullptr && IsNonNegative(*indices.definition)) return Ok();

  std::vector<int64_t> values;
  if (indices.constant != nullptr) {
    CMLC_ASSIGN_OR_RETURN(values, ReadInts(op, *indices.constant));
    if (std::all_of(values.begin(), values.end(), [](int64_t value) { return value >= 0; }))
      return Ok();
  }
  CMLC_ASSIGN_OR_RETURN(const Axes axes, AxesOfIndices(op, indices, row));
  if (axes.count == 0 || IsGuarded(op, indices, axes)) return Ok();
  const std::string prefix = NameOf(op) + "_indices";

  if (indices.constant != nullptr && axes.sizes) {
    const std::optional<Shape> shape = StaticShape(indices.constant->type);
    std::string bytes;
    for (size_t i = 0; i < values.size(); ++i) {
      const int32_t size = (*axes.sizes)[i % axes.sizes->size()];
      const int64_t index = values[i] < 0 ? values[i] + size : values[i];
      if (index < 0)
        return Bad(op, fmt::format("index {} lies outside an axis of size {}", values[i], size));
      const auto narrow = static_cast<int32_t>(index);
      bytes.append(reinterpret_cast<const char*>(&narrow), sizeof(narrow));
    }
    Bind(op, "indices",
         EmitConst(prefix, MakeImmediate(DataType::kInt32, *shape, std::move(bytes))));
    Note(op, "constant indices that count from the end now count from the start");
    return Ok();
  }

  ValueType type = *indices.type;
  std::string index = NameOfOperand(indices, prefix + "_plain");
  if (dtype != DataType::kInt32) {
    // Comparing and adding are not defined for narrow integers.
    type.tensor.dtype = DataType::kInt32;
    const std::string target = EmitConst(prefix + "_dtype", MakeString("int32"));
    index = EmitOp("cast", prefix + "_int32", {{"x", index}, {"dtype", target}}, type);
  }
  ValueType flag = type;
  flag.tensor.dtype = DataType::kBool;
  const std::string zero = EmitConst(prefix + "_zero", MakeInt32(0));
  CMLC_ASSIGN_OR_RETURN(const std::string size, EmitSizes(op, axes, prefix, row));
  const std::string is_plain =
      EmitOp("greater_equal", prefix + "_is_plain", {{"x", index}, {"y", zero}}, flag);
  const std::string sum = EmitOp("add", prefix + "_from_end", {{"x", index}, {"y", size}}, type);
  Bind(op, "indices",
       EmitOp("select", prefix, {{"cond", is_plain}, {"a", index}, {"b", sum}}, type));
  Note(op, "indices that count from the end are turned into ones that count from the start");
  return Ok();
}

// --- Other operations ---------------------------------------------------------------------------

Status Raiser::RaiseClip(Operation& op, const Row& row) {
  CMLC_ASSIGN_OR_RETURN(const double alpha, ConstFloat(op, "alpha", row));
  CMLC_ASSIGN_OR_RETURN(const double beta, ConstFloat(op, "beta", row));
  if (!(alpha >= beta)) return Ok();
  // The definition of the old operation, spelled out: min(max(x, alpha), beta).
  CMLC_ASSIGN_OR_RETURN(const Operand x, NeedOperand(op, "x"));
  CMLC_ASSIGN_OR_RETURN(const Operand low, NeedOperand(op, "alpha"));
  CMLC_ASSIGN_OR_RETURN(const Operand high, NeedOperand(op, "beta"));
  if (op.outputs.size() != 1 || !op.outputs[0].type) return Bad(op, "has no output with a type");
  Note(op,
       fmt::format("alpha {} is not less than beta {}: now maximum, then minimum", alpha, beta));
  const std::string prefix = NameOf(op);
  const std::string raised =
      EmitOp("maximum", prefix + "_maximum",
             {{"x", NameOfOperand(x, prefix + "_x")}, {"y", NameOfOperand(low, prefix + "_alpha")}},
             *op.outputs[0].type);
  const std::string bound = NameOfOperand(high, prefix + "_beta");
  op.type = "minimum";
  op.inputs.clear();
  Bind(op, "x", raised);
  Bind(op, "y", bound);
  return Ok();
}

// A zero stands for the size of x on the same axis. Both definitions agree if shape and x have
// equally many axes; else the old one is an error that the new one would give a meaning.
Status Raiser::CheckReshape(const Operation& op, const Row& row) {
  CMLC_ASSIGN_OR_RETURN(const Operand shape, NeedOperand(op, "shape"));
  if (shape.constant == nullptr) return Ok();
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, ReadInts(op, *shape.constant));
  if (std::find(sizes.begin(), sizes.end(), 0) == sizes.end()) return Ok();
  CMLC_ASSIGN_OR_RETURN(const Operand x, NeedOperand(op, "x"));
  if (x.type->tensor.rank == static_cast<int64_t>(sizes.size())) return Ok();
  return Refused(op, row,
                 fmt::format("its shape has a 0 and {} axes, expected as many as x, {}",
                             sizes.size(), ToString(*x.type)));
}

// For a batch of one image the change is one of shapes: all regions are of image 0, whether or not
// a region names its image. More images are refused, because the definition's text and its type
// inference disagree about them.
Status Raiser::RaiseCropResize(Operation& op, const Row& row) {
  constexpr int64_t kMostRegions = 1 << 20;  // each gets an index in the spec
  CMLC_ASSIGN_OR_RETURN(const Operand x, NeedOperand(op, "x"));
  CMLC_ASSIGN_OR_RETURN(const Operand roi, NeedOperand(op, "roi"));
  const std::optional<Shape> regions = StaticShape(*roi.type);
  if (!regions || regions->size() != 5 || (*regions)[0] > kMostRegions)
    return Refused(op, row,
                   fmt::format("its regions are {}, expected 5 fixed sizes and at most {} regions",
                               ToString(*roi.type), kMostRegions));
  const int64_t count = (*regions)[0];
  const int64_t width = (*regions)[2];
  if (*regions != Shape{count, 1, width, 1, 1} || (width != 4 && width != 5))
    return Bad(op, fmt::format("its regions are {}, expected [N, 1, 4, 1, 1] or [N, 1, 5, 1, 1]",
                               ToString(*roi.type)));
  const TensorType& images = x.type->tensor;
  if (images.dimensions.size() != 4 || images.dimensions[0].kind != Dimension::Kind::kConstant ||
      images.dimensions[0].size != 1)
    return Refused(op, row,
                   fmt::format("its images are {}, expected a batch of 1", ToString(*x.type)));
  if (op.outputs.size() != 1 || !op.outputs[0].type ||
      op.outputs[0].type->tensor.dimensions.size() != 5 ||
      op.outputs[0].type->tensor.dimensions[1].kind != Dimension::Kind::kConstant ||
      op.outputs[0].type->tensor.dimensions[1].size != 1)
    return Bad(op, "its output should be a tensor [N, 1, C, height, width]");

  const DataType dtype = roi.type->tensor.dtype;
  const std::string prefix = NameOf(op);
  const std::string region_name = NameOfOperand(roi, prefix + "_roi");
  const auto rows = static_cast<int32_t>(count);
  const auto columns = static_cast<int32_t>(width);
  std::string boxes =
      EmitOp("reshape", prefix + "_regions",
             {{"x", region_name},
              {"shape", EmitConst(prefix + "_regions_shape", MakeInts({rows, columns}))}},
             MakeTensorType(dtype, {count, width}));
  if (width == 5)
    boxes = EmitOp("slice_by_index", prefix + "_boxes",
                   {{"x", boxes},
                    {"begin", EmitConst(prefix + "_boxes_begin", MakeInts({0, 1}))},
                    {"end", EmitConst(prefix + "_boxes_end", MakeInts({rows, 5}))}},
                   MakeTensorType(dtype, {count, 4}));
  const std::string images_of_boxes = EmitConst(
      prefix + "_box_indices", MakeInts(std::vector<int32_t>(static_cast<size_t>(count), 0)));

  Operation crop;
  crop.type = "crop_resize";
  crop.inputs = std::move(op.inputs);
  crop.inputs.erase("roi");
  Bind(crop, "boxes", boxes);
  Bind(crop, "box_indices", images_of_boxes);
  ValueType cropped = *op.outputs[0].type;
  cropped.tensor.dimensions.erase(cropped.tensor.dimensions.begin() + 1);
  cropped.tensor.rank = 4;
  const std::string crop_name = Fresh(prefix + "_crops");
  crop.outputs.push_back({.name = crop_name, .type = std::move(cropped)});
  crop.attributes["name"] = MakeString(crop_name);
  Note(op, "regions are now boxes");
  Emit(std::move(crop));

  const std::string axes = EmitConst(prefix + "_axes", MakeInts({1}));
  op.type = "expand_dims";
  op.inputs.clear();
  Bind(op, "x", crop_name);
  Bind(op, "axes", axes);
  return Ok();
}

// --- constexpr operations -----------------------------------------------------------------------

Result<Value*> Raiser::NeedAttribute(Operation& op, const std::string& name) const {
  const auto found = op.attributes.find(name);
  if (found == op.attributes.end())
    return Bad(
        op, fmt::format("has no attribute '{}', where {} keeps this operand", name, from_.opset));
  if (found->second.type.kind != ValueType::Kind::kTensor)
    return Bad(
        op, fmt::format("its '{}' is {}, expected a tensor", name, ToString(found->second.type)));
  return &found->second;
}

// The shape of the result, which was an operand of its own.
Result<Shape> Raiser::DenseShape(Operation& op, const Row& row) const {
  CMLC_ASSIGN_OR_RETURN(const Value* value, NeedAttribute(op, "shape"));
  CMLC_ASSIGN_OR_RETURN(const Shape shape, ReadInts(op, *value));
  if (shape.empty()) return Refused(op, row, "its result is a scalar");
  const std::optional<uint64_t> count = ElementCount(shape);
  if (!count || !PackedBytes(*count, 8))
    return Bad(op, fmt::format("its shape {} is no shape", ToString(shape)));
  if (op.outputs.size() != 1 || !op.outputs[0].type) return Bad(op, "has no output with a type");
  if (StaticShape(*op.outputs[0].type) != shape)
    return Bad(op, fmt::format("its shape is {}, but its output is {}", ToString(shape),
                               ToString(*op.outputs[0].type)));
  return shape;
}

// Turns a vector of bytes into the `bits`-wide elements that are packed in it. The bytes are the
// same in both forms, so a blob stays where it is.
Status Raiser::Unpack(const Operation& op, const std::string& name, Value& value, int bits,
                      const Shape& shape) {
  const uint64_t count = *ElementCount(shape);
  const std::optional<uint64_t> size = PackedBytes(count, bits);
  const std::optional<Shape> packed = StaticShape(value.type);
  if (value.type.tensor.dtype != DataType::kUInt8 || !packed || packed->size() != 1 || !size ||
      static_cast<uint64_t>((*packed)[0]) != *size)
    return Bad(op, fmt::format("its '{}' is {}, expected uint8 [{}] for {} elements of {} bits",
                               name, ToString(value.type), size.value_or(0), count, bits));
  const DataType dtype = UnsignedOfBits(bits);

  if (const auto* id = std::get_if<TensorId>(&value.content)) {
    const TensorInfo info = tensors_.info(*id);
    if (info.missing && bits < 8)
      return Bad(op, fmt::format("its '{}' lies in a weights file that is missing", name));
    if (!info.missing && (info.dtype != DataType::kUInt8 || info.size_bytes != *size))
      return Bad(op, fmt::format("its '{}' is {}, but has {} bytes of {} in the weights file", name,
                                 ToString(value.type), info.size_bytes, NameOf(info.dtype)));
    if (bits < 8) {
      const auto [entry, is_new] = unpacked_.try_emplace({*id, dtype, count}, TensorId{});
      if (is_new) {
        // Only a foreign writer leaves something in the unused bits; the new form forbids it.
        bool dirty = false;
        if (*size > 0) {
          CMLC_ASSIGN_OR_RETURN(const TensorView view, tensors_.View(*id, *size - 1, 1));
          std::string last(1, static_cast<char>(view.bytes()[0]));
          dirty = ClearPadding(last, count, bits);
        }
        if (dirty) {
          CMLC_ASSIGN_OR_RETURN(std::string bytes, ReadBytes(op, value));
          ClearPadding(bytes, count, bits);
          entry->second = tensors_.AddInline(dtype, count, std::move(bytes), info.file);
        } else {
          entry->second = tensors_.Reinterpret(*id, dtype, count);
        }
      }
      value.content = entry->second;
    }
    value.type = MakeTensorType(dtype, shape);
    return Ok();
  }

  CMLC_ASSIGN_OR_RETURN(std::string bytes, ReadBytes(op, value));
  ClearPadding(bytes, count, bits);
  Value immediate = MakeImmediate(dtype, shape, std::move(bytes));
  value.type = std::move(immediate.type);
  value.content = std::move(immediate.content);
  return Ok();
}

Result<uint64_t> Raiser::CountOnes(const Operation& op, const Value& mask) const {
  uint64_t ones = 0;
  const auto* id = std::get_if<TensorId>(&mask.content);
  if (id == nullptr) {
    CMLC_ASSIGN_OR_RETURN(const std::string bytes, ReadBytes(op, mask));
    for (const char byte : bytes)
      ones += static_cast<uint64_t>(std::popcount(static_cast<uint8_t>(byte)));
    return ones;
  }
  const uint64_t size = tensors_.info(*id).size_bytes;
  for (uint64_t begin = 0; begin < size; begin += TensorSource::kChunkBytes) {
    CMLC_ASSIGN_OR_RETURN(
        const TensorView view,
        tensors_.View(*id, begin, std::min(TensorSource::kChunkBytes, size - begin)));
    for (const std::byte byte : view.bytes())
      ones += static_cast<uint64_t>(std::popcount(std::to_integer<uint8_t>(byte)));
  }
  return ones;
}

void Raiser::MoveToInputs(Operation& op, std::span<const std::string_view> names) const {
  for (const std::string_view name : names) {
    auto operand = op.attributes.extract(std::string(name));
    if (operand.empty()) continue;
    Argument argument;
    argument.bindings.push_back({.target = std::move(operand.mapped())});
    op.inputs[std::string(name)] = std::move(argument);
  }
}

Status Raiser::RaiseLut(Operation& op, const Row& row) {
  CMLC_ASSIGN_OR_RETURN(const Shape shape, DenseShape(op, row));
  CMLC_ASSIGN_OR_RETURN(Value * indices, NeedAttribute(op, "indices"));
  CMLC_ASSIGN_OR_RETURN(Value * lut, NeedAttribute(op, "lut"));
  const std::optional<Shape> entries = StaticShape(lut->type);
  int bits = 0;
  for (const int width : {1, 2, 4, 6, 8})
    if (entries == Shape{int64_t{1} << width}) bits = width;
  if (bits == 0)
    return Bad(op, fmt::format("its 'lut' is {}, expected 2, 4, 16, 64 or 256 entries",
                               ToString(lut->type)));
  if (const auto* id = std::get_if<TensorId>(&lut->content)) {
    const TensorInfo& info = tensors_.info(*id);
    if (!info.missing && (info.dtype != lut->type.tensor.dtype ||
                          info.element_count != static_cast<uint64_t>((*entries)[0])))
      return Bad(op, fmt::format("its 'lut' is {}, but has {} elements of {} in the weights file",
                                 ToString(lut->type), info.element_count, NameOf(info.dtype)));
  } else {
    CMLC_RETURN_IF_ERROR(ReadBytes(op, *lut));
  }
  CMLC_RETURN_IF_ERROR(Unpack(op, "indices", *indices, bits, shape));
  // One table for the whole tensor: one group along every axis, and one value for each entry.
  Shape table(shape.size(), 1);
  table.push_back((*entries)[0]);
  table.push_back(1);
  lut->type = MakeTensorType(lut->type.tensor.dtype, table);
  Note(op, fmt::format("indices are now {}", ToString(indices->type)));
  op.attributes.erase("shape");
  MoveToInputs(op, std::array<std::string_view, 2>{"indices", "lut"});
  return Ok();
}

Status Raiser::RaiseSparse(Operation& op, const Row& row) {
  CMLC_ASSIGN_OR_RETURN(const Shape shape, DenseShape(op, row));
  CMLC_ASSIGN_OR_RETURN(Value * mask, NeedAttribute(op, "mask"));
  CMLC_ASSIGN_OR_RETURN(const Value* data, NeedAttribute(op, "nonzero_data"));
  CMLC_RETURN_IF_ERROR(Unpack(op, "mask", *mask, 1, shape));
  CMLC_ASSIGN_OR_RETURN(const uint64_t ones, CountOnes(op, *mask));
  if (StaticShape(data->type) != Shape{static_cast<int64_t>(ones)})
    return Bad(op, fmt::format("its 'nonzero_data' is {}, but its mask has {} ones",
                               ToString(data->type), ones));
  Note(op, fmt::format("mask is now {}", ToString(mask->type)));
  op.attributes.erase("shape");
  MoveToInputs(op, std::array<std::string_view, 2>{"mask", "nonzero_data"});
  return Ok();
}

Status Raiser::RaiseCast(Operation& op) {
  CMLC_RETURN_IF_ERROR(NeedAttribute(op, "source_val"));
  CMLC_RETURN_IF_ERROR(NeedAttribute(op, "output_dtype"));
  Note(op, "operands are now inputs");
  MoveToInputs(op, std::array<std::string_view, 2>{"source_val", "output_dtype"});
  return Ok();
}

}  // namespace

std::span<const OpsetInfo> Opsets() { return kOpsets; }

const OpsetInfo* FindOpset(int32_t spec_version) {
  for (const OpsetInfo& row : kOpsets)
    if (row.spec_version == spec_version) return &row;
  return nullptr;
}

std::string_view SystemsOf(int32_t spec_version) {
  constexpr std::array<std::string_view, 5> kBefore = {
      "iOS 11, macOS 10.13", "iOS 11.2, macOS 10.13.2", "iOS 12, macOS 10.14",
      "iOS 13, macOS 10.15", "iOS 14, macOS 11"};
  if (spec_version >= 1 && spec_version <= 5) return kBefore[static_cast<size_t>(spec_version) - 1];
  const OpsetInfo* opset = FindOpset(spec_version);
  return opset == nullptr ? std::string_view() : opset->systems;
}

const OpsetInfo* FindOpsetByTarget(std::string_view target) {
  for (const OpsetInfo& row : kOpsets)
    if (row.target == target) return &row;
  return nullptr;
}

Status RaiseProgram(Program& program, TensorStore& tensors, int32_t from, int32_t to,
                    std::vector<RaiseNote>& notes) {
  if (from >= to) return Ok();
  const OpsetInfo* old_opset = FindOpset(from);
  const OpsetInfo* new_opset = FindOpset(to);
  for (const auto& [row, version] : {std::pair(old_opset, from), std::pair(new_opset, to)})
    if (row == nullptr)
      return Error{ErrorKind::kUsage,
                   fmt::format("cannot raise the program from specification version {} to {}: {} "
                               "is not known, expected {} to {}",
                               from, to, version, kOpsets.front().spec_version,
                               kOpsets.back().spec_version)};
  Raiser raiser(tensors, *old_opset, *new_opset, notes);
  for (auto& [name, function] : program.functions)
    CMLC_RETURN_IF_ERROR(raiser.RaiseFunction(name, function));
  return Ok();
}

}  // namespace cmlc
