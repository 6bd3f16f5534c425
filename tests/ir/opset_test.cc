// Each program here is a few operations long and is printed, one line an operation, before it is
// compared: what a rewrite makes can be read as it stands.
#include "ir/opset.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "numeric/half.h"

namespace cmlc {
namespace {

using testing::Test;
using Lines = std::vector<std::string>;

constexpr int64_t kAny = -1;  // a size that is not known

ValueType Type(DataType dtype, const Shape& shape) {
  ValueType type = MakeTensorType(dtype, shape);
  for (size_t i = 0; i < shape.size(); ++i)
    if (shape[i] == kAny) type.tensor.dimensions[i] = {.kind = Dimension::Kind::kUnknown};
  return type;
}

ValueType AnyRank(DataType dtype) {
  ValueType type = MakeTensorType(dtype, {});
  type.tensor.rank = -1;
  return type;
}

template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

Value Fp32(float number) {
  return MakeImmediate(DataType::kFloat32, {}, BytesOf(std::vector<float>{number}));
}

Value Fp16(float number) {
  return MakeImmediate(DataType::kFloat16, {},
                       BytesOf(std::vector<uint16_t>{numeric::FloatToHalf(number)}));
}

Value UInt32s(const std::vector<uint32_t>& numbers) {
  return MakeImmediate(DataType::kUInt32, {static_cast<int64_t>(numbers.size())}, BytesOf(numbers));
}

Value Packed(std::string bytes) {
  const auto size = static_cast<int64_t>(bytes.size());
  return MakeImmediate(DataType::kUInt8, {size}, std::move(bytes));
}

Operation Const(const std::string& name, Value value) {
  Operation op;
  op.type = "const";
  op.outputs.push_back({.name = name, .type = value.type});
  op.attributes["name"] = MakeString(name);
  op.attributes["val"] = std::move(value);
  return op;
}

using Names = std::vector<std::pair<std::string, std::string>>;

Operation Op(const std::string& type, const std::string& name, const Names& inputs,
             ValueType output) {
  Operation op;
  op.type = type;
  for (const auto& [parameter, value] : inputs) op.inputs[parameter].bindings.push_back({value});
  op.outputs.push_back({.name = name, .type = std::move(output)});
  op.attributes["name"] = MakeString(name);
  return op;
}

std::string Print(const Value& value) {
  std::string text = ToString(value.type);
  if (std::holds_alternative<TensorId>(value.content)) return text + " blob";
  if (const auto string = ImmediateString(value)) return fmt::format("'{}'", *string);
  if (const auto ints = ImmediateInts(value)) return fmt::format("{} {}", text, *ints);
  return text;
}

std::string Print(const Operation& op) {
  std::vector<std::string> parts;
  for (const auto& [parameter, argument] : op.inputs)
    for (const Binding& binding : argument.bindings)
      parts.push_back(fmt::format("{}={}", parameter,
                                  std::holds_alternative<std::string>(binding.target)
                                      ? std::get<std::string>(binding.target)
                                      : Print(std::get<Value>(binding.target))));
  for (const auto& [name, value] : op.attributes)
    if (name != "name") parts.push_back(fmt::format("@{}={}", name, Print(value)));
  std::string outputs;
  for (const NamedValueType& output : op.outputs)
    outputs += fmt::format("{}{}: {}", outputs.empty() ? "" : ", ", output.name,
                           output.type ? ToString(*output.type) : "none");
  return fmt::format("{} = {}({})", outputs, op.type, fmt::join(parts, ", "));
}

Lines Print(const Block& block) {
  Lines lines;
  for (const Operation& op : block.operations) lines.push_back(Print(op));
  return lines;
}

// One function 'main' with a float input x, integer inputs i (int32) and j (int16).
class Opset : public Test {
 protected:
  Opset() : file_(tensors_.AddFile("@model_path/weights/weight.bin", "weights/weight.bin")) {
    Main().inputs = {{.name = "x", .type = Type(DataType::kFloat32, {4, 5, 6})},
                     {.name = "i", .type = Type(DataType::kInt32, {2})},
                     {.name = "j", .type = Type(DataType::kInt16, {2})}};
  }

  Function& Main() { return program_.functions["main"]; }

  void SetInput(const std::string& name, const ValueType& type) {
    for (NamedValueType& input : Main().inputs)
      if (input.name == name) input.type = type;
  }

  // Sets the body of main, raises the program and gives main's block back as text.
  Lines Raise(std::vector<Operation> operations, int32_t from, int32_t to) {
    const std::string opset(FindOpset(from)->opset);
    Main().opset = opset;
    Main().specializations.clear();
    Block& block = Main().specializations[opset];
    block.operations = std::move(operations);
    if (!block.operations.empty() && !block.operations.back().outputs.empty())
      block.outputs = {block.operations.back().outputs[0].name};
    notes_.clear();
    const Status status = RaiseProgram(program_, tensors_, from, to, notes_);
    error_ = status.ok() ? Error{ErrorKind::kInternal, ""} : status.error();
    if (!status.ok()) return {"error: " + error_.message};
    EXPECT_EQ(Main().opset, FindOpset(to)->opset);
    ExpectWellFormed(*ActiveBlock(Main()));
    return Print(*ActiveBlock(Main()));
  }

  // What coremltools asks of each operation, and that names are unique.
  void ExpectWellFormed(const Block& block) {
    std::set<std::string> names;
    for (const Operation& op : block.operations) {
      EXPECT_TRUE(op.attributes.contains("name")) << Print(op);
      for (const NamedValueType& output : op.outputs) {
        EXPECT_TRUE(names.insert(output.name).second) << output.name;
        EXPECT_TRUE(output.type.has_value()) << output.name;
        EXPECT_EQ(output.name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                "abcdefghijklmnopqrstuvwxyz_0123456789"),
                  std::string::npos);
      }
    }
  }

  Value Blob(DataType dtype, const Shape& shape, std::string bytes) {
    return MakeBlobValue(dtype, shape,
                         tensors_.AddInline(dtype, *ElementCount(shape), std::move(bytes), file_));
  }

  std::string Contents(const Value& value) {
    const auto id = std::get<TensorId>(value.content);
    const auto view = tensors_.View(id, 0, tensors_.info(id).size_bytes);
    return {reinterpret_cast<const char*>(view->bytes().data()), view->bytes().size()};
  }

  // The value of an operand of the last operation.
  const Value& Literal(const std::string& parameter) {
    const Operation& op = ActiveBlock(Main())->operations.back();
    return std::get<Value>(op.inputs.at(parameter).bindings.at(0).target);
  }

  void ExpectRefused(const Lines& lines, std::string_view part) {
    EXPECT_EQ(error_.kind, ErrorKind::kUsage);
    EXPECT_NE(lines[0].find(part), std::string::npos) << lines[0];
    EXPECT_NE(lines[0].find("re-convert the model for"), std::string::npos) << lines[0];
  }

  void ExpectBad(const Lines& lines, std::string_view part) {
    EXPECT_EQ(error_.kind, ErrorKind::kBadInput);
    EXPECT_NE(lines[0].find(part), std::string::npos) << lines[0];
  }

  // gather(x, <indices>) along axis 1 of x.
  std::vector<Operation> Gather(Value indices) {
    return {Const("idx", std::move(indices)), Const("axis", MakeInt32(1)),
            Op("gather", "out", {{"x", "x"}, {"indices", "idx"}, {"axis", "axis"}},
               Type(DataType::kFloat32, {4, 2, 6}))};
  }
  // gather along axis 0 of x with the named indices, after `before`.
  std::vector<Operation> GatherOf(const std::string& indices, std::vector<Operation> before = {}) {
    before.push_back(Op("gather", "out", {{"x", "x"}, {"indices", indices}},
                        Type(DataType::kFloat32, {2, 5, 6})));
    return before;
  }
  // Whether raising put a guard in front of that gather.
  bool GuardsGatherOf(const std::string& indices, std::vector<Operation> before = {}) {
    const size_t count = before.size() + 1;
    const Lines lines = Raise(GatherOf(indices, std::move(before)), 7, 8);
    EXPECT_EQ(error_.message, "");
    EXPECT_EQ(notes_.size(), lines.size() > count ? 1u : 0u);
    return lines.size() > count;
  }

  TensorStore tensors_;
  WeightsFile file_;
  Program program_;
  std::vector<RaiseNote> notes_;
  Error error_;
};

Operation Clip(const std::string& name) {
  return Op("clip", name, {{"x", "x"}, {"alpha", "lo"}, {"beta", "hi"}},
            Type(DataType::kFloat32, {4, 5, 6}));
}

Operation Lut(Value indices, Value lut, const std::vector<uint32_t>& shape) {
  Operation op = Op("constexpr_lut_to_dense", "w", {},
                    Type(lut.type.tensor.dtype, Shape(shape.begin(), shape.end())));
  op.attributes["indices"] = std::move(indices);
  op.attributes["lut"] = std::move(lut);
  op.attributes["shape"] = UInt32s(shape);
  return op;
}

Operation Sparse(Value data, Value mask, const std::vector<uint32_t>& shape) {
  Operation op = Op("constexpr_sparse_to_dense", "w", {},
                    Type(data.type.tensor.dtype, Shape(shape.begin(), shape.end())));
  op.attributes["nonzero_data"] = std::move(data);
  op.attributes["mask"] = std::move(mask);
  op.attributes["shape"] = UInt32s(shape);
  return op;
}

Value HalfTable(size_t entries) {
  std::vector<uint16_t> halves;
  for (size_t i = 0; i < entries; ++i)
    halves.push_back(numeric::FloatToHalf(static_cast<float>(i)));
  return MakeImmediate(DataType::kFloat16, {static_cast<int64_t>(entries)}, BytesOf(halves));
}

// --- The list of opsets -------------------------------------------------------------------------

TEST_F(Opset, AreFoundByVersionAndByTarget) {
  ASSERT_EQ(Opsets().size(), 5u);
  EXPECT_EQ(FindOpset(6)->opset, "CoreML5");
  EXPECT_EQ(FindOpset(9)->target, "iOS18");
  EXPECT_EQ(FindOpset(10)->opset, "CoreML9");
  EXPECT_EQ(FindOpset(5), nullptr);
  EXPECT_EQ(FindOpset(11), nullptr);
  EXPECT_EQ(FindOpsetByTarget("iOS16")->spec_version, 7);
  EXPECT_EQ(FindOpsetByTarget("iOS26")->opset, "CoreML9");
  EXPECT_EQ(FindOpsetByTarget("iOS19"), nullptr);
}

// --- Functions ----------------------------------------------------------------------------------

TEST_F(Opset, GivesEveryFunctionItsNewOpsetAndKey) {
  Function& other = program_.functions["other"];
  other.opset = "CoreML5";
  other.specializations["CoreML5"].operations = {Const("c", MakeInt32(1))};
  EXPECT_EQ(Raise({Const("c", MakeInt32(1))}, 6, 10), Lines{"c: int32 = const(@val=int32 [1])"});
  for (const auto& [name, function] : program_.functions) {
    EXPECT_EQ(function.opset, "CoreML9");
    ASSERT_EQ(function.specializations.size(), 1u);
    EXPECT_EQ(function.specializations.begin()->first, "CoreML9");
  }
  EXPECT_EQ(Main().specializations.at("CoreML9").outputs, Lines{"c"});
  EXPECT_TRUE(notes_.empty());
}

TEST_F(Opset, IsLeftAloneIfThereIsNothingToRaise) {
  Main().opset = "whatever";
  EXPECT_TRUE(RaiseProgram(program_, tensors_, 9, 9, notes_).ok());
  EXPECT_TRUE(RaiseProgram(program_, tensors_, 9, 7, notes_).ok());
  EXPECT_EQ(Main().opset, "whatever");
}

TEST_F(Opset, RefusesVersionsThatItDoesNotKnow) {
  for (const auto& [from, to] : {std::pair(5, 8), std::pair(8, 11)}) {
    const Status status = RaiseProgram(program_, tensors_, from, to, notes_);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().kind, ErrorKind::kUsage);
  }
}

TEST_F(Opset, RefusesAFunctionOfAnotherOpset) {
  Main().opset = "CoreML6";
  Main().specializations["CoreML6"] = {};
  const Status status = RaiseProgram(program_, tensors_, 6, 8, notes_);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().kind, ErrorKind::kBadInput);
  EXPECT_EQ(status.error().message,
            "function 'main': its opset is 'CoreML6', expected 'CoreML5' in a model of "
            "specification version 6");
}

TEST_F(Opset, RefusesAFunctionWithoutItsBlock) {
  Main().opset = "CoreML5";
  const Status status = RaiseProgram(program_, tensors_, 6, 8, notes_);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().kind, ErrorKind::kBadInput);
}

TEST_F(Opset, RefusesASecondSpecializationByName) {
  Main().opset = "CoreML5";
  Main().specializations["CoreML5"] = {};
  Main().specializations["CoreML6"] = {};
  const Status status = RaiseProgram(program_, tensors_, 6, 8, notes_);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().kind, ErrorKind::kUsage);
  EXPECT_NE(status.error().message.find("specialization 'CoreML6'"), std::string::npos);
}

// --- Operations by name -------------------------------------------------------------------------

TEST_F(Opset, RefusesAnOperationThatItDoesNotKnow) {
  const std::vector<Operation> ops = {
      Op("frobnicate", "y", {{"x", "x"}}, Type(DataType::kFloat32, {4, 5, 6}))};
  EXPECT_EQ(Raise(ops, 7, 9)[0],
            "error: function 'main': frobnicate 'y': cannot be raised from iOS16 to iOS18: cmlc "
            "does not know this operation and cannot tell whether it stays the same; re-convert "
            "the model for iOS18, or choose --target iOS16");
  EXPECT_EQ(error_.kind, ErrorKind::kUsage);
  // Nothing changes with the last step, so there it does not matter.
  EXPECT_EQ(Raise(ops, 9, 10).size(), 1u);
  EXPECT_EQ(error_.message, "");
}

TEST_F(Opset, LeavesOperationsThatStayTheSame) {
  // No value is changed, not even an epsilon that has become zero in fp16.
  const std::vector<Operation> ops = {
      Const("epsilon", Fp16(0)),
      Op("log", "a", {{"x", "x"}, {"epsilon", "epsilon"}}, Type(DataType::kFloat16, {4, 5, 6})),
      Op("topk", "b", {{"x", "a"}}, Type(DataType::kFloat16, {4, 5, 1})),
      Op("custom_layer", "c", {{"x", "b"}}, Type(DataType::kFloat16, {4, 5, 1})),
      Op("write_state", "d", {{"data", "c"}}, Type(DataType::kFloat16, {4, 5, 1}))};
  Lines before;
  for (const Operation& op : ops) before.push_back(Print(op));
  EXPECT_EQ(Raise(ops, 6, 10), before);
  EXPECT_TRUE(notes_.empty());
}

TEST_F(Opset, LeavesAnAffineDequantizeInItsAttributes) {
  Operation op = Op("constexpr_affine_dequantize", "w", {}, Type(DataType::kFloat16, {2}));
  op.attributes["quantized_data"] = Packed("ab");
  op.attributes["scale"] = Fp16(1);
  op.attributes["zero_point"] = MakeImmediate(DataType::kUInt8, {}, "a");
  op.attributes["axis"] = MakeInt32(0);
  EXPECT_EQ(Raise({op}, 7, 10), Lines{Print(op)});
}

TEST_F(Opset, RefusesNonMaximumSuppression) {
  const std::vector<Operation> ops = {
      Op("non_maximum_suppression", "y", {{"boxes", "x"}}, Type(DataType::kFloat32, {1}))};
  ExpectRefused(Raise(ops, 7, 9), "non_maximum_suppression 'y'");
  EXPECT_NE(error_.message.find("choose --target iOS16"), std::string::npos);
  EXPECT_EQ(Raise(ops, 6, 7).size(), 1u);
  EXPECT_EQ(Raise(ops, 8, 10).size(), 1u);
  EXPECT_EQ(error_.message, "");
}

// --- gather and scatter -------------------------------------------------------------------------

TEST_F(Opset, MakesConstantIndicesPositive) {
  EXPECT_EQ(Raise(Gather(MakeInts({-1, 3})), 6, 8),
            (Lines{"idx: int32 [2] = const(@val=int32 [2] [-1, 3])",
                   "axis: int32 = const(@val=int32 [1])",
                   "out_indices: int32 [2] = const(@val=int32 [2] [4, 3])",
                   "out: fp32 [4, 2, 6] = gather(axis=axis, indices=out_indices, x=x)"}));
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_EQ(notes_[0].op, "out");
}

TEST_F(Opset, ReadsConstantIndicesFromABlob) {
  const auto bytes = BytesOf(std::vector<int32_t>{0, -5});
  EXPECT_EQ(Raise(Gather(Blob(DataType::kInt32, {2}, bytes)), 7, 9)[2],
            "out_indices: int32 [2] = const(@val=int32 [2] [0, 0])");
}

TEST_F(Opset, WidensNarrowConstantIndices) {
  EXPECT_EQ(
      Raise(Gather(MakeImmediate(DataType::kInt16, {2}, BytesOf(std::vector<int16_t>{-2, 1}))), 7,
            8)[2],
      "out_indices: int32 [2] = const(@val=int32 [2] [3, 1])");
}

TEST_F(Opset, LeavesPositiveConstantIndices) {
  EXPECT_EQ(Raise(Gather(MakeInts({0, 4})), 6, 10).size(), 3u);
  EXPECT_TRUE(notes_.empty());
}

TEST_F(Opset, LeavesNegativeIndicesWhereTheyAreDefined) {
  EXPECT_EQ(Raise(Gather(MakeInts({-1, 4})), 6, 7).size(), 3u);
  EXPECT_EQ(Raise(Gather(MakeInts({-1, 4})), 8, 10).size(), 3u);
  EXPECT_TRUE(notes_.empty());
}

TEST_F(Opset, LeavesASharedConstToItsOtherUsers) {
  std::vector<Operation> ops = Gather(MakeInts({-1, 3}));
  ops.push_back(Op("add", "sum", {{"x", "idx"}, {"y", "i"}}, Type(DataType::kInt32, {2})));
  const Lines lines = Raise(ops, 7, 8);
  EXPECT_EQ(lines[0], "idx: int32 [2] = const(@val=int32 [2] [-1, 3])");
  EXPECT_EQ(lines.back(), "sum: int32 [2] = add(x=idx, y=i)");
}

TEST_F(Opset, RefusesAConstantIndexOutOfRange) {
  ExpectBad(Raise(Gather(MakeInts({-6, 3})), 7, 8), "index -6 lies outside an axis of size 5");
}

TEST_F(Opset, TakesIndicesThatAreALiteral) {
  std::vector<Operation> ops = Gather(MakeInts({0, 0}));
  ops.back().inputs["indices"] = {.bindings = {{.target = MakeInts({-1, -2})}}};
  EXPECT_EQ(Raise(ops, 7, 8)[2], "out_indices: int32 [2] = const(@val=int32 [2] [4, 3])");
}

TEST_F(Opset, GuardsIndicesThatComeWhileTheModelRuns) {
  EXPECT_EQ(Raise(GatherOf("i"), 6, 9),
            (Lines{"out_indices_zero: int32 = const(@val=int32 [0])",
                   "out_indices_size: int32 = const(@val=int32 [4])",
                   "out_indices_is_plain: bool [2] = greater_equal(x=i, y=out_indices_zero)",
                   "out_indices_from_end: int32 [2] = add(x=i, y=out_indices_size)",
                   ("out_indices: int32 [2] = select(a=i, b=out_indices_from_end, "
                    "cond=out_indices_is_plain)"),
                   "out: fp32 [2, 5, 6] = gather(indices=out_indices, x=x)"}));
  EXPECT_EQ(notes_.size(), 1u);
}

TEST_F(Opset, CastsNarrowIndicesBeforeGuardingThem) {
  const Lines lines = Raise(GatherOf("j"), 7, 8);
  EXPECT_EQ(lines[0], "out_indices_dtype: string = const(@val='int32')");
  EXPECT_EQ(lines[1], "out_indices_int32: int32 [2] = cast(dtype=out_indices_dtype, x=j)");
  EXPECT_EQ(lines[4],
            "out_indices_is_plain: bool [2] = greater_equal(x=out_indices_int32, "
            "y=out_indices_zero)");
}

TEST_F(Opset, AsksForASizeThatIsNotFixed) {
  SetInput("x", Type(DataType::kFloat16, {4, kAny, 6}));
  const Lines lines =
      Raise({Const("axis", MakeInt32(-2)),
             Op("gather_along_axis", "out", {{"x", "x"}, {"indices", "i"}, {"axis", "axis"}},
                Type(DataType::kFloat16, {4, 2, 6}))},
            7, 8);
  EXPECT_EQ(Lines(lines.begin() + 2, lines.begin() + 7),
            (Lines{"out_indices_shape: int32 [3] = shape(x=x)",
                   "out_indices_begin: int32 [1] = const(@val=int32 [1] [1])",
                   "out_indices_end: int32 [1] = const(@val=int32 [1] [2])",
                   "out_indices_squeeze_mask: bool [1] = const(@val=bool [1] [1])",
                   ("out_indices_size: int32 = slice_by_index(begin=out_indices_begin, "
                    "end=out_indices_end, squeeze_mask=out_indices_squeeze_mask, "
                    "x=out_indices_shape)")}));
  EXPECT_EQ(lines.back(),
            "out: fp16 [4, 2, 6] = gather_along_axis(axis=axis, indices=out_indices, x=x)");
}

TEST_F(Opset, GuardsAConstantIndexOfAnAxisThatIsNotFixed) {
  SetInput("x", Type(DataType::kFloat32, {4, kAny, 6}));
  const Lines lines = Raise(Gather(MakeInts({-1, 0})), 7, 8);
  EXPECT_EQ(lines[lines.size() - 2],
            "out_indices: int32 [2] = select(a=idx, b=out_indices_from_end, "
            "cond=out_indices_is_plain)");
}

TEST_F(Opset, RefusesToIndexWhatHasNoKnownRank) {
  SetInput("x", AnyRank(DataType::kFloat32));
  ExpectRefused(Raise(GatherOf("i"), 7, 8), "gather 'out'");
}

TEST_F(Opset, RefusesASizeThatCannotBeAskedFor) {
  SetInput("x", Type(DataType::kUInt8, {kAny, 5, 6}));
  ExpectRefused(Raise(GatherOf("i"), 7, 8), "cannot be asked for");
}

TEST_F(Opset, RefusesAnAxisThatIsNoConstantOrNotThere) {
  Operation gather = Op("gather", "out", {{"x", "x"}, {"indices", "i"}, {"axis", "axis"}},
                        Type(DataType::kFloat32, {2}));
  ExpectBad(Raise({gather}, 7, 8), "its 'axis' is 'axis', which nothing before it defines");
  ExpectBad(Raise({Const("axis", MakeInt32(3)), gather}, 7, 8),
            "its axis is 3, expected one of 3 axes");
  gather.inputs["axis"] = {.bindings = {{.target = std::string("i")}}};
  ExpectRefused(Raise({gather}, 7, 8), "its 'axis' is not a constant");
}

TEST_F(Opset, IndexesAllAxesOfGatherNd) {
  const Lines constant = Raise(
      {Const("idx",
             MakeImmediate(DataType::kInt32, {2, 2}, BytesOf(std::vector<int32_t>{-1, -1, 2, -5}))),
       Op("gather_nd", "out", {{"x", "x"}, {"indices", "idx"}}, Type(DataType::kFloat32, {2, 6}))},
      6, 8);
  EXPECT_EQ(constant[1], "out_indices: int32 [2, 2] = const(@val=int32 [2, 2] [3, 4, 2, 0])");

  SetInput("i", Type(DataType::kInt32, {4, 7, 2}));
  const Lines running =
      Raise({Const("one", MakeInt32(1)),
             Op("gather_nd", "out", {{"x", "x"}, {"indices", "i"}, {"batch_dims", "one"}},
                Type(DataType::kFloat32, {4, 7}))},
            7, 8);
  EXPECT_EQ(running[2], "out_indices_size: int32 [2] = const(@val=int32 [2] [5, 6])");
  EXPECT_EQ(running[3],
            "out_indices_is_plain: bool [4, 7, 2] = greater_equal(x=i, y=out_indices_zero)");
}

TEST_F(Opset, AsksForSizesOfGatherNdThatAreNotFixed) {
  SetInput("x", Type(DataType::kFloat32, {kAny, 5, 6}));
  const Lines lines =
      Raise({Op("gather_nd", "out", {{"x", "x"}, {"indices", "i"}}, Type(DataType::kFloat32, {6}))},
            7, 8);
  EXPECT_EQ(Lines(lines.begin() + 1, lines.begin() + 5),
            (Lines{"out_indices_shape: int32 [3] = shape(x=x)",
                   "out_indices_begin: int32 [1] = const(@val=int32 [1] [0])",
                   "out_indices_count: int32 [1] = const(@val=int32 [1] [2])",
                   ("out_indices_size: int32 [2] = slice_by_size(begin=out_indices_begin, "
                    "size=out_indices_count, x=out_indices_shape)")}));
}

TEST_F(Opset, RefusesGatherNdOfUnknownOrTooManyAxes) {
  const Operation gather =
      Op("gather_nd", "out", {{"x", "x"}, {"indices", "i"}}, Type(DataType::kFloat32, {6}));
  SetInput("i", Type(DataType::kInt32, {2, kAny}));
  ExpectRefused(Raise({gather}, 7, 8), "the last size of their type int32 [2, ?] is not known");
  SetInput("i", Type(DataType::kInt32, {2, 4}));
  ExpectBad(Raise({gather}, 7, 8), "name 4 axes");
}

TEST_F(Opset, TreatsScatterAsItTreatsGather) {
  const ValueType type = Type(DataType::kFloat32, {4, 5, 6});
  const Names inputs = {{"data", "x"}, {"indices", "idx"}, {"updates", "x"}, {"axis", "axis"}};
  for (const std::string op : {"scatter", "scatter_along_axis"})
    EXPECT_EQ(Raise({Const("axis", MakeInt32(-1)), Const("idx", MakeInts({-1})),
                     Op(op, "out", inputs, type)},
                    7, 8)[2],
              "out_indices: int32 [1] = const(@val=int32 [1] [5])")
        << op;
  EXPECT_EQ(
      Raise({Const("idx", MakeInts({-1, -1})),
             Op("scatter_nd", "out", {{"data", "x"}, {"indices", "idx"}, {"updates", "x"}}, type)},
            7, 8),
      (Lines{"idx: int32 [2] = const(@val=int32 [2] [-1, -1])",
             "out_indices: int32 [2] = const(@val=int32 [2] [3, 4])",
             "out: fp32 [4, 5, 6] = scatter_nd(data=x, indices=out_indices, updates=x)"}));
  EXPECT_EQ(Raise({Op("scatter", "out", {{"data", "x"}, {"indices", "i"}, {"updates", "x"}}, type)},
                  6, 10)[4],
            "out_indices: int32 [2] = select(a=i, b=out_indices_from_end, "
            "cond=out_indices_is_plain)");
}

TEST_F(Opset, GuardsNoIndexThatIsCertainToBePositive) {
  const ValueType ints = Type(DataType::kInt32, {2});
  for (const std::string op : {"shape", "argsort", "reduce_argmax", "reduce_argmin", "non_zero"})
    EXPECT_FALSE(GuardsGatherOf("k", {Op(op, "k", {{"x", "x"}}, ints)})) << op;
  EXPECT_FALSE(GuardsGatherOf(
      "k", {Op("shape", "s", {{"x", "x"}}, ints), Op("slice_by_index", "k", {{"x", "s"}}, ints)}));
  EXPECT_TRUE(GuardsGatherOf("k", {Op("slice_by_index", "k", {{"x", "i"}}, ints)}));
  EXPECT_TRUE(GuardsGatherOf(
      "k", {Op("shape", "s", {{"x", "x"}}, ints), Op("sub", "k", {{"x", "s"}, {"y", "i"}}, ints)}));

  Operation topk = Op("topk", "values", {{"x", "x"}}, Type(DataType::kFloat32, {2}));
  topk.outputs.push_back({.name = "k", .type = ints});
  EXPECT_FALSE(GuardsGatherOf("k", {topk}));

  SetInput("j", Type(DataType::kUInt16, {2}));
  EXPECT_FALSE(GuardsGatherOf("j"));
  EXPECT_FALSE(GuardsGatherOf("k", {Op("cast", "k", {{"x", "j"}}, ints)}));
  EXPECT_TRUE(GuardsGatherOf("k", {Op("cast", "k", {{"x", "x"}}, ints)}));

  Operation concat = Op("concat", "k", {}, ints);
  concat.inputs["values"].bindings = {{.target = std::string("s")}, {.target = std::string("c")}};
  EXPECT_FALSE(GuardsGatherOf(
      "k", {Op("shape", "s", {{"x", "x"}}, ints), Const("c", MakeInts({0})), concat}));
  EXPECT_TRUE(GuardsGatherOf(
      "k", {Op("shape", "s", {{"x", "x"}}, ints), Const("c", MakeInts({-1})), concat}));

  const Names range = {{"start", "a"}, {"end", "e"}, {"step", "b"}};
  EXPECT_FALSE(GuardsGatherOf("k", {Const("a", MakeInt32(0)), Const("e", MakeInt32(2)),
                                    Const("b", MakeInt32(1)), Op("range_1d", "k", range, ints)}));
  EXPECT_TRUE(GuardsGatherOf("k", {Const("a", MakeInt32(1)), Const("e", MakeInt32(-1)),
                                   Const("b", MakeInt32(-1)), Op("range_1d", "k", range, ints)}));
}

TEST_F(Opset, RecognizesAGuardThatIsAlreadyThere) {
  const ValueType ints = Type(DataType::kInt32, {2});
  const auto guard = [&](int32_t zero, int32_t size, const std::string& sum) {
    return std::vector<Operation>{
        Const("zero", MakeInt32(zero)), Const("size", MakeInt32(size)),
        Op("greater_equal", "ge", {{"x", "i"}, {"y", "zero"}}, Type(DataType::kBool, {2})),
        Op("add", "sum", {{"x", "size"}, {"y", sum}}, ints),
        Op("select", "k", {{"cond", "ge"}, {"a", "i"}, {"b", "sum"}}, ints)};
  };
  EXPECT_FALSE(GuardsGatherOf("k", guard(0, 4, "i")));
  EXPECT_TRUE(GuardsGatherOf("k", guard(0, 3, "i")));
  EXPECT_TRUE(GuardsGatherOf("k", guard(-1, 4, "i")));
  EXPECT_TRUE(GuardsGatherOf("k", guard(0, 4, "zero")));
}

TEST_F(Opset, GuardsOnceOnly) {
  const std::vector<Operation> ops = GatherOf("i");
  Raise(ops, 7, 8);
  const std::vector<Operation> guarded = ActiveBlock(Main())->operations;
  EXPECT_EQ(Raise(guarded, 7, 8).size(), guarded.size());
}

TEST_F(Opset, PicksNamesThatNobodyHas) {
  Operation gather =
      Op("gather", "out", {{"x", "x"}, {"indices", "idx"}}, Type(DataType::kFloat32, {1, 5, 6}));
  gather.attributes["name"] = MakeString("1/a gather");
  Operation branch = Op("cond", "c", {}, Type(DataType::kInt32, {}));
  branch.blocks.resize(1);
  branch.blocks[0].operations = {Const("_1_a_gather_indices", MakeInt32(0))};
  EXPECT_EQ(Raise({Const("idx", MakeInts({-1})), gather, branch}, 7, 8)[1],
            "_1_a_gather_indices_1: int32 [1] = const(@val=int32 [1] [3])");
}

TEST_F(Opset, ReachesIntoNestedBlocks) {
  // The inner gathers use values of the outer block; what they need is put beside them.
  Operation branch = Op("cond", "c", {{"pred", "p"}}, Type(DataType::kFloat32, {1, 5, 6}));
  branch.blocks.resize(2);
  const ValueType type = Type(DataType::kFloat32, {1, 5, 6});
  branch.blocks[0].operations = {Op("gather", "then", {{"x", "x"}, {"indices", "idx"}}, type)};
  branch.blocks[0].outputs = {"then"};
  branch.blocks[1].operations = {Op("gather", "else", {{"x", "x"}, {"indices", "i"}}, type)};
  branch.blocks[1].outputs = {"else"};
  EXPECT_EQ(Raise({Const("idx", MakeInts({-1})), branch}, 7, 8).size(), 2u);
  const Operation& raised = ActiveBlock(Main())->operations[1];
  EXPECT_EQ(Print(raised.blocks[0]),
            (Lines{"then_indices: int32 [1] = const(@val=int32 [1] [3])",
                   "then: fp32 [1, 5, 6] = gather(indices=then_indices, x=x)"}));
  EXPECT_EQ(raised.blocks[0].outputs, Lines{"then"});
  EXPECT_EQ(Print(raised.blocks[1]).size(), 6u);
  EXPECT_EQ(notes_.size(), 2u);
}

TEST_F(Opset, DoesNotTakeAnInnerNameForAnOuterOne) {
  // Inside, k is the input of the loop's body and may be anything.
  Operation loop = Op("while_loop", "l", {}, Type(DataType::kInt32, {2}));
  loop.blocks.resize(1);
  loop.blocks[0].inputs = {{.name = "k", .type = Type(DataType::kInt32, {2})}};
  loop.blocks[0].operations = GatherOf("k");
  Raise({Const("k", MakeInts({0, 1})), loop}, 7, 8);
  EXPECT_EQ(ActiveBlock(Main())->operations[1].blocks[0].operations.size(), 6u);
}

// --- clip, reshape, crop_resize -----------------------------------------------------------------

TEST_F(Opset, SpellsOutAClipWhoseBoundsMeet) {
  EXPECT_EQ(Raise({Const("lo", Fp32(2)), Const("hi", Fp32(2)), Clip("out")}, 7, 8),
            (Lines{"lo: fp32 = const(@val=fp32)", "hi: fp32 = const(@val=fp32)",
                   "out_maximum: fp32 [4, 5, 6] = maximum(x=x, y=lo)",
                   "out: fp32 [4, 5, 6] = minimum(x=out_maximum, y=hi)"}));
  EXPECT_EQ(ImmediateString(ActiveBlock(Main())->operations.back().attributes.at("name")), "out");
  EXPECT_EQ(notes_.size(), 1u);
  EXPECT_EQ(Raise({Const("lo", Fp32(2)), Const("hi", Fp32(2)), Clip("out")}, 6, 7).size(), 3u);
}

TEST_F(Opset, LeavesAClipWhoseBoundsAreInOrder) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const auto& [low, high] :
       {std::pair(0.0f, 6.0f), std::pair(-kInfinity, 1e4f), std::pair(std::nanf(""), 0.0f)})
    EXPECT_EQ(Raise({Const("lo", Fp32(low)), Const("hi", Fp32(high)), Clip("out")}, 6, 10).size(),
              3u);
  EXPECT_TRUE(notes_.empty());
}

TEST_F(Opset, ReadsBoundsOfAClipInFp16AndFromABlob) {
  EXPECT_EQ(Raise({Const("lo", Fp16(3)), Const("hi", Fp16(2)), Clip("out")}, 7, 8).size(), 4u);
  const Value low = Blob(DataType::kFloat32, {}, BytesOf(std::vector<float>{3}));
  EXPECT_EQ(Raise({Const("lo", low), Const("hi", Fp32(2)), Clip("out")}, 7, 8).size(), 4u);
}

TEST_F(Opset, RefusesAClipWhoseBoundsCannotBeRead) {
  ExpectRefused(Raise({Op("relu", "lo", {{"x", "x"}}, Type(DataType::kFloat32, {})),
                       Const("hi", Fp32(2)), Clip("out")},
                      7, 8),
                "its 'alpha' is not a constant");
  const Value missing = MakeBlobValue(DataType::kFloat32, {}, tensors_.AddMissing(file_, 64));
  ExpectBad(Raise({Const("lo", missing), Const("hi", Fp32(2)), Clip("out")}, 7, 8), "missing");
  Operation clip = Clip("out");
  clip.inputs.erase("beta");
  ExpectBad(Raise({Const("lo", Fp32(1)), clip}, 7, 8), "has no input 'beta'");
}

TEST_F(Opset, AcceptsAZeroInAReshapeOfEqualRankOnly) {
  const auto reshape = [](const std::vector<int32_t>& shape) {
    return std::vector<Operation>{
        Const("shape", MakeInts(shape)),
        Op("reshape", "out", {{"x", "x"}, {"shape", "shape"}}, Type(DataType::kFloat32, {4, 30}))};
  };
  EXPECT_EQ(Raise(reshape({0, 6, 5}), 6, 10).size(), 2u);
  EXPECT_EQ(Raise(reshape({4, 30}), 6, 10).size(), 2u);
  EXPECT_EQ(Raise(reshape({0, 30}), 6, 7).size(), 2u);
  EXPECT_EQ(error_.message, "");
  ExpectRefused(Raise(reshape({0, 30}), 6, 8), "its shape has a 0 and 2 axes");
}

Operation CropResize(const ValueType& output) {
  return Op("crop_resize", "out", {{"x", "x"}, {"roi", "roi"}, {"target_height", "two"}}, output);
}

TEST_F(Opset, TurnsRegionsIntoBoxes) {
  SetInput("x", Type(DataType::kFloat32, {1, 3, 8, 8}));
  Main().inputs.push_back({.name = "roi", .type = Type(DataType::kFloat32, {2, 1, 4, 1, 1})});
  EXPECT_EQ(
      Raise({Const("two", MakeInt32(2)), CropResize(Type(DataType::kFloat32, {2, 1, 3, 2, 1}))}, 6,
            8),
      (Lines{"two: int32 = const(@val=int32 [2])",
             "out_regions_shape: int32 [2] = const(@val=int32 [2] [2, 4])",
             "out_regions: fp32 [2, 4] = reshape(shape=out_regions_shape, x=roi)",
             "out_box_indices: int32 [2] = const(@val=int32 [2] [0, 0])",
             ("out_crops: fp32 [2, 3, 2, 1] = crop_resize(box_indices=out_box_indices, "
              "boxes=out_regions, target_height=two, x=x)"),
             "out_axes: int32 [1] = const(@val=int32 [1] [1])",
             "out: fp32 [2, 1, 3, 2, 1] = expand_dims(axes=out_axes, x=out_crops)"}));
}

TEST_F(Opset, CutsTheImageNumberOffRegions) {
  SetInput("x", Type(DataType::kFloat32, {1, 3, 8, 8}));
  Main().inputs.push_back({.name = "roi", .type = Type(DataType::kFloat32, {2, 1, 5, 1, 1})});
  const Lines lines = Raise(
      {Const("two", MakeInt32(2)), CropResize(Type(DataType::kFloat32, {2, 1, 3, 2, 1}))}, 7, 8);
  EXPECT_EQ(lines[2], "out_regions: fp32 [2, 5] = reshape(shape=out_regions_shape, x=roi)");
  EXPECT_EQ(lines[3], "out_boxes_begin: int32 [2] = const(@val=int32 [2] [0, 1])");
  EXPECT_EQ(lines[4], "out_boxes_end: int32 [2] = const(@val=int32 [2] [2, 5])");
  EXPECT_EQ(lines[5],
            "out_boxes: fp32 [2, 4] = slice_by_index(begin=out_boxes_begin, end=out_boxes_end, "
            "x=out_regions)");
}

TEST_F(Opset, RefusesRegionsOfSeveralImagesOrOfUnknownNumber) {
  const std::vector<Operation> ops = {Const("two", MakeInt32(2)),
                                      CropResize(Type(DataType::kFloat32, {2, 1, 3, 2, 1}))};
  SetInput("x", Type(DataType::kFloat32, {4, 3, 8, 8}));
  Main().inputs.push_back({.name = "roi", .type = Type(DataType::kFloat32, {2, 1, 4, 1, 1})});
  ExpectRefused(Raise(ops, 7, 8), "expected a batch of 1");
  SetInput("x", Type(DataType::kFloat32, {1, 3, 8, 8}));
  SetInput("roi", Type(DataType::kFloat32, {kAny, 1, 4, 1, 1}));
  ExpectRefused(Raise(ops, 7, 8), "crop_resize 'out'");
  SetInput("roi", Type(DataType::kFloat32, {2, 1, 3, 1, 1}));
  ExpectBad(Raise(ops, 7, 8), "expected [N, 1, 4, 1, 1]");
}

// --- constexpr operations -----------------------------------------------------------------------

TEST_F(Opset, GivesIndicesOfALutTheirRealTypeAndShape) {
  for (const int bits : {1, 2, 4, 6, 8}) {
    const size_t size = (15 * static_cast<size_t>(bits) + 7) / 8;
    std::string bytes(size, '\x01');
    const Lines lines = Raise({Lut(Packed(bytes), HalfTable(size_t{1} << bits), {3, 5})}, 7, 9);
    EXPECT_EQ(lines.size(), 1u);
    EXPECT_EQ(ToString(Literal("indices").type), fmt::format("uint{} [3, 5]", bits));
    EXPECT_EQ(ImmediateBytes(Literal("indices")), bytes);
    EXPECT_EQ(ToString(Literal("lut").type), fmt::format("fp16 [1, 1, {}, 1]", 1 << bits));
    const Operation& op = ActiveBlock(Main())->operations[0];
    EXPECT_EQ(op.inputs.size(), 2u);
    EXPECT_EQ(op.attributes.size(), 1u);
    EXPECT_EQ(ToString(*op.outputs[0].type), "fp16 [3, 5]");
  }
}

TEST_F(Opset, LeavesALutInItsOldFormBeforeThatIsNeeded) {
  const Operation lut = Lut(Packed("\x12\x34"), HalfTable(16), {4});
  EXPECT_EQ(Raise({lut}, 7, 8), Lines{Print(lut)});
}

TEST_F(Opset, KeepsTheBytesOfALutInTheirBlob) {
  const Value indices = Blob(DataType::kUInt8, {2}, "\x12\x34");
  const Value table = Blob(DataType::kFloat16, {16}, *ImmediateBytes(HalfTable(16)));
  Operation second = Lut(indices, table, {2, 2});
  second.outputs[0].name = "v";
  Raise({Lut(indices, table, {4}), second}, 7, 9);
  const auto id = std::get<TensorId>(Literal("indices").content);
  EXPECT_EQ(tensors_.info(id).dtype, DataType::kUInt4);
  EXPECT_EQ(tensors_.info(id).element_count, 4u);
  EXPECT_EQ(Contents(Literal("indices")), "\x12\x34");
  EXPECT_EQ(std::get<TensorId>(Literal("lut").content), std::get<TensorId>(table.content));
  // What was shared stays shared.
  const Operation& first = ActiveBlock(Main())->operations[0];
  EXPECT_EQ(
      std::get<TensorId>(std::get<Value>(first.inputs.at("indices").bindings[0].target).content),
      id);
}

TEST_F(Opset, KeepsABlobOfWholeBytesAsItIs) {
  const Value indices = Blob(DataType::kUInt8, {4}, "abcd");
  Raise({Lut(indices, HalfTable(256), {2, 2})}, 7, 10);
  EXPECT_EQ(std::get<TensorId>(Literal("indices").content), std::get<TensorId>(indices.content));
  EXPECT_EQ(ToString(Literal("indices").type), "uint8 [2, 2]");
}

TEST_F(Opset, ClearsBitsThatNoElementUses) {
  Raise({Lut(Packed("\xff\xff"), HalfTable(4), {5})}, 7, 9);
  EXPECT_EQ(ImmediateBytes(Literal("indices")), "\xff\x03");
  Raise({Lut(Blob(DataType::kUInt8, {2}, "\xff\xff"), HalfTable(4), {5})}, 7, 9);
  EXPECT_EQ(Contents(Literal("indices")), "\xff\x03");
}

TEST_F(Opset, RefusesALutThatDoesNotAddUp) {
  const Value table = HalfTable(16);
  ExpectBad(Raise({Lut(Packed("abc"), table, {4})}, 7, 9), "expected uint8 [2]");
  ExpectBad(Raise({Lut(Packed("ab"), HalfTable(8), {4})}, 7, 9), "expected 2, 4, 16, 64 or 256");
  ExpectRefused(Raise({Lut(Packed("a"), table, {})}, 7, 9), "its result is a scalar");
  Operation op = Lut(Packed("ab"), table, {4});
  op.outputs[0].type = Type(DataType::kFloat16, {2, 2});
  ExpectBad(Raise({op}, 7, 9), "its shape is [4], but its output is fp16 [2, 2]");
  op = Lut(Packed("ab"), table, {4});
  op.attributes.erase("lut");
  ExpectBad(Raise({op}, 7, 9), "has no attribute 'lut'");
  op = Lut(Packed("ab"), table, {4});
  op.attributes["shape"] = UInt32s({0xffffffff, 0xffffffff, 0xffffffff});
  ExpectBad(Raise({op}, 7, 9), "is no shape");
  op = Lut(Packed("ab"), table, {4});
  op.attributes["indices"] = MakeString("ab");
  ExpectBad(Raise({op}, 7, 9), "its 'indices' is string");
  Value cut = Packed("ab");
  std::get<Bytes>(std::get<ImmediateTensor>(cut.content).values).values = "a";
  ExpectBad(Raise({Lut(cut, table, {4})}, 7, 9), "holds something else");
  const Value missing = MakeBlobValue(DataType::kUInt8, {2}, tensors_.AddMissing(file_, 64));
  ExpectBad(Raise({Lut(missing, table, {4})}, 7, 9), "missing");
  Value lying = Blob(DataType::kUInt8, {3}, "abc");
  lying.type = MakeTensorType(DataType::kUInt8, {2});
  ExpectBad(Raise({Lut(lying, table, {4})}, 7, 9), "has 3 bytes of uint8");
  lying = Blob(DataType::kFloat16, {2}, "abcd");
  lying.type = MakeTensorType(DataType::kFloat16, {16});
  ExpectBad(Raise({Lut(Packed("ab"), lying, {4})}, 7, 9), "has 2 elements of fp16");
}

TEST_F(Opset, GivesAMaskItsRealTypeAndShape) {
  const Operation sparse = Sparse(HalfTable(5), Packed("\x15\x03"), {2, 5});
  EXPECT_EQ(Raise({sparse}, 7, 8), Lines{Print(sparse)});
  EXPECT_EQ(Raise({sparse}, 7, 9),
            Lines{"w: fp16 [2, 5] = constexpr_sparse_to_dense(mask=uint1 [2, 5], "
                  "nonzero_data=fp16 [5])"});
  EXPECT_EQ(ImmediateBytes(Literal("mask")), "\x15\x03");

  Raise({Sparse(HalfTable(5), Blob(DataType::kUInt8, {2}, "\x15\x03"), {2, 5})}, 7, 9);
  EXPECT_EQ(tensors_.info(std::get<TensorId>(Literal("mask").content)).dtype, DataType::kUInt1);
  EXPECT_EQ(Contents(Literal("mask")), "\x15\x03");
}

TEST_F(Opset, RefusesAMaskThatDoesNotFitItsValues) {
  ExpectBad(Raise({Sparse(HalfTable(4), Packed("\x15\x03"), {2, 5})}, 7, 9), "its mask has 5 ones");
  ExpectBad(Raise({Sparse(HalfTable(4), Blob(DataType::kUInt8, {2}, "\x15\x03"), {2, 5})}, 7, 9),
            "its mask has 5 ones");
  ExpectBad(Raise({Sparse(HalfTable(5), Packed("\x15\x03"), {2, 9})}, 7, 9), "expected uint8 [3]");
  ExpectRefused(Raise({Sparse(HalfTable(1), Packed("\x01"), {})}, 7, 9), "scalar");
}

TEST_F(Opset, MovesTheOperandsOfACast) {
  Operation op = Op("constexpr_cast", "w", {}, Type(DataType::kFloat32, {4}));
  op.attributes["source_val"] = HalfTable(4);
  op.attributes["output_dtype"] = MakeString("fp32");
  EXPECT_EQ(Raise({op}, 7, 8), Lines{Print(op)});
  EXPECT_EQ(Raise({op}, 7, 9),
            Lines{"w: fp32 [4] = constexpr_cast(output_dtype='fp32', source_val=fp16 [4])"});
  op.attributes.erase("source_val");
  ExpectBad(Raise({op}, 7, 9), "has no attribute 'source_val'");
}

TEST_F(Opset, TakesAllStepsAtOnce) {
  std::vector<Operation> ops = {Lut(Packed("\x12\x34"), HalfTable(16), {4})};
  for (Operation& op : GatherOf("i")) ops.push_back(op);
  ops.back().inputs["x"] = {.bindings = {{.target = std::string("w")}}};
  const Lines lines = Raise(ops, 6, 10);
  EXPECT_EQ(lines[0],
            "w: fp16 [4] = constexpr_lut_to_dense(indices=uint4 [4], lut=fp16 [1, 16, 1])");
  EXPECT_EQ(lines[2], "out_indices_size: int32 = const(@val=int32 [4])");
  EXPECT_EQ(notes_.size(), 2u);
}

}  // namespace
}  // namespace cmlc
