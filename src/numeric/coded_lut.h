// LUTs whose entries are stored as small integer codes, entry = scale * (code - zero point): an
// int8 table is half as large as an fp16 one, and looking up integers suits systems that compute
// with them.
//
// Rounding the entries of the best fp16 table to codes is not the best that codes can do: one entry
// far out makes the grid coarse for all others. So the scale is searched, and for each scale the
// codes are improved on the values themselves: every value goes to its nearest entry, every entry
// to the code nearest to the mean of its values, until nothing changes.
#ifndef CMLC_NUMERIC_CODED_LUT_H_
#define CMLC_NUMERIC_CODED_LUT_H_

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "cmlc/status.h"
#include "numeric/linear.h"
#include "numeric/lut_fit.h"
#include "numeric/points.h"
#include "numeric/vector_kmeans.h"

namespace cmlc::numeric {

struct CodedLut {
  LinearParameters parameters;
  std::vector<int> codes;      // ascending, distinct; of vectors: see FitCodedVectors
  std::vector<float> entries;  // what they stand for, rounded to the type of the scale
};

struct CodeType {
  int bits = 8;  // 4 or 8
  bool is_signed = true;
  EntryType scale_type = EntryType::kHalf;
  int low() const { return is_signed ? -(1 << (bits - 1)) : 0; }
  int high() const { return is_signed ? (1 << (bits - 1)) - 1 : (1 << bits) - 1; }
};

// At most `most` entries for the points. `start` are good entries without the constraint,
// ascending. Signed codes have the zero point 0; of unsigned ones it is chosen with the scale. If
// `fixed` is given, scale and zero point are those.
CodedLut FitCodedLut(const Points& points, std::span<const float> start, size_t most,
                     const CodeType& type, const std::optional<LinearParameters>& fixed = {});

// The same for entries that are vectors of `dim` elements. `start` holds good ones without the
// constraint, at most 256. There are as many codes and entries as elements in `start`, in the same
// order; some vectors may be equal. Fails only as the source does.
Result<CodedLut> FitCodedVectors(const VectorSource& source, size_t dim,
                                 std::span<const float> start, const CodeType& type,
                                 ThreadPool& pool);

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_CODED_LUT_H_
