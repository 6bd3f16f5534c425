// The oracle is the textbook O(k U^2) dynamic program in long double with link
// costs summed from the points, so it shares neither sums nor search with the
// solver. The certificate is checked against it too, not only the SSE.

#include "numeric/kmeans1d.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

namespace cmlc::numeric {
namespace {

struct Problem {
  std::vector<double> points;
  std::vector<double> weights;
};

// Seeded numbers that are the same with every standard library.
class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  // 0 .. end - 1.
  int Below(int end) { return static_cast<int>(engine_() % static_cast<unsigned>(end)); }
  // In [0, 1).
  double Uniform() { return static_cast<double>(engine_()) * 0x1p-32; }
  // Near enough: variance 1, mean 0.
  double Normal() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += Uniform();
    return sum;
  }

 private:
  std::mt19937 engine_;
};

// Sorts, merges equal points.
Problem Collect(std::vector<std::pair<double, double>> pairs) {
  std::sort(pairs.begin(), pairs.end());
  Problem problem;
  for (const auto& [point, weight] : pairs) {
    if (!problem.points.empty() && problem.points.back() == point) {
      problem.weights.back() += weight;
    } else {
      problem.points.push_back(point + 0.0);
      problem.weights.push_back(weight);
    }
  }
  return problem;
}

Problem Grid(size_t size, double first, double step, double weight = 1) {
  Problem problem;
  for (size_t i = 0; i < size; ++i) {
    problem.points.push_back(first + step * static_cast<double>(i));
    problem.weights.push_back(weight);
  }
  return problem;
}

// Rounds to 11 significant bits, a multiple of 2^-24.
double RoundToHalf(double value) {
  if (value == 0) return 0;
  const int exponent = std::max(std::ilogb(value) - 10, -24);
  return std::ldexp(std::nearbyint(std::ldexp(value, -exponent)), exponent);
}

Problem Gaussian(size_t count, double sigma, unsigned seed, double center = 0) {
  Random random(seed);
  std::vector<std::pair<double, double>> pairs(count);
  for (auto& pair : pairs) {
    pair = {RoundToHalf(center + sigma * random.Normal()), 1};
  }
  return Collect(std::move(pairs));
}

// Optimal costs for 1 .. max_k clusters.
std::vector<long double> OptimalCosts(const Problem& problem, size_t max_k) {
  const size_t size = problem.points.size();
  // Cost of each interval by Welford's update: no cancellation.
  std::vector<std::vector<long double>> cost;
  for (size_t j = 0; j < size; ++j) cost.emplace_back(size + 1, 0.0L);
  for (size_t j = 0; j < size; ++j) {
    long double weight = 0;
    long double mean = 0;  // Relative to the first point.
    long double sum = 0;
    for (size_t i = j; i < size; ++i) {
      const long double w = problem.weights[i];
      const long double x = static_cast<long double>(problem.points[i]) - problem.points[j];
      const long double delta = x - mean;
      weight += w;
      mean += delta * w / weight;
      sum += w * delta * (x - mean);
      cost[j][i + 1] = sum;
    }
  }
  const long double infinity = std::numeric_limits<long double>::infinity();
  std::vector<long double> row(size + 1, infinity);
  row[0] = 0;
  std::vector<long double> result;
  for (size_t k = 1; k <= max_k; ++k) {
    std::vector<long double> next(size + 1, infinity);
    for (size_t i = k; i <= size; ++i) {
      for (size_t j = k - 1; j < i; ++j) {
        next[i] = std::min(next[i], row[j] + cost[j][i]);
      }
    }
    row = next;
    result.push_back(row[size]);
  }
  return result;
}

// Everything a caller may rely on, but for optimality itself.
void ExpectSound(const Problem& problem, int k, const Clustering& result) {
  const size_t clusters = std::min(static_cast<size_t>(k), problem.points.size());
  ASSERT_EQ(result.starts.size(), clusters + 1);
  ASSERT_EQ(result.centroids.size(), clusters);
  EXPECT_EQ(result.starts.front(), 0u);
  EXPECT_EQ(result.starts.back(), problem.points.size());
  long double sse = 0;
  for (size_t c = 0; c < clusters; ++c) {
    ASSERT_LT(result.starts[c], result.starts[c + 1]);
    long double weight = 0;
    long double sum = 0;
    const long double base = problem.points[result.starts[c]];
    for (size_t i = result.starts[c]; i < result.starts[c + 1]; ++i) {
      weight += problem.weights[i];
      sum += problem.weights[i] * (problem.points[i] - base);
    }
    const long double mean = base + sum / weight;
    EXPECT_NEAR(
        result.centroids[c], static_cast<double>(mean),
        1e-15 * std::abs(static_cast<double>(mean)) +
            1e-12 * (problem.points[result.starts[c + 1] - 1] - problem.points[result.starts[c]]));
    if (c > 0) {
      EXPECT_LT(result.centroids[c - 1], result.centroids[c]);
    }
    for (size_t i = result.starts[c]; i < result.starts[c + 1]; ++i) {
      const long double d = problem.points[i] - mean;
      sse += problem.weights[i] * d * d;
    }
  }
  EXPECT_NEAR(result.sse, static_cast<double>(sse), 1e-10 * result.sse);
  EXPECT_LE(result.lower_bound, result.sse);
  EXPECT_GE(result.lower_bound, 0);
  if (result.sse > 0) {
    EXPECT_LT((result.sse - result.lower_bound) / result.sse, 1e-9);
  }
}

void ExpectOptimal(KMeans1d& solver, const Problem& problem, const std::vector<int>& ks) {
  const size_t size = problem.points.size();
  const int max_k = *std::max_element(ks.begin(), ks.end());
  const std::vector<long double> costs =
      OptimalCosts(problem, std::min(static_cast<size_t>(max_k), size));
  for (const int k : ks) {
    SCOPED_TRACE(testing::Message() << "k = " << k << ", U = " << size);
    const Clustering& result = solver.Solve(problem.points, problem.weights, k);
    ExpectSound(problem, k, result);
    const double optimum = static_cast<double>(costs[std::min(static_cast<size_t>(k), size) - 1]);
    EXPECT_NEAR(result.sse, optimum, 1e-9 * optimum);
    EXPECT_NEAR(result.lower_bound, optimum, 1e-9 * optimum);
    if (testing::Test::HasFailure()) return;
  }
}

std::vector<int> UpTo(int max_k) {
  std::vector<int> ks;
  for (int k = 1; k <= max_k; ++k) ks.push_back(k);
  return ks;
}

TEST(KMeans1dTest, NoPointsGiveNoClusters) {
  KMeans1d solver;
  const Clustering& result = solver.Solve({}, {}, 3);
  EXPECT_EQ(result.starts, std::vector<uint32_t>{0});
  EXPECT_TRUE(result.centroids.empty());
  EXPECT_EQ(result.sse, 0);
}

TEST(KMeans1dTest, OnePointIsItsOwnCluster) {
  KMeans1d solver;
  for (const int k : {1, 2, 65536}) {
    const Clustering& result = solver.Solve(std::vector<double>{-0.125}, std::vector<double>{7}, k);
    EXPECT_EQ(result.starts, (std::vector<uint32_t>{0, 1}));
    EXPECT_EQ(result.centroids, std::vector<double>{-0.125});
    EXPECT_EQ(result.sse, 0);
    EXPECT_EQ(result.lower_bound, 0);
  }
}

TEST(KMeans1dTest, AsManyClustersAsPointsReproducesThePoints) {
  KMeans1d solver;
  const Problem problem = Gaussian(300, 0.02, 1);
  const int size = static_cast<int>(problem.points.size());
  for (const int k : {size, size + 1, 65536}) {
    const Clustering& result = solver.Solve(problem.points, problem.weights, k);
    EXPECT_EQ(result.centroids, problem.points);
    EXPECT_EQ(result.sse, 0);
    EXPECT_EQ(result.starts.size(), problem.points.size() + 1);
  }
}

TEST(KMeans1dTest, OneClusterFewerThanPointsMergesTheCheapestPair) {
  KMeans1d solver;
  const std::vector<double> points = {-9, -4, 0.5, 1, 30, 31};
  const std::vector<double> weights = {1, 1, 4, 4, 1, 1};
  const Clustering& result = solver.Solve(points, weights, 5);
  EXPECT_EQ(result.starts, (std::vector<uint32_t>{0, 1, 2, 3, 4, 6}));
  EXPECT_EQ(result.centroids, (std::vector<double>{-9, -4, 0.5, 1, 30.5}));
  EXPECT_EQ(result.sse, 0.5);
}

TEST(KMeans1dTest, UniformGridsWithEqualCounts) {
  KMeans1d solver;
  for (const int size : {2, 3, 4, 5, 7, 8, 12, 16, 31, 40}) {
    for (const double first : {0.0, 1.0, -3.5, -100.0, -0.5 * 39}) {
      ExpectOptimal(solver, Grid(static_cast<size_t>(size), first, 1), UpTo(size + 1));
      if (HasFailure()) return;
    }
  }
  // Steps that are not representable: ties up to rounding.
  ExpectOptimal(solver, Grid(100, -4.7, 0.1), UpTo(100));
  ExpectOptimal(solver, Grid(64, 0.3, 1e-3, 0.3), UpTo(64));
}

TEST(KMeans1dTest, PowersOfTwo) {
  KMeans1d solver;
  Problem problem;
  for (int e = -24; e <= 15; ++e) {
    problem.points.push_back(std::ldexp(1.0, e));
    problem.weights.push_back(1);
  }
  ExpectOptimal(solver, problem, UpTo(41));
  // Weights that make merging any neighbours equally expensive.
  for (size_t i = 0; i < problem.points.size(); ++i) {
    problem.weights[i] = std::ldexp(1.0, 40 - 2 * static_cast<int>(i) + 48);
  }
  ExpectOptimal(solver, problem, UpTo(41));
}

TEST(KMeans1dTest, SymmetricPoints) {
  KMeans1d solver;
  Random random(5);
  for (int round = 0; round < 100; ++round) {
    std::vector<std::pair<double, double>> pairs;
    const int half = 1 + random.Below(12);
    for (int i = 0; i < half; ++i) {
      const double x = RoundToHalf(random.Below(1000) / 700.0);
      const double w = 1 + random.Below(3);
      pairs.push_back({x, w});
      pairs.push_back({-x, w});
    }
    const Problem problem = Collect(pairs);
    ExpectOptimal(solver, problem, UpTo(static_cast<int>(problem.points.size())));
    if (HasFailure()) return;
  }
}

TEST(KMeans1dTest, SmallRandomInstances) {
  KMeans1d solver;
  Random random(11);
  for (int round = 0; round < 2000; ++round) {
    const int layout = random.Below(6);
    const int weighting = random.Below(4);
    std::vector<std::pair<double, double>> pairs(static_cast<size_t>(3 + random.Below(28)));
    for (auto& [x, w] : pairs) {
      switch (layout) {
        case 0:
          x = random.Below(40) - 20;
          break;
        case 1:
          x = random.Uniform() - 0.5;
          break;
        case 2:
          x = RoundToHalf(std::exp(20 * random.Uniform() - 15));
          break;
        case 3:
          x = static_cast<float>(0.02 * random.Normal());
          break;
        case 4:
          x = -1 - random.Below(64) / 1024.0;
          break;
        default:
          x = random.Below(4) + 1e-3 * random.Below(9);
      }
      switch (weighting) {
        case 0:
          w = 1;
          break;
        case 1:
          w = 1 + random.Below(5);
          break;
        case 2:
          w = std::floor(std::exp(random.Uniform() * std::log(1e9)));
          break;
        default:
          w = 1e-3 + random.Uniform();
      }
    }
    const Problem problem = Collect(pairs);
    SCOPED_TRACE(testing::Message() << "round " << round);
    ExpectOptimal(solver, problem, UpTo(static_cast<int>(problem.points.size())));
    if (HasFailure()) return;
  }
}

TEST(KMeans1dTest, InstancesOfMediumSize) {
  KMeans1d solver;
  for (unsigned seed = 0; seed < 6; ++seed) {
    Problem problem = Gaussian(170, 0.02, seed);
    ExpectOptimal(solver, problem, {1, 2, 3, 4, 5, 8, 15, 16, 17, 31});
    Random random(seed);
    for (double& w : problem.weights) w = std::exp(20.7 * random.Uniform());
    ExpectOptimal(solver, problem, {1, 2, 3, 4, 5, 8, 15, 16, 17, 31});
    if (HasFailure()) return;
  }
}

TEST(KMeans1dTest, HugeOutlierAmongSmallWeights) {
  KMeans1d solver;
  for (const double outlier : {-60000.0, 60000.0}) {
    Problem small = Gaussian(120, 0.01, 3);
    small.points.insert(outlier < 0 ? small.points.begin() : small.points.end(), outlier);
    small.weights.push_back(1);
    ExpectOptimal(solver, small, {1, 2, 3, 4, 16, 40});

    Problem large = Gaussian(100000, 0.01, 4);
    large.points.insert(outlier < 0 ? large.points.begin() : large.points.end(), outlier);
    large.weights.insert(outlier < 0 ? large.weights.begin() : large.weights.end(), 1);
    for (const int k : {2, 4, 16, 256}) {
      ExpectSound(large, k, solver.Solve(large.points, large.weights, k));
    }
  }
}

// Narrow clusters far from zero leave nothing of a difference of plain sums.
TEST(KMeans1dTest, NarrowClustersFarFromZero) {
  KMeans1d solver;
  Random random(8);
  std::vector<std::pair<double, double>> pairs;
  for (int i = 0; i < 60; ++i) {
    const double center = i % 3 == 0 ? 1.0 : i % 3 == 1 ? -1.0 : 1000.0;
    pairs.push_back({center * (1 + random.Below(999) * 1e-8), 1.0 + random.Below(1000000)});
  }
  const Problem problem = Collect(pairs);
  ExpectOptimal(solver, problem, UpTo(static_cast<int>(problem.points.size())));

  const Problem ones = Gaussian(20000, 0.01, 9, 1.0);
  const Problem thousand = Gaussian(20000, 30, 10, 1000.0);
  for (const int k : {2, 3, 16, 33}) {
    ExpectSound(ones, k, solver.Solve(ones.points, ones.weights, k));
    ExpectSound(thousand, k, solver.Solve(thousand.points, thousand.weights, k));
  }
}

// The cheapest pair to merge lies among huge sums, another one near zero is
// hardly dearer and looks exact: rounding must not make it the answer.
TEST(KMeans1dTest, OptimumAmongLargeSums) {
  KMeans1d solver;
  const std::vector<double> points = {0, 0.001, 3, 3.001, 4};
  ExpectOptimal(solver, {points, {1, 71849, 1, 41689, 936868379}}, {3, 4});
  ExpectOptimal(solver, {points, {1, 69018, 1, 45852, 50894100}}, {3, 4});
  ExpectOptimal(solver, {points, {1, 101806, 1, 100296, 315388}}, {3, 4});
}

TEST(KMeans1dTest, CertifiedOnHalfPrecisionWeights) {
  KMeans1d solver;
  Problem problem = Gaussian(60000, 0.02, 2);
  for (const bool fractional : {false, true}) {
    if (fractional) {
      Random random(1);
      for (double& w : problem.weights) w *= 0.1 + random.Uniform();
    }
    for (const int k : {1, 2, 3, 4, 6, 8, 16, 64, 256, 4096}) {
      SCOPED_TRACE(testing::Message() << "k = " << k);
      const Clustering& result = solver.Solve(problem.points, problem.weights, k);
      ExpectSound(problem, k, result);
      EXPECT_LE(result.passes, 24);
    }
  }
}

TEST(KMeans1dTest, NearlyAsManyClustersAsPoints) {
  KMeans1d solver;
  const Problem problem = Gaussian(5000, 0.02, 6);
  const int size = static_cast<int>(problem.points.size());
  for (const int k : {size - 1, size - 2, size - 7, size - 100, size / 2}) {
    SCOPED_TRACE(testing::Message() << "k = " << k);
    ExpectSound(problem, k, solver.Solve(problem.points, problem.weights, k));
  }
  const Problem grid = Grid(5000, -1000, 1);
  for (const int k : {3, 7, 256, 1234, 2501, 4998, 4999}) {
    SCOPED_TRACE(testing::Message() << "k = " << k);
    ExpectSound(grid, k, solver.Solve(grid.points, grid.weights, k));
  }
}

TEST(KMeans1dTest, SseFallsAsClustersAreAdded) {
  KMeans1d solver;
  const Problem problem = Gaussian(3000, 1, 7);
  double previous = std::numeric_limits<double>::infinity();
  for (int k = 1; k < 80; ++k) {
    const double sse = solver.Solve(problem.points, problem.weights, k).sse;
    EXPECT_LT(sse, previous);
    previous = sse;
  }
}

TEST(KMeans1dTest, DynamicProgramAgrees) {
  KMeans1d solver;
  for (unsigned seed = 0; seed < 8; ++seed) {
    const Problem problem =
        seed % 2 == 0 ? Gaussian(250, 0.02, seed) : Grid(97, -13, 0.25, 1 + seed);
    for (const int k : {1, 2, 3, 7, 16, 90, 1000}) {
      SCOPED_TRACE(testing::Message() << "seed " << seed << ", k = " << k);
      const double sse = solver.Solve(problem.points, problem.weights, k).sse;
      const Clustering& table = solver.SolveByDynamicProgram(problem.points, problem.weights, k);
      ExpectSound(problem, k, table);
      EXPECT_EQ(table.passes, 0);
      EXPECT_NEAR(table.sse, sse, 1e-9 * sse);
    }
  }
}

TEST(KMeans1dTest, ResultDoesNotDependOnEarlierCalls) {
  KMeans1d used;
  const Problem large = Gaussian(20000, 0.02, 1);
  const Problem tied = Grid(1000, -300, 1);
  const Problem small = Gaussian(500, 0.5, 2);
  used.Solve(large.points, large.weights, 256);
  used.Solve(tied.points, tied.weights, 37);
  for (const Problem* problem : {&small, &tied, &large, &small}) {
    for (const int k : {2, 5, 16, 37}) {
      KMeans1d fresh;
      const Clustering& a = used.Solve(problem->points, problem->weights, k);
      const Clustering& b = fresh.Solve(problem->points, problem->weights, k);
      EXPECT_EQ(a.starts, b.starts);
      EXPECT_EQ(a.centroids, b.centroids);
      EXPECT_EQ(a.sse, b.sse);
      EXPECT_EQ(a.lower_bound, b.lower_bound);
      EXPECT_EQ(a.passes, b.passes);
    }
  }
}

TEST(KMeans1dTest, MovedSolverKeepsWorking) {
  KMeans1d first;
  KMeans1d second(std::move(first));
  const Problem problem = Grid(10, 0, 1);
  EXPECT_EQ(second.Solve(problem.points, problem.weights, 5).sse, 2.5);
}

}  // namespace
}  // namespace cmlc::numeric
