// Coding of values in blocks, and the squared error that it makes: what kernels with codes of a
// byte each share. For Highway's foreach_target: included once for each instruction set.
#if defined(CMLC_NUMERIC_CODING_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CMLC_NUMERIC_CODING_INL_H_
#undef CMLC_NUMERIC_CODING_INL_H_
#else
#define CMLC_NUMERIC_CODING_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "numeric/linear.h"

#ifndef CMLC_NUMERIC_CODING_ONCE_
#define CMLC_NUMERIC_CODING_ONCE_
namespace cmlc::numeric {

// No target uses wider vectors of floats than this.
constexpr size_t kMostLanes = 16;
// Adding and subtracting it rounds |x| < 2^22 to an integer, ties to even.
constexpr float kRounder = 0x1.8p23f;

}  // namespace cmlc::numeric
#endif

HWY_BEFORE_NAMESPACE();
namespace cmlc {
namespace numeric {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::CappedTag<float, kMostLanes>;

// fp16 values are taken as their bit patterns. Where the processor converts, it is asked to; else
// integer arithmetic gives the same.
#undef CMLC_CONVERTS_HALVES
#if HWY_TARGET <= HWY_AVX2 || HWY_ARCH_ARM
#define CMLC_CONVERTS_HALVES 1
#else
#define CMLC_CONVERTS_HALVES 0
#endif

// `lanes` values as floats; those of fp16 must be finite.
template <class D>
HWY_INLINE hn::Vec<D> LoadFloats(D d, const float* from) {
  return hn::LoadU(d, from);
}
template <class D>
HWY_INLINE hn::Vec<D> LoadFloats(D d, const uint16_t* from) {
  const hn::Rebind<uint16_t, D> d16;
#if CMLC_CONVERTS_HALVES
  const hn::Rebind<hwy::float16_t, D> dh;
  return hn::PromoteTo(d, hn::BitCast(dh, hn::LoadU(d16, from)));
#else
  const hn::Rebind<uint32_t, D> du;
  const auto bits = hn::PromoteTo(du, hn::LoadU(d16, from));
  // The exponent moves up by a multiplication, which serves subnormals as well.
  const auto magnitude = hn::ShiftLeft<13>(hn::And(bits, hn::Set(du, 0x7fff)));
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000)));
  return hn::Or(hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112f)), hn::BitCast(d, sign));
#endif
}

// Adds up squares. Value i of a part goes to place i % 32, which vectors of any width can keep, and
// there are enough places that no sum waits for itself.
constexpr size_t kPlaces = 32;
constexpr size_t kPart = 512;

template <typename T>
class SquareSums {
 public:
  SquareSums() {
    std::fill_n(values_, kPlaces, 0.0);
    std::fill_n(differences_, kPlaces, 0.0);
  }
  // A part of up to kPart values, which is filled up with zeros to a multiple of kPlaces.
  HWY_INLINE void Add(const T* values, const float* differences, size_t count) {
    Wide(differences, count, differences_);
    if constexpr (std::is_same_v<T, float>) {
      Wide(values, count, values_);
    } else {
      // Squares of fp16 are exact in fp32, and the sums are short.
      const hn::CappedTag<float, kPlaces / 2> d;
      const size_t lanes = hn::Lanes(d);
      HWY_ALIGN float sums[kPlaces];
      for (size_t at = 0; at < kPlaces / 2; at += lanes) {
        auto sum = hn::Zero(d), sum2 = hn::Zero(d);
        for (size_t i = at; i < count; i += kPlaces) {
          const auto x = LoadFloats(d, values + i), x2 = LoadFloats(d, values + i + kPlaces / 2);
          sum = hn::Add(sum, hn::Mul(x, x));
          sum2 = hn::Add(sum2, hn::Mul(x2, x2));
        }
        hn::Store(sum, d, sums + at);
        hn::Store(sum2, d, sums + at + kPlaces / 2);
      }
      for (size_t i = 0; i < kPlaces; ++i) values_[i] += static_cast<double>(sums[i]);
    }
  }
  LinearError Total() {
    // In pairs: one after the other would take longer than all else for a block of 32.
    for (size_t half = kPlaces / 2; half > 0; half /= 2)
      for (size_t i = 0; i < half; ++i) {
        values_[i] += values_[i + half];
        differences_[i] += differences_[i + half];
      }
    return {.signal = values_[0], .noise = differences_[0]};
  }

 private:
  // The square of an fp32 value is exact in double, so it does not matter whether the processor
  // fuses the operations.
  static HWY_INLINE void Wide(const float* values, size_t count, double* sums) {
    constexpr size_t kQuarter = kPlaces / 4;
    const hn::CappedTag<double, kQuarter> dd;
    const hn::Rebind<float, decltype(dd)> d_half;
    const size_t lanes = hn::Lanes(dd);
    for (size_t at = 0; at < kQuarter; at += lanes) {
      auto a = hn::Load(dd, sums + at), b = hn::Load(dd, sums + at + kQuarter);
      auto c = hn::Load(dd, sums + at + 2 * kQuarter), e = hn::Load(dd, sums + at + 3 * kQuarter);
      const auto add = [&](auto sum, const float* from) HWY_ATTR {
        const auto x = hn::PromoteTo(dd, hn::LoadU(d_half, from));
        return hn::MulAdd(x, x, sum);
      };
      for (size_t i = at; i < count; i += kPlaces) {
        a = add(a, values + i);
        b = add(b, values + i + kQuarter);
        c = add(c, values + i + 2 * kQuarter);
        e = add(e, values + i + 3 * kQuarter);
      }
      hn::Store(a, dd, sums + at);
      hn::Store(b, dd, sums + at + kQuarter);
      hn::Store(c, dd, sums + at + 2 * kQuarter);
      hn::Store(e, dd, sums + at + 3 * kQuarter);
    }
  }

  HWY_ALIGN double values_[kPlaces];
  HWY_ALIGN double differences_[kPlaces];
};

// Codes `count` values of one block, some at a time, and says how far what they stand for is from
// them: decode(x, bits) gives the decoded values of a vector, and their codes in the low byte of
// `bits`.
template <bool kStore, typename T, class Decode>
HWY_INLINE void CodeSome(const T* values, size_t count, uint8_t* codes, float* differences,
                         const Decode& decode) {
  const Floats d;
  const hn::Rebind<int32_t, Floats> di;
  const hn::Rebind<uint32_t, Floats> du;
  const hn::Rebind<uint8_t, Floats> d8;
  const size_t lanes = hn::Lanes(d);
  const auto some = [&](const T* from, [[maybe_unused]] uint8_t* to, float* difference) HWY_ATTR {
    const auto x = LoadFloats(d, from);
    auto bits = hn::Zero(di);
    hn::StoreU(hn::Sub(x, decode(x, bits)), d, difference);
    if constexpr (kStore) hn::StoreU(hn::U8FromU32(hn::BitCast(du, bits)), d8, to);
  };
  size_t i = 0;
  for (; i + lanes <= count; i += lanes)
    some(values + i, kStore ? codes + i : nullptr, differences + i);
  if (i == count) return;
  HWY_ALIGN T rest[kMostLanes] = {};
  HWY_ALIGN float rest_differences[kMostLanes];
  HWY_ALIGN uint8_t rest_codes[kMostLanes];
  std::copy(values + i, values + count, rest);
  some(rest, rest_codes, rest_differences);
  std::copy(rest_differences, rest_differences + (count - i), differences + i);
  if (kStore) std::copy(rest_codes, rest_codes + (count - i), codes + i);
}

// Codes `count` blocks of `size` values each. with_block(b, code) calls code(decode) with what
// decodes block b (see CodeSome); it is called once or more for every block, in their order.
// Returns the sums of all blocks.
template <bool kStore, typename T, class WithBlock>
LinearError CodeBlocks(const T* values, size_t size, size_t count, uint8_t* codes,
                       const WithBlock& with_block) {
  SquareSums<T> sums;
  HWY_ALIGN float differences[kPart + kMostLanes];
  const auto code_some = [&](size_t b, size_t at, size_t n, float* to) HWY_ATTR {
    with_block(b, [&](const auto& decode) HWY_ATTR {
      CodeSome<kStore>(values + at, n, kStore ? codes + at : nullptr, to, decode);
    });
  };
  const auto add = [&](const T* from, size_t n) HWY_ATTR {
    const size_t whole = n / kPlaces * kPlaces;
    if (whole > 0) sums.Add(from, differences, whole);
    if (whole == n) return;
    HWY_ALIGN T padded[kPlaces] = {};
    std::copy(from + whole, from + n, padded);
    std::fill(differences + n, differences + whole + kPlaces, 0.0f);
    sums.Add(padded, differences + whole, kPlaces);
  };
  if (size <= kPart) {
    const size_t together = kPart / std::max<size_t>(size, 1);
    for (size_t begin = 0; begin < count; begin += together) {
      const size_t blocks = std::min(together, count - begin);
      for (size_t b = 0; b < blocks; ++b)
        code_some(begin + b, (begin + b) * size, size, differences + b * size);
      add(values + begin * size, blocks * size);
    }
    return sums.Total();
  }
  for (size_t b = 0; b < count; ++b) {
    for (size_t i = 0; i < size; i += kPart) {
      const size_t n = std::min(kPart, size - i);
      code_some(b, b * size + i, n, differences);
      add(values + b * size + i, n);
    }
  }
  return sums.Total();
}

}  // namespace HWY_NAMESPACE
}  // namespace numeric
}  // namespace cmlc
HWY_AFTER_NAMESPACE();

#endif  // CMLC_NUMERIC_CODING_INL_H_
