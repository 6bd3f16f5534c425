// The serialized model message, to and from the graph.
#ifndef CMLC_FORMAT_SPEC_H_
#define CMLC_FORMAT_SPEC_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "cmlc/model.h"
#include "cmlc/status.h"
#include "cmlc/tensor_store.h"

namespace cmlc::format {

// Names the tensor that a value's blob reference stands for.
using ResolveBlob = std::function<Result<TensorId>(const std::string& file_name, uint64_t offset)>;

// The reverse: under which file name and offset a tensor is found in the output.
struct BlobPlace {
  std::string file_name;
  uint64_t offset = 0;
};
using PlaceOfBlob = std::function<BlobPlace(TensorId)>;

// Parses a model. `path` is for messages; `store` is where `resolve` puts tensors. kBadInput if it
// is no model, if a message nests too deeply, or if a blob is not what its value says.
Result<Model> ParseModel(std::string_view bytes, const std::string& path, const TensorStore& store,
                         const ResolveBlob& resolve);

// Serializes a model: the same model gives the same bytes.
Result<std::string> SerializeModel(const Model& model, const PlaceOfBlob& place);

}  // namespace cmlc::format

#endif  // CMLC_FORMAT_SPEC_H_
