// What vectors of a few numbers cannot show of elementwise ops and reductions: values that several
// ops share, work that is cut over threads, and the results of classify.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "exec/run_program.h"
#include "numeric/half.h"

namespace cmlc::test {
namespace {

std::vector<float> Ramp(size_t count, float from = -3, float to = 3) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i)
    values[i] = numeric::HalfToFloat(numeric::FloatToHalf(
        from + (to - from) * static_cast<float>((i * 7919) % count) / static_cast<float>(count)));
  return values;
}

std::vector<float> One(const std::vector<Result<std::vector<exec::Value>>>& results) {
  EXPECT_TRUE(Succeeds(results[0]));
  return results[0].ok() ? ToFloats((*results[0])[0]) : std::vector<float>();
}

// Chains in which some values die at once and others are read again. What is worked on in place
// must be only the former.
TEST(Elementwise, WritesOverNothingThatIsReadLater) {
  for (const DataType dtype : {DataType::kFloat32, DataType::kFloat16}) {
    const Shape shape = {4, 1000};
    const wire::ValueType type = TensorType(dtype, shape);
    const std::vector<float> x = Ramp(4000);
    const Arguments arguments = {{"x", Floats(shape, x, dtype)}};
    const std::vector<float> result = One(RunProgram(
        [&](BlockBuilder& block) {
          block.Op("abs", "a", {{"x", "x"}}, type);              // x stays: it is read again
          block.Op("square", "b", {{"x", "a"}}, type);           // a stays
          block.Op("add", "c", {{"x", "b"}, {"y", "b"}}, type);  // b twice
          block.Op("identity", "d", {{"x", "c"}}, type);         // d and c share storage
          block.Op("sub", "e", {{"x", "c"}, {"y", "a"}}, type);  // may overwrite a, not c
          block.Op("mul", "f", {{"x", "e"}, {"y", "x"}}, type);
          block.Op("reduce_sum", "g",
                   {{"x", "d"}, {"axes", Int32sValue({1})}, {"keep_dims", BoolValue(true)}},
                   TensorType(dtype, {4, 1}));
          block.Op("softmax", "s", {{"x", "d"}, {"axis", Int32Value(1)}}, type);
          block.Op("add", "h", {{"x", "f"}, {"y", "s"}}, type);
          block.Op("maximum", "i", {{"x", "h"}, {"y", "d"}}, type);
          block.Output("i");
        },
        arguments));
    ASSERT_EQ(result.size(), x.size());
    const bool half = dtype == DataType::kFloat16;
    const auto store = [&](double value) {
      const auto single = static_cast<float>(value);
      return static_cast<double>(half ? numeric::HalfToFloat(numeric::FloatToHalf(single))
                                      : single);
    };
    for (size_t row = 0; row < 4; ++row) {
      double most = 0, sum = 0;
      const auto c_of = [&](size_t i) {
        const double x_i = static_cast<double>(x[row * 1000 + i]);
        return store(2 * store(x_i * x_i));
      };
      for (size_t i = 0; i < 1000; ++i) most = std::max(most, c_of(i));
      for (size_t i = 0; i < 1000; ++i) sum += std::exp(c_of(i) - most);
      for (size_t i = 0; i < 1000; ++i) {
        const double x_i = static_cast<double>(x[row * 1000 + i]), c = c_of(i);
        const double f = store(store(c - std::fabs(x_i)) * x_i);
        const double s = store(std::exp(c - most) / sum);
        const double expected = std::max(store(f + s), c);
        ASSERT_NEAR(static_cast<double>(result[row * 1000 + i]), expected, half ? 0.04 : 1e-4) << i;
      }
    }
    // The caller's own value is as it was.
    EXPECT_EQ(ToFloats(arguments.at("x")), x);
  }
}

struct Large {
  std::string op;
  Inputs inputs;
  Arguments arguments;
  Shape shape;
  DataType dtype = DataType::kFloat32;
};

// The same bits for any number of threads, and what `expected` says.
void Check(const Large& large, const std::function<double(size_t)>& expected, double tolerance) {
  const auto run = [&](int threads) {
    return One(RunProgram(
        [&](BlockBuilder& block) {
          block.Op(large.op, "out", large.inputs, TensorType(large.dtype, large.shape));
          block.Output("out");
        },
        large.arguments, threads));
  };
  const std::vector<float> results = run(1);
  EXPECT_EQ(run(2), results) << large.op;
  EXPECT_EQ(run(5), results) << large.op;
  ASSERT_EQ(results.size(), *ElementCount(large.shape));
  for (size_t i = 0; i < results.size(); ++i) {
    const double wanted = expected(i);
    ASSERT_NEAR(static_cast<double>(results[i]), wanted,
                tolerance * std::max(1.0, std::fabs(wanted)))
        << large.op << " at " << i;
  }
}

TEST(Elementwise, GivesTheSameOnAllThreads) {
  const std::vector<float> x = Ramp(3 * 70001), bias = {0.5f, -1, 2};
  const auto at = [&](size_t i) { return static_cast<double>(x[i]); };
  const Shape shape = {3, 70001};
  for (const DataType dtype : {DataType::kFloat32, DataType::kFloat16}) {
    const double fp16 = dtype == DataType::kFloat16 ? 0x1p-10 : 0;
    const Arguments both = {{"x", Floats(shape, x, dtype)}, {"y", Floats({3, 1}, bias, dtype)}};
    const Inputs xy = {{"x", "x"}, {"y", "y"}};
    Check(
        {"add", xy, both, shape, dtype},
        [&](size_t i) { return at(i) + static_cast<double>(bias[i / 70001]); }, 1e-6 + fp16);
    Check(
        {"mul", xy, {{"x", Floats({3, 1}, bias, dtype)}, {"y", both.at("x")}}, shape, dtype},
        [&](size_t i) { return at(i) * static_cast<double>(bias[i / 70001]); }, 1e-6 + fp16);
    const Arguments alone = {{"x", both.at("x")}};
    Check(
        {"tanh", {{"x", "x"}}, alone, shape, dtype}, [&](size_t i) { return std::tanh(at(i)); },
        1e-6 + fp16);
  }
}

TEST(Reductions, GiveTheSameOnAllThreads) {
  const size_t rows = 3, columns = 70001;
  const std::vector<float> x = Ramp(rows * columns, -1, 3);
  const Arguments arguments = {{"x", Floats({3, 70001}, x)}};
  const auto at = [&](size_t row, size_t column) {
    return static_cast<double>(x[row * columns + column]);
  };
  double all = 0, most = -1e9;
  std::vector<double> sums(rows), exponentials(rows);
  for (size_t row = 0; row < rows; ++row)
    for (size_t column = 0; column < columns; ++column) {
      all += at(row, column);
      sums[row] += at(row, column);
      exponentials[row] += std::exp(at(row, column));
      most = std::max(most, at(row, column));
    }
  const auto axis = [](int32_t number) {
    return Inputs{{"x", "x"}, {"axes", Int32sValue({number})}};
  };
  Check(
      {"reduce_sum", {{"x", "x"}}, arguments, {}}, [&](size_t) { return all; }, 1e-6);
  Check(
      {"reduce_max", {{"x", "x"}}, arguments, {}}, [&](size_t) { return most; }, 0);
  Check(
      {"reduce_sum", axis(1), arguments, {3}}, [&](size_t row) { return sums[row]; }, 1e-6);
  Check(
      {"reduce_log_sum_exp", axis(1), arguments, {3}},
      [&](size_t row) { return std::log(exponentials[row]); }, 1e-6);
  Check(
      {"reduce_mean", axis(0), arguments, {70001}},
      [&](size_t c) { return (at(0, c) + at(1, c) + at(2, c)) / 3; }, 1e-6);
  Check(
      {"softmax", {{"x", "x"}}, arguments, {3, 70001}},
      [&](size_t i) { return std::exp(at(i / columns, i % columns)) / exponentials[i / columns]; },
      1e-8);
  Check(
      {"softmax", {{"x", "x"}, {"axis", Int32Value(0)}}, arguments, {3, 70001}},
      [&](size_t i) {
        const size_t c = i % columns;
        return std::exp(at(i / columns, c)) /
               (std::exp(at(0, c)) + std::exp(at(1, c)) + std::exp(at(2, c)));
      },
      1e-6);
  Check(
      {"cumsum", {{"x", "x"}, {"axis", Int32Value(0)}}, arguments, {3, 70001}},
      [&](size_t i) {
        double sum = 0;
        for (size_t row = 0; row <= i / columns; ++row) sum += at(row, i % columns);
        return sum;
      },
      1e-6);
}

TEST(Reductions, TellOfVectorsThatAreMaskedAltogether) {
  PackageBuilder package(8);
  BlockBuilder block = package.Function("main");
  package.FunctionInput("main", "x", TensorType(DataType::kFloat32, {2, 2}));
  block.Op("softmax", "s", {{"x", "x"}}, TensorType(DataType::kFloat32, {2, 2}));
  block.Op("cast", "c", {{"x", "x"}, {"dtype", StringValue("int32")}},
           TensorType(DataType::kInt32, {2, 2}));
  block.Output("s");
  block.Output("c");
  const TempDir folder;
  const auto opened = Package::Open(package.Write(folder / "op.mlpackage"));
  ASSERT_TRUE(Succeeds(opened));
  const auto executable = exec::Executable::Prepare(*(*opened)->model().program, "main",
                                                    (*opened)->tensors(), "op.mlpackage");
  ASSERT_TRUE(Succeeds(executable));
  ThreadPool pool(1);
  exec::Runner runner(**executable, pool);
  ASSERT_TRUE(Succeeds(runner.Run({{"x", Floats({2, 2}, {-INFINITY, -INFINITY, 1, -INFINITY})}})));
  EXPECT_EQ(runner.TakeNotes(),
            (std::vector<std::string>{"cast 'c': 3 values beyond the range of int32 were cut",
                                      "softmax 's': 1 vectors of -infinity alone gave NaN"}));
}

std::vector<Result<std::vector<exec::Value>>> RunClassify(const wire::Value& classes,
                                                          DataType label_type,
                                                          const std::vector<float>& scores) {
  const auto count = static_cast<int64_t>(scores.size());
  return RunProgram(
      [&](BlockBuilder& block) {
        block.Const("classes", classes);
        block.Op("classify", {{"probabilities", "x"}, {"classes", "classes"}},
                 {{"label", TensorType(label_type, {})},
                  {"all", DictionaryType(TensorType(label_type, {}),
                                         TensorType(DataType::kFloat64, {}))}});
        block.Output("label");
        block.Output("all");
      },
      {{"x", Floats({1, count}, scores)}});
}

TEST(Classify, GivesTheFirstBestLabelAndAllScores) {
  const wire::Value names = ListValue({StringValue("cat"), StringValue("dog"), StringValue("owl")});
  const auto results = RunClassify(names, DataType::kString, {0.25f, 0.375f, 0.375f});
  ASSERT_TRUE(Succeeds(results[0]));
  const exec::Value& label = (*results[0])[0];
  const exec::Value& all = (*results[0])[1];
  ASSERT_EQ(label.kind, exec::Value::Kind::kStrings);
  EXPECT_EQ(label.strings->front(), "dog");
  ASSERT_EQ(all.kind, exec::Value::Kind::kDictionary);
  EXPECT_EQ(*all.strings, (std::vector<std::string>{"cat", "dog", "owl"}));
  EXPECT_EQ(all.shape, (Shape{3}));
  const std::span<const float> scores = all.As<float>();
  EXPECT_EQ(std::vector<float>(scores.begin(), scores.begin() + 3),
            (std::vector<float>{0.25f, 0.375f, 0.375f}));
}

TEST(Classify, HasIntegersAsLabels) {
  std::vector<wire::Value> numbers;
  for (const int64_t number : {10, 20, -30})
    numbers.push_back(LongIntsValue(DataType::kInt64, {}, {number}));
  const auto results = RunClassify(ListValue(numbers), DataType::kInt64, {0.1f, 0.2f, 0.7f});
  ASSERT_TRUE(Succeeds(results[0]));
  EXPECT_EQ(*exec::ReadInts((*results[0])[0]), (std::vector<int64_t>{-30}));
  EXPECT_EQ(*(*results[0])[1].keys, (std::vector<int64_t>{10, 20, -30}));
}

TEST(Classify, RefusesLabelsThatDoNotFitTheScores) {
  const wire::Value names = ListValue({StringValue("cat"), StringValue("dog")});
  EXPECT_TRUE(Fails(RunClassify(names, DataType::kString, {0.25f, 0.5f, 0.25f})[0],
                    ErrorKind::kBadInput,
                    {"classes: expected 3 labels, one for each probability, got 2"}));
}

}  // namespace
}  // namespace cmlc::test
