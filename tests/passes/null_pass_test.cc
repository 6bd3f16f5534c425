// Null: reading and writing without a pass gives the same model.
#include "support/pass_run.h"

namespace cmlc::test {
namespace {

TEST(NullPass, GivesAnEqualPackage) {
  for (const int32_t version : {7, 9}) {
    for (const PackageBuilder& package : {OneLinear(DataType::kFloat16, 16, 256, version),
                                          OneConv(DataType::kFloat32, 16, 16, 3, version),
                                          OneGather(DataType::kFloat16, 100, 32, version)}) {
      const PassRun run(package, NullPass());
      ASSERT_TRUE(run.ok()) << run.error();
      // Only the manifest's identifiers are new: they are made from what is in the package.
      EXPECT_TRUE(SamePackage(run.output(), run.input(), /*manifest=*/false));
      EXPECT_EQ(run.report().package_bytes_after, run.report().package_bytes_before);
    }
  }
}

TEST(NullPass, SaysOfEveryWeightThatItIsLeft) {
  const PassRun run(OneLinear(DataType::kFloat16, 16, 256), NullPass());
  EXPECT_TRUE(Left(run, "weight", "this pass changes nothing"));
  EXPECT_EQ(run.weight().form, "fp16");
  EXPECT_EQ(run.weight().bytes_before, 8192u);
}

TEST(NullPass, DropsBlobsThatNothingRefersTo) {
  PackageBuilder package = OneLinear(DataType::kFloat16, 16, 256);
  package.Function("main").Blob(DataType::kFloat16, {100, 100},
                                RandomWeights(DataType::kFloat16, 10000, 5));
  const PassRun run(package, NullPass());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_GE(run.report().package_bytes_before, run.report().package_bytes_after + 64 + 20000);
  EXPECT_EQ(run.after().Values("weight"), run.before().Values("weight"));
}

TEST(NullPass, StoresEqualBlobsOnce) {
  const std::string bytes = RandomWeights(DataType::kFloat16, 4096, 1);
  const PassRun run(Linears(DataType::kFloat16, {16, 256}, {bytes, bytes, bytes}), NullPass());
  ASSERT_TRUE(run.ok()) << run.error();
  const Opened& after = run.after();
  const TensorId first = after.Tensor(after.Operand("w0", "val"));
  EXPECT_EQ(after.Tensor(after.Operand("w1", "val")), first);
  EXPECT_EQ(after.Tensor(after.Operand("w2", "val")), first);
  EXPECT_GE(run.report().package_bytes_before, run.report().package_bytes_after + 2 * (64 + 8192));
}

TEST(NullPass, MayRaiseTheTarget) {
  const PassRun run(OneLinear(DataType::kFloat16, 16, 256), NullPass(), {.target = "iOS18"});
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_EQ(run.after().model().specification_version, 9);
  EXPECT_EQ(run.after().Ops(), run.before().Ops());
}

}  // namespace
}  // namespace cmlc::test
