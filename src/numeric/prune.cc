// Single values: the bit patterns of magnitudes are counted, and the count says which magnitude is
// the last to go. For fp16 some of the values say between which few magnitudes that one lies, so
// that all others cost two comparisons in a vector; where they mislead, all patterns are counted.
// The 31 bits of fp32 are counted in two digits. Of the values of the last magnitude those that
// come first go: how many of them each piece has is known before the pass that makes the mask.
//
// Structures: a band of columns is brought into the form of a tile, with a row for each channel of
// the structure and a column for each position, so that neighbouring columns are the lanes of a
// vector and the channels of one column are taken in their order, whatever the vector's width. With
// n:m along the last axis and m = 2, 4 or 8 structures lie inside of 128 bits, and shuffles do it
// without a tile. There can be half as many blocks as values, so norms are not kept but computed
// again in each pass: counted by digits of their bit patterns until few enough are left for
// selection.
#include "numeric/prune.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "numeric/prune.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <optional>
#include <set>
#include <type_traits>
#include <utility>

#include "base/check.h"
#include "numeric/convert.h"
#include "numeric/half.h"
#include "numeric/histogram.h"

#ifndef CMLC_NUMERIC_PRUNE_ONCE_
#define CMLC_NUMERIC_PRUNE_ONCE_
namespace cmlc::numeric {

// Up to this many channels each is compared with all others, a vector of columns at a time.
constexpr size_t kMostCompared = 32;

// For every byte of a mask the places of its ones, for shuffles of bytes.
struct OnesOfBytes {
  alignas(8) std::array<std::array<uint8_t, 8>, 256> places{};
  constexpr OnesOfBytes() {
    for (size_t byte = 0; byte < 256; ++byte)
      for (size_t bit = 0, ones = 0; bit < 8; ++bit)
        if (((byte >> bit) & 1) != 0) places[byte][ones++] = static_cast<uint8_t>(bit);
  }
};
inline constexpr OnesOfBytes kOnesOfBytes;

// The same for pairs of bytes, and how many ones a byte has.
struct PairsOfBytes {
  alignas(16) std::array<std::array<uint8_t, 16>, 256> places{};
  std::array<uint8_t, 256> ones{};
  constexpr PairsOfBytes() {
    for (size_t byte = 0; byte < 256; ++byte) {
      size_t taken = 0;
      for (size_t bit = 0; bit < 8; ++bit)
        if (((byte >> bit) & 1) != 0) {
          places[byte][2 * taken] = static_cast<uint8_t>(2 * bit);
          places[byte][2 * taken + 1] = static_cast<uint8_t>(2 * bit + 1);
          ++taken;
        }
      ones[byte] = static_cast<uint8_t>(taken);
    }
  }
};
inline constexpr PairsOfBytes kPairsOfBytes;

// Sums of squares are kept in so many places, value i of a part in place i % kPlaces, so that they
// do not depend on the width of vectors.
constexpr size_t kPlaces = 16;
constexpr size_t kPart = 512;

// Values that are looked at by several kernels, one after the other, while they are in the
// first-level cache.
constexpr size_t kChunk = 4096;
// The hardware's own prefetching stops at page ends.
constexpr size_t kPrefetchBytes = 4096;

}  // namespace cmlc::numeric
#endif

HWY_BEFORE_NAMESPACE();
namespace cmlc {
namespace numeric {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// All kernels make or take 64 bits of a mask at a time, so no vector may have more lanes.
template <typename T>
using UpTo64 = hn::CappedTag<T, 64>;

// Writes the lanes of a mask from `lane` on into the 8 bytes at `word`, from the low bit up. Lanes
// before it have been written. They go to memory, not to an integer: where GCC 12 has to spill 32
// lanes of AVX-512, it writes four bytes and takes eight back as the integer.
template <class D, class M>
HWY_INLINE void StoreLanes(D d, M mask, size_t lane, uint8_t* word) {
  const size_t lanes = hn::Lanes(d);
  uint8_t bytes[8];
  hn::StoreMaskBits(d, mask, bytes);
  if (lanes >= 8) {
    std::memcpy(word + lane / 8, bytes, lanes / 8);
  } else {
    const unsigned before = lane % 8 == 0 ? 0u : word[lane / 8];
    const unsigned bits = bytes[0] & ((1u << lanes) - 1);
    word[lane / 8] = static_cast<uint8_t>(before | bits << (lane % 8));
  }
}

// Prefetches what is so far behind 64 values.
template <typename T>
HWY_INLINE void Prefetch64(const T* values) {
  const char* first = reinterpret_cast<const char*>(values) + kPrefetchBytes;
  for (size_t i = 0; i < 64 * sizeof(T); i += 64) __builtin_prefetch(first + i);
}

// T is the signed integer of a value's size.
template <typename T>
constexpr T kMagnitude = static_cast<T>(hwy::LimitsMax<T>());

template <typename T>
void MaskAbove(const T* values, size_t count, T limit, uint8_t* bits) {
  const UpTo64<T> d;
  const size_t lanes = hn::Lanes(d);
  const auto magnitude = hn::Set(d, kMagnitude<T>);
  const auto least = hn::Set(d, limit);
  const auto one_word = [&](const T* from, uint8_t* word) HWY_ATTR {
    for (size_t lane = 0; lane < 64; lane += lanes) {
      const auto value = hn::And(hn::LoadU(d, from + lane), magnitude);
      StoreLanes(d, hn::Gt(value, least), lane, word);
    }
  };
  size_t i = 0;
  for (; i + 64 <= count; i += 64) {
    Prefetch64(values + i);
    one_word(values + i, bits + i / 8);
  }
  if (i < count) {
    HWY_ALIGN T rest[64] = {};
    std::memcpy(rest, values + i, (count - i) * sizeof(T));
    uint64_t word = 0;
    one_word(rest, reinterpret_cast<uint8_t*>(&word));
    word &= (uint64_t{1} << (count - i)) - 1;
    std::memcpy(bits + i / 8, &word, (count - i + 7) / 8);
  }
}
void MaskAbove16(const int16_t* values, size_t count, int16_t limit, uint8_t* bits) {
  MaskAbove(values, count, limit, bits);
}
void MaskAbove32(const int32_t* values, size_t count, int32_t limit, uint8_t* bits) {
  MaskAbove(values, count, limit, bits);
}

// The same, but of the values whose magnitude is `limit` all but the first `ties` stay. Returns how
// many of those there were not.
template <typename T>
uint64_t MaskCut(const T* values, size_t count, T limit, uint64_t ties, uint8_t* bits) {
  const UpTo64<T> d;
  const size_t lanes = hn::Lanes(d);
  const auto magnitude = hn::Set(d, kMagnitude<T>);
  const auto least = hn::Set(d, limit);
  const auto one_word = [&](const T* from, size_t n, uint8_t* word) HWY_ATTR {
    auto any = hn::Zero(d);
    for (size_t lane = 0; lane < 64; lane += lanes) {
      const auto value = hn::And(hn::LoadU(d, from + lane), magnitude);
      StoreLanes(d, hn::Gt(value, least), lane, word);
      any = hn::Or(any, hn::VecFromMask(d, hn::Eq(value, least)));
    }
    if (hn::AllTrue(d, hn::Eq(any, hn::Zero(d)))) return;
    for (size_t i = 0; i < n; ++i) {
      if ((from[i] & kMagnitude<T>) != limit) continue;
      if (ties > 0)
        --ties;
      else
        word[i / 8] = static_cast<uint8_t>(word[i / 8] | 1u << (i % 8));
    }
  };
  size_t i = 0;
  for (; i + 64 <= count; i += 64) {
    Prefetch64(values + i);
    one_word(values + i, 64, bits + i / 8);
  }
  if (i < count) {
    HWY_ALIGN T rest[64] = {};
    std::memcpy(rest, values + i, (count - i) * sizeof(T));
    uint64_t word = 0;
    one_word(rest, count - i, reinterpret_cast<uint8_t*>(&word));
    word &= (uint64_t{1} << (count - i)) - 1;
    std::memcpy(bits + i / 8, &word, (count - i + 7) / 8);
  }
  return ties;
}
uint64_t MaskCut16(const int16_t* values, size_t count, int16_t limit, uint64_t ties,
                   uint8_t* bits) {
  return MaskCut(values, count, limit, ties, bits);
}
uint64_t MaskCut32(const int32_t* values, size_t count, int32_t limit, uint64_t ties,
                   uint8_t* bits) {
  return MaskCut(values, count, limit, ties, bits);
}

// Returns how many magnitudes are below `low`, and adds to counts[m - low] for each magnitude m
// from `low` to `high`, which are few. All must be below 0x7fff.
//
// Of a chunk the mask of those between goes to memory first. Whether a word of it has any is
// anyone's guess, so the first two are taken in any case, and only what is beyond costs a branch.
uint64_t CountBetween(const int16_t* values, size_t count, int16_t low, int16_t high,
                      uint32_t* counts) {
  const UpTo64<int16_t> d;
  const size_t lanes = hn::Lanes(d);
  const auto magnitude = hn::Set(d, kMagnitude<int16_t>);
  const auto least = hn::Set(d, low), end = hn::Set(d, static_cast<int16_t>(high + 1));
  HWY_ALIGN uint8_t between[kChunk / 8];
  int16_t found[kChunk + 2];
  HWY_ALIGN int16_t parts[64];
  uint64_t below = 0;
  size_t i = 0;
  while (i + 64 <= count) {
    const size_t words = std::min(count - i, kChunk) / 64;
    auto sum = hn::Zero(d);
    for (size_t w = 0; w < words; ++w) {
      const int16_t* from = values + i + 64 * w;
      Prefetch64(from);
      for (size_t lane = 0; lane < 64; lane += lanes) {
        const auto value = hn::And(hn::LoadU(d, from + lane), magnitude);
        const auto lower = hn::Lt(value, least);
        sum = hn::Sub(sum, hn::VecFromMask(d, lower));
        StoreLanes(d, hn::AndNot(lower, hn::Lt(value, end)), lane, between + 8 * w);
      }
    }
    hn::Store(sum, d, parts);
    for (size_t lane = 0; lane < lanes; ++lane) below += static_cast<uint16_t>(parts[lane]);
    size_t taken = 0;
    for (size_t w = 0; w < words; ++w) {
      const int16_t* from = values + i + 64 * w;
      uint64_t bits = 0;
      std::memcpy(&bits, between + 8 * w, 8);
      const size_t ones = hwy::PopCount(bits);
      // With a bit that stands for nothing where there is none; it is behind those of the word.
      for (size_t k = 0; k < 2; ++k, bits &= bits - 1)
        found[taken + k] = from[hwy::Num0BitsBelowLS1Bit_Nonzero64(bits | uint64_t{1} << 63)];
      if (ones > 2)
        for (size_t k = 2; k < ones; ++k, bits &= bits - 1)
          found[taken + k] = from[hwy::Num0BitsBelowLS1Bit_Nonzero64(bits)];
      taken += ones;
    }
    for (size_t k = 0; k < taken; ++k) ++counts[(found[k] & kMagnitude<int16_t>)-low];
    i += 64 * words;
  }
  for (; i < count; ++i) {
    const auto value = static_cast<int16_t>(values[i] & kMagnitude<int16_t>);
    if (value < low)
      ++below;
    else if (value <= high)
      ++counts[value - low];
  }
  return below;
}

// The ones of some bytes.
uint64_t Ones(const uint8_t* bits, size_t bytes) {
  const hn::ScalableTag<uint64_t> d;
  const size_t lanes = hn::Lanes(d);
  auto sum = hn::Zero(d);
  size_t i = 0;
  for (; i + 8 * lanes <= bytes; i += 8 * lanes)
    sum = hn::Add(sum,
                  hn::PopulationCount(hn::LoadU(d, reinterpret_cast<const uint64_t*>(bits + i))));
  uint64_t ones = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < bytes; ++i) ones += kPairsOfBytes.ones[bits[i]];
  return ones;
}

// fp16 as it is stored, to fp32, of which only the magnitude counts. Highway's emulation, where
// there is no instruction, makes numbers of what is none; here that becomes infinite.
template <class D>
HWY_INLINE hn::Vec<D> Widen(D d, const uint16_t* from) {
  const hn::Rebind<uint16_t, D> d16;
#if HWY_TARGET <= HWY_AVX2 || HWY_ARCH_ARM
  const hn::Rebind<hwy::float16_t, D> dh;
  return hn::PromoteTo(d, hn::BitCast(dh, hn::LoadU(d16, from)));
#else
  const hn::Rebind<uint32_t, D> du;
  const auto bits = hn::PromoteTo(du, hn::LoadU(d16, from));
  const auto moved = hn::ShiftLeft<13>(hn::And(bits, hn::Set(du, 0x7fff)));
  const auto finite = hn::Lt(hn::BitCast(d, moved), hn::Set(d, 0x1p-96f));
  return hn::IfThenElse(finite, hn::Mul(hn::BitCast(d, moved), hn::Set(d, 0x1p112f)),
                        hn::Set(d, std::numeric_limits<float>::infinity()));
#endif
}

// Adds the squares of up to kPart values to sums[0 .. kPlaces), and those of the values that go, by
// the mask, to sums[kPlaces ..). The count is a multiple of kPlaces.
void AddSquaresOfPart(const uint16_t* values, size_t count, const uint8_t* bits, double* sums) {
  // Squares of fp16 are exact in fp32, and the sums are short.
  HWY_ALIGN float all[kPlaces];
  HWY_ALIGN float gone[kPlaces];
  const hn::CappedTag<float, 8> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const size_t lanes = hn::Lanes(d);
  HWY_ALIGN static constexpr uint32_t kBits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  const auto bit = hn::Load(du, kBits);
  const auto add = [&](size_t i, auto& sum, auto& sum_gone) HWY_ATTR {
    const auto value = Widen(d, values + i);
    const auto square = hn::Mul(value, value);
    const auto byte = hn::Set(du, uint32_t{bits[i / 8]} >> (i % 8));
    const auto goes = hn::Eq(hn::And(byte, bit), hn::Zero(du));
    sum = hn::Add(sum, square);
    sum_gone = hn::Add(sum_gone, hn::IfThenElseZero(hn::RebindMask(d, goes), square));
  };
  // Four sums that do not wait for each other.
  for (size_t at = 0; at < kPlaces; at += 2 * lanes) {
    auto sum0 = hn::Zero(d), sum1 = hn::Zero(d), gone0 = hn::Zero(d), gone1 = hn::Zero(d);
    for (size_t i = at; i < count; i += kPlaces) {
      add(i, sum0, gone0);
      add(i + lanes, sum1, gone1);
    }
    hn::Store(sum0, d, all + at);
    hn::Store(sum1, d, all + at + lanes);
    hn::Store(gone0, d, gone + at);
    hn::Store(gone1, d, gone + at + lanes);
  }
  for (size_t i = 0; i < kPlaces; ++i) {
    sums[i] += static_cast<double>(all[i]);
    sums[kPlaces + i] += static_cast<double>(gone[i]);
  }
}
void AddSquaresOfPart(const float* values, size_t count, const uint8_t* bits, double* sums) {
  for (size_t i = 0; i < count; ++i) {
    const double square = static_cast<double>(values[i]) * static_cast<double>(values[i]);
    sums[i % kPlaces] += square;
    if (((bits[i / 8] >> (i % 8)) & 1) == 0) sums[kPlaces + i % kPlaces] += square;
  }
}

// The same for any count; only the last of several calls may have one that is no multiple of kPart.
template <typename T>
void AddSquaresOf(const T* values, size_t count, const uint8_t* bits, double* sums) {
  const size_t whole = count / kPlaces * kPlaces;
  for (size_t i = 0; i < whole; i += kPart)
    AddSquaresOfPart(values + i, std::min(kPart, whole - i), bits + i / 8, sums);
  if (whole < count) {
    T padded[kPlaces] = {};
    uint8_t padded_bits[kPlaces / 8] = {};
    std::memcpy(padded, values + whole, (count - whole) * sizeof(T));
    std::memcpy(padded_bits, bits + whole / 8, (count - whole + 7) / 8);
    AddSquaresOfPart(padded, kPlaces, padded_bits, sums);
  }
}
void AddSquares16(const uint16_t* values, size_t count, const uint8_t* bits, double* sums) {
  AddSquaresOf(values, count, bits, sums);
}
void AddSquares32(const float* values, size_t count, const uint8_t* bits, double* sums) {
  AddSquaresOf(values, count, bits, sums);
}

// `tile` has m rows, `stride` apart, of 64 * words columns. In each column the n values of least
// magnitude go. Row r of the result is keep[r * words ...].
template <typename T>
void KeepInColumns(const T* tile, size_t stride, size_t words, size_t n, size_t m, uint64_t* keep) {
  const UpTo64<T> d;
  const size_t lanes = hn::Lanes(d);
  const auto magnitude = hn::Set(d, kMagnitude<T>);
  const auto most = hn::Set(d, static_cast<T>(static_cast<T>(n) - 1));
  for (size_t w = 0; w < words; ++w) {
    for (size_t lane = 0; lane < 64; lane += lanes) {
      const T* column = tile + 64 * w + lane;
      for (size_t r = 0; r < m; ++r) {
        // How many values of the column go before this one.
        const auto value = hn::And(hn::LoadU(d, column + r * stride), magnitude);
        const auto next = hn::Add(value, hn::Set(d, 1));
        auto rank = hn::Zero(d);
        for (size_t k = 0; k < r; ++k) {
          const auto other = hn::And(hn::LoadU(d, column + k * stride), magnitude);
          rank = hn::Sub(rank, hn::VecFromMask(d, hn::Gt(next, other)));
        }
        for (size_t k = r + 1; k < m; ++k) {
          const auto other = hn::And(hn::LoadU(d, column + k * stride), magnitude);
          rank = hn::Sub(rank, hn::VecFromMask(d, hn::Gt(value, other)));
        }
        auto* word = reinterpret_cast<uint8_t*>(keep + r * words + w);
        StoreLanes(d, hn::Gt(rank, most), lane, word);
      }
    }
  }
}
void KeepInColumns16(const int16_t* tile, size_t stride, size_t words, size_t n, size_t m,
                     uint64_t* keep) {
  KeepInColumns(tile, stride, words, n, m, keep);
}
void KeepInColumns32(const int32_t* tile, size_t stride, size_t words, size_t n, size_t m,
                     uint64_t* keep) {
  KeepInColumns(tile, stride, words, n, m, keep);
}

// Of every m of the 64 * words values the n of least magnitude go; m values have at most 16 bytes
// and m is a power of two.
template <typename T>
void KeepInGroups(const T* values, size_t words, size_t n, size_t m, uint64_t* keep) {
#if HWY_TARGET == HWY_SCALAR
  for (size_t w = 0; w < words; ++w) {
    keep[w] = 0;
    for (size_t i = 0; i < 64; ++i) {
      const T* group = values + 64 * w + i / m * m;
      const auto value = static_cast<T>(values[64 * w + i] & kMagnitude<T>);
      size_t rank = 0;
      for (size_t k = 0; k < m; ++k) {
        const auto other = static_cast<T>(group[k] & kMagnitude<T>);
        if (k < i % m ? other <= value : other < value) ++rank;
      }
      if (rank >= n) keep[w] |= uint64_t{1} << i;
    }
  }
#else
  constexpr size_t kLanes = 16 / sizeof(T);
  const UpTo64<T> d;
  const hn::Repartition<uint8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d);
  const auto magnitude = hn::Set(d, kMagnitude<T>);
  const auto most = hn::Set(d, static_cast<T>(static_cast<T>(n) - 1));
  // For each distance in the group: the bytes of the other value, and 1 if it comes first, so that
  // it goes first if it is equal.
  HWY_ALIGN uint8_t bytes[kLanes][16] = {};
  HWY_ALIGN T is_first[kLanes][kLanes] = {};
  for (size_t distance = 1; distance < m; ++distance)
    for (size_t i = 0; i < kLanes; ++i) {
      const size_t other = i / m * m + (i + distance) % m;
      is_first[distance][i] = other < i ? 1 : 0;
      for (size_t byte = 0; byte < sizeof(T); ++byte)
        bytes[distance][i * sizeof(T) + byte] = static_cast<uint8_t>(other * sizeof(T) + byte);
    }
  for (size_t w = 0; w < words; ++w) {
    auto* word = reinterpret_cast<uint8_t*>(keep + w);
    for (size_t lane = 0; lane < 64; lane += lanes) {
      const auto value = hn::And(hn::LoadU(d, values + 64 * w + lane), magnitude);
      auto rank = hn::Zero(d);
      for (size_t distance = 1; distance < m; ++distance) {
        const auto table = hn::LoadDup128(d8, bytes[distance]);
        const auto other = hn::BitCast(d, hn::TableLookupBytes(hn::BitCast(d8, value), table));
        const auto bound = hn::Add(value, hn::LoadDup128(d, is_first[distance]));
        rank = hn::Sub(rank, hn::VecFromMask(d, hn::Gt(bound, other)));
      }
      StoreLanes(d, hn::Gt(rank, most), lane, word);
    }
  }
#endif
}
void KeepInGroups16(const int16_t* values, size_t words, size_t n, size_t m, uint64_t* keep) {
  KeepInGroups(values, words, n, m, keep);
}
void KeepInGroups32(const int32_t* values, size_t words, size_t n, size_t m, uint64_t* keep) {
  KeepInGroups(values, words, n, m, keep);
}

// sums[i] += values[i]^2. The square of an fp32 value is exact in double, so it does not matter
// whether the processor fuses the operations.
void AddSquares(const float* values, size_t count, double* sums) {
#if HWY_HAVE_FLOAT64
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> df;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto value = hn::PromoteTo(d, hn::LoadU(df, values + i));
    hn::StoreU(hn::MulAdd(value, value, hn::LoadU(d, sums + i)), d, sums + i);
  }
#else
  size_t i = 0;
#endif
  for (; i < count; ++i) sums[i] += static_cast<double>(values[i]) * static_cast<double>(values[i]);
}

// Writes the values of 64 whose bit is set, in order, and anything behind them up to to[63].
template <typename T>
HWY_INLINE size_t CompressWord(const T* from, uint64_t word, T* to) {
  const UpTo64<T> d;
  const size_t lanes = hn::Lanes(d);
  const uint64_t low = ~uint64_t{0} >> (64 - lanes);
  size_t taken = 0;
  for (size_t lane = 0; lane < 64; lane += lanes) {
    const uint64_t part = (word >> lane) & low;
    uint8_t bytes[8];
    std::memcpy(bytes, &part, 8);
    // To a register, then to memory: where storing compressed is one instruction, it is a slow one.
    const auto kept = hn::Compress(hn::LoadU(d, from + lane), hn::LoadMaskBits(d, bytes));
    hn::StoreU(kept, d, to + taken);
    taken += hwy::PopCount(part);
  }
  return taken;
}

// Where compressing is not an instruction, eight fp16 at a time are one shuffle.
#if HWY_TARGET > HWY_AVX3 && HWY_TARGET != HWY_SCALAR
template <>
HWY_INLINE size_t CompressWord<uint16_t>(const uint16_t* from, uint64_t word, uint16_t* to) {
  const hn::FixedTag<uint16_t, 8> d;
  const hn::FixedTag<uint8_t, 16> d8;
  size_t taken = 0;
  for (size_t i = 0; i < 8; ++i) {
    const size_t part = (word >> (8 * i)) & 0xff;
    const auto places = hn::Load(d8, kPairsOfBytes.places[part].data());
    const auto values = hn::BitCast(d8, hn::LoadU(d, from + 8 * i));
    hn::StoreU(hn::BitCast(d, hn::TableLookupBytes(values, places)), d, to + taken);
    taken += kPairsOfBytes.ones[part];
  }
  return taken;
}
#endif

// Highway does not compress bytes. Eight at a time a shuffle does it.
template <>
HWY_INLINE size_t CompressWord<uint8_t>(const uint8_t* from, uint64_t word, uint8_t* to) {
  size_t taken = 0;
#if HWY_TARGET == HWY_SCALAR
  for (size_t i = 0; i < 64; ++i) {
    to[taken] = from[i];
    taken += (word >> i) & 1;
  }
#else
  const hn::FixedTag<uint8_t, 8> d;
  for (size_t i = 0; i < 8; ++i) {
    const size_t part = (word >> (8 * i)) & 0xff;
    const auto places = hn::LoadU(d, kOnesOfBytes.places[part].data());
    hn::StoreU(hn::TableLookupBytes(hn::LoadU(d, from + 8 * i), places), d, to + taken);
    taken += hwy::PopCount(part);
  }
#endif
  return taken;
}

template <typename T>
size_t Compress(const T* values, size_t count, const uint8_t* bits, T* out) {
  size_t taken = 0;
  size_t i = 0;
  // No more than i values were taken before, so nothing is written behind what has been read.
  for (; i + 64 <= count; i += 64) {
    uint64_t word = 0;
    std::memcpy(&word, bits + i / 8, 8);
    Prefetch64(values + i);
    taken += CompressWord(values + i, word, out + taken);
  }
  if (i < count) {
    uint64_t word = 0;
    std::memcpy(&word, bits + i / 8, (count - i + 7) / 8);
    HWY_ALIGN T rest[64] = {};
    HWY_ALIGN T kept[64];
    std::memcpy(rest, values + i, (count - i) * sizeof(T));
    const size_t more = CompressWord(rest, word & ((uint64_t{1} << (count - i)) - 1), kept);
    std::memcpy(out + taken, kept, more * sizeof(T));
    taken += more;
  }
  return taken;
}
size_t Compress8(const uint8_t* values, size_t count, const uint8_t* bits, uint8_t* out) {
  return Compress(values, count, bits, out);
}
size_t Compress16(const uint16_t* values, size_t count, const uint8_t* bits, uint16_t* out) {
  return Compress(values, count, bits, out);
}
size_t Compress32(const float* values, size_t count, const uint8_t* bits, float* out) {
  return Compress(values, count, bits, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace numeric
}  // namespace cmlc
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cmlc::numeric {

HWY_EXPORT(MaskAbove16);
HWY_EXPORT(MaskAbove32);
HWY_EXPORT(MaskCut16);
HWY_EXPORT(MaskCut32);
HWY_EXPORT(CountBetween);
HWY_EXPORT(Ones);
HWY_EXPORT(AddSquares16);
HWY_EXPORT(AddSquares32);
HWY_EXPORT(KeepInColumns16);
HWY_EXPORT(KeepInColumns32);
HWY_EXPORT(KeepInGroups16);
HWY_EXPORT(KeepInGroups32);
HWY_EXPORT(AddSquares);
HWY_EXPORT(Compress8);
HWY_EXPORT(Compress16);
HWY_EXPORT(Compress32);

namespace {

// Up to this many values the last to go is found by selection: counting would cost more.
constexpr uint64_t kSelected = 16384;
// fp32 magnitudes are counted by this many high bits, then by the other 15.
constexpr int kLowBits = 15;

// A tile has about so many values, and rows of no more than so many.
constexpr uint64_t kTileValues = 65536;
constexpr uint64_t kMostColumns = 4096;
// Among so many blocks the first to stay is found by selection.
constexpr uint64_t kMostSelected = 262144;

// Values between two entries of a MaskIndex.
constexpr uint64_t kStep = 65536;

uint32_t MagnitudeOf(uint16_t half) { return half & 0x7fffu; }
uint32_t MagnitudeOf(float value) { return std::bit_cast<uint32_t>(value) & 0x7fffffffu; }

// The kernels, by type. Magnitudes above `limit` stay.
void MaskAbove(std::span<const uint16_t> values, int32_t limit, uint8_t* bits) {
  HWY_DYNAMIC_DISPATCH(MaskAbove16)
  (reinterpret_cast<const int16_t*>(values.data()), values.size(), static_cast<int16_t>(limit),
   bits);
}
void MaskAbove(std::span<const float> values, int32_t limit, uint8_t* bits) {
  HWY_DYNAMIC_DISPATCH(MaskAbove32)
  (reinterpret_cast<const int32_t*>(values.data()), values.size(), limit, bits);
}
// Of the values whose magnitude is `limit` all but the first `ties` stay. Returns how many of those
// there were not.
uint64_t MaskCut(std::span<const uint16_t> values, int32_t limit, uint64_t ties, uint8_t* bits) {
  return HWY_DYNAMIC_DISPATCH(MaskCut16)(reinterpret_cast<const int16_t*>(values.data()),
                                         values.size(), static_cast<int16_t>(limit), ties, bits);
}
uint64_t MaskCut(std::span<const float> values, int32_t limit, uint64_t ties, uint8_t* bits) {
  return HWY_DYNAMIC_DISPATCH(MaskCut32)(reinterpret_cast<const int32_t*>(values.data()),
                                         values.size(), limit, ties, bits);
}
void AddSquares(std::span<const uint16_t> values, const uint8_t* bits, double* sums) {
  HWY_DYNAMIC_DISPATCH(AddSquares16)(values.data(), values.size(), bits, sums);
}
void AddSquares(std::span<const float> values, const uint8_t* bits, double* sums) {
  HWY_DYNAMIC_DISPATCH(AddSquares32)(values.data(), values.size(), bits, sums);
}
void KeepInColumns(const uint16_t* tile, size_t stride, size_t words, size_t n, size_t m,
                   uint64_t* keep) {
  HWY_DYNAMIC_DISPATCH(KeepInColumns16)
  (reinterpret_cast<const int16_t*>(tile), stride, words, n, m, keep);
}
void KeepInColumns(const float* tile, size_t stride, size_t words, size_t n, size_t m,
                   uint64_t* keep) {
  HWY_DYNAMIC_DISPATCH(KeepInColumns32)
  (reinterpret_cast<const int32_t*>(tile), stride, words, n, m, keep);
}
void KeepInGroups(const uint16_t* values, size_t words, size_t n, size_t m, uint64_t* keep) {
  HWY_DYNAMIC_DISPATCH(KeepInGroups16)
  (reinterpret_cast<const int16_t*>(values), words, n, m, keep);
}
void KeepInGroups(const float* values, size_t words, size_t n, size_t m, uint64_t* keep) {
  HWY_DYNAMIC_DISPATCH(KeepInGroups32)
  (reinterpret_cast<const int32_t*>(values), words, n, m, keep);
}

uint64_t CountOnes(const uint8_t* bits, size_t bytes) {
  return HWY_DYNAMIC_DISPATCH(Ones)(bits, bytes);
}

Mask AllGo(uint64_t count) {
  return {.count = count, .bits = std::vector<uint8_t>(static_cast<size_t>((count + 7) / 8), 0)};
}

Mask AllStay(uint64_t count) {
  Mask mask{.count = count,
            .bits = std::vector<uint8_t>(static_cast<size_t>((count + 7) / 8), 0xff)};
  if (count % 8 != 0) mask.bits.back() = static_cast<uint8_t>((1u << (count % 8)) - 1);
  return mask;
}

// The error of the first index that has one, so that it is the same for any number of threads.
class FirstError {
 public:
  void Note(size_t index, Status status) {
    if (status.ok()) return;
    const std::lock_guard lock(mutex_);
    if (status_.ok() || index < index_) {
      index_ = index;
      status_ = std::move(status);
    }
  }
  Status Take() { return std::move(status_); }

 private:
  std::mutex mutex_;
  size_t index_ = 0;
  Status status_;
};

// Calls visit(piece, worker, first, values) for every piece that `wanted(piece)` says.
template <typename T, typename Wanted, typename Visit>
Status VisitSome(const ValueSource<T>& source, ThreadPool& pool, const Wanted& wanted,
                 const Visit& visit) {
  FirstError error;
  pool.For(source.pieces(), [&](size_t piece, int worker) {
    if (!wanted(piece)) return;
    error.Note(piece, source.Visit(piece, [&](uint64_t first, std::span<const T> values) {
      CMLC_CHECK(first % 8 == 0 && first <= source.count() &&
                 values.size() <= source.count() - first);
      visit(piece, static_cast<size_t>(worker), first, values);
    }));
  });
  return error.Take();
}

template <typename T, typename Visit>
Status VisitAll(const ValueSource<T>& source, ThreadPool& pool, const Visit& visit) {
  return VisitSome(
      source, pool, [](size_t) { return true; }, visit);
}

// Goes over some values with a mask, a chunk at a time: calls make(chunk, its bits) and adds up
// squares by the bits that it made.
template <typename T, typename Byte, typename Make>
PrunedSquares SquaresBy(std::span<const T> values, Byte* bits, const Make& make) {
  std::array<double, 2 * kPlaces> sums = {};
  static_assert(kChunk % kPart == 0);
  for (size_t i = 0; i < values.size(); i += kChunk) {
    const std::span<const T> chunk = values.subspan(i, std::min(kChunk, values.size() - i));
    make(chunk, bits + i / 8);
    AddSquares(chunk, bits + i / 8, sums.data());
  }
  for (size_t half = kPlaces / 2; half > 0; half /= 2)
    for (size_t i = 0; i < half; ++i) {
      sums[i] += sums[i + half];
      sums[kPlaces + i] += sums[kPlaces + i + half];
    }
  return {.all = sums[0], .gone = sums[kPlaces]};
}

// Makes a mask a chunk at a time by calls of make(piece, chunk, bits), and squares if wanted.
template <typename T, typename Make>
Result<Mask> MaskAll(const ValueSource<T>& source, ThreadPool& pool,
                     std::vector<PrunedSquares>* squares, const Make& make) {
  Mask mask = AllGo(source.count());
  if (squares != nullptr) squares->assign(source.pieces(), {});
  CMLC_RETURN_IF_ERROR(
      VisitAll(source, pool, [&](size_t piece, size_t, uint64_t first, std::span<const T> values) {
        uint8_t* bits = mask.bits.data() + first / 8;
        const auto make_some = [&](std::span<const T> some, uint8_t* to) { make(piece, some, to); };
        if (squares == nullptr)
          make_some(values, bits);
        else
          (*squares)[piece] = SquaresBy(values, bits, make_some);
      }));
  return mask;
}

template <typename T>
Result<Mask> MaskAllAbove(const ValueSource<T>& source, int32_t limit, ThreadPool& pool,
                          std::vector<PrunedSquares>* squares) {
  return MaskAll(source, pool, squares, [&](size_t, std::span<const T> values, uint8_t* bits) {
    MaskAbove(values, limit, bits);
  });
}

// Of a mask that was made without them.
template <typename T>
Status SquaresOfMask(const ValueSource<T>& source, const Mask& mask, ThreadPool& pool,
                     std::vector<PrunedSquares>& squares) {
  CMLC_CHECK(mask.count == source.count());
  squares.assign(source.pieces(), {});
  return VisitAll(source, pool,
                  [&](size_t piece, size_t, uint64_t first, std::span<const T> values) {
                    squares[piece] = SquaresOfPruned(values, mask.bits.data() + first / 8);
                  });
}

// The same for a mask in which all values stay, or all go.
template <typename T>
Result<Mask> WithSquares(Mask mask, const ValueSource<T>& source, ThreadPool& pool,
                         std::vector<PrunedSquares>* squares) {
  if (squares != nullptr) CMLC_RETURN_IF_ERROR(SquaresOfMask(source, mask, pool, *squares));
  return mask;
}

// --- Sparsity -----------------------------------------------------------------------------------

// All values of lesser magnitude go, and `ties` of the `equal` values that have this one.
struct Cut {
  uint32_t magnitude = 0;
  uint64_t ties = 0;
  uint64_t equal = 0;
  // For each piece of the source its first value and how many of the `equal` it has, if known.
  std::vector<std::pair<uint64_t, uint64_t>> in_pieces = {};
};

// Counts of a digit of magnitudes. 64-bit, since a tensor may have more than 2^32 equal values.
class DigitCounts {
 public:
  explicit DigitCounts(size_t digits) : counts_(digits, 0) {}
  uint64_t* counts() { return counts_.data(); }
  void Merge(const DigitCounts& other) {
    for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  }
  // The digit at which more than none and up to all of its values are still to go. `remove` of the
  // counted values, which are more than none, go.
  Cut FindCut(uint64_t remove) const {
    uint32_t digit = 0;
    while (counts_[digit] < remove) remove -= counts_[digit++];
    return {.magnitude = digit, .ties = remove, .equal = counts_[digit]};
  }

 private:
  std::vector<uint64_t> counts_;
};

// Counts all values by count(values, counts), with a table for each thread.
template <typename T, typename Count>
Result<DigitCounts> CountDigits(const ValueSource<T>& source, ThreadPool& pool, size_t digits,
                                const Count& count) {
  std::vector<std::vector<DigitCounts>> tables(static_cast<size_t>(pool.threads()));
  CMLC_RETURN_IF_ERROR(
      VisitAll(source, pool, [&](size_t, size_t worker, uint64_t, std::span<const T> values) {
        if (tables[worker].empty()) tables[worker].emplace_back(digits);
        count(values, tables[worker].front().counts());
      }));
  DigitCounts total(digits);
  for (const auto& table : tables)
    if (!table.empty()) total.Merge(table.front());
  return total;
}

// Counts in a bracket of few magnitudes, which some of the values say the cut lies in: most values
// then cost two comparisons in a vector. Nothing if it does not lie there.
Result<std::optional<Cut>> FindCutBetween(const ValueSource<uint16_t>& source, uint64_t remove,
                                          ThreadPool& pool) {
  // One of so many runs of values is looked at, of up to three pieces. Runs are short, and their
  // distance is odd so that they are not always the same places of rows: rows and columns have
  // scales of their own.
  constexpr size_t kRun = 64;
  constexpr uint64_t kWanted = 65536;
  const auto every =
      static_cast<size_t>(kRun * (std::clamp<uint64_t>(source.count() / kWanted, 4, 64) | 1));
  std::vector<uint32_t> patterns(kHalfPatterns, 0);
  std::set<size_t> looked_at;
  for (const size_t piece : {size_t{0}, source.pieces() / 2, source.pieces() - 1})
    if (looked_at.insert(piece).second)
      // If it cannot be read, counting will say so, for the first piece of which that is true.
      static_cast<void>(source.Visit(piece, [&](uint64_t, std::span<const uint16_t> values) {
        for (size_t i = 0; i < values.size(); i += every)
          CountHalves(values.subspan(i, std::min(kRun, values.size() - i)), patterns.data());
      }));
  constexpr size_t kMagnitudes = kHalfPatterns / 2;
  uint64_t seen = 0;
  for (size_t i = 0; i < kMagnitudes; ++i) seen += patterns[i] += patterns[i + kMagnitudes];
  const auto at = [&](double share) {
    return static_cast<uint64_t>(std::max(share, 0.0) * static_cast<double>(seen));
  };
  const double share = static_cast<double>(remove) / static_cast<double>(source.count());
  // The share of all values on either side of the cut that should be in the bracket: four times
  // what so many independent ones deviate by.
  const double margin =
      std::max(0.008, 2 / std::sqrt(static_cast<double>(std::max<uint64_t>(seen, 1))));
  const uint64_t lowest = at(share - margin), highest = at(share + margin);
  size_t low = 0;
  uint64_t below = 0;
  for (; low < kMagnitudes - 2 && below + patterns[low] <= lowest; ++low) below += patterns[low];
  size_t high = low;
  for (; high < kMagnitudes - 2 && below <= highest; ++high) below += patterns[high];

  struct Piece {
    uint64_t first = 0;
    uint64_t below = 0;
    std::vector<uint32_t> counts;
  };
  std::vector<Piece> pieces(source.pieces());
  CMLC_RETURN_IF_ERROR(VisitAll(
      source, pool, [&](size_t piece, size_t, uint64_t first, std::span<const uint16_t> values) {
        CMLC_CHECK(values.size() <= std::numeric_limits<uint32_t>::max());
        Piece& counted = pieces[piece];
        counted.first = first;
        counted.counts.resize(high - low + 1, 0);
        counted.below = HWY_DYNAMIC_DISPATCH(CountBetween)(
            reinterpret_cast<const int16_t*>(values.data()), values.size(),
            static_cast<int16_t>(low), static_cast<int16_t>(high), counted.counts.data());
      }));
  uint64_t less = 0;
  DigitCounts total(high - low + 1);
  uint64_t between = 0;
  for (const Piece& piece : pieces) {
    less += piece.below;
    for (size_t i = 0; i < piece.counts.size(); ++i) {
      total.counts()[i] += piece.counts[i];
      between += piece.counts[i];
    }
  }
  if (remove <= less || remove > less + between) return std::optional<Cut>();
  Cut cut = total.FindCut(remove - less);
  for (const Piece& piece : pieces)
    cut.in_pieces.emplace_back(piece.first, piece.counts[cut.magnitude]);
  cut.magnitude += static_cast<uint32_t>(low);
  return std::optional<Cut>(std::move(cut));
}

Result<Cut> FindCut(const ValueSource<uint16_t>& source, uint64_t remove, ThreadPool& pool) {
  constexpr size_t kMagnitudes = kHalfPatterns / 2;
  CMLC_ASSIGN_OR_RETURN(std::optional<Cut> between, FindCutBetween(source, remove, pool));
  if (between) return *std::move(between);
  // CountHalves counts to 2^32, in tables of its own.
  constexpr size_t kMost = size_t{1} << 31;
  std::vector<std::vector<uint32_t>> patterns(static_cast<size_t>(pool.threads()));
  std::vector<uint64_t> pending(patterns.size(), 0);
  DigitCounts total(kMagnitudes);
  std::mutex mutex;
  const auto flush = [&](size_t worker) {
    const std::lock_guard lock(mutex);
    std::vector<uint32_t>& table = patterns[worker];
    for (size_t i = 0; i < table.size(); ++i) total.counts()[i % kMagnitudes] += table[i];
    std::fill(table.begin(), table.end(), 0);
    pending[worker] = 0;
  };
  CMLC_RETURN_IF_ERROR(VisitAll(
      source, pool, [&](size_t, size_t worker, uint64_t, std::span<const uint16_t> values) {
        patterns[worker].resize(kHalfPatterns, 0);
        while (!values.empty()) {
          const auto step = std::min<size_t>(values.size(), kMost - pending[worker]);
          CountHalves(values.first(step), patterns[worker].data());
          values = values.subspan(step);
          pending[worker] += step;
          if (pending[worker] == kMost) flush(worker);
        }
      }));
  for (size_t worker = 0; worker < patterns.size(); ++worker) flush(worker);
  return total.FindCut(remove);
}

Result<Cut> FindCut(const ValueSource<float>& source, uint64_t remove, ThreadPool& pool) {
  const auto high_digits = [](std::span<const float> values, uint64_t* counts) {
    for (const float value : values) ++counts[MagnitudeOf(value) >> kLowBits];
  };
  CMLC_ASSIGN_OR_RETURN(const DigitCounts high,
                        CountDigits(source, pool, size_t{1} << (31 - kLowBits), high_digits));
  const Cut first = high.FindCut(remove);
  const auto low_digits = [&](std::span<const float> values, uint64_t* counts) {
    for (const float value : values) {
      const uint32_t magnitude = MagnitudeOf(value);
      if (magnitude >> kLowBits == first.magnitude) ++counts[magnitude & ((1u << kLowBits) - 1)];
    }
  };
  CMLC_ASSIGN_OR_RETURN(const DigitCounts low,
                        CountDigits(source, pool, size_t{1} << kLowBits, low_digits));
  Cut cut = low.FindCut(first.ties);
  cut.magnitude |= first.magnitude << kLowBits;
  return cut;
}

// The same for few values.
template <typename T>
Result<Cut> SelectCut(const ValueSource<T>& source, uint64_t remove) {
  std::vector<uint32_t> magnitudes;
  magnitudes.reserve(static_cast<size_t>(source.count()));
  for (size_t piece = 0; piece < source.pieces(); ++piece)
    CMLC_RETURN_IF_ERROR(source.Visit(piece, [&](uint64_t, std::span<const T> values) {
      for (const T value : values) magnitudes.push_back(MagnitudeOf(value));
    }));
  CMLC_CHECK(magnitudes.size() == source.count());
  const auto last = magnitudes.begin() + static_cast<std::ptrdiff_t>(remove - 1);
  std::nth_element(magnitudes.begin(), last, magnitudes.end());
  Cut cut{.magnitude = *last, .ties = remove, .equal = 0};
  for (const uint32_t magnitude : magnitudes) {
    if (magnitude < cut.magnitude) --cut.ties;
    if (magnitude == cut.magnitude) ++cut.equal;
  }
  return cut;
}

template <typename T>
Result<Mask> BySparsity(const ValueSource<T>& source, uint64_t remove, bool zeros_go,
                        ThreadPool& pool, std::vector<PrunedSquares>* squares) {
  const uint64_t count = source.count();
  if (remove == 0 && zeros_go) return MaskAllAbove(source, 0, pool, squares);
  if (remove == 0) return WithSquares(AllStay(count), source, pool, squares);
  if (remove >= count) return WithSquares(AllGo(count), source, pool, squares);
  CMLC_ASSIGN_OR_RETURN(
      Cut cut, count <= kSelected ? SelectCut(source, remove) : FindCut(source, remove, pool));
  const auto limit = static_cast<int32_t>(cut.magnitude);
  if (cut.ties == cut.equal || (zeros_go && limit == 0))
    return MaskAllAbove(source, limit, pool, squares);

  struct Piece {
    uint64_t first = 0;
    uint64_t equal = 0;
    uint64_t ties = 0;  // of them go
  };
  std::vector<Piece> pieces(source.pieces());
  if (pieces.size() == 1) {
    pieces[0].equal = cut.equal;
  } else if (!cut.in_pieces.empty()) {
    for (size_t i = 0; i < pieces.size(); ++i)
      pieces[i] = {.first = cut.in_pieces[i].first, .equal = cut.in_pieces[i].second};
  } else {
    CMLC_RETURN_IF_ERROR(VisitAll(
        source, pool, [&](size_t piece, size_t, uint64_t first, std::span<const T> values) {
          pieces[piece].first = first;
          for (const T value : values)
            if (MagnitudeOf(value) == cut.magnitude) ++pieces[piece].equal;
        }));
  }
  std::vector<Piece*> in_order;
  in_order.reserve(pieces.size());
  for (Piece& piece : pieces) in_order.push_back(&piece);
  std::sort(in_order.begin(), in_order.end(),
            [](const Piece* a, const Piece* b) { return a->first < b->first; });
  uint64_t left = cut.ties;
  for (Piece* piece : in_order) {
    piece->ties = std::min(left, piece->equal);
    left -= piece->ties;
  }
  return MaskAll(source, pool, squares,
                 [&](size_t piece, std::span<const T> values, uint8_t* bits) {
                   pieces[piece].ties = MaskCut(values, limit, pieces[piece].ties, bits);
                 });
}

// --- Structures ---------------------------------------------------------------------------------

// Bits [offset, offset + n) of `words`, n being 1 to 64.
uint64_t BitsAt(const uint64_t* words, size_t offset, size_t n) {
  const size_t shift = offset % 64;
  uint64_t bits = words[offset / 64] >> shift;
  if (shift + n > 64) bits |= words[offset / 64 + 1] << (64 - shift);
  return bits & (~uint64_t{0} >> (64 - n));
}

// Writes bits into a mask, from any position on, over zeros. Only the first and the last byte may
// hold bits of others, who may be writing them at the same time.
class BitWriter {
 public:
  BitWriter(Mask& mask, uint64_t position)
      : at_(mask.bits.data() + position / 8), filled_(position % 8) {}
  BitWriter(const BitWriter&) = delete;
  BitWriter& operator=(const BitWriter&) = delete;
  ~BitWriter() {
    for (; filled_ > 0; word_ >>= 8, filled_ -= std::min<size_t>(filled_, 8), ++at_) Share(word_);
  }

  // The low n bits, 1 to 64; all others are 0.
  void Append(uint64_t bits, size_t n) {
    word_ |= bits << filled_;
    if (filled_ + n < 64) {
      filled_ += n;
      return;
    }
    if (is_first_) {
      Share(word_);
      const uint64_t rest = word_ >> 8;
      std::memcpy(at_ + 1, &rest, 7);
      is_first_ = false;
    } else {
      std::memcpy(at_, &word_, 8);
    }
    at_ += 8;
    word_ = filled_ > 0 ? bits >> (64 - filled_) : 0;
    filled_ = filled_ + n - 64;
  }

  void Append(const uint64_t* words, size_t offset, size_t count) {
    for (; count > 0;) {
      const size_t n = std::min<size_t>(count, 64);
      Append(BitsAt(words, offset, n), n);
      offset += n;
      count -= n;
    }
  }

 private:
  void Share(uint64_t bits) {
    __atomic_fetch_or(at_, static_cast<uint8_t>(bits & 0xff), __ATOMIC_RELAXED);
  }

  uint8_t* at_;
  size_t filled_;
  uint64_t word_ = 0;
  bool is_first_ = true;
};

// The structures of a tensor. A slab is the channels of a structure at all inner positions, which
// lie together in memory; slabs are numbered in order of memory. A column is one structure: column
// q is at inner position q % inner of slab q / inner. A band is some slabs, or some columns of one
// if slabs are large.
class Grid {
 public:
  Grid(const AxisLayout& layout, uint64_t m)
      : layout_(layout), m_(m), groups_(layout.channels / m + (layout.channels % m != 0 ? 1 : 0)) {
    const uint64_t most = std::clamp<uint64_t>(kTileValues / m, 64, kMostColumns) / 64 * 64;
    slabs_ = layout.outer * groups_;
    strips_ = (layout.inner + most - 1) / most;
    strip_ = strips_ == 1 ? layout.inner : (layout.inner + 64 * strips_ - 1) / (64 * strips_) * 64;
    strips_ = (layout.inner + strip_ - 1) / strip_;
    slabs_of_band_ = strips_ > 1 ? 1 : most / layout.inner;
    columns_ = static_cast<size_t>((slabs_of_band_ * strip_ + 63) / 64 * 64);
  }

  uint64_t inner() const { return layout_.inner; }
  uint64_t m() const { return m_; }
  bool has_short() const { return layout_.channels % m_ != 0; }
  size_t bands() const {
    return static_cast<size_t>(strips_ > 1 ? slabs_ * strips_
                                           : (slabs_ + slabs_of_band_ - 1) / slabs_of_band_);
  }
  uint64_t structures() const { return slabs_ * layout_.inner; }
  // The most columns of a band, rounded up to whole words of a mask.
  size_t columns() const { return columns_; }
  // The channels of a slab.
  size_t height(uint64_t slab) const {
    return static_cast<size_t>(std::min(m_, layout_.channels - slab % groups_ * m_));
  }
  // The first value of a slab.
  uint64_t position(uint64_t slab) const {
    return (slab / groups_ * layout_.channels + slab % groups_ * m_) * layout_.inner;
  }

  struct Band {
    uint64_t slab;   // the first
    uint64_t slabs;  // 1 unless they are whole
    uint64_t begin;  // the first column within its slab
    size_t width;    // columns of each slab
    size_t columns() const { return static_cast<size_t>(slabs) * width; }
  };
  Band band(size_t index) const {
    if (strips_ > 1) {
      const uint64_t begin = index % strips_ * strip_;
      return {index / strips_, 1, begin,
              static_cast<size_t>(std::min(strip_, layout_.inner - begin))};
    }
    const uint64_t slab = index * slabs_of_band_;
    return {slab, std::min(slabs_of_band_, slabs_ - slab), 0, static_cast<size_t>(layout_.inner)};
  }
  // Calls body(i, height) for every slab of a band, i counting from 0. Dividing for each would cost
  // more than all else where slabs are single structures.
  template <typename Body>
  void ForSlabs(const Band& band, const Body& body) const {
    ForRuns(band, [&](size_t i, size_t, size_t channels) {
      for (; channels > m_; channels -= static_cast<size_t>(m_)) body(i++, static_cast<size_t>(m_));
      body(i, channels);
    });
  }
  // Calls body(i, slabs, channels) for all slabs of a band at one outer position, from the i-th on;
  // `channels` are theirs in all. Only the last of them may be short.
  template <typename Body>
  void ForRuns(const Band& band, const Body& body) const {
    uint64_t group = band.slab % groups_;
    for (uint64_t i = 0; i < band.slabs;) {
      const uint64_t slabs = std::min(groups_ - group, band.slabs - i);
      const uint64_t channels = std::min(slabs * m_, layout_.channels - group * m_);
      body(static_cast<size_t>(i), static_cast<size_t>(slabs), static_cast<size_t>(channels));
      i += slabs;
      group = 0;
    }
  }
  // Whether a band's values lie together in memory.
  bool together(const Band& band) const { return band.width == layout_.inner; }
  // The values of such a band.
  size_t values(const Band& band) const {
    const uint64_t last = band.slab + band.slabs - 1;
    return static_cast<size_t>(position(last) + height(last) * layout_.inner - position(band.slab));
  }

 private:
  AxisLayout layout_;
  uint64_t m_;
  uint64_t groups_;  // slabs of one outer position
  uint64_t slabs_;
  uint64_t strip_;   // columns of a slab in one band
  uint64_t strips_;  // bands of a slab
  uint64_t slabs_of_band_;
  size_t columns_;
};

// A tile has m rows of columns; what a short structure lacks is zero.
template <typename T>
class TileReader {
 public:
  TileReader(const RangeReader<T>& reader, const Grid& grid) : reader_(reader), grid_(grid) {}

  // Rows of a power of two would all compete for the same few lines of the cache.
  size_t stride() const { return grid_.columns() + 64; }

  Result<const T*> Tile(const Grid::Band& band) {
    tile_.resize(static_cast<size_t>(grid_.m()) * stride());
    const size_t m = static_cast<size_t>(grid_.m());
    if (!grid_.together(band)) {
      const size_t height = grid_.height(band.slab);
      for (size_t r = 0; r < m; ++r) {
        const std::span<T> row(tile_.data() + r * stride(), band.width);
        if (r < height)
          CMLC_RETURN_IF_ERROR(
              reader_.Read(grid_.position(band.slab) + r * grid_.inner() + band.begin, row));
        else
          std::fill(row.begin(), row.end(), T{0});
      }
      return tile_.data();
    }
    CMLC_ASSIGN_OR_RETURN(const T* from, Values(band));
    grid_.ForSlabs(band, [&](size_t i, size_t height) {
      T* to = tile_.data() + i * band.width;
      if (band.width == 1) {
        for (size_t r = 0; r < height; ++r) to[r * stride()] = *from++;
      } else {
        for (size_t r = 0; r < height; ++r, from += band.width)
          std::memcpy(to + r * stride(), from, band.width * sizeof(T));
      }
      for (size_t r = height; r < m; ++r) std::fill_n(to + r * stride(), band.width, T{0});
    });
    return tile_.data();
  }

  // The values of a band that lie together, as they are; some more may be read.
  Result<const T*> Values(const Grid::Band& band) {
    values_.resize(static_cast<size_t>(grid_.m()) * grid_.columns());
    const std::span<T> values(values_.data(), grid_.values(band));
    CMLC_RETURN_IF_ERROR(reader_.Read(grid_.position(band.slab), values));
    return values_.data();
  }

  // The same with zeros behind every short structure; inner is 1.
  Result<const T*> PaddedValues(const Grid::Band& band) {
    CMLC_ASSIGN_OR_RETURN(const T* from, Values(band));
    if (!grid_.has_short()) return from;
    tile_.resize(values_.size());
    const size_t m = static_cast<size_t>(grid_.m());
    grid_.ForRuns(band, [&](size_t i, size_t slabs, size_t channels) {
      T* to = tile_.data() + i * m;
      std::memcpy(to, from, channels * sizeof(T));
      std::fill(to + channels, to + slabs * m, T{0});
      from += channels;
    });
    return tile_.data();
  }

 private:
  const RangeReader<T>& reader_;
  const Grid& grid_;
  std::vector<T> tile_;
  std::vector<T> values_;
};

// Writes what stays of a band: a row of bits for each channel, `stride` words apart.
void WriteBand(const Grid& grid, const Grid::Band& band, const uint64_t* keep, size_t stride,
               Mask& mask) {
  if (!grid.together(band)) {
    const size_t height = grid.height(band.slab);
    for (size_t r = 0; r < height; ++r)
      BitWriter(mask, grid.position(band.slab) + r * grid.inner() + band.begin)
          .Append(keep + r * stride, 0, band.width);
    return;
  }
  BitWriter writer(mask, grid.position(band.slab));
  grid.ForSlabs(band, [&](size_t i, size_t height) {
    if (band.width > 1) {
      for (size_t r = 0; r < height; ++r)
        writer.Append(keep + r * stride, i * band.width, band.width);
      return;
    }
    const uint64_t* column = keep + i / 64;
    for (size_t r = 0; r < height;) {
      uint64_t bits = 0;
      const size_t n = std::min<size_t>(height - r, 64);
      for (size_t k = 0; k < n; ++k, ++r) bits |= ((column[r * stride] >> (i % 64)) & 1) << k;
      writer.Append(bits, n);
    }
  });
}

// The columns of a tile whose rows are too many to compare each with each.
template <typename T>
void SelectInColumns(const T* tile, size_t stride, size_t columns, size_t words, size_t n, size_t m,
                     std::vector<uint64_t>& order, uint64_t* keep) {
  std::fill_n(keep, m * words, 0);
  order.resize(m);
  for (size_t c = 0; c < columns; ++c) {
    for (size_t r = 0; r < m; ++r) order[r] = uint64_t{MagnitudeOf(tile[r * stride + c])} << 32 | r;
    const auto stays = order.begin() + static_cast<std::ptrdiff_t>(n);
    std::nth_element(order.begin(), stays, order.end());
    for (auto it = stays; it != order.end(); ++it)
      keep[(*it & 0xffffffffu) * words + c / 64] |= uint64_t{1} << (c % 64);
  }
}

template <typename T>
Result<Mask> ByNm(const RangeReader<T>& reader, const AxisLayout& layout, uint64_t n, uint64_t m,
                  ThreadPool& pool) {
  CMLC_CHECK(m > 0 && m >> 32 == 0);
  const uint64_t count = layout.count();
  if (n == 0) return AllStay(count);
  if (n >= m || count == 0) return AllGo(count);
  const Grid grid(layout, m);
  const size_t rows = static_cast<size_t>(m);
  const bool in_vectors = layout.inner == 1 && std::has_single_bit(m) && m * sizeof(T) <= 16;
  struct Worker {
    std::optional<TileReader<T>> reader;
    std::vector<uint64_t> keep;
    std::vector<uint64_t> order;
  };
  std::vector<Worker> workers(static_cast<size_t>(pool.threads()));
  Mask mask = AllGo(count);
  const auto do_band = [&](const Grid::Band& band, Worker& worker) -> Status {
    if (!worker.reader) {
      worker.reader.emplace(reader, grid);
      worker.keep.resize(rows * (grid.columns() / 64));
    }
    TileReader<T>& tiles = *worker.reader;
    uint64_t* keep = worker.keep.data();
    if (in_vectors) {
      CMLC_ASSIGN_OR_RETURN(const T* values, tiles.PaddedValues(band));
      const size_t padded = band.columns() * rows;
      KeepInGroups(values, (padded + 63) / 64, static_cast<size_t>(n), rows, keep);
      BitWriter writer(mask, grid.position(band.slab));
      grid.ForRuns(band, [&](size_t i, size_t, size_t channels) {
        writer.Append(keep, i * rows, channels);
      });
      return Ok();
    }
    const size_t words = (band.columns() + 63) / 64;
    CMLC_ASSIGN_OR_RETURN(const T* tile, tiles.Tile(band));
    if (m <= kMostCompared)
      KeepInColumns(tile, tiles.stride(), words, static_cast<size_t>(n), rows, keep);
    else
      SelectInColumns(tile, tiles.stride(), band.columns(), words, static_cast<size_t>(n), rows,
                      worker.order, keep);
    WriteBand(grid, band, keep, words, mask);
    return Ok();
  };
  FirstError error;
  pool.For(grid.bands(), [&](size_t index, int worker) {
    error.Note(index, do_band(grid.band(index), workers[static_cast<size_t>(worker)]));
  });
  CMLC_RETURN_IF_ERROR(error.Take());
  return mask;
}

// Decides which blocks go, by the bit patterns of their squared norms, which are ordered like the
// norms.
template <typename T>
class BlockPruner {
 public:
  BlockPruner(const RangeReader<T>& reader, const AxisLayout& layout, uint64_t block,
              ThreadPool& pool)
      : count_(layout.count()),
        grid_(layout, block),
        pool_(pool),
        workers_(static_cast<size_t>(pool.threads())) {
    for (Worker& worker : workers_) worker.reader.emplace(reader, grid_);
  }

  // Removes the first blocks that together have no more than `budget` values, which is less than
  // all.
  Result<Mask> Prune(uint64_t budget) {
    CMLC_ASSIGN_OR_RETURN(const Block first, FirstToStay(budget));
    Mask mask = AllGo(count_);
    CMLC_RETURN_IF_ERROR(ForBands([&](const Grid::Band& band, Worker& worker) {
      worker.keep.assign(grid_.columns() / 64, 0);
      ForBlocks(band, worker, [&](const Block& block, size_t, size_t column) {
        if (!(block < first)) worker.keep[column / 64] |= uint64_t{1} << (column % 64);
      });
      WriteBand(grid_, band, worker.keep.data(), 0, mask);
    }));
    return mask;
  }

 private:
  struct Block {
    uint64_t bits;    // of the squared norm
    uint64_t column;  // see Grid
    bool operator<(const Block& other) const {
      return bits != other.bits ? bits < other.bits : column < other.column;
    }
  };
  struct Tally {
    uint64_t values = 0;
    uint64_t blocks = 0;
  };
  struct Worker {
    std::optional<TileReader<T>> reader;
    std::vector<float> floats;
    std::vector<double> sums;
    std::vector<uint64_t> keep;
    std::vector<Tally> tallies;
    std::vector<Block> blocks;
  };

  uint64_t values_of(const Block& block) const {
    return grid_.height(block.column / grid_.inner());
  }

  // Computes the squared norms of a band's columns and calls body(band, worker).
  template <typename Body>
  Status DoBand(const Grid::Band& band, Worker& worker, const Body& body) {
    CMLC_ASSIGN_OR_RETURN(const T* tile, worker.reader->Tile(band));
    const size_t stride = worker.reader->stride();
    const size_t columns = band.columns();
    worker.sums.assign(grid_.columns(), 0.0);
    for (size_t r = 0; r < grid_.m(); ++r) {
      if constexpr (std::is_same_v<T, float>) {
        HWY_DYNAMIC_DISPATCH(AddSquares)(tile + r * stride, columns, worker.sums.data());
      } else {
        worker.floats.resize(grid_.columns());
        HalvesToFloats(tile + r * stride, columns, worker.floats.data());
        HWY_DYNAMIC_DISPATCH(AddSquares)(worker.floats.data(), columns, worker.sums.data());
      }
    }
    body(band, worker);
    return Ok();
  }

  template <typename Body>
  Status ForBands(const Body& body) {
    FirstError error;
    pool_.For(grid_.bands(), [&](size_t index, int worker) {
      error.Note(index, DoBand(grid_.band(index), workers_[static_cast<size_t>(worker)], body));
    });
    return error.Take();
  }

  // Calls body(block, values, column within the band). No norm is negative, but a NaN could be.
  template <typename Body>
  void ForBlocks(const Grid::Band& band, const Worker& worker, const Body& body) const {
    const uint64_t first = band.slab * grid_.inner() + band.begin;
    grid_.ForSlabs(band, [&](size_t i, size_t height) {
      for (size_t column = i * band.width; column < (i + 1) * band.width; ++column)
        body(Block{std::bit_cast<uint64_t>(worker.sums[column]) & kNorm, first + column}, height,
             column);
    });
  }

  Result<Block> FirstToStay(uint64_t budget) {
    // What is known of the first block to stay: its bits from `shift` on. `budget` is for the
    // `candidates` that share them.
    uint64_t known = 0;
    int shift = kNormBits;
    uint64_t candidates = grid_.structures();
    const auto is_candidate = [&](const Block& block) { return block.bits >> shift == known; };
    while (candidates > kMostSelected && shift > 0) {
      const int bits = std::min(kDigitBits, shift);
      for (Worker& worker : workers_) worker.tallies.clear();
      CMLC_RETURN_IF_ERROR(ForBands([&](const Grid::Band& band, Worker& worker) {
        worker.tallies.resize(kDigits);
        ForBlocks(band, worker, [&](const Block& block, size_t values, size_t) {
          if (!is_candidate(block)) return;
          Tally& tally =
              worker.tallies[(block.bits >> (shift - bits)) & ((uint64_t{1} << bits) - 1)];
          tally.values += values;
          ++tally.blocks;
        });
      }));
      std::vector<Tally> total(kDigits);
      for (const Worker& worker : workers_)
        for (size_t i = 0; i < worker.tallies.size(); ++i) {
          total[i].values += worker.tallies[i].values;
          total[i].blocks += worker.tallies[i].blocks;
        }
      size_t digit = 0;
      while (total[digit].values <= budget) budget -= total[digit++].values;
      known = known << bits | digit;
      shift -= bits;
      candidates = total[digit].blocks;
    }
    if (candidates <= kMostSelected) {
      for (Worker& worker : workers_) worker.blocks.clear();
      CMLC_RETURN_IF_ERROR(ForBands([&](const Grid::Band& band, Worker& worker) {
        ForBlocks(band, worker, [&](const Block& block, size_t, size_t) {
          if (is_candidate(block)) worker.blocks.push_back(block);
        });
      }));
      std::vector<Block> blocks;
      for (const Worker& worker : workers_)
        blocks.insert(blocks.end(), worker.blocks.begin(), worker.blocks.end());
      // The first to stay is in [begin, end).
      size_t begin = 0, end = blocks.size();
      while (end - begin > 1) {
        const size_t middle = begin + (end - begin) / 2;
        const auto at = [&](size_t i) { return blocks.begin() + static_cast<std::ptrdiff_t>(i); };
        std::nth_element(at(begin), at(middle), at(end));
        uint64_t values = 0;
        for (size_t i = begin; i < middle; ++i) values += values_of(blocks[i]);
        if (values <= budget) {
          budget -= values;
          begin = middle;
        } else {
          end = middle;
        }
      }
      return blocks[begin];
    }
    // Many blocks of one norm go in their order: count them in each band, then look into the one
    // where the budget ends.
    std::vector<uint64_t> values_of_bands(grid_.bands(), 0);
    FirstError error;
    pool_.For(values_of_bands.size(), [&](size_t index, int worker) {
      const auto add = [&](const Grid::Band& band, Worker& state) {
        ForBlocks(band, state, [&](const Block& block, size_t values, size_t) {
          if (block.bits == known) values_of_bands[index] += values;
        });
      };
      error.Note(index, DoBand(grid_.band(index), workers_[static_cast<size_t>(worker)], add));
    });
    CMLC_RETURN_IF_ERROR(error.Take());
    size_t index = 0;
    while (values_of_bands[index] <= budget) budget -= values_of_bands[index++];
    Block found{known, 0};
    bool is_found = false;
    const auto find = [&](const Grid::Band& band, Worker& state) {
      ForBlocks(band, state, [&](const Block& block, size_t values, size_t) {
        if (is_found || block.bits != known) return;
        is_found = values > budget;
        if (is_found)
          found = block;
        else
          budget -= values;
      });
    };
    CMLC_RETURN_IF_ERROR(DoBand(grid_.band(index), workers_.front(), find));
    return found;
  }

  static constexpr int kNormBits = 63;  // without the sign
  static constexpr uint64_t kNorm = (uint64_t{1} << kNormBits) - 1;
  static constexpr int kDigitBits = 16;
  static constexpr size_t kDigits = size_t{1} << kDigitBits;

  uint64_t count_;
  Grid grid_;
  ThreadPool& pool_;
  std::vector<Worker> workers_;
};

template <typename T>
Result<Mask> ByBlocks(const RangeReader<T>& reader, const AxisLayout& layout, uint64_t block,
                      double fraction, ThreadPool& pool) {
  CMLC_CHECK(block > 0);
  const uint64_t count = layout.count();
  if (!(fraction > 0)) return AllStay(count);
  if (fraction >= 1 || count == 0) return AllGo(count);
  const auto budget = static_cast<uint64_t>(std::llround(fraction * static_cast<double>(count)));
  if (budget >= count) return AllGo(count);
  return BlockPruner<T>(reader, layout, std::min(block, layout.channels), pool).Prune(budget);
}

template <typename T>
Status ClearZerosOf(const ValueSource<T>& source, Mask& mask, ThreadPool& pool) {
  CMLC_CHECK(mask.count == source.count());
  return VisitAll(source, pool, [&](size_t, size_t, uint64_t first, std::span<const T> values) {
    uint8_t* bits = mask.bits.data() + first / 8;
    std::array<uint8_t, kChunk / 8> nonzero;
    for (size_t i = 0; i < values.size(); i += kChunk, bits += kChunk / 8) {
      const std::span<const T> chunk = values.subspan(i, std::min(kChunk, values.size() - i));
      MaskAbove(chunk, 0, nonzero.data());
      for (size_t j = 0; j < (chunk.size() + 7) / 8; ++j)
        bits[j] = static_cast<uint8_t>(bits[j] & nonzero[j]);
    }
  });
}

}  // namespace

uint64_t Mask::ones() const { return CountOnes(bits.data(), bits.size()); }

Result<Mask> MaskByThreshold(const ValueSource<uint16_t>& source, float threshold, ThreadPool& pool,
                             std::vector<PrunedSquares>* squares) {
  if (!(threshold >= 0)) return WithSquares(AllStay(source.count()), source, pool, squares);
  return MaskAllAbove(source, static_cast<int32_t>(MagnitudeOf(FloatToHalf(threshold))), pool,
                      squares);
}
Result<Mask> MaskByThreshold(const ValueSource<float>& source, float threshold, ThreadPool& pool,
                             std::vector<PrunedSquares>* squares) {
  if (!(threshold >= 0)) return WithSquares(AllStay(source.count()), source, pool, squares);
  return MaskAllAbove(source, static_cast<int32_t>(MagnitudeOf(threshold)), pool, squares);
}

Result<Mask> MaskBySparsity(const ValueSource<uint16_t>& source, uint64_t remove, bool zeros_go,
                            ThreadPool& pool, std::vector<PrunedSquares>* squares) {
  return BySparsity(source, remove, zeros_go, pool, squares);
}
Result<Mask> MaskBySparsity(const ValueSource<float>& source, uint64_t remove, bool zeros_go,
                            ThreadPool& pool, std::vector<PrunedSquares>* squares) {
  return BySparsity(source, remove, zeros_go, pool, squares);
}

Status ClearZeros(const ValueSource<uint16_t>& source, Mask& mask, ThreadPool& pool) {
  return ClearZerosOf(source, mask, pool);
}
Status ClearZeros(const ValueSource<float>& source, Mask& mask, ThreadPool& pool) {
  return ClearZerosOf(source, mask, pool);
}

Result<Mask> MaskByBlocks(const RangeReader<uint16_t>& reader, const AxisLayout& layout,
                          uint64_t block, double fraction, ThreadPool& pool) {
  return ByBlocks(reader, layout, block, fraction, pool);
}
Result<Mask> MaskByBlocks(const RangeReader<float>& reader, const AxisLayout& layout,
                          uint64_t block, double fraction, ThreadPool& pool) {
  return ByBlocks(reader, layout, block, fraction, pool);
}

Result<Mask> MaskByNm(const RangeReader<uint16_t>& reader, const AxisLayout& layout, uint64_t n,
                      uint64_t m, ThreadPool& pool) {
  return ByNm(reader, layout, n, m, pool);
}
Result<Mask> MaskByNm(const RangeReader<float>& reader, const AxisLayout& layout, uint64_t n,
                      uint64_t m, ThreadPool& pool) {
  return ByNm(reader, layout, n, m, pool);
}

size_t CompressKept(std::span<const uint8_t> values, const uint8_t* mask_bits, uint8_t* out) {
  return HWY_DYNAMIC_DISPATCH(Compress8)(values.data(), values.size(), mask_bits, out);
}
size_t CompressKept(std::span<const uint16_t> values, const uint8_t* mask_bits, uint16_t* out) {
  return HWY_DYNAMIC_DISPATCH(Compress16)(values.data(), values.size(), mask_bits, out);
}
size_t CompressKept(std::span<const float> values, const uint8_t* mask_bits, float* out) {
  return HWY_DYNAMIC_DISPATCH(Compress32)(values.data(), values.size(), mask_bits, out);
}

PrunedSquares SquaresOfPruned(std::span<const uint16_t> values, const uint8_t* mask_bits) {
  return SquaresBy(values, mask_bits, [](std::span<const uint16_t>, const uint8_t*) {});
}
PrunedSquares SquaresOfPruned(std::span<const float> values, const uint8_t* mask_bits) {
  return SquaresBy(values, mask_bits, [](std::span<const float>, const uint8_t*) {});
}

Status SquaresOfPieces(const ValueSource<uint16_t>& source, const Mask& mask, ThreadPool& pool,
                       std::vector<PrunedSquares>& squares) {
  return SquaresOfMask(source, mask, pool, squares);
}
Status SquaresOfPieces(const ValueSource<float>& source, const Mask& mask, ThreadPool& pool,
                       std::vector<PrunedSquares>& squares) {
  return SquaresOfMask(source, mask, pool, squares);
}

MaskIndex::MaskIndex(const Mask& mask) : mask_(mask), before_{0} {
  constexpr size_t kBytes = kStep / 8;
  for (size_t i = 0; i < mask.bits.size(); i += kBytes)
    before_.push_back(before_.back() +
                      CountOnes(mask.bits.data() + i, std::min(kBytes, mask.bits.size() - i)));
}

uint64_t MaskIndex::OnesBefore(uint64_t position) const {
  CMLC_CHECK(position <= mask_.count);
  const uint64_t from = position / kStep * (kStep / 8);
  const uint64_t to = position / 8;
  uint64_t ones = before_[static_cast<size_t>(position / kStep)] +
                  CountOnes(mask_.bits.data() + from, static_cast<size_t>(to - from));
  if (position % 8 != 0)
    ones += static_cast<uint64_t>(
        std::popcount(mask_.bits[static_cast<size_t>(to)] & ((1u << (position % 8)) - 1)));
  return ones;
}

uint64_t MaskIndex::PositionOf(uint64_t kth) const {
  CMLC_CHECK(kth <= ones());
  if (kth == ones()) return mask_.count;
  const auto above = std::upper_bound(before_.begin(), before_.end(), kth);
  const auto step = static_cast<uint64_t>(above - before_.begin()) - 1;
  uint64_t left = kth - before_[static_cast<size_t>(step)];
  auto byte = static_cast<size_t>(step * (kStep / 8));
  // Eight bytes at a time as long as there are eight, then the byte, then the bit.
  while (mask_.bits.size() - byte >= 8) {
    const uint64_t ones = CountOnes(mask_.bits.data() + byte, 8);
    if (ones > left) break;
    left -= ones;
    byte += 8;
  }
  while (true) {
    const auto ones = static_cast<uint64_t>(std::popcount(mask_.bits[byte]));
    if (ones > left) break;
    left -= ones;
    ++byte;
  }
  unsigned bits = mask_.bits[byte];
  for (; left > 0; --left) bits &= bits - 1;
  return uint64_t{byte} * 8 + static_cast<uint64_t>(std::countr_zero(bits));
}

}  // namespace cmlc::numeric
#endif  // HWY_ONCE
