#include "calibrate/exact_sum.h"

#include <cmath>
#include <limits>

namespace cmlc::calibrate {
namespace {

constexpr int kLowest = -160;
constexpr int kMantissaBits = 53;
// No number of this exponent or more is added, so that 2^64 and more of them fit.
constexpr int kGreatestExponent = 94;

}  // namespace

void ExactSum::AddLimbs(const Limbs& other) {
  uint64_t carry = 0;
  for (int i = 0; i < kLimbs; ++i) {
    const uint64_t sum = limbs_[i] + other[i];
    const uint64_t with_carry = sum + carry;
    carry = (sum < other[i] ? 1u : 0u) | (with_carry < carry ? 1u : 0u);
    limbs_[i] = with_carry;
  }
}

void ExactSum::Add(double number) {
  int exponent = 0;
  const double fraction = std::frexp(number, &exponent);
  if (fraction == 0) return;
  if (exponent > kGreatestExponent) {
    overflowed_ = true;
    return;
  }
  auto mantissa = static_cast<int64_t>(std::ldexp(std::fabs(fraction), kMantissaBits));
  int bit = exponent - kMantissaBits - kLowest;
  if (bit < 0) {
    mantissa = bit <= -kMantissaBits ? 0 : mantissa >> -bit;
    bit = 0;
  }
  Limbs other{};
  const int limb = bit / 64, shift = bit % 64;
  const auto magnitude = static_cast<uint64_t>(mantissa);
  other[limb] = magnitude << shift;
  if (shift > 0 && limb + 1 < kLimbs) other[limb + 1] = magnitude >> (64 - shift);
  if (number < 0) {
    // Minus x is not x, plus 1.
    uint64_t carry = 1;
    for (uint64_t& one : other) {
      one = ~one + carry;
      carry = carry != 0 && one == 0 ? 1 : 0;
    }
  }
  AddLimbs(other);
}

void ExactSum::Add(const ExactSum& other) {
  overflowed_ = overflowed_ || other.overflowed_;
  AddLimbs(other.limbs_);
}

double ExactSum::value() const {
  if (overflowed_) return std::numeric_limits<double>::infinity();
  const bool negative = (limbs_[kLimbs - 1] >> 63) != 0;
  Limbs magnitude = limbs_;
  if (negative) {
    uint64_t carry = 1;
    for (uint64_t& one : magnitude) {
      one = ~one + carry;
      carry = carry != 0 && one == 0 ? 1 : 0;
    }
  }
  double sum = 0;
  for (int i = 0; i < kLimbs; ++i)
    sum += std::ldexp(static_cast<double>(magnitude[i]), 64 * i + kLowest);
  return negative ? -sum : sum;
}

}  // namespace cmlc::calibrate
