// Counting numbers, fast.
#ifndef CMLC_CALIBRATE_ACCUMULATOR_H_
#define CMLC_CALIBRATE_ACCUMULATOR_H_

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "calibrate/exact_sum.h"
#include "calibrate/statistics.h"

namespace cmlc::calibrate {

// Takes numbers and gives their statistics, all but those of runs and channels. Of several that
// share the numbers of a value (in whatever pieces of a multiple of kPart, but for the last) the
// order in which they give them makes no difference. Takes 2 MiB.
class Accumulator {
 public:
  static constexpr size_t kPart = 4096;

  void Add(std::span<const float> numbers);
  // Adds what it has to a value, and starts anew.
  void MoveTo(ValueStatistics& value);

 private:
  void AddOneByOne(std::span<const float> numbers);
  void EmptyTables(ValueStatistics& value);

  // Four histograms, which take turns: where numbers repeat, an increment would have to wait for
  // the one before.
  static constexpr size_t kTables = 4;
  static constexpr size_t kBins = Histogram::kBlocks * Histogram::kBlock;
  std::vector<uint32_t> tables_;
  uint64_t in_tables_ = 0;
  float least_magnitude_ = std::numeric_limits<float>::infinity();
  ValueStatistics rest_;  // all that is not in the tables
};

}  // namespace cmlc::calibrate

#endif  // CMLC_CALIBRATE_ACCUMULATOR_H_
