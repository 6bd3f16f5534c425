// A program of a few ops, built and run in a line or two.
#ifndef CMLC_TESTS_EXEC_RUN_PROGRAM_H_
#define CMLC_TESTS_EXEC_RUN_PROGRAM_H_

#include <cstring>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "cmlc/package.h"
#include "exec/executable.h"
#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc::test {

using Arguments = std::map<std::string, exec::Value>;

inline exec::Value Floats(const Shape& shape, const std::vector<float>& values,
                          DataType dtype = DataType::kFloat32) {
  static exec::Memory memory;
  Result<exec::Value> made = exec::MakeTensor(dtype, shape, memory);
  EXPECT_TRUE(Succeeds(made));
  const std::string halves = dtype == DataType::kFloat16 ? Fp16Bytes(values) : "";
  if (dtype == DataType::kFloat16)
    std::memcpy(made->storage->data(), halves.data(), halves.size());
  else if (!values.empty())
    std::memcpy(made->storage->data(), values.data(), values.size() * sizeof(float));
  return std::move(*made);
}

inline std::vector<float> ToFloats(const exec::Value& value) {
  std::vector<float> floats(static_cast<size_t>(value.element_count()));
  EXPECT_TRUE(Succeeds(exec::ReadFloats(value, 0, floats)));
  return floats;
}

// What a function with one input for each argument gives in `runs` runs, one after the other.
// `build` adds its ops and names its outputs.
inline std::vector<Result<std::vector<exec::Value>>> RunProgram(
    const std::function<void(BlockBuilder&)>& build, const Arguments& arguments, int threads = 1,
    const exec::ExecutionOptions& options = {}, int runs = 1) {
  PackageBuilder package(/*spec_version=*/8);
  BlockBuilder block = package.Function("main");
  for (const auto& [name, value] : arguments)
    package.FunctionInput("main", name, TensorType(value.dtype, value.shape));
  build(block);
  const TempDir folder;
  const auto opened = Package::Open(package.Write(folder / "op.mlpackage"));
  EXPECT_TRUE(Succeeds(opened));
  const auto executable = exec::Executable::Prepare(*(*opened)->model().program, "main",
                                                    (*opened)->tensors(), "op.mlpackage");
  EXPECT_TRUE(Succeeds(executable));
  std::vector<Result<std::vector<exec::Value>>> results;
  if (!executable.ok()) return {executable.error()};
  ThreadPool pool(threads);
  exec::Runner runner(**executable, pool, options);
  for (int run = 0; run < runs; ++run) results.push_back(runner.Run(arguments));
  return results;
}

}  // namespace cmlc::test

#endif  // CMLC_TESTS_EXEC_RUN_PROGRAM_H_
