// bm25.hpp - the BM25 index and exact top-k search.
//
//   score(q, d) = sum over the terms t of q:  idf(t) * tf / (tf + norm(d))
//   idf(t)      = log(1 + (N - df + .5) / (df + .5))            (Lucene's, never negative)
//   norm(d)     = k1 * (1 - b + b * length(d) / mean length)
// Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.  The factor k1 + 1 of the
// textbook, the same for all documents, is left out, as in Lucene and in bm25s.
//
//   N documents, V terms, P postings; a posting is (document, tf); df = postings of a term
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "file.hpp"
#include "tokens.hpp"
#include "topk.hpp"
#include "vocabulary.hpp"

namespace smartrag {

struct BM25Parameters {
    float k1 = 0.9f, b = 0.4f;
};

// The index as it lies in memory or in a mapped file.
struct BM25Index {
    struct Meta {
        BM25Parameters parameters;
        double mean_length = 0;
    };

    Meta meta;
    VocabularyView vocabulary;
    View<std::uint64_t> starts;        // [V + 1] postings of term t: [starts[t], starts[t + 1])
    View<std::uint32_t> documents;     // [P]
    View<std::uint32_t> frequencies;   // [P]
    View<std::uint32_t> lengths;       // [N]
    View<char> settings;               // stop words and stemmer, for the Python side
    std::shared_ptr<const void> owner; // what keeps the views alive

    std::size_t size() const { return lengths.size; }
    std::size_t nbytes() const {
        return vocabulary.slots.bytes() + vocabulary.ends.bytes() + vocabulary.bytes.bytes() + starts.bytes() +
               documents.bytes() + frequencies.bytes() + lengths.bytes();
    }
    float idf(std::uint32_t term) const {
        const double df = static_cast<double>(starts[term + 1] - starts[term]);
        return static_cast<float>(std::log1p((static_cast<double>(size()) - df + 0.5) / (df + 0.5)));
    }
    float norm(std::uint32_t document) const {
        const double relative = meta.mean_length > 0 ? lengths[document] / meta.mean_length : 1.0;
        return static_cast<float>(meta.parameters.k1 * (1.0 - meta.parameters.b + meta.parameters.b * relative));
    }

    void save(const std::string& path) const {
        FileWriter file;
        file.add(View<Meta>(&meta, 1));
        file.add(vocabulary.slots);
        file.add(vocabulary.ends);
        file.add(vocabulary.bytes);
        file.add(starts);
        file.add(documents);
        file.add(frequencies);
        file.add(lengths);
        file.add(settings);
        file.write(path, FileKind::kBM25);
    }

    static BM25Index load(const std::string& path) {
        MappedFile file(path, FileKind::kBM25);
        BM25Index index;
        const auto meta = file.next<Meta>();
        if (meta.size != 1) file.fail("has a section of the wrong size");
        index.meta = meta[0];
        index.vocabulary.slots = file.next<std::uint32_t>();
        index.vocabulary.ends = file.next<std::uint64_t>();
        index.vocabulary.bytes = file.next<char>();
        index.starts = file.next<std::uint64_t>();
        index.documents = file.next<std::uint32_t>();
        index.frequencies = file.next<std::uint32_t>();
        index.lengths = file.next<std::uint32_t>();
        index.settings = file.next<char>();
        index.owner = file.owner();
        return index;
    }
};

// Takes documents one by one; finish() inverts them.
class BM25Builder {
public:
    explicit BM25Builder(BM25Parameters parameters) : parameters_(parameters) {}

    // Adds a document given as its words' vocabulary numbers; kNoTerm for words that are not indexed.
    template <class TermOf>
    void add(std::string_view text, TermOf&& term_of) {
        words_.clear();
        tokenizer_(text, [&](std::string_view word) {
            const std::uint32_t term = term_of(word);
            if (term != kNoTerm) words_.push_back(term);
        });
        lengths_.push_back(static_cast<std::uint32_t>(words_.size()));
        std::sort(words_.begin(), words_.end());
        for (std::size_t i = 0, j; i < words_.size(); i = j) {
            for (j = i; j < words_.size() && words_[j] == words_[i]; ++j) {}
            postings_.push_back({words_[i], static_cast<std::uint32_t>(lengths_.size() - 1), static_cast<std::uint32_t>(j - i)});
        }
    }

    Vocabulary& vocabulary() { return vocabulary_; }

    BM25Index finish(std::string settings) {
        struct Storage {
            Vocabulary vocabulary;
            std::vector<std::uint64_t> starts;
            std::vector<std::uint32_t> documents, frequencies, lengths;
            std::string settings;
        };
        auto storage = std::make_shared<Storage>();
        storage->vocabulary = std::move(vocabulary_);
        storage->lengths = std::move(lengths_);
        storage->settings = std::move(settings);
        auto& starts = storage->starts;
        starts.assign(storage->vocabulary.size() + 1, 0);
        for (const Posting& p : postings_) ++starts[p.term + 1];
        for (std::size_t t = 1; t < starts.size(); ++t) starts[t] += starts[t - 1];
        storage->documents.resize(postings_.size());
        storage->frequencies.resize(postings_.size());
        std::vector<std::uint64_t> cursor(starts.begin(), starts.end() - 1);
        for (const Posting& p : postings_) {
            const std::uint64_t at = cursor[p.term]++;
            storage->documents[at] = p.document;
            storage->frequencies[at] = p.frequency;
        }
        postings_ = {};

        BM25Index index;
        index.meta.parameters = parameters_;
        double total = 0;
        for (const std::uint32_t length : storage->lengths) total += length;
        index.meta.mean_length = storage->lengths.empty() ? 0 : total / static_cast<double>(storage->lengths.size());
        index.vocabulary = storage->vocabulary.view();
        index.starts = starts;
        index.documents = storage->documents;
        index.frequencies = storage->frequencies;
        index.lengths = storage->lengths;
        index.settings = View<char>(storage->settings.data(), storage->settings.size());
        index.owner = storage;
        return index;
    }

private:
    struct Posting {
        std::uint32_t term, document, frequency;
    };
    BM25Parameters parameters_;
    Vocabulary vocabulary_;
    Tokenizer tokenizer_;
    std::vector<std::uint32_t> words_;
    std::vector<Posting> postings_;
    std::vector<std::uint32_t> lengths_;
};

// A term of a query and how often it occurs there.
struct QueryTerm {
    std::uint32_t term;
    float count;
};

// One thread's working memory; use one per thread.
class BM25Searcher {
public:
    explicit BM25Searcher(const BM25Index& index) : index_(index), scores_(index.size(), -1.0f) {}

    // Term at a time: every posting of every term is scored.
    void search(const std::vector<QueryTerm>& query, TopK& top) {
        for (const QueryTerm& q : query) {
            const float weight = q.count * index_.idf(q.term);
            for (std::uint64_t p = index_.starts[q.term]; p < index_.starts[q.term + 1]; ++p) {
                const std::uint32_t document = index_.documents[p];
                const auto tf = static_cast<float>(index_.frequencies[p]);
                if (scores_[document] < 0) {
                    scores_[document] = 0;
                    touched_.push_back(document);
                }
                scores_[document] += weight * (tf / (tf + index_.norm(document)));
            }
        }
        for (const std::uint32_t document : touched_) {
            top.push(scores_[document], document);
            scores_[document] = -1.0f;
        }
        touched_.clear();
    }

private:
    const BM25Index& index_;
    std::vector<float> scores_;  // -1 where no term of the query occurs
    std::vector<std::uint32_t> touched_;
};

}  // namespace smartrag
