#include "calibrating.h"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cmlc/calibrate.h"
#include "console.h"
#include "data_arguments.h"
#include "text.h"

namespace cmlc::tool {
namespace {

using Json = nlohmann::ordered_json;

std::string CalibrateText(const CalibrateReport& report, const CalibrateOptions& options) {
  std::string text = fmt::format("calibrate: {}", Plural(report.samples, "sample"));
  if (report.steps != report.samples) text += fmt::format(" of {}", Plural(report.steps, "step"));
  text +=
      fmt::format(" ({}), function '{}', {:.2f} s\n", report.data, report.function, report.seconds);
  text += fmt::format("statistics of {}, and of what {} with weights read\n",
                      Plural(report.values, "value"), Plural(report.inputs, "op"));
  for (const std::string& problem : report.problems) text += "not finite: " + problem + "\n";
  return text + fmt::format("wrote: {}\n", options.output.string());
}

std::string CalibrateJson(const CalibrateReport& report, const CalibrateOptions& options) {
  return Dump({{"model", options.model.string()},
               {"output", options.output.string()},
               {"function", report.function},
               {"data", report.data},
               {"samples", report.samples},
               {"steps", report.steps},
               {"resumed", report.resumed},
               {"values", report.values},
               {"inputs", report.inputs},
               {"problems", report.problems},
               {"peak_bytes", report.peak_bytes},
               {"seconds", report.seconds}});
}

std::string SummaryText(const StatisticsSummary& summary) {
  std::string text =
      fmt::format("{} of {}, function '{}', data {}, model {}\n", Plural(summary.samples, "sample"),
                  Plural(summary.steps, "step"), summary.function, summary.data, summary.model);
  text +=
      fmt::format("{:>12} {:>12} {:>12} {:>12} {:>12} {:>12} {:>7} {:>8}  {}\n", "least", "0.01 %",
                  "99.99 %", "greatest", "mean", "deviation", "zeros", "channels", "value");
  for (const StatisticsSummary::Value& value : summary.values) {
    const std::string channels =
        value.widest_channel > 0 ? fmt::format("{:.2f}", value.widest_channel) : "-";
    text += fmt::format(
        "{:12.5g} {:12.5g} {:12.5g} {:12.5g} {:12.5g} {:12.5g} {:6.2f}% {:>8}  {} ({})\n",
        value.least, value.low, value.high, value.greatest, value.mean, value.deviation,
        100 * value.zeros, channels, value.name,
        value.op_type.empty() ? std::string("input") : value.op_type);
    if (value.not_finite > 0)
      text += fmt::format("{:>12} {} of its elements are infinite or not a number\n", "",
                          value.not_finite);
  }
  return text;
}

std::string SummaryJson(const StatisticsSummary& summary) {
  Json values = Json::array();
  for (const StatisticsSummary::Value& value : summary.values)
    values.push_back({{"name", value.name},
                      {"op_type", value.op_type},
                      {"dtype", value.dtype},
                      {"runs", value.runs},
                      {"elements", value.elements},
                      {"not_finite", value.not_finite},
                      {"least", value.least},
                      {"greatest", value.greatest},
                      {"p0.01", value.low},
                      {"p99.99", value.high},
                      {"mean", value.mean},
                      {"deviation", value.deviation},
                      {"zeros", value.zeros},
                      {"widest_channel", value.widest_channel}});
  return Dump({{"model", summary.model},
               {"function", summary.function},
               {"data", summary.data},
               {"samples", summary.samples},
               {"steps", summary.steps},
               {"inputs", summary.inputs},
               {"values", std::move(values)}});
}

}  // namespace

struct CalibratingCommands::Impl {
  CLI::App* calibrate = nullptr;
  std::string model, output;
  DataArguments data;

  CLI::App* stats = nullptr;
  CLI::App* show = nullptr;
  std::string shown;
  bool json = false;
  CLI::App* merge = nullptr;
  std::vector<std::string> merged;
  std::string merge_output;

  int RunCalibrate();
  int RunStats();
};

CalibratingCommands::CalibratingCommands(CLI::App& root) : impl_(std::make_unique<Impl>()) {
  Impl& impl = *impl_;
  impl.calibrate = root.add_subcommand(
      "calibrate", "run a model over samples and keep statistics of every value in it");
  impl.calibrate->footer(
      "The statistics say how to quantize activations. What is there so far lies in OUTPUT.partial "
      "while the command runs; if it is interrupted, the same command goes on from there. "
      "`cmlc stats` shows and merges the files.");
  impl.calibrate->add_option("model", impl.model, "the model to run, an .mlpackage")->required();
  impl.calibrate->add_option("-o,--output", impl.output, "the file of statistics to write")
      ->required();
  impl.data.Add(*impl.calibrate);

  impl.stats = root.add_subcommand("stats", "show or merge files of statistics");
  impl.stats->require_subcommand(1);
  impl.show = impl.stats->add_subcommand("show", "list all values with their ranges");
  impl.show->add_option("file", impl.shown, "what `cmlc calibrate` wrote")->required();
  impl.show->add_flag("--json", impl.json, "write JSON");
  impl.merge = impl.stats->add_subcommand(
      "merge", "make one file of several: as if all samples had been in one run");
  impl.merge->add_option("files", impl.merged, "files of one model, in order")->required();
  impl.merge->add_option("-o,--output", impl.merge_output, "the file to write")->required();
}

CalibratingCommands::~CalibratingCommands() = default;

bool CalibratingCommands::asked() const { return *impl_->calibrate || *impl_->stats; }

int CalibratingCommands::Run() {
  return *impl_->calibrate ? impl_->RunCalibrate() : impl_->RunStats();
}

int CalibratingCommands::Impl::RunCalibrate() {
  Console console(data.quiet, false);
  CalibrateOptions options;
  options.model = model;
  options.output = output;
  options.data = data.data;
  options.execution = data.execution;
  const Result<CalibrateReport> report = Calibrate(options, console);
  if (!report.ok()) {
    console.Failure(report.error());
    return ExitCode(report.error().kind);
  }
  console.EndProgress();
  if (data.json)
    Print(CalibrateJson(*report, options));
  else if (!data.quiet)
    Print(CalibrateText(*report, options));
  return 0;
}

int CalibratingCommands::Impl::RunStats() {
  Console console(false, false);
  const auto fail = [&](const Error& error) {
    console.Failure(error);
    return ExitCode(error.kind);
  };
  if (*show) {
    const Result<StatisticsSummary> summary = ShowStatistics(shown);
    if (!summary.ok()) return fail(summary.error());
    Print(json ? SummaryJson(*summary) : SummaryText(*summary));
    return 0;
  }
  const std::vector<std::filesystem::path> files(merged.begin(), merged.end());
  const Status status = MergeStatistics(files, merge_output);
  if (!status.ok()) return fail(status.error());
  Print(fmt::format("wrote: {}\n", merge_output));
  return 0;
}

}  // namespace cmlc::tool
