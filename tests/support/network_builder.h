// Small NeuralNetworks, made field by field.
#ifndef CMLC_TESTS_SUPPORT_NETWORK_BUILDER_H_
#define CMLC_TESTS_SUPPORT_NETWORK_BUILDER_H_

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "format/wire.h"

namespace cmlc::test {

// --- WeightParams in their forms ---

std::string FloatWeights(std::span<const float> values);
// Every value as a field of its own.
std::string UnpackedWeights(std::span<const float> values);
std::string HalfWeights(std::span<const float> values);
// `packed`: codes, from the high bit down. `bias` may be empty.
std::string LinearWeights(int bits, std::string_view packed, std::span<const float> scale,
                          std::span<const float> bias);
std::string TableWeights(int bits, std::string_view packed, std::span<const float> table);
// As layers with dynamic int8 have them.
std::string Int8Weights(std::string_view codes, float scale);

class NetworkBuilder {
 public:
  // A layer that reads "x" and makes "y", or what the layer before made. `parameters` are its
  // message's fields.
  NetworkBuilder& Layer(uint32_t kind, const std::string& name, format::WireMessage parameters,
                        bool updatable = false);
  // With ready WeightParams; an empty bias is left out.
  NetworkBuilder& InnerProduct(const std::string& name, uint64_t outputs, uint64_t inputs,
                               const std::string& weights, const std::string& bias = {},
                               bool updatable = false);
  struct Kernel {
    uint64_t outputs = 1, inputs = 1;  // inputs: of one output channel; all of a deconvolution
    uint64_t height = 1, width = 1;
    uint64_t groups = 1;
    bool deconvolution = false;
  };
  NetworkBuilder& Convolution(const std::string& name, const Kernel& kernel,
                              const std::string& weights, const std::string& bias = {});

  // The NeuralNetwork message.
  std::string message() const;
  // A model of it: 500 neuralNetwork, 403 neuralNetworkClassifier, 303 neuralNetworkRegressor.
  std::string Model(int version = 1, uint32_t kind = 500, bool updatable = false) const;
  std::filesystem::path Write(const std::filesystem::path& path, int version = 1,
                              uint32_t kind = 500, bool updatable = false) const;

 private:
  std::vector<format::WireMessage> layers_;
};

// A model that holds others: 202 pipeline, 200 pipelineClassifier, 201 pipelineRegressor.
std::string PipelineOf(const std::vector<std::string>& models, int version, uint32_t kind = 202);

// Two layers with a bias each, of 4096 and 640 weights that look like trained ones.
NetworkBuilder SmallNetwork();

std::vector<float> RandomFloats(size_t count, uint32_t seed);

}  // namespace cmlc::test

#endif  // CMLC_TESTS_SUPPORT_NETWORK_BUILDER_H_
