#include "format/manifest.h"

#include <fmt/format.h>

#include <charconv>
#include <system_error>

#include "base/file.h"

namespace cmlc::format {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kMostManifestBytes = 64 << 20;
// A real manifest has three levels. The JSON library copies and prints by recursion.
constexpr int kMostLevels = 64;
constexpr const char* kItems = "itemInfoEntries";
constexpr const char* kRoot = "rootModelIdentifier";

// "major.minor.patch" up to 1.0.0: what Apple's own library accepts.
bool IsKnownVersion(const std::string& text) {
  int part[3] = {};
  const char* at = text.data();
  const char* const end = at + text.size();
  for (int i = 0; i < 3; ++i) {
    if (i > 0 && (at == end || *at++ != '.')) return false;
    const auto [next, error] = std::from_chars(at, end, part[i]);
    if (error != std::errc() || next == at || part[i] < 0) return false;
    at = next;
  }
  if (at != end) return false;
  return part[0] < 1 || (part[0] == 1 && part[1] == 0 && part[2] == 0);
}

// A version-8 UUID made of 128 bits of hash, as 32 hex digits.
std::string UuidOf(std::string hex) {
  hex[12] = '8';
  const char variant[] = "89ab";
  const char digit = hex[16];
  const int value = digit <= '9' ? digit - '0' : digit - 'a' + 10;
  hex[16] = variant[value & 3];
  return fmt::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4),
                     hex.substr(16, 4), hex.substr(20, 12));
}

}  // namespace

Result<fs::path> ResolveInside(const fs::path& root, const fs::path& relative, const fs::path& file,
                               const std::string& what) {
  const auto bad = [&](std::string_view why) {
    return Error{ErrorKind::kBadInput,
                 fmt::format("{}: {}: path '{}' {}", file.string(), what, relative.string(), why)};
  };
  if (relative.empty()) return bad("is empty, expected a path inside the package");
  if (relative.native().find('\0') != std::string::npos) return bad("holds a zero character");
  if (relative.is_absolute()) return bad("is absolute, expected a path inside the package");
  for (const fs::path& part : relative)
    if (part == "..") return bad("leaves the package by '..'");
  std::error_code code;
  const fs::path real_root = fs::weakly_canonical(root, code);
  if (code) return bad(fmt::format("cannot be resolved: {}", code.message()));
  const fs::path joined = root / relative;
  const fs::path real = fs::weakly_canonical(joined, code);
  if (code) return bad(fmt::format("cannot be resolved: {}", code.message()));
  const auto [at, unused] =
      std::mismatch(real_root.begin(), real_root.end(), real.begin(), real.end());
  if (at != real_root.end())
    return bad(
        "leaves the package by a symbolic link; a copy with links followed (cp -RL) would "
        "hold the file itself");
  return joined;
}

Result<Manifest> Manifest::Read(const fs::path& package, bool allow_missing_weights) {
  const fs::path file = package / kManifestName;
  const auto bad = [&](std::string_view what) {
    return Error{ErrorKind::kBadInput, fmt::format("{}: {}", file.string(), what)};
  };
  CMLC_RETURN_IF_ERROR(ResolveInside(package, kManifestName, file, "manifest"));
  CMLC_ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(file, kMostManifestBytes));

  Manifest manifest;
  json& root = manifest.json_;
  bool too_deep = false;
  const auto check_depth = [&](int depth, json::parse_event_t, json&) {
    too_deep = too_deep || depth > kMostLevels;
    return depth <= kMostLevels;
  };
  try {
    root = json::parse(text, check_depth);
  } catch (const json::parse_error& error) {
    return bad(fmt::format("is not valid JSON near byte {} of {}", error.byte, text.size()));
  } catch (const json::out_of_range&) {
    return bad("is not valid JSON: it holds a number that is too large");
  }
  if (too_deep) return bad(fmt::format("is nested deeper than {} levels", kMostLevels));
  if (!root.is_object()) return bad("expected a JSON object at the top");
  const auto text_of = [](const json& object, const char* key) -> const std::string* {
    const auto found = object.find(key);
    return found == object.end() ? nullptr : found->get_ptr<const std::string*>();
  };

  const std::string* version = text_of(root, "fileFormatVersion");
  if (version == nullptr)
    return bad("fileFormatVersion: missing or not a text, expected \"1.0.0\"");
  if (!IsKnownVersion(*version))
    return bad(fmt::format("fileFormatVersion: '{}' is not known, expected '1.0.0'", *version));
  const auto items = root.find(kItems);
  if (items == root.end() || !items->is_object())
    return bad(fmt::format("{}: missing or not an object", kItems));
  const std::string* root_id = text_of(root, kRoot);
  if (root_id == nullptr) return bad(fmt::format("{}: missing or not a text", kRoot));
  manifest.model_id_ = *root_id;

  for (const auto& [id, item] : items->items()) {
    const std::string what = fmt::format("item {}", id);
    if (!item.is_object()) return bad(fmt::format("{}: expected an object", what));
    for (const char* key : {"path", "name", "author", "description"})
      if (text_of(item, key) == nullptr)
        return bad(fmt::format("{}: '{}' is missing or not a text", what, key));
    const fs::path path = *text_of(item, "path");
    CMLC_ASSIGN_OR_RETURN(const fs::path full, ResolveInside(package / "Data", path, file, what));
    CMLC_RETURN_IF_ERROR(ResolveInside(package, fs::path("Data") / path, file, what));
    const bool is_weights =
        *text_of(item, "name") == "weights" && *text_of(item, "author") == kAuthor;
    std::error_code code;
    const bool exists = fs::exists(full, code);
    if (!exists && !(is_weights && allow_missing_weights))
      return bad(fmt::format("{}: '{}' is named here but missing", what, full.string()));
    if (id == manifest.model_id_) manifest.model_path_ = fs::path("Data") / path;
    if (is_weights) {
      if (exists && !fs::is_directory(full, code))
        return bad(
            fmt::format("{}: '{}' is not a folder, as weights must be", what, full.string()));
      manifest.weights_id_ = id;
      manifest.weights_path_ = fs::path("Data") / path;
    }
  }
  if (manifest.model_path_.empty())
    return bad(fmt::format("{}: no item has the identifier '{}'", kRoot, manifest.model_id_));
  return manifest;
}

std::string Manifest::Text(const std::string& model_hash, const std::string& weights_hash) const {
  json root = json_;
  json& items = root[kItems];
  const std::string new_id = UuidOf(model_hash);
  json model = items[model_id_];
  items.erase(model_id_);
  json weights;
  if (!weights_id_.empty()) {
    weights = items[weights_id_];
    items.erase(weights_id_);
  } else if (!weights_hash.empty()) {
    weights = {
        {"author", kAuthor},
        {"description", "CoreML Model Weights"},
        {"name", "weights"},
        {"path",
         (model_path_.lexically_relative("Data").parent_path() / "weights").generic_string()}};
  }
  items[new_id] = std::move(model);
  root[kRoot] = new_id;
  // A folder of weights without any weights keeps the name it had.
  if (!weights.is_null())
    items[weights_hash.empty() ? weights_id_ : UuidOf(weights_hash)] = std::move(weights);
  return root.dump(4) + "\n";
}

}  // namespace cmlc::format
