// Clean-up of quantize and dequantize ops: item 65 of the checklist drawn from coremltools' tests.
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "activations/quantization.h"
#include "cmlc/package.h"
#include "support/pass_run.h"

namespace cmlc::activations {
namespace {

using namespace cmlc::test;  // NOLINT

constexpr DataType kHalf = DataType::kFloat16;
constexpr DataType kFloat = DataType::kFloat32;
constexpr DataType kInt8 = DataType::kInt8;
constexpr DataType kUInt8 = DataType::kUInt8;
const Shape kShape = {2, 6};

// A program of fp32 values of one shape.
class Graph {
 public:
  explicit Graph(int32_t version = 8, DataType dtype = kFloat)
      : package_(version), dtype_(dtype), version_(version), main_(package_.Function("main")) {
    package_.DescribeInput("x", dtype, kShape);
    package_.FunctionInput("main", "x", test::TensorType(dtype, kShape));
  }
  struct Of {
    std::vector<float> scale = {0.5};
    std::vector<int32_t> zero_point = {};  // as many as scales, or none
    DataType dtype = kInt8;
    int axis = -1;  // of a vector
  };
  Graph& Quantize(const std::string& name, const std::string& x, const Of& of) {
    main_.Const(name + "_t", StringValue(of.dtype == kInt8 ? "int8" : "uint8"));
    Inputs inputs = With(name, of);
    inputs.push_back({"input", x});
    inputs.push_back({"output_dtype", name + "_t"});
    main_.Op("quantize", name, inputs, test::TensorType(of.dtype, kShape));
    return *this;
  }
  Graph& Dequantize(const std::string& name, const std::string& x, const Of& of) {
    Inputs inputs = With(name, of);
    inputs.push_back({"input", x});
    main_.Op("dequantize", name, inputs, test::TensorType(dtype_, kShape));
    return *this;
  }
  Graph& Op(const std::string& type, const std::string& name, const Inputs& inputs) {
    main_.Op(type, name, inputs, test::TensorType(dtype_, kShape));
    return *this;
  }
  Graph& Output(const std::string& name, DataType dtype) {
    package_.DescribeOutput(name, dtype);
    main_.Output(name);
    return *this;
  }
  Graph& Output(const std::string& name) { return Output(name, dtype_); }
  BlockBuilder& main() { return main_; }

  // The ops after clean-up: "type name", constants left out; the model stays open.
  std::vector<std::string> CleanedUp(bool normalize = true) {
    fs::remove_all(dir_ / "m.mlpackage");
    package_.Write(dir_ / "m.mlpackage");
    opened_ = std::make_unique<Opened>(dir_ / "m.mlpackage");
    Function& function = opened_->model().program->functions.at("main");
    notes_.clear();
    const Status status = CleanUp(
        *ActiveBlock(function), function.inputs, version_, normalize, opened_->package().tensors(),
        [this](const std::string& name) {
          std::string unique = name;
          while (!names_.insert(unique).second) unique += "_";
          return unique;
        },
        notes_);
    EXPECT_TRUE(Succeeds(status));
    std::vector<std::string> ops;
    for (const Operation& op : ActiveBlock(function)->operations)
      if (!IsConst(op)) ops.push_back(op.type + " " + op.outputs[0].name);
    return ops;
  }
  const Operation& Find(const std::string& name) const {
    for (const Operation& op :
         ActiveBlock(opened_->model().program->functions.at("main"))->operations)
      if (op.outputs[0].name == name) return op;
    ADD_FAILURE() << "no op " << name;
    static const Operation none;
    return none;
  }
  std::string NameIn(const std::string& op, const std::string& parameter) const {
    return std::get<std::string>(Find(op).inputs.at(parameter).bindings.at(0).target);
  }
  std::vector<float> Scale(const std::string& op) const {
    return opened_->Floats(Find(NameIn(op, "scale")).attributes.at("val"));
  }
  const std::vector<std::string>& notes() const { return notes_; }
  size_t constants() const {
    size_t count = 0;
    for (const Operation& op :
         ActiveBlock(opened_->model().program->functions.at("main"))->operations)
      count += IsConst(op) ? 1 : 0;
    return count;
  }

 private:
  Inputs With(const std::string& name, const Of& of) {
    const Shape shape = of.axis < 0 ? Shape() : Shape{static_cast<int64_t>(of.scale.size())};
    main_.Const(name + "_s", BytesValue(dtype_, shape, FloatBytes(dtype_, of.scale)));
    Inputs inputs = {{"scale", name + "_s"}};
    if (!of.zero_point.empty()) {
      std::string bytes;
      for (const int32_t z : of.zero_point) bytes += static_cast<char>(z);
      main_.Const(name + "_z", BytesValue(of.dtype, shape, bytes));
      inputs.push_back({"zero_point", name + "_z"});
    }
    if (of.axis >= 0) {
      main_.Const(name + "_a", Int32Value(of.axis));
      inputs.push_back({"axis", name + "_a"});
    }
    return inputs;
  }

  TempDir dir_;
  PackageBuilder package_;
  DataType dtype_;
  int32_t version_;
  BlockBuilder main_;
  std::unique_ptr<Opened> opened_;
  std::vector<std::string> notes_;
  std::set<std::string> names_;
};

using Ops = std::vector<std::string>;

TEST(Cancel, ADequantizeWithTheQuantizeBehindIt) {
  Graph graph;
  graph.Quantize("q", "x", {}).Dequantize("d", "q", {}).Quantize("p", "d", {});
  graph.Dequantize("e", "p", {}).Op("exp", "y", {{"x", "e"}}).Output("y");
  EXPECT_EQ(graph.CleanedUp(), (Ops{"quantize q", "dequantize e", "exp y"}));
  EXPECT_EQ(graph.NameIn("e", "input"), "q");
  EXPECT_EQ(graph.constants(), 3u);  // those of what is gone are gone
}

TEST(Cancel, OnlyWhereAllIsEqual) {
  const Graph::Of plain;
  for (const Graph::Of& other :
       {Graph::Of{.scale = {0.25}}, Graph::Of{.zero_point = {1}}, Graph::Of{.dtype = kUInt8},
        Graph::Of{.scale = {0.5, 0.5}, .axis = 0}}) {
    Graph graph;
    graph.Quantize("q", "x", plain).Dequantize("d", "q", plain).Quantize("p", "d", other);
    graph.Dequantize("e", "p", other).Op("exp", "y", {{"x", "e"}}).Output("y");
    EXPECT_EQ(graph.CleanedUp().size(), 5u);
  }
  // A zero point of 0 is none.
  Graph graph;
  graph.Quantize("q", "x", {.zero_point = {0}}).Dequantize("d", "q", {});
  graph.Quantize("p", "d", {}).Dequantize("e", "p", {}).Op("exp", "y", {{"x", "e"}}).Output("y");
  EXPECT_EQ(graph.CleanedUp().size(), 3u);
}

TEST(Cancel, LeavesTheDequantizeForOthers) {
  Graph graph;
  graph.Quantize("q", "x", {}).Dequantize("d", "q", {}).Quantize("p", "d", {});
  graph.Dequantize("e", "p", {}).Op("exp", "y", {{"x", "e"}}).Op("abs", "z", {{"x", "d"}});
  graph.Output("y").Output("z");
  EXPECT_EQ(graph.CleanedUp(),
            (Ops{"quantize q", "dequantize d", "dequantize e", "exp y", "abs z"}));
  Graph output;  // of the block
  output.Quantize("q", "x", {}).Dequantize("d", "q", {}).Quantize("p", "d", {});
  output.Dequantize("e", "p", {}).Op("exp", "y", {{"x", "e"}}).Output("y").Output("d");
  EXPECT_EQ(output.CleanedUp(), (Ops{"quantize q", "dequantize d", "dequantize e", "exp y"}));
  Graph codes;  // the codes of the second are an output by their name
  codes.Quantize("q", "x", {}).Dequantize("d", "q", {}).Quantize("p", "d", {}).Output("p", kInt8);
  EXPECT_EQ(codes.CleanedUp(), (Ops{"quantize q", "dequantize d", "quantize p"}));
}

TEST(ZeroPoints, OfZeroGo) {
  Graph graph;
  graph.Quantize("q", "x", {.zero_point = {0}}).Dequantize("d", "q", {.zero_point = {0}});
  graph.Op("exp", "y", {{"x", "d"}}).Output("y");
  graph.CleanedUp();
  EXPECT_EQ(graph.Find("q").inputs.count("zero_point"), 0u);
  EXPECT_EQ(graph.Find("d").inputs.count("zero_point"), 0u);
}

TEST(ZeroPoints, OfMinus128AreNoneOfTheOtherType) {
  Graph graph;
  graph.Quantize("q", "x", {.zero_point = {-128}}).Dequantize("d", "q", {.zero_point = {-128}});
  graph.Dequantize("e", "q", {.zero_point = {-128}});
  graph.Op("add", "y", {{"x", "d"}, {"y", "e"}}).Output("y");
  graph.CleanedUp();
  EXPECT_EQ(graph.Find("q").inputs.count("zero_point"), 0u);
  EXPECT_EQ(graph.Find("d").inputs.count("zero_point"), 0u);
  EXPECT_EQ(graph.Find("e").inputs.count("zero_point"), 0u);
  EXPECT_EQ(graph.Find("q").outputs[0].type->tensor.dtype, kUInt8);
  EXPECT_EQ(ImmediateString(graph.Find(graph.NameIn("q", "output_dtype")).attributes.at("val")),
            "uint8");
  Graph other;
  other.Quantize("q", "x", {.zero_point = {128}, .dtype = kUInt8});
  other.Dequantize("d", "q", {.zero_point = {128}, .dtype = kUInt8});
  other.Op("exp", "y", {{"x", "d"}}).Output("y");
  other.CleanedUp();
  EXPECT_EQ(other.Find("q").outputs[0].type->tensor.dtype, kInt8);
}

TEST(ZeroPoints, StayWhereReadersDiffer) {
  Graph graph;
  graph.Quantize("q", "x", {.zero_point = {-128}}).Dequantize("d", "q", {.zero_point = {-128}});
  graph.Dequantize("e", "q", {.zero_point = {-127}});
  graph.Op("add", "y", {{"x", "d"}, {"y", "e"}}).Output("y");
  graph.CleanedUp();
  EXPECT_EQ(graph.Find("q").inputs.count("zero_point"), 1u);
  EXPECT_EQ(graph.Find("q").outputs[0].type->tensor.dtype, kInt8);
  Graph output;
  output.Quantize("q", "x", {.zero_point = {-128}}).Dequantize("d", "q", {.zero_point = {-128}});
  output.Op("exp", "y", {{"x", "d"}}).Output("y").Output("q", kInt8);
  output.CleanedUp();
  EXPECT_EQ(output.Find("q").inputs.count("zero_point"), 1u);
}

TEST(Reshapes, AreOfCodesBetweenEqualScales) {
  const auto graph_of = [](const Graph::Of& before, const Graph::Of& behind, bool branch) {
    auto graph = std::make_unique<Graph>();
    graph->main().Const("shape", Int32sValue({2, 6}));
    graph->Quantize("q", "x", before).Dequantize("d", "q", before);
    graph->Op("reshape", "r", {{"x", "d"}, {"shape", "shape"}});
    graph->Quantize("p", "r", behind).Dequantize("e", "p", behind);
    graph->Op("exp", "y", {{"x", "e"}}).Output("y");
    if (branch) graph->Op("abs", "z", {{"x", "r"}}).Output("z");
    return graph;
  };
  const auto same = graph_of({}, {}, false);
  EXPECT_EQ(same->CleanedUp(), (Ops{"quantize q", "reshape r", "dequantize e", "exp y"}));
  EXPECT_EQ(same->NameIn("r", "x"), "q");
  EXPECT_EQ(same->NameIn("e", "input"), "r");
  EXPECT_EQ(same->Find("r").outputs[0].type->tensor.dtype, kInt8);
  // coremltools does not compare the scales, and is wrong by their ratio.
  EXPECT_EQ(graph_of({}, {.scale = {0.125}}, false)->CleanedUp().size(), 6u);
  EXPECT_EQ(graph_of({}, {.zero_point = {3}}, false)->CleanedUp().size(), 6u);
  EXPECT_EQ(graph_of({}, {}, true)->CleanedUp().size(), 7u);
}

// x and y come out of dequantizes, what is made of them is quantized.
std::unique_ptr<Graph> Sum(const std::string& op, const Graph::Of& x, const Graph::Of& y,
                           const Graph::Of& z, bool relu = false, DataType dtype = kFloat) {
  auto graph = std::make_unique<Graph>(8, dtype);
  graph->Op("square", "x2", {{"x", "x"}});
  graph->Quantize("qx", "x", x).Dequantize("dx", "qx", x);
  graph->Quantize("qy", "x2", y).Dequantize("dy", "qy", y);
  graph->Op(op, "s", {{"x", "dx"}, {"y", "dy"}});
  if (relu) graph->Op("relu", "r", {{"x", "s"}});
  graph->Quantize("qz", relu ? "r" : "s", z).Dequantize("dz", "qz", z);
  graph->Op("exp", "out", {{"x", "dz"}}).Output("out");
  return graph;
}

TEST(Scales, OfTheSecondOperandBecomeOne) {
  for (const char* op : {"add", "sub"})
    for (const bool relu : {false, true}) {
      const auto graph = Sum(op, {.scale = {3}}, {.scale = {2}}, {.scale = {8}}, relu);
      graph->CleanedUp();
      EXPECT_EQ(graph->NameIn("s_normalized", "x"), "dx_normalized");
      EXPECT_EQ(graph->NameIn("s_normalized", "y"), "dy_normalized");
      EXPECT_EQ(graph->Scale("dx_normalized"), std::vector<float>{1.5});
      EXPECT_EQ(graph->Scale("dy_normalized"), std::vector<float>{1});
      EXPECT_EQ(graph->Scale("qz"), std::vector<float>{4});
      EXPECT_EQ(graph->Scale("dz"), std::vector<float>{8});
      EXPECT_EQ(graph->Scale("qx"), std::vector<float>{3});
      EXPECT_EQ(graph->NameIn("qz", "input"), relu ? "r_normalized" : "s_normalized");
      EXPECT_EQ(graph->notes().size(), 1u);
    }
  const auto kept = Sum("add", {.scale = {3}}, {.scale = {2}}, {.scale = {8}});
  EXPECT_EQ(kept->CleanedUp(/*normalize=*/false).size(), 9u);
  EXPECT_EQ(kept->NameIn("s", "x"), "dx");
}

TEST(Scales, OfTheFirstOperandWhereTheSecondCannot) {
  // Of several scales none can become one.
  const auto vector = Sum("add", {.scale = {2}}, {.scale = {1, 4}, .axis = 0}, {.scale = {8}});
  vector->CleanedUp();
  EXPECT_EQ(vector->Scale("dx_normalized"), std::vector<float>{1});
  EXPECT_EQ(vector->Scale("dy_normalized"), (std::vector<float>{0.5, 2}));
  EXPECT_EQ(vector->Scale("qz"), std::vector<float>{4});
  // A scale of zero cannot be divided by.
  const auto zero = Sum("add", {.scale = {2}}, {.scale = {0}}, {.scale = {8}});
  zero->CleanedUp();
  EXPECT_EQ(zero->NameIn("s", "y"), "dy");
  // A quotient that fp16 cannot hold: 0.001 is too small to divide 100 by.
  const auto half =
      Sum("add", {.scale = {100}}, {.scale = {0.001}}, {.scale = {100}}, false, kHalf);
  half->CleanedUp();
  EXPECT_EQ(half->NameIn("s", "x"), "dx");
  const auto both =
      Sum("add", {.scale = {1, 2}, .axis = 0}, {.scale = {1, 4}, .axis = 0}, {.scale = {8}});
  both->CleanedUp();
  EXPECT_EQ(both->NameIn("s", "x"), "dx");
}

TEST(Scales, StayWhereOthersReadWhatIsMade) {
  const auto graph = Sum("add", {.scale = {3}}, {.scale = {2}}, {.scale = {8}});
  graph->Op("abs", "z", {{"x", "s"}}).Output("z");
  graph->CleanedUp();
  EXPECT_EQ(graph->NameIn("s", "x"), "dx");
  const auto shared = Sum("add", {.scale = {3}}, {.scale = {2}}, {.scale = {8}});
  shared->Op("abs", "z", {{"x", "dx"}}).Output("z");
  shared->CleanedUp();
  EXPECT_EQ(shared->NameIn("s_normalized", "x"), "dx_normalized");
  EXPECT_EQ(shared->NameIn("z", "x"), "dx");  // its own scale stays
  EXPECT_EQ(shared->Scale("dx"), std::vector<float>{3});
}

TEST(Scales, AreNormalizedOnce) {
  const auto done = Sum("add", {.scale = {1}}, {.scale = {2}}, {.scale = {8}});
  done->CleanedUp();
  EXPECT_TRUE(done->notes().empty());
}

TEST(Constants, ThatAreDequantizedBecomeConstexprs) {
  for (const int32_t version : {8, 9})
    for (const bool vector : {false, true})
      for (const bool shifted : {false, true}) {
        Graph graph(version);
        std::string codes;
        for (int i = 0; i < 12; ++i) codes += static_cast<char>(i * 20 - 128);
        graph.main().BlobConst("w", kInt8, kShape, codes);
        Graph::Of of;
        if (vector) of = {.scale = {0.5, 2}, .axis = 0};
        if (shifted) of.zero_point = vector ? std::vector<int32_t>{3, -4} : std::vector<int32_t>{3};
        graph.Dequantize("d", "w", of).Op("add", "y", {{"x", "x"}, {"y", "d"}}).Output("y");
        const Ops ops = graph.CleanedUp();
        ASSERT_EQ(ops.size(), 2u);
        EXPECT_EQ(ops[0], version == 8 ? "constexpr_affine_dequantize d"
                                       : "constexpr_blockwise_shift_scale d");
        EXPECT_EQ(graph.NameIn("y", "y"), "d");
      }
  Graph output;  // which no constexpr may be
  output.main().BlobConst("w", kInt8, kShape, std::string(12, 'a'));
  output.Dequantize("d", "w", {}).Output("d");
  EXPECT_EQ(output.CleanedUp(), Ops{"dequantize d"});
}

// The rest of item 65 concerns weights. The order of look-up and dequantization by target is tested
// with joint compression (joint_test.cc). coremltools also moves the scale of a LUT behind the op
// that reads it: linear, matmul, conv become an op and a mul. Here it stays with the weight: the
// graph of a model is not changed by compressing its weights, and sums without their scale can
// overflow fp16.
TEST(LutScales, StayWithTheWeight) {
  for (PackageBuilder package : {OneLinear(kHalf, 64, 64, 9), OneConv(kHalf, 64, 64, 1, 9),
                                 OneMatmul(kHalf, 64, 64, true, 9)}) {
    const PassRun run(std::move(package),
                      Palettize({{"nbits", "4"}, {"per_channel_scale", "true"}}));
    ASSERT_TRUE(run.ok()) << run.error();
    std::vector<std::string> ops;
    for (const std::string& op : run.after().Ops())
      if (!op.starts_with("const ")) ops.push_back(op.substr(0, op.find(' ')));
    ASSERT_EQ(ops.size(), 3u);
    EXPECT_EQ(ops[0], "constexpr_lut_to_dense");
    EXPECT_EQ(ops[1], "constexpr_blockwise_shift_scale");
    EXPECT_EQ(run.after().Find("y")->type, run.before().Find("y")->type);
  }
}

}  // namespace
}  // namespace cmlc::activations
