// `activations`, and presets of `run`, as their users see them.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "support/cli.h"
#include "support/pass_run.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

const fs::path kDigits = fs::path(CMLC_SOURCE_DIR) / "examples/digits";

class ActivationsCommand : public ::testing::Test {
 protected:
  ActivationsCommand() { fs::copy(kDigits, dir_.path(), fs::copy_options::recursive); }
  Outcome Run(const std::vector<std::string>& arguments) const {
    return RunCmlc(dir_.path(), arguments);
  }
  void Fails(const std::vector<std::string>& arguments, int exit_code,
             std::string_view fragment) const {
    ExpectFails(Run(arguments), exit_code, fragment);
    EXPECT_FALSE(fs::exists(dir_ / "out.mlpackage"));
  }

  TempDir dir_;
};

TEST_F(ActivationsCommand, SaysWhatItDid) {
  const Outcome run = Run({"activations", "digits.mlpackage", "--data", "samples/images.npy",
                           "--batched", "-o", "out.mlpackage"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.err, "");
  EXPECT_EQ(std::regex_replace(run.out, std::regex(R"(> [\d,]+ bytes \([\d.]+ times)"),
                               "> N bytes (R times"),
            "activations: 9 values quantized\n"
            "in float: cast 2, relu 4, reshape 1, softmax 1\n"
            "rewritten: 'input_19_cast_fp16' reshapes codes\n"
            "rewritten: 'var_64_cast_fp16': the scale of 'var_63_cast_fp16_dequantized' becomes "
            "1\n"
            "package: 385,833 -> N bytes (R times smaller), T\n"
            "needs: iOS 17, macOS 14, tvOS 17, watchOS 10, visionOS 1 or later (raised)\n"
            "wrote: out.mlpackage\n");
}

TEST_F(ActivationsCommand, PlansListsAndReportsEveryValue) {
  ASSERT_EQ(Run({"calibrate", "digits.mlpackage", "--data", "samples/images.npy", "--batched", "-o",
                 "d.stats"})
                .exit_code,
            0);
  const Outcome plan = Run({"activations", "digits.mlpackage", "--stats", "d.stats", "--dry-run",
                            "--op-name", "linear_1*=null"});
  EXPECT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_NE(plan.out.find("activations: image_to_fp16 fp16 (conv 'input_5_cast_fp16' x): int8, "
                          "scale 0.00787354\n"),
            std::string::npos)
      << plan.out;
  EXPECT_FALSE(fs::exists(dir_ / "digits-a8.mlpackage"));
  const Outcome json = Run({"activations", "digits.mlpackage", "--stats", "d.stats", "--json",
                            "--op-type", "linear=null", "-o", "out.mlpackage"});
  ASSERT_EQ(json.exit_code, 0) << json.err;
  const auto report = nlohmann::json::parse(json.out);
  EXPECT_EQ(report["summary"]["values_quantized"], 6);
  EXPECT_EQ(report["summary"]["left_by_category"]["left alone by a rule"], 2);
  EXPECT_EQ(report["activations"].size(), 8u);
  EXPECT_EQ(report["activations"][0]["name"], "image_to_fp16");
  EXPECT_EQ(report["activations"][0]["greatest"], 1.0);
}

TEST_F(ActivationsCommand, PresetsAreRecipes) {
  for (const std::string preset : {"w8a8", "a8w4"}) {
    const Outcome run = Run({"run", "digits.mlpackage", "--preset", preset, "--data",
                             "samples/images.npy", "--batched", "-o", preset + ".mlpackage"});
    EXPECT_EQ(run.exit_code, 0) << run.err;
    const Outcome recipe =
        Run({"run", "digits.mlpackage", "--recipe",
             (fs::path(CMLC_SOURCE_DIR) / ("examples/recipes/" + preset + ".yaml")).string(),
             "--data", "samples/images.npy", "--batched", "-o", "recipe.mlpackage"});
    EXPECT_EQ(recipe.exit_code, 0) << recipe.err;
    EXPECT_TRUE(SamePackage(dir_ / (preset + ".mlpackage"), dir_ / "recipe.mlpackage"));
    // At most 0.5 points of accuracy.
    const Outcome compared =
        Run({"compare", "digits.mlpackage", preset + ".mlpackage", "--input", "samples/images.npy",
             "--batched", "--labels", "samples/labels.npy", "--min-accuracy", "0.991"});
    EXPECT_EQ(compared.exit_code, 0) << compared.out << compared.err;
  }
}

TEST_F(ActivationsCommand, Errors) {
  Fails({"activations", "digits.mlpackage", "-o", "out.mlpackage"}, 2,
        "expected --data DATA to run the model over, or --stats FILE of `cmlc calibrate`");
  Fails({"activations", "digits.mlpackage", "--stats", "none.stats", "-o", "out.mlpackage"}, 3,
        "none.stats");
  Fails({"activations", "digits.mlpackage", "--random", "1", "--ranges", "best", "-o",
         "out.mlpackage"},
        2, "ranges: expected one of mse, minmax, ema, percentile, kl, got 'best'");
  Fails({"activations", "digits.mlpackage", "--random", "1", "--percentile", "99", "-o",
         "out.mlpackage"},
        2, "percentile: goes with ranges percentile, got mse");
  Fails({"activations", "digits.mlpackage", "--random", "1", "--ops", "softmax,nothing", "-o",
         "out.mlpackage"},
        2, "ops: expected some of batch_norm, concat");
  Fails({"run", "digits.mlpackage", "--preset", "w7a7", "-o", "out.mlpackage"}, 2,
        "--preset 'w7a7': expected one of a8w4, w8a8");
  Fails({"run", "digits.mlpackage", "--pass", "palettize:nbits=4", "--random", "1", "-o",
         "out.mlpackage"},
        2, "palettize: --data: no pass of this run goes by data");
}

TEST_F(ActivationsCommand, RandomNumbersAreNoCalibration) {
  const Outcome run =
      Run({"activations", "digits.mlpackage", "--random", "2", "-o", "out.mlpackage"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.err.find("warning: the inputs are random numbers"), std::string::npos) << run.err;
}

TEST_F(ActivationsCommand, PrintsItsRecipe) {
  const Outcome run = Run({"activations", "digits.mlpackage", "--mode", "linear", "--ops",
                           "softmax,matmul", "--op-type", "add=null", "--print-recipe"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.out,
            "passes:\n"
            "  - activations:\n"
            "      mode: linear\n"
            "      ops: softmax,matmul\n"
            "      op_types:\n"
            "        add: ~\n");
}

}  // namespace
}  // namespace cmlc::test
