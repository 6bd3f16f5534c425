// Normalizations. Means and variances are summed in double, in two passes: the mean of large
// numbers that differ little is where one pass in fp32 has nothing left.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "exec/isa/kernels.h"
#include "exec/ops/tables.h"

namespace cmlc::exec {
namespace {

Result<const Value*> FloatInput(const OpContext& op, size_t least_rank) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  if (!IsFloat(x->dtype) || x->shape.size() < least_rank)
    return op.Bad(fmt::format("x: expected fp16 or fp32 of at least {} dimensions, got {}",
                              least_rank, ToString(*x)));
  return x;
}

// A parameter of this shape; empty if it is not there.
Result<std::vector<float>> Numbers(const OpContext& op, std::string_view parameter,
                                   const Shape& shape) {
  std::vector<float> out;
  if (!op.Has(parameter)) return out;
  CMLC_ASSIGN_OR_RETURN(const Value* value, op.Tensor(parameter));
  if (value->shape != shape)
    return op.Bad(fmt::format("{}: expected shape {}, got {}", parameter, cmlc::ToString(shape),
                              ToString(*value)));
  out.resize(static_cast<size_t>(value->element_count()));
  CMLC_RETURN_IF_ERROR(ReadFloats(*value, 0, out));
  return out;
}

const float* OrNull(const std::vector<float>& values) {
  return values.empty() ? nullptr : values.data();
}

uint64_t Grain(uint64_t row) {
  return std::max<uint64_t>(1, 64 * 1024 / std::max<uint64_t>(1, row));
}

struct Planes {
  uint64_t count = 0;     // batch * channels
  uint64_t channels = 0;  // axis 1
  uint64_t size = 0;      // of one
};

Planes PlanesOf(const Value& x) {
  Planes planes;
  const uint64_t elements = x.element_count();
  if (elements == 0) return planes;
  planes.channels = static_cast<uint64_t>(x.shape[1]);
  planes.count = static_cast<uint64_t>(x.shape[0]) * planes.channels;
  planes.size = elements / planes.count;
  return planes;
}

Status BatchNorm(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, FloatInput(op, 2));
  const Shape channels = {x->shape[1]};
  CMLC_ASSIGN_OR_RETURN(const std::vector<float> mean, Numbers(op, "mean", channels));
  CMLC_ASSIGN_OR_RETURN(const std::vector<float> variance, Numbers(op, "variance", channels));
  CMLC_ASSIGN_OR_RETURN(const std::vector<float> gamma, Numbers(op, "gamma", channels));
  CMLC_ASSIGN_OR_RETURN(const std::vector<float> beta, Numbers(op, "beta", channels));
  CMLC_ASSIGN_OR_RETURN(const float epsilon, op.Float("epsilon", 1e-5f));
  const Planes planes = PlanesOf(*x);
  std::vector<float> scale(mean.size());
  for (size_t c = 0; c < mean.size(); ++c) {
    const double deviation =
        std::sqrt(static_cast<double>(variance[c]) + static_cast<double>(epsilon));
    scale[c] =
        static_cast<float>((gamma.empty() ? 1.0 : static_cast<double>(gamma[c])) / deviation);
  }
  CMLC_ASSIGN_OR_RETURN(const FloatView in, op.Floats(*x));
  CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(x->dtype, x->shape));
  op.ForRanges(planes.count, Grain(planes.size), [&](uint64_t begin, uint64_t end) {
    for (uint64_t plane = begin; plane < end; ++plane) {
      const auto c = static_cast<size_t>(plane % planes.channels);
      Kernels().scale_and_shift(in.data() + plane * planes.size, static_cast<int64_t>(planes.size),
                                static_cast<double>(mean[c]), scale[c], beta.empty() ? 0 : beta[c],
                                out.values.data() + plane * planes.size);
    }
  });
  op.Finish(std::move(out));
  return Ok();
}

Status InstanceNorm(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, FloatInput(op, 3));
  const Shape channels = {x->shape[1]};
  CMLC_ASSIGN_OR_RETURN(const std::vector<float> gamma, Numbers(op, "gamma", channels));
  CMLC_ASSIGN_OR_RETURN(const std::vector<float> beta, Numbers(op, "beta", channels));
  CMLC_ASSIGN_OR_RETURN(const float epsilon, op.Float("epsilon", 1e-5f));
  const Planes planes = PlanesOf(*x);
  CMLC_ASSIGN_OR_RETURN(const FloatView in, op.Floats(*x));
  CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(x->dtype, x->shape));
  op.ForRanges(planes.count, Grain(planes.size), [&](uint64_t begin, uint64_t end) {
    for (uint64_t plane = begin; plane < end; ++plane) {
      const auto c = static_cast<size_t>(plane % planes.channels);
      const float* from = in.data() + plane * planes.size;
      double mean = 0, variance = 0;
      Kernels().mean_and_variance(from, static_cast<int64_t>(planes.size), &mean, &variance);
      const double scale = (gamma.empty() ? 1.0 : static_cast<double>(gamma[c])) /
                           std::sqrt(variance + static_cast<double>(epsilon));
      Kernels().scale_and_shift(from, static_cast<int64_t>(planes.size), mean,
                                static_cast<float>(scale), beta.empty() ? 0 : beta[c],
                                out.values.data() + plane * planes.size);
    }
  });
  op.Finish(std::move(out));
  return Ok();
}

// Where the elements of some dimensions lie, in their order.
std::vector<uint64_t> Offsets(const Shape& shape, const std::vector<size_t>& axes) {
  std::vector<uint64_t> strides(shape.size(), 1);
  for (size_t d = shape.size(); d-- > 1;)
    strides[d - 1] = strides[d] * static_cast<uint64_t>(shape[d]);
  std::vector<uint64_t> offsets = {0};
  for (const size_t axis : axes) {
    std::vector<uint64_t> longer;
    longer.reserve(offsets.size() * static_cast<size_t>(shape[axis]));
    for (const uint64_t offset : offsets)
      for (int64_t i = 0; i < shape[axis]; ++i)
        longer.push_back(offset + static_cast<uint64_t>(i) * strides[axis]);
    offsets = std::move(longer);
  }
  return offsets;
}

Status LayerNorm(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, FloatInput(op, 0));
  CMLC_ASSIGN_OR_RETURN(const std::vector<size_t> axes, op.Axes("axes", x->shape.size()));
  Shape normalized;
  std::vector<size_t> outer;
  for (size_t d = 0; d < x->shape.size(); ++d)
    if (std::find(axes.begin(), axes.end(), d) != axes.end())
      normalized.push_back(x->shape[d]);
    else
      outer.push_back(d);
  CMLC_ASSIGN_OR_RETURN(const std::vector<float> gamma, Numbers(op, "gamma", normalized));
  CMLC_ASSIGN_OR_RETURN(const std::vector<float> beta, Numbers(op, "beta", normalized));
  CMLC_ASSIGN_OR_RETURN(const float epsilon, op.Float("epsilon", 1e-5f));
  CMLC_ASSIGN_OR_RETURN(const FloatView in, op.Floats(*x));
  CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(x->dtype, x->shape));
  if (out.values.empty()) {
    op.Finish(std::move(out));
    return Ok();
  }
  const uint64_t size = *ElementCount(normalized);
  const uint64_t rows = x->element_count() / size;
  const auto normalize = [&](const float* from, float* to) {
    double mean = 0, variance = 0;
    Kernels().mean_and_variance(from, static_cast<int64_t>(size), &mean, &variance);
    const double scale = 1 / std::sqrt(variance + static_cast<double>(epsilon));
    Kernels().normalize(from, static_cast<int64_t>(size), mean, static_cast<float>(scale),
                        OrNull(gamma), OrNull(beta), to);
  };
  const bool trailing = axes.empty() || axes.front() + axes.size() == x->shape.size();
  if (trailing) {
    op.ForRanges(rows, Grain(size), [&](uint64_t begin, uint64_t end) {
      for (uint64_t row = begin; row < end; ++row)
        normalize(in.data() + row * size, out.values.data() + row * size);
    });
  } else {
    const std::vector<uint64_t> inside = Offsets(x->shape, axes), starts = Offsets(x->shape, outer);
    op.ForRanges(rows, Grain(size), [&](uint64_t begin, uint64_t end) {
      std::vector<float> gathered(inside.size()), done(inside.size());
      for (uint64_t row = begin; row < end; ++row) {
        for (size_t i = 0; i < inside.size(); ++i) gathered[i] = in[starts[row] + inside[i]];
        normalize(gathered.data(), done.data());
        for (size_t i = 0; i < inside.size(); ++i) out.values[starts[row] + inside[i]] = done[i];
      }
    });
  }
  op.Finish(std::move(out));
  return Ok();
}

Status L2Norm(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, FloatInput(op, 3));
  CMLC_ASSIGN_OR_RETURN(const float epsilon, op.Float("epsilon", 1e-6f));
  CMLC_ASSIGN_OR_RETURN(const FloatView in, op.Floats(*x));
  CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(x->dtype, x->shape));
  if (!out.values.empty()) {
    const uint64_t size = *ElementCount(std::span(x->shape).last(3));
    op.ForRanges(x->element_count() / size, Grain(size), [&](uint64_t begin, uint64_t end) {
      for (uint64_t row = begin; row < end; ++row) {
        const float* from = in.data() + row * size;
        const double sum = Kernels().sum_of_squares(from, static_cast<int64_t>(size));
        Kernels().scale_and_shift(
            from, static_cast<int64_t>(size), 0,
            static_cast<float>(1 / std::sqrt(sum + static_cast<double>(epsilon))), 0,
            out.values.data() + row * size);
      }
    });
  }
  op.Finish(std::move(out));
  return Ok();
}

Status LocalResponseNorm(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, FloatInput(op, 2));
  CMLC_ASSIGN_OR_RETURN(const int64_t size, op.Int("size"));
  CMLC_ASSIGN_OR_RETURN(const float alpha, op.Float("alpha", 1e-4f));
  CMLC_ASSIGN_OR_RETURN(const float beta, op.Float("beta", 0.75f));
  CMLC_ASSIGN_OR_RETURN(const float k, op.Float("k", 1.0f));
  if (size < 1) return op.Bad(fmt::format("size: expected at least 1, got {}", size));
  const Planes planes = PlanesOf(*x);
  CMLC_ASSIGN_OR_RETURN(const FloatView in, op.Floats(*x));
  CMLC_ASSIGN_OR_RETURN(FloatOutput out, op.MakeFloats(x->dtype, x->shape));
  // `size` channels around each: of an even number, one more lies before it.
  const int64_t before = size / 2, after = (size - 1) / 2;
  const double factor = static_cast<double>(alpha) / static_cast<double>(size);
  op.ForRanges(planes.count, Grain(planes.size), [&](uint64_t begin, uint64_t end) {
    std::vector<double> sums(static_cast<size_t>(planes.size));
    for (uint64_t plane = begin; plane < end; ++plane) {
      const auto c = static_cast<int64_t>(plane % planes.channels);
      const auto sample = static_cast<int64_t>(plane) - c;
      const int64_t last = std::min(c + after, static_cast<int64_t>(planes.channels) - 1);
      std::fill(sums.begin(), sums.end(), 0.0);
      for (int64_t near = std::max<int64_t>(0, c - before); near <= last; ++near) {
        const float* from = in.data() + static_cast<uint64_t>(sample + near) * planes.size;
        for (size_t i = 0; i < sums.size(); ++i)
          sums[i] += static_cast<double>(from[i]) * static_cast<double>(from[i]);
      }
      const float* from = in.data() + plane * planes.size;
      float* to = out.values.data() + plane * planes.size;
      for (size_t i = 0; i < sums.size(); ++i)
        to[i] = static_cast<float>(
            static_cast<double>(from[i]) /
            std::pow(static_cast<double>(k) + factor * sums[i], static_cast<double>(beta)));
    }
  });
  op.Finish(std::move(out));
  return Ok();
}

constexpr OpKernel kOps[] = {
    {"batch_norm", BatchNorm},
    {"instance_norm", InstanceNorm},
    {"layer_norm", LayerNorm},
    {"l2_norm", L2Norm},
    {"local_response_norm", LocalResponseNorm},
};

}  // namespace

std::span<const OpKernel> NormalizationOps() { return kOps; }

}  // namespace cmlc::exec
