#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>

#include "support/test_util.h"

namespace cmlc {
namespace {

using test::Fails;
using test::ReadFile;
using test::Succeeds;
using test::TempDir;
using test::WriteFile;

std::string TextOf(const FileWindow& window) {
  return {reinterpret_cast<const char*>(window.bytes().data()), window.bytes().size()};
}

TEST(File, MapsAnyRange) {
  const TempDir dir;
  std::string text;
  for (int i = 0; i < 20000; ++i) text.push_back(static_cast<char>('a' + i % 26));
  WriteFile(dir / "f", text);
  const Result<File> file = File::OpenForReading(dir / "f");
  ASSERT_TRUE(Succeeds(file));
  EXPECT_EQ(file->size(), text.size());
  for (const uint64_t begin : {0u, 1u, 4095u, 4096u, 4097u, 19999u, 20000u})
    for (const uint64_t size : {0u, 1u, 63u, 5000u}) {
      if (begin + size > text.size()) continue;
      const Result<FileWindow> window = file->Map(begin, size);
      ASSERT_TRUE(Succeeds(window));
      EXPECT_EQ(TextOf(*window), text.substr(begin, size));
    }
}

TEST(File, RefusesRangesOutsideOfIt) {
  const TempDir dir;
  WriteFile(dir / "f", "abc");
  const Result<File> file = File::OpenForReading(dir / "f");
  ASSERT_TRUE(Succeeds(file));
  EXPECT_TRUE(Fails(file->Map(0, 4), ErrorKind::kBadInput, {"outside of the file's 3 bytes"}));
  EXPECT_TRUE(Fails(file->Map(4, 0), ErrorKind::kBadInput));
  EXPECT_TRUE(Fails(file->Map(2, UINT64_MAX), ErrorKind::kBadInput));
  EXPECT_TRUE(Fails(file->Map(UINT64_MAX, 1), ErrorKind::kBadInput));
}

TEST(File, OpensRegularFilesOnly) {
  const TempDir dir;
  EXPECT_TRUE(Fails(File::OpenForReading(dir / "none"), ErrorKind::kBadInput, {"none"}));
  EXPECT_TRUE(Fails(File::OpenForReading(dir.path()), ErrorKind::kBadInput, {"not a regular"}));
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_TRUE(Fails(File::OpenForReading(dir / "pipe"), ErrorKind::kBadInput, {"not a regular"}));
}

TEST(File, WritesAtOffsetsAndReadsBack) {
  const TempDir dir;
  Result<File> file = File::Create(dir / "f");
  ASSERT_TRUE(Succeeds(file));
  ASSERT_TRUE(Succeeds(file->WriteAt(4, std::as_bytes(std::span("xyz", 3)))));
  const Result<FileWindow> window = file->Map(4, 3);
  ASSERT_TRUE(Succeeds(window));
  EXPECT_EQ(TextOf(*window), "xyz");
  ASSERT_TRUE(Succeeds(file->Resize(6)));
  ASSERT_TRUE(Succeeds(file->Sync()));
  EXPECT_EQ(ReadFile(dir / "f"), std::string("\0\0\0\0xy", 6));
}

TEST(File, CreatesNewFilesOnly) {
  const TempDir dir;
  WriteFile(dir / "f", "old");
  EXPECT_TRUE(Fails(File::Create(dir / "f"), ErrorKind::kOutput, {"cannot create"}));
  EXPECT_TRUE(Fails(File::Create(dir / "no" / "f"), ErrorKind::kOutput, {"cannot create"}));
  EXPECT_EQ(ReadFile(dir / "f"), "old");
}

TEST(ReadWholeFile, KeepsToItsLimit) {
  const TempDir dir;
  WriteFile(dir / "f", "0123456789");
  const Result<std::string> whole = ReadWholeFile(dir / "f", 10);
  ASSERT_TRUE(Succeeds(whole));
  EXPECT_EQ(*whole, "0123456789");
  EXPECT_TRUE(Fails(ReadWholeFile(dir / "f", 9), ErrorKind::kBadInput, {"has 10 bytes", "9"}));
}

TEST(ReadWholeFile, ReadsAnEmptyFile) {
  const TempDir dir;
  WriteFile(dir / "f", "");
  const Result<std::string> whole = ReadWholeFile(dir / "f", 10);
  ASSERT_TRUE(Succeeds(whole));
  EXPECT_EQ(*whole, "");
}

}  // namespace
}  // namespace cmlc
