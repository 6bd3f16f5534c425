#include "numeric/select.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "numeric/select.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

HWY_BEFORE_NAMESPACE();
namespace cmlc {
namespace numeric {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

size_t SelectNearOf(const float* values, size_t count, const float* middles, const float* radii,
                    size_t intervals, float* out) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  static_assert(hn::MaxLanes(hn::ScalableTag<float>()) <= kSelectSlack);
  size_t taken = 0;
  size_t i = 0;
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
