#include "activations/range.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "numeric/half.h"

namespace cmlc::activations {
namespace {

using calibrate::Histogram;
using calibrate::ValueStatistics;
using Values = std::span<const ValueStatistics* const>;

// Numbers are cut off only where that makes the mean squared error this many times smaller. They
// are the greatest ones, which what follows goes by most, and errors of cutting off all have the
// same sign, where those of rounding cancel in the sums of the next layer: on real nets cutting off
// for less made some outputs worse than cutting off nothing.
constexpr double kWorthCutting = 2;

// So many numbers near `x`.
struct Mass {
  double x = 0;
  double count = 0;
};

// What the histograms of the values hold, in ascending order; zeros, which every quantization
// keeps, are left out. Bins far below the greatest magnitude are joined: what is in them becomes
// zero, or one step, whatever the range.
std::vector<Mass> MassesOf(Values values) {
  constexpr double kNegligible = 1.0 / (1 << 20);
  Histogram all;
  double least = std::numeric_limits<double>::infinity(), greatest = -least;
  for (const ValueStatistics* value : values) {
    least = std::min(least, static_cast<double>(value->least));
    greatest = std::max(greatest, static_cast<double>(value->greatest));
    all.Merge(value->histogram);
  }
  const double most = std::max(std::fabs(least), std::fabs(greatest));
  std::vector<Mass> masses;
  Mass below, above;  // negligible ones, by sign
  all.ForEach([&](uint32_t bin, uint64_t count) {
    const double low = static_cast<double>(Histogram::LowOf(bin));
    const double high = static_cast<double>(Histogram::HighOf(bin));
    const double x = std::clamp(std::isfinite(high) ? (low + high) / 2 : low, least, greatest);
    const auto n = static_cast<double>(count);
    if (std::fabs(x) >= most * kNegligible) {
      masses.push_back({x, n});
      return;
    }
    Mass& small = x < 0 ? below : above;
    small.x = (small.x * small.count + x * n) / (small.count + n);
    small.count += n;
  });
  for (const Mass& small : {below, above})
    if (small.count > 0) masses.push_back(small);
  std::sort(masses.begin(), masses.end(), [](const Mass& a, const Mass& b) { return a.x < b.x; });
  return masses;
}

double StoredScale(double scale, DataType float_type, bool& raised) {
  raised = false;
  const bool half = float_type == DataType::kFloat16;
  const double least = half ? 0x1p-14 : static_cast<double>(std::numeric_limits<float>::min());
  const double greatest = half ? 65504.0 : static_cast<double>(std::numeric_limits<float>::max());
  if (scale < least) {
    raised = true;
    return least;
  }
  scale = std::min(scale, greatest);
  return half ? static_cast<double>(
                    numeric::HalfToFloat(numeric::FloatToHalf(static_cast<float>(scale))))
              : static_cast<double>(static_cast<float>(scale));
}

double SquaredError(const std::vector<Mass>& masses, const Parameters& parameters) {
  const double least = parameters.dtype == DataType::kInt8 ? -128 : 0;
  const double low = least - parameters.zero_point, high = low + 255;
  const double inverse = 1 / parameters.scale;
  // Adding and taking away 1.5 * 2^52 rounds to the nearest integer, half to even.
  constexpr double kRound = 0x1.8p52;
  // In four sums, so that a processor can make several at a time.
  std::array<double, 4> sums{};
  size_t i = 0;
  const auto one = [&](const Mass& mass) {
    const double code = std::clamp(mass.x * inverse, low, high);
    const double difference = mass.x - parameters.scale * ((code + kRound) - kRound);
    return mass.count * difference * difference;
  };
  for (; i + 4 <= masses.size(); i += 4)
    for (size_t lane = 0; lane < 4; ++lane) sums[lane] += one(masses[i + lane]);
  for (; i < masses.size(); ++i) sums[0] += one(masses[i]);
  return sums[0] + sums[1] + sums[2] + sums[3];
}

// Searches ends of the range by the error that a function gives for them. Both ends are moved by
// factors, together and then each by itself, with ever smaller steps.
template <typename ErrorOf>
Range Search(Range widest, bool symmetric, const ErrorOf& error_of) {
  constexpr int kSteps = 96;  // of 1/16 of an octave: down to 1/64 of the widest range
  constexpr double kCoarse = 16;
  Range best = widest;
  double least = error_of(best);
  const auto consider = [&](Range range) {
    const double error = error_of(range);
    if (error < least) {
      least = error;
      best = range;
    }
  };
  for (int step = 1; step <= kSteps; ++step) {
    const double factor = std::exp2(-step / kCoarse);
    consider({widest.low * factor, widest.high * factor});
  }
  const bool two_sided = !symmetric && widest.low < 0 && widest.high > 0;
  if (two_sided) {
    for (int round = 0; round < 2; ++round) {
      for (int step = 0; step <= kSteps; ++step)
        consider({best.low, widest.high * std::exp2(-step / kCoarse)});
      for (int step = 0; step <= kSteps; ++step)
        consider({widest.low * std::exp2(-step / kCoarse), best.high});
    }
  }
  for (double spread = 1 / kCoarse; spread > 1e-4; spread /= 8) {
    const Range middle = best;
    for (int step = -8; step <= 8; ++step) {
      const double factor = std::exp2(step * spread / 8);
      const auto cut = [&](Range range) {
        consider({std::max(range.low, widest.low), std::min(range.high, widest.high)});
      };
      cut({middle.low * factor, middle.high * factor});
      if (two_sided) cut({middle.low * factor, middle.high});
      if (two_sided) cut({middle.low, middle.high * factor});
    }
  }
  return best;
}

// What calibrators of int8 engines do: the distribution of magnitudes in 2048 even bins; for each
// end the bins up to it, with what is beyond in the last of them, against the same in 128 levels
// (or 256 where all numbers have one sign) spread evenly over the bins of each that hold anything.
double BestEndByKl(const std::vector<Mass>& masses, double most, size_t levels) {
  constexpr size_t kBins = 2048;
  constexpr double kMostBeyond = 0.05;
  std::vector<double> bins(kBins, 0.0);
  for (const Mass& mass : masses) {
    const auto bin = static_cast<size_t>(std::fabs(mass.x) / most * kBins);
    bins[std::min(bin, kBins - 1)] += mass.count;
  }
  double total = 0;
  for (const double count : bins) total += count;
  double least = std::numeric_limits<double>::infinity(), best = most;
  double inside = 0;
  for (size_t i = 0; i < levels; ++i) inside += bins[i];
  for (size_t end = levels; end <= kBins; ++end) {
    if (end > levels) inside += bins[end - 1];
    const double beyond = total - inside;
    // What is beyond goes to the last bin; if that holds nothing, nothing there can stand for it.
    // And if most went there, any distribution would look like that: numbers that are few and far
    // between would be cut off at the least of them.
    if (inside == 0 || (bins[end - 1] == 0 && beyond > 0) || beyond > kMostBeyond * total) continue;
    double divergence = 0;
    size_t begin = 0;
    for (size_t level = 0; level < levels; ++level) {
      const size_t next = (level + 1) * end / levels;
      double sum = 0;
      size_t filled = 0;
      for (size_t i = begin; i < next; ++i) {
        sum += bins[i];
        if (bins[i] > 0) ++filled;
      }
      if (filled > 0) {
        const double q = sum / static_cast<double>(filled) / inside;
        for (size_t i = begin; i < next; ++i) {
          const double p = (bins[i] + (i + 1 == end ? beyond : 0)) / total;
          if (p > 0 && bins[i] > 0) divergence += p * std::log(p / q);
        }
      }
      begin = next;
    }
    if (divergence < least) {
      least = divergence;
      best = most * static_cast<double>(end) / kBins;
    }
  }
  return best;
}

Range EmaOf(const ValueStatistics& value, double weight) {
  if (value.ranges.empty())
    return {static_cast<double>(value.least), static_cast<double>(value.greatest)};
  Range range;
  bool first = true;
  for (const auto& [low, high] : value.ranges) {
    if (!std::isfinite(low) || !std::isfinite(high)) continue;  // an empty value
    const Range next{static_cast<double>(low), static_cast<double>(high)};
    range.low = first ? next.low : range.low + weight * (next.low - range.low);
    range.high = first ? next.high : range.high + weight * (next.high - range.high);
    first = false;
  }
  return range;
}

Range RangeOf(const ValueStatistics& value, const Settings& settings) {
  const Range all{static_cast<double>(value.least), static_cast<double>(value.greatest)};
  if (settings.method == Method::kEma) return EmaOf(value, settings.ema_weight);
  if (settings.method == Method::kPercentile) {
    const double share = settings.percentile / 100;
    return {std::clamp(value.Quantile(1 - share), all.low, all.high),
            std::clamp(value.Quantile(share), all.low, all.high)};
  }
  return all;
}

}  // namespace

Parameters ParametersFor(Range range, const Settings& settings, DataType float_type) {
  Parameters parameters{.dtype = settings.dtype};
  const bool is_signed = settings.dtype == DataType::kInt8;
  const double low = std::min(range.low, 0.0), high = std::max(range.high, 0.0);
  if (settings.symmetric) {
    const double most = std::max(-low, high);
    if (most > 0) parameters.scale = StoredScale(most / 127, float_type, parameters.raised);
    parameters.zero_point = is_signed ? 0 : 127;
    return parameters;
  }
  const int least = is_signed ? -128 : 0;
  if (high > low) parameters.scale = StoredScale((high - low) / 255, float_type, parameters.raised);
  parameters.zero_point =
      least + static_cast<int>(std::clamp(std::nearbyint(-low / parameters.scale), 0.0, 255.0));
  return parameters;
}

Range FindRange(Values values, const Settings& settings, DataType float_type) {
  Range range;
  for (const ValueStatistics* value : values) {
    const Range one = RangeOf(*value, settings);
    range.low = std::min(range.low, one.low);
    range.high = std::max(range.high, one.high);
  }
  if (settings.method != Method::kMse && settings.method != Method::kKl) return range;
  const std::vector<Mass> masses = MassesOf(values);
  if (masses.empty()) return range;
  if (settings.method == Method::kMse) {
    const auto error_of = [&](Range at) {
      return SquaredError(masses, ParametersFor(at, settings, float_type));
    };
    const Range best = Search(range, settings.symmetric, error_of);
    return error_of(best) * kWorthCutting < error_of(range) ? best : range;
  }
  const double most = std::max(-range.low, range.high);
  const bool one_sided = !settings.symmetric && (range.low == 0 || range.high == 0);
  const double end = BestEndByKl(masses, most, one_sided ? 256 : 128);
  return {std::max(range.low, -end), std::min(range.high, end)};
}

double MeanSquaredError(Values values, const Parameters& parameters) {
  double count = 0;
  for (const ValueStatistics* value : values) count += static_cast<double>(value->count);
  return count == 0 ? 0 : SquaredError(MassesOf(values), parameters) / count;
}

}  // namespace cmlc::activations
