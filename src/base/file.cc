#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace cmlc {
namespace {

Error BadInput(const std::filesystem::path& path, std::string_view what) {
  return {ErrorKind::kBadInput, fmt::format("{}: {}", path.string(), what)};
}

Error BadOutput(const std::filesystem::path& path, std::string_view what) {
  return {ErrorKind::kOutput, fmt::format("{}: {}", path.string(), what)};
}

uint64_t PageSize() {
  static const auto size = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return size;
}

}  // namespace

std::string LastSystemError() { return std::strerror(errno); }

FileWindow& FileWindow::operator=(FileWindow&& other) noexcept {
  if (this != &other) {
    if (base_ != nullptr) munmap(base_, mapped_);
    base_ = std::exchange(other.base_, nullptr);
    mapped_ = std::exchange(other.mapped_, 0);
    bytes_ = std::exchange(other.bytes_, {});
  }
  return *this;
}

FileWindow::~FileWindow() {
  if (base_ != nullptr) munmap(base_, mapped_);
}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (descriptor_ >= 0) close(descriptor_);
    descriptor_ = std::exchange(other.descriptor_, -1);
    size_ = other.size_;
    path_ = std::move(other.path_);
  }
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) close(descriptor_);
}

Result<File> File::OpenForReading(const std::filesystem::path& path) {
  File file;
  file.path_ = path;
  // O_NONBLOCK: opening a named pipe must fail below, not wait for a writer.
  file.descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file.descriptor_ < 0)
    return BadInput(path, fmt::format("cannot open: {}", LastSystemError()));
  struct stat info {};
  if (fstat(file.descriptor_, &info) != 0) return BadInput(path, LastSystemError());
  if (!S_ISREG(info.st_mode)) return BadInput(path, "is not a regular file");
  file.size_ = static_cast<uint64_t>(info.st_size);
  return file;
}

Result<File> File::Create(const std::filesystem::path& path) {
  File file;
  file.path_ = path;
  file.descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file.descriptor_ < 0)
    return BadOutput(path, fmt::format("cannot create: {}", LastSystemError()));
  return file;
}

Result<FileWindow> File::Map(uint64_t offset, uint64_t size, [[maybe_unused]] bool all) const {
  struct stat info {};
  if (fstat(descriptor_, &info) != 0) return BadInput(path_, LastSystemError());
  const auto file_size = static_cast<uint64_t>(info.st_size);
  if (offset > file_size || size > file_size - offset)
    return BadInput(path_, fmt::format("bytes {} to {} lie outside of the file's {} bytes", offset,
                                       offset + size, file_size));
  FileWindow window;
  if (size == 0) return window;
  const uint64_t start = offset / PageSize() * PageSize();
  const size_t length = size + (offset - start);
  int flags = MAP_SHARED;
#ifdef MAP_POPULATE
  // One call that fills the page table costs a tenth of the page faults it saves.
  if (all) flags |= MAP_POPULATE;
#endif
  void* base = mmap(nullptr, length, PROT_READ, flags, descriptor_, static_cast<off_t>(start));
  if (base == MAP_FAILED)
    return BadInput(path_, fmt::format("cannot map {} bytes: {}", size, LastSystemError()));
  window.base_ = base;
  window.mapped_ = length;
  window.bytes_ = {static_cast<const std::byte*>(base) + (offset - start), size};
  return window;
}

Status File::WriteAt(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written =
        pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return BadOutput(path_, fmt::format("cannot write: {}", LastSystemError()));
    offset += static_cast<uint64_t>(written);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return Ok();
}

Status File::WriteAt(uint64_t offset, std::span<const std::byte> head,
                     std::span<const std::byte> bytes) {
  const std::array<iovec, 2> parts = {
      iovec{const_cast<std::byte*>(head.data()), head.size()},
      iovec{const_cast<std::byte*>(bytes.data()), bytes.size()},
  };
  const ssize_t result = pwritev(descriptor_, parts.data(), static_cast<int>(parts.size()),
                                 static_cast<off_t>(offset));
  // What one call did not do is left to the plain way, errors included.
  const size_t written = result < 0 ? 0 : static_cast<size_t>(result);
  if (written < head.size()) CMLC_RETURN_IF_ERROR(WriteAt(offset + written, head.subspan(written)));
  const size_t done = written - std::min(written, head.size());
  return WriteAt(offset + head.size() + done, bytes.subspan(done));
}

Status File::Resize(uint64_t size) {
  if (ftruncate(descriptor_, static_cast<off_t>(size)) != 0)
    return BadOutput(path_, fmt::format("cannot set its size: {}", LastSystemError()));
  return Ok();
}

void File::StartSync([[maybe_unused]] uint64_t offset, [[maybe_unused]] uint64_t size) {
#ifdef SYNC_FILE_RANGE_WRITE
  // Whatever goes wrong, Sync tells of.
  (void)sync_file_range(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(size),
                        SYNC_FILE_RANGE_WRITE);
#endif
}

Status File::Sync() {
  if (fsync(descriptor_) != 0)
    return BadOutput(path_, fmt::format("cannot sync: {}", LastSystemError()));
  return Ok();
}

Result<std::string> ReadWholeFile(const std::filesystem::path& path, uint64_t limit) {
  CMLC_ASSIGN_OR_RETURN(const File file, File::OpenForReading(path));
  if (file.size() > limit)
    return BadInput(path,
                    fmt::format("has {} bytes, at most {} are possible here", file.size(), limit));
  CMLC_ASSIGN_OR_RETURN(const FileWindow window, file.Map(0, file.size()));
  return std::string(reinterpret_cast<const char*>(window.bytes().data()), window.bytes().size());
}

Status SyncDirectory(const std::filesystem::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return BadOutput(path, fmt::format("cannot open: {}", LastSystemError()));
  const int result = fsync(descriptor);
  const std::string text = LastSystemError();
  close(descriptor);
  // Some file systems cannot sync a folder; that is no reason to throw the result away.
  if (result != 0 && errno != EINVAL && errno != ENOTSUP)
    return BadOutput(path, fmt::format("cannot sync: {}", text));
  return Ok();
}

}  // namespace cmlc
