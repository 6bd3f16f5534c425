// Affine quantization as NeuralNetwork files store it: value = code * scale + bias, with codes
// 0 .. 2^bits - 1 and an fp32 scale and bias for each block of values. Unlike a zero point the bias
// is any number.
//
// Without search the range of the values is spread over the codes, as coremltools does. With search
// both parameters are chosen for the least squared error, which costs no bytes. H is 2^(bits - 1):
//
//                    search off                  search on
//   not symmetric    least .. greatest value     any scale and bias
//   symmetric        -(H - 1) .. H - 1 steps     -H .. H - 1 steps     bias = -H * scale exactly
//   symmetric, 1 bit -r and r, r = max |x|       r = mean |x|          bias = -scale / 2
//
// So in a symmetric block of 2 bits or more code H is 0. Blocks whose values are all equal have
// scale 0 and that value as bias; symmetric ones only if it is 0. Otherwise the scale is above 0,
// the least subnormal if need be. Parameters are such that code * scale + bias, computed in fp32
// step by step, is finite for every code: for that the scale is at most 2^(128 - bits), and of a
// range that is too wide the codes cover the middle.
//
// No input may be infinite or a number that is none. All arithmetic that decides anything is done
// in the same order at every SIMD width, so results do not depend on the processor.
#ifndef CMLC_NUMERIC_AFFINE_H_
#define CMLC_NUMERIC_AFFINE_H_

#include <cstddef>
#include <cstdint>

#include "numeric/linear.h"
#include "numeric/points.h"

namespace cmlc::numeric {

struct AffineFormat {
  int bits = 8;  // 1 .. 8
  bool symmetric = false;
  bool search = true;  // false: spread over the range
};

struct AffineParameters {
  float scale = 0;
  float bias = 0;
};

// Parameters from the extremes alone: those of the format with the search off.
AffineParameters AffineOfRange(float least, float greatest, const AffineFormat& format);

// Parameters for `count` consecutive blocks of `size` values each. A search never gives a larger
// squared error, as QuantizeAffineBlocks measures it, than AffineOfRange. Returns false, with
// parameters that mean nothing, if a value is infinite or not a number. fp16 values are given by
// their bit patterns.
bool FitAffineBlocks(const float* values, size_t size, size_t count, const AffineFormat& format,
                     AffineParameters* parameters);
bool FitAffineBlocks(const uint16_t* values, size_t size, size_t count, const AffineFormat& format,
                     AffineParameters* parameters);

// The same for a block given by its distinct values and multiplicities. The values count as rounded
// to fp32, which changes nothing for points that come from fp16 or, one by one, from fp32. For
// points that are means of many values (FloatCounts) the extremes are not the true ones: use
// AffineOfRange with those if the search is off.
AffineParameters FitAffine(const Points& points, const AffineFormat& format);

// codes[i] = clip(round((values[i] - bias) / scale)), ties to even, one byte for each code of
// `count` blocks of `size` values. The sum of squares that is returned as noise is that of what
// values differ by from code * scale + bias; all arithmetic but the sums is that of fp32. `codes`
// may not overlap the values; if it is null the sums alone are computed. With scale 0 every code
// stands for the same, and the codes of values that are the bias are 0.
LinearError QuantizeAffineBlocks(const float* values, size_t size, size_t count,
                                 const AffineParameters* parameters, const AffineFormat& format,
                                 uint8_t* codes);
LinearError QuantizeAffineBlocks(const uint16_t* values, size_t size, size_t count,
                                 const AffineParameters* parameters, const AffineFormat& format,
                                 uint8_t* codes);

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_AFFINE_H_
