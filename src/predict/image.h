// Images as inputs: PNG and JPEG files, their colours, and fitting them to a size.
#ifndef CMLC_PREDICT_IMAGE_H_
#define CMLC_PREDICT_IMAGE_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cmlc/predict.h"
#include "cmlc/status.h"

namespace cmlc::predict {

// 8 bits for each channel, rows from the top, channels side by side: one of gray, three of RGB.
struct Image {
  int64_t width = 0;
  int64_t height = 0;
  int channels = 0;
  std::vector<uint8_t> pixels;
};

// Whether a file's name ends like that of an image: .png, .jpg, .jpeg.
bool IsImageName(const std::filesystem::path& path);

// Reads a PNG or JPEG file, told apart by its first bytes. Transparency is dropped, palettes and
// 1, 2 and 4 bits become 8; colour profiles and the camera's orientation are left alone. kBadInput
// if the file is damaged, has 16 bits for each channel or CMYK colours; kUsage if this program was
// built without the library that reads it.
Result<Image> ReadImage(const std::filesystem::path& path);

// The same image with one channel or three: colours become gray by ITU-R BT.601 as 8-bit numbers
// (0.299, 0.587, 0.114), gray becomes three equal channels.
Image WithChannels(Image image, int channels);

// The image at another size. kBilinear and kBicubic (a = -0.5) widen their filter where the image
// shrinks; both are the arithmetic of Pillow's resize, in integers, and so are the same everywhere.
Image Resized(const Image& image, int64_t width, int64_t height, Interpolation interpolation);

// Stretched, or scaled to cover the size and cut around its middle, or scaled to lie within it with
// black around. kUsage where scaling would make more pixels than any image may have.
Result<Image> Fitted(const Image& image, int64_t width, int64_t height, Resize resize,
                     Interpolation interpolation);

}  // namespace cmlc::predict

#endif  // CMLC_PREDICT_IMAGE_H_
