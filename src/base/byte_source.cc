#include "base/byte_source.h"

#include <cstring>

#include "base/file.h"

namespace cmlc {
namespace {

class FileSource final : public ByteSource {
 public:
  explicit FileSource(File file) : file_(std::move(file)) {}
  uint64_t size() const override { return file_.size(); }
  Status Read(uint64_t offset, std::span<char> out) override {
    if (out.empty()) return Ok();
    CMLC_ASSIGN_OR_RETURN(const FileWindow window, file_.Map(offset, out.size()));
    std::memcpy(out.data(), window.bytes().data(), out.size());
    return Ok();
  }

 private:
  File file_;
};

}  // namespace

Result<std::unique_ptr<ByteSource>> OpenFileSource(const std::filesystem::path& path) {
  CMLC_ASSIGN_OR_RETURN(File file, File::OpenForReading(path));
  return std::unique_ptr<ByteSource>(std::make_unique<FileSource>(std::move(file)));
}

}  // namespace cmlc
