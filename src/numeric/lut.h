// Finding the nearest entry of a lookup table (LUT), for many values.
#ifndef CMLC_NUMERIC_LUT_H_
#define CMLC_NUMERIC_LUT_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace cmlc::numeric {

// Assigns fp16 values to the nearest entry of an ascending LUT of at most 256 entries; a value
// exactly between two entries goes to the lower index, and of equal entries the first is taken.
class HalfAssigner {
 public:
  // `lut` as fp16 bit patterns, ascending by value. `expected` is about how many values will be
  // assigned: a table of all patterns pays from some thousands on.
  HalfAssigner(std::span<const uint16_t> lut, uint64_t expected);

  // codes[i] is the index for values[i], which must be finite. Any thread may call it.
  void Assign(std::span<const uint16_t> values, uint8_t* codes) const;

 private:
  // The last key (as in HalfKey, less 32768) of each index but the last: a value's code is the
  // number of them below its key.
  std::vector<int16_t> last_keys_;
  std::vector<uint8_t> table_;  // by bit pattern; empty: compare or search
};

// Sums of squares: of values, and of their distances to the entries that they are assigned to.
struct Squares {
  double signal = 0;
  double noise = 0;
};

// The same for fp32. Distances are compared exactly.
class FloatAssigner {
 public:
  FloatAssigner(std::span<const float> lut, uint64_t expected);
  void Assign(std::span<const float> values, uint8_t* codes) const;
  // Assign, SumOfSquares and SquaredError at once, with the same results to the bit. `lut` is that
  // of the constructor.
  Squares AssignAndMeasure(std::span<const float> values, uint8_t* codes,
                           std::span<const float> lut) const;

 private:
  std::vector<float> last_values_;  // the largest value of each index but the last
  std::vector<uint8_t> table_;      // lowest possible code by FloatBin; empty: compare or search
};

// Sum of (values[i] - lut[codes[i]])^2. Blocks are added in a fixed order, so the result does not
// depend on the number of threads. `lut` has an entry for every code.
double SquaredError(std::span<const float> values, const uint8_t* codes,
                    std::span<const float> lut);
double SumOfSquares(std::span<const float> values);

// Index of the first value that is infinite or not a number; `values.size()` if there is none.
size_t FirstNotFinite(std::span<const float> values);
size_t FirstNotFinite(std::span<const uint16_t> halves);

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_LUT_H_
