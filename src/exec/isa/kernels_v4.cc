// Kernels for x86-64-v4, which its compiler flags say: see kernels.h.
#ifdef CMLC_ISA_LEVELS
#define Eigen Eigen_v4
#define CMLC_ISA_KERNELS KernelsV4
#define CMLC_ISA_NAME "v4"
#include "exec/isa/kernels_impl.h"
#endif
