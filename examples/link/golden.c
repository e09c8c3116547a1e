/* Runs the golden inputs of a model and compares the outputs with the compiler's, bit by bit.    golden MODEL.bvt */
#include <bvt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    bvt_error err;
    bvt_model *model = NULL;
    bvt_session *session = NULL;
    bvt_options options = {.threads = 2};
    if (argc != 2) {
        fprintf(stderr, "usage: golden MODEL.bvt\n");
        return 2;
    }
    if (bvt_open(argv[1], &model, &err) || bvt_session_create(model, &options, &session, &err)) {
        fprintf(stderr, "golden: %s\n", err.text);
        bvt_close(model);
        return 2;
    }
    bvt_model_info info = bvt_info(model);
    size_t inputs = (size_t)info.input_rows * info.input_cols, outputs = (size_t)info.output_rows * info.output_cols;
    float *input = malloc(inputs * sizeof *input), *output = malloc(outputs * sizeof *output);
    unsigned equal = 0;
    for (uint32_t i = 0; input && output && i < info.n_golden; i++) {
        bvt_golden_input(model, i, input);
        bvt_run(session, input, output);
        equal += memcmp(output, bvt_golden_output(model, i), outputs * sizeof *output) == 0;
    }
    printf("bvt %s, %s: %u of %u golden outputs have equal bits\n", bvt_version(), bvt_session_isa(session), equal, info.n_golden);
    free(input);
    free(output);
    bvt_session_destroy(session);
    bvt_close(model);
    return equal == info.n_golden ? 0 : 1;
}
