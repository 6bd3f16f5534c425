#include "support/exercise.h"

#include "cmlc/inspect.h"
#include "cmlc/package.h"
#include "cmlc/pipeline.h"
#include "support/test_util.h"

namespace cmlc::test {

namespace {

// An error of a file must be one of the file, and say so on one line.
std::string Complaint(const std::string& step, const Error& error) {
  if (!IsOneLine(error.message)) return step + ": not a line of text: '" + error.message + "'";
  if (error.kind == ErrorKind::kInternal || error.kind == ErrorKind::kOutput)
    return step + ": blames the wrong one: " + error.message;
  return "";
}

}  // namespace

Exercise ExercisePackage(const fs::path& input, const fs::path& output, int threads) {
  PassSpec spec;
  spec.pass = "palettize";
  spec.options = {{"nbits", "2"}, {"weight_threshold", "0"}};
  return ExercisePackage(input, output, threads, spec);
}

Exercise ExercisePackage(const fs::path& input, const fs::path& output, int threads,
                         const PassSpec& spec) {
  Exercise result;
  {
    const auto package = Package::Open(input);
    if (!package.ok()) {
      result.broken = Complaint("open", package.error());
      return result;
    }
    result.opened = true;
    const auto info = Inspect(**package, threads);
    if (info.ok()) {
      result.inspected = true;
    } else {
      result.broken = Complaint("inspect", info.error());
      if (!result.broken.empty()) return result;
    }
  }
  TestDiagnostics diagnostics;
  RunOptions options;
  options.input = input;
  options.output = output;
  options.threads = threads;
  const auto report = Run(spec, options, diagnostics);
  if (!report.ok()) {
    result.broken = Complaint(spec.pass, report.error());
    if (result.broken.empty() && fs::exists(output)) result.broken = "a failed run left a package";
    return result;
  }
  result.written = true;
  if (const auto again = Package::Open(output); !again.ok())
    result.broken = "what was written cannot be read: " + again.error().message;
  std::error_code code;
  fs::remove_all(output, code);
  return result;
}

}  // namespace cmlc::test
