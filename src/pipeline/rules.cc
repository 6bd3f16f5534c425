#include "pipeline/rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace cmlc {
namespace {

// Matches one character against a "[...]" that starts at pattern[at]; moves `at` behind it.
bool MatchesClass(std::string_view pattern, size_t& at, char c) {
  size_t i = at + 1;
  const bool negated = i < pattern.size() && (pattern[i] == '!' || pattern[i] == '^');
  if (negated) ++i;
  bool inside = false;
  for (bool first = true; i < pattern.size() && (first || pattern[i] != ']'); first = false) {
    const char low = pattern[i];
    char high = low;
    if (i + 2 < pattern.size() && pattern[i + 1] == '-' && pattern[i + 2] != ']') {
      high = pattern[i + 2];
      i += 2;
    }
    inside = inside || (low <= c && c <= high);
    ++i;
  }
  at = i < pattern.size() ? i + 1 : pattern.size();
  return inside != negated;
}

std::string TextOf(const Rule& rule) {
  std::string text = rule.kind == Rule::Kind::kOpType ? "--op-type " : "--op-name ";
  text += rule.pattern + "=";
  if (rule.leave_alone) return text + "null";
  std::vector<std::string> options;
  for (const auto& [name, value] : rule.options) options.push_back(name + ":" + value);
  return text + fmt::format("{}", fmt::join(options, ","));
}

void CollectNames(const Block& block, std::set<std::string>& types, std::set<std::string>& names) {
  for (const Operation& op : block.operations) {
    // A weight goes by the name of its value, which is what rules are matched with.
    if (!IsConst(op) && !IsConstexpr(op)) {
      types.insert(op.type);
      names.insert(NameOf(op));
    }
    for (const NamedValueType& output : op.outputs) names.insert(output.name);
    for (const Block& inner : op.blocks) CollectNames(inner, types, names);
  }
}

}  // namespace

bool MatchesPattern(std::string_view pattern, std::string_view text) {
  // On a mismatch the last star takes one character more; earlier stars never need to.
  size_t p = 0, t = 0;
  size_t star = std::string_view::npos, star_text = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_text = t;
      continue;
    }
    if (p < pattern.size()) {
      size_t next = p + 1;
      const bool same = pattern[p] == '?'   ? true
                        : pattern[p] == '[' ? MatchesClass(pattern, next = p, text[t])
                                            : pattern[p] == text[t];
      if (same) {
        p = next;
        ++t;
        continue;
      }
    }
    if (star == std::string_view::npos) return false;
    p = star + 1;
    t = ++star_text;
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

Result<Rule> ParseRule(Rule::Kind kind, const std::string& text) {
  const char* const option = kind == Rule::Kind::kOpType ? "--op-type" : "--op-name";
  const auto bad = [&](std::string_view what) {
    return Error{ErrorKind::kUsage,
                 fmt::format("{} '{}': {}; expected PATTERN=null or PATTERN=option:value,...",
                             option, text, what)};
  };
  const size_t equals = text.find('=');
  if (equals == std::string::npos) return bad("has no '='");
  Rule rule;
  rule.kind = kind;
  rule.pattern = text.substr(0, equals);
  if (rule.pattern.empty()) return bad("has no pattern in front of '='");
  const std::string right = text.substr(equals + 1);
  if (right == "null") {
    rule.leave_alone = true;
    return rule;
  }
  for (size_t begin = 0; begin <= right.size();) {
    const size_t end = std::min(right.find(',', begin), right.size());
    const std::string part = right.substr(begin, end - begin);
    const size_t split = part.find_first_of(":=");
    if (split == std::string::npos || split == 0 || split + 1 == part.size())
      return bad(fmt::format("'{}' is not option:value", part));
    rule.options.emplace_back(part.substr(0, split), part.substr(split + 1));
    begin = end + 1;
  }
  return rule;
}

Result<RuleSet> RuleSet::Make(const PassSpec& spec, const PassInfo& info) {
  RuleSet set;
  set.base_ = info.make();
  CMLC_RETURN_IF_ERROR(SetOptions(*set.base_, info.name, spec.options));
  CMLC_RETURN_IF_ERROR(set.base_->CheckOptions());
  for (const Rule& rule : spec.rules) {
    Entry entry{.rule = rule, .text = TextOf(rule), .pass = nullptr};
    if (rule.kind == Rule::Kind::kOpType && rule.pattern == "const")
      return Error{ErrorKind::kUsage,
                   fmt::format("{}: a type is that of the op which reads a weight, and no const "
                               "reads one; a const itself is chosen by --op-name",
                               entry.text)};
    if (!rule.leave_alone) {
      entry.pass = info.make();
      CMLC_RETURN_IF_ERROR(SetOptions(*entry.pass, info.name, spec.options));
      Status status = SetOptions(*entry.pass, info.name, rule.options);
      if (status.ok()) status = entry.pass->CheckOptions();
      if (!status.ok())
        return Error{status.error().kind,
                     fmt::format("{}: {}", entry.text, status.error().message)};
    }
    set.entries_.push_back(std::move(entry));
  }
  return set;
}

const RuleSet::Entry* RuleSet::Match(Rule::Kind kind,
                                     const std::vector<std::string_view>& names) const {
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    if (entry->rule.kind != kind) continue;
    for (const std::string_view name : names)
      if (MatchesPattern(entry->rule.pattern, name)) return &*entry;
  }
  return nullptr;
}

RuleSet::Choice RuleSet::For(const Weight& weight) const {
  const auto choice_of = [&](const Entry* entry) {
    if (entry == nullptr) return Choice{.pass = base_.get()};
    return Choice{.pass = entry->pass.get(),
                  .because = entry->text,
                  .by_name = entry->rule.kind == Rule::Kind::kOpName};
  };
  if (const Entry* entry = Match(Rule::Kind::kOpName, {weight.name})) {
    Choice choice = choice_of(entry);
    choice.by_own_name = true;
    return choice;
  }
  std::vector<const Entry*> wanted;
  for (const Consumer& consumer : weight.consumers) {
    const Entry* entry = Match(Rule::Kind::kOpName, {consumer.op_name, consumer.output_name});
    if (entry == nullptr) entry = Match(Rule::Kind::kOpType, {consumer.op_type});
    wanted.push_back(entry);
  }
  if (wanted.empty()) return choice_of(nullptr);
  const Entry* first = wanted.front();
  const bool conflict =
      std::any_of(wanted.begin(), wanted.end(), [&](const Entry* e) { return e != first; });
  const auto alone = std::find_if(wanted.begin(), wanted.end(), [](const Entry* entry) {
    return entry != nullptr && entry->pass == nullptr;
  });
  Choice choice = choice_of(alone != wanted.end() ? *alone : first);
  choice.conflict = conflict;
  return choice;
}

Status RuleSet::CheckAllMatch(const Model& model) const {
  std::set<std::string> types, names;
  ForEachModel(model, [&](const Model& member) {
    if (!member.program) return;
    for (const auto& [function_name, function] : member.program->functions)
      for (const auto& [opset, block] : function.specializations) CollectNames(block, types, names);
  });
  for (const Entry& entry : entries_) {
    const bool by_type = entry.rule.kind == Rule::Kind::kOpType;
    const std::set<std::string>& all = by_type ? types : names;
    if (std::any_of(all.begin(), all.end(), [&](const std::string& name) {
          return MatchesPattern(entry.rule.pattern, name);
        }))
      continue;
    const std::string near = DidYouMean(entry.rule.pattern, {all.begin(), all.end()});
    std::string hint;
    if (!near.empty())
      hint = "; " + near;
    else if (by_type)
      hint = fmt::format("; there are {}", fmt::join(all, ", "));
    else
      hint = "; `cmlc info` lists the weights and their readers";
    return Error{ErrorKind::kUsage,
                 fmt::format("{}: no {} of this model matches '{}'{}", entry.text,
                             by_type ? "op type" : "op or weight", entry.rule.pattern, hint)};
  }
  return Ok();
}

}  // namespace cmlc
