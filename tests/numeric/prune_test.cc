// The reference sorts: values, or blocks of them, by magnitude and then by place, one at a time.
#include "numeric/prune.h"

#include <gtest/gtest.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "numeric/half.h"

namespace cmlc::numeric {
namespace {

void Choose(int64_t targets) {
  hwy::SetSupportedTargetsForTest(targets);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

// Every instruction set of this processor that code was generated for.
class PruneMasks : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { Choose(GetParam()); }
  void TearDown() override { Choose(0); }
};

INSTANTIATE_TEST_SUITE_P(, PruneMasks, testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& test) { return std::string(hwy::TargetName(test.param)); });

// Values cut into pieces of `piece` values, a multiple of 8.
template <typename T>
class PieceSource final : public ValueSource<T> {
 public:
  PieceSource(std::span<const T> values, size_t piece) : values_(values), piece_(piece) {}
  uint64_t count() const override { return values_.size(); }
  size_t pieces() const override { return (values_.size() + piece_ - 1) / piece_; }
  Status Visit(size_t piece, const typename ValueSource<T>::Visitor& visit) const override {
    const size_t begin = piece * piece_;
    visit(begin, values_.subspan(begin, std::min(piece_, values_.size() - begin)));
    return Ok();
  }

 private:
  std::span<const T> values_;
  size_t piece_;
};

// A source whose pieces from the third on cannot be read, and a reader of the same kind.
template <typename T>
class BrokenSource final : public ValueSource<T> {
 public:
  explicit BrokenSource(size_t piece) : values_(piece, T{1}) {}
  uint64_t count() const override { return 8 * values_.size(); }
  size_t pieces() const override { return 8; }
  Status Visit(size_t piece, const typename ValueSource<T>::Visitor& visit) const override {
    if (piece >= 2) return Error{ErrorKind::kBadInput, "piece " + std::to_string(piece)};
    visit(piece * values_.size(), values_);
    return Ok();
  }

 private:
  std::vector<T> values_;
};

template <typename T>
class BrokenReader final : public RangeReader<T> {
 public:
  Status Read(uint64_t begin, std::span<T> out) const override {
    if (begin > 20'000) return Error{ErrorKind::kBadInput, "weight.bin: is cut short"};
    std::fill(out.begin(), out.end(), T{1});
    return Ok();
  }
};

double ValueOf(float value) { return static_cast<double>(value); }
double ValueOf(uint16_t half) { return static_cast<double>(HalfToFloat(half)); }

template <typename T>
T Rounded(float value) {
  if constexpr (std::is_same_v<T, uint16_t>)
    return FloatToHalf(std::clamp(value, -kMaxHalf, kMaxHalf));
  else
    return value;
}

template <typename T>
std::vector<T> Rounded(const std::vector<float>& values) {
  std::vector<T> rounded;
  for (const float value : values) rounded.push_back(Rounded<T>(value));
  return rounded;
}

// Kinds of values that differ in their ties and exponents.
enum class Kind { kSpread, kFewDistinct, kMostlyZero, kEqual, kExtreme };
constexpr Kind kKinds[] = {Kind::kSpread, Kind::kFewDistinct, Kind::kMostlyZero, Kind::kEqual,
                           Kind::kExtreme};

template <typename T>
std::vector<T> Values(Kind kind, size_t count, unsigned seed) {
  std::mt19937 engine(seed);
  const auto below = [&](uint32_t end) { return engine() % end; };
  std::vector<T> values(count);
  for (T& value : values) {
    const float sign = below(2) == 0 ? 1.0f : -1.0f;
    float drawn = 0;
    switch (kind) {
      case Kind::kSpread: {
        const auto uniform = [&] { return static_cast<float>(engine() >> 8) * 0x1p-24f; };
        drawn = uniform() * uniform() * 0.1f;
        break;
      }
      case Kind::kFewDistinct:
        drawn = static_cast<float>(below(5)) * 0.25f;
        break;
      case Kind::kMostlyZero:
        drawn = below(10) == 0 ? static_cast<float>(below(1000)) : 0;
        break;
      case Kind::kEqual:
        drawn = 0.7f;
        break;
      case Kind::kExtreme: {  // the least and the largest values of each type
        const bool is_half = std::is_same_v<T, uint16_t>;
        const float least = is_half ? 0x1p-24f : std::numeric_limits<float>::denorm_min();
        const float most = is_half ? kMaxHalf : std::numeric_limits<float>::max();
        const float all[] = {0, least, 3 * least, 1, std::nextafter(1.0f, 2.0f), most / 2, most};
        drawn = all[below(7)];
        break;
      }
    }
    value = Rounded<T>(sign * drawn);
  }
  return values;
}

using Bools = std::vector<bool>;

// What a mask says. Its size is right, and the bits behind the last are 0.
Bools Stays(const Result<Mask>& mask) {
  if (!mask.ok()) {
    ADD_FAILURE() << mask.error().message;
    return {};
  }
  EXPECT_EQ(mask->bits.size(), (mask->count + 7) / 8);
  Bools stays;
  uint64_t ones = 0;
  for (uint64_t i = 0; i < mask->count; ++i) {
    stays.push_back(mask->stays(i));
    ones += mask->stays(i) ? 1 : 0;
  }
  EXPECT_EQ(mask->ones(), ones);
  return stays;
}

Mask MaskOf(const Bools& stays) {
  Mask mask{.count = stays.size(), .bits = std::vector<uint8_t>((stays.size() + 7) / 8, 0)};
  for (size_t i = 0; i < stays.size(); ++i)
    if (stays[i]) mask.bits[i / 8] = static_cast<uint8_t>(mask.bits[i / 8] | (1u << (i % 8)));
  return mask;
}

// The values with those that go as zeros.
template <typename T>
std::vector<float> Pruned(const std::vector<T>& values, const Bools& stays) {
  std::vector<float> pruned;
  for (size_t i = 0; i < values.size(); ++i)
    pruned.push_back(stays[i] ? static_cast<float>(ValueOf(values[i])) : 0.0f);
  return pruned;
}

// --- Thresholds ---------------------------------------------------------------------------------

template <typename T>
Bools ByThreshold(const std::vector<T>& values, float threshold) {
  ThreadPool pool(1);
  return Stays(MaskByThreshold(SpanSource<T>(values), threshold, pool));
}

TEST(PruneThreshold, GoesWithTheValue) {
  // 0.03 is rounded to fp16 before it is compared, so it equals the third value.
  const auto halves = Rounded<uint16_t>({0.3f, -0.2f, -0.03f, 0.05f});
  EXPECT_EQ(ByThreshold(halves, 0.03f), (Bools{true, true, false, true}));
  EXPECT_EQ(ByThreshold<float>({0.3f, -0.2f, -0.03f, 0.05f}, 0.03f),
            (Bools{true, true, false, true}));
  EXPECT_EQ(ByThreshold<float>({0.03f}, std::nextafter(0.03f, 0.0f)), Bools{true});
}

TEST(PruneThreshold, OfZeroRemovesZeros) {
  EXPECT_EQ(ByThreshold<float>({0.0f, -0.0f, std::numeric_limits<float>::denorm_min()}, 0.0f),
            (Bools{false, false, true}));
  EXPECT_EQ(ByThreshold<uint16_t>({0, 0x8000, 1, 0x8001}, 0.0f), (Bools{false, false, true, true}));
  EXPECT_EQ(ByThreshold<uint16_t>({0, 1}, 0x1p-26f), (Bools{false, true}));
}

TEST(PruneThreshold, MayLieOutsideOfAllValues) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float threshold : {1e6f, infinity}) {
    EXPECT_EQ(ByThreshold<uint16_t>({0x7bff, 0xfbff}, threshold), (Bools{false, false}));
  }
  EXPECT_EQ(ByThreshold<float>({std::numeric_limits<float>::max()}, infinity), Bools{false});
  for (const float threshold : {-1.0f, -infinity, std::nanf("")}) {
    EXPECT_EQ(ByThreshold<uint16_t>({0, 0x7bff, 0}, threshold), Bools(3, true));
    EXPECT_EQ(ByThreshold<float>({0, 1, 0}, threshold), Bools(3, true));
  }
}

template <typename T>
void ExpectThreshold(const std::vector<T>& values, float threshold) {
  Bools expected;
  const double rounded = ValueOf(Rounded<T>(threshold));
  for (const T value : values) expected.push_back(std::fabs(ValueOf(value)) > rounded);
  {
    ThreadPool pool(1);
    EXPECT_EQ(Stays(MaskByThreshold(PieceSource<T>(values, 64), threshold, pool)), expected)
        << values.size() << " values, threshold " << threshold;
  }
}

TEST_P(PruneMasks, ByThresholdForAllHalves) {
  std::vector<uint16_t> all;
  for (uint32_t pattern = 0; pattern < 0x10000; ++pattern)
    if (IsFiniteHalf(static_cast<uint16_t>(pattern))) all.push_back(static_cast<uint16_t>(pattern));
  ThreadPool pool(2);
  for (const float threshold : {0.0f, 0x1p-24f, 0.1f, 1.0f, 65503.0f, kMaxHalf}) {
    const double rounded = ValueOf(FloatToHalf(threshold));
    const Result<Mask> mask = MaskByThreshold(PieceSource<uint16_t>(all, 8000), threshold, pool);
    ASSERT_TRUE(mask.ok());
    for (size_t i = 0; i < all.size(); ++i)
      ASSERT_EQ(mask->stays(i), std::fabs(ValueOf(all[i])) > rounded) << all[i];
  }
}

TEST_P(PruneMasks, ByThresholdForAllLengths) {
  for (size_t length = 0; length <= 200; ++length) {
    ExpectThreshold(Values<uint16_t>(Kind::kSpread, length, 1), 0.02f);
    ExpectThreshold(Values<float>(Kind::kSpread, length, 1), 0.02f);
  }
}

// --- Sparsity -----------------------------------------------------------------------------------

template <typename T>
Bools SparsityReference(const std::vector<T>& values, size_t remove) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::fabs(ValueOf(values[a])) < std::fabs(ValueOf(values[b]));
  });
  Bools stays(values.size(), true);
  for (size_t i = 0; i < std::min(remove, order.size()); ++i) stays[order[i]] = false;
  return stays;
}

template <typename T>
void ExpectSparsity(const std::vector<T>& values, size_t remove, size_t piece, int threads) {
  ThreadPool pool(threads);
  const Result<Mask> mask = MaskBySparsity(PieceSource<T>(values, piece), remove, false, pool);
  EXPECT_EQ(Stays(mask), SparsityReference(values, remove))
      << remove << " of " << values.size() << ", pieces of " << piece << ", threads " << threads;
}

template <typename T>
void ExpectSparsities() {
  for (const Kind kind : kKinds) {
    for (size_t length = 0; length <= 130; length += length < 10 ? 1 : 7)
      for (const size_t remove : {size_t{0}, size_t{1}, length / 2, length - length / 10, length})
        ExpectSparsity(Values<T>(kind, length, 2), remove, 32, 1);
    // Enough to be counted, and cut where a piece's ties go in part.
    const std::vector<T> many = Values<T>(kind, 40'003, 3);
    for (const size_t remove : {1u, 4321u, 20'000u, 39'999u})
      ExpectSparsity(many, remove, remove % 2 == 0 ? 10'000 : 5'008, remove % 2 == 0 ? 1 : 3);
  }
}

TEST_P(PruneMasks, BySparsityRemovesTheLeastHalves) { ExpectSparsities<uint16_t>(); }
TEST_P(PruneMasks, BySparsityRemovesTheLeastFloats) { ExpectSparsities<float>(); }

TEST(PruneSparsity, RemovesNoMoreThanThereAre) {
  ThreadPool pool(1);
  const std::vector<float> values = {1, 2, 3};
  EXPECT_EQ(Stays(MaskBySparsity(SpanSource<float>(values), 4, false, pool)), Bools(3, false));
}

TEST(PruneSparsity, TellsNeighbouringFloatsApart) {
  // All have the same high digit.
  std::vector<float> values;
  for (uint32_t i = 0; i < 30'000; ++i)
    values.push_back(1 + 0x1p-23f * static_cast<float>(i * 7919 % 30'000));
  for (const size_t remove : {1u, 12'345u, 29'999u}) ExpectSparsity(values, remove, 8192, 2);
}

TEST(PruneSparsity, DoesNotDependOnPiecesOrThreads) {
  const std::vector<uint16_t> halves = Values<uint16_t>(Kind::kFewDistinct, 50'001, 4);
  for (const size_t piece : {8u, 1000u, 4096u, 48'000u, 50'008u})
    for (const int threads : {1, 2, 3}) ExpectSparsity(halves, 17'777, piece, threads);
}

TEST_P(PruneMasks, BySparsityOfHalvesThatAFewDoNotStandFor) {
  // Every 320 values a run of 64 is looked at to guess where the cut lies: here those are much
  // larger, or much smaller, than all others, so the guess is wrong.
  std::vector<uint16_t> values = Values<uint16_t>(Kind::kSpread, 60'000, 6);
  for (const uint16_t odd : {FloatToHalf(1000.0f), FloatToHalf(0x1p-24f)}) {
    for (size_t i = 0; i < values.size(); ++i)
      if (i % 320 < 64) values[i] = odd;
    for (const size_t remove : {7u, 30'000u, 59'000u}) ExpectSparsity(values, remove, 60'000, 1);
    for (const size_t remove : {30'000u, 59'000u}) ExpectSparsity(values, remove, 16'000, 2);
  }
}

TEST_P(PruneMasks, BySparsityCountsWhereTheCutMayBe) {
  // Lengths around whole words and chunks; many values are near the cut, or very few.
  std::vector<uint16_t> values = Values<uint16_t>(Kind::kSpread, 24'640, 7);
  for (size_t i = 0; i < 6'000; ++i)
    values[i * 4] = static_cast<uint16_t>(0x2800 + (i * 7919) % 64 + (i % 2) * 0x8000);
  for (const size_t length : {20'479u, 20'480u, 20'481u, 20'543u, 20'544u, 20'545u, 24'640u}) {
    const std::vector<uint16_t> some(values.begin(),
                                     values.begin() + static_cast<std::ptrdiff_t>(length));
    for (const size_t remove : {length / 2, length - 3'000, length - 10})
      ExpectSparsity(some, remove, length % 2 == 0 ? 8'000 : 32'000, 2);
  }
}

// Squares that a mask brings along are those of the finished mask, to the bit.
template <typename T>
void ExpectSquaresOfMasks(size_t length) {
  const std::vector<T> values = Values<T>(Kind::kSpread, length, 15);
  const PieceSource<T> source(values, 9'008);
  ThreadPool pool(2);
  const auto check = [&](const Result<Mask>& mask, const std::vector<PrunedSquares>& found) {
    ASSERT_TRUE(mask.ok());
    std::vector<PrunedSquares> expected;
    ASSERT_TRUE(SquaresOfPieces(source, *mask, pool, expected).ok());
    ASSERT_EQ(found.size(), source.pieces());
    ASSERT_EQ(expected.size(), source.pieces());
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].all, expected[i].all) << length << ", piece " << i;
      EXPECT_EQ(found[i].gone, expected[i].gone) << length << ", piece " << i;
      const size_t begin = i * 9'008;
      const PrunedSquares own = SquaresOfPruned(
          std::span<const T>(values).subspan(begin, std::min<size_t>(9'008, length - begin)),
          mask->bits.data() + begin / 8);
      EXPECT_EQ(own.all, expected[i].all) << length << ", piece " << i;
      EXPECT_EQ(own.gone, expected[i].gone) << length << ", piece " << i;
    }
  };
  std::vector<PrunedSquares> squares;
  for (const size_t remove : {size_t{0}, length / 3, length / 2, length})
    for (const bool zeros_go : {false, true}) {
      const Result<Mask> mask = MaskBySparsity(source, remove, zeros_go, pool, &squares);
      check(mask, squares);
    }
  for (const float threshold : {-1.0f, 0.0f, 0.02f}) {
    const Result<Mask> mask = MaskByThreshold(source, threshold, pool, &squares);
    check(mask, squares);
  }
}

TEST_P(PruneMasks, BringSquaresAlong) {
  for (const size_t length : {1u, 77u, 4'095u, 4'096u, 4'097u, 9'009u, 30'001u}) {
    ExpectSquaresOfMasks<uint16_t>(length);
    ExpectSquaresOfMasks<float>(length);
  }
}

TEST_P(PruneMasks, BySparsityLetsNoZeroStayIfAsked) {
  ThreadPool pool(2);
  for (const size_t length : {100u, 40'000u}) {
    std::vector<uint16_t> halves(length);
    std::vector<float> floats(length);
    Bools nonzero(length);
    for (size_t i = 0; i < length; ++i) {
      const int kind = static_cast<int>(i % 4);
      floats[i] = kind == 3 ? 1.0f + static_cast<float>(i) : (kind == 1 ? -0.0f : 0.0f);
      halves[i] = static_cast<uint16_t>(kind == 3 ? 0x3c00 : (kind == 1 ? 0x8000 : 0));
      nonzero[i] = kind == 3;
    }
    for (const size_t remove : {size_t{0}, length / 2, 3 * length / 4}) {
      const PieceSource<uint16_t> from_halves(halves, 4096);
      const PieceSource<float> from_floats(floats, 4096);
      EXPECT_EQ(Stays(MaskBySparsity(from_halves, remove, true, pool)), nonzero) << remove;
      EXPECT_EQ(Stays(MaskBySparsity(from_floats, remove, true, pool)), nonzero) << remove;
    }
  }
}

template <typename T>
void ExpectSquares(size_t length) {
  const std::vector<T> values = Values<T>(Kind::kSpread, length, 13);
  std::mt19937 engine(14);
  Bools stays;
  double all = 0, gone = 0;
  for (size_t i = 0; i < length; ++i) {
    stays.push_back(engine() % 3 == 0);
    const double square = ValueOf(values[i]) * ValueOf(values[i]);
    all += square;
    if (!stays.back()) gone += square;
  }
  const Mask mask = MaskOf(stays);
  const PrunedSquares found = SquaresOfPruned(std::span<const T>(values), mask.bits.data());
  EXPECT_NEAR(found.all, all, 1e-5 * all) << length;
  EXPECT_NEAR(found.gone, gone, 1e-5 * gone) << length;
  Choose(hwy::SupportedAndGeneratedTargets().back());
  const PrunedSquares again = SquaresOfPruned(std::span<const T>(values), mask.bits.data());
  EXPECT_EQ(found.all, again.all) << length;
  EXPECT_EQ(found.gone, again.gone) << length;
}

TEST_P(PruneMasks, AddsUpSquares) {
  for (const size_t length :
       {0u, 1u, 7u, 15u, 16u, 17u, 100u, 511u, 512u, 529u, 4096u, 4113u, 5000u}) {
    Choose(GetParam());
    ExpectSquares<uint16_t>(length);
    Choose(GetParam());
    ExpectSquares<float>(length);
  }
}

TEST_P(PruneMasks, SquaresTellWhetherAllIsFinite) {
  const std::vector<uint8_t> bits(8, 0xaa);
  for (size_t at = 0; at < 40; ++at) {
    for (const float bad : {INFINITY, -INFINITY, NAN}) {
      std::vector<float> floats(40, 1.0f);
      std::vector<uint16_t> halves(40, FloatToHalf(kMaxHalf));
      floats[at] = bad;
      EXPECT_TRUE(
          std::isfinite(SquaresOfPruned(std::span<const uint16_t>(halves), bits.data()).all));
      halves[at] = FloatToHalf(bad);
      EXPECT_FALSE(std::isfinite(SquaresOfPruned(std::span<const float>(floats), bits.data()).all));
      EXPECT_FALSE(
          std::isfinite(SquaresOfPruned(std::span<const uint16_t>(halves), bits.data()).all));
    }
  }
}

TEST_P(PruneMasks, ClearsZeros) {
  ThreadPool pool(2);
  for (const size_t length : {1u, 63u, 64u, 1001u, 9999u}) {
    const auto check = [&](const auto& values, auto source) {
      Bools random, expected;
      std::mt19937 engine(5);
      for (size_t i = 0; i < length; ++i) {
        random.push_back(engine() % 2 == 0);
        expected.push_back(random[i] && ValueOf(values[i]) != 0);
      }
      Mask mask = MaskOf(random);
      ASSERT_TRUE(ClearZeros(source, mask, pool).ok());
      EXPECT_EQ(Stays(std::move(mask)), expected) << length;
    };
    for (const Kind kind : {Kind::kMostlyZero, Kind::kExtreme}) {
      const std::vector<uint16_t> halves = Values<uint16_t>(kind, length, 6);
      check(halves, PieceSource<uint16_t>(halves, 4808));
      const std::vector<float> floats = Values<float>(kind, length, 6);
      check(floats, PieceSource<float>(floats, 4808));
    }
  }
}

// --- Structures ---------------------------------------------------------------------------------

// The positions of a structure's values.
std::vector<std::vector<size_t>> Structures(const AxisLayout& layout, size_t m) {
  std::vector<std::vector<size_t>> structures;
  for (size_t o = 0; o < layout.outer; ++o)
    for (size_t c = 0; c < layout.channels; c += m)
      for (size_t i = 0; i < layout.inner; ++i) {
        structures.emplace_back();
        for (size_t k = c; k < std::min<size_t>(c + m, layout.channels); ++k)
          structures.back().push_back((o * layout.channels + k) * layout.inner + i);
      }
  return structures;
}

template <typename T>
Bools BlockReference(const std::vector<T>& values, const AxisLayout& layout, size_t block,
                     double fraction) {
  const auto blocks = Structures(layout, block);
  std::vector<double> norms;
  for (const auto& positions : blocks) {
    double sum = 0;
    for (const size_t i : positions) sum += ValueOf(values[i]) * ValueOf(values[i]);
    norms.push_back(sum);
  }
  std::vector<size_t> order(blocks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return norms[a] < norms[b]; });
  auto left = static_cast<size_t>(std::llround(fraction * static_cast<double>(values.size())));
  Bools stays(values.size(), true);
  for (const size_t b : order) {
    if (blocks[b].size() > left) break;
    left -= blocks[b].size();
    for (const size_t i : blocks[b]) stays[i] = false;
  }
  return stays;
}

template <typename T>
Bools NmReference(const std::vector<T>& values, const AxisLayout& layout, size_t n, size_t m) {
  Bools stays(values.size(), true);
  for (const auto& positions : Structures(layout, m)) {
    std::vector<std::pair<double, size_t>> order;
    for (size_t k = 0; k < m; ++k)
      order.emplace_back(k < positions.size() ? std::fabs(ValueOf(values[positions[k]])) : 0.0, k);
    std::sort(order.begin(), order.end());
    for (size_t k = 0; k < n; ++k)
      if (order[k].second < positions.size()) stays[positions[order[k].second]] = false;
  }
  return stays;
}

template <typename T>
Bools ByBlocks(const std::vector<T>& values, const AxisLayout& layout, size_t block,
               double fraction, int threads = 1) {
  ThreadPool pool(threads);
  return Stays(MaskByBlocks(SpanReader<T>(values), layout, block, fraction, pool));
}

template <typename T>
Bools ByNm(const std::vector<T>& values, const AxisLayout& layout, size_t n, size_t m,
           int threads = 1) {
  ThreadPool pool(threads);
  return Stays(MaskByNm(SpanReader<T>(values), layout, n, m, pool));
}

std::string Name(const AxisLayout& layout) {
  return testing::PrintToString(std::vector<uint64_t>{layout.outer, layout.channels, layout.inner});
}

// Values along each axis from one to more than a band holds.
const AxisLayout kLayouts[] = {{1, 1, 1},   {1, 4, 1},   {1, 10, 1},   {7, 13, 1},
                               {40, 24, 1}, {1, 8, 64},  {2, 9, 5},    {3, 17, 9},
                               {2, 6, 67},  {1, 5, 129}, {300, 67, 1}, {1, 17, 4160}};

template <typename T>
class PruneEither : public testing::Test {};
using Types = testing::Types<uint16_t, float>;
TYPED_TEST_SUITE(PruneEither, Types);

TYPED_TEST(PruneEither, BlocksAsInCoremltools) {
  const auto values = Rounded<TypeParam>({1, 3, -6, -7, 0, 3, -9, 2});
  EXPECT_EQ(Pruned(values, ByBlocks(values, {1, 4, 2}, 2, 0.5)),
            (std::vector<float>{0, 3, 0, -7, 0, 0, -9, 0}));
}

TYPED_TEST(PruneEither, NmAsInCoremltools) {
  const auto values = Rounded<TypeParam>({3, 4, 7, 6, 1, 8, -3, -8, -2, -3, -4, 0, 5, 4, -3, -2});
  EXPECT_EQ(Pruned(values, ByNm(values, {4, 4, 1}, 1, 2)),
            (std::vector<float>{0, 4, 7, 0, 0, 8, 0, -8, 0, -3, -4, 0, 5, 0, -3, 0}));
  EXPECT_EQ(Pruned(values, ByNm(values, {1, 4, 4}, 1, 2)),
            (std::vector<float>{3, 0, 7, 0, 0, 8, 0, -8, 0, 0, -4, 0, 5, 4, 0, -2}));
}

TYPED_TEST(PruneEither, NmRemovesTheFirstOfEqualValues) {
  const std::vector<TypeParam> ones(10, Rounded<TypeParam>(1));
  const Bools eight = {false, false, true, true, false, false, true, true};
  EXPECT_EQ(ByNm<TypeParam>({ones.begin(), ones.begin() + 8}, {1, 8, 1}, 2, 4), eight);
  // The last two compete with two zeros that are not there.
  Bools ten = eight;
  ten.insert(ten.end(), {true, true});
  EXPECT_EQ(ByNm(ones, {1, 10, 1}, 2, 4), ten);
  // A zero that is there goes before those.
  EXPECT_EQ(ByNm(Rounded<TypeParam>({0, 1}), {1, 2, 1}, 1, 4), (Bools{false, true}));
}

TYPED_TEST(PruneEither, NmOfNoneOrAll) {
  const auto values = Values<TypeParam>(Kind::kSpread, 21, 7);
  EXPECT_EQ(ByNm(values, {1, 21, 1}, 0, 2), Bools(21, true));
  EXPECT_EQ(ByNm(values, {3, 7, 1}, 1, 1), Bools(21, false));
  EXPECT_EQ(ByNm(values, {1, 7, 3}, 5, 5), Bools(21, false));
}

TYPED_TEST(PruneEither, StructuresOfAnEmptyTensor) {
  for (const AxisLayout& layout : {AxisLayout{0, 4, 1}, AxisLayout{1, 0, 4}, AxisLayout{4, 4, 0}}) {
    EXPECT_TRUE(ByNm<TypeParam>({}, layout, 2, 4).empty());
    EXPECT_TRUE(ByBlocks<TypeParam>({}, layout, 2, 0.5).empty());
  }
}

TYPED_TEST(PruneEither, BlocksOfNoneOrAll) {
  const auto values = Values<TypeParam>(Kind::kSpread, 24, 8);
  for (const double fraction : {0.0, -1.0, std::nan("")})
    EXPECT_EQ(ByBlocks(values, {2, 12, 1}, 3, fraction), Bools(24, true));
  for (const double fraction : {1.0, 2.0, 0.999})
    EXPECT_EQ(ByBlocks(values, {2, 12, 1}, 3, fraction), Bools(24, false));
  // Three values at a time: 11 are too many for three blocks and too few for four.
  const Bools stays = ByBlocks(values, {2, 12, 1}, 3, 11.0 / 24);
  EXPECT_EQ(std::count(stays.begin(), stays.end(), false), 9);
}

TYPED_TEST(PruneEither, BlocksMayBeAsLargeAsTheAxisOrLarger) {
  const auto values = Values<TypeParam>(Kind::kSpread, 60, 9);
  for (const size_t block : {5u, 6u, 1000u})
    EXPECT_EQ(ByBlocks(values, {4, 5, 3}, block, 0.5), BlockReference(values, {4, 5, 3}, 5, 0.5));
}

template <typename T>
void ExpectNm(const AxisLayout& layout, Kind kind, size_t n, size_t m, int threads) {
  const std::vector<T> values = Values<T>(kind, layout.count(), 10);
  EXPECT_EQ(ByNm(values, layout, n, m, threads), NmReference(values, layout, n, m))
      << n << ":" << m << " of " << Name(layout) << ", kind " << static_cast<int>(kind);
}

TEST_P(PruneMasks, ByNmIsThatOfEachGroup) {
  constexpr std::pair<size_t, size_t> kRatios[] = {{1, 2},  {2, 4},   {3, 4},  {5, 8},
                                                   {2, 3},  {3, 5},   {5, 10}, {12, 17},
                                                   {7, 16}, {31, 32}, {20, 33}};
  int threads = 0;
  for (const AxisLayout& layout : kLayouts)
    for (const auto& [n, m] : kRatios)
      for (const Kind kind : {Kind::kFewDistinct, Kind::kExtreme}) {
        // Each of the large ones once.
        const bool is_large = layout.count() > 10'000;
        if (is_large && kind == Kind::kExtreme && m != 4) continue;
        threads = threads % 3 + 1;
        if (!is_large || m % 2 == 0) ExpectNm<uint16_t>(layout, kind, n, m, threads);
        if (!is_large || m % 2 == 1) ExpectNm<float>(layout, kind, n, m, threads);
      }
}

TEST_P(PruneMasks, ByNmTakesManyBands) {
  // Rows that bands cut into, with and without a short group at the end of each.
  for (const AxisLayout& layout : {AxisLayout{3, 20'000, 1}, AxisLayout{3, 19'999, 1}})
    for (const size_t m : {2u, 4u, 8u}) {
      ExpectNm<uint16_t>(layout, Kind::kSpread, m / 2, m, 3);
      if (m == 4) ExpectNm<float>(layout, Kind::kSpread, m / 2, m, 3);
    }
}

template <typename T>
void ExpectBlocks(const AxisLayout& layout, Kind kind, size_t block, double fraction, int threads) {
  const std::vector<T> values = Values<T>(kind, layout.count(), 11);
  EXPECT_EQ(ByBlocks(values, layout, block, fraction, threads),
            BlockReference(values, layout, block, fraction))
      << "blocks of " << block << " of " << Name(layout) << ", fraction " << fraction << ", kind "
      << static_cast<int>(kind);
}

TEST_P(PruneMasks, ByBlocksAddsSquares) {
  for (const AxisLayout& layout : kLayouts)
    for (const Kind kind : {Kind::kSpread, Kind::kExtreme}) {
      if (layout.count() > 10'000) continue;
      const size_t block = std::min<size_t>(layout.channels, 3);
      ExpectBlocks<uint16_t>(layout, kind, block, 0.4, 1);
      ExpectBlocks<float>(layout, kind, block, 0.4, 1);
    }
}

TEST(PruneBlocks, OfLeastNormGo) {
  int threads = 0;
  for (const AxisLayout& layout : kLayouts)
    for (const size_t block : {1u, 2u, 3u, 5u, 17u}) {
      if (block > layout.channels) continue;
      for (const double fraction : {0.01, 0.5, 0.77})
        for (const Kind kind : kKinds) {
          if (layout.count() > 10'000 && (kind != Kind::kFewDistinct || fraction != 0.5)) continue;
          threads = threads % 3 + 1;
          ExpectBlocks<uint16_t>(layout, kind, block, fraction, threads);
          ExpectBlocks<float>(layout, kind, block, fraction, threads);
        }
    }
}

// More blocks than are selected from: counted by digits of their norms first, all of which count
// where blocks are equal or nearly so.
TEST(PruneBlocks, AreCountedIfTheyAreMany) {
  for (const Kind kind : {Kind::kSpread, Kind::kFewDistinct}) {
    ExpectBlocks<uint16_t>({1, 3, 140'000}, kind, 2, 0.4, 2);
    ExpectBlocks<float>({140'001, 3, 1}, kind, 2, 0.4, 3);
  }
}

TEST(PruneBlocks, GoInOrderIfManyAreEqual) {
  const AxisLayout layout{140'000, 4, 1};
  const std::vector<uint16_t> values = Values<uint16_t>(Kind::kEqual, layout.count(), 11);
  for (const size_t budget : {0u, 1u, 2u, 223'457u, 223'458u, 559'999u}) {
    // Nothing goes behind the last whole block.
    Bools expected(values.size(), true);
    std::fill_n(expected.begin(), budget / 2 * 2, false);
    const double fraction = static_cast<double>(budget) / static_cast<double>(values.size());
    EXPECT_EQ(ByBlocks(values, layout, 2, fraction, 2), expected) << budget;
  }
}

TEST(PruneBlocks, GoUpToTheLastOfADigit) {
  std::vector<float> values(300'000);
  Bools expected;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = i % 2 == 0 ? 4 : 1;
    expected.push_back(i % 2 == 0);
  }
  EXPECT_EQ(ByBlocks(values, {1, 300'000, 1}, 1, 0.5), expected);
}

TEST(PruneBlocks, DoNotOverflow) {
  // In fp16 both norms would be infinite.
  const auto values = Rounded<uint16_t>({300, 300, 40'000, -65'504, -300, 299, 65'504, 65'504});
  EXPECT_EQ(ByBlocks(values, {4, 2, 1}, 2, 0.5),
            (Bools{false, false, true, true, false, false, true, true}));
  const float most = std::numeric_limits<float>::max();
  EXPECT_EQ(ByBlocks<float>({most, most, most, -most / 2}, {2, 2, 1}, 2, 0.5),
            (Bools{true, true, false, false}));
}

// --- What stays ---------------------------------------------------------------------------------

template <typename T>
void ExpectCompressed(size_t length, uint32_t density, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<T> values, expected;
  Bools stays;
  for (size_t i = 0; i < length; ++i) {
    values.push_back(static_cast<T>(engine() % 251));
    stays.push_back(engine() % 10 < density);
    if (stays[i]) expected.push_back(values[i]);
  }
  std::vector<uint8_t> bits = MaskOf(stays).bits;
  // What is behind the last value does not matter.
  if (length % 8 != 0) bits.back() = static_cast<uint8_t>(bits.back() | (0xffu << (length % 8)));
  const std::span<const T> from(values);
  std::vector<T> out(length + 64, T{99});
  ASSERT_EQ(CompressKept(from, bits.data(), out.data()), expected.size());
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), out.begin())) << length;
  for (size_t i = length; i < out.size(); ++i) ASSERT_EQ(out[i], T{99}) << length;
  ASSERT_EQ(CompressKept(from, bits.data(), values.data()), expected.size());
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), values.begin())) << length;
}

TEST_P(PruneMasks, CompressesAllLengths) {
  for (size_t length = 0; length <= 300; length += length < 140 ? 1 : 13)
    for (const uint32_t density : {0u, 1u, 5u, 9u, 10u}) {
      const auto seed = static_cast<unsigned>(length + density);
      ExpectCompressed<uint8_t>(length, density, seed);
      ExpectCompressed<uint16_t>(length, density, seed);
      ExpectCompressed<float>(length, density, seed);
    }
}

TEST_P(PruneMasks, CompressesByEveryByte) {
  std::vector<uint8_t> bits(256);
  std::iota(bits.begin(), bits.end(), uint8_t{0});
  const auto check = [&](auto zero) {
    using T = decltype(zero);
    std::vector<T> values(2048), expected, out(2048);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<T>(i % 253);
      if (((bits[i / 8] >> (i % 8)) & 1) != 0) expected.push_back(values[i]);
    }
    out.resize(CompressKept(std::span<const T>(values), bits.data(), out.data()));
    EXPECT_EQ(out, expected);
  };
  check(uint8_t{0});
  check(uint16_t{0});
  check(0.0f);
}

TEST(MaskIndex, FindsPlaces) {
  // Lengths on either side of its steps; runs of zeros longer than a step.
  std::mt19937 engine(12);
  for (const size_t length : {0u, 1u, 9u, 64u, 65'535u, 65'536u, 65'537u, 300'001u})
    for (const uint32_t density : {0u, 3u, 10u}) {
      Bools stays;
      for (size_t i = 0; i < length; ++i)
        stays.push_back(engine() % 10 < density && (i < 70'000 || i > 240'000));
      const Mask mask = MaskOf(stays);
      const MaskIndex index(mask);
      ASSERT_EQ(index.ones(), mask.ones());
      uint64_t ones = 0;
      for (size_t i = 0; i <= length; ++i) {
        // All around steps, some elsewhere.
        const bool is_near = i + 50 > length || i % 65'536 < 50 || i % 65'536 > 65'500;
        const bool is_wanted = is_near || i % 997 == 0;
        if (is_wanted) {
          ASSERT_EQ(index.OnesBefore(i), ones) << i;
        }
        if (i == length || !stays[i]) continue;
        if (is_wanted) {
          ASSERT_EQ(index.PositionOf(ones), i) << i;
        }
        ++ones;
      }
      EXPECT_EQ(index.PositionOf(ones), length);
    }
}

// --- Errors -------------------------------------------------------------------------------------

TYPED_TEST(PruneEither, HandsUpWhatASourceSays) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (const size_t piece : {64u, 4096u}) {  // selected, counted
      const BrokenSource<TypeParam> source(piece);
      const Result<Mask> threshold = MaskByThreshold(source, 0.5f, pool);
      ASSERT_FALSE(threshold.ok());
      EXPECT_EQ(threshold.error().message, "piece 2");
      const Result<Mask> sparsity = MaskBySparsity(source, 100, false, pool);
      ASSERT_FALSE(sparsity.ok());
      EXPECT_EQ(sparsity.error().message, "piece 2");
      Mask mask = MaskOf(Bools(source.count(), true));
      EXPECT_FALSE(ClearZeros(source, mask, pool).ok());
    }
    const BrokenReader<TypeParam> reader;
    EXPECT_FALSE(MaskByNm(reader, {1, 100'000, 1}, 2, 4, pool).ok());
    EXPECT_FALSE(MaskByNm(reader, {1, 10, 10'000}, 2, 4, pool).ok());
    for (const uint64_t channels : {100'000, 1'200'000})  // selected, counted
      EXPECT_FALSE(MaskByBlocks(reader, {1, channels, 1}, 4, 0.5, pool).ok());
  }
}

}  // namespace
}  // namespace cmlc::numeric
