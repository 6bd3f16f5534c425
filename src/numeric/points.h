// The distinct values of a tensor and how often each occurs: what LUTs are fitted to.
#ifndef CMLC_NUMERIC_POINTS_H_
#define CMLC_NUMERIC_POINTS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "numeric/histogram.h"

namespace cmlc::numeric {

// Ascending distinct values with their multiplicities. Both zeros are one value, 0.
struct Points {
  std::vector<double> values;
  std::vector<double> weights;

  void clear() {
    values.clear();
    weights.clear();
  }
  void Add(double value, double weight) {
    values.push_back(value);
    weights.push_back(weight);
  }
};

// Counts of all fp16 patterns. 256 KiB; the counts have 64 bits through a second table that is only
// there from the 2^31st value on, or when counts were merged.
class HalfCounts {
 public:
  HalfCounts();
  void Add(std::span<const uint16_t> values);
  void Merge(const HalfCounts& other);
  void Clear();
  uint64_t count(uint16_t pattern) const {
    return counts_[pattern] + (high_.empty() ? 0 : high_[pattern]);
  }
  // The number of infinities and NaNs.
  uint64_t not_finite() const;
  void ToPoints(Points& points) const;

 private:
  void Flush();
  std::vector<uint32_t> counts_;
  std::vector<uint64_t> high_;
  uint64_t pending_ = 0;
};

// For every 19-bit bin of fp32 (see histogram.h), how many values fall into it and their mean,
// exactly: a bin holds values of one exponent, so a sum of positions inside it is a sum of values.
class FloatCounts {
 public:
  FloatCounts();
  void Add(std::span<const float> values);
  void Merge(const FloatCounts& other);
  void Clear();
  uint64_t count(uint32_t bin) const { return CountAt(SlotOf(bin)); }
  // Mean of the low 13 bits of the keys.
  double mean_position(uint32_t bin) const;
  double mean(uint32_t bin) const;
  uint64_t not_finite() const;
  // One point a bin, at the mean of its values.
  void ToPoints(Points& points) const;

  // Calls visit(bin) for every bin that holds finite values, ascending.
  template <typename Visitor>
  void ForEachBin(const Visitor& visit) const {
    // Most bins are empty, and those that are not lie together.
    for (uint32_t end = kNegativeSlots + kFiniteSlots; end > kNegativeSlots; end -= kRun)
      if (!Empty(end - kRun))
        for (uint32_t slot = end; slot-- > end - kRun;)
          if (HasValues(slot)) visit(BinOf(slot));
    for (uint32_t first = 0; first < kFiniteSlots; first += kRun)
      if (!Empty(first))
        for (uint32_t slot = first; slot < first + kRun; ++slot)
          if (HasValues(slot)) visit(BinOf(slot));
  }

 private:
  // Tables are in the order of the bit patterns, whose top 19 bits select a slot: that spares the
  // counting loop the making of keys. Negative values come last there, the one nearest to zero
  // first, and their positions count down.
  static constexpr uint32_t kNegativeSlots = kFloatBins / 2;
  static constexpr uint32_t kFiniteSlots = 0xffu << (23 - kFloatBinShift);  // of either sign
  static constexpr uint32_t kRun = 16;
  static uint32_t SlotOf(uint32_t bin) {
    return bin >= kNegativeSlots ? bin - kNegativeSlots : kFloatBins - 1 - bin;
  }
  static uint32_t BinOf(uint32_t slot) {
    return slot < kNegativeSlots ? slot + kNegativeSlots : kFloatBins - 1 - slot;
  }

  // A packed entry holds the sum of the low 13 bits of the patterns below, and the count above.
  // 2^24 values fill 37 and 25 bits.
  static constexpr int kPositionBits = 38;
  static constexpr uint64_t kPositionMask = (uint64_t{1} << kPositionBits) - 1;
  static constexpr uint64_t kFlushAfter = uint64_t{1} << 24;
  void Flush();
  // Makes the flushed tables, which smaller tensors do without, ready to be added to.
  void UseFlushed();
  uint64_t CountAt(uint32_t slot) const {
    return (flushed_ ? counts_[slot] : 0) + (packed_[slot] >> kPositionBits);
  }
  uint64_t PositionsAt(uint32_t slot) const {
    return (flushed_ ? positions_[slot] : 0) + (packed_[slot] & kPositionMask);
  }
  bool HasValues(uint32_t slot) const {
    return packed_[slot] != 0 || (flushed_ && counts_[slot] != 0);
  }
  bool Empty(uint32_t first) const {
    uint64_t any = 0;
    for (uint32_t i = first; i < first + kRun; ++i) any |= packed_[i];
    if (flushed_)
      for (uint32_t i = first; i < first + kRun; ++i) any |= counts_[i];
    return any == 0;
  }
  std::vector<uint64_t> packed_;
  // What was flushed, and its sums of positions. Meaningless unless `flushed_`.
  std::vector<uint64_t> counts_, positions_;
  uint64_t pending_ = 0;
  bool flushed_ = false;
};

// The exact points of a few values, by sorting. `scratch` is reused between calls.
struct SortScratch {
  std::vector<uint32_t> keys, swap;
};
void PointsOf(std::span<const uint16_t> halves, SortScratch& scratch, Points& points);
void PointsOf(std::span<const float> floats, SortScratch& scratch, Points& points);

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_POINTS_H_
