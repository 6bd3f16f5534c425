// Visitors of options: one sets them from texts, one describes them.
#include "cmlc/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "cmlc/pass.h"

namespace cmlc {
namespace {

std::string Underscored(std::string_view name) {
  std::string text(name);
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

class Setter final : public OptionVisitor {
 public:
  Setter(std::string_view pass, const std::string& name, const std::string& value)
      : pass_(pass), name_(name), value_(value) {}

  void Int(const OptionInfo& info, std::optional<int64_t>& value, int64_t least,
           std::initializer_list<int64_t> allowed) override {
    if (info.name != name_ && (info.alias.empty() || info.alias != name_)) return;
    found_ = true;
    if (value_ == "none") {
      value = info.none;
      return;
    }
    int64_t number = 0;
    const char* end = value_.data() + value_.size();
    const auto [at, error] = std::from_chars(value_.data(), end, number);
    if (error != std::errc() || at != end || value_.empty()) return Refuse("expected an integer");
    if (allowed.size() > 0 && std::find(allowed.begin(), allowed.end(), number) == allowed.end())
      return Refuse(fmt::format("expected one of {}", fmt::join(allowed, ", ")));
    if (number < least) return Refuse(fmt::format("expected {} or more", least));
    value = number;
  }

  void Choice(const OptionInfo& info, std::string& value,
              std::initializer_list<std::string_view> allowed) override {
    if (info.name != name_ && (info.alias.empty() || info.alias != name_)) return;
    found_ = true;
    if (std::find(allowed.begin(), allowed.end(), value_) == allowed.end()) {
      return Refuse(fmt::format("expected one of {}", fmt::join(allowed, ", ")));
    }
    value = value_;
  }

  void Number(const OptionInfo& info, std::optional<double>& value, double least,
              double most) override {
    if (info.name != name_ && (info.alias.empty() || info.alias != name_)) return;
    found_ = true;
    if (value_ == "none") {
      value.reset();
      return;
    }
    double number = 0;
    const char* end = value_.data() + value_.size();
    const auto [at, error] = std::from_chars(value_.data(), end, number);
    if (error != std::errc() || at != end || value_.empty() || !(number >= least && number <= most))
      return Refuse(most < std::numeric_limits<double>::max()
                        ? fmt::format("expected a number from {} to {}", least, most)
                        : fmt::format("expected a number of {} or more", least));
    value = number;
  }

  void Flag(const OptionInfo& info, bool& value) override {
    if (info.name != name_ && (info.alias.empty() || info.alias != name_)) return;
    found_ = true;
    if (value_ != "true" && value_ != "false") return Refuse("expected true or false");
    value = value_ == "true";
  }

  void Ints(const OptionInfo& info, std::vector<int64_t>& value, int64_t least) override {
    if (info.name != name_ && (info.alias.empty() || info.alias != name_)) return;
    found_ = true;
    std::vector<int64_t> numbers;
    const char* at = value_.data();
    const char* const end = at + value_.size();
    while (value_ != "none") {
      int64_t number = 0;
      const auto [next, error] = std::from_chars(at, end, number);
      if (error != std::errc() ||
          (next != end && std::string_view(",:x").find(*next) == std::string_view::npos))
        return Refuse("expected an integer, or several joined by commas");
      if (number < least) return Refuse(fmt::format("expected {} or more", least));
      numbers.push_back(number);
      if (next == end) break;
      at = next + 1;
    }
    value = std::move(numbers);
  }

  void Words(const OptionInfo& info, std::vector<std::string>& value,
             const std::vector<std::string>& allowed) override {
    if (info.name != name_ && (info.alias.empty() || info.alias != name_)) return;
    found_ = true;
    std::vector<std::string> words;
    for (size_t begin = 0; value_ != "none" && begin <= value_.size();) {
      const size_t end = std::min(value_.find_first_of(",+", begin), value_.size());
      std::string word = value_.substr(begin, end - begin);
      if (word.empty()) return Refuse("expected words joined by commas");
      if (!allowed.empty() && std::find(allowed.begin(), allowed.end(), word) == allowed.end())
        return Refuse(fmt::format("expected some of {}", fmt::join(allowed, ", ")));
      words.push_back(std::move(word));
      begin = end + 1;
    }
    value = std::move(words);
  }

  void Path(const OptionInfo& info, std::string& value) override {
    if (info.name != name_ && (info.alias.empty() || info.alias != name_)) return;
    found_ = true;
    value = value_;
  }

  bool found() const { return found_; }
  const Status& status() const { return status_; }

 private:
  void Refuse(std::string_view expected) {
    status_ = Error{ErrorKind::kUsage,
                    fmt::format("{}: {}: {}, got '{}'", pass_, name_, expected, value_)};
  }

  std::string_view pass_;
  std::string name_;
  std::string value_;
  bool found_ = false;
  Status status_;
};

class Describer final : public OptionVisitor {
 public:
  void Int(const OptionInfo& info, std::optional<int64_t>& value, int64_t,
           std::initializer_list<int64_t> allowed) override {
    OptionDescription& option = Add(info, "INT");
    for (const int64_t number : allowed) option.allowed.push_back(std::to_string(number));
    option.value = value ? std::to_string(*value) : std::string(info.fallback);
  }
  void Choice(const OptionInfo& info, std::string& value,
              std::initializer_list<std::string_view> allowed) override {
    OptionDescription& option = Add(info, "TEXT");
    option.allowed.assign(allowed.begin(), allowed.end());
    option.value = value;
  }
  void Number(const OptionInfo& info, std::optional<double>& value, double, double) override {
    OptionDescription& option = Add(info, "NUMBER");
    if (value) option.value = fmt::format("{}", *value);
  }
  void Flag(const OptionInfo& info, bool& value) override {
    Add(info, "FLAG").value = value ? "true" : "false";
  }
  void Ints(const OptionInfo& info, std::vector<int64_t>& value, int64_t) override {
    Add(info, "INTS").value = fmt::format("{}", fmt::join(value, ","));
  }
  void Words(const OptionInfo& info, std::vector<std::string>& value,
             const std::vector<std::string>& allowed) override {
    OptionDescription& option = Add(info, "WORDS");
    option.allowed = allowed;
    option.value = fmt::format("{}", fmt::join(value, ","));
  }
  void Path(const OptionInfo& info, std::string& value) override {
    Add(info, "FILE").value = value;
  }

  std::vector<OptionDescription> options;

 private:
  OptionDescription& Add(const OptionInfo& info, std::string kind) {
    return options.emplace_back(OptionDescription{.name = std::string(info.name),
                                                  .alias = std::string(info.alias),
                                                  .help = std::string(info.help),
                                                  .allowed = {},
                                                  .value = {},
                                                  .kind = std::move(kind)});
  }
};

// Levenshtein's distance.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row.back();
}

}  // namespace

std::vector<OptionDescription> DescribeOptions(Pass& pass) {
  Describer describer;
  pass.VisitOptions(describer);
  return std::move(describer.options);
}

Status SetOptions(Pass& pass, std::string_view pass_name, const OptionValues& values) {
  for (const auto& [spelled, value] : values) {
    const std::string name = Underscored(spelled);
    Setter setter(pass_name, name, value);
    pass.VisitOptions(setter);
    if (!setter.found()) {
      std::vector<std::string> names;
      for (const OptionDescription& option : DescribeOptions(pass)) names.push_back(option.name);
      const std::string near = DidYouMean(name, names);
      return Error{ErrorKind::kUsage, fmt::format("{}: unknown option '{}', {}", pass_name, name,
                                                  near.empty() ? fmt::format("expected one of {}",
                                                                             fmt::join(names, ", "))
                                                               : near)};
    }
    CMLC_RETURN_IF_ERROR(setter.status());
  }
  return Ok();
}

std::string DidYouMean(std::string_view name, const std::vector<std::string>& names) {
  constexpr size_t kMostNames = 3;
  const size_t most_edits = std::max<size_t>(2, name.size() / 3);
  std::vector<std::pair<size_t, std::string>> near;
  for (const std::string& candidate : names)
    if (const size_t edits = EditDistance(name, candidate); edits <= most_edits)
      near.emplace_back(edits, fmt::format("'{}'", candidate));
  if (near.empty()) return {};
  std::sort(near.begin(), near.end());
  // Only names about as near as the nearest: the others would be guesses.
  std::vector<std::string> shown;
  for (const auto& [edits, quoted] : near)
    if (shown.size() < kMostNames && edits <= near.front().first + 1) shown.push_back(quoted);
  return fmt::format("did you mean {}?", fmt::join(shown, " or "));
}

}  // namespace cmlc
