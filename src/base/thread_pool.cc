#include "base/thread_pool.h"

#include <algorithm>

namespace cmlc {
namespace {

// Which worker of a running loop this thread is, -1 outside of loops; and whether others may help
// with loops that it starts.
thread_local int current_worker = -1;
thread_local bool current_shared = false;

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

int ThreadPool::worker() { return std::max(current_worker, 0); }

void ThreadPool::For(size_t count, const Body& body) { Start(count, body, false); }

void ThreadPool::ForUneven(size_t count, const Body& body) { Start(count, body, true); }

void ThreadPool::Start(size_t count, const Body& body, bool uneven) {
  if (count == 0) return;
  const bool inner = current_worker >= 0;
  if (workers_.empty() || count == 1 || (inner && !current_shared)) {
    const int worker = ThreadPool::worker();
    for (size_t i = 0; i < count; ++i) body(i, worker);
    return;
  }
  Loop loop{body, count};
  if (inner) {
    RunInner(loop);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    outer_ = &loop;
    uneven_ = uneven;
    busy_ = static_cast<int>(workers_.size());
    inside_ = threads();
    ++generation_;
  }
  wake_.notify_all();
  TakePart(0);
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return busy_ == 0; });
  outer_ = nullptr;
}

void ThreadPool::Drain(Loop& loop) {
  for (size_t i = 0; (i = loop.next.fetch_add(1)) < loop.count;) loop.body(i, current_worker);
}

void ThreadPool::RunInner(Loop& loop) {
  {
    const std::lock_guard lock(mutex_);
    inner_.push_back(&loop);
  }
  help_.notify_all();
  Drain(loop);
  std::unique_lock lock(mutex_);
  inner_.erase(std::find(inner_.begin(), inner_.end(), &loop));
  done_.wait(lock, [&loop] { return loop.helpers == 0; });
}

// This thread's share of the outer loop.
void ThreadPool::TakePart(int worker) {
  current_worker = worker;
  current_shared = uneven_;
  Drain(*outer_);
  if (uneven_) Help();
  current_worker = -1;
  current_shared = false;
}

// Takes part in inner loops until there can be no more of them.
void ThreadPool::Help() {
  std::unique_lock lock(mutex_);
  if (--inside_ == 0) help_.notify_all();
  while (inside_ > 0) {
    const auto found = std::find_if(inner_.begin(), inner_.end(),
                                    [](const Loop* loop) { return loop->next < loop->count; });
    if (found == inner_.end()) {
      help_.wait(lock);
      continue;
    }
    Loop& loop = **found;
    ++loop.helpers;
    lock.unlock();
    Drain(loop);
    lock.lock();
    if (--loop.helpers == 0) done_.notify_all();
  }
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
    TakePart(worker);
    {
      const std::lock_guard lock(mutex_);
      --busy_;
    }
    done_.notify_all();
  }
}

}  // namespace cmlc
