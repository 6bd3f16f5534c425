// Running a pass on a tiny package and looking at what came out.
//
//   const PassRun run(OneLinear(DataType::kFloat16, 8, 512), Palettize({{"nbits", "4"}}));
//   ASSERT_TRUE(run.ok()) << run.error();
//   EXPECT_EQ(run.after().Print("weight"), "constexpr_lut_to_dense[indices: ...] -> fp16 [8,
//   512]");
#ifndef CMLC_TESTS_SUPPORT_PASS_RUN_H_
#define CMLC_TESTS_SUPPORT_PASS_RUN_H_

#include <memory>
#include <string>
#include <vector>

#include "cmlc/package.h"
#include "cmlc/pipeline.h"
#include "ir/graph_index.h"
#include "ir/weights.h"
#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc::test {

// An opened package. Programs are called as in reports: "main", "1:main" in a pipeline; networks
// are "network", "1:network".
class Opened {
 public:
  explicit Opened(const fs::path& path);

  Package& package() const { return *package_; }
  Model& model() const { return package_->model(); }

  // The operation with an output of this name, nested ones included; null if there is none.
  const Operation* Find(const std::string& name, const std::string& program = "main") const;

  // "type(inputs)[attributes] -> outputs" with the type of every literal and where it lies, in the
  // weights file or in the model message ("spec"). The attribute "name" is left out.
  std::string Print(const std::string& name, const std::string& program = "main") const;

  // "type name" of all operations of a program in order, those of nested blocks after their op's.
  std::vector<std::string> Ops(const std::string& program = "main") const;

  // The values of a const or constexpr, decoded.
  std::vector<float> Values(const std::string& name, const std::string& program = "main") const;

  // A literal operand: an attribute or an input.
  const Value& Operand(const std::string& name, const std::string& operand,
                       const std::string& program = "main") const;
  // Its packed bytes, its elements of `bits` bits (unpacked one bit at a time), its floats.
  std::string Bytes(const Value& value) const;
  std::vector<int> Codes(const Value& value, uint64_t count, int bits) const;
  std::vector<float> Floats(const Value& value) const;
  // The tensor it lies in; fails if it is an immediate value.
  TensorId Tensor(const Value& value) const;

 private:
  struct Part {
    ProgramBlock block;
    std::unique_ptr<GraphIndex> index;
  };
  const Definition* Define(const std::string& name, const std::string& program) const;
  void AddParts(Model& model, const std::string& prefix);

  std::unique_ptr<Package> package_;
  std::vector<Part> parts_;
};

// The bytes of an .mlmodel file.
struct ModelBytes {
  std::string bytes;
};

// A run, in a folder of its own.
class PassRun {
 public:
  // `options.input` and `.output` are filled in.
  PassRun(PackageBuilder package, const PassSpec& spec, RunOptions options = {});
  PassRun(const ModelBytes& model, const PassSpec& spec, RunOptions options = {});
  PassRun(const fs::path& input, const PassSpec& spec, RunOptions options = {});

  bool ok() const { return result_.ok(); }
  std::string error() const { return ok() ? "" : result_.error().message; }
  const Result<RunReport>& result() const { return result_; }
  const RunReport& report() const { return *result_; }
  const TestDiagnostics& diagnostics() const { return diagnostics_; }

  // The first report on a weight of this name.
  const WeightReport& weight(const std::string& name = "weight",
                             const std::string& program = "main") const;
  bool lists(const std::string& name, const std::string& program = "main") const;

  const fs::path& input() const { return options_.input; }
  const fs::path& output() const { return options_.output; }
  const Opened& before() const;
  const Opened& after() const;

  // Whether nothing but the input is in the folder.
  bool wrote_nothing() const;

 private:
  TempDir dir_;
  RunOptions options_;
  TestDiagnostics diagnostics_;
  Result<RunReport> result_;
  mutable std::unique_ptr<Opened> before_, after_;
};

PassSpec Palettize(OptionValues options, std::vector<Rule> rules = {});
PassSpec Decompress(OptionValues options = {}, std::vector<Rule> rules = {});
PassSpec NullPass(OptionValues options = {}, std::vector<Rule> rules = {});

Rule ByName(std::string pattern, OptionValues options);
Rule ByType(std::string pattern, OptionValues options);
Rule LeaveName(std::string pattern);
Rule LeaveType(std::string pattern);

// Whether a weight was left with this in its reason.
::testing::AssertionResult Left(const PassRun& run, const std::string& weight,
                                std::string_view reason, const std::string& program = "main");
::testing::AssertionResult IsDone(const PassRun& run, const std::string& weight = "weight",
                                  const std::string& program = "main");

// What the report says of the error agrees with the values in the package.
::testing::AssertionResult QualityAgrees(const PassRun& run, const std::string& weight = "weight",
                                         const std::string& program = "main");

// Whether the model and the weights of two packages are the same to the byte; and with `manifest`
// all of their files.
::testing::AssertionResult SamePackage(const fs::path& a, const fs::path& b, bool manifest = true);

// Adds a linear `name` that reads `weight` of shape [out, in] and "x".
void AddLinear(BlockBuilder& block, const std::string& name, const std::string& weight,
               DataType dtype, const Shape& shape);

// A package with one function that reads, with a linear each, weights of these bytes; the weights
// are called "w0", "w1", ..., the linears "y0", ...
PackageBuilder Linears(DataType dtype, const Shape& shape, const std::vector<std::string>& weights,
                       int32_t spec_version = 7);
// The same with one linear "y" and its weight "weight".
PackageBuilder LinearOf(DataType dtype, const Shape& shape, const std::vector<float>& values,
                        int32_t spec_version = 7);

// Sum of squares of differences, and of values.
double SquaredDistance(const std::vector<float>& a, const std::vector<float>& b);
double SumOfSquares(const std::vector<float>& values);

}  // namespace cmlc::test

#endif  // CMLC_TESTS_SUPPORT_PASS_RUN_H_
