// Inner loops that are compiled once for each instruction set, and picked when the program runs.
//
// One portable binary runs on processors without AVX2 and still uses AVX2 where it is there. The
// loops are in kernels_impl.h, which kernels_v1.cc and kernels_v3.cc include, each
// compiled for its level of x86-64 (the first one is all there is on other processors). For a copy
// to stay where it belongs, nothing that a linker may merge with a function of the same name
// elsewhere is used there: Eigen is in a namespace of its own for each level, everything else has
// internal linkage, and only a table of functions gets out.
//
// All functions work on row-major fp32, keep no state and may be called by any thread. Of one level
// the same call gives the same bits. Levels differ in the last bits of `gemm`, which sums in
// another order and with or without fused multiply-adds; everything else is the same on all.
#ifndef CMLC_EXEC_ISA_KERNELS_H_
#define CMLC_EXEC_ISA_KERNELS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace cmlc::exec {

// A window that slides over up to three spatial dimensions; those that are missing come first and
// have size 1. Position o of the window covers the points o * stride - before + k * dilation of the
// image for k below kernel; points outside of the image are padding.
struct Window {
  int64_t image[3] = {1, 1, 1};      // sizes of the image
  int64_t positions[3] = {1, 1, 1};  // how many positions there are
  int64_t kernel[3] = {1, 1, 1};
  int64_t stride[3] = {1, 1, 1};
  int64_t dilation[3] = {1, 1, 1};
  int64_t before[3] = {0, 0, 0};  // padding before the image

  int64_t image_size() const { return image[0] * image[1] * image[2]; }
  int64_t position_count() const { return positions[0] * positions[1] * positions[2]; }
  int64_t kernel_size() const { return kernel[0] * kernel[1] * kernel[2]; }
};

// What some numbers are like.
struct NumbersSummary {
  double sum = 0, sum_of_squares = 0;  // in a fixed order; the latter is finite if all numbers are
  float least = 0, greatest = 0;
  float least_magnitude = 0;  // of those that are not zero; infinite if all are
};

struct IsaKernels {
  const char* name;  // "v1", "v3"; "generic" on other processors than x86-64

  // c (m x n) = a (m x k) * b (k x n), or c += a * b. Rows start `lda`, `ldb`, `ldc` elements
  // apart. With `transpose_a` what is stored is k x m, with `transpose_b` n x k. c overlaps
  // nothing.
  void (*gemm)(const float* a, int64_t lda, bool transpose_a, const float* b, int64_t ldb,
               bool transpose_b, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
               bool accumulate);

  // --- Windows ---

  // The image under every point of the kernel as a matrix: rows [first_row, end_row) of
  // channels x kernel_size(), columns the positions [begin, end), `ld` elements apart.
  void (*image_to_columns)(const Window& window, const float* image, int64_t first_row,
                           int64_t end_row, int64_t begin, int64_t end, float* columns, int64_t ld);
  // The reverse: adds columns [begin, end) of `channels` x kernel_size() rows to the image, in
  // the order of rows, then columns.
  void (*columns_to_image)(const Window& window, const float* columns, int64_t ld, int64_t channels,
                           int64_t begin, int64_t end, float* image);
  // out[position] += sum over the kernel of weights[k] * image, for one channel.
  void (*depthwise)(const Window& window, const float* image, const float* weights, float* out);
  // The greatest, the sum, and the sum of squares of what lies under the window, padding left out:
  // -inf or 0 where that is nothing. A NaN under the window gives NaN. Dilation is 1.
  void (*window_max)(const Window& window, const float* image, float* out);
  void (*window_sum)(const Window& window, const float* image, float* out);
  void (*window_sum_of_squares)(const Window& window, const float* image, float* out);

  // --- Rows ---

  void (*mean_and_variance)(const float* x, int64_t count, double* mean, double* variance);
  double (*sum_of_squares)(const float* x, int64_t count);
  void (*summarize)(const float* x, int64_t count, NumbersSummary* summary);
  // The greatest |x|, 0 if there is none; NaNs are passed over.
  float (*greatest_magnitude)(const float* x, int64_t count);
  // Element by element: most = max(most, |x|); sums += x * x.
  void (*keep_greatest_magnitudes)(const float* x, int64_t count, float* most);
  void (*add_squares)(const float* x, int64_t count, double* sums);
  // out = (x - mean) * scale * gamma + beta, element by element; gamma and beta may be null.
  void (*normalize)(const float* x, int64_t count, double mean, float scale, const float* gamma,
                    const float* beta, float* out);
  // out = (x - mean) * scale + shift
  void (*scale_and_shift)(const float* x, int64_t count, double mean, float scale, float shift,
                          float* out);
  // x = softmax(x). A row that holds NaN, +inf or nothing above -inf becomes NaN.
  void (*softmax)(float* x, int64_t count);
};

// What this processor can run, the least first.
std::span<const IsaKernels* const> SupportedKernels();

// The ones in use: the last of SupportedKernels() unless pinned.
const IsaKernels& Kernels();

// Uses those of this name from now on. False if there is no such level here. Not while something
// runs.
bool PinKernels(std::string_view name);

}  // namespace cmlc::exec

#endif  // CMLC_EXEC_ISA_KERNELS_H_
