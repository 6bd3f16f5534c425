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
        end = static_cast<size_t>(std::upper_bound(points_.values.begin() +
                                                       static_cast<std::ptrdiff_t>(begin),
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
