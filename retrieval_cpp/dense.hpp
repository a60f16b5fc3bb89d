// dense.hpp - exact inner-product search over float vectors.
//
//   N rows of D floats; B queries; score = dot product
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "file.hpp"
#include "topk.hpp"

namespace smartrag {

struct DenseIndex {
    struct Meta {
        std::uint64_t rows = 0, dimension = 0;
    };
    Meta meta;
    View<float> vectors;  // [N, D]
    std::shared_ptr<const void> owner;

    std::size_t size() const { return meta.rows; }
    std::size_t dimension() const { return meta.dimension; }
    std::size_t nbytes() const { return vectors.bytes(); }

    static DenseIndex build(const float* data, std::size_t rows, std::size_t dimension) {
        auto storage = std::make_shared<std::vector<float>>(data, data + rows * dimension);
        DenseIndex index;
        index.meta = {rows, dimension};
        index.vectors = *storage;
        index.owner = storage;
        return index;
    }

    void search(const float* query, TopK& top) const {
        for (std::size_t row = 0; row < size(); ++row) {
            const float* const v = vectors.data + row * dimension();
            float score = 0;
            for (std::size_t d = 0; d < dimension(); ++d) score += query[d] * v[d];
            top.push(score, static_cast<std::uint32_t>(row));
        }
    }

    void save(const std::string& path) const {
        FileWriter file;
        file.add(View<Meta>(&meta, 1));
        file.add(vectors);
        file.write(path, FileKind::kDense);
    }

    static DenseIndex load(const std::string& path) {
        MappedFile file(path, FileKind::kDense);
        DenseIndex index;
        View<Meta> meta;
        file.next(meta);
        if (meta.size != 1) file.fail("has a section of the wrong size");
        index.meta = meta[0];
        file.next(index.vectors);
        if (index.vectors.size != index.meta.rows * index.meta.dimension) file.fail("has a section of the wrong size");
        index.owner = file.owner();
        return index;
    }
};

}  // namespace smartrag
