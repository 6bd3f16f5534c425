// One table, not several: the table lives in the second-level cache, and replicas of it would not.
// Prefetching 4 KiB ahead is what helps, since the hardware stops at page ends.
#include "numeric/histogram.h"

#include <cstring>

namespace cmlc::numeric {
namespace {

constexpr size_t kAhead = 4096;

}  // namespace

void CountHalves(std::span<const uint16_t> values, uint32_t* counts) {
  const uint16_t* at = values.data();
  size_t left = values.size();
  for (; left >= 32; left -= 32, at += 32) {
    __builtin_prefetch(reinterpret_cast<const char*>(at) + kAhead);
    for (int i = 0; i < 8; ++i) {
      uint64_t four = 0;
      std::memcpy(&four, at + 4 * i, 8);
      ++counts[four & 0xffff];
      ++counts[(four >> 16) & 0xffff];
      ++counts[(four >> 32) & 0xffff];
      ++counts[four >> 48];
    }
  }
  for (; left > 0; --left, ++at) ++counts[*at];
}

void CountFloats(std::span<const float> values, uint32_t* counts) {
  const float* at = values.data();
  size_t left = values.size();
  for (; left >= 16; left -= 16, at += 16) {
    __builtin_prefetch(reinterpret_cast<const char*>(at) + kAhead);
    for (int i = 0; i < 16; ++i) ++counts[FloatBin(at[i])];
  }
  for (; left > 0; --left, ++at) ++counts[FloatBin(*at)];
}

}  // namespace cmlc::numeric
