// The kernels of kernels.h, compiled for one instruction set by the file that includes this.
//
// Rules here: no header of std beside those that Eigen has, no std function that might be emitted
// out of line, everything in an unnamed namespace. Sums over rows have a fixed number of lanes, so
// that they do not depend on how wide vectors are. Loops are plain: with their types and no
// aliasing known, compilers turn them into vectors of whatever width there is.
#ifndef CMLC_ISA_KERNELS
#error "include this from a kernels_*.cc"
#endif

#define EIGEN_DONT_PARALLELIZE
#define EIGEN_MPL2_ONLY
#define EIGEN_NO_DEBUG
#include <Eigen/Core>

#include "exec/isa/kernels.h"

namespace cmlc::exec {

const IsaKernels* CMLC_ISA_KERNELS();

namespace {

#define CMLC_INLINE inline __attribute__((always_inline))

CMLC_INLINE int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }
CMLC_INLINE int64_t Most(int64_t a, int64_t b) { return a > b ? a : b; }
CMLC_INLINE int64_t DivideUp(int64_t a, int64_t b) { return a <= 0 ? 0 : (a + b - 1) / b; }

// Functions of Window itself might be emitted for all files together.
CMLC_INLINE int64_t Product(const int64_t (&sizes)[3]) { return sizes[0] * sizes[1] * sizes[2]; }
CMLC_INLINE int64_t ImageSize(const Window& w) { return Product(w.image); }
CMLC_INLINE int64_t KernelSize(const Window& w) { return Product(w.kernel); }
CMLC_INLINE int64_t PositionCount(const Window& w) { return Product(w.positions); }

// --- Matrix product -----------------------------------------------------------------------------

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Strided = Eigen::OuterStride<>;
using In = Eigen::Map<const Matrix, Eigen::Unaligned, Strided>;
using Out = Eigen::Map<Matrix, Eigen::Unaligned, Strided>;

template <typename A, typename B>
CMLC_INLINE void Multiply(const A& a, const B& b, Out& c, bool accumulate) {
  if (accumulate)
    c.noalias() += a * b;
  else
    c.noalias() = a * b;
}

void Gemm(const float* a, int64_t lda, bool transpose_a, const float* b, int64_t ldb,
          bool transpose_b, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
          bool accumulate) {
  if (m == 0 || n == 0) return;
  Out out(c, m, n, Strided(ldc));
  if (k == 0) {
    if (!accumulate) out.setZero();
    return;
  }
  const In left(a, transpose_a ? k : m, transpose_a ? m : k, Strided(lda));
  const In right(b, transpose_b ? n : k, transpose_b ? k : n, Strided(ldb));
  if (transpose_a && transpose_b)
    Multiply(left.transpose(), right.transpose(), out, accumulate);
  else if (transpose_a)
    Multiply(left.transpose(), right, out, accumulate);
  else if (transpose_b)
    Multiply(left, right.transpose(), out, accumulate);
  else
    Multiply(left, right, out, accumulate);
}

// --- Windows ------------------------------------------------------------------------------------

// Along one dimension: the positions whose point k of the kernel lies within the image.
struct Range {
  int64_t begin, end;
};

CMLC_INLINE Range Inside(const Window& w, int d, int64_t k) {
  const int64_t shift = w.before[d] - k * w.dilation[d];  // image point = position * stride - shift
  Range range = {DivideUp(shift, w.stride[d]),
                 Least(w.positions[d], DivideUp(w.image[d] + shift, w.stride[d]))};
  if (range.begin > range.end) range.begin = range.end;
  return range;
}

template <int kStride>
CMLC_INLINE void CopyStrided(const float* __restrict in, int64_t stride, int64_t count,
                             float* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = in[i * (kStride == 0 ? stride : kStride)];
}

void ImageToColumns(const Window& w, const float* image, int64_t first_row, int64_t end_row,
                    int64_t begin, int64_t end, float* columns, int64_t ld) {
  const int64_t width = w.positions[2], height = w.positions[1];
  const int64_t kernel_size = KernelSize(w), image_size = ImageSize(w);
  const int64_t stride = w.stride[2];
  for (int64_t row = first_row; row < end_row; ++row, columns += ld) {
    const float* channel = image + row / kernel_size * image_size;
    const int64_t k = row % kernel_size;
    const int64_t kx = k % w.kernel[2], ky = k / w.kernel[2] % w.kernel[1],
                  kz = k / (w.kernel[2] * w.kernel[1]);
    const Range xs = Inside(w, 2, kx), ys = Inside(w, 1, ky), zs = Inside(w, 0, kz);
    int64_t y = begin / width;
    int64_t x = begin - y * width;
    int64_t z = y / height;
    y -= z * height;
    float* out = columns;
    for (int64_t at = begin; at < end;) {
      const int64_t length = Least(width - x, end - at);
      if (z < zs.begin || z >= zs.end || y < ys.begin || y >= ys.end) {
        for (int64_t i = 0; i < length; ++i) out[i] = 0;
      } else {
        // Within this run: zeros, then image, then zeros.
        const int64_t from = Least(Most(xs.begin - x, 0), length);
        const int64_t to = Most(Least(xs.end - x, length), from);
        for (int64_t i = 0; i < from; ++i) out[i] = 0;
        if (to > from) {
          const int64_t iz = z * w.stride[0] - w.before[0] + kz * w.dilation[0];
          const int64_t iy = y * w.stride[1] - w.before[1] + ky * w.dilation[1];
          const int64_t ix = (x + from) * stride - w.before[2] + kx * w.dilation[2];
          const float* in = channel + (iz * w.image[1] + iy) * w.image[2] + ix;
          if (stride == 1)
            CopyStrided<1>(in, 1, to - from, out + from);
          else if (stride == 2)
            CopyStrided<2>(in, 2, to - from, out + from);
          else
            CopyStrided<0>(in, stride, to - from, out + from);
        }
        for (int64_t i = to; i < length; ++i) out[i] = 0;
      }
      out += length;
      at += length;
      x = 0;
      if (++y == height) {
        y = 0;
        ++z;
      }
    }
  }
}

template <int kStride>
CMLC_INLINE void AddStrided(const float* __restrict in, int64_t stride, int64_t count,
                            float* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i * (kStride == 0 ? stride : kStride)] += in[i];
}

void ColumnsToImage(const Window& w, const float* columns, int64_t ld, int64_t channels,
                    int64_t begin, int64_t end, float* image) {
  const int64_t width = w.positions[2], height = w.positions[1];
  const int64_t stride = w.stride[2];
  for (int64_t c = 0; c < channels; ++c, image += ImageSize(w))
    for (int64_t kz = 0; kz < w.kernel[0]; ++kz)
      for (int64_t ky = 0; ky < w.kernel[1]; ++ky)
        for (int64_t kx = 0; kx < w.kernel[2]; ++kx, columns += ld) {
          const Range xs = Inside(w, 2, kx), ys = Inside(w, 1, ky), zs = Inside(w, 0, kz);
          int64_t y = begin / width;
          int64_t x = begin - y * width;
          int64_t z = y / height;
          y -= z * height;
          const float* in = columns;
          for (int64_t at = begin; at < end;) {
            const int64_t length = Least(width - x, end - at);
            const int64_t from = Least(Most(xs.begin - x, 0), length);
            const int64_t to = Most(Least(xs.end - x, length), from);
            if (z >= zs.begin && z < zs.end && y >= ys.begin && y < ys.end && to > from) {
              const int64_t iz = z * w.stride[0] - w.before[0] + kz * w.dilation[0];
              const int64_t iy = y * w.stride[1] - w.before[1] + ky * w.dilation[1];
              const int64_t ix = (x + from) * stride - w.before[2] + kx * w.dilation[2];
              float* out = image + (iz * w.image[1] + iy) * w.image[2] + ix;
              if (stride == 1)
                AddStrided<1>(in + from, 1, to - from, out);
              else if (stride == 2)
                AddStrided<2>(in + from, 2, to - from, out);
              else
                AddStrided<0>(in + from, stride, to - from, out);
            }
            in += length;
            at += length;
            x = 0;
            if (++y == height) {
              y = 0;
              ++z;
            }
          }
        }
}

struct MaxOf {
  static CMLC_INLINE float Start() { return -__builtin_inff(); }
  static CMLC_INLINE float Take(float so_far, float value, float) {
    return value > so_far || value != value ? value : so_far;
  }
};
struct SumOf {
  static CMLC_INLINE float Start() { return 0; }
  static CMLC_INLINE float Take(float so_far, float value, float) { return so_far + value; }
};
struct SumOfSquaresOf {
  static CMLC_INLINE float Start() { return 0; }
  static CMLC_INLINE float Take(float so_far, float value, float) { return so_far + value * value; }
};
struct DotOf {
  static CMLC_INLINE float Start() { return 0; }
  static CMLC_INLINE float Take(float so_far, float value, float weight) {
    return so_far + value * weight;
  }
};

template <typename Op, int kStride>
CMLC_INLINE void TakeRow(const float* __restrict in, int64_t stride, int64_t count, float weight,
                         float* __restrict out) {
  for (int64_t i = 0; i < count; ++i)
    out[i] = Op::Take(out[i], in[i * (kStride == 0 ? stride : kStride)], weight);
}

// Three taps that are `dilation` points apart at once: a third of the loads and stores of `out`.
template <typename Op, int kStride>
CMLC_INLINE void TakeThreeRows(const float* __restrict in, int64_t dilation, int64_t stride,
                               int64_t count, const float* weights, float* __restrict out) {
  const float w0 = weights[0], w1 = weights[1], w2 = weights[2];
  for (int64_t i = 0; i < count; ++i) {
    const float* at = in + i * (kStride == 0 ? stride : kStride);
    out[i] =
        Op::Take(Op::Take(Op::Take(out[i], at[0], w0), at[dilation], w1), at[2 * dilation], w2);
  }
}

constexpr int64_t kMaxRanges = 32;

// One row of positions and one row of the kernel.
template <typename Op, int kStride>
CMLC_INLINE void Row(const Window& w, const Range* ranges, const float* in, const float* weights,
                     float* out) {
  static constexpr float kOnes[3] = {1, 1, 1};
  const int64_t stride = kStride == 0 ? w.stride[2] : kStride;
  const auto one = [&](int64_t k, Range range) {
    if (range.begin < range.end)
      TakeRow<Op, kStride>(in + range.begin * stride - w.before[2] + k * w.dilation[2], stride,
                           range.end - range.begin, weights == nullptr ? 1 : weights[k],
                           out + range.begin);
  };
  int64_t k = 0;
  for (; k + 3 <= w.kernel[2]; k += 3) {
    // Where all three lie within the image, together; left and right of that one by one.
    const int64_t begin = Most(ranges[k].begin, Most(ranges[k + 1].begin, ranges[k + 2].begin));
    const int64_t end = Least(ranges[k].end, Least(ranges[k + 1].end, ranges[k + 2].end));
    if (end - begin < 4) {
      for (int64_t i = k; i < k + 3; ++i) one(i, ranges[i]);
      continue;
    }
    for (int64_t i = k; i < k + 3; ++i) one(i, {ranges[i].begin, Least(ranges[i].end, begin)});
    TakeThreeRows<Op, kStride>(in + begin * stride - w.before[2] + k * w.dilation[2], w.dilation[2],
                               stride, end - begin, weights == nullptr ? kOnes : weights + k,
                               out + begin);
    for (int64_t i = k; i < k + 3; ++i) one(i, {Most(ranges[i].begin, end), ranges[i].end});
  }
  for (; k < w.kernel[2]; ++k) one(k, ranges[k]);
}

// `out` goes on from what it holds.
template <typename Op, int kStride>
void Slide(const Window& w, const float* image, const float* weights, float* out) {
  Range ranges[kMaxRanges];
  for (int64_t k = 0; k < w.kernel[2] && k < kMaxRanges; ++k) ranges[k] = Inside(w, 2, k);
  const bool wide = w.kernel[2] > kMaxRanges;
  for (int64_t z = 0; z < w.positions[0]; ++z)
    for (int64_t y = 0; y < w.positions[1]; ++y, out += w.positions[2]) {
      const int64_t z0 = z * w.stride[0] - w.before[0], y0 = y * w.stride[1] - w.before[1];
      const int64_t kz_end = Least(w.kernel[0], DivideUp(w.image[0] - z0, w.dilation[0]));
      const int64_t ky_end = Least(w.kernel[1], DivideUp(w.image[1] - y0, w.dilation[1]));
      for (int64_t kz = DivideUp(-z0, w.dilation[0]); kz < kz_end; ++kz)
        for (int64_t ky = DivideUp(-y0, w.dilation[1]); ky < ky_end; ++ky) {
          const float* in =
              image +
              ((z0 + kz * w.dilation[0]) * w.image[1] + y0 + ky * w.dilation[1]) * w.image[2];
          const float* row_weights =
              weights == nullptr ? nullptr : weights + (kz * w.kernel[1] + ky) * w.kernel[2];
          if (!wide) {
            Row<Op, kStride>(w, ranges, in, row_weights, out);
            continue;
          }
          // Position by position: a kernel may be far wider than the image.
          for (int64_t x = 0; x < w.positions[2]; ++x) {
            const int64_t x0 = x * w.stride[2] - w.before[2];
            const int64_t k_end = Least(w.kernel[2], DivideUp(w.image[2] - x0, w.dilation[2]));
            float value = out[x];
            for (int64_t k = DivideUp(-x0, w.dilation[2]); k < k_end; ++k)
              value = Op::Take(value, in[x0 + k * w.dilation[2]],
                               row_weights == nullptr ? 1 : row_weights[k]);
            out[x] = value;
          }
        }
    }
}

template <typename Op>
CMLC_INLINE void SlideAny(const Window& w, const float* image, const float* weights, float* out) {
  if (w.stride[2] == 1)
    Slide<Op, 1>(w, image, weights, out);
  else if (w.stride[2] == 2)
    Slide<Op, 2>(w, image, weights, out);
  else
    Slide<Op, 0>(w, image, weights, out);
}

template <typename Op>
void Pool(const Window& w, const float* image, float* out) {
  const int64_t count = PositionCount(w);
  for (int64_t i = 0; i < count; ++i) out[i] = Op::Start();
  SlideAny<Op>(w, image, nullptr, out);
}

// Small planes, where most rows are shorter than what their loops cost: the plane is copied with
// its padding, columns of equal remainder by the stride beside each other. Then every point of the
// kernel is a run of neighbours for all positions of a row, and sums stay in registers.
typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));
constexpr int64_t kPlaneElements = 20 * 1024;
constexpr int64_t kMaxTaps = 64;

struct Tap {
  int64_t offset;
  float weight;
};

template <int kVectors>
CMLC_INLINE void TapBlock(const float* in, const Tap* taps, int64_t count, float* out) {
  Eight sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = *reinterpret_cast<const Eight*>(out + 8 * v);
  for (int64_t t = 0; t < count; ++t) {
    const float* at = in + taps[t].offset;
    const float weight = taps[t].weight;
    for (int v = 0; v < kVectors; ++v)
      sums[v] = sums[v] + *reinterpret_cast<const Eight*>(at + 8 * v) * weight;
  }
  for (int v = 0; v < kVectors; ++v) *reinterpret_cast<Eight*>(out + 8 * v) = sums[v];
}

bool DepthwiseSmall(const Window& w, const float* image, const float* weights, float* out) {
  if (w.image[0] != 1 || w.positions[0] != 1 || w.kernel[0] != 1 || w.before[0] != 0) return false;
  const int64_t taps = w.kernel[1] * w.kernel[2];
  const int64_t stride = w.stride[2], width = w.positions[2], height = w.positions[1];
  if (taps > kMaxTaps || stride > 4 || w.dilation[1] > 64 || w.dilation[2] > 64 ||
      w.stride[1] > 4 || width > kPlaneElements || height > kPlaneElements)
    return false;
  const int64_t run = width + (w.kernel[2] - 1) * w.dilation[2] / stride;  // of one remainder
  const int64_t row = run * stride;
  const int64_t rows = (height - 1) * w.stride[1] + (w.kernel[1] - 1) * w.dilation[1] + 1;
  if (row * rows > kPlaneElements) return false;
  float plane[kPlaneElements + 32];
  for (int64_t i = 0; i < row * rows + 32; ++i) plane[i] = 0;
  for (int64_t y = 0; y < rows; ++y) {
    const int64_t from = y - w.before[1];
    if (from < 0 || from >= w.image[1]) continue;
    for (int64_t remainder = 0; remainder < stride; ++remainder) {
      const int64_t shift = w.before[2] - remainder;  // image column = i * stride - shift
      const int64_t begin = DivideUp(shift, stride);
      const int64_t end = Least(run, DivideUp(w.image[2] + shift, stride));
      if (begin >= end) continue;
      const float* in = image + from * w.image[2] + begin * stride - shift;
      float* to = plane + y * row + remainder * run + begin;
      if (stride == 1)
        CopyStrided<1>(in, 1, end - begin, to);
      else if (stride == 2)
        CopyStrided<2>(in, 2, end - begin, to);
      else
        CopyStrided<0>(in, stride, end - begin, to);
    }
  }
  Tap list[kMaxTaps];
  for (int64_t t = 0; t < taps; ++t) {
    const int64_t column = t % w.kernel[2] * w.dilation[2];
    list[t] = {t / w.kernel[2] * w.dilation[1] * row + column % stride * run + column / stride,
               weights[t]};
  }
  for (int64_t y = 0; y < height; ++y, out += width) {
    const float* in = plane + y * w.stride[1] * row;
    int64_t x = 0;
    for (; x + 32 <= width; x += 32) TapBlock<4>(in + x, list, taps, out + x);
    const int64_t rest = width - x;
    if (rest == 0) continue;
    float last[32];
    for (int64_t i = 0; i < 32; ++i) last[i] = i < rest ? out[x + i] : 0;
    if (rest > 24)
      TapBlock<4>(in + x, list, taps, last);
    else if (rest > 16)
      TapBlock<3>(in + x, list, taps, last);
    else if (rest > 8)
      TapBlock<2>(in + x, list, taps, last);
    else
      TapBlock<1>(in + x, list, taps, last);
    for (int64_t i = 0; i < rest; ++i) out[x + i] = last[i];
  }
  return true;
}

void Depthwise(const Window& w, const float* image, const float* weights, float* out) {
  if (!DepthwiseSmall(w, image, weights, out)) SlideAny<DotOf>(w, image, weights, out);
}

// --- Rows ---------------------------------------------------------------------------------------

constexpr int kLanes = 16;

CMLC_INLINE double Total(double* lanes) {
  for (int width = kLanes / 2; width != 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

double Sum(const float* x, int64_t count) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += static_cast<double>(x[i + lane]);
  for (int lane = 0; i < count; ++i, ++lane) lanes[lane] += static_cast<double>(x[i]);
  return Total(lanes);
}

double SumOfSquaresFrom(const float* x, int64_t count, double mean) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const double difference = static_cast<double>(x[i + lane]) - mean;
      lanes[lane] += difference * difference;
    }
  for (int lane = 0; i < count; ++i, ++lane) {
    const double difference = static_cast<double>(x[i]) - mean;
    lanes[lane] += difference * difference;
  }
  return Total(lanes);
}

double SumOfSquares(const float* x, int64_t count) { return SumOfSquaresFrom(x, count, 0); }

void MeanAndVariance(const float* x, int64_t count, double* mean, double* variance) {
  *mean = Sum(x, count) / static_cast<double>(count);
  *variance = SumOfSquaresFrom(x, count, *mean) / static_cast<double>(count);
}

// Vectors by hand, where compilers do not find them.
#ifdef __AVX__
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
using FloatVector = float __attribute__((vector_size(4 * kWidth)));
using IntVector = int32_t __attribute__((vector_size(4 * kWidth)));
using HalfVector = float __attribute__((vector_size(2 * kWidth)));  // half as many floats
using DoubleVector = double __attribute__((vector_size(4 * kWidth)));

template <typename Vector>
CMLC_INLINE Vector Load(const float* x) {
  Vector vector;
  __builtin_memcpy(&vector, x, sizeof vector);
  return vector;
}
CMLC_INLINE FloatVector Magnitudes(FloatVector numbers) {
  return (FloatVector)((IntVector)numbers & 0x7fffffff);
}
CMLC_INLINE FloatVector Lesser(FloatVector a, FloatVector b) { return a < b ? a : b; }
CMLC_INLINE FloatVector Greater(FloatVector a, FloatVector b) { return a > b ? a : b; }

void Summarize(const float* x, int64_t count, NumbersSummary* summary) {
  constexpr int kVectors = kLanes / (kWidth / 2);
  const float infinity = __builtin_inff();
  DoubleVector sums[kVectors] = {}, squares[kVectors] = {};
  const FloatVector infinities = infinity - FloatVector{};
  FloatVector lows = infinities, highs = -infinities, magnitudes = infinities;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int v = 0; v < kVectors; ++v) {
      const DoubleVector wide =
          __builtin_convertvector(Load<HalfVector>(x + i + kWidth / 2 * v), DoubleVector);
      sums[v] += wide;
      squares[v] += wide * wide;
    }
    for (int v = 0; v < kLanes / kWidth; ++v) {
      const FloatVector numbers = Load<FloatVector>(x + i + kWidth * v);
      lows = Lesser(numbers, lows);
      highs = Greater(numbers, highs);
      const FloatVector sizes = Magnitudes(numbers);
      magnitudes = Lesser(sizes == 0 ? infinities : sizes, magnitudes);
    }
  }
  double sum_lanes[kLanes], square_lanes[kLanes];
  __builtin_memcpy(sum_lanes, sums, sizeof sums);
  __builtin_memcpy(square_lanes, squares, sizeof squares);
  float low = infinity, high = -infinity, magnitude = infinity;
  const auto take = [&](float least, float greatest, float size) {
    low = least < low ? least : low;
    high = greatest > high ? greatest : high;
    magnitude = size < magnitude ? size : magnitude;
  };
  for (int lane = 0; lane < kWidth; ++lane) take(lows[lane], highs[lane], magnitudes[lane]);
  for (int lane = 0; i < count; ++i, ++lane) {
    const double wide = static_cast<double>(x[i]);
    sum_lanes[lane] += wide;
    square_lanes[lane] += wide * wide;
    take(x[i], x[i], x[i] == 0 ? infinity : __builtin_fabsf(x[i]));
  }
  summary->sum = Total(sum_lanes);
  summary->sum_of_squares = Total(square_lanes);
  summary->least = low;
  summary->greatest = high;
  summary->least_magnitude = magnitude;
}

float GreatestMagnitude(const float* x, int64_t count) {
  FloatVector first = {}, second = {};
  int64_t i = 0;
  for (; i + 2 * kWidth <= count; i += 2 * kWidth) {
    first = Greater(Magnitudes(Load<FloatVector>(x + i)), first);
    second = Greater(Magnitudes(Load<FloatVector>(x + i + kWidth)), second);
  }
  first = Greater(first, second);
  float most = 0;
  for (int lane = 0; lane < kWidth; ++lane) most = first[lane] > most ? first[lane] : most;
  for (; i < count; ++i) most = __builtin_fabsf(x[i]) > most ? __builtin_fabsf(x[i]) : most;
  return most;
}

void KeepGreatestMagnitudes(const float* __restrict x, int64_t count, float* __restrict most) {
  for (int64_t i = 0; i < count; ++i) {
    const float magnitude = __builtin_fabsf(x[i]);
    most[i] = magnitude > most[i] ? magnitude : most[i];
  }
}

void AddSquares(const float* __restrict x, int64_t count, double* __restrict sums) {
  for (int64_t i = 0; i < count; ++i) {
    const double wide = static_cast<double>(x[i]);
    sums[i] += wide * wide;
  }
}

// A mean in two parts: numbers that are close to a large mean lose nothing that way.
CMLC_INLINE float Upper(double mean) { return static_cast<float>(mean); }
CMLC_INLINE float Lower(double mean) {
  const float upper = Upper(mean);
  // An infinite mean has no rest.
  return upper - upper == 0 ? static_cast<float>(mean - static_cast<double>(upper)) : 0;
}

void Normalize(const float* __restrict x, int64_t count, double mean, float scale,
               const float* __restrict gamma, const float* __restrict beta, float* __restrict out) {
  const float upper = Upper(mean), lower = Lower(mean);
  if (gamma != nullptr && beta != nullptr) {
    for (int64_t i = 0; i < count; ++i)
      out[i] = (x[i] - upper - lower) * scale * gamma[i] + beta[i];
    return;
  }
  for (int64_t i = 0; i < count; ++i) out[i] = (x[i] - upper - lower) * scale;
  if (gamma != nullptr)
    for (int64_t i = 0; i < count; ++i) out[i] *= gamma[i];
  if (beta != nullptr)
    for (int64_t i = 0; i < count; ++i) out[i] += beta[i];
}

void ScaleAndShift(const float* __restrict x, int64_t count, double mean, float scale, float shift,
                   float* __restrict out) {
  const float upper = Upper(mean), lower = Lower(mean);
  for (int64_t i = 0; i < count; ++i) out[i] = (x[i] - upper - lower) * scale + shift;
}

// --- Softmax ------------------------------------------------------------------------------------

CMLC_INLINE float PowerOfTwo(int32_t n) {  // -126 to 127
  return __builtin_bit_cast(float, (n + 127) << 23);
}

// x = n * ln 2 + r with |r| <= ln 2 / 2, and e^r by its series, which at degree 8 is off by less
// than 2e-10.
CMLC_INLINE float Exp(float x) {
  // Beyond these the result is 0 or infinity all the same. NaN passes both.
  x = x < -105.0f ? -105.0f : x;
  x = x > 90.0f ? 90.0f : x;
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504088896341f + kMagic;
  const float whole = shifted - kMagic;
  // ln 2 in two parts; the first has so few bits that its product with n is exact.
  const float r = x - whole * 0.693145751953125f - whole * 1.42860682030941723e-6f;
  float series = 1.0f / 40320;
  series = series * r + 1.0f / 5040;
  series = series * r + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  // In two steps: 2^n itself may be too large or too small for a normal number.
  const int32_t n = __builtin_bit_cast(int32_t, shifted) - __builtin_bit_cast(int32_t, kMagic);
  const int32_t half = n >> 1;
  return (series * r * r + r + 1.0f) * PowerOfTwo(half) * PowerOfTwo(n - half);
}

void Softmax(float* x, int64_t count) {
  float lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = MaxOf::Start();
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane)
      lanes[lane] = MaxOf::Take(lanes[lane], x[i + lane], 1);
  for (int lane = 0; i < count; ++i, ++lane) lanes[lane] = MaxOf::Take(lanes[lane], x[i], 1);
  float most = lanes[0];
  for (int lane = 1; lane < kLanes; ++lane) most = MaxOf::Take(most, lanes[lane], 1);
  for (i = 0; i < count; ++i) x[i] = Exp(x[i] - most);
  const auto scale = static_cast<float>(1.0 / Sum(x, count));
  for (i = 0; i < count; ++i) x[i] *= scale;
}

constexpr IsaKernels kKernels = {
    .name = CMLC_ISA_NAME,
    .gemm = Gemm,
    .image_to_columns = ImageToColumns,
    .columns_to_image = ColumnsToImage,
    .depthwise = Depthwise,
    .window_max = Pool<MaxOf>,
    .window_sum = Pool<SumOf>,
    .window_sum_of_squares = Pool<SumOfSquaresOf>,
    .mean_and_variance = MeanAndVariance,
    .sum_of_squares = SumOfSquares,
    .summarize = Summarize,
    .greatest_magnitude = GreatestMagnitude,
    .keep_greatest_magnitudes = KeepGreatestMagnitudes,
    .add_squares = AddSquares,
    .normalize = Normalize,
    .scale_and_shift = ScaleAndShift,
    .softmax = Softmax,
};

}  // namespace

const IsaKernels* CMLC_ISA_KERNELS() {
  // Eigen cuts a product by the sizes of the caches that it finds. The same ones everywhere, so
  // that a product has the same bits on every processor of a level.
  Eigen::setCpuCacheSizes(32 * 1024, 512 * 1024, 4 * 1024 * 1024);
  return &kKernels;
}

}  // namespace cmlc::exec
