// The program as its users see it: exact output, exit codes, what is left on the disk.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <thread>

#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

#ifdef CMLC_SANITIZED
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

struct Outcome {
  int exit_code = -1;  // -1: ended by a signal
  int signal = 0;
  std::string out;
  std::string err;
};

// Starts cmlc in `folder` with its output going to files there. `limit_bytes`: of address space.
pid_t Start(const fs::path& folder, std::vector<std::string> arguments, uint64_t limit_bytes = 0) {
  arguments.insert(arguments.begin(), CMLC_BINARY);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const std::string out = folder / "stdout.txt";
  const std::string err = folder / "stderr.txt";
  const pid_t child = fork();
  if (child != 0) return child;
  if (chdir(folder.c_str()) != 0) _exit(126);
  dup2(open(out.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0666), STDOUT_FILENO);
  dup2(open(err.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0666), STDERR_FILENO);
  if (limit_bytes > 0) {
    const rlimit limit = {limit_bytes, limit_bytes};
    setrlimit(RLIMIT_AS, &limit);
  }
  execv(CMLC_BINARY, argv.data());
  _exit(127);
}

Outcome Wait(const fs::path& folder, pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  Outcome outcome;
  if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) outcome.signal = WTERMSIG(status);
  outcome.out = ReadFile(folder / "stdout.txt");
  outcome.err = ReadFile(folder / "stderr.txt");
  fs::remove(folder / "stdout.txt");
  fs::remove(folder / "stderr.txt");
  return outcome;
}

Outcome Cmlc(const fs::path& folder, std::vector<std::string> arguments, uint64_t limit = 0) {
  return Wait(folder, Start(folder, std::move(arguments), limit));
}

std::vector<std::string> Names(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

using Strings = std::vector<std::string>;

// A package with one weight of about `bytes` bytes, written piece by piece.
void WriteLargePackage(const fs::path& path, uint64_t bytes) {
  constexpr int64_t kColumns = 4096;
  const auto rows = static_cast<int64_t>(bytes / 2 / kColumns);
  const uint64_t size = static_cast<uint64_t>(rows * kColumns) * 2;
  PackageBuilder package(7);
  BlockBuilder main = package.Function("main");
  package.FunctionInput("main", "x", TensorType(DataType::kFloat16, {1, kColumns}));
  main.Const("weight", BlobValueAt(DataType::kFloat16, {rows, kColumns},
                                   "@model_path/weights/weight.bin", 64));
  main.Op("linear", "y", {{"x", "x"}, {"weight", "weight"}},
          TensorType(DataType::kFloat16, {1, rows}));
  main.Output("y");
  package.Write(path);
  BlobFileBuilder header;
  header.Add(DataType::kFloat16, 0, "");
  std::string start = header.bytes();
  start.resize(128);
  std::memcpy(start.data() + 64 + 8, &size, 8);  // the record's size in bytes
  const std::string piece = RandomWeights(DataType::kFloat16, 1 << 20, 1);
  std::ofstream file(path / "Data/com.apple.CoreML/weights/weight.bin", std::ios::binary);
  file << start;
  for (uint64_t done = 0; done < size;) {
    const uint64_t step = std::min<uint64_t>(piece.size(), size - done);
    file.write(piece.data(), static_cast<std::streamsize>(step));
    done += step;
  }
}

TEST(Cli, VersionAndHelpGoToStdout) {
  const TempDir dir;
  const Outcome version = Cmlc(dir.path(), {"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_TRUE(std::regex_match(version.out, std::regex(R"(cmlc \d+\.\d+\.\d+\n)"))) << version.out;
  EXPECT_EQ(version.err, "");
  const Outcome help = Cmlc(dir.path(), {"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_EQ(help.err, "");
  for (const char* name : {"palettize", "decompress", "null", "info", "passes"})
    EXPECT_NE(help.out.find(name), std::string::npos) << name;
}

TEST(Cli, HelpOfAPassNamesItsOptionsAndTheirDefaults) {
  const TempDir dir;
  const Outcome help = Cmlc(dir.path(), {"palettize", "--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* text : {"--nbits",
                           "1, 2, 3, 4, 5, 6, 7, 8",
                           "--mode",
                           "kmeans, uniform, unique, custom",
                           "--granularity",
                           "--group-size",
                           "--channel-axis",
                           "--lut-file",
                           "--weight-threshold",
                           "(default 2048)",
                           "--op-type",
                           "--op-name",
                           "--output",
                           "--in-place",
                           "--threads",
                           "--target",
                           "--strict",
                           "--json",
                           "--quiet",
                           "--verbose"})
    EXPECT_NE(help.out.find(text), std::string::npos) << text;
}

TEST(Cli, PassesListsEveryPass) {
  const TempDir dir;
  const Outcome passes = Cmlc(dir.path(), {"passes"});
  EXPECT_EQ(passes.out,
            "palettize    store each weight as an index into a lookup table (LUT)\n"
            "quantize     store each weight as small integers with scales, or as fp16\n"
            "prune        set values of least magnitude to zero and store the rest with a mask\n"
            "activations  quantize the values between ops to 8 bits, by statistics of sample data\n"
            "decompress   turn compressed weights back into plain fp16 or fp32 tensors\n"
            "null         change nothing: read the model, check it and write it again\n");
}

TEST(Cli, PalettizeWritesBesideTheInputAndSaysWhatItDid) {
  const TempDir dir;
  OneLinear(DataType::kFloat16, 64, 64).Write(dir / "in.mlpackage");
  const Outcome run = Cmlc(dir.path(), {"palettize", "--nbits", "4", "in.mlpackage"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.err, "");
  EXPECT_EQ(Names(dir.path()), (Strings{"in-palettized.mlpackage", "in.mlpackage"}));
  const std::regex summary(
      R"(palettize: 1 weight done, 8,192 -> 2,080 bytes, 4\.06 bits per weight, SNR \d\d\.\d\d dB\n)"
      R"(package: [\d,]+ -> [\d,]+ bytes \(\d\.\d\d times smaller\), \d+\.\d\d s\n)"
      R"(needs: iOS 16, [^\n]* or later\nwrote: in-palettized\.mlpackage\n)");
  EXPECT_TRUE(std::regex_match(run.out, summary)) << run.out;
}

TEST(Cli, QuietSaysNothing) {
  const TempDir dir;
  OneLinear(DataType::kFloat16, 64, 64).Write(dir / "in.mlpackage");
  const Outcome run = Cmlc(dir.path(), {"palettize", "-q", "--nbits", "4", "in.mlpackage"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(run.out + run.err, "");
}

TEST(Cli, VerboseNamesEveryWeightThatIsLeft) {
  const TempDir dir;
  OneLinear(DataType::kFloat16, 16, 16).Write(dir / "in.mlpackage");
  const Outcome run = Cmlc(dir.path(), {"palettize", "-v", "--nbits", "4", "in.mlpackage"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(run.err,
            "note: palettize: left 'weight' as fp16: 256 elements, weight_threshold is "
            "2048\n");
  EXPECT_NE(run.out.find("palettize: 0 weights done\nleft alone: 1 weight: 1 with no more elements "
                         "than weight_threshold 2048\n"),
            std::string::npos)
      << run.out;
}

TEST(Cli, JsonHasTheSummaryAndEveryWeight) {
  const TempDir dir;
  OneLinear(DataType::kFloat16, 64, 64).Write(dir / "in.mlpackage");
  const Outcome run = Cmlc(
      dir.path(), {"palettize", "--json", "--nbits", "2", "in.mlpackage", "-o", "out.mlpackage"});
  const auto report = nlohmann::json::parse(run.out);
  EXPECT_EQ(report["pass"], "palettize");
  EXPECT_EQ(report["output"], "out.mlpackage");
  EXPECT_EQ(report["summary"]["weights_done"], 1);
  EXPECT_EQ(report["summary"]["bytes_after"], 64 * 64 * 2 / 8 + 8);
  ASSERT_EQ(report["weights"].size(), 1u);
  EXPECT_EQ(report["weights"][0]["name"], "weight");
  EXPECT_EQ(report["weights"][0]["status"], "done");
  EXPECT_EQ(report["weights"][0]["shape"], nlohmann::json({64, 64}));
  EXPECT_EQ(report["weights"][0]["form"], "2-bit LUT");
  EXPECT_GT(report["weights"][0]["snr_db"].get<double>(), 8.0);
  EXPECT_EQ(report["weights"][0]["consumers"][0], "linear 'y' weight");
}

TEST(Cli, InfoShowsHowAWeightIsStored) {
  const TempDir dir;
  OneLinear(DataType::kFloat16, 64, 64).Write(dir / "in.mlpackage");
  Cmlc(dir.path(), {"palettize", "--nbits", "2", "in.mlpackage", "-o", "out.mlpackage"});
  const Outcome plain = Cmlc(dir.path(), {"info", "--json", "in.mlpackage"});
  const Outcome small = Cmlc(dir.path(), {"info", "--json", "out.mlpackage"});
  EXPECT_EQ(plain.err + small.err, "");
  const auto before = nlohmann::json::parse(plain.out);
  const auto after = nlohmann::json::parse(small.out);
  EXPECT_EQ(before["weights"][0]["form"], "fp16");
  EXPECT_EQ(before["weights"][0]["bytes"], 8192);
  EXPECT_EQ(after["weights"][0]["form"], "2-bit LUT");
  EXPECT_EQ(after["weights"][0]["distinct"], 4);
  const Outcome text = Cmlc(dir.path(), {"info", "out.mlpackage"});
  EXPECT_NE(text.out.find("weight  fp16 [64, 64]  as 2-bit LUT, 1,032 bytes, 2.02 bits per weight"),
            std::string::npos)
      << text.out;
  EXPECT_NE(text.out.find("ops: constexpr_lut_to_dense 1, linear 1"), std::string::npos);
}

struct BadCall {
  const char* name;
  Strings arguments;
  int exit_code;
  const char* message;  // the whole of stderr, or its start if it ends in "..."
};

class CliErrors : public ::testing::TestWithParam<BadCall> {};

TEST_P(CliErrors, OneLineAndAnExitCodeAndNoOutput) {
  const TempDir dir;
  OneLinear(DataType::kFloat16, 64, 64).Write(dir / "in.mlpackage");
  fs::create_directory(dir / "folder");
  fs::create_directory(dir / "taken.mlpackage");
  WriteFile(dir / "taken.mlpackage/mine.txt", "keep");
  const Strings before = Names(dir.path());
  const auto input = ReadTree(dir / "in.mlpackage");
  const Outcome run = Cmlc(dir.path(), GetParam().arguments);
  EXPECT_EQ(run.exit_code, GetParam().exit_code);
  EXPECT_EQ(run.out, "");
  std::string expected = GetParam().message;
  if (expected.ends_with("...")) {
    expected.resize(expected.size() - 3);
    EXPECT_EQ(run.err.substr(0, expected.size()), expected);
    EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  } else {
    EXPECT_EQ(run.err, expected + "\n");
  }
  EXPECT_EQ(Names(dir.path()), before);
  EXPECT_EQ(ReadTree(dir / "in.mlpackage"), input);
  EXPECT_EQ(ReadFile(dir / "taken.mlpackage/mine.txt"), "keep");
}

INSTANTIATE_TEST_SUITE_P(
    All, CliErrors,
    ::testing::Values(
        BadCall{"NoCommand", {}, 2, "error: ..."},
        BadCall{"UnknownCommand", {"palletize", "in.mlpackage"}, 2, "error: ..."},
        BadCall{"UnknownOption", {"palettize", "--bits", "4", "in.mlpackage"}, 2, "error: ..."},
        BadCall{"NoBits",
                {"palettize", "in.mlpackage"},
                2,
                "error: palettize: nbits: is needed by mode kmeans: one of 1, 2, 3, 4, 6, 8 "
                "(in a NeuralNetwork 5 or 7, too)"},
        BadCall{"FiveBits",
                {"palettize", "--nbits", "5", "in.mlpackage"},
                2,
                "error: palettize: nbits: is 5, which NeuralNetworks alone can hold; an ML Program "
                "takes "
                "1, 2, 3, 4, 6 or 8"},
        BadCall{"WideBits",
                {"palettize", "--nbits", "wide", "in.mlpackage"},
                2,
                "error: palettize: nbits: expected an integer, got 'wide'"},
        BadCall{"PruneWithoutAWay",
                {"prune", "in.mlpackage"},
                2,
                "error: prune: expected one of target_sparsity, threshold and n_m_ratio, got none"},
        BadCall{"SparsityAboveOne",
                {"prune", "--target-sparsity", "1.5", "in.mlpackage"},
                2,
                "error: prune: target_sparsity: expected a number from 0 to 1, got '1.5'"},
        BadCall{
            "BlocksThatAreNone",
            {"quantize", "--block-size", "3;4", "in.mlpackage"},
            2,
            "error: quantize: block_size: expected an integer, or several joined by commas, got "
            "'3;4'"},
        BadCall{"RunOfNothing",
                {"run", "in.mlpackage"},
                2,
                "error: run: expected --recipe FILE, --preset NAME or --pass NAME, got none"},
        BadCall{"NoSuchRecipe",
                {"run", "--recipe", "no.yaml", "in.mlpackage"},
                3,
                "error: no.yaml: cannot open: No such file or directory"},
        BadCall{"UnknownDevice",
                {"palettize", "--nbits", "4", "--device", "npu", "in.mlpackage"},
                2,
                "error: --device 'npu': expected one of cpu, gpu, ane, all"},
        BadCall{
            "JointBelowItsTarget",
            {"run", "--pass", "prune:target_sparsity=0.5", "--pass", "palettize:nbits=4,joint=true",
             "--target", "iOS17", "in.mlpackage"},
            2,
            "error: --target iOS17: 'weight' needs iOS18 for joint compression; choose --target "
            "iOS18 or options that iOS17 can hold"},
        BadCall{"UnknownMode",
                {"palettize", "--nbits", "4", "--mode", "kmean", "in.mlpackage"},
                2,
                "error: palettize: mode: expected one of kmeans, uniform, unique, custom, got "
                "'kmean'"},
        BadCall{"RuleOfUnknownOption",
                {"palettize", "--nbits", "4", "--op-type", "linear=nbit:2", "in.mlpackage"},
                2,
                "error: --op-type linear=nbit:2: palettize: unknown option 'nbit', did you mean "
                "'nbits'?"},
        BadCall{"RuleThatMatchesNothing",
                {"palettize", "--nbits", "4", "--op-type", "liner=null", "in.mlpackage"},
                2,
                "error: --op-type liner=null: no op type of this model matches 'liner'; did you "
                "mean 'linear'?"},
        BadCall{"NameThatMatchesNothing",
                {"palettize", "--nbits", "4", "--op-name", "wieght=null", "in.mlpackage"},
                2,
                "error: --op-name wieght=null: no op or weight of this model matches 'wieght'; did "
                "you mean 'weight'?"},
        BadCall{"TargetTooLow",
                {"palettize", "--nbits", "3", "--target", "iOS16", "in.mlpackage"},
                2,
                "error: --target iOS16: 'weight' needs iOS18 for 3-bit indices; choose --target "
                "iOS18 or options that iOS16 can hold"},
        BadCall{"UnknownTarget",
                {"palettize", "--nbits", "4", "--target", "iOS12", "in.mlpackage"},
                2,
                "error: --target 'iOS12': expected one of iOS16, iOS17, iOS18, iOS26"},
        BadCall{"OutputIsInput",
                {"palettize", "--nbits", "4", "in.mlpackage", "-o", "in.mlpackage"},
                2,
                "error: in.mlpackage: is the input itself; say --in-place to replace it, or name "
                "another output"},
        BadCall{"OutputIsNoPackage",
                {"palettize", "--nbits", "4", "in.mlpackage", "-o", "taken.mlpackage"},
                2,
                "error: taken.mlpackage: exists and is not an .mlpackage, so it is not replaced; "
                "name another output or remove it"},
        BadCall{"OutputWithoutEnding",
                {"palettize", "--nbits", "4", "in.mlpackage", "-o", "out"},
                2,
                "error: out: an output package is named *.mlpackage"},
        BadCall{
            "MissingInput",
            {"palettize", "--nbits", "4", "none.mlpackage"},
            3,
            "error: none.mlpackage: no such file or folder, expected an .mlpackage or .mlmodel"},
        BadCall{"InputIsAFolder",
                {"info", "folder"},
                3,
                "error: folder: is a folder without a Manifest.json, so not an .mlpackage"},
        BadCall{"NoPlaceForOutput",
                {"palettize", "--nbits", "4", "in.mlpackage", "-o", "none/out.mlpackage"},
                4,
                "error: ..."},
        BadCall{"Strict",
                {"palettize", "--nbits", "4", "--weight-threshold", "5000", "--op-name",
                 "y=nbits:2", "--strict", "in.mlpackage"},
                6,
                "error: palettize: --strict: 1 of the weights asked for by name would be left "
                "alone: 'weight' (4096 elements, weight_threshold is 5000)"}),
    [](const auto& call) { return call.param.name; });

TEST(Cli, RunTakesARecipeAndPasses) {
  const TempDir dir;
  OneLinear(DataType::kFloat16, 64, 64, 9).Write(dir / "in.mlpackage");
  WriteFile(dir / "recipe.yaml", "passes:\n  - prune: {target_sparsity: 0.5}\n");
  const Outcome run = Cmlc(dir.path(), {"run", "--recipe", "recipe.yaml", "--pass",
                                        "palettize:nbits=4,joint=true", "in.mlpackage"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(run.err, "");
  const std::regex summary(
      R"(prune: 1 weight done, 8,192 -> 4,608 bytes, 9\.00 bits per weight, SNR \d+\.\d+ dB\n)"
      R"(palettize: 1 weight done, 4,608 -> 1,568 bytes, 3\.06 bits per weight, SNR \d+\.\d+ dB\n)"
      R"(package: [^\n]*\nneeds: iOS 18, [^\n]*\nwrote: in-compressed\.mlpackage\n)");
  EXPECT_TRUE(std::regex_match(run.out, summary)) << run.out;
  EXPECT_EQ(Names(dir.path()), (Strings{"in-compressed.mlpackage", "in.mlpackage", "recipe.yaml"}));
  const Outcome json = Cmlc(dir.path(), {"run", "--recipe", "recipe.yaml", "--pass",
                                         "palettize:nbits=4,joint=true", "--json", "in.mlpackage"});
  const auto root = nlohmann::json::parse(json.out);
  ASSERT_EQ(root.at("passes").size(), 2u);
  EXPECT_EQ(root["passes"][1]["weights"][0]["form"], "sparse, 4-bit LUT");
}

TEST(Cli, ADryRunPrintsThePlanAndWritesNothing) {
  const TempDir dir;
  OneLinear(DataType::kFloat16, 64, 64).Write(dir / "in.mlpackage");
  const Outcome run =
      Cmlc(dir.path(), {"quantize", "--block-size", "48", "--dry-run", "in.mlpackage"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(
      run.out.substr(0, run.out.find("package: ")),
      "quantize: weight fp16 [64, 64]: left alone: block size 48 does not divide 64 (axis 1 of "
      "[64, 64]); --fallback nearest or per_channel would do it\n"
      "quantize: 0 weights done\n"
      "left alone: 1 weight: 1 with an axis that block_size does not divide\n");
  EXPECT_TRUE(run.out.ends_with("wrote: nothing (--dry-run)\n")) << run.out;
  const Outcome nearest = Cmlc(dir.path(), {"quantize", "--block-size", "48", "--fallback",
                                            "nearest", "--dry-run", "in.mlpackage"});
  EXPECT_TRUE(
      nearest.out.starts_with("quantize: weight fp16 [64, 64]: int8 symmetric, 64 scales, block "
                              "size 64 for 48 that does not "
                              "divide 64, 8,192 -> 4,288 bytes, SNR "))
      << nearest.out;
  EXPECT_EQ(Names(dir.path()), (Strings{"in.mlpackage"}));
}

TEST(Cli, ListsWeightsAndPrintsRecipes) {
  const TempDir dir;
  OneLinear(DataType::kFloat16, 64, 64).Write(dir / "in.mlpackage");
  EXPECT_EQ(
      Cmlc(dir.path(), {"prune", "--target-sparsity", "0.5", "--list-weights", "in.mlpackage"}).out,
      "weight  fp16 [64, 64]  linear 'y' weight\n");
  const Outcome recipe =
      Cmlc(dir.path(), {"palettize", "--nbits", "4", "--joint", "--op-type", "conv=null",
                        "--op-name", "y*=group_size:16", "--print-recipe", "in.mlpackage"});
  EXPECT_EQ(recipe.out,
            "passes:\n"
            "  - palettize:\n"
            "      nbits: 4\n"
            "      joint: true\n"
            "      op_types:\n"
            "        conv: ~\n"
            "      op_names:\n"
            "        y*: {group_size: 16}\n");
  EXPECT_EQ(Names(dir.path()), (Strings{"in.mlpackage"}));
}

TEST(Cli, LintListsKnownForms) {
  const TempDir dir;
  OneLinear(DataType::kFloat16, 64, 64, 9).Write(dir / "in.mlpackage");
  const Outcome warned =
      Cmlc(dir.path(), {"palettize", "--nbits", "4", "--per-channel-scale", "--device", "ane",
                        "in.mlpackage", "-o", "out.mlpackage"});
  EXPECT_EQ(warned.exit_code, 0);
  EXPECT_TRUE(warned.err.starts_with("warning: scaled_lut: 'weight': ")) << warned.err;
  const Outcome lint = Cmlc(dir.path(), {"lint", "out.mlpackage"});
  EXPECT_EQ(lint.exit_code, 0);
  EXPECT_TRUE(lint.out.starts_with("scaled_lut (ane): weight\n  ")) << lint.out;
  EXPECT_TRUE(lint.out.ends_with("\n1 known form\n")) << lint.out;
  EXPECT_EQ(Cmlc(dir.path(), {"lint", "--device", "cpu", "out.mlpackage"}).out, "0 known forms\n");
  EXPECT_EQ(Cmlc(dir.path(), {"lint", "--strict", "out.mlpackage"}).exit_code, 6);
  const auto json =
      nlohmann::json::parse(Cmlc(dir.path(), {"lint", "--json", "out.mlpackage"}).out);
  ASSERT_EQ(json.size(), 1u);
  EXPECT_EQ(json[0]["id"], "scaled_lut");
  EXPECT_EQ(json[0]["names"], (Strings{"weight"}));
}

TEST(Cli, AnExistingPackageIsReplaced) {
  const TempDir dir;
  OneLinear(DataType::kFloat16, 64, 64).Write(dir / "in.mlpackage");
  OneConv(DataType::kFloat16, 8, 8, 3).Write(dir / "out.mlpackage");
  const Outcome run =
      Cmlc(dir.path(), {"palettize", "-q", "--nbits", "4", "in.mlpackage", "-o", "out.mlpackage/"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(Names(dir.path()), (Strings{"in.mlpackage", "out.mlpackage"}));
  const Outcome info = Cmlc(dir.path(), {"info", "out.mlpackage"});
  EXPECT_NE(info.out.find("4-bit LUT"), std::string::npos);
}

TEST(Cli, InPlaceReplacesTheInput) {
  const TempDir dir;
  OneLinear(DataType::kFloat16, 64, 64).Write(dir / "in.mlpackage");
  const Outcome run =
      Cmlc(dir.path(), {"palettize", "-q", "--nbits", "4", "--in-place", "in.mlpackage"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(Names(dir.path()), (Strings{"in.mlpackage"}));
  const Outcome info = Cmlc(dir.path(), {"info", "in.mlpackage"});
  EXPECT_NE(info.out.find("4-bit LUT"), std::string::npos);
}

TEST(Cli, ASignalLeavesNothingBehind) {
  const TempDir dir;
  WriteLargePackage(dir / "in.mlpackage", 96 << 20);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    // Vectors take seconds, so that there is something to interrupt.
    const pid_t child =
        Start(dir.path(), {"palettize", "-q", "--nbits", "8", "--cluster-dim", "4", "--threads",
                           "1", "in.mlpackage", "-o", "out.mlpackage"});
    // As soon as the hidden folder is there, the work is under way.
    bool begun = false;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!begun && std::chrono::steady_clock::now() < deadline) {
      for (const std::string& name : Names(dir.path())) begun = begun || name.front() == '.';
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    kill(child, signal);
    const Outcome run = Wait(dir.path(), child);
    EXPECT_TRUE(begun);
    EXPECT_EQ(run.signal, signal);
    EXPECT_EQ(Names(dir.path()), (Strings{"in.mlpackage"}));
  }
}

TEST(Cli, APackageLargerThanTheMemoryAllowedIsPalettized) {
  if (kSanitized) GTEST_SKIP() << "sanitizers need address space of their own";
  const TempDir dir;
  constexpr uint64_t kLimit = 160 << 20;
  WriteLargePackage(dir / "in.mlpackage", 2 * kLimit);
  for (const char* threads : {"1", "2"}) {
    const Outcome run = Cmlc(
        dir.path(),
        {"palettize", "--nbits", "4", "--threads", threads, "in.mlpackage", "-o", "out.mlpackage"},
        kLimit);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_NE(run.out.find("palettize: 1 weight done, 335,544,320 -> 83,886,112 bytes"),
              std::string::npos)
        << run.out;
  }
}

TEST(Cli, TheShippedExampleShrinksFourfold) {
  const TempDir dir;
  const std::string example = CMLC_SOURCE_DIR "/examples/digits/digits.mlpackage";
  const Outcome run =
      Cmlc(dir.path(), {"palettize", "--json", "--nbits", "4", example, "-o", "out.mlpackage"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto report = nlohmann::json::parse(run.out);
  EXPECT_EQ(report["summary"]["weights_done"], 3);
  EXPECT_LT(report["summary"]["bits_per_weight"].get<double>(), 4.02);
  EXPECT_GT(report["summary"]["snr_db"].get<double>(), 19.9);
}

}  // namespace
}  // namespace cmlc::test
