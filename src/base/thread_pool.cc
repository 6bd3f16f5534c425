#include "base/thread_pool.h"

namespace cmlc {
namespace {

// Which worker of a running loop this thread is; -1 outside of loops.
thread_local int current_worker = -1;

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = static_cast<int>(std::thread::hardware_concurrency());
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { Work(i); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

bool ThreadPool::alone() const { return current_worker >= 0 || workers_.empty(); }

void ThreadPool::For(size_t count, const std::function<void(size_t, int)>& body) {
  if (count == 0) return;
  if (alone() || count == 1) {
    const int worker = current_worker >= 0 ? current_worker : 0;
    for (size_t i = 0; i < count; ++i) body(i, worker);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    body_ = &body;
    count_ = count;
    next_ = 0;
    busy_ = static_cast<int>(workers_.size());
    ++generation_;
  }
  wake_.notify_all();
  Drain(0);
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return busy_ == 0; });
  body_ = nullptr;
}

void ThreadPool::Drain(int worker) {
  current_worker = worker;
  while (true) {
    size_t index = 0;
    {
      const std::lock_guard lock(mutex_);
      if (next_ >= count_) break;
      index = next_++;
    }
    (*body_)(index, worker);
  }
  current_worker = -1;
}

void ThreadPool::Work(int worker) {
  uint64_t seen = 0;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || generation_ != seen; });
      if (stop_) return;
      seen = generation_;
    }
    Drain(worker);
    {
      const std::lock_guard lock(mutex_);
      --busy_;
    }
    done_.notify_one();
  }
}

}  // namespace cmlc
