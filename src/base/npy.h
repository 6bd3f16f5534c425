// NumPy's .npy files, as far as we need them: arrays of floating-point numbers or integers.
#ifndef CMLC_BASE_NPY_H_
#define CMLC_BASE_NPY_H_

#include <filesystem>
#include <vector>

#include "cmlc/status.h"
#include "cmlc/tensor.h"

namespace cmlc {

struct NpyArray {
  Shape shape;
  std::vector<double> values;  // row-major
};

// kBadInput, naming the file, if it is no .npy file, is cut short, or holds something else than
// little-endian fp16, fp32, fp64 or integers of 8 to 64 bits in C order.
Result<NpyArray> ReadNpy(const std::filesystem::path& path);

}  // namespace cmlc

#endif  // CMLC_BASE_NPY_H_
