#include "exec/ops/window.h"

#include <fmt/format.h>

#include <algorithm>

namespace cmlc::exec {

Shape WindowParameters::OutputShape(int64_t batch, int64_t channels) const {
  Shape shape = {batch, channels};
  shape.insert(shape.end(), window.positions + (3 - dimensions), window.positions + 3);
  return shape;
}

Result<std::vector<int64_t>> PerDimension(const OpContext& op, std::string_view parameter,
                                          size_t count, int64_t missing, int64_t least) {
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> values,
                        op.Ints(parameter, std::vector<int64_t>(count, missing)));
  if (values.size() != count)
    return op.Bad(fmt::format("{}: expected {} numbers, got {}", parameter, count, values.size()));
  for (const int64_t value : values)
    if (value < least || value > INT32_MAX)
      return op.Bad(
          fmt::format("{}: expected numbers from {} on, got {}", parameter, least, value));
  return values;
}

Result<WindowParameters> ReadWindow(const OpContext& op, std::span<const int64_t> image,
                                    std::span<const int64_t> kernel, bool dilated) {
  const size_t count = image.size();
  WindowParameters out;
  out.dimensions = count;
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> strides,
                        PerDimension(op, "strides", count, 1, 1));
  std::vector<int64_t> dilations(count, 1);
  if (dilated) {
    CMLC_ASSIGN_OR_RETURN(dilations, PerDimension(op, "dilations", count, 1, 1));
  }
  CMLC_ASSIGN_OR_RETURN(out.pad_type, op.String("pad_type", "valid"));
  std::vector<int64_t> pad(2 * count, 0);
  const bool same = out.pad_type == "same" || out.pad_type == "same_lower";
  if (out.pad_type == "custom") {
    CMLC_ASSIGN_OR_RETURN(pad, PerDimension(op, "pad", 2 * count, 0, 0));
  } else if (!same && out.pad_type != "valid") {
    return op.Bad(fmt::format("pad_type: expected valid, same, same_lower or custom, got '{}'",
                              out.pad_type));
  }
  if (out.pad_type == "same_lower" && op.opset() < 6)
    return op.Bad("pad_type: same_lower needs CoreML6 (iOS 16)");
  CMLC_ASSIGN_OR_RETURN(const bool ceil_mode, op.Bool("ceil_mode", false));
  if (ceil_mode && same) return op.Bad("ceil_mode: goes with no padding or custom padding alone");
  for (size_t d = 0; d < count; ++d) {
    const size_t to = 3 - count + d;
    const int64_t size = image[d], stride = strides[d], points = kernel[d];
    // At most 2^31 each, so nothing here overflows.
    if (size > INT32_MAX) return op.Bad(fmt::format("x: size {} is too large", size));
    if (points < 1 || points > INT32_MAX)
      return op.Bad(fmt::format("kernel: sizes must be positive, got {}", points));
    const int64_t reach = (points - 1) * dilations[d] + 1;
    int64_t positions = 0;
    if (same) {
      positions = size / stride + (size % stride != 0 ? 1 : 0);
      const int64_t total = std::max<int64_t>(0, (positions - 1) * stride + reach - size);
      pad[2 * d] = out.pad_type == "same" ? total / 2 : total - total / 2;
      pad[2 * d + 1] = total - pad[2 * d];
    } else {
      if (ceil_mode && pad[2 * d] != pad[2 * d + 1])
        return op.Bad(fmt::format("ceil_mode: needs equal padding on both sides, got {} and {}",
                                  pad[2 * d], pad[2 * d + 1]));
      const int64_t room =
          size + pad[2 * d] + pad[2 * d + 1] - reach + (ceil_mode ? stride - 1 : 0);
      if (room < 0)
        return op.Bad(
            fmt::format("x: size {} with padding {} and {} has no room for a kernel that "
                        "covers {}",
                        size, pad[2 * d], pad[2 * d + 1], reach));
      positions = room / stride + 1;
      // A window that would start in the padding after the image is none.
      if (ceil_mode && pad[2 * d] > 0 && (positions - 1) * stride >= size + pad[2 * d]) --positions;
    }
    out.window.image[to] = size;
    out.window.positions[to] = positions;
    out.window.kernel[to] = points;
    out.window.stride[to] = stride;
    out.window.dilation[to] = dilations[d];
    out.window.before[to] = pad[2 * d];
    out.after[to] = pad[2 * d + 1];
  }
  return out;
}

}  // namespace cmlc::exec
