// `predict` and `compare` as their users see them: exact output, exit codes, what is left on the
// disk.
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "base/npy.h"
#include "base/zip.h"
#include "support/cli.h"
#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

std::vector<std::string> Names(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

// Gives back its input, and a weight.
void WriteModel(const fs::path& path, const std::vector<float>& weight,
                DataType dtype = DataType::kFloat32, const std::string& name = "w") {
  PackageBuilder package(7);
  package.DescribeInput("x", DataType::kFloat32, {1, 2});
  package.DescribeOutput("y", DataType::kFloat32);
  package.DescribeOutput("z", dtype);
  package.FunctionInput("main", "x", TensorType(DataType::kFloat32, {1, 2}));
  BlockBuilder main = package.Function("main");
  const Shape shape = {1, static_cast<int64_t>(weight.size())};
  main.BlobConst(name, dtype, shape, FloatBytes(dtype, weight));
  main.Op("identity", "y", {{"x", "x"}}, TensorType(DataType::kFloat32, {1, 2}));
  main.Op("identity", "z", {{"x", name}}, TensorType(dtype, shape));
  main.Output("y");
  main.Output("z");
  package.Write(path);
}

class Running : public ::testing::Test {
 protected:
  Running() {
    WriteModel(dir_ / "a.mlpackage", {1, 2, 4});
    WriteModel(dir_ / "b.mlpackage", {1, 2, 5});
    WriteFile(dir_ / "x.json", "[[1, 2.5]]");
    WriteFile(dir_ / "many.npy", NpyHeader("<f4", {3, 2}) + BytesOf<float>({1, 2, 3, 4, 5, 6}));
    before_ = Names(dir_.path());
  }
  Outcome Run(const std::vector<std::string>& arguments) { return RunCmlc(dir_.path(), arguments); }

  TempDir dir_;
  std::vector<std::string> before_;
};

TEST_F(Running, PredictPrintsJsonWithoutAnOutput) {
  const Outcome run = Run({"predict", "a.mlpackage", "--input", "x.json"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(run.err, "");
  EXPECT_EQ(run.out,
            "{\"function\": \"main\", \"data\": \"given\", \"samples\": [\n"
            "  {\"y\": [[1, 2.5]], \"z\": [[1, 2, 4]]}\n"
            "]}\n");
}

TEST_F(Running, PredictStacksSamplesInAnNpzFile) {
  const Outcome run =
      Run({"predict", "a.mlpackage", "--input", "x=many.npy", "--batched", "-o", "out.npz"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(run.err, "");
  EXPECT_EQ(run.out,
            "predict: 3 samples (given), function 'main', T\n"
            "output y: fp32 [1, 2], stored as fp32 [3, 2]\n"
            "output z: fp32 [1, 3], stored as fp32 [3, 3]\n"
            "wrote: out.npz\n");
  const auto zip = ZipReader::Open(dir_ / "out.npz");
  ASSERT_TRUE(Succeeds(zip));
  ASSERT_EQ(zip->entries().size(), 2u);
  EXPECT_EQ(zip->entries()[0].name, "y.npy");
  auto source = zip->OpenEntry(zip->entries()[0]);
  ASSERT_TRUE(Succeeds(source));
  auto reader = NpyReader::Open(std::move(*source), "y");
  ASSERT_TRUE(Succeeds(reader));
  const auto array = reader->ReadAll();
  ASSERT_TRUE(Succeeds(array));
  EXPECT_EQ(array->shape, (Shape{3, 2}));
  EXPECT_EQ(array->bytes, BytesOf<float>({1, 2, 3, 4, 5, 6}));
  // What is written can be read, and is the same each time.
  const std::string bytes = ReadFile(dir_ / "out.npz");
  Run({"predict", "a.mlpackage", "--input", "x=many.npy", "--batched", "-o", "out.npz", "--threads",
       "3"});
  EXPECT_EQ(ReadFile(dir_ / "out.npz"), bytes);
  before_.push_back("out.npz");
  std::sort(before_.begin(), before_.end());
  EXPECT_EQ(Names(dir_.path()), before_);
}

TEST_F(Running, PredictIsHeldToAnInstructionSet) {
  const auto used = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words = {"predict", "a.mlpackage", "--input", "x.json",
                                      "-o",      "out.json",    "--json"};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome run = Run(words);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return nlohmann::json::parse(run.out)["isa"].get<std::string>();
  };
#ifdef __x86_64__
  EXPECT_EQ(used({"--isa", "v1"}), "v1");
#endif
  EXPECT_NE(used({}), "");
  ExpectFails(Run({"predict", "a.mlpackage", "--input", "x.json", "--isa", "v9"}), 2,
              "--isa 'v9': this processor has ");
}

TEST_F(Running, CalibrateKeepsStatisticsThatStatsShows) {
  const Outcome run =
      Run({"calibrate", "a.mlpackage", "--data", "x=many.npy", "--batched", "-o", "a.stats"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(run.err, "note: 3 samples are few: 64 to 128 are usual\n");
  EXPECT_EQ(run.out,
            "calibrate: 3 samples (given), function 'main', T\n"
            "statistics of 3 values, and of what 0 ops with weights read\n"
            "wrote: a.stats\n");
  const Outcome shown = Run({"stats", "show", "a.stats", "--json"});
  EXPECT_EQ(shown.exit_code, 0);
  const auto json = nlohmann::json::parse(shown.out);
  EXPECT_EQ(json["samples"], 3);
  EXPECT_EQ(json["values"][0]["name"], "x");
  EXPECT_EQ(json["values"][0]["least"], 1);
  EXPECT_EQ(json["values"][0]["greatest"], 6);
  EXPECT_EQ(json["values"][0]["mean"], 3.5);
  const Outcome text = Run({"stats", "show", "a.stats"});
  EXPECT_NE(text.out.find("y (identity)"), std::string::npos) << text.out;
  EXPECT_EQ(Run({"stats", "merge", "a.stats", "a.stats", "-o", "b.stats"}).out, "wrote: b.stats\n");
  EXPECT_EQ(nlohmann::json::parse(Run({"stats", "show", "b.stats", "--json"}).out)["samples"], 6);
  // What calibration makes of random numbers is none.
  const Outcome random = Run({"calibrate", "a.mlpackage", "--random", "20", "-o", "r.stats"});
  EXPECT_EQ(random.exit_code, 0);
  EXPECT_TRUE(random.err.starts_with("warning: the inputs are random numbers")) << random.err;
}

TEST_F(Running, CalibrateFailsInOneLineAndLeavesNothing) {
  ExpectFails(Run({"calibrate", "a.mlpackage", "-o", "a.stats"}), 2, "input");
  ExpectFails(Run({"calibrate", "a.mlpackage", "--input", "x=none.npy", "-o", "a.stats"}), 3,
              "none.npy");
  ExpectFails(Run({"calibrate", "a.mlpackage", "--random", "2", "-o", "none/a.stats"}), 4,
              "cannot create");
  ExpectFails(Run({"stats", "show", "x.json"}), 3,
              "x.json: is no file of statistics, expected one that `cmlc calibrate` wrote");
  ExpectFails(Run({"stats", "merge", "x.json", "-o", "a.stats"}), 3, "x.json");
  EXPECT_EQ(Names(dir_.path()), before_);
}

TEST_F(Running, PredictSaysThatNumbersAreRandom) {
  const Outcome run = Run({"predict", "a.mlpackage", "--random", "2", "--seed", "5"});
  EXPECT_EQ(run.exit_code, 0);
  const auto json = nlohmann::json::parse(run.out);
  EXPECT_EQ(json["data"], "random, seed 5");
  EXPECT_EQ(json["samples"].size(), 2u);
  EXPECT_NE(json["samples"][0]["y"], json["samples"][1]["y"]);
}

TEST_F(Running, PredictFailsInOneLineAndLeavesNothing) {
  WriteFile(dir_ / "bad.npy", NpyHeader("<f4", {1, 3}) + BytesOf<float>({1, 2, 3}));
  WriteFile(dir_ / "cut.npy", NpyHeader("<f4", {1, 2}) + "abc");
  before_ = Names(dir_.path());
  ExpectFails(Run({"predict", "a.mlpackage", "--input", "bad.npy", "-o", "o.npz"}), 3,
              "input 'x': bad.npy: is fp32 [1, 3], expected fp32 [1, 2]");
  ExpectFails(Run({"predict", "a.mlpackage", "--input", "cut.npy", "-o", "o.npz"}), 3, "cut short");
  ExpectFails(Run({"predict", "a.mlpackage", "--input", "none.npy"}), 3, "none.npy");
  ExpectFails(Run({"predict", "a.mlpackage"}), 2, "--input FILE or --random N for 'x'");
  ExpectFails(Run({"predict", "a.mlpackage", "--input", "x.json", "-o", "o.txt"}), 2, ".npz");
  ExpectFails(Run({"predict", "a.mlpackage", "--input", "x.json", "--function", "f"}), 2, "main");
  ExpectFails(Run({"predict", "a.mlpackage", "--input", "x.json", "--max-steps", "1"}), 3,
              "--max-steps 1");
  ExpectFails(Run({"predict", "a.mlpackage", "--input", "many.npy", "--batched", "-o", "many.npy"}),
              2, "many.npy: is an input");
  ExpectFails(Run({"predict", "a.mlpackage", "--input", "x.json", "-o", "none/o.npz"}), 4, "none");
  EXPECT_EQ(Names(dir_.path()), before_);
}

TEST_F(Running, PredictNamesWhatItCannotRun) {
  PackageBuilder package(7);
  package.FunctionInput("main", "x", TensorType(DataType::kFloat32, {1, 2}));
  BlockBuilder main = package.Function("main");
  main.Op("no_such_op", "y", {{"x", "x"}}, TensorType(DataType::kFloat32, {1, 2}));
  main.Output("y");
  package.Write(dir_ / "c.mlpackage");
  ExpectFails(Run({"predict", "c.mlpackage", "--input", "x.json"}), 3,
              "ops that cannot be run: no_such_op (1 of them: no such op is known)");
}

TEST_F(Running, PredictRunsTheProgramOfAPipeline) {
  PackageBuilder package(7);
  ModelBuilder& member = package.AddMember(7, "network");
  member.DescribeInput("x", DataType::kFloat32, {1, 2});
  member.FunctionInput("main", "x", TensorType(DataType::kFloat32, {1, 2}));
  BlockBuilder main = member.Function("main");
  main.Op("identity", "y", {{"x", "x"}}, TensorType(DataType::kFloat32, {1, 2}));
  main.Output("y");
  package.AddMember(7, "boxes").message().set_nonmaximumsuppression("");
  package.Write(dir_ / "p.mlpackage");
  const Outcome run = Run({"predict", "p.mlpackage", "--input", "x.json"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(run.err,
            "note: p.mlpackage: of this pipeline its ML Program runs; not run: "
            "nonMaximumSuppression 'boxes'\n");
  EXPECT_NE(run.out.find("{\"y\": [[1, 2.5]]}"), std::string::npos) << run.out;
}

TEST_F(Running, CompareNeedsNoDataForWeights) {
  const Outcome run = Run({"compare", "a.mlpackage", "b.mlpackage"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(run.err, "");
  EXPECT_EQ(run.out,
            "weights: 1 in both, 0 equal, SNR of all 13.22 dB\n"  // 10 log10(21 / 1)
            "bits per weight: 32.00 -> 32.00, 12 -> 12 bytes\n"
            "  w [1, 3]: fp32 -> fp32, 32.00 -> 32.00 bits, SNR 13.22 dB, max error 1\n");
  EXPECT_EQ(Run({"compare", "a.mlpackage", "a.mlpackage"}).out,
            "weights: 1 in both, 1 equal\n"
            "bits per weight: 32.00 -> 32.00, 12 -> 12 bytes\n");
}

TEST_F(Running, CompareMatchesCompressedWeightsByName) {
  WriteModel(dir_ / "large.mlpackage", Gaussian(4096, 1), DataType::kFloat16);
  ASSERT_EQ(
      Run({"palettize", "--nbits", "4", "large.mlpackage", "-o", "s.mlpackage", "-q"}).exit_code,
      0);
  const Outcome run = Run({"compare", "large.mlpackage", "s.mlpackage", "--json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto json = nlohmann::json::parse(run.out);
  ASSERT_EQ(json["weights"].size(), 1u);
  EXPECT_EQ(json["weights"][0]["name"], "w");
  EXPECT_NEAR(json["weights"][0]["snr_db"], 20.2, 1);
  EXPECT_NEAR(json["bits_per_weight_b"], 4, 0.1);
  EXPECT_TRUE(json["only_in_a"].empty() && json["only_in_b"].empty());
  // Decompressed it is the same to the last bit, weight and output.
  ASSERT_EQ(Run({"decompress", "s.mlpackage", "-o", "d.mlpackage", "-q"}).exit_code, 0);
  const Outcome same =
      Run({"compare", "s.mlpackage", "d.mlpackage", "--random", "2", "--max-error", "0"});
  EXPECT_EQ(same.exit_code, 0) << same.err;
  EXPECT_NE(same.out.find("1 equal"), std::string::npos) << same.out;
}

TEST_F(Running, CompareMatchesRenamedWeightsByWhatReadsThem) {
  WriteModel(dir_ / "r.mlpackage", {1, 2, 5}, DataType::kFloat32, "w_palettized");
  const Outcome run = Run({"compare", "a.mlpackage", "r.mlpackage"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_NE(run.out.find("  w [1, 3]: fp32 -> fp32, 32.00 -> 32.00 bits, SNR 13.22 dB"),
            std::string::npos)
      << run.out;
  EXPECT_EQ(run.out.find("only in"), std::string::npos) << run.out;
}

TEST_F(Running, CompareListsWhatOnlyOneHas) {
  WriteModel(dir_ / "c.mlpackage", {1, 2, 4, 5});
  const Outcome run = Run({"compare", "a.mlpackage", "c.mlpackage"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_NE(run.out.find("only in A: w fp32 [1, 3]\nonly in B: w fp32 [1, 4]\n"), std::string::npos)
      << run.out;
}

TEST_F(Running, CompareWithDataLooksAtEveryOutput) {
  const Outcome run =
      Run({"compare", "a.mlpackage", "b.mlpackage", "--input", "many.npy", "--batched"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_NE(run.out.find("samples: 3 (given), function 'main', T\n"), std::string::npos) << run.out;
  // z: 10 log10((21/3 + 1e-5) / (1/3 + 1e-10)); its greatest square is 16.
  EXPECT_NE(
      run.out.find("output z: fp32 [1, 3]\n"
                   "  SNR              mean 13.22 dB, least 13.22 dB (sample 0), 5 % quantile "
                   "13.22 dB\n"
                   "  PSNR             mean 16.81 dB,"),
      std::string::npos)
      << run.out;
  EXPECT_NE(run.out.find("  top-1 agreement  mean 1, least 1"), std::string::npos) << run.out;
}

TEST_F(Running, CompareIsAGate) {
  const std::vector<std::string> base = {"compare", "a.mlpackage", "b.mlpackage",
                                         "--input", "x.json",      "-q"};
  const auto gate = [&](std::vector<std::string> more) {
    more.insert(more.begin(), base.begin(), base.end());
    return Run(more);
  };
  EXPECT_EQ(gate({"--min-snr", "13", "--min-top1", "z=1", "--max-error", "z=1"}).exit_code, 0);
  ExpectFails(gate({"--min-snr", "z=40"}), 5,
              "missed: output 'z': SNR is 13.2222 dB (sample 0), expected at least 40 dB");
  ExpectFails(
      gate({"--max-error", "0.5", "--min-cosine", "1"}), 5,
      "expected at least 1; output 'z': largest error is 1 (sample 0), expected at most 0.5");
  ExpectFails(gate({"--min-weight-snr", "w=20"}), 5, "weight 'w': SNR is 13.2222 dB");
  ExpectFails(gate({"--min-snr", "q=1"}), 2, "no output 'q'");
  ExpectFails(gate({"--min-snr", "z=many"}), 2, "--min-snr 'z=many'");
  ExpectFails(gate({"--min-accuracy", "1"}), 2, "--labels");
  ExpectFails(Run({"compare", "a.mlpackage", "b.mlpackage", "--min-snr", "1"}), 2, "needs data");
}

TEST_F(Running, CompareFailsWhereOneModelAloneHasNan) {
  WriteModel(dir_ / "n.mlpackage", {1, 2, std::nanf("")});
  ExpectFails(Run({"compare", "a.mlpackage", "n.mlpackage", "--input", "x.json", "-q"}), 5,
              "output 'z': 1 elements are NaN or infinite in one model alone");
  EXPECT_EQ(Run({"compare", "n.mlpackage", "n.mlpackage", "--input", "x.json", "-q"}).exit_code, 0);
}

TEST_F(Running, CompareCountsLabels) {
  WriteFile(dir_ / "labels.npy", NpyHeader("<i8", {3}) + BytesOf<int64_t>({2, 2, 0}));
  const Outcome run = Run({"compare", "a.mlpackage", "b.mlpackage", "--input", "many.npy",
                           "--batched", "--labels", "z=labels.npy", "--min-accuracy", "z=0.6"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.out.find("  accuracy         A 0.666667, B 0.666667\n"), std::string::npos)
      << run.out;
  ExpectFails(Run({"compare", "a.mlpackage", "b.mlpackage", "--input", "many.npy", "--batched",
                   "--labels", "labels.npy"}),
              2, "several outputs have scores");
  ExpectFails(Run({"compare", "a.mlpackage", "b.mlpackage", "--input", "x.json", "--labels",
                   "z=labels.npy"}),
              2, "has 3 labels, expected 1");
}

TEST_F(Running, ComparePerOpFindsWhereErrorEnters) {
  const Outcome run =
      Run({"compare", "a.mlpackage", "b.mlpackage", "--input", "x.json", "--per-op"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.out.find("ops: 2 compared, the SNR falls in 1:\n  identity z: by "),
            std::string::npos)
      << run.out;
  EXPECT_NE(run.out.find(" to mean 13.22 dB, max error 1\n"), std::string::npos) << run.out;
}

}  // namespace
}  // namespace cmlc::test
