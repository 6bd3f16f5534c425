#include "numeric/lut_fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "numeric/half.h"

namespace cmlc::numeric {
namespace {

// Errors of many grids over the same points, from prefix sums: cheap, and good enough to search
// with. What is chosen is judged again by LutError.
class GridSearch {
 public:
  GridSearch(const Points& points, size_t entries) : points_(points), entries_(entries) {
    sums_.reserve(points.values.size() + 1);
    sums_.push_back({});
    for (size_t i = 0; i < points.values.size(); ++i) {
      const double w = points.weights[i];
      const double x = points.values[i];
      const Sums& last = sums_.back();
      sums_.push_back({last.weight + w, last.first + w * x, last.second + w * x * x});
    }
  }

  double Error(double low, double high) const {
    const double step = (high - low) / static_cast<double>(entries_ - 1);
    double total = 0;
    size_t begin = 0;
    for (size_t i = 0; i < entries_ && begin < points_.values.size(); ++i) {
      const double entry = low + static_cast<double>(i) * step;
      size_t end = points_.values.size();
      if (i + 1 < entries_)
        end = static_cast<size_t>(
            std::upper_bound(points_.values.begin() + static_cast<std::ptrdiff_t>(begin),
                             points_.values.end(), entry + step / 2) -
            points_.values.begin());
      const Sums& a = sums_[begin];
      const Sums& b = sums_[end];
      total += (b.second - a.second) - 2 * entry * (b.first - a.first) +
               entry * entry * (b.weight - a.weight);
      begin = end;
    }
    return total;
  }

 private:
  struct Sums {
    double weight = 0, first = 0, second = 0;
  };
  const Points& points_;
  size_t entries_;
  std::vector<Sums> sums_;
};

void Grid(double low, double step, EntryType type, std::span<float> lut) {
  for (size_t i = 0; i < lut.size(); ++i)
    lut[i] = RoundEntry(low + static_cast<double>(i) * step, type);
}

}  // namespace

float RoundEntry(double value, EntryType type) {
  if (type == EntryType::kFloat) return static_cast<float>(value);
  return HalfToFloat(DoubleToHalf(value));
}

void FinishLut(std::span<const double> values, EntryType type, std::span<float> lut) {
  CMLC_CHECK(!values.empty() && values.size() <= lut.size());
  for (size_t i = 0; i < lut.size(); ++i)
    lut[i] = i < values.size() ? RoundEntry(values[i], type) : lut[i - 1];
}

double LutError(const Points& points, std::span<const float> lut) {
  double total = 0;
  size_t entry = 0;
  for (size_t i = 0; i < points.values.size(); ++i) {
    const double x = points.values[i];
    const auto distance = [&](size_t e) { return std::fabs(x - static_cast<double>(lut[e])); };
    while (entry + 1 < lut.size() && distance(entry + 1) <= distance(entry)) ++entry;
    total += points.weights[i] * distance(entry) * distance(entry);
  }
  return total;
}

double Signal(const Points& points) {
  double total = 0;
  for (size_t i = 0; i < points.values.size(); ++i)
    total += points.weights[i] * points.values[i] * points.values[i];
  return total;
}

namespace {

// Prefix sums of points around their own middle, and the best storable entry of a run of them.
class Runs {
 public:
  Runs(const Points& points, EntryType type) : type_(type) {
    origin_ = points.values[points.values.size() / 2];
    sums_.push_back({});
    for (size_t i = 0; i < points.values.size(); ++i) {
      const double x = points.values[i] - origin_;
      const double w = points.weights[i];
      const Sums& last = sums_.back();
      sums_.push_back({last.weight + w, last.first + w * x, last.second + w * x * x});
    }
  }
  float Entry(size_t begin, size_t end) const {
    return RoundEntry(origin_ + (sums_[end].first - sums_[begin].first) /
                                    (sums_[end].weight - sums_[begin].weight),
                      type_);
  }
  double Cost(size_t begin, size_t end) const {
    const double entry = static_cast<double>(Entry(begin, end)) - origin_;
    const double weight = sums_[end].weight - sums_[begin].weight;
    const double first = sums_[end].first - sums_[begin].first;
    return (sums_[end].second - sums_[begin].second) - 2 * entry * first + entry * entry * weight;
  }

 private:
  struct Sums {
    double weight = 0, first = 0, second = 0;
  };
  EntryType type_;
  double origin_ = 0;
  std::vector<Sums> sums_;
};

// Dynamic programming over all runs. Costs with rounded entries have no quadrangle inequality, so
// there is no shortcut; the number of points is small.
std::vector<float> BestOnGrid(const Runs& runs, size_t points, size_t clusters) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  std::vector<double> cost(points * (points + 1));
  for (size_t begin = 0; begin < points; ++begin)
    for (size_t end = begin + 1; end <= points; ++end)
      cost[begin * (points + 1) + end] = runs.Cost(begin, end);
  std::vector<double> best(points + 1, kInfinity), next(points + 1);
  std::vector<std::vector<uint16_t>> from(clusters, std::vector<uint16_t>(points + 1, 0));
  best[0] = 0;
  for (size_t c = 0; c < clusters; ++c) {
    std::fill(next.begin(), next.end(), kInfinity);
    for (size_t begin = 0; begin < points; ++begin) {
      if (best[begin] == kInfinity) continue;
      for (size_t end = begin + 1; end <= points; ++end) {
        const double total = best[begin] + cost[begin * (points + 1) + end];
        if (total >= next[end]) continue;
        next[end] = total;
        from[c][end] = static_cast<uint16_t>(begin);
      }
    }
    best.swap(next);
  }
  std::vector<float> entries(clusters);
  size_t end = points;
  for (size_t c = clusters; c-- > 0;) {
    const size_t begin = from[c][end];
    entries[c] = runs.Entry(begin, end);
    end = begin;
  }
  return entries;
}

// The entries of the clusters that the nearest of `entries` make.
std::vector<float> Reclustered(const Points& points, const Runs& runs,
                               const std::vector<float>& entries) {
  std::vector<float> moved;
  size_t begin = 0;
  for (size_t e = 0; e < entries.size() && begin < points.values.size(); ++e) {
    size_t end = points.values.size();
    if (e + 1 < entries.size()) {
      const double middle =
          (static_cast<double>(entries[e]) + static_cast<double>(entries[e + 1])) / 2;
      end = static_cast<size_t>(
          std::upper_bound(points.values.begin() + static_cast<std::ptrdiff_t>(begin),
                           points.values.end(), middle) -
          points.values.begin());
    }
    if (end > begin) moved.push_back(runs.Entry(begin, end));
    begin = end;
  }
  return moved;
}

}  // namespace

void RefineOnGrid(const Points& points, EntryType type, std::vector<float>& entries) {
  constexpr int kMostTurns = 16;
  const size_t count = points.values.size();
  if (entries.size() >= count) return;
  const Runs runs(points, type);
  double error = LutError(points, entries);
  const auto consider = [&](std::vector<float> candidate) {
    const double candidate_error = LutError(points, candidate);
    if (!(candidate_error < error)) return false;
    error = candidate_error;
    entries = std::move(candidate);
    return true;
  };
  if (entries.size() * count * count <= kMostGridWork) {
    consider(BestOnGrid(runs, count, entries.size()));
    return;
  }
  for (int turn = 0; turn < kMostTurns; ++turn)
    if (!consider(Reclustered(points, runs, entries))) break;
}

void FitUniform(const Points& points, EntryType type, std::span<float> lut) {
  const double least = points.values.front();
  const double greatest = points.values.back();
  const auto intervals = static_cast<double>(lut.size() - 1);
  Grid(least, (greatest - least) / intervals, type, lut);
  if (points.values.size() == 1) return;
  double best_error = LutError(points, lut);
  std::vector<float> candidate(lut.size());
  const auto consider = [&](double low, double step) {
    Grid(low, step, type, candidate);
    if (!std::isfinite(candidate.front()) || !std::isfinite(candidate.back())) return;
    if (!std::is_sorted(candidate.begin(), candidate.end())) return;
    const double error = LutError(points, candidate);
    if (error >= best_error) return;
    best_error = error;
    std::copy(candidate.begin(), candidate.end(), lut.begin());
  };
  const double span = static_cast<double>(RoundEntry(greatest - least, type));
  if (std::isfinite(span)) consider(least, static_cast<double>(RoundEntry(span / intervals, type)));

  // First both ends move towards the mean together, then each on its own in smaller and smaller
  // steps. With one outlier among many values the best grid may be a hundredth of the range.
  const GridSearch search(points, lut.size());
  double weight = 0, mean = 0;
  for (size_t i = 0; i < points.values.size(); ++i) {
    weight += points.weights[i];
    mean += points.weights[i] * points.values[i];
  }
  mean /= weight;
  double low = least, high = greatest;
  double error = search.Error(low, high);
  const auto attempt = [&](double new_low, double new_high) {
    if (!(new_low < new_high)) return false;
    const double new_error = search.Error(new_low, new_high);
    if (!(new_error < error)) return false;
    low = new_low;
    high = new_high;
    error = new_error;
    return true;
  };
  double factor = 1;
  for (int i = 0; i < 48; ++i) {
    factor *= 0.9;
    attempt(mean + (least - mean) * factor, mean + (greatest - mean) * factor);
  }
  for (double move = 0.1; move > 0.002; move /= 2) {
    const double distance = move * (high - low);
    for (int rounds = 0; rounds < 8; ++rounds) {
      const bool moved = attempt(low + distance, high) || attempt(low - distance, high) ||
                         attempt(low, high - distance) || attempt(low, high + distance);
      if (!moved) break;
    }
  }
  consider(low, (high - low) / intervals);
}

}  // namespace cmlc::numeric
