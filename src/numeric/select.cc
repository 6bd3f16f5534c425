#include "numeric/select.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "numeric/select.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>
#include <limits>

#ifndef CMLC_NUMERIC_SELECT_ONCE_
#define CMLC_NUMERIC_SELECT_ONCE_
namespace cmlc::numeric {
// Of intervals in quarters; four quarters hold the boundaries of 16 entries.
constexpr size_t kQuarterSize = 4;
}  // namespace cmlc::numeric
#endif

HWY_BEFORE_NAMESPACE();
namespace cmlc {
namespace numeric {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Up to kQuarterSize * 4 intervals in quarters: three compares tell which quarter a value can be
// near to, and it is held against the intervals of that quarter alone, picked by shuffles.
#if HWY_TARGET != HWY_SCALAR
size_t SelectInQuarters(const float* values, size_t count, const float* middles, const float* radii,
                        size_t intervals, float* out) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const size_t lanes = hn::Lanes(d);
  constexpr float kNever = -1;
  const size_t size = (intervals + 3) / 4;
  HWY_ALIGN float middle_tables[kQuarterSize][hn::MaxLanes(d)];
  HWY_ALIGN float radius_tables[kQuarterSize][hn::MaxLanes(d)];
  float between[3];
  for (size_t q = 0; q < 4; ++q) {
    for (size_t j = 0; j < kQuarterSize; ++j) {
      const size_t interval = q * size + j;
      const bool is_there = j < size && interval < intervals;
      for (size_t i = q; i < lanes; i += 4) {
        middle_tables[j][i] = is_there ? middles[interval] : 0.0f;
        radius_tables[j][i] = is_there ? radii[interval] : kNever;
      }
    }
    if (q == 3) break;
    // Halves, as the sum of two ends might be infinite.
    const size_t next = (q + 1) * size;
    between[q] = next < intervals
                     ? (middles[next - 1] + radii[next - 1]) / 2 + (middles[next] - radii[next]) / 2
                     : std::numeric_limits<float>::infinity();
  }
  const auto first = hn::Set(d, between[0]);
  const auto second = hn::Set(d, between[1]);
  const auto third = hn::Set(d, between[2]);
  const auto count_up = [&](auto passed, auto value, auto threshold) HWY_ATTR {
    return hn::Sub(passed, hn::BitCast(di, hn::VecFromMask(d, hn::Gt(value, threshold))));
  };
  size_t taken = 0;
  for (size_t i = 0; i + lanes <= count; i += lanes) {
    const auto value = hn::LoadU(d, values + i);
    auto quarter = count_up(hn::Zero(di), value, first);
    quarter = count_up(quarter, value, second);
    quarter = count_up(quarter, value, third);
    const auto indices = hn::IndicesFromVec(d, quarter);
    const auto is_near = [&](size_t j) HWY_ATTR {
      const auto middle = hn::TableLookupLanes(hn::Load(d, middle_tables[j]), indices);
      const auto radius = hn::TableLookupLanes(hn::Load(d, radius_tables[j]), indices);
      return hn::Le(hn::Abs(hn::Sub(value, middle)), radius);
    };
    auto near = is_near(0);
    for (size_t j = 1; j < size; ++j) near = hn::Or(near, is_near(j));
    if (hn::AllFalse(d, near)) continue;
    taken += hn::CompressStore(value, near, d, out + taken);
  }
  return taken;
}
#endif

size_t SelectNearOf(const float* values, size_t count, const float* middles, const float* radii,
                    size_t intervals, float* out) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  static_assert(hn::MaxLanes(hn::ScalableTag<float>()) <= kSelectSlack);
  size_t taken = 0;
  size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  if (lanes >= 4 && intervals > 4 && intervals <= 4 * kQuarterSize) {
    taken = SelectInQuarters(values, count, middles, radii, intervals, out);
    i = count / lanes * lanes;
  }
#endif
  for (; i + lanes <= count; i += lanes) {
    const auto value = hn::LoadU(d, values + i);
    const auto is_near = [&](size_t j) {
      return hn::Le(hn::Abs(hn::Sub(value, hn::Set(d, middles[j]))), hn::Set(d, radii[j]));
    };
    auto near = is_near(0);
    for (size_t j = 1; j < intervals; ++j) near = hn::Or(near, is_near(j));
    if (hn::AllFalse(d, near)) continue;
    taken += hn::CompressStore(value, near, d, out + taken);
  }
  for (; i < count; ++i) {
    bool near = false;
    for (size_t j = 0; j < intervals; ++j)
      near = near || std::fabs(values[i] - middles[j]) <= radii[j];
    if (near) out[taken++] = values[i];
  }
  return taken;
}

}  // namespace HWY_NAMESPACE
}  // namespace numeric
}  // namespace cmlc
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cmlc::numeric {

HWY_EXPORT(SelectNearOf);

size_t SelectNear(std::span<const float> values, std::span<const float> middles,
                  std::span<const float> radii, float* out) {
  if (middles.empty()) return 0;
  return HWY_DYNAMIC_DISPATCH(SelectNearOf)(values.data(), values.size(), middles.data(),
                                            radii.data(), middles.size(), out);
}

}  // namespace cmlc::numeric
#endif  // HWY_ONCE
