// Every operation against numbers that an independent implementation gave, or that were published:
// tests/exec/vectors, made by the scripts there.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "exec/op.h"
#include "support/op_case.h"

namespace cmlc::test {
namespace {

const std::vector<OpCase>& Cases() {
  static const std::vector<OpCase> cases =
      ReadOpCases(std::filesystem::path(CMLC_SOURCE_DIR) / "tests/exec/vectors");
  return cases;
}

class OpVectors : public ::testing::TestWithParam<std::string> {};

// One test for each op and file: single cases are too many to be processes of their own.
TEST_P(OpVectors, Match) {
  for (const OpCase& one : Cases()) {
    if (one.file + "_" + one.json.at("op").get<std::string>() != GetParam()) continue;
    SCOPED_TRACE(one.Name());
    CheckOpCase(one, /*as_fp16=*/false, /*threads=*/1);
    CheckOpCase(one, /*as_fp16=*/false, /*threads=*/3);
    if (one.json.value("fp16", true)) CheckOpCase(one, /*as_fp16=*/true, /*threads=*/2);
  }
}

std::vector<std::string> Names() {
  std::set<std::string> names;
  for (const OpCase& one : Cases())
    names.insert(one.file + "_" + one.json.at("op").get<std::string>());
  return {names.begin(), names.end()};
}

INSTANTIATE_TEST_SUITE_P(All, OpVectors, ::testing::ValuesIn(Names()),
                         [](const auto& one) { return one.param; });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OpVectors);

// The state of every op, for the log.
TEST(OpTable, SaysTheStateOfEveryOp) {
  std::map<std::string, int> vectors;
  for (const OpCase& one : Cases()) ++vectors[one.json.at("op").get<std::string>()];
  size_t run = 0, refused = 0;
  for (const exec::OpInfo& info : exec::AllOps()) {
    std::string state = info.structural          ? "part of preparing a program"
                        : info.kernel != nullptr ? "run"
                                                 : "refused: " + std::string(info.refusal);
    if (const int count = vectors[std::string(info.type)]; count != 0)
      state += ", " + std::to_string(count) + " vectors";
    std::printf("%-40s CoreML%d  %s\n", std::string(info.type).c_str(), info.opset, state.c_str());
    ++(info.structural || info.kernel != nullptr ? run : refused);
    EXPECT_TRUE(info.structural || (info.kernel != nullptr) == info.refusal.empty());
  }
  std::printf("%zu ops are run, %zu are refused\n", run, refused);
}

}  // namespace
}  // namespace cmlc::test
