// What there is to say about the values of a tensor.
#ifndef CMLC_NUMERIC_VALUE_SUMMARY_H_
#define CMLC_NUMERIC_VALUE_SUMMARY_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "numeric/points.h"

namespace cmlc::numeric {

struct ValueSummary {
  uint64_t zeros = 0;     // of either sign
  uint64_t distinct = 0;  // bit patterns, but both zeros are one
  uint64_t not_finite = 0;
  // Of the finite ones; infinity and -infinity if there are none.
  double least = std::numeric_limits<double>::infinity();
  double greatest = -std::numeric_limits<double>::infinity();
};

ValueSummary SummaryOf(const HalfCounts& counts);

// Sums up fp32 values. Which of the 2^32 patterns have occurred is kept as a bit for each, in pages
// of 8 KiB that are made when the first of their 65,536 patterns turns up.
class FloatSummary {
 public:
  FloatSummary();
  // Best a million at a time.
  void Add(std::span<const float> values);
  ValueSummary Summary() const;
  void Clear();

 private:
  static constexpr int kPageShift = 16;
  static constexpr size_t kPageWords = (size_t{1} << kPageShift) / 64;
  uint64_t* NewPage(size_t page);
  ValueSummary summary_;
  std::vector<uint64_t*> pages_;  // by the top bits of a pattern; null: not there
  std::vector<size_t> used_;      // pages that are there, in the order in which they were made
  std::vector<std::unique_ptr<uint64_t[]>> owned_;  // those, and then empty ones
  std::vector<uint32_t> by_row_;  // the patterns of some values, by sign and exponent
};

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_VALUE_SUMMARY_H_
