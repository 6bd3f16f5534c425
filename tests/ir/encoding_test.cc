// Encodings: chains of constexpr operations taken apart and put together again.
#include "ir/encoding.h"

#include <memory>
#include <optional>
#include <set>

#include "support/pass_run.h"

namespace cmlc::test {
namespace {

constexpr DataType kHalf = DataType::kFloat16;
constexpr DataType kFloat = DataType::kFloat32;
constexpr DataType kBits = DataType::kUInt1;
const Shape kShape = {4, 6};

// --- From a chain to an encoding -----------------------------------------------------------------

// A written package and the encoding of one of its values.
class Parsed {
 public:
  explicit Parsed(PackageBuilder& package, const std::string& name = "w", size_t output = 0) {
    auto opened = Package::Open(package.Write(dir_ / "in.mlpackage"));
    EXPECT_TRUE(Succeeds(opened));
    package_ = std::move(*opened);
    const ProgramBlock block = BlocksOf(package_->model(), "").at(0);
    index_ = std::make_unique<GraphIndex>(*block.block);
    for (const Definition& definition : index_->definitions())
      if (definition.op->outputs[output < definition.op->outputs.size() ? output : 0].name ==
              name &&
          definition.output == output) {
        op_ = definition.op;
        encoding_ = ParseEncoding(definition, *index_, package_->tensors());
      }
    EXPECT_NE(op_, nullptr) << name;
  }
  bool ok() const { return encoding_.has_value(); }
  const Encoding& operator*() const { return *encoding_; }
  const Encoding* operator->() const { return &*encoding_; }
  const Operation& op() const { return *op_; }
  std::vector<float> Read(const Operand& operand) const {
    auto values = ReadOperand(operand, package_->tensors());
    EXPECT_TRUE(Succeeds(values));
    return values.ok() ? *values : std::vector<float>();
  }
  const TensorStore& tensors() const { return package_->tensors(); }

 private:
  TempDir dir_;
  std::unique_ptr<Package> package_;
  std::unique_ptr<GraphIndex> index_;
  const Operation* op_ = nullptr;
  std::optional<Encoding> encoding_;
};

// The pieces of chains. Shapes are those of a weight [4, 6] of which 10 elements are there.
wire::Value Codes(DataType dtype, const Shape& shape, int bits, int bound, uint64_t seed = 1) {
  const std::vector<uint8_t> codes =
      RandomCodes(static_cast<size_t>(*ElementCount(shape)), seed, bound);
  return BytesValue(dtype, shape, PackedInts({codes.begin(), codes.end()}, bits));
}
wire::Value Halves(const Shape& shape, uint64_t seed = 2) {
  return BytesValue(kHalf, shape, RandomWeights(kHalf, *ElementCount(shape), seed));
}
wire::Value Mask(const Shape& shape = kShape) {
  std::vector<int> bits(static_cast<size_t>(*ElementCount(shape)));
  for (size_t i = 0; i < 10; ++i) bits[i * bits.size() / 10] = 1;
  return BytesValue(kBits, shape, PackedInts(bits, 1));
}
PackageBuilder NewPackage() { return PackageBuilder(9); }
void Finish(PackageBuilder& package) {
  BlockBuilder main = package.Function("main");
  AddLinear(main, "y", "w", kHalf, kShape);
  main.Output("y");
}

TEST(ParseEncoding, APlainConstIsNone) {
  PackageBuilder package = NewPackage();
  package.Function("main").Const("w", Halves(kShape));
  Finish(package);
  EXPECT_FALSE(Parsed(package).ok());
}

TEST(ParseEncoding, DenseCodes) {
  for (const bool offset : {false, true}) {
    PackageBuilder package = NewPackage();
    Inputs inputs = {{"data", Codes(DataType::kInt4, kShape, 4, 16)}, {"scale", Halves({4, 2})}};
    if (offset) inputs.emplace_back("offset", Codes(DataType::kInt4, {4, 2}, 4, 16));
    package.Function("main").Op("constexpr_blockwise_shift_scale", "w", inputs,
                                TensorType(kHalf, kShape));
    Finish(package);
    const Parsed parsed(package);
    ASSERT_TRUE(parsed.ok());
    EXPECT_TRUE(parsed->quantized());
    EXPECT_FALSE(parsed->palettized() || parsed->sparse());
    EXPECT_EQ(parsed->dtype, kHalf);
    EXPECT_EQ(parsed->shape, kShape);
    EXPECT_EQ(parsed->data.dtype, DataType::kInt4);
    EXPECT_EQ(parsed->scale->shape, (Shape{4, 2}));
    EXPECT_EQ(parsed->offset.has_value(), offset);
    EXPECT_EQ(parsed->width(), 1);
  }
}

TEST(ParseEncoding, DenseLutsWithScalesOnEitherSide) {
  for (const bool scaled_lut : {false, true})
    for (const bool scaled_result : {false, true}) {
      PackageBuilder package = NewPackage();
      BlockBuilder main = package.Function("main");
      Input lut = Halves({2, 1, 4, 1});
      if (scaled_lut) {
        main.Op("constexpr_blockwise_shift_scale", "table",
                {{"data", Codes(DataType::kUInt8, {2, 1, 4, 1}, 8, 200)},
                 {"scale", Halves({2, 1, 1, 1})},
                 {"offset", Codes(DataType::kUInt8, {2, 1, 1, 1}, 8, 200)}},
                TensorType(kHalf, {2, 1, 4, 1}));
        lut = "table";
      }
      main.Op("constexpr_lut_to_dense", scaled_result ? "inner" : "w",
              {{"indices", Codes(DataType::kUInt2, kShape, 2, 4)}, {"lut", lut}},
              TensorType(kHalf, kShape));
      if (scaled_result)
        main.Op("constexpr_blockwise_shift_scale", "w",
                {{"data", "inner"}, {"scale", Halves({4, 1})}}, TensorType(kHalf, kShape));
      Finish(package);
      const Parsed parsed(package);
      ASSERT_TRUE(parsed.ok());
      EXPECT_TRUE(parsed->palettized());
      EXPECT_FALSE(parsed->quantized());
      EXPECT_EQ(parsed->lut->shape, (Shape{2, 1, 4, 1}));
      EXPECT_EQ(parsed->lut->dtype, scaled_lut ? DataType::kUInt8 : kHalf);
      EXPECT_EQ(parsed->lut_scale.has_value(), scaled_lut);
      EXPECT_EQ(parsed->lut_offset.has_value(), scaled_lut);
      EXPECT_EQ(parsed->scale.has_value(), scaled_result);
      EXPECT_EQ(parsed->data.dtype, DataType::kUInt2);
    }
}

TEST(ParseEncoding, Vectors) {
  for (const int32_t axis : {1, -1}) {
    PackageBuilder package = NewPackage();
    package.Function("main").Op("constexpr_lut_to_dense", "w",
                                {{"indices", Codes(DataType::kUInt2, {4, 3}, 2, 4)},
                                 {"lut", Halves({1, 1, 4, 2})},
                                 {"vector_axis", Int32Value(axis)}},
                                TensorType(kHalf, kShape));
    Finish(package);
    const Parsed parsed(package);
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(parsed->vector_axis, 1);
    EXPECT_EQ(parsed->width(), 2);
    EXPECT_EQ(parsed->data.shape, (Shape{4, 3}));
    EXPECT_EQ(parsed->shape, kShape);
  }
}

// Every chain of a sparse weight: plain values, codes, a LUT, and a LUT with scales on both sides.
struct SparseChain {
  bool lut, lut_scale, scale;
};
PackageBuilder Sparse(const SparseChain& chain) {
  PackageBuilder package = NewPackage();
  BlockBuilder main = package.Function("main");
  const wire::Value codes = Codes(chain.lut ? DataType::kUInt2 : DataType::kInt8, {10},
                                  chain.lut ? 2 : 8, chain.lut ? 4 : 256);
  Input mask = Mask(), values = chain.lut || chain.scale ? codes : Halves({10});
  const wire::ValueType bits = TensorType(kBits, kShape), kept = TensorType(kHalf, {10});
  if (chain.lut) {
    Input lut = Halves({1, 1, 4, 1});
    if (chain.lut_scale) {
      main.Op(
          "constexpr_blockwise_shift_scale", "table",
          {{"data", Codes(DataType::kInt8, {1, 1, 4, 1}, 8, 256)}, {"scale", Halves({1, 1, 1, 1})}},
          TensorType(kHalf, {1, 1, 4, 1}));
      lut = "table";
    }
    main.Op("constexpr_lut_to_sparse",
            {{"indices_mask", mask}, {"indices_nonzero_data", values}, {"lut", lut}},
            Outputs{{"mask_1", bits}, {"values_1", kept}});
    mask = "mask_1";
    values = "values_1";
  }
  if (chain.scale) {
    main.Op("constexpr_sparse_blockwise_shift_scale",
            {{"data_mask", mask}, {"nonzero_data", values}, {"scale", Halves({4, 1})}},
            Outputs{{"mask_2", bits}, {"values_2", kept}});
    mask = "mask_2";
    values = "values_2";
  }
  main.Op("constexpr_sparse_to_dense", "w", {{"mask", mask}, {"nonzero_data", values}},
          TensorType(kHalf, kShape));
  Finish(package);
  return package;
}
const SparseChain kSparseChains[] = {{false, false, false}, {false, false, true},
                                     {true, false, false},  {true, true, false},
                                     {true, false, true},   {true, true, true}};

TEST(ParseEncoding, SparseChains) {
  for (const SparseChain& chain : kSparseChains) {
    PackageBuilder package = Sparse(chain);
    const Parsed parsed(package);
    ASSERT_TRUE(parsed.ok());
    EXPECT_TRUE(parsed->sparse());
    EXPECT_EQ(parsed->kept, 10u);
    EXPECT_EQ(parsed->mask->shape, kShape);
    EXPECT_EQ(parsed->mask->dtype, kBits);
    EXPECT_EQ(parsed->data.shape, Shape{10});
    EXPECT_EQ(parsed->palettized(), chain.lut);
    EXPECT_EQ(parsed->lut_scale.has_value(), chain.lut_scale);
    EXPECT_EQ(parsed->scale.has_value(), chain.scale);
    EXPECT_EQ(parsed->quantized(), chain.scale && !chain.lut);
  }
}

// A mask is no weight, and values without their mask are none either.
TEST(ParseEncoding, InnerLinksAreNone) {
  for (const char* name : {"mask_1", "mask_2"}) {
    PackageBuilder package = Sparse({true, false, true});
    EXPECT_FALSE(Parsed(package, name).ok()) << name;
  }
  for (const char* name : {"values_1", "values_2"}) {
    PackageBuilder package = Sparse({true, false, true});
    EXPECT_FALSE(Parsed(package, name, 1).ok()) << name;
  }
}

TEST(ParseEncoding, ConstsAreOperandsToo) {
  PackageBuilder package = NewPackage();
  BlockBuilder main = package.Function("main");
  main.Const("data", Codes(DataType::kInt8, kShape, 8, 256));
  main.BlobConst("scale", kHalf, {4, 1}, Fp16Bytes({1, 2, 3, 4}));
  main.Op("constexpr_blockwise_shift_scale", "w", {{"data", "data"}, {"scale", "scale"}},
          TensorType(kHalf, kShape));
  Finish(package);
  const Parsed parsed(package);
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed.Read(*parsed->scale), (std::vector<float>{1, 2, 3, 4}));
}

// --- The form of iOS 16 --------------------------------------------------------------------------

PackageBuilder Affine(const wire::Value& scale, const wire::Value& zero_point, int32_t axis) {
  PackageBuilder package(7);
  package.Function("main").Op("constexpr_affine_dequantize", "w", {}, TensorType(kHalf, kShape),
                              {{"quantized_data", Codes(DataType::kUInt8, kShape, 8, 256)},
                               {"scale", scale},
                               {"zero_point", zero_point},
                               {"axis", Int32Value(axis)}});
  Finish(package);
  return package;
}
wire::Value Bytes(const std::vector<int>& values, const Shape& shape) {
  return BytesValue(DataType::kUInt8, shape, PackedInts(values, 8));
}

TEST(ParseEncoding, ScalesAndZeroPointsOfIos16AreSpreadAlongTheAxis) {
  PackageBuilder both =
      Affine(BytesValue(kHalf, {4}, Fp16Bytes({1, 2, 3, 4})), Bytes({9, 8, 7, 6}, {4}), 0);
  const Parsed vectors(both);
  ASSERT_TRUE(vectors.ok());
  EXPECT_EQ(vectors->scale->shape, (Shape{4, 1}));
  EXPECT_EQ(vectors->offset->shape, (Shape{4, 1}));
  EXPECT_EQ(vectors.Read(*vectors->scale), (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(vectors.Read(*vectors->offset), (std::vector<float>{9, 8, 7, 6}));
  // One of them may be a scalar; axes count from the end as well.
  PackageBuilder mixed =
      Affine(BytesValue(kHalf, {}, Fp16Bytes({5})), Bytes({6, 5, 4, 3, 2, 1}, {6}), -1);
  const Parsed spread(mixed);
  ASSERT_TRUE(spread.ok());
  EXPECT_EQ(spread->scale->shape, (Shape{1, 6}));
  EXPECT_EQ(spread.Read(*spread->scale), std::vector<float>(6, 5));
  EXPECT_EQ(spread.Read(*spread->offset), (std::vector<float>{6, 5, 4, 3, 2, 1}));
  PackageBuilder scalars = Affine(BytesValue(kHalf, {}, Fp16Bytes({5})), Bytes({128}, {}), 1);
  const Parsed one(scalars);
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(one->scale->shape, (Shape{1, 1}));
}

TEST(ParseEncoding, AZeroPointOfZeroIsNone) {
  PackageBuilder package =
      Affine(BytesValue(kHalf, {}, Fp16Bytes({5})), Bytes({0, 0, 0, 0}, {4}), 0);
  const Parsed parsed(package);
  ASSERT_TRUE(parsed.ok());
  EXPECT_FALSE(parsed->offset.has_value());
  EXPECT_TRUE(parsed->quantized());
}

TEST(ParseEncoding, AffineOperandsThatDoNotFitAreNone) {
  const wire::Value scale = BytesValue(kHalf, {}, Fp16Bytes({5}));
  const wire::Value three = BytesValue(kHalf, {3}, Fp16Bytes({1, 2, 3}));
  PackageBuilder cases[] = {
      Affine(scale, Bytes({1, 2, 3}, {3}), 0), Affine(three, Bytes({1}, {}), 1),
      Affine(scale, Bytes({1}, {}), 2), Affine(scale, Bytes({1}, {}), -3),
      Affine(scale, BytesValue(DataType::kInt8, {}, std::string(1, '\1')), 0)};
  for (PackageBuilder& package : cases) EXPECT_FALSE(Parsed(package).ok());
}

TEST(ParseEncoding, OfOtherFormsOfIos16TheOutline) {
  PackageBuilder lut(7), sparse(7);
  const wire::Value shape =
      BytesValue(DataType::kUInt32, {2}, BytesOf(std::vector<uint32_t>{4, 6}));
  lut.Function("main").Op(
      "constexpr_lut_to_dense", "w", {}, TensorType(kHalf, kShape),
      {{"indices", Bytes({1, 2, 3, 4, 5, 6}, {6})}, {"lut", Halves({4})}, {"shape", shape}});
  Finish(lut);
  sparse.Function("main").Op(
      "constexpr_sparse_to_dense", "w", {}, TensorType(kHalf, kShape),
      {{"nonzero_data", Halves({2})}, {"mask", Bytes({1, 0, 1}, {3})}, {"shape", shape}});
  Finish(sparse);
  const Parsed a(lut), b(sparse);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_TRUE(a->palettized() && !a->sparse() && !a->quantized());
  EXPECT_TRUE(b->sparse() && !b->palettized() && !b->quantized());
  EXPECT_EQ(a->shape, kShape);
}

// The entries of such a LUT are no vectors.
TEST(ParseEncoding, TheLutOfIos16HasScalarEntries) {
  PackageBuilder package(7);
  package.Function("main").Op(
      "constexpr_lut_to_dense", "w", {}, TensorType(kHalf, kShape),
      {{"indices", Bytes({1, 2, 3, 4, 5, 6}, {6})},
       {"lut", Halves({4})},
       {"shape", BytesValue(DataType::kUInt32, {2}, BytesOf(std::vector<uint32_t>{4, 6}))}});
  Finish(package);
  const Parsed parsed(package);
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->width(), 1);
}

// --- What is no encoding -------------------------------------------------------------------------

TEST(ParseEncoding, ChainsOfOtherKindsAreNone) {
  using Add = void (*)(BlockBuilder&);
  const Add cases[] = {
      [](BlockBuilder& main) {  // a cast
        main.Op("constexpr_cast", "w",
                {{"source_val", Halves(kShape)}, {"output_dtype", StringValue("fp16")}},
                TensorType(kHalf, kShape));
      },
      [](BlockBuilder& main) {  // codes without scales
        main.Op("constexpr_blockwise_shift_scale", "w",
                {{"data", Codes(DataType::kInt8, kShape, 8, 256)}}, TensorType(kHalf, kShape));
      },
      [](BlockBuilder& main) {  // scales of scaled values
        main.Op("constexpr_blockwise_shift_scale", "inner",
                {{"data", Codes(DataType::kInt8, kShape, 8, 256)}, {"scale", Halves({4, 1})}},
                TensorType(kHalf, kShape));
        main.Op("constexpr_blockwise_shift_scale", "w",
                {{"data", "inner"}, {"scale", Halves({4, 1})}}, TensorType(kHalf, kShape));
      },
      [](BlockBuilder& main) {  // a LUT that comes out of a look-up
        main.Op("constexpr_lut_to_dense", "inner",
                {{"indices", Codes(DataType::kUInt2, {1, 1, 4, 1}, 2, 4)},
                 {"lut", Halves({1, 1, 1, 1, 4, 1})}},
                TensorType(kHalf, {1, 1, 4, 1}));
        main.Op("constexpr_lut_to_dense", "w",
                {{"indices", Codes(DataType::kUInt2, kShape, 2, 4)}, {"lut", "inner"}},
                TensorType(kHalf, kShape));
      },
      [](BlockBuilder& main) {  // indices of a look-up for a mask
        main.Op("constexpr_lut_to_sparse",
                {{"indices_mask", Mask()},
                 {"indices_nonzero_data", Codes(DataType::kUInt2, {10}, 2, 4)},
                 {"lut", Halves({1, 1, 4, 1})}},
                Outputs{{"m", TensorType(kBits, kShape)}, {"v", TensorType(kHalf, {10})}});
        main.Op("constexpr_sparse_to_dense", "w", {{"mask", Mask()}, {"nonzero_data", "m"}},
                TensorType(kHalf, kShape));
      },
      [](BlockBuilder& main) {  // no mask
        main.Op("constexpr_sparse_to_dense", "w", {{"nonzero_data", Halves({10})}},
                TensorType(kHalf, kShape));
      },
      [](BlockBuilder& main) {  // an offset that nothing defines
        main.Op("constexpr_blockwise_shift_scale", "w",
                {{"data", Codes(DataType::kInt8, kShape, 8, 256)},
                 {"scale", Halves({4, 1})},
                 {"offset", "x"}},
                TensorType(kHalf, kShape));
      },
  };
  for (size_t i = 0; i < std::size(cases); ++i) {
    PackageBuilder package = NewPackage();
    BlockBuilder main = package.Function("main");
    cases[i](main);
    Finish(package);
    EXPECT_FALSE(Parsed(package).ok()) << "case " << i;
  }
}

// --- From an encoding to a chain -----------------------------------------------------------------

// "type(parameter: <- name or type)[attribute: type] -> outputs" of all operations.
std::vector<std::string> Print(const std::vector<Operation>& ops) {
  std::vector<std::string> lines;
  for (const Operation& op : ops) {
    std::string line = op.type.substr(op.type.starts_with("constexpr_") ? 10 : 0) + "(";
    for (const auto& [parameter, argument] : op.inputs) {
      const auto* name = std::get_if<std::string>(&argument.bindings.at(0).target);
      line +=
          " " + parameter + "=" +
          (name != nullptr ? *name : ToString(std::get<Value>(argument.bindings[0].target).type));
    }
    for (const auto& [parameter, value] : op.attributes)
      if (parameter != "name") line += " [" + parameter + "=" + ToString(value.type) + "]";
    line += " ) ->";
    for (const NamedValueType& output : op.outputs)
      line += " " + output.name + ":" + ToString(*output.type);
    lines.push_back(line);
  }
  return lines;
}

// What takes the place of a const "w" for an encoding. The values are of the new tensors' types.
std::vector<std::string> Built(const Encoding& encoding, int32_t version, const Operation& op) {
  const Replacement replacement = MakeReplacement(encoding, version, "form", {});
  EXPECT_EQ(replacement.form, "form");
  std::vector<Value> values;
  for (const NewTensor& tensor : replacement.tensors)
    values.push_back(MakeBlobValue(tensor.dtype, tensor.shape, TensorId{}));
  const std::vector<Operation> ops = replacement.build(op, values);
  EXPECT_EQ(ops.back().outputs[0].name, op.outputs[0].name);
  EXPECT_EQ(NameOf(ops.back()), NameOf(op));
  std::set<std::string> names;
  for (const Operation& one : ops) EXPECT_TRUE(names.insert(NameOf(one)).second) << NameOf(one);
  return Print(ops);
}
using Lines = std::vector<std::string>;

// Taken apart and put together, every chain has the same operations as before.
TEST(MakeReplacement, GivesASparseChainBack) {
  for (const SparseChain& chain : kSparseChains) {
    PackageBuilder package = Sparse(chain);
    const Parsed parsed(package);
    ASSERT_TRUE(parsed.ok());
    Lines types;
    for (const std::string& line : Built(*parsed, 9, parsed.op()))
      types.push_back(line.substr(0, line.find('(')));
    Lines expected;
    if (chain.lut_scale) expected.push_back("blockwise_shift_scale");
    if (chain.lut) expected.push_back("lut_to_sparse");
    if (chain.scale) expected.push_back("sparse_blockwise_shift_scale");
    expected.push_back("sparse_to_dense");
    EXPECT_EQ(types, expected);
  }
}

TEST(MakeReplacement, NamesTheLinksAfterTheWeight) {
  PackageBuilder package = Sparse({true, true, true});
  const Parsed parsed(package);
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(
      Built(*parsed, 9, parsed.op()),
      (Lines{"blockwise_shift_scale( data=int8 [1, 1, 4, 1] scale=fp16 [1, 1, 1, 1] ) -> "
             "w_lut:fp16 [1, 1, 4, 1]",
             "lut_to_sparse( indices_mask=uint1 [4, 6] indices_nonzero_data=uint2 [10] "
             "lut=w_lut ) -> w_mask:uint1 [4, 6] w_kept:fp16 [10]",
             "sparse_blockwise_shift_scale( data_mask=w_mask nonzero_data=w_kept scale=fp16 "
             "[4, 1] ) -> w_scaled_mask:uint1 [4, 6] w_scaled:fp16 [10]",
             "sparse_to_dense( mask=w_scaled_mask nonzero_data=w_scaled ) -> w:fp16 [4, 6]"}));
}

// From iOS 26 on the scale of a LUT is applied to what is looked up, with the LUT's blocks.
TEST(MakeReplacement, OnIos26TheScaleOfALutComesLast) {
  PackageBuilder sparse_package = Sparse({true, true, false});
  const Parsed sparse(sparse_package);
  EXPECT_EQ(
      Built(*sparse, 10, sparse.op()),
      (Lines{"lut_to_sparse( indices_mask=uint1 [4, 6] indices_nonzero_data=uint2 [10] "
             "lut=int8 [1, 1, 4, 1] ) -> w_mask:uint1 [4, 6] w_kept:int8 [10]",
             "sparse_blockwise_shift_scale( data_mask=w_mask nonzero_data=w_kept scale=fp16 "
             "[1, 1] ) -> w_scaled_mask:uint1 [4, 6] w_scaled:fp16 [10]",
             "sparse_to_dense( mask=w_scaled_mask nonzero_data=w_scaled ) -> w:fp16 [4, 6]"}));
  Encoding dense;
  dense.dtype = kHalf;
  dense.shape = kShape;
  dense.data = {DataType::kUInt4, kShape, std::string(12, '\0')};
  dense.lut = Operand{DataType::kUInt8, {2, 1, 16, 1}, std::string(32, '\0')};
  dense.lut_scale = Operand{kHalf, {2, 1, 1, 1}, std::string(4, '\0')};
  dense.lut_offset = Operand{DataType::kUInt8, {2, 1, 1, 1}, std::string(2, '\0')};
  EXPECT_EQ(Built(dense, 10, sparse.op()),
            (Lines{"lut_to_dense( indices=uint4 [4, 6] lut=uint8 [2, 1, 16, 1] ) -> "
                   "w_looked_up:uint8 [4, 6]",
                   "blockwise_shift_scale( data=w_looked_up offset=uint8 [2, 1] scale=fp16 [2, 1] "
                   ") -> w:fp16 [4, 6]"}));
  EXPECT_EQ(Built(dense, 9, sparse.op()),
            (Lines{"blockwise_shift_scale( data=uint8 [2, 1, 16, 1] offset=uint8 [2, 1, 1, 1] "
                   "scale=fp16 [2, 1, 1, 1] ) -> w_lut:fp16 [2, 1, 16, 1]",
                   "lut_to_dense( indices=uint4 [4, 6] lut=w_lut ) -> w:fp16 [4, 6]"}));
  // Two scales cannot be one: then the LUT's stays where it is.
  dense.scale = Operand{kHalf, {4, 1}, std::string(8, '\0')};
  EXPECT_EQ(Built(dense, 10, sparse.op()).size(), 3u);
}

TEST(MakeReplacement, VectorsHaveTheirAxis) {
  Encoding encoding;
  encoding.dtype = kFloat;
  encoding.shape = kShape;
  encoding.data = {DataType::kUInt2, {2, 6}, std::string(3, '\0')};
  encoding.lut = Operand{kFloat, {1, 1, 4, 2}, std::string(32, '\0')};
  PackageBuilder package = Sparse({true, false, false});
  const Parsed parsed(package);
  EXPECT_EQ(Built(encoding, 9, parsed.op()),
            Lines{"lut_to_dense( indices=uint2 [2, 6] lut=fp32 [1, 1, 4, 2] vector_axis=int32 ) -> "
                  "w:fp16 [4, 6]"});
}

// Below iOS 18 operands are attributes; codes and masks are bytes, and zero points are a must.
TEST(MakeReplacement, OldForms) {
  PackageBuilder package = Sparse({true, false, false});
  const Parsed parsed(package);
  Encoding codes;
  codes.dtype = kHalf;
  codes.shape = kShape;
  codes.data = {DataType::kInt8, kShape, std::string(24, '\0')};
  codes.scale = Operand{kHalf, {1, 6}, std::string(12, '\0')};
  EXPECT_EQ(Built(codes, 7, parsed.op()),
            Lines{"affine_dequantize( [axis=int32] [quantized_data=int8 [4, 6]] [scale=fp16 [6]] "
                  "[zero_point=int8 [6]] ) -> w:fp16 [4, 6]"});
  codes.scale = Operand{kHalf, {1, 1}, std::string(2, '\0')};
  EXPECT_EQ(Built(codes, 8, parsed.op()),
            Lines{"affine_dequantize( [axis=int32] [quantized_data=int8 [4, 6]] [scale=fp16] "
                  "[zero_point=int8] ) -> w:fp16 [4, 6]"});
  Encoding lut;
  lut.dtype = kHalf;
  lut.shape = kShape;
  lut.data = {DataType::kUInt6, kShape, std::string(18, '\0')};
  lut.lut = Operand{kHalf, {1, 1, 64, 1}, std::string(128, '\0')};
  EXPECT_EQ(Built(lut, 7, parsed.op()),
            Lines{"lut_to_dense( [indices=uint8 [18]] [lut=fp16 [64]] [shape=uint32 [2]] ) -> "
                  "w:fp16 [4, 6]"});
  Encoding sparse;
  sparse.dtype = kHalf;
  sparse.shape = kShape;
  sparse.mask = Operand{kBits, kShape, std::string(3, '\0')};
  sparse.data = {kHalf, {0}, std::string()};
  EXPECT_EQ(Built(sparse, 7, parsed.op()),
            Lines{"sparse_to_dense( [mask=uint8 [3]] [nonzero_data=fp16 [0]] [shape=uint32 [2]] ) "
                  "-> w:fp16 [4, 6]"});
}

TEST(MakeReplacement, PlainValuesAreAConstOnEverySystem) {
  PackageBuilder package = Sparse({true, false, false});
  const Parsed parsed(package);
  for (const int32_t version : {7, 9, 10}) {
    Encoding plain;
    plain.dtype = kHalf;
    plain.shape = kShape;
    plain.data = {kHalf, kShape, std::string(48, '\0')};
    EXPECT_EQ(Built(plain, version, parsed.op()),
              Lines{"const( [val=fp16 [4, 6]] ) -> w:fp16 [4, 6]"});
  }
}

// --- Operands ------------------------------------------------------------------------------------

TEST(ReadOperand, OfEveryTypeAndPlace) {
  const std::tuple<DataType, std::string, std::vector<float>> cases[] = {
      {kHalf, Fp16Bytes({1.5f, -2, 65504}), {1.5f, -2, 65504}},
      {kFloat, Fp32Bytes({1e30f, -0.1f, 0}), {1e30f, -0.1f, 0}},
      {DataType::kInt8, PackedInts({127, -128, -1}, 8), {127, -128, -1}},
      {DataType::kUInt8, PackedInts({255, 128, 0}, 8), {255, 128, 0}},
      {DataType::kInt4, PackedInts({7, -8, -1}, 4), {7, -8, -1}},
      {DataType::kUInt4, PackedInts({15, 8, 0}, 4), {15, 8, 0}},
      {DataType::kUInt6, PackedInts({63, 32, 1}, 6), {63, 32, 1}},
      {DataType::kUInt3, PackedInts({7, 4, 1}, 3), {7, 4, 1}},
      {DataType::kUInt1, PackedInts({1, 0, 1}, 1), {1, 0, 1}},
  };
  for (const auto& [dtype, bytes, values] : cases) {
    PackageBuilder package = NewPackage();
    BlockBuilder main = package.Function("main");
    main.Op(
        "constexpr_blockwise_shift_scale", "w",
        {{"data", main.Blob(dtype, {1, 3}, bytes)}, {"scale", BytesValue(dtype, {1, 3}, bytes)}},
        TensorType(kHalf, {1, 3}));
    Finish(package);
    const Parsed parsed(package);
    ASSERT_TRUE(parsed.ok());
    EXPECT_TRUE(std::holds_alternative<TensorId>(std::get<Value>(parsed->data.content).content));
    EXPECT_EQ(parsed.Read(parsed->data), values) << NameOf(dtype) << " in the weights file";
    EXPECT_EQ(parsed.Read(*parsed->scale), values) << NameOf(dtype) << " in the spec";
    EXPECT_EQ(parsed.Read({dtype, {1, 3}, bytes}), values) << NameOf(dtype) << " made by a pass";
  }
}

TEST(ViewOperand, GivesARangeOfBytes) {
  PackageBuilder package = NewPackage();
  BlockBuilder main = package.Function("main");
  std::string bytes;
  for (int i = 0; i < 24; ++i) bytes += static_cast<char>(i * 11);
  main.Op("constexpr_blockwise_shift_scale", "w",
          {{"data", main.Blob(DataType::kInt8, kShape, bytes)},
           {"scale", Halves({4, 1})},
           {"offset", BytesValue(DataType::kInt8, kShape, bytes)}},
          TensorType(kHalf, kShape));
  Finish(package);
  const Parsed parsed(package);
  ASSERT_TRUE(parsed.ok());
  for (const Operand& operand :
       {parsed->data, *parsed->offset, Operand{DataType::kInt8, kShape, bytes}}) {
    const auto view = ViewOperand(operand, parsed.tensors(), 5, 7);
    ASSERT_TRUE(Succeeds(view));
    const auto* first = reinterpret_cast<const char*>(view->bytes().data());
    EXPECT_EQ(std::string(first, view->bytes().size()), bytes.substr(5, 7));
  }
}

}  // namespace
}  // namespace cmlc::test
