// Convolutions.
//
// The image under the window is written out as a matrix, a band of output positions at a time, and
// multiplied with the weight: every geometry, one loop. A band is small enough to stay in a cache
// until it is multiplied; a kernel of one point with stride 1 needs no such matrix, as the image is
// it. One channel in, few out (depthwise) is too little for a product and has a loop of its own.
//
// How the work is cut follows from shapes alone, and a weight is cut in the same way whether it has
// to be decoded or not, so neither threads nor compression change a bit of the result.
//
// The transposed convolution is the same backwards: a product, then its rows are added to the
// output in a fixed order, by one thread for each block of output channels.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "exec/isa/kernels.h"
#include "exec/ops/matrix.h"
#include "exec/ops/tables.h"
#include "exec/ops/window.h"

namespace cmlc::exec {
namespace {

// Elements of the matrix that a band becomes: half a megabyte, at most two if that is too narrow.
constexpr int64_t kBandElements = 128 * 1024;
constexpr int64_t kMaxBandElements = 512 * 1024;
constexpr int64_t kBandMultiple = 24;  // positions that the product's inner loop takes at a time
// Below this many multiplications more pieces are not worth the threads.
constexpr int64_t kWorthCutting = int64_t{1} << 22;
constexpr int64_t kPieces = 4;

struct Convolution {
  int64_t batch = 0, groups = 1;
  int64_t in_channels = 0, out_channels = 0;  // of a group
  WindowParameters parameters;
  const Value* weight = nullptr;
  std::vector<float> bias;  // empty: none
};

// Everything that conv and conv_transpose share, but for shapes of their own.
Status ReadBias(OpContext& op, int64_t channels, std::vector<float>& bias) {
  if (!op.Has("bias")) return Ok();
  CMLC_ASSIGN_OR_RETURN(const Value* value, op.Tensor("bias"));
  if (value->shape != Shape{channels})
    return op.Bad(fmt::format("bias: expected a number for each of {} output channels, got {}",
                              channels, ToString(*value)));
  bias.resize(static_cast<size_t>(channels));
  return ReadFloats(*value, 0, bias);
}

Result<Convolution> ReadConvolution(OpContext& op, bool transposed) {
  Convolution conv;
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(conv.weight, op.Tensor("weight"));
  const Shape &in = x->shape, &weight = conv.weight->shape;
  if (!IsFloat(x->dtype) || in.size() < 3 || in.size() > 5)
    return op.Bad(
        fmt::format("x: expected fp16 or fp32 of 3 to 5 dimensions, got {}", ToString(*x)));
  if (!IsFloat(conv.weight->dtype) || weight.size() != in.size())
    return op.Bad(fmt::format("weight: expected fp16 or fp32 of {} dimensions, got {}", in.size(),
                              ToString(*conv.weight)));
  CMLC_ASSIGN_OR_RETURN(conv.groups, op.Int("groups", 1));
  conv.batch = in[0];
  if (conv.groups < 1 || in[1] % conv.groups != 0)
    return op.Bad(fmt::format("groups: {} does not divide {} input channels", conv.groups, in[1]));
  conv.in_channels = in[1] / conv.groups;
  if (transposed) {
    if (weight[0] != in[1])
      return op.Bad(fmt::format("weight: is for {} input channels, x has {}", weight[0], in[1]));
    conv.out_channels = weight[1];
    if (conv.out_channels > 0 && conv.groups > INT64_MAX / conv.out_channels)
      return op.Bad(fmt::format("groups: {} is too many", conv.groups));
  } else {
    if (weight[1] != conv.in_channels)
      return op.Bad(fmt::format("weight: is for {} input channels in each group, x has {}",
                                weight[1], conv.in_channels));
    if (weight[0] % conv.groups != 0)
      return op.Bad(
          fmt::format("groups: {} does not divide {} output channels", conv.groups, weight[0]));
    conv.out_channels = weight[0] / conv.groups;
  }
  CMLC_RETURN_IF_ERROR(ReadBias(op, conv.out_channels * conv.groups, conv.bias));
  return conv;
}

// Fills planes of the output with what the products are added to.
void FillWithBias(OpContext& op, const Convolution& conv, int64_t positions,
                  std::span<float> values) {
  const int64_t channels = conv.out_channels * conv.groups;
  const int64_t grain = std::max<int64_t>(1, 64 * 1024 / std::max<int64_t>(1, positions));
  op.ForRanges(
      static_cast<uint64_t>(conv.batch * channels), static_cast<uint64_t>(grain),
      [&](uint64_t begin, uint64_t end) {
        for (auto plane = static_cast<int64_t>(begin); plane < static_cast<int64_t>(end); ++plane)
          std::fill_n(values.data() + plane * positions, positions,
                      conv.bias.empty() ? 0.0f : conv.bias[static_cast<size_t>(plane % channels)]);
      });
}

Status RunDepthwise(OpContext& op, const Convolution& conv, const float* x,
                    std::span<float> values) {
  const Window& window = conv.parameters.window;
  const int64_t channels = conv.out_channels * conv.groups;
  const int64_t positions = window.position_count(), points = window.kernel_size();
  const MatrixSource weight(*conv.weight);
  // A piece is some channels of one sample.
  const int64_t work = std::max<int64_t>(1, positions * points);
  const int64_t piece = PieceSize(
      channels, std::max<int64_t>(1, std::min(int64_t{1 << 19} / work, kBlockElements / points)),
      1);
  const int64_t pieces = PieceCount(channels, piece);
  FirstError error;
  op.ForRanges(static_cast<uint64_t>(conv.batch * pieces), 1, [&](uint64_t begin, uint64_t end) {
    std::vector<float> buffer;
    for (auto i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i) {
      if (error.failed()) return;
      const int64_t n = i / pieces, first = i % pieces * piece;
      const int64_t count = std::min(piece, channels - first);
      const auto block = weight.Load(first * points, count, points, points, buffer);
      if (!error.Take(block)) return;
      for (int64_t c = first; c < first + count; ++c)
        Kernels().depthwise(
            window, x + (n * conv.groups + c / conv.out_channels) * window.image_size(),
            block->data + (c - first) * points, values.data() + (n * channels + c) * positions);
    }
  });
  return error.status();
}

// Group by group (of small ones, several at a time), block by block of output channels.
class ProductConvolution {
 public:
  ProductConvolution(OpContext& op, const Convolution& conv, const float* x,
                     std::span<float> values)
      : op_(op),
        conv_(conv),
        window_(conv.parameters.window),
        x_(x),
        values_(values),
        weight_(*conv.weight),
        positions_(window_.position_count()),
        depth_(conv.in_channels * window_.kernel_size()) {
    const bool point =
        window_.kernel_size() == 1 && window_.position_count() == window_.image_size();
    direct_ = point && window_.stride[0] == 1 && window_.stride[1] == 1 && window_.stride[2] == 1 &&
              window_.before[0] == 0 && window_.before[1] == 0 && window_.before[2] == 0;
    const int64_t narrow = std::max<int64_t>(kBandElements / depth_, 256);
    const int64_t most = std::max<int64_t>(kMaxBandElements / depth_, 16);
    band_ = PieceSize(positions_, std::min({narrow, most, int64_t{4096}}), kBandMultiple);
    bands_ = PieceCount(positions_, band_);
  }

  Status Run() {
    const int64_t row_limit = std::max<int64_t>(1, kBlockElements / depth_);
    if (conv_.groups == 1 && conv_.batch * bands_ == 1) return RunOneBand(row_limit);
    if (conv_.out_channels > row_limit) {
      const int64_t rows = PieceSize(conv_.out_channels, row_limit, 8);
      for (int64_t group = 0; group < conv_.groups; ++group)
        for (int64_t row = 0; row < conv_.out_channels; row += rows)
          CMLC_RETURN_IF_ERROR(RunBlock(group, 1, row, std::min(rows, conv_.out_channels - row)));
      return Ok();
    }
    const int64_t step = std::max<int64_t>(1, row_limit / conv_.out_channels);
    for (int64_t group = 0; group < conv_.groups; group += step)
      CMLC_RETURN_IF_ERROR(
          RunBlock(group, std::min(step, conv_.groups - group), 0, conv_.out_channels));
    return Ok();
  }

 private:
  const float* Image(int64_t n, int64_t group) const {
    return x_ + (n * conv_.groups + group) * conv_.in_channels * window_.image_size();
  }
  float* Out(int64_t n, int64_t group, int64_t row, int64_t position) {
    return values_.data() + ((n * conv_.groups + group) * conv_.out_channels + row) * positions_ +
           position;
  }

  // The whole weight over the only band: columns are made by all threads, then each takes rows of
  // the weight.
  Status RunOneBand(int64_t row_limit) {
    const float* columns = Image(0, 0);
    Value made;
    if (!direct_) {
      CMLC_ASSIGN_OR_RETURN(made, op_.Make(DataType::kFloat32, {depth_, positions_}));
      float* to = OpContext::Data<float>(made);
      const auto grain = std::max<int64_t>(1, 64 * 1024 / std::max<int64_t>(1, positions_));
      op_.ForRanges(static_cast<uint64_t>(depth_), static_cast<uint64_t>(grain),
                    [&](uint64_t begin, uint64_t end) {
                      Kernels().image_to_columns(window_, Image(0, 0), static_cast<int64_t>(begin),
                                                 static_cast<int64_t>(end), 0, positions_,
                                                 to + static_cast<int64_t>(begin) * positions_,
                                                 positions_);
                    });
      columns = to;
    }
    int64_t most = std::min(row_limit, conv_.out_channels);
    if (conv_.out_channels * depth_ >= kWorthCutting / std::max<int64_t>(1, positions_))
      most = std::min(most, std::max<int64_t>(96, conv_.out_channels / kPieces));
    const int64_t rows = PieceSize(conv_.out_channels, most, 8);
    FirstError error;
    op_.ForRanges(static_cast<uint64_t>(PieceCount(conv_.out_channels, rows)), 1,
                  [&](uint64_t begin, uint64_t end) {
                    std::vector<float> buffer;
                    for (uint64_t i = begin; i < end && !error.failed(); ++i) {
                      const int64_t row = static_cast<int64_t>(i) * rows;
                      const int64_t count = std::min(rows, conv_.out_channels - row);
                      const auto block = weight_.Load(row * depth_, count, depth_, depth_, buffer);
                      if (!error.Take(block)) return;
                      Kernels().gemm(block->data, block->ld, false, columns, positions_, false,
                                     Out(0, 0, row, 0), positions_, count, positions_, depth_,
                                     true);
                    }
                  });
    return error.status();
  }

  // `count` output channels of each of some groups, from the same row on, over all bands.
  Status RunBlock(int64_t first_group, int64_t groups, int64_t row, int64_t count) {
    const int64_t rows = groups * count;
    CMLC_ASSIGN_OR_RETURN(const MatrixSource::Block block,
                          LoadBlock(first_group * conv_.out_channels + row, rows));
    op_.ForRanges(
        static_cast<uint64_t>(conv_.batch * groups * bands_), 1, [&](uint64_t begin, uint64_t end) {
          std::vector<float> buffer;
          for (auto i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i) {
            const int64_t n = i / (groups * bands_), g = i / bands_ % groups;
            const int64_t position = i % bands_ * band_;
            const int64_t width = std::min(band_, positions_ - position);
            const float* columns = Image(n, first_group + g) + position;
            int64_t ld = positions_;
            if (!direct_) {
              if (buffer.empty()) buffer.resize(static_cast<size_t>(depth_ * band_));
              Kernels().image_to_columns(window_, Image(n, first_group + g), 0, depth_, position,
                                         position + width, buffer.data(), width);
              columns = buffer.data();
              ld = width;
            }
            Kernels().gemm(block.data + g * count * block.ld, block.ld, false, columns, ld, false,
                           Out(n, first_group + g, row, position), positions_, count, width, depth_,
                           true);
          }
        });
    return Ok();
  }

  // Rows of the weight, decoded by all threads.
  Result<MatrixSource::Block> LoadBlock(int64_t row, int64_t rows) {
    if (weight_.direct()) return weight_.Load(row * depth_, rows, depth_, depth_, block_);
    const auto size = static_cast<size_t>(rows * depth_);
    if (block_.size() < size) block_.resize(size);
    FirstError error;
    op_.ForRanges(size, 32 * 1024, [&](uint64_t begin, uint64_t end) {
      error.Take(ReadFloats(*conv_.weight, static_cast<uint64_t>(row * depth_) + begin,
                            {block_.data() + begin, static_cast<size_t>(end - begin)}));
    });
    CMLC_RETURN_IF_ERROR(error.status());
    return MatrixSource::Block{block_.data(), depth_};
  }

  OpContext& op_;
  const Convolution& conv_;
  const Window& window_;
  const float* x_;
  std::span<float> values_;
  const MatrixSource weight_;
  int64_t positions_, depth_;
  bool direct_ = false;  // the image is the matrix
  int64_t band_ = 0, bands_ = 0;
  std::vector<float> block_;
};

Status Conv(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(Convolution conv, ReadConvolution(op, false));
  const Value& x = op.Input("x");
  CMLC_ASSIGN_OR_RETURN(conv.parameters,
                        ReadWindow(op, std::span(x.shape).subspan(2),
                                   std::span(conv.weight->shape).subspan(2), true));
  const Window& window = conv.parameters.window;
  const int64_t channels = conv.out_channels * conv.groups;
  CMLC_ASSIGN_OR_RETURN(FloatOutput out,
                        op.MakeFloats(x.dtype, conv.parameters.OutputShape(conv.batch, channels)));
  if (out.values.empty()) {
    op.Finish(std::move(out));
    return Ok();
  }
  FillWithBias(op, conv, window.position_count(), out.values);
  if (conv.in_channels != 0) {
    CMLC_ASSIGN_OR_RETURN(const FloatView floats, op.Floats(x));
    if (conv.in_channels == 1 && conv.out_channels <= 4)
      CMLC_RETURN_IF_ERROR(RunDepthwise(op, conv, floats.data(), out.values));
    else
      CMLC_RETURN_IF_ERROR(ProductConvolution(op, conv, floats.data(), out.values).Run());
  }
  op.Finish(std::move(out));
  return Ok();
}

// --- Transposed ---------------------------------------------------------------------------------

// The window as a convolution from the output to x would have it: the image is the output.
Result<WindowParameters> ReadTransposedWindow(OpContext& op, const Convolution& conv,
                                              std::span<const int64_t> positions,
                                              std::span<const int64_t> kernel) {
  const size_t count = positions.size();
  WindowParameters out;
  out.dimensions = count;
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> strides,
                        PerDimension(op, "strides", count, 1, 1));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> dilations,
                        PerDimension(op, "dilations", count, 1, 1));
  CMLC_ASSIGN_OR_RETURN(out.pad_type, op.String("pad_type", "valid"));
  std::vector<int64_t> pad(2 * count, 0);
  if (out.pad_type == "custom") {
    CMLC_ASSIGN_OR_RETURN(pad, PerDimension(op, "pad", 2 * count, 0, 0));
  } else if (out.pad_type != "valid" && out.pad_type != "same") {
    return op.Bad(fmt::format("pad_type: expected valid, same or custom, got '{}'", out.pad_type));
  }
  std::vector<int64_t> given;
  if (op.Has("output_shape")) {
    CMLC_ASSIGN_OR_RETURN(given, op.Ints("output_shape"));
    const int64_t channels = conv.out_channels * conv.groups;
    if (given.size() != count + 2 || given[0] != conv.batch || given[1] != channels)
      return op.Bad(
          fmt::format("output_shape: expected {} numbers that start with {} and {}, got {}",
                      count + 2, conv.batch, channels, cmlc::ToString(given)));
  }
  for (size_t d = 0; d < count; ++d) {
    const size_t to = 3 - count + d;
    const int64_t stride = strides[d], size = positions[d];
    if (kernel[d] < 1 || kernel[d] > INT32_MAX)
      return op.Bad(fmt::format("weight: kernel sizes must be positive, got {}", kernel[d]));
    if (size > INT32_MAX) return op.Bad(fmt::format("x: size {} is too large", size));
    const int64_t reach = (kernel[d] - 1) * dilations[d] + 1;
    int64_t image = (size - 1) * stride + reach - pad[2 * d] - pad[2 * d + 1];
    if (out.pad_type == "same") {
      image = size * stride;
      pad[2 * d] = std::max<int64_t>(0, reach - stride) / 2;
    }
    if (size == 0) image = std::max<int64_t>(image, 0);
    if (!given.empty()) image = given[d + 2];
    if (image < 0)
      return op.Bad(fmt::format("{} {} elements of dimension {}",
                                given.empty() ? "pad: leaves" : "output_shape: has", image, d + 2));
    out.window.image[to] = image;
    out.window.positions[to] = size;
    out.window.kernel[to] = kernel[d];
    out.window.stride[to] = stride;
    out.window.dilation[to] = dilations[d];
    out.window.before[to] = pad[2 * d];
  }
  return out;
}

Status ConvTranspose(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(Convolution conv, ReadConvolution(op, true));
  const Value& x = op.Input("x");
  CMLC_ASSIGN_OR_RETURN(conv.parameters,
                        ReadTransposedWindow(op, conv, std::span(x.shape).subspan(2),
                                             std::span(conv.weight->shape).subspan(2)));
  const Window& window = conv.parameters.window;
  const int64_t channels = conv.out_channels * conv.groups;
  Shape shape = {conv.batch, channels};
  shape.insert(shape.end(), window.image + (3 - conv.parameters.dimensions), window.image + 3);
  CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(x.dtype, shape));
  const int64_t image = out.values.empty() ? 0 : window.image_size();
  if (image != 0) FillWithBias(op, conv, image, out.values);
  if (image == 0 || x.element_count() == 0) {
    op.Finish(std::move(out));
    return Ok();
  }
  const int64_t positions = window.position_count(), points = window.kernel_size();
  CMLC_ASSIGN_OR_RETURN(const FloatView floats, op.Floats(x));
  const MatrixSource weight(*conv.weight);
  // A piece is a block of output channels of one sample and group.
  int64_t most =
      std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, conv.in_channels * points));
  if (conv.groups * conv.batch < kPieces &&
      conv.in_channels * points >= kWorthCutting / (positions * conv.out_channels))
    most = std::min(most, std::max<int64_t>(8, conv.out_channels / kPieces));
  const int64_t block = PieceSize(conv.out_channels, most, 1);
  const int64_t blocks = PieceCount(conv.out_channels, block);
  const int64_t band =
      PieceSize(positions, std::max<int64_t>(kMaxBandElements / 2 / (block * points), 24), 24);
  FirstError error;
  op.ForRanges(static_cast<uint64_t>(conv.batch * conv.groups * blocks), 1,
               [&](uint64_t begin, uint64_t end) {
                 std::vector<float> buffer, columns;
                 for (auto i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i) {
                   if (error.failed()) return;
                   const int64_t n = i / (conv.groups * blocks), group = i / blocks % conv.groups;
                   const int64_t first = i % blocks * block;
                   const int64_t count = std::min(block, conv.out_channels - first);
                   const int64_t ld = conv.out_channels * points;
                   const auto rows = weight.Load(group * conv.in_channels * ld + first * points,
                                                 conv.in_channels, count * points, ld, buffer);
                   if (!error.Take(rows)) return;
                   if (columns.empty()) columns.resize(static_cast<size_t>(block * points * band));
                   const float* in =
                       floats.data() + (n * conv.groups + group) * conv.in_channels * positions;
                   float* to = out.values.data() +
                               (n * channels + group * conv.out_channels + first) * image;
                   for (int64_t position = 0; position < positions; position += band) {
                     const int64_t width = std::min(band, positions - position);
                     Kernels().gemm(rows->data, rows->ld, true, in + position, positions, false,
                                    columns.data(), width, count * points, width, conv.in_channels,
                                    false);
                     Kernels().columns_to_image(window, columns.data(), width, count, position,
                                                position + width, to);
                   }
                 }
               });
  CMLC_RETURN_IF_ERROR(error.status());
  op.Finish(std::move(out));
  return Ok();
}

constexpr OpKernel kOps[] = {
    {"conv", Conv},
    {"conv_transpose", ConvTranspose},
};

}  // namespace

std::span<const OpKernel> ConvolutionOps() { return kOps; }

}  // namespace cmlc::exec
