// What one operation is to the interpreter: a kernel that reads arguments by name and sets outputs.
//
// A kernel is a function. It computes the shape of its output from the values that it is given and
// says what is wrong with them in words that start with the parameter; where it happened is added
// by the caller. It knows nothing of observers, of liveness, or of what reads its output.
//
//   Status Relu(OpContext& op) {
//     return op.MapFloats("x", [](std::span<float> values) {
//       for (float& value : values) value = value < 0 ? 0 : value;
//     });
//   }
//
// Arithmetic is in fp32 (or double), and a result is rounded once, when it is stored. What a loop
// is cut into depends on shapes alone, never on the number of threads, and sums are added up in a
// fixed order: so any number of threads gives the same bits.
#ifndef CMLC_EXEC_OP_H_
#define CMLC_EXEC_OP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "cmlc/model.h"
#include "cmlc/status.h"
#include "exec/memory.h"
#include "exec/value.h"

namespace cmlc::exec {

struct Step;
class Runner;

// A tensor's elements as fp32: a view of the value itself where that has fp32, else a copy.
class FloatView {
 public:
  FloatView(std::span<const float> view, Value keeps) : view_(view), keeps_(std::move(keeps)) {}
  std::span<const float> span() const { return view_; }
  const float* data() const { return view_.data(); }
  size_t size() const { return view_.size(); }
  float operator[](size_t i) const { return view_[i]; }

 private:
  std::span<const float> view_;
  Value keeps_;
};

// An output that is computed as fp32. `values` is the storage itself for fp32, else a buffer that
// Finish rounds from.
struct FloatOutput {
  Value value;
  Value buffer;  // of fp32; none where the value is fp32 itself
  std::span<float> values;
};

class OpContext {
 public:
  OpContext(const Step& step, Runner& runner) : step_(step), runner_(runner) {}

  const Operation& operation() const;
  // The number in the name of the function's opset, 5 to 9 for CoreML5 to CoreML9 (iOS 15 to 26).
  int opset() const;
  ThreadPool& pool();
  Memory& memory();

  // --- Arguments ---

  // What is bound to a parameter; null if nothing is.
  const Value* Find(std::string_view parameter, size_t position = 0) const;
  bool Has(std::string_view parameter) const { return Find(parameter) != nullptr; }
  // The same for one that must be there (see op_table.def): a missing one is found beforehand.
  const Value& Input(std::string_view parameter, size_t position = 0) const;
  size_t Count(std::string_view parameter) const;  // of values bound to it

  // Small parameters, with the value that a missing one has. An error if it is of another type.
  Result<int64_t> Int(std::string_view parameter, std::optional<int64_t> missing = {}) const;
  Result<bool> Bool(std::string_view parameter, std::optional<bool> missing = {}) const;
  Result<float> Float(std::string_view parameter, std::optional<float> missing = {}) const;
  Result<std::string> String(std::string_view parameter,
                             std::optional<std::string> missing = {}) const;
  // A vector of integers or booleans; a scalar gives one. A missing one gives `missing`.
  Result<std::vector<int64_t>> Ints(std::string_view parameter,
                                    std::vector<int64_t> missing = {}) const;
  // An axis of something of this rank, from 0.
  Result<size_t> Axis(std::string_view parameter, size_t rank,
                      std::optional<int64_t> missing = {}) const;
  // Axes, sorted, each once; all of them if the parameter is missing.
  Result<std::vector<size_t>> Axes(std::string_view parameter, size_t rank) const;

  // A tensor parameter: an error if it is none.
  Result<const Value*> Tensor(std::string_view parameter, size_t position = 0) const;
  // A tensor of any numeric type as fp32.
  Result<FloatView> Floats(std::string_view parameter, size_t position = 0) const;
  Result<FloatView> Floats(const Value& value) const;
  // A tensor with storage: a weight is decoded.
  Result<Value> ResidentInput(std::string_view parameter, size_t position = 0) const;
  // The argument itself, out of the interpreter's hands where nothing reads it later. Its storage
  // may be written to if it is writable() and use_count() is 1.
  Value Take(std::string_view parameter, size_t position = 0);

  // --- Outputs ---

  size_t output_count() const;
  // The type that the file declares for an output.
  DataType DeclaredType(size_t output = 0) const;

  // One that the file does not name is dropped.
  void Set(size_t output, Value value);
  void Set(Value value) { Set(0, std::move(value)); }

  // A tensor to be filled in.
  Result<Value> Make(DataType dtype, Shape shape);
  template <typename T>
  static T* Data(Value& value) {
    return reinterpret_cast<T*>(value.storage->data());
  }
  // A float tensor that is computed as fp32: fill `values`, then Finish.
  Result<FloatOutput> MakeFloats(DataType dtype, Shape shape);
  void Finish(FloatOutput output, size_t index = 0);
  void SetInts(const std::vector<int64_t>& values, Shape shape, DataType dtype, Status& status);

  // Elementwise over one tensor of floats: `kernel` changes values in place, some thousand at a
  // time, from several threads. The output has the type and shape of `parameter`.
  Status MapFloats(std::string_view parameter, const std::function<void(std::span<float>)>& kernel);

  // Calls body(begin, end) for [0, count) in pieces of `grain`, on all threads.
  void ForRanges(uint64_t count, uint64_t grain,
                 const std::function<void(uint64_t begin, uint64_t end)>& body);

  // --- Blocks and states ---

  // There are as many blocks, with as many inputs and outputs, as `cond` and `while_loop` must
  // have.
  Result<std::vector<Value>> RunBlock(size_t block, std::vector<Value> arguments);
  Result<Value> ReadState(const std::string& state);
  Status WriteState(const std::string& state, Value value);

  // --- Everything else ---

  // An error of bad input. `message` starts with the parameter.
  Error Bad(std::string message) const;
  // Counts something that a user should know of, like values that were cut to a range: told once
  // for each op with its total.
  void CountNote(std::string_view what, uint64_t count);
  // For random numbers: the same for the same run seed, op and sample.
  uint64_t RandomSeed() const;
  // Negative and too large indices are wrapped and cut instead of refused.
  bool lenient_indices() const;

 private:
  const Step& step_;
  Runner& runner_;
};

using Kernel = Status (*)(OpContext& op);

struct OpKernel {
  std::string_view type;
  Kernel kernel;
};

// Parameter of an op: "x" must be there, "bias?" need not be.
struct OpInfo {
  std::string_view type;
  int opset = 5;  // in which it first appeared
  std::vector<std::string_view> required;
  std::vector<std::string_view> optional;
  Kernel kernel = nullptr;  // null: not run; `refusal` says why
  std::string_view refusal;
  bool structural = false;  // const and constexpr ops: handled when a program is prepared
};

// Every op there is, sorted by name.
std::span<const OpInfo> AllOps();
// Null for a name that is no op.
const OpInfo* FindOp(std::string_view type);

}  // namespace cmlc::exec

#endif  // CMLC_EXEC_OP_H_
