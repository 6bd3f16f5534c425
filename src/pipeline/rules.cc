#include "pipeline/rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "ir/layers.h"

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
  if (!rule.origin.empty()) return rule.origin;
  std::string text = rule.kind == Rule::Kind::kOpType ? "--op-type " : "--op-name ";
  text += rule.pattern + "=";
  if (rule.leave_alone) return text + "null";
  std::vector<std::string> options;
  for (const auto& [name, value] : rule.options) options.push_back(name + ":" + value);
  return text + fmt::format("{}", fmt::join(options, ","));
}

// Whether a shape fits "[*, 3, 7, 7]".
bool MatchesShape(std::string_view pattern, const Shape& shape) {
  std::vector<std::string> sizes;
  std::string size;
  for (const char c : pattern) {
    if (c == '[' || c == ']' || c == ' ') continue;
    if (c == ',') {
      sizes.push_back(std::exchange(size, {}));
    } else {
      size += c;
    }
  }
  if (!size.empty()) sizes.push_back(size);
  if (sizes.size() != shape.size()) return false;
  for (size_t d = 0; d < sizes.size(); ++d)
    if (sizes[d] != "*" && sizes[d] != std::to_string(shape[d])) return false;
  return true;
}

bool Fits(const Rule::Where& where, const Subject& subject) {
  const auto fits = [](const std::string& pattern, std::string_view text) {
    return pattern.empty() || MatchesPattern(pattern, text);
  };
  if (!fits(where.name, subject.name)) return false;
  if (!where.shape.empty() &&
      (subject.shape == nullptr || !MatchesShape(where.shape, *subject.shape)))
    return false;
  if (subject.element_count < static_cast<uint64_t>(where.min_elements)) return false;
  if (where.op_type.empty() && where.op_name.empty() && where.parameter.empty()) return true;
  return std::any_of(
      subject.consumers.begin(), subject.consumers.end(), [&](const Consumer& consumer) {
        return fits(where.op_type, consumer.op_type) && fits(where.parameter, consumer.parameter) &&
               (fits(where.op_name, consumer.op_name) || fits(where.op_name, consumer.output_name));
      });
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

// Options that choose layers by words, which must be those of a layer. Types may be any that there
// are, so that one command serves several models.
Status CheckLayerWords(Pass& pass, const std::set<std::string>& types,
                       const std::set<std::string>& names) {
  for (const OptionDescription& option : DescribeOptions(pass)) {
    const bool by_type = option.name == "skip_layer_types";
    if (option.value.empty() || (!by_type && option.name != "include_layers_with_names")) continue;
    for (size_t begin = 0; begin <= option.value.size();) {
      const size_t end = std::min(option.value.find(',', begin), option.value.size());
      const std::string word = option.value.substr(begin, end - begin);
      begin = end + 1;
      const bool is_special = word == "depthwiseConv" || word == "bias";
      if (by_type ? types.contains(word) || is_special || IsLayerType(word) : names.contains(word))
        continue;
      const std::set<std::string>& all = by_type ? types : names;
      const std::string near = DidYouMean(word, {all.begin(), all.end()});
      return Error{ErrorKind::kUsage,
                   fmt::format("{}: no layer of this model has the {} '{}'{}", option.name,
                               by_type ? "type" : "name", word,
                               near.empty() ? "; `cmlc info` lists the weights and their readers"
                                            : "; " + near)};
    }
  }
  return Ok();
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

OptionValues ParseOptionList(const std::string& text, std::optional<std::string>& wrong) {
  OptionValues options;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    const size_t split = part.find_first_of(":=");
    if (split == std::string::npos || split == 0 || split + 1 == part.size()) {
      wrong = part;
      return {};
    }
    options.emplace_back(part.substr(0, split), part.substr(split + 1));
    begin = end + 1;
  }
  return options;
}

Result<Rule> ParseRule(Rule::Kind kind, const std::string& text) {
  const char* const option = kind == Rule::Kind::kOpType ? "--op-type" : "--op-name";
  const auto bad = [&](std::string_view what) {
    return Error{
        ErrorKind::kUsage,
        fmt::format("{} '{}': {}; expected PATTERN=null, or PATTERN=option:value with more "
                    "options behind commas",
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
  std::optional<std::string> wrong;
  rule.options = ParseOptionList(right, wrong);
  if (wrong) return bad(fmt::format("'{}' is not option:value", *wrong));
  return rule;
}

Result<RuleSet> RuleSet::Make(const PassSpec& spec, const PassInfo& info) {
  RuleSet set;
  set.kind_ = info.kind;
  const auto located = [&](const Status& status) {
    if (status.ok() || spec.origin.empty()) return status;
    return Status(
        Error{status.error().kind, fmt::format("{}: {}", spec.origin, status.error().message)});
  };
  set.base_ = info.make();
  CMLC_RETURN_IF_ERROR(located(SetOptions(*set.base_, info.name, spec.options)));
  if (spec.leave_alone)
    set.leave_because_ = "no rule asks for it, and the pass leaves the others alone";
  else
    CMLC_RETURN_IF_ERROR(located(set.base_->CheckOptions()));
  for (const Rule& rule : spec.rules) {
    Entry entry{.rule = rule, .text = TextOf(rule), .pass = nullptr};
    if (rule.kind == Rule::Kind::kOpType && rule.pattern == "const" &&
        info.kind == PassKind::kWeights)
      return Error{ErrorKind::kUsage,
                   fmt::format("{}: a type is that of the op which reads a weight, and no const "
                               "reads one; a const itself is chosen by --op-name",
                               entry.text)};
    if (!rule.leave_alone) {
      entry.pass = info.make();
      if (rule.on_top) CMLC_RETURN_IF_ERROR(SetOptions(*entry.pass, info.name, spec.options));
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

RuleSet::Choice RuleSet::For(const Subject& subject) const {
  const auto choice_of = [&](const Entry* entry) {
    if (entry == nullptr && !leave_because_.empty())
      return Choice{.pass = nullptr, .because = leave_because_};
    if (entry == nullptr) return Choice{.pass = base_.get()};
    return Choice{.pass = entry->pass.get(),
                  .because = entry->text,
                  .by_name = entry->rule.kind == Rule::Kind::kOpName};
  };
  const Entry* where = nullptr;
  for (const Entry& entry : entries_)
    if (entry.rule.kind == Rule::Kind::kWhere && Fits(entry.rule.where, subject)) {
      entry.used = true;
      where = &entry;
    }
  if (where != nullptr) return choice_of(where);
  const Entry* own = subject.by_own_name ? Match(Rule::Kind::kOpName, {subject.name}) : nullptr;
  if (own != nullptr) {
    Choice choice = choice_of(own);
    choice.by_own_name = true;
    return choice;
  }
  std::vector<const Entry*> wanted;
  for (const Consumer& consumer : subject.consumers) {
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
    if (member.network) CollectNames(member.network->block, types, names);
    if (!member.program) return;
    for (const auto& [function_name, function] : member.program->functions)
      for (const auto& [opset, block] : function.specializations) CollectNames(block, types, names);
  });
  CMLC_RETURN_IF_ERROR(CheckLayerWords(*base_, types, names));
  for (const Entry& entry : entries_)
    if (entry.pass) CMLC_RETURN_IF_ERROR(CheckLayerWords(*entry.pass, types, names));
  for (const Entry& entry : entries_) {
    if (entry.rule.kind == Rule::Kind::kWhere) continue;
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

Status RuleSet::CheckAllUsed() const {
  for (const Entry& entry : entries_)
    if (entry.rule.kind == Rule::Kind::kWhere && !entry.used)
      return Error{
          ErrorKind::kUsage,
          kind_ == PassKind::kWeights
              ? fmt::format("{}: no weight of this model fits; `cmlc info` lists the weights and "
                            "their readers",
                            entry.text)
              : fmt::format("{}: no value that an op of this model reads fits", entry.text)};
  return Ok();
}

}  // namespace cmlc
