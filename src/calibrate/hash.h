// A model's identity, as far as statistics of its values are concerned.
#ifndef CMLC_CALIBRATE_HASH_H_
#define CMLC_CALIBRATE_HASH_H_

#include <string>

#include "base/thread_pool.h"
#include "cmlc/model.h"
#include "cmlc/status.h"
#include "cmlc/tensor_store.h"

namespace cmlc::calibrate {

// Of a function: its inputs, all its operations with their names and types, and all constants,
// those in weights files included. How the file is laid out, and what a program says about itself,
// take no part.
Result<std::string> HashModel(Program& program, const std::string& function,
                              const TensorStore& store, ThreadPool& pool);

}  // namespace cmlc::calibrate

#endif  // CMLC_CALIBRATE_HASH_H_
