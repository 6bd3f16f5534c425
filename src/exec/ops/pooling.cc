// Pools: the greatest, the mean or the length (l2) of what lies under a sliding window.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "exec/isa/kernels.h"
#include "exec/ops/matrix.h"
#include "exec/ops/tables.h"
#include "exec/ops/window.h"

namespace cmlc::exec {
namespace {

enum class Kind { kMax, kAverage, kLength };

// How many points the window has along dimension `d` at every position: those in the image, or
// those in the image and its padding, which a last window of ceil_mode may reach beyond.
std::vector<int64_t> PointCounts(const WindowParameters& parameters, int d, bool in_image) {
  const Window& w = parameters.window;
  std::vector<int64_t> counts;
  for (int64_t position = 0; position < w.positions[d]; ++position) {
    const int64_t begin = position * w.stride[d] - w.before[d];
    const int64_t end = begin + w.kernel[d];
    const int64_t limit = w.image[d] + (in_image ? 0 : parameters.after[d]);
    counts.push_back(std::max<int64_t>(
        0, std::min(end, limit) - (in_image ? std::max<int64_t>(begin, 0) : begin)));
  }
  return counts;
}

// One over the number of points, for every position.
std::vector<float> Reciprocals(const WindowParameters& parameters, bool in_image) {
  std::vector<int64_t> counts[3];
  for (int d = 0; d < 3; ++d) counts[d] = PointCounts(parameters, d, in_image);
  std::vector<float> out;
  for (const int64_t z : counts[0])
    for (const int64_t y : counts[1])
      for (const int64_t x : counts[2]) {
        // A window over padding alone has the sum 0; so is its mean.
        const double points =
            static_cast<double>(z) * static_cast<double>(y) * static_cast<double>(x);
        out.push_back(static_cast<float>(1 / std::max(1.0, points)));
      }
  return out;
}

Status Pool(OpContext& op, Kind kind) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  if (!IsFloat(x->dtype) || x->shape.size() < 3 || x->shape.size() > 5)
    return op.Bad(
        fmt::format("x: expected fp16 or fp32 of 3 to 5 dimensions, got {}", ToString(*x)));
  const std::span<const int64_t> image = std::span(x->shape).subspan(2);
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> kernel,
                        PerDimension(op, "kernel_sizes", image.size(), 1, 1));
  CMLC_ASSIGN_OR_RETURN(const WindowParameters parameters, ReadWindow(op, image, kernel, false));
  bool in_image = false;
  if (kind == Kind::kAverage) {
    CMLC_ASSIGN_OR_RETURN(in_image, op.Bool("exclude_padding_from_average", false));
  }
  const Window& window = parameters.window;
  const int64_t planes = x->shape[1];
  CMLC_ASSIGN_OR_RETURN(FloatOutput out,
                        op.MakeFloats(x->dtype, parameters.OutputShape(x->shape[0], planes)));
  if (out.values.empty()) {
    op.Finish(std::move(out));
    return Ok();
  }
  CMLC_ASSIGN_OR_RETURN(const FloatView floats, op.Floats(*x));
  const std::vector<float> scale =
      kind == Kind::kAverage ? Reciprocals(parameters, in_image) : std::vector<float>();
  const int64_t positions = window.position_count(), image_size = window.image_size();
  // Each piece reads about 256 KB.
  const int64_t grain =
      std::max<int64_t>(1, 64 * 1024 / std::max<int64_t>({1, image_size, positions}));
  op.ForRanges(static_cast<uint64_t>(x->shape[0] * planes), static_cast<uint64_t>(grain),
               [&](uint64_t begin, uint64_t end) {
                 for (uint64_t plane = begin; plane < end; ++plane) {
                   const float* in = floats.data() + static_cast<int64_t>(plane) * image_size;
                   float* to = out.values.data() + static_cast<int64_t>(plane) * positions;
                   switch (kind) {
                     case Kind::kMax:
                       Kernels().window_max(window, in, to);
                       break;
                     case Kind::kAverage:
                       Kernels().window_sum(window, in, to);
                       for (int64_t i = 0; i < positions; ++i)
                         to[i] *= scale[static_cast<size_t>(i)];
                       break;
                     case Kind::kLength:
                       Kernels().window_sum_of_squares(window, in, to);
                       for (int64_t i = 0; i < positions; ++i) to[i] = std::sqrt(to[i]);
                       break;
                   }
                 }
               });
  op.Finish(std::move(out));
  return Ok();
}

Status MaxPool(OpContext& op) { return Pool(op, Kind::kMax); }
Status AvgPool(OpContext& op) { return Pool(op, Kind::kAverage); }
Status L2Pool(OpContext& op) { return Pool(op, Kind::kLength); }

constexpr OpKernel kOps[] = {
    {"max_pool", MaxPool},
    {"avg_pool", AvgPool},
    {"l2_pool", L2Pool},
};

}  // namespace

std::span<const OpKernel> PoolingOps() { return kOps; }

}  // namespace cmlc::exec
