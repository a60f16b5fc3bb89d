// file.hpp - index files are written atomically and mapped.
//
// Loading is mapping: pages are read when they are needed, and shared between processes.
//
// Left out on purpose: protection against a file forged with a matching checksum, and files that
// shrink or are overwritten in place while mapped: the next search then ends in SIGBUS.  save()
// renames, which is safe.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "file_format.hpp"

namespace smartrag {

// Collects sections and writes them; nothing appears under `path` before everything is on disk.
class FileWriter {
public:
    template <class T>
    void add(View<T> section) {
        sections_.push_back(
            {reinterpret_cast<const unsigned char*>(section.data), section.bytes()});
    }

    void write(const std::string& path, FileKind kind) const {
        FileHeader header{};
        std::memcpy(header.magic, FileHeader::kMagic, sizeof header.magic);
        header.byte_order = FileHeader::kByteOrder;
        header.version = FileHeader::kVersion;
        header.kind = static_cast<std::uint32_t>(kind);
        header.sections = static_cast<std::uint32_t>(sections_.size());

        std::vector<std::uint64_t> sizes;
        for (const Section& section : sections_) sizes.push_back(section.bytes);
        sizes.resize(align_up(sizes.size() * sizeof(std::uint64_t)) / sizeof(std::uint64_t));
        header.file_size = 2 * sizeof header + sizes.size() * sizeof(std::uint64_t);
        for (const Section& section : sections_) header.file_size += align_up(section.bytes);

        Checksum sum;
        sum.update_header(header);
        sum.update(sizes.data(), sizes.size() * sizeof(std::uint64_t));
        for (const Section& section : sections_) sum.update(section.data, section.bytes);
        header.checksum = sum.value();

        static std::atomic<unsigned> saves{
            0};  // so that two threads that save under one name do not share a file
        const std::string temporary =
            path + ".tmp." + std::to_string(::getpid()) + "." + std::to_string(saves++);
        std::FILE* const file = std::fopen(temporary.c_str(), "wb");
        if (file == nullptr) throw_errno("cannot write '" + temporary + "'");
        bool good = put(file, &header, sizeof header) &&
                    put(file, sizes.data(), sizes.size() * sizeof(std::uint64_t));
        for (const Section& section : sections_) {
            const unsigned char padding[FileHeader::kAlign] = {};
            good = good && put(file, section.data, section.bytes) &&
                   put(file, padding, align_up(section.bytes) - section.bytes);
        }
        good = good && put(file, &header, sizeof header) && std::fflush(file) == 0 &&
               ::fsync(::fileno(file)) == 0;
        good = (std::fclose(file) == 0) && good;
        if (!good || std::rename(temporary.c_str(), path.c_str()) != 0) {
            const int error = errno;
            std::remove(temporary.c_str());
            errno = error;
            throw_errno("cannot write '" + path + "'");
        }
        sync_directory(path);
    }

private:
    struct Section {
        const unsigned char* data;
        std::size_t bytes;
    };
    static bool put(std::FILE* file, const void* data, std::size_t bytes) {
        return bytes == 0 || std::fwrite(data, 1, bytes, file) == bytes;
    }
    // The new name must outlive a loss of power too; a system that cannot promise it is no reason
    // to fail.
    static void sync_directory(const std::string& path) {
        const std::size_t slash = path.find_last_of('/');
        const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
        const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (descriptor < 0) return;
        ::fsync(descriptor);
        ::close(descriptor);
    }
    std::vector<Section> sections_;
};

// Maps a file read-only and hands out its sections in the order in which they were added.
class MappedFile {
public:
    // `all`: reads every byte and compares the checksum; else only the ends and the table are
    // looked at.
    MappedFile(const std::string& path, FileKind kind, bool all) : path_(path) {
        const int descriptor =
            ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO must not wait
        if (descriptor < 0) throw_errno("cannot open '" + path + "'");
        struct stat status{};
        if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
            ::close(descriptor);
            fail("is not a regular file");
        }
        size_ = static_cast<std::size_t>(status.st_size);
        if (size_ < 2 * sizeof(FileHeader)) {
            ::close(descriptor);
            fail("is too short to be an index");
        }
        void* const base = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor, 0);
        ::close(descriptor);
        if (base == MAP_FAILED) throw_errno("cannot map '" + path + "'");
        base_ = std::shared_ptr<const unsigned char>(
            static_cast<const unsigned char*>(base), [size = size_](const unsigned char* p) {
                ::munmap(const_cast<unsigned char*>(p), size);
            });
        verify(kind, all);
    }

    // The next section, as an array of T.
    template <class T>
    void next(View<T>& view) {
        if (section_ >= header().sections) fail("lacks a section");
        const std::size_t bytes = section_size(section_++);
        if (bytes % sizeof(T) != 0) fail("has a section of the wrong size");
        view = View<T>(reinterpret_cast<const T*>(base_.get() + offset_), bytes / sizeof(T));
        offset_ += align_up(bytes);
    }

    std::shared_ptr<const void> owner() const { return base_; }
    std::size_t size() const { return size_; }
    [[noreturn]] void fail(const std::string& why) const {
        throw FileError("index file '" + path_ + "' " + why);
    }

private:
    const FileHeader& header() const { return *reinterpret_cast<const FileHeader*>(base_.get()); }
    std::size_t section_size(std::size_t i) const {
        return reinterpret_cast<const std::uint64_t*>(base_.get() + sizeof(FileHeader))[i];
    }

    void verify(FileKind kind, bool all) {
        const FileHeader& h = header();
        if (std::memcmp(h.magic, FileHeader::kMagic, sizeof h.magic) != 0)
            fail("is not a SmartRAG index");
        if (h.byte_order != FileHeader::kByteOrder)
            fail("was written on a machine of another byte order");
        if (h.version != FileHeader::kVersion)
            fail("has format version " + std::to_string(h.version) + ", this is version " +
                 std::to_string(FileHeader::kVersion));
        if (h.kind != static_cast<std::uint32_t>(kind)) fail("is an index of another kind");
        if (h.file_size != size_) fail("is truncated or torn");
        const std::size_t end = size_ - sizeof h;
        if (std::memcmp(base_.get() + end, &h, sizeof h) != 0) fail("is truncated or torn");
        std::size_t place = offset_ = sizeof h + align_up(h.sections * sizeof(std::uint64_t));
        for (std::size_t i = 0; i < h.sections && place <= end; ++i) {
            if (section_size(i) > end - place) fail("is damaged (section table)");
            place += align_up(section_size(i));
        }
        if (place != end) fail("is damaged (section table)");
        if (!all) return;
        Checksum sum;
        sum.update_header(h);
        sum.update(base_.get() + sizeof h, end - sizeof h);
        if (sum.value() != h.checksum) fail("is damaged (checksum mismatch)");
    }

    std::string path_;
    std::size_t size_ = 0;
    std::shared_ptr<const unsigned char> base_;
    std::size_t section_ = 0;
    std::size_t offset_ = 0;
};

// An index consists of a plain struct `meta`, the views that each_section(index, visit) visits in
// the order of the file, and an `owner` that keeps alive what the views show.

template <class Index>
std::size_t nbytes(const Index& index) {
    std::size_t total = sizeof index.meta;
    Index::each_section(index, [&](const auto& section) { total += section.bytes(); });
    return total;
}

template <class Index>
void save(const Index& index, const std::string& path) {
    FileWriter file;
    file.add(View<typename Index::Meta>(&index.meta, 1));
    Index::each_section(index, [&](const auto& section) { file.add(section); });
    file.write(path, Index::kKind);
}

template <class Index>
Index load(const std::string& path, bool verify) {
    MappedFile file(path, Index::kKind, verify);
    Index index;
    View<typename Index::Meta> meta;
    file.next(meta);
    if (meta.size != 1) file.fail("has a section of the wrong size");
    index.meta = meta[0];
    Index::each_section(index, [&](auto& section) { file.next(section); });
    index.owner = file.owner();
    return index;
}

}  // namespace smartrag
