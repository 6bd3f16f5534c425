#include "numeric/convert.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "numeric/convert.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "numeric/half.h"

HWY_BEFORE_NAMESPACE();
namespace cmlc {
namespace numeric {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

void HalvesToFloats(const uint16_t* in, size_t count, float* out) {
  const hn::ScalableTag<float> df;
  const hn::Rebind<hwy::float16_t, decltype(df)> dh;
  const hn::Rebind<uint16_t, decltype(df)> du;
  const size_t lanes = hn::Lanes(df);
  size_t i = 0;
#if HWY_TARGET <= HWY_AVX2 || HWY_ARCH_ARM
  // Only where the instruction exists: Highway's emulation elsewhere turns infinity into 65536.
  for (; i + lanes <= count; i += lanes)
    hn::StoreU(hn::PromoteTo(df, hn::BitCast(dh, hn::LoadU(du, in + i))), df, out + i);
#endif
  (void)dh;
  (void)du;
  (void)lanes;
  for (; i < count; ++i) out[i] = HalfToFloat(in[i]);
}

void FloatsToHalves(const float* in, size_t count, uint16_t* out) {
  const hn::ScalableTag<float> df;
  const hn::Rebind<hwy::float16_t, decltype(df)> dh;
  const hn::Rebind<uint16_t, decltype(df)> du;
  const size_t lanes = hn::Lanes(df);
  size_t i = 0;
#if HWY_TARGET <= HWY_AVX2 || HWY_ARCH_ARM
  // Only where the instruction exists: Highway's emulation elsewhere does not round as IEEE does.
  for (; i + lanes <= count; i += lanes)
    hn::StoreU(hn::BitCast(du, hn::DemoteTo(dh, hn::LoadU(df, in + i))), du, out + i);
#endif
  (void)dh;
  (void)du;
  (void)lanes;
  for (; i < count; ++i) out[i] = FloatToHalf(in[i]);
}

}  // namespace HWY_NAMESPACE
}  // namespace numeric
}  // namespace cmlc
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cmlc::numeric {

HWY_EXPORT(HalvesToFloats);
HWY_EXPORT(FloatsToHalves);

void HalvesToFloats(const uint16_t* in, size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(HalvesToFloats)(in, count, out);
}

void FloatsToHalves(const float* in, size_t count, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(FloatsToHalves)(in, count, out);
}

}  // namespace cmlc::numeric
#endif  // HWY_ONCE
