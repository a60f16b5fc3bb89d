// postings.hpp - the two forms of a posting list: packed for rare terms, open for common ones.
//
// Packed: blocks of 128 postings.  Document numbers ascend, so only the gaps are kept, minus one,
// each block with as many bits as its largest gap needs (the binary packing of Lemire and Boytsov,
// "Decoding billions of integers per second through vectorization", 2015, in its plain layout: a
// value is one unaligned 64-bit load, a shift and a mask). A block's codes (impact.hpp) follow its
// gaps.
//
//   list    header[0] ... header[B - 1] | block 0 | ... | block B - 1            B = ceil(df / 128)
//   header  u32 first document | u32 offset of the block in the list * 32 + width
//   block   gaps [n - 1] of `width` bits, to whole bytes | codes u8 [n]       n = 128, or the rest
//
// Open: a posting is 16 bits, its code, its place among the 64 documents of its block, and a bit
// for the block's last; where each block begins is kept in 16 bits, counted from every 64th block,
// whose begin is kept in 32.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace smartrag {

inline constexpr std::uint32_t kPostingsPerBlock = 128;
inline constexpr std::uint32_t kNoDocument = 0xFFFFFFFF;
inline constexpr std::size_t kDecodeSlack = 8;  // bytes that a decoder may read beyond a list

inline std::uint32_t bit_width(std::uint32_t value) {
    return value == 0 ? 0 : 32 - static_cast<std::uint32_t>(__builtin_clz(value));
}

class PackedList {
public:
    PackedList() = default;
    PackedList(const std::uint8_t* list, std::uint32_t df) : list_(list), df_(df) {}

    std::uint32_t blocks() const { return (df_ + kPostingsPerBlock - 1) / kPostingsPerBlock; }
    std::uint32_t count(std::uint32_t block) const {
        return std::min(kPostingsPerBlock, df_ - block * kPostingsPerBlock);
    }
    std::uint32_t first(std::uint32_t block) const {
        return load<std::uint32_t>(list_ + 8 * std::size_t{block});
    }

    // Writes a block's documents and returns its codes.
    const std::uint8_t* decode(std::uint32_t block, std::uint32_t* documents) const {
        const std::uint32_t n = count(block);
        const std::uint32_t place = load<std::uint32_t>(list_ + 8 * std::size_t{block} + 4);
        const std::uint32_t width = place & 31u;
        const std::uint8_t* const bits = list_ + (place >> 5);
        const std::uint64_t mask = (std::uint64_t{1} << width) - 1;
        std::uint32_t document = first(block);
        documents[0] = document;
        for (std::uint32_t i = 1, bit = 0; i < n; ++i, bit += width) {
            document += 1 + static_cast<std::uint32_t>(
                                load<std::uint64_t>(bits + (bit >> 3)) >> (bit & 7u) & mask);
            documents[i] = document;
        }
        return bits + (std::size_t{n - 1} * width + 7) / 8;
    }

    // All documents, then kNoDocument, and all codes; room for df + 1 documents.
    void decode_all(std::uint32_t* documents, std::uint8_t* codes) const {
        for (std::uint32_t block = 0; block < blocks(); ++block) {
            std::memcpy(codes, decode(block, documents), count(block));
            documents += count(block);
            codes += count(block);
        }
        *documents = kNoDocument;
    }

    // The bits that the largest gap of a block needs.
    static std::uint32_t gap_width(const std::uint32_t* documents, std::uint32_t n) {
        std::uint32_t widest = 0;
        for (std::uint32_t i = 1; i < n; ++i) widest |= documents[i] - documents[i - 1] - 1;
        return bit_width(widest);
    }

    // How many bytes encode() will write.
    static std::uint64_t encoded_bytes(const std::uint32_t* documents, std::uint32_t df) {
        const PackedList shape(nullptr, df);
        std::uint64_t bytes = 0;
        for (std::uint32_t block = 0; block < shape.blocks(); ++block) {
            const std::uint64_t n = shape.count(block);
            const std::uint64_t width =
                gap_width(documents + std::size_t{block} * kPostingsPerBlock, shape.count(block));
            bytes += 8 + ((n - 1) * width + 7) / 8 + n;
        }
        return bytes;
    }

    // Writes the list of `df` postings at `out`.
    static void encode(const std::uint32_t* documents, const std::uint8_t* codes, std::uint32_t df,
                       std::uint8_t* out) {
        const PackedList shape(nullptr, df);
        std::uint8_t* block_out = out + 8 * std::size_t{shape.blocks()};
        for (std::uint32_t block = 0; block < shape.blocks(); ++block) {
            const std::uint32_t n = shape.count(block);
            const std::uint32_t* const d = documents + std::size_t{block} * kPostingsPerBlock;
            const std::uint32_t width = gap_width(d, n);
            const auto offset = static_cast<std::uint64_t>(block_out - out);
            if (offset >> 27 != 0 || width > 31) throw std::length_error("posting list too long");
            store(out + 8 * std::size_t{block}, d[0]);
            store(out + 8 * std::size_t{block} + 4,
                  static_cast<std::uint32_t>(offset << 5 | width));
            std::uint64_t pending = 0;
            std::uint32_t pending_bits = 0;
            for (std::uint32_t i = 1; i < n; ++i) {
                pending |= std::uint64_t{d[i] - d[i - 1] - 1} << pending_bits;
                for (pending_bits += width; pending_bits >= 8; pending_bits -= 8, pending >>= 8)
                    *block_out++ = static_cast<std::uint8_t>(pending);
            }
            if (pending_bits != 0) *block_out++ = static_cast<std::uint8_t>(pending);
            std::memcpy(block_out, codes + std::size_t{block} * kPostingsPerBlock, n);
            block_out += n;
        }
    }

private:
    template <class T>
    static T load(const std::uint8_t* p) {
        T value;
        std::memcpy(&value, p, sizeof value);
        return value;
    }
    static void store(std::uint8_t* p, std::uint32_t value) {
        std::memcpy(p, &value, sizeof value);
    }

    const std::uint8_t* list_ = nullptr;
    std::uint32_t df_ = 0;
};

inline constexpr std::uint32_t kBlock = 64;  // documents bounded together: one cache line of codes
inline constexpr std::uint32_t kBlocksPerBase = 64;

struct OpenPosting {
    std::uint16_t bits;
    static OpenPosting make(std::uint32_t document, std::uint8_t code) {
        return {static_cast<std::uint16_t>((document % kBlock) << 8 | code)};
    }
    void mark_last() { bits = static_cast<std::uint16_t>(bits | 0x8000u); }
    bool last() const { return bits >= 0x8000u; }
    std::uint32_t place() const { return bits >> 8 & (kBlock - 1); }
    std::uint8_t code() const { return static_cast<std::uint8_t>(bits); }
};

class OpenList {
public:
    OpenList() = default;
    OpenList(const OpenPosting* postings, const std::uint32_t* bases, const std::uint16_t* starts)
        : postings_(postings), bases_(bases), starts_(starts) {}

    // The first posting of a block, and of a window of 64 blocks, that has some.
    const OpenPosting* block(std::size_t block) const {
        return window(block / kBlocksPerBase) + starts_[block];
    }
    const OpenPosting* window(std::size_t window) const { return postings_ + bases_[window]; }

private:
    const OpenPosting* postings_ = nullptr;
    const std::uint32_t* bases_ = nullptr;
    const std::uint16_t* starts_ = nullptr;
};

}  // namespace smartrag
