#include "numeric/points.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "numeric/half.h"

namespace cmlc::numeric {
namespace {

constexpr uint64_t kFlushHalvesAfter = uint64_t{1} << 31;
constexpr size_t kPrefetchBytes = 4096;
constexpr uint32_t kLowBits = (1u << kFloatBinShift) - 1;

// Radix sort by bytes, `bytes` of them from the lowest; the result ends up in `keys`.
void SortKeys(SortScratch& scratch, int bytes) {
  std::vector<uint32_t>& keys = scratch.keys;
  std::vector<uint32_t>& swap = scratch.swap;
  if (keys.size() < 256) {
    std::sort(keys.begin(), keys.end());
    return;
  }
  swap.resize(keys.size());
  for (int byte = 0; byte < bytes; ++byte) {
    const int shift = 8 * byte;
    std::array<uint32_t, 256> starts{};
    for (const uint32_t key : keys) ++starts[(key >> shift) & 0xff];
    if (std::find(starts.begin(), starts.end(), keys.size()) != starts.end()) continue;
    uint32_t sum = 0;
    for (uint32_t& start : starts) sum += std::exchange(start, sum);
    for (const uint32_t key : keys) swap[starts[(key >> shift) & 0xff]++] = key;
    keys.swap(swap);
  }
}

// Runs of equal keys become points.
template <typename ValueOf>
void CollectRuns(const std::vector<uint32_t>& keys, const ValueOf& value_of, Points& points) {
  points.clear();
  for (size_t i = 0; i < keys.size();) {
    size_t end = i + 1;
    while (end < keys.size() && keys[end] == keys[i]) ++end;
    points.Add(value_of(keys[i]), static_cast<double>(end - i));
    i = end;
  }
}

}  // namespace

HalfCounts::HalfCounts() : counts_(kHalfPatterns, 0) {}

void HalfCounts::Add(std::span<const uint16_t> values) {
  while (!values.empty()) {
    const auto step =
        static_cast<size_t>(std::min<uint64_t>(values.size(), kFlushHalvesAfter - pending_));
    CountHalves(values.first(step), counts_.data());
    pending_ += step;
    values = values.subspan(step);
    if (pending_ == kFlushHalvesAfter) Flush();
  }
}

void HalfCounts::Flush() {
  high_.resize(kHalfPatterns);
  for (size_t i = 0; i < kHalfPatterns; ++i) high_[i] += std::exchange(counts_[i], 0);
  pending_ = 0;
}

void HalfCounts::Merge(const HalfCounts& other) {
  high_.resize(kHalfPatterns);
  for (size_t i = 0; i < kHalfPatterns; ++i) high_[i] += other.count(static_cast<uint16_t>(i));
}

void HalfCounts::Clear() {
  std::fill(counts_.begin(), counts_.end(), 0);
  high_.clear();
  pending_ = 0;
}

uint64_t HalfCounts::not_finite() const {
  uint64_t total = 0;
  for (uint32_t i = 0x7c00; i < 0x8000; ++i)
    total += count(static_cast<uint16_t>(i)) + count(static_cast<uint16_t>(i | 0x8000));
  return total;
}

void HalfCounts::ToPoints(Points& points) const {
  points.clear();
  const auto add = [&](uint32_t pattern) {
    if (const uint64_t n = count(static_cast<uint16_t>(pattern)); n > 0)
      points.Add(static_cast<double>(HalfToFloat(static_cast<uint16_t>(pattern))),
                 static_cast<double>(n));
  };
  // Most patterns do not occur, and those that do lie together.
  constexpr uint32_t kRun = 16;
  const auto empty = [&](uint32_t first) {
    if (!high_.empty()) return false;
    uint32_t any = 0;
    for (uint32_t i = 0; i < kRun; ++i) any |= counts_[first + i];
    return any == 0;
  };
  for (uint32_t end = 0xfc00; end > 0x8000; end -= kRun)
    if (!empty(end - kRun))
      for (uint32_t i = 1; i <= kRun && end - i > 0x8000; ++i) add(end - i);
  if (const uint64_t n = count(0) + count(0x8000); n > 0) points.Add(0.0, static_cast<double>(n));
  for (uint32_t first = 0; first < 0x7c00; first += kRun)
    if (!empty(first))
      for (uint32_t i = first == 0 ? 1 : 0; i < kRun; ++i) add(first + i);
}

FloatCounts::FloatCounts() : packed_(kFloatBins, 0) {}

void FloatCounts::Add(std::span<const float> values) {
  while (!values.empty()) {
    const auto step =
        static_cast<size_t>(std::min<uint64_t>(values.size(), kFlushAfter - pending_));
    uint64_t* packed = packed_.data();
    const auto add = [packed](float value) {
      const auto bits = std::bit_cast<uint32_t>(value);
      packed[bits >> kFloatBinShift] += (uint64_t{1} << kPositionBits) | (bits & kLowBits);
    };
    const float* at = values.data();
    size_t left = step;
    for (; left >= 16; left -= 16, at += 16) {
      // The hardware's own prefetching stops at page ends.
      __builtin_prefetch(reinterpret_cast<const char*>(at) + kPrefetchBytes);
      for (int i = 0; i < 16; ++i) add(at[i]);
    }
    for (; left > 0; --left, ++at) add(*at);
    pending_ += step;
    values = values.subspan(step);
    if (pending_ == kFlushAfter) Flush();
  }
}

void FloatCounts::UseFlushed() {
  if (flushed_) return;
  counts_.assign(kFloatBins, 0);
  positions_.assign(kFloatBins, 0);
  flushed_ = true;
}

void FloatCounts::Flush() {
  UseFlushed();
  for (size_t i = 0; i < kFloatBins; ++i) {
    if (packed_[i] == 0) continue;
    counts_[i] += packed_[i] >> kPositionBits;
    positions_[i] += packed_[i] & kPositionMask;
    packed_[i] = 0;
  }
  pending_ = 0;
}

void FloatCounts::Merge(const FloatCounts& other) {
  UseFlushed();
  for (uint32_t i = 0; i < kFloatBins; ++i) {
    counts_[i] += other.CountAt(i);
    positions_[i] += other.PositionsAt(i);
  }
}

void FloatCounts::Clear() {
  pending_ = 0;
  flushed_ = false;
  // Reading costs less than writing, and there is little to clear.
  for (uint32_t first = 0; first < kFloatBins; first += kRun)
    if (!Empty(first)) std::fill_n(packed_.begin() + first, kRun, 0);
}

double FloatCounts::mean_position(uint32_t bin) const {
  const uint32_t slot = SlotOf(bin);
  const uint64_t n = CountAt(slot);
  const uint64_t positions = PositionsAt(slot);
  const uint64_t sum = slot < kNegativeSlots ? positions : n * kLowBits - positions;
  return static_cast<double>(sum) / static_cast<double>(n);
}

double FloatCounts::mean(uint32_t bin) const {
  const auto start = static_cast<double>(FloatBinStart(bin));
  const double next = static_cast<double>(FloatOfKey((bin << kFloatBinShift) + 1));
  return start + (next - start) * mean_position(bin);
}

uint64_t FloatCounts::not_finite() const {
  uint64_t total = 0;
  for (uint32_t slot = kFiniteSlots; slot < kNegativeSlots; ++slot)
    total += CountAt(slot) + CountAt(slot + kNegativeSlots);
  return total;
}

void FloatCounts::ToPoints(Points& points) const {
  points.clear();
  ForEachBin([&](uint32_t bin) {
    const double value = mean(bin);
    const auto weight = static_cast<double>(count(bin));
    // The bins on either side of zero may both hold nothing but a zero.
    if (!points.values.empty() && value <= points.values.back())
      points.weights.back() += weight;
    else
      points.Add(value, weight);
  });
}

void PointsOf(std::span<const uint16_t> halves, SortScratch& scratch, Points& points) {
  scratch.keys.resize(halves.size());
  for (size_t i = 0; i < halves.size(); ++i)
    scratch.keys[i] = HalfKey(halves[i] == 0x8000 ? uint16_t{0} : halves[i]);
  SortKeys(scratch, 2);
  CollectRuns(
      scratch.keys,
      [](uint32_t key) {
        return static_cast<double>(HalfToFloat(HalfOfKey(static_cast<uint16_t>(key))));
      },
      points);
}

void PointsOf(std::span<const float> floats, SortScratch& scratch, Points& points) {
  scratch.keys.resize(floats.size());
  for (size_t i = 0; i < floats.size(); ++i)
    scratch.keys[i] = FloatKey(floats[i] == 0.0f ? 0.0f : floats[i]);
  SortKeys(scratch, 4);
  CollectRuns(
      scratch.keys, [](uint32_t key) { return static_cast<double>(FloatOfKey(key)); }, points);
}

}  // namespace cmlc::numeric
