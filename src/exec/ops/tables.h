// The tables of kernels, one for each file of ops.
#ifndef CMLC_EXEC_OPS_TABLES_H_
#define CMLC_EXEC_OPS_TABLES_H_

#include <span>
#include <vector>

#include "exec/op.h"

namespace cmlc::exec {

std::span<const OpKernel> ControlOps();     // control.cc: while_loop, cond, lists, states, identity
std::span<const OpKernel> RecurrentOps();   // recurrent.cc: lstm, gru, rnn
std::span<const OpKernel> UnaryOps();       // unary.cc: activations and functions of one tensor
std::span<const OpKernel> BinaryOps();      // binary.cc: arithmetic, comparisons, logic, select
std::span<const OpKernel> ReductionOps();   // reduction.cc: reduce_*, softmax, cumsum, argmax
std::span<const OpKernel> ConversionOps();  // conversion.cc: cast, quantize, dequantize, classify
std::span<const OpKernel> RandomOps();      // random.cc
std::span<const OpKernel> ShapeOps();       // shape.cc: reshape and its like, shape, fill, range
std::span<const OpKernel> MovementOps();    // movement.cc: transpose, concat, split, pad, tile, ...
std::span<const OpKernel> IndexingOps();    // indexing.cc: slices, gather, scatter, topk, sorting
std::span<const OpKernel> ImageOps();       // image.cc: resizes, crops, resample, affine, nms
std::span<const OpKernel> ConvolutionOps();    // convolution.cc: conv, conv_transpose
std::span<const OpKernel> PoolingOps();        // pooling.cc
std::span<const OpKernel> NormalizationOps();  // normalization.cc: batch_norm, layer_norm, ...
std::span<const OpKernel> MatmulOps();         // matmul.cc: linear, matmul, einsum, attention

std::vector<std::span<const OpKernel>> KernelTables();

}  // namespace cmlc::exec

#endif  // CMLC_EXEC_OPS_TABLES_H_
