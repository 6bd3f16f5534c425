// Random ops: their streams, their ranges and their moments.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "exec/run_program.h"

namespace cmlc::test {
namespace {

constexpr int kCount = 100000;

struct Draw {
  std::string op = "random_uniform";
  Inputs inputs;
  Shape shape = {kCount};
  DataType dtype = DataType::kFloat32;
  std::string name = "y";
  int threads = 1;
  uint64_t run_seed = 0;
  Arguments arguments;
};

std::vector<Result<std::vector<exec::Value>>> RunDraw(Draw draw, int runs = 1) {
  if (draw.op != "random_categorical")
    draw.inputs.emplace_back("shape", Int32sValue({draw.shape.begin(), draw.shape.end()}));
  return RunProgram(
      [&](BlockBuilder& block) {
        block.Op(draw.op, draw.name, draw.inputs, TensorType(draw.dtype, draw.shape));
        block.Output(draw.name);
      },
      draw.arguments, draw.threads, {.seed = draw.run_seed}, runs);
}

std::vector<float> Numbers(const Draw& draw) {
  const auto results = RunDraw(draw);
  EXPECT_TRUE(Succeeds(results[0]));
  return ToFloats((*results[0])[0]);
}

void ExpectMoments(const std::vector<float>& values, double mean, double deviation) {
  double sum = 0, squares = 0;
  for (const float value : values) sum += static_cast<double>(value);
  const double found = sum / static_cast<double>(values.size());
  for (const float value : values) squares += std::pow(static_cast<double>(value) - found, 2);
  // Six standard errors.
  EXPECT_NEAR(found, mean, 6 * deviation / std::sqrt(values.size()));
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(values.size())), deviation, 0.02 * deviation);
}

TEST(Random, StreamsDependOnSeedsNamesAndSamplesAlone) {
  const std::vector<float> first = Numbers({});
  EXPECT_EQ(Numbers({}), first);
  EXPECT_EQ(Numbers({.threads = 3}), first);
  EXPECT_NE(Numbers({.run_seed = 1}), first);
  EXPECT_NE(Numbers({.name = "z"}), first);
  const auto samples = RunDraw({}, 2);
  EXPECT_NE(ToFloats((*samples[1])[0]), first);

  // A seed of its own fixes the stream.
  const Inputs seeded = {{"seed", Int32Value(7)}};
  const std::vector<float> fixed = Numbers({.inputs = seeded});
  EXPECT_EQ(Numbers({.inputs = seeded, .name = "z", .run_seed = 3}), fixed);
  EXPECT_NE(Numbers({.inputs = {{"seed", Int32Value(8)}}}), fixed);
  const auto again = RunDraw({.inputs = seeded}, 2);
  EXPECT_EQ(ToFloats((*again[1])[0]), fixed);
  // A negative one does not.
  EXPECT_EQ(Numbers({.inputs = {{"seed", Int32Value(-1)}}}), first);
}

TEST(Random, UniformNumbersFillTheirRange) {
  for (const DataType dtype : {DataType::kFloat32, DataType::kFloat16}) {
    const bool half = dtype == DataType::kFloat16;
    const auto number = [&](float value) {
      return half ? BytesValue(dtype, {}, Fp16Bytes({value})) : FloatsValue({}, {value});
    };
    const std::vector<float> values = Numbers({.inputs = {{"low", number(-2)}, {"high", number(3)}},
                                               .shape = {10, kCount / 10},
                                               .dtype = dtype});
    ExpectMoments(values, 0.5, 5 / std::sqrt(12.0));
    EXPECT_GE(*std::min_element(values.begin(), values.end()), -2);
    EXPECT_LT(*std::max_element(values.begin(), values.end()), 3);
    EXPECT_GT(*std::max_element(values.begin(), values.end()), 2.99f);
    for (const float value : Numbers(
             {.inputs = {{"low", number(4)}, {"high", number(4)}}, .shape = {3}, .dtype = dtype}))
      EXPECT_EQ(value, 4);
  }
  ExpectMoments(Numbers({}), 0.5, 1 / std::sqrt(12.0));
}

TEST(Random, NormalNumbersHaveTheirMomentsAndTails) {
  const std::vector<float> values =
      Numbers({.op = "random_normal",
               .inputs = {{"mean", FloatsValue({}, {1.5f})}, {"stddev", FloatsValue({}, {0.5f})}},
               .shape = {1, kCount - 1}});
  ExpectMoments(values, 1.5, 0.5);
  const auto beyond = [&](double deviations) {
    return static_cast<double>(std::count_if(values.begin(), values.end(),
                                             [&](float value) {
                                               return std::fabs(static_cast<double>(value) - 1.5) >
                                                      0.5 * deviations;
                                             })) /
           kCount;
  };
  EXPECT_NEAR(beyond(1), std::erfc(std::sqrt(0.5)), 0.01);
  EXPECT_NEAR(beyond(2), std::erfc(std::sqrt(2.0)), 0.004);
  EXPECT_GT(beyond(3.5), 0);
  // Neighbours share their radius, but not more.
  double product = 0;
  for (size_t i = 0; i + 1 < values.size(); i += 2)
    product += (static_cast<double>(values[i]) - 1.5) * (static_cast<double>(values[i + 1]) - 1.5);
  EXPECT_NEAR(product / (kCount / 2) / 0.25, 0, 0.03);
  ExpectMoments(Numbers({.op = "random_normal"}), 0, 1);
}

TEST(Random, BernoulliDrawsOnesAtItsShare) {
  for (const float share : {0.0f, 0.25f, 1.0f}) {
    const std::vector<float> values =
        Numbers({.op = "random_bernoulli", .inputs = {{"prob", FloatsValue({}, {share})}}});
    const auto ones = std::count(values.begin(), values.end(), 1.0f);
    EXPECT_EQ(ones + std::count(values.begin(), values.end(), 0.0f), kCount);
    EXPECT_NEAR(static_cast<float>(ones) / kCount, share, 0.01);
  }
  const std::vector<float> values = Numbers({.op = "random_bernoulli"});
  EXPECT_NEAR(static_cast<double>(std::count(values.begin(), values.end(), 1.0f)) / kCount, 0.5,
              0.01);
}

TEST(Random, CategoricalDrawsClassesAtTheirShares) {
  const std::vector<float> shares = {0.5f, 0, 0.125f, 0.375f, 0.25f, 0.25f, 0, 0.5f};
  std::vector<float> logits;
  for (const float share : shares) logits.push_back(share == 0 ? -INFINITY : std::log(share) + 100);
  for (const bool probabilities : {false, true}) {
    Inputs inputs = {{"x", "x"}, {"size", Int32Value(kCount / 2)}};
    if (probabilities) inputs.emplace_back("mode", StringValue("probs"));
    const std::vector<float> values =
        Numbers({.op = "random_categorical",
                 .inputs = inputs,
                 .shape = {2, kCount / 2},
                 .arguments = {{"x", Floats({2, 4}, probabilities ? shares : logits)}}});
    for (size_t row = 0; row < 2; ++row)
      for (size_t c = 0; c < 4; ++c) {
        const auto begin = values.begin() + static_cast<std::ptrdiff_t>(row * kCount / 2);
        const auto found = std::count(begin, begin + kCount / 2, static_cast<float>(c));
        if (shares[row * 4 + c] == 0)
          EXPECT_EQ(found, 0);
        else
          EXPECT_NEAR(static_cast<float>(found) / (kCount / 2.0f), shares[row * 4 + c], 0.015);
      }
  }
}

TEST(Random, RefusesWhatIsNoDistribution) {
  const auto refused = [](const Draw& draw, const std::string& message) {
    EXPECT_TRUE(Fails(RunDraw(draw)[0], ErrorKind::kBadInput, {message}));
  };
  const auto number = [](float value) { return FloatsValue({}, {value}); };
  refused({.op = "random_bernoulli", .inputs = {{"prob", number(1.5f)}}},
          "prob: expected a number from 0 to 1");
  refused({.op = "random_bernoulli", .inputs = {{"prob", number(NAN)}}}, "prob: expected");
  refused({.inputs = {{"low", number(2)}, {"high", number(1)}}},
          "high: expected a finite number, 2 or more");
  refused({.inputs = {{"high", number(INFINITY)}}}, "high: expected a finite number");
  refused({.op = "random_normal", .inputs = {{"stddev", number(-1)}}},
          "stddev: expected a number from 0 on");
  const auto categorical = [&](std::vector<float> x, Inputs more) {
    Draw draw{.op = "random_categorical",
              .inputs = {{"x", "x"}},
              .shape = {1},
              .arguments = {{"x", Floats({static_cast<int64_t>(x.size())}, x)}}};
    for (auto& one : more) draw.inputs.push_back(one);
    return draw;
  };
  refused(categorical({1, 2}, {{"mode", StringValue("odds")}}),
          "mode: expected logits or probs, got 'odds'");
  refused(categorical({1, 2}, {{"size", Int32Value(0)}}), "size: expected 1 or more, got 0");
  refused(categorical({}, {}), "x: has no class to draw");
  refused(categorical({0, 0}, {{"mode", StringValue("probs")}}),
          "x: distribution 0 has no class to draw");
  refused(categorical({1, -1}, {{"mode", StringValue("probs")}}), "which is no probability");
  refused(categorical({NAN, 1}, {}), "which is no logit");
  const auto sizes = RunProgram(
      [](BlockBuilder& block) {
        block.Op("random_uniform", "y", {{"shape", Int32sValue({2, -1})}},
                 AnyRankType(DataType::kFloat32));
        block.Output("y");
      },
      {});
  EXPECT_TRUE(Fails(sizes[0], ErrorKind::kBadInput, {"shape: -1 is no size"}));
}

}  // namespace
}  // namespace cmlc::test
