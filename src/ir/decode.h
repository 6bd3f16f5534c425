// What a constant is worth to its consumer: the values behind a const, or behind one of the
// constexpr operations in which compressed weights are kept, or behind a chain of them.
//
//   iOS 16 forms    constexpr_affine_dequantize, constexpr_lut_to_dense, constexpr_sparse_to_dense,
//                   constexpr_cast; operands are attributes, indices and masks are packed bytes
//   iOS 18 forms    constexpr_blockwise_shift_scale, constexpr_lut_to_dense,
//                   constexpr_sparse_to_dense, constexpr_lut_to_sparse,
//                   constexpr_sparse_blockwise_shift_scale, constexpr_cast; operands are inputs, of
//                   real shapes and sub-byte types, and may come from another constexpr
//   NeuralNetworks  constexpr_scale_bias: data, scale, bias (see struct Network in cmlc/model.h)
//
// A decoder works on ranges: a weight of any size is decoded in pieces, and of its operands only
// what is small beside it (scales, LUTs) is kept in memory.
#ifndef CMLC_IR_DECODE_H_
#define CMLC_IR_DECODE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cmlc/model.h"
#include "cmlc/status.h"
#include "cmlc/tensor_store.h"
#include "ir/graph_index.h"

namespace cmlc {

// A tensor whose elements can be read as fp32, which holds every value of the types it can have
// (fp16, fp32, bf16 and integers of up to 16 bits) exactly.
class TensorReader {
 public:
  virtual ~TensorReader() = default;

  DataType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  uint64_t element_count() const { return element_count_; }

  // Reads elements [begin, begin + out.size()). Any thread may call it.
  virtual Status Read(uint64_t begin, std::span<float> out) const = 0;

 protected:
  TensorReader(DataType dtype, Shape shape);

 private:
  DataType dtype_;
  Shape shape_;
  uint64_t element_count_;
};

// A reader of output `output` of `op`, a const or a constexpr of a block that `index` covers.
// kBadInput, naming the operation, if it is malformed: operands missing, of a wrong type, shapes
// that do not fit together. The reader keeps references to `store`, not to `op` or `index`.
Result<std::unique_ptr<TensorReader>> MakeReader(const Operation& op, size_t output,
                                                 const GraphIndex& index, const TensorStore& store);

// Reads a whole tensor.
Result<std::vector<float>> ReadAll(const TensorReader& reader);

// The values of a constexpr's operands: from attributes or from inputs, wherever they are. Null if
// the operand is absent or not a literal.
const Value* FindOperand(const Operation& op, const std::string& parameter);

}  // namespace cmlc

#endif  // CMLC_IR_DECODE_H_
