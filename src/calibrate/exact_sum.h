// Sums of doubles that do not depend on the order in which they are added, so that statistics of
// parts, merged in any way, equal those of the whole bit for bit.
#ifndef CMLC_CALIBRATE_EXACT_SUM_H_
#define CMLC_CALIBRATE_EXACT_SUM_H_

#include <array>
#include <cstdint>

namespace cmlc::calibrate {

// A number of 320 bits in two's complement, whose lowest bit is worth 2^-160. A double is added
// without rounding, but for what of it lies below 2^-160, which is cut off. Sums reach 2^158.
class ExactSum {
 public:
  static constexpr int kLimbs = 5;
  using Limbs = std::array<uint64_t, kLimbs>;

  ExactSum() = default;
  ExactSum(const Limbs& limbs, bool overflowed) : limbs_(limbs), overflowed_(overflowed) {}

  // `number` is finite.
  void Add(double number);
  void Add(const ExactSum& other);

  // The sum, rounded to a double; infinite if anything was too large to be added.
  double value() const;
  bool overflowed() const { return overflowed_; }
  const Limbs& limbs() const { return limbs_; }
  bool operator==(const ExactSum&) const = default;

 private:
  void AddLimbs(const Limbs& other);
  Limbs limbs_{};  // the lowest first
  bool overflowed_ = false;
};

}  // namespace cmlc::calibrate

#endif  // CMLC_CALIBRATE_EXACT_SUM_H_
