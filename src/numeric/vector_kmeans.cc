// How a good local optimum is found.
//
// Start. Greedy k-means++ (Arthur and Vassilvitskii 2007): each further centroid is the best of a
// few vectors drawn with a probability in proportion to the squared distance to the nearest
// centroid so far.
//
// Escape. Lloyd's algorithm ends where some clusters share what one could hold, and others hold
// what should be shared; no small step leads out of there. So a few centroids too many are added
// where the error is largest, all move, and then the clusters that cost least to merge are merged
// and all move again (breathing k-means, Fritzke 2020). What is better is kept; what is not is
// tried again with one centroid less, until there is none to add. That finds better optima than
// many starts do, in fewer rounds. Where vectors are few, several such chains go side by side.
//
// Rounds. Lloyd's algorithm with momentum: a centroid moves somewhat farther than to the mean of
// its vectors, and goes on with most of its last move. For 256 centroids twelve such rounds reach
// more than thirty do that go 1.5 times the way to the mean without momentum. After a round that
// made things worse it moves just to the mean. A centroid that lost all its vectors takes a part of
// the cluster with the largest error.
//
// Many vectors. All of this happens on a coreset (Bachem, Lucic and Krause 2018), a sample in which
// a vector is drawn with a probability that grows with its squared distance from the mean, and
// weighs the less the likelier it was. A plain sample would miss the few outlying channels that
// make most of the error, and one with a stride would see always the same channels. Then some
// rounds over everything remove what the sample got wrong.
//
// Distances. With k <= 256 comparing with every centroid is fastest, a vector of the processor
// holding the same element of many vectors: there is no reduction across lanes, so each lane does
// the same operations in the same order at every width. Differences are squared as they are; the
// usual expansion into |x|^2 - 2xc + |c|^2 saves a third of the operations but cancels where
// clusters are narrow. No fused multiply-add, as not all processors have one.
#include "numeric/vector_kmeans.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "numeric/vector_kmeans.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "base/check.h"

#ifndef CMLC_NUMERIC_VECTOR_KMEANS_ONCE_
#define CMLC_NUMERIC_VECTOR_KMEANS_ONCE_
namespace cmlc::numeric {
// Kernels work on tiles of this many vectors: element j of vector i is tile[j * kTile + i]. A
// multiple of 64, for four vectors of 16 lanes; with 8 elements a tile takes 8 KiB.
constexpr size_t kTile = 256;
}  // namespace cmlc::numeric
#endif

HWY_BEFORE_NAMESPACE();
namespace cmlc {
namespace numeric {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Each element times `scale`, from `values`, where those of a vector are adjacent, into a tile of
// which the first `count` vectors are set.
void FillTile(const float* values, size_t count, size_t dim, float scale, float* tile) {
  size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::CappedTag<float, 16> d;
  const size_t lanes = hn::Lanes(d);
  const auto factor = hn::Set(d, scale);
  if (dim == 2) {
    for (; i + lanes <= count; i += lanes) {
      hn::Vec<decltype(d)> x0, x1;
      hn::LoadInterleaved2(d, values + 2 * i, x0, x1);
      hn::StoreU(hn::Mul(x0, factor), d, tile + i);
      hn::StoreU(hn::Mul(x1, factor), d, tile + kTile + i);
    }
  } else if (dim == 4) {
    for (; i + lanes <= count; i += lanes) {
      hn::Vec<decltype(d)> x0, x1, x2, x3;
      hn::LoadInterleaved4(d, values + 4 * i, x0, x1, x2, x3);
      hn::StoreU(hn::Mul(x0, factor), d, tile + i);
      hn::StoreU(hn::Mul(x1, factor), d, tile + kTile + i);
      hn::StoreU(hn::Mul(x2, factor), d, tile + 2 * kTile + i);
      hn::StoreU(hn::Mul(x3, factor), d, tile + 3 * kTile + i);
    }
  } else if (dim == 8) {
    // Pairs of elements are parted first, then the two of a pair.
    const hn::Repartition<uint64_t, decltype(d)> d64;
    const auto store = [&](auto low, auto high, float* to) HWY_ATTR {
      const auto a = hn::BitCast(d, low), b = hn::BitCast(d, high);
      hn::StoreU(hn::Mul(hn::ConcatEven(d, b, a), factor), d, to);
      hn::StoreU(hn::Mul(hn::ConcatOdd(d, b, a), factor), d, to + kTile);
    };
    for (; i + lanes <= count; i += lanes) {
      const auto* low = reinterpret_cast<const uint64_t*>(values + 8 * i);
      const auto* high = reinterpret_cast<const uint64_t*>(values + 8 * i + 4 * lanes);
      hn::Vec<decltype(d64)> a0, a1, a2, a3, b0, b1, b2, b3;
      hn::LoadInterleaved4(d64, low, a0, a1, a2, a3);
      hn::LoadInterleaved4(d64, high, b0, b1, b2, b3);
      store(a0, b0, tile + i);
      store(a1, b1, tile + 2 * kTile + i);
      store(a2, b2, tile + 4 * kTile + i);
      store(a3, b3, tile + 6 * kTile + i);
    }
  }
#endif
  for (; i < count; ++i)
    for (size_t j = 0; j < dim; ++j) tile[j * kTile + i] = values[i * dim + j] * scale;
}

// kDim is the number of elements, or 0 if only `dim` tells.
template <size_t kDim>
void NearestOf(const float* tile, size_t dim, const float* centroids, size_t k, int32_t* codes,
               float* distances) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToSigned<decltype(d)> di;
  const size_t lanes = hn::Lanes(d);
  if constexpr (kDim != 0) dim = kDim;
  const auto one = hn::Set(di, 1);
  // Four vectors for each centroid loaded, which also hides the latency of the additions.
  for (size_t i = 0; i < kTile; i += 4 * lanes) {
    const float* x = tile + i;
    auto best0 = hn::Set(d, std::numeric_limits<float>::infinity());
    auto best1 = best0, best2 = best0, best3 = best0;
    auto code0 = hn::Zero(di);
    auto code1 = code0, code2 = code0, code3 = code0, current = code0;
    const float* c = centroids;
    for (size_t centroid = 0; centroid < k; ++centroid, c += dim) {
      const auto first = hn::Set(d, c[0]);
      const auto t0 = hn::Sub(hn::LoadU(d, x), first);
      const auto t1 = hn::Sub(hn::LoadU(d, x + lanes), first);
      const auto t2 = hn::Sub(hn::LoadU(d, x + 2 * lanes), first);
      const auto t3 = hn::Sub(hn::LoadU(d, x + 3 * lanes), first);
      auto sum0 = hn::Mul(t0, t0), sum1 = hn::Mul(t1, t1);
      auto sum2 = hn::Mul(t2, t2), sum3 = hn::Mul(t3, t3);
      for (size_t j = 1; j < dim; ++j) {
        const float* xj = x + j * kTile;
        const auto cj = hn::Set(d, c[j]);
        const auto u0 = hn::Sub(hn::LoadU(d, xj), cj);
        const auto u1 = hn::Sub(hn::LoadU(d, xj + lanes), cj);
        const auto u2 = hn::Sub(hn::LoadU(d, xj + 2 * lanes), cj);
        const auto u3 = hn::Sub(hn::LoadU(d, xj + 3 * lanes), cj);
        sum0 = hn::Add(sum0, hn::Mul(u0, u0));
        sum1 = hn::Add(sum1, hn::Mul(u1, u1));
        sum2 = hn::Add(sum2, hn::Mul(u2, u2));
        sum3 = hn::Add(sum3, hn::Mul(u3, u3));
      }
      code0 = hn::IfThenElse(hn::RebindMask(di, hn::Lt(sum0, best0)), current, code0);
      code1 = hn::IfThenElse(hn::RebindMask(di, hn::Lt(sum1, best1)), current, code1);
      code2 = hn::IfThenElse(hn::RebindMask(di, hn::Lt(sum2, best2)), current, code2);
      code3 = hn::IfThenElse(hn::RebindMask(di, hn::Lt(sum3, best3)), current, code3);
      best0 = hn::Min(sum0, best0);
      best1 = hn::Min(sum1, best1);
      best2 = hn::Min(sum2, best2);
      best3 = hn::Min(sum3, best3);
      current = hn::Add(current, one);
    }
    hn::StoreU(best0, d, distances + i);
    hn::StoreU(best1, d, distances + i + lanes);
    hn::StoreU(best2, d, distances + i + 2 * lanes);
    hn::StoreU(best3, d, distances + i + 3 * lanes);
    hn::StoreU(code0, di, codes + i);
    hn::StoreU(code1, di, codes + i + lanes);
    hn::StoreU(code2, di, codes + i + 2 * lanes);
    hn::StoreU(code3, di, codes + i + 3 * lanes);
  }
}

// The first of the nearest centroids of every vector of a tile, and the squared distance. A vector
// from which all are infinitely far gets code 0.
void NearestOfTile(const float* tile, size_t dim, const float* centroids, size_t k, int32_t* codes,
                   float* distances) {
  switch (dim) {
    case 1:
      return NearestOf<1>(tile, dim, centroids, k, codes, distances);
    case 2:
      return NearestOf<2>(tile, dim, centroids, k, codes, distances);
    case 4:
      return NearestOf<4>(tile, dim, centroids, k, codes, distances);
    case 8:
      return NearestOf<8>(tile, dim, centroids, k, codes, distances);
    default:
      return NearestOf<0>(tile, dim, centroids, k, codes, distances);
  }
}

// The lesser of distances[i] and the squared distance to one more centroid.
void LessenDistances(const float* tile, size_t dim, const float* centroid, const float* distances,
                     float* lessened) {
  const hn::CappedTag<float, 16> d;
  const size_t lanes = hn::Lanes(d);
  for (size_t i = 0; i < kTile; i += lanes) {
    const auto first = hn::Sub(hn::LoadU(d, tile + i), hn::Set(d, centroid[0]));
    auto sum = hn::Mul(first, first);
    for (size_t j = 1; j < dim; ++j) {
      const auto difference = hn::Sub(hn::LoadU(d, tile + j * kTile + i), hn::Set(d, centroid[j]));
      sum = hn::Add(sum, hn::Mul(difference, difference));
    }
    hn::StoreU(hn::Min(sum, hn::LoadU(d, distances + i)), d, lessened + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace numeric
}  // namespace cmlc
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cmlc::numeric {

HWY_EXPORT(FillTile);
HWY_EXPORT(NearestOfTile);
HWY_EXPORT(LessenDistances);

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Vectors in memory are shared out to threads by this many tiles.
constexpr size_t kChunkTiles = 32;
// Up to so many vectors are fitted in memory; of more a coreset is made.
constexpr uint64_t kMostInMemory = uint64_t{1} << 17;
// The start is chosen on this many vectors for each centroid, within these limits; but on no fewer
// than kLeastPerCentroid for each.
constexpr size_t kStartPerCentroid = 512;
constexpr size_t kLeastStart = size_t{1} << 13, kMostStart = size_t{1} << 16;
constexpr size_t kLeastPerCentroid = 64;
// Tables of sums that exist at a time take no more than this, unless a single one does.
constexpr size_t kMostTableBytes = size_t{1} << 25;
constexpr size_t kMostTables = 64;

// Fixed, so that the same vectors always give the same centroids.
constexpr uint64_t kSeed = 0x9e3779b97f4a7c15;

// SplitMix64 (Steele, Lea and Flood 2014): a counter, mixed.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // In [0, 1).
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

// The power of two that brings `most` into [2^target, 2^(target + 1)), as far as it and its inverse
// are normal numbers of fp32. Multiplying by it changes no digit, but keeps squares of ordinary
// differences inside the range of fp32.
float ScaleTo(int target, float most) {
  if (!(most > 0) || !std::isfinite(most)) return 1;
  return std::ldexp(1.0f, std::clamp(target - std::ilogb(most), -126, 126));
}

// Largest magnitude of the vectors after scaling: squares and their sums over 64 elements and many
// vectors stay below 2^127, and differences count down to 2^-120 of the largest value.
constexpr int kFitTarget = 48;
constexpr int kAssignTarget = 40;

// What one round learns about each cluster, summed over vectors x of weight w: a row of w * x for
// each element, w * distance and w.
class Table {
 public:
  Table(size_t dim, size_t k) : stride_(dim + 2), values_(k * stride_) {}
  void Clear() { std::fill(values_.begin(), values_.end(), 0.0); }
  void Add(const Table& other) {
    for (size_t i = 0; i < values_.size(); ++i) values_[i] += other.values_[i];
  }
  // Multiplies the sums of elements, and nothing else.
  void ScaleSums(double scale) {
    for (size_t i = 0; i < values_.size(); ++i)
      if (i % stride_ < stride_ - 2) values_[i] *= scale;
  }
  const double* row(size_t cluster) const { return values_.data() + cluster * stride_; }
  double* data() { return values_.data(); }
  double error(size_t cluster) const { return row(cluster)[stride_ - 2]; }
  double weight(size_t cluster) const { return row(cluster)[stride_ - 1]; }

 private:
  size_t stride_;
  std::vector<double> values_;
};

// Adds vectors to the rows of their clusters, one after the other: the sums depend on the order of
// the vectors alone, not on where a tile ends.
template <size_t kDim, bool kWeighted>
void AddVectors(const float* values, size_t dim, size_t count, const float* weights,
                const int32_t* codes, const float* distances, double* rows) {
  if constexpr (kDim != 0) dim = kDim;
  for (size_t i = 0; i < count; ++i) {
    double* row = rows + static_cast<size_t>(codes[i]) * (dim + 2);
    const double weight = kWeighted ? static_cast<double>(weights[i]) : 1.0;
    for (size_t j = 0; j < dim; ++j) {
      const auto x = static_cast<double>(values[i * dim + j]);
      row[j] += kWeighted ? weight * x : x;
    }
    row[dim] += weight * static_cast<double>(distances[i]);
    row[dim + 1] += weight;
  }
}

// `weights` is null where all are 1.
void AddVectors(const float* values, size_t dim, size_t count, const float* weights,
                const int32_t* codes, const float* distances, double* rows) {
  const auto add = [&]<size_t kDim>() {
    weights == nullptr
        ? AddVectors<kDim, false>(values, dim, count, weights, codes, distances, rows)
        : AddVectors<kDim, true>(values, dim, count, weights, codes, distances, rows);
  };
  switch (dim) {
    case 2:
      return add.operator()<2>();
    case 4:
      return add.operator()<4>();
    case 8:
      return add.operator()<8>();
    default:
      return add.operator()<0>();
  }
}

// Assigns the vectors of a tile and adds them up. `values` has the same vectors as the tile, of
// which it may be a multiple.
void AddNearest(const float* tile, const float* values, size_t dim, size_t count,
                const float* weights, const float* centroids, size_t k, double* rows) {
  int32_t codes[kTile];
  float distances[kTile];
  HWY_DYNAMIC_DISPATCH(NearestOfTile)(tile, dim, centroids, k, codes, distances);
  AddVectors(values, dim, count, weights, codes, distances, rows);
}

// Fills `total` with the sum of tables, the i-th of which `add` makes; always added in that order.
// There are only so many tables at a time.
template <typename AddPart>
void SumInOrder(size_t parts, size_t dim, size_t k, ThreadPool& pool, const AddPart& add,
                Table& total) {
  total.Clear();
  const size_t table_bytes = k * (dim + 2) * sizeof(double);
  const size_t wave =
      std::min(parts, std::clamp<size_t>(kMostTableBytes / table_bytes, 1, kMostTables));
  std::vector<Table> tables(wave, Table(dim, k));
  for (size_t begin = 0; begin < parts; begin += wave) {
    const size_t count = std::min(wave, parts - begin);
    pool.For(count, [&](size_t i, int) {
      tables[i].Clear();
      add(begin + i, tables[i].data());
    });
    for (size_t i = 0; i < count; ++i) total.Add(tables[i]);
  }
}

// Vectors in memory, as tiles.
struct Sample {
  size_t dim = 0;
  size_t count = 0;
  std::vector<float> values;   // the elements of a vector adjacent
  std::vector<float> tiles;    // the same; the last one filled up with zeros
  std::vector<float> weights;  // one for each vector, 0 in what fills up; empty if all are 1

  size_t tile_count() const { return (count + kTile - 1) / kTile; }
  const float* tile(size_t index) const { return tiles.data() + index * kTile * dim; }
  size_t vectors_in(size_t tile) const { return std::min(kTile, count - tile * kTile); }
  const float* weights_of(size_t tile) const {
    return weights.empty() ? nullptr : weights.data() + tile * kTile;
  }
  float weight(size_t i) const { return weights.empty() ? 1.0f : weights[i]; }

  Sample(size_t dims, size_t vectors) : dim(dims), count(vectors) {
    values.resize(count * dim);
    tiles.assign(tile_count() * kTile * dim, 0.0f);
  }
  // Sets the vectors from `first` on to those in `source`, times `scale`.
  void Set(size_t first, std::span<const float> source, float scale) {
    std::transform(source.begin(), source.end(),
                   values.begin() + static_cast<ptrdiff_t>(first * dim),
                   [scale](float x) { return x * scale; });
    size_t left = source.size() / dim;
    const float* from = source.data();
    while (left > 0) {
      const size_t in_tile = first % kTile, step = std::min(left, kTile - in_tile);
      HWY_DYNAMIC_DISPATCH(FillTile)
      (from, step, dim, scale, tiles.data() + (first - in_tile) * dim + in_tile);
      first += step, left -= step, from += step * dim;
    }
  }
  const float* vector(size_t i) const { return values.data() + i * dim; }

  // One round: what is nearest to each of the centroids.
  void Sum(const std::vector<float>& centroids, ThreadPool& pool, Table& total) const {
    const size_t k = centroids.size() / dim;
    SumInOrder((tile_count() + kChunkTiles - 1) / kChunkTiles, dim, k, pool,
               [&](size_t chunk, double* rows) {
                 const size_t end = std::min(tile_count(), (chunk + 1) * kChunkTiles);
                 for (size_t t = chunk * kChunkTiles; t < end; ++t)
                   AddNearest(tile(t), vector(t * kTile), dim, vectors_in(t), weights_of(t),
                              centroids.data(), k, rows);
               },
               total);
  }
};

// One round over a source.
Status SumSource(const VectorSource& source, size_t dim, float scale,
                 const std::vector<float>& centroids, ThreadPool& pool, Table& total) {
  const size_t k = centroids.size() / dim;
  std::vector<Status> statuses(source.pieces());
  SumInOrder(
      source.pieces(), dim, k, pool,
      [&](size_t piece, double* rows) {
        std::vector<float> tile(kTile * dim, 0.0f);
        statuses[piece] = source.Visit(piece, [&](uint64_t, std::span<const float> values) {
          const size_t count = values.size() / dim;
          for (size_t i = 0; i < count; i += kTile) {
            const size_t step = std::min(kTile, count - i);
            const float* from = values.data() + i * dim;
            HWY_DYNAMIC_DISPATCH(FillTile)(from, step, dim, scale, tile.data());
            AddNearest(tile.data(), from, dim, step, nullptr, centroids.data(), k, rows);
          }
        });
      },
      total);
  for (const Status& status : statuses) CMLC_RETURN_IF_ERROR(status);
  total.ScaleSums(static_cast<double>(scale));
  return Ok();
}

// Centroids on their way to a local optimum.
class Descent {
 public:
  Descent(std::vector<float> start, size_t dim, uint64_t seed)
      : dim_(dim), random_(seed), current_(std::move(start)), best_(current_) {
    at_.assign(current_.begin(), current_.end());
    moves_.assign(at_.size(), 0.0);
  }

  // Where the next round is to measure.
  const std::vector<float>& current() const { return current_; }
  const std::vector<float>& best() const { return best_; }
  double best_error() const { return best_error_; }
  // What was measured there, and the means of its clusters.
  const Table& best_table() const { return *best_table_; }
  const std::vector<double>& best_means() const { return best_means_; }
  size_t k() const { return current_.size() / dim_; }

  // Takes what a round measured for current(), and moves on. Returns whether it is worth going on:
  // not if two rounds each gain less than `least_gain` of the error.
  bool Advance(const Table& table, double least_gain) {
    double error = 0;
    for (size_t c = 0; c < k(); ++c) error += table.error(c);
    const bool rose = error > last_error_;
    const bool gains_little =
        std::isfinite(last_error_) && !rose && last_error_ - error <= least_gain * last_error_;
    rounds_of_little_ = gains_little ? rounds_of_little_ + 1 : 0;
    const bool at_rest = (rose && plain_) || rounds_of_little_ == 2 || error == 0;
    if (error < best_error_ || at_means_) {
      best_error_ = error;
      best_ = current_;
      best_table_ = table;
      best_means_ = at_;
      for (size_t c = 0; c < k(); ++c)
        for (size_t j = 0; j < dim_ && table.weight(c) > 0; ++j)
          best_means_[c * dim_ + j] = table.row(c)[j] / table.weight(c);
    }
    last_error_ = error;
    at_means_ = false;
    plain_ = rose;
    Move(table);
    return !at_rest;
  }

  // To measure once more, at the means of the best clusters so far: momentum overshoots them. They
  // are better, even where that is lost in the rounding of the error.
  void GoToMeans() {
    std::transform(best_means_.begin(), best_means_.end(), current_.begin(),
                   [](double mean) { return static_cast<float>(mean); });
    at_ = best_means_;
    at_means_ = true;
  }

  // To measure on other vectors: what was found so far is only a start.
  void StartAgain() {
    current_ = best_;
    at_.assign(current_.begin(), current_.end());
    moves_.assign(at_.size(), 0.0);
    best_error_ = last_error_ = std::numeric_limits<double>::infinity();
    rounds_of_little_ = 0;
    plain_ = true;
  }

 private:
  // Found by trial on Gaussian, Laplace and row-scaled data.
  static constexpr double kStep = 1.3;
  static constexpr double kMomentum = 0.8;

  void Move(const Table& table) {
    std::vector<size_t> empty;
    for (size_t c = 0; c < k(); ++c) {
      const double weight = table.weight(c);
      if (!(weight > 0)) {
        empty.push_back(c);
        continue;
      }
      const double* sums = table.row(c);
      for (size_t j = 0; j < dim_; ++j) {
        double& at = at_[c * dim_ + j];
        double& move = moves_[c * dim_ + j];
        const double to_mean = sums[j] / weight - at;
        move = plain_ ? to_mean : kStep * to_mean + kMomentum * move;
        at += move;
      }
    }
    if (!empty.empty()) Refill(table, empty);
    for (size_t i = 0; i < at_.size(); ++i) current_[i] = static_cast<float>(at_[i]);
  }

  // Splits the clusters of the largest errors among themselves and the empty ones.
  void Refill(const Table& table, const std::vector<size_t>& empty) {
    std::vector<double> errors(k());
    for (size_t c = 0; c < k(); ++c) errors[c] = table.error(c);
    for (const size_t c : empty) {
      const auto worst =
          static_cast<size_t>(std::max_element(errors.begin(), errors.end()) - errors.begin());
      if (!(errors[worst] > 0)) return;
      const double radius =
          std::sqrt(table.error(worst) / table.weight(worst) / static_cast<double>(dim_));
      for (size_t j = 0; j < dim_; ++j) {
        const double mean = table.row(worst)[j] / table.weight(worst);
        at_[c * dim_ + j] = mean + (random_.Next() % 2 == 0 ? radius : -radius);
        moves_[c * dim_ + j] = 0;
      }
      errors[worst] /= 2;
    }
  }

  size_t dim_;
  Random random_;
  bool plain_ = true;  // whether the last move was just to the means
  bool at_means_ = false;
  int rounds_of_little_ = 0;
  std::vector<double> at_;      // where the centroids are
  std::vector<double> moves_;   // how they came there
  std::vector<float> current_;  // the same, rounded
  std::vector<float> best_;
  std::vector<double> best_means_;
  std::optional<Table> best_table_;
  double best_error_ = std::numeric_limits<double>::infinity();
  double last_error_ = std::numeric_limits<double>::infinity();
};

// Greedy k-means++ with 2 + ln k draws for each centroid, the number that Arthur and Vassilvitskii
// tried. There may be fewer than k centroids if the vectors have fewer values.
std::vector<float> Seed(const Sample& sample, size_t k, uint64_t seed, ThreadPool& pool) {
  Random random(seed);
  const size_t dim = sample.dim, tiles = sample.tile_count();
  const size_t draws = 2 + static_cast<size_t>(std::log(static_cast<double>(k)));
  // A column for the distances so far, and one for each draw; the same with their sums by tile.
  std::vector<std::vector<float>> distances(draws + 1, std::vector<float>(tiles * kTile));
  std::vector<std::vector<double>> sums(draws + 1, std::vector<double>(tiles));
  std::vector<double> totals(draws + 1);
  size_t kept = 0;  // the column of the distances so far

  // Sums in 16 strands, whatever the processor's width, of weighted distances.
  const auto sum_tile = [&](const std::vector<float>& column, size_t t) {
    std::array<float, 16> strands{};
    const float* at = column.data() + t * kTile;
    const float* weights = sample.weights_of(t);
    const size_t count = sample.vectors_in(t);
    size_t i = 0;
    if (weights == nullptr) {
      for (; i + 16 <= count; i += 16)
        for (size_t s = 0; s < 16; ++s) strands[s] += at[i + s];
      for (size_t s = 0; i + s < count; ++s) strands[s] += at[i + s];
    } else {
      for (; i + 16 <= count; i += 16)
        for (size_t s = 0; s < 16; ++s) strands[s] += weights[i + s] * at[i + s];
      for (size_t s = 0; i + s < count; ++s) strands[s] += weights[i + s] * at[i + s];
    }
    double sum = 0;
    for (const float strand : strands) sum += static_cast<double>(strand);
    return sum;
  };
  // A vector, drawn in proportion to its share of a column's sum.
  const auto draw = [&](size_t column) {
    double left = random.Uniform() * totals[column];
    size_t t = 0;
    while (t + 1 < tiles && left >= sums[column][t]) left -= sums[column][t++];
    size_t picked = t * kTile;
    for (size_t i = t * kTile; i < t * kTile + sample.vectors_in(t); ++i) {
      const double share =
          static_cast<double>(sample.weight(i)) * static_cast<double>(distances[column][i]);
      if (!(share > 0)) continue;
      picked = i;  // rounding may leave something behind the last one
      if (left < share) break;
      left -= share;
    }
    return picked;
  };
  const auto total_of = [&](size_t column) {
    return std::accumulate(sums[column].begin(), sums[column].end(), 0.0);
  };

  std::vector<float> centroids(k * dim);
  std::fill(distances[0].begin(), distances[0].end(), 1.0f);
  for (size_t t = 0; t < tiles; ++t) sums[0][t] = sum_tile(distances[0], t);
  totals[0] = total_of(0);
  size_t made = 0;
  std::vector<float> drawn(draws * dim);
  std::vector<size_t> columns;
  for (; made < k; ++made) {
    const size_t tries = made == 0 ? 1 : draws;
    columns.clear();
    for (size_t column = 0; column <= draws && columns.size() < tries; ++column)
      if (column != kept) columns.push_back(column);
    for (size_t i = 0; i < tries; ++i)
      std::copy_n(sample.vector(draw(kept)), dim, drawn.data() + i * dim);
    if (made == 0) std::fill(distances[kept].begin(), distances[kept].end(), kInfinity);
    pool.For((tiles + kChunkTiles - 1) / kChunkTiles, [&](size_t chunk, int) {
      const size_t end = std::min(tiles, (chunk + 1) * kChunkTiles);
      for (size_t t = chunk * kChunkTiles; t < end; ++t) {
        for (size_t i = 0; i < tries; ++i) {
          std::vector<float>& column = distances[columns[i]];
          HWY_DYNAMIC_DISPATCH(LessenDistances)
          (sample.tile(t), dim, drawn.data() + i * dim, distances[kept].data() + t * kTile,
           column.data() + t * kTile);
          sums[columns[i]][t] = sum_tile(column, t);
        }
      }
    });
    size_t best = 0;
    for (size_t i = 0; i < tries; ++i) {
      totals[columns[i]] = total_of(columns[i]);
      if (totals[columns[i]] < totals[columns[best]]) best = i;
    }
    kept = columns[best];
    std::copy_n(drawn.begin() + static_cast<ptrdiff_t>(best * dim), dim,
                centroids.begin() + static_cast<ptrdiff_t>(made * dim));
    if (!(totals[kept] > 0)) {
      ++made;
      break;
    }
  }
  centroids.resize(made * dim);
  return centroids;
}

// Centroids that more are added to: `more` of them, beside those of the clusters with the largest
// errors.
std::vector<float> Widen(const Descent& descent, size_t dim, size_t more, Random& random) {
  const Table& table = descent.best_table();
  std::vector<double> errors(descent.k());
  for (size_t c = 0; c < errors.size(); ++c) errors[c] = table.error(c);
  std::vector<float> wider(descent.best_means().begin(), descent.best_means().end());
  for (; more > 0; --more) {
    const auto worst =
        static_cast<size_t>(std::max_element(errors.begin(), errors.end()) - errors.begin());
    if (!(errors[worst] > 0)) break;
    const double radius =
        std::sqrt(table.error(worst) / table.weight(worst) / static_cast<double>(dim));
    for (size_t j = 0; j < dim; ++j)
      wider.push_back(static_cast<float>(descent.best_means()[worst * dim + j] +
                                         (random.Next() % 2 == 0 ? radius : -radius)));
    errors[worst] /= 4;
  }
  return wider;
}

// Merges clusters until `k` are left, each time the two that cost the least (Ward 1963).
std::vector<float> Narrow(const Descent& descent, size_t dim, size_t k) {
  const Table& table = descent.best_table();
  std::vector<double> means = descent.best_means();
  std::vector<double> weights(descent.k());
  size_t count = weights.size();
  for (size_t c = 0; c < count; ++c) weights[c] = table.weight(c);
  const auto cost = [&](size_t a, size_t b) {
    double distance = 0;
    for (size_t j = 0; j < dim; ++j) {
      const double difference = means[a * dim + j] - means[b * dim + j];
      distance += difference * difference;
    }
    const double sum = weights[a] + weights[b];
    return sum > 0 ? weights[a] * weights[b] / sum * distance : 0.0;
  };
  // The partner of each, among those behind it, that it is merged with at the least cost.
  struct Partner {
    size_t cluster = 0;
    double cost = std::numeric_limits<double>::infinity();
  };
  std::vector<Partner> partners(count);
  const auto find = [&](size_t a) {
    partners[a] = {};
    for (size_t b = a + 1; b < count; ++b)
      if (const double merging = cost(a, b); merging < partners[a].cost)
        partners[a] = {.cluster = b, .cost = merging};
  };
  for (size_t a = 0; a < count; ++a) find(a);
  while (count > k) {
    size_t a = 0;
    for (size_t c = 1; c + 1 < count; ++c)
      if (partners[c].cost < partners[a].cost) a = c;
    const size_t b = partners[a].cluster, last = count - 1;
    const double sum = weights[a] + weights[b];
    for (size_t j = 0; j < dim && sum > 0; ++j)
      means[a * dim + j] =
          (weights[a] * means[a * dim + j] + weights[b] * means[b * dim + j]) / sum;
    weights[a] = sum;
    // The last one takes the free place.
    for (size_t j = 0; j < dim; ++j) means[b * dim + j] = means[last * dim + j];
    weights[b] = weights[last];
    --count;
    for (size_t c = 0; c < count; ++c) {
      const size_t partner = partners[c].cluster;
      if (c == a || c == b || partner == a || partner == b || partner == last) {
        find(c);
        continue;
      }
      for (const size_t changed : {a, b})
        if (changed > c && changed < count)
          if (const double merging = cost(c, changed); merging < partners[c].cost)
            partners[c] = {.cluster = changed, .cost = merging};
    }
  }
  return {means.begin(), means.begin() + static_cast<ptrdiff_t>(k * dim)};
}

// How much is tried. Many vectors have many optima that hardly differ; few have few that do.
constexpr size_t kStarts = 2;  // of a chain; the better one goes on
constexpr int kStartRounds = 4;
constexpr int kWideRounds = 6, kNarrowRounds = 12, kFinalRounds = 200;
constexpr double kRestingGain = 1e-5, kFinalGain = 1e-6;
constexpr size_t kMostMore = 5;  // centroids that are added and taken away at a time

size_t ChainsFor(const Sample& sample, size_t k) {
  const size_t comparisons = sample.count * k;
  if (comparisons <= size_t{1} << 15) return 4;
  return comparisons <= size_t{1} << 17 ? 2 : 1;
}

// One round after the other, until the centroids are at rest or there were `rounds`; or until the
// error would not come below `wanted` even if every round left gained as much as the last one.
void Descend(const Sample& sample, Descent& descent, int rounds, double least_gain,
             ThreadPool& pool, double wanted = std::numeric_limits<double>::infinity()) {
  Table table(sample.dim, descent.k());
  for (int left = rounds; left > 0; --left) {
    const double before = descent.best_error();
    sample.Sum(descent.current(), pool, table);
    if (!descent.Advance(table, least_gain)) break;
    const double after = descent.best_error();
    if (std::isfinite(before) && after < before && after - left * (before - after) > wanted) break;
  }
}

// The best centroids that are found on a sample.
Descent FitSample(const Sample& sample, size_t k, ThreadPool& pool) {
  std::vector<std::optional<Descent>> chains(ChainsFor(sample, k));
  const auto run = [&](size_t chain) {
    Random random(kSeed ^ chain);
    std::optional<Descent> best;
    for (size_t start = 0; start < kStarts; ++start) {
      const uint64_t seed = kSeed + chain * kStarts + start;
      Descent descent(Seed(sample, k, seed, pool), sample.dim, seed);
      Descend(sample, descent, kStartRounds, kRestingGain, pool);
      if (!best || descent.best_error() < best->best_error()) best = std::move(descent);
    }
    size_t more = std::clamp<size_t>(k / 2, 1, kMostMore);
    while (more > 0 && best->k() == k && best->best_error() > 0) {
      Descent wide(Widen(*best, sample.dim, more, random), sample.dim, random.Next());
      Descend(sample, wide, kWideRounds, kRestingGain, pool);
      Descent narrow(Narrow(wide, sample.dim, k), sample.dim, random.Next());
      Descend(sample, narrow, kNarrowRounds, kRestingGain, pool, best->best_error());
      const double error = best->best_error();
      if (narrow.best_error() < error) best = std::move(narrow);
      if (best->best_error() >= error * (1 - kRestingGain)) --more;
    }
    chains[chain] = std::move(best);
  };
  // A few tiles are too little work to share; then the chains are shared out instead, and the
  // loops inside run on one thread each.
  if (sample.tile_count() <= 4 * kChunkTiles)
    pool.For(chains.size(), [&](size_t chain, int) { run(chain); });
  else
    for (size_t chain = 0; chain < chains.size(); ++chain) run(chain);
  size_t best = 0;
  for (size_t chain = 1; chain < chains.size(); ++chain)
    if (chains[chain]->best_error() < chains[best]->best_error()) best = chain;
  Descent descent = std::move(*chains[best]);
  Descent last(std::vector<float>(descent.best()), sample.dim, kSeed);
  Descend(sample, last, kFinalRounds, kFinalGain, pool);
  return last;
}

// Sums over all vectors that scale and coreset need.
struct Moments {
  std::vector<double> sums;  // by element
  double squares = 0;
  float most = 0;  // largest magnitude
  uint64_t count = 0;
};

Result<std::vector<Moments>> MeasurePieces(const VectorSource& source, size_t dim,
                                           ThreadPool& pool) {
  std::vector<Moments> moments(source.pieces());
  std::vector<Status> statuses(source.pieces());
  pool.For(source.pieces(), [&](size_t piece, int) {
    Moments& m = moments[piece];
    m.sums.assign(dim, 0.0);
    statuses[piece] = source.Visit(piece, [&](uint64_t, std::span<const float> values) {
      m.count += values.size() / dim;
      const auto add = [&]<size_t kDim>() {
        const size_t dims = kDim == 0 ? dim : kDim;
        std::array<double, kDim == 0 ? kMostVectorDims : kDim> sums{}, squares{};
        std::array<float, kDim == 0 ? kMostVectorDims : kDim> most{};
        for (size_t i = 0; i + dims <= values.size(); i += dims)
          for (size_t j = 0; j < dims; ++j) {
            const auto x = static_cast<double>(values[i + j]);
            sums[j] += x;
            squares[j] += x * x;
            most[j] = std::max(most[j], std::fabs(values[i + j]));
          }
        for (size_t j = 0; j < dims; ++j) {
          m.sums[j] += sums[j];
          m.squares += squares[j];
          m.most = std::max(m.most, most[j]);
        }
      };
      if (dim == 2)
        add.operator()<2>();
      else if (dim == 4)
        add.operator()<4>();
      else if (dim == 8)
        add.operator()<8>();
      else
        add.operator()<0>();
    });
  });
  for (const Status& status : statuses) CMLC_RETURN_IF_ERROR(status);
  return moments;
}

// All vectors of a source.
Result<Sample> LoadAll(const VectorSource& source, size_t dim, float scale) {
  Sample sample(dim, static_cast<size_t>(source.count()));
  size_t next = 0;
  for (size_t piece = 0; piece < source.pieces(); ++piece) {
    CMLC_RETURN_IF_ERROR(source.Visit(piece, [&](uint64_t, std::span<const float> values) {
      const size_t left = (sample.count - next) * dim;
      values = values.first(std::min(values.size(), left));
      sample.Set(next, values, scale);
      next += values.size() / dim;
    }));
  }
  return sample;
}

// About `size` vectors. Vector i is drawn size * q(i) times in the mean, with
// q(i) = 1 / 2n + |x(i) - mean|^2 / (2 total), and weighs 1 / (size * q(i)). Along the running sum
// of size * q there is one draw in every unit, at random inside it: every part of the tensor has
// its share, but nothing repeats with a period.
Result<Sample> DrawCoreset(const VectorSource& source, size_t dim, size_t size, float scale,
                           const std::vector<Moments>& pieces, ThreadPool& pool) {
  const auto n = static_cast<double>(source.count());
  const auto wanted = static_cast<double>(size);
  std::vector<double> mean(dim, 0.0);
  for (const Moments& m : pieces)
    for (size_t j = 0; j < dim; ++j) mean[j] += m.sums[j] / n;
  // Sum of the squared deviations from the mean of all, by piece.
  std::vector<double> deviations;
  for (const Moments& m : pieces) {
    double sum = m.squares;
    for (size_t j = 0; j < dim; ++j)
      sum += mean[j] * (static_cast<double>(m.count) * mean[j] - 2 * m.sums[j]);
    deviations.push_back(std::max(sum, 0.0));
  }
  const double total = std::accumulate(deviations.begin(), deviations.end(), 0.0);
  const double by_count = total > 0 ? wanted / (2 * n) : wanted / n;
  const double by_deviation = total > 0 ? wanted / (2 * total) : 0;
  std::vector<double> starts = {0.0};
  for (size_t p = 0; p < pieces.size(); ++p)
    starts.push_back(starts.back() + static_cast<double>(pieces[p].count) * by_count +
                     deviations[p] * by_deviation);

  struct Drawn {
    std::vector<float> values, weights;
  };
  std::vector<Drawn> drawn(pieces.size());
  std::vector<Status> statuses(pieces.size());
  pool.For(pieces.size(), [&](size_t p, int) {
    // The draw of unit u is at u + a number that depends on u alone, so pieces need not know what
    // others drew.
    const auto draw_of = [](uint64_t unit) {
      return static_cast<double>(unit) + Random(kSeed + unit * 0x9e3779b97f4a7c15).Uniform();
    };
    double at = starts[p];
    auto unit = static_cast<uint64_t>(at);
    if (draw_of(unit) < at) ++unit;
    double next = draw_of(unit);
    statuses[p] = source.Visit(p, [&](uint64_t, std::span<const float> values) {
      const auto visit = [&]<size_t kDim>() {
        const size_t dims = kDim == 0 ? dim : kDim;
        for (size_t i = 0; i + dims <= values.size(); i += dims) {
          double deviation = 0;
          for (size_t j = 0; j < dims; ++j) {
            const double difference = static_cast<double>(values[i + j]) - mean[j];
            deviation += difference * difference;
          }
          const double share = by_count + by_deviation * deviation;
          at += share;
          if (next >= at || next >= starts[p + 1]) continue;
          size_t times = 0;
          for (; next < at && next < starts[p + 1]; next = draw_of(++unit)) ++times;
          drawn[p].values.insert(drawn[p].values.end(), values.begin() + static_cast<ptrdiff_t>(i),
                                 values.begin() + static_cast<ptrdiff_t>(i + dims));
          drawn[p].weights.push_back(static_cast<float>(static_cast<double>(times) / share));
        }
      };
      if (dim == 2)
        visit.operator()<2>();
      else if (dim == 4)
        visit.operator()<4>();
      else if (dim == 8)
        visit.operator()<8>();
      else
        visit.operator()<0>();
    });
  });
  for (const Status& status : statuses) CMLC_RETURN_IF_ERROR(status);
  size_t count = 0;
  for (const Drawn& part : drawn) count += part.weights.size();
  Sample sample(dim, count);
  sample.weights.assign(sample.tile_count() * kTile, 0.0f);
  size_t next = 0;
  for (const Drawn& part : drawn) {
    sample.Set(next, part.values, scale);
    std::copy(part.weights.begin(), part.weights.end(),
              sample.weights.begin() + static_cast<ptrdiff_t>(next));
    next += part.weights.size();
  }
  return sample;
}

// Vectors of `dim` floats in lexicographic order, each once.
std::vector<float> SortedDistinct(const std::vector<float>& vectors, size_t dim) {
  const size_t count = vectors.size() / dim;
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  const auto at = [&](size_t i) { return vectors.begin() + static_cast<ptrdiff_t>(i * dim); };
  const auto ends = static_cast<ptrdiff_t>(dim);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::lexicographical_compare(at(a), at(a) + ends, at(b), at(b) + ends);
  });
  std::vector<float> sorted;
  sorted.reserve(vectors.size());
  for (size_t i = 0; i < count; ++i)
    if (i == 0 || !std::equal(at(order[i]), at(order[i]) + ends, at(order[i - 1])))
      sorted.insert(sorted.end(), at(order[i]), at(order[i]) + ends);
  return sorted;
}

// The rounds after the start. A sample moves a centroid off its place by about one part in the
// number of its vectors (in squares, against the error), and where that is a thousandth a few
// rounds over everything are enough. Where many vectors make it worth while, a larger coreset comes
// first.
constexpr int kRounds = 20;
constexpr int kLastRounds = 7;
constexpr double kLeastGain = 1e-5;
constexpr size_t kEnoughPerCentroid = 1024;
constexpr size_t kLargeCoreset = 4;  // times as large as the first one

}  // namespace

SpanVectorSource::SpanVectorSource(std::span<const float> values, size_t dim)
    : values_(values), dim_(dim) {
  CMLC_CHECK(dim >= 1 && values.size() % dim == 0);
}

size_t SpanVectorSource::pieces() const {
  return static_cast<size_t>((count() + kPieceVectors - 1) / kPieceVectors);
}

Status SpanVectorSource::Visit(size_t piece, const Visitor& visitor) const {
  const size_t begin = piece * kPieceVectors * dim_;
  visitor(piece * kPieceVectors,
          values_.subspan(begin, std::min(kPieceVectors * dim_, values_.size() - begin)));
  return Ok();
}

Result<std::optional<std::vector<float>>> UniqueVectors(const VectorSource& source, size_t dim,
                                                        size_t most) {
  CMLC_CHECK(dim >= 1 && dim <= kMostVectorDims && most <= 65536);
  // Open addressing with room for twice as many entries as there can be. An entry is one more than
  // the index of a vector in `found`; 0 is free.
  size_t slots = 16;
  while (slots / 2 < most + 1) slots *= 2;
  std::vector<size_t> table(slots, 0);
  std::vector<float> found;
  std::array<float, kMostVectorDims> vector;
  bool too_many = false;
  for (size_t piece = 0; piece < source.pieces() && !too_many; ++piece) {
    CMLC_RETURN_IF_ERROR(source.Visit(piece, [&](uint64_t, std::span<const float> values) {
      for (size_t i = 0; i + dim <= values.size() && !too_many; i += dim) {
        uint64_t hash = 0;
        for (size_t j = 0; j < dim; ++j) {
          vector[j] = values[i + j] + 0.0f;  // -0 + 0 is +0
          uint32_t bits = 0;
          std::memcpy(&bits, &vector[j], sizeof(bits));
          hash = (hash ^ bits) * 0x9e3779b97f4a7c15;
          hash ^= hash >> 32;
        }
        size_t slot = hash & (slots - 1);
        while (table[slot] != 0 && std::memcmp(found.data() + (table[slot] - 1) * dim,
                                               vector.data(), dim * sizeof(float)) != 0)
          slot = (slot + 1) & (slots - 1);
        if (table[slot] != 0) continue;
        if (found.size() == most * dim) {
          too_many = true;
          return;
        }
        found.insert(found.end(), vector.begin(), vector.begin() + static_cast<ptrdiff_t>(dim));
        table[slot] = found.size() / dim;
      }
    }));
  }
  if (too_many) return std::optional<std::vector<float>>();
  return std::optional<std::vector<float>>(SortedDistinct(found, dim));
}

Result<VectorFit> FitVectors(const VectorSource& source, size_t dim, size_t k, ThreadPool& pool) {
  CMLC_CHECK(dim >= 1 && dim <= kMostVectorDims);
  CMLC_CHECK(k >= 1 && k <= kMostVectorCentroids);
  CMLC_CHECK(source.count() > 0);
  CMLC_ASSIGN_OR_RETURN(std::optional<std::vector<float>> unique, UniqueVectors(source, dim, k));
  if (unique.has_value()) return VectorFit{.centroids = *std::move(unique), .sse = 0};

  CMLC_ASSIGN_OR_RETURN(const std::vector<Moments> moments, MeasurePieces(source, dim, pool));
  float most = 0;
  for (const Moments& m : moments) most = std::max(most, m.most);
  const float scale = ScaleTo(kFitTarget, most);

  const size_t size =
      std::max(std::clamp(kStartPerCentroid * k, kLeastStart, kMostStart), kLeastPerCentroid * k);
  std::optional<Descent> descent;
  if (source.count() <= kMostInMemory) {
    CMLC_ASSIGN_OR_RETURN(const Sample sample, LoadAll(source, dim, scale));
    if (source.count() / 2 > size) {
      CMLC_ASSIGN_OR_RETURN(const Sample some,
                            DrawCoreset(source, dim, size, scale, moments, pool));
      descent.emplace(FitSample(some, k, pool));
      descent->StartAgain();
      Descend(sample, *descent, kRounds, kLeastGain, pool);
    } else {
      descent.emplace(FitSample(sample, k, pool));
    }
    descent->GoToMeans();
    Table table(dim, descent->k());
    sample.Sum(descent->current(), pool, table);
    descent->Advance(table, 0);
  } else {
    {
      CMLC_ASSIGN_OR_RETURN(const Sample sample,
                            DrawCoreset(source, dim, size, scale, moments, pool));
      descent.emplace(FitSample(sample, k, pool));
    }
    Table table(dim, descent->k());
    bool is_near = size >= kEnoughPerCentroid * k;
    if (!is_near && source.count() / 2 > kLargeCoreset * size) {
      CMLC_ASSIGN_OR_RETURN(const Sample sample,
                            DrawCoreset(source, dim, kLargeCoreset * size, scale, moments, pool));
      descent->StartAgain();
      Descend(sample, *descent, kRounds, kLeastGain, pool);
      is_near = true;
    }
    descent->StartAgain();
    const int rounds = is_near ? kLastRounds : kRounds;
    bool go_on = true;
    for (int round = 1; round <= rounds; ++round) {
      const bool is_last = round == rounds || !go_on;
      if (is_last) descent->GoToMeans();
      CMLC_RETURN_IF_ERROR(SumSource(source, dim, scale, descent->current(), pool, table));
      go_on = descent->Advance(table, kLeastGain);
      if (is_last) break;
    }
  }

  const double unscale = 1 / static_cast<double>(scale);
  VectorFit fit;
  fit.sse = descent->best_error() * unscale * unscale;
  fit.centroids = descent->best();
  for (float& x : fit.centroids)
    x = static_cast<float>(static_cast<double>(x) * unscale) + 0.0f;  // never -0
  fit.centroids = SortedDistinct(fit.centroids, dim);
  return fit;
}

double AssignVectors(std::span<const float> vectors, size_t dim, std::span<const float> centroids,
                     uint8_t* codes) {
  CMLC_CHECK(dim >= 1 && dim <= kMostVectorDims && vectors.size() % dim == 0);
  const size_t k = centroids.size() / dim;
  CMLC_CHECK(k >= 1 && k <= 256 && centroids.size() == k * dim);
  // The scale must not depend on the vectors, or a code might depend on its neighbours.
  float most = 0;
  for (const float c : centroids) most = std::max(most, std::fabs(c));
  const float scale = ScaleTo(kAssignTarget, most);
  std::vector<float> scaled(centroids.begin(), centroids.end());
  for (float& c : scaled) c *= scale;

  const auto error_of = [&](const float* vector, size_t code) {
    const float* centroid = centroids.data() + code * dim;
    double sum = 0;
    for (size_t j = 0; j < dim; ++j) {
      const double difference = static_cast<double>(vector[j]) - static_cast<double>(centroid[j]);
      sum += difference * difference;
    }
    return sum;
  };

  std::vector<float> tile(kTile * dim, 0.0f);
  int32_t nearest[kTile];
  float distances[kTile];
  // Below this some squares of differences may have lost digits, or all of them.
  constexpr float kLeast = 0x1p-90f;
  double total = 0;
  const size_t count = vectors.size() / dim;
  for (size_t begin = 0; begin < count; begin += kTile) {
    const size_t step = std::min(kTile, count - begin);
    const float* from = vectors.data() + begin * dim;
    HWY_DYNAMIC_DISPATCH(FillTile)(from, step, dim, scale, tile.data());
    HWY_DYNAMIC_DISPATCH(NearestOfTile)(tile.data(), dim, scaled.data(), k, nearest, distances);
    // Four strands, as each sum has to wait for the one before.
    std::array<double, 4> errors{};
    for (size_t i = 0; i < step; ++i) {
      const float* vector = from + i * dim;
      auto code = static_cast<size_t>(nearest[i]);
      double error = error_of(vector, code);
      if (!(distances[i] >= kLeast && distances[i] < kInfinity) && error != 0) {
        code = 0;
        error = error_of(vector, 0);
        for (size_t c = 1; c < k; ++c)
          if (const double other = error_of(vector, c); other < error) {
            error = other;
            code = c;
          }
      }
      codes[begin + i] = static_cast<uint8_t>(code);
      errors[i % 4] += error;
    }
    total += (errors[0] + errors[1]) + (errors[2] + errors[3]);
  }
  return total;
}

}  // namespace cmlc::numeric
#endif  // HWY_ONCE
