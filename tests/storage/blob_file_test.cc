#include "storage/blob_file.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include <cstring>
#include <string>
#include <vector>

#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc {
namespace {

namespace fs = std::filesystem;

using test::BlobFileBuilder;
using test::Fails;
using test::FromHex;
using test::ReadFile;
using test::Succeeds;
using test::TempDir;
using test::WriteFile;

const DataType kBlobTypes[] = {DataType::kFloat16,      DataType::kFloat32,   DataType::kBFloat16,
                               DataType::kInt8,         DataType::kInt16,     DataType::kInt32,
                               DataType::kInt4,         DataType::kUInt8,     DataType::kUInt16,
                               DataType::kUInt32,       DataType::kUInt4,     DataType::kUInt2,
                               DataType::kUInt1,        DataType::kUInt6,     DataType::kUInt3,
                               DataType::kFloat8E4M3FN, DataType::kFloat8E5M2};

TensorSource SourceOf(DataType dtype, uint64_t count, std::string bytes) {
  return {.dtype = dtype,
          .element_count = count,
          .fill = [bytes = std::move(bytes)](uint64_t begin, std::span<std::byte> out) {
            EXPECT_LE(begin + out.size(), bytes.size());
            std::memcpy(out.data(), bytes.data() + begin, out.size());
            return Ok();
          }};
}

// Random bytes for so many elements, the bits left over in the last byte zero.
std::string RandomPacked(DataType dtype, uint64_t count, uint64_t seed) {
  const auto bits = static_cast<uint64_t>(BitsOf(dtype));
  const std::vector<uint8_t> codes =
      test::RandomCodes(static_cast<size_t>((bits * count + 7) / 8), seed, 256);
  std::string bytes(codes.begin(), codes.end());
  if (bits * count % 8 != 0)
    bytes.back() = static_cast<char>(bytes.back() & ((1 << (bits * count % 8)) - 1));
  return bytes;
}

BlobWriter::Written Append(BlobWriter& writer, const TensorSource& source, int threads = 1) {
  ThreadPool pool(threads);
  const Result<BlobWriter::Written> written = writer.Append(source, pool);
  EXPECT_TRUE(Succeeds(written));
  return written.ok() ? *written : BlobWriter::Written{};
}

// --- Reading and writing ------------------------------------------------------------------------

TEST(BlobFile, EveryTypeAndLengthComesBack) {
  const TempDir dir;
  Result<BlobWriter> writer = BlobWriter::Create(dir / "weight.bin");
  ASSERT_TRUE(Succeeds(writer));
  struct Expected {
    DataType dtype;
    uint64_t count;
    uint64_t offset;
    std::string bytes;
  };
  std::vector<Expected> all;
  for (const DataType dtype : kBlobTypes)
    for (const uint64_t count : {0, 1, 2, 3, 5, 7, 8, 9, 31, 32, 33, 1000}) {
      const std::string bytes = RandomPacked(dtype, count, all.size());
      const auto written = Append(*writer, SourceOf(dtype, count, bytes));
      all.push_back({dtype, count, written.offset, bytes});
    }
  ASSERT_TRUE(Succeeds(writer->Finish()));

  const Result<BlobReader> reader = BlobReader::Open(dir / "weight.bin");
  ASSERT_TRUE(Succeeds(reader));
  for (const Expected& expected : all) {
    SCOPED_TRACE(fmt::format("{} x {}", NameOf(expected.dtype), expected.count));
    const Result<BlobRecord> record = reader->Record(expected.offset);
    ASSERT_TRUE(Succeeds(record));
    EXPECT_EQ(record->dtype, expected.dtype);
    EXPECT_EQ(record->element_count, expected.count);
    ASSERT_EQ(record->size_bytes, expected.bytes.size());
    const auto window = reader->file().Map(record->payload_offset, record->size_bytes);
    ASSERT_TRUE(Succeeds(window));
    EXPECT_TRUE(std::ranges::equal(window->bytes(), std::as_bytes(std::span(expected.bytes))));
  }
}

TEST(BlobFile, WritesTheLayoutOfTheFormat) {
  const TempDir dir;
  Result<BlobWriter> writer = BlobWriter::Create(dir / "weight.bin");
  ASSERT_TRUE(Succeeds(writer));
  EXPECT_EQ(Append(*writer, SourceOf(DataType::kFloat16, 3, FromHex("003c 00c0 0038"))).offset,
            64u);
  EXPECT_EQ(Append(*writer, SourceOf(DataType::kUInt3, 9, FromHex("d1 58 1f 05"))).offset, 192u);
  EXPECT_EQ(Append(*writer, SourceOf(DataType::kInt4, 5, FromHex("e8 20 07"))).offset, 320u);
  ASSERT_TRUE(Succeeds(writer->Finish()));

  std::string expected(387, '\0');
  const auto put = [&](size_t at, std::string_view hex) {
    const std::string bytes = FromHex(hex);
    expected.replace(at, bytes.size(), bytes);
  };
  put(0x000, "03 00 00 00 02 00 00 00");
  put(0x040, "ef be ad de 01 00 00 00  06 00 00 00 00 00 00 00");
  put(0x050, "80 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00");
  put(0x080, "00 3c 00 c0 00 38");
  put(0x0c0, "ef be ad de 0c 00 00 00  04 00 00 00 00 00 00 00");
  put(0x0d0, "00 01 00 00 00 00 00 00  05 00 00 00 00 00 00 00");
  put(0x100, "d1 58 1f 05");
  put(0x140, "ef be ad de 08 00 00 00  03 00 00 00 00 00 00 00");
  put(0x150, "80 01 00 00 00 00 00 00  04 00 00 00 00 00 00 00");
  put(0x180, "e8 20 07");
  EXPECT_EQ(ReadFile(dir / "weight.bin"), expected);
}

TEST(BlobFile, AnEmptyFileIsAHeader) {
  const TempDir dir;
  Result<BlobWriter> writer = BlobWriter::Create(dir / "weight.bin");
  ASSERT_TRUE(Succeeds(writer));
  ASSERT_TRUE(Succeeds(writer->Finish()));
  EXPECT_EQ(ReadFile(dir / "weight.bin"), FromHex("00000000 02000000") + std::string(56, '\0'));
  EXPECT_TRUE(Succeeds(BlobReader::Open(dir / "weight.bin")));
}

TEST(BlobFile, ReadsAFileWithRubbishInReservedFields) {
  // Writers before 2024 left everything behind the payload offset uninitialized.
  const TempDir dir;
  BlobFileBuilder file;
  const uint64_t offset = file.Add(DataType::kFloat32, 2, std::string(8, 'x'));
  file.bytes().replace(offset + 24, 40, std::string(40, '\xA5'));
  WriteFile(dir / "weight.bin", file.bytes());
  const Result<BlobReader> reader = BlobReader::Open(dir / "weight.bin");
  ASSERT_TRUE(Succeeds(reader));
  const Result<BlobRecord> record = reader->Record(offset);
  ASSERT_TRUE(Succeeds(record));
  EXPECT_EQ(record->element_count, 2u);
}

TEST(BlobFile, DoesNotOverwriteAFile) {
  const TempDir dir;
  WriteFile(dir / "weight.bin", "precious");
  EXPECT_TRUE(Fails(BlobWriter::Create(dir / "weight.bin"), ErrorKind::kOutput, {"weight.bin"}));
  EXPECT_EQ(ReadFile(dir / "weight.bin"), "precious");
}

// --- Storing once -------------------------------------------------------------------------------

TEST(BlobFile, StoresEqualBlobsOnce) {
  const TempDir dir;
  Result<BlobWriter> writer = BlobWriter::Create(dir / "weight.bin");
  ASSERT_TRUE(Succeeds(writer));
  const auto first = Append(*writer, SourceOf(DataType::kInt8, 4, "abcd"));
  const auto other = Append(*writer, SourceOf(DataType::kInt8, 4, "abce"));
  const auto again = Append(*writer, SourceOf(DataType::kInt8, 4, "abcd"));
  EXPECT_TRUE(first.is_new);
  EXPECT_TRUE(other.is_new);
  EXPECT_FALSE(again.is_new);
  EXPECT_EQ(again.offset, first.offset);
  EXPECT_NE(other.offset, first.offset);
  EXPECT_EQ(writer->count(), 2u);
}

TEST(BlobFile, KeepsEqualBytesOfDifferentTypesApart) {
  const TempDir dir;
  Result<BlobWriter> writer = BlobWriter::Create(dir / "weight.bin");
  ASSERT_TRUE(Succeeds(writer));
  const auto as_int8 = Append(*writer, SourceOf(DataType::kInt8, 4, "abcd"));
  const auto as_uint8 = Append(*writer, SourceOf(DataType::kUInt8, 4, "abcd"));
  const auto as_fp16 = Append(*writer, SourceOf(DataType::kFloat16, 2, "abcd"));
  EXPECT_TRUE(as_uint8.is_new);
  EXPECT_TRUE(as_fp16.is_new);
  EXPECT_NE(as_int8.offset, as_uint8.offset);
}

// Five bits and eight bits can be the same byte; the record tells them apart by its padding.
TEST(BlobFile, KeepsEqualBytesOfDifferentLengthsApart) {
  const TempDir dir;
  Result<BlobWriter> writer = BlobWriter::Create(dir / "weight.bin");
  ASSERT_TRUE(Succeeds(writer));
  const auto five = Append(*writer, SourceOf(DataType::kUInt1, 5, FromHex("15")));
  const auto eight = Append(*writer, SourceOf(DataType::kUInt1, 8, FromHex("15")));
  EXPECT_TRUE(eight.is_new);
  ASSERT_TRUE(Succeeds(writer->Finish()));
  const Result<BlobReader> reader = BlobReader::Open(dir / "weight.bin");
  ASSERT_TRUE(Succeeds(reader));
  EXPECT_EQ(reader->Record(five.offset)->element_count, 5u);
  EXPECT_EQ(reader->Record(eight.offset)->element_count, 8u);
}

TEST(BlobFile, LeavesZerosWhereADuplicateWasTakenBack) {
  const TempDir dir;
  Result<BlobWriter> writer = BlobWriter::Create(dir / "weight.bin");
  ASSERT_TRUE(Succeeds(writer));
  const std::string large(200, '\xFF');
  Append(*writer, SourceOf(DataType::kUInt8, 200, large));
  EXPECT_FALSE(Append(*writer, SourceOf(DataType::kUInt8, 200, large)).is_new);
  const auto small = Append(*writer, SourceOf(DataType::kUInt8, 1, "\x01"));
  const auto last = Append(*writer, SourceOf(DataType::kUInt8, 2, "\x01\x02"));
  ASSERT_TRUE(Succeeds(writer->Finish()));
  const std::string bytes = ReadFile(dir / "weight.bin");
  EXPECT_EQ(bytes.size(), last.offset + 64 + 2);
  EXPECT_EQ(bytes.substr(small.offset + 65, last.offset - small.offset - 65),
            std::string(63, '\0'));
  EXPECT_EQ(bytes.substr(128 + 200, small.offset - 328),
            std::string(static_cast<size_t>(small.offset) - 328, '\0'));
}

TEST(BlobFile, EndsBehindTheLastPayloadWhenTheLastBlobIsADuplicate) {
  const TempDir dir;
  Result<BlobWriter> writer = BlobWriter::Create(dir / "weight.bin");
  ASSERT_TRUE(Succeeds(writer));
  Append(*writer, SourceOf(DataType::kUInt8, 100, std::string(100, 'x')));
  Append(*writer, SourceOf(DataType::kUInt8, 100, std::string(100, 'x')));
  ASSERT_TRUE(Succeeds(writer->Finish()));
  EXPECT_EQ(fs::file_size(dir / "weight.bin"), 128u + 100);
}

// --- Chunks and threads -------------------------------------------------------------------------

TEST(BlobFile, DoesNotDependOnTheNumberOfThreads) {
  const TempDir dir;
  const uint64_t size = 3 * TensorSource::kChunkBytes + 1234;
  const std::string bytes = RandomPacked(DataType::kUInt8, size, 7);
  std::vector<std::string> files;
  std::vector<std::string> hashes;
  for (const int threads : {1, 2, 5}) {
    const fs::path path = dir / std::to_string(threads);
    Result<BlobWriter> writer = BlobWriter::Create(path);
    ASSERT_TRUE(Succeeds(writer));
    Append(*writer, SourceOf(DataType::kUInt8, size, bytes), threads);
    EXPECT_FALSE(Append(*writer, SourceOf(DataType::kUInt8, size, bytes), threads).is_new);
    Append(*writer,
           SourceOf(DataType::kUInt8, TensorSource::kChunkBytes,
                    bytes.substr(0, TensorSource::kChunkBytes)),
           threads);
    ASSERT_TRUE(Succeeds(writer->Finish()));
    files.push_back(ReadFile(path));
    hashes.push_back(ToHex(writer->hash()));
  }
  EXPECT_EQ(files[0].substr(128, size), bytes);
  EXPECT_TRUE(files[1] == files[0]);
  EXPECT_TRUE(files[2] == files[0]);
  EXPECT_EQ(hashes[1], hashes[0]);
  EXPECT_EQ(hashes[2], hashes[0]);
}

TEST(BlobFile, AsksForEveryChunkOnceAtItsPlace) {
  const TempDir dir;
  Result<BlobWriter> writer = BlobWriter::Create(dir / "weight.bin");
  ASSERT_TRUE(Succeeds(writer));
  std::vector<std::pair<uint64_t, size_t>> asked;
  const TensorSource source = {.dtype = DataType::kUInt1,
                               .element_count = 8 * (2 * TensorSource::kChunkBytes + 5) - 3,
                               .fill = [&](uint64_t begin, std::span<std::byte> out) {
                                 asked.emplace_back(begin, out.size());
                                 std::memset(out.data(), 0, out.size());
                                 return Ok();
                               }};
  Append(*writer, source);
  constexpr uint64_t kChunk = TensorSource::kChunkBytes;
  EXPECT_EQ(asked, (std::vector<std::pair<uint64_t, size_t>>{
                       {0, kChunk}, {kChunk, kChunk}, {2 * kChunk, 5}}));
}

TEST(BlobFile, HandsUpTheErrorOfASource) {
  const TempDir dir;
  Result<BlobWriter> writer = BlobWriter::Create(dir / "weight.bin");
  ASSERT_TRUE(Succeeds(writer));
  ThreadPool pool(2);
  const TensorSource source = {.dtype = DataType::kUInt8,
                               .element_count = 4 * TensorSource::kChunkBytes,
                               .fill = [](uint64_t begin, std::span<std::byte>) -> Status {
                                 if (begin == 0) return Ok();
                                 return Error{ErrorKind::kBadInput, "no more"};
                               }};
  EXPECT_TRUE(Fails(writer->Append(source, pool), ErrorKind::kBadInput, {"no more"}));
}

TEST(BlobFile, HashTellsContentsApart) {
  const TempDir dir;
  const auto hash_of = [&](const std::string& name, DataType dtype, const std::string& bytes) {
    Result<BlobWriter> writer = BlobWriter::Create(dir / name);
    Append(*writer, SourceOf(dtype, bytes.size(), bytes));
    return ToHex(writer->hash());
  };
  const std::string base = hash_of("1", DataType::kUInt8, "abcd");
  EXPECT_EQ(base.size(), 32u);
  EXPECT_EQ(base, hash_of("2", DataType::kUInt8, "abcd"));
  EXPECT_NE(base, hash_of("3", DataType::kUInt8, "abce"));
  EXPECT_NE(base, hash_of("4", DataType::kInt8, "abcd"));
}

// --- Corruption ---------------------------------------------------------------------------------

// A file with one blob of eight uint3 and one of two fp32; damaged, then looked at.
class CorruptBlobFile : public ::testing::Test {
 protected:
  CorruptBlobFile() {
    uint3_ = file_.Add(DataType::kUInt3, 7, std::string(3, '\0'));
    fp32_ = file_.Add(DataType::kFloat32, 2, std::string(8, '\0'));
  }

  template <typename T>
  void Put(uint64_t at, T number) {
    std::memcpy(file_.bytes().data() + at, &number, sizeof number);
  }

  ::testing::AssertionResult OpenFails(std::initializer_list<std::string_view> fragments) {
    WriteFile(dir_ / "weight.bin", file_.bytes());
    return Fails(BlobReader::Open(dir_ / "weight.bin"), ErrorKind::kBadInput, fragments);
  }

  ::testing::AssertionResult RecordFails(uint64_t offset,
                                         std::initializer_list<std::string_view> fragments) {
    WriteFile(dir_ / "weight.bin", file_.bytes());
    const Result<BlobReader> reader = BlobReader::Open(dir_ / "weight.bin");
    if (!reader.ok()) return ::testing::AssertionFailure() << reader.error().message;
    return Fails(reader->Record(offset), ErrorKind::kBadInput, fragments);
  }

  TempDir dir_;
  BlobFileBuilder file_;
  uint64_t uint3_ = 0;
  uint64_t fp32_ = 0;
};

TEST_F(CorruptBlobFile, ReportsAMissingFile) {
  EXPECT_TRUE(Fails(BlobReader::Open(dir_ / "absent.bin"), ErrorKind::kBadInput,
                    {"absent.bin", "No such file"}));
}

TEST_F(CorruptBlobFile, ReportsAFolder) {
  EXPECT_TRUE(Fails(BlobReader::Open(dir_.path()), ErrorKind::kBadInput, {"not a regular file"}));
}

TEST_F(CorruptBlobFile, ReportsATruncatedHeader) {
  file_.bytes().resize(63);
  EXPECT_TRUE(OpenFails({"weight.bin: has 63 bytes", "header of 64"}));
}

TEST_F(CorruptBlobFile, ReportsAnEmptyFile) {
  file_.bytes().clear();
  EXPECT_TRUE(OpenFails({"has 0 bytes"}));
}

TEST_F(CorruptBlobFile, ReportsAnotherVersion) {
  Put(4, uint32_t{1});
  EXPECT_TRUE(OpenFails({"weights file version is 1, expected 2"}));
}

TEST_F(CorruptBlobFile, ReportsAWrongSentinel) {
  Put(uint3_, uint32_t{0});
  EXPECT_TRUE(RecordFails(
      uint3_, {"weight.bin: blob at offset 64: sentinel is 0x00000000, expected 0xdeadbeef"}));
}

TEST_F(CorruptBlobFile, ReportsAnOffsetBetweenRecords) {
  EXPECT_TRUE(RecordFails(uint3_ + 4, {"blob at offset 68", "sentinel"}));
}

TEST_F(CorruptBlobFile, ReportsAnUnknownType) {
  for (const uint32_t type : {0u, 18u, 0xFFFFFFFFu}) {
    Put(uint3_ + 4, type);
    EXPECT_TRUE(RecordFails(uint3_, {fmt::format("data type {} is not known", type)}));
  }
}

TEST_F(CorruptBlobFile, ReportsARecordOutsideTheFile) {
  EXPECT_TRUE(RecordFails(4096, {"blob at offset 4096: record lies outside of the file's 264"}));
  EXPECT_TRUE(RecordFails(UINT64_MAX, {"record lies outside"}));
  EXPECT_TRUE(RecordFails(UINT64_MAX - 63, {"record lies outside"}));
}

TEST_F(CorruptBlobFile, ReportsATruncatedRecord) {
  file_.bytes().resize(fp32_ + 63);
  EXPECT_TRUE(RecordFails(fp32_, {"record lies outside"}));
}

TEST_F(CorruptBlobFile, ReportsATruncatedPayload) {
  file_.bytes().pop_back();
  EXPECT_TRUE(
      RecordFails(fp32_, {"payload of 8 bytes at offset 256 lies outside of the file's 263"}));
}

TEST_F(CorruptBlobFile, ReportsAPayloadOutsideTheFile) {
  Put(fp32_ + 16, uint64_t{1} << 40);
  EXPECT_TRUE(RecordFails(fp32_, {"payload of 8 bytes at offset 1099511627776 lies outside"}));
}

TEST_F(CorruptBlobFile, ReportsSizesThatOverflow) {
  Put(fp32_ + 8, UINT64_MAX);
  EXPECT_TRUE(RecordFails(fp32_, {"payload of 18446744073709551615 bytes", "lies outside"}));
  Put(fp32_ + 8, UINT64_MAX - 255);  // offset + size overflows
  EXPECT_TRUE(RecordFails(fp32_, {"lies outside"}));
}

TEST_F(CorruptBlobFile, ReportsAMisalignedPayload) {
  Put(uint3_ + 16, uint64_t{129});
  EXPECT_TRUE(RecordFails(uint3_, {"payload offset is 129, expected a multiple of 64"}));
}

TEST_F(CorruptBlobFile, ReportsASizeThatIsNoWholeNumberOfElements) {
  Put(fp32_ + 8, uint64_t{7});
  EXPECT_TRUE(RecordFails(fp32_, {"7 bytes are no whole number of fp32 elements"}));
}

TEST_F(CorruptBlobFile, ReportsWrongPaddingBits) {
  // Three bytes hold seven elements of three bits and three bits of padding.
  for (const uint64_t padding : {uint64_t{4}, uint64_t{8}, uint64_t{24}, uint64_t{UINT64_MAX}}) {
    Put(uint3_ + 24, padding);
    EXPECT_TRUE(RecordFails(uint3_, {"padding bits", "uint3"})) << padding;
  }
}

TEST_F(CorruptBlobFile, ReportsPaddingOfAnEmptyBlob) {
  Put(uint3_ + 8, uint64_t{0});
  EXPECT_TRUE(RecordFails(uint3_, {"0 bytes less 3 padding bits"}));
}

// --- Hashes -------------------------------------------------------------------------------------

TEST(Hash128, IsTheSameEverywhere) {
  // XXH3's own value for no bytes: identifiers in manifests must not change between builds.
  EXPECT_EQ(ToHex(HashBytes({})), "99aa06d3014798d86001c324468d497f");
}

}  // namespace
}  // namespace cmlc
