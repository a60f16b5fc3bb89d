// parallel.hpp - runs independent tasks on a few threads.
//
// Tasks are handed out one by one, in order, from an atomic counter, so that a slow one does not
// hold up a whole share.  The first exception of any task is rethrown to the caller after all
// threads have ended.
//
//   threads   0 means one per core
//   check     called between tasks; what it throws ends the work (Ctrl-C: bindings.cpp)
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace smartrag {

using Check = std::function<void()>;

inline std::size_t thread_count(std::size_t threads, std::size_t tasks) {
    if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
    return std::max<std::size_t>(1, std::min(threads, tasks));
}

// Calls work(task, thread) for every task in [0, tasks); the calling thread is thread 0.
template <class Work>
void parallel_for(std::size_t tasks, std::size_t threads, const Check& check, Work&& work) {
    threads = thread_count(threads, tasks);
    std::atomic<std::size_t> next{0};
    std::exception_ptr error;
    std::mutex error_mutex;
    const auto run = [&](std::size_t thread) {
        try {
            for (std::size_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
                if (check) check();
                work(task, thread);
            }
        } catch (...) {
            const std::lock_guard<std::mutex> lock(error_mutex);
            if (!error) error = std::current_exception();
            next.store(tasks, std::memory_order_relaxed);
        }
    };
    std::vector<std::thread> pool;
    try {
        for (std::size_t thread = 1; thread < threads; ++thread) pool.emplace_back(run, thread);
    } catch (const std::system_error&) {
        // The system gives no more threads: those that run share the tasks.
    }
    run(0);
    for (std::thread& thread : pool) thread.join();
    if (error) std::rethrow_exception(error);
}

}  // namespace smartrag
