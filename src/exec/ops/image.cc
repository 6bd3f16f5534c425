#include "exec/ops/tables.h"

namespace cmlc::exec {

std::span<const OpKernel> ImageOps() { return {}; }

}  // namespace cmlc::exec
