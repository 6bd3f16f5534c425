#include "calibrate/statistics.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <type_traits>

#include "base/file.h"
#include "base/staged_file.h"
#include "calibrate/accumulator.h"
#include "storage/blob_file.h"

namespace cmlc::calibrate {
namespace {

constexpr int kDropped = 23 - Histogram::kFractionBits;  // bits of a fraction that bins ignore

}  // namespace

// --- Histogram ----------------------------------------------------------------------------------

float Histogram::LowOf(uint32_t bin) { return std::bit_cast<float>(bin << kDropped); }
float Histogram::HighOf(uint32_t bin) { return std::bit_cast<float>((bin + 1) << kDropped); }

void Histogram::Merge(const Histogram& other) {
  for (size_t block = 0; block < kBlocks; ++block) {
    if (other.blocks_[block] == nullptr) continue;
    Counts& counts = Block(block);
    for (size_t i = 0; i < kBlock; ++i) counts[i] += (*other.blocks_[block])[i];
  }
}

bool Histogram::operator==(const Histogram& other) const {
  for (uint32_t bin = 0; bin < kBlocks * kBlock; ++bin)
    if (count(bin) != other.count(bin)) return false;
  return true;
}

// --- Values -------------------------------------------------------------------------------------

void ValueStatistics::AddNumbers(std::span<const float> numbers) {
  Accumulator accumulator;
  accumulator.Add(numbers);
  accumulator.MoveTo(*this);
}

void ValueStatistics::AddCounts(const ValueStatistics& part) {
  count += part.count;
  zeros += part.zeros;
  not_finite += part.not_finite;
  least = std::min(least, part.least);
  greatest = std::max(greatest, part.greatest);
  sum.Add(part.sum);
  squares.Add(part.squares);
  histogram.Merge(part.histogram);
}

double ValueStatistics::Quantile(double share) const {
  const double wanted = share * static_cast<double>(count);
  double before = 0;
  std::optional<double> found;
  bool past_zeros = false;
  const auto pass = [&](double low, double high, uint64_t number) {
    if (found || number == 0) return;
    const auto here = static_cast<double>(number);
    if (before + here >= wanted)
      found = low + (high - low) * std::clamp((wanted - before) / here, 0.0, 1.0);
    before += here;
  };
  histogram.ForEach([&](uint32_t bin, uint64_t number) {
    const auto low = static_cast<double>(Histogram::LowOf(bin));
    const float end = Histogram::HighOf(bin);
    const auto high = static_cast<double>(std::isfinite(end) ? end : Histogram::LowOf(bin));
    if (low >= 0 && !past_zeros) {
      past_zeros = true;
      pass(0, 0, zeros);
    }
    pass(std::min(low, high), std::max(low, high), number);
  });
  if (!past_zeros) pass(0, 0, zeros);
  const double most = static_cast<double>(greatest);
  return std::clamp(found.value_or(most), static_cast<double>(least), most);
}

void ValueStatistics::AddRun(float run_least, float run_greatest) {
  ++runs;
  if (ranges.size() < kRanges) ranges.emplace_back(run_least, run_greatest);
}

namespace {

// Takes the greatest of both, channel by channel.
void MergeChannels(std::vector<float>& channels, bool& differ, bool first,
                   std::span<const float> others) {
  if (differ) return;
  if (first) {
    channels.assign(others.begin(), others.end());
    return;
  }
  if (others.size() != channels.size()) {
    differ = true;
    channels.clear();
    return;
  }
  for (size_t i = 0; i < channels.size(); ++i) channels[i] = std::max(channels[i], others[i]);
}

void MergeSquares(std::vector<ExactSum>& squares, bool& differ, bool first,
                  std::span<const ExactSum> others) {
  if (differ) return;
  if (first) {
    squares.assign(others.begin(), others.end());
    return;
  }
  if (others.size() != squares.size()) {
    differ = true;
    squares.clear();
    return;
  }
  for (size_t i = 0; i < squares.size(); ++i) squares[i].Add(others[i]);
}

}  // namespace

void ValueStatistics::AddChannels(std::span<const float> greatest_of_each) {
  MergeChannels(channels, channels_differ, runs == 0, greatest_of_each);
}

void ValueStatistics::Merge(const ValueStatistics& next) {
  if (next.channels_differ) {
    channels_differ = true;
    channels.clear();
  }
  MergeChannels(channels, channels_differ, runs == 0, next.channels);
  if (runs == 0) {
    op_type = next.op_type;
    dtype = next.dtype;
  }
  runs += next.runs;
  AddCounts(next);
  for (const auto& range : next.ranges)
    if (ranges.size() < kRanges) ranges.push_back(range);
}

void InputMoments::Add(std::span<const double> sums, uint64_t numbers_each) {
  std::vector<ExactSum> exact(sums.size());
  for (size_t i = 0; i < sums.size(); ++i) exact[i].Add(sums[i]);
  MergeSquares(squares, channels_differ, count == 0, exact);
  count += numbers_each;
}

void InputMoments::Merge(const InputMoments& next) {
  if (next.channels_differ) {
    channels_differ = true;
    squares.clear();
  }
  MergeSquares(squares, channels_differ, count == 0, next.squares);
  if (count == 0) op_type = next.op_type;
  count += next.count;
}

Status Statistics::Merge(const Statistics& next, const std::string& name) {
  if (next.model != model)
    return Error{ErrorKind::kUsage,
                 fmt::format("{}: is of another model ({}, expected {})", name, next.model, model)};
  if (next.function != function)
    return Error{ErrorKind::kUsage, fmt::format("{}: is of function '{}', expected '{}'", name,
                                                next.function, function)};
  samples += next.samples;
  steps += next.steps;
  if (data != next.data) data = "several";
  for (const auto& [value, one] : next.values) values[value].Merge(one);
  for (const auto& [op, one] : next.inputs) inputs[op].Merge(one);
  return Ok();
}

// --- The file -----------------------------------------------------------------------------------

namespace {

constexpr std::string_view kMagic = "CMLCSTAT";
constexpr uint32_t kVersion = 1;
// What a file may claim to hold once it is inflated.
constexpr uint64_t kMostBytes = uint64_t{4} << 30;

class Writer {
 public:
  void Raw(const void* data, size_t size) { bytes.append(static_cast<const char*>(data), size); }
  template <typename T>
  void Plain(T number) {
    static_assert(std::is_arithmetic_v<T>);
    Raw(&number, sizeof number);
  }
  void Varint(uint64_t number) {
    for (; number > 0x7f; number >>= 7) bytes.push_back(static_cast<char>(number | 0x80));
    bytes.push_back(static_cast<char>(number));
  }
  void Text(const std::string& text) {
    Varint(text.size());
    bytes += text;
  }
  void Sum(const ExactSum& sum) {
    for (const uint64_t limb : sum.limbs()) Plain(limb);
    Plain(static_cast<uint8_t>(sum.overflowed()));
  }
  std::string bytes;
};

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}
  bool ok() const { return ok_; }
  bool at_end() const { return bytes_.empty(); }
  void Raw(void* data, size_t size) {
    if (size > bytes_.size()) {
      ok_ = false;
      std::memset(data, 0, size);
      bytes_ = {};
      return;
    }
    std::memcpy(data, bytes_.data(), size);
    bytes_.remove_prefix(size);
  }
  template <typename T>
  T Plain() {
    T number{};
    Raw(&number, sizeof number);
    return number;
  }
  uint64_t Varint() {
    uint64_t number = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = Plain<uint8_t>();
      number |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return number;
    }
    ok_ = false;
    return 0;
  }
  // A number of things of at least `least` bytes each.
  size_t Count(size_t least) {
    const uint64_t count = Varint();
    if (count > bytes_.size() / least) {
      ok_ = false;
      bytes_ = {};
      return 0;
    }
    return static_cast<size_t>(count);
  }
  std::string Text() {
    std::string text(Count(1), '\0');
    Raw(text.data(), text.size());
    return text;
  }
  ExactSum Sum() {
    ExactSum::Limbs limbs;
    for (uint64_t& limb : limbs) limb = Plain<uint64_t>();
    return {limbs, Plain<uint8_t>() != 0};
  }
  void Fail() { ok_ = false; }
  std::string_view rest() const { return bytes_; }

 private:
  std::string_view bytes_;
  bool ok_ = true;
};

void Write(Writer& w, const ValueStatistics& value) {
  w.Text(value.op_type);
  w.Text(value.dtype);
  for (const uint64_t number : {value.runs, value.count, value.zeros, value.not_finite})
    w.Varint(number);
  w.Plain(value.least);
  w.Plain(value.greatest);
  w.Sum(value.sum);
  w.Sum(value.squares);
  uint64_t bins = 0;
  value.histogram.ForEach([&](uint32_t, uint64_t) { ++bins; });
  w.Varint(bins);
  uint32_t last = 0;
  // Neighbours are next to each other: by sign, then outwards.
  for (uint32_t bin = 0; bin < Histogram::kBlocks * Histogram::kBlock; ++bin) {
    const uint64_t count = value.histogram.count(bin);
    if (count == 0) continue;
    w.Varint(bin - last);
    w.Varint(count);
    last = bin;
  }
  w.Varint(value.ranges.size());
  for (const auto& [low, high] : value.ranges) {
    w.Plain(low);
    w.Plain(high);
  }
  w.Plain(static_cast<uint8_t>(value.channels_differ));
  w.Varint(value.channels.size());
  w.Raw(value.channels.data(), value.channels.size() * sizeof(float));
}

ValueStatistics ReadValue(Reader& r) {
  ValueStatistics value;
  value.op_type = r.Text();
  value.dtype = r.Text();
  for (uint64_t* number : {&value.runs, &value.count, &value.zeros, &value.not_finite})
    *number = r.Varint();
  value.least = r.Plain<float>();
  value.greatest = r.Plain<float>();
  value.sum = r.Sum();
  value.squares = r.Sum();
  uint64_t bin = 0;
  for (size_t bins = r.Count(2); bins > 0 && r.ok(); --bins) {
    bin += r.Varint();
    const uint64_t count = r.Varint();
    if (bin >= Histogram::kBlocks * Histogram::kBlock || count == 0)
      r.Fail();
    else
      value.histogram.Add(static_cast<uint32_t>(bin), count);
  }
  value.ranges.resize(r.Count(8));
  for (auto& [low, high] : value.ranges) {
    low = r.Plain<float>();
    high = r.Plain<float>();
  }
  value.channels_differ = r.Plain<uint8_t>() != 0;
  value.channels.resize(r.Count(sizeof(float)));
  r.Raw(value.channels.data(), value.channels.size() * sizeof(float));
  return value;
}

}  // namespace

std::string Serialize(const Statistics& statistics) {
  Writer body;
  body.Varint(statistics.values.size());
  for (const auto& [name, value] : statistics.values) {
    body.Text(name);
    Write(body, value);
  }
  body.Varint(statistics.inputs.size());
  for (const auto& [name, moments] : statistics.inputs) {
    body.Text(name);
    body.Text(moments.op_type);
    body.Varint(moments.count);
    body.Plain(static_cast<uint8_t>(moments.channels_differ));
    body.Varint(moments.squares.size());
    for (const ExactSum& sum : moments.squares) body.Sum(sum);
  }
  // The same level everywhere, so that the bytes are the same.
  std::string packed(compressBound(static_cast<uLong>(body.bytes.size())), '\0');
  auto size = static_cast<uLongf>(packed.size());
  compress2(reinterpret_cast<Bytef*>(packed.data()), &size,
            reinterpret_cast<const Bytef*>(body.bytes.data()),
            static_cast<uLong>(body.bytes.size()), 6);
  packed.resize(size);
  Writer file;
  file.bytes = kMagic;
  file.Plain(kVersion);
  file.Text(statistics.model);
  file.Text(statistics.function);
  file.Text(statistics.data);
  file.Varint(statistics.samples);
  file.Varint(statistics.steps);
  file.Varint(body.bytes.size());
  file.bytes += packed;
  const Hash128 hash = HashBytes(std::as_bytes(std::span(file.bytes)));
  file.Plain(hash.low);
  file.Plain(hash.high);
  return std::move(file.bytes);
}

Result<Statistics> Parse(std::string_view bytes, const std::string& name) {
  const auto bad = [&](const std::string& what) {
    return Error{ErrorKind::kBadInput, fmt::format("{}: {}", name, what)};
  };
  if (!bytes.starts_with(kMagic))
    return bad("is no file of statistics, expected one that `cmlc calibrate` wrote");
  if (bytes.size() < kMagic.size() + sizeof kVersion + 16) return bad("is cut off");
  Reader header(bytes.substr(kMagic.size(), bytes.size() - kMagic.size() - 16));
  const auto version = header.Plain<uint32_t>();
  if (version != kVersion)
    return bad(fmt::format("has version {}, expected {}: calibrate again", version, kVersion));
  Hash128 hash;
  std::memcpy(&hash.low, bytes.data() + bytes.size() - 16, 8);
  std::memcpy(&hash.high, bytes.data() + bytes.size() - 8, 8);
  if (!(HashBytes(std::as_bytes(std::span(bytes.data(), bytes.size() - 16))) == hash))
    return bad("is damaged or cut off: its hash is not that of its content");
  Statistics statistics;
  statistics.model = header.Text();
  statistics.function = header.Text();
  statistics.data = header.Text();
  statistics.samples = header.Varint();
  statistics.steps = header.Varint();
  const uint64_t size = header.Varint();
  // Deflating makes nothing smaller than a thousandth.
  if (!header.ok() || size > kMostBytes || size / 1100 > bytes.size())
    return bad("has a header that is not well-formed");
  const std::string_view packed = header.rest();
  std::string body(static_cast<size_t>(size), '\0');
  auto inflated = static_cast<uLongf>(body.size());
  if (uncompress(reinterpret_cast<Bytef*>(body.data()), &inflated,
                 reinterpret_cast<const Bytef*>(packed.data()),
                 static_cast<uLong>(packed.size())) != Z_OK ||
      inflated != body.size())
    return bad("cannot be inflated");
  Reader r(body);
  for (size_t values = r.Count(1); values > 0 && r.ok(); --values) {
    std::string value = r.Text();
    statistics.values.emplace(std::move(value), ReadValue(r));
  }
  for (size_t inputs = r.Count(1); inputs > 0 && r.ok(); --inputs) {
    std::string op = r.Text();
    InputMoments moments;
    moments.op_type = r.Text();
    moments.count = r.Varint();
    moments.channels_differ = r.Plain<uint8_t>() != 0;
    moments.squares.resize(r.Count(sizeof(ExactSum::Limbs) + 1));
    for (ExactSum& sum : moments.squares) sum = r.Sum();
    statistics.inputs.emplace(std::move(op), std::move(moments));
  }
  if (!r.ok() || !r.at_end()) return bad("holds statistics that are not well-formed");
  return statistics;
}

Result<Statistics> ReadStatistics(const std::filesystem::path& path) {
  CMLC_ASSIGN_OR_RETURN(const std::string bytes, ReadWholeFile(path, kMostBytes));
  return Parse(bytes, path.string());
}

Status WriteStatistics(const Statistics& statistics, const std::filesystem::path& path) {
  const std::string bytes = Serialize(statistics);
  CMLC_ASSIGN_OR_RETURN(StagedFile staged, StagedFile::Start(path, ""));
  {
    CMLC_ASSIGN_OR_RETURN(File file, File::Create(staged.path()));
    CMLC_RETURN_IF_ERROR(file.WriteAt(0, std::as_bytes(std::span(bytes))));
    CMLC_RETURN_IF_ERROR(file.Sync());
  }
  return staged.Place();
}

}  // namespace cmlc::calibrate
