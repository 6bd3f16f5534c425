// Palettize with cluster_dim: one index for several neighbouring channels.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "numeric/half.h"
#include "support/pass_run.h"

namespace cmlc::test {
namespace {

constexpr DataType kHalf = DataType::kFloat16;
constexpr DataType kFloat = DataType::kFloat32;

// --- Plain references ----------------------------------------------------------------------------

// The vectors of a tensor along an axis, in the order of their indices, and the group of each.
struct Vectors {
  size_t dim;
  std::vector<std::vector<float>> values;
  std::vector<size_t> groups;
};
Vectors VectorsOf(const std::vector<float>& values, const Shape& shape, size_t axis, size_t dim,
                  size_t groups = 1) {
  size_t outer = 1, inner = 1;
  const auto channels = static_cast<size_t>(shape[axis]);
  for (size_t d = 0; d < shape.size(); ++d)
    if (d != axis) (d < axis ? outer : inner) *= static_cast<size_t>(shape[d]);
  Vectors vectors{dim, {}, {}};
  for (size_t o = 0; o < outer; ++o)
    for (size_t c = 0; c < channels; c += dim)
      for (size_t i = 0; i < inner; ++i) {
        std::vector<float> one;
        for (size_t k = 0; k < dim; ++k) one.push_back(values[(o * channels + c + k) * inner + i]);
        vectors.values.push_back(one);
        vectors.groups.push_back(c * groups / channels);
      }
  return vectors;
}

double Distance(const std::vector<float>& a, const float* b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i)
    sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
  return sum;
}

struct Stored {
  Shape lut_shape, index_shape;
  std::vector<float> lut;
  std::vector<int> indices;
};
Stored Take(const PassRun& run, const std::string& name = "weight") {
  const Value& lut = run.after().Operand(name, "lut");
  const Value& indices = run.after().Operand(name, "indices");
  Stored stored{*StaticShape(lut.type), *StaticShape(indices.type), run.after().Floats(lut), {}};
  stored.indices = run.after().Codes(indices, *ElementCount(stored.index_shape),
                                     BitsOf(indices.type.tensor.dtype));
  return stored;
}

// Every vector has the nearest entry of its group's table, decodes to it, and the report knows what
// that costs.
void ExpectNearest(const PassRun& run, size_t axis, size_t dim, size_t groups = 1) {
  const Stored stored = Take(run);
  const Shape shape = run.weight().shape;
  const Vectors before = VectorsOf(run.before().Values("weight"), shape, axis, dim, groups);
  const Vectors after = VectorsOf(run.after().Values("weight"), shape, axis, dim, groups);
  ASSERT_EQ(stored.indices.size(), before.values.size());
  const size_t entries = stored.lut.size() / dim / groups;
  for (size_t v = 0; v < before.values.size(); ++v) {
    const float* table = stored.lut.data() + before.groups[v] * entries * dim;
    const float* entry = table + static_cast<size_t>(stored.indices[v]) * dim;
    ASSERT_EQ(after.values[v], std::vector<float>(entry, entry + dim)) << "vector " << v;
    const double mine = Distance(before.values[v], entry);
    for (size_t e = 0; e < entries; ++e)
      ASSERT_LE(mine, Distance(before.values[v], table + e * dim) * (1 + 1e-5) + 1e-12)
          << "vector " << v << ", entry " << e;
  }
  EXPECT_TRUE(QualityAgrees(run));
}

// --- Layouts -------------------------------------------------------------------------------------

struct LayoutCase {
  const char* name;
  PackageBuilder (*make)(DataType dtype);
  size_t axis;  // of 24 output channels
  friend void PrintTo(const LayoutCase& layout, std::ostream* out) { *out << layout.name; }
};

const LayoutCase kLayouts[] = {
    {"conv", [](DataType t) { return OneConv(t, 24, 10, 3, 9); }, 0},
    {"convTranspose", [](DataType t) { return OneConvTranspose(t, 24, 10, 3, 9); }, 1},
    {"linear", [](DataType t) { return OneLinear(t, 24, 90, 9); }, 0},
    {"matmulY", [](DataType t) { return OneMatmul(t, 24, 90, false, 9); }, 1},
    {"matmulYTransposed", [](DataType t) { return OneMatmul(t, 24, 90, true, 9); }, 0},
    {"matmulX", [](DataType t) { return OneMatmulX(t, 24, 90, false, 9); }, 0},
    {"matmulXTransposed", [](DataType t) { return OneMatmulX(t, 24, 90, true, 9); }, 1},
    {"gather", [](DataType t) { return OneGather(t, 24, 90, 9); }, 0},
};

class PalettizeVectors : public ::testing::TestWithParam<LayoutCase> {};

TEST_P(PalettizeVectors, RunAlongOutputChannels) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const auto& [dim, nbits] : {std::pair{2, 4}, {4, 6}, {3, 3}, {8, 2}, {24, 1}}) {
      const PassRun run(GetParam().make(dtype), Palettize({{"nbits", std::to_string(nbits)},
                                                           {"cluster_dim", std::to_string(dim)}}));
      SCOPED_TRACE(NameOf(dtype) + " " + std::to_string(dim));
      ASSERT_TRUE(IsDone(run));
      const Stored stored = Take(run);
      Shape indices = run.weight().shape;
      indices[GetParam().axis] /= dim;
      EXPECT_EQ(stored.index_shape, indices);
      Shape lut(indices.size(), 1);
      lut.insert(lut.end(), {int64_t{1} << nbits, dim});
      EXPECT_EQ(stored.lut_shape, lut);
      EXPECT_EQ(ImmediateInts(run.after().Operand("weight", "vector_axis")),
                std::vector<int64_t>{static_cast<int64_t>(GetParam().axis)});
      ExpectNearest(run, GetParam().axis, static_cast<size_t>(dim));
      EXPECT_EQ(run.weight().form,
                std::to_string(nbits) + "-bit LUT of " + std::to_string(dim) + "-vectors");
    }
}

TEST_P(PalettizeVectors, WithTablesForGroups) {
  for (const auto& [dim, group] : {std::pair{2, 8}, {4, 4}, {3, 12}}) {
    const PassRun run(GetParam().make(kHalf), Palettize({{"nbits", "3"},
                                                         {"cluster_dim", std::to_string(dim)},
                                                         {"group_size", std::to_string(group)}}));
    SCOPED_TRACE(std::to_string(dim) + " of " + std::to_string(group));
    ASSERT_TRUE(IsDone(run));
    Shape lut(run.weight().shape.size(), 1);
    lut[GetParam().axis] = 24 / group;
    lut.insert(lut.end(), {8, dim});
    EXPECT_EQ(Take(run).lut_shape, lut);
    ExpectNearest(run, GetParam().axis, static_cast<size_t>(dim), static_cast<size_t>(24 / group));
    EXPECT_EQ(run.weight().form, "3-bit LUT of " + std::to_string(dim) + "-vectors for each " +
                                     std::to_string(group) + " channels of axis " +
                                     std::to_string(GetParam().axis));
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, PalettizeVectors, ::testing::ValuesIn(kLayouts),
                         [](const auto& layout) { return layout.param.name; });

// --- Forms ---------------------------------------------------------------------------------------

TEST(PalettizeVector, RaisesAnOlderModel) {
  const PassRun run(OneConv(kHalf, 16, 16, 3), Palettize({{"nbits", "4"}, {"cluster_dim", "4"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.report().version_after, 9);
  EXPECT_EQ(run.after().Print("weight"),
            "constexpr_lut_to_dense(indices: uint4 [4, 16, 3, 3] file, lut: fp16 [1, 1, 1, 1, 16, "
            "4] file, vector_axis: int32 spec) -> fp16 [16, 16, 3, 3]");
  const PassRun refused(OneConv(kHalf, 16, 16, 3),
                        Palettize({{"nbits", "4"}, {"cluster_dim", "4"}}), {.target = "iOS17"});
  EXPECT_TRUE(Fails(refused.result(), ErrorKind::kUsage,
                    {"'weight' needs iOS18 for LUT entries that are vectors (cluster_dim)"}));
}

TEST(PalettizeVector, OfOneIsAScalar) {
  const PassRun run(OneLinear(kHalf, 16, 256), Palettize({{"nbits", "4"}, {"cluster_dim", "1"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.report().version_after, 7);
  EXPECT_EQ(run.weight().form, "4-bit LUT");
}

TEST(PalettizeVector, MayLieAlongAnyAxis) {
  for (const auto& [axis, at] : {std::pair{"0", 0}, {"1", 1}, {"2", 2}, {"-1", 3}, {"-4", 0}}) {
    const PassRun run(OneConv(kHalf, 16, 12, 4, 9),
                      Palettize({{"nbits", "4"}, {"cluster_dim", "4"}, {"channel_axis", axis}}));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(ImmediateInts(run.after().Operand("weight", "vector_axis")),
              std::vector<int64_t>{at});
    ExpectNearest(run, static_cast<size_t>(at), 4);
  }
  const PassRun run(OneLinear(kHalf, 16, 256, 9),
                    Palettize({{"nbits", "4"}, {"cluster_dim", "4"}, {"channel_axis", "2"}}));
  EXPECT_TRUE(Left(run, "weight", "channel_axis 2 is not an axis of shape [16, 256]"));
}

// --- Values --------------------------------------------------------------------------------------

TEST(PalettizeVector, UniqueVectorsAreSortedAndExact) {
  const PassRun run(
      LinearOf(kFloat, {4, 2}, {1, 5, 2, 6, 3, 7, 4, 8}, 9),
      Palettize({{"mode", "unique"}, {"cluster_dim", "2"}, {"weight_threshold", "0"}}));
  ASSERT_TRUE(IsDone(run));
  const Stored stored = Take(run);
  EXPECT_EQ(stored.lut, (std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(stored.indices, (std::vector<int>{0, 2, 1, 3}));
  EXPECT_EQ(run.weight().form, "2-bit LUT of 2-vectors");
  EXPECT_EQ(run.weight().quality.noise, 0);
}

TEST(PalettizeVector, UniqueTakesAsFewBitsAsItCan) {
  for (const auto& [distinct, bits] :
       {std::pair{2, 1}, {3, 2}, {5, 3}, {9, 4}, {17, 6}, {65, 8}, {256, 8}}) {
    std::vector<float> values(64 * 64);
    for (size_t v = 0; v < 2048; ++v)
      for (size_t k = 0; k < 2; ++k)
        values[(v / 64 * 2 + k) * 64 + v % 64] =
            static_cast<float>(v % static_cast<size_t>(distinct)) * (k == 0 ? 1.0f : -0.5f);
    const PassRun run(LinearOf(kHalf, {64, 64}, values, 9),
                      Palettize({{"mode", "unique"}, {"cluster_dim", "2"}}));
    ASSERT_TRUE(IsDone(run)) << distinct;
    EXPECT_EQ(run.after().Values("weight"), values);
    EXPECT_EQ(Take(run).lut_shape, (Shape{1, 1, int64_t{1} << bits, 2}));
  }
}

TEST(PalettizeVector, TooManyDistinctVectorsAreLeft) {
  const PassRun run(OneLinear(kHalf, 64, 64),
                    Palettize({{"mode", "unique"}, {"cluster_dim", "2"}}));
  EXPECT_TRUE(Left(run, "weight", "mode unique needs at most 256 vectors for each LUT"));
  EXPECT_EQ(run.weight().category, "with more than 256 distinct values");
  EXPECT_EQ(run.report().version_after, 7);
}

TEST(PalettizeVector, FewVectorsAreExact) {
  std::vector<float> values(64 * 64);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>((i / 128 + i % 64) % 11 * (i / 64 % 2 + 1));
  for (const DataType dtype : {kHalf, kFloat}) {
    const PassRun run(LinearOf(dtype, {64, 64}, values, 9),
                      Palettize({{"nbits", "4"}, {"cluster_dim", "2"}}));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(run.after().Values("weight"), values);
    EXPECT_EQ(run.weight().quality.noise, 0);
  }
}

TEST(PalettizeVector, HoldConstantsAndTheEndsOfTheRange) {
  for (const float value : {0.0f, 1.5f, -65504.0f}) {
    const PassRun run(LinearOf(kHalf, {64, 64}, std::vector<float>(4096, value), 9),
                      Palettize({{"nbits", "2"}, {"cluster_dim", "4"}}));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(run.after().Values("weight"), std::vector<float>(4096, value));
  }
}

// What an entry of d values costs in bits is n / d for each: for the same bits, vectors see how
// neighbours go together.
TEST(PalettizeVector, GainWhereNeighboursGoTogether) {
  std::vector<float> values = Gaussian(64 * 64, 3);
  for (size_t r = 0; r < 64; r += 2)
    for (size_t c = 0; c < 64; ++c) values[(r + 1) * 64 + c] = values[r * 64 + c] * 0.9f;
  const PassRun vectors(LinearOf(kHalf, {64, 64}, values, 9),
                        Palettize({{"nbits", "4"}, {"cluster_dim", "2"}}));
  const PassRun scalars(LinearOf(kHalf, {64, 64}, values, 9), Palettize({{"nbits", "2"}}));
  ASSERT_TRUE(IsDone(vectors) && IsDone(scalars));
  EXPECT_GT(SnrDb(vectors.weight().quality), SnrDb(scalars.weight().quality) + 6);
}

// Moving any entry to the mean of its vectors gains little: the result is a fixed point of Lloyd's
// algorithm, up to the rounding of fp16 and its tolerance.
TEST(PalettizeVector, EntriesAreMeansOfTheirVectors) {
  const PassRun run(OneLinear(kFloat, 64, 128, 9),
                    Palettize({{"nbits", "6"}, {"cluster_dim", "4"}}));
  ASSERT_TRUE(IsDone(run));
  const Stored stored = Take(run);
  const Vectors vectors = VectorsOf(run.before().Values("weight"), {64, 128}, 0, 4);
  std::vector<std::vector<double>> sums(64, std::vector<double>(4));
  std::vector<double> counts(64);
  for (size_t v = 0; v < vectors.values.size(); ++v) {
    const auto e = static_cast<size_t>(stored.indices[v]);
    counts[e] += 1;
    for (size_t k = 0; k < 4; ++k) sums[e][k] += vectors.values[v][k];
  }
  double gain = 0;
  for (size_t e = 0; e < 64; ++e) {
    EXPECT_GT(counts[e], 0) << "entry " << e << " is not used";
    for (size_t k = 0; k < 4; ++k) {
      const double off = counts[e] == 0 ? 0 : sums[e][k] / counts[e] - stored.lut[e * 4 + k];
      gain += counts[e] * off * off;
    }
  }
  EXPECT_LE(gain, 0.002 * run.weight().quality.noise);
}

TEST(PalettizeVector, LeavesWhatIsNotFinite) {
  for (const float bad : {std::nanf(""), INFINITY})
    for (const char* mode : {"kmeans", "unique"}) {
      std::vector<float> values(4096, 1);
      values[1234] = bad;
      OptionValues options = {{"mode", mode}, {"cluster_dim", "2"}};
      if (*mode == 'k') options.emplace_back("nbits", "4");
      const PassRun run(LinearOf(kHalf, {64, 64}, values), Palettize(options));
      EXPECT_TRUE(Left(run, "weight", "an element is infinite or not a number"));
      EXPECT_EQ(run.weight().category, "not finite");
      EXPECT_EQ(run.report().version_after, 7);
    }
}

// --- Sizes that do not fit -----------------------------------------------------------------------

TEST(PalettizeVector, ChannelsThatItDoesNotDivide) {
  for (const char* fallback : {"skip", "per_channel"}) {
    const PassRun run(OneLinear(kHalf, 30, 128),
                      Palettize({{"nbits", "4"}, {"cluster_dim", "4"}, {"fallback", fallback}}));
    EXPECT_TRUE(
        Left(run, "weight", "cluster_dim 4 does not divide 30 channels (axis 0 of [30, 128])"));
    EXPECT_EQ(run.weight().category, "with channels that cluster_dim does not divide");
  }
  const PassRun nearest(OneLinear(kHalf, 30, 128, 9),
                        Palettize({{"nbits", "4"}, {"cluster_dim", "4"}, {"fallback", "nearest"}}));
  ASSERT_TRUE(IsDone(nearest));
  EXPECT_EQ(Take(nearest).index_shape, (Shape{6, 128}));  // 5 is nearer than 3
  EXPECT_EQ(nearest.weight().form,
            "4-bit LUT of 5-vectors, cluster_dim 5 for 4 that does not divide 30");
  ExpectNearest(nearest, 0, 5);
}

// Where nothing but one divides, what is left are scalars.
TEST(PalettizeVector, OfAPrimeNumberOfChannelsFallsBackToScalars) {
  const PassRun run(OneLinear(kHalf, 31, 128),
                    Palettize({{"nbits", "4"}, {"cluster_dim", "2"}, {"fallback", "nearest"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.weight().form, "4-bit LUT, cluster_dim 1 for 2 that does not divide 31");
  EXPECT_EQ(run.report().version_after, 7);
  EXPECT_TRUE(QualityAgrees(run));
}

TEST(PalettizeVector, GroupsThatItDoesNotDivide) {
  const PassRun run(OneLinear(kHalf, 32, 128, 9),
                    Palettize({{"nbits", "4"}, {"cluster_dim", "4"}, {"group_size", "2"}}));
  EXPECT_TRUE(Left(run, "weight", "cluster_dim 4 does not divide 2 channels"));
  const PassRun nearest(
      OneLinear(kHalf, 32, 128, 9),
      Palettize(
          {{"nbits", "2"}, {"cluster_dim", "4"}, {"group_size", "2"}, {"fallback", "nearest"}}));
  ASSERT_TRUE(IsDone(nearest));
  EXPECT_EQ(Take(nearest).lut_shape, (Shape{16, 1, 4, 2}));
  ExpectNearest(nearest, 0, 2, 16);
}

// Channels of different groups of a grouped convolution have nothing to do with each other.
TEST(PalettizeVector, StaysWithinGroupsOfConvolutions) {
  for (const auto& [groups, done] : {std::pair{4, true}, {8, false}, {32, false}}) {
    PackageBuilder package(9);
    BlockBuilder main = package.Function("main");
    main.BlobConst("weight", kHalf, {32, 16, 3, 3}, RandomWeights(kHalf, 4608, 1));
    main.Const("groups", Int32Value(groups));
    main.Op("conv", "y", {{"x", "x"}, {"weight", "weight"}, {"groups", "groups"}},
            TensorType(kHalf, {1, 32, 1, 1}));
    main.Output("y");
    const PassRun run(package, Palettize({{"nbits", "4"}, {"cluster_dim", "8"}}));
    if (done)
      EXPECT_TRUE(IsDone(run)) << groups;
    else
      EXPECT_TRUE(
          Left(run, "weight",
               "cluster_dim 8 does not divide " + std::to_string(32 / groups) + " channels"));
  }
}

TEST(PalettizeVector, NeedsReadersThatAgree) {
  PackageBuilder package = OneLinear(kHalf, 64, 64, 9);
  BlockBuilder main = package.Function("main");
  main.Op("matmul", "z", {{"x", "x"}, {"y", "weight"}}, TensorType(kHalf, {1, 64}));
  main.Output("z");
  const PassRun run(package, Palettize({{"nbits", "4"}, {"cluster_dim", "2"}}));
  EXPECT_TRUE(Left(run, "weight", "linear 'y' axis 0, matmul 'z' axis 1"));
  const PassRun named(package,
                      Palettize({{"nbits", "4"}, {"cluster_dim", "2"}, {"channel_axis", "1"}}));
  ASSERT_TRUE(IsDone(named));
  EXPECT_EQ(Take(named).index_shape, (Shape{64, 32}));
}

// --- Large weights and threads -------------------------------------------------------------------

TEST(PalettizeVector, LargeWeightsAreStreamed) {
  static_assert(2112 * 2048 > kLargeWeight);
  for (const bool transposed : {true, false}) {
    std::vector<float> codes;  // few distinct vectors, so that the fit is quick
    const Shape shape = transposed ? Shape{2112, 2048} : Shape{2048, 2112};
    PackageBuilder package(9);
    BlockBuilder main = package.Function("main");
    for (size_t i = 0; i < 2112 * 2048; ++i) {
      const size_t row = i / static_cast<size_t>(shape[1]),
                   column = i % static_cast<size_t>(shape[1]);
      const size_t channel = transposed ? row : column, other = transposed ? column : row;
      codes.push_back(static_cast<float>((channel / 4 * 7 + other * 13) % 16) +
                      0.25f * static_cast<float>(channel % 4));
    }
    main.BlobConst("weight", kHalf, shape, FloatBytes(kHalf, codes));
    main.Const("yes", BoolValue(transposed));
    main.Op("matmul", "y", {{"x", "x"}, {"y", "weight"}, {"transpose_y", "yes"}},
            TensorType(kHalf, {1, 2112}));
    main.Output("y");
    const PassRun run(package, Palettize({{"mode", "unique"}, {"cluster_dim", "4"}}),
                      {.threads = 3});
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(run.after().Values("weight"), codes);
    EXPECT_EQ(Take(run).lut_shape, (Shape{1, 1, 16, 4}));
  }
}

TEST(PalettizeVector, ThreadsDoNotChangeTheResult) {
  PackageBuilder package = OneConvTranspose(kHalf, 24, 40, 3, 9);
  BlockBuilder main = package.Function("main");
  main.BlobConst("second", kFloat, {512, 600}, RandomWeights(kFloat, 512 * 600, 5));
  AddLinear(main, "z", "second", kFloat, {512, 600});
  main.Output("z");
  for (OptionValues options : {OptionValues{{"nbits", "4"}, {"cluster_dim", "2"}},
                               {{"nbits", "6"}, {"cluster_dim", "4"}, {"group_size", "8"}}}) {
    const PassRun one(package, Palettize(options), {.threads = 1});
    const PassRun three(package, Palettize(options), {.threads = 3});
    ASSERT_TRUE(IsDone(one) && IsDone(three));
    EXPECT_TRUE(SamePackage(one.output(), three.output()));
    EXPECT_EQ(one.weight("second").quality.noise, three.weight("second").quality.noise);
  }
}

// --- Options -------------------------------------------------------------------------------------

TEST(PalettizeVector, OptionsThatDoNotGoTogether) {
  const std::pair<OptionValues, const char*> cases[] = {
      {{{"nbits", "4"}, {"cluster_dim", "0"}},
       "palettize: cluster_dim: expected 1 or more, got '0'"},
      {{{"nbits", "4"}, {"cluster_dim", "-2"}},
       "palettize: cluster_dim: expected 1 or more, got '-2'"},
      {{{"nbits", "4"}, {"cluster_dim", "100000"}},
       "palettize: cluster_dim: is 100000, expected at most "},
      {{{"nbits", "4"}, {"mode", "uniform"}, {"cluster_dim", "2"}},
       "palettize: cluster_dim: vectors are placed by modes kmeans and unique, and the mode is "
       "uniform"},
      {{{"mode", "custom"}, {"lut_file", "x.json"}, {"cluster_dim", "2"}},
       "palettize: cluster_dim: vectors are placed by modes kmeans and unique, and the mode is "
       "custom"},
      {{{"nbits", "4"}, {"per_channel_scale", "true"}, {"cluster_dim", "2"}},
       "palettize: per_channel_scale: is not possible with cluster_dim"},
  };
  for (const auto& [options, message] : cases) {
    const PassRun run(OneLinear(kHalf, 16, 256), Palettize(options));
    EXPECT_TRUE(Fails(run.result(), ErrorKind::kUsage, {message}));
    EXPECT_TRUE(run.wrote_nothing());
  }
}

}  // namespace
}  // namespace cmlc::test
