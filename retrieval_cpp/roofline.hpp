// roofline.hpp - what one core of this machine can do at most, measured: the yardsticks of
// benchmarks/dense.py.
//
// A kernel is limited by the bytes it must read or by the multiply-adds it must do (Williams,
// Waterman and Patterson, "Roofline", CACM 2009).  Both limits are measured with the loops least
// able to miss them: a sum over a large array, and independent multiply-adds in registers.
#pragma once

#include <cstddef>
#include <ctime>

#include "dense_kernels.hpp"

namespace smartrag {

// CPU time, as in the benchmark, so that other processes do not lower the limits.
template <class Work>
double seconds_of(Work&& work) {
    const std::clock_t start = std::clock();
    work();
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

// Bytes per second of reading `count` floats from front to back.
inline double read_bandwidth(const float* data, std::size_t count) {
    volatile float sink = 0;
    const double seconds = seconds_of([&] { sink = dense_kernels().sum(data, count); });
    static_cast<void>(sink);
    return static_cast<double>(count * sizeof(float)) / seconds;
}

// Multiply-adds per second, over about `steps` vectors of them.
inline double fma_rate(std::size_t steps) {
    volatile double sink = 0;
    double done = 0;
    const double seconds = seconds_of([&] { sink = done = dense_kernels().multiply_add(steps); });
    static_cast<void>(sink);
    return done / seconds;
}

}  // namespace smartrag
