#include "activations/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "activations/ops.h"
#include "activations/quantization.h"
#include "exec/value.h"

namespace cmlc::activations {
namespace {

using calibrate::Statistics;
using calibrate::ValueStatistics;

bool IsFloatValue(const Definition& value) {
  const auto& type = value.value->type;
  return type && type->kind == ValueType::Kind::kTensor && exec::IsFloat(type->tensor.dtype);
}

bool IsConstant(const Definition& value) {
  return value.op != nullptr && (IsConst(*value.op) || IsConstexpr(*value.op));
}

// The statistics that a range can be made of; null, and why not.
const ValueStatistics* UsableStatistics(const Definition& value, const Statistics& statistics,
                                        std::string* category = nullptr,
                                        std::string* reason = nullptr) {
  const auto say = [&](std::string_view what, std::string details) {
    if (category != nullptr) *category = what;
    if (reason != nullptr) *reason = std::move(details);
    return nullptr;
  };
  const auto found = statistics.values.find(value.value->name);
  if (found == statistics.values.end())
    return say("without statistics", value.op == nullptr
                                         ? "it is an input of a block, which has no statistics"
                                         : "no sample reached it");
  const ValueStatistics& one = found->second;
  if (one.not_finite > 0)
    return say("not finite", fmt::format("{} of {} elements are infinite or not a number",
                                         one.not_finite, one.count + one.not_finite));
  if (one.count == 0) return say("without statistics", "it never had an element");
  return &one;
}

std::string NameOfUse(const Operation& op, const std::string& parameter) {
  return fmt::format("{} '{}' {}", op.type, NameOf(op), parameter);
}

class Placer {
 public:
  Placer(const GraphIndex& index, const Statistics& statistics, const PlacementOptions& options,
         const WishFor& wish_for)
      : index_(index), statistics_(statistics), options_(options), wish_for_(wish_for) {
    for (const Definition& definition : index.definitions())
      outputs_[definition.op].push_back(&definition);
  }

  Placement Run(Block& block) {
    if (options_.keep_io) FindOuterLayers(block);
    Visit(block);
    return Finish();
  }

 private:
  // An operand that can be quantized.
  struct Operand {
    const Definition* value = nullptr;
    Use use;
    Wish wish;
    bool done = false;  // it is dequantized already
  };
  struct Wanted {
    Settings settings;
    std::vector<Use> uses;
    std::vector<std::string> readers;
    bool behind = false;
    bool by_name = false;
  };

  void FindOuterLayers(const Block& block);
  void Visit(Block& block);
  void Consider(Operation& op);
  void ConsiderResult(Operation& op, const Wish& wish);
  void Leave(const Definition* value, const Operation& op, const std::string& parameter,
             std::string category, std::string reason, bool by_name);
  Placement Finish();

  const GraphIndex& index_;
  const Statistics& statistics_;
  const PlacementOptions& options_;
  const WishFor& wish_for_;
  std::unordered_map<const Operation*, std::vector<const Definition*>> outputs_;
  std::unordered_set<const Operation*> outer_layers_;
  // By value; in front of ops there may be several settings for one.
  std::unordered_map<const Definition*, std::vector<Wanted>> wanted_;
  // Readers that stay in float, whatever is done behind the op that makes what they read.
  std::set<std::tuple<const Operation*, std::string>> alone_;
  std::set<std::pair<const Definition*, std::string>> left_once_;
  Placement placement_;
};

// Layers that read an input of the function, or of which an output is made, with no other layer in
// between.
void Placer::FindOuterLayers(const Block& block) {
  std::unordered_set<const Operation*> seen;
  std::vector<const Definition*> queue;
  for (const Definition& input : index_.inputs()) queue.push_back(&input);
  while (!queue.empty()) {
    const Definition* value = queue.back();
    queue.pop_back();
    for (const Use& use : value->uses) {
      if (use.op == nullptr || !seen.insert(use.op).second) continue;
      if (IsLayer(use.op->type))
        outer_layers_.insert(use.op);
      else
        for (const Definition* output : outputs_[use.op]) queue.push_back(output);
    }
  }
  seen.clear();
  std::vector<const Operation*> ops;
  for (const Definition& definition : index_.definitions())
    if (definition.block == &block && std::find(block.outputs.begin(), block.outputs.end(),
                                                definition.value->name) != block.outputs.end())
      ops.push_back(definition.op);
  while (!ops.empty()) {
    const Operation* op = ops.back();
    ops.pop_back();
    if (!seen.insert(op).second) continue;
    if (IsLayer(op->type)) {
      outer_layers_.insert(op);
      continue;
    }
    for (const auto& [parameter, argument] : op->inputs)
      for (const Binding& binding : argument.bindings)
        if (const auto* name = std::get_if<std::string>(&binding.target))
          if (const Definition* source = index_.Find(op, *name)) ops.push_back(source->op);
  }
}

void Placer::Visit(Block& block) {
  for (Operation& op : block.operations) {
    for (Block& inner : op.blocks) Visit(inner);
    Consider(op);
  }
}

void Placer::Leave(const Definition* value, const Operation& op, const std::string& parameter,
                   std::string category, std::string reason, bool by_name) {
  if (!left_once_.emplace(value, category).second) return;
  placement_.left.push_back({.value = value,
                             .op = NameOfUse(op, parameter),
                             .category = std::move(category),
                             .reason = std::move(reason),
                             .by_name = by_name});
}

void Placer::Consider(Operation& op) {
  if (IsConst(op) || IsConstexpr(op) || op.type == "quantize" || op.type == "dequantize") return;
  const QuantizableOp* info = FindQuantizable(op.type);
  const bool asked =
      info != nullptr && (info->by_default || options_.more_ops.contains(std::string(op.type)));
  // The operands that hold floats.
  std::vector<Operand> operands;
  bool constant_beside = false;
  const Definition* constant = nullptr;
  const auto collect = [&](const std::string& parameter) {
    const auto found = op.inputs.find(parameter);
    if (found == op.inputs.end()) return;
    const std::vector<Binding>& bindings = found->second.bindings;
    for (size_t position = 0; position < bindings.size(); ++position) {
      const auto* name = std::get_if<std::string>(&bindings[position].target);
      const Definition* value = name == nullptr ? nullptr : index_.FindValue(&op, *name);
      if (value == nullptr || IsConstant(*value)) {
        constant_beside = true;
        if (value != nullptr && IsFloatValue(*value)) constant = value;
        continue;
      }
      if (!IsFloatValue(*value)) continue;
      operands.push_back({.value = value,
                          .use = {.op = &op, .parameter = parameter, .position = position},
                          .wish = {},
                          .done = value->op != nullptr && value->op->type == "dequantize"});
    }
  };
  if (!asked) {
    for (const auto& [parameter, argument] : op.inputs) collect(parameter);
    if (operands.empty()) return;
    ++placement_.float_ops[op.type];
    // Options for what is not done have no effect, and that is not kept quiet.
    const Operand& first = operands.front();
    const Wish wish = wish_for_(op, first.use.parameter, *first.value);
    if (wish.settings && wish.by_rule)
      Leave(first.value, op, first.use.parameter, "of ops that are not quantized",
            info != nullptr
                ? fmt::format("a rule has options for it, but {} is quantized with --ops {} only",
                              op.type, op.type)
                : fmt::format("a rule has options for it, but {} is never quantized", op.type),
            wish.by_name);
    return;
  }
  for (const std::string_view parameter : info->parameters) collect(std::string(parameter));
  if (operands.empty()) {
    if (constant != nullptr)
      Leave(constant, op, std::string(info->parameters.front()), "constant",
            "it is a constant; weights are for `cmlc quantize`", false);
    return;
  }

  bool all = true;
  for (Operand& operand : operands) {
    operand.wish = wish_for_(op, operand.use.parameter, *operand.value);
    if (!operand.wish.settings) {
      alone_.emplace(&op, operand.use.parameter);
      Leave(operand.value, op, operand.use.parameter, "left alone by a rule", operand.wish.because,
            false);
      all = false;
    }
  }
  const bool by_name = operands.front().wish.by_name;
  if (outer_layers_.contains(&op)) {
    for (const Operand& operand : operands) {
      alone_.emplace(&op, operand.use.parameter);
      Leave(operand.value, op, operand.use.parameter, "of first and last layers",
            "keep_io leaves the first and the last layers in float", by_name);
    }
    return;
  }
  const bool needs_all = info->rule == QuantizableOp::Rule::kAll;
  if (needs_all && constant_beside) {
    for (const Operand& operand : operands)
      Leave(operand.value, op, operand.use.parameter, "beside a constant",
            fmt::format("the other operand of {} '{}' is a constant", op.type, NameOf(op)),
            by_name);
    return;
  }
  // Those without a usable range.
  for (Operand& operand : operands) {
    if (!operand.wish.settings || operand.done) continue;
    std::string category, reason;
    if (UsableStatistics(*operand.value, statistics_, &category, &reason) != nullptr) continue;
    Leave(operand.value, op, operand.use.parameter, category, reason, by_name);
    operand.wish.settings.reset();
    all = false;
  }
  if (needs_all && !all) {
    for (const Operand& operand : operands)
      if (operand.wish.settings && !operand.done)
        Leave(operand.value, op, operand.use.parameter, "beside a value that is left",
              fmt::format("{} '{}' needs all of its operands quantized", op.type, NameOf(op)),
              by_name);
    return;
  }
  const Wish* wish = nullptr;
  for (const Operand& operand : operands) {
    if (!operand.wish.settings) continue;
    if (wish == nullptr) wish = &operand.wish;
    if (operand.done) {
      Leave(operand.value, op, operand.use.parameter, "already quantized",
            "it comes out of a dequantize", false);
      continue;
    }
    std::vector<Wanted>& all_wanted = wanted_[operand.value];
    auto found = std::find_if(all_wanted.begin(), all_wanted.end(), [&](const Wanted& wanted) {
      return wanted.settings == *operand.wish.settings;
    });
    if (found == all_wanted.end())
      found = all_wanted.insert(all_wanted.end(), {.settings = *operand.wish.settings});
    found->uses.push_back(operand.use);
    found->readers.push_back(NameOfUse(op, operand.use.parameter));
    found->by_name = found->by_name || operand.wish.by_name;
  }
  if (wish != nullptr) ConsiderResult(op, *wish);
}

// Behind a quantized op.
void Placer::ConsiderResult(Operation& op, const Wish& wish) {
  const auto found = outputs_.find(&op);
  if (found == outputs_.end() || found->second.size() != 1) return;
  const Definition* result = found->second[0];
  const auto reads = [](const Definition& value) -> const Use* {
    for (const Use& use : value.uses)
      if (use.op != nullptr) return &use;
    return nullptr;
  };
  // An activation, if that is the first to read it and something reads what the activation makes.
  if (const Use* next = reads(*result); next != nullptr && IsFusedActivation(next->op->type)) {
    const auto activated = outputs_.find(next->op);
    if (activated != outputs_.end() && activated->second.size() == 1 &&
        reads(*activated->second[0]) != nullptr)
      result = activated->second[0];
  }
  const auto is_output = [](const Use& use) { return use.op == nullptr; };
  if (reads(*result) == nullptr) return;  // an output of the function, or nothing
  // What a caller gets stays as it is.
  if (std::any_of(result->uses.begin(), result->uses.end(), is_output)) return;
  if (std::all_of(result->uses.begin(), result->uses.end(),
                  [](const Use& use) { return use.op->type == "quantize"; }))
    return;
  if (!IsFloatValue(*result)) return;
  std::string category, reason;
  if (UsableStatistics(*result, statistics_, &category, &reason) == nullptr) {
    Leave(result, op, "result", category, reason, wish.by_name);
    return;
  }
  std::vector<Wanted>& all_wanted = wanted_[result];
  for (Wanted& wanted : all_wanted)
    if (wanted.behind) return;
  all_wanted.insert(all_wanted.begin(), {.settings = *wish.settings,
                                         .uses = {},
                                         .readers = {NameOfUse(op, "result")},
                                         .behind = true,
                                         .by_name = wish.by_name});
}

Placement Placer::Finish() {
  const auto take = [&](const Definition& value) {
    const auto found = wanted_.find(&value);
    if (found == wanted_.end()) return;
    std::vector<Wanted>& all = found->second;
    const auto behind =
        std::find_if(all.begin(), all.end(), [](const Wanted& wanted) { return wanted.behind; });
    if (behind != all.end()) {
      // One pair for all readers; who asked for something else is told.
      for (const Wanted& wanted : all) {
        if (&wanted == &*behind) continue;
        behind->readers.insert(behind->readers.end(), wanted.readers.begin(), wanted.readers.end());
        behind->by_name = behind->by_name || wanted.by_name;
        if (!(wanted.settings == behind->settings))
          placement_.notes.push_back(
              fmt::format("'{}' is made and read by ops with different options: those of {} hold",
                          value.value->name, behind->readers.front()));
      }
      behind->uses.clear();
      for (const Use& use : value.uses)
        if (use.op != nullptr && !alone_.contains({use.op, use.parameter}))
          behind->uses.push_back(use);
      Wanted only = std::move(*behind);
      all.clear();
      all.push_back(std::move(only));
    }
    for (Wanted& wanted : all)
      if (!wanted.uses.empty())
        placement_.quantized.push_back({.value = &value,
                                        .settings = wanted.settings,
                                        .uses = std::move(wanted.uses),
                                        .readers = std::move(wanted.readers),
                                        .behind = wanted.behind,
                                        .by_name = wanted.by_name,
                                        .range = {},
                                        .parameters = {}});
  };
  for (const Definition& input : index_.inputs()) take(input);
  for (const Definition& definition : index_.definitions()) take(definition);
  return std::move(placement_);
}

// --- Ranges -------------------------------------------------------------------------------------

// Sets of values that share a range.
class Ties {
 public:
  const Definition* Root(const Definition* value) {
    auto [found, is_new] = parents_.emplace(value, value);
    if (found->second == value) return value;
    const Definition* root = Root(found->second);
    parents_[value] = root;
    return root;
  }
  void Tie(const Definition* a, const Definition* b) { parents_[Root(a)] = Root(b); }

 private:
  std::unordered_map<const Definition*, const Definition*> parents_;
};

}  // namespace

Placement Place(Block& block, const GraphIndex& index, const Statistics& statistics,
                const PlacementOptions& options, const WishFor& wish_for) {
  return Placer(index, statistics, options, wish_for).Run(block);
}

void FindParameters(Placement& placement, const GraphIndex& index, const Statistics& statistics,
                    const PlacementOptions& options, const ForEach& for_each) {
  Ties ties;
  for (const Definition& definition : index.definitions()) {
    const Operation& op = *definition.op;
    const bool joins = op.type == "concat";
    if (options.tied == Tied::kNone || (options.tied == Tied::kConcat && !joins)) continue;
    if (!OnlyMoves(op, ConstantArgument(index, op, "mode"),
                   ConstantArgument(index, op, "constant_val")) ||
        !IsFloatValue(definition))
      continue;
    const auto found = op.inputs.find(joins || op.type == "stack" ? "values" : "x");
    if (found == op.inputs.end()) continue;
    for (const Binding& binding : found->second.bindings) {
      const auto* name = std::get_if<std::string>(&binding.target);
      const Definition* source = name == nullptr ? nullptr : index.FindValue(&op, *name);
      if (source != nullptr && !IsConstant(*source) && IsFloatValue(*source))
        ties.Tie(&definition, source);
    }
  }
  std::unordered_map<const Definition*, std::vector<const ValueStatistics*>> members;
  const auto add = [&](const Definition& value) {
    if (!IsFloatValue(value) || IsConstant(value)) return;
    if (const ValueStatistics* one = UsableStatistics(value, statistics))
      members[ties.Root(&value)].push_back(one);
  };
  for (const Definition& input : index.inputs()) add(input);
  for (const Definition& definition : index.definitions()) add(definition);

  // The same range is searched for once.
  struct Search {
    const std::vector<const ValueStatistics*>* values;
    Settings settings;
    DataType dtype;
    Range range;
    std::vector<QuantizedValue*> results;
  };
  std::vector<Search> searches;
  std::unordered_map<const Definition*, std::vector<size_t>> by_root;
  for (QuantizedValue& quantized : placement.quantized) {
    const Definition* root = ties.Root(quantized.value);
    const DataType dtype = quantized.value->value->type->tensor.dtype;
    std::vector<size_t>& candidates = by_root[root];
    const auto found = std::find_if(candidates.begin(), candidates.end(), [&](size_t i) {
      return searches[i].settings == quantized.settings && searches[i].dtype == dtype;
    });
    if (found != candidates.end()) {
      searches[*found].results.push_back(&quantized);
      continue;
    }
    candidates.push_back(searches.size());
    searches.push_back({.values = &members[root],
                        .settings = quantized.settings,
                        .dtype = dtype,
                        .range = {},
                        .results = {&quantized}});
  }
  for_each(searches.size(), [&](size_t i) {
    Search& search = searches[i];
    search.range = FindRange(*search.values, search.settings, search.dtype);
    for (QuantizedValue* quantized : search.results) {
      quantized->range = search.range;
      quantized->parameters = ParametersFor(search.range, search.settings, search.dtype);
    }
  });
}

void Insert(Block& block, const Placement& placement, const NameMaker& new_name) {
  // Behind the op with that index; of inputs at the start.
  std::unordered_map<const Block*, std::map<size_t, std::vector<Operation>>> behind, at_start;
  for (const QuantizedValue& quantized : placement.quantized) {
    const Definition& value = *quantized.value;
    std::vector<Operation> pair =
        MakePair(value.value->name, *value.value->type, quantized.parameters, new_name);
    const std::string dequantized = pair.back().outputs[0].name;
    for (const Use& use : quantized.uses)
      use.op->inputs.at(use.parameter).bindings[use.position].target = dequantized;
    std::vector<Operation>& place =
        value.op == nullptr ? at_start[value.block][0] : behind[value.block][value.index];
    for (Operation& op : pair) place.push_back(std::move(op));
  }
  const std::function<void(Block&)> rebuild = [&](Block& inside) {
    for (Operation& op : inside.operations)
      for (Block& inner : op.blocks) rebuild(inner);
    std::vector<Operation> operations;
    for (Operation& op : at_start[&inside][0]) operations.push_back(std::move(op));
    for (size_t i = 0; i < inside.operations.size(); ++i) {
      operations.push_back(std::move(inside.operations[i]));
      for (Operation& op : behind[&inside][i]) operations.push_back(std::move(op));
    }
    inside.operations = std::move(operations);
  };
  rebuild(block);
}

}  // namespace cmlc::activations
