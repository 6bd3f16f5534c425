#include "calibrate/accumulator.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "exec/isa/kernels.h"

namespace cmlc::calibrate {

void Accumulator::Add(std::span<const float> numbers) {
  if (tables_.empty()) tables_.resize(kTables * kBins);
  // A table holds that much for certain.
  if (in_tables_ + numbers.size() > std::numeric_limits<uint32_t>::max()) EmptyTables(rest_);
  for (size_t begin = 0; begin < numbers.size(); begin += kPart) {
    const std::span<const float> part =
        numbers.subspan(begin, std::min(kPart, numbers.size() - begin));
    exec::NumbersSummary summary;
    exec::Kernels().summarize(part.data(), static_cast<int64_t>(part.size()), &summary);
    // In the tables the least bin of either sign is that of zeros, so denormal numbers have to stay
    // out of it.
    if (!std::isfinite(summary.sum_of_squares) ||
        summary.least_magnitude < std::numeric_limits<float>::min()) {
      AddOneByOne(part);
      continue;
    }
    rest_.count += part.size();
    rest_.least = std::min(rest_.least, summary.least);
    rest_.greatest = std::max(rest_.greatest, summary.greatest);
    // Parts are short enough that their sums lose next to nothing.
    rest_.sum.Add(summary.sum);
    rest_.squares.Add(summary.sum_of_squares);
    least_magnitude_ = std::min(least_magnitude_, summary.least_magnitude);
    in_tables_ += part.size();
    uint32_t* const tables = tables_.data();
    size_t i = 0;
    for (; i + kTables <= part.size(); i += kTables)
      for (size_t table = 0; table < kTables; ++table)
        ++tables[table * kBins + Histogram::BinOf(part[i + table])];
    for (; i < part.size(); ++i) ++tables[Histogram::BinOf(part[i])];
  }
}

void Accumulator::AddOneByOne(std::span<const float> numbers) {
  double sum = 0, squares = 0;
  for (const float number : numbers) {
    if (!std::isfinite(number)) {
      ++rest_.not_finite;
      continue;
    }
    ++rest_.count;
    rest_.least = std::min(rest_.least, number);
    rest_.greatest = std::max(rest_.greatest, number);
    const auto wide = static_cast<double>(number);
    sum += wide;
    squares += wide * wide;
    if (number == 0)
      ++rest_.zeros;
    else
      rest_.histogram.Add(number);
  }
  rest_.sum.Add(sum);
  rest_.squares.Add(squares);
}

// Only blocks that can hold something are looked at: those between the least and the greatest
// magnitude.
void Accumulator::EmptyTables(ValueStatistics& value) {
  if (in_tables_ == 0) return;
  constexpr size_t kOfOneSign = Histogram::kBlocks / 2;
  for (const size_t zero : {size_t{0}, kOfOneSign * Histogram::kBlock})
    for (size_t table = 0; table < kTables; ++table)
      value.zeros += std::exchange(tables_[table * kBins + zero], 0);
  if (std::isfinite(least_magnitude_)) {
    const auto block_of = [](float magnitude) {
      return Histogram::BinOf(magnitude) / Histogram::kBlock;
    };
    const size_t first = block_of(least_magnitude_);
    const size_t last = block_of(std::max(std::fabs(rest_.least), std::fabs(rest_.greatest)));
    for (size_t sign = 0; sign < 2; ++sign)
      for (size_t block = sign * kOfOneSign + first; block <= sign * kOfOneSign + last; ++block) {
        std::array<uint32_t, Histogram::kBlock> counts{};
        uint32_t any = 0;
        for (size_t table = 0; table < kTables; ++table) {
          uint32_t* const of_table = &tables_[table * kBins + block * Histogram::kBlock];
          for (size_t i = 0; i < Histogram::kBlock; ++i) {
            counts[i] += of_table[i];
            any |= of_table[i];
            of_table[i] = 0;
          }
        }
        if (any != 0) value.histogram.AddBlock(block, counts);
      }
  }
  in_tables_ = 0;
  least_magnitude_ = std::numeric_limits<float>::infinity();
}

void Accumulator::MoveTo(ValueStatistics& value) {
  EmptyTables(value);
  // Both zeros are one number.
  rest_.least += 0.0f;
  rest_.greatest += 0.0f;
  value.AddCounts(rest_);
  rest_ = ValueStatistics();
}

}  // namespace cmlc::calibrate
