// Tiny packages for tests, built from the wire messages and the format's own rules alone: nothing
// here goes through the library's reader or writer, so a mistake in those cannot hide itself.
//
//   TempDir dir;
//   PackageBuilder package(/*spec_version=*/7);
//   BlockBuilder main = package.Function("main");
//   main.BlobConst("w", DataType::kFloat16, {8, 4}, Fp16Bytes(Gaussian(32, /*seed=*/1)));
//   main.Op("linear", "y", {{"x", "x"}, {"weight", "w"}}, TensorType(DataType::kFloat16, {1, 8}));
//   main.Output("y");
//   const fs::path path = package.Write(dir / "in.mlpackage");
#ifndef CMLC_TESTS_SUPPORT_PACKAGE_BUILDER_H_
#define CMLC_TESTS_SUPPORT_PACKAGE_BUILDER_H_

#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "cmlc/tensor.h"
#include "mil.pb.h"
#include "model.pb.h"
#include "support/test_util.h"

namespace cmlc::test {

// --- Types and values on the wire ---------------------------------------------------------------

constexpr int64_t kUnknownSize = -1;   // a symbolic dimension
constexpr int64_t kVariadicSize = -2;  // any number of them

wire::ValueType TensorType(DataType dtype, const Shape& shape);
wire::ValueType AnyRankType(DataType dtype);  // rank -1, no dimensions
wire::ValueType ListType(wire::ValueType element, int64_t length);
wire::ValueType TupleType(const std::vector<wire::ValueType>& elements);
wire::ValueType DictionaryType(wire::ValueType key, wire::ValueType value);
wire::ValueType StateType(wire::ValueType wrapped);

// Immediate tensors, one for each form of the format. The type is what is asked for, whether or not
// it suits the form.
wire::Value FloatsValue(const Shape& shape, const std::vector<float>& values);
wire::Value DoublesValue(const Shape& shape, const std::vector<double>& values);
wire::Value IntsValue(DataType dtype, const Shape& shape, const std::vector<int32_t>& values);
wire::Value LongIntsValue(DataType dtype, const Shape& shape, const std::vector<int64_t>& values);
wire::Value BoolsValue(const Shape& shape, const std::vector<bool>& values);
wire::Value StringsValue(const Shape& shape, const std::vector<std::string>& values);
wire::Value BytesValue(DataType dtype, const Shape& shape, std::string bytes);
// Scalars.
wire::Value StringValue(const std::string& text);
wire::Value Int32Value(int32_t number);
wire::Value BoolValue(bool flag);
// A vector of int32.
wire::Value Int32sValue(const std::vector<int32_t>& numbers);
// Collections. Their type is made from the first element's.
wire::Value ListValue(const std::vector<wire::Value>& elements);
wire::Value TupleValue(const std::vector<wire::Value>& elements);
wire::Value DictionaryValue(const std::vector<std::pair<wire::Value, wire::Value>>& pairs);
// A value in a weights file, by hand.
wire::Value BlobValueAt(DataType dtype, const Shape& shape, const std::string& file_name,
                        uint64_t offset);

// --- Weights files ------------------------------------------------------------------------------

// A weights file (version 2) in memory.
class BlobFileBuilder {
 public:
  BlobFileBuilder();
  // Appends a blob of packed bytes and gives the offset of its record. Nothing is checked and
  // nothing is stored once only, so broken files can be made too.
  uint64_t Add(DataType dtype, uint64_t element_count, const std::string& bytes);
  uint32_t count() const { return count_; }
  // To spoil it, too.
  std::string& bytes() { return bytes_; }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
  uint32_t count_ = 0;
};

// --- Programs -----------------------------------------------------------------------------------

// What is bound to one parameter: the name of a value, a literal, or several of either.
struct Input {
  using One = std::variant<std::string, wire::Value>;
  Input(const char* name) : bindings{std::string(name)} {}           // NOLINT: implicit
  Input(std::string name) : bindings{std::move(name)} {}             // NOLINT: implicit
  Input(wire::Value value) : bindings{std::move(value)} {}           // NOLINT: implicit
  Input(std::vector<One> several) : bindings(std::move(several)) {}  // NOLINT: implicit
  std::vector<One> bindings;
};
using Inputs = std::vector<std::pair<std::string, Input>>;
using Outputs = std::vector<std::pair<std::string, wire::ValueType>>;
using Attrs = std::vector<std::pair<std::string, wire::Value>>;

// Where a model's blobs go.
struct BuilderWeights {
  BlobFileBuilder file;
  std::string file_name = "weight.bin";  // in the folder of weights
};

// Adds to a block. A light handle: it may be copied, and lives no longer than its builder.
class BlockBuilder {
 public:
  BlockBuilder(wire::Block* block, std::shared_ptr<BuilderWeights> weights)
      : block_(block), weights_(std::move(weights)) {}

  wire::Block& block() { return *block_; }

  // A new blob, as a value. `bytes` are the packed elements.
  wire::Value Blob(DataType dtype, const Shape& shape, const std::string& bytes);

  // A const with any value, and one with a value in the weights file.
  wire::Operation& Const(const std::string& name, const wire::Value& value);
  wire::Operation& BlobConst(const std::string& name, DataType dtype, const Shape& shape,
                             const std::string& bytes);

  // Any operation. Its own name is that of its first output.
  wire::Operation& Op(const std::string& type, const Inputs& inputs, const Outputs& outputs,
                      const Attrs& attributes = {});
  // The same with one output.
  wire::Operation& Op(const std::string& type, const std::string& name, const Inputs& inputs,
                      const wire::ValueType& output, const Attrs& attributes = {});

  // A block inside an operation of this block.
  BlockBuilder Nested(wire::Operation& op);

  // An input of a nested block, and an output of any.
  void BlockInput(const std::string& name, const wire::ValueType& type);
  void Output(const std::string& name);

 private:
  wire::Block* block_;
  std::shared_ptr<BuilderWeights> weights_;
};

// One model: a program, or whatever else is put into message().
class ModelBuilder {
 public:
  explicit ModelBuilder(int32_t spec_version);

  wire::Model& message() { return message_; }
  wire::Program& program() { return *message_.mutable_mlprogram(); }
  // "CoreML6" for version 7, and so on.
  const std::string& opset() const { return opset_; }

  // The block of a function, which is made, with one specialization for the opset, when it is first
  // asked for.
  BlockBuilder Function(const std::string& name);
  void FunctionInput(const std::string& function, const std::string& name,
                     const wire::ValueType& type);

  // Inputs and outputs in the model's description, as arrays.
  void DescribeInput(const std::string& name, DataType dtype, const Shape& shape);
  void DescribeOutput(const std::string& name, DataType dtype);

  BuilderWeights& weights() { return *weights_; }

 private:
  wire::Model message_;
  std::string opset_;
  std::shared_ptr<BuilderWeights> weights_ = std::make_shared<BuilderWeights>();
};

// A package. Its own model is the ModelBuilder it is; a pipeline has members instead.
class PackageBuilder : public ModelBuilder {
 public:
  explicit PackageBuilder(int32_t spec_version = 7);

  // Makes the model a pipeline and adds a member, whose blobs go to "<index>-weight.bin".
  ModelBuilder& AddMember(int32_t spec_version, const std::string& name);

  // The manifest as it will be written; with both items from the start.
  nlohmann::json& manifest() { return manifest_; }
  // The two items in it.
  nlohmann::json& model_item();
  nlohmann::json& weights_item();
  void RemoveWeightsItem();
  // Replaces the manifest's text, whatever is in manifest().
  void SetManifestText(std::string text) { manifest_text_ = std::move(text); }

  // A file more, relative to the package.
  void ExtraFile(const std::string& relative, std::string bytes);

  // Makes the package; `path` must not exist yet. Its folder of weights is always there; a weights
  // file only with blobs in it. Gives the path back.
  std::filesystem::path Write(const std::filesystem::path& path);

  // What will lie in model.mlmodel.
  wire::Model Finished() const;

 private:
  std::deque<ModelBuilder> members_;
  std::vector<std::string> member_names_;
  nlohmann::json manifest_;
  std::optional<std::string> manifest_text_;
  std::map<std::string, std::string> extra_;
};

// --- Typical tiny models ------------------------------------------------------------------------
//
// One operation with one weight, a const named "weight" in the weights file, of Gaussian values.
// The operation and its output are called "y", the model's input "x".

// linear with weight [out, in].
PackageBuilder OneLinear(DataType dtype, int64_t out, int64_t in, int32_t spec_version = 7,
                         uint64_t seed = 1);
// conv with weight [out, in, k, k].
PackageBuilder OneConv(DataType dtype, int64_t out, int64_t in, int64_t k, int32_t spec_version = 7,
                       uint64_t seed = 1);
// conv_transpose with weight [in, out, k, k].
PackageBuilder OneConvTranspose(DataType dtype, int64_t out, int64_t in, int64_t k,
                                int32_t spec_version = 7, uint64_t seed = 1);
// matmul with weight y: [in, out], or [out, in] if transposed.
PackageBuilder OneMatmul(DataType dtype, int64_t out, int64_t in, bool transpose_y,
                         int32_t spec_version = 7, uint64_t seed = 1);
// matmul with weight x: [out, in], or [in, out] if transposed.
PackageBuilder OneMatmulX(DataType dtype, int64_t out, int64_t in, bool transpose_x,
                          int32_t spec_version = 7, uint64_t seed = 1);
// gather along axis 0 from a table [rows, columns].
PackageBuilder OneGather(DataType dtype, int64_t rows, int64_t columns, int32_t spec_version = 7,
                         uint64_t seed = 1);

// The bytes of `count` Gaussian values in fp16 or fp32.
std::string RandomWeights(DataType dtype, uint64_t count, uint64_t seed);

}  // namespace cmlc::test

#endif  // CMLC_TESTS_SUPPORT_PACKAGE_BUILDER_H_
