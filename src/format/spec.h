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
#include "format/network.h"
#include "format/wire.h"

namespace cmlc::format {

// Names the tensor that a value's blob reference stands for.
using ResolveBlob = std::function<Result<TensorId>(const std::string& file_name, uint64_t offset)>;

// The reverse: under which file name and offset a tensor is found in the output.
struct BlobPlace {
  std::string file_name;
  uint64_t offset = 0;
};
using PlaceOfBlob = std::function<BlobPlace(TensorId)>;

// Parses a model. `store` is where `resolve` puts tensors, and where weights of networks go.
// kBadInput if it is no model, if a message nests too deeply, or if a blob or a weight is not what
// the graph says of it.
Result<Model> ParseModel(const MessageFile& from, TensorStore& store, const ResolveBlob& resolve);

// The message of a model: the same model gives the same bytes. kOutput if they were too many for a
// message.
Result<WireMessage> SerializeModel(const Model& model, const TensorStore& store,
                                   const PlaceOfBlob& place);

}  // namespace cmlc::format

#endif  // CMLC_FORMAT_SPEC_H_
