/* vf.h for 32-bit ARM: eight scalars of VFP. NEON there flushes subnormals to zero, VFP does not; so floats never meet NEON, and
 * what the vector kernels save is everything around the arithmetic: parameters are found once for many rows, nothing is divided or
 * decided an element at a time. Needs VFPv4, whose vfma is bvt_fma.
 */
#ifndef BVT_VF_ARMV7_H
#define BVT_VF_ARMV7_H

#define VF_LANES 8
#define VF_KERNEL(op) bvt_##op##_armv7
/* Names, not an array: GCC keeps them in registers. */
typedef struct {
    float a, b, c, d, e, f, g, h;
} vf;

#define VF_MAP(X) (vf){X(a, 0), X(b, 1), X(c, 2), X(d, 3), X(e, 4), X(f, 5), X(g, 6), X(h, 7)}
#define VF_MASK(X) (X(a) << 0 | X(b) << 1 | X(c) << 2 | X(d) << 3 | X(e) << 4 | X(f) << 5 | X(g) << 6 | X(h) << 7)

VF_INLINE float vf_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
VF_INLINE uint32_t vf_to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

VF_INLINE vf vf_load(const float *p) {
#define X(l, i) p[i]
    return VF_MAP(X);
#undef X
}
VF_INLINE vf vf_load_i32(const int32_t *p) {
#define X(l, i) (float)p[i]
    return VF_MAP(X);
#undef X
}
VF_INLINE vf vf_load_i16(const int16_t *p) {
#define X(l, i) (float)p[i]
    return VF_MAP(X);
#undef X
}
VF_INLINE void vf_store(float *p, vf v) {
    p[0] = v.a, p[1] = v.b, p[2] = v.c, p[3] = v.d, p[4] = v.e, p[5] = v.f, p[6] = v.g, p[7] = v.h;
}
VF_INLINE vf vf_set(float x) { return (vf){x, x, x, x, x, x, x, x}; }
VF_INLINE vf vf_add(vf p, vf q) {
#define X(l, i) p.l + q.l
    return VF_MAP(X);
#undef X
}
VF_INLINE vf vf_sub(vf p, vf q) {
#define X(l, i) p.l - q.l
    return VF_MAP(X);
#undef X
}
VF_INLINE vf vf_mul(vf p, vf q) {
#define X(l, i) p.l *q.l
    return VF_MAP(X);
#undef X
}
VF_INLINE vf vf_div(vf p, vf q) {
#define X(l, i) p.l / q.l
    return VF_MAP(X);
#undef X
}
VF_INLINE vf vf_fma(vf p, vf q, vf r) {
#define X(l, i) bvt_fma(p.l, q.l, r.l)
    return VF_MAP(X);
#undef X
}
VF_INLINE vf vf_factor(vf less, vf knee) {
    (void)knee;
    return less;
}
VF_INLINE vf vf_least(vf v, vf knee) {
#define X(l, i) v.l <= knee.l ? v.l : knee.l
    return VF_MAP(X);
#undef X
}
VF_INLINE unsigned vf_ge(vf p, vf q) {
#define X(l) (unsigned)(p.l >= q.l)
    return VF_MASK(X);
#undef X
}
VF_INLINE unsigned vf_gt(vf p, vf q) {
#define X(l) (unsigned)(p.l > q.l)
    return VF_MASK(X);
#undef X
}
VF_INLINE vf vf_max(vf p, vf q) {
#define X(l, i) p.l > q.l ? p.l : q.l
    return VF_MAP(X);
#undef X
}
VF_INLINE vf vf_if_lt(vf p, vf q, vf yes, vf no) {
#define X(l, i) p.l < q.l ? yes.l : no.l
    return VF_MAP(X);
#undef X
}
VF_INLINE vf vf_sign_bits(const uint8_t *p, unsigned b) {
#define X(l, i) vf_from_bits((p[i] >> b & 1u) ? 0 : 0x80000000u)
    return VF_MAP(X);
#undef X
}
VF_INLINE vf vf_xor(vf p, vf q) {
#define X(l, i) vf_from_bits(vf_to_bits(p.l) ^ vf_to_bits(q.l))
    return VF_MAP(X);
#undef X
}
VF_INLINE vf vf_abs(vf p) {
#define X(l, i) __builtin_fabsf(p.l)
    return VF_MAP(X);
#undef X
}
VF_INLINE vf vf_add_pairs(vf p, vf q) {
    return (vf){p.a + p.b, p.c + p.d, p.e + p.f, p.g + p.h, q.a + q.b, q.c + q.d, q.e + q.f, q.g + q.h};
}

#endif
