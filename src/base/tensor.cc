#include "cmlc/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <limits>

#include "base/check.h"

namespace cmlc {
namespace {

// The two numberings (of MIL and of the weights file) are unrelated, and neither is in order of
// width: one explicit table, asked in both directions.
constexpr std::array kTypes = {
    DataTypeInfo{DataType::kUnused, "unused", 0, 0, false, false},
    DataTypeInfo{DataType::kBool, "bool", 8, 0, false, false},
    DataTypeInfo{DataType::kString, "string", 0, 0, false, false},
    DataTypeInfo{DataType::kFloat16, "fp16", 16, 1, true, true},
    DataTypeInfo{DataType::kFloat32, "fp32", 32, 2, true, true},
    DataTypeInfo{DataType::kFloat64, "fp64", 64, 0, true, true},
    DataTypeInfo{DataType::kBFloat16, "bf16", 16, 5, true, true},
    DataTypeInfo{DataType::kInt8, "int8", 8, 4, false, true},
    DataTypeInfo{DataType::kInt16, "int16", 16, 6, false, true},
    DataTypeInfo{DataType::kInt32, "int32", 32, 14, false, true},
    DataTypeInfo{DataType::kInt64, "int64", 64, 0, false, true},
    DataTypeInfo{DataType::kInt4, "int4", 4, 8, false, true},
    DataTypeInfo{DataType::kUInt8, "uint8", 8, 3, false, false},
    DataTypeInfo{DataType::kUInt16, "uint16", 16, 7, false, false},
    DataTypeInfo{DataType::kUInt32, "uint32", 32, 15, false, false},
    DataTypeInfo{DataType::kUInt64, "uint64", 64, 0, false, false},
    DataTypeInfo{DataType::kUInt4, "uint4", 4, 11, false, false},
    DataTypeInfo{DataType::kUInt2, "uint2", 2, 10, false, false},
    DataTypeInfo{DataType::kUInt1, "uint1", 1, 9, false, false},
    DataTypeInfo{DataType::kUInt6, "uint6", 6, 13, false, false},
    DataTypeInfo{DataType::kUInt3, "uint3", 3, 12, false, false},
    DataTypeInfo{DataType::kFloat8E4M3FN, "fp8e4m3fn", 8, 16, true, true},
    DataTypeInfo{DataType::kFloat8E5M2, "fp8e5m2", 8, 17, true, true},
    DataTypeInfo{DataType::kUInt5, "uint5", 5, 0, false, false},
    DataTypeInfo{DataType::kUInt7, "uint7", 7, 0, false, false},
};

}  // namespace

const DataTypeInfo* FindDataType(DataType type) {
  for (const DataTypeInfo& info : kTypes)
    if (info.type == type) return &info;
  return nullptr;
}

const DataTypeInfo* FindDataTypeByBlobCode(uint32_t blob_code) {
  if (blob_code == 0) return nullptr;
  for (const DataTypeInfo& info : kTypes)
    if (info.blob_code == blob_code) return &info;
  return nullptr;
}

std::string NameOf(DataType type) {
  const DataTypeInfo* info = FindDataType(type);
  return info != nullptr ? std::string(info->name)
                         : fmt::format("type {}", static_cast<int32_t>(type));
}

int BitsOf(DataType type) {
  const DataTypeInfo* info = FindDataType(type);
  return info != nullptr ? info->bits : 0;
}

bool IsWeightFloat(DataType type) {
  return type == DataType::kFloat16 || type == DataType::kFloat32;
}

DataType UnsignedOfBits(int bits) {
  for (const DataTypeInfo& info : kTypes)
    if (info.bits == bits && !info.is_float && !info.is_signed && info.type != DataType::kBool)
      return info.type;
  CMLC_CHECK(false);
}

std::optional<uint64_t> ElementCount(std::span<const int64_t> shape) {
  // A zero anywhere makes the count zero, but the other sizes must still be sane.
  uint64_t product = 1;
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0) return std::nullopt;
    if (size == 0) {
      empty = true;
      continue;
    }
    if (__builtin_mul_overflow(product, static_cast<uint64_t>(size), &product)) return std::nullopt;
  }
  if (product > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
  return empty ? 0 : product;
}

std::optional<uint64_t> PackedBytes(uint64_t element_count, int bits) {
  const auto total = static_cast<unsigned __int128>(element_count) * static_cast<unsigned>(bits);
  const auto bytes = (total + 7) / 8;
  if (bytes > static_cast<unsigned __int128>(std::numeric_limits<int64_t>::max()))
    return std::nullopt;
  return static_cast<uint64_t>(bytes);
}

std::string ToString(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace cmlc
