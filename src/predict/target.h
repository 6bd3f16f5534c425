// What of a package runs, and what it takes.
#ifndef CMLC_PREDICT_TARGET_H_
#define CMLC_PREDICT_TARGET_H_

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/npy.h"
#include "cmlc/diagnostics.h"
#include "cmlc/model.h"
#include "cmlc/package.h"
#include "cmlc/status.h"
#include "exec/memory.h"
#include "exec/value.h"

namespace cmlc::predict {

// An input of a function: what callers are told of it, and what the program says.
struct InputSpec {
  std::string name;
  Feature feature;                     // of kind kNone if the model's description has it not
  DataType dtype = DataType::kUnused;  // that the program takes
  std::optional<size_t> rank;

  bool is_image() const { return feature.kind == Feature::Kind::kImage; }
  int channels() const;  // of an image, 1 or 3
};

struct Target {
  Program* program = nullptr;
  std::string function;
  std::string place;              // the package, for messages
  std::vector<InputSpec> inputs;  // states left out
  bool has_states = false;

  const InputSpec* Find(std::string_view name) const;
};

// The program that a package runs and one of its functions, or the default one if `function` is
// empty. kBadInput if it has no ML Program or several, kUsage if there is no such function. Notes
// say what of a pipeline is left out.
Result<Target> FindTarget(Package& package, const std::string& function, Diagnostics& diagnostics);

// The shape that an input has by default, as far as its description says: sizes without a limit are
// their least.
std::optional<Shape> DefaultShape(const InputSpec& input);

// Whether an image input takes this size.
bool TakesImageSize(const Feature& feature, int64_t width, int64_t height);

// An array as an input of the program: checked against the description, converted to its type.
// Floating-point numbers are rounded, integers that do not fit are errors. `origin` is where the
// array is from, for messages. kBadInput if it is not what the input takes.
Result<exec::Value> Bind(const InputSpec& input, const Array& array, const std::string& origin,
                         exec::Memory& memory);

// Values for all inputs of a function: what is given, and defaults of optional inputs.
// kUsage if one is missing.
Result<std::map<std::string, exec::Value>> BindAll(const Target& target,
                                                   const std::map<std::string, Array>& arrays,
                                                   const std::string& origin, exec::Memory& memory);

}  // namespace cmlc::predict

#endif  // CMLC_PREDICT_TARGET_H_
