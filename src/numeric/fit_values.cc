// k-means is exact for fp16, and next to exact for fp32 (float_kmeans.h says how near).
//
// fp16: the histogram of bit patterns is all there is to know, whatever the number of values.
//
// fp32, up to 64 Ki values or 1 Ki values an entry: sort them. Beyond that sorting would dominate
// everything, and histograms are what LUTs are fitted to (float_kmeans.h).
#include "numeric/fit_values.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "numeric/fine_counts.h"
#include "numeric/float_kmeans.h"
#include "numeric/half.h"
#include "numeric/lut.h"

namespace cmlc::numeric {
namespace {

// Below these counts sorting beats clearing and scanning a histogram.
constexpr uint64_t kCountHalvesFrom = 12 * 1024;
constexpr uint64_t kCountFloatsFrom = 64 * 1024;

// Sorting pays below this many values an entry, too: the fine count would have as many cells.
constexpr uint64_t kSortedPerEntry = 1024;

// With fewer bins than this for each entry bins are too coarse to start from.
constexpr size_t kLeastBinsPerEntry = 8;
// Up to this many values are sorted then.
constexpr uint64_t kMostSorted = uint64_t{1} << 22;

constexpr size_t kMostDistinct = 256;

// If rounding the entries costs more than this share of the error, they are chosen with the
// rounding in mind: 0.0004 dB.
constexpr double kRoundingMatters = 1e-4;

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
  FloatKMeans float_kmeans;
  Points points;
  SortScratch sort;
  std::unique_ptr<HalfCounts> half_counts;
  std::unique_ptr<FloatCounts> float_counts;
  std::unique_ptr<FineCounts> fine_counts;

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

// Counts all values into `total`, which is empty; integer counts add up to the same in any order.
template <typename T, typename Counts>
Status CountAll(const ValueSource<T>& source, ThreadPool& pool, Counts& total) {
  const int mine = ThreadPool::worker();
  // Of all others.
  std::vector<std::unique_ptr<Counts>> parts(static_cast<size_t>(pool.threads()));
  CMLC_RETURN_IF_ERROR(
      VisitAll<T>(source, pool, [&](int worker, uint64_t, std::span<const T> values) {
        if (worker == mine) {
          total.Add(values);
          return;
        }
        auto& part = parts[static_cast<size_t>(worker)];
        if (!part) part = std::make_unique<Counts>();
        part->Add(values);
      }));
  for (const auto& part : parts)
    if (part) total.Merge(*part);
  return Ok();
}

template <typename T>
Result<uint64_t> FindNotFinite(const ValueSource<T>& source, ThreadPool& pool) {
  std::mutex mutex;
  uint64_t found = std::numeric_limits<uint64_t>::max();
  CMLC_RETURN_IF_ERROR(
      VisitAll<T>(source, pool, [&](int, uint64_t first, std::span<const T> values) {
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
    return source.Visit(
        0, [&](uint64_t, std::span<const T> values) { PointsOf(values, workspace.sort, points); });
  std::vector<T> all;
  all.reserve(static_cast<size_t>(source.count()));
  for (size_t piece = 0; piece < source.pieces(); ++piece)
    CMLC_RETURN_IF_ERROR(source.Visit(piece, [&](uint64_t, std::span<const T> values) {
      all.insert(all.end(), values.begin(), values.end());
    }));
  PointsOf(std::span<const T>(all), workspace.sort, points);
  return Ok();
}

// k-means with few entries in one pass over the values, where fine counts are enough for it.
Result<std::optional<std::vector<double>>> FitFinely(const ValueSource<float>& source,
                                                     const FitRequest& request, ThreadPool& pool,
                                                     Workspace& workspace) {
  if (request.mode != FitMode::kKMeans || request.codes ||
      request.entries > FloatKMeans::kMostFineEntries || source.count() < kCountFloatsFrom ||
      source.count() > FineCounts::kMostValues)
    return std::optional<std::vector<double>>();
  FineCounts& counts = workspace.Cleared(workspace.fine_counts);
  CMLC_RETURN_IF_ERROR(CountAll<float>(source, pool, counts));
  return workspace.float_kmeans.Solve(counts, request.entries, workspace.kmeans);
}

template <typename T>
Result<FitResult> Fit(const ValueSource<T>& source, const FitRequest& request, ThreadPool& pool,
                      Workspace& workspace) {
  constexpr EntryType kEntry = TypeOf<T>::kEntry;
  constexpr bool kIsHalf = std::is_same_v<T, uint16_t>;
  FitResult result;
  if constexpr (!kIsHalf) {
    CMLC_ASSIGN_OR_RETURN(const std::optional<std::vector<double>> centroids,
                          FitFinely(source, request, pool, workspace));
    if (centroids) {
      for (const double value : *centroids) result.entries.push_back(RoundEntry(value, kEntry));
      return result;
    }
  }
  Points& points = workspace.points;
  uint64_t not_finite = std::numeric_limits<uint64_t>::max();

  bool sorted = source.count() < (kIsHalf ? kCountHalvesFrom : kCountFloatsFrom);
  if (!kIsHalf && request.mode == FitMode::kKMeans)
    sorted = sorted || source.count() < kSortedPerEntry * request.entries;
  if (!sorted) {
    auto& counts = workspace.ClearedCounts(T{});
    CMLC_RETURN_IF_ERROR(CountAll<T>(source, pool, counts));
    if (counts.not_finite() > 0) {
      CMLC_ASSIGN_OR_RETURN(not_finite, FindNotFinite<T>(source, pool));
    } else {
      bool has_cells = false;
      if constexpr (!kIsHalf) {
        has_cells = request.mode == FitMode::kKMeans;
        if (has_cells) workspace.float_kmeans.Start(counts, points);
      }
      if (!has_cells) counts.ToPoints(points);
      const bool too_coarse = !kIsHalf &&
                              points.values.size() < kLeastBinsPerEntry * kMostDistinct &&
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
  // Whether points are the values themselves, or bins that stand for many.
  const bool exact_points = kIsHalf || sorted;

  std::vector<double> values;
  double error = 0;  // of exact k-means, before its entries are rounded
  switch (request.mode) {
    case FitMode::kKMeans:
      if (exact_points) {
        const Clustering& clustering = workspace.kmeans.Solve(points.values, points.weights,
                                                              static_cast<int>(request.entries));
        values = clustering.centroids;
        error = clustering.sse;
      } else if constexpr (!kIsHalf) {
        CMLC_ASSIGN_OR_RETURN(values, workspace.float_kmeans.Refine(source, points, request.entries,
                                                                    pool, workspace.kmeans));
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
            for (size_t piece = 0; piece < source.pieces() && distinct.size() <= kMostDistinct;
                 ++piece)
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
  if (request.codes) {
    const size_t most = request.mode == FitMode::kUnique  ? kMostDistinct
                        : request.mode == FitMode::kGiven ? result.entries.size()
                                                          : request.entries;
    result.coded = FitCodedLut(points, result.entries, most, *request.codes, request.fixed);
    result.entries = result.coded.entries;
  }
  if (kIsHalf) {
    result.signal = Signal(points);
    result.noise = LutError(points, result.entries);
    if (request.mode == FitMode::kKMeans && !request.codes &&
        result.noise > error * (1 + kRoundingMatters)) {
      RefineOnGrid(points, kEntry, result.entries);
      result.noise = LutError(points, result.entries);
    }
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
