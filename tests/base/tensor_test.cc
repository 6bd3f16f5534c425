#include "cmlc/tensor.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace cmlc {
namespace {

constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

std::vector<DataType> KnownTypes() {
  std::vector<DataType> types;
  for (int32_t number = -1; number < 100; ++number)
    if (FindDataType(static_cast<DataType>(number)) != nullptr)
      types.push_back(static_cast<DataType>(number));
  return types;
}

TEST(DataType, TableIsFoundByTypeAndBlobCode) {
  EXPECT_EQ(KnownTypes().size(), 23u);
  std::set<uint32_t> codes;
  for (const DataType type : KnownTypes()) {
    const DataTypeInfo* info = FindDataType(type);
    EXPECT_EQ(info->type, type);
    if (info->blob_code == 0) continue;
    EXPECT_EQ(FindDataTypeByBlobCode(info->blob_code), info);
    EXPECT_TRUE(codes.insert(info->blob_code).second) << info->name;
    EXPECT_GT(info->bits, 0) << info->name;
  }
  EXPECT_EQ(codes.size(), 17u);
}

TEST(DataType, UnknownNumbersAreNull) {
  EXPECT_EQ(FindDataType(static_cast<DataType>(77)), nullptr);
  EXPECT_EQ(FindDataTypeByBlobCode(0), nullptr);
  EXPECT_EQ(FindDataTypeByBlobCode(18), nullptr);
}

TEST(DataType, HasANameAndBits) {
  EXPECT_EQ(NameOf(DataType::kFloat16), "fp16");
  EXPECT_EQ(NameOf(DataType::kUInt3), "uint3");
  EXPECT_EQ(NameOf(static_cast<DataType>(77)), "type 77");
  EXPECT_EQ(BitsOf(DataType::kUInt6), 6);
  EXPECT_EQ(BitsOf(DataType::kFloat64), 64);
  EXPECT_EQ(BitsOf(DataType::kString), 0);
  EXPECT_EQ(BitsOf(static_cast<DataType>(77)), 0);
}

TEST(DataType, WeightsAreHalvesOrFloats) {
  for (const DataType type : KnownTypes())
    EXPECT_EQ(IsWeightFloat(type), type == DataType::kFloat16 || type == DataType::kFloat32)
        << NameOf(type);
}

TEST(DataType, UnsignedOfEveryPaletteWidth) {
  EXPECT_EQ(UnsignedOfBits(1), DataType::kUInt1);
  EXPECT_EQ(UnsignedOfBits(2), DataType::kUInt2);
  EXPECT_EQ(UnsignedOfBits(3), DataType::kUInt3);
  EXPECT_EQ(UnsignedOfBits(4), DataType::kUInt4);
  EXPECT_EQ(UnsignedOfBits(6), DataType::kUInt6);
  EXPECT_EQ(UnsignedOfBits(8), DataType::kUInt8);
}

TEST(Shape, CountsElements) {
  EXPECT_EQ(ElementCount(Shape{}), 1u);
  EXPECT_EQ(ElementCount(Shape{7}), 7u);
  EXPECT_EQ(ElementCount(Shape{32, 16, 3, 3}), 4608u);
  EXPECT_EQ(ElementCount(Shape{4, 0, 3}), 0u);
  EXPECT_EQ(ElementCount(Shape{kMost}), static_cast<uint64_t>(kMost));
}

TEST(Shape, NoticesNegativeSizesAndOverflow) {
  EXPECT_EQ(ElementCount(Shape{-1}), std::nullopt);
  EXPECT_EQ(ElementCount(Shape{0, -1}), std::nullopt);
  EXPECT_EQ(ElementCount(Shape{kMost, 2}), std::nullopt);
  EXPECT_EQ(ElementCount(Shape{int64_t{1} << 32, int64_t{1} << 32}), std::nullopt);
  // Sizes must be sane even where there are no elements.
  EXPECT_EQ(ElementCount(Shape{0, kMost, kMost}), std::nullopt);
}

TEST(Shape, PacksIntoBytes) {
  EXPECT_EQ(PackedBytes(0, 3), 0u);
  EXPECT_EQ(PackedBytes(1, 1), 1u);
  EXPECT_EQ(PackedBytes(9, 1), 2u);
  EXPECT_EQ(PackedBytes(9, 3), 4u);
  EXPECT_EQ(PackedBytes(5, 6), 4u);
  EXPECT_EQ(PackedBytes(5, 16), 10u);
}

TEST(Shape, NoticesTooManyBytes) {
  const auto most = static_cast<uint64_t>(kMost);
  EXPECT_EQ(PackedBytes(most, 8), most);
  EXPECT_EQ(PackedBytes(most + 1, 8), std::nullopt);
  EXPECT_EQ(PackedBytes(most, 16), std::nullopt);
  EXPECT_EQ(PackedBytes(std::numeric_limits<uint64_t>::max(), 64), std::nullopt);
  EXPECT_EQ(PackedBytes(most + 1, 4), (most + 1) / 2);
}

TEST(Shape, PrintsLikePython) {
  EXPECT_EQ(ToString(Shape{}), "[]");
  EXPECT_EQ(ToString(Shape{5}), "[5]");
  EXPECT_EQ(ToString(Shape{32, 16, 3, 3}), "[32, 16, 3, 3]");
}

}  // namespace
}  // namespace cmlc
