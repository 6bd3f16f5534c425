// k-means in one dimension of more fp32 values than can be sorted.
#ifndef CMLC_NUMERIC_FLOAT_KMEANS_H_
#define CMLC_NUMERIC_FLOAT_KMEANS_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "base/thread_pool.h"
#include "cmlc/status.h"
#include "numeric/fine_counts.h"
#include "numeric/kmeans1d.h"
#include "numeric/points.h"
#include "numeric/value_source.h"

namespace cmlc::numeric {

// Solves it on histograms, which it refines where that matters: in the tests the squared error is
// within 3e-7 of the least (1e-6 dB), and mostly much nearer. What is not known of values in fine
// counts may cost 1e-6 at worst. Holds scratch memory, for one thread.
class FloatKMeans {
 public:
  FloatKMeans();
  ~FloatKMeans();

  // Up to so many entries fine counts may do.
  static constexpr size_t kMostFineEntries = 16;
  // The centroids, ascending, from the counts alone. None where they are too coarse for that: for
  // values that lie close together far from zero, or where few distinct ones occur.
  std::optional<std::vector<double>> Solve(const FineCounts& counts, size_t entries,
                                           KMeans1d& kmeans);

  // The same in two steps, for any values and any number of entries: first the bins of `counts`
  // become `points`, then Refine solves for them, and counts the values of `source` again as often
  // as it needs to.
  void Start(const FloatCounts& counts, Points& points);
  Result<std::vector<double>> Refine(const ValueSource<float>& source, const Points& points,
                                     size_t entries, ThreadPool& pool, KMeans1d& kmeans);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_FLOAT_KMEANS_H_
