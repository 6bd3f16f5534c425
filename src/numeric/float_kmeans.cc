// What bins of a histogram get wrong is the cost of a cluster's boundary that falls inside one; a
// bin that no boundary divides costs what its values do but for a constant. So cells, which are
// bins at first, are divided where it matters:
//
//   - finely where boundaries are by now, so that what is left of a cell's width there is nothing;
//   - less finely wherever a boundary could be. A solution in which boundaries are exact here and
//     coarse elsewhere would cling to the places that were made exact: with many entries the whole
//     row of boundaries can shift at almost no cost, and is held back by cells as wide as a
//     twentieth of a cluster.
//
// How fine is decided by the most that the values of a cell can deviate from their mean, measured
// by the error of an average cluster. That also finds the single cell that holds most of the values
// and deserves entries of its own. When boundaries have moved to coarse places, or the first
// solution was too far off to tell where they are, it is done again.
//
// With up to 16 entries the slots of FineCounts are cells that are fine enough for most weights,
// and one pass over the data is all it takes: cells of many slots each are the first ones, and
// slots are what they are divided into. Inside a slot that a boundary divides values are taken to
// be spread evenly. A slot's mean is not known, only that it is within half of its width of its
// middle. An entry is then off by no more than the mean of such halves in its cluster, and the
// error exceeds the least one by no more than the sum of their squares. Where that is not small
// against the error, or a boundary wants cells finer than slots, bins of FloatCounts (10 bits of
// mantissa, but with exact sums) are where to start from, and the values of the cells to be divided
// are counted in a second pass.
#include "numeric/float_kmeans.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <span>

#include "numeric/half.h"
#include "numeric/histogram.h"
#include "numeric/select.h"

namespace cmlc::numeric {
namespace {

// Cells are to be narrower than this share of a cluster: anywhere, and around boundaries. An
// undivided cell at every boundary costs about a quarter of the square of it, relative to the
// squared error. (If the values in a cell are spread evenly, the sum of their squared deviations
// relates to that of the cluster as the cubes of the widths.)
struct Limits {
  double anywhere;
  double at_boundary;
};
// They cost 1e-6 and 1.5e-8.
constexpr Limits kForMany = {1.0 / 512, 1.0 / 4096};
// Few entries have nowhere to shift to: what counts is where their boundaries are.
constexpr size_t kFewEntries = 32;
constexpr Limits kForFew = {1.0 / 64, 1.0 / 4096};
// What has been counted in cells is not counted again for less than this factor in their width.
constexpr double kRecount = 4;
// Cells around a boundary on either side, passes over the data, and cells of one pass.
constexpr size_t kBeside = 2;
constexpr int kMostPasses = 4;
constexpr uint64_t kMostCells = uint64_t{1} << 20;

// Of fine counts: the most that a slot may be wider than at_boundary (it costs 2.4e-7 if that is so
// at every boundary), what not knowing the places in slots may cost, relative to the squared error,
// turns, and the least number of cells for each entry to start from.
constexpr double kWideSlot = 4;
constexpr double kMostUnknown = 1e-6;
constexpr int kMostTurns = 8;
constexpr size_t kLeastCellsPerEntry = 8;
// Subnormal numbers are as good as zero beside values of this exponent (2^-63).
constexpr int kLeastExponent = 64;
// The greatest exponents have cells of 2^kMostRowBits to a row; from kFullRows rows down each has
// half as many as the one above.
constexpr int kMostRowBits = 8;
constexpr int kLeastRowBits = 2;
constexpr int kFullRows = 4;

// Values that lie close together: those of 2^shift keys (see FloatKey), all of one exponent.
struct Cell {
  uint32_t first;
  int shift;
  double value;   // their mean
  double weight;  // their number
  double spread;  // the most that the squares of their deviations from it can add up to
};

struct Tally {
  uint64_t count = 0;
  uint64_t positions = 0;  // sum of the low bits of the keys
};

// Which bins of FloatCounts to count again, and into how many cells.
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

uint32_t BinOf(const Cell& cell) { return cell.first >> kFloatBinShift; }

double StepAt(uint32_t key) {
  return static_cast<double>(FloatOfKey(key + 1)) - static_cast<double>(FloatOfKey(key));
}

// `mean_position` is the mean of the low bits of the values' keys.
Cell MakeCell(uint32_t first, int shift, double weight, double mean_position) {
  const double step = StepAt(first);
  const double above = mean_position;
  const double below = static_cast<double>((1u << shift) - 1) - above;
  return {first, shift, static_cast<double>(FloatOfKey(first)) + step * mean_position, weight,
          weight * above * below * step * step};
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
  CMLC_RETURN_IF_ERROR(
      VisitAll<float>(source, pool, [&](int worker, uint64_t, std::span<const float> values) {
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

// Decides into how many cells to divide each, as a number of bits, given the optimum for the cells
// as they are. Nothing is divided for less than the factor `worth` in the width. Whether there is
// anything to divide.
bool PlanDivision(const std::vector<Cell>& cells, const Clustering& solution, const Limits& limits,
                  double worth, std::vector<uint8_t>& division) {
  const std::vector<double>& centroids = solution.centroids;
  const double cluster = 3 * solution.sse / static_cast<double>(centroids.size());
  const auto spread_of = [cluster](double width) { return cluster * width * width * width; };
  const double anywhere = spread_of(limits.anywhere);
  const double at_boundary = spread_of(limits.at_boundary);
  const double recount = worth * worth * worth;
  division.assign(cells.size(), 0);
  bool any = false;
  const auto want = [&](size_t i, double most) {
    const int bits = std::min(BitsFor(cells[i].spread, most), cells[i].shift);
    division[i] = std::max(division[i], static_cast<uint8_t>(bits));
    any = any || bits > 0;
  };
  for (size_t i = 0; i < cells.size(); ++i)
    if (cells[i].spread > anywhere * recount) want(i, anywhere);

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
        want(i, at_boundary);
  return any;
}

// Which bins to count again for such a division.
void PlanCells(const std::vector<Cell>& cells, const std::vector<uint8_t>& division,
               CellPlan& plan) {
  plan.Clear();
  for (size_t i = 0; i < cells.size(); ++i) {
    if (division[i] == 0) continue;
    const uint32_t bin = BinOf(cells[i]);
    if (plan.bins.empty() || plan.bins.back() != bin) plan.bins.push_back(bin);
    plan.bits[bin] = std::max(plan.bits[bin],
                              static_cast<uint8_t>(kFloatBinShift - cells[i].shift + division[i]));
  }
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
    const uint32_t bin = BinOf(cells[i]);
    const int bits = plan.bits[bin];
    if (bits == 0) {
      result.push_back(cells[i++]);
      continue;
    }
    while (i < cells.size() && BinOf(cells[i]) == bin) ++i;
    const Tally* tally = tallies.data() + (plan.table[bin] >> CellPlan::kBitsWidth);
    const int shift = kFloatBinShift - bits;
    for (uint32_t index = 0; index < (1u << bits); ++index, ++tally) {
      if (tally->count == 0) continue;
      const double position =
          static_cast<double>(tally->positions) / static_cast<double>(tally->count);
      result.push_back(MakeCell((bin << kFloatBinShift) + (index << shift), shift,
                                static_cast<double>(tally->count),
                                position - static_cast<double>(index << shift)));
    }
  }
  cells.swap(result);
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

// Adds the values of a cell as 2^bits cells of as many values each.
void SpreadEvenly(const Cell& cell, int bits, std::vector<Cell>& cells) {
  const int narrow = cell.shift - bits;
  const double middle = ((1u << narrow) - 1) / 2.0;
  for (uint32_t i = 0; i < (1u << bits); ++i)
    cells.push_back(
        MakeCell(cell.first + (i << narrow), narrow, std::ldexp(cell.weight, -bits), middle));
}

// Cells of FineCounts.
class FineCells {
 public:
  explicit FineCells(const FineCounts& counts) : counts_(counts) {}

  // All that there are, in cells of many slots.
  void Make(std::vector<Cell>& cells) {
    cells.clear();
    const int least = std::max(counts_.least_exponent(), 1);
    const int greatest = counts_.greatest_exponent();
    const auto add_row = [&](uint32_t row, int exponent) {
      const int bits =
          std::clamp(kMostRowBits + kFullRows - (greatest - exponent), kLeastRowBits, kMostRowBits);
      Divide(row << FineCounts::kRowShift, FineCounts::kRowShift, bits, cells);
    };
    constexpr uint32_t kZeroRow = 1u << (31 - FineCounts::kRowShift);
    for (int e = greatest; e >= least; --e) add_row(kZeroRow - 1 - static_cast<uint32_t>(e), e);
    // Subnormal numbers count as zeros.
    const uint64_t zeros = counts_.least_exponent() > 0
                               ? counts_.zeros()
                               : RowCount(kZeroRow - 1) + RowCount(kZeroRow);
    if (zeros > 0) cells.push_back(MakeCell(FloatKey(0.0f), 0, static_cast<double>(zeros), 0));
    for (int e = least; e <= greatest; ++e) add_row(kZeroRow + static_cast<uint32_t>(e), e);
  }

  // Adds what the 2^shift keys from `first` on hold, in 2^bits cells.
  void Divide(uint32_t first, int shift, int bits, std::vector<Cell>& cells) const {
    const int narrow = shift - bits;
    for (uint32_t i = 0; i < (1u << bits); ++i) {
      const uint32_t key = first + (i << narrow);
      const FineCounts::Part part = counts_.Sum(key, narrow);
      if (part.count == 0) continue;
      constexpr uint32_t kSlot = 1u << FineCounts::kSlotShift;
      const auto weight = static_cast<double>(part.count);
      const double slot = static_cast<double>(part.slots) / weight;
      cells.push_back(MakeCell(key, narrow, weight, slot * kSlot + InSlot(key)));
    }
  }

  // The most that the squares of what is not known of the values' places can add up to.
  double Unknown(const std::vector<Cell>& cells) const {
    if (counts_.exact()) return 0;
    double total = 0;
    for (const Cell& cell : cells) {
      const double most = cell.shift == 0 ? 0 : StepAt(cell.first) * kHalfSlot;
      total += cell.weight * most * most;
    }
    return total;
  }

 private:
  static constexpr double kHalfSlot = ((1u << FineCounts::kSlotShift) - 1) / 2.0;
  uint64_t RowCount(uint32_t row) const {
    return counts_.Sum(row << FineCounts::kRowShift, FineCounts::kRowShift).count;
  }
  // Where in its slot a value is taken to be. Nearest to zero is last among negative keys.
  double InSlot(uint32_t key) const {
    if (!counts_.exact()) return kHalfSlot;
    return key < FloatKey(0.0f) ? 2 * kHalfSlot : 0;
  }
  const FineCounts& counts_;
};

}  // namespace

struct FloatKMeans::Impl {
  std::vector<Cell> cells, swap;
  std::vector<uint8_t> division;
  std::vector<Tally> tallies;
  CellPlan plan;
  Points points;
};

FloatKMeans::FloatKMeans() : impl_(std::make_unique<Impl>()) {}
FloatKMeans::~FloatKMeans() = default;

void FloatKMeans::Start(const FloatCounts& counts, Points& points) {
  std::vector<Cell>& cells = impl_->cells;
  cells.clear();
  counts.ForEachBin([&](uint32_t bin) {
    cells.push_back(MakeCell(bin << kFloatBinShift, kFloatBinShift,
                             static_cast<double>(counts.count(bin)), counts.mean_position(bin)));
  });
  MakePoints(cells, points);
}

Result<std::vector<double>> FloatKMeans::Refine(const ValueSource<float>& source,
                                                const Points& points, size_t entries,
                                                ThreadPool& pool, KMeans1d& kmeans) {
  Impl& my = *impl_;
  const Limits& limits = entries <= kFewEntries ? kForFew : kForMany;
  const Points* now = &points;
  for (int pass = 1;; ++pass) {
    const Clustering& solution = kmeans.Solve(now->values, now->weights, static_cast<int>(entries));
    if (pass == kMostPasses ||
        !PlanDivision(my.cells, solution, limits, pass == 1 ? 1 : kRecount, my.division))
      return solution.centroids;
    PlanCells(my.cells, my.division, my.plan);
    CMLC_RETURN_IF_ERROR(CountCells(source, my.plan, pool, my.tallies));
    Replace(my.plan, my.tallies, my.cells, my.swap);
    MakePoints(my.cells, my.points);
    now = &my.points;
  }
}

std::optional<std::vector<double>> FloatKMeans::Solve(const FineCounts& counts, size_t entries,
                                                      KMeans1d& kmeans) {
  if (!counts.finite() || counts.greatest_exponent() < kLeastExponent) return std::nullopt;
  Impl& my = *impl_;
  FineCells fine(counts);
  fine.Make(my.cells);
  if (my.cells.size() < kLeastCellsPerEntry * entries) return std::nullopt;
  const double unknown = fine.Unknown(my.cells);
  // Slots whose values are known leave nothing to be off by.
  const Limits limits = {kForFew.anywhere, counts.exact() ? 0 : kForFew.at_boundary};
  for (int turn = 1;; ++turn) {
    MakePoints(my.cells, my.points);
    const Clustering& solution =
        kmeans.Solve(my.points.values, my.points.weights, static_cast<int>(entries));
    if (!(solution.sse > 0) || unknown > kMostUnknown * solution.sse) return std::nullopt;
    PlanDivision(my.cells, solution, limits, 1, my.division);
    const double widest = limits.at_boundary * kWideSlot;
    const double most = 3 * solution.sse / static_cast<double>(entries) * widest * widest * widest;
    bool divided = false;
    my.swap.clear();
    for (size_t i = 0; i < my.cells.size(); ++i) {
      const Cell& cell = my.cells[i];
      const int bits = std::min<int>(my.division[i], cell.shift - FineCounts::kSlotShift);
      if (bits > 0) {
        fine.Divide(cell.first, cell.shift, bits, my.swap);
        divided = true;
      } else if (my.division[i] == 0 || cell.shift < FineCounts::kSlotShift) {
        my.swap.push_back(cell);
      } else if (cell.spread <= most) {
        SpreadEvenly(cell, my.division[i], my.swap);
        divided = true;
      } else {
        return std::nullopt;
      }
    }
    if (!divided) return solution.centroids;
    if (turn == kMostTurns) return std::nullopt;
    my.cells.swap(my.swap);
  }
}

}  // namespace cmlc::numeric
