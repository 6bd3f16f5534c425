// A tensor cut into blocks of equal shape: what shares a scale, or a LUT.
#ifndef CMLC_IR_BLOCK_GRID_H_
#define CMLC_IR_BLOCK_GRID_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cmlc/tensor.h"

namespace cmlc {

// Axis d is cut into `blocks[d]` equal parts, which divides its size. Positions and blocks are
// numbered in row-major order.
class BlockGrid {
 public:
  BlockGrid(const Shape& shape, const Shape& blocks) {
    uint64_t run = 1;
    bool whole = true;
    for (size_t d = shape.size(); d-- > 0;) {
      const auto size = static_cast<uint64_t>(shape[d]);
      const auto count = static_cast<uint64_t>(blocks[d]);
      axes_.push_back({size, size / count, count});
      if (!whole) continue;
      if (count == 1) {
        run *= size;
      } else {
        split_ = {run, size / count};
        whole = false;
      }
    }
    if (whole) split_ = {run, 1};
  }

  // `run`: how many positions from `position` on are surely in the same block.
  uint64_t Locate(uint64_t position, uint64_t& run) const {
    const uint64_t along = position / split_.stride % split_.block;
    run = (split_.block - along) * split_.stride - position % split_.stride;
    uint64_t block = 0;
    uint64_t weight = 1;
    for (const Axis& axis : axes_) {  // innermost first
      block += position % axis.size / axis.block * weight;
      position /= axis.size;
      weight *= axis.count;
    }
    return block;
  }

 private:
  struct Axis {
    uint64_t size;
    uint64_t block;  // elements of a block along the axis
    uint64_t count;  // of blocks
  };
  struct Split {
    uint64_t stride;  // elements behind the innermost axis that is cut
    uint64_t block;
  };
  std::vector<Axis> axes_;
  Split split_{1, 1};
};

}  // namespace cmlc

#endif  // CMLC_IR_BLOCK_GRID_H_
