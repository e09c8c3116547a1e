/* The .bvt file format. Written by `python -m bvtdeploy.artifact.spec`: do not edit, change spec.py.
 *
 *   0                  64                 64 + 32*n          (64-aligned)
 *   +------------------+------------------+------------------+-----+------------------+
 *   | header           | section table    | section          | ... | section          |
 *   +------------------+------------------+------------------+-----+------------------+
 *   | magic version    | kind crc offset  | META VALUES OPS GROUPS CONSTANTS NAMES     |
 *   | sizes crc        | bytes count      | GOLDEN LABELS PREPROCESS, zero gaps        |
 *   +------------------+------------------+--------------------------------------------+
 */
#ifndef BVT_FORMAT_H
#define BVT_FORMAT_H
#include <stdint.h>

#define BVT_VERSION 7u
#define BVT_ALIGN 64u
#define BVT_NONE 0xFFFFFFFFu
#define BVT_N_IN 20
#define BVT_N_OUT 6
#define BVT_N_ATTR 24
#define BVT_N_FATTR 4
static const uint8_t bvt_magic[8] = {0x89, 0x42, 0x56, 0x54, 0x0D, 0x0A, 0x1A, 0x0A};

enum {
    BVT_SECTION_META = 1,
    BVT_SECTION_VALUES = 2,
    BVT_SECTION_OPS = 3,
    BVT_SECTION_GROUPS = 4,
    BVT_SECTION_CONSTANTS = 5,
    BVT_SECTION_NAMES = 6,
    BVT_SECTION_GOLDEN = 7,
    BVT_SECTION_LABELS = 8,
    BVT_SECTION_PREPROCESS = 9,
};

enum {
    BVT_META_U64 = 1,
    BVT_META_F64 = 2,
    BVT_META_STR = 3,
    BVT_META_BYTES = 4,
};

enum {
    BVT_DTYPE_F32 = 1,
    BVT_DTYPE_I32 = 2,
    BVT_DTYPE_BITS = 3,
    BVT_DTYPE_U64 = 4,
    BVT_DTYPE_F64 = 5,
    BVT_DTYPE_TRITS = 6,
    BVT_DTYPE_I16 = 7,
    BVT_DTYPE_I8 = 8,
    BVT_DTYPE_F16 = 9,
};

enum {
    BVT_STORAGE_CONST = 1,
    BVT_STORAGE_ARENA = 2,
    BVT_STORAGE_TILE = 3,
    BVT_STORAGE_INPUT = 4,
    BVT_STORAGE_OUTPUT = 5,
};

enum {
    BVT_LAYOUT_ROWS = 1,
    BVT_LAYOUT_COLS = 2,
    BVT_LAYOUT_LANES16 = 3,
    BVT_LAYOUT_CSA = 4,
    BVT_LAYOUT_TBL2 = 5,
    BVT_LAYOUT_LUT = 8,
    BVT_LAYOUT_QUADS = 7,
};

enum {
    BVT_STORED_AS_IS = 0,
    BVT_STORED_F16 = 1,
    BVT_STORED_I8 = 2,
};

enum {
    BVT_GOLDEN_STORED = 0,
    BVT_GOLDEN_GENERATED = 1,
};

enum {
    BVT_COLOUR_GRAY = 0,
    BVT_COLOUR_RGB = 1,
    BVT_COLOUR_BGR = 2,
};

enum {
    BVT_RESIZE_STRETCH = 0,
    BVT_RESIZE_SHORT_CROP = 1,
};

enum {
    BVT_FILTER_BILINEAR = 0,
    BVT_FILTER_BICUBIC = 1,
    BVT_FILTER_NEAREST = 2,
};

enum {
    BVT_OP_PATCHES = 1,
    BVT_OP_DENSE = 2,
    BVT_OP_BGEMM = 3,
    BVT_OP_EPILOGUE = 4,
    BVT_OP_ROW_PATCHES = 5,
    BVT_OP_AVG_POOL = 6,
    BVT_OP_STENCIL = 7,
    BVT_OP_ATTENTION = 8,
    BVT_OP_MEAN_ROWS = 9,
    BVT_OP_CHANNEL_POOL = 10,
    BVT_OP_LAYER_NORM_ROWS = 11,
    BVT_OP_NORM_SIGN = 12,
    BVT_OP_GATHER = 13,
    BVT_OP_MIXED_GEMM = 14,
    BVT_OP_MAX_POOL = 15,
    BVT_OP_ACTIVATION = 16,
    BVT_OP_MULTIPLY = 17,
    BVT_OP_DENSE_I8 = 18,
};

#define BVT_OPCODES(X) \
    X(patches, PATCHES) \
    X(dense, DENSE) \
    X(bgemm, BGEMM) \
    X(epilogue, EPILOGUE) \
    X(row_patches, ROW_PATCHES) \
    X(avg_pool, AVG_POOL) \
    X(stencil, STENCIL) \
    X(attention, ATTENTION) \
    X(mean_rows, MEAN_ROWS) \
    X(channel_pool, CHANNEL_POOL) \
    X(layer_norm_rows, LAYER_NORM_ROWS) \
    X(norm_sign, NORM_SIGN) \
    X(gather, GATHER) \
    X(mixed_gemm, MIXED_GEMM) \
    X(max_pool, MAX_POOL) \
    X(activation, ACTIVATION) \
    X(multiply, MULTIPLY) \
    X(dense_i8, DENSE_I8)
#define BVT_OPCODE_END 19

typedef struct {
    uint8_t magic[8];           /* 89 42 56 54 0D 0A 1A 0A, so that a text-mode transfer shows */
    uint32_t version;           /* format version; a reader takes its own version only */
    uint32_t header_bytes;      /* 64 */
    uint64_t file_bytes;        /* size of the whole file, a multiple of 64 */
    uint32_t n_sections;        /* entries of the section table, which follows the header */
    uint32_t table_crc;         /* CRC-32 of the section table */
    uint64_t arena_bytes;       /* memory shared by all threads */
    uint64_t tile_bytes;        /* memory of each thread (tile values, then op scratch) */
    uint64_t widened_bytes;     /* memory of a model for its constants that are stored as F16 or I8; 0 where there is none */
    uint32_t flags;             /* 0 */
    uint32_t header_crc;        /* CRC-32 of the 60 bytes before */
} bvt_rec_header;
_Static_assert(sizeof(bvt_rec_header) == 64, "layout of header");

typedef struct {
    uint32_t kind;              /* SECTIONS */
    uint32_t crc;               /* CRC-32 of the section's bytes */
    uint64_t offset;            /* from the start of the file, a multiple of 64 */
    uint64_t bytes;             /* size without padding */
    uint32_t count;             /* records in it; 0 where the section is not a table */
    uint32_t reserved;          /* 0 */
} bvt_rec_section;
_Static_assert(sizeof(bvt_rec_section) == 32, "layout of section");

typedef struct {
    uint32_t name;              /* offset of a NUL-terminated string in NAMES */
    uint8_t dtype;              /* DTYPES */
    uint8_t storage;            /* STORAGES */
    uint8_t layout;             /* LAYOUTS */
    uint8_t stored;             /* STORED; of everything but f32 constants AS_IS */
    uint32_t rows;
    uint32_t cols;
    uint32_t stride;            /* bytes from a row to the next (ROWS), a column to the next (COLS), a tile to the next (weights) */
    uint32_t reserved;          /* 0 */
    uint64_t offset;            /* in CONSTANTS, the arena or the tile memory; 0 for INPUT and OUTPUT */
    uint64_t bytes;             /* whole size; of a TILE value: of one block; of F16 and I8: of the stored form */
    uint64_t widened;           /* of F16 and I8: offset in the widened memory, where the f32 are dense; else 0 */
    uint64_t reserved2[2];      /* 0 */
} bvt_rec_value;
_Static_assert(sizeof(bvt_rec_value) == 64, "layout of value");

typedef struct {
    uint32_t opcode;            /* OPCODES */
    uint32_t name;              /* the op's name, in NAMES */
    uint32_t module;            /* the source module that it came from, in NAMES */
    uint32_t scratch;           /* bytes of tile memory that the kernel may use while it runs, at the end of tile_bytes */
    uint64_t macs_binary;       /* binary multiply-accumulates of one inference */
    uint64_t macs_float;        /* the same in floating point, and of dense_i8 */
    uint32_t inputs[20];        /* value indices or NONE */
    uint32_t outputs[6];        /* value indices or NONE */
    int32_t attr[24];           /* meaning: the op's file */
    float fattr[4];             /* likewise */
    uint32_t reserved[2];       /* 0 */
} bvt_rec_op;
_Static_assert(sizeof(bvt_rec_op) == 256, "layout of op");

typedef struct {
    uint32_t first_op;          /* groups partition the op list in order */
    uint32_t n_ops;
    uint32_t rows;              /* row space: every op's outputs have this many rows */
    uint32_t block;             /* rows of a block; a multiple of 8, or all rows */
    uint32_t reserved[4];       /* 0 */
} bvt_rec_group;
_Static_assert(sizeof(bvt_rec_group) == 32, "layout of group");

typedef struct {
    uint32_t kind;              /* GOLDENS */
    uint32_t reserved;          /* 0 */
    uint64_t seed;              /* of a GENERATED input (artifact/golden.py); 0 of a STORED one */
} bvt_rec_golden;
_Static_assert(sizeof(bvt_rec_golden) == 16, "layout of golden");

typedef struct {
    uint32_t width;             /* network input */
    uint32_t height;
    uint32_t channels;          /* 1 or 3 */
    uint32_t colour;            /* COLOURS */
    uint32_t resize;            /* RESIZES */
    uint32_t resize_short;      /* SHORT_CROP: the shorter side becomes this before the centre crop; else 0 */
    uint32_t filter;            /* FILTERS */
    uint32_t reserved;          /* 0 */
    float mean[4];              /* per channel, of pixel/255 */
    float std[4];               /* per channel, of pixel/255 */
} bvt_rec_preprocess;
_Static_assert(sizeof(bvt_rec_preprocess) == 64, "layout of preprocess");

#endif
