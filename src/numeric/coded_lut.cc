#include "numeric/coded_lut.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "numeric/half.h"

namespace cmlc::numeric {
namespace {

constexpr int kMostTurns = 10;
constexpr double kGreatestHalf = 65504;
constexpr double kLeastHalf = 0x1p-24, kLeastFloat = 0x1p-126;

// Prefix sums over the points.
class Sums {
 public:
  explicit Sums(const Points& points) : values_(points.values) {
    sums_.reserve(values_.size() + 1);
    sums_.push_back({});
    for (size_t i = 0; i < values_.size(); ++i) {
      const double w = points.weights[i];
      const double x = values_[i];
      const One& last = sums_.back();
      sums_.push_back({last.weight + w, last.first + w * x, last.second + w * x * x});
    }
  }
  size_t size() const { return values_.size(); }
  // The first point from `begin` on that is above `value`.
  size_t Above(size_t begin, double value) const {
    return static_cast<size_t>(
        std::upper_bound(values_.begin() + static_cast<std::ptrdiff_t>(begin), values_.end(),
                         value) -
        values_.begin());
  }
  double Weight(size_t begin, size_t end) const { return sums_[end].weight - sums_[begin].weight; }
  double First(size_t begin, size_t end) const { return sums_[end].first - sums_[begin].first; }
  double Error(size_t begin, size_t end, double entry) const {
    return (sums_[end].second - sums_[begin].second) - 2 * entry * First(begin, end) +
           entry * entry * Weight(begin, end);
  }

 private:
  struct One {
    double weight = 0, first = 0, second = 0;
  };
  const std::vector<double>& values_;
  std::vector<One> sums_;
};

struct Attempt {
  double scale = 0;
  int zero_point = 0;
  std::vector<int> codes;
  double error = std::numeric_limits<double>::infinity();
};

class Search {
 public:
  Search(const Points& points, size_t most, const CodeType& type)
      : sums_(points), points_(points), most_(most), type_(type) {}

  int Nearest(double value, double scale, int zero_point) const {
    const double code = std::nearbyint(value / scale) + zero_point;
    const auto [low, high] = Range(scale, zero_point);
    return static_cast<int>(std::clamp(code, static_cast<double>(low), static_cast<double>(high)));
  }

  // The codes that stand for finite numbers of the scale's type.
  std::pair<int, int> Range(double scale, int zero_point) const {
    if (type_.scale_type == EntryType::kFloat) return {type_.low(), type_.high()};
    const double most = std::floor(kGreatestHalf / scale);
    return {static_cast<int>(std::max<double>(type_.low(), zero_point - most)),
            static_cast<int>(std::min<double>(type_.high(), zero_point + most))};
  }

  // Calls visit(code, begin, end) for the points that are nearest to each code.
  template <typename Visit>
  void ForClusters(const Attempt& attempt, const Visit& visit) const {
    size_t begin = 0;
    for (size_t e = 0; e < attempt.codes.size(); ++e) {
      size_t end = sums_.size();
      if (e + 1 < attempt.codes.size())
        end = sums_.Above(begin, attempt.scale * (0.5 * (attempt.codes[e] + attempt.codes[e + 1]) -
                                                  attempt.zero_point));
      visit(attempt.codes[e], begin, end);
      begin = end;
    }
  }
  double ErrorOf(const Attempt& attempt) const {
    double error = 0;
    ForClusters(attempt, [&](int code, size_t begin, size_t end) {
      error += sums_.Error(begin, end, attempt.scale * (code - attempt.zero_point));
    });
    return std::max(0.0, error);
  }

  // Codes near the given entries for a scale, improved in turns.
  Attempt Try(std::span<const double> start, double scale, int zero_point) const {
    Attempt attempt{.scale = scale, .zero_point = zero_point, .codes = {}};
    for (const double entry : start) attempt.codes.push_back(Nearest(entry, scale, zero_point));
    Finish(attempt.codes);
    Fill(attempt);
    attempt.error = ErrorOf(attempt);
    for (int turn = 0; turn < kMostTurns; ++turn) {
      Attempt next{.scale = scale, .zero_point = zero_point, .codes = {}};
      ForClusters(attempt, [&](int, size_t begin, size_t end) {
        if (end > begin)
          next.codes.push_back(
              Nearest(sums_.First(begin, end) / sums_.Weight(begin, end), scale, zero_point));
      });
      Finish(next.codes);
      Fill(next);
      next.error = ErrorOf(next);
      if (!(next.error < attempt.error)) break;
      attempt = std::move(next);
    }
    return attempt;
  }

  // The scale of least squared error for the codes as they are.
  double BestScale(const Attempt& attempt) const {
    double product = 0, square = 0;
    ForClusters(attempt, [&](int code, size_t begin, size_t end) {
      const double q = code - attempt.zero_point;
      product += q * sums_.First(begin, end);
      square += q * q * sums_.Weight(begin, end);
    });
    return square > 0 && product > 0 ? product / square : attempt.scale;
  }

 private:
  static void Finish(std::vector<int>& codes) {
    std::sort(codes.begin(), codes.end());
    codes.erase(std::unique(codes.begin(), codes.end()), codes.end());
  }

  // Entries that fell on the same code leave room for others: each goes where it saves most, beside
  // an entry that has a neighbour free.
  void Fill(Attempt& attempt) const {
    const auto [low, high] = Range(attempt.scale, attempt.zero_point);
    const size_t all = static_cast<size_t>(high - low + 1);
    if (attempt.codes.size() >= std::min(most_, all)) return;
    if (most_ >= all) {
      attempt.codes.clear();
      for (int code = low; code <= high; ++code) attempt.codes.push_back(code);
      return;
    }
    const int least = low, greatest = high;  // bindings cannot be captured
    struct Gain {
      double saved;
      int code;
    };
    for (int rounds = 0; rounds < 8 && attempt.codes.size() < most_; ++rounds) {
      std::vector<Gain> gains;
      size_t at = 0;
      ForClusters(attempt, [&](int code, size_t begin, size_t end) {
        const size_t index = at++;
        if (end <= begin) return;
        const double before = sums_.Error(begin, end, attempt.scale * (code - attempt.zero_point));
        for (const int side : {-1, 1}) {
          int other = code + side;
          const bool inner = side < 0 ? index > 0 : index + 1 < attempt.codes.size();
          if (inner)  // half way to the neighbour's half
            other = code +
                    (attempt.codes[static_cast<size_t>(static_cast<int>(index) + side)] - code) / 3;
          if (other == code || other < least || other > greatest) continue;
          const double middle = attempt.scale * (0.5 * (code + other) - attempt.zero_point);
          const size_t split = std::clamp(sums_.Above(begin, middle), begin, end);
          const double mine = attempt.scale * (code - attempt.zero_point);
          const double theirs = attempt.scale * (other - attempt.zero_point);
          const double after =
              side < 0 ? sums_.Error(begin, split, theirs) + sums_.Error(split, end, mine)
                       : sums_.Error(begin, split, mine) + sums_.Error(split, end, theirs);
          if (before > after) gains.push_back({before - after, other});
        }
      });
      if (gains.empty()) return;
      std::sort(gains.begin(), gains.end(), [](const Gain& a, const Gain& b) {
        return a.saved != b.saved ? a.saved > b.saved : a.code < b.code;
      });
      // Only the best half at a time: neighbours change what the others would save.
      const size_t room = most_ - attempt.codes.size();
      const size_t some = std::min(room, (gains.size() + 1) / 2);
      for (size_t i = 0; i < some; ++i) attempt.codes.push_back(gains[i].code);
      Finish(attempt.codes);
    }
  }

  Sums sums_;
  const Points& points_;
  size_t most_;
  CodeType type_;
};

double RoundScale(double scale, EntryType type) {
  const double rounded = static_cast<double>(
      RoundEntry(std::max(scale, type == EntryType::kHalf ? kLeastHalf : kLeastFloat), type));
  return std::isfinite(rounded) ? rounded : 65504.0;
}

}  // namespace

CodedLut FitCodedLut(const Points& points, std::span<const float> start, size_t most,
                     const CodeType& type, const std::optional<LinearParameters>& fixed) {
  const Search search(points, most, type);
  const std::vector<double> entries(start.begin(), start.end());
  Attempt best;
  const auto consider = [&](Attempt attempt) {
    if (!(attempt.error < best.error)) return false;
    best = std::move(attempt);
    return true;
  };
  if (fixed) {
    consider(search.Try(entries, static_cast<double>(fixed->scale), fixed->zero_point));
  } else {
    // What quantizing the finished entries would give comes first, so that no result is worse.
    Points weighted;
    size_t begin = 0;
    for (size_t e = 0; e < entries.size(); ++e) {
      size_t end = points.values.size();
      if (e + 1 < entries.size())
        end = static_cast<size_t>(
            std::upper_bound(points.values.begin() + static_cast<std::ptrdiff_t>(begin),
                             points.values.end(), (entries[e] + entries[e + 1]) / 2) -
            points.values.begin());
      double weight = 0;
      for (size_t i = begin; i < end; ++i) weight += points.weights[i];
      begin = end;
      if (!weighted.values.empty() && weighted.values.back() == entries[e])
        weighted.weights.back() += weight;
      else if (weight > 0)
        weighted.Add(entries[e], weight);
    }
    LinearFormat format{.bits = type.bits,
                        .is_signed = type.is_signed,
                        .symmetric = type.is_signed,
                        .scale_type = type.scale_type,
                        .search = false};
    for (const bool with_search : {false, true}) {
      format.search = with_search;
      const LinearParameters parameters = FitLinear(weighted, format);
      consider(search.Try(entries, static_cast<double>(parameters.scale), parameters.zero_point));
    }
    // Then scales around that at which the outermost entry has the outermost code.
    const double least = std::min(entries.front(), type.is_signed ? entries.front() : 0.0);
    const double greatest = std::max(entries.back(), type.is_signed ? entries.back() : 0.0);
    double widest = type.is_signed ? std::max(-least / -type.low(), greatest / type.high())
                                   : (greatest - least) / type.high();
    if (!(widest > 0)) widest = 1.0 / type.high();
    const auto attempt = [&](double wanted, int shift) {
      double scale = RoundScale(wanted, type.scale_type);
      int zero_point = 0;
      if (!type.is_signed) {
        // The range that the codes cannot cover is cut off evenly.
        const double middle = (least + greatest) / 2;
        zero_point =
            std::clamp(static_cast<int>(std::nearbyint(type.high() / 2.0 - middle / scale)) + shift,
                       0, type.high());
      }
      // Rounded up, the outermost entry may have no finite code any more.
      const double furthest = std::max(std::fabs(least), std::fabs(greatest));
      if (type.scale_type == EntryType::kHalf)
        while (scale * std::nearbyint(furthest / scale) > kGreatestHalf)
          scale = static_cast<double>(HalfToFloat(static_cast<uint16_t>(DoubleToHalf(scale) - 1)));
      return search.Try(entries, scale, zero_point);
    };
    double best_at = 1;
    consider(attempt(widest, 0));
    // Wider ones leave outermost codes free, which few entries on a grid of their own may want.
    for (const double wide : {1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 2.0})
      if (consider(attempt(widest * wide, 0))) best_at = wide;
    double at = 1.02;
    for (int i = 0; i < 24; ++i, at *= 0.9)
      if (consider(attempt(widest * at, 0))) best_at = at;
    for (double step = 0.05; step > 0.002; step /= 2)
      for (const double side : {1 - step, 1 + step})
        if (consider(attempt(widest * best_at * side, 0))) best_at *= side;
    if (!type.is_signed)
      for (const int shift : {-1, 1}) consider(attempt(widest * best_at, shift));
    for (int turn = 0; turn < 3; ++turn) {
      Attempt next = best;
      next.scale = RoundScale(search.BestScale(best), type.scale_type);
      const auto [low, high] = search.Range(next.scale, next.zero_point);
      if (next.codes.front() < low || next.codes.back() > high) break;
      next.error = search.ErrorOf(next);
      if (!consider(std::move(next))) break;
    }
  }
  CodedLut lut;
  lut.parameters = {.scale = static_cast<float>(best.scale), .zero_point = best.zero_point};
  lut.codes = best.codes;
  for (const int code : best.codes)
    lut.entries.push_back(RoundEntry(best.scale * (code - best.zero_point), type.scale_type));
  return lut;
}

namespace {

// What the vectors that are nearest to each of some entries add up to.
struct VectorSums {
  std::vector<double> sums;      // by entry and element
  std::vector<uint64_t> counts;  // by entry
  double error = 0;              // squared distances to the entries
};

Result<VectorSums> SumNearest(const VectorSource& source, size_t dim,
                              std::span<const float> entries, ThreadPool& pool) {
  // So many pieces at a time, added in their order.
  constexpr size_t kPieces = 32;
  VectorSums total{.sums = std::vector<double>(entries.size(), 0.0),
                   .counts = std::vector<uint64_t>(entries.size() / dim, 0)};
  for (size_t begin = 0; begin < source.pieces(); begin += kPieces) {
    std::vector<VectorSums> parts(std::min(kPieces, source.pieces() - begin));
    std::vector<Status> states(parts.size());
    pool.For(parts.size(), [&](size_t i, int) {
      VectorSums& part = parts[i];
      part.sums.assign(total.sums.size(), 0.0);
      part.counts.assign(total.counts.size(), 0);
      std::vector<uint8_t> codes;
      states[i] = source.Visit(begin + i, [&](uint64_t, std::span<const float> vectors) {
        codes.resize(vectors.size() / dim);
        part.error += AssignVectors(vectors, dim, entries, codes.data());
        for (size_t v = 0; v < codes.size(); ++v) {
          double* sums = part.sums.data() + codes[v] * dim;
          for (size_t j = 0; j < dim; ++j) sums[j] += static_cast<double>(vectors[v * dim + j]);
          ++part.counts[codes[v]];
        }
      });
    });
    for (size_t i = 0; i < parts.size(); ++i) {
      CMLC_RETURN_IF_ERROR(states[i]);
      for (size_t k = 0; k < total.sums.size(); ++k) total.sums[k] += parts[i].sums[k];
      for (size_t k = 0; k < total.counts.size(); ++k) total.counts[k] += parts[i].counts[k];
      total.error += parts[i].error;
    }
  }
  return total;
}

// The elements of entries, each as often as vectors are nearest to its entry.
Points ElementPoints(std::span<const float> entries, size_t dim,
                     const std::vector<uint64_t>& counts) {
  std::vector<size_t> order(entries.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return entries[a] != entries[b] ? entries[a] < entries[b] : a < b;
  });
  Points points;
  for (const size_t i : order) {
    const auto weight = static_cast<double>(counts[i / dim]);
    const auto value = static_cast<double>(entries[i]);
    if (!(weight > 0)) continue;
    if (!points.values.empty() && points.values.back() == value)
      points.weights.back() += weight;
    else
      points.Add(value, weight);
  }
  return points;
}

}  // namespace

Result<CodedLut> FitCodedVectors(const VectorSource& source, size_t dim,
                                 std::span<const float> start, const CodeType& type,
                                 ThreadPool& pool) {
  CMLC_ASSIGN_OR_RETURN(const VectorSums plain, SumNearest(source, dim, start, pool));
  const Points points = ElementPoints(start, dim, plain.counts);
  const Search search(points, start.size(), type);
  const auto code_all = [&](CodedLut& lut, const std::vector<double>& values) {
    const auto scale = static_cast<double>(lut.parameters.scale);
    lut.codes.clear();
    lut.entries.clear();
    for (const double value : values) {
      const int code = search.Nearest(value, scale, lut.parameters.zero_point);
      lut.codes.push_back(code);
      lut.entries.push_back(
          RoundEntry(scale * (code - lut.parameters.zero_point), type.scale_type));
    }
  };
  LinearFormat format{.bits = type.bits,
                      .is_signed = type.is_signed,
                      .symmetric = type.is_signed,
                      .scale_type = type.scale_type,
                      .search = false};
  CodedLut best;
  double least = std::numeric_limits<double>::infinity();
  // What quantizing the finished entries would give comes first, so that no result is worse.
  for (const bool with_search : {false, true}) {
    format.search = with_search;
    CodedLut lut{.parameters = FitLinear(points, format), .codes = {}, .entries = {}};
    code_all(lut, std::vector<double>(start.begin(), start.end()));
    constexpr int kTurns = 4;
    double before = std::numeric_limits<double>::infinity();
    for (int turn = 0; turn < kTurns; ++turn) {
      CMLC_ASSIGN_OR_RETURN(const VectorSums sums, SumNearest(source, dim, lut.entries, pool));
      if (sums.error < least) {
        least = sums.error;
        best = lut;
      }
      if (!(sums.error < before)) break;
      before = sums.error;
      // The best scale for the codes as they are, then the best codes for that scale.
      double product = 0, square = 0;
      for (size_t i = 0; i < lut.codes.size(); ++i) {
        const double q = lut.codes[i] - lut.parameters.zero_point;
        product += q * sums.sums[i];
        square += q * q * static_cast<double>(sums.counts[i / dim]);
      }
      if (turn > 0 && square > 0 && product > 0)
        lut.parameters.scale = static_cast<float>(RoundScale(product / square, type.scale_type));
      std::vector<double> means(start.begin(), start.end());
      for (size_t i = 0; i < means.size(); ++i)
        if (sums.counts[i / dim] > 0)
          means[i] = sums.sums[i] / static_cast<double>(sums.counts[i / dim]);
      code_all(lut, means);
    }
  }
  return best;
}

}  // namespace cmlc::numeric
