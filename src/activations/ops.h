// What quantizing activations has to know of ops.
#ifndef CMLC_ACTIVATIONS_OPS_H_
#define CMLC_ACTIVATIONS_OPS_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cmlc/model.h"
#include "ir/graph_index.h"

namespace cmlc::activations {

struct QuantizableOp {
  enum class Rule { kAny, kAll };
  std::string_view type;
  bool by_default = false;
  Rule rule = Rule::kAny;
  std::vector<std::string_view> parameters;
};

// All of ops.def, in its order.
std::span<const QuantizableOp> QuantizableOps();
// Null if an op's inputs are never quantized.
const QuantizableOp* FindQuantizable(std::string_view type);

// Activations that an engine computes together with the op before them: what is quantized behind
// such a pair is the activation's result. (sigmoid_hard is the name that coremltools' list misses.)
bool IsFusedActivation(std::string_view type);

// Whether an op's outputs hold nothing but numbers of its inputs, so that they can keep the codes:
// of concat all `values`, of the others `x`. A pad only if what it adds is zero, or from the edge.
bool OnlyMoves(const Operation& op, const Value* pad_mode, const Value* pad_constant);

// The constant that a parameter of an op is bound to, alone; null if it is none.
const Value* ConstantArgument(const GraphIndex& index, const Operation& op,
                              const std::string& parameter);

// Whether an op has weights: the layers that a network's first and last are counted by.
bool IsLayer(std::string_view type);

}  // namespace cmlc::activations

#endif  // CMLC_ACTIVATIONS_OPS_H_
