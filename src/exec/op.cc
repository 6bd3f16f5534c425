#include "exec/op.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "exec/executable.h"
#include "numeric/convert.h"

namespace cmlc::exec {

namespace {

// What is converted at a time: stays in the first-level cache.
constexpr uint64_t kMapValues = 4096;
// What a thread gets at a time.
constexpr uint64_t kMapGrain = 16 * kMapValues;

uint64_t Fnv(std::string_view text, uint64_t hash = 0xcbf29ce484222325u) {
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

}  // namespace

const Operation& OpContext::operation() const { return *step_.op; }
int OpContext::opset() const { return runner_.executable_.opset_; }
ThreadPool& OpContext::pool() { return runner_.pool_; }
Memory& OpContext::memory() { return runner_.memory_; }

const Value* OpContext::Find(std::string_view parameter, size_t position) const {
  for (const StepArgument& argument : step_.arguments)
    if (argument.parameter == parameter)
      return position < argument.slots.size() ? &runner_.slot(argument.slots[position]) : nullptr;
  return nullptr;
}

const Value& OpContext::Input(std::string_view parameter, size_t position) const {
  const Value* value = Find(parameter, position);
  CMLC_CHECK(value != nullptr);
  return *value;
}

size_t OpContext::Count(std::string_view parameter) const {
  for (const StepArgument& argument : step_.arguments)
    if (argument.parameter == parameter) return argument.slots.size();
  return 0;
}

Error OpContext::Bad(std::string message) const {
  return Error{ErrorKind::kBadInput, std::move(message)};
}

Result<std::vector<int64_t>> OpContext::Ints(std::string_view parameter,
                                             std::vector<int64_t> missing) const {
  const Value* value = Find(parameter);
  if (value == nullptr) return missing;
  if (!value->is_tensor() || IsFloat(value->dtype))
    return Bad(fmt::format("{}: expected integers, got {}", parameter, ToString(*value)));
  return ReadInts(*value);
}

Result<int64_t> OpContext::Int(std::string_view parameter, std::optional<int64_t> missing) const {
  if (!Has(parameter) && missing) return *missing;
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> values, Ints(parameter));
  if (values.size() != 1)
    return Bad(fmt::format("{}: expected one integer, got {}", parameter, values.size()));
  return values[0];
}

Result<bool> OpContext::Bool(std::string_view parameter, std::optional<bool> missing) const {
  CMLC_ASSIGN_OR_RETURN(const int64_t value,
                        Int(parameter, missing ? std::optional<int64_t>(*missing) : std::nullopt));
  return value != 0;
}

Result<float> OpContext::Float(std::string_view parameter, std::optional<float> missing) const {
  const Value* value = Find(parameter);
  if (value == nullptr && missing) return *missing;
  if (value == nullptr || !value->is_tensor() || value->element_count() != 1)
    return Bad(fmt::format("{}: expected one number, got {}", parameter,
                           value == nullptr ? "nothing" : ToString(*value)));
  float number = 0;
  CMLC_RETURN_IF_ERROR(ReadFloats(*value, 0, std::span(&number, 1)));
  return number;
}

Result<std::string> OpContext::String(std::string_view parameter,
                                      std::optional<std::string> missing) const {
  const Value* value = Find(parameter);
  if (value == nullptr && missing) return *missing;
  if (value == nullptr || value->kind != Value::Kind::kStrings || value->strings->size() != 1)
    return Bad(fmt::format("{}: expected one string, got {}", parameter,
                           value == nullptr ? "nothing" : ToString(*value)));
  return value->strings->front();
}

Result<size_t> OpContext::Axis(std::string_view parameter, size_t rank,
                               std::optional<int64_t> missing) const {
  CMLC_ASSIGN_OR_RETURN(int64_t axis, Int(parameter, missing));
  if (axis < 0) axis += static_cast<int64_t>(rank);
  if (axis < 0 || axis >= static_cast<int64_t>(rank))
    return Bad(fmt::format("{}: {} is no axis of {} dimensions", parameter,
                           axis < 0 ? axis - static_cast<int64_t>(rank) : axis, rank));
  return static_cast<size_t>(axis);
}

Result<std::vector<size_t>> OpContext::Axes(std::string_view parameter, size_t rank) const {
  std::vector<size_t> axes;
  if (!Has(parameter)) {
    for (size_t d = 0; d < rank; ++d) axes.push_back(d);
    return axes;
  }
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> given, Ints(parameter));
  for (const int64_t axis : given) {
    const int64_t from_zero = axis < 0 ? axis + static_cast<int64_t>(rank) : axis;
    if (from_zero < 0 || from_zero >= static_cast<int64_t>(rank))
      return Bad(fmt::format("{}: {} is no axis of {} dimensions", parameter, axis, rank));
    axes.push_back(static_cast<size_t>(from_zero));
  }
  std::sort(axes.begin(), axes.end());
  axes.erase(std::unique(axes.begin(), axes.end()), axes.end());
  return axes;
}

Result<const Value*> OpContext::Tensor(std::string_view parameter, size_t position) const {
  const Value* value = Find(parameter, position);
  if (value == nullptr || !value->is_tensor())
    return Bad(fmt::format("{}: expected a tensor, got {}", parameter,
                           value == nullptr ? "nothing" : ToString(*value)));
  return value;
}

Result<FloatView> OpContext::Floats(std::string_view parameter, size_t position) const {
  CMLC_ASSIGN_OR_RETURN(const Value* value, Tensor(parameter, position));
  return Floats(*value);
}

Result<FloatView> OpContext::Floats(const Value& value) const {
  if (value.storage != nullptr && value.dtype == DataType::kFloat32)
    return FloatView(value.As<float>().first(static_cast<size_t>(value.element_count())), value);
  CMLC_ASSIGN_OR_RETURN(Value copy, MakeTensor(DataType::kFloat32, value.shape, runner_.memory_));
  const std::span<float> out(reinterpret_cast<float*>(copy.storage->data()),
                             static_cast<size_t>(value.element_count()));
  CMLC_RETURN_IF_ERROR(ReadFloats(value, 0, out));
  return FloatView(out, std::move(copy));
}

Result<Value> OpContext::ResidentInput(std::string_view parameter, size_t position) const {
  CMLC_ASSIGN_OR_RETURN(const Value* value, Tensor(parameter, position));
  return Resident(*value, runner_.memory_);
}

Value OpContext::Take(std::string_view parameter, size_t position) {
  for (const StepArgument& argument : step_.arguments) {
    if (argument.parameter != parameter) continue;
    CMLC_CHECK(position < argument.slots.size());
    const Slot slot = argument.slots[position];
    // Only an argument that is bound once, dies here and is no constant may go.
    size_t bound = 0;
    for (const StepArgument& other : step_.arguments)
      bound += static_cast<size_t>(std::count(other.slots.begin(), other.slots.end(), slot));
    const bool dies =
        std::find(step_.dead.begin(), step_.dead.end(), slot) != step_.dead.end() &&
        std::find(step_.captured.begin(), step_.captured.end(), slot) == step_.captured.end();
    if (bound == 1 && dies) return std::move(runner_.slot(slot));
    return runner_.slot(slot);
  }
  CMLC_CHECK(false);
}

size_t OpContext::output_count() const { return step_.outputs.size(); }

DataType OpContext::DeclaredType(size_t output) const {
  const NamedValueType& declared = step_.op->outputs[output];
  return declared.type ? declared.type->tensor.dtype : DataType::kUnused;
}

void OpContext::Set(size_t output, Value value) {
  if (output >= step_.outputs.size()) return;
  runner_.slot(step_.outputs[output]) = std::move(value);
}

Result<Value> OpContext::Make(DataType dtype, Shape shape) {
  return MakeTensor(dtype, std::move(shape), runner_.memory_);
}

Result<FloatOutput> OpContext::MakeFloats(DataType dtype, Shape shape) {
  FloatOutput output;
  if (!IsFloat(dtype)) return Bad(fmt::format("expected fp16 or fp32, got {}", NameOf(dtype)));
  CMLC_ASSIGN_OR_RETURN(output.value, Make(dtype, shape));
  if (dtype != DataType::kFloat32) {
    CMLC_ASSIGN_OR_RETURN(output.buffer, Make(DataType::kFloat32, std::move(shape)));
  }
  Value& floats = dtype == DataType::kFloat32 ? output.value : output.buffer;
  output.values = {Data<float>(floats), static_cast<size_t>(floats.element_count())};
  return output;
}

void OpContext::Finish(FloatOutput output, size_t index) {
  if (output.value.dtype == DataType::kFloat16) {
    auto* halves = Data<uint16_t>(output.value);
    ForRanges(output.values.size(), kMapGrain, [&](uint64_t begin, uint64_t end) {
      numeric::FloatsToHalves(output.values.data() + begin, static_cast<size_t>(end - begin),
                              halves + begin);
    });
  }
  Set(index, std::move(output.value));
}

void OpContext::SetInts(const std::vector<int64_t>& values, Shape shape, DataType dtype,
                        Status& status) {
  Result<Value> made = Make(dtype, std::move(shape));
  if (!made.ok()) {
    status = made.error();
    return;
  }
  const size_t width = static_cast<size_t>(BitsOf(dtype)) / 8;
  std::byte* out = made->storage->data();
  for (size_t i = 0; i < values.size(); ++i)
    std::memcpy(out + i * width, &values[i], width);  // little-endian
  Set(std::move(*made));
}

Status OpContext::MapFloats(std::string_view parameter,
                            const std::function<void(std::span<float>)>& kernel) {
  CMLC_ASSIGN_OR_RETURN(const Value* checked, Tensor(parameter));
  if (!IsFloat(checked->dtype))
    return Bad(fmt::format("{}: expected fp16 or fp32, got {}", parameter, ToString(*checked)));
  Value in = Take(parameter);
  const uint64_t count = in.element_count();
  // In place, where nothing else has the storage.
  Value out;
  if (in.storage != nullptr && in.storage.use_count() == 1 && in.storage->writable()) {
    out = in;
  } else {
    CMLC_ASSIGN_OR_RETURN(out, Make(in.dtype, in.shape));
  }
  std::atomic<bool> failed = false;
  Status status;
  ForRanges(count, kMapGrain, [&](uint64_t begin, uint64_t end) {
    alignas(64) float buffer[kMapValues];
    for (uint64_t at = begin; at < end; at += kMapValues) {
      const auto length = static_cast<size_t>(std::min(kMapValues, end - at));
      const bool direct = out.dtype == DataType::kFloat32;
      const std::span<float> values(direct ? Data<float>(out) + at : buffer, length);
      if (!direct || out.storage != in.storage) {
        const Status read = ReadFloats(in, at, values);
        if (!read.ok()) {
          if (!failed.exchange(true)) status = read;
          return;
        }
      }
      kernel(values);
      if (!direct) numeric::FloatsToHalves(buffer, length, Data<uint16_t>(out) + at);
    }
  });
  CMLC_RETURN_IF_ERROR(status);
  Set(std::move(out));
  return Ok();
}

void OpContext::ForRanges(uint64_t count, uint64_t grain,
                          const std::function<void(uint64_t begin, uint64_t end)>& body) {
  const uint64_t pieces = (count + grain - 1) / grain;
  if (pieces <= 1) {
    if (count != 0) body(0, count);
    return;
  }
  runner_.pool_.For(static_cast<size_t>(pieces), [&](size_t piece, int) {
    body(piece * grain, std::min(count, (piece + 1) * grain));
  });
}

Result<std::vector<Value>> OpContext::RunBlock(size_t block, std::vector<Value> arguments) {
  // A block counts as a step, so that a loop that does nothing comes to an end too.
  CMLC_RETURN_IF_ERROR(runner_.CountStep());
  const std::vector<NamedValueType>& inputs = step_.op->blocks[block].inputs;
  for (size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].type)
      if (const auto mismatch = TypeMismatch(arguments[i], *inputs[i].type))
        return Bad(fmt::format("input '{}' of a block {}", inputs[i].name, *mismatch));
  return runner_.RunPlan(step_.blocks[block], std::move(arguments));
}

Result<Value> OpContext::ReadState(const std::string& state) {
  const auto found = runner_.states_.find(state);
  if (found == runner_.states_.end()) return Bad(fmt::format("there is no state '{}'", state));
  return found->second;
}

Status OpContext::WriteState(const std::string& state, Value value) {
  const auto found = runner_.states_.find(state);
  if (found == runner_.states_.end()) return Bad(fmt::format("there is no state '{}'", state));
  if (value.dtype != found->second.dtype || value.shape != found->second.shape)
    return Bad(fmt::format("data: state '{}' holds {}, got {}", state, ToString(found->second),
                           ToString(value)));
  found->second = std::move(value);
  return Ok();
}

void OpContext::CountNote(std::string_view what, uint64_t count) {
  if (count != 0) runner_.notes_[{step_.op, std::string(what)}] += count;
}

uint64_t OpContext::RandomSeed() const {
  // How often the op itself was run, not how many steps there were: those may be others in another
  // form of the model.
  uint64_t seed = Fnv(NameOf(*step_.op));
  for (const uint64_t part : {runner_.options_.seed, runner_.samples_, runner_.draws_[step_.op]++})
    seed = (seed ^ part) * 0x9e3779b97f4a7c15u + (seed >> 29);
  return seed;
}

bool OpContext::lenient_indices() const { return runner_.options_.lenient_indices; }

}  // namespace cmlc::exec
