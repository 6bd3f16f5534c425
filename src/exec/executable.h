// A function of a program, made ready to run, and runs of it.
//
// Preparation resolves every name to a slot, checks that every op is known, can be run and has its
// parameters, opens constants (bytes stay in the weights file until something reads them;
// compressed weights stay compressed), leaves out what nothing wanted depends on, and notes where
// each value is read for the last time. All that can be said to be wrong with a program without
// running it is said here, before anything runs.
//
// A run walks the steps in program order. Nothing is fused or reordered: every value exists in the
// form in which the program describes it, so an Observer can look at it. A value is let go of after
// its last use, so the memory that a run takes is about the largest set of values that live at the
// same time.
#ifndef CMLC_EXEC_EXECUTABLE_H_
#define CMLC_EXEC_EXECUTABLE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "cmlc/model.h"
#include "cmlc/status.h"
#include "cmlc/tensor_store.h"
#include "exec/memory.h"
#include "exec/op.h"
#include "exec/value.h"
#include "ir/decode.h"
#include "ir/graph_index.h"

namespace cmlc::exec {

// Sees values as they are made. Called in program order, on the thread that runs the program;
// copying a value keeps it. Inside loops it is called in every iteration.
class Observer {
 public:
  virtual ~Observer() = default;
  // Asked once for every operation, when a program is prepared: what an observer wants is computed
  // even where no output depends on it.
  virtual bool Wants(const Operation& op) const = 0;
  // The arguments by parameter; for variadic ones in their order.
  using Arguments = std::vector<std::pair<std::string_view, std::vector<const Value*>>>;
  virtual void Before(const Operation& op, const Arguments& arguments) {
    static_cast<void>(op), static_cast<void>(arguments);
  }
  virtual void After(const Operation& op, std::span<const Value> outputs) {
    static_cast<void>(op), static_cast<void>(outputs);
  }
};

// An op that cannot be run, and how often it is there.
struct Unsupported {
  std::string type;
  std::string reason;
  uint64_t count = 0;
};

using Slot = uint32_t;

struct StepArgument {
  std::string_view parameter;
  std::vector<Slot> slots;
};

struct Plan;

struct Step {
  const Operation* op = nullptr;
  const OpInfo* info = nullptr;
  std::vector<StepArgument> arguments;
  std::vector<Slot> outputs;
  std::vector<Plan> blocks;
  std::vector<Slot>
      dead;  // what nothing reads after this step, outputs that nothing reads included
  std::vector<Slot> captured;  // of outer values, what the blocks read
  bool observed = false;
};

struct Plan {
  std::vector<Slot> inputs;
  std::vector<Step> steps;
  std::vector<Slot> outputs;
};

class Executable {
 public:
  // `function` of `program`. The program and the store must outlive the result; so must `observer`,
  // which may be null. kBadInput if the program is malformed, or uses what is not run: then the
  // message names every such op with its count. `place` is what messages start with: the package.
  static Result<std::unique_ptr<Executable>> Prepare(Program& program, const std::string& function,
                                                     TensorStore& store, const std::string& place,
                                                     Observer* observer = nullptr);

  const Function& function() const { return *function_; }
  int opset() const { return opset_; }
  // The values that a run takes and gives, in the order of the function.
  const std::vector<NamedValueType>& inputs() const { return function_->inputs; }
  const std::vector<std::string>& outputs() const { return block_->outputs; }
  // States by name, with the types of what they hold.
  std::map<std::string, TensorType> States() const;
  // Constants of ops that are run, each once. For memory accounts and overrides.
  size_t step_count() const;
  const std::string& place() const { return place_; }

 private:
  friend class OpContext;
  friend class Runner;
  friend class Preparer;
  Executable() = default;

  std::string place_;
  std::string function_name_;
  const Function* function_ = nullptr;
  Block* block_ = nullptr;
  int opset_ = 0;
  std::unique_ptr<GraphIndex> index_;
  Plan plan_;
  Slot slot_count_ = 0;
  std::map<Slot, Value> constants_;
  Observer* observer_ = nullptr;
};

struct ExecutionOptions {
  uint64_t max_memory_bytes = 0;  // for values; 0: no limit
  uint64_t max_steps = 0;         // operations, and blocks, in one run; 0: no limit
  bool lenient_indices = false;  // out-of-range indices of gather and its like are cut, and counted
  uint64_t seed = 0;             // of random ops
};

// Runs of one executable, one after the other: samples. States live until ResetStates.
class Runner {
 public:
  Runner(const Executable& executable, ThreadPool& pool, const ExecutionOptions& options = {});
  ~Runner();

  // The arguments by the names of the function's inputs (states need none). Gives the outputs in
  // the order of Executable::outputs. kBadInput if an argument is missing or not of its type, or if
  // an op meets what it cannot work with: one line with the function, the op and the reason.
  Result<std::vector<Value>> Run(std::map<std::string, Value> arguments);

  void ResetStates();
  Memory& memory() { return memory_; }

  // What ops had to tell, like "cast 'y': 3 values beyond the range of int32 were cut", since the
  // last call.
  std::vector<std::string> TakeNotes();

 private:
  friend class OpContext;
  Result<std::vector<Value>> RunPlan(const Plan& plan, std::vector<Value> arguments);
  Status RunStep(const Step& step);
  Status CountStep();
  Status CheckOutput(const Step& step, size_t output) const;
  Value& slot(Slot slot) { return frame_[slot]; }

  const Executable& executable_;
  ThreadPool& pool_;
  ExecutionOptions options_;
  Memory memory_;
  std::vector<Value> frame_;  // by slot; constants are always there
  std::map<std::string, Value> states_;
  uint64_t steps_done_ = 0;
  uint64_t samples_ = 0;
  std::map<const Operation*, uint64_t> draws_;  // of random ops, in this run
  std::map<std::pair<const Operation*, std::string>, uint64_t> notes_;
};

// Whether an argument or result is of a declared type, unknown sizes aside: nothing, or what it is
// and what was expected.
std::optional<std::string> TypeMismatch(const Value& value, const ValueType& type);

}  // namespace cmlc::exec

#endif  // CMLC_EXEC_EXECUTABLE_H_
