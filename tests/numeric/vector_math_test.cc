// Each function against the C library in double precision, on every instruction set. Prints the
// largest errors that were met.
#include "numeric/vector_math.h"

#include <gtest/gtest.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace cmlc::numeric {
namespace {

void Choose(int64_t targets) {
  hwy::SetSupportedTargetsForTest(targets);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

struct Function {
  const char* name;
  void (*fast)(float*, size_t);
  double (*exact)(double);
  float least, most;  // of arguments
};

double NormalShare(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

const Function kFunctions[] = {
    {"Exp", Exp, [](double x) { return std::exp(x); }, -110, 95},
    {"Exp2", Exp2, [](double x) { return std::exp2(x); }, -160, 135},
    {"Log", Log, [](double x) { return std::log(x); }, 0, 1e30f},
    {"Sin", Sin, [](double x) { return std::sin(x); }, -30000, 30000},
    {"Cos", Cos, [](double x) { return std::cos(x); }, -30000, 30000},
    {"Tan", Tan, [](double x) { return std::tan(x); }, -30000, 30000},
    {"Sinh", Sinh, [](double x) { return std::sinh(x); }, -95, 95},
    {"Cosh", Cosh, [](double x) { return std::cosh(x); }, -95, 95},
    {"Tanh", Tanh, [](double x) { return std::tanh(x); }, -50, 50},
    {"Asin", Asin, [](double x) { return std::asin(x); }, -1, 1},
    {"Acos", Acos, [](double x) { return std::acos(x); }, -1, 1},
    {"Atan", Atan, [](double x) { return std::atan(x); }, -1e6, 1e6},
    {"Atanh", Atanh, [](double x) { return std::atanh(x); }, -1, 1},
    {"Erf", Erf, [](double x) { return std::erf(x); }, -12, 12},
    {"Sigmoid", Sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, -110, 110},
    {"Silu", Silu, [](double x) { return x / (1 + std::exp(-x)); }, -110, 110},
    {"Softplus", Softplus, [](double x) { return x > 40 ? x : std::log1p(std::exp(x)); }, -110,
     110},
    {"Elu", [](float* v, size_t n) { Elu(0.5f, v, n); },
     [](double x) { return x < 0 ? 0.5 * std::expm1(x) : x; }, -110, 110},
    {"Gelu", Gelu, [](double x) { return x * NormalShare(x); }, -15, 15},
    {"GeluTanh", GeluTanh,
     [](double x) {
       return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
     },
     -10, 10},
    {"GeluSigmoid", GeluSigmoid, [](double x) { return x / (1 + std::exp(-1.702 * x)); }, -60, 60},
    {"Round", Round, [](double x) { return std::nearbyint(x); }, -1e8, 1e8},
    {"Ceil", Ceil, [](double x) { return std::ceil(x); }, -1e8, 1e8},
    {"Floor", Floor, [](double x) { return std::floor(x); }, -1e8, 1e8},
    {"Sqrt", Sqrt, [](double x) { return std::sqrt(x); }, 0, 1e30f},
    {"Rsqrt", [](float* v, size_t n) { Rsqrt(0.5f, v, n); },
     [](double x) { return 1 / std::sqrt(x + 0.5); }, 0, 1e30f},
    {"Inverse", [](float* v, size_t n) { Inverse(0.5f, v, n); },
     [](double x) { return 1 / (x + 0.5); }, 0, 1e30f},
};

// Evenly over the range, and down to the least numbers on both sides of zero; halves and ends.
std::vector<float> Arguments(const Function& function) {
  std::vector<float> arguments = {function.least, function.most, 0.0f, -0.0f};
  constexpr int kSteps = 40000;
  for (int i = 1; i < kSteps; ++i)
    arguments.push_back(function.least +
                        (function.most - function.least) * static_cast<float>(i) / kSteps);
  for (int exponent = -149; exponent < 100; ++exponent)
    for (int part = 0; part < 64; ++part)
      for (const float sign : {-1.0f, 1.0f})
        arguments.push_back(sign * std::ldexp(1 + static_cast<float>(part) / 64, exponent));
  for (int i = -9; i <= 9; ++i) arguments.push_back(static_cast<float>(i) / 2);
  std::erase_if(arguments, [&](float x) { return x < function.least || x > function.most; });
  return arguments;
}

double Ulp(double value) {
  const auto nearest = static_cast<float>(std::fabs(value));
  if (!std::isfinite(nearest)) return std::ldexp(1.0, 104);
  return static_cast<double>(std::nextafter(nearest, INFINITY)) - static_cast<double>(nearest);
}

TEST(VectorMath, IsNearTheCLibrary) {
  for (const Function& function : kFunctions) {
    const std::vector<float> arguments = Arguments(function);
    std::vector<float> results = arguments;
    function.fast(results.data(), results.size());
    double worst_ulp = 0, worst = 0, worst_of_either = 0;
    for (size_t i = 0; i < arguments.size(); ++i) {
      const double exact = function.exact(static_cast<double>(arguments[i]));
      const auto rounded = static_cast<float>(exact);
      if (results[i] == rounded) continue;
      ASSERT_FALSE(std::isnan(results[i]) != std::isnan(rounded))
          << function.name << "(" << arguments[i] << ") is " << results[i];
      if (std::isnan(rounded)) continue;
      const double off = std::fabs(static_cast<double>(results[i]) - exact);
      worst_ulp = std::max(worst_ulp, off / Ulp(exact));
      worst = std::max(worst, off);
      worst_of_either = std::max(worst_of_either, std::min(off / Ulp(exact) / 4, off / 1e-6));
      ASSERT_TRUE(off <= 4 * Ulp(exact) || off <= 1e-6)
          << function.name << "(" << arguments[i] << ") is " << results[i] << ", not " << exact;
    }
    std::printf("%-12s at most %8.2f ulp, %.2g absolute, %.2f of what is allowed\n", function.name,
                worst_ulp, worst, worst_of_either);
  }
}

TEST(VectorMath, KeepsSmallResults) {
  // No relative error is lost where results are near zero: these are not only near by 1e-6.
  for (const Function& function : kFunctions) {
    const std::string name = function.name;
    if (name != "Exp" && name != "Tanh" && name != "Sin" && name != "Softplus" &&
        name != "Sigmoid" && name != "Erf" && name != "Sinh" && name != "Atan" && name != "Asin" &&
        name != "Atanh" && name != "Silu")
      continue;
    for (float x = name == "Exp" || name == "Softplus" ? -80 : 0x1p-60f; std::fabs(x) < 100;
         x = x < 0 ? x + 1.375f : x * 1.5f) {
      if (x > 0.6f) break;
      float result = x;
      function.fast(&result, 1);
      const double exact = function.exact(static_cast<double>(x));
      ASSERT_LE(std::fabs(static_cast<double>(result) - exact), 4 * Ulp(exact))
          << name << "(" << x << ") is " << result << ", not " << exact;
    }
  }
}

TEST(VectorMath, HandsSpecialNumbersOn) {
  const float inf = std::numeric_limits<float>::infinity(), nan = NAN;
  for (const Function& function : kFunctions) {
    float values[] = {nan, inf, -inf, 1e30f, -1e30f};
    const std::vector<float> arguments(std::begin(values), std::end(values));
    function.fast(values, 5);
    for (size_t i = 0; i < 5; ++i) {
      const auto exact = static_cast<float>(function.exact(static_cast<double>(arguments[i])));
      if (std::isnan(exact))
        EXPECT_TRUE(std::isnan(values[i])) << function.name << "(" << arguments[i] << ")";
      else
        EXPECT_NEAR(values[i] == exact ? 1 : values[i] / exact, 1, 1e-6)
            << function.name << "(" << arguments[i] << ") is " << values[i];
    }
  }
}

TEST(VectorMath, GivesTheSameBitsOnEveryInstructionSetAndForEveryCut) {
  for (const Function& function : kFunctions) {
    const std::vector<float> arguments = Arguments(function);
    std::vector<float> first;
    for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
      Choose(target);
      std::vector<float> results = arguments;
      // Cut in pieces of all lengths.
      for (size_t at = 0, length = 1; at < results.size(); at += length, length = length % 67 + 1)
        function.fast(results.data() + at, std::min(length, results.size() - at));
      if (first.empty()) first = results;
      for (size_t i = 0; i < results.size(); ++i) {
        if (std::isnan(results[i]) && std::isnan(first[i])) continue;
        ASSERT_EQ(std::bit_cast<uint32_t>(results[i]), std::bit_cast<uint32_t>(first[i]))
            << function.name << "(" << arguments[i] << ") on " << hwy::TargetName(target);
      }
    }
    Choose(0);
  }
}

}  // namespace
}  // namespace cmlc::numeric
