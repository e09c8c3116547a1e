/* attention: binary attention in integers. W windows (window-major rows) of nq = N/W queries and nk = M/W keys.
 *
 *     in q [N x h*d], k [M x h*d], v [M x h*d] (layout COLS; ROWS where W > 1), each bits or trits, table u64[1 or h x T] (one for
 *        all heads, or one a head), limit f64[P x h], and where they are there ints i32[3+P x h] (zq, zv, base, steps),
 *        real_steps f32[P x h], bias f64[U x h], pattern i32[K*nq x nk], class i32[1 x W]
 *     out [N x h*d], f32 where real_steps is there, else i16, or i32 if a result could be beyond +-BVT_MOST_I16
 *     attr[0] = h, [1] = W, [2] = P (0 is 1 in both), [3], [4]: bit t: plane t is relative to the maximum, inclusive
 *     for each window, head, query row i of the window and its keys j:
 *         S_j = q_i . k_j - zq*sum(k_j);  m_j = (max S - S_j) / u, u = 2 where q and k are bits, else 1;  w_j = table[m_j]
 *         Z = sum_j w_j (u64);  X = table[0]
 *         with a bias: w_j = float64(table[m_j]) * bias[pattern[class[window]*nq + i][j]][h];
 *                      Z = fp64 sum, j ascending;  X = max w
 *         plane t: b_tj = w_j > limit[t][h] * float64(Z or X), or >=
 *         integers: out[i][c] = sum_j (base + sum_t step_t*b_tj) * (v_jc - zv)
 *         f32: y = +0; for t ascending: y = fma(float32(sum_j b_tj*v_jc), real_steps[t][h], y)
 *     The plain form (nothing optional, P = 1, relative to the sum, bits) has a function of its own here, as it has kernels.
 */
#include <float.h>

#include "../kernels/attention_general.h"

static int check_codes(bvt_check *c, const bvt_rec_value *v, int layout, uint64_t rows, uint64_t cols, const char *role) {
    return bvt_check_value(c, v, v->dtype == BVT_DTYPE_TRITS ? BVT_DTYPE_TRITS : BVT_DTYPE_BITS, layout, rows, cols, role);
}

static const void *constant_row(const bvt_check *c, const bvt_rec_value *v, uint32_t row) {
    return c->model->section[BVT_SECTION_CONSTANTS] + v->offset + (uint64_t)row * v->stride;
}

static int64_t magnitude(int32_t x) { return x < 0 ? -(int64_t)x : x; }

/* |element h| of a row of `ints`, as they are where these are not there. */
static int64_t int_of(const bvt_model *model, const bvt_rec_op *op, uint32_t row, uint32_t h) {
    if (op->inputs[BVT_ATTENTION_INTS] == BVT_NONE) return row >= 3;
    const bvt_rec_value *ints = &model->values[op->inputs[BVT_ATTENTION_INTS]];
    const uint8_t *at = model->section[BVT_SECTION_CONSTANTS] + ints->offset + (uint64_t)row * ints->stride;
    return magnitude(((const int32_t *)(const void *)at)[h]);
}

double bvt_attention_most(const bvt_model *model, const bvt_rec_op *op) {
    const uint32_t keys = model->values[op->inputs[1]].rows / (op->attr[1] ? (uint32_t)op->attr[1] : 1);
    double most = 0;
    for (uint32_t h = 0; h < (uint32_t)op->attr[0]; h++) {
        double levels = 0;
        for (uint32_t i = 2; i < 3 + (op->attr[2] ? (uint32_t)op->attr[2] : 1); i++) levels += (double)int_of(model, op, i, h);
        const double of_head = keys * levels * (1 + (double)int_of(model, op, 1, h));
        most = of_head > most ? of_head : most;
    }
    return most;
}

/* Checks `ints` and the output; writes the largest |zq|. */
static int check_ints(bvt_check *c, uint32_t heads, uint32_t planes, int64_t *zq) {
    const bvt_rec_value *ints = bvt_in(c, BVT_ATTENTION_INTS), *q = bvt_in(c, 0);
    int dtype = BVT_DTYPE_F32;
    *zq = 0;
    if (ints) BVT_TRY(bvt_check_value(c, ints, BVT_DTYPE_I32, BVT_LAYOUT_ROWS, 3 + (uint64_t)planes, heads, "ints"));
    for (uint32_t h = 0; h < heads; h++) {
        const int64_t zero = int_of(c->model, c->op, 0, h);
        if (zero > *zq) *zq = zero;
    }
    if (bvt_in(c, BVT_ATTENTION_REAL_STEPS)) {
        for (uint32_t h = 0; h < heads; h++)
            BVT_TRY(bvt_expect(c, !int_of(c->model, c->op, 1, h) && !int_of(c->model, c->op, 2, h),
                               "real levels have no base and no zero point of the values"));
    } else {
        const double most = bvt_attention_most(c->model, c->op);
        BVT_TRY(bvt_expect(c, most <= BVT_MOST_DOT, "its results could be beyond 2^24, where not every integer is a float"));
        dtype = most <= BVT_MOST_I16 ? BVT_DTYPE_I16 : BVT_DTYPE_I32;
    }
    return bvt_check_value(c, bvt_out(c, 0), dtype, BVT_LAYOUT_ROWS, q->rows, q->cols, "the output");
}

static int check_bias(bvt_check *c, uint32_t heads, uint32_t windows, uint32_t nq, uint32_t nk) {
    const bvt_rec_value *bias = bvt_in(c, BVT_ATTENTION_BIAS), *pattern = bvt_in(c, BVT_ATTENTION_PATTERN),
                        *class = bvt_in(c, BVT_ATTENTION_CLASS);
    BVT_TRY(bvt_expect(c, !bias == !pattern && !bias == !class, "bias, pattern and window classes come together"));
    if (!bias) return BVT_OK;
    BVT_TRY(bvt_check_value(c, bias, BVT_DTYPE_F64, BVT_LAYOUT_ROWS, bias->rows, heads, "the bias"));
    BVT_TRY(bvt_expect(c, pattern->rows % nq == 0, "the pattern's rows are not whole windows"));
    BVT_TRY(bvt_check_value(c, pattern, BVT_DTYPE_I32, BVT_LAYOUT_ROWS, pattern->rows, nk, "the pattern"));
    BVT_TRY(bvt_check_value(c, class, BVT_DTYPE_I32, BVT_LAYOUT_ROWS, 1, windows, "the window classes"));
    const int32_t *classes = constant_row(c, class, 0);
    for (uint32_t w = 0; w < windows; w++)
        BVT_TRY(bvt_expect(c, classes[w] >= 0 && (uint32_t)classes[w] < pattern->rows / nq, "a window's class is out of range"));
    for (uint32_t i = 0; i < pattern->rows; i++) {
        const int32_t *row = constant_row(c, pattern, i);
        uint32_t most = 0;
        for (uint32_t j = 0; j < nk; j++) most = (uint32_t)row[j] > most ? (uint32_t)row[j] : most;
        BVT_TRY(bvt_expect(c, most < bias->rows, "the pattern points beyond the bias"));
    }
    for (uint32_t i = 0; i < bias->rows; i++) {
        const double *row = constant_row(c, bias, i);
        for (uint32_t h = 0; h < heads; h++)
            BVT_TRY(bvt_expect(c, row[h] >= 0 && row[h] <= DBL_MAX, "a bias is not a finite factor"));
    }
    return BVT_OK;
}

int bvt_check_attention(bvt_check *c) {
    const int32_t *attr = c->op->attr;
    const uint32_t constants = (1u << BVT_ATTENTION_INPUTS) - (1u << BVT_ATTENTION_TABLE);
    BVT_TRY(bvt_check_operands(c, 31, constants, 1, 0));
    BVT_TRY(bvt_check_attrs_end(c, 5));
    const bvt_rec_value *q = bvt_in(c, 0), *k = bvt_in(c, 1), *v = bvt_in(c, 2), *table = bvt_in(c, BVT_ATTENTION_TABLE),
                        *limit = bvt_in(c, BVT_ATTENTION_LIMIT), *real = bvt_in(c, BVT_ATTENTION_REAL_STEPS);
    BVT_TRY(bvt_expect(c, attr[0] > 0 && q->cols % (uint32_t)attr[0] == 0, "heads must divide the columns"));
    BVT_TRY(bvt_expect(c, attr[1] >= 0 && attr[2] >= 0 && attr[2] <= BVT_ATTENTION_PLANES, "windows or planes are out of range"));
    const uint32_t heads = (uint32_t)attr[0], windows = attr[1] ? (uint32_t)attr[1] : 1, planes = attr[2] ? (uint32_t)attr[2] : 1;
    const uint32_t d = q->cols / heads;
    BVT_TRY(bvt_expect(c, attr[3] >= 0 && attr[3] < 1 << planes && attr[4] >= 0 && attr[4] < 1 << planes,
                       "it says something of planes that it does not have"));
    BVT_TRY(bvt_expect(c, d < 65536, "a head is wider than 65535"));
    BVT_TRY(bvt_expect(c, q->rows % windows == 0 && k->rows % windows == 0, "the windows must divide queries and keys"));
    const uint32_t nq = q->rows / windows, nk = k->rows / windows;
    BVT_TRY(check_codes(c, q, BVT_LAYOUT_ROWS, bvt_out(c, 0)->rows, q->cols, "q"));
    BVT_TRY(check_codes(c, k, BVT_LAYOUT_ROWS, v->rows, q->cols, "k"));
    BVT_TRY(check_codes(c, v, windows > 1 ? BVT_LAYOUT_ROWS : BVT_LAYOUT_COLS, k->rows, q->cols, "v"));
    BVT_TRY(bvt_check_value(c, table, BVT_DTYPE_U64, BVT_LAYOUT_ROWS, table->rows == 1 ? 1 : heads, table->cols, "the table"));
    BVT_TRY(bvt_check_value(c, limit, BVT_DTYPE_F64, BVT_LAYOUT_ROWS, planes, heads, "limit"));
    if (real) BVT_TRY(bvt_check_value(c, real, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, planes, heads, "the real steps"));
    for (unsigned i = BVT_ATTENTION_TABLE; i < BVT_ATTENTION_INPUTS; i++)
        BVT_TRY(bvt_expect(c, !bvt_in(c, i) || bvt_in(c, i)->storage == BVT_STORAGE_CONST,
                           i <= BVT_ATTENTION_LIMIT ? "table and limit must be constants" : "its parameters must be constants"));
    int64_t zq;
    BVT_TRY(check_ints(c, heads, planes, &zq));
    BVT_TRY(check_bias(c, heads, windows, nq, nk));
    const bool q_trits = q->dtype == BVT_DTYPE_TRITS, k_trits = k->dtype == BVT_DTYPE_TRITS, v_trits = v->dtype == BVT_DTYPE_TRITS;
    const int64_t reach = 2 * (int64_t)d * (1 + zq) / (q_trits || k_trits ? 1 : 2); /* the largest m */
    BVT_TRY(bvt_expect(c, reach < table->cols, "the table is too short for its scores"));
    for (uint32_t i = 0; i < table->rows; i++) {
        const uint64_t *t = constant_row(c, table, i);
        for (uint32_t m = 0; m + 1 < table->cols; m++) BVT_TRY(bvt_expect(c, t[m] >= t[m + 1], "the table increases"));
        BVT_TRY(bvt_expect(c, t[0] <= (((uint64_t)1 << 53) - 1) / nk, "the table is too large for its sums to be exact"));
    }
    bool plain = windows == 1 && planes == 1 && !attr[3] && !attr[4] && !q_trits && !k_trits && !v_trits;
    for (unsigned i = BVT_ATTENTION_INTS; i < BVT_ATTENTION_INPUTS; i++) plain = plain && !bvt_in(c, i);
    c->whole = 2 | 4 | constants;
    const bool bias = bvt_in(c, BVT_ATTENTION_BIAS) != NULL;
    c->scratch = plain ? bvt_attention_scratch(nk) : bvt_attention_layout(nk, d, windows, bias, q_trits, k_trits, v_trits).bytes;
    return BVT_OK;
}

/* popcount(a xor b) over the bits from .. from+n-1. */
static uint32_t differing(const uint8_t *a, const uint8_t *b, uint32_t from, uint32_t n) {
    uint32_t count = 0, end = from + n;
    for (uint32_t byte = from / 8; byte * 8 < end; byte++) {
        unsigned x = a[byte] ^ b[byte];
        if (byte * 8 < from) x &= 255u << (from - byte * 8);
        if (byte * 8 + 8 > end) x &= 255u >> (byte * 8 + 8 - end);
        count += (uint32_t)__builtin_popcount(x);
    }
    return count;
}

void bvt_attention_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    if (!bvt_attention_plain(call)) {
        attention_general(call, row0, row1);
        return;
    }
    const uint32_t heads = (uint32_t)call->op->attr[0], d = call->in[0].cols / heads, m_end = call->in[1].rows;
    const bvt_view *k = &call->in[1], *v = &call->in[2];
    const double *limit = bvt_row(&call->in[4], 0);
    uint16_t *score = call->scratch;
    uint64_t *mask = (uint64_t *)(void *)((uint8_t *)call->scratch + bvt_attention_mask_at(m_end));
    const uint32_t words = (m_end + 63) / 64;
    const bool narrow = call->out[0].dtype == BVT_DTYPE_I16;
    for (uint32_t i = row0; i < row1; i++) {
        const uint8_t *q = bvt_row_bits(&call->in[0], i);
        void *out = bvt_row(&call->out[0], i);
        for (uint32_t h = 0; h < heads; h++) {
            const uint64_t *table = bvt_attention_table(call, h);
            uint32_t least = d;
            for (uint32_t j = 0; j < m_end; j++) {
                score[j] = (uint16_t)differing(q, bvt_row_bits(k, j), h * d, d);
                if (score[j] < least) least = score[j];
            }
            uint64_t z = 0;
            for (uint32_t j = 0; j < m_end; j++) z += table[score[j] - least];
            const int last = bvt_attention_last(table, d, limit[h] * (double)z);
            int32_t ones = 0;
            memset(mask, 0, words * sizeof *mask);
            for (uint32_t j = 0; j < m_end; j++) {
                if ((int)(score[j] - least) > last) continue;
                mask[j / 64] |= (uint64_t)1 << j % 64;
                ones++;
            }
            for (uint32_t c = h * d; c < h * d + d; c++) {
                const uint8_t *column = v->base + (size_t)c * v->stride;
                int32_t both = 0;
                for (uint32_t w = 0; w < words; w++) {
                    uint64_t bits; /* the stride is a multiple of 8: the last word is there too */
                    memcpy(&bits, column + (size_t)w * 8, 8);
                    both += __builtin_popcountll(bits & mask[w]);
                }
                bvt_put_dot(out, c, 2 * both - ones, narrow);
            }
        }
    }
}
