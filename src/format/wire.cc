#include "format/wire.h"

#include <google/protobuf/io/coded_stream.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace cmlc::format {
namespace {

namespace pb = google::protobuf;

enum WireType : uint32_t {
  kVarint = 0,
  kFixed64 = 1,
  kBytes = 2,
  kGroup = 3,
  kEndOfGroup = 4,
  kFixed32 = 5,
};

// Skips the fields of a group, which is older than Core ML and may still be an unknown field.
bool SkipGroup(uint32_t number, pb::io::CodedInputStream& stream) {
  std::vector<uint32_t> open = {number};
  while (!open.empty()) {
    const uint32_t tag = stream.ReadTag();
    uint64_t value = 0;
    uint32_t narrow = 0;
    bool fits = tag >> 3 != 0;
    switch (tag & 7) {
      case kVarint:
        fits = fits && stream.ReadVarint64(&value);
        break;
      case kFixed64:
        fits = fits && stream.ReadLittleEndian64(&value);
        break;
      case kFixed32:
        fits = fits && stream.ReadLittleEndian32(&narrow);
        break;
      case kBytes:
        fits = fits && stream.ReadVarint64(&value) && value <= kMostMessageBytes &&
               stream.Skip(static_cast<int>(value));
        break;
      case kGroup:
        open.push_back(tag >> 3);
        break;
      case kEndOfGroup:
        fits = fits && open.back() == tag >> 3;
        open.pop_back();
        break;
      default:
        fits = false;
    }
    if (!fits) return false;
  }
  return true;
}

void PutVarint(uint64_t value, std::string& out) {
  std::array<uint8_t, 10> bytes;
  const uint8_t* end = pb::io::CodedOutputStream::WriteVarint64ToArray(value, bytes.data());
  out.append(reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(end - bytes.data()));
}

}  // namespace

std::optional<WireField> WireReader::Next() {
  if (rest_.empty() || malformed_) return std::nullopt;
  malformed_ = true;  // until it turns out otherwise
  // A message of more than 2 GiB is refused before, so its size fits.
  pb::io::CodedInputStream stream(reinterpret_cast<const uint8_t*>(rest_.data()),
                                  static_cast<int>(rest_.size()));
  const uint32_t tag = stream.ReadTag();
  WireField field;
  field.number = tag >> 3;
  if (field.number == 0) return std::nullopt;
  switch (tag & 7) {
    case kVarint:
      if (!stream.ReadVarint64(&field.value)) return std::nullopt;
      break;
    case kFixed64:
      if (!stream.ReadLittleEndian64(&field.value)) return std::nullopt;
      break;
    case kFixed32: {
      uint32_t value = 0;
      if (!stream.ReadLittleEndian32(&value)) return std::nullopt;
      field.value = value;
      break;
    }
    case kBytes: {
      uint64_t size = 0;
      if (!stream.ReadVarint64(&size)) return std::nullopt;
      const auto begin = static_cast<size_t>(stream.CurrentPosition());
      if (size > rest_.size() - begin) return std::nullopt;
      field.is_bytes = true;
      field.payload = rest_.substr(begin, static_cast<size_t>(size));
      field.raw = rest_.substr(0, begin + static_cast<size_t>(size));
      break;
    }
    case kGroup:
      if (!SkipGroup(field.number, stream)) return std::nullopt;
      break;
    default:
      return std::nullopt;
  }
  if (!field.is_bytes) field.raw = rest_.substr(0, static_cast<size_t>(stream.CurrentPosition()));
  rest_.remove_prefix(field.raw.size());
  malformed_ = false;
  return field;
}

std::string& WireMessage::Bytes() {
  if (parts_.empty() || !std::holds_alternative<std::string>(parts_.back()))
    parts_.emplace_back(std::string());
  return std::get<std::string>(parts_.back());
}

void WireMessage::AddRaw(std::string_view fields) {
  if (fields.empty()) return;
  Bytes().append(fields);
  size_bytes_ += fields.size();
}

void WireMessage::AddHead(uint32_t number, uint64_t size) {
  std::string head;
  PutVarint(number << 3 | kBytes, head);
  PutVarint(size, head);
  AddRaw(head);
}

void WireMessage::AddVarint(uint32_t number, uint64_t value) {
  std::string field;
  PutVarint(number << 3 | kVarint, field);
  PutVarint(value, field);
  AddRaw(field);
}

void WireMessage::AddBytes(uint32_t number, std::string_view payload) {
  AddHead(number, payload.size());
  AddRaw(payload);
}

void WireMessage::AddTensor(uint32_t number, const TensorPart& tensor) {
  AddHead(number, tensor.size_bytes);
  parts_.emplace_back(tensor);
  size_bytes_ += tensor.size_bytes;
}

void WireMessage::AddMessage(uint32_t number, WireMessage message) {
  AddHead(number, message.size_bytes_);
  Append(std::move(message));
}

void WireMessage::Append(WireMessage message) {
  for (Part& part : message.parts_) {
    if (auto* bytes = std::get_if<std::string>(&part))
      Bytes().append(*bytes);
    else
      parts_.push_back(std::move(part));
  }
  size_bytes_ += message.size_bytes_;
}

Status Stream(const WireMessage& message, const TensorStore& store,
              const std::function<Status(std::span<const std::byte>)>& write) {
  for (const WireMessage::Part& part : message.parts()) {
    if (const auto* bytes = std::get_if<std::string>(&part)) {
      CMLC_RETURN_IF_ERROR(write(std::as_bytes(std::span(*bytes))));
      continue;
    }
    const auto& tensor = std::get<WireMessage::TensorPart>(part);
    for (uint64_t begin = 0; begin < tensor.size_bytes; begin += TensorSource::kChunkBytes) {
      const uint64_t size = std::min(TensorSource::kChunkBytes, tensor.size_bytes - begin);
      CMLC_ASSIGN_OR_RETURN(const TensorView view,
                            store.View(tensor.id, begin, size, tensor.order));
      CMLC_RETURN_IF_ERROR(write(view.bytes()));
    }
  }
  return Ok();
}

Result<std::string> ToBytes(const WireMessage& message, const TensorStore& store) {
  std::string out;
  out.reserve(static_cast<size_t>(message.size_bytes()));
  CMLC_RETURN_IF_ERROR(Stream(message, store, [&](std::span<const std::byte> bytes) {
    out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return Ok();
  }));
  return out;
}

}  // namespace cmlc::format
