// k-means for vectors: what the LUTs of vector palettization (cluster_dim above 1) are fitted with.
//
// Unlike on a line there is no exact method for this; the outcome is a local optimum whose quality
// depends on the start. vector_kmeans.cc tells how a good one is found. Everything here depends on
// its arguments alone: not on the number of threads, nor on the width of the processor's vectors.
#ifndef CMLC_NUMERIC_VECTOR_KMEANS_H_
#define CMLC_NUMERIC_VECTOR_KMEANS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "cmlc/status.h"

namespace cmlc::numeric {

constexpr size_t kMostVectorDims = 64;
constexpr size_t kMostVectorCentroids = 4096;

// Many vectors of `dim` floats each, in pieces, so that they need not be in memory all at once. A
// vector's elements are adjacent. Values are finite.
//
// How vectors are cut into pieces takes part in the result, as sums are made by piece: an
// implementation must not let it depend on the number of threads. Some ten thousand vectors make a
// good piece. Visits may be repeated, and several threads may visit at a time.
class VectorSource {
 public:
  // `values` holds whole vectors, of which the first has the index `first_vector`.
  using Visitor = std::function<void(uint64_t first_vector, std::span<const float> values)>;

  virtual ~VectorSource() = default;

  // Number of vectors in all pieces together.
  virtual uint64_t count() const = 0;
  virtual size_t pieces() const = 0;
  // Calls `visitor` with the vectors of one piece, in order, once or in several parts. `values` is
  // valid during a call only.
  virtual Status Visit(size_t piece, const Visitor& visitor) const = 0;
};

// Vectors that lie in memory, which this class does not own.
class SpanVectorSource final : public VectorSource {
 public:
  static constexpr size_t kPieceVectors = size_t{1} << 16;

  // `values` holds whole vectors of `dim` >= 1 floats.
  SpanVectorSource(std::span<const float> values, size_t dim);

  uint64_t count() const override { return values_.size() / dim_; }
  size_t pieces() const override;
  Status Visit(size_t piece, const Visitor& visitor) const override;

 private:
  std::span<const float> values_;
  size_t dim_;
};

struct VectorFit {
  // At most k distinct vectors of `dim` floats, in lexicographic order. No element is -0.
  std::vector<float> centroids;
  // Sum of the squared distances of all vectors to their nearest centroids. Distances were added in
  // fp32, so only some six digits are right.
  double sse = 0;
};

// Places at most k centroids so that the sum of squared distances is small. Vectors that have at
// most k distinct values are kept as they are: the centroids are those values, and sse is 0.
//   source  at least one vector. Up to 131,072 vectors are read four times at most. More are read
//   up
//           to 23 times, or 11 times where a large sample comes first; so a source that converts
//           values as it goes should keep the result if there is room;
//   dim     1 .. kMostVectorDims; 2, 4 and 8 are the fast ones;
//   k       1 .. kMostVectorCentroids.
// Memory: about 12 * dim bytes for each of up to 262,144 vectors (of 256 k where k > 1024), and
// 32 MiB for sums at most. Fails only as the source does; of several errors that of the first piece
// is returned.
Result<VectorFit> FitVectors(const VectorSource& source, size_t dim, size_t k, ThreadPool& pool);

// The distinct vectors in lexicographic order, or nothing if there are more than `most`. -0 and +0
// are the same, and come out as +0. Stops reading where the answer is known. `most` <= 65,536.
Result<std::optional<std::vector<float>>> UniqueVectors(const VectorSource& source, size_t dim,
                                                        size_t most);

// codes[i] is the index of the centroid that is nearest to vector i; of equally near ones the
// first. Distances are compared as fp32 sums of squared differences, added in the order of the
// elements (in fp64 where they would leave the range of fp32): where two centroids are equally near
// up to rounding, either may be taken. The code of a vector does not depend on its neighbours.
//   vectors    whole vectors of `dim` floats, dim in 1 .. kMostVectorDims;
//   centroids  1 .. 256 of them, in any order; some may be equal;
//   codes      one for each vector.
// Returns the sum of the squared distances, in fp64 throughout.
double AssignVectors(std::span<const float> vectors, size_t dim, std::span<const float> centroids,
                     uint8_t* codes);

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_VECTOR_KMEANS_H_
