// Which values of a function are quantized, and which of their readers read the quantized ones.
//
// An op that can be quantized reads quantized values ("in front of" it), and what it makes, or what
// an activation right behind it makes, is quantized too ("behind" it): so that an engine can
// compute in integers. There is one pair of quantize and dequantize for each value, however many
// ops ask for it. Behind an op it is for all readers; in front of ops only for those.
#ifndef CMLC_ACTIVATIONS_PLACEMENT_H_
#define CMLC_ACTIVATIONS_PLACEMENT_H_

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "activations/quantization.h"
#include "activations/range.h"
#include "calibrate/statistics.h"
#include "cmlc/model.h"
#include "cmlc/pass.h"
#include "ir/graph_index.h"

namespace cmlc::activations {

// Which values share a range.
enum class Tied {
  kAll,     // those that a concat joins and makes, and those that ops take and give that only move
            // data
  kConcat,  // the first
  kNone,
};

struct PlacementOptions {
  std::set<std::string> more_ops;  // besides those that are done by default
  Tied tied = Tied::kAll;
  bool keep_io = false;  // the first and the last layers stay in float
  bool operator==(const PlacementOptions&) const = default;
};

// What is asked for at one op's parameter.
struct Wish {
  std::optional<Settings> settings;  // nothing: left alone
  std::string because;               // of what is left alone: the rule
  bool by_rule = false;              // a rule gives the settings
  bool by_name = false;              // a rule asks for this op by its name
};
using WishFor =
    std::function<Wish(const Operation& op, const std::string& parameter, const Definition& value)>;

// A value that gets a pair.
struct QuantizedValue {
  const Definition* value = nullptr;
  Settings settings;
  std::vector<Use> uses;             // that read the dequantized value, in program order
  std::vector<std::string> readers;  // of those, the ops that ask for it: "conv 'c' x"
  bool behind = false;               // an op that makes it asks for it
  bool by_name = false;
  Range range;
  Parameters parameters;
};

// A value that an op would read quantized, or make, and that stays as it is.
struct LeftValue {
  const Definition* value = nullptr;
  std::string op;  // "conv 'c' x"
  std::string category, reason;
  bool by_name = false;
};

struct Placement {
  std::vector<QuantizedValue> quantized;    // in the order of their definitions; settings differ
                                            // between those of one value
  std::vector<LeftValue> left;              // in program order, each value once for each reason
  std::map<std::string, size_t> float_ops;  // types of other ops that compute in floats: how many
  std::vector<std::string> notes;
};

// `index` must have the function's inputs. The result points into it. Ranges and parameters are
// found later (FindParameters).
Placement Place(Block& block, const GraphIndex& index, const calibrate::Statistics& statistics,
                const PlacementOptions& options, const WishFor& wish_for);

// Fills in ranges and parameters of a placement; those that are tied get one range. `for_each`
// calls its argument for every number below the first one, from any thread.
using ForEach = std::function<void(size_t count, const std::function<void(size_t)>& work)>;
void FindParameters(Placement& placement, const GraphIndex& index,
                    const calibrate::Statistics& statistics, const PlacementOptions& options,
                    const ForEach& for_each);

// Puts the pairs into the block. The index, and what a placement points to, are stale afterwards.
void Insert(Block& block, const Placement& placement, const NameMaker& new_name);

}  // namespace cmlc::activations

#endif  // CMLC_ACTIVATIONS_PLACEMENT_H_
