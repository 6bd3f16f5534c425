// Activations and functions of single elements.
//
// What takes more than a few instructions is in numeric/vector_math; the rest are plain loops over
// some thousand fp32 numbers, which a compiler turns into vector code. NaN is handed on by all:
// where a comparison picks a side, NaN picks the one that keeps it.
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <utility>

#include "exec/ops/broadcast.h"
#include "exec/ops/tables.h"
#include "numeric/half.h"
#include "numeric/vector_math.h"

namespace cmlc::exec {
namespace {

// --- Functions without parameters ---------------------------------------------------------------

using VectorFunction = void (*)(float* values, size_t count);

template <VectorFunction kFunction>
Status Function(OpContext& op) {
  return op.MapFloats("x",
                      [](std::span<float> values) { kFunction(values.data(), values.size()); });
}

// `function` of every element; inlined into the loop.
template <typename F>
Status Map(OpContext& op, const F& function) {
  return op.MapFloats("x", [function](std::span<float> values) {
    for (float& value : values) value = function(value);
  });
}

Status Relu(OpContext& op) {
  return Map(op, [](float x) { return x < 0 ? 0 : x; });
}

Status Relu6(OpContext& op) {
  return Map(op, [](float x) {
    const float above = x < 0 ? 0 : x;
    return above > 6 ? 6 : above;
  });
}

Status Softsign(OpContext& op) {
  return Map(op, [](float x) { return x / (1 + std::fabs(x)); });
}

// --- Functions with numbers that are the same for all elements ----------------------------------

struct AlphaBeta {
  float alpha, beta;
};
Result<AlphaBeta> ReadAlphaBeta(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const float alpha, op.Float("alpha"));
  CMLC_ASSIGN_OR_RETURN(const float beta, op.Float("beta"));
  return AlphaBeta{alpha, beta};
}

Status LeakyRelu(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const float alpha, op.Float("alpha"));
  return Map(op, [alpha](float x) { return x < 0 ? alpha * x : x; });
}

Status ClampedRelu(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const AlphaBeta p, ReadAlphaBeta(op));
  return Map(op, [p](float x) {
    const float y = x < 0 ? p.alpha * x : x;
    return y > p.beta ? p.beta : y;
  });
}

Status Clip(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const AlphaBeta p, ReadAlphaBeta(op));
  // From iOS 17 on a model with an empty range is refused; before, the upper end wins.
  if (op.opset() >= 7 && !(p.alpha < p.beta))
    return op.Bad(fmt::format("alpha: expected less than beta, got {} and {}", p.alpha, p.beta));
  return Map(op, [p](float x) {
    const float y = x < p.alpha ? p.alpha : x;
    return y > p.beta ? p.beta : y;
  });
}

Status Elu(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const float alpha, op.Float("alpha"));
  return op.MapFloats(
      "x", [alpha](std::span<float> values) { numeric::Elu(alpha, values.data(), values.size()); });
}

Status Gelu(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const std::string mode, op.String("mode", "EXACT"));
  if (mode == "EXACT") return Function<numeric::Gelu>(op);
  if (mode == "TANH_APPROXIMATION") return Function<numeric::GeluTanh>(op);
  if (mode == "SIGMOID_APPROXIMATION") return Function<numeric::GeluSigmoid>(op);
  return op.Bad(fmt::format(
      "mode: expected EXACT, TANH_APPROXIMATION or SIGMOID_APPROXIMATION, got '{}'", mode));
}

Status SigmoidHard(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const AlphaBeta p, ReadAlphaBeta(op));
  return Map(op, [p](float x) {
    const float y = p.alpha * x + p.beta;
    const float above = y < 0 ? 0 : y;
    return above > 1 ? 1 : above;
  });
}

Status ScaledTanh(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const AlphaBeta p, ReadAlphaBeta(op));
  return op.MapFloats("x", [p](std::span<float> values) {
    for (float& value : values) value *= p.beta;
    numeric::Tanh(values.data(), values.size());
    for (float& value : values) value *= p.alpha;
  });
}

Status LinearActivation(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const AlphaBeta p, ReadAlphaBeta(op));
  return Map(op, [p](float x) { return p.alpha * x + p.beta; });
}

Status ThresholdedRelu(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const float alpha, op.Float("alpha"));
  return Map(op, [alpha](float x) { return x < alpha ? 0 : x; });
}

// A missing epsilon is the default in the type of x: 1e-12 is zero in fp16.
Result<float> Epsilon(OpContext& op, float missing) {
  if (op.Input("x").dtype == DataType::kFloat16)
    missing = numeric::HalfToFloat(numeric::FloatToHalf(missing));
  return op.Float("epsilon", missing);
}

Status Log(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const float epsilon, Epsilon(op, 1e-45f));
  return op.MapFloats("x", [epsilon](std::span<float> values) {
    for (float& value : values) value += epsilon;
    numeric::Log(values.data(), values.size());
  });
}

Status Rsqrt(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const float epsilon, Epsilon(op, 1e-12f));
  return op.MapFloats("x", [epsilon](std::span<float> values) {
    numeric::Rsqrt(epsilon, values.data(), values.size());
  });
}

Status Inverse(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const float epsilon, Epsilon(op, 1e-4f));
  return op.MapFloats("x", [epsilon](std::span<float> values) {
    numeric::Inverse(epsilon, values.data(), values.size());
  });
}

// --- Functions with numbers for each channel ----------------------------------------------------

// A vector parameter with a number for each channel of x, shaped to be stretched over it.
Result<Value> PerChannel(OpContext& op, std::string_view parameter) {
  const Value& x = op.Input("x");
  CMLC_ASSIGN_OR_RETURN(Value value, op.ResidentInput(parameter));
  if (x.shape.size() < 2)
    return op.Bad(fmt::format("x: expected two dimensions or more, got {}", ToString(x)));
  if (value.shape.size() != 1 || value.shape[0] != x.shape[1])
    return op.Bad(fmt::format("{}: expected a number for each of {} channels, got {}", parameter,
                              x.shape[1], ToString(value)));
  value.shape.assign(x.shape.size(), 1);
  value.shape[1] = x.shape[1];
  return value;
}

Result<Value> TakeFloats(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  if (!IsFloat(x->dtype))
    return op.Bad(fmt::format("x: expected fp16 or fp32, got {}", ToString(*x)));
  return TakeResident(op, "x");
}

void PreluLoop(const float* x, const float* alpha, float* out, size_t count) {
  for (size_t i = 0; i < count; ++i) out[i] = x[i] < 0 ? alpha[i] * x[i] : x[i];
}

Status Prelu(OpContext& op) {
  CMLC_RETURN_IF_ERROR(op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(Value alpha, PerChannel(op, "alpha"));
  CMLC_ASSIGN_OR_RETURN(Value x, TakeFloats(op));
  const Shape shape = x.shape;
  const DataType dtype = x.dtype;
  return MapFloatPairs(op, std::move(x), std::move(alpha), shape, dtype, PreluLoop);
}

// alpha log(1 + e^(beta x))
Status SoftplusParametric(OpContext& op) {
  CMLC_RETURN_IF_ERROR(op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(const Value alpha, PerChannel(op, "alpha"));
  CMLC_ASSIGN_OR_RETURN(const Value beta, PerChannel(op, "beta"));
  CMLC_ASSIGN_OR_RETURN(const Value x, TakeFloats(op));
  const Stretch stretch_x(x.shape, x.shape);
  const Stretch stretch(alpha.shape, x.shape);
  CMLC_ASSIGN_OR_RETURN(Value out, ReuseOrMake(op, x, x.dtype, x.shape));
  op.ForRanges(out.element_count(), kPieceGrain, [&](uint64_t begin, uint64_t end) {
    Reader<float> read_x(x, stretch_x);
    Reader<float> read_alpha(alpha, stretch);
    Reader<float> read_beta(beta, stretch);
    alignas(64) float buffer[kPiece];
    for (uint64_t at = begin; at < end; at += kPiece) {
      const auto count = static_cast<size_t>(std::min(kPiece, end - at));
      const float* from = read_x.Get(at, count);
      const float* alphas = read_alpha.Get(at, count);
      const float* betas = read_beta.Get(at, count);
      for (size_t i = 0; i < count; ++i) buffer[i] = from[i] * betas[i];
      numeric::Softplus(buffer, count);
      for (size_t i = 0; i < count; ++i) buffer[i] *= alphas[i];
      StoreFloats(buffer, count, out, at);
    }
  });
  op.Set(std::move(out));
  return Ok();
}

// --- Functions that integers have, too ----------------------------------------------------------

bool HasInts(const OpContext& op) {
  const Value& x = op.Input("x");
  return x.is_tensor() && (IsInteger(x.dtype) || x.dtype == DataType::kBool);
}

// The low bits of function(int64) in the type of x.
template <typename F>
Status MapInts(OpContext& op, const F& function) {
  CMLC_ASSIGN_OR_RETURN(const Value x, TakeResident(op, "x"));
  const Stretch stretch(x.shape, x.shape);
  CMLC_ASSIGN_OR_RETURN(Value out, ReuseOrMake(op, x, x.dtype, x.shape));
  op.ForRanges(out.element_count(), kPieceGrain, [&](uint64_t begin, uint64_t end) {
    Reader<int64_t> reader(x, stretch);
    int64_t buffer[kPiece];
    for (uint64_t at = begin; at < end; at += kPiece) {
      const auto count = static_cast<size_t>(std::min(kPiece, end - at));
      const int64_t* from = reader.Get(at, count);
      for (size_t i = 0; i < count; ++i) buffer[i] = function(from[i]);
      StoreInts(buffer, count, out, at);
    }
  });
  op.Set(std::move(out));
  return Ok();
}

Status Abs(OpContext& op) {
  if (HasInts(op)) return MapInts(op, [](int64_t x) { return x < 0 ? -x : x; });
  return Map(op, [](float x) { return std::fabs(x); });
}

Status Sign(OpContext& op) {
  if (HasInts(op)) return MapInts(op, [](int64_t x) { return int64_t{x > 0} - int64_t{x < 0}; });
  return Map(op, [](float x) { return x > 0 ? 1 : x < 0 ? -1 : x == 0 ? 0 : x; });
}

Status Square(OpContext& op) {
  if (HasInts(op))
    return MapInts(op, [](int64_t x) {
      return static_cast<int64_t>(static_cast<uint64_t>(x) * static_cast<uint64_t>(x));
    });
  return Map(op, [](float x) { return x * x; });
}

// Of integers: what is below one is cut to zero.
Status Exp2(OpContext& op) {
  if (HasInts(op))
    return MapInts(op, [](int64_t x) { return x < 0 || x > 62 ? int64_t{0} : int64_t{1} << x; });
  return Function<numeric::Exp2>(op);
}

Status Threshold(OpContext& op) {
  if (HasInts(op) && op.Has("alpha") && !IsFloat(op.Input("alpha").dtype)) {
    CMLC_ASSIGN_OR_RETURN(const int64_t alpha, op.Int("alpha"));
    return MapInts(op, [alpha](int64_t x) { return std::max(x, alpha); });
  }
  CMLC_ASSIGN_OR_RETURN(const float alpha, op.Float("alpha"));
  return Map(op, [alpha](float x) { return x < alpha ? alpha : x; });
}

Status LogicalNot(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  if (!HasInts(op)) return op.Bad(fmt::format("x: expected bool, got {}", ToString(*x)));
  if (x->dtype == DataType::kBool) return MapInts(op, [](int64_t value) { return value == 0; });
  CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> values, ReadInts(*x));
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(DataType::kBool, x->shape));
  for (size_t i = 0; i < values.size(); ++i)
    OpContext::Data<uint8_t>(out)[i] = values[i] == 0 ? 1 : 0;
  op.Set(std::move(out));
  return Ok();
}

constexpr OpKernel kOps[] = {
    {"abs", Abs},
    {"acos", Function<numeric::Acos>},
    {"asin", Function<numeric::Asin>},
    {"atan", Function<numeric::Atan>},
    {"atanh", Function<numeric::Atanh>},
    {"ceil", Function<numeric::Ceil>},
    {"clamped_relu", ClampedRelu},
    {"clip", Clip},
    {"cos", Function<numeric::Cos>},
    {"cosh", Function<numeric::Cosh>},
    {"elu", Elu},
    {"erf", Function<numeric::Erf>},
    {"exp", Function<numeric::Exp>},
    {"exp2", Exp2},
    {"floor", Function<numeric::Floor>},
    {"gelu", Gelu},
    {"inverse", Inverse},
    {"leaky_relu", LeakyRelu},
    {"linear_activation", LinearActivation},
    {"log", Log},
    {"logical_not", LogicalNot},
    {"prelu", Prelu},
    {"relu", Relu},
    {"relu6", Relu6},
    {"round", Function<numeric::Round>},
    {"rsqrt", Rsqrt},
    {"scaled_tanh", ScaledTanh},
    {"sigmoid", Function<numeric::Sigmoid>},
    {"sigmoid_hard", SigmoidHard},
    {"sign", Sign},
    {"silu", Function<numeric::Silu>},
    {"sin", Function<numeric::Sin>},
    {"sinh", Function<numeric::Sinh>},
    {"softplus", Function<numeric::Softplus>},
    {"softplus_parametric", SoftplusParametric},
    {"softsign", Softsign},
    {"sqrt", Function<numeric::Sqrt>},
    {"square", Square},
    {"tan", Function<numeric::Tan>},
    {"tanh", Function<numeric::Tanh>},
    {"threshold", Threshold},
    {"thresholded_relu", ThresholdedRelu},
};

}  // namespace

std::span<const OpKernel> UnaryOps() { return kOps; }

}  // namespace cmlc::exec
