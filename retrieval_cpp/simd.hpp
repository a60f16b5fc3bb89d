// simd.hpp - which instruction set the kernels use.
//
// Hot loops are written once per idea in a *.inc file that each_level.inc compiles once per
// instruction set; a search begins by choosing the best.  So one build runs on any machine, and
// needs no -march=native.
//
//   SMARTRAG_SIMD=portable | neon | avx2 | avx512   uses a lower level than the machine has (tests,
//   comparisons)
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Compiles what follows, up to SMARTRAG_TARGET_END, for the given x86 extensions.
#if defined(__clang__)
#define SMARTRAG_PRAGMA(x) _Pragma(#x)
#define SMARTRAG_TARGET(features) \
    SMARTRAG_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define SMARTRAG_TARGET_END SMARTRAG_PRAGMA(clang attribute pop)
#else
#define SMARTRAG_PRAGMA(x) _Pragma(#x)
#define SMARTRAG_TARGET(features) \
    SMARTRAG_PRAGMA(GCC push_options) SMARTRAG_PRAGMA(GCC target(features))
#define SMARTRAG_TARGET_END SMARTRAG_PRAGMA(GCC pop_options)
#endif
#define SMARTRAG_AVX2 "avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt"
#define SMARTRAG_AVX512 \
    "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt"

// Pointers to one table of kernels at each level, in the order of Simd; a level of another platform
// is never chosen.
#if defined(__x86_64__)
#define SMARTRAG_TABLES(table) {&portable::table, nullptr, &avx2::table, &avx512::table}
#elif defined(__aarch64__)
#define SMARTRAG_TABLES(table) {&portable::table, &neon::table, nullptr, nullptr}
#else
#define SMARTRAG_TABLES(table) {&portable::table, nullptr, nullptr, nullptr}
#endif

namespace smartrag {

enum class Simd { kPortable, kNeon, kAvx2, kAvx512 };

inline const char* name(Simd level) {
    static constexpr const char* kNames[] = {"portable", "neon", "avx2", "avx512"};
    return kNames[static_cast<int>(level)];
}

// All levels of this machine, lowest first.
inline std::vector<Simd> simd_levels() {
    std::vector<Simd> levels = {Simd::kPortable};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2"))
        levels.push_back(Simd::kAvx2);
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni")) {
        levels.push_back(Simd::kAvx512);
    }
#elif defined(__aarch64__)
    levels.push_back(Simd::kNeon);
#endif
    return levels;
}

// The highest level, or the one that SMARTRAG_SIMD names.
inline Simd simd_level() {
    const char* const wanted = std::getenv("SMARTRAG_SIMD");
    const std::vector<Simd> levels = simd_levels();
    if (wanted == nullptr || *wanted == '\0') return levels.back();
    for (const Simd level : levels) {
        if (std::string(name(level)) == wanted) return level;
    }
    throw std::invalid_argument(std::string("SMARTRAG_SIMD=") + wanted +
                                " is not a level of this machine");
}

}  // namespace smartrag
