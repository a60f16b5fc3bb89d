// bm25_build.hpp - texts to a BM25 index, in one pass over the text and one over memory.
//
// add() turns a document into its distinct terms with their frequencies and appends them to a log of variable-length
// integers, about two bytes a posting (terms are numbered in order of appearance, so frequent ones are short).
// finish() knows df and the mean length, and replays the log to invert it: each posting goes straight to its final
// place, a dense row or a flat array with one range per term, which is then packed list by list.  The log is freed
// while it is replayed.  Memory-based inversion: Witten, Moffat and Bell, "Managing Gigabytes", section 5.2.
//
//   log    per document: number of distinct terms, then for each: term * 2 + (tf > 1), and tf where it is > 1
#pragma once

#include <cstdint>
#include <cstdlib>
#include <deque>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "bm25_index.hpp"
#include "tokens.hpp"

namespace smartrag {

// A byte array that grows by realloc: large ones are remapped, never copied, so their peak is their size.
class ByteArray {
public:
    std::uint8_t* reserve(std::size_t more) {
        if (size_ + more > capacity_) {
            capacity_ = std::max(size_ + more, capacity_ + capacity_ / 4);
            void* const grown = std::realloc(data_.get(), capacity_);
            if (grown == nullptr) throw std::bad_alloc();
            static_cast<void>(data_.release());
            data_.reset(static_cast<std::uint8_t*>(grown));
        }
        return data_.get() + size_;
    }
    void commit(const std::uint8_t* end) { size_ = static_cast<std::size_t>(end - data_.get()); }
    std::size_t size() const { return size_; }
    View<std::uint8_t> view() const { return {data_.get(), size_}; }

private:
    struct Free {
        void operator()(std::uint8_t* p) const { std::free(p); }
    };
    std::unique_ptr<std::uint8_t, Free> data_;
    std::size_t size_ = 0, capacity_ = 0;
};

// Variable-length integers, seven bits a byte, in chunks that are freed as they are read.
class IntegerLog {
public:
    void write(std::uint32_t value) {
        if (chunks_.empty() || chunks_.back().size() + 5 > kChunk) {
            chunks_.emplace_back();
            chunks_.back().reserve(kChunk);
        }
        for (; value >= 0x80; value >>= 7) chunks_.back().push_back(static_cast<std::uint8_t>(value | 0x80u));
        chunks_.back().push_back(static_cast<std::uint8_t>(value));
    }

    std::uint32_t read() {
        if (position_ == chunks_.front().size()) {
            chunks_.pop_front();
            position_ = 0;
        }
        const std::uint8_t* const chunk = chunks_.front().data();
        std::uint32_t value = 0;
        for (int shift = 0;; shift += 7) {
            const std::uint32_t byte = chunk[position_++];
            value |= (byte & 0x7Fu) << shift;
            if (byte < 0x80) return value;
        }
    }

private:
    static constexpr std::size_t kChunk = 1 << 20;
    std::deque<std::vector<std::uint8_t>> chunks_;
    std::size_t position_ = 0;
};

class BM25Builder {
public:
    explicit BM25Builder(BM25Parameters parameters) { made_->index.meta.parameters = parameters; }

    Vocabulary& vocabulary() { return made_->vocabulary; }

    // Adds a document; term_of(word) gives its number in vocabulary(), or kNoTerm for a word that is not indexed.
    template <class TermOf>
    void add(std::string_view text, TermOf&& term_of) {
        if (made_->lengths.size() >= kMostDocuments) throw std::length_error("more than 2^31 - 2 passages");
        const auto document = static_cast<std::uint32_t>(made_->lengths.size());
        std::uint32_t length = 0;
        distinct_.clear();
        tokenizer_(text, [&](std::string_view word) {
            const std::uint32_t term = term_of(word);
            if (term == kNoTerm) return;
            if (term >= seen_.size()) seen_.resize(term + term / 2 + 1024);
            ++length;
            Seen& seen = seen_[term];
            if (seen.last == document && seen.df != 0) {
                ++distinct_[seen.place].tf;
            } else {
                seen.last = document;
                ++seen.df;
                seen.place = static_cast<std::uint32_t>(distinct_.size());
                distinct_.push_back({term, 1});
            }
        });
        made_->lengths.push_back(length);
        log_.write(static_cast<std::uint32_t>(distinct_.size()));
        for (const Occurrences& o : distinct_) {
            log_.write(o.term << 1 | (o.tf > 1));
            if (o.tf > 1) log_.write(o.tf);
        }
    }

    BM25Index finish(std::string settings) {
        Made& made = *made_;
        BM25Index& index = made.index;
        made.settings = std::move(settings);
        seen_.resize(made.vocabulary.size());
        index.vocabulary = made.vocabulary.view();
        index.lengths = made.lengths;
        index.settings = {made.settings.data(), made.settings.size()};
        double total = 0;
        for (const std::uint32_t length : made.lengths) total += length;
        index.meta.mean_length = made.lengths.empty() ? 0 : total / static_cast<double>(made.lengths.size());
        plan();
        invert();
        pack();
        std::sort(made.escapes.begin(), made.escapes.end(), [](const auto& a, const auto& b) {
            return a.term != b.term ? a.term < b.term : a.document < b.document;
        });
        index.escapes = made.escapes;
        BM25Index result = index;
        result.owner = std::move(made_);
        return result;
    }

private:
    static constexpr std::size_t kMostDocuments = 0x7FFFFFFE;
    struct Occurrences {
        std::uint32_t term, tf;
    };
    struct Seen {  // of a term: the last document with it, its place in `distinct_`, and df so far
        std::uint32_t last = 0, place = 0, df = 0;
    };
    struct Made {  // what the finished index points into
        BM25Index index;
        Vocabulary vocabulary;
        std::vector<BM25Index::Term> terms;
        ByteArray packed;
        std::vector<OpenPosting> open;
        std::vector<std::uint32_t> bases;
        std::vector<std::uint16_t> starts;
        std::vector<std::uint8_t> codes, maxima;
        std::vector<Summary> summaries;
        std::vector<BM25Index::Escape> escapes;
        std::vector<std::uint32_t> lengths;
        std::string settings;
    };

    // Decides how each term is kept, and gives every list a range of the flat arrays.
    void plan() {
        Made& made = *made_;
        const std::uint64_t n = made.lengths.size();
        made.terms.resize(seen_.size());
        std::uint32_t rows = 0;
        std::uint64_t flat = 0, open = 0;
        for (const bool dense : {true, false}) {  // dense terms take the first rows
            for (std::size_t t = 0; t < seen_.size(); ++t) {
                const std::uint64_t df = seen_[t].df;
                if ((df * kDenseShare > n) != dense) continue;
                made.terms[t].df = seen_[t].df;
                if (df * kCommonShare >= n) made.terms[t].row = rows++;
                if (dense) continue;
                made.terms[t].place = flat;
                flat += df;
                if (made.index.has_row(made.terms[t])) open += df;
            }
            if (dense) made.index.meta.dense_rows = rows;
        }
        seen_ = {};
        made.index.terms = made.terms;
        made.codes.resize(made.index.meta.dense_rows * made.index.padded_size());
        made.index.codes = made.codes;
        const std::size_t blocks = made.index.padded_blocks(), common = rows - made.index.meta.dense_rows;
        made.open.reserve(open);
        made.bases.resize(common * (blocks / kBlocksPerBase));
        made.starts.resize(common * blocks);
        made.maxima.resize(rows * blocks);
        made.index.maxima = made.maxima;
        made.summaries.resize(rows * blocks);
        made.index.summaries = made.summaries;
        flat_documents_.resize(flat);
        flat_codes_.resize(flat);
    }

    // Replays the log; `place` of each list moves from its begin to its end.
    void invert() {
        Made& made = *made_;
        for (std::uint32_t document = 0; document < made.lengths.size(); ++document) {
            const float norm = made.index.norm(document);
            const std::uint8_t code_of_one = code_of_tf(1, norm);
            for (std::uint32_t left = log_.read(); left != 0; --left) {
                const std::uint32_t entry = log_.read(), term = entry >> 1;
                const std::uint32_t tf = (entry & 1u) ? log_.read() : 1;
                const std::uint8_t code = tf == 1 ? code_of_one : code_of_tf(tf, norm);
                if (code == kEscape) made.escapes.push_back({term, document, tf});
                BM25Index::Term& t = made.terms[term];
                if (made.index.is_dense(t)) {
                    made.codes[t.row * made.index.padded_size() + document] = code;
                } else {
                    flat_documents_[t.place] = document;
                    flat_codes_[t.place++] = code;
                }
            }
        }
        log_ = {};
    }

    void pack() {
        Made& made = *made_;
        for (BM25Index::Term& term : made.terms) {
            if (made.index.is_dense(term)) continue;
            const std::uint32_t* const documents = flat_documents_.data() + (term.place - term.df);
            const std::uint8_t* const codes = flat_codes_.data() + (term.place - term.df);
            if (made.index.has_row(term)) {
                open_list(term, documents, codes);
            } else {
                std::uint8_t* const out = made.packed.reserve(PackedList::bytes_bound(term.df));
                term.place = made.packed.size();
                made.packed.commit(PackedList::encode(documents, codes, term.df, out));
            }
        }
        std::uint8_t* const slack = made.packed.reserve(kDecodeSlack);
        std::fill_n(slack, kDecodeSlack, std::uint8_t{0});
        made.packed.commit(slack + kDecodeSlack);
        made.index.packed = made.packed.view();
        made.index.open = made.open;
        made.index.bases = made.bases;
        made.index.starts = made.starts;
        flat_documents_ = {};
        flat_codes_ = {};
        for (const BM25Index::Term& term : made.terms) {
            if (!made.index.is_dense(term)) continue;
            const std::uint8_t* const codes = made.index.dense_codes(term);
            for (std::uint32_t d = 0; d < made.lengths.size(); ++d) {
                if (codes[d] != 0) bound(term, d, codes[d]);
            }
        }
    }

    void open_list(BM25Index::Term& term, const std::uint32_t* documents, const std::uint8_t* codes) {
        Made& made = *made_;
        const std::size_t blocks = made.index.padded_blocks(), row = term.row - made.index.meta.dense_rows;
        term.place = made.open.size();
        std::size_t next = 0;  // the block whose start is to be set next
        for (std::uint32_t i = 0; i < term.df; ++i) {
            bound(term, documents[i], codes[i]);
            for (; next <= documents[i] / kBlock; ++next) {
                std::uint32_t& base = made.bases[(row * blocks + next) / kBlocksPerBase];
                if (next % kBlocksPerBase == 0) base = i;
                made.starts[row * blocks + next] = static_cast<std::uint16_t>(i - base);
            }
            made.open.push_back(OpenPosting::make(documents[i], codes[i]));
            if (i + 1 == term.df || documents[i + 1] / kBlock != documents[i] / kBlock) made.open.back().mark_last();
        }
    }

    // Adds a posting to its block's bounds.
    void bound(const BM25Index::Term& term, std::uint32_t document, std::uint8_t code) {
        const std::size_t at = term.row * made_->index.padded_blocks() + document / kBlock;
        made_->maxima[at] = std::max(made_->maxima[at], code);
        made_->summaries[at] = summarise(made_->summaries[at], document, code);
    }

    std::unique_ptr<Made> made_ = std::make_unique<Made>();
    Tokenizer tokenizer_;
    std::vector<Occurrences> distinct_;
    std::vector<Seen> seen_;
    IntegerLog log_;
    std::vector<std::uint32_t> flat_documents_;
    std::vector<std::uint8_t> flat_codes_;
};

}  // namespace smartrag
