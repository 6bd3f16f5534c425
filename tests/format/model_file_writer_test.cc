// Writing .mlmodel files: a network comes out as it went in, and what is in the way is never
// harmed.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "cmlc/package.h"
#include "cmlc/pipeline.h"
#include "support/network_builder.h"
#include "support/package_builder.h"
#include "support/pass_run.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

// Opens and writes without any change.
Status Copy(const fs::path& input, const fs::path& output, const WriteOptions& options = {},
            int threads = 2) {
  CMLC_ASSIGN_OR_RETURN(const auto package, Package::Open(input));
  CMLC_ASSIGN_OR_RETURN(const auto writer, PackageWriter::Start(*package, output, options));
  ThreadPool pool(threads);
  return writer->Commit(pool);
}

class ModelFileWriter : public ::testing::Test {
 protected:
  ModelFileWriter() { SmallNetwork().Write(input_); }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir_.path()))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
  const std::string bytes_ = SmallNetwork().Model();
  const TempDir dir_;
  const fs::path input_ = dir_ / "in.mlmodel", out_ = dir_ / "out.mlmodel";
};

using Strings = std::vector<std::string>;

TEST_F(ModelFileWriter, WritesTheSameBytes) {
  for (const int threads : {1, 3}) {
    const auto package = Package::Open(input_);
    ASSERT_TRUE(Succeeds(package));
    EXPECT_EQ((*package)->size_bytes(), bytes_.size());
    const auto writer = PackageWriter::Start(**package, out_);
    ASSERT_TRUE(Succeeds(writer));
    ThreadPool pool(threads);
    ASSERT_TRUE(Succeeds((*writer)->Commit(pool)));
    EXPECT_EQ((*writer)->size_bytes(), bytes_.size());
    EXPECT_TRUE(ReadFile(out_) == bytes_);
    EXPECT_EQ(Names(), (Strings{"in.mlmodel", "out.mlmodel"}));
  }
}

TEST_F(ModelFileWriter, WantsTheNameOfAModelFile) {
  for (const char* name : {"out", "out.mlpackage", "out.mlmodel.bak", ".mlmodel"})
    EXPECT_TRUE(Fails(Copy(input_, dir_ / name), ErrorKind::kUsage, {"is named *.mlmodel"}))
        << name;
  EXPECT_EQ(Names(), Strings{"in.mlmodel"});
  const fs::path package = OneLinear(DataType::kFloat16, 8, 4).Write(dir_ / "in.mlpackage");
  EXPECT_TRUE(Fails(Copy(package, out_), ErrorKind::kUsage, {"is named *.mlpackage"}));
}

TEST_F(ModelFileWriter, TheInputItselfNeedsInPlace) {
  fs::create_symlink("in.mlmodel", dir_ / "link.mlmodel");
  fs::create_directory(dir_ / "folder");
  for (const fs::path& output : {input_, dir_ / "link.mlmodel", dir_ / "folder/../in.mlmodel"})
    EXPECT_TRUE(Fails(Copy(input_, output), ErrorKind::kUsage, {"is the input itself"})) << output;
  EXPECT_TRUE(Fails(Copy(dir_ / "link.mlmodel", input_), ErrorKind::kUsage, {"the input itself"}));
  EXPECT_TRUE(ReadFile(input_) == bytes_);
  EXPECT_TRUE(Succeeds(Copy(input_, input_, {.in_place = true})));
  EXPECT_TRUE(ReadFile(input_) == bytes_);
  // A pass over it: the old weights are read while the new ones are written.
  TestDiagnostics diagnostics;
  const PassSpec palettize = {"palettize", {{"nbits", "3"}, {"weight_threshold", "0"}}, {}};
  const PassRun beside(input_, palettize);
  ASSERT_TRUE(Succeeds(
      cmlc::Run(palettize, {.input = input_, .output = input_, .in_place = true}, diagnostics)));
  EXPECT_TRUE(ReadFile(input_) == ReadFile(beside.output()));
  EXPECT_EQ(Names(), (Strings{"folder", "in.mlmodel", "link.mlmodel"}));
}

TEST_F(ModelFileWriter, ReplacesAModelFileOnly) {
  NetworkBuilder().Write(out_);
  EXPECT_TRUE(Succeeds(Copy(input_, out_)));
  EXPECT_TRUE(ReadFile(out_) == bytes_);
  WriteFile(dir_ / "text.mlmodel", "precious");
  WriteFile(dir_ / "empty.mlmodel", "");
  WriteFile(dir_ / "folder.mlmodel/thesis.txt", "precious");
  OneLinear(DataType::kFloat16, 8, 4).Write(dir_ / "package.mlmodel");
  fs::create_symlink("nowhere", dir_ / "dangling.mlmodel");
  const auto before = ReadTree(dir_.path());
  for (const char* name : {"text.mlmodel", "empty.mlmodel", "folder.mlmodel", "package.mlmodel"})
    EXPECT_TRUE(Fails(Copy(input_, dir_ / name), ErrorKind::kUsage,
                      {"exists and is not an .mlmodel, so it is not replaced"}))
        << name;
  EXPECT_TRUE(Fails(Copy(input_, dir_ / "dangling.mlmodel"), ErrorKind::kUsage));
  EXPECT_TRUE(ReadTree(dir_.path()) == before);
}

// A link stays, and the file that it points to is replaced.
TEST_F(ModelFileWriter, FollowsALinkAtTheDestination) {
  NetworkBuilder().Write(out_);
  fs::create_symlink("out.mlmodel", dir_ / "link.mlmodel");
  EXPECT_TRUE(Succeeds(Copy(input_, dir_ / "link.mlmodel")));
  EXPECT_TRUE(fs::is_symlink(dir_ / "link.mlmodel"));
  EXPECT_TRUE(ReadFile(out_) == bytes_);
  EXPECT_EQ(Names(), (Strings{"in.mlmodel", "link.mlmodel", "out.mlmodel"}));
}

TEST_F(ModelFileWriter, AnMlProgramNeedsAPackage) {
  PackageBuilder program(7);
  program.Function("main").Const("only", Int32Value(1));
  program.Function("main").Output("only");
  WriteFile(dir_ / "program.mlmodel", program.Finished().SerializeAsString());
  EXPECT_TRUE(Fails(Copy(dir_ / "program.mlmodel", out_), ErrorKind::kBadInput,
                    {"program.mlmodel: is an .mlmodel file that holds an ML Program"}));
  WriteFile(dir_ / "pipeline.mlmodel",
            PipelineOf({SmallNetwork().Model(), program.Finished().SerializeAsString()}, 7));
  EXPECT_TRUE(
      Fails(Copy(dir_ / "pipeline.mlmodel", out_), ErrorKind::kBadInput, {"holds an ML Program"}));
  EXPECT_FALSE(fs::exists(out_));
}

// --- Failure ------------------------------------------------------------------------------------

TEST_F(ModelFileWriter, ReportsAFolderThatIsNotThere) {
  EXPECT_TRUE(Fails(Copy(input_, dir_ / "none" / "out.mlmodel"), ErrorKind::kOutput,
                    {"cannot make a folder here"}));
  EXPECT_EQ(Names(), Strings{"in.mlmodel"});
}

TEST_F(ModelFileWriter, LeavesNothingBehindWhenItIsAbandoned) {
  NetworkBuilder().Write(out_);
  const auto before = ReadTree(dir_.path());
  {
    const auto package = Package::Open(input_);
    ASSERT_TRUE(Succeeds(package));
    ASSERT_TRUE(Succeeds(PackageWriter::Start(**package, out_)));
  }
  EXPECT_TRUE(ReadTree(dir_.path()) == before);
}

TEST_F(ModelFileWriter, LeavesNothingBehindWhenATensorFails) {
  NetworkBuilder().Write(out_);
  const auto before = ReadTree(dir_.path());
  {
    const auto package = Package::Open(input_);
    ASSERT_TRUE(Succeeds(package));
    const auto writer = PackageWriter::Start(**package, out_);
    ASSERT_TRUE(Succeeds(writer));
    ThreadPool pool(2);
    const WeightsFile file = (*package)->DefaultWeightsFile(ModelFormat::kNetwork);
    const auto failed =
        (*package)->tensors().Append(file,
                                     {.dtype = DataType::kUInt8,
                                      .element_count = 3 * TensorSource::kChunkBytes,
                                      .fill = [](uint64_t begin, std::span<std::byte>) -> Status {
                                        if (begin == 0) return Ok();
                                        return Error{ErrorKind::kBadInput, "no more"};
                                      }},
                                     pool);
    EXPECT_TRUE(Fails(failed, ErrorKind::kBadInput, {"no more"}));
  }
  EXPECT_TRUE(ReadTree(dir_.path()) == before);
}

TEST_F(ModelFileWriter, LeavesNothingBehindWhenTheInputShrinks) {
  {
    const auto package = Package::Open(input_);
    ASSERT_TRUE(Succeeds(package));
    const auto writer = PackageWriter::Start(**package, out_);
    ASSERT_TRUE(Succeeds(writer));
    fs::resize_file(input_, 200);
    ThreadPool pool(1);
    EXPECT_TRUE(Fails((*writer)->Commit(pool), ErrorKind::kBadInput, {"in.mlmodel"}));
  }
  EXPECT_EQ(Names(), Strings{"in.mlmodel"});
}

TEST_F(ModelFileWriter, SomethingThatAppearsMeanwhileIsNotReplaced) {
  const auto package = Package::Open(input_);
  ASSERT_TRUE(Succeeds(package));
  {
    const auto writer = PackageWriter::Start(**package, out_);
    ASSERT_TRUE(Succeeds(writer));
    WriteFile(out_, "precious");
    ThreadPool pool(1);
    EXPECT_TRUE(Fails((*writer)->Commit(pool), ErrorKind::kOutput, {"cannot put the model"}));
  }
  EXPECT_EQ(ReadFile(out_), "precious");
  EXPECT_EQ(Names(), (Strings{"in.mlmodel", "out.mlmodel"}));
}

// --- Networks in packages -----------------------------------------------------------------------

// What the new weights lie in until the message is written goes away.
TEST_F(ModelFileWriter, APackageHasNoOtherFilesThanBefore) {
  PackageBuilder package(4);
  package.message().set_neuralnetwork(SmallNetwork().message());
  const fs::path input = package.Write(dir_ / "in.mlpackage");
  WriteFile(input / "Data/notes.txt", "keep");
  // Even if there is one of the name that they are given.
  const std::string codes = "Data/com.apple.CoreML/model.mlmodel.codes";
  WriteFile(input / codes, "somebody's");
  const std::pair<const char*, OptionValues> passes[] = {
      {"null", {}},
      {"palettize", {{"nbits", "4"}, {"weight_threshold", "0"}}},
      {"quantize", {{"dtype", "fp16"}}}};
  for (const auto& [pass, options] : passes) {
    const PassRun run(input, PassSpec{pass, options, {}});
    ASSERT_TRUE(run.ok()) << run.error();
    auto before = ReadTree(input), after = ReadTree(run.output());
    Strings names_before, names_after;
    for (const auto& [name, bytes] : before) names_before.push_back(name);
    for (const auto& [name, bytes] : after) names_after.push_back(name);
    EXPECT_EQ(names_after, names_before) << pass;
    EXPECT_EQ(after["Data/notes.txt"], "keep");
    EXPECT_EQ(after[codes], "somebody's");
    const std::string model = "Data/com.apple.CoreML/model.mlmodel";
    EXPECT_EQ(after[model].size() < before[model].size(), std::string_view(pass) != "null");
    EXPECT_EQ(run.after().Values("second.bias", "network").size(), 10u);
  }
}

}  // namespace
}  // namespace cmlc::test
