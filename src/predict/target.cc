#include "predict/target.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "numeric/half.h"

namespace cmlc::predict {
namespace {

// Programs hold 64-bit types as 32-bit ones.
DataType Narrowed(DataType dtype) {
  if (dtype == DataType::kInt64 || dtype == DataType::kUInt64) return DataType::kInt32;
  return dtype == DataType::kFloat64 ? DataType::kFloat32 : dtype;
}

bool Within(const Feature::SizeRange& range, int64_t size) {
  return size >= range.least && (range.greatest < 0 || size <= range.greatest);
}

bool TakesShape(const InputSpec& input, const Shape& shape) {
  const Feature& feature = input.feature;
  if (input.is_image())
    return shape.size() == 4 && shape[0] == 1 && shape[1] == input.channels() &&
           TakesImageSize(feature, shape[3], shape[2]);
  if (feature.kind != Feature::Kind::kArray) return true;  // the program's own check follows
  if (!feature.shapes.empty())
    return shape == feature.shape ||
           std::find(feature.shapes.begin(), feature.shapes.end(), shape) != feature.shapes.end();
  if (!feature.ranges.empty()) {
    if (shape.size() != feature.ranges.size()) return false;
    for (size_t d = 0; d < shape.size(); ++d)
      if (!Within(feature.ranges[d], shape[d])) return false;
    return true;
  }
  return feature.shape.empty() || shape == feature.shape;
}

template <typename T>
T At(const Array& array, size_t i) {
  T value;
  std::memcpy(&value, array.bytes.data() + i * sizeof(T), sizeof(T));
  return value;
}

bool IsFloating(DataType dtype) {
  return dtype == DataType::kFloat16 || dtype == DataType::kFloat32 || dtype == DataType::kFloat64;
}

double NumberAt(const Array& array, size_t i) {
  switch (array.dtype) {
    case DataType::kFloat16:
      return static_cast<double>(numeric::HalfToFloat(At<uint16_t>(array, i)));
    case DataType::kFloat32:
      return static_cast<double>(At<float>(array, i));
    case DataType::kFloat64:
      return At<double>(array, i);
    case DataType::kInt8:
      return At<int8_t>(array, i);
    case DataType::kInt16:
      return At<int16_t>(array, i);
    case DataType::kInt32:
      return At<int32_t>(array, i);
    case DataType::kInt64:
      return static_cast<double>(At<int64_t>(array, i));
    case DataType::kUInt16:
      return At<uint16_t>(array, i);
    case DataType::kUInt32:
      return At<uint32_t>(array, i);
    case DataType::kUInt64:
      return static_cast<double>(At<uint64_t>(array, i));
    default:
      return At<uint8_t>(array, i);
  }
}

int64_t IntegerAt(const Array& array, size_t i) {
  if (array.dtype == DataType::kInt64) return At<int64_t>(array, i);
  if (array.dtype == DataType::kUInt64)
    return static_cast<int64_t>(std::min<uint64_t>(
        At<uint64_t>(array, i), static_cast<uint64_t>(std::numeric_limits<int64_t>::max())));
  return static_cast<int64_t>(NumberAt(array, i));
}

struct IntegerRange {
  int64_t least = 0, greatest = 0;
};

IntegerRange RangeOf(DataType dtype) {
  if (dtype == DataType::kBool) return {0, 1};
  const int bits = BitsOf(dtype);
  const DataTypeInfo* info = FindDataType(dtype);
  if (info->is_signed) return {-(int64_t{1} << (bits - 1)), (int64_t{1} << (bits - 1)) - 1};
  return {0, (int64_t{1} << bits) - 1};
}

}  // namespace

int InputSpec::channels() const {
  return feature.colors == Feature::Colors::kRgb || feature.colors == Feature::Colors::kBgr ? 3 : 1;
}

const InputSpec* Target::Find(std::string_view name) const {
  for (const InputSpec& input : inputs)
    if (input.name == name) return &input;
  return nullptr;
}

Result<Target> FindTarget(Package& package, const std::string& function, Diagnostics& diagnostics) {
  const std::string place = package.path().string();
  std::vector<Model*> programs;
  std::vector<std::string> others;
  const auto visit = [&](auto&& self, Model& model, const std::string& name) -> void {
    if (model.program) programs.push_back(&model);
    if (!model.program && model.members.empty())
      others.push_back(name.empty() ? model.kind : fmt::format("{} '{}'", model.kind, name));
    for (size_t i = 0; i < model.members.size(); ++i)
      self(self, model.members[i],
           i < model.member_names.size() && !model.member_names[i].empty() ? model.member_names[i]
                                                                           : fmt::format("{}", i));
  };
  visit(visit, package.model(), "");
  if (programs.size() != 1)
    return Error{
        ErrorKind::kBadInput,
        fmt::format(
            "{}: has {} ML Programs, expected exactly one to run{}", place, programs.size(),
            others.empty() ? std::string() : fmt::format(" (it has {})", fmt::join(others, ", ")))};
  Model& model = *programs[0];
  if (!others.empty())
    diagnostics.Note(fmt::format("{}: of this pipeline its ML Program runs; not run: {}", place,
                                 fmt::join(others, ", ")));

  Target target;
  target.place = place;
  target.program = &*model.program;
  const auto& functions = model.program->functions;
  target.function = !function.empty()                 ? function
                    : !model.default_function.empty() ? model.default_function
                    : functions.size() == 1           ? functions.begin()->first
                                                      : "main";
  const auto found = functions.find(target.function);
  if (found == functions.end()) {
    std::vector<std::string> names;
    for (const auto& [name, other] : functions) names.push_back(name);
    return Error{ErrorKind::kUsage, fmt::format("{}: there is no function '{}', expected one of {}",
                                                place, target.function, fmt::join(names, ", "))};
  }
  const FunctionInterface* interface = &model.interface;
  for (const FunctionInterface& one : model.functions)
    if (one.name == target.function) interface = &one;
  for (const NamedValueType& input : found->second.inputs) {
    if (input.type && input.type->kind == ValueType::Kind::kState) {
      target.has_states = true;
      continue;
    }
    InputSpec& spec = target.inputs.emplace_back();
    spec.name = input.name;
    for (const Feature& feature : interface->inputs)
      if (feature.name == input.name) spec.feature = feature;
    if (input.type && input.type->kind == ValueType::Kind::kTensor) {
      spec.dtype = Narrowed(input.type->tensor.dtype);
      const bool variadic =
          std::any_of(input.type->tensor.dimensions.begin(), input.type->tensor.dimensions.end(),
                      [](const Dimension& dimension) { return dimension.variadic; });
      if (input.type->tensor.rank >= 0 && !variadic)
        spec.rank = input.type->tensor.dimensions.size();
    }
    if (!exec::IsValueType(spec.dtype))
      return Error{ErrorKind::kBadInput,
                   fmt::format("{}: function '{}': input '{}' is {}, expected a tensor of numbers",
                               place, target.function, input.name,
                               input.type ? ToString(*input.type) : "of no type")};
  }
  return target;
}

std::optional<Shape> DefaultShape(const InputSpec& input) {
  const Feature& feature = input.feature;
  if (input.is_image()) return Shape{1, input.channels(), feature.size.height, feature.size.width};
  Shape shape = feature.shape;
  if (shape.empty() && !feature.shapes.empty()) shape = feature.shapes[0];
  if (shape.empty())
    for (const Feature::SizeRange& range : feature.ranges) shape.push_back(range.least);
  for (size_t d = 0; d < shape.size() && d < feature.ranges.size(); ++d)
    if (!Within(feature.ranges[d], shape[d])) shape[d] = feature.ranges[d].least;
  if (shape.empty() && input.rank != size_t{0}) return std::nullopt;
  if (!ElementCount(shape)) return std::nullopt;
  return shape;
}

bool TakesImageSize(const Feature& feature, int64_t width, int64_t height) {
  const auto same = [&](const Feature::ImageSize& size) {
    return size.width == width && size.height == height;
  };
  if (feature.width_range && feature.height_range)
    return Within(*feature.width_range, width) && Within(*feature.height_range, height);
  return same(feature.size) || std::any_of(feature.sizes.begin(), feature.sizes.end(), same);
}

Result<exec::Value> Bind(const InputSpec& input, const Array& array, const std::string& origin,
                         exec::Memory& memory) {
  const auto bad = [&](std::string_view what) {
    return Error{ErrorKind::kBadInput, fmt::format("input '{}': {}: {}", input.name, origin, what)};
  };
  if (!TakesShape(input, array.shape)) {
    const std::string expected =
        input.is_image()
            ? fmt::format("[1, {}, height, width] for {}", input.channels(), input.feature.type)
            : input.feature.type;
    const Shape row(array.shape.begin() + (array.shape.empty() ? 0 : 1), array.shape.end());
    Shape one = row;
    one.insert(one.begin(), 1);
    const char* hint = !array.shape.empty() && (TakesShape(input, row) || TakesShape(input, one))
                           ? " (--batched takes the first size as the number of samples)"
                           : "";
    return bad(fmt::format("is {} {}, expected {}{}", NameOf(array.dtype), ToString(array.shape),
                           expected, hint));
  }
  const size_t count = static_cast<size_t>(*ElementCount(array.shape));
  if (IsFloating(array.dtype) && !exec::IsFloat(input.dtype))
    return bad(fmt::format("holds {}, expected {}", NameOf(array.dtype), NameOf(input.dtype)));
  CMLC_ASSIGN_OR_RETURN(exec::Value value, exec::MakeTensor(input.dtype, array.shape, memory));
  std::byte* out = value.storage->data();
  if (array.dtype == input.dtype) {
    if (count != 0) std::memcpy(out, array.bytes.data(), array.bytes.size());
    return value;
  }
  if (input.dtype == DataType::kFloat32) {
    for (size_t i = 0; i < count; ++i) {
      const auto number = static_cast<float>(NumberAt(array, i));
      std::memcpy(out + i * sizeof number, &number, sizeof number);
    }
    return value;
  }
  if (input.dtype == DataType::kFloat16) {
    for (size_t i = 0; i < count; ++i) {
      const uint16_t half = numeric::DoubleToHalf(NumberAt(array, i));
      std::memcpy(out + i * sizeof half, &half, sizeof half);
    }
    return value;
  }
  const IntegerRange range = RangeOf(input.dtype);
  const size_t width =
      input.dtype == DataType::kBool ? 1 : static_cast<size_t>(BitsOf(input.dtype)) / 8;
  for (size_t i = 0; i < count; ++i) {
    const int64_t number = IntegerAt(array, i);
    if (number < range.least || number > range.greatest)
      return bad(
          fmt::format("element {} is {}, which {} cannot hold", i, number, NameOf(input.dtype)));
    std::memcpy(out + i * width, &number, width);  // little-endian
  }
  return value;
}

Result<std::map<std::string, exec::Value>> BindAll(const Target& target,
                                                   const std::map<std::string, Array>& arrays,
                                                   const std::string& origin,
                                                   exec::Memory& memory) {
  std::map<std::string, exec::Value> values;
  for (const InputSpec& input : target.inputs) {
    const auto found = arrays.find(input.name);
    if (found != arrays.end()) {
      CMLC_ASSIGN_OR_RETURN(values[input.name], Bind(input, found->second, origin, memory));
      continue;
    }
    const Feature& feature = input.feature;
    const std::optional<Shape> shape = DefaultShape(input);
    if (!feature.optional || !feature.default_value || !shape)
      return Error{ErrorKind::kUsage,
                   fmt::format("{}: input '{}' ({}) is missing{}", target.place, input.name,
                               feature.type.empty() ? NameOf(input.dtype) : feature.type,
                               feature.optional ? ", and has no default value" : "")};
    const bool whole = *feature.default_value == std::rint(*feature.default_value) &&
                       std::fabs(*feature.default_value) < 1e18;
    Array array;
    array.shape = *shape;
    array.dtype = whole ? DataType::kInt64 : DataType::kFloat64;
    const auto integer = whole ? static_cast<int64_t>(*feature.default_value) : 0;
    const uint64_t count = *ElementCount(*shape);
    if (count > (uint64_t{1} << 31))
      return Error{ErrorKind::kBadInput, fmt::format("{}: input '{}': its default has {} elements",
                                                     target.place, input.name, count)};
    array.bytes.resize(static_cast<size_t>(count) * 8);
    for (size_t i = 0; i < count; ++i)
      std::memcpy(array.bytes.data() + 8 * i,
                  whole ? static_cast<const void*>(&integer)
                        : static_cast<const void*>(&*feature.default_value),
                  8);
    CMLC_ASSIGN_OR_RETURN(values[input.name], Bind(input, array, "its default", memory));
  }
  return values;
}

}  // namespace cmlc::predict
