// Which options govern which weight, or which value that an op reads.
#ifndef CMLC_PIPELINE_RULES_H_
#define CMLC_PIPELINE_RULES_H_

#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cmlc/model.h"
#include "cmlc/pass.h"
#include "cmlc/pipeline.h"

namespace cmlc {

// Whether `text` matches a pattern with *, ? and [...] ([!...] for none of them).
bool MatchesPattern(std::string_view pattern, std::string_view text);

// Options as "option:value,option:value" ('=' may stand for ':'). `wrong` gets a part that is none.
OptionValues ParseOptionList(const std::string& text, std::optional<std::string>& wrong);

// What rules are matched with: a weight, or a value that ops read.
struct Subject {
  std::string_view name;
  // Whether patterns over names of ops also mean the subject's own name. A value that an op makes
  // has a name like that op's, which does not choose the ops that read it.
  bool by_own_name = false;
  const Shape* shape = nullptr;  // null: not known
  uint64_t element_count = 0;
  std::span<const Consumer> consumers;
};

// The configured passes of a run: the base one, and one for every rule that has options.
class RuleSet {
 public:
  static Result<RuleSet> Make(const PassSpec& spec, const PassInfo& info);

  struct Choice {
    const Pass* pass = nullptr;  // null: leave alone
    std::string because;         // the rule, as it was given; empty: no rule
    bool by_name = false;
    bool by_own_name = false;  // the weight's, not that of an op that reads it
    bool conflict = false;     // its consumers are governed by different rules
  };
  Choice For(const Subject& subject) const;

  const Pass& base() const { return *base_; }

  // kUsage if a rule matches nothing in the models, with the nearest names.
  Status CheckAllMatch(const Model& model) const;
  // kUsage if a rule of kind kWhere has fitted nothing so far.
  Status CheckAllUsed() const;

 private:
  struct Entry {
    Rule rule;
    std::string text;
    std::unique_ptr<Pass> pass;  // null: leave alone
    mutable bool used = false;   // of kWhere: something fitted it
  };
  const Entry* Match(Rule::Kind kind, const std::vector<std::string_view>& names) const;

  PassKind kind_ = PassKind::kWeights;
  std::unique_ptr<Pass> base_;
  std::string leave_because_;  // not empty: what no rule governs is left alone
  std::vector<Entry> entries_;
};

}  // namespace cmlc

#endif  // CMLC_PIPELINE_RULES_H_
