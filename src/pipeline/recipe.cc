#include "cmlc/recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "base/file.h"
#include "pipeline/rules.h"

namespace cmlc {
namespace {

constexpr uint64_t kMostRecipeBytes = 16 << 20;

// Errors in a file are thrown from deep inside and caught at the top of this file.
struct Bad {
  std::string message;
};

class Reader {
 public:
  Reader(std::string file, std::vector<std::string>& notes)
      : file_(std::move(file)), notes_(notes) {}

  std::vector<PassSpec> Read(const YAML::Node& root) const {
    Expect(root, YAML::NodeType::Map, "the recipe");
    if (root["config_type"] || root["global_config"] || root["op_type_configs"] ||
        root["op_name_configs"])
      return ReadCoremltools(root);
    CheckKeys(root, {"passes"});
    if (!root["passes"]) Fail(root, "has no 'passes'");
    std::vector<PassSpec> specs;
    const YAML::Node passes = root["passes"];
    Expect(passes, YAML::NodeType::Sequence, "'passes'");
    for (const YAML::Node& pass : passes) specs.push_back(ReadPass(pass));
    if (specs.empty()) Fail(passes, "'passes' is empty");
    return specs;
  }

 private:
  std::string At(const YAML::Node& node) const {
    return fmt::format("{}:{}", file_, node.Mark().line + 1);
  }
  [[noreturn]] void Fail(const YAML::Node& node, std::string_view what) const {
    throw Bad{fmt::format("{}: {}", At(node), what)};
  }
  static std::string_view KindOf(const YAML::Node& node) {
    switch (node.Type()) {
      case YAML::NodeType::Map:
        return "a map";
      case YAML::NodeType::Sequence:
        return "a list";
      case YAML::NodeType::Scalar:
        return "a single value";
      default:
        return "null";
    }
  }
  void Expect(const YAML::Node& node, YAML::NodeType::value type, std::string_view what) const {
    if (node.Type() == type) return;
    Fail(node, fmt::format("{} is {}, expected {}", what, KindOf(node),
                           type == YAML::NodeType::Map        ? "a map"
                           : type == YAML::NodeType::Sequence ? "a list"
                                                              : "a single value"));
  }
  void CheckKeys(const YAML::Node& map, const std::vector<std::string>& known) const {
    for (const auto& entry : map) {
      const std::string key = Text(entry.first, "a key");
      if (std::find(known.begin(), known.end(), key) != known.end()) continue;
      const std::string near = DidYouMean(key, known);
      Fail(entry.first,
           fmt::format(
               "unknown key '{}', {}", key,
               near.empty() ? fmt::format("expected one of {}", fmt::join(known, ", ")) : near));
    }
  }
  std::string Text(const YAML::Node& node, std::string_view what) const {
    Expect(node, YAML::NodeType::Scalar, what);
    return node.Scalar();
  }
  // An option's value as on a command line.
  std::string ValueText(const YAML::Node& node, const std::string& name) const {
    if (node.IsNull()) return "none";
    if (node.IsSequence()) {
      std::vector<std::string> parts;
      for (const YAML::Node& part : node) parts.push_back(Text(part, "an element of " + name));
      return fmt::format("{}", fmt::join(parts, ","));
    }
    return Text(node, fmt::format("'{}'", name));
  }
  // Sets one option on a pass that is thrown away, to find mistakes where they stand.
  void CheckOption(const PassInfo& info, const YAML::Node& at, const std::string& name,
                   const std::string& value) const {
    const std::unique_ptr<Pass> pass = info.make();
    const Status status = SetOptions(*pass, info.name, {{name, value}});
    if (!status.ok()) Fail(at, status.error().message);
  }

  OptionValues ReadOptions(const PassInfo& info, const YAML::Node& map,
                           const std::set<std::string>& other_keys) const {
    OptionValues options;
    for (const auto& entry : map) {
      const std::string name = Text(entry.first, "an option's name");
      if (other_keys.contains(name)) continue;
      const std::string value = ValueText(entry.second, name);
      CheckOption(info, entry.first, name, value);
      options.emplace_back(name, value);
    }
    return options;
  }

  PassSpec ReadPass(const YAML::Node& node) const {
    PassSpec spec;
    spec.origin = At(node);
    YAML::Node body;
    if (node.IsScalar()) {
      spec.pass = node.Scalar();
    } else {
      Expect(node, YAML::NodeType::Map, "a pass");
      if (node.size() != 1)
        Fail(node, fmt::format("a pass is a map with its name as the only key, got {} keys",
                               node.size()));
      spec.pass = Text(node.begin()->first, "a pass's name");
      body = node.begin()->second;
    }
    const PassInfo* info = FindPass(spec.pass);
    if (info == nullptr) {
      std::vector<std::string> names;
      for (const PassInfo& pass : AllPasses()) names.emplace_back(pass.name);
      const std::string near = DidYouMean(spec.pass, names);
      Fail(node,
           fmt::format(
               "unknown pass '{}', {}", spec.pass,
               near.empty() ? fmt::format("expected one of {}", fmt::join(names, ", ")) : near));
    }
    if (!body.IsDefined() || body.IsNull()) return spec;
    Expect(body, YAML::NodeType::Map, fmt::format("'{}'", spec.pass));
    spec.options = ReadOptions(*info, body, {"op_types", "op_names", "rules", "otherwise"});
    if (const YAML::Node otherwise = body["otherwise"]) {
      if (!otherwise.IsNull()) Fail(otherwise, "'otherwise' can only be null (leave alone)");
      spec.leave_alone = true;
    }
    for (const auto& [key, kind] :
         {std::pair{"op_types", Rule::Kind::kOpType}, std::pair{"op_names", Rule::Kind::kOpName}}) {
      const YAML::Node section = body[key];
      if (!section || section.IsNull()) continue;
      Expect(section, YAML::NodeType::Map, fmt::format("'{}'", key));
      for (const auto& entry : section) {
        Rule rule;
        rule.kind = kind;
        rule.pattern = Text(entry.first, "a pattern");
        rule.origin = fmt::format("{}: {} '{}'", At(entry.first), key, rule.pattern);
        ReadRuleOptions(*info, entry.second, rule);
        spec.rules.push_back(std::move(rule));
      }
    }
    if (const YAML::Node rules = body["rules"]; rules && !rules.IsNull()) {
      Expect(rules, YAML::NodeType::Sequence, "'rules'");
      for (const YAML::Node& entry : rules) spec.rules.push_back(ReadWhere(*info, entry));
    }
    return spec;
  }

  void ReadRuleOptions(const PassInfo& info, const YAML::Node& node, Rule& rule) const {
    if (node.IsNull()) {
      rule.leave_alone = true;
      return;
    }
    Expect(node, YAML::NodeType::Map, "the options of a rule (or null)");
    rule.options = ReadOptions(info, node, {"reset"});
    if (const YAML::Node reset = node["reset"]) {
      const std::string text = Text(reset, "'reset'");
      if (text != "true" && text != "false") Fail(reset, "'reset': expected true or false");
      rule.on_top = text == "false";
    }
  }

  Rule ReadWhere(const PassInfo& info, const YAML::Node& node) const {
    Expect(node, YAML::NodeType::Map, "a rule");
    CheckKeys(node, {"where", "options"});
    const YAML::Node where = node["where"];
    if (!where) Fail(node, "a rule has no 'where'");
    Expect(where, YAML::NodeType::Map, "'where'");
    CheckKeys(where, {"name", "op_type", "op_name", "parameter", "shape", "min_elements"});
    if (!node["options"]) Fail(node, "a rule has no 'options' (null: leave alone)");
    Rule rule;
    rule.kind = Rule::Kind::kWhere;
    rule.origin = fmt::format("{}: rule", At(node));
    const auto take = [&](const char* key, std::string& text) {
      if (const YAML::Node value = where[key]) {
        if (value.IsSequence()) {
          text = "[" + ValueText(value, key) + "]";
        } else {
          text = Text(value, fmt::format("'{}'", key));
        }
      }
    };
    take("name", rule.where.name);
    take("op_type", rule.where.op_type);
    take("op_name", rule.where.op_name);
    take("parameter", rule.where.parameter);
    take("shape", rule.where.shape);
    if (const YAML::Node least = where["min_elements"]) {
      try {
        rule.where.min_elements = least.as<int64_t>();
      } catch (const YAML::Exception&) {
        rule.where.min_elements = -1;
      }
      if (rule.where.min_elements < 0) Fail(least, "'min_elements' is no number of elements");
    }
    ReadRuleOptions(info, node["options"], rule);
    return rule;
  }

  // --- coremltools ---

  struct Entry {
    std::string pass;
    OptionValues options;
  };

  // The pass and options that one object of coremltools stands for.
  Entry ReadConfig(const YAML::Node& node, std::string type) const {
    Expect(node, YAML::NodeType::Map, "a configuration");
    if (const YAML::Node own = node["config_type"]) type = Text(own, "'config_type'");
    static const std::map<std::string, std::pair<std::string, std::vector<std::string>>> kClasses =
        {{"OpLinearQuantizerConfig",
          {"quantize", {"mode", "dtype", "granularity", "block_size", "weight_threshold"}}},
         {"OpPalettizerConfig",
          {"palettize",
           {"mode", "nbits", "granularity", "group_size", "channel_axis", "cluster_dim",
            "enable_per_channel_scale", "num_kmeans_workers", "weight_threshold"}}},
         {"OpThresholdPrunerConfig",
          {"prune", {"threshold", "minimum_sparsity_percentile", "weight_threshold"}}},
         {"OpMagnitudePrunerConfig",
          {"prune", {"target_sparsity", "block_size", "n_m_ratio", "dim", "weight_threshold"}}}};
    const auto found = kClasses.find(type);
    if (found == kClasses.end()) {
      std::vector<std::string> names;
      for (const auto& [name, entry] : kClasses) names.push_back(name);
      Fail(node, fmt::format("config_type '{}': expected one of {}", type, fmt::join(names, ", ")));
    }
    if (node["lut_function"])
      Fail(node["lut_function"],
           "lut_function is Python code; mode custom takes its entries from --lut-file");
    std::vector<std::string> keys = found->second.second;
    keys.push_back("config_type");
    CheckKeys(node, keys);
    Entry entry{.pass = found->second.first, .options = {}};
    std::map<std::string, std::string> given;
    for (const auto& field : node) {
      const std::string key = field.first.Scalar();
      if (key == "config_type") continue;
      if (key == "weight_threshold" && field.second.IsNull())
        Fail(field.first, "weight_threshold is null, expected a number of elements");
      if (field.second.IsNull()) continue;
      std::string value = ValueText(field.second, key);
      if (key == "mode" || key == "dtype")
        std::transform(value.begin(), value.end(), value.begin(),
                       [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      if (key == "enable_per_channel_scale")
        std::transform(value.begin(), value.end(), value.begin(),
                       [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      if (key == "num_kmeans_workers") {
        notes_.push_back(
            fmt::format("{}: num_kmeans_workers has no effect: all threads of --threads work",
                        At(field.first)));
        continue;
      }
      given[key] = value;
    }
    // What coremltools ignores is left out; its defaults are written down where ours depend on what
    // else is given.
    if (type == "OpLinearQuantizerConfig") {
      given.emplace("granularity", "per_channel");
      if (given["granularity"] != "per_block") given.erase("block_size");
    } else if (type == "OpPalettizerConfig") {
      given.emplace("granularity", "per_tensor");
      if (given["granularity"] == "per_tensor") {
        given.erase("group_size");
        given.erase("channel_axis");
      }
    } else if (type == "OpThresholdPrunerConfig") {
      given.emplace("threshold", "1e-12");
    }
    const PassInfo* info = FindPass(entry.pass);
    for (const auto& [key, value] : given) {
      YAML::Node at = node;
      for (const auto& field : node)
        if (field.first.Scalar() == key) at.reset(field.first);
      CheckOption(*info, at, key, value);
      entry.options.emplace_back(key, value);
    }
    const std::unique_ptr<Pass> pass = info->make();
    Status status = SetOptions(*pass, info->name, entry.options);
    if (status.ok()) status = pass->CheckOptions();
    if (!status.ok()) Fail(node, status.error().message);
    return entry;
  }

  std::vector<PassSpec> ReadCoremltools(const YAML::Node& root) const {
    CheckKeys(root, {"config_type", "global_config", "op_type_configs", "op_name_configs"});
    if (!root["config_type"]) Fail(root, "has no 'config_type'");
    const std::string type = Text(root["config_type"], "'config_type'");
    struct Ruled {
      Rule rule;
      std::optional<Entry> entry;  // nothing: null
    };
    std::optional<Entry> global;
    if (const YAML::Node node = root["global_config"]; node && !node.IsNull())
      global = ReadConfig(node, type);
    std::vector<Ruled> ruled;
    for (const auto& [key, kind] : {std::pair{"op_type_configs", Rule::Kind::kOpType},
                                    std::pair{"op_name_configs", Rule::Kind::kOpName}}) {
      const YAML::Node section = root[key];
      if (!section || section.IsNull()) continue;
      Expect(section, YAML::NodeType::Map, fmt::format("'{}'", key));
      for (const auto& field : section) {
        Ruled one;
        one.rule.kind = kind;
        one.rule.pattern = Text(field.first, "a name");
        one.rule.on_top = false;
        one.rule.origin = fmt::format("{}: {} '{}'", At(field.first), key, one.rule.pattern);
        if (!field.second.IsNull()) one.entry = ReadConfig(field.second, type);
        ruled.push_back(std::move(one));
      }
    }
    std::vector<PassSpec> specs;
    for (const char* const family : {"prune", "palettize", "quantize"}) {
      PassSpec spec{
          .pass = family, .options = {}, .rules = {}, .leave_alone = true, .origin = At(root)};
      bool any = false;
      if (global && global->pass == family) {
        spec.options = global->options;
        spec.leave_alone = false;
        any = true;
      }
      for (const Ruled& one : ruled) {
        Rule rule = one.rule;
        if (one.entry && one.entry->pass == family) {
          rule.options = one.entry->options;
          any = true;
        } else {
          rule.leave_alone = true;
        }
        spec.rules.push_back(std::move(rule));
      }
      if (any) specs.push_back(std::move(spec));
    }
    if (specs.empty()) notes_.push_back(fmt::format("{}: asks for nothing", file_));
    if (specs.empty()) specs.push_back({.pass = "null"});
    return specs;
  }

  std::string file_;
  std::vector<std::string>& notes_;
};

void EmitOptions(YAML::Emitter& out, const OptionValues& options) {
  for (const auto& [name, value] : options) {
    std::string key = name;
    std::replace(key.begin(), key.end(), '-', '_');
    out << YAML::Key << key << YAML::Value;
    if (value == "none")
      out << YAML::Null;
    else
      out << value;
  }
}

void EmitRuleBody(YAML::Emitter& out, const Rule& rule) {
  if (rule.leave_alone) {
    out << YAML::Null;
    return;
  }
  out << YAML::Flow << YAML::BeginMap;
  if (!rule.on_top) out << YAML::Key << "reset" << YAML::Value << true;
  EmitOptions(out, rule.options);
  out << YAML::EndMap;
}

// `name`: of the file, for messages.
Result<std::vector<PassSpec>> Read(const std::string& text, const std::string& name,
                                   std::vector<std::string>& notes) {
  try {
    return Reader(name, notes).Read(YAML::Load(text));
  } catch (const Bad& bad) {
    return Error{ErrorKind::kUsage, bad.message};
  } catch (const YAML::Exception& error) {
    return Error{ErrorKind::kUsage,
                 fmt::format("{}:{}: is no YAML: {}", name, error.mark.line + 1, error.msg)};
  }
}

struct Preset {
  std::string_view name;
  std::string_view text;
};
constexpr Preset kPresets[] = {
#include "presets.inc"
};

}  // namespace

Result<std::vector<PassSpec>> ReadRecipe(const std::filesystem::path& path,
                                         std::vector<std::string>& notes) {
  CMLC_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path, kMostRecipeBytes));
  return Read(text, path.string(), notes);
}

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

Result<std::vector<PassSpec>> ReadPreset(const std::string& name) {
  for (const Preset& preset : kPresets)
    if (preset.name == name) {
      std::vector<std::string> notes;
      return Read(std::string(preset.text), "preset " + name, notes);
    }
  return Error{ErrorKind::kUsage, fmt::format("--preset '{}': expected one of {}", name,
                                              fmt::join(PresetNames(), ", "))};
}

Result<PassSpec> ParsePass(const std::string& text) {
  PassSpec spec;
  const size_t colon = text.find(':');
  spec.pass = text.substr(0, colon);
  spec.origin = fmt::format("--pass {}", text);
  if (FindPass(spec.pass) == nullptr) {
    std::vector<std::string> names;
    for (const PassInfo& pass : AllPasses()) names.emplace_back(pass.name);
    return Error{ErrorKind::kUsage, fmt::format("{}: unknown pass '{}', expected one of {}",
                                                spec.origin, spec.pass, fmt::join(names, ", "))};
  }
  if (colon == std::string::npos) return spec;
  std::optional<std::string> wrong;
  spec.options = ParseOptionList(text.substr(colon + 1), wrong);
  if (wrong)
    return Error{ErrorKind::kUsage,
                 fmt::format("{}: '{}' is not option=value", spec.origin, *wrong)};
  return spec;
}

std::string PrintRecipe(std::span<const PassSpec> specs) {
  YAML::Emitter out;
  out << YAML::BeginMap << YAML::Key << "passes" << YAML::Value << YAML::BeginSeq;
  for (const PassSpec& spec : specs) {
    if (spec.options.empty() && spec.rules.empty() && !spec.leave_alone) {
      out << spec.pass;
      continue;
    }
    out << YAML::BeginMap << YAML::Key << spec.pass << YAML::Value << YAML::BeginMap;
    EmitOptions(out, spec.options);
    if (spec.leave_alone) out << YAML::Key << "otherwise" << YAML::Value << YAML::Null;
    for (const auto& [key, kind] :
         {std::pair{"op_types", Rule::Kind::kOpType}, std::pair{"op_names", Rule::Kind::kOpName}}) {
      bool any = false;
      for (const Rule& rule : spec.rules) {
        if (rule.kind != kind) continue;
        if (!any) out << YAML::Key << key << YAML::Value << YAML::BeginMap;
        any = true;
        out << YAML::Key << rule.pattern << YAML::Value;
        EmitRuleBody(out, rule);
      }
      if (any) out << YAML::EndMap;
    }
    bool any = false;
    for (const Rule& rule : spec.rules) {
      if (rule.kind != Rule::Kind::kWhere) continue;
      if (!any) out << YAML::Key << "rules" << YAML::Value << YAML::BeginSeq;
      any = true;
      out << YAML::BeginMap << YAML::Key << "where" << YAML::Value << YAML::Flow << YAML::BeginMap;
      const Rule::Where& where = rule.where;
      for (const auto& [key, text] :
           {std::pair{"name", where.name}, std::pair{"op_type", where.op_type},
            std::pair{"op_name", where.op_name}, std::pair{"parameter", where.parameter},
            std::pair{"shape", where.shape}})
        if (!text.empty()) out << YAML::Key << key << YAML::Value << text;
      if (where.min_elements > 0)
        out << YAML::Key << "min_elements" << YAML::Value << where.min_elements;
      out << YAML::EndMap << YAML::Key << "options" << YAML::Value;
      EmitRuleBody(out, rule);
      out << YAML::EndMap;
    }
    if (any) out << YAML::EndSeq;
    out << YAML::EndMap << YAML::EndMap;
  }
  out << YAML::EndSeq << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

}  // namespace cmlc
