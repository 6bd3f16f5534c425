// Running a pass over a package, and what there is to say of it afterwards.
#ifndef CMLC_PIPELINE_H_
#define CMLC_PIPELINE_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cmlc/diagnostics.h"
#include "cmlc/options.h"
#include "cmlc/package.h"
#include "cmlc/pass.h"
#include "cmlc/status.h"

namespace cmlc {

// Other options for some weights, or none at all.
//
// A weight is governed by the last rule whose pattern matches its own name; else by the last one
// that matches the name of an op that reads it; else by the last one that matches the type of such
// an op; else by the pass's own options. A rule's options are set on top of the pass's own. If ops
// that share a weight are governed differently, leaving it alone wins, then the op that comes first
// in the program.
struct Rule {
  enum class Kind { kOpType, kOpName };
  Kind kind = Kind::kOpName;
  std::string pattern;       // with *, ? and [...] as in a shell
  bool leave_alone = false;  // then `options` is empty
  OptionValues options;
};

// Parses "PATTERN=null" or "PATTERN=option:value,option:value" ('=' may stand for ':').
Result<Rule> ParseRule(Rule::Kind kind, const std::string& text);

struct PassSpec {
  std::string pass;  // its name
  OptionValues options;
  std::vector<Rule> rules;
};

struct RunOptions {
  std::filesystem::path input;
  std::filesystem::path output;
  bool in_place = false;
  int threads = 0;      // 0: one for each processor
  std::string target;   // "iOS18", ...; empty: the lowest that can hold the result
  bool strict = false;  // a weight that a rule asks for by name and that is skipped is an error
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

struct RunReport {
  std::string pass;
  std::vector<WeightReport> weights;  // in program order
  std::vector<std::string> rewrites;  // what raising the target changed, one line each
  int32_t version_before = 0;         // specification versions, the highest in a pipeline
  int32_t version_after = 0;
  std::string systems;  // "iOS 18, macOS 15": what the result needs
  uint64_t package_bytes_before = 0;
  uint64_t package_bytes_after = 0;
  double seconds = 0;
};

// Reads the package, runs the pass, writes the result. Nothing is left behind on an error.
Result<RunReport> Run(const PassSpec& spec, const RunOptions& options, Diagnostics& diagnostics);

// Where the result goes if nobody says: beside the input, "model-palettized.mlpackage".
std::filesystem::path DefaultOutput(const std::filesystem::path& input, const PassInfo& pass);

// 10 log10(signal / noise) in dB; infinite if there is no noise.
double SnrDb(const Quality& quality);

}  // namespace cmlc

#endif  // CMLC_PIPELINE_H_
