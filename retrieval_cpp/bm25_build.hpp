// bm25_build.hpp - the log of a collection, inverted: the second half of building an index.
//
// A first replay of the log (bm25_log.hpp) counts df and lengths, then every posting's final place
// is known: a dense row, or the term's range of a flat array, where each thread, which replays a
// part of the documents, has a range of its own.  A second replay puts them there and frees the log
// behind it; the flat ranges are then packed list by list. Memory-based inversion: Witten, Moffat
// and Bell, "Managing Gigabytes", section 5.2.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bm25_index.hpp"
#include "bm25_log.hpp"
#include "parallel.hpp"

namespace smartrag {

class BM25Builder {
public:
    BM25Builder(BM25Parameters parameters, TermLog log, Vocabulary vocabulary, std::string settings,
                Check check)
        : log_(std::move(log)),
          check_(std::move(check)),
          threads_(log_.threads()),
          parts_(threads_) {
        arrays_->vocabulary = std::move(vocabulary);
        arrays_->settings = std::move(settings);
        arrays_->lengths.resize(log_.documents());
        arrays_->terms.resize(arrays_->vocabulary.size());
        index().meta.parameters = parameters;
        index().vocabulary = arrays_->vocabulary.view();
        index().terms = arrays_->terms;
        index().lengths = arrays_->lengths;
        index().settings = {arrays_->settings.data(), arrays_->settings.size()};
    }

    BM25Index finish() {
        count();
        plan();
        invert();
        pack();
        BM25Index result = index();
        result.owner = std::move(arrays_);
        return result;
    }

private:
    struct Part {  // of the documents
        std::vector<std::uint32_t>
            next;  // [V] df in this part; later where in its range a term's next posting goes
        std::vector<BM25Index::Escape> escapes;
    };
    struct Arrays {  // what the finished index points into
        BM25Index index;
        Vocabulary vocabulary;
        std::vector<BM25Index::Term> terms;
        std::vector<std::uint8_t> packed;
        std::vector<OpenPosting> open;
        std::vector<std::uint32_t> bases;
        std::vector<std::uint16_t> starts;
        std::vector<std::uint8_t> codes, maxima;
        std::vector<BM25Index::Escape> escapes;
        std::vector<std::uint32_t> lengths;
        std::string settings;
    };

    BM25Index& index() { return arrays_->index; }

    void count() {
        parallel_for(parts_.size(), threads_, check_, [&](std::size_t p, std::size_t) {
            std::vector<std::uint32_t>& df = parts_[p].next;
            df.resize(arrays_->terms.size());
            log_.replay(p, parts_.size(), false, check_,
                        [&](std::uint32_t document, const std::vector<Occurrences>& all) {
                            for (const Occurrences& o : all) {
                                ++df[o.term];
                                arrays_->lengths[document] += o.tf;
                            }
                        });
        });
        double total = 0;
        for (const std::uint32_t length : arrays_->lengths) total += length;
        index().meta.mean_length =
            arrays_->lengths.empty() ? 0 : total / static_cast<double>(arrays_->lengths.size());
    }

    // Decides how each term is kept, and gives every list a range of the flat arrays and every part
    // a range of that.
    void plan() {
        Arrays& arrays = *arrays_;
        const std::uint64_t n = arrays.lengths.size();
        for (std::size_t t = 0; t < arrays.terms.size(); ++t) {
            for (Part& part : parts_)
                arrays.terms[t].df += std::exchange(part.next[t], arrays.terms[t].df);
        }
        std::uint32_t rows = 0;
        std::uint64_t flat = 0;
        flat_.resize(arrays.terms.size());
        for (const bool dense : {true, false}) {  // dense terms take the first rows
            for (BM25Index::Term& term : arrays.terms) {
                const std::uint64_t df = term.df;
                if ((df * kDenseShare > n) != dense) continue;
                if (df * kCommonShare >= n) term.row = rows++;
                if (dense) continue;
                flat_[&term - arrays.terms.data()] = flat;
                flat += df;
            }
            if (dense) index().meta.dense_rows = rows;
        }
        arrays.codes.resize(index().meta.dense_rows * index().padded_size());
        const std::size_t blocks = index().padded_blocks(), common = rows - index().meta.dense_rows;
        arrays.bases.resize(common * (blocks / kBlocksPerBase));
        arrays.starts.resize(common * blocks);
        arrays.maxima.resize(rows * blocks);
        flat_documents_.resize(flat);
        flat_codes_.resize(flat);
    }

    void invert() {
        Arrays& arrays = *arrays_;
        parallel_for(parts_.size(), threads_, check_, [&](std::size_t p, std::size_t) {
            Part& part = parts_[p];
            log_.replay(
                p, parts_.size(), true, check_,
                [&](std::uint32_t document, const std::vector<Occurrences>& all) {
                    const float norm = index().norm(document);
                    const std::uint8_t code_of_one = code_of_tf(1, norm);
                    for (const Occurrences& o : all) {
                        const std::uint8_t code = o.tf == 1 ? code_of_one : code_of_tf(o.tf, norm);
                        if (code == kEscape) part.escapes.push_back({o.term, document, o.tf});
                        const BM25Index::Term& term = arrays.terms[o.term];
                        if (index().is_dense(term)) {
                            arrays.codes[term.row * index().padded_size() + document] = code;
                        } else {
                            const std::uint64_t place = flat_[o.term] + part.next[o.term]++;
                            flat_documents_[place] = document;
                            flat_codes_[place] = code;
                        }
                    }
                });
        });
        for (const Part& part : parts_)
            arrays.escapes.insert(arrays.escapes.end(), part.escapes.begin(), part.escapes.end());
        std::sort(arrays.escapes.begin(), arrays.escapes.end(), [](const auto& a, const auto& b) {
            return a.term != b.term ? a.term < b.term : a.document < b.document;
        });
        parts_ = {};
    }

    void pack() {
        Arrays& arrays = *arrays_;
        each_term([&](BM25Index::Term& term, const std::uint32_t* documents, const std::uint8_t*) {
            if (!index().has_row(term)) term.place = PackedList::encoded_bytes(documents, term.df);
        });
        std::uint64_t packed = 0, open = 0;
        for (BM25Index::Term& term : arrays.terms) {
            if (!index().has_row(term)) packed += std::exchange(term.place, packed);
            else if (!index().is_dense(term)) term.place = std::exchange(open, open + term.df);
        }
        arrays.packed.resize(packed + kDecodeSlack);
        arrays.open.resize(open);
        each_term([&](BM25Index::Term& term, const std::uint32_t* documents,
                      const std::uint8_t* codes) {
            if (index().is_dense(term)) bound_dense(term);
            else if (index().has_row(term)) open_list(term, documents, codes);
            else PackedList::encode(documents, codes, term.df, arrays.packed.data() + term.place);
        });
        index().packed = arrays.packed;
        index().open = arrays.open;
        index().bases = arrays.bases;
        index().starts = arrays.starts;
        index().codes = arrays.codes;
        index().maxima = arrays.maxima;
        index().escapes = arrays.escapes;
    }

    // Calls work(term, documents, codes) for every term, on all threads; dense terms have no
    // documents here.
    template <class Work>
    void each_term(Work&& work) {
        constexpr std::size_t kTogether = 16;
        std::vector<BM25Index::Term>& terms = arrays_->terms;
        parallel_for((terms.size() + kTogether - 1) / kTogether, threads_, check_,
                     [&](std::size_t task, std::size_t) {
                         const std::size_t end = std::min(terms.size(), (task + 1) * kTogether);
                         for (std::size_t t = task * kTogether; t < end; ++t) {
                             work(terms[t], flat_documents_.data() + flat_[t],
                                  flat_codes_.data() + flat_[t]);
                         }
                     });
    }

    void bound_dense(const BM25Index::Term& term) {
        const std::uint8_t* const codes = arrays_->codes.data() + term.row * index().padded_size();
        for (std::uint32_t d = 0; d < index().size(); ++d) {
            if (codes[d] != 0) bound(term, d, codes[d]);
        }
    }

    void open_list(const BM25Index::Term& term, const std::uint32_t* documents,
                   const std::uint8_t* codes) {
        Arrays& arrays = *arrays_;
        const std::size_t blocks = index().padded_blocks(),
                          row = term.row - index().meta.dense_rows;
        std::size_t next = 0;  // the block whose start is to be set next
        for (std::uint32_t i = 0; i < term.df; ++i) {
            bound(term, documents[i], codes[i]);
            for (; next <= documents[i] / kBlock; ++next) {
                std::uint32_t& base = arrays.bases[(row * blocks + next) / kBlocksPerBase];
                if (next % kBlocksPerBase == 0) base = i;
                arrays.starts[row * blocks + next] = static_cast<std::uint16_t>(i - base);
            }
            OpenPosting& posting = arrays.open[term.place + i] =
                OpenPosting::make(documents[i], codes[i]);
            if (i + 1 == term.df || documents[i + 1] / kBlock != documents[i] / kBlock)
                posting.mark_last();
        }
    }

    // Adds a posting to its block's bounds.
    void bound(const BM25Index::Term& term, std::uint32_t document, std::uint8_t code) {
        const std::size_t at = term.row * index().padded_blocks() + document / kBlock;
        arrays_->maxima[at] = std::max(arrays_->maxima[at], code);
    }

    std::unique_ptr<Arrays> arrays_ = std::make_unique<Arrays>();
    TermLog log_;
    Check check_;
    std::size_t threads_;
    std::vector<Part> parts_;
    std::vector<std::uint64_t>
        flat_;  // [V] where a term's range of the flat arrays begins; 0 for dense terms
    std::vector<std::uint32_t> flat_documents_;
    std::vector<std::uint8_t> flat_codes_;
};

}  // namespace smartrag
