// Larger samples: models with something of everything that the format has.
#ifndef CMLC_TESTS_SUPPORT_SAMPLE_MODELS_H_
#define CMLC_TESTS_SUPPORT_SAMPLE_MODELS_H_

#include "support/package_builder.h"

namespace cmlc::test {

// A program with every form of value, type and operand; most of it makes no sense, and all of it
// has to come out as it went in.
PackageBuilder OneOfEverything();

// A pipeline of two programs, each with its own weights file, and a neural network between them.
PackageBuilder SmallPipeline();

// Two functions that share a weight.
PackageBuilder TwoFunctions();

// A loop whose body has a weight of its own and one from outside.
PackageBuilder NestedBlocks();

}  // namespace cmlc::test

#endif  // CMLC_TESTS_SUPPORT_SAMPLE_MODELS_H_
