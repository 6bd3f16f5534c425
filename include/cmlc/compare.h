// Comparing two models: their weights, and with data their outputs, value by value.
//
//   A ---> outputs ---.
//                      >--- SNR, cosine, top-1 ... of every output, over all samples
//   B ---> outputs ---'
//
// A is the reference (the original), B what became of it. Both run in lockstep, a sample at a time.
#ifndef CMLC_COMPARE_H_
#define CMLC_COMPARE_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cmlc/diagnostics.h"
#include "cmlc/predict.h"
#include "cmlc/status.h"

namespace cmlc {

// A limit for one output or for all. Of the numbers of all samples that hold which say the most:
// the worst one for SNR, PSNR, cosine, errors; the mean (a share) for top-1, top-5, accuracy, KL.
struct Threshold {
  enum class Metric {
    kMinSnr,   // dB
    kMinPsnr,  // dB
    kMinCosine,
    kMaxError,     // largest absolute difference
    kMaxRelative,  // L2 norm of the difference over that of A's output
    kMaxKl,        // nats
    kMinTop1,
    kMinTop5,
    kMinAccuracy,   // of B; needs labels
    kMinEqual,      // share of equal elements
    kMinWeightSnr,  // dB; `output` is the name of a weight
  };
  Metric metric = Metric::kMinSnr;
  std::string output;  // empty: all that have this number
  double limit = 0;
};

// "0.99" or "NAME=0.99". kUsage if there is no number.
Result<Threshold> ParseThreshold(Threshold::Metric metric, const std::string& text);

// "SNR", "top-1 agreement", ...
std::string NameOf(Threshold::Metric metric);

struct CompareOptions {
  std::filesystem::path model_a, model_b;
  DataOptions data;  // no inputs and no random samples: weights alone
  ExecutionSettings execution;
  // Class indices, one for each sample (.npy): "FILE", or "OUTPUT=FILE" where it is not clear which
  // output they are of. kUsage if their number is not that of the samples.
  std::string labels;
  bool per_op = false;
  std::vector<Threshold> thresholds;
};

// Numbers of all samples. `worst` is the least or the greatest, whichever is bad; `quantile` the
// number that 5 % of the samples are not better than.
struct Spread {
  double mean = 0;
  double worst = 0;
  double quantile = 0;
  uint64_t worst_sample = 0;
};

struct OutputComparison {
  std::string name;
  std::string type;     // A's, of the first sample
  uint64_t values = 0;  // of all samples and steps together: outputs that were compared
  // Of numbers: SNR is 10 log10((mean y^2 + 1e-5) / (mean (x - y)^2 + 1e-10)), PSNR has the
  // greatest y^2 in place of the mean; x is B's. Elements that are NaN, or the same infinity, in
  // both take no part.
  std::optional<Spread> snr, psnr, cosine, max_error, relative;
  std::optional<Spread> kl;          // of A's probabilities from B's, in nats
  std::optional<Spread> top1, top5;  // 1 where A's best is B's best; share of A's best five in B's
  std::optional<Spread> equal;       // share of equal elements, of integers, booleans and strings
  std::optional<double> accuracy_a, accuracy_b;            // share of labels that are the best
  std::optional<double> top5_accuracy_a, top5_accuracy_b;  // or among the best five
  uint64_t both_not_finite = 0;                            // elements
  uint64_t not_finite_in_one = 0;  // elements that are NaN or infinite in one model: a failure
};

// A weight of both models: of one name, or (some tools rename what they compress) of one shape and
// read by the same operation through the same parameter.
struct WeightComparison {
  std::string name;  // A's, with the function in front where there are several
  std::string shape;
  std::string form_a, form_b;
  uint64_t elements = 0;
  double bits_a = 0, bits_b = 0;  // per weight; 0 where the bytes are counted with another weight
  bool equal = false;
  double snr_db = 0;  // 10 log10(sum w^2 / sum (v - w)^2); infinite if equal
  double max_error = 0;
  uint64_t not_finite_in_one = 0;
};

// An operation that both models have, by its output's name.
struct OpComparison {
  std::string type;
  std::string name;
  Spread snr;  // over all samples (and iterations of loops)
  double max_error = 0;
  // How much lower the SNR is than that of what the op reads (of the worst input that was compared;
  // of a model's inputs it is 110 dB or more): where this is high, error enters.
  double loss = 0;
};

struct CompareReport {
  std::vector<WeightComparison> weights;  // in A's order
  uint64_t equal_weights = 0;
  std::vector<std::string> only_in_a, only_in_b;  // weights, with types and shapes
  uint64_t weight_bytes_a = 0, weight_bytes_b = 0, weight_elements = 0;
  double bits_per_weight_a = 0, bits_per_weight_b = 0;
  std::optional<double> weight_snr_db;  // of all weights that both have; none if all are equal

  bool ran = false;
  std::string function;
  std::string data;  // "given", or "random, seed 0"
  std::string isa;   // of inner loops, see ExecutionSettings
  uint64_t samples = 0;
  uint64_t steps = 0;
  std::vector<OutputComparison> outputs;
  std::vector<std::string> outputs_only_in_a, outputs_only_in_b;
  std::vector<OpComparison> ops;  // in A's order
  double seconds = 0;

  // What was asked for and is not so, with the numbers: "output 'y': SNR is 31.2 dB, expected at
  // least 40 dB". A value that is not finite in one model alone is among them, asked for or not.
  std::vector<std::string> missed;
};

// kUsage if options do not go with the models, kBadInput if a model or data is malformed. A missed
// threshold is no error here.
Result<CompareReport> Compare(const CompareOptions& options, Diagnostics& diagnostics);

}  // namespace cmlc

#endif  // CMLC_COMPARE_H_
