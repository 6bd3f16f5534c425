// NeuralNetwork messages, to and from the graph (struct Network in cmlc/model.h).
//
// A layer's message stays in its operation's `opaque` as it was, but for two kinds of placeholders,
// which have the tags of what they stand for:
//   - a WeightParams with values becomes the name of the operation's parameter that is bound to the
//     weight, a zero byte, and those fields of it that are not its values;
//   - a network inside a layer becomes the number of its block, in digits.
// So what nobody knows or changes comes out as it went in, in its old order.
#ifndef CMLC_FORMAT_NETWORK_H_
#define CMLC_FORMAT_NETWORK_H_

#include <functional>
#include <string>
#include <string_view>

#include "cmlc/model.h"
#include "cmlc/status.h"
#include "cmlc/tensor_store.h"
#include "format/wire.h"

namespace cmlc::format {

// The model's file and its bytes. Weights become ranges of `file`, which is asked for once there
// is one.
struct MessageFile {
  std::string path;        // for messages
  std::string_view bytes;  // all of the file
  std::function<Result<WeightsFile>()> file;
};

// Parses a network message that lies inside `from.bytes`. kBadInput, with the layer and the weight,
// if it is malformed or a weight is not what its layer says.
Result<Network> ParseNetwork(std::string_view message, const MessageFile& from, TensorStore& store);

// The message. Weights must be of the forms that struct Network names.
Result<WireMessage> SerializeNetwork(const Network& network, const TensorStore& store);

}  // namespace cmlc::format

#endif  // CMLC_FORMAT_NETWORK_H_
