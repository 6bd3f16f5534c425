#include "support/cli.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <regex>

namespace cmlc::test {
namespace {

std::string Quoted(const std::string& text) { return "'" + text + "'"; }

}  // namespace

Outcome RunCmlc(const fs::path& folder, const std::vector<std::string>& arguments) {
  const TempDir captured;
  std::string command = "cd " + Quoted(folder) + " && " + Quoted(CMLC_BINARY);
  for (const std::string& argument : arguments) command += " " + Quoted(argument);
  command += " >" + Quoted(captured / "out") + " 2>" + Quoted(captured / "err");
  const int status = std::system(command.c_str());
  Outcome outcome;
  if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
  outcome.out =
      std::regex_replace(ReadFile(captured / "out"), std::regex(R"(\d+\.\d+ s\n)"), "T\n");
  outcome.err = ReadFile(captured / "err");
  return outcome;
}

void ExpectFails(const Outcome& outcome, int exit_code, std::string_view fragment) {
  EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
  EXPECT_TRUE(outcome.err.starts_with("error: ")) << outcome.err;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  EXPECT_NE(outcome.err.find(fragment), std::string::npos) << outcome.err;
}

}  // namespace cmlc::test
