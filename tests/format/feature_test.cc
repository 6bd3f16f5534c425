// What a model's description says of inputs, for whoever runs it.
#include <gtest/gtest.h>

#include <functional>

#include "cmlc/package.h"
#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

// The inputs of a model with this description.
std::vector<Feature> Read(const std::function<void(wire::ModelDescription&)>& describe) {
  const TempDir dir;
  PackageBuilder package(7);
  describe(*package.message().mutable_description());
  package.Function("main");
  const auto opened = Package::Open(package.Write(dir / "in.mlpackage"));
  if (!opened.ok()) {
    ADD_FAILURE() << opened.error().message;
    return {};
  }
  return (*opened)->model().interface.inputs;
}

TEST(Feature, HasShapesAndRangesOfArrays) {
  const auto features = Read([](wire::ModelDescription& description) {
    auto& fixed = *description.add_input()->mutable_type()->mutable_multiarraytype();
    fixed.set_datatype(65552);
    for (const int64_t size : {1, 3}) fixed.add_shape(size);
    auto& listed = *description.add_input()->mutable_type()->mutable_multiarraytype();
    listed.set_datatype(131104);
    for (const int64_t size : {4, 5})
      listed.mutable_enumeratedshapes()->add_shapes()->add_shape(size);
    auto& ranged = *description.add_input()->mutable_type()->mutable_multiarraytype();
    ranged.set_datatype(65568);
    for (const int64_t greatest : {7, -1}) {
      auto& range = *ranged.mutable_shaperange()->add_sizeranges();
      range.set_lowerbound(2);
      range.set_upperbound(greatest);
    }
  });
  ASSERT_EQ(features.size(), 3u);
  EXPECT_EQ(features[0].kind, Feature::Kind::kArray);
  EXPECT_EQ(features[0].dtype, DataType::kFloat16);
  EXPECT_EQ(features[0].shape, (Shape{1, 3}));
  EXPECT_EQ(features[0].type, "fp16 [1, 3]");
  EXPECT_EQ(features[1].dtype, DataType::kInt32);
  EXPECT_EQ(features[1].shapes, (std::vector<Shape>{{4}, {5}}));
  ASSERT_EQ(features[2].ranges.size(), 2u);
  EXPECT_EQ(features[2].ranges[0].least, 2);
  EXPECT_EQ(features[2].ranges[0].greatest, 7);
  EXPECT_EQ(features[2].ranges[1].greatest, -1);
}

TEST(Feature, HasDefaultsOfOptionalArraysZeroIncluded) {
  const auto features = Read([](wire::ModelDescription& description) {
    for (int i = 0; i < 4; ++i) {
      auto& type = *description.add_input()->mutable_type();
      type.set_isoptional(true);
      if (i == 0) type.mutable_multiarraytype()->set_intdefaultvalue(0);
      if (i == 1) type.mutable_multiarraytype()->set_floatdefaultvalue(0.5f);
      if (i == 2) type.mutable_multiarraytype()->set_doubledefaultvalue(0.1);
      if (i == 3) type.mutable_multiarraytype();
    }
  });
  ASSERT_EQ(features.size(), 4u);
  EXPECT_TRUE(features[0].optional);
  EXPECT_EQ(features[0].default_value, 0.0);
  EXPECT_EQ(features[1].default_value, 0.5);
  EXPECT_EQ(features[2].default_value, 0.1);
  EXPECT_FALSE(features[3].default_value.has_value());
}

TEST(Feature, HasColoursAndSizesOfImages) {
  const auto features = Read([](wire::ModelDescription& description) {
    for (const int color : {10, 20, 30, 40, 77}) {
      auto& image = *description.add_input()->mutable_type()->mutable_imagetype();
      image.set_width(8);
      image.set_height(6);
      image.set_colorspace(color);
      if (color == 20) {
        auto& size = *image.mutable_enumeratedsizes()->add_sizes();
        size.set_width(16);
        size.set_height(12);
      }
      if (color == 30) {
        image.mutable_imagesizerange()->mutable_widthrange()->set_lowerbound(4);
        image.mutable_imagesizerange()->mutable_widthrange()->set_upperbound(-1);
        image.mutable_imagesizerange()->mutable_heightrange()->set_upperbound(9);
      }
    }
  });
  ASSERT_EQ(features.size(), 5u);
  EXPECT_EQ(features[0].colors, Feature::Colors::kGray);
  EXPECT_EQ(features[0].size.width, 8);
  EXPECT_EQ(features[0].size.height, 6);
  EXPECT_EQ(features[1].colors, Feature::Colors::kRgb);
  ASSERT_EQ(features[1].sizes.size(), 1u);
  EXPECT_EQ(features[1].sizes[0].width, 16);
  EXPECT_EQ(features[2].colors, Feature::Colors::kBgr);
  ASSERT_TRUE(features[2].width_range && features[2].height_range);
  EXPECT_EQ(features[2].width_range->least, 4);
  EXPECT_EQ(features[2].width_range->greatest, -1);
  EXPECT_EQ(features[2].height_range->greatest, 9);
  EXPECT_EQ(features[3].colors, Feature::Colors::kGrayFp16);
  EXPECT_EQ(features[4].colors, Feature::Colors::kUnknown);
}

}  // namespace
}  // namespace cmlc::test
