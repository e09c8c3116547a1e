/* Image decoding by stb_image, compiled here alone: decoders from memory only, no stdio, no SIMD (the pixels must not depend on the
 * machine). */
#include "image_file.h"

#include <stdio.h>
#include <string.h>

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_NO_STDIO
#define STBI_NO_SIMD
#define STBI_NO_HDR
#define STBI_NO_LINEAR
#define STBI_NO_THREAD_LOCALS
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#define STBI_ONLY_PNM
#define STBI_MAX_DIMENSIONS 32768
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#pragma GCC diagnostic ignored "-Wsign-compare"
#endif
#include "../third_party/stb_image.h"

/* stb's reasons are words such as "outofdata". */
static const char *reason(void) {
    static char text[128];
    const char *word = stbi_failure_reason();
    if (!word) word = "unknown";
    const char *what = !strcmp(word, "outofmem")    ? "not enough memory to decode the image"
                       : !strcmp(word, "too large") ? "the image is too large, or its file is damaged"
                                                    : "the image file is damaged or cut short";
    snprintf(text, sizeof text, "%s (%s)", what, word);
    return text;
}

uint8_t *image_decode(const uint8_t *data, size_t bytes, uint32_t *width, uint32_t *height, uint32_t *channels, const char **why) {
    int w, h, n;
    *why = "the file is too large";
    if (bytes > INT32_MAX) return NULL;
    if (!stbi_info_from_memory(data, (int)bytes, &w, &h, &n)) {
        *why = "not a PNG, JPEG, BMP or PNM image";
        return NULL;
    }
    int wanted = n <= 2 ? 1 : 3; /* an alpha channel is dropped */
    uint8_t *pixels = stbi_load_from_memory(data, (int)bytes, &w, &h, &n, wanted);
    if (!pixels) {
        *why = reason();
        return NULL;
    }
    *width = (uint32_t)w;
    *height = (uint32_t)h;
    *channels = (uint32_t)wanted;
    return pixels;
}

void image_free(uint8_t *pixels) { stbi_image_free(pixels); }
