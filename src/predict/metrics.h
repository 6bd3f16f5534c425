// How far two tensors are apart.
#ifndef CMLC_PREDICT_METRICS_H_
#define CMLC_PREDICT_METRICS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace cmlc::predict {

// Of y, the reference, and x, of the same size. All sums are in fp64, in order.
struct Difference {
  uint64_t count = 0;              // of elements that take part: finite in both
  uint64_t both_not_finite = 0;    // NaN in both, or the same infinity
  uint64_t not_finite_in_one = 0;  // else
  double snr_db = 0;
  double psnr_db = 0;
  double cosine = 0;  // 1 if both are zero
  double max_error = 0;
  double relative = 0;  // |x - y| / |y|; infinite if y alone is zero
};
Difference Measure(std::span<const float> y, std::span<const float> x);

// Whether each row of `row` elements is a distribution: none is negative, their sum is 1 within a
// hundredth.
bool IsProbability(std::span<const float> values, size_t row);

// The mean over rows of sum y log(y / x), both scaled to the sum 1. An x below 1e-10 counts as
// that.
double KullbackLeibler(std::span<const float> y, std::span<const float> x, size_t row);

// The places of the `count` greatest numbers, best first; of equals the first one comes first, NaN
// comes last.
std::vector<size_t> Best(std::span<const float> row, size_t count);

// Over rows: the share of rows whose best element is the same, and (with more than five elements)
// the mean share of y's best five among x's best five.
double Top1(std::span<const float> y, std::span<const float> x, size_t row);
std::optional<double> Top5(std::span<const float> y, std::span<const float> x, size_t row);

}  // namespace cmlc::predict

#endif  // CMLC_PREDICT_METRICS_H_
