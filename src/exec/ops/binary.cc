// Arithmetic, comparisons and logic on two tensors, and select on three, with broadcasting.
//
// Floats are computed as fp32 and integers as int64, whose low bits are stored: int32 wraps. Two
// types meet in the wider one; an integer and a float in the float.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>

#include "exec/ops/broadcast.h"
#include "exec/ops/tables.h"
#include "numeric/vector_math.h"

// Elements of one loop do not depend on each other even where an output is one of the inputs.
#if defined(__clang__)
#define CMLC_EACH _Pragma("clang loop vectorize(assume_safety)")
#else
#define CMLC_EACH _Pragma("GCC ivdep")
#endif

namespace cmlc::exec {
namespace {

struct Pair {
  Value x, y;
  Shape shape;
};

Result<Pair> TakePair(OpContext& op) {
  Pair pair;
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(const Value* y, op.Tensor("y"));
  const std::array shapes = {std::pair(std::string_view("x"), &x->shape),
                             std::pair(std::string_view("y"), &y->shape)};
  CMLC_ASSIGN_OR_RETURN(pair.shape, BroadcastShape(op, shapes));
  CMLC_ASSIGN_OR_RETURN(pair.x, TakeResident(op, "x"));
  CMLC_ASSIGN_OR_RETURN(pair.y, TakeResident(op, "y"));
  return pair;
}

// --- Arithmetic ---------------------------------------------------------------------------------

// What a function of integers says when it has no result.
enum class IntFault { kNone, kDivisionByZero };

struct Add {
  static float Of(float x, float y) { return x + y; }
  static int64_t Of(int64_t x, int64_t y, IntFault&) { return x + y; }
};
struct Sub {
  static float Of(float x, float y) { return x - y; }
  static int64_t Of(int64_t x, int64_t y, IntFault&) { return x - y; }
};
struct Mul {
  static float Of(float x, float y) { return x * y; }
  static int64_t Of(int64_t x, int64_t y, IntFault&) {
    return static_cast<int64_t>(static_cast<uint64_t>(x) * static_cast<uint64_t>(y));
  }
};
struct RealDiv {
  static float Of(float x, float y) { return x / y; }
  static int64_t Of(int64_t x, int64_t y, IntFault& fault) {
    if (y != 0) return x / y;
    fault = IntFault::kDivisionByZero;
    return 0;
  }
};
struct Mod {
  static float Of(float x, float y) {
    const float rest = std::fmod(x, y);
    if (rest == 0) return std::copysign(0.0f, y);
    return (rest < 0) != (y < 0) ? rest + y : rest;
  }
  static int64_t Of(int64_t x, int64_t y, IntFault& fault) {
    if (y == 0) {
      fault = IntFault::kDivisionByZero;
      return 0;
    }
    const int64_t rest = x % y;
    return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;
  }
};
struct FloorDiv {
  // The quotient may round to the whole number above it, so it is taken from the exact rest.
  static float Of(float x, float y) {
    if (y == 0) return x / y;
    const float rest = std::fmod(x, y);
    double whole = std::nearbyint((static_cast<double>(x) - static_cast<double>(rest)) /
                                  static_cast<double>(y));
    if (rest != 0 && (rest < 0) != (y < 0)) whole -= 1;
    return whole == 0 ? std::copysign(0.0f, x / y) : static_cast<float>(whole);
  }
  static int64_t Of(int64_t x, int64_t y, IntFault& fault) {
    if (y == 0) {
      fault = IntFault::kDivisionByZero;
      return 0;
    }
    const int64_t quotient = x / y;
    return x % y != 0 && (x < 0) != (y < 0) ? quotient - 1 : quotient;
  }
};
// NaN on either side is handed on.
struct Maximum {
  static float Of(float x, float y) { return ((x > y) | (x != x)) ? x : y; }
  static int64_t Of(int64_t x, int64_t y, IntFault&) { return std::max(x, y); }
};
struct Minimum {
  static float Of(float x, float y) { return ((x < y) | (x != x)) ? x : y; }
  static int64_t Of(int64_t x, int64_t y, IntFault&) { return std::min(x, y); }
};
struct Pow {
  // The C library's last bit in double may differ between systems; it seldom outlives the rounding.
  static float Of(float x, float y) {
    return static_cast<float>(std::pow(static_cast<double>(x), static_cast<double>(y)));
  }
  // Squares and multiplies, and wraps. A negative power is cut toward zero as a quotient is.
  static int64_t Of(int64_t x, int64_t y, IntFault& fault) {
    if (y < 0) {
      if (x == 0) fault = IntFault::kDivisionByZero;
      if (x == 1) return 1;
      if (x == -1) return y % 2 == 0 ? 1 : -1;
      return 0;
    }
    uint64_t result = 1;
    for (uint64_t base = static_cast<uint64_t>(x); y != 0; y >>= 1, base *= base)
      if ((y & 1) != 0) result *= base;
    return static_cast<int64_t>(result);
  }
};

template <typename F>
void FloatLoop(const float* x, const float* y, float* out, size_t count) {
  CMLC_EACH
  for (size_t i = 0; i < count; ++i) out[i] = F::Of(x[i], y[i]);
}

// The powers that networks are full of need no general function.
float Power(float x, float power) {
  if (power == 2) return x * x;
  if (power == 1) return x;
  if (power == -1) return 1 / x;
  if (power == 3) {
    const auto base = static_cast<double>(x);
    return static_cast<float>(base * base * base);
  }
  if (power == 0.5f && x > 0) return std::sqrt(x);
  return Pow::Of(x, power);
}

// The same bits as Power, faster where a piece has a single exponent, as it mostly has.
void PowLoop(const float* x, const float* y, float* out, size_t count) {
  const float power = y[0];
  const bool single = std::all_of(y, y + count, [power](float other) { return other == power; });
  if (single && power == 2) {
    CMLC_EACH
    for (size_t i = 0; i < count; ++i) out[i] = x[i] * x[i];
  } else if (single && power == 0.5f && std::all_of(x, x + count, [](float v) { return v > 0; })) {
    if (out != x) std::memcpy(out, x, count * sizeof(float));
    numeric::Sqrt(out, count);
  } else {
    for (size_t i = 0; i < count; ++i) out[i] = Power(x[i], y[i]);
  }
}

template <typename F>
constexpr FloatKernel kLoop = FloatLoop<F>;
template <>
constexpr FloatKernel kLoop<Pow> = PowLoop;

template <typename F>
Status Arithmetic(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(Pair pair, TakePair(op));
  const DataType dtype = CommonType(op, pair.x.dtype, pair.y.dtype);
  if (dtype == DataType::kBool) return op.Bad("x: expected numbers, got " + ToString(pair.x));
  if (IsFloat(dtype))
    return MapFloatPairs(op, std::move(pair.x), std::move(pair.y), pair.shape, dtype, kLoop<F>);
  const Stretch stretch_x(pair.x.shape, pair.shape);
  const Stretch stretch_y(pair.y.shape, pair.shape);
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(dtype, pair.shape));
  std::atomic<bool> failed = false;
  op.ForRanges(out.element_count(), kPieceGrain, [&](uint64_t begin, uint64_t end) {
    Reader<int64_t> read_x(pair.x, stretch_x);
    Reader<int64_t> read_y(pair.y, stretch_y);
    int64_t buffer[kPiece];
    IntFault fault = IntFault::kNone;
    for (uint64_t at = begin; at < end; at += kPiece) {
      const auto count = static_cast<size_t>(std::min(kPiece, end - at));
      const int64_t* x = read_x.Get(at, count);
      const int64_t* y = read_y.Get(at, count);
      for (size_t i = 0; i < count; ++i) buffer[i] = F::Of(x[i], y[i], fault);
      StoreInts(buffer, count, out, at);
    }
    if (fault != IntFault::kNone) failed = true;
  });
  if (failed) return op.Bad("y: division of an integer by zero");
  op.Set(std::move(out));
  return Ok();
}

// --- Comparisons and logic ----------------------------------------------------------------------

struct Equal {
  template <typename T>
  static bool Of(T x, T y) {
    return x == y;
  }
};
struct NotEqual {
  template <typename T>
  static bool Of(T x, T y) {
    return x != y;
  }
};
struct Less {
  template <typename T>
  static bool Of(T x, T y) {
    return x < y;
  }
};
struct LessEqual {
  template <typename T>
  static bool Of(T x, T y) {
    return x <= y;
  }
};
struct Greater {
  template <typename T>
  static bool Of(T x, T y) {
    return x > y;
  }
};
struct GreaterEqual {
  template <typename T>
  static bool Of(T x, T y) {
    return x >= y;
  }
};
struct And {
  static bool Of(int64_t x, int64_t y) { return x != 0 && y != 0; }
};
struct Or {
  static bool Of(int64_t x, int64_t y) { return x != 0 || y != 0; }
};
struct Xor {
  static bool Of(int64_t x, int64_t y) { return (x != 0) != (y != 0); }
};

template <typename F, typename T>
Status Truth(OpContext& op, const Pair& pair) {
  const Stretch stretch_x(pair.x.shape, pair.shape);
  const Stretch stretch_y(pair.y.shape, pair.shape);
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(DataType::kBool, pair.shape));
  op.ForRanges(out.element_count(), kPieceGrain, [&](uint64_t begin, uint64_t end) {
    Reader<T> read_x(pair.x, stretch_x);
    Reader<T> read_y(pair.y, stretch_y);
    for (uint64_t at = begin; at < end; at += kPiece) {
      const auto count = static_cast<size_t>(std::min(kPiece, end - at));
      const T* x = read_x.Get(at, count);
      const T* y = read_y.Get(at, count);
      uint8_t* to = OpContext::Data<uint8_t>(out) + at;
      for (size_t i = 0; i < count; ++i) to[i] = F::Of(x[i], y[i]) ? 1 : 0;
    }
  });
  op.Set(std::move(out));
  return Ok();
}

template <typename F>
Status Comparison(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Pair pair, TakePair(op));
  if (IsFloat(pair.x.dtype) || IsFloat(pair.y.dtype)) return Truth<F, float>(op, pair);
  return Truth<F, int64_t>(op, pair);
}

template <typename F>
Status Logic(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Pair pair, TakePair(op));
  for (const auto& [parameter, value] : {std::pair("x", &pair.x), std::pair("y", &pair.y)})
    if (IsFloat(value->dtype))
      return op.Bad(fmt::format("{}: expected bool, got {}", parameter, ToString(*value)));
  return Truth<F, int64_t>(op, pair);
}

// --- Select -------------------------------------------------------------------------------------

struct Choice {
  Value condition, a, b;
  Shape shape;
};

template <typename T>
Status Choose(OpContext& op, const Choice& choice, Value out) {
  const Stretch stretch_condition(choice.condition.shape, choice.shape);
  const Stretch stretch_a(choice.a.shape, choice.shape);
  const Stretch stretch_b(choice.b.shape, choice.shape);
  op.ForRanges(out.element_count(), kPieceGrain, [&](uint64_t begin, uint64_t end) {
    Reader<int64_t> read_condition(choice.condition, stretch_condition);
    Reader<T> read_a(choice.a, stretch_a);
    Reader<T> read_b(choice.b, stretch_b);
    T buffer[kPiece];
    for (uint64_t at = begin; at < end; at += kPiece) {
      const auto count = static_cast<size_t>(std::min(kPiece, end - at));
      const int64_t* condition = read_condition.Get(at, count);
      const T* a = read_a.Get(at, count);
      const T* b = read_b.Get(at, count);
      for (size_t i = 0; i < count; ++i) buffer[i] = condition[i] != 0 ? a[i] : b[i];
      if constexpr (std::is_same_v<T, float>)
        StoreFloats(buffer, count, out, at);
      else if constexpr (std::is_same_v<T, int64_t>)
        StoreInts(buffer, count, out, at);
      else
        std::memcpy(OpContext::Data<T>(out) + at, buffer, count * sizeof(T));
    }
  });
  op.Set(std::move(out));
  return Ok();
}

Status Select(OpContext& op) {
  Choice choice;
  std::array<std::pair<std::string_view, const Shape*>, 3> shapes;
  const std::array<std::string_view, 3> parameters = {"a", "b", "cond"};
  for (size_t i = 0; i < 3; ++i) {
    CMLC_ASSIGN_OR_RETURN(const Value* value, op.Tensor(parameters[i]));
    shapes[i] = {parameters[i], &value->shape};
  }
  CMLC_ASSIGN_OR_RETURN(choice.shape, BroadcastShape(op, shapes));
  CMLC_ASSIGN_OR_RETURN(choice.condition, op.ResidentInput("cond"));
  if (IsFloat(choice.condition.dtype))
    return op.Bad("cond: expected bool, got " + ToString(choice.condition));
  CMLC_ASSIGN_OR_RETURN(choice.a, op.ResidentInput("a"));
  CMLC_ASSIGN_OR_RETURN(choice.b, op.ResidentInput("b"));
  const DataType dtype = CommonType(op, choice.a.dtype, choice.b.dtype);
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(dtype, choice.shape));
  if (choice.a.dtype != choice.b.dtype)
    return IsFloat(dtype) ? Choose<float>(op, choice, std::move(out))
                          : Choose<int64_t>(op, choice, std::move(out));
  const int bits = dtype == DataType::kBool ? 8 : static_cast<int>(BitsOf(dtype));
  if (bits == 8) return Choose<uint8_t>(op, choice, std::move(out));
  if (bits == 16) return Choose<uint16_t>(op, choice, std::move(out));
  return Choose<uint32_t>(op, choice, std::move(out));
}

constexpr OpKernel kOps[] = {
    {"add", Arithmetic<Add>},
    {"sub", Arithmetic<Sub>},
    {"mul", Arithmetic<Mul>},
    {"real_div", Arithmetic<RealDiv>},
    {"floor_div", Arithmetic<FloorDiv>},
    {"mod", Arithmetic<Mod>},
    {"maximum", Arithmetic<Maximum>},
    {"minimum", Arithmetic<Minimum>},
    {"pow", Arithmetic<Pow>},
    {"equal", Comparison<Equal>},
    {"not_equal", Comparison<NotEqual>},
    {"less", Comparison<Less>},
    {"less_equal", Comparison<LessEqual>},
    {"greater", Comparison<Greater>},
    {"greater_equal", Comparison<GreaterEqual>},
    {"logical_and", Logic<And>},
    {"logical_or", Logic<Or>},
    {"logical_xor", Logic<Xor>},
    {"select", Select},
};

}  // namespace

std::span<const OpKernel> BinaryOps() { return kOps; }

}  // namespace cmlc::exec
