#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace cmlc {
namespace {

TEST(ThreadPool, VisitsEveryIndexOnce) {
  for (const int threads : {1, 2, 5})
    for (const size_t count : {0u, 1u, 2u, 7u, 1000u}) {
      ThreadPool pool(threads);
      EXPECT_EQ(pool.threads(), threads);
      std::vector<std::atomic<int>> visits(count);
      pool.For(count, [&](size_t i, int) { ++visits[i]; });
      for (size_t i = 0; i < count; ++i) EXPECT_EQ(visits[i], 1) << i;
    }
}

TEST(ThreadPool, NeverSharesAWorkerNumber) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> busy(4);
  std::atomic<bool> shared = false;
  pool.For(2000, [&](size_t, int worker) {
    if (busy[static_cast<size_t>(worker)].fetch_add(1) != 0) shared = true;
    --busy[static_cast<size_t>(worker)];
  });
  EXPECT_FALSE(shared);
}

TEST(ThreadPool, ALoopInALoopStaysOnItsWorker) {
  ThreadPool pool(3);
  std::atomic<int> total = 0;
  std::atomic<bool> moved = false;
  pool.For(10, [&](size_t, int outer) {
    pool.For(20, [&](size_t, int inner) {
      if (inner != outer) moved = true;
      ++total;
    });
  });
  EXPECT_EQ(total, 200);
  EXPECT_FALSE(moved);
}

TEST(ThreadPool, KnowsTheWorkerOfItsThread) {
  ThreadPool pool(3);
  EXPECT_EQ(ThreadPool::worker(), 0);
  std::atomic<bool> wrong = false;
  const auto check = [&](size_t, int worker) {
    if (worker != ThreadPool::worker()) wrong = true;
  };
  pool.For(100, check);
  pool.For(1, check);
  pool.ForUneven(10, [&](size_t i, int worker) {
    check(i, worker);
    pool.For(20, check);
    check(i, worker);
  });
  EXPECT_FALSE(wrong);
  EXPECT_EQ(ThreadPool::worker(), 0);
}

TEST(ThreadPool, BeginsCallsInOrder) {
  ThreadPool pool(3);
  std::atomic<size_t> begun = 0;
  std::atomic<bool> early = false;
  pool.ForUneven(1000, [&](size_t i, int) {
    // Up to two others may have been handed out before and not have come here yet.
    if (i > begun.fetch_add(1) + 2) early = true;
  });
  EXPECT_FALSE(early);
}

TEST(ThreadPool, VisitsEveryIndexOfUnevenLoopsOnce) {
  for (const int threads : {1, 2, 5})
    for (const size_t count : {0u, 1u, 2u, 7u, 100u}) {
      ThreadPool pool(threads);
      std::vector<std::atomic<int>> visits(count * 50);
      std::vector<std::atomic<int>> busy(static_cast<size_t>(threads));
      std::atomic<bool> shared = false;
      pool.ForUneven(count, [&](size_t i, int) {
        for (int round = 0; round < 3; ++round)
          pool.For(50, [&](size_t j, int worker) {
            if (busy[static_cast<size_t>(worker)].fetch_add(1) != 0) shared = true;
            ++visits[i * 50 + j];
            --busy[static_cast<size_t>(worker)];
          });
      });
      for (size_t i = 0; i < visits.size(); ++i) EXPECT_EQ(visits[i], 3) << i;
      EXPECT_FALSE(shared);
    }
}

// One call waits inside a loop of its own until another thread has come to help: only an idle one
// can.
TEST(ThreadPool, IdleThreadsHelpWithLoopsInUnevenOnes) {
  ThreadPool pool(2);
  std::atomic<int> inside = 0;
  pool.ForUneven(2, [&](size_t i, int) {
    if (i == 0) return;
    pool.For(2, [&](size_t, int) {
      ++inside;
      while (inside < 2) std::this_thread::yield();
    });
  });
  EXPECT_EQ(inside, 2);
}

TEST(ThreadPool, HelpsWithLoopsInLoopsInLoops) {
  ThreadPool pool(4);
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> total = 0;
    pool.ForUneven(3, [&](size_t, int) {
      pool.For(4, [&](size_t, int) { pool.For(5, [&](size_t, int) { ++total; }); });
    });
    EXPECT_EQ(total, 60);
  }
}

TEST(ThreadPool, RunsOneLoopAfterTheOther) {
  ThreadPool pool(3);
  std::atomic<int> total = 0;
  for (int i = 0; i < 500; ++i) pool.For(3, [&](size_t, int) { ++total; });
  EXPECT_EQ(total, 1500);
}

TEST(ThreadPool, HasOneThreadForEachProcessorByDefault) {
  ThreadPool pool(0);
  EXPECT_GE(pool.threads(), 1);
}

}  // namespace
}  // namespace cmlc
