// Every message has a reader and a writer side by side, in the order of proto/mil.proto. Unknown
// fields are serialized into `opaque` on the way in and merged back on the way out.
#include "format/spec.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/stubs/common.h>
#include <google/protobuf/unknown_field_set.h>

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "mil.pb.h"
#include "model.pb.h"

namespace cmlc::format {
namespace {

namespace pb = google::protobuf;

// A protobuf runtime stops at 100 levels by default, which nested blocks inside pipelines could
// reach. Every level costs a few stack frames here; this many are safe on an 8 MB stack.
constexpr int kMostLevels = 500;
constexpr int kMostNestedPipelines = 50;

// Field numbers of pipelines.
constexpr uint32_t kModels = wire::Pipeline::kModelsFieldNumber;
constexpr uint32_t kInHolder = wire::PipelineHolder::kPipelineFieldNumber;

template <typename Message>
std::string TakeOpaque(const Message& message) {
  const pb::UnknownFieldSet& fields = message.GetReflection()->GetUnknownFields(message);
  std::string bytes;
  if (!fields.empty()) fields.SerializeToString(&bytes);
  return bytes;
}

// Reads `bytes`, which were part of a message that was read, into a message or a set of fields.
// They may nest as deeply as that one.
template <typename Message>
void ParseAgain(const std::string& bytes, Message& message) {
  pb::io::CodedInputStream stream(reinterpret_cast<const uint8_t*>(bytes.data()),
                                  static_cast<int>(bytes.size()));
  stream.SetRecursionLimit(kMostLevels);
  CMLC_CHECK(message.MergeFromCodedStream(&stream) && stream.ConsumedEntireMessage());
}

template <typename Message>
void PutOpaque(const std::string& opaque, Message& message) {
  if (opaque.empty()) return;
  ParseAgain(opaque, *message.GetReflection()->MutableUnknownFields(&message));
}

// --- Reading ------------------------------------------------------------------------------------

class Reader {
 public:
  Reader(const MessageFile& from, TensorStore& store, const ResolveBlob& resolve)
      : from_(from), path_(from.path), store_(store), resolve_(resolve) {}

  Result<Model> ReadRoot();

 private:
  Result<Model> ReadModel(std::string_view bytes, int depth);
  Status ReadPipeline(std::string_view bytes, bool is_holder, int depth, Model& out,
                      WireMessage& shell);
  template <typename Message>
  Status Parse(std::string_view bytes, Message& message) const;
  Error Corrupt(const char* at) const;
  Status Read(wire::Program& in, Program& out);
  Status Read(wire::Function& in, Function& out);
  Status Read(wire::Block& in, Block& out);
  Status Read(wire::Operation& in, Operation& out);
  Status Read(wire::Value& in, Value& out);
  Status Read(wire::ImmediateValue& in, Value& out);
  void Read(const wire::NamedValueType& in, NamedValueType& out);
  void Read(const wire::ValueType& in, ValueType& out);
  void Read(const wire::Dimension& in, Dimension& out);
  void Read(wire::TensorValue& in, ImmediateTensor& out);
  Status CheckBlob(const Value& value, const wire::BlobFileValue& blob, TensorId id);

  template <typename Map>
  Status ReadAttributes(Map& in, Attributes& out) {
    for (auto& [name, value] : in) CMLC_RETURN_IF_ERROR(Read(value, out[name]));
    return Ok();
  }

  template <typename In>
  Status ReadElements(In& in, Collection::Kind kind, Value& out) {
    Collection collection;
    collection.kind = kind;
    collection.opaque = TakeOpaque(in);
    for (wire::Value& element : *in.mutable_values())
      CMLC_RETURN_IF_ERROR(Read(element, collection.elements.emplace_back()));
    out.content = std::move(collection);
    return Ok();
  }

  Error Bad(std::string_view what) const {
    std::string text = path_ + ": ";
    if (!function_.empty()) text += "function '" + function_ + "': ";
    if (!operation_.empty()) text += "op '" + operation_ + "': ";
    return {ErrorKind::kBadInput, text + std::string(what)};
  }

  // Messages that only wrap something have no `opaque` of their own: a field in one of them that
  // we do not know is refused rather than dropped.
  template <typename Message>
  Status RefuseUnknown(const Message& message) const {
    if (message.GetReflection()->GetUnknownFields(message).empty()) return Ok();
    return Bad(fmt::format("a {} holds a field that this version of cmlc does not know",
                           std::string(Message::GetDescriptor()->name())));
  }

  // The same for readers that cannot fail: the model is refused in the end.
  template <typename Message>
  const Message& Bare(const Message& message) {
    if (Status status = RefuseUnknown(message); !status.ok() && refused_.ok()) refused_ = status;
    return message;
  }

  const MessageFile& from_;
  const std::string& path_;
  TensorStore& store_;
  const ResolveBlob& resolve_;
  Status refused_;
  std::string function_;   // being read, for messages
  std::string operation_;  // likewise
};

void Reader::Read(const wire::Dimension& in, Dimension& out) {
  out.opaque = TakeOpaque(in);
  switch (in.dimension_case()) {
    case wire::Dimension::kConstant:
      out.kind = Dimension::Kind::kConstant;
      out.size = Bare(in.constant()).size();
      break;
    case wire::Dimension::kUnknown:
      out.kind = Dimension::Kind::kUnknown;
      out.variadic = Bare(in.unknown()).variadic();
      break;
    case wire::Dimension::DIMENSION_NOT_SET:
      break;
  }
}

void Reader::Read(const wire::ValueType& in, ValueType& out) {
  out.opaque = TakeOpaque(in);
  switch (in.type_case()) {
    case wire::ValueType::kTensorType: {
      const wire::TensorType& tensor = in.tensortype();
      out.kind = ValueType::Kind::kTensor;
      out.tensor.dtype = static_cast<DataType>(tensor.datatype());
      out.tensor.rank = tensor.rank();
      out.tensor.opaque = TakeOpaque(tensor);
      out.tensor.dimensions.resize(static_cast<size_t>(tensor.dimensions_size()));
      for (int i = 0; i < tensor.dimensions_size(); ++i)
        Read(tensor.dimensions(i), out.tensor.dimensions[static_cast<size_t>(i)]);
      break;
    }
    case wire::ValueType::kListType:
      out.kind = ValueType::Kind::kList;
      out.inner_opaque = TakeOpaque(in.listtype());
      if (in.listtype().has_type()) Read(in.listtype().type(), out.elements.emplace_back());
      if (in.listtype().has_length()) Read(in.listtype().length(), out.length.emplace());
      break;
    case wire::ValueType::kTupleType:
      out.kind = ValueType::Kind::kTuple;
      out.inner_opaque = TakeOpaque(in.tupletype());
      for (const wire::ValueType& element : in.tupletype().types())
        Read(element, out.elements.emplace_back());
      break;
    case wire::ValueType::kDictionaryType:
      out.kind = ValueType::Kind::kDictionary;
      out.inner_opaque = TakeOpaque(in.dictionarytype());
      out.present = {in.dictionarytype().has_keytype(), in.dictionarytype().has_valuetype()};
      Read(in.dictionarytype().keytype(), out.elements.emplace_back());
      Read(in.dictionarytype().valuetype(), out.elements.emplace_back());
      break;
    case wire::ValueType::kStateType:
      out.kind = ValueType::Kind::kState;
      out.inner_opaque = TakeOpaque(in.statetype());
      if (in.statetype().has_wrappedtype())
        Read(in.statetype().wrappedtype(), out.elements.emplace_back());
      break;
    case wire::ValueType::TYPE_NOT_SET:
      out.kind = ValueType::Kind::kEmpty;
      break;
  }
}

void Reader::Read(const wire::NamedValueType& in, NamedValueType& out) {
  out.name = in.name();
  if (in.has_type()) Read(in.type(), out.type.emplace());
  out.opaque = TakeOpaque(in);
}

void Reader::Read(wire::TensorValue& in, ImmediateTensor& out) {
  out.opaque = TakeOpaque(in);
  const auto copied = [](const auto& values, auto& to) { to.assign(values.begin(), values.end()); };
  switch (in.value_case()) {
    case wire::TensorValue::kFloats:
      copied(Bare(in.floats()).values(), out.values.emplace<Floats>().values);
      break;
    case wire::TensorValue::kInts:
      copied(Bare(in.ints()).values(), out.values.emplace<Ints>().values);
      break;
    case wire::TensorValue::kBools:
      copied(Bare(in.bools()).values(), out.values.emplace<Bools>().values);
      break;
    case wire::TensorValue::kStrings:
      copied(Bare(in.strings()).values(), out.values.emplace<Strings>().values);
      break;
    case wire::TensorValue::kLongInts:
      copied(Bare(in.longints()).values(), out.values.emplace<LongInts>().values);
      break;
    case wire::TensorValue::kDoubles:
      copied(Bare(in.doubles()).values(), out.values.emplace<Doubles>().values);
      break;
    case wire::TensorValue::kBytes:
      Bare(in.bytes());
      out.values.emplace<Bytes>().values = std::move(*in.mutable_bytes()->mutable_values());
      break;
    case wire::TensorValue::VALUE_NOT_SET:
      break;
  }
}

Status Reader::Read(wire::ImmediateValue& in, Value& out) {
  CMLC_RETURN_IF_ERROR(RefuseUnknown(in));
  switch (in.value_case()) {
    case wire::ImmediateValue::kTensor:
      Read(*in.mutable_tensor(), out.content.emplace<ImmediateTensor>());
      break;
    case wire::ImmediateValue::kTuple:
      return ReadElements(*in.mutable_tuple(), Collection::Kind::kTuple, out);
    case wire::ImmediateValue::kList:
      return ReadElements(*in.mutable_list(), Collection::Kind::kList, out);
    case wire::ImmediateValue::kDictionary: {
      Collection collection;
      collection.kind = Collection::Kind::kDictionary;
      collection.opaque = TakeOpaque(in.dictionary());
      for (auto& pair : *in.mutable_dictionary()->mutable_values()) {
        CMLC_RETURN_IF_ERROR(RefuseUnknown(pair));
        if (!pair.has_key() || !pair.has_value())
          return Bad("an entry of a dictionary lacks its key or its value");
        CMLC_RETURN_IF_ERROR(Read(*pair.mutable_key(), collection.elements.emplace_back()));
        CMLC_RETURN_IF_ERROR(Read(*pair.mutable_value(), collection.elements.emplace_back()));
      }
      out.content = std::move(collection);
      break;
    }
    case wire::ImmediateValue::VALUE_NOT_SET:
      out.content = EmptyImmediate{};
      break;
  }
  return Ok();
}

Status Reader::Read(wire::Value& in, Value& out) {
  out.doc = in.docstring();
  if (in.has_type()) Read(in.type(), out.type);
  out.opaque = TakeOpaque(in);
  switch (in.value_case()) {
    case wire::Value::kImmediateValue:
      return Read(*in.mutable_immediatevalue(), out);
    case wire::Value::kBlobFileValue: {
      const wire::BlobFileValue& blob = in.blobfilevalue();
      CMLC_RETURN_IF_ERROR(RefuseUnknown(blob));
      const Result<TensorId> id = resolve_(blob.filename(), blob.offset());
      if (!id.ok()) return Bad(id.error().message);
      CMLC_RETURN_IF_ERROR(CheckBlob(out, blob, *id));
      out.content = *id;
      break;
    }
    case wire::Value::VALUE_NOT_SET:
      break;
  }
  return Ok();
}

Status Reader::CheckBlob(const Value& value, const wire::BlobFileValue& blob, TensorId id) {
  const auto bad = [&](std::string_view what) {
    return Bad(fmt::format("blob at offset {} of '{}': {}", blob.offset(), blob.filename(), what));
  };
  const std::optional<Shape> shape = StaticShape(value.type);
  if (!shape)
    return bad(fmt::format("its value has type {}, expected a tensor of fixed shape",
                           ToString(value.type)));
  const std::optional<uint64_t> count = ElementCount(*shape);
  if (!count) return bad("its value's shape overflows");
  const TensorInfo& info = store_.info(id);
  if (info.missing) return Ok();
  if (info.dtype != value.type.tensor.dtype)
    return bad(
        fmt::format("holds {}, its value has type {}", NameOf(info.dtype), ToString(value.type)));
  if (info.element_count != *count)
    return bad(fmt::format("holds {} elements, its value of type {} needs {}", info.element_count,
                           ToString(value.type), *count));
  return Ok();
}

Status Reader::Read(wire::Operation& in, Operation& out) {
  out.type = in.type();
  out.opaque = TakeOpaque(in);
  const std::string outer = operation_;
  operation_ = in.outputs_size() > 0 ? in.outputs(0).name() : in.type();
  for (const wire::NamedValueType& output : in.outputs()) Read(output, out.outputs.emplace_back());
  CMLC_RETURN_IF_ERROR(ReadAttributes(*in.mutable_attributes(), out.attributes));
  for (auto& [name, argument] : *in.mutable_inputs()) {
    Argument& to = out.inputs[name];
    to.opaque = TakeOpaque(argument);
    for (wire::Argument::Binding& binding : *argument.mutable_arguments()) {
      Binding& bound = to.bindings.emplace_back();
      bound.opaque = TakeOpaque(binding);
      if (binding.has_name()) {
        bound.target = binding.name();
      } else if (binding.has_value()) {
        CMLC_RETURN_IF_ERROR(Read(*binding.mutable_value(), bound.target.emplace<Value>()));
      }
    }
  }
  for (wire::Block& block : *in.mutable_blocks())
    CMLC_RETURN_IF_ERROR(Read(block, out.blocks.emplace_back()));
  operation_ = outer;
  return Ok();
}

Status Reader::Read(wire::Block& in, Block& out) {
  out.opaque = TakeOpaque(in);
  for (const wire::NamedValueType& input : in.inputs()) Read(input, out.inputs.emplace_back());
  out.outputs.assign(in.outputs().begin(), in.outputs().end());
  out.operations.reserve(static_cast<size_t>(in.operations_size()));
  for (wire::Operation& op : *in.mutable_operations())
    CMLC_RETURN_IF_ERROR(Read(op, out.operations.emplace_back()));
  return ReadAttributes(*in.mutable_attributes(), out.attributes);
}

Status Reader::Read(wire::Function& in, Function& out) {
  out.opset = in.opset();
  out.opaque = TakeOpaque(in);
  for (const wire::NamedValueType& input : in.inputs()) Read(input, out.inputs.emplace_back());
  for (auto& [name, block] : *in.mutable_block_specializations())
    CMLC_RETURN_IF_ERROR(Read(block, out.specializations[name]));
  CMLC_RETURN_IF_ERROR(ReadAttributes(*in.mutable_attributes(), out.attributes));
  if (ActiveBlock(out) == nullptr)
    return Bad(fmt::format("names opset '{}', which none of its {} blocks is for", out.opset,
                           out.specializations.size()));
  return Ok();
}

Status Reader::Read(wire::Program& in, Program& out) {
  out.version = in.version();
  if (out.version != 1) return Bad(fmt::format("program version is {}, expected 1", out.version));
  out.doc = in.docstring();
  out.opaque = TakeOpaque(in);
  for (auto& [name, function] : *in.mutable_functions()) {
    function_ = name;
    CMLC_RETURN_IF_ERROR(Read(function, out.functions[name]));
  }
  function_.clear();
  return ReadAttributes(*in.mutable_attributes(), out.attributes);
}

// --- The interface, for reports -----------------------------------------------------------------

std::string ArrayTypeName(int32_t code) {
  switch (code) {
    case 65568:
      return "fp32";
    case 65600:
      return "fp64";
    case 131104:
      return "int32";
    case 65552:
      return "fp16";
    case 131080:
      return "int8";
    default:
      return fmt::format("array type {}", code);
  }
}

std::string Describe(const wire::ArrayFeatureType& array) {
  const std::string dtype = ArrayTypeName(array.datatype());
  if (array.has_shaperange()) {
    std::vector<std::string> sizes;
    for (const wire::SizeRange& range : array.shaperange().sizeranges()) {
      if (range.upperbound() < 0)
        sizes.push_back(fmt::format("{}..", range.lowerbound()));
      else if (static_cast<uint64_t>(range.upperbound()) == range.lowerbound())
        sizes.push_back(fmt::format("{}", range.lowerbound()));
      else
        sizes.push_back(fmt::format("{}..{}", range.lowerbound(), range.upperbound()));
    }
    return fmt::format("{} [{}]", dtype, fmt::join(sizes, ", "));
  }
  std::string text = fmt::format("{} [{}]", dtype, fmt::join(array.shape(), ", "));
  if (array.has_enumeratedshapes())
    text += fmt::format(" or one of {} shapes", array.enumeratedshapes().shapes_size());
  return text;
}

std::string Describe(const wire::FeatureType& type) {
  std::string text;
  switch (type.Type_case()) {
    case wire::FeatureType::kInt64Type:
      text = "int64";
      break;
    case wire::FeatureType::kDoubleType:
      text = "fp64";
      break;
    case wire::FeatureType::kStringType:
      text = "string";
      break;
    case wire::FeatureType::kImageType: {
      const wire::ImageFeatureType& image = type.imagetype();
      const char* color = image.colorspace() == 10   ? "grayscale"
                          : image.colorspace() == 20 ? "RGB"
                          : image.colorspace() == 30 ? "BGR"
                          : image.colorspace() == 40 ? "grayscale fp16"
                                                     : "of unknown colours";
      text = fmt::format("image {}x{} {}", image.width(), image.height(), color);
      break;
    }
    case wire::FeatureType::kMultiArrayType:
      text = Describe(type.multiarraytype());
      break;
    case wire::FeatureType::kDictionaryType:
      text = "dictionary";
      break;
    case wire::FeatureType::kSequenceType:
      text = "sequence";
      break;
    case wire::FeatureType::kStateType:
      text = Describe(type.statetype().arraytype());
      break;
    case wire::FeatureType::TYPE_NOT_SET:
      text = "none";
      break;
  }
  if (type.isoptional()) text += ", optional";
  return text;
}

DataType ArrayDtype(int32_t code) {
  switch (code) {
    case 65568:
      return DataType::kFloat32;
    case 65600:
      return DataType::kFloat64;
    case 131104:
      return DataType::kInt32;
    case 65552:
      return DataType::kFloat16;
    case 131080:
      return DataType::kInt8;
    default:
      return DataType::kUnused;
  }
}

// A file's sizes are any 64 bits; what no size can be is kept as the largest.
int64_t Clamped(uint64_t size) {
  return static_cast<int64_t>(
      std::min<uint64_t>(size, static_cast<uint64_t>(std::numeric_limits<int64_t>::max())));
}

Feature::SizeRange RangeOf(const wire::SizeRange& range) {
  return {Clamped(range.lowerbound()), std::max<int64_t>(-1, range.upperbound())};
}

void Fill(const wire::ArrayFeatureType& array, Feature& out) {
  out.dtype = ArrayDtype(array.datatype());
  out.shape.assign(array.shape().begin(), array.shape().end());
  for (const auto& shape : array.enumeratedshapes().shapes())
    out.shapes.emplace_back(shape.shape().begin(), shape.shape().end());
  for (const wire::SizeRange& range : array.shaperange().sizeranges())
    out.ranges.push_back(RangeOf(range));
  switch (array.DefaultOptionalValue_case()) {
    case wire::ArrayFeatureType::kIntDefaultValue:
      out.default_value = array.intdefaultvalue();
      break;
    case wire::ArrayFeatureType::kFloatDefaultValue:
      out.default_value = static_cast<double>(array.floatdefaultvalue());
      break;
    case wire::ArrayFeatureType::kDoubleDefaultValue:
      out.default_value = array.doubledefaultvalue();
      break;
    case wire::ArrayFeatureType::DEFAULTOPTIONALVALUE_NOT_SET:
      break;
  }
}

void Fill(const wire::ImageFeatureType& image, Feature& out) {
  out.colors = image.colorspace() == 10   ? Feature::Colors::kGray
               : image.colorspace() == 20 ? Feature::Colors::kRgb
               : image.colorspace() == 30 ? Feature::Colors::kBgr
               : image.colorspace() == 40 ? Feature::Colors::kGrayFp16
                                          : Feature::Colors::kUnknown;
  out.size = {image.width(), image.height()};
  for (const auto& size : image.enumeratedsizes().sizes())
    out.sizes.push_back({Clamped(size.width()), Clamped(size.height())});
  if (image.has_imagesizerange()) {
    out.width_range = RangeOf(image.imagesizerange().widthrange());
    out.height_range = RangeOf(image.imagesizerange().heightrange());
  }
}

Feature FeatureOf(const wire::FeatureDescription& in) {
  const wire::FeatureType& type = in.type();
  Feature out;
  out.name = in.name();
  out.type = Describe(type);
  out.optional = type.isoptional();
  switch (type.Type_case()) {
    case wire::FeatureType::kInt64Type:
      out.kind = Feature::Kind::kInt64;
      break;
    case wire::FeatureType::kDoubleType:
      out.kind = Feature::Kind::kDouble;
      break;
    case wire::FeatureType::kStringType:
      out.kind = Feature::Kind::kString;
      break;
    case wire::FeatureType::kImageType:
      out.kind = Feature::Kind::kImage;
      Fill(type.imagetype(), out);
      break;
    case wire::FeatureType::kMultiArrayType:
      out.kind = Feature::Kind::kArray;
      Fill(type.multiarraytype(), out);
      break;
    case wire::FeatureType::kDictionaryType:
      out.kind = Feature::Kind::kDictionary;
      break;
    case wire::FeatureType::kSequenceType:
      out.kind = Feature::Kind::kSequence;
      break;
    case wire::FeatureType::kStateType:
      out.kind = Feature::Kind::kState;
      Fill(type.statetype().arraytype(), out);
      break;
    case wire::FeatureType::TYPE_NOT_SET:
      break;
  }
  return out;
}

template <typename Repeated>
std::vector<Feature> Describe(const Repeated& features) {
  std::vector<Feature> all;
  for (const wire::FeatureDescription& feature : features) all.push_back(FeatureOf(feature));
  return all;
}

std::string KindOf(const wire::Model& model) {
  const pb::FieldDescriptor* field =
      wire::Model::GetDescriptor()->FindFieldByNumber(static_cast<int>(model.Type_case()));
  return field != nullptr ? std::string(field->name()) : std::string();
}

bool IsNetwork(uint32_t kind) {
  return kind == wire::Model::kNeuralNetwork || kind == wire::Model::kNeuralNetworkClassifier ||
         kind == wire::Model::kNeuralNetworkRegressor;
}

bool IsPipeline(uint32_t kind) {
  return kind == wire::Model::kPipeline || kind == wire::Model::kPipelineClassifier ||
         kind == wire::Model::kPipelineRegressor;
}

// Pipelines that classify and regress are one message further in.
bool IsHolder(uint32_t kind) { return IsPipeline(kind) && kind != wire::Model::kPipeline; }

Error Reader::Corrupt(const char* at) const {
  return {ErrorKind::kBadInput,
          fmt::format("{}: is not a valid model message (truncated or corrupt near byte {} of {})",
                      path_, at - from_.bytes.data(), from_.bytes.size())};
}

template <typename Message>
Status Reader::Parse(std::string_view bytes, Message& message) const {
  pb::io::CodedInputStream stream(reinterpret_cast<const uint8_t*>(bytes.data()),
                                  static_cast<int>(bytes.size()));
  stream.SetRecursionLimit(kMostLevels);
  if (message.ParseFromCodedStream(&stream) && stream.ConsumedEntireMessage()) return Ok();
  // What was put together from pieces has no place in the file that could be told.
  const bool is_in_file =
      bytes.data() >= from_.bytes.data() && bytes.data() < from_.bytes.data() + from_.bytes.size();
  return Corrupt(is_in_file ? bytes.data() + stream.CurrentPosition() : from_.bytes.data());
}

// The members of a pipeline; `shell` gets what else there is.
Status Reader::ReadPipeline(std::string_view bytes, bool is_holder, int depth, Model& out,
                            WireMessage& shell) {
  WireReader fields(bytes);
  int pipelines = 0;
  while (const auto field = fields.Next()) {
    if (!field->is_bytes || field->number != (is_holder ? kInHolder : kModels)) {
      shell.AddRaw(field->raw);
    } else if (!is_holder) {
      CMLC_ASSIGN_OR_RETURN(out.members.emplace_back(), ReadModel(field->payload, depth + 1));
    } else {
      if (++pipelines > 1) return Bad("holds several pipelines in one, expected one");
      WireMessage inner;
      CMLC_RETURN_IF_ERROR(ReadPipeline(field->payload, false, depth, out, inner));
      shell.AddMessage(kInHolder, std::move(inner));
    }
  }
  if (fields.malformed()) return Corrupt(fields.rest().data());
  return Ok();
}

// Networks and members of pipelines are taken out of the message before it is parsed: weights of
// networks lie in it, and stay where they are.
Result<Model> Reader::ReadModel(std::string_view bytes, int depth) {
  if (depth > kMostNestedPipelines)
    return Bad(fmt::format("pipelines are nested more than {} deep", kMostNestedPipelines));
  Model out;
  uint32_t kind = 0;
  int kinds = 0;
  WireReader look(bytes);
  while (const auto field = look.Next())
    if (field->is_bytes && (IsNetwork(field->number) || IsPipeline(field->number))) {
      kind = field->number;
      ++kinds;
    }
  if (look.malformed()) return Corrupt(look.rest().data());
  if (kinds > 1) return Bad("holds several models in one, expected one");

  WireMessage shell;
  if (kind != 0) {
    WireReader fields(bytes);
    while (const auto field = fields.Next()) {
      if (field->number != kind) {
        shell.AddRaw(field->raw);
        continue;
      }
      WireMessage inner;
      if (IsNetwork(kind)) {
        CMLC_ASSIGN_OR_RETURN(out.network, ParseNetwork(field->payload, from_, store_));
      } else {
        CMLC_RETURN_IF_ERROR(ReadPipeline(field->payload, IsHolder(kind), depth, out, inner));
      }
      shell.AddMessage(kind, std::move(inner));
    }
    CMLC_ASSIGN_OR_RETURN(out.shell, ToBytes(shell, store_));
  }

  wire::Model message;
  CMLC_RETURN_IF_ERROR(Parse(kind != 0 ? std::string_view(out.shell) : bytes, message));
  if (kind != 0 && static_cast<uint32_t>(message.Type_case()) != kind)
    return Bad("holds several models in one, expected one");
  out.kind = KindOf(message);
  out.specification_version = message.specificationversion();
  const wire::ModelDescription& description = message.description();
  out.interface = {.name = "main",
                   .inputs = Describe(description.input()),
                   .outputs = Describe(description.output()),
                   .states = Describe(description.state())};
  for (const wire::FunctionDescription& function : description.functions())
    out.functions.push_back({.name = function.name(),
                             .inputs = Describe(function.input()),
                             .outputs = Describe(function.output()),
                             .states = Describe(function.state())});
  out.default_function = description.defaultfunctionname();
  if (out.network) out.network->updatable = message.isupdatable();
  if (IsPipeline(kind)) {
    const wire::Pipeline& pipeline = kind == wire::Model::kPipeline ? message.pipeline()
                                     : kind == wire::Model::kPipelineClassifier
                                         ? message.pipelineclassifier().pipeline()
                                         : message.pipelineregressor().pipeline();
    out.member_names.assign(pipeline.names().begin(), pipeline.names().end());
  }
  if (kind != 0) return out;
  if (message.has_mlprogram()) {
    CMLC_RETURN_IF_ERROR(Read(*message.mutable_mlprogram(), out.program.emplace()));
    message.mutable_mlprogram()->Clear();
  }
  if (!message.SerializeToString(&out.shell)) return Bad("cannot be held in memory");
  return out;
}

Result<Model> Reader::ReadRoot() {
  CMLC_ASSIGN_OR_RETURN(Model out, ReadModel(from_.bytes, 0));
  CMLC_RETURN_IF_ERROR(refused_);
  if (out.specification_version <= 0)
    return Bad(
        fmt::format("specification version is {}, expected 1 or more", out.specification_version));
  return out;
}

// --- Writing ------------------------------------------------------------------------------------

class Writer {
 public:
  Writer(const TensorStore& store, const PlaceOfBlob& place) : store_(store), place_(place) {}

  Result<WireMessage> WriteModel(const Model& in) const;

 private:
  Result<WireMessage> WritePipeline(const Model& in, std::string_view shell, bool is_holder) const;
  void Write(const Program& in, wire::Program& out) const;
  void Write(const Function& in, wire::Function& out) const;
  void Write(const Block& in, wire::Block& out) const;
  void Write(const Operation& in, wire::Operation& out) const;
  void Write(const Value& in, wire::Value& out) const;
  void Write(const NamedValueType& in, wire::NamedValueType& out) const;
  void Write(const ValueType& in, wire::ValueType& out) const;
  void Write(const Dimension& in, wire::Dimension& out) const;
  void Write(const ImmediateTensor& in, wire::TensorValue& out) const;
  void Write(const Collection& in, wire::ImmediateValue& out) const;
  static Error TooLarge() {
    return {ErrorKind::kOutput, "the model message would have more than 2 GiB"};
  }

  template <typename Map>
  void WriteAttributes(const Attributes& in, Map& out) const {
    for (const auto& [name, value] : in) Write(value, out[name]);
  }

  const TensorStore& store_;
  const PlaceOfBlob& place_;
};

void Writer::Write(const Dimension& in, wire::Dimension& out) const {
  PutOpaque(in.opaque, out);
  if (in.kind == Dimension::Kind::kConstant) out.mutable_constant()->set_size(in.size);
  if (in.kind == Dimension::Kind::kUnknown) out.mutable_unknown()->set_variadic(in.variadic);
}

void Writer::Write(const ValueType& in, wire::ValueType& out) const {
  PutOpaque(in.opaque, out);
  switch (in.kind) {
    case ValueType::Kind::kNone:
    case ValueType::Kind::kEmpty:
      break;
    case ValueType::Kind::kTensor: {
      wire::TensorType& tensor = *out.mutable_tensortype();
      tensor.set_datatype(static_cast<int32_t>(in.tensor.dtype));
      tensor.set_rank(in.tensor.rank);
      PutOpaque(in.tensor.opaque, tensor);
      for (const Dimension& dimension : in.tensor.dimensions)
        Write(dimension, *tensor.add_dimensions());
      break;
    }
    case ValueType::Kind::kList: {
      wire::ListType& list = *out.mutable_listtype();
      PutOpaque(in.inner_opaque, list);
      if (!in.elements.empty()) Write(in.elements[0], *list.mutable_type());
      if (in.length) Write(*in.length, *list.mutable_length());
      break;
    }
    case ValueType::Kind::kTuple: {
      wire::TupleType& tuple = *out.mutable_tupletype();
      PutOpaque(in.inner_opaque, tuple);
      for (const ValueType& element : in.elements) Write(element, *tuple.add_types());
      break;
    }
    case ValueType::Kind::kDictionary: {
      wire::DictionaryType& dictionary = *out.mutable_dictionarytype();
      PutOpaque(in.inner_opaque, dictionary);
      if (in.present[0]) Write(in.elements[0], *dictionary.mutable_keytype());
      if (in.present[1]) Write(in.elements[1], *dictionary.mutable_valuetype());
      break;
    }
    case ValueType::Kind::kState: {
      wire::StateType& state = *out.mutable_statetype();
      PutOpaque(in.inner_opaque, state);
      if (!in.elements.empty()) Write(in.elements[0], *state.mutable_wrappedtype());
      break;
    }
  }
}

void Writer::Write(const NamedValueType& in, wire::NamedValueType& out) const {
  out.set_name(in.name);
  if (in.type) Write(*in.type, *out.mutable_type());
  PutOpaque(in.opaque, out);
}

void Writer::Write(const ImmediateTensor& in, wire::TensorValue& out) const {
  PutOpaque(in.opaque, out);
  const auto copied = [](const auto& values, auto& to) { to.Assign(values.begin(), values.end()); };
  if (const auto* floats = std::get_if<Floats>(&in.values))
    copied(floats->values, *out.mutable_floats()->mutable_values());
  else if (const auto* ints = std::get_if<Ints>(&in.values))
    copied(ints->values, *out.mutable_ints()->mutable_values());
  else if (const auto* bools = std::get_if<Bools>(&in.values))
    copied(bools->values, *out.mutable_bools()->mutable_values());
  else if (const auto* strings = std::get_if<Strings>(&in.values))
    copied(strings->values, *out.mutable_strings()->mutable_values());
  else if (const auto* longs = std::get_if<LongInts>(&in.values))
    copied(longs->values, *out.mutable_longints()->mutable_values());
  else if (const auto* doubles = std::get_if<Doubles>(&in.values))
    copied(doubles->values, *out.mutable_doubles()->mutable_values());
  else if (const auto* bytes = std::get_if<Bytes>(&in.values))
    out.mutable_bytes()->set_values(bytes->values);
}

void Writer::Write(const Collection& in, wire::ImmediateValue& out) const {
  switch (in.kind) {
    case Collection::Kind::kTuple:
      PutOpaque(in.opaque, *out.mutable_tuple());
      for (const Value& element : in.elements) Write(element, *out.mutable_tuple()->add_values());
      break;
    case Collection::Kind::kList:
      PutOpaque(in.opaque, *out.mutable_list());
      for (const Value& element : in.elements) Write(element, *out.mutable_list()->add_values());
      break;
    case Collection::Kind::kDictionary:
      PutOpaque(in.opaque, *out.mutable_dictionary());
      for (size_t i = 0; i + 1 < in.elements.size(); i += 2) {
        auto& pair = *out.mutable_dictionary()->add_values();
        Write(in.elements[i], *pair.mutable_key());
        Write(in.elements[i + 1], *pair.mutable_value());
      }
      break;
  }
}

void Writer::Write(const Value& in, wire::Value& out) const {
  out.set_docstring(in.doc);
  if (in.type.kind != ValueType::Kind::kNone) Write(in.type, *out.mutable_type());
  PutOpaque(in.opaque, out);
  if (const auto* id = std::get_if<TensorId>(&in.content)) {
    const BlobPlace place = place_(*id);
    out.mutable_blobfilevalue()->set_filename(place.file_name);
    out.mutable_blobfilevalue()->set_offset(place.offset);
  } else if (const auto* tensor = std::get_if<ImmediateTensor>(&in.content)) {
    Write(*tensor, *out.mutable_immediatevalue()->mutable_tensor());
  } else if (const auto* collection = std::get_if<Collection>(&in.content)) {
    Write(*collection, *out.mutable_immediatevalue());
  } else if (std::holds_alternative<EmptyImmediate>(in.content)) {
    out.mutable_immediatevalue();
  }
}

void Writer::Write(const Operation& in, wire::Operation& out) const {
  out.set_type(in.type);
  PutOpaque(in.opaque, out);
  for (const NamedValueType& output : in.outputs) Write(output, *out.add_outputs());
  WriteAttributes(in.attributes, *out.mutable_attributes());
  for (const auto& [name, argument] : in.inputs) {
    wire::Argument& to = (*out.mutable_inputs())[name];
    PutOpaque(argument.opaque, to);
    for (const Binding& binding : argument.bindings) {
      wire::Argument::Binding& bound = *to.add_arguments();
      PutOpaque(binding.opaque, bound);
      if (const auto* target = std::get_if<std::string>(&binding.target))
        bound.set_name(*target);
      else if (const auto* value = std::get_if<Value>(&binding.target))
        Write(*value, *bound.mutable_value());
    }
  }
  for (const Block& block : in.blocks) Write(block, *out.add_blocks());
}

void Writer::Write(const Block& in, wire::Block& out) const {
  PutOpaque(in.opaque, out);
  for (const NamedValueType& input : in.inputs) Write(input, *out.add_inputs());
  for (const std::string& output : in.outputs) out.add_outputs(output);
  for (const Operation& op : in.operations) Write(op, *out.add_operations());
  WriteAttributes(in.attributes, *out.mutable_attributes());
}

void Writer::Write(const Function& in, wire::Function& out) const {
  out.set_opset(in.opset);
  PutOpaque(in.opaque, out);
  for (const NamedValueType& input : in.inputs) Write(input, *out.add_inputs());
  for (const auto& [name, block] : in.specializations)
    Write(block, (*out.mutable_block_specializations())[name]);
  WriteAttributes(in.attributes, *out.mutable_attributes());
}

void Writer::Write(const Program& in, wire::Program& out) const {
  out.set_version(in.version);
  out.set_docstring(in.doc);
  PutOpaque(in.opaque, out);
  for (const auto& [name, function] : in.functions)
    Write(function, (*out.mutable_functions())[name]);
  WriteAttributes(in.attributes, *out.mutable_attributes());
}

// The members of a pipeline, and what else its shell holds.
Result<WireMessage> Writer::WritePipeline(const Model& in, std::string_view shell,
                                          bool is_holder) const {
  WireMessage out;
  if (!is_holder) {
    for (const Model& member : in.members) {
      CMLC_ASSIGN_OR_RETURN(WireMessage message, WriteModel(member));
      out.AddMessage(kModels, std::move(message));
    }
    out.AddRaw(shell);
    return out;
  }
  WireReader fields(shell);
  while (const auto field = fields.Next()) {
    if (field->number != kInHolder) {
      out.AddRaw(field->raw);
      continue;
    }
    CMLC_ASSIGN_OR_RETURN(WireMessage pipeline, WritePipeline(in, field->payload, false));
    out.AddMessage(kInHolder, std::move(pipeline));
  }
  return out;
}

Result<WireMessage> Writer::WriteModel(const Model& in) const {
  WireMessage out;
  if (!in.network && in.members.empty()) {
    wire::Model message;
    ParseAgain(in.shell, message);
    message.set_specificationversion(in.specification_version);
    if (in.program) Write(*in.program, *message.mutable_mlprogram());
    if (message.ByteSizeLong() > kMostMessageBytes) return TooLarge();
    std::string bytes;
    {
      pb::io::StringOutputStream sink(&bytes);
      pb::io::CodedOutputStream stream(&sink);
      stream.SetSerializationDeterministic(true);
      message.SerializeWithCachedSizes(&stream);
      CMLC_CHECK(!stream.HadError());
    }
    out.AddRaw(bytes);
    return out;
  }
  // A member may have come without a version, and need one now.
  bool has_version = in.specification_version == 0;
  WireReader fields(in.shell);
  while (const auto field = fields.Next()) {
    if (field->number == wire::Model::kSpecificationVersionFieldNumber) {
      out.AddVarint(field->number, static_cast<uint64_t>(in.specification_version));
      has_version = true;
    } else if (in.network && IsNetwork(field->number)) {
      CMLC_ASSIGN_OR_RETURN(WireMessage network, SerializeNetwork(*in.network, store_));
      out.AddMessage(field->number, std::move(network));
    } else if (IsPipeline(field->number)) {
      CMLC_ASSIGN_OR_RETURN(WireMessage pipeline,
                            WritePipeline(in, field->payload, IsHolder(field->number)));
      out.AddMessage(field->number, std::move(pipeline));
    } else {
      out.AddRaw(field->raw);
    }
  }
  if (!has_version)
    out.AddVarint(wire::Model::kSpecificationVersionFieldNumber,
                  static_cast<uint64_t>(in.specification_version));
  if (out.size_bytes() > kMostMessageBytes) return TooLarge();
  return out;
}

}  // namespace

Result<Model> ParseModel(const MessageFile& from, TensorStore& store, const ResolveBlob& resolve) {
  if (from.bytes.size() > kMostMessageBytes)
    return Error{ErrorKind::kBadInput,
                 fmt::format("{}: has {} bytes, a model message has at most 2 GiB", from.path,
                             from.bytes.size())};
#if GOOGLE_PROTOBUF_VERSION < 4022000
  // What is wrong is said once, by us; later versions have no handler that writes to stderr.
  pb::SetLogHandler(nullptr);
#endif
  return Reader(from, store, resolve).ReadRoot();
}

Result<WireMessage> SerializeModel(const Model& model, const TensorStore& store,
                                   const PlaceOfBlob& place) {
  return Writer(store, place).WriteModel(model);
}

}  // namespace cmlc::format
