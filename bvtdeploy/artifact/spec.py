"""The `.bvt` format, in the one place that defines it.

Every record of the file is described here as data; `header()` writes `runtime_arm/src/bvt_format.h` from it
(`python -m bvtdeploy.artifact.spec > runtime_arm/src/bvt_format.h`; a test holds that the header is fresh).

A model in the file is a list of *op records* over *values*. Every value is two-dimensional, `rows x cols` (tokens x channels,
channels last; an image of C channels is C*H rows of W columns). Values live in the file itself (constants, already in the
layout that the kernels read), in the session's arena, in a thread's tile memory, or in the caller's input and output buffers.

Ops are executed in *groups*. The ops of a group share one row space of `rows` rows, which is cut into blocks of `block` rows; a
thread runs all ops of the group over one block before it takes the next, so values that only live inside the group (storage
`TILE`) never leave the cache. Between groups there is a barrier. Results do not depend on the blocks or on the threads.

Real parameters may be stored in fewer bytes than they are computed with (STORED): the reader widens them once, to the f32 that
all executors read. A golden input is in the file, or is made from a seed by the same function everywhere (artifact/golden.py).

Numbers are little-endian. Section offsets are multiples of 64 and gaps are zero. Each section has a CRC-32 (zlib's).
Adding an opcode: append it to `OPCODES` (never reorder), and add its op under `bvtdeploy/ops/` and `runtime_arm/src/ops/`.
"""

from __future__ import annotations

from typing import Final

MAGIC: Final = b"\x89BVT\r\n\x1a\n"
VERSION: Final = 7
ALIGN: Final = 64
NONE: Final = 0xFFFFFFFF  # "no value" in an op record

N_IN, N_OUT, N_ATTR, N_FATTR = 20, 6, 24, 4

# name -> (struct code, count). The order is the order in the file; there is no implicit padding (checked below).
Fields = tuple[tuple[str, str, int, str], ...]

HEADER: Final[Fields] = (
    ("magic", "B", 8, "89 42 56 54 0D 0A 1A 0A, so that a text-mode transfer shows"),
    ("version", "I", 1, "format version; a reader takes its own version only"),
    ("header_bytes", "I", 1, "64"),
    ("file_bytes", "Q", 1, "size of the whole file, a multiple of 64"),
    ("n_sections", "I", 1, "entries of the section table, which follows the header"),
    ("table_crc", "I", 1, "CRC-32 of the section table"),
    ("arena_bytes", "Q", 1, "memory shared by all threads"),
    ("tile_bytes", "Q", 1, "memory of each thread (tile values, then op scratch)"),
    ("widened_bytes", "Q", 1, "memory of a model for its constants that are stored as F16 or I8; 0 where there is none"),
    ("flags", "I", 1, "0"),
    ("header_crc", "I", 1, "CRC-32 of the 60 bytes before"),
)
SECTION: Final[Fields] = (
    ("kind", "I", 1, "SECTIONS"),
    ("crc", "I", 1, "CRC-32 of the section's bytes"),
    ("offset", "Q", 1, "from the start of the file, a multiple of 64"),
    ("bytes", "Q", 1, "size without padding"),
    ("count", "I", 1, "records in it; 0 where the section is not a table"),
    ("reserved", "I", 1, "0"),
)
VALUE: Final[Fields] = (
    ("name", "I", 1, "offset of a NUL-terminated string in NAMES"),
    ("dtype", "B", 1, "DTYPES"),
    ("storage", "B", 1, "STORAGES"),
    ("layout", "B", 1, "LAYOUTS"),
    ("stored", "B", 1, "STORED; of everything but f32 constants AS_IS"),
    ("rows", "I", 1, ""),
    ("cols", "I", 1, ""),
    ("stride", "I", 1, "bytes from a row to the next (ROWS), a column to the next (COLS), a tile to the next (weights)"),
    ("reserved", "I", 1, "0"),
    ("offset", "Q", 1, "in CONSTANTS, the arena or the tile memory; 0 for INPUT and OUTPUT"),
    ("bytes", "Q", 1, "whole size; of a TILE value: of one block; of F16 and I8: of the stored form"),
    ("widened", "Q", 1, "of F16 and I8: offset in the widened memory, where the f32 are dense; else 0"),
    ("reserved2", "Q", 2, "0"),
)
OP: Final[Fields] = (
    ("opcode", "I", 1, "OPCODES"),
    ("name", "I", 1, "the op's name, in NAMES"),
    ("module", "I", 1, "the source module that it came from, in NAMES"),
    ("scratch", "I", 1, "bytes of tile memory that the kernel may use while it runs, at the end of tile_bytes"),
    ("macs_binary", "Q", 1, "binary multiply-accumulates of one inference"),
    ("macs_float", "Q", 1, "the same in floating point, and of dense_i8"),
    ("inputs", "I", N_IN, "value indices or NONE"),
    ("outputs", "I", N_OUT, "value indices or NONE"),
    ("attr", "i", N_ATTR, "meaning: the op's file"),
    ("fattr", "f", N_FATTR, "likewise"),
    ("reserved", "I", 2, "0"),
)
GROUP: Final[Fields] = (
    ("first_op", "I", 1, "groups partition the op list in order"),
    ("n_ops", "I", 1, ""),
    ("rows", "I", 1, "row space: every op's outputs have this many rows"),
    ("block", "I", 1, "rows of a block; a multiple of 8, or all rows"),
    ("reserved", "I", 4, "0"),
)
GOLDEN: Final[Fields] = (
    ("kind", "I", 1, "GOLDENS"),
    ("reserved", "I", 1, "0"),
    ("seed", "Q", 1, "of a GENERATED input (artifact/golden.py); 0 of a STORED one"),
)
PREPROCESS: Final[Fields] = (
    ("width", "I", 1, "network input"),
    ("height", "I", 1, ""),
    ("channels", "I", 1, "1 or 3"),
    ("colour", "I", 1, "COLOURS"),
    ("resize", "I", 1, "RESIZES"),
    ("resize_short", "I", 1, "SHORT_CROP: the shorter side becomes this before the centre crop; else 0"),
    ("filter", "I", 1, "FILTERS"),
    ("reserved", "I", 1, "0"),
    ("mean", "f", 4, "per channel, of pixel/255"),
    ("std", "f", 4, "per channel, of pixel/255"),
)

STRUCTS: Final = {
    "header": (HEADER, 64),
    "section": (SECTION, 32),
    "value": (VALUE, 64),
    "op": (OP, 256),
    "group": (GROUP, 32),
    "golden": (GOLDEN, 16),
    "preprocess": (PREPROCESS, 64),
}

SECTIONS: Final = {
    "META": 1,        # typed key-values: u32 count, then count x {u32 key bytes, key, u32 type, u32 value bytes, value}, no padding
    "VALUES": 2,      # value records
    "OPS": 3,         # op records
    "GROUPS": 4,      # group records
    "CONSTANTS": 5,   # constant data, each value 64-byte aligned
    "NAMES": 6,       # NUL-terminated UTF-8 strings; offset 0 is the empty string
    "GOLDEN": 7,      # count golden records, then of each in order: a STORED input (f32, rows*cols of the INPUT value), the output
    "LABELS": 8,      # class names: count NUL-terminated UTF-8 strings; may be absent
    "PREPROCESS": 9,  # one preprocess record; may be absent
}  # fmt: skip
META_TYPES: Final = {"U64": 1, "F64": 2, "STR": 3, "BYTES": 4}
DTYPES: Final = {"F32": 1, "I32": 2, "BITS": 3, "U64": 4, "F64": 5, "TRITS": 6, "I16": 7, "I8": 8, "F16": 9}
STORAGES: Final = {"CONST": 1, "ARENA": 2, "TILE": 3, "INPUT": 4, "OUTPUT": 5}
# I16 are i32 of the graph that fit: dots that cannot be beyond +-32766 (ops/dots.py). Only results. I8: weights of dense_i8.
# F16 is IEEE 754 binary16, layout ROWS: what element-wise ops compute with after `compile --elementwise fp16` (passes/half.py).
# TRITS are codes -1, 0, +1 in two planes of bits: plane 1 has the bits of the codes +1, plane 2 those of the codes that are not 0.
LAYOUTS: Final = {
    "ROWS": 1,     # row after row; of BITS: column c of a row is bit c%8 of byte c/8, the row's last bytes zeros up to the stride;
                   # of TRITS: plane 1 as BITS in P = align8(ceil(cols/8)) bytes, then plane 2; the stride is 2*P
    "COLS": 2,     # BITS and TRITS only: column after column; row r of a column is bit r%8 of byte r/8, zero-padded to the stride;
                   # of TRITS: two planes of P = align8(ceil(rows/8)) bytes, the stride is 2*P
    # Of weights (BITS constants of +-1; rows = output channels): tiles of 8 to 64 channels, `stride` bytes apart. Channels and
    # columns that are not there count as zero bits. runtime_arm/KERNELS.md says what each is for.
    "LANES16": 3,  # [ceil(rows/16)] tiles of [ceil(cols/8)] steps of 16 bytes: byte lane = channel, bit b of step s = column 8*s+b
    "CSA": 4,      # [ceil(rows/32)] tiles of [ceil(cols/16)*2] steps of 32 bytes: byte lane = channel; the XOR of the bytes that
                   # LANES16 has in steps 60*(s/60) .. s; where s%4 is 1, complemented
    "TBL2": 5,     # [ceil(rows/64)] tiles of [ceil(cols/5)] groups of 64 bytes: byte lane = channel, bit b = column 5*group+b
    "LUT": 8,      # [ceil(rows/8)] tiles of steps of 64 bytes: a word of 64 bits of each of 8 channels. The G = ceil(cols/5) groups
                   # of 5 columns are cut into P = ceil(G/52) parts of 4*ceil(G/(4*P)) groups, the last one of what is left. A part
                   # of n groups begins, unless n%12 is 0, with its last n%12 as a word: n%3 of them from bit 0 on, the others up to
                   # bit 60; then come the rest, 12 groups a word from bit 0 on. (6 was an older layout of this name.)
    # Of weights of dense_i8 (I8 constants; rows = output channels), and of nothing else. What is not there is 0.
    "QUADS": 7,    # [ceil(rows/16)] tiles of [ceil(cols/8)*2] steps of 64 bytes: byte 4*c + j of step s = column 4*s+j of channel c
}  # fmt: skip
# How CONSTANTS holds an f32 constant. Everything but AS_IS is widened to dense f32 when a file is opened, value after value in the
# order of the table: each begins in the widened memory at the next multiple of 64, and in CONSTANTS behind the one before it.
STORED: Final = {
    "AS_IS": 0,    # as dtype and layout say
    "F16": 1,      # rows*cols IEEE 754 binary16, row after row
    "I8": 2,       # cols f32 scales, then rows*cols int8, row after row; an element is float(code) * scale[column] in fp32
}  # fmt: skip
GOLDENS: Final = {"STORED": 0, "GENERATED": 1}
COLOURS: Final = {"GRAY": 0, "RGB": 1, "BGR": 2}
RESIZES: Final = {"STRETCH": 0, "SHORT_CROP": 1}
FILTERS: Final = {"BILINEAR": 0, "BICUBIC": 1, "NEAREST": 2}

# Append only. The semantics of each is defined by its file in bvtdeploy/ops/ (numpy reference) and runtime_arm/src/ops/.
OPCODES: Final = {
    "patches": 1,           # image -> rows of flattened patches
    "dense": 2,             # f32 rows x f32 weights (+ bias)
    "bgemm": 3,             # +-1 or {-1,0,+1} rows x +-1 weights -> i16 dots; i32 beyond 32766 columns
    "epilogue": 4,          # scale/shift, residuals, RPReLU (knees), scale/shift, residuals -> f32, means of channels, bits, trits
    "row_patches": 5,       # rows on a grid, packed or f32 -> rows of k x k neighbourhoods
    "avg_pool": 6,          # f32 rows on a grid -> rows on the smaller grid
    "stencil": 7,           # per-channel taps on the grid
    "attention": 8,         # binary attention with a table softmax and an integer threshold a row -> i16, i32 or f32
    "mean_rows": 9,         # mean over the rows, or over groups of rows
    "channel_pool": 10,     # mean of consecutive channels
    "layer_norm_rows": 11,  # LayerNorm over the channels, or groups of channels
    "norm_sign": 12,        # LayerNorm -> sign bits
    "gather": 13,           # rows picked by a constant table
    "mixed_gemm": 14,       # f32 rows x +-1 weights
    "max_pool": 15,         # f32 rows on a grid -> rows on the smaller grid
    "activation": 16,       # GELU or clamp, elementwise
    "multiply": 17,         # elementwise product of two values
    "dense_i8": 18,         # f32 rows, quantised, x i8 weights -> f32
}  # fmt: skip

_C_TYPES = {"B": "uint8_t", "I": "uint32_t", "Q": "uint64_t", "i": "int32_t", "f": "float"}
_SIZES = {"B": 1, "I": 4, "Q": 8, "i": 4, "f": 4}


def struct_code(fields: Fields) -> str:
    """The `struct` module's format of a record."""
    return "<" + "".join(f"{n}{code}" if n > 1 else code for _, code, n, _ in fields)


def _check() -> None:
    for name, (fields, size) in STRUCTS.items():
        at = 0
        for field, code, n, _ in fields:
            assert at % _SIZES[code] == 0, f"{name}.{field} is misaligned"
            at += _SIZES[code] * n
        assert at == size, f"{name} has {at} bytes, not {size}"


_check()


def header() -> str:
    """The C header `bvt_format.h`: the format as structs, enums and a drawing."""
    out = [
        "/* The .bvt file format. Written by `python -m bvtdeploy.artifact.spec`: do not edit, change spec.py.",
        " *",
        " *   0                  64                 64 + 32*n          (64-aligned)",
        " *   +------------------+------------------+------------------+-----+------------------+",
        " *   | header           | section table    | section          | ... | section          |",
        " *   +------------------+------------------+------------------+-----+------------------+",
        " *   | magic version    | kind crc offset  | META VALUES OPS GROUPS CONSTANTS NAMES     |",
        " *   | sizes crc        | bytes count      | GOLDEN LABELS PREPROCESS, zero gaps        |",
        " *   +------------------+------------------+--------------------------------------------+",
        " */",
        "#ifndef BVT_FORMAT_H",
        "#define BVT_FORMAT_H",
        "#include <stdint.h>",
        "",
        f"#define BVT_VERSION {VERSION}u",
        f"#define BVT_ALIGN {ALIGN}u",
        f"#define BVT_NONE 0x{NONE:X}u",
        f"#define BVT_N_IN {N_IN}",
        f"#define BVT_N_OUT {N_OUT}",
        f"#define BVT_N_ATTR {N_ATTR}",
        f"#define BVT_N_FATTR {N_FATTR}",
        "static const uint8_t bvt_magic[8] = {" + ", ".join(f"0x{b:02X}" for b in MAGIC) + "};",
        "",
    ]
    enums = (
        ("SECTION", SECTIONS), ("META", META_TYPES), ("DTYPE", DTYPES), ("STORAGE", STORAGES), ("LAYOUT", LAYOUTS),
        ("STORED", STORED), ("GOLDEN", GOLDENS),
        ("COLOUR", COLOURS), ("RESIZE", RESIZES), ("FILTER", FILTERS), ("OP", OPCODES),
    )  # fmt: skip
    for prefix, members in enums:
        out.append("enum {")
        out += [f"    BVT_{prefix}_{name.upper()} = {value}," for name, value in members.items()]
        out += ["};", ""]
    # One list for everything that is per opcode: X(name, NAME)
    out.append("#define BVT_OPCODES(X) \\")
    out += [f"    X({name}, {name.upper()}) \\" for name in OPCODES]
    out[-1] = out[-1].removesuffix(" \\")
    out += [f"#define BVT_OPCODE_END {max(OPCODES.values()) + 1}", ""]
    for name, (fields, size) in STRUCTS.items():
        out.append("typedef struct {")
        for field, code, n, doc in fields:
            decl = f"    {_C_TYPES[code]} {field}{f'[{n}]' if n > 1 else ''};"
            out.append(f"{decl:<32}/* {doc} */" if doc else decl)
        out += [f"}} bvt_rec_{name};", f'_Static_assert(sizeof(bvt_rec_{name}) == {size}, "layout of {name}");', ""]
    out += ["#endif", ""]
    return "\n".join(out)


if __name__ == "__main__":
    print(header(), end="")
