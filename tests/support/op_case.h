// One operation with arguments and expected outputs, as JSON says it (tests/exec/vectors), and its
// run by the interpreter.
//
//   {"origin": "where the numbers come from",
//    "cases": [{"op": "clip", "name": "inside", "opset": 5,
//               "inputs": {"x": {"dtype": "fp32", "shape": [3], "values": [-1, 0.5, 7]},
//                          "alpha": 0.0, "beta": 1.0},
//               "outputs": [{"dtype": "fp32", "shape": [3], "values": [0, 0.5, 1]}],
//               "rtol": 1e-6, "atol": 1e-6, "fp16": true}]}
//
// A tensor is an input of the function, with "const": true a constant. A plain number, bool, text
// or flat list is a constant: whole numbers are int32, others fp32. A list of tensors is bound to
// one parameter. Values may be "nan", "inf" and "-inf". Unless "fp16" is false a case of fp32 runs
// a second time with fp16 in place of fp32 everywhere; its inputs should be numbers that fp16 has,
// so that the same outputs are expected, rounded. Instead of outputs there may be "error": part of
// the message that is expected.
#ifndef CMLC_TESTS_SUPPORT_OP_CASE_H_
#define CMLC_TESTS_SUPPORT_OP_CASE_H_

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace cmlc::test {

struct OpCase {
  std::string file;  // that it is from
  nlohmann::json json;

  std::string Name() const;  // for a test: letters, digits and '_'
};

// All cases of all files, in their order.
std::vector<OpCase> ReadOpCases(const std::filesystem::path& folder);

// Runs a case as it is, or with fp16 for fp32. Adds failures to the current test. `threads` as in
// RunOptions.
void CheckOpCase(const OpCase& one, bool as_fp16, int threads);

}  // namespace cmlc::test

#endif  // CMLC_TESTS_SUPPORT_OP_CASE_H_
