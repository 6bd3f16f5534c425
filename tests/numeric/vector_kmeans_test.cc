#include "numeric/vector_kmeans.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "numeric/kmeans1d.h"
#include "support/instruction_sets.h"

namespace cmlc::numeric {
namespace {

constexpr float kMost = std::numeric_limits<float>::max();
constexpr float kLeast = std::numeric_limits<float>::denorm_min();
constexpr float kMostHalf = 65504.0f;

using Floats = std::vector<float>;

Floats Gaussian(size_t count, unsigned seed, float sigma = 0.02f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, sigma);
  Floats values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// Vectors of `dim` successive rows at one column, as a weight has them: rows differ in scale, and
// one column of 200 is six times larger. The columns come around with every row.
Floats LikeAWeight(size_t vectors, size_t dim, unsigned seed) {
  constexpr size_t kColumns = 2048;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> row_scale(dim);
  Floats values;
  for (size_t i = 0; i < vectors; ++i) {
    if (i % kColumns == 0)
      for (float& scale : row_scale) scale = std::exp(0.35f * normal(random));
    for (size_t j = 0; j < dim; ++j)
      values.push_back(0.02f * normal(random) * row_scale[j] * (i % kColumns % 200 == 7 ? 6 : 1));
  }
  return values;
}

// The sum of squared differences in fp32, one element after the other.
float DistanceInFloats(const float* x, const float* c, size_t dim) {
  float sum = (x[0] - c[0]) * (x[0] - c[0]);
  for (size_t j = 1; j < dim; ++j) {
    const float square = (x[j] - c[j]) * (x[j] - c[j]);
    sum += square;
  }
  return sum;
}

double Distance(const float* x, const float* c, size_t dim) {
  double sum = 0;
  for (size_t j = 0; j < dim; ++j) {
    const double difference = static_cast<double>(x[j]) - static_cast<double>(c[j]);
    sum += difference * difference;
  }
  return sum;
}

// Sum of the squared distances to the nearest centroids.
double ErrorOf(const Floats& vectors, size_t dim, const Floats& centroids) {
  double total = 0;
  for (size_t i = 0; i < vectors.size(); i += dim) {
    double best = std::numeric_limits<double>::infinity();
    for (size_t c = 0; c < centroids.size(); c += dim)
      best = std::min(best, Distance(&vectors[i], &centroids[c], dim));
    total += best;
  }
  return total;
}

struct Assigned {
  std::vector<uint8_t> codes;
  double error = 0;
};
Assigned Assign(const Floats& vectors, size_t dim, const Floats& centroids) {
  Assigned result{.codes = std::vector<uint8_t>(vectors.size() / dim, 0xee)};
  result.error = AssignVectors(vectors, dim, centroids, result.codes.data());
  return result;
}

VectorFit Fit(const Floats& vectors, size_t dim, size_t k, int threads = 1) {
  ThreadPool pool(threads);
  auto fit = FitVectors(SpanVectorSource(vectors, dim), dim, k, pool);
  EXPECT_TRUE(fit.ok());
  return std::move(fit).value();
}

std::optional<Floats> Unique(const Floats& vectors, size_t dim, size_t most) {
  auto unique = UniqueVectors(SpanVectorSource(vectors, dim), dim, most);
  EXPECT_TRUE(unique.ok());
  return std::move(unique).value();
}

// Textbook k-means in fp64: k-means++ with one draw for each centroid, then means until nothing
// moves any more.
double PlainKMeans(const Floats& vectors, size_t dim, size_t k, unsigned seed, int rounds) {
  std::mt19937 random(seed);
  const size_t count = vectors.size() / dim;
  Floats centroids(vectors.begin(), vectors.begin() + static_cast<ptrdiff_t>(dim));
  std::vector<double> nearest(count, std::numeric_limits<double>::infinity());
  while (centroids.size() < k * dim) {
    for (size_t i = 0; i < count; ++i)
      nearest[i] = std::min(nearest[i],
                            Distance(&vectors[i * dim], &centroids[centroids.size() - dim], dim));
    const size_t i = std::discrete_distribution<size_t>(nearest.begin(), nearest.end())(random);
    centroids.insert(centroids.end(), vectors.begin() + static_cast<ptrdiff_t>(i * dim),
                     vectors.begin() + static_cast<ptrdiff_t>((i + 1) * dim));
  }
  double error = 0;
  for (int round = 0; round < rounds; ++round) {
    std::vector<double> sums(k * dim), counts(k);
    error = 0;
    for (size_t i = 0; i < count; ++i) {
      size_t code = 0;
      double best = std::numeric_limits<double>::infinity();
      for (size_t c = 0; c < k; ++c)
        if (const double d = Distance(&vectors[i * dim], &centroids[c * dim], dim); d < best) {
          best = d;
          code = c;
        }
      error += best;
      ++counts[code];
      for (size_t j = 0; j < dim; ++j)
        sums[code * dim + j] += static_cast<double>(vectors[i * dim + j]);
    }
    for (size_t c = 0; c < k; ++c)
      for (size_t j = 0; j < dim && counts[c] > 0; ++j)
        centroids[c * dim + j] = static_cast<float>(sums[c * dim + j] / counts[c]);
  }
  return error;
}

void ExpectInOrder(const Floats& centroids, size_t dim) {
  for (size_t c = dim; c < centroids.size(); c += dim)
    ASSERT_TRUE(std::lexicographical_compare(&centroids[c - dim], &centroids[c], &centroids[c],
                                             &centroids[c] + dim))
        << "centroid " << c / dim;
  for (const float c : centroids) ASSERT_FALSE(c == 0 && std::signbit(c));
}

// One of the sets of instructions that this processor has.
class VectorKMeans : public test::InstructionSets {};

CMLC_FOR_INSTRUCTION_SETS(VectorKMeans);

TEST_P(VectorKMeans, AssignsAsThePlainLoopDoes) {
  for (const size_t dim : {1, 2, 3, 4, 5, 7, 8, 9, 16, 33, 64})
    for (const size_t k : {1, 2, 3, 16, 17, 255, 256}) {
      const Floats centroids = Gaussian(k * dim, static_cast<unsigned>(k));
      for (const size_t count :
           {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 255, 256, 257, 515}) {
        if (count > 70 && k * dim > 600) continue;  // for the sake of time
        const Floats vectors = Gaussian(count * dim, static_cast<unsigned>(count + dim));
        const Assigned assigned = Assign(vectors, dim, centroids);
        double error = 0;
        for (size_t i = 0; i < count; ++i) {
          size_t code = 0;
          float best = std::numeric_limits<float>::infinity();
          for (size_t c = 0; c < k; ++c) {
            const float d = DistanceInFloats(&vectors[i * dim], &centroids[c * dim], dim);
            if (d < best) best = d, code = c;
          }
          ASSERT_EQ(assigned.codes[i], code) << dim << " " << k << " " << count << " at " << i;
          error += Distance(&vectors[i * dim], &centroids[code * dim], dim);
        }
        ASSERT_NEAR(assigned.error, error, 1e-13 * error) << dim << " " << k << " " << count;
      }
    }
}

TEST_P(VectorKMeans, AssignsEquallyNearToTheFirst) {
  // Everything lies in the middle between two or four of these, some of which are equal; at every
  // place of a tile.
  const Floats centroids = {1, 1, -1, 1, 1, -1, -1, -1, 1, 1, -1, 1};
  Floats vectors;
  std::vector<uint8_t> expected;
  for (int i = 0; i < 300; ++i) {
    vectors.insert(vectors.end(), {0, 0, 0, 1, 1, 0, -1, 0, 0, -1, -1, -1, 9, 9});
    expected.insert(expected.end(), {0, 0, 0, 1, 2, 3, 0});
  }
  EXPECT_EQ(Assign(vectors, 2, centroids).codes, expected);
  const Floats equal(256 * 4, -2.0f);
  EXPECT_EQ(Assign({0, 1, 2, 3, -2, -2, -2, -2}, 4, equal).codes, (std::vector<uint8_t>{0, 0}));
}

TEST_P(VectorKMeans, AssignsWhatLeavesTheRangeOfFloats) {
  const std::vector<Floats> sets = {
      {kMost, kMost, -kMost, -kMost, 0, 0, kMost, -kMost, 1, 1},
      {kLeast, kLeast, -kLeast, -kLeast, 0, 0, 2 * kLeast, 0, 3 * kLeast, kLeast},
      {kMost, 0, kLeast, 0, 1e-20f, 0, 1e20f, 0, 1, 0},
      {kMostHalf, -kMostHalf, 0x1p-24f, 0, -0x1p-24f, 0, 0x1p-14f, 65472, 1, 1},
      {-0.0f, 0, 0, -0.0f, 0, 0, 0, 0, -0.0f, -0.0f},
      {1e-30f, 0, 2e-30f, 0, 3e-30f, 0, 0, 0, -1e-30f, 0},
      {1e30f, 1e30f, 2e30f, 0, 3e30f, 0, 1e29f, 0, -1e30f, 1e30f}};
  for (const Floats& centroids : sets)
    for (const Floats& vectors : sets) {
      const Assigned assigned = Assign(vectors, 2, centroids);
      double error = 0;
      for (size_t i = 0; i < vectors.size(); i += 2) {
        double best = std::numeric_limits<double>::infinity();
        for (size_t c = 0; c < centroids.size(); c += 2)
          best = std::min(best, Distance(&vectors[i], &centroids[c], 2));
        const double reached =
            Distance(&vectors[i], &centroids[size_t{2} * assigned.codes[i / 2]], 2);
        EXPECT_LE(reached, best * (1 + 1e-6))
            << testing::PrintToString(centroids) << " at " << testing::PrintToString(vectors);
        error += reached;
      }
      EXPECT_NEAR(assigned.error, error, 1e-13 * error);
    }
}

TEST_P(VectorKMeans, ACodeDoesNotDependOnTheNeighbours) {
  const Floats centroids = Gaussian(3 * 37, 1);
  Floats vectors = Gaussian(3 * 300, 2);
  vectors[3 * 100] = kMost;
  vectors[3 * 200 + 1] = kLeast;
  const Assigned together = Assign(vectors, 3, centroids);
  for (size_t i = 0; i < 300; ++i)
    EXPECT_EQ(
        Assign({vectors[3 * i], vectors[3 * i + 1], vectors[3 * i + 2]}, 3, centroids).codes[0],
        together.codes[i])
        << "at " << i;
}

TEST_P(VectorKMeans, FitsTheSameWithEverySetOfInstructions) {
  // The first set of instructions gives what is expected of the others.
  static std::map<std::string, VectorFit> expected;
  struct Case {
    size_t vectors, dim, k;
  };
  for (const auto& [vectors, dim, k] :
       {Case{777, 2, 16}, {513, 3, 40}, {1000, 4, 16}, {300, 8, 33}, {131, 5, 7}, {140001, 2, 3}}) {
    const VectorFit fit = Fit(LikeAWeight(vectors, dim, 3), dim, k);
    const std::string name = std::to_string(vectors) + " " + std::to_string(dim);
    const VectorFit& other = expected.emplace(name, fit).first->second;
    EXPECT_EQ(fit.centroids, other.centroids) << name;
    EXPECT_EQ(fit.sse, other.sse) << name;
  }
}

TEST(FitVectors, DoesNotDependOnTheNumberOfThreads) {
  struct Case {
    size_t vectors, dim, k;
  };
  // One chunk, several starts at a time, several chunks, a coreset.
  for (const auto& [vectors, dim, k] :
       {Case{1000, 4, 16}, {12000, 2, 9}, {50000, 2, 5}, {200000, 2, 4}}) {
    const Floats values = LikeAWeight(vectors, dim, 4);
    const VectorFit one = Fit(values, dim, k, 1);
    for (const int threads : {2, 5}) {
      const VectorFit more = Fit(values, dim, k, threads);
      EXPECT_EQ(one.centroids, more.centroids) << vectors << " on " << threads;
      EXPECT_EQ(one.sse, more.sse) << vectors << " on " << threads;
    }
  }
}

TEST(FitVectors, ReportsTheErrorOfItsCentroidsInOrder) {
  for (const size_t dim : {1, 2, 3, 4, 8, 13, 64})
    for (const size_t k : {1, 2, 7, 16, 100}) {
      const Floats values = LikeAWeight(401, dim, 5);
      const VectorFit fit = Fit(values, dim, k);
      EXPECT_EQ(fit.centroids.size(), k * dim);
      ExpectInOrder(fit.centroids, dim);
      const double error = ErrorOf(values, dim, fit.centroids);
      EXPECT_NEAR(fit.sse, error, 1e-5 * error) << dim << " " << k;
      EXPECT_NEAR(Assign(values, dim, fit.centroids).error, error, 1e-6 * error);
    }
}

TEST(FitVectors, OneCentroidIsTheMean) {
  const Floats values = {1, 10, 2, 20, 6, 60};
  const VectorFit fit = Fit(values, 2, 1);
  ASSERT_EQ(fit.centroids.size(), 2u);
  EXPECT_FLOAT_EQ(fit.centroids[0], 3);
  EXPECT_FLOAT_EQ(fit.centroids[1], 30);
}

TEST(FitVectors, IsNoWorseThanPlainKMeans) {
  struct Case {
    size_t vectors, dim, k;
  };
  for (const auto& [vectors, dim, k] :
       {Case{300, 2, 16}, {300, 4, 64}, {3000, 2, 16}, {2000, 4, 16}, {1500, 8, 32}})
    for (const bool gaussian : {true, false}) {
      const Floats values = gaussian ? Gaussian(vectors * dim, 6) : LikeAWeight(vectors, dim, 6);
      const VectorFit fit = Fit(values, dim, k);
      for (unsigned seed = 1; seed <= 3; ++seed)
        EXPECT_LE(fit.sse, PlainKMeans(values, dim, k, seed, 20))
            << vectors << " " << dim << " " << k << " " << gaussian << " seed " << seed;
    }
}

TEST(FitVectors, ReachesTheOptimumOnALine) {
  for (const size_t k : {2, 4, 16}) {
    Floats values = Gaussian(4000, 7);
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
    const std::vector<double> points(values.begin(), values.end());
    KMeans1d exact;
    const double optimum =
        exact.Solve(points, std::vector<double>(points.size(), 1.0), static_cast<int>(k)).sse;
    const VectorFit fit = Fit(values, 1, k);
    EXPECT_GE(fit.sse, optimum * (1 - 1e-6)) << k;
    EXPECT_LE(fit.sse, optimum * 1.01) << k;
  }
}

TEST(FitVectors, EndsWhereMeansGainNothing) {
  const size_t dim = 4, k = 16;
  const Floats values = Gaussian(2000 * dim, 8);
  const VectorFit fit = Fit(values, dim, k);
  const Assigned assigned = Assign(values, dim, fit.centroids);
  std::vector<double> sums(k * dim), counts(k);
  for (size_t i = 0; i < assigned.codes.size(); ++i) {
    ++counts[assigned.codes[i]];
    for (size_t j = 0; j < dim; ++j)
      sums[assigned.codes[i] * dim + j] += static_cast<double>(values[i * dim + j]);
  }
  Floats means(k * dim);
  for (size_t c = 0; c < k; ++c) {
    ASSERT_GT(counts[c], 0);
    for (size_t j = 0; j < dim; ++j)
      means[c * dim + j] = static_cast<float>(sums[c * dim + j] / counts[c]);
  }
  EXPECT_GE(ErrorOf(values, dim, means), fit.sse * (1 - 1e-4));
}

// `clusters` places far from each other, with little noise around them.
Floats Planted(size_t vectors, size_t dim, size_t clusters, float noise) {
  Floats values = Gaussian(vectors * dim, 9, noise);
  for (size_t i = 0; i < vectors; ++i) {
    const size_t cluster = (i * 7919) % clusters;
    values[i * dim] += static_cast<float>(cluster % 8);
    values[i * dim + 1] += static_cast<float>(cluster / 8);
  }
  return values;
}

TEST(FitVectors, FindsPlantedClusters) {
  struct Case {
    size_t vectors, dim, clusters;
  };
  // In memory, over a coreset, and over two of them.
  for (const auto& [vectors, dim, clusters] :
       {Case{900, 2, 16}, {900, 8, 64}, {150000, 3, 12}, {530000, 2, 65}}) {
    const float noise = 0.01f;
    const Floats values = Planted(vectors, dim, clusters, noise);
    const VectorFit fit = Fit(values, dim, clusters, 2);
    const auto degrees = static_cast<double>((vectors - clusters) * dim);
    EXPECT_NEAR(fit.sse / (degrees * 1e-4), 1, vectors < 1000 ? 0.15 : 0.01) << vectors;
  }
}

TEST(FitVectors, ACoresetDoesNotMissTheOutlyingColumns) {
  const size_t dim = 2, k = 16;
  const Floats values = LikeAWeight(140000, dim, 10);
  EXPECT_LE(Fit(values, dim, k, 2).sse, PlainKMeans(values, dim, k, 1, 8));
}

TEST(FitVectors, KeepsFewDistinctVectorsAsTheyAre) {
  for (const size_t distinct : {1, 2, 15, 16}) {
    Floats values;
    for (size_t i = 0; i < 1000; ++i)
      for (size_t j = 0; j < 3; ++j)
        values.push_back(static_cast<float>((i % distinct) * (j + 1)) - 3.0f);
    const VectorFit fit = Fit(values, 3, 16);
    EXPECT_EQ(fit.centroids.size(), 3 * distinct);
    EXPECT_EQ(fit.sse, 0);
    ExpectInOrder(fit.centroids, 3);
    EXPECT_EQ(Assign(values, 3, fit.centroids).error, 0);
  }
}

TEST(FitVectors, MergesTheNearestOfOneTooMany) {
  Floats values;
  for (size_t i = 0; i < 1700; ++i) {
    const size_t place = i % 17;  // the last is near the first
    values.push_back(place == 16 ? 0.125f : static_cast<float>(place % 4));
    values.push_back(place == 16 ? 0.0f : static_cast<float>(place / 4));
  }
  const VectorFit fit = Fit(values, 2, 16);
  EXPECT_EQ(fit.centroids.size(), 32u);
  EXPECT_NEAR(fit.sse, 100 * 2 * 0.0625 * 0.0625, 1e-6);
}

// Few distinct vectors, though more than centroids: in case 19 a cluster loses all its vectors on
// the way, and has to be put to use again.
TEST(FitVectors, LeavesNoCentroidIdle) {
  for (unsigned seed = 0; seed < 25; ++seed) {
    std::mt19937 random(seed);
    const size_t dim = 1 + seed % 3, k = 2 + random() % 60;
    const size_t distinct = k + 1 + random() % (2 * k), vectors = 400 + random() % 2000;
    Floats dictionary(distinct * dim), values;
    for (float& x : dictionary) {
      x = static_cast<float>(random() % 9);
      x *= random() % 7 == 0 ? 20.0f : 1.0f;
    }
    for (size_t i = 0; i < vectors; ++i) {
      const size_t entry = random() % distinct;
      for (size_t j = 0; j < dim; ++j) values.push_back(dictionary[entry * dim + j]);
    }
    const VectorFit fit = Fit(values, dim, k);
    const Assigned assigned = Assign(values, dim, fit.centroids);
    for (size_t c = 0; c < fit.centroids.size() / dim; ++c)
      EXPECT_TRUE(std::count(assigned.codes.begin(), assigned.codes.end(), c) > 0)
          << "seed " << seed << " centroid " << c;
    EXPECT_NEAR(fit.sse, assigned.error, 1e-5 * assigned.error) << "seed " << seed;
  }
}

TEST(FitVectors, SurvivesAwkwardValues) {
  std::vector<Floats> sets = {
      Floats(600, 0.0f),           Floats(600, -0.0f),        Floats(2, 1.0f),
      Gaussian(2 * 33, 11),        Gaussian(600, 12, 1e-42f), Gaussian(600, 13, 1e37f),
      Gaussian(600, 14, 0x1p-24f),
  };
  Floats ends = Gaussian(600, 15), outlier = Gaussian(600, 16, 1e-3f);
  for (size_t i = 0; i < ends.size(); ++i) ends[i] = ends[i] > 0 ? kMostHalf : -kMostHalf;
  ends[17] = 0x1p-24f;
  outlier[100] = kMost;
  outlier[101] = -kMost;
  sets.push_back(ends);
  sets.push_back(outlier);
  for (size_t s = 0; s < sets.size(); ++s)
    for (const size_t dim : {1, 2})
      for (const size_t k : {1, 2, 16, 256}) {
        const VectorFit fit = Fit(sets[s], dim, k);
        ASSERT_LE(fit.centroids.size(), k * dim);
        ASSERT_GE(fit.centroids.size(), dim);
        for (const float c : fit.centroids) ASSERT_TRUE(std::isfinite(c)) << s << " " << k;
        ASSERT_TRUE(std::isfinite(fit.sse));
        ExpectInOrder(fit.centroids, dim);
        double energy = 0;
        for (const float x : sets[s]) energy += static_cast<double>(x) * static_cast<double>(x);
        // No centroid at all would cost the energy.
        EXPECT_LE(Assign(sets[s], dim, fit.centroids).error, energy * (1 + 1e-9))
            << s << " " << dim << " " << k;
      }
  // What an outlier leaves over is fitted as well as without it.
  outlier[100] = 1e30f;
  outlier[101] = -1e30f;
  const VectorFit without = Fit(Gaussian(598, 16, 1e-3f), 2, 4);
  EXPECT_LT(Assign(outlier, 2, Fit(outlier, 2, 5).centroids).error, without.sse * 1.2);
}

// Gives the vectors of another source in parts of a few vectors, counts visits, and fails where it
// is told to.
class TrickleSource final : public VectorSource {
 public:
  TrickleSource(const VectorSource& source, size_t dim) : source_(source), dim_(dim) {}
  void FailAt(std::vector<size_t> pieces, int after_visits) {
    failing_ = std::move(pieces);
    left_ = after_visits;
  }
  int visits() const { return visits_; }

  uint64_t count() const override { return source_.count(); }
  size_t pieces() const override { return source_.pieces(); }
  Status Visit(size_t piece, const Visitor& visitor) const override {
    ++visits_;
    if (left_-- <= 0 && std::count(failing_.begin(), failing_.end(), piece) > 0)
      return Error(ErrorKind::kBadInput, "piece " + std::to_string(piece));
    return source_.Visit(piece, [&](uint64_t first, std::span<const float> values) {
      size_t step = 1;
      for (size_t i = 0; i < values.size(); i += step * dim_, step = step % 701 + 100)
        visitor(first + i / dim_, values.subspan(i, std::min(step * dim_, values.size() - i)));
    });
  }

 private:
  const VectorSource& source_;
  size_t dim_;
  std::vector<size_t> failing_;
  mutable std::atomic<int> left_ = 0;
  mutable std::atomic<int> visits_ = 0;
};

TEST(FitVectors, TakesPiecesInParts) {
  ThreadPool pool(2);
  for (const size_t vectors : {1000, 140000}) {
    const Floats values = LikeAWeight(vectors, 3, 17);
    const SpanVectorSource whole(values, 3);
    const TrickleSource parts(whole, 3);
    const auto fit = FitVectors(parts, 3, 4, pool);
    ASSERT_TRUE(fit.ok());
    EXPECT_EQ(fit->centroids, Fit(values, 3, 4).centroids);
  }
}

TEST(FitVectors, HandsUpTheErrorOfTheFirstPiece) {
  const Floats values = Gaussian(2 * 200000, 18);
  const SpanVectorSource whole(values, 2);
  ASSERT_EQ(whole.pieces(), 4u);
  ThreadPool pool(3);
  // While vectors are looked at, measured, drawn, and assigned: the first pass reads one piece.
  for (const int visits : {0, 1, 5, 9, 13}) {
    TrickleSource source(whole, 2);
    source.FailAt(visits == 0 ? std::vector<size_t>{0} : std::vector<size_t>{2, 3}, visits);
    const auto fit = FitVectors(source, 2, 3, pool);
    ASSERT_FALSE(fit.ok()) << visits;
    EXPECT_EQ(fit.error().kind, ErrorKind::kBadInput);
    EXPECT_EQ(fit.error().message, visits == 0 ? "piece 0" : "piece 2");
  }
}

TEST(UniqueVectors, AreInLexicographicOrder) {
  EXPECT_EQ(Unique({7, 8, 1, 2, 5, 6, 3, 4, 1, 2, 1, -2}, 2, 5),
            (Floats{1, -2, 1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(Unique({3, 2, 1, 3, 2, 0}, 3, 9), (Floats{3, 2, 0, 3, 2, 1}));
}

TEST(UniqueVectors, AreNoneWhereThereAreTooMany) {
  const Floats values = {1, 2, 3, 4, 3, 4, 5, 6};
  EXPECT_EQ(Unique(values, 2, 2), std::nullopt);
  EXPECT_EQ(Unique(values, 2, 3), (Floats{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(Unique(values, 2, 0), std::nullopt);
  EXPECT_EQ(Unique(values, 4, 2), values);
}

TEST(UniqueVectors, TakeBothZerosForOne) {
  const std::optional<Floats> unique = Unique({-0.0f, 0, 0, -0.0f, -0.0f, -0.0f, 0, 0}, 2, 1);
  ASSERT_EQ(unique, (Floats{0, 0}));
  EXPECT_FALSE(std::signbit((*unique)[0]) || std::signbit((*unique)[1]));
}

TEST(UniqueVectors, AgreeWithSorting) {
  std::mt19937 random(19);
  for (const size_t dim : {1, 2, 5, 8, 64})
    for (const size_t choices : {2, 3, 40}) {
      std::vector<Floats> vectors(500);
      Floats values;
      for (Floats& vector : vectors) {
        for (size_t j = 0; j < dim; ++j)
          vector.push_back(j < 2 ? static_cast<float>(random() % choices) * 0.5f : 1.0f);
        values.insert(values.end(), vector.begin(), vector.end());
      }
      std::sort(vectors.begin(), vectors.end());
      vectors.erase(std::unique(vectors.begin(), vectors.end()), vectors.end());
      Floats expected;
      for (const Floats& vector : vectors)
        expected.insert(expected.end(), vector.begin(), vector.end());
      EXPECT_EQ(Unique(values, dim, vectors.size()), expected) << dim << " " << choices;
      EXPECT_EQ(Unique(values, dim, vectors.size() - 1), std::nullopt) << dim << " " << choices;
      EXPECT_EQ(Unique(values, dim, 65536), expected) << dim << " " << choices;
    }
}

TEST(UniqueVectors, StopReadingAndHandUpErrors) {
  const Floats values = Gaussian(2 * 140000, 20);
  const SpanVectorSource whole(values, 2);
  TrickleSource source(whole, 2);
  source.FailAt({1}, 0);
  const auto few = UniqueVectors(source, 2, 256);
  ASSERT_TRUE(few.ok());
  EXPECT_FALSE(few->has_value());
  EXPECT_EQ(source.visits(), 1);
  const Floats constant(2 * 140000, 1.0f);
  const SpanVectorSource whole_constant(constant, 2);
  TrickleSource failing(whole_constant, 2);
  failing.FailAt({1}, 0);
  const auto failed = UniqueVectors(failing, 2, 256);
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().message, "piece 1");
}

// The example of the vector layout: [[1, 5], [2, 6], [3, 7], [4, 8]] along axis 0 with two values
// per entry gives the vectors of both columns in turn, and the indices [[0, 2], [1, 3]].
TEST(AssignVectors, IndexesTheLayoutExample) {
  const Floats vectors = {1, 2, 5, 6, 3, 4, 7, 8};
  const std::optional<Floats> lut = Unique(vectors, 2, 4);
  ASSERT_EQ(lut, (Floats{1, 2, 3, 4, 5, 6, 7, 8}));
  const Assigned assigned = Assign(vectors, 2, *lut);
  EXPECT_EQ(assigned.codes, (std::vector<uint8_t>{0, 2, 1, 3}));
  EXPECT_EQ(assigned.error, 0);
}

TEST(AssignVectors, TakesNoVectors) { EXPECT_EQ(Assign({}, 2, {1, 2}).error, 0); }

TEST(SpanVectorSource, CutsWholeVectors) {
  const size_t vectors = 2 * SpanVectorSource::kPieceVectors + 5;
  const Floats values = Gaussian(3 * vectors, 21);
  const SpanVectorSource source(values, 3);
  EXPECT_EQ(source.count(), vectors);
  ASSERT_EQ(source.pieces(), 3u);
  Floats seen;
  for (size_t piece = 0; piece < 3; ++piece)
    ASSERT_TRUE(source
                    .Visit(piece,
                           [&](uint64_t first, std::span<const float> part) {
                             EXPECT_EQ(first * 3, seen.size());
                             seen.insert(seen.end(), part.begin(), part.end());
                           })
                    .ok());
  EXPECT_EQ(seen, values);
}

}  // namespace
}  // namespace cmlc::numeric
