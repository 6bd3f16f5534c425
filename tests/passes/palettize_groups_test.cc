// Palettize with a LUT for each group of channels.
#include <algorithm>
#include <cmath>
#include <map>

#include "numeric/kmeans1d.h"
#include "numeric/lut_fit.h"
#include "support/pass_run.h"

namespace cmlc::test {
namespace {

// The group of an element, channels lying along `axis`.
size_t GroupOf(const Shape& shape, size_t axis, int64_t group_size, size_t position) {
  size_t inner = 1;
  for (size_t d = axis + 1; d < shape.size(); ++d) inner *= static_cast<size_t>(shape[d]);
  return position / inner % static_cast<size_t>(shape[axis]) / static_cast<size_t>(group_size);
}

// The least error of a table for these values, and that of the optimal table rounded to the type.
struct Oracle {
  double bound = 0;
  double rounded = 0;
};
Oracle OptimumFor(const std::vector<float>& values, int entries, numeric::EntryType type) {
  std::map<double, double> counts;
  for (const float value : values) counts[value] += 1;
  std::vector<double> points, weights;
  for (const auto& [point, weight] : counts) {
    points.push_back(point);
    weights.push_back(weight);
  }
  numeric::KMeans1d solver;
  const numeric::Clustering& found = solver.Solve(points, weights, entries);
  Oracle oracle{.bound = found.lower_bound};
  for (const float value : values) {
    double nearest = 1e300;
    for (const double centroid : found.centroids)
      nearest = std::min(
          nearest, std::abs(value - static_cast<double>(numeric::RoundEntry(centroid, type))));
    oracle.rounded += nearest * nearest;
  }
  return oracle;
}

struct GroupCase {
  const char* name;
  PackageBuilder (*make)(DataType dtype);
  size_t axis;
  friend void PrintTo(const GroupCase& op, std::ostream* out) { *out << op.name; }
};

const GroupCase kGroupCases[] = {
    {"conv", [](DataType t) { return OneConv(t, 8, 12, 3, 9); }, 0},
    {"convTranspose", [](DataType t) { return OneConvTranspose(t, 8, 12, 3, 9); }, 1},
    {"linear", [](DataType t) { return OneLinear(t, 8, 60, 9); }, 0},
    {"matmulY", [](DataType t) { return OneMatmul(t, 8, 60, false, 9); }, 1},
    {"matmulYTransposed", [](DataType t) { return OneMatmul(t, 8, 60, true, 9); }, 0},
    {"matmulX", [](DataType t) { return OneMatmulX(t, 8, 60, false, 9); }, 0},
    {"matmulXTransposed", [](DataType t) { return OneMatmulX(t, 8, 60, true, 9); }, 1},
    {"gather", [](DataType t) { return OneGather(t, 8, 60, 9); }, 0},
};

class PalettizeGroups : public ::testing::TestWithParam<GroupCase> {};

TEST_P(PalettizeGroups, GiveEachGroupOfOutputChannelsItsBestTable) {
  for (const auto& [dtype, group_size, nbits] : {std::tuple{DataType::kFloat16, 1, 2},
                                                 {DataType::kFloat16, 4, 3},
                                                 {DataType::kFloat32, 2, 4}}) {
    const PassRun run(GetParam().make(dtype), Palettize({{"nbits", std::to_string(nbits)},
                                                         {"group_size", std::to_string(group_size)},
                                                         {"weight_threshold", "0"}}));
    ASSERT_TRUE(IsDone(run));
    const Shape shape = run.weight().shape;
    const size_t groups = static_cast<size_t>(8 / group_size);
    const size_t entries = size_t{1} << nbits;

    Shape lut_shape(shape.size(), 1);
    lut_shape[GetParam().axis] = static_cast<int64_t>(groups);
    lut_shape.push_back(static_cast<int64_t>(entries));
    lut_shape.push_back(1);
    EXPECT_EQ(StaticShape(run.after().Operand("weight", "lut").type), lut_shape);
    EXPECT_EQ(StaticShape(run.after().Operand("weight", "indices").type), shape);

    const std::vector<float> before = run.before().Values("weight");
    const std::vector<float> after = run.after().Values("weight");
    const std::vector<float> lut = run.after().Floats(run.after().Operand("weight", "lut"));
    const std::vector<int> codes =
        run.after().Codes(run.after().Operand("weight", "indices"), before.size(), nbits);
    ASSERT_EQ(lut.size(), groups * entries);
    std::vector<std::vector<float>> old_values(groups), new_values(groups);
    for (size_t i = 0; i < before.size(); ++i) {
      const size_t group = GroupOf(shape, GetParam().axis, group_size, i);
      old_values[group].push_back(before[i]);
      new_values[group].push_back(after[i]);
      ASSERT_EQ(after[i], lut[group * entries + static_cast<size_t>(codes[i])]) << "at " << i;
    }
    const auto type =
        dtype == DataType::kFloat16 ? numeric::EntryType::kHalf : numeric::EntryType::kFloat;
    for (size_t group = 0; group < groups; ++group) {
      const Oracle oracle = OptimumFor(old_values[group], static_cast<int>(entries), type);
      const double error = SquaredDistance(old_values[group], new_values[group]);
      EXPECT_GE(error, oracle.bound * (1 - 1e-6)) << "group " << group;
      EXPECT_LE(error, oracle.rounded * (1 + 1e-6)) << "group " << group;
      EXPECT_TRUE(std::is_sorted(lut.begin() + static_cast<std::ptrdiff_t>(group * entries),
                                 lut.begin() + static_cast<std::ptrdiff_t>((group + 1) * entries)));
    }
    EXPECT_TRUE(QualityAgrees(run));
    EXPECT_EQ(run.weight().form, std::to_string(nbits) + "-bit LUT for each " +
                                     std::to_string(group_size) + " channels of axis " +
                                     std::to_string(GetParam().axis));
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, PalettizeGroups, ::testing::ValuesIn(kGroupCases),
                         [](const auto& op) { return op.param.name; });

std::string LutShape(const PassRun& run, const std::string& weight = "weight") {
  return ToString(*StaticShape(run.after().Operand(weight, "lut").type));
}

TEST(PalettizeGroups, RaiseAnOlderModel) {
  const PassRun run(OneConv(DataType::kFloat16, 16, 16, 3),
                    Palettize({{"nbits", "4"}, {"group_size", "8"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.report().version_after, 9);
  EXPECT_EQ(run.after().Print("weight"),
            "constexpr_lut_to_dense(indices: uint4 [16, 16, 3, 3] file, lut: fp16 [2, 1, 1, 1, 16, "
            "1] file) -> fp16 [16, 16, 3, 3]");
}

TEST(PalettizeGroups, OfTheWholeAxisAreOneTableAndRaiseNothing) {
  for (const char* group_size : {"0", "16"}) {
    const PassRun run(OneConv(DataType::kFloat16, 16, 16, 3),
                      Palettize({{"nbits", "4"}, {"group_size", group_size}}));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(run.report().version_after, 7);
    EXPECT_EQ(run.after().Print("weight"),
              "constexpr_lut_to_dense[indices: uint8 [1152] file, lut: fp16 [16] file, shape: "
              "uint32 [4] spec] -> fp16 [16, 16, 3, 3]");
  }
}

TEST(PalettizeGroups, HaveThirtyTwoChannelsUnlessSaidOtherwise) {
  const PassRun run(OneLinear(DataType::kFloat16, 96, 64, 9),
                    Palettize({{"nbits", "2"}, {"granularity", "per_grouped_channel"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(LutShape(run), "[3, 1, 4, 1]");
}

TEST(PalettizeGroups, MayLieAlongAnyAxis) {
  const std::pair<const char*, const char*> cases[] = {{"0", "[8, 1, 1, 1, 4, 1]"},
                                                       {"1", "[1, 6, 1, 1, 4, 1]"},
                                                       {"2", "[1, 1, 2, 1, 4, 1]"},
                                                       {"-1", "[1, 1, 1, 2, 4, 1]"},
                                                       {"-4", "[8, 1, 1, 1, 4, 1]"}};
  for (const auto& [axis, lut] : cases) {
    const PassRun run(OneConv(DataType::kFloat16, 16, 12, 4, 9),
                      Palettize({{"nbits", "2"}, {"group_size", "2"}, {"channel_axis", axis}}));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(LutShape(run), lut) << "axis " << axis;
    EXPECT_TRUE(QualityAgrees(run));
  }
}

TEST(PalettizeGroups, LeaveAWeightWithoutThatAxis) {
  for (const char* axis : {"2", "-3"}) {
    const PassRun run(OneLinear(DataType::kFloat16, 64, 64, 9),
                      Palettize({{"nbits", "2"}, {"channel_axis", axis}}));
    EXPECT_TRUE(Left(run, "weight",
                     std::string("channel_axis ") + axis + " is not an axis of shape [64, 64]"));
  }
}

TEST(PalettizeGroups, LeaveAWeightTheyDoNotDivide) {
  const PassRun run(OneLinear(DataType::kFloat16, 60, 64),
                    Palettize({{"nbits", "2"}, {"group_size", "16"}}));
  EXPECT_TRUE(
      Left(run, "weight", "group_size 16 does not divide 60 channels (axis 0 of [60, 64])"));
  EXPECT_EQ(run.report().version_after, 7);
  const PassRun larger(OneLinear(DataType::kFloat16, 16, 256),
                       Palettize({{"nbits", "2"}, {"group_size", "32"}}));
  EXPECT_TRUE(Left(larger, "weight", "group_size 32 does not divide 16 channels"));
}

// Read by a linear (output channels on axis 0) and by a matmul (on axis 1).
PackageBuilder ReadAlongTwoAxes() {
  PackageBuilder package = OneLinear(DataType::kFloat16, 64, 64, 9);
  BlockBuilder main = package.Function("main");
  main.Const("no", BoolValue(false));
  main.Op("matmul", "z",
          {{"x", "x"}, {"y", "weight"}, {"transpose_x", "no"}, {"transpose_y", "no"}},
          TensorType(DataType::kFloat16, {1, 64}));
  main.Output("z");
  return package;
}

TEST(PalettizeGroups, LeaveAWeightWhoseReadersDisagreeOnTheAxis) {
  const PassRun run(ReadAlongTwoAxes(), Palettize({{"nbits", "2"}, {"group_size", "16"}}));
  EXPECT_TRUE(Left(run, "weight", "linear 'y' axis 0, matmul 'z' axis 1"));
}

TEST(PalettizeGroups, AxesDoNotMatterWithoutGroups) {
  const PassRun run(ReadAlongTwoAxes(), Palettize({{"nbits", "2"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.weight().consumers,
            (std::vector<std::string>{"linear 'y' weight", "matmul 'z' y"}));
}

TEST(PalettizeGroups, ANamedAxisSettlesWhatReadersDisagreeOn) {
  const PassRun run(ReadAlongTwoAxes(),
                    Palettize({{"nbits", "2"}, {"group_size", "16"}, {"channel_axis", "1"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(LutShape(run), "[1, 4, 4, 1]");
}

// Batched matmul: the axis counts from the end.
TEST(PalettizeGroups, OfBatchedMatmuls) {
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  main.BlobConst("w", DataType::kFloat16, {2, 1, 70, 36},
                 RandomWeights(DataType::kFloat16, 5040, 3));
  main.Op("matmul", "y", {{"x", "x"}, {"y", "w"}}, TensorType(DataType::kFloat16, {2, 1, 1, 36}));
  main.Output("y");
  const PassRun run(package, Palettize({{"nbits", "3"}, {"group_size", "12"}}));
  ASSERT_TRUE(IsDone(run, "w"));
  EXPECT_EQ(LutShape(run, "w"), "[1, 1, 1, 3, 8, 1]");
  EXPECT_TRUE(QualityAgrees(run, "w"));
}

// Groups that alternate in memory, many more of them than fit into one band, and several chunks.
TEST(PalettizeGroups, AreExactOnLargeWeights) {
  for (const DataType dtype : {DataType::kFloat16, DataType::kFloat32}) {
    const PassRun run(OneMatmul(dtype, 2080, 2048, false, 9),
                      Palettize({{"nbits", "4"}, {"group_size", "16"}}), {.threads = 3});
    static_assert(2080 * 2048 > kLargeWeight);
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(LutShape(run), "[1, 130, 16, 1]");
    EXPECT_TRUE(QualityAgrees(run));
  }
}

TEST(PalettizeGroups, UniqueModeUsesTheWidestGroup) {
  std::vector<float> values(64 * 64);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = i < 2048 ? static_cast<float>(i % 2) : static_cast<float>(i % 5);
  const PassRun run(LinearOf(DataType::kFloat16, {64, 64}, values, 9),
                    Palettize({{"mode", "unique"}, {"group_size", "32"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(LutShape(run), "[2, 1, 8, 1]");
  EXPECT_EQ(run.after().Values("weight"), values);
}

TEST(PalettizeGroups, UniqueModeCountsWithinAGroup) {
  std::vector<float> values(64 * 64);  // 2048 distinct, 32 in each row
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i / 64 * 32 + i % 32);
  const PassRun rows(LinearOf(DataType::kFloat32, {64, 64}, values),
                     Palettize({{"mode", "unique"}, {"group_size", "1"}}));
  ASSERT_TRUE(IsDone(rows));
  EXPECT_EQ(LutShape(rows), "[64, 1, 64, 1]");
  EXPECT_EQ(rows.after().Values("weight"), values);
}

// Nothing is gained by a newer system if the weight is left after all.
TEST(PalettizeGroups, TooManyDistinctValuesRaiseNothing) {
  const PassRun run(OneLinear(DataType::kFloat32, 64, 1024),
                    Palettize({{"mode", "unique"}, {"group_size", "32"}}));
  EXPECT_TRUE(Left(run, "weight", "256"));
  EXPECT_EQ(run.report().version_after, 7);
}

TEST(PalettizeGroups, NameTheElementThatIsNotFinite) {
  for (const DataType dtype : {DataType::kFloat16, DataType::kFloat32}) {
    std::vector<float> values = Gaussian(4096, 1);
    values[1234] = std::nanf("");
    values[3000] = INFINITY;
    for (const char* axis : {"0", "1"}) {
      const PassRun run(LinearOf(dtype, {64, 64}, values, 9),
                        Palettize({{"nbits", "2"}, {"group_size", "8"}, {"channel_axis", axis}}));
      // On axis 1 the groups of columns 16-23 and 56-63 have one each.
      EXPECT_TRUE(Left(run, "weight", "element 1234 "));
    }
  }
}

}  // namespace
}  // namespace cmlc::test
