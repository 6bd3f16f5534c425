#include "predict/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/test_util.h"

namespace cmlc::predict {
namespace {

using test::Gaussian;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(Metrics, AreThePlainFormulas) {
  const std::vector<float> y = Gaussian(999, 1);
  std::vector<float> x = y;
  const std::vector<float> noise = Gaussian(999, 2, 0.03f);
  for (size_t i = 0; i < x.size(); ++i) x[i] += noise[i];
  long double yy = 0, xx = 0, xy = 0, dd = 0, peak = 0, most = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const long double a = y[i], b = x[i];
    yy += a * a;
    xx += b * b;
    xy += a * b;
    dd += (b - a) * (b - a);
    peak = std::max(peak, a * a);
    most = std::max(most, std::fabs(b - a));
  }
  const Difference difference = Measure(y, x);
  EXPECT_EQ(difference.count, 999u);
  EXPECT_NEAR(difference.snr_db,
              static_cast<double>(10 * std::log10((yy / 999 + 1e-5L) / (dd / 999 + 1e-10L))), 1e-9);
  EXPECT_NEAR(difference.psnr_db,
              static_cast<double>(10 * std::log10((peak + 1e-5L) / (dd / 999 + 1e-10L))), 1e-9);
  EXPECT_NEAR(difference.cosine, static_cast<double>(xy / std::sqrt(xx * yy)), 1e-12);
  EXPECT_DOUBLE_EQ(difference.max_error, static_cast<double>(most));
  EXPECT_NEAR(difference.relative, static_cast<double>(std::sqrt(dd / yy)), 1e-12);
  EXPECT_NEAR(difference.snr_db, 30.5, 1);  // 20 log10(1 / 0.03)
}

TEST(Metrics, OfEqualTensorsAreAsGoodAsCanBe) {
  const std::vector<float> y = {1, -1, 1, -1};
  const Difference difference = Measure(y, y);
  EXPECT_NEAR(difference.snr_db, 100, 1e-3);
  EXPECT_EQ(difference.cosine, 1);
  EXPECT_EQ(difference.max_error, 0);
  EXPECT_EQ(difference.relative, 0);
  const std::vector<float> zeros(4, 0.0f);
  EXPECT_EQ(Measure(zeros, zeros).cosine, 1);
  EXPECT_EQ(Measure(zeros, y).cosine, 0);
  EXPECT_EQ(Measure(zeros, y).relative, std::numeric_limits<double>::infinity());
}

TEST(Metrics, CountWhatIsNotFinite) {
  const std::vector<float> y = {1, kNan, kInf, -kInf, 2, kInf, kNan};
  const std::vector<float> x = {1, kNan, kInf, kInf, kNan, 3, kInf};
  const Difference difference = Measure(y, x);
  EXPECT_EQ(difference.count, 1u);
  EXPECT_EQ(difference.both_not_finite, 2u);
  EXPECT_EQ(difference.not_finite_in_one, 4u);
  EXPECT_EQ(difference.max_error, 0);
}

TEST(Metrics, TellProbabilitiesByTheirRows) {
  EXPECT_TRUE(IsProbability(std::vector<float>{0.25f, 0.75f, 1, 0}, 2));
  EXPECT_FALSE(IsProbability(std::vector<float>{0.25f, 0.75f, 1, 0.5f}, 2));
  EXPECT_FALSE(IsProbability(std::vector<float>{-0.5f, 1.5f}, 2));
  EXPECT_FALSE(IsProbability(std::vector<float>{kNan, 1}, 2));
  EXPECT_FALSE(IsProbability(std::vector<float>{1, 1}, 1));
}

TEST(Metrics, KullbackLeiblerIsTheMeanOverRows) {
  const std::vector<float> y = {0.5f, 0.5f, 1, 0};
  const std::vector<float> x = {0.25f, 0.75f, 0.5f, 0.5f};
  const double first = 0.5 * std::log(0.5 / 0.25) + 0.5 * std::log(0.5 / 0.75);
  EXPECT_NEAR(KullbackLeibler(y, x, 2), (first + std::log(2.0)) / 2, 1e-12);
  EXPECT_EQ(KullbackLeibler(y, y, 2), 0);
  // What B holds for impossible costs much, but not infinitely much.
  EXPECT_NEAR(KullbackLeibler(std::vector<float>{1, 0}, std::vector<float>{0, 1}, 2),
              std::log(1e10), 1e-9);
}

TEST(Metrics, BestPutsTheFirstOfEqualsFirstAndNanLast) {
  EXPECT_EQ(Best(std::vector<float>{1, 3, 3, kNan, 2}, 5), (std::vector<size_t>{1, 2, 4, 0, 3}));
  EXPECT_EQ(Best(std::vector<float>{1}, 5), (std::vector<size_t>{0}));
}

TEST(Metrics, AgreementIsAShareOfRows) {
  const std::vector<float> y = {9, 8, 7, 6, 5, 4, 3, 2,  //
                                1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<float> x = {9, 8, 7, 6, 4, 5, 3, 2,   // one of five changes
                                8, 2, 3, 4, 5, 6, 7, 1};  // the best, and one of five, change
  EXPECT_DOUBLE_EQ(Top1(y, x, 8), 0.5);
  EXPECT_DOUBLE_EQ(*Top5(y, x, 8), 0.8);
  EXPECT_FALSE(Top5(y, x, 4).has_value());
  EXPECT_DOUBLE_EQ(Top1(y, y, 8), 1);
}

}  // namespace
}  // namespace cmlc::predict
