// bm25_index.hpp - the BM25 index as it lies in memory and in its file.
//
//   score(q, d) = sum over the terms t of q:  idf(t) * tf / (tf + norm(d))
//   idf(t)      = log(1 + (N - df + .5) / (df + .5))            (Lucene's, never negative)
//   norm(d)     = k1 * (1 - b + b * length(d) / mean length)
// Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.  The factor k1 + 1 of the
// textbook, the same for all documents, is left out, as in Lucene and in bm25s.
//
// A term is kept in one of three ways, by its document frequency:
//   dense    df > N / 8      a code for every document
//   common   df >= N / 128   an open list
//   rare     the rest        a packed list
// Dense and common terms have a row of bounds: for every 64 documents, the greatest code and a summary.
//
//   N documents, V terms, block = 64 consecutive documents; code: impact.hpp, lists: postings.hpp
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "file.hpp"
#include "impact.hpp"
#include "postings.hpp"
#include "vocabulary.hpp"

namespace smartrag {

inline constexpr std::uint32_t kDenseShare = 8, kCommonShare = 128;
inline constexpr std::uint32_t kNoRow = 0xFFFFFFFF;

struct BM25Parameters {
    float k1 = 0.9f, b = 0.4f;
};

struct BM25Index {
    static constexpr FileKind kKind = FileKind::kBM25;
    struct Meta {
        BM25Parameters parameters;
        double mean_length = 0;
        std::uint64_t dense_rows = 0;
    };
    struct Term {
        std::uint64_t place = 0;     // of the list, in `packed` or `open`
        std::uint32_t df = 0;
        std::uint32_t row = kNoRow;  // of `maxima` and `summaries`; below dense_rows, of `codes` too
    };
    struct Escape {
        std::uint32_t term, document, tf;
    };

    Meta meta;
    VocabularyView vocabulary;
    View<Term> terms;               // [V]
    View<std::uint8_t> packed;      // the lists of all rare terms
    View<OpenPosting> open;         // the lists of all common terms
    View<std::uint32_t> bases;      // [rows - dense rows, padded_blocks() / 64]
    View<std::uint16_t> starts;     // [rows - dense rows, padded_blocks()]
    View<std::uint8_t> codes;       // [dense rows, padded_size()]
    View<std::uint8_t> maxima;      // [rows, padded_blocks()]
    View<Summary> summaries;        // [rows, padded_blocks()]
    View<Escape> escapes;           // by term, then document
    View<std::uint32_t> lengths;    // [N]
    View<char> settings;            // stop words and stemmer, for the Python side
    std::shared_ptr<const void> owner;  // what keeps the views alive

    std::size_t size() const { return lengths.size; }
    std::size_t padded_blocks() const { return padded_blocks(size()); }
    std::size_t padded_size() const { return (size() + kBlock - 1) / kBlock * kBlock; }
    static std::size_t padded_blocks(std::size_t documents) {  // a multiple of 64, so that kernels have no tails
        return (documents + kBlock * 64 - 1) / (kBlock * 64) * 64;
    }

    bool is_dense(const Term& term) const { return term.row < meta.dense_rows; }
    bool has_row(const Term& term) const { return term.row != kNoRow; }
    const std::uint8_t* dense_codes(const Term& term) const { return codes.data + term.row * padded_size(); }
    const std::uint8_t* block_maxima(const Term& term) const { return maxima.data + term.row * padded_blocks(); }
    const Summary* block_summaries(const Term& term) const { return summaries.data + term.row * padded_blocks(); }
    PackedList packed_list(const Term& term) const { return {packed.data + term.place, term.df}; }
    OpenList open_list(const Term& term) const {
        const std::size_t row = term.row - meta.dense_rows, blocks = padded_blocks();
        return {open.data + term.place, bases.data + row * (blocks / kBlocksPerBase), starts.data + row * blocks};
    }

    float idf(std::uint32_t term) const {
        const double df = terms[term].df;
        return static_cast<float>(std::log1p((static_cast<double>(size()) - df + 0.5) / (df + 0.5)));
    }
    float norm(std::uint32_t document) const { return norm(meta.parameters, lengths[document], meta.mean_length); }
    static float norm(const BM25Parameters& p, std::uint32_t length, double mean) {
        const double relative = mean > 0 ? length / mean : 1.0;
        const double k1 = p.k1, b = p.b;
        return static_cast<float>(k1 * (1.0 - b + b * relative));
    }

    // The exact frequency behind a code other than 0.
    std::uint32_t tf(std::uint32_t term, std::uint32_t document, std::uint8_t code) const {
        if (code != kEscape) return tf_of_code(code, norm(document));
        const Escape wanted{term, document, 0};
        return std::lower_bound(escapes.begin(), escapes.end(), wanted, [](const Escape& a, const Escape& b) {
            return a.term != b.term ? a.term < b.term : a.document < b.document;
        })->tf;
    }

    // The frequency of a term in a document, 0 if it does not occur.
    std::uint32_t find(std::uint32_t term, std::uint32_t document) const {
        const Term& entry = terms[term];
        std::uint8_t code = 0;
        if (is_dense(entry)) {
            code = dense_codes(entry)[document];
        } else if (has_row(entry)) {
            std::uint8_t row[kBlock] = {};
            if (block_maxima(entry)[document / kBlock] != 0) open_list(entry).expand(document / kBlock, row);
            code = row[document % kBlock];
        } else {
            const PackedList list = packed_list(entry);
            std::vector<std::uint32_t> documents(entry.df + 1u);
            std::vector<std::uint8_t> codes(documents.size());
            list.decode_all(documents.data(), codes.data());
            const auto found = std::lower_bound(documents.begin(), documents.begin() + entry.df, document);
            if (*found == document) code = codes[static_cast<std::size_t>(found - documents.begin())];
        }
        return code == 0 ? 0 : tf(term, document, code);
    }

    template <class Self, class Visit>
    static void each_section(Self& self, Visit&& visit) {
        visit(self.vocabulary.slots);
        visit(self.vocabulary.ends);
        visit(self.vocabulary.bytes);
        visit(self.terms);
        visit(self.packed);
        visit(self.open);
        visit(self.bases);
        visit(self.starts);
        visit(self.codes);
        visit(self.maxima);
        visit(self.summaries);
        visit(self.escapes);
        visit(self.lengths);
        visit(self.settings);
    }
};

}  // namespace smartrag
