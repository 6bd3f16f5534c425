// Zip archives, as far as .npz files need them: entries that are stored or deflated, of any size
// (zip64). One disk, no encryption.
#ifndef CMLC_BASE_ZIP_H_
#define CMLC_BASE_ZIP_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/byte_source.h"
#include "base/file.h"
#include "cmlc/status.h"

namespace cmlc {

struct ZipEntry {
  std::string name;
  uint64_t header_offset = 0;
  uint64_t stored_bytes = 0;
  uint64_t size_bytes = 0;
  uint32_t crc = 0;
  uint16_t method = 0;
};

class ZipReader {
 public:
  // Reads the directory of an archive. kBadInput if it is none, or is cut short.
  static Result<ZipReader> Open(const std::filesystem::path& path);

  const std::vector<ZipEntry>& entries() const { return entries_; }  // in the directory's order

  // The bytes of an entry. Its checksum is checked when it has been read to its end without leaving
  // anything out. kBadInput if its form is not one of ours or its place is wrong.
  Result<std::unique_ptr<ByteSource>> OpenEntry(const ZipEntry& entry) const;

 private:
  std::shared_ptr<File> file_;
  std::vector<ZipEntry> entries_;
};

// Writes an archive of stored entries: the same entries give the same bytes.
class ZipWriter {
 public:
  // Makes a new file. kOutput on failure.
  static Result<ZipWriter> Create(const std::filesystem::path& path);

  // Starts an entry of `size_bytes` bytes, which Append has to be given before the next call.
  Status Begin(std::string name, uint64_t size_bytes);
  Status Append(std::span<const char> bytes);

  // Writes the directory and flushes the file.
  Status Finish();

 private:
  Status EndEntry();

  File file_;
  uint64_t at_ = 0;  // where the next byte goes
  uint64_t left_ = 0;
  std::vector<ZipEntry> entries_;
};

}  // namespace cmlc

#endif  // CMLC_BASE_ZIP_H_
