/* Preprocessing: fixed cases with known answers, and every size through the sanitizers. Equality with Pillow is tested from Python
 * (tests/runtime/test_image.py). */
#include "sample.h"

int main(void) {
    size_t bytes;
    uint8_t *file = sample_model(&bytes, 8);
    bvt_rec_preprocess *p = sample_section(file, BVT_SECTION_PREPROCESS);
    uint8_t *pixels = malloc(70 * 70 * 4);
    float x[72 * 24];
    bvt_error err;
    bvt_model *model;
    for (size_t i = 0; i < 70 * 70 * 4; i++) pixels[i] = (uint8_t)rng();
    for (int round = 0; round < 300; round++) {
        static const uint32_t channels[] = {1, 3, 4};
        const uint32_t width = range(1, 70), height = range(1, 70), n = channels[below(3)];
        p->filter = below(3);
        p->resize = below(2);
        p->resize_short = p->resize ? range(24, 60) : 0;
        p->colour = range(1, 2);
        sample_seal(file, bytes);
        if (bvt_open_memory(file, bytes, &model, &err)) fprintf(stderr, "%s\n", err.text), exit(1);
        uint8_t *exact = malloc((size_t)width * height * n); /* so that a read beyond it is seen */
        memcpy(exact, pixels, (size_t)width * height * n);
        CHECK(!bvt_preprocess(model, exact, width, height, n, x, &err), "%s", err.text);
        bool inside = true;
        for (int i = 0; i < 72 * 24; i++) inside &= x[i] >= -2.5f && x[i] <= 2.5f;
        CHECK(inside, "a value out of range");
        /* A constant image stays constant: coefficients sum to one. */
        memset(exact, 77, (size_t)width * height * n);
        bvt_preprocess(model, exact, width, height, n, x, &err);
        const float want = ((float)77 / 255.0f - 0.5f) / 0.2f;
        bool constant = true;
        for (int i = 0; i < 72 * 24; i++) constant &= x[i] == want;
        CHECK(constant, "a constant image changed: %ux%u filter %u", width, height, p->filter);
        free(exact);
        bvt_close(model);
    }
    if (bvt_open_memory(file, bytes, &model, &err)) exit(1);
    CHECK(bvt_preprocess(model, pixels, 10, 10, 2, x, &err) == BVT_E_ARGUMENT, "2 channels");
    CHECK(bvt_preprocess(model, pixels, 0, 10, 3, x, &err) == BVT_E_ARGUMENT, "no width");
    CHECK(bvt_preprocess(model, pixels, 40000, 10, 3, x, &err) == BVT_E_ARGUMENT, "too wide");
    CHECK(bvt_preprocess(model, NULL, 10, 10, 3, x, &err) == BVT_E_ARGUMENT, "no pixels");
    bvt_close(model);
    /* 3 * 2^34 bytes: 0 in a size_t of 32 bits. (Where addresses have 64, there may really be so much.) */
    p->filter = BVT_FILTER_BILINEAR, p->resize = BVT_RESIZE_SHORT_CROP, p->resize_short = 32768;
    sample_seal(file, bytes);
    CHECK(!bvt_open_memory(file, bytes, &model, &err), "%s", err.text);
    if (sizeof(size_t) == 4) CHECK(bvt_preprocess(model, pixels, 16, 1, 3, x, &err) == BVT_E_MEMORY, "a huge image: %s", err.text);
    bvt_close(model);
    free(pixels);
    free(file);
    return finish("test_image");
}
