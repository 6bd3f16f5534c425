// Passes: what cmlc can do to a model.
//
// A pass is one file in src/passes and one line in passes.def. The file declares the name, the
// summary, the options and the work; the subcommand, its help, the checks and the report come from
// that declaration.
//
// A WeightPass turns one weight into the operations that replace it, and sees nothing else. The
// driver (src/pipeline) picks the weights, resolves the options for each, hands them to threads,
// applies the replacements in graph order and writes the report; so every weight pass is parallel,
// bounded in memory and deterministic without a line of its own for it. To add one, copy
// src/passes/null_pass.cc.
//
// Activations are quantized by one pass of its own kind (src/passes/activations.h), whose options
// and rules work like those of weights.
#ifndef CMLC_PASS_H_
#define CMLC_PASS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "cmlc/model.h"
#include "cmlc/options.h"
#include "cmlc/status.h"
#include "cmlc/tensor.h"
#include "cmlc/tensor_store.h"

namespace cmlc {

struct Encoding;
class TensorReader;
class ThreadPool;

class Pass {
 public:
  virtual ~Pass() = default;
  virtual void VisitOptions(OptionVisitor& visitor) { static_cast<void>(visitor); }
  // Whether the options make sense together. Called once they are all set.
  virtual Status CheckOptions() { return Ok(); }
};

// An operation that reads a weight, and through which parameter.
struct Consumer {
  std::string op_type;
  std::string op_name;
  std::string output_name;  // of its first output
  std::string parameter;
  // The weight's axes of output and input channels, from 0; nothing if it has no such axis.
  std::optional<int64_t> output_axis;
  std::optional<int64_t> input_axis;
  int64_t groups = 1;  // of a grouped convolution
  // How many channels the operation makes, and how many each of those is made from; nothing if it
  // has none.
  std::optional<int64_t> output_channels;
  std::optional<int64_t> input_channels;
};

// What passes store weights as.
enum class Storage { kFloat, kHalf, kCodes };

// What the layer of a NeuralNetwork lets a weight become, and why nothing else. An operation of an
// ML Program takes anything.
struct LayerLimits {
  bool floats = true;
  bool halves = true;
  bool codes = true;
  std::string category, reason;  // as in Skipped
  bool Allows(Storage storage) const {
    return storage == Storage::kFloat ? floats : storage == Storage::kHalf ? halves : codes;
  }
};

// A weight as a pass sees it.
struct Weight {
  std::string name;
  DataType dtype = DataType::kUnused;
  // Of a plain one, in the store. A NeuralNetwork's weights are fp32 to its layers and to passes,
  // and fp16 is a way to store them.
  DataType stored_dtype = DataType::kUnused;
  Shape shape;
  uint64_t element_count = 0;
  std::vector<Consumer> consumers;  // in program order, at least one
  // Where all consumers agree; nothing where they do not.
  std::optional<int64_t> output_axis;
  std::optional<int64_t> input_axis;
  ModelFormat format = ModelFormat::kProgram;
  LayerLimits limits;

  // How a compressed weight is stored, if that is known (ir/encoding.h); null for a plain one.
  std::shared_ptr<const Encoding> encoding;
  bool compressed = false;
  bool named = false;  // a rule asks for it by its own name

  // The values. Of a plain weight also its bytes in the store.
  const TensorReader* reader = nullptr;
  const TensorStore* store = nullptr;
  TensorId tensor{};
  // All bytes of the values, while a pass works on the weight; empty for large ones.
  std::span<const std::byte> resident;

  // Bytes [begin, begin + size) of the values in the weight's type, decoded if it is compressed.
  // Any thread may call it.
  Result<TensorView> View(uint64_t begin, uint64_t size) const;
};

struct PassContext {
  const TensorStore& tensors;
  ThreadPool& pool;
  // Of the model that the result will be in: they decide the forms that operations may take.
  int32_t specification_version = 0;
  ModelFormat format = ModelFormat::kProgram;
};

// A tensor that a pass makes. Small ones are given whole, large ones by a source of chunks; the
// driver makes those of small weights ready for writing while the weight is at hand.
struct NewTensor {
  DataType dtype = DataType::kUnused;
  Shape shape;
  std::variant<std::string, TensorSource, ReadyTensor> content;  // packed bytes, or their source
};

// How far a replacement is from the weight, over all elements.
struct Quality {
  double signal = 0;  // sum of squares of the weight
  double noise = 0;   // sum of squares of the differences
};

// What takes the place of a weight.
struct Replacement {
  std::vector<NewTensor> tensors;
  // Makes the operations that replace `op`, given a value for every tensor, in order. The last one
  // has the outputs of `op`; the others need names of their own.
  std::function<std::vector<Operation>(const Operation& op, const std::vector<Value>& values)>
      build;
  // Known when all chunks of all tensors have been made.
  std::function<Quality()> quality;
  std::string form;  // "4-bit LUT", ...
};

// A weight that is left as it is, and why. `category` is a few words that are the same for all
// weights left for this reason; `reason` adds the figures.
struct Skipped {
  std::string category;
  std::string reason;
};

using Outcome = std::variant<Replacement, Skipped>;

// Weights with more elements than this may be worked on by all threads together, one after the
// other; smaller ones each by one thread, several at a time.
constexpr uint64_t kLargeWeight = uint64_t{4} << 20;

class WeightPass : public Pass {
 public:
  // Which weights it is for: those stored plainly, those that are compressed, or both.
  enum class Takes { kPlain, kCompressed, kBoth };
  virtual Takes takes() const { return Takes::kPlain; }

  // kUsage, with what would do instead, if the options ask for what a format cannot hold. Called
  // before the pass works on a weight of that format.
  virtual Status CheckFormat(ModelFormat format) const {
    static_cast<void>(format);
    return Ok();
  }

  // What it makes of plain weights; what it makes of compressed ones if it takes those alone.
  virtual Storage stores() const { return Storage::kCodes; }

  // Names the pass's own options; VisitOptions adds what all weight passes have.
  virtual void VisitOwnOptions(OptionVisitor& visitor) { static_cast<void>(visitor); }
  void VisitOptions(OptionVisitor& visitor) final;

  // Weights with this many elements or fewer are left alone.
  int64_t weight_threshold() const { return weight_threshold_.value_or(default_threshold()); }

  // Why the options that choose weights by their layers leave this one out, if they do.
  std::optional<Skipped> LeavesOut(const Weight& weight) const;

  // Why this weight is left alone, if it is. Looks at names, types and shapes, never at values.
  virtual std::optional<Skipped> Skip(const Weight& weight) const {
    static_cast<void>(weight);
    return std::nullopt;
  }

  // The specification version that the result needs at least, and what for. Likewise.
  struct Need {
    int32_t specification_version = 0;
    std::string what;
  };
  virtual Need Needs(const Weight& weight) const = 0;

  // Weights that share their tensor are done once, unless the pass tells them apart by this text.
  virtual std::string Variant(const Weight& weight) const {
    static_cast<void>(weight);
    return {};
  }

  // Does the work. Called from any thread; the weight and all it points to outlive the result's
  // functions.
  virtual Result<Outcome> Replace(const Weight& weight, const PassContext& context) const = 0;

 protected:
  virtual int64_t default_threshold() const { return 2048; }

 private:
  std::optional<int64_t> weight_threshold_;
  std::optional<int64_t> minimum_input_channels_, maximum_input_channels_;
  std::optional<int64_t> minimum_output_channels_, maximum_output_channels_;
  std::optional<int64_t> minimum_conv_kernel_channels_, minimum_conv_weight_count_;
  std::vector<std::string> skip_layer_types_, include_layers_with_names_;
};

// What a pass changes. Of kind kWeights are WeightPasses, run by src/pipeline/weight_runner.h; the
// one of kind kActivations is run by src/pipeline/activation_runner.h.
enum class PassKind { kWeights, kActivations };

struct PassInfo {
  std::string_view name;         // of the subcommand: "palettize"
  std::string_view summary;      // one line
  std::string_view description;  // a paragraph for --help
  std::string_view suffix;       // "palettized": for the name of an output that nobody named
  PassKind kind = PassKind::kWeights;
  std::unique_ptr<Pass> (*make)();
};

// All passes, in the order of passes.def.
std::span<const PassInfo> AllPasses();
const PassInfo* FindPass(std::string_view name);

template <typename PassType>
std::unique_ptr<Pass> MakePass() {
  return std::make_unique<PassType>();
}

}  // namespace cmlc

#endif  // CMLC_PASS_H_
