// Weights files: the bulk half of a Core ML package (MIL blob storage, version 2).
//
//   0        64       128                      next multiple of 64
//   | header | record | payload ......... | pad | record | payload ...
//
//   header: u32 count of blobs, u32 version (2), 56 bytes of zeros
//   record: u32 0xDEADBEEF, u32 type, u64 payload bytes, u64 payload offset, u64 padding bits,
//           32 bytes of zeros
//
// A blob is named by the offset of its record, never of its payload. Types narrower than a byte
// are packed from the low bit up; a 3- or 6-bit value may cross a byte; the bits that are left in
// the last byte are zero and counted in "padding bits". Writers before 2024 left everything behind
// the payload offset uninitialized, so for whole-byte types the padding field is not looked at.
#ifndef CMLC_STORAGE_BLOB_FILE_H_
#define CMLC_STORAGE_BLOB_FILE_H_

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "base/thread_pool.h"
#include "cmlc/tensor.h"
#include "cmlc/tensor_store.h"

namespace cmlc {

constexpr uint64_t kBlobAlignment = 64;

// What a record says, checked.
struct BlobRecord {
  DataType dtype = DataType::kUnused;
  uint64_t element_count = 0;
  uint64_t size_bytes = 0;
  uint64_t payload_offset = 0;
};

class BlobReader {
 public:
  // Opens `path` and checks the header. Records are checked when asked for, so the cost does not
  // depend on the size of the file.
  static Result<BlobReader> Open(const std::filesystem::path& path);

  // The record that starts `offset` bytes into the file. kBadInput if it, or the payload it names,
  // leaves the file, or if it contradicts itself.
  Result<BlobRecord> Record(uint64_t offset) const;

  const File& file() const { return file_; }

 private:
  File file_;
};

// 128 bits of hash.
struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const Hash128&) const = default;
};
Hash128 HashBytes(std::span<const std::byte> bytes);
std::string ToHex(const Hash128& hash);

// The hash of a blob: that of its chunks' hashes (TensorSource::kChunkBytes each), in order, so
// that chunks can be hashed by several threads.
class BlobHasher {
 public:
  void AddChunk(std::span<const std::byte> chunk) { chunks_.push_back(HashBytes(chunk)); }
  Hash128 Finish() const { return HashBytes(std::as_bytes(std::span(chunks_))); }

 private:
  std::vector<Hash128> chunks_;
};

// Writes a new weights file, blob after blob. Blobs of equal type, length and bytes are stored
// once.
class BlobWriter {
 public:
  // `kept`: the file is to be finished, and the disk gets to work on it while it is written.
  // Otherwise it is for this run alone.
  static Result<BlobWriter> Create(const std::filesystem::path& path, bool kept = true);

  struct Written {
    uint64_t offset;  // of the record
    bool is_new;      // false if an equal blob was there already
  };
  // Chunks are made, hashed and written by all threads of `pool`, at offsets fixed beforehand, so
  // the file does not depend on their number.
  Result<Written> Append(const TensorSource& source, ThreadPool& pool);

  // A blob in memory, with its hash as BlobHasher makes it.
  struct Ready {
    DataType dtype = DataType::kUnused;
    uint64_t element_count = 0;
    std::span<const std::byte> bytes;
    Hash128 hash;
  };
  // The same for several of them, in their order; every thread of `pool` writes some.
  Result<std::vector<Written>> Append(std::span<const Ready> blobs, ThreadPool& pool);

  // Writes the header and flushes the file to the disk.
  Status Finish();

  const File& file() const { return file_; }
  uint64_t size() const { return end_; }
  uint32_t count() const { return static_cast<uint32_t>(blobs_.size()); }
  // Of all records and payloads so far.
  Hash128 hash() const;

 private:
  struct Blob {
    DataType dtype;
    uint64_t element_count;
    uint64_t size_bytes;
    uint64_t offset;
    Hash128 hash;
  };
  Result<bool> SameBytes(uint64_t a, uint64_t b, uint64_t size) const;
  Result<bool> SameBytesAs(uint64_t offset, std::span<const std::byte> bytes) const;
  // The blobs that may equal the given one, in the order in which they were added.
  std::vector<size_t> Candidates(const Blob& blob) const;
  uint64_t Add(const Blob& blob);
  void StartSync();

  File file_;
  uint64_t end_ = kBlobAlignment;  // behind the last payload
  bool kept_ = true;
  uint64_t started_ = 0;  // the disk was given what is in front of this
  std::vector<Blob> blobs_;
  std::unordered_multimap<uint64_t, size_t> by_hash_;
};

}  // namespace cmlc

#endif  // CMLC_STORAGE_BLOB_FILE_H_
