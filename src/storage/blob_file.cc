#include "storage/blob_file.h"

#include <fmt/format.h>
#ifdef CMLC_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>

namespace cmlc {
namespace {

constexpr uint32_t kVersion = 2;
constexpr uint32_t kSentinel = 0xDEADBEEF;

struct RawHeader {
  uint32_t count = 0;
  uint32_t version = kVersion;
  std::array<uint64_t, 7> reserved = {};
};
static_assert(sizeof(RawHeader) == kBlobAlignment);

struct RawRecord {
  uint32_t sentinel = kSentinel;
  uint32_t type = 0;
  uint64_t size_bytes = 0;
  uint64_t payload_offset = 0;
  uint64_t padding_bits = 0;
  std::array<uint64_t, 4> reserved = {};
};
static_assert(sizeof(RawRecord) == kBlobAlignment);

uint64_t Align(uint64_t offset) {
  return (offset + kBlobAlignment - 1) / kBlobAlignment * kBlobAlignment;
}

RawRecord RecordOf(DataType dtype, uint64_t element_count, uint64_t size_bytes, uint64_t offset) {
  const DataTypeInfo* info = FindDataType(dtype);
  RawRecord record;
  record.type = info->blob_code;
  record.size_bytes = size_bytes;
  record.payload_offset = offset + sizeof(RawRecord);
  record.padding_bits = size_bytes * 8 - element_count * static_cast<uint64_t>(info->bits);
  return record;
}

template <typename T>
std::span<const std::byte> AsBytes(const T& object) {
  return std::as_bytes(std::span<const T, 1>(&object, 1));
}

}  // namespace

Result<BlobReader> BlobReader::Open(const std::filesystem::path& path) {
  BlobReader reader;
  CMLC_ASSIGN_OR_RETURN(reader.file_, File::OpenForReading(path));
  if (reader.file_.size() < sizeof(RawHeader))
    return Error{ErrorKind::kBadInput,
                 fmt::format("{}: has {} bytes, a weights file starts with a header of {}",
                             path.string(), reader.file_.size(), sizeof(RawHeader))};
  CMLC_ASSIGN_OR_RETURN(const FileWindow window, reader.file_.Map(0, sizeof(RawHeader)));
  RawHeader header;
  std::memcpy(&header, window.bytes().data(), sizeof header);
  if (header.version != kVersion)
    return Error{ErrorKind::kBadInput, fmt::format("{}: weights file version is {}, expected {}",
                                                   path.string(), header.version, kVersion)};
  return reader;
}

Result<BlobRecord> BlobReader::Record(uint64_t offset) const {
  const auto bad = [&](std::string_view what) {
    return Error{ErrorKind::kBadInput,
                 fmt::format("{}: blob at offset {}: {}", file_.path().string(), offset, what)};
  };
  const uint64_t file_size = file_.size();
  if (offset > file_size || file_size - offset < sizeof(RawRecord))
    return bad(fmt::format("record lies outside of the file's {} bytes", file_size));
  CMLC_ASSIGN_OR_RETURN(const FileWindow window, file_.Map(offset, sizeof(RawRecord)));
  RawRecord raw;
  std::memcpy(&raw, window.bytes().data(), sizeof raw);
  if (raw.sentinel != kSentinel)
    return bad(fmt::format("sentinel is 0x{:08x}, expected 0x{:08x}", raw.sentinel, kSentinel));
  const DataTypeInfo* info = FindDataTypeByBlobCode(raw.type);
  if (info == nullptr) return bad(fmt::format("data type {} is not known", raw.type));
  if (raw.payload_offset > file_size || raw.size_bytes > file_size - raw.payload_offset)
    return bad(fmt::format("payload of {} bytes at offset {} lies outside of the file's {} bytes",
                           raw.size_bytes, raw.payload_offset, file_size));
  if (raw.payload_offset % kBlobAlignment != 0)
    return bad(fmt::format("payload offset is {}, expected a multiple of {}", raw.payload_offset,
                           kBlobAlignment));
  const auto width = static_cast<uint64_t>(info->bits);
  BlobRecord record{.dtype = info->type,
                    .element_count = 0,
                    .size_bytes = raw.size_bytes,
                    .payload_offset = raw.payload_offset};
  if (width >= 8) {
    if (raw.size_bytes % (width / 8) != 0)
      return bad(
          fmt::format("{} bytes are no whole number of {} elements", raw.size_bytes, info->name));
    record.element_count = raw.size_bytes / (width / 8);
    return record;
  }
  const uint64_t bits = raw.size_bytes * 8;
  if (raw.padding_bits >= 8 || raw.padding_bits > bits || (bits - raw.padding_bits) % width != 0)
    return bad(fmt::format("{} bytes less {} padding bits are no whole number of {} elements",
                           raw.size_bytes, raw.padding_bits, info->name));
  record.element_count = (bits - raw.padding_bits) / width;
  return record;
}

Hash128 HashBytes(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

std::string ToHex(const Hash128& hash) {
  return fmt::format("{:016x}{:016x}", hash.high, hash.low);
}

// The disk is given work whenever so much has been written.
constexpr uint64_t kSyncBytes = 16 << 20;

Result<BlobWriter> BlobWriter::Create(const std::filesystem::path& path, bool kept) {
  BlobWriter writer;
  writer.kept_ = kept;
  CMLC_ASSIGN_OR_RETURN(writer.file_, File::Create(path));
  return writer;
}

std::vector<size_t> BlobWriter::Candidates(const Blob& blob) const {
  std::vector<size_t> found;
  for (auto [it, last] = by_hash_.equal_range(blob.hash.low); it != last; ++it) {
    const Blob& other = blobs_[it->second];
    // Sub-byte types: as many bytes may hold more or fewer elements.
    if (other.hash == blob.hash && other.dtype == blob.dtype &&
        other.size_bytes == blob.size_bytes && other.element_count == blob.element_count)
      found.push_back(it->second);
  }
  std::sort(found.begin(), found.end());
  return found;
}

uint64_t BlobWriter::Add(const Blob& blob) {
  by_hash_.emplace(blob.hash.low, blobs_.size());
  blobs_.push_back(blob);
  end_ = blob.offset + sizeof(RawRecord) + blob.size_bytes;
  return blob.offset;
}

Result<BlobWriter::Written> BlobWriter::Append(const TensorSource& source, ThreadPool& pool) {
  Blob blob{.dtype = source.dtype,
            .element_count = source.element_count,
            .size_bytes = *PackedBytes(source.element_count, BitsOf(source.dtype)),
            .offset = Align(end_),
            .hash = {}};
  const RawRecord record = RecordOf(blob.dtype, blob.element_count, blob.size_bytes, blob.offset);
  const uint64_t payload = record.payload_offset;

  // Every chunk is made, hashed and written on its own.
  constexpr uint64_t kChunk = TensorSource::kChunkBytes;
  const size_t chunks = static_cast<size_t>((blob.size_bytes + kChunk - 1) / kChunk);
  std::vector<Hash128> hashes(chunks);
  std::vector<std::vector<std::byte>> buffers(static_cast<size_t>(pool.threads()));
  std::mutex mutex;
  Status status = file_.WriteAt(blob.offset, AsBytes(record));
  pool.For(chunks, [&](size_t chunk, int worker) {
    const uint64_t begin = chunk * kChunk;
    std::vector<std::byte>& buffer = buffers[static_cast<size_t>(worker)];
    if (buffer.empty()) buffer.resize(static_cast<size_t>(std::min(kChunk, blob.size_bytes)));
    const std::span<std::byte> bytes(
        buffer.data(), static_cast<size_t>(std::min(kChunk, blob.size_bytes - begin)));
    Status step = source.fill(begin, bytes);
    if (step.ok()) {
      hashes[chunk] = HashBytes(bytes);
      step = file_.WriteAt(payload + begin, bytes);
    }
    if (!step.ok()) {
      const std::lock_guard lock(mutex);
      if (status.ok()) status = step;
    }
  });
  CMLC_RETURN_IF_ERROR(status);

  blob.hash = HashBytes(std::as_bytes(std::span(hashes)));
  for (const size_t candidate : Candidates(blob)) {
    const uint64_t offset = blobs_[candidate].offset;
    CMLC_ASSIGN_OR_RETURN(const bool same,
                          SameBytes(offset + sizeof(RawRecord), payload, blob.size_bytes));
    if (!same) continue;
    // Take the copy back, so that the padding in front of the next record is zeros again.
    CMLC_RETURN_IF_ERROR(file_.Resize(end_));
    return Written{offset, false};
  }
  Add(blob);
  StartSync();
  return Written{blob.offset, true};
}

Result<std::vector<BlobWriter::Written>> BlobWriter::Append(std::span<const Ready> blobs,
                                                            ThreadPool& pool) {
  // Where each goes is decided in order, before anything is written.
  const size_t first = blobs_.size();
  std::vector<size_t> new_blobs;  // which of `blobs` each of blobs_ from `first` on is
  std::vector<Written> written;
  for (size_t i = 0; i < blobs.size(); ++i) {
    const Ready& ready = blobs[i];
    const Blob blob{.dtype = ready.dtype,
                    .element_count = ready.element_count,
                    .size_bytes = ready.bytes.size(),
                    .offset = Align(end_),
                    .hash = ready.hash};
    std::optional<uint64_t> same_as;
    for (const size_t candidate : Candidates(blob)) {
      bool same = false;
      if (candidate >= first) {
        const std::span<const std::byte> other = blobs[new_blobs[candidate - first]].bytes;
        same = std::equal(other.begin(), other.end(), ready.bytes.begin(), ready.bytes.end());
      } else {
        CMLC_ASSIGN_OR_RETURN(
            same, SameBytesAs(blobs_[candidate].offset + sizeof(RawRecord), ready.bytes));
      }
      if (same) {
        same_as = blobs_[candidate].offset;
        break;
      }
    }
    if (same_as) {
      written.push_back({*same_as, false});
      continue;
    }
    written.push_back({Add(blob), true});
    new_blobs.push_back(i);
  }
  std::mutex mutex;
  Status status;
  pool.For(new_blobs.size(), [&](size_t i, int) {
    const Blob& blob = blobs_[first + i];
    const RawRecord record = RecordOf(blob.dtype, blob.element_count, blob.size_bytes, blob.offset);
    const Status step = file_.WriteAt(blob.offset, AsBytes(record), blobs[new_blobs[i]].bytes);
    if (step.ok()) return;
    const std::lock_guard lock(mutex);
    if (status.ok()) status = step;
  });
  CMLC_RETURN_IF_ERROR(status);
  StartSync();
  return written;
}

void BlobWriter::StartSync() {
  if (!kept_ || end_ - started_ < kSyncBytes) return;
  file_.StartSync(started_, end_ - started_);
  started_ = end_;
}

Result<bool> BlobWriter::SameBytesAs(uint64_t offset, std::span<const std::byte> bytes) const {
  CMLC_ASSIGN_OR_RETURN(const FileWindow window, file_.Map(offset, bytes.size()));
  return std::equal(bytes.begin(), bytes.end(), window.bytes().begin(), window.bytes().end());
}

Result<bool> BlobWriter::SameBytes(uint64_t a, uint64_t b, uint64_t size) const {
  constexpr uint64_t kStep = 8 << 20;
  for (uint64_t begin = 0; begin < size; begin += kStep) {
    const uint64_t step = std::min(kStep, size - begin);
    CMLC_ASSIGN_OR_RETURN(const FileWindow left, file_.Map(a + begin, step));
    CMLC_ASSIGN_OR_RETURN(const FileWindow right, file_.Map(b + begin, step));
    if (std::memcmp(left.bytes().data(), right.bytes().data(), static_cast<size_t>(step)) != 0)
      return false;
  }
  return true;
}

Status BlobWriter::Finish() {
  RawHeader header;
  header.count = count();
  CMLC_RETURN_IF_ERROR(file_.WriteAt(0, AsBytes(header)));
  CMLC_RETURN_IF_ERROR(file_.Resize(end_));
  return file_.Sync();
}

Hash128 BlobWriter::hash() const {
  std::vector<uint64_t> parts;
  for (const Blob& blob : blobs_) {
    parts.push_back(static_cast<uint64_t>(blob.dtype));
    parts.push_back(blob.offset);
    parts.push_back(blob.element_count);
    parts.push_back(blob.size_bytes);
    parts.push_back(blob.hash.low);
    parts.push_back(blob.hash.high);
  }
  return HashBytes(std::as_bytes(std::span(parts)));
}

}  // namespace cmlc
