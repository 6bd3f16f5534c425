// Writing packages: what comes out equals what went in, and what is in the way is never harmed.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "cmlc/package.h"
#include "support/model_compare.h"
#include "support/package_builder.h"
#include "support/sample_models.h"
#include "support/test_util.h"

namespace cmlc {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::Fails;
using test::OneLinear;
using test::PackageBuilder;
using test::ReadFile;
using test::ReadTree;
using test::SamePackageContents;
using test::Succeeds;
using test::TempDir;
using test::WriteFile;

// Opens and writes without any change.
Status Copy(const fs::path& input, const fs::path& output, const WriteOptions& options = {},
            int threads = 2) {
  CMLC_ASSIGN_OR_RETURN(const auto package, Package::Open(input));
  CMLC_ASSIGN_OR_RETURN(const auto writer, PackageWriter::Start(*package, output, options));
  ThreadPool pool(threads);
  return writer->Commit(pool);
}

class PackageWriterTest : public ::testing::Test {
 protected:
  fs::path Input(PackageBuilder package = OneLinear(DataType::kFloat16, 8, 4)) {
    return package.Write(dir_ / "in.mlpackage");
  }
  // What lies in the folder of the test.
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir_.path()))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
  TempDir dir_;
  fs::path out_ = dir_ / "out.mlpackage";
};

// --- Identity -----------------------------------------------------------------------------------

TEST_F(PackageWriterTest, KeepsOneOfEverything) {
  const fs::path input = Input(test::OneOfEverything());
  ASSERT_TRUE(Succeeds(Copy(input, out_)));
  EXPECT_TRUE(SamePackageContents(input, out_));
  EXPECT_EQ(Names(), (std::vector<std::string>{"in.mlpackage", "out.mlpackage"}));
}

TEST_F(PackageWriterTest, KeepsPipelinesAndFunctionsAndNestedBlocks) {
  int number = 0;
  for (PackageBuilder package :
       {test::SmallPipeline(), test::TwoFunctions(), test::NestedBlocks()}) {
    const fs::path input = package.Write(dir_ / fmt::format("in{}.mlpackage", number));
    const fs::path output = dir_ / fmt::format("out{}.mlpackage", number++);
    ASSERT_TRUE(Succeeds(Copy(input, output)));
    EXPECT_TRUE(SamePackageContents(input, output));
    // Nothing to gain and nothing to lose: the weights files are the same to the byte.
    for (const auto& [name, bytes] : ReadTree(input))
      if (name.ends_with(".bin")) {
        EXPECT_TRUE(ReadFile(output / name) == bytes) << name;
      }
  }
}

TEST_F(PackageWriterTest, KeepsRealModels) {
  if (test::RealModels().empty()) GTEST_SKIP() << "no models beside the source";
  for (const fs::path& input : test::RealModels()) {
    const fs::path output = dir_ / (input.parent_path().filename().string() + ".mlpackage");
    ASSERT_TRUE(Succeeds(Copy(input, output))) << input;
    EXPECT_TRUE(SamePackageContents(input, output)) << input;
  }
}

TEST_F(PackageWriterTest, WritesTheSameBytesAgain) {
  const fs::path input = Input(test::OneOfEverything());
  ASSERT_TRUE(Succeeds(Copy(input, out_, {}, 1)));
  const auto first = ReadTree(out_);
  for (const int threads : {2, 5}) {
    const fs::path again = dir_ / fmt::format("again{}.mlpackage", threads);
    ASSERT_TRUE(Succeeds(Copy(input, again, {}, threads)));
    EXPECT_TRUE(ReadTree(again) == first);
  }
  // A copy of the copy, too: identifiers depend on what is in the package alone.
  ASSERT_TRUE(Succeeds(Copy(out_, dir_ / "copy.mlpackage")));
  EXPECT_TRUE(ReadTree(dir_ / "copy.mlpackage") == first);
}

TEST_F(PackageWriterTest, StoresEqualBlobsOnce) {
  PackageBuilder package(7);
  const std::string bytes = test::RandomWeights(DataType::kFloat16, 1000, 1);
  package.Function("main").BlobConst("a", DataType::kFloat16, {1000}, bytes);
  package.Function("main").BlobConst("b", DataType::kFloat16, {10, 100}, bytes);
  const fs::path input = Input(std::move(package));
  ASSERT_TRUE(Succeeds(Copy(input, out_)));
  EXPECT_TRUE(SamePackageContents(input, out_));
  EXPECT_EQ(fs::file_size(out_ / "Data/com.apple.CoreML/weights/weight.bin"), 64u + 64 + 2000);
}

// Five bits and eight bits that are the same byte are different weights.
TEST_F(PackageWriterTest, KeepsBlobsApartThatDifferInPaddingOnly) {
  PackageBuilder package(9);
  package.Function("main").BlobConst("a", DataType::kUInt1, {5}, "\x15");
  package.Function("main").BlobConst("b", DataType::kUInt1, {8}, "\x15");
  const fs::path input = Input(std::move(package));
  ASSERT_TRUE(Succeeds(Copy(input, out_)));
  EXPECT_TRUE(Succeeds(Package::Open(out_)));
  EXPECT_TRUE(SamePackageContents(input, out_));
}

TEST_F(PackageWriterTest, DropsBlobsThatNothingNames) {
  PackageBuilder package = OneLinear(DataType::kFloat16, 8, 4);
  package.weights().file.Add(DataType::kInt8, 5000, std::string(5000, 'x'));
  const fs::path input = Input(std::move(package));
  ASSERT_TRUE(Succeeds(Copy(input, out_)));
  EXPECT_TRUE(SamePackageContents(input, out_));
  EXPECT_EQ(fs::file_size(out_ / "Data/com.apple.CoreML/weights/weight.bin"), 128u + 64);
}

TEST_F(PackageWriterTest, TakesDifferentNamesForOneWeightsFile) {
  PackageBuilder package = OneLinear(DataType::kFloat16, 8, 4);
  package.Function("main").Const(
      "again",
      test::BlobValueAt(DataType::kFloat16, {8, 4}, "@model_path/weights/./weight.bin", 64));
  package.Function("main").Const(
      "elsewhere",
      test::BlobValueAt(DataType::kFloat16, {8, 4}, "@model_path/other/weight.bin", 64));
  ASSERT_TRUE(Succeeds(Copy(Input(std::move(package)), out_)));
  EXPECT_TRUE(Succeeds(Package::Open(out_)));
}

// --- The rest of the package --------------------------------------------------------------------

TEST_F(PackageWriterTest, KeepsFilesAndItemsThatAreNotOurs) {
  PackageBuilder package = OneLinear(DataType::kFloat16, 8, 4);
  package.manifest()["itemInfoEntries"]["other"] = {
      {"author", "me"}, {"description", "notes"}, {"name", "notes"}, {"path", "me/notes.txt"}};
  package.manifest()["unknown"] = "kept";
  package.ExtraFile("Data/me/notes.txt", "hello");
  package.ExtraFile("executorch_debug_handle_mapping.json", "{}");
  package.ExtraFile("Data/com.apple.CoreML/weights/unrelated.bin", "xyz");
  const fs::path input = Input(std::move(package));
  fs::create_directory(input / "empty");
  fs::create_symlink("me/notes.txt", input / "Data/link");
  ASSERT_TRUE(Succeeds(Copy(input, out_)));

  auto before = ReadTree(input);
  auto after = ReadTree(out_);
  const json manifest = json::parse(after["Manifest.json"]);
  EXPECT_EQ(manifest["unknown"], "kept");
  EXPECT_EQ(manifest["itemInfoEntries"]["other"]["path"], "me/notes.txt");
  for (auto* tree : {&before, &after}) tree->erase("Manifest.json");
  EXPECT_TRUE(before == after);
}

TEST_F(PackageWriterTest, ReportsTheSizeOfTheResult) {
  const auto package = Package::Open(Input());
  ASSERT_TRUE(Succeeds(package));
  const auto writer = PackageWriter::Start(**package, out_);
  ASSERT_TRUE(Succeeds(writer));
  ThreadPool pool(1);
  ASSERT_TRUE(Succeeds((*writer)->Commit(pool)));
  uint64_t size = 0;
  for (const auto& [name, bytes] : ReadTree(out_)) size += bytes.size();
  EXPECT_EQ((*writer)->size_bytes(), size);
}

TEST_F(PackageWriterTest, IdentifiersFollowTheContents) {
  const auto root_of = [](const fs::path& path) {
    return json::parse(ReadFile(path / "Manifest.json"))["rootModelIdentifier"].get<std::string>();
  };
  const auto copy = [&](const std::string& name, uint64_t seed, int32_t version) {
    const fs::path input =
        OneLinear(DataType::kFloat16, 8, 4, version, seed).Write(dir_ / (name + "-in.mlpackage"));
    const fs::path output = dir_ / (name + ".mlpackage");
    EXPECT_TRUE(Succeeds(Copy(input, output)));
    return output;
  };
  const fs::path a = copy("a", 1, 7), b = copy("b", 1, 8), c = copy("c", 2, 7), d = copy("d", 1, 7);
  EXPECT_EQ(root_of(a), root_of(d));
  EXPECT_NE(root_of(a), root_of(b));
  EXPECT_EQ(ReadFile(a / "Manifest.json"), ReadFile(d / "Manifest.json"));
  EXPECT_NE(ReadFile(a / "Manifest.json"), ReadFile(c / "Manifest.json"));  // other weights
}

TEST_F(PackageWriterTest, KeepsAModelThatLiesElsewhere) {
  PackageBuilder package = OneLinear(DataType::kFloat16, 8, 4);
  package.model_item()["path"] = "some.one/net.mlmodel";
  package.RemoveWeightsItem();
  const fs::path input = Input(std::move(package));
  ASSERT_TRUE(Succeeds(Copy(input, out_)));
  ASSERT_TRUE(Succeeds(Package::Open(out_)));
  EXPECT_TRUE(SamePackageContents(input, out_));
}

TEST_F(PackageWriterTest, KeepsAPackageWithoutWeights) {
  PackageBuilder package(7);
  package.Function("main").Const("c", test::Int32Value(1));
  package.RemoveWeightsItem();
  const fs::path input = Input(std::move(package));
  fs::remove(input / "Data/com.apple.CoreML/weights");
  ASSERT_TRUE(Succeeds(Copy(input, out_)));
  EXPECT_TRUE(SamePackageContents(input, out_));
  EXPECT_FALSE(fs::exists(out_ / "Data/com.apple.CoreML/weights"));
}

TEST_F(PackageWriterTest, KeepsPlacesOfMissingWeights) {
  const fs::path input = Input();
  fs::remove(input / "Data/com.apple.CoreML/weights/weight.bin");
  const auto package = Package::Open(input, {.allow_missing_weights = true});
  ASSERT_TRUE(Succeeds(package));
  const auto writer = PackageWriter::Start(**package, out_);
  ASSERT_TRUE(Succeeds(writer));
  ThreadPool pool(1);
  ASSERT_TRUE(Succeeds((*writer)->Commit(pool)));
  EXPECT_TRUE(test::SameModel(test::ReadWire(input), test::ReadWire(out_)));
}

// --- Links --------------------------------------------------------------------------------------

TEST_F(PackageWriterTest, FollowsALinkToTheInput) {
  const fs::path input = Input();
  fs::create_directory_symlink(input, dir_ / "link.mlpackage");
  ASSERT_TRUE(Succeeds(Copy(dir_ / "link.mlpackage", out_)));
  EXPECT_TRUE(SamePackageContents(input, out_));
  EXPECT_TRUE(Fails(Copy(dir_ / "link.mlpackage", input), ErrorKind::kUsage, {"is the input"}));
}

TEST_F(PackageWriterTest, ReplacesWhatALinkAtTheOutputPointsTo) {
  const fs::path input = Input();
  OneLinear(DataType::kFloat32, 2, 2).Write(dir_ / "real.mlpackage");
  fs::create_directory_symlink("real.mlpackage", out_);
  ASSERT_TRUE(Succeeds(Copy(input, out_)));
  EXPECT_TRUE(fs::is_symlink(out_));
  EXPECT_TRUE(SamePackageContents(input, dir_ / "real.mlpackage"));
}

TEST_F(PackageWriterTest, KeepsLinksInsideThePackage) {
  // The folder of weights and the model are links to elsewhere in the package.
  const fs::path input = Input();
  const fs::path data = input / "Data/com.apple.CoreML";
  const fs::path store = input / "Data/store";
  fs::create_directory(store);
  fs::rename(data / "weights", store / "weights");
  fs::rename(data / "model.mlmodel", store / "model.mlmodel");
  fs::create_directory_symlink("../store/weights", data / "weights");
  fs::create_symlink("../store/model.mlmodel", data / "model.mlmodel");
  ASSERT_TRUE(Succeeds(Copy(input, out_)));
  EXPECT_TRUE(fs::is_symlink(out_ / "Data/com.apple.CoreML/weights"));
  EXPECT_TRUE(SamePackageContents(input, out_));
  EXPECT_TRUE(Succeeds(Package::Open(out_)));
}

TEST_F(PackageWriterTest, RefusesExtraLinksThatLeaveThePackage) {
  WriteFile(dir_ / "secret", "x");
  const fs::path input = Input();
  fs::create_symlink("../../secret", input / "Data/link");
  EXPECT_TRUE(Fails(Copy(input, out_), ErrorKind::kBadInput, {"Data/link", "leaves the package"}));
  EXPECT_EQ(Names(), (std::vector<std::string>{"in.mlpackage", "secret"}));
}

TEST_F(PackageWriterTest, RefusesAbsoluteLinks) {
  const fs::path input = Input();
  fs::create_symlink(input / "Manifest.json", input / "Data/link");
  EXPECT_TRUE(Fails(Copy(input, out_), ErrorKind::kBadInput, {"absolute symbolic link"}));
}

// --- Where the output may go --------------------------------------------------------------------

TEST_F(PackageWriterTest, ReplacesTheInputOnlyIfAsked) {
  const fs::path input = Input();
  const auto before = ReadTree(input);
  EXPECT_TRUE(Fails(Copy(input, input), ErrorKind::kUsage,
                    {"in.mlpackage: is the input itself; say --in-place"}));
  EXPECT_TRUE(Fails(Copy(input, dir_ / "." / "in.mlpackage"), ErrorKind::kUsage, {"is the input"}));
  EXPECT_TRUE(ReadTree(input) == before);
  ASSERT_TRUE(Succeeds(Copy(input, input, {.in_place = true})));
  EXPECT_TRUE(Succeeds(Package::Open(input)));
  EXPECT_EQ(Names(), (std::vector<std::string>{"in.mlpackage"}));
}

TEST_F(PackageWriterTest, ReplacesAnotherPackage) {
  const fs::path input = Input();
  OneLinear(DataType::kFloat32, 2, 2).Write(out_);
  WriteFile(out_ / "old.txt", "old");
  ASSERT_TRUE(Succeeds(Copy(input, out_)));
  EXPECT_TRUE(SamePackageContents(input, out_));
  EXPECT_FALSE(fs::exists(out_ / "old.txt"));
  EXPECT_EQ(Names(), (std::vector<std::string>{"in.mlpackage", "out.mlpackage"}));
}

TEST_F(PackageWriterTest, NeverReplacesWhatIsNoPackage) {
  const fs::path input = Input();
  const auto refused = [&](const std::string& name) {
    return Fails(Copy(input, dir_ / name), ErrorKind::kUsage,
                 {name, "exists and is not an .mlpackage"});
  };
  WriteFile(dir_ / "file.mlpackage", "precious");
  EXPECT_TRUE(refused("file.mlpackage"));
  fs::create_directory(dir_ / "empty.mlpackage");
  EXPECT_TRUE(refused("empty.mlpackage"));
  WriteFile(dir_ / "folder.mlpackage/thesis.txt", "precious");
  EXPECT_TRUE(refused("folder.mlpackage"));
  WriteFile(dir_ / "broken.mlpackage/Manifest.json", "{");
  EXPECT_TRUE(refused("broken.mlpackage"));
  fs::create_symlink("nowhere.mlpackage", dir_ / "dangling.mlpackage");
  EXPECT_TRUE(refused("dangling.mlpackage"));
  EXPECT_EQ(ReadFile(dir_ / "file.mlpackage"), "precious");
  EXPECT_EQ(ReadFile(dir_ / "folder.mlpackage/thesis.txt"), "precious");
  EXPECT_TRUE(fs::is_symlink(dir_ / "dangling.mlpackage"));
  EXPECT_EQ(Names().size(), 6u);
}

TEST_F(PackageWriterTest, WantsTheNameOfAPackage) {
  const fs::path input = Input();
  for (const char* name : {"out", "out.mlmodel", "out.mlpackage.bak", ".mlpackage"})
    EXPECT_TRUE(Fails(Copy(input, dir_ / name), ErrorKind::kUsage, {"is named *.mlpackage"}))
        << name;
  EXPECT_TRUE(Succeeds(Copy(input, dir_ / "out.mlpackage/")));
}

TEST_F(PackageWriterTest, StaysOutOfTheInput) {
  const fs::path input = Input();
  EXPECT_TRUE(Fails(Copy(input, input / "inner.mlpackage"), ErrorKind::kUsage, {"lies inside"}));
  EXPECT_TRUE(
      Fails(Copy(input, input / "Data/deep/inner.mlpackage"), ErrorKind::kUsage, {"lies inside"}));
  const fs::path nested = OneLinear(DataType::kFloat16, 2, 2).Write(input / "nested.mlpackage");
  EXPECT_TRUE(Fails(Copy(nested, input), ErrorKind::kUsage, {"lies inside"}));
}

// --- Failure ------------------------------------------------------------------------------------

TEST_F(PackageWriterTest, ReportsAFolderThatIsNotThere) {
  EXPECT_TRUE(Fails(Copy(Input(), dir_ / "none" / "out.mlpackage"), ErrorKind::kOutput,
                    {"cannot make a folder here"}));
}

TEST_F(PackageWriterTest, ReportsAFolderThatCannotBeWritten) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write anywhere";
  const fs::path input = Input();
  fs::create_directory(dir_ / "locked");
  fs::permissions(dir_ / "locked", fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_TRUE(Fails(Copy(input, dir_ / "locked" / "out.mlpackage"), ErrorKind::kOutput,
                    {"cannot make a folder here", "denied"}));
  fs::permissions(dir_ / "locked", fs::perms::owner_all);
}

TEST_F(PackageWriterTest, LeavesNothingBehindWhenATensorFails) {
  const fs::path input = Input();
  OneLinear(DataType::kFloat32, 2, 2).Write(out_);
  const auto before = ReadTree(dir_.path());
  {
    const auto package = Package::Open(input);
    ASSERT_TRUE(Succeeds(package));
    const auto writer = PackageWriter::Start(**package, out_);
    ASSERT_TRUE(Succeeds(writer));
    ThreadPool pool(2);
    const auto failed =
        (*package)->tensors().Append((*package)->DefaultWeightsFile(),
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

TEST_F(PackageWriterTest, LeavesNothingBehindWhenItIsAbandoned) {
  const fs::path input = Input();
  {
    const auto package = Package::Open(input);
    ASSERT_TRUE(Succeeds(package));
    ASSERT_TRUE(Succeeds(PackageWriter::Start(**package, out_)));
  }
  EXPECT_EQ(Names(), (std::vector<std::string>{"in.mlpackage"}));
}

TEST_F(PackageWriterTest, LeavesNothingBehindWhenTheInputShrinks) {
  const fs::path input = Input(OneLinear(DataType::kFloat16, 64, 64));
  {
    const auto package = Package::Open(input);
    ASSERT_TRUE(Succeeds(package));
    const auto writer = PackageWriter::Start(**package, out_);
    ASSERT_TRUE(Succeeds(writer));
    fs::resize_file(input / "Data/com.apple.CoreML/weights/weight.bin", 200);
    ThreadPool pool(1);
    EXPECT_TRUE(Fails((*writer)->Commit(pool), ErrorKind::kBadInput, {"weight.bin"}));
  }
  EXPECT_EQ(Names(), (std::vector<std::string>{"in.mlpackage"}));
}

TEST_F(PackageWriterTest, SomethingThatAppearsMeanwhileIsNotReplaced) {
  const auto package = Package::Open(Input());
  ASSERT_TRUE(Succeeds(package));
  {
    const auto writer = PackageWriter::Start(**package, out_);
    ASSERT_TRUE(Succeeds(writer));
    WriteFile(out_ / "thesis.txt", "precious");
    ThreadPool pool(1);
    EXPECT_TRUE(Fails((*writer)->Commit(pool), ErrorKind::kOutput, {"cannot put the package"}));
  }
  EXPECT_EQ(ReadFile(out_ / "thesis.txt"), "precious");
  EXPECT_EQ(Names(), (std::vector<std::string>{"in.mlpackage", "out.mlpackage"}));
}

TEST_F(PackageWriterTest, TwoWritersDoNotMeet) {
  const fs::path input = Input();
  const auto first_package = Package::Open(input);
  const auto second_package = Package::Open(input);
  const auto first = PackageWriter::Start(**first_package, out_);
  const auto second = PackageWriter::Start(**second_package, out_);
  ASSERT_TRUE(Succeeds(first));
  ASSERT_TRUE(Succeeds(second));
  ThreadPool pool(1);
  EXPECT_TRUE(Succeeds((*first)->Commit(pool)));
  EXPECT_TRUE(Fails((*second)->Commit(pool), ErrorKind::kOutput, {"cannot put the package"}));
  EXPECT_TRUE(SamePackageContents(input, out_));
}

}  // namespace
}  // namespace cmlc
