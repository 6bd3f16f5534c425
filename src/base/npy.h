// NumPy's .npy files: arrays of floating-point numbers, integers and booleans.
#ifndef CMLC_BASE_NPY_H_
#define CMLC_BASE_NPY_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/byte_source.h"
#include "cmlc/status.h"
#include "cmlc/tensor.h"

namespace cmlc {

// An array as it lies in memory.
struct Array {
  DataType dtype = DataType::kUnused;  // fp16 to fp64, int8 to int64, uint8 to uint64, bool
  Shape shape;
  std::string bytes;  // row-major, little-endian; a bool is a byte, 0 or 1
};

// Reads an array, or one element of its first axis at a time, so that a file of many samples need
// not fit in memory.
class NpyReader {
 public:
  // `name` is what messages start with. kBadInput if it is no .npy file, is cut short, or holds
  // something else than the types of Array; any version, order and byte order will do.
  static Result<NpyReader> Open(std::unique_ptr<ByteSource> source, std::string name);
  static Result<NpyReader> Open(const std::filesystem::path& path);

  DataType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }

  Result<Array> ReadAll();
  // Element `row` of the first axis, which the result has not; there must be one.
  Result<Array> ReadRow(uint64_t row);

 private:
  NpyReader() = default;
  Status ReadElements(uint64_t first, uint64_t count, std::string& bytes);
  Error Bad(std::string_view what) const;

  std::unique_ptr<ByteSource> source_;
  std::string name_;
  DataType dtype_ = DataType::kUnused;
  Shape shape_;
  size_t width_ = 0;  // bytes of one element
  bool big_endian_ = false;
  bool fortran_ = false;
  uint64_t start_ = 0;    // of the elements
  std::string reversed_;  // in Fortran order: all elements, row-major
  bool have_reversed_ = false;
};

// The bytes of an .npy file of version 1 up to its elements, which follow in row-major order.
// `descr`: NumPy's name of their type, like "<f4".
std::string NpyHeader(std::string_view descr, const Shape& shape);
// That name, for the types of Array.
std::string NpyDescr(DataType dtype);

struct NpyArray {
  Shape shape;
  std::vector<double> values;  // row-major
};

// A whole array as fp64. kBadInput as above.
Result<NpyArray> ReadNpy(const std::filesystem::path& path);

}  // namespace cmlc

#endif  // CMLC_BASE_NPY_H_
