// Exact weighted k-means on a line.
//
// Idea. An optimal clustering of points on a line consists of k consecutive
// intervals, so a clustering is a path with k links over the U+1 gaps between
// the points, a link (j, i) costing the sum of squared deviations of the points
// j .. i-1 from their weighted mean. That cost has the Monge property
// (quadrangle inequality), hence the best cost is a convex function of k and a
// price `lambda` charged for every link steers the number of links: the
// unconstrained cheapest path at the right price is the wanted optimum. One
// price costs O(U log U) time, and a good first guess makes one to three prices
// enough. There is no table of k rows; memory is O(U).
//
// Sources.
//   X. Wu, "Optimal quantization by matrix searching", J. Algorithms 12, 1991
//     (intervals; Monge property of the squared error).
//   A. Aggarwal, B. Schieber, T. Tokuyama, "Finding a minimum-weight k-link path
//     in graphs with the concave Monge property and applications", Discrete &
//     Computational Geometry 12, 1994 (price per link; splicing two paths).
//   R. Wilber, "The concave least-weight subsequence problem revisited",
//     J. Algorithms 9, 1988; Z. Galil and K. Park, "A linear-time algorithm for
//     concave one-dimensional dynamic programming", IPL 33, 1990 (the path at a
//     given price).
//   A. Gronlund, K. G. Larsen, A. Mathiasen, J. S. Nielsen, S. Schneider,
//     M. Song, "Fast exact k-means, k-medians and Bregman divergence clustering
//     in 1D", arXiv:1701.07204, 2017 (survey and comparison of all of these).

#ifndef CMLC_NUMERIC_KMEANS1D_H_
#define CMLC_NUMERIC_KMEANS1D_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace cmlc::numeric {

// A partition of ascending points into consecutive clusters.
struct Clustering {
  // Size clusters + 1; cluster c holds the points [starts[c], starts[c + 1]).
  std::vector<uint32_t> starts;
  // Weighted means, ascending, in the unit of the points; size clusters.
  std::vector<double> centroids;
  // Weighted sum of squared distances to the centroids (unit of the weights
  // times the squared unit of the points), computed from the points themselves
  // by a sweep for the means and another one for the deviations.
  double sse = 0;
  // Certificate: up to rounding, no clustering into as many clusters has a
  // smaller sse. Never above `sse`; (sse - lower_bound) / sse is below 1e-9.
  double lower_bound = 0;
  // Prices tried on the full data (both precisions together); 0 where none was
  // needed: one or two clusters, or as many clusters as points.
  int passes = 0;
};

// A solver together with its scratch memory. Once it has seen its largest
// problem, a call allocates nothing. Use one object per thread.
class KMeans1d {
 public:
  KMeans1d();
  ~KMeans1d();
  KMeans1d(KMeans1d&&) noexcept;
  KMeans1d& operator=(KMeans1d&&) noexcept;
  KMeans1d(const KMeans1d&) = delete;
  KMeans1d& operator=(const KMeans1d&) = delete;

  // Returns an optimal clustering into min(k, points.size()) clusters.
  //   points   finite, strictly ascending, fewer than 2^32 - 1 of them; squares
  //            times weights must neither overflow nor underflow (values that
  //            came from fp16, bf16 or fp32 are fine);
  //   weights  one per point, finite and > 0: counts, or summed importances;
  //   k        wanted number of clusters, 1 <= k <= 65536.
  // The spans are read during the call only. The result belongs to this object
  // and is overwritten by the next call. It depends on the arguments alone, not
  // on earlier calls.
  const Clustering& Solve(std::span<const double> points, std::span<const double> weights, int k);

  // The same contract by a divide-and-conquer dynamic program over k rows:
  // O(k U log U) time in doubled precision and 4 k U bytes. Solve() falls back
  // on it should its bounded search ever end without an answer; also an oracle.
  const Clustering& SolveByDynamicProgram(std::span<const double> points,
                                          std::span<const double> weights, int k);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_KMEANS1D_H_
