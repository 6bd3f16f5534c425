// The weights of a program: which constants there are, who reads them, and how they are stored.
#ifndef CMLC_IR_WEIGHTS_H_
#define CMLC_IR_WEIGHTS_H_

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cmlc/model.h"
#include "cmlc/pass.h"
#include "cmlc/tensor_store.h"
#include "ir/graph_index.h"

namespace cmlc {

// The block that a function of a program runs, in one of its specializations; or a network.
struct ProgramBlock {
  // "main"; of a pipeline's member "0:main"; more if there are specializations. A network's is
  // "network".
  std::string label;
  Block* block = nullptr;
  const Network* network = nullptr;  // that it belongs to, if any
};

// All of a model's own, in a fixed order. `prefix` goes in front of the labels.
std::vector<ProgramBlock> BlocksOf(Model& model, const std::string& prefix);

// One const or constexpr as the root of a weight: something other than a constexpr reads it.
struct WeightSite {
  const Definition* definition = nullptr;
  Weight weight;              // without reader and tensor
  bool has_type = false;      // a tensor of fixed shape: `weight` has dtype and shape
  bool compressed = false;    // a constexpr
  bool feeds_output = false;  // of a block
  bool feeds_constexpr = false;
};

// Every const and constexpr that holds a tensor of numbers and is read by anything but constexprs,
// in program order; constants that nobody reads are included, with no consumers. `network`: that
// the block belongs to, if any.
std::vector<WeightSite> FindWeights(GraphIndex& index, const Network* network = nullptr);

// How a weight is stored, through all links of its chain.
struct StoredForm {
  std::string text;              // "fp16", "4-bit LUT", "sparse, int8 linear, 32 scales", ...
  std::set<TensorId> tensors;    // in weights files
  uint64_t immediate_bytes = 0;  // in the model message
};
StoredForm FormOf(const Operation& op, const GraphIndex& index);

// Bytes of all of them.
uint64_t StoredBytes(const StoredForm& form, const TensorStore& tensors);

// "conv 'features_0' weight"
std::string ToString(const Consumer& consumer);

}  // namespace cmlc

#endif  // CMLC_IR_WEIGHTS_H_
