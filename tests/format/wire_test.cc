// Messages as bytes: nothing is read past the end, and nothing gets lost between reading and
// writing.
#include "format/wire.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "support/test_util.h"

namespace cmlc::format {
namespace {

using test::Fails;
using test::FromHex;
using test::Succeeds;
using test::TempDir;
using test::WriteFile;

std::vector<WireField> FieldsOf(std::string_view message, bool* malformed = nullptr) {
  WireReader reader(message);
  std::vector<WireField> fields;
  while (const auto field = reader.Next()) fields.push_back(*field);
  if (malformed != nullptr) *malformed = reader.malformed();
  return fields;
}

bool IsMalformed(const std::string& hex) {
  const std::string message = FromHex(hex);
  bool malformed = false;
  FieldsOf(message, &malformed);
  return malformed;
}

// --- Reading ------------------------------------------------------------------------------------

// One field of each wire type: 1 varint 300, 2 fixed64, 3 "abc", 4 a group with a varint in it,
// 5 fixed32, and the largest number that a field may have.
std::string OneOfEach() {
  return FromHex("08 ac02  11 0102030405060708  1a 03 616263  23 0801 24  2d 01020380") +
         FromHex("f8ffffff0f 07");
}

TEST(WireReader, ReadsEveryWireType) {
  const std::string message = OneOfEach();
  bool malformed = true;
  const std::vector<WireField> fields = FieldsOf(message, &malformed);
  EXPECT_FALSE(malformed);
  ASSERT_EQ(fields.size(), 6u);
  const uint32_t numbers[] = {1, 2, 3, 4, 5, (1u << 29) - 1};
  std::string all;
  for (size_t i = 0; i < fields.size(); ++i) {
    EXPECT_EQ(fields[i].number, numbers[i]);
    EXPECT_EQ(fields[i].is_bytes, i == 2) << i;
    all += fields[i].raw;
  }
  EXPECT_EQ(all, message);
  EXPECT_EQ(fields[0].value, 300u);
  EXPECT_EQ(fields[1].value, 0x0807060504030201u);
  EXPECT_EQ(fields[2].payload, "abc");
  EXPECT_EQ(fields[2].raw, FromHex("1a 03 616263"));
  EXPECT_EQ(fields[3].raw, FromHex("23 0801 24"));
  EXPECT_EQ(fields[4].value, 0x80030201u);
  EXPECT_EQ(fields[5].value, 7u);
}

TEST(WireReader, AnEmptyMessageHasNoFields) {
  WireReader reader("");
  EXPECT_FALSE(reader.Next());
  EXPECT_FALSE(reader.malformed());
  const std::string empty = FromHex("0a00");
  EXPECT_EQ(FieldsOf(empty).at(0).payload, "");
}

// A longer form of a number than it needs is legal, and stays as it is.
TEST(WireReader, KeepsLongForms) {
  const std::string message = FromHex("88808000 81808000  8a00 8100 61");
  bool malformed = true;
  const auto fields = FieldsOf(message, &malformed);
  EXPECT_FALSE(malformed);
  ASSERT_EQ(fields.size(), 2u);
  EXPECT_EQ(fields[0].number, 1u);
  EXPECT_EQ(fields[0].value, 1u);
  EXPECT_EQ(fields[1].payload, "a");
  EXPECT_EQ(std::string(fields[0].raw) + std::string(fields[1].raw), message);
}

TEST(WireReader, GroupsEndWhereTheyBegan) {
  // In a group: every wire type, and another group.
  const std::string inside = OneOfEach();
  const std::string group = FromHex("13") + inside + FromHex("14");
  const std::string message = group + FromHex("0801");
  const auto fields = FieldsOf(message);
  ASSERT_EQ(fields.size(), 2u);
  EXPECT_EQ(fields[0].raw, group);
  EXPECT_FALSE(fields[0].is_bytes);
  for (const char* bad : {"13",                   // no end
                          "14",                   // no beginning
                          "13 1c",                // the end of another
                          "13 1b 14 1c",          // crossed
                          "13 0a 05 61",          // bytes beyond the end
                          "13 0a ffffffff0f 14",  // more than a message may have
                          "13 00 14",             // field 0
                          "13 0e 14"})            // no such wire type
    EXPECT_TRUE(IsMalformed(bad)) << bad;
}

// Groups may nest as deeply as the file likes: they take no stack.
TEST(WireReader, DeepGroupsAreSkipped) {
  const std::string message = std::string(200'000, '\x0b') + std::string(200'000, '\x0c');
  bool malformed = true;
  EXPECT_EQ(FieldsOf(message, &malformed).size(), 1u);
  EXPECT_FALSE(malformed);
}

TEST(WireReader, TruncatedAnywhereIsMalformed) {
  const std::string message = OneOfEach();
  const auto whole = FieldsOf(message);
  for (size_t size = 0; size <= message.size(); ++size) {
    // A copy of its own, so that a sanitizer sees what is read beyond its end.
    const std::vector<char> some(message.begin(),
                                 message.begin() + static_cast<std::ptrdiff_t>(size));
    WireReader reader({some.data(), some.size()});
    size_t begin = 0, count = 0;
    while (const auto field = reader.Next()) {
      EXPECT_EQ(field->raw, whole.at(count).raw);
      begin += field->raw.size();
      ++count;
    }
    EXPECT_EQ(reader.malformed(), begin != size) << size;
    EXPECT_EQ(reader.rest().size(), size - begin) << "not where the bad field begins";
    EXPECT_FALSE(reader.Next()) << "went on after a bad field";
  }
}

TEST(WireReader, SizesBeyondTheEndAreMalformed) {
  for (const char* bad :
       {"0a 01", "0a 05 61626364", "0a ffffffff07 61", "0a ffffffff0f 61", "0a 8080808010 61",
        "0a ffffffffffffffffff01 61", "0a ffffffffffffffff7f 61", "0a ffffffffffffffffffff01 61"})
    EXPECT_TRUE(IsMalformed(bad)) << bad;
}

TEST(WireReader, BadTagsAreMalformed) {
  for (const char* bad : {"00 01",                      // field 0
                          "02 00",                      // field 0 of bytes
                          "0e", "0f",                   // no such wire types
                          "08 ffffffffffffffffffff01",  // a number of 11 bytes
                          "80", "88", "08 80",          // numbers without an end
                          "0d 010203", "09 01020304050607"})
    EXPECT_TRUE(IsMalformed(bad)) << bad;
}

// --- Writing ------------------------------------------------------------------------------------

TEST(WireMessage, WritesFieldsAsProtobufDoes) {
  WireMessage message;
  message.AddVarint(1, 300);
  message.AddVarint(500, UINT64_MAX);
  message.AddBytes(3, "abc");
  message.AddBytes(3, "");
  message.AddRaw(FromHex("2d 01020380"));
  message.AddRaw("");
  const std::string expected =
      FromHex("08 ac02  a01f ffffffffffffffffff01  1a 03 616263  1a 00  2d 01020380");
  EXPECT_EQ(*ToBytes(message, TensorStore()), expected);
  EXPECT_EQ(message.size_bytes(), expected.size());
  EXPECT_EQ(message.parts().size(), 1u);  // bytes that follow each other are one part
}

TEST(WireMessage, AnEmptyOneHasNothing) {
  WireMessage message;
  message.AddRaw("");
  message.Append(WireMessage());
  EXPECT_EQ(message.size_bytes(), 0u);
  EXPECT_TRUE(message.parts().empty());
  WireMessage outer;
  outer.AddMessage(2, std::move(message));
  EXPECT_EQ(*ToBytes(outer, TensorStore()), FromHex("12 00"));
}

// The length of a message counts its tensors, however deep they are, before anybody reads them.
TEST(WireMessage, LengthsCountTensors) {
  TensorStore store;
  const WeightsFile file = store.AddFile("f", "f");
  const TensorId id = store.AddInline(DataType::kUInt8, 200, std::string(200, 'x'), file);
  WireMessage inner;
  inner.AddVarint(1, 1);
  inner.AddTensor(2, {.id = id, .size_bytes = 200});
  inner.AddVarint(3, 1);
  WireMessage middle;
  middle.AddMessage(4, inner);
  middle.Append(inner);
  WireMessage outer;
  outer.AddMessage(5, std::move(middle));
  EXPECT_EQ(outer.parts().size(), 5u);  // bytes, tensor, bytes, tensor, bytes
  const std::string one = FromHex("0801 12c801") + std::string(200, 'x') + FromHex("1801");
  const std::string both = FromHex("22 cf01") + one + one;
  const std::string expected = FromHex("2a a103") + both;
  EXPECT_EQ(outer.size_bytes(), expected.size());
  EXPECT_EQ(*ToBytes(outer, store), expected);
}

// --- Tensors ------------------------------------------------------------------------------------

// Packs codes from the high bit of a byte down, one bit at a time.
std::string HighFirst(const std::vector<uint8_t>& codes, int bits) {
  std::string bytes((codes.size() * static_cast<size_t>(bits) + 7) / 8, '\0');
  for (size_t i = 0; i < codes.size(); ++i)
    for (int bit = 0; bit < bits; ++bit) {
      const size_t at = i * static_cast<size_t>(bits) + static_cast<size_t>(bit);
      if (((codes[i] >> (bits - 1 - bit)) & 1) != 0)
        bytes[at / 8] = static_cast<char>(bytes[at / 8] | (0x80 >> (at % 8)));
    }
  return bytes;
}

std::string LowFirst(const std::vector<uint8_t>& codes, int bits) {
  return test::PackedInts({codes.begin(), codes.end()}, bits);
}

constexpr DataType kOfBits[] = {DataType::kUnused, DataType::kUInt1, DataType::kUInt2,
                                DataType::kUInt3,  DataType::kUInt4, DataType::kUInt5,
                                DataType::kUInt6,  DataType::kUInt7, DataType::kUInt8};

class WireTensors : public ::testing::Test {
 protected:
  // Codes in a message file behind some other bytes.
  TensorId InFile(const std::string& bytes, int bits, uint64_t count, BitOrder order,
                  const std::string& before = "before") {
    const std::string name = "file" + std::to_string(files_++);
    WriteFile(dir_ / name, before + bytes + "behind");
    const WeightsFile file = store_.AddFile(name, name);
    EXPECT_TRUE(Succeeds(store_.OpenMessage(file, dir_ / name)));
    return store_.AddRange(file, before.size(), kOfBits[bits], count, order);
  }
  std::string Written(TensorId id, BitOrder order) {
    WireMessage message;
    message.AddTensor(1, {.id = id, .size_bytes = store_.info(id).size_bytes, .order = order});
    const auto bytes = ToBytes(message, store_);
    EXPECT_TRUE(Succeeds(bytes));
    if (!bytes.ok()) return "";
    const auto fields = FieldsOf(*bytes);
    return fields.size() == 1 ? std::string(fields[0].payload) : "";
  }
  const TempDir dir_;
  TensorStore store_;
  int files_ = 0;
};

TEST_F(WireTensors, AreWrittenInEitherOrderOfBits) {
  for (int bits = 1; bits <= 8; ++bits)
    for (const size_t count : {1, 2, 7, 8, 9, 64, 1001}) {
      const auto codes = test::RandomCodes(count, static_cast<uint64_t>(bits), 1 << bits);
      const std::string high = HighFirst(codes, bits), low = LowFirst(codes, bits);
      const TensorId from_high = InFile(high, bits, count, BitOrder::kHighFirst);
      const TensorId from_low = InFile(low, bits, count, BitOrder::kLowFirst);
      for (const TensorId id : {from_high, from_low}) {
        EXPECT_EQ(Written(id, BitOrder::kHighFirst), high) << bits << " bits, " << count;
        EXPECT_EQ(Written(id, BitOrder::kLowFirst), low) << bits << " bits, " << count;
      }
    }
}

// Any range of bytes is the same whether it is looked at alone or with all others.
TEST_F(WireTensors, AnyRangeCanBeLookedAt) {
  constexpr size_t kCount = 45;
  for (int bits = 1; bits <= 7; ++bits) {
    const auto codes = test::RandomCodes(kCount, static_cast<uint64_t>(bits), 1 << bits);
    const std::string low = LowFirst(codes, bits);
    const TensorId id = InFile(HighFirst(codes, bits), bits, kCount, BitOrder::kHighFirst);
    for (size_t begin = 0; begin <= low.size(); ++begin)
      for (size_t size = 0; begin + size <= low.size(); ++size) {
        const auto view = store_.View(id, begin, size);
        ASSERT_TRUE(Succeeds(view));
        const std::string bytes(reinterpret_cast<const char*>(view->bytes().data()),
                                view->bytes().size());
        ASSERT_EQ(bytes, low.substr(begin, size)) << bits << " bits from " << begin;
      }
  }
}

// They are never held whole.
TEST_F(WireTensors, LargeOnesAreWrittenInChunks) {
  for (const int bits : {3, 8}) {
    const size_t count = TensorSource::kChunkBytes * 8 / static_cast<size_t>(bits) + 1003;
    const auto codes = test::RandomCodes(count, 1, 1 << bits);
    const std::string high = HighFirst(codes, bits);
    const TensorId id = InFile(LowFirst(codes, bits), bits, count, BitOrder::kLowFirst);
    WireMessage message;
    message.AddVarint(1, 1);
    message.AddTensor(2, {.id = id, .size_bytes = high.size(), .order = BitOrder::kHighFirst});
    std::string all;
    size_t largest = 0;
    ASSERT_TRUE(Succeeds(Stream(message, store_, [&](std::span<const std::byte> bytes) {
      all.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      largest = std::max(largest, bytes.size());
      return Ok();
    })));
    EXPECT_EQ(largest, TensorSource::kChunkBytes);
    EXPECT_EQ(all.size(), message.size_bytes());
    EXPECT_TRUE(all.substr(all.size() - high.size()) == high) << bits;
  }
}

// Floats that lie at an odd place in a message are given at an even one.
TEST_F(WireTensors, FloatsAreAligned) {
  const std::vector<float> values = test::Gaussian(100, 1);
  for (size_t shift = 0; shift < 8; ++shift) {
    const std::string name = "floats" + std::to_string(shift);
    WriteFile(dir_ / name, std::string(shift, 'x') + test::Fp32Bytes(values));
    const WeightsFile file = store_.AddFile(name, name);
    ASSERT_TRUE(Succeeds(store_.OpenMessage(file, dir_ / name)));
    const TensorId id = store_.AddRange(file, shift, DataType::kFloat32, 100, BitOrder::kLowFirst);
    const auto view = store_.View(id, 4, 396);
    ASSERT_TRUE(Succeeds(view));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view->bytes().data()) % 4, 0u) << shift;
    EXPECT_EQ(std::memcmp(view->bytes().data(), values.data() + 1, 396), 0);
  }
}

TEST_F(WireTensors, AFailureEndsTheWriting) {
  WireMessage message;
  message.AddVarint(1, 1);
  message.AddTensor(
      2, {.id = InFile(std::string(100, 'x'), 8, 100, BitOrder::kLowFirst), .size_bytes = 100});
  int calls = 0;
  const Status status = Stream(message, store_, [&](std::span<const std::byte>) -> Status {
    ++calls;
    return Error{ErrorKind::kOutput, "full"};
  });
  EXPECT_TRUE(Fails(status, ErrorKind::kOutput, {"full"}));
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace cmlc::format
