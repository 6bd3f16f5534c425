// Looking into NeuralNetwork messages with nothing but protobuf's own parser: what the library
// wrote is checked by other means than those that wrote it.
#ifndef CMLC_TESTS_SUPPORT_NETWORK_READER_H_
#define CMLC_TESTS_SUPPORT_NETWORK_READER_H_

#include <cstdint>
#include <string>
#include <vector>

namespace cmlc::test {

// A WeightParams.
struct StoredWeight {
  std::string form;            // "fp32", "fp16", "linear", "lut", "int8"; "" without values
  int bits = 0;                // of codes
  std::vector<int> codes;      // as many as were asked for
  std::vector<float> numbers;  // values, scales or LUT entries
  std::vector<float> bias;
  size_t code_bytes = 0;
  bool updatable = false;

  // What it stands for, rounded once; `inner`: elements between one channel and the next.
  std::vector<float> Values(size_t inner = 1) const;
};

class NetworkMessage {
 public:
  explicit NetworkMessage(std::string message) : message_(std::move(message)) {}

  std::vector<std::string> Layers() const;  // names
  // `path`: numbers of the fields from the layer's parameters on, "20" or, with the third of
  // several, "20[2]"; `count`: of values.
  StoredWeight Weight(const std::string& layer, const std::string& path, size_t count) const;
  bool Has(const std::string& layer, const std::string& path) const;
  // A network inside a layer.
  NetworkMessage Inner(const std::string& layer, const std::string& path) const;

 private:
  std::string message_;
};

// Of a model's bytes: its network, or that of a member of a pipeline, by position.
NetworkMessage NetworkOf(const std::string& model, const std::vector<int>& members = {});
int VersionOf(const std::string& model, const std::vector<int>& members = {});

}  // namespace cmlc::test

#endif  // CMLC_TESTS_SUPPORT_NETWORK_READER_H_
