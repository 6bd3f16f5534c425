// Pruning: which values of a tensor stay, and packing those that do.
//
// A mask has one bit for each value. It is all that is held of a tensor, however large: values are
// read a piece or a band of rows at a time, twice or more where what goes depends on all of them.
// Magnitudes are compared as integers (the bit pattern without its sign), which order finite values
// like their absolute values; both zeros are the least. Values must be finite where squares decide;
// elsewhere infinities, and above them what is no number, are the greatest magnitudes.
//
// What a mask says depends neither on the processor's vectors nor on threads, pieces and bands.
#ifndef CMLC_NUMERIC_PRUNE_H_
#define CMLC_NUMERIC_PRUNE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "cmlc/status.h"
#include "numeric/fit_values.h"

namespace cmlc::numeric {

// A bit for each value, packed from the low bit up: 1 where the value stays. Bits behind the last
// are 0. These are the bytes of `mask` in constexpr_sparse_to_dense.
struct Mask {
  uint64_t count = 0;
  std::vector<uint8_t> bits;  // (count + 7) / 8

  // The number of values that stay.
  uint64_t ones() const;
  bool stays(uint64_t i) const { return ((bits[i / 8] >> (i % 8)) & 1) != 0; }
};

// How a tensor is seen along the pruned axis: [outer, channels, inner], row-major.
struct AxisLayout {
  uint64_t outer = 1;
  uint64_t channels = 1;
  uint64_t inner = 1;
  uint64_t count() const { return outer * channels * inner; }
};

// Reads values from anywhere in a tensor.
template <typename T>
class RangeReader {
 public:
  virtual ~RangeReader() = default;
  // Copies out.size() values, the first being the one at `begin`. Several threads may read.
  virtual Status Read(uint64_t begin, std::span<T> out) const = 0;
};

// A reader of one span in memory.
template <typename T>
class SpanReader final : public RangeReader<T> {
 public:
  explicit SpanReader(std::span<const T> values) : values_(values) {}
  Status Read(uint64_t begin, std::span<T> out) const override {
    std::copy_n(values_.begin() + static_cast<std::ptrdiff_t>(begin), out.size(), out.begin());
    return Ok();
  }

 private:
  std::span<const T> values_;
};

// Sums of squares: of all values, and of those that go. That of all values is infinite or not a
// number if, and only if, a value is.
struct PrunedSquares {
  double all = 0;
  double gone = 0;
};

// --- Single values ------------------------------------------------------------------------------

// In what follows every piece of a source starts at a multiple of 8 values. An error is one that
// the source handed up. `squares`, unless it is null, gets the squares of each piece: while values
// are at hand they cost less than SquaresOfPieces, which finds the same.

// Values with |value| <= threshold go. For fp16 the threshold is rounded to fp16 first, as
// coremltools compares in the weight's type. If it is negative or NaN, all values stay.
Result<Mask> MaskByThreshold(const ValueSource<uint16_t>& source, float threshold, ThreadPool& pool,
                             std::vector<PrunedSquares>* squares = nullptr);
Result<Mask> MaskByThreshold(const ValueSource<float>& source, float threshold, ThreadPool& pool,
                             std::vector<PrunedSquares>* squares = nullptr);

// The `remove` values of least magnitude go, of equal ones those that come first in the tensor:
// exactly so many (coremltools removes all ties at its percentile), or all if they are fewer. With
// `zeros_go` no zero stays, even if that makes more.
Result<Mask> MaskBySparsity(const ValueSource<uint16_t>& source, uint64_t remove, bool zeros_go,
                            ThreadPool& pool, std::vector<PrunedSquares>* squares = nullptr);
Result<Mask> MaskBySparsity(const ValueSource<float>& source, uint64_t remove, bool zeros_go,
                            ThreadPool& pool, std::vector<PrunedSquares>* squares = nullptr);

// Zeros go, too: what stays according to `mask` and is not zero. `mask` is of this source.
Status ClearZeros(const ValueSource<uint16_t>& source, Mask& mask, ThreadPool& pool);
Status ClearZeros(const ValueSource<float>& source, Mask& mask, ThreadPool& pool);

// --- Structures ---------------------------------------------------------------------------------

// A structure consists of consecutive channels at the same outer and inner position; each axis
// starts a new one, and its last may be shorter. A thread holds a few hundred KiB, or some 64 times
// the values of one structure if that is more.

// Blocks of `block` (at least 1) channels go or stay together. Those of least L2 norm go, of equal
// ones those that come first in (outer, block, inner) order, one after the other until the next
// would make it more than round(fraction * count) values. Squares are summed in double, channel by
// channel, so nothing overflows.
Result<Mask> MaskByBlocks(const RangeReader<uint16_t>& reader, const AxisLayout& layout,
                          uint64_t block, double fraction, ThreadPool& pool);
Result<Mask> MaskByBlocks(const RangeReader<float>& reader, const AxisLayout& layout,
                          uint64_t block, double fraction, ThreadPool& pool);

// Of every m (1 to 2^32 - 1) channels the n of least magnitude go, of equal ones those that come
// first. A short group is filled up with zeros that compete and come last, as in coremltools, so it
// may lose fewer than n. If n >= m, all go.
Result<Mask> MaskByNm(const RangeReader<uint16_t>& reader, const AxisLayout& layout, uint64_t n,
                      uint64_t m, ThreadPool& pool);
Result<Mask> MaskByNm(const RangeReader<float>& reader, const AxisLayout& layout, uint64_t n,
                      uint64_t m, ThreadPool& pool);

// --- What stays ---------------------------------------------------------------------------------

// Writes the values that stay to `out`, in order, and returns how many they are. The bit of the
// first value is the lowest one of mask_bits[0]; bits behind that of the last do not matter.
//
// `out` has room for values.size(), and what it holds behind the values that stay is unspecified.
// It may be the same memory as `values`, but may not overlap it otherwise.
size_t CompressKept(std::span<const uint8_t> values, const uint8_t* mask_bits, uint8_t* out);
size_t CompressKept(std::span<const uint16_t> values, const uint8_t* mask_bits, uint16_t* out);
size_t CompressKept(std::span<const float> values, const uint8_t* mask_bits, float* out);

// The bits are those of CompressKept.
PrunedSquares SquaresOfPruned(std::span<const uint16_t> values, const uint8_t* mask_bits);
PrunedSquares SquaresOfPruned(std::span<const float> values, const uint8_t* mask_bits);

// The same for each piece of a source that a mask is of; each piece starts at a multiple of 8.
Status SquaresOfPieces(const ValueSource<uint16_t>& source, const Mask& mask, ThreadPool& pool,
                       std::vector<PrunedSquares>& squares);
Status SquaresOfPieces(const ValueSource<float>& source, const Mask& mask, ThreadPool& pool,
                       std::vector<PrunedSquares>& squares);

// Finds places among the values that stay, so that they can be written from anywhere on. Takes a
// 1024th of the mask's memory. The mask must outlive it and not change.
class MaskIndex {
 public:
  explicit MaskIndex(const Mask& mask);
  // The number of values that stay.
  uint64_t ones() const { return before_.back(); }
  // How many of the values before `position`, which is at most mask.count, stay.
  uint64_t OnesBefore(uint64_t position) const;
  // Where the value lies that stays and has `kth` others before it that do. For ones() it is
  // mask.count, so that ranges of values that stay translate to ranges of values.
  uint64_t PositionOf(uint64_t kth) const;

 private:
  const Mask& mask_;
  std::vector<uint64_t> before_;  // ones before every kStep-th value, and all of them
};

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_PRUNE_H_
