#include "passes/coding.h"

#include "ir/encoding.h"
#include "numeric/half.h"

namespace cmlc {

Result<std::shared_ptr<const Kept>> KeptOf(const Weight& weight) {
  if (!weight.encoding || !weight.encoding->sparse()) return std::shared_ptr<const Kept>();
  const uint64_t bytes = *PackedBytes(weight.element_count, 1);
  CMLC_ASSIGN_OR_RETURN(const TensorView view,
                        ViewOperand(*weight.encoding->mask, *weight.store, 0, bytes));
  numeric::Mask mask{.count = weight.element_count, .bits = {}};
  const auto* first = reinterpret_cast<const uint8_t*>(view.bytes().data());
  mask.bits.assign(first, first + bytes);
  // What a file has behind the last bit does not count.
  if (weight.element_count % 8 != 0)
    mask.bits.back() =
        static_cast<uint8_t>(mask.bits.back() & ((1u << (weight.element_count % 8)) - 1));
  return std::make_shared<const Kept>(std::move(mask));
}

BlockLayout::BlockLayout(const Shape& shape, const Shape& blocks) {
  size_t first_cut = shape.size();
  for (size_t d = 0; d < shape.size(); ++d) {
    block_count *= static_cast<uint64_t>(blocks[d]);
    block_size *= static_cast<uint64_t>(shape[d] / blocks[d]);
    if (blocks[d] > 1 && first_cut == shape.size()) first_cut = d;
  }
  // Neighbours are in one block as long as all axes further out are cut into single elements, or
  // have one.
  bool inside = false;
  for (size_t d = 0; d < shape.size(); ++d) {
    if (inside && blocks[d] != 1) contiguous = false;
    if (blocks[d] != shape[d]) inside = true;
  }
  if (first_cut == shape.size()) return;
  uint64_t inner = 1;
  for (size_t d = 0; d < shape.size(); ++d) {
    if (d < first_cut) outer *= static_cast<uint64_t>(shape[d]);
    if (d > first_cut) {
      inner *= static_cast<uint64_t>(shape[d]);
      blocks_per_part *= static_cast<uint64_t>(blocks[d]);
    }
  }
  parts = static_cast<uint64_t>(blocks[first_cut]);
  part = static_cast<uint64_t>(shape[first_cut] / blocks[first_cut]) * inner;
}

Fallback FallbackOf(const std::string& text) {
  if (text == "nearest") return Fallback::kNearest;
  return text == "per_channel" ? Fallback::kPerChannel : Fallback::kSkip;
}

int64_t NearestDivisor(int64_t size, int64_t wanted) {
  int64_t best = 1;
  const auto distance = [wanted](int64_t divisor) {
    const double ratio = static_cast<double>(divisor) / static_cast<double>(wanted);
    return ratio < 1 ? 1 / ratio : ratio;
  };
  const auto consider = [&](int64_t divisor) {
    if (distance(divisor) < distance(best) ||
        (distance(divisor) == distance(best) && divisor < best))
      best = divisor;
  };
  for (int64_t divisor = 1; divisor * divisor <= size; ++divisor)
    if (size % divisor == 0) {
      consider(divisor);
      consider(size / divisor);
    }
  return best;
}

std::optional<size_t> AxisOf(int64_t axis, size_t rank) {
  if (axis < 0) axis += static_cast<int64_t>(rank);
  if (axis < 0 || axis >= static_cast<int64_t>(rank)) return std::nullopt;
  return static_cast<size_t>(axis);
}

numeric::CodeType CodeTypeOf(DataType lut_type, DataType weight_type) {
  return {.bits = BitsOf(lut_type),
          .is_signed = FindDataType(lut_type)->is_signed,
          .scale_type = weight_type == DataType::kFloat16 ? numeric::EntryType::kHalf
                                                          : numeric::EntryType::kFloat};
}

void SetCodedLuts(Encoding& encoding, const Shape& blocks, std::span<const numeric::CodedLut> luts,
                  size_t entries, size_t width, DataType lut_type) {
  std::vector<uint8_t> codes;
  std::vector<uint8_t> zero_points;
  std::string scales;
  bool has_offset = !FindDataType(lut_type)->is_signed;
  for (const numeric::CodedLut& lut : luts) {
    for (size_t i = 0; i < entries * width; ++i) {
      const size_t last = lut.codes.size() - width + i % width;
      codes.push_back(static_cast<uint8_t>(lut.codes[i < lut.codes.size() ? i : last]));
    }
    zero_points.push_back(static_cast<uint8_t>(lut.parameters.zero_point));
    has_offset = has_offset || lut.parameters.zero_point != 0;
    if (encoding.dtype == DataType::kFloat16) {
      const uint16_t half = numeric::FloatToHalf(lut.parameters.scale);
      scales.append(reinterpret_cast<const char*>(&half), sizeof half);
    } else {
      scales.append(reinterpret_cast<const char*>(&lut.parameters.scale), sizeof(float));
    }
  }
  const int bits = BitsOf(lut_type);
  const auto packed = [bits](std::vector<uint8_t>& values) {
    for (uint8_t& value : values) value = static_cast<uint8_t>(value & ((1 << bits) - 1));
    std::string bytes(static_cast<size_t>(*PackedBytes(values.size(), bits)), '\0');
    numeric::PackBits(values, bits, std::as_writable_bytes(std::span(bytes)));
    return bytes;
  };
  Shape lut_shape = blocks, scale_shape = blocks;
  lut_shape.insert(lut_shape.end(), {static_cast<int64_t>(entries), static_cast<int64_t>(width)});
  scale_shape.insert(scale_shape.end(), {1, 1});
  encoding.lut = Operand{.dtype = lut_type, .shape = lut_shape, .content = packed(codes)};
  encoding.lut_scale =
      Operand{.dtype = encoding.dtype, .shape = scale_shape, .content = std::move(scales)};
  if (has_offset)
    encoding.lut_offset =
        Operand{.dtype = lut_type, .shape = scale_shape, .content = packed(zero_points)};
}

}  // namespace cmlc
