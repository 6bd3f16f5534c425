// Palettize with tables that are given, or that are the values themselves: modes unique and custom.
#include <cmath>

#include "support/pass_run.h"

namespace cmlc::test {
namespace {

// 64 x 80 values of which `count` are distinct, 0, 0.5, 1, ...
std::vector<float> Distinct(int count) {
  std::vector<float> values(64 * 80);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = 0.5f * static_cast<float>(static_cast<int>(i * 7) % count);
  return values;
}

TEST(PalettizeUnique, TakesTheFewestBitsThatHoldAllValues) {
  struct Case {
    int distinct;
    int bits_before_ios18;
    int bits_from_ios18;
  };
  // The older form has no 3-bit indices, and they alone are no reason to need iOS 18.
  const Case cases[] = {{1, 1, 1}, {2, 1, 1},  {3, 2, 2},  {4, 2, 2},  {5, 4, 3},  {8, 4, 3},
                        {9, 4, 4}, {16, 4, 4}, {17, 6, 6}, {64, 6, 6}, {65, 8, 8}, {256, 8, 8}};
  for (const DataType dtype : {DataType::kFloat16, DataType::kFloat32}) {
    std::vector<std::string> weights;
    for (const Case& c : cases) weights.push_back(FloatBytes(dtype, Distinct(c.distinct)));
    for (const int32_t version : {7, 9}) {
      const PassRun run(Linears(dtype, {64, 80}, weights, version),
                        Palettize({{"mode", "unique"}}));
      ASSERT_TRUE(run.ok()) << run.error();
      EXPECT_EQ(run.report().version_after, version);
      for (size_t i = 0; i < std::size(cases); ++i) {
        const std::string name = "w" + std::to_string(i);
        ASSERT_TRUE(IsDone(run, name)) << cases[i].distinct;
        const int bits = version < 9 ? cases[i].bits_before_ios18 : cases[i].bits_from_ios18;
        EXPECT_EQ(run.weight(name).form, std::to_string(bits) + "-bit LUT") << cases[i].distinct;
        EXPECT_EQ(run.after().Values(name), Distinct(cases[i].distinct));
        EXPECT_EQ(run.weight(name).quality.noise, 0);
        EXPECT_TRUE(std::isinf(SnrDb(run.weight(name).quality)) ||
                    run.weight(name).quality.signal == 0);
      }
    }
  }
}

TEST(PalettizeUnique, LeavesWhatHasTooManyValues) {
  for (const DataType dtype : {DataType::kFloat16, DataType::kFloat32}) {
    const PassRun run(LinearOf(dtype, {64, 80}, Distinct(257)), Palettize({{"mode", "unique"}}));
    EXPECT_TRUE(Left(run, "weight", "256"));
    EXPECT_EQ(run.weight().category, "with more than 256 distinct values");
    EXPECT_EQ(run.after().Print("weight"), run.before().Print("weight"));
  }
}

TEST(PalettizeUnique, TakesBothZerosForOneValue) {
  std::vector<float> values = Distinct(3);
  for (size_t i = 0; i < values.size(); i += 2)
    if (values[i] == 0) values[i] = -0.0f;
  for (const DataType dtype : {DataType::kFloat16, DataType::kFloat32}) {
    const PassRun run(LinearOf(dtype, {64, 80}, values), Palettize({{"mode", "unique"}}));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(run.weight().form, "2-bit LUT");
    for (const float value : run.after().Values("weight"))
      ASSERT_FALSE(std::signbit(value)) << "the zero of the table is +0";
  }
}

// --- Mode custom --------------------------------------------------------------------------------

// An .npy file of version 1.0.
std::string Npy(const std::string& descr, const std::string& shape, const std::string& data) {
  std::string header =
      "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }";
  header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  std::string file("\x93NUMPY\x01\x00", 8);
  file += static_cast<char>(header.size() % 256);
  file += static_cast<char>(header.size() / 256);
  return file + header + data;
}

class PalettizeCustom : public ::testing::Test {
 protected:
  PassSpec With(const std::string& file, OptionValues more = {}) const {
    OptionValues options = {{"mode", "custom"}, {"lut_file", (dir_ / file).string()}};
    options.insert(options.end(), more.begin(), more.end());
    return Palettize(options);
  }
  void Write(const std::string& file, const std::string& content) const {
    WriteFile(dir_ / file, content);
  }
  static PackageBuilder Model(DataType dtype = DataType::kFloat16, int32_t version = 7) {
    return OneLinear(dtype, 16, 256, version);
  }
  static std::vector<float> Lut(const PassRun& run, const std::string& weight = "weight") {
    return run.after().Floats(run.after().Operand(weight, "lut"));
  }
  TempDir dir_;
};

TEST_F(PalettizeCustom, ReadsAJsonListAndSortsIt) {
  Write("lut.json", "[1.5, -1, 0, -0.25]");
  for (const DataType dtype : {DataType::kFloat16, DataType::kFloat32}) {
    const PassRun run(Model(dtype), With("lut.json"));
    ASSERT_TRUE(IsDone(run));
    EXPECT_EQ(Lut(run), (std::vector<float>{-1, -0.25, 0, 1.5}));
    const std::vector<float> before = run.before().Values("weight");
    const std::vector<float> after = run.after().Values("weight");
    for (size_t i = 0; i < before.size(); ++i)
      for (const float entry : Lut(run))
        ASSERT_LE(std::abs(before[i] - after[i]), std::abs(before[i] - entry)) << "at " << i;
    EXPECT_TRUE(QualityAgrees(run));
  }
}

TEST_F(PalettizeCustom, ReadsNpyVectors) {
  const std::pair<const char*, std::string> files[] = {
      {"<f2", Fp16Bytes({0.5f, -2, 1})},
      {"<f4", Fp32Bytes({0.5f, -2, 1})},
      {"<f8", BytesOf(std::vector<double>{0.5, -2, 1})}};
  for (const auto& [descr, data] : files) {
    Write("lut.npy", Npy(descr, "(3,)", data));
    const PassRun run(Model(), With("lut.npy"));
    ASSERT_TRUE(IsDone(run)) << descr;
    EXPECT_EQ(Lut(run), (std::vector<float>{-2, 0.5f, 1, 1})) << descr;
  }
}

TEST_F(PalettizeCustom, FillsTheTableToAPowerOfTwo) {
  struct Case {
    int entries;
    int32_t version;
    size_t table;
  };
  for (const auto& [entries, version, table] :
       {Case{1, 7, 2}, Case{3, 7, 4}, Case{5, 7, 16}, Case{5, 9, 8}, Case{17, 7, 64},
        Case{65, 9, 256}, Case{256, 7, 256}}) {
    std::string list;
    for (int i = 0; i < entries; ++i) list += (i == 0 ? "" : ",") + std::to_string(i);
    Write("lut.json", "[" + list + "]");
    const PassRun run(Model(DataType::kFloat16, version), With("lut.json"));
    ASSERT_TRUE(IsDone(run)) << entries;
    EXPECT_EQ(run.report().version_after, version);
    const std::vector<float> lut = Lut(run);
    ASSERT_EQ(lut.size(), table);
    for (size_t i = 0; i < table; ++i)
      EXPECT_EQ(lut[i], static_cast<float>(std::min<size_t>(i, static_cast<size_t>(entries) - 1)));
  }
}

TEST_F(PalettizeCustom, FindsTheTableByTheWeightsName) {
  const std::string bytes = RandomWeights(DataType::kFloat16, 4096, 1);
  Write("lut.json", R"({"w0": [-1, 1], "w2": [-0.5, 0, 0.5]})");
  const PassRun run(Linears(DataType::kFloat16, {16, 256},
                            {bytes, RandomWeights(DataType::kFloat16, 4096, 2),
                             RandomWeights(DataType::kFloat16, 4096, 3)}),
                    With("lut.json"));
  ASSERT_TRUE(IsDone(run, "w0"));
  ASSERT_TRUE(IsDone(run, "w2"));
  EXPECT_EQ(Lut(run, "w0"), (std::vector<float>{-1, 1}));
  EXPECT_EQ(Lut(run, "w2"), (std::vector<float>{-0.5f, 0, 0.5f, 0.5f}));
  EXPECT_TRUE(Left(run, "w1", "has no list of this name"));
}

// They share a tensor, and yet are two pieces of work.
TEST_F(PalettizeCustom, WeightsWithTheSameBytesMayHaveDifferentTables) {
  PackageBuilder package(7);
  BlockBuilder main = package.Function("main");
  const wire::Value blob =
      main.Blob(DataType::kFloat16, {16, 256}, RandomWeights(DataType::kFloat16, 4096, 1));
  for (const char* name : {"a", "b"}) {
    main.Const(name, blob);
    AddLinear(main, std::string("y_") + name, name, DataType::kFloat16, {16, 256});
  }
  Write("lut.json", R"({"a": [-1, 1], "b": [-2, 2]})");
  const PassRun run(package, With("lut.json"));
  ASSERT_TRUE(IsDone(run, "a"));
  ASSERT_TRUE(IsDone(run, "b"));
  EXPECT_EQ(Lut(run, "a"), (std::vector<float>{-1, 1}));
  EXPECT_EQ(Lut(run, "b"), (std::vector<float>{-2, 2}));
}

TEST_F(PalettizeCustom, GivesEveryGroupTheSameTable) {
  Write("lut.json", "[-1, 1]");
  const PassRun run(Model(DataType::kFloat16, 9), With("lut.json", {{"group_size", "4"}}));
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(Lut(run), (std::vector<float>{-1, 1, -1, 1, -1, 1, -1, 1}));
  EXPECT_TRUE(QualityAgrees(run));
}

TEST_F(PalettizeCustom, RoundsEntriesToTheWeightsType) {
  Write("lut.json", "[0.1, 0.30000001]");
  EXPECT_EQ(Lut(PassRun(Model(), With("lut.json"))),
            (std::vector<float>{0.0999755859375f, 0.300048828125f}));
  EXPECT_EQ(Lut(PassRun(Model(DataType::kFloat32), With("lut.json"))),
            (std::vector<float>{0.1f, 0.30000001f}));
}

TEST_F(PalettizeCustom, LeavesAHalfWeightWhoseTableHasLargerEntries) {
  Write("lut.json", "[0, 70000]");
  EXPECT_TRUE(
      Left(PassRun(Model(), With("lut.json")), "weight", "holds an entry that fp16 cannot"));
  EXPECT_TRUE(IsDone(PassRun(Model(DataType::kFloat32), With("lut.json"))));
}

TEST_F(PalettizeCustom, SaysWhatIsWrongWithTheFile) {
  std::string many = "[0";
  for (int i = 1; i <= 256; ++i) many += "," + std::to_string(i);
  const std::tuple<const char*, std::string, const char*> cases[] = {
      {"a.json", "[1, 2", "a.json: is neither .npy nor valid JSON"},
      {"b.json", "3", "expected a list of numbers, or an object of such lists"},
      {"c.json", "[1, \"two\"]", "'\"two\"' is not a number"},
      {"d.json", "[]", "a LUT has 0 entries, expected 1 to 256"},
      {"e.json", many + "]", "a LUT has 257 entries, expected 1 to 256"},
      {"f.json", "[1, 1e300]", "LUT entry 1e+300 is not finite"},
      {"g.json", "{\"weight\": 3}", "'weight': expected a list of numbers"},
      {"h.json", "{\"weight\": [null]}", "'null' is not a number"},
      {"i.npy", "nonsense", "i.npy"},
      {"j.npy", Npy("<f4", "(2, 2)", Fp32Bytes({1, 2, 3, 4})), "has shape [2, 2]"},
      {"k.npy", Npy("<f4", "(2,)", Fp32Bytes({1, NAN})), "LUT entry nan is not finite"},
      {"l.npy", Npy("<f4", "(4,)", Fp32Bytes({1, 2})), "l.npy"},
  };
  for (const auto& [file, content, message] : cases) {
    Write(file, content);
    const PassRun run(Model(), With(file));
    EXPECT_TRUE(Fails(run.result(), ErrorKind::kBadInput, {file, message}));
    EXPECT_TRUE(run.wrote_nothing());
  }
  EXPECT_TRUE(
      Fails(PassRun(Model(), With("none.json")).result(), ErrorKind::kBadInput, {"none.json"}));
}

}  // namespace
}  // namespace cmlc::test
