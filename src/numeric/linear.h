// Linear quantization: a value is stored as a small integer code, value = scale * (code - zero
// point), with one scale and zero point for each block of values.
//
// Without search the parameters are those of coremltools: the range of the values is spread over
// the codes. With search the scale, and in mode linear the zero point too, are chosen for the least
// squared error under the rounding of the scale that is stored. That costs no bytes and gains about
// one decibel at 4 bits, much more where a few values lie far out.
//
//                                   search off          search on (a)
//   linear            signed       -Q - 1 .. Q         -Q - 1 .. Q       Q = 2^(bits - 1) - 1
//                     unsigned      0 .. 2Q + 1         0 .. 2Q + 1
//   linear_symmetric  signed       -Q .. Q             -Q - 1 .. Q       zero point 0
//                     unsigned      0 .. 2Q             0 .. 2Q + 1       zero point Q (a: Q + 1)
//
// No input may be infinite or a number that is none. All arithmetic that decides anything is done
// in the same order at every SIMD width, so results do not depend on the processor.
#ifndef CMLC_NUMERIC_LINEAR_H_
#define CMLC_NUMERIC_LINEAR_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "numeric/lut_fit.h"
#include "numeric/points.h"

namespace cmlc::numeric {

struct LinearFormat {
  int bits = 8;  // 4 or 8
  bool is_signed = true;
  // Mode linear_symmetric: no zero point if signed, a fixed one if unsigned. Else mode linear.
  bool symmetric = true;
  EntryType scale_type = EntryType::kHalf;  // what the scale is rounded to and stored in
  bool search = true;                       // false: the parameters of coremltools
};

// value = scale * (code - zero_point). The scale is rounded to the format's type already, and is
// always finite and above 0. The zero point is in the range of the codes.
struct LinearParameters {
  float scale = 1;
  int32_t zero_point = 0;
};

// {least, greatest} of the values; {0, 0} if there are none. Zeros are positive.
std::pair<float, float> RangeOf(std::span<const float> values);
// The range of fp16 values and 0. Nothing if a value is infinite or not a number.
std::optional<std::pair<float, float>> RangeOf(std::span<const uint16_t> halves);

// Parameters from the extremes alone, by coremltools' rule in fp32 arithmetic; bit-equal to
// coremltools 9.0 for fp32 weights if the search is off. If it is on, the scale is the same and the
// fixed zero point is that of the table above. It differs from coremltools where that gives a
// useless scale: for a block of zeros the scale is 1 and the codes are the zero point, where it
// would round to 0 it is the least subnormal, where it would be infinite the greatest finite
// number.
LinearParameters FitMinMax(float least, float greatest, const LinearFormat& format);

// Parameters for a block of any size: FitMinMax, or by search if the format says so. A search never
// gives a larger squared error, as QuantizeLinear measures it, than FitMinMax.
LinearParameters FitLinear(std::span<const float> values, const LinearFormat& format);

// The same for `count` consecutive blocks of `size` values each. Returns false, with parameters
// that mean nothing, if a value is infinite or not a number. fp16 values are given by their bit
// patterns.
bool FitLinearBlocks(const float* values, size_t size, size_t count, const LinearFormat& format,
                     LinearParameters* parameters);
bool FitLinearBlocks(const uint16_t* values, size_t size, size_t count, const LinearFormat& format,
                     LinearParameters* parameters);

// The same for a block given by its distinct values and multiplicities. The values count as rounded
// to fp32, which changes nothing for points that come from fp16 or, one by one, from fp32. For
// points that are means of many values (FloatCounts) the extremes are not the true ones: use
// FitMinMax with those if the search is off.
LinearParameters FitLinear(const Points& points, const LinearFormat& format);

// codes[i] = the low `bits` bits of clip(round(values[i] / scale) + zero_point), ties to even;
// two's complement if signed, one byte for each code. The range is that of the format (table
// above). Returns the sum of (values[i] - decoded[i])^2, decoded[i] being scale * (codes[i] -
// zero_point) rounded to the format's type, as a decoder rounds it; products beyond fp32 count as
// its greatest number. `codes` may not overlap the values; if it is null the sum alone is computed.
double QuantizeLinear(std::span<const float> values, const LinearParameters& parameters,
                      const LinearFormat& format, uint8_t* codes);

// Sums of squares: of values, and of what decoding makes of their codes less the values.
struct LinearError {
  double signal = 0;
  double noise = 0;
};

// The same for `count` consecutive blocks of `size` values, each with its own parameters: the codes
// are those of block after block, and the sums are those of all blocks. fp16 values are given by
// their bit patterns, and the format's type is fp16 then.
LinearError QuantizeLinearBlocks(const float* values, size_t size, size_t count,
                                 const LinearParameters* parameters, const LinearFormat& format,
                                 uint8_t* codes);
LinearError QuantizeLinearBlocks(const uint16_t* values, size_t size, size_t count,
                                 const LinearParameters* parameters, const LinearFormat& format,
                                 uint8_t* codes);

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_LINEAR_H_
