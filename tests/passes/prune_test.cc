// Prune: which values go, against plain sorting, and how the rest is stored.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "numeric/half.h"
#include "support/pass_run.h"

namespace cmlc::test {
namespace {

constexpr DataType kHalf = DataType::kFloat16;
constexpr DataType kFloat = DataType::kFloat32;

PassSpec Prune(OptionValues options, std::vector<Rule> rules = {}) {
  PassSpec spec;
  spec.pass = "prune";
  spec.options = std::move(options);
  spec.rules = std::move(rules);
  return spec;
}

// --- Plain references ----------------------------------------------------------------------------

// Of a stable order by magnitude the first `count` go.
std::vector<float> WithoutLeast(std::vector<float> values, size_t count) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return std::fabs(values[a]) < std::fabs(values[b]); });
  for (size_t i = 0; i < count; ++i) values[order[i]] = 0;
  return values;
}

struct Layout {
  size_t outer = 1, channels = 1, inner = 1;
  Layout(const Shape& shape, size_t axis) {
    for (size_t d = 0; d < shape.size(); ++d)
      (d < axis ? outer : d > axis ? inner : channels) *= static_cast<size_t>(shape[d]);
  }
  size_t At(size_t o, size_t c, size_t i) const { return (o * channels + c) * inner + i; }
};

// Of every m channels the n of least magnitude go; a short group is filled up with zeros behind.
std::vector<float> WithoutNOfM(std::vector<float> values, const Shape& shape, size_t axis, size_t n,
                               size_t m) {
  const Layout layout(shape, axis);
  for (size_t o = 0; o < layout.outer; ++o)
    for (size_t i = 0; i < layout.inner; ++i)
      for (size_t first = 0; first < layout.channels; first += m) {
        std::vector<std::pair<float, size_t>> group;
        for (size_t c = first; c < first + m; ++c)
          group.emplace_back(c < layout.channels ? std::fabs(values[layout.At(o, c, i)]) : 0.0f, c);
        std::stable_sort(group.begin(), group.end(),
                         [](const auto& a, const auto& b) { return a.first < b.first; });
        for (size_t k = 0; k < n; ++k)
          if (group[k].second < layout.channels) values[layout.At(o, group[k].second, i)] = 0;
      }
  return values;
}

// Blocks of least norm go, as long as they are no more than so many values.
std::vector<float> WithoutBlocks(std::vector<float> values, const Shape& shape, size_t axis,
                                 size_t block, double fraction) {
  const Layout layout(shape, axis);
  struct One {
    double norm = 0;
    std::vector<size_t> members;
  };
  std::vector<One> blocks;
  for (size_t o = 0; o < layout.outer; ++o)
    for (size_t first = 0; first < layout.channels; first += block)
      for (size_t i = 0; i < layout.inner; ++i) {
        One one;
        for (size_t c = first; c < std::min(first + block, layout.channels); ++c) {
          const size_t at = layout.At(o, c, i);
          one.members.push_back(at);
          one.norm += static_cast<double>(values[at]) * values[at];
        }
        blocks.push_back(one);
      }
  std::stable_sort(blocks.begin(), blocks.end(),
                   [](const One& a, const One& b) { return a.norm < b.norm; });
  const auto most =
      static_cast<size_t>(std::llround(fraction * static_cast<double>(values.size())));
  size_t gone = 0;
  for (const One& one : blocks) {
    if (gone + one.members.size() > most) break;
    gone += one.members.size();
    for (const size_t at : one.members) values[at] = 0;
  }
  return values;
}

// --- Checks --------------------------------------------------------------------------------------

size_t Zeros(const std::vector<float>& values) {
  return static_cast<size_t>(std::count(values.begin(), values.end(), 0.0f));
}

// The mask and the values as they lie in the file, taken apart without the library's decoder; and
// the error of what went.
void ExpectStores(const PassRun& run, const std::vector<float>& expected,
                  const std::string& name = "weight") {
  ASSERT_TRUE(IsDone(run, name));
  ASSERT_EQ(run.after().Find(name)->type, "constexpr_sparse_to_dense");
  const std::vector<int> mask =
      run.after().Codes(run.after().Operand(name, "mask"), expected.size(), 1);
  const std::vector<float> kept = run.after().Floats(run.after().Operand(name, "nonzero_data"));
  size_t next = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(mask[i] != 0, expected[i] != 0) << "at " << i;
    if (mask[i] != 0) {
      ASSERT_LT(next, kept.size());
      ASSERT_EQ(kept[next++], expected[i]) << "at " << i;
    }
  }
  EXPECT_EQ(next, kept.size());
  EXPECT_EQ(run.after().Values(name), expected);
  EXPECT_TRUE(QualityAgrees(run, name));
  const std::string bytes = run.after().Bytes(run.after().Operand(name, "mask"));
  if (expected.size() % 8 != 0) {  // bits behind the last are zero
    EXPECT_EQ(static_cast<uint8_t>(bytes.back()) >> (expected.size() % 8), 0);
  }
}

// --- A share of all values -----------------------------------------------------------------------

class PruneDtype : public ::testing::TestWithParam<DataType> {};
INSTANTIATE_TEST_SUITE_P(Floats, PruneDtype, ::testing::Values(kHalf, kFloat),
                         [](const auto& dtype) { return NameOf(dtype.param); });

TEST_P(PruneDtype, ExactlyTheShareOfLeastMagnitudeGoes) {
  for (const Shape& shape : {Shape{1, 13}, Shape{3, 7}, Shape{2, 3, 5, 7}, Shape{33, 65}})
    for (const char* share : {"0.3", "0.5", "0.75", "0.999"}) {
      const auto count = static_cast<size_t>(*ElementCount(shape));
      const auto gone =
          static_cast<size_t>(std::llround(std::stod(share) * static_cast<double>(count)));
      for (const int32_t version : {7, 9}) {
        const PassRun run(LinearOf(GetParam(), shape, Gaussian(count, 5), version),
                          Prune({{"target_sparsity", share}, {"weight_threshold", "0"}}));
        SCOPED_TRACE(ToString(shape) + " " + share);
        ExpectStores(run, WithoutLeast(run.before().Values("weight"), gone));
        EXPECT_EQ(run.report().version_after, version);
      }
    }
}

// Ties are everywhere in coarse values: those that come first go, and no more than were asked for.
TEST_P(PruneDtype, OfEqualMagnitudesTheFirstGo) {
  std::vector<float> values(64 * 64);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(static_cast<int>(i * 7 % 5) - 2) + 2.5f * (i % 2 == 0 ? 1 : -1);
  for (const char* share : {"0.3", "0.5", "0.9"}) {
    const PassRun run(LinearOf(GetParam(), {64, 64}, values, 9),
                      Prune({{"target_sparsity", share}}));
    ExpectStores(run,
                 WithoutLeast(values, static_cast<size_t>(std::llround(std::stod(share) * 4096))));
  }
}

TEST_P(PruneDtype, OfAConstantTheFirstGo) {
  const PassRun run(LinearOf(GetParam(), {64, 64}, std::vector<float>(4096, -3)),
                    Prune({{"target_sparsity", "0.25"}}));
  std::vector<float> expected(4096, -3);
  std::fill(expected.begin(), expected.begin() + 1024, 0.0f);
  ExpectStores(run, expected);
}

TEST_P(PruneDtype, ZerosCountAndAreNeverStored) {
  std::vector<float> values = Gaussian(4096, 4);
  for (size_t i = 0; i < values.size(); i += 4) values[i] = i % 8 == 0 ? 0.0f : -0.0f;
  for (const auto& [share, zeros] : {std::pair{"0.5", 2048}, {"0.1", 1024}, {"0", 1024}}) {
    const PassRun run(LinearOf(GetParam(), {64, 64}, values), Prune({{"target_sparsity", share}}));
    const size_t gone = static_cast<size_t>(zeros);
    ExpectStores(run, WithoutLeast(run.before().Values("weight"), gone));
    EXPECT_EQ(Zeros(run.after().Values("weight")), gone);
  }
}

TEST_P(PruneDtype, EverythingMayGo) {
  for (const int32_t version : {7, 9}) {
    const PassRun run(OneLinear(GetParam(), 16, 256, version), Prune({{"target_sparsity", "1"}}));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(run.after().Values("weight"), std::vector<float>(4096));
    EXPECT_EQ(StaticShape(run.after().Operand("weight", "nonzero_data").type), Shape{0});
    EXPECT_EQ(run.weight().form, "sparse, 100.00 % zeros");
    EXPECT_EQ(run.weight().quality.noise, run.weight().quality.signal);
  }
}

TEST_P(PruneDtype, NothingAskedForIsNothingStored) {
  const PassRun run(OneLinear(GetParam(), 16, 256), Prune({{"target_sparsity", "0"}}));
  const std::string bytes = GetParam() == kHalf ? "8704 bytes with a mask, 8192 without"
                                                : "16896 bytes with a mask, 16384 without";
  EXPECT_TRUE(Left(run, "weight", "0.00 % would be zero: " + bytes));
  EXPECT_EQ(run.weight().category, "smaller without a mask");
}

// A mask costs a bit for each value: a sixteenth of fp16, a thirty-second of fp32.
TEST_P(PruneDtype, AMaskThatCostsMoreThanItSavesIsLeftOut) {
  const double least = GetParam() == kHalf ? 1.0 / 16 : 1.0 / 32;
  const PassRun equal(OneLinear(GetParam(), 16, 256),
                      Prune({{"target_sparsity", std::to_string(least)}}));
  EXPECT_EQ(equal.weight().category, "smaller without a mask");
  const PassRun more(OneLinear(GetParam(), 16, 256),
                     Prune({{"target_sparsity", std::to_string(least + 1.0 / 4096)}}));
  ASSERT_TRUE(IsDone(more));
  EXPECT_LT(more.weight().bytes_after, more.weight().bytes_before + 32);
}

TEST_P(PruneDtype, LeavesWhatIsNotFinite) {
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY})
    for (OptionValues options : {OptionValues{{"target_sparsity", "0.5"}},
                                 {{"threshold", "0.5"}},
                                 {{"n_m_ratio", "2:4"}},
                                 {{"target_sparsity", "0.5"}, {"block_size", "2"}}}) {
      std::vector<float> values = Gaussian(4096, 1);
      values[1234] = bad;
      values[3000] = NAN;
      const PassRun run(LinearOf(GetParam(), {64, 64}, values), Prune(options));
      EXPECT_TRUE(Left(run, "weight", "element 1234 is infinite or not a number"));
      EXPECT_EQ(run.weight().category, "not finite");
    }
}

// --- A threshold ---------------------------------------------------------------------------------

TEST_P(PruneDtype, ValuesOfTheThresholdOrLessGo) {
  std::vector<float> values;
  for (int i = 0; i < 4096; ++i) values.push_back(static_cast<float>(i % 17 - 8) * 0.25f);
  const PassRun run(LinearOf(GetParam(), {64, 64}, values),
                    Prune({{"threshold", "1.25"}, {"minimum_sparsity", "0.6"}}));
  for (float& value : values)
    if (std::fabs(value) <= 1.25f) value = 0;
  ExpectStores(run, values);
}

// The comparison is in the weight's type: the fp16 number next to 0.3 is above it, that next to
// 0.03 is below.
TEST(Prune, AThresholdIsRoundedToTheWeightsType) {
  for (const DataType dtype : {kHalf, kFloat})
    for (const auto& [threshold, gone] : {std::pair{"0.3", 3u}, {"0.03", 1u}, {"0.2999", 2u}}) {
      const PassRun run(
          LinearOf(dtype, {1, 4}, {0.3f, -0.2f, -0.03f, 0.5f}),
          Prune({{"threshold", threshold}, {"minimum_sparsity", "0"}, {"weight_threshold", "0"}}));
      ASSERT_TRUE(IsDone(run));
      EXPECT_EQ(Zeros(run.after().Values("weight")), gone) << threshold;
    }
}

TEST(Prune, AThresholdOfZeroStoresTheZerosThatAreThere) {
  std::vector<float> values = Gaussian(4096, 2);
  for (size_t i = 0; i < 3000; ++i) values[i] = 0;
  const PassRun run(LinearOf(kFloat, {64, 64}, values), Prune({{"threshold", "0"}}));
  ExpectStores(run, values);
  EXPECT_EQ(run.weight().quality.noise, 0);
  EXPECT_EQ(run.weight().form, "sparse, 73.24 % zeros");
}

TEST(Prune, TooFewZerosAreNotWorthIt) {
  std::vector<float> values(4096, 1);
  for (size_t i = 0; i < 2048; ++i) values[2 * i] = 0.001f;
  const auto with = [&](size_t zeros, OptionValues options) {
    std::vector<float> some = values;
    for (size_t i = zeros; i < 2048; ++i) some[2 * i] = 1;
    options.emplace_back("threshold", "0.01");
    return PassRun(LinearOf(kHalf, {64, 64}, some), Prune(options));
  };
  // Half is the default, and exactly so much is enough.
  EXPECT_TRUE(IsDone(with(2048, {})));
  EXPECT_TRUE(Left(with(2047, {}), "weight", "49.98 % would be zero, minimum_sparsity is 50.00 %"));
  EXPECT_EQ(with(2047, {}).weight().category, "with too few zeros");
  EXPECT_TRUE(IsDone(with(1024, {{"minimum_sparsity", "0.25"}})));
  EXPECT_TRUE(Left(with(1023, {{"minimum_sparsity", "0.25"}}), "weight", "24.98 %"));
  // The name that coremltools has for it.
  EXPECT_TRUE(IsDone(with(1024, {{"minimum_sparsity_percentile", "0.25"}})));
  EXPECT_TRUE(Left(with(2048, {{"minimum_sparsity", "1"}}), "weight", "is 100.00 %"));
}

TEST(Prune, AThresholdAboveAllTakesAll) {
  const PassRun run(OneLinear(kHalf, 16, 256), Prune({{"threshold", "100"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.weight().form, "sparse, 100.00 % zeros");
}

// --- Structures, for every layout ----------------------------------------------------------------

struct LayoutCase {
  const char* name;
  PackageBuilder (*make)(DataType dtype);
  size_t output, input;  // axes; 14 and 22 channels
  friend void PrintTo(const LayoutCase& layout, std::ostream* out) { *out << layout.name; }
};

const LayoutCase kLayouts[] = {
    {"conv", [](DataType t) { return OneConv(t, 14, 22, 3); }, 0, 1},
    {"convTranspose", [](DataType t) { return OneConvTranspose(t, 14, 22, 3, 9); }, 1, 0},
    {"linear", [](DataType t) { return OneLinear(t, 14, 22); }, 0, 1},
    {"matmulY", [](DataType t) { return OneMatmul(t, 14, 22, false, 9); }, 1, 0},
    {"matmulYTransposed", [](DataType t) { return OneMatmul(t, 14, 22, true); }, 0, 1},
    {"matmulX", [](DataType t) { return OneMatmulX(t, 14, 22, false); }, 0, 1},
    {"matmulXTransposed", [](DataType t) { return OneMatmulX(t, 14, 22, true, 9); }, 1, 0},
};

class PruneLayouts : public ::testing::TestWithParam<LayoutCase> {};

TEST_P(PruneLayouts, NOfEveryM) {
  for (const auto& [dtype, n, m] :
       {std::tuple{kHalf, 1, 2}, {kFloat, 2, 4}, {kHalf, 3, 5}, {kFloat, 1, 7}})
    for (const char* dim : {"0", "1", ""}) {
      OptionValues options = {{"n_m_ratio", std::to_string(n) + ":" + std::to_string(m)},
                              {"weight_threshold", "0"}};
      if (*dim != '\0') options.emplace_back("dim", dim);
      const PassRun run(GetParam().make(dtype), Prune(options));
      SCOPED_TRACE(std::to_string(n) + ":" + std::to_string(m) + " of dim " + dim);
      const size_t axis = std::string(dim) == "0" ? GetParam().output : GetParam().input;
      ASSERT_TRUE(run.ok()) << run.error();
      ExpectStores(run, WithoutNOfM(run.before().Values("weight"), run.weight().shape, axis,
                                    static_cast<size_t>(n), static_cast<size_t>(m)));
    }
}

TEST_P(PruneLayouts, BlocksOfChannels) {
  for (const auto& [dtype, block] : {std::pair{kHalf, 2}, {kFloat, 5}, {kHalf, 7}})
    for (const char* dim : {"0", "1", ""}) {
      OptionValues options = {{"target_sparsity", "0.6"},
                              {"block_size", std::to_string(block)},
                              {"weight_threshold", "0"}};
      if (*dim != '\0') options.emplace_back("dim", dim);
      const PassRun run(GetParam().make(dtype), Prune(options));
      SCOPED_TRACE(std::to_string(block) + " of dim " + dim);
      const size_t axis = std::string(dim) == "1" ? GetParam().input : GetParam().output;
      ASSERT_TRUE(run.ok()) << run.error();
      ExpectStores(run, WithoutBlocks(run.before().Values("weight"), run.weight().shape, axis,
                                      static_cast<size_t>(block), 0.6));
    }
}

INSTANTIATE_TEST_SUITE_P(Ops, PruneLayouts, ::testing::ValuesIn(kLayouts),
                         [](const auto& layout) { return layout.param.name; });

TEST(PruneStructure, BlocksOfLargeAndSmallValuesHaveTheirNorms) {
  // Squares of both would leave fp16.
  for (const float scale : {300.0f, 1e-4f}) {
    std::vector<float> values = Gaussian(4096, 8, scale);
    const PassRun run(LinearOf(kHalf, {64, 64}, values),
                      Prune({{"target_sparsity", "0.5"}, {"block_size", "4"}}));
    ASSERT_TRUE(run.ok());
    ExpectStores(run, WithoutBlocks(run.before().Values("weight"), {64, 64}, 0, 4, 0.5));
    EXPECT_EQ(Zeros(run.after().Values("weight")), 2048u);
  }
}

TEST(PruneStructure, NeedsEnoughChannels) {
  const PassRun block(OneLinear(kHalf, 7, 512),
                      Prune({{"target_sparsity", "0.5"}, {"block_size", "4"}}));
  EXPECT_TRUE(
      Left(block, "weight", "block_size 4 is more than half of 7 channels (axis 0 of [7, 512])"));
  EXPECT_EQ(block.weight().category, "with too few channels");
  EXPECT_TRUE(IsDone(
      PassRun(OneLinear(kHalf, 8, 512), Prune({{"target_sparsity", "0.5"}, {"block_size", "4"}}))));
  const PassRun ratio(OneConv(kHalf, 64, 3, 5), Prune({{"n_m_ratio", "1:2"}}));
  EXPECT_TRUE(Left(ratio, "weight",
                   "m of n_m_ratio 2 is more than half of 3 channels (axis 1 of [64, 3, 5, 5])"));
  EXPECT_TRUE(
      IsDone(PassRun(OneConv(kHalf, 64, 3, 5), Prune({{"n_m_ratio", "1:2"}, {"dim", "0"}}))));
}

TEST(PruneStructure, IsForWeightsWithChannels) {
  for (OptionValues options :
       {OptionValues{{"n_m_ratio", "2:4"}}, {{"target_sparsity", "0.5"}, {"block_size", "2"}}}) {
    const PassRun run(OneGather(kHalf, 64, 64), Prune(options));
    EXPECT_TRUE(Left(run, "weight",
                     "gather reads it; blocks and n:m are for weights of conv, conv_transpose, "
                     "linear and matmul (--op-name weight=... forces it)"));
    EXPECT_EQ(run.weight().category, "not of a layer with channels");
    // Naming the op is not enough, naming the weight is.
    EXPECT_TRUE(Left(PassRun(OneGather(kHalf, 64, 64), Prune(options, {ByName("y", options)})),
                     "weight", "gather reads it"));
    EXPECT_TRUE(
        IsDone(PassRun(OneGather(kHalf, 64, 64), Prune(options, {ByName("weight", options)}))));
  }
  // Without a structure every op will do.
  EXPECT_TRUE(IsDone(PassRun(OneGather(kHalf, 64, 64), Prune({{"target_sparsity", "0.5"}}))));
}

PackageBuilder ReadAlongTwoAxes() {
  PackageBuilder package = OneLinear(kHalf, 64, 64, 9);
  BlockBuilder main = package.Function("main");
  main.Const("no", BoolValue(false));
  main.Op("matmul", "z",
          {{"x", "x"}, {"y", "weight"}, {"transpose_x", "no"}, {"transpose_y", "no"}},
          TensorType(kHalf, {1, 64}));
  main.Output("z");
  return package;
}

TEST(PruneStructure, NeedsReadersThatAgree) {
  const PassRun run(ReadAlongTwoAxes(), Prune({{"n_m_ratio", "2:4"}}));
  EXPECT_TRUE(Left(run, "weight", "its readers have channels on different axes"));
  EXPECT_EQ(run.weight().category, "read along different axes");
  EXPECT_TRUE(IsDone(PassRun(ReadAlongTwoAxes(), Prune({{"target_sparsity", "0.5"}}))));
}

TEST(PruneStructure, AllOfMIsEverything) {
  const PassRun run(OneLinear(kHalf, 16, 256), Prune({{"n_m_ratio", "4:4"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(Zeros(run.after().Values("weight")), 4096u);
  const PassRun none(OneLinear(kHalf, 16, 256), Prune({{"n_m_ratio", "0:4"}}));
  EXPECT_EQ(none.weight().category, "smaller without a mask");
}

// --- Forms ---------------------------------------------------------------------------------------

TEST(Prune, StoresTheOlderFormBelowIos18) {
  for (const int32_t version : {7, 8}) {
    const PassRun run(OneConv(kHalf, 17, 16, 3, version), Prune({{"target_sparsity", "0.5"}}));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(run.after().Print("weight"),
              "constexpr_sparse_to_dense[mask: uint8 [306] file, nonzero_data: fp16 [1224] file, "
              "shape: uint32 [4] spec] -> fp16 [17, 16, 3, 3]");
    EXPECT_EQ(ImmediateInts(run.after().Operand("weight", "shape")), (Shape{17, 16, 3, 3}));
    EXPECT_EQ(run.report().version_after, version);
  }
}

TEST(Prune, StoresTheNewerFormFromIos18On) {
  for (const int32_t version : {9, 10}) {
    const PassRun run(OneLinear(kFloat, 21, 121, version), Prune({{"target_sparsity", "0.7"}}));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(run.after().Print("weight"),
              "constexpr_sparse_to_dense(mask: uint1 [21, 121] file, nonzero_data: fp32 [762] "
              "file) -> fp32 [21, 121]");
    EXPECT_EQ(run.report().version_after, version);
  }
}

TEST(Prune, ReportsWhatItDid) {
  const PassRun run(OneLinear(kHalf, 16, 256), Prune({{"target_sparsity", "0.75"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.weight().form, "sparse, 75.00 % zeros");
  EXPECT_EQ(run.weight().bytes_before, 8192u);
  EXPECT_EQ(run.weight().bytes_after, 2048u + 512);  // values and mask
  std::vector<std::string> expected = run.before().Ops();
  ASSERT_EQ(expected.front(), "const weight");
  expected.front() = "constexpr_sparse_to_dense weight";
  EXPECT_EQ(run.after().Ops(), expected);
}

// --- Large weights and threads -------------------------------------------------------------------

TEST_P(PruneDtype, LargeWeightsGoByTheSameRule) {
  static_assert(2111 * 2111 > kLargeWeight);
  std::vector<float> values = Gaussian(2111 * 2111, 3);
  for (float& value : values) value = std::nearbyint(value * 64) / 64;  // many ties
  const PassRun run(LinearOf(GetParam(), {2111, 2111}, values),
                    Prune({{"target_sparsity", "0.55"}}), {.threads = 3});
  ExpectStores(run, WithoutLeast(values, static_cast<size_t>(std::llround(0.55 * 2111 * 2111))));
}

TEST(Prune, LargeStructuresGoByTheSameRule) {
  static_assert(2080 * 2048 > kLargeWeight);
  const PassRun ratio(OneMatmul(kHalf, 2080, 2048, false, 9), Prune({{"n_m_ratio", "3:5"}}),
                      {.threads = 3});
  ASSERT_TRUE(ratio.ok());
  ExpectStores(ratio, WithoutNOfM(ratio.before().Values("weight"), {2048, 2080}, 0, 3, 5));
  const PassRun block(OneMatmul(kHalf, 2080, 2048, false, 9),
                      Prune({{"target_sparsity", "0.5"}, {"block_size", "8"}}), {.threads = 3});
  ASSERT_TRUE(block.ok());
  ExpectStores(block, WithoutBlocks(block.before().Values("weight"), {2048, 2080}, 1, 8, 0.5));
}

TEST(Prune, ThreadsDoNotChangeTheResult) {
  PackageBuilder package = OneConvTranspose(kHalf, 24, 40, 3, 9);
  BlockBuilder main = package.Function("main");
  main.BlobConst("large", kFloat, {2080, 2048}, RandomWeights(kFloat, 2080 * 2048, 5));
  AddLinear(main, "z", "large", kFloat, {2080, 2048});
  main.Output("z");
  for (OptionValues options : {OptionValues{{"target_sparsity", "0.5"}},
                               {{"threshold", "0.7"}},
                               {{"n_m_ratio", "2:4"}},
                               {{"target_sparsity", "0.5"}, {"block_size", "4"}}}) {
    const PassRun one(package, Prune(options), {.threads = 1});
    const PassRun three(package, Prune(options), {.threads = 3});
    ASSERT_TRUE(IsDone(one) && IsDone(three));
    EXPECT_TRUE(SamePackage(one.output(), three.output()));
    EXPECT_EQ(one.weight("large").quality.noise, three.weight("large").quality.noise);
  }
}

// --- Options -------------------------------------------------------------------------------------

struct OptionCase {
  const char* name;
  OptionValues options;
  const char* message;
  friend void PrintTo(const OptionCase& option, std::ostream* out) { *out << option.name; }
};

class PruneOptions : public ::testing::TestWithParam<OptionCase> {};

TEST_P(PruneOptions, AreRefused) {
  const PassRun run(OneLinear(kHalf, 16, 256), Prune(GetParam().options));
  EXPECT_TRUE(Fails(run.result(), ErrorKind::kUsage, {GetParam().message}));
  EXPECT_TRUE(run.wrote_nothing());
}

const OptionCase kOptionCases[] = {
    {"None", {}, "prune: expected one of target_sparsity, threshold and n_m_ratio, got none"},
    {"TwoWays",
     {{"target_sparsity", "0.5"}, {"n_m_ratio", "2:4"}},
     "prune: expected one of target_sparsity, threshold and n_m_ratio, got several"},
    {"TwoOtherWays",
     {{"target_sparsity", "0.5"}, {"threshold", "0.1"}},
     "prune: expected one of target_sparsity, threshold and n_m_ratio, got several"},
    {"SparsityAboveOne",
     {{"target_sparsity", "1.1"}},
     "prune: target_sparsity: expected a number from 0 to 1, got '1.1'"},
    {"SparsityNegative",
     {{"target_sparsity", "-0.9"}},
     "prune: target_sparsity: expected a number from 0 to 1, got '-0.9'"},
    {"SparsityInPercent",
     {{"target_sparsity", "50%"}},
     "prune: target_sparsity: expected a number from 0 to 1, got '50%'"},
    {"SparsityNan",
     {{"target_sparsity", "nan"}},
     "prune: target_sparsity: expected a number from 0 to 1, got 'nan'"},
    {"ThresholdNegative",
     {{"threshold", "-8"}},
     "prune: threshold: expected a number of 0 or more, got '-8'"},
    {"MinimumAboveOne",
     {{"threshold", "1"}, {"minimum_sparsity", "1.2"}},
     "prune: minimum_sparsity: expected a number from 0 to 1, got '1.2'"},
    {"MinimumWithoutThreshold",
     {{"target_sparsity", "0.5"}, {"minimum_sparsity", "0.5"}},
     "prune: minimum_sparsity: is only used with threshold"},
    {"RatioOfThree",
     {{"n_m_ratio", "1:2:3"}},
     "prune: n_m_ratio: expected two numbers as in 2:4, got 3"},
    {"RatioOfOne", {{"n_m_ratio", "2"}}, "prune: n_m_ratio: expected two numbers as in 2:4, got 1"},
    {"RatioAboveOne", {{"n_m_ratio", "6:1"}}, "prune: n_m_ratio: 6:1 does not have 0 <= n <= m"},
    {"RatioOfZero", {{"n_m_ratio", "0:0"}}, "prune: n_m_ratio: 0:0 does not have 0 <= n <= m"},
    {"RatioNegative", {{"n_m_ratio", "-1:4"}}, "prune: n_m_ratio: expected 0 or more"},
    {"RatioNoNumber", {{"n_m_ratio", "2of4"}}, "prune: n_m_ratio: expected an integer"},
    {"BlockOfOne",
     {{"target_sparsity", "0.5"}, {"block_size", "1"}},
     "prune: block_size: expected 2 or more, got 1"},
    {"BlockNegative",
     {{"target_sparsity", "0.5"}, {"block_size", "-9"}},
     "prune: block_size: expected 1 or more, got '-9'"},
    {"BlockOfTwoNumbers",
     {{"target_sparsity", "0.5"}, {"block_size", "2,2"}},
     "prune: block_size: expected one number"},
    {"BlockWithRatio",
     {{"n_m_ratio", "2:4"}, {"block_size", "2"}},
     "prune: block_size: is only used with target_sparsity"},
    {"BlockWithThreshold",
     {{"threshold", "1"}, {"block_size", "2"}},
     "prune: block_size: is only used with target_sparsity"},
    {"Dim2", {{"n_m_ratio", "2:4"}, {"dim", "2"}}, "prune: dim: expected one of 0, 1, got '2'"},
    {"DimNegative",
     {{"n_m_ratio", "2:4"}, {"dim", "-1"}},
     "prune: dim: expected one of 0, 1, got '-1'"},
    {"DimWithoutStructure",
     {{"target_sparsity", "0.5"}, {"dim", "1"}},
     "prune: dim: is only used with block_size or n_m_ratio"},
    {"Misspelled",
     {{"target_sparsty", "0.5"}},
     "prune: unknown option 'target_sparsty', did you mean 'target_sparsity'?"},
};

INSTANTIATE_TEST_SUITE_P(All, PruneOptions, ::testing::ValuesIn(kOptionCases),
                         [](const auto& option) { return option.param.name; });

// A rule that prunes otherwise takes the command's way back.
TEST(PruneOptions, ARuleIsSetOnTop) {
  PackageBuilder package = OneLinear(kHalf, 16, 256);
  BlockBuilder main = package.Function("main");
  main.BlobConst("second", kHalf, {16, 256}, RandomWeights(kHalf, 4096, 2));
  AddLinear(main, "z", "second", kHalf, {16, 256});
  main.Output("z");
  const PassRun run(package,
                    Prune({{"target_sparsity", "0.9"}},
                          {ByName("z", {{"target_sparsity", "none"}, {"n_m_ratio", "1:4"}})}));
  ASSERT_TRUE(IsDone(run) && IsDone(run, "second"));
  EXPECT_EQ(run.weight().form, "sparse, 89.99 % zeros");
  EXPECT_EQ(run.weight("second").form, "sparse, 25.00 % zeros");
  const PassRun both(package,
                     Prune({{"target_sparsity", "0.9"}}, {ByName("z", {{"n_m_ratio", "1:4"}})}));
  EXPECT_TRUE(Fails(both.result(), ErrorKind::kUsage, {"got several"}));
}

}  // namespace
}  // namespace cmlc::test
