// k-means is exact for fp16. For fp32 the squared error is within 1e-7 of the least, and mostly
// much nearer.
//
// fp16: the histogram of bit patterns is all there is to know, whatever the number of values.
//
// fp32, up to 64 Ki values or 1 Ki values an entry: sort them. Beyond that sorting would dominate
// everything, so values are first counted in bins of 10 mantissa bits (points.h), which keep exact
// sums. What bins get wrong is the cost of a cluster's boundary that falls inside one; a bin that
// no boundary divides costs what its values do but for a constant. So a second pass counts again
// where it matters, in cells that are fractions of a bin:
//
//   - finely where boundaries are by now, so that what is left of a bin's width there is nothing;
//   - less finely wherever a boundary could be. A solution in which boundaries are exact here and
//     coarse elsewhere would cling to the places that were made exact: with many entries the whole
//     row of boundaries can shift at almost no cost, and is held back by cells as wide as a
//     twentieth of a cluster.
//
// How fine is decided by the most that the values of a cell can deviate from their mean, measured
// by the error of an average cluster. That also finds the single bin that holds most of the values
// and deserves entries of its own. When boundaries have moved to coarse places, or the first
// solution was too far off to tell where they are, it is done again.
#include "numeric/fit_values.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <mutex>
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

// Sorting pays below this many values an entry, too: the fine count would have as many cells.
constexpr uint64_t kSortedPerEntry = 1024;

// Cells are to be narrower than this share of a cluster: anywhere, and around boundaries. An
// undivided cell at every boundary costs about a quarter of the square of it, relative to the
// squared error: 1e-6 and 1.5e-8. (If the values in a cell are spread evenly, the sum of their
// squared deviations relates to that of the cluster as the cubes of the widths.)
constexpr double kAnywhere = 1.0 / 512;
constexpr double kAtBoundary = 1.0 / 4096;
// Few entries have nowhere to shift to: what counts is where their boundaries are.
constexpr size_t kFewEntries = 32;
constexpr double kAnywhereForFew = 1.0 / 64;
// What has been counted in cells is not counted again for less than this factor in their width.
constexpr double kRecount = 4;
// Cells around a boundary on either side, passes over the data, and cells of one pass.
constexpr size_t kBeside = 2;
constexpr int kMostPasses = 4;
constexpr uint64_t kMostCells = uint64_t{1} << 20;

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

// Values that lie close together: those of a bin of FloatCounts, or of one of the 2^bits cells that
// such a bin is divided into.
struct Cell {
  uint32_t bin;
  int bits;
  double value;   // their mean
  double weight;  // their number
  double spread;  // the most that the squares of their deviations from it can add up to
};

struct Tally {
  uint64_t count = 0;
  uint64_t positions = 0;  // sum of the low bits of the keys
};

// Which bins to count again, and into how many cells.
struct CellPlan {
  static constexpr int kBitsWidth = 4;
  std::vector<uint8_t> bits = std::vector<uint8_t>(kFloatBins, 0);     // by bin; 0: not at all
  std::vector<uint32_t> table = std::vector<uint32_t>(kFloatBins, 0);  // first cell and bits
  std::vector<uint32_t> bins;                                          // ascending
  uint64_t cells = 0;

  void Clear() {
    for (const uint32_t bin : bins) {
      bits[bin] = 0;
      table[bin] = 0;
    }
    bins.clear();
    cells = 0;
  }
};

// What refining the counts of fp32 values needs.
struct Refinement {
  std::vector<Cell> cells, swap;
  std::vector<Tally> tallies;
  CellPlan plan;
};

}  // namespace

struct FitWorkspace::Impl {
  KMeans1d kmeans;
  Points points;
  Points refined;
  Refinement refinement;
  SortScratch sort;
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
  if (source.pieces() <= 1 || pool.alone()) {
    CMLC_RETURN_IF_ERROR(
        VisitAll<T>(source, pool,
                    [&](size_t, int, uint64_t, std::span<const T> values) { total.Add(values); }));
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

// `mean_position` is the mean of the low bits of the values' keys.
Cell MakeCell(uint32_t bin, int bits, uint32_t index, uint64_t count, double mean_position) {
  const uint32_t width = 1u << (kFloatBinShift - bits);
  const auto first = static_cast<double>(FloatBinStart(bin));
  const double step = static_cast<double>(FloatOfKey((bin << kFloatBinShift) + 1)) - first;
  const auto weight = static_cast<double>(count);
  const double above = mean_position - static_cast<double>(index * width);
  const double below = static_cast<double>(width - 1) - above;
  return {bin, bits, first + step * mean_position, weight, weight * above * below * step * step};
}

// With more runs of bins than this a table look-up per value is cheaper than comparisons.
constexpr size_t kMostCompared = 48;

// Counts the values in the bins of the plan. With few entries nearly all values are in none. Few
// runs of bins are compared with whole vectors of values at a time; for many a table by the top 16
// bits stays in the first-level cache. Both let a few too many through.
Status CountCells(const ValueSource<float>& source, const CellPlan& plan, ThreadPool& pool,
                  std::vector<Tally>& total) {
  constexpr int kCoarseShift = 16;
  std::vector<uint8_t> candidates(size_t{1} << (32 - kCoarseShift), 0);
  std::vector<float> lows, highs;
  for (size_t i = 0; i < plan.bins.size();) {
    const uint32_t begin = plan.bins[i];
    uint32_t end = begin;
    for (; i < plan.bins.size() && plan.bins[i] == end; ++i, ++end)
      candidates[end >> (kCoarseShift - kFloatBinShift)] = 1;
    lows.push_back(FloatBinStart(begin));
    highs.push_back(FloatOfKey((end << kFloatBinShift) - 1));
  }
  const bool compare = lows.size() <= kMostCompared;

  std::vector<std::vector<Tally>> parts(static_cast<size_t>(pool.threads()));
  CMLC_RETURN_IF_ERROR(VisitAll<float>(
      source, pool, [&](size_t, int worker, uint64_t, std::span<const float> values) {
        constexpr size_t kBlock = 8192;
        constexpr uint32_t kLowBits = (1u << kFloatBinShift) - 1;
        std::array<float, kBlock + kSelectSlack> block;
        std::vector<Tally>& part = parts[static_cast<size_t>(worker)];
        part.resize(plan.cells);
        for (size_t begin = 0; begin < values.size(); begin += kBlock) {
          const auto some = values.subspan(begin, std::min(kBlock, values.size() - begin));
          size_t taken = 0;
          if (compare) {
            taken = SelectWithin(some, lows, highs, block.data());
          } else {
            for (const float value : some) {  // without a branch that could be mispredicted
              block[taken] = value;
              taken += candidates[FloatKey(value) >> kCoarseShift];
            }
          }
          for (size_t i = 0; i < taken; ++i) {
            const uint32_t key = FloatKey(block[i]);
            const uint32_t entry = plan.table[key >> kFloatBinShift];
            if (entry == 0) continue;
            const uint32_t bits = entry & ((1u << CellPlan::kBitsWidth) - 1);
            const uint32_t index = (key & kLowBits) >> (kFloatBinShift - static_cast<int>(bits));
            Tally& tally = part[(entry >> CellPlan::kBitsWidth) + index];
            ++tally.count;
            tally.positions += key & kLowBits;
          }
        }
      }));
  total.assign(plan.cells, {});
  for (const std::vector<Tally>& part : parts) {
    for (size_t i = 0; i < part.size(); ++i) {
      total[i].count += part[i].count;
      total[i].positions += part[i].positions;
    }
  }
  return Ok();
}

// Bits that divide a cell of this spread into cells of at most the spread `most`.
int BitsFor(double spread, double most) {
  if (spread <= most) return 0;
  if (most <= 0) return kFloatBinShift;
  return static_cast<int>(
      std::min(std::ceil(std::log2(spread / most) / 3), static_cast<double>(kFloatBinShift)));
}

// Decides which bins to count again, given the optimum for the cells as they are. `first` if they
// are whole bins.
void PlanCells(const std::vector<Cell>& cells, const Clustering& solution, bool first,
               CellPlan& plan) {
  const std::vector<double>& centroids = solution.centroids;
  const double cluster = 3 * solution.sse / static_cast<double>(centroids.size());
  const double share = centroids.size() <= kFewEntries ? kAnywhereForFew : kAnywhere;
  const double anywhere = cluster * share * share * share;
  const double at_boundary = cluster * kAtBoundary * kAtBoundary * kAtBoundary;
  const double recount = first ? 1 : kRecount * kRecount * kRecount;
  plan.Clear();
  const auto want = [&](const Cell& cell, double most) {
    const int bits = std::min(cell.bits + BitsFor(cell.spread, most), kFloatBinShift);
    if (bits > cell.bits)
      plan.bits[cell.bin] = std::max(plan.bits[cell.bin], static_cast<uint8_t>(bits));
  };
  for (const Cell& cell : cells)
    if (cell.spread > anywhere * recount) want(cell, anywhere);

  // A few coarse boundaries among many cost too little for another pass.
  std::vector<size_t> coarse;
  for (size_t i = 0; i + 1 < centroids.size(); ++i) {
    const double boundary = (centroids[i] + centroids[i + 1]) / 2;
    const auto at = static_cast<size_t>(
        std::lower_bound(cells.begin(), cells.end(), boundary,
                         [](const Cell& cell, double value) { return cell.value < value; }) -
        cells.begin());
    const double most = at_boundary * recount;
    if (cells[at].spread > most || (at > 0 && cells[at - 1].spread > most)) coarse.push_back(at);
  }
  if (16 * coarse.size() >= centroids.size())
    for (const size_t at : coarse)
      for (size_t i = at - std::min(at, kBeside + 1); i < std::min(at + kBeside + 1, cells.size());
           ++i)
        want(cells[i], at_boundary);

  for (const Cell& cell : cells)
    if (plan.bits[cell.bin] > 0 && (plan.bins.empty() || plan.bins.back() != cell.bin))
      plan.bins.push_back(cell.bin);
  const auto count_cells = [&plan](int most_bits) {
    uint64_t count = 0;
    for (const uint32_t bin : plan.bins)
      count += uint64_t{1} << std::min<int>(plan.bits[bin], most_bits);
    return count;
  };
  int most_bits = kFloatBinShift;
  while (most_bits > 1 && count_cells(most_bits) > kMostCells) --most_bits;
  for (const uint32_t bin : plan.bins) {
    plan.bits[bin] = std::min(plan.bits[bin], static_cast<uint8_t>(most_bits));
    plan.table[bin] = static_cast<uint32_t>(plan.cells << CellPlan::kBitsWidth) | plan.bits[bin];
    plan.cells += uint64_t{1} << plan.bits[bin];
  }
}

// Puts what was counted in place of the cells that the bins of the plan had.
void Replace(const CellPlan& plan, const std::vector<Tally>& tallies, std::vector<Cell>& cells,
             std::vector<Cell>& result) {
  result.clear();
  for (size_t i = 0; i < cells.size();) {
    const uint32_t bin = cells[i].bin;
    const int bits = plan.bits[bin];
    if (bits == 0) {
      result.push_back(cells[i++]);
      continue;
    }
    while (i < cells.size() && cells[i].bin == bin) ++i;
    const Tally* tally = tallies.data() + (plan.table[bin] >> CellPlan::kBitsWidth);
    for (uint32_t index = 0; index < (1u << bits); ++index, ++tally)
      if (tally->count > 0)
        result.push_back(
            MakeCell(bin, bits, index, tally->count,
                     static_cast<double>(tally->positions) / static_cast<double>(tally->count)));
  }
  cells.swap(result);
}

// The bins that hold values, as cells.
void MakeCells(const FloatCounts& counts, std::vector<Cell>& cells) {
  cells.clear();
  counts.ForEachBin([&](uint32_t bin) {
    cells.push_back(MakeCell(bin, 0, 0, counts.count(bin), counts.mean_position(bin)));
  });
}

void MakePoints(const std::vector<Cell>& cells, Points& points) {
  points.clear();
  for (const Cell& cell : cells) {
    // Both zeros may be a cell of their own.
    if (!points.values.empty() && cell.value <= points.values.back())
      points.weights.back() += cell.weight;
    else
      points.Add(cell.value, cell.weight);
  }
}

// k-means for many fp32 values (see the top of this file). The workspace has the bins as cells and
// as points.
Result<std::vector<double>> RefineFloats(const ValueSource<float>& source, size_t entries,
                                         ThreadPool& pool, Workspace& workspace) {
  Refinement& refinement = workspace.refinement;
  const Points* points = &workspace.points;
  for (int pass = 1;; ++pass) {
    const Clustering& solution =
        workspace.kmeans.Solve(points->values, points->weights, static_cast<int>(entries));
    if (pass == kMostPasses) return solution.centroids;
    PlanCells(refinement.cells, solution, pass == 1, refinement.plan);
    if (refinement.plan.bins.empty()) return solution.centroids;
    CMLC_RETURN_IF_ERROR(CountCells(source, refinement.plan, pool, refinement.tallies));
    Replace(refinement.plan, refinement.tallies, refinement.cells, refinement.swap);
    MakePoints(refinement.cells, workspace.refined);
    points = &workspace.refined;
  }
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
  if (!kIsHalf && request.mode == FitMode::kKMeans)
    sorted = sorted || source.count() < kSortedPerEntry * request.entries;
  if (!sorted) {
    CMLC_ASSIGN_OR_RETURN(counts, CountAll<T>(source, pool, workspace));
    if (counts->not_finite() > 0) {
      CMLC_ASSIGN_OR_RETURN(not_finite, FindNotFinite<T>(source, pool));
    } else {
      bool has_cells = false;
      if constexpr (!kIsHalf) {
        has_cells = request.mode == FitMode::kKMeans;
        if (has_cells) {
          MakeCells(*counts, workspace.refinement.cells);
          MakePoints(workspace.refinement.cells, points);
        }
      }
      if (!has_cells) counts->ToPoints(points);
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
        CMLC_ASSIGN_OR_RETURN(values, RefineFloats(source, request.entries, pool, workspace));
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
