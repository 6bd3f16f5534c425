#include "exec/ops/broadcast.h"

#include <fmt/format.h>

namespace cmlc::exec {

Result<Shape> BroadcastShape(const OpContext& op,
                             std::span<const std::pair<std::string_view, const Shape*>> shapes) {
  size_t rank = 0;
  for (const auto& [parameter, shape] : shapes) rank = std::max(rank, shape->size());
  Shape out(rank, 1);
  for (size_t i = 0; i < shapes.size(); ++i) {
    const Shape& shape = *shapes[i].second;
    for (size_t d = 0; d < shape.size(); ++d) {
      int64_t& size = out[rank - shape.size() + d];
      if (shape[d] == size || shape[d] == 1) continue;
      if (size != 1)
        return op.Bad(fmt::format("{}: {} cannot be stretched to the shape of {}, {}",
                                  shapes[i].first, ToString(shape), shapes[0].first,
                                  ToString(*shapes[0].second)));
      size = shape[d];
    }
  }
  // Runs are cut with arrays of fixed size.
  if (rank > 32) return op.Bad(fmt::format("{}: has {} dimensions", shapes[0].first, rank));
  return out;
}

Stretch::Stretch(const Shape& from, const Shape& to) {
  identity_ = ElementCount(from) == ElementCount(to);
  scalar_ = !identity_ && ElementCount(from) == 1;
  if (identity_ || scalar_) return;
  uint64_t stride = 1;
  std::vector<Dim> reversed;
  for (size_t d = to.size(); d-- > 0;) {
    const size_t skipped = to.size() - from.size();
    const uint64_t size = static_cast<uint64_t>(to[d]);
    const uint64_t own = d < skipped ? 1 : static_cast<uint64_t>(from[d - skipped]);
    const uint64_t step = own == 1 ? 0 : stride;
    stride *= own;
    if (size == 1) continue;
    if (!reversed.empty()) {
      Dim& inner = reversed.back();
      const bool both_repeat = inner.stride == 0 && step == 0;
      if (both_repeat || (inner.stride != 0 && step == inner.stride * inner.size)) {
        inner.size *= size;
        continue;
      }
    }
    reversed.push_back({size, step});
  }
  dims_.assign(reversed.rbegin(), reversed.rend());
}

void StoreFloats(const float* in, size_t count, Value& out, uint64_t begin) {
  if (out.dtype == DataType::kFloat16)
    numeric::FloatsToHalves(in, count, OpContext::Data<uint16_t>(out) + begin);
  else
    std::memcpy(OpContext::Data<float>(out) + begin, in, count * sizeof(float));
}

namespace {
template <typename T>
void Narrow(const int64_t* in, size_t count, Value& out, uint64_t begin) {
  T* to = OpContext::Data<T>(out) + begin;
  for (size_t i = 0; i < count; ++i) to[i] = static_cast<T>(in[i]);
}
}  // namespace

void StoreInts(const int64_t* in, size_t count, Value& out, uint64_t begin) {
  switch (out.dtype) {
    case DataType::kBool: {
      uint8_t* to = OpContext::Data<uint8_t>(out) + begin;
      for (size_t i = 0; i < count; ++i) to[i] = in[i] != 0 ? 1 : 0;
      return;
    }
    case DataType::kInt8:
    case DataType::kUInt8:
      return Narrow<uint8_t>(in, count, out, begin);
    case DataType::kInt16:
    case DataType::kUInt16:
      return Narrow<uint16_t>(in, count, out, begin);
    default:
      return Narrow<uint32_t>(in, count, out, begin);
  }
}

DataType CommonType(const OpContext& op, DataType a, DataType b) {
  if (a == b) return a;
  if (IsFloat(a) || IsFloat(b)) {
    if (IsFloat(op.DeclaredType()) && (op.DeclaredType() == a || op.DeclaredType() == b))
      return op.DeclaredType();
    return a == DataType::kFloat32 || b == DataType::kFloat32 ? DataType::kFloat32
                                                              : DataType::kFloat16;
  }
  const auto width = [](DataType type) { return type == DataType::kBool ? 1 : BitsOf(type); };
  // Integers of one width and different signs meet in int32.
  if (width(a) == width(b)) return DataType::kInt32;
  return width(a) > width(b) ? a : b;
}

Result<Value> TakeResident(OpContext& op, std::string_view parameter) {
  CMLC_ASSIGN_OR_RETURN(const Value* value, op.Tensor(parameter));
  static_cast<void>(value);
  return Resident(op.Take(parameter), op.memory());
}

static bool Reusable(const Value& value, DataType dtype, const Shape& shape) {
  return value.dtype == dtype && value.shape == shape && value.storage.use_count() == 1 &&
         value.storage->writable();
}

Result<Value> ReuseOrMake(OpContext& op, const Value& value, DataType dtype, const Shape& shape) {
  if (Reusable(value, dtype, shape)) return value;
  return op.Make(dtype, shape);
}

Status MapFloatPairs(OpContext& op, Value x, Value y, const Shape& shape, DataType dtype,
                     FloatKernel kernel) {
  const Stretch stretch_x(x.shape, shape);
  const Stretch stretch_y(y.shape, shape);
  CMLC_ASSIGN_OR_RETURN(Value out,
                        ReuseOrMake(op, Reusable(x, dtype, shape) ? x : y, dtype, shape));
  op.ForRanges(out.element_count(), kPieceGrain, [&](uint64_t begin, uint64_t end) {
    Reader<float> read_x(x, stretch_x);
    Reader<float> read_y(y, stretch_y);
    alignas(64) float buffer[kPiece];
    for (uint64_t at = begin; at < end; at += kPiece) {
      const auto count = static_cast<size_t>(std::min(kPiece, end - at));
      float* result = out.dtype == DataType::kFloat32 ? OpContext::Data<float>(out) + at : buffer;
      kernel(read_x.Get(at, count), read_y.Get(at, count), result, count);
      if (result == buffer) StoreFloats(buffer, count, out, at);
    }
  });
  op.Set(std::move(out));
  return Ok();
}

}  // namespace cmlc::exec
