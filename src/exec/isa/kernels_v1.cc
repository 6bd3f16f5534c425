// Kernels for every processor of its kind: see kernels.h.

#define Eigen Eigen_v1
#define CMLC_ISA_KERNELS KernelsV1
#ifdef CMLC_ISA_LEVELS
#define CMLC_ISA_NAME "v1"
#else
#define CMLC_ISA_NAME "generic"
#endif
#include "exec/isa/kernels_impl.h"
