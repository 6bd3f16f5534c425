// Activations: the pass that quantizes the values that ops read and make. Its options say how;
// where is decided in src/activations, and src/pipeline/activation_runner.h runs it.
#ifndef CMLC_PASSES_ACTIVATIONS_H_
#define CMLC_PASSES_ACTIVATIONS_H_

#include <optional>
#include <string>
#include <vector>

#include "activations/placement.h"
#include "cmlc/pass.h"

namespace cmlc {

class ActivationPass final : public Pass {
 public:
  void VisitOptions(OptionVisitor& visitor) override;
  Status CheckOptions() override;

  // Of one op.
  activations::Settings settings() const;
  // Of the whole pass.
  activations::PlacementOptions placement() const;
  bool normalize_scales() const { return normalize_scales_ == "true"; }

 private:
  std::string mode_ = "linear_symmetric";
  std::string dtype_ = "int8";
  std::string ranges_ = "mse";
  std::optional<double> percentile_;
  std::optional<double> ema_weight_;
  std::vector<std::string> ops_;
  std::string tied_ = "all";
  bool keep_io_ = false;
  std::string normalize_scales_ = "true";
};

}  // namespace cmlc

#endif  // CMLC_PASSES_ACTIVATIONS_H_
