// Ops that put the elements of tensors in another order, or more often, and change none: see
// layout.h.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "exec/ops/layout.h"
#include "exec/ops/tables.h"

namespace cmlc::exec {
namespace {

// --- One tensor ----------------------------------------------------------------------------------

Status Transpose(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* given, op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(std::vector<int64_t> perm, op.Ints("perm"));
  const size_t rank = given->shape.size();
  if (perm.size() != rank)
    return op.Bad(fmt::format("perm: has {} axes, x has {}", perm.size(), rank));
  std::vector<bool> seen(rank, false);
  for (int64_t& axis : perm) {
    const int64_t at = axis < 0 ? axis + static_cast<int64_t>(rank) : axis;
    if (at < 0 || at >= static_cast<int64_t>(rank) || seen[static_cast<size_t>(at)])
      return op.Bad(fmt::format("perm: {} is no permutation of {} axes", ToString(perm), rank));
    seen[static_cast<size_t>(at)] = true;
    axis = at;
  }
  Shape shape;
  for (const int64_t axis : perm) shape.push_back(given->shape[static_cast<size_t>(axis)]);
  // Where only axes of size 1 change places, no element does.
  int64_t last = -1;
  bool moves = false;
  for (const int64_t axis : perm) {
    if (given->shape[static_cast<size_t>(axis)] == 1) continue;
    moves |= axis < last;
    last = axis;
  }
  if (!moves || given->element_count() == 0) {
    Value out = op.Take("x");
    out.shape = std::move(shape);
    op.Set(std::move(out));
    return Ok();
  }
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, shape));
  const std::vector<int64_t> in = RowStrides(x.shape), to = RowStrides(shape);
  std::vector<CopyLoop> loops;
  for (size_t d = 0; d < rank; ++d)
    loops.push_back({shape[d], in[static_cast<size_t>(perm[d])], to[d]});
  CopyStrided(op, WidthOf(x.dtype), Bytes(x), out.storage->data(), std::move(loops));
  op.Set(std::move(out));
  return Ok();
}

Status Tile(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> reps, op.Ints("reps"));
  if (reps.size() != x.shape.size())
    return op.Bad(fmt::format("reps: has {} numbers, x has {} axes", reps.size(), x.shape.size()));
  Shape shape = x.shape;
  for (size_t d = 0; d < shape.size(); ++d) {
    if (reps[d] < 1)
      return op.Bad(fmt::format("reps: {} has {}, expected at least 1", ToString(reps), reps[d]));
    const std::optional<int64_t> size = CheckedMul(shape[d], reps[d]);
    if (!size) return op.Bad(fmt::format("reps: {} is too much", ToString(reps)));
    shape[d] = *size;
  }
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, shape));
  const std::vector<int64_t> in = RowStrides(x.shape), to = RowStrides(shape);
  if (out.element_count() != 0) {
    std::vector<CopyLoop> loops;
    for (size_t d = 0; d < shape.size(); ++d) {
      loops.push_back({reps[d], 0, to[d] * x.shape[d]});
      loops.push_back({x.shape[d], in[d], to[d]});
    }
    CopyStrided(op, WidthOf(x.dtype), Bytes(x), out.storage->data(), std::move(loops));
  }
  op.Set(std::move(out));
  return Ok();
}

Status Reverse(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const std::vector<size_t> axes, op.Axes("axes", x.shape.size()));
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, x.shape));
  if (x.element_count() != 0) {
    const std::vector<int64_t> strides = RowStrides(x.shape);
    std::vector<CopyLoop> loops;
    int64_t first = 0;
    for (size_t d = 0; d < x.shape.size(); ++d) {
      const bool turned = std::binary_search(axes.begin(), axes.end(), d);
      if (turned) first += (x.shape[d] - 1) * strides[d];
      loops.push_back({x.shape[d], turned ? -strides[d] : strides[d], strides[d]});
    }
    const size_t width = WidthOf(x.dtype);
    CopyStrided(op, width, Bytes(x) + first * static_cast<int64_t>(width), out.storage->data(),
                std::move(loops));
  }
  op.Set(std::move(out));
  return Ok();
}

Status ReverseSequence(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  const size_t rank = x.shape.size();
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> lengths, op.Ints("lengths"));
  CMLC_ASSIGN_OR_RETURN(const size_t along, op.Axis("seq_axis", rank, 0));
  CMLC_ASSIGN_OR_RETURN(const size_t batch, op.Axis("batch_axis", rank, 0));
  if (along == batch)
    return op.Bad(fmt::format("batch_axis: is {}, as seq_axis, and they must differ", batch));
  if (static_cast<int64_t>(lengths.size()) != x.shape[batch])
    return op.Bad(
        fmt::format("lengths: has {} numbers, expected one for each of {} in axis {} of x",
                    lengths.size(), x.shape[batch], batch));
  for (const int64_t length : lengths)
    if (length < 0 || length > x.shape[along])
      return op.Bad(fmt::format("lengths: {} is not between 0 and {}", length, x.shape[along]));
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, x.shape));
  const std::vector<int64_t> strides = RowStrides(x.shape);
  const size_t width = WidthOf(x.dtype);
  if (x.element_count() != 0) {
    for (size_t b = 0; b < lengths.size(); ++b) {
      std::vector<CopyLoop> loops;
      for (size_t d = 0; d < rank; ++d) loops.push_back({x.shape[d], strides[d], strides[d]});
      loops[batch].size = 1;
      const auto at = [&](int64_t position) {
        return (static_cast<int64_t>(b) * strides[batch] + position * strides[along]) *
               static_cast<int64_t>(width);
      };
      const int64_t length = lengths[b];
      loops[along].size = x.shape[along] - length;
      if (loops[along].size != 0)
        CopyStrided(op, width, Bytes(x) + at(length), out.storage->data() + at(length), loops);
      loops[along] = {length, -strides[along], strides[along]};
      if (length != 0)
        CopyStrided(op, width, Bytes(x) + at(length - 1), out.storage->data() + at(0), loops);
    }
  }
  op.Set(std::move(out));
  return Ok();
}

Status SlidingWindows(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", x.shape.size()));
  CMLC_ASSIGN_OR_RETURN(const int64_t size, op.Int("size"));
  CMLC_ASSIGN_OR_RETURN(const int64_t stride, op.Int("stride", 1));
  if (size < 1 || size > x.shape[axis])
    return op.Bad(fmt::format("size: {} is not between 1 and the {} elements of axis {}", size,
                              x.shape[axis], axis));
  if (stride < 1) return op.Bad(fmt::format("stride: expected at least 1, got {}", stride));
  Shape shape = x.shape;
  shape[axis] = (x.shape[axis] - size) / stride + 1;
  shape.insert(shape.begin() + static_cast<std::ptrdiff_t>(axis) + 1, size);
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, shape));
  const std::vector<int64_t> in = RowStrides(x.shape), to = RowStrides(shape);
  if (out.element_count() != 0) {
    std::vector<CopyLoop> loops;
    for (size_t d = 0; d < shape.size(); ++d) {
      const int64_t from = d <= axis ? in[d] * (d == axis ? stride : 1) : in[d - 1];
      loops.push_back({shape[d], from, to[d]});
    }
    CopyStrided(op, WidthOf(x.dtype), Bytes(x), out.storage->data(), std::move(loops));
  }
  op.Set(std::move(out));
  return Ok();
}

// --- Edges ---------------------------------------------------------------------------------------

// Source positions along an axis of `size` that gets `before` and `after` more; -1 for the
// constant.
std::vector<int64_t> PaddedAxis(int64_t size, int64_t before, int64_t after, std::string_view mode,
                                int64_t stride) {
  std::vector<int64_t> map;
  map.reserve(static_cast<size_t>(before + size + after));
  for (int64_t i = -before; i < size + after; ++i) {
    int64_t from = i;
    if (i < 0) from = mode == "reflect" ? -i : mode == "replicate" ? 0 : -1;
    if (i >= size)
      from = mode == "reflect" ? 2 * size - 2 - i : mode == "replicate" ? size - 1 : -1;
    map.push_back(from < 0 ? -1 : from * stride);
  }
  return map;
}

Status Pad(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> pads, op.Ints("pad"));
  CMLC_ASSIGN_OR_RETURN(const std::string mode, op.String("mode", "constant"));
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  const size_t rank = x.shape.size();
  if (mode != "constant" && mode != "reflect" && mode != "replicate")
    return op.Bad(fmt::format("mode: '{}' is none of constant, reflect, replicate", mode));
  if (pads.size() % 2 != 0 || pads.size() / 2 > rank)
    return op.Bad(
        fmt::format("pad: has {} numbers, expected two for each of the last axes of x, "
                    "which has {}",
                    pads.size(), rank));
  const size_t first = rank - pads.size() / 2;
  Shape shape = x.shape;
  std::vector<int64_t> before(rank, 0), after(rank, 0);
  for (size_t d = first; d < rank; ++d) {
    before[d] = pads[2 * (d - first)];
    after[d] = pads[2 * (d - first) + 1];
    const int64_t most = std::max(before[d], after[d]);
    if (before[d] < 0 || after[d] < 0)
      return op.Bad(fmt::format("pad: {} has a negative number", ToString(pads)));
    if ((mode == "reflect" && most > 0 && most >= x.shape[d]) ||
        (mode == "replicate" && most > 0 && x.shape[d] == 0))
      return op.Bad(fmt::format("pad: {} elements cannot be had from {} by {} (axis {})", most,
                                x.shape[d], mode, d));
    const std::optional<int64_t> size = CheckedAdd(shape[d], before[d] + after[d]);
    if (!size) return op.Bad(fmt::format("pad: {} is too much", ToString(pads)));
    shape[d] = *size;
  }
  double constant = 0;
  if (mode == "constant") {
    CMLC_ASSIGN_OR_RETURN(const float number, op.Float("constant_val", 0.0f));
    constant = number;
  }
  const uint32_t bits = BitsOfNumber(constant, x.dtype);
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, shape));
  const size_t width = WidthOf(x.dtype);
  if (rank == 0) {
    std::memcpy(out.storage->data(), Bytes(x), width);
  } else if (x.element_count() == 0) {
    Fill(op, width, out.storage->data(), out.element_count(), bits);
  } else {
    // Leading axes that stay as they are count as one.
    const std::vector<int64_t> strides = RowStrides(x.shape);
    std::vector<std::vector<int64_t>> maps;
    size_t d = 0;
    while (d + 1 < rank && before[d] == 0 && after[d] == 0) ++d;
    if (d != 0)
      maps.push_back(PaddedAxis(Product(std::span(x.shape).first(d)), 0, 0, mode, strides[d - 1]));
    for (; d < rank; ++d)
      maps.push_back(PaddedAxis(x.shape[d], before[d], after[d], mode, strides[d]));
    CopyMapped(op, width, Bytes(x), out.storage->data(), maps, bits);
  }
  op.Set(std::move(out));
  return Ok();
}

// The part of `x` that starts at `begin` and has shape `shape`.
Result<Value> Part(OpContext& op, const Value& x, const std::vector<int64_t>& begin, Shape shape) {
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, shape));
  if (out.element_count() == 0) return out;
  const std::vector<int64_t> in = RowStrides(x.shape), to = RowStrides(shape);
  const size_t width = WidthOf(x.dtype);
  std::vector<CopyLoop> loops;
  int64_t first = 0;
  for (size_t d = 0; d < shape.size(); ++d) {
    first += begin[d] * in[d];
    loops.push_back({shape[d], in[d], to[d]});
  }
  CopyStrided(op, width, Bytes(x) + first * static_cast<int64_t>(width), out.storage->data(),
              std::move(loops));
  return out;
}

// What is cut from an axis, from both of its ends: of `parameter`, starting at `position`.
Status CutAxis(OpContext& op, std::string_view parameter, const std::vector<int64_t>& cuts,
               size_t position, int64_t& begin, int64_t& size) {
  const int64_t front = cuts[position], back = cuts[position + 1];
  if (front < 0 || back < 0 || front > size - back)
    return op.Bad(fmt::format("{}: {} and {} cannot be cut from {}", parameter, front, back, size));
  begin = front;
  size -= front + back;
  return Ok();
}

Status Crop(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  const size_t rank = x.shape.size();
  if (rank < 2) return op.Bad(fmt::format("x: expected a rank of at least 2, got {}", rank));
  Shape shape = x.shape;
  std::vector<int64_t> begin(rank, 0);
  size_t d = rank - 2;
  for (const std::string_view parameter : {"crop_height", "crop_width"}) {
    CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> cuts, op.Ints(parameter));
    if (cuts.size() != 2)
      return op.Bad(fmt::format("{}: expected two numbers, got {}", parameter, cuts.size()));
    CMLC_RETURN_IF_ERROR(CutAxis(op, parameter, cuts, 0, begin[d], shape[d]));
    ++d;
  }
  CMLC_ASSIGN_OR_RETURN(Value out, Part(op, x, begin, std::move(shape)));
  op.Set(std::move(out));
  return Ok();
}

// --- Blocks --------------------------------------------------------------------------------------

// Two of these ops make a channel from each place in a block of pixels, two others the reverse.
// They differ in which of both is the outer part of the channel's number.
enum class BlockOrder { kPlaceOuter, kPlaceInner };

Result<int64_t> BlockSize(OpContext& op, std::string_view parameter, const Value& x) {
  CMLC_ASSIGN_OR_RETURN(const int64_t block, op.Int(parameter));
  if (block < 1 || block > (1 << 20))
    return op.Bad(fmt::format("{}: expected at least 1, got {}", parameter, block));
  if (x.shape.size() < 3)
    return op.Bad(fmt::format("x: expected a rank of 4, got {}", x.shape.size()));
  return block;
}

// Strides, as elements of the tensor with the large pixels, of: place in a block (row, column), and
// channel.
struct BlockStrides {
  int64_t row, column, channel;
};

BlockStrides StridesOf(BlockOrder order, int64_t block, int64_t channels, int64_t plane) {
  if (order == BlockOrder::kPlaceOuter) return {block * channels * plane, channels * plane, plane};
  return {block * plane, plane, block * block * plane};
}

Status ChannelsToBlocks(OpContext& op, std::string_view parameter, BlockOrder order) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const int64_t block, BlockSize(op, parameter, x));
  const size_t rank = x.shape.size();
  const int64_t all = x.shape[rank - 3], height = x.shape[rank - 2], width = x.shape[rank - 1];
  if (all % (block * block) != 0)
    return op.Bad(fmt::format("x: {} channels are no multiple of the {} places in a block", all,
                              block * block));
  const int64_t channels = all / (block * block);
  const std::optional<int64_t> high = CheckedMul(height, block), wide = CheckedMul(width, block);
  if (!high || !wide) return op.Bad(fmt::format("{}: {} is too much", parameter, block));
  Shape shape = x.shape;
  shape[rank - 3] = channels;
  shape[rank - 2] = *high;
  shape[rank - 1] = *wide;
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, shape));
  if (out.element_count() != 0) {
    const int64_t samples = Product(std::span(x.shape).first(rank - 3));
    const BlockStrides in = StridesOf(order, block, channels, height * width);
    CopyStrided(op, WidthOf(x.dtype), Bytes(x), out.storage->data(),
                {{samples, all * height * width, all * height * width},
                 {channels, in.channel, *high * *wide},
                 {height, width, block * *wide},
                 {block, in.row, *wide},
                 {width, 1, block},
                 {block, in.column, 1}});
  }
  op.Set(std::move(out));
  return Ok();
}

Status BlocksToChannels(OpContext& op, std::string_view parameter, BlockOrder order) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const int64_t block, BlockSize(op, parameter, x));
  const size_t rank = x.shape.size();
  const int64_t channels = x.shape[rank - 3];
  const int64_t high = x.shape[rank - 2], wide = x.shape[rank - 1];
  if (high % block != 0 || wide % block != 0)
    return op.Bad(fmt::format("x: {} by {} pixels cannot be divided into blocks of {} by {}", high,
                              wide, block, block));
  const std::optional<int64_t> all = CheckedMul(channels, block * block);
  if (!all) return op.Bad(fmt::format("{}: {} is too much", parameter, block));
  const int64_t height = high / block, width = wide / block;
  Shape shape = x.shape;
  shape[rank - 3] = *all;
  shape[rank - 2] = height;
  shape[rank - 1] = width;
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, shape));
  if (out.element_count() != 0) {
    const int64_t samples = Product(std::span(x.shape).first(rank - 3));
    const BlockStrides to = StridesOf(order, block, channels, height * width);
    CopyStrided(op, WidthOf(x.dtype), Bytes(x), out.storage->data(),
                {{samples, channels * high * wide, channels * high * wide},
                 {channels, high * wide, to.channel},
                 {height, block * wide, width},
                 {block, wide, to.row},
                 {width, block, 1},
                 {block, 1, to.column}});
  }
  op.Set(std::move(out));
  return Ok();
}

Status DepthToSpace(OpContext& op) {
  return ChannelsToBlocks(op, "block_size", BlockOrder::kPlaceOuter);
}
Status PixelShuffle(OpContext& op) {
  return ChannelsToBlocks(op, "upscale_factor", BlockOrder::kPlaceInner);
}
Status SpaceToDepth(OpContext& op) {
  return BlocksToChannels(op, "block_size", BlockOrder::kPlaceOuter);
}
Status PixelUnshuffle(OpContext& op) {
  return BlocksToChannels(op, "downscale_factor", BlockOrder::kPlaceInner);
}

struct BatchBlocks {
  int64_t high = 1, wide = 1;
  std::vector<int64_t> edges;  // two for the rows, two for the columns
};

Result<BatchBlocks> BatchBlocksOf(OpContext& op, const Value& x, std::string_view edges) {
  if (x.shape.size() != 4)
    return op.Bad(fmt::format("x: expected a rank of 4, got {}", x.shape.size()));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> block, op.Ints("block_shape"));
  if (block.size() != 2 || block[0] < 1 || block[1] < 1)
    return op.Bad(
        fmt::format("block_shape: expected two numbers of at least 1, got {}", ToString(block)));
  BatchBlocks out{block[0], block[1], {}};
  CMLC_ASSIGN_OR_RETURN(out.edges, op.Ints(edges));
  if (out.edges.size() != 4 ||
      std::any_of(out.edges.begin(), out.edges.end(), [](int64_t edge) { return edge < 0; }))
    return op.Bad(fmt::format("{}: expected two pairs of numbers of at least 0, got {}", edges,
                              ToString(out.edges)));
  return out;
}

// The place in a block is the outer part of the number of a sample.
Status SpaceToBatch(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const BatchBlocks block, BatchBlocksOf(op, x, "paddings"));
  const std::optional<int64_t> high = CheckedAdd(x.shape[2], block.edges[0] + block.edges[1]);
  const std::optional<int64_t> wide = CheckedAdd(x.shape[3], block.edges[2] + block.edges[3]);
  const std::optional<int64_t> samples = CheckedMul(x.shape[0], block.high * block.wide);
  if (!high || !wide || !samples) return op.Bad("paddings: are too much");
  if (*high % block.high != 0 || *wide % block.wide != 0)
    return op.Bad(
        fmt::format("block_shape: {} by {} pixels cannot be divided into blocks of {} by {}", *high,
                    *wide, block.high, block.wide));
  const int64_t height = *high / block.high, width = *wide / block.wide;
  Value padded = x;
  if (*high != x.shape[2] || *wide != x.shape[3]) {
    CMLC_ASSIGN_OR_RETURN(padded, op.Make(x.dtype, {x.shape[0], x.shape[1], *high, *wide}));
    if (x.element_count() == 0) {
      Fill(op, WidthOf(x.dtype), padded.storage->data(), padded.element_count(), 0);
    } else {
      const std::vector<std::vector<int64_t>> maps = {
          PaddedAxis(x.shape[0] * x.shape[1], 0, 0, "", x.shape[2] * x.shape[3]),
          PaddedAxis(x.shape[2], block.edges[0], block.edges[1], "", x.shape[3]),
          PaddedAxis(x.shape[3], block.edges[2], block.edges[3], "", 1)};
      CopyMapped(op, WidthOf(x.dtype), Bytes(x), padded.storage->data(), maps, 0);
    }
  }
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, {*samples, x.shape[1], height, width}));
  if (out.element_count() != 0) {
    const int64_t small = x.shape[1] * height * width;  // elements of a sample of the output
    CopyStrided(op, WidthOf(x.dtype), Bytes(padded), out.storage->data(),
                {{block.high, *wide, block.wide * x.shape[0] * small},
                 {block.wide, 1, x.shape[0] * small},
                 {x.shape[0], x.shape[1] * *high * *wide, small},
                 {x.shape[1], *high * *wide, height * width},
                 {height, block.high * *wide, width},
                 {width, block.wide, 1}});
  }
  op.Set(std::move(out));
  return Ok();
}

Status BatchToSpace(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const BatchBlocks block, BatchBlocksOf(op, x, "crops"));
  const int64_t places = block.high * block.wide;
  if (x.shape[0] % places != 0)
    return op.Bad(fmt::format("x: {} samples are no multiple of the {} places in a block",
                              x.shape[0], places));
  const int64_t samples = x.shape[0] / places;
  const int64_t height = x.shape[2], width = x.shape[3];
  const std::optional<int64_t> high = CheckedMul(height, block.high);
  const std::optional<int64_t> wide = CheckedMul(width, block.wide);
  if (!high || !wide) return op.Bad("block_shape: is too much");
  Shape shape = {samples, x.shape[1], *high, *wide};
  std::vector<int64_t> begin(4, 0);
  CMLC_RETURN_IF_ERROR(CutAxis(op, "crops", block.edges, 0, begin[2], shape[2]));
  CMLC_RETURN_IF_ERROR(CutAxis(op, "crops", block.edges, 2, begin[3], shape[3]));
  CMLC_ASSIGN_OR_RETURN(Value whole, op.Make(x.dtype, {samples, x.shape[1], *high, *wide}));
  if (whole.element_count() != 0) {
    const int64_t small = x.shape[1] * height * width;
    CopyStrided(op, WidthOf(x.dtype), Bytes(x), whole.storage->data(),
                {{samples, small, x.shape[1] * *high * *wide},
                 {x.shape[1], height * width, *high * *wide},
                 {height, width, block.high * *wide},
                 {block.high, block.wide * samples * small, *wide},
                 {width, 1, block.wide},
                 {block.wide, samples * small, 1}});
  }
  if (shape != whole.shape) {
    CMLC_ASSIGN_OR_RETURN(whole, Part(op, whole, begin, shape));
  }
  op.Set(std::move(whole));
  return Ok();
}

// --- Several tensors -----------------------------------------------------------------------------

// The tensors of `values`: at least one, all of one type and rank.
Result<std::vector<Value>> ValuesOf(OpContext& op) {
  const size_t count = op.Count("values");
  if (count == 0) return op.Bad("values: expected at least one tensor");
  std::vector<Value> values;
  for (size_t i = 0; i < count; ++i) {
    CMLC_ASSIGN_OR_RETURN(Value value, op.ResidentInput("values", i));
    if (i != 0 && (value.dtype != values[0].dtype || value.shape.size() != values[0].shape.size()))
      return op.Bad(
          fmt::format("values: number {} is {}, the first is {}, and they must be of the "
                      "same type and rank",
                      i, ToString(value), ToString(values[0])));
    values.push_back(std::move(value));
  }
  return values;
}

Error ShapesDiffer(const OpContext& op, size_t i, const Value& value, const Value& first,
                   std::string_view where) {
  return op.Bad(
      fmt::format("values: number {} has shape {}, the first has {}, and they must be "
                  "equal{}",
                  i, ToString(value.shape), ToString(first.shape), where));
}

Status Concat(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const bool interleave, op.Bool("interleave", false));
  CMLC_ASSIGN_OR_RETURN(std::vector<Value> values, ValuesOf(op));
  // Scalars make a vector.
  for (Value& value : values)
    if (value.shape.empty()) value.shape = {1};
  const size_t rank = values[0].shape.size();
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", rank));
  Shape shape = values[0].shape;
  int64_t total = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    for (size_t d = 0; d < rank; ++d)
      if ((d != axis || interleave) && values[i].shape[d] != shape[d])
        return ShapesDiffer(
            op, i, values[i], values[0],
            interleave ? std::string(" to be interleaved") : fmt::format(" but for axis {}", axis));
    const std::optional<int64_t> sum = CheckedAdd(total, values[i].shape[axis]);
    if (!sum) return op.Bad("values: are too large together");
    total = *sum;
  }
  shape[axis] = total;
  if (values.size() == 1) {
    Value only = std::move(values[0]);
    values.clear();
    op.Set(std::move(only));
    return Ok();
  }
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(values[0].dtype, shape));
  if (out.element_count() != 0) {
    const size_t width = WidthOf(out.dtype);
    const int64_t before = Product(std::span(shape).first(axis));
    const int64_t after = Product(std::span(shape).subspan(axis + 1));
    const auto count = static_cast<int64_t>(values.size());
    int64_t done = 0;
    for (const Value& value : values) {
      const int64_t size = value.shape[axis];
      const int64_t step = interleave ? count * after : after;
      if (size != 0)
        CopyStrided(op, width, Bytes(value),
                    out.storage->data() + done * static_cast<int64_t>(width),
                    {{before, size * after, total * after}, {size, after, step}, {after, 1, 1}});
      done += interleave ? after : size * after;
    }
  }
  op.Set(std::move(out));
  return Ok();
}

Status Stack(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::vector<Value> values, ValuesOf(op));
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", values[0].shape.size() + 1));
  for (size_t i = 1; i < values.size(); ++i)
    if (values[i].shape != values[0].shape) return ShapesDiffer(op, i, values[i], values[0], "");
  Shape shape = values[0].shape;
  const auto count = static_cast<int64_t>(values.size());
  shape.insert(shape.begin() + static_cast<std::ptrdiff_t>(axis), count);
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(values[0].dtype, shape));
  if (out.element_count() != 0) {
    const size_t width = WidthOf(out.dtype);
    const int64_t before = Product(std::span(values[0].shape).first(axis));
    const int64_t after = Product(std::span(values[0].shape).subspan(axis));
    std::byte* to = out.storage->data();
    for (const Value& value : values) {
      CopyStrided(op, width, Bytes(value), to, {{before, after, count * after}, {after, 1, 1}});
      to += after * static_cast<int64_t>(width);
    }
  }
  op.Set(std::move(out));
  return Ok();
}

Status Split(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* given, op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", given->shape.size()));
  const int64_t length = given->shape[axis];
  const size_t outputs = op.output_count();
  std::vector<int64_t> sizes;
  if (op.Has("split_sizes")) {
    CMLC_ASSIGN_OR_RETURN(sizes, op.Ints("split_sizes"));
    int64_t total = 0;
    for (const int64_t size : sizes) {
      if (size < 0) return op.Bad(fmt::format("split_sizes: has {}, a negative size", size));
      total += size;
    }
    if (total != length)
      return op.Bad(fmt::format("split_sizes: {} are {} together, axis {} of x has {}",
                                ToString(sizes), total, axis, length));
  } else if (!op.Has("num_splits")) {
    return op.Bad("split_sizes: one of split_sizes and num_splits must be given");
  }
  if (op.Has("num_splits")) {
    CMLC_ASSIGN_OR_RETURN(const int64_t count, op.Int("num_splits"));
    if (count < 1 || static_cast<uint64_t>(count) != outputs ||
        (op.Has("split_sizes") && sizes.size() != static_cast<size_t>(count)))
      return op.Bad(fmt::format("num_splits: is {}, with {} outputs{}", count, outputs,
                                op.Has("split_sizes")
                                    ? fmt::format(" and {} split_sizes", sizes.size())
                                    : std::string()));
    if (!op.Has("split_sizes")) {
      if (length % count != 0)
        return op.Bad(fmt::format("num_splits: {} does not divide the {} of axis {} of x", count,
                                  length, axis));
      sizes.assign(static_cast<size_t>(count), length / count);
    }
  }
  if (sizes.size() != outputs)
    return op.Bad(fmt::format("split_sizes: has {} sizes, with {} outputs", sizes.size(), outputs));
  if (outputs == 1) {
    op.Set(op.Take("x"));
    return Ok();
  }
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  const size_t width = WidthOf(x.dtype);
  const int64_t before = Product(std::span(x.shape).first(axis));
  const int64_t after = Product(std::span(x.shape).subspan(axis + 1));
  int64_t done = 0;
  for (size_t i = 0; i < outputs; ++i) {
    Shape shape = x.shape;
    shape[axis] = sizes[i];
    CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, shape));
    if (out.element_count() != 0)
      CopyStrided(op, width, Bytes(x) + done * after * static_cast<int64_t>(width),
                  out.storage->data(),
                  {{before, length * after, sizes[i] * after}, {sizes[i] * after, 1, 1}});
    done += sizes[i];
    op.Set(i, std::move(out));
  }
  return Ok();
}

constexpr OpKernel kOps[] = {
    {"transpose", Transpose},
    {"concat", Concat},
    {"split", Split},
    {"stack", Stack},
    {"pad", Pad},
    {"tile", Tile},
    {"reverse", Reverse},
    {"reverse_sequence", ReverseSequence},
    {"crop", Crop},
    {"pixel_shuffle", PixelShuffle},
    {"pixel_unshuffle", PixelUnshuffle},
    {"depth_to_space", DepthToSpace},
    {"space_to_depth", SpaceToDepth},
    {"space_to_batch", SpaceToBatch},
    {"batch_to_space", BatchToSpace},
    {"sliding_windows", SlidingWindows},
};

}  // namespace

std::span<const OpKernel> MovementOps() { return kOps; }

}  // namespace cmlc::exec
