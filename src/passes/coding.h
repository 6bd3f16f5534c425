// What passes that store a weight as codes have in common: reading its values block by block, and
// making the packed codes chunk by chunk, be it dense or sparse, small or larger than memory.
#ifndef CMLC_PASSES_CODING_H_
#define CMLC_PASSES_CODING_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "cmlc/pass.h"
#include "ir/block_grid.h"
#include "ir/encoding.h"
#include "numeric/bit_pack.h"
#include "numeric/coded_lut.h"
#include "numeric/fit_values.h"
#include "numeric/prune.h"

namespace cmlc {

// Values of a piece of a large block, and of a band of interleaved blocks that is gathered at once.
constexpr uint64_t kPieceValues = uint64_t{4} << 20;
// Values that are coded before they are packed; a multiple of 8, so every step starts a byte.
constexpr size_t kStepValues = 16 * 1024;

// Which elements of a sparse weight are there.
struct Kept {
  explicit Kept(numeric::Mask bits) : mask(std::move(bits)), index(mask) {}
  numeric::Mask mask;
  numeric::MaskIndex index;
};

// The mask of a sparse weight whose entries are no vectors; null for a dense weight.
Result<std::shared_ptr<const Kept>> KeptOf(const Weight& weight);

// Values [first, first + count) of a weight, in pieces; of a sparse one those that are there. `T`
// is uint16_t for fp16, or float.
template <typename T>
class WeightSource final : public numeric::ValueSource<T> {
 public:
  // `first` is a multiple of 8 where `kept` is given.
  WeightSource(const Weight& weight, uint64_t first, uint64_t count, const Kept* kept = nullptr)
      : weight_(weight), first_(first), count_(count), kept_(kept) {}

  uint64_t count() const override {
    if (kept_ == nullptr) return count_;
    return kept_->index.OnesBefore(first_ + count_) - kept_->index.OnesBefore(first_);
  }
  size_t pieces() const override {
    return static_cast<size_t>((count_ + kPieceValues - 1) / kPieceValues);
  }
  Status Visit(size_t piece,
               const typename numeric::ValueSource<T>::Visitor& visit) const override {
    const uint64_t begin = piece * kPieceValues;
    const uint64_t count = std::min(kPieceValues, count_ - begin);
    CMLC_ASSIGN_OR_RETURN(const TensorView view,
                          weight_.View((first_ + begin) * sizeof(T), count * sizeof(T)));
    const std::span<const T> values(reinterpret_cast<const T*>(view.bytes().data()),
                                    static_cast<size_t>(count));
    if (kept_ == nullptr) {
      visit(begin, values);
      return Ok();
    }
    std::vector<T> there(values.size());
    there.resize(numeric::CompressKept(values, kept_->mask.bits.data() + (first_ + begin) / 8,
                                       there.data()));
    visit(kept_->index.OnesBefore(first_ + begin) - kept_->index.OnesBefore(first_), there);
    return Ok();
  }

 private:
  const Weight& weight_;
  uint64_t first_;
  uint64_t count_;
  const Kept* kept_;
};

// Reads any range of a weight's values.
template <typename T>
class WeightReader final : public numeric::RangeReader<T> {
 public:
  explicit WeightReader(const Weight& weight) : weight_(weight) {}
  Status Read(uint64_t begin, std::span<T> out) const override {
    CMLC_ASSIGN_OR_RETURN(const TensorView view, weight_.View(begin * sizeof(T), out.size_bytes()));
    if (!out.empty()) std::memcpy(out.data(), view.bytes().data(), out.size_bytes());
    return Ok();
  }

 private:
  const Weight& weight_;
};

// How the blocks of a grid lie in memory.
struct BlockLayout {
  BlockLayout(const Shape& shape, const Shape& blocks);
  uint64_t block_count = 1;
  uint64_t block_size = 1;
  bool contiguous = true;  // every block is a run of neighbours, one block after the other
  // The first axis that is cut, seen as [outer, parts of `part` elements each along it]: gathering
  // some parts of every outer index gathers all of some blocks.
  uint64_t outer = 1;
  uint64_t parts = 1;
  uint64_t part = 1;
  uint64_t blocks_per_part = 1;
};

// Calls visit(first_block, blocks, values) for all blocks of a dense weight, several threads at a
// time, each call with whole blocks one after the other; within a block values keep their order.
// The values are valid during the call.
template <typename T>
Status VisitBlocks(
    const Weight& weight, const Shape& blocks, ThreadPool& pool,
    const std::function<void(uint64_t first, uint64_t count, std::span<const T> values)>& visit) {
  const BlockLayout layout(weight.shape, blocks);
  std::mutex mutex;
  Status status;
  const auto keep_error = [&](const Status& step) {
    if (step.ok()) return;
    const std::lock_guard lock(mutex);
    if (status.ok()) status = step;
  };
  if (layout.contiguous) {
    const uint64_t at_once = std::max<uint64_t>(1, kPieceValues / 16 / layout.block_size);
    const uint64_t steps = (layout.block_count + at_once - 1) / at_once;
    pool.For(static_cast<size_t>(steps), [&](size_t step, int) {
      const uint64_t first = step * at_once;
      const uint64_t count = std::min(at_once, layout.block_count - first);
      const Result<TensorView> view =
          weight.View(first * layout.block_size * sizeof(T), count * layout.block_size * sizeof(T));
      if (!view.ok()) return keep_error(view.error());
      visit(first, count,
            {reinterpret_cast<const T*>(view->bytes().data()),
             static_cast<size_t>(count * layout.block_size)});
    });
    return status;
  }
  const uint64_t part_values = layout.outer * layout.part;
  const uint64_t band = std::clamp<uint64_t>(kPieceValues / part_values, 1, layout.parts);
  const uint64_t bands = (layout.parts + band - 1) / band;
  pool.For(static_cast<size_t>(bands), [&](size_t b, int) {
    const uint64_t first_part = b * band;
    const uint64_t count = std::min(band, layout.parts - first_part);
    const uint64_t first_block = first_part * layout.blocks_per_part;
    std::vector<T> gathered(static_cast<size_t>(count * part_values));
    std::vector<size_t> filled(static_cast<size_t>(count * layout.blocks_per_part), 0);
    const BlockGrid grid(weight.shape, blocks);
    const uint64_t row = layout.parts * layout.part;
    const uint64_t width = count * layout.part;
    // Rows are viewed some at a time: a view for each would cost more than reading it.
    const uint64_t rows_at_once = std::max<uint64_t>(1, kPieceValues / row);
    for (uint64_t outer = 0; outer < layout.outer; outer += rows_at_once) {
      const uint64_t rows = std::min(rows_at_once, layout.outer - outer);
      const uint64_t begin = outer * row + first_part * layout.part;
      const uint64_t length = (rows - 1) * row + width;
      const Result<TensorView> view = weight.View(begin * sizeof(T), length * sizeof(T));
      if (!view.ok()) return keep_error(view.error());
      const T* values = reinterpret_cast<const T*>(view->bytes().data());
      for (uint64_t r = 0; r < rows; ++r) {
        for (uint64_t i = 0; i < width;) {
          uint64_t run = 0;
          const uint64_t block = grid.Locate(begin + r * row + i, run) - first_block;
          run = std::min(run, width - i);
          std::memcpy(gathered.data() + block * layout.block_size + filled[block],
                      values + r * row + i, run * sizeof(T));
          filled[block] += run;
          i += run;
        }
      }
    }
    visit(first_block, count * layout.blocks_per_part, gathered);
  });
  return status;
}

// The packed codes of a weight's elements, or of those that are there. encode(first, values, codes)
// makes one code of a byte for each of the values, the first of which is element `first`; it is
// called in order within a chunk, chunks by several threads at a time. `finish(chunk)` follows the
// last call of a chunk.
template <typename T>
TensorSource CodeSource(
    const Weight& weight, std::shared_ptr<const Kept> kept, DataType code_type,
    std::function<void(uint64_t chunk, uint64_t first, std::span<const T> values, uint8_t* codes)>
        encode) {
  const uint64_t total = kept ? kept->index.ones() : weight.element_count;
  TensorSource source{.dtype = code_type, .element_count = total, .fill = nullptr};
  source.fill = [&weight, kept = std::move(kept), total, bits = BitsOf(code_type),
                 encode = std::move(encode)](uint64_t begin, std::span<std::byte> out) -> Status {
    const uint64_t chunk = begin / TensorSource::kChunkBytes;
    const auto width = static_cast<uint64_t>(bits);
    const uint64_t first_code = begin * 8 / width;
    const auto count =
        static_cast<size_t>(std::min<uint64_t>(out.size() * 8 / width, total - first_code));
    if (kept == nullptr) {
      CMLC_ASSIGN_OR_RETURN(const TensorView view,
                            weight.View(first_code * sizeof(T), count * sizeof(T)));
      const std::span<const T> values(reinterpret_cast<const T*>(view.bytes().data()), count);
      std::vector<uint8_t> codes(bits == 8 ? 0 : std::min(kStepValues, count));
      for (size_t i = 0; i < count; i += kStepValues) {
        const std::span<const T> step = values.subspan(i, std::min(kStepValues, count - i));
        if (bits == 8) {
          encode(chunk, first_code + i, step, reinterpret_cast<uint8_t*>(out.data()) + i);
          continue;
        }
        encode(chunk, first_code + i, step, codes.data());
        numeric::PackBits(std::span(codes).first(step.size()), bits,
                          out.subspan(i * width / 8, (step.size() * width + 7) / 8));
      }
      return Ok();
    }
    // From the byte of the mask in which the first code's element is to the element of the last.
    std::vector<uint8_t> there;
    there.reserve(count + 8);
    const uint64_t start = kept->index.PositionOf(first_code) / 8 * 8;
    const uint64_t end = count == 0 ? start : kept->index.PositionOf(first_code + count - 1) + 1;
    const auto skip = static_cast<size_t>(first_code - kept->index.OnesBefore(start));
    std::vector<uint8_t> codes(kStepValues);
    for (uint64_t at = start; at < end; at += kStepValues) {
      const auto step = static_cast<size_t>(std::min<uint64_t>(kStepValues, end - at));
      CMLC_ASSIGN_OR_RETURN(const TensorView view, weight.View(at * sizeof(T), step * sizeof(T)));
      encode(chunk, at, {reinterpret_cast<const T*>(view.bytes().data()), step}, codes.data());
      const size_t before = there.size();
      there.resize(before + step);
      there.resize(before + numeric::CompressKept(std::span<const uint8_t>(codes).first(step),
                                                  kept->mask.bits.data() + at / 8,
                                                  there.data() + before));
    }
    numeric::PackBits(std::span(there).subspan(skip, count), bits, out);
    return Ok();
  };
  return source;
}

// What the chunks of codes add to the sums of squares; adding them up in order makes the totals
// independent of threads.
class ChunkQualities {
 public:
  ChunkQualities(uint64_t elements, int bits)
      : chunks_(static_cast<size_t>(*PackedBytes(elements, bits) / TensorSource::kChunkBytes + 1)) {
  }
  Quality& operator[](uint64_t chunk) { return chunks_[static_cast<size_t>(chunk)]; }
  Quality Total() const {
    Quality total;
    for (const Quality& chunk : chunks_) {
      total.signal += chunk.signal;
      total.noise += chunk.noise;
    }
    return total;
  }

 private:
  std::vector<Quality> chunks_;
};

// What to do with a weight whose axis a block, group or cluster size does not divide.
enum class Fallback { kSkip, kNearest, kPerChannel };
Fallback FallbackOf(const std::string& text);

// The divisor of `size` that is nearest to `wanted` in ratio; of two as near ones the smaller.
int64_t NearestDivisor(int64_t size, int64_t wanted);

// An axis as a number from 0, or nothing if there is none of this number.
std::optional<size_t> AxisOf(int64_t axis, size_t rank);

// Puts LUTs of integer entries into an encoding, one for each block in row-major order. Each is
// filled up to `entries` entries of `width` values with its last one. Of a signed type without
// zero points there is no offset.
void SetCodedLuts(Encoding& encoding, const Shape& blocks, std::span<const numeric::CodedLut> luts,
                  size_t entries, size_t width, DataType lut_type);

// How codes of a type are chosen for LUT entries of a weight.
numeric::CodeType CodeTypeOf(DataType lut_type, DataType weight_type);

}  // namespace cmlc

#endif  // CMLC_PASSES_CODING_H_
