// Conversions between types: cast, quantize and dequantize; and classify, which turns scores into a
// label and a dictionary.
#include <fmt/format.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "exec/ops/broadcast.h"
#include "exec/ops/tables.h"

namespace cmlc::exec {
namespace {

// --- cast ---------------------------------------------------------------------------------------

struct NamedType {
  std::string_view name;
  DataType dtype;
};
constexpr NamedType kCastTypes[] = {
    {"fp16", DataType::kFloat16}, {"fp32", DataType::kFloat32},   {"int32", DataType::kInt32},
    {"bool", DataType::kBool},    {"int8", DataType::kInt8},      {"uint8", DataType::kUInt8},
    {"int16", DataType::kInt16},  {"uint16", DataType::kUInt16},  {"uint32", DataType::kUInt32},
    {"fp64", DataType::kFloat32}, {"double", DataType::kFloat32},  // 64-bit types are held
    {"int64", DataType::kInt32},                                   // as 32-bit ones
};

// Toward zero; what lies beyond the range becomes its end, NaN zero. Gives how many did.
template <typename T>
uint64_t CutToInts(const float* in, size_t count, T* out) {
  // Ends as doubles, where those of 32 bits are exact.
  constexpr double kLeast = std::numeric_limits<T>::min();
  constexpr double kMost = std::numeric_limits<T>::max();
  uint64_t cut = 0;
  for (size_t i = 0; i < count; ++i) {
    const double whole = std::trunc(static_cast<double>(in[i]));
    const double clipped = whole < kLeast ? kLeast : whole > kMost ? kMost : whole;
    const bool is_nan = std::isnan(whole);
    cut += (is_nan || clipped != whole) ? 1 : 0;
    out[i] = is_nan ? T{0} : static_cast<T>(clipped);
  }
  return cut;
}

uint64_t StoreCast(const float* in, size_t count, Value& out, uint64_t begin) {
  const auto cut = [&]<typename T>(T) {
    return CutToInts<T>(in, count, OpContext::Data<T>(out) + begin);
  };
  switch (out.dtype) {
    case DataType::kFloat16:
    case DataType::kFloat32:
      StoreFloats(in, count, out, begin);
      return 0;
    case DataType::kBool:
      for (size_t i = 0; i < count; ++i)
        OpContext::Data<uint8_t>(out)[begin + i] = in[i] != 0 ? 1 : 0;
      return 0;
    case DataType::kInt8:
      return cut(int8_t{});
    case DataType::kUInt8:
      return cut(uint8_t{});
    case DataType::kInt16:
      return cut(int16_t{});
    case DataType::kUInt16:
      return cut(uint16_t{});
    case DataType::kInt32:
      return cut(int32_t{});
    default:
      return cut(uint32_t{});
  }
}

template <typename T>
Status CastFrom(OpContext& op, const Value& x, DataType dtype) {
  const Stretch stretch(x.shape, x.shape);
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(dtype, x.shape));
  std::atomic<uint64_t> cut = 0;
  op.ForRanges(out.element_count(), kPieceGrain, [&](uint64_t begin, uint64_t end) {
    Reader<T> reader(x, stretch);
    for (uint64_t at = begin; at < end; at += kPiece) {
      const auto count = static_cast<size_t>(std::min(kPiece, end - at));
      if constexpr (std::is_same_v<T, float>)
        cut += StoreCast(reader.Get(at, count), count, out, at);
      else
        StoreInts(reader.Get(at, count), count, out, at);
    }
  });
  op.CountNote(fmt::format("values beyond the range of {} were cut", NameOf(dtype)), cut);
  op.Set(std::move(out));
  return Ok();
}

Status Cast(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::string name, op.String("dtype"));
  const auto* found = std::find_if(std::begin(kCastTypes), std::end(kCastTypes),
                                   [&](const NamedType& type) { return type.name == name; });
  if (found == std::end(kCastTypes))
    return op.Bad(fmt::format(
        "dtype: expected fp16, fp32, int8, uint8, int16, uint16, int32 or bool, got '{}'", name));
  CMLC_ASSIGN_OR_RETURN(Value x, TakeResident(op, "x"));
  if (x.dtype == found->dtype) {
    op.Set(std::move(x));
    return Ok();
  }
  // fp32 holds integers up to 2^24 only, but all that fp16 can have.
  if (IsFloat(x.dtype) || IsFloat(found->dtype)) return CastFrom<float>(op, x, found->dtype);
  return CastFrom<int64_t>(op, x, found->dtype);
}

// --- quantize and dequantize --------------------------------------------------------------------

struct Quantization {
  Value scale;
  std::optional<Value> zero_point;
};

// Scales and zero points, shaped to be stretched over the input.
Result<Quantization> ReadQuantization(OpContext& op, const Value& input) {
  Quantization q;
  CMLC_ASSIGN_OR_RETURN(q.scale, op.ResidentInput("scale"));
  if (!IsFloat(q.scale.dtype))
    return op.Bad("scale: expected fp16 or fp32, got " + ToString(q.scale));
  if (op.Has("zero_point")) {
    CMLC_ASSIGN_OR_RETURN(q.zero_point, op.ResidentInput("zero_point"));
    if (!IsInteger(q.zero_point->dtype))
      return op.Bad("zero_point: expected integers, got " + ToString(*q.zero_point));
    if (q.zero_point->shape != q.scale.shape)
      return op.Bad(fmt::format("zero_point: expected the shape of scale, {}, got {}",
                                ToString(q.scale.shape), ToString(q.zero_point->shape)));
  }
  if (q.scale.shape.empty()) return q;
  if (q.scale.shape.size() > 1)
    return op.Bad("scale: expected a scalar or a vector, got " + ToString(q.scale));
  if (!op.Has("axis")) return op.Bad("axis: is missing, and scale is a vector");
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", input.shape.size()));
  if (q.scale.shape[0] != input.shape[axis])
    return op.Bad(
        fmt::format("scale: expected {} numbers, one for each position of axis {}, got {}",
                    input.shape[axis], axis, q.scale.shape[0]));
  Shape shape(input.shape.size(), 1);
  shape[axis] = input.shape[axis];
  q.scale.shape = shape;
  if (q.zero_point) q.zero_point->shape = shape;
  return q;
}

// Whole numbers within +-2^22 get their ties-to-even rounding from an addition.
constexpr float kWhole = 12582912.0f;

void QuantizePiece(const float* in, const float* scale, const float* zero_point, float least,
                   size_t count, uint8_t* out) {
  for (size_t i = 0; i < count; ++i) {
    const float exact = in[i] / scale[i];
    // Far enough outside of any range of 8 bits; NaN is treated as zero.
    const float above = exact > -1024 ? exact : exact <= -1024 ? -1024 : 0;
    const float whole = ((above < 1024 ? above : 1024) + kWhole) - kWhole;
    const float moved = whole + zero_point[i] - least;
    const float clipped = moved < 0 ? 0 : moved > 255 ? 255 : moved;
    out[i] = static_cast<uint8_t>(static_cast<int>(clipped + least));
  }
}

Status Quantize(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::string name, op.String("output_dtype"));
  if (name != "int8" && name != "uint8")
    return op.Bad(fmt::format("output_dtype: expected int8 or uint8, got '{}'", name));
  const DataType dtype = name == "int8" ? DataType::kInt8 : DataType::kUInt8;
  CMLC_ASSIGN_OR_RETURN(const Value input, op.ResidentInput("input"));
  if (!IsFloat(input.dtype)) return op.Bad("input: expected fp16 or fp32, got " + ToString(input));
  CMLC_ASSIGN_OR_RETURN(const Quantization q, ReadQuantization(op, input));
  if (q.zero_point && q.zero_point->dtype != dtype)
    return op.Bad(fmt::format("zero_point: expected {}, the output_dtype, got {}", name,
                              ToString(*q.zero_point)));
  CMLC_ASSIGN_OR_RETURN(const FloatView scales, op.Floats(q.scale));
  for (const float scale : scales.span())
    if (!(scale != 0) || !std::isfinite(scale))
      return op.Bad(fmt::format("scale: expected finite numbers other than 0, got {}", scale));
  const Stretch stretch(input.shape, input.shape);
  const Stretch stretch_scale(q.scale.shape, input.shape);
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(dtype, input.shape));
  const float least = dtype == DataType::kInt8 ? -128 : 0;
  op.ForRanges(out.element_count(), kPieceGrain, [&](uint64_t begin, uint64_t end) {
    Reader<float> read_input(input, stretch);
    Reader<float> read_scale(q.scale, stretch_scale);
    // The zero points are zeros where there are none.
    Reader<float> read_zero_point(q.zero_point ? *q.zero_point : q.scale, stretch_scale);
    alignas(64) static constexpr float kZeros[kPiece] = {};
    for (uint64_t at = begin; at < end; at += kPiece) {
      const auto count = static_cast<size_t>(std::min(kPiece, end - at));
      QuantizePiece(read_input.Get(at, count), read_scale.Get(at, count),
                    q.zero_point ? read_zero_point.Get(at, count) : kZeros, least, count,
                    OpContext::Data<uint8_t>(out) + at);
    }
  });
  op.Set(std::move(out));
  return Ok();
}

Status Dequantize(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value input, op.ResidentInput("input"));
  if (input.dtype != DataType::kInt8 && input.dtype != DataType::kUInt8)
    return op.Bad("input: expected int8 or uint8, got " + ToString(input));
  CMLC_ASSIGN_OR_RETURN(const Quantization q, ReadQuantization(op, input));
  if (q.zero_point && q.zero_point->dtype != input.dtype)
    return op.Bad(fmt::format("zero_point: expected {}, the type of input, got {}",
                              NameOf(input.dtype), ToString(*q.zero_point)));
  const Stretch stretch(input.shape, input.shape);
  const Stretch stretch_scale(q.scale.shape, input.shape);
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(q.scale.dtype, input.shape));
  op.ForRanges(out.element_count(), kPieceGrain, [&](uint64_t begin, uint64_t end) {
    Reader<float> read_input(input, stretch);
    Reader<float> read_scale(q.scale, stretch_scale);
    Reader<float> read_zero_point(q.zero_point ? *q.zero_point : q.scale, stretch_scale);
    alignas(64) float buffer[kPiece];
    for (uint64_t at = begin; at < end; at += kPiece) {
      const auto count = static_cast<size_t>(std::min(kPiece, end - at));
      const float* codes = read_input.Get(at, count);
      if (q.zero_point) {
        const float* zero_points = read_zero_point.Get(at, count);
        for (size_t i = 0; i < count; ++i) buffer[i] = codes[i] - zero_points[i];
        codes = buffer;
      }
      const float* scales = read_scale.Get(at, count);
      for (size_t i = 0; i < count; ++i) buffer[i] = codes[i] * scales[i];
      StoreFloats(buffer, count, out, at);
    }
  });
  op.Set(std::move(out));
  return Ok();
}

// --- classify -----------------------------------------------------------------------------------

// The label with the largest score, the first of equal ones, and a dictionary of all. A NaN is
// larger than any number, as it is for an argmax: it shows.
Status Classify(OpContext& op) {
  if (op.output_count() != 2)
    return op.Bad(
        fmt::format("expected two outputs, a label and a dictionary, got {}", op.output_count()));
  CMLC_ASSIGN_OR_RETURN(const FloatView scores, op.Floats("probabilities"));
  const Value& classes = op.Input("classes");
  const bool named = classes.kind == Value::Kind::kStrings;
  if (!named && !(classes.is_tensor() && IsInteger(classes.dtype)))
    return op.Bad("classes: expected strings or integers, got " + ToString(classes));
  if (classes.element_count() != scores.size())
    return op.Bad(fmt::format("classes: expected {} labels, one for each probability, got {}",
                              scores.size(), classes.element_count()));
  if (scores.size() == 0) return op.Bad("probabilities: expected one class or more, got none");
  size_t best = 0;
  for (size_t i = 1; i < scores.size() && !std::isnan(scores[best]); ++i)
    if (scores[i] > scores[best] || std::isnan(scores[i])) best = i;
  Value dictionary;
  Shape shape = {static_cast<int64_t>(scores.size())};
  CMLC_ASSIGN_OR_RETURN(dictionary, op.Make(DataType::kFloat32, shape));
  std::memcpy(dictionary.storage->data(), scores.data(), scores.span().size_bytes());
  dictionary.kind = Value::Kind::kDictionary;
  Status status = Ok();
  if (named) {
    dictionary.strings = classes.strings;
    op.Set(0, MakeStrings({}, {(*classes.strings)[best]}));
  } else {
    CMLC_ASSIGN_OR_RETURN(std::vector<int64_t> keys, ReadInts(classes));
    op.SetInts({keys[best]}, {}, DataType::kInt32, status);
    dictionary.keys = std::make_shared<const std::vector<int64_t>>(std::move(keys));
  }
  op.Set(1, std::move(dictionary));
  return status;
}

constexpr OpKernel kOps[] = {
    {"cast", Cast},
    {"classify", Classify},
    {"dequantize", Dequantize},
    {"quantize", Quantize},
};

}  // namespace

std::span<const OpKernel> ConversionOps() { return kOps; }

}  // namespace cmlc::exec
