#include "exec/ops/layout.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "numeric/half.h"

namespace cmlc::exec {
namespace {

// Elements that a thread gets at a time.
constexpr int64_t kGrain = 64 * 1024;
// Side of the squares in which rows become columns: so many lines of both sides stay in the
// first-level cache.
constexpr int64_t kSquare = 16;
// So few columns (places in a block of pixels) are better walked one by one.
constexpr int64_t kFewColumns = 4;
// Runs of fewer bytes are copied faster by a loop than by a call.
constexpr int64_t kShortRun = 32;

template <typename T>
void CopyPlane(const T* in, T* out, const CopyLoop& rows, const CopyLoop& columns) {
  if (columns.in == 1 && columns.out == 1) {
    const int64_t bytes = columns.size * static_cast<int64_t>(sizeof(T));
    if (bytes >= kShortRun) {
      for (int64_t r = 0; r < rows.size; ++r)
        std::memcpy(out + r * rows.out, in + r * rows.in, static_cast<size_t>(bytes));
      return;
    }
    for (int64_t r = 0; r < rows.size; ++r)
      for (int64_t c = 0; c < columns.size; ++c) out[r * rows.out + c] = in[r * rows.in + c];
    return;
  }
  if (rows.in == 1 && columns.size <= kFewColumns) {
    for (int64_t c = 0; c < columns.size; ++c) {
      const T* from = in + c * columns.in;
      T* to = out + c * columns.out;
      for (int64_t r = 0; r < rows.size; ++r) to[r * rows.out] = from[r];
    }
    return;
  }
  if (rows.in == 1 && columns.out == 1) {
    for (int64_t r0 = 0; r0 < rows.size; r0 += kSquare) {
      const int64_t r1 = std::min(rows.size, r0 + kSquare);
      for (int64_t c0 = 0; c0 < columns.size; c0 += kSquare) {
        const int64_t c1 = std::min(columns.size, c0 + kSquare);
        for (int64_t r = r0; r < r1; ++r)
          for (int64_t c = c0; c < c1; ++c) out[r * rows.out + c] = in[r + c * columns.in];
      }
    }
    return;
  }
  for (int64_t r = 0; r < rows.size; ++r) {
    const T* from = in + r * rows.in;
    T* to = out + r * rows.out;
    if (columns.out == 1)
      for (int64_t c = 0; c < columns.size; ++c) to[c] = from[c * columns.in];
    else
      for (int64_t c = 0; c < columns.size; ++c) to[c * columns.out] = from[c * columns.in];
  }
}

// Drops loops of one, sorts the others so that `out` is walked forward, and joins those that are
// one on both sides.
void Simplify(std::vector<CopyLoop>& loops) {
  std::erase_if(loops, [](const CopyLoop& loop) { return loop.size == 1; });
  std::stable_sort(loops.begin(), loops.end(), [](const CopyLoop& a, const CopyLoop& b) {
    return std::abs(a.out) > std::abs(b.out);
  });
  std::vector<CopyLoop> joined;
  for (const CopyLoop& loop : loops) {
    if (!joined.empty() && joined.back().in == loop.in * loop.size &&
        joined.back().out == loop.out * loop.size)
      joined.back() = {joined.back().size * loop.size, loop.in, loop.out};
    else
      joined.push_back(loop);
  }
  loops = std::move(joined);
}

// The columns [begin, end) of a map that follow each other in the input too: what is not padding.
// Empty where that is too little to be worth a call.
struct Run {
  int64_t begin = 0;
  int64_t end = 0;
};

Run LongestRun(const std::vector<int64_t>& map) {
  const auto at = [&map](int64_t i) { return map[static_cast<size_t>(i)]; };
  const auto size = static_cast<int64_t>(map.size());
  Run longest;
  for (int64_t begin = 0; begin < size;) {
    int64_t end = begin + 1;
    while (end < size && at(begin) >= 0 && at(end) == at(end - 1) + 1) ++end;
    if (at(begin) >= 0 && end - begin > longest.end - longest.begin) longest = {begin, end};
    begin = end;
  }
  return longest.end - longest.begin < kShortRun ? Run{} : longest;
}

}  // namespace

int64_t Product(std::span<const int64_t> sizes) {
  uint64_t product = 1;
  for (const int64_t size : sizes) product *= static_cast<uint64_t>(size);
  return static_cast<int64_t>(product);
}

std::vector<int64_t> RowStrides(const Shape& shape) {
  std::vector<int64_t> strides(shape.size());
  uint64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    strides[d] = static_cast<int64_t>(stride);
    stride *= static_cast<uint64_t>(shape[d]);
  }
  return strides;
}

std::optional<int64_t> CheckedAdd(int64_t a, int64_t b) {
  int64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

std::optional<int64_t> CheckedMul(int64_t a, int64_t b) {
  int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

void CopyStrided(OpContext& op, size_t width, const std::byte* in, std::byte* out,
                 std::vector<CopyLoop> loops) {
  for (const CopyLoop& loop : loops)
    if (loop.size == 0) return;
  Simplify(loops);
  CopyLoop columns{1, 1, 1};
  CopyLoop rows{1, 0, 0};
  if (!loops.empty()) {
    columns = loops.back();
    loops.pop_back();
  }
  if (loops.empty() && columns.size > kGrain) {
    // One long run is cut, so that all threads have a part; what is left over is a run by itself.
    const int64_t pieces = columns.size / kGrain;
    const int64_t done = pieces * kGrain;
    const auto step = static_cast<int64_t>(width);
    CopyStrided(op, width, in + done * columns.in * step, out + done * columns.out * step,
                {{columns.size - done, columns.in, columns.out}});
    rows = {pieces, columns.in * kGrain, columns.out * kGrain};
    columns.size = kGrain;
  } else if (!loops.empty()) {
    // Rows that are neighbors in `in`, if the columns are not.
    size_t chosen = loops.size() - 1;
    if (columns.in != 1)
      for (size_t i = 0; i < loops.size(); ++i)
        if (loops[i].in == 1) chosen = i;
    rows = loops[chosen];
    loops.erase(loops.begin() + static_cast<std::ptrdiff_t>(chosen));
  }
  int64_t planes = 1;
  for (const CopyLoop& loop : loops) planes *= loop.size;
  const int64_t band = std::clamp<int64_t>(kGrain / columns.size, 1, rows.size);
  const int64_t bands = (rows.size + band - 1) / band;
  const int64_t grain = std::max<int64_t>(1, kGrain / (band * columns.size));
  WithWidth(width, [&](auto element) {
    using T = decltype(element);
    const T* from = reinterpret_cast<const T*>(in);
    T* to = reinterpret_cast<T*>(out);
    op.ForRanges(static_cast<uint64_t>(planes * bands), static_cast<uint64_t>(grain),
                 [&](uint64_t begin, uint64_t end) {
                   // Where the first plane of this range is; the next ones are counted up.
                   std::vector<int64_t> at(loops.size());
                   auto rest = static_cast<int64_t>(begin) / bands;
                   int64_t in_at = 0, out_at = 0;
                   for (size_t d = loops.size(); d-- > 0;) {
                     at[d] = rest % loops[d].size;
                     rest /= loops[d].size;
                     in_at += at[d] * loops[d].in;
                     out_at += at[d] * loops[d].out;
                   }
                   int64_t part = static_cast<int64_t>(begin) % bands;
                   for (uint64_t unit = begin; unit < end; ++unit) {
                     const int64_t first = part * band;
                     const CopyLoop some{std::min(band, rows.size - first), rows.in, rows.out};
                     CopyPlane(from + in_at + first * rows.in, to + out_at + first * rows.out, some,
                               columns);
                     if (++part < bands) continue;
                     part = 0;
                     for (size_t d = loops.size(); d-- > 0;) {
                       in_at += loops[d].in;
                       out_at += loops[d].out;
                       if (++at[d] < loops[d].size) break;
                       in_at -= loops[d].size * loops[d].in;
                       out_at -= loops[d].size * loops[d].out;
                       at[d] = 0;
                     }
                   }
                 });
  });
}

void CopyMapped(OpContext& op, size_t width, const std::byte* in, std::byte* out,
                std::span<const std::vector<int64_t>> maps, uint32_t fill) {
  const std::vector<int64_t>& columns = maps.back();
  const std::span<const std::vector<int64_t>> outer = maps.first(maps.size() - 1);
  const auto length = static_cast<int64_t>(columns.size());
  int64_t rows = 1;
  for (const std::vector<int64_t>& map : outer) rows *= static_cast<int64_t>(map.size());
  if (rows == 0 || length == 0) return;
  const int64_t grain = std::max<int64_t>(1, kGrain / length);
  WithWidth(width, [&](auto element) {
    using T = decltype(element);
    const T* from = reinterpret_cast<const T*>(in);
    T* to = reinterpret_cast<T*>(out);
    const T filler = static_cast<T>(fill);
    const Run run = LongestRun(columns);
    op.ForRanges(
        static_cast<uint64_t>(rows), static_cast<uint64_t>(grain),
        [&](uint64_t begin, uint64_t end) {
          std::vector<size_t> at(outer.size());
          uint64_t rest = begin;
          for (size_t d = outer.size(); d-- > 0;) {
            at[d] = static_cast<size_t>(rest % outer[d].size());
            rest /= outer[d].size();
          }
          constexpr int64_t kNoRow = std::numeric_limits<int64_t>::min();
          int64_t last = kNoRow;
          for (uint64_t row = begin; row < end; ++row) {
            int64_t base = 0;
            for (size_t d = 0; d < outer.size() && base >= 0; ++d)
              base = outer[d][at[d]] < 0 ? -1 : base + outer[d][at[d]];
            T* target = to + static_cast<int64_t>(row) * length;
            if (base == last) {  // rows repeat where something is enlarged or padded
              std::memcpy(target, target - length, static_cast<size_t>(length) * sizeof(T));
            } else if (base < 0) {
              std::fill(target, target + length, filler);
            } else {
              const T* source = from + base;
              const auto copy = [&](int64_t first, int64_t end_column) {
                for (int64_t c = first; c < end_column; ++c) {
                  const int64_t place = columns[static_cast<size_t>(c)];
                  target[c] = place < 0 ? filler : source[place];
                }
              };
              copy(0, run.begin);
              if (run.end != run.begin)
                std::memcpy(target + run.begin, source + columns[static_cast<size_t>(run.begin)],
                            static_cast<size_t>(run.end - run.begin) * sizeof(T));
              copy(run.end, length);
            }
            last = base;
            for (size_t d = outer.size(); d-- > 0;) {
              if (++at[d] < outer[d].size()) break;
              at[d] = 0;
            }
          }
        });
  });
}

void Fill(OpContext& op, size_t width, std::byte* out, uint64_t count, uint32_t value) {
  WithWidth(width, [&](auto element) {
    using T = decltype(element);
    T* to = reinterpret_cast<T*>(out);
    op.ForRanges(count, 4 * static_cast<uint64_t>(kGrain), [&](uint64_t begin, uint64_t end) {
      std::fill(to + begin, to + end, static_cast<T>(value));
    });
  });
}

uint32_t BitsOfNumber(double number, DataType dtype) {
  if (dtype == DataType::kFloat32) return std::bit_cast<uint32_t>(static_cast<float>(number));
  if (dtype == DataType::kFloat16) return numeric::DoubleToHalf(number);
  if (dtype == DataType::kBool) return number != 0 ? 1 : 0;
  if (std::isnan(number)) return 0;
  const bool is_signed =
      dtype == DataType::kInt8 || dtype == DataType::kInt16 || dtype == DataType::kInt32;
  const double bits = BitsOf(dtype);
  const double low = is_signed ? -std::exp2(bits - 1) : 0;
  const double high = (is_signed ? std::exp2(bits - 1) : std::exp2(bits)) - 1;
  return static_cast<uint32_t>(static_cast<int64_t>(std::clamp(std::trunc(number), low, high)));
}

}  // namespace cmlc::exec
