#include "ir/decode.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "ir/block_grid.h"
#include "numeric/bit_pack.h"
#include "numeric/convert.h"
#include "numeric/half.h"

namespace cmlc {
namespace {

using ReaderPtr = std::unique_ptr<TensorReader>;

// Every operand of a link may be a chain of its own, so the work can grow threefold with each link.
constexpr int kMostLinks = 8;

// Elements that are converted at a time.
constexpr uint64_t kStep = 64 * 1024;

float RoundTo(DataType dtype, float value) {
  return dtype == DataType::kFloat16 ? numeric::HalfToFloat(numeric::FloatToHalf(value)) : value;
}

bool IsReadable(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat16:
    case DataType::kFloat32:
    case DataType::kBFloat16:
    case DataType::kInt8:
    case DataType::kUInt8:
    case DataType::kInt4:
    case DataType::kInt16:
    case DataType::kUInt16:
    case DataType::kUInt1:
    case DataType::kUInt2:
    case DataType::kUInt3:
    case DataType::kUInt4:
    case DataType::kUInt5:
    case DataType::kUInt6:
    case DataType::kUInt7:
    case DataType::kBool:
      return true;
    default:
      return false;
  }
}

// Converts packed elements to fp32. `bytes` starts with the element `first`, counted from a byte
// boundary: only sub-byte types have first > 0.
void Convert(DataType dtype, std::span<const std::byte> bytes, uint64_t first,
             std::span<float> out) {
  const auto each = [&]<typename T>(T) {
    for (size_t i = 0; i < out.size(); ++i) {
      T value;
      std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
      out[i] = static_cast<float>(value);
    }
  };
  switch (dtype) {
    case DataType::kFloat32:
      std::memcpy(out.data(), bytes.data(), out.size_bytes());
      return;
    case DataType::kFloat16:
      // Blobs are aligned, immediates live in strings, which are aligned too.
      numeric::HalvesToFloats(reinterpret_cast<const uint16_t*>(bytes.data()), out.size(),
                              out.data());
      return;
    case DataType::kBFloat16:
      for (size_t i = 0; i < out.size(); ++i) {
        uint16_t half = 0;
        std::memcpy(&half, bytes.data() + 2 * i, 2);
        out[i] = std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
      }
      return;
    case DataType::kInt8:
      return each(int8_t{});
    case DataType::kUInt8:
    case DataType::kBool:
      return each(uint8_t{});
    case DataType::kInt16:
      return each(int16_t{});
    case DataType::kUInt16:
      return each(uint16_t{});
    default: {
      std::vector<uint8_t> codes(out.size());
      numeric::UnpackBits(bytes, BitsOf(dtype), first, codes);
      for (size_t i = 0; i < out.size(); ++i) {
        const int code = codes[i];
        out[i] = static_cast<float>(dtype == DataType::kInt4 && code > 7 ? code - 16 : code);
      }
      return;
    }
  }
}

// Where an operand's bytes are: in the store, or in memory for an immediate.
struct ByteSource {
  const TensorStore* store = nullptr;
  TensorId id{};
  std::shared_ptr<const std::string> inline_bytes;

  Result<TensorView> View(uint64_t begin, uint64_t size, std::span<const std::byte>& bytes) const {
    if (inline_bytes) {
      bytes = std::as_bytes(std::span(*inline_bytes)).subspan(begin, size);
      return TensorView();
    }
    CMLC_ASSIGN_OR_RETURN(TensorView view, store->View(id, begin, size));
    bytes = view.bytes();
    return view;
  }
};

// A constant as it is stored.
class ConstReader final : public TensorReader {
 public:
  ConstReader(DataType dtype, Shape shape, ByteSource bytes)
      : TensorReader(dtype, std::move(shape)), bytes_(std::move(bytes)) {}

  Status Read(uint64_t begin, std::span<float> out) const override {
    const auto bits = static_cast<uint64_t>(BitsOf(dtype()));
    while (!out.empty()) {
      const auto step = std::min<uint64_t>(out.size(), kStep * 16);
      const uint64_t first_byte = begin * bits / 8;
      const uint64_t end_byte = ((begin + step) * bits + 7) / 8;
      std::span<const std::byte> bytes;
      CMLC_ASSIGN_OR_RETURN(const TensorView view,
                            bytes_.View(first_byte, end_byte - first_byte, bytes));
      // For types of less than a byte the range may start inside a byte: then it starts as
      // many elements further on as fit behind the boundary before.
      if (bits < 8 && (begin * bits) % 8 != 0)
        CMLC_RETURN_IF_ERROR(ReadUnaligned(begin, out.first(static_cast<size_t>(step))));
      else
        Convert(dtype(), bytes, 0, out.first(static_cast<size_t>(step)));
      begin += step;
      out = out.subspan(static_cast<size_t>(step));
    }
    return Ok();
  }

 private:
  // Reads from the last multiple of 8 elements, which is always a whole number of bytes.
  Status ReadUnaligned(uint64_t begin, std::span<float> out) const {
    const auto bits = static_cast<uint64_t>(BitsOf(dtype()));
    const uint64_t aligned = begin / 8 * 8;
    const uint64_t first_byte = aligned * bits / 8;
    const uint64_t end_byte = ((begin + out.size()) * bits + 7) / 8;
    std::span<const std::byte> bytes;
    CMLC_ASSIGN_OR_RETURN(const TensorView view,
                          bytes_.View(first_byte, end_byte - first_byte, bytes));
    Convert(dtype(), bytes, begin - aligned, out);
    return Ok();
  }

  ByteSource bytes_;
};

// scale * (data - offset), each scale for a block.
class ScaleReader final : public TensorReader {
 public:
  ScaleReader(ReaderPtr data, DataType scale_dtype, std::vector<float> scale,
              std::vector<float> offset, const Shape& blocks, bool round_difference)
      : TensorReader(scale_dtype, data->shape()),
        grid_(data->shape(), blocks),
        data_(std::move(data)),
        scale_(std::move(scale)),
        offset_(std::move(offset)),
        round_difference_(round_difference) {}

  Status Read(uint64_t begin, std::span<float> out) const override {
    CMLC_RETURN_IF_ERROR(data_->Read(begin, out));
    for (size_t i = 0; i < out.size();) {
      uint64_t run = 0;
      const uint64_t block = grid_.Locate(begin + i, run);
      const size_t end = i + static_cast<size_t>(std::min<uint64_t>(run, out.size() - i));
      const float scale = scale_[block];
      const float offset = offset_.empty() ? 0.0f : offset_[block];
      for (; i < end; ++i) {
        // Differences of integers are exact; of floats they round in the type of the scale.
        float value = offset_.empty() ? out[i] : out[i] - offset;
        if (round_difference_) value = RoundTo(dtype(), value);
        out[i] = RoundTo(dtype(), value * scale);
      }
    }
    return Ok();
  }

 private:
  BlockGrid grid_;
  ReaderPtr data_;
  std::vector<float> scale_;
  std::vector<float> offset_;  // empty: none
  bool round_difference_;
};

// data * scale + bias, each for a block, rounded to fp32 once.
class ScaleBiasReader final : public TensorReader {
 public:
  ScaleBiasReader(ReaderPtr data, std::vector<float> scale, std::vector<float> bias,
                  const Shape& blocks)
      : TensorReader(DataType::kFloat32, data->shape()),
        grid_(data->shape(), blocks),
        data_(std::move(data)),
        scale_(std::move(scale)),
        bias_(std::move(bias)) {}

  Status Read(uint64_t begin, std::span<float> out) const override {
    CMLC_RETURN_IF_ERROR(data_->Read(begin, out));
    for (size_t i = 0; i < out.size();) {
      uint64_t run = 0;
      const uint64_t block = grid_.Locate(begin + i, run);
      const size_t end = i + static_cast<size_t>(std::min<uint64_t>(run, out.size() - i));
      const auto scale = static_cast<double>(scale_[block]);
      const double bias = bias_.empty() ? 0.0 : static_cast<double>(bias_[block]);
      for (; i < end; ++i) out[i] = static_cast<float>(static_cast<double>(out[i]) * scale + bias);
    }
    return Ok();
  }

 private:
  BlockGrid grid_;
  ReaderPtr data_;
  std::vector<float> scale_;
  std::vector<float> bias_;  // empty: none
};

// lut[block][index], one value for each index.
class LutReader final : public TensorReader {
 public:
  LutReader(ReaderPtr indices, DataType lut_dtype, std::vector<float> lut, uint64_t entries,
            const Shape& blocks)
      : TensorReader(lut_dtype, indices->shape()),
        grid_(indices->shape(), blocks),
        indices_(std::move(indices)),
        lut_(std::move(lut)),
        entries_(entries) {}

  Status Read(uint64_t begin, std::span<float> out) const override {
    CMLC_RETURN_IF_ERROR(indices_->Read(begin, out));
    for (size_t i = 0; i < out.size();) {
      uint64_t run = 0;
      const float* table = lut_.data() + grid_.Locate(begin + i, run) * entries_;
      const size_t end = i + static_cast<size_t>(std::min<uint64_t>(run, out.size() - i));
      for (; i < end; ++i) out[i] = table[static_cast<size_t>(out[i])];
    }
    return Ok();
  }

 private:
  BlockGrid grid_;
  ReaderPtr indices_;
  std::vector<float> lut_;
  uint64_t entries_;
};

// The same with `width` values for each index, laid along `axis` of the result.
class VectorLutReader final : public TensorReader {
 public:
  VectorLutReader(Shape shape, std::vector<float> indices, const Shape& index_shape,
                  DataType lut_dtype, std::vector<float> lut, uint64_t entries, uint64_t width,
                  size_t axis, const Shape& blocks)
      : TensorReader(lut_dtype, std::move(shape)),
        grid_(index_shape, blocks),
        indices_(std::move(indices)),
        lut_(std::move(lut)),
        entries_(entries),
        width_(width),
        length_(static_cast<uint64_t>(this->shape()[axis])) {
    for (size_t d = axis + 1; d < this->shape().size(); ++d)
      inner_ *= static_cast<uint64_t>(this->shape()[d]);
  }

  Status Read(uint64_t begin, std::span<float> out) const override {
    for (size_t i = 0; i < out.size(); ++i) {
      const uint64_t position = begin + i;
      const uint64_t along = position / inner_ % length_;
      const uint64_t outer = position / inner_ / length_;
      const uint64_t index =
          (outer * (length_ / width_) + along / width_) * inner_ + position % inner_;
      uint64_t run = 0;
      const uint64_t row =
          grid_.Locate(index, run) * entries_ + static_cast<uint64_t>(indices_[index]);
      out[i] = lut_[row * width_ + along % width_];
    }
    return Ok();
  }

 private:
  BlockGrid grid_;
  std::vector<float> indices_;
  std::vector<float> lut_;
  uint64_t entries_;
  uint64_t width_;
  uint64_t length_;     // of the axis
  uint64_t inner_ = 1;  // elements behind it
};

// A mask as 0 and 1, with every bit repeated `width` times along `axis`.
class RepeatReader final : public TensorReader {
 public:
  RepeatReader(Shape shape, std::vector<float> mask, uint64_t width, size_t axis)
      : TensorReader(DataType::kUInt1, std::move(shape)), mask_(std::move(mask)), width_(width) {
    length_ = static_cast<uint64_t>(this->shape()[axis]);
    for (size_t d = axis + 1; d < this->shape().size(); ++d)
      inner_ *= static_cast<uint64_t>(this->shape()[d]);
  }

  Status Read(uint64_t begin, std::span<float> out) const override {
    for (size_t i = 0; i < out.size(); ++i) {
      const uint64_t position = begin + i;
      const uint64_t along = position / inner_ % length_;
      const uint64_t outer = position / inner_ / length_;
      out[i] = mask_[(outer * (length_ / width_) + along / width_) * inner_ + position % inner_];
    }
    return Ok();
  }

 private:
  std::vector<float> mask_;
  uint64_t width_;
  uint64_t length_ = 1;
  uint64_t inner_ = 1;
};

// The values of a one-dimensional tensor put where a mask is one, in row-major order; 0 elsewhere.
class ScatterReader final : public TensorReader {
 public:
  ScatterReader(std::shared_ptr<TensorReader> mask, ReaderPtr values, Shape shape,
                std::vector<uint64_t> ones_before)
      : TensorReader(values->dtype(), std::move(shape)),
        mask_(std::move(mask)),
        values_(std::move(values)),
        ones_before_(std::move(ones_before)) {}

  Status Read(uint64_t begin, std::span<float> out) const override {
    // From the start of a step, whose rank is known.
    const uint64_t start = begin / kStep * kStep;
    std::vector<float> mask(static_cast<size_t>(begin - start) + out.size());
    CMLC_RETURN_IF_ERROR(mask_->Read(start, mask));
    uint64_t rank = ones_before_[start / kStep];
    const size_t skip = static_cast<size_t>(begin - start);
    for (size_t i = 0; i < skip; ++i) rank += mask[i] != 0 ? 1 : 0;
    size_t ones = 0;
    for (size_t i = skip; i < mask.size(); ++i) ones += mask[i] != 0 ? 1 : 0;
    std::vector<float> present(ones);
    CMLC_RETURN_IF_ERROR(values_->Read(rank, present));
    size_t next = 0;
    for (size_t i = 0; i < out.size(); ++i) out[i] = mask[skip + i] != 0 ? present[next++] : 0.0f;
    return Ok();
  }

 private:
  std::shared_ptr<TensorReader> mask_;
  ReaderPtr values_;
  std::vector<uint64_t> ones_before_;  // each multiple of kStep
};

// `values` where a mask is one, 0 elsewhere: both dense.
class MaskedReader final : public TensorReader {
 public:
  MaskedReader(std::shared_ptr<TensorReader> mask, ReaderPtr values)
      : TensorReader(values->dtype(), values->shape()),
        mask_(std::move(mask)),
        values_(std::move(values)) {}

  Status Read(uint64_t begin, std::span<float> out) const override {
    std::vector<float> mask(out.size());
    CMLC_RETURN_IF_ERROR(mask_->Read(begin, mask));
    CMLC_RETURN_IF_ERROR(values_->Read(begin, out));
    for (size_t i = 0; i < out.size(); ++i)
      if (mask[i] == 0) out[i] = 0;
    return Ok();
  }

 private:
  std::shared_ptr<TensorReader> mask_;
  ReaderPtr values_;
};

// The same values under another type.
class CastReader final : public TensorReader {
 public:
  CastReader(ReaderPtr source, DataType dtype)
      : TensorReader(dtype, source->shape()), source_(std::move(source)) {}
  Status Read(uint64_t begin, std::span<float> out) const override {
    return source_->Read(begin, out);
  }

 private:
  ReaderPtr source_;
};

// Makes readers for the operands of one operation.
class Maker {
 public:
  Maker(const Operation& op, const GraphIndex& index, const TensorStore& store)
      : op_(op), index_(index), store_(store) {}

  Result<ReaderPtr> Make(size_t output);

 private:
  Error Bad(std::string_view what) const {
    return {ErrorKind::kBadInput, fmt::format("op '{}' ({}): {}", NameOf(op_), op_.type, what)};
  }

  Result<ReaderPtr> ReaderOf(const Value& value, const std::string& parameter) const;
  // The operand as a dense tensor; an error if it is absent.
  Result<ReaderPtr> Operand(const std::string& parameter) const;
  Result<std::vector<float>> SmallOperand(const std::string& parameter, Shape* shape,
                                          DataType* dtype) const;
  bool Has(const std::string& parameter) const;
  Result<int64_t> IntOperand(const std::string& parameter) const;
  Result<Shape> ShapeOperand() const;
  // The definition behind an operand that is bound by name; null for a literal.
  const Definition* Source(const std::string& parameter) const;

  Result<ReaderPtr> Affine();
  Result<ReaderPtr> OldLut();
  Result<ReaderPtr> OldSparse();
  Result<ReaderPtr> Cast();
  Result<ReaderPtr> ShiftScale(ReaderPtr data);
  Result<ReaderPtr> ScaleBias();
  // The scale, which divides the data, and what goes with it (of its shape), if that is there.
  struct Scale {
    DataType dtype{};
    Shape blocks;
    std::vector<float> scale, other;
    DataType other_dtype{};
  };
  Result<Scale> ScaleOperand(const TensorReader& data, const std::string& other) const;
  Result<ReaderPtr> Lut(ReaderPtr indices);
  Result<ReaderPtr> SparseToDense();
  // The dense form of what a sparse operation stands for, and its mask.
  Result<ReaderPtr> SparseDense();
  Result<std::shared_ptr<TensorReader>> SparseMask();
  Result<ReaderPtr> Scattered(const std::string& values, const std::string& mask);
  Result<ReaderPtr> Scatter(std::shared_ptr<TensorReader> mask, ReaderPtr values);
  Result<int64_t> VectorAxis(size_t rank, uint64_t width) const;

  const Operation& op_;
  const GraphIndex& index_;
  const TensorStore& store_;
};

Result<ReaderPtr> Maker::ReaderOf(const Value& value, const std::string& parameter) const {
  const std::optional<Shape> shape = StaticShape(value.type);
  if (!shape || !ElementCount(*shape))
    return Bad(fmt::format("'{}' has type {}, expected a tensor of fixed shape", parameter,
                           ToString(value.type)));
  const DataType dtype = value.type.tensor.dtype;
  if (!IsReadable(dtype))
    return Bad(fmt::format("'{}' has element type {}, which no constexpr takes", parameter,
                           NameOf(dtype)));
  ByteSource bytes{.store = &store_};
  if (const auto* id = std::get_if<TensorId>(&value.content)) {
    if (store_.info(*id).missing)
      return Bad(fmt::format("'{}' lies in a weights file that is missing", parameter));
    bytes.id = *id;
  } else {
    std::optional<std::string> packed = ImmediateBytes(value);
    if (!packed)
      return Bad(fmt::format("'{}': its values do not match its type {}", parameter,
                             ToString(value.type)));
    bytes.inline_bytes = std::make_shared<const std::string>(std::move(*packed));
  }
  return ReaderPtr(std::make_unique<ConstReader>(dtype, *shape, std::move(bytes)));
}

const Definition* Maker::Source(const std::string& parameter) const {
  const auto found = op_.inputs.find(parameter);
  if (found == op_.inputs.end() || found->second.bindings.size() != 1) return nullptr;
  const auto* name = std::get_if<std::string>(&found->second.bindings[0].target);
  return name == nullptr ? nullptr : index_.Find(&op_, *name);
}

bool Maker::Has(const std::string& parameter) const {
  return op_.inputs.contains(parameter) || op_.attributes.contains(parameter);
}

Result<ReaderPtr> Maker::Operand(const std::string& parameter) const {
  if (const Value* value = FindOperand(op_, parameter)) return ReaderOf(*value, parameter);
  if (!Has(parameter)) return Bad(fmt::format("operand '{}' is missing", parameter));
  const Definition* source = Source(parameter);
  if (source == nullptr || !(IsConst(*source->op) || IsConstexpr(*source->op)))
    return Bad(fmt::format("operand '{}' is no constant", parameter));
  return MakeReader(*source->op, source->output, index_, store_);
}

Result<std::vector<float>> Maker::SmallOperand(const std::string& parameter, Shape* shape,
                                               DataType* dtype) const {
  CMLC_ASSIGN_OR_RETURN(const ReaderPtr reader, Operand(parameter));
  *shape = reader->shape();
  *dtype = reader->dtype();
  return ReadAll(*reader);
}

Result<int64_t> Maker::IntOperand(const std::string& parameter) const {
  const Value* value = FindOperand(op_, parameter);
  if (value == nullptr) {
    const Definition* source = Source(parameter);
    if (source != nullptr && IsConst(*source->op))
      if (const auto val = source->op->attributes.find("val"); val != source->op->attributes.end())
        value = &val->second;
  }
  if (value == nullptr) return Bad(fmt::format("operand '{}' is missing", parameter));
  const auto numbers = ImmediateInts(*value);
  if (!numbers || numbers->size() != 1)
    return Bad(fmt::format("operand '{}' has type {}, expected one integer", parameter,
                           ToString(value->type)));
  return numbers->front();
}

Result<Shape> Maker::ShapeOperand() const {
  const Value* value = FindOperand(op_, "shape");
  if (value == nullptr) return Bad("operand 'shape' is missing");
  std::optional<std::vector<int64_t>> sizes = ImmediateInts(*value);
  if (const auto* id = std::get_if<TensorId>(&value->content); id != nullptr) {
    const TensorInfo& info = store_.info(*id);
    if (info.missing || info.dtype != DataType::kUInt32)
      return Bad("operand 'shape' is not a readable vector of uint32");
    CMLC_ASSIGN_OR_RETURN(const TensorView view, store_.View(*id, 0, info.size_bytes));
    sizes.emplace();
    for (uint64_t i = 0; i < info.element_count; ++i) {
      uint32_t size = 0;
      std::memcpy(&size, view.bytes().data() + 4 * i, 4);
      sizes->push_back(size);
    }
  }
  if (!sizes || !ElementCount(*sizes)) return Bad("operand 'shape' is not a vector of sizes");
  return *sizes;
}

Result<ReaderPtr> Maker::Affine() {
  CMLC_ASSIGN_OR_RETURN(ReaderPtr data, Operand("quantized_data"));
  if (data->dtype() != DataType::kInt8 && data->dtype() != DataType::kUInt8)
    return Bad(
        fmt::format("'quantized_data' is {}, expected int8 or uint8", NameOf(data->dtype())));
  const size_t rank = data->shape().size();
  Shape scale_shape, zero_shape;
  DataType scale_dtype{}, zero_dtype{};
  CMLC_ASSIGN_OR_RETURN(std::vector<float> scale,
                        SmallOperand("scale", &scale_shape, &scale_dtype));
  CMLC_ASSIGN_OR_RETURN(std::vector<float> zero,
                        SmallOperand("zero_point", &zero_shape, &zero_dtype));
  if (!IsWeightFloat(scale_dtype))
    return Bad(fmt::format("'scale' is {}, expected fp16 or fp32", NameOf(scale_dtype)));
  CMLC_ASSIGN_OR_RETURN(int64_t axis, IntOperand("axis"));
  if (axis < 0) axis += static_cast<int64_t>(rank);
  if (axis < 0 || axis >= static_cast<int64_t>(rank))
    return Bad(fmt::format("'axis' is {}, the data has rank {}", axis, rank));
  const auto channels = static_cast<size_t>(data->shape()[static_cast<size_t>(axis)]);
  const bool vector = scale.size() > 1 || zero.size() > 1;
  const auto spread = [&](std::vector<float>& values, const Shape& shape) {
    if (shape.size() > 1 || (values.size() != 1 && values.size() != channels)) return false;
    if (vector && values.size() == 1) values.assign(channels, values[0]);
    return true;
  };
  if (!spread(scale, scale_shape) || !spread(zero, zero_shape))
    return Bad(fmt::format("'scale' {} and 'zero_point' {} do not fit axis {} of {}",
                           ToString(scale_shape), ToString(zero_shape), axis,
                           ToString(data->shape())));
  Shape blocks(rank, 1);
  if (vector) blocks[static_cast<size_t>(axis)] = static_cast<int64_t>(channels);
  return ReaderPtr(std::make_unique<ScaleReader>(std::move(data), scale_dtype, std::move(scale),
                                                 std::move(zero), blocks, false));
}

Result<ReaderPtr> Maker::OldLut() {
  CMLC_ASSIGN_OR_RETURN(const Shape shape, ShapeOperand());
  Shape lut_shape;
  DataType lut_dtype{};
  CMLC_ASSIGN_OR_RETURN(std::vector<float> lut, SmallOperand("lut", &lut_shape, &lut_dtype));
  int bits = 0;
  for (const int candidate : {1, 2, 4, 6, 8})
    if (lut.size() == size_t{1} << candidate) bits = candidate;
  if (bits == 0 || lut_shape.size() != 1)
    return Bad(fmt::format("'lut' has shape {}, expected 2, 4, 16, 64 or 256 entries",
                           ToString(lut_shape)));
  const Value* value = FindOperand(op_, "indices");
  if (value == nullptr) return Bad("operand 'indices' is missing");
  CMLC_ASSIGN_OR_RETURN(const ReaderPtr packed, ReaderOf(*value, "indices"));
  const uint64_t count = *ElementCount(shape);
  if (packed->dtype() != DataType::kUInt8 || packed->element_count() != *PackedBytes(count, bits))
    return Bad(fmt::format("'indices' is {} {}, expected {} bytes for {} indices of {} bits",
                           NameOf(packed->dtype()), ToString(packed->shape()),
                           *PackedBytes(count, bits), count, bits));
  // The same bytes, seen as the sub-byte tensor that later systems store.
  ByteSource bytes{.store = &store_};
  if (const auto* id = std::get_if<TensorId>(&value->content))
    bytes.id = *id;
  else
    bytes.inline_bytes = std::make_shared<const std::string>(*ImmediateBytes(*value));
  auto indices = std::make_unique<ConstReader>(UnsignedOfBits(bits), shape, std::move(bytes));
  return ReaderPtr(std::make_unique<LutReader>(std::move(indices), lut_dtype, std::move(lut),
                                               uint64_t{1} << bits, Shape(shape.size(), 1)));
}

Result<ReaderPtr> Maker::OldSparse() {
  CMLC_ASSIGN_OR_RETURN(const Shape shape, ShapeOperand());
  const Value* value = FindOperand(op_, "mask");
  if (value == nullptr) return Bad("operand 'mask' is missing");
  CMLC_ASSIGN_OR_RETURN(const ReaderPtr packed, ReaderOf(*value, "mask"));
  const uint64_t count = *ElementCount(shape);
  if (packed->dtype() != DataType::kUInt8 || packed->element_count() != *PackedBytes(count, 1))
    return Bad(fmt::format("'mask' is {} {}, expected {} bytes for {} bits",
                           NameOf(packed->dtype()), ToString(packed->shape()),
                           *PackedBytes(count, 1), count));
  ByteSource bytes{.store = &store_};
  if (const auto* id = std::get_if<TensorId>(&value->content))
    bytes.id = *id;
  else
    bytes.inline_bytes = std::make_shared<const std::string>(*ImmediateBytes(*value));
  auto mask = std::make_shared<ConstReader>(DataType::kUInt1, shape, std::move(bytes));
  CMLC_ASSIGN_OR_RETURN(ReaderPtr values, Operand("nonzero_data"));
  return Scatter(std::move(mask), std::move(values));
}

Result<ReaderPtr> Maker::Cast() {
  CMLC_ASSIGN_OR_RETURN(ReaderPtr source, Operand("source_val"));
  const Value* wanted = FindOperand(op_, "output_dtype");
  const std::optional<std::string> name =
      wanted == nullptr ? std::nullopt : ImmediateString(*wanted);
  if (source->dtype() != DataType::kFloat16 || name != "fp32")
    return Bad(fmt::format("casts {} to '{}', expected fp16 to 'fp32'", NameOf(source->dtype()),
                           name.value_or("")));
  return ReaderPtr(std::make_unique<CastReader>(std::move(source), DataType::kFloat32));
}

Result<Maker::Scale> Maker::ScaleOperand(const TensorReader& data, const std::string& other) const {
  Scale out;
  CMLC_ASSIGN_OR_RETURN(out.scale, SmallOperand("scale", &out.blocks, &out.dtype));
  if (!IsWeightFloat(out.dtype))
    return Bad(fmt::format("'scale' is {}, expected fp16 or fp32", NameOf(out.dtype)));
  bool fits = out.blocks.size() == data.shape().size() && !out.blocks.empty();
  for (size_t d = 0; fits && d < out.blocks.size(); ++d)
    fits = out.blocks[d] > 0 && data.shape()[d] % out.blocks[d] == 0;
  if (!fits)
    return Bad(fmt::format("'scale' {} does not divide the data {}", ToString(out.blocks),
                           ToString(data.shape())));
  if (!Has(other)) return out;
  Shape shape;
  CMLC_ASSIGN_OR_RETURN(out.other, SmallOperand(other, &shape, &out.other_dtype));
  if (shape != out.blocks)
    return Bad(fmt::format("'{}' {} and 'scale' {} differ in shape", other, ToString(shape),
                           ToString(out.blocks)));
  return out;
}

Result<ReaderPtr> Maker::ShiftScale(ReaderPtr data) {
  CMLC_ASSIGN_OR_RETURN(Scale scale, ScaleOperand(*data, "offset"));
  const bool round_difference = FindDataType(data->dtype())->is_float ||
                                (!scale.other.empty() && FindDataType(scale.other_dtype)->is_float);
  return ReaderPtr(std::make_unique<ScaleReader>(std::move(data), scale.dtype,
                                                 std::move(scale.scale), std::move(scale.other),
                                                 scale.blocks, round_difference));
}

Result<ReaderPtr> Maker::ScaleBias() {
  CMLC_ASSIGN_OR_RETURN(ReaderPtr data, Operand("data"));
  CMLC_ASSIGN_OR_RETURN(Scale scale, ScaleOperand(*data, "bias"));
  return ReaderPtr(std::make_unique<ScaleBiasReader>(std::move(data), std::move(scale.scale),
                                                     std::move(scale.other), scale.blocks));
}

Result<int64_t> Maker::VectorAxis(size_t rank, uint64_t width) const {
  if (!Has("vector_axis")) {
    if (width > 1) return Bad("operand 'vector_axis' is missing, and LUT entries are vectors");
    return 0;
  }
  CMLC_ASSIGN_OR_RETURN(int64_t axis, IntOperand("vector_axis"));
  if (axis < 0) axis += static_cast<int64_t>(rank);
  if (axis < 0 || axis >= static_cast<int64_t>(rank))
    return Bad(fmt::format("'vector_axis' is {}, the indices have rank {}", axis, rank));
  return axis;
}

Result<ReaderPtr> Maker::Lut(ReaderPtr indices) {
  const Shape index_shape = indices->shape();
  const size_t rank = index_shape.size();
  Shape lut_shape;
  DataType lut_dtype{};
  CMLC_ASSIGN_OR_RETURN(std::vector<float> lut, SmallOperand("lut", &lut_shape, &lut_dtype));
  const DataTypeInfo* index_info = FindDataType(indices->dtype());
  bool fits = lut_shape.size() == rank + 2 && rank > 0 && !index_info->is_float &&
              !index_info->is_signed && index_info->bits <= 8 &&
              lut_shape[rank] == int64_t{1} << index_info->bits && lut_shape[rank + 1] > 0;
  for (size_t d = 0; fits && d < rank; ++d)
    fits = lut_shape[d] > 0 && index_shape[d] % lut_shape[d] == 0;
  if (!fits)
    return Bad(fmt::format("'lut' {} does not fit indices {} {}", ToString(lut_shape),
                           NameOf(indices->dtype()), ToString(index_shape)));
  const Shape blocks(lut_shape.begin(), lut_shape.begin() + static_cast<std::ptrdiff_t>(rank));
  const auto entries = static_cast<uint64_t>(lut_shape[rank]);
  const auto width = static_cast<uint64_t>(lut_shape[rank + 1]);
  CMLC_ASSIGN_OR_RETURN(const int64_t axis, VectorAxis(rank, width));
  if (width == 1)
    return ReaderPtr(std::make_unique<LutReader>(std::move(indices), lut_dtype, std::move(lut),
                                                 entries, blocks));
  Shape shape = index_shape;
  auto& length = shape[static_cast<size_t>(axis)];
  if (__builtin_mul_overflow(length, static_cast<int64_t>(width), &length) || !ElementCount(shape))
    return Bad("its result's shape overflows");
  CMLC_ASSIGN_OR_RETURN(std::vector<float> all, ReadAll(*indices));
  return ReaderPtr(std::make_unique<VectorLutReader>(shape, std::move(all), index_shape, lut_dtype,
                                                     std::move(lut), entries, width,
                                                     static_cast<size_t>(axis), blocks));
}

Result<ReaderPtr> Maker::Scatter(std::shared_ptr<TensorReader> mask, ReaderPtr values) {
  std::vector<uint64_t> ones_before;
  uint64_t ones = 0;
  std::vector<float> step;
  for (uint64_t begin = 0; begin < mask->element_count(); begin += kStep) {
    ones_before.push_back(ones);
    step.resize(static_cast<size_t>(std::min(kStep, mask->element_count() - begin)));
    CMLC_RETURN_IF_ERROR(mask->Read(begin, step));
    for (const float bit : step) ones += bit != 0 ? 1 : 0;
  }
  if (values->shape().size() != 1 || values->element_count() != ones)
    return Bad(fmt::format("the mask has {} ones, the values have shape {}", ones,
                           ToString(values->shape())));
  Shape shape = mask->shape();
  return ReaderPtr(std::make_unique<ScatterReader>(std::move(mask), std::move(values),
                                                   std::move(shape), std::move(ones_before)));
}

// An operand of a sparse operation, dense: either one-dimensional values to be scattered, or what
// another sparse operation makes of the same mask.
Result<ReaderPtr> Maker::Scattered(const std::string& values, const std::string& mask) {
  const Definition* source = Source(values);
  if (source != nullptr && source->output == 1 &&
      (source->op->type == "constexpr_lut_to_sparse" ||
       source->op->type == "constexpr_sparse_blockwise_shift_scale")) {
    Maker inner(*source->op, index_, store_);
    CMLC_ASSIGN_OR_RETURN(ReaderPtr dense, inner.SparseDense());
    const Definition* mask_source = Source(mask);
    if (mask_source != nullptr && mask_source->op == source->op && mask_source->output == 0)
      return dense;
    // The mask is written out once more: it has to be the same one.
    CMLC_ASSIGN_OR_RETURN(const ReaderPtr ours, Operand(mask));
    CMLC_ASSIGN_OR_RETURN(const std::shared_ptr<TensorReader> theirs, inner.SparseMask());
    bool same = ours->shape() == theirs->shape();
    std::vector<float> left, right;
    for (uint64_t begin = 0; same && begin < ours->element_count(); begin += kStep) {
      left.resize(static_cast<size_t>(std::min(kStep, ours->element_count() - begin)));
      right.resize(left.size());
      CMLC_RETURN_IF_ERROR(ours->Read(begin, left));
      CMLC_RETURN_IF_ERROR(theirs->Read(begin, right));
      same = left == right;
    }
    if (!same)
      return Bad(fmt::format("'{}' is not the mask that '{}' was made with", mask, values));
    return dense;
  }
  CMLC_ASSIGN_OR_RETURN(ReaderPtr mask_reader, Operand(mask));
  if (mask_reader->dtype() != DataType::kUInt1)
    return Bad(fmt::format("'{}' is {}, expected uint1", mask, NameOf(mask_reader->dtype())));
  CMLC_ASSIGN_OR_RETURN(ReaderPtr value_reader, Operand(values));
  return Scatter(std::shared_ptr<TensorReader>(std::move(mask_reader)), std::move(value_reader));
}

Result<std::shared_ptr<TensorReader>> Maker::SparseMask() {
  if (op_.type == "constexpr_sparse_blockwise_shift_scale") {
    CMLC_ASSIGN_OR_RETURN(ReaderPtr mask, Operand("data_mask"));
    return std::shared_ptr<TensorReader>(std::move(mask));
  }
  CMLC_ASSIGN_OR_RETURN(ReaderPtr mask, Operand("indices_mask"));
  CMLC_ASSIGN_OR_RETURN(const ReaderPtr lut, Operand("lut"));
  const size_t rank = mask->shape().size();
  // One without elements could claim vectors of any width.
  if (lut->shape().size() != rank + 2 || lut->element_count() == 0)
    return Bad(
        fmt::format("'lut' {} does not fit a mask of rank {}", ToString(lut->shape()), rank));
  const auto width = static_cast<uint64_t>(lut->shape().back());
  if (width <= 1) return std::shared_ptr<TensorReader>(std::move(mask));
  CMLC_ASSIGN_OR_RETURN(const int64_t axis, VectorAxis(rank, width));
  Shape shape = mask->shape();
  auto& length = shape[static_cast<size_t>(axis)];
  if (__builtin_mul_overflow(length, static_cast<int64_t>(width), &length) || !ElementCount(shape))
    return Bad("its result's shape overflows");
  CMLC_ASSIGN_OR_RETURN(std::vector<float> bits, ReadAll(*mask));
  return std::shared_ptr<TensorReader>(
      std::make_shared<RepeatReader>(shape, std::move(bits), width, static_cast<size_t>(axis)));
}

Result<ReaderPtr> Maker::SparseDense() {
  CMLC_ASSIGN_OR_RETURN(std::shared_ptr<TensorReader> mask, SparseMask());
  const bool lut = op_.type == "constexpr_lut_to_sparse";
  CMLC_ASSIGN_OR_RETURN(ReaderPtr data, lut ? Scattered("indices_nonzero_data", "indices_mask")
                                            : Scattered("nonzero_data", "data_mask"));
  CMLC_ASSIGN_OR_RETURN(ReaderPtr values, lut ? Lut(std::move(data)) : ShiftScale(std::move(data)));
  if (values->shape() != mask->shape()) return Bad("its mask and its values differ in shape");
  // An absent element is 0, whatever the LUT's first entry or the offset would make of it.
  return ReaderPtr(std::make_unique<MaskedReader>(std::move(mask), std::move(values)));
}

Result<ReaderPtr> Maker::Make(size_t output) {
  if (IsConst(op_)) {
    const auto value = op_.attributes.find("val");
    if (value == op_.attributes.end()) return Bad("attribute 'val' is missing");
    return ReaderOf(value->second, "val");
  }
  const bool old_form = Has("shape");
  if (op_.type == "constexpr_affine_dequantize") return Affine();
  if (op_.type == "constexpr_lut_to_dense" && old_form) return OldLut();
  if (op_.type == "constexpr_sparse_to_dense" && old_form) return OldSparse();
  if (op_.type == "constexpr_cast") return Cast();
  if (op_.type == "constexpr_lut_to_dense") {
    CMLC_ASSIGN_OR_RETURN(ReaderPtr indices, Operand("indices"));
    return Lut(std::move(indices));
  }
  if (op_.type == "constexpr_blockwise_shift_scale") {
    CMLC_ASSIGN_OR_RETURN(ReaderPtr data, Operand("data"));
    return ShiftScale(std::move(data));
  }
  if (op_.type == "constexpr_scale_bias") return ScaleBias();
  if (op_.type == "constexpr_sparse_to_dense") return Scattered("nonzero_data", "mask");
  if (op_.type == "constexpr_lut_to_sparse" ||
      op_.type == "constexpr_sparse_blockwise_shift_scale") {
    if (output == 1)
      return Bad("its one-dimensional values are read by something that is no sparse constexpr");
    CMLC_ASSIGN_OR_RETURN(std::shared_ptr<TensorReader> mask, SparseMask());
    struct Shared final : TensorReader {
      explicit Shared(std::shared_ptr<TensorReader> mask_reader)
          : TensorReader(mask_reader->dtype(), mask_reader->shape()),
            mask(std::move(mask_reader)) {}
      Status Read(uint64_t begin, std::span<float> out) const override {
        return mask->Read(begin, out);
      }
      std::shared_ptr<TensorReader> mask;
    };
    return ReaderPtr(std::make_unique<Shared>(std::move(mask)));
  }
  return Bad("this kind of constexpr is not known");
}

}  // namespace

TensorReader::TensorReader(DataType dtype, Shape shape)
    : dtype_(dtype), shape_(std::move(shape)), element_count_(*ElementCount(shape_)) {}

const Value* FindOperand(const Operation& op, const std::string& parameter) {
  if (const auto found = op.attributes.find(parameter); found != op.attributes.end())
    return &found->second;
  const auto found = op.inputs.find(parameter);
  if (found == op.inputs.end() || found->second.bindings.size() != 1) return nullptr;
  return std::get_if<Value>(&found->second.bindings[0].target);
}

Result<ReaderPtr> MakeReader(const Operation& op, size_t output, const GraphIndex& index,
                             const TensorStore& store) {
  // Known chains have three links; a file may not make us recurse as deep as it likes.
  thread_local int depth = 0;
  struct Depth {
    Depth() { ++depth; }
    ~Depth() { --depth; }
  } const guard;
  if (depth > kMostLinks)
    return Error{ErrorKind::kBadInput,
                 fmt::format("op '{}' ({}): is one of more than {} chained constexpr operations",
                             NameOf(op), op.type, kMostLinks)};
  CMLC_ASSIGN_OR_RETURN(ReaderPtr reader, Maker(op, index, store).Make(output));
  // What the operation says of itself must be what its operands give.
  if (output < op.outputs.size() && op.outputs[output].type) {
    const ValueType& declared = *op.outputs[output].type;
    const std::optional<Shape> shape = StaticShape(declared);
    if (!shape || *shape != reader->shape() || declared.tensor.dtype != reader->dtype())
      return Error{
          ErrorKind::kBadInput,
          fmt::format("op '{}' ({}): its output is declared as {}, its operands give {} {}",
                      NameOf(op), op.type, ToString(declared), NameOf(reader->dtype()),
                      ToString(reader->shape()))};
  }
  return reader;
}

Result<std::vector<float>> ReadAll(const TensorReader& reader) {
  std::vector<float> values(static_cast<size_t>(reader.element_count()));
  CMLC_RETURN_IF_ERROR(reader.Read(0, values));
  return values;
}

}  // namespace cmlc
