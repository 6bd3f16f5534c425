// A fixed set of threads that share loops.
#ifndef CMLC_BASE_THREAD_POOL_H_
#define CMLC_BASE_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace cmlc {

class ThreadPool {
 public:
  using Body = std::function<void(size_t index, int worker)>;

  // `threads` in all, the caller's own included; 0 means one for each processor.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // What a call that this thread makes now would have for `worker`.
  static int worker();

  // Calls body(index, worker) for every index below `count`, on all threads, and returns when all
  // calls have. Calls begin in the order of their indices. `worker` is below threads() and never
  // shared by two calls at a time, so it can name a workspace. A loop started from inside a loop of
  // more than one call runs on the calling thread alone, as worker `worker` of the outer one;
  // inside a loop of one call it has all threads. One thread at a time may start loops, on one
  // pool. `body` must not throw.
  void For(size_t count, const Body& body);

  // The same for calls of unequal length: threads that find no more of them to make take part in
  // the loops that the others start inside of theirs.
  void ForUneven(size_t count, const Body& body);

 private:
  struct Loop {
    const Body& body;
    const size_t count;
    std::atomic<size_t> next = 0;
    int helpers = 0;  // threads other than the one that started it, with mutex_
  };
  void Start(size_t count, const Body& body, bool uneven);
  void RunInner(Loop& loop);
  void Work(int worker);
  void TakePart(int worker);
  void Help();
  static void Drain(Loop& loop);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;  // a loop has started
  std::condition_variable done_;  // a thread has left a loop
  std::condition_variable help_;  // there is an inner loop to help with, or no more to come
  Loop* outer_ = nullptr;
  bool uneven_ = false;
  std::vector<Loop*> inner_;  // that threads may help with
  int inside_ = 0;            // threads that may still make calls of the outer loop
  int busy_ = 0;              // workers that have not left it
  uint64_t generation_ = 0;
  bool stop_ = false;
};

}  // namespace cmlc

#endif  // CMLC_BASE_THREAD_POOL_H_
