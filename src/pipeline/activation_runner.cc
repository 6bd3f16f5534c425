#include "pipeline/activation_runner.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <vector>

#include "activations/placement.h"
#include "activations/quantization.h"
#include "calibrate/collect.h"
#include "calibrate/hash.h"
#include "ir/graph_index.h"
#include "passes/activations.h"

namespace cmlc {
namespace {

using activations::Placement;
using activations::Wish;
using calibrate::Statistics;

constexpr int32_t kSpecIos17 = 8;  // the first with quantize and dequantize

// A function of a program, as it runs.
struct Site {
  Function* function = nullptr;
  Block* block = nullptr;
  std::string label;  // "main"; of a pipeline's member "1:main"
  const Statistics* statistics = nullptr;
};

void CollectNames(const Block& block, std::set<std::string>& names) {
  for (const NamedValueType& input : block.inputs) names.insert(input.name);
  for (const Operation& op : block.operations) {
    names.insert(NameOf(op));
    for (const NamedValueType& output : op.outputs) names.insert(output.name);
    for (const Block& inner : op.blocks) CollectNames(inner, names);
  }
}

std::string FormText(const activations::Parameters& parameters) {
  return fmt::format("{}, scale {:.6g}{}", NameOf(parameters.dtype), parameters.scale,
                     parameters.zero_point == 0
                         ? std::string()
                         : fmt::format(", zero point {}", parameters.zero_point));
}

class ActivationRunner {
 public:
  ActivationRunner(const PassInfo& info, const RuleSet& rules, const RunContext& context,
                   RunReport& report)
      : info_(info),
        rules_(rules),
        base_(static_cast<const ActivationPass&>(rules.base())),
        context_(context),
        report_(report) {}

  Status RunPart(const Part& part, const OpsetInfo* target, const StatisticsOf& statistics);

 private:
  std::vector<Site> SitesOf(const Part& part, const StatisticsOf& statistics) const;
  Placement PlaceIn(const Site& site, const GraphIndex& index);
  Status RunSite(const Site& site, int32_t version);
  void Report(const Site& site, const Placement& placement);

  const PassInfo& info_;
  const RuleSet& rules_;
  const ActivationPass& base_;
  const RunContext& context_;
  RunReport& report_;
  Status wrong_;  // what a rule asks for and cannot have
};

std::vector<Site> ActivationRunner::SitesOf(const Part& part,
                                            const StatisticsOf& statistics) const {
  std::vector<Site> sites;
  for (auto& [name, function] : part.model->program->functions) {
    Block* block = ActiveBlock(function);
    if (block == nullptr) continue;
    const auto found = statistics.find({part.model, name});
    sites.push_back({.function = &function,
                     .block = block,
                     .label = part.prefix + name,
                     .statistics = found == statistics.end() ? nullptr : &found->second});
  }
  return sites;
}

Placement ActivationRunner::PlaceIn(const Site& site, const GraphIndex& index) {
  const auto wish_for = [&](const Operation& op, const std::string& parameter,
                            const Definition& value) {
    const std::optional<Shape> shape =
        value.value->type ? StaticShape(*value.value->type) : std::nullopt;
    Consumer consumer;
    consumer.op_type = op.type;
    consumer.op_name = NameOf(op);
    consumer.output_name = op.outputs.empty() ? std::string() : op.outputs[0].name;
    consumer.parameter = parameter;
    const RuleSet::Choice choice =
        rules_.For({.name = value.value->name,
                    .by_own_name = false,
                    .shape = shape ? &*shape : nullptr,
                    .element_count = shape ? ElementCount(*shape).value_or(0) : 0,
                    .consumers = std::span(&consumer, 1)});
    if (choice.pass == nullptr)
      return Wish{.settings = std::nullopt, .because = choice.because, .by_name = false};
    const auto& pass = static_cast<const ActivationPass&>(*choice.pass);
    if (!(pass.placement() == base_.placement()) ||
        pass.normalize_scales() != base_.normalize_scales())
      wrong_ = Error{ErrorKind::kUsage,
                     fmt::format("{}: ops, tied, keep_io and normalize_scales are options of the "
                                 "whole pass, not of a rule",
                                 choice.because)};
    return Wish{.settings = pass.settings(),
                .because = {},
                .by_rule = !choice.because.empty(),
                .by_name = choice.by_name};
  };
  return activations::Place(*site.block, index, *site.statistics, base_.placement(), wish_for);
}

void ActivationRunner::Report(const Site& site, const Placement& placement) {
  for (const activations::QuantizedValue& quantized : placement.quantized) {
    ActivationReport row;
    row.done = true;
    row.function = site.label;
    row.name = quantized.value->value->name;
    row.made_by = quantized.value->op == nullptr ? "input" : quantized.value->op->type;
    row.readers = quantized.readers;
    row.dtype = NameOf(quantized.value->value->type->tensor.dtype);
    row.asked_for = quantized.by_name;
    row.low = quantized.range.low;
    row.high = quantized.range.high;
    row.scale = quantized.parameters.scale;
    row.zero_point = quantized.parameters.zero_point;
    row.form = FormText(quantized.parameters);
    const auto& seen = site.statistics->values.at(row.name);
    row.least = static_cast<double>(seen.least);
    row.greatest = static_cast<double>(seen.greatest);
    if (quantized.parameters.raised)
      report_.notes.push_back(
          fmt::format("'{}': its range {:.3g} to {:.3g} is too small for {}: the scale is the "
                      "least that is normal",
                      row.name, row.low, row.high, row.dtype));
    report_.activations.push_back(std::move(row));
  }
  for (const activations::LeftValue& left : placement.left) {
    ActivationReport row;
    row.function = site.label;
    row.name = left.value->value->name;
    row.made_by = left.value->op == nullptr ? "input" : left.value->op->type;
    row.readers = {left.op};
    if (left.value->value->type) row.dtype = NameOf(left.value->value->type->tensor.dtype);
    row.asked_for = left.by_name;
    row.category = left.category;
    row.reason = left.reason;
    report_.activations.push_back(std::move(row));
  }
  for (const auto& [type, count] : placement.float_ops) report_.float_ops[type] += count;
  for (const std::string& note : placement.notes) report_.notes.push_back(note);
}

Status ActivationRunner::RunSite(const Site& site, int32_t version) {
  std::set<std::string> names;
  for (const NamedValueType& input : site.function->inputs) names.insert(input.name);
  CollectNames(*site.block, names);
  const activations::NameMaker new_name = [&](const std::string& name) {
    std::string unique = name;
    for (int i = 1; !names.insert(unique).second; ++i) unique = fmt::format("{}_{}", name, i);
    return unique;
  };
  {
    const GraphIndex index(*site.block, site.function->inputs);
    Placement placement = PlaceIn(site, index);
    activations::FindParameters(placement, index, *site.statistics, base_.placement(),
                                [&](size_t count, const std::function<void(size_t)>& work) {
                                  context_.pool.For(count, [&](size_t i, int) { work(i); });
                                });
    Report(site, placement);
    activations::Insert(*site.block, placement, new_name);
  }
  return activations::CleanUp(*site.block, site.function->inputs, version, base_.normalize_scales(),
                              context_.package.tensors(), new_name, report_.rewrites);
}

Status ActivationRunner::RunPart(const Part& part, const OpsetInfo* target,
                                 const StatisticsOf& statistics) {
  CMLC_RETURN_IF_ERROR(CheckTarget(part, target, context_.package));
  const int32_t given =
      std::max(part.model->specification_version, target == nullptr ? 0 : target->spec_version);
  bool any = false;
  for (const Site& site : SitesOf(part, statistics)) {
    if (site.statistics == nullptr) {
      context_.diagnostics.Note(
          fmt::format("{}: function '{}' has no statistics and stays as it is; --stats may be "
                      "given for each function",
                      info_.name, site.label));
      continue;
    }
    const GraphIndex index(*site.block, site.function->inputs);
    const Placement placement = PlaceIn(site, index);
    CMLC_RETURN_IF_ERROR(wrong_);
    if (placement.quantized.empty()) continue;
    any = true;
    if (target != nullptr && given < kSpecIos17)
      return BeyondTarget(*target, kSpecIos17, placement.quantized.front().value->value->name,
                          "quantize");
  }
  const int32_t version = any ? std::max(given, kSpecIos17) : given;
  if (version > part.model->specification_version)
    CMLC_RETURN_IF_ERROR(Raise(part, version, context_.package, report_));
  for (const Site& site : SitesOf(part, statistics))
    if (site.statistics != nullptr) CMLC_RETURN_IF_ERROR(RunSite(site, version));
  return Ok();
}

}  // namespace

Result<StatisticsOf> FindStatistics(const RunOptions& options, const RunContext& context) {
  StatisticsOf found;
  const std::vector<Part> parts = ProgramsOf(context.package.model());
  const auto give = [&](Statistics statistics, const std::string& origin) -> Status {
    std::string expected;
    for (const Part& part : parts) {
      const auto function = part.model->program->functions.find(statistics.function);
      if (function == part.model->program->functions.end()) continue;
      CMLC_ASSIGN_OR_RETURN(const std::string hash,
                            calibrate::HashModel(*part.model->program, statistics.function,
                                                 context.package.tensors(), context.pool));
      expected = hash;
      if (hash != statistics.model) continue;
      if (!found.emplace(std::pair(part.model, statistics.function), std::move(statistics)).second)
        return Error{ErrorKind::kUsage,
                     fmt::format("{}: there are statistics of function '{}' already; `cmlc stats "
                                 "merge` makes one file of several",
                                 origin, function->first)};
      return Ok();
    }
    return Error{
        ErrorKind::kUsage,
        expected.empty()
            ? fmt::format("{}: is of function '{}', which '{}' has not", origin,
                          statistics.function, context.package.path().string())
            : fmt::format("{}: is of another model (hash {}) than '{}' (hash {}); calibrate this "
                          "one",
                          origin, statistics.model, context.package.path().string(), expected)};
  };
  for (const std::filesystem::path& path : options.statistics) {
    CMLC_ASSIGN_OR_RETURN(Statistics statistics, calibrate::ReadStatistics(path));
    if (statistics.data.starts_with("random"))
      context.diagnostics.Warning(
          fmt::format("{}: is of random numbers and no calibration", path.string()));
    CMLC_RETURN_IF_ERROR(give(std::move(statistics), path.string()));
  }
  if (options.calibration) {
    CMLC_ASSIGN_OR_RETURN(
        calibrate::Collected collected,
        calibrate::Collect(context.package, options.calibration->data,
                           options.calibration->execution, {}, context.diagnostics));
    CMLC_RETURN_IF_ERROR(give(std::move(collected.statistics), "the data"));
  }
  if (found.empty())
    return Error{ErrorKind::kUsage,
                 "activations: expected --data DATA to run the model over, or --stats FILE of "
                 "`cmlc calibrate`, got neither"};
  return found;
}

Status RunActivationPass(const PassInfo& info, const RuleSet& rules, const OpsetInfo* target,
                         const StatisticsOf& statistics, const RunContext& context,
                         RunReport& report) {
  ActivationRunner runner(info, rules, context, report);
  for (const Part& part : ProgramsOf(context.package.model()))
    CMLC_RETURN_IF_ERROR(runner.RunPart(part, target, statistics));
  return Ok();
}

}  // namespace cmlc
