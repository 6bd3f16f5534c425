#include "predict/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"

namespace cmlc::predict {
namespace {

// Keep numbers finite, and are those of the tools that Core ML models are debugged with, so that
// figures can be set side by side.
constexpr double kSignalFloor = 1e-5;
constexpr double kNoiseFloor = 1e-10;
constexpr double kLeastProbability = 1e-10;

double Decibels(double ratio) { return 10 * std::log10(ratio); }

}  // namespace

Difference Measure(std::span<const float> y, std::span<const float> x) {
  CMLC_CHECK(y.size() == x.size());
  Difference out;
  double yy = 0, xx = 0, xy = 0, noise = 0, peak = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const auto a = static_cast<double>(y[i]);
    const auto b = static_cast<double>(x[i]);
    if (!std::isfinite(a) || !std::isfinite(b)) {
      const bool same = (std::isnan(a) && std::isnan(b)) || a == b;
      ++(same ? out.both_not_finite : out.not_finite_in_one);
      continue;
    }
    ++out.count;
    const double difference = b - a;
    yy += a * a;
    xx += b * b;
    xy += a * b;
    noise += difference * difference;
    peak = std::max(peak, a * a);
    out.max_error = std::max(out.max_error, std::fabs(difference));
  }
  const double count = std::max(1.0, static_cast<double>(out.count));
  out.snr_db = Decibels((yy / count + kSignalFloor) / (noise / count + kNoiseFloor));
  out.psnr_db = Decibels((peak + kSignalFloor) / (noise / count + kNoiseFloor));
  // Equal vectors have cosine 1 whatever the square roots round to.
  if (noise == 0)
    out.cosine = 1;
  else if (yy > 0 && xx > 0)
    out.cosine = std::clamp(xy / (std::sqrt(yy) * std::sqrt(xx)), -1.0, 1.0);
  if (noise > 0)
    out.relative = yy > 0 ? std::sqrt(noise / yy) : std::numeric_limits<double>::infinity();
  return out;
}

bool IsProbability(std::span<const float> values, size_t row) {
  if (row < 2 || values.empty()) return false;
  for (size_t begin = 0; begin < values.size(); begin += row) {
    double sum = 0;
    for (const float value : values.subspan(begin, row)) {
      if (!(value >= 0)) return false;
      sum += static_cast<double>(value);
    }
    if (!(std::fabs(sum - 1) <= 0.01)) return false;
  }
  return true;
}

double KullbackLeibler(std::span<const float> y, std::span<const float> x, size_t row) {
  double total = 0;
  for (size_t begin = 0; begin < y.size(); begin += row) {
    const auto sum = [&](std::span<const float> values) {
      const auto one = values.subspan(begin, row);
      return std::accumulate(one.begin(), one.end(), 0.0, [](double so_far, float value) {
        return so_far + static_cast<double>(value);
      });
    };
    const double y_sum = sum(y);
    const double x_sum = sum(x);
    for (size_t i = begin; i < begin + row; ++i) {
      const double p = static_cast<double>(y[i]) / y_sum;
      if (!(p > 0)) continue;
      const double q = std::max(kLeastProbability, static_cast<double>(x[i]) / x_sum);
      total += p * std::log(p / q);
    }
  }
  // Rounding and the floor can bring it a hair below zero.
  return std::max(0.0, total / (static_cast<double>(y.size()) / static_cast<double>(row)));
}

std::vector<size_t> Best(std::span<const float> row, size_t count) {
  std::vector<size_t> places(row.size());
  std::iota(places.begin(), places.end(), size_t{0});
  count = std::min(count, places.size());
  std::partial_sort(places.begin(), places.begin() + static_cast<ptrdiff_t>(count), places.end(),
                    [&](size_t a, size_t b) {
                      const bool a_nan = std::isnan(row[a]);
                      const bool b_nan = std::isnan(row[b]);
                      if (a_nan != b_nan) return b_nan;
                      if (!a_nan && row[a] != row[b]) return row[a] > row[b];
                      return a < b;
                    });
  places.resize(count);
  return places;
}

double Top1(std::span<const float> y, std::span<const float> x, size_t row) {
  double same = 0;
  for (size_t begin = 0; begin < y.size(); begin += row)
    same += Best(y.subspan(begin, row), 1) == Best(x.subspan(begin, row), 1) ? 1 : 0;
  return same / (static_cast<double>(y.size()) / static_cast<double>(row));
}

std::optional<double> Top5(std::span<const float> y, std::span<const float> x, size_t row) {
  constexpr size_t kFive = 5;
  if (row <= kFive) return std::nullopt;
  double shared = 0;
  for (size_t begin = 0; begin < y.size(); begin += row) {
    const std::vector<size_t> best = Best(x.subspan(begin, row), kFive);
    for (const size_t place : Best(y.subspan(begin, row), kFive))
      shared += std::find(best.begin(), best.end(), place) != best.end() ? 1.0 / kFive : 0;
  }
  return shared / (static_cast<double>(y.size()) / static_cast<double>(row));
}

}  // namespace cmlc::predict
