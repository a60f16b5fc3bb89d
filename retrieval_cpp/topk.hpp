// topk.hpp - the k best hits seen so far.
//
// A binary min-heap whose root is the hit that the next better one replaces, so that the common
// case, a candidate that is not good enough, costs one comparison with `threshold()`.  Order is
// total: higher score first, then lower id; the result therefore does not depend on the order in
// which candidates arrive, nor on who scored them.
//
//   k     how many hits are kept, at most
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace smartrag {

struct Hit {
    float score;
    std::uint32_t id;

    friend bool operator<(const Hit& a, const Hit& b) {  // "a goes before b in the result"
        return a.score != b.score ? a.score > b.score : a.id < b.id;
    }
};

class TopK {
public:
    explicit TopK(std::size_t k = 0) { reset(k); }

    void reset(std::size_t k) {
        k_ = k;
        heap_.clear();
    }

    std::size_t k() const { return k_; }

    // Hits that score less cannot enter any more; one that scores the same may, by its id.
    float threshold() const {
        return heap_.size() < k_ ? -std::numeric_limits<float>::infinity() : heap_.front().score;
    }

    void push(float score, std::uint32_t id) {
        const Hit hit{score, id};
        if (heap_.size() < k_) {
            heap_.push_back(hit);
            std::push_heap(heap_.begin(), heap_.end());
        } else if (k_ != 0 && hit < heap_.front()) {
            std::pop_heap(heap_.begin(), heap_.end());
            heap_.back() = hit;
            std::push_heap(heap_.begin(), heap_.end());
        }
    }

    const std::vector<Hit>& hits() const { return heap_; }

    // Writes the hits, best first, and pads the row with id -1 and score -inf.
    void write(std::size_t row_length, std::int32_t* ids, float* scores) {
        std::sort_heap(heap_.begin(), heap_.end());
        for (std::size_t i = 0; i < row_length; ++i) {
            const bool hit = i < heap_.size();
            ids[i] = hit ? static_cast<std::int32_t>(heap_[i].id) : -1;
            scores[i] = hit ? heap_[i].score : -std::numeric_limits<float>::infinity();
        }
    }

private:
    std::size_t k_ = 0;
    std::vector<Hit> heap_;  // max-heap under operator<, whose greatest element is the worst hit
};

}  // namespace smartrag
