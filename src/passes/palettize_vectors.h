// Vector palettization: one index stands for `cluster_dim` neighbouring channels.
#ifndef CMLC_PASSES_PALETTIZE_VECTORS_H_
#define CMLC_PASSES_PALETTIZE_VECTORS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "cmlc/pass.h"
#include "numeric/vector_kmeans.h"

namespace cmlc {

struct VectorRequest {
  Shape blocks;     // LUTs along each axis of the weight; more than 1 along `axis` only
  size_t axis = 0;  // of the channels that vectors run along
  int64_t cluster_dim = 2;
  bool unique = false;               // entries are the distinct vectors
  std::optional<DataType> lut_type;  // of integer entries
  std::optional<int> bits;           // of an index; of mode unique: as few as hold the entries
};

// `form` makes the text for the report from the bits of an index.
Result<Outcome> PalettizeVectors(const Weight& weight, const VectorRequest& request,
                                 const PassContext& context,
                                 const std::function<std::string(int bits)>& form);

}  // namespace cmlc

#endif  // CMLC_PASSES_PALETTIZE_VECTORS_H_
