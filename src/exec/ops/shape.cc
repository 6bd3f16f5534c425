// Ops about shapes: the same elements in another shape, shapes as values, and tensors that are
// made from a shape.
//
// Another shape of the same elements shares their storage; a compressed weight stays compressed.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "exec/ops/layout.h"
#include "exec/ops/tables.h"
#include "numeric/half.h"

namespace cmlc::exec {
namespace {

constexpr int kIos17 = 7;

Status SetReshaped(OpContext& op, Shape shape) {
  Value out = op.Take("x");
  out.shape = std::move(shape);
  op.Set(std::move(out));
  return Ok();
}

// --- The same elements ---------------------------------------------------------------------------

// A 0 in `to` stands for a size of x: of the same place if the ranks are equal; from iOS 17 on of
// the same place counted from the right, and 1 where x has no such axis.
Status ReplaceZeros(const OpContext& op, const Shape& from, Shape& to) {
  if (std::find(to.begin(), to.end(), 0) == to.end()) return Ok();
  if (op.opset() < kIos17 && from.size() != to.size())
    return op.Bad(
        fmt::format("shape: {} has a 0, which before iOS 17 needs as many sizes as x has, {}",
                    ToString(to), from.size()));
  for (size_t right = 1; right <= to.size(); ++right) {
    int64_t& size = to[to.size() - right];
    if (size == 0) size = right <= from.size() ? from[from.size() - right] : 1;
  }
  return Ok();
}

Status Reshape(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(Shape shape, op.Ints("shape"));
  const Shape asked = shape;
  const auto bad = [&] {
    return op.Bad(fmt::format("shape: {} cannot hold the {} elements of x, which has shape {}",
                              ToString(asked), x->element_count(), ToString(x->shape)));
  };
  CMLC_RETURN_IF_ERROR(ReplaceZeros(op, x->shape, shape));
  std::optional<size_t> open;
  Shape known;
  for (size_t d = 0; d < asked.size(); ++d) {
    if (asked[d] < -1 || (asked[d] == -1 && open))
      return op.Bad(fmt::format("shape: {} has {}, expected sizes and at most one -1",
                                ToString(asked), asked[d] == -1 ? "two -1" : "a negative size"));
    if (asked[d] == -1)
      open = d;
    else
      known.push_back(shape[d]);
  }
  const std::optional<uint64_t> count = ElementCount(known);
  if (!count) return bad();
  if (open) {
    if (*count == 0)
      return op.Bad(fmt::format("shape: {} leaves open what -1 is for x of shape {}",
                                ToString(asked), ToString(x->shape)));
    if (x->element_count() % *count != 0) return bad();
    shape[*open] = static_cast<int64_t>(x->element_count() / *count);
  } else if (*count != x->element_count()) {
    return bad();
  }
  return SetReshaped(op, std::move(shape));
}

Result<int64_t> IntAt(const OpContext& op, std::string_view parameter, size_t position) {
  CMLC_ASSIGN_OR_RETURN(const Value* value, op.Tensor(parameter, position));
  if (IsFloat(value->dtype) || value->element_count() != 1)
    return op.Bad(fmt::format("{}: expected one integer, got {}", parameter, ToString(*value)));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> values, ReadInts(*value));
  return values[0];
}

Status ReshapeLike(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  const size_t count = op.Count("ref_tensors");
  for (const std::string_view parameter : {"begins", "ends", "end_masks"})
    if (op.Count(parameter) != count)
      return op.Bad(fmt::format("{}: has {} values, expected one for each of {} ref_tensors",
                                parameter, op.Count(parameter), count));
  Shape shape;
  for (size_t i = 0; i < count; ++i) {
    CMLC_ASSIGN_OR_RETURN(const Value* reference, op.Tensor("ref_tensors", i));
    CMLC_ASSIGN_OR_RETURN(int64_t begin, IntAt(op, "begins", i));
    CMLC_ASSIGN_OR_RETURN(int64_t end, IntAt(op, "ends", i));
    CMLC_ASSIGN_OR_RETURN(const int64_t to_the_end, IntAt(op, "end_masks", i));
    const auto rank = static_cast<int64_t>(reference->shape.size());
    const auto cut = [rank](int64_t at) {
      return std::clamp<int64_t>(at < 0 ? at + rank : at, 0, rank);
    };
    begin = cut(begin);
    end = to_the_end != 0 ? rank : cut(end);
    for (int64_t d = begin; d < end; ++d) shape.push_back(reference->shape[static_cast<size_t>(d)]);
  }
  const std::optional<uint64_t> elements = ElementCount(shape);
  if (!elements || *elements != x->element_count())
    return op.Bad(fmt::format("ref_tensors: give shape {}, which cannot hold the elements of x {}",
                              ToString(shape), ToString(x->shape)));
  return SetReshaped(op, std::move(shape));
}

Status ExpandDims(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> axes, op.Ints("axes"));
  // They count axes of the output.
  const size_t rank = x->shape.size() + axes.size();
  std::vector<bool> added(rank, false);
  for (const int64_t axis : axes) {
    const int64_t at = axis < 0 ? axis + static_cast<int64_t>(rank) : axis;
    if (at < 0 || at >= static_cast<int64_t>(rank))
      return op.Bad(fmt::format("axes: {} is no axis of {} dimensions", axis, rank));
    if (added[static_cast<size_t>(at)])
      return op.Bad(fmt::format("axes: axis {} is given twice", at));
    added[static_cast<size_t>(at)] = true;
  }
  Shape shape;
  size_t next = 0;
  for (const bool one : added) shape.push_back(one ? 1 : x->shape[next++]);
  return SetReshaped(op, std::move(shape));
}

// Axes that are longer than 1 stay, even if they are asked for.
Status Squeeze(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(const std::vector<size_t> axes, op.Axes("axes", x->shape.size()));
  Shape shape;
  for (size_t d = 0; d < x->shape.size(); ++d)
    if (x->shape[d] != 1 || !std::binary_search(axes.begin(), axes.end(), d))
      shape.push_back(x->shape[d]);
  return SetReshaped(op, std::move(shape));
}

Status Flatten2d(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(const int64_t axis, op.Int("axis", 1));
  const auto rank = static_cast<int64_t>(x->shape.size());
  const int64_t at = axis < 0 ? axis + rank : axis;
  if (at < 0 || at > rank)
    return op.Bad(
        fmt::format("axis: {} is not between {} and {}, the rank of x", axis, -rank, rank));
  const std::span<const int64_t> sizes = x->shape;
  const std::optional<uint64_t> before = ElementCount(sizes.first(static_cast<size_t>(at)));
  const std::optional<uint64_t> after = ElementCount(sizes.subspan(static_cast<size_t>(at)));
  if (!before || !after)
    return op.Bad(fmt::format("x: sizes of {} are too large to be joined", ToString(x->shape)));
  return SetReshaped(op, {static_cast<int64_t>(*before), static_cast<int64_t>(*after)});
}

// --- Shapes and what is made from them -----------------------------------------------------------

Status ShapeOf(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  for (const int64_t size : x->shape)
    if (size > std::numeric_limits<int32_t>::max())
      return op.Bad(fmt::format("x: a size of {} is beyond int32", ToString(x->shape)));
  Status status;
  op.SetInts(x->shape, {static_cast<int64_t>(x->shape.size())}, DataType::kInt32, status);
  return status;
}

struct Number {
  DataType dtype = DataType::kFloat32;
  uint32_t bits = 0;
};

// A number in its own type.
Result<Number> NumberOf(OpContext& op, std::string_view parameter) {
  CMLC_ASSIGN_OR_RETURN(const Value value, op.ResidentInput(parameter));
  if (value.element_count() != 1)
    return op.Bad(fmt::format("{}: expected one number, got {}", parameter, ToString(value)));
  Number number;
  number.dtype = value.dtype;
  std::memcpy(&number.bits, Bytes(value), WidthOf(value.dtype));
  return number;
}

Status SetFilled(OpContext& op, std::string_view parameter, const Shape& shape) {
  Number number;
  if (op.Has("value")) {
    CMLC_ASSIGN_OR_RETURN(number, NumberOf(op, "value"));
  } else if (IsValueType(op.DeclaredType())) {
    number.dtype = op.DeclaredType();
  }
  for (const int64_t size : shape)
    if (size < 0)
      return op.Bad(fmt::format("{}: {} has a negative size", parameter, ToString(shape)));
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(number.dtype, shape));
  Fill(op, WidthOf(number.dtype), out.storage->data(), out.element_count(), number.bits);
  op.Set(std::move(out));
  return Ok();
}

Status FillShape(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Shape shape, op.Ints("shape"));
  return SetFilled(op, "shape", shape);
}

Status FillLike(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* reference, op.Tensor("ref_tensor"));
  return SetFilled(op, "ref_tensor", Shape(reference->shape));
}

float RoundedTo(float number, DataType dtype) {
  return dtype == DataType::kFloat16 ? numeric::HalfToFloat(numeric::FloatToHalf(number)) : number;
}

// As many values as the arithmetic of the type says, since that is how sizes in files were made: in
// double 0.3 / 0.1 would be more than 3 for the fp32 numbers. The values themselves are rounded
// once.
Status Range1d(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* first, op.Tensor("start"));
  const DataType dtype = first->dtype;
  for (const std::string_view parameter : {"start", "end", "step"}) {
    CMLC_ASSIGN_OR_RETURN(const Value* value, op.Tensor(parameter));
    if (value->dtype != dtype || value->element_count() != 1 ||
        !(IsFloat(dtype) || IsInteger(dtype)))
      return op.Bad(fmt::format("{}: expected one number of the type of start, {}, got {}",
                                parameter, NameOf(dtype), ToString(*value)));
  }
  constexpr int64_t kMost = int64_t{1} << 40;
  if (IsInteger(dtype)) {
    CMLC_ASSIGN_OR_RETURN(const int64_t start, op.Int("start"));
    CMLC_ASSIGN_OR_RETURN(const int64_t end, op.Int("end"));
    CMLC_ASSIGN_OR_RETURN(const int64_t step, op.Int("step"));
    if (step == 0) return op.Bad("step: expected another number than 0");
    const int64_t span = step > 0 ? end - start : start - end;
    const int64_t pace = std::abs(step);
    const int64_t count = span <= 0 ? 0 : (span + pace - 1) / pace;
    CMLC_ASSIGN_OR_RETURN(Value out, op.Make(dtype, {count}));
    WithWidth(WidthOf(dtype), [&](auto element) {
      auto* to = reinterpret_cast<decltype(element)*>(out.storage->data());
      for (int64_t i = 0; i < count; ++i) to[i] = static_cast<decltype(element)>(start + i * step);
    });
    op.Set(std::move(out));
    return Ok();
  }
  CMLC_ASSIGN_OR_RETURN(const float start, op.Float("start"));
  CMLC_ASSIGN_OR_RETURN(const float end, op.Float("end"));
  CMLC_ASSIGN_OR_RETURN(const float step, op.Float("step"));
  const float steps = RoundedTo(RoundedTo(end - start, dtype) / step, dtype);
  if (step == 0 || !std::isfinite(steps) || std::ceil(steps) > static_cast<float>(kMost))
    return op.Bad(fmt::format("step: {} makes no range from {} to {}", step, start, end));
  const int64_t count = std::max<int64_t>(0, static_cast<int64_t>(std::ceil(steps)));
  CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(dtype, {count}));
  for (int64_t i = 0; i < count; ++i)
    out.values[static_cast<size_t>(i)] = static_cast<float>(
        static_cast<double>(start) + static_cast<double>(i) * static_cast<double>(step));
  op.Finish(std::move(out));
  return Ok();
}

Status OneHot(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* given, op.Tensor("indices"));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> indices, op.Ints("indices"));
  CMLC_ASSIGN_OR_RETURN(const int64_t size, op.Int("one_hot_vector_size"));
  if (size < 0)
    return op.Bad(fmt::format("one_hot_vector_size: expected at least 0, got {}", size));
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", given->shape.size() + 1, -1));
  std::optional<Number> on, off;
  if (op.Has("on_value")) {
    CMLC_ASSIGN_OR_RETURN(on, NumberOf(op, "on_value"));
  }
  if (op.Has("off_value")) {
    CMLC_ASSIGN_OR_RETURN(off, NumberOf(op, "off_value"));
  }
  const DataType dtype = on ? on->dtype : off ? off->dtype : DataType::kInt32;
  if (!on) on = Number{dtype, BitsOfNumber(1, dtype)};
  if (!off) off = Number{dtype, BitsOfNumber(0, dtype)};
  if (on->dtype != off->dtype)
    return op.Bad(fmt::format("off_value: is {}, expected the type of on_value, {}",
                              NameOf(off->dtype), NameOf(on->dtype)));
  Shape shape = given->shape;
  shape.insert(shape.begin() + static_cast<std::ptrdiff_t>(axis), size);
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(dtype, shape));
  Fill(op, WidthOf(dtype), out.storage->data(), out.element_count(), off->bits);
  const int64_t after = Product(std::span(given->shape).subspan(axis));
  WithWidth(WidthOf(dtype), [&](auto element) {
    auto* to = reinterpret_cast<decltype(element)*>(out.storage->data());
    for (size_t i = 0; i < indices.size(); ++i) {
      // An index that is no place of the vector turns nothing on.
      if (indices[i] < 0 || indices[i] >= size) continue;
      const auto at = static_cast<int64_t>(i);
      to[(at / after * size + indices[i]) * after + at % after] =
          static_cast<decltype(element)>(on->bits);
    }
  });
  op.Set(std::move(out));
  return Ok();
}

Status NonZero(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  // All that floats of value 0 can have is a sign.
  const uint32_t sign = x.dtype == DataType::kFloat32   ? 0x80000000u
                        : x.dtype == DataType::kFloat16 ? 0x8000u
                                                        : 0;
  const auto count = static_cast<int64_t>(x.element_count());
  const size_t rank = x.shape.size();
  for (const int64_t size : x.shape)
    if (size > std::numeric_limits<int32_t>::max())
      return op.Bad(fmt::format("x: a size of {} is beyond int32", ToString(x.shape)));
  int64_t found = 0;
  WithWidth(WidthOf(x.dtype), [&](auto element) {
    const auto* in = reinterpret_cast<const decltype(element)*>(Bytes(x));
    for (int64_t i = 0; i < count; ++i) found += (in[i] & ~sign) != 0 ? 1 : 0;
  });
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(DataType::kInt32, {found, static_cast<int64_t>(rank)}));
  auto* to = OpContext::Data<int32_t>(out);
  std::vector<int32_t> at(rank, 0);
  WithWidth(WidthOf(x.dtype), [&](auto element) {
    const auto* in = reinterpret_cast<const decltype(element)*>(Bytes(x));
    for (int64_t i = 0; i < count; ++i) {
      if ((in[i] & ~sign) != 0) to = std::copy(at.begin(), at.end(), to);
      for (size_t d = rank; d-- > 0;) {
        if (++at[d] < x.shape[d]) break;
        at[d] = 0;
      }
    }
  });
  op.Set(std::move(out));
  return Ok();
}

constexpr OpKernel kOps[] = {
    {"reshape", Reshape}, {"reshape_like", ReshapeLike}, {"expand_dims", ExpandDims},
    {"squeeze", Squeeze}, {"flatten2d", Flatten2d},      {"shape", ShapeOf},
    {"fill", FillShape},  {"fill_like", FillLike},       {"range_1d", Range1d},
    {"one_hot", OneHot},  {"non_zero", NonZero},
};

}  // namespace

std::span<const OpKernel> ShapeOps() { return kOps; }

}  // namespace cmlc::exec
