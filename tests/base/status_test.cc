#include "cmlc/status.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace cmlc {
namespace {

Result<int> Half(int number) {
  if (number % 2 != 0) return Error{ErrorKind::kUsage, "odd"};
  return number / 2;
}

Result<int> Quarter(int number) {
  CMLC_ASSIGN_OR_RETURN(const int half, Half(number));
  return Half(half);
}

Status Check(int number) {
  CMLC_RETURN_IF_ERROR(Quarter(number));
  return Ok();
}

TEST(Result, HandsUpValuesAndErrors) {
  EXPECT_EQ(*Quarter(12), 3);
  ASSERT_FALSE(Quarter(6).ok());
  EXPECT_EQ(Quarter(6).error().message, "odd");
  EXPECT_TRUE(Check(4).ok());
  EXPECT_EQ(Check(1).error().kind, ErrorKind::kUsage);
}

TEST(Result, HoldsWhatCanOnlyBeMoved) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(7);
  const std::unique_ptr<int> value = std::move(result).value();
  EXPECT_EQ(*value, 7);
}

TEST(Error, MessagesAreOneLineWhateverNamesTheyHold) {
  EXPECT_EQ((Error{ErrorKind::kBadInput, "op 'a\nb\x1b[31m': no"}).message,
            "op 'a\\x0ab\\x1b[31m': no");
  EXPECT_EQ((Error{ErrorKind::kBadInput, "caf\xC3\xA9"}).message, "caf\xC3\xA9");
}

TEST(ExitCode, TellsKindsApart) {
  EXPECT_EQ(ExitCode(ErrorKind::kInternal), 1);
  EXPECT_EQ(ExitCode(ErrorKind::kUsage), 2);
  EXPECT_EQ(ExitCode(ErrorKind::kBadInput), 3);
  EXPECT_EQ(ExitCode(ErrorKind::kOutput), 4);
  EXPECT_EQ(ExitCode(ErrorKind::kMissed), 5);
  EXPECT_EQ(ExitCode(ErrorKind::kStrict), 6);
}

}  // namespace
}  // namespace cmlc
