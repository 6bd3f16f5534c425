// Functions of single numbers over many fp32 numbers, for whatever vectors the processor has.
//
// Each changes `count` numbers in place. A result depends on its number alone: not on where it
// stands, nor on the instruction set, because nothing here is fused or approximated by the
// processor. (Angles beyond 12000 go through the C library in double precision.) A result is within
// 4 units in the last place of the exact one or within 1e-6 of it. NaN gives NaN; a result that is
// too large gives infinity, and what is between zero and the least normal number is not cut to
// zero.
#ifndef CMLC_NUMERIC_VECTOR_MATH_H_
#define CMLC_NUMERIC_VECTOR_MATH_H_

#include <cstddef>

namespace cmlc::numeric {

void Exp(float* values, size_t count);
void Exp2(float* values, size_t count);
// -infinity for zero, NaN for less.
void Log(float* values, size_t count);
void Sin(float* values, size_t count);
void Cos(float* values, size_t count);
void Tan(float* values, size_t count);
void Sinh(float* values, size_t count);
void Cosh(float* values, size_t count);
void Tanh(float* values, size_t count);
void Asin(float* values, size_t count);
void Acos(float* values, size_t count);
void Atan(float* values, size_t count);
void Atanh(float* values, size_t count);
void Erf(float* values, size_t count);

// 1 / (1 + e^-x); x times that; and log(1 + e^x).
void Sigmoid(float* values, size_t count);
void Silu(float* values, size_t count);
void Softplus(float* values, size_t count);
// x where it is not negative, else alpha (e^x - 1).
void Elu(float alpha, float* values, size_t count);
// x times the normal distribution's share below x, as it is and with the two usual approximations:
// 0.5 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) and 1 / (1 + e^(-1.702 x)).
void Gelu(float* values, size_t count);
void GeluTanh(float* values, size_t count);
void GeluSigmoid(float* values, size_t count);

// Exact, with the sign of zeros kept: to the nearest whole number with ties to even; up; down.
void Round(float* values, size_t count);
void Ceil(float* values, size_t count);
void Floor(float* values, size_t count);

// sqrt(x), 1 / sqrt(x + epsilon) and 1 / (x + epsilon), with every step correctly rounded.
void Sqrt(float* values, size_t count);
void Rsqrt(float epsilon, float* values, size_t count);
void Inverse(float epsilon, float* values, size_t count);

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_VECTOR_MATH_H_
