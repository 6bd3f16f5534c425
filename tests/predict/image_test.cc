// Pixels and resizes are compared with those of Pillow (see make_images.py), bit by bit.
#include "predict/image.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/test_util.h"

namespace cmlc::predict {
namespace {

using test::Fails;
using test::FromHex;
using test::Succeeds;
using test::TempDir;
using test::WriteFile;
using Json = nlohmann::json;

const Json& Expected() {
  static const Json json =
      Json::parse(test::ReadFile(CMLC_SOURCE_DIR "/tests/predict/images.json"));
  return json;
}

Image FileOf(const Json& file) {
  return {file["width"], file["height"], file["channels"], file["pixels"]};
}

TEST(Image, HasThePixelsOfPillow) {
  const TempDir dir;
  for (const Json& file : Expected()["files"]) {
    const std::string name = file["name"];
    WriteFile(dir / name, FromHex(file["hex"].get<std::string>()));
    const auto image = ReadImage(dir / name);
    ASSERT_TRUE(Succeeds(image)) << name;
    EXPECT_EQ(image->width, file["width"]) << name;
    EXPECT_EQ(image->height, file["height"]) << name;
    EXPECT_EQ(image->channels, file["channels"]) << name;
    EXPECT_EQ(image->pixels, file["pixels"].get<std::vector<uint8_t>>()) << name;
  }
}

TEST(Image, IsResizedAsByPillow) {
  const Image image = FileOf(Expected()["files"][0]);
  for (const Json& one : Expected()["resizes"]) {
    const std::string text = one["interpolation"];
    const Interpolation interpolation = text == "nearest"    ? Interpolation::kNearest
                                        : text == "bilinear" ? Interpolation::kBilinear
                                                             : Interpolation::kBicubic;
    const Image out = Resized(image, one["width"], one["height"], interpolation);
    EXPECT_EQ(out.pixels, one["pixels"].get<std::vector<uint8_t>>())
        << text << " " << one["width"] << "x" << one["height"];
  }
}

TEST(Image, ChangesItsChannels) {
  const Image image = FileOf(Expected()["files"][0]);
  EXPECT_EQ(WithChannels(image, 1).pixels, Expected()["gray_of_rgb"].get<std::vector<uint8_t>>());
  EXPECT_EQ(WithChannels({2, 1, 1, {7, 9}}, 3).pixels, (std::vector<uint8_t>{7, 7, 7, 9, 9, 9}));
}

TEST(Image, IsCutOrPaddedAroundItsMiddle) {
  const Image wide = {4, 2, 1, {1, 2, 3, 4, 5, 6, 7, 8}};
  const auto cropped = Fitted(wide, 2, 2, Resize::kCrop, Interpolation::kNearest);
  ASSERT_TRUE(Succeeds(cropped));
  EXPECT_EQ(cropped->pixels, (std::vector<uint8_t>{2, 3, 6, 7}));
  const auto padded = Fitted(wide, 4, 4, Resize::kPad, Interpolation::kNearest);
  ASSERT_TRUE(Succeeds(padded));
  EXPECT_EQ(padded->pixels, (std::vector<uint8_t>{0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0}));
  const auto stretched = Fitted(wide, 2, 2, Resize::kStretch, Interpolation::kNearest);
  ASSERT_TRUE(Succeeds(stretched));
  EXPECT_EQ(stretched->pixels, (std::vector<uint8_t>{2, 4, 6, 8}));
  const Image line = {1 << 20, 1, 1, std::vector<uint8_t>(1 << 20)};
  EXPECT_TRUE(Fails(Fitted(line, 1000, 1000, Resize::kCrop, Interpolation::kNearest),
                    ErrorKind::kUsage, {"too much"}));
}

TEST(Image, RefusesWhatItCannotShow) {
  const TempDir dir;
  const auto read = [&](const std::string& bytes) {
    WriteFile(dir / "a.png", bytes);
    return ReadImage(dir / "a.png");
  };
  EXPECT_TRUE(Fails(read(FromHex(Expected()["cmyk_hex"].get<std::string>())), ErrorKind::kBadInput,
                    {"CMYK"}));
  EXPECT_TRUE(Fails(read(FromHex(Expected()["deep_hex"].get<std::string>())), ErrorKind::kBadInput,
                    {"16 bits"}));
  EXPECT_TRUE(Fails(read("GIF89a"), ErrorKind::kBadInput, {"neither a PNG nor a JPEG"}));
  EXPECT_TRUE(Fails(ReadImage(dir / "none.png"), ErrorKind::kBadInput, {"none.png"}));
}

// Every cut and many flips: an image or one line, never a crash.
TEST(Image, DamageIsOneLine) {
  const TempDir dir(test::FolderInMemory());
  size_t failures = 0;
  for (const Json& file : Expected()["files"]) {
    const std::string whole = FromHex(file["hex"].get<std::string>());
    for (size_t i = 0; i < whole.size(); i += 3) {
      for (const bool cut : {true, false}) {
        std::string bytes = cut ? whole.substr(0, i) : whole;
        if (!cut) bytes[i] = static_cast<char>(bytes[i] ^ (1 << (i % 8)));
        WriteFile(dir / "a.png", bytes);
        const auto image = ReadImage(dir / "a.png");
        if (image.ok()) {
          EXPECT_EQ(image->pixels.size(),
                    static_cast<size_t>(image->width * image->height * image->channels));
          continue;
        }
        ++failures;
        EXPECT_EQ(image.error().kind, ErrorKind::kBadInput);
        EXPECT_TRUE(test::IsOneLine(image.error().message)) << image.error().message;
      }
    }
  }
  EXPECT_GT(failures, 500u);
}

}  // namespace
}  // namespace cmlc::predict
