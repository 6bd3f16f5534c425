// Options of passes: declared once, in the pass, and visited by everything that needs to know them
// (the command line, its help, the checks, the report).
#ifndef CMLC_OPTIONS_H_
#define CMLC_OPTIONS_H_

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cmlc/status.h"

namespace cmlc {

// Names use underscores, as in coremltools' configuration; the command line shows `group_size` as
// --group-size.
struct OptionInfo {
  std::string_view name;
  std::string_view help;
  std::string_view alias = {};       // a second name that it is known by
  std::string_view fallback = {};    // an integer's value while it is not set, for help
  std::optional<int64_t> none = {};  // what "none" sets an integer to; without it, to nothing
};

class OptionVisitor {
 public:
  virtual ~OptionVisitor() = default;

  // An integer. `allowed`: empty, or all values it may take.
  virtual void Int(const OptionInfo& info, std::optional<int64_t>& value, int64_t least,
                   std::initializer_list<int64_t> allowed = {}) = 0;
  // One of a few words.
  virtual void Choice(const OptionInfo& info, std::string& value,
                      std::initializer_list<std::string_view> allowed) = 0;
  // A real number in [least, most].
  virtual void Number(const OptionInfo& info, std::optional<double>& value, double least,
                      double most) = 0;
  // On or off.
  virtual void Flag(const OptionInfo& info, bool& value) = 0;
  // One integer or several, each `least` or more, joined by any of , : x (as in 2:4 or 0x64x1).
  virtual void Ints(const OptionInfo& info, std::vector<int64_t>& value, int64_t least) = 0;
  // Several of a few words (of any, if `allowed` is empty), joined by , or +.
  virtual void Words(const OptionInfo& info, std::vector<std::string>& value,
                     const std::vector<std::string>& allowed) = 0;
  // The path of a file to read.
  virtual void Path(const OptionInfo& info, std::string& value) = 0;
};

// Texts for options, as given on a command line: (name, value). Names may be spelled with hyphens.
using OptionValues = std::vector<std::pair<std::string, std::string>>;

// What a help page or a report says of one option.
struct OptionDescription {
  std::string name;
  std::string alias;
  std::string help;
  std::vector<std::string> allowed;  // empty: any
  std::string value;                 // now; empty: not set
  std::string kind;                  // "INT", "NUMBER", "INTS", "FLAG", "TEXT", "WORDS", "FILE"
};

class Pass;

// kUsage, naming the option, what was found and what is possible, if a name is not known or a value
// does not fit.
Status SetOptions(Pass& pass, std::string_view pass_name, const OptionValues& values);
std::vector<OptionDescription> DescribeOptions(Pass& pass);

// What to say behind a misspelled name: "did you mean 'nbits'?", with up to three of the `names`
// that are nearest to it; empty if none is near.
std::string DidYouMean(std::string_view name, const std::vector<std::string>& names);

}  // namespace cmlc

#endif  // CMLC_OPTIONS_H_
