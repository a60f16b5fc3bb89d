// impact.hpp - one byte that bounds a posting's score from above and holds its exact frequency.
//
// A posting contributes idf * impact, impact = tf / (tf + norm(d)) < 1.  Its code, ceil(255 *
// impact):
//   - divided by 255, bounds the impact from above, within 0.4 %, for the price of one byte;
//   - with the document's norm, gives tf back exactly as long as neighbouring frequencies have
//     different codes: (tf + norm)^2 < 255 * norm, up to tf = 14 in a passage of mean length.
// Where they have not, the code is kEscape, and tf is kept in a short sorted list.  Impact-ordered
// and quantised indexes (Anh and Moffat, SIGIR 2002; Lin and Trotman, ICTIR 2015) give up exact
// scores for such bytes; here the byte only decides which documents are worth an exact score.
//
//   code 0        the term does not occur
//   code 1..254   see above
//   code 255      kEscape: impact <= 1, tf elsewhere
#pragma once

#include <cmath>
#include <cstdint>

#include "bm25_plain.hpp"

namespace smartrag {

inline constexpr std::uint8_t kEscape = 255;

// The largest tf whose code is at most `code`; the compiler must not contract this (setup.py:
// -ffp-contract=off).
inline std::uint32_t tf_of_code(std::uint8_t code, float norm) {
    const float tf = norm * static_cast<float>(code) / (255.0f - static_cast<float>(code)) + 1e-3f;
    return tf < 1e6f ? static_cast<std::uint32_t>(tf) : 0;
}

inline std::uint8_t code_of_tf(std::uint32_t tf, float norm) {
    const float level = std::ceil(255.0f * impact(tf, norm));
    if (!(level >= 1.0f && level <= 254.0f)) return kEscape;
    const auto code = static_cast<std::uint8_t>(level);
    return tf_of_code(code, norm) == tf ? code : kEscape;
}

}  // namespace smartrag
