#include "passes/palettize_vectors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "ir/encoding.h"
#include "numeric/convert.h"
#include "numeric/half.h"
#include "numeric/lut.h"
#include "passes/coding.h"

namespace cmlc {
namespace {

constexpr uint64_t kPieceVectors = 32 * 1024;

// A weight as [outer, channels, inner] along the axis of its vectors. A row is what `dim` channels
// hold at one outer position: dim * inner neighbours, `inner` vectors.
struct VectorLayout {
  VectorLayout(const Weight& weight, const VectorRequest& request)
      : dim(static_cast<uint64_t>(request.cluster_dim)) {
    for (size_t d = 0; d < weight.shape.size(); ++d)
      (d < request.axis   ? outer
       : d > request.axis ? inner
                          : channels) *= static_cast<uint64_t>(weight.shape[d]);
    groups = static_cast<uint64_t>(request.blocks[request.axis]);
  }
  uint64_t outer = 1, channels = 1, inner = 1;
  uint64_t dim;
  uint64_t groups = 1;
  uint64_t rows() const { return channels / dim; }         // at one outer position
  uint64_t group_rows() const { return rows() / groups; }  // likewise
  uint64_t vectors() const { return outer * rows() * inner; }
  // Of the rows counted through all outer positions.
  uint64_t group_of(uint64_t row) const { return row % rows() / group_rows(); }
};

// Reads vectors [begin, begin + count) of a run of rows, vector by vector.
Status ReadVectors(const Weight& weight, const VectorLayout& layout, uint64_t begin, uint64_t count,
                   std::vector<float>& vectors) {
  const uint64_t dim = layout.dim, inner = layout.inner;
  const uint64_t first_row = begin / inner;
  const uint64_t last_row = (begin + count - 1) / inner;
  vectors.resize(static_cast<size_t>(count * dim));
  const auto width = static_cast<uint64_t>(BitsOf(weight.dtype)) / 8;
  // Whole rows at a time; of a single long row only the columns that are needed.
  std::vector<float> floats;
  const auto load = [&](uint64_t first, uint64_t values) -> Status {
    CMLC_ASSIGN_OR_RETURN(const TensorView view, weight.View(first * width, values * width));
    floats.resize(static_cast<size_t>(values));
    if (width == 2)
      numeric::HalvesToFloats(reinterpret_cast<const uint16_t*>(view.bytes().data()), floats.size(),
                              floats.data());
    else
      std::memcpy(floats.data(), view.bytes().data(), view.bytes().size());
    return Ok();
  };
  if (first_row == last_row && count < inner) {
    for (uint64_t j = 0; j < dim; ++j) {
      CMLC_RETURN_IF_ERROR(load((first_row * dim + j) * inner + begin % inner, count));
      for (uint64_t i = 0; i < count; ++i) vectors[i * dim + j] = floats[i];
    }
    return Ok();
  }
  CMLC_RETURN_IF_ERROR(load(first_row * dim * inner, (last_row - first_row + 1) * dim * inner));
  for (uint64_t v = 0; v < count; ++v) {
    const uint64_t row = (begin + v) / inner - first_row;
    const uint64_t column = (begin + v) % inner;
    for (uint64_t j = 0; j < dim; ++j)
      vectors[v * dim + j] = floats[(row * dim + j) * inner + column];
  }
  return Ok();
}

// The vectors of one group: a run of rows at each outer position.
class GroupVectors final : public numeric::VectorSource {
 public:
  GroupVectors(const Weight& weight, const VectorLayout& layout, uint64_t group)
      : weight_(weight), layout_(layout), group_(group) {
    run_ = layout.group_rows() * layout.inner;
    pieces_each_ = (run_ + kPieceVectors - 1) / kPieceVectors;
  }
  uint64_t count() const override { return layout_.outer * run_; }
  size_t pieces() const override { return static_cast<size_t>(layout_.outer * pieces_each_); }
  Status Visit(size_t piece, const Visitor& visitor) const override {
    const uint64_t outer = piece / pieces_each_;
    const uint64_t begin = piece % pieces_each_ * kPieceVectors;
    const uint64_t count = std::min(kPieceVectors, run_ - begin);
    std::vector<float> vectors;
    CMLC_RETURN_IF_ERROR(ReadVectors(
        weight_, layout_, (outer * layout_.groups + group_) * run_ + begin, count, vectors));
    visitor(outer * run_ + begin, vectors);
    return Ok();
  }

 private:
  const Weight& weight_;
  VectorLayout layout_;
  uint64_t group_;
  uint64_t run_ = 0;
  uint64_t pieces_each_ = 1;
};

}  // namespace

Result<Outcome> PalettizeVectors(const Weight& weight, const VectorRequest& request,
                                 const PassContext& context,
                                 const std::function<std::string(int bits)>& form) {
  const VectorLayout layout(weight, request);
  const bool is_half = weight.dtype == DataType::kFloat16;
  const auto dim = static_cast<size_t>(layout.dim);
  const auto round = [is_half](float value) {
    return is_half ? numeric::HalfToFloat(numeric::FloatToHalf(value)) : value;
  };
  std::vector<std::vector<float>> tables;
  std::vector<numeric::CodedLut> coded;
  size_t most = 1;
  for (uint64_t group = 0; group < layout.groups; ++group) {
    const GroupVectors source(weight, layout, group);
    for (size_t piece = 0; piece < source.pieces(); ++piece) {
      bool finite = true;
      CMLC_RETURN_IF_ERROR(source.Visit(piece, [&](uint64_t, std::span<const float> values) {
        finite = finite && numeric::FirstNotFinite(values) == values.size();
      }));
      if (!finite) return Outcome(Skipped{"not finite", "an element is infinite or not a number"});
    }
    std::vector<float> entries;
    if (request.unique) {
      CMLC_ASSIGN_OR_RETURN(std::optional<std::vector<float>> found,
                            numeric::UniqueVectors(source, dim, 256));
      if (!found)
        return Outcome(Skipped{"with more than 256 distinct values",
                               "mode unique needs at most 256 vectors for each LUT"});
      entries = std::move(*found);
    } else {
      CMLC_ASSIGN_OR_RETURN(
          numeric::VectorFit fit,
          numeric::FitVectors(source, dim, size_t{1} << *request.bits, context.pool));
      entries = std::move(fit.centroids);
      for (float& value : entries) value = round(value);
    }
    most = std::max(most, entries.size() / dim);
    if (request.lut_type) {
      CMLC_ASSIGN_OR_RETURN(
          numeric::CodedLut lut,
          numeric::FitCodedVectors(source, dim, entries,
                                   CodeTypeOf(*request.lut_type, weight.dtype), context.pool));
      entries = lut.entries;
      coded.push_back(std::move(lut));
    }
    tables.push_back(std::move(entries));
  }
  int bits = request.bits.value_or(0);
  for (const int width : {1, 2, 3, 4, 6, 8})
    if (bits == 0 && most <= size_t{1} << width) bits = width;
  const size_t entry_count = size_t{1} << bits;
  auto luts = std::make_shared<std::vector<std::vector<float>>>(std::move(tables));
  for (std::vector<float>& table : *luts) {
    const std::vector<float> last(table.end() - static_cast<std::ptrdiff_t>(dim), table.end());
    while (table.size() < entry_count * dim) table.insert(table.end(), last.begin(), last.end());
  }

  auto qualities = std::make_shared<ChunkQualities>(layout.vectors(), bits);
  const DataType index_type = UnsignedOfBits(bits);
  TensorSource source{.dtype = index_type, .element_count = layout.vectors(), .fill = nullptr};
  source.fill = [&weight, layout, luts, qualities, bits, dim](uint64_t begin,
                                                              std::span<std::byte> out) -> Status {
    const uint64_t first = begin * 8 / static_cast<uint64_t>(bits);
    const uint64_t count =
        std::min<uint64_t>(out.size() * 8 / static_cast<uint64_t>(bits), layout.vectors() - first);
    std::vector<uint8_t> codes(static_cast<size_t>(count));
    std::vector<float> vectors;
    Quality quality;
    for (uint64_t i = 0; i < count;) {
      // As far as the group goes, and no more than a piece.
      const uint64_t run = layout.group_rows() * layout.inner;
      const uint64_t step = std::min({run - (first + i) % run, count - i, kPieceVectors});
      CMLC_RETURN_IF_ERROR(ReadVectors(weight, layout, first + i, step, vectors));
      const uint64_t group = layout.group_of((first + i) / layout.inner);
      quality.noise += numeric::AssignVectors(vectors, dim, (*luts)[static_cast<size_t>(group)],
                                              codes.data() + i);
      quality.signal += numeric::SumOfSquares(vectors);
      i += step;
    }
    numeric::PackBits(codes, bits, out);
    (*qualities)[begin / TensorSource::kChunkBytes] = quality;
    return Ok();
  };

  Encoding encoding;
  encoding.dtype = weight.dtype;
  encoding.shape = weight.shape;
  encoding.vector_axis = static_cast<int64_t>(request.axis);
  Shape index_shape = weight.shape;
  index_shape[request.axis] /= request.cluster_dim;
  encoding.data = {.dtype = index_type, .shape = index_shape, .content = std::move(source)};
  if (request.lut_type) {
    SetCodedLuts(encoding, request.blocks, coded, entry_count, dim, *request.lut_type);
  } else {
    Shape lut_shape = request.blocks;
    lut_shape.insert(lut_shape.end(), {static_cast<int64_t>(entry_count), request.cluster_dim});
    std::string bytes;
    for (const std::vector<float>& table : *luts) {
      if (is_half) {
        std::vector<uint16_t> halves(table.size());
        numeric::FloatsToHalves(table.data(), table.size(), halves.data());
        bytes.append(reinterpret_cast<const char*>(halves.data()),
                     halves.size() * sizeof(uint16_t));
      } else {
        bytes.append(reinterpret_cast<const char*>(table.data()), table.size() * sizeof(float));
      }
    }
    encoding.lut = Operand{.dtype = weight.dtype, .shape = lut_shape, .content = std::move(bytes)};
  }
  return Outcome(MakeReplacement(std::move(encoding), context.specification_version, form(bits),
                                 [qualities] { return qualities->Total(); }));
}

}  // namespace cmlc
