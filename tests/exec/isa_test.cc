// The kernels of every level that this processor has, against plain loops in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "exec/isa/kernels.h"

namespace cmlc::exec {
namespace {

class Isa : public ::testing::TestWithParam<const IsaKernels*> {};

std::vector<float> Random(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(static_cast<int32_t>(random())) * 0x1p-31f;
  return values;
}

// Sums of k products of numbers up to 1; one that is missing shows.
double Slack(int64_t k) { return 2e-6 * std::sqrt(static_cast<double>(k)) + 1e-6; }

void CheckGemm(const IsaKernels& kernels, int64_t m, int64_t n, int64_t k, bool transpose_a,
               bool transpose_b, bool accumulate) {
  SCOPED_TRACE(::testing::Message()
               << m << " x " << n << " x " << k << " " << transpose_a << transpose_b << accumulate);
  const int64_t lda = (transpose_a ? m : k) + 3, ldb = (transpose_b ? k : n) + 1, ldc = n + 2;
  const std::vector<float> a = Random(static_cast<size_t>((transpose_a ? k : m) * lda), 1);
  const std::vector<float> b = Random(static_cast<size_t>((transpose_b ? n : k) * ldb), 2);
  std::vector<float> c = Random(static_cast<size_t>(m * ldc), 3);
  if (!accumulate)
    for (int64_t i = 0; i < m; ++i)
      std::fill_n(c.begin() + i * ldc, n, std::numeric_limits<float>::quiet_NaN());
  const std::vector<float> before = c;
  kernels.gemm(a.data(), lda, transpose_a, b.data(), ldb, transpose_b, c.data(), ldc, m, n, k,
               accumulate);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = accumulate ? static_cast<double>(before[static_cast<size_t>(i * ldc + j)]) : 0;
      for (int64_t l = 0; l < k; ++l)
        sum +=
            static_cast<double>(a[static_cast<size_t>(transpose_a ? l * lda + i : i * lda + l)]) *
            static_cast<double>(b[static_cast<size_t>(transpose_b ? j * ldb + l : l * ldb + j)]);
      ASSERT_NEAR(c[static_cast<size_t>(i * ldc + j)], sum, Slack(k)) << i << ", " << j;
    }
    for (int64_t j = n; j < ldc; ++j)  // between the rows nothing is touched
      ASSERT_EQ(c[static_cast<size_t>(i * ldc + j)], before[static_cast<size_t>(i * ldc + j)]);
  }
}

TEST_P(Isa, GemmIsTheProduct) {
  for (const int64_t m : {1, 2, 5, 17, 49})
    for (const int64_t n : {1, 3, 8, 23, 50})
      for (const int64_t k : {0, 1, 7, 33, 300})
        for (int form = 0; form < 8; ++form)
          CheckGemm(*GetParam(), m, n, k, form & 1, form & 2, form & 4);
  CheckGemm(*GetParam(), 131, 97, 777, false, true, true);
  CheckGemm(*GetParam(), 70, 201, 1500, true, false, false);
}

std::vector<Window> Windows() {
  std::vector<Window> windows;
  std::mt19937 random(7);
  const auto number = [&](int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random() % static_cast<uint32_t>(most - least + 1));
  };
  for (int i = 0; i < 120; ++i) {
    Window w;
    for (int d = i % 3; d < 3; ++d) {
      w.image[d] = number(1, d == 2 ? 40 : 7);
      w.kernel[d] = number(1, i % 10 == 0 && d == 2 ? 36 : 5);
      w.stride[d] = number(1, 4);
      w.dilation[d] = number(1, 3);
      const int64_t reach = (w.kernel[d] - 1) * w.dilation[d] + 1;
      w.before[d] = number(0, reach + 1);
      const int64_t room = w.image[d] + w.before[d] + number(0, reach) - reach;
      if (room < 0) {
        w.image[d] -= room;
      }
      w.positions[d] = std::max<int64_t>(0, room) / w.stride[d] + 1;
    }
    windows.push_back(w);
  }
  return windows;
}

// Calls body(position, point of the kernel, index in the image or -1) for all.
template <typename Body>
void ForWindow(const Window& w, const Body& body) {
  for (int64_t position = 0; position < w.position_count(); ++position)
    for (int64_t k = 0; k < w.kernel_size(); ++k) {
      const int64_t at[3] = {position / (w.positions[2] * w.positions[1]),
                             position / w.positions[2] % w.positions[1], position % w.positions[2]};
      const int64_t point[3] = {k / (w.kernel[2] * w.kernel[1]), k / w.kernel[2] % w.kernel[1],
                                k % w.kernel[2]};
      int64_t index = 0;
      for (int d = 0; d < 3; ++d) {
        const int64_t i = at[d] * w.stride[d] - w.before[d] + point[d] * w.dilation[d];
        if (i < 0 || i >= w.image[d]) index = -1;
        if (index >= 0) index = index * w.image[d] + i;
      }
      body(position, k, index);
    }
}

TEST_P(Isa, ImageToColumnsIsWhatTheWindowCovers) {
  const IsaKernels& kernels = *GetParam();
  constexpr int64_t kChannels = 2;
  for (const Window& w : Windows()) {
    const std::vector<float> image = Random(static_cast<size_t>(kChannels * w.image_size()), 5);
    const int64_t rows = kChannels * w.kernel_size(), positions = w.position_count();
    std::vector<float> expected(static_cast<size_t>(rows * positions));
    ForWindow(w, [&](int64_t position, int64_t k, int64_t index) {
      for (int64_t c = 0; c < kChannels; ++c)
        if (index >= 0)
          expected[static_cast<size_t>((c * w.kernel_size() + k) * positions + position)] =
              image[static_cast<size_t>(c * w.image_size() + index)];
    });
    // In uneven bands, and rows in two parts.
    const int64_t band = std::max<int64_t>(1, positions * 2 / 5 + 1), split = rows / 2;
    for (int64_t begin = 0; begin < positions; begin += band) {
      const int64_t end = std::min(positions, begin + band);
      std::vector<float> columns(static_cast<size_t>(rows * band), 99);
      kernels.image_to_columns(w, image.data(), 0, split, begin, end, columns.data(), band);
      kernels.image_to_columns(w, image.data(), split, rows, begin, end,
                               columns.data() + split * band, band);
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t position = begin; position < end; ++position)
          ASSERT_EQ(columns[static_cast<size_t>(row * band + position - begin)],
                    expected[static_cast<size_t>(row * positions + position)])
              << row << ", " << position;
    }
  }
}

// <columns(x), y> = <x, image(y)> for all x and y.
TEST_P(Isa, ColumnsToImageIsTheAdjoint) {
  const IsaKernels& kernels = *GetParam();
  constexpr int64_t kChannels = 2;
  for (const Window& w : Windows()) {
    const int64_t rows = kChannels * w.kernel_size(), positions = w.position_count();
    const std::vector<float> x = Random(static_cast<size_t>(kChannels * w.image_size()), 5);
    const std::vector<float> y = Random(static_cast<size_t>(rows * positions), 6);
    std::vector<float> columns(y.size()), image(x.size());
    kernels.image_to_columns(w, x.data(), 0, rows, 0, positions, columns.data(), positions);
    const int64_t split = positions / 3;
    kernels.columns_to_image(w, y.data(), positions, kChannels, 0, split, image.data());
    kernels.columns_to_image(w, y.data() + split, positions, kChannels, split, positions,
                             image.data());
    double left = 0, right = 0;
    for (size_t i = 0; i < y.size(); ++i)
      left += static_cast<double>(columns[i]) * static_cast<double>(y[i]);
    for (size_t i = 0; i < x.size(); ++i)
      right += static_cast<double>(image[i]) * static_cast<double>(x[i]);
    ASSERT_NEAR(left, right, 1e-5 * std::sqrt(static_cast<double>(y.size())) + 1e-5);
  }
}

TEST_P(Isa, WindowsReduceWhatTheyCover) {
  const IsaKernels& kernels = *GetParam();
  for (const Window& w : Windows()) {
    const std::vector<float> image = Random(static_cast<size_t>(w.image_size()), 8);
    const std::vector<float> weights = Random(static_cast<size_t>(w.kernel_size()), 9);
    const auto positions = static_cast<size_t>(w.position_count());
    std::vector<double> most(positions, -std::numeric_limits<double>::infinity()), sum(positions),
        squares(positions), dot(positions, 0.25);
    ForWindow(w, [&](int64_t position, int64_t k, int64_t index) {
      if (index < 0) return;
      const auto value = static_cast<double>(image[static_cast<size_t>(index)]);
      const auto at = static_cast<size_t>(position);
      most[at] = std::max(most[at], value);
      sum[at] += value;
      squares[at] += value * value;
      dot[at] += value * static_cast<double>(weights[static_cast<size_t>(k)]);
    });
    std::vector<float> got(positions);
    const auto expect = [&](const std::vector<double>& expected, double slack) {
      for (size_t i = 0; i < positions; ++i)
        if (got[i] != static_cast<float>(expected[i])) {
          ASSERT_NEAR(got[i], expected[i], slack) << i;
        }
    };
    kernels.window_max(w, image.data(), got.data());
    expect(most, 0);
    kernels.window_sum(w, image.data(), got.data());
    expect(sum, 1e-5);
    kernels.window_sum_of_squares(w, image.data(), got.data());
    expect(squares, 1e-5);
    std::fill(got.begin(), got.end(), 0.25f);
    kernels.depthwise(w, image.data(), weights.data(), got.data());
    expect(dot, 1e-5);
  }
}

TEST_P(Isa, RowsAreSummedInDouble) {
  const IsaKernels& kernels = *GetParam();
  for (const int64_t count : {1, 15, 16, 17, 1000, 4099}) {
    std::vector<float> x = Random(static_cast<size_t>(count), 12);
    for (float& value : x) value += 4096;  // far from zero beside its spread
    double sum = 0, squares = 0, spread = 0;
    for (const float value : x) sum += static_cast<double>(value);
    const double expected = sum / static_cast<double>(count);
    for (const float value : x) {
      squares += static_cast<double>(value) * static_cast<double>(value);
      spread += (static_cast<double>(value) - expected) * (static_cast<double>(value) - expected);
    }
    double mean = 0, variance = 0;
    kernels.mean_and_variance(x.data(), count, &mean, &variance);
    EXPECT_NEAR(mean, expected, 1e-9);
    EXPECT_NEAR(variance, spread / static_cast<double>(count), 1e-9);
    EXPECT_NEAR(kernels.sum_of_squares(x.data(), count) / squares, 1, 1e-12);
    std::vector<float> out(x.size());
    kernels.normalize(x.data(), count, mean, 2.0f, nullptr, nullptr, out.data());
    for (size_t i = 0; i < x.size(); ++i)
      ASSERT_NEAR(out[i], (static_cast<double>(x[i]) - expected) * 2, 1e-6);
  }
}

TEST_P(Isa, SummariesAreThoseOfPlainLoops) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const size_t count : {0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 100, 4096}) {
    std::vector<float> x = Random(count, static_cast<uint32_t>(count));
    for (size_t i = 0; i < count; i += 5) x[i] = i % 2 == 0 ? 0.0f : -0.0f;
    if (count > 20) x[18] = 1e-40f;
    double sum = 0, squares = 0;
    float least = infinity, greatest = -infinity, least_magnitude = infinity;
    float greatest_magnitude = 0;
    for (const float number : x) {
      sum += static_cast<double>(number);
      squares += static_cast<double>(number) * static_cast<double>(number);
      least = std::min(least, number);
      greatest = std::max(greatest, number);
      if (number != 0) least_magnitude = std::min(least_magnitude, std::fabs(number));
      greatest_magnitude = std::max(greatest_magnitude, std::fabs(number));
    }
    NumbersSummary summary;
    GetParam()->summarize(x.data(), static_cast<int64_t>(count), &summary);
    EXPECT_NEAR(summary.sum, sum, 1e-12);
    EXPECT_NEAR(summary.sum_of_squares, squares, 1e-9);
    EXPECT_EQ(summary.least, least);
    EXPECT_EQ(summary.greatest, greatest);
    EXPECT_EQ(summary.least_magnitude, least_magnitude);
    EXPECT_EQ(GetParam()->greatest_magnitude(x.data(), static_cast<int64_t>(count)),
              greatest_magnitude);
    std::vector<float> most = Random(count, 9);
    const std::vector<float> before = most;
    std::vector<double> sums(count, 0.5);
    GetParam()->keep_greatest_magnitudes(x.data(), static_cast<int64_t>(count), most.data());
    GetParam()->add_squares(x.data(), static_cast<int64_t>(count), sums.data());
    for (size_t i = 0; i < count; ++i) {
      EXPECT_EQ(most[i], std::max(before[i], std::fabs(x[i])));
      EXPECT_EQ(sums[i], 0.5 + static_cast<double>(x[i]) * static_cast<double>(x[i]));
    }
  }
  for (const float wrong : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()})
    for (const size_t at : {0, 7, 40}) {
      std::vector<float> x = Random(41, 1);
      x[at] = wrong;
      NumbersSummary summary;
      GetParam()->summarize(x.data(), 41, &summary);
      EXPECT_FALSE(std::isfinite(summary.sum_of_squares));
    }
}

TEST_P(Isa, SoftmaxSumsToOne) {
  for (const size_t count : {1u, 5u, 16u, 33u, 1000u}) {
    std::vector<float> x = Random(count, 13);
    for (float& value : x) value *= 80;
    std::vector<double> expected;
    double total = 0;
    const auto most = static_cast<double>(*std::max_element(x.begin(), x.end()));
    for (const float value : x) total += std::exp(static_cast<double>(value) - most);
    for (const float value : x)
      expected.push_back(std::exp(static_cast<double>(value) - most) / total);
    GetParam()->softmax(x.data(), static_cast<int64_t>(count));
    for (size_t i = 0; i < count; ++i) ASSERT_NEAR(x[i], expected[i], 1e-6 * expected[i] + 1e-12);
  }
}

TEST_P(Isa, SoftmaxOfNanAndInfinity) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto softmax = [&](float first, float second) {
    std::vector<float> x(21, 1.0f);
    x[3] = first;
    x[18] = second;
    GetParam()->softmax(x.data(), 21);
    return x;
  };
  for (const float value : softmax(1, std::numeric_limits<float>::quiet_NaN()))
    EXPECT_TRUE(std::isnan(value));
  for (const float value : softmax(kInfinity, 0)) EXPECT_TRUE(std::isnan(value));
  const std::vector<float> one = softmax(-kInfinity, -200);
  EXPECT_EQ(one[3], 0);
  EXPECT_EQ(one[18], 0);
  EXPECT_NEAR(one[0], 1.0 / 19, 1e-7);
  std::vector<float> none(21, -kInfinity);
  GetParam()->softmax(none.data(), 21);
  EXPECT_TRUE(std::isnan(none[20]));
}

INSTANTIATE_TEST_SUITE_P(All, Isa,
                         ::testing::ValuesIn(SupportedKernels().begin(), SupportedKernels().end()),
                         [](const auto& one) { return std::string(one.param->name); });

TEST(IsaLevels, AgreeOnEverythingButProducts) {
  const IsaKernels& base = *SupportedKernels().front();
  std::vector<float> arguments = Random(40001, 14);
  for (float& value : arguments) value *= 50;
  for (const IsaKernels* other : SupportedKernels()) {
    std::vector<float> soft = arguments, other_soft = arguments;
    base.softmax(soft.data(), static_cast<int64_t>(soft.size()));
    other->softmax(other_soft.data(), static_cast<int64_t>(soft.size()));
    EXPECT_EQ(soft, other_soft) << other->name;
    double mean[2], variance[2];
    base.mean_and_variance(arguments.data(), 1003, &mean[0], &variance[0]);
    other->mean_and_variance(arguments.data(), 1003, &mean[1], &variance[1]);
    EXPECT_EQ(mean[0], mean[1]);
    EXPECT_EQ(variance[0], variance[1]);
    for (const Window& w : Windows()) {
      const std::vector<float> image = Random(static_cast<size_t>(w.image_size()), 8);
      const std::vector<float> weights = Random(static_cast<size_t>(w.kernel_size()), 9);
      std::vector<float> one(static_cast<size_t>(w.position_count())), two = one;
      base.depthwise(w, image.data(), weights.data(), one.data());
      other->depthwise(w, image.data(), weights.data(), two.data());
      ASSERT_EQ(one, two) << other->name;
    }
  }
}

TEST(IsaLevels, CanBePinned) {
  const std::string before = Kernels().name;
  EXPECT_EQ(before, SupportedKernels().back()->name);
  for (const IsaKernels* one : SupportedKernels()) {
    EXPECT_TRUE(PinKernels(one->name));
    EXPECT_EQ(&Kernels(), one);
  }
  EXPECT_FALSE(PinKernels("v2"));
  EXPECT_TRUE(PinKernels(before));
}

}  // namespace
}  // namespace cmlc::exec
