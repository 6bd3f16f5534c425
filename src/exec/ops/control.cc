// Control flow, lists and states.
//
// A list is a value like any other: writing gives a new list, which shares the tensors of the old
// one. Loop variables are handed from iteration to iteration by moving them, so a list that only
// the loop holds is changed in place.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "exec/ops/tables.h"

namespace cmlc::exec {
namespace {

Status Identity(OpContext& op) {
  op.Set(op.Take("x"));
  return Ok();
}

// --- Blocks -------------------------------------------------------------------------------------

Result<bool> Truth(const OpContext& op, const Value& value, std::string_view what) {
  if (!value.is_tensor() || value.element_count() != 1 || IsFloat(value.dtype))
    return op.Bad(fmt::format("{}: expected one bool, got {}", what, ToString(value)));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> values, ReadInts(value));
  return values[0] != 0;
}

Status Cond(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const bool taken, Truth(op, op.Input("pred"), "pred"));
  CMLC_ASSIGN_OR_RETURN(std::vector<Value> outputs, op.RunBlock(taken ? 0 : 1, {}));
  for (size_t i = 0; i < outputs.size(); ++i) op.Set(i, std::move(outputs[i]));
  return Ok();
}

Status WhileLoop(OpContext& op) {
  std::vector<Value> variables;
  const size_t count = op.Count("loop_vars");
  for (size_t i = 0; i < count; ++i) variables.push_back(op.Take("loop_vars", i));
  while (true) {
    CMLC_ASSIGN_OR_RETURN(const std::vector<Value> condition, op.RunBlock(0, variables));
    CMLC_ASSIGN_OR_RETURN(const bool go_on, Truth(op, condition[0], "condition"));
    if (!go_on) break;
    CMLC_ASSIGN_OR_RETURN(variables, op.RunBlock(1, std::move(variables)));
  }
  for (size_t i = 0; i < count; ++i) op.Set(i, std::move(variables[i]));
  return Ok();
}

// --- Lists --------------------------------------------------------------------------------------

// Entries are not counted with the memory of values: a file must not ask for any number of them.
constexpr int64_t kMaxEntries = 1 << 20;

size_t WidthOf(DataType dtype) {
  return dtype == DataType::kBool ? 1 : static_cast<size_t>(BitsOf(dtype)) / 8;
}

// The element shape that the file declares for the list, if any.
std::optional<Shape> DeclaredElement(const OpContext& op) {
  const std::optional<ValueType>& type = op.operation().outputs[0].type;
  if (!type || type->kind != ValueType::Kind::kList || type->elements.empty() ||
      type->elements[0].kind != ValueType::Kind::kTensor || type->elements[0].tensor.rank < 0)
    return std::nullopt;
  Shape shape;
  for (const Dimension& dimension : type->elements[0].tensor.dimensions) {
    if (dimension.variadic) return std::nullopt;
    shape.push_back(dimension.kind == Dimension::Kind::kConstant
                        ? static_cast<int64_t>(std::min<uint64_t>(dimension.size, INT64_MAX))
                        : -1);
  }
  return shape;
}

Status MakeList(OpContext& op) {
  auto list = std::make_shared<List>();
  CMLC_ASSIGN_OR_RETURN(const std::string dtype, op.String("dtype", "fp32"));
  for (const DataType type :
       {DataType::kFloat16, DataType::kFloat32, DataType::kInt32, DataType::kBool, DataType::kInt8,
        DataType::kUInt8, DataType::kInt16, DataType::kUInt16})
    if (NameOf(type) == dtype) list->dtype = type;
  if (list->dtype == DataType::kUnused)
    return op.Bad(fmt::format("dtype: no value of a program has type '{}'", dtype));
  CMLC_ASSIGN_OR_RETURN(list->grows, op.Bool("dynamic_length", true));
  // One scalar for each size, or a vector of them; a name stands for a size that may be any.
  const size_t bound = op.Count("elem_shape");
  if (bound == 0) {
    list->shape = DeclaredElement(op);
  } else {
    list->shape.emplace();
    for (size_t i = 0; i < bound; ++i) {
      const Value& part = op.Input("elem_shape", i);
      if (part.kind == Value::Kind::kStrings) {
        list->shape->resize(list->shape->size() + part.strings->size(), -1);
        continue;
      }
      if (!part.is_tensor() || IsFloat(part.dtype))
        return op.Bad(
            fmt::format("elem_shape: expected integers or names, got {}", ToString(part)));
      CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, ReadInts(part));
      for (const int64_t size : sizes) list->shape->push_back(std::max<int64_t>(size, -1));
    }
  }
  CMLC_ASSIGN_OR_RETURN(const int64_t length, op.Int("init_length", 1));
  if (length < 0 || length > kMaxEntries)
    return op.Bad(fmt::format("init_length: {} is not between 0 and {}", length, kMaxEntries));
  list->entries.resize(static_cast<size_t>(length));
  Value value;
  value.kind = Value::Kind::kList;
  value.list = std::move(list);
  op.Set(std::move(value));
  return Ok();
}

Result<const List*> ListInput(const OpContext& op) {
  const Value& value = op.Input("ls");
  if (value.kind != Value::Kind::kList)
    return op.Bad(fmt::format("ls: expected a list, got {}", ToString(value)));
  return value.list.get();
}

Status ListLength(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const List* list, ListInput(op));
  Status status;
  op.SetInts({static_cast<int64_t>(list->entries.size())}, {}, DataType::kInt32, status);
  return status;
}

// Where to read; out of range only if indices are taken leniently.
Result<size_t> ReadPosition(OpContext& op, std::string_view parameter, int64_t index,
                            const List& list) {
  const auto length = static_cast<int64_t>(list.entries.size());
  if (index >= 0 && index < length) return static_cast<size_t>(index);
  if (!op.lenient_indices() || length == 0)
    return op.Bad(fmt::format("{}: {} is outside of a list of {}", parameter, index, length));
  op.CountNote("indices out of range were cut", 1);
  return static_cast<size_t>(
      std::clamp<int64_t>(index < 0 ? index + length : index, 0, length - 1));
}

// The shape and type of entries that were never written, which are zeros: as declared where that
// says it all, else as the first entry that was written.
Result<Value> UnwrittenEntry(OpContext& op, const List& list) {
  const bool known =
      list.shape && list.dtype != DataType::kUnused &&
      std::all_of(list.shape->begin(), list.shape->end(), [](int64_t size) { return size >= 0; });
  DataType dtype = list.dtype;
  Shape shape;
  if (known) {
    shape = *list.shape;
  } else {
    const auto written =
        std::find_if(list.entries.begin(), list.entries.end(),
                     [](const Value& entry) { return entry.kind != Value::Kind::kNone; });
    if (written == list.entries.end())
      return op.Bad("ls: nothing was written to this list, so the size of its elements is unknown");
    dtype = written->dtype;
    shape = written->shape;
  }
  CMLC_ASSIGN_OR_RETURN(Value zeros, op.Make(dtype, std::move(shape)));
  std::memset(zeros.storage->data(), 0, zeros.storage->bytes().size());
  return zeros;
}

Status ListRead(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const List* list, ListInput(op));
  CMLC_ASSIGN_OR_RETURN(const int64_t index, op.Int("index"));
  CMLC_ASSIGN_OR_RETURN(const size_t at, ReadPosition(op, "index", index, *list));
  if (list->entries[at].kind != Value::Kind::kNone) {
    op.Set(list->entries[at]);
    return Ok();
  }
  CMLC_ASSIGN_OR_RETURN(Value zeros, UnwrittenEntry(op, *list));
  op.Set(std::move(zeros));
  return Ok();
}

Status ListGather(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const List* list, ListInput(op));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> indices, op.Ints("indices"));
  std::vector<const Value*> picked;
  Value zeros;
  for (const int64_t index : indices) {
    CMLC_ASSIGN_OR_RETURN(const size_t at, ReadPosition(op, "indices", index, *list));
    picked.push_back(&list->entries[at]);
    if (picked.back()->kind != Value::Kind::kNone) continue;
    if (zeros.kind == Value::Kind::kNone) {
      CMLC_ASSIGN_OR_RETURN(zeros, UnwrittenEntry(op, *list));
    }
    picked.back() = &zeros;
  }
  if (picked.empty()) {
    CMLC_ASSIGN_OR_RETURN(zeros, UnwrittenEntry(op, *list));
  }
  const Value& first = picked.empty() ? zeros : *picked[0];
  for (const Value* entry : picked)
    if (entry->dtype != first.dtype || entry->shape != first.shape)
      return op.Bad(
          fmt::format("ls: its elements differ: {} and {}", ToString(first), ToString(*entry)));
  Shape shape = first.shape;
  shape.insert(shape.begin(), static_cast<int64_t>(picked.size()));
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(first.dtype, std::move(shape)));
  const size_t bytes = static_cast<size_t>(first.element_count()) * WidthOf(first.dtype);
  for (size_t i = 0; i < picked.size(); ++i)
    if (bytes != 0)
      std::memcpy(out.storage->data() + i * bytes, picked[i]->storage->bytes().data(), bytes);
  op.Set(std::move(out));
  return Ok();
}

// The list to write to: the argument itself if nothing else has it, else a copy, which shares the
// tensors.
Result<std::shared_ptr<List>> ListToWrite(OpContext& op) {
  CMLC_RETURN_IF_ERROR(ListInput(op));
  Value value = op.Take("ls");
  if (value.list.use_count() == 1) return std::const_pointer_cast<List>(std::move(value.list));
  return std::make_shared<List>(*value.list);
}

// Whether tensors of this type and shape (without the first `skip` sizes) may be elements.
Status CheckElement(const OpContext& op, const List& list, const Value& value, size_t skip) {
  const Shape shape(value.shape.begin() + static_cast<ptrdiff_t>(skip), value.shape.end());
  bool fits = list.dtype == DataType::kUnused || list.dtype == value.dtype;
  if (list.shape) {
    fits = fits && list.shape->size() == shape.size();
    for (size_t d = 0; fits && d < shape.size(); ++d)
      fits = (*list.shape)[d] < 0 || (*list.shape)[d] == shape[d];
  }
  if (fits) return Ok();
  return op.Bad(fmt::format("value: elements of the list are {} {}, got {} {}", NameOf(list.dtype),
                            list.shape ? ToString(*list.shape) : "of any shape",
                            NameOf(value.dtype), ToString(shape)));
}

Result<size_t> WritePosition(const OpContext& op, std::string_view parameter, int64_t index,
                             List& list) {
  const auto length = static_cast<int64_t>(list.entries.size());
  if (index < 0 || (index >= length && !list.grows))
    return op.Bad(fmt::format("{}: {} is outside of a list of {}{}", parameter, index, length,
                              list.grows ? "" : ", which does not grow"));
  if (index >= kMaxEntries)
    return op.Bad(
        fmt::format("{}: {} would make a list longer than {}", parameter, index, kMaxEntries));
  if (index >= length) list.entries.resize(static_cast<size_t>(index) + 1);
  return static_cast<size_t>(index);
}

void SetList(OpContext& op, std::shared_ptr<List> list) {
  Value value;
  value.kind = Value::Kind::kList;
  value.list = std::move(list);
  op.Set(std::move(value));
}

Status ListWrite(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const int64_t index, op.Int("index"));
  CMLC_ASSIGN_OR_RETURN(Value element, op.ResidentInput("value"));
  CMLC_ASSIGN_OR_RETURN(std::shared_ptr<List> list, ListToWrite(op));
  CMLC_RETURN_IF_ERROR(CheckElement(op, *list, element, 0));
  CMLC_ASSIGN_OR_RETURN(const size_t at, WritePosition(op, "index", index, *list));
  list->entries[at] = std::move(element);
  SetList(op, std::move(list));
  return Ok();
}

Status ListScatter(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> indices, op.Ints("indices"));
  CMLC_ASSIGN_OR_RETURN(const Value values, op.ResidentInput("value"));
  if (values.shape.empty() || values.shape[0] != static_cast<int64_t>(indices.size()))
    return op.Bad(fmt::format("value: expected {} elements, one for each index, got {}",
                              indices.size(), ToString(values)));
  CMLC_ASSIGN_OR_RETURN(std::shared_ptr<List> list, ListToWrite(op));
  CMLC_RETURN_IF_ERROR(CheckElement(op, *list, values, 1));
  const Shape shape(values.shape.begin() + 1, values.shape.end());
  const size_t bytes =
      indices.empty() ? 0 : static_cast<size_t>(*ElementCount(shape)) * WidthOf(values.dtype);
  for (size_t i = 0; i < indices.size(); ++i) {
    CMLC_ASSIGN_OR_RETURN(const size_t at, WritePosition(op, "indices", indices[i], *list));
    CMLC_ASSIGN_OR_RETURN(Value element, op.Make(values.dtype, shape));
    if (bytes != 0)
      std::memcpy(element.storage->data(), values.storage->bytes().data() + i * bytes, bytes);
    list->entries[at] = std::move(element);
  }
  SetList(op, std::move(list));
  return Ok();
}

// --- States -------------------------------------------------------------------------------------

Result<std::string> StateInput(const OpContext& op) {
  const Value& value = op.Input("input");
  if (value.kind != Value::Kind::kState)
    return op.Bad(fmt::format("input: expected a state, got {}", ToString(value)));
  return value.state;
}

Status ReadStateOp(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::string state, StateInput(op));
  CMLC_ASSIGN_OR_RETURN(Value value, op.ReadState(state));
  op.Set(std::move(value));
  return Ok();
}

// Files have it without outputs; one that names an output gets what was written.
Status WriteStateOp(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::string state, StateInput(op));
  CMLC_ASSIGN_OR_RETURN(Value value, op.ResidentInput("data"));
  CMLC_RETURN_IF_ERROR(op.WriteState(state, value));
  op.Set(std::move(value));
  return Ok();
}

constexpr OpKernel kOps[] = {
    {"identity", Identity},        {"cond", Cond},
    {"while_loop", WhileLoop},     {"make_list", MakeList},
    {"list_length", ListLength},   {"list_read", ListRead},
    {"list_write", ListWrite},     {"list_gather", ListGather},
    {"list_scatter", ListScatter}, {"read_state", ReadStateOp},
    {"write_state", WriteStateOp},
};

}  // namespace

std::span<const OpKernel> ControlOps() { return kOps; }

}  // namespace cmlc::exec
