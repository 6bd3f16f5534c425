#include "predict/image.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "base/check.h"
#include "base/file.h"

#ifdef CMLC_PNG
#include <png.h>
#endif
#ifdef CMLC_JPEG
#include <jerror.h>
#include <jpeglib.h>
#endif

namespace cmlc::predict {
namespace {

constexpr uint64_t kMostFileBytes = uint64_t{1} << 30;
constexpr uint64_t kMostPixels = uint64_t{1} << 28;

std::string Lowered(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

#if defined(CMLC_PNG) || defined(CMLC_JPEG)
// What a decoder leaves: `what` is empty if all went well. Both libraries report errors by jumping
// out of the call, so nothing with a destructor may be made between the jump and its target.
struct Decoding {
  const std::string* bytes = nullptr;
  size_t at = 0;
  std::jmp_buf jump;
  char what[256] = "";
};

// Memory for the pixels, or false with the reason.
bool Allocate(uint64_t width, uint64_t height, int channels, Image& image, Decoding& decoding) {
  if (width == 0 || height == 0 || width > kMostPixels / height) {
    std::snprintf(decoding.what, sizeof decoding.what, "has a size of %llux%llu pixels",
                  static_cast<unsigned long long>(width), static_cast<unsigned long long>(height));
    return false;
  }
  image.width = static_cast<int64_t>(width);
  image.height = static_cast<int64_t>(height);
  image.channels = channels;
  image.pixels.resize(static_cast<size_t>(width * height) * static_cast<size_t>(channels));
  return true;
}
#endif

#ifdef CMLC_PNG
[[noreturn]] void PngError(png_structp png, png_const_charp message) {
  auto& decoding = *static_cast<Decoding*>(png_get_error_ptr(png));
  std::snprintf(decoding.what, sizeof decoding.what, "is damaged: %s", message);
  std::longjmp(decoding.jump, 1);
}

void PngRead(png_structp png, png_bytep out, size_t count) {
  auto& decoding = *static_cast<Decoding*>(png_get_io_ptr(png));
  if (count > decoding.bytes->size() - decoding.at) png_error(png, "it is cut short");
  std::memcpy(out, decoding.bytes->data() + decoding.at, count);
  decoding.at += count;
}

// Decoders are functions of their own, with nothing but plain variables: what jumps leave behind is
// theirs alone. `rows` is the caller's for the same reason.
[[gnu::noinline]] void DecodePng(Decoding& decoding, Image& image, std::vector<png_bytep>& rows) {
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &decoding, PngError,
                                           [](png_structp, png_const_charp) {});
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  if (info == nullptr) {
    std::snprintf(decoding.what, sizeof decoding.what, "cannot be decoded: no memory");
    png_destroy_read_struct(&png, nullptr, nullptr);
    return;
  }
  if (setjmp(decoding.jump) == 0) {
    png_set_read_fn(png, &decoding, PngRead);
    png_read_info(png, info);
    const png_byte color = png_get_color_type(png, info);
    if (png_get_bit_depth(png, info) == 16) {
      std::snprintf(decoding.what, sizeof decoding.what,
                    "has 16 bits for each channel, expected 8");
    } else {
      png_set_expand(png);  // palettes and fewer bits; transparency becomes a channel
      png_set_strip_alpha(png);
      png_set_interlace_handling(png);
      const int channels = (color & PNG_COLOR_MASK_COLOR) != 0 ? 3 : 1;
      png_read_update_info(png, info);
      if (Allocate(png_get_image_width(png, info), png_get_image_height(png, info), channels, image,
                   decoding)) {
        const size_t row = static_cast<size_t>(image.width) * static_cast<size_t>(channels);
        if (png_get_rowbytes(png, info) != row) png_error(png, "its rows have another length");
        rows.resize(static_cast<size_t>(image.height));
        for (size_t y = 0; y < rows.size(); ++y) rows[y] = image.pixels.data() + y * row;
        png_read_image(png, rows.data());
        png_read_end(png, nullptr);
      }
    }
  }
  png_destroy_read_struct(&png, &info, nullptr);
}
#endif

#ifdef CMLC_JPEG
struct JpegErrors {
  jpeg_error_mgr base;  // first: the library knows this one
  Decoding* decoding;
};

[[noreturn]] void JpegError(j_common_ptr jpeg) {
  Decoding& decoding = *reinterpret_cast<JpegErrors*>(jpeg->err)->decoding;
  char message[JMSG_LENGTH_MAX];
  jpeg->err->format_message(jpeg, message);
  std::snprintf(decoding.what, sizeof decoding.what, "is damaged: %.200s", message);
  std::longjmp(decoding.jump, 1);
}

// Warnings of lost picture data are errors; stray bytes between markers are common and harmless.
void JpegMessage(j_common_ptr jpeg, int level) {
  if (level >= 0) return;
  const int code = jpeg->err->msg_code;
  if (code == JWRN_EXTRANEOUS_DATA || code == JWRN_ADOBE_XFORM || code == JWRN_JFIF_MAJOR) return;
  JpegError(jpeg);
}

[[gnu::noinline]] void DecodeJpeg(Decoding& decoding, Image& image) {
  jpeg_decompress_struct jpeg = {};
  JpegErrors errors = {};
  errors.decoding = &decoding;
  jpeg.err = jpeg_std_error(&errors.base);
  errors.base.error_exit = JpegError;
  errors.base.emit_message = JpegMessage;
  errors.base.output_message = [](j_common_ptr) {};
  if (setjmp(decoding.jump) == 0) {
    jpeg_create_decompress(&jpeg);
    jpeg_mem_src(&jpeg, reinterpret_cast<const unsigned char*>(decoding.bytes->data()),
                 static_cast<unsigned long>(decoding.bytes->size()));
    jpeg_read_header(&jpeg, TRUE);
    if (jpeg.jpeg_color_space == JCS_CMYK || jpeg.jpeg_color_space == JCS_YCCK) {
      std::snprintf(decoding.what, sizeof decoding.what, "has CMYK colours, expected gray or RGB");
    } else {
      const int channels = jpeg.jpeg_color_space == JCS_GRAYSCALE ? 1 : 3;
      jpeg.out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
      jpeg.dct_method = JDCT_ISLOW;
      if (Allocate(jpeg.image_width, jpeg.image_height, channels, image, decoding)) {
        jpeg_start_decompress(&jpeg);
        const size_t row = static_cast<size_t>(image.width) * static_cast<size_t>(channels);
        while (jpeg.output_scanline < jpeg.output_height) {
          JSAMPROW out = image.pixels.data() + jpeg.output_scanline * row;
          jpeg_read_scanlines(&jpeg, &out, 1);
        }
        jpeg_finish_decompress(&jpeg);
      }
    }
  }
  jpeg_destroy_decompress(&jpeg);
}
#endif

// --- Resizing -----------------------------------------------------------------------------------

double Triangle(double x) { return std::max(0.0, 1 - std::fabs(x)); }

double Cubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// For each output position the run of input positions that it is made of, and their weights.
struct Taps {
  std::vector<int64_t> first;
  std::vector<std::vector<int32_t>> weights;  // in units of 2^-kBits
};

constexpr int kBits = 22;

Taps TapsOf(int64_t in, int64_t out, Interpolation interpolation) {
  const bool cubic = interpolation == Interpolation::kBicubic;
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double filter_scale = std::max(1.0, scale);
  const double support = (cubic ? 2.0 : 1.0) * filter_scale;
  Taps taps;
  for (int64_t i = 0; i < out; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto begin = std::max<int64_t>(0, static_cast<int64_t>(center - support + 0.5));
    const auto end = std::min<int64_t>(in, static_cast<int64_t>(center + support + 0.5));
    std::vector<double> weights;
    double sum = 0;
    for (int64_t x = begin; x < end; ++x) {
      const double at = (static_cast<double>(x) - center + 0.5) / filter_scale;
      weights.push_back(cubic ? Cubic(at) : Triangle(at));
      sum += weights.back();
    }
    taps.first.push_back(begin);
    std::vector<int32_t>& fixed = taps.weights.emplace_back();
    for (const double weight : weights) {
      const double one = (sum != 0 ? weight / sum : weight) * (1 << kBits);
      fixed.push_back(static_cast<int32_t>(one < 0 ? one - 0.5 : one + 0.5));
    }
  }
  return taps;
}

// One pass, along rows or along columns: element (o, i) of a line is at o * outer + i * step.
void Pass(const uint8_t* in, uint8_t* out, int64_t lines, int64_t in_line, int64_t out_line,
          int64_t in_step, int64_t out_step, const Taps& taps) {
  for (int64_t line = 0; line < lines; ++line)
    for (size_t i = 0; i < taps.first.size(); ++i) {
      const uint8_t* from = in + line * in_line + taps.first[i] * in_step;
      int64_t sum = int64_t{1} << (kBits - 1);
      for (const int32_t weight : taps.weights[i]) {
        sum += static_cast<int64_t>(weight) * *from;
        from += in_step;
      }
      out[line * out_line + static_cast<int64_t>(i) * out_step] =
          static_cast<uint8_t>(std::clamp<int64_t>(sum >> kBits, 0, 255));
    }
}

Image Nearest(const Image& image, int64_t width, int64_t height) {
  Image out = {width, height, image.channels, {}};
  const auto channels = static_cast<size_t>(image.channels);
  out.pixels.resize(static_cast<size_t>(width * height) * channels);
  const double across = static_cast<double>(image.width) / static_cast<double>(width);
  const double down = static_cast<double>(image.height) / static_cast<double>(height);
  const auto source = [](int64_t i, double scale, int64_t size) {
    return std::min(size - 1, static_cast<int64_t>((static_cast<double>(i) + 0.5) * scale));
  };
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      const int64_t from =
          source(y, down, image.height) * image.width + source(x, across, image.width);
      std::memcpy(out.pixels.data() + static_cast<size_t>(y * width + x) * channels,
                  image.pixels.data() + static_cast<size_t>(from) * channels, channels);
    }
  return out;
}

// A part of an image, or an image with black around it: what starts at (left, top), which may be
// negative.
Image Window(const Image& image, int64_t left, int64_t top, int64_t width, int64_t height) {
  Image out = {width, height, image.channels, {}};
  const auto channels = static_cast<size_t>(image.channels);
  out.pixels.assign(static_cast<size_t>(width * height) * channels, 0);
  const int64_t begin = std::max<int64_t>(0, -left);
  const int64_t end = std::min(width, image.width - left);
  for (int64_t y = std::max<int64_t>(0, -top); y < std::min(height, image.height - top); ++y)
    if (begin < end)
      std::memcpy(out.pixels.data() + static_cast<size_t>(y * width + begin) * channels,
                  image.pixels.data() +
                      static_cast<size_t>((y + top) * image.width + left + begin) * channels,
                  static_cast<size_t>(end - begin) * channels);
  return out;
}

}  // namespace

bool IsImageName(const std::filesystem::path& path) {
  const std::string suffix = Lowered(path.extension().string());
  return suffix == ".png" || suffix == ".jpg" || suffix == ".jpeg";
}

namespace {

[[gnu::noinline]] Result<Image> Decode(const std::string& bytes,
                                       const std::filesystem::path& path) {
  const bool png = bytes.starts_with("\x89PNG\r\n\x1a\n");
  const bool jpeg = bytes.starts_with("\xff\xd8\xff");
  const auto bad = [&](std::string_view what) {
    return Error{ErrorKind::kBadInput, fmt::format("{}: {}", path.string(), what)};
  };
  if (!png && !jpeg) return bad("is neither a PNG nor a JPEG image");
  Image image;
#if defined(CMLC_PNG) || defined(CMLC_JPEG)
  Decoding decoding;
  decoding.bytes = &bytes;
#endif
#ifdef CMLC_PNG
  std::vector<png_bytep> rows;
  if (png) DecodePng(decoding, image, rows);
#else
  if (png)
    return Error{ErrorKind::kUsage,
                 fmt::format("{}: this cmlc was built without PNG (CMLC_PNG)", path.string())};
#endif
#ifdef CMLC_JPEG
  if (jpeg) DecodeJpeg(decoding, image);
#else
  if (jpeg)
    return Error{ErrorKind::kUsage,
                 fmt::format("{}: this cmlc was built without JPEG (CMLC_JPEG)", path.string())};
#endif
#if defined(CMLC_PNG) || defined(CMLC_JPEG)
  if (decoding.what[0] != '\0') return bad(decoding.what);
#endif
  return image;
}

}  // namespace

Result<Image> ReadImage(const std::filesystem::path& path) {
  CMLC_ASSIGN_OR_RETURN(const std::string bytes, ReadWholeFile(path, kMostFileBytes));
  return Decode(bytes, path);
}

Image WithChannels(Image image, int channels) {
  if (image.channels == channels) return image;
  Image out = {image.width, image.height, channels, {}};
  const size_t count = static_cast<size_t>(image.width * image.height);
  out.pixels.resize(count * static_cast<size_t>(channels));
  for (size_t i = 0; i < count; ++i) {
    if (channels == 3) {
      std::fill_n(out.pixels.begin() + static_cast<ptrdiff_t>(3 * i), 3, image.pixels[i]);
    } else {
      const uint8_t* rgb = image.pixels.data() + 3 * i;
      // The three weights in units of 2^-16; their sum is 2^16.
      out.pixels[i] = static_cast<uint8_t>(
          (rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
    }
  }
  return out;
}

Image Resized(const Image& image, int64_t width, int64_t height, Interpolation interpolation) {
  CMLC_CHECK(width > 0 && height > 0);
  if (width == image.width && height == image.height) return image;
  if (interpolation == Interpolation::kNearest) return Nearest(image, width, height);
  const int64_t channels = image.channels;
  // Rows first, then columns, each rounded to 8 bits.
  Image wide = image;
  if (width != image.width) {
    wide = {width, image.height, image.channels, {}};
    wide.pixels.resize(static_cast<size_t>(width * image.height * channels));
    const Taps taps = TapsOf(image.width, width, interpolation);
    for (int64_t c = 0; c < channels; ++c)
      Pass(image.pixels.data() + c, wide.pixels.data() + c, image.height, image.width * channels,
           width * channels, channels, channels, taps);
  }
  if (height == image.height) return wide;
  Image out = {width, height, image.channels, {}};
  out.pixels.resize(static_cast<size_t>(width * height * channels));
  const Taps taps = TapsOf(image.height, height, interpolation);
  Pass(wide.pixels.data(), out.pixels.data(), width * channels, 1, 1, width * channels,
       width * channels, taps);
  return out;
}

Result<Image> Fitted(const Image& image, int64_t width, int64_t height, Resize resize,
                     Interpolation interpolation) {
  if (resize == Resize::kStretch) return Resized(image, width, height, interpolation);
  const double across = static_cast<double>(width) / static_cast<double>(image.width);
  const double down = static_cast<double>(height) / static_cast<double>(image.height);
  const bool crop = resize == Resize::kCrop;
  const double scale = crop ? std::max(across, down) : std::min(across, down);
  const auto scaled = [&](int64_t size, int64_t wanted) {
    const auto rounded = std::llround(static_cast<double>(size) * scale);
    return crop ? std::max<int64_t>(rounded, wanted) : std::clamp<int64_t>(rounded, 1, wanted);
  };
  const int64_t new_width = scaled(image.width, width);
  const int64_t new_height = scaled(image.height, height);
  if (static_cast<uint64_t>(new_width) > kMostPixels / static_cast<uint64_t>(new_height))
    return Error{ErrorKind::kUsage,
                 fmt::format("would be scaled to {}x{} pixels before it is cut, which is too much",
                             new_width, new_height)};
  const Image fitted = Resized(image, new_width, new_height, interpolation);
  // Half of what is too much goes at the start; half of what is missing comes there.
  const auto start = [&](int64_t size, int64_t wanted) {
    return crop ? (size - wanted) / 2 : -((wanted - size) / 2);
  };
  return Window(fitted, start(new_width, width), start(new_height, height), width, height);
}

}  // namespace cmlc::predict
