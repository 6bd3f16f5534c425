// What fuzzing asks of a package, whatever is in it: every step succeeds or fails with a proper
// message, the input stays as it was, and what is written can be read.
#ifndef CMLC_TESTS_SUPPORT_EXERCISE_H_
#define CMLC_TESTS_SUPPORT_EXERCISE_H_

#include <filesystem>
#include <string>

#include "cmlc/pipeline.h"

namespace cmlc::test {

struct Exercise {
  std::string broken;   // which promise was broken, and how; empty if none
  bool opened = false;  // how far it got
  bool inspected = false;
  bool written = false;
};

// Opens, inspects and palettizes the package at `input`, with the result at `output`, which is
// removed again. Or does something else to it than to palettize it.
Exercise ExercisePackage(const std::filesystem::path& input, const std::filesystem::path& output,
                         int threads);
Exercise ExercisePackage(const std::filesystem::path& input, const std::filesystem::path& output,
                         int threads, const PassSpec& spec);

}  // namespace cmlc::test

#endif  // CMLC_TESTS_SUPPORT_EXERCISE_H_
