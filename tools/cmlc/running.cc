#include "running.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cmlc/compare.h"
#include "cmlc/predict.h"
#include "console.h"
#include "data_arguments.h"
#include "text.h"

namespace cmlc::tool {
namespace {

using Json = nlohmann::ordered_json;
using Metric = Threshold::Metric;

// JSON has no infinity.
Json Finite(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

// --- predict ------------------------------------------------------------------------------------

std::string PredictText(const PredictReport& report, const PredictOptions& options) {
  std::string text = fmt::format("predict: {}", Plural(report.samples, "sample"));
  if (report.steps != report.samples) text += fmt::format(" of {}", Plural(report.steps, "step"));
  text +=
      fmt::format(" ({}), function '{}', {:.2f} s\n", report.data, report.function, report.seconds);
  for (const PredictReport::Output& output : report.outputs) {
    text += fmt::format("output {}: {}", output.name, output.type);
    if (!output.stored.empty() && output.stored != output.type)
      text += fmt::format(", stored as {}", output.stored);
    text += "\n";
  }
  return text + fmt::format("wrote: {}\n", options.output.string());
}

std::string PredictJson(const PredictReport& report, const PredictOptions& options) {
  Json outputs = Json::array();
  for (const PredictReport::Output& output : report.outputs)
    outputs.push_back({{"name", output.name}, {"type", output.type}, {"stored", output.stored}});
  const Json root = {{"model", options.model.string()},
                     {"output", options.output.string()},
                     {"function", report.function},
                     {"data", report.data},
                     {"samples", report.samples},
                     {"steps", report.steps},
                     {"outputs", std::move(outputs)},
                     {"peak_bytes", report.peak_bytes},
                     {"isa", report.isa},
                     {"seconds", report.seconds}};
  return Dump(root);
}

// --- compare ------------------------------------------------------------------------------------

struct Line {
  const char* title;
  const char* key;
  std::optional<Spread> OutputComparison::*spread;
  const char* unit;
  const char* worst;  // what the worst is
};

constexpr Line kLines[] = {
    {"SNR", "snr_db", &OutputComparison::snr, " dB", "least"},
    {"PSNR", "psnr_db", &OutputComparison::psnr, " dB", "least"},
    {"cosine", "cosine", &OutputComparison::cosine, "", "least"},
    {"max error", "max_error", &OutputComparison::max_error, "", "greatest"},
    {"relative error", "relative_error", &OutputComparison::relative, "", "greatest"},
    {"KL", "kl", &OutputComparison::kl, "", "greatest"},
    {"equal", "equal", &OutputComparison::equal, "", "least"},
    {"top-1 agreement", "top1", &OutputComparison::top1, "", "least"},
    {"top-5 agreement", "top5", &OutputComparison::top5, "", "least"},
};

std::string SpreadText(const Line& line, const Spread& spread, uint64_t values) {
  const bool decibels = std::string_view(line.unit) == " dB";
  const auto number = [&](double value) {
    return (decibels ? fmt::format("{:.2f}", value) : fmt::format("{:.6g}", value)) + line.unit;
  };
  if (values <= 1) return fmt::format("  {:<16} {}\n", line.title, number(spread.mean));
  return fmt::format("  {:<16} mean {}, {} {} (sample {}), 5 % quantile {}\n", line.title,
                     number(spread.mean), line.worst, number(spread.worst), spread.worst_sample,
                     number(spread.quantile));
}

std::string BitsText(double bits) { return bits == 0 ? "shared" : fmt::format("{:.2f}", bits); }

std::string CompareText(const CompareReport& report) {
  std::string text = fmt::format("weights: {} in both, {} equal", Thousands(report.weights.size()),
                                 Thousands(report.equal_weights));
  if (report.weight_snr_db) text += fmt::format(", SNR of all {:.2f} dB", *report.weight_snr_db);
  text += fmt::format("\nbits per weight: {:.2f} -> {:.2f}, {} -> {} bytes\n",
                      report.bits_per_weight_a, report.bits_per_weight_b,
                      Thousands(report.weight_bytes_a), Thousands(report.weight_bytes_b));
  for (const WeightComparison& weight : report.weights) {
    if (weight.equal && weight.form_a == weight.form_b) continue;
    text +=
        fmt::format("  {} {}: {} -> {}, {} -> {} bits", weight.name, weight.shape, weight.form_a,
                    weight.form_b, BitsText(weight.bits_a), BitsText(weight.bits_b));
    text += weight.equal ? std::string(", equal values\n")
                         : fmt::format(", SNR {:.2f} dB, max error {:.4g}\n", weight.snr_db,
                                       weight.max_error);
  }
  for (const std::string& name : report.only_in_a) text += fmt::format("only in A: {}\n", name);
  for (const std::string& name : report.only_in_b) text += fmt::format("only in B: {}\n", name);
  if (report.ran) {
    text += fmt::format("samples: {}", Thousands(report.samples));
    if (report.steps != report.samples) text += fmt::format(" of {}", Plural(report.steps, "step"));
    text += fmt::format(" ({}), function '{}', {:.2f} s\n", report.data, report.function,
                        report.seconds);
  }
  for (const OutputComparison& output : report.outputs) {
    text += fmt::format("output {}: {}\n", output.name, output.type);
    for (const Line& line : kLines)
      if (const std::optional<Spread>& spread = output.*line.spread)
        text += SpreadText(line, *spread, output.values);
    if (output.accuracy_a)
      text += fmt::format("  {:<16} A {:.6g}, B {:.6g}\n", "accuracy", *output.accuracy_a,
                          *output.accuracy_b);
    if (output.top5_accuracy_a)
      text += fmt::format("  {:<16} A {:.6g}, B {:.6g}\n", "top-5 accuracy",
                          *output.top5_accuracy_a, *output.top5_accuracy_b);
    if (output.both_not_finite > 0)
      text +=
          fmt::format("  {} are not finite in both\n", Plural(output.both_not_finite, "element"));
    if (output.not_finite_in_one > 0)
      text += fmt::format("  {} are not finite in one model alone\n",
                          Plural(output.not_finite_in_one, "element"));
  }
  for (const std::string& name : report.outputs_only_in_a)
    text += fmt::format("output only in A: {}\n", name);
  for (const std::string& name : report.outputs_only_in_b)
    text += fmt::format("output only in B: {}\n", name);
  if (!report.ops.empty()) {
    constexpr size_t kMostOps = 10;
    std::vector<const OpComparison*> ops;
    for (const OpComparison& op : report.ops)
      if (op.loss > 0) ops.push_back(&op);
    std::stable_sort(ops.begin(), ops.end(), [](const OpComparison* a, const OpComparison* b) {
      return a->loss > b->loss;
    });
    text += fmt::format("ops: {} compared, the SNR falls in {}{}\n", report.ops.size(), ops.size(),
                        ops.size() > kMostOps ? ", most of all in"
                        : ops.empty()         ? ""
                                              : ":");
    ops.resize(std::min(ops.size(), kMostOps));
    for (const OpComparison* op : ops)
      text += fmt::format("  {} {}: by {:.2f} dB to mean {:.2f} dB, max error {:.4g}\n", op->type,
                          op->name, op->loss, op->snr.mean, op->max_error);
  }
  for (const std::string& missed : report.missed) text += fmt::format("missed: {}\n", missed);
  return text;
}

Json SpreadJson(const Spread& spread) {
  return {{"mean", Finite(spread.mean)},
          {"worst", Finite(spread.worst)},
          {"quantile_5_percent", Finite(spread.quantile)},
          {"worst_sample", spread.worst_sample}};
}

std::string CompareJson(const CompareReport& report, const CompareOptions& options) {
  Json weights = Json::array();
  for (const WeightComparison& weight : report.weights)
    weights.push_back({{"name", weight.name},
                       {"shape", weight.shape},
                       {"elements", weight.elements},
                       {"form_a", weight.form_a},
                       {"form_b", weight.form_b},
                       {"bits_a", weight.bits_a},
                       {"bits_b", weight.bits_b},
                       {"equal", weight.equal},
                       {"snr_db", Finite(weight.snr_db)},
                       {"max_error", weight.max_error},
                       {"not_finite_in_one", weight.not_finite_in_one}});
  Json root = {
      {"a", options.model_a.string()},
      {"b", options.model_b.string()},
      {"weights", std::move(weights)},
      {"equal_weights", report.equal_weights},
      {"only_in_a", report.only_in_a},
      {"only_in_b", report.only_in_b},
      {"weight_elements", report.weight_elements},
      {"weight_bytes_a", report.weight_bytes_a},
      {"weight_bytes_b", report.weight_bytes_b},
      {"bits_per_weight_a", report.bits_per_weight_a},
      {"bits_per_weight_b", report.bits_per_weight_b},
      {"weight_snr_db", report.weight_snr_db ? Finite(*report.weight_snr_db) : Json(nullptr)}};
  if (report.ran) {
    Json outputs = Json::array();
    for (const OutputComparison& output : report.outputs) {
      Json entry = {{"name", output.name}, {"type", output.type}, {"values", output.values}};
      for (const Line& line : kLines)
        if (const std::optional<Spread>& spread = output.*line.spread)
          entry[line.key] = SpreadJson(*spread);
      if (output.accuracy_a) {
        entry["accuracy_a"] = *output.accuracy_a;
        entry["accuracy_b"] = *output.accuracy_b;
      }
      if (output.top5_accuracy_a) {
        entry["top5_accuracy_a"] = *output.top5_accuracy_a;
        entry["top5_accuracy_b"] = *output.top5_accuracy_b;
      }
      entry["both_not_finite"] = output.both_not_finite;
      entry["not_finite_in_one"] = output.not_finite_in_one;
      outputs.push_back(std::move(entry));
    }
    root["function"] = report.function;
    root["data"] = report.data;
    root["isa"] = report.isa;
    root["samples"] = report.samples;
    root["steps"] = report.steps;
    root["outputs"] = std::move(outputs);
    root["outputs_only_in_a"] = report.outputs_only_in_a;
    root["outputs_only_in_b"] = report.outputs_only_in_b;
    if (options.per_op) {
      Json ops = Json::array();
      for (const OpComparison& op : report.ops)
        ops.push_back({{"type", op.type},
                       {"name", op.name},
                       {"snr_db", SpreadJson(op.snr)},
                       {"max_error", op.max_error},
                       {"snr_loss_db", op.loss}});
      root["ops"] = std::move(ops);
    }
  }
  root["seconds"] = report.seconds;
  root["missed"] = report.missed;
  return Dump(root);
}

struct Limit {
  Metric metric;
  const char* option;
  const char* help;
};

constexpr Limit kLimits[] = {
    {Metric::kMinSnr, "--min-snr", "least SNR in dB that any sample may have"},
    {Metric::kMinPsnr, "--min-psnr", "least PSNR in dB that any sample may have"},
    {Metric::kMinCosine, "--min-cosine", "least cosine that any sample may have"},
    {Metric::kMaxError, "--max-error", "largest absolute difference of any element"},
    {Metric::kMaxRelative, "--max-relative", "largest relative error (L2) of any sample"},
    {Metric::kMaxKl, "--max-kl", "largest mean KL divergence in nats"},
    {Metric::kMinTop1, "--min-top1", "least share of samples with the same best element"},
    {Metric::kMinTop5, "--min-top5", "least mean share of the best five elements in common"},
    {Metric::kMinAccuracy, "--min-accuracy", "least accuracy of B (needs --labels)"},
    {Metric::kMinEqual, "--min-equal", "least share of equal elements (integers, labels)"},
    {Metric::kMinWeightSnr, "--min-weight-snr", "least SNR in dB of weights (needs no data)"},
};

}  // namespace

struct RunningCommands::Impl {
  CLI::App* predict = nullptr;
  std::string predict_model, output;
  DataArguments predict_data;

  CLI::App* compare = nullptr;
  std::string a, b, labels;
  bool per_op = false;
  DataArguments compare_data;
  std::vector<std::string> limits[std::size(kLimits)];

  int RunPredict();
  int RunCompare();
};

RunningCommands::RunningCommands(CLI::App& root) : impl_(std::make_unique<Impl>()) {
  Impl& impl = *impl_;
  impl.predict = root.add_subcommand("predict", "run a model on data, on the CPU");
  impl.predict->footer(
      "Without -o all outputs go to stdout as JSON. Images are given to the program as their "
      "pixels, 0 to 255: scaling is part of the model. Several samples are stacked in an .npz "
      "file.");
  impl.predict->add_option("model", impl.predict_model, "the model to run, an .mlpackage")
      ->required();
  impl.predict->add_option("-o,--output", impl.output, "the file to write: .npz or .json");
  impl.predict_data.Add(*impl.predict);

  impl.compare = root.add_subcommand(
      "compare", "compare two models: their weights, and with data their outputs");
  impl.compare->footer(
      "A is the reference. Limits may be given for one output, as --min-snr NAME=40, or for all, "
      "as --min-snr 40; if one is missed, or a value is NaN in one model alone, the exit code is "
      "5.");
  impl.compare
      ->add_option("a", impl.a, "the reference, an .mlpackage or (for its weights) an .mlmodel")
      ->required();
  impl.compare->add_option("b", impl.b, "the model to compare with it")->required();
  impl.compare_data.Add(*impl.compare);
  impl.compare
      ->add_option("--labels", impl.labels,
                   "the class of each sample (.npy of integers), for the accuracy of both")
      ->type_name("[OUTPUT=]FILE");
  impl.compare->add_flag("--per-op", impl.per_op,
                         "compare what operations of the same name give, too: where error enters");
  for (size_t i = 0; i < std::size(kLimits); ++i)
    impl.compare->add_option(kLimits[i].option, impl.limits[i], kLimits[i].help)
        ->allow_extra_args(false)
        ->type_name("[NAME=]NUMBER");
}

RunningCommands::~RunningCommands() = default;

bool RunningCommands::asked() const { return *impl_->predict || *impl_->compare; }

int RunningCommands::Run() { return *impl_->predict ? impl_->RunPredict() : impl_->RunCompare(); }

int RunningCommands::Impl::RunPredict() {
  Console console(predict_data.quiet, false);
  PredictOptions options;
  options.model = predict_model;
  options.output = output;
  options.data = predict_data.data;
  options.execution = predict_data.execution;
  const Result<PredictReport> report = Predict(options, console);
  if (!report.ok()) {
    console.Failure(report.error());
    return ExitCode(report.error().kind);
  }
  console.EndProgress();
  if (output.empty())
    Print(report->json);
  else if (predict_data.json)
    Print(PredictJson(*report, options));
  else if (!predict_data.quiet)
    Print(PredictText(*report, options));
  return 0;
}

int RunningCommands::Impl::RunCompare() {
  Console console(compare_data.quiet, false);
  CompareOptions options;
  options.model_a = a;
  options.model_b = b;
  options.data = compare_data.data;
  options.execution = compare_data.execution;
  options.labels = labels;
  options.per_op = per_op;
  const auto fail = [&](const Error& error) {
    console.Failure(error);
    return ExitCode(error.kind);
  };
  for (size_t i = 0; i < std::size(kLimits); ++i)
    for (const std::string& text : limits[i]) {
      const Result<Threshold> threshold = ParseThreshold(kLimits[i].metric, text);
      if (!threshold.ok())
        return fail({threshold.error().kind,
                     fmt::format("{} {}", kLimits[i].option, threshold.error().message)});
      options.thresholds.push_back(*threshold);
    }
  const Result<CompareReport> report = Compare(options, console);
  if (!report.ok()) return fail(report.error());
  console.EndProgress();
  if (compare_data.json)
    Print(CompareJson(*report, options));
  else if (!compare_data.quiet)
    Print(CompareText(*report));
  if (report->missed.empty()) return 0;
  return fail(
      {ErrorKind::kMissed, fmt::format("compare: missed: {}", fmt::join(report->missed, "; "))});
}

}  // namespace cmlc::tool
