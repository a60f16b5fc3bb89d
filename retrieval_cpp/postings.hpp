// postings.hpp - compressed posting lists: bit-packed blocks of 128.
//
// Document numbers ascend, so only the gaps are kept, minus one, each block with as many bits as its largest gap needs
// (the binary packing of Lemire and Boytsov, "Decoding billions of integers per second through vectorization", 2015,
// in its plain layout: a value is one unaligned 64-bit load, a shift and a mask).  A block's codes (impact.hpp) follow
// its gaps, so that decoding touches one place in memory.
//
//   list    header[0] ... header[B - 1] | block 0 | ... | block B - 1            B = ceil(df / 128)
//   header  u32 first document | u32 offset of the block in the list * 32 + width
//   block   gaps [n - 1] of `width` bits, to whole bytes | codes u8 [n]           n = 128, or what is left
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

namespace smartrag {

inline constexpr std::uint32_t kPostingsPerBlock = 128;
inline constexpr std::uint32_t kNoDocument = 0xFFFFFFFF;
inline constexpr std::size_t kDecodeSlack = 8;  // bytes that a decoder may read beyond a list

inline std::uint32_t bit_width(std::uint32_t value) {
    return value == 0 ? 0 : 32 - static_cast<std::uint32_t>(__builtin_clz(value));
}

class PostingList {
public:
    PostingList() = default;
    PostingList(const std::uint8_t* list, std::uint32_t df) : list_(list), df_(df) {}

    std::uint32_t blocks() const { return (df_ + kPostingsPerBlock - 1) / kPostingsPerBlock; }
    std::uint32_t count(std::uint32_t block) const { return std::min(kPostingsPerBlock, df_ - block * kPostingsPerBlock); }
    std::uint32_t first(std::uint32_t block) const { return load<std::uint32_t>(list_ + 8 * std::size_t{block}); }

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
            document += 1 + static_cast<std::uint32_t>(load<std::uint64_t>(bits + (bit >> 3)) >> (bit & 7u) & mask);
            documents[i] = document;
        }
        return bits + (std::size_t{n - 1} * width + 7) / 8;
    }

    // The largest size that encode() can produce.
    static std::size_t bytes_bound(std::uint32_t df) { return df * 5ull + 8ull * (df / kPostingsPerBlock + 1); }

    // Writes the list of `df` postings at `out` and returns its end.
    static std::uint8_t* encode(const std::uint32_t* documents, const std::uint8_t* codes, std::uint32_t df, std::uint8_t* out) {
        const PostingList shape(nullptr, df);
        std::uint8_t* block_out = out + 8 * std::size_t{shape.blocks()};
        for (std::uint32_t block = 0; block < shape.blocks(); ++block) {
            const std::uint32_t n = shape.count(block);
            const std::uint32_t* const d = documents + std::size_t{block} * kPostingsPerBlock;
            std::uint32_t widest = 0;
            for (std::uint32_t i = 1; i < n; ++i) widest |= d[i] - d[i - 1] - 1;
            const std::uint32_t width = bit_width(widest);
            const auto offset = static_cast<std::uint64_t>(block_out - out);
            if (offset >> 27 != 0 || width > 31) throw std::length_error("posting list too long");
            store(out + 8 * std::size_t{block}, d[0]);
            store(out + 8 * std::size_t{block} + 4, static_cast<std::uint32_t>(offset << 5 | width));
            std::uint64_t pending = 0;
            std::uint32_t pending_bits = 0;
            for (std::uint32_t i = 1; i < n; ++i) {
                pending |= std::uint64_t{d[i] - d[i - 1] - 1} << pending_bits;
                for (pending_bits += width; pending_bits >= 8; pending_bits -= 8, pending >>= 8) *block_out++ = static_cast<std::uint8_t>(pending);
            }
            if (pending_bits != 0) *block_out++ = static_cast<std::uint8_t>(pending);
            std::memcpy(block_out, codes + std::size_t{block} * kPostingsPerBlock, n);
            block_out += n;
        }
        return block_out;
    }

private:
    template <class T>
    static T load(const std::uint8_t* p) {
        T value;
        std::memcpy(&value, p, sizeof value);
        return value;
    }
    static void store(std::uint8_t* p, std::uint32_t value) { std::memcpy(p, &value, sizeof value); }

    const std::uint8_t* list_ = nullptr;
    std::uint32_t df_ = 0;
};

// Walks a posting list forwards and lays out its codes document by document.
class PostingCursor {
public:
    // `eager` decodes the whole list at once: right for short lists, which are read in full to bound every block.
    void open(PostingList list, bool eager) {
        list_ = list;
        eager_ = eager;
        if (!eager) documents_.resize(kPostingsPerBlock + 1);
        else {
            documents_.resize(std::size_t{list.blocks()} * kPostingsPerBlock + 1);
            codes_.resize(documents_.size());
            count_ = 0;
            for (std::uint32_t block = 0; block < list.blocks(); ++block) {
                const std::uint8_t* const codes = list.decode(block, documents_.data() + count_);
                std::memcpy(codes_.data() + count_, codes, list.count(block));
                count_ += list.count(block);
            }
            documents_[count_] = kNoDocument;
            block_codes_ = codes_.data();
            next_block_ = list.blocks();
        }
        rewind();
    }

    void rewind() {
        position_ = 0;
        if (eager_) return;
        next_block_ = 0;
        refill();
    }

    // Writes the codes of the documents [begin, begin + 64) that occur to row[document - begin]; whether there are any.
    bool expand(std::uint32_t begin, std::uint8_t* row) {
        if (documents_[count_ - 1] < begin && next_block_ < list_.blocks() && list_.first(next_block_) <= begin) {
            while (next_block_ + 1 < list_.blocks() && list_.first(next_block_ + 1) <= begin) ++next_block_;
            refill();
        }
        while (documents_[position_] < begin) ++position_;
        bool any = false;
        for (;;) {
            for (; documents_[position_] - begin < 64; ++position_) {
                row[documents_[position_] - begin] = block_codes_[position_];
                any = true;
            }
            if (position_ < count_ || next_block_ == list_.blocks() || list_.first(next_block_) - begin >= 64) return any;
            refill();
        }
    }

    std::uint32_t size() const { return count_; }  // of an eager cursor: df
    const std::uint32_t* documents() const { return documents_.data(); }
    const std::uint8_t* codes() const { return block_codes_; }

private:
    void refill() {
        count_ = list_.count(next_block_);
        block_codes_ = list_.decode(next_block_++, documents_.data());
        documents_[count_] = kNoDocument;
        position_ = 0;
    }

    PostingList list_;
    bool eager_ = false;
    std::uint32_t next_block_ = 0, position_ = 0, count_ = 0;
    std::vector<std::uint32_t> documents_;  // what is decoded, then kNoDocument
    std::vector<std::uint8_t> codes_;
    const std::uint8_t* block_codes_ = nullptr;
};

}  // namespace smartrag
