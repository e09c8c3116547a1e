/* Everything that can be done with a file that somebody else made: open it, look at all of it, preprocess an image, run it. */
#ifndef FUZZ_LOAD_H
#define FUZZ_LOAD_H
#include <stdlib.h>
#include <string.h>

#include "bvt.h"

/* Returns whether the file was accepted. */
static int fuzz_one(const uint8_t *data, size_t bytes) {
    bvt_model *model;
    bvt_session *session;
    bvt_error err;
    volatile size_t sink = 0; /* keeps the reads */
    if (bvt_open_memory(data, bytes, &model, &err)) {
        sink += strlen(err.text);
        return 0;
    }
    const bvt_model_info info = bvt_info(model);
    for (uint32_t i = 0; i < info.n_ops; i++) {
        const bvt_op_info op = bvt_get_op(model, i);
        sink += strlen(op.name) + strlen(op.module) + strlen(op.kind);
    }
    for (uint32_t i = 0; i < info.n_values; i++)
        sink += strlen(bvt_get_value(model, i).name) + strlen(bvt_get_value(model, i).dtype);
    for (uint32_t i = 0; i < info.n_sections; i++) sink += strlen(bvt_get_section(model, i).name);
    for (uint32_t i = 0; i < info.n_labels; i++) sink += strlen(bvt_get_label(model, i));
    for (uint32_t i = 0; i < info.n_meta; i++) {
        const bvt_meta_info e = bvt_get_meta(model, i);
        for (size_t b = 0; b < e.value_bytes; b++) sink += ((const uint8_t *)e.value)[b];
    }
    sink += (size_t)bvt_get_preprocess(model).present;
    const size_t in = (size_t)info.input_rows * info.input_cols, out = (size_t)info.output_rows * info.output_cols;
    const size_t need = bvt_session_bytes(model, NULL);
    if (need && need < (size_t)1 << 24 && in < 1 << 20 && out < 1 << 20) {
        float *x = calloc(in, sizeof *x), *y = calloc(out, sizeof *y);
        const uint8_t pixels[5 * 7 * 3] = {1, 2, 3};
        const bvt_preprocess_info p = bvt_get_preprocess(model);
        if (p.present && p.resize_short < 2048) bvt_preprocess(model, pixels, 5, 7, 3, x, &err);
        if (info.n_golden) {
            bvt_golden_input(model, info.n_golden - 1, x);
            sink += bvt_golden_output(model, info.n_golden - 1)[out - 1] > 0;
        }
        const bvt_options options = {.isa = bytes % 2 ? "ref" : "auto"};
        if (!bvt_session_create(model, &options, &session, &err)) {
            bvt_run(session, x, y);
            bvt_session_destroy(session);
        }
        free(x);
        free(y);
    }
    (void)sink;
    bvt_close(model);
    return 1;
}

#endif
