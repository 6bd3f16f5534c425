// Eight codes are one 64-bit word with a code in each byte. Three folds bring them together: two
// neighbours at a time, then pairs, then fours. That needs no special instruction, is the same for
// every width, and takes about a cycle a code.
#include "numeric/bit_pack.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"

namespace cmlc::numeric {
namespace {

// Calls function.operator()<bits>().
template <class Function>
void ForWidth(int bits, const Function& function) {
  switch (bits) {
    case 1:
      return function.template operator()<1>();
    case 2:
      return function.template operator()<2>();
    case 3:
      return function.template operator()<3>();
    case 4:
      return function.template operator()<4>();
    case 5:
      return function.template operator()<5>();
    case 6:
      return function.template operator()<6>();
    case 7:
      return function.template operator()<7>();
    case 8:
      return function.template operator()<8>();
    default:
      CMLC_CHECK(false);
  }
}

// The low code, pair and four of every 2, 4 and 8 bytes. Codes are masked on both sides of a fold:
// from 5 bits on the shifted word overlaps the one that stays.
template <int kBits>
struct Masks {
  static constexpr uint64_t kCode = 0x0001000100010001u * ((uint64_t{1} << kBits) - 1);
  static constexpr uint64_t kPair = 0x0000000100000001u * ((uint64_t{1} << (2 * kBits)) - 1);
  static constexpr uint64_t kFour = (uint64_t{1} << (4 * kBits)) - 1;
};

template <int kBits>
uint64_t Fold(uint64_t x) {
  using M = Masks<kBits>;
  x = (x & M::kCode) | ((x >> (8 - kBits)) & (M::kCode << kBits));
  x = (x & M::kPair) | ((x >> (16 - 2 * kBits)) & (M::kPair << (2 * kBits)));
  return (x & M::kFour) | ((x >> (32 - 4 * kBits)) & (M::kFour << (4 * kBits)));
}

template <int kBits>
uint64_t Unfold(uint64_t x) {
  using M = Masks<kBits>;
  x = (x & M::kFour) | ((x & (M::kFour << (4 * kBits))) << (32 - 4 * kBits));
  x = (x & M::kPair) | ((x & (M::kPair << (2 * kBits))) << (16 - 2 * kBits));
  return (x & M::kCode) | ((x & (M::kCode << kBits)) << (8 - kBits));
}

// Two codes of 4 bits are a byte: simple enough for the compiler's own vectors.
size_t PackPairs(std::span<const uint8_t> codes, std::byte* out) {
  const size_t pairs = codes.size() / 2;
  const uint8_t* in = codes.data();
  for (size_t i = 0; i < pairs; ++i) {
    uint16_t two = 0;
    std::memcpy(&two, in + 2 * i, 2);
    out[i] = static_cast<std::byte>((two & 0x0f) | ((two >> 4) & 0xf0));
  }
  return 2 * pairs;
}

template <int kBits>
void Pack(std::span<const uint8_t> codes, std::span<std::byte> out) {
  if constexpr (kBits == 8) {
    std::memcpy(out.data(), codes.data(), codes.size());
    return;
  }
  if constexpr (kBits == 4) {
    const size_t done = PackPairs(codes, out.data());
    codes = codes.subspan(done);
    out = out.subspan(done / 2);
  }
  const size_t groups = codes.size() / 8;
  const uint8_t* in = codes.data();
  std::byte* to = out.data();
  for (size_t g = 0; g < groups; ++g, in += 8, to += kBits) {
    uint64_t word = 0;
    std::memcpy(&word, in, 8);
    word = Fold<kBits>(word);
    std::memcpy(to, &word, kBits);
  }
  const size_t rest = codes.size() % 8;
  if (rest > 0) {
    uint64_t word = 0;
    std::memcpy(&word, in, rest);
    word = Fold<kBits>(word);
    std::memcpy(to, &word, (rest * kBits + 7) / 8);
  }
}

// Up to 8 bytes from `offset`, with zeros behind the end.
uint64_t LoadWord(std::span<const std::byte> packed, size_t offset) {
  uint64_t word = 0;
  if (offset < packed.size())
    std::memcpy(&word, packed.data() + offset, std::min<size_t>(8, packed.size() - offset));
  return word;
}

template <int kBits>
void Unpack(std::span<const std::byte> packed, uint64_t first, std::span<uint8_t> codes) {
  if constexpr (kBits == 8) {
    std::memcpy(codes.data(), packed.data() + first, codes.size());
    return;
  }
  size_t i = 0;
  // One at a time up to a whole byte, then eight at a time.
  const auto one = [&](uint64_t element) {
    const uint64_t bit = element * kBits;
    const uint64_t word = LoadWord(packed, static_cast<size_t>(bit / 8)) >> (bit % 8);
    return static_cast<uint8_t>(word & ((1u << kBits) - 1));
  };
  for (; i < codes.size() && (first + i) % 8 != 0; ++i) codes[i] = one(first + i);
  for (; i + 8 <= codes.size(); i += 8) {
    const uint64_t word =
        Unfold<kBits>(LoadWord(packed, static_cast<size_t>((first + i) / 8 * kBits)));
    std::memcpy(codes.data() + i, &word, 8);
  }
  for (; i < codes.size(); ++i) codes[i] = one(first + i);
}

// Eight codes are a number of `kBits` bytes in either order of bits: with code 0 in its low bits
// and the low byte first, or with code 0 in its high bits and the high byte first. So the codes of
// the number change places, and its bytes do.
template <int kBits>
uint64_t ReverseCodes(uint64_t x) {
  constexpr uint64_t kFour = (uint64_t{1} << (4 * kBits)) - 1;  // the low one of two
  constexpr uint64_t kPairs = kFour / ((uint64_t{1} << (2 * kBits)) + 1) * (kFour + 2);
  constexpr uint64_t kCodes = kFour / ((uint64_t{1} << kBits) + 1) * (kFour + 2);
  x = ((x & kFour) << (4 * kBits)) | ((x >> (4 * kBits)) & kFour);
  x = ((x & kPairs) << (2 * kBits)) | ((x >> (2 * kBits)) & kPairs);
  return ((x & kCodes) << kBits) | ((x >> kBits) & kCodes);
}

template <int kBits>
uint64_t ReverseBytes(uint64_t x) {
  return __builtin_bswap64(x) >> (64 - 8 * kBits);
}

// Where no code is in two bytes every byte is a number of its own: eight of them are taken at once.
template <int kBits>
uint64_t ReverseCodesOfBytes(uint64_t x) {
  if (kBits <= 4) x = ((x & 0x0f0f0f0f0f0f0f0fu) << 4) | ((x >> 4) & 0x0f0f0f0f0f0f0f0fu);
  if (kBits <= 2) x = ((x & 0x3333333333333333u) << 2) | ((x >> 2) & 0x3333333333333333u);
  if (kBits <= 1) x = ((x & 0x5555555555555555u) << 1) | ((x >> 1) & 0x5555555555555555u);
  return x;
}

template <int kBits, bool kToHighFirst>
void ChangeOrder(std::span<const std::byte> in, size_t count, std::span<std::byte> out) {
  constexpr bool kInBytes = 8 % kBits == 0;
  const auto change = [](uint64_t x) {
    if constexpr (kInBytes)
      return ReverseCodesOfBytes<kBits>(x);
    else
      return kToHighFirst ? ReverseBytes<kBits>(ReverseCodes<kBits>(x))
                          : ReverseCodes<kBits>(ReverseBytes<kBits>(x));
  };
  size_t at = 0;
  const size_t whole = count / 8 * kBits;
  // Words that reach beyond their group are faster; what they write there is written again.
  constexpr size_t kStep = kInBytes ? 8 : kBits;
  for (; at + kStep <= whole && at + 8 <= in.size(); at += kStep) {
    uint64_t word = 0;
    std::memcpy(&word, in.data() + at, 8);
    word = change(word);
    std::memcpy(out.data() + at, &word, 8);
  }
  for (; at < in.size(); at += kBits) {
    const size_t codes = at < whole ? 8 : count % 8;
    const size_t bytes = std::min<size_t>(kBits, in.size() - at);
    const uint64_t used = ~uint64_t{0} >> (64 - codes * kBits);  // of the low-first number
    uint64_t word = 0;
    std::memcpy(&word, in.data() + at, bytes);
    word = kToHighFirst ? change(word & used) : change(word) & used;
    std::memcpy(out.data() + at, &word, bytes);
  }
}

size_t PackedSize(size_t count, int bits) { return (count * static_cast<size_t>(bits) + 7) / 8; }

template <bool kToHighFirst>
void ChangeOrder(std::span<const std::byte> in, int bits, size_t count, std::span<std::byte> out) {
  CMLC_CHECK(in.size() == PackedSize(count, bits) && out.size() == in.size());
  ForWidth(bits, [&]<int kBits>() { ChangeOrder<kBits, kToHighFirst>(in, count, out); });
}

}  // namespace

void PackBits(std::span<const uint8_t> codes, int bits, std::span<std::byte> out) {
  CMLC_CHECK(out.size() == PackedSize(codes.size(), bits));
  if (codes.empty()) return;
  ForWidth(bits, [&]<int kBits>() { Pack<kBits>(codes, out); });
}

void UnpackBits(std::span<const std::byte> packed, int bits, uint64_t first,
                std::span<uint8_t> codes) {
  CMLC_CHECK((first + codes.size()) * static_cast<uint64_t>(bits) <= packed.size() * 8);
  if (codes.empty()) return;
  ForWidth(bits, [&]<int kBits>() { Unpack<kBits>(packed, first, codes); });
}

void LowToHighFirst(std::span<const std::byte> low_first, int bits, size_t count,
                    std::span<std::byte> high_first) {
  ChangeOrder<true>(low_first, bits, count, high_first);
}

void HighToLowFirst(std::span<const std::byte> high_first, int bits, size_t count,
                    std::span<std::byte> low_first) {
  ChangeOrder<false>(high_first, bits, count, low_first);
}

uint64_t CountOnes(std::span<const std::byte> packed, uint64_t first, uint64_t count) {
  uint64_t ones = 0;
  uint64_t bit = first;
  const uint64_t end = first + count;
  const auto byte_at = [&](uint64_t at) { return std::to_integer<unsigned>(packed[at / 8]); };
  for (; bit < end && bit % 64 != 0; ++bit) ones += (byte_at(bit) >> (bit % 8)) & 1u;
  for (; bit + 64 <= end; bit += 64)
    ones += static_cast<uint64_t>(std::popcount(LoadWord(packed, static_cast<size_t>(bit / 8))));
  for (; bit < end; ++bit) ones += (byte_at(bit) >> (bit % 8)) & 1u;
  return ones;
}

}  // namespace cmlc::numeric
