// Element types and shapes of tensors.
#ifndef CMLC_TENSOR_H_
#define CMLC_TENSOR_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cmlc {

// The numbers are those of the file format (MIL). Values that are not listed are carried along.
enum class DataType : int32_t {
  kUnused = 0,
  kBool = 1,
  kString = 2,
  kFloat16 = 10,
  kFloat32 = 11,
  kFloat64 = 12,
  kBFloat16 = 13,
  kInt8 = 21,
  kInt16 = 22,
  kInt32 = 23,
  kInt64 = 24,
  kInt4 = 25,
  kUInt8 = 31,
  kUInt16 = 32,
  kUInt32 = 33,
  kUInt64 = 34,
  kUInt4 = 35,
  kUInt2 = 36,
  kUInt1 = 37,
  kUInt6 = 38,
  kUInt3 = 39,
  kFloat8E4M3FN = 40,
  kFloat8E5M2 = 41,
  // Codes of NeuralNetworks alone; ML Programs have no such types, and no numbers for them.
  kUInt5 = -5,
  kUInt7 = -7,
};

// What is known of an element type.
struct DataTypeInfo {
  DataType type;
  std::string_view name;  // "fp16", "uint4", ...
  int bits;               // of one element as stored; 0 for strings and the unused type
  uint32_t blob_code;     // its number in a weights file; 0 if it cannot be stored there
  bool is_float;
  bool is_signed;
};

// Null for a number that this version does not know.
const DataTypeInfo* FindDataType(DataType type);
const DataTypeInfo* FindDataTypeByBlobCode(uint32_t blob_code);

// "fp16"; "type 77" for an unknown number.
std::string NameOf(DataType type);

// Bits of one stored element, 0 if the type has no fixed width or is not known.
int BitsOf(DataType type);

// fp16 or fp32: the types that a weight is compressed from and decompressed to.
bool IsWeightFloat(DataType type);

// The unsigned integer type of 1 to 8 bits.
DataType UnsignedOfBits(int bits);

// Sizes of the axes, outermost first, row-major. An empty shape is a scalar.
using Shape = std::vector<int64_t>;

// Number of elements, or nothing if it does not fit in 63 bits or a size is negative.
std::optional<uint64_t> ElementCount(std::span<const int64_t> shape);

// Bytes that `element_count` elements of `bits` bits take, the last byte padded; nothing if it
// does not fit in 63 bits.
std::optional<uint64_t> PackedBytes(uint64_t element_count, int bits);

// "[32, 16, 3, 3]"
std::string ToString(std::span<const int64_t> shape);

}  // namespace cmlc

#endif  // CMLC_TENSOR_H_
