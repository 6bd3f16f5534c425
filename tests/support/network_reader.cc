#include "support/network_reader.h"

#include <google/protobuf/unknown_field_set.h>
#include <gtest/gtest.h>

#include <cstring>
#include <optional>

#include "numeric/half.h"

namespace cmlc::test {
namespace {

using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;

struct Fields {
  explicit Fields(const std::string& message) {
    EXPECT_TRUE(set.ParseFromString(message)) << "not a message";
  }
  UnknownFieldSet set;
};

// The n-th length-delimited field of a number.
std::optional<std::string> FieldOf(const std::string& message, int number, int n = 0) {
  const Fields fields(message);
  const UnknownFieldSet& set = fields.set;
  for (int i = 0; i < set.field_count(); ++i) {
    const UnknownField& field = set.field(i);
    if (field.number() == number && field.type() == UnknownField::TYPE_LENGTH_DELIMITED && n-- == 0)
      return field.length_delimited();
  }
  return std::nullopt;
}

std::optional<uint64_t> NumberOf(const std::string& message, int number) {
  const Fields fields(message);
  const UnknownFieldSet& set = fields.set;
  std::optional<uint64_t> found;
  for (int i = 0; i < set.field_count(); ++i)
    if (set.field(i).number() == number && set.field(i).type() == UnknownField::TYPE_VARINT)
      found = set.field(i).varint();
  return found;
}

// "20[1].3"
std::optional<std::string> Follow(std::string message, std::string path) {
  while (!path.empty()) {
    const std::string step = path.substr(0, path.find('.'));
    path = step.size() == path.size() ? "" : path.substr(step.size() + 1);
    const size_t bracket = step.find('[');
    const int n = bracket == std::string::npos ? 0 : std::stoi(step.substr(bracket + 1));
    const auto next = FieldOf(message, std::stoi(step), n);
    if (!next) return std::nullopt;
    message = *next;
  }
  return message;
}

std::optional<std::string> ParametersOf(const std::string& network, const std::string& name) {
  for (int i = 0;; ++i) {
    const auto layer = FieldOf(network, 1, i);
    if (!layer) return std::nullopt;
    if (FieldOf(*layer, 1).value_or("") != name) continue;
    const Fields fields(*layer);
    const UnknownFieldSet& set = fields.set;
    for (int f = 0; f < set.field_count(); ++f)
      if (set.field(f).number() >= 100 &&
          set.field(f).type() == UnknownField::TYPE_LENGTH_DELIMITED)
        return set.field(f).length_delimited();
  }
}

std::vector<float> FloatsOf(const std::string& message, int number) {
  std::vector<float> floats;
  const Fields fields(message);
  const UnknownFieldSet& set = fields.set;
  for (int i = 0; i < set.field_count(); ++i) {
    const UnknownField& field = set.field(i);
    if (field.number() != number) continue;
    std::string bytes;
    if (field.type() == UnknownField::TYPE_LENGTH_DELIMITED) {
      bytes = field.length_delimited();
    } else {
      const uint32_t bits = field.fixed32();
      bytes.assign(reinterpret_cast<const char*>(&bits), sizeof bits);
    }
    for (size_t at = 0; at + 4 <= bytes.size(); at += 4) {
      float value = 0;
      std::memcpy(&value, bytes.data() + at, 4);
      floats.push_back(value);
    }
  }
  return floats;
}

}  // namespace

std::vector<float> StoredWeight::Values(size_t inner) const {
  if (form == "fp32" || form == "fp16") return numbers;
  std::vector<float> values;
  for (size_t i = 0; i < codes.size(); ++i) {
    const auto code = static_cast<size_t>(codes[i]);
    if (form == "lut") {
      values.push_back(numbers.at(code));
      continue;
    }
    const size_t channel = i / inner % numbers.size();
    const double scaled = codes[i] * static_cast<double>(numbers[channel]);
    values.push_back(static_cast<float>(bias.empty() ? scaled : scaled + bias.at(channel)));
  }
  return values;
}

std::vector<std::string> NetworkMessage::Layers() const {
  std::vector<std::string> names;
  for (int i = 0;; ++i) {
    const auto layer = FieldOf(message_, 1, i);
    if (!layer) return names;
    names.push_back(FieldOf(*layer, 1).value_or(""));
  }
}

bool NetworkMessage::Has(const std::string& layer, const std::string& path) const {
  const auto parameters = ParametersOf(message_, layer);
  if (!parameters) return false;
  const size_t dot = path.rfind('.');
  const auto outer =
      dot == std::string::npos ? parameters : Follow(*parameters, path.substr(0, dot));
  if (!outer) return false;
  const int number = std::stoi(dot == std::string::npos ? path : path.substr(dot + 1));
  const Fields fields(*outer);
  const UnknownFieldSet& set = fields.set;
  for (int i = 0; i < set.field_count(); ++i)
    if (set.field(i).number() == number) return true;
  return false;
}

NetworkMessage NetworkMessage::Inner(const std::string& layer, const std::string& path) const {
  const auto parameters = ParametersOf(message_, layer);
  const auto inner = parameters ? Follow(*parameters, path) : std::nullopt;
  EXPECT_TRUE(inner.has_value()) << layer << " " << path;
  return NetworkMessage(inner.value_or(""));
}

StoredWeight NetworkMessage::Weight(const std::string& layer, const std::string& path,
                                    size_t count) const {
  StoredWeight stored;
  const auto parameters = ParametersOf(message_, layer);
  const auto weight = parameters ? Follow(*parameters, path) : std::nullopt;
  EXPECT_TRUE(weight.has_value()) << layer << " " << path;
  if (!weight) return stored;
  stored.updatable = NumberOf(*weight, 50).value_or(0) != 0;
  int filled = 0;
  if (stored.numbers = FloatsOf(*weight, 1); !stored.numbers.empty()) {
    stored.form = "fp32";
    ++filled;
  }
  if (const std::string halves = FieldOf(*weight, 2).value_or(""); !halves.empty()) {
    stored.form = "fp16";
    ++filled;
    for (size_t at = 0; at + 2 <= halves.size(); at += 2) {
      uint16_t half = 0;
      std::memcpy(&half, halves.data() + at, 2);
      stored.numbers.push_back(numeric::HalfToFloat(half));
    }
  }
  const std::string raw = FieldOf(*weight, 30).value_or("");
  const std::string int8 = FieldOf(*weight, 31).value_or("");
  filled += (raw.empty() ? 0 : 1) + (int8.empty() ? 0 : 1);
  EXPECT_LE(filled, 1) << layer << " " << path << " is stored in several ways";
  if (raw.empty() && int8.empty()) {
    EXPECT_FALSE(FieldOf(*weight, 40).has_value()) << "quantization without codes";
    return stored;
  }
  const std::string quantization = FieldOf(*weight, 40).value_or("");
  const auto linear = FieldOf(quantization, 101), table = FieldOf(quantization, 102);
  EXPECT_NE(linear.has_value(), table.has_value());
  stored.form = !int8.empty() ? "int8" : linear ? "linear" : "lut";
  stored.bits = static_cast<int>(NumberOf(quantization, 1).value_or(0));
  stored.numbers = linear ? FloatsOf(*linear, 1) : FloatsOf(table.value_or(""), 1);
  if (linear) stored.bias = FloatsOf(*linear, 2);
  stored.code_bytes = raw.size() + int8.size();
  for (size_t i = 0; i < count; ++i) {
    if (!int8.empty()) {
      stored.codes.push_back(static_cast<signed char>(int8.at(i)));
      continue;
    }
    int code = 0;
    for (int bit = 0; bit < stored.bits; ++bit) {
      const size_t at = i * static_cast<size_t>(stored.bits) + static_cast<size_t>(bit);
      code = code * 2 + ((raw.at(at / 8) >> (7 - at % 8)) & 1);
    }
    stored.codes.push_back(code);
  }
  return stored;
}

namespace {

std::string MemberOf(std::string model, const std::vector<int>& members) {
  for (const int member : members) {
    std::string pipeline;
    for (const int kind : {202, 200, 201})
      if (const auto found = FieldOf(model, kind))
        pipeline = kind == 202 ? *found : FieldOf(*found, 1).value_or("");
    model = FieldOf(pipeline, 1, member).value_or("");
  }
  return model;
}

}  // namespace

NetworkMessage NetworkOf(const std::string& model, const std::vector<int>& members) {
  const std::string member = MemberOf(model, members);
  for (const int kind : {500, 403, 303})
    if (const auto found = FieldOf(member, kind)) return NetworkMessage(*found);
  ADD_FAILURE() << "no network";
  return NetworkMessage("");
}

int VersionOf(const std::string& model, const std::vector<int>& members) {
  return static_cast<int>(NumberOf(MemberOf(model, members), 1).value_or(0));
}

}  // namespace cmlc::test
