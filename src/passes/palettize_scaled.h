// Palettization with a scale for each output channel: value = scale[channel] * LUT[index].
#ifndef CMLC_PASSES_PALETTIZE_SCALED_H_
#define CMLC_PASSES_PALETTIZE_SCALED_H_

#include <memory>
#include <optional>
#include <string>

#include "cmlc/pass.h"
#include "passes/coding.h"

namespace cmlc {

struct ScaledRequest {
  Shape blocks;                      // LUTs along each axis; more than 1 along `axis` only
  size_t axis = 0;                   // of the channels that have scales
  std::optional<DataType> lut_type;  // of integer entries
  int bits = 4;
};

// `kept`: which elements of a sparse weight are there, or null.
Result<Outcome> PalettizeScaled(const Weight& weight, const ScaledRequest& request,
                                const std::shared_ptr<const Kept>& kept, const PassContext& context,
                                std::string form);

}  // namespace cmlc

#endif  // CMLC_PASSES_PALETTIZE_SCALED_H_
