// Packing small integers into a stream of bits, from the low bit up: element i of `bits` bits
// takes bits [bits * i, bits * (i + 1)) of the stream, and bit k is bit k mod 8 of byte k / 8.
#ifndef CMLC_NUMERIC_BIT_PACK_H_
#define CMLC_NUMERIC_BIT_PACK_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace cmlc::numeric {

// Packs `codes` (each below 2^bits; bits is 1..8) into `out`, which has exactly
// ceil(bits * codes.size() / 8) bytes; bits that are left in the last byte become zero.
void PackBits(std::span<const uint8_t> codes, int bits, std::span<std::byte> out);

// The reverse: codes [first, first + codes.size()) of the stream `packed`, which must hold them.
void UnpackBits(std::span<const std::byte> packed, int bits, uint64_t first,
                std::span<uint8_t> codes);

// The two orders of bits. In the other one, that of NeuralNetwork files, the stream is filled from
// the high bit down: element i takes bits [bits * i, bits * (i + 1)) there too, its own high bit
// first, but bit k is bit 7 - k mod 8 of byte k / 8. Both spans have ceil(bits * count / 8) bytes
// and do not overlap; bits that belong to no code become zero, whatever they were.
void LowToHighFirst(std::span<const std::byte> low_first, int bits, size_t count,
                    std::span<std::byte> high_first);
void HighToLowFirst(std::span<const std::byte> high_first, int bits, size_t count,
                    std::span<std::byte> low_first);

// Number of ones among bits [first, first + count).
uint64_t CountOnes(std::span<const std::byte> packed, uint64_t first, uint64_t count);

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_BIT_PACK_H_
