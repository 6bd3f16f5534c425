// Running a pass over a package, and what there is to say of it afterwards.
#ifndef CMLC_PIPELINE_H_
#define CMLC_PIPELINE_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cmlc/diagnostics.h"
#include "cmlc/lint.h"
#include "cmlc/options.h"
#include "cmlc/package.h"
#include "cmlc/pass.h"
#include "cmlc/predict.h"
#include "cmlc/status.h"

namespace cmlc {

// Other options for some weights, or none at all.
//
// A weight is governed by the last rule whose pattern matches its own name; else by the last one
// that matches the name of an op that reads it; else by the last one that matches the type of such
// an op; else by the pass's own options. A rule's options are set on top of the pass's own. If ops
// that share a weight are governed differently, leaving it alone wins, then the op that comes first
// in the program.
//
// Rules of kind kWhere come before all others: of several that fit, the last one holds.
struct Rule {
  enum class Kind { kOpType, kOpName, kWhere };
  // What a weight and one op that reads it must be like; patterns that are empty fit everything.
  struct Where {
    std::string name;       // of the weight
    std::string op_type;    // of the op
    std::string op_name;    // of the op
    std::string parameter;  // through which the op reads it
    std::string shape;      // "[*, 3, 7, 7]": a size or * for each axis
    int64_t min_elements = 0;
  };
  Kind kind = Kind::kOpName;
  std::string pattern;       // with *, ? and [...] as in a shell
  Where where;               // of kWhere
  bool leave_alone = false;  // then `options` is empty
  bool on_top = true;        // of the pass's own options; else of the defaults
  OptionValues options;
  std::string origin;  // where it was given, for messages; empty: on the command line
};

// Parses "PATTERN=null" or "PATTERN=option:value,option:value" ('=' may stand for ':').
Result<Rule> ParseRule(Rule::Kind kind, const std::string& text);

struct PassSpec {
  std::string pass;  // its name
  OptionValues options;
  std::vector<Rule> rules;
  bool leave_alone = false;  // what no rule governs is left alone
  std::string origin;        // where it was given, for messages; may be empty
};

struct RunOptions {
  std::filesystem::path input;
  std::filesystem::path output;
  bool in_place = false;
  int threads = 0;      // 0: one for each processor
  std::string target;   // "iOS18", ...; empty: the lowest that can hold the result
  bool strict = false;  // a weight that a rule asks for by name and that is skipped is an error
  // Do everything but keep the result: the reports say what would happen.
  bool dry_run = false;
  // What passes over activations go by: files of `Calibrate`, one for each function, or data that
  // the input is run over before any pass works on it.
  std::vector<std::filesystem::path> statistics;
  struct Calibration {
    DataOptions data;
    ExecutionSettings execution;
  };
  std::optional<Calibration> calibration;
  // What the result is to run on: known failures there are warnings, and errors with `strict`.
  unsigned devices = 0;  // see lint.h
};

// What became of one weight.
struct WeightReport {
  enum class Fate { kDone, kLeft, kAlreadyCompressed };
  Fate fate = Fate::kLeft;
  std::string function;  // of the program; of a pipeline's member: "1:main"
  std::string name;
  std::vector<std::string> consumers;  // "conv 'features_0' weight"
  std::string dtype;
  std::vector<int64_t> shape;
  uint64_t element_count = 0;
  std::string form;        // how it is stored now
  std::string category;    // why it was left, in words that weights share
  std::string reason;      // the same with figures
  bool asked_for = false;  // a rule asks for it by name
  bool shared = false;     // its bytes are counted with an earlier weight that it shares them with
  uint64_t bytes_before = 0;
  uint64_t bytes_after = 0;
  Quality quality;  // of kDone
};

// What became of one value that an op reads or makes.
struct ActivationReport {
  bool done = false;
  std::string function;  // as in WeightReport
  std::string name;
  std::string made_by;               // type of an op, or "input"
  std::vector<std::string> readers;  // that ask for it: "conv 'c' x", "conv 'c' result"
  std::string dtype;
  bool asked_for = false;  // a rule asks for one of the readers by its name
  // Of what is done: what was seen, the range that is kept, and how it is quantized.
  double least = 0, greatest = 0;
  double low = 0, high = 0;
  double scale = 0;
  int zero_point = 0;
  std::string form;              // "int8, scale 0.0123, zero point 4"
  std::string category, reason;  // why it was left, as in WeightReport
};

// What one pass did. What concerns the package (versions, bytes, seconds) is that of the whole run
// so far.
struct RunReport {
  std::string pass;
  std::vector<WeightReport> weights;          // in program order, of a pass over weights
  std::vector<ActivationReport> activations;  // in program order, of a pass over activations
  std::map<std::string, size_t> float_ops;    // by type: ops that such a pass is not for
  std::vector<std::string> notes;             // what else is worth saying
  // What raising the target and cleaning up changed, one line each.
  std::vector<std::string> rewrites;
  int32_t version_before = 0;  // specification versions, the highest in a pipeline
  int32_t version_after = 0;
  std::string systems;  // "iOS 18, macOS 15": what the result needs
  uint64_t package_bytes_before = 0;
  uint64_t package_bytes_after = 0;
  double seconds = 0;
  std::vector<Finding> findings;  // of the last pass: what the result has and the input had not
};

// Reads the package, runs the passes one after the other, writes the result. Nothing is left behind
// on an error. Gives a report for each pass.
Result<std::vector<RunReport>> RunAll(std::span<const PassSpec> specs, const RunOptions& options,
                                      Diagnostics& diagnostics);
Result<RunReport> Run(const PassSpec& spec, const RunOptions& options, Diagnostics& diagnostics);

// Where the result goes if nobody says: beside the input, "model-palettized.mlpackage", or
// .mlmodel if the input is such a file.
std::filesystem::path DefaultOutput(const std::filesystem::path& input, std::string_view suffix);

// 10 log10(signal / noise) in dB; infinite if there is no noise.
double SnrDb(const Quality& quality);

}  // namespace cmlc

#endif  // CMLC_PIPELINE_H_
