// tokens.hpp - text to words.
//
// A word is a maximal run of letters and numbers, after NFKD, case folding and the removal of
// combining marks: "Beyoncé's" gives "beyonce" and "s".  Ideographs and kana are words of one
// character (UAX #29).  Folding is context-free, one table lookup per code point (unicode_tables.py
// writes the tables and says what is left out), so the tokenizer needs neither a normaliser nor a
// locale.  ASCII bytes, nearly all of them in practice, take a 128-byte table and never reach the
// decoder.
//
//   text    UTF-8; a malformed byte ends a word
//   word    folded UTF-8 bytes, valid until the next word
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace smartrag {

namespace unicode {

#include "unicode_tables.inc"

enum Action : std::uint16_t { kBreak, kKeep, kDrop, kAlone, kReplace };

inline constexpr std::uint32_t kMalformed = 0xFFFFFFFF;

// Decodes the code point at `p` and moves `p` past it; a malformed byte is consumed alone.
inline std::uint32_t decode(const unsigned char*& p, const unsigned char* end) {
    const std::uint32_t lead = *p++;
    if (lead < 0x80) return lead;
    const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    if (lead < 0xC2 || lead > 0xF4 || end - p < more) return kMalformed;
    std::uint32_t code_point = lead & (0x3Fu >> more);
    for (int i = 0; i < more; ++i) {
        if ((p[i] & 0xC0u) != 0x80u) return kMalformed;
        code_point = code_point << 6 | (p[i] & 0x3Fu);
    }
    p += more;
    return code_point < 0x110000 ? code_point : kMalformed;
}

inline std::uint16_t action(std::uint32_t code_point) {
    return code_point == kMalformed ? std::uint16_t{kBreak}
                                    : kAction[kPage[code_point >> 8] * 256u + (code_point & 255u)];
}

}  // namespace unicode

// The folded byte of each ASCII character, 0 where it ends a word.
struct AsciiTable {
    unsigned char folded[128] = {};
    constexpr AsciiTable() {
        for (int c = '0'; c <= '9'; ++c) folded[c] = static_cast<unsigned char>(c);
        for (int c = 'a'; c <= 'z'; ++c) folded[c] = static_cast<unsigned char>(c);
        for (int c = 'A'; c <= 'Z'; ++c) folded[c] = static_cast<unsigned char>(c - 'A' + 'a');
    }
};
inline constexpr AsciiTable kAscii;

// Splits texts into words; keeps the buffer that the words are folded into.
class Tokenizer {
public:
    // Calls emit(std::string_view word) for each word of the text, in order.
    template <class Emit>
    void operator()(std::string_view text, Emit&& emit) {
        auto p = reinterpret_cast<const unsigned char*>(text.data());
        const unsigned char* const end = p + text.size();
        word_.clear();
        while (p < end) {
            if (*p >= 0x80) {
                fold(p, end, emit);
            } else if (const unsigned char c = kAscii.folded[*p++]) {
                word_.push_back(static_cast<char>(c));
            } else {
                flush(emit);
            }
        }
        flush(emit);
    }

private:
    template <class Emit>
    void flush(Emit& emit) {
        if (word_.empty()) return;
        emit(std::string_view(word_));
        word_.clear();
    }

    // One code point outside ASCII.
    template <class Emit>
    void fold(const unsigned char*& p, const unsigned char* end, Emit& emit) {
        const unsigned char* const start = p;
        const std::uint16_t action = unicode::action(unicode::decode(p, end));
        const auto keep = [&] {
            word_.append(reinterpret_cast<const char*>(start), static_cast<std::size_t>(p - start));
        };
        switch (action) {
            case unicode::kBreak: return flush(emit);
            case unicode::kKeep: return keep();
            case unicode::kDrop: return;
            case unicode::kAlone:
                flush(emit);
                keep();
                return flush(emit);
            default: break;
        }
        const std::uint32_t i = action - std::uint32_t{unicode::kReplace};
        for (std::uint32_t j = unicode::kReplacementOffset[i];
             j < unicode::kReplacementOffset[i + 1]; ++j) {
            if (unicode::kReplacement[j] == ' ') flush(emit);
            else word_.push_back(static_cast<char>(unicode::kReplacement[j]));
        }
    }

    std::string word_;
};

}  // namespace smartrag
