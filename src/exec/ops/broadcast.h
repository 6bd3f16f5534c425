// Operands of elementwise ops, stretched to the shape of the result.
//
// An op works through its result in pieces of some thousand elements. For each piece a Reader gives
// an operand's elements as one contiguous run: a pointer to the operand itself where type and shape
// allow it, else a small buffer that is filled with converted or repeated elements. So an op has a
// single plain loop, and no operand is ever copied as a whole.
#ifndef CMLC_EXEC_OPS_BROADCAST_H_
#define CMLC_EXEC_OPS_BROADCAST_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "exec/op.h"
#include "numeric/convert.h"

namespace cmlc::exec {

// What is worked on at a time, and what a thread gets at a time.
constexpr uint64_t kPiece = 2048;
constexpr uint64_t kPieceGrain = 16 * kPiece;

// The shape that tensors of these shapes are stretched to: aligned right, sizes of 1 repeat. An
// error names the parameters.
Result<Shape> BroadcastShape(const OpContext& op,
                             std::span<const std::pair<std::string_view, const Shape*>> shapes);

// Where the elements of a tensor of shape `from` are when it is stretched to shape `to`.
class Stretch {
 public:
  Stretch(const Shape& from, const Shape& to);

  bool identity() const { return identity_; }
  bool scalar() const { return scalar_; }

  // Cuts elements [begin, begin + count) of the result in runs: copy(at, offset, length) for ones
  // that lie one after the other from `offset` on, fill(at, offset, length) for one that repeats.
  template <typename Copy, typename Fill>
  void Runs(uint64_t begin, uint64_t count, const Copy& copy, const Fill& fill) const {
    if (count == 0) return;
    if (dims_.empty()) {
      fill(uint64_t{0}, uint64_t{0}, count);
      return;
    }
    constexpr size_t kMostDims = 32;
    uint64_t position[kMostDims];
    uint64_t offset = 0;
    for (size_t d = dims_.size(); d-- > 0;) {
      position[d] = begin % dims_[d].size;
      begin /= dims_[d].size;
      offset += position[d] * dims_[d].stride;
    }
    const Dim inner = dims_.back();
    for (uint64_t at = 0; at < count;) {
      const uint64_t length = std::min(count - at, inner.size - position[dims_.size() - 1]);
      if (inner.stride != 0)
        copy(at, offset, length);
      else
        fill(at, offset, length);
      at += length;
      // On to the next run.
      offset -= position[dims_.size() - 1] * inner.stride;
      position[dims_.size() - 1] = 0;
      for (size_t d = dims_.size() - 1; d-- > 0;) {
        offset += dims_[d].stride;
        if (++position[d] < dims_[d].size) break;
        offset -= dims_[d].size * dims_[d].stride;
        position[d] = 0;
      }
    }
  }

 private:
  struct Dim {
    uint64_t size;
    uint64_t stride;  // 0: repeats
  };
  std::vector<Dim> dims_;  // with sizes of at least 2; neighbours that act as one are one
  bool identity_ = false;
  bool scalar_ = false;
};

// Elements of a resident tensor as `T`: float from any type, int64_t from integers and bool, and
// unsigned types of a width for the bits of a type of that width. One for each thread: it has a
// buffer of its own.
template <typename T>
class Reader {
 public:
  Reader(const Value& value, const Stretch& stretch) : value_(value), stretch_(stretch) {}

  // At most kPiece elements. Valid until the next call.
  const T* Get(uint64_t begin, size_t count) {
    if (stretch_.identity()) {
      if constexpr (!std::is_same_v<T, int64_t>)
        if (!std::is_same_v<T, float> || value_.dtype == DataType::kFloat32)
          return value_.As<T>().data() + begin;
      Convert(begin, count, buffer_);
      return buffer_;
    }
    if (stretch_.scalar()) {
      if (filled_ < count) {
        Fill(0, count, buffer_);
        filled_ = count;
      }
      return buffer_;
    }
    stretch_.Runs(
        begin, count,
        [&](uint64_t at, uint64_t offset, uint64_t length) {
          Convert(offset, static_cast<size_t>(length), buffer_ + at);
        },
        [&](uint64_t at, uint64_t offset, uint64_t length) {
          Fill(offset, static_cast<size_t>(length), buffer_ + at);
        });
    return buffer_;
  }

 private:
  void Fill(uint64_t offset, size_t count, T* out) {
    Convert(offset, 1, out);
    std::fill(out + 1, out + count, out[0]);
  }

  template <typename From>
  void Widen(uint64_t offset, size_t count, T* out) {
    const From* in = value_.As<From>().data() + offset;
    for (size_t i = 0; i < count; ++i) out[i] = static_cast<T>(in[i]);
  }

  void Convert(uint64_t offset, size_t count, T* out) {
    if constexpr (!std::is_same_v<T, float> && !std::is_same_v<T, int64_t>) {
      std::memcpy(out, value_.As<T>().data() + offset, count * sizeof(T));
      return;
    }
    switch (value_.dtype) {
      case DataType::kFloat32:
        return Widen<float>(offset, count, out);
      case DataType::kFloat16:
        if constexpr (std::is_same_v<T, float>)
          numeric::HalvesToFloats(value_.As<uint16_t>().data() + offset, count, out);
        return;
      case DataType::kBool:
      case DataType::kUInt8:
        return Widen<uint8_t>(offset, count, out);
      case DataType::kInt8:
        return Widen<int8_t>(offset, count, out);
      case DataType::kInt16:
        return Widen<int16_t>(offset, count, out);
      case DataType::kUInt16:
        return Widen<uint16_t>(offset, count, out);
      case DataType::kInt32:
        return Widen<int32_t>(offset, count, out);
      default:
        return Widen<uint32_t>(offset, count, out);
    }
  }

  const Value& value_;
  const Stretch& stretch_;
  size_t filled_ = 0;
  alignas(64) T buffer_[kPiece];
};

// Elements of an output, from floats or integers: fp16 is rounded to, integers are cut to their low
// bits, bool is whether it is not zero.
void StoreFloats(const float* in, size_t count, Value& out, uint64_t begin);
void StoreInts(const int64_t* in, size_t count, Value& out, uint64_t begin);

// The type of a result of two types: fp32 before fp16 before int32 before others. Where the types
// differ and the file declares one of two float types, that.
DataType CommonType(const OpContext& op, DataType a, DataType b);

// A tensor argument with storage, taken (see OpContext::Take).
Result<Value> TakeResident(OpContext& op, std::string_view parameter);

// `value` itself as an output, if nothing else has its storage and type and shape are right, else a
// new one.
Result<Value> ReuseOrMake(OpContext& op, const Value& value, DataType dtype, const Shape& shape);

// Elementwise with one number of each of the other operands: calls kernel(x, y, out, count), which
// may be given an `out` that is `x` or `y`.
using FloatKernel = void (*)(const float* x, const float* y, float* out, size_t count);
Status MapFloatPairs(OpContext& op, Value x, Value y, const Shape& shape, DataType dtype,
                     FloatKernel kernel);

}  // namespace cmlc::exec

#endif  // CMLC_EXEC_OPS_BROADCAST_H_
