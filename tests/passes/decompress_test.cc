// Decompress: every form of compressed weight becomes a const with the values it stands for.
#include <bit>
#include <functional>

#include "support/pass_run.h"

namespace cmlc::test {
namespace {

std::string Int8Bytes(const std::vector<float>& codes) {
  std::string bytes;
  for (const float code : codes) bytes += static_cast<char>(static_cast<int>(code));
  return bytes;
}

std::vector<int> RandomBits(size_t count, uint64_t seed, int bound) {
  const std::vector<uint8_t> codes = RandomCodes(count, seed, bound);
  return {codes.begin(), codes.end()};
}

wire::Value Shape32(const Shape& shape) {
  std::string bytes;
  for (const int64_t size : shape)
    bytes += BytesOf(std::vector<uint32_t>{static_cast<uint32_t>(size)});
  return BytesValue(DataType::kUInt32, {static_cast<int64_t>(shape.size())}, bytes);
}

// How one form is built: adds the operation "weight" of shape [4, 6], and what it needs, to a
// block.
struct Form {
  const char* name;
  int32_t version;
  void (*add)(BlockBuilder& main);
  std::vector<float> (*values)();
  DataType dtype = DataType::kFloat16;
  friend void PrintTo(const Form& form, std::ostream* out) { *out << form.name; }
};

constexpr DataType kHalf = DataType::kFloat16;
const Shape kShape = {4, 6};

const std::vector<float>& Codes() {
  static const std::vector<float> codes = [] {
    std::vector<float> made;
    for (int i = 0; i < 24; ++i) made.push_back(static_cast<float>(i * 37 % 255 - 127));
    return made;
  }();
  return codes;
}
const std::vector<int>& Indices() {
  static const std::vector<int> indices = RandomBits(24, 3, 4);
  return indices;
}
const std::vector<int>& Mask() {
  static const std::vector<int> mask = {1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1,
                                        0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1};
  return mask;
}
constexpr size_t kOnes = 9;
const std::vector<float>& Lut() {
  static const std::vector<float> lut = {-1.5f, -0.25f, 0.75f, 2};
  return lut;
}
const std::vector<float>& NonZero() {
  static const std::vector<float> values = {1, -2, 3, -4, 5, -6, 7, -8, 9};
  return values;
}

std::vector<float> Scattered(const std::vector<float>& values) {
  std::vector<float> dense(24);
  size_t next = 0;
  for (size_t i = 0; i < dense.size(); ++i)
    if (Mask()[i] == 1) dense[i] = values.at(next++);
  return dense;
}

std::vector<float> Looked() {
  std::vector<float> values;
  for (const int index : Indices()) values.push_back(Lut()[static_cast<size_t>(index)]);
  return values;
}

std::vector<float> Kept() {
  std::vector<float> values;
  for (size_t i = 0; i < kOnes; ++i) values.push_back(Lut()[static_cast<size_t>(Indices()[i])]);
  return values;
}

const Form kForms[] = {
    {"OldAffine", 7,
     [](BlockBuilder& main) {
       main.Op("constexpr_affine_dequantize", "weight", {}, TensorType(kHalf, kShape),
               {{"quantized_data", main.Blob(DataType::kInt8, kShape, Int8Bytes(Codes()))},
                {"scale", BytesValue(kHalf, {4}, Fp16Bytes({0.5f, 0.25f, 1, 2}))},
                {"zero_point", BytesValue(DataType::kInt8, {4}, Int8Bytes({1, -1, 0, 5}))},
                {"axis", Int32Value(0)}});
     },
     [] {
       const float scale[] = {0.5f, 0.25f, 1, 2}, zero[] = {1, -1, 0, 5};
       std::vector<float> values;
       for (size_t i = 0; i < 24; ++i) values.push_back(scale[i / 6] * (Codes()[i] - zero[i / 6]));
       return values;
     }},
    {"OldLut", 7,
     [](BlockBuilder& main) {
       main.Op("constexpr_lut_to_dense", "weight", {}, TensorType(kHalf, kShape),
               {{"indices", BytesValue(DataType::kUInt8, {6}, PackedInts(Indices(), 2))},
                {"lut", BytesValue(kHalf, {4}, Fp16Bytes(Lut()))},
                {"shape", Shape32(kShape)}});
     },
     Looked},
    {"OldSparse", 7,
     [](BlockBuilder& main) {
       main.Op("constexpr_sparse_to_dense", "weight", {}, TensorType(kHalf, kShape),
               {{"nonzero_data", BytesValue(kHalf, {kOnes}, Fp16Bytes(NonZero()))},
                {"mask", BytesValue(DataType::kUInt8, {3}, PackedInts(Mask(), 1))},
                {"shape", Shape32(kShape)}});
     },
     [] { return Scattered(NonZero()); }},
    {"OldCast", 7,
     [](BlockBuilder& main) {
       main.Op("constexpr_cast", "weight", {}, TensorType(DataType::kFloat32, kShape),
               {{"source_val", main.Blob(kHalf, kShape, Fp16Bytes(Codes()))},
                {"output_dtype", StringValue("fp32")}});
     },
     [] { return Codes(); }, DataType::kFloat32},
    {"Blockwise", 9,
     [](BlockBuilder& main) {
       main.Op("constexpr_blockwise_shift_scale", "weight",
               {{"data", main.Blob(DataType::kInt8, kShape, Int8Bytes(Codes()))},
                {"scale", BytesValue(kHalf, {2, 2}, Fp16Bytes({0.5f, 0.25f, 1, 2}))},
                {"offset", BytesValue(DataType::kInt8, {2, 2}, Int8Bytes({1, 0, -1, 3}))}},
               TensorType(kHalf, kShape));
     },
     [] {
       const float scale[] = {0.5f, 0.25f, 1, 2}, zero[] = {1, 0, -1, 3};
       std::vector<float> values;
       for (size_t i = 0; i < 24; ++i) {
         const size_t block = i / 12 * 2 + i % 6 / 3;
         values.push_back(scale[block] * (Codes()[i] - zero[block]));
       }
       return values;
     }},
    {"GroupedLut", 9,
     [](BlockBuilder& main) {
       main.Op("constexpr_lut_to_dense", "weight",
               {{"indices", main.Blob(DataType::kUInt1, kShape, PackedInts(Mask(), 1))},
                {"lut", BytesValue(kHalf, {2, 1, 2, 1}, Fp16Bytes(Lut()))}},
               TensorType(kHalf, kShape));
     },
     [] {
       std::vector<float> values;
       for (size_t i = 0; i < 24; ++i)
         values.push_back(Lut()[i / 12 * 2 + static_cast<size_t>(Mask()[i])]);
       return values;
     }},
    {"Sparse", 9,
     [](BlockBuilder& main) {
       main.Op("constexpr_sparse_to_dense", "weight",
               {{"nonzero_data", BytesValue(kHalf, {kOnes}, Fp16Bytes(NonZero()))},
                {"mask", main.Blob(DataType::kUInt1, kShape, PackedInts(Mask(), 1))}},
               TensorType(kHalf, kShape));
     },
     [] { return Scattered(NonZero()); }},
    {"LutToSparse", 9,
     [](BlockBuilder& main) {
       const std::vector<int> kept(Indices().begin(), Indices().begin() + kOnes);
       main.Const("dead_mask", BytesValue(DataType::kUInt1, kShape, PackedInts(Mask(), 1)));
       main.Op(
           "constexpr_lut_to_sparse",
           {{"indices_mask", "dead_mask"},
            {"indices_nonzero_data", BytesValue(DataType::kUInt2, {kOnes}, PackedInts(kept, 2))},
            {"lut", BytesValue(kHalf, {1, 1, 4, 1}, Fp16Bytes(Lut()))}},
           Outputs{{"dead_link", TensorType(DataType::kUInt1, kShape)},
                   {"dead_values", TensorType(kHalf, {kOnes})}});
       main.Op("constexpr_sparse_to_dense", "weight",
               {{"nonzero_data", "dead_values"}, {"mask", "dead_link"}}, TensorType(kHalf, kShape));
     },
     [] { return Scattered(Kept()); }},
    {"QuantizedLut", 9,
     [](BlockBuilder& main) {
       main.Const("dead_codes",
                  BytesValue(DataType::kInt8, {1, 1, 4, 1}, Int8Bytes({-6, -1, 3, 8})));
       main.Op(
           "constexpr_blockwise_shift_scale", "dead_lut",
           {{"data", "dead_codes"}, {"scale", BytesValue(kHalf, {1, 1, 1, 1}, Fp16Bytes({0.25f}))}},
           TensorType(kHalf, {1, 1, 4, 1}));
       main.Op("constexpr_lut_to_dense", "weight",
               {{"indices", main.Blob(DataType::kUInt2, kShape, PackedInts(Indices(), 2))},
                {"lut", "dead_lut"}},
               TensorType(kHalf, kShape));
     },
     Looked},
};

// The operation under test, read by a linear; with a plain weight beside it.
PackageBuilder ModelOf(const Form& form) {
  PackageBuilder package(form.version);
  package.FunctionInput("main", "x", TensorType(form.dtype, {1, 6}));
  BlockBuilder main = package.Function("main");
  main.BlobConst("plain", form.dtype, {4, 6}, RandomWeights(form.dtype, 24, 2));
  form.add(main);
  AddLinear(main, "y", "weight", form.dtype, kShape);
  AddLinear(main, "z", "plain", form.dtype, kShape);
  main.Output("y");
  main.Output("z");
  return package;
}

class DecompressForm : public ::testing::TestWithParam<Form> {};

TEST_P(DecompressForm, BecomesAConstOfTheSameValues) {
  const PassRun run(ModelOf(GetParam()), Decompress());
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.before().Values("weight"), GetParam().values());
  EXPECT_EQ(run.after().Values("weight"), GetParam().values());
  EXPECT_EQ(run.after().Print("weight"), "const[val: " + NameOf(GetParam().dtype) +
                                             " [4, 6] file] -> " + NameOf(GetParam().dtype) +
                                             " [4, 6]");
  EXPECT_EQ(NameOf(*run.after().Find("weight")), "weight");
  EXPECT_EQ(run.report().version_after, GetParam().version);
  EXPECT_EQ(run.weight().form, "plain");
  // What only fed it is gone; the rest is as it was.
  EXPECT_EQ(run.after().Ops(),
            (std::vector<std::string>{"const plain", "const weight", "linear y", "linear z"}));
  EXPECT_EQ(run.after().Values("plain"), run.before().Values("plain"));
  EXPECT_EQ(run.report().weights.size(), 1u);
}

INSTANTIATE_TEST_SUITE_P(All, DecompressForm, ::testing::ValuesIn(kForms),
                         [](const auto& form) { return form.param.name; });

TEST(Decompress, KeepsAConstThatSomethingElseReads) {
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  main.Const("lut", BytesValue(kHalf, {1, 1, 4, 1}, Fp16Bytes(Lut())));
  main.Op(
      "constexpr_lut_to_dense", "weight",
      {{"indices", main.Blob(DataType::kUInt2, kShape, PackedInts(Indices(), 2))}, {"lut", "lut"}},
      TensorType(kHalf, kShape));
  AddLinear(main, "y", "weight", kHalf, kShape);
  main.Op("relu", "r", {{"x", "lut"}}, TensorType(kHalf, {1, 1, 4, 1}));
  main.Output("y");
  main.Output("r");
  const PassRun run(package, Decompress());
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.after().Ops(),
            (std::vector<std::string>{"const lut", "const weight", "linear y", "relu r"}));
}

// Two weights share one LUT: it goes when both are done, and stays when one is left.
TEST(Decompress, KeepsASharedLinkAsLongAsItIsRead) {
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  main.Const("lut", BytesValue(kHalf, {1, 1, 4, 1}, Fp16Bytes(Lut())));
  for (const char* name : {"a", "b"}) {
    main.Op("constexpr_lut_to_dense", name,
            {{"indices", main.Blob(DataType::kUInt2, kShape, PackedInts(Indices(), 2))},
             {"lut", "lut"}},
            TensorType(kHalf, kShape));
    AddLinear(main, std::string("y_") + name, name, kHalf, kShape);
    main.Output(std::string("y_") + name);
  }
  const PassRun both(package, Decompress());
  ASSERT_TRUE(both.ok()) << both.error();
  EXPECT_EQ(both.after().Find("lut"), nullptr);
  const PassRun one(package, Decompress({}, {LeaveName("b")}));
  ASSERT_TRUE(IsDone(one, "a"));
  EXPECT_TRUE(Left(one, "b", "--op-name b=null"));
  EXPECT_NE(one.after().Find("lut"), nullptr);
  EXPECT_EQ(one.after().Values("b"), one.before().Values("b"));
}

TEST(Decompress, GivesTheValuesOfThePalettizedModel) {
  for (const char* group_size : {"0", "2"}) {
    for (const DataType dtype : {kHalf, DataType::kFloat32}) {
      const PassRun palettized(OneConv(dtype, 8, 12, 5),
                               Palettize({{"nbits", "4"}, {"group_size", group_size}}));
      ASSERT_TRUE(IsDone(palettized));
      const PassRun run(palettized.output(), Decompress());
      ASSERT_TRUE(IsDone(run));
      EXPECT_EQ(run.after().Values("weight"), palettized.after().Values("weight"));
      EXPECT_EQ(run.after().Ops(), palettized.before().Ops());
      EXPECT_EQ(run.report().version_after, palettized.report().version_after);
    }
  }
}

TEST(Decompress, IsExactAcrossChunks) {
  static_assert(2 * 500'009 > TensorSource::kChunkBytes);
  const PassRun palettized(OneLinear(kHalf, 1, 500'009), Palettize({{"nbits", "1"}}));
  const PassRun run(palettized.output(), Decompress());
  ASSERT_TRUE(IsDone(run));
  EXPECT_EQ(run.after().Values("weight"), palettized.after().Values("weight"));
}

TEST(Decompress, HasAThresholdOfZero) {
  const PassRun run(ModelOf(kForms[1]), Decompress({{"weight_threshold", "24"}}));
  EXPECT_TRUE(Left(run, "weight", "24 elements, weight_threshold is 24"));
  EXPECT_EQ(run.after().Ops(), run.before().Ops());
}

TEST(Decompress, TurnsAWeightOfAnyRankBack) {
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  main.Op("constexpr_blockwise_shift_scale", "bias",
          {{"data", BytesValue(DataType::kInt8, {2}, Int8Bytes({3, -4}))},
           {"scale", BytesValue(kHalf, {1}, Fp16Bytes({0.5f}))}},
          TensorType(kHalf, {2}));
  main.Op("add", "y", {{"x", "x"}, {"y", "bias"}}, TensorType(kHalf, {2}));
  main.Output("y");
  const PassRun run(package, Decompress());
  ASSERT_TRUE(IsDone(run, "bias"));
  EXPECT_EQ(run.after().Values("bias"), (std::vector<float>{1.5f, -2}));
  EXPECT_EQ(run.after().Print("bias"), "const[val: fp16 [2] spec] -> fp16 [2]");
}

TEST(Decompress, LeavesAPlainModelAsItIs) {
  const PassRun run(OneConv(kHalf, 16, 16, 3), Decompress());
  ASSERT_TRUE(run.ok()) << run.error();
  EXPECT_TRUE(run.report().weights.empty());
  EXPECT_TRUE(SamePackage(run.output(), run.input(), /*manifest=*/false));
}

TEST(Decompress, SaysWhatIsWrongWithAChain) {
  PackageBuilder package(9);
  BlockBuilder main = package.Function("main");
  main.Op("constexpr_lut_to_dense", "weight",
          {{"indices", main.Blob(DataType::kUInt2, kShape, PackedInts(Indices(), 2))},
           {"lut", BytesValue(kHalf, {1, 1, 2, 1}, Fp16Bytes({1, 2}))}},
          TensorType(kHalf, kShape));
  AddLinear(main, "y", "weight", kHalf, kShape);
  const PassRun run(package, Decompress());
  EXPECT_TRUE(Fails(run.result(), ErrorKind::kBadInput, {"'weight'", "constexpr_lut_to_dense"}));
  EXPECT_TRUE(run.wrote_nothing());
}

}  // namespace
}  // namespace cmlc::test
