// bm25_index.hpp - the BM25 index as it lies in memory and in its file.
//
// The formula is in bm25_plain.hpp.
//
// A term is kept in one of three ways, by its document frequency:
//   dense    df > N / 8      a code for every document
//   common   df >= N / 128   an open list
//   rare     the rest        a packed list
// Dense and common terms have a row of bounds: for every 64 documents, the greatest code.
//
//   N documents, V terms, block = 64 consecutive documents; code: impact.hpp, lists: postings.hpp
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bm25_plain.hpp"
#include "file.hpp"
#include "impact.hpp"
#include "postings.hpp"
#include "vocabulary.hpp"

namespace smartrag {

// From N / 8 on, N codes without gaps are added up faster than a list of 2 bytes a posting; from
// N / 128 on, a list has something in every second block, so that a row of bounds pays.
inline constexpr std::uint32_t kDenseShare = 8, kCommonShare = 128;
inline constexpr std::uint32_t kNoRow = 0xFFFFFFFF;

struct BM25Index {
    static constexpr FileKind kKind = FileKind::kBM25;
    struct Meta {
        BM25Parameters parameters;
        double mean_length = 0;
        std::uint64_t dense_rows = 0;
    };
    struct Term {
        std::uint64_t place = 0;  // of the list, in `packed` or `open`
        std::uint32_t df = 0;
        std::uint32_t row =
            kNoRow;  // of `maxima` and `summaries`; below dense_rows, of `codes` too
    };
    struct Escape {
        std::uint32_t term, document, tf;
    };

    Meta meta;
    VocabularyView vocabulary;
    View<Term> terms;                   // [V]
    View<std::uint8_t> packed;          // the lists of all rare terms
    View<OpenPosting> open;             // the lists of all common terms
    View<std::uint32_t> bases;          // [rows - dense rows, padded_blocks() / 64]
    View<std::uint16_t> starts;         // [rows - dense rows, padded_blocks()]
    View<std::uint8_t> codes;           // [dense rows, padded_size()]
    View<std::uint8_t> maxima;          // [rows, padded_blocks()]
    View<Escape> escapes;               // by term, then document
    View<std::uint32_t> lengths;        // [N]
    View<char> settings;                // stop words and stemmer, for the Python side
    std::shared_ptr<const void> owner;  // what keeps the views alive

    std::size_t size() const { return lengths.size; }
    std::size_t padded_blocks() const { return padded_blocks(size()); }
    std::size_t padded_size() const { return (size() + kBlock - 1) / kBlock * kBlock; }
    static std::size_t padded_blocks(
        std::size_t documents) {  // a multiple of 64, so that kernels have no tails
        return (documents + kBlock * 64 - 1) / (kBlock * 64) * 64;
    }

    bool is_dense(const Term& term) const { return term.row < meta.dense_rows; }
    bool has_row(const Term& term) const { return term.row != kNoRow; }
    const std::uint8_t* dense_codes(const Term& term) const {
        return codes.data + term.row * padded_size();
    }
    const std::uint8_t* block_maxima(const Term& term) const {
        return maxima.data + term.row * padded_blocks();
    }
    PackedList packed_list(const Term& term) const { return {packed.data + term.place, term.df}; }
    OpenList open_list(const Term& term) const {
        const std::size_t row = term.row - meta.dense_rows, blocks = padded_blocks();
        return {open.data + term.place, bases.data + row * (blocks / kBlocksPerBase),
                starts.data + row * blocks};
    }

    float idf(std::uint32_t term) const { return smartrag::idf(size(), terms[term].df); }
    float norm(std::uint32_t document) const {
        return smartrag::norm(meta.parameters, lengths[document], meta.mean_length);
    }

    // The exact frequency behind a code other than 0.
    std::uint32_t tf(std::uint32_t term, std::uint32_t document, std::uint8_t code) const {
        if (code != kEscape) return tf_of_code(code, norm(document));
        const Escape wanted{term, document, 0};
        return std::lower_bound(escapes.begin(), escapes.end(), wanted,
                                [](const Escape& a, const Escape& b) {
                                    return a.term != b.term ? a.term < b.term
                                                            : a.document < b.document;
                                })
            ->tf;
    }

    // Calls visit(document, tf) for every posting of a term, in the order of documents.
    template <class Visit>
    void for_each_posting(std::uint32_t term, Visit&& visit) const {
        const Term& entry = terms[term];
        const auto decoded = [&](std::uint32_t document, std::uint8_t code) {
            visit(document, tf(term, document, code));
        };
        if (is_dense(entry)) {
            for (std::uint32_t d = 0; d < size(); ++d) {
                if (dense_codes(entry)[d] != 0) decoded(d, dense_codes(entry)[d]);
            }
        } else if (has_row(entry)) {
            for (std::uint32_t block = 0; block < padded_blocks(); ++block) {
                if (block_maxima(entry)[block] == 0) continue;
                const OpenPosting* p = open_list(entry).block(block);
                do decoded(block * kBlock + p->place(), p->code());
                while (!(p++)->last());
            }
        } else {
            std::uint32_t documents[kPostingsPerBlock];
            const PackedList list = packed_list(entry);
            for (std::uint32_t block = 0; block < list.blocks(); ++block) {
                const std::uint8_t* const own = list.decode(block, documents);
                for (std::uint32_t i = 0; i < list.count(block); ++i) decoded(documents[i], own[i]);
            }
        }
    }

    // The frequency of a term in a document, 0 if it does not occur.
    std::uint32_t find(std::uint32_t term, std::uint32_t document) const {
        std::uint32_t found = 0;
        for_each_posting(term, [&](std::uint32_t d, std::uint32_t tf) {
            if (d == document) found = tf;
        });
        return found;
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
        visit(self.escapes);
        visit(self.lengths);
        visit(self.settings);
    }
};

}  // namespace smartrag
