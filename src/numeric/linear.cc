// How the search works.
//
// For fixed codes the error is a parabola in the scale: with k = code - zero point and the residual
// r = x - s k, moving the scale by d changes the sum of r^2 by -2 d <r, k> + d^2 <k, k>. So one
// pass that sums r^2, r k and k^2 for a candidate tells its error, the best scale for its codes,
// and an upper bound of the error there after that scale is rounded to the type that stores it (new
// codes can only lower it). Sums over residuals, and not over values, are free of cancellation.
//
// The candidates lie in the lanes of a vector, 16 in a batch, and values are taken one after the
// other. Thus every candidate's sums have the order of the values, whatever the width is, no sum is
// ever made across lanes, and blocks of any length run at full speed. Values are multiplied by a
// power of two that brings the greatest magnitude near 1, so that squares of tiny or huge weights
// neither vanish nor overflow.
//
// Which candidates: in short blocks the best scale lies little below that which clips nothing. In
// long ones it may lie far below, where a few values are far out. There a cheaper pass first sums,
// for 15 thresholds in geometric steps, by how much values exceed them; with step^2 / 12 for all
// other values that is a model of the error, good enough to say where to look.
//
// The candidates' sums are those of fp32 arithmetic, fp32 scales are shortened for them, and they
// do not know that what is decoded is rounded, to fp16 as a rule. Where they do not leave it beyond
// doubt that the winner beats the min-max rule, both are measured as they will be decoded, so the
// promise never to be worse holds literally.
#include "numeric/linear.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "numeric/linear.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "base/check.h"
#include "numeric/coding-inl.h"
#include "numeric/convert.h"
#include "numeric/half.h"

#ifndef CMLC_NUMERIC_LINEAR_ONCE_
#define CMLC_NUMERIC_LINEAR_ONCE_
namespace cmlc::numeric {

// Candidates in a batch.
constexpr size_t kBatch = kMostLanes;
// Values for which sums are kept in fp32 before they are added in double.
constexpr size_t kChunk = 128;
// Up to this many values a fixed set of shrink factors reaches far enough.
constexpr size_t kMostShort = 64;
// At 8 bits neighbours of the scale are tried in longer blocks only, as that takes long.
constexpr size_t kMostHasty = 4096;
// Zero points beyond it are outside of every range of codes.
constexpr float kFarOut = 1024.0f;
constexpr float kLeastHalf = 0x1p-24f;
constexpr float kLeastFloat = 0x1p-149f;

struct CodeRange {
  int32_t low, high;
  int32_t zero;  // the fixed zero point of mode linear_symmetric
};

inline CodeRange RangeOfCodes(const LinearFormat& format) {
  CMLC_CHECK(format.bits == 4 || format.bits == 8);
  const int32_t half = int32_t{1} << (format.bits - 1);
  CodeRange range = {-half, half - 1, 0};
  if (format.symmetric && !format.search) range.low = -(half - 1);
  if (!format.is_signed) range = {0, range.high - range.low, -range.low};
  return range;
}

// What candidates are made of: factors of a scale, steps from a zero point.
struct CandidateTable {
  // HWY_ALIGN would be that of the narrowest target here.
  alignas(kBatch * sizeof(float)) float factors[kBatch];
  alignas(kBatch * sizeof(float)) float steps[kBatch];
};

// Scales from `most` downwards in equal ratios; the first is 0, the place of the min-max rule's.
constexpr CandidateTable ScalesFrom(float most, float ratio) {
  CandidateTable table = {};
  for (size_t i = 1; i < kBatch; ++i, most *= ratio) table.factors[i] = most;
  return table;
}

// Five scales for each of three zero points. The first of all is the origin itself.
constexpr CandidateTable ScalesAndZeros(float most, float step, float reach) {
  CandidateTable table = {};
  table.factors[0] = 1;
  for (size_t i = 1; i < kBatch; ++i) {
    table.factors[i] = most - step * static_cast<float>((i - 1) / 3);
    table.steps[i] = reach * (static_cast<float>((i - 1) % 3) - 1);
  }
  return table;
}

// By experiment on normal, long-tailed and one-sided data, against the exact optimum.
constexpr CandidateTable kShortScales4 = ScalesFrom(1.06f, 0.965f);
constexpr CandidateTable kShortScales8 = ScalesFrom(1.02f, 0.985f);
constexpr CandidateTable kLongScales = ScalesFrom(2.2f, 0.87f);
constexpr CandidateTable kNearScales = ScalesFrom(1.12f, 0.984f);
constexpr CandidateTable kShortZeros4 = ScalesAndZeros(1.0f, 0.06f, 1);
constexpr CandidateTable kShortZeros8 = ScalesAndZeros(1.0f, 0.03f, 2);
constexpr CandidateTable kShortNear = ScalesAndZeros(1.04f, 0.02f, 1);
constexpr CandidateTable kLongNear4 = ScalesAndZeros(1.1f, 0.05f, 1);
constexpr CandidateTable kLongNear8 = ScalesAndZeros(1.1f, 0.05f, 4);

// `count` values, each to be multiplied by the power of two `down`; `weights` may be null.
struct LinearBlock {
  const float* values;
  const float* weights;
  size_t count;
  float up, down;  // up * down is 1
};

}  // namespace cmlc::numeric
#endif

HWY_BEFORE_NAMESPACE();
namespace cmlc {
namespace numeric {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

void ExtremesOf(const float* values, size_t count, float* least, float* greatest) {
  const Floats d;
  const size_t lanes = hn::Lanes(d);
  if (count == 0) {
    *least = *greatest = 0.0f;
    return;
  }
  float low = values[0], high = values[0];
  size_t i = 0;
  if (count >= lanes) {
    auto lows = hn::LoadU(d, values);
    auto highs = lows;
    auto lows2 = lows, highs2 = highs;
    for (i = lanes; i + 2 * lanes <= count; i += 2 * lanes) {
      const auto v = hn::LoadU(d, values + i), v2 = hn::LoadU(d, values + i + lanes);
      lows = hn::Min(lows, v);
      highs = hn::Max(highs, v);
      lows2 = hn::Min(lows2, v2);
      highs2 = hn::Max(highs2, v2);
    }
    // The last vectors may overlap what was seen before: extremes do not mind.
    for (; i < count; i += lanes) {
      const auto v = hn::LoadU(d, values + std::min(i, count - lanes));
      lows = hn::Min(lows, v);
      highs = hn::Max(highs, v);
    }
    low = hn::GetLane(hn::MinOfLanes(d, hn::Min(lows, lows2)));
    high = hn::GetLane(hn::MaxOfLanes(d, hn::Max(highs, highs2)));
  } else {
    for (i = 1; i < count; ++i) {
      low = std::min(low, values[i]);
      high = std::max(high, values[i]);
    }
  }
  // Which of -0 and 0 a minimum is depends on the order; -0 + 0 is 0.
  *least = low + 0.0f;
  *greatest = high + 0.0f;
}

// Rounds to the nearest fp16, ties to even, from 65520 on to infinity.
template <class D>
HWY_INLINE hn::Vec<D> RoundToHalf(D d, hn::Vec<D> v) {
#if CMLC_CONVERTS_HALVES
  const hn::Rebind<hwy::float16_t, D> dh;
  return hn::PromoteTo(d, hn::DemoteTo(dh, v));
#else
  const hn::Rebind<int32_t, D> di;
  const auto magnitude = hn::Abs(v);
  const auto bits = hn::BitCast(di, magnitude);
  const auto odd = hn::And(hn::ShiftRight<13>(bits), hn::Set(di, 1));
  const auto rounded =
      hn::And(hn::Add(bits, hn::Add(odd, hn::Set(di, 0xfff))), hn::Set(di, ~0x1fff));
  // Below the normal range adding 0.5 aligns the last bits.
  const auto half = hn::Set(d, 0.5f);
  const auto subnormal = hn::Sub(hn::Add(magnitude, half), half);
  auto result =
      hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, 0x1p-14f)), subnormal, hn::BitCast(d, rounded));
  result = hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, 65520.0f)), result,
                          hn::Set(d, std::numeric_limits<float>::infinity()));
  return hn::CopySignToAbs(result, v);
#endif
}

// The codes less the zero point, as floats.
struct Steps {
  Steps(const CodeRange& range, int32_t zero_point)
      : zero(zero_point),
        least(static_cast<float>(range.low - zero_point)),
        most(static_cast<float>(range.high - zero_point)) {}
  int32_t zero;
  float least, most;
};

template <typename T, bool kHalf, bool kStore>
LinearError QuantizeBlocksAs(const T* values, size_t size, size_t count,
                             const LinearParameters* parameters, const CodeRange& range,
                             int32_t mask, uint8_t* codes) {
  Steps steps(range, 0);
  return CodeBlocks<kStore>(values, size, count, codes, [&](size_t b, const auto& code) HWY_ATTR {
    const Floats d;
    const hn::Rebind<int32_t, Floats> di;
    if (parameters[b].zero_point != steps.zero) steps = Steps(range, parameters[b].zero_point);
    const auto scale = hn::Set(d, parameters[b].scale);
    const auto least = hn::Set(d, steps.least);
    const auto most = hn::Set(d, steps.most);
    const auto rounder = hn::Set(d, kRounder);
    // The low bits of a sum with kRounder are those of the integer.
    const auto to_code = hn::Set(di, steps.zero);
    const auto code_mask = hn::Set(di, mask);
    code([&](hn::Vec<Floats> x, hn::Vec<decltype(di)>& bits) HWY_ATTR {
      // Between integers clipping and rounding may change places.
      const auto q = hn::Max(hn::Min(hn::Div(x, scale), most), least);
      const auto sum = hn::Add(q, rounder);
      auto decoded = hn::Mul(hn::Sub(sum, rounder), scale);
      if constexpr (kHalf) {
        decoded = RoundToHalf(d, decoded);
      } else {
        const auto end = hn::Set(d, std::numeric_limits<float>::max());
        decoded = hn::Max(hn::Min(decoded, end), hn::Neg(end));
      }
      bits = hn::And(hn::Add(hn::BitCast(di, sum), to_code), code_mask);
      return decoded;
    });
  });
}

template <typename T>
LinearError QuantizeBlocksOf(const T* values, size_t size, size_t count,
                             const LinearParameters* parameters, const LinearFormat& format,
                             uint8_t* codes) {
  const CodeRange range = RangeOfCodes(format);
  const int32_t mask = (int32_t{1} << format.bits) - 1;
  if constexpr (std::is_same_v<T, float>) {
    if (format.scale_type == EntryType::kFloat)
      return codes == nullptr ? QuantizeBlocksAs<T, false, false>(values, size, count, parameters,
                                                                  range, mask, nullptr)
                              : QuantizeBlocksAs<T, false, true>(values, size, count, parameters,
                                                                 range, mask, codes);
  }
  return codes == nullptr
             ? QuantizeBlocksAs<T, true, false>(values, size, count, parameters, range, mask,
                                                nullptr)
             : QuantizeBlocksAs<T, true, true>(values, size, count, parameters, range, mask, codes);
}
LinearError QuantizeFloats(const float* values, size_t size, size_t count,
                           const LinearParameters* parameters, const LinearFormat& format,
                           uint8_t* codes) {
  return QuantizeBlocksOf(values, size, count, parameters, format, codes);
}
LinearError QuantizeHalves(const uint16_t* values, size_t size, size_t count,
                           const LinearParameters* parameters, const LinearFormat& format,
                           uint8_t* codes) {
  return QuantizeBlocksOf(values, size, count, parameters, format, codes);
}

// Scales and everything else of a batch are those of the multiplied values.
struct CandidateBatch {
  HWY_ALIGN float scales[kBatch];
  HWY_ALIGN float inverses[kBatch];
  HWY_ALIGN float lows[kBatch], highs[kBatch];  // of code - zero point
  HWY_ALIGN float errors[kBatch];               // sum of r^2
  HWY_ALIGN float slopes[kBatch];               // sum of r k
  HWY_ALIGN float powers[kBatch];               // sum of k^2
  HWY_ALIGN float refits[kBatch];               // the best scale for the same codes
  HWY_ALIGN float bounds[kBatch];               // what the error is at most with it
  HWY_ALIGN float zeros[kBatch];
};

class LinearSearch {
 public:
  void Start(const LinearBlock& block, const LinearFormat& format, float least, float greatest,
             const LinearParameters& min_max) {
    block_ = block;
    format_ = format;
    range_ = RangeOfCodes(format);
    positive_ = std::max(greatest, 0.0f) * block.down;
    negative_ = std::max(-least, 0.0f) * block.down;
    first_scale_ = min_max.scale * block.down;
    first_zero_ = min_max.zero_point;
    best_error_ = std::numeric_limits<float>::infinity();
    loaded_ = std::numeric_limits<size_t>::max();
  }

  // The rounds of a short block, in three steps each: what depends on the step before takes most of
  // the time, so several blocks are taken through a step before any of them is through the next.
  // At 4 bits a second round for the scale alone would gain 0.005 dB; at 8, with its many shallow
  // minima, it gains 0.1 dB.
  size_t rounds() const { return format_.symmetric && format_.bits == 4 ? 1 : 2; }
  void Propose(size_t round) {
    const bool four = format_.bits == 4;
    if (!format_.symmetric) {
      if (round == 0)
        Put(first_scale_, first_zero_, four ? kShortZeros4 : kShortZeros8, 0);
      else
        Put(best_scale_, best_zero_, kShortNear, 0);
    } else if (round == 0) {
      const float most = std::max(positive_ / static_cast<float>(range_.high - range_.zero),
                                  negative_ / static_cast<float>(range_.zero - range_.low));
      Put(most, range_.zero, four ? kShortScales4 : kShortScales8, first_scale_);
    } else {
      std::copy(batch_.refits, batch_.refits + kBatch, batch_.scales);
    }
    Prepare();
  }
  void Sum() { Sum<true>(); }
  void Choose(size_t round) {
    if (round == 0) first_error_ = batch_.errors[0];
    Choose<true>();
  }

  // The whole search in a long block.
  void Long() {
    if (format_.symmetric)
      LongSymmetric();
    else
      LongLinear();
  }

  // The best parameters found.
  LinearParameters Result() const { return {best_scale_ * block_.up, best_zero_}; }
  // Whether rounding cannot be why their error seems less than that of the min-max rule. Sums of a
  // chunk are off by 128 * 2^-24 at most, and a bound is a difference of two. That decoded values
  // are rounded to fp16 adds less than a thousandth at 4 bits, unless the outermost becomes
  // infinite; at 8 bits it can be more.
  bool SurelyBetter() const {
    const float farthest = Result().scale * static_cast<float>(range_.high - range_.low);
    return format_.scale_type == EntryType::kHalf && format_.bits == 4 && farthest < kMaxHalf &&
           best_error_ + 0x1p-14f * best_origin_ < 0.998f * first_error_;
  }

 private:
  // The first candidate of the first batch is always the min-max rule's.
  void LongSymmetric() {
    HWY_ALIGN float thresholds[kBatch];
    HWY_ALIGN float excess[kBatch];
    Thresholds(std::max(positive_, negative_), thresholds);
    Exceeding<0>(thresholds, excess);
    size_t best = 0;
    float best_model = std::numeric_limits<float>::infinity();
    const auto levels = static_cast<float>(range_.high - range_.low);
    for (size_t i = 0; i + 1 < kBatch; ++i) {
      const float step = 2 * thresholds[i] / levels;
      const float model =
          std::min(total_weight_ * step * step / 12, excess[kBatch - 1]) + excess[i];
      if (model >= best_model) continue;
      best_model = model;
      best = i;
    }
    Put(2 * thresholds[best] / levels, range_.zero, kLongScales, first_scale_);
    Judge<false>();
    first_error_ = batch_.errors[0];
    Put(best_scale_, range_.zero, kNearScales, best_scale_);
    Judge<true>();
  }

  void LongLinear() {
    HWY_ALIGN float lows[kBatch];
    HWY_ALIGN float highs[kBatch];
    HWY_ALIGN float below[kBatch];
    HWY_ALIGN float above[kBatch];
    Thresholds(negative_, lows);
    Thresholds(positive_, highs);
    Exceeding<-1>(lows, below);
    Exceeding<1>(highs, above);
    // The model for all pairs of thresholds; the upper ones are in the lanes.
    const Floats d;
    const auto levels = static_cast<float>(range_.high - range_.low);
    const auto noise = hn::Set(d, total_weight_ / (12 * levels * levels));
    const auto power = hn::Set(d, below[kBatch - 1] + above[kBatch - 1]);
    HWY_ALIGN float models[kBatch];
    HWY_ALIGN float rows[kBatch];  // the best lower threshold for each upper one
    for (size_t j = 0; j < kBatch; j += hn::Lanes(d)) {
      auto least = hn::Set(d, std::numeric_limits<float>::infinity()), row = hn::Zero(d);
      for (size_t i = 0; i < kBatch; ++i) {
        const auto span = hn::Add(hn::Set(d, lows[i]), hn::Load(d, highs + j));
        const auto inside = hn::Min(hn::Mul(hn::Mul(span, span), noise), power);
        const auto model = hn::Add(inside, hn::Add(hn::Set(d, below[i]), hn::Load(d, above + j)));
        row = hn::IfThenElse(hn::Lt(model, least), hn::Set(d, static_cast<float>(i)), row);
        least = hn::Min(least, model);
      }
      hn::Store(least, d, models + j);
      hn::Store(row, d, rows + j);
    }
    const auto high = static_cast<size_t>(std::min_element(models, models + kBatch) - models);
    const auto low = static_cast<size_t>(rows[high]);
    constexpr float kFactors[] = {1.55f, 1.15f, 0.85f, 0.65f};
    for (size_t i = 0; i < kBatch; ++i) {
      const float a = std::min(lows[low] * kFactors[i / 4], negative_);
      const float b = std::min(highs[high] * kFactors[i % 4], positive_);
      PutRange(i, a, b);
    }
    // The last two are the farthest from the model's choice.
    PutOne(0, first_scale_, first_zero_);
    Judge<false>();
    first_error_ = batch_.errors[0];
    Put(best_scale_, best_zero_, format_.bits == 4 ? kLongNear4 : kLongNear8, 0);
    Judge<true>();
  }

  static void Thresholds(float most, float* thresholds) {
    for (size_t i = 0; i + 1 < kBatch; ++i, most *= 0.59460356f) thresholds[i] = most;  // 2^-0.75
    thresholds[kBatch - 1] = 0;
  }

  // `first` takes the place of a first factor that is 0.
  void Put(float scale, int32_t zero, const CandidateTable& table, float first) {
    const Floats d;
    const auto low = hn::Set(d, static_cast<float>(range_.low));
    const auto high = hn::Set(d, static_cast<float>(range_.high));
    auto extra = hn::IfThenElseZero(hn::FirstN(d, 1), hn::Set(d, first));
    for (size_t i = 0; i < kBatch; i += hn::Lanes(d), extra = hn::Zero(d)) {
      const auto factor = hn::Load(d, table.factors + i);
      hn::Store(hn::Add(hn::Mul(hn::Set(d, scale), factor), extra), d, batch_.scales + i);
      const auto moved =
          hn::Add(hn::Set(d, static_cast<float>(zero)), hn::Load(d, table.steps + i));
      const auto zeros = hn::Min(hn::Max(moved, low), high);
      hn::Store(zeros, d, batch_.zeros + i);
      hn::Store(hn::Sub(low, zeros), d, batch_.lows + i);
      hn::Store(hn::Sub(high, zeros), d, batch_.highs + i);
    }
  }
  void PutOne(size_t i, float scale, int32_t zero) {
    zero = std::clamp(zero, range_.low, range_.high);
    batch_.scales[i] = scale;
    batch_.zeros[i] = static_cast<float>(zero);
    batch_.lows[i] = static_cast<float>(range_.low - zero);
    batch_.highs[i] = static_cast<float>(range_.high - zero);
  }
  // The range from -a to b.
  void PutRange(size_t i, float a, float b) {
    const float scale = (a + b) / static_cast<float>(range_.high - range_.low);
    const float zero = scale > 0 ? std::min(a / scale, kFarOut) : 0.0f;
    PutOne(i, scale, range_.low + static_cast<int32_t>(zero + 0.5f));
  }

  // Multiplies back, rounds to what the type can store, and multiplies again. A scale to be judged
  // (`kShort`) is cut to 15 significant bits: multiplied by a code it is exact then, with or
  // without a fused multiply-add. An fp16 scale has 11.
  template <bool kShort, class V>
  HWY_INLINE V Storable(V scale) const {
    const Floats d;
    const hn::Rebind<int32_t, Floats> di;
    const auto up = hn::Set(d, block_.up), down = hn::Set(d, block_.down);
    auto stored = hn::Mul(hn::Max(scale, hn::Set(d, kLeastHalf)), up);
    if (format_.scale_type == EntryType::kHalf) {
      stored = hn::Min(stored, hn::Set(d, kMaxHalf));
      const auto bits = hn::BitCast(di, stored);
      const auto odd = hn::And(hn::ShiftRight<13>(bits), hn::Set(di, 1));
      const auto rounded =
          hn::And(hn::Add(bits, hn::Add(odd, hn::Set(di, 0xfff))), hn::Set(di, ~0x1fff));
      // Below the normal range adding 0.5 aligns the last bits.
      const auto half = hn::Set(d, 0.5f);
      const auto subnormal = hn::Max(hn::Sub(hn::Add(stored, half), half), hn::Set(d, kLeastHalf));
      stored =
          hn::IfThenElse(hn::Lt(stored, hn::Set(d, 0x1p-14f)), subnormal, hn::BitCast(d, rounded));
    } else {
      stored = hn::Max(hn::Min(stored, hn::Set(d, std::numeric_limits<float>::max())),
                       hn::Set(d, kLeastFloat));
    }
    const auto scaled = hn::Mul(stored, down);
    if (!kShort || format_.scale_type == EntryType::kHalf) return scaled;
    return hn::BitCast(d, hn::And(hn::BitCast(di, scaled), hn::Set(di, ~0x1ff)));
  }

  // The values from `begin` on, at most a chunk of them, multiplied.
  const float* Load(size_t begin) {
    if (loaded_ == begin) return chunk_;
    loaded_ = begin;
    const Floats d;
    const size_t lanes = hn::Lanes(d);
    const size_t count = std::min(kChunk, block_.count - begin);
    const float* from = block_.values + begin;
    size_t i = 0;
    for (; i + lanes <= count; i += lanes)
      hn::Store(hn::Mul(hn::LoadU(d, from + i), hn::Set(d, block_.down)), d, chunk_ + i);
    for (; i < count; ++i) chunk_[i] = from[i] * block_.down;
    return chunk_;
  }

  template <bool kMoments, bool kWeighted>
  HWY_INLINE void Sums(size_t group, const float* values, const float* weights, size_t count,
                       float* errors, float* slopes, float* powers) const {
    const Floats d;
    const auto scale = hn::Load(d, batch_.scales + group);
    const auto inverse = hn::Load(d, batch_.inverses + group);
    const auto low = hn::Load(d, batch_.lows + group), high = hn::Load(d, batch_.highs + group);
    const auto rounder = hn::Set(d, kRounder);
    auto error = hn::Zero(d), slope = hn::Zero(d), power = hn::Zero(d);
    for (size_t i = 0; i < count; ++i) {
      const auto x = hn::Set(d, values[i]);
      auto k = hn::Max(hn::Min(hn::Mul(x, inverse), high), low);
      k = hn::Sub(hn::Add(k, rounder), rounder);
      const auto r = hn::NegMulAdd(scale, k, x);
      auto weighted_r = r;
      if constexpr (kWeighted) weighted_r = hn::Mul(r, hn::Set(d, weights[i]));
      error = hn::Add(error, hn::Mul(weighted_r, r));
      if constexpr (kMoments) {
        slope = hn::Add(slope, hn::Mul(weighted_r, k));
        if constexpr (kWeighted)
          power = hn::Add(power, hn::Mul(hn::Mul(k, k), hn::Set(d, weights[i])));
        else  // integers below 2^24
          power = hn::MulAdd(k, k, power);
      }
    }
    hn::Store(error, d, errors + group);
    if constexpr (kMoments) {
      hn::Store(slope, d, slopes + group);
      hn::Store(power, d, powers + group);
    }
  }

  template <bool kMoments, bool kWeighted>
  void AllSums() {
    const size_t lanes = hn::Lanes(Floats());
    if (block_.count <= kChunk) {
      const float* values = Load(0);
      for (size_t group = 0; group < kBatch; group += lanes)
        Sums<kMoments, kWeighted>(group, values, block_.weights, block_.count, batch_.errors,
                                  batch_.slopes, batch_.powers);
      return;
    }
    double errors[kBatch] = {}, slopes[kBatch] = {}, powers[kBatch] = {};
    for (size_t begin = 0; begin < block_.count; begin += kChunk) {
      const size_t count = std::min(kChunk, block_.count - begin);
      const float* values = Load(begin);
      const float* weights = kWeighted ? block_.weights + begin : nullptr;
      for (size_t group = 0; group < kBatch; group += lanes)
        Sums<kMoments, kWeighted>(group, values, weights, count, batch_.errors, batch_.slopes,
                                  batch_.powers);
      for (size_t i = 0; i < kBatch; ++i) {
        errors[i] += static_cast<double>(batch_.errors[i]);
        if (!kMoments) continue;
        slopes[i] += static_cast<double>(batch_.slopes[i]);
        powers[i] += static_cast<double>(batch_.powers[i]);
      }
    }
    for (size_t i = 0; i < kBatch; ++i) {
      batch_.errors[i] = static_cast<float>(errors[i]);
      batch_.slopes[i] = static_cast<float>(slopes[i]);
      batch_.powers[i] = static_cast<float>(powers[i]);
    }
  }

  template <bool kMoments>
  void Judge() {
    Prepare();
    Sum<kMoments>();
    Choose<kMoments>();
  }

  // Makes the scales of the batch storable.
  void Prepare() {
    const Floats d;
    const size_t lanes = hn::Lanes(d);
    for (size_t i = 0; i < kBatch; i += lanes) {
      const auto scale = Storable<true>(hn::Load(d, batch_.scales + i));
      hn::Store(scale, d, batch_.scales + i);
      hn::Store(hn::Div(hn::Set(d, 1.0f), scale), d, batch_.inverses + i);
    }
  }

  template <bool kMoments>
  void Sum() {
    if (block_.weights == nullptr)
      AllSums<kMoments, false>();
    else
      AllSums<kMoments, true>();
  }

  // Keeps the best of the batch. Strict comparisons in the order of the candidates make the choice
  // unique.
  template <bool kMoments>
  void Choose() {
    const Floats d;
    const size_t lanes = hn::Lanes(d);
    auto least = hn::Set(d, best_error_);
    for (size_t i = 0; i < kBatch; i += lanes) {
      const auto error = hn::Load(d, batch_.errors + i);
      if constexpr (kMoments) {
        const auto scale = hn::Load(d, batch_.scales + i);
        const auto slope = hn::Load(d, batch_.slopes + i), power = hn::Load(d, batch_.powers + i);
        // If all codes are the zero point the slope is 0 too.
        const auto move = hn::Div(slope, hn::Max(power, hn::Set(d, 0x1p-20f)));
        const auto refit = Storable<false>(hn::Add(scale, move));
        const auto moved = hn::Sub(refit, scale);
        const auto gain = hn::Mul(moved, hn::Sub(hn::Add(slope, slope), hn::Mul(moved, power)));
        const auto better = hn::Gt(gain, hn::Zero(d));
        const auto bound = hn::IfThenElse(better, hn::Sub(error, gain), error);
        hn::Store(hn::IfThenElse(better, refit, scale), d, batch_.refits + i);
        hn::Store(bound, d, batch_.bounds + i);
        least = hn::Min(least, bound);
      } else {
        least = hn::Min(least, error);
      }
    }
    const float error = hn::GetLane(hn::MinOfLanes(d, least));
    if (!(error < best_error_)) return;
    // The first of equal ones, whatever the width.
    best_error_ = error;
    const float* errors = kMoments ? batch_.bounds : batch_.errors;
    const float* scales = kMoments ? batch_.refits : batch_.scales;
    size_t best = 0;
    for (; best < kBatch; best += lanes) {
      const intptr_t found =
          hn::FindFirstTrue(d, hn::Eq(hn::Load(d, errors + best), hn::Set(d, error)));
      if (found < 0) continue;
      best += static_cast<size_t>(found);
      break;
    }
    best_origin_ = batch_.errors[best];
    best_scale_ = scales[best];
    best_zero_ = static_cast<int32_t>(batch_.zeros[best]);
  }

  // For each threshold the sum of the squares of what values exceed it by; of |x| if `kSign` is 0,
  // else of x * kSign. Sets the total weight.
  template <int kSign>
  void Exceeding(const float* thresholds, float* excess) {
    const Floats d;
    const size_t lanes = hn::Lanes(d);
    HWY_ALIGN float part[kBatch];
    double sums[kBatch] = {}, total_weight = 0;
    for (size_t begin = 0; begin < block_.count; begin += kChunk) {
      const size_t count = std::min(kChunk, block_.count - begin);
      const float* values = Load(begin);
      const float* weights = block_.weights == nullptr ? nullptr : block_.weights + begin;
      for (size_t group = 0; group < kBatch; group += lanes) {
        const auto threshold = hn::Load(d, thresholds + group);
        const auto square = [&](size_t i) HWY_ATTR {
          auto x = hn::Set(d, values[i]);
          if (kSign < 0) x = hn::Neg(x);
          if (kSign == 0) x = hn::Abs(x);
          const auto over = hn::Max(hn::Sub(x, threshold), hn::Zero(d));
          const auto result = hn::Mul(over, over);
          return weights == nullptr ? result : hn::Mul(result, hn::Set(d, weights[i]));
        };
        // Two sums, as one would wait for itself.
        auto sum = hn::Zero(d), sum2 = hn::Zero(d);
        size_t i = 0;
        for (; i + 2 <= count; i += 2) {
          sum = hn::Add(sum, square(i));
          sum2 = hn::Add(sum2, square(i + 1));
        }
        if (i < count) sum = hn::Add(sum, square(i));
        sum = hn::Add(sum, sum2);
        hn::Store(sum, d, part + group);
      }
      for (size_t i = 0; i < kBatch; ++i) sums[i] += static_cast<double>(part[i]);
      if (weights == nullptr)
        total_weight += static_cast<double>(count);
      else
        for (size_t i = 0; i < count; ++i) total_weight += static_cast<double>(weights[i]);
    }
    for (size_t i = 0; i < kBatch; ++i) excess[i] = static_cast<float>(sums[i]);
    total_weight_ = static_cast<float>(total_weight);
  }

  LinearBlock block_;
  LinearFormat format_;
  CodeRange range_;
  float positive_, negative_;  // how far the values reach to either side
  float total_weight_ = 0;
  float first_scale_ = 0, first_error_ = 0;
  int32_t first_zero_ = 0;
  float best_error_ = std::numeric_limits<float>::infinity(), best_scale_ = 0;
  float best_origin_ = 0;  // the error of the candidate that the best is a refit of
  int32_t best_zero_ = 0;
  size_t loaded_ = std::numeric_limits<size_t>::max();
  HWY_ALIGN float chunk_[kChunk];
  CandidateBatch batch_;
};

// What the search's sums leave out, the rounding of what is decoded, included: the error as
// QuantizeLinear gives it, multiplied by the block's weights.
double ExactError(const LinearBlock& block, const LinearParameters& parameters,
                  const LinearFormat& format) {
  if (block.weights == nullptr)
    return QuantizeFloats(block.values, block.count, 1, &parameters, format, nullptr).noise;
  const CodeRange range = RangeOfCodes(format);
  double total = 0;
  const float low = static_cast<float>(range.low - parameters.zero_point);
  const float high = static_cast<float>(range.high - parameters.zero_point);
  for (size_t i = 0; i < block.count; ++i) {
    const float k = std::clamp(block.values[i] / parameters.scale, low, high);
    float decoded = ((k + kRounder) - kRounder) * parameters.scale;
    decoded = format.scale_type == EntryType::kHalf
                  ? HalfToFloat(FloatToHalf(decoded))
                  : std::clamp(decoded, -std::numeric_limits<float>::max(),
                               std::numeric_limits<float>::max());
    const auto error = static_cast<double>(block.values[i] - decoded);
    total += static_cast<double>(block.weights[i]) * error * error;
  }
  return total;
}

// Block and min-max parameters of values.
struct Given {
  LinearBlock block;
  float least, greatest;
  LinearParameters min_max;
};

Given LookAtBlock(const float* values, const float* weights, size_t count,
                  const LinearFormat& format) {
  Given given;
  ExtremesOf(values, count, &given.least, &given.greatest);
  given.min_max = FitMinMax(given.least, given.greatest, format);
  // The exponent of the greatest magnitude, such that both powers of two are normal numbers.
  const auto bits = std::bit_cast<uint32_t>(std::max(-given.least, given.greatest));
  const uint32_t exponent = std::clamp<uint32_t>(bits >> 23 & 0xff, 1, 253);
  given.block = {values, weights, count, std::bit_cast<float>(exponent << 23),
                 std::bit_cast<float>((254 - exponent) << 23)};
  return given;
}

// What is kept of a search, judged as it will be decoded. At 8 bits the rounding of decoded values
// is a good part of the differences between scales, and one that no search foresees; where there is
// time, some neighbours of both are tried as well.
LinearParameters Better(const LinearSearch& search, const Given& given,
                        const LinearFormat& format) {
  const LinearParameters found = search.Result();
  if (search.SurelyBetter()) return found;
  LinearParameters best = given.min_max;
  double least = ExactError(given.block, best, format);
  const auto consider = [&](const LinearParameters& parameters) {
    const double error = ExactError(given.block, parameters, format);
    if (error >= least) return;
    least = error;
    best = parameters;
  };
  consider(found);
  if (format.bits < 8 || format.scale_type != EntryType::kHalf ||
      (given.block.weights == nullptr && given.block.count <= kMostHasty))
    return best;
  for (const LinearParameters& from : {given.min_max, found}) {
    const int pattern = FloatToHalf(from.scale);
    for (const int step : {-2, -1, 1, 2})
      if (pattern + step > 0 && pattern + step < 0x7c00)
        consider({HalfToFloat(static_cast<uint16_t>(pattern + step)), from.zero_point});
  }
  return best;
}

// Blocks of up to kMostShort values, some of them side by side. Those of zeros go along: no
// candidate beats the rule's.
void FitShortBlocks(const float* values, size_t size, size_t count, const LinearFormat& format,
                    LinearParameters* parameters) {
  constexpr size_t kTogether = 8;
  Given given[kTogether];
  LinearSearch searches[kTogether];
  for (size_t begin = 0; begin < count; begin += kTogether) {
    const size_t n = std::min(kTogether, count - begin);
    for (size_t b = 0; b < n; ++b)
      given[b] = LookAtBlock(values + (begin + b) * size, nullptr, size, format);
    for (size_t b = 0; b < n; ++b)
      searches[b].Start(given[b].block, format, given[b].least, given[b].greatest,
                        given[b].min_max);
    for (size_t round = 0; round < searches[0].rounds(); ++round) {
      for (size_t b = 0; b < n; ++b) searches[b].Propose(round);
      for (size_t b = 0; b < n; ++b) searches[b].Sum();
      for (size_t b = 0; b < n; ++b) searches[b].Choose(round);
    }
    for (size_t b = 0; b < n; ++b) parameters[begin + b] = Better(searches[b], given[b], format);
  }
}

LinearParameters FitBlock(const float* values, const float* weights, size_t count,
                          const LinearFormat& format) {
  if (!format.search) {
    float least, greatest;
    ExtremesOf(values, count, &least, &greatest);
    return FitMinMax(least, greatest, format);
  }
  const Given given = LookAtBlock(values, weights, count, format);
  if (given.least == 0 && given.greatest == 0) return given.min_max;
  LinearSearch search;
  search.Start(given.block, format, given.least, given.greatest, given.min_max);
  if (count > kMostShort) {
    search.Long();
  } else {
    for (size_t round = 0; round < search.rounds(); ++round) {
      search.Propose(round);
      search.Sum();
      search.Choose(round);
    }
  }
  return Better(search, given, format);
}

void FitFloats(const float* values, size_t size, size_t count, const LinearFormat& format,
               LinearParameters* parameters) {
  if (format.search && size <= kMostShort) {
    FitShortBlocks(values, size, count, format, parameters);
    return;
  }
  for (size_t b = 0; b < count; ++b)
    parameters[b] = FitBlock(values + b * size, nullptr, size, format);
}

// The range of values and 0. As integers fp16 patterns of positive values are in order if they are
// signed, those of negative ones if they are not. Returns false if a value is not finite.
bool RangeOfHalves(const uint16_t* values, size_t count, float* least, float* greatest) {
  const hn::CappedTag<uint16_t, 32> du;
  const hn::Rebind<int16_t, decltype(du)> di;
  const size_t lanes = hn::Lanes(du);
  uint16_t low = 0, high = 0;
  size_t i = 0;
  if (count >= lanes) {
    auto lows = hn::Zero(du), lows2 = lows;
    auto highs = hn::Zero(di), highs2 = highs;
    for (; i + 2 * lanes <= count; i += 2 * lanes) {
      const auto v = hn::LoadU(du, values + i), v2 = hn::LoadU(du, values + i + lanes);
      lows = hn::Max(lows, v);
      highs = hn::Max(highs, hn::BitCast(di, v));
      lows2 = hn::Max(lows2, v2);
      highs2 = hn::Max(highs2, hn::BitCast(di, v2));
    }
    // The last vectors may overlap what was seen before: extremes do not mind.
    for (; i < count; i += lanes) {
      const auto v = hn::LoadU(du, values + std::min(i, count - lanes));
      lows = hn::Max(lows, v);
      highs = hn::Max(highs, hn::BitCast(di, v));
    }
    low = hn::GetLane(hn::MaxOfLanes(du, hn::Max(lows, lows2)));
    high = static_cast<uint16_t>(hn::GetLane(hn::MaxOfLanes(di, hn::Max(highs, highs2))));
  } else {
    for (; i < count; ++i) {
      low = std::max(low, values[i]);
      if (values[i] < 0x8000) high = std::max(high, values[i]);
    }
  }
  if (low < 0x8000) low = 0;
  *least = HalfToFloat(low) + 0.0f;
  *greatest = HalfToFloat(high);
  return IsFiniteHalf(low) && IsFiniteHalf(high);
}

bool AllFinite(const float* values, size_t count) {
  const hn::ScalableTag<uint32_t> d;
  const size_t lanes = hn::Lanes(d);
  const auto* bits = reinterpret_cast<const uint32_t*>(values);
  const auto magnitude = hn::Set(d, 0x7fffffffu);
  auto most = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes)
    most = hn::Max(most, hn::And(hn::LoadU(d, bits + i), magnitude));
  uint32_t greatest = hn::GetLane(hn::MaxOfLanes(d, most));
  for (; i < count; ++i) greatest = std::max(greatest, bits[i] & 0x7fffffffu);
  return greatest < 0x7f800000u;
}

// The pattern of the greatest magnitude, by vectors of `D`.
template <class D>
HWY_INLINE uint16_t ReachOfHalvesBy(D d, const uint16_t* values, size_t count) {
  const size_t lanes = hn::Lanes(d);
  const auto magnitude = hn::Set(d, 0x7fff);
  uint16_t reach = 0;
  size_t i = 0;
  if (count >= lanes) {
    auto most = hn::Zero(d), most2 = most;
    for (; i + 2 * lanes <= count; i += 2 * lanes) {
      most = hn::Max(most, hn::And(hn::LoadU(d, values + i), magnitude));
      most2 = hn::Max(most2, hn::And(hn::LoadU(d, values + i + lanes), magnitude));
    }
    // The last vectors may overlap what was seen before: extremes do not mind.
    for (; i < count; i += lanes)
      most = hn::Max(most, hn::And(hn::LoadU(d, values + std::min(i, count - lanes)), magnitude));
    // SSE4 has an instruction for the least of eight.
    const auto inverted = hn::Not(hn::Max(most, most2));
    reach = static_cast<uint16_t>(~hn::GetLane(hn::MinOfLanes(d, inverted)));
  } else {
    for (; i < count; ++i) reach = std::max(reach, static_cast<uint16_t>(values[i] & 0x7fff));
  }
  return reach;
}
HWY_INLINE uint16_t ReachOfHalves(const uint16_t* values, size_t count) {
  // In short blocks it is the last step, from a vector to a value, that takes time.
  return count <= 64 ? ReachOfHalvesBy(hn::CappedTag<uint16_t, 8>(), values, count)
                     : ReachOfHalvesBy(hn::CappedTag<uint16_t, 32>(), values, count);
}

// FitMinMax for scales of fp16 and the fixed zero point, for blocks that reach so far from 0. There
// is room for a whole batch of reaches.
void FitReaches(const uint16_t* reaches, size_t count, const LinearFormat& format,
                LinearParameters* parameters) {
  const Floats d;
  const size_t lanes = hn::Lanes(d);
  LinearFormat plain = format;
  plain.search = false;
  const CodeRange range = RangeOfCodes(plain);
  const int32_t zero = RangeOfCodes(format).zero;
  const auto levels = hn::Set(d, static_cast<float>(range.high - range.low));
  HWY_ALIGN float scales[kBatch];
  for (size_t i = 0; i < count; i += lanes) {
    const auto reach = LoadFloats(d, reaches + i);
    const auto exact = hn::Div(hn::Add(reach, reach), levels);
    const auto rounded =
        hn::Min(hn::Max(RoundToHalf(d, exact), hn::Set(d, kLeastHalf)), hn::Set(d, kMaxHalf));
    hn::Store(hn::IfThenElse(hn::Eq(reach, hn::Zero(d)), hn::Set(d, 1.0f), rounded), d, scales);
    for (size_t j = 0; j < std::min(lanes, count - i); ++j) parameters[i + j] = {scales[j], zero};
  }
}

bool FitFloatBlocks(const float* values, size_t size, size_t count, const LinearFormat& format,
                    LinearParameters* parameters) {
  if (!AllFinite(values, size * count)) return false;
  FitFloats(values, size, count, format, parameters);
  return true;
}

bool FitHalfBlocks(const uint16_t* values, size_t size, size_t count, const LinearFormat& format,
                   LinearParameters* parameters) {
  if (format.search) {
    // Some blocks at a time, so that their fp32 copy stays in the cache.
    constexpr size_t kSome = 8192;
    const size_t together = std::max<size_t>(kSome / std::max<size_t>(size, 1), 1);
    const std::unique_ptr<float[]> floats(new float[std::min(together, count) * size]);
    for (size_t b = 0; b < count; b += together) {
      const size_t blocks = std::min(together, count - b);
      float least, greatest;
      if (!RangeOfHalves(values + b * size, blocks * size, &least, &greatest)) return false;
      HalvesToFloats(values + b * size, blocks * size, floats.get());
      FitFloats(floats.get(), size, blocks, format, parameters + b);
    }
    return true;
  }
  if (format.symmetric && format.scale_type == EntryType::kHalf) {
    constexpr size_t kTogether = 64;
    uint16_t reaches[kTogether] = {};
    uint16_t farthest = 0;
    for (size_t begin = 0; begin < count; begin += kTogether) {
      const size_t blocks = std::min(kTogether, count - begin);
      for (size_t b = 0; b < blocks; ++b) {
        reaches[b] = ReachOfHalves(values + (begin + b) * size, size);
        farthest = std::max(farthest, reaches[b]);
      }
      FitReaches(reaches, blocks, format, parameters + begin);
    }
    return IsFiniteHalf(farthest);
  }
  for (size_t b = 0; b < count; ++b) {
    float least, greatest;
    if (!RangeOfHalves(values + b * size, size, &least, &greatest)) return false;
    parameters[b] = FitMinMax(least, greatest, format);
  }
  return true;
}

}  // namespace HWY_NAMESPACE
}  // namespace numeric
}  // namespace cmlc
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cmlc::numeric {

HWY_EXPORT(ExtremesOf);
HWY_EXPORT(RangeOfHalves);
HWY_EXPORT(QuantizeFloats);
HWY_EXPORT(QuantizeHalves);
HWY_EXPORT(FitBlock);
HWY_EXPORT(FitFloatBlocks);
HWY_EXPORT(FitHalfBlocks);

std::pair<float, float> RangeOf(std::span<const float> values) {
  std::pair<float, float> range;
  HWY_DYNAMIC_DISPATCH(ExtremesOf)(values.data(), values.size(), &range.first, &range.second);
  return range;
}

std::optional<std::pair<float, float>> RangeOf(std::span<const uint16_t> halves) {
  std::pair<float, float> range;
  if (!HWY_DYNAMIC_DISPATCH(RangeOfHalves)(halves.data(), halves.size(), &range.first,
                                           &range.second))
    return std::nullopt;
  return range;
}

LinearParameters FitMinMax(float least, float greatest, const LinearFormat& format) {
  LinearFormat plain = format;
  plain.search = false;
  const CodeRange range = RangeOfCodes(plain);
  const int32_t fixed_zero = RangeOfCodes(format).zero;
  float low = std::min(0.0f, least), high = std::max(0.0f, greatest);
  if (format.symmetric) {
    high = std::max(std::fabs(least), std::fabs(greatest));
    low = -high;
  }
  if (low == high) return {1.0f, format.symmetric ? fixed_zero : 0};
  // Step by step in fp32 as coremltools; in double only where fp32 would overflow.
  const auto levels = static_cast<float>(range.high - range.low);
  const float span = high - low;
  const double wide_span = static_cast<double>(high) - static_cast<double>(low);
  const float exact = std::isfinite(span)
                          ? span / levels
                          : static_cast<float>(wide_span / static_cast<double>(levels));
  LinearParameters parameters;
  if (format.scale_type == EntryType::kHalf)
    parameters.scale = std::clamp(HalfToFloat(FloatToHalf(exact)), kLeastHalf, kMaxHalf);
  else
    parameters.scale = std::max(exact, kLeastFloat);
  if (format.symmetric) {
    parameters.zero_point = fixed_zero;
    return parameters;
  }
  const auto least_code = static_cast<float>(range.low), most_code = static_cast<float>(range.high);
  const float numerator = least_code * high - most_code * low;
  float zero = numerator / span;
  if (!std::isfinite(numerator) || !std::isfinite(span))
    zero = static_cast<float>((static_cast<double>(least_code) * static_cast<double>(high) -
                               static_cast<double>(most_code) * static_cast<double>(low)) /
                              wide_span);
  zero = std::clamp(zero, least_code, most_code);
  parameters.zero_point = static_cast<int32_t>((zero + kRounder) - kRounder);
  return parameters;
}

LinearParameters FitLinear(std::span<const float> values, const LinearFormat& format) {
  return HWY_DYNAMIC_DISPATCH(FitBlock)(values.data(), nullptr, values.size(), format);
}

bool FitLinearBlocks(const float* values, size_t size, size_t count, const LinearFormat& format,
                     LinearParameters* parameters) {
  return HWY_DYNAMIC_DISPATCH(FitFloatBlocks)(values, size, count, format, parameters);
}
bool FitLinearBlocks(const uint16_t* values, size_t size, size_t count, const LinearFormat& format,
                     LinearParameters* parameters) {
  return HWY_DYNAMIC_DISPATCH(FitHalfBlocks)(values, size, count, format, parameters);
}

LinearParameters FitLinear(const Points& points, const LinearFormat& format) {
  if (points.values.empty()) return FitMinMax(0.0f, 0.0f, format);
  if (!format.search)
    return FitMinMax(static_cast<float>(points.values.front()),
                     static_cast<float>(points.values.back()), format);
  std::vector<float> values(points.values.size()), weights(points.values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(points.values[i]);
    weights[i] = static_cast<float>(points.weights[i]);
  }
  return HWY_DYNAMIC_DISPATCH(FitBlock)(values.data(), weights.data(), values.size(), format);
}

double QuantizeLinear(std::span<const float> values, const LinearParameters& parameters,
                      const LinearFormat& format, uint8_t* codes) {
  return QuantizeLinearBlocks(values.data(), values.size(), 1, &parameters, format, codes).noise;
}

LinearError QuantizeLinearBlocks(const float* values, size_t size, size_t count,
                                 const LinearParameters* parameters, const LinearFormat& format,
                                 uint8_t* codes) {
  return HWY_DYNAMIC_DISPATCH(QuantizeFloats)(values, size, count, parameters, format, codes);
}
LinearError QuantizeLinearBlocks(const uint16_t* values, size_t size, size_t count,
                                 const LinearParameters* parameters, const LinearFormat& format,
                                 uint8_t* codes) {
  CMLC_CHECK(format.scale_type == EntryType::kHalf);
  return HWY_DYNAMIC_DISPATCH(QuantizeHalves)(values, size, count, parameters, format, codes);
}

}  // namespace cmlc::numeric
#endif  // HWY_ONCE
