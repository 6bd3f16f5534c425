// What a name stands for while a program runs.
//
// A value never changes once it has a name; copying one copies pointers. fp16 is stored as fp16.
// Types narrower than a byte exist behind constexpr ops only and never as values of a program;
// booleans take a byte each.
#ifndef CMLC_EXEC_VALUE_H_
#define CMLC_EXEC_VALUE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cmlc/status.h"
#include "cmlc/tensor.h"
#include "exec/memory.h"
#include "ir/decode.h"

namespace cmlc::exec {

using cmlc::ToString;

struct List;

struct Value {
  enum class Kind {
    kNone,
    kTensor,      // dtype, shape, and `storage` or `weight`
    kStrings,     // shape, strings
    kList,        // list
    kDictionary,  // strings or integers as keys (`strings`; `keys`), storage: one number for each
    kState,       // state: the name of what it refers to
  };
  Kind kind = Kind::kNone;
  DataType dtype = DataType::kUnused;
  Shape shape;
  std::shared_ptr<Storage> storage;            // row-major elements
  std::shared_ptr<const TensorReader> weight;  // a constant that is decoded where it is read
  std::shared_ptr<const std::vector<std::string>> strings;
  std::shared_ptr<const std::vector<int64_t>> keys;
  std::shared_ptr<const List> list;
  std::string state;

  bool is_tensor() const { return kind == Kind::kTensor; }
  uint64_t element_count() const { return *ElementCount(shape); }

  // The elements of a tensor that has storage; `T` must have the width of its type.
  template <typename T>
  std::span<const T> As() const {
    const std::span<const std::byte> bytes = storage->bytes();
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
};

// Tensors of one type, one after the other.
struct List {
  DataType dtype = DataType::kUnused;  // of the elements; kUnused: any
  std::optional<Shape> shape;          // of each element, -1 for sizes that may be any; none: any
  bool grows = true;                   // when an entry past its end is written
  std::vector<Value> entries;          // kNone: never written
};

// fp16, fp32, bool, and integers of 8, 16 and 32 bits: the types that values of programs have.
bool IsValueType(DataType dtype);
bool IsFloat(DataType dtype);    // fp16 or fp32
bool IsInteger(DataType dtype);  // of 8, 16 or 32 bits; bool is none

Value MakeStrings(Shape shape, std::vector<std::string> strings);

// "fp16 [1, 3]", "list of 4", "state 'kv'"
std::string ToString(const Value& value);

// The elements of a tensor as fp32 (integers beyond 2^24 are rounded), whatever its type. `begin`
// and the length of `out` lie within it.
Status ReadFloats(const Value& value, uint64_t begin, std::span<float> out);

// The elements of a tensor of integers or booleans.
Result<std::vector<int64_t>> ReadInts(const Value& value);

// The same value as a tensor with storage: one that is a weight is decoded.
Result<Value> Resident(const Value& value, Memory& memory);

// A tensor of its own storage, with elements to be written to `storage->data()`.
Result<Value> MakeTensor(DataType dtype, Shape shape, Memory& memory);

}  // namespace cmlc::exec

#endif  // CMLC_EXEC_VALUE_H_
