// Ops on images: resizing by nearest and linear interpolation, sampling at given points, boxes.
//
// All resizes are separable: for each axis a table says between which two elements of the input an
// element of the output lies, and how far. The tables are made in double; what differs between the
// ops is only the rule by which a position of the output becomes one of the input.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "exec/ops/layout.h"
#include "exec/ops/tables.h"
#include "numeric/half.h"

namespace cmlc::exec {
namespace {

constexpr int kIos17 = 7;
constexpr int64_t kMaxSize = std::numeric_limits<int32_t>::max();
// Elements of the output that a thread gets at a time.
constexpr int64_t kGrain = 16 * 1024;

// --- Where an element of the output lies in the input --------------------------------------------

enum class Sampling { kStrictAlign, kAlign, kDefault, kOffset, kUnalign };

Result<Sampling> SamplingOf(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::string mode, op.String("sampling_mode", "DEFAULT"));
  constexpr std::pair<std::string_view, Sampling> kModes[] = {
      {"STRICT_ALIGN_CORNERS", Sampling::kStrictAlign},
      {"ALIGN_CORNERS", Sampling::kAlign},
      {"DEFAULT", Sampling::kDefault},
      {"OFFSET_CORNERS", Sampling::kOffset},
      {"UNALIGN_CORNERS", Sampling::kUnalign}};
  for (const auto& [name, value] : kModes)
    if (name == mode) return value;
  return op.Bad(
      fmt::format("sampling_mode: '{}' is none of STRICT_ALIGN_CORNERS, ALIGN_CORNERS, "
                  "DEFAULT, OFFSET_CORNERS, UNALIGN_CORNERS",
                  mode));
}

// Position of element i of `out` in an input of `in` elements, the centers of which lie at 0 to
// in - 1. `in` need not be whole: boxes are such inputs.
double PositionOf(Sampling sampling, int64_t i, double in, int64_t out) {
  const auto at = static_cast<double>(i), count = static_cast<double>(out);
  const double last = in - 1;
  double position = 0;
  switch (sampling) {
    case Sampling::kStrictAlign:
      position = out == 1 ? 0 : at * last / (count - 1);
      break;
    case Sampling::kAlign:
      position = out == 1 ? last / 2 : at * last / (count - 1);
      break;
    case Sampling::kDefault:  // no half pixel
      position = at * in / count;
      break;
    case Sampling::kOffset:
      position = (at + 0.5) * std::max(1.0, last) / count;
      break;
    case Sampling::kUnalign:
      position = (at + 0.5) * in / count - 0.5;
      break;
  }
  return std::clamp(position, 0.0, std::max(0.0, last));
}

// Between which elements a point lies: `share` of the second, the rest of the first.
struct Tap {
  int64_t first = 0;
  int64_t second = 0;
  float share = 0;
};

// Of a position within [0, size - 1].
Tap TapAt(double position, int64_t size) {
  Tap tap;
  tap.first = std::min(static_cast<int64_t>(position), size - 1);
  tap.share = static_cast<float>(position - static_cast<double>(tap.first));
  tap.second = std::min(tap.first + 1, size - 1);
  return tap;
}

// An element without a share is not looked at: it may be infinite.
inline float Mix(float first, float second, float share) {
  return share == 0 ? first : first * (1 - share) + second * share;
}

// --- Resizing ------------------------------------------------------------------------------------

std::vector<Tap> TapsOf(Sampling sampling, int64_t in, int64_t out) {
  std::vector<Tap> taps;
  taps.reserve(static_cast<size_t>(out));
  for (int64_t i = 0; i < out; ++i)
    taps.push_back(TapAt(PositionOf(sampling, i, static_cast<double>(in), out), in));
  return taps;
}

bool IsIdentity(const std::vector<Tap>& taps, int64_t in) {
  if (static_cast<int64_t>(taps.size()) != in) return false;
  for (size_t i = 0; i < taps.size(); ++i)
    if (taps[i].first != static_cast<int64_t>(i) || taps[i].share != 0) return false;
  return true;
}

// Interpolates along the middle one of three axes.
void ResizeAxis(OpContext& op, const float* in, int64_t before, int64_t size, int64_t after,
                const std::vector<Tap>& taps, float* out) {
  const auto count = static_cast<int64_t>(taps.size());
  if (after == 1) {
    const auto grain = static_cast<uint64_t>(std::max<int64_t>(1, kGrain / count));
    op.ForRanges(static_cast<uint64_t>(before), grain, [&](uint64_t begin, uint64_t end) {
      for (uint64_t b = begin; b < end; ++b) {
        const float* from = in + static_cast<int64_t>(b) * size;
        float* to = out + static_cast<int64_t>(b) * count;
        for (int64_t i = 0; i < count; ++i) {
          const Tap& tap = taps[static_cast<size_t>(i)];
          to[i] = Mix(from[tap.first], from[tap.second], tap.share);
        }
      }
    });
    return;
  }
  const auto grain = static_cast<uint64_t>(std::max<int64_t>(1, kGrain / after));
  op.ForRanges(static_cast<uint64_t>(before * count), grain, [&](uint64_t begin, uint64_t end) {
    for (uint64_t row = begin; row < end; ++row) {
      const auto at = static_cast<int64_t>(row);
      const Tap& tap = taps[static_cast<size_t>(at % count)];
      const float* from = in + at / count * size * after;
      const float* first = from + tap.first * after;
      const float* second = from + tap.second * after;
      float* to = out + at * after;
      if (tap.share == 0) {
        std::memcpy(to, first, static_cast<size_t>(after) * sizeof(float));
        continue;
      }
      const float rest = 1 - tap.share;
      for (int64_t a = 0; a < after; ++a) to[a] = first[a] * rest + second[a] * tap.share;
    }
  });
}

// The last axes of x get `sizes`.
Status CheckSizes(const OpContext& op, std::string_view parameter, const Value& x,
                  const std::vector<int64_t>& sizes) {
  if (x.shape.size() < sizes.size())
    return op.Bad(
        fmt::format("x: expected a rank of at least {}, got {}", sizes.size(), x.shape.size()));
  const size_t first = x.shape.size() - sizes.size();
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] < 0 || sizes[d] > kMaxSize)
      return op.Bad(fmt::format("{}: {} is no size of an image", parameter, sizes[d]));
    if (x.shape[first + d] == 0 && sizes[d] != 0)
      return op.Bad(
          fmt::format("x: axis {} is empty and cannot be resized to {}", first + d, sizes[d]));
  }
  return Ok();
}

Shape Resized(const Shape& shape, const std::vector<int64_t>& sizes) {
  Shape out(shape.begin(), shape.end() - static_cast<std::ptrdiff_t>(sizes.size()));
  out.insert(out.end(), sizes.begin(), sizes.end());
  return out;
}

// Integers are rounded to the nearest at the end, halves to even; beyond 2^24 they are read as fp32
// has them.
Status ResizeLinear(OpContext& op, std::string_view parameter, const std::vector<int64_t>& sizes,
                    const std::vector<Sampling>& sampling) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  CMLC_RETURN_IF_ERROR(CheckSizes(op, parameter, *x, sizes));
  const DataType dtype = x->dtype;
  const Shape shape = Resized(x->shape, sizes);
  const std::optional<uint64_t> elements = ElementCount(shape);
  if (!elements)
    return op.Bad(fmt::format("{}: {} is larger than any memory", parameter, ToString(shape)));
  CMLC_ASSIGN_OR_RETURN(const FloatView given, op.Floats("x"));
  const size_t fixed = shape.size() - sizes.size();
  Shape now = x->shape;
  CMLC_ASSIGN_OR_RETURN(FloatOutput out,
                        op.MakeFloats(IsFloat(dtype) ? dtype : DataType::kFloat32, shape));
  const float* from = given.data();
  Value step;  // of what was computed last
  if (*elements != 0) {
    // Axes that become smaller go first: less is left for the others.
    std::vector<size_t> order;
    std::vector<std::vector<Tap>> taps(sizes.size());
    for (size_t d = 0; d < sizes.size(); ++d) {
      taps[d] = TapsOf(sampling[d], now[fixed + d], sizes[d]);
      if (!IsIdentity(taps[d], now[fixed + d])) order.push_back(d);
    }
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return static_cast<double>(sizes[a]) / static_cast<double>(now[fixed + a]) <
             static_cast<double>(sizes[b]) / static_cast<double>(now[fixed + b]);
    });
    for (size_t i = 0; i < order.size(); ++i) {
      const size_t axis = fixed + order[i];
      const int64_t before = Product(std::span(now).first(axis));
      const int64_t size = now[axis];
      const int64_t after = Product(std::span(now).subspan(axis + 1));
      now[axis] = sizes[order[i]];
      Value next;
      float* to = out.values.data();
      if (i + 1 < order.size()) {
        CMLC_ASSIGN_OR_RETURN(next, op.Make(DataType::kFloat32, now));
        to = OpContext::Data<float>(next);
      }
      ResizeAxis(op, from, before, size, after, taps[order[i]], to);
      step = std::move(next);
      from = to;
    }
    if (order.empty() && !out.values.empty())
      std::memcpy(out.values.data(), from, out.values.size_bytes());
  }
  if (IsFloat(dtype)) {
    op.Finish(std::move(out));
    return Ok();
  }
  CMLC_ASSIGN_OR_RETURN(Value ints, op.Make(dtype, shape));
  WithWidth(WidthOf(dtype), [&](auto element) {
    using T = decltype(element);
    T* to = reinterpret_cast<T*>(ints.storage->data());
    for (size_t i = 0; i < out.values.size(); ++i)
      to[i] =
          static_cast<T>(BitsOfNumber(std::nearbyint(static_cast<double>(out.values[i])), dtype));
  });
  op.Set(std::move(ints));
  return Ok();
}

// `half_pixel`: the element that the center of the new one lies in, else the one that its start
// lies in. Both go by the ratio of sizes, in whole numbers.
Status ResizeNearest(OpContext& op, std::string_view parameter, const std::vector<int64_t>& sizes,
                     bool half_pixel) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_RETURN_IF_ERROR(CheckSizes(op, parameter, x, sizes));
  const Shape shape = Resized(x.shape, sizes);
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, shape));
  if (out.element_count() != 0 && !shape.empty()) {
    const std::vector<int64_t> strides = RowStrides(x.shape);
    const size_t fixed = shape.size() - sizes.size();
    std::vector<std::vector<int64_t>> maps;
    if (fixed != 0) {
      const int64_t count = Product(std::span(shape).first(fixed));
      std::vector<int64_t>& map = maps.emplace_back();
      for (int64_t i = 0; i < count; ++i) map.push_back(i * strides[fixed - 1]);
    }
    for (size_t d = fixed; d < shape.size(); ++d) {
      if (x.shape[d] > kMaxSize)
        return op.Bad(fmt::format("x: {} is no size of an image", x.shape[d]));
      std::vector<int64_t>& map = maps.emplace_back();
      for (int64_t i = 0; i < shape[d]; ++i) {
        const int64_t from =
            half_pixel ? (2 * i + 1) * x.shape[d] / (2 * shape[d]) : i * x.shape[d] / shape[d];
        map.push_back(from * strides[d]);
      }
    }
    CopyMapped(op, WidthOf(x.dtype), Bytes(x), out.storage->data(), maps, 0);
  } else if (shape.empty()) {
    std::memcpy(out.storage->data(), Bytes(x), WidthOf(x.dtype));
  }
  op.Set(std::move(out));
  return Ok();
}

// Height and width times their factors, in fp32 like the factors: 5/3 as fp32 makes 5 of 3.
Result<std::vector<int64_t>> ScaledSizes(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  const size_t rank = x->shape.size();
  if (rank < 2) return op.Bad(fmt::format("x: expected a rank of at least 3, got {}", rank));
  std::vector<int64_t> sizes;
  for (const std::string_view parameter : {"scale_factor_height", "scale_factor_width"}) {
    CMLC_ASSIGN_OR_RETURN(const float factor, op.Float(parameter, 1.0f));
    const float size = std::floor(static_cast<float>(x->shape[rank - 2 + sizes.size()]) * factor);
    if (!(factor > 0) || !(size <= static_cast<float>(1 << 30)))
      return op.Bad(fmt::format("{}: {} is no factor for a size of {}", parameter, factor,
                                x->shape[rank - 2 + sizes.size()]));
    sizes.push_back(static_cast<int64_t>(size));
  }
  return sizes;
}

Status UpsampleNearestNeighbor(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, ScaledSizes(op));
  return ResizeNearest(op, "scale_factor_height", sizes, /*half_pixel=*/false);
}

Status UpsampleBilinear(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, ScaledSizes(op));
  CMLC_ASSIGN_OR_RETURN(const bool align, op.Bool("align_corners", true));
  CMLC_ASSIGN_OR_RETURN(const bool half_pixel, op.Bool("half_pixel_centers", !align));
  if (align && half_pixel)
    return op.Bad("half_pixel_centers: cannot be true together with align_corners");
  const Sampling sampling = align        ? Sampling::kStrictAlign
                            : half_pixel ? Sampling::kUnalign
                                         : Sampling::kDefault;
  return ResizeLinear(op, "scale_factor_height", sizes, {sampling, sampling});
}

Result<std::vector<int64_t>> TargetSizes(OpContext& op) {
  std::vector<int64_t> sizes;
  for (const std::string_view parameter : {"target_size_height", "target_size_width"}) {
    CMLC_ASSIGN_OR_RETURN(const int64_t size, op.Int(parameter, 1));
    if (size < 1) return op.Bad(fmt::format("{}: expected at least 1, got {}", parameter, size));
    sizes.push_back(size);
  }
  return sizes;
}

Status ResizeBilinear(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, TargetSizes(op));
  CMLC_ASSIGN_OR_RETURN(const Sampling sampling, SamplingOf(op));
  return ResizeLinear(op, "target_size_height", sizes, {sampling, sampling});
}

Status ResizeNearestNeighbor(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, TargetSizes(op));
  return ResizeNearest(op, "target_size_height", sizes, /*half_pixel=*/true);
}

// The last `resized_dims` of `shape` are the sizes of the last axes; 0 leaves one as it is.
Status Resize(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> shape, op.Ints("shape"));
  CMLC_ASSIGN_OR_RETURN(const int64_t count, op.Int("resized_dims"));
  CMLC_ASSIGN_OR_RETURN(const std::string mode, op.String("interpolation_mode", "LINEAR"));
  CMLC_ASSIGN_OR_RETURN(const Sampling sampling, SamplingOf(op));
  if (shape.size() > x->shape.size())
    return op.Bad(fmt::format("shape: has {} sizes, x has {} axes", shape.size(), x->shape.size()));
  if (count < 0 || static_cast<uint64_t>(count) > shape.size())
    return op.Bad(fmt::format("resized_dims: {} is not between 0 and the {} sizes of shape", count,
                              shape.size()));
  std::vector<int64_t> sizes(shape.end() - count, shape.end());
  const size_t first = x->shape.size() - sizes.size();
  for (size_t d = 0; d < sizes.size(); ++d)
    if (sizes[d] == 0) sizes[d] = x->shape[first + d];
  if (mode == "NEAREST_NEIGHBOR") return ResizeNearest(op, "shape", sizes, /*half_pixel=*/true);
  if (mode != "LINEAR")
    return op.Bad(
        fmt::format("interpolation_mode: '{}' is none of LINEAR, NEAREST_NEIGHBOR", mode));
  return ResizeLinear(op, "shape", sizes, std::vector<Sampling>(sizes.size(), sampling));
}

// --- Boxes of an image ---------------------------------------------------------------------------

// A point along an axis of a box; outside of the image it has no tap.
struct BoxTap {
  bool inside = false;
  Tap tap;
};

// Points of the interval from `begin` to `end`, which may run backwards. Its ends are centers of
// pixels, so it is as an image of |end - begin| + 1 of them.
std::vector<BoxTap> BoxTaps(Sampling sampling, double begin, double end, int64_t size,
                            int64_t count) {
  std::vector<BoxTap> taps(static_cast<size_t>(count));
  const double length = std::fabs(end - begin);
  if (!std::isfinite(length)) return taps;
  for (int64_t i = 0; i < count; ++i) {
    const double along = PositionOf(sampling, i, length + 1, count);
    const double position = end < begin ? begin - along : begin + along;
    BoxTap& tap = taps[static_cast<size_t>(i)];
    tap.inside = position >= 0 && position <= static_cast<double>(size - 1);
    if (tap.inside) tap.tap = TapAt(position, size);
  }
  return taps;
}

struct CropBoxes {
  int64_t count = 0;
  std::vector<float> corners;   // four numbers for each, as the op has them
  bool of_each_image = false;   // every box of every image
  std::vector<int64_t> images;  // else which image each box is of
};

// Up to iOS 16 roi [N, 1, 4 or 5, 1, 1], with 5 numbers the image first.
Result<CropBoxes> RoiBoxes(OpContext& op, int64_t images) {
  CMLC_ASSIGN_OR_RETURN(const Value* roi, op.Tensor("roi"));
  const Shape& shape = roi->shape;
  if (shape.size() != 5 || shape[1] != 1 || (shape[2] != 4 && shape[2] != 5) || shape[3] != 1 ||
      shape[4] != 1)
    return op.Bad(fmt::format("roi: has shape {}, expected [N, 1, 4, 1, 1] or [N, 1, 5, 1, 1]",
                              ToString(shape)));
  CMLC_ASSIGN_OR_RETURN(const FloatView numbers, op.Floats("roi"));
  CropBoxes boxes;
  boxes.count = shape[0];
  const auto width = static_cast<size_t>(shape[2]);
  boxes.of_each_image = width == 4;
  for (size_t n = 0; n < static_cast<size_t>(boxes.count); ++n) {
    const float* row = numbers.data() + n * width;
    if (width == 5) {
      if (!(row[0] >= 0 && row[0] < static_cast<float>(images)) || row[0] != std::floor(row[0]))
        return op.Bad(fmt::format("roi: box {} is of image {}, x has {}", n, row[0], images));
      boxes.images.push_back(static_cast<int64_t>(row[0]));
      ++row;
    }
    boxes.corners.insert(boxes.corners.end(), row, row + 4);
  }
  return boxes;
}

// From iOS 17 on boxes [N, 4] and the image of each; without these box n is of image n.
Result<CropBoxes> IndexedBoxes(OpContext& op, int64_t images) {
  CMLC_ASSIGN_OR_RETURN(const Value* given, op.Tensor("boxes"));
  if (given->shape.size() != 2 || given->shape[1] != 4)
    return op.Bad(fmt::format("boxes: has shape {}, expected [N, 4]", ToString(given->shape)));
  CropBoxes boxes;
  boxes.count = given->shape[0];
  CMLC_ASSIGN_OR_RETURN(const FloatView numbers, op.Floats("boxes"));
  boxes.corners.assign(numbers.span().begin(), numbers.span().end());
  if (op.Has("box_indices")) {
    CMLC_ASSIGN_OR_RETURN(boxes.images, op.Ints("box_indices"));
  } else {
    for (int64_t n = 0; n < boxes.count; ++n) boxes.images.push_back(n);
  }
  if (static_cast<int64_t>(boxes.images.size()) != boxes.count)
    return op.Bad(fmt::format("box_indices: has {} numbers, expected one for each of {} boxes",
                              boxes.images.size(), boxes.count));
  for (const int64_t image : boxes.images)
    if (image < 0 || image >= images)
      return op.Bad(fmt::format("box_indices: {} is no image of x, which has {}", image, images));
  return boxes;
}

Status CropResize(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* given, op.Tensor("x"));
  if (given->shape.size() != 4 || !IsFloat(given->dtype))
    return op.Bad(
        fmt::format("x: is {}, expected images of a rank of 4, of fp16 or fp32", ToString(*given)));
  const int64_t images = given->shape[0], channels = given->shape[1];
  const int64_t height = given->shape[2], width = given->shape[3];
  const DataType dtype = given->dtype;
  const bool indexed = op.Has("boxes");
  if (indexed == op.Has("roi"))
    return op.Bad("boxes: expected one of roi (up to iOS 16) and boxes");
  CMLC_ASSIGN_OR_RETURN(const CropBoxes boxes,
                        indexed ? IndexedBoxes(op, images) : RoiBoxes(op, images));
  CMLC_ASSIGN_OR_RETURN(const int64_t high, op.Int("target_height", 1));
  CMLC_ASSIGN_OR_RETURN(const int64_t wide, op.Int("target_width", 1));
  if (high < 1 || wide < 1)
    return op.Bad(fmt::format("target_height: {} by {} is no size of an image", high, wide));
  CMLC_ASSIGN_OR_RETURN(const bool normalized, op.Bool("normalized_coordinates", false));
  CMLC_ASSIGN_OR_RETURN(const float scale, op.Float("spatial_scale", 1.0f));
  CMLC_ASSIGN_OR_RETURN(const std::string layout,
                        op.String("box_coordinate_mode", "CORNERS_HEIGHT_FIRST"));
  const bool centers = layout.starts_with("CENTER_SIZE_");
  const bool width_first = layout.ends_with("_WIDTH_FIRST");
  if (layout != "CORNERS_HEIGHT_FIRST" && layout != "CORNERS_WIDTH_FIRST" &&
      layout != "CENTER_SIZE_HEIGHT_FIRST" && layout != "CENTER_SIZE_WIDTH_FIRST")
    return op.Bad(
        fmt::format("box_coordinate_mode: '{}' is none of CORNERS_HEIGHT_FIRST, "
                    "CORNERS_WIDTH_FIRST, CENTER_SIZE_HEIGHT_FIRST, CENTER_SIZE_WIDTH_FIRST",
                    layout));
  CMLC_ASSIGN_OR_RETURN(const Sampling sampling, SamplingOf(op));
  CMLC_ASSIGN_OR_RETURN(const float padding, op.Float("pad_value", 0.0f));
  CMLC_ASSIGN_OR_RETURN(const FloatView x, op.Floats("x"));
  const int64_t each = boxes.of_each_image ? images : 1;
  Shape shape = {boxes.count, channels, high, wide};
  if (!indexed) shape.insert(shape.begin() + 1, each);
  CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(dtype, shape));
  if (!out.values.empty()) {
    const int64_t planes = each * channels;
    op.ForRanges(static_cast<uint64_t>(boxes.count), 1, [&](uint64_t begin, uint64_t end) {
      for (uint64_t n = begin; n < end; ++n) {
        double edges[2][2];  // rows, columns; begin, end
        for (size_t axis = 0; axis < 2; ++axis) {
          const auto number = [&](size_t part) {
            const size_t at = part * 2 + (width_first ? 1 - axis : axis);
            const auto size = static_cast<double>(axis == 0 ? height : width);
            return static_cast<double>(boxes.corners[n * 4 + at]) * (normalized ? size - 1 : 1.0) *
                   static_cast<double>(scale);
          };
          const double a = number(0), b = number(1);
          edges[axis][0] = centers ? a - b / 2 : a;
          edges[axis][1] = centers ? a + b / 2 : b;
        }
        const std::vector<BoxTap> rows = BoxTaps(sampling, edges[0][0], edges[0][1], height, high);
        const std::vector<BoxTap> columns =
            BoxTaps(sampling, edges[1][0], edges[1][1], width, wide);
        const int64_t first = boxes.of_each_image ? 0 : boxes.images[n];
        for (int64_t plane = 0; plane < planes; ++plane) {
          const float* image = x.data() + (first * channels + plane) * height * width;
          float* to = out.values.data() + (static_cast<int64_t>(n) * planes + plane) * high * wide;
          for (const BoxTap& row : rows) {
            const float* upper = image + row.tap.first * width;
            const float* lower = image + row.tap.second * width;
            for (const BoxTap& column : columns) {
              const Tap& tap = column.tap;
              *to++ = row.inside && column.inside
                          ? Mix(Mix(upper[tap.first], upper[tap.second], tap.share),
                                Mix(lower[tap.first], lower[tap.second], tap.share), row.tap.share)
                          : padding;
            }
          }
        }
      }
    });
  }
  op.Finish(std::move(out));
  return Ok();
}

// --- Sampling at points --------------------------------------------------------------------------

enum class Padding { kConstant, kBorder, kReflection, kSymmetric };

struct PointSampler {
  Padding padding = Padding::kConstant;
  float constant = 0;
  bool nearest = false;
  int64_t height = 0, width = 0;

  // What lies outside of [0, size - 1] is brought inside, but for constant padding.
  double Inside(double at, int64_t size) const {
    const auto last = static_cast<double>(size - 1);
    if (padding == Padding::kConstant) return at;
    if (!std::isfinite(at)) return at > 0 ? last : 0;
    if (padding == Padding::kReflection) {
      // To and fro between the centers of the first and the last element.
      if (size == 1) return 0;
      const double folded = std::fmod(std::fabs(at), 2 * last);
      at = folded > last ? 2 * last - folded : folded;
    } else if (padding == Padding::kSymmetric) {
      // To and fro between the outer edges of both.
      const auto length = static_cast<double>(size);
      const double folded = std::fmod(std::fabs(at + 0.5), 2 * length);
      at = (folded > length ? 2 * length - folded : folded) - 0.5;
    }
    return std::clamp(at, 0.0, last);
  }

  float Pixel(const float* image, int64_t row, int64_t column) const {
    if (row < 0 || row >= height || column < 0 || column >= width) return constant;
    return image[row * width + column];
  }

  // Where to look: the same for all channels.
  struct Place {
    bool outside = false;
    int64_t row = 0, column = 0;
    float down = 0, right = 0;
  };

  Place At(double column, double row) const {
    row = Inside(row, height);
    column = Inside(column, width);
    Place place;
    // Further than one pixel outside, or nowhere.
    if (!(row > -1 && row < static_cast<double>(height) && column > -1 &&
          column < static_cast<double>(width))) {
      place.outside = true;
      return place;
    }
    const double upper = nearest ? std::nearbyint(row) : std::floor(row);
    const double left = nearest ? std::nearbyint(column) : std::floor(column);
    place.row = static_cast<int64_t>(upper);
    place.column = static_cast<int64_t>(left);
    if (!nearest) {
      place.down = static_cast<float>(row - upper);
      place.right = static_cast<float>(column - left);
    }
    return place;
  }

  float Sample(const float* image, const Place& place) const {
    if (place.outside) return constant;
    if (nearest) return Pixel(image, place.row, place.column);
    const auto mixed_row = [&](int64_t row) {
      const float first = Pixel(image, row, place.column);
      return place.right == 0 ? first
                              : Mix(first, Pixel(image, row, place.column + 1), place.right);
    };
    const float upper = mixed_row(place.row);
    return place.down == 0 ? upper : Mix(upper, mixed_row(place.row + 1), place.down);
  }
};

// Fills [images, channels, high, wide]; point(image, row, column) gives column and row in the
// input.
template <typename Point>
void SamplePoints(OpContext& op, const PointSampler& sampler, const float* x, int64_t images,
                  int64_t channels, int64_t high, int64_t wide, const Point& point, float* out) {
  const auto grain = static_cast<uint64_t>(std::max<int64_t>(1, kGrain / (wide * channels)));
  op.ForRanges(static_cast<uint64_t>(images * high), grain, [&](uint64_t begin, uint64_t end) {
    std::vector<PointSampler::Place> places(static_cast<size_t>(wide));
    for (uint64_t line = begin; line < end; ++line) {
      const int64_t image = static_cast<int64_t>(line) / high;
      const int64_t row = static_cast<int64_t>(line) % high;
      for (int64_t column = 0; column < wide; ++column) {
        const auto [at_column, at_row] = point(image, row, column);
        places[static_cast<size_t>(column)] = sampler.At(at_column, at_row);
      }
      for (int64_t channel = 0; channel < channels; ++channel) {
        const int64_t plane = image * channels + channel;
        const float* from = x + plane * sampler.height * sampler.width;
        float* to = out + (plane * high + row) * wide;
        for (const PointSampler::Place& place : places) *to++ = sampler.Sample(from, place);
      }
    }
  });
}

// A position in pixels from one in which the image reaches from -1 to 1, or from 0 to 1: from
// center to center of the outer pixels, or from edge to edge.
double FromNormalized(double at, bool from_zero, bool align, int64_t size) {
  const auto length = static_cast<double>(size);
  const double share = from_zero ? at : (at + 1) / 2;
  return align ? share * (length - 1) : share * length - 0.5;
}

Result<const Value*> Images(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  if (x->shape.size() != 4 || !IsFloat(x->dtype))
    return op.Bad(
        fmt::format("x: is {}, expected images of a rank of 4, of fp16 or fp32", ToString(*x)));
  return x;
}

Status Resample(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* given, Images(op));
  CMLC_ASSIGN_OR_RETURN(const Value* points, op.Tensor("coordinates"));
  const Shape& shape = points->shape;
  const int64_t images = given->shape[0], channels = given->shape[1];
  if (shape.size() != 4 || shape[0] != images || shape[3] != 2)
    return op.Bad(fmt::format("coordinates: has shape {}, expected [{}, height, width, 2]",
                              ToString(shape), images));
  PointSampler sampler;
  sampler.height = given->shape[2];
  sampler.width = given->shape[3];
  CMLC_ASSIGN_OR_RETURN(const std::string sampling, op.String("sampling_mode"));
  CMLC_ASSIGN_OR_RETURN(const std::string padding, op.String("padding_mode"));
  CMLC_ASSIGN_OR_RETURN(sampler.constant, op.Float("padding_value"));
  CMLC_ASSIGN_OR_RETURN(const std::string mode, op.String("coordinates_mode"));
  CMLC_ASSIGN_OR_RETURN(const bool align, op.Bool("align_corners"));
  if (sampling != "bilinear" && sampling != "nearest")
    return op.Bad(fmt::format("sampling_mode: '{}' is none of bilinear, nearest", sampling));
  sampler.nearest = sampling == "nearest";
  if (padding == "border")
    sampler.padding = Padding::kBorder;
  else if (padding == "reflection")
    sampler.padding = Padding::kReflection;
  else if (padding == "symmetric")
    sampler.padding = Padding::kSymmetric;
  else if (padding != "constant")
    return op.Bad(fmt::format(
        "padding_mode: '{}' is none of constant, border, reflection, symmetric", padding));
  const bool pixels = mode == "unnormalized", from_zero = mode == "normalized_zero_to_one";
  if (!pixels && !from_zero && mode != "normalized_minus_one_to_one")
    return op.Bad(
        fmt::format("coordinates_mode: '{}' is none of unnormalized, "
                    "normalized_minus_one_to_one, normalized_zero_to_one",
                    mode));
  if (sampler.padding != Padding::kConstant && (sampler.height == 0 || sampler.width == 0) &&
      points->element_count() != 0)
    return op.Bad(fmt::format("x: {} has no pixels to be sampled", ToString(given->shape)));
  CMLC_ASSIGN_OR_RETURN(const FloatView x, op.Floats("x"));
  CMLC_ASSIGN_OR_RETURN(const FloatView at, op.Floats("coordinates"));
  const int64_t high = shape[1], wide = shape[2];
  CMLC_ASSIGN_OR_RETURN(FloatOutput out,
                        op.MakeFloats(given->dtype, {images, channels, high, wide}));
  if (!out.values.empty())
    SamplePoints(
        op, sampler, x.data(), images, channels, high, wide,
        [&](int64_t image, int64_t row, int64_t column) {
          const float* pair = at.data() + ((image * high + row) * wide + column) * 2;
          double point[2] = {static_cast<double>(pair[0]), static_cast<double>(pair[1])};
          if (!pixels) {
            point[0] = FromNormalized(point[0], from_zero, align, sampler.width);
            point[1] = FromNormalized(point[1], from_zero, align, sampler.height);
          }
          return std::pair(point[0], point[1]);
        },
        out.values.data());
  op.Finish(std::move(out));
  return Ok();
}

std::string Lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

// The output reaches from -1 to 1 as the input does; a matrix says where its points lie there.
Status Affine(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* given, Images(op));
  CMLC_ASSIGN_OR_RETURN(const Value* matrices, op.Tensor("transform_matrix"));
  const int64_t images = given->shape[0], channels = given->shape[1];
  const Shape& shape = matrices->shape;
  if (shape.size() != 2 || (shape[0] != 1 && shape[0] != images) || shape[1] != 6)
    return op.Bad(fmt::format("transform_matrix: has shape {}, expected [{} or 1, 6]",
                              ToString(shape), images));
  CMLC_ASSIGN_OR_RETURN(const int64_t high, op.Int("output_height"));
  CMLC_ASSIGN_OR_RETURN(const int64_t wide, op.Int("output_width"));
  if (high < 1 || wide < 1)
    return op.Bad(fmt::format("output_height: {} by {} is no size of an image", high, wide));
  PointSampler sampler;
  sampler.height = given->shape[2];
  sampler.width = given->shape[3];
  CMLC_ASSIGN_OR_RETURN(sampler.constant, op.Float("padding_value"));
  CMLC_ASSIGN_OR_RETURN(const bool align, op.Bool("align_corners"));
  // What else these could be is not defined.
  for (const auto& [parameter, only] :
       {std::pair("sampling_mode", "bilinear"), std::pair("padding_mode", "constant"),
        std::pair("coordinates_mode", "normalized_minus_one_to_one")}) {
    CMLC_ASSIGN_OR_RETURN(const std::string mode, op.String(parameter));
    if (Lower(mode) != only)
      return op.Bad(fmt::format("{}: '{}' is not supported, expected {}", parameter, mode, only));
  }
  if (sampler.constant != 0 || !align)
    return op.Bad(
        sampler.constant != 0
            ? fmt::format("padding_value: {} is not supported, expected 0", sampler.constant)
            : std::string("align_corners: false is not supported, expected true"));
  CMLC_ASSIGN_OR_RETURN(const FloatView x, op.Floats("x"));
  CMLC_ASSIGN_OR_RETURN(const FloatView numbers, op.Floats("transform_matrix"));
  CMLC_ASSIGN_OR_RETURN(FloatOutput out,
                        op.MakeFloats(given->dtype, {images, channels, high, wide}));
  const auto along = [](int64_t i, int64_t count) {
    return count == 1 ? 0 : 2 * static_cast<double>(i) / static_cast<double>(count - 1) - 1;
  };
  if (!out.values.empty())
    SamplePoints(
        op, sampler, x.data(), images, channels, high, wide,
        [&](int64_t image, int64_t row, int64_t column) {
          const float* matrix = numbers.data() + (shape[0] == 1 ? 0 : image * 6);
          const double right = along(column, wide), down = along(row, high);
          const auto apply = [&](size_t from) {
            return static_cast<double>(matrix[from]) * right +
                   static_cast<double>(matrix[from + 1]) * down +
                   static_cast<double>(matrix[from + 2]);
          };
          return std::pair(FromNormalized(apply(0), false, true, sampler.width),
                           FromNormalized(apply(3), false, true, sampler.height));
        },
        out.values.data());
  op.Finish(std::move(out));
  return Ok();
}

// --- Non-maximum suppression ---------------------------------------------------------------------

// A batch of boxes. From iOS 17 on the number of a box is the last axis, before the second.
struct NmsLayout {
  int64_t boxes = 0, classes = 0;
  bool boxes_last = false;

  int64_t Coordinate(int64_t box, int64_t part) const {
    return boxes_last ? part * boxes + box : box * 4 + part;
  }
  int64_t Score(int64_t box, int64_t one) const {
    return boxes_last ? one * boxes + box : box * classes + one;
  }
};

struct NmsBox {
  double left, top, right, bottom, area;
  int64_t best = 0;  // class of the highest score
  float score = 0;
};

// Areas of which nothing is common, or which are none, do not overlap.
double Overlap(const NmsBox& a, const NmsBox& b) {
  const double width = std::min(a.right, b.right) - std::max(a.left, b.left);
  const double height = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
  if (!(width > 0 && height > 0 && a.area > 0 && b.area > 0)) return 0;
  const double common = width * height;
  return common / (a.area + b.area - common);
}

// The boxes that are kept, the best first.
std::vector<int64_t> KeptBoxes(const float* boxes, const float* scores, const NmsLayout& layout,
                               float iou_threshold, std::optional<float> score_threshold,
                               bool per_class, int64_t most) {
  std::vector<NmsBox> all(static_cast<size_t>(layout.boxes));
  std::vector<uint64_t> order;
  for (int64_t i = 0; i < layout.boxes; ++i) {
    NmsBox& box = all[static_cast<size_t>(i)];
    double part[4];
    for (int64_t p = 0; p < 4; ++p) part[p] = static_cast<double>(boxes[layout.Coordinate(i, p)]);
    box.left = part[0] - part[2] / 2;
    box.right = part[0] + part[2] / 2;
    box.top = part[1] - part[3] / 2;
    box.bottom = part[1] + part[3] / 2;
    box.area = part[2] * part[3];
    for (int64_t one = 0; one < layout.classes; ++one) {
      const float score = scores[layout.Score(i, one)];
      if (one != 0 && !(score > box.score)) continue;
      box.score = score;
      box.best = one;
    }
    // Highest score first, the lower position first of equal ones; what is no number comes last.
    const uint32_t key = box.score != box.score ? std::numeric_limits<uint32_t>::max()
                                                : ~numeric::FloatKey(box.score + 0.0f);
    order.push_back(uint64_t{key} << 32 | static_cast<uint64_t>(i));
  }
  std::sort(order.begin(), order.end());
  std::vector<int64_t> kept;
  for (const uint64_t entry : order) {
    if (static_cast<int64_t>(kept.size()) == most) break;
    const auto i = static_cast<int64_t>(entry & 0xffffffffu);
    const NmsBox& box = all[static_cast<size_t>(i)];
    if (score_threshold && !(box.score >= *score_threshold)) continue;
    const bool covered = std::any_of(kept.begin(), kept.end(), [&](int64_t other) {
      const NmsBox& better = all[static_cast<size_t>(other)];
      return (!per_class || better.best == box.best) &&
             Overlap(better, box) > static_cast<double>(iou_threshold);
    });
    if (!covered) kept.push_back(i);
  }
  // If no score is high enough the best box is given all the same.
  if (kept.empty() && !order.empty() && most > 0)
    kept.push_back(static_cast<int64_t>(order[0] & 0xffffffffu));
  return kept;
}

Status NonMaximumSuppression(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value boxes, op.ResidentInput("boxes"));
  CMLC_ASSIGN_OR_RETURN(const Value scores, op.ResidentInput("scores"));
  NmsLayout layout;
  layout.boxes_last = op.opset() >= kIos17;
  const size_t box_axis = layout.boxes_last ? 2 : 1, part_axis = 3 - box_axis;
  if (boxes.shape.size() != 3 || boxes.shape[part_axis] != 4)
    return op.Bad(fmt::format("boxes: has shape {}, expected {}", ToString(boxes.shape),
                              layout.boxes_last ? "[n, 4, boxes]" : "[n, boxes, 4]"));
  if (scores.shape.size() != 3 || scores.shape[0] != boxes.shape[0] ||
      scores.shape[box_axis] != boxes.shape[box_axis] || scores.shape[part_axis] < 1)
    return op.Bad(
        fmt::format("scores: has shape {}, expected one score or more for each of the "
                    "boxes {}",
                    ToString(scores.shape), ToString(boxes.shape)));
  const int64_t samples = boxes.shape[0];
  layout.boxes = boxes.shape[box_axis];
  layout.classes = scores.shape[part_axis];
  if (layout.boxes > kMaxSize)
    return op.Bad(fmt::format("boxes: {} are more than int32 counts", layout.boxes));
  CMLC_ASSIGN_OR_RETURN(const float iou_threshold, op.Float("iou_threshold"));
  std::optional<float> score_threshold;
  if (op.Has("score_threshold")) {
    CMLC_ASSIGN_OR_RETURN(score_threshold, op.Float("score_threshold"));
  }
  CMLC_ASSIGN_OR_RETURN(const int64_t most, op.Int("max_boxes"));
  if (most < 0) return op.Bad(fmt::format("max_boxes: expected at least 0, got {}", most));
  CMLC_ASSIGN_OR_RETURN(const bool per_class, op.Bool("per_class_suppression", false));
  CMLC_ASSIGN_OR_RETURN(const FloatView box_numbers, op.Floats(boxes));
  CMLC_ASSIGN_OR_RETURN(const FloatView score_numbers, op.Floats(scores));

  const auto place = [&](int64_t parts) {
    return layout.boxes_last ? Shape{samples, parts, most} : Shape{samples, most, parts};
  };
  CMLC_ASSIGN_OR_RETURN(Value kept_boxes, op.Make(boxes.dtype, place(4)));
  CMLC_ASSIGN_OR_RETURN(Value kept_scores, op.Make(scores.dtype, place(layout.classes)));
  CMLC_ASSIGN_OR_RETURN(Value indices, op.Make(DataType::kInt32, {samples, most}));
  CMLC_ASSIGN_OR_RETURN(Value counts, op.Make(DataType::kInt32, {samples}));
  Fill(op, WidthOf(boxes.dtype), kept_boxes.storage->data(), kept_boxes.element_count(), 0);
  Fill(op, WidthOf(scores.dtype), kept_scores.storage->data(), kept_scores.element_count(), 0);
  Fill(op, 4, indices.storage->data(), indices.element_count(), 0xffffffffu);
  NmsLayout target = layout;
  target.boxes = most;
  op.ForRanges(static_cast<uint64_t>(samples), 1, [&](uint64_t begin, uint64_t end) {
    for (uint64_t n = begin; n < end; ++n) {
      const auto sample = static_cast<int64_t>(n);
      const std::vector<int64_t> kept =
          KeptBoxes(box_numbers.data() + sample * layout.boxes * 4,
                    score_numbers.data() + sample * layout.boxes * layout.classes, layout,
                    iou_threshold, score_threshold, per_class, most);
      OpContext::Data<int32_t>(counts)[n] = static_cast<int32_t>(kept.size());
      const auto copy = [&](const Value& from, Value& to, int64_t parts, auto&& at) {
        const size_t width = WidthOf(from.dtype);
        for (size_t i = 0; i < kept.size(); ++i)
          for (int64_t p = 0; p < parts; ++p) {
            const int64_t source = sample * layout.boxes * parts + at(layout, kept[i], p);
            const int64_t sink = sample * most * parts + at(target, static_cast<int64_t>(i), p);
            std::memcpy(to.storage->data() + static_cast<size_t>(sink) * width,
                        Bytes(from) + static_cast<size_t>(source) * width, width);
          }
      };
      copy(boxes, kept_boxes, 4,
           [](const NmsLayout& of, int64_t box, int64_t p) { return of.Coordinate(box, p); });
      copy(scores, kept_scores, layout.classes,
           [](const NmsLayout& of, int64_t box, int64_t p) { return of.Score(box, p); });
      for (size_t i = 0; i < kept.size(); ++i)
        OpContext::Data<int32_t>(indices)[sample * most + static_cast<int64_t>(i)] =
            static_cast<int32_t>(kept[i]);
    }
  });
  // From iOS 17 on there is no count.
  Value* const results[] = {&kept_boxes, &kept_scores, &indices, &counts};
  const size_t given = layout.boxes_last ? 3 : 4;
  for (size_t i = 0; i < std::min(given, op.output_count()); ++i) op.Set(i, std::move(*results[i]));
  return Ok();
}

constexpr OpKernel kOps[] = {
    {"upsample_nearest_neighbor", UpsampleNearestNeighbor},
    {"upsample_bilinear", UpsampleBilinear},
    {"resize_bilinear", ResizeBilinear},
    {"resize_nearest_neighbor", ResizeNearestNeighbor},
    {"resize", Resize},
    {"crop_resize", CropResize},
    {"resample", Resample},
    {"affine", Affine},
    {"non_maximum_suppression", NonMaximumSuppression},
};

}  // namespace

std::span<const OpKernel> ImageOps() { return kOps; }

}  // namespace cmlc::exec
