"""The numerics contract: same artifact, same input -> the same bits, on every ISA, kernel set and number of threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bvtdeploy.artifact.preprocess import apply
from bvtdeploy.artifact.reader import read, to_graph
from bvtdeploy.device import RunOptions, open_device
from bvtdeploy.host import Session, isas
from bvtdeploy.ir.interp import run as interpret

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
IMAGES = 12


@pytest.fixture(scope="module")
def inputs(artifact: Path) -> npt.NDArray[np.float32]:
    """Real images, as the network sees them: f32[n, C*H, W]."""
    process = read(artifact).preprocess
    assert process is not None
    with np.load(EXAMPLES / "data" / "fashion_test.npz") as data:
        pixels = data["images"][:IMAGES]
    return np.stack([apply(process, p).reshape(-1, process.width) for p in pixels])


@pytest.fixture(scope="module")
def reference(artifact: Path, inputs: npt.NDArray[np.float32]) -> bytes:
    """What the numpy interpreter computes from the artifact alone."""
    graph = to_graph(read(artifact))
    name = graph.inputs[0].name
    return b"".join(interpret(graph, {name: x})[0].tobytes() for x in inputs)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("isa", isas())
def test_host(artifact: Path, inputs: npt.NDArray[np.float32], reference: bytes, isa: str, threads: int) -> None:
    assert Session(artifact, isa=isa, threads=threads).run(inputs).tobytes() == reference


@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_emulated_arm(artifact: Path, inputs: npt.NDArray[np.float32], reference: bytes, emulator: str, cpu: str) -> None:
    with open_device(f"qemu:{cpu}") as device:
        for isa in ("ref", "neon"):
            for threads in (1, 2, 4):
                run = device.run_model(artifact, inputs, RunOptions(isa=isa, threads=threads, golden=True))
                assert (run.isa, run.threads) == (isa, threads)
                assert run.outputs.tobytes() == reference, f"{isa}, {threads} threads"
                assert run.golden_equal == run.golden_checked > 0


def test_every_op_equals_the_interpreter(artifact: Path, inputs: npt.NDArray[np.float32], emulator: str) -> None:
    """Not only the logits: the checksum of every value that an op writes."""
    import zlib

    from bvtdeploy.lower.pack import logical_bytes

    graph = to_graph(read(artifact))
    expected: dict[str, int] = {}

    def observe(op, results) -> None:  # type: ignore[no-untyped-def]
        expected.update(
            (v.name, zlib.crc32(logical_bytes(a, v.type.packed, v.type.alphabet))) for v, a in zip(op.outputs, results, strict=True)
        )

    interpret(graph, {graph.inputs[0].name: inputs[0]}, observe)
    session = Session(artifact, op_crc=True)
    session.run(inputs[0])
    assert session.crcs() == {name: [crc] for name, crc in expected.items()}
    with open_device("qemu:cortex-a72") as device:
        assert device.op_crcs(artifact, inputs[:1]) == {name: [crc] for name, crc in expected.items()}
