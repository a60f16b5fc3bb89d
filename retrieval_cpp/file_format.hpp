// file_format.hpp - what an index file looks like.
//
// A 64-byte header, a table of sections, the sections, each aligned to 64 bytes and stored exactly
// as it lies in memory, and the header once more.  The end is written last: a file that was cut
// short, or whose end never arrived, is found without reading what lies between.  Every byte after
// the checksum field is covered by it, the bytes before it are constants that are compared one by
// one, so no single flipped bit passes.  The checksum is eight independent multiply-rotate lanes
// (each step a bijection of its lane: a change of one word always changes the sum) and runs near
// memory speed.
//
//   header = magic "SmartRAG" | byte order | version | checksum | file size | kind | sections
//   file   = header | section sizes ... | data ... | header
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace smartrag {

// A read-only array that lives in a vector or in a mapped file.
template <class T>
struct View {
    const T* data = nullptr;
    std::size_t size = 0;

    View() = default;
    View(const T* data_, std::size_t size_) : data(data_), size(size_) {}
    View(const std::vector<T>& v) : data(v.data()), size(v.size()) {}

    const T& operator[](std::size_t i) const { return data[i]; }
    const T* begin() const { return data; }
    const T* end() const { return data + size; }
    std::size_t bytes() const { return size * sizeof(T); }
};

struct FileError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class FileKind : std::uint32_t { kBM25 = 1, kDense = 2 };

struct FileHeader {
    static constexpr char kMagic[9] = "SmartRAG";
    static constexpr std::uint32_t kByteOrder = 0x01020304;
    static constexpr std::uint32_t kVersion = 3;
    static constexpr std::size_t kAlign = 64;

    char magic[8];
    std::uint32_t byte_order;
    std::uint32_t version;
    std::uint64_t checksum;
    std::uint64_t file_size;  // first field under the checksum
    std::uint32_t kind;
    std::uint32_t sections;
    std::uint64_t unused[3];
};
static_assert(sizeof(FileHeader) == FileHeader::kAlign, "the header is one aligned block");
inline constexpr std::size_t kChecksummedFrom = offsetof(FileHeader, file_size);

class Checksum {
public:
    void update_header(const FileHeader& header) {
        unsigned char covered[FileHeader::kAlign] = {};
        std::memcpy(covered, &header.file_size, sizeof header - kChecksummedFrom);
        update(covered, sizeof covered);
    }

    // All calls but the last must bring a multiple of 64 bytes.
    void update(const void* data, std::size_t bytes) {
        auto p = static_cast<const unsigned char*>(data);
        for (; bytes >= 64; bytes -= 64, p += 64) block(p);
        if (bytes != 0) {
            unsigned char tail[64] = {};
            std::memcpy(tail, p, bytes);
            block(tail);
        }
    }

    std::uint64_t value() const {
        std::uint64_t h = 0;
        for (const std::uint64_t lane : lanes_) h = mix(h, lane);
        return h;
    }

private:
    static std::uint64_t mix(std::uint64_t lane, std::uint64_t word) {
        lane = (lane ^ word) * 0x9E3779B97F4A7C15u;
        return lane << 29 | lane >> 35;
    }
    void block(const unsigned char* p) {
        std::uint64_t words[8];
        std::memcpy(words, p, sizeof words);
        for (int i = 0; i < 8; ++i) lanes_[i] = mix(lanes_[i], words[i]);
    }
    std::uint64_t lanes_[8] = {1, 2, 3, 4, 5, 6, 7, 8};
};

inline std::size_t align_up(std::size_t bytes) {
    return (bytes + FileHeader::kAlign - 1) / FileHeader::kAlign * FileHeader::kAlign;
}

[[noreturn]] inline void throw_errno(const std::string& what) {
    throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace smartrag
