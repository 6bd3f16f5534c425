// A fixed set of threads that share loops.
#ifndef CMLC_BASE_THREAD_POOL_H_
#define CMLC_BASE_THREAD_POOL_H_

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace cmlc {

class ThreadPool {
 public:
  // `threads` in all, the caller's own included; 0 means one for each processor.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Whether a loop that this thread would start now would run on this thread alone.
  bool alone() const;

  // Calls body(index, worker) for every index below `count`, in any order, on all threads, and
  // returns when all calls have. `worker` is below threads() and never shared by two calls at a
  // time, so it can name a workspace. A loop started from inside a loop of more than one call runs
  // on the calling thread alone, as worker `worker` of the outer one; inside a loop of one call it
  // has all threads. One thread at a time may start loops, on one pool. `body` must not throw.
  void For(size_t count, const std::function<void(size_t index, int worker)>& body);

 private:
  void Work(int worker);
  void Drain(int worker);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  const std::function<void(size_t, int)>* body_ = nullptr;
  size_t count_ = 0;
  size_t next_ = 0;
  int busy_ = 0;
  uint64_t generation_ = 0;
  bool stop_ = false;
};

}  // namespace cmlc

#endif  // CMLC_BASE_THREAD_POOL_H_
