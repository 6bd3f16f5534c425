#include "cmlc/calibrate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "base/file.h"
#include "base/staged_file.h"
#include "base/thread_pool.h"
#include "calibrate/accumulator.h"
#include "calibrate/collect.h"
#include "calibrate/hash.h"
#include "calibrate/statistics.h"
#include "cmlc/package.h"
#include "exec/executable.h"
#include "exec/isa/kernels.h"
#include "predict/data.h"
#include "predict/run.h"
#include "predict/target.h"

namespace cmlc {
namespace calibrate {
namespace {

using Clock = std::chrono::steady_clock;

// A multiple of what ValueStatistics sums at a time.
constexpr uint64_t kPieceElements = 64 * 1024;
constexpr double kSecondsBetweenSaves = 20;
constexpr uint64_t kUsualSamples = 16;

// Collects statistics while a program runs.
class Collector final : public exec::Observer {
 public:
  explicit Collector(Statistics& statistics) : statistics_(statistics) {}
  void Use(ThreadPool& pool) {
    pool_ = &pool;
    workers_.resize(static_cast<size_t>(pool.threads()));
  }
  // Values and statistics together may take no more bytes; 0: no limit.
  void Limit(const exec::Memory& memory, uint64_t bytes) {
    memory_ = &memory;
    limit_ = bytes;
    bytes_ = 0;
    for (const auto& [name, value] : statistics_.values) bytes_ += value.bytes();
  }

  bool Wants(const Operation& op) const override {
    if (IsConst(op) || IsConstexpr(op)) return false;
    return std::any_of(op.outputs.begin(), op.outputs.end(), [](const NamedValueType& output) {
      return output.type && output.type->kind == ValueType::Kind::kTensor &&
             exec::IsFloat(output.type->tensor.dtype);
    });
  }
  void Before(const Operation& op, const Arguments& arguments) override {
    if (status_.ok()) Note(AddInput(op, arguments));
  }
  void After(const Operation& op, std::span<const exec::Value> outputs) override {
    for (size_t i = 0; i < outputs.size() && status_.ok(); ++i)
      Note(AddValue(op.outputs[i].name, op.type, outputs[i]));
  }
  // A value by its name; `op_type` is empty for inputs.
  Status AddValue(const std::string& name, const std::string& op_type, const exec::Value& value);

  Status TakeStatus() { return std::exchange(status_, Status()); }

 private:
  void Note(Status status) {
    if (!status.ok()) status_ = std::move(status);
  }
  Status AddInput(const Operation& op, const Arguments& arguments);

  Statistics& statistics_;
  ThreadPool* pool_ = nullptr;
  std::vector<Accumulator> workers_;
  const exec::Memory* memory_ = nullptr;
  uint64_t limit_ = 0;
  uint64_t bytes_ = 0;  // of statistics
  Status status_;
};

// A tensor as [outer, channels, inner].
struct Channels {
  uint64_t outer = 1, count = 1, inner = 1;
};
Channels ChannelsAlong(const Shape& shape, size_t axis) {
  Channels channels;
  for (size_t d = 0; d < shape.size(); ++d)
    (d < axis   ? channels.outer
     : d > axis ? channels.inner
                : channels.count) *= static_cast<uint64_t>(shape[d]);
  return channels;
}

// The axis of channels: 1 for images and what convolutions make, else the last.
std::optional<size_t> ChannelAxis(const std::string& op_type, const Shape& shape) {
  if (shape.size() < 2) return std::nullopt;
  const bool convolution = op_type == "conv" || op_type == "conv_transpose";
  return shape.size() >= 4 || (convolution && shape.size() == 3) ? 1 : shape.size() - 1;
}

// Calls visit(worker, begin, numbers) for all elements, piece by piece, on several threads.
template <typename Visit>
Status ForPieces(const exec::Value& value, ThreadPool& pool, uint64_t piece, const Visit& visit) {
  const uint64_t count = value.element_count();
  const auto pieces = static_cast<size_t>((count + piece - 1) / piece);
  std::vector<Status> states(pieces);
  const auto one = [&](size_t i, int worker) {
    const uint64_t begin = i * piece;
    const auto size = static_cast<size_t>(std::min(piece, count - begin));
    if (value.dtype == DataType::kFloat32 && value.storage != nullptr) {
      visit(static_cast<size_t>(worker), begin,
            value.As<float>().subspan(static_cast<size_t>(begin), size));
      return;
    }
    std::vector<float> numbers(size);
    states[i] = exec::ReadFloats(value, begin, numbers);
    if (states[i].ok()) visit(static_cast<size_t>(worker), begin, std::span<const float>(numbers));
  };
  pool.For(pieces, one);
  for (Status& status : states) CMLC_RETURN_IF_ERROR(status);
  return Ok();
}

Status Collector::AddValue(const std::string& name, const std::string& op_type,
                           const exec::Value& value) {
  if (!value.is_tensor() || !exec::IsFloat(value.dtype) || value.element_count() == 0) return Ok();
  ValueStatistics& all = statistics_.values[name];
  all.op_type = op_type;
  all.dtype = NameOf(value.dtype);

  const std::optional<size_t> axis = ChannelAxis(op_type, value.shape);
  const Channels channels = axis ? ChannelsAlong(value.shape, *axis) : Channels{};
  const exec::IsaKernels& kernels = exec::Kernels();
  // One for each thread; what they have is merged, in which order makes no difference.
  std::vector<std::vector<float>> of_threads(workers_.size());
  const auto take = [&](size_t worker, uint64_t begin, std::span<const float> numbers) {
    workers_[worker].Add(numbers);
    if (!axis) return;
    std::vector<float>& most = of_threads[worker];
    if (most.empty()) most.assign(static_cast<size_t>(channels.count), 0.0f);
    for (size_t i = 0; i < numbers.size();) {
      const uint64_t position = begin + i;
      // Whole runs of a channel, or of all channels next to each other.
      if (channels.inner == 1) {
        const auto first = static_cast<size_t>(position % channels.count);
        const size_t step = std::min(numbers.size() - i, most.size() - first);
        kernels.keep_greatest_magnitudes(&numbers[i], static_cast<int64_t>(step), &most[first]);
        i += step;
        continue;
      }
      const uint64_t rest = channels.inner - position % channels.inner;
      const size_t step = static_cast<size_t>(std::min<uint64_t>(rest, numbers.size() - i));
      float& of_channel = most[static_cast<size_t>(position / channels.inner % channels.count)];
      of_channel =
          std::max(of_channel, kernels.greatest_magnitude(&numbers[i], static_cast<int64_t>(step)));
      i += step;
    }
  };
  CMLC_RETURN_IF_ERROR(ForPieces(value, *pool_, kPieceElements, take));
  const float infinity = std::numeric_limits<float>::infinity();
  ValueStatistics run;
  for (Accumulator& worker : workers_) worker.MoveTo(run);
  std::vector<float> of_channels(axis ? static_cast<size_t>(channels.count) : 0, 0.0f);
  for (const std::vector<float>& most : of_threads)
    if (!most.empty())
      kernels.keep_greatest_magnitudes(most.data(), static_cast<int64_t>(most.size()),
                                       of_channels.data());
  const float least = run.count == 0 ? infinity : run.least;
  const float greatest = run.count == 0 ? -infinity : run.greatest;
  const uint64_t before = all.bytes();
  all.AddCounts(run);
  all.AddChannels(of_channels);
  all.AddRun(least, greatest);
  bytes_ += all.bytes() - before;
  if (limit_ > 0 && bytes_ + memory_->live_bytes() > limit_)
    return Error{ErrorKind::kUsage,
                 fmt::format("--max-memory {}: at '{}' statistics take {} bytes and values {}",
                             limit_, name, bytes_, memory_->live_bytes())};
  return Ok();
}

// The op's argument of a parameter, if it is one.
const exec::Value* Find(const exec::Observer::Arguments& arguments, std::string_view parameter) {
  for (const auto& [name, values] : arguments)
    if (name == parameter && values.size() == 1) return values[0];
  return nullptr;
}

Status Collector::AddInput(const Operation& op, const Arguments& arguments) {
  const bool convolution = op.type == "conv" || op.type == "conv_transpose";
  const bool product = op.type == "matmul";
  if (!convolution && !product && op.type != "linear") return Ok();
  const exec::Value* x = Find(arguments, "x");
  // A weight is a constant, decoded where it is read or mapped.
  const exec::Value* weight = Find(arguments, product ? "y" : "weight");
  if (x == nullptr || weight == nullptr || !x->is_tensor() || !exec::IsFloat(x->dtype)) return Ok();
  const bool constant =
      weight->weight != nullptr || (weight->storage != nullptr && !weight->storage->writable());
  if (!constant || x->shape.empty() || x->element_count() == 0) return Ok();
  size_t axis = convolution ? 1 : x->shape.size() - 1;
  if (product) {
    const exec::Value* transposed = Find(arguments, "transpose_x");
    if (transposed != nullptr && x->shape.size() >= 2) {
      CMLC_ASSIGN_OR_RETURN(const std::vector<int64_t> flag, exec::ReadInts(*transposed));
      if (!flag.empty() && flag[0] != 0) axis = x->shape.size() - 2;
    }
  }
  const Channels channels = ChannelsAlong(x->shape, axis);
  const exec::IsaKernels& kernels = exec::Kernels();
  // Channel by channel in fp64; of several pieces, in their order.
  const uint64_t piece =
      channels.inner > 1 ? channels.inner * std::max<uint64_t>(1, kPieceElements / channels.inner)
                         : channels.count * std::max<uint64_t>(1, kPieceElements / channels.count);
  std::vector<std::vector<double>> parts(
      static_cast<size_t>((x->element_count() + piece - 1) / piece));
  CMLC_RETURN_IF_ERROR(
      ForPieces(*x, *pool_, piece, [&](size_t, uint64_t begin, std::span<const float> numbers) {
        std::vector<double>& sums = parts[static_cast<size_t>(begin / piece)];
        sums.assign(static_cast<size_t>(channels.count), 0.0);
        for (size_t k = 0; k < numbers.size();) {
          if (channels.inner == 1) {
            kernels.add_squares(&numbers[k], static_cast<int64_t>(sums.size()), sums.data());
            k += sums.size();
            continue;
          }
          const auto run = static_cast<size_t>(channels.inner);
          sums[static_cast<size_t>((begin + k) / channels.inner % channels.count)] +=
              kernels.sum_of_squares(&numbers[k], static_cast<int64_t>(run));
          k += run;
        }
      }));
  std::vector<double> total(static_cast<size_t>(channels.count), 0.0);
  for (const std::vector<double>& part : parts)
    for (size_t c = 0; c < total.size(); ++c) total[c] += part[c];
  // Infinite ones have no moments; the value itself tells of them.
  if (!std::all_of(total.begin(), total.end(), [](double sum) { return std::isfinite(sum); }))
    return Ok();
  InputMoments& moments = statistics_.inputs[op.outputs.at(0).name];
  moments.op_type = op.type;
  moments.Add(total, channels.outer * channels.inner);
  return Ok();
}

std::filesystem::path PartialOf(const std::filesystem::path& output) {
  return output.string() + ".partial";
}

// One step of a sample: its inputs' statistics, and those of all that is made.
Status RunStep(exec::Runner& runner, Collector& collector, const predict::Target& target,
               const predict::Sample& sample, size_t step) {
  CMLC_ASSIGN_OR_RETURN(auto values,
                        predict::BindAll(target, sample.steps[step], sample.name, runner.memory()));
  for (const auto& [name, value] : values)
    CMLC_RETURN_IF_ERROR(collector.AddValue(name, "", value));
  const Result<std::vector<exec::Value>> outputs = runner.Run(std::move(values));
  if (!outputs.ok()) return outputs.error();
  return collector.TakeStatus();
}

// Values whose ranges the last quarter of the runs widened by more than a tenth.
size_t CountMoved(const Statistics& statistics) {
  constexpr size_t kLeastRuns = 8;
  constexpr float kTenth = 0.1f;
  size_t moved = 0;
  for (const auto& [name, value] : statistics.values) {
    const size_t runs = value.ranges.size();
    if (runs < kLeastRuns || value.runs != runs) continue;
    float low = 0, high = 0, last_low = 0, last_high = 0;
    for (size_t i = 0; i < runs; ++i) {
      const auto& [least, greatest] = value.ranges[i];
      (i < runs - runs / 4 ? low : last_low) =
          std::min(i < runs - runs / 4 ? low : last_low, least);
      (i < runs - runs / 4 ? high : last_high) =
          std::max(i < runs - runs / 4 ? high : last_high, greatest);
    }
    const float width = high - low;
    if (std::max(last_high - high, low - last_low) > kTenth * width) ++moved;
  }
  return moved;
}

void FindProblems(const Statistics& statistics, std::vector<std::string>& problems) {
  for (const auto& [name, value] : statistics.values)
    if (value.not_finite > 0)
      problems.push_back(fmt::format("'{}' ({}): {} of {} elements are infinite or not a number",
                                     name, value.op_type.empty() ? "input" : value.op_type,
                                     value.not_finite, value.count + value.not_finite));
}

}  // namespace

Result<Collected> Collect(Package& package, const DataOptions& data_options,
                          const ExecutionSettings& execution, const std::filesystem::path& partial,
                          Diagnostics& diagnostics) {
  std::error_code code;
  CMLC_RETURN_IF_ERROR(predict::ChooseIsa(execution));
  CMLC_ASSIGN_OR_RETURN(const predict::Target target,
                        predict::FindTarget(package, execution.function, diagnostics));
  Collected collected;
  Statistics& statistics = collected.statistics;
  Collector collector(statistics);
  CMLC_ASSIGN_OR_RETURN(const std::unique_ptr<exec::Executable> executable,
                        exec::Executable::Prepare(*target.program, target.function,
                                                  package.tensors(), target.place, &collector));
  CMLC_ASSIGN_OR_RETURN(const std::unique_ptr<predict::DataReader> data,
                        predict::DataReader::Open(target, data_options, diagnostics));
  ThreadPool pool(execution.threads);
  collector.Use(pool);
  CMLC_ASSIGN_OR_RETURN(statistics.model,
                        HashModel(*target.program, target.function, package.tensors(), pool));
  statistics.function = target.function;
  statistics.data = data->origin();

  // States would be lost between the steps of one sequence, so there is nothing to go on from.
  const bool resumable = !partial.empty() && !data_options.sequence;
  if (resumable && std::filesystem::exists(partial, code)) {
    Result<Statistics> found = ReadStatistics(partial);
    if (!found.ok()) {
      diagnostics.Warning(fmt::format("{}; starting anew", found.error().message));
    } else if (found->model != statistics.model || found->function != statistics.function ||
               found->data != statistics.data || found->samples >= data->sample_count()) {
      diagnostics.Warning(
          fmt::format("{}: is of another model or other data; starting anew", partial.string()));
    } else {
      statistics = std::move(*found);
      collected.resumed = statistics.samples;
      diagnostics.Note(
          fmt::format("{}: going on after {} samples", partial.string(), collected.resumed));
    }
  }

  exec::Runner runner(*executable, pool, predict::OptionsOf(execution, data_options.seed));
  collector.Limit(runner.memory(), execution.max_memory_bytes);
  Clock::time_point saved = Clock::now();
  for (uint64_t i = 0; i < data->sample_count(); ++i) {
    CMLC_ASSIGN_OR_RETURN(const predict::Sample sample, data->Next());
    if (i < collected.resumed) continue;
    if (!sample.continues) runner.ResetStates();
    for (size_t step = 0; step < sample.steps.size(); ++step) {
      CMLC_RETURN_IF_ERROR(RunStep(runner, collector, target, sample, step));
      ++statistics.steps;
    }
    ++statistics.samples;
    if (resumable && i + 1 < data->sample_count() &&
        std::chrono::duration<double>(Clock::now() - saved).count() > kSecondsBetweenSaves) {
      CMLC_RETURN_IF_ERROR(WriteStatistics(statistics, partial));
      saved = Clock::now();
    }
    diagnostics.Report({.stage = "calibrate",
                        .weights_done = static_cast<int64_t>(i + 1),
                        .weights_total = static_cast<int64_t>(data->sample_count()),
                        .noun = "samples"});
  }
  for (std::string& note : runner.TakeNotes()) diagnostics.Note(std::move(note));
  if (data_options.random_samples > 0)
    diagnostics.Warning(
        "the inputs are random numbers: these statistics are for trying things out, they are no "
        "calibration");
  else if (statistics.samples < kUsualSamples && !data_options.sequence)
    diagnostics.Note(fmt::format("{} samples are few: 64 to 128 are usual", statistics.samples));
  if (const size_t moved = CountMoved(statistics); moved > 0)
    diagnostics.Note(
        fmt::format("the last quarter of the samples widened the ranges of {} of {} values by more "
                    "than 10 %: more samples would widen them further",
                    moved, statistics.values.size()));
  collected.peak_bytes = runner.memory().peak_bytes();
  return collected;
}

}  // namespace calibrate

Result<CalibrateReport> Calibrate(const CalibrateOptions& options, Diagnostics& diagnostics) {
  const auto start = calibrate::Clock::now();
  std::error_code code;
  for (const std::string& input : options.data.inputs)
    for (const std::string& file : {input, input.substr(input.find('=') + 1)})
      if (std::filesystem::equivalent(file, options.output, code))
        return Error{ErrorKind::kUsage, fmt::format("{}: is an input, expected another output",
                                                    options.output.string())};
  {
    // Whether there can be an output is better known before hours of work.
    CMLC_ASSIGN_OR_RETURN(const StagedFile staged, StagedFile::Start(options.output, ""));
    CMLC_RETURN_IF_ERROR(File::Create(staged.path()));
  }
  CMLC_ASSIGN_OR_RETURN(const std::unique_ptr<Package> package, Package::Open(options.model));
  const std::filesystem::path partial = calibrate::PartialOf(options.output);
  CMLC_ASSIGN_OR_RETURN(
      const calibrate::Collected collected,
      calibrate::Collect(*package, options.data, options.execution, partial, diagnostics));
  const calibrate::Statistics& statistics = collected.statistics;
  CMLC_RETURN_IF_ERROR(calibrate::WriteStatistics(statistics, options.output));
  std::filesystem::remove(partial, code);
  CalibrateReport report;
  report.function = statistics.function;
  report.data = statistics.data;
  report.resumed = collected.resumed;
  report.samples = statistics.samples;
  report.steps = statistics.steps;
  report.values = statistics.values.size();
  report.inputs = statistics.inputs.size();
  calibrate::FindProblems(statistics, report.problems);
  report.peak_bytes = collected.peak_bytes;
  report.seconds = std::chrono::duration<double>(calibrate::Clock::now() - start).count();
  return report;
}

Status MergeStatistics(std::span<const std::filesystem::path> files,
                       const std::filesystem::path& output) {
  std::optional<calibrate::Statistics> all;
  for (const std::filesystem::path& file : files) {
    CMLC_ASSIGN_OR_RETURN(calibrate::Statistics next, calibrate::ReadStatistics(file));
    if (!all)
      all = std::move(next);
    else
      CMLC_RETURN_IF_ERROR(all->Merge(next, file.string()));
  }
  if (!all) return Error{ErrorKind::kUsage, "stats merge: expected files of statistics"};
  return calibrate::WriteStatistics(*all, output);
}

Result<StatisticsSummary> ShowStatistics(const std::filesystem::path& file) {
  CMLC_ASSIGN_OR_RETURN(const calibrate::Statistics statistics, calibrate::ReadStatistics(file));
  StatisticsSummary summary{.model = statistics.model,
                            .function = statistics.function,
                            .data = statistics.data,
                            .samples = statistics.samples,
                            .steps = statistics.steps,
                            .values = {},
                            .inputs = statistics.inputs.size()};
  for (const auto& [name, value] : statistics.values) {
    StatisticsSummary::Value& row = summary.values.emplace_back();
    row.name = name;
    row.op_type = value.op_type;
    row.dtype = value.dtype;
    row.runs = value.runs;
    row.elements = value.count;
    row.not_finite = value.not_finite;
    if (value.count == 0) continue;
    row.least = static_cast<double>(value.least);
    row.greatest = static_cast<double>(value.greatest);
    row.mean = value.mean();
    row.deviation = std::sqrt(std::max(0.0, value.mean_square() - row.mean * row.mean));
    row.zeros = static_cast<double>(value.zeros) / static_cast<double>(value.count);
    row.low = value.Quantile(0.0001);
    row.high = value.Quantile(0.9999);
    std::vector<float> channels = value.channels;
    if (channels.empty()) continue;
    const float most = *std::max_element(channels.begin(), channels.end());
    const auto middle = channels.begin() + static_cast<std::ptrdiff_t>(channels.size() / 2);
    std::nth_element(channels.begin(), middle, channels.end());
    if (*middle > 0) row.widest_channel = static_cast<double>(most) / static_cast<double>(*middle);
  }
  return summary;
}

}  // namespace cmlc
