#include "numeric/value_summary.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <utility>

#include "numeric/half.h"
#include "numeric/linear.h"
#include "numeric/lut.h"

namespace cmlc::numeric {

ValueSummary SummaryOf(const HalfCounts& counts) {
  ValueSummary summary;
  for (uint32_t i = 0; i < kHalfPatterns; ++i) {
    const auto pattern = static_cast<uint16_t>(i);
    const uint64_t count = counts.count(pattern);
    if (count == 0) continue;
    ++summary.distinct;
    if (!IsFiniteHalf(pattern)) {
      summary.not_finite += count;
      continue;
    }
    const auto value = static_cast<double>(HalfToFloat(pattern));
    if (value == 0) summary.zeros += count;
    summary.least = std::min(summary.least, value + 0.0);
    summary.greatest = std::max(summary.greatest, value + 0.0);
  }
  if (counts.count(0x0000) > 0 && counts.count(0x8000) > 0) --summary.distinct;
  return summary;
}

FloatSummary::FloatSummary() : pages_(size_t{1} << (32 - kPageShift), nullptr) {}

uint64_t* FloatSummary::NewPage(size_t page) {
  if (used_.size() == owned_.size()) owned_.push_back(std::make_unique<uint64_t[]>(kPageWords));
  pages_[page] = owned_[used_.size()].get();
  used_.push_back(page);
  return pages_[page];
}

void FloatSummary::Add(std::span<const float> values) {
  if (values.empty()) return;
  if (FirstNotFinite(values) == values.size()) {
    const auto [least, greatest] = RangeOf(values);
    summary_.least = std::min(summary_.least, static_cast<double>(least) + 0.0);
    summary_.greatest = std::max(summary_.greatest, static_cast<double>(greatest) + 0.0);
  } else {
    for (const float value : values) {
      if (!std::isfinite(value)) {
        ++summary_.not_finite;
        continue;
      }
      summary_.least = std::min(summary_.least, static_cast<double>(value) + 0.0);
      summary_.greatest = std::max(summary_.greatest, static_cast<double>(value) + 0.0);
    }
  }
  summary_.zeros += static_cast<uint64_t>(std::count(values.begin(), values.end(), 0.0f));
  // Patterns of one sign and exponent have 1 MiB of bits: taken one exponent after the other, those
  // stay in the second-level cache.
  constexpr int kRowShift = 23;
  std::array<size_t, size_t{1} << (32 - kRowShift)> starts{};
  const auto pattern_of = [](float value) {
    return std::bit_cast<uint32_t>(value + 0.0f);  // both zeros are +0
  };
  for (const float value : values) ++starts[pattern_of(value) >> kRowShift];
  size_t sum = 0;
  for (size_t& start : starts) sum += std::exchange(start, sum);
  by_row_.resize(values.size());
  for (const float value : values) {
    const uint32_t pattern = pattern_of(value);
    by_row_[starts[pattern >> kRowShift]++] = pattern;
  }
  for (const uint32_t pattern : by_row_) {
    uint64_t* page = pages_[pattern >> kPageShift];
    if (page == nullptr) page = NewPage(pattern >> kPageShift);
    page[(pattern & 0xffff) / 64] |= uint64_t{1} << (pattern % 64);
  }
}

ValueSummary FloatSummary::Summary() const {
  ValueSummary summary = summary_;
  for (size_t p = 0; p < used_.size(); ++p)
    for (size_t i = 0; i < kPageWords; ++i)
      summary.distinct += static_cast<uint64_t>(std::popcount(owned_[p][i]));
  return summary;
}

void FloatSummary::Clear() {
  summary_ = {};
  for (size_t p = 0; p < used_.size(); ++p) {
    std::fill_n(owned_[p].get(), kPageWords, 0);
    pages_[used_[p]] = nullptr;
  }
  used_.clear();
}

}  // namespace cmlc::numeric
