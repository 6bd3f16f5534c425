// Protobuf messages as bytes: read field by field where they lie, and put together from bytes and
// from tensors that stay where they are until they are written. A NeuralNetwork may hold 2 GiB of
// weights in its message; this way none of them has to be in memory.
#ifndef CMLC_FORMAT_WIRE_H_
#define CMLC_FORMAT_WIRE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "cmlc/status.h"
#include "cmlc/tensor_store.h"

namespace cmlc::format {

// The largest message that protobuf reads.
constexpr uint64_t kMostMessageBytes = (uint64_t{1} << 31) - 1;

struct WireField {
  uint32_t number = 0;
  bool is_bytes = false;     // length-delimited: a string, a message, packed numbers
  uint64_t value = 0;        // of varints, and the bits of fixed 32- and 64-bit numbers
  std::string_view payload;  // of length-delimited ones
  std::string_view raw;      // the whole field, tag included
};

// Reads the fields of a message, in the order in which they lie there. Views are into `message`.
class WireReader {
 public:
  explicit WireReader(std::string_view message) : rest_(message) {}

  // Nothing at the end, or if what follows is malformed.
  std::optional<WireField> Next();
  bool malformed() const { return malformed_; }
  std::string_view rest() const { return rest_; }  // what has not been read

 private:
  std::string_view rest_;
  bool malformed_ = false;
};

// A message, or a part of one, to be written: bytes and tensors in their order.
class WireMessage {
 public:
  struct TensorPart {
    TensorId id{};
    uint64_t size_bytes = 0;
    BitOrder order = BitOrder::kLowFirst;
  };
  using Part = std::variant<std::string, TensorPart>;

  void AddRaw(std::string_view fields);
  void AddVarint(uint32_t number, uint64_t value);
  void AddBytes(uint32_t number, std::string_view payload);
  void AddTensor(uint32_t number, const TensorPart& tensor);
  void AddMessage(uint32_t number, WireMessage message);
  // The same, less the tag and length: its fields become part of this message.
  void Append(WireMessage message);

  uint64_t size_bytes() const { return size_bytes_; }
  const std::vector<Part>& parts() const { return parts_; }

 private:
  std::string& Bytes();
  void AddHead(uint32_t number, uint64_t size);

  std::vector<Part> parts_;
  uint64_t size_bytes_ = 0;
};

// Calls write(bytes) for the whole message, some at a time, in order.
Status Stream(const WireMessage& message, const TensorStore& store,
              const std::function<Status(std::span<const std::byte>)>& write);
Result<std::string> ToBytes(const WireMessage& message, const TensorStore& store);

}  // namespace cmlc::format

#endif  // CMLC_FORMAT_WIRE_H_
