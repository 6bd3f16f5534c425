// k-means is exact for both types.
//
// fp16: the histogram of bit patterns is all there is to know, whatever the number of values.
//
// fp32, up to 64 Ki values: sort them. Beyond that sorting would dominate everything, so values are
// first counted in bins of 10 mantissa bits (points.h), which keep exact sums. The optimum for bins
// differs from the true one only where a cluster's boundary falls inside a bin. So the bins around
// the boundaries are opened: a second pass collects their values one by one, and the problem is
// solved again with those values as points and all other bins as before. If a boundary has moved
// out of the opened bins, more are opened and it is done again. What remains is the case of a bin
// far from all boundaries that an optimal clustering would split, which the convex cost rules out
// unless the coarse solution was wrong by whole bins.
#include "numeric/fit_values.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <mutex>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "numeric/half.h"
#include "numeric/histogram.h"
#include "numeric/lut.h"
#include "numeric/select.h"

namespace cmlc::numeric {
namespace {

// Below these counts sorting beats clearing and scanning a histogram.
constexpr uint64_t kCountHalvesFrom = 12 * 1024;
constexpr uint64_t kCountFloatsFrom = 64 * 1024;

// Bins opened on either side of a boundary, rounds of opening, and values that may be collected.
// With more values than that in so few bins the tensor is so large that a boundary inside a bin
// costs less than the rounding of an entry.
constexpr double kNegligible = 1e-9;  // of the squared error
constexpr uint32_t kOpenBeside = 3;
constexpr int kMostRounds = 4;
constexpr uint64_t kMostCollected = uint64_t{1} << 20;

// With fewer bins than this for each entry bins are too coarse to start from.
constexpr size_t kLeastBinsPerEntry = 8;
// Up to this many values are sorted then.
constexpr uint64_t kMostSorted = uint64_t{1} << 22;

constexpr size_t kMostDistinct = 256;

template <typename T>
struct TypeOf;
template <>
struct TypeOf<uint16_t> {
  using Counts = HalfCounts;
  static constexpr EntryType kEntry = EntryType::kHalf;
};
template <>
struct TypeOf<float> {
  using Counts = FloatCounts;
  static constexpr EntryType kEntry = EntryType::kFloat;
};

}  // namespace

struct FitWorkspace::Impl {
  KMeans1d kmeans;
  Points points;
  Points refined;
  SortScratch sort;
  std::vector<float> floats;
  std::vector<uint8_t> open_bins;
  std::unique_ptr<HalfCounts> half_counts;
  std::unique_ptr<FloatCounts> float_counts;

  template <typename Counts>
  Counts& Cleared(std::unique_ptr<Counts>& counts) {
    if (counts)
      counts->Clear();
    else
      counts = std::make_unique<Counts>();
    return *counts;
  }
  HalfCounts& ClearedCounts(uint16_t) { return Cleared(half_counts); }
  FloatCounts& ClearedCounts(float) { return Cleared(float_counts); }
};

FitWorkspace::FitWorkspace() : impl_(std::make_unique<Impl>()) {}
FitWorkspace::~FitWorkspace() = default;

namespace {

using Workspace = FitWorkspace::Impl;

// Calls visit for all pieces, several at a time; the first error wins.
template <typename T>
Status VisitAll(const ValueSource<T>& source, ThreadPool& pool,
                const std::function<void(size_t piece, int worker, uint64_t first,
                                         std::span<const T> values)>& visit) {
  std::mutex mutex;
  Status status;
  pool.For(source.pieces(), [&](size_t piece, int worker) {
    Status step = source.Visit(piece, [&](uint64_t first, std::span<const T> values) {
      visit(piece, worker, first, values);
    });
    if (step.ok()) return;
    const std::lock_guard lock(mutex);
    if (status.ok()) status = step;
  });
  return status;
}

// Counts all values; integer counts add up to the same in any order.
template <typename T>
Result<typename TypeOf<T>::Counts*> CountAll(const ValueSource<T>& source, ThreadPool& pool,
                                             Workspace& workspace) {
  using Counts = typename TypeOf<T>::Counts;
  Counts& total = workspace.ClearedCounts(T{});
  if (source.pieces() <= 1) {
    CMLC_RETURN_IF_ERROR(
        VisitAll<T>(source, pool, [&](size_t, int, uint64_t, std::span<const T> values) {
          total.Add(values);
        }));
    return &total;
  }
  std::vector<std::unique_ptr<Counts>> parts(static_cast<size_t>(pool.threads()));
  CMLC_RETURN_IF_ERROR(
      VisitAll<T>(source, pool, [&](size_t, int worker, uint64_t, std::span<const T> values) {
        auto& part = parts[static_cast<size_t>(worker)];
        if (!part) part = std::make_unique<Counts>();
        part->Add(values);
      }));
  for (const auto& part : parts)
    if (part) total.Merge(*part);
  return &total;
}

template <typename T>
Result<uint64_t> FindNotFinite(const ValueSource<T>& source, ThreadPool& pool) {
  std::mutex mutex;
  uint64_t found = std::numeric_limits<uint64_t>::max();
  CMLC_RETURN_IF_ERROR(
      VisitAll<T>(source, pool, [&](size_t, int, uint64_t first, std::span<const T> values) {
        const size_t index = FirstNotFinite(values);
        if (index == values.size()) return;
        const std::lock_guard lock(mutex);
        found = std::min<uint64_t>(found, first + index);
      }));
  return found;
}

// The exact points of a source by sorting all its values.
template <typename T>
Status SortAll(const ValueSource<T>& source, Workspace& workspace, Points& points) {
  if (source.pieces() == 1)
    return source.Visit(0, [&](uint64_t, std::span<const T> values) {
      PointsOf(values, workspace.sort, points);
    });
  std::vector<T> all;
  all.reserve(static_cast<size_t>(source.count()));
  for (size_t piece = 0; piece < source.pieces(); ++piece)
    CMLC_RETURN_IF_ERROR(source.Visit(piece, [&](uint64_t, std::span<const T> values) {
      all.insert(all.end(), values.begin(), values.end());
    }));
  PointsOf(std::span<const T>(all), workspace.sort, points);
  return Ok();
}

// With more runs of opened bins than this a table look-up per value is cheaper than comparisons.
constexpr size_t kMostCompared = 48;

// The values in opened bins, in an order that does not depend on threads. Nearly all values are in
// none. Few runs of bins are compared with whole vectors of values at a time; for many a table by
// the top 16 bits stays in the first-level cache. Both let a few too many through, which are then
// looked up by their exact bin.
Status Collect(const ValueSource<float>& source, const std::vector<uint8_t>& open_bins,
               ThreadPool& pool, std::vector<float>& out) {
  constexpr int kCoarseShift = 16;
  std::vector<uint8_t> candidates(size_t{1} << (32 - kCoarseShift), 0);
  std::vector<float> middles, radii;
  for (uint32_t bin = 0; bin < kFloatBins; ++bin) {
    if (open_bins[bin] == 0) continue;
    uint32_t end = bin + 1;
    while (end < kFloatBins && open_bins[end] != 0) ++end;
    const float first = FloatBinStart(bin);
    const float last = FloatOfKey((end << kFloatBinShift) - 1);
    const float middle = first / 2 + last / 2;
    middles.push_back(middle);
    // The smallest normal number covers what rounding does to subnormal values.
    radii.push_back((last / 2 - first / 2) * 1.01f + std::numeric_limits<float>::min());
    for (; bin < end; ++bin) candidates[bin >> (kCoarseShift - kFloatBinShift)] = 1;
  }
  const bool compare = middles.size() <= kMostCompared;

  std::vector<std::vector<float>> parts(source.pieces());
  CMLC_RETURN_IF_ERROR(VisitAll<float>(
      source, pool, [&](size_t piece, int, uint64_t, std::span<const float> values) {
        constexpr size_t kBlock = 2048;
        std::array<float, kBlock + kSelectSlack> block;
        std::vector<float>& part = parts[piece];
        for (size_t begin = 0; begin < values.size(); begin += kBlock) {
          const auto some = values.subspan(begin, std::min(kBlock, values.size() - begin));
          size_t taken = 0;
          if (compare) {
            taken = SelectNear(some, middles, radii, block.data());
          } else {
            for (const float value : some) {  // without a branch that could be mispredicted
              block[taken] = value;
              taken += candidates[FloatKey(value) >> kCoarseShift];
            }
          }
          for (size_t i = 0; i < taken; ++i)
            if (open_bins[FloatBin(block[i])] != 0) part.push_back(block[i]);
        }
      }));
  out.clear();
  for (const std::vector<float>& part : parts) out.insert(out.end(), part.begin(), part.end());
  return Ok();
}

uint32_t BinOf(double value) {
  const auto narrow = static_cast<float>(value);
  return FloatBin(narrow == 0.0f ? 0.0f : narrow);
}

// Exact k-means for many fp32 values, from their counts in bins (see the top of this file).
Result<std::vector<double>> RefineFloats(const ValueSource<float>& source,
                                         const FloatCounts& counts, size_t entries,
                                         ThreadPool& pool, Workspace& workspace) {
  const Points& coarse = workspace.points;
  const int k = static_cast<int>(entries);
  const auto solve = [&](const Points& points) {
    const Clustering& clustering = workspace.kmeans.Solve(points.values, points.weights, k);
    return std::pair(clustering.centroids, clustering.sse);
  };
  auto [centroids, error] = solve(coarse);
  std::vector<uint8_t>& open = workspace.open_bins;
  open.assign(kFloatBins, 0);
  const uint32_t first_bin = FloatBin(std::numeric_limits<float>::lowest());
  const uint32_t last_bin = FloatBin(std::numeric_limits<float>::max());

  for (int round = 0; round < kMostRounds; ++round) {
    bool opened = false;
    uint64_t inside = 0;
    for (size_t i = 0; i + 1 < centroids.size(); ++i) {
      const uint32_t bin = BinOf((centroids[i] + centroids[i + 1]) / 2);
      // A boundary in an opened bin is exact already. And what a closed one can cost is less than
      // its values times its width times the gap between the entries: near zero, where bins are
      // much finer than they need to be, that is nothing.
      const double width = static_cast<double>(FloatOfKey((bin + 1) << kFloatBinShift)) -
                           static_cast<double>(FloatBinStart(bin));
      const double cost =
          static_cast<double>(counts.count(bin)) * width * (centroids[i + 1] - centroids[i]);
      if (open[bin] != 0 || cost <= kNegligible * error) continue;
      opened = true;
      for (uint32_t b = std::max(bin, first_bin + kOpenBeside) - kOpenBeside;
           b <= std::min(bin + kOpenBeside, last_bin); ++b)
        open[b] = 1;
    }
    if (!opened) break;
    // Both zeros are one point, so their bins open together.
    const uint32_t zero = FloatBin(0.0f);
    open[zero] = open[zero - 1] = std::max(open[zero], open[zero - 1]);
    for (uint32_t bin = first_bin; bin <= last_bin; ++bin)
      if (open[bin] != 0) inside += counts.count(bin);
    if (inside == 0 || inside > kMostCollected) break;
    CMLC_RETURN_IF_ERROR(Collect(source, open, pool, workspace.floats));
    Points single;
    PointsOf(std::span<const float>(workspace.floats), workspace.sort, single);
    // Both lists ascend, and an opened bin's own point is replaced by its values.
    Points& merged = workspace.refined;
    merged.clear();
    size_t next = 0;
    for (size_t i = 0; i < coarse.values.size(); ++i) {
      const bool replaced = open[BinOf(coarse.values[i])] != 0;
      while (next < single.values.size() &&
             (single.values[next] < coarse.values[i] || replaced) &&
             (!replaced || BinOf(single.values[next]) <= BinOf(coarse.values[i]))) {
        merged.Add(single.values[next], single.weights[next]);
        ++next;
      }
      if (!replaced) merged.Add(coarse.values[i], coarse.weights[i]);
    }
    for (; next < single.values.size(); ++next)
      merged.Add(single.values[next], single.weights[next]);
    std::tie(centroids, error) = solve(merged);
  }
  return centroids;
}

// Whether the points are the values themselves, or bins that stand for many.
template <typename T>
Result<FitResult> Fit(const ValueSource<T>& source, const FitRequest& request, ThreadPool& pool,
                      Workspace& workspace) {
  constexpr EntryType kEntry = TypeOf<T>::kEntry;
  constexpr bool kIsHalf = std::is_same_v<T, uint16_t>;
  FitResult result;
  Points& points = workspace.points;
  typename TypeOf<T>::Counts* counts = nullptr;
  uint64_t not_finite = std::numeric_limits<uint64_t>::max();

  bool sorted = source.count() < (kIsHalf ? kCountHalvesFrom : kCountFloatsFrom);
  if (!sorted) {
    CMLC_ASSIGN_OR_RETURN(counts, CountAll<T>(source, pool, workspace));
    if (counts->not_finite() > 0) {
      CMLC_ASSIGN_OR_RETURN(not_finite, FindNotFinite<T>(source, pool));
    } else {
      counts->ToPoints(points);
      const bool too_coarse = !kIsHalf && points.values.size() < kLeastBinsPerEntry * kMostDistinct &&
                              (request.mode == FitMode::kUnique ||
                               points.values.size() < kLeastBinsPerEntry * request.entries);
      sorted = too_coarse && source.count() <= kMostSorted;
    }
  } else {
    CMLC_ASSIGN_OR_RETURN(not_finite, FindNotFinite<T>(source, pool));
  }
  if (not_finite != std::numeric_limits<uint64_t>::max()) {
    result.not_finite = not_finite;
    return result;
  }
  if (sorted) CMLC_RETURN_IF_ERROR(SortAll<T>(source, workspace, points));
  const bool exact_points = kIsHalf || sorted;

  std::vector<double> values;
  switch (request.mode) {
    case FitMode::kKMeans:
      if (exact_points) {
        values = workspace.kmeans
                     .Solve(points.values, points.weights, static_cast<int>(request.entries))
                     .centroids;
      } else if constexpr (!kIsHalf) {
        CMLC_ASSIGN_OR_RETURN(
            values, RefineFloats(source, *counts, request.entries, pool, workspace));
      }
      break;
    case FitMode::kUniform:
      result.entries.resize(request.entries);
      FitUniform(points, kEntry, result.entries);
      break;
    case FitMode::kUnique:
      if (!exact_points || points.values.size() > std::min(request.entries, kMostDistinct)) {
        // More than 4 Mi values in few bins may still be few distinct ones.
        if constexpr (!kIsHalf) {
          if (!exact_points && points.values.size() <= kMostDistinct) {
            std::vector<float> distinct;
            for (size_t piece = 0;
                 piece < source.pieces() && distinct.size() <= kMostDistinct; ++piece)
              CMLC_RETURN_IF_ERROR(
                  source.Visit(piece, [&](uint64_t, std::span<const float> floats) {
                    for (float value : floats) {
                      if (value == 0.0f) value = 0.0f;
                      const auto at = std::lower_bound(distinct.begin(), distinct.end(), value);
                      if (at != distinct.end() && *at == value) continue;
                      if (distinct.size() > kMostDistinct) return;
                      distinct.insert(at, value);
                    }
                  }));
            if (distinct.size() <= std::min(request.entries, kMostDistinct)) {
              result.entries = std::move(distinct);
              return result;
            }
          }
        }
        result.too_many = true;
        return result;
      }
      values = points.values;
      break;
    case FitMode::kGiven:
      result.entries.assign(request.given.begin(), request.given.end());
      break;
  }
  for (const double value : values) result.entries.push_back(RoundEntry(value, kEntry));
  if (kIsHalf) {
    result.signal = Signal(points);
    result.noise = LutError(points, result.entries);
  }
  return result;
}

}  // namespace

Result<FitResult> FitValues(const ValueSource<uint16_t>& source, const FitRequest& request,
                            ThreadPool& pool, FitWorkspace& workspace) {
  return Fit<uint16_t>(source, request, pool, workspace.impl());
}

Result<FitResult> FitValues(const ValueSource<float>& source, const FitRequest& request,
                            ThreadPool& pool, FitWorkspace& workspace) {
  return Fit<float>(source, request, pool, workspace.impl());
}

}  // namespace cmlc::numeric
