// Files: opened once, mapped a window at a time, written at known offsets.
#ifndef CMLC_BASE_FILE_H_
#define CMLC_BASE_FILE_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "cmlc/status.h"

namespace cmlc {

// A read-only view of a range of a file. Unmapped when it goes away.
//
// Windows, and not one mapping of the whole file: the address space and the resident memory that a
// run needs then depend on the largest window and not on the size of the model, even where the
// process is not allowed to map a file whole.
class FileWindow {
 public:
  FileWindow() = default;
  FileWindow(FileWindow&& other) noexcept { *this = std::move(other); }
  FileWindow& operator=(FileWindow&& other) noexcept;
  FileWindow(const FileWindow&) = delete;
  FileWindow& operator=(const FileWindow&) = delete;
  ~FileWindow();

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  friend class File;
  void* base_ = nullptr;  // page aligned
  size_t mapped_ = 0;
  std::span<const std::byte> bytes_;
};

class File {
 public:
  File() = default;
  File(File&& other) noexcept { *this = std::move(other); }
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  // Opens a regular file for reading. kBadInput if it is missing or not a regular file.
  static Result<File> OpenForReading(const std::filesystem::path& path);

  // Makes a new file, which must not exist yet, for writing and reading. kOutput on failure.
  static Result<File> Create(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  uint64_t size() const { return size_; }

  // Maps bytes [offset, offset + size). kBadInput if that leaves the file. Any thread may call it.
  // `all`: most of them will be looked at, so their pages are made at once.
  Result<FileWindow> Map(uint64_t offset, uint64_t size, bool all = true) const;

  // Writes at `offset`; any thread may call it. kOutput on failure.
  Status WriteAt(uint64_t offset, std::span<const std::byte> bytes);
  // The same for two runs of bytes, one behind the other.
  Status WriteAt(uint64_t offset, std::span<const std::byte> head,
                 std::span<const std::byte> bytes);

  // Cuts the file to `size` bytes, or fills it up with zeros.
  Status Resize(uint64_t size);

  // Lets the system begin to write some of the bytes to the disk, where it can be told to, so that
  // Sync has less to wait for.
  void StartSync(uint64_t offset, uint64_t size);

  // Flushes the file to the disk.
  Status Sync();

 private:
  int descriptor_ = -1;
  uint64_t size_ = 0;  // as opened for reading
  std::filesystem::path path_;
};

// Reads a whole file of at most `limit` bytes. kBadInput if it is missing, larger, or not a
// regular file.
Result<std::string> ReadWholeFile(const std::filesystem::path& path, uint64_t limit);

// Flushes a folder's entries to the disk.
Status SyncDirectory(const std::filesystem::path& path);

// The text of the last failed system call: "No such file or directory".
std::string LastSystemError();

}  // namespace cmlc

#endif  // CMLC_BASE_FILE_H_
