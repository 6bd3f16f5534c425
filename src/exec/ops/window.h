// What convolutions and pools have in common: how a window's parameters are read.
#ifndef CMLC_EXEC_OPS_WINDOW_H_
#define CMLC_EXEC_OPS_WINDOW_H_

#include <cstdint>
#include <span>
#include <string>

#include "exec/isa/kernels.h"
#include "exec/op.h"

namespace cmlc::exec {

struct WindowParameters {
  Window window;
  int64_t after[3] = {0, 0, 0};  // padding after the image
  size_t dimensions = 0;         // that the op has: the last ones of the three
  std::string pad_type;

  // The sizes of the output: batch and channels, then the positions.
  Shape OutputShape(int64_t batch, int64_t channels) const;
};

// A parameter of one number for each spatial dimension, none below `least`; all `missing` if it is
// not there.
Result<std::vector<int64_t>> PerDimension(const OpContext& op, std::string_view parameter,
                                          size_t count, int64_t missing, int64_t least);

// Reads strides, dilations (where `dilated`), pad_type, pad and ceil_mode, and works out padding
// and the number of positions. `image` holds the one to three spatial sizes of x.
Result<WindowParameters> ReadWindow(const OpContext& op, std::span<const int64_t> image,
                                    std::span<const int64_t> kernel, bool dilated);

}  // namespace cmlc::exec

#endif  // CMLC_EXEC_OPS_WINDOW_H_
