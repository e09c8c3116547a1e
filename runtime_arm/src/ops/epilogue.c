/* epilogue: everything elementwise that follows a product, in one pass, up to the sign bits of the next binary layers.
 *
 *     v = float(x)
 *     v = fma(v, scale[c], shift[c])            shift alone: v + shift[c]; scale alone: fma(v, scale[c], res_0[..]), which is not
 *                                               added again, or, without a residual 0, v * scale[c]
 *     v = v + res_j[row_j(r)][c mod cols_j]     j = 0, 1, 2
 *     v = fma(v <= knee[c] ? v : knee[c], slope[c] - 1, v)     PReLU; no knee: 0
 *     v = v + post[c]
 *     v = fma(v, scale2[c], shift2[c])          likewise
 *     v = v + post_res_j[row_j(r)][c mod cols_j]
 *     out[0] = v; out[1+i] = bit v >= threshold_i[c], or trit v >= threshold_i[1][c] ? +1 : v < threshold_i[0][c] ? -1 : 0
 *     pooled, out[0] has the means of every g consecutive channels of v instead, made as channel_pool makes them
 *     inputs: epilogue.h; attr[0] = W, attr[1+j] = factor of residual slot j; 0: row_j(r) = rows[0][r], a constant table;
 *     attr[7]: 1: no dot of x is beyond +-512; attr[8] = g: 2, 4 or 8, or 0: nothing is pooled
 *     in fp16 (an operand is F16, then all are but dots, x and out[0], which may be f32) v is rounded to binary16 at every `=`,
 *     once, and so is slope[c] - 1; an f32 out[0] is then the fp16 v, or the fp16 mean, widened
 *
 * out[0], not pooled, may be the very memory of x, or of a residual that has its shape: every kernel reads element (r, c) before it
 * writes it.
 */
#include "epilogue.h"

#include "../half.h"
#include "../numerics.h"
#include "attention.h"
#include "bits.h"

_Static_assert(BVT_EP_INPUTS == 19, "the roles of bvtdeploy/ops/epilogue.py");

static int check_residual(bvt_check *c, unsigned slot, const bvt_rec_value *x, int real) {
    const bvt_rec_value *v = bvt_in(c, BVT_EP_RES0 + slot);
    const int32_t width = c->op->attr[0], f = c->op->attr[1 + slot];
    if (!v) return bvt_expect(c, f == 1, "the factor of an absent residual is not 1");
    BVT_TRY(bvt_expect(c, f >= 0 && f < 4096, "a residual's factor is out of range"));
    BVT_TRY(bvt_expect(c, x->cols % v->cols == 0, "a residual's columns do not divide the output's"));
    if (f == 0) {
        const bvt_rec_value *rows = bvt_in(c, BVT_EP_ROWS);
        BVT_TRY(bvt_expect(c, rows && rows->rows == 1 && rows->cols == x->rows,
                           "a residual's table of rows is missing or misfits"));
        BVT_TRY(bvt_check_indices(c, rows, 0, v->rows, "the table of rows"));
        c->whole |= 1u << (BVT_EP_RES0 + slot);
        return bvt_check_value(c, v, real, BVT_LAYOUT_ROWS, v->rows, v->cols, "a residual");
    }
    BVT_TRY(bvt_expect(c, (uint64_t)v->rows * (uint64_t)f * (uint64_t)f == x->rows, "a residual's rows and factor do not fit"));
    if (f != 1) {
        BVT_TRY(bvt_expect(c, width > 0 && width % f == 0 && x->rows % ((uint64_t)width * (uint64_t)f) == 0,
                           "a residual's grid and factor do not fit"));
        c->whole |= 1u << (BVT_EP_RES0 + slot);
    }
    return bvt_check_value(c, v, real, BVT_LAYOUT_ROWS, v->rows, v->cols, "a residual");
}

/* attr[BVT_EP_SMALL]: no dot of x is larger. */
static int check_small(bvt_check *c) {
    const int32_t claim = c->op->attr[BVT_EP_SMALL];
    if (claim == 0) return BVT_OK;
    const uint32_t by = c->producer ? c->producer[c->op->inputs[BVT_EP_X]] : BVT_NONE;
    const bvt_rec_op *op = by == BVT_NONE ? NULL : &c->model->ops[by];
    double most = BVT_MOST_DOT;
    if (op && op->opcode == BVT_OP_BGEMM) most = c->model->values[op->inputs[1]].cols;
    if (op && op->opcode == BVT_OP_ATTENTION) most = bvt_attention_most(c->model, op);
    return bvt_expect(c, claim == 1 && most <= BVT_EP_MOST_SMALL, "its dots are not as small as it says");
}

/* Dots that are constants: what bgemm and attention give is in these bounds. */
static int check_dots(bvt_check *c, const bvt_rec_value *x) {
    if (x->storage != BVT_STORAGE_CONST || x->dtype == BVT_DTYPE_F32 || x->dtype == BVT_DTYPE_F16) return BVT_OK;
    const uint8_t *row = c->model->section[BVT_SECTION_CONSTANTS] + x->offset;
    const bool narrow = x->dtype == BVT_DTYPE_I16;
    const int32_t most = narrow ? BVT_MOST_I16 : BVT_MOST_DOT;
    bool inside = true;
    for (uint32_t r = 0; r < x->rows; r++, row += x->stride)
        for (uint32_t i = 0; i < x->cols; i++) {
            const int32_t dot = narrow ? ((const int16_t *)(const void *)row)[i] : ((const int32_t *)(const void *)row)[i];
            inside = inside && -most <= dot && dot <= most;
        }
    return bvt_expect(c, inside, "a dot is larger than its thresholds are exact for");
}

int bvt_check_epilogue(bvt_check *c) {
    const uint32_t all_in = (1u << BVT_EP_INPUTS) - 1, all_out = (1u << (1 + BVT_EP_BITS)) - 1;
    BVT_TRY(bvt_check_operands(c, 1, all_in, 0, all_out));
    BVT_TRY(bvt_check_attrs_end(c, 1 + BVT_EP_POOL));
    const int32_t pool = c->op->attr[BVT_EP_POOL];
    BVT_TRY(bvt_expect(c, pool == 0 || pool == 2 || pool == 4 || pool == 8, "a number of channels to pool that no kernel has"));
    BVT_TRY(bvt_expect(c, pool == 0 || bvt_out(c, 0), "it pools what it does not write"));
    BVT_TRY(bvt_expect(c, c->op->attr[0] >= 0, "the grid's width is negative"));
    const bvt_rec_value *x = bvt_in(c, BVT_EP_X);
    const int real = bvt_real_dtype(c);
    const bool dots = x->dtype == BVT_DTYPE_I32 || x->dtype == BVT_DTYPE_I16;
    BVT_TRY(bvt_check_value(c, x, dots || x->dtype == real ? x->dtype : BVT_DTYPE_F32, BVT_LAYOUT_ROWS, c->rows, x->cols, "x"));
    BVT_TRY(check_small(c));
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) BVT_TRY(check_residual(c, slot, x, real));
    bool by_table = false;
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) by_table = by_table || c->op->attr[1 + slot] == 0;
    BVT_TRY(bvt_expect(c, by_table == (bvt_in(c, BVT_EP_ROWS) != NULL), "a table of rows that no residual uses"));
    c->whole |= 1u << BVT_EP_ROWS;
    for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++) {
        if (bvt_in(c, i)) BVT_TRY(bvt_check_value(c, bvt_in(c, i), real, BVT_LAYOUT_ROWS, 1, x->cols, "a parameter"));
        c->whole |= 1u << i;
    }
    BVT_TRY(bvt_expect(c, !bvt_in(c, BVT_EP_KNEE) || bvt_in(c, BVT_EP_SLOPE), "a knee without a slope"));
    bool any = false;
    if (bvt_out(c, 0)) {
        any = true;
        const int dtype = bvt_out(c, 0)->dtype == real ? real : BVT_DTYPE_F32;
        const uint32_t group = pool ? (uint32_t)pool : 1;
        BVT_TRY(bvt_expect(c, x->cols % group == 0, "the channels to pool do not divide x's"));
        BVT_TRY(bvt_check_value(c, bvt_out(c, 0), dtype, BVT_LAYOUT_ROWS, x->rows, x->cols / group, "the real output"));
    }
    for (unsigned i = 0; i < BVT_EP_BITS; i++) {
        const bvt_rec_value *bits = bvt_out(c, 1 + i);
        BVT_TRY(bvt_expect(c, !bits == !bvt_in(c, BVT_EP_THRESHOLD0 + i), "bits outputs and thresholds do not pair up"));
        c->whole |= 1u << (BVT_EP_THRESHOLD0 + i);
        if (!bits) continue;
        any = true;
        const int dtype = bits->dtype == BVT_DTYPE_TRITS ? BVT_DTYPE_TRITS : BVT_DTYPE_BITS;
        BVT_TRY(bvt_check_value(c, bvt_in(c, BVT_EP_THRESHOLD0 + i), real, BVT_LAYOUT_ROWS,
                                dtype == BVT_DTYPE_TRITS ? 2 : 1, x->cols, "a threshold"));
        int layout = bits->layout == BVT_LAYOUT_COLS ? BVT_LAYOUT_COLS : BVT_LAYOUT_ROWS;
        BVT_TRY(bvt_check_value(c, bits, dtype, layout, x->rows, x->cols, "a bits output"));
    }
    BVT_TRY(check_dots(c, x));
    return bvt_expect(c, any, "it has no output");
}

void bvt_epilogue_residual_rows(const bvt_call *call, unsigned slot, uint32_t first, uint32_t rows, const void *to[8]) {
    const uint32_t width = (uint32_t)call->op->attr[0], f = (uint32_t)call->op->attr[1 + slot];
    const bvt_view *res = &call->in[BVT_EP_RES0 + slot];
    if (f == 1) {
        bvt_epilogue_rows(to, bvt_row(res, first), res->stride);
        return;
    }
    uint32_t left = 0, here = 0; /* rows until the line ends, and until the residual's row does */
    for (uint32_t r = 0; r < rows; r++, left--, here--) {
        if (left == 0) {
            left = f ? width - (first + r) % width : 1, here = f ? left % f : 1;
            to[r] = bvt_epilogue_residual(call, slot, first + r);
        } else {
            to[r] = (const uint8_t *)to[r - 1] + (here == 0 ? res->stride : 0);
        }
        if (here == 0) here = f;
    }
}

static float param(const bvt_call *call, unsigned role, uint32_t row, uint32_t c, bool half) {
    return bvt_get_real(bvt_row(&call->in[role], row), c, half);
}

static float add(float a, float b, bool half) { return bvt_rounded(a + b, half); }
static float multiply_add(float a, float b, float c, bool half) { return half ? bvt_half_fma(a, b, c) : bvt_fma(a, b, c); }

static float residual(const bvt_call *call, unsigned slot, uint32_t r, uint32_t c, bool half) {
    return bvt_get_real(bvt_epilogue_residual(call, slot, r), c % call->in[BVT_EP_RES0 + slot].cols, half);
}

/* A scale and a shift, and the residual sums of the 3 slots from `first` on that follow them. */
static float affine(const bvt_call *call, unsigned scale, unsigned first, uint32_t r, uint32_t c, float v, bool half) {
    const unsigned shift = scale + 1;
    unsigned slot = first;
    if (call->in[scale].base) {
        const float factor = param(call, scale, 0, c, half);
        if (call->in[shift].base) v = multiply_add(v, factor, param(call, shift, 0, c, half), half);
        else if (call->in[BVT_EP_RES0 + slot].base) v = multiply_add(v, factor, residual(call, slot++, r, c, half), half);
        else v = bvt_rounded(v * factor, half);
    } else if (call->in[shift].base) {
        v = add(v, param(call, shift, 0, c, half), half);
    }
    for (; slot < first + 3; slot++)
        if (call->in[BVT_EP_RES0 + slot].base) v = add(v, residual(call, slot, r, c, half), half);
    return v;
}

static float prelu(const bvt_call *call, uint32_t c, float v, bool half) {
    const float knee = call->in[BVT_EP_KNEE].base ? param(call, BVT_EP_KNEE, 0, c, half) : 0;
    const float less = bvt_rounded(param(call, BVT_EP_SLOPE, 0, c, half) - 1, half);
    return multiply_add(v <= knee ? v : knee, less, v, half);
}

/* Of 1, 2, 4 or 8 values, which it overwrites, in the order of bvt_pairs_sum. */
static float mean(float *v, unsigned n, bool half) {
    for (unsigned left = n / 2; left; left /= 2)
        for (unsigned i = 0; i < left; i++) v[i] = add(v[2 * i], v[2 * i + 1], half);
    return n == 1 ? v[0] : bvt_rounded(v[0] * bvt_rounded(bvt_reciprocal(n), half), half);
}

/* One code of bits output `i`. */
static void put_code(const bvt_call *call, unsigned i, uint32_t r, uint32_t c, float v, bool half) {
    const bvt_view *out = &call->out[1 + i];
    if (out->dtype == BVT_DTYPE_TRITS) {
        const bool high = v >= param(call, BVT_EP_THRESHOLD0 + i, 1, c, half);
        bvt_put_bit(out, r, c, 0, high);
        bvt_put_bit(out, r, c, bvt_plane(out->by_cols ? out->rows : out->cols),
                    high || v < param(call, BVT_EP_THRESHOLD0 + i, 0, c, half));
    } else {
        bvt_put_bit(out, r, c, 0, v >= param(call, BVT_EP_THRESHOLD0 + i, 0, c, half));
    }
}

static float load_x(const bvt_view *x, uint32_t r, uint32_t c) {
    switch (x->dtype) {
    case BVT_DTYPE_I32: return (float)((const int32_t *)bvt_row(x, r))[c];
    case BVT_DTYPE_I16: return (float)((const int16_t *)bvt_row(x, r))[c];
    default: return bvt_get_real(bvt_row(x, r), c, x->dtype == BVT_DTYPE_F16);
    }
}

void bvt_epilogue_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bvt_view *x = &call->in[BVT_EP_X], *out = &call->out[0];
    const unsigned pool = bvt_epilogue_pool(call);
    float group[8]; /* of channels to pool */
    bool half = out->dtype == BVT_DTYPE_F16;
    for (unsigned i = 0; i < BVT_EP_INPUTS; i++) half = half || call->in[i].dtype == BVT_DTYPE_F16;
    for (uint32_t r = row0; r < row1; r++) {
        for (uint32_t c = 0; c < x->cols; c++) {
            float v = affine(call, BVT_EP_SCALE, 0, r, c, bvt_rounded(load_x(x, r, c), half), half);
            if (call->in[BVT_EP_SLOPE].base) v = prelu(call, c, v, half);
            if (call->in[BVT_EP_POST].base) v = add(v, param(call, BVT_EP_POST, 0, c, half), half);
            v = affine(call, BVT_EP_SCALE2, 3, r, c, v, half);
            group[c % pool] = v;
            if (out->base && c % pool == pool - 1)
                bvt_put_real(bvt_row(out, r), c / pool, mean(group, pool, half), half && out->dtype == BVT_DTYPE_F16);
            for (unsigned i = 0; i < BVT_EP_BITS; i++)
                if (call->out[1 + i].base) put_code(call, i, r, c, v, half);
        }
    }
    for (unsigned i = 0; i < BVT_EP_BITS; i++)
        if (call->out[1 + i].base) bvt_pad(&call->out[1 + i], row0, row1);
}
