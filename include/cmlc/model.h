// The graph: a model as cmlc holds it in memory.
//
//   Model ── members: Model ...                      (a pipeline)
//     └─ Program ── functions ── Function ── specializations ── Block
//                                                                 └─ operations ── Operation
//                                                                       ├─ inputs: names or Values
//                                                                       ├─ attributes: Values
//                                                                       └─ blocks: Block ...
//     └─ Network ── Block ...                       (an old NeuralNetwork)
//
// It stays as close to MIL as it can, so that reading and writing are plain and a model that no
// pass touched comes out equal. Two differences to the file:
//   - a value that lies in a weights file is held as a TensorId; the bytes stay where they are,
//     and all values with the same blob hold the same id, so sharing is visible;
//   - what the reader does not know rides along in `opaque`, as bytes, and is written back.
#ifndef CMLC_MODEL_H_
#define CMLC_MODEL_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "cmlc/tensor.h"

namespace cmlc {

// Names a tensor in a TensorStore.
enum class TensorId : uint32_t {};

// A size in a type. `kUnknown` is symbolic; `kAbsent` is a dimension message that says nothing.
struct Dimension {
  enum class Kind { kAbsent, kConstant, kUnknown };
  Kind kind = Kind::kAbsent;
  uint64_t size = 0;      // of kConstant
  bool variadic = false;  // of kUnknown
  std::string opaque;
};

struct TensorType {
  DataType dtype = DataType::kUnused;
  int64_t rank = 0;  // -1: variable
  std::vector<Dimension> dimensions;
  std::string opaque;
};

struct ValueType {
  // kNone: there is no type; kEmpty: there is one that says nothing.
  enum class Kind { kNone, kEmpty, kTensor, kList, kTuple, kDictionary, kState };
  Kind kind = Kind::kNone;
  TensorType tensor;                // kTensor
  std::vector<ValueType> elements;  // kList: element; kTuple: all; kDictionary: key, value;
                                    // kState: wrapped; empty where the file leaves them out
  std::vector<bool> present;        // kDictionary: whether key, value are there
  std::optional<Dimension> length;  // kList
  std::string opaque;               // of the type message
  std::string inner_opaque;         // of the list, tuple, dictionary or state message
};

// An immediate tensor, in the form in which it lies in the file. Writers differ in the form that
// they pick for a type, so readers go by the form that is there (see ImmediateBytes).
struct Floats {
  std::vector<float> values;
};
struct Ints {
  std::vector<int32_t> values;
};
struct Bools {
  std::vector<uint8_t> values;
};
struct Strings {
  std::vector<std::string> values;
};
struct LongInts {
  std::vector<int64_t> values;
};
struct Doubles {
  std::vector<double> values;
};
struct Bytes {  // little-endian elements; sub-byte types packed from the low bit up
  std::string values;
};
struct ImmediateTensor {
  std::variant<std::monostate, Floats, Ints, Bools, Strings, LongInts, Doubles, Bytes> values;
  std::string opaque;
};

struct Value;

// The elements of a tuple, list or dictionary (for which they alternate: key, value, key ...).
struct Collection {
  enum class Kind { kTuple, kList, kDictionary };
  Kind kind = Kind::kList;
  std::vector<Value> elements;
  std::string opaque;
};

// An immediate value that says nothing.
struct EmptyImmediate {};

struct Value {
  std::string doc;
  ValueType type;
  std::variant<std::monostate, TensorId, ImmediateTensor, Collection, EmptyImmediate> content;
  std::string opaque;
};

using Attributes = std::map<std::string, Value>;

// One thing bound to a parameter: the name of a value, or a literal.
struct Binding {
  std::variant<std::monostate, std::string, Value> target;
  std::string opaque;
};

struct Argument {
  std::vector<Binding> bindings;
  std::string opaque;
};

struct NamedValueType {
  std::string name;
  std::optional<ValueType> type;
  std::string opaque;
};

struct Block;

struct Operation {
  std::string type;
  std::map<std::string, Argument> inputs;
  std::vector<NamedValueType> outputs;
  std::vector<Block> blocks;
  Attributes attributes;
  std::string opaque;
};

struct Block {
  std::vector<NamedValueType> inputs;
  std::vector<std::string> outputs;
  std::vector<Operation> operations;
  Attributes attributes;
  std::string opaque;
};

struct Function {
  std::vector<NamedValueType> inputs;
  std::string opset;
  std::map<std::string, Block> specializations;  // by opset
  Attributes attributes;
  std::string opaque;
};

struct Program {
  int64_t version = 0;
  std::map<std::string, Function> functions;
  std::string doc;
  Attributes attributes;
  std::string opaque;
};

// An old NeuralNetwork in the same words, so that whatever looks at weights sees one kind of graph:
//   - a layer is an operation: its type is the layer's ("convolution"), its attribute "name" the
//     layer's name; networks inside it are its blocks. `opaque` is the layer's message with a
//     placeholder for each weight and each inner network (format/network.h);
//   - a weight is a constant in front of the layer that reads it, named after both:
//     "conv1.weights". Plain ones are a const of fp32 or fp16. Quantized ones are a
//       constexpr_lut_to_dense      indices, lut: as in an ML Program of iOS 18
//       constexpr_scale_bias        data, scale, bias: code * scale + bias, a scale for each block
//       constexpr_blockwise_shift_scale   data, scale: int8 codes of layers with dynamic int8
struct Network {
  Block block;
  bool updatable = false;  // the model is: some of its layers may be trained on a device
};

// The kinds of graphs that hold weights.
enum class ModelFormat { kProgram, kNetwork };

// What a caller of the model sees: for reports and for running it; the file's own description is in
// `shell`.
struct Feature {
  enum class Kind {
    kNone,
    kArray,
    kImage,
    kDictionary,
    kSequence,
    kState,
    kInt64,   // a number, as models of older kinds take it
    kDouble,  // the same
    kString,
  };
  enum class Colors { kUnknown, kGray, kRgb, kBgr, kGrayFp16 };
  struct SizeRange {
    int64_t least = 0;
    int64_t greatest = -1;  // -1: no limit
  };
  struct ImageSize {
    int64_t width = 0;
    int64_t height = 0;
  };

  std::string name;
  std::string type;  // "fp32 [1, 3, 64, 64]", "image 640x640 RGB", ...
  Kind kind = Kind::kNone;
  bool optional = false;

  // Of arrays and states. At most one of `shapes` and `ranges` has elements; with neither, `shape`
  // is the only one.
  DataType dtype = DataType::kUnused;   // kUnused: not said, or not known
  Shape shape;                          // the default one; may be empty
  std::vector<Shape> shapes;            // all that are allowed
  std::vector<SizeRange> ranges;        // what is allowed for each axis
  std::optional<double> default_value;  // of all elements, where an optional one is not given

  // Of images. At most one of `sizes` and the ranges is there.
  Colors colors = Colors::kUnknown;
  ImageSize size;                // the default one
  std::vector<ImageSize> sizes;  // all that are allowed
  std::optional<SizeRange> width_range, height_range;
};
struct FunctionInterface {
  std::string name;
  std::vector<Feature> inputs, outputs, states;
};

struct Model {
  int32_t specification_version = 0;
  std::string kind;                // "mlProgram", "pipeline", "neuralNetwork", ...; "" if none
  std::optional<Program> program;  // of an mlProgram
  std::optional<Network> network;  // of a neuralNetwork, its classifier or its regressor
  std::vector<Model> members;      // of a pipeline, in order
  std::vector<std::string> member_names;
  FunctionInterface interface;               // of a model with one function
  std::vector<FunctionInterface> functions;  // of a multifunction model
  std::string default_function;
  std::string shell;  // the serialized model less its program, network and members
};

// --- Values -------------------------------------------------------------------------------------

// The sizes of a tensor type, or nothing if any is not constant or the rank disagrees.
std::optional<Shape> StaticShape(const ValueType& type);

ValueType MakeTensorType(DataType dtype, const Shape& shape);

// A value that lies in a weights file.
Value MakeBlobValue(DataType dtype, const Shape& shape, TensorId id);

// Immediate values in the forms that coremltools writes.
Value MakeString(std::string text);
Value MakeInt32(int32_t number);
Value MakeBool(bool flag);
Value MakeInts(const std::vector<int32_t>& numbers);
// `bytes`: packed little-endian elements of `dtype`. The form is what coremltools writes for it.
Value MakeImmediate(DataType dtype, const Shape& shape, std::string bytes);

// The elements of an immediate tensor as packed little-endian bytes of its type, whatever form it
// has. Nothing if it is no numeric tensor or its length does not agree with its shape.
std::optional<std::string> ImmediateBytes(const Value& value);

// The elements of a small immediate tensor of integers or booleans.
std::optional<std::vector<int64_t>> ImmediateInts(const Value& value);
std::optional<std::string> ImmediateString(const Value& value);

// "fp16 [4, 8]", "list of fp16 [2]", ...
std::string ToString(const ValueType& type);

// --- Operations ---------------------------------------------------------------------------------

// The operation's own name: its "name" attribute, or its first output's name without one.
std::string NameOf(const Operation& op);

bool IsConst(const Operation& op);      // "const"
bool IsConstexpr(const Operation& op);  // "constexpr_..."

// The block that a function runs: the specialization of its opset. Null if there is none.
const Block* ActiveBlock(const Function& function);
Block* ActiveBlock(Function& function);

// Calls visit(Value&) for every value held in a program, in a fixed order, nested ones included.
template <typename Visitor>
void ForEachValue(Program& program, const Visitor& visit);
template <typename Visitor>
void ForEachValue(Block& block, const Visitor& visit);
template <typename Visitor>
void ForEachValue(Value& value, const Visitor& visit) {
  visit(value);
  if (auto* collection = std::get_if<Collection>(&value.content))
    for (Value& element : collection->elements) ForEachValue(element, visit);
}

template <typename Visitor>
void ForEachValue(Block& block, const Visitor& visit) {
  for (auto& [name, value] : block.attributes) ForEachValue(value, visit);
  for (Operation& op : block.operations) {
    for (auto& [name, value] : op.attributes) ForEachValue(value, visit);
    for (auto& [name, argument] : op.inputs)
      for (Binding& binding : argument.bindings)
        if (auto* value = std::get_if<Value>(&binding.target)) ForEachValue(*value, visit);
    for (Block& inner : op.blocks) ForEachValue(inner, visit);
  }
}

template <typename Visitor>
void ForEachValue(Program& program, const Visitor& visit) {
  for (auto& [name, value] : program.attributes) ForEachValue(value, visit);
  for (auto& [function_name, function] : program.functions) {
    for (auto& [name, value] : function.attributes) ForEachValue(value, visit);
    for (auto& [name, block] : function.specializations) ForEachValue(block, visit);
  }
}

// Calls visit(Model&) for a model and, depth first, for all members of pipelines.
template <typename ModelType, typename Visitor>
void ForEachModel(ModelType& model, const Visitor& visit) {
  visit(model);
  for (auto& member : model.members) ForEachModel(member, visit);
}

}  // namespace cmlc

#endif  // CMLC_MODEL_H_
