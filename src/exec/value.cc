#include "exec/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "numeric/convert.h"

namespace cmlc::exec {

bool IsFloat(DataType dtype) { return dtype == DataType::kFloat16 || dtype == DataType::kFloat32; }

bool IsInteger(DataType dtype) {
  switch (dtype) {
    case DataType::kInt8:
    case DataType::kInt16:
    case DataType::kInt32:
    case DataType::kUInt8:
    case DataType::kUInt16:
    case DataType::kUInt32:
      return true;
    default:
      return false;
  }
}

bool IsValueType(DataType dtype) {
  return IsFloat(dtype) || IsInteger(dtype) || dtype == DataType::kBool;
}

Value MakeStrings(Shape shape, std::vector<std::string> strings) {
  Value value;
  value.kind = Value::Kind::kStrings;
  value.dtype = DataType::kString;
  value.shape = std::move(shape);
  value.strings = std::make_shared<const std::vector<std::string>>(std::move(strings));
  return value;
}

std::string ToString(const Value& value) {
  switch (value.kind) {
    case Value::Kind::kNone:
      return "nothing";
    case Value::Kind::kTensor:
    case Value::Kind::kStrings:
      return fmt::format("{} {}", NameOf(value.dtype), ToString(value.shape));
    case Value::Kind::kList:
      return fmt::format("list of {}", value.list->entries.size());
    case Value::Kind::kDictionary:
      return fmt::format("dictionary of {}", value.shape.empty() ? 0 : value.shape[0]);
    case Value::Kind::kState:
      return fmt::format("state '{}'", value.state);
  }
  return "nothing";
}

namespace {

template <typename T>
void Widen(const Value& value, uint64_t begin, std::span<float> out) {
  const T* in = value.As<T>().data() + begin;
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(in[i]);
}

template <typename T>
void ToInts(const Value& value, std::vector<int64_t>& out) {
  const std::span<const T> in = value.As<T>();
  std::copy(in.begin(), in.end(), out.begin());
}

}  // namespace

Status ReadFloats(const Value& value, uint64_t begin, std::span<float> out) {
  CMLC_CHECK(value.is_tensor());
  if (value.storage == nullptr) return value.weight->Read(begin, out);
  switch (value.dtype) {
    case DataType::kFloat16:
      numeric::HalvesToFloats(value.As<uint16_t>().data() + begin, out.size(), out.data());
      break;
    case DataType::kFloat32:
      if (!out.empty()) std::memcpy(out.data(), value.As<float>().data() + begin, out.size_bytes());
      break;
    case DataType::kBool:
    case DataType::kUInt8:
      Widen<uint8_t>(value, begin, out);
      break;
    case DataType::kInt8:
      Widen<int8_t>(value, begin, out);
      break;
    case DataType::kInt16:
      Widen<int16_t>(value, begin, out);
      break;
    case DataType::kUInt16:
      Widen<uint16_t>(value, begin, out);
      break;
    case DataType::kInt32:
      Widen<int32_t>(value, begin, out);
      break;
    case DataType::kUInt32:
      Widen<uint32_t>(value, begin, out);
      break;
    default:
      return Error{ErrorKind::kBadInput,
                   fmt::format("a value of type {} cannot be computed with", NameOf(value.dtype))};
  }
  return Ok();
}

Result<std::vector<int64_t>> ReadInts(const Value& value) {
  CMLC_CHECK(value.is_tensor());
  std::vector<int64_t> out(static_cast<size_t>(value.element_count()));
  if (value.storage == nullptr && !out.empty()) {
    if (!IsInteger(value.dtype) || BitsOf(value.dtype) > 16)
      return Error{ErrorKind::kBadInput, fmt::format("expected integers, got {}", ToString(value))};
    std::vector<float> floats(out.size());
    CMLC_RETURN_IF_ERROR(value.weight->Read(0, floats));
    std::transform(floats.begin(), floats.end(), out.begin(),
                   [](float number) { return static_cast<int64_t>(number); });
    return out;
  }
  switch (value.dtype) {
    case DataType::kBool:
    case DataType::kUInt8:
      ToInts<uint8_t>(value, out);
      break;
    case DataType::kInt8:
      ToInts<int8_t>(value, out);
      break;
    case DataType::kInt16:
      ToInts<int16_t>(value, out);
      break;
    case DataType::kUInt16:
      ToInts<uint16_t>(value, out);
      break;
    case DataType::kInt32:
      ToInts<int32_t>(value, out);
      break;
    case DataType::kUInt32:
      ToInts<uint32_t>(value, out);
      break;
    default:
      return Error{ErrorKind::kBadInput, fmt::format("expected integers, got {}", ToString(value))};
  }
  return out;
}

Result<Value> MakeTensor(DataType dtype, Shape shape, Memory& memory) {
  const std::optional<uint64_t> count = ElementCount(shape);
  if (!count || !IsValueType(dtype))
    return Error{ErrorKind::kBadInput, fmt::format("cannot make a value of type {} and shape {}",
                                                   NameOf(dtype), cmlc::ToString(shape))};
  const uint64_t width = dtype == DataType::kBool ? 1 : static_cast<uint64_t>(BitsOf(dtype)) / 8;
  if (*count > (uint64_t{1} << 62) / width)
    return Error{ErrorKind::kBadInput, fmt::format("a value of shape {} is larger than any memory",
                                                   cmlc::ToString(shape))};
  Value value;
  value.kind = Value::Kind::kTensor;
  value.dtype = dtype;
  value.shape = std::move(shape);
  CMLC_ASSIGN_OR_RETURN(value.storage, memory.Make(*count * width));
  return value;
}

Result<Value> Resident(const Value& value, Memory& memory) {
  if (!value.is_tensor() || value.storage != nullptr) return value;
  CMLC_ASSIGN_OR_RETURN(Value made, MakeTensor(value.dtype, value.shape, memory));
  const uint64_t count = value.element_count();
  constexpr uint64_t kStep = 64 * 1024;
  std::vector<float> floats;
  for (uint64_t begin = 0; begin < count; begin += kStep) {
    const auto length = static_cast<size_t>(std::min(kStep, count - begin));
    if (value.dtype == DataType::kFloat32) {
      CMLC_RETURN_IF_ERROR(value.weight->Read(
          begin, {reinterpret_cast<float*>(made.storage->data()) + begin, length}));
      continue;
    }
    floats.resize(length);
    CMLC_RETURN_IF_ERROR(value.weight->Read(begin, floats));
    if (value.dtype == DataType::kFloat16) {
      numeric::FloatsToHalves(floats.data(), length,
                              reinterpret_cast<uint16_t*>(made.storage->data()) + begin);
      continue;
    }
    const size_t width = static_cast<size_t>(BitsOf(value.dtype)) / 8;
    for (size_t i = 0; i < length; ++i) {
      const auto number = static_cast<int32_t>(floats[i]);
      std::memcpy(made.storage->data() + (begin + i) * width, &number, width);
    }
  }
  return made;
}

}  // namespace cmlc::exec
