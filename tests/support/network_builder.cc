#include "support/network_builder.h"

#include <cstring>
#include <fstream>
#include <random>

#include "cmlc/tensor_store.h"
#include "numeric/half.h"

namespace cmlc::test {
namespace {

using format::WireMessage;

std::string Raw(std::span<const float> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

// None of the messages here holds a tensor of a store.
std::string Bytes(const WireMessage& message) { return *ToBytes(message, TensorStore()); }

WireMessage Quantization(int bits, uint32_t kind, WireMessage parameters) {
  WireMessage out;
  out.AddVarint(1, static_cast<uint64_t>(bits));
  out.AddMessage(kind, std::move(parameters));
  return out;
}

}  // namespace

std::string FloatWeights(std::span<const float> values) {
  WireMessage out;
  out.AddBytes(1, Raw(values));
  return Bytes(out);
}

std::string UnpackedWeights(std::span<const float> values) {
  std::string out;
  for (const float& value : values) out += '\x0d' + Raw(std::span(&value, 1));
  return out;
}

std::string HalfWeights(std::span<const float> values) {
  std::string halves;
  for (const float value : values) {
    const uint16_t half = numeric::FloatToHalf(value);
    halves.append(reinterpret_cast<const char*>(&half), sizeof half);
  }
  WireMessage out;
  out.AddBytes(2, halves);
  return Bytes(out);
}

std::string LinearWeights(int bits, std::string_view packed, std::span<const float> scale,
                          std::span<const float> bias) {
  WireMessage linear, out;
  linear.AddBytes(1, Raw(scale));
  if (!bias.empty()) linear.AddBytes(2, Raw(bias));
  out.AddBytes(30, packed);
  out.AddMessage(40, Quantization(bits, 101, std::move(linear)));
  return Bytes(out);
}

std::string TableWeights(int bits, std::string_view packed, std::span<const float> table) {
  WireMessage lut, out;
  lut.AddBytes(1, Raw(table));
  out.AddBytes(30, packed);
  out.AddMessage(40, Quantization(bits, 102, std::move(lut)));
  return Bytes(out);
}

std::string Int8Weights(std::string_view codes, float scale) {
  WireMessage linear, out;
  linear.AddBytes(1, Raw(std::span(&scale, 1)));
  out.AddBytes(31, codes);
  out.AddMessage(40, Quantization(8, 101, std::move(linear)));
  return Bytes(out);
}

NetworkBuilder& NetworkBuilder::Layer(uint32_t kind, const std::string& name,
                                      WireMessage parameters, bool updatable) {
  const size_t number = layers_.size();
  WireMessage& layer = layers_.emplace_back();
  layer.AddBytes(1, name);
  layer.AddBytes(2, number == 0 ? "x" : "y" + std::to_string(number - 1));
  layer.AddBytes(3, "y" + std::to_string(number));
  if (updatable) layer.AddVarint(10, 1);
  layer.AddMessage(kind, std::move(parameters));
  return *this;
}

NetworkBuilder& NetworkBuilder::InnerProduct(const std::string& name, uint64_t outputs,
                                             uint64_t inputs, const std::string& weights,
                                             const std::string& bias, bool updatable) {
  WireMessage parameters;
  parameters.AddVarint(1, inputs);
  parameters.AddVarint(2, outputs);
  if (!bias.empty()) parameters.AddVarint(10, 1);
  parameters.AddBytes(20, weights);
  if (!bias.empty()) parameters.AddBytes(21, bias);
  return Layer(140, name, std::move(parameters), updatable);
}

NetworkBuilder& NetworkBuilder::Convolution(const std::string& name, const Kernel& kernel,
                                            const std::string& weights, const std::string& bias) {
  WireMessage parameters;
  parameters.AddVarint(1, kernel.outputs);
  parameters.AddVarint(2, kernel.inputs);
  parameters.AddVarint(10, kernel.groups);
  parameters.AddVarint(20, kernel.height);  // not packed, which is as good
  parameters.AddVarint(20, kernel.width);
  if (kernel.deconvolution) parameters.AddVarint(60, 1);
  if (!bias.empty()) parameters.AddVarint(70, 1);
  parameters.AddBytes(90, weights);
  if (!bias.empty()) parameters.AddBytes(91, bias);
  return Layer(100, name, std::move(parameters));
}

std::string NetworkBuilder::message() const {
  WireMessage out;
  for (const WireMessage& layer : layers_) out.AddMessage(1, layer);
  return Bytes(out);
}

std::string NetworkBuilder::Model(int version, uint32_t kind, bool updatable) const {
  WireMessage out;
  out.AddVarint(1, static_cast<uint64_t>(version));
  if (updatable) out.AddVarint(10, 1);
  out.AddBytes(kind, message());
  return Bytes(out);
}

std::filesystem::path NetworkBuilder::Write(const std::filesystem::path& path, int version,
                                            uint32_t kind, bool updatable) const {
  std::ofstream(path, std::ios::binary) << Model(version, kind, updatable);
  return path;
}

std::string PipelineOf(const std::vector<std::string>& models, int version, uint32_t kind) {
  WireMessage pipeline, out;
  for (const std::string& model : models) pipeline.AddBytes(1, model);
  out.AddVarint(1, static_cast<uint64_t>(version));
  if (kind != 202) {
    WireMessage holder;
    holder.AddMessage(1, std::move(pipeline));
    pipeline = std::move(holder);
  }
  out.AddMessage(kind, std::move(pipeline));
  return Bytes(out);
}

std::vector<float> RandomFloats(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  // Of a bell shape, by sums of uniform numbers, which are the same everywhere.
  for (float& value : values) {
    float sum = 0;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>(random() >> 8) * 0x1p-24f;
    value = (sum - 2) * 0.1f;
  }
  return values;
}

NetworkBuilder SmallNetwork() {
  NetworkBuilder network;
  network
      .InnerProduct("first", 64, 64, FloatWeights(RandomFloats(4096, 1)),
                    FloatWeights(RandomFloats(64, 2)))
      .InnerProduct("second", 10, 64, FloatWeights(RandomFloats(640, 3)),
                    FloatWeights(RandomFloats(10, 4)));
  return network;
}

}  // namespace cmlc::test
