// Every form of constexpr against the formula in the format's description, written out here as
// plain loops over coordinates.
#include "ir/decode.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <random>
#include <string>
#include <variant>
#include <vector>

#include "numeric/half.h"
#include "support/test_util.h"

namespace cmlc {
namespace {

using test::Fails;
using test::FromHex;
using test::Succeeds;
using Floats = std::vector<float>;

float ToHalf(float value) { return numeric::HalfToFloat(numeric::FloatToHalf(value)); }

Floats ToHalves(Floats values) {
  for (float& value : values) value = ToHalf(value);
  return values;
}

// Packed little-endian elements.
std::string Encoded(DataType dtype, const Floats& values) {
  if (IsWeightFloat(dtype)) return test::FloatBytes(dtype, values);
  if (dtype == DataType::kBFloat16) {
    std::vector<uint16_t> halves;
    for (const float value : values)
      halves.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
    return test::BytesOf(halves);
  }
  std::vector<int> integers;
  for (const float value : values) integers.push_back(static_cast<int>(value));
  return test::PackedInts(integers, BitsOf(dtype));
}

uint64_t CountOf(const Shape& shape) { return *ElementCount(shape); }

// The coordinates of an element, and back.
Shape Unravel(uint64_t position, const Shape& shape) {
  Shape at(shape.size());
  for (size_t d = shape.size(); d-- > 0;) {
    at[d] = static_cast<int64_t>(position) % shape[d];
    position /= static_cast<uint64_t>(shape[d]);
  }
  return at;
}

size_t Ravel(const Shape& at, const Shape& shape) {
  int64_t position = 0;
  for (size_t d = 0; d < shape.size(); ++d) position = position * shape[d] + at[d];
  return static_cast<size_t>(position);
}

// The block that an element is in: its coordinates over the size of a block along each axis.
size_t BlockOf(const Shape& at, const Shape& shape, const Shape& blocks) {
  Shape block(shape.size());
  for (size_t d = 0; d < shape.size(); ++d) block[d] = at[d] / (shape[d] / blocks[d]);
  return Ravel(block, blocks);
}

// --- The operations -----------------------------------------------------------------------------

class Decode : public ::testing::Test {
 protected:
  Decode() : file_(store_.AddFile("@model_path/weights/weight.bin", "weights/weight.bin")) {}

  // A value in the message, and one in the store.
  static Value Literal(DataType dtype, const Shape& shape, const Floats& values) {
    return MakeImmediate(dtype, shape, Encoded(dtype, values));
  }
  Value Stored(DataType dtype, const Shape& shape, const Floats& values) {
    return MakeBlobValue(dtype, shape,
                         store_.AddInline(dtype, CountOf(shape), Encoded(dtype, values), file_));
  }

  struct Operand {
    Operand(const char* n) : bound(std::string(n)) {}  // NOLINT: implicit
    Operand(Value v) : bound(std::move(v)) {}          // NOLINT: implicit
    std::variant<std::string, Value> bound;
  };
  using Operands = std::vector<std::pair<std::string, Operand>>;

  // The iOS 16 encoding: operands are attributes.
  Operation& Old(const std::string& type, const std::string& name, const Operands& operands) {
    Operation& op = New(type, name, {});
    for (const auto& [parameter, operand] : operands)
      op.attributes[parameter] = std::get<Value>(operand.bound);
    return op;
  }

  // The iOS 18 encoding: operands are inputs.
  Operation& New(const std::string& type, const std::string& name, const Operands& operands,
                 int outputs = 1) {
    Operation& op = block_.operations.emplace_back();
    op.type = type;
    for (int i = 0; i < outputs; ++i)
      op.outputs.push_back(
          {.name = outputs == 1 ? name : fmt::format("{}_{}", name, i), .type = {}, .opaque = {}});
    op.attributes["name"] = MakeString(name);
    for (const auto& [parameter, operand] : operands) {
      Binding binding;
      if (const auto* value = std::get_if<Value>(&operand.bound))
        binding.target = *value;
      else
        binding.target = std::get<std::string>(operand.bound);
      op.inputs[parameter].bindings.push_back(std::move(binding));
    }
    return op;
  }

  Operation& Const(const std::string& name, const Value& value) {
    Operation& op = New("const", name, {});
    op.attributes["val"] = value;
    return op;
  }

  // A reader of an output of the last operation.
  Result<std::unique_ptr<TensorReader>> Reader(size_t output = 0) {
    GraphIndex index(block_);
    return MakeReader(block_.operations.back(), output, index, store_);
  }

  void ExpectDecodes(DataType dtype, const Shape& shape, const Floats& expected,
                     size_t output = 0) {
    const auto reader = Reader(output);
    ASSERT_TRUE(Succeeds(reader));
    EXPECT_EQ((*reader)->dtype(), dtype);
    EXPECT_EQ((*reader)->shape(), shape);
    const Result<Floats> values = ReadAll(**reader);
    ASSERT_TRUE(Succeeds(values));
    EXPECT_EQ(*values, expected);
    // Any part of it is the same.
    std::mt19937_64 random(1);
    for (int i = 0; i < 40 && !expected.empty(); ++i) {
      const size_t begin = random() % expected.size();
      const size_t size = random() % (expected.size() - begin + 1);
      Floats part(size);
      ASSERT_TRUE(Succeeds((*reader)->Read(begin, part)));
      ASSERT_EQ(part, Floats(expected.begin() + static_cast<std::ptrdiff_t>(begin),
                             expected.begin() + static_cast<std::ptrdiff_t>(begin + size)))
          << "at " << begin << ", " << size << " elements";
    }
  }

  ::testing::AssertionResult FailsToDecode(std::initializer_list<std::string_view> fragments,
                                           size_t output = 0) {
    return Fails(Reader(output), ErrorKind::kBadInput, fragments);
  }

  TensorStore store_;
  WeightsFile file_;
  Block block_;
};

Value Axis(int32_t axis) { return MakeInt32(axis); }

Value Sizes(const std::vector<uint32_t>& sizes) {
  return MakeImmediate(DataType::kUInt32, {static_cast<int64_t>(sizes.size())},
                       test::BytesOf(sizes));
}

Floats Iota(size_t count, float first = 0) {
  Floats values(count);
  for (size_t i = 0; i < count; ++i) values[i] = first + static_cast<float>(i);
  return values;
}

Floats Codes(uint64_t count, uint64_t seed, int bound, int least = 0) {
  const auto codes = test::RandomCodes(static_cast<size_t>(count), seed, bound);
  Floats values;
  for (const uint8_t code : codes) values.push_back(static_cast<float>(code + least));
  return values;
}

// --- const --------------------------------------------------------------------------------------

TEST_F(Decode, ConstOfEveryType) {
  for (const auto& [dtype, bound, least] :
       {std::tuple{DataType::kInt8, 256, -128}, std::tuple{DataType::kUInt8, 256, 0},
        std::tuple{DataType::kInt4, 16, -8}, std::tuple{DataType::kUInt4, 16, 0},
        std::tuple{DataType::kUInt6, 64, 0}, std::tuple{DataType::kUInt3, 8, 0},
        std::tuple{DataType::kUInt2, 4, 0}, std::tuple{DataType::kUInt1, 2, 0},
        std::tuple{DataType::kInt16, 256, -128}, std::tuple{DataType::kUInt16, 256, 0},
        std::tuple{DataType::kBool, 2, 0}, std::tuple{DataType::kFloat16, 256, -128},
        std::tuple{DataType::kFloat32, 256, -128}, std::tuple{DataType::kBFloat16, 256, -128}})
    for (const int64_t count : {1, 7, 33, 1000}) {
      SCOPED_TRACE(fmt::format("{} x {}", NameOf(dtype), count));
      const Floats values = Codes(static_cast<uint64_t>(count), 3, bound, least);
      Const("c", Literal(dtype, {count}, values));
      ExpectDecodes(dtype, {count}, values);
      Const("c", Stored(dtype, {count}, values));
      ExpectDecodes(dtype, {count}, values);
    }
}

TEST_F(Decode, ConstOfFewOrNoElements) {
  Const("c", Literal(DataType::kFloat32, {}, {5}));
  ExpectDecodes(DataType::kFloat32, {}, {5});
  Const("c", Stored(DataType::kUInt3, {3, 0}, {}));
  ExpectDecodes(DataType::kUInt3, {3, 0}, {});
}

TEST_F(Decode, ConstOfMoreThanOneStep) {
  for (const DataType dtype : {DataType::kUInt3, DataType::kFloat16}) {
    const Floats values = Codes(1'200'001, 5, 8);
    Const("c", Stored(dtype, {1'200'001}, values));
    ExpectDecodes(dtype, {1'200'001}, values);
  }
}

TEST_F(Decode, ReportsConstsItCannotRead) {
  New("const", "c", {});
  EXPECT_TRUE(FailsToDecode({"op 'c' (const): attribute 'val' is missing"}));
  Const("c", MakeString("text"));
  EXPECT_TRUE(FailsToDecode({"op 'c' (const): 'val' has element type string"}));
  Value open = Literal(DataType::kFloat32, {1}, {1});
  open.type.tensor.dimensions[0] = {.kind = Dimension::Kind::kUnknown};
  Const("c", open);
  EXPECT_TRUE(FailsToDecode({"expected a tensor of fixed shape"}));
  Value short_value = Literal(DataType::kFloat32, {2}, {1, 2});
  short_value.type = MakeTensorType(DataType::kFloat32, {3});
  Const("c", short_value);
  EXPECT_TRUE(FailsToDecode({"its values do not match its type fp32 [3]"}));
  Const("c", MakeBlobValue(DataType::kFloat32, {2}, store_.AddMissing(file_, 64)));
  EXPECT_TRUE(FailsToDecode({"lies in a weights file that is missing"}));
}

TEST_F(Decode, ReportsADeclaredTypeThatIsNotItsOwn) {
  Operation& op = Const("c", Literal(DataType::kFloat32, {2}, {1, 2}));
  op.outputs[0].type = MakeTensorType(DataType::kFloat32, {1, 2});
  EXPECT_TRUE(FailsToDecode({"op 'c'", "declared as fp32 [1, 2], its operands give fp32 [2]"}));
  op.outputs[0].type = MakeTensorType(DataType::kFloat16, {2});
  EXPECT_TRUE(FailsToDecode({"declared as fp16 [2]"}));
}

// --- constexpr_affine_dequantize ----------------------------------------------------------------

struct AffineCase {
  Shape shape;
  int32_t axis;
  bool vector_scale;
  bool vector_zero;
  DataType data;
  DataType zero;
  DataType scale;
};

TEST_F(Decode, AffineIsScaleTimesDifference) {
  for (const AffineCase& c : std::initializer_list<AffineCase>{
           {{2, 3}, 0, false, false, DataType::kInt8, DataType::kInt8, DataType::kFloat16},
           {{2, 3}, 1, true, true, DataType::kUInt8, DataType::kUInt8, DataType::kFloat16},
           {{4, 3, 2}, 0, true, false, DataType::kInt8, DataType::kInt8, DataType::kFloat32},
           {{4, 3, 2}, 1, false, true, DataType::kInt8, DataType::kInt8, DataType::kFloat16},
           {{4, 3, 2}, -1, true, true, DataType::kUInt8, DataType::kFloat32, DataType::kFloat16},
           {{4, 3, 2}, -3, true, true, DataType::kInt8, DataType::kFloat32, DataType::kFloat32},
           {{5, 1}, 1, true, true, DataType::kInt8, DataType::kInt8, DataType::kFloat16},
           {{7}, 0, true, true, DataType::kUInt8, DataType::kUInt8, DataType::kFloat32}}) {
    SCOPED_TRACE(fmt::format("axis {} of {}", c.axis, ToString(c.shape)));
    const size_t axis = static_cast<size_t>(c.axis < 0 ? c.axis + std::ssize(c.shape) : c.axis);
    const auto channels = static_cast<uint64_t>(c.shape[axis]);
    const Shape vector = {static_cast<int64_t>(channels)};
    const Floats data = Codes(CountOf(c.shape), 1, 256, c.data == DataType::kInt8 ? -128 : 0);
    Floats scale = test::Gaussian(c.vector_scale ? channels : 1, 2, 0.1f);
    if (c.scale == DataType::kFloat16) scale = ToHalves(scale);
    Floats zero = Codes(c.vector_zero ? channels : 1, 3, 100);
    if (c.zero == DataType::kFloat32)
      for (float& value : zero) value += 0.25f;
    Old("constexpr_affine_dequantize", "w",
        {{"quantized_data", Stored(c.data, c.shape, data)},
         {"scale", Literal(c.scale, c.vector_scale ? vector : Shape{}, scale)},
         {"zero_point", Literal(c.zero, c.vector_zero ? vector : Shape{}, zero)},
         {"axis", Axis(c.axis)}});
    Floats expected;
    for (uint64_t i = 0; i < data.size(); ++i) {
      const auto channel = static_cast<size_t>(Unravel(i, c.shape)[axis]);
      const float value =
          scale[c.vector_scale ? channel : 0] * (data[i] - zero[c.vector_zero ? channel : 0]);
      expected.push_back(c.scale == DataType::kFloat16 ? ToHalf(value) : value);
    }
    ExpectDecodes(c.scale, c.shape, expected);
  }
}

TEST_F(Decode, AffineReportsWhatDoesNotFit) {
  const Value data = Literal(DataType::kInt8, {2, 3}, Iota(6));
  const Value one = Literal(DataType::kFloat16, {}, {1});
  const Value zero = Literal(DataType::kInt8, {}, {0});
  const auto affine = [&](const Value& d, const Value& s, const Value& z, const Value& axis) {
    Old("constexpr_affine_dequantize", "w",
        {{"quantized_data", d}, {"scale", s}, {"zero_point", z}, {"axis", axis}});
  };
  Old("constexpr_affine_dequantize", "w", {{"quantized_data", data}, {"scale", one}});
  EXPECT_TRUE(FailsToDecode({"op 'w'", "operand 'zero_point' is missing"}));
  Old("constexpr_affine_dequantize", "w",
      {{"quantized_data", data}, {"scale", one}, {"zero_point", zero}});
  EXPECT_TRUE(FailsToDecode({"operand 'axis' is missing"}));
  affine(data, one, zero, Axis(2));
  EXPECT_TRUE(FailsToDecode({"'axis' is 2, the data has rank 2"}));
  affine(data, one, zero, Axis(-3));
  EXPECT_TRUE(FailsToDecode({"'axis' is -1, the data has rank 2"}));
  affine(data, Literal(DataType::kFloat16, {2}, {1, 2}), zero, Axis(1));
  EXPECT_TRUE(FailsToDecode({"'scale' [2]", "do not fit axis 1 of [2, 3]"}));
  affine(data, Literal(DataType::kFloat16, {1, 3}, {1, 2, 3}), zero, Axis(1));
  EXPECT_TRUE(FailsToDecode({"do not fit axis 1"}));
  affine(data, Literal(DataType::kInt8, {}, {1}), zero, Axis(0));
  EXPECT_TRUE(FailsToDecode({"'scale' is int8, expected fp16 or fp32"}));
  affine(Literal(DataType::kFloat16, {2}, {1, 2}), one, zero, Axis(0));
  EXPECT_TRUE(FailsToDecode({"'quantized_data' is fp16, expected int8 or uint8"}));
  affine(data, one, zero, MakeString("x"));
  EXPECT_TRUE(FailsToDecode({"operand 'axis' has type string, expected one integer"}));
}

// --- constexpr_lut_to_dense, iOS 16 -------------------------------------------------------------

TEST_F(Decode, OldLutOfTheFormatsDescription) {
  Old("constexpr_lut_to_dense", "w",
      {{"indices", MakeImmediate(DataType::kUInt8, {2}, FromHex("0a 04"))},
       {"lut", Literal(DataType::kFloat16, {4}, {1, 2, 3, 4})},
       {"shape", Sizes({5})}});
  ExpectDecodes(DataType::kFloat16, {5}, {3, 3, 1, 1, 1});
  Old("constexpr_lut_to_dense", "w",
      {{"indices", MakeImmediate(DataType::kUInt8, {2}, FromHex("d4 15"))},
       {"lut", Literal(DataType::kFloat32, {16}, Iota(16))},
       {"shape", Sizes({4})}});
  ExpectDecodes(DataType::kFloat32, {4}, {4, 13, 5, 1});
}

TEST_F(Decode, OldLutOfEveryWidth) {
  for (const int bits : {1, 2, 4, 6, 8})
    for (const uint32_t rows : {1u, 3u, 100u}) {
      const uint64_t count = uint64_t{rows} * 7;
      const Floats indices = Codes(count, 4, 1 << bits);
      const Floats lut = ToHalves(test::Gaussian(size_t{1} << bits, 5));
      const std::string packed = test::PackedInts({indices.begin(), indices.end()}, bits);
      const auto bytes = static_cast<int64_t>(packed.size());
      Floats expected;
      for (const float index : indices) expected.push_back(lut[static_cast<size_t>(index)]);
      for (const bool stored : {false, true}) {
        Old("constexpr_lut_to_dense", "w",
            {{"indices", stored ? MakeBlobValue(DataType::kUInt8, {bytes},
                                                store_.AddInline(DataType::kUInt8, packed.size(),
                                                                 packed, file_))
                                : MakeImmediate(DataType::kUInt8, {bytes}, packed)},
             {"lut", Stored(DataType::kFloat16, {int64_t{1} << bits}, lut)},
             {"shape", Sizes({rows, 7})}});
        ExpectDecodes(DataType::kFloat16, {rows, 7}, expected);
      }
    }
}

TEST_F(Decode, OldLutReadsItsShapeFromABlob) {
  Old("constexpr_lut_to_dense", "w",
      {{"indices", MakeImmediate(DataType::kUInt8, {1}, FromHex("e4"))},
       {"lut", Literal(DataType::kFloat16, {4}, {1, 2, 3, 4})},
       {"shape", MakeBlobValue(DataType::kUInt32, {2},
                               store_.AddInline(DataType::kUInt32, 2,
                                                test::BytesOf<uint32_t>({2, 2}), file_))}});
  ExpectDecodes(DataType::kFloat16, {2, 2}, {1, 2, 3, 4});
}

TEST_F(Decode, OldLutReportsWhatDoesNotFit) {
  const auto lut = [&](const std::string& indices, const Floats& table, const Value& shape) {
    Old("constexpr_lut_to_dense", "w",
        {{"indices", MakeImmediate(DataType::kUInt8, {std::ssize(indices)}, indices)},
         {"lut", Literal(DataType::kFloat16, {std::ssize(table)}, table)},
         {"shape", shape}});
  };
  lut("ab", Iota(8), Sizes({5}));
  EXPECT_TRUE(FailsToDecode({"op 'w'", "'lut' has shape [8], expected 2, 4, 16, 64 or 256"}));
  lut("ab", Iota(4), Sizes({9}));
  EXPECT_TRUE(FailsToDecode({"'indices' is uint8 [2], expected 3 bytes for 9 indices of 2 bits"}));
  lut("ab", Iota(4), Sizes({4294967295, 4294967295, 4294967295}));
  EXPECT_TRUE(FailsToDecode({"operand 'shape' is not a vector of sizes"}));
  lut("ab", Iota(4), MakeInts({-8}));
  EXPECT_TRUE(FailsToDecode({"operand 'shape' is not a vector of sizes"}));
  lut("ab", Iota(4), MakeString("x"));
  EXPECT_TRUE(FailsToDecode({"operand 'shape' is not a vector of sizes"}));
}

// --- constexpr_sparse_to_dense ------------------------------------------------------------------

Floats Scattered(const Floats& mask, const Floats& values) {
  Floats dense;
  size_t next = 0;
  for (const float bit : mask) dense.push_back(bit != 0 ? values[next++] : 0);
  return dense;
}

size_t OnesIn(const Floats& mask) {
  return static_cast<size_t>(std::count(mask.begin(), mask.end(), 1.0f));
}

TEST_F(Decode, SparsePutsValuesWhereTheMaskIsOne) {
  for (const uint32_t rows : {1u, 3u, 11u, 20000u}) {
    const auto ones_shape = [](const Floats& values) { return Shape{std::ssize(values)}; };
    const Floats mask = Codes(uint64_t{rows} * 7, 6, 2);
    const Floats values = ToHalves(test::Gaussian(OnesIn(mask), 7));
    const std::string packed = test::PackedInts({mask.begin(), mask.end()}, 1);
    Old("constexpr_sparse_to_dense", "w",
        {{"nonzero_data", Literal(DataType::kFloat16, ones_shape(values), values)},
         {"mask", MakeImmediate(DataType::kUInt8, {std::ssize(packed)}, packed)},
         {"shape", Sizes({rows, 7})}});
    ExpectDecodes(DataType::kFloat16, {rows, 7}, Scattered(mask, values));
    New("constexpr_sparse_to_dense", "w",
        {{"nonzero_data", Stored(DataType::kFloat16, ones_shape(values), values)},
         {"mask", Stored(DataType::kUInt1, {rows, 7}, mask)}});
    ExpectDecodes(DataType::kFloat16, {rows, 7}, Scattered(mask, values));
  }
}

TEST_F(Decode, SparseOfIntegers) {
  New("constexpr_sparse_to_dense", "w",
      {{"nonzero_data", Literal(DataType::kInt4, {3}, {-8, 7, -1})},
       {"mask", Literal(DataType::kUInt1, {2, 3}, {0, 1, 0, 1, 1, 0})}});
  ExpectDecodes(DataType::kInt4, {2, 3}, {0, -8, 0, 7, -1, 0});
}

TEST_F(Decode, SparseOfNothing) {
  New("constexpr_sparse_to_dense", "w",
      {{"nonzero_data", Literal(DataType::kFloat32, {0}, {})},
       {"mask", Literal(DataType::kUInt1, {5}, {0, 0, 0, 0, 0})}});
  ExpectDecodes(DataType::kFloat32, {5}, {0, 0, 0, 0, 0});
}

TEST_F(Decode, SparseReportsWhatDoesNotFit) {
  New("constexpr_sparse_to_dense", "w",
      {{"nonzero_data", Literal(DataType::kFloat32, {2}, {1, 2})},
       {"mask", Literal(DataType::kUInt1, {4}, {1, 1, 1, 0})}});
  EXPECT_TRUE(FailsToDecode({"op 'w'", "the mask has 3 ones, the values have shape [2]"}));
  New("constexpr_sparse_to_dense", "w",
      {{"nonzero_data", Literal(DataType::kFloat32, {1, 3}, {1, 2, 3})},
       {"mask", Literal(DataType::kUInt1, {4}, {1, 1, 1, 0})}});
  EXPECT_TRUE(FailsToDecode({"the values have shape [1, 3]"}));
  New("constexpr_sparse_to_dense", "w",
      {{"nonzero_data", Literal(DataType::kFloat32, {2}, {1, 2})},
       {"mask", Literal(DataType::kUInt8, {2}, {1, 1})}});
  EXPECT_TRUE(FailsToDecode({"'mask' is uint8, expected uint1"}));
  Old("constexpr_sparse_to_dense", "w",
      {{"nonzero_data", Literal(DataType::kFloat32, {2}, {1, 2})},
       {"mask", Literal(DataType::kUInt8, {2}, {3, 0})},
       {"shape", Sizes({8})}});
  EXPECT_TRUE(FailsToDecode({"'mask' is uint8 [2], expected 1 bytes for 8 bits"}));
}

// --- constexpr_cast -----------------------------------------------------------------------------

TEST_F(Decode, CastMakesFp32OfFp16) {
  const Floats values = ToHalves(test::Gaussian(10, 8));
  Old("constexpr_cast", "w",
      {{"source_val", Literal(DataType::kFloat16, {2, 5}, values)},
       {"output_dtype", MakeString("fp32")}});
  ExpectDecodes(DataType::kFloat32, {2, 5}, values);
  New("constexpr_cast", "w",
      {{"source_val", Stored(DataType::kFloat16, {2, 5}, values)},
       {"output_dtype", MakeString("fp32")}});
  ExpectDecodes(DataType::kFloat32, {2, 5}, values);
}

TEST_F(Decode, CastReportsOtherTypes) {
  New("constexpr_cast", "w",
      {{"source_val", Literal(DataType::kFloat32, {1}, {1})},
       {"output_dtype", MakeString("fp32")}});
  EXPECT_TRUE(FailsToDecode({"op 'w'", "casts fp32 to 'fp32', expected fp16 to 'fp32'"}));
  New("constexpr_cast", "w",
      {{"source_val", Literal(DataType::kFloat16, {1}, {1})},
       {"output_dtype", MakeString("int8")}});
  EXPECT_TRUE(FailsToDecode({"casts fp16 to 'int8'"}));
}

// --- constexpr_blockwise_shift_scale ------------------------------------------------------------

// scale * (data - offset), each operation rounded to fp16 where the scale is.
Floats Blockwise(const Floats& data, const Shape& shape, const Floats& scale, const Floats& offset,
                 const Shape& blocks, bool half) {
  Floats expected;
  for (uint64_t i = 0; i < data.size(); ++i) {
    const size_t block = BlockOf(Unravel(i, shape), shape, blocks);
    float difference = data[i] - (offset.empty() ? 0 : offset[block]);
    if (half) difference = ToHalf(difference);
    const float value = scale[block] * difference;
    expected.push_back(half ? ToHalf(value) : value);
  }
  return expected;
}

TEST_F(Decode, BlockwiseOfEveryTypeAndLayout) {
  const std::vector<std::pair<Shape, Shape>> layouts = {{{6}, {1}},
                                                        {{6}, {6}},
                                                        {{6}, {2}},
                                                        {{4, 6}, {1, 1}},
                                                        {{4, 6}, {4, 1}},
                                                        {{4, 6}, {1, 6}},
                                                        {{4, 6}, {4, 3}},
                                                        {{4, 6}, {2, 2}},
                                                        {{4, 6}, {2, 6}},
                                                        {{4, 6}, {4, 6}},
                                                        {{4, 6, 3, 2}, {4, 2, 1, 1}},
                                                        {{4, 6, 3, 2}, {2, 3, 3, 1}},
                                                        {{4, 6, 3, 2}, {1, 1, 1, 2}},
                                                        {{1, 4, 1, 6}, {1, 2, 1, 3}}};
  for (const auto& [dtype, bound, least] :
       {std::tuple{DataType::kInt4, 16, -8}, std::tuple{DataType::kUInt4, 16, 0},
        std::tuple{DataType::kInt8, 256, -128}, std::tuple{DataType::kUInt8, 256, 0},
        std::tuple{DataType::kFloat16, 256, -128}})
    for (const auto& [shape, blocks] : layouts)
      for (const DataType scale_dtype : {DataType::kFloat16, DataType::kFloat32})
        for (const bool has_offset : {false, true}) {
          SCOPED_TRACE(fmt::format("{} {} by {}, offset {}", NameOf(dtype), ToString(shape),
                                   ToString(blocks), has_offset));
          const Floats data = Codes(CountOf(shape), 9, bound, least);
          const bool half = scale_dtype == DataType::kFloat16;
          Floats scale = test::Gaussian(CountOf(blocks), 10, 0.1f);
          if (half) scale = ToHalves(scale);
          const Floats offset = has_offset ? Codes(CountOf(blocks), 11, bound, least) : Floats{};
          Operation& op = New("constexpr_blockwise_shift_scale", "w",
                              {{"data", Stored(dtype, shape, data)},
                               {"scale", Literal(scale_dtype, blocks, scale)}});
          if (has_offset)
            op.inputs["offset"].bindings.push_back({Literal(dtype, blocks, offset), {}});
          ExpectDecodes(scale_dtype, shape, Blockwise(data, shape, scale, offset, blocks, half));
        }
}

TEST_F(Decode, BlockwiseRoundsFloatOffsetsTwice) {
  // 2048 + 0.75 is 2048 in fp16, and three times that is 6144; rounded once it would be 6148.
  New("constexpr_blockwise_shift_scale", "w",
      {{"data", Literal(DataType::kFloat16, {1}, {2048})},
       {"scale", Literal(DataType::kFloat16, {1}, {3})},
       {"offset", Literal(DataType::kFloat16, {1}, {-0.75f})}});
  ExpectDecodes(DataType::kFloat16, {1}, {6144});
}

TEST_F(Decode, BlockwiseReportsWhatDoesNotFit) {
  const auto blockwise = [&](const Shape& scale_shape, DataType scale = DataType::kFloat16) {
    return &New("constexpr_blockwise_shift_scale", "w",
                {{"data", Literal(DataType::kInt8, {4, 6}, Iota(24))},
                 {"scale", Literal(scale, scale_shape, Floats(CountOf(scale_shape), 1))}});
  };
  blockwise({3, 1});
  EXPECT_TRUE(FailsToDecode({"op 'w'", "'scale' [3, 1] does not divide the data [4, 6]"}));
  blockwise({8, 1});
  EXPECT_TRUE(FailsToDecode({"'scale' [8, 1] does not divide"}));
  blockwise({0, 1});
  EXPECT_TRUE(FailsToDecode({"'scale' [0, 1] does not divide"}));
  blockwise({4});
  EXPECT_TRUE(FailsToDecode({"'scale' [4] does not divide"}));
  blockwise({});
  EXPECT_TRUE(FailsToDecode({"'scale' [] does not divide"}));
  blockwise({4, 1}, DataType::kInt8);
  EXPECT_TRUE(FailsToDecode({"'scale' is int8, expected fp16 or fp32"}));
  blockwise({4, 1})->inputs["offset"].bindings.push_back(
      {Literal(DataType::kInt8, {1, 1}, {1}), {}});
  EXPECT_TRUE(FailsToDecode({"'offset' [1, 1] and 'scale' [4, 1] differ in shape"}));
  New("constexpr_blockwise_shift_scale", "w", {{"scale", Literal(DataType::kFloat16, {1}, {1})}});
  EXPECT_TRUE(FailsToDecode({"operand 'data' is missing"}));
  New("constexpr_blockwise_shift_scale", "w",
      {{"data", "nobody"}, {"scale", Literal(DataType::kFloat16, {1}, {1})}});
  EXPECT_TRUE(FailsToDecode({"operand 'data' is no constant"}));
}

// --- constexpr_lut_to_dense, iOS 18 -------------------------------------------------------------

// `width` values for each index, laid along `axis`; `groups` counted on the indices.
Floats LookedUp(const Floats& indices, const Shape& shape, const Floats& lut, const Shape& groups,
                int64_t entries, int64_t width, size_t axis, Shape& out_shape) {
  out_shape = shape;
  out_shape[axis] *= width;
  Floats out;
  for (uint64_t o = 0; o < CountOf(out_shape); ++o) {
    Shape at = Unravel(o, out_shape);
    const int64_t component = at[axis] % width;
    at[axis] /= width;
    const auto group = static_cast<int64_t>(BlockOf(at, shape, groups));
    const auto index = static_cast<int64_t>(indices[Ravel(at, shape)]);
    out.push_back(lut[static_cast<size_t>((group * entries + index) * width + component)]);
  }
  return out;
}

TEST_F(Decode, LutOfTheFormatsDescription) {
  New("constexpr_lut_to_dense", "w",
      {{"indices", Literal(DataType::kUInt2, {6, 2}, {2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3})},
       {"lut", Literal(DataType::kInt8, {2, 1, 4, 1}, {1, 5, 9, 13, 2, 10, 18, 26})}});
  ExpectDecodes(DataType::kInt8, {6, 2}, {9, 13, 13, 1, 5, 1, 26, 2, 18, 10, 2, 26});
}

TEST_F(Decode, LutOfEveryWidthAndGroup) {
  const std::vector<std::pair<Shape, Shape>> layouts = {{{6}, {1}},
                                                        {{6}, {3}},
                                                        {{4, 6}, {1, 1}},
                                                        {{4, 6}, {4, 1}},
                                                        {{4, 6}, {2, 1}},
                                                        {{4, 6}, {1, 3}},
                                                        {{4, 6}, {2, 2}},
                                                        {{4, 6, 2}, {1, 1, 2}},
                                                        {{4, 6, 2}, {2, 3, 1}}};
  for (const int bits : {1, 2, 3, 4, 6, 8})
    for (const auto& [shape, groups] : layouts)
      for (const DataType dtype : {DataType::kFloat16, DataType::kFloat32, DataType::kInt8}) {
        SCOPED_TRACE(fmt::format("{} bits, {} by {}", bits, ToString(shape), ToString(groups)));
        const int64_t entries = int64_t{1} << bits;
        const Floats indices = Codes(CountOf(shape), 12, static_cast<int>(entries));
        Shape lut_shape = groups;
        lut_shape.insert(lut_shape.end(), {entries, 1});
        const Floats lut = Codes(CountOf(lut_shape), 13, 256, -128);
        New("constexpr_lut_to_dense", "w",
            {{"indices", Stored(UnsignedOfBits(bits), shape, indices)},
             {"lut", Literal(dtype, lut_shape, lut)}});
        Shape out_shape;
        const Floats expected = LookedUp(indices, shape, lut, groups, entries, 1, 0, out_shape);
        ExpectDecodes(dtype, out_shape, expected);
      }
}

TEST_F(Decode, LutOfVectorsAlongEveryAxis) {
  for (const auto& [shape, groups] : std::vector<std::pair<Shape, Shape>>{{{6}, {1}},
                                                                          {{4, 6}, {1, 1}},
                                                                          {{4, 6}, {2, 1}},
                                                                          {{4, 6}, {1, 3}},
                                                                          {{2, 4, 3}, {2, 2, 1}}})
    for (const int64_t width : {2, 3, 4})
      for (int32_t axis = -static_cast<int32_t>(shape.size());
           axis < static_cast<int32_t>(shape.size()); ++axis) {
        SCOPED_TRACE(fmt::format("{} by {}, width {} along {}", ToString(shape), ToString(groups),
                                 width, axis));
        const Floats indices = Codes(CountOf(shape), 14, 4);
        Shape lut_shape = groups;
        lut_shape.insert(lut_shape.end(), {4, width});
        const Floats lut = Codes(CountOf(lut_shape), 15, 256, -128);
        New("constexpr_lut_to_dense", "w",
            {{"indices", Stored(DataType::kUInt2, shape, indices)},
             {"lut", Stored(DataType::kFloat16, lut_shape, lut)},
             {"vector_axis", Axis(axis)}});
        Shape out_shape;
        const auto real_axis = static_cast<size_t>(axis < 0 ? axis + std::ssize(shape) : axis);
        const Floats expected =
            LookedUp(indices, shape, lut, groups, 4, width, real_axis, out_shape);
        ExpectDecodes(DataType::kFloat16, out_shape, expected);
      }
}

TEST_F(Decode, LutReportsWhatDoesNotFit) {
  const auto lut = [&](DataType indices, const Shape& lut_shape) {
    return &New("constexpr_lut_to_dense", "w",
                {{"indices", Literal(indices, {4, 6}, Floats(24, 0))},
                 {"lut", Literal(DataType::kFloat16, lut_shape, Floats(CountOf(lut_shape), 1))}});
  };
  for (const Shape& shape : std::vector<Shape>{{1, 1, 8, 1},
                                               {1, 1, 2, 1},
                                               {3, 1, 4, 1},
                                               {1, 4, 4, 1},
                                               {1, 4, 1},
                                               {4},
                                               {0, 1, 4, 1},
                                               {1, 1, 4, 0}}) {
    lut(DataType::kUInt2, shape);
    EXPECT_TRUE(FailsToDecode(
        {"op 'w'", fmt::format("'lut' {} does not fit indices uint2 [4, 6]", ToString(shape))}));
  }
  lut(DataType::kInt4, {1, 1, 16, 1});
  EXPECT_TRUE(FailsToDecode({"does not fit indices int4"}));
  lut(DataType::kFloat16, {1, 1, 16, 1});
  EXPECT_TRUE(FailsToDecode({"does not fit indices fp16"}));
  lut(DataType::kUInt2, {1, 1, 4, 2});
  EXPECT_TRUE(FailsToDecode({"operand 'vector_axis' is missing"}));
  for (const int32_t axis : {2, -3}) {
    lut(DataType::kUInt2, {1, 1, 4, 2})->inputs["vector_axis"].bindings.push_back({Axis(axis), {}});
    EXPECT_TRUE(FailsToDecode({"'vector_axis' is", "rank 2"}));
  }
}

// --- constexpr_lut_to_sparse --------------------------------------------------------------------

// The mask with every bit repeated `width` times along `axis`.
Floats Repeated(const Floats& mask, const Shape& shape, int64_t width, size_t axis) {
  Shape out_shape = shape;
  out_shape[axis] *= width;
  Floats out;
  for (uint64_t o = 0; o < CountOf(out_shape); ++o) {
    Shape at = Unravel(o, out_shape);
    at[axis] /= width;
    out.push_back(mask[Ravel(at, shape)]);
  }
  return out;
}

TEST_F(Decode, LutToSparseKeepsTheOrderOfTheExpandedMask) {
  // Vectors along axis 0: the two rows that one row of indices makes are not side by side.
  const Floats mask = {1, 1, 0, 1};
  New("constexpr_lut_to_sparse", "s",
      {{"indices_mask", Literal(DataType::kUInt1, {1, 4}, mask)},
       {"indices_nonzero_data", Literal(DataType::kUInt1, {3}, {0, 1, 1})},
       {"lut", Literal(DataType::kFloat16, {1, 1, 2, 2}, {2, 20, 3, 30})},
       {"vector_axis", Axis(0)}},
      2);
  ExpectDecodes(DataType::kUInt1, {2, 4}, {1, 1, 0, 1, 1, 1, 0, 1});
  New("constexpr_sparse_to_dense", "w", {{"mask", "s_0"}, {"nonzero_data", "s_1"}});
  ExpectDecodes(DataType::kFloat16, {2, 4}, {2, 3, 0, 3, 20, 30, 0, 30});
}

TEST_F(Decode, LutToSparseOfEveryLayout) {
  for (const auto& [shape, groups] : std::vector<std::pair<Shape, Shape>>{
           {{6}, {1}}, {{4, 6}, {1, 1}}, {{4, 6}, {2, 1}}, {{4, 6}, {1, 3}}})
    for (const int64_t width : {1, 2})
      for (size_t axis = 0; axis < shape.size(); ++axis) {
        SCOPED_TRACE(fmt::format("{} by {}, width {}", ToString(shape), ToString(groups), width));
        const Floats mask = Codes(CountOf(shape), 16, 2);
        const Floats indices = Codes(OnesIn(mask), 17, 8);
        Shape lut_shape = groups;
        lut_shape.insert(lut_shape.end(), {8, width});
        const Floats lut = Codes(CountOf(lut_shape), 18, 100, 1);  // entry 0 is not 0
        Operation& op =
            New("constexpr_lut_to_sparse", "s",
                {{"indices_mask", Stored(DataType::kUInt1, shape, mask)},
                 {"indices_nonzero_data", Stored(DataType::kUInt3, {std::ssize(indices)}, indices)},
                 {"lut", Stored(DataType::kFloat16, lut_shape, lut)}},
                2);
        if (width > 1)
          op.inputs["vector_axis"].bindings.push_back({Axis(static_cast<int32_t>(axis)), {}});
        New("constexpr_sparse_to_dense", "w", {{"mask", "s_0"}, {"nonzero_data", "s_1"}});
        Shape out_shape;
        Floats expected =
            LookedUp(Scattered(mask, indices), shape, lut, groups, 8, width, axis, out_shape);
        const Floats present = Repeated(mask, shape, width, axis);
        for (size_t i = 0; i < expected.size(); ++i)
          if (present[i] == 0) expected[i] = 0;
        ExpectDecodes(DataType::kFloat16, out_shape, expected);
      }
}

TEST_F(Decode, LutToSparseReportsWhatDoesNotFit) {
  const auto lut_to_sparse = [&](const Floats& indices, const Shape& lut_shape) {
    New("constexpr_lut_to_sparse", "s",
        {{"indices_mask", Literal(DataType::kUInt1, {4}, {1, 1, 0, 1})},
         {"indices_nonzero_data", Literal(DataType::kUInt1, {std::ssize(indices)}, indices)},
         {"lut", Literal(DataType::kFloat16, lut_shape, Floats(CountOf(lut_shape), 1))}},
        2);
    New("constexpr_sparse_to_dense", "w", {{"mask", "s_0"}, {"nonzero_data", "s_1"}});
  };
  lut_to_sparse({0, 1}, {1, 2, 1});
  EXPECT_TRUE(FailsToDecode({"op 's'", "the mask has 3 ones, the values have shape [2]"}));
  lut_to_sparse({0, 1, 1}, {1, 4, 1});
  EXPECT_TRUE(FailsToDecode({"op 's'", "'lut' [1, 4, 1] does not fit"}));
  lut_to_sparse({0, 1, 1}, {2, 1});
  EXPECT_TRUE(FailsToDecode({"op 's'", "'lut' [2, 1] does not fit"}));
  lut_to_sparse({0, 1, 1}, {1, 2, 2});
  EXPECT_TRUE(FailsToDecode({"op 's'", "'vector_axis' is missing"}));
}

TEST_F(Decode, ReportsSparseValuesThatGoElsewhere) {
  New("constexpr_lut_to_sparse", "s",
      {{"indices_mask", Literal(DataType::kUInt1, {2}, {1, 1})},
       {"indices_nonzero_data", Literal(DataType::kUInt1, {2}, {0, 1})},
       {"lut", Literal(DataType::kFloat16, {1, 2, 1}, {1, 2})}},
      2);
  EXPECT_TRUE(FailsToDecode({"read by something that is no sparse constexpr"}, 1));
}

// An empty LUT may claim vectors of any width: no memory or time may be spent on them.
TEST_F(Decode, AnEmptyLutOfWideVectorsIsRefused) {
  New("constexpr_lut_to_sparse", "s",
      {{"indices_mask", Literal(DataType::kUInt1, {1}, {1})},
       {"indices_nonzero_data", Literal(DataType::kUInt1, {1}, {0})},
       {"lut", Literal(DataType::kFloat16, {0, 2, int64_t{1} << 60}, {})},
       {"vector_axis", Axis(0)}},
      2);
  EXPECT_TRUE(FailsToDecode({"op 's'", "'lut'"}));
  New("constexpr_sparse_to_dense", "w",
      {{"mask", "s_0"}, {"nonzero_data", Literal(DataType::kFloat16, {1}, {1})}});
  EXPECT_TRUE(FailsToDecode({"op 's'", "'lut'"}));
}

// --- constexpr_sparse_blockwise_shift_scale -----------------------------------------------------

TEST_F(Decode, SparseBlockwiseKeepsAbsentElementsZero) {
  for (const auto& [shape, blocks] :
       std::vector<std::pair<Shape, Shape>>{{{6}, {2}}, {{4, 6}, {4, 1}}, {{4, 6}, {2, 3}}})
    for (const bool inline_mask : {false, true}) {
      SCOPED_TRACE(fmt::format("{} by {}", ToString(shape), ToString(blocks)));
      const Floats mask = Codes(CountOf(shape), 19, 2);
      const Floats values = Codes(OnesIn(mask), 20, 256, -128);
      const Floats scale = ToHalves(test::Gaussian(CountOf(blocks), 21));
      const Floats offset = Codes(CountOf(blocks), 22, 100, 1);
      New("constexpr_sparse_blockwise_shift_scale", "s",
          {{"data_mask", Stored(DataType::kUInt1, shape, mask)},
           {"nonzero_data", Stored(DataType::kInt8, {std::ssize(values)}, values)},
           {"scale", Literal(DataType::kFloat16, blocks, scale)},
           {"offset", Literal(DataType::kInt8, blocks, offset)}},
          2);
      ExpectDecodes(DataType::kUInt1, shape, mask);
      // The mask may be handed on by name or written out once more.
      Operation& op = New("constexpr_sparse_to_dense", "w", {{"nonzero_data", "s_1"}});
      if (inline_mask)
        op.inputs["mask"].bindings.push_back({Literal(DataType::kUInt1, shape, mask), {}});
      else
        op.inputs["mask"].bindings.push_back({"s_0", {}});
      Floats expected =
          Blockwise(Scattered(mask, values), shape, scale, offset, blocks, /*half=*/true);
      for (size_t i = 0; i < expected.size(); ++i)
        if (mask[i] == 0) expected[i] = 0;
      ExpectDecodes(DataType::kFloat16, shape, expected);
    }
}

TEST_F(Decode, SparseBlockwiseReportsAnotherMask) {
  New("constexpr_sparse_blockwise_shift_scale", "s",
      {{"data_mask", Literal(DataType::kUInt1, {3}, {1, 1, 0})},
       {"nonzero_data", Literal(DataType::kInt8, {2}, {1, 2})},
       {"scale", Literal(DataType::kFloat16, {1}, {1})}},
      2);
  New("constexpr_sparse_to_dense", "w",
      {{"nonzero_data", "s_1"}, {"mask", Literal(DataType::kUInt1, {3}, {0, 1, 1})}});
  EXPECT_TRUE(
      FailsToDecode({"op 'w'", "'mask' is not the mask that 'nonzero_data' was made with"}));
}

// --- Chains -------------------------------------------------------------------------------------

TEST_F(Decode, ChainOfAQuantizedLutDequantizedFirst) {
  const Floats data = Codes(8, 23, 16, -8);
  New("constexpr_blockwise_shift_scale", "lut",
      {{"data", Literal(DataType::kInt4, {2, 1, 4, 1}, data)},
       {"scale", Literal(DataType::kFloat16, {2, 1, 1, 1}, {0.5f, 2})}});
  const Floats indices = Codes(24, 24, 4);
  New("constexpr_lut_to_dense", "w",
      {{"indices", Literal(DataType::kUInt2, {4, 6}, indices)}, {"lut", "lut"}});
  Floats expected;
  for (size_t i = 0; i < 24; ++i)
    expected.push_back(i < 12 ? 0.5f * data[static_cast<size_t>(indices[i])]
                              : 2 * data[4 + static_cast<size_t>(indices[i])]);
  ExpectDecodes(DataType::kFloat16, {4, 6}, expected);
}

TEST_F(Decode, ChainOfAQuantizedLutLookedUpFirst) {
  const Floats indices = Codes(24, 25, 4);
  New("constexpr_lut_to_dense", "ints",
      {{"indices", Literal(DataType::kUInt2, {4, 6}, indices)},
       {"lut", Literal(DataType::kInt8, {1, 1, 4, 1}, {-100, -1, 1, 100})}});
  New("constexpr_blockwise_shift_scale", "w",
      {{"data", "ints"},
       {"scale", Literal(DataType::kFloat16, {4, 1}, {1, 2, 3, 4})},
       {"offset", Literal(DataType::kInt8, {4, 1}, {0, 1, 2, 3})}});
  const Floats table = {-100, -1, 1, 100};
  Floats expected;
  for (size_t i = 0; i < 24; ++i)
    expected.push_back(static_cast<float>(i / 6 + 1) *
                       (table[static_cast<size_t>(indices[i])] - static_cast<float>(i / 6)));
  ExpectDecodes(DataType::kFloat16, {4, 6}, expected);
}

TEST_F(Decode, ChainOfALutWithAScaleForEachChannel) {
  const Floats indices = Codes(6, 26, 2);
  New("constexpr_lut_to_dense", "fp",
      {{"indices", Literal(DataType::kUInt1, {2, 3}, indices)},
       {"lut", Literal(DataType::kFloat16, {1, 1, 2, 1}, {-0.5f, 0.75f})}});
  New("constexpr_blockwise_shift_scale", "w",
      {{"data", "fp"}, {"scale", Literal(DataType::kFloat16, {1, 3}, {1, 10, 100})}});
  Floats expected;
  for (size_t i = 0; i < 6; ++i)
    expected.push_back((indices[i] != 0 ? 0.75f : -0.5f) * static_cast<float>(std::pow(10, i % 3)));
  ExpectDecodes(DataType::kFloat16, {2, 3}, expected);
}

TEST_F(Decode, ChainOfAQuantizedSparseLut) {
  New("constexpr_blockwise_shift_scale", "lut",
      {{"data", Literal(DataType::kInt8, {1, 1, 2, 1}, {-10, 10})},
       {"scale", Literal(DataType::kFloat16, {1, 1, 1, 1}, {0.5f})}});
  New("constexpr_lut_to_sparse", "s",
      {{"indices_mask", Literal(DataType::kUInt1, {2, 2}, {1, 0, 1, 1})},
       {"indices_nonzero_data", Literal(DataType::kUInt1, {3}, {1, 0, 1})},
       {"lut", "lut"}},
      2);
  New("constexpr_sparse_to_dense", "w", {{"mask", "s_0"}, {"nonzero_data", "s_1"}});
  ExpectDecodes(DataType::kFloat16, {2, 2}, {5, 0, -5, 5});
}

TEST_F(Decode, ChainThatStartsAtAConst) {
  Const("table", Literal(DataType::kFloat16, {1, 2, 1}, {3, 4}));
  Const("which", Axis(0));
  New("constexpr_lut_to_dense", "w",
      {{"indices", Literal(DataType::kUInt1, {2}, {1, 0})},
       {"lut", "table"},
       {"vector_axis", "which"}});
  ExpectDecodes(DataType::kFloat16, {2}, {4, 3});
}

// Each operand of each link is the link before: three times the work with every one.
TEST_F(Decode, ALongChainIsRefusedInNoTime) {
  Const("c0", Literal(DataType::kFloat16, {1}, {1}));
  for (int i = 0; i < 40; ++i) {
    const std::string before = fmt::format("c{}", i);
    New("constexpr_blockwise_shift_scale", fmt::format("c{}", i + 1),
        {{"data", before.c_str()}, {"scale", before.c_str()}, {"offset", before.c_str()}});
  }
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(FailsToDecode({"chained constexpr operations"}));
  block_.operations.resize(16);
  static_cast<void>(Reader());  // whether or not this many are allowed
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST_F(Decode, ReportsAKindItDoesNotKnow) {
  New("constexpr_from_the_future", "w", {});
  EXPECT_TRUE(FailsToDecode({"op 'w' (constexpr_from_the_future)", "not known"}));
}

TEST_F(Decode, ReportsAnOperandThatIsComputed) {
  New("relu", "r", {});
  New("constexpr_cast", "w", {{"source_val", "r"}, {"output_dtype", MakeString("fp32")}});
  EXPECT_TRUE(FailsToDecode({"operand 'source_val' is no constant"}));
}

}  // namespace
}  // namespace cmlc
