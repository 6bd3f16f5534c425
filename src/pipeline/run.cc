// A run, step by step: check what was asked, open the package, let each pass work on it, write the
// package.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>

#include "base/check.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "cmlc/pipeline.h"
#include "ir/opset.h"
#include "pipeline/activation_runner.h"
#include "pipeline/parts.h"
#include "pipeline/rules.h"
#include "pipeline/weight_runner.h"

namespace cmlc {
namespace {

// The outer model of a pipeline needs what its members need, once one of them was raised.
int32_t RaiseOuter(Model& model, const std::map<const Model*, int32_t>& before) {
  int32_t needed = model.specification_version;
  for (Model& member : model.members) {
    const int32_t member_needs = RaiseOuter(member, before);
    if (member_needs > before.at(&member)) needed = std::max(needed, member_needs);
  }
  model.specification_version = needed;
  return needed;
}

// With --strict what was asked for by name must be done.
Status CheckStrict(const RunReport& report) {
  std::vector<std::string> missed;
  for (const WeightReport& weight : report.weights)
    if (weight.asked_for && weight.fate != WeightReport::Fate::kDone)
      missed.push_back(fmt::format("'{}' ({})", weight.name, weight.reason));
  for (const ActivationReport& activation : report.activations)
    if (activation.asked_for && !activation.done)
      missed.push_back(fmt::format("'{}' ({})", activation.name, activation.reason));
  if (missed.empty()) return Ok();
  const size_t count = missed.size();
  if (count > 3) missed.resize(3);
  return Error{
      ErrorKind::kStrict,
      fmt::format("{}: --strict: {} of the {} asked for by name would be left alone: "
                  "{}{}",
                  report.pass, count, report.weights.empty() ? "activations" : "weights",
                  fmt::join(missed, ", "),
                  count > missed.size() ? fmt::format(" and {} more", count - missed.size()) : "")};
}

}  // namespace

std::filesystem::path DefaultOutput(const std::filesystem::path& input, std::string_view suffix) {
  const std::filesystem::path named = input.has_filename() ? input : input.parent_path();
  const std::string extension = named.extension() == ".mlmodel" ? ".mlmodel" : ".mlpackage";
  return named.parent_path() / fmt::format("{}-{}{}", named.stem().string(), suffix, extension);
}

double SnrDb(const Quality& quality) {
  if (quality.noise == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(quality.signal / quality.noise);
}

namespace {

// A folder for a result that nobody keeps.
class ScratchFolder {
 public:
  static Result<ScratchFolder> Make() {
    std::string pattern = (std::filesystem::temp_directory_path() / "cmlc-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr)
      return Error{ErrorKind::kOutput,
                   fmt::format("{}: cannot make a folder: {}", pattern, LastSystemError())};
    ScratchFolder folder;
    folder.path_ = pattern;
    RemoveOnSignal(folder.path_);
    return folder;
  }
  ScratchFolder(ScratchFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  ScratchFolder& operator=(ScratchFolder&&) = delete;
  ~ScratchFolder() {
    std::error_code code;
    if (!path_.empty()) std::filesystem::remove_all(path_, code);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  ScratchFolder() = default;
  std::filesystem::path path_;
};

// Whether there is anything in the model that passes work on.
Status CheckParts(std::span<const PassSpec> specs, const RunOptions& options, Package& package,
                  Diagnostics& diagnostics) {
  Model& model = package.model();
  const std::string path = package.path().string();
  if (model.kind.empty())
    return Error{ErrorKind::kBadInput, fmt::format("{}: holds no model", path)};
  for (const PassSpec& spec : specs)
    if (FindPass(spec.pass)->kind == PassKind::kActivations && ProgramsOf(model).empty())
      return Error{ErrorKind::kBadInput,
                   fmt::format("{}: holds a model of type {} and no ML Program; {} works on ML "
                               "Programs, alone or inside pipelines",
                               path, model.kind, spec.pass)};
  if (!PartsOf(model).empty()) return Ok();
  std::string kinds;
  ForEachModel(model, [&](Model& each) {
    if (each.members.empty()) kinds += (kinds.empty() ? "" : ", ") + each.kind;
  });
  const std::string what = fmt::format(
      "{}: has nothing to compress: a model of type {} has no weights in a form that "
      "could be another ({} works on ML Programs and NeuralNetworks)",
      path, kinds.empty() ? model.kind : kinds, specs.front().pass);
  if (options.strict) return Error{ErrorKind::kStrict, "--strict: " + what};
  diagnostics.Warning(what);
  return Ok();
}

}  // namespace

Result<std::vector<RunReport>> RunAll(std::span<const PassSpec> specs, const RunOptions& options,
                                      Diagnostics& diagnostics) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<RuleSet> rules;
  for (const PassSpec& spec : specs) {
    const PassInfo* info = FindPass(spec.pass);
    CMLC_CHECK(info != nullptr);
    CMLC_ASSIGN_OR_RETURN(RuleSet set, RuleSet::Make(spec, *info));
    rules.push_back(std::move(set));
  }
  const OpsetInfo* target = nullptr;
  if (!options.target.empty()) {
    target = FindOpsetByTarget(options.target);
    if (target == nullptr || target->spec_version < 7)
      return Error{
          ErrorKind::kUsage,
          fmt::format("--target '{}': expected one of iOS16, iOS17, iOS18, iOS26", options.target)};
  }
  CMLC_ASSIGN_OR_RETURN(const std::unique_ptr<Package> package, Package::Open(options.input));
  CMLC_RETURN_IF_ERROR(CheckParts(specs, options, *package, diagnostics));
  for (const RuleSet& set : rules) CMLC_RETURN_IF_ERROR(set.CheckAllMatch(package->model()));

  std::map<const Model*, int32_t> versions;
  int32_t version_before = 0;
  ForEachModel(package->model(), [&](Model& model) {
    versions[&model] = model.specification_version;
    version_before = std::max(version_before, model.specification_version);
  });

  std::optional<ScratchFolder> scratch;
  std::filesystem::path output = options.output;
  if (options.dry_run) {
    CMLC_ASSIGN_OR_RETURN(ScratchFolder folder, ScratchFolder::Make());
    scratch.emplace(std::move(folder));
    output = scratch->path() / ("result" + package->path().extension().string());
  }
  CMLC_ASSIGN_OR_RETURN(
      const std::unique_ptr<PackageWriter> writer,
      PackageWriter::Start(*package, output, {.in_place = options.in_place && !options.dry_run}));
  ThreadPool pool(options.threads);
  const RunContext context{*package, pool, diagnostics};
  const bool needs_statistics = std::any_of(specs.begin(), specs.end(), [](const PassSpec& spec) {
    return FindPass(spec.pass)->kind == PassKind::kActivations;
  });
  StatisticsOf statistics;
  if (needs_statistics) {
    CMLC_ASSIGN_OR_RETURN(statistics, FindStatistics(options, context));
  } else if (!options.statistics.empty() || options.calibration) {
    return Error{ErrorKind::kUsage,
                 fmt::format("{}: {}: no pass of this run goes by data", specs.front().pass,
                             options.statistics.empty() ? "--data" : "--stats")};
  }
  const std::vector<Finding> findings_before = Lint(*package);
  std::vector<RunReport> reports;
  for (size_t i = 0; i < specs.size(); ++i) {
    RunReport& report = reports.emplace_back();
    report.pass = specs[i].pass;
    report.package_bytes_before = package->size_bytes();
    report.version_before = version_before;
    const PassInfo& info = *FindPass(specs[i].pass);
    CMLC_RETURN_IF_ERROR(
        info.kind == PassKind::kActivations
            ? RunActivationPass(info, rules[i], target, statistics, context, report)
            : RunWeightPass(info, rules[i], target, context, report));
    for (const std::string& note : report.notes)
      diagnostics.Note(fmt::format("{}: {}", info.name, note));
    CMLC_RETURN_IF_ERROR(rules[i].CheckAllUsed());
    if (options.strict) CMLC_RETURN_IF_ERROR(CheckStrict(report));
    RaiseOuter(package->model(), versions);
    ForEachModel(package->model(), [&](Model& model) {
      report.version_after = std::max(report.version_after, model.specification_version);
    });
    report.systems = SystemsOf(report.version_after);
    report.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  if (!reports.empty()) reports.back().findings = NewFindings(Lint(*package), findings_before);
  for (const RunReport& report : reports)
    for (const Finding& finding : report.findings) {
      if ((finding.devices & options.devices) == 0) {
        diagnostics.Note(ToString(finding));
      } else if (options.strict) {
        return Error{ErrorKind::kStrict,
                     fmt::format("{}: --strict: {}", report.pass, ToString(finding))};
      } else {
        diagnostics.Warning(ToString(finding));
      }
    }
  CMLC_RETURN_IF_ERROR(writer->Commit(pool));
  for (RunReport& report : reports) report.package_bytes_after = writer->size_bytes();
  if (!reports.empty())
    reports.back().seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return reports;
}

Result<RunReport> Run(const PassSpec& spec, const RunOptions& options, Diagnostics& diagnostics) {
  CMLC_ASSIGN_OR_RETURN(std::vector<RunReport> reports,
                        RunAll(std::span(&spec, 1), options, diagnostics));
  return std::move(reports.front());
}

}  // namespace cmlc
