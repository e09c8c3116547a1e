/* What the runtime's files share. Nothing here is public; bvt.h is.
 *
 * Adding an op: its opcode in spec.py, then src/ops/<op>.c with bvt_check_<op> and bvt_<op>_ref, a line in kernels/kernels.inc.
 * Adding a kernel: src/kernels/<op>_<isa>.c and a line in kernels/kernels.inc and one in sources.txt; the tests follow the list.
 */
#ifndef BVT_INTERNAL_H
#define BVT_INTERNAL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "bvt.h"
#include "bvt_format.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file's records are used in place");
_Static_assert(BVT_N_OUT == BVT_MAX_OUTPUTS, "bvt.h");

/* ---- Errors and small helpers -------------------------------------------------------------------------------------------- */

/* Writes code and text into err (NULL: nowhere) and returns code. */
int bvt_fail(bvt_error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

uint32_t bvt_crc32(uint32_t crc, const void *data, size_t bytes); /* zlib's crc32() */

static inline uint64_t bvt_ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }
static inline uint64_t bvt_align64(uint64_t n) { return (n + 63) & ~(uint64_t)63; }
/* Bytes of one of the two planes of n trits. */
static inline size_t bvt_plane(uint32_t n) { return (size_t)(bvt_ceil_div(n, 64) * 8); }
static inline uint32_t bvt_min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* ---- Model --------------------------------------------------------------------------------------------------------------- */

struct bvt_model {
    const uint8_t *data;
    size_t bytes;
    enum { BVT_BORROWED, BVT_MAPPED, BVT_OWNED } ownership;
    const bvt_rec_header *header;
    const bvt_rec_section *sections;
    /* By section kind; of an absent section NULL and 0. */
    const uint8_t *section[BVT_SECTION_PREPROCESS + 1];
    uint64_t section_bytes[BVT_SECTION_PREPROCESS + 1];
    uint32_t section_count[BVT_SECTION_PREPROCESS + 1];
    const bvt_rec_value *values;
    const bvt_rec_op *ops;
    const bvt_rec_group *groups;
    const bvt_rec_preprocess *preprocess;
    uint32_t n_values, n_ops, n_groups, n_meta, n_labels, n_golden;
    uint32_t input, output; /* value indices */
    uint32_t max_group_ops;
    uint32_t *op_group;   /* [n_ops] */
    const char **labels;  /* [n_labels] */
    const float **golden; /* [n_golden]: each pair's numbers in the file */
    uint8_t *widened;     /* header->widened_bytes: the f32 of the constants that are stored as F16 or I8 */
    uint8_t **relaid;     /* [n_values], or NULL: weights in layouts that no kernel of this machine reads fast, as LANES16 */
    uint8_t *relaid_memory;
};

/* ---- Widening (widen.c) -------------------------------------------------------------------------------------------------- */

/* Bytes in CONSTANTS of a value that is stored as F16 or I8; rows and cols are at most 2^24. */
uint64_t bvt_stored_bytes(const bvt_rec_value *v);
/* Widens them to rows*cols floats. `from` is aligned to 4 bytes. */
void bvt_widen(const bvt_rec_value *v, const uint8_t *from, float *to);
/* A weight of any layout, rows and cols as in `v`, as LANES16. */
void bvt_relay(const bvt_rec_value *v, const uint8_t *from, uint8_t *to);
static inline uint64_t bvt_lanes16_stride(uint32_t cols) { return bvt_ceil_div(cols, 8) * 16; }
/* The golden input of a seed, rows*cols floats. */
void bvt_generate(uint64_t seed, uint32_t rows, uint32_t cols, float *to);

/* ---- Checking ops -------------------------------------------------------------------------------------------------------- */

/* One op under check. bvt_check_<op> says whether operands and attributes fit, and fills `whole` and `scratch`. */
typedef struct {
    const bvt_model *model;
    const bvt_rec_op *op;
    uint32_t index, rows; /* op index, row space of its group */
    const uint32_t *producer; /* of each value, the op that wrote it so far, or BVT_NONE; NULL: not known */
    bvt_error *err;
    uint32_t whole;   /* out: bit i set: input i is read at other rows than the one being produced */
    uint64_t scratch; /* out: bytes of scratch that the op's kernels need */
} bvt_check;

/* The operand, or NULL where the record says NONE. */
const bvt_rec_value *bvt_in(const bvt_check *c, unsigned i);
const bvt_rec_value *bvt_out(const bvt_check *c, unsigned i);

/* These return BVT_OK, or write an error that names the op and return its code. */
int bvt_expect(const bvt_check *c, bool condition, const char *sentence);
/* Inputs in `required` are there, and none that is in neither mask; outputs likewise. */
int bvt_check_operands(const bvt_check *c, uint32_t in_required, uint32_t in_optional, uint32_t out_required,
                       uint32_t out_optional);
int bvt_check_value(const bvt_check *c, const bvt_rec_value *v, int dtype, int layout, uint64_t rows, uint64_t cols,
                    const char *role);
/* attr[from ..] and all of fattr are 0: reserved. */
int bvt_check_attrs_end(const bvt_check *c, unsigned from);
/* The same of attr[from ..] and fattr[ffrom ..]. */
int bvt_check_reserved(const bvt_check *c, unsigned from, unsigned ffrom);
/* attr[at .. at+3] are H, W, k, s of a window op; writes the output's grid. */
int bvt_check_window(const bvt_check *c, unsigned at, uint64_t *out_h, uint64_t *out_w);
/* attr[0 .. 4] are H, W, k, s, p of a window of dilation d; writes the output's grid. */
int bvt_check_padded_window(const bvt_check *c, int32_t d, uint64_t *out_h, uint64_t *out_w);
/* Whether the op computes in fp16, or reads it: an operand is F16. */
bool bvt_is_half(const bvt_model *model, const bvt_rec_op *op);
/* BVT_DTYPE_F16 of such an op, else BVT_DTYPE_F32. */
int bvt_real_dtype(const bvt_check *c);
/* The value is an i32 constant in layout ROWS of which every element is least .. end-1. */
int bvt_check_indices(const bvt_check *c, const bvt_rec_value *v, int64_t least, uint64_t end, const char *role);

#define BVT_TRY(call)                          \
    do {                                       \
        int bvt_try_code = (call);             \
        if (bvt_try_code) return bvt_try_code; \
    } while (0)

/* ---- Dots --------------------------------------------------------------------------------------------------------------- */

/* Integers that bgemm and attention give are i16 up to this size, so that neither end of i16 is a dot: ceil(threshold) of a threshold
 * beyond i16 may be cut to the end. Others are i32, up to what is a float with every integer below it. */
enum { BVT_MOST_I16 = 32766, BVT_MOST_DOT = 1 << 24 };

/* Element c of a row of dots, whose dtype is I16 (narrow) or I32. */
static inline void bvt_put_dot(void *row, uint32_t c, int32_t dot, bool narrow) {
    if (narrow) ((int16_t *)row)[c] = (int16_t)dot;
    else ((int32_t *)row)[c] = dot;
}

/* ---- Weights of bgemm: their layouts (KERNELS.md) -------------------------------------------------------------------------- */

/* Channels that a tile of a layout of weights holds; 0: it is no such layout. */
uint32_t bvt_tile_channels(int layout);
/* Bytes of a tile of `cols` columns. */
uint64_t bvt_tile_bytes(int layout, uint32_t cols);

/* ---- Kernels ------------------------------------------------------------------------------------------------------------- */

/* A value as a kernel sees it. Only rows `first` and later are in memory (a TILE value holds one block), at `base`. */
typedef struct {
    uint8_t *base; /* NULL: there is no such operand */
    size_t stride;
    uint32_t first, rows, cols;
    uint8_t dtype, layout; /* BVT_DTYPE_*, BVT_LAYOUT_* */
    bool tile, by_cols; /* storage TILE, layout COLS */
} bvt_view;

typedef struct {
    const bvt_rec_op *op;
    bvt_view in[BVT_N_IN], out[BVT_N_OUT];
    void *scratch;  /* op->scratch bytes, aligned to 64 */
    uint32_t tiles; /* bit i: in[i], and bit BVT_N_IN + i: out[i], is a tile */
} bvt_call;
_Static_assert(BVT_N_IN + BVT_N_OUT <= 32, "bvt_call.tiles");

/* Produces rows row0 .. row1-1 of every output. row0 is a multiple of 8; row1 is one too, or the number of rows. */
typedef void (*bvt_kernel)(const bvt_call *call, uint32_t row0, uint32_t row1);

static inline void *bvt_row(const bvt_view *v, uint32_t row) { return v->base + (size_t)(row - v->first) * v->stride; }
static inline const uint16_t *bvt_row_f16(const bvt_view *v, uint32_t row) { return (const uint16_t *)bvt_row(v, row); }
static inline const float *bvt_row_f32(const bvt_view *v, uint32_t row) { return (const float *)bvt_row(v, row); }
static inline const uint8_t *bvt_row_bits(const bvt_view *v, uint32_t row) { return (const uint8_t *)bvt_row(v, row); }

/* ISAs, in rising order of preference: X(name, NAME). */
#define BVT_ISAS(X) X(ref, REF) X(neon, NEON) X(avx2, AVX2) X(avx512, AVX512)
enum {
#define X(name, NAME) BVT_ISA_##NAME,
    BVT_ISAS(X)
#undef X
    BVT_ISA_END
};

typedef struct {
    bool neon, vfpv4, dotprod, fp16, avx2, fma, f16c, popcnt, avx512; /* avx512: F, BW, DQ, VL, VBMI, VPOPCNTDQ, BITALG */
    bool in_order;                                       /* an ARM core that issues in order */
} bvt_cpu;
const bvt_cpu *bvt_cpu_get(void);
bool bvt_isa_available(int isa);        /* can this CPU run it, and is it compiled in */
bool bvt_kernel_usable(unsigned index); /* may this CPU run line `index` of kernels.inc */

/* One line of kernels.inc. half: for ops of which an operand is F16; other kernels never see F16. */
typedef struct {
    int opcode, isa;
    bool half;
    const char *name;
    bvt_kernel fn;
} bvt_kernel_entry;
extern const bvt_kernel_entry bvt_kernels[];
extern const unsigned bvt_n_kernels;

/* The kernel of an op for an isa: its own, else that of the next lower isa that has one, the reference at last. */
bvt_kernel bvt_kernel_find(uint32_t opcode, bool half, int isa);

const char *bvt_opcode_name(uint32_t opcode);
int bvt_check_op(bvt_check *c); /* dispatches on the opcode */

#define X(name, NAME) int bvt_check_##name(bvt_check *c);
BVT_OPCODES(X)
#undef X
#define BVT_KERNEL(OP, ISA, fn, condition) void fn(const bvt_call *call, uint32_t row0, uint32_t row1);
#define BVT_HALF_KERNEL BVT_KERNEL
#include "kernels/kernels.inc"
#undef BVT_HALF_KERNEL
#undef BVT_KERNEL

/* ---- Threads ------------------------------------------------------------------------------------------------------------- */

/* A persistent pool: bvt_pool_run has `work(arg, t)` executed by threads t = 0 (the caller) .. n-1 and returns when all are done;
 * bvt_pool_barrier inside of work waits for all. */
typedef struct bvt_pool bvt_pool;
size_t bvt_pool_bytes(uint32_t threads);
int bvt_pool_create(void *memory, uint32_t threads, bvt_pool **out, bvt_error *err);
void bvt_pool_destroy(bvt_pool *pool);
void bvt_pool_run(bvt_pool *pool, void (*work)(void *arg, uint32_t thread), void *arg);
void bvt_pool_barrier(bvt_pool *pool, uint32_t thread);

/* affinity.c: how many cores the calling thread may run on, 0 where that is not known. */
long bvt_usable_cpus(void);
#if defined(CPU_SETSIZE)
/* Leaves in `set` the fastest (slowest) of its cores, as `root` (the kernel's folder of cores) says: so many that `threads` threads
 * have one each, and all that are as fast as the last of them. Where speeds are not known, or cores too few: all. */
void bvt_fast_cpus(const char *root, uint32_t threads, cpu_set_t *set);
void bvt_slow_cpus(const char *root, uint32_t threads, cpu_set_t *set);
#endif

#endif
