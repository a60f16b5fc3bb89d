// bm25_kernels.hpp - the inner loops of BM25 search for each instruction set; bm25_kernels.inc holds the code.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "simd.hpp"

namespace smartrag {

struct BM25Kernels {
    void (*add_scaled)(const std::uint8_t* codes, std::uint16_t weight, std::uint16_t* sums, std::size_t count);
    std::size_t (*estimate_at_least)(const std::uint16_t* sums, std::size_t count, std::uint16_t least);
    std::size_t (*select)(const std::uint16_t* sums, std::size_t count, std::uint16_t least, std::uint32_t below, std::uint32_t* places);
};

namespace portable {
#include "bm25_kernels.inc"
}

#if defined(__x86_64__)
SMARTRAG_TARGET(SMARTRAG_AVX2)
namespace avx2 {
#define SMARTRAG_KERNEL_AVX2 1
#include "bm25_kernels.inc"
#undef SMARTRAG_KERNEL_AVX2
}  // namespace avx2
SMARTRAG_TARGET_END
SMARTRAG_TARGET(SMARTRAG_AVX512)
namespace avx512 {
#define SMARTRAG_KERNEL_AVX512 1
#include "bm25_kernels.inc"
#undef SMARTRAG_KERNEL_AVX512
}  // namespace avx512
SMARTRAG_TARGET_END
#elif defined(__aarch64__)
namespace neon {
#define SMARTRAG_KERNEL_NEON 1
#include "bm25_kernels.inc"
#undef SMARTRAG_KERNEL_NEON
}  // namespace neon
#endif

inline const BM25Kernels& bm25_kernels() {
    switch (simd_level()) {
#if defined(__x86_64__)
        case Simd::kAvx512: return avx512::kBM25Kernels;
        case Simd::kAvx2: return avx2::kBM25Kernels;
#elif defined(__aarch64__)
        case Simd::kNeon: return neon::kBM25Kernels;
#endif
        default: return portable::kBM25Kernels;
    }
}

}  // namespace smartrag
