// Ops that read or write some elements of a tensor: slices, gather and scatter, sorting.
//
// Every form of gather is a list of places in x and a number of elements that is copied from each;
// every form of scatter is the reverse, and takes its updates in their order. The forms differ in
// how the list is made.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "exec/ops/layout.h"
#include "exec/ops/tables.h"
#include "numeric/convert.h"
#include "numeric/half.h"

namespace cmlc::exec {
namespace {

constexpr int kIos17 = 7;

// --- Slices --------------------------------------------------------------------------------------

struct Slice {
  int64_t first = 0;            // element of x that it starts with
  std::vector<int64_t> counts;  // for every axis of x
  std::vector<int64_t> steps;   // elements of x from one to the next
  Shape shape;                  // without axes that are squeezed
};

Result<std::vector<int64_t>> OneForEachAxis(OpContext& op, std::string_view parameter, size_t rank,
                                            int64_t missing) {
  CMLC_ASSIGN_OR_RETURN(std::vector<int64_t> values,
                        op.Ints(parameter, std::vector<int64_t>(rank, missing)));
  if (values.size() != rank)
    return op.Bad(fmt::format("{}: has {} numbers, x has {} axes", parameter, values.size(), rank));
  return values;
}

// A slice as Python has it: negative positions count from the end, both ends are cut to what is
// there, and a masked end is the first or last in the direction of the stride.
Result<Slice> SliceOf(OpContext& op, const Shape& shape) {
  const size_t rank = shape.size();
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> begins, OneForEachAxis(op, "begin", rank, 0));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> ends, OneForEachAxis(op, "end", rank, 0));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> strides, OneForEachAxis(op, "stride", rank, 1));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> no_begin,
                        OneForEachAxis(op, "begin_mask", rank, 0));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> no_end, OneForEachAxis(op, "end_mask", rank, 0));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> squeezed,
                        OneForEachAxis(op, "squeeze_mask", rank, 0));
  Slice slice;
  const std::vector<int64_t> steps = RowStrides(shape);
  bool empty = false;
  std::vector<int64_t> starts;
  for (size_t d = 0; d < rank; ++d) {
    const int64_t size = shape[d];
    int64_t begin = begins[d] < 0 ? begins[d] + size : begins[d];
    if (squeezed[d] != 0) {
      if (no_begin[d] != 0) begin = 0;
      if (op.lenient_indices() && size != 0 && (begin < 0 || begin >= size)) {
        begin = std::clamp<int64_t>(begin, 0, size - 1);
        op.CountNote("indices out of range were cut", 1);
      }
      if (begin < 0 || begin >= size)
        return op.Bad(fmt::format("begin: {} is no element of axis {} of x, which has {}",
                                  begins[d], d, size));
      starts.push_back(begin);
      slice.counts.push_back(1);
      slice.steps.push_back(steps[d]);
      continue;
    }
    const int64_t stride = strides[d];
    if (stride == 0) return op.Bad(fmt::format("stride: is 0 for axis {}", d));
    // Between these a slice of this direction may begin and end.
    const int64_t low = stride > 0 ? 0 : -1;
    const int64_t high = stride > 0 ? size : size - 1;
    begin = no_begin[d] != 0 ? (stride > 0 ? low : high) : std::clamp(begin, low, high);
    const int64_t asked = ends[d] < 0 ? ends[d] + size : ends[d];
    const int64_t end = no_end[d] != 0 ? (stride > 0 ? high : low) : std::clamp(asked, low, high);
    const int64_t span = stride > 0 ? end - begin : begin - end;
    const int64_t pace = std::abs(stride);
    const int64_t count = span <= 0 ? 0 : (span - 1) / pace + 1;
    empty |= count == 0;
    starts.push_back(begin);
    slice.counts.push_back(count);
    // Not used where there is no second one, or none at all: then it may be beyond 63 bits.
    slice.steps.push_back(
        static_cast<int64_t>(static_cast<uint64_t>(steps[d]) * static_cast<uint64_t>(stride)));
    slice.shape.push_back(count);
  }
  if (!empty)
    for (size_t d = 0; d < rank; ++d) slice.first += starts[d] * steps[d];
  return slice;
}

Result<Value> Sliced(OpContext& op, const Value& x, const Slice& slice) {
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, slice.shape));
  if (out.element_count() == 0) return out;
  const std::vector<int64_t> to = RowStrides(slice.counts);
  std::vector<CopyLoop> loops;
  for (size_t d = 0; d < slice.counts.size(); ++d)
    loops.push_back({slice.counts[d], slice.steps[d], to[d]});
  const size_t width = WidthOf(x.dtype);
  CopyStrided(op, width, Bytes(x) + slice.first * static_cast<int64_t>(width), out.storage->data(),
              std::move(loops));
  return out;
}

Status SliceByIndex(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* given, op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(const Slice slice, SliceOf(op, given->shape));
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(Value out, Sliced(op, x, slice));
  op.Set(std::move(out));
  return Ok();
}

Status SliceBySize(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  const size_t rank = x.shape.size();
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> begins, OneForEachAxis(op, "begin", rank, 0));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, OneForEachAxis(op, "size", rank, -1));
  Slice slice;
  slice.steps = RowStrides(x.shape);
  std::vector<int64_t> starts;
  for (size_t d = 0; d < rank; ++d) {
    const int64_t begin = begins[d] < 0 ? begins[d] + x.shape[d] : begins[d];
    if (begin < 0 || begin > x.shape[d])
      return op.Bad(fmt::format("begin: {} is not within axis {} of x, which has {}", begins[d], d,
                                x.shape[d]));
    const int64_t size = sizes[d] == -1 ? x.shape[d] - begin : sizes[d];
    if (size < 0 || size > x.shape[d] - begin)
      return op.Bad(
          fmt::format("size: {} elements from {} on are not within axis {} of x, which "
                      "has {}",
                      sizes[d], begin, d, x.shape[d]));
    starts.push_back(begin);
    slice.counts.push_back(size);
  }
  slice.shape = slice.counts;
  if (*ElementCount(slice.shape) != 0)
    for (size_t d = 0; d < rank; ++d) slice.first += starts[d] * slice.steps[d];
  CMLC_ASSIGN_OR_RETURN(Value out, Sliced(op, x, slice));
  op.Set(std::move(out));
  return Ok();
}

// What an op changes a part of: the argument itself if nothing else has it, else a copy.
Result<Value> Changeable(OpContext& op, std::string_view parameter) {
  CMLC_ASSIGN_OR_RETURN(const Value* checked, op.Tensor(parameter));
  if (checked->storage == nullptr) return op.ResidentInput(parameter);
  Value x = op.Take(parameter);
  if (x.storage.use_count() == 1 && x.storage->writable()) return x;
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, x.shape));
  CopyStrided(op, WidthOf(x.dtype), Bytes(x), out.storage->data(),
              {{static_cast<int64_t>(x.element_count()), 1, 1}});
  return out;
}

Status SliceUpdate(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* given, op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(const Value update, op.ResidentInput("update"));
  CMLC_ASSIGN_OR_RETURN(const Slice slice, SliceOf(op, given->shape));
  if (update.dtype != given->dtype)
    return op.Bad(fmt::format("update: is {}, expected the type of x, {}", NameOf(update.dtype),
                              NameOf(given->dtype)));
  const std::optional<uint64_t> count = ElementCount(slice.shape);
  if (!count || *count != update.element_count())
    return op.Bad(fmt::format("update: has shape {}, the slice has {}", ToString(update.shape),
                              ToString(slice.shape)));
  CMLC_ASSIGN_OR_RETURN(Value x, Changeable(op, "x"));
  if (*count != 0) {
    const std::vector<int64_t> from = RowStrides(slice.counts);
    std::vector<CopyLoop> loops;
    for (size_t d = 0; d < slice.counts.size(); ++d)
      loops.push_back({slice.counts[d], from[d], slice.steps[d]});
    const size_t width = WidthOf(x.dtype);
    CopyStrided(op, width, Bytes(update),
                x.storage->data() + slice.first * static_cast<int64_t>(width), std::move(loops));
  }
  op.Set(std::move(x));
  return Ok();
}

// --- Indices -------------------------------------------------------------------------------------

// The indices of `parameter`, each within [0, bound of its place), where places go round `bounds`.
// Up to iOS 16 negative ones count from the end. Others are an error, unless indices are handled
// leniently: then negative ones count from the end and what is still outside is cut.
Result<std::vector<int64_t>> IndicesOf(OpContext& op, std::string_view parameter,
                                       std::span<const int64_t> bounds) {
  CMLC_ASSIGN_OR_RETURN(std::vector<int64_t> indices, op.Ints(parameter));
  const bool from_the_end = op.opset() < kIos17;
  uint64_t changed = 0;
  size_t place = 0;
  for (size_t i = 0; i < indices.size(); ++i) {
    const int64_t bound = bounds[place];
    if (++place == bounds.size()) place = 0;
    int64_t& index = indices[i];
    if (index >= 0 && index < bound) continue;
    if (from_the_end && index < 0 && index >= -bound) {
      index += bound;
      continue;
    }
    if (!op.lenient_indices() || bound == 0)
      return op.Bad(fmt::format("{}: {} at position {} is not between {} and {}", parameter, index,
                                i, from_the_end ? -bound : 0, bound - 1));
    if (index < 0) index += bound;
    index = std::clamp<int64_t>(index, 0, bound - 1);
    ++changed;
  }
  op.CountNote("indices out of range were cut", changed);
  return indices;
}

// out = for each of `places` in turn, `run` elements of x from there on.
void GatherRuns(OpContext& op, size_t width, const std::byte* x, const std::vector<int64_t>& places,
                int64_t run, std::byte* out) {
  if (run == 0) return;
  const auto grain = static_cast<uint64_t>(std::max<int64_t>(1, 32 * 1024 / run));
  WithWidth(width, [&](auto element) {
    using T = decltype(element);
    const T* from = reinterpret_cast<const T*>(x);
    T* to = reinterpret_cast<T*>(out);
    op.ForRanges(places.size(), grain, [&](uint64_t begin, uint64_t end) {
      if (run == 1) {
        for (uint64_t i = begin; i < end; ++i) to[i] = from[places[i]];
        return;
      }
      for (uint64_t i = begin; i < end; ++i)
        std::memcpy(to + static_cast<int64_t>(i) * run, from + places[i],
                    static_cast<size_t>(run) * sizeof(T));
    });
  });
}

// Rows of a compressed weight: only those that are asked for are decoded.
Status GatherRows(OpContext& op, const Value& x, const std::vector<int64_t>& places, int64_t run,
                  Value& out) {
  const auto length = static_cast<size_t>(run);
  std::vector<Status> failures(places.size());
  const auto grain = static_cast<uint64_t>(std::max<int64_t>(1, 8192 / run));
  op.ForRanges(places.size(), grain, [&](uint64_t begin, uint64_t end) {
    std::vector<float> row(out.dtype == DataType::kFloat32 ? 0 : length);
    for (uint64_t i = begin; i < end; ++i) {
      const bool direct = row.empty();
      const std::span<float> to =
          direct ? std::span(OpContext::Data<float>(out) + i * length, length) : std::span(row);
      failures[i] = ReadFloats(x, static_cast<uint64_t>(places[i]), to);
      if (!failures[i].ok()) return;
      if (!direct)
        numeric::FloatsToHalves(row.data(), length, OpContext::Data<uint16_t>(out) + i * length);
    }
  });
  for (const Status& status : failures) CMLC_RETURN_IF_ERROR(status);
  return Ok();
}

Status CheckBatch(OpContext& op, const Shape& x, const Shape& indices, int64_t batch_dims,
                  size_t most) {
  if (batch_dims < 0 || static_cast<uint64_t>(batch_dims) > most)
    return op.Bad(fmt::format("batch_dims: {} is not between 0 and {}", batch_dims, most));
  for (size_t d = 0; d < static_cast<size_t>(batch_dims); ++d)
    if (x[d] != indices[d])
      return op.Bad(
          fmt::format("indices: has shape {}, and x {}, and the first {} sizes must be "
                      "equal",
                      ToString(indices), ToString(x), batch_dims));
  return Ok();
}

Status Gather(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* given, op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(const Value* chosen, op.Tensor("indices"));
  const size_t rank = given->shape.size();
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", rank, 0));
  CMLC_ASSIGN_OR_RETURN(const int64_t batch_dims, op.Int("batch_dims", 0));
  const Shape chosen_shape = chosen->shape;
  CMLC_RETURN_IF_ERROR(
      CheckBatch(op, given->shape, chosen_shape, batch_dims, std::min(axis, chosen_shape.size())));
  const auto batch_rank = static_cast<size_t>(batch_dims);
  const int64_t size = given->shape[axis];
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> indices, IndicesOf(op, "indices", {&size, 1}));
  const std::span<const int64_t> sizes = given->shape;
  const std::span<const int64_t> own = std::span(chosen_shape).subspan(batch_rank);
  Shape shape(sizes.begin(), sizes.begin() + static_cast<std::ptrdiff_t>(axis));
  shape.insert(shape.end(), own.begin(), own.end());
  shape.insert(shape.end(), sizes.begin() + static_cast<std::ptrdiff_t>(axis) + 1, sizes.end());
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(given->dtype, shape));
  if (out.element_count() == 0) {
    op.Set(std::move(out));
    return Ok();
  }
  const int64_t batch = Product(sizes.first(batch_rank));
  const int64_t before = Product(sizes.subspan(batch_rank, axis - batch_rank));
  const int64_t run = Product(sizes.subspan(axis + 1));
  const int64_t count = Product(own);
  std::vector<int64_t> places(static_cast<size_t>(batch * before * count));
  size_t next = 0;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t p = 0; p < before; ++p)
      for (int64_t i = 0; i < count; ++i)
        places[next++] =
            ((b * before + p) * size + indices[static_cast<size_t>(b * count + i)]) * run;
  // Long rows of a compressed table are decoded one by one; if all of it is read anyway, or in
  // small pieces, it is decoded first.
  if (given->storage == nullptr && run >= 32 && out.element_count() < given->element_count()) {
    CMLC_RETURN_IF_ERROR(GatherRows(op, *given, places, run, out));
  } else {
    CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
    GatherRuns(op, WidthOf(x.dtype), Bytes(x), places, run, out.storage->data());
  }
  op.Set(std::move(out));
  return Ok();
}

// For indices of one number for each element: places of [before, index, after].
Result<std::vector<int64_t>> PlacesAlongAxis(OpContext& op, const Shape& x, const Shape& indices,
                                             size_t axis) {
  if (indices.size() != x.size())
    return op.Bad(fmt::format("indices: has shape {}, expected the rank of {}", ToString(indices),
                              ToString(x)));
  for (size_t d = 0; d < x.size(); ++d)
    if (d != axis && indices[d] != x[d])
      return op.Bad(fmt::format("indices: has shape {}, expected the sizes of {} but for axis {}",
                                ToString(indices), ToString(x), axis));
  CMLC_ASSIGN_OR_RETURN(std::vector<int64_t> places, IndicesOf(op, "indices", {&x[axis], 1}));
  if (places.empty()) return places;
  const int64_t before = Product(std::span(x).first(axis));
  const int64_t after = Product(std::span(x).subspan(axis + 1));
  size_t next = 0;
  for (int64_t b = 0; b < before; ++b)
    for (int64_t i = 0; i < indices[axis]; ++i)
      for (int64_t a = 0; a < after; ++a, ++next)
        places[next] = (b * x[axis] + places[next]) * after + a;
  return places;
}

Status GatherAlongAxis(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const Value* indices, op.Tensor("indices"));
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", x.shape.size(), 0));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> places,
                        PlacesAlongAxis(op, x.shape, indices->shape, axis));
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, Shape(indices->shape)));
  GatherRuns(op, WidthOf(x.dtype), Bytes(x), places, 1, out.storage->data());
  op.Set(std::move(out));
  return Ok();
}

// Indices whose last axis is a place in the axes of x from `batch_rank` on.
struct PointIndices {
  size_t depth = 0;  // axes that a point takes
  std::vector<int64_t> places;
  int64_t run = 1;
};

Result<PointIndices> PointsOf(OpContext& op, const Shape& x, const Shape& indices,
                              size_t batch_rank) {
  PointIndices points;
  if (indices.empty() || batch_rank >= indices.size() || batch_rank > x.size())
    return op.Bad(
        fmt::format("indices: has shape {}, expected one more axis than the {} of "
                    "batches",
                    ToString(indices), batch_rank));
  if (static_cast<uint64_t>(indices.back()) > x.size() - batch_rank)
    return op.Bad(fmt::format("indices: has {} numbers for each place, {} has {} axes",
                              indices.back(), ToString(x), x.size() - batch_rank));
  points.depth = static_cast<size_t>(indices.back());
  const std::span<const int64_t> sizes = x;
  const std::span<const int64_t> bounds = sizes.subspan(batch_rank, points.depth);
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> numbers, IndicesOf(op, "indices", bounds));
  points.run = Product(sizes.subspan(batch_rank + points.depth));
  const std::optional<uint64_t> count = ElementCount(std::span(indices).first(indices.size() - 1));
  // Only places without numbers can be more than memory holds.
  if (!count || (points.depth == 0 && *count > uint64_t{1} << 20))
    return op.Bad(fmt::format("indices: {} are too many places", ToString(indices)));
  if (*count == 0) return points;
  // Places within one sample of the batch, which follow each other.
  const auto batch = static_cast<uint64_t>(Product(sizes.first(batch_rank)));
  const int64_t stride = Product(sizes.subspan(batch_rank));
  const uint64_t own = *count / batch;
  points.places.resize(static_cast<size_t>(*count));
  for (uint64_t i = 0; i < *count; ++i) {
    int64_t place = 0;
    for (size_t d = 0; d < points.depth; ++d)
      place = place * bounds[d] + numbers[static_cast<size_t>(i) * points.depth + d];
    points.places[static_cast<size_t>(i)] =
        static_cast<int64_t>(i / own) * stride + place * points.run;
  }
  return points;
}

Status GatherNd(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const Value* indices, op.Tensor("indices"));
  CMLC_ASSIGN_OR_RETURN(const int64_t batch_dims, op.Int("batch_dims", 0));
  if (indices->shape.empty()) return op.Bad("indices: expected a rank of at least 1, got 0");
  CMLC_RETURN_IF_ERROR(CheckBatch(op, x.shape, indices->shape, batch_dims,
                                  std::min(x.shape.size(), indices->shape.size() - 1)));
  const auto batch_rank = static_cast<size_t>(batch_dims);
  CMLC_ASSIGN_OR_RETURN(const PointIndices points,
                        PointsOf(op, x.shape, indices->shape, batch_rank));
  Shape shape(indices->shape.begin(), indices->shape.end() - 1);
  shape.insert(shape.end(),
               x.shape.begin() + static_cast<std::ptrdiff_t>(batch_rank + points.depth),
               x.shape.end());
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, shape));
  if (out.element_count() != 0)
    GatherRuns(op, WidthOf(x.dtype), Bytes(x), points.places, points.run, out.storage->data());
  op.Set(std::move(out));
  return Ok();
}

// --- Scatter -------------------------------------------------------------------------------------

enum class ScatterMode { kUpdate, kAdd, kSub, kMul, kDiv, kMax, kMin };

Result<ScatterMode> ModeOf(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::string mode, op.String("mode", "add"));
  constexpr std::pair<std::string_view, ScatterMode> kModes[] = {
      {"update", ScatterMode::kUpdate}, {"add", ScatterMode::kAdd}, {"sub", ScatterMode::kSub},
      {"mul", ScatterMode::kMul},       {"div", ScatterMode::kDiv}, {"max", ScatterMode::kMax},
      {"min", ScatterMode::kMin}};
  for (const auto& [name, value] : kModes)
    if (name == mode) return value;
  return op.Bad(fmt::format("mode: '{}' is none of update, add, sub, mul, div, max, min", mode));
}

// Runs that are longer than this are cut, so that several threads share them.
constexpr int64_t kScatterColumns = 4096;

// For each place in turn: `combine(element, update)` for `run` elements. Updates of one element
// come in their order, whatever the number of threads: they share columns, not places.
template <typename T, typename Combine>
void ScatterRuns(OpContext& op, T* data, const T* updates, const std::vector<int64_t>& places,
                 int64_t run, const Combine& combine) {
  op.ForRanges(static_cast<uint64_t>(run), kScatterColumns, [&](uint64_t begin, uint64_t end) {
    for (size_t i = 0; i < places.size(); ++i) {
      T* to = data + places[i];
      const T* from = updates + static_cast<int64_t>(i) * run;
      for (uint64_t c = begin; c < end; ++c) to[c] = combine(to[c], from[c]);
    }
  });
}

template <typename T>
void ScatterFloats(OpContext& op, ScatterMode mode, T* data, const T* updates,
                   const std::vector<int64_t>& places, int64_t run) {
  const auto apply = [&](auto combine) { ScatterRuns(op, data, updates, places, run, combine); };
  switch (mode) {
    case ScatterMode::kUpdate:
      return apply([](T, T b) { return b; });
    case ScatterMode::kAdd:
      return apply([](T a, T b) { return a + b; });
    case ScatterMode::kSub:
      return apply([](T a, T b) { return a - b; });
    case ScatterMode::kMul:
      return apply([](T a, T b) { return a * b; });
    case ScatterMode::kDiv:
      return apply([](T a, T b) { return a / b; });
    case ScatterMode::kMax:  // what is no number stays so
      return apply([](T a, T b) { return a > b || a != a ? a : b; });
    case ScatterMode::kMin:
      return apply([](T a, T b) { return a < b || a != a ? a : b; });
  }
}

// Integers wrap around; a quotient is cut towards zero.
template <typename T>
void ScatterInts(OpContext& op, ScatterMode mode, T* data, const T* updates,
                 const std::vector<int64_t>& places, int64_t run) {
  const auto apply = [&](auto combine) {
    ScatterRuns(op, data, updates, places, run, [&](T a, T b) {
      return static_cast<T>(combine(static_cast<int64_t>(a), static_cast<int64_t>(b)));
    });
  };
  switch (mode) {
    case ScatterMode::kUpdate:
      return apply([](int64_t, int64_t b) { return b; });
    case ScatterMode::kAdd:
      return apply([](int64_t a, int64_t b) { return a + b; });
    case ScatterMode::kSub:
      return apply([](int64_t a, int64_t b) { return a - b; });
    case ScatterMode::kMul:  // of uint32 it may be beyond int64
      return apply([](int64_t a, int64_t b) {
        return static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
      });
    case ScatterMode::kDiv:
      return apply([](int64_t a, int64_t b) { return a / b; });
    case ScatterMode::kMax:
      return apply([](int64_t a, int64_t b) { return std::max(a, b); });
    case ScatterMode::kMin:
      return apply([](int64_t a, int64_t b) { return std::min(a, b); });
  }
}

Status SetScattered(OpContext& op, ScatterMode mode, const Value& updates,
                    const std::vector<int64_t>& places, int64_t run) {
  CMLC_ASSIGN_OR_RETURN(const Value* given, op.Tensor("data"));
  const DataType dtype = given->dtype;
  if (mode != ScatterMode::kUpdate && dtype == DataType::kBool)
    return op.Bad("mode: bool data can only be updated");
  if (dtype == DataType::kFloat16 && mode != ScatterMode::kUpdate) {
    // Summed up as fp32, rounded once.
    CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(dtype, Shape(given->shape)));
    CMLC_RETURN_IF_ERROR(ReadFloats(*given, 0, out.values));
    CMLC_ASSIGN_OR_RETURN(const FloatView numbers, op.Floats(updates));
    ScatterFloats(op, mode, out.values.data(), numbers.data(), places, run);
    op.Finish(std::move(out));
    return Ok();
  }
  if (mode == ScatterMode::kDiv && !IsFloat(dtype)) {
    CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> numbers, ReadInts(updates));
    if (std::find(numbers.begin(), numbers.end(), 0) != numbers.end())
      return op.Bad("updates: integers are divided by 0");
  }
  CMLC_ASSIGN_OR_RETURN(Value out, Changeable(op, "data"));
  std::byte* to = out.storage->data();
  const std::byte* from = Bytes(updates);
  const auto as = [&](auto element) {
    using T = decltype(element);
    if constexpr (std::is_same_v<T, float>)
      ScatterFloats(op, mode, reinterpret_cast<T*>(to), reinterpret_cast<const T*>(from), places,
                    run);
    else
      ScatterInts(op, mode, reinterpret_cast<T*>(to), reinterpret_cast<const T*>(from), places,
                  run);
  };
  switch (dtype) {
    case DataType::kFloat32:
      as(float{});
      break;
    case DataType::kInt32:
      as(int32_t{});
      break;
    case DataType::kUInt32:
      as(uint32_t{});
      break;
    case DataType::kInt16:
      as(int16_t{});
      break;
    case DataType::kInt8:
      as(int8_t{});
      break;
    case DataType::kUInt16:
    case DataType::kFloat16:  // update only
      as(uint16_t{});
      break;
    default:
      as(uint8_t{});
  }
  op.Set(std::move(out));
  return Ok();
}

Result<Value> UpdatesOf(OpContext& op, const Value& data, const Shape& expected) {
  CMLC_ASSIGN_OR_RETURN(Value updates, op.ResidentInput("updates"));
  if (updates.dtype != data.dtype || updates.shape != expected)
    return op.Bad(fmt::format("updates: is {}, expected {} {}", ToString(updates),
                              NameOf(data.dtype), ToString(expected)));
  return updates;
}

Status Scatter(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* data, op.Tensor("data"));
  CMLC_ASSIGN_OR_RETURN(const Value* chosen, op.Tensor("indices"));
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", data->shape.size(), 0));
  CMLC_ASSIGN_OR_RETURN(const ScatterMode mode, ModeOf(op));
  const std::span<const int64_t> sizes = data->shape;
  Shape expected(sizes.begin(), sizes.begin() + static_cast<std::ptrdiff_t>(axis));
  expected.insert(expected.end(), chosen->shape.begin(), chosen->shape.end());
  expected.insert(expected.end(), sizes.begin() + static_cast<std::ptrdiff_t>(axis) + 1,
                  sizes.end());
  CMLC_ASSIGN_OR_RETURN(const Value updates, UpdatesOf(op, *data, expected));
  const int64_t size = sizes[axis];
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> indices, IndicesOf(op, "indices", {&size, 1}));
  std::vector<int64_t> places;
  const int64_t run = Product(sizes.subspan(axis + 1));
  if (updates.element_count() != 0) {
    const int64_t before = Product(sizes.first(axis));
    places.reserve(static_cast<size_t>(before) * indices.size());
    for (int64_t b = 0; b < before; ++b)
      for (const int64_t index : indices) places.push_back((b * size + index) * run);
  }
  return SetScattered(op, mode, updates, places, places.empty() ? 0 : run);
}

Status ScatterAlongAxis(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* data, op.Tensor("data"));
  CMLC_ASSIGN_OR_RETURN(const Value* indices, op.Tensor("indices"));
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", data->shape.size(), 0));
  CMLC_ASSIGN_OR_RETURN(const ScatterMode mode, ModeOf(op));
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> places,
                        PlacesAlongAxis(op, data->shape, indices->shape, axis));
  CMLC_ASSIGN_OR_RETURN(const Value updates, UpdatesOf(op, *data, indices->shape));
  return SetScattered(op, mode, updates, places, 1);
}

Status ScatterNd(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* data, op.Tensor("data"));
  CMLC_ASSIGN_OR_RETURN(const Value* indices, op.Tensor("indices"));
  CMLC_ASSIGN_OR_RETURN(const ScatterMode mode, ModeOf(op));
  CMLC_ASSIGN_OR_RETURN(const PointIndices points, PointsOf(op, data->shape, indices->shape, 0));
  Shape expected(indices->shape.begin(), indices->shape.end() - 1);
  expected.insert(expected.end(), data->shape.begin() + static_cast<std::ptrdiff_t>(points.depth),
                  data->shape.end());
  CMLC_ASSIGN_OR_RETURN(const Value updates, UpdatesOf(op, *data, expected));
  return SetScattered(op, mode, updates, points.places,
                      updates.element_count() == 0 ? 0 : points.run);
}

// --- Sorting -------------------------------------------------------------------------------------

// A number by which an element comes sooner the smaller it is. Zeros of both signs are equal, and
// what is no number comes last in either direction.
class SortKeys {
 public:
  SortKeys(const Value& x, bool ascending) : x_(x), ascending_(ascending) {}

  uint32_t operator()(int64_t at) const {
    switch (x_.dtype) {
      case DataType::kFloat32:
        return OfFloat(Element<float>(at));
      case DataType::kFloat16:
        return OfFloat(numeric::HalfToFloat(Element<uint16_t>(at)));
      case DataType::kInt32:
        return OfInt(Element<int32_t>(at));
      case DataType::kUInt32:
        return OfKey(Element<uint32_t>(at));
      case DataType::kInt16:
        return OfInt(Element<int16_t>(at));
      case DataType::kUInt16:
        return OfInt(Element<uint16_t>(at));
      case DataType::kInt8:
        return OfInt(Element<int8_t>(at));
      default:
        return OfInt(Element<uint8_t>(at));
    }
  }

 private:
  template <typename T>
  T Element(int64_t at) const {
    return reinterpret_cast<const T*>(Bytes(x_))[at];
  }
  uint32_t OfKey(uint32_t key) const { return ascending_ ? key : ~key; }
  uint32_t OfInt(int32_t number) const {
    return OfKey(static_cast<uint32_t>(number) ^ 0x80000000u);
  }
  uint32_t OfFloat(float number) const {
    if (number != number) return std::numeric_limits<uint32_t>::max();
    return OfKey(numeric::FloatKey(number + 0.0f));
  }

  const Value& x_;
  bool ascending_;
};

// For every line of x along `axis`, the positions of its first k elements in order, of equal ones
// the lower position first: calls found(line, i, position).
template <typename Found>
void SortLines(OpContext& op, const Value& x, size_t axis, int64_t k, bool ascending,
               const Found& found) {
  const int64_t size = x.shape[axis];
  const int64_t after = Product(std::span(x.shape).subspan(axis + 1));
  const int64_t lines = Product(std::span(x.shape).first(axis)) * after;
  const SortKeys keys(x, ascending);
  const auto grain = static_cast<uint64_t>(std::max<int64_t>(1, 8192 / size));
  op.ForRanges(static_cast<uint64_t>(lines), grain, [&](uint64_t begin, uint64_t end) {
    std::vector<uint64_t> sorted(static_cast<size_t>(size));
    for (uint64_t line = begin; line < end; ++line) {
      const auto at = static_cast<int64_t>(line);
      const int64_t first = at / after * size * after + at % after;
      for (int64_t i = 0; i < size; ++i)
        sorted[static_cast<size_t>(i)] =
            uint64_t{keys(first + i * after)} << 32 | static_cast<uint64_t>(i);
      const auto last = sorted.begin() + static_cast<std::ptrdiff_t>(k);
      if (k < size) std::nth_element(sorted.begin(), last, sorted.end());
      std::sort(sorted.begin(), last);
      for (int64_t i = 0; i < k; ++i)
        found(at, i, static_cast<int64_t>(sorted[static_cast<size_t>(i)] & 0xffffffffu));
    }
  });
}

Status TopK(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", x.shape.size(), -1));
  CMLC_ASSIGN_OR_RETURN(int64_t k, op.Int("k", 1));
  CMLC_ASSIGN_OR_RETURN(const bool ascending, op.Bool("ascending", false));
  CMLC_ASSIGN_OR_RETURN(const bool with_indices, op.Bool("return_indices", true));
  CMLC_ASSIGN_OR_RETURN(const std::string index_type, op.String("output_indices_dtype", "int32"));
  const int64_t size = x.shape[axis];
  if (op.opset() >= kIos17 && k == -1) k = size;
  if (k < 0 || k > size || size > std::numeric_limits<int32_t>::max())
    return op.Bad(
        fmt::format("k: {} elements cannot be had from the {} of axis {} of x", k, size, axis));
  if (index_type != "int32" && index_type != "uint16")
    return op.Bad(fmt::format("output_indices_dtype: '{}' is none of int32, uint16", index_type));
  const DataType index_dtype = index_type == "int32" ? DataType::kInt32 : DataType::kUInt16;
  const bool indices_wanted = with_indices && op.output_count() > 1;
  if (indices_wanted && index_dtype == DataType::kUInt16 && size > 65536)
    return op.Bad(fmt::format("output_indices_dtype: {} positions are more than uint16 has", size));
  Shape shape = x.shape;
  shape[axis] = k;
  CMLC_ASSIGN_OR_RETURN(Value values, op.Make(x.dtype, shape));
  Value indices;
  if (indices_wanted) {
    CMLC_ASSIGN_OR_RETURN(indices, op.Make(index_dtype, shape));
  }
  if (values.element_count() != 0) {
    const int64_t after = Product(std::span(x.shape).subspan(axis + 1));
    WithWidth(WidthOf(x.dtype), [&](auto element) {
      using T = decltype(element);
      const T* from = reinterpret_cast<const T*>(Bytes(x));
      T* to = reinterpret_cast<T*>(values.storage->data());
      // Sorted even if that is not asked for: it costs little and is one of the allowed orders.
      SortLines(op, x, axis, k, ascending, [&](int64_t line, int64_t i, int64_t position) {
        const int64_t row = line / after, column = line % after;
        const int64_t target = (row * k + i) * after + column;
        to[target] = from[(row * size + position) * after + column];
        if (!indices_wanted) return;
        if (index_dtype == DataType::kInt32)
          OpContext::Data<int32_t>(indices)[target] = static_cast<int32_t>(position);
        else
          OpContext::Data<uint16_t>(indices)[target] = static_cast<uint16_t>(position);
      });
    });
  }
  op.Set(0, std::move(values));
  if (indices_wanted) op.Set(1, std::move(indices));
  return Ok();
}

Status ArgSort(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", x.shape.size(), -1));
  CMLC_ASSIGN_OR_RETURN(const bool ascending, op.Bool("ascending", false));
  const int64_t size = x.shape[axis];
  if (size > std::numeric_limits<int32_t>::max())
    return op.Bad(fmt::format("x: axis {} is longer than int32 counts", axis));
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(DataType::kInt32, x.shape));
  if (out.element_count() != 0) {
    const int64_t after = Product(std::span(x.shape).subspan(axis + 1));
    auto* to = OpContext::Data<int32_t>(out);
    SortLines(op, x, axis, size, ascending, [&](int64_t line, int64_t i, int64_t position) {
      to[(line / after * size + i) * after + line % after] = static_cast<int32_t>(position);
    });
  }
  op.Set(std::move(out));
  return Ok();
}

constexpr OpKernel kOps[] = {
    {"slice_by_index", SliceByIndex},
    {"slice_by_size", SliceBySize},
    {"slice_update", SliceUpdate},
    {"gather", Gather},
    {"gather_along_axis", GatherAlongAxis},
    {"gather_nd", GatherNd},
    {"scatter", Scatter},
    {"scatter_along_axis", ScatterAlongAxis},
    {"scatter_nd", ScatterNd},
    {"topk", TopK},
    {"argsort", ArgSort},
};

}  // namespace

std::span<const OpKernel> IndexingOps() { return kOps; }

}  // namespace cmlc::exec
