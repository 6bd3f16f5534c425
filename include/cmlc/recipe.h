// Recipes: files that say which passes to run with which options for which weights.
//
//   passes:
//     - prune: {target_sparsity: 0.5}
//     - palettize:
//         nbits: 4
//         joint: true
//         op_types: {gather: {nbits: 8}, layer_norm: null}   # null: leave alone
//         op_names: {"decoder_*": {group_size: 16}}
//         rules:
//           - where: {op_type: conv, shape: "[*, 3, 7, 7]"}
//             options: null
//     - decompress
//
// Options of a rule are set on top of the pass's own, or with `reset: true` of the defaults. With
// `otherwise: null` a pass leaves alone what no rule governs. YAML, or JSON, which is YAML too.
//
// A configuration of coremltools (OptimizationConfig as YAML or as a dictionary in JSON) is read as
// it is: there a rule has nothing but its own fields and the defaults, and without a global
// configuration nothing is done to the other weights. Configurations of several families make a
// pass for each: prune, palettize, quantize.
#ifndef CMLC_RECIPE_H_
#define CMLC_RECIPE_H_

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "cmlc/pipeline.h"
#include "cmlc/status.h"

namespace cmlc {

// kBadInput, naming file and line, if it is no recipe: unknown keys, wrong types, values that do
// not fit. `notes` gets what was read but has no effect here, with its place.
Result<std::vector<PassSpec>> ReadRecipe(const std::filesystem::path& path,
                                         std::vector<std::string>& notes);

// The recipes that the program brings along (examples/recipes), in the order of their names.
std::vector<std::string> PresetNames();
// kUsage, with the names, if there is none of this name.
Result<std::vector<PassSpec>> ReadPreset(const std::string& name);

// One pass as on a command line: "palettize" or "palettize:nbits=4,joint=true".
Result<PassSpec> ParsePass(const std::string& text);

// The recipe that says the same.
std::string PrintRecipe(std::span<const PassSpec> specs);

}  // namespace cmlc

#endif  // CMLC_RECIPE_H_
