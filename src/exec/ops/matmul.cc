// Products of matrices, and attention.
//
// All are tiles of one product: tiles that are large enough for the product to be fast, small
// enough for a weight's part to be decoded into a buffer, and cut by shapes alone.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "exec/isa/kernels.h"
#include "exec/ops/matrix.h"
#include "exec/ops/tables.h"

namespace cmlc::exec {
namespace {

// From this many multiplications on a product is cut into pieces for several threads.
constexpr int64_t kWorthCutting = int64_t{1} << 22;
constexpr int64_t kPieces = 4;
// Multiplications that a thread gets at least.
constexpr int64_t kGrain = int64_t{1} << 19;

struct Operand {
  MatrixSource source;
  int64_t ld = 0;  // of what is stored
  bool transposed = false;
  bool constant = false;         // read a block at a time
  std::vector<int64_t> offsets;  // of the matrices of a batch
};

struct Result3 {
  float* data = nullptr;
  int64_t ld = 0;
  std::vector<int64_t> offsets;
};

bool IsConstant(const Value& value) {
  return value.weight != nullptr || !value.storage->writable();
}

// c (m x n) = a (m x k) * b (k x n) + bias for every matrix of a batch. `bias` is empty or has n.
Status Multiply(OpContext& op, const Operand& a, const Operand& b, const Result3& c, int64_t m,
                int64_t n, int64_t k, std::span<const float> bias) {
  const int64_t limit = std::max<int64_t>(1, kBlockElements / std::max<int64_t>(1, k));
  int64_t most_m = 512, most_n = 4096;
  if (a.constant) most_m = std::min(most_m, limit);
  if (b.constant) most_n = std::min(most_n, std::max<int64_t>(limit, 16));
  const auto batch = static_cast<int64_t>(c.offsets.size());
  const double work = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  if (work >= kWorthCutting && batch < kPieces)
    most_n = std::min(most_n, std::max<int64_t>(96, n / kPieces));
  const int64_t tile_m = PieceSize(m, most_m, 8), tile_n = PieceSize(n, most_n, 24);
  const int64_t tiles_m = PieceCount(m, tile_m), tiles_n = PieceCount(n, tile_n);
  const double tile_work = static_cast<double>(tile_m) * static_cast<double>(tile_n) *
                           static_cast<double>(std::max<int64_t>(1, k));
  const auto grain = static_cast<uint64_t>(std::max(1.0, static_cast<double>(kGrain) / tile_work));
  FirstError error;
  op.ForRanges(
      static_cast<uint64_t>(batch * tiles_n * tiles_m), grain, [&](uint64_t begin, uint64_t end) {
        std::vector<float> a_buffer, b_buffer;
        for (auto i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i) {
          if (error.failed()) return;
          const auto at = static_cast<size_t>(i / (tiles_n * tiles_m));
          const int64_t row = i % tiles_m * tile_m, rows = std::min(tile_m, m - row);
          const int64_t col = i / tiles_m % tiles_n * tile_n, cols = std::min(tile_n, n - col);
          const auto left =
              a.transposed ? a.source.Load(a.offsets[at] + row, k, rows, a.ld, a_buffer)
                           : a.source.Load(a.offsets[at] + row * a.ld, rows, k, a.ld, a_buffer);
          const auto right =
              b.transposed ? b.source.Load(b.offsets[at] + col * b.ld, cols, k, b.ld, b_buffer)
                           : b.source.Load(b.offsets[at] + col, k, cols, b.ld, b_buffer);
          if (!error.Take(left) || !error.Take(right)) return;
          float* out = c.data + c.offsets[at] + row * c.ld + col;
          if (!bias.empty())
            for (int64_t r = 0; r < rows; ++r) std::copy_n(bias.data() + col, cols, out + r * c.ld);
          Kernels().gemm(left->data, left->ld, a.transposed, right->data, right->ld, b.transposed,
                         out, c.ld, rows, cols, k, !bias.empty());
        }
      });
  return error.status();
}

// An operand for Multiply: constants are read where they are needed, others converted as a whole.
struct Loaded {
  std::vector<FloatView> keeps;
  MatrixSource source;
  bool constant = false;
};

Result<Loaded> Load(const OpContext& op, const Value& value) {
  if (IsConstant(value)) return Loaded{{}, MatrixSource(value), true};
  CMLC_ASSIGN_OR_RETURN(FloatView view, op.Floats(value));
  const MatrixSource source(view.data());
  return Loaded{{std::move(view)}, source, false};
}

Result<const Value*> NumberInput(const OpContext& op, std::string_view parameter) {
  CMLC_ASSIGN_OR_RETURN(const Value* value, op.Tensor(parameter));
  if (!IsFloat(value->dtype) && !IsInteger(value->dtype))
    return op.Bad(
        fmt::format("{}: expected fp16, fp32 or int32, got {}", parameter, ToString(*value)));
  return value;
}

// Truncates what was computed in fp32 to an output of integers.
Status SetTruncated(OpContext& op, std::span<const float> values, DataType dtype, Shape shape) {
  std::vector<int64_t> ints(values.size());
  uint64_t cut = 0;
  for (size_t i = 0; i < ints.size(); ++i) {
    // The nearest fp32 numbers of the range of int32.
    const float value = values[i];
    const float kept = std::isnan(value) ? 0.0f : std::clamp(value, -2147483648.0f, 2147483520.0f);
    if (!(kept == value)) ++cut;
    ints[i] = static_cast<int64_t>(kept);
  }
  op.CountNote("values beyond the range of int32 were cut", cut);
  Status status;
  op.SetInts(ints, std::move(shape), dtype, status);
  return status;
}

// --- linear -------------------------------------------------------------------------------------

// Integers wrap around, as products and sums of two's complement do.
void MultiplyInts(OpContext& op, const std::vector<int64_t>& a, int64_t a_row, int64_t a_col,
                  const std::vector<int64_t>& b, int64_t b_row, int64_t b_col,
                  const std::vector<int64_t>& a_offsets, const std::vector<int64_t>& b_offsets,
                  int64_t m, int64_t n, int64_t k, const std::vector<int64_t>& bias,
                  std::vector<int64_t>& out) {
  const uint64_t rows = a_offsets.size() * static_cast<uint64_t>(m);
  const auto grain =
      std::max<int64_t>(1, kGrain / 8 / std::max<int64_t>(1, n) / std::max<int64_t>(1, k));
  op.ForRanges(rows, static_cast<uint64_t>(grain), [&](uint64_t begin, uint64_t end) {
    std::vector<uint32_t> sums(static_cast<size_t>(n));
    for (uint64_t row = begin; row < end; ++row) {
      const auto at = static_cast<size_t>(row / static_cast<uint64_t>(m));
      const auto i = static_cast<int64_t>(row % static_cast<uint64_t>(m));
      for (size_t j = 0; j < sums.size(); ++j)
        sums[j] = bias.empty() ? 0u : static_cast<uint32_t>(bias[j]);
      for (int64_t l = 0; l < k; ++l) {
        const auto left =
            static_cast<uint32_t>(a[static_cast<size_t>(a_offsets[at] + i * a_row + l * a_col)]);
        const int64_t* right = b.data() + b_offsets[at] + l * b_row;
        for (int64_t j = 0; j < n; ++j)
          sums[static_cast<size_t>(j)] += left * static_cast<uint32_t>(right[j * b_col]);
      }
      for (size_t j = 0; j < sums.size(); ++j)
        out[row * sums.size() + j] = static_cast<int32_t>(sums[j]);
    }
  });
}

Status Linear(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, NumberInput(op, "x"));
  CMLC_ASSIGN_OR_RETURN(const Value* weight, NumberInput(op, "weight"));
  if (x->shape.empty()) return op.Bad("x: expected at least 1 dimension, got none");
  const int64_t k = x->shape.back();
  if (weight->shape.size() != 2 || weight->shape[1] != k)
    return op.Bad(
        fmt::format("weight: expected two dimensions, the last of size {} as that of x, "
                    "got {}",
                    k, ToString(*weight)));
  if (op.opset() < 7 && weight->dtype != x->dtype)
    return op.Bad(fmt::format("weight: is {}, x is {}: types may differ from CoreML7 (iOS 17) on",
                              NameOf(weight->dtype), NameOf(x->dtype)));
  const int64_t n = weight->shape[0];
  const Value* bias_value = nullptr;
  if (op.Has("bias")) {
    CMLC_ASSIGN_OR_RETURN(bias_value, NumberInput(op, "bias"));
    if (bias_value->shape != Shape{n})
      return op.Bad(fmt::format("bias: expected a number for each of {} output features, got {}", n,
                                ToString(*bias_value)));
  }
  Shape shape = x->shape;
  shape.back() = n;
  const std::optional<uint64_t> rows = ElementCount(std::span(shape).first(shape.size() - 1));
  if (!rows) return op.Bad(fmt::format("x: shape {} is too large", cmlc::ToString(x->shape)));
  const auto m = static_cast<int64_t>(*rows);
  if (IsInteger(x->dtype) && IsInteger(weight->dtype) &&
      (bias_value == nullptr || IsInteger(bias_value->dtype))) {
    CMLC_ASSIGN_OR_RETURN(Value made, op.Make(x->dtype, shape));
    CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> a, ReadInts(*x));
    CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> b, ReadInts(*weight));
    std::vector<int64_t> bias, out(static_cast<size_t>(made.element_count()));
    if (bias_value != nullptr) {
      CMLC_ASSIGN_OR_RETURN(bias, ReadInts(*bias_value));
    }
    if (!out.empty()) MultiplyInts(op, a, k, 1, b, 1, k, {0}, {0}, m, n, k, bias, out);
    Status status;
    op.SetInts(out, std::move(shape), x->dtype, status);
    return status;
  }
  const DataType computed = IsFloat(x->dtype) ? x->dtype : DataType::kFloat32;
  CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(computed, shape));
  if (!out.values.empty()) {
    std::vector<float> bias;
    if (bias_value != nullptr) {
      bias.resize(static_cast<size_t>(n));
      CMLC_RETURN_IF_ERROR(ReadFloats(*bias_value, 0, bias));
    }
    CMLC_ASSIGN_OR_RETURN(const Loaded left, Load(op, *x));
    CMLC_ASSIGN_OR_RETURN(const Loaded right, Load(op, *weight));
    CMLC_RETURN_IF_ERROR(Multiply(op, {left.source, k, false, left.constant, {0}},
                                  {right.source, k, true, right.constant, {0}},
                                  {out.values.data(), n, {0}}, m, n, k, bias));
  }
  if (computed != x->dtype) return SetTruncated(op, out.values, x->dtype, std::move(shape));
  op.Finish(std::move(out));
  return Ok();
}

// --- matmul -------------------------------------------------------------------------------------

// numpy's rule: sizes are aligned at the end, and 1 goes with any.
std::optional<Shape> Broadcast(std::span<const int64_t> a, std::span<const int64_t> b) {
  Shape out(std::max(a.size(), b.size()), 1);
  for (size_t i = 0; i < out.size(); ++i) {
    const int64_t one = i < a.size() ? a[a.size() - 1 - i] : 1;
    const int64_t other = i < b.size() ? b[b.size() - 1 - i] : 1;
    if (one != other && one != 1 && other != 1) return std::nullopt;
    out[out.size() - 1 - i] = one == 1 ? other : one;
  }
  return out;
}

// Where the matrices of `size` elements of a tensor lie that is stretched to `batch`.
std::vector<int64_t> BatchOffsets(std::span<const int64_t> dimensions, const Shape& batch,
                                  int64_t size) {
  std::vector<int64_t> offsets = {0};
  int64_t stride = size;
  // From the last dimension to the first, each one around the ones so far.
  for (size_t i = 0; i < batch.size(); ++i) {
    const int64_t own = i < dimensions.size() ? dimensions[dimensions.size() - 1 - i] : 1;
    const int64_t count = batch[batch.size() - 1 - i];
    std::vector<int64_t> longer;
    longer.reserve(offsets.size() * static_cast<size_t>(count));
    for (int64_t j = 0; j < count; ++j)
      for (const int64_t offset : offsets) longer.push_back(offset + (own == 1 ? 0 : j * stride));
    offsets = std::move(longer);
    stride *= own;
  }
  return offsets;
}

Status Matmul(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, NumberInput(op, "x"));
  CMLC_ASSIGN_OR_RETURN(const Value* y, NumberInput(op, "y"));
  CMLC_ASSIGN_OR_RETURN(bool transpose_x, op.Bool("transpose_x", false));
  CMLC_ASSIGN_OR_RETURN(bool transpose_y, op.Bool("transpose_y", false));
  if (x->shape.empty() || y->shape.empty())
    return op.Bad(
        fmt::format("{}: expected at least 1 dimension, got none", x->shape.empty() ? "x" : "y"));
  DataType dtype = x->dtype;
  if (x->dtype != y->dtype) {
    if (op.opset() < 7 || IsConstant(*x) == IsConstant(*y))
      return op.Bad(
          fmt::format("y: is {}, x is {}: types may differ from CoreML7 (iOS 17) on, "
                      "where one of them is a constant",
                      NameOf(y->dtype), NameOf(x->dtype)));
    dtype = IsConstant(*x) ? y->dtype : x->dtype;
  }
  // A vector is a row on the left, a column on the right.
  Shape a = x->shape, b = y->shape;
  const bool row = a.size() == 1, column = b.size() == 1;
  if (row) {
    a.insert(a.begin(), 1);
    transpose_x = false;
  }
  if (column) {
    b.push_back(1);
    transpose_y = false;
  }
  const size_t ra = a.size(), rb = b.size();
  int64_t m = a[ra - 2];
  const int64_t k = transpose_x ? m : a[ra - 1];
  if (transpose_x) m = a[ra - 1];
  const int64_t n = transpose_y ? b[rb - 2] : b[rb - 1];
  const int64_t k_of_b = transpose_y ? b[rb - 1] : b[rb - 2];
  const std::optional<Shape> batch =
      Broadcast(std::span(a).first(ra - 2), std::span(b).first(rb - 2));
  if (k != k_of_b || !batch)
    return op.Bad(fmt::format("x: {}{} cannot be multiplied with y, {}{}", ToString(*x),
                              transpose_x ? " transposed" : "", ToString(*y),
                              transpose_y ? " transposed" : ""));
  Shape shape = *batch;
  if (!row) shape.push_back(m);
  if (!column) shape.push_back(n);
  const bool ints = IsInteger(x->dtype) && IsInteger(y->dtype);
  CMLC_ASSIGN_OR_RETURN(FloatOutput out,
                        op.MakeFloats(IsFloat(dtype) ? dtype : DataType::kFloat32, shape));
  if (out.values.empty()) {
    if (IsFloat(dtype)) {
      op.Finish(std::move(out));
      return Ok();
    }
    Status status;
    op.SetInts({}, std::move(shape), dtype, status);
    return status;
  }
  std::vector<int64_t> a_offsets = BatchOffsets(std::span(a).first(ra - 2), *batch, m * k);
  std::vector<int64_t> b_offsets = BatchOffsets(std::span(b).first(rb - 2), *batch, n * k);
  if (ints) {
    CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> left, ReadInts(*x));
    CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> right, ReadInts(*y));
    std::vector<int64_t> values(out.values.size());
    MultiplyInts(op, left, transpose_x ? 1 : k, transpose_x ? m : 1, right, transpose_y ? 1 : n,
                 transpose_y ? k : 1, a_offsets, b_offsets, m, n, k, {}, values);
    Status status;
    op.SetInts(values, std::move(shape), dtype, status);
    return status;
  }
  // One matrix for all samples: then their rows are one matrix, too.
  if (!transpose_x && *ElementCount(std::span(b).first(rb - 2)) == 1 &&
      Shape(a.begin(), a.end() - 2) == *batch) {
    m *= static_cast<int64_t>(a_offsets.size());
    a_offsets = {0};
    b_offsets = {0};
  }
  std::vector<int64_t> c_offsets(a_offsets.size());
  for (size_t i = 0; i < c_offsets.size(); ++i) c_offsets[i] = static_cast<int64_t>(i) * m * n;
  CMLC_ASSIGN_OR_RETURN(const Loaded left, Load(op, *x));
  CMLC_ASSIGN_OR_RETURN(const Loaded right, Load(op, *y));
  CMLC_RETURN_IF_ERROR(Multiply(
      op, {left.source, transpose_x ? m : k, transpose_x, left.constant, std::move(a_offsets)},
      {right.source, transpose_y ? k : n, transpose_y, right.constant, std::move(b_offsets)},
      {out.values.data(), n, std::move(c_offsets)}, m, n, k, {}));
  if (!IsFloat(dtype)) return SetTruncated(op, out.values, dtype, std::move(shape));
  op.Finish(std::move(out));
  return Ok();
}

// --- einsum -------------------------------------------------------------------------------------

// The letters of an equation as numbers in the order in which they first appear.
std::string Pattern(const std::string& equation) {
  std::string letters, pattern;
  for (const char c : equation) {
    if (c == ' ') continue;
    if (c == ',' || c == '-' || c == '>') {
      pattern += c;
      continue;
    }
    size_t at = letters.find(c);
    if (at == std::string::npos) {
      at = letters.size();
      letters += c;
    }
    pattern += static_cast<char>('a' + std::min<size_t>(at, 25));
  }
  return pattern;
}

// "nchw,nwhu->nchu", and the same without the first letter: matrices that lie across dimensions
// -3 and -1, one for each n and h.
Status Einsum(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::string equation, op.String("equation"));
  if (op.Count("values") != 2)
    return op.Bad(fmt::format("values: expected two tensors, got {}", op.Count("values")));
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("values", 0));
  CMLC_ASSIGN_OR_RETURN(const Value* y, op.Tensor("values", 1));
  const std::string pattern = Pattern(equation);
  const size_t rank = pattern == "abcd,adce->abce" ? 4 : pattern == "abc,cbd->abd" ? 3 : 0;
  if (rank == 0)
    return op.Bad(
        fmt::format("equation: expected one like nchw,nwhu->nchu or chw,whr->chr, got "
                    "'{}'",
                    equation));
  if (!IsFloat(x->dtype) || x->dtype != y->dtype || x->shape.size() != rank ||
      y->shape.size() != rank)
    return op.Bad(fmt::format("values: expected fp16 or fp32 of {} dimensions, got {} and {}", rank,
                              ToString(*x), ToString(*y)));
  Shape a = x->shape, b = y->shape;
  if (rank == 3) {
    a.insert(a.begin(), 1);
    b.insert(b.begin(), 1);
  }
  const int64_t m = a[1], k = a[3], n = b[3];
  const std::optional<Shape> outer = Broadcast(Shape{a[0], a[2]}, Shape{b[0], b[2]});
  if (b[1] != k || !outer)
    return op.Bad(fmt::format("values: {} and {} do not go together in '{}'", ToString(*x),
                              ToString(*y), equation));
  const int64_t samples = (*outer)[0], height = (*outer)[1];
  Shape shape = {samples, m, height, n};
  if (rank == 3) shape.erase(shape.begin());
  CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(x->dtype, shape));
  if (out.values.empty()) {
    op.Finish(std::move(out));
    return Ok();
  }
  CMLC_ASSIGN_OR_RETURN(const Loaded left, Load(op, *x));
  CMLC_ASSIGN_OR_RETURN(const Loaded right, Load(op, *y));
  Operand one = {left.source, a[2] * k, false, left.constant, {}};
  Operand other = {right.source, b[2] * n, false, right.constant, {}};
  Result3 result = {out.values.data(), height * n, {}};
  for (int64_t sample = 0; sample < samples; ++sample)
    for (int64_t h = 0; h < height; ++h) {
      one.offsets.push_back((a[0] == 1 ? 0 : sample) * m * a[2] * k + (a[2] == 1 ? 0 : h) * k);
      other.offsets.push_back((b[0] == 1 ? 0 : sample) * k * b[2] * n + (b[2] == 1 ? 0 : h) * n);
      result.offsets.push_back(sample * m * height * n + h * n);
    }
  CMLC_RETURN_IF_ERROR(Multiply(op, one, other, result, m, n, k, {}));
  op.Finish(std::move(out));
  return Ok();
}

// --- Attention ----------------------------------------------------------------------------------

// What is added to scores: bool (false: minus infinity) or float, stretched to all dimensions.
struct Mask {
  const uint8_t* bools = nullptr;
  const float* floats = nullptr;
  std::vector<int64_t> offsets;  // by matrix of the batch
  int64_t row_stride = 0, column_stride = 0;

  void AddTo(size_t matrix, int64_t row, int64_t count, float* scores) const {
    const int64_t from = offsets[matrix] + row * row_stride;
    if (bools != nullptr) {
      for (int64_t i = 0; i < count; ++i)
        if (bools[from + i * column_stride] == 0)
          scores[i] = -std::numeric_limits<float>::infinity();
      return;
    }
    for (int64_t i = 0; i < count; ++i) scores[i] += floats[from + i * column_stride];
  }
};

Status Attention(OpContext& op) {
  const Value* inputs[3] = {};
  constexpr std::string_view kNames[3] = {"query", "key", "value"};
  for (int i = 0; i < 3; ++i) {
    CMLC_ASSIGN_OR_RETURN(inputs[i], op.Tensor(kNames[i]));
    if (!IsFloat(inputs[i]->dtype) || inputs[i]->shape.size() < 3 ||
        inputs[i]->dtype != inputs[0]->dtype ||
        inputs[i]->shape.size() != inputs[0]->shape.size() ||
        !std::equal(inputs[i]->shape.begin(), inputs[i]->shape.end() - 2, inputs[0]->shape.begin()))
      return op.Bad(
          fmt::format("{}: expected fp16 or fp32 of 3 or more dimensions, all but the "
                      "last two and the type as those of query ({}), got {}",
                      kNames[i], ToString(*inputs[0]), ToString(*inputs[i])));
  }
  const Shape &query = inputs[0]->shape, &key = inputs[1]->shape, &value = inputs[2]->shape;
  const size_t rank = query.size();
  const int64_t rows = query[rank - 2], depth = query[rank - 1], columns = key[rank - 2],
                width = value[rank - 1];
  if (key[rank - 1] != depth)
    return op.Bad(fmt::format("key: has {} features, query {}", key[rank - 1], depth));
  if (value[rank - 2] != columns)
    return op.Bad(fmt::format("value: has {} positions, key {}", value[rank - 2], columns));
  Shape shape = query;
  shape.back() = width;
  CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(inputs[0]->dtype, shape));
  if (out.values.empty()) {
    op.Finish(std::move(out));
    return Ok();
  }
  const Shape batch(query.begin(), query.end() - 2);
  const auto matrices = static_cast<int64_t>(*ElementCount(batch));
  CMLC_ASSIGN_OR_RETURN(const FloatView q, op.Floats(*inputs[0]));
  CMLC_ASSIGN_OR_RETURN(const FloatView key_floats, op.Floats(*inputs[1]));
  CMLC_ASSIGN_OR_RETURN(const FloatView v, op.Floats(*inputs[2]));

  Mask mask;
  std::vector<FloatView> mask_floats;
  Value mask_bools;
  if (op.Has("attn_mask")) {
    CMLC_ASSIGN_OR_RETURN(const Value* given, op.Tensor("attn_mask"));
    Shape scores = batch;
    scores.push_back(rows);
    scores.push_back(columns);
    const std::optional<Shape> both = Broadcast(given->shape, scores);
    if ((!IsFloat(given->dtype) && given->dtype != DataType::kBool) || both != scores)
      return op.Bad(
          fmt::format("attn_mask: expected bool, fp16 or fp32 that stretches to {}, got {}",
                      cmlc::ToString(scores), ToString(*given)));
    if (given->dtype == DataType::kBool) {
      CMLC_ASSIGN_OR_RETURN(mask_bools, op.ResidentInput("attn_mask"));
      mask.bools = mask_bools.As<uint8_t>().data();
    } else {
      CMLC_ASSIGN_OR_RETURN(FloatView floats, op.Floats(*given));
      mask.floats = floats.data();
      mask_floats.push_back(std::move(floats));
    }
    const Shape& has = given->shape;
    const int64_t last = has.empty() ? 1 : has.back();
    const int64_t before = has.size() < 2 ? 1 : has[has.size() - 2];
    mask.column_stride = last == 1 ? 0 : 1;
    mask.row_stride = before == 1 ? 0 : last;
    mask.offsets = BatchOffsets(std::span(has).first(has.size() < 2 ? 0 : has.size() - 2), batch,
                                last * before);
  }

  // A block of rows of the query at a time: the scores of all rows may be far larger than the rest.
  const int64_t block = PieceSize(
      rows, std::clamp<int64_t>(kBlockElements / std::max<int64_t>(1, columns), 8, 128), 8);
  const int64_t blocks = PieceCount(rows, block);
  const float scale =
      static_cast<float>(1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, depth))));
  const double block_work = static_cast<double>(block) *
                            static_cast<double>(std::max<int64_t>(1, columns)) *
                            static_cast<double>(depth + width + 16);
  const auto grain = static_cast<uint64_t>(std::max(1.0, static_cast<double>(kGrain) / block_work));
  std::atomic<uint64_t> fully_masked = 0;
  op.ForRanges(static_cast<uint64_t>(matrices * blocks), grain, [&](uint64_t begin, uint64_t end) {
    std::vector<float> scores(static_cast<size_t>(block * columns));
    uint64_t masked = 0;
    for (auto i = static_cast<int64_t>(begin); i < static_cast<int64_t>(end); ++i) {
      const int64_t matrix = i / blocks, first = i % blocks * block;
      const int64_t count = std::min(block, rows - first);
      Kernels().gemm(q.data() + (matrix * rows + first) * depth, depth, false,
                     key_floats.data() + matrix * columns * depth, depth, true, scores.data(),
                     columns, count, columns, depth, false);
      for (int64_t row = 0; row < count; ++row) {
        float* to = scores.data() + row * columns;
        for (int64_t j = 0; j < columns; ++j) to[j] *= scale;
        if (!mask.offsets.empty()) {
          mask.AddTo(static_cast<size_t>(matrix), first + row, columns, to);
          masked += columns != 0 && std::all_of(to, to + columns, [](float score) {
                      return score == -std::numeric_limits<float>::infinity();
                    });
        }
        Kernels().softmax(to, columns);
      }
      Kernels().gemm(scores.data(), columns, false, v.data() + matrix * columns * width, width,
                     false, out.values.data() + (matrix * rows + first) * width, width, count,
                     width, columns, false);
    }
    fully_masked += masked;
  });
  op.CountNote("rows attend to nothing and become NaN", fully_masked);
  op.Finish(std::move(out));
  return Ok();
}

constexpr OpKernel kOps[] = {
    {"linear", Linear},
    {"matmul", Matmul},
    {"einsum", Einsum},
    {"scaled_dot_product_attention", Attention},
};

}  // namespace

std::span<const OpKernel> MatmulOps() { return kOps; }

}  // namespace cmlc::exec
