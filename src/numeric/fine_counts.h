// A histogram of fp32 values that is fine enough to fit a small LUT to.
#ifndef CMLC_NUMERIC_FINE_COUNTS_H_
#define CMLC_NUMERIC_FINE_COUNTS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <span>

namespace cmlc::numeric {

// How many values there are in every slot: 2^10 neighbouring bit patterns, so that a slot is told
// by sign, exponent and 13 bits of mantissa. Where in its slot a value lies is not kept. The table
// has 16 MiB, of which only the exponents that occur are ever touched; those of most weights take
// less than 1 MiB, which stays in the second-level cache.
//
// A key is that of FloatKey: it orders values.
class FineCounts {
 public:
  static constexpr int kSlotShift = 10;
  static constexpr int kRowShift = 23;  // values of one sign and exponent are a row
  // Between clearings, with what is merged.
  static constexpr uint64_t kMostValues = uint64_t{1} << 28;

  FineCounts();
  void Add(std::span<const float> values);
  void Merge(const FineCounts& other);
  void Clear();

  bool finite() const { return extent_.greatest < kInfinity; }
  // Whether any value is other than zero, and the exponents (of 8 bits, as stored) of those.
  bool any() const { return extent_.greatest > 0; }
  int least_exponent() const { return static_cast<int>((extent_.least_less_one + 1) >> kRowShift); }
  int greatest_exponent() const { return static_cast<int>(extent_.greatest >> kRowShift); }
  // Zeros of either sign, if no exponent is 0.
  uint64_t zeros() const { return uint64_t{counts_[0]} + counts_[kNegative]; }
  // Whether every value is the one of its slot that is nearest to zero: those of fp16 are.
  bool exact() const { return (extent_.any_bits & ((1u << kSlotShift) - 1)) == 0; }

  struct Part {
    uint64_t count = 0;
    // Sum of the places of the values' slots among those of the part, by key.
    uint64_t slots = 0;
  };
  // Of the 2^shift keys from `first` on, a multiple of that many. They are of one row, and
  // shift is kSlotShift or more.
  Part Sum(uint32_t first, int shift) const;

  // The least and the greatest magnitude that is not zero, as bit patterns, the former less 1 so
  // that zero is the greatest; and all bits of magnitudes that occur.
  struct Extent {
    uint32_t least_less_one = std::numeric_limits<uint32_t>::max();
    uint32_t greatest = 0;
    uint32_t any_bits = 0;
    void Add(const Extent& other) {
      least_less_one = std::min(least_less_one, other.least_less_one);
      greatest = std::max(greatest, other.greatest);
      any_bits |= other.any_bits;
    }
  };

 private:
  static constexpr uint32_t kInfinity = 0x7f800000;
  static constexpr size_t kSlots = size_t{1} << (32 - kSlotShift);
  static constexpr size_t kRowSlots = size_t{1} << (kRowShift - kSlotShift);
  static constexpr size_t kNegative = kSlots / 2;  // first slot of negative values
  struct Free {
    void operator()(uint32_t* table) const { std::free(table); }
  };
  // Calls visit(first slot, number of slots) for all that may not be empty.
  template <typename Visitor>
  void ForEachRun(const Visitor& visit) const;
  std::unique_ptr<uint32_t[], Free> counts_;  // in the order of bit patterns
  Extent extent_;
};

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_FINE_COUNTS_H_
