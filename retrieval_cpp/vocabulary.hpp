// vocabulary.hpp - words to term numbers.
//
// Open addressing with linear probing, at most half full.  A slot holds the term's number and 32
// further bits of its word's hash, so that a probe for another word is rejected without a look at
// the words, which lie end to end in one byte array.  The three arrays are the saved form too: a
// loaded vocabulary is the mapped file, nothing is rebuilt.
//
//   V              number of distinct words
//   slots [2^b]    0, or (hash >> 32) << 32 | term number + 1
//   ends  [V + 1]  word t is bytes[ends[t], ends[t + 1])
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "file_format.hpp"

namespace smartrag {

inline constexpr std::uint32_t kNoTerm = 0xFFFFFFFF;

// Multiply and fold, eight bytes at a time.
inline std::uint64_t hash_word(std::string_view word) {
    const auto fold = [](std::uint64_t h) {
        h *= 0xD6E8FEB86659FD93u;
        return h ^ h >> 32;
    };
    std::uint64_t h = word.size() * 0x9E3779B97F4A7C15u;
    const char* p = word.data();
    std::size_t left = word.size();
    for (; left >= 8; left -= 8, p += 8) {
        std::uint64_t chunk;
        std::memcpy(&chunk, p, 8);
        h = fold(h ^ chunk);
    }
    std::uint64_t tail = 0;
    if (left >= 4) {  // two overlapping halves instead of a copy of variable size
        std::uint32_t low, high;
        std::memcpy(&low, p, 4);
        std::memcpy(&high, p + left - 4, 4);
        tail = std::uint64_t{high} << 32 | low;
    } else if (left != 0) {
        const auto byte = [&](std::size_t i) {
            return std::uint64_t{static_cast<unsigned char>(p[i])};
        };
        tail = byte(0) | byte(left / 2) << 8 | byte(left - 1) << 16;
    }
    return fold(fold(h ^ tail));
}

struct VocabularyView {
    View<std::uint64_t> slots;
    View<std::uint64_t> ends;
    View<char> bytes;

    std::size_t size() const { return ends.size - 1; }
    std::string_view word(std::uint32_t term) const {
        return {bytes.data + ends[term], static_cast<std::size_t>(ends[term + 1] - ends[term])};
    }
    // The slot that holds the word, or the empty one where it belongs.
    std::size_t slot(std::string_view word, std::uint64_t hash) const {
        const std::size_t mask = slots.size - 1;
        std::size_t i = hash & mask;
        for (; slots[i] != 0; i = (i + 1) & mask) {
            if (slots[i] >> 32 == hash >> 32 && this->word(term_at(i)) == word) break;
        }
        return i;
    }
    std::uint32_t term_at(std::size_t slot) const {
        return static_cast<std::uint32_t>(slots[slot]) - 1;
    }
    std::uint32_t find(std::string_view word) const { return term_at(slot(word, hash_word(word))); }
};
static_assert(kNoTerm == std::uint32_t(0) - 1, "an empty slot reads as kNoTerm");

class Vocabulary {
public:
    Vocabulary() = default;
    Vocabulary(Vocabulary&&) =
        default;  // the view points into the heap, so moving keeps it valid; copying would not
    Vocabulary& operator=(Vocabulary&&) = default;

    // The word's number; new words are numbered in order of appearance.
    std::uint32_t add(std::string_view word) {
        const std::uint64_t hash = hash_word(word);
        const std::size_t i = view_.slot(word, hash);
        if (slots_[i] != 0) return view_.term_at(i);
        const auto term = static_cast<std::uint32_t>(size());
        slots_[i] = hash >> 32 << 32 | (term + 1);
        bytes_.insert(bytes_.end(), word.begin(), word.end());
        ends_.push_back(bytes_.size());
        if (2 * size() > slots_.size()) grow();
        view_ = {slots_, ends_, bytes_};
        return term;
    }

    std::size_t size() const { return ends_.size() - 1; }
    const VocabularyView& view() const { return view_; }

private:
    void grow() {
        slots_.assign(2 * slots_.size(), 0);
        const VocabularyView words{slots_, ends_, bytes_};
        const std::size_t mask = slots_.size() - 1;
        for (std::uint32_t term = 0; term < size(); ++term) {
            const std::uint64_t hash = hash_word(words.word(term));
            std::size_t i = hash & mask;
            while (slots_[i] != 0) i = (i + 1) & mask;
            slots_[i] = hash >> 32 << 32 | (term + 1);
        }
    }

    std::vector<std::uint64_t> slots_ = std::vector<std::uint64_t>(16);
    std::vector<std::uint64_t> ends_ = {0};
    std::vector<char> bytes_;
    VocabularyView view_{slots_, ends_, bytes_};
};

}  // namespace smartrag
