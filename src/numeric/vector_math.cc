// Functions are reduced to a small range and evaluated there as polynomials, in fp32.
//
// The same bits must come out on every processor. So a * b + c is always two roundings, since not
// every instruction set has a fused form; there are no approximate reciprocals; and a rest that
// does not fill a vector goes through the same code, padded. Constants that are subtracted many
// times are cut in parts with few bits, whose products with small whole numbers are exact.
//
// The polynomials are printed by tests/numeric/fit_vector_math.py, the errors that are reached by
// tests/numeric/vector_math_test.cc.
#include "numeric/vector_math.h"

#include <cmath>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "numeric/vector_math.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace cmlc {
namespace numeric {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using DI = hn::RebindToSigned<D>;
using V = hn::Vec<D>;
using VI = hn::Vec<DI>;
using M = hn::Mask<D>;

HWY_INLINE V Number(float value) { return hn::Set(D(), value); }
HWY_INLINE VI Bits(V v) { return hn::BitCast(DI(), v); }
HWY_INLINE V FromBits(VI v) { return hn::BitCast(D(), v); }

// The sum of coefficients[i] x^i.
template <size_t kCount>
HWY_INLINE V Polynomial(V x, const float (&coefficients)[kCount]) {
  V sum = Number(coefficients[kCount - 1]);
  for (size_t i = kCount - 1; i-- > 0;) sum = hn::Add(hn::Mul(sum, x), Number(coefficients[i]));
  return sum;
}

// x + x z P(z): odd functions, with z the square of x.
template <size_t kCount>
HWY_INLINE V Odd(V x, const float (&coefficients)[kCount]) {
  const V z = hn::Mul(x, x);
  return hn::Add(x, hn::Mul(hn::Mul(x, z), Polynomial(z, coefficients)));
}

// Adding it makes the last bit of a number below 2^22 that of whole numbers.
constexpr float kWhole = 12582912.0f;  // 1.5 * 2^23

HWY_INLINE V NearestWhole(V x, VI& integer) {
  const V shifted = hn::Add(x, Number(kWhole));
  integer = hn::Sub(Bits(shifted), Bits(Number(kWhole)));
  return hn::Sub(shifted, Number(kWhole));
}

// v 2^n for n from -252 to 254, in two steps, so that the only rounding is the last.
HWY_INLINE V Scale(V v, VI n) {
  const VI first = hn::ShiftRight<1>(n);
  const VI second = hn::Sub(n, first);
  const VI bias = hn::Set(DI(), 127);
  const V by_first = FromBits(hn::ShiftLeft<23>(hn::Add(first, bias)));
  const V by_second = FromBits(hn::ShiftLeft<23>(hn::Add(second, bias)));
  return hn::Mul(hn::Mul(v, by_first), by_second);
}

// e^r for r within half a ln 2 of zero.
HWY_INLINE V ExpOfRest(V r) {
  constexpr float kExp[] = {0.5000000000f, 0.1666657612f, 0.04166655803f, 0.008363324055f,
                            0.001392586771f};
  return hn::Add(Number(1), hn::Add(r, hn::Mul(hn::Mul(r, r), Polynomial(r, kExp))));
}

// ln 2 in two parts; the first has 9 bits.
constexpr float kLn2High = 0.693359375f;
constexpr float kLn2Low = -2.12194440e-4f;

// e^x 2^shift. Beyond these ends the result is infinity or zero whatever `shift` within +-2 is.
HWY_INLINE V ExpShifted(V x, int32_t shift) {
  x = hn::IfThenElse(hn::Gt(x, Number(91)), Number(91), x);
  x = hn::IfThenElse(hn::Lt(x, Number(-107)), Number(-107), x);
  VI power;
  const V n = NearestWhole(hn::Mul(x, Number(1.442695041f)), power);
  V r = hn::Sub(x, hn::Mul(n, Number(kLn2High)));
  r = hn::Sub(r, hn::Mul(n, Number(kLn2Low)));
  return Scale(ExpOfRest(r), hn::Add(power, hn::Set(DI(), shift)));
}

struct ExpF {
  HWY_INLINE V operator()(V x) const { return ExpShifted(x, 0); }
};

struct Exp2F {
  HWY_INLINE V operator()(V x) const {
    x = hn::IfThenElse(hn::Gt(x, Number(129)), Number(129), x);
    x = hn::IfThenElse(hn::Lt(x, Number(-152)), Number(-152), x);
    VI power;
    const V n = NearestWhole(x, power);
    return Scale(ExpOfRest(hn::Mul(hn::Sub(x, n), Number(0.6931471806f))), power);
  }
};

// log of a positive finite number: with x = m 2^k and m around 1, log m = 2 atanh((m-1) / (m+1)).
struct LogF {
  HWY_INLINE V operator()(V x) const {
    constexpr float kLog[] = {0.3333333328f, 0.2000006100f, 0.1427540128f, 0.1166548203f};
    const M tiny = hn::Lt(x, Number(std::numeric_limits<float>::min()));
    const V normal = hn::IfThenElse(tiny, hn::Mul(x, Number(0x1p23f)), x);
    const VI bits = Bits(normal);
    const VI k = hn::ShiftRight<23>(hn::Sub(bits, hn::Set(DI(), 0x3f3504f3)));  // sqrt(1/2)
    const V m = FromBits(hn::Sub(bits, hn::ShiftLeft<23>(k)));
    V power = hn::ConvertTo(D(), k);
    power = hn::IfThenElse(tiny, hn::Sub(power, Number(23)), power);
    const V f = hn::Sub(m, Number(1));
    const V s = hn::Div(f, hn::Add(f, Number(2)));
    const V z = hn::Mul(s, s);
    const V twice = hn::Add(s, s);
    const V small =
        hn::Add(hn::Mul(hn::Mul(twice, z), Polynomial(z, kLog)), hn::Mul(power, Number(kLn2Low)));
    V log = hn::Add(hn::Mul(power, Number(kLn2High)), hn::Add(twice, small));
    const V infinity = Number(std::numeric_limits<float>::infinity());
    const V nan = Number(std::numeric_limits<float>::quiet_NaN());
    log = hn::IfThenElse(hn::Eq(x, infinity), infinity, log);
    log = hn::IfThenElse(hn::Eq(x, Number(0)), hn::Neg(infinity), log);
    return hn::IfThenElse(hn::Ge(x, Number(0)), log, nan);
  }
};

// atanh for |s| up to 1/3.
HWY_INLINE V SmallAtanh(V s) {
  constexpr float kAtanh[] = {0.3333333332f, 0.2000000541f,  0.1428515068f,
                              0.1113241870f, 0.08731618870f, 0.1039674503f};
  return Odd(s, kAtanh);
}

struct AtanhF {
  HWY_INLINE V operator()(V x) const {
    const V by_log =
        hn::Mul(Number(0.5f), LogF()(hn::Div(hn::Add(Number(1), x), hn::Sub(Number(1), x))));
    return hn::IfThenElse(hn::Lt(hn::Abs(x), Number(1.0f / 3)), SmallAtanh(x), by_log);
  }
};

struct SoftplusF {
  HWY_INLINE V operator()(V x) const {
    const V e = ExpShifted(hn::Neg(hn::Abs(x)), 0);
    // log(1 + e) = 2 atanh(e / (2 + e))
    const V half = SmallAtanh(hn::Div(e, hn::Add(e, Number(2))));
    const V positive = hn::IfThenElse(hn::Gt(x, Number(0)), x, Number(0));
    return hn::Add(positive, hn::Add(half, half));
  }
};

// 1 / (1 + e^-x), without cancellation or overflow on either side.
HWY_INLINE V SigmoidOf(V x) {
  const V e = ExpShifted(hn::Neg(hn::Abs(x)), 0);
  const V above = hn::IfThenElse(hn::Lt(x, Number(0)), e, Number(1));
  return hn::Div(above, hn::Add(Number(1), e));
}

struct SigmoidF {
  HWY_INLINE V operator()(V x) const { return SigmoidOf(x); }
};
struct SiluF {
  HWY_INLINE V operator()(V x) const { return hn::Mul(x, SigmoidOf(x)); }
};
struct GeluSigmoidF {
  HWY_INLINE V operator()(V x) const { return hn::Mul(x, SigmoidOf(hn::Mul(x, Number(1.702f)))); }
};
struct GeluTanhF {
  // 0.5 (1 + tanh(z)) = 1 / (1 + e^(-2z)), with 2 sqrt(2 / pi) = 1.595769.
  HWY_INLINE V operator()(V x) const {
    const V cube = hn::Mul(hn::Mul(x, x), hn::Mul(x, Number(0.044715f)));
    return hn::Mul(x, SigmoidOf(hn::Mul(hn::Add(x, cube), Number(1.595769122f))));
  }
};

struct EluF {
  float alpha;
  HWY_INLINE V operator()(V x) const {
    const V below = hn::Mul(Number(alpha), hn::Sub(ExpShifted(x, 0), Number(1)));
    return hn::IfThenElse(hn::Lt(x, Number(0)), below, x);
  }
};

struct TanhF {
  HWY_INLINE V operator()(V x) const {
    constexpr float kTanh[] = {-0.3333333317f, 0.1333330356f,    -0.05395925958f,
                               0.02176891865f, -0.008343945516f, 0.002292744816f};
    const V magnitude = hn::Abs(x);
    const V e = ExpShifted(hn::Add(magnitude, magnitude), 0);
    const V large = hn::Sub(Number(1), hn::Div(Number(2), hn::Add(e, Number(1))));
    return hn::IfThenElse(hn::Lt(magnitude, Number(0.625f)), Odd(x, kTanh), hn::CopySign(large, x));
  }
};

struct SinhF {
  HWY_INLINE V operator()(V x) const {
    constexpr float kSinh[] = {0.1666666665f, 0.008333339676f, 0.0001983810197f, 2.806280258e-6f};
    const V magnitude = hn::Abs(x);
    const V half = ExpShifted(magnitude, -1);
    const V large = hn::Sub(half, hn::Div(Number(0.25f), half));
    return hn::IfThenElse(hn::Lt(magnitude, Number(1)), Odd(x, kSinh), hn::CopySign(large, x));
  }
};

struct CoshF {
  HWY_INLINE V operator()(V x) const {
    const V half = ExpShifted(hn::Abs(x), -1);
    return hn::Add(half, hn::Div(Number(0.25f), half));
  }
};

// 1 - erf(t) for t >= 0: e^(-t^2) u P(u) with u = 1 / (1 + t / 2), which keeps its relative error
// until the result is no number of fp32 any more.
HWY_INLINE V ErfcOfPositive(V t) {
  constexpr float kErfc[] = {0.2820870943f,  0.2822896978f,  0.2447632925f,   0.1882015009f,
                             0.04468534959f, 0.06146288824f, -0.06620874825f, -0.2401393009f,
                             0.3464912690f,  -0.1769101784f, 0.03327713747f};
  const V u = hn::Div(Number(1), hn::Add(Number(1), hn::Mul(Number(0.5f), t)));
  return hn::Mul(ExpShifted(hn::Neg(hn::Mul(t, t)), 0), hn::Mul(u, Polynomial(u, kErfc)));
}

struct ErfF {
  HWY_INLINE V operator()(V x) const {
    constexpr float kErf[] = {1.128379167f,    -0.3761263845f,    0.1128377864f,  -0.02686477180f,
                              0.005216789490f, -0.0008356927920f, 9.470461782e-5f};
    const V magnitude = hn::Abs(x);
    const V large = hn::Sub(Number(1), ErfcOfPositive(magnitude));
    const V small = hn::Mul(x, Polynomial(hn::Mul(x, x), kErf));
    return hn::IfThenElse(hn::Lt(magnitude, Number(0.75f)), small, hn::CopySign(large, x));
  }
};

struct GeluF {
  HWY_INLINE V operator()(V x) const {
    const V beyond =
        hn::Mul(Number(0.5f), ErfcOfPositive(hn::Mul(hn::Abs(x), Number(0.7071067812f))));
    return hn::Mul(x, hn::IfThenElse(hn::Lt(x, Number(0)), beyond, hn::Sub(Number(1), beyond)));
  }
};

// Sine and cosine of what is left of x after the nearest multiple of pi/2; gives that multiple.
// pi/2 is cut in parts of 11 bits, whose products with numbers below 2^13 are exact.
constexpr float kLargestAngle = 12000;
HWY_INLINE VI Reduce(V x, V& sine, V& cosine) {
  constexpr float kSin[] = {-0.1666666666f, 0.008333331831f, -0.0001984006304f, 2.724686872e-6f};
  constexpr float kCos[] = {0.04166666666f, -0.001388888764f, 2.480058060e-5f, -2.729840765e-7f};
  VI quarter;
  const V n = NearestWhole(hn::Mul(x, Number(0.6366197724f)), quarter);
  V r = hn::Sub(x, hn::Mul(n, Number(0x1.92p0f)));
  r = hn::Sub(r, hn::Mul(n, Number(0x1.fb4p-12f)));
  r = hn::Sub(r, hn::Mul(n, Number(0x1.444p-24f)));
  r = hn::Sub(r, hn::Mul(n, Number(0x1.68c234p-39f)));
  const V z = hn::Mul(r, r);
  cosine = hn::Add(hn::Sub(Number(1), hn::Mul(Number(0.5f), z)),
                   hn::Mul(hn::Mul(z, z), Polynomial(z, kCos)));
  sine = Odd(r, kSin);
  return quarter;
}

HWY_INLINE M IsOdd(VI n) {
  const VI one = hn::Set(DI(), 1);
  return hn::RebindMask(D(), hn::Eq(hn::And(n, one), one));
}
// -v where the second bit of n is set.
HWY_INLINE V NegateBySecondBit(V v, VI n) {
  return FromBits(hn::Xor(Bits(v), hn::ShiftLeft<30>(hn::And(n, hn::Set(DI(), 2)))));
}

struct SinF {
  static double Exact(double x) { return std::sin(x); }
  HWY_INLINE V operator()(V x) const {
    V sine, cosine;
    const VI quarter = Reduce(x, sine, cosine);
    return NegateBySecondBit(hn::IfThenElse(IsOdd(quarter), cosine, sine), quarter);
  }
};
struct CosF {
  static double Exact(double x) { return std::cos(x); }
  HWY_INLINE V operator()(V x) const {
    V sine, cosine;
    const VI quarter = Reduce(x, sine, cosine);
    return NegateBySecondBit(hn::IfThenElse(IsOdd(quarter), sine, cosine),
                             hn::Add(quarter, hn::Set(DI(), 1)));
  }
};
struct TanF {
  static double Exact(double x) { return std::tan(x); }
  HWY_INLINE V operator()(V x) const {
    V sine, cosine;
    const M odd = IsOdd(Reduce(x, sine, cosine));
    return hn::Div(hn::IfThenElse(odd, hn::Neg(cosine), sine), hn::IfThenElse(odd, sine, cosine));
  }
};

// atan of a number that is not negative.
HWY_INLINE V AtanOfPositive(V x) {
  constexpr float kAtan[] = {-0.3333333328f, 0.1999997619f,   -0.1428409410f,
                             0.1107031217f,  -0.08616863957f, 0.05028080567f};
  const M steep = hn::Gt(x, Number(1));
  const V flat = hn::IfThenElse(steep, hn::Div(Number(1), x), x);
  const M middle = hn::Gt(flat, Number(0.4142135624f));
  const V turned = hn::Div(hn::Sub(flat, Number(1)), hn::Add(flat, Number(1)));
  const V rest = Odd(hn::IfThenElse(middle, turned, flat), kAtan);
  const V low = hn::Add(hn::IfThenElse(middle, Number(0.7853981634f), Number(0)), rest);
  return hn::IfThenElse(steep, hn::Sub(Number(1.570796327f), low), low);
}

struct AtanF {
  HWY_INLINE V operator()(V x) const { return hn::CopySign(AtanOfPositive(hn::Abs(x)), x); }
};
struct AsinF {
  HWY_INLINE V operator()(V x) const {
    const V a = hn::Abs(x);
    const V cosine = hn::Sqrt(hn::Mul(hn::Sub(Number(1), a), hn::Add(Number(1), a)));
    return hn::CopySign(AtanOfPositive(hn::Div(a, cosine)), x);
  }
};
struct AcosF {
  HWY_INLINE V operator()(V x) const {
    const V half = AtanOfPositive(hn::Sqrt(hn::Div(hn::Sub(Number(1), x), hn::Add(Number(1), x))));
    return hn::Add(half, half);
  }
};

// From 2^23 on every number is whole; below, adding 2^23 rounds.
HWY_INLINE V RoundOf(V x) {
  const V a = hn::Abs(x);
  const V whole = hn::Sub(hn::Add(a, Number(0x1p23f)), Number(0x1p23f));
  return hn::IfThenElse(hn::Lt(a, Number(0x1p23f)), hn::CopySign(whole, x), x);
}
struct RoundF {
  HWY_INLINE V operator()(V x) const { return RoundOf(x); }
};
struct FloorF {
  HWY_INLINE V operator()(V x) const {
    const V r = RoundOf(x);
    return hn::IfThenElse(hn::Gt(r, x), hn::Sub(r, Number(1)), r);
  }
};
struct CeilF {
  HWY_INLINE V operator()(V x) const {
    const V r = RoundOf(x);
    return hn::CopySign(hn::IfThenElse(hn::Lt(r, x), hn::Add(r, Number(1)), r), x);
  }
};

struct SqrtF {
  HWY_INLINE V operator()(V x) const { return hn::Sqrt(x); }
};
struct RsqrtF {
  float epsilon;
  HWY_INLINE V operator()(V x) const {
    return hn::Div(Number(1), hn::Sqrt(hn::Add(x, Number(epsilon))));
  }
};
struct InverseF {
  float epsilon;
  HWY_INLINE V operator()(V x) const { return hn::Div(Number(1), hn::Add(x, Number(epsilon))); }
};

template <typename F>
HWY_INLINE void Map(const F& f, float* values, size_t count) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(f(hn::LoadU(d, values + i)), d, values + i);
  if (i == count) return;
  HWY_ALIGN float rest[hn::MaxLanes(d)] = {};
  std::memcpy(rest, values + i, (count - i) * sizeof(float));
  hn::Store(f(hn::Load(d, rest)), d, rest);
  std::memcpy(values + i, rest, (count - i) * sizeof(float));
}

// Whether no number is further from zero than `limit`, or NaN.
HWY_INLINE bool AllWithin(float limit, const float* values, size_t count) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes)
    if (!hn::AllTrue(d, hn::Le(hn::Abs(hn::LoadU(d, values + i)), Number(limit)))) return false;
  for (; i < count; ++i)
    if (!(std::fabs(values[i]) <= limit)) return false;
  return true;
}

// The same for functions of angles: large ones, which are rare, are left to the C library.
template <typename F>
HWY_INLINE void MapAngles(const F& f, float* values, size_t count) {
  constexpr size_t kTogether = 256;
  for (size_t at = 0; at < count; at += kTogether) {
    const size_t length = count - at < kTogether ? count - at : kTogether;
    if (AllWithin(kLargestAngle, values + at, length)) {
      Map(f, values + at, length);
      continue;
    }
    float in[kTogether];
    std::memcpy(in, values + at, length * sizeof(float));
    Map(f, values + at, length);
    for (size_t i = 0; i < length; ++i)
      if (!(std::fabs(in[i]) <= kLargestAngle))
        values[at + i] = static_cast<float>(F::Exact(static_cast<double>(in[i])));
  }
}

#define CMLC_MAP(Name) \
  void Name(float* values, size_t count) { Map(Name##F(), values, count); }
#define CMLC_MAP_WITH(Name)                                 \
  void Name(float parameter, float* values, size_t count) { \
    Map(Name##F{parameter}, values, count);                 \
  }
#define CMLC_MAP_ANGLES(Name) \
  void Name(float* values, size_t count) { MapAngles(Name##F(), values, count); }

CMLC_MAP(Exp)
CMLC_MAP(Exp2)
CMLC_MAP(Log)
CMLC_MAP_ANGLES(Sin)
CMLC_MAP_ANGLES(Cos)
CMLC_MAP_ANGLES(Tan)
CMLC_MAP(Sinh)
CMLC_MAP(Cosh)
CMLC_MAP(Tanh)
CMLC_MAP(Asin)
CMLC_MAP(Acos)
CMLC_MAP(Atan)
CMLC_MAP(Atanh)
CMLC_MAP(Erf)
CMLC_MAP(Sigmoid)
CMLC_MAP(Silu)
CMLC_MAP(Softplus)
CMLC_MAP_WITH(Elu)
CMLC_MAP(Gelu)
CMLC_MAP(GeluTanh)
CMLC_MAP(GeluSigmoid)
CMLC_MAP(Round)
CMLC_MAP(Ceil)
CMLC_MAP(Floor)
CMLC_MAP(Sqrt)
CMLC_MAP_WITH(Rsqrt)
CMLC_MAP_WITH(Inverse)

#undef CMLC_MAP
#undef CMLC_MAP_WITH
#undef CMLC_MAP_ANGLES

}  // namespace HWY_NAMESPACE
}  // namespace numeric
}  // namespace cmlc
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cmlc::numeric {

#define CMLC_DISPATCH(Name) \
  HWY_EXPORT(Name);         \
  void Name(float* values, size_t count) { HWY_DYNAMIC_DISPATCH(Name)(values, count); }
#define CMLC_DISPATCH_WITH(Name)                            \
  HWY_EXPORT(Name);                                         \
  void Name(float parameter, float* values, size_t count) { \
    HWY_DYNAMIC_DISPATCH(Name)(parameter, values, count);   \
  }

CMLC_DISPATCH(Exp)
CMLC_DISPATCH(Exp2)
CMLC_DISPATCH(Log)
CMLC_DISPATCH(Sin)
CMLC_DISPATCH(Cos)
CMLC_DISPATCH(Tan)
CMLC_DISPATCH(Sinh)
CMLC_DISPATCH(Cosh)
CMLC_DISPATCH(Tanh)
CMLC_DISPATCH(Asin)
CMLC_DISPATCH(Acos)
CMLC_DISPATCH(Atan)
CMLC_DISPATCH(Atanh)
CMLC_DISPATCH(Erf)
CMLC_DISPATCH(Sigmoid)
CMLC_DISPATCH(Silu)
CMLC_DISPATCH(Softplus)
CMLC_DISPATCH_WITH(Elu)
CMLC_DISPATCH(Gelu)
CMLC_DISPATCH(GeluTanh)
CMLC_DISPATCH(GeluSigmoid)
CMLC_DISPATCH(Round)
CMLC_DISPATCH(Ceil)
CMLC_DISPATCH(Floor)
CMLC_DISPATCH(Sqrt)
CMLC_DISPATCH_WITH(Rsqrt)
CMLC_DISPATCH_WITH(Inverse)

#undef CMLC_DISPATCH
#undef CMLC_DISPATCH_WITH

}  // namespace cmlc::numeric
#endif  // HWY_ONCE
