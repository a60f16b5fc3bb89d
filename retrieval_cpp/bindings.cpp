// bindings.cpp - the only file, with python.hpp, that knows Python.
//
// Checks every argument before anything is touched, turns C++ exceptions into Python's, holds
// references to the strings of a batch while the GIL is released, and leaves the rest to the
// headers.
//
//   Q queries, k hits a query, at most as many as there are passages; ids int32 [Q, k], scores
//   float32 [Q, k]
#include <pybind11/stl.h>

#include <cmath>
#include <string>
#include <system_error>
#include <unordered_set>

#include "bm25.hpp"
#include "bm25_build.hpp"
#include "dense.hpp"
#include "dense_build.hpp"
#include "parallel.hpp"
#include "python.hpp"
#include "roofline.hpp"

namespace smartrag {
namespace {

// A stemmer is any callable from str to str; it is called once for each distinct word.
std::string stem(const py::object& stemmer, std::string_view word) {
    py::object holder;
    const py::object out = stemmer(py::str(word.data(), word.size()));
    return std::string(text_of(out, "a stem", holder));
}

class PyBM25 {
public:
    PyBM25(BM25Index index, py::object stemmer, const std::vector<std::string>& stopwords)
        : index_(std::move(index)),
          stemmer_(std::move(stemmer)),
          stopwords_(stopwords.begin(), stopwords.end()) {}

    static PyBM25 build(const py::iterable& texts, float k1, float b,
                        const std::vector<std::string>& stopwords, py::object stemmer,
                        std::string settings, py::ssize_t threads) {
        if (!(k1 >= 0) || !std::isfinite(k1))
            throw py::value_error("k1 must be a finite number >= 0");
        if (!(b >= 0 && b <= 1)) throw py::value_error("b must be in [0, 1]");
        const Check check = signals();
        TermLog log(not_negative(threads, "threads"));
        Texts round;
        const auto flush = [&] {
            {
                const py::gil_scoped_release release;
                log.add(round.views, check);
            }
            round = {};
        };
        for (const py::handle text : texts) {
            round.add(text, "each text");
            if (round.views.size() >= 8192 * log.threads() ||
                round.bytes >= (std::size_t{8} << 20) * log.threads())
                flush();
        }
        flush();
        const std::unordered_set<std::string> stops(stopwords.begin(), stopwords.end());
        Vocabulary terms = log.number_terms([&](std::string_view view) {
            const std::string word(view);
            if (stops.count(word) != 0) return std::string();
            check();
            if (stemmer.is_none()) return word;
            return stem(stemmer, word);
        });
        BM25Index index;
        {
            const py::gil_scoped_release release;
            index =
                BM25Builder({k1, b}, std::move(log), std::move(terms), std::move(settings), check)
                    .finish();
        }
        return PyBM25(std::move(index), std::move(stemmer), stopwords);
    }

    // With `plain` every posting is scored: the oracle of the tests.
    py::tuple search(const py::sequence& queries, py::ssize_t k_, py::ssize_t threads_,
                     bool plain) const {
        const std::size_t k = std::min(positive(k_, "k"), index_.size()),
                          threads = not_negative(threads_, "threads");
        if (index_.size() == 0) throw py::value_error("cannot search an empty index");
        const Texts texts(queries, "each query");
        const Check check = signals();
        std::vector<std::vector<QueryTerm>> stemmed;
        if (!stemmer_.is_none()) {
            for (const std::string_view text : texts.views) {  // calls Python
                check();
                stemmed.push_back(terms(text));
            }
        }
        Results results(texts.views.size(), k);
        std::int32_t* const ids = results.ids.mutable_data();
        float* const scores = results.scores.mutable_data();
        {
            const py::gil_scoped_release release;
            std::vector<std::unique_ptr<BM25Searcher>> searchers(
                thread_count(threads, texts.views.size()));
            parallel_for(texts.views.size(), threads, check,
                         [&](std::size_t q, std::size_t thread) {
                             const std::vector<QueryTerm> query =
                                 stemmed.empty() ? terms(texts.views[q]) : stemmed[q];
                             TopK top(k);
                             if (!searchers[thread])
                                 searchers[thread] = std::make_unique<BM25Searcher>(index_);
                             if (plain) search_plainly(index_, query, top);
                             else searchers[thread]->search(query, top);
                             top.write(k, ids + q * k, scores + q * k);
                         });
        }
        return results.tuple();
    }

    // [(term, count in query, tf, idf, score)] for the terms of the query that the passage
    // contains.
    py::list explain(const py::handle query, py::ssize_t id) const {
        if (id < 0 || static_cast<std::size_t>(id) >= index_.size())
            throw py::index_error("no passage " + std::to_string(id));
        const auto document = static_cast<std::uint32_t>(id);
        py::object holder;
        py::list out;
        for (const QueryTerm& q : terms(text_of(query, "the query", holder))) {
            const std::uint32_t tf = index_.find(q.term, document);
            if (tf == 0) continue;
            const float idf = index_.idf(q.term), share = impact(tf, index_.norm(document));
            const std::string_view word = index_.vocabulary.word(q.term);
            out.append(py::make_tuple(py::str(word.data(), word.size()), static_cast<int>(q.count),
                                      tf, idf, q.count * idf * share));
        }
        return out;
    }

    const BM25Index& index() const { return index_; }

private:
    // The query's known terms, in order of first appearance.  Needs the GIL only where there is a
    // stemmer.
    std::vector<QueryTerm> terms(std::string_view query) const {
        std::vector<std::uint32_t> known;
        Tokenizer tokenizer;
        tokenizer(query, [&](std::string_view word) {
            if (!stemmer_.is_none() && stopwords_.count(std::string(word)) != 0)
                return;  // its stem might be a term
            const std::uint32_t term = stemmer_.is_none()
                                           ? index_.vocabulary.find(word)
                                           : index_.vocabulary.find(stem(stemmer_, word));
            if (term != kNoTerm) known.push_back(term);
        });
        return count_terms(known);
    }

    BM25Index index_;
    py::object stemmer_;
    std::unordered_set<std::string> stopwords_;
};

class PyDense {
public:
    explicit PyDense(DenseIndex index) : index_(std::move(index)) {}
    PyDense(const FloatMatrix& vectors, const std::string& storage, bool keep_rows) {
        check_matrix(vectors, "vectors");
        if (vectors.shape(1) == 0) throw py::value_error("vectors must have at least one column");
        if (vectors.shape(0) > 0x7FFFFFFE) throw py::value_error("more than 2^31 - 2 vectors");
        const std::size_t kind = storage == "f32"    ? 0
                                 : storage == "bf16" ? 1
                                 : storage == "int8" ? 2
                                                     : 3;
        if (kind == 3)
            throw py::value_error("storage must be 'f32', 'bf16' or 'int8', got '" + storage + "'");
        if (kind == 2 && vectors.shape(1) > 1 << 17)
            throw py::value_error("int8 takes at most 131072 columns");  // sums of 32 bits
        const Check check = signals();
        const py::gil_scoped_release release;
        index_ = DenseBuilder(vectors.data(), static_cast<std::size_t>(vectors.shape(0)),
                              static_cast<std::size_t>(vectors.shape(1)),
                              static_cast<Storage>(kind), keep_rows, check)
                     .finish();
    }

    py::tuple search(const FloatMatrix& queries, py::ssize_t k_, py::ssize_t threads_) const {
        const std::size_t k = std::min(positive(k_, "k"), index_.size()),
                          threads = not_negative(threads_, "threads");
        if (index_.size() == 0) throw py::value_error("cannot search an empty index");
        check_matrix(queries, "queries");
        if (static_cast<std::size_t>(queries.shape(1)) != index_.dimension()) {
            throw py::value_error("queries have " + std::to_string(queries.shape(1)) +
                                  " columns, the index has " + std::to_string(index_.dimension()));
        }
        const auto rows = static_cast<std::size_t>(queries.shape(0));
        Results results(rows, k);
        std::int32_t* const ids = results.ids.mutable_data();
        float* const scores = results.scores.mutable_data();
        const float* const data = queries.data();
        {
            const py::gil_scoped_release release;
            smartrag::search(index_, data, rows, k, threads, signals(), ids, scores);
        }
        return results.tuple();
    }

    const DenseIndex& index() const { return index_; }

private:
    DenseIndex index_;
};

}  // namespace

PYBIND11_MODULE(_core, m) {
    m.doc() = "The C++ kernel of retrieval_cpp; use the classes of the package.";
    py::register_exception_translator([](std::exception_ptr p) {
        try {
            if (p) std::rethrow_exception(p);
        } catch (const std::system_error& e) {
            const py::object error = py::handle(PyExc_OSError)(e.code().value(), message(e));
            PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
        } catch (const FileError& e) {
            PyErr_SetObject(PyExc_ValueError, message(e).ptr());
        }
    });

    py::class_<PyBM25>(m, "BM25")
        .def_static("build", &PyBM25::build)
        .def_static("load",
                    [](const py::object& path, bool verify) {
                        return PyBM25(load_index<BM25Index>(path, verify), py::none(), {});
                    })
        .def("with_stemmer",
             [](const PyBM25& self, py::object stemmer, const std::vector<std::string>& stopwords) {
                 return PyBM25(self.index(), std::move(stemmer), stopwords);
             })
        .def("search", &PyBM25::search)
        .def("explain", &PyBM25::explain)
        .def("save",
             [](const PyBM25& self, const py::object& path) { save_index(self.index(), path); })
        .def("__len__", [](const PyBM25& self) { return self.index().size(); })
        .def_property_readonly("nbytes", [](const PyBM25& self) { return nbytes(self.index()); })
        .def_property_readonly("vocabulary_size",
                               [](const PyBM25& self) { return self.index().vocabulary.size(); })
        .def_property_readonly("settings", [](const PyBM25& self) {
            return std::string(self.index().settings.data, self.index().settings.size);
        });

    py::class_<PyDense>(m, "Dense")
        .def(py::init<const FloatMatrix&, const std::string&, bool>())
        .def_static("load",
                    [](const py::object& path, bool verify) {
                        return PyDense(load_index<DenseIndex>(path, verify));
                    })
        .def("search", &PyDense::search)
        .def("save",
             [](const PyDense& self, const py::object& path) { save_index(self.index(), path); })
        .def("__len__", [](const PyDense& self) { return self.index().size(); })
        .def_property_readonly("nbytes", [](const PyDense& self) { return nbytes(self.index()); });

    m.def("simd_level", [] { return std::string(name(simd_level())); });
    m.def("simd_levels", [] {
        std::vector<std::string> names;
        for (const Simd level : simd_levels()) names.emplace_back(name(level));
        return names;
    });
    m.def("read_bandwidth", [](const FloatMatrix& array) {
        return read_bandwidth(array.data(), static_cast<std::size_t>(array.size()));
    });
    m.def("fma_rate", &fma_rate);
    m.def(
        "tokenize",
        [](const py::handle text) {
            py::object holder;
            py::list out;
            Tokenizer tokenizer;
            tokenizer(text_of(text, "the text", holder), [&](std::string_view word) {
                out.append(py::str(word.data(), word.size()));
            });
            return out;
        },
        py::arg("text"),
        "The words of a text as the index sees them: letters and numbers, case and accents "
        "folded.");
}

}  // namespace smartrag
