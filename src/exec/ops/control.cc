// Control flow, lists and states.
//
// A list is a value like any other: writing gives a new list, which shares the tensors of the old
// one. Loop variables are handed from iteration to iteration by moving them, so a list that only
// the loop holds is changed in place.
#include <fmt/format.h>

#include "exec/ops/tables.h"

namespace cmlc::exec {
namespace {

Status Identity(OpContext& op) {
  op.Set(op.Take("x"));
  return Ok();
}

Result<bool> Truth(const OpContext& op, const Value& value, std::string_view what) {
  if (!value.is_tensor() || value.element_count() != 1 || IsFloat(value.dtype))
    return op.Bad(fmt::format("{}: expected one bool, got {}", what, ToString(value)));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> values, ReadInts(value));
  return values[0] != 0;
}

Status Cond(OpContext& op) {
  if (op.block_count() != 2)
    return op.Bad(fmt::format("expected two blocks, got {}", op.block_count()));
  CMLC_ASSIGN_OR_RETURN(const bool taken, Truth(op, op.Input("pred"), "pred"));
  CMLC_ASSIGN_OR_RETURN(std::vector<Value> outputs, op.RunBlock(taken ? 0 : 1, {}));
  if (outputs.size() != op.output_count())
    return op.Bad(
        fmt::format("its block gives {} values, expected {}", outputs.size(), op.output_count()));
  for (size_t i = 0; i < outputs.size(); ++i) op.Set(i, std::move(outputs[i]));
  return Ok();
}

Status WhileLoop(OpContext& op) {
  if (op.block_count() != 2)
    return op.Bad(fmt::format("expected a condition and a body, got {} blocks", op.block_count()));
  std::vector<Value> variables;
  const size_t count = op.Count("loop_vars");
  if (count != op.output_count())
    return op.Bad(fmt::format("has {} loop variables and {} outputs", count, op.output_count()));
  for (size_t i = 0; i < count; ++i) variables.push_back(op.Take("loop_vars", i));
  while (true) {
    CMLC_ASSIGN_OR_RETURN(const std::vector<Value> condition, op.RunBlock(0, variables));
    if (condition.size() != 1)
      return op.Bad(fmt::format("its condition gives {} values, expected one", condition.size()));
    CMLC_ASSIGN_OR_RETURN(const bool go_on, Truth(op, condition[0], "condition"));
    if (!go_on) break;
    CMLC_ASSIGN_OR_RETURN(variables, op.RunBlock(1, std::move(variables)));
    if (variables.size() != count)
      return op.Bad(fmt::format("its body gives {} values, expected {}", variables.size(), count));
  }
  for (size_t i = 0; i < count; ++i) op.Set(i, std::move(variables[i]));
  return Ok();
}

constexpr OpKernel kOps[] = {
    {"identity", Identity},
    {"cond", Cond},
    {"while_loop", WhileLoop},
};

}  // namespace

std::span<const OpKernel> ControlOps() { return kOps; }

}  // namespace cmlc::exec
