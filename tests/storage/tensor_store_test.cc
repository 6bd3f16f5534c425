#include "cmlc/tensor_store.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "storage/blob_file.h"
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

constexpr const char* kName = "@model_path/weights/weight.bin";

TensorSource SourceOf(DataType dtype, uint64_t count, std::string bytes) {
  return {.dtype = dtype,
          .element_count = count,
          .fill = [bytes = std::move(bytes)](uint64_t begin, std::span<std::byte> out) {
            std::memcpy(out.data(), bytes.data() + begin, out.size());
            return Ok();
          }};
}

// A store with an input of three blobs ("aaaa", "bbbb", "cc") and an output folder.
class TensorStoreTest : public ::testing::Test {
 protected:
  TensorStoreTest() : file_(store_.AddFile(kName, "weights/weight.bin")) {
    BlobFileBuilder input;
    a_offset_ = input.Add(DataType::kInt8, 4, "aaaa");
    b_offset_ = input.Add(DataType::kUInt8, 4, "bbbb");
    c_offset_ = input.Add(DataType::kFloat16, 1, "cc");
    WriteFile(dir_ / "in.bin", input.bytes());
    EXPECT_TRUE(Succeeds(store_.OpenInput(file_, dir_ / "in.bin")));
  }

  void StartWriting() {
    store_.StartWriting([this](WeightsFile file) -> Result<fs::path> {
      ++paths_asked_;
      return dir_ / fmt::format("out{}.bin", static_cast<uint32_t>(file));
    });
  }

  TensorId Blob(uint64_t offset) {
    const Result<TensorId> id = store_.AddBlob(file_, offset);
    EXPECT_TRUE(Succeeds(id));
    return id.ok() ? *id : TensorId{};
  }

  TensorId Append(DataType dtype, uint64_t count, const std::string& bytes) {
    const Result<TensorId> id = store_.Append(file_, SourceOf(dtype, count, bytes), pool_);
    EXPECT_TRUE(Succeeds(id));
    return id.ok() ? *id : TensorId{};
  }

  std::string Bytes(TensorId id, uint64_t begin, uint64_t size) const {
    const Result<TensorView> view = store_.View(id, begin, size);
    EXPECT_TRUE(Succeeds(view));
    if (!view.ok()) return "";
    return {reinterpret_cast<const char*>(view->bytes().data()), view->bytes().size()};
  }
  std::string Bytes(TensorId id) const { return Bytes(id, 0, store_.info(id).size_bytes); }

  // The payload of a live tensor in the finished output.
  std::string Written(TensorId id, const std::string& name = "out0.bin") const {
    const Result<BlobReader> reader = BlobReader::Open(dir_ / name);
    EXPECT_TRUE(Succeeds(reader));
    const Result<BlobRecord> record = reader->Record(store_.OutputOffset(id));
    EXPECT_TRUE(Succeeds(record));
    EXPECT_EQ(record->dtype, store_.info(id).dtype);
    EXPECT_EQ(record->element_count, store_.info(id).element_count);
    return ReadFile(dir_ / name).substr(record->payload_offset, record->size_bytes);
  }

  TempDir dir_;
  TensorStore store_;
  WeightsFile file_;
  ThreadPool pool_{2};
  uint64_t a_offset_ = 0, b_offset_ = 0, c_offset_ = 0;
  int paths_asked_ = 0;
};

// --- Input --------------------------------------------------------------------------------------

TEST_F(TensorStoreTest, KnowsFilesByName) {
  EXPECT_EQ(store_.AddFile(kName, "elsewhere"), file_);
  const WeightsFile other = store_.AddFile("@model_path/weights/1.bin", "weights/1.bin");
  EXPECT_NE(other, file_);
  EXPECT_EQ(store_.FileName(file_), kName);
  EXPECT_EQ(store_.RelativePath(file_), "weights/weight.bin");
  EXPECT_EQ(store_.files(), (std::vector<WeightsFile>{file_, other}));
}

TEST_F(TensorStoreTest, ViewsRangesOfMappedBlobs) {
  const TensorId a = Blob(a_offset_);
  EXPECT_EQ(store_.info(a).dtype, DataType::kInt8);
  EXPECT_EQ(store_.info(a).element_count, 4u);
  EXPECT_EQ(store_.info(a).size_bytes, 4u);
  EXPECT_EQ(store_.info(a).offset, a_offset_);
  EXPECT_FALSE(store_.info(a).missing);
  EXPECT_EQ(Bytes(a), "aaaa");
  EXPECT_EQ(Bytes(a, 1, 2), "aa");
  EXPECT_EQ(Bytes(a, 4, 0), "");
}

TEST_F(TensorStoreTest, SharesOneIdForOneBlob) {
  EXPECT_EQ(Blob(a_offset_), Blob(a_offset_));
  EXPECT_NE(Blob(a_offset_), Blob(b_offset_));
}

TEST_F(TensorStoreTest, RefusesOffsetsThatAreNoRecord) {
  EXPECT_TRUE(Fails(store_.AddBlob(file_, 65), ErrorKind::kBadInput, {"blob at offset 65"}));
  EXPECT_TRUE(Fails(store_.AddBlob(file_, 1 << 20), ErrorKind::kBadInput, {"lies outside"}));
}

TEST_F(TensorStoreTest, ReportsAFileThatShrank) {
  const TensorId c = Blob(c_offset_);
  fs::resize_file(dir_ / "in.bin", c_offset_ + 64);
  EXPECT_TRUE(Fails(store_.View(c, 0, 2), ErrorKind::kBadInput, {"in.bin", "lie outside"}));
}

TEST_F(TensorStoreTest, KeepsInlineTensorsInMemory) {
  const TensorId id = store_.AddInline(DataType::kUInt4, 3, FromHex("21 03"), file_);
  EXPECT_EQ(store_.info(id).size_bytes, 2u);
  EXPECT_EQ(Bytes(id), FromHex("21 03"));
  EXPECT_EQ(Bytes(id, 1, 1), FromHex("03"));
}

TEST_F(TensorStoreTest, ReinterpretsTheSameBytes) {
  const TensorId bytes = Blob(b_offset_);
  const TensorId bits = store_.Reinterpret(bytes, DataType::kUInt1, 29);
  EXPECT_NE(bits, bytes);
  EXPECT_EQ(store_.info(bits).dtype, DataType::kUInt1);
  EXPECT_EQ(store_.info(bits).element_count, 29u);
  EXPECT_EQ(store_.info(bits).size_bytes, 4u);
  EXPECT_EQ(store_.info(bytes).dtype, DataType::kUInt8);
  EXPECT_EQ(Bytes(bits), "bbbb");
  const TensorId small = store_.AddInline(DataType::kUInt8, 1, "x", file_);
  EXPECT_EQ(Bytes(store_.Reinterpret(small, DataType::kUInt2, 4)), "x");
}

TEST_F(TensorStoreTest, KnowsMissingBlobsByTheirPlace) {
  const WeightsFile gone = store_.AddFile("@model_path/weights/gone.bin", "weights/gone.bin");
  const TensorId id = store_.AddMissing(gone, 4096);
  EXPECT_EQ(store_.AddMissing(gone, 4096), id);
  EXPECT_TRUE(store_.info(id).missing);
  EXPECT_EQ(store_.info(id).offset, 4096u);
}

// --- Output -------------------------------------------------------------------------------------

TEST_F(TensorStoreTest, ViewsWhatWasWrittenBeforeTheEnd) {
  StartWriting();
  const TensorId id = Append(DataType::kInt8, 3, "xyz");
  EXPECT_EQ(Bytes(id), "xyz");
  EXPECT_EQ(Bytes(id, 1, 2), "yz");
}

TEST_F(TensorStoreTest, GivesEqualTensorsOneId) {
  StartWriting();
  const TensorId first = Append(DataType::kInt8, 3, "xyz");
  EXPECT_EQ(Append(DataType::kInt8, 3, "xyz"), first);
  EXPECT_NE(Append(DataType::kUInt8, 3, "xyz"), first);
}

TEST_F(TensorStoreTest, TellsEqualBytesOfDifferentLengthsApart) {
  StartWriting();
  const TensorId five = Append(DataType::kUInt1, 5, FromHex("15"));
  const TensorId eight = Append(DataType::kUInt1, 8, FromHex("15"));
  EXPECT_NE(five, eight);
  EXPECT_EQ(store_.info(eight).element_count, 8u);
  ASSERT_TRUE(Succeeds(store_.Finish({five, eight}, pool_)));
  EXPECT_EQ(Written(five), Written(eight));
}

TEST_F(TensorStoreTest, MakesNoFileWithoutTensors) {
  StartWriting();
  ASSERT_TRUE(Succeeds(store_.Finish({}, pool_)));
  EXPECT_EQ(paths_asked_, 0);
  EXPECT_FALSE(store_.HasOutput(file_));
  EXPECT_EQ(store_.OutputBytes(file_), 0u);
}

TEST_F(TensorStoreTest, CopiesWhatIsLiveInTheOrderOfTheInput) {
  StartWriting();
  const TensorId c = Blob(c_offset_);
  const TensorId a = Blob(a_offset_);
  Blob(b_offset_);  // not live
  ASSERT_TRUE(Succeeds(store_.Finish({c, a}, pool_)));
  EXPECT_EQ(store_.OutputOffset(a), 64u);
  EXPECT_EQ(store_.OutputOffset(c), 192u);
  EXPECT_EQ(Written(a), "aaaa");
  EXPECT_EQ(Written(c), "cc");
  EXPECT_EQ(store_.OutputBytes(file_), fs::file_size(dir_ / "out0.bin"));
}

TEST_F(TensorStoreTest, AnUnchangedFileIsCopiedByteForByte) {
  StartWriting();
  ASSERT_TRUE(Succeeds(store_.Finish({Blob(a_offset_), Blob(b_offset_), Blob(c_offset_)}, pool_)));
  EXPECT_EQ(ReadFile(dir_ / "out0.bin"), ReadFile(dir_ / "in.bin"));
}

TEST_F(TensorStoreTest, PutsInlineAndReinterpretedTensorsIntoTheFile) {
  StartWriting();
  const TensorId small = store_.AddInline(DataType::kInt4, 3, FromHex("21 03"), file_);
  const TensorId bits = store_.Reinterpret(Blob(b_offset_), DataType::kUInt2, 16);
  ASSERT_TRUE(Succeeds(store_.Finish({small, bits}, pool_)));
  EXPECT_EQ(Written(small), FromHex("21 03"));
  EXPECT_EQ(Written(bits), "bbbb");
}

TEST_F(TensorStoreTest, StoresACopyOfAWrittenTensorOnce) {
  StartWriting();
  const TensorId made = Append(DataType::kInt8, 4, "aaaa");
  const TensorId a = Blob(a_offset_);
  ASSERT_TRUE(Succeeds(store_.Finish({made, a}, pool_)));
  EXPECT_EQ(store_.OutputOffset(made), store_.OutputOffset(a));
  EXPECT_EQ(fs::file_size(dir_ / "out0.bin"), 64u + 64 + 4);
}

TEST_F(TensorStoreTest, LeavesOutWhatNobodyNeedsAnyMore) {
  StartWriting();
  const TensorId first = Append(DataType::kUInt8, 1000, std::string(1000, '1'));
  const TensorId dead = Append(DataType::kUInt8, 1000, std::string(1000, '2'));
  const TensorId last = Append(DataType::kUInt8, 5, "third");
  const TensorId a = Blob(a_offset_);
  ASSERT_TRUE(Succeeds(store_.Finish({first, last, a}, pool_)));
  static_cast<void>(dead);
  EXPECT_EQ(Written(first), std::string(1000, '1'));
  EXPECT_EQ(Written(last), "third");
  EXPECT_EQ(Written(a), "aaaa");
  EXPECT_EQ(ReadFile(dir_ / "out0.bin").find('2'), std::string::npos);
  EXPECT_FALSE(fs::exists(dir_ / "out0.bin.compact"));
  // Views follow the tensor to its new place.
  EXPECT_EQ(Bytes(last), "third");
}

TEST_F(TensorStoreTest, AFileOfDeadTensorsOnlyIsEmpty) {
  StartWriting();
  Append(DataType::kUInt8, 5, "dead!");
  ASSERT_TRUE(Succeeds(store_.Finish({}, pool_)));
  EXPECT_EQ(fs::file_size(dir_ / "out0.bin"), 64u);
}

TEST_F(TensorStoreTest, WritesEachFileOnItsOwn) {
  StartWriting();
  const WeightsFile other = store_.AddFile("@model_path/weights/1.bin", "weights/1.bin");
  const TensorId here = Append(DataType::kInt8, 3, "xyz");
  const auto there = store_.Append(other, SourceOf(DataType::kInt8, 3, "xyz"), pool_);
  ASSERT_TRUE(Succeeds(there));
  EXPECT_NE(*there, here);
  ASSERT_TRUE(Succeeds(store_.Finish({here, *there}, pool_)));
  EXPECT_EQ(Written(here, "out0.bin"), "xyz");
  EXPECT_EQ(Written(*there, "out1.bin"), "xyz");
  EXPECT_EQ(store_.OutputHash(file_), store_.OutputHash(other));
}

TEST_F(TensorStoreTest, KeepsTheOffsetOfWhatIsMissing) {
  StartWriting();
  const WeightsFile gone = store_.AddFile("@model_path/weights/gone.bin", "weights/gone.bin");
  const TensorId id = store_.AddMissing(gone, 4096);
  ASSERT_TRUE(Succeeds(store_.Finish({id}, pool_)));
  EXPECT_EQ(store_.OutputOffset(id), 4096u);
  EXPECT_FALSE(store_.HasOutput(gone));
}

TEST_F(TensorStoreTest, HandsUpThatAFileCannotBeMade) {
  store_.StartWriting([&](WeightsFile) -> Result<fs::path> { return dir_ / "none" / "out.bin"; });
  EXPECT_TRUE(Fails(store_.Append(file_, SourceOf(DataType::kInt8, 1, "x"), pool_),
                    ErrorKind::kOutput, {"out.bin", "cannot create"}));
}

}  // namespace
}  // namespace cmlc
