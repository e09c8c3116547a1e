// golden.c in C++: the handles free themselves, errors are exceptions.    golden_cpp MODEL.bvt
#include <bvt.h>

#include <cstring>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <vector>

namespace {

using Model = std::unique_ptr<bvt_model, decltype(&bvt_close)>;
using Session = std::unique_ptr<bvt_session, decltype(&bvt_session_destroy)>;

Model open(const char *path) {
    bvt_error err;
    bvt_model *model = nullptr;
    if (bvt_open(path, &model, &err)) throw std::runtime_error(err.text);
    return {model, bvt_close};
}

Session create(const bvt_model *model, unsigned threads) {
    bvt_error err;
    bvt_options options{};
    options.threads = threads;
    bvt_session *session = nullptr;
    if (bvt_session_create(model, &options, &session, &err)) throw std::runtime_error(err.text);
    return {session, bvt_session_destroy};
}

} // namespace

int main(int argc, char **argv) try {
    if (argc != 2) throw std::runtime_error("usage: golden_cpp MODEL.bvt");
    const Model model = open(argv[1]);
    const Session session = create(model.get(), 2);
    const bvt_model_info info = bvt_info(model.get());
    std::vector<float> input(std::size_t{info.input_rows} * info.input_cols);
    std::vector<float> output(std::size_t{info.output_rows} * info.output_cols);
    unsigned equal = 0;
    for (std::uint32_t i = 0; i < info.n_golden; ++i) {
        bvt_golden_input(model.get(), i, input.data());
        bvt_run(session.get(), input.data(), output.data());
        equal += std::memcmp(output.data(), bvt_golden_output(model.get(), i), output.size() * sizeof(float)) == 0;
    }
    std::cout << "bvt " << bvt_version() << ", " << bvt_session_isa(session.get()) << ": " << equal << " of " << info.n_golden
              << " golden outputs have equal bits\n";
    return equal == info.n_golden ? 0 : 1;
} catch (const std::exception &error) {
    std::cerr << "golden_cpp: " << error.what() << '\n';
    return 2;
}
