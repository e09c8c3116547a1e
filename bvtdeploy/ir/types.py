"""Types of IR values: element kind, alphabet of codes, shape, packed axis."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

# How numpy holds each element kind; `bits` as their code values.
DTYPES: Final[dict[str, type[np.generic[Any]]]] = {
    "f32": np.float32,
    "f16": np.float16,
    "i32": np.int32,
    "bits": np.int8,
    "i8": np.int8,
    "u64": np.uint64,
    "f64": np.float64,
    "bool": np.bool_,
}
ELEMS: Final = tuple(DTYPES)
BIPOLAR: Final = "{-1,+1}"
UNIPOLAR: Final = "{0,1}"
TERNARY: Final = "{-1,0,+1}"
ALPHABETS: Final = (BIPOLAR, UNIPOLAR, TERNARY)

_TEXT = re.compile(r"(?P<elem>[a-z]+[0-9]*)(?P<alphabet>\{[^}]*\})?\[(?P<shape>[0-9x]*)(?:; packed (?P<packed>\d+))?\]")


@dataclass(frozen=True)
class Type:
    """Type of a value, written `f32[64x128]` or `bits{-1,+1}[64x128; packed 1]`.

    Attributes:
        elem: one of `ELEMS`. `bits` are codes of an alphabet; numpy references hold them as int8 of the code values.
        shape: sizes; () is a scalar.
        alphabet: which codes a `bits` value takes ("" for every other element kind).
        packed: the axis along which a `bits` value is packed into bytes; None where it is not (or not yet) chosen.
    """

    elem: str
    shape: tuple[int, ...]
    alphabet: str = ""
    packed: int | None = None

    def __post_init__(self) -> None:
        if self.elem not in ELEMS:
            raise ValueError(f"unknown element kind {self.elem!r}")
        if (self.elem == "bits") != bool(self.alphabet):
            raise ValueError("exactly the bits types have an alphabet")
        if self.alphabet and self.alphabet not in ALPHABETS:
            raise ValueError(f"unknown alphabet {self.alphabet!r}")
        if any(n < 0 for n in self.shape):
            raise ValueError(f"negative size in {self.shape}")
        if self.packed is not None and (self.elem != "bits" or not 0 <= self.packed < len(self.shape)):
            raise ValueError("only an existing axis of a bits value can be packed")

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for s in self.shape:
            n *= s
        return n

    def __str__(self) -> str:
        packed = "" if self.packed is None else f"; packed {self.packed}"
        return f"{self.elem}{self.alphabet}[{'x'.join(map(str, self.shape))}{packed}]"

    @staticmethod
    def parse(text: str) -> Type:
        """The inverse of `str`. Raises ValueError on anything else."""
        m = _TEXT.fullmatch(text.strip())
        if not m:
            raise ValueError(f"not a type: {text!r}")
        shape = tuple(int(n) for n in m["shape"].split("x")) if m["shape"] else ()
        return Type(m["elem"], shape, m["alphabet"] or "", None if m["packed"] is None else int(m["packed"]))


def f32(*shape: int) -> Type:
    """An f32 tensor."""
    return Type("f32", shape)


def f16(*shape: int) -> Type:
    """An f16 tensor."""
    return Type("f16", shape)


def i32(*shape: int) -> Type:
    """An i32 tensor."""
    return Type("i32", shape)


def i8(*shape: int) -> Type:
    """An i8 tensor: a constant (weights of `dense_i8`)."""
    return Type("i8", shape)


def bits(*shape: int, alphabet: str = BIPOLAR, packed: int | None = None) -> Type:
    """A tensor of codes."""
    return Type("bits", shape, alphabet, packed)
