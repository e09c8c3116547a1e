/* Opening a file. Every byte is untrusted until bvt_open_memory has returned; afterwards nothing is checked again.
 *
 * All sizes of the format are 32 bits wide or bounded by MAX_BYTES before they are multiplied, so that no 64-bit product or sum
 * below can overflow; the comment beside a computation says why where that is not obvious.
 */
#define _FILE_OFFSET_BITS 64 /* before any header: a 32-bit system else refuses files with large inode numbers */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

#define MAX_SECTIONS 32u
#define MAX_SIDE (1u << 24)                 /* rows or cols of a value: keeps every popcount dot exact in fp32 */
#define MAX_BYTES ((uint64_t)SIZE_MAX / 16) /* file, arena; 256 MiB where addresses have 32 bits */
/* Tile memory of a thread, so that that of all threads is below 2^64. */
#define MAX_TILE (MAX_BYTES > UINT32_MAX ? MAX_BYTES / BVT_MAX_THREADS : MAX_BYTES)

int bvt_fail(bvt_error *err, int code, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        err->code = code;
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        /* Names come from files: keep the text one printable line (UTF-8 passes). */
        for (char *p = err->text; *p; p++)
            if ((unsigned char)*p < 32 || *p == 127) *p = '?';
    }
    return code;
}

static const char *const section_names[] = {"?",         "META",  "VALUES", "OPS",    "GROUPS",
                                            "CONSTANTS", "NAMES", "GOLDEN", "LABELS", "PREPROCESS"};
_Static_assert(sizeof section_names / sizeof *section_names == BVT_SECTION_PREPROCESS + 1, "a name for every section");

static bool all_zero(const void *data, size_t bytes) {
    const uint8_t *p = data;
    for (size_t i = 0; i < bytes; i++)
        if (p[i]) return false;
    return true;
}

static bool inside(uint64_t offset, uint64_t bytes, uint64_t total) { return bytes <= total && offset <= total - bytes; }

/* Whether the bytes are well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF. */
static bool is_utf8(const void *data, size_t bytes) {
    const uint8_t *p = data;
    for (size_t i = 0; i < bytes;) {
        const uint8_t c = p[i++];
        if (c < 0x80) continue;
        if (c < 0xC2 || c > 0xF4) return false;
        const size_t more = c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
        if (more > bytes - i) return false;
        /* The second byte's range depends on the first. */
        const uint8_t least = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80, most = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
        if (p[i] < least || p[i] > most) return false;
        for (size_t k = 1; k < more; k++)
            if ((p[i + k] & 0xC0) != 0x80) return false;
        i += more;
    }
    return true;
}

/* The checksum check, which the fuzz target turns off to get behind it. */
static bool crc_is(uint32_t expected, const void *data, size_t bytes) {
#ifdef BVT_FUZZ_WITHOUT_CRC
    (void)expected, (void)data, (void)bytes;
    return true;
#else
    return bvt_crc32(0, data, bytes) == expected;
#endif
}

/* ---- Header and sections ------------------------------------------------------------------------------------------------- */

static int check_header(bvt_model *m, bvt_error *err) {
    if (m->bytes < sizeof(bvt_rec_header)) return bvt_fail(err, BVT_E_FORMAT, "not a .bvt file: shorter than a header");
    const bvt_rec_header *h = m->header = (const bvt_rec_header *)m->data;
    if (memcmp(h->magic, bvt_magic, sizeof h->magic)) {
        /* The magic has a CR LF pair and a lone LF: a text-mode transfer breaks one of them. */
        if (!memcmp(h->magic, bvt_magic, 4))
            return bvt_fail(err, BVT_E_FORMAT, "damaged .bvt file: it was transferred in text mode");
        return bvt_fail(err, BVT_E_FORMAT, "not a .bvt file: wrong magic");
    }
    if (h->version != BVT_VERSION)
        return bvt_fail(err, BVT_E_FORMAT, "the file has format version %u, this runtime reads version %u", h->version,
                        BVT_VERSION);
    if (!crc_is(h->header_crc, h, sizeof *h - 4)) return bvt_fail(err, BVT_E_FORMAT, "header: wrong checksum");
    if (h->header_bytes != sizeof *h || h->flags)
        return bvt_fail(err, BVT_E_FORMAT, "header: a reserved field is set");
    if (h->file_bytes != m->bytes)
        return bvt_fail(err, BVT_E_FORMAT, "the file has %llu bytes and should have %llu: truncated or damaged",
                        (unsigned long long)m->bytes, (unsigned long long)h->file_bytes);
    if (h->file_bytes % BVT_ALIGN) return bvt_fail(err, BVT_E_FORMAT, "header: the file size is not a multiple of 64");
    if (h->arena_bytes > MAX_BYTES || h->tile_bytes > MAX_TILE)
        return bvt_fail(err, BVT_E_FORMAT, "header: arena or tile memory beyond the address space");
    if (h->tile_bytes % BVT_ALIGN) return bvt_fail(err, BVT_E_FORMAT, "header: tile_bytes is not a multiple of 64");
    return BVT_OK;
}

/* Size of a section's records, or 0 where the section is not a table of records. */
static size_t record_size(uint32_t kind) {
    switch (kind) {
    case BVT_SECTION_VALUES: return sizeof(bvt_rec_value);
    case BVT_SECTION_OPS: return sizeof(bvt_rec_op);
    case BVT_SECTION_GROUPS: return sizeof(bvt_rec_group);
    case BVT_SECTION_PREPROCESS: return sizeof(bvt_rec_preprocess);
    default: return 0;
    }
}

static int check_sections(bvt_model *m, bvt_error *err) {
    uint32_t n = m->header->n_sections;
    if (n > MAX_SECTIONS || sizeof(bvt_rec_header) + (uint64_t)n * sizeof(bvt_rec_section) > m->bytes)
        return bvt_fail(err, BVT_E_FORMAT, "section table: %u sections", n);
    m->sections = (const bvt_rec_section *)(m->data + sizeof(bvt_rec_header));
    if (!crc_is(m->header->table_crc, m->sections, n * sizeof(bvt_rec_section)))
        return bvt_fail(err, BVT_E_FORMAT, "section table: wrong checksum");
    uint64_t end = sizeof(bvt_rec_header) + n * sizeof(bvt_rec_section);
    for (uint32_t i = 0; i < n; i++) {
        const bvt_rec_section *s = &m->sections[i];
        if (s->kind < 1 || s->kind > BVT_SECTION_PREPROCESS)
            return bvt_fail(err, BVT_E_FORMAT, "section %u: unknown kind %u", i, s->kind);
        const char *name = section_names[s->kind];
        if (m->section[s->kind]) return bvt_fail(err, BVT_E_FORMAT, "section %s: it is there twice", name);
        if (s->reserved) return bvt_fail(err, BVT_E_FORMAT, "section %s: a reserved field is set", name);
        if (s->offset % BVT_ALIGN || s->offset < end || !inside(s->offset, s->bytes, m->bytes))
            return bvt_fail(err, BVT_E_FORMAT, "section %s: it lies outside of the file or over another section", name);
        if (!all_zero(m->data + end, (size_t)(s->offset - end)))
            return bvt_fail(err, BVT_E_FORMAT, "section %s: the gap before it is not zero", name);
        end = s->offset + s->bytes;
        if (!crc_is(s->crc, m->data + s->offset, (size_t)s->bytes))
            return bvt_fail(err, BVT_E_FORMAT, "section %s: wrong checksum", name);
        size_t record = record_size(s->kind);
        if (record && s->bytes != (uint64_t)s->count * record)
            return bvt_fail(err, BVT_E_FORMAT, "section %s: its size does not fit its count", name);
        m->section[s->kind] = m->data + s->offset;
        m->section_bytes[s->kind] = s->bytes;
        m->section_count[s->kind] = s->count;
    }
    if (!all_zero(m->data + end, (size_t)(m->bytes - end))) return bvt_fail(err, BVT_E_FORMAT, "the end of the file is not zero");
    static const uint8_t required[] = {BVT_SECTION_VALUES, BVT_SECTION_OPS, BVT_SECTION_GROUPS, BVT_SECTION_NAMES};
    for (size_t i = 0; i < sizeof required; i++)
        if (!m->section_bytes[required[i]])
            return bvt_fail(err, BVT_E_FORMAT, "section %s: it is missing or empty", section_names[required[i]]);
    m->values = (const bvt_rec_value *)m->section[BVT_SECTION_VALUES];
    m->ops = (const bvt_rec_op *)m->section[BVT_SECTION_OPS];
    m->groups = (const bvt_rec_group *)m->section[BVT_SECTION_GROUPS];
    m->n_values = m->section_count[BVT_SECTION_VALUES];
    m->n_ops = m->section_count[BVT_SECTION_OPS];
    m->n_groups = m->section_count[BVT_SECTION_GROUPS];
    const uint8_t *names = m->section[BVT_SECTION_NAMES];
    if (names[0] || names[m->section_bytes[BVT_SECTION_NAMES] - 1])
        return bvt_fail(err, BVT_E_FORMAT, "section NAMES: it must begin and end with a NUL");
    if (!is_utf8(names, (size_t)m->section_bytes[BVT_SECTION_NAMES]))
        return bvt_fail(err, BVT_E_FORMAT, "section NAMES: it is not UTF-8");
    return BVT_OK;
}

/* ---- META, LABELS, PREPROCESS, GOLDEN ------------------------------------------------------------------------------------ */

static uint32_t load_u32(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}

/* Reads the entry at *at and moves *at behind it; false where it does not fit into the section. */
static bool next_meta(const bvt_model *m, uint64_t *at, bvt_meta_info *out) {
    const uint8_t *p = m->section[BVT_SECTION_META];
    uint64_t end = m->section_bytes[BVT_SECTION_META];
    if (end - *at < 4) return false;
    uint64_t key = load_u32(p + *at);
    *at += 4;
    if (end - *at < key + 8) return false;
    out->key = (const char *)p + *at;
    out->key_bytes = (size_t)key;
    *at += key;
    out->type = (int)load_u32(p + *at);
    uint64_t value = load_u32(p + *at + 4);
    *at += 8;
    if (end - *at < value) return false;
    out->value = p + *at;
    out->value_bytes = (size_t)value;
    *at += value;
    return true;
}

static int check_meta(bvt_model *m, bvt_error *err) {
    if (!m->section[BVT_SECTION_META]) return BVT_OK;
    if (m->section_bytes[BVT_SECTION_META] < 4) return bvt_fail(err, BVT_E_FORMAT, "section META: too short");
    uint32_t n = load_u32(m->section[BVT_SECTION_META]);
    uint64_t at = 4;
    for (uint32_t i = 0; i < n; i++) {
        bvt_meta_info e;
        if (!next_meta(m, &at, &e)) return bvt_fail(err, BVT_E_FORMAT, "section META: entry %u goes beyond its end", i);
        bool number = e.type == BVT_META_U64 || e.type == BVT_META_F64;
        if (!e.key_bytes || e.type < BVT_META_U64 || e.type > BVT_META_BYTES || (number && e.value_bytes != 8))
            return bvt_fail(err, BVT_E_FORMAT, "section META: entry %u is malformed", i);
        if (!is_utf8(e.key, e.key_bytes) || (e.type == BVT_META_STR && !is_utf8(e.value, e.value_bytes)))
            return bvt_fail(err, BVT_E_FORMAT, "section META: entry %u is not UTF-8", i);
    }
    if (at != m->section_bytes[BVT_SECTION_META])
        return bvt_fail(err, BVT_E_FORMAT, "section META: there is something after the last entry");
    m->n_meta = n;
    return BVT_OK;
}

static int check_labels(bvt_model *m, bvt_error *err) {
    if (!m->section[BVT_SECTION_LABELS]) return BVT_OK;
    const char *p = (const char *)m->section[BVT_SECTION_LABELS];
    uint64_t bytes = m->section_bytes[BVT_SECTION_LABELS], found = 0;
    uint32_t n = m->section_count[BVT_SECTION_LABELS];
    for (uint64_t i = 0; i < bytes; i++) found += p[i] == 0;
    if (found != n || (bytes && p[bytes - 1])) return bvt_fail(err, BVT_E_FORMAT, "section LABELS: it does not hold %u strings", n);
    if (!is_utf8(p, (size_t)bytes)) return bvt_fail(err, BVT_E_FORMAT, "section LABELS: it is not UTF-8");
    for (uint64_t i = 0; i < bytes; i++)
        if ((p[i] > 0 && p[i] < 0x20) || p[i] == 0x7F)
            return bvt_fail(err, BVT_E_FORMAT, "section LABELS: a label holds a control character");
    if (n && !(m->labels = malloc(n * sizeof *m->labels))) return bvt_fail(err, BVT_E_MEMORY, "out of memory");
    for (uint32_t i = 0; i < n; i++, p += strlen(p) + 1) m->labels[i] = p;
    m->n_labels = n;
    return BVT_OK;
}

static int check_preprocess(bvt_model *m, bvt_error *err) {
    if (!m->section[BVT_SECTION_PREPROCESS]) return BVT_OK;
    const bvt_rec_preprocess *p = (const bvt_rec_preprocess *)m->section[BVT_SECTION_PREPROCESS];
    const bvt_rec_value *in = &m->values[m->input];
    const char *wrong = NULL;
    if (m->section_count[BVT_SECTION_PREPROCESS] != 1)
        return bvt_fail(err, BVT_E_FORMAT, "section PREPROCESS: it must hold one record");
    if (p->channels != 1 && p->channels != 3) wrong = "channels must be 1 or 3";
    else if (p->width != in->cols || !p->height || (uint64_t)p->height * p->channels != in->rows)
        wrong = "its size is not that of the input";
    else if (p->colour > BVT_COLOUR_BGR || (p->colour == BVT_COLOUR_GRAY) != (p->channels == 1))
        wrong = "colour does not fit channels";
    else if (p->resize > BVT_RESIZE_SHORT_CROP) wrong = "unknown resize";
    else if (p->resize == BVT_RESIZE_STRETCH && p->resize_short) wrong = "resize_short is set";
    else if (p->resize == BVT_RESIZE_SHORT_CROP && (p->resize_short < p->width || p->resize_short < p->height))
        wrong = "resize_short is smaller than the crop";
    else if (p->resize_short > 32768) wrong = "resize_short is out of range";
    else if (p->filter > BVT_FILTER_NEAREST) wrong = "unknown filter";
    else if (p->reserved) wrong = "a reserved field is set";
    for (uint32_t c = 0; !wrong && c < p->channels; c++)
        if (!isfinite(p->mean[c]) || !isfinite(p->std[c]) || p->std[c] == 0) wrong = "mean and std must be finite, std not zero";
    if (!wrong && !(all_zero(p->mean + p->channels, (4 - p->channels) * sizeof *p->mean) &&
                    all_zero(p->std + p->channels, (4 - p->channels) * sizeof *p->std)))
        wrong = "mean or std of an absent channel is set";
    if (wrong) return bvt_fail(err, BVT_E_FORMAT, "section PREPROCESS: %s", wrong);
    m->preprocess = p;
    return BVT_OK;
}

static uint64_t elements(const bvt_rec_value *v) { return (uint64_t)v->rows * v->cols; }

static const bvt_rec_golden *golden_records(const bvt_model *m) {
    return (const bvt_rec_golden *)(const void *)m->section[BVT_SECTION_GOLDEN];
}

static int check_golden(bvt_model *m, bvt_error *err) {
    if (!m->section[BVT_SECTION_GOLDEN]) return BVT_OK;
    const bvt_rec_golden *records = golden_records(m);
    const uint32_t n = m->section_count[BVT_SECTION_GOLDEN];
    const uint64_t bytes = m->section_bytes[BVT_SECTION_GOLDEN];
    uint64_t at = (uint64_t)n * sizeof *records;
    if (at > bytes) return bvt_fail(err, BVT_E_FORMAT, "section GOLDEN: its size does not fit %u pairs", n);
    if (n && !(m->golden = malloc(n * sizeof *m->golden))) return bvt_fail(err, BVT_E_MEMORY, "out of memory");
    for (uint32_t i = 0; i < n; i++) {
        const bvt_rec_golden *g = &records[i];
        if (g->kind > BVT_GOLDEN_GENERATED) return bvt_fail(err, BVT_E_FORMAT, "section GOLDEN: pair %u: unknown kind %u", i, g->kind);
        if (g->reserved || (g->kind == BVT_GOLDEN_STORED && g->seed))
            return bvt_fail(err, BVT_E_FORMAT, "section GOLDEN: pair %u: a reserved field is set", i);
        /* Elements are at most 2^48: below 2^52 bytes, no overflow. */
        const uint64_t need = 4 * ((g->kind == BVT_GOLDEN_STORED ? elements(&m->values[m->input]) : 0) +
                                   elements(&m->values[m->output]));
        if (need > bytes - at) return bvt_fail(err, BVT_E_FORMAT, "section GOLDEN: its size does not fit %u pairs", n);
        m->golden[i] = (const float *)(const void *)(m->section[BVT_SECTION_GOLDEN] + at);
        at += need;
    }
    if (at != bytes) return bvt_fail(err, BVT_E_FORMAT, "section GOLDEN: its size does not fit %u pairs", n);
    m->n_golden = n;
    return BVT_OK;
}

/* ---- Values -------------------------------------------------------------------------------------------------------------- */

/* Whether the string at an offset of NAMES (which is UTF-8) begins with a whole character. */
static bool is_name(const bvt_model *m, uint32_t offset) {
    return offset < m->section_bytes[BVT_SECTION_NAMES] && (m->section[BVT_SECTION_NAMES][offset] & 0xC0) != 0x80;
}

/* Whether trits are codes: what is +1 is not 0. */
static bool are_trits(const uint8_t *line, uint64_t lines, uint64_t plane) {
    uint8_t wrong = 0;
    for (; lines > 0; lines--, line += 2 * plane)
        for (uint64_t i = 0; i < plane; i++) wrong |= line[i] & (uint8_t)~line[plane + i];
    return !wrong;
}

static int check_value(bvt_model *m, uint32_t index, bvt_error *err) {
    const bvt_rec_value *v = &m->values[index];
    const char *wrong = NULL;
    if (!is_name(m, v->name)) return bvt_fail(err, BVT_E_FORMAT, "value %u: its name is outside of NAMES", index);
    uint64_t row = 0, element = 1; /* bytes of a row in layout ROWS, alignment of an element */
    switch (v->dtype) {
    case BVT_DTYPE_F32:
    case BVT_DTYPE_I32: row = (uint64_t)v->cols * 4, element = 4; break;
    case BVT_DTYPE_I8: row = v->cols; break;
    case BVT_DTYPE_I16:
    case BVT_DTYPE_F16: row = (uint64_t)v->cols * 2, element = 2; break;
    case BVT_DTYPE_U64:
    case BVT_DTYPE_F64: row = (uint64_t)v->cols * 8, element = 8; break;
    case BVT_DTYPE_BITS: row = bvt_ceil_div(v->cols, 8); break;
    case BVT_DTYPE_TRITS: row = 2 * bvt_plane(v->cols), element = 8; break;
    default: wrong = "unknown dtype";
    }
    /* What a stride spans at least, its alignment, and how many strides there are. */
    uint64_t span = 0, align = 1, count = 0;
    switch (v->layout) {
    case BVT_LAYOUT_ROWS: span = row, align = element, count = v->rows; break;
    case BVT_LAYOUT_COLS:
        span = v->dtype == BVT_DTYPE_TRITS ? 2 * bvt_plane(v->rows) : bvt_ceil_div(v->rows, 8);
        align = 8, count = v->cols;
        break;
    case BVT_LAYOUT_QUADS: span = 128 * bvt_ceil_div(v->cols, 8), align = 16, count = bvt_ceil_div(v->rows, 16); break;
    default:
        if (!bvt_tile_channels(v->layout)) wrong = wrong ? wrong : "unknown layout";
        else span = bvt_tile_bytes(v->layout, v->cols), align = 16, count = bvt_ceil_div(v->rows, bvt_tile_channels(v->layout));
    }
    uint64_t total = 0; /* of the memory that it lives in */
    switch (v->storage) {
    case BVT_STORAGE_CONST: total = m->section_bytes[BVT_SECTION_CONSTANTS]; break;
    case BVT_STORAGE_ARENA: total = m->header->arena_bytes; break;
    case BVT_STORAGE_TILE: total = m->header->tile_bytes; break;
    case BVT_STORAGE_INPUT:
    case BVT_STORAGE_OUTPUT: break;
    default: wrong = wrong ? wrong : "unknown storage";
    }
    bool external = v->storage == BVT_STORAGE_INPUT || v->storage == BVT_STORAGE_OUTPUT;
    if (wrong) {
    } else if (v->reserved || v->reserved2[0] || v->reserved2[1] || (!v->stored && v->widened)) wrong = "a reserved field is set";
    else if (!v->rows || !v->cols || v->rows > MAX_SIDE || v->cols > MAX_SIDE) wrong = "rows and cols must be 1 .. 2^24";
    else if ((v->dtype == BVT_DTYPE_I8) != (v->layout == BVT_LAYOUT_QUADS)) wrong = "i8 and layout quads are for each other";
    else if (v->dtype == BVT_DTYPE_I8 && v->storage != BVT_STORAGE_CONST) wrong = "i8 is for constants";
    else if (v->layout != BVT_LAYOUT_ROWS && v->dtype != BVT_DTYPE_BITS && v->dtype != BVT_DTYPE_I8 &&
             !(v->dtype == BVT_DTYPE_TRITS && v->layout == BVT_LAYOUT_COLS))
        wrong = "only bits have this layout";
    else if (bvt_tile_channels(v->layout) && v->storage != BVT_STORAGE_CONST) wrong = "a layout of weights is for constants";
    else if (v->layout == BVT_LAYOUT_COLS && v->storage == BVT_STORAGE_TILE) wrong = "layout cols cannot be in tile memory";
    else if (v->stride < span || v->stride % align) wrong = "its stride is too small or misaligned";
    else if (v->dtype == BVT_DTYPE_TRITS && v->stride != span) wrong = "its stride is not that of two planes";
    else if (v->stored > BVT_STORED_I8) wrong = "unknown form of storing";
    else if (v->stored && (v->storage != BVT_STORAGE_CONST || v->dtype != BVT_DTYPE_F32 || v->layout != BVT_LAYOUT_ROWS ||
                           v->stride != row))
        wrong = "only dense f32 constants are stored in fewer bytes";
    else if (v->stored && v->bytes != bvt_stored_bytes(v)) wrong = "its bytes are not those of its stored form";
    /* stride < 2^32 and count <= 2^24: no overflow. Of a TILE value only a block must fit, which check_groups sees to. */
    else if (!v->stored && v->storage != BVT_STORAGE_TILE && v->bytes < count * v->stride) wrong = "its bytes do not hold it";
    else if (v->storage == BVT_STORAGE_TILE && v->bytes < v->stride) wrong = "its bytes do not hold it";
    else if (external && (v->dtype != BVT_DTYPE_F32 || v->stride != row || v->offset)) wrong = "input and output are dense f32";
    else if (!external && (v->offset % BVT_ALIGN || !inside(v->offset, v->bytes, total))) wrong = "it lies outside of its memory";
    else if ((v->storage == BVT_STORAGE_ARENA || v->storage == BVT_STORAGE_TILE) && v->bytes > count * v->stride)
        wrong = "its bytes are more than it needs";
    else if (count * v->stride > MAX_BYTES && v->storage != BVT_STORAGE_TILE) wrong = "it is larger than the address space";
    else if (v->dtype == BVT_DTYPE_TRITS && v->storage == BVT_STORAGE_CONST &&
             !are_trits(m->section[BVT_SECTION_CONSTANTS] + v->offset, count, v->stride / 2))
        wrong = "a code is +1 and 0 at once";
    if (wrong)
        return bvt_fail(err, BVT_E_FORMAT, "value %u (%.100s): %s", index, (const char *)m->section[BVT_SECTION_NAMES] + v->name,
                        wrong);
    return BVT_OK;
}

static int check_values(bvt_model *m, bvt_error *err) {
    uint32_t inputs = 0, outputs = 0;
    /* What is widened follows one upon the other, in the file and in memory. As no byte of the file is widened twice, and a byte
     * becomes 4 at most, a file can ask for 4 times its size and the rounding to 64, which is at most the size of the records. */
    uint64_t stored_end = 0, widened_end = 0;
    for (uint32_t i = 0; i < m->n_values; i++) {
        BVT_TRY(check_value(m, i, err));
        const bvt_rec_value *v = &m->values[i];
        if (v->stored) {
            if (v->offset < stored_end || v->widened != widened_end)
                return bvt_fail(err, BVT_E_FORMAT, "value %u: it does not follow the stored or the widened value before it", i);
            stored_end = v->offset + v->bytes;
            widened_end += bvt_align64(4 * elements(v));
        }
        if (m->values[i].storage == BVT_STORAGE_INPUT) inputs++, m->input = i;
        if (m->values[i].storage == BVT_STORAGE_OUTPUT) outputs++, m->output = i;
    }
    if (inputs != 1 || outputs != 1)
        return bvt_fail(err, BVT_E_FORMAT, "section VALUES: %u inputs and %u outputs instead of one each", inputs, outputs);
    if (m->header->widened_bytes != widened_end)
        return bvt_fail(err, BVT_E_FORMAT, "header: widened_bytes is %llu, the values need %llu",
                        (unsigned long long)m->header->widened_bytes, (unsigned long long)widened_end);
    return BVT_OK;
}

/* ---- Ops and groups ------------------------------------------------------------------------------------------------------ */

/* Checks op `index` of group g. producer[v] is the op that wrote value v so far. */
static int check_op(bvt_model *m, uint32_t index, uint32_t g, uint32_t *producer, bvt_error *err) {
    const bvt_rec_op *op = &m->ops[index];
    bvt_check c = {.model = m, .op = op, .index = index, .rows = m->groups[g].rows, .producer = producer, .err = err};
    if (!is_name(m, op->name) || !is_name(m, op->module))
        return bvt_fail(err, BVT_E_FORMAT, "op %u: its name is outside of NAMES", index);
    for (unsigned i = 0; i < BVT_N_IN; i++)
        BVT_TRY(bvt_expect(&c, op->inputs[i] == BVT_NONE || op->inputs[i] < m->n_values, "an input is not a value"));
    for (unsigned i = 0; i < BVT_N_OUT; i++)
        BVT_TRY(bvt_expect(&c, op->outputs[i] == BVT_NONE || op->outputs[i] < m->n_values, "an output is not a value"));
    BVT_TRY(bvt_expect(&c, !op->reserved[0] && !op->reserved[1], "a reserved field is set"));
    BVT_TRY(bvt_check_op(&c));
    BVT_TRY(bvt_expect(&c, op->scratch % BVT_ALIGN == 0 && op->scratch >= c.scratch && op->scratch <= m->header->tile_bytes,
                       "its scratch is too small, misaligned or beyond the tile memory"));
    for (unsigned i = 0; i < BVT_N_IN; i++) {
        const bvt_rec_value *v = bvt_in(&c, i);
        if (!v || v->storage == BVT_STORAGE_CONST || v->storage == BVT_STORAGE_INPUT) continue;
        BVT_TRY(bvt_expect(&c, producer[op->inputs[i]] != BVT_NONE, "an input is used before it was produced"));
        const uint32_t by = m->op_group[producer[op->inputs[i]]];
        BVT_TRY(bvt_expect(&c, v->storage != BVT_STORAGE_TILE || by == g, "a tile value is used outside of its group"));
        if (c.whole >> i & 1)
            BVT_TRY(
                bvt_expect(&c, v->storage != BVT_STORAGE_TILE && by != g, "it needs all of an input that its own group produces"));
        else BVT_TRY(bvt_expect(&c, by != g || v->rows == c.rows, "an input of its group has another number of rows"));
    }
    for (unsigned i = 0; i < BVT_N_OUT; i++) {
        const bvt_rec_value *v = bvt_out(&c, i);
        if (!v) continue;
        BVT_TRY(bvt_expect(&c, v->storage != BVT_STORAGE_CONST && v->storage != BVT_STORAGE_INPUT,
                           "an output is a constant or the input"));
        BVT_TRY(bvt_expect(&c, v->rows == c.rows, "an output has not the rows of its group"));
        BVT_TRY(bvt_expect(&c, producer[op->outputs[i]] == BVT_NONE, "an output is written twice"));
        producer[op->outputs[i]] = index;
    }
    return BVT_OK;
}

static int check_groups(bvt_model *m, uint32_t *producer, bvt_error *err) {
    uint64_t next = 0;
    for (uint32_t g = 0; g < m->n_groups; g++) {
        const bvt_rec_group *group = &m->groups[g];
        if (group->first_op != next || !group->n_ops || group->n_ops > m->n_ops - next)
            return bvt_fail(err, BVT_E_FORMAT, "section GROUPS: group %u does not continue the op list", g);
        if (!group->rows || group->rows > MAX_SIDE || !group->block || group->block > group->rows ||
            (group->block % 8 && group->block != group->rows))
            return bvt_fail(err, BVT_E_FORMAT, "section GROUPS: group %u: its block must be a multiple of 8 rows, or all rows", g);
        if (!all_zero(group->reserved, sizeof group->reserved))
            return bvt_fail(err, BVT_E_FORMAT, "section GROUPS: a reserved field is set");
        uint64_t scratch = 0;
        for (uint32_t i = 0; i < group->n_ops; i++) {
            uint32_t op = (uint32_t)next + i;
            m->op_group[op] = g;
            BVT_TRY(check_op(m, op, g, producer, err));
            if (m->ops[op].scratch > scratch) scratch = m->ops[op].scratch;
        }
        /* A block of every tile value of the group must end before the scratch, which is at the end of the tile memory. */
        for (uint32_t i = 0; i < group->n_ops; i++) {
            const bvt_rec_op *op = &m->ops[next + i];
            for (unsigned o = 0; o < BVT_N_OUT; o++) {
                if (op->outputs[o] == BVT_NONE || m->values[op->outputs[o]].storage != BVT_STORAGE_TILE) continue;
                const bvt_rec_value *v = &m->values[op->outputs[o]];
                uint64_t need = (uint64_t)group->block * v->stride;
                if (need > v->bytes || v->offset + v->bytes > m->header->tile_bytes - scratch)
                    return bvt_fail(err, BVT_E_FORMAT, "value %u: a block of group %u does not fit into the tile memory",
                                    op->outputs[o], g);
            }
        }
        next += group->n_ops;
        if (group->n_ops > m->max_group_ops) m->max_group_ops = group->n_ops;
    }
    if (next != m->n_ops) return bvt_fail(err, BVT_E_FORMAT, "section GROUPS: ops are left over");
    if (producer[m->output] == BVT_NONE) return bvt_fail(err, BVT_E_FORMAT, "section OPS: no op writes the output");
    return BVT_OK;
}

static int check_ops(bvt_model *m, bvt_error *err) {
    /* Both counts are bounded by the file's size. */
    uint32_t *producer = malloc(m->n_values * sizeof *producer);
    m->op_group = malloc(m->n_ops * sizeof *m->op_group);
    int code = producer && m->op_group ? BVT_OK : bvt_fail(err, BVT_E_MEMORY, "out of memory");
    if (!code) {
        for (uint32_t i = 0; i < m->n_values; i++) producer[i] = BVT_NONE;
        code = check_groups(m, producer, err);
    }
    free(producer);
    return code;
}

/* The header must not ask for more memory than the values and the scratch need, because it is allocated and cleared. Planning
 * places every value at the lowest free offset: what it needs is at most the last end, and at most the sum of all sizes.
 */
static int check_memory(bvt_model *m, bvt_error *err) {
    uint64_t end[2] = {0, 0}, sum[2] = {0, 0}, scratch = 0;
    for (uint32_t i = 0; i < m->n_values; i++) {
        const bvt_rec_value *v = &m->values[i];
        if (v->storage != BVT_STORAGE_ARENA && v->storage != BVT_STORAGE_TILE) continue;
        const int tile = v->storage == BVT_STORAGE_TILE;
        const uint64_t size = bvt_align64(v->bytes), last = bvt_align64(v->offset + v->bytes);
        if (last > end[tile]) end[tile] = last;
        if (sum[tile] <= MAX_BYTES) sum[tile] += size; /* bytes are at most MAX_BYTES: no overflow */
    }
    for (uint32_t i = 0; i < m->n_ops; i++)
        if (m->ops[i].scratch > scratch) scratch = m->ops[i].scratch;
    const uint64_t arena = end[0] < sum[0] ? end[0] : sum[0], tile = end[1] < sum[1] ? end[1] : sum[1];
    if (m->header->arena_bytes > arena)
        return bvt_fail(err, BVT_E_FORMAT, "header: arena_bytes is %llu, its values need %llu",
                        (unsigned long long)m->header->arena_bytes, (unsigned long long)arena);
    if (m->header->tile_bytes > tile + bvt_align64(scratch))
        return bvt_fail(err, BVT_E_FORMAT, "header: tile_bytes is %llu, its values and scratch need %llu",
                        (unsigned long long)m->header->tile_bytes, (unsigned long long)(tile + bvt_align64(scratch)));
    return BVT_OK;
}

/* Makes the f32 of the constants that are stored in fewer bytes, once for all sessions. */
static int widen(bvt_model *m, bvt_error *err) {
    if (!m->header->widened_bytes) return BVT_OK;
    void *memory;
    if (posix_memalign(&memory, BVT_ALIGN, (size_t)m->header->widened_bytes))
        return bvt_fail(err, BVT_E_MEMORY, "no %llu bytes of memory for the constants", (unsigned long long)m->header->widened_bytes);
    m->widened = memory;
    for (uint32_t i = 0; i < m->n_values; i++) {
        const bvt_rec_value *v = &m->values[i];
        if (!v->stored) continue;
        bvt_widen(v, m->section[BVT_SECTION_CONSTANTS] + v->offset, (float *)(void *)(m->widened + v->widened));
        const uint64_t used = 4 * elements(v);
        memset(m->widened + v->widened + used, 0, (size_t)(bvt_align64(used) - used));
    }
    return BVT_OK;
}

/* Whether this machine has a fast kernel for a weight in its layout. */
static bool reads_layout(const bvt_rec_value *v) {
#if defined(__aarch64__)
    (void)v;
    return true;
#else
    return v->storage != BVT_STORAGE_CONST || v->dtype != BVT_DTYPE_BITS || v->layout < BVT_LAYOUT_CSA;
#endif
}

static uint64_t relaid_bytes(const bvt_rec_value *v) {
    return bvt_align64(bvt_ceil_div(v->rows, 16) * bvt_lanes16_stride(v->cols));
}

/* Makes LANES16 of the weights that were laid out for another machine, once for all sessions. No layout holds much fewer bytes than
 * LANES16 (whose tails are padded), so that a file whose weights do not overlap asks for no more than about its own size. */
static int relay(bvt_model *m, bvt_error *err) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < m->n_values; i++) {
        const bvt_rec_value *v = &m->values[i];
        if (!reads_layout(v)) total += relaid_bytes(v);
    }
    if (!total) return BVT_OK;
    if (total > 2 * (uint64_t)m->bytes) return bvt_fail(err, BVT_E_FORMAT, "values: weights share their bytes");
    void *memory;
    m->relaid = calloc(m->n_values, sizeof *m->relaid);
    if (!m->relaid || posix_memalign(&memory, BVT_ALIGN, (size_t)total))
        return bvt_fail(err, BVT_E_MEMORY, "no %llu bytes of memory for the weights", (unsigned long long)total);
    m->relaid_memory = memory;
    uint8_t *to = m->relaid_memory;
    for (uint32_t i = 0; i < m->n_values; i++) {
        const bvt_rec_value *v = &m->values[i];
        if (reads_layout(v)) continue;
        bvt_relay(v, m->section[BVT_SECTION_CONSTANTS] + v->offset, to);
        m->relaid[i] = to;
        to += relaid_bytes(v);
    }
    return BVT_OK;
}

/* ---- Opening and closing ------------------------------------------------------------------------------------------------- */

/* Checks m->data; on success passes `m` on, else closes it. */
static int check_model(bvt_model *m, bvt_model **out, bvt_error *err) {
    int (*const steps[])(bvt_model *, bvt_error *) = {check_header, check_sections, check_meta,   check_values,    check_ops,
                                                      check_memory, check_labels,   check_preprocess, check_golden, widen,
                                                      relay};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        int code = steps[i](m, err);
        if (code) {
            bvt_close(m);
            return code;
        }
    }
    *out = m;
    return BVT_OK;
}

int bvt_open_memory(const void *data, size_t bytes, bvt_model **out, bvt_error *err) {
    if (!out) return bvt_fail(err, BVT_E_ARGUMENT, "open: no place for the model");
    *out = NULL;
    if (!data) return bvt_fail(err, BVT_E_ARGUMENT, "open: no data");
    if (bytes > MAX_BYTES) return bvt_fail(err, BVT_E_ARGUMENT, "open: impossible size");
    bvt_model *m = calloc(1, sizeof *m);
    if (!m) return bvt_fail(err, BVT_E_MEMORY, "out of memory");
    m->data = data;
    m->bytes = bytes;
    m->ownership = BVT_BORROWED;
    if ((uintptr_t)data % BVT_ALIGN) {
        void *copy;
        if (posix_memalign(&copy, BVT_ALIGN, bytes ? bytes : 1)) {
            free(m);
            return bvt_fail(err, BVT_E_MEMORY, "out of memory");
        }
        m->data = memcpy(copy, data, bytes);
        m->ownership = BVT_OWNED;
    }
    return check_model(m, out, err);
}

int bvt_open(const char *path, bvt_model **out, bvt_error *err) {
    if (!out) return bvt_fail(err, BVT_E_ARGUMENT, "open: no place for the model");
    *out = NULL;
    if (!path) return bvt_fail(err, BVT_E_ARGUMENT, "open: no path");
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO would wait for its writer */
    if (fd < 0) return bvt_fail(err, BVT_E_IO, "%.180s: %s", path, strerror(errno));
    struct stat st;
    void *data = MAP_FAILED;
    int code = BVT_OK;
    if (fstat(fd, &st)) code = bvt_fail(err, BVT_E_IO, "%.180s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode)) code = bvt_fail(err, BVT_E_IO, "%.180s: not a regular file", path);
    else if (st.st_size < (off_t)sizeof(bvt_rec_header) || (uint64_t)st.st_size > MAX_BYTES)
        code = bvt_fail(err, BVT_E_FORMAT, "%.180s: not a .bvt file: its size is %lld bytes", path, (long long)st.st_size);
    else if ((data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
        code = bvt_fail(err, BVT_E_IO, "%.180s: %s", path, strerror(errno));
    close(fd);
    if (code) return code;
    bvt_model *m = calloc(1, sizeof *m);
    if (!m) {
        munmap(data, (size_t)st.st_size);
        return bvt_fail(err, BVT_E_MEMORY, "out of memory");
    }
    m->data = data;
    m->bytes = (size_t)st.st_size;
    m->ownership = BVT_MAPPED;
    return check_model(m, out, err);
}

void bvt_close(bvt_model *m) {
    if (!m) return;
    if (m->ownership == BVT_MAPPED) munmap((void *)(uintptr_t)m->data, m->bytes);
    if (m->ownership == BVT_OWNED) free((void *)(uintptr_t)m->data);
    free(m->op_group);
    free(m->labels);
    free(m->golden);
    free(m->widened);
    free(m->relaid);
    free(m->relaid_memory);
    free(m);
}

/* ---- Introspection ------------------------------------------------------------------------------------------------------- */

static const char *name_at(const bvt_model *m, uint32_t offset) { return (const char *)m->section[BVT_SECTION_NAMES] + offset; }

bvt_model_info bvt_info(const bvt_model *m) {
    bvt_model_info info = {
        .input_rows = m->values[m->input].rows,
        .input_cols = m->values[m->input].cols,
        .output_rows = m->values[m->output].rows,
        .output_cols = m->values[m->output].cols,
        .n_ops = m->n_ops,
        .n_values = m->n_values,
        .n_groups = m->n_groups,
        .n_sections = m->header->n_sections,
        .n_labels = m->n_labels,
        .n_meta = m->n_meta,
        .n_golden = m->n_golden,
        .file_bytes = m->bytes,
        .arena_bytes = m->header->arena_bytes,
        .tile_bytes = m->header->tile_bytes,
        .widened_bytes = m->header->widened_bytes,
    };
    for (uint32_t i = 0; i < m->n_ops; i++) info.macs_binary += m->ops[i].macs_binary, info.macs_float += m->ops[i].macs_float;
    return info;
}

bvt_op_info bvt_get_op(const bvt_model *m, uint32_t index) {
    const bvt_rec_op *op = &m->ops[index];
    bvt_op_info info = {
        .kind = bvt_opcode_name(op->opcode),
        .name = name_at(m, op->name),
        .module = name_at(m, op->module),
        .macs_binary = op->macs_binary,
        .macs_float = op->macs_float,
        .group = m->op_group[index],
    };
    memcpy(info.outputs, op->outputs, sizeof info.outputs);
    for (unsigned i = BVT_N_OUT; i-- > 0;) {
        if (op->outputs[i] == BVT_NONE) continue;
        info.rows = m->values[op->outputs[i]].rows;
        info.cols = m->values[op->outputs[i]].cols;
    }
    return info;
}

bvt_value_info bvt_get_value(const bvt_model *m, uint32_t index) {
    static const char *const dtypes[] = {"?", "f32", "i32", "bits", "u64", "f64", "trits", "i16", "i8", "f16"};
    static const char *const storages[] = {"?", "const", "arena", "tile", "input", "output"};
    static const char *const layouts[] = {"?", "rows", "cols", "lanes16", "csa", "tbl2", "?", "quads", "lut"};
    static const char *const forms[] = {"as_is", "f16", "i8"};
    const bvt_rec_value *v = &m->values[index];
    return (bvt_value_info){
        .name = name_at(m, v->name),
        .dtype = dtypes[v->dtype],
        .storage = storages[v->storage],
        .layout = layouts[v->layout],
        .stored = forms[v->stored],
        .rows = v->rows,
        .cols = v->cols,
        .stride = v->stride,
        .offset = v->offset,
        .bytes = v->bytes,
    };
}

bvt_group_info bvt_get_group(const bvt_model *m, uint32_t index) {
    const bvt_rec_group *g = &m->groups[index];
    return (bvt_group_info){.first_op = g->first_op, .n_ops = g->n_ops, .rows = g->rows, .block = g->block};
}

bvt_section_info bvt_get_section(const bvt_model *m, uint32_t index) {
    const bvt_rec_section *s = &m->sections[index];
    return (bvt_section_info){
        .name = section_names[s->kind], .offset = s->offset, .bytes = s->bytes, .count = s->count, .crc = s->crc};
}

bvt_meta_info bvt_get_meta(const bvt_model *m, uint32_t index) {
    bvt_meta_info e = {0};
    uint64_t at = 4;
    for (uint32_t i = 0; i <= index; i++) next_meta(m, &at, &e);
    return e;
}

int bvt_find_meta(const bvt_model *m, const char *key, bvt_meta_info *out) {
    size_t n = strlen(key);
    uint64_t at = 4;
    for (uint32_t i = 0; i < m->n_meta; i++) {
        bvt_meta_info e;
        next_meta(m, &at, &e);
        if (e.key_bytes != n || memcmp(e.key, key, n)) continue;
        *out = e;
        return 1;
    }
    return 0;
}

bvt_preprocess_info bvt_get_preprocess(const bvt_model *m) {
    static const char *const colours[] = {"gray", "rgb", "bgr"};
    static const char *const resizes[] = {"stretch", "short_crop"};
    static const char *const filters[] = {"bilinear", "bicubic", "nearest"};
    const bvt_rec_preprocess *p = m->preprocess;
    if (!p) return (bvt_preprocess_info){.colour = "", .resize = "", .filter = ""};
    bvt_preprocess_info info = {
        .present = 1,
        .width = p->width,
        .height = p->height,
        .channels = p->channels,
        .colour = colours[p->colour],
        .resize = resizes[p->resize],
        .filter = filters[p->filter],
        .resize_short = p->resize_short,
    };
    memcpy(info.mean, p->mean, sizeof info.mean);
    memcpy(info.std, p->std, sizeof info.std);
    return info;
}

const char *bvt_get_label(const bvt_model *m, uint32_t label) { return m->labels[label]; }

void bvt_golden_input(const bvt_model *m, uint32_t index, float *input) {
    const bvt_rec_golden *g = &golden_records(m)[index];
    const bvt_rec_value *v = &m->values[m->input];
    if (g->kind == BVT_GOLDEN_GENERATED) bvt_generate(g->seed, v->rows, v->cols, input);
    else memcpy(input, m->golden[index], (size_t)elements(v) * sizeof *input);
}

const float *bvt_golden_output(const bvt_model *m, uint32_t index) {
    const bool stored = golden_records(m)[index].kind == BVT_GOLDEN_STORED;
    return m->golden[index] + (stored ? elements(&m->values[m->input]) : 0);
}

const char *bvt_version(void) { return BVT_RUNTIME_VERSION; }

uint32_t bvt_format_version(void) { return BVT_VERSION; }
