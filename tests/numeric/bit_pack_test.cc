#include "numeric/bit_pack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace cmlc::numeric {
namespace {

constexpr size_t kMostLength = 200;

// One bit at a time, from the definitions.
std::vector<std::byte> Packed(const std::vector<uint8_t>& codes, int bits) {
  const auto width = static_cast<size_t>(bits);
  std::vector<std::byte> bytes((codes.size() * width + 7) / 8, std::byte{0});
  for (size_t i = 0; i < codes.size(); ++i)
    for (size_t b = 0; b < width; ++b)
      if ((codes[i] >> b & 1) != 0)
        bytes[(i * width + b) / 8] |= std::byte{1} << ((i * width + b) % 8);
  return bytes;
}

std::vector<std::byte> PackedHighFirst(const std::vector<uint8_t>& codes, int bits) {
  const auto width = static_cast<size_t>(bits);
  std::vector<std::byte> bytes((codes.size() * width + 7) / 8, std::byte{0});
  for (size_t i = 0; i < codes.size(); ++i)
    for (size_t b = 0; b < width; ++b)
      if ((codes[i] >> (width - 1 - b) & 1) != 0)
        bytes[(i * width + b) / 8] |= std::byte{0x80} >> ((i * width + b) % 8);
  return bytes;
}

std::vector<std::byte> Bytes(const std::vector<int>& values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

// Bytes of noise, so that zeros have to be written.
std::vector<std::byte> PackInto(std::vector<std::byte> out, const std::vector<uint8_t>& codes,
                                int bits) {
  PackBits(codes, bits, out);
  return out;
}

using Conversion = void (*)(std::span<const std::byte>, int, size_t, std::span<std::byte>);
std::vector<std::byte> Convert(Conversion conversion, const std::vector<std::byte>& in, int bits,
                               size_t count) {
  std::vector<std::byte> out(in.size(), std::byte{0xa5});
  conversion(in, bits, count, out);
  return out;
}

class BitPack : public testing::TestWithParam<int> {
 protected:
  int bits() const { return GetParam(); }
  std::vector<uint8_t> RandomCodes(size_t count) {
    std::vector<uint8_t> codes(count);
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random_() & ((1u << bits()) - 1));
    return codes;
  }
  std::vector<uint8_t> Largest(size_t count) const {
    return std::vector<uint8_t>(count, static_cast<uint8_t>((1u << bits()) - 1));
  }

 private:
  std::mt19937 random_{1};
};

INSTANTIATE_TEST_SUITE_P(Width, BitPack, testing::Range(1, 9),
                         [](const auto& test) { return std::to_string(test.param); });

TEST_P(BitPack, PacksEveryLength) {
  for (size_t length = 0; length <= kMostLength; ++length) {
    for (const std::vector<uint8_t>& codes : {RandomCodes(length), Largest(length)}) {
      const std::vector<std::byte> expected = Packed(codes, bits());
      ASSERT_EQ(PackInto(std::vector(expected.size(), std::byte{0xa5}), codes, bits()), expected)
          << length;
    }
  }
}

TEST_P(BitPack, LeavesPaddingZero) {
  for (size_t length = 1; length <= kMostLength; ++length) {
    const std::vector<uint8_t> codes = Largest(length);
    const size_t used = length * static_cast<size_t>(bits());
    const std::vector<std::byte> packed =
        PackInto(std::vector((used + 7) / 8, std::byte{0xff}), codes, bits());
    EXPECT_EQ(CountOnes(packed, 0, packed.size() * 8), used) << length;
  }
}

TEST_P(BitPack, UnpacksEveryLength) {
  for (size_t length = 0; length <= kMostLength; ++length) {
    const std::vector<uint8_t> codes = RandomCodes(length);
    std::vector<uint8_t> unpacked(length, 0xee);
    UnpackBits(Packed(codes, bits()), bits(), 0, unpacked);
    ASSERT_EQ(unpacked, codes);
  }
}

TEST_P(BitPack, UnpacksFromEveryStart) {
  const std::vector<uint8_t> codes = RandomCodes(kMostLength);
  const std::vector<std::byte> packed = Packed(codes, bits());
  for (size_t first = 0; first <= codes.size(); ++first) {
    for (size_t count = 0; count <= std::min<size_t>(codes.size() - first, 40); ++count) {
      std::vector<uint8_t> unpacked(count, 0xee);
      UnpackBits(packed, bits(), first, unpacked);
      ASSERT_TRUE(std::equal(unpacked.begin(), unpacked.end(),
                             codes.begin() + static_cast<std::ptrdiff_t>(first)))
          << count << " from " << first;
    }
    std::vector<uint8_t> rest(codes.size() - first);
    UnpackBits(packed, bits(), first, rest);
    ASSERT_TRUE(
        std::equal(rest.begin(), rest.end(), codes.begin() + static_cast<std::ptrdiff_t>(first)))
        << "all from " << first;
  }
}

TEST_P(BitPack, IgnoresWhatFollows) {
  // Bits behind a code belong to the next one or to nobody.
  for (size_t length = 1; length < 40; ++length) {
    const std::vector<uint8_t> zeros(length, 0);
    std::vector<std::byte> packed = Packed(zeros, bits());
    const size_t used = length * static_cast<size_t>(bits());
    for (size_t bit = used; bit < packed.size() * 8; ++bit)
      packed[bit / 8] |= std::byte{1} << (bit % 8);
    packed.insert(packed.end(), 16, std::byte{0xff});
    std::vector<uint8_t> unpacked(length, 0xee);
    UnpackBits(packed, bits(), 0, unpacked);
    ASSERT_EQ(unpacked, zeros) << length;
  }
}

TEST_P(BitPack, ChangesTheOrderOfEveryLength) {
  for (size_t length = 0; length <= kMostLength; ++length) {
    for (const std::vector<uint8_t>& codes : {RandomCodes(length), Largest(length)}) {
      const std::vector<std::byte> low_first = Packed(codes, bits());
      const std::vector<std::byte> high_first = PackedHighFirst(codes, bits());
      ASSERT_EQ(Convert(LowToHighFirst, low_first, bits(), length), high_first) << length;
      ASSERT_EQ(Convert(HighToLowFirst, high_first, bits(), length), low_first) << length;
    }
  }
}

TEST_P(BitPack, ChangesTheOrderOfCodesOnly) {
  for (size_t length = 1; length <= kMostLength; ++length) {
    const std::vector<uint8_t> zeros(length, 0);
    const std::vector<std::byte> expected = Packed(zeros, bits());
    std::vector<std::byte> low_first = expected, high_first = expected;
    for (size_t bit = length * static_cast<size_t>(bits()); bit < 8 * expected.size(); ++bit) {
      low_first[bit / 8] |= std::byte{1} << (bit % 8);
      high_first[bit / 8] |= std::byte{0x80} >> (bit % 8);
    }
    ASSERT_EQ(Convert(LowToHighFirst, low_first, bits(), length), expected) << length;
    ASSERT_EQ(Convert(HighToLowFirst, high_first, bits(), length), expected) << length;
  }
}

// The packed bytes that coremltools writes for these values.
TEST(BitPackVectors, MatchTheFormat) {
  struct Case {
    int bits;
    std::vector<uint8_t> codes;
    std::vector<int> low_first, high_first;
  };
  const std::vector<Case> cases = {
      {4, {8, 14, 0, 2, 7}, {0xe8, 0x20, 0x07}, {0x8e, 0x02, 0x70}},  // int4: -8 -2 0 2 7
      {4, {1, 2, 3, 4, 5}, {0x21, 0x43, 0x05}, {0x12, 0x34, 0x50}},
      {2, {0, 3, 2, 1, 3}, {0x6c, 0x03}, {0x39, 0xc0}},
      {1, {1, 0, 1, 0, 1, 0, 0, 0, 1, 1}, {0x15, 0x03}, {0xa8, 0xc0}},
      {3, {1, 2, 3, 4, 5, 6, 7, 0, 5}, {0xd1, 0x58, 0x1f, 0x05}, {0x29, 0xcb, 0xb8, 0xa0}},
      {6, {1, 2, 63, 32, 5}, {0x81, 0xf0, 0x83, 0x05}, {0x04, 0x2f, 0xe0, 0x14}},
  };
  for (const Case& test : cases) {
    const std::vector<std::byte> bytes = Bytes(test.low_first);
    EXPECT_EQ(PackInto(std::vector<std::byte>(bytes.size()), test.codes, test.bits), bytes);
    std::vector<uint8_t> unpacked(test.codes.size());
    UnpackBits(bytes, test.bits, 0, unpacked);
    EXPECT_EQ(unpacked, test.codes);
    const std::vector<std::byte> high_first = Bytes(test.high_first);
    EXPECT_EQ(Convert(LowToHighFirst, bytes, test.bits, test.codes.size()), high_first);
    EXPECT_EQ(Convert(HighToLowFirst, high_first, test.bits, test.codes.size()), bytes);
  }
}

TEST(BitPackDeathTest, RefusesWrongSizes) {
  std::vector<uint8_t> codes(9);
  std::vector<std::byte> packed(4);
  EXPECT_DEATH(PackBits(codes, 4, packed), "");
  EXPECT_DEATH(UnpackBits(packed, 4, 0, codes), "");
  EXPECT_DEATH(UnpackBits(packed, 4, 1, std::span(codes).first(8)), "");
  EXPECT_DEATH(PackBits(std::span(codes).first(8), 5, std::span(packed)), "");
  EXPECT_DEATH(PackBits(std::span(codes).first(4), 0, std::span(packed).first(0)), "");
  EXPECT_DEATH(PackBits(std::span(codes).first(3), 9, packed), "");
  EXPECT_DEATH(LowToHighFirst(packed, 4, 9, packed), "");
  EXPECT_DEATH(HighToLowFirst(packed, 4, 8, std::span(packed).first(3)), "");
}

TEST(CountOnes, CountsEveryRange) {
  std::mt19937 random(2);
  std::vector<std::byte> packed(30);
  for (std::byte& byte : packed) byte = static_cast<std::byte>(random());
  const size_t bits = packed.size() * 8;
  for (size_t first = 0; first <= bits; ++first) {
    uint64_t ones = 0;
    for (size_t end = first; end <= bits; ++end) {
      ASSERT_EQ(CountOnes(packed, first, end - first), ones) << first << " to " << end;
      if (end < bits) ones += std::to_integer<unsigned>(packed[end / 8] >> (end % 8)) & 1u;
    }
  }
}

TEST(CountOnes, OfNothingIsZero) { EXPECT_EQ(CountOnes({}, 0, 0), 0u); }

}  // namespace
}  // namespace cmlc::numeric
