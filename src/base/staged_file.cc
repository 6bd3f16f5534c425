#include "base/staged_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include "base/cleanup.h"

namespace cmlc {

namespace fs = std::filesystem;

Result<StagedFile> StagedFile::Start(const fs::path& destination, std::string_view what) {
  std::error_code code;
  if (fs::is_directory(destination, code))
    return Error{ErrorKind::kUsage,
                 fmt::format("{}: is a folder, expected a file to write", destination.string())};
  StagedFile staged;
  staged.destination_ = destination;
  staged.path_ = destination.parent_path() /
                 fmt::format(".{}.partial-{}{}", destination.filename().string(), getpid(), what);
  fs::remove(staged.path_, code);
  RemoveOnSignal(staged.path_);
  return staged;
}

StagedFile& StagedFile::operator=(StagedFile&& other) noexcept {
  std::swap(destination_, other.destination_);
  std::swap(path_, other.path_);
  return *this;
}

StagedFile::~StagedFile() {
  if (path_.empty()) return;
  std::error_code code;
  fs::remove(path_, code);
}

Status StagedFile::Place() {
  std::error_code code;
  fs::rename(path_, destination_, code);
  if (code)
    return Error{ErrorKind::kOutput, fmt::format("{}: cannot be put into place: {}",
                                                 destination_.string(), code.message())};
  path_.clear();
  return Ok();
}

}  // namespace cmlc
