// Manifest.json: which items a package has.
#ifndef CMLC_FORMAT_MANIFEST_H_
#define CMLC_FORMAT_MANIFEST_H_

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "cmlc/status.h"

namespace cmlc::format {

constexpr const char* kManifestName = "Manifest.json";
constexpr const char* kAuthor = "com.apple.CoreML";

class Manifest {
 public:
  // Reads and checks the manifest of the package in folder `package`: its format version, that
  // every item has its four texts, that its path stays inside the package and exists. kBadInput
  // otherwise. With `allow_missing_weights` the folder of weights need not exist.
  static Result<Manifest> Read(const std::filesystem::path& package,
                               bool allow_missing_weights = false);

  // Of the root model and of the folder of weights, relative to the package. The latter is empty if
  // there is no such item.
  const std::filesystem::path& model_path() const { return model_path_; }
  const std::filesystem::path& weights_path() const { return weights_path_; }

  // The text to write: as read, but with identifiers of the model and the weights derived from
  // what they hold, so that equal packages are equal byte for byte. An empty `weights_hash` means
  // there are no weights; an item for them is added where there was none.
  std::string Text(const std::string& model_hash, const std::string& weights_hash) const;

 private:
  nlohmann::json json_;
  std::string model_id_;
  std::string weights_id_;
  std::filesystem::path model_path_;
  std::filesystem::path weights_path_;
};

// Joins `relative` to the folder `root` if the result stays inside it, links followed. `what` and
// `file` are for the message: who names the path, and in which file. kBadInput if it leaves the
// package; nothing is said about whether it exists.
Result<std::filesystem::path> ResolveInside(const std::filesystem::path& root,
                                            const std::filesystem::path& relative,
                                            const std::filesystem::path& file,
                                            const std::string& what);

}  // namespace cmlc::format

#endif  // CMLC_FORMAT_MANIFEST_H_
