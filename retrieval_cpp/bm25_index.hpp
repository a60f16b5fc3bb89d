// bm25_index.hpp - the BM25 index as it lies in memory and in its file.
//
//   score(q, d) = sum over the terms t of q:  idf(t) * tf / (tf + norm(d))
//   idf(t)      = log(1 + (N - df + .5) / (df + .5))            (Lucene's, never negative)
//   norm(d)     = k1 * (1 - b + b * length(d) / mean length)
// Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.  The factor k1 + 1 of the
// textbook, the same for all documents, is left out, as in Lucene and in bm25s.
//
// A term is kept in one of three ways, by its document frequency:
//   dense    df > N / 8      a code for every document                      codes  [dense rows, padded N]
//   common   df >= N / 128   a compressed list, and the greatest code
//                            of every 64 documents, as for dense terms      maxima [rows, padded N / 64]
//   rare     the rest        a compressed list                              postings
//
//   N documents, V terms, block = 64 consecutive documents; code: impact.hpp, lists: postings.hpp
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>

#include "file.hpp"
#include "impact.hpp"
#include "postings.hpp"
#include "vocabulary.hpp"

namespace smartrag {

inline constexpr std::uint32_t kBlock = 64;  // documents bounded together: one cache line of codes
inline constexpr std::uint32_t kDenseShare = 8, kCommonShare = 128;
inline constexpr std::uint32_t kNoRow = 0xFFFFFFFF;

struct BM25Parameters {
    float k1 = 0.9f, b = 0.4f;
};

struct BM25Index {
    struct Meta {
        BM25Parameters parameters;
        double mean_length = 0;
        std::uint64_t dense_rows = 0;
    };
    struct Term {
        std::uint64_t place = 0;  // of the list in `postings`
        std::uint32_t df = 0;
        std::uint32_t row = kNoRow;  // of `maxima`; below dense_rows, of `codes` too
    };
    struct Escape {
        std::uint32_t term, document, tf;
    };

    Meta meta;
    VocabularyView vocabulary;
    View<Term> terms;               // [V]
    View<std::uint8_t> postings;
    View<std::uint8_t> codes;       // [dense rows, padded_size()]
    View<std::uint8_t> maxima;      // [rows, padded_blocks()]
    View<Escape> escapes;           // by term, then document
    View<std::uint32_t> lengths;    // [N]
    View<char> settings;            // stop words and stemmer, for the Python side
    std::shared_ptr<const void> owner;  // what keeps the views alive

    std::size_t size() const { return lengths.size; }
    std::size_t padded_blocks() const { return padded_blocks(size()); }
    std::size_t padded_size() const { return padded_blocks() * kBlock; }
    static std::size_t padded_blocks(std::size_t documents) {  // a multiple of 64, so that kernels have no tails
        return (documents + kBlock * 64 - 1) / (kBlock * 64) * 64;
    }

    bool is_dense(const Term& term) const { return term.row < meta.dense_rows; }
    bool has_maxima(const Term& term) const { return term.row != kNoRow; }
    const std::uint8_t* dense_codes(const Term& term) const { return codes.data + term.row * padded_size(); }
    const std::uint8_t* block_maxima(const Term& term) const { return maxima.data + term.row * padded_blocks(); }
    PostingList list(const Term& term) const { return {postings.data + term.place, term.df}; }

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
        } else {
            const PostingList list = this->list(entry);
            std::uint32_t documents[kPostingsPerBlock];
            for (std::uint32_t block = 0; block < list.blocks() && list.first(block) <= document; ++block) {
                const std::uint8_t* const codes = list.decode(block, documents);
                const std::uint32_t* const end = documents + list.count(block);
                const std::uint32_t* const found = std::lower_bound(static_cast<const std::uint32_t*>(documents), end, document);
                if (found != end && *found == document) code = codes[found - documents];
            }
        }
        return code == 0 ? 0 : tf(term, document, code);
    }

    template <class Self, class Visit>
    static void each_section(Self& self, Visit&& visit) {
        visit(self.vocabulary.slots);
        visit(self.vocabulary.ends);
        visit(self.vocabulary.bytes);
        visit(self.terms);
        visit(self.postings);
        visit(self.codes);
        visit(self.maxima);
        visit(self.escapes);
        visit(self.lengths);
        visit(self.settings);
    }

    std::size_t nbytes() const {
        std::size_t total = sizeof meta;
        each_section(*this, [&](const auto& section) { total += section.bytes(); });
        return total;
    }

    void save(const std::string& path) const {
        FileWriter file;
        file.add(View<Meta>(&meta, 1));
        each_section(*this, [&](const auto& section) { file.add(section); });
        file.write(path, FileKind::kBM25);
    }

    static BM25Index load(const std::string& path) {
        MappedFile file(path, FileKind::kBM25);
        BM25Index index;
        View<Meta> meta;
        file.next(meta);
        if (meta.size != 1) file.fail("has a section of the wrong size");
        index.meta = meta[0];
        each_section(index, [&](auto& section) { file.next(section); });
        index.owner = file.owner();
        return index;
    }
};

}  // namespace smartrag
