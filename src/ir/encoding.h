// How a weight is stored, taken apart. Every compressed form is a choice along three lines:
//
//   which elements are there     all, or those that a mask names (the others are zero)
//   how their values are kept    plain, as integer codes with scales, or as indices into LUTs
//   how LUT entries are kept     plain, or as integer codes with scales
//
// and for LUTs perhaps a scale behind the look-up. Passes turn one Encoding into another; which
// chain of constexpr operations says it on which system is decided here and nowhere else:
//
//   plain          const
//   codes          blockwise_shift_scale                          (iOS 16: affine_dequantize)
//   LUT            [shift_scale of the LUT ->] lut_to_dense [-> blockwise_shift_scale]
//   sparse         sparse_to_dense
//   sparse codes   sparse_blockwise_shift_scale -> sparse_to_dense
//   sparse LUT     [shift_scale of the LUT ->] lut_to_sparse [-> sparse_blockwise_shift_scale]
//                  -> sparse_to_dense
//
// Systems before iOS 26 dequantize a LUT before they look anything up; from iOS 26 on 8-bit
// codes are looked up and what comes out is dequantized.
#ifndef CMLC_IR_ENCODING_H_
#define CMLC_IR_ENCODING_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>

#include "cmlc/pass.h"
#include "cmlc/tensor_store.h"
#include "ir/graph_index.h"

namespace cmlc {

// One tensor of an encoding: a value of the program, or one that a pass makes.
struct Operand {
  DataType dtype = DataType::kUnused;
  Shape shape;
  std::variant<Value, std::string, TensorSource> content;
};

struct Encoding {
  DataType dtype = DataType::kUnused;  // of the weight's values
  Shape shape;

  std::optional<Operand> mask;  // uint1, of `shape`; of the vectors' shape if entries are vectors
  uint64_t kept = 0;            // elements of `data` behind a mask

  Operand data;                   // plain values, codes or indices; a vector behind a mask
  std::optional<Operand> scale;   // of `data`, or of what the LUT gives
  std::optional<Operand> offset;  // of the same shape
  std::optional<Operand> bias;    // in a NeuralNetwork, in place of an offset: code * scale + bias
  std::optional<Operand> lut;     // [blocks..., entries, width]
  int64_t vector_axis = 0;        // along which entries of width > 1 lie
  std::optional<Operand> lut_scale;  // [blocks..., 1, 1]
  std::optional<Operand> lut_offset;

  bool sparse() const { return mask.has_value(); }
  bool palettized() const { return lut.has_value(); }
  bool quantized() const { return !palettized() && scale.has_value(); }
  // Values that an index stands for. The LUT of iOS 16 has one axis, that of its entries.
  int64_t width() const {
    return palettized() && lut->shape.size() == shape.size() + 2 ? lut->shape.back() : 1;
  }
};

// The encoding that a constexpr is the end of. Nothing if it is a chain of another kind, or not
// well-formed (which its reader says better). Of the iOS 16 forms only the outline is given: which
// members are there.
std::optional<Encoding> ParseEncoding(const Definition& definition, const GraphIndex& index,
                                      const TensorStore& store);

// The operations that stand for an encoding under a specification version. Of a version below
// iOS 18 the encoding must be one that it knows: dense codes with one scale or one for each channel
// of an axis, dense with one scalar LUT, or sparse and plain. In a NeuralNetwork it is plain, codes
// with a bias, or dense with one scalar LUT.
Replacement MakeReplacement(Encoding encoding, int32_t specification_version, std::string form,
                            std::function<Quality()> quality,
                            ModelFormat format = ModelFormat::kProgram);

// fp16 in place of fp32: a const of a NeuralNetwork; in an ML Program, where the type of a value is
// that of the arithmetic it takes part in, a const that is cast.
Replacement MakeHalfReplacement(TensorSource halves, const Shape& shape, ModelFormat format,
                                std::function<Quality()> quality);

// Packed bytes [begin, begin + size) of an operand that is a value of the program.
Result<TensorView> ViewOperand(const Operand& operand, const TensorStore& store, uint64_t begin,
                               uint64_t size);
// All elements of one as fp32. Integers are exact.
Result<std::vector<float>> ReadOperand(const Operand& operand, const TensorStore& store);

}  // namespace cmlc

#endif  // CMLC_IR_ENCODING_H_
