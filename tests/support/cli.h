// Running the program as its users do.
#ifndef CMLC_TESTS_SUPPORT_CLI_H_
#define CMLC_TESTS_SUPPORT_CLI_H_

#include <string>
#include <string_view>
#include <vector>

#include "support/test_util.h"

namespace cmlc::test {

struct Outcome {
  int exit_code = -1;
  std::string out, err;
};

// Runs cmlc in `folder`. Seconds in the output become "T".
Outcome RunCmlc(const fs::path& folder, const std::vector<std::string>& arguments);

// Fails unless the run ended with this code and one line that says `fragment`.
void ExpectFails(const Outcome& outcome, int exit_code, std::string_view fragment);

}  // namespace cmlc::test

#endif  // CMLC_TESTS_SUPPORT_CLI_H_
