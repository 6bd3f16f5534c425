// Control flow, lists, states and memory: whole small programs, run and prepared.
#include <gtest/gtest.h>

#include <cstring>
#include <optional>

#include "cmlc/package.h"
#include "exec/executable.h"
#include "exec/memory.h"
#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

const wire::ValueType kFloat = TensorType(DataType::kFloat32, {});
const wire::ValueType kInt = TensorType(DataType::kInt32, {});
const wire::ValueType kBool = TensorType(DataType::kBool, {});

wire::ValueType Floats(const Shape& shape) { return TensorType(DataType::kFloat32, shape); }

exec::Value FloatTensor(const Shape& shape, const std::vector<float>& values) {
  exec::Memory memory;
  exec::Value value = *exec::MakeTensor(DataType::kFloat32, shape, memory);
  if (!values.empty())
    std::memcpy(value.storage->data(), values.data(), values.size() * sizeof(float));
  return value;
}

exec::Value IntScalar(int32_t number) {
  exec::Memory memory;
  exec::Value value = *exec::MakeTensor(DataType::kInt32, {}, memory);
  std::memcpy(value.storage->data(), &number, sizeof number);
  return value;
}

exec::Value BoolScalar(bool flag) {
  exec::Memory memory;
  exec::Value value = *exec::MakeTensor(DataType::kBool, {}, memory);
  *value.storage->data() = static_cast<std::byte>(flag);
  return value;
}

std::vector<float> NumbersOf(const exec::Value& value) {
  std::vector<float> numbers(static_cast<size_t>(value.element_count()));
  EXPECT_TRUE(Succeeds(exec::ReadFloats(value, 0, numbers)));
  return numbers;
}

using Arguments = std::map<std::string, exec::Value>;

// Bound to one parameter.
Input Several(const std::vector<std::string>& names) {
  return Input(std::vector<Input::One>(names.begin(), names.end()));
}

// A program of one function "main", built, prepared and run.
class Programs : public ::testing::Test {
 protected:
  void Input(const std::string& name, const wire::ValueType& type) {
    package_.FunctionInput("main", name, type);
  }

  // Writes the package and prepares it, once.
  const Result<std::unique_ptr<exec::Executable>>& Prepared() {
    if (!executable_) {
      Result<std::unique_ptr<Package>> opened =
          Package::Open(package_.Write(folder_ / "p.mlpackage"), {.allow_missing_weights = true});
      EXPECT_TRUE(Succeeds(opened));
      opened_ = std::move(*opened);
      executable_ = exec::Executable::Prepare(*opened_->model().program, "main", opened_->tensors(),
                                              "p.mlpackage");
    }
    return *executable_;
  }

  exec::Runner& Runner() {
    if (!runner_) {
      EXPECT_TRUE(Succeeds(Prepared()));
      runner_ = std::make_unique<exec::Runner>(**Prepared(), pool_, options_);
    }
    return *runner_;
  }

  Result<std::vector<exec::Value>> Run(const Arguments& arguments) {
    if (!Prepared().ok()) return Prepared().error();
    return Runner().Run(arguments);
  }

  // The numbers of the first output.
  std::vector<float> First(const Arguments& arguments) {
    const Result<std::vector<exec::Value>> outputs = Run(arguments);
    EXPECT_TRUE(Succeeds(outputs));
    if (!outputs.ok() || outputs->empty()) return {};
    return NumbersOf(outputs->front());
  }

  // The error, whether it comes when preparing or when running.
  ::testing::AssertionResult Error(const Arguments& arguments,
                                   std::initializer_list<std::string_view> fragments) {
    return Fails(Run(arguments), ErrorKind::kBadInput, fragments);
  }

  PackageBuilder package_{9};
  BlockBuilder main_ = package_.Function("main");
  exec::ExecutionOptions options_;
  ThreadPool pool_{2};

 private:
  TempDir folder_{FolderInMemory()};
  std::unique_ptr<Package> opened_;
  std::optional<Result<std::unique_ptr<exec::Executable>>> executable_;
  std::unique_ptr<exec::Runner> runner_;
};

// --- Blocks -------------------------------------------------------------------------------------

class ControlFlow : public Programs {
 protected:
  // while (i < n) body, over variables i and x; n is a function input that the condition captures.
  wire::Operation& Loop(const wire::ValueType& type) {
    Input("n", kInt);
    Input("x", type);
    main_.Const("zero", Int32Value(0));
    wire::Operation& loop = main_.Op("while_loop", {{"loop_vars", Several({"zero", "x"})}},
                                     {{"loop_i", kInt}, {"y", type}});
    BlockBuilder condition = main_.Nested(loop);
    condition.BlockInput("i", kInt);
    condition.BlockInput("v", type);
    condition.Op("less", "more", {{"x", "i"}, {"y", "n"}}, kBool);
    condition.Output("more");
    return loop;
  }
  BlockBuilder Body(wire::Operation& loop, const wire::ValueType& type) {
    BlockBuilder body = main_.Nested(loop);
    body.BlockInput("i", kInt);
    body.BlockInput("v", type);
    body.Const("one", Int32Value(1));
    body.Op("add", "next", {{"x", "i"}, {"y", "one"}}, kInt);
    return body;
  }
};

TEST_F(ControlFlow, ALoopHandsItsVariablesOnAndReadsValuesFromOutside) {
  wire::Operation& loop = Loop(Floats({2}));
  Input("step", Floats({2}));
  BlockBuilder body = Body(loop, Floats({2}));
  body.Op("add", "sum", {{"x", "v"}, {"y", "step"}}, Floats({2}));
  body.Output("next");
  body.Output("sum");
  main_.Output("y");
  main_.Output("loop_i");
  const exec::Value x = FloatTensor({2}, {1, 2}), step = FloatTensor({2}, {10, 100});
  // Several samples, also one that never enters the body.
  EXPECT_EQ(First({{"n", IntScalar(3)}, {"x", x}, {"step", step}}), (std::vector<float>{31, 302}));
  EXPECT_EQ(First({{"n", IntScalar(0)}, {"x", x}, {"step", step}}), (std::vector<float>{1, 2}));
  EXPECT_EQ(First({{"n", IntScalar(-5)}, {"x", x}, {"step", step}}), (std::vector<float>{1, 2}));
  EXPECT_EQ(First({{"n", IntScalar(1)}, {"x", x}, {"step", step}}), (std::vector<float>{11, 102}));
  EXPECT_EQ(NumbersOf(x), (std::vector<float>{1, 2}));  // what a caller keeps is left alone
}

TEST_F(ControlFlow, AnInputThatTheBodyReadsToooIsNotWrittenTo) {
  // The loop's variable starts as the very value that the body reads in each iteration.
  wire::Operation& loop = Loop(Floats({2}));
  BlockBuilder body = Body(loop, Floats({2}));
  body.Op("add", "sum", {{"x", "v"}, {"y", "x"}}, Floats({2}));
  body.Output("next");
  body.Output("sum");
  main_.Output("y");
  const exec::Value x = FloatTensor({2}, {1, 2});
  EXPECT_EQ(First({{"n", IntScalar(4)}, {"x", x}}), (std::vector<float>{5, 10}));
}

TEST_F(ControlFlow, AVariableMayBeBoundTwiceAndSwapped) {
  Input("x", kFloat);
  Input("z", kFloat);
  main_.Const("zero", Int32Value(0));
  main_.Const("three", Int32Value(3));
  wire::Operation& loop = main_.Op("while_loop", {{"loop_vars", Several({"zero", "x", "x", "z"})}},
                                   {{"count", kInt}, {"a", kFloat}, {"b", kFloat}, {"c", kFloat}});
  const auto inputs = [](BlockBuilder block) {
    block.BlockInput("i", kInt);
    for (const char* name : {"p", "q", "r"}) block.BlockInput(name, kFloat);
    return block;
  };
  BlockBuilder condition = inputs(main_.Nested(loop));
  condition.Op("less", "more", {{"x", "i"}, {"y", "three"}}, kBool);
  condition.Output("more");
  BlockBuilder body = inputs(main_.Nested(loop));
  body.Const("one", Int32Value(1));
  body.Op("add", "next", {{"x", "i"}, {"y", "one"}}, kInt);
  body.Op("add", "pr", {{"x", "p"}, {"y", "r"}}, kFloat);
  // p, q, r become r, p, p + r.
  for (const char* name : {"next", "r", "p", "pr"}) body.Output(name);
  for (const char* name : {"a", "b", "c"}) main_.Output(name);
  const auto outputs = Run({{"x", FloatTensor({}, {1})}, {"z", FloatTensor({}, {10})}});
  ASSERT_TRUE(Succeeds(outputs));
  // (1, 1, 10) (10, 1, 11) (11, 10, 21) (21, 11, 32)
  EXPECT_EQ(NumbersOf((*outputs)[0]), (std::vector<float>{21}));
  EXPECT_EQ(NumbersOf((*outputs)[1]), (std::vector<float>{11}));
  EXPECT_EQ(NumbersOf((*outputs)[2]), (std::vector<float>{32}));
}

TEST_F(ControlFlow, ABodyMayGiveAnOuterValueAndAConstant) {
  wire::Operation& loop = Loop(kFloat);
  Input("outer", kFloat);
  BlockBuilder body = Body(loop, kFloat);
  body.Output("next");
  body.Output("outer");
  main_.Op("add", "sum", {{"x", "y"}, {"y", "outer"}}, kFloat);
  main_.Output("sum");
  const Arguments twice = {
      {"n", IntScalar(2)}, {"x", FloatTensor({}, {1})}, {"outer", FloatTensor({}, {7})}};
  EXPECT_EQ(First(twice), (std::vector<float>{14}));
  EXPECT_EQ(First(twice), (std::vector<float>{14}));
}

TEST_F(ControlFlow, AVariableMayChangeItsSize) {
  const wire::ValueType any = Floats({kUnknownSize});
  wire::Operation& loop = Loop(any);
  BlockBuilder body = Body(loop, any);
  body.Const("axis", Int32Value(0));
  body.Const("interleave", BoolValue(false));
  body.Op("concat", "longer",
          {{"values", Several({"v", "v"})}, {"axis", "axis"}, {"interleave", "interleave"}}, any);
  body.Output("next");
  body.Output("longer");
  main_.Output("y");
  EXPECT_EQ(First({{"n", IntScalar(2)}, {"x", FloatTensor({2}, {1, 2})}}),
            (std::vector<float>{1, 2, 1, 2, 1, 2, 1, 2}));
}

TEST_F(ControlFlow, BlocksNest) {
  // for i < n: if i < 2: v += 1 else: for j < 3: v += i
  main_.Const("two", Int32Value(2));
  wire::Operation& loop = Loop(kFloat);
  BlockBuilder body = Body(loop, kFloat);
  body.Op("less", "early", {{"x", "i"}, {"y", "two"}}, kBool);
  body.Const("dtype", StringValue("fp32"));
  body.Op("cast", "i_float", {{"x", "i"}, {"dtype", "dtype"}}, kFloat);
  wire::Operation& branch = body.Op("cond", "picked", {{"pred", "early"}}, kFloat);
  BlockBuilder yes = body.Nested(branch);
  yes.Const("unit", FloatsValue({}, {1}));
  yes.Op("add", "v_one", {{"x", "v"}, {"y", "unit"}}, kFloat);
  yes.Output("v_one");
  BlockBuilder no = body.Nested(branch);
  no.Const("start", Int32Value(0));
  no.Const("three", Int32Value(3));
  wire::Operation& inner = no.Op("while_loop", {{"loop_vars", Several({"start", "v"})}},
                                 {{"inner_j", kInt}, {"inner_v", kFloat}});
  BlockBuilder inner_condition = no.Nested(inner);
  inner_condition.BlockInput("j", kInt);
  inner_condition.BlockInput("w", kFloat);
  inner_condition.Op("less", "inner_more", {{"x", "j"}, {"y", "three"}}, kBool);
  inner_condition.Output("inner_more");
  BlockBuilder inner_body = no.Nested(inner);
  inner_body.BlockInput("j", kInt);
  inner_body.BlockInput("w", kFloat);
  inner_body.Op("add", "j_next", {{"x", "j"}, {"y", "one"}}, kInt);  // "one" is the outer body's
  inner_body.Op("add", "w_next", {{"x", "w"}, {"y", "i_float"}}, kFloat);
  inner_body.Output("j_next");
  inner_body.Output("w_next");
  no.Output("inner_v");
  body.Output("next");
  body.Output("picked");
  main_.Output("y");
  // 0: +1, 1: +1, 2: +6, 3: +9
  EXPECT_EQ(First({{"n", IntScalar(4)}, {"x", FloatTensor({}, {100})}}), (std::vector<float>{117}));
  EXPECT_EQ(First({{"n", IntScalar(2)}, {"x", FloatTensor({}, {100})}}), (std::vector<float>{102}));
}

TEST_F(ControlFlow, OnlyTheTakenBranchRuns) {
  Input("flag", kBool);
  Input("x", Floats({2}));
  wire::Operation& branch =
      main_.Op("cond", {{"pred", "flag"}}, {{"a", Floats({kUnknownSize})}, {"b", kFloat}});
  BlockBuilder yes = main_.Nested(branch);
  yes.Const("b_yes", FloatsValue({}, {1}));
  yes.Output("x");
  yes.Output("b_yes");
  BlockBuilder no = main_.Nested(branch);
  // Reads past the end of a list: an error if it ran.
  no.Const("far", Int32Value(9));
  no.Op("make_list", "ls", {}, ListType(kFloat, 1));
  no.Op("list_read", "b_no", {{"ls", "ls"}, {"index", "far"}}, kFloat);
  no.Output("x");
  no.Output("b_no");
  main_.Output("a");
  main_.Output("b");
  EXPECT_EQ(First({{"flag", BoolScalar(true)}, {"x", FloatTensor({2}, {3, 4})}}),
            (std::vector<float>{3, 4}));
  EXPECT_TRUE(Error({{"flag", BoolScalar(false)}, {"x", FloatTensor({2}, {3, 4})}},
                    {"p.mlpackage: function 'main': list_read 'b_no': index: 9 is outside of a "
                     "list of 1"}));
  // And a run after one that failed.
  EXPECT_EQ(First({{"flag", BoolScalar(true)}, {"x", FloatTensor({2}, {5, 6})}}),
            (std::vector<float>{5, 6}));
}

TEST_F(ControlFlow, AnEndlessLoopStopsAtTheLimitOfSteps) {
  options_.max_steps = 1000;
  wire::Operation& loop = Loop(kFloat);
  BlockBuilder body = main_.Nested(loop);
  body.BlockInput("i", kInt);
  body.BlockInput("v", kFloat);
  body.Op("add", "twice", {{"x", "v"}, {"y", "v"}}, kFloat);
  body.Output("i");  // never changes
  body.Output("twice");
  main_.Output("y");
  EXPECT_TRUE(
      Error({{"n", IntScalar(1)}, {"x", FloatTensor({}, {1})}},
            {"p.mlpackage: function 'main': ", "would be step 1001", "--max-steps 1000 allows"}));
  EXPECT_EQ(First({{"n", IntScalar(0)}, {"x", FloatTensor({}, {1})}}), (std::vector<float>{1}));
}

TEST_F(ControlFlow, SoDoesALoopThatDoesNothing) {
  options_.max_steps = 1000;
  Input("go", kBool);
  wire::Operation& loop = main_.Op("while_loop", "y", {{"loop_vars", "go"}}, kBool);
  for (int i = 0; i < 2; ++i) {
    BlockBuilder block = main_.Nested(loop);
    block.BlockInput("v", kBool);
    block.Output("v");
  }
  main_.Output("y");
  EXPECT_TRUE(Error({{"go", BoolScalar(true)}}, {"while_loop 'y': would be step 1001"}));
}

TEST_F(ControlFlow, AConditionIsOneBool) {
  Input("x", kFloat);
  wire::Operation& loop = main_.Op("while_loop", "y", {{"loop_vars", "x"}}, kFloat);
  for (int i = 0; i < 2; ++i) {
    BlockBuilder block = main_.Nested(loop);
    block.BlockInput("v", kFloat);
    block.Output("v");
  }
  main_.Output("y");
  EXPECT_TRUE(Error({{"x", FloatTensor({}, {1})}},
                    {"while_loop 'y': condition: expected one bool, got fp32 []"}));
}

TEST_F(ControlFlow, VariablesMustKeepTheDeclaredType) {
  wire::Operation& loop = Loop(Floats({2}));
  BlockBuilder body = main_.Nested(loop);
  body.BlockInput("i", kInt);
  body.BlockInput("v", Floats({2}));
  body.Output("i");
  body.Output("n");  // an int where v belongs
  main_.Output("y");
  EXPECT_TRUE(Error({{"n", IntScalar(1)}, {"x", FloatTensor({2}, {1, 2})}},
                    {"while_loop 'loop_i': input 'v' of a block is int32 [], expected fp32 [2]"}));
}

// --- Lists --------------------------------------------------------------------------------------

class Lists : public Programs {
 protected:
  void MakeList(const std::string& name, const std::vector<Input::One>& shape, int length,
                bool grows = true) {
    main_.Const(name + "_length", Int32Value(length));
    main_.Const(name + "_grows", BoolValue(grows));
    main_.Const(name + "_dtype", StringValue("fp32"));
    main_.Op("make_list", name,
             {{"init_length", name + "_length"},
              {"dynamic_length", name + "_grows"},
              {"dtype", name + "_dtype"},
              {"elem_shape", test::Input(shape)}},
             ListType(AnyRankType(DataType::kFloat32), length));
  }
  void Write(const std::string& from, const std::string& to, int index, const std::string& value) {
    main_.Op("list_write", to, {{"ls", from}, {"index", Int32Value(index)}, {"value", value}},
             ListType(AnyRankType(DataType::kFloat32), 1));
  }
  void Read(const std::string& from, const std::string& to, int index) {
    main_.Op("list_read", to, {{"ls", from}, {"index", Int32Value(index)}},
             AnyRankType(DataType::kFloat32));
  }
  void Gather(const std::string& from, const std::string& to, const std::vector<int>& indices) {
    main_.Op("list_gather", to, {{"ls", from}, {"indices", Int32sValue(indices)}},
             AnyRankType(DataType::kFloat32));
  }
  void Scatter(const std::string& from, const std::string& to, const std::vector<int>& indices,
               const std::string& value) {
    main_.Op("list_scatter", to,
             {{"ls", from}, {"indices", Int32sValue(indices)}, {"value", value}},
             ListType(AnyRankType(DataType::kFloat32), 1));
  }
  void Length(const std::string& from, const std::string& to) {
    main_.Op("list_length", to, {{"ls", from}}, kInt);
  }
  const std::vector<Input::One> two_{Int32Value(2)};
  const Arguments x_{{"x", FloatTensor({2}, {1, 2})}};
};

TEST_F(Lists, WritingGrowsAndLeavesTheOldListAsItWas) {
  Input("x", Floats({2}));
  MakeList("a", two_, 1);
  Write("a", "b", 0, "x");
  main_.Op("add", "x2", {{"x", "x"}, {"y", "x"}}, Floats({2}));
  Write("b", "c", 3, "x2");
  Write("b", "d", 0, "x2");
  Gather("c", "from_c", {0, 3, 1, 0});  // 1 was never written
  Gather("d", "from_d", {0});
  Gather("b", "from_b", {0});
  Length("a", "length_a");
  Length("c", "length_c");
  for (const char* name : {"from_c", "from_d", "from_b", "length_a", "length_c"})
    main_.Output(name);
  for (int run = 0; run < 2; ++run) {
    const auto outputs = Run(x_);
    ASSERT_TRUE(Succeeds(outputs));
    EXPECT_EQ((*outputs)[0].shape, (Shape{4, 2}));
    EXPECT_EQ(NumbersOf((*outputs)[0]), (std::vector<float>{1, 2, 2, 4, 0, 0, 1, 2}));
    EXPECT_EQ(NumbersOf((*outputs)[1]), (std::vector<float>{2, 4}));
    EXPECT_EQ(NumbersOf((*outputs)[2]), (std::vector<float>{1, 2}));
    EXPECT_EQ(NumbersOf((*outputs)[3]), (std::vector<float>{1}));
    EXPECT_EQ(NumbersOf((*outputs)[4]), (std::vector<float>{4}));
  }
}

TEST_F(Lists, ScatterGrowsAndTheLastOfEqualIndicesStays) {
  Input("x", Floats({3, 2}));
  MakeList("a", two_, 2);
  Scatter("a", "b", {4, 0, 4}, "x");
  Gather("b", "y", {0, 1, 4});
  Length("b", "length");
  main_.Output("y");
  main_.Output("length");
  const auto outputs = Run({{"x", FloatTensor({3, 2}, {1, 2, 3, 4, 5, 6})}});
  ASSERT_TRUE(Succeeds(outputs));
  EXPECT_EQ(NumbersOf((*outputs)[0]), (std::vector<float>{3, 4, 0, 0, 5, 6}));
  EXPECT_EQ(NumbersOf((*outputs)[1]), (std::vector<float>{5}));
}

TEST_F(Lists, SizesMayBecomeKnownWithTheFirstWrite) {
  Input("x", Floats({2}));
  MakeList("a", {StringValue("is0")}, 3);
  Write("a", "b", 2, "x");
  Read("b", "y", 0);  // zeros of the size that was written
  main_.Output("y");
  EXPECT_EQ(First(x_), (std::vector<float>{0, 0}));
}

TEST_F(Lists, AListThatNothingWasWrittenToHasNoElementsOfUnknownSize) {
  MakeList("a", {StringValue("is0")}, 3);
  Read("a", "y", 0);
  main_.Output("y");
  EXPECT_TRUE(Error({}, {"list_read 'y': ls: nothing was written to this list"}));
}

TEST_F(Lists, AListInALoopIsFilled) {
  Input("x", Floats({2}));
  main_.Const("zero", Int32Value(0));
  main_.Const("five", Int32Value(5));
  MakeList("a", two_, 5, /*grows=*/false);
  const wire::ValueType list = ListType(Floats({2}), 5);
  wire::Operation& loop = main_.Op("while_loop", {{"loop_vars", Several({"zero", "a", "x"})}},
                                   {{"i_end", kInt}, {"a_end", list}, {"x_end", Floats({2})}});
  const auto inputs = [&](BlockBuilder block) {
    block.BlockInput("i", kInt);
    block.BlockInput("ls", list);
    block.BlockInput("v", Floats({2}));
    return block;
  };
  BlockBuilder condition = inputs(main_.Nested(loop));
  condition.Op("less", "more", {{"x", "i"}, {"y", "five"}}, kBool);
  condition.Output("more");
  BlockBuilder body = inputs(main_.Nested(loop));
  body.Const("one", Int32Value(1));
  body.Op("add", "next", {{"x", "i"}, {"y", "one"}}, kInt);
  body.Op("add", "twice", {{"x", "v"}, {"y", "v"}}, Floats({2}));
  body.Op("list_write", "written", {{"ls", "ls"}, {"index", "i"}, {"value", "twice"}}, list);
  for (const char* name : {"next", "written", "twice"}) body.Output(name);
  Gather("a_end", "y", {0, 4});
  Gather("a", "before", {4});  // the list that went in is still empty
  main_.Output("y");
  main_.Output("before");
  for (int run = 0; run < 2; ++run) {
    const auto outputs = Run(x_);
    ASSERT_TRUE(Succeeds(outputs));
    EXPECT_EQ(NumbersOf((*outputs)[0]), (std::vector<float>{2, 4, 32, 64}));
    EXPECT_EQ(NumbersOf((*outputs)[1]), (std::vector<float>{0, 0}));
  }
}

TEST_F(Lists, LenientIndicesAreCut) {
  options_.lenient_indices = true;
  Input("x", Floats({3, 2}));
  MakeList("a", two_, 3);
  Scatter("a", "b", {0, 1, 2}, "x");
  Gather("b", "y", {-1, 7, 0});
  main_.Output("y");
  EXPECT_EQ(First({{"x", FloatTensor({3, 2}, {1, 2, 3, 4, 5, 6})}}),
            (std::vector<float>{5, 6, 5, 6, 1, 2}));
  EXPECT_EQ(Runner().TakeNotes(),
            (std::vector<std::string>{"list_gather 'y': 2 indices out of range were cut"}));
  EXPECT_TRUE(Runner().TakeNotes().empty());
}

class BadLists : public Lists {
 public:
  void Check(const char* message) {
    main_.Output("y");
    EXPECT_TRUE(Error(x_, {message}));
  }
};

TEST_F(BadLists, ReadPastTheEnd) {
  Input("x", Floats({2}));
  MakeList("a", two_, 2);
  Read("a", "y", 2);
  Check("list_read 'y': index: 2 is outside of a list of 2");
}
TEST_F(BadLists, ReadBeforeTheStart) {
  Input("x", Floats({2}));
  MakeList("a", two_, 2);
  Read("a", "y", -1);
  Check("index: -1 is outside of a list of 2");
}
TEST_F(BadLists, WritePastTheEndOfOneThatDoesNotGrow) {
  Input("x", Floats({2}));
  MakeList("a", two_, 2, /*grows=*/false);
  Write("a", "b", 2, "x");
  Read("b", "y", 0);
  Check("list_write 'b': index: 2 is outside of a list of 2, which does not grow");
}
TEST_F(BadLists, WriteFarAway) {
  Input("x", Floats({2}));
  MakeList("a", two_, 2);
  Write("a", "b", 2000000000, "x");
  Read("b", "y", 0);
  Check("index: 2000000000 would make a list longer than 1048576");
}
TEST_F(BadLists, WriteBeforeTheStart) {
  Input("x", Floats({2}));
  MakeList("a", two_, 2);
  Write("a", "b", -1, "x");
  Read("b", "y", 0);
  Check("index: -1 is outside of a list of 2");
}
TEST_F(BadLists, WriteAnotherShape) {
  Input("x", Floats({2}));
  MakeList("a", {Int32Value(3)}, 2);
  Write("a", "b", 0, "x");
  Read("b", "y", 0);
  Check("value: elements of the list are fp32 [3], got fp32 [2]");
}
TEST_F(BadLists, ScatterAnotherCount) {
  Input("x", Floats({2}));
  MakeList("a", two_, 2);
  Scatter("a", "b", {0, 1, 2}, "x");
  Read("b", "y", 0);
  Check("value: expected 3 elements, one for each index, got fp32 [2]");
}
TEST_F(BadLists, NegativeLength) {
  Input("x", Floats({2}));
  MakeList("a", two_, -1);
  Read("a", "y", 0);
  Check("make_list 'a': init_length: -1 is not between 0 and 1048576");
}
TEST_F(BadLists, HugeLength) {
  Input("x", Floats({2}));
  MakeList("a", two_, 2000000000);
  Read("a", "y", 0);
  Check("init_length: 2000000000 is not between");
}
TEST_F(BadLists, NoList) {
  Input("x", Floats({2}));
  Read("x", "y", 0);
  Check("ls: expected a list, got fp32 [2]");
}
TEST_F(BadLists, ATensorOpOfAList) {
  Input("x", Floats({2}));
  MakeList("a", two_, 1);
  main_.Op("add", "y", {{"x", "x"}, {"y", "a"}}, Floats({2}));
  Check("y: ");
}

// --- States -------------------------------------------------------------------------------------

class States : public Programs {
 protected:
  States() {
    Input("x", TensorType(DataType::kFloat16, {2}));
    package_.FunctionInput("main", "sum", StateType(half_));
  }
  exec::Value Halves(float a, float b) {
    exec::Memory memory;
    exec::Value value = *exec::MakeTensor(DataType::kFloat16, {2}, memory);
    const std::string bytes = Fp16Bytes({a, b});
    std::memcpy(value.storage->data(), bytes.data(), bytes.size());
    return value;
  }
  const wire::ValueType half_ = TensorType(DataType::kFloat16, {2});
};

TEST_F(States, LiveFromRunToRunUntilTheyAreReset) {
  main_.Op("read_state", "old", {{"input", "sum"}}, half_);
  main_.Op("add", "new", {{"x", "old"}, {"y", "x"}}, half_);
  main_.Op("write_state", Inputs{{"input", "sum"}, {"data", "new"}}, Outputs{});
  main_.Op("read_state", "after", {{"input", "sum"}}, half_);
  main_.Output("after");
  main_.Output("old");  // what was read stays as it was
  const auto run = [&](float a) {
    const auto outputs = Run({{"x", Halves(a, 1)}});
    EXPECT_TRUE(Succeeds(outputs));
    std::vector<float> both = NumbersOf((*outputs)[0]);
    const std::vector<float> old = NumbersOf((*outputs)[1]);
    both.insert(both.end(), old.begin(), old.end());
    return both;
  };
  EXPECT_EQ(run(10), (std::vector<float>{10, 1, 0, 0}));
  EXPECT_EQ(run(20), (std::vector<float>{30, 2, 10, 1}));
  EXPECT_EQ(run(30), (std::vector<float>{60, 3, 30, 2}));
  Runner().ResetStates();
  EXPECT_EQ(run(5), (std::vector<float>{5, 1, 0, 0}));
}

TEST_F(States, AreWrittenEvenIfNothingReadsThem) {
  main_.Op("read_state", "old", {{"input", "sum"}}, half_);
  main_.Op("add", "new", {{"x", "old"}, {"y", "x"}}, half_);
  main_.Op("write_state", Inputs{{"input", "sum"}, {"data", "new"}}, Outputs{});
  main_.Output("old");
  EXPECT_EQ(First({{"x", Halves(1, 2)}}), (std::vector<float>{0, 0}));
  EXPECT_EQ(First({{"x", Halves(1, 2)}}), (std::vector<float>{1, 2}));
}

TEST_F(States, AreSeenInsideOfLoops) {
  main_.Const("zero", Int32Value(0));
  main_.Const("three", Int32Value(3));
  wire::Operation& loop = main_.Op("while_loop", "end", {{"loop_vars", "zero"}}, kInt);
  BlockBuilder condition = main_.Nested(loop);
  condition.BlockInput("i", kInt);
  condition.Op("less", "more", {{"x", "i"}, {"y", "three"}}, kBool);
  condition.Output("more");
  BlockBuilder body = main_.Nested(loop);
  body.BlockInput("i", kInt);
  body.Const("one", Int32Value(1));
  body.Op("add", "next", {{"x", "i"}, {"y", "one"}}, kInt);
  body.Op("read_state", "old", {{"input", "sum"}}, half_);
  body.Op("add", "new", {{"x", "old"}, {"y", "x"}}, half_);
  body.Op("write_state", Inputs{{"input", "sum"}, {"data", "new"}}, Outputs{});
  body.Output("next");
  main_.Op("read_state", "after", {{"input", "sum"}}, half_);
  main_.Output("after");  // nothing depends on the loop but by way of the state
  EXPECT_EQ(First({{"x", Halves(1, 2)}}), (std::vector<float>{3, 6}));
}

TEST_F(States, KeepTheirType) {
  main_.Const("wrong", FloatsValue({2}, {1, 2}));
  main_.Op("write_state", Inputs{{"input", "sum"}, {"data", "wrong"}}, Outputs{});
  main_.Output("x");
  EXPECT_TRUE(Error({{"x", Halves(1, 2)}},
                    {"write_state", "data: state 'sum' holds fp16 [2], got fp32 [2]"}));
}

TEST_F(States, AreNoTensors) {
  main_.Op("read_state", "y", {{"input", "x"}}, half_);
  main_.Output("y");
  EXPECT_TRUE(Error({{"x", Halves(1, 2)}}, {"input: expected a state, got fp16 [2]"}));
}

TEST_F(States, NorCanTensorOpsReadThem) {
  main_.Op("add", "y", {{"x", "x"}, {"y", "sum"}}, half_);
  main_.Output("y");
  EXPECT_TRUE(Error({{"x", Halves(1, 2)}}, {"add 'y': y: "}));
}

TEST_F(States, OfUnknownSizeAreRefused) {
  package_.FunctionInput("main", "other",
                         StateType(TensorType(DataType::kFloat16, {kUnknownSize})));
  main_.Output("x");
  EXPECT_TRUE(Error({{"x", Halves(1, 2)}}, {"state 'other' has no known size"}));
}

// --- Malformed programs -------------------------------------------------------------------------

class Malformed : public Programs {
 protected:
  Malformed() { Input("x", Floats({2})); }
  void Says(std::initializer_list<std::string_view> fragments) {
    main_.Output("y");
    EXPECT_TRUE(Fails(Prepared(), ErrorKind::kBadInput, fragments));
  }
};

TEST_F(Malformed, ANameDefinedTwice) {
  main_.Op("identity", "y", {{"x", "x"}}, Floats({2}));
  main_.Op("identity", "y", {{"x", "x"}}, Floats({2}));
  Says({"p.mlpackage: function 'main': identity 'y': 'y' has this name already"});
}
TEST_F(Malformed, ANameThatAnInputHas) {
  main_.Op("identity", "x", {{"x", "x"}}, Floats({2}));
  main_.Op("identity", "y", {{"x", "x"}}, Floats({2}));
  Says({"identity 'x': 'x' has this name already"});
}
TEST_F(Malformed, TwoInputsOfOneName) {
  Input("x", Floats({2}));
  main_.Op("identity", "y", {{"x", "x"}}, Floats({2}));
  Says({"p.mlpackage: function 'main': 'x' has this name already"});
}
TEST_F(Malformed, ANameReadBeforeItIsMade) {
  main_.Op("identity", "y", {{"x", "later"}}, Floats({2}));
  main_.Op("identity", "later", {{"x", "x"}}, Floats({2}));
  Says({"identity 'y': x reads 'later', which nothing before it makes"});
}
TEST_F(Malformed, ANameThatReadsItself) {
  main_.Op("identity", "y", {{"x", "y"}}, Floats({2}));
  Says({"identity 'y': x reads 'y', which nothing before it makes"});
}
TEST_F(Malformed, AWeightOutOfItself) {
  wire::Operation& loop =
      main_.Op("constexpr_cast", Inputs{}, Outputs{{"w", TensorType(DataType::kFloat32, {2})}});
  wire::Argument argument;
  argument.add_arguments()->set_name("w");
  (*loop.mutable_inputs())["source_val"] = argument;
  main_.Op("add", "y", {{"x", "x"}, {"y", "w"}}, Floats({2}));
  Says({"'w'"});
}
TEST_F(Malformed, ANameFromInsideABlock) {
  Input("flag", kBool);
  wire::Operation& branch = main_.Op("cond", "picked", {{"pred", "flag"}}, Floats({2}));
  for (int i = 0; i < 2; ++i) {
    BlockBuilder block = main_.Nested(branch);
    block.Op("identity", "inner", {{"x", "x"}}, Floats({2}));
    block.Output("inner");
  }
  main_.Op("identity", "y", {{"x", "inner"}}, Floats({2}));
  Says({"identity 'y': x reads 'inner', which nothing before it makes"});
}
TEST_F(Malformed, AnOutputThatNothingMakes) {
  main_.Output("nowhere");
  Says({"output 'nowhere' of a block is made by nothing"});
}
TEST_F(Malformed, AMissingBlock) {
  Input("flag", kBool);
  wire::Operation& branch = main_.Op("cond", "y", {{"pred", "flag"}}, Floats({2}));
  main_.Nested(branch).Output("x");
  Says({"cond 'y': has 1 blocks, expected 2"});
}
TEST_F(Malformed, ABlockTooMany) {
  wire::Operation& op = main_.Op("identity", "y", {{"x", "x"}}, Floats({2}));
  main_.Nested(op).Output("x");
  Says({"identity 'y': has 1 blocks, expected 0"});
}
TEST_F(Malformed, ABlockThatGivesTooLittle) {
  Input("flag", kBool);
  wire::Operation& branch = main_.Op("cond", "y", {{"pred", "flag"}}, Floats({2}));
  main_.Nested(branch).Output("x");
  main_.Nested(branch);
  Says({"cond 'y': its second block has 0 outputs, expected 1"});
}
TEST_F(Malformed, ABranchWithInputs) {
  Input("flag", kBool);
  wire::Operation& branch = main_.Op("cond", "y", {{"pred", "flag"}}, Floats({2}));
  BlockBuilder yes = main_.Nested(branch);
  yes.BlockInput("v", Floats({2}));
  yes.Output("x");
  main_.Nested(branch).Output("x");
  Says({"cond 'y': its first block has 1 inputs, expected 0"});
}
TEST_F(Malformed, ABodyWithoutAnInput) {
  wire::Operation& loop = main_.Op("while_loop", "y", {{"loop_vars", "x"}}, Floats({2}));
  BlockBuilder condition = main_.Nested(loop);
  condition.BlockInput("v", Floats({2}));
  condition.Output("v");
  main_.Nested(loop).Output("x");
  Says({"while_loop 'y': its body has 0 inputs, expected 1"});
}
TEST_F(Malformed, AConditionOfTwoValues) {
  wire::Operation& loop = main_.Op("while_loop", "y", {{"loop_vars", "x"}}, Floats({2}));
  for (int i = 0; i < 2; ++i) {
    BlockBuilder block = main_.Nested(loop);
    block.BlockInput("v", Floats({2}));
    block.Output("v");
    if (i == 0) block.Output("v");
  }
  Says({"while_loop 'y': its condition has 2 outputs, expected 1"});
}
TEST_F(Malformed, MoreVariablesThanOutputs) {
  wire::Operation& loop =
      main_.Op("while_loop", "y", {{"loop_vars", Several({"x", "x"})}}, Floats({2}));
  for (int i = 0; i < 2; ++i) main_.Nested(loop).Output("x");
  Says({"while_loop 'y': has 2 loop variables, but 1 outputs"});
}
TEST_F(Malformed, AMissingBlob) {
  main_.Const("w", BlobValueAt(DataType::kFloat32, {2}, "@model_path/weights/gone.bin", 64));
  main_.Op("add", "y", {{"x", "x"}, {"y", "w"}}, Floats({2}));
  Says({"const 'w': lies in a weights file that is not there"});
}
TEST_F(Malformed, UnknownOpsAreNamedTogether) {
  main_.Op("frobnicate", "a", {{"x", "x"}}, Floats({2}));
  main_.Op("frobnicate", "b", {{"x", "a"}}, Floats({2}));
  main_.Op("custom_layer", "y", {{"x", "b"}}, Floats({2}));
  Says(
      {"function 'main' has ops that cannot be run: custom_layer (1 of them: what it does is in "
       "an app's own code), frobnicate (2 of them: no such op is known)"});
}
TEST_F(Malformed, AnUnknownParameter) {
  main_.Op("identity", "y", {{"x", "x"}, {"alpha", "x"}}, Floats({2}));
  Says({"identity 'y': 'alpha' is no parameter of this op"});
}
TEST_F(Malformed, AMissingParameter) {
  main_.Op("identity", "y", Inputs{}, Floats({2}));
  Says({"identity 'y': parameter 'x' is missing"});
}
TEST_F(Malformed, AFunctionThatIsNotThere) {
  main_.Op("identity", "y", {{"x", "x"}}, Floats({2}));
  main_.Output("y");
  TempDir folder(FolderInMemory());
  const auto opened = Package::Open(package_.Write(folder / "q.mlpackage"));
  ASSERT_TRUE(Succeeds(opened));
  EXPECT_TRUE(Fails(exec::Executable::Prepare(*(*opened)->model().program, "other",
                                              (*opened)->tensors(), "q.mlpackage"),
                    ErrorKind::kUsage, {"there is no function 'other', expected one of main"}));
}

// What shows only in a run.
TEST_F(Malformed, AShapeThatIsNotTheDeclaredOne) {
  main_.Op("identity", "y", {{"x", "x"}}, Floats({3}));
  main_.Output("y");
  EXPECT_TRUE(Error({{"x", FloatTensor({2}, {1, 2})}},
                    {"identity 'y': output 'y' is fp32 [2], expected fp32 [3]"}));
}
TEST_F(Malformed, ATypeThatIsNotTheDeclaredOne) {
  main_.Op("identity", "y", {{"x", "x"}}, TensorType(DataType::kFloat16, {2}));
  main_.Output("y");
  EXPECT_TRUE(
      Error({{"x", FloatTensor({2}, {1, 2})}}, {"output 'y' is fp32 [2], expected fp16 [2]"}));
}
TEST_F(Malformed, AnOutputTooMany) {
  main_.Op("identity", Inputs{{"x", "x"}}, Outputs{{"y", Floats({2})}, {"z", Floats({2})}});
  main_.Output("y");
  EXPECT_TRUE(
      Error({{"x", FloatTensor({2}, {1, 2})}}, {"output 'z' is not one that this op makes"}));
}
TEST_F(Malformed, ArgumentsAreChecked) {
  main_.Op("identity", "y", {{"x", "x"}}, Floats({2}));
  main_.Output("y");
  EXPECT_TRUE(Error({}, {"input 'x' is missing"}));
  EXPECT_TRUE(Error({{"x", FloatTensor({3}, {1, 2, 3})}}, {"input 'x' is fp32 [3], expected"}));
  EXPECT_TRUE(Error({{"x", FloatTensor({2}, {1, 2})}, {"z", FloatTensor({}, {1})}},
                    {"there is no input 'z'"}));
}
TEST_F(Malformed, CodesBetweenWeightOpsAreNoValues) {
  main_.Const("codes", BytesValue(DataType::kUInt4, {2}, PackedInts({1, 2}, 4)));
  main_.Output("codes");
  EXPECT_TRUE(Error({{"x", FloatTensor({2}, {1, 2})}},
                    {"p.mlpackage: function 'main': output 0 of a block: a value of type uint4"}));
}

// --- Memory -------------------------------------------------------------------------------------

TEST(Memory, CountsAndRemembersTheMost) {
  exec::Memory memory;
  auto a = *memory.Make(1000);
  EXPECT_EQ(a->bytes().size(), 1000u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a->data()) % 64, 0u);
  EXPECT_EQ(memory.live_bytes(), 1024u);
  auto b = *memory.Make(1);
  EXPECT_EQ(memory.live_bytes(), 1088u);
  a.reset();
  EXPECT_EQ(memory.live_bytes(), 64u);
  EXPECT_EQ(memory.peak_bytes(), 1088u);
}

TEST(Memory, UsesBlocksAgain) {
  exec::Memory memory;
  auto a = *memory.Make(10000);
  const std::byte* at = a->data();
  a.reset();
  auto b = *memory.Make(9000);  // a little smaller is good enough
  EXPECT_EQ(b->data(), at);
  EXPECT_EQ(b->bytes().size(), 9000u);
  b.reset();
  auto c = *memory.Make(100);  // far smaller is not
  EXPECT_NE(c->data(), at);
}

TEST(Memory, RefusesBeyondTheLimitAndGoesOnAfterwards) {
  exec::Memory memory(4096);
  auto a = *memory.Make(3000);
  EXPECT_TRUE(Fails(memory.Make(2000), ErrorKind::kUsage,
                    {"needs 2000 bytes for a value beside 3008 bytes of others",
                     "the 4096 bytes that --max-memory allows"}));
  auto b = *memory.Make(1000);
  EXPECT_TRUE(Fails(memory.Make(65), ErrorKind::kUsage));
  a.reset();
  EXPECT_TRUE(Succeeds(memory.Make(2000)));
}

TEST(Memory, AsksForNothingThatASystemCouldNotGive) {
  exec::Memory memory;
  EXPECT_TRUE(Fails(exec::MakeTensor(DataType::kFloat32, {int64_t{1} << 61}, memory),
                    ErrorKind::kBadInput, {"larger than any memory"}));
  EXPECT_TRUE(Fails(exec::MakeTensor(DataType::kFloat32, {-1, 2}, memory), ErrorKind::kBadInput,
                    {"cannot make a value of type fp32 and shape [-1, 2]"}));
  EXPECT_TRUE(Succeeds(exec::MakeTensor(DataType::kFloat32, {0, 5}, memory)));
}

TEST(Memory, BlocksOutliveIt) {
  std::shared_ptr<exec::Storage> block;
  {
    exec::Memory memory;
    block = *memory.Make(100);
  }
  std::memset(block->data(), 1, 100);
}

class Liveness : public Programs {
 protected:
  static constexpr int64_t kSize = 100000;
  static constexpr uint64_t kBytes = kSize * 4;

  // A chain of ops that read their argument twice, so that none can write over it.
  void Chain(int length) {
    Input("x", Floats({kSize}));
    std::string before = "x";
    for (int i = 0; i < length; ++i) {
      const std::string name = "v" + std::to_string(i);
      main_.Op("maximum", name, {{"x", before}, {"y", before}}, Floats({kSize}));
      before = name;
    }
    main_.Output(before);
  }
  const exec::Value x_ = FloatTensor({kSize}, std::vector<float>(kSize, 1.0F));
};

TEST_F(Liveness, AChainOfOpsTakesTwoValues) {
  Chain(50);
  for (int run = 0; run < 3; ++run) {
    const auto outputs = Run({{"x", x_}});
    ASSERT_TRUE(Succeeds(outputs));
    std::printf("peak of 50 ops: %.2f values\n",
                static_cast<double>(Runner().memory().peak_bytes()) / kBytes);
    EXPECT_LE(Runner().memory().peak_bytes(), 2 * kBytes + 4096);
    EXPECT_GE(Runner().memory().peak_bytes(), 2 * kBytes);
  }
  EXPECT_EQ(Runner().memory().live_bytes(), 0u);  // the outputs are gone, too
}

TEST_F(Liveness, ALimitIsKept) {
  options_.max_memory_bytes = 2 * kBytes + 4096;
  Chain(5);
  EXPECT_TRUE(Succeeds(Run({{"x", x_}})));
}

TEST_F(Liveness, TooSmallALimitNamesTheOpAndBothNumbers) {
  options_.max_memory_bytes = 2 * kBytes - 4096;
  Chain(5);
  EXPECT_TRUE(Fails(
      Run({{"x", x_}}), ErrorKind::kUsage,
      {"p.mlpackage: function 'main': maximum 'v1': needs 400000 bytes", "--max-memory allows"}));
  EXPECT_EQ(Runner().memory().live_bytes(), 0u);  // a run that failed leaves nothing behind
}

TEST_F(Liveness, AValueThatIsReadLateLivesUntilThen) {
  Chain(6);
  main_.Op("maximum", "late", {{"x", "v0"}, {"y", "v5"}}, Floats({kSize}));
  main_.Output("late");
  ASSERT_TRUE(Succeeds(Run({{"x", x_}})));
  EXPECT_LE(Runner().memory().peak_bytes(), 3 * kBytes + 4096);
  EXPECT_GE(Runner().memory().peak_bytes(), 3 * kBytes);
}

TEST_F(Liveness, WhatNothingReadsIsNotComputed) {
  Input("x", Floats({2}));
  // Would fail if it ran: nothing but the values that it reads is computed for it, either.
  main_.Op("maximum", "big", {{"x", "x"}, {"y", "x"}}, Floats({2}));
  main_.Op("identity", "unused", {{"x", "big"}}, Floats({3}));
  main_.Op("identity", "y", {{"x", "x"}}, Floats({2}));
  main_.Output("y");
  ASSERT_TRUE(Succeeds(Prepared()));
  EXPECT_EQ((*Prepared())->step_count(), 1u);
  EXPECT_EQ(First({{"x", FloatTensor({2}, {1, 2})}}), (std::vector<float>{1, 2}));
}

class WantsAll final : public exec::Observer {
 public:
  bool Wants(const Operation&) const override { return true; }
};

TEST_F(Programs, WhatElseIsComputedDoesNotChangeRandomNumbers) {
  Input("x", Floats({2}));
  main_.Op("identity", "unused", {{"x", "x"}}, Floats({2}));
  main_.Op("random_uniform", "y", {{"shape", Int32sValue({4})}}, Floats({4}));
  main_.Output("y");
  const Arguments arguments = {{"x", FloatTensor({2}, {1, 2})}};
  const std::vector<float> numbers = First(arguments);
  EXPECT_NE(First(arguments), numbers);  // of the next sample
  WantsAll observer;
  TempDir folder(FolderInMemory());
  const auto opened = Package::Open(package_.Write(folder / "q.mlpackage"));
  ASSERT_TRUE(Succeeds(opened));
  const auto executable = exec::Executable::Prepare(*(*opened)->model().program, "main",
                                                    (*opened)->tensors(), "q.mlpackage", &observer);
  ASSERT_TRUE(Succeeds(executable));
  EXPECT_EQ((*executable)->step_count(), 2u);
  exec::Runner runner(**executable, pool_);
  const auto outputs = runner.Run(arguments);
  ASSERT_TRUE(Succeeds(outputs));
  EXPECT_EQ(NumbersOf(outputs->front()), numbers);
}

}  // namespace
}  // namespace cmlc::test
