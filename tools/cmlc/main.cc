// cmlc: compresses the weights of Core ML models.
//
// A subcommand for every pass, made from what the pass declares, and a few that only look.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <deque>
#include <memory>
#include <optional>

#include "cmlc/inspect.h"
#include "cmlc/package.h"
#include "cmlc/pass.h"
#include "cmlc/pipeline.h"
#include "cmlc/signals.h"
#include "console.h"
#include "reports.h"

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
  app.add_option("input", common.input, "the model to read, an .mlpackage")->required();
  app.add_option("--threads", common.threads, "threads to use (default: one for each processor)")
      ->check(CLI::Range(0, 1024))
      ->type_name("INT");
  app.add_flag("--json", common.json, "write the result as JSON");
  app.add_flag("-q,--quiet", common.quiet, "no progress, notes or summary; only errors");
  app.add_flag("-v,--verbose", common.verbose, "say what happens to every weight");
}

// One pass as a subcommand.
struct PassCommand {
  const PassInfo* info = nullptr;
  CLI::App* app = nullptr;
  CommonOptions common;
  std::deque<std::pair<std::string, std::string>> values;  // by option; empty: not given
  std::vector<std::string> type_rules, name_rules;
  std::string output;
  bool in_place = false;
  bool strict = false;
  std::string target;
};

std::string Hyphened(std::string name) {
  for (char& c : name)
    if (c == '_') c = '-';
  return name;
}

void AddPass(CLI::App& root, const PassInfo& info, PassCommand& command) {
  command.info = &info;
  command.app = root.add_subcommand(std::string(info.name), std::string(info.summary));
  CLI::App& app = *command.app;
  app.footer(std::string(info.description));
  AddCommon(app, command.common);
  app.add_option("-o,--output", command.output,
                 fmt::format("the package to write (default: beside the input, *-{}.mlpackage); "
                             "an existing package is replaced once the new one is complete",
                             info.suffix));
  app.add_flag("--in-place", command.in_place, "replace the input by the result");
  const std::unique_ptr<WeightPass> pass = info.make();
  for (const OptionDescription& option : DescribeOptions(*pass)) {
    auto& value = command.values.emplace_back(option.name, "");
    std::string names = "--" + Hyphened(option.name);
    if (!option.alias.empty()) names += ",--" + Hyphened(option.alias);
    std::string help = option.help;
    if (!option.allowed.empty()) help += fmt::format(": {}", fmt::join(option.allowed, ", "));
    if (option.kind == "FLAG") {
      app.add_flag_callback(
          "--" + Hyphened(option.name), [&value] { value.second = "true"; }, help);
      continue;
    }
    if (!option.value.empty()) help += fmt::format(" (default {})", option.value);
    app.add_option(names, value.second, help)->type_name(option.kind);
  }
  app.add_option("--op-type", command.type_rules,
                 "TYPE=null leaves weights alone that ops of this type read, "
                 "TYPE=option:value,... sets options for them; may be repeated")
      ->type_name("RULE");
  app.add_option("--op-name", command.name_rules,
                 "the same by name of the weight or of an op that reads it, with *, ? and [...]; "
                 "beats --op-type; among several that match the last one holds")
      ->type_name("RULE");
  app.add_flag("--strict", command.strict,
               "fail (exit code 6) if a weight that --op-name asks for cannot be done");
  app.add_option("--target", command.target,
                 "the system the result is for: iOS16, iOS17, iOS18, iOS26 (default: the input's, "
                 "or the lowest that can hold the result)")
      ->type_name("TEXT");
}

Result<RunReport> RunPass(PassCommand& command, RunOptions& options, Console& console) {
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
  options.input = command.common.input;
  options.in_place = command.in_place;
  options.threads = command.common.threads;
  options.target = command.target;
  options.strict = command.strict;
  if (command.in_place && !command.output.empty())
    return Error{ErrorKind::kUsage, "--in-place and --output exclude each other"};
  options.output = command.in_place          ? options.input
                   : !command.output.empty() ? std::filesystem::path(command.output)
                                             : DefaultOutput(options.input, *command.info);
  return Run(spec, options, console);
}

int Main(int argc, char** argv) {
  CLI::App app("Compresses the weights of Core ML models.", "cmlc");
  app.set_version_flag("--version", "cmlc " CMLC_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 success, 2 usage, 3 bad input, 4 output cannot be written, 6 --strict.\n"
      "`cmlc COMMAND --help` shows a command's options.");

  std::deque<PassCommand> commands;
  for (const PassInfo& info : AllPasses()) AddPass(app, info, commands.emplace_back());
  CommonOptions info_options;
  CLI::App* info_app = app.add_subcommand(
      "info", "show what is in a model: inputs, outputs, ops, and every weight as it is stored");
  AddCommon(*info_app, info_options);
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
    std::fwrite(text.data(), 1, text.size(), stdout);
    return 0;
  }
  for (PassCommand& command : commands) {
    if (!*command.app) continue;
    Console console(command.common.quiet, command.common.verbose);
    RunOptions options;
    const Result<RunReport> report = RunPass(command, options, console);
    if (!report.ok()) {
      console.Failure(report.error());
      return ExitCode(report.error().kind);
    }
    console.EndProgress();
    if (command.common.verbose) ListLeft(*report, console);
    std::string text;
    if (command.common.json)
      text = RunJson(*report, options);
    else if (!command.common.quiet)
      text = RunText(*report, options);
    std::fwrite(text.data(), 1, text.size(), stdout);
    return 0;
  }
  return ExitCode(ErrorKind::kInternal);
}

}  // namespace
}  // namespace cmlc::tool

int main(int argc, char** argv) { return cmlc::tool::Main(argc, argv); }
