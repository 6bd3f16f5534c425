#include "passes/coding.h"

#include "ir/encoding.h"

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

}  // namespace cmlc
