/* The vocabulary in which the ops check their records. Every failure becomes one sentence that names the op. */
#include "internal.h"

static const char *name_of(const bvt_check *c) { return (const char *)c->model->section[BVT_SECTION_NAMES] + c->op->name; }

const bvt_rec_value *bvt_in(const bvt_check *c, unsigned i) {
    return c->op->inputs[i] == BVT_NONE ? NULL : &c->model->values[c->op->inputs[i]];
}

const bvt_rec_value *bvt_out(const bvt_check *c, unsigned i) {
    return c->op->outputs[i] == BVT_NONE ? NULL : &c->model->values[c->op->outputs[i]];
}

int bvt_expect(const bvt_check *c, bool condition, const char *sentence) {
    if (condition) return BVT_OK;
    return bvt_fail(c->err, BVT_E_FORMAT, "op %u (%s %.100s): %s", c->index, bvt_opcode_name(c->op->opcode), name_of(c), sentence);
}

int bvt_check_operands(const bvt_check *c, uint32_t in_required, uint32_t in_optional, uint32_t out_required,
                       uint32_t out_optional) {
    for (unsigned i = 0; i < BVT_N_IN; i++) {
        bool there = c->op->inputs[i] != BVT_NONE;
        BVT_TRY(bvt_expect(c, there || !(in_required >> i & 1), "an input is missing"));
        BVT_TRY(bvt_expect(c, !there || ((in_required | in_optional) >> i & 1), "it has an input too many"));
    }
    for (unsigned i = 0; i < BVT_N_OUT; i++) {
        bool there = c->op->outputs[i] != BVT_NONE;
        BVT_TRY(bvt_expect(c, there || !(out_required >> i & 1), "an output is missing"));
        BVT_TRY(bvt_expect(c, !there || ((out_required | out_optional) >> i & 1), "it has an output too many"));
    }
    return BVT_OK;
}

int bvt_check_value(const bvt_check *c, const bvt_rec_value *v, int dtype, int layout, uint64_t rows, uint64_t cols,
                    const char *role) {
    if (v->dtype == dtype && v->layout == layout && v->rows == rows && v->cols == cols) return BVT_OK;
    return bvt_fail(c->err, BVT_E_FORMAT, "op %u (%s %.100s): %s has the wrong type, layout or size", c->index,
                    bvt_opcode_name(c->op->opcode), name_of(c), role);
}

bool bvt_is_half(const bvt_model *model, const bvt_rec_op *op) {
    bool half = false;
    for (unsigned i = 0; i < BVT_N_IN; i++)
        half = half || (op->inputs[i] != BVT_NONE && model->values[op->inputs[i]].dtype == BVT_DTYPE_F16);
    for (unsigned i = 0; i < BVT_N_OUT; i++)
        half = half || (op->outputs[i] != BVT_NONE && model->values[op->outputs[i]].dtype == BVT_DTYPE_F16);
    return half;
}

int bvt_real_dtype(const bvt_check *c) { return bvt_is_half(c->model, c->op) ? BVT_DTYPE_F16 : BVT_DTYPE_F32; }

int bvt_check_attrs_end(const bvt_check *c, unsigned from) { return bvt_check_reserved(c, from, 0); }

int bvt_check_reserved(const bvt_check *c, unsigned from, unsigned ffrom) {
    for (unsigned i = from; i < BVT_N_ATTR; i++) BVT_TRY(bvt_expect(c, c->op->attr[i] == 0, "an unused attribute is not 0"));
    for (unsigned i = ffrom; i < BVT_N_FATTR; i++) BVT_TRY(bvt_expect(c, c->op->fattr[i] == 0, "an unused attribute is not 0"));
    return BVT_OK;
}

int bvt_check_window(const bvt_check *c, unsigned at, uint64_t *out_h, uint64_t *out_w) {
    const int32_t *a = c->op->attr + at; /* H, W, k, s */
    BVT_TRY(bvt_expect(c, a[0] > 0 && a[1] > 0 && a[2] > 0 && a[3] > 0, "grid, kernel and stride must be positive"));
    BVT_TRY(bvt_expect(c, a[2] <= a[0] && a[2] <= a[1], "the kernel is larger than the grid"));
    *out_h = (uint64_t)(a[0] - a[2]) / (uint64_t)a[3] + 1;
    *out_w = (uint64_t)(a[1] - a[2]) / (uint64_t)a[3] + 1;
    return BVT_OK;
}

int bvt_check_padded_window(const bvt_check *c, int32_t d, uint64_t *out_h, uint64_t *out_w) {
    const int32_t *a = c->op->attr; /* H, W, k, s, p */
    BVT_TRY(bvt_expect(c, a[0] > 0 && a[1] > 0 && a[2] > 0 && a[3] > 0, "grid, kernel and stride must be positive"));
    BVT_TRY(bvt_expect(c, a[4] >= 0 && a[4] < 4096 && d > 0 && d < 4096, "padding or dilation is out of range"));
    const int64_t span = (int64_t)d * (a[2] - 1) + 1, h = (int64_t)a[0] + 2 * a[4], w = (int64_t)a[1] + 2 * a[4];
    BVT_TRY(bvt_expect(c, span <= h && span <= w, "the kernel is larger than the grid"));
    *out_h = (uint64_t)((h - span) / a[3] + 1);
    *out_w = (uint64_t)((w - span) / a[3] + 1);
    return BVT_OK;
}

int bvt_check_indices(const bvt_check *c, const bvt_rec_value *v, int64_t least, uint64_t end, const char *role) {
    BVT_TRY(bvt_check_value(c, v, BVT_DTYPE_I32, BVT_LAYOUT_ROWS, v->rows, v->cols, role));
    BVT_TRY(bvt_expect(c, v->storage == BVT_STORAGE_CONST, "a table of row numbers is not a constant"));
    const uint8_t *row = c->model->section[BVT_SECTION_CONSTANTS] + v->offset;
    bool inside = true;
    for (uint32_t r = 0; r < v->rows; r++, row += v->stride)
        for (uint32_t i = 0; i < v->cols; i++) {
            const int32_t index = ((const int32_t *)(const void *)row)[i];
            inside = inside && index >= least && (index < 0 || (uint64_t)index < end);
        }
    return bvt_expect(c, inside, "a row number is out of range");
}

static const char *const opcode_names[] = {"none",
#define X(name, NAME) #name,
                                           BVT_OPCODES(X)
#undef X
};
_Static_assert(sizeof opcode_names / sizeof *opcode_names == BVT_OPCODE_END, "opcodes are numbered without gaps");

const char *bvt_opcode_name(uint32_t opcode) { return opcode_names[opcode < BVT_OPCODE_END ? opcode : 0]; }

int bvt_check_op(bvt_check *c) {
    c->whole = 0;
    c->scratch = 0;
    switch (c->op->opcode) {
#define X(name, NAME) \
    case BVT_OP_##NAME: return bvt_check_##name(c);
        BVT_OPCODES(X)
#undef X
    default: return bvt_expect(c, false, "unknown opcode");
    }
}
