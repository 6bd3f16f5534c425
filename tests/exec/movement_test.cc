// Of ops that move data, what single small cases cannot show: sizes at which work is shared by
// threads, storage that is used again, tables of which only some rows are decoded, and indices that
// are handled leniently.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

#include "cmlc/package.h"
#include "exec/executable.h"
#include "support/op_case.h"
#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

using exec::Value;
using Json = nlohmann::json;

// --- Large sizes ---------------------------------------------------------------------------------

Json Numbers(const Shape& shape, const std::vector<int32_t>& values) {
  return {{"dtype", "int32"}, {"shape", shape}, {"values", values}};
}

// 0, 1, 2, ...
std::vector<int32_t> Counted(const Shape& shape) {
  std::vector<int32_t> values(*ElementCount(shape));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

// The output's elements from a rule: which number belongs at each place.
std::vector<int32_t> ByRule(const Shape& shape, const std::function<int64_t(const Shape&)>& rule) {
  std::vector<int32_t> values;
  Shape at(shape.size(), 0);
  for (uint64_t i = 0; i < *ElementCount(shape); ++i) {
    values.push_back(static_cast<int32_t>(rule(at)));
    for (size_t d = shape.size(); d-- > 0;) {
      if (++at[d] < shape[d]) break;
      at[d] = 0;
    }
  }
  return values;
}

int64_t Place(const Shape& shape, const Shape& at) {
  int64_t place = 0;
  for (size_t d = 0; d < shape.size(); ++d) place = place * shape[d] + at[d];
  return place;
}

void Check(const std::string& op, Json inputs, const Shape& shape, std::vector<int32_t> expected) {
  OpCase one;
  one.json = {{"op", op},
              {"opset", 8},
              {"inputs", std::move(inputs)},
              {"outputs", {Numbers(shape, expected)}}};
  for (const int threads : {1, 4}) CheckOpCase(one, /*as_fp16=*/false, threads);
}

TEST(Movement, LargeTransposes) {
  const Shape shape = {3, 130, 401};  // more than one band of rows, and edges of squares
  for (const std::vector<int64_t>& perm :
       std::vector<std::vector<int64_t>>{{0, 2, 1}, {2, 1, 0}, {1, 0, 2}, {2, 0, 1}, {1, 2, 0}}) {
    Shape moved, inverse(3);
    for (size_t d = 0; d < 3; ++d) {
      moved.push_back(shape[static_cast<size_t>(perm[d])]);
      inverse[static_cast<size_t>(perm[d])] = static_cast<int64_t>(d);
    }
    Check("transpose", {{"x", Numbers(shape, Counted(shape))}, {"perm", perm}}, moved,
          ByRule(moved, [&](const Shape& at) {
            Shape from;
            for (size_t d = 0; d < 3; ++d) from.push_back(at[static_cast<size_t>(inverse[d])]);
            return Place(shape, from);
          }));
  }
}

TEST(Movement, LongRunsAreCut) {
  const Shape shape = {200001};
  const std::vector<int32_t> values = Counted(shape);
  Check("reverse", {{"x", Numbers(shape, values)}}, shape,
        std::vector<int32_t>(values.rbegin(), values.rend()));
  Check("tile", {{"x", Numbers(shape, values)}, {"reps", {2}}}, {400002},
        ByRule({400002}, [](const Shape& at) { return at[0] % 200001; }));
  const Json slice = {
      {"x", Numbers(shape, values)}, {"begin", {200000}}, {"end", {0}}, {"stride", {-2}}};
  Check("slice_by_index", slice, {100000},
        ByRule({100000}, [](const Shape& at) { return 200000 - 2 * at[0]; }));
}

TEST(Movement, LargePadding) {
  const Shape shape = {40, 60, 70}, padded = {40, 63, 75};
  for (const std::string mode : {"reflect", "replicate"})
    Check("pad", {{"x", Numbers(shape, Counted(shape))}, {"pad", {1, 2, 3, 2}}, {"mode", mode}},
          padded, ByRule(padded, [&](Shape at) {
            for (size_t d = 1; d < 3; ++d) {
              at[d] -= d == 1 ? 1 : 3;
              const int64_t last = shape[d] - 1;
              if (mode == "replicate")
                at[d] = std::clamp<int64_t>(at[d], 0, last);
              else if (at[d] < 0)
                at[d] = -at[d];
              else if (at[d] > last)
                at[d] = 2 * last - at[d];
            }
            return Place(shape, at);
          }));
}

TEST(Movement, LargeGatherAndSort) {
  const Shape shape = {3, 500, 130};
  std::vector<int32_t> indices(700);
  for (size_t i = 0; i < indices.size(); ++i) indices[i] = static_cast<int32_t>(i * 271 % 500);
  Check("gather",
        {{"x", Numbers(shape, Counted(shape))}, {"indices", Numbers({700}, indices)}, {"axis", 1}},
        {3, 700, 130}, ByRule({3, 700, 130}, [&](const Shape& at) {
          return Place(shape, {at[0], indices[static_cast<size_t>(at[1])], at[2]});
        }));
  // 0 to 64999 in another order, along the middle axis: descending, with ties in order.
  std::vector<int32_t> mixed(64000);
  for (size_t i = 0; i < mixed.size(); ++i) mixed[i] = static_cast<int32_t>(i * 7919 % 64000 / 3);
  std::vector<int32_t> sorted = Counted({64000});
  std::stable_sort(sorted.begin(), sorted.end(), [&](int32_t a, int32_t b) {
    return mixed[static_cast<size_t>(a)] > mixed[static_cast<size_t>(b)];
  });
  Check("argsort", {{"x", Numbers({64000}, mixed)}}, {64000}, sorted);
}

TEST(Movement, LargeScatterKeepsTheOrderOfUpdates) {
  // Rows longer than what a thread gets, and places that come twice: the later update stays.
  const Shape shape = {4, 9000};
  const Shape updates = {3, 9000};
  std::vector<int32_t> expected(36000, -1);
  const std::vector<int32_t> numbers = Counted(updates);
  for (const auto& [row, update] : {std::pair(2, 0), std::pair(0, 1), std::pair(2, 2)})
    std::copy_n(numbers.begin() + update * 9000, 9000, expected.begin() + row * 9000);
  Check("scatter",
        {{"data", Numbers(shape, std::vector<int32_t>(36000, -1))},
         {"indices", {2, 0, 2}},
         {"updates", Numbers(updates, numbers)},
         {"mode", "update"}},
        shape, expected);
}

// --- Programs ------------------------------------------------------------------------------------

class MovementProgram : public ::testing::Test {
 protected:
  void Prepare(PackageBuilder& package) {
    opened_ = Package::Open(package.Write(folder_ / "m.mlpackage")).value();
    auto made = exec::Executable::Prepare(*opened_->model().program, "main", opened_->tensors(),
                                          "m.mlpackage");
    ASSERT_TRUE(Succeeds(made));
    executable_ = std::move(*made);
  }

  Value Tensor(DataType dtype, const Shape& shape, const std::string& bytes) {
    Result<Value> made = exec::MakeTensor(dtype, shape, memory_);
    EXPECT_TRUE(made.ok());
    std::memcpy(made->storage->data(), bytes.data(), bytes.size());
    return std::move(*made);
  }
  Value Ints(const std::vector<int32_t>& values) {
    return Tensor(DataType::kInt32, {static_cast<int64_t>(values.size())}, BytesOf(values));
  }

  TempDir folder_{FolderInMemory()};
  std::unique_ptr<Package> opened_;
  std::unique_ptr<exec::Executable> executable_;
  exec::Memory memory_;
  ThreadPool pool_{2};
};

std::vector<float> Floats(const Value& value) {
  std::vector<float> out(static_cast<size_t>(value.element_count()));
  EXPECT_TRUE(exec::ReadFloats(value, 0, out).ok());
  return out;
}

TEST_F(MovementProgram, GatherDecodesOnlyTheRowsItNeeds) {
  for (const DataType dtype : {DataType::kFloat16, DataType::kFloat32}) {
    constexpr int64_t kRows = 3000, kColumns = 64;
    std::string codes;
    for (int64_t i = 0; i < kRows * kColumns; ++i) codes.push_back(static_cast<char>(i * 37 % 251));
    PackageBuilder package(9);
    package.FunctionInput("main", "ids", TensorType(DataType::kInt32, {3}));
    BlockBuilder main = package.Function("main");
    main.Op("constexpr_affine_dequantize", "table", {}, TensorType(dtype, {kRows, kColumns}),
            {{"quantized_data", main.Blob(DataType::kInt8, {kRows, kColumns}, codes)},
             {"scale", BytesValue(dtype, {}, FloatBytes(dtype, {0.5f}))},
             {"zero_point", BytesValue(DataType::kInt8, {}, std::string(1, '\3'))},
             {"axis", Int32Value(0)}});
    main.Op("gather", "y", {{"x", "table"}, {"indices", "ids"}, {"axis", Int32Value(0)}},
            TensorType(dtype, {3, kColumns}));
    main.Output("y");
    const TempDir folder(FolderInMemory());
    opened_ = Package::Open(package.Write(folder / "m.mlpackage")).value();
    const auto executable = exec::Executable::Prepare(*opened_->model().program, "main",
                                                      opened_->tensors(), "m.mlpackage");
    ASSERT_TRUE(Succeeds(executable));
    exec::Runner runner(**executable, pool_);
    const std::vector<int32_t> ids = {2999, 0, 1234};
    const auto got = runner.Run({{"ids", Ints(ids)}});
    ASSERT_TRUE(Succeeds(got));
    const std::vector<float> values = Floats((*got)[0]);
    for (size_t i = 0; i < values.size(); ++i) {
      const size_t at = static_cast<size_t>(ids[i / kColumns]) * kColumns + i % kColumns;
      ASSERT_EQ(values[i], 0.5f * (static_cast<float>(static_cast<int8_t>(codes[at])) - 3)) << i;
    }
    // The table would take a hundred times as much.
    EXPECT_LT(runner.memory().peak_bytes(), 8000u);
    opened_.reset();
  }
}

TEST_F(MovementProgram, SliceUpdateChangesAValueInPlaceIfNothingElseHasIt) {
  PackageBuilder package(9);
  package.FunctionInput("main", "x", TensorType(DataType::kFloat32, {1000}));
  package.FunctionInput("main", "u", TensorType(DataType::kFloat32, {2}));
  BlockBuilder main = package.Function("main");
  const wire::ValueType type = TensorType(DataType::kFloat32, {1000});
  const auto update = [&](const std::string& name, const std::string& x, int begin) {
    main.Op("slice_update", name,
            {{"x", x},
             {"update", "u"},
             {"begin", Int32sValue({begin})},
             {"end", Int32sValue({begin + 2})}},
            type);
  };
  update("a", "x", 1);    // a copy: x is the caller's, and read again below
  update("b", "a", 500);  // in place
  update("c", "b", 998);  // in place
  update("d", "x", 7);    // a copy: the caller still has x
  main.Output("c");
  main.Output("d");
  ASSERT_NO_FATAL_FAILURE(Prepare(package));
  exec::Runner runner(*executable_, pool_);
  const Value x = Tensor(DataType::kFloat32, {1000}, std::string(4000, '\0'));
  const Value u = Tensor(DataType::kFloat32, {2}, BytesOf(std::vector<float>{3, 4}));
  const auto got = runner.Run({{"x", x}, {"u", u}});
  ASSERT_TRUE(Succeeds(got));
  std::vector<float> c(1000, 0), d(1000, 0);
  for (const size_t at : {1, 500, 998}) c[at] = 3, c[at + 1] = 4;
  d[7] = 3, d[8] = 4;
  EXPECT_EQ(Floats((*got)[0]), c);
  EXPECT_EQ(Floats((*got)[1]), d);
  EXPECT_EQ(Floats(x), std::vector<float>(1000, 0));
  EXPECT_LT(runner.memory().peak_bytes(), 2 * 4000u + 300);
}

TEST_F(MovementProgram, ReshapesShareStorage) {
  PackageBuilder package(9);
  package.FunctionInput("main", "x", TensorType(DataType::kFloat16, {4, 600}));
  BlockBuilder main = package.Function("main");
  main.Op("reshape", "a", {{"x", "x"}, {"shape", Int32sValue({1, 2400})}},
          TensorType(DataType::kFloat16, {1, 2400}));
  main.Op("squeeze", "b", {{"x", "a"}}, TensorType(DataType::kFloat16, {2400}));
  main.Op("expand_dims", "c", {{"x", "b"}, {"axes", Int32sValue({1})}},
          TensorType(DataType::kFloat16, {2400, 1}));
  main.Op("transpose", "d", {{"x", "c"}, {"perm", Int32sValue({1, 0})}},
          TensorType(DataType::kFloat16, {1, 2400}));
  main.Output("d");
  ASSERT_NO_FATAL_FAILURE(Prepare(package));
  exec::Runner runner(*executable_, pool_);
  const Value x = Tensor(DataType::kFloat16, {4, 600}, std::string(4800, '\1'));
  const auto got = runner.Run({{"x", x}});
  ASSERT_TRUE(Succeeds(got));
  EXPECT_EQ((*got)[0].storage, x.storage);
  EXPECT_EQ(runner.memory().peak_bytes(), 0u);
}

TEST_F(MovementProgram, LenientIndicesAreWrappedCutAndCounted) {
  PackageBuilder package(9);
  package.FunctionInput("main", "ids", TensorType(DataType::kInt32, {4}));
  BlockBuilder main = package.Function("main");
  main.Const("x", FloatsValue({3}, {10, 20, 30}));
  main.Op("gather", "y", {{"x", "x"}, {"indices", "ids"}}, TensorType(DataType::kFloat32, {4}));
  main.Output("y");
  ASSERT_NO_FATAL_FAILURE(Prepare(package));
  const std::map<std::string, Value> arguments = {{"ids", Ints({2, -3, 7, -9})}};
  exec::Runner strict(*executable_, pool_);
  EXPECT_TRUE(Fails(strict.Run(arguments), ErrorKind::kBadInput,
                    {"gather 'y': indices: -3 at position 1 is not between 0 and 2"}));
  exec::Runner lenient(*executable_, pool_, {.lenient_indices = true});
  const auto got = lenient.Run(arguments);
  ASSERT_TRUE(Succeeds(got));
  EXPECT_EQ(Floats((*got)[0]), (std::vector<float>{30, 10, 30, 10}));
  EXPECT_EQ(lenient.TakeNotes(),
            std::vector<std::string>{"gather 'y': 3 indices out of range were cut"});
}

}  // namespace
}  // namespace cmlc::test
