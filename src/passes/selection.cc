// Which weights a pass works on, as far as its options choose among them: by size, and by what is
// known of the layers that read them. The latter are coremltools' selectors for NeuralNetworks,
// with the names of their arguments.
#include <fmt/format.h>

#include <algorithm>

#include "cmlc/pass.h"

namespace cmlc {
namespace {

bool IsConvolution(const Consumer& consumer) {
  const std::string& type = consumer.op_type;
  return (type == "convolution" || type == "conv" || type == "conv_transpose") &&
         (consumer.parameter == "weights" || consumer.parameter == "weight");
}

// A convolution whose output channels read one input channel each.
bool IsDepthwise(const Consumer& consumer) {
  return consumer.groups > 1 && consumer.input_channels == 1;
}

bool IsBias(const Consumer& consumer) { return consumer.parameter == "bias"; }

}  // namespace

void WeightPass::VisitOptions(OptionVisitor& visitor) {
  VisitOwnOptions(visitor);
  visitor.Words({"skip_layer_types",
                 "leave the weights of layers of these types alone, joined by commas; also "
                 "depthwiseConv, and bias for the biases of all layers"},
                skip_layer_types_, {});
  visitor.Words({"include_layers_with_names",
                 "work on the weights of layers with these names alone, joined by commas"},
                include_layers_with_names_, {});
  visitor.Int({"minimum_conv_kernel_channels",
               "leave convolutions alone whose output channels read fewer input channels"},
              minimum_conv_kernel_channels_, 1);
  visitor.Int({"minimum_conv_weight_count", "leave convolutions with fewer weights alone"},
              minimum_conv_weight_count_, 1);
  visitor.Int({"minimum_input_channels", "leave layers with fewer input channels alone"},
              minimum_input_channels_, 1);
  visitor.Int({"maximum_input_channels", "leave layers with more input channels alone"},
              maximum_input_channels_, 1);
  visitor.Int({"minimum_output_channels", "leave layers with fewer output channels alone"},
              minimum_output_channels_, 1);
  visitor.Int({"maximum_output_channels", "leave layers with more output channels alone"},
              maximum_output_channels_, 1);
  visitor.Int({.name = "weight_threshold",
               .help = "leave weights with this many elements or fewer alone",
               .fallback = default_threshold() == 0 ? "0" : "2048",
               .none = 0},
              weight_threshold_, 0);
}

std::optional<Skipped> WeightPass::LeavesOut(const Weight& weight) const {
  std::optional<Skipped> left;
  const auto leave = [&](std::string_view option, std::string reason) {
    if (!left) left = Skipped{fmt::format("left alone by {}", option), std::move(reason)};
  };
  const auto check = [&](std::string_view option, const std::optional<int64_t>& limit,
                         const Consumer& consumer, const std::optional<int64_t>& number,
                         bool is_least) {
    if (!limit || (number && (is_least ? *number >= *limit : *number <= *limit))) return;
    leave(option,
          fmt::format("{} '{}' has {} channels there, {} is {}", consumer.op_type, consumer.op_name,
                      number ? std::to_string(*number) : "no", option, *limit));
  };
  const auto is_among = [](const std::vector<std::string>& words, std::string_view word) {
    return std::find(words.begin(), words.end(), word) != words.end();
  };
  for (const Consumer& consumer : weight.consumers) {
    const auto reader = [&] { return fmt::format("{} '{}'", consumer.op_type, consumer.op_name); };
    if (is_among(skip_layer_types_, consumer.op_type) ||
        (IsConvolution(consumer) && IsDepthwise(consumer) &&
         is_among(skip_layer_types_, "depthwiseConv")) ||
        (IsBias(consumer) && is_among(skip_layer_types_, "bias")))
      leave("skip_layer_types", fmt::format("it is of {}", reader()));
    if (!include_layers_with_names_.empty() &&
        !is_among(include_layers_with_names_, consumer.op_name))
      leave("include_layers_with_names", fmt::format("{} is not among them", reader()));
    check("minimum_input_channels", minimum_input_channels_, consumer, consumer.input_channels,
          true);
    check("maximum_input_channels", maximum_input_channels_, consumer, consumer.input_channels,
          false);
    check("minimum_output_channels", minimum_output_channels_, consumer, consumer.output_channels,
          true);
    check("maximum_output_channels", maximum_output_channels_, consumer, consumer.output_channels,
          false);
    if (!IsConvolution(consumer)) continue;
    check("minimum_conv_kernel_channels", minimum_conv_kernel_channels_, consumer,
          consumer.input_channels, true);
    if (minimum_conv_weight_count_ &&
        weight.element_count < static_cast<uint64_t>(*minimum_conv_weight_count_))
      leave("minimum_conv_weight_count",
            fmt::format("it has {} weights, minimum_conv_weight_count is {}", weight.element_count,
                        *minimum_conv_weight_count_));
  }
  return left;
}

}  // namespace cmlc
