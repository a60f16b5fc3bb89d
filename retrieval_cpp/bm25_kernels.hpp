// bm25_kernels.hpp - the inner loops of BM25 search for each instruction set; bm25_kernels.inc
// holds the code.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "bm25_terms.hpp"
#include "simd.hpp"

namespace smartrag {

struct BM25Kernels {
    void (*add_scaled)(const std::uint8_t* codes, std::uint16_t scaled, std::uint16_t* sums,
                       std::size_t count);
    std::size_t (*estimate_at_least)(const std::uint16_t* sums, std::size_t count,
                                     std::uint16_t least);
    std::size_t (*select)(const std::uint16_t* sums, std::size_t count, std::uint16_t least,
                          std::uint32_t below, std::uint32_t* places);
    void (*add_window)(const CommonTerm& term, std::size_t window, std::uint16_t* sums);
    std::uint64_t (*add_dense)(const DenseTerm* terms, std::size_t count, std::size_t block,
                               std::uint32_t threshold, std::uint16_t* sums);
};

#define SMARTRAG_KERNELS "bm25_kernels.inc"
#include "each_level.inc"

inline const BM25Kernels& bm25_kernels() {
    static constexpr const BM25Kernels* kTables[] = SMARTRAG_TABLES(kBM25Kernels);
    return *kTables[static_cast<int>(simd_level())];
}

}  // namespace smartrag
