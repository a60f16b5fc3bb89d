// bm25_plain.hpp - BM25 as it is defined, and its search as one would first write it.  Read this
// first.
//
//   score(q, d) = sum over the distinct terms t of q:  count(t, q) * idf(t) * impact(t, d)
//   idf(t)      = log(1 + (N - df + .5) / (df + .5))            (Lucene's, never negative)
//   impact(t, d) = tf / (tf + norm(d))
//   norm(d)     = k1 * (1 - b + b * length(d) / mean length)
// Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009.  The
// factor k1 + 1 of the textbook, the same for all documents, is left out, as in Lucene and in
// bm25s.
//
// search_plainly() scores every posting of every term of the query, term after term, and keeps the
// k best documents.  It is the oracle of bm25.hpp, which finds the same documents with the same
// scores, to the bit, without scoring most of them: both add a document's terms in the order of the
// query.
//
//   N documents, df: how many of them have the term, tf: how often the document has it,
//   length(d): number of indexed words, k1: how soon repetition stops to count, b: how much length
//   does
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "topk.hpp"

namespace smartrag {

struct BM25Parameters {
    float k1 = 0.9f, b = 0.4f;  // Anserini's defaults
};

inline float idf(std::uint64_t documents, std::uint32_t df_) {
    const auto n = static_cast<double>(documents), df = static_cast<double>(df_);
    return static_cast<float>(std::log1p((n - df + 0.5) / (df + 0.5)));
}

inline float norm(const BM25Parameters& p, std::uint32_t length, double mean) {
    const double k1 = p.k1, b = p.b, relative = mean > 0 ? length / mean : 1.0;
    return static_cast<float>(k1 * (1.0 - b + b * relative));
}

inline float impact(std::uint32_t tf, float norm) {
    const auto f = static_cast<float>(tf);
    return f / (f + norm);
}

// A term of a query and how often it occurs there.
struct QueryTerm {
    std::uint32_t term;
    float count;
};

// Counts the terms of a query, in order of first appearance.
inline std::vector<QueryTerm> count_terms(const std::vector<std::uint32_t>& terms) {
    std::vector<std::uint32_t> order(terms.size());
    for (std::uint32_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](std::uint32_t a, std::uint32_t b) { return terms[a] < terms[b]; });
    std::vector<float> counts(
        terms.size());  // at the first appearance of each term, 0 at the others
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

// Adds to `top` the documents that share a term with the query.
template <class Index>
void search_plainly(const Index& index, const std::vector<QueryTerm>& query, TopK& top) {
    std::vector<float> scores(index.size());
    std::vector<bool> found(index.size());
    for (const QueryTerm& q : query) {
        index.for_each_posting(q.term, [&](std::uint32_t document, std::uint32_t tf) {
            scores[document] += q.count * index.idf(q.term) * impact(tf, index.norm(document));
            found[document] = true;
        });
    }
    for (std::uint32_t document = 0; document < index.size(); ++document) {
        if (found[document]) top.push(scores[document], document);
    }
}

}  // namespace smartrag
