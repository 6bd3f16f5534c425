// Opening packages.
#include "cmlc/package.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

#include "support/model_compare.h"
#include "support/network_builder.h"
#include "support/package_builder.h"
#include "support/sample_models.h"
#include "support/test_util.h"

namespace cmlc {
namespace {

namespace fs = std::filesystem;
using test::BlobValueAt;
using test::Fails;
using test::OneLinear;
using test::PackageBuilder;
using test::ReadFile;
using test::Succeeds;
using test::TempDir;
using test::WriteFile;

const Operation& FirstOp(const Package& package) {
  return ActiveBlock(package.model().program->functions.at("main"))->operations.at(0);
}

TEST(Package, OpensAProgramWithItsWeights) {
  const TempDir dir;
  const auto package =
      Package::Open(OneLinear(DataType::kFloat16, 8, 4).Write(dir / "a.mlpackage"));
  ASSERT_TRUE(Succeeds(package));
  const Model& model = (*package)->model();
  EXPECT_EQ(model.kind, "mlProgram");
  EXPECT_EQ(model.specification_version, 7);
  const Value& value = FirstOp(**package).attributes.at("val");
  EXPECT_EQ(ToString(value.type), "fp16 [8, 4]");
  const TensorInfo& info = (*package)->tensors().info(std::get<TensorId>(value.content));
  EXPECT_EQ(info.dtype, DataType::kFloat16);
  EXPECT_EQ(info.element_count, 32u);
  uint64_t size = 0;
  for (const auto& entry : fs::recursive_directory_iterator(dir / "a.mlpackage"))
    if (entry.is_regular_file()) size += entry.file_size();
  EXPECT_EQ((*package)->size_bytes(), size);
}

TEST(Package, TakesATrailingSlash) {
  const TempDir dir;
  const std::string path = OneLinear(DataType::kFloat16, 8, 4).Write(dir / "a.mlpackage").string();
  const auto package = Package::Open(path + "/");
  ASSERT_TRUE(Succeeds(package));
  EXPECT_EQ((*package)->path(), path);
}

TEST(Package, SharesOneTensorBetweenFunctions) {
  const TempDir dir;
  const auto package = Package::Open(test::TwoFunctions().Write(dir / "a.mlpackage"));
  ASSERT_TRUE(Succeeds(package));
  const auto& functions = (*package)->model().program->functions;
  const auto id = [&](const char* name) {
    return std::get<TensorId>(
        ActiveBlock(functions.at(name))->operations[0].attributes.at("val").content);
  };
  EXPECT_EQ(id("first"), id("second"));
}

TEST(Package, OpensPipelinesMemberByMember) {
  const TempDir dir;
  const auto package = Package::Open(test::SmallPipeline().Write(dir / "a.mlpackage"));
  ASSERT_TRUE(Succeeds(package));
  const Model& model = (*package)->model();
  ASSERT_EQ(model.members.size(), 3u);
  EXPECT_EQ(model.members[1].kind, "neuralNetwork");
  EXPECT_EQ(model.member_names, (std::vector<std::string>{"first", "between", "last"}));
  // Two weights files, and the message as the place of the network's.
  EXPECT_EQ((*package)->tensors().files().size(), 3u);
  ASSERT_TRUE(model.members[1].network.has_value());
  EXPECT_EQ(model.members[1].network->block.operations.size(), 6u);
}

TEST(Package, DescribesTheInterface) {
  const TempDir dir;
  const auto package = Package::Open(test::OneOfEverything().Write(dir / "a.mlpackage"));
  ASSERT_TRUE(Succeeds(package));
  const Model& model = (*package)->model();
  EXPECT_EQ(model.default_function, "main");
  ASSERT_EQ(model.functions.size(), 1u);
  EXPECT_EQ(model.functions[0].inputs[0].name, "image");
  EXPECT_EQ(model.functions[0].inputs[0].type, "image 64x0 of unknown colours, optional");
  EXPECT_EQ(model.functions[0].outputs[0].type, "fp64");
}

// --- Not a package ------------------------------------------------------------------------------

TEST(Package, ReportsWhatIsNoPackage) {
  const TempDir dir;
  EXPECT_TRUE(Fails(Package::Open(dir / "none.mlpackage"), ErrorKind::kBadInput,
                    {"none.mlpackage: no such file or folder"}));
  EXPECT_TRUE(Fails(Package::Open(""), ErrorKind::kBadInput));
  EXPECT_TRUE(Fails(Package::Open(dir.path()), ErrorKind::kBadInput,
                    {"is a folder without a Manifest.json"}));
  EXPECT_TRUE(Fails(Package::Open("/dev/null"), ErrorKind::kBadInput, {"expected an .mlpackage"}));
  WriteFile(dir / "text.mlmodel", "some text");
  EXPECT_TRUE(Fails(Package::Open(dir / "text.mlmodel"), ErrorKind::kBadInput,
                    {"text.mlmodel: is not a valid model message"}));
}

TEST(Package, OpensASingleFileToLookAt) {
  const TempDir dir;
  wire::Model model;
  model.set_specificationversion(4);
  model.set_neuralnetwork(test::NetworkBuilder().message());
  WriteFile(dir / "a.mlmodel", model.SerializeAsString());
  const auto package = Package::Open(dir / "a.mlmodel");
  ASSERT_TRUE(Succeeds(package));
  EXPECT_EQ((*package)->model().kind, "neuralNetwork");
  EXPECT_TRUE(Fails(PackageWriter::Start(**package, dir / "b.mlpackage"), ErrorKind::kUsage,
                    {"its output is named *.mlmodel"}));
}

TEST(Package, ReportsASingleFileThatLacksItsWeights) {
  const TempDir dir;
  WriteFile(dir / "a.mlmodel", OneLinear(DataType::kFloat16, 8, 4).Finished().SerializeAsString());
  EXPECT_TRUE(Fails(Package::Open(dir / "a.mlmodel"), ErrorKind::kBadInput,
                    {"a.mlmodel", "needs its .mlpackage folder"}));
}

TEST(Package, ReportsAnEmptyModelFile) {
  const TempDir dir;
  const fs::path path = OneLinear(DataType::kFloat16, 8, 4).Write(dir / "a.mlpackage");
  WriteFile(test::ModelFile(path), "");
  EXPECT_TRUE(Fails(Package::Open(path), ErrorKind::kBadInput, {"model.mlmodel"}));
}

TEST(Package, ReportsAModelItemThatIsAFolder) {
  const TempDir dir;
  PackageBuilder builder(7);
  const fs::path path = builder.Write(dir / "a.mlpackage");
  fs::remove(test::ModelFile(path));
  fs::create_directory(test::ModelFile(path));
  EXPECT_TRUE(Fails(Package::Open(path), ErrorKind::kBadInput, {"is not a regular file"}));
}

// --- Weights files ------------------------------------------------------------------------------

// A package whose one constant says that it lies in `file_name`.
class WeightsName : public ::testing::Test {
 protected:
  fs::path WriteWithName(const std::string& file_name, DataType dtype = DataType::kFloat16,
                         const Shape& shape = {8, 4}, uint64_t offset = 64) {
    PackageBuilder package = OneLinear(DataType::kFloat16, 8, 4);
    package.Function("main").block().mutable_operations(0)->mutable_attributes()->at("val") =
        BlobValueAt(dtype, shape, file_name, offset);
    return package.Write(dir_ / "a.mlpackage");
  }
  ::testing::AssertionResult NameFails(const std::string& file_name,
                                       std::initializer_list<std::string_view> fragments) {
    return Fails(Package::Open(WriteWithName(file_name)), ErrorKind::kBadInput, fragments);
  }
  TempDir dir_;
  const std::string name_ = "@model_path/weights/weight.bin";
};

TEST_F(WeightsName, IsRelativeToTheModel) {
  EXPECT_TRUE(Succeeds(Package::Open(WriteWithName(name_))));
}

TEST_F(WeightsName, MayBeInTheFolderOfWeights) {
  // Apple's reader goes by the last part of the name.
  EXPECT_TRUE(Succeeds(Package::Open(WriteWithName("@model_path/elsewhere/weight.bin"))));
}

TEST_F(WeightsName, MayNotClimbOut) {
  WriteFile(dir_ / "x", "secret");
  EXPECT_TRUE(
      NameFails("@model_path/../../../../x", {"op 'weight'", "leaves the package by '..'"}));
}

TEST_F(WeightsName, MayNotBeAbsolute) {
  EXPECT_TRUE(NameFails("/etc/passwd", {"'/etc/passwd' does not start with '@model_path/'"}));
}

TEST_F(WeightsName, MayNotBecomeAbsolute) {
  EXPECT_TRUE(NameFails("@model_path//etc/passwd", {"op 'weight'", "/etc/passwd"}));
}

TEST_F(WeightsName, NeedsItsPrefix) {
  EXPECT_TRUE(NameFails("weights/weight.bin", {"does not start with '@model_path/'"}));
}

TEST_F(WeightsName, MayNotBeEmpty) { EXPECT_TRUE(NameFails("", {"does not start with"})); }

TEST_F(WeightsName, MayNotBeAFolder) {
  EXPECT_TRUE(NameFails("@model_path/", {"is not a regular file"}));
}

TEST_F(WeightsName, MayNotLeaveByALink) {
  const fs::path path = WriteWithName("@model_path/weights/link.bin");
  fs::rename(path / "Data/com.apple.CoreML/weights/weight.bin", dir_ / "outside.bin");
  fs::create_symlink(dir_ / "outside.bin", path / "Data/com.apple.CoreML/weights/link.bin");
  EXPECT_TRUE(
      Fails(Package::Open(path), ErrorKind::kBadInput, {"leaves the package by a symbolic link"}));
}

TEST_F(WeightsName, ReportsAMissingFile) {
  EXPECT_TRUE(NameFails("@model_path/weights/gone.bin", {"gone.bin: is missing", "model.mlmodel"}));
}

TEST_F(WeightsName, ToleratesAMissingFileIfAsked) {
  const auto package =
      Package::Open(WriteWithName("@model_path/weights/gone.bin"), {.allow_missing_weights = true});
  ASSERT_TRUE(Succeeds(package));
  const auto id = std::get<TensorId>(FirstOp(**package).attributes.at("val").content);
  EXPECT_TRUE((*package)->tensors().info(id).missing);
  EXPECT_EQ((*package)->tensors().FileName((*package)->tensors().info(id).file),
            "@model_path/weights/gone.bin");
}

TEST_F(WeightsName, ReportsAFileThatHoldsSomethingElse) {
  EXPECT_TRUE(NameFails("@model_path/model.mlmodel", {"model.mlmodel: weights file version"}));
}

TEST_F(WeightsName, ReportsAnotherTypeThanTheValues) {
  EXPECT_TRUE(Fails(Package::Open(WriteWithName(name_, DataType::kFloat32)), ErrorKind::kBadInput,
                    {"op 'weight': blob at offset 64", "holds fp16, its value has type fp32"}));
}

TEST_F(WeightsName, ReportsAnotherNumberOfElements) {
  EXPECT_TRUE(Fails(Package::Open(WriteWithName(name_, DataType::kFloat16, {8, 5})),
                    ErrorKind::kBadInput,
                    {"holds 32 elements, its value of type fp16 [8, 5] needs 40"}));
}

TEST_F(WeightsName, ReportsAShapeThatOverflows) {
  EXPECT_TRUE(Fails(Package::Open(WriteWithName(name_, DataType::kFloat16, {INT64_MAX, INT64_MAX})),
                    ErrorKind::kBadInput, {"shape overflows"}));
}

TEST_F(WeightsName, ReportsAnOffsetThatIsNoRecord) {
  for (const uint64_t offset : {uint64_t{0}, uint64_t{65}, uint64_t{128}, UINT64_MAX}) {
    const TempDir dir;
    PackageBuilder package = OneLinear(DataType::kFloat16, 8, 4);
    package.Function("main").block().mutable_operations(0)->mutable_attributes()->at("val") =
        BlobValueAt(DataType::kFloat16, {8, 4}, name_, offset);
    EXPECT_TRUE(Fails(Package::Open(package.Write(dir / "a.mlpackage")), ErrorKind::kBadInput,
                      {"weight.bin", fmt::format("blob at offset {}", offset)}));
  }
}

TEST_F(WeightsName, ReportsATruncatedFile) {
  const fs::path path = WriteWithName(name_);
  const fs::path weights = path / "Data/com.apple.CoreML/weights/weight.bin";
  const std::string whole = ReadFile(weights);
  for (size_t size = 0; size < whole.size(); ++size) {
    fs::resize_file(weights, size);
    ASSERT_TRUE(Fails(Package::Open(path), ErrorKind::kBadInput, {"weight.bin"})) << size;
    WriteFile(weights, whole);
  }
  EXPECT_TRUE(Succeeds(Package::Open(path)));
}

}  // namespace
}  // namespace cmlc
