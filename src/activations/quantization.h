// The ops quantize and dequantize: making, reading and removing redundant ones.
#ifndef CMLC_ACTIVATIONS_QUANTIZATION_H_
#define CMLC_ACTIVATIONS_QUANTIZATION_H_

#include <functional>
#include <string>
#include <vector>

#include "activations/range.h"
#include "cmlc/model.h"
#include "cmlc/tensor_store.h"
#include "ir/graph_index.h"

namespace cmlc::activations {

// Gives names that no value of a program has: `name`, or with "_1", "_2", ... behind it.
using NameMaker = std::function<std::string(const std::string& name)>;

// Makes the operations that quantize and dequantize a value of type `type`: constants for scale,
// zero point (none if it is 0) and type, the quantize and the dequantize, whose output is the last
// operation's. The names are made of `name`. Zero point -128 of int8 becomes uint8 without one, and
// 128 of uint8 int8 without one: the same, and faster.
std::vector<Operation> MakePair(const std::string& name, const ValueType& type,
                                const Parameters& parameters, const NameMaker& new_name);

// Takes quantize and dequantize ops that change nothing out of a block and all blocks inside it,
// and puts others in the form that engines take best. Results stay the same but for (4), which
// rounds scales once more.
//   1. A dequantize followed by a quantize with the same scale, zero point and axis cancels:
//   readers
//      of the codes read the first ones. The dequantize stays where others read it.
//   2. A zero point of 0 goes; one of -128 (int8) or 128 (uint8) of a quantize and all dequantizes
//      that read it goes with the other signedness.
//   3. dequantize, reshape, quantize with the same scale and zero point is a reshape of the codes.
//   4. add and sub (or with a relu behind) between dequantizes and a quantize: the scale of one
//      operand becomes 1, those of the other and of the result are divided by it, if the type of
//      the scales can hold that. Only with `normalize_scales`.
//   5. A dequantize of a constant is a constexpr, in the form of `specification_version`.
// `inputs`: of the function. `notes`: what was done, a line each.
Status CleanUp(Block& block, const std::vector<NamedValueType>& inputs,
               int32_t specification_version, bool normalize_scales, TensorStore& tensors,
               const NameMaker& new_name, std::vector<std::string>& notes);

}  // namespace cmlc::activations

#endif  // CMLC_ACTIVATIONS_QUANTIZATION_H_
