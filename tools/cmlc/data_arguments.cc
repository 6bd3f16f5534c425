#include "data_arguments.h"

#include <map>
#include <string>

namespace cmlc::tool {

void DataArguments::AddData(CLI::App& app, const std::string& name) {
  app.add_option(name, data.inputs,
                 "data for an input: .npy, .npz, .json, .jsonl, .png, .jpg, a folder of images, "
                 "or raw elements (see --raw); the name may be left out for the only input and "
                 "for files that name their arrays; may be repeated, also for more samples")
      ->allow_extra_args(false)
      ->type_name("[NAME=]FILE");
  app.add_option("--raw", data.raw,
                 "how a raw file lies, as x=f32:1x3x224x224 (little-endian, row-major)")
      ->allow_extra_args(false)
      ->type_name("[NAME=]DTYPE:SIZES");
  app.add_flag("--batched", data.batched, "the first size of arrays is the number of samples");
  app.add_flag("--sequence", data.sequence,
               "samples are steps of one sequence: states are kept between them");
  const std::map<std::string, Resize> resizes = {
      {"stretch", Resize::kStretch}, {"crop", Resize::kCrop}, {"pad", Resize::kPad}};
  app.add_option("--resize", data.resize,
                 "make images fit: stretch, crop (cover and cut the middle) or pad (with black)")
      ->transform(CLI::CheckedTransformer(resizes).description(""))
      ->type_name("TEXT");
  const std::map<std::string, Interpolation> interpolations = {
      {"nearest", Interpolation::kNearest},
      {"bilinear", Interpolation::kBilinear},
      {"bicubic", Interpolation::kBicubic}};
  app.add_option("--interpolation", data.interpolation,
                 "of --resize: nearest, bilinear (default), bicubic; as Pillow's, with wider "
                 "filters where images shrink")
      ->transform(CLI::CheckedTransformer(interpolations).description(""))
      ->type_name("TEXT");
  app.add_option("--random", data.random_samples,
                 "so many samples of random numbers instead of data")
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("INT");
  app.add_option("--seed", data.seed, "of --random, and of random ops (default 0)")
      ->type_name("INT");
}

void DataArguments::AddExecution(CLI::App& app) {
  app.add_option("--function", execution.function, "the function to run (default: the model's)")
      ->type_name("NAME");
  app.add_option("--isa", execution.isa,
                 "the instruction set of inner loops: v1 or v3 of x86-64 (default: the best that "
                 "there is)");
  app.add_option("--max-memory", execution.max_memory_bytes,
                 "fail if values (and statistics) need more bytes than this")
      ->type_name("BYTES");
  app.add_option("--max-steps", execution.max_steps,
                 "fail if a run takes more operations than this (loops may have no end)")
      ->type_name("INT");
  app.add_flag("--lenient-indices", execution.lenient_indices,
               "cut indices that are out of range, and count them, instead of failing");
}

void DataArguments::Add(CLI::App& app) {
  AddData(app, "--input,--data");
  AddExecution(app);
  app.add_option("--threads", execution.threads, "threads to use (default: one for each processor)")
      ->check(CLI::Range(0, 1024))
      ->type_name("INT");
  app.add_flag("--json", json, "write the report as JSON");
  app.add_flag("-q,--quiet", quiet, "no progress, notes or summary; only errors");
}

}  // namespace cmlc::tool
