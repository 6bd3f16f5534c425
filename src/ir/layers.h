// The layers of old NeuralNetworks: their types, and the weights that they carry.
//
// Sizes, order of the elements and what Core ML's validator lets a weight be stored as are facts of
// NeuralNetwork.proto and of that validator; they stand in two tables (layers.cc).
#ifndef CMLC_IR_LAYERS_H_
#define CMLC_IR_LAYERS_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "cmlc/model.h"
#include "cmlc/pass.h"
#include "cmlc/tensor.h"

namespace cmlc {

// "convolution", by the number of the field that holds the layer's parameters; "layer 1234" for one
// that is not known.
std::string LayerTypeOf(uint32_t number);
bool IsLayerType(uint32_t number);  // that is known
bool IsLayerType(std::string_view type);

// Where a layer's message has its sizes: numbers of fields, 0 where it has none.
struct LayerFields {
  uint32_t layer = 0;
  uint32_t output_channels = 0;
  uint32_t input_channels = 0;
  uint32_t groups = 0;
  uint32_t kernel[3] = {};  // the first alone may hold all sizes
  uint32_t deconvolution = 0;
  uint32_t dynamic_int8 = 0;  // the flag that goes with int8 codes
  uint32_t directions = 0;    // a repeated message that holds the weights
  // `input_channels` counts those of all groups, not those that one output channel reads.
  bool input_is_of_all_groups = false;
};
const LayerFields& FieldsOf(uint32_t layer);

// The first specification version that has layers of this type; 1 for one that is not known.
int32_t LayerVersion(std::string_view type);

// How the dimensions of a weight follow from those sizes.
enum class LayerDims {
  kKernel,        // [out, in / groups, kernel...], deconvolution [in, out / groups, kernel...]
  kOutputInput,   // [out, in]
  kOutputOutput,  // [out, out]
  kOutput,        // [out]
  kShape,         // those of a repeated field
  kAsMany,        // [as many as there are]
};

// What Core ML's validator lets a weight be stored as.
enum class LayerStorage {
  kAny,        // fp32, fp16 or codes
  kFloat,      // fp32 or fp16
  kFp32,       // fp32 alone
  kUntouched,  // nobody says: it stays as it is
};

struct LayerWeight {
  uint32_t layer = 0;
  uint32_t outer = 0;  // the field of the message that holds it; 0: the layer's parameters do
  uint32_t field = 0;
  std::string_view name;
  LayerDims dims = LayerDims::kOutput;
  LayerStorage storage = LayerStorage::kAny;
  uint32_t shape_field = 0;  // of kShape
  bool repeats = false;      // there may be several
};
// All weights of a layer, in no particular order.
std::span<const LayerWeight> WeightsOf(uint32_t layer);
// By the layer's type and the operation's parameter: "weights", or "weightParams[0].inputGate...".
const LayerWeight* FindLayerWeight(std::string_view type, std::string_view parameter);

// Field numbers of the networks inside a layer; empty for most.
std::span<const uint32_t> NetworksIn(uint32_t layer);

// A number that the reader put down among a layer's attributes: see below.
std::optional<int64_t> LayerNumber(const Operation& layer, const std::string& attribute);
inline constexpr char kOutputChannels[] = "outputChannels";
inline constexpr char kInputChannels[] = "inputChannels";
inline constexpr char kGroups[] = "groups";
inline constexpr char kDeconvolution[] = "isDeconvolution";
inline constexpr char kUpdatable[] = "isUpdatable";
inline constexpr char kDynamicInt8[] = "int8DynamicQuantize";

// How the layer reads a weight of a shape, and what that weight may become.
Consumer LayerConsumer(const Operation& layer, const std::string& parameter, const Shape& shape);
LayerLimits LimitsOf(const Operation& layer, const std::string& parameter, bool updatable_model);

}  // namespace cmlc

#endif  // CMLC_IR_LAYERS_H_
