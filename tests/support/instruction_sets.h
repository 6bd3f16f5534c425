// Tests of kernels, run once for every instruction set that this processor has and that code was
// generated for.
#ifndef CMLC_TESTS_SUPPORT_INSTRUCTION_SETS_H_
#define CMLC_TESTS_SUPPORT_INSTRUCTION_SETS_H_

#include <gtest/gtest.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <cstdint>
#include <string>

namespace cmlc::test {

class InstructionSets : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { Choose(GetParam()); }
  void TearDown() override { Choose(0); }

  // Of Highway's targets, those that kernels may use from now on; 0: all.
  static void Choose(int64_t targets) {
    hwy::SetSupportedTargetsForTest(targets);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

}  // namespace cmlc::test

// Which there are depends on the definitions that a file is compiled with.
#define CMLC_FOR_INSTRUCTION_SETS(suite)                               \
  INSTANTIATE_TEST_SUITE_P(                                            \
      , suite, testing::ValuesIn(hwy::SupportedAndGeneratedTargets()), \
      [](const auto& test) { return std::string(hwy::TargetName(test.param)); })

#endif  // CMLC_TESTS_SUPPORT_INSTRUCTION_SETS_H_
