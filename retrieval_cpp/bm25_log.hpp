// bm25_log.hpp - texts to a log of term frequencies: the first half of building an index.
//
// Texts come in rounds, a round is cut into batches of documents, and each thread turns a batch
// into a log of variable-length integers, about two bytes a posting.  Every thread numbers the
// words that it meets by itself (in order of appearance, so frequent ones are short), and nothing
// is shared while texts are read; number_terms() then gives every word its final term, numbered by
// first appearance in the whole collection, so that the index does not depend on the number of
// threads.  Stop words and stems come in there, once for each distinct word.
//
//   log    per document: number of distinct words, then for each: word * 2 + (tf > 1), and tf if >
//   1
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "parallel.hpp"
#include "tokens.hpp"
#include "vocabulary.hpp"

namespace smartrag {

// A term of a document and how often it occurs there.
struct Occurrences {
    std::uint32_t term, tf;
};

class TermLog {
public:
    // 16 threads at most: one thread of Python brings the texts, and every one has a vocabulary of
    // its own.
    explicit TermLog(std::size_t threads) : readers_(thread_count(threads, 16)) {}

    std::size_t threads() const { return readers_.size(); }
    std::size_t documents() const { return documents_; }

    // Appends documents; throws std::length_error when ids are exhausted.
    void add(const std::vector<std::string_view>& texts, const Check& check) {
        if (documents_ + texts.size() > kMostDocuments)
            throw std::length_error("more than 2^31 - 2 passages");
        const std::size_t before = batches_.size();
        batches_.resize(before + (texts.size() + kBatch - 1) / kBatch);
        parallel_for(batches_.size() - before, threads(), check,
                     [&](std::size_t task, std::size_t thread) {
                         Reader& reader = readers_[thread];
                         const std::size_t begin = task * kBatch,
                                           end = std::min(begin + kBatch, texts.size());
                         reader.log.clear();
                         for (std::size_t i = begin; i < end; ++i)
                             reader.read(texts[i], static_cast<std::uint32_t>(documents_ + i));
                         batches_[before + task] = {static_cast<std::uint32_t>(documents_ + begin),
                                                    static_cast<std::uint32_t>(end - begin), thread,
                                                    reader.log};
                     });
        documents_ += texts.size();
    }

    // term_of(word) -> the word's term as a string, empty if it is not indexed.  Returns all terms.
    template <class TermOf>
    Vocabulary number_terms(TermOf&& term_of) {
        struct First {
            std::uint32_t document, word;
            std::size_t reader;
        };
        std::vector<First> order;
        terms_.resize(readers_.size());
        for (std::size_t r = 0; r < readers_.size(); ++r) {
            terms_[r].resize(readers_[r].uses.size());
            for (std::uint32_t w = 0; w < terms_[r].size(); ++w)
                order.push_back({readers_[r].uses[w].first, w, r});
        }
        // A document has one reader, whose words are numbered in order of appearance.
        std::sort(order.begin(), order.end(), [](const First& a, const First& b) {
            return a.document != b.document ? a.document < b.document : a.word < b.word;
        });
        Vocabulary words, terms;
        std::vector<std::uint32_t> term_of_word;
        for (const First& first : order) {
            const std::string_view word = readers_[first.reader].words.view().word(first.word);
            const std::uint32_t number = words.add(word);
            if (number == term_of_word.size()) {
                const std::string term = term_of(word);
                term_of_word.push_back(term.empty() ? kNoTerm : terms.add(term));
            }
            terms_[first.reader][first.word] = term_of_word[number];
        }
        term_count_ = terms.size();
        for (Reader& reader : readers_) reader = {};
        return terms;
    }

    // Calls visit(document, occurrences) for every document of one of `parts` equal parts, in
    // order.  With `last` the log is freed on the way.
    template <class Visit>
    void replay(std::size_t part, std::size_t parts, bool last, const Check& check, Visit&& visit) {
        std::vector<Occurrences> occurrences;
        std::vector<std::uint32_t> places(term_count_);  // of a term among them, if it is there
        const std::size_t end = batches_.size() * (part + 1) / parts;
        for (std::size_t b = batches_.size() * part / parts; b < end; ++b) {
            if (check) check();
            Batch& batch = batches_[b];
            const std::uint32_t* const terms = terms_[batch.reader].data();
            const std::uint8_t* p = batch.log.data();
            for (std::uint32_t i = 0; i < batch.documents; ++i) {
                occurrences.clear();
                for (std::uint32_t left = read(p); left != 0; --left) {
                    const std::uint32_t entry = read(p), tf = (entry & 1u) != 0 ? read(p) : 1,
                                        term = terms[entry >> 1];
                    if (term == kNoTerm) continue;
                    std::uint32_t& place = places[term];  // two words may have one stem
                    if (place < occurrences.size() && occurrences[place].term == term) {
                        occurrences[place].tf += tf;
                    } else {
                        place = static_cast<std::uint32_t>(occurrences.size());
                        occurrences.push_back({term, tf});
                    }
                }
                visit(batch.first + i, occurrences);
            }
            if (last) std::vector<std::uint8_t>().swap(batch.log);
        }
    }

private:
    static constexpr std::size_t kMostDocuments = 0x7FFFFFFE, kBatch = 512;

    struct Batch {
        std::uint32_t first, documents;
        std::size_t reader;
        std::vector<std::uint8_t> log;
    };

    // One thread's part of the work.
    struct alignas(64) Reader {
        struct Use {
            std::uint32_t first, last,
                place;  // first and last document with the word; its place in `distinct`
        };
        Tokenizer tokenizer;
        Vocabulary words;
        std::vector<Use> uses;              // of each word
        std::vector<Occurrences> distinct;  // words of the document
        std::vector<std::uint8_t> log;      // of the batch

        void read(std::string_view text, std::uint32_t document) {
            distinct.clear();
            tokenizer(text, [&](std::string_view word) {
                const std::uint32_t number = words.add(word);
                const auto place = static_cast<std::uint32_t>(distinct.size());
                if (number == uses.size()) {
                    uses.push_back({document, document, place});
                } else if (uses[number].last == document) {
                    ++distinct[uses[number].place].tf;
                    return;
                } else {
                    uses[number].last = document;
                    uses[number].place = place;
                }
                distinct.push_back({number, 1});
            });
            write(static_cast<std::uint32_t>(distinct.size()));
            for (const Occurrences& o : distinct) {
                write(o.term << 1 | (o.tf > 1));
                if (o.tf > 1) write(o.tf);
            }
        }
        void write(std::uint32_t value) {
            for (; value >= 0x80; value >>= 7)
                log.push_back(static_cast<std::uint8_t>(value | 0x80u));
            log.push_back(static_cast<std::uint8_t>(value));
        }
    };

    static std::uint32_t read(const std::uint8_t*& p) {
        std::uint32_t value = 0;
        for (int shift = 0;; shift += 7) {
            const std::uint32_t byte = *p++;
            value |= (byte & 0x7Fu) << shift;
            if (byte < 0x80) return value;
        }
    }

    std::vector<Reader> readers_;
    std::vector<Batch> batches_;
    std::vector<std::vector<std::uint32_t>> terms_;  // of each reader's words
    std::size_t documents_ = 0, term_count_ = 0;
};

}  // namespace smartrag
