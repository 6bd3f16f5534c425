// Layout, back to front: the end record (22 bytes and a comment) says where the directory lies; the
// directory has a record for each entry, with the offset of its local header; behind that lie the
// bytes. Where a number does not fit in 32 (or 16) bits it is all ones, and the real one is in a
// zip64 record: beside the end record for the directory, in the extra field of id 1 for an entry.
#include "base/zip.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace cmlc {
namespace {

constexpr uint32_t kLocal = 0x04034b50;
constexpr uint32_t kCentral = 0x02014b50;
constexpr uint32_t kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50;
constexpr uint32_t kLocator64 = 0x07064b50;
constexpr uint64_t kEndBytes = 22;
constexpr uint64_t kMostDirectoryBytes = uint64_t{1} << 28;
constexpr uint64_t kAll32 = 0xffffffff;
// Deflate makes at most 258 bytes of two bits.
constexpr uint64_t kMostRatio = 1032;

uint64_t Get(std::string_view bytes, size_t at, size_t width) {
  uint64_t value = 0;
  for (size_t i = 0; i < width; ++i)
    value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes[at + i])) << (8 * i);
  return value;
}

void Put(std::string& bytes, uint64_t value, size_t width) {
  for (size_t i = 0; i < width; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
}

Error Bad(const File& file, std::string_view what) {
  return Error{ErrorKind::kBadInput, fmt::format("{}: {}", file.path().string(), what)};
}

Status ReadAt(const File& file, uint64_t offset, std::span<char> out) {
  if (out.empty()) return Ok();
  if (offset > file.size() || out.size() > file.size() - offset)
    return Bad(file, "is cut short, or no .npz (zip) file");
  CMLC_ASSIGN_OR_RETURN(const FileWindow window, file.Map(offset, out.size()));
  std::memcpy(out.data(), window.bytes().data(), out.size());
  return Ok();
}

// What entries share: bounds, and the checksum of what is read from the start without gaps.
class EntrySource : public ByteSource {
 public:
  EntrySource(std::shared_ptr<File> file, ZipEntry entry, uint64_t start)
      : file_(std::move(file)), entry_(std::move(entry)), start_(start) {}
  uint64_t size() const override { return entry_.size_bytes; }

 protected:
  Error Wrong(std::string_view what) const {
    return Bad(*file_, fmt::format("entry '{}' {}", entry_.name, what));
  }
  Status Check(uint64_t offset, std::span<const char> bytes) {
    if (offset != checked_) return Ok();
    checked_ += bytes.size();
    for (size_t at = 0; at < bytes.size();) {
      const size_t step = std::min<size_t>(bytes.size() - at, size_t{1} << 30);
      crc_ = static_cast<uint32_t>(
          crc32(crc_, reinterpret_cast<const Bytef*>(bytes.data() + at), static_cast<uInt>(step)));
      at += step;
    }
    if (checked_ == entry_.size_bytes && crc_ != entry_.crc)
      return Wrong(
          fmt::format("is damaged: its checksum is {:08x}, expected {:08x}", crc_, entry_.crc));
    return Ok();
  }

  std::shared_ptr<File> file_;
  ZipEntry entry_;
  uint64_t start_;  // of its bytes in the file

 private:
  uint64_t checked_ = 0;
  uint32_t crc_ = 0;
};

class StoredSource final : public EntrySource {
 public:
  using EntrySource::EntrySource;
  Status Read(uint64_t offset, std::span<char> out) override {
    CMLC_RETURN_IF_ERROR(ReadAt(*file_, start_ + offset, out));
    return Check(offset, out);
  }
};

// Deflated bytes come one after the other: going back starts again from the beginning.
class DeflatedSource final : public EntrySource {
 public:
  using EntrySource::EntrySource;
  ~DeflatedSource() override {
    if (open_) inflateEnd(&stream_);
  }

  Status Read(uint64_t offset, std::span<char> out) override {
    if (!open_ || offset < at_) {
      if (open_) inflateEnd(&stream_);
      stream_ = {};
      open_ = inflateInit2(&stream_, -MAX_WBITS) == Z_OK;
      if (!open_) return Wrong("cannot be inflated: no memory");
      at_ = read_ = 0;
    }
    char skipped[4096];
    while (at_ < offset) {
      const auto step = static_cast<size_t>(std::min<uint64_t>(offset - at_, sizeof skipped));
      CMLC_RETURN_IF_ERROR(Inflate({skipped, step}));
    }
    return Inflate(out);
  }

 private:
  Status Inflate(std::span<char> out) {
    const uint64_t from = at_;
    size_t done = 0;
    while (done < out.size()) {
      if (stream_.avail_in == 0) {
        const uint64_t left = entry_.stored_bytes - read_;
        input_.resize(static_cast<size_t>(std::min<uint64_t>(left, 64 * 1024)));
        if (input_.empty()) return Wrong("is damaged: its compressed bytes end too early");
        CMLC_RETURN_IF_ERROR(ReadAt(*file_, start_ + read_, input_));
        read_ += input_.size();
        stream_.next_in = reinterpret_cast<Bytef*>(input_.data());
        stream_.avail_in = static_cast<uInt>(input_.size());
      }
      const size_t step = std::min<size_t>(out.size() - done, size_t{1} << 30);
      stream_.next_out = reinterpret_cast<Bytef*>(out.data() + done);
      stream_.avail_out = static_cast<uInt>(step);
      const int result = inflate(&stream_, Z_NO_FLUSH);
      done += step - stream_.avail_out;
      if (result == Z_STREAM_END && done < out.size())
        return Wrong("is damaged: it inflates to less than its size");
      if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR)
        return Wrong("is damaged: it cannot be inflated");
    }
    at_ += out.size();
    return Check(from, out);
  }

  z_stream stream_ = {};
  bool open_ = false;
  uint64_t at_ = 0;    // of what was inflated
  uint64_t read_ = 0;  // of the compressed bytes
  std::string input_;
};

}  // namespace

Result<ZipReader> ZipReader::Open(const std::filesystem::path& path) {
  CMLC_ASSIGN_OR_RETURN(File opened, File::OpenForReading(path));
  ZipReader reader;
  reader.file_ = std::make_shared<File>(std::move(opened));
  const File& file = *reader.file_;
  // The end record is followed by a comment of up to 65,535 bytes.
  const uint64_t tail_bytes = std::min<uint64_t>(file.size(), kEndBytes + 65535);
  std::string tail(static_cast<size_t>(tail_bytes), '\0');
  CMLC_RETURN_IF_ERROR(ReadAt(file, file.size() - tail_bytes, tail));
  size_t end = std::string::npos;
  for (size_t at = tail.size(); at-- > 0 && end == std::string::npos;)
    if (tail.size() - at >= kEndBytes && Get(tail, at, 4) == kEnd &&
        at + kEndBytes + Get(tail, at + 20, 2) == tail.size())
      end = at;
  if (end == std::string::npos) return Bad(file, "is cut short, or no .npz (zip) file");
  uint64_t count = Get(tail, end + 10, 2);
  uint64_t directory_bytes = Get(tail, end + 12, 4);
  uint64_t directory = Get(tail, end + 16, 4);
  if (count == 0xffff || directory_bytes == kAll32 || directory == kAll32) {
    const uint64_t end_offset = file.size() - tail_bytes + end;
    char locator[20];
    char record[56];
    if (end_offset >= sizeof locator) {
      CMLC_RETURN_IF_ERROR(ReadAt(file, end_offset - sizeof locator, locator));
      const std::string_view at(locator, sizeof locator);
      if (Get(at, 0, 4) == kLocator64) {
        CMLC_RETURN_IF_ERROR(ReadAt(file, Get(at, 8, 8), record));
        const std::string_view end64(record, sizeof record);
        if (Get(end64, 0, 4) != kEnd64) return Bad(file, "has no zip64 record where it should be");
        count = Get(end64, 32, 8);
        directory_bytes = Get(end64, 40, 8);
        directory = Get(end64, 48, 8);
      }
    }
  }
  if (directory > file.size() || directory_bytes > file.size() - directory ||
      directory_bytes > kMostDirectoryBytes)
    return Bad(file, "has its directory beyond its end");
  std::string bytes(static_cast<size_t>(directory_bytes), '\0');
  CMLC_RETURN_IF_ERROR(ReadAt(file, directory, bytes));
  size_t at = 0;
  for (uint64_t i = 0; i < count; ++i) {
    if (bytes.size() - at < 46 || Get(bytes, at, 4) != kCentral)
      return Bad(file, fmt::format("has a damaged directory: record {} of {}", i + 1, count));
    ZipEntry entry;
    const uint64_t flags = Get(bytes, at + 8, 2);
    entry.method = static_cast<uint16_t>(Get(bytes, at + 10, 2));
    entry.crc = static_cast<uint32_t>(Get(bytes, at + 16, 4));
    entry.stored_bytes = Get(bytes, at + 20, 4);
    entry.size_bytes = Get(bytes, at + 24, 4);
    const auto name = static_cast<size_t>(Get(bytes, at + 28, 2));
    const auto extra = static_cast<size_t>(Get(bytes, at + 30, 2));
    const auto comment = static_cast<size_t>(Get(bytes, at + 32, 2));
    entry.header_offset = Get(bytes, at + 42, 4);
    if (bytes.size() - at - 46 < name + extra + comment)
      return Bad(file, fmt::format("has a damaged directory: record {} of {}", i + 1, count));
    entry.name = bytes.substr(at + 46, name);
    for (size_t field = at + 46 + name; field + 4 <= at + 46 + name + extra;) {
      const uint64_t id = Get(bytes, field, 2);
      const auto length = static_cast<size_t>(Get(bytes, field + 2, 2));
      const size_t field_end = std::min(field + 4 + length, at + 46 + name + extra);
      size_t value = field + 4;
      if (id == 1)
        for (uint64_t* number : {&entry.size_bytes, &entry.stored_bytes, &entry.header_offset})
          if (*number == kAll32 && value + 8 <= field_end) {
            *number = Get(bytes, value, 8);
            value += 8;
          }
      field += 4 + length;
    }
    if ((flags & 1) != 0)
      return Bad(file, fmt::format("entry '{}' is encrypted, which is not read", entry.name));
    reader.entries_.push_back(std::move(entry));
    at += 46 + name + extra + comment;
  }
  return reader;
}

Result<std::unique_ptr<ByteSource>> ZipReader::OpenEntry(const ZipEntry& entry) const {
  const auto bad = [&](std::string_view what) {
    return Bad(*file_, fmt::format("entry '{}' {}", entry.name, what));
  };
  char local[30];
  CMLC_RETURN_IF_ERROR(ReadAt(*file_, entry.header_offset, local));
  const std::string_view header(local, sizeof local);
  if (Get(header, 0, 4) != kLocal) return bad("has no header where it should be");
  const uint64_t start =
      entry.header_offset + sizeof local + Get(header, 26, 2) + Get(header, 28, 2);
  if (start > file_->size() || entry.stored_bytes > file_->size() - start)
    return bad("runs past the end of the file");
  if (entry.method == 0) {
    if (entry.stored_bytes != entry.size_bytes)
      return bad(
          fmt::format("is stored in {} bytes, expected {}", entry.stored_bytes, entry.size_bytes));
    return std::unique_ptr<ByteSource>(std::make_unique<StoredSource>(file_, entry, start));
  }
  if (entry.method != 8)
    return bad(
        fmt::format("is compressed by method {}, expected stored or deflated", entry.method));
  if (entry.size_bytes / kMostRatio > entry.stored_bytes)
    return bad(fmt::format("would inflate {} bytes to {}, which is impossible", entry.stored_bytes,
                           entry.size_bytes));
  return std::unique_ptr<ByteSource>(std::make_unique<DeflatedSource>(file_, entry, start));
}

// --- Writing ------------------------------------------------------------------------------------

namespace {

// Records have no date: the earliest that the format can say.
constexpr uint64_t kDate = 0x21;

// Versions, flags (names are UTF-8), method, time, date, checksum and sizes, as both kinds of
// record have them.
void PutCommon(std::string& bytes, const ZipEntry& entry, bool big) {
  Put(bytes, big ? 45 : 20, 2);
  Put(bytes, 0x800, 2);
  Put(bytes, 0, 2);
  Put(bytes, 0, 2);
  Put(bytes, kDate, 2);
  Put(bytes, entry.crc, 4);
  Put(bytes, big ? kAll32 : entry.size_bytes, 4);
  Put(bytes, big ? kAll32 : entry.size_bytes, 4);
}

bool IsBig(const ZipEntry& entry) {
  return entry.size_bytes >= kAll32 || entry.header_offset >= kAll32;
}

std::string LocalHeader(const ZipEntry& entry) {
  const bool big = IsBig(entry);
  std::string bytes;
  Put(bytes, kLocal, 4);
  PutCommon(bytes, entry, big);
  Put(bytes, entry.name.size(), 2);
  Put(bytes, big ? 20 : 0, 2);
  bytes += entry.name;
  if (big) {
    Put(bytes, 1, 2);
    Put(bytes, 16, 2);
    Put(bytes, entry.size_bytes, 8);
    Put(bytes, entry.size_bytes, 8);
  }
  return bytes;
}

std::span<const std::byte> AsBytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

Result<ZipWriter> ZipWriter::Create(const std::filesystem::path& path) {
  ZipWriter writer;
  CMLC_ASSIGN_OR_RETURN(writer.file_, File::Create(path));
  return writer;
}

Status ZipWriter::EndEntry() {
  CMLC_CHECK(left_ == 0);
  if (entries_.empty()) return Ok();
  return file_.WriteAt(entries_.back().header_offset, AsBytes(LocalHeader(entries_.back())));
}

Status ZipWriter::Begin(std::string name, uint64_t size_bytes) {
  CMLC_RETURN_IF_ERROR(EndEntry());
  if (name.size() > 0xffff)
    return Error{ErrorKind::kOutput,
                 fmt::format("{}: an entry's name has {} bytes, more than a zip file can say",
                             file_.path().string(), name.size())};
  ZipEntry& entry = entries_.emplace_back();
  entry.name = std::move(name);
  entry.header_offset = at_;
  entry.size_bytes = entry.stored_bytes = left_ = size_bytes;
  at_ += LocalHeader(entry).size();
  return Ok();
}

Status ZipWriter::Append(std::span<const char> bytes) {
  CMLC_CHECK(bytes.size() <= left_);
  ZipEntry& entry = entries_.back();
  for (size_t at = 0; at < bytes.size();) {
    const size_t step = std::min<size_t>(bytes.size() - at, size_t{1} << 30);
    entry.crc = static_cast<uint32_t>(crc32(
        entry.crc, reinterpret_cast<const Bytef*>(bytes.data() + at), static_cast<uInt>(step)));
    at += step;
  }
  CMLC_RETURN_IF_ERROR(file_.WriteAt(at_, std::as_bytes(bytes)));
  at_ += bytes.size();
  left_ -= bytes.size();
  return Ok();
}

Status ZipWriter::Finish() {
  CMLC_RETURN_IF_ERROR(EndEntry());
  std::string bytes;
  for (const ZipEntry& entry : entries_) {
    const bool big = IsBig(entry);
    Put(bytes, kCentral, 4);
    Put(bytes, big ? 45 : 20, 2);
    PutCommon(bytes, entry, big);
    Put(bytes, entry.name.size(), 2);
    Put(bytes, big ? 28 : 0, 2);
    Put(bytes, 0, 2);  // comment
    Put(bytes, 0, 2);  // disk
    Put(bytes, 0, 2);  // attributes
    Put(bytes, 0, 4);
    Put(bytes, big ? kAll32 : entry.header_offset, 4);
    bytes += entry.name;
    if (big) {
      Put(bytes, 1, 2);
      Put(bytes, 24, 2);
      Put(bytes, entry.size_bytes, 8);
      Put(bytes, entry.size_bytes, 8);
      Put(bytes, entry.header_offset, 8);
    }
  }
  const uint64_t directory_bytes = bytes.size();
  const bool big = entries_.size() >= 0xffff || directory_bytes >= kAll32 || at_ >= kAll32;
  if (big) {
    const uint64_t record = at_ + bytes.size();
    Put(bytes, kEnd64, 4);
    Put(bytes, 44, 8);
    Put(bytes, 45, 2);
    Put(bytes, 45, 2);
    Put(bytes, 0, 4);
    Put(bytes, 0, 4);
    Put(bytes, entries_.size(), 8);
    Put(bytes, entries_.size(), 8);
    Put(bytes, directory_bytes, 8);
    Put(bytes, at_, 8);
    Put(bytes, kLocator64, 4);
    Put(bytes, 0, 4);
    Put(bytes, record, 8);
    Put(bytes, 1, 4);
  }
  const uint64_t count = big ? 0xffff : entries_.size();
  Put(bytes, kEnd, 4);
  Put(bytes, 0, 2);
  Put(bytes, 0, 2);
  Put(bytes, count, 2);
  Put(bytes, count, 2);
  Put(bytes, big ? kAll32 : directory_bytes, 4);
  Put(bytes, big ? kAll32 : at_, 4);
  Put(bytes, 0, 2);
  CMLC_RETURN_IF_ERROR(file_.WriteAt(at_, AsBytes(bytes)));
  return file_.Sync();
}

}  // namespace cmlc
