"""Running an artifact in this process, with the same C code that runs on a board.

session = Session("model.bvt")
logits = session.run(session.preprocess(read_image("shoe.png")))
print(session.labels[int(logits.argmax())])
"""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.errors import UserError
from bvtdeploy.lower.pack import unpack_trits

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
# The runtime's codes (bvt.h) as advice
_FIXES = {
    1: "check the path and that the file can be read",
    2: "compile the model again; if the file was copied, copy it in binary mode and compare the hashes",
    3: "use fewer threads, or free memory",
    5: "take isa 'auto', or one that `bvtdeploy doctor` lists",
}


def _native() -> Any:
    try:
        from bvtdeploy.host import _runtime
    except ImportError as error:
        raise UserError(
            "the compiled part of bvtdeploy is not there",
            where="bvtdeploy.host._runtime",
            why=str(error),
            fix="install the package (pip install .); that needs C and C++ compilers: apt-get install build-essential python3-dev",
        ) from error
    return _runtime


def _user_error(error: Exception, where: str) -> UserError:
    code, text = error.args
    return UserError(str(text), where=where, fix=_FIXES.get(int(code), ""))


@dataclass(frozen=True)
class OpFacts:
    """One op of an artifact. `outputs` are indices into `Session.values`."""

    name: str
    kind: str
    module: str
    macs_binary: int
    macs_float: int
    group: int
    rows: int
    cols: int
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class ValueFacts:
    """One value of an artifact."""

    name: str
    dtype: str
    storage: str
    layout: str
    stored: str
    rows: int
    cols: int
    bytes: int


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become the network's input."""

    width: int
    height: int
    channels: int
    colour: str
    resize: str
    filter: str
    resize_short: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Session:
    """An artifact that is ready to run here.

    Args:
        source: path of the `.bvt` file, or its bytes.
        threads: how many threads compute; the result does not depend on it.
        isa: "auto" (the best of this CPU), "ref" (portable kernels), or a name of `isas()`.
        profile: count the time of every op (`op_times`).
        op_crc: checksum the outputs of every op (`crcs`); one thread only.
        capture: keep the outputs of every op (`op_outputs`); one thread only.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes,
        threads: int = 1,
        isa: str = "auto",
        *,
        profile: bool = False,
        op_crc: bool = False,
        capture: bool = False,
    ) -> None:
        native = _native()
        self._where = "the artifact in memory" if isinstance(source, bytes) else str(source)
        self._failure: type[Exception] = native.Failure
        if threads < 1:
            raise UserError(f"{threads} threads cannot run a model", where=self._where, fix="give 1 or more")
        try:
            if isinstance(source, bytes):
                self._model = native.Model(source, False)
            else:
                self._model = native.Model(os.fsencode(source), True)
            self._session = native.Session(self._model, threads, isa, profile, op_crc, capture)
        except native.Failure as error:
            raise _user_error(error, self._where) from error
        facts = self._model.facts()
        self.input_shape: tuple[int, int] = facts["input_shape"]
        self.output_shape: tuple[int, int] = facts["output_shape"]
        self.arena_bytes: int = facts["arena_bytes"]
        self.macs_binary: int = facts["macs_binary"]
        self.macs_float: int = facts["macs_float"]
        self._n_golden: int = facts["n_golden"]

    def run(self, inputs: npt.ArrayLike) -> Floats:
        """The model's output for one input, or for a batch.

        Args:
            inputs: floats of one input in any shape of the right size, or a batch of such along a first axis.

        Returns:
            float32 [rows, cols] of the output; of a batch, one such after the other along a first axis.
        """
        array = np.ascontiguousarray(inputs, dtype=np.float32)
        size = self.input_shape[0] * self.input_shape[1]
        if array.size == size:
            return self._run_one(array)
        if array.ndim > 1 and len(array) and array[0].size == size:
            return np.stack([self._run_one(one) for one in array])
        shape = "x".join(map(str, array.shape))
        raise UserError(
            f"the input is {shape}, the model takes {self.input_shape[0]} x {self.input_shape[1]} values",
            where=self._where,
            fix="an image is channels x height x width, already preprocessed (Session.preprocess does that)",
        )

    def _run_one(self, array: Floats) -> Floats:
        try:
            out: Floats = self._session.run(array)
        except self._failure as error:
            raise _user_error(error, self._where) from error
        return out

    def preprocess(self, pixels: Pixels) -> Floats:
        """Turn 8-bit pixels (height x width, or height x width x 1, 3 or 4) into the model's input, as the artifact says."""
        array = np.ascontiguousarray(pixels)
        if array.dtype != np.uint8 or array.ndim not in (2, 3):
            raise UserError(
                f"pixels must be uint8, height x width x channels; they are {array.dtype} with {array.ndim} axes", where=self._where
            )
        try:
            out: Floats = self._model.preprocess(array[:, :, None] if array.ndim == 2 else array)
        except self._failure as error:
            raise _user_error(error, self._where) from error
        return out

    @cached_property
    def golden(self) -> list[tuple[Floats, Floats]]:
        """Inputs and the outputs that the compiler's interpreter computed for them."""
        return [self._model.golden(i) for i in range(self._n_golden)]

    @cached_property
    def labels(self) -> list[str]:
        """Class names; empty where the artifact has none."""
        return list(self._model.labels())

    @cached_property
    def ops(self) -> list[OpFacts]:
        """The ops in the order in which they run."""
        return [OpFacts(**{**op, "outputs": tuple(o for o in op["outputs"] if o is not None)}) for op in self._model.ops()]

    @cached_property
    def values(self) -> list[ValueFacts]:
        """The values that ops read and write."""
        return [ValueFacts(**value) for value in self._model.values()]

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """How pixels become the input; None where the artifact does not say."""
        facts = self._model.preprocessing()
        return None if facts is None else Preprocessing(**{**facts, "mean": tuple(facts["mean"]), "std": tuple(facts["std"])})

    @property
    def isa(self) -> str:
        """The instruction set that the kernels use."""
        return str(self._session.isa)

    @property
    def threads(self) -> int:
        """The number of threads."""
        return int(self._session.threads)

    def crcs(self) -> dict[str, list[int]]:
        """After a run with `op_crc`: the CRC-32 of every value that an op wrote, by the value's name (a list: names may repeat)."""
        out: dict[str, list[int]] = {}
        for op, crcs in zip(self.ops, self._session.op_crcs(), strict=True):
            for value, crc in zip(op.outputs, crcs, strict=True):
                out.setdefault(self.values[value].name, []).append(crc)
        return out

    @property
    def op_outputs(self) -> dict[str, list[npt.NDArray[Any]]]:
        """After a run with `capture`: every output of every op, rows x cols. Packed bits come as uint8 zeros and ones,
        three codes as int8 of -1, 0, +1."""
        out: dict[str, list[npt.NDArray[Any]]] = {op.name: [] for op in self.ops}
        for index, which, data in sorted(self._session.captured()):
            op = self.ops[index]
            out[op.name].append(_unpack(data, self.values[self._model.ops()[index]["outputs"][which]]))
        return out

    @property
    def op_times(self) -> dict[str, int]:
        """With `profile`: nanoseconds of every op since the session began or `reset_times`, summed over the threads."""
        return {op.name: ns for op, ns in zip(self.ops, self._session.times()[0], strict=True)}

    def reset_times(self) -> None:
        """Begin counting again."""
        self._session.reset_times()


def _unpack(data: bytes, value: ValueFacts) -> npt.NDArray[Any]:
    """A captured value as rows x cols."""
    across = value.layout == "cols"
    lines, wide = (value.cols, value.rows) if across else (value.rows, value.cols)
    if value.dtype == "bits":
        packed = np.frombuffer(data, np.uint8).reshape(lines, -1)
        array: npt.NDArray[Any] = np.unpackbits(packed, axis=1, count=wide, bitorder="little")
    elif value.dtype == "trits":
        array = unpack_trits(np.frombuffer(data, np.uint8).reshape(lines, -1), wide)
    else:
        kinds = {"f32": np.float32, "f16": np.float16, "i32": np.int32, "i16": np.int16, "u64": np.uint64, "f64": np.float64}
        kind = kinds[value.dtype]
        array = np.frombuffer(data, kind).reshape(lines, wide)
        array = array.astype(np.int32) if value.dtype == "i16" else array  # as the graph says
    return array.T.copy() if across else array.copy()


def read_image(path: str | os.PathLike[str]) -> Pixels:
    """The pixels of an image file: height x width x 1 (gray) or 3 (RGB), uint8; an alpha channel is dropped.

    PNG, JPEG, BMP and PNM are decoded by `bvt_run`'s code, so that a board gets the same pixels; other formats by Pillow.
    """
    native = _native()
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            "there is no such image" if isinstance(error, FileNotFoundError) else "the image cannot be read",
            where=str(path),
            why=error.strerror or "",
            fix="check the path",
        ) from error
    decoded: Pixels | str = native.decode_image(data)
    return _pillow_pixels(data, str(path), decoded) if isinstance(decoded, str) else decoded


def _pillow_pixels(data: bytes, where: str, why: str) -> Pixels:
    """The formats that the runtime does not read; what Pillow cannot read either is refused with the runtime's reason."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                if image.format in ("PNG", "JPEG", "BMP", "PPM"):
                    raise UserError("the image is damaged", where=where, why=why)
                gray = image.mode in ("L", "1", "LA")
                pixels: Pixels = np.array(image.convert("L" if gray else "RGB"))
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        fix = "PNG, JPEG, BMP, PNM, GIF, WebP and TIFF can be read"
        raise UserError("the file is not an image that can be read", where=where, why=why, fix=fix) from error
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def isas() -> list[str]:
    """The instruction sets of this CPU that the runtime has kernels for, the best last."""
    return list(_native().isas())


def cpu_features() -> list[str]:
    """The features of this CPU that matter to the runtime."""
    return str(_native().cpu_features()).split()


def runtime_version() -> tuple[str, int, str]:
    """Version of the runtime, of the file format that it reads, and the hash of the sources that it was built from."""
    native = _native()
    return str(native.version()), int(native.format_version()), str(native.sources_hash)
