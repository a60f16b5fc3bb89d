// vocabulary.hpp - words to term numbers.
//
// Open addressing with linear probing over 32-bit term numbers, at most half full; the words themselves lie end to end
// in one byte array.  The three arrays are the saved form too: a loaded vocabulary is the mapped file, nothing is
// rebuilt.
//
//   V              number of distinct words
//   slots [2^b]    term number + 1, or 0
//   ends  [V + 1]  word t is bytes[ends[t], ends[t + 1])
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "file.hpp"

namespace smartrag {

inline constexpr std::uint32_t kNoTerm = 0xFFFFFFFF;

inline std::uint64_t hash_word(std::string_view word) {
    std::uint64_t h = word.size() * 0x9E3779B97F4A7C15u;
    const char* p = word.data();
    std::size_t left = word.size();
    for (;; p += 8, left -= 8) {
        std::uint64_t chunk = 0;
        std::memcpy(&chunk, p, left < 8 ? left : 8);
        h = (h ^ chunk) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
        if (left <= 8) return h;
    }
}

struct VocabularyView {
    View<std::uint32_t> slots;
    View<std::uint64_t> ends;
    View<char> bytes;

    std::size_t size() const { return ends.size - 1; }
    std::string_view word(std::uint32_t term) const {
        return {bytes.data + ends[term], static_cast<std::size_t>(ends[term + 1] - ends[term])};
    }
    std::uint32_t find(std::string_view word) const {
        const std::size_t mask = slots.size - 1;
        for (std::size_t i = hash_word(word) & mask; slots[i] != 0; i = (i + 1) & mask) {
            if (this->word(slots[i] - 1) == word) return slots[i] - 1;
        }
        return kNoTerm;
    }
};

class Vocabulary {
public:
    // The word's number; new words are numbered in order of appearance.
    std::uint32_t add(std::string_view word) {
        const std::size_t mask = slots_.size() - 1;
        std::size_t i = hash_word(word) & mask;
        for (; slots_[i] != 0; i = (i + 1) & mask) {
            if (view().word(slots_[i] - 1) == word) return slots_[i] - 1;
        }
        const auto term = static_cast<std::uint32_t>(size());
        slots_[i] = term + 1;
        bytes_.insert(bytes_.end(), word.begin(), word.end());
        ends_.push_back(bytes_.size());
        if (2 * size() > slots_.size()) grow();
        return term;
    }

    std::size_t size() const { return ends_.size() - 1; }
    VocabularyView view() const { return {slots_, ends_, bytes_}; }

private:
    void grow() {
        slots_.assign(2 * slots_.size(), 0);
        const std::size_t mask = slots_.size() - 1;
        for (std::uint32_t term = 0; term < size(); ++term) {
            std::size_t i = hash_word(view().word(term)) & mask;
            while (slots_[i] != 0) i = (i + 1) & mask;
            slots_[i] = term + 1;
        }
    }

    std::vector<std::uint32_t> slots_ = std::vector<std::uint32_t>(1024);
    std::vector<std::uint64_t> ends_ = {0};
    std::vector<char> bytes_;
};

}  // namespace smartrag
