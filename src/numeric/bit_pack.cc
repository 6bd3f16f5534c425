// Eight codes are one 64-bit word with a code in each byte. Three folds bring them together: two
// neighbours at a time, then pairs, then fours. That needs no special instruction, is the same for
// every width, and takes about a cycle a code.
#include "numeric/bit_pack.h"

#include <bit>
#include <cstring>

#include "base/check.h"

namespace cmlc::numeric {
namespace {

constexpr uint64_t kLow1 = 0x00ff00ff00ff00ffu;  // of each two bytes the lower
constexpr uint64_t kLow2 = 0x0000ffff0000ffffu;
constexpr uint64_t kLow4 = 0x00000000ffffffffu;

// The two halves of each step are masked apart: 6-bit codes would overlap.
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

}  // namespace

void PackBits(std::span<const uint8_t> codes, int bits, std::span<std::byte> out) {
  CMLC_CHECK(out.size() == (codes.size() * static_cast<size_t>(bits) + 7) / 8);
  if (codes.empty()) return;
  switch (bits) {
    case 1:
      return Pack<1>(codes, out);
    case 2:
      return Pack<2>(codes, out);
    case 3:
      return Pack<3>(codes, out);
    case 4:
      return Pack<4>(codes, out);
    case 6:
      return Pack<6>(codes, out);
    case 8:
      std::memcpy(out.data(), codes.data(), codes.size());
      return;
    default:
      CMLC_CHECK(false);
  }
}

void UnpackBits(std::span<const std::byte> packed, int bits, uint64_t first,
                std::span<uint8_t> codes) {
  CMLC_CHECK((first + codes.size()) * static_cast<uint64_t>(bits) <= packed.size() * 8);
  if (codes.empty()) return;
  switch (bits) {
    case 1:
      return Unpack<1>(packed, first, codes);
    case 2:
      return Unpack<2>(packed, first, codes);
    case 3:
      return Unpack<3>(packed, first, codes);
    case 4:
      return Unpack<4>(packed, first, codes);
    case 6:
      return Unpack<6>(packed, first, codes);
    case 8:
      std::memcpy(codes.data(), packed.data() + first, codes.size());
      return;
    default:
      CMLC_CHECK(false);
  }
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
