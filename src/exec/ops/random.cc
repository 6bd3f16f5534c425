// Random tensors.
//
// Core ML's own numbers cannot be had, so these are ours: element i of a tensor depends on the
// stream and i alone. The stream is that of the op (equal for the same run seed, op and sample, so
// two models that are compared see the same noise), or with a `seed` of 0 or more that of the seed.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <vector>

#include "exec/ops/broadcast.h"
#include "exec/ops/tables.h"
#include "numeric/half.h"
#include "numeric/vector_math.h"

namespace cmlc::exec {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): its state is a counter, so any element comes first.
uint64_t Draw(uint64_t stream, uint64_t index) {
  uint64_t z = stream + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// In [0, 1), a multiple of 2^-53.
double Unit(uint64_t draw) { return static_cast<double>(draw >> 11) * 0x1p-53; }

Result<uint64_t> Stream(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const int64_t seed, op.Int("seed", -1));
  return seed < 0 ? op.RandomSeed() : Draw(0, static_cast<uint64_t>(seed));
}

// The shape that is asked for, and the type: that of the float parameters, which are of one type;
// where there are none that which is declared.
struct Wanted {
  Shape shape;
  DataType dtype = DataType::kFloat32;
};
Result<Wanted> ReadWanted(OpContext& op, std::initializer_list<std::string_view> parameters) {
  Wanted wanted;
  CMLC_ASSIGN_OR_RETURN(wanted.shape, op.Ints("shape"));
  for (const int64_t size : wanted.shape)
    if (size < 0) return op.Bad(fmt::format("shape: {} is no size", size));
  if (IsFloat(op.DeclaredType())) wanted.dtype = op.DeclaredType();
  for (const std::string_view parameter : parameters)
    if (const Value* value = op.Find(parameter); value != nullptr && IsFloat(value->dtype))
      wanted.dtype = value->dtype;
  return wanted;
}

// Fills a tensor piece by piece: make(first element, numbers).
template <typename Make>
Status Fill(OpContext& op, const Wanted& wanted, const Make& make) {
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(wanted.dtype, wanted.shape));
  op.ForRanges(out.element_count(), kPieceGrain, [&](uint64_t begin, uint64_t end) {
    float buffer[kPiece];
    for (uint64_t at = begin; at < end; at += kPiece) {
      const auto count = static_cast<size_t>(std::min(kPiece, end - at));
      make(at, std::span(buffer, count));
      StoreFloats(buffer, count, out, at);
    }
  });
  op.Set(std::move(out));
  return Ok();
}

Status Bernoulli(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Wanted wanted, ReadWanted(op, {"prob"}));
  CMLC_ASSIGN_OR_RETURN(const float prob, op.Float("prob", 0.5f));
  CMLC_ASSIGN_OR_RETURN(const uint64_t stream, Stream(op));
  if (!(prob >= 0 && prob <= 1))
    return op.Bad(fmt::format("prob: expected a number from 0 to 1, got {}", prob));
  return Fill(op, wanted, [&](uint64_t first, std::span<float> out) {
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = Unit(Draw(stream, first + i)) < static_cast<double>(prob) ? 1 : 0;
  });
}

// The largest number of a float type below `value`.
float Below(float value, DataType dtype) {
  if (dtype == DataType::kFloat32)
    return std::nextafter(value, -std::numeric_limits<float>::infinity());
  const uint16_t half = numeric::FloatToHalf(value);
  if (numeric::HalfToFloat(half) < value) return numeric::HalfToFloat(half);
  if (value == 0) return -0x1p-24f;
  const int step = (half & 0x8000) != 0 ? 1 : -1;
  return numeric::HalfToFloat(static_cast<uint16_t>(half + step));
}

Status Uniform(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Wanted wanted, ReadWanted(op, {"low", "high"}));
  CMLC_ASSIGN_OR_RETURN(const float low, op.Float("low", 0.0f));
  CMLC_ASSIGN_OR_RETURN(const float high, op.Float("high", 1.0f));
  CMLC_ASSIGN_OR_RETURN(const uint64_t stream, Stream(op));
  if (!(low <= high) || !std::isfinite(low) || !std::isfinite(high))
    return op.Bad(fmt::format("high: expected a finite number, {} or more, got {}", low, high));
  // Rounding must not reach the upper end, which is not in the range.
  const float most = low == high ? low : std::max(low, Below(high, wanted.dtype));
  return Fill(op, wanted, [&](uint64_t first, std::span<float> out) {
    const double start = static_cast<double>(low), width = static_cast<double>(high) - start;
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = std::min(most, static_cast<float>(start + width * Unit(Draw(stream, first + i))));
  });
}

// Box and Muller: two uniform numbers make two normal ones, elements 2k and 2k + 1.
Status Normal(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Wanted wanted, ReadWanted(op, {"mean", "stddev"}));
  CMLC_ASSIGN_OR_RETURN(const float mean, op.Float("mean", 0.0f));
  CMLC_ASSIGN_OR_RETURN(const float stddev, op.Float("stddev", 1.0f));
  CMLC_ASSIGN_OR_RETURN(const uint64_t stream, Stream(op));
  if (!(stddev >= 0))
    return op.Bad(fmt::format("stddev: expected a number from 0 on, got {}", stddev));
  return Fill(op, wanted, [&](uint64_t first, std::span<float> out) {
    constexpr size_t kPairs = kPiece / 2;  // pieces start at even elements
    float radius[kPairs], sine[kPairs], cosine[kPairs];
    const size_t pairs = (out.size() + 1) / 2;
    for (size_t i = 0; i < pairs; ++i) {
      const double share = 1 - Unit(Draw(stream, first + 2 * i));  // in (0, 1]
      radius[i] = static_cast<float>(share);
      sine[i] = static_cast<float>(2 * 3.14159265358979 * Unit(Draw(stream, first + 2 * i + 1)));
      cosine[i] = sine[i];
    }
    numeric::Log(radius, pairs);
    for (size_t i = 0; i < pairs; ++i) radius[i] = std::max(0.0f, -2 * radius[i]);
    numeric::Sqrt(radius, pairs);
    numeric::Sin(sine, pairs);
    numeric::Cos(cosine, pairs);
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = mean + stddev * radius[i / 2] * (i % 2 == 0 ? cosine : sine)[i / 2];
  });
}

// For each distribution of x, `size` indices, drawn with replacement.
Status Categorical(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::string mode, op.String("mode", "logits"));
  if (mode != "logits" && mode != "probs")
    return op.Bad(fmt::format("mode: expected logits or probs, got '{}'", mode));
  CMLC_ASSIGN_OR_RETURN(const int64_t size, op.Int("size", 1));
  if (size < 1) return op.Bad(fmt::format("size: expected 1 or more, got {}", size));
  CMLC_ASSIGN_OR_RETURN(const uint64_t stream, Stream(op));
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  if (!IsFloat(x->dtype) || x->shape.empty())
    return op.Bad("x: expected a float tensor of one dimension or more, got " + ToString(*x));
  CMLC_ASSIGN_OR_RETURN(const FloatView weights, op.Floats("x"));
  const auto classes = static_cast<size_t>(x->shape.back());
  Shape shape = x->shape;
  shape.back() = size;
  CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(x->dtype, shape));
  if (classes == 0 && !out.values.empty()) return op.Bad("x: has no class to draw");
  const size_t draws = static_cast<size_t>(size);
  std::vector<float> shares(classes);
  std::vector<double> sums(classes);
  for (size_t row = 0; row * draws < out.values.size(); ++row) {
    const std::span<const float> given = weights.span().subspan(row * classes, classes);
    std::copy(given.begin(), given.end(), shares.begin());
    if (mode == "logits") {
      const float most = *std::max_element(shares.begin(), shares.end());
      for (float& share : shares) share -= most;
      numeric::Exp(shares.data(), classes);
    }
    double sum = 0;
    for (size_t i = 0; i < classes; ++i) {
      if (!(shares[i] >= 0) || !std::isfinite(shares[i]))
        return op.Bad(fmt::format("x: distribution {} has {} at {}, which is no {}", row, given[i],
                                  i, mode == "logits" ? "logit" : "probability"));
      sums[i] = sum += static_cast<double>(shares[i]);
    }
    if (sum == 0) return op.Bad(fmt::format("x: distribution {} has no class to draw", row));
    for (size_t i = 0; i < draws; ++i) {
      const double wanted = sum * Unit(Draw(stream, row * draws + i));
      // The first whose sum is above, so that classes of no share are never drawn.
      auto found = std::upper_bound(sums.begin(), sums.end(), wanted);
      if (found == sums.end()) found = std::lower_bound(sums.begin(), sums.end(), sum);
      out.values[row * draws + i] = static_cast<float>(found - sums.begin());
    }
  }
  op.Finish(std::move(out));
  return Ok();
}

constexpr OpKernel kOps[] = {
    {"random_bernoulli", Bernoulli},
    {"random_categorical", Categorical},
    {"random_normal", Normal},
    {"random_uniform", Uniform},
};

}  // namespace

std::span<const OpKernel> RandomOps() { return kOps; }

}  // namespace cmlc::exec
