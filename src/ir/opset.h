// Opsets: the versions of MIL's operations, one for each OS release, and how a program is raised
// from one to a higher one.
//
// Most operations mean the same in every opset, or only came to accept more. The few that changed
// stand in a table (opset.cc), each with the rewrite that keeps the results the same, or the reason
// why there is none: then raising is refused by name. An operation that the table does not know is
// refused as well, because nobody can say what it means one opset later.
#ifndef CMLC_IR_OPSET_H_
#define CMLC_IR_OPSET_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cmlc/model.h"
#include "cmlc/status.h"
#include "cmlc/tensor_store.h"

namespace cmlc {

// One row per OS release that matters to an ML program.
struct OpsetInfo {
  int32_t spec_version;      // of the model message: 6 ... 10
  std::string_view opset;    // "CoreML8": in Function.opset
  std::string_view target;   // "iOS18": what a user calls it
  std::string_view systems;  // "iOS 18, macOS 15, ...": the first releases that run it
};

// In ascending order.
std::span<const OpsetInfo> Opsets();

// Null if there is no such row.
const OpsetInfo* FindOpset(int32_t spec_version);
const OpsetInfo* FindOpsetByTarget(std::string_view target);

// The first systems that run models of a specification version, of versions before ML Programs
// (1 to 5) as well; empty if it is not known.
std::string_view SystemsOf(int32_t spec_version);

// What a rewrite did, for the report.
struct RaiseNote {
  std::string op;    // the operation's own name
  std::string what;  // "clip: alpha 2 is not less than beta 1: now maximum, then minimum"
};

// Raises a program in place from specification version `from` to `to`: the opset and the key of
// every function, and every operation (nested ones included) that means something else there. Does
// nothing if `from` >= `to`. Tensors of the program must still be those of the input, so this comes
// before any pass.
//
// kUsage if it cannot be done with equal results, with the function, the operation, the reason and
// what would help; kBadInput if the program is not what its version says. After an error the
// program may be half changed and must be dropped.
Status RaiseProgram(Program& program, TensorStore& tensors, int32_t from, int32_t to,
                    std::vector<RaiseNote>& notes);

}  // namespace cmlc

#endif  // CMLC_IR_OPSET_H_
