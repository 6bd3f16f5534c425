// The values that something is fitted to, however many they are.
#ifndef CMLC_NUMERIC_VALUE_SOURCE_H_
#define CMLC_NUMERIC_VALUE_SOURCE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>

#include "base/thread_pool.h"
#include "cmlc/status.h"

namespace cmlc::numeric {

// The values of a group, in pieces that can be looked at one at a time. T is uint16_t (bit patterns
// of fp16) or float.
template <typename T>
class ValueSource {
 public:
  virtual ~ValueSource() = default;
  virtual uint64_t count() const = 0;
  virtual size_t pieces() const = 0;
  // Calls visit(first, values) once, `first` being the index of the piece's first value. Several
  // threads may visit different pieces.
  using Visitor = std::function<void(uint64_t first, std::span<const T> values)>;
  virtual Status Visit(size_t piece, const Visitor& visit) const = 0;
};

// A source that is one span in memory.
template <typename T>
class SpanSource final : public ValueSource<T> {
 public:
  explicit SpanSource(std::span<const T> values) : values_(values) {}
  uint64_t count() const override { return values_.size(); }
  size_t pieces() const override { return 1; }
  Status Visit(size_t, const typename ValueSource<T>::Visitor& visit) const override {
    visit(0, values_);
    return Ok();
  }

 private:
  std::span<const T> values_;
};

// Calls visit(worker, first, values) for all pieces, several at a time; the first error wins.
// `worker` is below pool.threads() and no two calls at a time have the same.
template <typename T>
Status VisitAll(
    const ValueSource<T>& source, ThreadPool& pool,
    const std::function<void(int worker, uint64_t first, std::span<const T> values)>& visit) {
  std::mutex mutex;
  Status status;
  pool.For(source.pieces(), [&](size_t piece, int worker) {
    Status step = source.Visit(
        piece, [&](uint64_t first, std::span<const T> values) { visit(worker, first, values); });
    if (step.ok()) return;
    const std::lock_guard lock(mutex);
    if (status.ok()) status = step;
  });
  return status;
}

}  // namespace cmlc::numeric

#endif  // CMLC_NUMERIC_VALUE_SOURCE_H_
