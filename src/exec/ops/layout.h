// Moving elements between layouts.
//
// Most ops that only move data are one loop nest with a stride for each loop on either side: a
// transpose permutes the strides of its input, a slice starts somewhere and has longer ones, a
// reversed axis has a negative one and a repeated axis has none. So there is one such loop nest,
// and an op says what its strides are. Those that no strides describe (padding, nearest neighbors)
// have a table of source positions for each axis instead.
//
// Elements are moved as numbers of their width: no type is converted, and NaNs keep their bits.
#ifndef CMLC_EXEC_OPS_LAYOUT_H_
#define CMLC_EXEC_OPS_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "exec/op.h"

namespace cmlc::exec {

// Bytes of an element: 1, 2 or 4.
inline size_t WidthOf(DataType dtype) {
  return dtype == DataType::kBool ? 1 : static_cast<size_t>(BitsOf(dtype)) / 8;
}

// Calls `body` with an unsigned number that is as wide as an element.
template <typename Body>
void WithWidth(size_t width, const Body& body) {
  switch (width) {
    case 1:
      body(uint8_t{});
      break;
    case 2:
      body(uint16_t{});
      break;
    default:
      body(uint32_t{});
  }
}

inline const std::byte* Bytes(const Value& value) { return value.storage->bytes().data(); }

// Of sizes of one tensor: no overflow, except where another size is 0 and the number is not used.
int64_t Product(std::span<const int64_t> sizes);

// Elements from one position along an axis to the next, for each axis of a row-major tensor.
std::vector<int64_t> RowStrides(const Shape& shape);

// Sums and products of sizes that come from a file; nothing if they are beyond 63 bits.
std::optional<int64_t> CheckedAdd(int64_t a, int64_t b);
std::optional<int64_t> CheckedMul(int64_t a, int64_t b);

struct CopyLoop {
  int64_t size = 0;
  int64_t in = 0;   // elements from one to the next, of either sign or 0
  int64_t out = 0;  // never 0 unless size is at most 1
};

// out[sum of i * loop.out] = in[sum of i * loop.in] for all i of all loops, where `in` and `out`
// point to the first element. No two may have the same place in `out`.
void CopyStrided(OpContext& op, size_t width, const std::byte* in, std::byte* out,
                 std::vector<CopyLoop> loops);

// The element at (i, j, ...) of a row-major `out` comes from in[maps[0][i] + maps[1][j] + ...]; if
// one of these is negative, it is `fill` (in its low bytes).
void CopyMapped(OpContext& op, size_t width, const std::byte* in, std::byte* out,
                std::span<const std::vector<int64_t>> maps, uint32_t fill);

// `count` times the low bytes of `value`.
void Fill(OpContext& op, size_t width, std::byte* out, uint64_t count, uint32_t value);

// The bits of a number as an element of a type, rounded or cut to it.
uint32_t BitsOfNumber(double number, DataType dtype);

}  // namespace cmlc::exec

#endif  // CMLC_EXEC_OPS_LAYOUT_H_
