// Reductions over axes, argmax and argmin, softmax, cumsum and band_part.
//
// Sums are in double, in an order that depends on shapes alone: along a contiguous run eight
// partial sums take turns, across rows every column has one. Only a reduction of everything is cut
// over threads, in pieces of fixed size; others give each thread results of its own.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "exec/ops/broadcast.h"
#include "exec/ops/tables.h"
#include "numeric/vector_math.h"

namespace cmlc::exec {
namespace {

// --- What is reduced, and how it is walked ------------------------------------------------------

struct Dim {
  uint64_t size;
  uint64_t stride;
};

// The dimensions that stay and those that go, with neighbours that act as one made one.
struct Walk {
  std::vector<Dim> kept, gone;
  Shape shape;              // of the result
  uint64_t results = 1;     // kept elements
  uint64_t terms = 1;       // of each
  bool contiguous = false;  // the last dimension goes
};

Walk MakeWalk(const Shape& shape, const std::vector<size_t>& axes, bool keep_dims) {
  Walk walk;
  std::vector<bool> goes(shape.size(), false);
  for (const size_t axis : axes) goes[axis] = true;
  uint64_t stride = 1;
  bool last_goes = true, any = false;
  for (size_t d = shape.size(); d-- > 0;) {
    const auto size = static_cast<uint64_t>(shape[d]);
    (goes[d] ? walk.terms : walk.results) *= size;
    if (!goes[d] || keep_dims) walk.shape.push_back(goes[d] ? 1 : shape[d]);
    std::vector<Dim>& dims = goes[d] ? walk.gone : walk.kept;
    if (size != 1) {
      if (!dims.empty() && any && last_goes == goes[d])
        dims.back().size *= size;
      else
        dims.push_back({size, stride});
      if (!any) walk.contiguous = goes[d];
      any = true;
      last_goes = goes[d];
    }
    stride *= size;
  }
  if (!any) walk.contiguous = true;  // a single element
  // From the outermost on.
  std::reverse(walk.kept.begin(), walk.kept.end());
  std::reverse(walk.gone.begin(), walk.gone.end());
  std::reverse(walk.shape.begin(), walk.shape.end());
  return walk;
}

uint64_t OffsetOf(std::span<const Dim> dims, uint64_t index) {
  uint64_t offset = 0;
  for (size_t d = dims.size(); d-- > 0;) {
    offset += index % dims[d].size * dims[d].stride;
    index /= dims[d].size;
  }
  return offset;
}

// Elements of the input as float or int64_t.
template <typename T>
class Source {
 public:
  explicit Source(const Value& value)
      : stretch_(value.shape, value.shape), reader_(value, stretch_) {}
  const T* Get(uint64_t offset, size_t count) { return reader_.Get(offset, count); }

 private:
  Stretch stretch_;
  Reader<T> reader_;
};

// --- Reducers -----------------------------------------------------------------------------------
//
// `Term` makes the first sum's addend of an element; `Join` puts two sums together; `Finish` makes
// the result of a sum of `terms` elements.

template <typename T>
struct SumOf {  // double for floats; integers wrap
  using Type = double;
};
template <>
struct SumOf<int64_t> {
  using Type = uint64_t;
};

template <typename T, typename A = typename SumOf<T>::Type>
struct Adds {
  using Input = T;
  using Total = A;
  static constexpr bool kNeedsTerms = false;
  static Total First() { return 0; }
  static Total Term(T x) { return static_cast<Total>(x); }
  static Total Join(Total a, Total b) { return a + b; }
  static double Finish(double sum, uint64_t) { return sum; }
  static int64_t Finish(uint64_t sum, uint64_t) { return static_cast<int64_t>(sum); }
};

template <typename T>
struct Sum : Adds<T> {};

template <typename T>
struct Mean : Adds<T> {
  static double Finish(double sum, uint64_t terms) { return sum / static_cast<double>(terms); }
  static int64_t Finish(uint64_t sum, uint64_t terms) {
    return terms == 0 ? 0 : static_cast<int64_t>(sum) / static_cast<int64_t>(terms);
  }
};

template <typename T>
struct SumSquare : Adds<T> {
  using A = typename Adds<T>::Total;
  static A Term(T x) { return static_cast<A>(x) * static_cast<A>(x); }
};

template <typename T>
struct L1Norm : Adds<T> {
  static typename Adds<T>::Total Term(T x) {
    return static_cast<typename Adds<T>::Total>(std::abs(x));
  }
};

template <typename T>
struct L2Norm : SumSquare<T> {
  static double Finish(double sum, uint64_t) { return std::sqrt(sum); }
  static int64_t Finish(uint64_t sum, uint64_t) {
    return static_cast<int64_t>(std::sqrt(static_cast<double>(sum)));
  }
};

// The nearest integer toward zero, of what may be infinite or no number.
int64_t Truncated(double value) {
  if (std::isnan(value)) return 0;
  return static_cast<int64_t>(std::clamp(value, -0x1p62, 0x1p62));
}

template <typename T>
struct LogSum : Adds<T> {
  static double Finish(double sum, uint64_t) { return std::log(sum); }
  static int64_t Finish(uint64_t sum, uint64_t) {
    return Truncated(std::log(static_cast<double>(static_cast<int64_t>(sum))));
  }
};

template <typename T>
struct Prod : Adds<T> {
  using A = typename Adds<T>::Total;
  static A First() { return 1; }
  static A Join(A a, A b) { return a * b; }
};

template <typename T>
struct Max {
  using Input = T;
  using Total = T;
  static constexpr bool kNeedsTerms = true;
  static T First() {
    return std::numeric_limits<T>::has_infinity ? -std::numeric_limits<T>::infinity()
                                                : std::numeric_limits<T>::min();
  }
  static T Term(T x) { return x; }
  // A NaN stays.
  static T Join(T a, T b) { return ((b > a) | (b != b)) ? b : a; }
  static T Finish(T sum, uint64_t) { return sum; }
};

template <typename T>
struct Min {
  using Input = T;
  using Total = T;
  static constexpr bool kNeedsTerms = true;
  static T First() {
    return std::numeric_limits<T>::has_infinity ? std::numeric_limits<T>::infinity()
                                                : std::numeric_limits<T>::max();
  }
  static T Term(T x) { return x; }
  static T Join(T a, T b) { return ((b < a) | (b != b)) ? b : a; }
  static T Finish(T sum, uint64_t) { return sum; }
};

// --- The walk itself ----------------------------------------------------------------------------

constexpr uint64_t kColumns = 512;           // sums of columns at a time
constexpr uint64_t kTermsGrain = 64 * 1024;  // terms for a thread, about

// Changes elements before they are reduced; nothing by default.
struct AsTheyAre {
  static constexpr bool kChanges = false;
};

// The larger or smaller of two numbers, in the one form that processors have an instruction for.
template <bool kMost>
float Extreme(float a, float b) {
  return kMost ? (b > a ? b : a) : (b < a ? b : a);
}

// The extreme of all numbers but NaN.
template <bool kMost>
float ExtremeOfRun(const float* values, size_t count, float start) {
  constexpr size_t kLanes = 16;
  std::array<float, kLanes> partial;
  partial.fill(start);
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) partial[j] = Extreme<kMost>(partial[j], values[i + j]);
  for (; i < count; ++i) partial[0] = Extreme<kMost>(partial[0], values[i]);
  for (size_t j = 1; j < kLanes; ++j) partial[0] = Extreme<kMost>(partial[0], partial[j]);
  return partial[0];
}

bool HasNan(const float* values, size_t count) {
  int found = 0;
  for (size_t i = 0; i < count; ++i) found |= values[i] != values[i] ? 1 : 0;
  return found != 0;
}

template <typename R>
typename R::Total ReduceRun(const typename R::Input* values, size_t count, typename R::Total sum) {
  if (count < 16) {
    for (size_t i = 0; i < count; ++i) sum = R::Join(sum, R::Term(values[i]));
    return sum;
  }
  if constexpr (std::is_same_v<R, Max<float>> || std::is_same_v<R, Min<float>>) {
    const float found = ExtremeOfRun<std::is_same_v<R, Max<float>>>(values, count, R::First());
    return R::Join(sum, HasNan(values, count) ? std::numeric_limits<float>::quiet_NaN() : found);
  }
  std::array<typename R::Total, 8> partial;
  partial.fill(R::First());
  size_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (size_t j = 0; j < 8; ++j) partial[j] = R::Join(partial[j], R::Term(values[i + j]));
  for (size_t j = 0; i + j < count; ++j) partial[j] = R::Join(partial[j], R::Term(values[i + j]));
  for (size_t j = 4; j > 0; j /= 2)
    for (size_t k = 0; k < j; ++k) partial[k] = R::Join(partial[k], partial[k + j]);
  return R::Join(sum, partial[0]);
}

// Sums of `terms` [first, last) of one result.
template <typename R, typename Change>
typename R::Total ReduceContiguous(Source<typename R::Input>& source, const Walk& walk,
                                   uint64_t base, uint64_t first, uint64_t last,
                                   const Change& change, uint64_t result) {
  using T = typename R::Input;
  typename R::Total sum = R::First();
  const uint64_t run = walk.gone.empty() ? 1 : walk.gone.back().size;
  const std::span<const Dim> outer(walk.gone.data(), walk.gone.empty() ? 0 : walk.gone.size() - 1);
  for (uint64_t at = first; at < last;) {
    const uint64_t inside = at % run;
    const auto count = static_cast<size_t>(std::min({kPiece, run - inside, last - at}));
    const T* values = source.Get(base + OffsetOf(outer, at / run) + inside, count);
    if constexpr (Change::kChanges) {
      T buffer[kPiece];
      change(values, result, /*step=*/0, count, buffer);
      sum = ReduceRun<R>(buffer, count, sum);
    } else {
      sum = ReduceRun<R>(values, count, sum);
    }
    at += count;
  }
  return sum;
}

template <typename R, typename Out, typename Change>
Status Walked(OpContext& op, const Value& x, const Walk& walk, const Change& change, Out* out) {
  using T = typename R::Input;
  if (walk.results == 0) return Ok();
  if (R::kNeedsTerms && walk.terms == 0)
    return op.Bad(fmt::format("x: has nothing to reduce, {}", ToString(x)));
  if (walk.contiguous || walk.terms == 0) {
    if (walk.results == 1 && walk.terms > kTermsGrain) {
      std::vector<typename R::Total> sums((walk.terms + kTermsGrain - 1) / kTermsGrain, R::First());
      op.ForRanges(walk.terms, kTermsGrain, [&](uint64_t begin, uint64_t end) {
        Source<T> source(x);
        sums[begin / kTermsGrain] = ReduceContiguous<R>(source, walk, 0, begin, end, change, 0);
      });
      typename R::Total sum = R::First();
      for (const typename R::Total piece : sums) sum = R::Join(sum, piece);
      out[0] = static_cast<Out>(R::Finish(sum, walk.terms));
      return Ok();
    }
    const uint64_t grain = std::max<uint64_t>(1, kTermsGrain / std::max<uint64_t>(1, walk.terms));
    op.ForRanges(walk.results, grain, [&](uint64_t begin, uint64_t end) {
      Source<T> source(x);
      for (uint64_t i = begin; i < end; ++i)
        out[i] = static_cast<Out>(R::Finish(
            ReduceContiguous<R>(source, walk, OffsetOf(walk.kept, i), 0, walk.terms, change, i),
            walk.terms));
    });
    return Ok();
  }
  // The last kept dimension is contiguous: rows of it are added up.
  const uint64_t width = walk.kept.back().size;
  const std::span<const Dim> outer(walk.kept.data(), walk.kept.size() - 1);
  const uint64_t blocks = (width + kColumns - 1) / kColumns;
  const uint64_t work = std::min(width, kColumns) * walk.terms;
  const uint64_t grain = std::max<uint64_t>(1, kTermsGrain / std::max<uint64_t>(1, work));
  op.ForRanges(walk.results / width * blocks, grain, [&](uint64_t begin, uint64_t end) {
    Source<T> source(x);
    typename R::Total sums[kColumns];
    for (uint64_t block = begin; block < end; ++block) {
      const uint64_t row = block / blocks, column = block % blocks * kColumns;
      const auto count = static_cast<size_t>(std::min(kColumns, width - column));
      const uint64_t base = OffsetOf(outer, row) + column;
      std::fill(sums, sums + count, R::First());
      for (uint64_t term = 0; term < walk.terms; ++term) {
        const T* values = source.Get(base + OffsetOf(walk.gone, term), count);
        if constexpr (Change::kChanges) {
          T buffer[kColumns];
          change(values, row * width + column, /*step=*/1, count, buffer);
          for (size_t i = 0; i < count; ++i) sums[i] = R::Join(sums[i], R::Term(buffer[i]));
        } else {
          for (size_t i = 0; i < count; ++i) sums[i] = R::Join(sums[i], R::Term(values[i]));
        }
      }
      for (size_t i = 0; i < count; ++i)
        out[row * width + column + i] = static_cast<Out>(R::Finish(sums[i], walk.terms));
    }
  });
  return Ok();
}

struct Reduction {
  Value x;
  Walk walk;
};

Result<Reduction> ReadReduction(OpContext& op) {
  Reduction reduction;
  CMLC_ASSIGN_OR_RETURN(reduction.x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const std::vector<size_t> axes, op.Axes("axes", reduction.x.shape.size()));
  CMLC_ASSIGN_OR_RETURN(const bool keep_dims, op.Bool("keep_dims", false));
  if (reduction.x.dtype == DataType::kBool)
    return op.Bad("x: expected numbers, got " + ToString(reduction.x));
  reduction.walk = MakeWalk(reduction.x.shape, axes, keep_dims);
  return reduction;
}

// Integers as a result of type `dtype`.
Status SetNarrowed(OpContext& op, const std::vector<int64_t>& values, const Shape& shape,
                   DataType dtype) {
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(dtype, shape));
  StoreInts(values.data(), values.size(), out, 0);
  op.Set(std::move(out));
  return Ok();
}

template <template <typename> typename R>
Status Reduce(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Reduction reduction, ReadReduction(op));
  const auto& [x, walk] = reduction;
  if (IsFloat(x.dtype)) {
    CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(x.dtype, walk.shape));
    CMLC_RETURN_IF_ERROR(Walked<R<float>>(op, x, walk, AsTheyAre(), out.values.data()));
    op.Finish(std::move(out));
    return Ok();
  }
  std::vector<int64_t> results(static_cast<size_t>(walk.results));
  CMLC_RETURN_IF_ERROR(Walked<R<int64_t>>(op, x, walk, AsTheyAre(), results.data()));
  return SetNarrowed(op, results, walk.shape, x.dtype);
}

// e^(x - most), with the largest of the terms of each result, so that nothing overflows.
struct ExpBelow {
  static constexpr bool kChanges = true;
  const float* most;
  void operator()(const float* values, uint64_t result, uint64_t step, size_t count,
                  float* out) const {
    for (size_t i = 0; i < count; ++i) out[i] = values[i] - most[result + step * i];
    numeric::Exp(out, count);
  }
};

Status LogSumExp(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(Reduction reduction, ReadReduction(op));
  auto& [x, walk] = reduction;
  const DataType dtype = x.dtype;
  if (!IsFloat(dtype)) {
    CMLC_ASSIGN_OR_RETURN(const FloatView floats, op.Floats(x));
    CMLC_ASSIGN_OR_RETURN(Value copy, op.Make(DataType::kFloat32, x.shape));
    std::copy(floats.span().begin(), floats.span().end(), OpContext::Data<float>(copy));
    x = std::move(copy);
  }
  std::vector<float> most(static_cast<size_t>(walk.results));
  CMLC_RETURN_IF_ERROR(Walked<Max<float>>(op, x, walk, AsTheyAre(), most.data()));
  // An infinite one would give inf - inf; without it the exponentials are 0 or infinite by
  // themselves.
  for (float& value : most)
    if (std::isinf(value)) value = 0;
  std::vector<double> sums(most.size());
  CMLC_RETURN_IF_ERROR(Walked<Sum<float>>(op, x, walk, ExpBelow{most.data()}, sums.data()));
  if (!IsFloat(dtype)) {
    std::vector<int64_t> results(most.size());
    for (size_t i = 0; i < results.size(); ++i)
      results[i] = Truncated(std::log(sums[i]) + static_cast<double>(most[i]));
    return SetNarrowed(op, results, walk.shape, dtype);
  }
  CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(dtype, walk.shape));
  for (size_t i = 0; i < sums.size(); ++i)
    out.values[i] = static_cast<float>(std::log(sums[i]) + static_cast<double>(most[i]));
  op.Finish(std::move(out));
  return Ok();
}

// --- argmax and argmin --------------------------------------------------------------------------

// The first of equal ones; the first NaN before all numbers.
template <bool kMost, typename T>
void FirstBest(Source<T>& source, uint64_t base, uint64_t terms, uint64_t stride, size_t count,
               int64_t* out) {
  T best[kColumns];
  for (uint64_t term = 0; term < terms; ++term) {
    const T* values = source.Get(base + term * stride, count);
    for (size_t i = 0; i < count; ++i) {
      const bool better = kMost ? values[i] > best[i] : values[i] < best[i];
      if (term == 0 || (best[i] == best[i] && (better || values[i] != values[i]))) {
        best[i] = values[i];
        out[i] = static_cast<int64_t>(term);
      }
    }
  }
}

template <bool kMost, typename T>
int64_t FirstBestOfRun(Source<T>& source, uint64_t base, uint64_t terms) {
  T best = 0;
  int64_t found = -1;
  for (uint64_t at = 0; at < terms; at += kPiece) {
    const auto count = static_cast<size_t>(std::min(kPiece, terms - at));
    const T* values = source.Get(base + at, count);
    for (size_t i = 0; i < count; ++i) {
      const bool better = kMost ? values[i] > best : values[i] < best;
      if (found < 0 || better || values[i] != values[i]) {
        best = values[i];
        found = static_cast<int64_t>(at + i);
        if (best != best) return found;
      }
    }
  }
  return found;
}

template <bool kMost, typename T>
void ArgBest(OpContext& op, const Value& x, uint64_t terms, uint64_t inner, int64_t* out) {
  if (inner == 1) {
    op.ForRanges(x.element_count() / terms, std::max<uint64_t>(1, kTermsGrain / terms),
                 [&](uint64_t begin, uint64_t end) {
                   Source<T> source(x);
                   for (uint64_t i = begin; i < end; ++i)
                     out[i] = FirstBestOfRun<kMost, T>(source, i * terms, terms);
                 });
    return;
  }
  const uint64_t blocks = (inner + kColumns - 1) / kColumns;
  const uint64_t outer = x.element_count() / terms / inner;
  const uint64_t work = std::min(inner, kColumns) * terms;
  op.ForRanges(outer * blocks, std::max<uint64_t>(1, kTermsGrain / work),
               [&](uint64_t begin, uint64_t end) {
                 Source<T> source(x);
                 for (uint64_t block = begin; block < end; ++block) {
                   const uint64_t row = block / blocks, column = block % blocks * kColumns;
                   const auto count = static_cast<size_t>(std::min(kColumns, inner - column));
                   FirstBest<kMost, T>(source, row * terms * inner + column, terms, inner, count,
                                       out + row * inner + column);
                 }
               });
}

template <bool kMost>
Status Arg(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", x.shape.size(), -1));
  CMLC_ASSIGN_OR_RETURN(const bool keep_dims, op.Bool("keep_dims", false));
  CMLC_ASSIGN_OR_RETURN(const std::string name, op.String("output_dtype", "int32"));
  if (name != "int32" && name != "uint16")
    return op.Bad(fmt::format("output_dtype: expected int32 or uint16, got '{}'", name));
  const auto terms = static_cast<uint64_t>(x.shape[axis]);
  if (name == "uint16" && terms > 65536)
    return op.Bad(fmt::format("output_dtype: uint16 has no room for indices up to {}", terms - 1));
  uint64_t inner = 1;
  for (size_t d = axis + 1; d < x.shape.size(); ++d) inner *= static_cast<uint64_t>(x.shape[d]);
  Shape shape = x.shape;
  if (keep_dims)
    shape[axis] = 1;
  else
    shape.erase(shape.begin() + static_cast<std::ptrdiff_t>(axis));
  const std::optional<uint64_t> count = ElementCount(shape);
  if (terms == 0 && *count != 0) return op.Bad("x: has nothing to choose from, " + ToString(x));
  std::vector<int64_t> results(static_cast<size_t>(*count));
  if (!results.empty()) {
    if (IsFloat(x.dtype))
      ArgBest<kMost, float>(op, x, terms, inner, results.data());
    else
      ArgBest<kMost, int64_t>(op, x, terms, inner, results.data());
  }
  return SetNarrowed(op, results, shape, name == "int32" ? DataType::kInt32 : DataType::kUInt16);
}

// --- softmax ------------------------------------------------------------------------------------

// Softmax of `columns` vectors that lie interleaved: element t of vector c is values[t * columns +
// c]. Gives how many of them hold nothing but -infinity.
uint64_t SoftmaxColumns(float* values, size_t terms, size_t columns, float* most, float* sums) {
  std::fill(most, most + columns, -std::numeric_limits<float>::infinity());
  for (size_t t = 0; t < terms; ++t)
    for (size_t c = 0; c < columns; ++c)
      most[c] = Max<float>::Join(most[c], values[t * columns + c]);
  for (size_t t = 0; t < terms; ++t)
    for (size_t c = 0; c < columns; ++c) values[t * columns + c] -= most[c];
  numeric::Exp(values, terms * columns);
  std::fill(sums, sums + columns, 0.0f);
  for (size_t t = 0; t < terms; ++t)
    for (size_t c = 0; c < columns; ++c) sums[c] += values[t * columns + c];
  for (size_t t = 0; t < terms; ++t)
    for (size_t c = 0; c < columns; ++c) values[t * columns + c] /= sums[c];
  uint64_t masked = 0;
  for (size_t c = 0; c < columns; ++c)
    masked += most[c] == -std::numeric_limits<float>::infinity() ? 1 : 0;
  return masked;
}

// The same for vectors that lie one after the other, each with sixteen partial sums that take
// turns.
uint64_t SoftmaxRuns(float* values, size_t terms, size_t runs) {
  constexpr size_t kLanes = 16;
  constexpr float kLeast = -std::numeric_limits<float>::infinity();
  uint64_t masked = 0;
  for (float* run = values; run != values + terms * runs; run += terms) {
    // A NaN need not be seen here: it is in the sum.
    const float largest = ExtremeOfRun<true>(run, terms, kLeast);
    if (largest == kLeast && !HasNan(run, terms)) ++masked;
    for (size_t i = 0; i < terms; ++i) run[i] -= largest;
  }
  numeric::Exp(values, terms * runs);
  const size_t whole = terms / kLanes * kLanes;
  for (float* run = values; run != values + terms * runs; run += terms) {
    std::array<float, kLanes> sums = {};
    for (size_t i = 0; i < whole; i += kLanes)
      for (size_t j = 0; j < kLanes; ++j) sums[j] += run[i + j];
    for (size_t i = whole; i < terms; ++i) sums[i - whole] += run[i];
    for (size_t j = kLanes / 2; j > 0; j /= 2)
      for (size_t k = 0; k < j; ++k) sums[k] += sums[k + j];
    for (size_t i = 0; i < terms; ++i) run[i] /= sums[0];
  }
  return masked;
}

Status Softmax(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* checked, op.Tensor("x"));
  if (!IsFloat(checked->dtype))
    return op.Bad("x: expected fp16 or fp32, got " + ToString(*checked));
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", checked->shape.size(), -1));
  CMLC_ASSIGN_OR_RETURN(const Value x, TakeResident(op, "x"));
  CMLC_ASSIGN_OR_RETURN(Value out, ReuseOrMake(op, x, x.dtype, x.shape));
  const auto terms = static_cast<size_t>(x.shape[axis]);
  uint64_t inner = 1;
  for (size_t d = axis + 1; d < x.shape.size(); ++d) inner *= static_cast<uint64_t>(x.shape[d]);
  std::atomic<uint64_t> masked = 0;
  if (x.element_count() == 0) {
    op.Set(std::move(out));
    return Ok();
  }
  const uint64_t outer = x.element_count() / terms / inner;
  if (inner == 1) {
    // As many vectors at a time as a cache has room for.
    const uint64_t together = std::max<uint64_t>(1, 4096 / terms);
    const uint64_t grain = std::max<uint64_t>(1, kPieceGrain / (together * terms)) * together;
    op.ForRanges(outer, grain, [&](uint64_t begin, uint64_t end) {
      const bool direct = out.dtype == DataType::kFloat32;
      std::vector<float> buffer(direct ? 0 : terms * static_cast<size_t>(together));
      uint64_t found = 0;
      for (uint64_t row = begin; row < end; row += together) {
        const auto runs = static_cast<size_t>(std::min(together, end - row));
        float* values = direct ? OpContext::Data<float>(out) + row * terms : buffer.data();
        if (!direct || out.storage != x.storage)
          static_cast<void>(ReadFloats(x, row * terms, {values, runs * terms}));
        found += SoftmaxRuns(values, terms, runs);
        if (!direct) StoreFloats(values, runs * terms, out, row * terms);
      }
      masked += found;
    });
  } else {
    // Columns at a time: what fits a cache, at least 16 for vectors, never more than there are.
    const uint64_t width = std::min<uint64_t>(inner, std::clamp<uint64_t>(8192 / terms, 16, 512));
    const uint64_t blocks = (inner + width - 1) / width;
    const uint64_t grain = std::max<uint64_t>(1, kPieceGrain / (width * terms));
    op.ForRanges(outer * blocks, grain, [&](uint64_t begin, uint64_t end) {
      std::vector<float> buffer(terms * static_cast<size_t>(width));
      std::vector<float> most(static_cast<size_t>(width)), sums(static_cast<size_t>(width));
      uint64_t found = 0;
      for (uint64_t block = begin; block < end; ++block) {
        const uint64_t row = block / blocks, column = block % blocks * width;
        const auto count = static_cast<size_t>(std::min(width, inner - column));
        const uint64_t base = row * terms * inner + column;
        float* values = buffer.data();
        // Reads and writes nothing beyond this block, so the result may replace the argument.
        for (size_t t = 0; t < terms; ++t)
          static_cast<void>(ReadFloats(x, base + t * inner, {values + t * count, count}));
        found += SoftmaxColumns(values, terms, count, most.data(), sums.data());
        for (size_t t = 0; t < terms; ++t)
          StoreFloats(values + t * count, count, out, base + t * inner);
      }
      masked += found;
    });
  }
  op.CountNote("vectors of -infinity alone gave NaN", masked);
  op.Set(std::move(out));
  return Ok();
}

// --- cumsum -------------------------------------------------------------------------------------

template <typename T>
void CumulativeSums(OpContext& op, const Value& x, Value& out, uint64_t terms, uint64_t inner,
                    bool exclusive, bool reverse) {
  using A = typename SumOf<T>::Type;
  const uint64_t width = std::min(inner, kColumns);
  const uint64_t blocks = (inner + width - 1) / width;
  const uint64_t outer = x.element_count() / terms / inner;
  op.ForRanges(outer * blocks, std::max<uint64_t>(1, kTermsGrain / (width * terms)),
               [&](uint64_t begin, uint64_t end) {
                 Source<T> source(x);
                 A sums[kColumns];
                 T results[kColumns];
                 for (uint64_t block = begin; block < end; ++block) {
                   const uint64_t row = block / blocks, column = block % blocks * width;
                   const auto count = static_cast<size_t>(std::min(width, inner - column));
                   std::fill(sums, sums + count, A{0});
                   for (uint64_t step = 0; step < terms; ++step) {
                     const uint64_t term = reverse ? terms - 1 - step : step;
                     const uint64_t at = (row * terms + term) * inner + column;
                     const T* values = source.Get(at, count);
                     for (size_t i = 0; i < count; ++i) {
                       const A before = sums[i];
                       sums[i] += static_cast<A>(values[i]);
                       results[i] = static_cast<T>(exclusive ? before : sums[i]);
                     }
                     if constexpr (std::is_same_v<T, float>)
                       StoreFloats(results, count, out, at);
                     else
                       StoreInts(results, count, out, at);
                   }
                 }
               });
}

Status Cumsum(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const size_t axis, op.Axis("axis", x.shape.size(), 0));
  CMLC_ASSIGN_OR_RETURN(const bool exclusive, op.Bool("exclusive", false));
  CMLC_ASSIGN_OR_RETURN(const bool reverse, op.Bool("reverse", false));
  if (x.dtype == DataType::kBool) return op.Bad("x: expected numbers, got " + ToString(x));
  uint64_t inner = 1;
  for (size_t d = axis + 1; d < x.shape.size(); ++d) inner *= static_cast<uint64_t>(x.shape[d]);
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, x.shape));
  const auto terms = static_cast<uint64_t>(x.shape[axis]);
  if (x.element_count() != 0) {
    if (IsFloat(x.dtype))
      CumulativeSums<float>(op, x, out, terms, inner, exclusive, reverse);
    else
      CumulativeSums<int64_t>(op, x, out, terms, inner, exclusive, reverse);
  }
  op.Set(std::move(out));
  return Ok();
}

// --- band_part ----------------------------------------------------------------------------------

// What lies outside becomes zero whatever it was: it is not multiplied with zero.
Status BandPart(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value x, op.ResidentInput("x"));
  CMLC_ASSIGN_OR_RETURN(const int64_t lower, op.Int("lower", -1));
  CMLC_ASSIGN_OR_RETURN(const int64_t upper, op.Int("upper", -1));
  if (x.shape.size() < 2) return op.Bad("x: expected two dimensions or more, got " + ToString(x));
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(x.dtype, x.shape));
  const int64_t rows = x.shape[x.shape.size() - 2], columns = x.shape.back();
  const size_t width = x.dtype == DataType::kBool ? 1 : static_cast<size_t>(BitsOf(x.dtype)) / 8;
  const uint64_t all_rows = x.element_count() == 0 ? 0 : x.element_count() / columns;
  const std::byte* from = x.storage->bytes().data();
  std::byte* to = out.storage->data();
  op.ForRanges(all_rows, std::max<uint64_t>(1, kTermsGrain / std::max<int64_t>(1, columns)),
               [&](uint64_t begin, uint64_t end) {
                 for (uint64_t i = begin; i < end; ++i) {
                   const auto row = static_cast<int64_t>(i % static_cast<uint64_t>(rows));
                   const int64_t first =
                       lower < 0 ? 0 : std::clamp<int64_t>(row - lower, 0, columns);
                   const int64_t last =
                       upper < 0 ? columns : std::clamp<int64_t>(row + upper + 1, 0, columns);
                   const size_t base = i * static_cast<size_t>(columns) * width;
                   std::memset(to + base, 0, static_cast<size_t>(columns) * width);
                   if (first < last)
                     std::memcpy(to + base + static_cast<size_t>(first) * width,
                                 from + base + static_cast<size_t>(first) * width,
                                 static_cast<size_t>(last - first) * width);
                 }
               });
  op.Set(std::move(out));
  return Ok();
}

constexpr OpKernel kOps[] = {
    {"band_part", BandPart},
    {"cumsum", Cumsum},
    {"reduce_argmax", Arg<true>},
    {"reduce_argmin", Arg<false>},
    {"reduce_l1_norm", Reduce<L1Norm>},
    {"reduce_l2_norm", Reduce<L2Norm>},
    {"reduce_log_sum", Reduce<LogSum>},
    {"reduce_log_sum_exp", LogSumExp},
    {"reduce_max", Reduce<Max>},
    {"reduce_mean", Reduce<Mean>},
    {"reduce_min", Reduce<Min>},
    {"reduce_prod", Reduce<Prod>},
    {"reduce_sum", Reduce<Sum>},
    {"reduce_sum_square", Reduce<SumSquare>},
    {"softmax", Softmax},
};

}  // namespace

std::span<const OpKernel> ReductionOps() { return kOps; }

}  // namespace cmlc::exec
