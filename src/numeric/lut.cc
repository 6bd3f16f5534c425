// With up to 16 entries the code of a value is the number of thresholds that it passes: at most 15
// compares (six, in two steps, where there are exactly 15), each for a whole vector of values, beat
// a table look-up per value by a factor of two to four. With more entries a table wins where many
// values share it: all 65,536 patterns of fp16, or the 19-bit bins of fp32 followed by a compare or
// two. For few values bisection does.
#include "numeric/lut.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "numeric/lut.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "numeric/half.h"
#include "numeric/histogram.h"

#ifndef CMLC_NUMERIC_LUT_ONCE_
#define CMLC_NUMERIC_LUT_ONCE_
namespace cmlc::numeric {
// Up to this many thresholds values are compared with them, a vector of values at a time.
constexpr size_t kMostCompares = 15;
// A LUT that fits into one or two vectors is shuffled, which is several times as fast as fetching
// its entries from memory.
constexpr size_t kMostShuffled = kMostCompares + 1;
// Sums of squares are kept in fp32 for a block of this many values, then added in double.
constexpr size_t kSumBlock = 256;
}  // namespace cmlc::numeric
#endif

HWY_BEFORE_NAMESPACE();
namespace cmlc {
namespace numeric {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kPrefetchBytes = 4096;

void CountPassedHalves(const uint16_t* values, size_t count, const int16_t* thresholds,
                       size_t threshold_count, uint8_t* codes) {
  const hn::ScalableTag<int16_t> d;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d);
  const auto magnitude = hn::Set(d, 0x7fff);
  // Adds 1 where the key is above the threshold.
  const auto count_up = [&](auto passed, auto key, auto threshold) HWY_ATTR {
    return hn::Sub(passed, hn::VecFromMask(d, hn::Gt(key, threshold)));
  };
  // For 15 thresholds: which quarter of them a key is in takes three compares, and three more
  // with the thresholds of that quarter, picked by a shuffle of bytes, find its place in there.
  const bool in_quarters = threshold_count == kMostCompares;
  [[maybe_unused]] const hn::Repartition<uint8_t, decltype(d)> d8x2;
  [[maybe_unused]] HWY_ALIGN int16_t quarter_tables[3][hn::MaxLanes(d)];
  const size_t block_lanes = std::min<size_t>(8, lanes);
  if (in_quarters)
    for (size_t j = 0; j < 3; ++j)
      for (size_t i = 0; i < lanes; ++i)
        quarter_tables[j][i] = thresholds[4 * (i % block_lanes % 4) + j];
  const auto one_vector = [&](const uint16_t* from, uint8_t* to) HWY_ATTR {
    const auto bits = hn::LoadU(d, reinterpret_cast<const int16_t*>(from));
    const auto key = hn::Xor(bits, hn::And(hn::ShiftRight<15>(bits), magnitude));
    auto passed = hn::Zero(d);
#if HWY_TARGET != HWY_SCALAR
    if (in_quarters) {
      auto quarter = count_up(passed, key, hn::Set(d, thresholds[3]));
      quarter = count_up(quarter, key, hn::Set(d, thresholds[7]));
      quarter = count_up(quarter, key, hn::Set(d, thresholds[11]));
      // Bytes 2q and 2q + 1 of a table are its q-th entry.
      const auto bytes = hn::Add(hn::Mul(quarter, hn::Set(d, 0x0202)), hn::Set(d, 0x0100));
      passed = hn::ShiftLeft<2>(quarter);
      for (size_t j = 0; j < 3; ++j) {
        const auto table = hn::BitCast(d8x2, hn::Load(d, quarter_tables[j]));
        const auto threshold = hn::TableLookupBytes(table, hn::BitCast(d8x2, bytes));
        passed = count_up(passed, key, hn::BitCast(d, threshold));
      }
      hn::StoreU(hn::DemoteTo(d8, passed), d8, to);
      return;
    }
#endif
    for (size_t t = 0; t < threshold_count; ++t)
      passed = count_up(passed, key, hn::Set(d, thresholds[t]));
    hn::StoreU(hn::DemoteTo(d8, passed), d8, to);
  };
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    // The hardware's own prefetching stops at page ends.
    __builtin_prefetch(reinterpret_cast<const char*>(values + i) + kPrefetchBytes);
    one_vector(values + i, codes + i);
  }
  if (i < count) {  // groups of channels often make runs shorter than a vector
    HWY_ALIGN uint16_t rest[hn::MaxLanes(d)] = {};
    HWY_ALIGN uint8_t rest_codes[hn::MaxLanes(d)];
    std::memcpy(rest, values + i, (count - i) * sizeof(uint16_t));
    one_vector(rest, rest_codes);
    std::memcpy(codes + i, rest_codes, count - i);
  }
}

void CountPassedFloats(const float* values, size_t count, const float* thresholds,
                       size_t threshold_count, uint8_t* codes) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d);
  const auto count_up = [&](auto passed, auto value, auto threshold) HWY_ATTR {
    return hn::Sub(passed, hn::BitCast(di, hn::VecFromMask(d, hn::Gt(value, threshold))));
  };
  // In quarters, as for fp16, where a vector has the four entries of a table.
  const bool in_quarters = threshold_count == kMostCompares && lanes >= 4;
  [[maybe_unused]] HWY_ALIGN float quarter_tables[3][hn::MaxLanes(d)];
  if (in_quarters)
    for (size_t j = 0; j < 3; ++j)
      for (size_t i = 0; i < lanes; ++i) quarter_tables[j][i] = thresholds[4 * (i % 4) + j];
  const auto one_vector = [&](const float* from, uint8_t* to) HWY_ATTR {
    const auto value = hn::LoadU(d, from);
    auto passed = hn::Zero(di);
#if HWY_TARGET != HWY_SCALAR
    if (in_quarters) {
      auto quarter = count_up(passed, value, hn::Set(d, thresholds[3]));
      quarter = count_up(quarter, value, hn::Set(d, thresholds[7]));
      quarter = count_up(quarter, value, hn::Set(d, thresholds[11]));
      const auto indices = hn::IndicesFromVec(d, quarter);
      passed = hn::ShiftLeft<2>(quarter);
      for (size_t j = 0; j < 3; ++j)
        passed =
            count_up(passed, value, hn::TableLookupLanes(hn::Load(d, quarter_tables[j]), indices));
      hn::StoreU(hn::DemoteTo(d8, passed), d8, to);
      return;
    }
#endif
    for (size_t t = 0; t < threshold_count; ++t)
      passed = count_up(passed, value, hn::Set(d, thresholds[t]));
    hn::StoreU(hn::DemoteTo(d8, passed), d8, to);
  };
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    __builtin_prefetch(reinterpret_cast<const char*>(values + i) + kPrefetchBytes);
    one_vector(values + i, codes + i);
  }
  if (i < count) {
    HWY_ALIGN float rest[hn::MaxLanes(d)] = {};
    HWY_ALIGN uint8_t rest_codes[hn::MaxLanes(d)];
    std::memcpy(rest, values + i, (count - i) * sizeof(float));
    one_vector(rest, rest_codes);
    std::memcpy(codes + i, rest_codes, count - i);
  }
}

// A block whose sum leaves the range of fp32 is added again in double.
double SquaredErrorOf(const float* values, const uint8_t* codes, const float* lut,
                      size_t entry_count, size_t count) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d);
  [[maybe_unused]] HWY_ALIGN float entries[std::max(kMostShuffled, hn::MaxLanes(d))] = {};
  [[maybe_unused]] const bool shuffle = entry_count <= kMostShuffled && 2 * lanes >= kMostShuffled;
  if (shuffle) std::copy(lut, lut + entry_count, entries);
  const auto entries_of = [&](auto index) HWY_ATTR {
#if HWY_TARGET != HWY_SCALAR
    if (shuffle) {
      const auto last = hn::Set(di, static_cast<int32_t>(lanes) - 1);
      const auto place = hn::IndicesFromVec(d, hn::And(index, last));
      const auto first = hn::TableLookupLanes(hn::Load(d, entries), place);
      if (lanes >= kMostShuffled) return first;
      const auto second = hn::TableLookupLanes(hn::LoadU(d, entries + lanes), place);
      return hn::IfThenElse(hn::RebindMask(d, hn::Gt(index, last)), second, first);
    }
#endif
    return hn::GatherIndex(d, lut, index);
  };
  double total = 0;
  const auto add_scalars = [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      const double error = static_cast<double>(values[i]) - static_cast<double>(lut[codes[i]]);
      total += error * error;
    }
  };
  size_t i = 0;
  while (i + lanes <= count) {
    const size_t begin = i;
    const size_t end = std::min(count, i + kSumBlock);
    auto sum = hn::Zero(d);
    for (; i + lanes <= end; i += lanes) {
      const auto index = hn::PromoteTo(di, hn::LoadU(d8, codes + i));
      const auto error = hn::Sub(hn::LoadU(d, values + i), entries_of(index));
      sum = hn::MulAdd(error, error, sum);
    }
    const float block = hn::GetLane(hn::SumOfLanes(d, sum));
    if (std::isfinite(block))
      total += static_cast<double>(block);
    else
      add_scalars(begin, i);
  }
  add_scalars(i, count);
  return total;
}

double SumOfSquaresOf(const float* values, size_t count) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  double total = 0;
  const auto add_scalars = [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i)
      total += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  };
  size_t i = 0;
  while (i + lanes <= count) {
    const size_t begin = i;
    const size_t end = std::min(count, i + kSumBlock);
    auto sum = hn::Zero(d);
    for (; i + lanes <= end; i += lanes) {
      const auto value = hn::LoadU(d, values + i);
      sum = hn::MulAdd(value, value, sum);
    }
    const float block = hn::GetLane(hn::SumOfLanes(d, sum));
    if (std::isfinite(block))
      total += static_cast<double>(block);
    else
      add_scalars(begin, i);
  }
  add_scalars(i, count);
  return total;
}

#if HWY_TARGET != HWY_SCALAR
template <bool kInQuarters>
Squares CountPassedAndMeasure(const float* values, size_t count, const float* thresholds,
                              size_t threshold_count, const float* lut, uint8_t* codes) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d);
  HWY_ALIGN float entries[std::max(kMostShuffled, hn::MaxLanes(d))] = {};
  std::copy(lut, lut + threshold_count + 1, entries);
  const auto low_entries = hn::Load(d, entries);
  const auto high_entries = hn::LoadU(d, entries + (lanes < kMostShuffled ? lanes : 0));
  const auto last_lane = hn::Set(di, static_cast<int32_t>(lanes) - 1);
  // Codes may alias anything: what is copied here stays in registers.
  HWY_ALIGN float quarter_tables[3][hn::MaxLanes(d)] = {};
  float between[3] = {};
  if constexpr (kInQuarters)
    for (size_t j = 0; j < 3; ++j) {
      between[j] = thresholds[4 * j + 3];
      for (size_t i = 0; i < lanes; ++i) quarter_tables[j][i] = thresholds[4 * (i % 4) + j];
    }
  const auto quarter1 = hn::Set(d, between[0]);
  const auto quarter2 = hn::Set(d, between[1]);
  const auto quarter3 = hn::Set(d, between[2]);
  const auto in_quarter1 = hn::Load(d, quarter_tables[0]);
  const auto in_quarter2 = hn::Load(d, quarter_tables[1]);
  const auto in_quarter3 = hn::Load(d, quarter_tables[2]);
  const auto count_up = [&](auto passed, auto value, auto threshold) HWY_ATTR {
    return hn::Sub(passed, hn::BitCast(di, hn::VecFromMask(d, hn::Gt(value, threshold))));
  };
  const auto code_of = [&](auto value) HWY_ATTR {
    auto passed = hn::Zero(di);
    if constexpr (kInQuarters) {
      passed = count_up(passed, value, quarter1);
      passed = count_up(passed, value, quarter2);
      passed = count_up(passed, value, quarter3);
      const auto quarter = hn::IndicesFromVec(d, passed);
      passed = hn::ShiftLeft<2>(passed);
      passed = count_up(passed, value, hn::TableLookupLanes(in_quarter1, quarter));
      passed = count_up(passed, value, hn::TableLookupLanes(in_quarter2, quarter));
      return count_up(passed, value, hn::TableLookupLanes(in_quarter3, quarter));
    } else {
      for (size_t t = 0; t < threshold_count; ++t)
        passed = count_up(passed, value, hn::Set(d, thresholds[t]));
      return passed;
    }
  };
  Squares total;
  const auto add_signal = [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i)
      total.signal += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  };
  const auto add_noise = [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      const double error = static_cast<double>(values[i]) - static_cast<double>(lut[codes[i]]);
      total.noise += error * error;
    }
  };
  size_t i = 0;
  while (i + lanes <= count) {
    const size_t begin = i;
    const size_t end = std::min(count, i + kSumBlock);
    auto signal = hn::Zero(d);
    auto noise = hn::Zero(d);
    const auto one_vector = [&](size_t at) HWY_ATTR {
      const auto value = hn::LoadU(d, values + at);
      const auto code = code_of(value);
      hn::StoreU(hn::U8FromU32(hn::BitCast(du, code)), d8, codes + at);
      const auto place = hn::IndicesFromVec(d, hn::And(code, last_lane));
      auto entry = hn::TableLookupLanes(low_entries, place);
      if (lanes < kMostShuffled) {
        // Of 16 entries the upper half is behind the threshold between two and two quarters.
        const auto in_high =
            kInQuarters ? hn::Gt(value, quarter2) : hn::RebindMask(d, hn::Gt(code, last_lane));
        entry = hn::IfThenElse(in_high, hn::TableLookupLanes(high_entries, place), entry);
      }
      const auto error = hn::Sub(value, entry);
      noise = hn::MulAdd(error, error, noise);
      signal = hn::MulAdd(value, value, signal);
    };
    for (; i + 2 * lanes <= end; i += 2 * lanes) {
      __builtin_prefetch(reinterpret_cast<const char*>(values + i) + kPrefetchBytes);
      one_vector(i);
      one_vector(i + lanes);
    }
    for (; i + lanes <= end; i += lanes) one_vector(i);
    const float block_signal = hn::GetLane(hn::SumOfLanes(d, signal));
    const float block_noise = hn::GetLane(hn::SumOfLanes(d, noise));
    if (std::isfinite(block_signal))
      total.signal += static_cast<double>(block_signal);
    else
      add_signal(begin, i);
    if (std::isfinite(block_noise))
      total.noise += static_cast<double>(block_noise);
    else
      add_noise(begin, i);
  }
  if (i < count) {
    CountPassedFloats(values + i, count - i, thresholds, threshold_count, codes + i);
    add_signal(i, count);
    add_noise(i, count);
  }
  return total;
}
#endif

// The codes as CountPassedFloats finds them, and the sums of SumOfSquaresOf and SquaredErrorOf:
// block by block, in the same order.
Squares CountPassedFloatsAndMeasure(const float* values, size_t count, const float* thresholds,
                                    size_t threshold_count, const float* lut, uint8_t* codes) {
#if HWY_TARGET != HWY_SCALAR
  if (2 * hn::Lanes(hn::ScalableTag<float>()) >= kMostShuffled)
    return threshold_count == kMostCompares
               ? CountPassedAndMeasure<true>(values, count, thresholds, threshold_count, lut, codes)
               : CountPassedAndMeasure<false>(values, count, thresholds, threshold_count, lut,
                                              codes);
#endif
  CountPassedFloats(values, count, thresholds, threshold_count, codes);
  return {.signal = SumOfSquaresOf(values, count),
          .noise = SquaredErrorOf(values, codes, lut, threshold_count + 1, count)};
}

// Whether any value has all exponent bits set. `mask` and the lanes' type select fp16 or fp32.
template <typename T>
bool AnyNotFinite(const T* values, size_t count, T exponent) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const auto all = hn::Set(d, exponent);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes)
    if (!hn::AllFalse(d, hn::Eq(hn::And(hn::LoadU(d, values + i), all), all))) return true;
  for (; i < count; ++i)
    if ((values[i] & exponent) == exponent) return true;
  return false;
}

bool AnyNotFinite16(const uint16_t* values, size_t count) {
  return AnyNotFinite<uint16_t>(values, count, 0x7c00);
}
bool AnyNotFinite32(const uint32_t* values, size_t count) {
  return AnyNotFinite<uint32_t>(values, count, 0x7f800000u);
}

}  // namespace HWY_NAMESPACE
}  // namespace numeric
}  // namespace cmlc
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cmlc::numeric {

HWY_EXPORT(CountPassedHalves);
HWY_EXPORT(CountPassedFloats);
HWY_EXPORT(CountPassedFloatsAndMeasure);
HWY_EXPORT(SquaredErrorOf);
HWY_EXPORT(SumOfSquaresOf);
HWY_EXPORT(AnyNotFinite16);
HWY_EXPORT(AnyNotFinite32);

namespace {

// From how many values on it pays to fill a table (64 KiB for fp16, 512 KiB for fp32).
constexpr uint64_t kHalfTablePays = 8192;
constexpr uint64_t kFloatTablePays = 65536;

constexpr int kLowestKey = -0x7c00;  // of the most negative finite half
constexpr int kHighestKey = 0x7bff;  // of the most positive one

// HalfKey less 32768: the order of finite halves as signed integers; -0 is -1.
int16_t SignedKey(uint16_t half) {
  const auto bits = static_cast<int16_t>(half);
  return static_cast<int16_t>(bits ^ ((bits >> 15) & 0x7fff));
}

double ValueOfKey(int key) {
  return static_cast<double>(HalfToFloat(HalfOfKey(static_cast<uint16_t>(key + 0x8000))));
}

// The last key whose value is not above `middle`, which lies between two finite halves.
int16_t LastKeyUpTo(double middle) {
  int key = std::clamp<int>(SignedKey(DoubleToHalf(middle)), kLowestKey, kHighestKey);
  while (key < kHighestKey && ValueOfKey(key + 1) <= middle) ++key;
  while (key >= kLowestKey && ValueOfKey(key) > middle) --key;
  return static_cast<int16_t>(key);
}

// Number of thresholds below `value`, by bisection without branches.
template <typename T, typename Value>
uint8_t CountBelow(const std::vector<T>& thresholds, Value value) {
  const T* base = thresholds.data();
  size_t left = thresholds.size();
  while (left > 1) {
    const size_t half = left / 2;
    base += base[half - 1] < value ? half : 0;
    left -= half;
  }
  return static_cast<uint8_t>((base - thresholds.data()) + (left == 1 && *base < value ? 1 : 0));
}

// Behind a run of equal entries the code must jump over the whole run.
template <typename T>
void SkipRuns(std::vector<T>& thresholds) {
  for (size_t i = thresholds.size(); i-- > 1;)
    thresholds[i - 1] = std::min(thresholds[i - 1], thresholds[i]);
}

}  // namespace

HalfAssigner::HalfAssigner(std::span<const uint16_t> lut, uint64_t expected) {
  // A threshold is the last pattern, in value order, that is not nearer to the entry above. Sums of
  // two halves are exact in double, so the comparison is too.
  for (size_t i = 0; i + 1 < lut.size(); ++i) {
    const auto low = static_cast<double>(HalfToFloat(lut[i]));
    const auto high = static_cast<double>(HalfToFloat(lut[i + 1]));
    last_keys_.push_back(low == high ? std::numeric_limits<int16_t>::max()
                                     : LastKeyUpTo((low + high) / 2));
  }
  SkipRuns(last_keys_);
  if (last_keys_.size() <= kMostCompares || expected < kHalfTablePays) return;
  // Codes rise with the key, so each takes one run of patterns at most on either side of zero.
  table_.assign(kHalfPatterns, 0);
  int begin = kLowestKey;
  for (size_t code = 0; code <= last_keys_.size(); ++code) {
    const int end = code < last_keys_.size() ? std::min<int>(last_keys_[code], kHighestKey) + 1
                                             : kHighestKey + 1;
    const auto fill = [&](int from, int to) {
      std::fill(table_.begin() + from, table_.begin() + to, static_cast<uint8_t>(code));
    };
    if (begin >= end) continue;
    if (begin < 0) {  // a negative key k belongs to pattern 0x8000 + (-1 - k)
      const int stop = std::min(end, 0);
      fill(0x8000 - stop, 0x8000 - begin);
    }
    if (end > 0) fill(std::max(begin, 0), end);
    begin = end;
  }
}

void HalfAssigner::Assign(std::span<const uint16_t> values, uint8_t* codes) const {
  if (last_keys_.size() <= kMostCompares) {
    HWY_DYNAMIC_DISPATCH(CountPassedHalves)
    (values.data(), values.size(), last_keys_.data(), last_keys_.size(), codes);
  } else if (!table_.empty()) {
    const uint8_t* table = table_.data();
    for (size_t i = 0; i < values.size(); ++i) codes[i] = table[values[i]];
  } else {
    for (size_t i = 0; i < values.size(); ++i)
      codes[i] = CountBelow(last_keys_, SignedKey(values[i]));
  }
}

FloatAssigner::FloatAssigner(std::span<const float> lut, uint64_t expected) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (size_t i = 0; i + 1 < lut.size(); ++i) {
    // The largest float that is not above the middle. The sum of two floats is not always exact in
    // double, but what it lacks is, and says on which side of the sum the middle lies.
    const auto low = static_cast<double>(lut[i]), high = static_cast<double>(lut[i + 1]);
    const double sum = low + high;
    const double lacks = (low - (sum - (sum - low))) + (high - (sum - low));
    auto last = static_cast<float>(sum / 2);
    const double above = static_cast<double>(last) - sum / 2;
    if (above > 0 || (above == 0 && lacks < 0)) last = std::nextafter(last, -kInfinity);
    last_values_.push_back(lut[i] == lut[i + 1] ? kInfinity : last);
  }
  SkipRuns(last_values_);
  if (last_values_.size() <= kMostCompares || expected < kFloatTablePays) return;
  table_.assign(kFloatBins, 0);
  const uint32_t first_bin = FloatBin(std::numeric_limits<float>::lowest());
  const uint32_t last_bin = FloatBin(std::numeric_limits<float>::max());
  size_t code = 0;
  for (uint32_t bin = first_bin; bin <= last_bin;) {
    while (code < last_values_.size() && FloatBinStart(bin) > last_values_[code]) ++code;
    // All bins up to that of the next threshold start with this code.
    const uint32_t end = code < last_values_.size() && last_values_[code] < kInfinity
                             ? FloatBin(last_values_[code]) + 1
                             : last_bin + 1;
    std::fill(table_.begin() + bin, table_.begin() + end, static_cast<uint8_t>(code));
    bin = end;
  }
}

void FloatAssigner::Assign(std::span<const float> values, uint8_t* codes) const {
  if (last_values_.size() <= kMostCompares) {
    HWY_DYNAMIC_DISPATCH(CountPassedFloats)
    (values.data(), values.size(), last_values_.data(), last_values_.size(), codes);
  } else if (!table_.empty()) {
    const uint8_t* table = table_.data();
    const float* last = last_values_.data();
    const size_t most = last_values_.size();
    for (size_t i = 0; i < values.size(); ++i) {
      size_t code = table[FloatBin(values[i])];
      while (code < most && values[i] > last[code]) ++code;
      codes[i] = static_cast<uint8_t>(code);
    }
  } else {
    for (size_t i = 0; i < values.size(); ++i) codes[i] = CountBelow(last_values_, values[i]);
  }
}

Squares FloatAssigner::AssignAndMeasure(std::span<const float> values, uint8_t* codes,
                                        std::span<const float> lut) const {
  if (last_values_.size() <= kMostCompares)
    return HWY_DYNAMIC_DISPATCH(CountPassedFloatsAndMeasure)(
        values.data(), values.size(), last_values_.data(), last_values_.size(), lut.data(), codes);
  Assign(values, codes);
  return {.signal = SumOfSquares(values), .noise = SquaredError(values, codes, lut)};
}

double SquaredError(std::span<const float> values, const uint8_t* codes,
                    std::span<const float> lut) {
  return HWY_DYNAMIC_DISPATCH(SquaredErrorOf)(values.data(), codes, lut.data(), lut.size(),
                                              values.size());
}

double SumOfSquares(std::span<const float> values) {
  return HWY_DYNAMIC_DISPATCH(SumOfSquaresOf)(values.data(), values.size());
}

size_t FirstNotFinite(std::span<const float> values) {
  const auto* bits = reinterpret_cast<const uint32_t*>(values.data());
  if (!HWY_DYNAMIC_DISPATCH(AnyNotFinite32)(bits, values.size())) return values.size();
  return static_cast<size_t>(
      std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); }) -
      values.begin());
}

size_t FirstNotFinite(std::span<const uint16_t> halves) {
  if (!HWY_DYNAMIC_DISPATCH(AnyNotFinite16)(halves.data(), halves.size())) return halves.size();
  return static_cast<size_t>(
      std::find_if(halves.begin(), halves.end(), [](uint16_t v) { return !IsFiniteHalf(v); }) -
      halves.begin());
}

}  // namespace cmlc::numeric
#endif  // HWY_ONCE
