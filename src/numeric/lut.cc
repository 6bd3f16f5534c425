// With up to 16 entries the code of a value is the number of thresholds that it passes: at most 15
// compares (six, in two steps, where there are exactly 15), each for a whole vector of values, beat
// a table look-up per value by a factor of two to four. With more entries a table wins where many
// values share it: all 65,536 patterns of fp16, or the 19-bit bins of fp32 followed by a compare or
// two. For few values bisection does. Where vectors have 64 bytes, shuffles find the thresholds to
// compare with, and four compares are enough.
#include "numeric/lut.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "numeric/lut.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
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

#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
// Vectors of 64 bytes hold all thresholds, and how many of them a value passes is found by halving:
// each step holds it against the middle one of those left, fetched by a shuffle.

HWY_INLINE hn::Vec512<int16_t> Fetch(hn::Vec512<int16_t> table, hn::Vec512<int16_t> place) {
  return hn::Vec512<int16_t>{_mm512_permutexvar_epi16(place.raw, table.raw)};
}
HWY_INLINE hn::Vec512<float> Fetch(hn::Vec512<float> table, hn::Vec512<int32_t> place) {
  return hn::Vec512<float>{_mm512_permutexvar_ps(place.raw, table.raw)};
}
HWY_INLINE void StoreBytes(hn::Vec512<int16_t> codes, uint8_t* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi16_epi8(codes.raw));
}
HWY_INLINE void StoreBytes(hn::Vec512<int32_t> codes, uint8_t* to) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(codes.raw));
}

// For up to 2^kSteps - 1 thresholds.
template <int kSteps, typename T>
class Halving {
 public:
  using D = hn::Full512<T>;
  using Places = hn::RebindToSigned<D>;
  static constexpr size_t kLanes = hn::MaxLanes(D());
  static_assert((1u << kSteps) <= kLanes);

  Halving(const T* thresholds, size_t count) {
    HWY_ALIGN T table[kLanes];
    for (int s = 0; s < kSteps; ++s) {
      for (size_t i = 0; i < kLanes; ++i) {
        // What step s compares with where i thresholds are known to be passed.
        const size_t passed = i % (size_t{1} << kSteps) >> (s + 1) << (s + 1);
        const size_t middle = passed + (size_t{1} << s) - 1;
        table[i] = middle < count ? thresholds[middle] : kNeverPassed;
      }
      tables_[s] = hn::Load(D(), table);
    }
  }

  HWY_INLINE hn::Vec<Places> Passed(hn::Vec<D> value) const {
    const Places d;
    constexpr int kFirst = kSteps - 1;
    auto passed = hn::IfThenElseZero(hn::RebindMask(d, hn::Gt(value, tables_[kFirst])),
                                     hn::Set(d, 1 << kFirst));
    for (int s = kFirst - 1; s >= 0; --s)
      passed = hn::IfThenElse(hn::RebindMask(d, hn::Gt(value, Fetch(tables_[s], passed))),
                              hn::Add(passed, hn::Set(d, 1 << s)), passed);
    return passed;
  }

 private:
  static constexpr T kNeverPassed = std::numeric_limits<T>::has_infinity
                                        ? std::numeric_limits<T>::infinity()
                                        : std::numeric_limits<T>::max();
  hn::Vec<D> tables_[kSteps];
};

// Calls run(Halving<kSteps, T>) with as many steps as so many thresholds take.
template <typename T, typename Run>
HWY_INLINE auto WithHalving(const T* thresholds, size_t count, const Run& run) {
  static_assert(kMostCompares < 1u << 4);
  switch (std::bit_width(count)) {
    case 0:
    case 1:
      return run(Halving<1, T>(thresholds, count));
    case 2:
      return run(Halving<2, T>(thresholds, count));
    case 3:
      return run(Halving<3, T>(thresholds, count));
    default:
      return run(Halving<4, T>(thresholds, count));
  }
}

// Calls one_vector(values, codes) for all of them, the last few from and to copies.
template <size_t kLanes, typename T, typename OneVector>
HWY_INLINE void ForVectors(const T* values, size_t count, uint8_t* codes,
                           const OneVector& one_vector) {
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    // The hardware's own prefetching stops at page ends.
    __builtin_prefetch(reinterpret_cast<const char*>(values + i) + kPrefetchBytes);
    one_vector(values + i, codes + i);
  }
  if (i < count) {
    HWY_ALIGN T rest[kLanes] = {};
    HWY_ALIGN uint8_t rest_codes[kLanes];
    std::memcpy(rest, values + i, (count - i) * sizeof(T));
    one_vector(rest, rest_codes);
    std::memcpy(codes + i, rest_codes, count - i);
  }
}

void CountPassedHalves(const uint16_t* values, size_t count, const int16_t* thresholds,
                       size_t threshold_count, uint8_t* codes) {
  const hn::Full512<int16_t> d;
  const auto magnitude = hn::Set(d, 0x7fff);
  WithHalving(thresholds, threshold_count, [&](const auto& halving) HWY_ATTR {
    ForVectors<hn::MaxLanes(d)>(
        values, count, codes, [&](const uint16_t* from, uint8_t* to) HWY_ATTR {
          const auto bits = hn::LoadU(d, reinterpret_cast<const int16_t*>(from));
          const auto key = hn::Xor(bits, hn::And(hn::ShiftRight<15>(bits), magnitude));
          StoreBytes(halving.Passed(key), to);
        });
  });
}

void CountPassedFloats(const float* values, size_t count, const float* thresholds,
                       size_t threshold_count, uint8_t* codes) {
  const hn::Full512<float> d;
  WithHalving(thresholds, threshold_count, [&](const auto& halving) HWY_ATTR {
    ForVectors<hn::MaxLanes(d)>(values, count, codes, [&](const float* from, uint8_t* to) HWY_ATTR {
      StoreBytes(halving.Passed(hn::LoadU(d, from)), to);
    });
  });
}
#else
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

#endif

// One value after the other, in double.
void AddSquares(const float* values, size_t begin, size_t end, double& total) {
  for (size_t i = begin; i < end; ++i)
    total += static_cast<double>(values[i]) * static_cast<double>(values[i]);
}
void AddErrors(const float* values, const uint8_t* codes, const float* lut, size_t begin,
               size_t end, double& total) {
  for (size_t i = begin; i < end; ++i) {
    const double error = static_cast<double>(values[i]) - static_cast<double>(lut[codes[i]]);
    total += error * error;
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
      AddErrors(values, codes, lut, begin, i, total);
  }
  AddErrors(values, codes, lut, i, count, total);
  return total;
}

double SumOfSquaresOf(const float* values, size_t count) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  double total = 0;
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
      AddSquares(values, begin, i, total);
  }
  AddSquares(values, i, count, total);
  return total;
}

#if HWY_TARGET != HWY_SCALAR
// Calls code(values, where their codes go), which gives the entries that they stand for, for whole
// vectors of values, and sums up: block by block, in the order of SumOfSquaresOf and
// SquaredErrorOf. The last few values are left to the caller.
template <class D, typename Code>
HWY_INLINE Squares Measure(D d, const float* values, size_t count, const float* lut, uint8_t* codes,
                           const Code& code) {
  const size_t lanes = hn::Lanes(d);
  Squares total;
  size_t i = 0;
  while (i + lanes <= count) {
    const size_t begin = i;
    const size_t end = std::min(count, i + kSumBlock);
    auto signal = hn::Zero(d);
    auto noise = hn::Zero(d);
    const auto one_vector = [&](size_t at) HWY_ATTR {
      const auto value = hn::LoadU(d, values + at);
      const auto error = hn::Sub(value, code(value, codes + at));
      noise = hn::MulAdd(error, error, noise);
      signal = hn::MulAdd(value, value, signal);
    };
    for (; i + 2 * lanes <= end; i += 2 * lanes) {
      __builtin_prefetch(reinterpret_cast<const char*>(values + i) + kPrefetchBytes);
      if (lanes * sizeof(float) >= 64)
        __builtin_prefetch(reinterpret_cast<const char*>(values + i + lanes) + kPrefetchBytes);
      one_vector(i);
      one_vector(i + lanes);
    }
    for (; i + lanes <= end; i += lanes) one_vector(i);
    const float block_signal = hn::GetLane(hn::SumOfLanes(d, signal));
    const float block_noise = hn::GetLane(hn::SumOfLanes(d, noise));
    if (std::isfinite(block_signal))
      total.signal += static_cast<double>(block_signal);
    else
      AddSquares(values, begin, i, total.signal);
    if (std::isfinite(block_noise))
      total.noise += static_cast<double>(block_noise);
    else
      AddErrors(values, codes, lut, begin, i, total.noise);
  }
  return total;
}
#endif

#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
Squares MeasureVectors(const float* values, size_t count, const float* thresholds,
                       size_t threshold_count, const float* lut, uint8_t* codes) {
  const hn::Full512<float> d;
  HWY_ALIGN float table[hn::MaxLanes(d)] = {};
  static_assert(kMostShuffled <= hn::MaxLanes(d));
  std::copy(lut, lut + threshold_count + 1, table);
  const auto entries = hn::Load(d, table);
  return WithHalving(thresholds, threshold_count, [&](const auto& halving) HWY_ATTR {
    return Measure(d, values, count, lut, codes, [&](auto value, uint8_t* to) HWY_ATTR {
      const auto code = halving.Passed(value);
      StoreBytes(code, to);
      return Fetch(entries, code);
    });
  });
}
#elif HWY_TARGET != HWY_SCALAR
template <bool kInQuarters>
Squares MeasureVectors(const float* values, size_t count, const float* thresholds,
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
  return Measure(d, values, count, lut, codes, [&](auto value, uint8_t* to) HWY_ATTR {
    const auto code = code_of(value);
    hn::StoreU(hn::U8FromU32(hn::BitCast(du, code)), d8, to);
    const auto place = hn::IndicesFromVec(d, hn::And(code, last_lane));
    const auto entry = hn::TableLookupLanes(low_entries, place);
    if (lanes >= kMostShuffled) return entry;
    // Of 16 entries the upper half is behind the threshold between two and two quarters.
    const auto in_high =
        kInQuarters ? hn::Gt(value, quarter2) : hn::RebindMask(d, hn::Gt(code, last_lane));
    return hn::IfThenElse(in_high, hn::TableLookupLanes(high_entries, place), entry);
  });
}

Squares MeasureVectors(const float* values, size_t count, const float* thresholds,
                       size_t threshold_count, const float* lut, uint8_t* codes) {
  return threshold_count == kMostCompares
             ? MeasureVectors<true>(values, count, thresholds, threshold_count, lut, codes)
             : MeasureVectors<false>(values, count, thresholds, threshold_count, lut, codes);
}
#endif

// The codes as CountPassedFloats finds them, and the sums of SumOfSquaresOf and SquaredErrorOf.
Squares CountPassedFloatsAndMeasure(const float* values, size_t count, const float* thresholds,
                                    size_t threshold_count, const float* lut, uint8_t* codes) {
#if HWY_TARGET != HWY_SCALAR
  const size_t lanes = hn::Lanes(hn::ScalableTag<float>());
  if (2 * lanes >= kMostShuffled) {
    Squares total = MeasureVectors(values, count, thresholds, threshold_count, lut, codes);
    const size_t done = count / lanes * lanes;
    if (done < count) {
      CountPassedFloats(values + done, count - done, thresholds, threshold_count, codes + done);
      AddSquares(values, done, count, total.signal);
      AddErrors(values, codes, lut, done, count, total.noise);
    }
    return total;
  }
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
