#include "exec/ops/tables.h"

namespace cmlc::exec {

std::vector<std::span<const OpKernel>> KernelTables() {
  return {ControlOps(),    RecurrentOps(),   UnaryOps(),   BinaryOps(),        ReductionOps(),
          ConversionOps(), RandomOps(),      ShapeOps(),   MovementOps(),      IndexingOps(),
          ImageOps(),      ConvolutionOps(), PoolingOps(), NormalizationOps(), MatmulOps()};
}

}  // namespace cmlc::exec
