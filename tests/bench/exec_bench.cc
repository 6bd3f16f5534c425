// Times the interpreter on a package whose inputs are all fp32.
//
//   cmlc_exec_bench MODEL.mlpackage [--runs N] [--threads N] [--isa LEVEL] [--inputs FOLDER]
//                   [--output FILE] [--ops] [--memory]
//
// Prints wall seconds and CPU seconds of every run after the first, one run a line. Inputs are
// NAME.bin in FOLDER, raw fp32 (zeros without it); the first output of the last run goes to FILE in
// the same form. --ops prints the wall time of every kind of operation instead; --memory (Linux)
// three numbers of bytes instead: by how much the process grew at its most while the program was
// prepared and run, mapped files included; what of the weights files is used; and what the values
// that live at a time take at their most.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "cmlc/package.h"
#include "exec/executable.h"
#include "exec/isa/kernels.h"

namespace {

using namespace cmlc;
using Clock = std::chrono::steady_clock;

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

[[noreturn]] void Fail(const std::string& message) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
  std::exit(1);
}

template <typename T>
T Need(Result<T> result) {
  if (!result.ok()) Fail(result.error().message);
  return std::move(result).value();
}

// A line of /proc/self/status, in bytes.
uint64_t StatusBytes(const std::string& key) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key + ":"))
      return std::strtoull(&line[key.size() + 1], nullptr, 10) * 1024;
  Fail("/proc/self/status has no " + key);
}

// Brings all pages of the program and its libraries into memory, so that they are not taken for
// what running a model takes.
void TouchProgram() {
  std::ifstream maps("/proc/self/maps");
  unsigned sum = 0;
  for (std::string line; std::getline(maps, line);) {
    unsigned long long begin = 0, end = 0;
    char flags[5] = {};
    if (std::sscanf(line.c_str(), "%llx-%llx %4s", &begin, &end, flags) != 3) continue;
    if (flags[0] != 'r' || line.find(" /") == std::string::npos) continue;
    for (auto at = begin; at < end; at += 4096)
      sum += *reinterpret_cast<const volatile unsigned char*>(static_cast<uintptr_t>(at));
  }
  if (sum == 0) Fail("/proc/self/maps names no pages");
}

// Bytes that the constants of a block refer to in weights files.
uint64_t WeightBytes(Block& block, const TensorStore& store) {
  std::set<TensorId> seen;
  uint64_t bytes = 0;
  ForEachValue(block, [&](Value& value) {
    const auto* id = std::get_if<TensorId>(&value.content);
    if (id != nullptr && seen.insert(*id).second) bytes += store.info(*id).size_bytes;
  });
  return bytes;
}

// Adds up the time between Before and After.
class OpTimes : public exec::Observer {
 public:
  bool Wants(const Operation&) const override { return true; }
  void Before(const Operation&, const Arguments&) override { begin_ = Clock::now(); }
  void After(const Operation& op, std::span<const exec::Value>) override {
    auto& [seconds, count] = times[op.type];
    seconds += Since(begin_);
    ++count;
  }
  std::map<std::string, std::pair<double, int>> times;

 private:
  Clock::time_point begin_;
};

}  // namespace

int main(int argc, char** argv) {
  std::string path, inputs, output;
  int runs = 10, threads = 1;
  bool ops = false, memory = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto next = [&] { return ++i < argc ? std::string(argv[i]) : std::string(); };
    if (word == "--runs")
      runs = std::max(1, std::atoi(next().c_str()));
    else if (word == "--threads")
      threads = std::atoi(next().c_str());
    else if (word == "--inputs")
      inputs = next();
    else if (word == "--output")
      output = next();
    else if (word == "--ops")
      ops = true;
    else if (word == "--memory")
      memory = true;
    else if (word == "--isa") {
      const std::string level = next();
      if (!exec::PinKernels(level)) Fail("--isa: this processor has no level '" + level + "'");
    } else
      path = word;
  }
  if (path.empty()) Fail("expected a package");
  const auto package = Need(Package::Open(path));
  if (!package->model().program) Fail("expected an ML Program");
  uint64_t before = 0;
  if (memory) {
    TouchProgram();
    // The most so far is forgotten (proc(5)).
    std::ofstream("/proc/self/clear_refs") << "5";
    before = StatusBytes("VmRSS");
  }
  OpTimes times;
  const auto executable = Need(exec::Executable::Prepare(
      *package->model().program, "main", package->tensors(), path, ops ? &times : nullptr));
  ThreadPool pool(threads);
  exec::Runner runner(*executable, pool);
  std::map<std::string, exec::Value> arguments;
  for (const NamedValueType& input : executable->inputs()) {
    Shape shape;
    for (const Dimension& dimension : input.type->tensor.dimensions)
      shape.push_back(static_cast<int64_t>(dimension.size));
    exec::Value value = Need(exec::MakeTensor(DataType::kFloat32, shape, runner.memory()));
    const std::span<const std::byte> bytes = value.storage->bytes();
    std::memset(value.storage->data(), 0, bytes.size());
    if (!inputs.empty()) {
      std::ifstream in(std::filesystem::path(inputs) / (input.name + ".bin"), std::ios::binary);
      if (!in.read(reinterpret_cast<char*>(value.storage->data()),
                   static_cast<std::streamsize>(bytes.size())))
        Fail("cannot read the input '" + input.name + "'");
    }
    arguments.emplace(input.name, std::move(value));
  }
  std::vector<exec::Value> results;
  for (int run = 0; run <= runs; ++run) {
    if (run == 1) times.times.clear();
    results.clear();
    const std::clock_t cpu_begin = std::clock();
    const Clock::time_point begin = Clock::now();
    results = Need(runner.Run(arguments));
    const double seconds = Since(begin);
    const double cpu = static_cast<double>(std::clock() - cpu_begin) / CLOCKS_PER_SEC;
    if (run != 0 && !ops && !memory) std::printf("%.6f %.6f\n", seconds, cpu);
  }
  if (ops) {
    std::vector<std::pair<double, std::string>> sorted;
    for (const auto& [type, time] : times.times) sorted.emplace_back(time.first / runs, type);
    std::sort(sorted.rbegin(), sorted.rend());
    for (const auto& [seconds, type] : sorted)
      std::printf("%9.3f ms  %4d x %s\n", seconds * 1e3, times.times[type].second / runs,
                  type.c_str());
  }
  if (memory) {
    Block& block = *ActiveBlock(package->model().program->functions.at("main"));
    std::printf("%llu %llu %llu\n", static_cast<unsigned long long>(StatusBytes("VmHWM") - before),
                static_cast<unsigned long long>(WeightBytes(block, package->tensors())),
                static_cast<unsigned long long>(runner.memory().peak_bytes()));
  }
  if (!output.empty()) {
    const std::span<const std::byte> bytes = results.at(0).storage->bytes();
    std::ofstream(output, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  return 0;
}
