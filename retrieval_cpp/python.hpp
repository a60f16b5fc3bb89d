// python.hpp - what bindings.cpp needs of Python: texts, matrices, paths, signals, errors.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <chrono>
#include <cmath>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "file.hpp"
#include "parallel.hpp"

namespace py = pybind11;

namespace smartrag {
namespace {

using FloatMatrix = py::array_t<float, py::array::c_style>;

// The UTF-8 bytes of a str, kept alive by `holder`; lone surrogates become '?', which ends a word
// as they do.
std::string_view text_of(py::handle object, const char* what, py::object& holder) {
    if (!PyUnicode_Check(object.ptr())) {
        throw py::type_error(std::string(what) + " must be str, not " +
                             Py_TYPE(object.ptr())->tp_name);
    }
    Py_ssize_t size = 0;
    const char* data = nullptr;
    if (PyUnicode_IS_COMPACT_ASCII(object.ptr())) {
        holder = py::reinterpret_borrow<py::object>(object);
        data = PyUnicode_AsUTF8AndSize(object.ptr(), &size);
    } else {
        holder = py::reinterpret_steal<py::object>(
            PyUnicode_AsEncodedString(object.ptr(), "utf-8", "replace"));
        if (!holder) throw py::error_already_set();
        data = PyBytes_AS_STRING(holder.ptr());
        size = PyBytes_GET_SIZE(holder.ptr());
    }
    if (data == nullptr) throw py::error_already_set();
    return {data, static_cast<std::size_t>(size)};
}

// Texts with their owners: the references outlast a caller who changes his list from another
// thread.
struct Texts {
    std::vector<std::string_view> views;
    std::vector<py::object> holders;
    std::size_t bytes = 0;

    Texts() = default;
    Texts(const py::sequence& sequence, const char* what) {
        for (std::size_t i = 0; i < sequence.size(); ++i) add(py::object(sequence[i]), what);
    }
    void add(py::handle text, const char* what) {
        py::object holder;
        views.push_back(text_of(text, what, holder));
        holders.push_back(std::move(holder));
        bytes += views.back().size();
    }
};

// What long work without the GIL calls now and then: lets Python's signal handlers run, and throws
// what they raise, KeyboardInterrupt above all.  Only the thread that made it ever takes the GIL.
Check signals() {
    using Clock = std::chrono::steady_clock;
    return [owner = std::this_thread::get_id(), last = Clock::now()]() mutable {
        if (std::this_thread::get_id() != owner ||
            Clock::now() - last < std::chrono::milliseconds(100))
            return;
        last = Clock::now();
        const py::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    };
}

std::size_t positive(py::ssize_t value, const char* name) {
    if (value < 1)
        throw py::value_error(std::string(name) + " must be at least 1, got " +
                              std::to_string(value));
    return static_cast<std::size_t>(value);
}

std::size_t not_negative(py::ssize_t value, const char* name) {
    if (value < 0)
        throw py::value_error(std::string(name) + " must not be negative, got " +
                              std::to_string(value));
    return static_cast<std::size_t>(value);
}

struct Results {
    py::array_t<std::int32_t> ids;
    py::array_t<float> scores;
    Results(std::size_t rows, std::size_t k) : ids({rows, k}), scores({rows, k}) {}
    py::tuple tuple() { return py::make_tuple(std::move(ids), std::move(scores)); }
};

// What an exception says, which may name a path that is not UTF-8.
py::object message(const std::exception& e) {
    return py::reinterpret_steal<py::object>(PyUnicode_DecodeFSDefault(e.what()));
}

// The bytes of a str, bytes or os.PathLike, whatever they are; raises ValueError where they contain
// a NUL.
std::string path_of(const py::object& path) {
    PyObject* bytes = nullptr;
    if (PyUnicode_FSConverter(path.ptr(), &bytes) == 0) throw py::error_already_set();
    return py::reinterpret_steal<py::bytes>(bytes);
}

template <class Index>
void save_index(const Index& index, const py::object& path) {
    const std::string to = path_of(path);
    const py::gil_scoped_release release;
    save(index, to);
}

template <class Index>
Index load_index(const py::object& path, bool verify) {
    const std::string from = path_of(path);
    const py::gil_scoped_release release;
    return load<Index>(from, verify);
}

void check_matrix(const FloatMatrix& matrix, const char* what) {
    if (matrix.ndim() != 2)
        throw py::value_error(std::string(what) + " must have two dimensions, got " +
                              std::to_string(matrix.ndim()));
    const float* const data = matrix.data();
    for (py::ssize_t i = 0; i < matrix.size(); ++i) {
        if (!std::isfinite(data[i]))
            throw py::value_error(std::string(what) + " contain NaN or infinity");
    }
}

}  // namespace
}  // namespace smartrag
