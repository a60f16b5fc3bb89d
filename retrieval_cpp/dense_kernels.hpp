// dense_kernels.hpp - scores of a few queries with a panel of 64 rows; dense_kernels.inc holds the code.
//
// A panel keeps 64 rows transposed, so that one vector load brings the same component of neighbouring rows and a batch
// of one streams memory from front to back:
//   f32, bf16   [D, 64]
//   int8        [D / 4, 64, 4], four components of a row together, as the dot-product instructions take them
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "simd.hpp"

namespace smartrag {

inline constexpr std::size_t kPanel = 64;
inline constexpr std::size_t kTileQueries = 6;

struct BFloat16 {
    std::uint16_t bits;
};

// What one call works on.  Scores are only written for queries with a row above their bar.
struct Tile {
    const void* panel;
    const void* queries;        // [count, dimension] float, or int8 against an int8 panel
    std::size_t count;          // 1 .. kTileQueries
    std::size_t dimension;
    const float* bars;          // [count]
    std::uint64_t* found;       // [count] bit r: row r is above the bar
    float* scores;              // [count, kPanel]
    const char* ahead;          // where to prefetch one step of the next panel ...
    std::size_t ahead_every;    // ... every so many steps; 0 for never
    const float* row_scales;    // int8 only, as are these: [kPanel]
    const float* row_sums;      // [kPanel] sum of a row's bytes
    const float* query_scales;  // [count]
};

struct DenseKernels {
    void (*f32)(const Tile& tile);
    void (*bf16)(const Tile& tile);
    void (*int8)(const Tile& tile);
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
