// IEEE half precision (fp16), one value at a time, and the order of its bit patterns.
//
// Bulk conversions are in convert.h; these serve scalars, tables and tests.
#ifndef CMLC_NUMERIC_HALF_H_
#define CMLC_NUMERIC_HALF_H_

#include <bit>
#include <cmath>
#include <cstdint>

namespace cmlc::numeric {

constexpr float kMaxHalf = 65504.0f;

inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in fp32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

// Rounds to nearest, ties to even; beyond the range it gives infinity.
inline uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x7f800000u)  // infinity and NaN, which stays a NaN
    return static_cast<uint16_t>(sign | 0x7c00u | (magnitude > 0x7f800000u ? 0x200u : 0u));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536
  if (magnitude < 0x38800000u) {
    // Below the normal range: adding 0.5 aligns the result's last bit with that of the sum, so the
    // hardware does the rounding.
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(sum) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// Rounds to nearest, ties to even, from double directly: no double rounding.
inline uint16_t DoubleToHalf(double value) {
  // Rounding to fp32 with "sticky" last bit keeps the second rounding correct.
  const float narrow = static_cast<float>(value);
  if (static_cast<double>(narrow) == value || !std::isfinite(narrow)) return FloatToHalf(narrow);
  uint32_t bits = std::bit_cast<uint32_t>(narrow);
  const bool rounded_up = std::fabs(static_cast<double>(narrow)) > std::fabs(value);
  if (rounded_up) --bits;  // towards zero; never crosses zero, as narrow is not 0 when rounded up
  return FloatToHalf(std::bit_cast<float>(bits | 1u));
}

inline bool IsFiniteHalf(uint16_t half) { return (half & 0x7c00u) != 0x7c00u; }

// A key that orders finite halves like their values, -0 just below +0.
inline uint16_t HalfKey(uint16_t half) {
  return static_cast<uint16_t>((half & 0x8000u) != 0 ? ~half : half | 0x8000u);
}
inline uint16_t HalfOfKey(uint16_t key) {
  return static_cast<uint16_t>((key & 0x8000u) != 0 ? key & 0x7fffu : ~key);
}

// The same for fp32.
inline uint32_t FloatKey(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}
inline float FloatOfKey(uint32_t key) {
  return std::bit_cast<float>((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
}

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_HALF_H_
