// dense_build.hpp - float rows to panels of f32, bf16 or int8.
//
// int8 is symmetric with one scale per row, greatest component = 127; bf16 rounds to nearest, ties to even.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "dense.hpp"

namespace smartrag {

inline BFloat16 to_bfloat16(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const std::uint32_t rounded = bits + 0x7FFFu + (bits >> 16 & 1u);
    // A finite value must not round to infinity.
    return {static_cast<std::uint16_t>(((rounded >> 16) & 0x7FFFu) == 0x7F80u ? bits >> 16 : rounded >> 16)};
}

inline float to_float(BFloat16 value) {
    const std::uint32_t bits = std::uint32_t{value.bits} << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

class DenseBuilder {
public:
    DenseBuilder(const float* rows, std::size_t count, std::size_t dimension, Storage storage, bool keep_rows) {
        DenseIndex& index = made_->index;
        index.meta = {count, dimension, storage, 0, 0};
        made_->panels.resize(index.panel_count() * index.panel_bytes());
        if (storage == Storage::kInt8) {
            made_->row_scales.assign(index.panel_count() * kPanel, 1.0f);
            made_->row_sums.assign(index.panel_count() * kPanel, 0.0f);
        }
        for (std::size_t row = 0; row < count; ++row) add(row, rows + row * dimension);
        if (keep_rows && storage != Storage::kF32) made_->rows.assign(rows, rows + count * dimension);
    }

    DenseIndex finish() {
        DenseIndex result = made_->index;
        result.panels = made_->panels;
        result.row_scales = made_->row_scales;
        result.row_sums = made_->row_sums;
        result.rows = made_->rows;
        result.owner = std::move(made_);
        return result;
    }

private:
    struct Made {
        DenseIndex index;
        std::vector<std::uint8_t> panels;
        std::vector<float> row_scales, row_sums, rows;
    };

    void add(std::size_t row, const float* values) {
        DenseIndex& index = made_->index;
        const std::size_t dimension = index.dimension();
        std::uint8_t* const panel = made_->panels.data() + row / kPanel * index.panel_bytes();
        const std::size_t column = row % kPanel;
        float greatest = 0, sum = 0;
        for (std::size_t d = 0; d < dimension; ++d) greatest = std::max(greatest, std::fabs(values[d]));
        const float scale = int8_scale(greatest);
        double norm = 0, error = 0;
        for (std::size_t d = 0; d < dimension; ++d) {
            float stored = values[d];
            if (index.meta.storage == Storage::kF32) {
                std::memcpy(panel + (d * kPanel + column) * sizeof stored, &stored, sizeof stored);
            } else if (index.meta.storage == Storage::kBF16) {
                const BFloat16 half = to_bfloat16(stored);
                std::memcpy(panel + (d * kPanel + column) * sizeof half, &half, sizeof half);
                stored = to_float(half);
            } else {
                const auto byte = static_cast<std::int8_t>(std::max(-127l, std::min(127l, std::lrint(stored / scale))));
                panel[(d / 4 * kPanel + column) * 4 + d % 4] = static_cast<std::uint8_t>(byte);
                sum += static_cast<float>(byte);
                stored = scale * static_cast<float>(byte);
            }
            norm += double{stored} * stored;
            error += std::pow(double{values[d]} - stored, 2);
        }
        if (index.meta.storage == Storage::kInt8) {
            made_->row_scales[row] = scale;
            made_->row_sums[row] = sum;
        }
        index.meta.greatest_norm = std::max(index.meta.greatest_norm, std::sqrt(norm));
        index.meta.greatest_error = std::max(index.meta.greatest_error, std::sqrt(error));
    }

    std::unique_ptr<Made> made_ = std::make_unique<Made>();
};

}  // namespace smartrag
