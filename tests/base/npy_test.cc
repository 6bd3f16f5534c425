#include "base/npy.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "support/test_util.h"

namespace cmlc {
namespace {

using test::BytesOf;
using test::Fails;
using test::FromHex;
using test::Succeeds;
using test::TempDir;
using test::WriteFile;

class Npy : public ::testing::Test {
 protected:
  Result<NpyArray> Read(const std::string& header, const std::string& data, char version = 1) {
    std::string file = "\x93NUMPY";
    file += {version, '\0'};
    file.push_back(static_cast<char>(header.size() & 0xff));
    file.push_back(static_cast<char>(header.size() >> 8));
    if (version > 1) file += std::string(2, '\0');
    WriteFile(dir_ / "a.npy", file + header + data);
    return ReadNpy(dir_ / "a.npy");
  }
  static std::string Header(const std::string& descr, const std::string& shape,
                            const std::string& order = "False") {
    return fmt::format("{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}\n", descr, order,
                       shape);
  }
  template <typename T>
  void ExpectReads(const std::string& descr, const std::vector<T>& values) {
    const auto array = Read(Header(descr, fmt::format("({},)", values.size())), BytesOf(values));
    ASSERT_TRUE(Succeeds(array)) << descr;
    EXPECT_EQ(array->shape, (Shape{static_cast<int64_t>(values.size())}));
    EXPECT_EQ(array->values, std::vector<double>(values.begin(), values.end())) << descr;
  }
  TempDir dir_;
};

TEST_F(Npy, ReadsEveryElementType) {
  ExpectReads<float>("<f4", {1.5f, -2.0f, 1e30f});
  ExpectReads<double>("<f8", {1.5, -2.0, 1e300});
  ExpectReads<int64_t>("<i8", {-1, 1 << 20});
  ExpectReads<int32_t>("<i4", {-1, INT32_MAX});
  ExpectReads<int16_t>("<i2", {-1, INT16_MAX});
  ExpectReads<int8_t>("|i1", {-128, 127});
  ExpectReads<uint64_t>("<u8", {0, uint64_t{1} << 40});
  ExpectReads<uint32_t>("<u4", {0, UINT32_MAX});
  ExpectReads<uint16_t>("<u2", {0, UINT16_MAX});
  ExpectReads<uint8_t>("|u1", {0, 255});
}

TEST_F(Npy, ReadsHalves) {
  const auto array =
      Read(Header("<f2", "(5,)"), BytesOf<uint16_t>({0x3c00, 0xc000, 0x0001, 0x7bff, 0xfc00}));
  ASSERT_TRUE(Succeeds(array));
  EXPECT_EQ(array->values,
            (std::vector<double>{1, -2, 0x1p-24, 65504, -std::numeric_limits<double>::infinity()}));
}

TEST_F(Npy, ReadsShapesOfAnyRank) {
  const std::string data(24, '\1');
  EXPECT_EQ(Read(Header("|u1", "(2, 3, 4)"), data)->shape, (Shape{2, 3, 4}));
  EXPECT_EQ(Read(Header("|u1", "()"), data)->shape, Shape{});
  EXPECT_EQ(Read(Header("|u1", "()"), data)->values.size(), 1u);
  EXPECT_EQ(Read(Header("|u1", "(0, 4)"), "")->values.size(), 0u);
}

TEST_F(Npy, ReadsLaterVersions) {
  EXPECT_TRUE(Succeeds(Read(Header("|u1", "(2,)"), "ab", 2)));
  EXPECT_TRUE(Succeeds(Read(Header("|u1", "(2,)"), "ab", 3)));
  EXPECT_TRUE(Fails(Read(Header("|u1", "(2,)"), "ab", 9), ErrorKind::kBadInput, {"version 9"}));
}

TEST_F(Npy, ReadsFortranOrder) {
  const auto array = Read(Header("<f4", "(2, 3)", "True"), BytesOf<float>({1, 4, 2, 5, 3, 6}));
  ASSERT_TRUE(Succeeds(array));
  EXPECT_EQ(array->values, (std::vector<double>{1, 2, 3, 4, 5, 6}));
  const auto deep = Read(Header("|u1", "(2, 3, 2)", "True"),
                         BytesOf<uint8_t>({0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11}));
  ASSERT_TRUE(Succeeds(deep));
  EXPECT_EQ(deep->values, (std::vector<double>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
}

TEST_F(Npy, ReadsBigEndianElements) {
  const auto expect = [&](const std::string& descr, std::string_view hex,
                          const std::vector<double>& values) {
    const auto array = Read(Header(descr, fmt::format("({},)", values.size())), FromHex(hex));
    ASSERT_TRUE(Succeeds(array)) << descr;
    EXPECT_EQ(array->values, values) << descr;
  };
  expect(">f2", "3c00 c000", {1, -2});
  expect(">f4", "3f800000 c0000000", {1, -2});
  expect(">f8", "3ff0000000000000", {1});
  expect(">i2", "0102 ffff", {258, -1});
  expect(">i4", "00010203", {66051});
  expect(">i8", "fffffffffffffffe", {-2});
  expect(">u2", "ffff", {65535});
  expect("|b1", "00 01 07", {0, 1, 1});
}

TEST_F(Npy, ReadsRowsInEitherOrder) {
  for (const char* order : {"False", "True"}) {
    const bool fortran = order[0] == 'T';
    ASSERT_TRUE(Succeeds(
        Read(Header(">i2", "(3, 2)", order), fortran ? FromHex("0000 0002 0004 0001 0003 0005")
                                                     : FromHex("0000 0001 0002 0003 0004 0005"))));
    auto reader = NpyReader::Open(dir_ / "a.npy");
    ASSERT_TRUE(Succeeds(reader));
    EXPECT_EQ(reader->dtype(), DataType::kInt16);
    EXPECT_EQ(reader->shape(), (Shape{3, 2}));
    for (const uint64_t row : {2, 0, 1}) {
      const auto array = reader->ReadRow(row);
      ASSERT_TRUE(Succeeds(array));
      EXPECT_EQ(array->shape, Shape{2});
      const auto first = static_cast<int16_t>(2 * row);
      EXPECT_EQ(array->bytes, BytesOf<int16_t>({first, static_cast<int16_t>(first + 1)}))
          << order << " " << row;
    }
  }
}

TEST_F(Npy, WritesWhatItReads) {
  for (const Shape& shape : {Shape{}, Shape{3}, Shape{0, 5}, Shape{2, 3, 4}}) {
    const std::string header = NpyHeader(NpyDescr(DataType::kUInt8), shape);
    EXPECT_EQ(header.size() % 64, 0u);
    WriteFile(dir_ / "a.npy", header + std::string(24, '\1'));
    const auto array = ReadNpy(dir_ / "a.npy");
    ASSERT_TRUE(Succeeds(array));
    EXPECT_EQ(array->shape, shape);
  }
}

TEST_F(Npy, RefusesWhatItCannotRead) {
  EXPECT_TRUE(Fails(Read(Header("|O", "(1,)"), "abcd"), ErrorKind::kBadInput, {"a.npy", "|O"}));
  EXPECT_TRUE(Fails(Read(Header("<f4", "(1,)", "Maybe"), "abcd"), ErrorKind::kBadInput,
                    {"fortran_order is Maybe"}));
  EXPECT_TRUE(
      Fails(Read("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "abcd"),
            ErrorKind::kBadInput, {"holds elements of type"}));
  EXPECT_TRUE(Fails(Read(Header("<f4", "(-1,)"), "abcd"), ErrorKind::kBadInput, {"shape (-1,)"}));
  EXPECT_TRUE(Fails(Read("{}", ""), ErrorKind::kBadInput, {"header lacks descr"}));
}

TEST_F(Npy, ReportsWhatIsCutShort) {
  EXPECT_TRUE(Fails(Read(Header("<f4", "(2,)"), "1234567"), ErrorKind::kBadInput,
                    {"2 values do not fit in 7 bytes"}));
  EXPECT_TRUE(Fails(Read(Header("<f8", "(1000000, 1000000, 1000000)"), ""), ErrorKind::kBadInput));
  EXPECT_TRUE(Fails(Read(Header("<f8", "(10000000000000000000000,)"), ""), ErrorKind::kBadInput,
                    {"too large"}));
  WriteFile(dir_ / "b.npy", std::string("\x93NUMPY\1\0\xff\xff{}  ", 14));
  EXPECT_TRUE(Fails(ReadNpy(dir_ / "b.npy"), ErrorKind::kBadInput, {"header is cut short"}));
  WriteFile(dir_ / "c.npy", "text");
  EXPECT_TRUE(Fails(ReadNpy(dir_ / "c.npy"), ErrorKind::kBadInput, {"not an .npy file"}));
  EXPECT_TRUE(Fails(ReadNpy(dir_ / "none.npy"), ErrorKind::kBadInput, {"none.npy"}));
}

}  // namespace
}  // namespace cmlc
