#include "numeric/select.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "numeric/select.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#ifndef CMLC_NUMERIC_SELECT_ONCE_
#define CMLC_NUMERIC_SELECT_ONCE_
namespace cmlc::numeric {
// From so many intervals on values are first told apart by which of them can hold them.
constexpr size_t kLeastInParts = 4;
constexpr size_t kMostPartSize = 4;
constexpr size_t kPrefetchBytes = 4096;

// By the bits of a mask of eight lanes: the lanes that are set, in order, and then zeros.
constexpr auto kSetLanes = [] {
  std::array<std::array<uint8_t, 8>, 256> lanes{};
  for (size_t mask = 0; mask < lanes.size(); ++mask) {
    size_t set = 0;
    for (uint8_t lane = 0; lane < 8; ++lane)
      if ((mask >> lane & 1) != 0) lanes[mask][set++] = lane;
  }
  return lanes;
}();
}  // namespace cmlc::numeric
#endif

HWY_BEFORE_NAMESPACE();
namespace cmlc {
namespace numeric {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Highway's own CompressStore, as far as release 1.0 goes, has GCC copy its table for AVX2 to the
// stack before every use.
template <class D, class V, class M>
size_t StoreSelected(D d, V value, M selected, float* out) {
#if HWY_TARGET != HWY_SCALAR
  const size_t lanes = hn::Lanes(d);
  if (hn::MaxLanes(d) <= 8 && lanes >= 4) {
    const hn::RebindToSigned<D> di;
    const hn::Rebind<uint8_t, D> d8;
    uint8_t bits[8] = {};
    hn::StoreMaskBits(d, selected, bits);
    auto order = hn::PromoteTo(di, hn::LoadU(d8, kSetLanes[bits[0]].data()));
    if (lanes < 8) order = hn::And(order, hn::Set(di, static_cast<int32_t>(lanes) - 1));
    hn::StoreU(hn::TableLookupLanes(value, hn::IndicesFromVec(d, order)), d, out);
    return static_cast<size_t>(std::popcount(bits[0]));
  }
#endif
  return hn::CompressStore(value, selected, d, out);
}

// The ends of all intervals, sorted, are thresholds, and a value that passes an odd number of them
// is inside. They are in four or eight parts of `kSize` intervals. A few compares find the part of
// a value, for which it has passed an even number; then it is held against the thresholds of that
// part alone, picked by shuffles. There are fewer intervals than parts have room for, so that the
// very last threshold is never passed. There is no branch on whether any value of a vector is
// inside: too many are, and which is anyone's guess.
#if HWY_TARGET != HWY_SCALAR
template <size_t kParts, size_t kSize>
size_t SelectInParts(const float* values, size_t count, std::span<const float> lows,
                     std::span<const float> highs, float* out) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const size_t lanes = hn::Lanes(d);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::array<float, 2 * kParts * kSize> thresholds;
  thresholds.fill(kInfinity);
  for (size_t j = 0; j < lows.size(); ++j) {
    thresholds[2 * j] = std::nextafter(lows[j], -kInfinity);
    thresholds[2 * j + 1] = highs[j];
  }
  // The last threshold of a part is passed by values of later ones only.
  constexpr size_t kInner = 2 * kSize - 1;
  HWY_ALIGN float inner_tables[kInner][hn::MaxLanes(d)];
  for (size_t t = 0; t < kInner; ++t)
    for (size_t i = 0; i < lanes; ++i)
      inner_tables[t][i] = thresholds[2 * kSize * (i % kParts) + t];
  const auto end_of = [&](size_t part) { return thresholds[2 * kSize * part + kInner]; };
  // Three compares find the quarter, and of eight parts a fourth one the half of it.
  constexpr size_t kQuarter = kParts / 4;
  const auto first = hn::Set(d, end_of(kQuarter - 1));
  const auto second = hn::Set(d, end_of(2 * kQuarter - 1));
  const auto third = hn::Set(d, end_of(3 * kQuarter - 1));
  [[maybe_unused]] HWY_ALIGN float half_table[hn::MaxLanes(d)];
  if constexpr (kParts == 8)
    for (size_t i = 0; i < lanes; ++i) half_table[i] = end_of(2 * (i % 4));
  const auto count_up = [&](auto passed, auto value, auto threshold) HWY_ATTR {
    return hn::Sub(passed, hn::BitCast(di, hn::VecFromMask(d, hn::Gt(value, threshold))));
  };
  size_t taken = 0;
  const auto one_vector = [&](size_t at) HWY_ATTR {
    const auto value = hn::LoadU(d, values + at);
    auto part = count_up(hn::Zero(di), value, first);
    part = count_up(part, value, second);
    part = count_up(part, value, third);
    if constexpr (kParts == 8) {
      const auto half = hn::TableLookupLanes(hn::Load(d, half_table), hn::IndicesFromVec(d, part));
      part = count_up(hn::Add(part, part), value, half);
    }
    const auto indices = hn::IndicesFromVec(d, part);
    const auto passes = [&](size_t t) HWY_ATTR {
      return hn::Gt(value, hn::TableLookupLanes(hn::Load(d, inner_tables[t]), indices));
    };
    auto inside = passes(0);
    for (size_t t = 1; t < kInner; ++t) inside = hn::Xor(inside, passes(t));
    taken += StoreSelected(d, value, inside, out + taken);
  };
  size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    // The hardware's own prefetching stops at page ends.
    __builtin_prefetch(reinterpret_cast<const char*>(values + i) + kPrefetchBytes);
    one_vector(i);
    one_vector(i + lanes);
  }
  if (i + lanes <= count) one_vector(i);
  return taken;
}

template <size_t kParts>
size_t SelectInParts(const float* values, size_t count, std::span<const float> lows,
                     std::span<const float> highs, float* out) {
  switch (lows.size() / kParts) {
    case 0:
      return SelectInParts<kParts, 1>(values, count, lows, highs, out);
    case 1:
      return SelectInParts<kParts, 2>(values, count, lows, highs, out);
    case 2:
      return SelectInParts<kParts, 3>(values, count, lows, highs, out);
    default:
      return SelectInParts<kParts, kMostPartSize>(values, count, lows, highs, out);
  }
}
#endif

size_t SelectWithinOf(const float* values, size_t count, std::span<const float> lows,
                      std::span<const float> highs, float* out) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  const size_t intervals = lows.size();
  static_assert(hn::MaxLanes(hn::ScalableTag<float>()) <= kSelectSlack);
  size_t taken = 0;
  size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const size_t parts = lanes >= 8 ? 8 : 4;
  if (lanes >= 4 && intervals >= kLeastInParts && intervals < kMostPartSize * parts) {
    taken = parts == 8 ? SelectInParts<8>(values, count, lows, highs, out)
                       : SelectInParts<4>(values, count, lows, highs, out);
    i = count / lanes * lanes;
  }
#endif
  for (; i + lanes <= count; i += lanes) {
    __builtin_prefetch(reinterpret_cast<const char*>(values + i) + kPrefetchBytes);
    const auto value = hn::LoadU(d, values + i);
    const auto is_in = [&](size_t j) HWY_ATTR {
      return hn::And(hn::Ge(value, hn::Set(d, lows[j])), hn::Le(value, hn::Set(d, highs[j])));
    };
    auto inside = is_in(0);
    for (size_t j = 1; j < intervals; ++j) inside = hn::Or(inside, is_in(j));
    taken += StoreSelected(d, value, inside, out + taken);
  }
  for (; i < count; ++i) {
    bool inside = false;
    for (size_t j = 0; j < intervals; ++j)
      inside = inside || (values[i] >= lows[j] && values[i] <= highs[j]);
    if (inside) out[taken++] = values[i];
  }
  return taken;
}

}  // namespace HWY_NAMESPACE
}  // namespace numeric
}  // namespace cmlc
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cmlc::numeric {

HWY_EXPORT(SelectWithinOf);

size_t SelectWithin(std::span<const float> values, std::span<const float> lows,
                    std::span<const float> highs, float* out) {
  if (lows.empty()) return 0;
  return HWY_DYNAMIC_DISPATCH(SelectWithinOf)(values.data(), values.size(), lows, highs, out);
}

}  // namespace cmlc::numeric
#endif  // HWY_ONCE
