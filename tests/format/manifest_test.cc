#include "format/manifest.h"

#include <gtest/gtest.h>

#include <string>

#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc::format {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::Fails;
using test::PackageBuilder;
using test::Succeeds;
using test::TempDir;

// A package whose manifest is changed before it is read.
class ManifestTest : public ::testing::Test {
 protected:
  Result<Manifest> Read() { return Manifest::Read(package_.Write(dir_ / "p.mlpackage")); }

  ::testing::AssertionResult ReadFails(std::initializer_list<std::string_view> fragments) {
    return Fails(Read(), ErrorKind::kBadInput, fragments);
  }

  TempDir dir_;
  PackageBuilder package_{7};
};

TEST_F(ManifestTest, FindsTheModelAndTheWeights) {
  const Result<Manifest> manifest = Read();
  ASSERT_TRUE(Succeeds(manifest));
  EXPECT_EQ(manifest->model_path(), "Data/com.apple.CoreML/model.mlmodel");
  EXPECT_EQ(manifest->weights_path(), "Data/com.apple.CoreML/weights");
}

TEST_F(ManifestTest, NeedsNoWeights) {
  package_.RemoveWeightsItem();
  const Result<Manifest> manifest = Read();
  ASSERT_TRUE(Succeeds(manifest));
  EXPECT_TRUE(manifest->weights_path().empty());
}

TEST_F(ManifestTest, KnowsWeightsByTheirAuthorToo) {
  package_.weights_item()["author"] = "someone.else";
  const Result<Manifest> manifest = Read();
  ASSERT_TRUE(Succeeds(manifest));
  EXPECT_TRUE(manifest->weights_path().empty());
}

// --- What is wrong with the text ----------------------------------------------------------------

TEST_F(ManifestTest, ReportsTruncatedJson) {
  const std::string text = package_.manifest().dump(4);
  for (size_t size = 0; size < text.size(); size += 17) {
    const TempDir dir;
    package_.SetManifestText(text.substr(0, size));
    EXPECT_TRUE(Fails(Manifest::Read(package_.Write(dir / "p.mlpackage")), ErrorKind::kBadInput,
                      {"Manifest.json: is not valid JSON near byte"}));
  }
}

TEST_F(ManifestTest, ReportsNumbersThatOverflow) {
  package_.SetManifestText(R"({"fileFormatVersion": "1.0.0", "x": 1e999})");
  EXPECT_TRUE(ReadFails({"Manifest.json"}));
}

TEST_F(ManifestTest, ReportsTextThatIsNotUtf8) {
  package_.SetManifestText("{\"fileFormatVersion\": \"\xFF\xFE\"}");
  EXPECT_TRUE(ReadFails({"Manifest.json", "JSON"}));
}

TEST_F(ManifestTest, ReportsDeepNesting) {
  package_.SetManifestText(std::string(1'000'000, '['));
  EXPECT_TRUE(ReadFails({"Manifest.json"}));
}

// It would be copied and written by recursion.
TEST_F(ManifestTest, ReportsDeepNestingThatIsValid) {
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  std::string text = package_.manifest().dump();
  text.replace(0, 1, "{\"extra\": " + deep + ",");
  package_.SetManifestText(text);
  EXPECT_TRUE(ReadFails({"Manifest.json", "nested"}));
}

TEST_F(ManifestTest, ReportsAnotherTopLevelType) {
  for (const char* text : {"[]", "null", "3", "\"text\""}) {
    const TempDir dir;
    package_.SetManifestText(text);
    EXPECT_TRUE(Fails(Manifest::Read(package_.Write(dir / "p.mlpackage")), ErrorKind::kBadInput,
                      {"expected a JSON object"}));
  }
}

TEST_F(ManifestTest, ReportsAMissingManifest) {
  EXPECT_TRUE(Fails(Manifest::Read(dir_.path()), ErrorKind::kBadInput, {"Manifest.json"}));
}

// --- What is wrong with its keys ----------------------------------------------------------------

TEST_F(ManifestTest, ReportsAMissingVersion) {
  package_.manifest().erase("fileFormatVersion");
  EXPECT_TRUE(ReadFails({"fileFormatVersion: missing or not a text"}));
}

TEST_F(ManifestTest, ReportsAVersionThatIsNoText) {
  package_.manifest()["fileFormatVersion"] = 1;
  EXPECT_TRUE(ReadFails({"fileFormatVersion: missing or not a text"}));
}

TEST_F(ManifestTest, AcceptsOlderVersionsOnly) {
  for (const char* version : {"1.0.0", "0.9.7", "0.0.0"}) {
    const TempDir dir;
    package_.manifest()["fileFormatVersion"] = version;
    EXPECT_TRUE(Succeeds(Manifest::Read(package_.Write(dir / "p.mlpackage")))) << version;
  }
  for (const char* version : {"1.0.1", "1.1.0", "2.0.0", "1.0", "1.0.0.0", "", "1..0", "a.b.c",
                              "-1.0.0", "1.0.0 ", "99999999999.0.0"}) {
    const TempDir dir;
    package_.manifest()["fileFormatVersion"] = version;
    EXPECT_TRUE(Fails(Manifest::Read(package_.Write(dir / "p.mlpackage")), ErrorKind::kBadInput,
                      {"fileFormatVersion", "is not known, expected '1.0.0'"}))
        << version;
  }
}

TEST_F(ManifestTest, ReportsMissingItems) {
  package_.manifest().erase("itemInfoEntries");
  EXPECT_TRUE(ReadFails({"itemInfoEntries: missing or not an object"}));
}

TEST_F(ManifestTest, ReportsItemsThatAreNoObject) {
  package_.SetManifestText(
      R"({"fileFormatVersion": "1.0.0", "itemInfoEntries": [], "rootModelIdentifier": "a"})");
  EXPECT_TRUE(ReadFails({"itemInfoEntries: missing or not an object"}));
}

TEST_F(ManifestTest, ReportsAnItemThatIsNoObject) {
  package_.SetManifestText(R"({"fileFormatVersion": "1.0.0", "itemInfoEntries": {"a": 3},
                              "rootModelIdentifier": "a"})");
  EXPECT_TRUE(ReadFails({"item a: expected an object"}));
}

TEST_F(ManifestTest, ReportsAnItemWithoutOneOfItsTexts) {
  for (const char* key : {"path", "name", "author", "description"}) {
    const TempDir dir;
    PackageBuilder package(7);
    package.weights_item().erase(key);
    EXPECT_TRUE(Fails(Manifest::Read(package.Write(dir / "p.mlpackage")), ErrorKind::kBadInput,
                      {"5fbac8c8", std::string("'") + key + "' is missing or not a text"}));
    package.weights_item()[key] = 7;
    package.SetManifestText(package.manifest().dump());
    package.weights_item()[key] = "x";
    EXPECT_TRUE(Fails(Manifest::Read(package.Write(dir / "q.mlpackage")), ErrorKind::kBadInput,
                      {std::string("'") + key + "' is missing or not a text"}));
  }
}

TEST_F(ManifestTest, ReportsAMissingRoot) {
  package_.manifest().erase("rootModelIdentifier");
  EXPECT_TRUE(ReadFails({"rootModelIdentifier: missing or not a text"}));
}

TEST_F(ManifestTest, ReportsARootThatIsNoItem) {
  package_.manifest()["rootModelIdentifier"] = "nobody";
  EXPECT_TRUE(ReadFails({"rootModelIdentifier: no item has the identifier 'nobody'"}));
}

// A message is one line even where the file has line breaks in its names.
TEST_F(ManifestTest, MessagesStayOnOneLine) {
  package_.manifest()["rootModelIdentifier"] = "no\nbody\r\x1b[31m";
  EXPECT_TRUE(ReadFails({"rootModelIdentifier: no item has the identifier"}));
}

// --- What is wrong with its paths ---------------------------------------------------------------

class ManifestPaths : public ManifestTest {
 protected:
  // The weights item names `path`; the package is otherwise whole.
  ::testing::AssertionResult PathFails(const std::string& path,
                                       std::initializer_list<std::string_view> fragments) {
    package_.weights_item()["path"] = path;
    return ReadFails(fragments);
  }
};

TEST_F(ManifestPaths, MayNotClimbOut) {
  EXPECT_TRUE(PathFails("../../elsewhere", {"path '../../elsewhere' leaves the package by '..'"}));
}

TEST_F(ManifestPaths, MayNotClimbAtAll) {
  EXPECT_TRUE(PathFails("com.apple.CoreML/../com.apple.CoreML/weights", {"by '..'"}));
}

TEST_F(ManifestPaths, MayNotBeAbsolute) {
  EXPECT_TRUE(PathFails("/etc", {"path '/etc' is absolute"}));
}

TEST_F(ManifestPaths, MayNotBeEmpty) { EXPECT_TRUE(PathFails("", {"path '' is empty"})); }

TEST_F(ManifestPaths, MayNotHideAZero) {
  EXPECT_TRUE(PathFails(std::string("com.apple.CoreML/weights\0x", 26), {"Manifest.json"}));
}

TEST_F(ManifestPaths, MustNameSomethingThatIsThere) {
  EXPECT_TRUE(PathFails("com.apple.CoreML/nothing", {"nothing' is named here but missing"}));
}

TEST_F(ManifestPaths, OfWeightsMustNameAFolder) {
  EXPECT_TRUE(PathFails("com.apple.CoreML/model.mlmodel", {"is not a folder, as weights must be"}));
}

TEST_F(ManifestPaths, MayNotLeaveByALink) {
  test::WriteFile(dir_ / "outside" / "weight.bin", "x");
  package_.weights_item()["path"] = "com.apple.CoreML/link";
  const fs::path path = package_.Write(dir_ / "p.mlpackage");
  fs::create_directory_symlink("../../../outside", path / "Data/com.apple.CoreML/link");
  EXPECT_TRUE(Fails(Manifest::Read(path), ErrorKind::kBadInput,
                    {"leaves the package by a symbolic link", "cp -RL"}));
}

TEST_F(ManifestPaths, MayFollowALinkThatStaysInside) {
  package_.weights_item()["path"] = "com.apple.CoreML/link";
  const fs::path path = package_.Write(dir_ / "p.mlpackage");
  fs::create_directory_symlink("weights", path / "Data/com.apple.CoreML/link");
  EXPECT_TRUE(Succeeds(Manifest::Read(path)));
}

TEST_F(ManifestPaths, ReportALinkInACircle) {
  package_.weights_item()["path"] = "com.apple.CoreML/loop";
  const fs::path path = package_.Write(dir_ / "p.mlpackage");
  fs::create_symlink("loop", path / "Data/com.apple.CoreML/loop");
  EXPECT_TRUE(Fails(Manifest::Read(path), ErrorKind::kBadInput, {"loop"}));
}

TEST_F(ManifestPaths, ReportAManifestThatIsALinkToTheOutside) {
  const fs::path path = package_.Write(dir_ / "p.mlpackage");
  fs::rename(path / "Manifest.json", dir_ / "Manifest.json");
  fs::create_symlink("../Manifest.json", path / "Manifest.json");
  EXPECT_TRUE(Fails(Manifest::Read(path), ErrorKind::kBadInput, {"leaves the package"}));
}

TEST_F(ManifestPaths, MayGoThroughALinkToThePackage) {
  const fs::path path = package_.Write(dir_ / "p.mlpackage");
  fs::create_directory_symlink(path, dir_ / "link.mlpackage");
  EXPECT_TRUE(Succeeds(Manifest::Read(dir_ / "link.mlpackage")));
}

// --- Writing ------------------------------------------------------------------------------------

constexpr const char* kHash = "0123456789abcdef0123456789abcdef";
constexpr const char* kOtherHash = "fedcba9876543210fedcba9876543210";

TEST_F(ManifestTest, IdentifiersAreMadeOfHashes) {
  const Result<Manifest> manifest = Read();
  ASSERT_TRUE(Succeeds(manifest));
  const json text = json::parse(manifest->Text(kHash, kOtherHash));
  const std::string id = text["rootModelIdentifier"];
  EXPECT_EQ(id, "01234567-89ab-8def-8123-456789abcdef");  // version 8 and variant of a UUID
  EXPECT_EQ(text["itemInfoEntries"][id]["name"], "model.mlmodel");
  EXPECT_EQ(text["itemInfoEntries"]["fedcba98-7654-8210-bedc-ba9876543210"]["name"], "weights");
  EXPECT_EQ(text["itemInfoEntries"].size(), 2u);
  EXPECT_EQ(manifest->Text(kHash, kOtherHash), manifest->Text(kHash, kOtherHash));
}

TEST_F(ManifestTest, IsWrittenAsApplesLibraryDoes) {
  const Result<Manifest> manifest = Read();
  ASSERT_TRUE(Succeeds(manifest));
  const std::string text = manifest->Text(kHash, kOtherHash);
  EXPECT_EQ(text.substr(0, 41), "{\n    \"fileFormatVersion\": \"1.0.0\",\n    \"");
  EXPECT_EQ(text.back(), '\n');
}

TEST_F(ManifestTest, KeepsItemsAndKeysItDoesNotKnow) {
  package_.manifest()["itemInfoEntries"]["other"] = {{"author", "me"},
                                                     {"description", ""},
                                                     {"name", "notes"},
                                                     {"path", "me/notes.txt"},
                                                     {"extra", {1, 2}}};
  package_.manifest()["unknown"] = {{"a", nullptr}};
  package_.weights_item()["unknown"] = true;
  package_.ExtraFile("Data/me/notes.txt", "hello");
  const Result<Manifest> manifest = Read();
  ASSERT_TRUE(Succeeds(manifest));
  const json text = json::parse(manifest->Text(kHash, kOtherHash));
  EXPECT_EQ(text["unknown"], package_.manifest()["unknown"]);
  EXPECT_EQ(text["itemInfoEntries"]["other"], package_.manifest()["itemInfoEntries"]["other"]);
  EXPECT_EQ(text["itemInfoEntries"]["fedcba98-7654-8210-bedc-ba9876543210"]["unknown"], true);
}

TEST_F(ManifestTest, GetsAnItemForItsFirstWeights) {
  package_.RemoveWeightsItem();
  const Result<Manifest> manifest = Read();
  ASSERT_TRUE(Succeeds(manifest));
  const json with = json::parse(manifest->Text(kHash, kOtherHash));
  EXPECT_EQ(with["itemInfoEntries"]["fedcba98-7654-8210-bedc-ba9876543210"],
            (json{{"author", "com.apple.CoreML"},
                  {"description", "CoreML Model Weights"},
                  {"name", "weights"},
                  {"path", "com.apple.CoreML/weights"}}));
  EXPECT_EQ(json::parse(manifest->Text(kHash, ""))["itemInfoEntries"].size(), 1u);
}

TEST_F(ManifestTest, NewWeightsLieBesideTheModel) {
  package_.RemoveWeightsItem();
  package_.model_item()["path"] = "some.one/net/m.mlmodel";
  const Result<Manifest> manifest = Read();
  ASSERT_TRUE(Succeeds(manifest));
  const json text = json::parse(manifest->Text(kHash, kOtherHash));
  EXPECT_EQ(text["itemInfoEntries"]["fedcba98-7654-8210-bedc-ba9876543210"]["path"],
            "some.one/net/weights");
}

TEST_F(ManifestTest, WeightsWithoutWeightsKeepTheirIdentifier) {
  const Result<Manifest> manifest = Read();
  ASSERT_TRUE(Succeeds(manifest));
  const json text = json::parse(manifest->Text(kHash, ""));
  EXPECT_TRUE(text["itemInfoEntries"].contains("5fbac8c8-7e7d-401d-a81a-ac52fe7ee8e1"));
}

}  // namespace
}  // namespace cmlc::format
