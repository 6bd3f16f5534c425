// A file that is written beside its destination, and is gone unless it is put into place.
#ifndef CMLC_BASE_STAGED_FILE_H_
#define CMLC_BASE_STAGED_FILE_H_

#include <filesystem>
#include <string_view>
#include <utility>

#include "cmlc/status.h"

namespace cmlc {

class StagedFile {
 public:
  // `what` tells several apart that belong to one destination. A signal removes it, too. kUsage if
  // the destination is a folder.
  static Result<StagedFile> Start(const std::filesystem::path& destination, std::string_view what);
  StagedFile() = default;
  StagedFile(StagedFile&& other) noexcept { *this = std::move(other); }
  StagedFile& operator=(StagedFile&& other) noexcept;
  ~StagedFile();

  const std::filesystem::path& path() const { return path_; }  // where to write
  // Takes the place of what is at the destination. kOutput on failure.
  Status Place();

 private:
  std::filesystem::path destination_;
  std::filesystem::path path_;
};

}  // namespace cmlc

#endif  // CMLC_BASE_STAGED_FILE_H_
