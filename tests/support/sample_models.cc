#include "support/sample_models.h"

#include <bit>
#include <limits>

#include "support/network_builder.h"

namespace cmlc::test {

namespace {

void AddTypes(PackageBuilder& package) {
  const wire::ValueType fp32 = TensorType(DataType::kFloat32, {2, 3});
  wire::Function& main = (*package.program().mutable_functions())["main"];
  const auto input = [&](const std::string& name, const wire::ValueType& type) {
    package.FunctionInput("main", name, type);
  };
  input("x", fp32);
  input("scalar", TensorType(DataType::kInt32, {}));
  input("symbolic", TensorType(DataType::kFloat16, {1, kUnknownSize, 3}));
  input("variadic", TensorType(DataType::kFloat16, {kVariadicSize}));
  input("any_rank", AnyRankType(DataType::kFloat16));
  input("no_elements", TensorType(DataType::kFloat32, {0, 4}));
  input("from_the_future", TensorType(static_cast<DataType>(77), {1}));
  input("list", ListType(fp32, 4));
  input("open_list", ListType(ListType(fp32, kUnknownSize), kUnknownSize));
  input("tuple", TupleType({fp32, TensorType(DataType::kString, {})}));
  input("empty_tuple", TupleType({}));
  input("dictionary", DictionaryType(TensorType(DataType::kString, {}), fp32));
  input("state", StateType(TensorType(DataType::kFloat16, {4})));
  input("empty", wire::ValueType());
  main.add_inputs()->set_name("untyped");

  wire::ValueType bare;
  bare.mutable_tensortype()->add_dimensions();  // a dimension that says nothing
  input("bare_dimension", bare);
  bare.mutable_listtype();
  input("bare_list", bare);
  bare.mutable_dictionarytype()->mutable_valuetype();
  input("half_dictionary", bare);
  bare.mutable_dictionarytype()->Clear();
  input("bare_dictionary", bare);
  bare.mutable_statetype();
  input("bare_state", bare);
}

void AddImmediates(BlockBuilder main) {
  main.Const("floats", FloatsValue({2, 2}, {1.5f, -0.0f, std::bit_cast<float>(0x7fc12345u),
                                            std::numeric_limits<float>::infinity()}));
  main.Const("doubles", DoublesValue({2}, {1e300, -0.0}));
  main.Const("ints", IntsValue(DataType::kInt32, {3}, {-1, 0, INT32_MIN}));
  main.Const("int16_as_ints", IntsValue(DataType::kInt16, {2}, {-5, 5}));
  main.Const("long_ints", LongIntsValue(DataType::kInt64, {2}, {INT64_MIN, INT64_MAX}));
  main.Const("bools", BoolsValue({3}, {true, false, true}));
  main.Const("strings", StringsValue({3}, {"", "\xC3\xA9t\xC3\xA9", std::string("a\0b", 3)}));
  main.Const("fp16_bytes", BytesValue(DataType::kFloat16, {2}, FromHex("003c 00c0")));
  main.Const("int4_bytes", BytesValue(DataType::kInt4, {5}, FromHex("e8 20 07")));
  main.Const("uint32_bytes", BytesValue(DataType::kUInt32, {2}, FromHex("04000000 08000000")));

  // Wrappers with nothing in them.
  main.Const("no_floats", FloatsValue({0}, {}));
  main.Const("no_doubles", DoublesValue({0}, {}));
  main.Const("no_ints", IntsValue(DataType::kInt32, {0}, {}));
  main.Const("no_long_ints", LongIntsValue(DataType::kInt64, {0}, {}));
  main.Const("no_bools", BoolsValue({0}, {}));
  main.Const("no_strings", StringsValue({0}, {}));
  main.Const("no_bytes", BytesValue(DataType::kInt8, {0}, ""));
  wire::Value value;
  main.Const("no_value", value);
  value.mutable_immediatevalue();
  main.Const("empty_immediate", value);
  value.mutable_immediatevalue()->mutable_tensor();
  main.Const("empty_tensor", value);

  const wire::Value text = StringValue("key");
  main.Const("list", ListValue({text, StringValue("b")}));
  main.Const("empty_list", ListValue({}));
  main.Const("tuple", TupleValue({text, Int32Value(3), ListValue({text})}));
  main.Const("empty_tuple", TupleValue({}));
  main.Const("dictionary", DictionaryValue({{text, Int32Value(1)}, {StringValue("b"), text}}));
  main.Const("empty_dictionary", DictionaryValue({}));
  value.mutable_immediatevalue()->mutable_list()->add_values();  // an element that says nothing
  main.Const("bare_element", value);

  wire::Value documented = Int32Value(5);
  documented.set_docstring("five");
  main.Const("documented", documented);
}

void AddBlobs(BlockBuilder main) {
  const wire::Value shared =
      main.Blob(DataType::kFloat16, {4, 4}, RandomWeights(DataType::kFloat16, 16, 1));
  main.Const("shared_a", shared);
  main.Const("shared_b", shared);
  main.BlobConst("empty_blob", DataType::kFloat32, {0, 3}, "");
  for (const auto& [name, dtype, bits] :
       {std::tuple{"uint1", DataType::kUInt1, 1}, std::tuple{"uint2", DataType::kUInt2, 2},
        std::tuple{"uint3", DataType::kUInt3, 3}, std::tuple{"uint4", DataType::kUInt4, 4},
        std::tuple{"int4", DataType::kInt4, 4}, std::tuple{"uint6", DataType::kUInt6, 6},
        std::tuple{"int8", DataType::kInt8, 8}, std::tuple{"int32", DataType::kInt32, 32}})
    main.BlobConst(name, dtype, {3, 5},
                   std::string((static_cast<size_t>(bits) * 15 + 7) / 8, '\0'));
}

void AddOperands(BlockBuilder main) {
  const wire::ValueType fp16 = TensorType(DataType::kFloat16, {4, 4});
  // iOS 16: operands are attributes.
  main.Op("constexpr_affine_dequantize", "old", {}, fp16,
          {{"quantized_data", main.Blob(DataType::kInt8, {4, 4}, std::string(16, '\1'))},
           {"scale", BytesValue(DataType::kFloat16, {}, FromHex("003c"))},
           {"zero_point", BytesValue(DataType::kInt8, {}, FromHex("00"))},
           {"axis", Int32Value(0)}});
  // iOS 18: operands are inputs, and may be outputs of other operations.
  main.Op("constexpr_lut_to_dense", "lut",
          {{"indices", main.Blob(DataType::kUInt2, {4, 4}, std::string(4, '\x1B'))},
           {"lut", BytesValue(DataType::kUInt8, {1, 1, 4, 1}, FromHex("00 01 02 03"))}},
          TensorType(DataType::kUInt8, {4, 4}));
  main.Op("constexpr_blockwise_shift_scale", "chained",
          {{"data", "lut"}, {"scale", BytesValue(DataType::kFloat16, {1, 1}, FromHex("003c"))}},
          fp16);
  main.Op("concat", "variadic_parameter",
          {{"values", Input(std::vector<Input::One>{std::string("old"), std::string("chained"),
                                                    std::string("old")})},
           {"axis", Int32Value(0)}},
          TensorType(DataType::kFloat16, {12, 4}));
  wire::Operation& odd = main.Op("odd", Inputs{}, Outputs{});
  odd.add_outputs()->set_name("untyped_output");
  (*odd.mutable_inputs())["no_bindings"];
  (*odd.mutable_inputs())["empty_binding"].add_arguments();
  wire::Operation& loop = main.Op("while_loop", "looped", {{"loop_vars", "x"}}, fp16);
  for (int i = 0; i < 2; ++i) {
    BlockBuilder block = main.Nested(loop);
    block.BlockInput("v", fp16);
    block.BlobConst("inner", DataType::kFloat16, {2, 2}, RandomWeights(DataType::kFloat16, 4, 9));
    wire::Operation& inner = block.Op("cond", "c", {{"pred", BoolValue(true)}}, fp16);
    main.Nested(inner).Output("v");
    block.Output("c");
    (*block.block().mutable_attributes())["note"] = StringValue("block");
  }
}

}  // namespace

PackageBuilder OneOfEverything() {
  PackageBuilder package(9);
  package.message().set_isupdatable(true);
  wire::ModelDescription& description = *package.message().mutable_description();
  wire::FunctionDescription& function = *description.add_functions();
  function.set_name("main");
  wire::FeatureDescription& image = *function.add_input();
  image.set_name("image");
  image.set_shortdescription("a picture");
  image.mutable_type()->mutable_imagetype()->set_width(64);
  image.mutable_type()->set_isoptional(true);
  function.add_output()->mutable_type()->set_doubletype("");
  wire::ArrayFeatureType& state =
      *function.add_state()->mutable_type()->mutable_statetype()->mutable_arraytype();
  state.add_shape(4);
  wire::ArrayFeatureType& array = *function.add_input()->mutable_type()->mutable_multiarraytype();
  array.mutable_shaperange()->add_sizeranges()->set_upperbound(-1);
  function.add_input()
      ->mutable_type()
      ->mutable_multiarraytype()
      ->mutable_enumeratedshapes()
      ->add_shapes()
      ->add_shape(3);
  description.set_defaultfunctionname("main");

  package.program().set_docstring("what it does");
  (*package.program().mutable_attributes())["buildInfo"] =
      DictionaryValue({{StringValue("coremltools-version"), StringValue("9.0")}});
  AddTypes(package);
  BlockBuilder main = package.Function("main");
  AddImmediates(main);
  AddBlobs(main);
  AddOperands(main);
  main.Output("looped");
  main.Output("x");
  wire::Function& body = (*package.program().mutable_functions())["main"];
  (*body.mutable_attributes())["note"] = StringValue("function");
  wire::Block& older = (*body.mutable_block_specializations())["CoreML7"];
  *older.add_operations() = main.block().operations(0);
  older.add_outputs("floats");
  BlockBuilder second = package.Function("second");
  second.Const("only", Int32Value(1));
  second.Output("only");
  return package;
}

namespace {

void AddLinear(ModelBuilder& model, uint64_t seed) {
  model.DescribeInput("x", DataType::kFloat16, {1, 64});
  model.DescribeOutput("y", DataType::kFloat16);
  model.FunctionInput("main", "x", TensorType(DataType::kFloat16, {1, 64}));
  BlockBuilder main = model.Function("main");
  main.BlobConst("weight", DataType::kFloat16, {64, 64},
                 RandomWeights(DataType::kFloat16, 64 * 64, seed));
  main.Op("linear", "y", {{"x", "x"}, {"weight", "weight"}},
          TensorType(DataType::kFloat16, {1, 64}));
  main.Output("y");
}

}  // namespace

PackageBuilder SmallPipeline() {
  PackageBuilder package(7);
  package.DescribeInput("x", DataType::kFloat16, {1, 64});
  package.DescribeOutput("y", DataType::kFloat16);
  AddLinear(package.AddMember(7, "first"), 1);
  package.AddMember(4, "between").message().set_neuralnetwork(SmallNetwork().message());
  AddLinear(package.AddMember(7, "last"), 2);
  return package;
}

PackageBuilder TwoFunctions() {
  PackageBuilder package(9);
  wire::ModelDescription& description = *package.message().mutable_description();
  description.set_defaultfunctionname("first");
  wire::Value weight;
  for (const char* name : {"first", "second"}) {
    description.add_functions()->set_name(name);
    package.FunctionInput(name, "x", TensorType(DataType::kFloat16, {1, 64}));
    BlockBuilder block = package.Function(name);
    if (!weight.has_type())
      weight =
          block.Blob(DataType::kFloat16, {64, 64}, RandomWeights(DataType::kFloat16, 64 * 64, 3));
    block.Const("weight", weight);
    block.Op("linear", "y", {{"x", "x"}, {"weight", "weight"}},
             TensorType(DataType::kFloat16, {1, 64}));
    block.Output("y");
  }
  return package;
}

PackageBuilder NestedBlocks() {
  PackageBuilder package(8);
  const wire::ValueType fp16 = TensorType(DataType::kFloat16, {1, 64});
  package.FunctionInput("main", "x", fp16);
  BlockBuilder main = package.Function("main");
  main.BlobConst("outer", DataType::kFloat16, {64, 64},
                 RandomWeights(DataType::kFloat16, 64 * 64, 4));
  wire::Operation& loop = main.Op("while_loop", "looped", {{"loop_vars", "x"}}, fp16);
  BlockBuilder condition = main.Nested(loop);
  condition.BlockInput("v", fp16);
  condition.Const("yes", BoolValue(true));
  condition.Output("yes");
  BlockBuilder body = main.Nested(loop);
  body.BlockInput("v", fp16);
  body.BlobConst("inner", DataType::kFloat16, {64, 64},
                 RandomWeights(DataType::kFloat16, 64 * 64, 5));
  body.Op("linear", "a", {{"x", "v"}, {"weight", "outer"}}, fp16);
  body.Op("linear", "b", {{"x", "a"}, {"weight", "inner"}}, fp16);
  body.Output("b");
  main.Output("looped");
  return package;
}

}  // namespace cmlc::test
