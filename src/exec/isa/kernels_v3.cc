// Kernels for x86-64-v3, which its compiler flags say: see kernels.h.
#ifdef CMLC_ISA_LEVELS
#define Eigen Eigen_v3
#define CMLC_ISA_KERNELS KernelsV3
#define CMLC_ISA_NAME "v3"
#include "exec/isa/kernels_impl.h"
#endif
