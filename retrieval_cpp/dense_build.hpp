// dense_build.hpp - float rows to panels of f32, bf16 or int8.
//
// int8 is symmetric with one scale per row, greatest component = 127; bf16 rounds to nearest, ties
// to even.  Panels lie on huge pages, where the system has them: a scan then looks up an address
// once in 2 MB instead of once in 4 kB.
#pragma once

#include <sys/mman.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "dense.hpp"

namespace smartrag {

template <class T>
struct HugePages {  // an allocator
    using value_type = T;
    static constexpr std::size_t kHuge = 2 << 20;

    HugePages() = default;
    template <class U>
    HugePages(const HugePages<U>&) {}
    friend bool operator==(const HugePages&, const HugePages&) { return true; }
    friend bool operator!=(const HugePages&, const HugePages&) { return false; }

    T* allocate(std::size_t count) {
        const std::size_t align = count * sizeof(T) < kHuge ? 64 : kHuge,
                          bytes = (count * sizeof(T) + align - 1) / align * align;
        void* const memory = std::aligned_alloc(align, bytes);
        if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (align == kHuge)
            ::madvise(memory, bytes, MADV_HUGEPAGE);  // a wish: refused, everything still works
#endif
        return static_cast<T*>(memory);
    }
    void deallocate(T* memory, std::size_t) { std::free(memory); }
};

inline std::uint16_t to_bfloat16(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const std::uint32_t rounded = bits + 0x7FFFu + (bits >> 16 & 1u);
    // A finite value must not round to infinity.
    return static_cast<std::uint16_t>(((rounded >> 16) & 0x7FFFu) == 0x7F80u ? bits >> 16
                                                                             : rounded >> 16);
}

inline float to_float(std::uint16_t bfloat16) {
    const std::uint32_t bits = std::uint32_t{bfloat16} << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

class DenseBuilder {
public:
    DenseBuilder(const float* rows, std::size_t count, std::size_t dimension, Storage storage,
                 bool keep_rows, const Check& check) {
        DenseIndex& index = arrays_->index;
        index.meta = {count, dimension, storage, 0, 0};
        arrays_->panels.resize(index.panel_count() * index.panel_bytes());
        if (storage == Storage::kInt8)
            arrays_->row_scales.assign(index.panel_count() * kPanel, 1.0f);
        for (std::size_t row = 0; row < count; ++row) {
            if (row % kPanel == 0) check();
            add(row, rows + row * dimension);
        }
        if (keep_rows && storage != Storage::kF32)
            arrays_->rows.assign(rows, rows + count * dimension);
    }

    DenseIndex finish() {
        DenseIndex result = arrays_->index;
        result.panels = {arrays_->panels.data(), arrays_->panels.size()};
        result.row_scales = arrays_->row_scales;
        result.rows = arrays_->rows;
        result.owner = std::move(arrays_);
        return result;
    }

private:
    struct Arrays {
        DenseIndex index;
        std::vector<std::uint8_t, HugePages<std::uint8_t>> panels;
        std::vector<float> row_scales, rows;
    };

    void add(std::size_t row, const float* values) {
        DenseIndex& index = arrays_->index;
        const std::size_t dimension = index.dimension(), together = index.components(),
                          bytes = 4 / together;
        std::uint8_t* const lane =
            arrays_->panels.data() + row / kPanel * index.panel_bytes() + row % kPanel * 4;
        float greatest = 0;
        for (std::size_t d = 0; d < dimension; ++d)
            greatest = std::max(greatest, std::fabs(values[d]));
        const float scale = int8_scale(greatest);
        double norm = 0, error = 0;
        for (std::size_t d = 0; d < dimension; ++d) {
            std::uint8_t* const place = lane + d / together * kStepBytes + d % together * bytes;
            float stored = values[d];
            if (index.meta.storage == Storage::kF32) {
                std::memcpy(place, &stored, bytes);
            } else if (index.meta.storage == Storage::kBF16) {
                const std::uint16_t half = to_bfloat16(stored);
                std::memcpy(place, &half, bytes);
                stored = to_float(half);
            } else {
                const long byte = std::max(-127l, std::min(127l, std::lrint(stored / scale)));
                *place = static_cast<std::uint8_t>(byte + 128);
                stored = scale * static_cast<float>(byte);
            }
            norm += double{stored} * stored;
            error += std::pow(double{values[d]} - stored, 2);
        }
        if (index.meta.storage == Storage::kInt8) arrays_->row_scales[row] = scale;
        index.meta.greatest_norm = std::max(index.meta.greatest_norm, std::sqrt(norm));
        index.meta.greatest_error = std::max(index.meta.greatest_error, std::sqrt(error));
    }

    std::unique_ptr<Arrays> arrays_ = std::make_unique<Arrays>();
};

}  // namespace smartrag
