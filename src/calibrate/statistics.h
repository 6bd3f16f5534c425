// What is known of the values of a model after it has been run over samples.
//
// All of it is counted, or summed exactly, so it does not depend on the order of samples (but for
// the list of ranges, which has one), nor on threads; and statistics of some samples merged with
// those of others are those of all of them.
#ifndef CMLC_CALIBRATE_STATISTICS_H_
#define CMLC_CALIBRATE_STATISTICS_H_

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "calibrate/exact_sum.h"
#include "cmlc/status.h"

namespace cmlc::calibrate {

// How many numbers lie where. A bin holds the numbers of one sign and exponent whose fractions have
// the same first 8 bits: its width is between 1/256 and 1/512 of its numbers, at every magnitude,
// so nothing needs to be known of the range beforehand. Zeros are not in it.
class Histogram {
 public:
  static constexpr int kFractionBits = 8;
  static constexpr size_t kBlock = size_t{1} << kFractionBits;
  static constexpr size_t kBlocks = 512;  // sign and exponent of fp32

  // The bin of a number, and the magnitudes that its numbers lie between: [low, high).
  static uint32_t BinOf(float number) {
    return std::bit_cast<uint32_t>(number) >> (23 - kFractionBits);
  }
  static float LowOf(uint32_t bin);   // with its sign
  static float HighOf(uint32_t bin);  // likewise; infinite for the last

  void Add(float number) { ++Block(BinOf(number) / kBlock)[BinOf(number) % kBlock]; }
  void Add(uint32_t bin, uint64_t count) { Block(bin / kBlock)[bin % kBlock] += count; }
  // Counts of all bins of a block: those of one sign and exponent.
  void AddBlock(size_t block, std::span<const uint32_t, kBlock> counts) {
    Counts& of_block = Block(block);
    for (size_t i = 0; i < kBlock; ++i) of_block[i] += counts[i];
  }
  void Merge(const Histogram& other);
  uint64_t count(uint32_t bin) const {
    const auto& block = blocks_[bin / kBlock];
    return block == nullptr ? 0 : (*block)[bin % kBlock];
  }
  // Calls visit(bin, count) for all bins that hold something, from the least number up.
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    const auto one = [&](size_t block, size_t i) {
      if (blocks_[block] != nullptr && (*blocks_[block])[i] > 0)
        visit(static_cast<uint32_t>(block * kBlock + i), (*blocks_[block])[i]);
    };
    for (size_t block = kBlocks; block-- > kBlocks / 2;)
      for (size_t i = kBlock; i-- > 0;) one(block, i);
    for (size_t block = 0; block < kBlocks / 2; ++block)
      for (size_t i = 0; i < kBlock; ++i) one(block, i);
  }
  bool operator==(const Histogram& other) const;
  // Of the counts.
  uint64_t bytes() const { return used_ * sizeof(Counts); }

 private:
  using Counts = std::array<uint64_t, kBlock>;
  Counts& Block(size_t block) {
    if (blocks_[block] == nullptr) {
      blocks_[block] = std::make_unique<Counts>(Counts{});
      ++used_;
    }
    return *blocks_[block];
  }
  size_t used_ = 0;  // blocks
  std::array<std::unique_ptr<Counts>, kBlocks> blocks_;
};

// Of one value of the program, over all samples and steps.
struct ValueStatistics {
  // Ranges of so many runs are kept, for moving averages and to find outliers.
  static constexpr size_t kRanges = 1024;

  std::string op_type;  // of the op that makes it; empty: an input of the function
  std::string dtype;    // "fp16"
  uint64_t runs = 0;    // how often it was made
  uint64_t count = 0;   // elements that are finite
  uint64_t zeros = 0;
  uint64_t not_finite = 0;
  float least = std::numeric_limits<float>::infinity();
  float greatest = -std::numeric_limits<float>::infinity();
  ExactSum sum, squares;
  Histogram histogram;
  std::vector<std::pair<float, float>> ranges;  // of the first runs: least, greatest
  // The greatest magnitude in each channel. Empty if the number of channels changes, or there are
  // none.
  std::vector<float> channels;
  bool channels_differ = false;

  // Counts, sums, the histogram (accumulator.h is for many numbers).
  void AddNumbers(std::span<const float> numbers);
  void AddCounts(const ValueStatistics& part);       // what AddNumbers made of other numbers
  void AddRun(float run_least, float run_greatest);  // after its numbers and channels
  void AddChannels(std::span<const float> greatest_of_each);
  void Merge(const ValueStatistics& next);
  double mean() const { return count == 0 ? 0 : sum.value() / static_cast<double>(count); }
  double mean_square() const {
    return count == 0 ? 0 : squares.value() / static_cast<double>(count);
  }
  // The number that a share of the elements lies below, as far as bins tell; from 0 to 1.
  double Quantile(double share) const;
  // Memory that it takes, next to its own size.
  uint64_t bytes() const {
    return histogram.bytes() + ranges.capacity() * sizeof ranges[0] +
           channels.capacity() * sizeof(float);
  }
  bool operator==(const ValueStatistics&) const = default;
};

// Of what an op with a weight reads: the sum of squares of each input channel.
struct InputMoments {
  std::string op_type;
  uint64_t count = 0;  // numbers in each channel
  std::vector<ExactSum> squares;
  bool channels_differ = false;

  void Add(std::span<const double> sums, uint64_t numbers_each);
  void Merge(const InputMoments& next);
  bool operator==(const InputMoments&) const = default;
};

struct Statistics {
  std::string model;     // hash of the program and its weights, see HashModel
  std::string function;  // that was run
  std::string data;      // "given", or "random, seed 0"
  uint64_t samples = 0;
  uint64_t steps = 0;
  std::map<std::string, ValueStatistics> values;  // by name
  std::map<std::string, InputMoments> inputs;     // of ops with weights, by their first output

  // Takes over what samples after these gave. kUsage if that is of another model or function.
  Status Merge(const Statistics& next, const std::string& name);
  bool operator==(const Statistics&) const = default;
};

// The file: "CMLCSTAT", a version, a readable header, and the deflated rest with its hash. The same
// statistics give the same bytes.
std::string Serialize(const Statistics& statistics);
// kBadInput, with `name` in front, if it is not whole or of a version that is not known.
Result<Statistics> Parse(std::string_view bytes, const std::string& name);

Result<Statistics> ReadStatistics(const std::filesystem::path& path);
// In one step: a file of this name is there whole or as it was. kOutput on failure.
Status WriteStatistics(const Statistics& statistics, const std::filesystem::path& path);

}  // namespace cmlc::calibrate

#endif  // CMLC_CALIBRATE_STATISTICS_H_
