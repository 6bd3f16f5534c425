// Bulk conversions between fp16 and fp32, for whatever vectors the processor has.
#ifndef CMLC_NUMERIC_CONVERT_H_
#define CMLC_NUMERIC_CONVERT_H_

#include <cstddef>
#include <cstdint>

namespace cmlc::numeric {

// out[i] = in[i], exactly. The ranges may not overlap.
void HalvesToFloats(const uint16_t* in, size_t count, float* out);

// out[i] = in[i] rounded to nearest, ties to even. The ranges may not overlap.
void FloatsToHalves(const float* in, size_t count, uint16_t* out);

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_CONVERT_H_
