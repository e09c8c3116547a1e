// Python binding of the C runtime: the very same sources that run on a board. Thin: it checks sizes, copies results out and lets other
// Python threads go on while a model runs. What callers should use is bvtdeploy/host/__init__.py.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "bvt.h"
extern "C" {
#include "image_file.h"
}

namespace py = pybind11;
using floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

namespace {

struct Failure {
    int code;
    std::string text;
};

void check(int code, const bvt_error &error) {
    if (code) throw Failure{code, error.text};
}

floats matrix(const float *data, py::ssize_t rows, py::ssize_t cols) {
    floats out({rows, cols});
    std::memcpy(out.mutable_data(), data, sizeof(float) * size_t(rows) * size_t(cols));
    return out;
}

class Model {
  public:
    explicit Model(const py::bytes &source, bool is_path) {
        bvt_error error{};
        std::string_view view(source);
        if (is_path) {
            check(bvt_open(std::string(view).c_str(), &model_, &error), error);
        } else {
            keep_ = source;  // aligned memory is used in place
            check(bvt_open_memory(view.data(), view.size(), &model_, &error), error);
        }
        info_ = bvt_info(model_);
    }
    ~Model() { bvt_close(model_); }
    Model(const Model &) = delete;
    Model &operator=(const Model &) = delete;

    const bvt_model *get() const { return model_; }
    const bvt_model_info &info() const { return info_; }

    py::dict facts() const {
        py::dict out;
        out["input_shape"] = py::make_tuple(info_.input_rows, info_.input_cols);
        out["output_shape"] = py::make_tuple(info_.output_rows, info_.output_cols);
        out["file_bytes"] = info_.file_bytes;
        out["arena_bytes"] = info_.arena_bytes;
        out["tile_bytes"] = info_.tile_bytes;
        out["widened_bytes"] = info_.widened_bytes;
        out["macs_binary"] = info_.macs_binary;
        out["macs_float"] = info_.macs_float;
        out["n_golden"] = info_.n_golden;
        return out;
    }

    py::list ops() const {
        py::list out;
        for (uint32_t i = 0; i < info_.n_ops; i++) {
            bvt_op_info op = bvt_get_op(model_, i);
            py::list outputs;
            for (uint32_t o : op.outputs) outputs.append(o == UINT32_MAX ? py::object(py::none()) : py::object(py::int_(o)));
            py::dict d;
            d["kind"] = op.kind;
            d["name"] = op.name;
            d["module"] = op.module;
            d["macs_binary"] = op.macs_binary;
            d["macs_float"] = op.macs_float;
            d["group"] = op.group;
            d["rows"] = op.rows;
            d["cols"] = op.cols;
            d["outputs"] = outputs;
            out.append(d);
        }
        return out;
    }

    py::list values() const {
        py::list out;
        for (uint32_t i = 0; i < info_.n_values; i++) {
            bvt_value_info v = bvt_get_value(model_, i);
            py::dict d;
            d["name"] = v.name;
            d["dtype"] = v.dtype;
            d["storage"] = v.storage;
            d["layout"] = v.layout;
            d["stored"] = v.stored;
            d["rows"] = v.rows;
            d["cols"] = v.cols;
            d["bytes"] = v.bytes;
            out.append(d);
        }
        return out;
    }

    py::list labels() const {
        py::list out;
        for (uint32_t i = 0; i < info_.n_labels; i++) out.append(py::str(bvt_get_label(model_, i)));
        return out;
    }

    py::tuple golden(uint32_t index) const {
        if (index >= info_.n_golden) throw py::index_error("golden pair");
        floats input({py::ssize_t(info_.input_rows), py::ssize_t(info_.input_cols)});
        bvt_golden_input(model_, index, input.mutable_data());
        return py::make_tuple(input, matrix(bvt_golden_output(model_, index), info_.output_rows, info_.output_cols));
    }

    py::object preprocessing() const {
        bvt_preprocess_info p = bvt_get_preprocess(model_);
        if (!p.present) return py::none();
        py::dict d;
        d["width"] = p.width;
        d["height"] = p.height;
        d["channels"] = p.channels;
        d["colour"] = p.colour;
        d["resize"] = p.resize;
        d["filter"] = p.filter;
        d["resize_short"] = p.resize_short;
        d["mean"] = std::vector<float>(p.mean, p.mean + p.channels);
        d["std"] = std::vector<float>(p.std, p.std + p.channels);
        return d;
    }

    floats preprocess(const py::array_t<uint8_t, py::array::c_style> &pixels) const {
        if (pixels.ndim() != 3) throw Failure{BVT_E_ARGUMENT, "pixels must be height x width x channels"};
        floats out({py::ssize_t(info_.input_rows), py::ssize_t(info_.input_cols)});
        bvt_error error{};
        check(bvt_preprocess(model_, pixels.data(), uint32_t(pixels.shape(1)), uint32_t(pixels.shape(0)), uint32_t(pixels.shape(2)),
                             out.mutable_data(), &error),
              error);
        return out;
    }

  private:
    py::object keep_;
    bvt_model *model_ = nullptr;
    bvt_model_info info_{};
};

// One output of one op as the observer saw it: whole rows (or whole columns), one after the other.
struct Captured {
    uint32_t op, output;
    std::vector<uint8_t> bytes;
};

class Session {
  public:
    Session(std::shared_ptr<Model> model, uint32_t threads, const std::string &isa, bool profile, bool op_crc, bool capture)
        : model_(std::move(model)), isa_(isa), op_crc_(op_crc) {
        bvt_options options{};
        options.threads = threads;
        options.isa = isa_.c_str();
        options.profile = profile;
        options.op_crc = op_crc;
        if (capture) {
            options.observer = &Session::observe;
            options.observer_user = this;
        }
        bvt_error error{};
        check(bvt_session_create(model_->get(), &options, &session_, &error), error);
    }
    ~Session() { bvt_session_destroy(session_); }
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    floats run(const floats &input) {
        const bvt_model_info &info = model_->info();
        if (input.size() != py::ssize_t(info.input_rows) * py::ssize_t(info.input_cols))
            throw Failure{BVT_E_ARGUMENT, "the input has " + std::to_string(input.size()) + " values, the model takes " +
                                              std::to_string(uint64_t(info.input_rows) * info.input_cols)};
        floats out({py::ssize_t(info.output_rows), py::ssize_t(info.output_cols)});
        const float *from = input.data();
        float *to = out.mutable_data();
        int code;
        {
            py::gil_scoped_release release;
            std::lock_guard<std::mutex> guard(mutex_);  // a session serves one caller at a time
            captured_.clear();
            code = bvt_run(session_, from, to);
        }
        if (code) throw Failure{code, "the model could not be run"};
        return out;
    }

    py::list captured() const {
        py::list out;
        for (const Captured &c : captured_)
            out.append(py::make_tuple(c.op, c.output, py::bytes(reinterpret_cast<const char *>(c.bytes.data()), c.bytes.size())));
        return out;
    }

    py::list op_crcs() const {
        const uint32_t *crcs = bvt_op_crcs(session_);
        py::list out;
        for (uint32_t op = 0; op < model_->info().n_ops; op++) {
            bvt_op_info info = bvt_get_op(model_->get(), op);
            py::list of_op;
            for (uint32_t o = 0; o < BVT_MAX_OUTPUTS; o++)
                if (info.outputs[o] != UINT32_MAX) of_op.append(op_crc_ && crcs ? crcs[op * BVT_MAX_OUTPUTS + o] : 0u);
            out.append(of_op);
        }
        return out;
    }

    std::pair<std::vector<uint64_t>, std::vector<uint64_t>> times() const {
        std::vector<uint64_t> ops(model_->info().n_ops), groups(model_->info().n_groups);
        bvt_profile_get(session_, ops.data(), groups.data());
        return {ops, groups};
    }
    void reset_times() { bvt_profile_reset(session_); }
    std::string isa() const { return bvt_session_isa(session_); }
    uint32_t threads() const { return bvt_session_threads(session_); }

  private:
    // Runs without the GIL: it touches C++ memory only.
    static void observe(void *user, uint32_t op, uint32_t output, uint32_t row0, uint32_t rows, const void *data, size_t stride) {
        auto *self = static_cast<Session *>(user);
        const bvt_model *model = self->model_->get();
        bvt_value_info value = bvt_get_value(model, bvt_get_op(model, op).outputs[output]);
        bool bits = std::strcmp(value.dtype, "bits") == 0, trits = std::strcmp(value.dtype, "trits") == 0, cols = std::strcmp(value.layout, "cols") == 0;
        // In layout "cols" the lines are columns, and they come all at once.
        size_t lines = cols ? value.cols : rows, first = cols ? 0 : row0, total = cols ? value.cols : value.rows;
        size_t wide = cols ? value.rows : value.cols;
        // Three codes are two planes; the second one stands at half of the line's stride.
        size_t plane = (wide + 7) / 8;
        size_t line_bytes = bits ? plane : trits ? 2 * plane : wide * (std::strcmp(value.dtype, "u64") == 0 || std::strcmp(value.dtype, "f64") == 0 ? 8 : std::strcmp(value.dtype, "i16") == 0 || std::strcmp(value.dtype, "f16") == 0 ? 2 : 4);
        Captured *into = nullptr;
        for (size_t i = self->captured_.size(); i-- > 0 && !into;)
            if (self->captured_[i].op == op && self->captured_[i].output == output) into = &self->captured_[i];
        if (!into) {
            self->captured_.push_back({op, output, std::vector<uint8_t>(total * line_bytes)});
            into = &self->captured_.back();
        }
        for (size_t i = 0; i < lines; i++) {
            uint8_t *to = into->bytes.data() + (first + i) * line_bytes;
            const uint8_t *from = static_cast<const uint8_t *>(data) + i * stride;
            std::memcpy(to, from, trits ? plane : line_bytes);
            if (trits) std::memcpy(to + plane, from + (wide + 63) / 64 * 8, plane);
        }
    }

    std::shared_ptr<Model> model_;
    std::string isa_;
    bool op_crc_;
    bvt_session *session_ = nullptr;
    std::mutex mutex_;
    std::vector<Captured> captured_;
};

}  // namespace

PYBIND11_MODULE(_runtime, m) {
    m.doc() = "The C runtime. Use bvtdeploy.host.";
    static py::exception<Failure> failure(m, "Failure");
    py::register_exception_translator([](std::exception_ptr p) {
        try {
            if (p) std::rethrow_exception(p);
        } catch (const Failure &e) {
            PyErr_SetObject(failure.ptr(), py::make_tuple(e.code, e.text).ptr());
        }
    });
    py::class_<Model, std::shared_ptr<Model>>(m, "Model")
        .def(py::init<const py::bytes &, bool>(), py::arg("source"), py::arg("is_path"))
        .def("facts", &Model::facts)
        .def("ops", &Model::ops)
        .def("values", &Model::values)
        .def("labels", &Model::labels)
        .def("golden", &Model::golden, py::arg("index"))
        .def("preprocessing", &Model::preprocessing)
        .def("preprocess", &Model::preprocess, py::arg("pixels"));
    py::class_<Session>(m, "Session")
        .def(py::init<std::shared_ptr<Model>, uint32_t, const std::string &, bool, bool, bool>(), py::arg("model"), py::arg("threads"),
             py::arg("isa"), py::arg("profile"), py::arg("op_crc"), py::arg("capture"))
        .def("run", &Session::run, py::arg("input"))
        .def("captured", &Session::captured)
        .def("op_crcs", &Session::op_crcs)
        .def("times", &Session::times)
        .def("reset_times", &Session::reset_times)
        .def_property_readonly("isa", &Session::isa)
        .def_property_readonly("threads", &Session::threads);
    m.def("version", [] { return std::string(bvt_version()); });
    m.def("format_version", &bvt_format_version);
    m.def("cpu_features", [] { return std::string(bvt_cpu_features()); });
    m.def("isas", [] {
        std::vector<std::string> out;
        for (uint32_t i = 0; i < bvt_isa_count(); i++) out.emplace_back(bvt_isa_name(i));
        return out;
    });
    // -> pixels [height, width, 1 or 3], or the reason why not as a text
    m.def("decode_image", [](const py::bytes &file) -> py::object {
        std::string_view view(file);
        uint32_t width = 0, height = 0, channels = 0;
        const char *why = nullptr;
        uint8_t *pixels = image_decode(reinterpret_cast<const uint8_t *>(view.data()), view.size(), &width, &height, &channels, &why);
        if (!pixels) return py::str(why);
        py::array_t<uint8_t> out({py::ssize_t(height), py::ssize_t(width), py::ssize_t(channels)});
        std::memcpy(out.mutable_data(), pixels, size_t(out.size()));
        image_free(pixels);
        return std::move(out);
    });
    m.attr("sources_hash") = BVT_SOURCES_HASH;
}
