#include "support/op_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>

#include "cmlc/package.h"
#include "exec/executable.h"
#include "numeric/half.h"
#include "support/package_builder.h"
#include "support/test_util.h"

namespace cmlc::test {
namespace {

using Json = nlohmann::json;

DataType TypeNamed(const std::string& name, bool as_fp16) {
  if (as_fp16 && name == "fp32") return DataType::kFloat16;
  for (const DataType type :
       {DataType::kBool, DataType::kString, DataType::kFloat16, DataType::kFloat32, DataType::kInt8,
        DataType::kInt16, DataType::kInt32, DataType::kUInt8, DataType::kUInt16, DataType::kUInt32})
    if (NameOf(type) == name) return type;
  ADD_FAILURE() << "no type is called " << name;
  return DataType::kUnused;
}

double NumberOf(const Json& json) {
  if (json.is_boolean()) return json.get<bool>() ? 1 : 0;
  if (!json.is_string()) return json.get<double>();
  const std::string text = json.get<std::string>();
  return text == "nan" ? NAN : text == "inf" ? INFINITY : -INFINITY;
}

struct Numbers {
  DataType dtype = DataType::kUnused;
  Shape shape;
  std::vector<double> values;
  std::vector<std::string> strings;

  std::string Bytes() const {
    std::string bytes;
    const auto add = [&bytes](auto number) {
      bytes.append(reinterpret_cast<const char*>(&number), sizeof number);
    };
    for (const double value : values) {
      switch (dtype) {
        case DataType::kFloat16:
          add(numeric::FloatToHalf(static_cast<float>(value)));
          break;
        case DataType::kFloat32:
          add(static_cast<float>(value));
          break;
        case DataType::kInt8:
          add(static_cast<int8_t>(value));
          break;
        case DataType::kInt16:
          add(static_cast<int16_t>(value));
          break;
        case DataType::kInt32:
          add(static_cast<int32_t>(value));
          break;
        case DataType::kUInt16:
          add(static_cast<uint16_t>(value));
          break;
        case DataType::kUInt32:
          add(static_cast<uint32_t>(value));
          break;
        default:
          add(static_cast<uint8_t>(value));
      }
    }
    return bytes;
  }
};

Numbers TensorOf(const Json& json, bool as_fp16) {
  Numbers out;
  out.dtype = TypeNamed(json.at("dtype").get<std::string>(), as_fp16);
  out.shape = json.at("shape").get<Shape>();
  for (const Json& value : json.at("values"))
    if (out.dtype == DataType::kString)
      out.strings.push_back(value.get<std::string>());
    else
      out.values.push_back(NumberOf(value));
  EXPECT_EQ(out.values.size() + out.strings.size(), *ElementCount(out.shape));
  return out;
}

// A constant's value from a plain number, text or flat list.
wire::Value LiteralOf(const Json& json, bool as_fp16) {
  const DataType fp = as_fp16 ? DataType::kFloat16 : DataType::kFloat32;
  if (json.is_string() && json != "nan" && json != "inf" && json != "-inf")
    return StringValue(json.get<std::string>());
  const bool list = json.is_array();
  const std::vector<Json> elements = list ? json.get<std::vector<Json>>() : std::vector<Json>{json};
  const Shape shape = list ? Shape{static_cast<int64_t>(elements.size())} : Shape{};
  const auto all = [&](auto is) { return std::all_of(elements.begin(), elements.end(), is); };
  if (!elements.empty() && all([](const Json& e) { return e.is_boolean(); })) {
    std::vector<bool> values;
    for (const Json& element : elements) values.push_back(element.get<bool>());
    return BoolsValue(shape, values);
  }
  if (!elements.empty() && all([](const Json& e) { return e.is_string() && e != "inf"; })) {
    std::vector<std::string> values;
    for (const Json& element : elements) values.push_back(element.get<std::string>());
    return StringsValue(shape, values);
  }
  if (all([](const Json& e) { return e.is_number_integer(); })) {
    std::vector<int32_t> values;
    for (const Json& element : elements) values.push_back(element.get<int32_t>());
    return IntsValue(DataType::kInt32, shape, values);
  }
  std::vector<float> values;
  for (const Json& element : elements) values.push_back(static_cast<float>(NumberOf(element)));
  return fp == DataType::kFloat16 ? BytesValue(fp, shape, Fp16Bytes(values))
                                  : FloatsValue(shape, values);
}

// The gap between fp16 numbers at `value`.
double HalfStep(double value) {
  if (!std::isfinite(value) || value == 0) return 0x1p-24;
  return std::max(0x1p-24, std::ldexp(1.0, std::ilogb(value) - 10));
}

void Compare(const exec::Value& got, const Numbers& expected, double rtol, double atol,
             const std::string& what) {
  SCOPED_TRACE(what);
  ASSERT_EQ(got.dtype, expected.dtype) << NameOf(got.dtype);
  ASSERT_EQ(ToString(got.shape), ToString(expected.shape));
  if (expected.dtype == DataType::kString) {
    ASSERT_TRUE(got.strings != nullptr);
    EXPECT_EQ(*got.strings, expected.strings);
    return;
  }
  std::vector<double> values(expected.values.size());
  if (exec::IsFloat(got.dtype)) {
    std::vector<float> floats(values.size());
    ASSERT_TRUE(Succeeds(exec::ReadFloats(got, 0, floats)));
    std::copy(floats.begin(), floats.end(), values.begin());
  } else {
    const auto ints = exec::ReadInts(got);
    ASSERT_TRUE(Succeeds(ints));
    std::copy(ints->begin(), ints->end(), values.begin());
  }
  int shown = 0;
  for (size_t i = 0; i < values.size() && shown < 5; ++i) {
    double wanted = expected.values[i];
    if (got.dtype == DataType::kFloat16)
      wanted = numeric::HalfToFloat(numeric::DoubleToHalf(wanted));
    if (std::isnan(wanted) && std::isnan(values[i])) continue;
    if (wanted == values[i]) continue;
    double slack = exec::IsFloat(got.dtype) ? atol + rtol * std::fabs(wanted) : 0;
    if (got.dtype == DataType::kFloat16) slack += HalfStep(wanted) * 1.001;
    if (std::isfinite(wanted) && std::fabs(values[i] - wanted) <= slack) continue;
    ADD_FAILURE() << "element " << i << " of " << values.size() << ": got " << values[i]
                  << ", expected " << wanted << " +- " << slack;
    ++shown;
  }
}

}  // namespace

std::string OpCase::Name() const {
  std::string name = json.at("op").get<std::string>() + "_" + json.value("name", "case");
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  return name;
}

std::vector<OpCase> ReadOpCases(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<OpCase> cases;
  for (const std::filesystem::path& file : files) {
    std::ifstream in(file);
    const Json json = Json::parse(in);
    for (const Json& one : json.at("cases")) cases.push_back({file.stem().string(), one});
  }
  return cases;
}

void CheckOpCase(const OpCase& one, bool as_fp16, int threads) {
  const Json& json = one.json;
  const int opset = json.value("opset", 5);
  PackageBuilder package(opset + 1);
  BlockBuilder block = package.Function("main");
  std::map<std::string, exec::Value> arguments;
  exec::Memory memory;
  Inputs inputs;
  const auto bind = [&](const std::string& name, const Json& value) -> std::string {
    if (!value.is_object()) {
      block.Const(name, LiteralOf(value, as_fp16));
      return name;
    }
    const Numbers tensor = TensorOf(value, as_fp16);
    if (value.value("const", false)) {
      if (tensor.dtype == DataType::kString)
        block.Const(name, StringsValue(tensor.shape, tensor.strings));
      else if (tensor.dtype == DataType::kBool)
        block.Const(name, BoolsValue(tensor.shape, std::vector<bool>(tensor.values.begin(),
                                                                     tensor.values.end())));
      else if (tensor.dtype == DataType::kInt32 || tensor.dtype == DataType::kFloat32)
        // Both forms that files have are read: values of their own kind, and bytes.
        block.Const(
            name,
            tensor.dtype == DataType::kFloat32
                ? FloatsValue(tensor.shape,
                              std::vector<float>(tensor.values.begin(), tensor.values.end()))
                : IntsValue(tensor.dtype, tensor.shape,
                            std::vector<int32_t>(tensor.values.begin(), tensor.values.end())));
      else
        block.Const(name, BytesValue(tensor.dtype, tensor.shape, tensor.Bytes()));
      return name;
    }
    package.FunctionInput("main", name, TensorType(tensor.dtype, tensor.shape));
    Result<exec::Value> made = exec::MakeTensor(tensor.dtype, tensor.shape, memory);
    EXPECT_TRUE(Succeeds(made));
    const std::string bytes = tensor.Bytes();
    std::memcpy(made->storage->data(), bytes.data(), bytes.size());
    arguments.emplace(name, std::move(*made));
    return name;
  };
  for (const auto& [parameter, value] : json.at("inputs").items()) {
    if (value.is_array() && !value.empty() && value[0].is_object()) {
      std::vector<Input::One> several;
      for (size_t i = 0; i < value.size(); ++i)
        several.emplace_back(bind(parameter + "_" + std::to_string(i), value[i]));
      inputs.emplace_back(parameter, Input(several));
    } else {
      inputs.emplace_back(parameter, Input(bind(parameter, value)));
    }
  }
  const Json outputs = json.value("outputs", Json::array());
  std::vector<Numbers> expected;
  Outputs declared;
  for (size_t i = 0; i < outputs.size(); ++i) {
    expected.push_back(TensorOf(outputs[i], as_fp16));
    declared.emplace_back("out_" + std::to_string(i),
                          TensorType(expected[i].dtype, expected[i].shape));
  }
  if (declared.empty())
    declared.emplace_back("out_0", AnyRankType(as_fp16 ? DataType::kFloat16 : DataType::kFloat32));
  block.Op(json.at("op").get<std::string>(), inputs, declared);
  for (const auto& [name, type] : declared) block.Output(name);

  const TempDir folder(FolderInMemory());
  const fs::path path = package.Write(folder / "op.mlpackage");
  const auto opened = Package::Open(path);
  ASSERT_TRUE(Succeeds(opened));
  const auto executable = exec::Executable::Prepare(*(*opened)->model().program, "main",
                                                    (*opened)->tensors(), "op.mlpackage");
  const auto run = [&]() -> Result<std::vector<exec::Value>> {
    if (!executable.ok()) return executable.error();
    ThreadPool pool(threads);
    exec::Runner runner(**executable, pool);
    return runner.Run(arguments);
  };
  const Result<std::vector<exec::Value>> got = run();
  if (json.contains("error")) {
    EXPECT_TRUE(Fails(got, ErrorKind::kBadInput, {json.at("error").get<std::string>()}));
    return;
  }
  ASSERT_TRUE(Succeeds(got));
  ASSERT_EQ(got->size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    Compare((*got)[i], expected[i], json.value(as_fp16 ? "rtol16" : "rtol", as_fp16 ? 0.0 : 1e-6),
            json.value(as_fp16 ? "atol16" : "atol", as_fp16 ? 0.0 : 1e-6),
            "output " + std::to_string(i));
}

}  // namespace cmlc::test
