#include "reports.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "cmlc/tensor.h"
#include "text.h"

namespace cmlc::tool {
namespace {

using Json = nlohmann::ordered_json;

struct Totals {
  uint64_t done = 0, left = 0, compressed = 0;
  uint64_t elements = 0;  // of what was done, each stored tensor once
  uint64_t bytes_before = 0, bytes_after = 0;
  Quality quality;
  std::map<std::string, uint64_t> left_by_category;

  double bits_per_weight() const {
    return elements == 0 ? 0 : static_cast<double>(bytes_after) * 8 / static_cast<double>(elements);
  }
};

Totals TotalsOf(const RunReport& report) {
  Totals totals;
  for (const WeightReport& weight : report.weights) {
    switch (weight.fate) {
      case WeightReport::Fate::kDone:
        ++totals.done;
        if (!weight.shared) {
          totals.elements += weight.element_count;
          totals.quality.signal += weight.quality.signal;
          totals.quality.noise += weight.quality.noise;
        }
        totals.bytes_before += weight.bytes_before;
        totals.bytes_after += weight.bytes_after;
        break;
      case WeightReport::Fate::kLeft:
        ++totals.left;
        ++totals.left_by_category[weight.category];
        break;
      case WeightReport::Fate::kAlreadyCompressed:
        ++totals.compressed;
        break;
    }
  }
  return totals;
}

bool HasSnr(const Quality& quality) { return quality.signal > 0 || quality.noise > 0; }

std::string SnrText(const Quality& quality) {
  if (!HasSnr(quality)) return "";
  const double snr = SnrDb(quality);
  return std::isinf(snr) ? ", lossless" : fmt::format(", SNR {:.2f} dB", snr);
}

// JSON has no infinity: a lossless result has a null SNR.
Json SnrJson(const Quality& quality) {
  const double snr = SnrDb(quality);
  return HasSnr(quality) && std::isfinite(snr) ? Json(snr) : Json(nullptr);
}

std::string Number(double value) { return fmt::format("{:.4g}", value); }

}  // namespace

bool OfActivations(const RunReport& report) {
  const PassInfo* info = FindPass(report.pass);
  return info != nullptr && info->kind == PassKind::kActivations;
}

std::string RewritesText(const RunReport& report) {
  std::string text;
  constexpr size_t kMostRewrites = 5;
  for (size_t i = 0; i < report.rewrites.size(); ++i) {
    if (i == kMostRewrites && report.rewrites.size() > kMostRewrites + 1) {
      text += fmt::format("rewritten: {} more (--json lists all)\n",
                          report.rewrites.size() - kMostRewrites);
      break;
    }
    text += fmt::format("rewritten: {}\n", report.rewrites[i]);
  }
  return text;
}

std::string LeftText(const std::map<std::string, uint64_t>& left, std::string_view noun) {
  uint64_t total = 0;
  for (const auto& [category, count] : left) total += count;
  if (total == 0) return {};
  std::string text = fmt::format("left alone: {}:", Plural(total, noun));
  const char* separator = " ";
  for (const auto& [category, count] : left) {
    text += fmt::format("{}{} {}", separator, count, category);
    separator = "; ";
  }
  return text + "\n";
}

struct ActivationTotals {
  uint64_t done = 0;
  std::map<std::string, uint64_t> left_by_category;
};

ActivationTotals ActivationTotalsOf(const RunReport& report) {
  ActivationTotals totals;
  for (const ActivationReport& activation : report.activations)
    activation.done ? ++totals.done : ++totals.left_by_category[activation.category];
  return totals;
}

std::string ActivationsText(const RunReport& report) {
  const ActivationTotals totals = ActivationTotalsOf(report);
  std::string text = fmt::format("{}: {} quantized\n", report.pass, Plural(totals.done, "value"));
  text += LeftText(totals.left_by_category, "value");
  if (!report.float_ops.empty()) {
    std::vector<std::string> ops;
    for (const auto& [type, count] : report.float_ops)
      ops.push_back(fmt::format("{} {}", type, count));
    text += fmt::format("in float: {}\n", fmt::join(ops, ", "));
  }
  return text + RewritesText(report);
}

std::string PassText(const RunReport& report) {
  if (OfActivations(report)) return ActivationsText(report);
  const Totals totals = TotalsOf(report);
  std::string text = fmt::format("{}: {} done", report.pass, Plural(totals.done, "weight"));
  if (totals.done > 0)
    text += fmt::format(", {} -> {} bytes, {:.2f} bits per weight{}",
                        Thousands(totals.bytes_before), Thousands(totals.bytes_after),
                        totals.bits_per_weight(), SnrText(totals.quality));
  text += "\n";
  if (totals.compressed > 0)
    text += fmt::format("already compressed: {}\n", Plural(totals.compressed, "weight"));
  text += LeftText(totals.left_by_category, "weight");
  return text + RewritesText(report);
}

std::string RunText(std::span<const RunReport> reports, const RunOptions& options) {
  std::string text;
  for (const RunReport& report : reports) text += PassText(report);
  const RunReport& report = reports.back();
  const double ratio = report.package_bytes_after == 0
                           ? 0
                           : static_cast<double>(report.package_bytes_before) /
                                 static_cast<double>(report.package_bytes_after);
  text += fmt::format("package: {} -> {} bytes ({:.2f} times smaller), {:.2f} s\n",
                      Thousands(report.package_bytes_before), Thousands(report.package_bytes_after),
                      ratio, report.seconds);
  if (!report.systems.empty())
    text += fmt::format("needs: {} or later{}\n", report.systems,
                        report.version_after > report.version_before ? " (raised)" : "");
  text += options.dry_run ? std::string("wrote: nothing (--dry-run)\n")
                          : fmt::format("wrote: {}\n", options.output.string());
  return text;
}

std::string PlanText(std::span<const RunReport> reports) {
  std::string text;
  for (const RunReport& report : reports) {
    for (const ActivationReport& activation : report.activations)
      text += fmt::format("{}: {} {} ({}): {}\n", report.pass, activation.name, activation.dtype,
                          fmt::join(activation.readers, ", "),
                          activation.done ? activation.form : "left alone: " + activation.reason);
    for (const WeightReport& weight : report.weights) {
      text += fmt::format("{}: {} {} {}: ", report.pass, weight.name, weight.dtype,
                          ToString(weight.shape));
      switch (weight.fate) {
        case WeightReport::Fate::kDone:
          text += fmt::format("{}, {} -> {} bytes{}\n", weight.form, Thousands(weight.bytes_before),
                              Thousands(weight.bytes_after),
                              weight.shared ? " (shared)" : SnrText(weight.quality));
          break;
        case WeightReport::Fate::kAlreadyCompressed:
          text += fmt::format("left as it is, compressed already: {}\n", weight.form);
          break;
        case WeightReport::Fate::kLeft:
          text += fmt::format("left alone: {}\n", weight.reason);
          break;
      }
    }
  }
  return text;
}

std::string WeightList(const PackageInfo& info) {
  std::string text;
  for (const WeightInfo& weight : info.weights)
    text += fmt::format("{}  {} {}  {}\n", weight.name, weight.dtype, ToString(weight.shape),
                        fmt::join(weight.consumers, ", "));
  return text;
}

std::string LintText(const std::vector<Finding>& findings) {
  std::string text;
  for (const Finding& finding : findings)
    text += fmt::format("{} ({}): {}\n  {}\n  {}\n", finding.id, NamesOf(finding.devices),
                        fmt::join(finding.names, ", "), finding.what, finding.source);
  return text + fmt::format("{} known form{}\n", findings.size(), findings.size() == 1 ? "" : "s");
}

Json FindingsJson(const std::vector<Finding>& findings) {
  Json list = Json::array();
  for (const Finding& finding : findings)
    list.push_back({{"id", finding.id},
                    {"devices", NamesOf(finding.devices)},
                    {"what", finding.what},
                    {"source", finding.source},
                    {"names", finding.names}});
  return list;
}

std::string LintJson(const std::vector<Finding>& findings) { return Dump(FindingsJson(findings)); }

void ListLeft(const RunReport& report, Console& console) {
  for (const ActivationReport& activation : report.activations) {
    if (activation.done)
      console.Say(fmt::format("{}: did '{}' {}: {}, range {:.4g} to {:.4g} of {:.4g} to {:.4g}",
                              report.pass, activation.name, activation.dtype, activation.form,
                              activation.low, activation.high, activation.least,
                              activation.greatest));
    else
      console.Note(fmt::format("{}: left '{}' ({}): {}", report.pass, activation.name,
                               fmt::join(activation.readers, ", "), activation.reason));
  }
  for (const WeightReport& weight : report.weights) {
    if (weight.fate == WeightReport::Fate::kDone) {
      console.Say(fmt::format("{}: did '{}' {} {}: {}{}", report.pass, weight.name, weight.dtype,
                              ToString(weight.shape), weight.form, SnrText(weight.quality)));
    } else {
      console.Note(fmt::format("{}: left '{}' as {}: {}", report.pass, weight.name, weight.form,
                               weight.fate == WeightReport::Fate::kAlreadyCompressed
                                   ? "it is compressed already"
                                   : weight.reason));
    }
  }
}

Json ActivationsJson(const RunReport& report) {
  Json activations = Json::array();
  for (const ActivationReport& activation : report.activations) {
    Json entry = {{"function", activation.function}, {"name", activation.name},
                  {"made_by", activation.made_by},   {"readers", activation.readers},
                  {"dtype", activation.dtype},       {"status", activation.done ? "done" : "left"}};
    if (activation.done) {
      entry["least"] = activation.least;
      entry["greatest"] = activation.greatest;
      entry["low"] = activation.low;
      entry["high"] = activation.high;
      entry["scale"] = activation.scale;
      entry["zero_point"] = activation.zero_point;
      entry["form"] = activation.form;
    } else {
      entry["category"] = activation.category;
      entry["reason"] = activation.reason;
    }
    activations.push_back(std::move(entry));
  }
  return activations;
}

Json WeightsJson(const RunReport& report) {
  Json weights = Json::array();
  for (const WeightReport& weight : report.weights) {
    const bool done = weight.fate == WeightReport::Fate::kDone;
    Json entry = {{"function", weight.function},
                  {"name", weight.name},
                  {"consumers", weight.consumers},
                  {"dtype", weight.dtype},
                  {"shape", weight.shape},
                  {"elements", weight.element_count},
                  {"status", done                                                    ? "done"
                             : weight.fate == WeightReport::Fate::kAlreadyCompressed ? "compressed"
                                                                                     : "left"},
                  {"form", weight.form},
                  {"shared", weight.shared},
                  {"bytes_before", weight.bytes_before},
                  {"bytes_after", weight.bytes_after}};
    if (!done) {
      entry["category"] = weight.category;
      entry["reason"] = weight.reason;
    } else {
      if (!weight.shared)
        entry["bits_per_weight"] =
            static_cast<double>(weight.bytes_after) * 8 / static_cast<double>(weight.element_count);
      entry["snr_db"] = SnrJson(weight.quality);
      entry["lossless"] = weight.quality.noise == 0;
    }
    weights.push_back(std::move(entry));
  }
  return weights;
}

Json PassJson(const RunReport& report, const RunOptions& options) {
  const bool of_activations = OfActivations(report);
  Json summary;
  if (of_activations) {
    const ActivationTotals totals = ActivationTotalsOf(report);
    uint64_t left = 0;
    for (const auto& [category, count] : totals.left_by_category) left += count;
    summary = {{"values_quantized", totals.done},
               {"values_left", left},
               {"left_by_category", totals.left_by_category},
               {"float_ops", report.float_ops}};
  } else {
    const Totals totals = TotalsOf(report);
    summary = {{"weights_done", totals.done},
               {"weights_left", totals.left},
               {"weights_already_compressed", totals.compressed},
               {"left_by_category", totals.left_by_category},
               {"bytes_before", totals.bytes_before},
               {"bytes_after", totals.bytes_after},
               {"bits_per_weight", totals.bits_per_weight()},
               {"snr_db", SnrJson(totals.quality)}};
  }
  const Json of_run = {{"package_bytes_before", report.package_bytes_before},
                       {"package_bytes_after", report.package_bytes_after},
                       {"specification_version_before", report.version_before},
                       {"specification_version", report.version_after},
                       {"needs", report.systems},
                       {"rewrites", report.rewrites},
                       {"notes", report.notes},
                       {"seconds", report.seconds}};
  summary.update(of_run);
  Json root = {{"pass", report.pass},
               {"input", options.input.string()},
               {"output", options.dry_run ? Json(nullptr) : Json(options.output.string())},
               {"summary", std::move(summary)},
               {"findings", FindingsJson(report.findings)}};
  if (of_activations)
    root["activations"] = ActivationsJson(report);
  else
    root["weights"] = WeightsJson(report);
  return root;
}

// One pass is an object, several are a list of them under "passes".
std::string RunJson(std::span<const RunReport> reports, const RunOptions& options) {
  Json root;
  if (reports.size() == 1) {
    root = PassJson(reports.front(), options);
  } else {
    root["passes"] = Json::array();
    for (const RunReport& report : reports) root["passes"].push_back(PassJson(report, options));
  }
  return Dump(root);
}

std::string InfoText(const PackageInfo& info, const std::filesystem::path& path) {
  std::string text =
      fmt::format("{}\n  kind: {}\n  specification version: {}", path.string(),
                  info.kind.empty() ? "none" : info.kind, info.specification_version);
  if (!info.systems.empty()) text += fmt::format(" ({})", info.systems);
  text += fmt::format("\n  size: {} bytes\n", Thousands(info.package_bytes));
  for (const FunctionInterface& function : info.functions) {
    if (info.functions.size() > 1) text += fmt::format("function {}:\n", function.name);
    const auto features = [&](std::string_view title, const std::vector<Feature>& all) {
      for (const Feature& feature : all)
        text += fmt::format("  {} {}: {}\n", title, feature.name, feature.type);
    };
    features("input", function.inputs);
    features("output", function.outputs);
    features("state", function.states);
  }
  for (const ProgramInfo& program : info.programs) {
    if (!program.label.empty())
      text += fmt::format("member {}: {}, specification version {}\n", program.label, program.kind,
                          program.specification_version);
    if (program.op_counts.empty()) continue;
    std::vector<std::pair<uint64_t, std::string>> counts;
    for (const auto& [type, count] : program.op_counts) counts.emplace_back(count, type);
    std::sort(counts.begin(), counts.end(), [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
    std::vector<std::string> ops;
    for (const auto& [count, type] : counts) ops.push_back(fmt::format("{} {}", type, count));
    text += fmt::format("ops: {}\n", fmt::join(ops, ", "));
  }
  if (!info.weights.empty()) text += "weights:\n";
  for (const WeightInfo& weight : info.weights) {
    const auto count = static_cast<double>(std::max<uint64_t>(1, weight.element_count));
    text += fmt::format(
        "  {}{}  {} {}  as {}, {}{}\n",
        info.functions.size() > 1 || info.programs.size() > 1 ? weight.function + "/" : "",
        weight.name, weight.dtype, ToString(weight.shape), weight.form,
        weight.shared ? std::string("shared")
                      : fmt::format("{} bytes, {:.2f} bits per weight", Thousands(weight.bytes),
                                    static_cast<double>(weight.bytes) * 8 / count),
        weight.distinct == 0
            ? std::string()
            : fmt::format(", {:.1f} % zeros, {} distinct, {} .. {}{}",
                          100 * static_cast<double>(weight.zeros) / count,
                          Thousands(weight.distinct), Number(weight.least), Number(weight.greatest),
                          weight.not_finite > 0
                              ? fmt::format(", {} not finite", Thousands(weight.not_finite))
                              : ""));
    for (const std::string& consumer : weight.consumers) text += fmt::format("    {}\n", consumer);
  }
  const double bits = info.weight_elements == 0 ? 0
                                                : static_cast<double>(info.weight_bytes) * 8 /
                                                      static_cast<double>(info.weight_elements);
  text += fmt::format("total: {}, {} elements, {} bytes, {:.2f} bits per weight\n",
                      Plural(info.weights.size(), "weight"), Thousands(info.weight_elements),
                      Thousands(info.weight_bytes), bits);
  return text;
}

std::string InfoJson(const PackageInfo& info, const std::filesystem::path& path) {
  const auto features = [](const std::vector<Feature>& all) {
    Json list = Json::array();
    for (const Feature& feature : all)
      list.push_back({{"name", feature.name}, {"type", feature.type}});
    return list;
  };
  Json functions = Json::array();
  for (const FunctionInterface& function : info.functions)
    functions.push_back({{"name", function.name},
                         {"inputs", features(function.inputs)},
                         {"outputs", features(function.outputs)},
                         {"states", features(function.states)}});
  Json programs = Json::array();
  for (const ProgramInfo& program : info.programs)
    programs.push_back({{"member", program.label},
                        {"kind", program.kind},
                        {"specification_version", program.specification_version},
                        {"opsets", program.opsets},
                        {"ops", program.op_counts}});
  Json weights = Json::array();
  for (const WeightInfo& weight : info.weights) {
    Json entry = {{"function", weight.function},   {"name", weight.name},
                  {"consumers", weight.consumers}, {"dtype", weight.dtype},
                  {"shape", weight.shape},         {"elements", weight.element_count},
                  {"form", weight.form},           {"compressed", weight.compressed},
                  {"shared", weight.shared},       {"bytes", weight.bytes}};
    if (!weight.shared)
      entry["bits_per_weight"] = static_cast<double>(weight.bytes) * 8 /
                                 static_cast<double>(std::max<uint64_t>(1, weight.element_count));
    if (weight.distinct > 0) {
      entry["sparsity"] =
          static_cast<double>(weight.zeros) / static_cast<double>(weight.element_count);
      entry["distinct"] = weight.distinct;
      entry["min"] = weight.least;
      entry["max"] = weight.greatest;
      entry["not_finite"] = weight.not_finite;
    }
    weights.push_back(std::move(entry));
  }
  const Json root = {{"path", path.string()},
                     {"kind", info.kind},
                     {"specification_version", info.specification_version},
                     {"needs", info.systems},
                     {"package_bytes", info.package_bytes},
                     {"functions", std::move(functions)},
                     {"programs", std::move(programs)},
                     {"weights", std::move(weights)},
                     {"weight_elements", info.weight_elements},
                     {"weight_bytes", info.weight_bytes}};
  return Dump(root);
}

}  // namespace cmlc::tool
