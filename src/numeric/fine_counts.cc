#include "numeric/fine_counts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "numeric/fine_counts.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <bit>
#include <new>

#include "base/check.h"

HWY_BEFORE_NAMESPACE();
namespace cmlc {
namespace numeric {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

constexpr uint32_t kMagnitude = 0x7fffffff;

FineCounts::Extent ExtentOf(const float* values, size_t count) {
  const hn::ScalableTag<uint32_t> d;
  const size_t lanes = hn::Lanes(d);
  const auto magnitude = hn::Set(d, kMagnitude);
  const auto one = hn::Set(d, 1);
  auto least = hn::Set(d, std::numeric_limits<uint32_t>::max());
  auto greatest = hn::Zero(d);
  auto any = hn::Zero(d);
  const auto* bits = reinterpret_cast<const uint32_t*>(values);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto value = hn::And(hn::LoadU(d, bits + i), magnitude);
    least = hn::Min(least, hn::Sub(value, one));
    greatest = hn::Max(greatest, value);
    any = hn::Or(any, value);
  }
  FineCounts::Extent extent;
  HWY_ALIGN uint32_t each[hn::MaxLanes(d)];
  const auto for_each = [&](auto vector, const auto& add) HWY_ATTR {
    hn::Store(vector, d, each);
    for (size_t lane = 0; lane < lanes; ++lane) add(each[lane]);
  };
  for_each(least, [&](uint32_t x) { extent.least_less_one = std::min(extent.least_less_one, x); });
  for_each(greatest, [&](uint32_t x) { extent.greatest = std::max(extent.greatest, x); });
  for_each(any, [&](uint32_t x) { extent.any_bits |= x; });
  for (; i < count; ++i) {
    const uint32_t x = bits[i] & kMagnitude;
    extent.Add({.least_less_one = x - 1, .greatest = x, .any_bits = x});
  }
  return extent;
}

// The sum of counts[i], and that of i * counts[i]. There are so few values that no sum of counts
// times eight leaves 32 bits.
FineCounts::Part SumOf(const uint32_t* counts, size_t size) {
  FineCounts::Part total;
  size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  static_assert(FineCounts::kMostValues <= uint64_t{1} << 28);
  const hn::CappedTag<uint32_t, 8> d;
  const size_t lanes = hn::Lanes(d);
  // So many at a time. Adding up what was added up so far weighs every vector with its place.
  constexpr size_t kBlock = 32;
  const auto in_vector = hn::Iota(d, 0);
  for (; i + kBlock <= size; i += kBlock) {
    auto sum = hn::Zero(d);
    auto places = hn::Zero(d);
    for (size_t v = kBlock / lanes; v-- > 1;) {
      sum = hn::Add(sum, hn::LoadU(d, counts + i + v * lanes));
      places = hn::Add(places, sum);
    }
    sum = hn::Add(sum, hn::LoadU(d, counts + i));
    const uint64_t count = hn::GetLane(hn::SumOfLanes(d, sum));
    if (count == 0) continue;
    const uint64_t vectors = hn::GetLane(hn::SumOfLanes(d, places));
    const uint64_t inside = hn::GetLane(hn::SumOfLanes(d, hn::Mul(in_vector, sum)));
    total.count += count;
    total.slots += i * count + lanes * vectors + inside;
  }
#endif
  for (; i < size; ++i) {
    total.count += counts[i];
    total.slots += i * uint64_t{counts[i]};
  }
  return total;
}

}  // namespace HWY_NAMESPACE
}  // namespace numeric
}  // namespace cmlc
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cmlc::numeric {

HWY_EXPORT(ExtentOf);
HWY_EXPORT(SumOf);

namespace {

// So many values are looked at for their extent and then counted, out of the first-level cache.
constexpr size_t kStep = 2048;
constexpr size_t kPrefetchBytes = 4096;

}  // namespace

FineCounts::FineCounts()
    // Memory that the system hands out as zeros, page by page, once it is touched.
    : counts_(static_cast<uint32_t*>(std::calloc(kSlots, sizeof(uint32_t)))) {
  if (!counts_) throw std::bad_alloc();
}

void FineCounts::Add(std::span<const float> values) {
  uint32_t* counts = counts_.get();
  while (!values.empty()) {
    const auto some = values.first(std::min(values.size(), kStep));
    values = values.subspan(some.size());
    extent_.Add(HWY_DYNAMIC_DISPATCH(ExtentOf)(some.data(), some.size()));
    const auto add = [counts](float value) {
      ++counts[std::bit_cast<uint32_t>(value) >> kSlotShift];
    };
    const float* at = some.data();
    size_t left = some.size();
    for (; left >= 16; left -= 16, at += 16) {
      // What follows; the hardware's own prefetching stops at page ends.
      __builtin_prefetch(reinterpret_cast<const char*>(at) + kStep * sizeof(float) +
                         kPrefetchBytes);
      for (int i = 0; i < 16; ++i) add(at[i]);
    }
    for (; left > 0; --left, ++at) add(*at);
  }
}

template <typename Visitor>
void FineCounts::ForEachRun(const Visitor& visit) const {
  for (const size_t sign : {size_t{0}, kNegative}) {
    if (!any() || least_exponent() > 0) visit(sign, 1);  // zeros
    if (!any()) continue;
    const auto first = static_cast<size_t>(least_exponent());
    const auto last = static_cast<size_t>(greatest_exponent());
    visit(sign + first * kRowSlots, (last - first + 1) * kRowSlots);
  }
}

void FineCounts::Merge(const FineCounts& other) {
  other.ForEachRun([&](size_t first, size_t count) {
    for (size_t i = first; i < first + count; ++i) counts_[i] += other.counts_[i];
  });
  extent_.Add(other.extent_);
}

void FineCounts::Clear() {
  ForEachRun([&](size_t first, size_t count) { std::fill_n(counts_.get() + first, count, 0); });
  extent_ = {};
}

FineCounts::Part FineCounts::Sum(uint32_t first, int shift) const {
  CMLC_CHECK(shift >= kSlotShift && shift <= kRowShift);
  const size_t size = size_t{1} << (shift - kSlotShift);
  const bool negative = (first & 0x80000000u) == 0;
  const size_t slot =
      negative ? (~first >> kSlotShift) - (size - 1) : (first & 0x7fffffffu) >> kSlotShift;
  Part part = HWY_DYNAMIC_DISPATCH(SumOf)(counts_.get() + slot, size);
  if (negative) part.slots = part.count * (size - 1) - part.slots;
  return part;
}

}  // namespace cmlc::numeric
#endif  // HWY_ONCE
