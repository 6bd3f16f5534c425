#include "cmlc/model.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>

namespace cmlc {
namespace {

static_assert(std::endian::native == std::endian::little,
              "tensor bytes are used as they lie in the file, which is little-endian");

template <typename T>
std::string Packed(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

template <typename T>
std::vector<T> Unpacked(std::string_view bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

// Packs integers into `bits` bits each, from the low bit up; values are taken modulo 2^bits.
template <typename T>
std::string PackIntegers(const std::vector<T>& values, int bits) {
  std::string bytes((values.size() * static_cast<size_t>(bits) + 7) / 8, '\0');
  size_t position = 0;
  for (const T value : values)
    for (int b = 0; b < bits; ++b, ++position)
      if ((static_cast<uint64_t>(value) >> b) & 1)
        bytes[position / 8] = static_cast<char>(bytes[position / 8] | (1 << (position % 8)));
  return bytes;
}

Value MakeTensor(DataType dtype, const Shape& shape, ImmediateTensor tensor) {
  Value value;
  value.type = MakeTensorType(dtype, shape);
  value.content = std::move(tensor);
  return value;
}

}  // namespace

std::optional<Shape> StaticShape(const ValueType& type) {
  if (type.kind != ValueType::Kind::kTensor) return std::nullopt;
  const TensorType& tensor = type.tensor;
  if (tensor.rank < 0 || static_cast<uint64_t>(tensor.rank) != tensor.dimensions.size())
    return std::nullopt;
  Shape shape;
  for (const Dimension& dimension : tensor.dimensions) {
    if (dimension.kind != Dimension::Kind::kConstant || dimension.size > INT64_MAX)
      return std::nullopt;
    shape.push_back(static_cast<int64_t>(dimension.size));
  }
  return shape;
}

ValueType MakeTensorType(DataType dtype, const Shape& shape) {
  ValueType type;
  type.kind = ValueType::Kind::kTensor;
  type.tensor.dtype = dtype;
  type.tensor.rank = static_cast<int64_t>(shape.size());
  for (const int64_t size : shape)
    type.tensor.dimensions.push_back(
        {.kind = Dimension::Kind::kConstant, .size = static_cast<uint64_t>(size)});
  return type;
}

Value MakeBlobValue(DataType dtype, const Shape& shape, TensorId id) {
  Value value;
  value.type = MakeTensorType(dtype, shape);
  value.content = id;
  return value;
}

Value MakeString(std::string text) {
  return MakeTensor(DataType::kString, {}, {.values = Strings{{std::move(text)}}});
}

Value MakeInt32(int32_t number) {
  return MakeTensor(DataType::kInt32, {}, {.values = Ints{{number}}});
}

Value MakeBool(bool flag) {
  return MakeTensor(DataType::kBool, {}, {.values = Bools{{static_cast<uint8_t>(flag)}}});
}

Value MakeInts(const std::vector<int32_t>& numbers) {
  return MakeTensor(DataType::kInt32, {static_cast<int64_t>(numbers.size())},
                    {.values = Ints{numbers}});
}

Value MakeImmediate(DataType dtype, const Shape& shape, std::string bytes) {
  ImmediateTensor tensor;
  switch (dtype) {
    case DataType::kFloat32:
      tensor.values = Floats{Unpacked<float>(bytes)};
      break;
    case DataType::kFloat64:
      tensor.values = Doubles{Unpacked<double>(bytes)};
      break;
    case DataType::kInt32:
      tensor.values = Ints{Unpacked<int32_t>(bytes)};
      break;
    case DataType::kInt16: {
      const auto narrow = Unpacked<int16_t>(bytes);
      tensor.values = Ints{{narrow.begin(), narrow.end()}};
      break;
    }
    case DataType::kUInt16: {
      const auto narrow = Unpacked<uint16_t>(bytes);
      tensor.values = Ints{{narrow.begin(), narrow.end()}};
      break;
    }
    case DataType::kInt64:
    case DataType::kUInt64:
      tensor.values = LongInts{Unpacked<int64_t>(bytes)};
      break;
    case DataType::kBool:
      tensor.values = Bools{Unpacked<uint8_t>(bytes)};
      break;
    default:
      tensor.values = Bytes{std::move(bytes)};
      break;
  }
  return MakeTensor(dtype, shape, std::move(tensor));
}

std::optional<std::string> ImmediateBytes(const Value& value) {
  const auto* tensor = std::get_if<ImmediateTensor>(&value.content);
  const std::optional<Shape> shape = StaticShape(value.type);
  if (tensor == nullptr || !shape) return std::nullopt;
  const int bits = BitsOf(value.type.tensor.dtype);
  const std::optional<uint64_t> count = ElementCount(*shape);
  if (bits == 0 || !count) return std::nullopt;
  const std::optional<uint64_t> size = PackedBytes(*count, bits);
  const DataTypeInfo* info = FindDataType(value.type.tensor.dtype);

  std::optional<std::string> bytes;
  if (const auto* raw = std::get_if<Bytes>(&tensor->values)) {
    bytes = raw->values;
  } else if (const auto* floats = std::get_if<Floats>(&tensor->values)) {
    if (info->type == DataType::kFloat32) bytes = Packed(floats->values);
  } else if (const auto* doubles = std::get_if<Doubles>(&tensor->values)) {
    if (info->type == DataType::kFloat64) bytes = Packed(doubles->values);
  } else if (info->is_float) {
    return std::nullopt;
  } else if (const auto* ints = std::get_if<Ints>(&tensor->values)) {
    if (ints->values.size() == *count) bytes = PackIntegers(ints->values, bits);
  } else if (const auto* longs = std::get_if<LongInts>(&tensor->values)) {
    if (longs->values.size() == *count) bytes = PackIntegers(longs->values, bits);
  } else if (const auto* bools = std::get_if<Bools>(&tensor->values)) {
    if (bools->values.size() == *count) bytes = PackIntegers(bools->values, bits);
  }
  if (!bytes || bytes->size() != size) return std::nullopt;
  return bytes;
}

std::optional<std::vector<int64_t>> ImmediateInts(const Value& value) {
  const auto* tensor = std::get_if<ImmediateTensor>(&value.content);
  if (tensor == nullptr) return std::nullopt;
  if (const auto* ints = std::get_if<Ints>(&tensor->values))
    return std::vector<int64_t>(ints->values.begin(), ints->values.end());
  if (const auto* longs = std::get_if<LongInts>(&tensor->values)) return longs->values;
  if (const auto* bools = std::get_if<Bools>(&tensor->values))
    return std::vector<int64_t>(bools->values.begin(), bools->values.end());
  if (const auto* raw = std::get_if<Bytes>(&tensor->values)) {
    const auto widened = [](const auto& narrow) {
      return std::vector<int64_t>(narrow.begin(), narrow.end());
    };
    switch (value.type.tensor.dtype) {
      case DataType::kUInt32:
        return widened(Unpacked<uint32_t>(raw->values));
      case DataType::kInt32:
        return widened(Unpacked<int32_t>(raw->values));
      case DataType::kUInt16:
        return widened(Unpacked<uint16_t>(raw->values));
      case DataType::kInt16:
        return widened(Unpacked<int16_t>(raw->values));
      case DataType::kInt8:
        return widened(Unpacked<int8_t>(raw->values));
      case DataType::kUInt8:
        return widened(Unpacked<uint8_t>(raw->values));
      default:
        return std::nullopt;
    }
  }
  return std::nullopt;
}

std::optional<std::string> ImmediateString(const Value& value) {
  const auto* tensor = std::get_if<ImmediateTensor>(&value.content);
  if (tensor == nullptr) return std::nullopt;
  const auto* strings = std::get_if<Strings>(&tensor->values);
  if (strings == nullptr || strings->values.size() != 1) return std::nullopt;
  return strings->values.front();
}

std::string ToString(const ValueType& type) {
  switch (type.kind) {
    case ValueType::Kind::kNone:
    case ValueType::Kind::kEmpty:
      return "none";
    case ValueType::Kind::kTensor: {
      std::string text = NameOf(type.tensor.dtype);
      if (type.tensor.rank < 0) return text + " [...]";
      if (type.tensor.dimensions.empty()) return text;
      text += " [";
      for (size_t i = 0; i < type.tensor.dimensions.size(); ++i) {
        const Dimension& dimension = type.tensor.dimensions[i];
        if (i > 0) text += ", ";
        text +=
            dimension.kind == Dimension::Kind::kConstant ? fmt::format("{}", dimension.size) : "?";
      }
      return text + "]";
    }
    case ValueType::Kind::kList:
      return "list of " + (type.elements.empty() ? "none" : ToString(type.elements[0]));
    case ValueType::Kind::kTuple:
      return fmt::format("tuple of {}", type.elements.size());
    case ValueType::Kind::kDictionary:
      return "dictionary";
    case ValueType::Kind::kState:
      return "state of " + (type.elements.empty() ? "none" : ToString(type.elements[0]));
  }
  return "none";
}

std::string NameOf(const Operation& op) {
  if (const auto found = op.attributes.find("name"); found != op.attributes.end())
    if (std::optional<std::string> name = ImmediateString(found->second)) return *name;
  return op.outputs.empty() ? std::string() : op.outputs[0].name;
}

bool IsConst(const Operation& op) { return op.type == "const"; }

bool IsConstexpr(const Operation& op) { return op.type.starts_with("constexpr_"); }

const Block* ActiveBlock(const Function& function) {
  const auto found = function.specializations.find(function.opset);
  return found == function.specializations.end() ? nullptr : &found->second;
}

Block* ActiveBlock(Function& function) {
  return const_cast<Block*>(ActiveBlock(static_cast<const Function&>(function)));
}

}  // namespace cmlc
