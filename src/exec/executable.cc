#include "exec/executable.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <unordered_map>

#include "base/check.h"

namespace cmlc::exec {

// --- Preparation --------------------------------------------------------------------------------

class Preparer {
 public:
  Preparer(Executable& executable, TensorStore& store) : out_(executable), store_(store) {}

  Status Prepare();

 private:
  using Scope = std::unordered_map<std::string, Slot>;

  std::string Where(const Operation& op) const {
    return fmt::format("{}: function '{}': {} '{}'", out_.place_, out_.function_name_, op.type,
                       NameOf(op));
  }
  Error Bad(const Operation& op, std::string_view what) const {
    return Error{ErrorKind::kBadInput, fmt::format("{}: {}", Where(op), what)};
  }
  Status CheckOps() const;
  Status PlanOf(Block& block, bool top, Plan& plan);
  Status StepOf(Operation& op, Plan& plan);
  Status CheckBlocks(const Operation& op) const;
  Status Constant(const Operation& op);
  Result<Value> Literal(const cmlc::Value& value, const std::string& what) const;
  Result<Slot> Define(const std::string& name, const std::string& where);
  std::optional<Slot> Lookup(const std::string& name) const;
  bool Keep(const Step& step, const std::vector<bool>& needed) const;
  void DropUnneeded(Plan& plan, std::vector<bool>& needed);
  void MarkDead(Plan& plan, const std::vector<Slot>& own_inputs);

  Executable& out_;
  TensorStore& store_;
  // Outputs of constexprs that nothing but constexprs read: links of a chain.
  std::set<std::pair<const Operation*, size_t>> links_;
  std::vector<Scope> scopes_;
  size_t depth_ = 0;
};

namespace {

template <typename Visit>
void ForEachOp(const Block& block, const Visit& visit) {
  for (const Operation& op : block.operations) {
    visit(op);
    for (const Block& inner : op.blocks) ForEachOp(inner, visit);
  }
}

bool WritesState(const Step& step) {
  if (step.op->type == "write_state") return true;
  for (const Plan& block : step.blocks)
    if (std::any_of(block.steps.begin(), block.steps.end(), WritesState)) return true;
  return false;
}

bool Observed(const Step& step) {
  if (step.observed) return true;
  for (const Plan& block : step.blocks)
    if (std::any_of(block.steps.begin(), block.steps.end(), Observed)) return true;
  return false;
}

template <typename Visit>
void ForEachRead(const Step& step, const Visit& visit) {
  for (const StepArgument& argument : step.arguments)
    for (const Slot slot : argument.slots) visit(slot);
  for (const Plan& block : step.blocks) {
    for (const Step& inner : block.steps) ForEachRead(inner, visit);
    for (const Slot slot : block.outputs) visit(slot);
  }
}

}  // namespace

// What cannot be run is said of all ops together, before anything else is looked at.
Status Preparer::CheckOps() const {
  std::map<std::string, Unsupported> missing;
  ForEachOp(*out_.block_, [&](const Operation& op) {
    const OpInfo* info = FindOp(op.type);
    if (info != nullptr && (info->structural || info->kernel != nullptr)) return;
    Unsupported& entry = missing[op.type];
    entry.reason = info == nullptr ? "no such op is known" : std::string(info->refusal);
    ++entry.count;
  });
  if (missing.empty()) return Ok();
  std::vector<std::string> texts;
  for (const auto& [type, entry] : missing)
    texts.push_back(fmt::format("{} ({} of them: {})", type, entry.count, entry.reason));
  return Error{ErrorKind::kBadInput,
               fmt::format("{}: function '{}' has ops that cannot be run: {}", out_.place_,
                           out_.function_name_, fmt::join(texts, ", "))};
}

std::optional<Slot> Preparer::Lookup(const std::string& name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
    if (const auto found = scope->find(name); found != scope->end()) return found->second;
  return std::nullopt;
}

Result<Slot> Preparer::Define(const std::string& name, const std::string& where) {
  if (!scopes_.back().emplace(name, out_.slot_count_).second)
    return Error{ErrorKind::kBadInput,
                 fmt::format("{}: '{}' has this name already, and names must differ", where, name)};
  return out_.slot_count_++;
}

// A literal: an immediate value, or one in a weights file.
Result<Value> Preparer::Literal(const cmlc::Value& value, const std::string& what) const {
  const auto bad = [&](std::string text) {
    return Error{ErrorKind::kBadInput, fmt::format("{}: {}", what, text)};
  };
  if (const auto* collection = std::get_if<Collection>(&value.content)) {
    // Lists of strings or numbers, as `classify` has them.
    std::vector<std::string> strings;
    std::vector<int64_t> numbers;
    for (const cmlc::Value& element : collection->elements) {
      if (const std::optional<std::string> text = ImmediateString(element))
        strings.push_back(*text);
      else if (const std::optional<std::vector<int64_t>> ints = ImmediateInts(element))
        numbers.insert(numbers.end(), ints->begin(), ints->end());
      else
        return bad("is a collection of something else than strings or integers");
    }
    if (!strings.empty() && !numbers.empty()) return bad("mixes strings and integers");
    const auto count = static_cast<int64_t>(std::max(strings.size(), numbers.size()));
    if (numbers.empty()) return MakeStrings({count}, std::move(strings));
    Value out;
    out.kind = Value::Kind::kTensor;
    out.dtype = DataType::kInt32;
    out.shape = {count};
    std::byte* content = nullptr;
    TensorView bytes = TensorView::Make(numbers.size() * sizeof(int32_t), &content);
    for (size_t i = 0; i < numbers.size(); ++i) {
      if (numbers[i] != static_cast<int32_t>(numbers[i]))
        return bad("has an integer beyond 32 bits");
      const auto number = static_cast<int32_t>(numbers[i]);
      std::memcpy(content + i * sizeof number, &number, sizeof number);
    }
    out.storage = std::make_shared<Storage>(std::move(bytes));
    return out;
  }
  const std::optional<Shape> shape = StaticShape(value.type);
  if (!shape) return bad(fmt::format("has type {}, expected known sizes", ToString(value.type)));
  const DataType dtype = value.type.tensor.dtype;
  if (dtype == DataType::kString) {
    const auto* tensor = std::get_if<ImmediateTensor>(&value.content);
    const auto* strings = tensor == nullptr ? nullptr : std::get_if<Strings>(&tensor->values);
    if (strings == nullptr || strings->values.size() != *ElementCount(*shape))
      return bad("is a string without its text");
    return MakeStrings(*shape, strings->values);
  }
  Value out;
  out.kind = Value::Kind::kTensor;
  out.dtype = dtype;
  out.shape = *shape;
  // 64-bit numbers are parameters such as shapes: they are held as 32-bit ones where they fit.
  if (const auto* id = std::get_if<TensorId>(&value.content)) {
    const TensorInfo& info = store_.info(*id);
    if (info.missing) return bad("lies in a weights file that is not there");
    if (info.element_count != *ElementCount(*shape) || info.dtype != dtype)
      return bad(fmt::format("is {} {}, its blob holds {} elements of {}", NameOf(dtype),
                             ToString(*shape), info.element_count, NameOf(info.dtype)));
    if (!IsValueType(dtype)) return out;  // only constexpr ops read those
    CMLC_ASSIGN_OR_RETURN(TensorView view, store_.View(*id, 0, info.size_bytes));
    out.storage = std::make_shared<Storage>(std::move(view));
    return out;
  }
  std::optional<std::string> bytes = ImmediateBytes(value);
  if (!bytes) return bad("has no value that its type and shape could have");
  if (dtype == DataType::kInt64 || dtype == DataType::kUInt64 || dtype == DataType::kFloat64) {
    std::string narrow;
    for (size_t at = 0; at < bytes->size(); at += 8) {
      if (dtype == DataType::kFloat64) {
        double number = 0;
        std::memcpy(&number, bytes->data() + at, sizeof number);
        const auto single = static_cast<float>(number);
        narrow.append(reinterpret_cast<const char*>(&single), sizeof single);
        continue;
      }
      int64_t number = 0;
      std::memcpy(&number, bytes->data() + at, sizeof number);
      if (number != static_cast<int32_t>(number)) return bad("has an integer beyond 32 bits");
      const auto single = static_cast<int32_t>(number);
      narrow.append(reinterpret_cast<const char*>(&single), sizeof single);
    }
    out.dtype = dtype == DataType::kFloat64 ? DataType::kFloat32 : DataType::kInt32;
    *bytes = std::move(narrow);
  }
  if (!IsValueType(out.dtype)) return out;
  out.storage = std::make_shared<Storage>(TensorView::Copy(std::as_bytes(std::span(*bytes))));
  return out;
}

// Constants are values from the start; compressed ones are decoded by whoever reads them.
Status Preparer::Constant(const Operation& op) {
  for (size_t i = 0; i < op.outputs.size(); ++i) {
    CMLC_ASSIGN_OR_RETURN(const Slot slot, Define(op.outputs[i].name, Where(op)));
    if (IsConst(op)) {
      const auto found = op.attributes.find("val");
      if (found == op.attributes.end()) return Bad(op, "has no attribute 'val'");
      CMLC_ASSIGN_OR_RETURN(Value value, Literal(found->second, Where(op)));
      out_.constants_.emplace(slot, std::move(value));
      continue;
    }
    const std::optional<ValueType>& declared = op.outputs[i].type;
    Value value;
    value.kind = Value::Kind::kTensor;
    if (declared) value.dtype = declared->tensor.dtype;
    // What lies between the links of a chain, masks, codes, values of sparse elements, is no value
    // of the program.
    if (IsFloat(value.dtype) && !links_.contains({&op, i})) {
      CMLC_ASSIGN_OR_RETURN(std::unique_ptr<TensorReader> reader,
                            MakeReader(op, i, *out_.index_, store_));
      value.dtype = reader->dtype();
      value.shape = reader->shape();
      value.weight = std::move(reader);
    }
    out_.constants_.emplace(slot, std::move(value));
  }
  return Ok();
}

// `cond` has two blocks without inputs that give its outputs; `while_loop` a condition and a body
// that take all loop variables, of which the body gives the next ones.
Status Preparer::CheckBlocks(const Operation& op) const {
  const bool loop = op.type == "while_loop";
  const size_t expected = loop || op.type == "cond" ? 2 : 0;
  if (op.blocks.size() != expected)
    return Bad(op, fmt::format("has {} blocks, expected {}", op.blocks.size(), expected));
  if (expected == 0) return Ok();
  const size_t variables = loop ? op.inputs.at("loop_vars").bindings.size() : 0;
  if (loop && variables != op.outputs.size())
    return Bad(op,
               fmt::format("has {} loop variables, but {} outputs", variables, op.outputs.size()));
  for (size_t i = 0; i < 2; ++i) {
    const Block& block = op.blocks[i];
    const std::string_view name =
        loop ? (i == 0 ? "condition" : "body") : (i == 0 ? "first block" : "second block");
    if (block.inputs.size() != variables)
      return Bad(op, fmt::format("its {} has {} inputs, expected {}", name, block.inputs.size(),
                                 variables));
    const size_t outputs = loop && i == 0 ? 1 : op.outputs.size();
    if (block.outputs.size() != outputs)
      return Bad(op, fmt::format("its {} has {} outputs, expected {}", name, block.outputs.size(),
                                 outputs));
  }
  return Ok();
}

Status Preparer::StepOf(Operation& op, Plan& plan) {
  const OpInfo* info = FindOp(op.type);
  if (info->structural) return Constant(op);
  if (op.outputs.empty() && op.type != "write_state") return Bad(op, "has no outputs");
  Step step;
  step.op = &op;
  step.info = info;
  for (const auto& [parameter, argument] : op.inputs) {
    const auto is = [&](std::string_view name) { return name == parameter; };
    const bool known = std::any_of(info->required.begin(), info->required.end(), is) ||
                       std::any_of(info->optional.begin(), info->optional.end(), is);
    if (!known) return Bad(op, fmt::format("'{}' is no parameter of this op", parameter));
    StepArgument& to = step.arguments.emplace_back();
    to.parameter = parameter;
    for (const Binding& binding : argument.bindings) {
      if (const auto* name = std::get_if<std::string>(&binding.target)) {
        const std::optional<Slot> slot = Lookup(*name);
        if (!slot)
          return Bad(op,
                     fmt::format("{} reads '{}', which nothing before it makes", parameter, *name));
        to.slots.push_back(*slot);
      } else if (const auto* literal = std::get_if<cmlc::Value>(&binding.target)) {
        CMLC_ASSIGN_OR_RETURN(Value value,
                              Literal(*literal, fmt::format("{}: {}", Where(op), parameter)));
        to.slots.push_back(out_.slot_count_);
        out_.constants_.emplace(out_.slot_count_++, std::move(value));
      } else {
        return Bad(op, fmt::format("{} is bound to nothing", parameter));
      }
    }
    if (to.slots.empty()) step.arguments.pop_back();
  }
  for (const std::string_view required : info->required)
    if (std::none_of(step.arguments.begin(), step.arguments.end(),
                     [&](const StepArgument& argument) { return argument.parameter == required; }))
      return Bad(op, fmt::format("parameter '{}' is missing", required));
  CMLC_RETURN_IF_ERROR(CheckBlocks(op));
  for (Block& block : op.blocks)
    CMLC_RETURN_IF_ERROR(PlanOf(block, false, step.blocks.emplace_back()));
  for (const Plan& inner : step.blocks) {
    for (const Step& nested : inner.steps)
      ForEachRead(nested, [&](Slot slot) { step.captured.push_back(slot); });
    step.captured.insert(step.captured.end(), inner.outputs.begin(), inner.outputs.end());
  }
  for (const NamedValueType& output : op.outputs) {
    CMLC_ASSIGN_OR_RETURN(const Slot slot, Define(output.name, Where(op)));
    step.outputs.push_back(slot);
  }
  step.observed = out_.observer_ != nullptr && out_.observer_->Wants(op);
  plan.steps.push_back(std::move(step));
  return Ok();
}

Status Preparer::PlanOf(Block& block, bool top, Plan& plan) {
  const std::string where = fmt::format("{}: function '{}'", out_.place_, out_.function_name_);
  scopes_.emplace_back();
  const std::vector<NamedValueType>& inputs = top ? out_.function_->inputs : block.inputs;
  for (const NamedValueType& input : inputs) {
    CMLC_ASSIGN_OR_RETURN(const Slot slot, Define(input.name, where));
    plan.inputs.push_back(slot);
  }
  for (Operation& op : block.operations) CMLC_RETURN_IF_ERROR(StepOf(op, plan));
  for (const std::string& output : block.outputs) {
    const std::optional<Slot> slot = Lookup(output);
    if (!slot)
      return Error{ErrorKind::kBadInput,
                   fmt::format("{}: output '{}' of a block is made by nothing", where, output)};
    plan.outputs.push_back(*slot);
  }
  scopes_.pop_back();
  return Ok();
}

bool Preparer::Keep(const Step& step, const std::vector<bool>& needed) const {
  return Observed(step) || WritesState(step) ||
         std::any_of(step.outputs.begin(), step.outputs.end(),
                     [&](Slot slot) { return needed[slot]; });
}

// Ops that nothing wanted depends on are left out, nested blocks included. `needed` holds what is
// read from outside.
void Preparer::DropUnneeded(Plan& plan, std::vector<bool>& needed) {
  for (const Slot slot : plan.outputs) needed[slot] = true;
  std::vector<Step> kept;
  for (auto step = plan.steps.rbegin(); step != plan.steps.rend(); ++step) {
    if (!Keep(*step, needed)) continue;
    for (Plan& block : step->blocks) DropUnneeded(block, needed);
    ForEachRead(*step, [&](Slot slot) { needed[slot] = true; });
    kept.push_back(std::move(*step));
  }
  std::reverse(kept.begin(), kept.end());
  plan.steps = std::move(kept);
}

// Where each value of this block is read for the last time; values of outer blocks are theirs.
void Preparer::MarkDead(Plan& plan, const std::vector<Slot>& own_inputs) {
  std::map<Slot, size_t> last;
  std::set<Slot> own(own_inputs.begin(), own_inputs.end());
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    for (const Slot slot : plan.steps[i].outputs) {
      own.insert(slot);
      last[slot] = i;
    }
    ForEachRead(plan.steps[i], [&](Slot slot) { last[slot] = i; });
  }
  const std::set<Slot> outputs(plan.outputs.begin(), plan.outputs.end());
  for (const auto& [slot, step] : last)
    if (own.contains(slot) && !outputs.contains(slot)) plan.steps[step].dead.push_back(slot);
  for (Step& step : plan.steps)
    for (Plan& block : step.blocks) MarkDead(block, block.inputs);
}

Status Preparer::Prepare() {
  for (const Definition& definition : out_.index_->definitions())
    if (IsConstexpr(*definition.op) && !definition.uses.empty() &&
        std::all_of(definition.uses.begin(), definition.uses.end(),
                    [](const Use& use) { return use.op != nullptr && IsConstexpr(*use.op); }))
      links_.emplace(definition.op, definition.output);
  CMLC_RETURN_IF_ERROR(CheckOps());
  CMLC_RETURN_IF_ERROR(PlanOf(*out_.block_, true, out_.plan_));
  std::vector<bool> needed(out_.slot_count_, false);
  DropUnneeded(out_.plan_, needed);
  MarkDead(out_.plan_, out_.plan_.inputs);
  return Ok();
}

Result<std::unique_ptr<Executable>> Executable::Prepare(Program& program,
                                                        const std::string& function,
                                                        TensorStore& store,
                                                        const std::string& place,
                                                        Observer* observer) {
  std::unique_ptr<Executable> executable(new Executable);
  const auto found = program.functions.find(function);
  if (found == program.functions.end()) {
    std::vector<std::string> names;
    for (const auto& [name, other] : program.functions) names.push_back(name);
    return Error{ErrorKind::kUsage, fmt::format("{}: there is no function '{}', expected one of {}",
                                                place, function, fmt::join(names, ", "))};
  }
  executable->place_ = place;
  executable->function_name_ = function;
  executable->function_ = &found->second;
  executable->observer_ = observer;
  Block* block = ActiveBlock(found->second);
  const std::string& opset = found->second.opset;
  int number = 0;
  if (opset.starts_with("CoreML") && opset.size() == 7 && opset[6] >= '5' && opset[6] <= '9')
    number = opset[6] - '0';
  if (block == nullptr || number == 0)
    return Error{
        ErrorKind::kBadInput,
        fmt::format("{}: function '{}' has opset '{}'{}, expected CoreML5 to CoreML9", place,
                    function, opset, block == nullptr ? " and no block for it" : "")};
  executable->block_ = block;
  executable->opset_ = number;
  executable->index_ = std::make_unique<GraphIndex>(*block);
  CMLC_RETURN_IF_ERROR(Preparer(*executable, store).Prepare());
  return executable;
}

std::map<std::string, TensorType> Executable::States() const {
  std::map<std::string, TensorType> states;
  for (const NamedValueType& input : function_->inputs)
    if (input.type && input.type->kind == ValueType::Kind::kState && !input.type->elements.empty())
      states.emplace(input.name, input.type->elements[0].tensor);
  return states;
}

namespace {
size_t StepsIn(const Plan& plan) {
  size_t count = plan.steps.size();
  for (const Step& step : plan.steps)
    for (const Plan& block : step.blocks) count += StepsIn(block);
  return count;
}
}  // namespace

size_t Executable::step_count() const { return StepsIn(plan_); }

// --- Types --------------------------------------------------------------------------------------

std::optional<std::string> TypeMismatch(const Value& value, const ValueType& type) {
  const std::string mismatch = fmt::format("is {}, expected {}", ToString(value), ToString(type));
  switch (type.kind) {
    case ValueType::Kind::kNone:
    case ValueType::Kind::kEmpty:
    case ValueType::Kind::kTuple:
      return std::nullopt;
    case ValueType::Kind::kList:  // elements are looked at when they are read
      if (value.kind == Value::Kind::kList) return std::nullopt;
      return mismatch;
    case ValueType::Kind::kDictionary:
      if (value.kind == Value::Kind::kDictionary) return std::nullopt;
      return mismatch;
    case ValueType::Kind::kState:
      if (value.kind == Value::Kind::kState) return std::nullopt;
      return mismatch;
    case ValueType::Kind::kTensor:
      break;
  }
  if (!value.is_tensor() && value.kind != Value::Kind::kStrings) return mismatch;
  // 64-bit numbers of a file are held as 32-bit ones.
  DataType expected = type.tensor.dtype;
  if (expected == DataType::kInt64 || expected == DataType::kUInt64) expected = DataType::kInt32;
  if (expected == DataType::kFloat64) expected = DataType::kFloat32;
  if (value.dtype != expected) return mismatch;
  if (type.tensor.rank < 0) return std::nullopt;
  if (type.tensor.dimensions.size() != value.shape.size()) {
    // Files exist that leave all sizes out.
    if (type.tensor.dimensions.empty() &&
        type.tensor.rank == static_cast<int64_t>(value.shape.size()))
      return std::nullopt;
    for (const Dimension& dimension : type.tensor.dimensions)
      if (dimension.variadic) return std::nullopt;
    return mismatch;
  }
  for (size_t d = 0; d < value.shape.size(); ++d) {
    const Dimension& dimension = type.tensor.dimensions[d];
    if (dimension.kind == Dimension::Kind::kConstant &&
        dimension.size != static_cast<uint64_t>(value.shape[d]))
      return mismatch;
  }
  return std::nullopt;
}

// --- Runs ---------------------------------------------------------------------------------------

Runner::Runner(const Executable& executable, ThreadPool& pool, const ExecutionOptions& options)
    : executable_(executable),
      pool_(pool),
      options_(options),
      memory_(options.max_memory_bytes),
      frame_(executable.slot_count_) {
  for (const auto& [slot, value] : executable.constants_) frame_[slot] = value;
}

Runner::~Runner() = default;

void Runner::ResetStates() { states_.clear(); }

std::vector<std::string> Runner::TakeNotes() {
  std::vector<std::string> notes;
  for (const auto& [what, count] : notes_)
    notes.push_back(
        fmt::format("{} '{}': {} {}", what.first->type, NameOf(*what.first), count, what.second));
  std::sort(notes.begin(), notes.end());
  notes_.clear();
  return notes;
}

Result<std::vector<Value>> Runner::Run(std::map<std::string, Value> arguments) {
  const Function& function = *executable_.function_;
  const auto bad = [&](const std::string& what) {
    return Error{ErrorKind::kBadInput, fmt::format("{}: function '{}': {}", executable_.place_,
                                                   executable_.function_name_, what)};
  };
  steps_done_ = 0;
  draws_.clear();
  std::vector<Value> inputs;
  for (const NamedValueType& input : function.inputs) {
    if (input.type && input.type->kind == ValueType::Kind::kState) {
      if (!states_.contains(input.name)) {
        const std::optional<Shape> shape =
            input.type->elements.empty() ? std::nullopt : StaticShape(input.type->elements[0]);
        if (!shape) return bad(fmt::format("state '{}' has no known size", input.name));
        CMLC_ASSIGN_OR_RETURN(Value zeros,
                              MakeTensor(input.type->elements[0].tensor.dtype, *shape, memory_));
        std::memset(zeros.storage->data(), 0, zeros.storage->bytes().size());
        states_.emplace(input.name, std::move(zeros));
      }
      Value handle;
      handle.kind = Value::Kind::kState;
      handle.state = input.name;
      inputs.push_back(std::move(handle));
      continue;
    }
    const auto found = arguments.find(input.name);
    if (found == arguments.end()) return bad(fmt::format("input '{}' is missing", input.name));
    if (input.type)
      if (const std::optional<std::string> mismatch = TypeMismatch(found->second, *input.type))
        return bad(fmt::format("input '{}' {}", input.name, *mismatch));
    inputs.push_back(std::move(found->second));
    arguments.erase(found);
  }
  if (!arguments.empty())
    return bad(fmt::format("there is no input '{}'", arguments.begin()->first));
  Result<std::vector<Value>> outputs = RunPlan(executable_.plan_, std::move(inputs));
  ++samples_;
  if (outputs.ok()) return outputs;
  // Nothing of a run that ended early is kept.
  for (Slot slot = 0; slot < frame_.size(); ++slot)
    if (!executable_.constants_.contains(slot)) frame_[slot] = {};
  const Error& error = outputs.error();
  if (error.message.starts_with(executable_.place_ + ": function")) return error;
  return bad(error.message);
}

// Not so: codes and masks between constexpr ops.
static bool Readable(const Value& value) {
  return value.kind != Value::Kind::kNone &&
         (!value.is_tensor() || value.storage != nullptr || value.weight != nullptr);
}

Result<std::vector<Value>> Runner::RunPlan(const Plan& plan, std::vector<Value> arguments) {
  CMLC_CHECK(arguments.size() == plan.inputs.size());
  for (size_t i = 0; i < arguments.size(); ++i) frame_[plan.inputs[i]] = std::move(arguments[i]);
  arguments.clear();
  for (const Step& step : plan.steps) CMLC_RETURN_IF_ERROR(RunStep(step));
  std::vector<Value> outputs;
  for (const Slot slot : plan.outputs) {
    outputs.push_back(frame_[slot]);
    if (!Readable(outputs.back()))
      return Error{ErrorKind::kBadInput,
                   fmt::format("output {} of a block: a value of type {} cannot be read",
                               outputs.size() - 1, NameOf(outputs.back().dtype))};
  }
  // What is left of this block's own values goes, so that its outputs are held by the caller alone.
  for (const Slot slot : plan.inputs) frame_[slot] = {};
  for (const Step& step : plan.steps)
    for (const Slot slot : step.outputs) frame_[slot] = {};
  return outputs;
}

Status Runner::CheckOutput(const Step& step, size_t output) const {
  const Value& value = frame_[step.outputs[output]];
  const NamedValueType& declared = step.op->outputs[output];
  if (value.kind == Value::Kind::kNone)
    return Error{ErrorKind::kBadInput,
                 fmt::format("output '{}' is not one that this op makes", declared.name)};
  if (!declared.type) return Ok();
  if (const std::optional<std::string> mismatch = TypeMismatch(value, *declared.type))
    return Error{ErrorKind::kBadInput, fmt::format("output '{}' {}", declared.name, *mismatch)};
  return Ok();
}

Status Runner::CountStep() {
  if (options_.max_steps != 0 && steps_done_ >= options_.max_steps)
    return Error{ErrorKind::kBadInput,
                 fmt::format("would be step {}, more than --max-steps {} allows", steps_done_ + 1,
                             options_.max_steps)};
  ++steps_done_;
  return Ok();
}

Status Runner::RunStep(const Step& step) {
  const auto failed = [&](const Error& error) {
    // An error from inside a block has its place already.
    if (error.message.starts_with(executable_.place_ + ": function")) return error;
    return Error{error.kind, fmt::format("{}: function '{}': {} '{}': {}", executable_.place_,
                                         executable_.function_name_, step.op->type,
                                         NameOf(*step.op), error.message)};
  };
  if (const Status status = CountStep(); !status.ok()) return failed(status.error());
  for (const StepArgument& argument : step.arguments)
    for (const Slot slot : argument.slots) {
      const Value& value = frame_[slot];
      if (!Readable(value))
        return failed(
            {ErrorKind::kBadInput, fmt::format("{}: a value of type {} cannot be read by this op",
                                               argument.parameter, NameOf(value.dtype))});
    }
  OpContext context(step, *this);
  if (step.observed) {
    Observer::Arguments arguments;
    for (const StepArgument& argument : step.arguments) {
      auto& [parameter, values] = arguments.emplace_back();
      parameter = argument.parameter;
      for (const Slot slot : argument.slots) values.push_back(&frame_[slot]);
    }
    executable_.observer_->Before(*step.op, arguments);
  }
  if (const Status status = step.info->kernel(context); !status.ok()) return failed(status.error());
  for (size_t i = 0; i < step.outputs.size(); ++i)
    if (const Status status = CheckOutput(step, i); !status.ok()) return failed(status.error());
  if (step.observed) {
    std::vector<Value> outputs;
    for (const Slot slot : step.outputs) outputs.push_back(frame_[slot]);
    executable_.observer_->After(*step.op, outputs);
  }
  for (const Slot slot : step.dead) frame_[slot] = {};
  return Ok();
}

}  // namespace cmlc::exec
