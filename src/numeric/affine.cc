// How the search works.
//
// A candidate is a step and a middle, which code H = 2^(bits - 1) stands for: a value is decoded as
// middle + step * k, k = code - H. Where the parameters are symmetric the middle is 0.
//
// There are several rounds of 16 candidates each. The first are far apart, as a few values far out
// may be better cut off; where the farthest of them is the best the round is repeated from there.
// The next are closer and closer around the best, not before the error has stopped to fall fast. In
// every round the candidates are judged twice: as they are, and with the step and the middle that
// are best for their codes, which are those of the regression of the values on the codes.
//
// The candidates lie in the lanes of a vector, 16 in a batch, and values are taken one after the
// other. Thus every candidate's sums have the order of the values, whatever the width is, no sum is
// ever made across lanes, and blocks of any length run at full speed. Values are taken from the
// middle of their range and multiplied by a power of two that brings them near 1, so that squares
// neither vanish nor overflow. Sums are those of residuals, free of cancellation.
//
// The candidates' sums are those of fp32 arithmetic. In the end the winner and the parameters of
// the range are measured as they will be decoded, so that the search is never worse.
//
// Of 1 bit the best parameters are known: without symmetry the means of two clusters, with it the
// mean magnitude.
#include "numeric/affine.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "numeric/affine.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "base/check.h"
#include "numeric/coding-inl.h"
#include "numeric/convert.h"
#include "numeric/kmeans1d.h"
#include "numeric/lut.h"

#ifndef CMLC_NUMERIC_AFFINE_ONCE_
#define CMLC_NUMERIC_AFFINE_ONCE_
namespace cmlc::numeric {

// Candidates in a batch.
constexpr size_t kBatch = kMostLanes;
// Values for which sums are kept in fp32 before they are added in double.
constexpr size_t kChunk = 128;

// `count` values; `weights` may be null. Values are judged as (value - centre) * down.
struct AffineBlock {
  const float* values;
  const float* weights;
  size_t count;
  float least, greatest;
  float centre;
  float up, down;  // powers of two; up * down is 1
};

// Of the values as they are judged.
struct AffineCandidate {
  float step, middle;
};

inline float LevelsOf(const AffineFormat& format) {
  return static_cast<float>((1 << format.bits) - 1);
}
inline float HalfOf(const AffineFormat& format) { return std::ldexp(1.0f, format.bits - 1); }

}  // namespace cmlc::numeric
#endif

HWY_BEFORE_NAMESPACE();
namespace cmlc {
namespace numeric {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <bool kStore, typename T>
LinearError QuantizeAs(const T* values, size_t size, size_t count,
                       const AffineParameters* parameters, const AffineFormat& format,
                       uint8_t* codes) {
  return CodeBlocks<kStore>(values, size, count, codes, [&](size_t b, const auto& code) HWY_ATTR {
    const Floats d;
    const hn::Rebind<int32_t, Floats> di;
    const auto scale = hn::Set(d, parameters[b].scale), bias = hn::Set(d, parameters[b].bias);
    const auto divisor = hn::Set(d, parameters[b].scale > 0 ? parameters[b].scale : 1.0f);
    const auto most = hn::Set(d, LevelsOf(format));
    const auto rounder = hn::Set(d, kRounder);
    const auto mask = hn::Set(di, 0xff);
    code([&](hn::Vec<Floats> x, hn::Vec<decltype(di)>& bits) HWY_ATTR {
      const auto exact = hn::Div(hn::Sub(x, bias), divisor);
      // Between integers clipping and rounding may change places.
      const auto sum = hn::Add(hn::Max(hn::Min(exact, most), hn::Zero(d)), rounder);
      // The low bits of a sum with kRounder are those of the integer.
      bits = hn::And(hn::BitCast(di, sum), mask);
      return hn::Add(hn::Mul(hn::Sub(sum, rounder), scale), bias);
    });
  });
}
LinearError QuantizeFloats(const float* values, size_t size, size_t count,
                           const AffineParameters* parameters, const AffineFormat& format,
                           uint8_t* codes) {
  return codes == nullptr ? QuantizeAs<false>(values, size, count, parameters, format, nullptr)
                          : QuantizeAs<true>(values, size, count, parameters, format, codes);
}
LinearError QuantizeHalves(const uint16_t* values, size_t size, size_t count,
                           const AffineParameters* parameters, const AffineFormat& format,
                           uint8_t* codes) {
  return codes == nullptr ? QuantizeAs<false>(values, size, count, parameters, format, nullptr)
                          : QuantizeAs<true>(values, size, count, parameters, format, codes);
}

class AffineSearch {
 public:
  AffineSearch(const AffineBlock& block, const AffineFormat& format)
      : block_(block),
        symmetric_(format.symmetric),
        half_(HalfOf(format)),
        levels_(LevelsOf(format)) {}

  // The best candidate that was found.
  AffineCandidate Run() {
    const float low = (block_.least - block_.centre) * block_.down;
    const float high = (block_.greatest - block_.centre) * block_.down;
    if (symmetric_)
      SearchStep(std::max(-low, high) / (half_ - 1));
    else
      SearchRange(low, high);
    return best_;
  }

 private:
  // The factors by which the rounds of both searches multiply were found by experiment, on normal,
  // long-tailed, one-sided and bimodal data and such with outliers.
  void SearchStep(float step) {
    const auto round = [&](float from, float ratio) {
      for (size_t i = 0; i < kBatch; ++i, from *= ratio) Put(i, from, 0);
      Judge();
      return from;
    };
    constexpr float kCoarse = 0.8f;
    float least = step * 1.06f;
    do {
      least = round(least, kCoarse);
    } while (best_.step * kCoarse * kCoarse < least);  // the last one, or beyond it
    for (const float ratio : {0.97f, 0.994f, 0.9988f})
      round(best_.step * std::pow(ratio, -0.5f * (kBatch - 1)), ratio);
  }

  void SearchRange(float low, float high) {
    const float origin = Mean();
    float below = origin - low, above = high - origin;
    const auto round = [&](const float(&factors)[4]) {
      for (size_t i = 0; i < kBatch; ++i) {
        const float bottom = origin - below * factors[i / 4];
        const float step = (origin + above * factors[i % 4] - bottom) / levels_;
        Put(i, step, bottom + half_ * step);
      }
      Judge();
      const float bottom = best_.middle - half_ * best_.step;
      below = std::max(origin - bottom, 0.0f);
      above = std::max(bottom + levels_ * best_.step - origin, 0.0f);
    };
    constexpr float kCoarse[] = {1.0f, 0.55f, 0.3f, 0.16f};
    constexpr float kEnd = 0.2f;  // the last of them, or beyond it
    constexpr float kFar = 0.8f;  // an error that falls so fast has some way to go
    float before_below, before_above;
    do {
      before_below = below;
      before_above = above;
      round(kCoarse);
    } while (below < before_below * kEnd || above < before_above * kEnd);
    for (const float ratio : {1.25f, 1.1f, 1.04f, 1.015f, 1.005f}) {
      const float half = std::sqrt(ratio);
      float before;
      do {
        before = best_error_;
        round({1 / (half * ratio), 1 / half, half, half * ratio});
      } while (best_error_ < kFar * before);
    }
  }

  void Put(size_t i, float step, float middle) {
    steps_[i] = std::clamp(step, kTiny, kHuge);
    middles_[i] = std::clamp(middle, -kHuge, kHuge);
  }

  // The values from `begin` on, at most a chunk of them, as they are judged.
  const float* Load(size_t begin) {
    if (loaded_ == begin) return chunk_;
    loaded_ = begin;
    const Floats d;
    const size_t lanes = hn::Lanes(d);
    const size_t count = std::min(kChunk, block_.count - begin);
    const float* from = block_.values + begin;
    const auto centre = hn::Set(d, block_.centre), down = hn::Set(d, block_.down);
    size_t i = 0;
    for (; i + lanes <= count; i += lanes)
      hn::Store(hn::Mul(hn::Sub(hn::LoadU(d, from + i), centre), down), d, chunk_ + i);
    for (; i < count; ++i) chunk_[i] = (from[i] - block_.centre) * block_.down;
    return chunk_;
  }

  float Mean() {
    // Four sums, as one would wait for itself.
    double sums[4] = {}, totals[4] = {};
    for (size_t begin = 0; begin < block_.count; begin += kChunk) {
      const size_t count = std::min(kChunk, block_.count - begin);
      const float* values = Load(begin);
      const float* weights = block_.weights == nullptr ? nullptr : block_.weights + begin;
      for (size_t i = 0; i < count; ++i) {
        const double weight = weights == nullptr ? 1.0 : static_cast<double>(weights[i]);
        sums[i % 4] += weight * static_cast<double>(values[i]);
        totals[i % 4] += weight;
      }
    }
    return static_cast<float>((sums[0] + sums[1] + sums[2] + sums[3]) /
                              (totals[0] + totals[1] + totals[2] + totals[3]));
  }

  // Sums over values: r is the residual, k the code less H. Only errors if not `kMoments`.
  enum { kErrors, kOnes, kR, kK, kRk, kKk, kSums };  // of r^2, 1, r, k, r k and k^2

  template <bool kMoments, bool kWeighted>
  HWY_INLINE void SumSome(size_t group, const float* values, const float* weights, size_t count) {
    const Floats d;
    const auto step = hn::Load(d, steps_ + group), inverse = hn::Load(d, inverses_ + group);
    const auto middle = hn::Load(d, middles_ + group);
    const auto low = hn::Set(d, -half_), high = hn::Set(d, half_ - 1);
    const auto rounder = hn::Set(d, kRounder);
    auto error = hn::Zero(d), ones = error, sum_r = error, sum_k = error, rk = error, kk = error;
    for (size_t i = 0; i < count; ++i) {
      const auto x = hn::Sub(hn::Set(d, values[i]), middle);
      auto k = hn::Max(hn::Min(hn::Mul(x, inverse), high), low);
      k = hn::Sub(hn::Add(k, rounder), rounder);
      const auto r = hn::Sub(x, hn::Mul(step, k));
      auto weighted_r = r, weighted_k = k;
      if constexpr (kWeighted) {
        const auto weight = hn::Set(d, weights[i]);
        weighted_r = hn::Mul(r, weight);
        weighted_k = hn::Mul(k, weight);
        ones = hn::Add(ones, weight);
      }
      error = hn::Add(error, hn::Mul(weighted_r, r));
      if constexpr (kMoments) {
        sum_r = hn::Add(sum_r, weighted_r);
        sum_k = hn::Add(sum_k, weighted_k);
        rk = hn::Add(rk, hn::Mul(weighted_r, k));
        kk = hn::Add(kk, hn::Mul(weighted_k, k));
      }
    }
    hn::Store(error, d, sums_[kErrors] + group);
    if constexpr (kMoments) {
      if constexpr (!kWeighted) ones = hn::Set(d, static_cast<float>(count));
      hn::Store(ones, d, sums_[kOnes] + group);
      hn::Store(sum_r, d, sums_[kR] + group);
      hn::Store(sum_k, d, sums_[kK] + group);
      hn::Store(rk, d, sums_[kRk] + group);
      hn::Store(kk, d, sums_[kKk] + group);
    }
  }

  template <bool kMoments, bool kWeighted>
  void SumAll() {
    for (size_t i = 0; i < kBatch; ++i) inverses_[i] = 1 / steps_[i];
    constexpr size_t kWanted = kMoments ? kSums : 1;
    double totals[kWanted][kBatch] = {};
    for (size_t begin = 0; begin < block_.count; begin += kChunk) {
      const size_t count = std::min(kChunk, block_.count - begin);
      const float* values = Load(begin);
      const float* weights = kWeighted ? block_.weights + begin : nullptr;
      for (size_t group = 0; group < kBatch; group += hn::Lanes(Floats()))
        SumSome<kMoments, kWeighted>(group, values, weights, count);
      for (size_t s = 0; s < kWanted; ++s)
        for (size_t i = 0; i < kBatch; ++i) totals[s][i] += static_cast<double>(sums_[s][i]);
    }
    for (size_t s = 0; s < kWanted; ++s)
      for (size_t i = 0; i < kBatch; ++i) sums_[s][i] = static_cast<float>(totals[s][i]);
  }

  // Measures the batch and keeps the best, the first of equal ones.
  template <bool kMoments>
  void Measure() {
    if (block_.weights == nullptr)
      SumAll<kMoments, false>();
    else
      SumAll<kMoments, true>();
    for (size_t i = 0; i < kBatch; ++i) {
      if (!(sums_[kErrors][i] < best_error_)) continue;
      best_error_ = sums_[kErrors][i];
      best_ = {steps_[i], middles_[i]};
    }
  }

  // Moves the candidates to what is best for their codes.
  void Refit() {
    for (size_t i = 0; i < kBatch; ++i) {
      const float n = sums_[kOnes][i], r = sums_[kR][i], k = sums_[kK][i];
      const float rk = sums_[kRk][i], kk = sums_[kKk][i];
      if (symmetric_) {
        Put(i, steps_[i] + rk / std::max(kk, kTiny), 0);
      } else {
        const float move = (n * rk - r * k) / std::max(n * kk - k * k, kTiny);
        Put(i, steps_[i] + move, middles_[i] + (r - move * k) / n);
      }
    }
  }

  void Judge() {
    Measure<true>();
    Refit();
    Measure<false>();
  }

  // What is judged is near 1. Where almost all codes are the same rounding makes steps of any size,
  // and values would vanish beside huge ones.
  static constexpr float kTiny = 0x1p-40f, kHuge = 8.0f;

  const AffineBlock block_;
  const bool symmetric_;
  const float half_, levels_;  // H, and the greatest code
  AffineCandidate best_ = {};
  float best_error_ = std::numeric_limits<float>::infinity();
  size_t loaded_ = std::numeric_limits<size_t>::max();  // where the chunk begins
  HWY_ALIGN float chunk_[kChunk];
  HWY_ALIGN float steps_[kBatch];
  HWY_ALIGN float middles_[kBatch];
  HWY_ALIGN float inverses_[kBatch];
  HWY_ALIGN float sums_[kSums][kBatch];
};

AffineCandidate Search(const AffineBlock& block, const AffineFormat& format) {
  return AffineSearch(block, format).Run();
}

}  // namespace HWY_NAMESPACE
}  // namespace numeric
}  // namespace cmlc
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cmlc::numeric {

HWY_EXPORT(QuantizeFloats);
HWY_EXPORT(QuantizeHalves);
HWY_EXPORT(Search);

namespace {

constexpr double kLeast = std::numeric_limits<float>::denorm_min();
constexpr double kMost = std::numeric_limits<float>::max();

double MostScale(const AffineFormat& format) { return std::ldexp(1.0, 128 - format.bits); }

// Rounded to fp32, and such that what the codes stand for is finite. The bias counts only where
// there is no symmetry.
AffineParameters Storable(double scale, double bias, const AffineFormat& format) {
  AffineParameters parameters;
  parameters.scale = static_cast<float>(std::clamp(scale, kLeast, MostScale(format)));
  if (format.symmetric) {
    parameters.bias = -parameters.scale * (format.bits == 1 ? 0.5f : HalfOf(format));
    return parameters;
  }
  parameters.bias = static_cast<float>(std::clamp(bias, -kMost, kMost));
  while (!std::isfinite(LevelsOf(format) * parameters.scale + parameters.bias))
    parameters.scale = std::nextafter(parameters.scale, 0.0f);
  return parameters;
}

// As QuantizeAffineBlocks measures it, multiplied by the weights.
double Noise(const AffineBlock& block, const AffineParameters& parameters,
             const AffineFormat& format) {
  if (block.weights == nullptr)
    return QuantizeAffineBlocks(block.values, block.count, 1, &parameters, format, nullptr).noise;
  std::vector<uint8_t> codes(block.count);
  QuantizeAffineBlocks(block.values, block.count, 1, &parameters, format, codes.data());
  double total = 0;
  for (size_t i = 0; i < block.count; ++i) {
    const float decoded = static_cast<float>(codes[i]) * parameters.scale + parameters.bias;
    const auto difference = static_cast<double>(block.values[i] - decoded);
    total += static_cast<double>(block.weights[i]) * difference * difference;
  }
  return total;
}

// The exact optimum at 1 bit. The scratch memory is reused between blocks.
class OneBit {
 public:
  AffineParameters Fit(const AffineBlock& block, const AffineFormat& format) {
    if (format.symmetric) {
      double sum = 0, total = 0;
      for (size_t i = 0; i < block.count; ++i) {
        const double weight =
            block.weights == nullptr ? 1.0 : static_cast<double>(block.weights[i]);
        sum += weight * static_cast<double>(std::fabs(block.values[i]));
        total += weight;
      }
      return Storable(2 * sum / total, 0, format);
    }
    if (block.weights == nullptr) {
      PointsOf(std::span(block.values, block.count), scratch_, points_);
    } else {
      points_.clear();
      for (size_t i = 0; i < block.count; ++i) {
        const auto weight = static_cast<double>(block.weights[i]);
        if (i > 0 && block.values[i] == block.values[i - 1])
          points_.weights.back() += weight;  // as fp32 they are one
        else
          points_.Add(static_cast<double>(block.values[i]), weight);
      }
    }
    const std::vector<double>& means = solver_.Solve(points_.values, points_.weights, 2).centroids;
    return Storable(means.back() - means.front(), means.front(), format);
  }

 private:
  SortScratch scratch_;
  Points points_;
  KMeans1d solver_;
};

AffineParameters FitBySearch(const AffineBlock& block, const AffineFormat& format) {
  const AffineCandidate best = HWY_DYNAMIC_DISPATCH(Search)(block, format);
  const auto up = static_cast<double>(block.up);
  const auto step = static_cast<double>(best.step) * up;
  const auto middle = static_cast<double>(best.middle) * up + static_cast<double>(block.centre);
  // The bias makes up for the rounding of the scale.
  const auto scale = static_cast<double>(static_cast<float>(step));
  return Storable(scale, middle - scale * static_cast<double>(HalfOf(format)), format);
}

AffineBlock BlockOf(const float* values, const float* weights, size_t count, float least,
                    float greatest, const AffineFormat& format) {
  const float centre = format.symmetric ? 0.0f : least / 2 + greatest / 2;
  // The exponent of the farthest from the centre, such that both powers of two are normal numbers.
  const auto bits = std::bit_cast<uint32_t>(std::max(centre - least, greatest - centre));
  const uint32_t exponent = std::clamp<uint32_t>(bits >> 23 & 0xff, 1, 253);
  return {values,
          weights,
          count,
          least,
          greatest,
          centre,
          std::bit_cast<float>(exponent << 23),
          std::bit_cast<float>((254 - exponent) << 23)};
}

AffineParameters FitBlock(const float* values, const float* weights, size_t count,
                          const AffineFormat& format, OneBit& one_bit) {
  const auto [least, greatest] = RangeOf(std::span(values, count));
  const AffineParameters plain = AffineOfRange(least, greatest, format);
  if (!format.search || plain.scale == 0) return plain;
  const AffineBlock block = BlockOf(values, weights, count, least, greatest, format);
  const AffineParameters found =
      format.bits == 1 ? one_bit.Fit(block, format) : FitBySearch(block, format);
  return Noise(block, found, format) < Noise(block, plain, format) ? found : plain;
}

}  // namespace

AffineParameters AffineOfRange(float least, float greatest, const AffineFormat& format) {
  CMLC_CHECK(format.bits >= 1 && format.bits <= 8);
  if (format.symmetric) {
    const float reach = std::max(std::fabs(least), std::fabs(greatest));
    if (reach == 0) return {};
    const float steps = format.bits == 1 ? 0.5f : HalfOf(format) - 1;
    return Storable(static_cast<double>(reach) / static_cast<double>(steps), 0, format);
  }
  if (least == greatest) return {0, least};
  const auto low = static_cast<double>(least), high = static_cast<double>(greatest);
  const auto levels = static_cast<double>(LevelsOf(format));
  const double scale = (high - low) / levels;
  const double bias =
      scale <= MostScale(format) ? low : (low + high - levels * MostScale(format)) / 2;
  return Storable(scale, bias, format);
}

bool FitAffineBlocks(const float* values, size_t size, size_t count, const AffineFormat& format,
                     AffineParameters* parameters) {
  const std::span all(values, size * count);
  if (FirstNotFinite(all) < all.size()) return false;
  OneBit one_bit;
  for (size_t b = 0; b < count; ++b)
    parameters[b] = FitBlock(values + b * size, nullptr, size, format, one_bit);
  return true;
}

bool FitAffineBlocks(const uint16_t* values, size_t size, size_t count, const AffineFormat& format,
                     AffineParameters* parameters) {
  // Some blocks at a time, so that their fp32 copy stays in the cache.
  constexpr size_t kSome = 8192;
  const size_t together = std::max<size_t>(kSome / std::max<size_t>(size, 1), 1);
  std::vector<float> floats(std::min(together, count) * size);
  for (size_t b = 0; b < count; b += together) {
    const size_t blocks = std::min(together, count - b);
    HalvesToFloats(values + b * size, blocks * size, floats.data());
    if (!FitAffineBlocks(floats.data(), size, blocks, format, parameters + b)) return false;
  }
  return true;
}

AffineParameters FitAffine(const Points& points, const AffineFormat& format) {
  const std::vector<float> values(points.values.begin(), points.values.end());
  const std::vector<float> weights(points.weights.begin(), points.weights.end());
  OneBit one_bit;
  return FitBlock(values.data(), weights.data(), values.size(), format, one_bit);
}

LinearError QuantizeAffineBlocks(const float* values, size_t size, size_t count,
                                 const AffineParameters* parameters, const AffineFormat& format,
                                 uint8_t* codes) {
  return HWY_DYNAMIC_DISPATCH(QuantizeFloats)(values, size, count, parameters, format, codes);
}
LinearError QuantizeAffineBlocks(const uint16_t* values, size_t size, size_t count,
                                 const AffineParameters* parameters, const AffineFormat& format,
                                 uint8_t* codes) {
  return HWY_DYNAMIC_DISPATCH(QuantizeHalves)(values, size, count, parameters, format, codes);
}

}  // namespace cmlc::numeric
#endif  // HWY_ONCE
