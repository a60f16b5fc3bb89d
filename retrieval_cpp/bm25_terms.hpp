// bm25_terms.hpp - the terms of a query, each as the index keeps it, ready to be added up.
//
// A document's sum is the sum of its postings' shares, an upper bound of its score in 16-bit
// integers:
//   share(code) = code * scaled / 256 + 1  >=  weight * impact * scale
// Every rounding goes up, so that a document whose sum is below the threshold cannot enter the top
// k.
//
//   weight   count in query * idf
//   scale    units per score: sums of all terms of the query just fit in 16 bits
//   scaled   weight * scale * 256 / 255, rounded up
//   block    64 consecutive documents; window = 64 consecutive blocks
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "postings.hpp"

namespace smartrag {

inline constexpr std::uint32_t kWindow = kBlock * kBlocksPerBase;

inline std::uint16_t share_of(std::uint32_t code, std::uint16_t scaled) {
    return static_cast<std::uint16_t>((code * scaled >> 8) + 1);
}

struct DenseTerm {
    const std::uint8_t* codes;   // [padded N]
    const std::uint8_t* maxima;  // [padded blocks] the greatest code of each block
    std::uint16_t scaled;

    std::uint8_t code(std::uint32_t document) const { return codes[document]; }
};

struct CommonTerm {
    OpenList list;
    const std::uint8_t* maxima;  // [padded blocks]
    std::uint16_t scaled;

    void add_block(std::uint32_t block, std::uint16_t* sums) const {
        if (maxima[block] == 0) return;
        for (const OpenPosting* p = list.block(block);; ++p) {
            std::uint16_t& sum = sums[p->place()];
            sum = static_cast<std::uint16_t>(sum + share_of(p->code(), scaled));
            if (p->last()) return;
        }
    }
    std::uint8_t code(std::uint32_t document) const {
        if (maxima[document / kBlock] == 0) return 0;
        for (const OpenPosting* p = list.block(document / kBlock);; ++p) {
            if (p->place() == document % kBlock) return p->code();
            if (p->last()) return 0;
        }
    }
};

// Its list is decoded; `cursor` follows the blocks that are visited in ascending order.
struct RareTerm {
    std::vector<std::uint32_t> documents;  // [df + 1] kNoDocument at the end
    std::vector<std::uint8_t> codes;       // [df]
    std::uint32_t df = 0, cursor = 0;
    std::uint16_t scaled = 0;

    void decode(const PackedList& list, std::uint32_t df_) {
        df = df_;
        documents.resize(df + 1);
        codes.resize(df);
        list.decode_all(documents.data(), codes.data());
    }

    // The first posting at or after a document, by galloping from posting `from`.
    std::uint32_t seek(std::uint32_t from, std::uint32_t document) const {
        if (documents[from] >= document) return from;
        std::uint32_t step = 1;
        for (; from + step < df && documents[from + step] < document; step *= 2) from += step;
        const std::uint32_t end = std::min(from + step, df);
        return static_cast<std::uint32_t>(
            std::lower_bound(documents.data() + from + 1, documents.data() + end, document) -
            documents.data());
    }

    // Adds the documents of [first, last) to sums[document - first].
    void add(std::uint32_t first, std::uint32_t last, std::uint16_t* sums) {
        for (cursor = seek(cursor, first); documents[cursor] < last; ++cursor) {
            std::uint16_t& sum = sums[documents[cursor] - first];
            sum = static_cast<std::uint16_t>(sum + share_of(codes[cursor], scaled));
        }
    }
    void add_bounds(std::uint16_t* bounds) const {  // of all blocks
        for (std::uint32_t p = 0; p < df;) {
            const std::uint32_t block = documents[p] / kBlock;
            std::uint32_t greatest = 0;
            for (; documents[p] / kBlock == block; ++p)
                greatest = std::max<std::uint32_t>(greatest, codes[p]);
            bounds[block] = static_cast<std::uint16_t>(bounds[block] + share_of(greatest, scaled));
        }
    }
    std::uint8_t code(std::uint32_t document) {
        cursor = seek(cursor, document);
        return documents[cursor] == document ? codes[cursor] : std::uint8_t{0};
    }
};

}  // namespace smartrag
