// cmlc: compresses the weights of Core ML models.
//
// A subcommand for every pass, made from what the pass declares, and a few that only look or run
// models (running.h).
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <deque>
#include <memory>
#include <optional>

#include "calibrating.h"
#include "cmlc/inspect.h"
#include "cmlc/lint.h"
#include "cmlc/package.h"
#include "cmlc/pass.h"
#include "cmlc/pipeline.h"
#include "cmlc/recipe.h"
#include "cmlc/signals.h"
#include "console.h"
#include "data_arguments.h"
#include "reports.h"
#include "running.h"
#include "text.h"

namespace cmlc::tool {
namespace {

// What all subcommands take.
struct CommonOptions {
  std::string input;
  int threads = 0;
  bool json = false;
  bool quiet = false;
  bool verbose = false;
};

void AddCommon(CLI::App& app, CommonOptions& common) {
  app.add_option("input", common.input, "the model to read, an .mlpackage or .mlmodel")->required();
  app.add_option("--threads", common.threads, "threads to use (default: one for each processor)")
      ->check(CLI::Range(0, 1024))
      ->type_name("INT");
  app.add_flag("--json", common.json, "write the result as JSON");
  app.add_flag("-q,--quiet", common.quiet, "no progress, notes or summary; only errors");
  app.add_flag("-v,--verbose", common.verbose, "say what happens to every weight");
}

// What all subcommands that write take.
struct WriteCommand {
  CLI::App* app = nullptr;
  CommonOptions common;
  std::string output;
  bool in_place = false;
  bool strict = false;
  bool dry_run = false;
  bool list_weights = false;
  bool print_recipe = false;
  std::string target;
  std::string device;
  // Of commands with passes that go by data.
  std::vector<std::string> statistics;
  DataArguments data;
};

// One pass as a subcommand.
struct PassCommand : WriteCommand {
  const PassInfo* info = nullptr;
  std::deque<std::pair<std::string, std::string>> values;  // by option; empty: not given
  std::vector<std::string> type_rules, name_rules;
};

// Several passes.
struct RunCommand : WriteCommand {
  std::string recipe;
  std::string preset;
  std::vector<std::string> passes;
};

std::string Hyphened(std::string name) {
  for (char& c : name)
    if (c == '_') c = '-';
  return name;
}

void AddWriting(CLI::App& app, WriteCommand& command, std::string_view suffix) {
  app.add_option("-o,--output", command.output,
                 fmt::format("the model to write (default: beside the input, *-{}.mlpackage, or "
                             ".mlmodel if the input is one); an existing one is replaced once the "
                             "new one is complete",
                             suffix));
  app.add_flag("--in-place", command.in_place, "replace the input by the result");
  app.add_flag("--strict", command.strict,
               "fail (exit code 6) if a weight that is asked for by name cannot be done, or if the "
               "result has a form that is known to fail on --device");
  app.add_option("--target", command.target,
                 "the system the result is for: iOS16, iOS17, iOS18, iOS26 (default: the input's, "
                 "or the lowest that can hold the result)")
      ->type_name("TEXT");
  app.add_option("--device", command.device,
                 "what the result is to run on: cpu, gpu, ane, all; what is known to fail there is "
                 "warned of (see `cmlc lint`)")
      ->type_name("TEXT");
  app.add_flag("--dry-run", command.dry_run,
               "say what would happen to every weight, and write nothing");
  app.add_flag("--list-weights", command.list_weights,
               "list the weights' names with types, shapes and readers, and do nothing");
  app.add_flag("--print-recipe", command.print_recipe,
               "write the recipe that says the same as this command line, and do nothing");
}

void AddCalibration(CLI::App& app, WriteCommand& command) {
  app.add_option("--stats", command.statistics,
                 "statistics by `cmlc calibrate`; for several functions may be repeated")
      ->allow_extra_args(false)
      ->type_name("FILE");
  command.data.AddData(app, "--data");
  command.data.AddExecution(app);
}

void AddPass(CLI::App& root, const PassInfo& info, PassCommand& command) {
  command.info = &info;
  command.app = root.add_subcommand(std::string(info.name), std::string(info.summary));
  CLI::App& app = *command.app;
  app.footer(std::string(info.description));
  AddCommon(app, command.common);
  const std::unique_ptr<Pass> pass = info.make();
  for (const OptionDescription& option : DescribeOptions(*pass)) {
    auto& value = command.values.emplace_back(option.name, "");
    std::string names = "--" + Hyphened(option.name);
    if (!option.alias.empty()) names += ",--" + Hyphened(option.alias);
    std::string help = option.help;
    if (!option.allowed.empty()) help += fmt::format(": {}", fmt::join(option.allowed, ", "));
    if (option.kind == "FLAG") {
      app.add_flag_callback(
          names, [&value] { value.second = "true"; }, help);
      continue;
    }
    if (!option.value.empty()) help += fmt::format(" (default {})", option.value);
    app.add_option(names, value.second, help)->type_name(option.kind);
  }
  const bool weights = info.kind == PassKind::kWeights;
  app.add_option("--op-type", command.type_rules,
                 fmt::format("TYPE=null leaves {} alone that ops of this type read, "
                             "TYPE=option:value,... sets options for them; may be repeated",
                             weights ? "weights" : "values"))
      ->type_name("RULE");
  app.add_option("--op-name", command.name_rules,
                 fmt::format("the same by name of {}, with *, ? and [...]; beats --op-type; among "
                             "several that match the last one holds",
                             weights ? "the weight or of an op that reads it" : "the op"))
      ->type_name("RULE");
  if (info.kind == PassKind::kActivations) AddCalibration(app, command);
  AddWriting(app, command, info.suffix);
}

void AddRun(CLI::App& root, RunCommand& command) {
  command.app = root.add_subcommand("run", "run several passes, as a recipe says");
  CLI::App& app = *command.app;
  app.footer(
      "A recipe is YAML or JSON: `passes: [{prune: {target_sparsity: 0.5}}, {palettize: {nbits: 4, "
      "joint: true}}]`. A configuration of coremltools' optimize is read as it is. "
      "`--print-recipe` "
      "of any command shows how a command line is written as a recipe.");
  AddCommon(app, command.common);
  app.add_option("--recipe", command.recipe, "the recipe")->type_name("FILE");
  app.add_option("--pass", command.passes,
                 "a pass to run (after those of the recipe and the preset), as NAME or "
                 "NAME:option=value,...; may "
                 "be repeated")
      ->type_name("PASS");
  app.add_option(
         "--preset", command.preset,
         fmt::format("a recipe that the program brings along: {}", fmt::join(PresetNames(), ", ")))
      ->type_name("NAME");
  AddCalibration(app, command);
  AddWriting(app, command, "compressed");
}

Result<PassSpec> SpecOf(const PassCommand& command) {
  PassSpec spec;
  spec.pass = std::string(command.info->name);
  for (const auto& [name, value] : command.values)
    if (!value.empty()) spec.options.emplace_back(name, value);
  for (const std::string& text : command.type_rules) {
    CMLC_ASSIGN_OR_RETURN(Rule rule, ParseRule(Rule::Kind::kOpType, text));
    spec.rules.push_back(std::move(rule));
  }
  for (const std::string& text : command.name_rules) {
    CMLC_ASSIGN_OR_RETURN(Rule rule, ParseRule(Rule::Kind::kOpName, text));
    spec.rules.push_back(std::move(rule));
  }
  return spec;
}

Result<std::vector<PassSpec>> SpecsOf(const RunCommand& command, Console& console) {
  std::vector<PassSpec> specs;
  if (!command.recipe.empty()) {
    std::vector<std::string> notes;
    CMLC_ASSIGN_OR_RETURN(specs, ReadRecipe(command.recipe, notes));
    for (std::string& note : notes) console.Note(std::move(note));
  }
  if (!command.preset.empty()) {
    CMLC_ASSIGN_OR_RETURN(std::vector<PassSpec> preset, ReadPreset(command.preset));
    specs.insert(specs.end(), preset.begin(), preset.end());
  }
  for (const std::string& text : command.passes) {
    CMLC_ASSIGN_OR_RETURN(PassSpec spec, ParsePass(text));
    specs.push_back(std::move(spec));
  }
  if (specs.empty())
    return Error{ErrorKind::kUsage,
                 "run: expected --recipe FILE, --preset NAME or --pass NAME, got none"};
  return specs;
}

int Fail(Console& console, const Error& error) {
  console.Failure(error);
  return ExitCode(error.kind);
}

// `suffix`: of the name of an output that nobody named.
int Work(const WriteCommand& command, const Result<std::vector<PassSpec>>& specs,
         std::string_view suffix, Console& console) {
  if (!specs.ok()) return Fail(console, specs.error());
  if (command.print_recipe) {
    Print(PrintRecipe(*specs));
    return 0;
  }
  RunOptions options;
  options.input = command.common.input;
  if (command.list_weights) {
    const Result<std::unique_ptr<Package>> package = Package::Open(options.input);
    if (!package.ok()) return Fail(console, package.error());
    const Result<PackageInfo> info = Inspect(**package, 1, /*values=*/false);
    if (!info.ok()) return Fail(console, info.error());
    Print(WeightList(*info));
    return 0;
  }
  if (command.in_place && !command.output.empty())
    return Fail(console, {ErrorKind::kUsage, "--in-place and --output exclude each other"});
  options.in_place = command.in_place;
  options.threads = command.common.threads;
  options.target = command.target;
  options.strict = command.strict;
  options.dry_run = command.dry_run;
  options.statistics.assign(command.statistics.begin(), command.statistics.end());
  if (!command.data.data.inputs.empty() || command.data.data.random_samples > 0) {
    options.calibration = {command.data.data, command.data.execution};
    options.calibration->execution.threads = options.threads;
  }
  if (!command.device.empty()) {
    const std::optional<unsigned> devices = DevicesOf(command.device);
    if (!devices)
      return Fail(console, {ErrorKind::kUsage,
                            fmt::format("--device '{}': expected one of cpu, gpu, ane, all",
                                        command.device)});
    options.devices = *devices;
  }
  options.output = command.in_place          ? options.input
                   : !command.output.empty() ? std::filesystem::path(command.output)
                                             : DefaultOutput(options.input, suffix);
  const Result<std::vector<RunReport>> reports = RunAll(*specs, options, console);
  if (!reports.ok()) return Fail(console, reports.error());
  console.EndProgress();
  if (command.common.verbose)
    for (const RunReport& report : *reports) ListLeft(report, console);
  if (command.common.json)
    Print(RunJson(*reports, options));
  else if (!command.common.quiet)
    Print((command.dry_run ? PlanText(*reports) : std::string()) + RunText(*reports, options));
  return 0;
}

int Main(int argc, char** argv) {
  CLI::App app("Makes Core ML models small: compresses weights, quantizes activations.", "cmlc");
  app.set_version_flag("--version", "cmlc " CMLC_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 success, 2 usage, 3 bad input, 4 output cannot be written, 5 a missed limit "
      "of "
      "compare, 6 --strict.\n"
      "`cmlc COMMAND --help` shows a command's options.");

  std::deque<PassCommand> commands;
  for (const PassInfo& info : AllPasses()) AddPass(app, info, commands.emplace_back());
  RunCommand run;
  AddRun(app, run);
  CommonOptions info_options;
  CLI::App* info_app = app.add_subcommand(
      "info", "show what is in a model: inputs, outputs, ops, and every weight as it is stored");
  AddCommon(*info_app, info_options);
  CommonOptions lint_options;
  std::string lint_device;
  bool lint_strict = false;
  CLI::App* lint_app = app.add_subcommand(
      "lint",
      "list forms in a model that are known to fail, to be slow or to leave the Neural "
      "Engine");
  AddCommon(*lint_app, lint_options);
  lint_app->add_option("--device", lint_device, "only what concerns cpu, gpu, ane or all of them")
      ->type_name("TEXT");
  lint_app->add_flag("--strict", lint_strict, "fail (exit code 6) if there is anything to list");
  RunningCommands running(app);
  CalibratingCommands calibrating(app);
  CLI::App* passes_app = app.add_subcommand("passes", "list the passes with their summaries");

  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::CallForAllHelp& help) {
    return app.exit(help);
  } catch (const CLI::CallForVersion& version) {
    return app.exit(version);
  } catch (const CLI::ParseError& error) {
    Console console(false, false);
    console.Failure({ErrorKind::kUsage, fmt::format("{} (see `cmlc --help`)", error.what())});
    return ExitCode(ErrorKind::kUsage);
  }

  InstallSignalCleanup();
  if (running.asked()) return running.Run();
  if (calibrating.asked()) return calibrating.Run();
  if (*passes_app) {
    for (const PassInfo& info : AllPasses())
      fmt::print("{:<12} {}\n", std::string(info.name), std::string(info.summary));
    return 0;
  }
  if (*info_app) {
    Console console(info_options.quiet, info_options.verbose);
    const Result<std::unique_ptr<Package>> package = Package::Open(info_options.input);
    if (!package.ok()) {
      console.Failure(package.error());
      return ExitCode(package.error().kind);
    }
    const Result<PackageInfo> info = Inspect(**package, info_options.threads);
    if (!info.ok()) {
      console.Failure(info.error());
      return ExitCode(info.error().kind);
    }
    const std::string text = info_options.json ? InfoJson(*info, info_options.input)
                                               : InfoText(*info, info_options.input);
    Print(text);
    return 0;
  }
  if (*lint_app) {
    Console console(lint_options.quiet, lint_options.verbose);
    const std::optional<unsigned> devices = DevicesOf(lint_device.empty() ? "all" : lint_device);
    if (!devices)
      return Fail(console,
                  {ErrorKind::kUsage,
                   fmt::format("--device '{}': expected one of cpu, gpu, ane, all", lint_device)});
    const Result<std::unique_ptr<Package>> package = Package::Open(lint_options.input);
    if (!package.ok()) return Fail(console, package.error());
    std::vector<Finding> findings = Lint(**package);
    std::erase_if(findings,
                  [&](const Finding& finding) { return (finding.devices & *devices) == 0; });
    Print(lint_options.json ? LintJson(findings) : LintText(findings));
    if (lint_strict && !findings.empty())
      return Fail(console, {ErrorKind::kStrict, fmt::format("{}: --strict: {} known forms",
                                                            lint_options.input, findings.size())});
    return 0;
  }
  for (PassCommand& command : commands) {
    if (!*command.app) continue;
    Console console(command.common.quiet, command.common.verbose);
    const Result<PassSpec> spec = SpecOf(command);
    if (!spec.ok()) return Fail(console, spec.error());
    return Work(command, std::vector<PassSpec>{*spec}, command.info->suffix, console);
  }
  if (*run.app) {
    Console console(run.common.quiet, run.common.verbose);
    return Work(run, SpecsOf(run, console), "compressed", console);
  }
  return ExitCode(ErrorKind::kInternal);
}

}  // namespace
}  // namespace cmlc::tool

int main(int argc, char** argv) { return cmlc::tool::Main(argc, argv); }
