// Recurrent layers: lstm, gru and rnn.
//
//   x [s, b, I], state [b, H]  ->  states of all steps [s, b, H] or of the last one [1, b, H],
//                                  and the last state [b, H]
//
// Weights are [gates * H, I] and [gates * H, H], with the gates of a cell as blocks of rows: input,
// forget, output, cell for lstm; reset, output, update for gru. What comes from x does not depend
// on the state, so it is computed for all steps first; then the steps follow one another.
//
// Two ways to run backwards exist, and they differ in the order of what comes out: direction
// "reverse" gives the states in the order in which it makes them, so the first one belongs to the
// last element of x; the backward half of "bidirectional" gives each where its element of x is.
// Where only the last step is wanted, it is the last one made, in all cases.
//
// States are fp32 from step to step, whatever the type of x, and rounded in the outputs alone.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>

#include "exec/ops/tables.h"
#include "numeric/vector_math.h"

namespace cmlc::exec {
namespace {

// --- Activations --------------------------------------------------------------------------------

// Changes numbers in place.
struct Activation {
  void (*function)(float* values, size_t count);
  void operator()(float* values, size_t count) const { function(values, count); }
};

void Linear(float*, size_t) {}
void Relu(float* values, size_t count) {
  // Not std::max, which drops a NaN.
  for (size_t i = 0; i < count; ++i) values[i] = values[i] < 0 ? 0 : values[i];
}
void HardSigmoid(float* values, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const float y = 0.2F * values[i] + 0.5F;
    values[i] = y < 0 ? 0 : y > 1 ? 1 : y;
  }
}

// Parameters of scaled_tanh and linear have no place in these ops: the first is tanh, the second
// does nothing.
Result<Activation> ActivationOf(const OpContext& op, std::string_view parameter,
                                const std::string& missing) {
  CMLC_ASSIGN_OR_RETURN(std::string name, op.String(parameter, missing));
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (name == "sigmoid") return Activation{numeric::Sigmoid};
  if (name == "tanh" || name == "scaled_tanh") return Activation{numeric::Tanh};
  if (name == "relu") return Activation{Relu};
  if (name == "hard_sigmoid" || name == "sigmoid_hard") return Activation{HardSigmoid};
  if (name == "linear") return Activation{Linear};
  return op.Bad(
      fmt::format("{}: '{}' is none of tanh, scaled_tanh, sigmoid, hard_sigmoid, relu, linear",
                  parameter, name));
}

// --- Sizes and weights --------------------------------------------------------------------------

struct Sizes {
  size_t steps = 0, batch = 0, input = 0, hidden = 0;
  size_t directions = 1;
};

struct Direction {
  bool from_end = false;      // which element of x comes first
  bool out_in_place = false;  // states go where their element of x is
};

// A parameter of exactly this shape.
Result<FloatView> ShapedFloats(const OpContext& op, const std::string& parameter,
                               const Shape& shape) {
  CMLC_ASSIGN_OR_RETURN(const Value* value, op.Tensor(parameter));
  if (value->shape != shape)
    return op.Bad(fmt::format("{}: expected shape {}, got {}", parameter, ToString(shape),
                              ToString(value->shape)));
  return op.Floats(*value);
}

// The same for one that may be missing, then zeros.
Result<std::vector<float>> ShapedFloatsOrZeros(const OpContext& op, const std::string& parameter,
                                               const Shape& shape) {
  std::vector<float> values(static_cast<size_t>(*ElementCount(shape)));
  if (!op.Has(parameter)) return values;
  CMLC_ASSIGN_OR_RETURN(const FloatView view, ShapedFloats(op, parameter, shape));
  std::copy(view.span().begin(), view.span().end(), values.begin());
  return values;
}

Result<Sizes> SizesOf(OpContext& op, size_t gates, size_t directions) {
  CMLC_ASSIGN_OR_RETURN(const Value* x, op.Tensor("x"));
  CMLC_ASSIGN_OR_RETURN(const Value* weight, op.Tensor("weight_hh"));
  if (!IsFloat(x->dtype) || x->shape.size() != 3)
    return op.Bad(fmt::format("x: expected floats with 3 dimensions, got {}", ToString(*x)));
  if (weight->shape.size() != 2 ||
      weight->shape[0] != static_cast<int64_t>(gates) * weight->shape[1])
    return op.Bad(fmt::format("weight_hh: expected shape [{0}H, H], got {1}",
                              gates == 1 ? "" : std::to_string(gates), ToString(weight->shape)));
  Sizes sizes;
  sizes.steps = static_cast<size_t>(x->shape[0]);
  sizes.batch = static_cast<size_t>(x->shape[1]);
  sizes.input = static_cast<size_t>(x->shape[2]);
  sizes.hidden = static_cast<size_t>(weight->shape[1]);
  sizes.directions = directions;
  // Larger ones could not be held anyway; sums and products below stay within 63 bits.
  for (const size_t size : {sizes.steps, sizes.batch, sizes.input, sizes.hidden})
    if (size > (size_t{1} << 31))
      return op.Bad(
          fmt::format("x: {} with a hidden size of {} is too large", ToString(*x), sizes.hidden));
  return sizes;
}

Shape ShapeOf(std::initializer_list<size_t> sizes) {
  Shape shape;
  for (const size_t size : sizes) shape.push_back(static_cast<int64_t>(size));
  return shape;
}

// A matrix [rows, columns] as [columns, rows]: a product with a vector then runs over contiguous
// outputs, and each output adds up its terms in the order of the columns.
Result<Value> Transposed(OpContext& op, const std::string& parameter, size_t rows, size_t columns) {
  CMLC_ASSIGN_OR_RETURN(const FloatView view,
                        ShapedFloats(op, parameter, ShapeOf({rows, columns})));
  CMLC_ASSIGN_OR_RETURN(Value out, op.Make(DataType::kFloat32, ShapeOf({columns, rows})));
  float* to = OpContext::Data<float>(out);
  const float* from = view.data();
  constexpr size_t kTile = 16;
  op.ForRanges((columns + kTile - 1) / kTile, 8, [&](uint64_t begin, uint64_t end) {
    for (size_t c0 = begin * kTile; c0 < std::min(columns, end * kTile); c0 += kTile)
      for (size_t r0 = 0; r0 < rows; r0 += kTile)
        for (size_t c = c0; c < std::min(columns, c0 + kTile); ++c)
          for (size_t r = r0; r < std::min(rows, r0 + kTile); ++r)
            to[c * rows + r] = from[r * columns + c];
  });
  return out;
}

// out[n] += sum over k of x[k] * weight[k, n], for the columns [begin, end) of `width`.
void AddProduct(const float* x, size_t terms, const float* weight, size_t width, size_t begin,
                size_t end, float* out) {
  size_t k = 0;
  // Four rows at a time, so that an output is loaded and stored once for them; the order of the
  // sum stays that of k.
  for (; k + 4 <= terms; k += 4) {
    const float a = x[k], b = x[k + 1], c = x[k + 2], d = x[k + 3];
    const float* w = weight + k * width;
    for (size_t n = begin; n < end; ++n)
      out[n] =
          (((out[n] + a * w[n]) + b * w[width + n]) + c * w[2 * width + n]) + d * w[3 * width + n];
  }
  for (; k < terms; ++k) {
    const float a = x[k];
    const float* w = weight + k * width;
    for (size_t n = begin; n < end; ++n) out[n] += a * w[n];
  }
}

// One direction of one layer: what all three kinds of cell have in common.
struct Layer {
  Sizes sizes;
  size_t gates = 0;
  Value from_input;      // [s * b, gates * H], the bias included
  Value recurrent;       // weight_hh, transposed: [H, gates * H]
  std::vector<float> h;  // [b, H]

  size_t width() const { return gates * sizes.hidden; }
  const float* InputRow(size_t step, size_t row) const {
    return from_input.As<float>().data() + (step * sizes.batch + row) * width();
  }
  // Multiplications for one row of one step are worth it for a thread from some ten thousand on.
  uint64_t Grain() const {
    return std::max<uint64_t>(1, 32768 / std::max<uint64_t>(1, width() * sizes.hidden));
  }
};

// `bias` is added to what comes from x. The initial state is the part of `initial` [b, directions *
// H] that belongs to `direction`.
Result<Layer> MakeLayer(OpContext& op, const Sizes& sizes, size_t gates, const std::string& suffix,
                        const std::vector<float>& bias, const FloatView& x,
                        const FloatView& initial, size_t direction) {
  Layer layer;
  layer.sizes = sizes;
  layer.gates = gates;
  const size_t width = layer.width();
  CMLC_ASSIGN_OR_RETURN(const Value weight,
                        Transposed(op, "weight_ih" + suffix, width, sizes.input));
  CMLC_ASSIGN_OR_RETURN(layer.recurrent, Transposed(op, "weight_hh" + suffix, width, sizes.hidden));
  const size_t rows = sizes.steps * sizes.batch;
  CMLC_ASSIGN_OR_RETURN(layer.from_input, op.Make(DataType::kFloat32, ShapeOf({rows, width})));
  float* out = OpContext::Data<float>(layer.from_input);
  const float* weights = weight.As<float>().data();
  const uint64_t grain = std::max<uint64_t>(1, 65536 / std::max<uint64_t>(1, width * sizes.input));
  op.ForRanges(rows, grain, [&](uint64_t begin, uint64_t end) {
    for (size_t row = begin; row < end; ++row) {
      std::copy(bias.begin(), bias.end(), out + row * width);
      AddProduct(x.data() + row * sizes.input, sizes.input, weights, width, 0, width,
                 out + row * width);
    }
  });
  layer.h.resize(sizes.batch * sizes.hidden);
  for (size_t b = 0; b < sizes.batch; ++b)
    for (size_t n = 0; n < sizes.hidden; ++n)
      layer.h[b * sizes.hidden + n] =
          initial[(b * sizes.directions + direction) * sizes.hidden + n];
  return layer;
}

// Runs the steps of one direction. `cell(step, row, h)` changes the state of one row of the batch;
// all of them go to `sequence` [s, b, directions * H] (or [1, ...] if only the last is wanted).
template <typename Cell>
void RunSteps(OpContext& op, Layer& layer, const Direction& way, size_t direction, bool all,
              std::span<float> sequence, const Cell& cell) {
  const auto& [steps, batch, input, hidden, directions] = layer.sizes;
  // Rows do not depend on one another, so a thread takes some of them through all steps.
  op.ForRanges(batch, layer.Grain(), [&](uint64_t begin, uint64_t end) {
    std::vector<float> scratch(2 * layer.width() + hidden);
    for (size_t row = begin; row < end; ++row) {
      float* h = layer.h.data() + row * hidden;
      for (size_t i = 0; i < steps; ++i) {
        const size_t step = way.from_end ? steps - 1 - i : i;
        cell(step, row, h, scratch.data());
        if (!all && i + 1 < steps) continue;
        const size_t to = !all ? 0 : way.out_in_place ? step : i;
        std::copy(h, h + hidden,
                  sequence.data() + ((to * batch + row) * directions + direction) * hidden);
      }
    }
  });
}

// The last states of one direction into [b, directions * H].
void StoreState(const Layer& layer, const std::vector<float>& state, size_t direction,
                std::span<float> out) {
  const size_t hidden = layer.sizes.hidden;
  for (size_t row = 0; row < layer.sizes.batch; ++row)
    std::copy(state.begin() + static_cast<ptrdiff_t>(row * hidden),
              state.begin() + static_cast<ptrdiff_t>((row + 1) * hidden),
              out.data() + (row * layer.sizes.directions + direction) * hidden);
}

// What lstm, gru and rnn are given alike.
struct Common {
  Sizes sizes;
  std::vector<Direction> ways;
  bool all = false;
  DataType dtype = DataType::kUnused;
  FloatOutput sequence, last;
};

Result<Common> Prepare(OpContext& op, size_t gates, bool both_ways) {
  Common common;
  CMLC_ASSIGN_OR_RETURN(const std::string direction, op.String("direction", "forward"));
  if (direction == "forward") {
    common.ways = {{false, false}};
  } else if (direction == "reverse") {
    common.ways = {{true, false}};
  } else if (both_ways && direction == "bidirectional") {
    common.ways = {{false, true}, {true, true}};
  } else {
    return op.Bad(fmt::format("direction: '{}' is none of forward, reverse{}", direction,
                              both_ways ? ", bidirectional" : ""));
  }
  CMLC_ASSIGN_OR_RETURN(common.sizes, SizesOf(op, gates, common.ways.size()));
  CMLC_ASSIGN_OR_RETURN(common.all, op.Bool("output_sequence", false));
  const Sizes& sizes = common.sizes;
  if (sizes.steps == 0 && !common.all) return op.Bad("x: has no steps, so there is no last one");
  common.dtype = op.Input("x").dtype;
  const size_t wide = sizes.directions * sizes.hidden;
  CMLC_ASSIGN_OR_RETURN(
      common.sequence,
      op.MakeFloats(common.dtype, ShapeOf({common.all ? sizes.steps : 1, sizes.batch, wide})));
  CMLC_ASSIGN_OR_RETURN(common.last, op.MakeFloats(common.dtype, ShapeOf({sizes.batch, wide})));
  return common;
}

Shape StateShape(const Sizes& sizes) {
  return ShapeOf({sizes.batch, sizes.directions * sizes.hidden});
}

// --- The ops ------------------------------------------------------------------------------------

Status Lstm(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(Common common, Prepare(op, 4, /*both_ways=*/true));
  const Sizes& sizes = common.sizes;
  const size_t hidden = sizes.hidden;
  CMLC_ASSIGN_OR_RETURN(const Activation gate, ActivationOf(op, "recurrent_activation", "sigmoid"));
  CMLC_ASSIGN_OR_RETURN(const Activation inner, ActivationOf(op, "cell_activation", "tanh"));
  CMLC_ASSIGN_OR_RETURN(const Activation outer, ActivationOf(op, "activation", "tanh"));
  CMLC_ASSIGN_OR_RETURN(const float clip, op.Float("clip", INFINITY));
  CMLC_ASSIGN_OR_RETURN(const FloatView x, op.Floats("x"));
  CMLC_ASSIGN_OR_RETURN(const FloatView initial_h,
                        ShapedFloats(op, "initial_h", StateShape(sizes)));
  CMLC_ASSIGN_OR_RETURN(const FloatView initial_c,
                        ShapedFloats(op, "initial_c", StateShape(sizes)));
  CMLC_ASSIGN_OR_RETURN(FloatOutput last_c, op.MakeFloats(common.dtype, StateShape(sizes)));
  for (size_t direction = 0; direction < common.ways.size(); ++direction) {
    const std::string suffix = direction == 0 ? "" : "_back";
    CMLC_ASSIGN_OR_RETURN(const std::vector<float> bias,
                          ShapedFloatsOrZeros(op, "bias" + suffix, ShapeOf({4 * hidden})));
    CMLC_ASSIGN_OR_RETURN(const std::vector<float> peephole,
                          ShapedFloatsOrZeros(op, "peephole" + suffix, ShapeOf({3 * hidden})));
    const bool peeps = op.Has("peephole" + suffix);
    CMLC_ASSIGN_OR_RETURN(Layer layer,
                          MakeLayer(op, sizes, 4, suffix, bias, x, initial_h, direction));
    std::vector<float> cells(sizes.batch * hidden);
    for (size_t row = 0; row < sizes.batch; ++row)
      for (size_t n = 0; n < hidden; ++n)
        cells[row * hidden + n] = initial_c[(row * sizes.directions + direction) * hidden + n];
    const size_t width = layer.width();
    const float* recurrent = layer.recurrent.As<float>().data();
    RunSteps(op, layer, common.ways[direction], direction, common.all, common.sequence.values,
             [&](size_t step, size_t row, float* h, float* sums) {
               std::copy_n(layer.InputRow(step, row), width, sums);
               AddProduct(h, hidden, recurrent, width, 0, width, sums);
               float* c = cells.data() + row * hidden;
               float* i = sums;  // then f
               float* o = sums + 2 * hidden;
               float* z = sums + 3 * hidden;
               if (peeps)
                 for (size_t n = 0; n < hidden; ++n) {
                   i[n] += c[n] * peephole[n];
                   i[hidden + n] += c[n] * peephole[hidden + n];
                 }
               gate(i, 2 * hidden);
               inner(z, hidden);
               for (size_t n = 0; n < hidden; ++n) {
                 const float next = i[hidden + n] * c[n] + i[n] * z[n];
                 c[n] = next > clip ? clip : next < -clip ? -clip : next;
               }
               if (peeps)
                 for (size_t n = 0; n < hidden; ++n) o[n] += c[n] * peephole[2 * hidden + n];
               gate(o, hidden);
               std::copy_n(c, hidden, h);
               outer(h, hidden);
               for (size_t n = 0; n < hidden; ++n) h[n] *= o[n];
             });
    StoreState(layer, layer.h, direction, common.last.values);
    StoreState(layer, cells, direction, last_c.values);
  }
  op.Finish(std::move(common.sequence), 0);
  op.Finish(std::move(common.last), 1);
  op.Finish(std::move(last_c), 2);
  return Ok();
}

// The reset gate acts on the state before its product with the weights of the output gate; with
// `reset_after` (from iOS 18 on) on that product and its bias.
Status Gru(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(Common common, Prepare(op, 3, /*both_ways=*/false));
  const Sizes& sizes = common.sizes;
  const size_t hidden = sizes.hidden;
  CMLC_ASSIGN_OR_RETURN(const Activation gate, ActivationOf(op, "recurrent_activation", "sigmoid"));
  CMLC_ASSIGN_OR_RETURN(const Activation inner, ActivationOf(op, "activation", "tanh"));
  CMLC_ASSIGN_OR_RETURN(const bool reset_after, op.Bool("reset_after", false));
  CMLC_ASSIGN_OR_RETURN(const FloatView x, op.Floats("x"));
  CMLC_ASSIGN_OR_RETURN(const FloatView initial, ShapedFloats(op, "initial_h", StateShape(sizes)));
  CMLC_ASSIGN_OR_RETURN(const std::vector<float> bias,
                        ShapedFloatsOrZeros(op, "bias", ShapeOf({3 * hidden})));
  CMLC_ASSIGN_OR_RETURN(std::vector<float> input_bias,
                        ShapedFloatsOrZeros(op, "input_bias", ShapeOf({3 * hidden})));
  // Only where it acts on the product does the bias of the output gate need a place of its own.
  for (size_t n = 0; n < 3 * hidden; ++n)
    if (!reset_after || n < hidden || n >= 2 * hidden) input_bias[n] += bias[n];
  CMLC_ASSIGN_OR_RETURN(Layer layer, MakeLayer(op, sizes, 3, "", input_bias, x, initial, 0));
  const size_t width = layer.width();
  const float* recurrent = layer.recurrent.As<float>().data();
  RunSteps(op, layer, common.ways[0], 0, common.all, common.sequence.values,
           [&](size_t step, size_t row, float* h, float* scratch) {
             float* sums = scratch;  // reset, output, update
             float* products = scratch + width;
             float* reset_h = scratch + 2 * width;
             std::copy_n(layer.InputRow(step, row), width, sums);
             AddProduct(h, hidden, recurrent, width, 0, hidden, sums);
             AddProduct(h, hidden, recurrent, width, 2 * hidden, width, sums);
             gate(sums, hidden);
             if (reset_after) {
               std::copy_n(bias.data() + hidden, hidden, products + hidden);
               AddProduct(h, hidden, recurrent, width, hidden, 2 * hidden, products);
               for (size_t n = 0; n < hidden; ++n)
                 sums[hidden + n] += sums[n] * products[hidden + n];
             } else {
               for (size_t n = 0; n < hidden; ++n) reset_h[n] = sums[n] * h[n];
               AddProduct(reset_h, hidden, recurrent, width, hidden, 2 * hidden, sums);
             }
             inner(sums + hidden, hidden);
             gate(sums + 2 * hidden, hidden);
             for (size_t n = 0; n < hidden; ++n) {
               const float z = sums[2 * hidden + n];
               h[n] = (1.0F - z) * sums[hidden + n] + z * h[n];
             }
           });
  StoreState(layer, layer.h, 0, common.last.values);
  op.Finish(std::move(common.sequence), 0);
  op.Finish(std::move(common.last), 1);
  return Ok();
}

Status Rnn(OpContext& op) {
  CMLC_ASSIGN_OR_RETURN(Common common, Prepare(op, 1, /*both_ways=*/false));
  const Sizes& sizes = common.sizes;
  const size_t hidden = sizes.hidden;
  CMLC_ASSIGN_OR_RETURN(const Activation activation, ActivationOf(op, "activation", "tanh"));
  CMLC_ASSIGN_OR_RETURN(const FloatView x, op.Floats("x"));
  CMLC_ASSIGN_OR_RETURN(const FloatView initial, ShapedFloats(op, "initial_h", StateShape(sizes)));
  CMLC_ASSIGN_OR_RETURN(const std::vector<float> bias,
                        ShapedFloatsOrZeros(op, "bias", ShapeOf({hidden})));
  CMLC_ASSIGN_OR_RETURN(Layer layer, MakeLayer(op, sizes, 1, "", bias, x, initial, 0));
  const float* recurrent = layer.recurrent.As<float>().data();
  RunSteps(op, layer, common.ways[0], 0, common.all, common.sequence.values,
           [&](size_t step, size_t row, float* h, float* sums) {
             std::copy_n(layer.InputRow(step, row), hidden, sums);
             AddProduct(h, hidden, recurrent, hidden, 0, hidden, sums);
             activation(sums, hidden);
             std::copy_n(sums, hidden, h);
           });
  StoreState(layer, layer.h, 0, common.last.values);
  op.Finish(std::move(common.sequence), 0);
  op.Finish(std::move(common.last), 1);
  return Ok();
}

constexpr OpKernel kOps[] = {
    {"lstm", Lstm},
    {"gru", Gru},
    {"rnn", Rnn},
};

}  // namespace

std::span<const OpKernel> RecurrentOps() { return kOps; }

}  // namespace cmlc::exec
