// bm25.hpp - exact top-k BM25 search: block-max MaxScore on bytes.
//
// Few documents can enter the top k; the art is to know which without scoring the others.  Three bounds, each cheaper
// than the next is tight:
//
//   1. Block.  For every 64 documents and every term, the greatest code (impact.hpp) bounds what the term can give to
//      any of them.  Weighted and summed over the query's terms, 16,000 bytes per term and million documents, this
//      leaves a few hundred blocks whose bound reaches the k-th best score so far, the threshold.
//      Block-max indexes: Ding and Suel, SIGIR 2011; Mallia, Suel and Tonellotto, SIGIR 2024 (block-max pruning).
//   2. Document, rare terms first.  In such a block the terms are added document by document, from the rarest to the
//      most frequent, while the block bounds of the terms still to come are at hand: as soon as no document can reach
//      the threshold even with all of them, the rest of the terms, "the" and "of" above all, is not looked at.  This
//      is MaxScore (Turtle and Flood, 1995), its split into essential and non-essential terms made anew in each block.
//   3. Code.  What is left is compared by the sum of its own codes, within 0.4 % of its score; only documents that
//      still reach the threshold are scored exactly, in float, in the order of the query's terms.
//
// Blocks are visited from the highest bounds down, in a few rounds, so that the threshold is nearly final after a few
// dozen blocks; within a round they ascend, because posting lists are read forwards.  Bounds are 16-bit integers in
// units of 1 / scale; every rounding goes up, and the threshold's goes down, so nothing is lost and ties survive.
//
//   weight   count in query * idf           scaled   weight * scale * 256 / 255, rounded up
//   sums     bounds of the 64 documents of a block; bounds  of all blocks
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "bm25_index.hpp"
#include "bm25_kernels.hpp"
#include "topk.hpp"

namespace smartrag {

// A term of a query and how often it occurs there.
struct QueryTerm {
    std::uint32_t term;
    float count;
};

// Counts the terms of a query, in order of first appearance.
inline std::vector<QueryTerm> count_terms(const std::vector<std::uint32_t>& terms) {
    std::vector<std::uint32_t> order(terms.size());
    for (std::uint32_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return terms[a] < terms[b]; });
    std::vector<float> counts(terms.size());  // at the first appearance of each term, 0 at the others
    for (std::size_t i = 0, first = 0; i < order.size(); ++i) {
        if (terms[order[i]] != terms[order[first]]) first = i;
        counts[order[first]] += 1;
    }
    std::vector<QueryTerm> query;
    for (std::size_t i = 0; i < terms.size(); ++i) {
        if (counts[i] != 0) query.push_back({terms[i], counts[i]});
    }
    return query;
}

// One thread's working memory; use one per thread.
class BM25Searcher {
public:
    explicit BM25Searcher(const BM25Index& index)
        : index_(index), kernels_(bm25_kernels()), bounds_(index.padded_blocks()), visit_(index.padded_blocks()) {}

    void search(const std::vector<QueryTerm>& query, TopK& top) {
        if (query.empty()) return;
        top_ = &top;
        if (query.size() > kMostPrunedTerms) return search_exhaustively(query);
        open(query);
        bound_blocks();
        // Rounds of about 1, 8, 64 ... times `round` blocks, from the highest bounds down.
        std::uint32_t below = 65536;
        for (std::size_t round = std::max<std::size_t>(kFirstRound, top.k()); below > threshold(); round *= 8) {
            const std::uint32_t least = std::max(threshold(), bound_of_best(round, below));
            visit_blocks(least, below);
            below = least;
        }
    }

private:
    static constexpr std::size_t kFirstRound = 16;
    static constexpr std::size_t kMostPrunedTerms = 1024;  // beyond, the integers' rounding would swamp the bounds

    struct Term {
        std::uint32_t term = 0;
        float weight = 0;
        std::uint16_t scaled = 0;
        std::uint32_t df = 0;
        const std::uint8_t* maxima = nullptr;  // of blocks; null for rare terms
        const std::uint8_t* dense = nullptr;   // codes of all documents, of dense terms
        const std::uint8_t* row = nullptr;     // codes of the current block's documents, or null if there are none
        PostingCursor cursor;
        alignas(64) std::uint8_t expanded[kBlock];

        // What the term adds to the bound of a document whose code is `code`, as kernels.add_scaled does.
        std::uint32_t share(std::uint8_t code) const { return (std::uint32_t{code} * scaled >> 8) + (code != 0); }
    };

    // The least sum of codes that a document needs to enter the top k: 1 until k documents are found.
    std::uint32_t threshold() const { return threshold_; }
    void raise_threshold() {
        if (!std::isinf(top_->threshold())) {
            threshold_ = static_cast<std::uint32_t>(std::max(1.0, std::floor(top_->threshold() * scale_) - 2.0));
        }
    }

    void open(const std::vector<QueryTerm>& query) {
        threshold_ = 1;
        if (terms_.size() < query.size()) terms_.resize(query.size());
        by_df_.clear();
        double total = 0;
        for (std::size_t i = 0; i < query.size(); ++i) {
            Term& t = terms_[i];
            const BM25Index::Term& entry = index_.terms[query[i].term];
            t.term = query[i].term;
            t.weight = query[i].count * index_.idf(t.term);
            t.df = entry.df;
            t.maxima = index_.has_maxima(entry) ? index_.block_maxima(entry) : nullptr;
            t.dense = index_.is_dense(entry) ? index_.dense_codes(entry) : nullptr;
            if (t.dense == nullptr) t.cursor.open(index_.list(entry), t.maxima == nullptr);
            total += t.weight;
            by_df_.push_back(static_cast<std::uint32_t>(i));
        }
        count_ = query.size();
        std::sort(by_df_.begin(), by_df_.end(), [&](std::uint32_t a, std::uint32_t b) { return terms_[a].df < terms_[b].df; });
        scale_ = (65535.0 - 2.0 * static_cast<double>(count_) - 8.0) * 255.0 / 256.0 / total;
        for (std::size_t i = 0; i < count_; ++i) {
            terms_[i].scaled = static_cast<std::uint16_t>(std::ceil(terms_[i].weight * scale_ * 256.0 / 255.0));
        }
    }

    void bound_blocks() {
        std::fill(bounds_.begin(), bounds_.end(), std::uint16_t{0});
        for (std::size_t i = 0; i < count_; ++i) {
            const Term& t = terms_[i];
            if (t.maxima != nullptr) {
                kernels_.add_scaled(t.maxima, t.scaled, bounds_.data(), bounds_.size());
                continue;
            }
            const std::uint32_t* const documents = t.cursor.documents();
            const std::uint8_t* const codes = t.cursor.codes();
            for (std::uint32_t p = 0; p < t.cursor.size();) {
                const std::uint32_t block = documents[p] / kBlock;
                std::uint8_t greatest = codes[p++];
                for (; documents[p] / kBlock == block; ++p) greatest = std::max(greatest, codes[p]);
                bounds_[block] = static_cast<std::uint16_t>(std::min(bounds_[block] + t.share(greatest), 65535u));
            }
        }
    }

    // A bound below `below` that about `count` blocks reach, or 1.
    std::uint32_t bound_of_best(std::size_t count, std::uint32_t below) const {
        std::uint32_t low = 0, high = (below - 1) >> 8;  // in steps of 256: a rough answer will do
        while (low < high) {
            const std::uint32_t middle = (low + high + 1) / 2;
            const auto least = static_cast<std::uint16_t>(middle << 8);
            if (kernels_.count_at_least(bounds_.data(), bounds_.size(), least) >= count) low = middle;
            else high = middle - 1;
        }
        return std::max(1u, low << 8);
    }

    void visit_blocks(std::uint32_t least, std::uint32_t below) {
        for (std::size_t i = 0; i < count_; ++i) {
            if (terms_[i].dense == nullptr) terms_[i].cursor.rewind();
        }
        const std::size_t count = kernels_.select(bounds_.data(), bounds_.size(), static_cast<std::uint16_t>(least), below, visit_.data());
        for (std::size_t i = 0; i < count; ++i) {
            if (bounds_[visit_[i]] >= threshold()) visit(visit_[i]);
        }
    }

    void visit(std::uint32_t block) {
        std::uint32_t to_come = 0;  // what the terms not yet added can give
        for (std::size_t i = 0; i < count_; ++i) {
            if (terms_[i].maxima != nullptr) to_come += terms_[i].share(terms_[i].maxima[block]);
        }
        alignas(64) std::uint16_t sums[kBlock] = {};
        for (const std::uint32_t i : by_df_) {
            Term& t = terms_[i];
            t.row = nullptr;
            if (t.maxima != nullptr) {
                const std::uint32_t most = t.share(t.maxima[block]);
                if (most == 0) continue;
                if (threshold() > to_come && kernels_.at_least(sums, static_cast<std::uint16_t>(threshold() - to_come)) == 0) return;
                to_come -= most;
            }
            if (t.dense != nullptr) {
                t.row = t.dense + std::size_t{block} * kBlock;
            } else {
                std::fill_n(t.expanded, kBlock, std::uint8_t{0});
                if (!t.cursor.expand(block * kBlock, t.expanded)) continue;
                t.row = t.expanded;
            }
            kernels_.add_scaled(t.row, t.scaled, sums, kBlock);
        }
        for (std::uint64_t found = kernels_.at_least(sums, static_cast<std::uint16_t>(threshold())); found != 0; found &= found - 1) {
            const auto i = static_cast<std::uint32_t>(__builtin_ctzll(found));
            if (sums[i] >= threshold()) score(block * kBlock + i);
        }
    }

    void score(std::uint32_t document) {
        const float norm = index_.norm(document);
        float score = 0;
        for (std::size_t i = 0; i < count_; ++i) {
            const Term& t = terms_[i];
            const std::uint8_t code = t.row == nullptr ? std::uint8_t{0} : t.row[document % kBlock];
            if (code != 0) score += t.weight * impact(code == kEscape ? index_.tf(t.term, document, code) : tf_of_code(code, norm), norm);
        }
        top_->push(score, document);
        raise_threshold();
    }

    // Term at a time, every posting scored: for queries as long as documents.
    void search_exhaustively(const std::vector<QueryTerm>& query) {
        std::vector<float> scores(index_.size(), -1.0f);
        for (const QueryTerm& q : query) {
            const BM25Index::Term& entry = index_.terms[q.term];
            const float weight = q.count * index_.idf(q.term);
            const auto add = [&](std::uint32_t document, std::uint8_t code) {
                scores[document] = std::max(scores[document], 0.0f) + weight * impact(index_.tf(q.term, document, code), index_.norm(document));
            };
            if (index_.is_dense(entry)) {
                const std::uint8_t* const codes = index_.dense_codes(entry);
                for (std::uint32_t d = 0; d < index_.size(); ++d) {
                    if (codes[d] != 0) add(d, codes[d]);
                }
            } else {
                PostingCursor cursor;
                cursor.open(index_.list(entry), true);
                for (std::uint32_t p = 0; p < cursor.size(); ++p) add(cursor.documents()[p], cursor.codes()[p]);
            }
        }
        for (std::uint32_t d = 0; d < index_.size(); ++d) {
            if (scores[d] >= 0) top_->push(scores[d], d);
        }
    }

    const BM25Index& index_;
    const BM25Kernels& kernels_;
    TopK* top_ = nullptr;
    std::vector<Term> terms_;           // in the query's order
    std::vector<std::uint32_t> by_df_;  // rarest first
    std::size_t count_ = 0;
    double scale_ = 0;
    std::uint32_t threshold_ = 1;
    std::vector<std::uint16_t> bounds_;
    std::vector<std::uint32_t> visit_;
};

}  // namespace smartrag
