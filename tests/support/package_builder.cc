#include "support/package_builder.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <cstring>
#include <functional>

namespace cmlc::test {

// --- Types and values on the wire ---------------------------------------------------------------

namespace {

wire::Dimension MakeDimension(int64_t size) {
  wire::Dimension dimension;
  if (size == kUnknownSize)
    dimension.mutable_unknown();
  else if (size == kVariadicSize)
    dimension.mutable_unknown()->set_variadic(true);
  else
    dimension.mutable_constant()->set_size(static_cast<uint64_t>(size));
  return dimension;
}

wire::Value MakeValue(wire::ValueType type) {
  wire::Value value;
  *value.mutable_type() = std::move(type);
  return value;
}

wire::TensorValue& TensorOf(wire::Value& value) {
  return *value.mutable_immediatevalue()->mutable_tensor();
}

uint64_t CountOf(const Shape& shape) {
  uint64_t count = 1;
  for (const int64_t size : shape) count *= static_cast<uint64_t>(size);
  return count;
}

}  // namespace

wire::ValueType TensorType(DataType dtype, const Shape& shape) {
  wire::ValueType type;
  wire::TensorType& tensor = *type.mutable_tensortype();
  tensor.set_datatype(static_cast<int32_t>(dtype));
  tensor.set_rank(static_cast<int64_t>(shape.size()));
  for (const int64_t size : shape) *tensor.add_dimensions() = MakeDimension(size);
  return type;
}

wire::ValueType AnyRankType(DataType dtype) {
  wire::ValueType type = TensorType(dtype, {});
  type.mutable_tensortype()->set_rank(-1);
  return type;
}

wire::ValueType ListType(wire::ValueType element, int64_t length) {
  wire::ValueType type;
  *type.mutable_listtype()->mutable_type() = std::move(element);
  *type.mutable_listtype()->mutable_length() = MakeDimension(length);
  return type;
}

wire::ValueType TupleType(const std::vector<wire::ValueType>& elements) {
  wire::ValueType type;
  type.mutable_tupletype();
  for (const wire::ValueType& element : elements) *type.mutable_tupletype()->add_types() = element;
  return type;
}

wire::ValueType DictionaryType(wire::ValueType key, wire::ValueType value) {
  wire::ValueType type;
  *type.mutable_dictionarytype()->mutable_keytype() = std::move(key);
  *type.mutable_dictionarytype()->mutable_valuetype() = std::move(value);
  return type;
}

wire::ValueType StateType(wire::ValueType wrapped) {
  wire::ValueType type;
  *type.mutable_statetype()->mutable_wrappedtype() = std::move(wrapped);
  return type;
}

wire::Value FloatsValue(const Shape& shape, const std::vector<float>& values) {
  wire::Value value = MakeValue(TensorType(DataType::kFloat32, shape));
  auto& out = *TensorOf(value).mutable_floats();
  for (const float number : values) out.add_values(number);
  return value;
}

wire::Value DoublesValue(const Shape& shape, const std::vector<double>& values) {
  wire::Value value = MakeValue(TensorType(DataType::kFloat64, shape));
  auto& out = *TensorOf(value).mutable_doubles();
  for (const double number : values) out.add_values(number);
  return value;
}

wire::Value IntsValue(DataType dtype, const Shape& shape, const std::vector<int32_t>& values) {
  wire::Value value = MakeValue(TensorType(dtype, shape));
  auto& out = *TensorOf(value).mutable_ints();
  for (const int32_t number : values) out.add_values(number);
  return value;
}

wire::Value LongIntsValue(DataType dtype, const Shape& shape, const std::vector<int64_t>& values) {
  wire::Value value = MakeValue(TensorType(dtype, shape));
  auto& out = *TensorOf(value).mutable_longints();
  for (const int64_t number : values) out.add_values(number);
  return value;
}

wire::Value BoolsValue(const Shape& shape, const std::vector<bool>& values) {
  wire::Value value = MakeValue(TensorType(DataType::kBool, shape));
  auto& out = *TensorOf(value).mutable_bools();
  for (const bool flag : values) out.add_values(flag);
  return value;
}

wire::Value StringsValue(const Shape& shape, const std::vector<std::string>& values) {
  wire::Value value = MakeValue(TensorType(DataType::kString, shape));
  auto& out = *TensorOf(value).mutable_strings();
  for (const std::string& text : values) out.add_values(text);
  return value;
}

wire::Value BytesValue(DataType dtype, const Shape& shape, std::string bytes) {
  wire::Value value = MakeValue(TensorType(dtype, shape));
  TensorOf(value).mutable_bytes()->set_values(std::move(bytes));
  return value;
}

wire::Value StringValue(const std::string& text) { return StringsValue({}, {text}); }
wire::Value Int32Value(int32_t number) { return IntsValue(DataType::kInt32, {}, {number}); }
wire::Value BoolValue(bool flag) { return BoolsValue({}, {flag}); }

wire::Value Int32sValue(const std::vector<int32_t>& numbers) {
  return IntsValue(DataType::kInt32, {static_cast<int64_t>(numbers.size())}, numbers);
}

wire::Value ListValue(const std::vector<wire::Value>& elements) {
  wire::Value value = MakeValue(ListType(elements.empty() ? wire::ValueType() : elements[0].type(),
                                         static_cast<int64_t>(elements.size())));
  auto& list = *value.mutable_immediatevalue()->mutable_list();
  for (const wire::Value& element : elements) *list.add_values() = element;
  return value;
}

wire::Value TupleValue(const std::vector<wire::Value>& elements) {
  std::vector<wire::ValueType> types;
  for (const wire::Value& element : elements) types.push_back(element.type());
  wire::Value value = MakeValue(TupleType(types));
  auto& tuple = *value.mutable_immediatevalue()->mutable_tuple();
  for (const wire::Value& element : elements) *tuple.add_values() = element;
  return value;
}

wire::Value DictionaryValue(const std::vector<std::pair<wire::Value, wire::Value>>& pairs) {
  wire::Value value;
  *value.mutable_type() =
      DictionaryType(pairs.empty() ? wire::ValueType() : pairs[0].first.type(),
                     pairs.empty() ? wire::ValueType() : pairs[0].second.type());
  auto& dictionary = *value.mutable_immediatevalue()->mutable_dictionary();
  for (const auto& [key, content] : pairs) {
    auto& pair = *dictionary.add_values();
    *pair.mutable_key() = key;
    *pair.mutable_value() = content;
  }
  return value;
}

wire::Value BlobValueAt(DataType dtype, const Shape& shape, const std::string& file_name,
                        uint64_t offset) {
  wire::Value value = MakeValue(TensorType(dtype, shape));
  value.mutable_blobfilevalue()->set_filename(file_name);
  value.mutable_blobfilevalue()->set_offset(offset);
  return value;
}

// --- Weights files ------------------------------------------------------------------------------

namespace {

// The numbers of the format's description, written out once more.
uint32_t BlobCode(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat16:
      return 1;
    case DataType::kFloat32:
      return 2;
    case DataType::kUInt8:
      return 3;
    case DataType::kInt8:
      return 4;
    case DataType::kBFloat16:
      return 5;
    case DataType::kInt16:
      return 6;
    case DataType::kUInt16:
      return 7;
    case DataType::kInt4:
      return 8;
    case DataType::kUInt1:
      return 9;
    case DataType::kUInt2:
      return 10;
    case DataType::kUInt4:
      return 11;
    case DataType::kUInt3:
      return 12;
    case DataType::kUInt6:
      return 13;
    case DataType::kInt32:
      return 14;
    case DataType::kUInt32:
      return 15;
    case DataType::kFloat8E4M3FN:
      return 16;
    case DataType::kFloat8E5M2:
      return 17;
    default:
      return 0;
  }
}

uint64_t SubByteBits(DataType dtype) {
  switch (dtype) {
    case DataType::kUInt1:
      return 1;
    case DataType::kUInt2:
      return 2;
    case DataType::kUInt3:
      return 3;
    case DataType::kUInt4:
    case DataType::kInt4:
      return 4;
    case DataType::kUInt6:
      return 6;
    default:
      return 0;
  }
}

template <typename T>
void Put(std::string& bytes, size_t at, T number) {
  std::memcpy(bytes.data() + at, &number, sizeof number);
}

}  // namespace

BlobFileBuilder::BlobFileBuilder() : bytes_(64, '\0') { Put(bytes_, 4, uint32_t{2}); }

uint64_t BlobFileBuilder::Add(DataType dtype, uint64_t element_count, const std::string& bytes) {
  bytes_.resize((bytes_.size() + 63) / 64 * 64, '\0');
  const uint64_t offset = bytes_.size();
  std::string record(64, '\0');
  Put(record, 0, uint32_t{0xDEADBEEF});
  Put(record, 4, BlobCode(dtype));
  Put(record, 8, uint64_t{bytes.size()});
  Put(record, 16, offset + 64);
  if (const uint64_t bits = SubByteBits(dtype); bits != 0)
    Put(record, 24, (8 - bits * element_count % 8) % 8);
  bytes_ += record + bytes;
  Put(bytes_, 0, ++count_);
  return offset;
}

// --- Programs -----------------------------------------------------------------------------------

wire::Value BlockBuilder::Blob(DataType dtype, const Shape& shape, const std::string& bytes) {
  const uint64_t offset = weights_->file.Add(dtype, CountOf(shape), bytes);
  return BlobValueAt(dtype, shape, "@model_path/weights/" + weights_->file_name, offset);
}

wire::Operation& BlockBuilder::Const(const std::string& name, const wire::Value& value) {
  return Op("const", name, {}, value.type(), {{"val", value}});
}

wire::Operation& BlockBuilder::BlobConst(const std::string& name, DataType dtype,
                                         const Shape& shape, const std::string& bytes) {
  return Const(name, Blob(dtype, shape, bytes));
}

wire::Operation& BlockBuilder::Op(const std::string& type, const Inputs& inputs,
                                  const Outputs& outputs, const Attrs& attributes) {
  wire::Operation& op = *block_->add_operations();
  op.set_type(type);
  for (const auto& [parameter, input] : inputs) {
    wire::Argument& argument = (*op.mutable_inputs())[parameter];
    for (const Input::One& one : input.bindings) {
      if (const auto* name = std::get_if<std::string>(&one))
        argument.add_arguments()->set_name(*name);
      else
        *argument.add_arguments()->mutable_value() = std::get<wire::Value>(one);
    }
  }
  for (const auto& [name, output] : outputs) {
    op.add_outputs()->set_name(name);
    *op.mutable_outputs()->rbegin()->mutable_type() = output;
  }
  if (!outputs.empty()) (*op.mutable_attributes())["name"] = StringValue(outputs.front().first);
  for (const auto& [name, value] : attributes) (*op.mutable_attributes())[name] = value;
  return op;
}

wire::Operation& BlockBuilder::Op(const std::string& type, const std::string& name,
                                  const Inputs& inputs, const wire::ValueType& output,
                                  const Attrs& attributes) {
  return Op(type, inputs, Outputs{{name, output}}, attributes);
}

BlockBuilder BlockBuilder::Nested(wire::Operation& op) { return {op.add_blocks(), weights_}; }

void BlockBuilder::BlockInput(const std::string& name, const wire::ValueType& type) {
  wire::NamedValueType& input = *block_->add_inputs();
  input.set_name(name);
  *input.mutable_type() = type;
}

void BlockBuilder::Output(const std::string& name) { block_->add_outputs(name); }

ModelBuilder::ModelBuilder(int32_t spec_version)
    : opset_("CoreML" + std::to_string(spec_version - 1)) {
  message_.set_specificationversion(spec_version);
}

BlockBuilder ModelBuilder::Function(const std::string& name) {
  program().set_version(1);
  wire::Function& function = (*program().mutable_functions())[name];
  function.set_opset(opset_);
  return {&(*function.mutable_block_specializations())[opset_], weights_};
}

void ModelBuilder::FunctionInput(const std::string& function, const std::string& name,
                                 const wire::ValueType& type) {
  Function(function);
  wire::NamedValueType& input = *(*program().mutable_functions())[function].add_inputs();
  input.set_name(name);
  *input.mutable_type() = type;
}

namespace {

int32_t ArrayCode(DataType dtype) {
  return dtype == DataType::kFloat16 ? 65552 : dtype == DataType::kInt32 ? 131104 : 65568;
}

}  // namespace

void ModelBuilder::DescribeInput(const std::string& name, DataType dtype, const Shape& shape) {
  wire::FeatureDescription& feature = *message_.mutable_description()->add_input();
  feature.set_name(name);
  wire::ArrayFeatureType& array = *feature.mutable_type()->mutable_multiarraytype();
  for (const int64_t size : shape) array.add_shape(size);
  array.set_datatype(ArrayCode(dtype));
}

void ModelBuilder::DescribeOutput(const std::string& name, DataType dtype) {
  wire::FeatureDescription& feature = *message_.mutable_description()->add_output();
  feature.set_name(name);
  feature.mutable_type()->mutable_multiarraytype()->set_datatype(ArrayCode(dtype));
}

// --- Packages -----------------------------------------------------------------------------------

namespace {

constexpr const char* kModelId = "2aa7dd14-fb8c-4171-9219-a38c39afa59d";
constexpr const char* kWeightsId = "5fbac8c8-7e7d-401d-a81a-ac52fe7ee8e1";

std::string Serialized(const wire::Model& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream sink(&bytes);
  google::protobuf::io::CodedOutputStream stream(&sink);
  stream.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&stream);
  stream.Trim();
  return bytes;
}

}  // namespace

PackageBuilder::PackageBuilder(int32_t spec_version) : ModelBuilder(spec_version) {
  manifest_ = {{"fileFormatVersion", "1.0.0"},
               {"itemInfoEntries",
                {{kModelId,
                  {{"author", "com.apple.CoreML"},
                   {"description", "CoreML Model Specification"},
                   {"name", "model.mlmodel"},
                   {"path", "com.apple.CoreML/model.mlmodel"}}},
                 {kWeightsId,
                  {{"author", "com.apple.CoreML"},
                   {"description", "CoreML Model Weights"},
                   {"name", "weights"},
                   {"path", "com.apple.CoreML/weights"}}}}},
               {"rootModelIdentifier", kModelId}};
}

nlohmann::json& PackageBuilder::model_item() { return manifest_["itemInfoEntries"][kModelId]; }
nlohmann::json& PackageBuilder::weights_item() { return manifest_["itemInfoEntries"][kWeightsId]; }
void PackageBuilder::RemoveWeightsItem() { manifest_["itemInfoEntries"].erase(kWeightsId); }

ModelBuilder& PackageBuilder::AddMember(int32_t spec_version, const std::string& name) {
  message().mutable_pipeline();
  ModelBuilder& member = members_.emplace_back(spec_version);
  member.weights().file_name = std::to_string(members_.size() - 1) + "-weight.bin";
  member_names_.push_back(name);
  return member;
}

void PackageBuilder::ExtraFile(const std::string& relative, std::string bytes) {
  extra_[relative] = std::move(bytes);
}

wire::Model PackageBuilder::Finished() const {
  wire::Model model = const_cast<PackageBuilder*>(this)->message();
  for (size_t i = 0; i < members_.size(); ++i) {
    *model.mutable_pipeline()->add_models() = const_cast<ModelBuilder&>(members_[i]).message();
    model.mutable_pipeline()->add_names(member_names_[i]);
  }
  return model;
}

fs::path PackageBuilder::Write(const fs::path& path) {
  EXPECT_FALSE(fs::exists(path)) << path;
  const auto path_of = [](const nlohmann::json& entries, const char* id, const char* otherwise) {
    return entries.contains(id) ? entries[id].value("path", otherwise) : std::string(otherwise);
  };
  const auto& entries = manifest_["itemInfoEntries"];
  const fs::path model_file =
      path / "Data" / path_of(entries, kModelId, "com.apple.CoreML/model.mlmodel");
  const fs::path weights_folder = model_file.parent_path() / "weights";
  WriteFile(path / "Manifest.json", manifest_text_ ? *manifest_text_ : manifest_.dump(4) + "\n");
  WriteFile(model_file, Serialized(Finished()));
  fs::create_directories(weights_folder);
  const auto write_weights = [&](BuilderWeights& weights) {
    if (weights.file.count() > 0)
      WriteFile(weights_folder / weights.file_name, weights.file.bytes());
  };
  write_weights(weights());
  for (ModelBuilder& member : members_) write_weights(member.weights());
  for (const auto& [relative, bytes] : extra_) WriteFile(path / relative, bytes);
  return path;
}

// --- Typical tiny models ------------------------------------------------------------------------

std::string RandomWeights(DataType dtype, uint64_t count, uint64_t seed) {
  return FloatBytes(dtype, Gaussian(count, seed));
}

namespace {

// A model whose main function reads x with one operation that has the constant "weight".
PackageBuilder OneOp(DataType dtype, const Shape& weight, const Shape& x, const Shape& y,
                     int32_t spec_version, uint64_t seed, DataType x_dtype,
                     const std::function<void(BlockBuilder& main, const wire::ValueType& y)>& add) {
  PackageBuilder package(spec_version);
  package.DescribeInput("x", x_dtype, x);
  package.DescribeOutput("y", dtype);
  package.FunctionInput("main", "x", TensorType(x_dtype, x));
  BlockBuilder main = package.Function("main");
  main.BlobConst("weight", dtype, weight, RandomWeights(dtype, CountOf(weight), seed));
  add(main, TensorType(dtype, y));
  main.Output("y");
  return package;
}

void AddConv(BlockBuilder& main, const std::string& type, const wire::ValueType& y) {
  main.Const("strides", Int32sValue({1, 1}));
  main.Const("dilations", Int32sValue({1, 1}));
  main.Const("groups", Int32Value(1));
  main.Const("pad_type", StringValue("valid"));
  main.Const("pad", Int32sValue({0, 0, 0, 0}));
  main.Op(type, "y",
          {{"x", "x"},
           {"weight", "weight"},
           {"strides", "strides"},
           {"dilations", "dilations"},
           {"groups", "groups"},
           {"pad_type", "pad_type"},
           {"pad", "pad"}},
          y);
}

}  // namespace

PackageBuilder OneLinear(DataType dtype, int64_t out, int64_t in, int32_t spec_version,
                         uint64_t seed) {
  return OneOp(dtype, {out, in}, {1, in}, {1, out}, spec_version, seed, dtype,
               [](BlockBuilder& main, const wire::ValueType& y) {
                 main.Op("linear", "y", {{"x", "x"}, {"weight", "weight"}}, y);
               });
}

PackageBuilder OneConv(DataType dtype, int64_t out, int64_t in, int64_t k, int32_t spec_version,
                       uint64_t seed) {
  return OneOp(dtype, {out, in, k, k}, {1, in, k, k}, {1, out, 1, 1}, spec_version, seed, dtype,
               [](BlockBuilder& main, const wire::ValueType& y) { AddConv(main, "conv", y); });
}

PackageBuilder OneConvTranspose(DataType dtype, int64_t out, int64_t in, int64_t k,
                                int32_t spec_version, uint64_t seed) {
  return OneOp(
      dtype, {in, out, k, k}, {1, in, 1, 1}, {1, out, k, k}, spec_version, seed, dtype,
      [](BlockBuilder& main, const wire::ValueType& y) { AddConv(main, "conv_transpose", y); });
}

PackageBuilder OneMatmul(DataType dtype, int64_t out, int64_t in, bool transpose_y,
                         int32_t spec_version, uint64_t seed) {
  return OneOp(dtype, transpose_y ? Shape{out, in} : Shape{in, out}, {1, in}, {1, out},
               spec_version, seed, dtype, [=](BlockBuilder& main, const wire::ValueType& y) {
                 main.Const("transpose_x", BoolValue(false));
                 main.Const("transpose_y", BoolValue(transpose_y));
                 main.Op("matmul", "y",
                         {{"x", "x"},
                          {"y", "weight"},
                          {"transpose_x", "transpose_x"},
                          {"transpose_y", "transpose_y"}},
                         y);
               });
}

PackageBuilder OneMatmulX(DataType dtype, int64_t out, int64_t in, bool transpose_x,
                          int32_t spec_version, uint64_t seed) {
  return OneOp(dtype, transpose_x ? Shape{in, out} : Shape{out, in}, {in, 1}, {out, 1},
               spec_version, seed, dtype, [=](BlockBuilder& main, const wire::ValueType& y) {
                 main.Const("transpose_x", BoolValue(transpose_x));
                 main.Const("transpose_y", BoolValue(false));
                 main.Op("matmul", "y",
                         {{"x", "weight"},
                          {"y", "x"},
                          {"transpose_x", "transpose_x"},
                          {"transpose_y", "transpose_y"}},
                         y);
               });
}

PackageBuilder OneGather(DataType dtype, int64_t rows, int64_t columns, int32_t spec_version,
                         uint64_t seed) {
  return OneOp(dtype, {rows, columns}, {3}, {3, columns}, spec_version, seed, DataType::kInt32,
               [](BlockBuilder& main, const wire::ValueType& y) {
                 main.Const("axis", Int32Value(0));
                 main.Op("gather", "y", {{"x", "weight"}, {"indices", "x"}, {"axis", "axis"}}, y);
               });
}

}  // namespace cmlc::test
