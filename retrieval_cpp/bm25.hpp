// bm25.hpp - exact top-k BM25 search: block-max MaxScore on bytes.
//
// Few documents can enter the top k; the art is to know which without scoring the others.  Each of these bounds is
// tighter than the one before, dearer, and asked of fewer documents:
//
//   1. Block.  For every 64 documents and every term, the greatest code (impact.hpp) bounds what the term can give to
//      any of them.  Weighted and summed over the query, 16 kB per term and million documents, this leaves the blocks
//      whose bound reaches the threshold, the k-th best score so far.
//      Block-max indexes: Ding and Suel, SIGIR 2011; Mallia, Suel and Tonellotto, SIGIR 2024 (block-max pruning).
//   2. Octet.  The same for every eight documents, from the summaries of the blocks that are left.
//   3. Document, rarest term first.  In an octet that is left, the terms' codes are added up, while the octet bounds
//      of the terms still to come are at hand: as soon as no document can reach the threshold even with all of them,
//      the rest, "the" and "of" above all, is not looked at.  This is MaxScore (Turtle and Flood, 1995), its split
//      into essential and non-essential terms made anew for every octet.
//   4. Score.  The sum of a document's codes is within 0.4 % of its score; only documents whose sum still reaches the
//      threshold are scored exactly, in float, in the order of the query's terms.
//
// Blocks are visited from the highest bounds down, in a few rounds, so that the threshold is nearly final after a few
// dozen blocks; within a round they ascend, which memory likes.  Bounds are 16-bit integers in
// units of 1 / scale; every rounding goes up, and the threshold's goes down, so nothing is lost and ties survive.
//
//   weight   count in query * idf
//   scaled   weight * scale * 256 / 255, so that code * scaled / 256 bounds the score; always rounded up
//   bounds   of all blocks; Lanes: eight 16-bit bounds, of octets or of the documents of one octet
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "bm25_index.hpp"
#include "bm25_kernels.hpp"
#include "topk.hpp"

namespace smartrag {

using Lanes = std::uint16_t __attribute__((vector_size(16)));  // SSE2 and NEON are always there

inline bool any(Lanes lanes) {
    std::uint64_t halves[2];
    std::memcpy(halves, &lanes, sizeof halves);
    return (halves[0] | halves[1]) != 0;
}

// A term of the query being answered, with its postings.
struct SearchTerm {
    std::uint32_t term = 0, df = 0;
    float weight = 0;
    std::uint16_t scaled = 0;
    std::uint16_t level_share = 0;         // what a level of a summary adds to a bound
    const std::uint8_t* maxima = nullptr;  // of all blocks; null for rare terms
    const Summary* summaries = nullptr;    // of all blocks
    const std::uint8_t* dense = nullptr;   // codes of all documents, for dense terms
    OpenList open;                         // for common terms
    std::uint32_t expanded_block = kNoDocument;
    alignas(64) std::uint8_t expanded[kBlock];

    // A rare term's list, decoded, and what other terms have in the index.
    std::vector<std::uint32_t> documents;     // [df + 1] kNoDocument at the end
    std::vector<std::uint8_t> own_codes;      // [df]
    std::vector<Summary> own_summaries;       // all zero between queries
    std::vector<std::uint32_t> own_starts;    // a block's first posting, where its summary is not zero

    void set_scale(double scale) {
        scaled = static_cast<std::uint16_t>(std::ceil(weight * scale * 256.0 / 255.0));
        level_share = static_cast<std::uint16_t>((kLevel * scaled >> 8) + 1);
    }

    // Decodes a rare term's list.
    void decode(const PackedList& list, std::size_t blocks) {
        documents.resize(df + 1);
        own_codes.resize(df);
        list.decode_all(documents.data(), own_codes.data());
        own_summaries.resize(blocks);
        own_starts.resize(blocks);
        summaries = own_summaries.data();
    }

    // The codes of a block's documents; the summary says that there are some.
    const std::uint8_t* codes(std::uint32_t block) {
        if (dense != nullptr) return dense + std::size_t{block} * kBlock;
        if (expanded_block != block) {
            std::fill_n(expanded, kBlock, std::uint8_t{0});
            if (maxima != nullptr) {
                open.expand(block, expanded);
            } else {
                for (std::uint32_t p = own_starts[block]; documents[p] / kBlock == block; ++p) expanded[documents[p] % kBlock] = own_codes[p];
            }
            expanded_block = block;
        }
        return expanded;
    }

    // Bounds of a block's octets, octet (l / 2) + 4 * (l % 2) in lane l: multiplying moves each level to the top.
    Lanes octet_shares(std::uint32_t block) const {
        constexpr Lanes kMove = {4096, 4096, 256, 256, 16, 16, 1, 1};
        const Summary both = summaries[block];
        const std::uint32_t pairs[4] = {both, both, both, both};
        Lanes lanes;
        std::memcpy(&lanes, pairs, sizeof lanes);
        return (lanes * kMove >> 12) * level_share;
    }

    // Bounds of an octet's documents: code * scaled / 256, and 1 more for a code other than 0.
    Lanes document_shares(const std::uint8_t* octet) const {
        std::uint8_t __attribute__((vector_size(8))) bytes;
        std::memcpy(&bytes, octet, sizeof bytes);
        const Lanes codes = __builtin_convertvector(bytes, Lanes);
        const auto high = static_cast<std::uint16_t>(scaled >> 8), low = static_cast<std::uint16_t>(scaled & 255u);
        return codes * high + (codes * low >> 8) - static_cast<Lanes>(codes != 0);
    }
};

// One thread's working memory; use one per thread.
class BM25Searcher {
public:
    explicit BM25Searcher(const BM25Index& index)
        : index_(index), kernels_(bm25_kernels()), bounds_(index.padded_blocks()), visit_(index.padded_blocks()) {}

    void search(const std::vector<QueryTerm>& query, TopK& top) {
        if (query.empty()) return;
        top_ = &top;
        if (query.size() > kMostPrunedTerms) return search_plainly(index_, query, top);
        open(query);
        bound_blocks();
        // Rounds of about 1, 8, 64 ... times `round` blocks, from the highest bounds down.
        std::uint32_t below = 65536;
        for (std::size_t round = std::max<std::size_t>(kFirstRound, top.k()); below > threshold_; round *= 8) {
            const std::uint32_t least = std::max(threshold_, bound_of_best(round, below));
            visit_blocks(least, below);
            below = least;
        }
        close();
    }

private:
    static constexpr std::size_t kFirstRound = 16;
    static constexpr std::size_t kMostPrunedTerms = 128;  // longer queries are documents: little can be pruned

    void open(const std::vector<QueryTerm>& query) {
        threshold_ = 1;
        count_ = query.size();
        if (terms_.size() < count_) terms_.resize(count_);
        by_df_.clear();
        double total = 0;
        for (std::size_t i = 0; i < count_; ++i) {
            SearchTerm& t = terms_[i];
            const BM25Index::Term& entry = index_.terms[query[i].term];
            t.term = query[i].term;
            t.df = entry.df;
            t.weight = query[i].count * index_.idf(t.term);
            t.maxima = index_.has_row(entry) ? index_.block_maxima(entry) : nullptr;
            t.dense = index_.is_dense(entry) ? index_.dense_codes(entry) : nullptr;
            t.expanded_block = kNoDocument;
            if (t.maxima == nullptr) t.decode(index_.packed_list(entry), index_.padded_blocks());
            else t.summaries = index_.block_summaries(entry);
            if (t.maxima != nullptr && t.dense == nullptr) t.open = index_.open_list(entry);
            total += t.weight;
            by_df_.push_back(static_cast<std::uint32_t>(i));
        }
        std::sort(by_df_.begin(), by_df_.end(), [&](std::uint32_t a, std::uint32_t b) { return terms_[a].df < terms_[b].df; });
        // Room for every rounding: at most 17 a term in a sum of level shares.
        scale_ = (65535.0 - 17.0 * static_cast<double>(count_) - 8.0) * 255.0 / 256.0 / total;
        for (std::size_t i = 0; i < count_; ++i) terms_[i].set_scale(scale_);
    }

    void close() {
        for (std::size_t i = 0; i < count_; ++i) {
            SearchTerm& t = terms_[i];
            if (t.maxima != nullptr) continue;
            for (std::uint32_t p = 0; p < t.df; ++p) t.own_summaries[t.documents[p] / kBlock] = 0;
        }
    }

    void bound_blocks() {
        std::fill(bounds_.begin(), bounds_.end(), std::uint16_t{0});
        for (std::size_t i = 0; i < count_; ++i) {
            SearchTerm& t = terms_[i];
            if (t.maxima != nullptr) kernels_.add_scaled(t.maxima, t.scaled, bounds_.data(), bounds_.size());
            else bound_rare(t);
        }
    }

    void bound_rare(SearchTerm& t) {
        const std::uint32_t* const documents = t.documents.data();
        for (std::uint32_t p = 0; p < t.df;) {
            const std::uint32_t block = documents[p] / kBlock;
            std::uint32_t greatest = 0;
            Summary summary = 0;
            t.own_starts[block] = p;
            for (; documents[p] / kBlock == block; ++p) {
                greatest = std::max<std::uint32_t>(greatest, t.own_codes[p]);
                summary = summarise(summary, documents[p], t.own_codes[p]);
            }
            t.own_summaries[block] = summary;
            bounds_[block] = static_cast<std::uint16_t>(bounds_[block] + (greatest * t.scaled >> 8) + 1);
        }
    }

    // A bound below `below` that about `count` blocks reach, or 1.
    std::uint32_t bound_of_best(std::size_t count, std::uint32_t below) const {
        std::uint32_t low = 0, high = (below - 1) >> 8;  // in steps of 256: a rough answer will do
        while (low < high) {
            const std::uint32_t middle = (low + high + 1) / 2;
            const auto least = static_cast<std::uint16_t>(middle << 8);
            if (kernels_.estimate_at_least(bounds_.data(), bounds_.size(), least) >= count) low = middle;
            else high = middle - 1;
        }
        return std::max(1u, low << 8);
    }

    void visit_blocks(std::uint32_t least, std::uint32_t below) {
        const std::size_t count = kernels_.select(bounds_.data(), bounds_.size(), static_cast<std::uint16_t>(least), below, visit_.data());
        for (std::size_t i = 0; i < count; ++i) {
            if (bounds_[visit_[i]] >= threshold_) visit(visit_[i]);
        }
    }

    void visit(std::uint32_t block) {
        Lanes bounds = {};
        for (std::size_t i = 0; i < count_; ++i) bounds += terms_[i].octet_shares(block);
        if (!any(static_cast<Lanes>(bounds >= static_cast<std::uint16_t>(threshold_)))) return;
        for (std::uint32_t lane = 0; lane < 8; ++lane) {
            if (bounds[lane] >= threshold_) visit_octet(block, lane / 2 + 4 * (lane % 2), bounds[lane]);
        }
    }

    // `to_come` is what the terms not yet added can give to a document, at first all of them.
    void visit_octet(std::uint32_t block, std::uint32_t octet, std::uint32_t to_come) {
        Lanes sums = {};
        for (const std::uint32_t i : by_df_) {
            SearchTerm& t = terms_[i];
            const std::uint32_t level = level_of(t.summaries[block], octet);
            if (level == 0) continue;
            const auto bar = static_cast<std::uint16_t>(threshold_ > to_come ? threshold_ - to_come : 0);
            if (!any(static_cast<Lanes>(sums >= bar))) return;
            to_come -= level * t.level_share;
            sums += t.document_shares(t.codes(block) + 8 * octet);
        }
        for (std::uint32_t i = 0; i < 8; ++i) {
            if (sums[i] >= threshold_) score(block * kBlock + octet * 8 + i);
        }
    }

    void score(std::uint32_t document) {
        const float norm = index_.norm(document);
        const std::uint32_t block = document / kBlock;
        float score = 0;
        for (std::size_t i = 0; i < count_; ++i) {
            SearchTerm& t = terms_[i];
            if (level_of(t.summaries[block], document / 8 % 8) == 0) continue;
            const std::uint8_t code = t.codes(block)[document % kBlock];
            if (code == 0) continue;
            const std::uint32_t tf = code == kEscape ? index_.tf(t.term, document, code) : tf_of_code(code, norm);
            score += t.weight * impact(tf, norm);
        }
        top_->push(score, document);
        if (!std::isinf(top_->threshold())) {
            threshold_ = static_cast<std::uint32_t>(std::max(1.0, std::floor(top_->threshold() * scale_) - 2.0));
        }
    }

    const BM25Index& index_;
    const BM25Kernels& kernels_;
    TopK* top_ = nullptr;
    std::vector<SearchTerm> terms_;     // in the query's order
    std::vector<std::uint32_t> by_df_;  // rarest first
    std::size_t count_ = 0;
    double scale_ = 0;
    std::uint32_t threshold_ = 1;  // the least sum that a document needs to enter the top k; 1 until there are k
    std::vector<std::uint16_t> bounds_;
    std::vector<std::uint32_t> visit_;
};

}  // namespace smartrag
