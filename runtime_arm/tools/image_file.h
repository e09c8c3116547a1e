/* Reads an image file. */
#ifndef BVT_IMAGE_FILE_H
#define BVT_IMAGE_FILE_H
#include <stddef.h>
#include <stdint.h>

/* Decodes PNG, JPEG, BMP or PNM from memory to 8-bit pixels with 1 (gray) or 3 (RGB) channels. Returns the pixels, to be freed with
 * image_free, or NULL with *why naming the reason. */
uint8_t *image_decode(const uint8_t *data, size_t bytes, uint32_t *width, uint32_t *height, uint32_t *channels, const char **why);
void image_free(uint8_t *pixels);

#endif
