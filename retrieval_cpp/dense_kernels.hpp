// dense_kernels.hpp - scores of a few queries with a panel of 64 rows (dense_kernels.inc).
//
// A panel keeps 64 rows transposed, in lanes of 32 bits, so that one vector load brings the same
// components of neighbouring rows and a batch of one streams memory from front to back:
//   f32    [D, 64]
//   bf16   [D / 2, 64, 2], so that a shift or a mask makes a float of either
//   int8   [D / 4, 64, 4], as the dot-product instructions take them; a byte is the component + 128
// The first index is the step: 256 bytes, whatever the storage.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "simd.hpp"

namespace smartrag {

inline constexpr std::size_t kPanel = 64;
inline constexpr std::size_t kTileQueries = 6;
inline constexpr std::size_t kStepBytes = 4 * kPanel;

// What one call works on.  Scores are only written for queries with a row above their bar.
struct Tile {
    const std::uint8_t* panel;  // [steps, kPanel] lanes
    std::size_t steps;
    const std::uint8_t*
        queries;  // [steps, parts, count] lanes of 32 bits: a float, or 4 int8 against int8 rows
    std::size_t count;               // 1 .. kTileQueries
    const float* bars;               // [count]
    std::uint64_t* found;            // [count] bit r: row r is above the bar
    float* scores;                   // [count, kPanel]
    const std::uint8_t* next;        // the panel of the next call
    const std::uint8_t* ahead;       // memory to prefetch meanwhile ...
    std::size_t ahead_stride;        // ... so many bytes further in each step, at most a cache line
    const float* row_scales;         // int8 only, as are these: [kPanel]
    const float* query_scales;       // [count]
    const std::int32_t* query_sums;  // [count] of a query's bytes
};

enum class Storage : std::uint64_t { kF32, kBF16, kInt8 };

struct DenseKernels {
    void (*score[3])(const Tile& tile);  // by Storage
    float (*dot)(const float* a, const float* b, std::size_t dimension);
    float (*sum)(const float* data, std::size_t count);
    double (*multiply_add)(std::size_t steps);
};

#define SMARTRAG_KERNELS "dense_kernels.inc"
#include "each_level.inc"

inline const DenseKernels& dense_kernels() {
    static constexpr const DenseKernels* kTables[] = SMARTRAG_TABLES(kDenseKernels);
    return *kTables[static_cast<int>(simd_level())];
}

}  // namespace smartrag
