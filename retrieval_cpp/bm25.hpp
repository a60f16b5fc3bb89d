// bm25.hpp - exact top-k BM25 search: block-max MaxScore on bytes.
//
// Few documents can enter the top k; the art is to know which without scoring the others.  Each of
// these bounds is tighter than the one before, dearer, and asked of fewer documents:
//
// 1. Block.  For every 64 documents and every term, the greatest code (impact.hpp) bounds what the
// term can give to any of them.  Weighted and summed over the query, 16 kB per term and million
// documents, this leaves the blocks whose bound reaches the threshold, the k-th best score so far.
// Block-max indexes: Ding and Suel, SIGIR 2011; Mallia, Suel and Tonellotto, SIGIR 2024.
//
// 2. Documents of a block.  The shares of the terms with lists are added up, then those of the
// dense terms, rarest first, until no document can reach the threshold even with all that is still
// to come: MaxScore (Turtle and Flood, 1995), its split into essential and non-essential terms made
// anew for every block.
//
// 3. Score.  The sum of a document's shares is within 0.4 % of its score; only documents whose sum
// reaches the threshold are scored exactly, in float, in the order of the query's terms, the
// highest sums first.
//
// Blocks are visited from the highest bounds down, in a few rounds, so that the threshold is nearly
// final after a few dozen blocks; within a round they ascend, which memory likes.  Where a large
// part of all blocks is left, as for queries of many words, they are not visited one by one: the
// lists are added up term at a time, window by window of 4,096 documents, whose sums stay in the
// first-level cache, and step 2 goes on from there.
//
//   N documents, T distinct terms in the query; shares, sums, scale: bm25_terms.hpp
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "bm25_index.hpp"
#include "bm25_kernels.hpp"
#include "topk.hpp"

namespace smartrag {

// One thread's working memory; use one per thread.
class BM25Searcher {
public:
    explicit BM25Searcher(const BM25Index& index)
        : index_(index),
          kernels_(bm25_kernels()),
          bounds_(index.padded_blocks()),
          visit_(index.padded_blocks()) {}

    void search(const std::vector<QueryTerm>& query, TopK& top) {
        if (query.empty()) return;
        if (query.size() > kMostTerms) return search_plainly(index_, query, top);
        top_ = &top;
        open(query);
        bound_blocks();
        // Rounds of about 1, 8, 64 ... times `round` blocks, from the highest bounds down.
        std::uint32_t below = 65536;
        for (std::size_t round = std::max<std::size_t>(kFirstRound, top.k()); below > threshold_;
             round *= 8) {
            const auto left = kernels_.estimate_at_least(bounds_.data(), bounds_.size(),
                                                         static_cast<std::uint16_t>(threshold_));
            if (round >= bounds_.size() / 64 && left > bounds_.size() / kLargePart)
                return visit_windows(below);
            const std::uint32_t least = std::max(threshold_, bound_of_best(round, below));
            visit_blocks(least, below);
            below = least;
        }
    }

private:
    // Measured on a million passages, queries of 3 to 400 words; twice or half cost a few percent.
    static constexpr std::size_t kFirstRound = 16;   // blocks
    static constexpr std::size_t kLargePart = 4;     // windows where more than a quarter is left
    static constexpr std::size_t kCandidates = 64;   // kept before they are scored, at least
    static constexpr std::size_t kLeastPart = 16;    // of them, scored together
    static constexpr std::size_t kMostTerms = 4096;  // more leave too few of 65,536 units to each

    // A term as it is scored: which of the vectors below it is in, and where.
    struct Scored {
        std::uint32_t term;
        float weight;
        enum { kDense, kCommon, kRare } kind;
        std::size_t place;
    };
    struct Candidate {
        std::uint32_t document, sum;
    };

    void open(const std::vector<QueryTerm>& query) {
        threshold_ = 1;
        terms_.clear();
        dense_.clear();
        common_.clear();
        rare_count_ = 0;
        double total = 0;
        for (const QueryTerm& q : query) total += q.count * index_.idf(q.term);
        // Room for every rounding: less than 2 a term; and a single term's `scaled` must fit, too.
        scale_ = (65535.0 - 2.0 * static_cast<double>(query.size()) - 8.0) * 255.0 / 256.0 / total;
        slack_ = 2.0 + static_cast<double>(query.size()) / 128;  // of float sums, in units
        for (const QueryTerm& q : query) add_term(q.term, q.count * index_.idf(q.term));
        sort_dense();
    }

    void add_term(std::uint32_t term, float weight) {
        const BM25Index::Term& entry = index_.terms[term];
        const auto scaled = static_cast<std::uint16_t>(std::ceil(weight * scale_ * 256.0 / 255.0));
        if (index_.is_dense(entry)) {
            terms_.push_back({term, weight, Scored::kDense, dense_.size()});
            dense_.push_back({index_.dense_codes(entry), index_.block_maxima(entry), scaled});
        } else if (index_.has_row(entry)) {
            terms_.push_back({term, weight, Scored::kCommon, common_.size()});
            common_.push_back({index_.open_list(entry), index_.block_maxima(entry), scaled});
        } else {
            terms_.push_back({term, weight, Scored::kRare, rare_count_});
            if (rare_.size() == rare_count_) rare_.emplace_back();
            rare_[rare_count_].decode(index_.packed_list(entry), entry.df);
            rare_[rare_count_++].scaled = scaled;
        }
    }

    // Rarest first, which is heaviest first.
    void sort_dense() {
        by_df_ = dense_;
        std::sort(by_df_.begin(), by_df_.end(),
                  [](const DenseTerm& a, const DenseTerm& b) { return a.scaled > b.scaled; });
    }

    void bound_blocks() {
        std::fill(bounds_.begin(), bounds_.end(), std::uint16_t{0});
        for (const DenseTerm& t : dense_)
            kernels_.add_scaled(t.maxima, t.scaled, bounds_.data(), bounds_.size());
        for (const CommonTerm& t : common_)
            kernels_.add_scaled(t.maxima, t.scaled, bounds_.data(), bounds_.size());
        for (std::size_t i = 0; i < rare_count_; ++i) rare_[i].add_bounds(bounds_.data());
    }

    // A bound below `below` that about `count` blocks reach, or 1.
    std::uint32_t bound_of_best(std::size_t count, std::uint32_t below) const {
        std::uint32_t low = 0, high = (below - 1) >> 8;  // in steps of 256: a rough answer will do
        while (low < high) {
            const std::uint32_t middle = (low + high + 1) / 2;
            const auto least = static_cast<std::uint16_t>(middle << 8);
            if (kernels_.estimate_at_least(bounds_.data(), bounds_.size(), least) >= count)
                low = middle;
            else high = middle - 1;
        }
        return std::max(1u, low << 8);
    }

    void rewind() {
        for (std::size_t i = 0; i < rare_count_; ++i) rare_[i].cursor = 0;
    }

    // Visits the blocks with bounds in [least, below).
    void visit_blocks(std::uint32_t least, std::uint32_t below) {
        const std::size_t count =
            kernels_.select(bounds_.data(), bounds_.size(), static_cast<std::uint16_t>(least),
                            below, visit_.data());
        rewind();
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint32_t block = visit_[i];
            if (bounds_[block] < threshold_) continue;
            if (i + 2 < count) prefetch(visit_[i + 2]);  // a tenth of the time of a short query
            std::fill_n(sums_, kBlock, std::uint16_t{0});
            for (std::size_t r = 0; r < rare_count_; ++r)
                rare_[r].add(block * kBlock, (block + 1) * kBlock, sums_);
            for (const CommonTerm& t : common_) t.add_block(block, sums_);
            finish_block(block, sums_);
        }
        score_candidates();
    }

    void prefetch(std::uint32_t block) const {
        for (const DenseTerm& t : by_df_) __builtin_prefetch(t.codes + std::size_t{block} * kBlock);
        for (const CommonTerm& t : common_) __builtin_prefetch(t.list.block(block));
    }

    // Visits all blocks with bounds below `below` that can still matter.
    void visit_windows(std::uint32_t below) {
        rewind();
        for (std::size_t window = 0; window < bounds_.size() / kBlocksPerBase; ++window) {
            const std::uint16_t* const bounds = bounds_.data() + window * kBlocksPerBase;
            if (*std::max_element(bounds, bounds + kBlocksPerBase) < threshold_) continue;
            const auto first = static_cast<std::uint32_t>(window * kWindow);
            std::fill_n(sums_, kWindow, std::uint16_t{0});
            for (std::size_t r = 0; r < rare_count_; ++r)
                rare_[r].add(first, first + kWindow, sums_);
            for (const CommonTerm& t : common_) kernels_.add_window(t, window, sums_);
            for (std::uint32_t block = 0; block < kBlocksPerBase; ++block) {
                if (bounds[block] >= threshold_ && bounds[block] < below)
                    finish_block(first / kBlock + block, sums_ + block * kBlock);
            }
        }
        score_candidates();
    }

    // Adds the dense terms to a block's sums, and collects the documents whose sums reach the
    // threshold.
    void finish_block(std::uint32_t block, std::uint16_t* sums) {
        std::uint64_t found =
            kernels_.add_dense(by_df_.data(), by_df_.size(), block, threshold_, sums);
        for (; found != 0; found &= found - 1) {
            const auto i = static_cast<std::uint32_t>(__builtin_ctzll(found));
            candidates_.push_back({block * kBlock + i, sums[i]});
        }
        if (candidates_.size() >= std::max(kCandidates, 8 * top_->k())) score_candidates();
    }

    // Scores the candidates in growing parts, the best sums first, as long as they matter.
    void score_candidates() {
        for (std::size_t part = std::max<std::size_t>(kLeastPart, top_->k()); !candidates_.empty();
             part *= 2) {
            const auto gone = [&](const Candidate& c) { return c.sum < threshold_; };
            candidates_.erase(std::remove_if(candidates_.begin(), candidates_.end(), gone),
                              candidates_.end());
            const std::size_t count = std::min(part, candidates_.size());
            const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(count);
            std::nth_element(candidates_.begin(), end, candidates_.end(),
                             [](const Candidate& x, const Candidate& y) { return x.sum > y.sum; });
            std::sort(candidates_.begin(), end, [](const Candidate& x, const Candidate& y) {
                return x.document < y.document;
            });
            score(count);
            candidates_.erase(candidates_.begin(), end);
        }
    }

    // Scores the first candidates, whose documents ascend, term by term in the query's order.
    void score(std::size_t count) {
        scores_.assign(count, 0);
        for (const Scored& t : terms_) {
            switch (t.kind) {
                case Scored::kDense: add_scores(t, dense_[t.place], count); break;
                case Scored::kCommon: add_scores(t, common_[t.place], count); break;
                case Scored::kRare:
                    rare_[t.place].cursor = 0;
                    add_scores(t, rare_[t.place], count);
                    break;
            }
        }
        for (std::size_t i = 0; i < count; ++i) top_->push(scores_[i], candidates_[i].document);
        if (!std::isinf(top_->threshold())) {
            threshold_ = static_cast<std::uint32_t>(
                std::max(1.0, std::floor(top_->threshold() * scale_ - slack_)));
        }
    }

    template <class Term>
    void add_scores(const Scored& t, Term& postings, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint32_t document = candidates_[i].document;
            const std::uint8_t code = postings.code(document);
            if (code == 0) continue;
            const float norm = index_.norm(document);
            const std::uint32_t tf =
                code == kEscape ? index_.tf(t.term, document, code) : tf_of_code(code, norm);
            scores_[i] += t.weight * impact(tf, norm);
        }
    }

    const BM25Index& index_;
    const BM25Kernels& kernels_;
    TopK* top_ = nullptr;
    std::vector<Scored> terms_;  // in the query's order
    std::vector<DenseTerm> dense_, by_df_;
    std::vector<CommonTerm> common_;
    std::vector<RareTerm> rare_;  // the first rare_count_; the others are memory for later queries
    std::size_t rare_count_ = 0;
    double scale_ = 0, slack_ = 0;
    std::uint32_t threshold_ =
        1;  // the least sum that a document needs to enter the top k; 1 until there are k
    std::vector<std::uint16_t> bounds_;
    std::vector<std::uint32_t> visit_;
    std::vector<Candidate> candidates_;
    std::vector<float> scores_;  // of the candidates being scored
    alignas(64) std::uint16_t sums_[kWindow];
};

}  // namespace smartrag
