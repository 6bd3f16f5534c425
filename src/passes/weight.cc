#include <vector>

#include "base/check.h"
#include "cmlc/pass.h"
#include "ir/decode.h"
#include "numeric/convert.h"

namespace cmlc {

Result<TensorView> Weight::View(uint64_t begin, uint64_t size) const {
  if (!resident.empty())
    return TensorView::Of(resident.subspan(static_cast<size_t>(begin), static_cast<size_t>(size)));
  if (!compressed && stored_dtype == dtype) return store->View(tensor, begin, size);
  CMLC_CHECK(IsWeightFloat(dtype));
  const auto width = static_cast<uint64_t>(BitsOf(dtype)) / 8;
  std::byte* content = nullptr;
  TensorView view = TensorView::Make(static_cast<size_t>(size), &content);
  const auto count = static_cast<size_t>(size / width);
  if (dtype == DataType::kFloat32) {
    CMLC_RETURN_IF_ERROR(reader->Read(begin / width, {reinterpret_cast<float*>(content), count}));
    return view;
  }
  constexpr size_t kStep = 64 * 1024;
  std::vector<float> values(std::min(kStep, count));
  for (size_t i = 0; i < count; i += kStep) {
    const std::span<float> step(values.data(), std::min(kStep, count - i));
    CMLC_RETURN_IF_ERROR(reader->Read(begin / width + i, step));
    numeric::FloatsToHalves(step.data(), step.size(), reinterpret_cast<uint16_t*>(content) + i);
  }
  return view;
}

}  // namespace cmlc
