/* bvt.h - runs `.bvt` files: binary Vision Transformers, compiled by bvtdeploy. The whole public API.
 *
 *     bvt_error err;
 *     bvt_model *model;
 *     bvt_session *session;
 *     if (bvt_open("model.bvt", &model, &err)) { fprintf(stderr, "%s\n", err.text); return 1; }
 *     bvt_options options = {.threads = 4};                       // everything else: the default
 *     if (bvt_session_create(model, &options, &session, &err)) ...
 *     bvt_preprocess(model, pixels, width, height, 3, input, &err); // input: input_rows * input_cols floats
 *     bvt_run(session, input, output);                             // output: output_rows * output_cols floats
 *     bvt_session_destroy(session);
 *     bvt_close(model);
 *
 * - Every function that returns `int` returns BVT_OK (0) or one of the BVT_E codes, and on failure writes code and text into
 *   `err` where it takes one (NULL is allowed). It then leaves its other outputs untouched, except that `*out` of open and
 *   create becomes NULL.
 * - A file is checked once, at open; nothing in it is trusted before.
 * - A model is immutable: any number of sessions and threads may use one. It must outlive its sessions. Pointers that are
 *   returned by model functions point into the model and live as long as it.
 * - A session belongs to one caller at a time. Nothing is allocated after bvt_session_create.
 * - The output is the same bits on every machine, ISA and number of threads (NaN payloads excepted).
 */
#ifndef BVT_H
#define BVT_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BVT_RUNTIME_VERSION "0.1.0"
#define BVT_MAX_OUTPUTS 6 /* outputs of an op */
#define BVT_MAX_THREADS 64

/* ---- Errors -------------------------------------------------------------------------------------------------------------- */

enum {
    BVT_OK = 0,
    BVT_E_IO = 1,          /* the file cannot be opened, read or mapped */
    BVT_E_FORMAT = 2,      /* not a .bvt file, another version, or a damaged or malformed one: the text names section or op */
    BVT_E_MEMORY = 3,      /* out of memory, or the caller's memory is too small */
    BVT_E_ARGUMENT = 4,    /* a wrong argument */
    BVT_E_UNSUPPORTED = 5, /* the isa is unknown or this CPU does not have it */
};

typedef struct {
    int code;
    char text[256]; /* one line, NUL-terminated */
} bvt_error;

/* ---- Models -------------------------------------------------------------------------------------------------------------- */

typedef struct bvt_model bvt_model;

/* Opens and checks a file (mapped, not read into memory; constants stored as fp16 or int8 are widened here, once, and weights
 * laid out for another machine are laid out anew). `*out` is to be closed with bvt_close. The file must not be changed while it
 * is open. */
int bvt_open(const char *path, bvt_model **out, bvt_error *err);

/* The same from memory. Memory that is aligned to 64 bytes is used in place and must outlive the model; other memory is copied. */
int bvt_open_memory(const void *data, size_t bytes, bvt_model **out, bvt_error *err);

/* Frees a model. NULL is allowed. */
void bvt_close(bvt_model *model);

/* ---- Introspection ------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t input_rows, input_cols;   /* the f32 input: for an image, channels * height rows of `width` floats */
    uint32_t output_rows, output_cols; /* the f32 output */
    uint32_t n_ops, n_values, n_groups, n_sections, n_labels, n_meta, n_golden;
    uint64_t file_bytes;
    uint64_t arena_bytes;             /* memory that the threads share */
    uint64_t tile_bytes;              /* memory of each thread */
    uint64_t widened_bytes;           /* memory of the model, for constants that the file holds in fewer bytes */
    uint64_t macs_binary, macs_float; /* of one inference */
} bvt_model_info;

typedef struct {
    const char *kind;   /* the op's kind as in bvtdeploy/ops, e.g. "bgemm" */
    const char *name;   /* the op's name */
    const char *module; /* the module of the source model that it came from */
    uint64_t macs_binary, macs_float;
    uint32_t group;
    uint32_t rows, cols;               /* of the first output */
    uint32_t outputs[BVT_MAX_OUTPUTS]; /* value indices; UINT32_MAX where there is no output */
} bvt_op_info;

typedef struct {
    const char *name;
    const char *dtype;   /* "f32", "i32", "i16", "i8", "bits", "trits", "u64", "f64" */
    const char *storage; /* "const", "arena", "tile", "input", "output" */
    const char *layout;  /* "rows", "cols", or of weights "lanes16", "csa", "tbl2", "lut", "quads" */
    const char *stored;  /* how the file holds a constant: "as_is", "f16", "i8" */
    uint32_t rows, cols, stride;
    uint64_t offset, bytes; /* of f16 and i8: of the stored form */
} bvt_value_info;

typedef struct {
    uint32_t first_op, n_ops, rows, block;
} bvt_group_info;

typedef struct {
    const char *name; /* "META", "VALUES", ... */
    uint64_t offset, bytes;
    uint32_t count, crc;
} bvt_section_info;

enum { BVT_META_TYPE_U64 = 1, BVT_META_TYPE_F64 = 2, BVT_META_TYPE_STR = 3, BVT_META_TYPE_BYTES = 4 };
typedef struct {
    const char *key; /* key_bytes long, not NUL-terminated */
    size_t key_bytes;
    int type;          /* BVT_META_TYPE_* */
    const void *value; /* value_bytes long, unaligned, not NUL-terminated; numbers are little-endian */
    size_t value_bytes;
} bvt_meta_info;

typedef struct {
    int present; /* 0: the model has no PREPROCESS record, and everything else here is 0 */
    uint32_t width, height, channels;
    const char *colour; /* "gray", "rgb", "bgr" */
    const char *resize; /* "stretch", "short_crop" */
    const char *filter; /* "bilinear", "bicubic", "nearest" */
    uint32_t resize_short;
    float mean[4], std[4];
} bvt_preprocess_info;

/* These cannot fail; an index must be below the count that bvt_info gives. */
bvt_model_info bvt_info(const bvt_model *model);
bvt_op_info bvt_get_op(const bvt_model *model, uint32_t op);
bvt_value_info bvt_get_value(const bvt_model *model, uint32_t value);
bvt_group_info bvt_get_group(const bvt_model *model, uint32_t group);
bvt_section_info bvt_get_section(const bvt_model *model, uint32_t section);
bvt_meta_info bvt_get_meta(const bvt_model *model, uint32_t index);
bvt_preprocess_info bvt_get_preprocess(const bvt_model *model);
const char *bvt_get_label(const bvt_model *model, uint32_t label); /* UTF-8 */

/* Finds a meta entry by key. Returns 1 and fills `*out`, or 0 where there is none. */
int bvt_find_meta(const bvt_model *model, const char *key, bvt_meta_info *out);

/* Golden pairs: what the compiler's reference interpreter computed. The input, input_rows*input_cols floats, is written to
 * `input`: it is in the file, or made from a seed that is. The output, output_rows*output_cols floats, is in the model. */
void bvt_golden_input(const bvt_model *model, uint32_t index, float *input);
const float *bvt_golden_output(const bvt_model *model, uint32_t index);

/* ---- Preprocessing ------------------------------------------------------------------------------------------------------- */

/* Turns an 8-bit image (height x width x channels, interleaved; 1 = gray, 3 = RGB, 4 = RGBA whose alpha is ignored) into the
 * network's input as the PREPROCESS record says, with the resampling of Pillow bit for bit. Allocates while it runs. */
int bvt_preprocess(const bvt_model *model, const uint8_t *pixels, uint32_t width, uint32_t height, uint32_t channels, float *input,
                   bvt_error *err);

/* ---- Sessions ------------------------------------------------------------------------------------------------------------ */

typedef struct bvt_session bvt_session;

/* Called after every op on every block with the rows that it produced. `output` is the index among the op's outputs; row i of
 * the block starts at `data + i*stride`. Of an output in layout "cols" it is called once, when the group has ended, with
 * row0 = 0, all rows, `data` = the whole value and `stride` = bytes from a column to the next. */
typedef void (*bvt_observer)(void *user, uint32_t op, uint32_t output, uint32_t row0, uint32_t rows, const void *data,
                             size_t stride);

/* Binds the calling thread to cores; threads that it starts later, those of a session among them, inherit that. `cpus` is a list
 * such as "0-3,6", "all", or of a big.LITTLE processor "fast" or "slow": its fastest or slowest cores, as many kinds of them as
 * are enough for `threads` threads. Results do not depend on it. BVT_E_ARGUMENT: no list, or not all of its cores are this
 * process's; BVT_E_UNSUPPORTED: not on this system. */
int bvt_use_cpus(const char *cpus, uint32_t threads, bvt_error *err);

typedef struct {
    uint32_t threads;      /* 1 .. BVT_MAX_THREADS, including the caller's; 0 is 1 */
    const char *isa;       /* NULL or "auto": the best of this CPU; "ref": portable kernels only; else a name of bvt_isa_name */
    int profile;           /* 1: count the time of every op and group; 2: also keep the spans of the last run */
    int op_crc;            /* checksum the outputs of every op (1 thread only) */
    bvt_observer observer; /* or NULL (1 thread only) */
    void *observer_user;
    void *memory; /* NULL: allocate; else the session lives here, in bvt_session_bytes(...) bytes, aligned to 64 */
    size_t memory_bytes;
} bvt_options;

/* Memory that a session needs, without its threads' stacks. 0 where the options are wrong or it exceeds the address space.
 * `options` may be NULL (defaults). */
size_t bvt_session_bytes(const bvt_model *model, const bvt_options *options);

/* Makes a session and starts its threads. `*out` is to be destroyed with bvt_session_destroy. `options` may be NULL. */
int bvt_session_create(const bvt_model *model, const bvt_options *options, bvt_session **out, bvt_error *err);

/* Ends the threads and frees what create allocated (never the caller's memory). NULL is allowed. */
void bvt_session_destroy(bvt_session *session);

/* One inference: reads input_rows*input_cols floats, writes output_rows*output_cols floats. The two must not overlap. Fails only
 * with BVT_E_ARGUMENT, where a pointer is NULL. */
int bvt_run(bvt_session *session, const float *input, float *output);

/* The isa that the session was made with ("ref", "neon", "avx2", "avx512") and its number of threads. */
const char *bvt_session_isa(const bvt_session *session);
uint32_t bvt_session_threads(const bvt_session *session);

/* Times since create or the last reset (option `profile`, else zeros): ns of every op summed over the threads into op_ns[n_ops],
 * wall ns of every group into group_ns[n_groups]. Either may be NULL. */
void bvt_profile_get(const bvt_session *session, uint64_t *op_ns, uint64_t *group_ns);
void bvt_profile_reset(bvt_session *session);

/* What one thread did from start to end, in ns since the run began: op `op` on rows row0 .. row0+rows-1, or, with op = UINT32_MAX,
 * waiting for the others at the end of group `row0` (rows = 0). */
typedef struct {
    uint64_t start_ns, end_ns;
    uint32_t thread, op, row0, rows;
} bvt_span;

/* The spans of the last run (option `profile` = 2), thread by thread, of each in order of time. Writes at most `room` of them to
 * `spans` (NULL where room is 0) and returns how many there are. */
size_t bvt_profile_spans(const bvt_session *session, bvt_span *spans, size_t room);

/* CRC-32 (zlib's) of the last run's outputs of every op (option `op_crc`, else zeros): n_ops * BVT_MAX_OUTPUTS entries, 0 where
 * an op has no such output. Over the logical bytes in row order: f32, i32 and i16 (as i32) cols*4 bytes a row (a NaN counts as
 * 0x7FC00000); bits in layout "rows" ceil(cols/8) bytes a row; bits in layout "cols" ceil(rows/8) bytes a column. */
const uint32_t *bvt_op_crcs(const bvt_session *session);

/* ---- This runtime and this CPU ------------------------------------------------------------------------------------------- */

/* BVT_RUNTIME_VERSION of the library, and the version of the file format that it reads. */
const char *bvt_version(void);
uint32_t bvt_format_version(void);

/* The ISAs that this CPU can run: 0 is "ref", better ones follow. */
uint32_t bvt_isa_count(void);
const char *bvt_isa_name(uint32_t index);

/* Features of this CPU that matter, separated by blanks, e.g. "avx2 fma" or "asimd asimddp". */
const char *bvt_cpu_features(void);

#ifdef __cplusplus
}
#endif
#endif
