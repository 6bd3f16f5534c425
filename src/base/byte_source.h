// Bytes that lie one behind the other somewhere: in a file, or compressed in an archive.
#ifndef CMLC_BASE_BYTE_SOURCE_H_
#define CMLC_BASE_BYTE_SOURCE_H_

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "cmlc/status.h"

namespace cmlc {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual uint64_t size() const = 0;
  // Fills `out` with the bytes that start at `offset`; the range lies within size(). Reading
  // forwards is cheap for every source. kBadInput if the bytes cannot be had.
  virtual Status Read(uint64_t offset, std::span<char> out) = 0;
};

// A regular file. kBadInput if it is missing or not one.
Result<std::unique_ptr<ByteSource>> OpenFileSource(const std::filesystem::path& path);

}  // namespace cmlc

#endif  // CMLC_BASE_BYTE_SOURCE_H_
