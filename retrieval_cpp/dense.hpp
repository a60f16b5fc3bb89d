// dense.hpp - exact inner-product search over float vectors.
//
// Every query meets every row: what counts is to stream the rows once, at memory speed for one
// query and at arithmetic speed for many (dense_kernels.hpp): a panel of rows stays in the
// second-level cache while all queries pass, and the next one is fetched meanwhile.  The threshold
// of each query's top k is compared in registers, so that the B x N score matrix is never written.
//
// bf16 and int8 rows are two and four times shorter.  Where the float rows are kept beside them the
// result is still exact: by Cauchy and Schwarz a score from rounded rows v' and a rounded query q'
// is off by at most
//   slack = |q| max |v - v'| + |q - q'| max |v'|,
// so whatever scores more than 2 slack below the k-th best so far cannot be among the k best; the
// few others are scored again on the float rows.
//
//   N rows of D floats, in panels of 64; B queries in groups of up to 6; score = dot product
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "dense_kernels.hpp"
#include "file.hpp"
#include "parallel.hpp"
#include "topk.hpp"

namespace smartrag {

struct DenseIndex {
    static constexpr FileKind kKind = FileKind::kDense;
    struct Meta {
        std::uint64_t rows = 0, dimension = 0;
        Storage storage = Storage::kF32;
        double greatest_norm = 0;   // of a stored (rounded) row
        double greatest_error = 0;  // of a stored row: |v - v'|
    };
    Meta meta;
    View<std::uint8_t> panels;  // [panels, steps(), kStepBytes]
    View<float> row_scales;     // int8: [padded N], row = scale * bytes
    View<float> rows;           // [N, D] for exact scores, or empty
    std::shared_ptr<const void> owner;

    std::size_t size() const { return meta.rows; }
    std::size_t dimension() const { return meta.dimension; }
    std::size_t components() const {
        return meta.storage == Storage::kF32 ? 1 : meta.storage == Storage::kBF16 ? 2 : 4;
    }  // of a row in a step
    std::size_t parts() const {
        return meta.storage == Storage::kBF16 ? 2 : 1;
    }  // of a lane, see dense_kernels.inc
    std::size_t steps() const { return (dimension() + components() - 1) / components(); }
    std::size_t panel_count() const { return (size() + kPanel - 1) / kPanel; }
    std::size_t panel_bytes() const { return steps() * kStepBytes; }
    bool rescores() const { return rows.size != 0; }

    template <class Self, class Visit>
    static void each_section(Self& self, Visit&& visit) {
        visit(self.panels);
        visit(self.row_scales);
        visit(self.rows);
    }
};

// What one step of a byte stands for, so that the greatest component is 127; never so small that 1
// / scale overflows.
inline float int8_scale(float greatest) { return std::max(greatest / 127.0f, 1e-37f); }

// A batch of queries in the form that the index is scanned with.
struct DenseQueries {
    std::size_t count, lanes;  // lanes: of 32 bits, of one query
    const float* exact;        // [B, D]
    std::vector<std::uint8_t>
        packed;                      // for each group of g queries: [lanes, g, 4], floats or 4 int8
    std::vector<float> scales;       // int8: [B] query = scale * bytes
    std::vector<std::int32_t> sums;  // int8: [B] of a query's bytes
    std::vector<float>
        slack;  // [B] how far a stored score may be off; 0 where stored scores are final

    DenseQueries(const DenseIndex& index, const float* queries, std::size_t count_)
        : count(count_),
          lanes(index.steps() * index.parts()),
          exact(queries),
          packed(count * lanes * 4),
          scales(count, 1.0f),
          sums(count),
          slack(count) {
        const std::size_t dimension = index.dimension();
        for (std::size_t q = 0, group = 0; q < count; ++q) {
            if (q == group_begin(group + 1)) ++group;
            const std::size_t first = group_begin(group),
                              stride = 4 * (group_begin(group + 1) - first);
            std::uint8_t* const place = packed.data() + 4 * (first * lanes + q - first);
            const float* const query = queries + q * dimension;
            double norm = 0, error = 0;
            for (std::size_t d = 0; d < dimension; ++d) norm += double{query[d]} * query[d];
            if (index.meta.storage == Storage::kInt8)
                error = pack_bytes(q, query, dimension, place, stride);
            else
                for (std::size_t d = 0; d < dimension; ++d)
                    std::memcpy(place + d * stride, query + d, 4);
            if (std::sqrt(norm) * (index.meta.greatest_norm + index.meta.greatest_error) >
                std::numeric_limits<float>::max()) {
                throw std::domain_error("queries are so long that scores overflow float32");
            }
            if (!index.rescores()) continue;
            // The last term covers the float arithmetic of both scores.
            const double n = std::sqrt(norm),
                         rounding = 1.2e-7 * static_cast<double>(dimension + 8);
            slack[q] = static_cast<float>(
                1.0001 *
                (n * index.meta.greatest_error + std::sqrt(error) * index.meta.greatest_norm +
                 rounding * n * (index.meta.greatest_norm + index.meta.greatest_error)));
        }
    }

    // Groups differ by one query at most: a small one takes as many loads of rows for fewer
    // multiply-adds.
    std::size_t groups() const { return (count + kTileQueries - 1) / kTileQueries; }
    std::size_t group_begin(std::size_t group) const { return count * group / groups(); }

private:
    // Rounds a query; returns the square of what that cost.
    double pack_bytes(std::size_t q, const float* query, std::size_t dimension, std::uint8_t* place,
                      std::size_t stride) {
        float greatest = 0;
        double error = 0;
        for (std::size_t d = 0; d < dimension; ++d)
            greatest = std::max(greatest, std::fabs(query[d]));
        scales[q] = int8_scale(greatest);
        for (std::size_t d = 0; d < dimension; ++d) {
            const auto byte = static_cast<std::int8_t>(std::lrint(query[d] / scales[q]));
            place[d / 4 * stride + d % 4] = static_cast<std::uint8_t>(byte);
            sums[q] += byte;
            error += std::pow(double{query[d]} - double{scales[q]} * byte, 2);
        }
        return error;
    }
};

// Scans a range of panels for a batch of queries; one per thread.
class DenseScanner {
public:
    DenseScanner(const DenseIndex& index, const DenseQueries& queries, std::size_t k)
        : index_(index),
          queries_(queries),
          kernels_(dense_kernels()),
          tops_(queries.count, TopK(k)),
          candidates_(queries.count),
          bars_(queries.count, -std::numeric_limits<float>::infinity()) {}

    void scan(std::size_t first_panel, std::size_t last_panel) {
        const std::size_t groups = queries_.groups();
        for (std::size_t panel = first_panel; panel < last_panel; ++panel) {
            const std::uint8_t* const data = index_.panels.data + panel * index_.panel_bytes();
            // Each group fetches its share of the next panel.
            const bool fetches = panel + 1 < last_panel;
            const std::size_t stride =
                fetches ? std::min<std::size_t>(64, (kStepBytes + groups - 1) / groups) : 0;
            const std::uint8_t* const ahead = fetches ? data + index_.panel_bytes() : data;
            for (std::size_t group = 0; group < groups; ++group)
                score_group(panel, group, data, ahead + group * stride * index_.steps(), stride);
        }
    }

    // The exact k best of what was scanned, added to `top`.
    void finish(std::size_t q, TopK& top) {
        if (!index_.rescores()) {
            for (const Hit& hit : tops_[q].hits()) top.push(hit.score, hit.id);
            return;
        }
        const std::size_t dimension = index_.dimension();
        for (const Hit& hit : candidates_[q]) {
            if (hit.score < bars_[q]) continue;
            top.push(kernels_.dot(queries_.exact + q * dimension,
                                  index_.rows.data + hit.id * dimension, dimension),
                     hit.id);
        }
    }

private:
    void score_group(std::size_t panel, std::size_t group, const std::uint8_t* data,
                     const std::uint8_t* ahead, std::size_t ahead_stride) {
        const std::size_t first = queries_.group_begin(group);
        std::uint64_t found[kTileQueries] = {};
        Tile tile{};
        tile.panel = data;
        tile.steps = index_.steps();
        tile.queries = queries_.packed.data() + 4 * first * queries_.lanes;
        tile.count = queries_.group_begin(group + 1) - first;
        tile.bars = bars_.data() + first;
        tile.found = found;
        tile.scores = scores_;
        tile.next = group + 1 < queries_.groups() ? data : data + index_.panel_bytes();
        tile.ahead = ahead;
        tile.ahead_stride = ahead_stride;
        if (index_.row_scales.size != 0) tile.row_scales = index_.row_scales.data + panel * kPanel;
        tile.query_scales = queries_.scales.data() + first;
        tile.query_sums = queries_.sums.data() + first;
        kernels_.score[static_cast<std::size_t>(index_.meta.storage)](tile);
        for (std::size_t q = 0; q < tile.count; ++q) {
            for (; found[q] != 0; found[q] &= found[q] - 1) {
                const auto row = static_cast<std::size_t>(__builtin_ctzll(found[q]));
                if (panel * kPanel + row < index_.size())
                    push(first + q, scores_[q * kPanel + row], panel * kPanel + row);
            }
        }
    }

    void push(std::size_t q, float score, std::size_t row) {
        const Hit hit{score, static_cast<std::uint32_t>(row)};
        TopK& top = tops_[q];
        top.push(hit.score, hit.id);
        if (!index_.rescores()) {
            bars_[q] = top.threshold();
            return;
        }
        // The k-th best is off by slack, and so is this one.
        bars_[q] = top.threshold() - 2.0f * queries_.slack[q];
        std::vector<Hit>& candidates = candidates_[q];
        candidates.push_back(hit);
        if (candidates.size() == candidates.capacity()) {
            const auto gone = [&](const Hit& h) { return h.score < bars_[q]; };
            candidates.erase(std::remove_if(candidates.begin(), candidates.end(), gone),
                             candidates.end());
        }
    }

    const DenseIndex& index_;
    const DenseQueries& queries_;
    const DenseKernels& kernels_;
    std::vector<TopK> tops_;
    std::vector<std::vector<Hit>> candidates_;  // all that may still be among the k best
    std::vector<float> bars_;                   // a score must be above this to matter
    alignas(64) float scores_[kTileQueries * kPanel];
};

// The k best rows of each query, k at most the number of rows.
inline void search(const DenseIndex& index, const float* data, std::size_t count, std::size_t k,
                   std::size_t threads, const Check& check, std::int32_t* ids, float* scores) {
    // Panels of a task: it must end soon, as tasks are what a signal can end.
    const std::size_t together =
        std::clamp<std::size_t>(4096 / std::max<std::size_t>(1, count), 1, 64);
    const DenseQueries queries(index, data, count);
    const std::size_t tasks = (index.panel_count() + together - 1) / together;
    std::vector<std::unique_ptr<DenseScanner>> scanners(thread_count(threads, tasks));
    parallel_for(tasks, threads, check, [&](std::size_t task, std::size_t thread) {
        if (!scanners[thread]) scanners[thread] = std::make_unique<DenseScanner>(index, queries, k);
        scanners[thread]->scan(task * together,
                               std::min(index.panel_count(), (task + 1) * together));
    });
    for (std::size_t q = 0; q < count; ++q) {
        TopK top(k);
        for (const auto& scanner : scanners) {
            if (scanner) scanner->finish(q, top);
        }
        top.write(k, ids + q * k, scores + q * k);
    }
}

}  // namespace smartrag
